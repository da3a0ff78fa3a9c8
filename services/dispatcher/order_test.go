package dispatcher

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/callstream/callstream/schemas/topic"
	"pgregory.net/rapid"
)

// orderWorld is two logs, what of them is done, and a dispatcher with a book that may die at any moment.
type orderWorld struct {
	t       *rapid.T
	now     time.Time
	logs    map[string][]logged
	done    map[string]map[int64]bool // as the dispatcher of the moment knows
	kept    map[string]map[int64]bool // as it is committed
	settled map[string]map[int64]bool // by call and rank: delivered, or dead
	won     map[string]map[int64]int  // by call and rank: deliveries

	book    *orderBook
	open    bool
	next    map[string]int64 // offset to be handed out next
	flights []*ordered
	writes  []*pendingWrite
	zombies []logged // written by the dead, not arrived yet
	share   int      // counted by the scheduler
	events  int64
	crashed bool
	repeats bool // a record was written twice
}

type logged struct {
	call     string
	rank     int64
	enqueued time.Time
}

type pendingWrite struct {
	*ordered
	offset int64 // -1 until it stands in the log
}

const (
	testLane    = "deliveries.standard"
	testInPlace = 60 * time.Second
	testDelay   = 30 * time.Second
)

func newOrderWorld(t *rapid.T) *orderWorld {
	w := &orderWorld{
		t: t, now: time.Unix(1_000_000, 0), logs: map[string][]logged{}, settled: map[string]map[int64]bool{}, won: map[string]map[int64]int{},
		kept: map[string]map[int64]bool{testLane: {}, topic.Ordered: {}},
	}
	w.done = map[string]map[int64]bool{testLane: {}, topic.Ordered: {}}
	w.start()
	return w
}

// start is a dispatcher that begins where the last one has committed.
func (w *orderWorld) start() {
	w.done = map[string]map[int64]bool{testLane: maps.Clone(w.kept[testLane]), topic.Ordered: maps.Clone(w.kept[topic.Ordered])}
	w.book = newOrderBook(orderLimits{ordered: topic.Ordered, offsets: 12, bytes: 9, inPlace: testInPlace})
	w.open, w.next, w.flights, w.writes, w.share = false, map[string]int64{}, nil, nil, 0
}

// obey carries out what the book wants.
func (w *orderWorld) obey() {
	for orders := w.book.take(); len(orders) > 0; orders = w.book.take() {
		for _, o := range orders {
			switch o.what {
			case orderSend:
				for _, f := range w.flights {
					if f.key == o.key {
						w.t.Fatalf("two of %s are in flight: %d and %d", o.key.call, f.rank, o.rank)
					}
				}
				w.flights = append(w.flights, o.ordered)
			case orderWrite:
				w.writes = append(w.writes, &pendingWrite{o.ordered, -1})
			case orderFinish:
				w.done[o.topic][o.offset] = true
			case orderRelent:
				w.share--
			}
		}
	}
	if w.share < 0 {
		w.t.Fatalf("the share of a subscription is %d", w.share)
	}
}

// hand hands out the next record of a log; false where there is none.
func (w *orderWorld) hand(name string, full bool) bool {
	for ; w.next[name] < int64(len(w.logs[name])); w.next[name]++ {
		at := w.next[name]
		if w.done[name][at] {
			continue
		}
		r := w.logs[name][at]
		if name == topic.Ordered && (!w.open || r.enqueued.Add(testDelay).After(w.now)) {
			return false
		}
		w.next[name]++
		e := &ordered{position: position{rank: r.rank}, key: callKey{"sub", r.call}, topic: name, offset: at, size: 1, full: full}
		if !full && !w.book.waits(e.key, w.now) {
			e.counted = true
			w.share++
		}
		if !w.book.add(e, w.now) {
			w.t.Fatalf("nothing is being given up")
		}
		w.obey()
		return true
	}
	return false
}

func (w *orderWorld) begin() bool {
	if w.open {
		return false
	}
	w.open = true
	var found []standing
	for at, r := range w.logs[topic.Ordered] {
		if !w.done[topic.Ordered][int64(at)] {
			found = append(found, standing{callKey{"sub", r.call}, position{rank: r.rank}, int64(at)})
		}
	}
	w.book.begin(found, w.now)
	w.obey()
	return true
}

