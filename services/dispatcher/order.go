package dispatcher

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// position is where a delivery stands among those of its call and subscription.
type position struct {
	rank int64 // the event's offset in its topic
	// id is a hash of the delivery's. A producer that spreads a call over partitions gives two events one rank: neither is
	// to be taken for a copy of the other.
	id uint64
}

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.rank, q.rank), cmp.Compare(p.id, q.id))
}

// callKey names what is kept in order: the deliveries of a call to a subscription.
type callKey struct{ subscription, call string }

// ordered is a delivery that the book holds: its record, in a lane or in the ordered lane, was handed out and is not done.
type ordered struct {
	position
	key    callKey
	topic  string
	offset int64
	size   int64 // bytes that it holds
	full   bool  // it came when its subscription had no room: it is not to wait here
	// For the owner.
	job *job
	by  *sequencer

	counted   bool // against its subscription's share, in the scheduler
	notBefore time.Time
	leaving   bool       // it is to be written to the end of the ordered lane
	gone      bool       // it is no longer held
	copies    []*ordered // records of the same delivery, done when this one is
}

// elsewhere is a delivery in the ordered lane that was not handed out yet.
type elsewhere struct {
	position
	offset  int64 // of the last record that holds it
	settled bool  // it was settled meanwhile: what comes is a copy
}

// orderedCall is what the book knows of a call that is not done. Its positions are sorted.
type orderedCall struct {
	key     callKey
	held    []*ordered
	away    []elsewhere
	active  *ordered // handed out: it is in its subscription's queue or in flight
	writing *ordered
	leaving int // of those held
	lanes   int // held ones that come from a lane and are not leaving
	counted int

	// since is when a delivery of a lane began to wait for something else than its turn with its subscription.
	since time.Time
	alarm time.Time
	index int // in the book's alarms; -1 where it has none
}

// line is what is held of one topic, by offset.
type line struct {
	held    []*ordered
	gone    int // of those listed
	newest  int64
	bytes   int64 // of those that stay
	stopped bool
}

// oldest is the first that is still held, nil where there is none.
func (l *line) oldest() *ordered {
	for len(l.held) > 0 && l.held[0].gone {
		l.held[0] = nil
		l.held = l.held[1:]
		l.gone--
	}
	if len(l.held) == 0 {
		l.held = nil
		return nil
	}
	return l.held[0]
}

// order is something that the book wants its owner to do.
type order struct {
	what orderKind
	*ordered
}

type orderKind int

const (
	orderSend   orderKind = iota // its turn has come: settled or failed tells what became of it
	orderWrite                   // append it to the ordered lane: written tells when that is acknowledged
	orderFinish                  // it is a copy: its record is done
	orderRelent                  // it no longer counts against its subscription's share
)

// orderLimits bound what a book holds.
type orderLimits struct {
	ordered string // the name of the ordered lane
	offsets int64  // most that may lie between the oldest held of a topic and its newest
	bytes   int64  // of a topic
	inPlace time.Duration
}

// orderBook keeps the deliveries of each call in order, for one partition number. At most one of a call is handed out, the
// lowest: later ones wait in the book, where they hold back their topic's window, or in the ordered lane, where they hold
// back nothing. From which of them a delivery comes says nothing about its position, so one that is lower than all that
// is held may lie in the ordered lane, and is waited for.
//
// A call is written to the ordered lane when what it waits for takes too long, or when the oldest that the book holds of a
// topic has to give room. Its deliveries are written one at a time, the lowest first. So whenever one of them is in the
// ordered lane, each lower one is done, is there too, or is still handed out by its lane before it: whoever reads the
// ordered lane to its end before handing anything out knows what comes first, also after a crash at any moment.
//
// It is pure data: no clock, no lock, no writes. Its owner serializes the calls, and carries out the orders that they leave.
type orderBook struct {
	limits orderLimits
	calls  map[callKey]*orderedCall
	lines  map[string]*line
	alarms alarms
	orders []order
	open   bool // the ordered lane is read to its end: what is in it is known
	frozen int  // topics that are being given up
}

func newOrderBook(l orderLimits) *orderBook {
	return &orderBook{limits: l, calls: map[callKey]*orderedCall{}, lines: map[string]*line{}}
}

// take returns what is to be done, and forgets it.
func (b *orderBook) take() []order {
	orders := b.orders
	b.orders = nil
	return orders
}

