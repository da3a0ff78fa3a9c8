package dispatcher

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// flaky is a registry that fails the first tries to register the schema of a topic.
type flaky struct {
	event.Registry
	subject string
	left    atomic.Int32
}

func (f *flaky) Register(ctx context.Context, subject, schema string) (int, error) {
	if subject == f.subject && f.left.Add(-1) >= 0 {
		return 0, errors.New("the registry is away")
	}
	return f.Registry.Register(ctx, subject, schema)
}

// A delivery that its retry tier refuses as too large ends in the dead letters, also when these don't take its bytes, and
// when their schema can't be had at once.
func TestADeliveryThatFitsNoTierIsADeadLetter(t *testing.T) {
	r := newRig(t, func(c *Config, topics []topic.Topic) {
		for i := range topics {
			switch topics[i].Name {
			case topic.RetryTier(c.RetrySchedule[0]), topic.DeadLetters:
				topics[i].MaxBytes = 3000
			}
		}
	})
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 503}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	registry := &flaky{Registry: r.registry, subject: topic.Subject(topic.DeadLetters)}
	registry.left.Store(2)
	r.run(Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(registry), Box: testBox(t)})
	d := r.deliver("sub_1", 1, func(d *event.Delivery) { d.Body = []byte(noise(10_000)) })[0]
	l := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 1)[0]
	if l.DeliveryID != d.ID || l.Reason != reasonTooLarge || l.SourceTopic != topic.Lane("standard") || l.SubscriptionID != "sub_1" || time.Since(l.DeadAt) > testPatience {
		t.Errorf("dead letter: %+v", l)
	}
	r.done()
}
