package kafka_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
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

// A leader that is not sure how far its followers are hands out nothing, which is not to say that there is nothing; one that
// refuses, or sends damaged bytes, is told from one that can't be reached.
func TestReaderTellsWhatIsNotHandedOut(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "log"))
	require.NoError(t, err)
	defer cluster.Close()
	cfg := kafka.Config{Brokers: cluster.ListenAddrs()}
	client, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer client.Close()
	for range 2 {
		require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "log", Value: []byte("x")}).FirstErr())
	}
	reader, err := kafka.NewReader(cfg, zap.NewNop())
	require.NoError(t, err)
	defer reader.Close()
	// answer has the leader give the next answer to one kind of request.
	answer := func(change func(p *kmsg.FetchResponseTopicPartition)) {
		cluster.ControlKey(kmsg.Fetch.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			fetch := req.(*kmsg.FetchRequest)
			resp := fetch.ResponseKind().(*kmsg.FetchResponse)
			topic, p := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
			topic.Topic, topic.TopicID = fetch.Topics[0].Topic, fetch.Topics[0].TopicID
			change(&p)
			topic.Partitions = append(topic.Partitions, p)
			resp.Topics = append(resp.Topics, topic)
			return resp, nil, true
		})
	}
	behind := func(p *kmsg.FetchResponseTopicPartition) { p.HighWatermark, p.LastStableOffset = 1, 1 }

	answer(behind)
	_, err = reader.Record(t.Context(), kafka.Place{Topic: "log", Offset: 1})
	require.NoError(t, err, "it comes when the leader is sure")
	answer(behind)
	cluster.ControlKey(kmsg.ListOffsets.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		list := req.(*kmsg.ListOffsetsRequest)
		resp := list.ResponseKind().(*kmsg.ListOffsetsResponse)
		topic, p := kmsg.NewListOffsetsResponseTopic(), kmsg.NewListOffsetsResponseTopicPartition()
		topic.Topic, p.ErrorCode = "log", kerr.OffsetNotAvailable.Code
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	_, err = reader.Record(t.Context(), kafka.Place{Topic: "log", Offset: 1})
	require.NoError(t, err, "nor is the end known while it isn't sure")
	_, err = reader.Record(t.Context(), kafka.Place{Topic: "log", Offset: 2})
	require.ErrorIs(t, err, kafka.ErrNoRecord)

	for _, change := range []func(p *kmsg.FetchResponseTopicPartition){
		func(p *kmsg.FetchResponseTopicPartition) { p.ErrorCode = kerr.TopicAuthorizationFailed.Code },
		func(p *kmsg.FetchResponseTopicPartition) {
			p.HighWatermark, p.LastStableOffset, p.RecordBatches = 2, 2, make([]byte, 100)
			p.RecordBatches[11], p.RecordBatches[16] = 88, 2
		},
	} {
		answer(change)
		_, err = reader.Record(t.Context(), kafka.Place{Topic: "log", Offset: 1})
		require.ErrorIs(t, err, kafka.ErrUnreadable)
	}
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