func (b *orderBook) line(topic string) *line {
	l := b.lines[topic]
	if l == nil {
		l = &line{}
		b.lines[topic] = l
	}
	return l
}

func (b *orderBook) call(key callKey) *orderedCall {
	c := b.calls[key]
	if c == nil {
		c = &orderedCall{key: key, index: -1}
		b.calls[key] = c
	}
	return c
}

// waits says that a delivery of that call that comes now would wait for something else than its subscription's room.
func (b *orderBook) waits(key callKey, now time.Time) bool {
	c := b.calls[key]
	return c != nil && (len(c.away) > 0 || c.leaving > 0 || len(c.held) > 0 && c.held[0].notBefore.After(now))
}

// add takes a delivery whose record was handed out. It is false where the topic is being given up: the record is then
// the next owner's.
func (b *orderBook) add(e *ordered, now time.Time) bool {
	l := b.line(e.topic)
	if l.stopped {
		return false
	}
	c := b.call(e.key)
	lane := e.topic != b.limits.ordered
	l.newest = max(l.newest, e.offset)
	if !lane && c.writing != nil && c.writing.position == e.position {
		b.remove(c, c.writing) // it came back before its acknowledgement
		c.writing = nil
	}
	if e.counted {
		c.counted++
	}
	if i, ok := c.findAway(e.position); ok {
		settled := c.away[i].settled
		if !lane && c.away[i].offset <= e.offset {
			c.away = slices.Delete(c.away, i, i+1)
		}
		if lane || settled {
			b.uncount(c, e)
			b.order(orderFinish, e)
			b.step(c, now)
			return true
		}
	}
	i, ok := c.findHeld(e.position)
	if ok {
		b.uncount(c, e)
		c.held[i].copies = append(c.held[i].copies, e)
		b.step(c, now)
		return true
	}
	c.held = slices.Insert(c.held, i, e)
	l.held = append(l.held, e)
	l.bytes += e.size
	if lane {
		c.lanes++
	}
	switch {
	case e.full && lane:
		b.leave(c, false)
	case e.full:
		b.flag(c, e)
	}
	b.makeRoom(l, now)
	b.step(c, now)
	return true
}

func (c *orderedCall) findHeld(p position) (int, bool) {
	return slices.BinarySearchFunc(c.held, p, func(e *ordered, p position) int { return e.compare(p) })
}

func (c *orderedCall) findAway(p position) (int, bool) {
	return slices.BinarySearchFunc(c.away, p, func(a elsewhere, p position) int { return a.compare(p) })
}

// settled says that the outcome of a delivery is certain and on its way to Kafka: the next of its call may go.
func (b *orderBook) settled(e *ordered, now time.Time) {
	c := b.calls[e.key]
	if c == nil || c.active != e {
		return
	}
	c.active, c.since = nil, time.Time{}
	if i, ok := c.findAway(e.position); ok {
		c.away[i].settled = true
	}
	b.remove(c, e)
	b.step(c, now)
}

// failed says that a delivery that was handed out is to be tried again, not before until.
func (b *orderBook) failed(e *ordered, until, now time.Time) {
	c := b.calls[e.key]
	if c == nil || c.active != e {
		return
	}
	c.active, e.notBefore = nil, until
	if c.since.IsZero() {
		c.since = now
	}
	if until.Sub(c.since) > b.limits.inPlace {
		b.flag(c, e)
		b.leave(c, false)
	}
	b.makeRoom(b.line(e.topic), now)
	b.step(c, now)
}

// written says that a delivery stands in the ordered lane at offset. A negative one says that it does not, and is not to
// be waited for: it has become a dead letter.
func (b *orderBook) written(e *ordered, offset int64, now time.Time) {
	c := b.calls[e.key]
	if c == nil || c.writing != e {
		return
	}
	c.writing = nil
	if offset >= 0 {
		c.note(e.position, offset)
	}
	b.remove(c, e)
	b.step(c, now)
}

// note remembers that a delivery stands in the ordered lane.
func (c *orderedCall) note(p position, offset int64) {
	i, ok := c.findAway(p)
	if ok {
		c.away[i].offset = max(c.away[i].offset, offset)
		return
	}
	c.away = slices.Insert(c.away, i, elsewhere{position: p, offset: offset})
}

// standing is a record of the ordered lane, as it is found when its partition is assigned.
type standing struct {
	key callKey
	position
	offset int64
}

