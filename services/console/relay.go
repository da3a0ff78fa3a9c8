package console

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
)

const (
	publishTimeout = 10 * time.Second
	// relayPoll is how often the outbox is looked at for changes of other processes; this one's own wake the relay.
	relayPoll = 250 * time.Millisecond
	// forgetAfter is how long a deletion stays readable before its tombstone: the feed's readers that were away for
	// less learn of it by its version, the others start from nothing anyway.
	forgetAfter = 7 * 24 * time.Hour
	// purgeAfter is how long published outbox entries are kept for those who wait for them.
	purgeAfter = time.Hour
	// replayedKept is longer than any topic keeps the events that could be asked for once more.
	replayedKept = 60 * 24 * time.Hour
	housekeeping = time.Hour
	// keyExpiry is how often signing keys that ended are looked for: no secret rests for long after its use.
	keyExpiry     = time.Minute
	relayBatch    = 100
	reconcileStep = 500
)

// The names of what the relay keeps in the database.
const (
	metaDatabase = "database" // this database's identity: a ULID, the same in a restored backup
	metaEpoch    = "epoch"
	metaSynced   = "synced" // set once the database and the feeds have been one
)

// ErrForeignFeed says that the feeds were written from another database: publishing would end all its subscriptions.
var ErrForeignFeed = errors.New("the feeds belong to another database: point CALLSTREAM_DATABASE_URL at it, or use another Kafka cluster")

// codec is the part of event.Codec that the relay uses.
type codec interface {
	Encode(ctx context.Context, dst []byte, r event.Record) ([]byte, error)
	EncodeEvent(ctx context.Context, dst []byte, e *event.Event) ([]byte, error)
	Decode(ctx context.Context, value []byte, r event.Record) error
}

// relay puts the outbox on the feeds, in order. One relay works at a time, whoever holds the database's lock.
//
// A process may die anywhere. Before the record is acknowledged the entry is still pending, and the next relay writes it;
// after that and before the entry is marked, it is written again: readers ignore a version they have. Between entries of
// one object the order on the feed is that of versions, since the relay waits for each acknowledgement; so compaction
// leaves the newest.
type relay struct {
	log     *zap.Logger
	feeds   feedLog
	codec   codec
	now     func() time.Time
	metrics *metrics
	wake    chan struct{}
	retry   time.Duration // between attempts

	mu    sync.Mutex
	waits error // why nothing is published; nil while it works, or while another process leads
	led   bool

	epoch    int64
	database string
}

func (r *relay) ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waits == nil && !r.led {
		return errors.New("the feeds have not been read yet")
	}
	return r.waits
}

func (r *relay) setState(led bool, waits error) {
	r.mu.Lock()
	r.led, r.waits = led, waits
	r.mu.Unlock()
}

// kick makes the relay look at the outbox now.
func (r *relay) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *relay) run(ctx context.Context, store *storage.Store) error {
	for {
		// While another process holds the lock, this one is as ready as a console can be.
		standby := time.AfterFunc(2*time.Second, func() { r.setState(true, nil) })
		led, release, err := store.Lead(ctx)
		standby.Stop()
		if err == nil {
			r.setState(false, nil)
			err = r.lead(led, store)
			release()
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			r.setState(false, err)
			r.metrics.publishErrors.Add(ctx, 1)
			r.log.Warn("changes can't be published; trying again", zap.Error(err))
		}
		if run.Sleep(ctx, r.retry) != nil {
			return nil
		}
	}
}

// lead brings feeds and database together, then publishes until an error or the end of the lead.
func (r *relay) lead(ctx context.Context, store *storage.Store) error {
	if err := r.reconcile(ctx, store); err != nil {
		return err
	}
	r.log.Info("publishing changes", zap.Int64("epoch", r.epoch))
	nextHousekeeping, nextExpiry := r.now(), r.now()
	for {
		n, err := r.drain(ctx, store)
		if err != nil {
			return err
		}
		r.setState(true, nil)
		if n == relayBatch {
			continue
		}
		if now := r.now(); !now.Before(nextHousekeeping) {
			if err := r.housekeep(ctx, store, now); err != nil {
				return err
			}
			nextHousekeeping = now.Add(housekeeping)
		}
		if now := r.now(); !now.Before(nextExpiry) {
			if err := r.expireKeys(ctx, store, now); err != nil {
				return err
			}
			nextExpiry = now.Add(keyExpiry)
		}
		if err := run.Await(ctx, r.wake, relayPoll); err != nil {
			return err
		}
	}
}

