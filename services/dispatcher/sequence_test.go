package dispatcher

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/twmb/franz-go/pkg/kgo"
)

// inOrder is a record of a call that is kept in order, as the filter writes it.
func (r *rig) inOrder(sub, call string, rank int64) *kgo.Record {
	d := r.delivery(sub, func(d *event.Delivery) {
		d.ID, d.CallID, d.Body = fmt.Sprintf("msg_%s_%d", call, rank), call, fmt.Appendf(nil, "%s %d", call, rank)
	})
	rec := r.record(d)
	rec.Headers = append(rec.Headers, kafka.StringHeader(kafka.HeaderOrder, call), kafka.IntHeader(kafka.HeaderRank, rank))
	return rec
}

// calls is an endpoint that knows which events of which call it has taken, and refuses those of calls that are broken.
type calls struct {
	mu     sync.Mutex
	broken map[string]bool
	taken  map[string][]int64
	tries  map[string]int
	again  int // events that came after they were taken
	busy   map[string]bool
	faults []string
}

func newCalls(broken ...string) *calls {
	c := &calls{broken: map[string]bool{}, taken: map[string][]int64{}, tries: map[string]int{}, busy: map[string]bool{}}
	for _, call := range broken {
		c.broken[call] = true
	}
	return c
}

func (c *calls) answer(q *hooktest.Request) hooktest.Answer {
	var call string
	var rank int64
	if _, err := fmt.Sscan(string(q.Body), &call, &rank); err != nil {
		return hooktest.Answer{Status: 400}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries[call]++
	if c.broken[call] {
		return hooktest.Answer{Status: 503}
	}
	switch taken := c.taken[call]; {
	case slices.Contains(taken, rank):
		c.again++
	case len(taken) > 0 && taken[len(taken)-1] > rank:
		c.faults = append(c.faults, fmt.Sprintf("%s: %d after %v", call, rank, taken))
	default:
		c.taken[call] = append(taken, rank)
	}
	return hooktest.Answer{}
}

func (c *calls) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.broken)
}

// wait waits until n events of a call were taken.
func (c *calls) wait(t testing.TB, call string, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d events of %s", n, call), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.taken[call]) >= n || len(c.faults) > 0
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.faults) > 0 {
		t.Fatal(strings.Join(c.faults, "\n"))
	}
}

func patientSub(s *subscription.Subscription) {
	s.Ordering = subscription.OrderingPerCall
	s.Retry = subscription.Retry{MaxAttempts: 50, RetryOn: []string{"5xx"}, Schedule: []subscription.Duration{subscription.Duration(20 * time.Millisecond)}}
}

// P-02: a call whose events fail blocks only itself. It moves to the ordered lane, and only there, and comes back in order
// with what happened meanwhile.
func TestACallThatFailsBlocksOnlyItself(t *testing.T) {
	r := newRig(t, func(c *Config, _ []topic.Topic) { c.OrderInPlace = 300 * time.Millisecond })
	ends := newCalls("bad")
	hook := receiver(t, ends.answer)
	r.feed(subscribed(t, "sub_1", hook.URL(), patientSub))
	r.start()
	lane := r.read(topic.Ordered)
	rank := int64(0)
	batch := func() {
		var records []*kgo.Record
		for _, call := range []string{"bad", "good-1", "bad", "good-2", "good-3"} {
			rank++
			records = append(records, r.inOrder("sub_1", call, rank))
		}
		r.produce(records...)
	}
	batch()
	batch()
	for _, call := range []string{"good-1", "good-2", "good-3"} {
		ends.wait(t, call, 2)
	}
	lane.wait(4) // all of the bad one
	batch()
	ends.wait(t, "good-3", 3)
	lane.wait(8) // it was tried from there, and went round with what followed
	ends.heal()
	batch()
	ends.wait(t, "bad", 8)
	ends.wait(t, "good-1", 4)
	r.done()
	if ends.again != 0 {
		t.Errorf("%d events came again", ends.again)
	}
	for _, d := range r.cfg.RetrySchedule {
		if n := len(r.read(topic.RetryTier(d)).records()); n > 0 {
			t.Errorf("%d records went to the retry tier %v", n, d)
		}
	}
	for _, rec := range lane.records() {
		if kafka.Header(rec, kafka.HeaderOrder) != "bad" {
			t.Errorf("%s went to the ordered lane", rec.Value)
		}
	}
}

