package kafka

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What brokers refuse is told as long as it lasts, with the partition and the reason, and forgotten when it is over.
func TestProducerTellsWhatIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, kfake.SeedTopics(2, "t", "other"))
		p, err := NewProducer(b.cfg, nil, b.dial, ManualPartitions(func(string) bool { return true }))
		require.NoError(t, err)
		defer p.Close()
		write := func(topic string, partition int32) error {
			return p.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: []byte("x")})
		}
		require.NoError(t, write("t", 0))
		require.NoError(t, p.Err())

		// A topic that has fewer partitions than the records name.
		require.Error(t, write("t", 2))
		require.ErrorContains(t, p.Err(), "no records of t/2 are taken since 2000-01-01T00:00:0")
		require.NoError(t, write("t", 1))
		require.Error(t, p.Err(), "another partition that works says nothing about this one")
		time.Sleep(31 * time.Second)
		require.NoError(t, p.Err())

		for refused, rejected := range map[*kerr.Error]bool{kerr.PolicyViolation: true, kerr.InvalidRecord: true,
			kerr.TopicAuthorizationFailed: false, kerr.InvalidTimestamp: false} {
			b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "other", Err: refused})
			err := write("other", 1)
			require.ErrorIs(t, err, ErrFatal)
			require.ErrorIs(t, err, refused)
			require.NotErrorIs(t, err, ErrTransient)
			require.Equal(t, rejected, errors.Is(err, ErrRejected))
			require.ErrorIs(t, p.Err(), refused)
			require.NoError(t, write("other", 1))
		}
		time.Sleep(31 * time.Second)

		// These say nothing about a partition.
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, p.ProduceSync(gone, &kgo.Record{Topic: "t"}))
		require.ErrorIs(t, p.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: make([]byte, MaxBatchBytes)}), ErrTooLarge)
		require.NoError(t, p.Err())
	})
}
