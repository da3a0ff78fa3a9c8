package kafka

import (
	"slices"
	"sort"
)

// Assignment is what is known of a partition when it is assigned.
type Assignment struct {
	TopicPartition
	// Committed is the offset that the group has committed, -1 for none. Below it everything is done.
	Committed int64

	done []span // beyond Committed, in order
}

// span is the offsets from ≤ o < to.
type span struct{ from, to int64 }

// Done tells whether an offset is done already: it is below Committed, or an earlier owner completed it out of order and
// the commit says so. It will not be handed out. All others that hold a record will be.
func (a Assignment) Done(offset int64) bool {
	if offset < a.Committed {
		return true
	}
	i := sort.Search(len(a.done), func(i int) bool { return a.done[i].to > offset })
	return i < len(a.done) && a.done[i].from <= offset
}

// Assignment lists the partitions whose records this loop hands out, sorted.
func (l *Loop) Assignment() []TopicPartition {
	l.mu.Lock()
	defer l.mu.Unlock()
	tps := make([]TopicPartition, 0, len(l.parts))
	for tp := range l.parts {
		tps = append(tps, tp)
	}
	slices.SortFunc(tps, TopicPartition.compare)
	return tps
}

// assignment is what Assigned is told.
func (p *partition) assignment() Assignment {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := Assignment{TopicPartition: p.tp, Committed: p.committed}
	at := p.window.Watermark()
	for i, run := range p.window.runs() {
		if i%2 == 1 {
			a.done = append(a.done, span{at, at + run})
		}
		at += run
	}
	return a
}
