package callstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/callstream/traffic"
)

func TestSimulatedEventsAreValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &traffic.Model{Seed: rapid.Uint64().Draw(t, "seed"), Source: "simulator"}
		flow := m.Flow(rapid.Int64Range(0, 1<<40).Draw(t, "number"))
		flow.Stamp(time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC))
		for _, e := range flow.Events {
			parsed, err := event.Parse(e.JSON)
			require.NoError(t, err, string(e.JSON))
			require.Equal(t, e.ID, parsed.ID)
			require.Equal(t, e.Type, parsed.Type)
			require.Equal(t, e.CallID, parsed.CallID)
		}
	})
}

func TestSimulatedCallsHaveEveryType(t *testing.T) {
	for seed := range uint64(20) {
		m := &traffic.Model{Seed: seed}
		seen := map[string]bool{}
		for n := range int64(traffic.BlockSize) {
			for _, e := range m.Flow(n).Events {
				seen[e.Type] = true
			}
		}
		for _, typ := range catalog.Types() {
			// Callstream's own events are made by callstream, not by a platform.
			if typ.Topic != topic.OwnEvents {
				require.True(t, seen[typ.Name], "%s doesn't occur with seed %d", typ.Name, seed)
			}
		}
	}
}
