package history

import (
	"context"
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/callstream/callstream/services/console/storage"
)

const (
	// keepEvery is how often old rows are looked for while there are few.
	keepEvery = 10 * time.Second
	// keepBatch is how many rows one transaction deletes: a long one would hold up the projection.
	keepBatch = 2000
	// recountEvery is how often rows are counted; in between the count is kept by adding up.
	recountEvery = time.Hour
)

// keeper deletes what is too old or too much, a little at a time.
type keeper struct {
	*Projection
	rows, fresh      counts // how many rows there are, and how many of them came since the last cleaning
	counted, cleaned time.Time
}

func (p *Projection) newKeeper(ctx context.Context) (keeper, error) {
	k := keeper{Projection: p}
	return k, k.count(ctx)
}

func (k *keeper) count(ctx context.Context) error {
	row := k.store.db.Row(ctx, `SELECT (SELECT COUNT(*) FROM history_events), (SELECT COUNT(*) FROM history_deliveries), (SELECT COUNT(*) FROM history_responses), (SELECT COUNT(*) FROM history_dead_letters)`)
	if err := row.Scan(&k.rows.events, &k.rows.deliveries, &k.rows.responses, &k.rows.letters); err != nil {
		return fmt.Errorf("count the history: %w", err)
	}
	k.counted = k.cfg.Now()
	return nil
}

// added notes new rows.
func (k *keeper) added(n counts) {
	for _, c := range []*counts{&k.rows, &k.fresh} {
		c.events, c.deliveries, c.responses, c.letters = c.events+n.events, c.deliveries+n.deliveries, c.responses+n.responses, c.letters+n.letters
	}
}

// clean deletes a batch of rows, or twice what came in meanwhile, from each table that has too old ones or too many.
func (k *keeper) clean(ctx context.Context) error {
	now := k.cfg.Now()
	if max(k.rows.deliveries, k.rows.events, k.rows.responses, k.rows.letters)-keepBatch <= k.cfg.MaxDeliveries && now.Sub(k.cleaned) < keepEvery {
		return nil
	}
	if now.Sub(k.counted) > recountEvery {
		if err := k.count(ctx); err != nil {
			return err
		}
	}
	before := storage.Micros(now.Add(-k.cfg.Retention))
	more := false
	for _, table := range []struct {
		name, at    string
		rows, fresh *int64
		note        func(ctx context.Context, t tx, chosen string, args []any) error
	}{
		{"history_deliveries", "created_at", &k.rows.deliveries, &k.fresh.deliveries, k.noteMissed},
		{"history_events", "accepted_at", &k.rows.events, &k.fresh.events, nil},
		{"history_responses", "received_at", &k.rows.responses, &k.fresh.responses, nil},
		{"history_dead_letters", "dead_at", &k.rows.letters, &k.fresh.letters, nil},
	} {
		most := max(keepBatch, 2**table.fresh)
		n, err := k.store.delete(ctx, table.name, table.at, before, most, table.note)
		if excess := *table.rows - n - k.cfg.MaxDeliveries; err == nil && excess > 0 && n < most {
			var older int64
			older, err = k.store.delete(ctx, table.name, table.at, math.MaxInt64, min(excess, most-n), table.note)
			n += older
		}
		if err != nil {
			return err
		}
		if n > 0 {
			k.metrics.deleted.Add(ctx, n)
			k.log.Debug("old rows deleted", zap.String("table", table.name), zap.Int64("rows", n))
		}
		*table.rows, *table.fresh = *table.rows-n, 0
		more = more || n == most
	}
	if more {
		return nil
	}
	k.cleaned = now
	return k.store.change(ctx, "forget what was missed long ago", func(t tx) error {
		_, err := t.Exec(ctx, `DELETE FROM history_forgotten WHERE forgotten_at < ?`, before)
		return err
	})
}

// noteMissed counts what subscriptions missed among the rows that are to be deleted: who asks for it is told that it is
// lost.
func (k *keeper) noteMissed(ctx context.Context, t tx, chosen string, args []any) error {
	_, err := t.Exec(ctx, `INSERT INTO history_forgotten (tenant, subscription_id, missed, forgotten_at)
		SELECT tenant, subscription_id, COUNT(*), CAST(? AS BIGINT) FROM history_deliveries WHERE `+missed+` AND `+chosen+` GROUP BY tenant, subscription_id
		ON CONFLICT (tenant, subscription_id) DO UPDATE SET missed = history_forgotten.missed + excluded.missed, forgotten_at = excluded.forgotten_at`,
		append([]any{storage.Micros(k.cfg.Now())}, args...)...)
	return err
}

// delete deletes the oldest rows of a table whose time is before a limit, at most so many; note, where it is not nil, is
// told which before that, by a condition.
func (s *Store) delete(ctx context.Context, table, at string, before, most int64, note func(ctx context.Context, t tx, chosen string, args []any) error) (int64, error) {
	row := "rowid"
	if s.db.Postgres {
		row = "ctid"
	}
	// The order by rows makes it the same ones both times, where many have one time.
	chosen, args := row+" IN (SELECT "+row+" FROM "+table+" WHERE "+at+" < ? ORDER BY "+at+", "+row+" LIMIT ?)", []any{before, most}
	var n int64
	err := s.change(ctx, "delete old rows", func(t tx) error {
		if note != nil {
			if err := note(ctx, t, chosen, args); err != nil {
				return err
			}
		}
		done, err := t.Exec(ctx, "DELETE FROM "+table+" WHERE "+chosen, args...)
		if err != nil {
			return err
		}
		n, err = done.RowsAffected()
		return err
	})
	if n > 0 {
		s.forget()
	}
	return n, err
}