// begin tells the book all that stands in the ordered lane. Nothing leaves the book before.
func (b *orderBook) begin(found []standing, now time.Time) {
	b.open = true
	for _, f := range found {
		c := b.call(f.key)
		c.note(f.position, f.offset)
		i, ok := c.findHeld(f.position)
		if !ok {
			continue
		}
		switch e := c.held[i]; e {
		case c.active: // it is known to be settled when the other comes
		case c.writing:
			c.writing = nil
			b.remove(c, e)
		default:
			b.order(orderFinish, e)
			b.remove(c, e)
		}
	}
	b.stepAll(now)
}

// lost says that the ordered lane no longer has the records in [from, to), which were not handed out.
func (b *orderBook) lost(from, to int64, now time.Time) {
	for _, c := range b.calls {
		c.away = slices.DeleteFunc(c.away, func(a elsewhere) bool { return from <= a.offset && a.offset < to })
	}
	b.stepAll(now)
}

// stop says that a topic is being given up, and returns the deliveries of it that nobody works on. Nothing is handed out
// any more, of no topic, until it is dropped: what is given up may have to come first.
func (b *orderBook) stop(topic string) []*ordered {
	l := b.line(topic)
	if l.stopped {
		return nil
	}
	l.stopped = true
	b.frozen++
	var idle []*ordered
	for _, c := range b.calls {
		for _, e := range c.held {
			if e.topic == topic && e != c.active && e != c.writing {
				idle = append(idle, e)
			}
			e.copies = slices.DeleteFunc(e.copies, func(twin *ordered) bool {
				if twin.topic != topic {
					return false
				}
				idle = append(idle, twin)
				return true
			})
		}
	}
	return idle
}

// drop forgets a topic that was lost.
func (b *orderBook) drop(topic string, now time.Time) {
	if l := b.lines[topic]; l != nil && l.stopped {
		b.frozen--
	}
	var again []*ordered // copies that others waited in place of
	for _, c := range b.calls {
		for _, e := range slices.Clone(c.held) {
			e.copies = slices.DeleteFunc(e.copies, func(twin *ordered) bool { return twin.topic == topic })
			if e.topic == topic {
				again = append(again, e.copies...)
				e.copies = nil
				b.remove(c, e)
			}
		}
		if c.active != nil && c.active.gone {
			c.active = nil
		}
		if c.writing != nil && c.writing.gone {
			c.writing = nil
		}
		if topic == b.limits.ordered {
			c.away = nil
		}
	}
	delete(b.lines, topic)
	if topic == b.limits.ordered {
		b.open = false
	}
	for _, e := range again {
		b.add(e, now)
	}
	b.stepAll(now)
}

// tick goes on with the calls whose time has come.
func (b *orderBook) tick(now time.Time) {
	for len(b.alarms) > 0 && !b.alarms[0].alarm.After(now) {
		c := b.alarms[0]
		b.silence(c)
		b.step(c, now)
	}
}

// nextAlarm is when tick has something to do; zero for never.
func (b *orderBook) nextAlarm() time.Time {
	if len(b.alarms) == 0 {
		return time.Time{}
	}
	return b.alarms[0].alarm
}

// holds is how many deliveries the book holds, and how many stand in the ordered lane.
func (b *orderBook) holds() (held, away int) {
	for _, c := range b.calls {
		held += len(c.held)
		away += len(c.away)
	}
	return held, away
}

func (b *orderBook) order(what orderKind, e *ordered) { b.orders = append(b.orders, order{what, e}) }

func (b *orderBook) stepAll(now time.Time) {
	for _, c := range b.calls {
		b.step(c, now)
	}
}

// step decides what the call does next.
func (b *orderBook) step(c *orderedCall, now time.Time) {
	if len(c.held) == 0 && len(c.away) == 0 {
		b.silence(c)
		delete(b.calls, c.key)
		return
	}
	if !b.open || b.frozen > 0 || c.active != nil || c.writing != nil {
		return
	}
	b.silence(c)
	if c.leaving == 0 && len(c.held) > 0 {
		head := c.held[0]
		if !c.precedes(head.position) && !head.notBefore.After(now) {
			c.active = head
			b.uncount(c, head) // it is in the queue now
			b.order(orderSend, head)
			return
		}
		b.linger(c, now)
	}
	if c.leaving == 0 {
		return
	}
	b.leave(c, false) // what is lower has to be there first, and what is higher could not go
	i := slices.IndexFunc(c.held, func(e *ordered) bool { return e.leaving })
	c.writing, c.since = c.held[i], time.Time{}
	b.uncountAll(c)
	b.order(orderWrite, c.writing)
}

