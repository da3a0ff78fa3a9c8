package storage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/services/console/storage/pgtest"
	"github.com/callstream/callstream/services/console/storage/storagetest"
	"github.com/callstream/callstream/subscription"
	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

// backend makes empty databases of one kind.
type backend struct {
	name string
	// config of a new, empty database.
	config func(t *testing.T) storage.Config
}

// backends are SQLite, and PostgreSQL where the environment names one (make test-postgres does).
func backends() []backend {
	all := []backend{{"sqlite", func(t *testing.T) storage.Config { return storage.Config{DataDir: t.TempDir()} }}}
	if base := os.Getenv(pgtest.EnvURL); base != "" {
		all = append(all, backend{"postgres", func(t *testing.T) storage.Config { return storage.Config{URL: storagetest.NewDatabase(t, base)} }})
	}
	return all
}

func onEach(t *testing.T, test func(t *testing.T, cfg storage.Config)) {
	for _, b := range backends() {
		t.Run(b.name, func(t *testing.T) { test(t, b.config(t)) })
	}
}

func open(t *testing.T, cfg storage.Config) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func newSubscription(t *testing.T, tenant string) *subscription.Subscription {
	t.Helper()
	sub, err := subscription.Parse([]byte(`{"url":"https://example.com/hook","events":["call.ended"]}`), subscription.Rules{})
	require.NoError(t, err)
	sub.ID, sub.Tenant = "sub_"+ulid.Make().String(), tenant
	box, err := secret.NewBox(make([]byte, secret.KeySize))
	require.NoError(t, err)
	_, err = sub.MakeSigningKey(box, time.Now(), 0)
	require.NoError(t, err)
	require.NoError(t, sub.Seal(box))
	return sub
}

var by = storage.Change{Actor: "tester", Action: "created"}

func TestASubscriptionLivesAndDies(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		sub := newSubscription(t, "acme")
		first, err := s.CreateSubscription(ctx, sub, by)
		require.NoError(t, err)
		require.EqualValues(t, 1, sub.Version)

		read, err := s.Subscription(ctx, "acme", sub.ID)
		require.NoError(t, err)
		require.Equal(t, sub, read)
		_, err = s.Subscription(ctx, "other", sub.ID)
		require.ErrorIs(t, err, storage.ErrNotFound)

		rename := func(name string) func(*subscription.Subscription) (*subscription.Subscription, error) {
			return func(sub *subscription.Subscription) (*subscription.Subscription, error) {
				sub.Name = name
				return sub, nil
			}
		}
		second, receipt, err := s.UpdateSubscription(ctx, "acme", sub.ID, 1, by, rename("CRM"))
		require.NoError(t, err)
		require.EqualValues(t, 2, second.Version)
		require.Greater(t, receipt, first)
		_, _, err = s.UpdateSubscription(ctx, "acme", sub.ID, 1, by, rename("stale"))
		require.ErrorIs(t, err, storage.ErrStale)
		_, _, err = s.UpdateSubscription(ctx, "other", sub.ID, 0, by, rename("theft"))
		require.ErrorIs(t, err, storage.ErrNotFound)
		unchanged, receipt, err := s.UpdateSubscription(ctx, "acme", sub.ID, 0, by, func(*subscription.Subscription) (*subscription.Subscription, error) { return nil, nil })
		require.NoError(t, err)
		require.Zero(t, receipt)
		require.EqualValues(t, 2, unchanged.Version)

		_, err = s.DeleteSubscription(ctx, "other", sub.ID, 0, by)
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = s.DeleteSubscription(ctx, "acme", sub.ID, 1, by)
		require.ErrorIs(t, err, storage.ErrStale)
		_, err = s.DeleteSubscription(ctx, "acme", sub.ID, 2, by)
		require.NoError(t, err)
		_, err = s.Subscription(ctx, "acme", sub.ID)
		require.ErrorIs(t, err, storage.ErrNotFound)

		pending, err := s.Pending(ctx, 10)
		require.NoError(t, err)
		require.Len(t, pending, 3)
		for i, e := range pending {
			require.EqualValues(t, i+1, e.Version)
			require.Equal(t, sub.ID, e.ID)
			require.Equal(t, i == 2, e.Deleted)
		}
		lines, err := s.Audit(ctx, "acme", storage.AuditQuery{ID: sub.ID, Limit: 10})
		require.NoError(t, err)
		require.Len(t, lines, 3)
	})
}

