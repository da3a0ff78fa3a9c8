package console

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const someSubscription = `{"url":"https://x.example","events":["*"]}`

// await waits until a reader of the feed, whatever came before, sees what the test says.
func (h *harness) await(what string, sees func(*subscription.Book) bool) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return sees(h.book()) }, 20*time.Second, 5*time.Millisecond, what)
}

func (h *harness) book() *subscription.Book {
	book := subscription.NewBook()
	for _, r := range h.subscriptions() {
		book.Apply(&r)
	}
	return book
}

func shows(id string, epoch, version int64, deleted bool) func(*subscription.Book) bool {
	return func(b *subscription.Book) bool {
		c, ok := b.Get(id)
		return ok && c.Epoch == epoch && c.Version == version && c.Deleted == deleted
	}
}

// The process dies after the record is written and before the entry is marked: the record is written again, with the
// same version, and nothing else happens.
func TestDyingBetweenFeedAndMark(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.InForceTimeout = 10 * time.Millisecond })
	h.awaitReady()
	h.feeds.fail(func(_ string, _ feedRecord, appended bool) error {
		if appended {
			return errors.New("the acknowledgement is lost")
		}
		return nil
	})
	id := h.do("POST", "/v1/subscriptions", someSubscription).is(http.StatusAccepted).str("id")
	require.Eventually(t, func() bool { return len(h.subscriptions()) > 0 }, 10*time.Second, time.Millisecond)
	h.stop()
	h.feeds.fail(nil)
	before := len(h.subscriptions())
	h.run()
	require.Eventually(t, func() bool { return len(h.subscriptions()) == before+1 }, 10*time.Second, time.Millisecond)
	for _, r := range h.subscriptions() {
		require.EqualValues(t, 1, r.Version)
	}
	require.True(t, shows(id, 1, 1, false)(h.book()))
	require.Equal(t, "2", fmt.Sprint(h.do("PATCH", "/v1/subscriptions/"+id, `{"name":"x"}`).object()["version"]))
}

// The process dies before anything is written: the change is on the feed after the next start.
func TestDyingBeforeTheFeed(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.InForceTimeout = 10 * time.Millisecond })
	h.awaitReady()
	h.feeds.fail(func(string, feedRecord, bool) error { return errors.New("away") })
	id := h.do("POST", "/v1/subscriptions", someSubscription).is(http.StatusAccepted).str("id")
	h.do("DELETE", "/v1/subscriptions/"+id, "").is(http.StatusAccepted)
	h.stop()
	h.feeds.fail(nil)
	h.run()
	h.await("the deletion", shows(id, 1, 2, true))
	versions := []int64{}
	for _, r := range h.subscriptions() {
		versions = append(versions, r.Version)
	}
	require.Equal(t, []int64{1, 2}, versions, "in order, each once")
}

// A broker that lost the feed gets all of it again.
func TestALostFeedIsWrittenAgain(t *testing.T) {
	h := start(t)
	kept := h.create(someSubscription).str("id")
	gone := h.create(someSubscription).str("id")
	h.do("DELETE", "/v1/subscriptions/"+gone, "").is(204)
	key := h.do("POST", "/v1/keys", `{"name":"k","scopes":["admin"]}`).is(201).str("id")
	h.stop()
	h.feeds.mu.Lock()
	h.feeds.topics = map[string][]feedRecord{}
	h.feeds.mu.Unlock()
	h.run()
	h.await("the subscription", shows(kept, 1, 1, false))
	require.Eventually(t, func() bool { return len(h.keys()) == 1 && h.keys()[0].ID == key }, 10*time.Second, 5*time.Millisecond)
	_, known := h.book().Get(gone)
	require.False(t, known)
	h.stop()
	before := len(h.subscriptions())
	h.run()
	h.awaitReady()
	require.Len(t, h.subscriptions(), before, "a feed that is right is left alone")
}

// A database that was restored from a backup outranks what the feed learned since, in a new epoch. The backup is SQLite's
// file; the rule knows no kind of database.
func TestARestoredDatabaseOutranksTheFeed(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.DatabaseURL = "" })
	changed := h.create(someSubscription).str("id")
	removed := h.create(someSubscription).str("id")
	h.stop()
	backup := backUp(t, h.cfg.DataDir)
	h.run()
	h.do("PATCH", "/v1/subscriptions/"+changed, `{"name":"after the backup"}`).is(200)
	h.do("PATCH", "/v1/subscriptions/"+changed, `{"name":"after the backup, again"}`).is(200)
	h.do("DELETE", "/v1/subscriptions/"+removed, "").is(204)
	later := h.create(someSubscription).str("id")
	h.stop()
	restore(t, h.cfg.DataDir, backup)
	h.run()
	h.await("the old version in force", shows(changed, 2, 1, false))
	h.await("the deleted one back, as the backup has it", shows(removed, 2, 1, false))
	h.await("the one that the backup does not know ended", func(b *subscription.Book) bool { c, ok := b.Get(later); return ok && c.Deleted })
	h.awaitReady()
	h.do("PATCH", "/v1/subscriptions/"+changed, `{"name":"now"}`).is(200)
	require.True(t, shows(changed, 2, 2, false)(h.book()))
	h.stop()
	h.run()
	h.awaitReady()
	h.create(someSubscription)
	require.EqualValues(t, 2, h.subscriptions()[len(h.subscriptions())-1].Epoch, "the epoch grows once")
}

