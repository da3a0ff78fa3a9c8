package dispatcher

import (
	"errors"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/subscription/outbound"
	"go.uber.org/zap"
)

const (
	// headEvery is how often the windows are looked at, and headAge how long a partition's oldest record must have been the
	// oldest to be in the way.
	headEvery = 250 * time.Millisecond
	headAge   = time.Second
)

// errCut is what a request fails with that held back everything else in its partition.
var errCut = errors.New("cut off: its partition had no room left to wait for it")

// watchHeads keeps windows from filling up behind a few old records, until stop is closed.
func (s *Service) watchHeads(loop *kafka.Loop, stop <-chan struct{}) {
	every := time.NewTicker(headEvery)
	defer every.Stop()
	for {
		select {
		case now := <-every.C:
			loop.Pressure(func(p kafka.Pressure) { s.relieve(p, now) })
		case <-stop:
			return
		}
	}
}

// relieve parks what is queued behind the oldest records of a window that is over half full, and cuts off the requests that
// hold one back that is nearly full.
func (s *Service) relieve(p kafka.Pressure, now time.Time) {
	over := func(part, of int64) bool {
		return p.Span*of > p.SpanLimit*part || p.Bytes*of > p.BytesLimit*part
	}
	if p.Since.IsZero() || now.Sub(p.Since) < headAge || !over(1, 2) {
		return
	}
	parked, flying := s.scheduler.oldest(p, now)
	for _, j := range parked {
		s.divert(j, diverted, time.Time{})
	}
	cut := 0
	if over(7, 8) {
		for _, j := range flying {
			if j.cut() {
				cut++
			}
		}
	}
	if len(parked)+cut > 0 {
		s.metrics.cut.Add(int64(cut))
		s.failures.Warn("old deliveries held back their partition", zap.Stringer("partition", p.TopicPartition), zap.Int64("offset", p.Watermark),
			zap.Int("parked", len(parked)), zap.Int("cut_off", cut))
	}
}

// oldest takes the queued jobs of the older half of a partition's window away from the shards that hold its oldest eighth,
// and returns them with the jobs of that eighth that are in flight for some time.
func (s *scheduler) oldest(p kafka.Pressure, now time.Time) (queued, flying []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused != nil {
		return nil, nil // nobody is to be blamed
	}
	before := func(share int64) func(*job) bool {
		end := p.Watermark + max(p.Span/share, 1)
		return func(j *job) bool { return j.task.Record.Topic == p.Topic && j.task.Record.Offset < end }
	}
	eighth, half := before(8), before(2)
	for sh := range s.partitions[p.Partition] {
		holds := false
		for _, j := range sh.flying {
			if j.some(eighth) {
				holds = true
				if now.Sub(j.began) >= headAge {
					flying = append(flying, j)
				}
			}
		}
		if holds || sh.holds(eighth) {
			queued = append(queued, s.remove(sh, now, half)...)
		}
	}
	return queued, flying
}

// cut ends the job's request, which then counts as timed out; false where none is under way.
func (j *job) cut() bool {
	if !j.sending.Load() || j.wasCut.Swap(true) {
		return false
	}
	j.cancel()
	return true
}

// timedOut makes a request that was cut off one that timed out.
func timedOut(a *outbound.Answer) {
	if a.Status == 0 {
		a.Err = &egress.Error{Class: egress.ClassTimeout, Op: "request", Err: errCut}
	}
}