// A change that fails half way leaves neither row nor outbox entry nor audit line.
func TestAChangeIsWholeOrNot(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		sub := newSubscription(t, "acme")
		_, err := s.CreateSubscription(ctx, sub, by)
		require.NoError(t, err)
		again := newSubscription(t, "acme")
		again.ID = sub.ID
		_, err = s.CreateSubscription(ctx, again, by)
		require.Error(t, err)
		broken := storage.Change{Actor: "tester", Action: "updated", Detail: func() {}} // no JSON
		_, _, err = s.UpdateSubscription(ctx, "acme", sub.ID, 0, broken, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
			sub.Name = "never"
			return sub, nil
		})
		require.Error(t, err)
		boom := errors.New("boom")
		_, _, err = s.UpdateSubscription(ctx, "acme", sub.ID, 0, by, func(*subscription.Subscription) (*subscription.Subscription, error) { return nil, boom })
		require.ErrorIs(t, err, boom)
		read, err := s.Subscription(ctx, "acme", sub.ID)
		require.NoError(t, err)
		require.Equal(t, sub, read)
		pending, err := s.Pending(ctx, 10)
		require.NoError(t, err)
		require.Len(t, pending, 1)
		lines, err := s.Audit(ctx, "acme", storage.AuditQuery{ID: sub.ID, Limit: 10})
		require.NoError(t, err)
		require.Len(t, lines, 1)
	})
}

func TestListsAreNewestFirstByTenant(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		var want []string
		for i := range 7 {
			sub := newSubscription(t, "acme")
			_, err := s.CreateSubscription(ctx, sub, by)
			require.NoError(t, err)
			want = append([]string{sub.ID}, want...)
			if i%2 == 0 {
				_, err := s.CreateSubscription(ctx, newSubscription(t, "other"), by)
				require.NoError(t, err)
			}
		}
		_, err := s.DeleteSubscription(ctx, "acme", want[3], 0, by)
		require.NoError(t, err)
		want = append(want[:3:3], want[4:]...)
		var got []string
		for query := (storage.SubscriptionQuery{Limit: 2}); ; {
			page, err := s.Subscriptions(ctx, "acme", query)
			require.NoError(t, err)
			for _, sub := range page {
				got = append(got, sub.ID)
				query.After = &storage.SubscriptionPlace{ID: sub.ID}
			}
			if len(page) < 2 {
				break
			}
		}
		require.Equal(t, want, got)
	})
}

// Many writers change one subscription at once: every change gets a version of its own, and the outbox has them in order.
func TestConcurrentChangesCountOneByOne(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, one, two := t.Context(), open(t, cfg), open(t, cfg)
		sub := newSubscription(t, "acme")
		_, err := one.CreateSubscription(ctx, sub, by)
		require.NoError(t, err)
		const writers, each = 4, 8
		var group sync.WaitGroup
		errs := make(chan error, writers*each)
		for w := range writers {
			store := []*storage.Store{one, two}[w%2]
			group.Go(func() {
				for i := range each {
					_, _, err := store.UpdateSubscription(ctx, "acme", sub.ID, 0, by, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
						sub.Name = fmt.Sprint(w, i)
						return sub, nil
					})
					errs <- err
				}
			})
		}
		group.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		pending, err := one.Pending(ctx, 100)
		require.NoError(t, err)
		require.Len(t, pending, 1+writers*each)
		for i, e := range pending {
			require.EqualValues(t, i+1, e.Version)
		}
	})
}

