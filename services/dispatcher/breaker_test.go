package dispatcher

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription/outbound"
	"pgregory.net/rapid"
)

// P-15: a breaker opens only where many requests in a row fail in a short time; it is never open longer than lastProbe and
// its jitter, and one answer closes it.
func TestBreakerFollowsTheAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b breaker
		now := time.Now()
		var inRow []time.Time // failures while it was closed
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(4*time.Second)).Draw(t, "pause")))
			if rapid.IntRange(0, 40).Draw(t, "answers") == 0 {
				if b.succeeded() && inRow != nil {
					t.Fatal("it closed without having been open")
				}
				inRow = []time.Time{}
				continue
			}
			open := b.opened > 0
			opens := b.failed(now, rapid.Float64Range(0, 0.999).Draw(t, "random"))
			if b.opened > 0 && (b.until.Sub(now) > lastProbe*11/10) {
				t.Fatalf("nothing for %v", b.until.Sub(now))
			}
			if open {
				continue
			}
			inRow = append(inRow, now)
			if opens {
				if n := len(inRow); n < breakerFailures || now.Sub(inRow[n-breakerFailures]) > breakerWindow || now.Sub(inRow[0]) < breakerSpan {
					t.Fatalf("it opened after %d failures", n)
				}
				inRow = nil
			}
		}
	})
}

// A quiet endpoint follows the schedules of its deliveries, however long it fails.
func TestAQuietEndpointHasNoOpenBreaker(t *testing.T) {
	var b breaker
	now := time.Now()
	for i := range 1000 {
		if now = now.Add(4 * time.Second); b.failed(now, 0) {
			t.Fatalf("it opened at the failure %d", i)
		}
	}
}

// P-15: while the breaker is open nothing is sent but one request at the end of each pause; nothing waits in the queue;
// others go on; and an answer lets everything through again.
func TestAnOpenBreakerLetsOneThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent []time.Time
		answers := false
		var changes []*change
		s := newScheduler(schedulerConfig{workers: 64, share: 1000, changed: func(c *change) {
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, c)
		}, newWork: func() func(*job) {
			return func(j *job) {
				time.Sleep(100 * time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, time.Now())
				j.came = came{what: cameRefusal}
				if answers {
					j.came.what = cameAnswer
				}
			}
		}})
		submit := func() admission { return s.submit(t.Context(), submitTo(s, "a", 2, 0), 0) }
		// 20 a second: it opens after five seconds, with what still waits.
		for range 400 {
			submit()
		}
		time.Sleep(10 * time.Second)
		mu.Lock()
		if len(changes) != 1 || !changes[0].opened || len(sent)+len(changes[0].jobs) != 400 || len(sent) < 100 || len(sent) > 110 {
			t.Fatalf("%d were sent, and then %+v", len(sent), changes)
		}
		opened := len(sent)
		mu.Unlock()
		if s.load().broken != 1 {
			t.Error("it is not counted")
		}
		refused := 0
		for range 300 { // half a minute
			if submit() == broken {
				refused++
			}
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		mu.Lock()
		if n := len(sent) - opened; n < 3 || n > 6 || refused < 290 {
			t.Errorf("%d probes, %d refused", n, refused)
		}
		answers = true
		mu.Unlock()
		for submit() == broken {
			time.Sleep(time.Second)
		}
		time.Sleep(time.Second)
		if got := submit(); got != admitted || s.load().broken != 0 {
			t.Errorf("after an answer: %v", got)
		}
		synctest.Wait()
		mu.Lock()
		if last := changes[len(changes)-1]; !last.closed {
			t.Errorf("%+v", last)
		}
		mu.Unlock()
		s.stop()
	})
}

