package dispatcher

import "sync"

// gone remembers which versions of subscriptions were disabled by a signal, until a newer version says what is to hold: the
// signal is obeyed at once, the console records it when it comes to it. It is restored from the signals' topic at start.
type gone struct {
	mu       sync.RWMutex
	versions map[string]int64
}

// add says that a subscription is disabled up to a version; false where that was known.
func (g *gone) add(id string, version int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old, ok := g.versions[id]; ok && old >= version {
		return false
	}
	if g.versions == nil {
		g.versions = map[string]int64{}
	}
	g.versions[id] = version
	return true
}

// covers says whether that version of a subscription is disabled.
func (g *gone) covers(id string, version int64) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	disabled, ok := g.versions[id]
	return ok && version <= disabled
}

// drop forgets about a subscription of which a newer version was read.
func (g *gone) drop(id string, version int64) {
	if !g.has(id) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if disabled, ok := g.versions[id]; ok && version > disabled {
		delete(g.versions, id)
	}
}

func (g *gone) has(id string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	_, ok := g.versions[id]
	return ok
}