func TestKeys(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		expires := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
		_, hash, err := auth.NewSecret()
		require.NoError(t, err)
		key := storage.Key{Key: auth.Key{ID: "key_1", Tenant: "acme", Name: "CI", Hash: hash, Scopes: []string{auth.ScopeEventsWrite}, ExpiresAt: expires}}
		_, err = s.CreateKey(ctx, &key, by)
		require.NoError(t, err)
		found, err := s.KeyByHash(ctx, hash)
		require.NoError(t, err)
		require.Equal(t, key, found)
		_, newHash, err := auth.NewSecret()
		require.NoError(t, err)
		_, _, err = s.RotateKey(ctx, "other", "key_1", newHash, by)
		require.ErrorIs(t, err, storage.ErrNotFound)
		rotated, _, err := s.RotateKey(ctx, "acme", "key_1", newHash, by)
		require.NoError(t, err)
		require.EqualValues(t, 2, rotated.Version)
		_, err = s.KeyByHash(ctx, hash)
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = s.DeleteKey(ctx, "other", "key_1", by)
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = s.DeleteKey(ctx, "acme", "key_1", by)
		require.NoError(t, err)
		_, err = s.KeyByHash(ctx, newHash)
		require.ErrorIs(t, err, storage.ErrNotFound)
		pending, err := s.Pending(ctx, 10)
		require.NoError(t, err)
		require.Len(t, pending, 3)
		entry, err := pending[1].Key()
		require.NoError(t, err)
		require.Equal(t, rotated, entry)
		require.True(t, pending[2].Deleted)
	})
}

func TestTheOutboxIsDrainedEntryByEntry(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s, other := t.Context(), open(t, cfg), open(t, cfg)
		sub := newSubscription(t, "acme")
		first, err := s.CreateSubscription(ctx, sub, by)
		require.NoError(t, err)
		second, err := s.DeleteSubscription(ctx, "acme", sub.ID, 0, by)
		require.NoError(t, err)
		// The one after it goes first: the first must not be taken for published.
		require.NoError(t, other.MarkPublished(ctx, second, 41))
		pending, err := s.Pending(ctx, 10)
		require.NoError(t, err)
		require.Len(t, pending, 1)
		require.Equal(t, first, pending[0].Seq)
		offset, err := s.WaitPublished(ctx, second)
		require.NoError(t, err)
		require.EqualValues(t, 41, offset)

		waited := make(chan error, 1)
		go func() {
			offset, err := s.WaitPublished(ctx, first)
			if err == nil && offset != 40 {
				err = fmt.Errorf("offset %d", offset)
			}
			waited <- err
		}()
		require.NoError(t, other.MarkPublished(ctx, first, 40)) // by another process
		require.NoError(t, <-waited)
		bounded, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		_, err = s.CreateSubscription(ctx, newSubscription(t, "acme"), by)
		require.NoError(t, err)
		pending, err = s.Pending(ctx, 10)
		require.NoError(t, err)
		_, err = s.WaitPublished(bounded, pending[0].Seq)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		require.NoError(t, s.Purge(ctx, time.Now().Add(time.Hour)))
		_, err = s.WaitPublished(ctx, first)
		require.ErrorIs(t, err, storage.ErrNotFound)
		n, err := s.PendingCount(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	})
}

func TestDeletedObjectsAreForgottenLater(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		sub := newSubscription(t, "acme")
		_, err := s.CreateSubscription(ctx, sub, by)
		require.NoError(t, err)
		_, err = s.DeleteSubscription(ctx, "acme", sub.ID, 0, by)
		require.NoError(t, err)
		gone, err := s.Forgettable(ctx, storage.KindSubscription, time.Now().Add(-time.Minute), 10)
		require.NoError(t, err)
		require.Empty(t, gone)
		gone, err = s.Forgettable(ctx, storage.KindSubscription, time.Now().Add(time.Minute), 10)
		require.NoError(t, err)
		require.Len(t, gone, 1)
		require.NoError(t, s.Forget(ctx, gone[0]))
		objects, err := s.Objects(ctx, storage.KindSubscription, "", 10)
		require.NoError(t, err)
		require.Empty(t, objects)
	})
}

