package dispatcher

import (
	"sync"
	"sync/atomic"

	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
)

// subscriptionState is what a shard knows of its subscription.
type subscriptionState struct {
	target  atomic.Pointer[target]
	making  sync.Mutex   // held while a target is made: each has a pool and an access token of its own
	checked atomic.Int64 // newest version that a delivery carried and the feed was read to its end for
}

// target is one version of a subscription, made ready to be sent to.
type target struct {
	*outbound.Target
	compiled *subscription.Compiled
}

// route is the URL that events of a type go to.
func (t *target) route(eventType string) string { return t.compiled.Subscription.RouteFor(eventType) }

// current returns the target for that version, nil where there is none that serves.
func (s *subscriptionState) current(c *subscription.Compiled) *target {
	if t := s.target.Load(); t != nil && t.compiled == c && !t.Expired() {
		return t
	}
	return nil
}

// replace closes the target there is, and puts another one, or nil, in its place.
func (s *subscriptionState) replace(t *target) {
	if old := s.target.Swap(t); old != nil {
		old.Close()
	}
}

// shareOf is one shard's share of a subscription's limit: the sum over all its shards never exceeds the limit, unless that
// is below one each.
func shareOf(limit, spread int) int { return max(limit/max(spread, 1), 1) }

// targetOf returns the target for that version of a shard's subscription, making it where there is none.
func (s *Service) targetOf(sh *shard, c *subscription.Compiled) (*target, error) {
	if t := sh.sub.current(c); t != nil {
		return t, nil
	}
	sh.sub.making.Lock()
	defer sh.sub.making.Unlock()
	if t := sh.sub.current(c); t != nil {
		return t, nil
	}
	prepare := s.sender.Target
	if sh.fallback {
		if c.Subscription.FallbackURL == "" {
			return nil, errNoFallback
		}
		prepare = s.sender.Fallback
	}
	prepared, err := prepare(c.Subscription, s.box)
	if err != nil {
		return nil, err
	}
	t := &target{Target: prepared, compiled: c}
	sh.sub.replace(t)
	if newest, ok := s.book.Get(c.ID); ok && newest == c {
		s.scheduler.setLimits(sh, limitsOf(c.Subscription))
	}
	return t, nil
}