// land ends a flight.
func (w *orderWorld) land(i int, outcome string, delay time.Duration) {
	e := w.flights[i]
	w.flights = append(w.flights[:i:i], w.flights[i+1:]...)
	if outcome == "failed" {
		w.book.failed(e, w.now.Add(delay), w.now)
		w.obey()
		return
	}
	if outcome == "delivered" {
		if w.won[e.key.call] == nil {
			w.won[e.key.call] = map[int64]int{}
		}
		w.won[e.key.call][e.rank]++
		if n := w.won[e.key.call][e.rank]; n > 1 && !w.crashed && !w.repeats {
			w.t.Fatalf("%s %d was delivered %d times", e.key.call, e.rank, n)
		}
		for _, r := range w.logs[testLane] {
			if r.call == e.key.call && r.rank < e.rank && !w.settled[r.call][r.rank] {
				w.t.Fatalf("%s: %d was delivered before %d", r.call, e.rank, r.rank)
			}
		}
	}
	w.settle(e)
	w.done[e.topic][e.offset] = true
	w.book.settled(e, w.now)
	w.obey()
}

func (w *orderWorld) settle(e *ordered) {
	if w.settled[e.key.call] == nil {
		w.settled[e.key.call] = map[int64]bool{}
	}
	w.settled[e.key.call][e.rank] = true
}

func (w *orderWorld) append(p *pendingWrite) {
	p.offset = int64(len(w.logs[topic.Ordered]))
	w.logs[topic.Ordered] = append(w.logs[topic.Ordered], logged{p.key.call, p.rank, w.now})
}

// acknowledge ends a write.
func (w *orderWorld) acknowledge(i int) {
	p := w.writes[i]
	if p.offset < 0 {
		w.append(p)
	}
	w.writes = append(w.writes[:i:i], w.writes[i+1:]...)
	w.done[p.topic][p.offset0()] = true
	w.book.written(p.ordered, p.offset, w.now)
	w.obey()
}

// offset0 is the offset of the record that was written again.
func (p *pendingWrite) offset0() int64 { return p.ordered.offset }

func (w *orderWorld) advance(d time.Duration) {
	w.now = w.now.Add(d)
	w.book.tick(w.now)
	w.obey()
}

// die ends the dispatcher. What it was writing may stand in the log, or come to it later, or never.
func (w *orderWorld) die() {
	w.crashed = true
	for _, p := range w.writes {
		if p.offset < 0 {
			switch rapid.IntRange(0, 2).Draw(w.t, "the write's fate") {
			case 0:
				w.append(p)
			case 1:
				w.zombies = append(w.zombies, logged{p.key.call, p.rank, w.now})
			}
		}
	}
	w.start()
}

func (w *orderWorld) commit() {
	w.kept = map[string]map[int64]bool{testLane: maps.Clone(w.done[testLane]), topic.Ordered: maps.Clone(w.done[topic.Ordered])}
}