// A second process waits for the lead until the first gives it up.
func TestOneLeadsAtATime(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, one, two := t.Context(), open(t, cfg), open(t, cfg)
		led, release, err := one.Lead(ctx)
		require.NoError(t, err)
		require.NoError(t, led.Err())
		bounded, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, _, err = two.Lead(bounded)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		got := make(chan error, 1)
		go func() {
			_, release, err := two.Lead(ctx)
			if err == nil {
				release()
			}
			got <- err
		}()
		release()
		require.NoError(t, <-got)
		require.Error(t, led.Err())
	})
}

// What was committed is there after the process is gone, and a second Open finds the schema as it is.
func TestDataSurvivesReopening(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx := t.Context()
		s, err := storage.Open(ctx, cfg)
		require.NoError(t, err)
		sub := newSubscription(t, "acme")
		_, err = s.CreateSubscription(ctx, sub, by)
		require.NoError(t, err)
		require.NoError(t, s.SetMeta(ctx, map[string]string{"epoch": "1"}))
		require.NoError(t, s.SetMeta(ctx, map[string]string{"epoch": "2"}))
		s.Close()
		s = open(t, cfg)
		read, err := s.Subscription(ctx, "acme", sub.ID)
		require.NoError(t, err)
		require.Equal(t, sub, read)
		epoch, err := s.Meta(ctx, "epoch")
		require.NoError(t, err)
		require.Equal(t, "2", epoch)
	})
}

func TestSeveralProcessesMayOpenAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		errs := make(chan error, 4)
		for range cap(errs) {
			go func() {
				s, err := storage.Open(t.Context(), cfg)
				if err == nil {
					s.Close()
				}
				errs <- err
			}()
		}
		for range cap(errs) {
			require.NoError(t, <-errs)
		}
	})
}

func TestTheSQLiteFileIsPrivate(t *testing.T) {
	dir := t.TempDir()
	open(t, storage.Config{DataDir: dir})
	info, err := os.Stat(filepath.Join(dir, storage.SQLiteFile))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
}

func TestBadDatabaseURLs(t *testing.T) {
	_, err := storage.Open(t.Context(), storage.Config{URL: "mysql://root:geheim@localhost/x"})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "geheim")
	_, err = storage.Open(t.Context(), storage.Config{URL: "postgres://u:geheim@127.0.0.1:1/x"})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "geheim")
}

