package storage

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// SQLiteFile is the name of the SQLite database in the data directory.
const SQLiteFile = "callstream.db"

// Errors that callers decide by.
var (
	// ErrNotFound means that the tenant has no such object.
	ErrNotFound = errors.New("there is no such object")
	// ErrStale means that the object has another version than the caller expected.
	ErrStale = errors.New("the object has changed since")
)

// Config says where the database is.
type Config struct {
	// URL is postgres://…, sqlite:path, or empty for SQLite in DataDir.
	URL     string
	DataDir string
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// Store is the database. All its methods may be called from several goroutines and processes at once.
type Store struct {
	*Database
	now func() time.Time

	mu        sync.Mutex
	published chan struct{} // closed and replaced when this process marked entries as published
}

// Open connects to the database and brings its schema up to date. On SQLite the file and its directory are created.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{now: cfg.Now, published: make(chan struct{})}
	if s.now == nil {
		s.now = time.Now
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if s.Database, err = OpenDatabase(ctx, cfg, Schema{Migrations: files, Table: goose.DefaultTablename}); err != nil {
		return nil, err
	}
	return s, nil
}

// Now is the store's clock, cut to what the database keeps.
func (s *Store) Now() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// Meta returns a value that the console keeps about the database itself; "" when it was never set.
func (s *Store) Meta(ctx context.Context, name string) (string, error) {
	var value string
	err := s.Row(ctx, `SELECT value FROM meta WHERE name = ?`, name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s from the database: %w", name, err)
	}
	return value, nil
}

// SetMeta keeps values under their names, all or none.
func (s *Store) SetMeta(ctx context.Context, values map[string]string) error {
	return s.Change(ctx, "keep values", func(t Tx) error {
		for name, value := range values {
			if _, err := t.Exec(ctx, `INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value); err != nil {
				return err
			}
		}
		return nil
	})
}
