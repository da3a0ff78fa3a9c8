package callstream

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
)

// checkRegistry looks at whether our schemas are registered, or could be. On the way it compares clocks.
func (d *doctor) checkRegistry(ctx context.Context) {
	cfg := d.cfg.Topics.Registry
	if len(cfg.URLs) == 0 {
		d.add("schema registry", statusFail, "none is configured", "set CALLSTREAM_SCHEMA_REGISTRY_URL to a Confluent-compatible registry")
		return
	}
	where := strings.Join(cfg.URLs, ", ")
	dates := &dateReader{now: d.now}
	options := []sr.ClientOpt{sr.URLs(cfg.URLs...), sr.UserAgent(d.api.agent), sr.HTTPClient(&http.Client{Timeout: d.timeout, Transport: dates})}
	if cfg.Username != "" {
		options = append(options, sr.BasicAuth(cfg.Username, cfg.Password))
	}
	client, err := sr.NewClient(options...)
	if err != nil {
		d.add("schema registry", statusFail, err.Error(), "correct CALLSTREAM_SCHEMA_REGISTRY_URL")
		return
	}
	subjects, err := client.Subjects(ctx)
	if err != nil {
		mend := "start it, or correct CALLSTREAM_SCHEMA_REGISTRY_URL, …_USERNAME and …_PASSWORD"
		if d.embedded {
			mend = "start it with `callstream up`, or name one with CALLSTREAM_SCHEMA_REGISTRY_URL"
		}
		d.add("schema registry", statusFail, fmt.Sprintf("no answer from %s: %s", where, cause(err)), mend)
		return
	}
	known := map[string]bool{}
	for _, s := range subjects {
		known[s] = true
	}
	var missing, older, broken []string
	declared := d.cfg.Topics.declared()
	for _, t := range declared {
		subject := t.Subject()
		if !known[subject] {
			missing = append(missing, subject)
			continue
		}
		text, err := event.SchemaText(t.Schema)
		if err == nil {
			_, err = client.LookupSchema(ctx, subject, sr.Schema{Schema: text})
		}
		if err == nil {
			continue
		}
		old, listErr := client.Schemas(ctx, subject)
		if listErr != nil {
			broken = append(broken, subject+": "+cause(err))
			continue
		}
		var texts []string
		for _, s := range old {
			texts = append(texts, s.Schema.Schema)
		}
		if err := event.Compatible(text, texts); err != nil {
			broken = append(broken, subject+": "+err.Error())
			continue
		}
		older = append(older, subject)
	}
	apply := "callstream topics apply"
	if d.embedded {
		apply = "start `callstream up` again"
	}
	before := len(d.findings)
	if len(broken) > 0 {
		d.add("schema registry", statusFail, few("schemas that ours doesn't fit: ", broken),
			"another program has registered them: use a registry (or a context of it) of callstream's own")
	}
	if len(missing) > 0 {
		d.add("schema registry", statusFail, few("not registered: ", missing), apply)
	}
	if len(older) > 0 {
		d.add("schema registry", statusWarn, few("registered in another version: ", older), apply)
	}
	if len(d.findings) == before {
		d.add("schema registry", statusOK, fmt.Sprintf("%d subjects at %s", len(declared), where), "")
	}
	if dates.seen {
		d.checkClock("the schema registry's", dates.skew, time.Second)
	}
}

// dateReader reads the server's clock from its answers.
type dateReader struct {
	now  func() time.Time
	seen bool
	skew time.Duration // theirs less ours
}

func (r *dateReader) RoundTrip(req *http.Request) (*http.Response, error) {
	begun := r.now()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err == nil && !r.seen {
		if date, dateErr := http.ParseTime(res.Header.Get("Date")); dateErr == nil {
			ended := r.now()
			// The header has whole seconds: the middle of that second against the middle of the request.
			r.seen, r.skew = true, date.Add(500*time.Millisecond).Sub(begun.Add(ended.Sub(begun)/2))
		}
	}
	return res, err
}

// The differences between clocks that are worth a warning, and those that break things: signatures are valid for five
// minutes, and retries are due by the clock.
const (
	clockWarn = 5 * time.Second
	clockFail = time.Minute
)

func (d *doctor) checkClock(whose string, skew, precision time.Duration) {
	off := skew.Abs()
	text := fmt.Sprintf("within %s of %s clock", precision, whose)
	mend := "set the clocks by NTP (chronyd, systemd-timesyncd) on both machines"
	if off > precision {
		direction := "behind"
		if skew < 0 {
			direction = "ahead of"
		}
		text = fmt.Sprintf("%s %s %s clock", off.Round(100*time.Millisecond), direction, whose)
	}
	switch {
	case off >= clockFail:
		d.add("clock", statusFail, text, mend)
	case off >= clockWarn:
		d.add("clock", statusWarn, text, mend)
	default:
		d.add("clock", statusOK, text, "")
	}
}

// database is one that the doctor reads and never changes.
type database struct {
	*sql.DB
	name     string // for people
	postgres bool
}

// missingError says that a SQLite database is not there yet.
type missingError struct{ path string }

func (e *missingError) Error() string { return e.path + " is not there yet" }

