package integration

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
)

// orderly is an endpoint that takes note of the order in which it takes the events of each call, and refuses those of
// some calls. Events are named call.number.
type orderly struct {
	*hooktest.Receiver
	mu      sync.Mutex
	refused map[string]bool
	tries   map[string]int
	taken   map[string][]int
}

func startOrderly(t *testing.T, refused ...string) *orderly {
	o := &orderly{refused: map[string]bool{}, tries: map[string]int{}, taken: map[string][]int{}}
	for _, call := range refused {
		o.refused[call] = true
	}
	o.Receiver = hooktest.Start(t, hooktest.Options{Answer: o.answer})
	return o
}

func (o *orderly) answer(r *hooktest.Request) hooktest.Answer {
	call, number, _ := strings.Cut(r.Header.Get("X-Event-Id"), ".")
	n, err := strconv.Atoi(number)
	if err != nil {
		return hooktest.Answer{Status: 400}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tries[call]++
	if o.refused[call] {
		return hooktest.Answer{Status: 503}
	}
	for _, before := range o.taken[call] {
		if before == n {
			return hooktest.Answer{} // a repeat
		}
	}
	o.taken[call] = append(o.taken[call], n)
	return hooktest.Answer{}
}

func (o *orderly) heal() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.refused)
}

// await waits until a call was tried, and its first n events taken, and fails where they were not taken in order.
func (o *orderly) await(t *testing.T, call string, tries, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events of %s", n, call), func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		for i, number := range o.taken[call] {
			if i != number {
				t.Fatalf("%s came in this order: %v", call, o.taken[call])
			}
		}
		if o.tries[call] < tries || len(o.taken[call]) < n {
			return fmt.Errorf("%d tries, taken: %v", o.tries[call], o.taken[call])
		}
		return nil
	})
}

// wave posts the next n events of each call, in turn.
func wave(tn tenant, from, n int, calls ...string) {
	var events []object
	for i := from; i < from+n; i++ {
		for _, call := range calls {
			events = append(events, ended(call, object{"id": fmt.Sprint(call, ".", i)}))
		}
	}
	tn.post(events)
}

// P-02: a call that fails holds up only itself, and has its events in order when it is taken again.
func keepsOrder(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := startOrderly(t, "ord-bad")
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "ordering": "per_call", "retry": object{"schedule": []string{"200ms"}, "max_attempts": 100}})
	calls := []string{"ord-bad", "ord-1", "ord-2", "ord-3"}
	wave(tn, 0, 10, calls...)
	for _, call := range calls[1:] {
		hook.await(t, call, 10, 10)
	}
	hook.await(t, "ord-bad", 3, 0)
	wave(tn, 10, 5, calls...)
	hook.heal()
	for _, call := range calls {
		hook.await(t, call, 15, 15)
	}
}

// P-02: the order holds while dispatchers are killed and come back, with calls that moved to the ordered lane, and
// partitions that move with them.
func TestTheOrderSurvivesKills(t *testing.T) {
	p := startPipeline(t, settings{shape: apart, env: map[string]string{"CALLSTREAM_DISPATCHER_ORDER_IN_PLACE": "500ms"}})
	tn := p.tenant("order")
	hook := startOrderly(t, "bad-0", "bad-1")
	calls := []string{"bad-0", "bad-1", "good-0", "good-1", "good-2", "good-3"}
	// Spread over partitions, so that each dispatcher has calls that fail.
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "ordering": "per_call", "spread": 4, "retry": object{"schedule": []string{"300ms", "300ms", "2s"}, "max_attempts": 100}})
	posted := 0
	for round, victim := range []string{"dispatcher-0", "dispatcher-1", "dispatcher-0"} {
		wave(tn, posted, 10, calls...)
		posted += 10
		for _, call := range calls[:2] {
			hook.await(t, call, 5*(round+1), 0) // it was tried for longer than it may stay in its lane
		}
		p.process(victim).Kill()
		wave(tn, posted, 10, calls...)
		posted += 10
		p.launch(victim)
		p.awaitReady()
		for _, call := range calls[2:] {
			hook.await(t, call, 0, posted)
		}
	}
	hook.heal()
	for _, call := range calls {
		hook.await(t, call, 0, posted)
	}
	require.Empty(t, hook.Faults())
}
