// Package storagetest makes empty databases for tests.
package storagetest

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"
)

// NewDatabase creates an empty database on the PostgreSQL at base, for one test, and returns its URL.
func NewDatabase(tb testing.TB, base string) string {
	tb.Helper()
	u, err := url.Parse(base)
	if err != nil {
		tb.Fatal("the test database's URL does not parse")
	}
	name := "test_" + strings.ToLower(ulid.Make().String())
	run := func(query string) {
		tb.Helper()
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, base)
		if err != nil {
			tb.Fatal(err)
		}
		defer conn.Close(ctx) //nolint:errcheck // a test's connection
		if _, err := conn.Exec(ctx, query); err != nil {
			tb.Fatal(err)
		}
	}
	run("CREATE DATABASE " + name)
	tb.Cleanup(func() { run("DROP DATABASE " + name + " WITH (FORCE)") })
	u.Path = "/" + name
	return u.String()
}
