package dispatcher

import (
	"strconv"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
	"go.uber.org/zap"
)

// A retry tier that was taken out of the schedule may still hold deliveries, and the filter writes to every lane that
// exists: both are read, or retention takes what they hold.
func TestTopicsThatAreNotConfiguredAreReadAsWell(t *testing.T) {
	r := newRig(t, func(c *Config, _ []topic.Topic) { c.RetrySchedule = []time.Duration{20 * time.Millisecond} })
	if _, err := kafka.EnsureTopics(t.Context(), r.client, []kafka.TopicSpec{{Name: topic.Lane("bulk"), Partitions: r.partitions}}, zap.NewNop(), kafka.TopicOptions{}); err != nil {
		t.Fatal(err)
	}
	hook := receiver(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	parked := r.record(r.delivery("sub_1", nil))
	parked.Topic = topic.RetryTier(60 * time.Millisecond) // of the topics, not of the schedule any more
	now := time.Now().UnixMilli()
	parked.Headers = append(parked.Headers, kafka.IntHeader(kafka.HeaderAttempt, 1), kafka.IntHeader(kafka.HeaderDue, now), kafka.IntHeader(kafka.HeaderEnqueued, now))
	other := r.record(r.delivery("sub_1", nil))
	other.Topic = topic.Lane("bulk")
	r.produce(parked, other)
	r.start()
	waitFor(t, hook, 2)
	attempts := map[string]int{}
	for _, got := range hook.Requests() {
		attempts[got.ID] = got.Attempt
	}
	if attempts["msg_sub_1_1"] != 2 || attempts["msg_sub_1_2"] != 1 {
		t.Errorf("attempts %v", attempts)
	}
}

// A record that a clock which was ahead stamped does not hold up its tier until that time has come.
func TestAClockThatWasAheadHoldsUpNoTier(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	for _, at := range []time.Time{time.Now().Add(10 * time.Minute), time.Now()} {
		parked := r.record(r.delivery("sub_1", nil))
		parked.Topic = topic.RetryTier(20 * time.Millisecond)
		parked.Headers = append(parked.Headers, kafka.IntHeader(kafka.HeaderAttempt, 1),
			kafka.IntHeader(kafka.HeaderDue, at.UnixMilli()), kafka.IntHeader(kafka.HeaderEnqueued, at.UnixMilli()))
		r.produce(parked)
	}
	r.start()
	waitFor(t, hook, 1)
	if got := hook.Requests()[0].ID; got != "msg_sub_1_2" {
		t.Errorf("%s was sent", got)
	}
}

func TestSourceOf(t *testing.T) {
	for name, want := range map[string]source{
		"deliveries.bulk": {kind: fromLane}, "deliveries.retry.2m": {fromTier, 2 * time.Minute}, "deliveries.retry.1500ms": {fromTier, 1500 * time.Millisecond},
	} {
		if got, ok := sourceOf(name); !ok || got != want {
			t.Errorf("%s: %v %s", name, got, strconv.FormatBool(ok))
		}
	}
	for _, name := range []string{
		topic.DeadLetters, topic.Decisions, topic.Attempts, topic.CallsEvents, "deliveries.", "deliveries.retry.", "deliveries.retry.x", "deliveries.retry.120s",
		"deliveries.retry.-5s", "deliveries.other.5s", "elsewhere",
	} {
		if got, ok := sourceOf(name); ok {
			t.Errorf("%s: %v", name, got)
		}
	}
}