func backUp(t *testing.T, dir string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, storage.SQLiteFile))
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(dir, storage.SQLiteFile+"-wal"))
	require.ErrorIs(t, err, os.ErrNotExist, "closing wrote everything into the file")
	return raw
}

func restore(t *testing.T, dir string, raw []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, storage.SQLiteFile), raw, 0o600))
}

// A database that was lost is filled from the feed: no subscription ends, and their secrets still open.
func TestANewDatabaseTakesOverTheFeed(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.DatabaseURL = "" })
	made := h.create(`{"name":"CRM","url":"https://x.example","events":["*"],"auth":{"type":"bearer","token":"t"}}`)
	id := made.str("id")
	gone := h.create(someSubscription).str("id")
	h.do("DELETE", "/v1/subscriptions/"+gone, "").is(204)
	key := h.do("POST", "/v1/keys", `{"name":"k","scopes":["admin"]}`).is(201).str("id")
	h.stop()
	before := len(h.subscriptions())
	h.cfg.DataDir = t.TempDir()
	h.run()
	h.awaitReady()
	got := h.do("GET", "/v1/subscriptions/"+id, "").is(200)
	require.Equal(t, "CRM", got.str("name"))
	require.Equal(t, made.str("created_at"), got.str("created_at"))
	h.do("GET", "/v1/subscriptions/"+gone, "").problem(404)
	require.Contains(t, string(h.do("GET", "/v1/keys", "").body), key)
	require.Len(t, h.subscriptions(), before, "nothing to publish")
	h.do("PATCH", "/v1/subscriptions/"+id, `{"name":"new"}`).is(200)
	require.True(t, shows(id, 1, 2, false)(h.book()))
	store, err := h.svc.database()
	require.NoError(t, err)
	sub, err := store.Subscription(t.Context(), "default", id)
	require.NoError(t, err)
	_, err = sub.Open(h.box, time.Now())
	require.NoError(t, err)
}

// A console with another database must not end the subscriptions of the one that the feeds belong to.
func TestForeignFeedsAreLeftAlone(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.DatabaseURL, c.InForceTimeout = "", 10*time.Millisecond })
	id := h.do("POST", "/v1/subscriptions", someSubscription).str("id")
	h.await("published", shows(id, 1, 1, false))
	h.stop()
	theirs := h.feeds

	h.feeds, h.cfg.DataDir = newMemoryLog(), t.TempDir()
	h.deps.log = h.feeds
	h.run()
	h.awaitReady() // it has a feed of its own now
	h.stop()
	h.feeds, h.deps.log = theirs, theirs
	before := len(h.subscriptions())
	h.run()
	require.Eventually(t, func() bool { return errors.Is(h.svc.Ready(), ErrForeignFeed) }, 10*time.Second, 5*time.Millisecond)
	h.do("POST", "/v1/subscriptions", someSubscription).is(http.StatusAccepted)
	require.Len(t, h.subscriptions(), before)
}

// Seven days after a deletion its tombstone is written and the row is dropped.
func TestDeletionsGetTombstones(t *testing.T) {
	var offset atomic.Int64
	h := start(t, func(_ *Config, d *Deps) {
		d.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	})
	id := h.create(someSubscription).str("id")
	h.do("DELETE", "/v1/subscriptions/"+id, "").is(204)
	tombstones := func() (n int) {
		for _, r := range h.feeds.records(topic.Subscriptions) {
			if r.value == nil && r.key == id {
				n++
			}
		}
		return n
	}
	offset.Store(int64(6 * 24 * time.Hour))
	h.create(someSubscription)
	require.Zero(t, tombstones())
	offset.Store(int64(8 * 24 * time.Hour))
	require.Eventually(t, func() bool { return tombstones() == 1 }, 10*time.Second, 5*time.Millisecond, h.logs)
	// That it stands on the feed is known once its row is gone. A console that ends before writes it once more.
	store, err := h.svc.database()
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		left, err := store.Forgettable(t.Context(), storage.KindSubscription, h.deps.Now(), 10)
		return err == nil && len(left) == 0
	}, 10*time.Second, 5*time.Millisecond, h.logs)
	h.stop()
	h.run()
	h.awaitReady()
	require.Equal(t, 1, tombstones())
}

// Two consoles on one database: one publishes, both are ready, and the other takes over.
func TestTwoConsolesOnOneDatabase(t *testing.T) {
	h := start(t)
	h.awaitReady()
	second := &harness{t: t, feeds: h.feeds, codec: h.codec, box: h.box, cfg: h.cfg, deps: h.deps, logs: h.logs}
	second.run()
	second.awaitReady()
	id := second.create(someSubscription).str("id")
	require.True(t, shows(id, 1, 1, false)(h.book()), "published by the first, in force for the second")
	h.stop()
	second.do("PATCH", "/v1/subscriptions/"+id, `{"name":"x"}`)
	second.await("published by the second", shows(id, 1, 2, false))
	for i, r := range second.subscriptions() {
		require.EqualValues(t, i+1, r.Version)
	}
}

