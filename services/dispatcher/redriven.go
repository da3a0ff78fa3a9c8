package dispatcher

import (
	"strings"
	"sync"
	"sync/atomic"
)

// mostRedriven bounds each half of what is remembered; the older half goes first.
const mostRedriven = 16 << 10

// redriven remembers which deliveries this process has taken up because somebody asked for them to be sent again. A copy
// of one that comes due later, of the schedule before, is not sent: the redriven one has its turn, and ends in an outcome
// of its own, since its offset completes only then. What is forgotten, after a restart or among too many, is sent twice
// under the same webhook-id.
type redriven struct {
	some atomic.Bool // whether there is anything to look for
	mu   sync.Mutex
	by   [2]map[string]string // the newest turn of each delivery that was redriven
}

// overtaken notes a delivery that is taken up, with the redrive and the replay that it belongs to, or "", and says whether
// it is a copy that a newer redrive has overtaken.
func (r *redriven) overtaken(delivery, redrive, replay string) bool {
	if redrive == "" && !r.some.Load() {
		return false
	}
	// Without what says which of them it is, ids of both grow with time.
	turn := max(strings.TrimPrefix(redrive, "rdr_"), strings.TrimPrefix(replay, "rpl_"))
	r.mu.Lock()
	defer r.mu.Unlock()
	newest := max(r.by[0][delivery], r.by[1][delivery])
	if turn <= newest || redrive == "" {
		return turn < newest
	}
	if r.by[0] == nil || len(r.by[0]) >= mostRedriven {
		r.by = [2]map[string]string{{}, r.by[0]}
	}
	r.by[0][delivery] = turn
	r.some.Store(true)
	return false
}
