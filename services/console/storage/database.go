package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Schema is a set of tables that is brought up to date by migrations of its own.
type Schema struct {
	// Migrations has the folders sqlite and postgres.
	Migrations fs.FS
	// Table is where a PostgreSQL database keeps the version of these tables.
	Table string
	// File, where it is not empty, names the SQLite database that the tables stand in, beside the one that the
	// configuration names: its writes don't wait for those of the other.
	File string
	// Rebuildable says that the tables can be made again from elsewhere, so that a change may be lost with the
	// power. It is never lost by half.
	Rebuildable bool
}

// Database is a connection to SQLite or PostgreSQL, with the tables of one Schema in it.
type Database struct {
	Postgres bool
	Read     *sql.DB
	Write    *sql.DB // the same as Read on PostgreSQL; one connection on SQLite, which has one writer anyway

	dir string // where the lock files of SQLite are
}

// OpenDatabase connects to the database and brings a schema up to date. On SQLite the file and its directory are created.
func OpenDatabase(ctx context.Context, cfg Config, schema Schema) (*Database, error) {
	d := &Database{}
	var err error
	switch {
	case strings.HasPrefix(cfg.URL, "postgres://"), strings.HasPrefix(cfg.URL, "postgresql://"):
		err = d.openPostgres(cfg.URL)
	case cfg.URL == "":
		err = d.openSQLite(filepath.Join(cfg.DataDir, SQLiteFile), schema)
	case strings.HasPrefix(cfg.URL, "sqlite:"):
		err = d.openSQLite(strings.TrimPrefix(strings.TrimPrefix(cfg.URL, "sqlite:"), "//"), schema)
	default:
		return nil, errors.New("the database URL starts with neither postgres:// nor sqlite: as it should")
	}
	if err == nil {
		err = d.migrate(ctx, schema)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// ValidURL says whether OpenDatabase knows what kind of database url names.
func ValidURL(url string) bool {
	for _, prefix := range []string{"postgres://", "postgresql://", "sqlite:"} {
		if strings.HasPrefix(url, prefix) {
			return true
		}
	}
	return url == ""
}

func (d *Database) openPostgres(dsn string) error {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		// The driver's text could repeat the password.
		return errors.New("open the database: CALLSTREAM_DATABASE_URL is not a valid PostgreSQL URL")
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(8)
	db.SetConnMaxIdleTime(5 * time.Minute)
	d.Postgres, d.Read, d.Write = true, db, db
	return nil
}

func (d *Database) openSQLite(path string, schema Schema) error {
	d.dir = filepath.Dir(path)
	if schema.File != "" {
		path = filepath.Join(d.dir, schema.File)
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	// FULL: a change that was answered must survive a power loss. There are few changes.
	pragmas := "&_pragma=synchronous(FULL)"
	if schema.Rebuildable {
		// There are many, of many rows each: they are kept in memory until they are whole.
		pragmas = "&_pragma=synchronous(NORMAL)&_pragma=temp_store(2)&_pragma=cache_size(-32000)&_pragma=wal_autocheckpoint(8000)"
	}
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(1)" + pragmas
	var err error
	// A write transaction takes the lock at its start: one that reads first and then wants to write could not get it
	// any more once another process wrote in between.
	if d.Write, err = sql.Open("sqlite", dsn+"&_txlock=immediate"); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	d.Write.SetMaxOpenConns(1)
	if d.Read, err = sql.Open("sqlite", dsn+"&_pragma=query_only(1)"); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	d.Read.SetMaxOpenConns(4)
	// Created here so that it is ours alone to read: it holds sealed secrets and hashes, or what callers said.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return f.Close()
}

func (d *Database) migrate(ctx context.Context, schema Schema) error {
	dialect, dir := goose.DialectSQLite3, "sqlite"
	opts := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	if d.Postgres {
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return fmt.Errorf("migrate the database: %w", err)
		}
		dialect, dir = goose.DialectPostgres, "postgres"
		opts = append(opts, goose.WithSessionLocker(locker), goose.WithTableName(schema.Table))
	} else {
		release, err := flock(ctx, filepath.Join(d.dir, "callstream.migrate.lock"))
		if err != nil {
			return fmt.Errorf("migrate the database: %w", err)
		}
		defer release()
	}
	files, err := fs.Sub(schema.Migrations, dir)
	if err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	provider, err := goose.NewProvider(dialect, d.Write, files, opts...)
	if err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}

// Ping says whether the database answers.
func (d *Database) Ping(ctx context.Context) error {
	if err := d.Read.PingContext(ctx); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	return nil
}

// Close disconnects.
func (d *Database) Close() {
	for _, db := range []*sql.DB{d.Read, d.Write} {
		if db != nil {
			db.Close() //nolint:errcheck // nothing is lost: every change is committed
		}
	}
}

// Bind writes the placeholders '?' as the database has them. The query has no '?' in a literal.
func (d *Database) Bind(query string) string {
	if !d.Postgres {
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

// Tx is a write transaction. Placeholders of its queries are written as '?'.
type Tx struct {
	*sql.Tx
	db *Database
}

// Change runs fn in one write transaction. Its errors begin with what was to be done.
func (d *Database) Change(ctx context.Context, what string, fn func(Tx) error) error {
	raw, err := d.Write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: begin: %w", what, err)
	}
	defer raw.Rollback()
	if err := fn(Tx{raw, d}); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := raw.Commit(); err != nil {
		return fmt.Errorf("%s: commit: %w", what, err)
	}
	return nil
}

// Exec changes rows.
func (t Tx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.ExecContext(ctx, t.db.Bind(query), args...)
}

// Query reads rows.
func (t Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.QueryContext(ctx, t.db.Bind(query), args...)
}

// Row reads one row.
func (t Tx) Row(ctx context.Context, query string, args ...any) *sql.Row {
	return t.QueryRowContext(ctx, t.db.Bind(query), args...)
}

// ForUpdate ends a SELECT whose row is changed next. SQLite has no such clause: its writers are one at a time anyway.
func (t Tx) ForUpdate() string {
	if t.db.Postgres {
		return " FOR UPDATE"
	}
	return ""
}

// Query reads rows outside of a transaction. Its placeholders are written as '?'.
func (d *Database) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return d.Read.QueryContext(ctx, d.Bind(query), args...)
}

// Row reads one row, as Query does.
func (d *Database) Row(ctx context.Context, query string, args ...any) *sql.Row {
	return d.Read.QueryRowContext(ctx, d.Bind(query), args...)
}

// Micros is how a time is stored: in microseconds since 1970, none as 0.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// FromMicros is the time that was stored.
func FromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
