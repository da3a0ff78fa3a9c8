package dispatcher

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// testScheduler runs jobs whose work the test decides.
func testScheduler(workers, share int, work func(*job)) *scheduler {
	return newScheduler(schedulerConfig{workers: workers, share: share, newWork: func() func(*job) {
		return func(j *job) {
			begin := time.Now()
			work(j)
			if j.took == 0 {
				j.took = max(time.Since(begin), 1)
			}
		}
	}})
}

func submitTo(s *scheduler, id string, maxInFlight int, n int) *job {
	j := &job{shard: s.shardOf(shardKey{subscription: id}, limits{inFlight: maxInFlight})}
	j.attempts = n
	return j
}

func TestEveryJobRunsOnceWithinItsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		workers := rapid.IntRange(1, 8).Draw(t, "workers")
		subscriptions := rapid.IntRange(1, 5).Draw(t, "subscriptions")
		limit := rapid.IntRange(1, 4).Draw(t, "max in flight")
		jobs := rapid.IntRange(1, 300).Draw(t, "jobs")
		var mu sync.Mutex
		flying, most, all, mostAll := map[string]int{}, map[string]int{}, 0, 0
		seen := map[*job]int{}
		s := testScheduler(workers, jobs, func(j *job) {
			mu.Lock()
			flying[j.shard.subscription]++
			all++
			most[j.shard.subscription], mostAll = max(most[j.shard.subscription], flying[j.shard.subscription]), max(mostAll, all)
			seen[j]++
			mu.Unlock()
			mu.Lock()
			flying[j.shard.subscription]--
			all--
			mu.Unlock()
		})
		for i := range jobs {
			j := submitTo(s, fmt.Sprint(i%subscriptions), limit, i)
			j.late = i%3 == 0
			if got := s.submit(context.Background(), j, time.Minute); got != admitted {
				t.Fatalf("job %d: %v", i, got)
			}
		}
		s.stop()
		if len(seen) != jobs {
			t.Fatalf("%d of %d jobs ran", len(seen), jobs)
		}
		for j, n := range seen {
			if n != 1 {
				t.Fatalf("job %d ran %d times", j.attempts, n)
			}
		}
		for id, n := range most {
			if n > limit {
				t.Fatalf("%s had %d in flight, not %d", id, n, limit)
			}
		}
		if mostAll > workers {
			t.Fatalf("%d in flight, not %d", mostAll, workers)
		}
	})
}

func TestOneInFlightKeepsTheOrder(t *testing.T) {
	var got []int
	s := testScheduler(8, 1000, func(j *job) { got = append(got, j.attempts) })
	for i := range 500 {
		s.submit(t.Context(), submitTo(s, "a", 1, i), time.Minute)
	}
	s.stop()
	for i, n := range got {
		if n != i {
			t.Fatalf("place %d went to job %d", i, n)
		}
	}
}

// A subscription whose endpoint hangs fills its own room and nobody else's.
func TestAHangingEndpointLeavesTheOthersAlone(t *testing.T) {
	release := make(chan struct{})
	var good atomic.Int32
	done := make(chan struct{})
	s := testScheduler(64, 100, func(j *job) {
		if j.shard.subscription == "hanging" {
			<-release
		} else if good.Add(1) == 200 {
			close(done)
		}
	})
	parked := 0
	for i := range 200 {
		if s.submit(t.Context(), submitTo(s, "hanging", 4, i), 0) == full {
			parked++
		}
		if got := s.submit(t.Context(), submitTo(s, "good", 4, i), time.Minute); got != admitted {
			t.Fatalf("a delivery to the good endpoint: %v", got)
		}
	}
	<-done
	if parked < 90 {
		t.Errorf("%d deliveries to the hanging endpoint were parked, want all over its share", parked)
	}
	close(release)
	s.stop()
}

func TestLimitFollowsWhatTheEndpointTakes(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		took time.Duration
		want int
	}{
		{0, 4096}, {time.Millisecond, 4096}, {50 * time.Millisecond, 4096}, {100 * time.Millisecond, 3200}, {time.Second, 320}, {10 * time.Second, 32}, {30 * time.Second, 32},
	} {
		sh := &shard{max: 32, took: test.took, learned: 128, lastDone: now}
		if got := sh.limit(4096, now); got != test.want {
			t.Errorf("an endpoint that takes %v: %d may wait, want %d", test.took, got, test.want)
		}
	}
	stuck := &shard{max: 32, inFlight: 32, lastDone: now.Add(-2 * time.Second)}
	if got := stuck.limit(4096, now); got != 32 {
		t.Errorf("an endpoint that takes nothing: %d may wait, want 32", got)
	}
}

func TestABusyEndpointIsWaitedFor(t *testing.T) {
	step := make(chan struct{})
	s := testScheduler(1, 2, func(*job) { <-step })
	for i := range 3 { // one in flight, two wait
		if got := s.submit(t.Context(), submitTo(s, "a", 1, i), time.Minute); got != admitted {
			t.Fatalf("job %d: %v", i, got)
		}
		if i == 0 {
			for s.load().first == 0 {
			}
		}
	}
	waited := make(chan admission, 1)
	go func() { waited <- s.submit(t.Context(), submitTo(s, "a", 1, 3), time.Minute) }()
	step <- struct{}{}
	if got := <-waited; got != admitted {
		t.Errorf("the one that waited: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := s.submit(ctx, submitTo(s, "a", 1, 4), time.Minute); got != closing {
		t.Errorf("after the end of its context: %v", got)
	}
	if got := s.submit(ctx, submitTo(s, "idle", 1, 5), 0); got != closing {
		t.Errorf("after the end of its context, although there is room: %v", got)
	}
	close(step)
	s.stop()
	if got := s.submit(t.Context(), submitTo(s, "a", 1, 5), time.Minute); got != closing {
		t.Errorf("after stop: %v", got)
	}
}

func TestSweepForgetsOnlyWhatIsIdle(t *testing.T) {
	hold := make(chan struct{})
	s := testScheduler(2, 10, func(*job) { <-hold })
	s.submit(t.Context(), submitTo(s, "busy", 1, 0), 0)
	s.shardOf(shardKey{subscription: "idle"}, limits{inFlight: 1})
	s.sweep(time.Now().Add(time.Hour))
	s.mu.Lock()
	_, busy := s.shards[shardKey{subscription: "busy"}]
	_, idle := s.shards[shardKey{subscription: "idle"}]
	s.mu.Unlock()
	if !busy || idle {
		t.Errorf("busy there: %v, idle there: %v", busy, idle)
	}
	close(hold)
	s.stop()
}
