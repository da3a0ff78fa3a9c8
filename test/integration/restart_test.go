package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
)

// killRounds is how often the kill tests kill; make chaos asks for more.
func killRounds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("CALLSTREAM_CHAOS_ROUNDS"))
	if err != nil {
		return 3
	}
	require.Positive(t, n)
	return n
}

// chaosSeed makes a run's random choices repeatable: CALLSTREAM_CHAOS_SEED, or a new one that is logged.
func chaosSeed(t *testing.T) *rand.Rand {
	seed, err := strconv.ParseUint(os.Getenv("CALLSTREAM_CHAOS_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("CALLSTREAM_CHAOS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// ledger is what a load has been promised: the ids that got a 202.
type ledger struct {
	mu       sync.Mutex
	accepted map[string]bool
}

func (l *ledger) add(ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.accepted[id] = true
	}
}

func (l *ledger) ids() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]string, 0, len(l.accepted))
	for id := range l.accepted {
		out = append(out, id)
	}
	return out
}

// flow posts events until stop is closed, each id again and again until it is accepted, as a client that must not lose
// anything does. It returns when every event it began has its 202.
func (l *ledger) flow(t *testing.T, tn tenant, worker int, stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		e := ended(fmt.Sprintf("k-%d-%d", worker, n%50), object{"id": fmt.Sprintf("k-%d-%d", worker, n)})
		eventually(t, "an event is accepted", func() error {
			r, err := tn.try(http.MethodPost, "/v1/events", e, nil)
			switch {
			case err != nil:
				return err
			case r.status == http.StatusAccepted:
				l.add(decode[accepted](t, r).IDs)
				return nil
			case r.status == http.StatusTooManyRequests, r.status >= 500:
				return errors.New(r.String())
			}
			t.Errorf("an event was refused: %s", r)
			return nil
		})
	}
}

// settle waits until every accepted event has arrived in a request that the endpoint took.
func (l *ledger) settle(t *testing.T, hook *hooktest.Receiver, took func(*hooktest.Request) bool) {
	t.Helper()
	ids := l.ids()
	eventually(t, "every accepted event is delivered", func() error {
		taken := map[string]bool{}
		for _, r := range hook.Requests() {
			if took(r) {
				taken[r.Header.Get("X-Event-Id")] = true
			}
		}
		missing := 0
		for _, id := range ids {
			if !taken[id] {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d accepted events are missing", missing, len(ids))
		}
		return nil
	})
	require.Empty(t, hook.Faults(), "signatures")
}

// TestKillTogether kills callstream up at random instants while events flow: every id that got a 202 arrives, and what
// arrives twice stays within what was in flight and what had completed since the last commit.
func TestKillTogether(t *testing.T) {
	killWhileEventsFlow(t, settings{shape: together}, []string{"up"})
}

// TestKillApart does the same to one service after the other.
func TestKillApart(t *testing.T) {
	killWhileEventsFlow(t, settings{shape: apart}, []string{"filter", "dispatcher-0", "producer", "dispatcher-1", "console"})
}

func killWhileEventsFlow(t *testing.T, s settings, victims []string) {
	rng := chaosSeed(t)
	p := startPipeline(t, s)
	tn := p.tenant("kill")
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	hook.SetSecrets(sub.Secret)

	l := &ledger{accepted: map[string]bool{}}
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() { l.flow(t, tn, w, stop) })
	}
	rounds := killRounds(t)
	if s.shape == apart && rounds < len(victims) {
		rounds = len(victims)
	}
	for round := range rounds {
		// Some progress between kills, so that there is always something in flight, and a different amount each time.
		before, want := hook.Unique(), 500+rng.IntN(2000)
		eventually(t, "events flow", func() error {
			if got := hook.Unique() - before; got < want {
				return fmt.Errorf("%d of %d arrived since the last kill", got, want)
			}
			return nil
		})
		victim := victims[round%len(victims)]
		p.process(victim).Kill()
		p.launch(victim)
		p.awaitReady()
	}
	close(stop)
	workers.Wait()
	l.settle(t, hook, func(*hooktest.Request) bool { return true })
	repeats := hook.Repeats()
	// Promise 3: what was in flight (max_in_flight of the one subscription) and at most 1,000 completions a partition.
	most := rounds * (32 + 4*1000)
	t.Logf("%d kills, %d events accepted, %d arrived more than once (at most %d allowed)", rounds, len(l.ids()), repeats, most)
	require.LessOrEqual(t, repeats, most)
}

