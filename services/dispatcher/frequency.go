package dispatcher

import (
	"container/list"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// mostMarks bounds what a shard remembers of what it let through. Beyond it, the call or agent that was let through the
// longest ago is forgotten, and what comes of it is let through.
const mostMarks = 1 << 16

// lets says whether a subscription's frequency lets a delivery through that was never sent. Replays and redrives pass
// it by, and are not counted.
func (sh *shard) lets(rule *subscription.Frequency, j *job, d *event.Delivery, now time.Time) bool {
	if rule == nil || j.attempts > 0 || d.ReplayID != "" || j.redrive != "" {
		return true
	}
	for {
		f := sh.frequency.Load()
		if f != nil && f.rule == *rule {
			return f.ask(d, now)
		}
		// Another rule begins anew.
		sh.frequency.CompareAndSwap(f, newFrequency(*rule))
	}
}

// frequency lets at most so many events of a call, an agent or all through in any window.
//
// What counts is when an event was accepted, not when it is sent: a backlog comes out as it would have without the outage,
// neither thinned because it is sent all at once nor let through because it is old. Only what was let through counts, once
// for each delivery, whatever becomes of its attempts. Events without a call (or agent) are of none, and pass.
//
// It is kept in memory alone. What isn't remembered is let through: after a restart or a rebalance, beyond mostMarks, and
// where events that are less than a window apart come here more than two windows apart.
type frequency struct {
	rule subscription.Frequency

	mu    sync.Mutex
	keys  map[string]*list.Element
	order list.List // of *counted, the one that was let through the longest ago first
	marks int
}

// counted is what was let through of one call or agent.
type counted struct {
	key   string
	marks []mark // by when their events were accepted
	last  time.Time
}

type mark struct {
	accepted time.Time
	made     time.Time
	delivery string
}

func newFrequency(rule subscription.Frequency) *frequency {
	return &frequency{rule: rule, keys: map[string]*list.Element{}}
}

// ask says whether a delivery is let through, and counts it then. It may be asked about one delivery again.
func (f *frequency) ask(d *event.Delivery, now time.Time) bool {
	key := ""
	switch f.rule.Per {
	case subscription.PerCall:
		key = d.CallID
	case subscription.PerAgent:
		key = d.AgentID
	}
	if key == "" && f.rule.Per != subscription.PerSubscription {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	at := f.keys[key]
	if at == nil {
		at = f.order.PushBack(&counted{key: key})
		f.keys[key] = at // max is at least 1, so there will be a mark
	}
	c := at.Value.(*counted)
	f.trim(c, now)
	i := sort.Search(len(c.marks), func(i int) bool { return c.marks[i].accepted.After(d.AcceptedAt) })
	for k := i - 1; k >= 0 && c.marks[k].accepted.Equal(d.AcceptedAt); k-- {
		if c.marks[k].delivery == d.ID {
			return true // the same again
		}
	}
	if !c.fits(i, d.AcceptedAt, f.rule) {
		return false
	}
	c.marks = slices.Insert(c.marks, i, mark{accepted: d.AcceptedAt, made: now, delivery: d.ID})
	c.last = now
	f.order.MoveToBack(at)
	for f.marks++; f.marks > mostMarks && f.order.Front() != at; {
		f.drop(f.order.Front())
	}
	return true
}

// fits says whether one more that was accepted at t, as the i-th, leaves no window with more than the rule allows.
func (c *counted) fits(i int, t time.Time, rule subscription.Frequency) bool {
	accepted := func(k int) time.Time {
		switch {
		case k < i:
			return c.marks[k].accepted
		case k == i:
			return t
		}
		return c.marks[k-1].accepted
	}
	for first := max(i-rule.Max, 0); first <= i && first+rule.Max <= len(c.marks); first++ {
		if accepted(first+rule.Max).Sub(accepted(first)) < time.Duration(rule.Window) {
			return false
		}
	}
	return true
}

// kept is since when what was let through is remembered.
func (f *frequency) kept(now time.Time) time.Time { return now.Add(-2 * time.Duration(f.rule.Window)) }

// expire forgets those of whom nothing was let through for two windows.
func (f *frequency) expire(now time.Time) {
	since := f.kept(now)
	for at := f.order.Front(); at != nil && at.Value.(*counted).last.Before(since); at = f.order.Front() {
		f.drop(at)
	}
}

// trim forgets the oldest of what was let through of one.
func (f *frequency) trim(c *counted, now time.Time) {
	since, n := f.kept(now), 0
	for n < len(c.marks) && c.marks[n].made.Before(since) {
		n++
	}
	clear(c.marks[:n])
	c.marks = c.marks[n:]
	f.marks -= n
}

func (f *frequency) drop(at *list.Element) {
	c := f.order.Remove(at).(*counted)
	delete(f.keys, c.key)
	f.marks -= len(c.marks)
}

// empty says that there is nothing left to remember; so has one that there isn't.
func (f *frequency) empty(now time.Time) bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	return len(f.keys) == 0
}

// turn keeps the order in which a shard's jobs were taken while its workers ask whether they may be sent: of two events
// of a call the first is let through. The zero turn waits for nobody.
type turn struct {
	before <-chan struct{}
	passed chan struct{}
}

// next returns the turn after t.
func (t turn) next() turn {
	return turn{before: t.passed, passed: make(chan struct{})}
}

// wait returns when all turns before have passed.
func (t turn) wait() {
	if t.before != nil {
		<-t.before
	}
}

// pass gives way to the next turn, after those before. Whoever has a turn passes it on, whatever becomes of the job.
func (t *turn) pass() {
	if t.passed != nil {
		t.wait()
		close(t.passed)
		t.passed = nil
	}
}
