package callstream

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/pkg/problem"
)

// intake is an API that takes events, and says no when told to.
type intake struct {
	mu       sync.Mutex
	bodies   []string
	accepted []sent
	most     int // requests at the same time
	now      int
	tenants  map[string]int
	answer   func(request int) *problem.Problem // nil accepts
	hold     chan struct{}                      // if not nil, requests wait for it
}

type sent struct {
	ID       string    `json:"id"`
	Type     string    `json:"type"`
	CallID   string    `json:"call_id"`
	Sequence int       `json:"sequence"`
	Time     time.Time `json:"time"`
}

func (i *intake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	var events []sent
	if err := json.Unmarshal(raw, &events); err != nil {
		events = make([]sent, 1)
		if err := json.Unmarshal(raw, &events[0]); err != nil {
			problem.Write(w, problem.New(400, err.Error()))
			return
		}
	}
	i.mu.Lock()
	n := len(i.bodies)
	i.bodies = append(i.bodies, string(raw))
	i.now++
	i.most = max(i.most, i.now)
	if i.tenants != nil {
		i.tenants[r.Header.Get("X-Tenant")]++
	}
	i.mu.Unlock()
	if i.hold != nil {
		<-i.hold
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.now--
	if i.answer != nil {
		if p := i.answer(n); p != nil {
			problem.Write(w, p)
			return
		}
	}
	i.accepted = append(i.accepted, events...)
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"accepted":%d}`, len(events))
}

func simulated(t *testing.T, i *intake, args ...string) (summary, error) {
	t.Helper()
	server := httptest.NewServer(i)
	defer server.Close()
	r := command(t, append([]string{"simulate", "--api", server.URL, "--json"}, args...)...)
	var sum summary
	if r.out != "" {
		require.NoError(t, json.Unmarshal([]byte(r.out), &sum), r.out)
	}
	return sum, r.err
}

// inOrder fails unless each call's events were accepted in their order, none twice.
func inOrder(t *testing.T, events []sent) {
	t.Helper()
	seen := map[string]bool{}
	last := map[string]int{}
	for _, e := range events {
		require.False(t, seen[e.ID], "%s was accepted twice", e.ID)
		seen[e.ID] = true
		if e.Sequence > 0 {
			require.Equal(t, last[e.CallID]+1, e.Sequence, "call %s", e.CallID)
			last[e.CallID] = e.Sequence
		}
	}
}

func TestSimulateSendsEveryCallInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		batch, concurrency := rapid.IntRange(1, 60).Draw(rt, "batch"), rapid.IntRange(1, 8).Draw(rt, "concurrency")
		i := &intake{}
		sum, err := simulated(t, i, "--calls", "40", "--seed", "5", fmt.Sprintf("--batch=%d", batch), fmt.Sprintf("--concurrency=%d", concurrency))
		require.NoError(t, err)
		require.EqualValues(t, 40, sum.Calls)
		require.EqualValues(t, len(i.accepted), sum.Accepted)
		require.Equal(t, sum.Events, sum.Accepted)
		require.LessOrEqual(t, i.most, concurrency)
		inOrder(t, i.accepted)
	})
}

func TestSimulateRepeatsARunByItsSeed(t *testing.T) {
	ids := func(seed string) map[string]string {
		i := &intake{}
		_, err := simulated(t, i, "--calls", "30", "--seed", seed, "--batch", "7")
		require.NoError(t, err)
		out := map[string]string{}
		for _, e := range i.accepted {
			out[e.ID] = e.Type + " " + e.CallID
		}
		return out
	}
	require.Equal(t, ids("11"), ids("11"))
	require.NotEqual(t, ids("11"), ids("12"))
}

func TestSimulateLosesNothingWhenTheAPIIsBusyOrAway(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	i := &intake{answer: func(int) *problem.Problem {
		switch r.IntN(12) {
		case 0:
			return problem.New(http.StatusTooManyRequests, "overloaded")
		case 1:
			return problem.New(http.StatusServiceUnavailable, "Kafka is away")
		}
		return nil
	}}
	file := filepath.Join(t.TempDir(), "ledger.jsonl")
	sum, err := simulated(t, i, "--calls", "20", "--ledger", file, "--tenant", "acme", "--concurrency", "8", "--batch", "3")
	require.NoError(t, err)
	require.Positive(t, sum.Retries)
	require.Equal(t, sum.Events, sum.Accepted)
	inOrder(t, i.accepted)
	// The ledger has exactly what was accepted.
	want := map[string]bool{}
	for _, e := range i.accepted {
		want[e.ID] = true
	}
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	n := 0
	for lines.Scan() {
		var e entry
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e))
		require.True(t, want[e.ID])
		require.Equal(t, "acme", e.Tenant)
		n++
	}
	require.Equal(t, len(want), n)
}

func TestSimulateSendsTheSameBytesAgain(t *testing.T) {
	i := &intake{answer: func(n int) *problem.Problem {
		if n == 0 {
			return problem.New(http.StatusServiceUnavailable, "partly accepted")
		}
		return nil
	}}
	_, err := simulated(t, i, "--calls", "1", "--concurrency", "1")
	require.NoError(t, err)
	require.Equal(t, i.bodies[0], i.bodies[1])
}

func TestSimulateReportsRefusals(t *testing.T) {
	i := &intake{answer: func(n int) *problem.Problem {
		if n%5 == 4 {
			return problem.New(http.StatusUnprocessableEntity, "no good", problem.Fault{Pointer: "#/type", Detail: "unknown"})
		}
		return nil
	}}
	sum, err := simulated(t, i, "--calls", "5", "--concurrency", "1")
	require.ErrorContains(t, err, "were refused")
	require.Equal(t, sum.Events, sum.Accepted+sum.Refused)
	require.Contains(t, sum.Problems[0], "unknown at #/type")
	require.LessOrEqual(t, len(sum.Problems), maxProblems)
}

func TestSimulateStopsWhenNobodyIsAllowedIn(t *testing.T) {
	i := &intake{answer: func(int) *problem.Problem { return problem.New(http.StatusUnauthorized, "send an API key") }}
	_, err := simulated(t, i, "--calls", "1000", "--concurrency", "2")
	require.ErrorContains(t, err, "CALLSTREAM_API_KEY")
	require.LessOrEqual(t, len(i.bodies), 2)
}

func TestSimulateGivesUpInTheEnd(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	r := command(t, "simulate", "--api", server.URL, "--retry-for", "50ms", "--calls", "3")
	require.ErrorIs(t, r.err, errUnreachable)
	require.ErrorContains(t, r.err, "callstream up")
	require.Contains(t, r.out, "may have been accepted")
}

func TestSimulateKeepsItsRate(t *testing.T) {
	begun := time.Now()
	i := &intake{}
	sum, err := simulated(t, i, "--calls", "21", "--rate", "100", "--batch", "50")
	require.NoError(t, err)
	require.EqualValues(t, 21, sum.Calls)
	require.GreaterOrEqual(t, time.Since(begun), 200*time.Millisecond)

	begun = time.Now()
	i = &intake{}
	sum, err = simulated(t, i, "--calls", "10", "--event-rate", "500")
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begun), time.Duration(sum.Events-1)*2*time.Millisecond)
}

func TestSimulateInRealTimeSendsNoEventBeforeItHappens(t *testing.T) {
	i := &intake{}
	begun := time.Now()
	sum, err := simulated(t, i, "--calls", "6", "--speed", "6000")
	require.NoError(t, err)
	require.Equal(t, sum.Events, sum.Accepted)
	inOrder(t, i.accepted)
	// A call of ten minutes takes a tenth of a second; all are under way at once.
	require.Greater(t, time.Since(begun), 5*time.Millisecond)
	for _, e := range i.accepted {
		require.True(t, e.Time.Before(time.Now().Add(time.Second)), "%s is in the future", e.Time)
	}
}

func TestSimulatePrintsForPeople(t *testing.T) {
	i := &intake{tenants: map[string]int{}}
	server := httptest.NewServer(i)
	defer server.Close()
	r := command(t, "simulate", "--api", server.URL, "--calls", "2", "--seed", "9", "--tenant", "acme")
	require.NoError(t, r.err)
	require.Regexp(t, `^2 calls, \d+ of \d+ events accepted in `, r.out)
	require.True(t, strings.HasSuffix(r.out, "--seed 9 sends the same events again\n"), r.out)
	require.Empty(t, r.hints, "no progress bar where nobody watches")
	require.Len(t, i.tenants, 1)
	require.Positive(t, i.tenants["acme"])
}

func TestLatenciesAreWithinASixteenth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l latencies
		us := rapid.Int64Range(1, 1<<42).Draw(t, "us")
		l.add(time.Duration(us) * time.Microsecond)
		require.Equal(t, time.Duration(us)*time.Microsecond, l.quantile(0.5))
		require.LessOrEqual(t, us, upper(bucket(us)))
		require.LessOrEqual(t, float64(upper(bucket(us))), float64(us)*17/16)
		if b := bucket(us); b > 0 {
			require.Less(t, upper(b-1), us)
		}
	})
	var l latencies
	for i := range 1000 {
		l.add(time.Duration(i+1) * time.Millisecond)
	}
	require.InEpsilon(t, 500, l.quantile(0.5).Milliseconds(), 0.07)
	require.InEpsilon(t, 990, l.quantile(0.99).Milliseconds(), 0.07)
	require.Equal(t, time.Second, l.quantile(1))
}
