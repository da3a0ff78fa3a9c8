package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/callstream/callstream/schemas/event"
)

// The states of a redrive.
const (
	RedriveRunning   = "running"
	RedriveDone      = "done"
	RedriveCancelled = "cancelled"
)

// The states of a dead letter in a redrive.
const (
	ItemWaiting = "waiting" // its turn has not come
	ItemDone    = "done"    // put back
	ItemFailed  = "failed"  // it could not be put back
	ItemSkipped = "skipped" // not to be put back, for the reason
)

// The reasons for which CreateRedrive skips a letter.
const (
	ItemUnderWay = "under_way" // it waits in another redrive
	ItemRedriven = "redriven"  // another redrive has put it back
)

// Redrive is dead letters that are sent again because somebody asked for it.
type Redrive struct {
	ID     string
	Tenant string
	State  string
	// Request is what was asked for, as JSON.
	Request     json.RawMessage
	Rate        int // letters a second
	RequestedBy string
	RequestedAt time.Time
	FinishedAt  time.Time // zero while it runs
	// Total is how many letters it has; the others of them wait, or were left when it was cancelled.
	Total, Done, Failed, Skipped int
}

// RedriveItem is one dead letter of a redrive.
type RedriveItem struct {
	Partition int32
	Offset    int64
	// DeadAt tells the letter from another that stood at the place before the topic was made anew.
	DeadAt time.Time
	State  string
	Reason string
	Detail string // the reason in words
}

// itemsAtOnce is how many items one INSERT has.
const itemsAtOnce = 500

// CreateRedrive stores a redrive with its letters, in the states that the caller has decided. Letters that wait in another
// redrive are skipped, and with once those that another one has put back: its mark may not be in the history yet. A
// redrive of which nothing waits is done. r comes to be what is stored.
func (s *Store) CreateRedrive(ctx context.Context, r *Redrive, items []RedriveItem, once bool, c Change) error {
	return s.Change(ctx, "ask for a redrive", func(t Tx) error {
		if s.Postgres {
			// One after the other, else two that are asked for at the same time would not see each other's letters.
			if _, err := t.Exec(ctx, `SELECT pg_advisory_xact_lock(?)`, redriver().Key+1); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(items, itemsAtOnce) {
			args := make([]any, 0, 7*len(part))
			for _, i := range part {
				args = append(args, r.ID, i.Partition, i.Offset, Micros(i.DeadAt), i.State, i.Reason, i.Detail)
			}
			if _, err := t.Exec(ctx, `INSERT INTO redrive_items (redrive, number, record_offset, dead_at, state, reason, detail) VALUES `+
				strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ?, ?, ?), ", len(part)), ", "), args...); err != nil {
				return err
			}
		}
		if err := skipItems(ctx, t, r.ID, ItemUnderWay, `o.state = 'waiting' AND p.state = 'running'`); err != nil {
			return err
		}
		if once {
			if err := skipItems(ctx, t, r.ID, ItemRedriven, `o.state = 'done'`); err != nil {
				return err
			}
		}
		r.Total, r.Done, r.Failed, r.RequestedAt, r.State = len(items), 0, 0, s.Now(), RedriveRunning
		var waiting int
		if err := t.Row(ctx, `SELECT COALESCE(SUM(CASE WHEN state = 'waiting' THEN 1 ELSE 0 END), 0) FROM redrive_items WHERE redrive = ?`, r.ID).Scan(&waiting); err != nil {
			return err
		}
		r.Skipped = r.Total - waiting
		if waiting == 0 {
			r.State, r.FinishedAt = RedriveDone, r.RequestedAt
		}
		if _, err := t.Exec(ctx, `INSERT INTO redrives (id, tenant, state, request, rate, requested_by, requested_at, finished_at, total, done, failed, skipped)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?)`, r.ID, r.Tenant, r.State, string(r.Request), r.Rate, r.RequestedBy, Micros(r.RequestedAt), Micros(r.FinishedAt), r.Total, r.Skipped); err != nil {
			return err
		}
		c.Detail = map[string]any{"request": r.Request, "total": r.Total, "skipped": r.Skipped}
		return audit(ctx, t, s.Now(), Entry{Kind: KindRedrive, ID: r.ID, Tenant: r.Tenant}, c)
	})
}

// skipItems skips the letters of a redrive that are in another one, in a state of it.
func skipItems(ctx context.Context, t Tx, redrive, reason, other string) error {
	_, err := t.Exec(ctx, `UPDATE redrive_items SET state = 'skipped', reason = ? WHERE redrive = ? AND state = 'waiting' AND EXISTS (
		SELECT 1 FROM redrive_items o JOIN redrives p ON p.id = o.redrive
		WHERE o.number = redrive_items.number AND o.record_offset = redrive_items.record_offset AND o.dead_at = redrive_items.dead_at AND o.redrive <> redrive_items.redrive AND `+other+`)`, reason, redrive)
	return err
}

const selectRedrive = `SELECT id, tenant, state, request, rate, requested_by, requested_at, finished_at, total, done, failed, skipped FROM redrives`

