//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// P-18: a clock that steps. What others see of it are records whose stamps are an hour, or some seconds, off; they are
// written as a dispatcher with that clock would have parked them. Nothing behind them is held up; those of the clock that is behind are
// sent at once, those that are some seconds ahead by their time, and those an hour ahead are parked again, not lost.
func TestClockSteps(t *testing.T) {
	w := newWorld(t, nil, 1)
	registry, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{w.registry.RegistryURL()}})
	require.NoError(t, err)
	codec := event.NewCodec(registry)
	tier := 500 * time.Millisecond
	client, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer client.Close()
	subscription := w.subscriptions["/good"]
	park := func(name string, off time.Duration) {
		stamp := time.Now().Add(off)
		for n := range 20 {
			d := &event.Delivery{
				ID: fmt.Sprintf("msg_%s-%d", name, n), Tenant: "default", SubscriptionID: subscription, SubscriptionVersion: 1,
				EventID: fmt.Sprintf("%s-%d", name, n), EventType: "call.ended", Source: "chaos", CallID: "c-1", EventTime: stamp, AcceptedAt: time.Now(),
				ContentType: "application/json", Method: "POST", Body: []byte("{}"), Lane: topic.DefaultLane, EventTopic: topic.CallsEvents,
			}
			value, err := codec.Encode(t.Context(), nil, d)
			require.NoError(t, err)
			require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{
				Topic: topic.RetryTier(tier), Partition: topic.PartitionFor(subscription, "", 1, partitions), Key: []byte(subscription), Value: value,
				Headers: append(kafka.EventHeaders(d.EventType, d.EventID, d.Source, d.Tenant, ""),
					kafka.StringHeader(kafka.HeaderSubscription, subscription), kafka.IntHeader(kafka.HeaderSubscriptionVersion, 1),
					kafka.StringHeader(kafka.HeaderDelivery, d.ID), kafka.IntHeader(kafka.HeaderAcceptedAt, d.AcceptedAt.UnixMicro()),
					kafka.IntHeader(kafka.HeaderAttempt, 1), kafka.IntHeader(kafka.HeaderEnqueued, stamp.UnixMilli()),
					kafka.IntHeader(kafka.HeaderDue, stamp.Add(tier).UnixMilli()), kafka.StringHeader(kafka.HeaderTier, tier.String())),
			}).FirstErr())
		}
	}
	stop := w.flowing(4)
	defer stop()
	w.progress("events flow", 100)
	park("ahead", time.Hour)
	park("soon", 10*time.Second)
	park("behind", -time.Hour)
	arrivals := func(name string) (n int) {
		for _, r := range w.hook.Requests() {
			for i := range 20 {
				if r.Header.Get("X-Event-Id") == fmt.Sprintf("%s-%d", name, i) {
					n++
				}
			}
		}
		return n
	}
	eventually(t, "what a clock behind had parked is sent", func() error {
		if n := arrivals("behind"); n < 20 {
			return fmt.Errorf("%d of 20", n)
		}
		return nil
	})
	eventually(t, "what a clock some seconds ahead had parked is sent", func() error {
		if n := arrivals("soon"); n < 20 {
			return fmt.Errorf("%d of 20", n)
		}
		return nil
	})
	w.progress("events flow, retries as well", 200)
	stop()
	w.report("a clock that steps")
	require.Zero(t, arrivals("ahead"))
	parkedAgain(t, w.brokers, "msg_ahead-", 20)
}

var errNotParked = errors.New("not parked again")

// parkedAgain waits until so many deliveries whose ids begin so are in the slowest tier, where the wait for what is an hour
// ahead costs the least.
func parkedAgain(t *testing.T, brokers []string, prefix string, want int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics(),
		kgo.ConsumeTopics(topic.RetryTier(5*time.Second)), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	found := map[string]bool{}
	eventually(t, "they are parked again", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if id := kafka.Header(r, kafka.HeaderDelivery); len(id) > len(prefix) && id[:len(prefix)] == prefix {
				found[id] = true
			}
		})
		if len(found) < want {
			return fmt.Errorf("%d of %d: %w", len(found), want, errNotParked)
		}
		return nil
	})
}