// TestRestartKeepsEverything stops and starts all processes: subscriptions, keys, offsets and what waits for its retry
// are as they were.
func TestRestartKeepsEverything(t *testing.T) {
	for _, s := range []shape{together, apart} {
		t.Run(string(s), func(t *testing.T) {
			p := startPipeline(t, settings{shape: s})
			tn := p.tenant("restart")
			hook := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 503})})
			sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "retry": object{"schedule": []string{"500ms"}, "max_attempts": 100}})
			tn.post(ended("r", object{"id": "waits"}))
			await(t, hook, 1)
			for _, name := range p.names() {
				require.NoError(t, p.terminate(name), "%s drains and ends with status 0", name)
			}
			hook.SetAnswer(nil)
			for _, name := range p.names() {
				p.launch(name)
			}
			p.awaitReady()
			tn = p.tenant("restart")
			require.Equal(t, "active", decode[created](t, tn.must(200, http.MethodGet, "/v1/subscriptions/"+sub.ID, nil)).State)
			tn.post(ended("r", object{"id": "new"}))
			eventually(t, "both arrive", func() error {
				got := map[string]bool{}
				for _, a := range p.attempts("restart") {
					if a.Outcome == "delivered" {
						got[a.EventID] = true
					}
				}
				if !got["waits"] || !got["new"] {
					return fmt.Errorf("delivered: %v", got)
				}
				return nil
			})
		})
	}
}

// TestDrain sends SIGTERM to a dispatcher with a request in flight: it finishes that request, commits it and ends.
func TestDrain(t *testing.T) {
	p := startPipeline(t, settings{shape: apart, dispatchers: 1})
	tn := p.tenant("drain")
	release := make(chan struct{})
	hook := hooktest.Start(t, hooktest.Options{Answer: func(*hooktest.Request) hooktest.Answer { <-release; return hooktest.Answer{} }})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "request": object{"timeout": "30s"}})
	tn.post(ended("d", object{"id": "in-flight"}))
	await(t, hook, 1)
	over := make(chan error, 1)
	go func() { over <- p.terminate("dispatcher-0") }()
	eventually(t, "the dispatcher says that it drains", func() error {
		r, err := request(t.Context(), http.MethodGet, p.url("dispatcher-0")+"/readyz", nil, nil)
		if err == nil && r.status == 200 {
			return errors.New("it is still ready")
		}
		return nil
	})
	close(release)
	require.NoError(t, <-over)
	p.launch("dispatcher-0")
	p.awaitReady()
	tn.post(ended("d", object{"id": "next"}))
	await(t, hook, 2)
	require.Equal(t, []string{"in-flight", "next"}, eventIDs(hook.Requests()), "what was drained is not sent again")
}

// P-03, promises 1 and 2: SIGTERM for a dispatcher whose endpoint hangs, for longer than a drain may take. The process ends all
// the same; what hung has no outcome and goes out again from the next owner as the attempt that it was, and nothing that was
// answered does, though it stood behind what hung.
func TestDrainLeavesWhatHangs(t *testing.T) {
	p := startPipeline(t, settings{shape: apart, dispatchers: 1, env: map[string]string{"CALLSTREAM_DRAIN_TIMEOUT": "1s"}})
	tn := p.tenant("drain")
	hook := hooktest.Start(t, hooktest.Options{Answer: func(r *hooktest.Request) hooktest.Answer {
		return hooktest.Answer{Hang: strings.HasPrefix(r.Header.Get("X-Event-Id"), "hangs")}
	}})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "request": object{"timeout": "30s"}})
	const each = 10 // all of them fit into the subscription's share of requests in flight
	var ids []string
	for n := range each {
		for _, kind := range []string{"hangs", "taken"} {
			ids = append(ids, fmt.Sprint(kind, "-", n))
			tn.post(ended("d", object{"id": ids[len(ids)-1]}))
		}
	}
	awaitAttempts(t, p, "drain", each)
	eventually(t, "half of the requests hang", func() error {
		if all, open := hook.Total(), hook.Pending(); all < 2*each || open > each {
			return fmt.Errorf("%d of %d requests arrived, %d have no answer", all, 2*each, open)
		}
		return nil
	})
	require.NoError(t, p.terminate("dispatcher-0"), "it ends with status 0")
	require.Equal(t, 2*each, hook.Total())
	require.Len(t, p.attempts("drain"), each, "what hung has no outcome")

	hook.SetAnswer(nil)
	p.launch("dispatcher-1")
	p.ready("dispatcher-1")
	tn.post(ended("d", object{"id": "next"}))
	awaitAttempts(t, p, "drain", 2*each+1)
	got := map[string][]int{}
	for _, r := range hook.Requests() {
		got[r.Header.Get("X-Event-Id")] = append(got[r.Header.Get("X-Event-Id")], r.Attempt)
	}
	want := map[string][]int{"next": {1}}
	for _, id := range ids {
		if want[id] = []int{1}; strings.HasPrefix(id, "hangs") {
			want[id] = []int{1, 1}
		}
	}
	require.Equal(t, want, got)
}
