package dispatcher

import (
	"sync"
	"time"

	"github.com/callstream/callstream/subscription"
)

// gone remembers which versions of subscriptions were disabled by a signal, until a newer one says what is to hold: the
// signal is obeyed at once, the console records it when it comes to it. It is restored from the signals' topic at start.
type gone struct {
	mu    sync.RWMutex
	until map[string]asOf // when it was found, and up to which version
	// unsure are those that only this process knows of, because the signal was not read yet.
	unsure map[string]struct{}
}

// add says that a subscription is disabled up to a version; false where that was known. It is sure when the signal was
// read.
func (g *gone) add(id string, version int64, at time.Time, sure bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if sure {
		delete(g.unsure, id)
	}
	if old, ok := g.until[id]; ok && old.version >= version && !at.After(old.at) {
		return false
	}
	if g.until == nil {
		g.until, g.unsure = map[string]asOf{}, map[string]struct{}{}
	}
	g.until[id] = asOf{version, at}
	if !sure {
		g.unsure[id] = struct{}{}
	}
	return true
}

// retract forgets what only this process knows: the partition is lost whose delivery showed it, maybe before the signal was
// written, and its next owner finds out for itself.
func (g *gone) retract(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.unsure[id]; ok {
		delete(g.unsure, id)
		delete(g.until, id)
	}
}

// covers says whether that version of a subscription is disabled.
func (g *gone) covers(c *subscription.Compiled) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	d, ok := g.until[c.ID]
	return ok && d.covers(c)
}

// drop forgets about a subscription of which a newer version was read.
func (g *gone) drop(c *subscription.Compiled) {
	if !g.has(c.ID) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if d, ok := g.until[c.ID]; ok && !d.covers(c) {
		delete(g.until, c.ID)
		delete(g.unsure, c.ID)
	}
}

func (g *gone) has(id string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	_, ok := g.until[id]
	return ok
}