// precedes says that something in the ordered lane comes before a place.
func (c *orderedCall) precedes(p position) bool {
	for i := range c.away {
		if c.away[i].compare(p) >= 0 {
			return false
		}
		if !c.away[i].settled {
			return true
		}
	}
	return false
}

// linger has a call wait whose lowest delivery may not go yet. What comes from a lane waits only so long.
func (b *orderBook) linger(c *orderedCall, now time.Time) {
	b.uncountAll(c)
	head := c.held[0]
	alarm := head.notBefore
	if !alarm.After(now) {
		alarm = time.Time{} // it waits for the ordered lane, which hands out by itself
	}
	if c.lanes > 0 {
		if c.since.IsZero() {
			c.since = now
		}
		end := c.since.Add(b.limits.inPlace)
		if !end.After(now) {
			b.leave(c, false)
			return
		}
		if alarm.IsZero() || end.Before(alarm) {
			alarm = end
		}
	}
	if !alarm.IsZero() {
		c.alarm = alarm
		heap.Push(&b.alarms, c)
	}
}

func (b *orderBook) silence(c *orderedCall) {
	if c.index >= 0 {
		heap.Remove(&b.alarms, c.index)
	}
}

// uncount gives back what a delivery takes of its subscription's share.
func (b *orderBook) uncount(c *orderedCall, e *ordered) {
	if e.counted {
		e.counted = false
		c.counted--
		b.order(orderRelent, e)
	}
}

// uncountAll gives back what the call takes of its subscription's share: a call that waits is not to push out others.
func (b *orderBook) uncountAll(c *orderedCall) {
	if c.counted == 0 {
		return
	}
	for _, e := range c.held {
		b.uncount(c, e)
	}
}

// makeRoom has calls leave that hold back a topic, those of its oldest records first.
func (b *orderBook) makeRoom(l *line, now time.Time) {
	oldest := l.oldest()
	if oldest == nil {
		return
	}
	if l.newest-oldest.offset >= b.limits.offsets {
		b.evict(oldest, now)
	}
	for i := 0; i < len(l.held) && l.bytes > b.limits.bytes; i++ {
		b.evict(l.held[i], now)
	}
}

func (b *orderBook) evict(e *ordered, now time.Time) {
	c := b.calls[e.key]
	if e.gone || e.leaving || e == c.active || e == c.writing {
		return // it is on its way out
	}
	b.leave(c, e.topic == b.limits.ordered)
	b.step(c, now)
}

// leave has what the call holds of lanes written to the ordered lane, or all that it holds.
func (b *orderBook) leave(c *orderedCall, all bool) {
	for _, e := range c.held {
		if all || e.topic != b.limits.ordered {
			b.flag(c, e)
		}
	}
}

func (b *orderBook) flag(c *orderedCall, e *ordered) {
	if e.leaving || e == c.active || e == c.writing {
		return
	}
	e.leaving = true
	c.leaving++
	b.line(e.topic).bytes -= e.size
	if e.topic != b.limits.ordered {
		c.lanes--
	}
}

// remove takes a delivery out; its copies are done.
func (b *orderBook) remove(c *orderedCall, e *ordered) {
	if i, ok := c.findHeld(e.position); ok {
		c.held = slices.Delete(c.held, i, i+1)
	}
	b.uncount(c, e)
	l := b.line(e.topic)
	e.gone = true
	l.gone++
	if e.leaving {
		c.leaving--
	} else {
		l.bytes -= e.size
		if e.topic != b.limits.ordered {
			c.lanes--
		}
	}
	for _, twin := range e.copies {
		b.order(orderFinish, twin)
	}
	e.copies = nil
	if l.gone > 64 && l.gone > len(l.held)/2 { // the oldest may stay for long
		l.held = slices.DeleteFunc(l.held, func(e *ordered) bool { return e.gone })
		l.gone = 0
	}
}

// alarms is a heap of calls by their alarm.
type alarms []*orderedCall

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].alarm.Before(a[j].alarm) }
func (a alarms) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push is heap.Interface's.
func (a *alarms) Push(x any) {
	c, _ := x.(*orderedCall)
	c.index = len(*a)
	*a = append(*a, c)
}

// Pop is heap.Interface's.
func (a *alarms) Pop() any {
	old := *a
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	c.index = -1
	return c
}
