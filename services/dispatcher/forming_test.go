package dispatcher

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/subscription"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"
)

// S1-12, S3-20: every delivery is in exactly one batch, in the order in which it came to those that it may be with; no
// batch has more members or bytes than it may; one that has room left goes exactly when its first member has waited for
// max_wait, and no later.
func TestBatchesAreFormed(t *testing.T) {
	type arrival struct {
		after time.Duration
		with  together
		size  int64
		alone bool
		late  bool
	}
	rapid.Check(t, func(rt *rapid.T) {
		policy := &subscription.Batch{
			MaxEvents: rapid.IntRange(1, 6).Draw(rt, "max_events"),
			MaxWait:   subscription.Duration(time.Duration(rapid.IntRange(10, 500).Draw(rt, "max_wait")) * time.Millisecond),
		}
		arrivals := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) arrival {
			return arrival{
				after: time.Duration(rapid.IntRange(0, 100).Draw(rt, "after")) * time.Millisecond,
				with:  together{route: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "route")},
				size:  rapid.SampledFrom([]int64{100, mostBatchBytes / 3, mostBatchBytes / 2, mostBatchBytes + 1}).Draw(rt, "size"),
				alone: rapid.IntRange(0, 9).Draw(rt, "alone") == 0,
				late:  rapid.IntRange(0, 9).Draw(rt, "late") == 0,
			}
		}), 1, 60).Draw(rt, "arrivals")
		type sent struct {
			members []int
			at      time.Time
		}
		var batches []sent
		came := make([]time.Time, len(arrivals))
		held, bytes, waiting := 0, int64(0), 0
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			number := map[*job]int{}
			s := testScheduler(8, 1000, func(j *job) {
				mu.Lock()
				defer mu.Unlock()
				b := sent{at: time.Now()}
				for _, one := range append([]*job{j}, j.rest...) {
					b.members = append(b.members, number[one])
				}
				batches = append(batches, b)
			})
			sh := s.shardOf(shardKey{subscription: "a"}, limits{inFlight: 8, batch: policy})
			for i, a := range arrivals {
				time.Sleep(a.after)
				synctest.Wait()
				j := &job{shard: sh, with: a.with, joins: !a.alone, size: a.size, late: a.late}
				j.with.topic = fmt.Sprint(a.late)
				came[i] = time.Now()
				mu.Lock()
				number[j] = i
				mu.Unlock()
				if s.submit(t.Context(), j, 0) != admitted {
					t.Error("no room")
				}
				synctest.Wait()
			}
			time.Sleep(time.Duration(policy.MaxWait))
			synctest.Wait()
			s.mu.Lock()
			held, bytes, waiting = sh.members, sh.bytes, s.waiting
			s.mu.Unlock()
			s.stop()
		})
		if held != 0 || bytes != 0 || waiting != 0 {
			rt.Fatalf("%d held, %d bytes, %d waiting after all was sent", held, bytes, waiting)
		}
		seen, last := map[int]bool{}, map[string]int{}
		for _, b := range batches {
			first := arrivals[b.members[0]]
			key, total := fmt.Sprint(first.with, first.late), int64(0)
			if !slices.IsSorted(b.members) {
				rt.Fatalf("%v", b.members)
			}
			for _, m := range b.members {
				a := arrivals[m]
				total += a.size
				if seen[m] || a.alone && len(b.members) > 1 || fmt.Sprint(a.with, a.late) != key {
					rt.Fatalf("%v: %d was sent, goes alone (%t), or with others", b.members, m, a.alone)
				}
				seen[m] = true
			}
			if first.alone {
				if !b.at.Equal(came[b.members[0]]) {
					rt.Fatalf("%v waited", b.members)
				}
				continue
			}
			if since, ok := last[key]; ok && b.members[0] < since {
				rt.Fatalf("%v came after %d", b.members, since)
			}
			last[key] = b.members[len(b.members)-1]
			if len(b.members) > policy.MaxEvents || len(b.members) > 1 && total > mostBatchBytes {
				rt.Fatalf("%v: %d bytes", b.members, total)
			}
			// Why it went when it did.
			due := came[b.members[0]].Add(time.Duration(policy.MaxWait))
			next := slices.IndexFunc(arrivals[last[key]+1:], func(a arrival) bool { return !a.alone && fmt.Sprint(a.with, a.late) == key })
			switch {
			case len(b.members) == policy.MaxEvents && b.at.Equal(came[last[key]]):
			case b.at.Equal(due):
			case next >= 0 && total+arrivals[last[key]+1+next].size > mostBatchBytes && b.at.Equal(came[last[key]+1+next]):
			default:
				rt.Fatalf("%v of %d bytes went at %v, the first came at %v", b.members, total, b.at, came[b.members[0]])
			}
		}
		if len(seen) != len(arrivals) {
			rt.Fatalf("%d of %d were sent", len(seen), len(arrivals))
		}
	})
}

