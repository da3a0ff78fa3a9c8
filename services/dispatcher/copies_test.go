package dispatcher

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"
)

// late makes the record of a delivery that was put aside: to be sent now, after as many attempts and parkings.
func (r *rig) late(d *event.Delivery, attempts, parked int, more ...kgo.RecordHeader) *kgo.Record {
	r.t.Helper()
	record := r.record(d)
	record.Topic = topic.RetryTier(r.cfg.RetrySchedule[0])
	record.Headers = append(record.Headers, kafka.IntHeader(kafka.HeaderAttempt, int64(attempts)), kafka.IntHeader(kafka.HeaderParked, int64(parked)),
		kafka.IntHeader(kafka.HeaderDue, time.Now().UnixMilli()), kafka.IntHeader(kafka.HeaderEnqueued, time.Now().UnixMilli()),
		kafka.StringHeader(kafka.HeaderOrigin, "deliveries.standard/0/7"))
	record.Headers = append(record.Headers, more...)
	return record
}

// A crash leaves copies of what was moved on: those that come after another took their step are not sent, and end. What is
// no copy is sent: another turn of the same event.
func TestCopiesOfARetryEnd(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Sequence(hooktest.Answer{Status: 503}, hooktest.Answer{Status: 200}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	s := r.start()
	d := r.delivery("sub_1", nil)
	r.produce(r.late(d, 1, 0))
	attempts := r.read(topic.Attempts)
	attempts.wait(2)
	r.done()

	r.produce(r.late(d, 1, 0), r.late(d, 1, 3), r.late(d, 2, 0), r.late(d, 0, 1))
	until(t, "the copies are passed over", func() bool { return s.metrics.outcomes[4].Load() == 4 })
	r.done()
	if hook.Total() != 2 {
		t.Errorf("%d requests for two attempts", hook.Total())
	}

	// Of the same event, with the same time of acceptance: produced once more, a day later, for one.
	again := r.late(d, 1, 0)
	kafka.SetHeader(again, kafka.StringHeader(kafka.HeaderOrigin, "deliveries.standard/0/8"))
	r.produce(again, r.late(d, 1, 0, kafka.StringHeader(kafka.HeaderRedrive, "rdr_1")))
	attempts.wait(4)
	r.done()
	if got := s.metrics.outcomes[4].Load(); got != 4 {
		t.Errorf("%d superseded", got)
	}
}

// A copy that comes while another one is being sent waits, and ends when that one has an outcome.
func TestACopyWaitsForTheOther(t *testing.T) {
	r := newRig(t, nil)
	release, open := gate(t)
	hook := receiver(t, func(*hooktest.Request) hooktest.Answer {
		<-release
		return hooktest.Answer{Status: 200}
	})
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	s := r.start()
	d := r.delivery("sub_1", nil)
	r.produce(r.late(d, 2, 0), r.late(d, 2, 0))
	until(t, "the copy is put aside", func() bool { return s.metrics.parked[copied].Load() == 1 })
	open()
	until(t, "it is passed over", func() bool { return s.metrics.outcomes[4].Load() == 1 })
	r.done()
	if hook.Total() != 1 {
		t.Errorf("%d requests", hook.Total())
	}
}

// While an endpoint is away, what waits for it goes round, and copies of it with it: they become one again.
func TestCopiesOfWhatIsParkedBecomeOne(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	s := r.start()
	d := r.delivery("sub_1", nil)
	sh := s.scheduler.shardOf(shardKey{subscription: "sub_1", partition: r.record(d).Partition}, limits{inFlight: 1})
	s.scheduler.mu.Lock()
	sh.breaker.open(time.Now(), 0)
	sh.breaker.until = time.Now().Add(time.Hour)
	s.scheduler.broken++
	s.scheduler.mu.Unlock()
	const copies = 20
	for range copies {
		r.produce(r.late(d, 1, 0))
	}
	until(t, "one is left", func() bool { return s.metrics.outcomes[4].Load() == copies-1 })
	s.scheduler.mu.Lock()
	sh.breaker.until = time.Now()
	s.scheduler.mu.Unlock()
	waitFor(t, hook, 1)
	r.done()
	if hook.Total() != 1 {
		t.Errorf("%d requests", hook.Total())
	}
}

// Whatever crashes, and however soon it is forgotten: a delivery that has not ended has a record that begins where the
// furthest one does. And what waits for a copy waits no longer than that is sent.
func TestNoCopyThatIsNeededEnds(t *testing.T) {
	const most = 8
	rapid.Check(t, func(t *rapid.T) {
		type record struct {
			delivery
			sent bool // it has the claim, and is sent or back in its queue
		}
		type world struct {
			live     []*record // whose offsets are not committed
			furthest step
			ended    bool
		}
		begin := func(n int, at step) *record {
			return &record{delivery: delivery{
				task: &kafka.Task{Record: &kgo.Record{Headers: []kgo.RecordHeader{kafka.StringHeader(kafka.HeaderDelivery, strconv.Itoa(n))}}},
				from: source{kind: fromSlow}, attempts: at.attempts, parked: at.parked,
			}}
		}
		worlds := make([]world, 2*most)
		for n := range worlds {
			worlds[n].live = []*record{begin(n, step{})}
		}
		start := func() *copies {
			c := newCopies()
			c.of.most = rapid.SampledFrom([]int{1, most, 4 * most}).Draw(t, "most")
			c.ours = func(*kafka.Task) bool { return true }
			return c
		}
		c := start()
		// turn does one thing with a record, as a worker would.
		turn := func(n int, r *record, follows string, crash bool) {
			w := &worlds[n]
			gone := func() { w.live = slices.DeleteFunc(w.live, func(other *record) bool { return other == r }) }
			overtaken, busy := c.claim(&r.delivery)
			switch {
			case overtaken:
				c.taken(r.task, step{})
				gone()
				return
			case busy:
				follows = "parked"
			default:
				r.sent = true
			}
			if follows == "queued again" {
				return
			}
			next := map[string]step{"parked": {r.attempts, r.parked + 1}, "attempted": {r.attempts + 1, 0}, "ended": ended}[follows]
			if next == ended {
				w.ended = true
			} else {
				w.live = append(w.live, begin(n, next))
			}
			if w.furthest.before(next) {
				w.furthest = next
			}
			if !crash {
				c.taken(r.task, next)
				gone()
				return
			}
			// It dies before the commit, and the next one knows nothing.
			c = start()
			for i := range worlds {
				for _, other := range worlds[i].live {
					other.sent = false
				}
			}
		}
		for range rapid.IntRange(1, 120).Draw(t, "turns") {
			n := rapid.IntRange(0, len(worlds)-1).Draw(t, "delivery")
			w := &worlds[n]
			if len(w.live) == 0 {
				continue
			}
			turn(n, rapid.SampledFrom(w.live).Draw(t, "copy"), rapid.SampledFrom([]string{"parked", "parked", "attempted", "queued again", "ended"}).Draw(t, "follows"),
				rapid.IntRange(0, 3).Draw(t, "crash") == 0)
			if !w.ended && !slices.ContainsFunc(w.live, func(r *record) bool { return r.step() == w.furthest }) {
				t.Fatalf("delivery %d has come to %v, and of its records stand %d", n, w.furthest, len(w.live))
			}
		}
		for n := range worlds {
			w := &worlds[n]
			for _, r := range slices.Clone(w.live) {
				if r.sent {
					turn(n, r, "ended", false)
				}
			}
			for len(w.live) > 0 {
				r := w.live[0]
				if _, busy := c.claim(&r.delivery); busy {
					t.Fatalf("delivery %d waits for a copy that is not there", n)
				}
				turn(n, r, "ended", false)
			}
		}
	})
}
