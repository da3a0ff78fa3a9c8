package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/callstream/callstream/pkg/auth"
)

// Key is a stored API key.
type Key struct {
	auth.Key
	Version              int64
	CreatedAt, UpdatedAt time.Time
}

// CreateKey stores a new key as version 1.
func (s *Store) CreateKey(ctx context.Context, k *Key, c Change) (Receipt, error) {
	var receipt Receipt
	err := s.Change(ctx, "create a key", func(t Tx) error {
		k.Version, k.CreatedAt = 1, s.Now()
		k.UpdatedAt = k.CreatedAt
		k.ExpiresAt = FromMicros(Micros(k.ExpiresAt))
		scopes, err := json.Marshal(k.Scopes)
		if err != nil {
			return err
		}
		_, err = t.Exec(ctx, `INSERT INTO api_keys (id, tenant, version, name, hash, scopes, created_at, updated_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			k.ID, k.Tenant, k.Version, k.Name, k.Hash, string(scopes), Micros(k.CreatedAt), Micros(k.UpdatedAt), Micros(k.ExpiresAt))
		if err != nil {
			return err
		}
		entry, err := keyEntry(*k, false)
		if err != nil {
			return err
		}
		receipt, err = s.record(ctx, t, entry, c)
		return err
	})
	return receipt, err
}

// RotateKey replaces what a key's owner has to show. The one before is refused from then on.
func (s *Store) RotateKey(ctx context.Context, tenant, id, hash string, c Change) (Key, Receipt, error) {
	return s.changeKey(ctx, tenant, id, c, func(t Tx, k *Key) error {
		k.Hash = hash
		_, err := t.Exec(ctx, `UPDATE api_keys SET version = ?, hash = ?, updated_at = ? WHERE id = ?`, k.Version, hash, Micros(k.UpdatedAt), id)
		return err
	}, false)
}

// DeleteKey revokes a key.
func (s *Store) DeleteKey(ctx context.Context, tenant, id string, c Change) (Receipt, error) {
	_, receipt, err := s.changeKey(ctx, tenant, id, c, func(t Tx, k *Key) error {
		_, err := t.Exec(ctx, `UPDATE api_keys SET version = ?, updated_at = ?, deleted_at = ? WHERE id = ?`, k.Version, Micros(k.UpdatedAt), Micros(k.UpdatedAt), id)
		return err
	}, true)
	return receipt, err
}

func (s *Store) changeKey(ctx context.Context, tenant, id string, c Change, apply func(Tx, *Key) error, deleted bool) (Key, Receipt, error) {
	var key Key
	var receipt Receipt
	err := s.Change(ctx, "change a key", func(t Tx) error {
		k, err := scanKey(t.Row(ctx, selectKey+` WHERE id = ? AND tenant = ? AND deleted_at = 0`+t.ForUpdate(), id, tenant))
		if err != nil {
			return err
		}
		k.Version++
		k.UpdatedAt = s.Now()
		if err := apply(t, &k); err != nil {
			return err
		}
		entry, err := keyEntry(k, deleted)
		if err != nil {
			return err
		}
		receipt, err = s.record(ctx, t, entry, c)
		key = k
		return err
	})
	return key, receipt, err
}

// KeyByHash finds the key that a caller showed.
func (s *Store) KeyByHash(ctx context.Context, hash string) (Key, error) {
	k, err := scanKey(s.Row(ctx, selectKey+` WHERE hash = ? AND deleted_at = 0`, hash))
	if err != nil {
		return Key{}, fmt.Errorf("find a key: %w", err)
	}
	return k, nil
}

// Keys returns a tenant's keys, newest first, at most limit of them. before is the id of the last one of the page
// before, or empty. Ids begin with their time, so their order is that of creation.
func (s *Store) Keys(ctx context.Context, tenant, before string, limit int) ([]Key, error) {
	query, args := selectKey+` WHERE tenant = ? AND deleted_at = 0`, []any{tenant}
	if before != "" {
		query, args = query+` AND id < ?`, append(args, before)
	}
	rows, err := s.Query(ctx, query+` ORDER BY id DESC LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	defer rows.Close()
	list := []Key{}
	for rows.Next() {
		k, err := scanKey(rows)
		if err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		list = append(list, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return list, nil
}

const selectKey = `SELECT id, tenant, version, name, hash, scopes, created_at, updated_at, expires_at FROM api_keys`

func scanKey(row scanner) (Key, error) {
	var k Key
	var scopes string
	var created, updated, expires int64
	if err := row.Scan(&k.ID, &k.Tenant, &k.Version, &k.Name, &k.Hash, &scopes, &created, &updated, &expires); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			return Key{}, ErrNotFound
		}
		return Key{}, err
	}
	if err := json.Unmarshal([]byte(scopes), &k.Scopes); err != nil {
		return Key{}, fmt.Errorf("read the stored key %s: %w", k.ID, err)
	}
	k.CreatedAt, k.UpdatedAt, k.ExpiresAt = FromMicros(created), FromMicros(updated), FromMicros(expires)
	return k, nil
}

func keyEntry(k Key, deleted bool) (Entry, error) {
	e := Entry{Kind: KindKey, ID: k.ID, Tenant: k.Tenant, Version: k.Version, Deleted: deleted}
	if !deleted {
		spec, err := json.Marshal(keySpec{k.Name, k.Hash, k.Scopes, Micros(k.CreatedAt), Micros(k.ExpiresAt), Micros(k.UpdatedAt)})
		if err != nil {
			return Entry{}, fmt.Errorf("write the key as JSON: %w", err)
		}
		e.Spec = spec
	}
	return e, nil
}

type keySpec struct {
	Name      string   `json:"name"`
	Hash      string   `json:"hash"`
	Scopes    []string `json:"scopes"`
	CreatedAt int64    `json:"created_at"`
	ExpiresAt int64    `json:"expires_at"`
	UpdatedAt int64    `json:"updated_at"`
}

// Key reads the entry of a key.
func (e Entry) Key() (Key, error) {
	var spec keySpec
	if len(e.Spec) > 0 {
		if err := json.Unmarshal(e.Spec, &spec); err != nil {
			return Key{}, fmt.Errorf("read the entry of key %s: %w", e.ID, err)
		}
	}
	return Key{
		Key:     auth.Key{ID: e.ID, Tenant: e.Tenant, Name: spec.Name, Hash: spec.Hash, Scopes: spec.Scopes, ExpiresAt: FromMicros(spec.ExpiresAt)},
		Version: e.Version, CreatedAt: FromMicros(spec.CreatedAt), UpdatedAt: FromMicros(spec.UpdatedAt),
	}, nil
}