// A list finds what people look for: a part of the name, of the URL's host, of the id or of an event pattern, a state, an
// event type, in the order asked for, and page by page.
func TestSubscriptionsAreFound(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		for i, c := range []struct {
			name, url string
			position  int
			state     subscription.State
			events    []string
		}{
			{"CRM Nord", "https://crm.example.com/secret-token", 3, subscription.StateActive, []string{"call.*"}},
			{"Ärzte", "https://hooks.example.org/", 1, subscription.StateActive, []string{"call.ended", "sms.sent"}},
			{"100%_done", "https://x.example/", 1, subscription.StatePaused, []string{"*"}},
			{"", "https://x.example/", -2, subscription.StateActive, []string{"agent.status_changed"}},
		} {
			sub := newSubscription(t, "acme")
			sub.ID = fmt.Sprintf("sub_%d", i)
			sub.Name, sub.URL, sub.Position, sub.State, sub.Events = c.name, c.url, c.position, c.state, c.events
			_, err := s.CreateSubscription(ctx, sub, by)
			require.NoError(t, err)
		}
		_, err := s.CreateSubscription(ctx, newSubscription(t, "other"), by)
		require.NoError(t, err)
		find := func(q storage.SubscriptionQuery) (found []string) {
			q.Limit = 1
			for {
				page, err := s.Subscriptions(ctx, "acme", q)
				require.NoError(t, err)
				if len(page) == 0 {
					return found
				}
				found = append(found, page[0].ID)
				q.After = &storage.SubscriptionPlace{Position: page[0].Position, ID: page[0].ID}
			}
		}
		for _, c := range []struct {
			q    storage.SubscriptionQuery
			want []string
		}{
			{storage.SubscriptionQuery{}, []string{"sub_3", "sub_2", "sub_1", "sub_0"}},
			{storage.SubscriptionQuery{ByPosition: true}, []string{"sub_3", "sub_2", "sub_1", "sub_0"}},
			{storage.SubscriptionQuery{Text: "crm"}, []string{"sub_0"}},
			{storage.SubscriptionQuery{Text: "äRZ"}, []string{"sub_1"}},
			{storage.SubscriptionQuery{Text: "%_"}, []string{"sub_2"}},
			{storage.SubscriptionQuery{Text: "example.COM"}, []string{"sub_0"}},
			{storage.SubscriptionQuery{Text: "secret-token"}, nil},
			{storage.SubscriptionQuery{Text: "SMS."}, []string{"sub_1"}},
			{storage.SubscriptionQuery{Text: "ub_3"}, []string{"sub_3"}},
			{storage.SubscriptionQuery{State: subscription.StatePaused}, []string{"sub_2"}},
			{storage.SubscriptionQuery{Event: "call.ended"}, []string{"sub_2", "sub_1", "sub_0"}},
			{storage.SubscriptionQuery{Event: "call.ended", State: subscription.StateActive, ByPosition: true}, []string{"sub_1", "sub_0"}},
		} {
			require.Equal(t, c.want, find(c.q), "%+v", c.q)
		}
		_, _, err = s.UpdateSubscription(ctx, "acme", "sub_0", 0, by, func(sub *subscription.Subscription) (*subscription.Subscription, error) {
			sub.Position, sub.State = -9, subscription.StateDisabled
			return sub, nil
		})
		require.NoError(t, err)
		require.Equal(t, []string{"sub_0", "sub_3", "sub_2", "sub_1"}, find(storage.SubscriptionQuery{ByPosition: true}))
		require.Equal(t, []string{"sub_0"}, find(storage.SubscriptionQuery{State: subscription.StateDisabled}))
	})
}

// A list that drops most rows reads on until the page is full, however many that takes.
func TestASearchReadsOn(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		var entries []storage.Entry
		for i := range 1203 {
			name := "other"
			if i%600 == 0 {
				name = "wanted"
			}
			entries = append(entries, storage.Entry{Kind: storage.KindSubscription, ID: fmt.Sprintf("sub_%04d", i), Tenant: "acme", Version: 1,
				Spec: []byte(`{"name":"` + name + `","url":"https://x.example","events":["*"],"state":"active","position":7}`)})
		}
		require.NoError(t, s.Adopt(ctx, entries))
		for _, byPosition := range []bool{false, true} {
			found, err := s.Subscriptions(ctx, "acme", storage.SubscriptionQuery{Text: "WANTED", ByPosition: byPosition, Limit: 500})
			require.NoError(t, err)
			require.Len(t, found, 3)
			all, err := s.Subscriptions(ctx, "acme", storage.SubscriptionQuery{State: subscription.StateActive, ByPosition: byPosition, Limit: 501})
			require.NoError(t, err)
			require.Len(t, all, 501)
		}
	})
}

