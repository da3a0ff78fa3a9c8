package kafka

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// A broker that has just heard of a topic may describe it without partitions, or as unknown. Neither is a count to mend.
func TestEnsureTopicsWaitsUntilBrokersKnow(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "feed"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DisableClientMetrics())
	require.NoError(t, err)
	t.Cleanup(client.Close)
	specs := []TopicSpec{{Name: "feed", Partitions: 3, Retention: time.Hour}}
	_, err = EnsureTopics(t.Context(), client, specs, zap.NewNop(), TopicOptions{})
	require.NoError(t, err)

	early := 0
	cluster.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		m := req.(*kmsg.MetadataRequest)
		if early++; early > 4 || len(m.Topics) != 1 {
			return nil, nil, false
		}
		resp := m.ResponseKind().(*kmsg.MetadataResponse)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = kmsg.StringPtr("feed")
		if early > 2 { // the second look, at topics that are known to exist
			topic.ErrorCode = kerr.LeaderNotAvailable.Code
		}
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	report, err := EnsureTopics(t.Context(), client, specs, zap.NewNop(), TopicOptions{})
	require.NoError(t, err)
	require.Equal(t, 1, report.Unchanged)
	require.Greater(t, early, 4)
}
