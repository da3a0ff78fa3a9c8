package dispatcher

import (
	"slices"
	"sync"
	"sync/atomic"
)

// mostRedriven bounds each half of what is remembered; the older half goes first. mostOvertaken bounds it for one delivery.
const mostRedriven, mostOvertaken = 16 << 10, 16

// redriven remembers which schedules this process has seen a redrive take over from. A copy that comes due later, of the
// schedule before, is not sent: the redriven one has its turn, and ends in an outcome of its own, since its offset completes
// only then. What is forgotten, after a restart or among too many, is sent twice under the same webhook-id.
//
// Which schedule comes before which is not a question of clocks: a redrive names the one that it takes over from, and the
// copies of no other are passed by.
type redriven struct {
	some atomic.Bool // whether there is anything to look for
	mu   sync.Mutex
	over recent[string, []schedule] // those that were overtaken, by delivery
}

func newRedriven() *redriven {
	return &redriven{over: recent[string, []schedule]{most: mostRedriven}}
}

// schedule is one run of attempts at a delivery: that which begins with its first record, or what a redrive of it began.
type schedule struct{ origin, redrive string }

// overtaken notes a delivery that is taken up, and says whether it is a copy that a redrive has overtaken.
func (r *redriven) overtaken(id string, d *delivery) bool {
	if d.redrive == "" && !r.some.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	over := r.over.get(id)
	if d.redrive == "" && over == nil {
		return false
	}
	origin := d.begunAt()
	if slices.Contains(over, schedule{origin, d.redrive}) {
		return true
	}
	before := schedule{origin, d.overtakes}
	if d.redrive == "" || slices.Contains(over, before) {
		return false
	}
	r.over.put(id, append(slices.Clone(over[max(0, len(over)+1-mostOvertaken):]), before))
	r.some.Store(true)
	return false
}
