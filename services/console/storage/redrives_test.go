package storage_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
)

// P-08: a redrive keeps what became of each letter over a restart, puts each back once, and says why others were not.
func TestARedriveIsDurable(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		cfg.Now = func() time.Time { return clock }
		ctx, s := t.Context(), open(t, cfg)
		letter := func(offset int64, state, reason string) storage.RedriveItem {
			return storage.RedriveItem{Partition: 1, Offset: offset, DeadAt: clock.Add(time.Duration(offset) * time.Millisecond), State: state, Reason: reason}
		}
		letters := func(n int) (list []storage.RedriveItem) {
			for i := range n {
				list = append(list, letter(int64(i), storage.ItemWaiting, ""))
			}
			return list
		}
		ask := func(id string, once bool, items ...storage.RedriveItem) storage.Redrive {
			t.Helper()
			r := storage.Redrive{ID: id, Tenant: "acme", Request: json.RawMessage(`{"filter":{}}`), Rate: 10, RequestedBy: "key_1"}
			require.NoError(t, s.CreateRedrive(ctx, &r, items, once, storage.Change{Actor: "key_1", Action: "redriven"}))
			return r
		}
		// More than one INSERT has.
		first := ask("rdr_1", true, append(letters(1200), letter(1200, storage.ItemSkipped, "subscription_paused"))...)
		require.Equal(t, []any{storage.RedriveRunning, 1201, 1}, []any{first.State, first.Total, first.Skipped})
		second := ask("rdr_2", true, letters(3)...)
		require.Equal(t, []any{storage.RedriveDone, 3, 3}, []any{second.State, second.Total, second.Skipped}, "they wait in the first")
		reasons, err := s.RedriveReasons(ctx, "rdr_2")
		require.NoError(t, err)
		require.Equal(t, map[string]int{storage.ItemUnderWay: 3}, reasons)

		turn, err := s.RedriveWaiting(ctx, "rdr_1", 0, 0, 2)
		require.NoError(t, err)
		require.Equal(t, letters(2), turn)
		after, err := s.RedriveWaiting(ctx, "rdr_1", 1, 2, 2)
		require.NoError(t, err)
		require.Equal(t, letters(4)[2:], after)
		after, err = s.RedriveWaiting(ctx, "rdr_1", 2, 0, 2)
		require.NoError(t, err)
		require.Empty(t, after)
		turn[0].State, turn[1].State, turn[1].Reason, turn[1].Detail = storage.ItemDone, storage.ItemFailed, "gone", "retention took it"
		command := event.Replay{ID: "rpl_1", Tenant: "acme", SubscriptionID: "sub_1", Command: "start"}
		require.NoError(t, s.SettleRedrive(ctx, "rdr_1", turn, []event.Replay{command}))
		require.NoError(t, s.SettleRedrive(ctx, "rdr_1", turn, nil), "a second time changes nothing")
		pending, err := s.Pending(ctx, 10)
		require.NoError(t, err)
		require.Len(t, pending, 1)
		s.Close()
		s = open(t, cfg)
		running, err := s.RunningRedrives(ctx)
		require.NoError(t, err)
		require.Len(t, running, 1)
		require.Equal(t, []int{1201, 1, 1, 1}, []int{running[0].Total, running[0].Done, running[0].Failed, running[0].Skipped})
		rest, err := s.RedriveWaiting(ctx, "rdr_1", 0, 0, 5000)
		require.NoError(t, err)
		require.Len(t, rest, 1198)

		// By filter what was put back is left alone, by id it is not; a letter at the place of one from before is another.
		again := ask("rdr_3", true, letter(0, storage.ItemWaiting, ""))
		require.Equal(t, storage.RedriveDone, again.State)
		require.Equal(t, storage.RedriveRunning, ask("rdr_4", false, letter(0, storage.ItemWaiting, "")).State)
		anew := letter(0, storage.ItemWaiting, "")
		anew.DeadAt = clock.Add(time.Hour)
		require.Equal(t, storage.RedriveRunning, ask("rdr_5", true, anew).State)

		for i := range rest {
			rest[i].State = storage.ItemDone
		}
		require.NoError(t, s.SettleRedrive(ctx, "rdr_1", rest, nil))
		ended, err := s.Redrive(ctx, "acme", "rdr_1")
		require.NoError(t, err)
		require.Equal(t, []any{storage.RedriveDone, 1199, clock}, []any{ended.State, ended.Done, ended.FinishedAt})
		explained, err := s.RedriveExplained(ctx, "rdr_1", 10)
		require.NoError(t, err)
		require.Len(t, explained, 2)
		require.Equal(t, "retention took it", explained[0].Detail)

		_, err = s.CancelRedrive(ctx, "other", "rdr_4", by)
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = s.Redrive(ctx, "other", "rdr_4")
		require.ErrorIs(t, err, storage.ErrNotFound)
		cancelled, err := s.CancelRedrive(ctx, "acme", "rdr_4", by)
		require.NoError(t, err)
		require.Equal(t, storage.RedriveCancelled, cancelled.State)
		same, err := s.CancelRedrive(ctx, "acme", "rdr_1", by)
		require.NoError(t, err)
		require.Equal(t, storage.RedriveDone, same.State)
		list, err := s.Redrives(ctx, "acme", "rdr_5", 2)
		require.NoError(t, err)
		require.Equal(t, []string{"rdr_4", "rdr_3"}, []string{list[0].ID, list[1].ID})

		require.NoError(t, s.ForgetRedrives(ctx, clock.Add(time.Second)))
		list, err = s.Redrives(ctx, "acme", "", 10)
		require.NoError(t, err)
		require.Len(t, list, 1, "what runs is kept")
		lines, err := s.Audit(ctx, "acme", storage.AuditQuery{Kind: storage.KindRedrive, Limit: 10})
		require.NoError(t, err)
		require.Len(t, lines, 6)
	})
}

// P-08: a record is put back by hand once, however many ask; one that was not put back after all may be asked for again, and
// one of which nothing is heard as well, after a while.
func TestARetryIsBegunOnce(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		cfg.Now = func() time.Time { return clock }
		s := open(t, cfg)
		begin := func(id, record string) string {
			t.Helper()
			other, err := s.BeginRetry(t.Context(), "acme", id, record, storage.Change{Actor: "key_1", Action: "retried"})
			require.NoError(t, err)
			return other
		}
		require.Empty(t, begin("rdr_1", "deliveries.standard/0/1"))
		require.Equal(t, "rdr_1", begin("rdr_2", "deliveries.standard/0/1"))
		require.Empty(t, begin("rdr_3", "deliveries.standard/0/2"))
		require.NoError(t, s.CancelRetry(t.Context(), "rdr_3", "deliveries.standard/0/1"), "it is another's")
		require.Equal(t, "rdr_1", begin("rdr_4", "deliveries.standard/0/1"))
		require.NoError(t, s.CancelRetry(t.Context(), "rdr_1", "deliveries.standard/0/1"))
		require.Empty(t, begin("rdr_5", "deliveries.standard/0/1"))
		clock = clock.Add(2 * time.Hour)
		require.Empty(t, begin("rdr_6", "deliveries.standard/0/1"))
	})
}
