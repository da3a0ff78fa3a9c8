package producer_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/producer"
)

// mute is a registry that says of no id what it stands for.
type mute struct {
	event.Registry
	once  sync.Once
	asked chan struct{}
}

func (m *mute) SchemaByID(context.Context, int) (string, error) {
	m.once.Do(func() { close(m.asked) })
	return "", errors.New("the registry is away")
}

// A key whose schema the registry can't be asked for is waited for, but not by the end.
func TestTheEndDoesNotWaitForAKey(t *testing.T) {
	target := kafkatest.Cluster(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(target.Brokers...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	createTopics(t, client)
	registry, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{target.RegistryURL}})
	require.NoError(t, err)
	away := &mute{Registry: registry, asked: make(chan struct{})}
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Keys, Key: []byte("key_1"), Value: []byte{0, 0, 0, 0, 99, 1}}).FirstErr())
	cfg := settings(t, target.Brokers)
	cfg.Auth = "keys"
	service, err := producer.New(cfg, producer.Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(away)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	<-away.asked
	stop()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(patience / 4):
		t.Error("the end waits for the registry")
	}
}