// P-02: what is retried in place goes to no other topic, is counted on, and each attempt is on record.
func TestRetriesInPlace(t *testing.T) {
	r := newRig(t, nil)
	var mu sync.Mutex
	var seen []string
	hook := receiver(t, func(q *hooktest.Request) hooktest.Answer {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf("%s/%d", q.Body, q.Attempt))
		if string(q.Body) == "c 1" && q.Attempt < 3 {
			return hooktest.Answer{Status: 500}
		}
		if string(q.Body) == "c 2" {
			return hooktest.Answer{Status: 400}
		}
		return hooktest.Answer{}
	})
	r.feed(subscribed(t, "sub_1", hook.URL(), patientSub))
	r.start()
	r.produce(r.inOrder("sub_1", "c", 1), r.inOrder("sub_1", "c", 2), r.inOrder("sub_1", "c", 3))
	attempts := decoded[event.Attempt](r, r.read(topic.Attempts), 5)
	r.done()
	if want := []string{"c 1/1", "c 1/2", "c 1/3", "c 2/1", "c 3/1"}; !slices.Equal(seen, want) {
		t.Errorf("sent %v", seen)
	}
	var outcomes []string
	for _, a := range attempts {
		outcomes = append(outcomes, fmt.Sprint(a.Attempt, " ", a.Outcome))
	}
	if want := []string{"1 retry", "2 retry", "3 delivered", "1 dead", "1 delivered"}; !slices.Equal(outcomes, want) {
		t.Errorf("the attempts are %v", outcomes)
	}
	if n := len(r.read(topic.Ordered).records()); n != 0 {
		t.Errorf("%d records in the ordered lane", n)
	}
}

// P-02: what stands in the ordered lane when a dispatcher ends comes first at the next one, before what its lane holds.
func TestTheOrderHoldsOverARestart(t *testing.T) {
	r := newRig(t, func(c *Config, _ []topic.Topic) { c.OrderInPlace = 100 * time.Millisecond })
	ends := newCalls("bad", "worse")
	hook := receiver(t, ends.answer)
	r.feed(subscribed(t, "sub_1", hook.URL(), patientSub))
	lane := r.read(topic.Ordered)
	rank := int64(0)
	batch := func() {
		var records []*kgo.Record
		for _, call := range []string{"bad", "worse", "good"} {
			rank++
			records = append(records, r.inOrder("sub_1", call, rank))
		}
		r.produce(records...)
	}
	one := r.start()
	batch()
	lane.wait(2)
	batch()
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	batch()
	ends.heal()
	r.start()
	for _, call := range []string{"bad", "worse", "good"} {
		ends.wait(t, call, 3)
	}
	r.done()
}

// P-02: the order holds while partitions move between dispatchers, with calls in their lanes and in the ordered lane.
func TestTheOrderHoldsOverRebalances(t *testing.T) {
	r := newRig(t, func(c *Config, _ []topic.Topic) {
		c.OrderInPlace, c.CommitInterval = 100*time.Millisecond, 20*time.Millisecond
	})
	ends := newCalls("c-0", "c-3")
	hook := receiver(t, ends.answer)
	subs := []string{"sub_1", "sub_2", "sub_3", "sub_4"}
	for _, sub := range subs {
		r.feed(subscribed(t, sub, hook.URL(), patientSub))
	}
	one := r.start()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	const events = 60
	var producing sync.WaitGroup
	producing.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for rank := int64(0); rank < events; rank++ {
			for i := range 6 {
				call := fmt.Sprint("c-", i)
				r.produce(r.inOrder(subs[i%len(subs)], call, rank))
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	ends.wait(t, "c-1", 5)
	two := r.start()
	ends.wait(t, "c-1", 20)
	ends.heal()
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	ends.wait(t, "c-0", 20)
	if err := two.stop(); err != nil {
		t.Fatal(err)
	}
	producing.Wait()
	for i := range 6 {
		ends.wait(t, fmt.Sprint("c-", i), events)
	}
	r.done()
}

// P-02: those of a paused subscription are skipped, and those that are too late for their order (redriven, replayed) are
// not kept in it.
func TestWhatIsNotSentReleasesItsCall(t *testing.T) {
	r := newRig(t, nil)
	ends := newCalls("bad")
	hook := receiver(t, ends.answer)
	r.feed(subscribed(t, "sub_1", hook.URL(), patientSub))
	s := r.start()
	r.produce(r.inOrder("sub_1", "bad", 5), r.inOrder("sub_1", "bad", 6))
	until(t, "the first is tried", func() bool { ends.mu.Lock(); defer ends.mu.Unlock(); return ends.tries["bad"] > 0 })
	redriven := r.inOrder("sub_1", "bad", 3)
	redriven.Headers = append(redriven.Headers, kafka.StringHeader(kafka.HeaderRedrive, "manual"))
	before := hook.Total()
	r.produce(redriven)
	until(t, "the redriven one is tried", func() bool {
		return slices.ContainsFunc(hook.Requests()[before:], func(q *hooktest.Request) bool { return string(q.Body) == "bad 3" })
	})
	if err := s.WaitApplied(patiently(t), r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) {
		patientSub(s)
		s.Version, s.State = 2, subscription.StatePaused
	}))); err != nil {
		t.Fatal(err)
	}
	r.done()
	log := r.read(topic.Attempts)
	var skipped []string
	until(t, "both are skipped", func() bool {
		skipped = nil
		for _, a := range decoded[event.Attempt](r, log, len(log.records())) {
			if a.Outcome == outcomeSkipped && a.DeliveryID != "msg_bad_3" {
				skipped = append(skipped, a.DeliveryID+" "+a.Reason)
			}
		}
		return len(skipped) >= 2
	})
	if want := []string{"msg_bad_5 paused", "msg_bad_6 paused"}; !slices.Equal(skipped, want) {
		t.Errorf("skipped: %v", skipped)
	}
}
