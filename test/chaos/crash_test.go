//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"testing"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/test/progress"
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

// mostRepeats is promise 3 for one kill: what was in flight, and 1,000 completions of each partition of the topics that this
// traffic passes, which are the lane, the slow topic and the tier of the first retry.
func mostRepeats(subscriptions int) int {
	const topics = 3
	return subscription.DefaultMaxInFlight*subscriptions + 1000*partitions*topics
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

// P-18, promise 3: a dispatcher is killed at full speed, with a backlog on every partition. What is sent twice is only what no
// commit had as done, and of that each partition has a bounded number; how long anything took doesn't enter.
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
	var open map[string]bool // deliveries that were not done at the last kill
	checked := 0
	check := func() {
		repeated := progress.Repeated(w.hook.Requests())
		t.Logf("%d of %d deliveries that were not done at the last kill have been sent again", len(repeated)-checked, len(open))
		for _, a := range repeated[checked:] {
			require.True(t, open[a.Delivery], "a commit said that %v was done, and it was sent again", a)
		}
		checked = len(repeated)
	}
	for kill := range kills + 1 {
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
			check()
			open = w.unfinished()
		}
	}
	w.report("a dispatcher killed at full speed")
	check()
}

// unfinished returns the deliveries that no commit says are done, and checks how many of them each partition has whose next
// attempt was made: what is in flight, the 1,000 completions that a commit is asked for after, and those that go on while
// it is on its way, which are fewer than would ask for the next.
func (w *world) unfinished() map[string]bool {
	w.t.Helper()
	sent := map[progress.Attempt]bool{}
	for _, r := range w.hook.Requests() {
		sent[progress.Attempt{Delivery: r.ID, Number: r.Attempt}] = true
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	all, err := progress.Unfinished(ctx, w.brokers)
	require.NoError(w.t, err)
	deliveries, made := map[string]bool{}, map[kafka.TopicPartition]int{}
	for _, o := range all {
		deliveries[o.Delivery] = true
		if sent[o.Attempt] {
			made[o.Where]++
		}
	}
	w.t.Logf("attempts that were made and are not done, by partition: %v", made)
	for tp, n := range made {
		require.LessOrEqual(w.t, n, subscription.DefaultMaxInFlight*len(endpoints)+2*1000, "of %s", tp)
	}
	return deliveries
}
