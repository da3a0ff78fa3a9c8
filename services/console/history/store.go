package history

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/services/console/storage"
)

//go:embed migrations
var migrations embed.FS

// File is the name of the SQLite database, beside that of the subscriptions.
const File = "history.db"

// Store is the rows. Its methods may be called from several goroutines; reading goes on while another process projects.
type Store struct {
	db *storage.Database

	// searches are the turns of queries that may have to look at many rows.
	searches chan struct{}

	mu sync.Mutex
	// written are rows as the last transactions of this process left them, so that they needn't be read again. Only the
	// one writer has any.
	written written
}

// Open opens the history beside the database that cfg names: tables in the same PostgreSQL, a file of its own next to
// the SQLite.
func Open(ctx context.Context, cfg storage.Config) (*Store, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("open the history: %w", err)
	}
	db, err := storage.OpenDatabase(ctx, cfg, storage.Schema{Migrations: files, Table: "history_version", File: File, Rebuildable: true})
	if err != nil {
		return nil, fmt.Errorf("open the history: %w", err)
	}
	return &Store{db: db, searches: make(chan struct{}, searchesAtOnce)}, nil
}

// Close disconnects.
func (s *Store) Close() { s.db.Close() }

const (
	// searchesAtOnce leaves connections (SQLite has four to read with) to whoever asks for one thing.
	searchesAtOnce = 2
	// searchTime bounds a search, with the wait for its turn.
	searchTime = 5 * time.Second
)

// ErrTooSlow means that a search was given up: too many rows had to be looked at.
var ErrTooSlow = errors.New("the search takes too long")

// search runs fn, which may have to look at many rows, when it is its turn and for a limited time.
func (s *Store) search(ctx context.Context, fn func(context.Context) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, searchTime, ErrTooSlow)
	defer cancel()
	select {
	case s.searches <- struct{}{}:
		defer func() { <-s.searches }()
	case <-limited.Done():
		return context.Cause(limited)
	}
	err := fn(limited)
	if err != nil && limited.Err() != nil {
		return context.Cause(limited)
	}
	return err
}

// change runs fn in one write transaction.
func (s *Store) change(ctx context.Context, what string, fn func(tx) error) error {
	return s.db.Change(ctx, what, func(t storage.Tx) error { return fn(tx{t, s.db}) })
}

// tx is a transaction on the history.
type tx struct {
	storage.Tx
	db *storage.Database
}

// state is the one row that all writers lock: whose turn it is, and on which making of the projection.
type state struct {
	generation int64
	writer     string
}

// state reads and locks the row, so that write transactions of two processes are one after the other even where both
// believe to be the leader for a moment.
func (t tx) state(ctx context.Context) (state, error) {
	var s state
	err := t.Row(ctx, `SELECT generation, writer FROM history_state WHERE id = 1`+t.ForUpdate()).Scan(&s.generation, &s.writer)
	return s, err
}

// progress is the next offset to read, by partition.
func (s *Store) progress(ctx context.Context) (map[kafka.TopicPartition]int64, error) {
	rows, err := s.db.Query(ctx, `SELECT topic, number, next_offset FROM history_progress`)
	if err != nil {
		return nil, fmt.Errorf("read the history's progress: %w", err)
	}
	defer rows.Close()
	next := map[kafka.TopicPartition]int64{}
	for rows.Next() {
		var at kafka.TopicPartition
		var offset int64
		if err := rows.Scan(&at.Topic, &at.Partition, &offset); err != nil {
			return nil, fmt.Errorf("read the history's progress: %w", err)
		}
		next[at] = offset
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the history's progress: %w", err)
	}
	return next, nil
}

// marks are n placeholders.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }
