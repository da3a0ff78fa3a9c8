package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// Change says who changes something, and why: what the audit log records.
type Change struct {
	Actor  string
	Action string
	// Detail is written to the audit log as JSON. It must hold no secret.
	Detail any
	// Tells returns the events of callstream's own that tell of a subscription's change, which go through the outbox with
	// it; before is nil for a new one. Where Tells is nil there are none.
	Tells func(before, after *subscription.Subscription) ([]*event.Event, error)
}

// Receipt is the place of a change in the outbox; Published tells when it is on the feed.
type Receipt int64

// CreateSubscription stores a new subscription as version 1. Its ID, tenant and state are set by the caller, its times
// and version here.
func (s *Store) CreateSubscription(ctx context.Context, sub *subscription.Subscription, c Change) (Receipt, error) {
	var receipt Receipt
	err := s.Change(ctx, "create a subscription", func(t Tx) (err error) {
		receipt, err = s.insert(ctx, t, sub, c)
		return err
	})
	return receipt, err
}

func (s *Store) insert(ctx context.Context, t Tx, sub *subscription.Subscription, c Change) (Receipt, error) {
	sub.Version, sub.CreatedAt = 1, s.Now()
	sub.UpdatedAt = sub.CreatedAt
	r, err := rowOf(sub)
	if err != nil {
		return 0, err
	}
	if err := r.insert(ctx, t); err != nil {
		return 0, err
	}
	return s.recordState(ctx, t, nil, sub, r, c)
}

