package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/callstream/callstream/pkg/run"
)

// Role is work on a database that one process at a time does.
type Role struct {
	// File is the file beside a SQLite database that is locked for it.
	File string
	// Key is the advisory lock of PostgreSQL.
	Key int64
}

// relay publishes from the database.
func relay() Role {
	return Role{File: "callstream.relay.lock", Key: 0x63616c6c_73747265} // "callstre"
}

// lockEvery is how often a lock that another holds is tried again, and how often a held one is checked.
const lockEvery = time.Second

// Lead waits until this process is the only one that may publish from the database; see Database.LeadAs.
func (s *Store) Lead(ctx context.Context) (context.Context, func(), error) {
	return s.LeadAs(ctx, relay())
}

// LeadAs waits until this process is the only one in a role, and returns a context that ends when it no longer is, with
// the function that gives the role up. On SQLite it is a lock on a file beside the database, on PostgreSQL a session's
// advisory lock; both end with the process.
func (d *Database) LeadAs(ctx context.Context, role Role) (context.Context, func(), error) {
	if !d.Postgres {
		release, err := flock(ctx, filepath.Join(d.dir, role.File))
		if err != nil {
			return nil, nil, fmt.Errorf("wait for the lock %s: %w", role.File, err)
		}
		led, cancel := context.WithCancel(ctx)
		return led, func() { cancel(); release() }, nil
	}
	for {
		conn, err := d.tryAdvisory(ctx, role.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("wait for the lock %s: %w", role.File, err)
		}
		if conn == nil {
			if err := run.Sleep(ctx, lockEvery); err != nil {
				return nil, nil, err
			}
			continue
		}
		led, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer cancel()
			for run.Sleep(led, lockEvery) == nil {
				// The lock lives as long as its session: when that is gone, another may lead already.
				if conn.PingContext(led) != nil {
					return
				}
			}
		}()
		return led, func() {
			cancel()
			<-done
			// Closing the session, rather than returning it to the pool, is what surely ends the lock.
			_ = conn.Raw(func(any) error { return errBadConn })
			_ = conn.Close()
		}, nil
	}
}

// errBadConn makes database/sql throw the session away.
var errBadConn = driver.ErrBadConn

func (d *Database) tryAdvisory(ctx context.Context, key int64) (*sql.Conn, error) {
	conn, err := d.Write.Conn(ctx)
	if err != nil {
		return nil, err
	}
	var got bool
	if err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, key).Scan(&got); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if !got {
		return nil, conn.Close()
	}
	return conn, nil
}

// flock locks a file for this process, waiting for another that holds it.
func flock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil // closing the file ends the lock
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, err
		}
		if err := run.Sleep(ctx, lockEvery/10); err != nil {
			f.Close()
			return nil, err
		}
	}
}
