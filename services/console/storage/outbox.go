package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/callstream/callstream/pkg/run"
)

// Kind tells apart what goes through the outbox.
type Kind string

// The kinds.
const (
	KindSubscription Kind = "subscription"
	KindKey          Kind = "key"
	// KindReplay is a command, which has a topic and no state of its own.
	KindReplay Kind = "replay"
	// KindEvent is one of callstream's own events, which has neither.
	KindEvent Kind = "event"
	// KindRedrive is dead letters that are sent again. Only the audit log knows it: it does not go through the outbox.
	KindRedrive Kind = "redrive"
)

// Entry is one version of an object on its way to the feed.
type Entry struct {
	Seq     Receipt
	Kind    Kind
	ID      string
	Tenant  string
	Version int64
	Deleted bool
	// Spec is the object, or the event, as JSON, Secrets a JSON object of sealed secrets; both empty for a deletion.
	Spec    json.RawMessage
	Secrets json.RawMessage
	// At is when the change was made.
	At time.Time
}

type entryBody struct {
	Spec    json.RawMessage `json:"spec,omitempty"`
	Secrets json.RawMessage `json:"secrets,omitempty"`
}

func insertEntry(ctx context.Context, t Tx, at time.Time, e Entry) (Receipt, error) {
	body, err := json.Marshal(entryBody{e.Spec, e.Secrets})
	if err != nil {
		return 0, fmt.Errorf("write to the outbox: %w", err)
	}
	var seq int64
	err = t.Row(ctx, `INSERT INTO outbox (kind, id, tenant, version, deleted, body, created_at) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING seq`,
		string(e.Kind), e.ID, e.Tenant, e.Version, boolInt(e.Deleted), string(body), Micros(at)).Scan(&seq)
	if err != nil {
		return 0, fmt.Errorf("write to the outbox: %w", err)
	}
	return Receipt(seq), nil
}

// Pending returns entries that are not on the feed yet, in the order of their numbers, at most limit of them.
//
// On PostgreSQL a transaction that took a lower number may commit after one with a higher: so entries are marked one by
// one, and never passed over because a higher one went. Entries of one object come in the order of its versions in any
// case, since each was written under the lock of the object's row.
func (s *Store) Pending(ctx context.Context, limit int) ([]Entry, error) {
	rows, err := s.Query(ctx, `SELECT seq, kind, id, tenant, version, deleted, body, created_at FROM outbox WHERE published_at = 0 ORDER BY seq LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return scanEntries(rows)
}

// PendingCount is how many entries are not on the feed yet.
func (s *Store) PendingCount(ctx context.Context) (int64, error) {
	var n int64
	if err := s.Row(ctx, `SELECT COUNT(*) FROM outbox WHERE published_at = 0`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count the outbox: %w", err)
	}
	return n, nil
}

func scanEntries(rows *sql.Rows) ([]Entry, error) {
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		var e Entry
		var body string
		var deleted, at int64
		if err := rows.Scan(&e.Seq, &e.Kind, &e.ID, &e.Tenant, &e.Version, &deleted, &body, &at); err != nil {
			return nil, fmt.Errorf("read the outbox: %w", err)
		}
		var b entryBody
		if err := json.Unmarshal([]byte(body), &b); err != nil {
			return nil, fmt.Errorf("read entry %d of the outbox: %w", e.Seq, err)
		}
		e.Deleted, e.Spec, e.Secrets, e.At = deleted != 0, b.Spec, b.Secrets, FromMicros(at)
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return list, nil
}

// MarkPublished notes that an entry stands on the feed at offset. The entry's body is dropped: the object's row has what
// is needed.
func (s *Store) MarkPublished(ctx context.Context, seq Receipt, offset int64) error {
	err := s.Change(ctx, "mark an outbox entry", func(t Tx) error {
		_, err := t.Exec(ctx, `UPDATE outbox SET published_at = ?, feed_offset = ?, body = '{}' WHERE seq = ?`, Micros(s.Now()), offset, int64(seq))
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	close(s.published)
	s.published = make(chan struct{})
	s.mu.Unlock()
	return nil
}

// publishedPoll is how often another process's relay is asked after; this process's own wakes the waiter at once.
const publishedPoll = 100 * time.Millisecond

// WaitPublished waits until an entry is on the feed, and returns its offset there.
func (s *Store) WaitPublished(ctx context.Context, seq Receipt) (int64, error) {
	for {
		s.mu.Lock()
		published := s.published
		s.mu.Unlock()
		var at, offset int64
		err := s.Row(ctx, `SELECT published_at, feed_offset FROM outbox WHERE seq = ?`, int64(seq)).Scan(&at, &offset)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return 0, fmt.Errorf("wait for outbox entry %d: %w", seq, ErrNotFound)
		case err != nil:
			return 0, fmt.Errorf("wait for outbox entry %d: %w", seq, err)
		case at != 0:
			return offset, nil
		}
		if err := run.Await(ctx, published, publishedPoll); err != nil {
			return 0, fmt.Errorf("wait for outbox entry %d: %w", seq, err)
		}
	}
}

// Objects returns every object of a kind as an entry, deleted ones that are still remembered too, after the id given and
// at most limit of them, in the order of ids.
func (s *Store) Objects(ctx context.Context, kind Kind, after string, limit int) ([]Entry, error) {
	if kind == KindKey {
		return s.keyObjects(ctx, after, limit)
	}
	rows, err := s.Query(ctx, selectSubscriptionEntry+` WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read subscriptions: %w", err)
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		e, err := scanSubscriptionEntry(rows)
		if err != nil {
			return nil, fmt.Errorf("read subscriptions: %w", err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read subscriptions: %w", err)
	}
	return list, nil
}

const selectSubscriptionEntry = `SELECT id, tenant, version, spec, secrets, updated_at, deleted_at FROM subscriptions`

func scanSubscriptionEntry(row scanner) (Entry, error) {
	var id, tenant, spec, secrets string
	var version, updated, deleted int64
	if err := row.Scan(&id, &tenant, &version, &spec, &secrets, &updated, &deleted); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			return Entry{}, ErrNotFound
		}
		return Entry{}, err
	}
	e := subscriptionEntry(id, tenant, version, deleted != 0, spec, secrets)
	e.At = FromMicros(updated)
	return e, nil
}