// UpdateSubscription changes a subscription of a tenant: edit gets the present one and returns the next, or an error that
// leaves everything as it is. version is the one that the caller expects, 0 for any; another is ErrStale. When edit
// returns nil nothing changes, and the present subscription is returned with receipt 0.
func (s *Store) UpdateSubscription(ctx context.Context, tenant, id string, version int64, c Change,
	edit func(*subscription.Subscription) (*subscription.Subscription, error)) (*subscription.Subscription, Receipt, error) {
	var result *subscription.Subscription
	var receipt Receipt
	err := s.Change(ctx, "change a subscription", func(t Tx) error {
		now, err := present(ctx, t, tenant, id, version)
		if err != nil {
			return err
		}
		next, err := edit(now.Clone())
		if err != nil {
			return err
		}
		if next == nil {
			result = now
			return nil
		}
		result = next
		receipt, err = s.replace(ctx, t, now, next, c)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return result, receipt, nil
}

// present reads a subscription that is changed next. version is the one that it has to have, 0 for any.
func present(ctx context.Context, t Tx, tenant, id string, version int64) (*subscription.Subscription, error) {
	now, err := scanSubscription(t.Row(ctx, selectSubscription+` WHERE id = ? AND tenant = ? AND deleted_at = 0`+t.ForUpdate(), id, tenant))
	if err != nil {
		return nil, err
	}
	if version != 0 && now.Version != version {
		return nil, ErrStale
	}
	return now, nil
}

// replace stores next as the version after now.
func (s *Store) replace(ctx context.Context, t Tx, now, next *subscription.Subscription, c Change) (Receipt, error) {
	next.ID, next.Tenant, next.Version, next.CreatedAt = now.ID, now.Tenant, now.Version+1, now.CreatedAt
	next.UpdatedAt = s.Now()
	r, err := rowOf(next)
	if err != nil {
		return 0, err
	}
	if _, err := t.Exec(ctx, `UPDATE subscriptions SET version = ?, spec = ?, secrets = ?, state = ?, position = ?, previous_until = ?, updated_at = ? WHERE id = ?`,
		r.version, r.spec, r.secrets, r.state, r.position, r.previousUntil, r.updatedAt, r.id); err != nil {
		return 0, err
	}
	return s.recordState(ctx, t, now, next, r, c)
}

// recordState records a version of a subscription, and after it the events that tell of it: whoever reads one of them
// finds the feed to say the same.
func (s *Store) recordState(ctx context.Context, t Tx, before, after *subscription.Subscription, r subscriptionRow, c Change) (Receipt, error) {
	receipt, err := s.record(ctx, t, subscriptionEntry(after.ID, after.Tenant, after.Version, false, r.spec, r.secrets), c)
	if err != nil || c.Tells == nil {
		return receipt, err
	}
	events, err := c.Tells(before, after)
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		entry := Entry{Kind: KindEvent, ID: e.ID, Tenant: e.Tenant, Version: after.Version, Spec: e.AppendJSON(nil)}
		if _, err := insertEntry(ctx, t, after.UpdatedAt, entry); err != nil {
			return 0, err
		}
	}
	return receipt, nil
}

// DeleteSubscription ends a subscription. Its row stays, as the next version, until Forget drops it.
func (s *Store) DeleteSubscription(ctx context.Context, tenant, id string, version int64, c Change) (Receipt, error) {
	var receipt Receipt
	err := s.Change(ctx, "delete a subscription", func(t Tx) error {
		now, err := present(ctx, t, tenant, id, version)
		if err != nil {
			return err
		}
		receipt, err = s.end(ctx, t, now, c)
		return err
	})
	return receipt, err
}

func (s *Store) end(ctx context.Context, t Tx, now *subscription.Subscription, c Change) (Receipt, error) {
	at := Micros(s.Now())
	// The secrets go at once: nothing needs them any more.
	if _, err := t.Exec(ctx, `UPDATE subscriptions SET version = ?, secrets = '{}', previous_until = 0, updated_at = ?, deleted_at = ? WHERE id = ?`,
		now.Version+1, at, at, now.ID); err != nil {
		return 0, err
	}
	return s.record(ctx, t, subscriptionEntry(now.ID, now.Tenant, now.Version+1, true, "", "{}"), c)
}

// ExpiredKeys returns subscriptions, as tenant and id alone, whose signing key before the present one ended before a time,
// at most limit of them.
func (s *Store) ExpiredKeys(ctx context.Context, before time.Time, limit int) ([]Entry, error) {
	rows, err := s.Query(ctx, `SELECT id, tenant FROM subscriptions WHERE previous_until > 0 AND previous_until < ? ORDER BY previous_until LIMIT ?`, Micros(before), limit)
	if err != nil {
		return nil, fmt.Errorf("read expired keys: %w", err)
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		e := Entry{Kind: KindSubscription}
		if err := rows.Scan(&e.ID, &e.Tenant); err != nil {
			return nil, fmt.Errorf("read expired keys: %w", err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read expired keys: %w", err)
	}
	return list, nil
}

// Subscription returns one subscription of a tenant.
func (s *Store) Subscription(ctx context.Context, tenant, id string) (*subscription.Subscription, error) {
	sub, err := scanSubscription(s.Row(ctx, selectSubscription+` WHERE id = ? AND tenant = ? AND deleted_at = 0`, id, tenant))
	if err != nil {
		return nil, fmt.Errorf("read a subscription: %w", err)
	}
	return sub, nil
}

const selectSubscription = `SELECT id, tenant, version, spec, secrets, created_at, updated_at FROM subscriptions`

type scanner interface{ Scan(dest ...any) error }

func scanSubscription(row scanner) (*subscription.Subscription, error) {
	var id, tenant, spec, secrets string
	var version, created, updated int64
	if err := row.Scan(&id, &tenant, &version, &spec, &secrets, &created, &updated); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			return nil, ErrNotFound
		}
		return nil, err
	}
	sub := &subscription.Subscription{}
	if err := json.Unmarshal([]byte(spec), sub); err != nil {
		return nil, fmt.Errorf("read the stored subscription %s: %w", id, err)
	}
	if err := json.Unmarshal([]byte(secrets), &sub.Sealed); err != nil {
		return nil, fmt.Errorf("read the stored secrets of %s: %w", id, err)
	}
	sub.ID, sub.Tenant, sub.Version, sub.CreatedAt, sub.UpdatedAt = id, tenant, version, FromMicros(created), FromMicros(updated)
	return sub, nil
}

// subscriptionRow is a subscription as its table holds it: the document, and beside it what is looked for.
type subscriptionRow struct {
	id, tenant           string
	version              int64
	spec, secrets, state string
	position             int
	previousUntil        int64
	createdAt, updatedAt int64
}

func rowOf(sub *subscription.Subscription) (subscriptionRow, error) {
	r := subscriptionRow{id: sub.ID, tenant: sub.Tenant, version: sub.Version, createdAt: Micros(sub.CreatedAt), updatedAt: Micros(sub.UpdatedAt)}
	spec, err := json.Marshal(sub)
	if err != nil {
		return r, fmt.Errorf("write the subscription as JSON: %w", err)
	}
	sealed := sub.Sealed
	if sealed == nil {
		sealed = map[string]string{}
	}
	secrets, err := json.Marshal(sealed)
	if err != nil {
		return r, fmt.Errorf("write the secrets as JSON: %w", err)
	}
	r.spec, r.secrets = string(spec), string(secrets)
	return r, r.index()
}

// index fills what is looked for from the document.
func (r *subscriptionRow) index() error {
	var doc struct {
		State    string `json:"state"`
		Position int    `json:"position"`
		Signing  struct {
			PreviousExpiresAt time.Time `json:"previous_expires_at"`
		} `json:"signing"`
	}
	if err := json.Unmarshal([]byte(r.spec), &doc); err != nil {
		return fmt.Errorf("read the document of %s: %w", r.id, err)
	}
	r.state, r.position, r.previousUntil = doc.State, doc.Position, Micros(doc.Signing.PreviousExpiresAt)
	return nil
}

func (r *subscriptionRow) insert(ctx context.Context, t Tx) error {
	_, err := t.Exec(ctx, `INSERT INTO subscriptions (id, tenant, version, spec, secrets, state, position, previous_until, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.id, r.tenant, r.version, r.spec, r.secrets, r.state, r.position, r.previousUntil, r.createdAt, r.updatedAt)
	return err
}

func subscriptionEntry(id, tenant string, version int64, deleted bool, spec, secrets string) Entry {
	e := Entry{Kind: KindSubscription, ID: id, Tenant: tenant, Version: version, Deleted: deleted}
	if !deleted {
		e.Spec = json.RawMessage(spec)
		e.Secrets = json.RawMessage(secrets)
	}
	return e
}

// record writes a change's outbox entry and its line in the audit log, in the change's own transaction: neither exists
// without the other, nor without the change.
func (s *Store) record(ctx context.Context, t Tx, e Entry, c Change) (Receipt, error) {
	now := s.Now()
	if err := audit(ctx, t, now, e, c); err != nil {
		return 0, err
	}
	return insertEntry(ctx, t, now, e)
}