// What waits in a batch is found where it has to be given back, and counted where it is queued.
func TestWaitingMembersAreGivenBack(t *testing.T) {
	s := testScheduler(1, 100, func(*job) {})
	s.stopped = true // no workers
	sh := s.shardOf(shardKey{subscription: "a"}, limits{inFlight: 1, batch: &subscription.Batch{MaxEvents: 3, MaxWait: subscription.Duration(time.Hour)}})
	var all []*job
	for i := range 8 { // two batches in the queue, two jobs that wait
		j := &job{shard: sh, joins: true, size: 10}
		j.attempts = i
		all = append(all, j)
		s.push(sh, j, time.Now())
	}
	if sh.queued() != 8 || sh.requests() != 2 || sh.bytes != 80 || s.waiting != 8 {
		t.Fatalf("%d queued, %d requests, %d bytes, %d waiting", sh.queued(), sh.requests(), sh.bytes, s.waiting)
	}
	odd := s.remove(sh, time.Now(), func(j *job) bool { return j.attempts%2 == 1 || j.attempts == 0 })
	if len(odd) != 5 || sh.queued() != 3 || sh.requests() != 2 || sh.bytes != 30 || s.waiting != 3 {
		t.Fatalf("%d out, %d queued, %d requests, %d bytes, %d waiting", len(odd), sh.queued(), sh.requests(), sh.bytes, s.waiting)
	}
	if first, second := sh.first.pop(), sh.first.pop(); first != all[2] || second != all[4] || len(first.rest)+len(second.rest) != 0 {
		t.Error("the members that are left are not those")
	}
	rest := s.remove(sh, time.Now(), func(*job) bool { return true })
	if len(rest) != 1 || rest[0] != all[6] || len(sh.open) != 0 {
		t.Errorf("%d were left in the batch that waited", len(rest))
	}
}

// P-01: a record that holds its window back is found in whichever batch it is: one in flight, queued, or waiting for more,
// also behind the first member.
func TestTheHeadOfAWindowMayBeAMember(t *testing.T) {
	for _, place := range []string{"in flight", "queued", "waiting"} {
		s := testScheduler(1, 100, func(*job) {})
		s.stopped = true // no workers
		sh := s.shardOf(shardKey{subscription: "a"}, limits{inFlight: 1, batch: &subscription.Batch{MaxEvents: 3, MaxWait: subscription.Duration(time.Hour)}})
		at := func(offset int64) *job {
			j := &job{shard: sh, joins: true, size: 10}
			j.task = &kafka.Task{Record: &kgo.Record{Topic: "t", Offset: offset}}
			return j
		}
		now := time.Now()
		push := func(offsets ...int64) {
			for _, offset := range offsets {
				s.push(sh, at(offset), now)
			}
		}
		parked, cut := 0, 0
		switch place {
		case "in flight":
			push(90, 10, 91) // is taken as one job; behind it, 30 waits
			s.begin(sh.pop(false), now.Add(-time.Minute))
			push(30)
			parked, cut = 1, 1
		case "queued":
			push(90, 10, 91, 30)
			parked = 2
		case "waiting":
			push(90, 10)
			parked = 1
		}
		queued, flying := s.oldest(kafka.Pressure{TopicPartition: kafka.TopicPartition{Topic: "t"}, Watermark: 10, Span: 80}, now)
		if len(queued) != parked || len(flying) != cut {
			t.Errorf("%s: %d parked, %d to be cut off, want %d and %d", place, len(queued), len(flying), parked, cut)
		}
	}
}