// drain publishes what is pending, one after the other, and returns how much that was.
func (r *relay) drain(ctx context.Context, store *storage.Store) (int, error) {
	entries, err := store.Pending(ctx, relayBatch)
	if err != nil {
		return 0, err
	}
	for i, e := range entries {
		r.metrics.pending.Record(ctx, int64(len(entries)-i))
		offset, err := r.publish(ctx, e)
		if err != nil {
			return i, err
		}
		if err := store.MarkPublished(ctx, e.Seq, offset); err != nil {
			return i, err
		}
	}
	r.metrics.pending.Record(ctx, 0)
	return len(entries), nil
}

func (r *relay) publish(ctx context.Context, e storage.Entry) (int64, error) {
	record, err := r.feedRecord(ctx, e)
	if err != nil {
		return 0, fmt.Errorf("encode %s %s: %w", e.Kind, e.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout+5*time.Second)
	defer cancel()
	offset, err := r.feeds.append(ctx, feedTopic(e.Kind), record)
	if err != nil {
		return 0, err
	}
	r.metrics.published.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", string(e.Kind))))
	return offset, nil
}

// feedRecord is an entry as it is written.
func (r *relay) feedRecord(ctx context.Context, e storage.Entry) (feedRecord, error) {
	if e.Kind == storage.KindEvent {
		return r.eventRecord(ctx, e)
	}
	record, err := r.record(e)
	if err != nil {
		return feedRecord{}, err
	}
	value, err := r.codec.Encode(ctx, nil, record)
	return feedRecord{key: e.ID, value: value, database: r.database}, err
}

// eventRecord is the record of one of callstream's own events, as the producer and the dispatcher write theirs.
func (r *relay) eventRecord(ctx context.Context, e storage.Entry) (feedRecord, error) {
	own, err := event.Parse(e.Spec)
	if err != nil {
		return feedRecord{}, err
	}
	own.IngestedAt, own.Traceparent = e.At, telemetry.NewTraceparent()
	value, err := r.codec.EncodeEvent(ctx, nil, own)
	return feedRecord{
		key: string(own.Key()), value: value,
		headers: kafka.EventHeaders(own.Type, own.ID, own.Source, own.Tenant, own.Traceparent),
	}, err
}

// record is what the feed carries of an entry, in the present epoch.
func (r *relay) record(e storage.Entry) (event.Record, error) {
	switch e.Kind {
	case storage.KindReplay:
		return e.Replay()
	case storage.KindKey:
		k, err := e.Key()
		if err != nil {
			return nil, err
		}
		return &event.KeyRecord{ID: e.ID, Tenant: e.Tenant, Name: k.Name, Hash: k.Hash, Scopes: k.Scopes, Version: e.Version, Epoch: r.epoch,
			Deleted: e.Deleted, CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt, UpdatedAt: e.At}, nil
	}
	if e.Deleted {
		rec := subscription.Deleted(e.ID, e.Tenant, e.Version, r.epoch)
		rec.UpdatedAt = e.At
		return rec, nil
	}
	secrets, err := e.SealedSecrets()
	if err != nil {
		return nil, err
	}
	return &event.SubscriptionRecord{ID: e.ID, Tenant: e.Tenant, Version: e.Version, Epoch: r.epoch, UpdatedAt: e.At,
		Spec: string(e.Spec), Secrets: secrets}, nil
}

// housekeep writes the tombstones of what was deleted long ago, and drops what is old.
func (r *relay) housekeep(ctx context.Context, store *storage.Store, now time.Time) error {
	for _, kind := range []storage.Kind{storage.KindSubscription, storage.KindKey} {
		gone, err := store.Forgettable(ctx, kind, now.Add(-forgetAfter), relayBatch)
		if err != nil {
			return err
		}
		for _, e := range gone {
			if _, err := r.feeds.append(ctx, feedTopic(kind), feedRecord{key: e.ID, database: r.database}); err != nil {
				return err
			}
			if err := store.Forget(ctx, e); err != nil {
				return err
			}
		}
	}
	if err := store.ForgetReplayed(ctx, now.Add(-replayedKept)); err != nil {
		return err
	}
	if err := store.ForgetRedrives(ctx, now.Add(-replayedKept)); err != nil {
		return err
	}
	return store.Purge(ctx, now.Add(-purgeAfter))
}

// expireKeys forgets signing keys that ended.
func (r *relay) expireKeys(ctx context.Context, store *storage.Store, now time.Time) error {
	expired, err := store.ExpiredKeys(ctx, now, relayBatch)
	if err != nil {
		return err
	}
	for _, e := range expired {
		_, _, err := store.UpdateSubscription(ctx, e.Tenant, e.ID, 0, storage.Change{Actor: "system", Action: actionExpired}, expireKey(now))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	return nil
}

func feedTopic(kind storage.Kind) string {
	switch kind {
	case storage.KindKey:
		return topic.Keys
	case storage.KindReplay:
		return topic.Replays
	case storage.KindEvent:
		return topic.OwnEvents
	}
	return topic.Subscriptions
}

// standing is what a feed says of one object: its last record, and the newest one in case that is another.
type standing struct {
	last, newest feedVersion
	entry        storage.Entry // of the newest
}

type feedVersion struct {
	epoch, version int64
	deleted        bool
}

func (v feedVersion) newer(o feedVersion) bool {
	return subscription.Newer(v.epoch, v.version, o.epoch, o.version)
}

// feedState is a feed as it stands.
type feedState struct {
	kind     storage.Kind
	objects  map[string]*standing
	database string // which database wrote the last record that says
	epoch    int64  // the highest
}

func (r *relay) readFeed(ctx context.Context, kind storage.Kind) (*feedState, error) {
	state := &feedState{kind: kind, objects: map[string]*standing{}}
	var failed error
	err := r.feeds.read(ctx, feedTopic(kind), func(rec feedRecord) {
		if failed != nil {
			return
		}
		if rec.database != "" {
			state.database = rec.database
		}
		if rec.value == nil {
			delete(state.objects, rec.key)
			return
		}
		v, entry, err := r.decode(ctx, kind, rec.value)
		if errors.Is(err, event.ErrPoison) {
			// Someone wrote to our feed. Its readers pass it over; so does this one, and the object is published anew.
			r.log.Error("a record of the feed can't be read", zap.String("feed", feedTopic(kind)), zap.String("key", rec.key), zap.Error(err))
			return
		}
		if err != nil {
			failed = err
			return
		}
		state.epoch = max(state.epoch, v.epoch)
		have, ok := state.objects[entry.ID]
		if !ok {
			state.objects[entry.ID] = &standing{last: v, newest: v, entry: entry}
			return
		}
		have.last = v
		if v.newer(have.newest) {
			have.newest, have.entry = v, entry
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("read the feed %s: %w", feedTopic(kind), err)
	}
	return state, nil
}

func (r *relay) decode(ctx context.Context, kind storage.Kind, value []byte) (feedVersion, storage.Entry, error) {
	if kind == storage.KindKey {
		var k event.KeyRecord
		if err := r.codec.Decode(ctx, value, &k); err != nil {
			return feedVersion{}, storage.Entry{}, err
		}
		entry, err := storage.KeyEntry(k)
		return feedVersion{k.Epoch, k.Version, k.Deleted}, entry, err
	}
	var s event.SubscriptionRecord
	if err := r.codec.Decode(ctx, value, &s); err != nil {
		return feedVersion{}, storage.Entry{}, err
	}
	entry, err := storage.SubscriptionEntry(s)
	return feedVersion{s.Epoch, s.Version, s.Deleted}, entry, err
}

// reconcile makes the feeds say what the database says.
//
// The database is the truth, with two exceptions. One that has never been joined to a feed takes over what it finds
// there: it replaces a database that was lost, and no subscription ends because of that. And feeds that another database
// wrote are left alone. When the feed is ahead of the database, the database was restored from a backup: its versions
// would be taken for old news, so it starts a new epoch.
func (r *relay) reconcile(ctx context.Context, store *storage.Store) error {
	var feeds []*feedState
	for _, kind := range []storage.Kind{storage.KindSubscription, storage.KindKey} {
		state, err := r.readFeed(ctx, kind)
		if err != nil {
			return err
		}
		feeds = append(feeds, state)
	}
	if err := r.identify(ctx, store, feeds); err != nil {
		return err
	}
	restored := false
	var plans []*plan
	for _, state := range feeds {
		p, err := r.compare(ctx, store, state)
		if err != nil {
			return err
		}
		restored = restored || p.behind
		plans = append(plans, p)
	}
	if restored {
		for _, state := range feeds {
			r.epoch = max(r.epoch, state.epoch)
		}
		r.epoch++
		r.log.Warn("the feeds are ahead of the database: it was restored, and starts a new epoch", zap.Int64("epoch", r.epoch))
	}
	// The epoch is kept before the first record carries it: a relay that started again with the old one would be ignored.
	if err := r.keep(ctx, store); err != nil {
		return err
	}
	for _, p := range plans {
		if err := p.carryOut(ctx, store, restored); err != nil {
			return err
		}
	}
	r.metrics.epoch.Record(ctx, r.epoch)
	return nil
}

func (r *relay) keep(ctx context.Context, store *storage.Store) error {
	return store.SetMeta(ctx, map[string]string{metaDatabase: r.database, metaEpoch: strconv.FormatInt(r.epoch, 10), metaSynced: "yes"})
}

// identify finds out which database this is, and whether the feeds are its own.
func (r *relay) identify(ctx context.Context, store *storage.Store, feeds []*feedState) error {
	var err error
	if r.database, err = store.Meta(ctx, metaDatabase); err != nil {
		return err
	}
	synced, err := store.Meta(ctx, metaSynced)
	if err != nil {
		return err
	}
	epoch, err := store.Meta(ctx, metaEpoch)
	if err != nil {
		return err
	}
	if r.epoch = 1; epoch != "" {
		if r.epoch, err = strconv.ParseInt(epoch, 10, 64); err != nil {
			return fmt.Errorf("the database's epoch %q is no number: %w", epoch, err)
		}
	}
	if synced == "" {
		r.database = ""
		return r.adopt(ctx, store, feeds)
	}
	for _, state := range feeds {
		if state.database != "" && state.database != r.database {
			return ErrForeignFeed
		}
	}
	return nil
}

// adopt fills a database that has never been joined to the feeds with what they hold.
func (r *relay) adopt(ctx context.Context, store *storage.Store, feeds []*feedState) error {
	for _, state := range feeds {
		if state.database != "" {
			r.database = state.database
		}
		r.epoch = max(r.epoch, state.epoch)
		var entries []storage.Entry
		for _, o := range state.objects {
			if !o.newest.deleted {
				entries = append(entries, o.entry)
			}
		}
		if len(entries) == 0 {
			continue
		}
		if err := store.Adopt(ctx, entries); err != nil {
			return err
		}
		r.log.Warn("a new database took over what the feed holds", zap.String("kind", string(state.kind)), zap.Int("objects", len(entries)))
	}
	if r.database == "" {
		r.database = ulid.Make().String()
	}
	return nil
}

// plan is what has to be published of one kind.
type plan struct {
	kind      storage.Kind
	behind    bool            // the feed knows versions that the database does not
	all       []string        // every object of the database
	different []string        // those that the feed shows otherwise
	unknown   []storage.Entry // live on the feed, not in the database: each as its deletion
}

func (r *relay) compare(ctx context.Context, store *storage.Store, state *feedState) (*plan, error) {
	p := &plan{kind: state.kind}
	known := map[string]bool{}
	for after := ""; ; {
		objects, err := store.Objects(ctx, state.kind, after, reconcileStep)
		if err != nil {
			return nil, err
		}
		for _, e := range objects {
			after = e.ID
			known[e.ID] = true
			p.all = append(p.all, e.ID)
			want := feedVersion{r.epoch, e.Version, e.Deleted}
			o, shown := state.objects[e.ID]
			if shown && (o.newest.newer(want) || (o.newest.epoch == want.epoch && o.newest.version == want.version && o.newest.deleted != want.deleted)) {
				p.behind = true
			}
			if !shown && e.Deleted {
				continue // its tombstone is there already, or it was never shown
			}
			if !shown || o.last != want {
				p.different = append(p.different, e.ID)
			}
		}
		if len(objects) < reconcileStep {
			break
		}
	}
	for id, o := range state.objects {
		if known[id] || o.newest.deleted {
			continue
		}
		p.behind = true
		p.unknown = append(p.unknown, storage.Entry{Kind: state.kind, ID: id, Tenant: o.entry.Tenant, Version: o.newest.version + 1, Deleted: true})
	}
	return p, nil
}

func (p *plan) carryOut(ctx context.Context, store *storage.Store, restored bool) error {
	if len(p.unknown) > 0 {
		// Kept as deleted rows, so that they get their tombstones in time.
		if err := store.Adopt(ctx, p.unknown); err != nil {
			return err
		}
	}
	ids := p.different
	if restored {
		ids = p.all
	}
	for _, e := range p.unknown {
		ids = append(ids, e.ID)
	}
	for len(ids) > 0 {
		n := min(len(ids), reconcileStep)
		if err := store.Republish(ctx, p.kind, ids[:n]); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}
