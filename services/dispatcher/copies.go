package dispatcher

import (
	"cmp"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/twmb/franz-go/pkg/kgo"
)

// mostCopies bounds each half of what is remembered: a process that dies leaves fewer records behind that it has moved on,
// and whose offsets are not committed.
const mostCopies = 32 << 10

// copies remembers how far deliveries have come that are late: retries, what was parked, and what is redriven. A late
// record that was moved on, and whose offset wasn't committed when its process died, is moved on once more: then there are
// two of the delivery, and without this the next crash would make four of them. Of two that take the same step, the second
// ends here; where the first is being sent, the second waits.
//
// A step is noted when all that follows from it is acknowledged. So for whatever ends here stands another record, or an
// outcome; and what is forgotten, by a restart or among too many, is sent again under the same webhook-id. First attempts
// are not noted: how many of them a crash repeats is bounded by the commits.
type copies struct {
	some atomic.Bool // whether there is anything to look for
	mu   sync.Mutex
	of   recent[copyKey, progress]
	seed [2]maphash.Seed
	ours func(*kafka.Task) bool // whether its partition is not lost
}

// progress is what is known of a delivery's copies.
type progress struct {
	next step        // where those begin that stand for all before
	by   *kafka.Task // the one that is being sent; nil where none is
}

func newCopies() *copies {
	return &copies{of: recent[copyKey, progress]{most: mostCopies}, seed: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		ours: func(t *kafka.Task) bool { return t.Context().Err() == nil }}
}

// copyKey is what all copies of a delivery have in common, and what the same event's other turns (produced, filtered,
// replayed or redriven once more) have not. Of two hashes, since one that collides would cost a delivery.
type copyKey [2]uint64

func (c *copies) keyOf(r *kgo.Record) copyKey {
	named := struct{ delivery, origin, redrive string }{
		kafka.Header(r, kafka.HeaderDelivery), cmp.Or(kafka.Header(r, kafka.HeaderOrigin), place(r)), kafka.Header(r, kafka.HeaderRedrive),
	}
	return copyKey{maphash.Comparable(c.seed[0], named), maphash.Comparable(c.seed[1], named)}
}

// step is how far a delivery has come: each record that carries it on begins one further than the one before. Only a hop
// doesn't: it is on the way to the same attempt.
type step struct{ attempts, parked int }

// ended is after every step.
var ended = step{attempts: math.MaxInt}

func (d *delivery) step() step { return step{d.attempts, d.parked} }

func (s step) before(other step) bool {
	return s.attempts < other.attempts || s.attempts == other.attempts && s.parked < other.parked
}

// isLate says whether copies of a delivery are looked for. Those whose call is kept in order have their order's book.
func (d *delivery) isLate() bool {
	return d.order == nil && d.call == "" && (d.from.kind != fromLane || d.attempts > 0 || d.redrive != "")
}

// taken notes that all is written that follows from a late record, so that its delivery goes on from next, and ends its claim.
func (c *copies) taken(t *kafka.Task, next step) {
	key := c.keyOf(t.Record)
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.of.get(key)
	if p.next.before(next) {
		p.next = next
	}
	if p.by == t {
		p.by = nil
	}
	c.of.put(key, p)
	c.some.Store(true)
}

// overtaken says whether a delivery is a copy of one that has taken its step.
func (c *copies) overtaken(d *delivery) bool {
	if !c.some.Load() || !d.isLate() {
		return false
	}
	key := c.keyOf(d.task.Record)
	c.mu.Lock()
	defer c.mu.Unlock()
	return d.step().before(c.of.get(key).next)
}

// claim is asked before a delivery is sent: of two copies one may have been overtaken, and waits while the other is busy. A
// claim ends when its step is taken, or with its partition.
func (c *copies) claim(d *delivery) (overtaken, busy bool) {
	if !d.isLate() {
		return false, false
	}
	key := c.keyOf(d.task.Record)
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.of.get(key)
	switch {
	case d.step().before(p.next):
		return true, false
	case p.by != nil && p.by != d.task && c.ours(p.by):
		return false, true
	default:
		p.by = d.task
		c.of.put(key, p)
		c.some.Store(true)
	}
	return false, false
}

// supersede ends a copy that another one stands for; what becomes of that one is on record. It may have had the claim, and
// gone back to its queue.
func (s *Service) supersede(d *delivery) {
	s.metrics.outcome(outcomeSuperseded)
	if d.isLate() {
		s.copies.taken(d.task, step{})
	}
	s.begin(d).end()
}