// What the first release stored is found by what the second one looks for.
func TestTheSecondMigrationReadsWhatIsThere(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx := t.Context()
		s := open(t, cfg)
		sub := newSubscription(t, "acme")
		sub.Position, sub.State = 12, subscription.StatePaused
		_, err := s.CreateSubscription(ctx, sub, by)
		require.NoError(t, err)
		for _, query := range []string{"DROP TABLE retries", "DROP TABLE redrives", "DROP TABLE redrive_items", "DROP TABLE replayed", "DROP TABLE agent_settings", "DROP INDEX audit_by_tenant", "DROP INDEX subscriptions_previous", "DROP INDEX subscriptions_by_position",
			"ALTER TABLE subscriptions DROP COLUMN state", "ALTER TABLE subscriptions DROP COLUMN position", "ALTER TABLE subscriptions DROP COLUMN previous_until", "DELETE FROM goose_db_version WHERE version_id >= 2"} {
			_, err := s.Write.ExecContext(ctx, query)
			require.NoError(t, err, query)
		}
		s.Close()
		s = open(t, cfg)
		found, err := s.Subscriptions(ctx, "acme", storage.SubscriptionQuery{State: subscription.StatePaused, ByPosition: true, After: &storage.SubscriptionPlace{Position: 11, ID: "z"}, Limit: 2})
		require.NoError(t, err)
		require.Len(t, found, 1)
	})
}

// The audit log answers who did what when, newest first, and to one tenant only what is its own.
func TestTheAuditLogIsSearched(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		cfg.Now = func() time.Time { return clock }
		ctx, s := t.Context(), open(t, cfg)
		one, two := newSubscription(t, "acme"), newSubscription(t, "acme")
		for _, sub := range []*subscription.Subscription{one, two, newSubscription(t, "other")} {
			_, err := s.CreateSubscription(ctx, sub, by)
			require.NoError(t, err)
			clock = clock.Add(time.Hour)
		}
		_, err := s.DeleteSubscription(ctx, "acme", one.ID, 0, storage.Change{Actor: "key_1", Action: "deleted"})
		require.NoError(t, err)
		versions := func(q storage.AuditQuery) (out []string) {
			q.Limit = 10
			lines, err := s.Audit(ctx, "acme", q)
			require.NoError(t, err)
			for _, l := range lines {
				require.Equal(t, "acme", l.Tenant)
				out = append(out, l.Action+" "+l.ID)
			}
			return out
		}
		deleted, second, first := "deleted "+one.ID, "created "+two.ID, "created "+one.ID
		require.Equal(t, []string{deleted, second, first}, versions(storage.AuditQuery{}))
		require.Equal(t, []string{deleted, first}, versions(storage.AuditQuery{ID: one.ID}))
		require.Equal(t, []string{deleted}, versions(storage.AuditQuery{Actor: "key_1"}))
		require.Equal(t, []string{second, first}, versions(storage.AuditQuery{Action: "created"}))
		require.Nil(t, versions(storage.AuditQuery{Kind: storage.KindKey}))
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		require.Equal(t, []string{second}, versions(storage.AuditQuery{Since: start.Add(time.Hour), Until: start.Add(3 * time.Hour)}))
		lines, err := s.Audit(ctx, "acme", storage.AuditQuery{Limit: 1})
		require.NoError(t, err)
		require.Equal(t, []string{second, first}, versions(storage.AuditQuery{BeforeSeq: lines[0].Seq}))
	})
}

