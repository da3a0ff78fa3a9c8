package storage

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	_ "modernc.org/sqlite" // the driver "sqlite"
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
	postgres bool
	read     *sql.DB
	write    *sql.DB // the same as read on PostgreSQL; one connection on SQLite, which has one writer anyway
	dir      string  // where the lock files of SQLite are
	now      func() time.Time

	mu        sync.Mutex
	published chan struct{} // closed and replaced when this process marked entries as published
}

// Open connects to the database and brings its schema up to date. On SQLite the file and its directory are created.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{now: cfg.Now, published: make(chan struct{})}
	if s.now == nil {
		s.now = time.Now
	}
	var err error
	switch {
	case strings.HasPrefix(cfg.URL, "postgres://"), strings.HasPrefix(cfg.URL, "postgresql://"):
		err = s.openPostgres(cfg.URL)
	case cfg.URL == "":
		err = s.openSQLite(filepath.Join(cfg.DataDir, SQLiteFile))
	case strings.HasPrefix(cfg.URL, "sqlite:"):
		err = s.openSQLite(strings.TrimPrefix(strings.TrimPrefix(cfg.URL, "sqlite:"), "//"))
	default:
		return nil, errors.New("the database URL starts with neither postgres:// nor sqlite: as it should")
	}
	if err == nil {
		err = s.migrate(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// ValidURL says whether Open knows what kind of database url names.
func ValidURL(url string) bool {
	for _, prefix := range []string{"postgres://", "postgresql://", "sqlite:"} {
		if strings.HasPrefix(url, prefix) {
			return true
		}
	}
	return url == ""
}

func (s *Store) openPostgres(dsn string) error {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		// The driver's text could repeat the password.
		return errors.New("open the database: CALLSTREAM_DATABASE_URL is not a valid PostgreSQL URL")
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(8)
	db.SetConnMaxIdleTime(5 * time.Minute)
	s.postgres, s.read, s.write = true, db, db
	return nil
}

func (s *Store) openSQLite(path string) error {
	s.dir = filepath.Dir(path)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	// synchronous=FULL: a change that was answered must survive a power loss. There are few changes.
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)"
	var err error
	// A write transaction takes the lock at its start: one that reads first and then wants to write could not get it
	// any more once another process wrote in between.
	if s.write, err = sql.Open("sqlite", dsn+"&_txlock=immediate"); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", dsn+"&_pragma=query_only(1)"); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	s.read.SetMaxOpenConns(4)
	// Created here so that it is ours alone to read: it holds sealed secrets and hashes.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return f.Close()
}

func (s *Store) migrate(ctx context.Context) error {
	dialect, dir := goose.DialectSQLite3, "migrations/sqlite"
	var opts []goose.ProviderOption
	if s.postgres {
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return fmt.Errorf("migrate the database: %w", err)
		}
		dialect, dir = goose.DialectPostgres, "migrations/postgres"
		opts = append(opts, goose.WithSessionLocker(locker))
	} else {
		release, err := flock(ctx, filepath.Join(s.dir, "callstream.migrate.lock"))
		if err != nil {
			return fmt.Errorf("migrate the database: %w", err)
		}
		defer release()
	}
	files, err := fs.Sub(migrations, dir)
	if err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	opts = append(opts, goose.WithDisableGlobalRegistry(true))
	provider, err := goose.NewProvider(dialect, s.write, files, opts...)
	if err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.read.PingContext(ctx); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	return nil
}

// Close disconnects.
func (s *Store) Close() {
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			db.Close() //nolint:errcheck // nothing is lost: every change is committed
		}
	}
}

// tx is a transaction with placeholders written as '?'.
type tx struct {
	*sql.Tx
	postgres bool
}

func (t tx) exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.ExecContext(ctx, bind(t.postgres, query), args...)
}

func (t tx) row(ctx context.Context, query string, args ...any) *sql.Row {
	return t.QueryRowContext(ctx, bind(t.postgres, query), args...)
}

// forUpdate ends a SELECT whose row is changed next. SQLite has no such clause: its writers are one at a time anyway.
func (t tx) forUpdate() string {
	if t.postgres {
		return " FOR UPDATE"
	}
	return ""
}

// change runs fn in one write transaction.
func (s *Store) change(ctx context.Context, what string, fn func(tx) error) error {
	raw, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: begin: %w", what, err)
	}
	defer raw.Rollback()
	if err := fn(tx{raw, s.postgres}); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := raw.Commit(); err != nil {
		return fmt.Errorf("%s: commit: %w", what, err)
	}
	return nil
}

func (s *Store) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return s.read.QueryContext(ctx, bind(s.postgres, query), args...)
}

func (s *Store) row(ctx context.Context, query string, args ...any) *sql.Row {
	return s.read.QueryRowContext(ctx, bind(s.postgres, query), args...)
}

// bind writes the placeholders '?' as PostgreSQL has them. No query here has a '?' in a literal.
func bind(postgres bool, query string) string {
	if !postgres {
		return query
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// Now is the store's clock, cut to what the database keeps.
func (s *Store) Now() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// Meta returns a value that the console keeps about the database itself; "" when it was never set.
func (s *Store) Meta(ctx context.Context, name string) (string, error) {
	var value string
	err := s.row(ctx, `SELECT value FROM meta WHERE name = ?`, name).Scan(&value)
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
	return s.change(ctx, "keep values", func(t tx) error {
		for name, value := range values {
			if _, err := t.exec(ctx, `INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value); err != nil {
				return err
			}
		}
		return nil
	})
}
