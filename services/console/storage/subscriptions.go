package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/callstream/callstream/subscription"
)

// Change says who changes something, and why: what the audit log records.
type Change struct {
	Actor  string
	Action string
	// Detail is written to the audit log as JSON. It must hold no secret.
	Detail any
}

// Receipt is the place of a change in the outbox; Published tells when it is on the feed.
type Receipt int64

// CreateSubscription stores a new subscription as version 1. Its ID, tenant and state are set by the caller, its times
// and version here.
func (s *Store) CreateSubscription(ctx context.Context, sub *subscription.Subscription, c Change) (Receipt, error) {
	var receipt Receipt
	err := s.change(ctx, "create a subscription", func(t tx) error {
		sub.Version, sub.CreatedAt = 1, s.Now()
		sub.UpdatedAt = sub.CreatedAt
		spec, secrets, err := columns(sub)
		if err != nil {
			return err
		}
		_, err = t.exec(ctx, `INSERT INTO subscriptions (id, tenant, version, spec, secrets, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			sub.ID, sub.Tenant, sub.Version, spec, secrets, micros(sub.CreatedAt), micros(sub.UpdatedAt))
		if err != nil {
			return err
		}
		receipt, err = s.record(ctx, t, subscriptionEntry(sub.ID, sub.Tenant, sub.Version, false, spec, secrets), c)
		return err
	})
	return receipt, err
}

// UpdateSubscription changes a subscription of a tenant: edit gets the present one and returns the next, or an error that
// leaves everything as it is. version is the one that the caller expects, 0 for any; another is ErrStale. When edit
// returns nil nothing changes, and the present subscription is returned with receipt 0.
func (s *Store) UpdateSubscription(ctx context.Context, tenant, id string, version int64, c Change,
	edit func(*subscription.Subscription) (*subscription.Subscription, error)) (*subscription.Subscription, Receipt, error) {
	var result *subscription.Subscription
	var receipt Receipt
	err := s.change(ctx, "change a subscription", func(t tx) error {
		now, err := scanSubscription(t.row(ctx, selectSubscription+` WHERE id = ? AND tenant = ? AND deleted_at = 0`+t.forUpdate(), id, tenant))
		if err != nil {
			return err
		}
		if version != 0 && now.Version != version {
			return ErrStale
		}
		next, err := edit(now.Clone())
		if err != nil {
			return err
		}
		if next == nil {
			result = now
			return nil
		}
		next.ID, next.Tenant, next.Version, next.CreatedAt = now.ID, now.Tenant, now.Version+1, now.CreatedAt
		next.UpdatedAt = s.Now()
		spec, secrets, err := columns(next)
		if err != nil {
			return err
		}
		if _, err := t.exec(ctx, `UPDATE subscriptions SET version = ?, spec = ?, secrets = ?, updated_at = ? WHERE id = ?`,
			next.Version, spec, secrets, micros(next.UpdatedAt), id); err != nil {
			return err
		}
		receipt, err = s.record(ctx, t, subscriptionEntry(id, tenant, next.Version, false, spec, secrets), c)
		result = next
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return result, receipt, nil
}

// DeleteSubscription ends a subscription. Its row stays, as the next version, until Purge forgets it.
func (s *Store) DeleteSubscription(ctx context.Context, tenant, id string, version int64, c Change) (Receipt, error) {
	var receipt Receipt
	err := s.change(ctx, "delete a subscription", func(t tx) error {
		now, err := scanSubscription(t.row(ctx, selectSubscription+` WHERE id = ? AND tenant = ? AND deleted_at = 0`+t.forUpdate(), id, tenant))
		if err != nil {
			return err
		}
		if version != 0 && now.Version != version {
			return ErrStale
		}
		at := micros(s.Now())
		// The secrets go at once: nothing needs them any more.
		if _, err := t.exec(ctx, `UPDATE subscriptions SET version = ?, secrets = '{}', updated_at = ?, deleted_at = ? WHERE id = ?`,
			now.Version+1, at, at, id); err != nil {
			return err
		}
		receipt, err = s.record(ctx, t, subscriptionEntry(id, tenant, now.Version+1, true, "", "{}"), c)
		return err
	})
	return receipt, err
}

// Subscription returns one subscription of a tenant.
func (s *Store) Subscription(ctx context.Context, tenant, id string) (*subscription.Subscription, error) {
	sub, err := scanSubscription(s.row(ctx, selectSubscription+` WHERE id = ? AND tenant = ? AND deleted_at = 0`, id, tenant))
	if err != nil {
		return nil, fmt.Errorf("read a subscription: %w", err)
	}
	return sub, nil
}

// Subscriptions returns a tenant's subscriptions, newest first, at most limit of them. before is the id of the last one
// of the page before, or empty.
func (s *Store) Subscriptions(ctx context.Context, tenant, before string, limit int) ([]*subscription.Subscription, error) {
	query, args := page(selectSubscription, tenant, before, limit)
	rows, err := s.query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list subscriptions: %w", err)
	}
	defer rows.Close()
	list := []*subscription.Subscription{}
	for rows.Next() {
		sub, err := scanSubscription(rows)
		if err != nil {
			return nil, fmt.Errorf("list subscriptions: %w", err)
		}
		list = append(list, sub)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list subscriptions: %w", err)
	}
	return list, nil
}

// page is the end of a list query. Ids begin with their time, so their order is that of creation.
func page(query, tenant, before string, limit int) (string, []any) {
	query, args := query+` WHERE tenant = ? AND deleted_at = 0`, []any{tenant}
	if before != "" {
		query, args = query+` AND id < ?`, append(args, before)
	}
	return query + ` ORDER BY id DESC LIMIT ?`, append(args, limit)
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
	sub.ID, sub.Tenant, sub.Version, sub.CreatedAt, sub.UpdatedAt = id, tenant, version, fromMicros(created), fromMicros(updated)
	return sub, nil
}

func columns(sub *subscription.Subscription) (spec, secrets string, err error) {
	a, err := json.Marshal(sub)
	if err != nil {
		return "", "", fmt.Errorf("write the subscription as JSON: %w", err)
	}
	sealed := sub.Sealed
	if sealed == nil {
		sealed = map[string]string{}
	}
	b, err := json.Marshal(sealed)
	if err != nil {
		return "", "", fmt.Errorf("write the secrets as JSON: %w", err)
	}
	return string(a), string(b), nil
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
func (s *Store) record(ctx context.Context, t tx, e Entry, c Change) (Receipt, error) {
	now := s.Now()
	if err := audit(ctx, t, now, e, c); err != nil {
		return 0, err
	}
	return insertEntry(ctx, t, now, e)
}

func audit(ctx context.Context, t tx, at time.Time, e Entry, c Change) error {
	detail := []byte("{}")
	if c.Detail != nil {
		var err error
		if detail, err = json.Marshal(c.Detail); err != nil {
			return fmt.Errorf("write the audit log: %w", err)
		}
	}
	_, err := t.exec(ctx, `INSERT INTO audit (at, tenant, actor, action, kind, id, version, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		micros(at), e.Tenant, c.Actor, c.Action, string(e.Kind), e.ID, e.Version, string(detail))
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// AuditLine is one line of the audit log.
type AuditLine struct {
	At      time.Time
	Tenant  string
	Actor   string
	Action  string
	Kind    Kind
	ID      string
	Version int64
	Detail  json.RawMessage
}

// Audit returns what happened to an object of a tenant, oldest first.
func (s *Store) Audit(ctx context.Context, tenant, id string) ([]AuditLine, error) {
	rows, err := s.query(ctx, `SELECT at, tenant, actor, action, kind, id, version, detail FROM audit WHERE tenant = ? AND id = ? ORDER BY seq`, tenant, id)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer rows.Close()
	var lines []AuditLine
	for rows.Next() {
		var l AuditLine
		var at int64
		var detail string
		if err := rows.Scan(&at, &l.Tenant, &l.Actor, &l.Action, &l.Kind, &l.ID, &l.Version, &detail); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		l.At, l.Detail = fromMicros(at), json.RawMessage(detail)
		lines = append(lines, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return lines, nil
}
