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
		kafka.IntHeader(kafka.HeaderDue, time.Now().UnixMilli()), kafka.IntHeader(kafka.HeaderEnqueued, time.Now().UnixMilli()))
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

	again := *d
	again.AcceptedAt = d.AcceptedAt.Add(time.Microsecond)
	r.produce(r.late(&again, 1, 0), r.late(d, 1, 0, kafka.StringHeader(kafka.HeaderReplay, "rpl_1")), r.late(d, 1, 0, kafka.StringHeader(kafka.HeaderRedrive, "rdr_1")))
	attempts.wait(5)
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
// furthest one does. While nothing is forgotten, a copy that was overtaken is never carried on.
func TestNoCopyThatIsNeededEnds(t *testing.T) {
	const most = 8
	rapid.Check(t, func(t *rapid.T) {
		type world struct {
			live     []step // records whose offsets are not committed
			furthest step
			ended    bool
		}
		worlds := make([]world, 2*most)
		deliveries := make([]*kgo.Record, len(worlds))
		for i := range worlds {
			worlds[i].live = []step{{}}
			deliveries[i] = &kgo.Record{Headers: []kgo.RecordHeader{kafka.StringHeader(kafka.HeaderDelivery, strconv.Itoa(i))}}
		}
		fresh := func() *copies {
			c := newCopies()
			c.of.most = rapid.SampledFrom([]int{1, most, 4 * most}).Draw(t, "most")
			return c
		}
		c := fresh()
		for range rapid.IntRange(1, 120).Draw(t, "records") {
			n := rapid.IntRange(0, len(worlds)-1).Draw(t, "delivery")
			w := &worlds[n]
			if len(w.live) == 0 {
				continue
			}
			at := rapid.IntRange(0, len(w.live)-1).Draw(t, "copy")
			begins := w.live[at]
			d := delivery{task: &kafka.Task{Record: deliveries[n]}, from: source{kind: fromSlow}, attempts: begins.attempts, parked: begins.parked}
			if overtaken, busy := c.claim(&d); busy {
				t.Fatal("nothing else is being sent")
			} else if overtaken {
				w.live = slices.Delete(w.live, at, at+1)
			} else {
				next := ended
				switch rapid.IntRange(0, 5).Draw(t, "what follows") {
				case 0:
					w.ended = true
				case 1, 2:
					next = step{begins.attempts + 1, 0}
				default:
					next = step{begins.attempts, begins.parked + 1}
				}
				if next != ended {
					w.live = append(w.live, next)
				}
				if w.furthest.before(next) {
					w.furthest = next
				}
				if rapid.IntRange(0, 3).Draw(t, "crash") == 0 {
					c = fresh() // it dies before the commit, and the next one knows nothing
				} else {
					c.taken(d.task, next)
					w.live = slices.Delete(w.live, at, at+1)
				}
			}
			if !w.ended && !slices.Contains(w.live, w.furthest) {
				t.Fatalf("delivery %d has come to %v, and of its records stand %v", n, w.furthest, w.live)
			}
		}
	})
}
