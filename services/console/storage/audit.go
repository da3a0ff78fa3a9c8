package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

func audit(ctx context.Context, t Tx, at time.Time, e Entry, c Change) error {
	detail := []byte("{}")
	if c.Detail != nil {
		var err error
		if detail, err = json.Marshal(c.Detail); err != nil {
			return fmt.Errorf("write the audit log: %w", err)
		}
	}
	_, err := t.Exec(ctx, `INSERT INTO audit (at, tenant, actor, action, kind, id, version, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		Micros(at), e.Tenant, c.Actor, c.Action, string(e.Kind), e.ID, e.Version, string(detail))
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// AuditLine is one line of the audit log.
type AuditLine struct {
	Seq     int64
	At      time.Time
	Tenant  string
	Actor   string
	Action  string
	Kind    Kind
	ID      string
	Version int64
	Detail  json.RawMessage
}

// AuditQuery chooses from a tenant's audit log. Empty fields choose everything.
type AuditQuery struct {
	Kind      Kind
	ID        string
	Actor     string
	Action    string
	Since     time.Time // at or after
	Until     time.Time // before
	BeforeSeq int64     // lines older than this one
	Limit     int
}

// Audit returns what happened in a tenant, newest first.
func (s *Store) Audit(ctx context.Context, tenant string, q AuditQuery) ([]AuditLine, error) {
	query, args := `SELECT seq, at, tenant, actor, action, kind, id, version, detail FROM audit WHERE tenant = ?`, []any{tenant}
	for _, f := range [...]struct{ column, value string }{{"kind", string(q.Kind)}, {"id", q.ID}, {"actor", q.Actor}, {"action", q.Action}} {
		if f.value != "" {
			query, args = query+` AND `+f.column+` = ?`, append(args, f.value)
		}
	}
	if !q.Since.IsZero() {
		query, args = query+` AND at >= ?`, append(args, Micros(q.Since))
	}
	if !q.Until.IsZero() {
		query, args = query+` AND at < ?`, append(args, Micros(q.Until))
	}
	if q.BeforeSeq > 0 {
		query, args = query+` AND seq < ?`, append(args, q.BeforeSeq)
	}
	rows, err := s.Query(ctx, query+` ORDER BY seq DESC LIMIT ?`, append(args, q.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer rows.Close()
	lines := []AuditLine{}
	for rows.Next() {
		var l AuditLine
		var at int64
		var detail string
		if err := rows.Scan(&l.Seq, &at, &l.Tenant, &l.Actor, &l.Action, &l.Kind, &l.ID, &l.Version, &detail); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		l.At, l.Detail = FromMicros(at), json.RawMessage(detail)
		lines = append(lines, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return lines, nil
}
