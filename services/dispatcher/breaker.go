package dispatcher

import (
	"math/rand/v2"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/subscription/outbound"
	"go.uber.org/zap"
)

const (
	// breakerFailures in a row, over at least breakerSpan and at most breakerWindow, open a breaker. An endpoint that gets
	// less than that simply follows the retry schedules of its deliveries.
	breakerFailures = 20
	breakerSpan     = 5 * time.Second
	breakerWindow   = time.Minute
	// firstProbe is how long a breaker is open before one request tries again; doubled each time, up to lastProbe.
	firstProbe = time.Second
	lastProbe  = 30 * time.Second
	// longestCool bounds how long a 429 or 503 with Retry-After holds back an endpoint's other deliveries; the one that was
	// answered so waits as long as it was told to.
	longestCool = 5 * time.Minute
	// shortCool is how long such a time may be for what is queued to wait for its end.
	shortCool = 5 * time.Second
)

// came is what came of a request, as far as it says how the endpoint is.
type came struct {
	what cameOf
	wait time.Duration // for which the endpoint asked
}

type cameOf int

const (
	cameNothing cameOf = iota // nothing was sent, or it says nothing about the endpoint
	cameAnswer                // the endpoint is there and takes requests, whatever it thought of this one
	cameRefusal               // 5xx or 429: it is there, and can't take them
	cameSilence               // no answer
)

// cameFrom judges an answer.
func cameFrom(a *outbound.Answer, now time.Time) came {
	switch {
	case a.Status == 0:
		switch egress.ClassOf(a.Err) {
		case egress.ClassBlocked, egress.ClassInvalid, egress.ClassCanceled:
			return came{}
		}
		return came{what: cameSilence}
	case a.Status == 429 || a.Status >= 500:
		c := came{what: cameRefusal}
		if a.Status == 429 || a.Status == 503 {
			c.wait = min(parseRetryAfter(a.Header.Get("Retry-After"), now), longestCool)
		}
		return c
	}
	return came{what: cameAnswer}
}

// breaker keeps requests from an endpoint that fails all of them. While it is open nothing is sent but one request now
// and then, and what arrives is parked: that is no attempt. The first one that is answered closes it.
type breaker struct {
	failures int       // in a row
	since    time.Time // the first of them
	opened   int       // times in a row that it opened; 0: it is closed
	until    time.Time // while it is open: nothing before
	cool     time.Time // the endpoint asked for nothing before
}

// succeeded takes an answer; true where that closes the breaker.
func (b *breaker) succeeded() bool {
	closes := b.opened > 0
	b.failures, b.opened = 0, 0
	return closes
}

// failed takes a failure; true where that opens the breaker. random is in [0, 1).
func (b *breaker) failed(now time.Time, random float64) bool {
	if b.opened > 0 {
		if now.Before(b.until) {
			return false // it was under way already
		}
		b.open(now, random)
		return false
	}
	if b.failures == 0 || now.Sub(b.since) > breakerWindow {
		b.failures, b.since = 0, now
	}
	if b.failures++; b.failures < breakerFailures || now.Sub(b.since) < breakerSpan {
		return false
	}
	b.open(now, random)
	return true
}

func (b *breaker) open(now time.Time, random float64) {
	wait := lastProbe
	if b.opened < 5 {
		wait = min(firstProbe<<b.opened, lastProbe)
	}
	b.opened++
	b.failures = 0
	b.until = now.Add(withJitter(wait, random))
}

// refuses says whether the shard takes nothing now: until when, or because one request is on its way that will tell. The
// scheduler's lock is held.
func (sh *shard) refuses(now time.Time) (admission, time.Time) {
	switch b := &sh.breaker; {
	case b.opened > 0 && (sh.active || now.Before(b.until)):
		return broken, b.until
	case b.cool.Sub(now) > shortCool:
		return cooling, b.cool
	}
	return admitted, time.Time{}
}

// change is what a request's end changed about its shard, to be carried out without the lock.
type change struct {
	shard  *shard
	opened bool
	closed bool
	until  time.Time
	why    admission // of the jobs
	jobs   []*job    // that are not to wait any longer
}

// react has a shard's breaker learn what came of a request; the lock is held.
func (s *scheduler) react(sh *shard, c came, now time.Time) *change {
	switch c.what {
	case cameNothing:
		return nil
	case cameAnswer:
		sh.unheard = 0
		if sh.breaker.succeeded() {
			s.broken--
			return &change{shard: sh, closed: true}
		}
		return nil
	case cameRefusal:
		sh.unheard = 0
	case cameSilence:
		sh.unheard++
		if s.paused != nil {
			return nil // it is not the endpoint's fault
		}
	}
	everything := func(*job) bool { return true }
	if c.wait > 0 {
		if until := now.Add(c.wait); until.After(sh.breaker.cool) {
			sh.breaker.cool = until
		}
	}
	if sh.breaker.failed(now, rand.Float64()) {
		s.broken++
		return &change{shard: sh, opened: true, until: sh.breaker.until, why: broken, jobs: s.remove(sh, now, everything)}
	}
	if c.wait > shortCool {
		if jobs := s.remove(sh, now, everything); len(jobs) > 0 {
			return &change{shard: sh, until: sh.breaker.cool, why: cooling, jobs: jobs}
		}
	}
	return nil
}

// changed carries out what the end of a request changed.
func (s *Service) changed(c *change) {
	sh := c.shard
	for _, j := range c.jobs {
		s.divert(j, c.why, c.until)
	}
	if !c.opened && !c.closed {
		return
	}
	fields := []zap.Field{zap.String("subscription", sh.subscription), zap.Int32("partition", sh.partition), zap.Bool("fallback", sh.fallback)}
	if t := sh.sub.target.Load(); t != nil {
		fields = append(fields, zap.String("tenant", t.compiled.Tenant), zap.String("host", t.Host("")))
	}
	if c.closed {
		s.log.Info("an endpoint answers again: its breaker is closed", fields...)
		return
	}
	s.log.Info("an endpoint fails all requests: its breaker is open", append(fields, zap.Time("next_request", c.until), zap.Int("parked", len(c.jobs)))...)
}
