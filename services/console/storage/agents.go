package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/callstream/callstream/subscription"
)

// AgentSubscription returns the subscription that stands for an agent's post-call webhook; nil where there is none any
// more, ErrNotFound where the agent never had settings.
func (s *Store) AgentSubscription(ctx context.Context, tenant, agent string) (*subscription.Subscription, error) {
	var id string
	err := s.Row(ctx, `SELECT subscription FROM agent_settings WHERE tenant = ? AND agent_id = ?`, tenant, agent).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings of an agent: %w", err)
	}
	sub, err := s.Subscription(ctx, tenant, id)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return sub, err
}

// SetAgentSubscription makes next, nil for none, what stands for an agent's post-call webhook. before is what
// AgentSubscription said, nil for none; if that is no longer so, the error is ErrStale and nothing changes. None for an
// agent that never had settings leaves it without.
func (s *Store) SetAgentSubscription(ctx context.Context, tenant, agent string, before, next *subscription.Subscription, c Change) (Receipt, error) {
	var receipt Receipt
	err := s.Change(ctx, "change the settings of an agent", func(t Tx) error {
		if before == nil && next == nil {
			// No row to lock: whoever makes settings at this moment comes after this.
			return noSettings(ctx, t, tenant, agent)
		}
		// The row is made first, so that there is one to lock.
		if _, err := t.Exec(ctx, `INSERT INTO agent_settings (tenant, agent_id, subscription, updated_at) VALUES (?, ?, '', ?) ON CONFLICT DO NOTHING`,
			tenant, agent, Micros(s.Now())); err != nil {
			return err
		}
		var id string
		if err := t.Row(ctx, `SELECT subscription FROM agent_settings WHERE tenant = ? AND agent_id = ?`+t.ForUpdate(), tenant, agent).Scan(&id); err != nil {
			return err
		}
		now, err := present(ctx, t, tenant, id, 0)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		switch {
		case (now == nil) != (before == nil), now != nil && (now.ID != before.ID || now.Version != before.Version):
			return ErrStale
		case now == nil && next != nil:
			receipt, err = s.insert(ctx, t, next, c)
		case now != nil && next != nil:
			receipt, err = s.replace(ctx, t, now, next, c)
		case now != nil:
			receipt, err = s.end(ctx, t, now, c)
		}
		if err != nil {
			return err
		}
		id = ""
		if next != nil {
			id = next.ID
		}
		_, err = t.Exec(ctx, `UPDATE agent_settings SET subscription = ?, updated_at = ? WHERE tenant = ? AND agent_id = ?`, id, Micros(s.Now()), tenant, agent)
		return err
	})
	return receipt, err
}

// noSettings is nil where nothing stands for an agent's webhook, and ErrStale where something does.
func noSettings(ctx context.Context, t Tx, tenant, agent string) error {
	var id string
	err := t.Row(ctx, `SELECT subscription FROM agent_settings WHERE tenant = ? AND agent_id = ?`, tenant, agent).Scan(&id)
	if err == nil {
		_, err = present(ctx, t, tenant, id, 0)
	}
	switch {
	case err == nil:
		return ErrStale
	case errors.Is(err, sql.ErrNoRows), errors.Is(err, ErrNotFound):
		return nil
	}
	return err
}