const selectKeyDeleted = `SELECT id, tenant, version, name, hash, scopes, created_at, updated_at, expires_at, deleted_at FROM api_keys`

func (s *Store) keyObjects(ctx context.Context, after string, limit int) ([]Entry, error) {
	rows, err := s.Query(ctx, selectKeyDeleted+` WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		var deleted int64
		k, err := scanKey(withDeleted{rows, &deleted})
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		e, err := keyEntry(k, deleted != 0)
		if err != nil {
			return nil, err
		}
		e.At = k.UpdatedAt
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	return list, nil
}

type withDeleted struct {
	scanner
	deleted *int64
}

func (w withDeleted) Scan(dest ...any) error { return w.scanner.Scan(append(dest, w.deleted)...) }

// Adopt stores objects that were read from a feed, as they stand there or as deleted now, unless an object of that id is
// stored already.
func (s *Store) Adopt(ctx context.Context, entries []Entry) error {
	return s.Change(ctx, "adopt objects from the feed", func(t Tx) error {
		for _, e := range entries {
			if err := adopt(ctx, t, s.Now(), e); err != nil {
				return fmt.Errorf("%s %s: %w", e.Kind, e.ID, err)
			}
			if err := audit(ctx, t, s.Now(), e, Change{Actor: "system", Action: "adopted"}); err != nil {
				return err
			}
		}
		return nil
	})
}

func adopt(ctx context.Context, t Tx, at time.Time, e Entry) error {
	deletedAt := int64(0)
	if e.Deleted {
		deletedAt = Micros(at)
	}
	if e.Kind == KindKey {
		k, err := e.Key()
		if err != nil {
			return err
		}
		scopes, err := json.Marshal(k.Scopes)
		if err != nil {
			return err
		}
		hash := k.Hash
		if e.Deleted {
			hash = "deleted " + e.ID // hashes are unique, and this one is nobody's
		}
		_, err = t.Exec(ctx, `INSERT INTO api_keys (id, tenant, version, name, hash, scopes, created_at, updated_at, expires_at, deleted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			k.ID, k.Tenant, k.Version, k.Name, hash, string(scopes), Micros(k.CreatedAt), Micros(k.UpdatedAt), Micros(k.ExpiresAt), deletedAt)
		return err
	}
	r := subscriptionRow{id: e.ID, tenant: e.Tenant, version: e.Version, spec: "{}", secrets: "{}"}
	var times struct {
		CreatedAt time.Time `json:"created_at"`
		UpdatedAt time.Time `json:"updated_at"`
	}
	if !e.Deleted {
		r.spec = string(e.Spec)
	}
	if len(e.Secrets) > 0 {
		r.secrets = string(e.Secrets)
	}
	if err := json.Unmarshal([]byte(r.spec), &times); err != nil {
		return err
	}
	if err := r.index(); err != nil {
		return err
	}
	_, err := t.Exec(ctx, `INSERT INTO subscriptions (id, tenant, version, spec, secrets, state, position, previous_until, created_at, updated_at, deleted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		r.id, r.tenant, r.version, r.spec, r.secrets, r.state, r.position, r.previousUntil, Micros(times.CreatedAt), Micros(times.UpdatedAt), deletedAt)
	return err
}

// Republish puts objects of a kind into the outbox again, as they are then. Each is read under the lock of its row, so that
// no newer version of it can get into the outbox before. One whose present version waits there already is left out.
func (s *Store) Republish(ctx context.Context, kind Kind, ids []string) error {
	return s.Change(ctx, "republish", func(t Tx) error {
		for _, id := range ids {
			e, err := object(ctx, t, kind, id)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			var waiting int
			if err := t.Row(ctx, `SELECT COUNT(*) FROM outbox WHERE published_at = 0 AND kind = ? AND id = ? AND version = ?`,
				string(kind), id, e.Version).Scan(&waiting); err != nil {
				return err
			}
			if waiting > 0 {
				continue
			}
			if _, err := insertEntry(ctx, t, s.Now(), e); err != nil {
				return err
			}
		}
		return nil
	})
}

func object(ctx context.Context, t Tx, kind Kind, id string) (Entry, error) {
	if kind == KindKey {
		var deleted int64
		k, err := scanKey(withDeleted{t.Row(ctx, selectKeyDeleted+` WHERE id = ?`+t.ForUpdate(), id), &deleted})
		if err != nil {
			return Entry{}, err
		}
		return keyEntry(k, deleted != 0)
	}
	return scanSubscriptionEntry(t.Row(ctx, selectSubscriptionEntry+` WHERE id = ?`+t.ForUpdate(), id))
}

// Forgettable returns the objects of a kind that were deleted before a time, at most limit of them.
func (s *Store) Forgettable(ctx context.Context, kind Kind, before time.Time, limit int) ([]Entry, error) {
	rows, err := s.Query(ctx, `SELECT id, tenant, version FROM `+table(kind)+` WHERE deleted_at > 0 AND deleted_at < ? ORDER BY deleted_at LIMIT ?`, Micros(before), limit)
	if err != nil {
		return nil, fmt.Errorf("read deleted objects: %w", err)
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		e := Entry{Kind: kind, Deleted: true}
		if err := rows.Scan(&e.ID, &e.Tenant, &e.Version); err != nil {
			return nil, fmt.Errorf("read deleted objects: %w", err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read deleted objects: %w", err)
	}
	return list, nil
}

// Forget drops the row of a deleted object, whose tombstone is on the feed.
func (s *Store) Forget(ctx context.Context, e Entry) error {
	return s.Change(ctx, "forget a deleted object", func(t Tx) error {
		_, err := t.Exec(ctx, `DELETE FROM `+table(e.Kind)+` WHERE id = ? AND deleted_at > 0`, e.ID)
		return err
	})
}

// Purge drops outbox entries that were published before a time.
func (s *Store) Purge(ctx context.Context, before time.Time) error {
	return s.Change(ctx, "purge the outbox", func(t Tx) error {
		_, err := t.Exec(ctx, `DELETE FROM outbox WHERE published_at > 0 AND published_at < ?`, Micros(before))
		return err
	})
}

func table(kind Kind) string {
	if kind == KindKey {
		return "api_keys"
	}
	return "subscriptions"
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
