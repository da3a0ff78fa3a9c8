package main

import (
	"sync"
	"time"
)

// gaps finds the longest time that no delivery of a partition arrived.
type gaps struct {
	mu      sync.Mutex
	last    []time.Time // by partition; zero until its first
	longest time.Duration
}

func newGaps(partitions int) *gaps { return &gaps{last: make([]time.Time, partitions)} }

// arrived takes note of a delivery of a partition.
func (g *gaps) arrived(partition int32) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if last := g.last[partition]; !last.IsZero() {
		g.longest = max(g.longest, now.Sub(last))
	}
	g.last[partition] = now
}

// take returns the longest since it was last called, a partition counted that has not moved until now, and begins anew.
func (g *gaps) take() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	longest := g.longest
	for _, last := range g.last {
		if !last.IsZero() {
			longest = max(longest, time.Since(last))
		}
	}
	g.longest = 0
	return longest
}
