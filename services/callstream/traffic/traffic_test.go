package traffic

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func stamped(m *Model, number int64) Flow {
	f := m.Flow(number)
	f.Stamp(noon)
	return f
}

func TestTheSameSeedMakesTheSameEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, number := rapid.Uint64().Draw(t, "seed"), rapid.Int64Range(0, 1<<40).Draw(t, "number")
		a, b := stamped(&Model{Seed: seed, Source: "s"}, number), stamped(&Model{Seed: seed, Source: "s"}, number)
		require.Equal(t, len(a.Events), len(b.Events))
		for i := range a.Events {
			require.Equal(t, string(a.Events[i].JSON), string(b.Events[i].JSON))
		}
		other := stamped(&Model{Seed: seed + 1, Source: "s"}, number)
		require.NotEqual(t, a.Events[0].ID, other.Events[0].ID)
	})
}

func TestIDsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(3) {
		m := &Model{Seed: seed}
		for n := range int64(2000) {
			for _, e := range m.Flow(n).Events {
				require.False(t, seen[e.ID], "%s occurs twice", e.ID)
				seen[e.ID] = true
			}
		}
	}
}

// wire is what every event has.
type wire struct {
	ID       string         `json:"id"`
	Type     string         `json:"type"`
	Time     time.Time      `json:"time"`
	Source   string         `json:"source"`
	CallID   string         `json:"call_id"`
	AgentID  string         `json:"agent_id"`
	Sequence int64          `json:"sequence"`
	Data     map[string]any `json:"data"`
}

func TestFlowsAreConsistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &Model{Seed: rapid.Uint64().Draw(t, "seed"), Source: "simulator"}
		f := stamped(m, rapid.Int64Range(0, 1<<40).Draw(t, "number"))
		require.NotEmpty(t, f.Events)
		last, sequence := time.Time{}, int64(0)
		for i, e := range f.Events {
			var w wire
			require.NoError(t, json.Unmarshal(e.JSON, &w), string(e.JSON))
			require.Equal(t, e.ID, w.ID)
			require.Equal(t, e.Type, w.Type)
			require.Equal(t, e.CallID, w.CallID)
			require.Equal(t, "simulator", w.Source)
			require.Equal(t, noon.Add(e.At), w.Time)
			require.False(t, w.Time.Before(last), "event %d is earlier than the one before it", i)
			last = w.Time
			require.Less(t, len(e.JSON), 16<<10)
			if w.Sequence > 0 {
				sequence++
				require.Equal(t, sequence, w.Sequence, "the events of the call are in order")
			}
			if w.Type == "call.ended" {
				ended, err := time.Parse(time.RFC3339, w.Data["ended_at"].(string))
				require.NoError(t, err)
				require.Equal(t, w.Time, ended)
				if started, ok := w.Data["started_at"].(string); ok {
					begun, err := time.Parse(time.RFC3339, started)
					require.NoError(t, err)
					require.InDelta(t, ended.Sub(begun).Milliseconds(), w.Data["duration_ms"], 1)
				}
			}
		}
		require.Equal(t, noon.Add(f.Length), last)
	})
}

func TestTheFirstFlowIsAFullCall(t *testing.T) {
	for seed := range uint64(50) {
		f := (&Model{Seed: seed}).Flow(0)
		require.Equal(t, "sale", f.Scenario)
		types := map[string]bool{}
		for _, e := range f.Events {
			types[e.Type] = true
		}
		for _, want := range []string{"call.started", "call.ended", "transcript.ready", "recording.ready", "call.summary", "call.report", "sms.sent"} {
			require.True(t, types[want], "the first call of seed %d has no %s", seed, want)
		}
	}
}

func BenchmarkFlow(b *testing.B) {
	m := &Model{Seed: 1, Source: "simulator"}
	b.ReportAllocs()
	events := 0
	for i := range b.N {
		f := m.Flow(int64(i))
		f.Stamp(noon)
		events += len(f.Events)
	}
	b.ReportMetric(float64(events)/float64(b.N), "events/flow")
}
