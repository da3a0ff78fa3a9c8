//go:build chaos

package chaos

import (
	"fmt"
	"testing"

	"github.com/callstream/callstream/subscription"
	"github.com/stretchr/testify/require"
)

// P-18, promise 1: every service is killed at random instants under load, and started again.
func TestServicesKilled(t *testing.T) {
	random := seeded(t)
	w := newWorld(t, nil, 2)
	stop := w.flowing(8)
	defer stop()
	victims := []string{"dispatcher-0", "filter", "producer", "dispatcher-1", "console"}
	kills := 0
	for range rounds(t, 2) {
		random.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
		for _, victim := range victims {
			w.progress("events flow before "+victim+" is killed", 50+random.IntN(300))
			w.kill(victim)
			kills++
		}
	}
	w.progress("events flow after the last kill", 100)
	stop()
	repeats := w.report("services killed")
	require.LessOrEqual(t, repeats, kills*mostRepeats(len(endpoints)))
}

// mostRepeats is promise 3 for one kill: what was in flight, and 1,000 completions of each of the lane's partitions.
func mostRepeats(subscriptions int) int {
	return subscription.DefaultMaxInFlight*subscriptions + 1000*partitions
}

// P-18, promise 1: a broker dies, the cluster goes on with two, and it comes back.
func TestBrokerKilled(t *testing.T) {
	random := seeded(t)
	w := newWorld(t, nil, 2)
	stop := w.flowing(8)
	defer stop()
	for range rounds(t, 3) {
		i := random.IntN(len(built.apache.Brokers))
		w.progress("events flow", 100)
		built.apache.Kill(i)
		w.progress("events flow on two brokers", 100)
		require.NoError(t, built.apache.Restart(t.Context(), i))
		awaitReplicas(t)
	}
	w.progress("events flow on three brokers", 100)
	stop()
	w.report("a broker killed")
}

// P-18, P-17: every broker is restarted in good order, one after the other.
func TestRollingRestart(t *testing.T) {
	w := newWorld(t, nil, 2)
	stop := w.flowing(8)
	defer stop()
	for i := range built.apache.Brokers {
		w.progress("events flow", 100)
		built.apache.Terminate(i)
		w.progress("events flow on two brokers", 100)
		require.NoError(t, built.apache.Restart(t.Context(), i))
		awaitReplicas(t)
	}
	w.progress("events flow on three brokers", 100)
	stop()
	w.report("a rolling restart")
}

// P-18, promise 3: a dispatcher is killed at full speed, with a backlog on every partition. What is sent twice is counted
// for each kill; how long anything took doesn't enter.
func TestRepeatsAtFullSpeed(t *testing.T) {
	random := seeded(t)
	w := newWorld(t, nil, 1)
	kills := rounds(t, 3)
	require.NoError(t, w.process("dispatcher-0").Terminate(t.Context()))
	const each = 5000 // events, so 17,500 deliveries
	for n := 0; n < each*(kills+1); n += 100 {
		ids := make([]string, 100)
		for i := range ids {
			ids[i] = fmt.Sprintf("b-%d", n+i)
		}
		w.post(w, ids...)
	}
	for kill := range kills + 1 {
		before, total := w.repeats(), w.hook.Total()
		w.launch("dispatcher-0")
		want := w.hook.Unique() + 2*each + random.IntN(each)
		eventually(t, "the backlog drains", func() error {
			if n := w.hook.Unique(); n < want {
				return fmt.Errorf("%d deliveries to go", want-n)
			}
			return nil
		})
		if kill < kills {
			w.process("dispatcher-0").Kill()
		}
		t.Logf("%d of %d requests repeated since start %d", w.repeats()-before, w.hook.Total()-total, kill)
		require.LessOrEqual(t, w.repeats()-before, mostRepeats(len(endpoints)))
	}
	require.LessOrEqual(t, w.report("a dispatcher killed at full speed"), kills*mostRepeats(len(endpoints)))
}
