package history

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
)

// S3-16, S3-18: deliveries are found by each of their marks, newest first, and pages put together are the whole list.
func TestDeliveriesAreFound(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		for i := range 20 {
			id := fmt.Sprintf("e%02d", i)
			e := w.call(id, "c-1", i)
			w.decided(e, id, i, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued}, event.DecisionEntry{SubscriptionID: "sub_2", Outcome: StateSkipped, Reason: "filtered"})
			w.tried(id, "sub_1", i, func(a *event.Attempt) {
				a.AcceptedAt = w.at(i)
				if i%4 == 0 {
					a.Outcome, a.Reason, a.HTTPStatus, a.ErrorClass = StateDead, "rejected", 404, "http_4xx"
				}
			})
		}
		w.project(s, w.all()...)
		find := func(f Filter) []string {
			t.Helper()
			var got []string
			for after := (Cursor{}); ; {
				page, err := s.Deliveries(t.Context(), "acme", f, after, 3)
				require.NoError(t, err)
				for _, d := range page {
					got = append(got, d.EventID+" "+d.SubscriptionID)
					after = d.Cursor()
				}
				if len(page) < 3 {
					return got
				}
			}
		}
		all := find(Filter{})
		require.Len(t, all, 40)
		require.Equal(t, "e19", all[0][:3])
		require.Equal(t, "e00", all[39][:3])
		require.Len(t, find(Filter{SubscriptionID: "sub_1"}), 20)
		require.Equal(t, []string{"e16 sub_1", "e12 sub_1", "e08 sub_1", "e04 sub_1", "e00 sub_1"}, find(Filter{State: StateDead}))
		require.Len(t, find(Filter{HTTPStatus: 404}), 5)
		require.Len(t, find(Filter{HTTPStatus: 200}), 15)
		require.Len(t, find(Filter{ErrorClass: "http_4xx"}), 5)
		require.Len(t, find(Filter{Reason: "filtered"}), 20)
		require.Len(t, find(Filter{EventID: "e07"}), 2)
		require.Len(t, find(Filter{CallID: "c-1"}), 40)
		require.Empty(t, find(Filter{CallID: "c-2"}))
		require.Len(t, find(Filter{Type: "call.ended"}), 40)
		require.Empty(t, find(Filter{Type: "call.started"}))
		require.Len(t, find(Filter{Since: w.at(5), Until: w.at(7)}), 4)
		require.Len(t, find(Filter{ID: w.delivery("e07", "sub_1")}), 1)
	})
}

// A search that has to look at too many rows is given up, and does not keep the connections from whoever asks for one
// thing.
func TestSearchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Store{searches: make(chan struct{}, 1)}
		busy, end := make(chan error, 1), make(chan struct{})
		go func() {
			busy <- s.search(t.Context(), func(ctx context.Context) error { <-end; <-ctx.Done(); return ctx.Err() })
		}()
		synctest.Wait()
		require.ErrorIs(t, s.search(t.Context(), func(context.Context) error { t.Error("there was no turn"); return nil }), ErrTooSlow)
		close(end)
		require.ErrorIs(t, <-busy, ErrTooSlow)
		require.NoError(t, s.search(t.Context(), func(context.Context) error { return nil }))
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		require.NotErrorIs(t, s.search(gone, func(ctx context.Context) error { return ctx.Err() }), ErrTooSlow)
	})
	onEach(t, func(t *testing.T, cfg storage.Config) {
		s := open(t, cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var n int
		err := s.search(ctx, func(ctx context.Context) error {
			return s.db.Row(ctx, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n`).Scan(&n)
		})
		require.ErrorIs(t, err, context.DeadlineExceeded, "the database ends a statement with its context")
	})
}

// S3-16, S3-18: a subscription's figures.
func TestStats(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		for i := range 100 {
			id := fmt.Sprintf("e%03d", i)
			w.decided(w.happens(id, 0), id, 1, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
			w.tried(id, "sub_1", 1, func(a *event.Attempt) { a.DurationMicros = int64(i+1) * 1000 })
		}
		w.tried("e000", "sub_1", 1, func(a *event.Attempt) { a.Attempt, a.Via, a.DurationMicros = 2, "fallback", 1000 })
		for i, end := range []string{"retry", StateDead, StateSkipped} {
			id := fmt.Sprintf("f%d", i)
			w.decided(w.happens(id, 0), id, 1, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
			w.tried(id, "sub_1", 2, func(a *event.Attempt) { a.Outcome, a.Reason, a.ErrorClass, a.HTTPStatus = end, "because", "timeout", 0 })
		}
		w.decided(w.happens("g", 0), "g", 1, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued}, event.DecisionEntry{SubscriptionID: "sub_2", Outcome: StateQueued})
		w.project(s, w.all()...)
		stats, err := s.Stats(t.Context(), "acme", "sub_1", w.at(-1))
		require.NoError(t, err)
		require.Equal(t, map[string]int64{StateDelivered: 100, StateRetrying: 1, StateDead: 1, StateSkipped: 1, StateQueued: 1}, stats.States)
		require.Equal(t, map[string]int64{"timeout": 2}, stats.Failures)
		require.Equal(t, map[string]int64{"because": 2}, stats.Reasons)
		require.Equal(t, map[string]int64{"primary": 102, "fallback": 1}, stats.Via, "by the newest request")
		require.Equal(t, Percentiles{Count: 100, P50: 50 * time.Millisecond, P90: 90 * time.Millisecond, P99: 99 * time.Millisecond}, stats.Duration)
		require.Equal(t, time.Second+50*time.Millisecond, stats.Latency.P50)
		require.Equal(t, []int64{1, 1}, []int64{stats.Queued, stats.Retrying})
		later, err := s.Stats(t.Context(), "acme", "sub_1", w.at(1))
		require.NoError(t, err)
		require.Empty(t, later.States)
		require.EqualValues(t, 1, later.Queued, "what waits is counted however old it is")
		other, err := s.Stats(t.Context(), "other", "sub_1", w.at(-1))
		require.NoError(t, err)
		require.Empty(t, other.States)
		require.Zero(t, other.Queued)
	})
}
