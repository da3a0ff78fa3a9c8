package dispatcher

import (
	"math/rand/v2"
	"time"

	"github.com/callstream/callstream/schemas/topic"
)

// divert puts a delivery aside that its shard doesn't take now, and not before until.
func (s *Service) divert(j *job, why admission, until time.Time) {
	now := time.Now()
	s.metrics.parked[why].Add(1)
	if j.order != nil {
		s.postpone(j, until, now)
		return
	}
	if j.from.kind == fromLane && (why == full || why == slowed || why == diverted) {
		// The slow topic is where waiting for room belongs.
		s.park(j, move{topic: topic.Slow}, now)
		return
	}
	tier, delay := s.tiers.aside(max(parkDelay(j.parked), until.Sub(now)), rand.Float64())
	s.park(j, move{topic: topic.RetryTier(tier), tier: tier, due: now.Add(delay)}, now)
}

// putOff parks a delivery that can't be sent for a reason of ours: its delay is as long as it says, for it counts how long that lasts.
func (s *Service) putOff(j *job, now time.Time) {
	s.metrics.parked[faulty].Add(1)
	if j.order != nil {
		s.postpone(j, now, now)
		return
	}
	if j.from.kind == fromLane {
		s.park(j, move{topic: topic.Slow}, now)
		return
	}
	delay := parkDelay(j.parked - 1)
	tier := s.tiers.choose(delay)
	s.park(j, move{topic: topic.RetryTier(tier), tier: tier, due: now.Add(delay)}, now)
}

// postpone has a delivery wait with its call, not before until: wherever else it were put, those behind it would go first.
func (s *Service) postpone(j *job, until, now time.Time) {
	j.parked++
	if delayed := now.Add(parkDelay(j.parked - 1)); until.Before(delayed) {
		until = delayed
	}
	j.wait(until)
}

// wait gives a job whose call is kept in order back to its call, which waits with it.
func (j *job) wait(until time.Time) {
	j.settled = true // its successor's now
	j.order.by.failed(j.order, until)
}

// park moves a delivery without an attempt.
func (s *Service) park(j *job, to move, now time.Time) {
	if s.copies.overtaken(&j.delivery) {
		s.supersede(&j.delivery)
		return
	}
	to.attempts, to.parked = j.attempts, j.parked+1
	f := s.begin(&j.delivery)
	f.leadsTo(step{to.attempts, to.parked})
	f.write(j.moved(to, now))
	f.end()
}