// openDatabase opens the database for reading: that of the settings, or the SQLite file of this name beside it.
func (d *doctor) openDatabase(file string) (*database, error) {
	url := d.cfg.DatabaseURL
	driver, dsn, name := "pgx", url, "PostgreSQL"
	if !storage.ValidURL(url) {
		return nil, errors.New("CALLSTREAM_DATABASE_URL is neither postgres://… nor sqlite:…")
	}
	if url == "" || strings.HasPrefix(url, "sqlite:") {
		path := strings.TrimPrefix(strings.TrimPrefix(url, "sqlite:"), "//")
		switch {
		case url == "":
			path = filepath.Join(d.cfg.DataDir, file)
		case file != storage.SQLiteFile:
			path = filepath.Join(filepath.Dir(path), file)
		}
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil, &missingError{path}
		} else if err != nil {
			return nil, err
		}
		driver, dsn, name = "sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(2000)", "SQLite in "+path
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		// The driver's text could repeat the password.
		return nil, errors.New("CALLSTREAM_DATABASE_URL is not a valid URL: write it as postgres://user:password@host:5432/name")
	}
	return &database{DB: db, name: name, postgres: driver == "pgx"}, nil
}

// checkDatabase looks at the database without changing it: the console brings its schema up to date.
func (d *doctor) checkDatabase(ctx context.Context) {
	const migrate = "start the console, or `callstream up`: it brings the database up to date"
	db, err := d.openDatabase(storage.SQLiteFile)
	var missing *missingError
	switch {
	case errors.As(err, &missing):
		d.add("database", statusWarn, err.Error(), migrate+"; or set CALLSTREAM_DATABASE_URL or CALLSTREAM_DATA_DIR to where it is")
		return
	case err != nil:
		d.add("database", statusFail, err.Error(), "correct CALLSTREAM_DATABASE_URL, and give this user the right to read it")
		return
	}
	defer db.Close() //nolint:errcheck // only read from
	if err := db.PingContext(ctx); err != nil {
		d.add("database", statusFail, db.name+" does not answer: "+d.withoutPassword(err), "start it, or correct CALLSTREAM_DATABASE_URL")
		return
	}
	applied := "is_applied = 1"
	if db.postgres {
		applied = "is_applied"
	}
	var version sql.NullInt64
	err = db.QueryRowContext(ctx, "SELECT max(version_id) FROM goose_db_version WHERE "+applied).Scan(&version)
	switch {
	case err != nil:
		d.add("database", statusWarn, db.name+" answers, and holds nothing of callstream's yet", migrate)
		return
	case version.Int64 == 0:
		d.add("database", statusWarn, db.name+" is not migrated yet", migrate)
		return
	}
	d.add("database", statusOK, fmt.Sprintf("%s, schema version %d", db.name, version.Int64), "")
	if db.postgres {
		var there time.Time
		begun := d.now()
		if err := db.QueryRowContext(ctx, "SELECT clock_timestamp()").Scan(&there); err == nil {
			ended := d.now()
			d.checkClock("the database's", there.Sub(begun.Add(ended.Sub(begun)/2)), 100*time.Millisecond)
		}
	}
	d.checkSubscriptions(ctx, db)
}

// withoutPassword is a driver's error without the password that it may repeat.
func (d *doctor) withoutPassword(err error) string {
	text := cause(err)
	if _, rest, ok := strings.Cut(d.cfg.DatabaseURL, "://"); ok {
		if login, _, ok := strings.Cut(rest, "@"); ok {
			if _, password, ok := strings.Cut(login, ":"); ok && password != "" {
				text = strings.ReplaceAll(text, password, "…")
			}
		}
	}
	return text
}

// checkKey looks at whether there is an encryption key. Whether it is the right one shows only when a secret is opened.
func (d *doctor) checkKey() {
	_, err := secret.LoadKey(d.cfg.EncryptionKey, d.cfg.DataDir, false)
	switch {
	case err == nil && d.cfg.EncryptionKey != "":
		d.add("encryption key", statusOK, "given in CALLSTREAM_ENCRYPTION_KEY", "")
	case err == nil:
		d.add("encryption key", statusOK, "in "+filepath.Join(d.cfg.DataDir, secret.KeyFile)+"; keep a copy: without it sealed secrets are lost", "")
	case errors.Is(err, secret.ErrNoKey) && d.embedded:
		d.add("encryption key", statusWarn, "there is none yet", "start `callstream up`: it makes one in "+d.cfg.DataDir)
	default:
		d.add("encryption key", statusFail, err.Error(), "openssl rand -base64 32, and give the same key to console and dispatchers")
	}
}

// The free space below which broker and database on the same disk will soon stop.
const (
	diskWarn = 2 << 30
	diskFail = 200 << 20
)

func (d *doctor) checkDisk() {
	free, err := freeUnder(d.cfg.DataDir)
	if err != nil {
		d.add("disk", statusWarn, fmt.Sprintf("the free space of %s can't be told: %v", d.cfg.DataDir, err), "")
		return
	}
	text := fmt.Sprintf("%s free under %s", size(free), d.cfg.DataDir)
	mend := "make room, or set CALLSTREAM_DATA_DIR to a bigger disk"
	switch {
	case free < diskFail:
		d.add("disk", statusFail, text, mend)
	case free < diskWarn:
		d.add("disk", statusWarn, text, mend)
	default:
		d.add("disk", statusOK, text, "")
	}
}

func size(bytes uint64) string {
	if bytes >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

// checkAPI asks the API whether it is ready.
func (d *doctor) checkAPI(ctx context.Context) {
	const mend = "start `callstream up` or a producer, or give its address with --api or CALLSTREAM_API_URL"
	req, err := d.api.request(ctx, http.MethodGet, "/readyz", nil)
	if err != nil {
		d.add("API", statusWarn, err.Error(), mend)
		return
	}
	text, status, err := fetch(d.api.http, req)
	switch {
	case err != nil:
		d.add("API", statusWarn, "nothing answers at "+d.api.base, mend)
	case status == http.StatusOK:
		d.add("API", statusOK, "ready at "+d.api.base, "")
	default:
		d.add("API", statusFail, fmt.Sprintf("%s: %s", d.api.base, text), "mend what it waits for; the other checks may tell")
	}
}
