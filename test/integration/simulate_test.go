package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// TestSimulatedCallsBalance runs simulated traffic at full speed through the pipeline, to endpoints of which one works,
// one fails now and then and one refuses, and balances the books: every accepted event is on its topic, has one decision
// for each subscription whose types match, and every delivery that was decided ends in exactly one of delivered, dead or
// skipped, with every dead one in the dead-letter topic.
func TestSimulatedCallsBalance(t *testing.T) {
	for _, s := range []shape{together, apart} {
		t.Run(string(s), func(t *testing.T) {
			p := startPipeline(t, settings{shape: s})
			tn := p.tenant("balance")
			works := hooktest.Start(t, hooktest.Options{})
			fails := hooktest.Start(t, hooktest.Options{Answer: func(r *hooktest.Request) hooktest.Answer {
				if r.Repeat == 0 && r.N%7 == 0 {
					return hooktest.Answer{Status: 503}
				}
				return hooktest.Answer{}
			}})
			refuses := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 422})})
			all := tn.subscribe(object{"name": "all", "url": works.URL(), "events": []string{"*"}})
			tn.subscribe(object{"name": "some", "url": fails.URL(), "events": []string{"call.*", "transcript.ready"}})
			tn.subscribe(object{"name": "refuses", "url": refuses.URL(), "events": []string{"cost.calculated"}})
			tn.subscribe(object{"name": "filtered", "url": works.URL(), "events": []string{"call.ended"}, "filter": "event.data.duration_ms > 60000"})

			path := filepath.Join(t.TempDir(), "ledger.jsonl")
			calls := 200
			if n, err := strconv.Atoi(os.Getenv("CALLSTREAM_SIMULATE_CALLS")); err == nil {
				calls = n
			}
			p.callstream("simulate", "--api", p.base(http.MethodPost, "/v1/events"), "--calls", strconv.Itoa(calls), "--rate", "0", "--tenant", tn.name, "--key", tn.key, "--seed", "7", "--ledger", path)
			accepted := readLedger(t, path)
			require.Greater(t, len(accepted), calls*3, "a call has several events")

			// Every accepted event is on its topic, once.
			onTopics, source := map[string]int{}, map[string]string{}
			for _, name := range topic.Events() {
				for _, r := range p.records(name) {
					e, err := p.decoder().DecodeEvent(t.Context(), name, r.Value)
					require.NoError(t, err)
					if e.Tenant == tn.name {
						onTopics[e.ID]++
						source[e.ID] = e.Source
					}
				}
			}
			for id := range accepted {
				require.Equal(t, 1, onTopics[id], "event %s on its topic", id)
			}

			// Every event has its decisions; together they say which deliveries there are.
			queued := map[string]string{} // delivery id → event type
			awaitDecisions(t, p, tn.name, len(accepted))
			outcomesOf := map[string]int{}
			for _, d := range p.decisions(tn.name) {
				for _, one := range d.Decisions {
					outcomesOf[one.Outcome+" "+one.Reason]++
					if one.Outcome == "queued" {
						require.NotContains(t, queued, one.DeliveryID)
						queued[one.DeliveryID] = d.EventType
					}
				}
			}

			// Every delivery ends, once.
			ends := map[string]string{}
			eventually(t, "every delivery has ended", func() error {
				ends = map[string]string{}
				for _, a := range p.attempts(tn.name) {
					if a.Outcome == "retry" {
						continue
					}
					if before, twice := ends[a.DeliveryID]; twice {
						t.Fatalf("delivery %s ended twice: %s and %s", a.DeliveryID, before, a.Outcome)
					}
					ends[a.DeliveryID] = a.Outcome
				}
				if len(ends) < len(queued) {
					return fmt.Errorf("%d of %d", len(ends), len(queued))
				}
				return nil
			})
			counts := map[string]int{}
			for id, outcome := range ends {
				require.Contains(t, queued, id, "a delivery that nobody decided")
				counts[outcome]++
			}
			dead := map[string]bool{}
			for _, d := range p.dead(tn.name) {
				dead[d.DeliveryID] = true
				assert.Equal(t, "cost.calculated", d.EventType)
			}
			assert.Len(t, dead, counts["dead"], "dead letters")
			assert.Equal(t, len(queued), counts["delivered"]+counts["dead"]+counts["skipped"])
			assert.Positive(t, counts["dead"])
			assert.Positive(t, outcomesOf["skipped filtered"])

			// And the endpoints saw what the books say, each event at most once as a success.
			seen := map[string]bool{}
			for _, r := range works.Requests() {
				seen[r.ID] = true
			}
			for _, r := range fails.Requests() {
				seen[r.ID] = true
			}
			for id, outcome := range ends {
				if outcome == "delivered" {
					require.True(t, seen[id], "delivery %s is said to be delivered", id)
				}
			}
			for id, kind := range accepted {
				require.True(t, seen[event.DeliveryID(tn.name, source[id], id, all.ID)], "event %s (%s) reached the endpoint that takes all", id, kind)
			}
			t.Logf("%d calls, %d events, %d deliveries: %v; decisions: %v", calls, len(accepted), len(queued), counts, outcomesOf)
		})
	}
}

// readLedger reads the ids that simulate had accepted, with their types.
func readLedger(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	out := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var line struct{ ID, Type string }
		require.NoError(t, json.Unmarshal(lines.Bytes(), &line))
		out[line.ID] = line.Type
	}
	require.NoError(t, lines.Err())
	return out
}
