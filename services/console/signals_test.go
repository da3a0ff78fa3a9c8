package console

import (
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// A signal that can't be applied now is waited for, but not by the end.
func TestTheEndDoesNotWaitForASignal(t *testing.T) {
	target := kafkatest.Cluster(t)
	brokers := kafka.Config{Brokers: target.Brokers}
	producer, err := kafka.NewProducer(brokers, zap.NewNop())
	require.NoError(t, err)
	defer producer.Close()
	_, err = kafka.EnsureTopics(t.Context(), producer.Client(), []kafka.TopicSpec{
		{Name: topic.Subscriptions, Partitions: 1}, {Name: topic.Keys, Partitions: 1}, {Name: topic.Signals, Partitions: 1},
	}, zap.NewNop(), kafka.TopicOptions{})
	require.NoError(t, err)
	// The registry of the harness can't be asked for this schema.
	require.NoError(t, producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Signals, Value: []byte{0, 0, 0, 0, 99, 1}}))
	h := start(t, func(c *Config, d *Deps) { c.Kafka, d.log = brokers, nil })
	require.Eventually(t, func() bool { return strings.Contains(h.logs.String(), "a signal waits to be applied") }, 20*time.Second, 5*time.Millisecond)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.stop()
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the end waits for the signal")
		<-ended
	}
}