// A Retry-After holds back the endpoint's other deliveries too: a short one in the queue, a long one in Kafka.
func TestRetryAfterHoldsBackTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asks := 2 * time.Second
		var sent []time.Time
		var parked []*job
		s := newScheduler(schedulerConfig{workers: 8, share: 1000, changed: func(c *change) { parked = append(parked, c.jobs...) }, newWork: func() func(*job) {
			return func(j *job) {
				sent = append(sent, time.Now())
				j.came = came{what: cameRefusal, wait: asks}
			}
		}})
		begin := time.Now()
		for i := range 3 {
			s.submit(t.Context(), submitTo(s, "a", 1, i), 0)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(sent) != 3 || sent[1].Sub(begin) != asks || sent[2].Sub(begin) != 2*asks {
			t.Errorf("sent at %v, begun at %v", sent, begin)
		}
		asks = time.Minute
		s.submit(t.Context(), submitTo(s, "a", 1, 3), 0)
		s.submit(t.Context(), submitTo(s, "a", 1, 4), 0)
		synctest.Wait()
		if len(sent) != 4 || len(parked) != 1 {
			t.Errorf("%d were sent, %d parked", len(sent), len(parked))
		}
		j := submitTo(s, "a", 1, 5)
		if got := s.submit(t.Context(), j, 0); got != cooling || j.until.Sub(sent[3]) != asks {
			t.Errorf("while the endpoint wants nothing: %v until %v", got, j.until)
		}
		s.stop()
	})
}

func TestWhatAnAnswerSaysOfItsEndpoint(t *testing.T) {
	now := time.Now()
	failure := func(class egress.Class) *outbound.Answer {
		return &outbound.Answer{Err: &egress.Error{Class: class, Op: "request", Err: context.DeadlineExceeded}}
	}
	for name, test := range map[string]struct {
		a    *outbound.Answer
		want cameOf
	}{
		"200": {&outbound.Answer{Status: 200}, cameAnswer}, "404": {&outbound.Answer{Status: 404}, cameAnswer},
		"429": {&outbound.Answer{Status: 429}, cameRefusal}, "500": {&outbound.Answer{Status: 500}, cameRefusal},
		"timeout": {failure(egress.ClassTimeout), cameSilence}, "dns": {failure(egress.ClassDNS), cameSilence},
		"blocked": {failure(egress.ClassBlocked), cameNothing}, "canceled": {failure(egress.ClassCanceled), cameNothing},
	} {
		if got := cameFrom(test.a, now); got.what != test.want {
			t.Errorf("%s: %v, want %v", name, got.what, test.want)
		}
	}
}

// P-01, P-15: through the dispatcher: what comes while the breaker is open is parked and is no attempt; the other
// subscription of the partition gets everything; and when the endpoint answers, all of it arrives as attempt 1.
func TestParkedByABreaker(t *testing.T) {
	r := newRig(t, nil)
	bad, good := receiver(t, hooktest.Always(hooktest.Answer{Status: 500})), receiver(t, nil)
	r.feed(subscribed(t, "sub_bad", bad.URL(), nil))
	r.feed(subscribed(t, "sub_good", good.URL(), nil))
	run := r.start()
	partition := topic.PartitionFor("sub_bad", "", 1, r.partitions)
	sh := run.scheduler.shardOf(shardKey{subscription: "sub_bad", partition: partition}, limits{inFlight: 1})
	// As after breakerFailures in breakerSpan.
	run.scheduler.mu.Lock()
	sh.breaker.open(time.Now(), 0)
	sh.breaker.until = time.Now().Add(time.Hour)
	run.scheduler.broken++
	run.scheduler.mu.Unlock()
	var all []*event.Delivery
	for i := range 50 {
		all = append(all, r.deliver("sub_bad", 1, nil)...)
		r.deliver("sub_good", 1, func(d *event.Delivery) { d.CallID = fmt.Sprint(i) })
	}
	waitFor(t, good, 50)
	until(t, "all is parked", func() bool { return run.metrics.parked[broken].Load() >= 50 })
	if bad.Total() != 0 {
		t.Errorf("%d requests", bad.Total())
	}
	bad.SetAnswer(nil)
	run.scheduler.mu.Lock()
	sh.breaker.until = time.Now()
	run.scheduler.mu.Unlock()
	if err := bad.WaitUnique(patiently(t), len(all)); err != nil {
		t.Fatal(err)
	}
	r.done()
	for _, q := range bad.Requests() {
		if q.Attempt != 1 {
			t.Errorf("%s arrived as attempt %d", q.ID, q.Attempt)
		}
	}
	if n := run.scheduler.load().broken; n != 0 {
		t.Errorf("%d breakers are open", n)
	}
}
