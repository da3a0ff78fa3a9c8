package dispatcher

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/subscription/outbound"
	"go.uber.org/zap"
)

const (
	// suspectHosts is how many hosts must have been out of reach within suspectSpan, and no answer have come from any for
	// suspectSilence, for the fault to be looked for here.
	suspectHosts   = 5
	suspectSpan    = 10 * time.Second
	suspectSilence = 3 * time.Second
	// probeEvery is how often one request tries again then.
	probeEvery = 5 * time.Second
)

// outage tells an endpoint that is away from a network of ours that is: then no host at all can be reached. Deliveries
// are held back while that lasts, instead of using up their attempts.
type outage struct {
	began    time.Time
	answered atomic.Int64 // when an answer came last, since began
	failing  atomic.Bool  // some hosts are out of reach
	down     atomic.Bool

	mu    sync.Mutex
	hosts map[string]time.Time // out of reach since the last answer, when found last
}

func newOutage(now time.Time) *outage { return &outage{began: now, hosts: map[string]time.Time{}} }

// answer takes note of an HTTP answer, from whomever; true where that ends the suspicion.
func (o *outage) answer(now time.Time) bool {
	o.answered.Store(int64(now.Sub(o.began)))
	if !o.failing.Load() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.hosts)
	o.failing.Store(false)
	return o.down.Swap(false)
}

// unreachable takes note of a host that could not be connected to; true where that brings the suspicion.
func (o *outage) unreachable(host string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hosts[host] = now
	o.failing.Store(true)
	if o.down.Load() || len(o.hosts) < suspectHosts {
		return false
	}
	for known, at := range o.hosts {
		if now.Sub(at) > suspectSpan {
			delete(o.hosts, known)
		}
	}
	if len(o.hosts) < suspectHosts || now.Sub(o.began)-time.Duration(o.answered.Load()) < suspectSilence {
		return false
	}
	o.down.Store(true)
	return true
}

// outOfReach says that a request failed before there was a connection.
func outOfReach(err error) bool {
	var e *egress.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Class {
	case egress.ClassDNS, egress.ClassRefused, egress.ClassConnect, egress.ClassProxy:
		return true
	case egress.ClassTimeout:
		return e.Op == "resolve" || e.Op == "connect" || e.Op == "proxy"
	}
	return false
}

// watchEgress learns from a request whether our own network serves.
func (s *Service) watchEgress(a *outbound.Answer, t *target, eventType string) {
	now := a.Started.Add(a.Took)
	switch {
	case a.Status != 0:
		if s.outage.answer(now) {
			s.scheduler.resume()
			s.log.Info("an endpoint has answered: deliveries go on")
		}
	case outOfReach(a.Err):
		host := t.Host(eventType)
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if s.outage.unreachable(host, now) {
			s.scheduler.pause()
			s.log.Error("no endpoint can be reached: the network of this process seems to be down, deliveries wait",
				zap.Int("hosts", suspectHosts), zap.Duration("tries_every", probeEvery), zap.Error(a.Err))
		}
	}
}

// pause hands out nothing any more but a job now and then, until resume.
func (s *scheduler) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused != nil {
		return
	}
	s.paused = make(chan struct{})
	s.probes = time.AfterFunc(probeEvery, s.probe)
}

// probe hands out one job while the scheduler is paused: rather one of an endpoint that was not found failing, which the
// others may be on their own account.
func (s *scheduler) probe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused == nil || s.stopped {
		return
	}
	s.probes.Reset(probeEvery)
	var best *shard
	for _, r := range []*ring{&s.ready, &s.crowded, &s.retrying} {
		for sh := r.first; sh != nil; sh = sh.after {
			if best == nil || sh.unheard < best.unheard {
				best = sh
			}
		}
	}
	if best == nil {
		return
	}
	best.unlist()
	s.ready.pushFirst(best)
	s.probing = true
	s.call()
}

// resume goes on after pause.
func (s *scheduler) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused == nil {
		return
	}
	s.probes.Stop()
	close(s.paused)
	s.paused, s.probing = nil, false
	for sh := s.ready.first; sh != nil; sh = sh.after {
		s.call()
	}
}