func scanRedrive(row scanner) (Redrive, error) {
	var r Redrive
	var request string
	var requested, finished int64
	err := row.Scan(&r.ID, &r.Tenant, &r.State, &request, &r.Rate, &r.RequestedBy, &requested, &finished, &r.Total, &r.Done, &r.Failed, &r.Skipped)
	if errors.Is(err, sql.ErrNoRows) {
		return r, ErrNotFound
	}
	r.Request, r.RequestedAt, r.FinishedAt = json.RawMessage(request), FromMicros(requested), FromMicros(finished)
	return r, err
}

func (s *Store) redrives(ctx context.Context, query string, args ...any) ([]Redrive, error) {
	rows, err := s.Query(ctx, selectRedrive+query, args...)
	if err != nil {
		return nil, fmt.Errorf("read redrives: %w", err)
	}
	defer rows.Close()
	list := []Redrive{}
	for rows.Next() {
		r, err := scanRedrive(rows)
		if err != nil {
			return nil, fmt.Errorf("read redrives: %w", err)
		}
		list = append(list, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read redrives: %w", err)
	}
	return list, nil
}

// Redrives lists a tenant's redrives, newest first, those before an id; "" begins the list.
func (s *Store) Redrives(ctx context.Context, tenant, before string, limit int) ([]Redrive, error) {
	if before == "" {
		return s.redrives(ctx, ` WHERE tenant = ? ORDER BY id DESC LIMIT ?`, tenant, limit)
	}
	return s.redrives(ctx, ` WHERE tenant = ? AND id < ? ORDER BY id DESC LIMIT ?`, tenant, before, limit)
}

// RunningRedrives returns those of all tenants that have letters to put back, the oldest first.
func (s *Store) RunningRedrives(ctx context.Context) ([]Redrive, error) {
	return s.redrives(ctx, ` WHERE state = 'running' ORDER BY id`)
}

// Redrive returns a tenant's redrive.
func (s *Store) Redrive(ctx context.Context, tenant, id string) (Redrive, error) {
	r, err := scanRedrive(s.Row(ctx, selectRedrive+` WHERE id = ? AND tenant = ?`, id, tenant))
	if err != nil {
		return r, fmt.Errorf("read the redrive: %w", err)
	}
	return r, nil
}

// RedriveReasons counts the letters of a redrive that were not put back, by reason.
func (s *Store) RedriveReasons(ctx context.Context, id string) (map[string]int, error) {
	rows, err := s.Query(ctx, `SELECT reason, COUNT(*) FROM redrive_items WHERE redrive = ? AND state IN ('failed', 'skipped') GROUP BY reason`, id)
	if err != nil {
		return nil, fmt.Errorf("count the letters of a redrive: %w", err)
	}
	defer rows.Close()
	reasons := map[string]int{}
	for rows.Next() {
		var reason string
		var n int
		if err := rows.Scan(&reason, &n); err != nil {
			return nil, fmt.Errorf("count the letters of a redrive: %w", err)
		}
		reasons[reason] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("count the letters of a redrive: %w", err)
	}
	return reasons, nil
}

// RedriveExplained returns letters of a redrive that were not put back, by their places.
func (s *Store) RedriveExplained(ctx context.Context, id string, limit int) ([]RedriveItem, error) {
	return s.redriveItems(ctx, ` WHERE redrive = ? AND state IN ('failed', 'skipped') ORDER BY number, record_offset LIMIT ?`, id, limit)
}

// RedriveWaiting returns letters of a redrive that wait, by their places, from a place on.
func (s *Store) RedriveWaiting(ctx context.Context, id string, partition int32, offset int64, limit int) ([]RedriveItem, error) {
	return s.redriveItems(ctx, ` WHERE redrive = ? AND state = 'waiting' AND (number, record_offset) >= (?, ?) ORDER BY number, record_offset LIMIT ?`, id, partition, offset, limit)
}

func (s *Store) redriveItems(ctx context.Context, query string, args ...any) ([]RedriveItem, error) {
	rows, err := s.Query(ctx, `SELECT number, record_offset, dead_at, state, reason, detail FROM redrive_items`+query, args...)
	if err != nil {
		return nil, fmt.Errorf("read the letters of a redrive: %w", err)
	}
	defer rows.Close()
	list := []RedriveItem{}
	for rows.Next() {
		var i RedriveItem
		var dead int64
		if err := rows.Scan(&i.Partition, &i.Offset, &dead, &i.State, &i.Reason, &i.Detail); err != nil {
			return nil, fmt.Errorf("read the letters of a redrive: %w", err)
		}
		i.DeadAt = FromMicros(dead)
		list = append(list, i)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the letters of a redrive: %w", err)
	}
	return list, nil
}

// SettleRedrive notes what became of letters, and with it puts the commands into the outbox that replay the events of some
// of them. A redrive of which nothing waits any more is done.
func (s *Store) SettleRedrive(ctx context.Context, id string, items []RedriveItem, commands []event.Replay) error {
	return s.Change(ctx, "settle the letters of a redrive", func(t Tx) error {
		counts := map[string]int64{}
		for _, i := range items {
			done, err := t.Exec(ctx, `UPDATE redrive_items SET state = ?, reason = ?, detail = ? WHERE redrive = ? AND number = ? AND record_offset = ? AND state = 'waiting'`,
				i.State, i.Reason, i.Detail, id, i.Partition, i.Offset)
			if err != nil {
				return err
			}
			n, err := done.RowsAffected()
			if err != nil {
				return err
			}
			counts[i.State] += n
		}
		for _, command := range commands {
			if _, err := askReplay(ctx, t, s.Now(), command); err != nil {
				return err
			}
		}
		_, err := t.Exec(ctx, `UPDATE redrives SET done = done + ?, failed = failed + ?, skipped = skipped + ? WHERE id = ?`,
			counts[ItemDone], counts[ItemFailed], counts[ItemSkipped], id)
		if err != nil {
			return err
		}
		_, err = t.Exec(ctx, `UPDATE redrives SET state = 'done', finished_at = ? WHERE id = ? AND state = 'running'
			AND NOT EXISTS (SELECT 1 FROM redrive_items WHERE redrive = ? AND state = 'waiting')`, Micros(s.Now()), id, id)
		return err
	})
}

// CancelRedrive ends a redrive that runs; what is put back stays so. One that has ended stays as it is.
func (s *Store) CancelRedrive(ctx context.Context, tenant, id string, c Change) (Redrive, error) {
	var r Redrive
	err := s.Change(ctx, "cancel a redrive", func(t Tx) error {
		var err error
		if r, err = scanRedrive(t.Row(ctx, selectRedrive+` WHERE id = ? AND tenant = ?`+t.ForUpdate(), id, tenant)); err != nil {
			return err
		}
		if r.State != RedriveRunning {
			return nil
		}
		r.State, r.FinishedAt = RedriveCancelled, s.Now()
		if _, err := t.Exec(ctx, `UPDATE redrives SET state = ?, finished_at = ? WHERE id = ?`, r.State, Micros(r.FinishedAt), id); err != nil {
			return err
		}
		return audit(ctx, t, s.Now(), Entry{Kind: KindRedrive, ID: id, Tenant: tenant}, c)
	})
	return r, err
}

// ForgetRedrives drops redrives that ended before a time.
func (s *Store) ForgetRedrives(ctx context.Context, before time.Time) error {
	return s.Change(ctx, "forget old redrives", func(t Tx) error {
		const old = `SELECT id FROM redrives WHERE finished_at > 0 AND finished_at < ?`
		if _, err := t.Exec(ctx, `DELETE FROM redrive_items WHERE redrive IN (`+old+`)`, Micros(before)); err != nil {
			return err
		}
		_, err := t.Exec(ctx, `DELETE FROM redrives WHERE id IN (`+old+`)`, Micros(before))
		return err
	})
}

// redriver puts dead letters back.
func redriver() Role {
	return Role{File: "callstream.redrive.lock", Key: 0x63616c6c_72647276} // "callrdrv"
}

// LeadRedrives waits until this process is the only one that may put dead letters back; see Database.LeadAs.
func (s *Store) LeadRedrives(ctx context.Context) (context.Context, func(), error) {
	return s.LeadAs(ctx, redriver())
}

// retryLasts is how long a retry by hand is taken to be under way at most when nothing more is heard of it. The history tells of it
// within seconds; the rest is for a history that is behind.
const retryLasts = time.Hour

// BeginRetry notes in the audit log that a delivery is tried again by hand, under the id of that retry, which takes over from a
// schedule of attempts. Where another retry has taken over from that one of late, the answer is its id, and nothing is noted.
func (s *Store) BeginRetry(ctx context.Context, tenant, id, schedule string, c Change) (other string, err error) {
	err = s.Change(ctx, "begin a retry", func(t Tx) error {
		now := s.Now()
		if _, err := t.Exec(ctx, `DELETE FROM retries WHERE asked_at < ?`, Micros(now.Add(-retryLasts))); err != nil {
			return err
		}
		// An update that changes nothing, to be told of the row that is there.
		var by string
		if err := t.Row(ctx, `INSERT INTO retries (schedule, id, asked_at) VALUES (?, ?, ?) ON CONFLICT (schedule) DO UPDATE SET schedule = excluded.schedule RETURNING id`,
			schedule, id, Micros(now)).Scan(&by); err != nil {
			return err
		}
		if by != id {
			other = by
			return nil
		}
		return audit(ctx, t, now, Entry{Kind: KindRedrive, ID: id, Tenant: tenant}, c)
	})
	return other, err
}

// CancelRetry forgets a retry that could not be made, so that it can be asked for again.
func (s *Store) CancelRetry(ctx context.Context, id, schedule string) error {
	return s.Change(ctx, "cancel a retry", func(t Tx) error {
		_, err := t.Exec(ctx, `DELETE FROM retries WHERE schedule = ? AND id = ?`, schedule, id)
		return err
	})
}
