package history

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
)

// BenchmarkProject is the cost of one delivered event: its record, the decision and the attempt.
func BenchmarkProject(b *testing.B) {
	w := newWorld(b)
	s, err := Open(b.Context(), storage.Config{DataDir: b.TempDir()})
	require.NoError(b, err)
	defer s.Close()
	as, err := s.claim(b.Context(), "bench")
	require.NoError(b, err)
	for i := range b.N {
		id := fmt.Sprintf("evt_%026d", i)
		e := w.call(id, fmt.Sprintf("call-%d", i/12), i/100)
		w.decided(e, id, i/100, "", event.DecisionEntry{SubscriptionID: "sub_01J00000000000000000000000", Outcome: StateQueued})
		w.tried(id, "sub_01J00000000000000000000000", i/100+1, nil)
	}
	b.ReportAllocs()
	b.ResetTimer()
	const at = 2000 // events in a batch
	for from := 0; from < b.N; from += at {
		batch := newBatch()
		for _, name := range []string{topic.CallsEvents, topic.Decisions, topic.Attempts} {
			for _, r := range w.logs[name][from:min(b.N, from+at)] {
				require.NoError(b, batch.fold(b.Context(), w.codec, r))
			}
		}
		_, err := s.apply(b.Context(), as, batch)
		require.NoError(b, err)
	}
}