// S4-02: what stands for an agent is made, changed and removed whole, and two who change it at once don't both succeed.
func TestAnAgentsSubscription(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		_, err := s.AgentSubscription(ctx, "acme", "a-1")
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", nil, nil, by)
		require.NoError(t, err)
		_, err = s.AgentSubscription(ctx, "acme", "a-1")
		require.ErrorIs(t, err, storage.ErrNotFound, "it still has none")
		sub := newSubscription(t, "acme")
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", nil, sub, by)
		require.NoError(t, err)
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", nil, newSubscription(t, "acme"), by)
		require.ErrorIs(t, err, storage.ErrStale, "another made it first")
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", nil, nil, by)
		require.ErrorIs(t, err, storage.ErrStale)
		_, err = s.AgentSubscription(ctx, "other", "a-1")
		require.ErrorIs(t, err, storage.ErrNotFound)

		read, err := s.AgentSubscription(ctx, "acme", "a-1")
		require.NoError(t, err)
		require.Equal(t, sub, read)
		next := read.Clone()
		next.Name = "moved"
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", read, next, by)
		require.NoError(t, err)
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", read, nil, by)
		require.ErrorIs(t, err, storage.ErrStale)
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", next, nil, by)
		require.NoError(t, err)
		gone, err := s.AgentSubscription(ctx, "acme", "a-1")
		require.NoError(t, err)
		require.Nil(t, gone)
		pending, err := s.Pending(ctx, 10)
		require.NoError(t, err)
		require.Len(t, pending, 3)
		require.True(t, pending[2].Deleted)

		// One that was deleted by its id is none either, and can be made again.
		again := newSubscription(t, "acme")
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", nil, again, by)
		require.NoError(t, err)
		_, err = s.DeleteSubscription(ctx, "acme", again.ID, 0, by)
		require.NoError(t, err)
		gone, err = s.AgentSubscription(ctx, "acme", "a-1")
		require.NoError(t, err)
		require.Nil(t, gone)
		_, err = s.SetAgentSubscription(ctx, "acme", "a-1", nil, newSubscription(t, "acme"), by)
		require.NoError(t, err)
	})
}

func TestConcurrentAgentSettingsMakeOneSubscription(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		errs := make(chan error, 8)
		for range cap(errs) {
			sub := newSubscription(t, "acme")
			go func() {
				_, err := s.SetAgentSubscription(ctx, "acme", "a-1", nil, sub, by)
				errs <- err
			}()
		}
		won := 0
		for range cap(errs) {
			if err := <-errs; err == nil {
				won++
			} else {
				require.ErrorIs(t, err, storage.ErrStale)
			}
		}
		require.Equal(t, 1, won)
		all, err := s.Subscriptions(ctx, "acme", storage.SubscriptionQuery{Limit: 10})
		require.NoError(t, err)
		require.Len(t, all, 1)
	})
}

// What was skipped is asked for once, also by two at the same time; what a replay skipped again may be asked for again.
func TestReplaysAreAskedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		ctx, s := t.Context(), open(t, cfg)
		skipped := make([]storage.Skipped, 1000)
		for i := range skipped {
			skipped[i] = storage.Skipped{Delivery: fmt.Sprintf("msg_%d", i), Event: event.ReplayEvent{Topic: "calls.events", Partition: 3, Offset: int64(i)}}
		}
		counts := make(chan int, 4)
		for i := range cap(counts) {
			go func() {
				n, _, err := s.Replay(ctx, event.Replay{ID: fmt.Sprintf("rpl_%d", i), Tenant: "acme", SubscriptionID: "sub_1", Command: "start"}, skipped, by)
				if err != nil {
					t.Error(err)
				}
				counts <- n
			}()
		}
		sum := 0
		for range cap(counts) {
			sum += <-counts
		}
		require.Equal(t, 1000, sum)
		pending, err := s.Pending(ctx, 10)
		require.NoError(t, err)
		require.Len(t, pending, 1)
		command, err := pending[0].Replay()
		require.NoError(t, err)
		require.Len(t, command.Events, 1000)
		require.Equal(t, event.ReplayEvent{Topic: "calls.events", Partition: 3, Offset: 999}, command.Events[999])
		require.Equal(t, "sub_1", command.SubscriptionID)

		again := []storage.Skipped{{Delivery: "msg_1", AfterReplay: "rpl_0"}, {Delivery: "msg_2"}}
		n, _, err := s.Replay(ctx, event.Replay{ID: "rpl_9", Tenant: "acme", SubscriptionID: "sub_1"}, again, by)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		lines, err := s.Audit(ctx, "acme", storage.AuditQuery{ID: "sub_1", Limit: 10})
		require.NoError(t, err)
		require.Len(t, lines, 2)
		_, _, err = s.Replay(ctx, event.Replay{}, make([]storage.Skipped, 1001), by)
		require.Error(t, err)
	})
}