// P-02: whatever happens, the events of a call are first delivered in their order, each but the dead, one at a time; and
// when nothing fails any more, everything ends.
func TestOrderBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newOrderWorld(t)
		calls := rapid.IntRange(1, 4).Draw(t, "calls")
		pick := func(n int, what string) int {
			if n == 0 {
				t.Skip("there is none")
			}
			return rapid.IntRange(0, n-1).Draw(t, what)
		}
		skip := func(did bool) {
			if !did {
				t.Skip("nothing to do")
			}
		}
		produce := func(t *rapid.T) {
			call := fmt.Sprint("c", pick(calls, "call"))
			w.logs[testLane] = append(w.logs[testLane], logged{call: call, rank: w.events})
			w.events++
		}
		lane := func(t *rapid.T) { skip(w.hand(testLane, rapid.IntRange(0, 9).Draw(t, "full") == 0)) }
		land := func(t *rapid.T) {
			i := pick(len(w.flights), "flight")
			outcome := rapid.SampledFrom([]string{"delivered", "delivered", "failed", "failed", "dead"}).Draw(t, "outcome")
			if outcome == "dead" {
				w.settle(w.flights[i])
			}
			w.land(i, outcome, time.Duration(rapid.SampledFrom([]int{1, 20, 55, 300}).Draw(t, "delay"))*time.Second)
		}
		acknowledge := func(t *rapid.T) { w.acknowledge(pick(len(w.writes), "write")) }
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				held, away := w.book.holds()
				if held == 0 && away == 0 && len(w.book.calls) > 0 {
					t.Fatalf("%d calls are remembered for nothing", len(w.book.calls))
				}
			},
			"produce": produce, "produce more": produce,
			"the filter repeats itself": func(t *rapid.T) {
				n := min(rapid.IntRange(1, 3).Draw(t, "records"), len(w.logs[testLane]))
				w.logs[testLane] = append(w.logs[testLane], w.logs[testLane][len(w.logs[testLane])-n:]...)
				w.repeats = true
			},
			"lane": lane, "lane again": lane,
			"ordered lane": func(t *rapid.T) { skip(w.hand(topic.Ordered, rapid.IntRange(0, 9).Draw(t, "full") == 0)) },
			"begin":        func(*rapid.T) { skip(w.begin()) },
			"land":         land, "land again": land,
			"arrive": func(t *rapid.T) { // in the log, before the acknowledgement; or a second time
				p := w.writes[pick(len(w.writes), "write")]
				w.repeats = w.repeats || p.offset >= 0
				w.append(p)
			},
			"acknowledge": acknowledge, "acknowledge again": acknowledge,
			"refused": func(t *rapid.T) { // too large for the ordered lane: it is dead
				i := pick(len(w.writes), "write")
				p := w.writes[i]
				if p.offset >= 0 {
					t.Skip("it is there")
				}
				w.settle(p.ordered)
				w.writes = append(w.writes[:i:i], w.writes[i+1:]...)
				w.done[p.topic][p.offset0()] = true
				w.book.written(p.ordered, -1, w.now)
				w.obey()
			},
			"time": func(t *rapid.T) {
				w.advance(time.Duration(rapid.SampledFrom([]int{1, 10, 30, 100}).Draw(t, "seconds")) * time.Second)
			},
			"commit": func(*rapid.T) { w.commit() },
			"crash":  func(*rapid.T) { w.die() },
			"rebalance": func(t *rapid.T) {
				for _, name := range []string{topic.Ordered, testLane} {
					for _, e := range w.book.stop(name) {
						if w.done[e.topic][e.offset] {
							t.Fatalf("%s %d is given back although it is done", e.key.call, e.rank)
						}
					}
				}
				for len(w.flights) > 0 && rapid.Bool().Draw(t, "one more ends") {
					w.land(0, "delivered", 0)
				}
				w.commit()
				w.die()
			},
			"one topic goes and comes back": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{topic.Ordered, testLane}).Draw(t, "topic")
				w.book.stop(name)
				w.obey()
				w.book.drop(name, w.now)
				w.crashed = true
				keep := w.flights[:0:0]
				for _, f := range w.flights {
					if f.topic != name {
						keep = append(keep, f)
					}
				}
				w.flights = keep
				writes := w.writes[:0:0]
				for _, p := range w.writes {
					switch {
					case p.topic != name:
						writes = append(writes, p)
					case p.offset < 0:
						w.zombies = append(w.zombies, logged{p.key.call, p.rank, w.now})
					}
				}
				w.writes = writes
				w.next[name] = 0
				if name == topic.Ordered {
					w.open = false
				}
				w.obey()
			},
			"a write of the dead arrives": func(t *rapid.T) {
				i := pick(len(w.zombies), "zombie")
				w.logs[topic.Ordered] = append(w.logs[topic.Ordered], w.zombies[i])
				w.zombies = append(w.zombies[:i:i], w.zombies[i+1:]...)
			},
		})
		w.finish()
	})
}

// finish lets everything succeed, and expects an end.
func (w *orderWorld) finish() {
	w.begin()
	for range 100 + 20*len(w.logs[testLane]) + 20*len(w.logs[topic.Ordered]) {
		for w.hand(testLane, false) {
		}
		for w.hand(topic.Ordered, false) {
		}
		for len(w.writes) > 0 {
			w.acknowledge(0)
		}
		for len(w.flights) > 0 {
			w.land(0, "delivered", 0)
		}
		w.advance(testDelay / 2)
	}
	if held, away := w.book.holds(); held+away+len(w.book.calls) > 0 || w.share != 0 {
		w.t.Fatalf("%d are held and %d in the ordered lane, of %d calls, %d of the share is taken", held, away, len(w.book.calls), w.share)
	}
	for name, records := range w.logs {
		for at, r := range records {
			if !w.done[name][int64(at)] {
				w.t.Fatalf("%s/%d (%s %d) was never done", name, at, r.call, r.rank)
			}
			if !w.settled[r.call][r.rank] {
				w.t.Fatalf("%s %d was lost", r.call, r.rank)
			}
		}
	}
}
