package dispatcher

import (
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A delivery that brokers refuse for good on its way to a retry tier is a dead letter; an attempt that they refuse is
// written when they no longer do, and until then readiness says why its delivery is not done.
func TestADeliveryThatBrokersRefuseIsADeadLetter(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	registry, err := embedded.StartRegistry(t.Context(), embedded.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	r := newRigOn(t, kafkatest.Target{Brokers: cluster.ListenAddrs(), RegistryURL: registry.RegistryURL()}, nil)
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 503}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	refuse := func(name string) *kfake.FaultHandle {
		return cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: name, Err: kerr.PolicyViolation, Count: -1})
	}
	refuse(topic.RetryTier(r.cfg.RetrySchedule[0]))
	attempts := refuse(topic.Attempts)
	run := r.start()

	d := r.deliver("sub_1", 1, nil)[0]
	l := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 1)[0]
	if l.DeliveryID != d.ID || l.Reason != reasonRefused || l.SourceTopic != topic.Lane("standard") || len(l.OriginalValue) == 0 {
		t.Errorf("dead letter: %+v", l)
	}
	until(t, "readiness names the topic of the attempts", func() bool {
		err := run.Ready()
		return err != nil && strings.Contains(err.Error(), topic.Attempts) && strings.Contains(err.Error(), kerr.PolicyViolation.Message)
	})
	attempts.Remove()
	decoded[event.Attempt](r, r.read(topic.Attempts), 1)
	r.done()
}

// A retry tier with too few partitions is told of: what belongs to those that are missing waits for them.
func TestARetryTierWithTooFewPartitionsIsNamed(t *testing.T) {
	var tier string
	r := newRig(t, func(c *Config, topics []topic.Topic) {
		c.DrainTimeout = time.Millisecond // nothing of it can be finished
		for i := range topics {
			if topics[i].Name == topic.RetryTier(c.RetrySchedule[0]) {
				tier, topics[i].Partitions = topics[i].Name, 1
			}
		}
	})
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 503}))
	sub := "sub_1"
	for topic.PartitionFor(sub, "c-1", 1, r.partitions) != 1 {
		sub += "1"
	}
	r.feed(subscribed(t, sub, hook.URL(), nil))
	run := r.start()
	r.deliver(sub, 1, nil)
	until(t, "readiness names the partition", func() bool {
		err := run.Ready()
		return err != nil && strings.Contains(err.Error(), tier+"/1")
	})
}
