package kafka_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
)

// Records come from their places, whatever the order they are asked in; what is not there says why.
func TestReaderReadsByPlace(t *testing.T) {
	target := kafkatest.Cluster(t)
	cfg := kafka.Config{Brokers: target.Brokers}
	client, err := kgo.NewClient(kgo.SeedBrokers(target.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	_, err = admin.CreateTopic(t.Context(), 2, 1, nil, "log")
	require.NoError(t, err)
	write := func(n, from int, size int) {
		t.Helper()
		for i := range n {
			require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "log", Partition: int32((from + i) % 2), Value: fmt.Appendf(make([]byte, 0, size+8), "%0*d", size, from+i)}).FirstErr())
		}
	}
	write(20, 0, 10)
	write(2, 20, 400_000) // batches larger than what one request asks for

	reader, err := kafka.NewReader(cfg, zap.NewNop())
	require.NoError(t, err)
	defer reader.Close()
	at := func(partition int32, offset int64) kafka.Place {
		return kafka.Place{Topic: "log", Partition: partition, Offset: offset}
	}
	places := []kafka.Place{at(1, 3), at(0, 10), at(0, 2), at(1, 11), at(1, 3), at(1, 10), {Topic: "nowhere"}, at(7, 0), at(0, 1), at(0, 99)}
	got, errs := make([]string, len(places)), make([]error, len(places))
	calls := 0
	reader.Records(t.Context(), places, func(i int, r *kgo.Record, err error) {
		calls++
		if errs[i] = err; err == nil {
			require.Equal(t, places[i], kafka.Place{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset})
			got[i] = string(r.Value[len(r.Value)-4:])
		}
	})
	require.Equal(t, len(places), calls)
	require.Equal(t, []string{"0007", "0020", "0004", "", "0007", "0021", "", "", "0002", ""}, got)
	for i, want := range map[int]error{3: kafka.ErrNoRecord, 6: kafka.ErrGone, 7: kafka.ErrGone, 9: kafka.ErrNoRecord} {
		require.ErrorIs(t, errs[i], want, places[i])
	}

	var from kadm.Offsets
	from.AddOffset("log", 0, 5, -1)
	_, err = admin.DeleteRecords(t.Context(), from)
	require.NoError(t, err)
	_, err = reader.Record(t.Context(), at(0, 4))
	require.ErrorIs(t, err, kafka.ErrGone)
	record, err := reader.Record(t.Context(), at(0, 5))
	require.NoError(t, err)
	require.Equal(t, "0000000010", string(record.Value))
}

// What a transaction took back was never written, and its markers are no records.
func TestReaderReadsWhatWasCommitted(t *testing.T) {
	target := kafkatest.Cluster(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(target.Brokers...), kgo.TransactionalID("writer"), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, nil, "log")
	require.NoError(t, err)
	for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		require.NoError(t, client.BeginTransaction())
		require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "log", Value: []byte("x")}).FirstErr())
		require.NoError(t, client.EndTransaction(t.Context(), end))
	}
	reader, err := kafka.NewReader(kafka.Config{Brokers: target.Brokers}, zap.NewNop())
	require.NoError(t, err)
	defer reader.Close()
	for offset, there := range []bool{false, false, true, false} {
		_, err := reader.Record(t.Context(), kafka.Place{Topic: "log", Offset: int64(offset)})
		if there {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, kafka.ErrNoRecord, "offset %d", offset)
		}
	}
}