// Whatever happens between database and feed (lost acknowledgements, lost appends, restarts), a reader of the feed ends
// with what the database says, the last record of each object is its newest, and no deleted subscription comes back.
func TestTheFeedFollowsTheDatabase(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.InForceTimeout = time.Millisecond })
	h.awaitReady()
	rapid.Check(t, func(t *rapid.T) {
		ids := map[string]int64{} // version; 0 when deleted
		var order []string
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				id := h.do("POST", "/v1/subscriptions", someSubscription).str("id")
				ids[id], order = 1, append(order, id)
			case 1, 2:
				if len(order) == 0 {
					continue
				}
				id := rapid.SampledFrom(order).Draw(t, "changed")
				if a := h.do("PATCH", "/v1/subscriptions/"+id, `{"position":`+fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "position"))+`}`); a.status < 300 {
					ids[id] = int64(a.object()["version"].(float64)) // the same position again is no change
				}
			case 3:
				if len(order) == 0 {
					continue
				}
				id := rapid.SampledFrom(order).Draw(t, "deleted")
				h.do("DELETE", "/v1/subscriptions/"+id, "")
				ids[id] = 0
			case 4:
				lose := rapid.Bool().Draw(t, "after the append")
				n := rapid.IntRange(1, 2).Draw(t, "failures")
				h.feeds.fail(func(_ string, _ feedRecord, appended bool) error {
					if n > 0 && appended == lose {
						n--
						return errors.New("injected")
					}
					return nil
				})
			}
		}
		h.feeds.fail(nil)
		store, err := h.svc.database()
		if err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for {
			if n, err := store.PendingCount(h.t.Context()); err == nil && n == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the outbox does not drain")
			}
			h.svc.relay.kick()
		}
		last := map[string]int64{}
		for _, r := range h.subscriptions() {
			last[r.ID] = r.Version
		}
		book := h.book()
		for id, version := range ids {
			c, ok := book.Get(id)
			if !ok || c.Deleted != (version == 0) || (version != 0 && c.Version != version) {
				t.Fatalf("%s: want version %d, the feed shows %+v", id, version, c)
			}
			if last[id] != c.Version {
				t.Fatalf("%s: compaction would keep version %d of %d", id, last[id], c.Version)
			}
		}
	})
}

// Whatever a network does to the feed's records on their way (delays, repeats, any order), a reader never goes back to an
// older version, never gets a deleted subscription back, and ends with what the database says.
func TestAReaderOfAScrambledFeedRevivesNothing(t *testing.T) {
	h := start(t)
	h.awaitReady()
	store, err := h.svc.database()
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		deleted := map[string]bool{}
		var ids []string
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			kind := rapid.IntRange(0, 3).Draw(t, "change")
			if len(ids) == 0 || kind == 0 {
				ids = append(ids, h.create(someSubscription).str("id"))
				continue
			}
			id := rapid.SampledFrom(ids).Draw(t, "id")
			if kind == 3 {
				h.do("DELETE", "/v1/subscriptions/"+id, "")
				deleted[id] = true
			} else {
				h.do("PATCH", "/v1/subscriptions/"+id, `{"position":`+fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "position"))+`}`)
			}
		}
		var records []event.SubscriptionRecord
		for _, r := range h.subscriptions() {
			if slices.Contains(ids, r.ID) {
				records = append(records, r)
			}
		}
		repeats := rapid.SliceOfN(rapid.SampledFrom(records), 0, len(records)).Draw(t, "repeats")
		arriving := rapid.Permutation(append(slices.Clone(records), repeats...)).Draw(t, "order")
		book := subscription.NewBook()
		for _, r := range arriving {
			before, known := book.Get(r.ID)
			book.Apply(&r)
			after, _ := book.Get(r.ID)
			if known && after.Version < before.Version {
				t.Fatalf("%s went from version %d back to %d", r.ID, before.Version, after.Version)
			}
			if known && before.Deleted && !after.Deleted {
				t.Fatalf("version %d revived %s", r.Version, r.ID)
			}
			for _, c := range book.Candidates("default", "call.ended", "") {
				if c.Deleted {
					t.Fatalf("%s is deleted, and gets events", c.ID)
				}
			}
		}
		for _, id := range ids {
			c, ok := book.Get(id)
			if !ok || c.Deleted != deleted[id] {
				t.Fatalf("%s: deleted = %v, the reader has %+v", id, deleted[id], c)
			}
			if deleted[id] {
				continue
			}
			sub, err := store.Subscription(h.t.Context(), "default", id)
			if err != nil || c.Version != sub.Version || c.Subscription.Position != sub.Position {
				t.Fatalf("%s: the database has %+v (%v), the reader %+v", id, sub, err, c.Subscription)
			}
		}
	})
}
