package callstream

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// Topics that take part in one pipeline need the same number of partitions: had the empty ones changed, nothing could
// bring them back in step with the one that refused, and no service would start again.
func TestTopicsApplyChangesNothingWhereATopicRefuses(t *testing.T) {
	e, err := embedded.Start(t.Context(), embedded.Config{Log: zap.NewNop(), Compatible: event.Compatible})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	args := []string{"topics", "apply", "--kafka-brokers", e.KafkaAddr(), "--schema-registry-url", e.RegistryURL(), "--replication-factor", "1", "--partitions"}
	require.NoError(t, command(t, append(args, "4")...).err)

	client, err := kgo.NewClient(kgo.SeedBrokers(e.KafkaAddr()))
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Decisions, Value: []byte("x")}).FirstErr())
	require.ErrorIs(t, command(t, append(args, "6")...).err, kafka.ErrPartitionsFixed)

	details, err := kadm.NewClient(client).ListTopics(t.Context())
	require.NoError(t, err)
	for _, declared := range topic.All(topic.Policy{Partitions: 4}) {
		require.Len(t, details[declared.Name].Partitions, declared.Partitions, declared.Name)
	}
	require.NoError(t, command(t, append(args, "4")...).err)
}
