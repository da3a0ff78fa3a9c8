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
}

// add says that a subscription is disabled up to a version; false where that was known.
func (g *gone) add(id string, version int64, at time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old, ok := g.until[id]; ok && old.version >= version && !at.After(old.at) {
		return false
	}
	if g.until == nil {
		g.until = map[string]asOf{}
	}
	g.until[id] = asOf{version, at}
	return true
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
	}
}

func (g *gone) has(id string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	_, ok := g.until[id]
	return ok
}
