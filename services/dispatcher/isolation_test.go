package dispatcher

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// P-01: a hundred endpoints that hang at once, with more room in flight than there are workers, leave enough of those for
// the other hundred, whether they come first, after the others have proven themselves, or all together.
func TestAHundredHangingEndpointsLeaveWorkers(t *testing.T) {
	const endpoints, each = 100, 60
	for _, order := range []string{"hanging first", "together", "hanging after they answered"} {
		t.Run(order, func(t *testing.T) {
			release, open := gate(t)
			var hangs atomic.Bool
			var good, warm atomic.Int32
			s := testScheduler(2048, mostShare, func(j *job) {
				switch {
				case j.shard.partition == 1 && hangs.Load():
					<-release
				case j.shard.partition == 1:
					warm.Add(1)
				default:
					good.Add(1)
				}
				j.came = came{what: cameAnswer}
			})
			submit := func(partition int32, n int) {
				for range n {
					for i := range endpoints {
						sh := s.shardOf(shardKey{subscription: fmt.Sprint(partition, "/", i), partition: partition}, limits{inFlight: 32})
						if got := s.submit(t.Context(), &job{shard: sh}, time.Minute); got != admitted {
							t.Fatalf("an endpoint of %d: %v", partition, got)
						}
					}
				}
			}
			switch order {
			case "hanging first":
				hangs.Store(true)
				submit(1, each)
				submit(0, each)
			case "together":
				hangs.Store(true)
				for range each {
					submit(1, 1)
					submit(0, 1)
				}
			case "hanging after they answered":
				submit(1, 2)
				until(t, "they have answered", func() bool { return warm.Load() == 2*endpoints })
				hangs.Store(true)
				submit(1, each)
				submit(0, each)
			}
			until(t, "the good ones have everything", func() bool { return good.Load() == endpoints*each })
			open()
			s.stop()
		})
	}
}

// First attempts keep half of the workers, however many retries come at once after a long outage.
func TestRetriesLeaveHalfOfTheWorkers(t *testing.T) {
	release, open := gate(t)
	var first atomic.Int32
	s := testScheduler(16, 1000, func(j *job) {
		if j.late {
			<-release
		} else {
			j.took = time.Millisecond // a worker that had to wait for its turn must not seem a slow endpoint
			first.Add(1)
		}
	})
	submit := func(j *job) {
		if why := s.submit(t.Context(), j, 0); why != admitted {
			t.Fatalf("refused: %v", why)
		}
	}
	for i := range 400 {
		j := submitTo(s, fmt.Sprint(i%40), 4, i)
		j.late = true
		submit(j)
	}
	for i := range 400 {
		submit(submitTo(s, fmt.Sprint(i%40), 4, i))
	}
	until(t, "the first attempts are made", func() bool { return first.Load() == 400 })
	if n := s.load().late; n != 8 {
		t.Errorf("%d retries are in flight", n)
	}
	open()
	s.stop()
}

// P-01: a retry partition full of one subscription's records does not hold up another's: what waits for room there is a
// small part of the time, although its endpoint goes on to take some.
func TestAFullSubscriptionHoldsUpNoRetryTier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testScheduler(64, mostShare, func(*job) { time.Sleep(20 * time.Millisecond) })
		begin, waited, turnedAway := time.Now(), time.Duration(0), 0
		for i := range 100_000 {
			j := submitTo(s, "busy", 1, i)
			j.late = true
			before := time.Now()
			if s.submit(t.Context(), j, patience(fromTier)) == full {
				turnedAway++
			}
			waited += time.Since(before)
		}
		if most := patience(fromTier) + time.Since(begin)/waitingShare + time.Millisecond; waited > most || turnedAway < 95_000 {
			t.Errorf("they held up the partition for %v, %d were turned away", waited, turnedAway)
		}
		// Another while after: it may wait again.
		time.Sleep(2 * time.Minute)
		j := submitTo(s, "busy", 1, 0)
		j.late = true
		if got := s.submit(t.Context(), j, patience(fromTier)); got != admitted {
			t.Errorf("when it has room again: %v", got)
		}
		s.stop()
	})
}

// P-01: one request that hangs, with a time-out far longer than the test's patience, and more deliveries of another
// subscription behind it in the partition than the window has room for. It is cut off, and counts as timed out.
func TestAHangingRequestDoesNotFillTheWindow(t *testing.T) {
	r := newRig(t, func(c *Config, _ []topic.Topic) { c.WindowOffsets = 64 })
	release, open := gate(t)
	bad := receiver(t, func(*hooktest.Request) hooktest.Answer { <-release; return hooktest.Answer{} })
	good := receiver(t, nil)
	r.partitions = 1
	r.feed(subscribed(t, "sub_hanging", bad.URL(), func(s *subscription.Subscription) {
		s.Request.Timeout = subscription.Duration(30 * time.Second)
		s.MaxInFlight = 2
		s.Retry = subscription.Retry{Schedule: []subscription.Duration{subscription.Duration(time.Hour)}, MaxAttempts: 5}
	}))
	r.feed(subscribed(t, "sub_good", good.URL(), nil))
	run := r.start()
	r.deliver("sub_hanging", 8, nil)
	waitFor(t, bad, 2)
	r.deliver("sub_good", 1000, nil)
	waitFor(t, good, 1000)
	if run.metrics.cut.Load() == 0 || run.metrics.parked[diverted].Load() == 0 {
		t.Errorf("%d requests were cut off, %d deliveries parked", run.metrics.cut.Load(), run.metrics.parked[diverted].Load())
	}
	open()
}
