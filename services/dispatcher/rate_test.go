package dispatcher

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"pgregory.net/rapid"
)

// exceeds says which times, in order, are more than a limit allows in the time between two of them. Each may be late
// after its token was taken.
func exceeds(times []time.Time, limit subscription.RateLimit, late time.Duration) string {
	burst := limit.Burst
	if burst == 0 {
		burst = limit.PerSecond
	}
	for i := range times {
		for k := i; k < len(times); k++ {
			span := times[k].Sub(times[i]) + late
			if most := float64(burst) + float64(limit.PerSecond)*span.Seconds(); float64(k-i+1) > most+1e-6 {
				return fmt.Sprintf("%d requests in %v, where %v are allowed", k-i+1, span, most)
			}
		}
	}
	return ""
}

func genLimit(t *rapid.T) (subscription.RateLimit, int) {
	spread := rapid.IntRange(1, 5).Draw(t, "spread")
	return subscription.RateLimit{
		PerSecond: rapid.IntRange(1, 1000).Draw(t, "per second"), Burst: rapid.IntRange(spread, 2000).Draw(t, "burst"),
	}, spread
}

// S1-12, S3-22: over all shards of a subscription, in any time at most burst + rate × time; tokens that are given back
// and dispatchers that come anew change nothing about it. And what is asked for without pause gets the whole rate.
func TestBucketsNeverExceedTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit, spread := genLimit(t)
		now := time.Now()
		begin := now
		buckets := make([]bucket, spread)
		for i := range buckets {
			buckets[i] = newBucket(&limit, spread, now)
		}
		var sent []time.Time
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "pause")))
			b := &buckets[rapid.IntRange(0, spread-1).Draw(t, "shard")]
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0: // another dispatcher
				*b = newBucket(&limit, spread, now)
			case 1: // skipped
				if b.wait(now) == 0 {
					b.take(now)
					now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "held")))
					b.giveBack(now)
				}
			case 2: // a version with the same limit
				b.change(newBucket(&limit, spread, begin), now)
			default:
				for n := rapid.IntRange(1, 30).Draw(t, "requests"); n > 0 && b.wait(now) == 0; n-- {
					b.take(now)
					sent = append(sent, now)
				}
			}
		}
		if fault := exceeds(sent, limit, 0); fault != "" {
			t.Fatal(fault)
		}
	})
}

func TestABucketGivesItsWholeRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit, spread := genLimit(t)
		begin := time.Now()
		b, now := newBucket(&limit, spread, begin), begin
		const n = 100
		for range n {
			now = now.Add(b.wait(now))
			b.take(now)
		}
		// Each token's time is rounded up to whole nanoseconds.
		if most := time.Duration(n*float64(spread)/float64(limit.PerSecond)*1e9) + n; now.Sub(begin) > most {
			t.Fatalf("%d requests took %v, not %v", n, now.Sub(begin), most)
		}
	})
}

func TestAnotherLimitKeepsTheTokens(t *testing.T) {
	now := time.Now()
	b := newBucket(&subscription.RateLimit{PerSecond: 10, Burst: 100}, 1, now.Add(-2*time.Second))
	b.change(newBucket(&subscription.RateLimit{PerSecond: 1, Burst: 15}, 1, now.Add(-time.Hour)), now)
	if n := b.within(0, now); n != 15 {
		t.Errorf("of 20 tokens %d are left, want the 15 that there is room for", n)
	}
	b.change(newBucket(&subscription.RateLimit{PerSecond: 1000, Burst: 1000}, 1, now.Add(-time.Hour)), now)
	if n := b.within(0, now); n != 15 {
		t.Errorf("%d tokens are left of 15", n)
	}
}

// S1-12: the scheduler hands out no more than the limit, and no less; a worker never waits for it, and what is not sent
// costs nothing.
func TestTheSchedulerKeepsToTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := subscription.RateLimit{PerSecond: 10, Burst: 4}
		var mu sync.Mutex
		var sent []time.Time
		others := 0
		begin := time.Now()
		var s *scheduler
		s = newScheduler(schedulerConfig{workers: 4, share: 1000, since: func(int32) time.Time { return begin }, newWork: func() func(*job) {
			return func(j *job) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case j.shard.subscription == "other":
					others++
				case j.attempts%3 == 0: // skipped
				case s.maySend(j):
					sent = append(sent, time.Now())
				}
			}
		}})
		sh := s.shardOf(shardKey{subscription: "limited"}, limits{inFlight: 3, rate: &limit, spread: 1})
		for i := range 75 {
			j := &job{shard: sh}
			j.attempts = i
			if got := s.submit(t.Context(), j, 0); got != admitted {
				t.Fatalf("job %d: %v", i, got)
			}
		}
		for i := range 100 {
			s.submit(t.Context(), submitTo(s, "other", 3, i), 0)
		}
		synctest.Wait()
		mu.Lock()
		if others != 100 || len(sent) != 0 {
			t.Errorf("at once: %d of the others, %d of the limited", others, len(sent))
		}
		mu.Unlock()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		mu.Lock()
		if len(sent) != 50 {
			t.Errorf("%d were sent in 5 s, want 50", len(sent))
		}
		if fault := exceeds(sent, limit, 0); fault != "" {
			t.Error(fault)
		}
		mu.Unlock()
		s.stop()
	})
}

// What a rate limit will not let through within keepUp is parked, not held.
func TestTheQueueIsNoLongerThanTheRateAllows(t *testing.T) {
	s := testScheduler(2, 4096, func(*job) {})
	sh := s.shardOf(shardKey{subscription: "limited"}, limits{inFlight: 3, rate: &subscription.RateLimit{PerSecond: 2, Burst: 1}, spread: 1})
	n := 0
	for ; s.submit(t.Context(), &job{shard: sh}, time.Minute) == admitted; n++ {
	}
	if want := int(2*keepUp/time.Second) * (lateRoom - 1) / lateRoom; n < want || n > want+1 {
		t.Errorf("%d wait, want %d", n, want)
	}
	s.stop()
}

// S1-12, S3-22: with retries, over a restart and with two dispatchers, the endpoint never gets more than the limit. Each
// request begins within tokenLasts of its token.
func TestTheRateHoldsOverDispatchers(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, func(q *hooktest.Request) hooktest.Answer {
		if q.Attempt == 1 {
			return hooktest.Answer{Status: 503}
		}
		return hooktest.Answer{}
	})
	limit := subscription.RateLimit{PerSecond: 60, Burst: 10}
	r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) { s.RateLimit, s.Spread = &limit, 2 }))
	first := r.start()
	var all []*event.Delivery
	for call := range 30 {
		all = append(all, r.deliver("sub_1", 2, func(d *event.Delivery) { d.CallID = fmt.Sprint("c-", call) })...)
	}
	waitFor(t, hook, 20)
	second := r.start()
	waitFor(t, hook, 60)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if err := hook.Wait(patiently(t), func() bool { return hook.Total() >= 2*len(all) && hook.Unique() == len(all) }); err != nil {
		t.Fatal(err)
	}
	r.done()
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	var began []time.Time
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), hook.Total()) {
		began = append(began, a.StartedAt)
	}
	slices.SortFunc(began, time.Time.Compare)
	// Started is told in milliseconds.
	if fault := exceeds(began, limit, tokenLasts+2*time.Millisecond); fault != "" {
		t.Error(fault)
	}
}
