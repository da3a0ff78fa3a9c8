package history

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
)

// role is writing the history of a database.
func role() storage.Role {
	return storage.Role{File: "callstream.history.lock", Key: 0x63616c6c_68697374} // "callhist"
}

// topics are what the history is made of.
func topics() []string {
	return append(topic.Events(), topic.Decisions, topic.Attempts, topic.DeadLetters, topic.Responses)
}

// ProjectionConfig says what to project and how long to keep it.
type ProjectionConfig struct {
	Kafka kafka.Config
	Codec Codec
	Log   *zap.Logger
	Meter metric.MeterProvider
	// Share is the part of one processor that projecting may take while it keeps up, 0 < Share ≤ 1; 0 means 1. When
	// the history falls behind further and further it takes more.
	Share float64
	// Retention is how long rows are kept after the event was accepted.
	Retention time.Duration
	// MaxDeliveries is how many rows of deliveries are kept, how many of events and of dead letters; the oldest go first. 0 means all.
	MaxDeliveries int64
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// Projection writes the history from Kafka.
type Projection struct {
	cfg     ProjectionConfig
	store   *Store
	log     *zap.Logger
	metrics *metrics
	client  *kgo.Client
	admin   *kadm.Client
	urge    chan struct{} // asks to go on without a pause

	mu  sync.Mutex
	lag int64 // -1 while another process writes
}

// NewProjection makes the projection. It connects when it runs, or is first asked.
func NewProjection(cfg ProjectionConfig, store *Store) (*Projection, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Share <= 0 || cfg.Share > 1 {
		cfg.Share = 1
	}
	if cfg.MaxDeliveries <= 0 {
		cfg.MaxDeliveries = math.MaxInt64
	}
	p := &Projection{cfg: cfg, store: store, log: cfg.Log.Named("history"), urge: make(chan struct{}, 1), lag: -1}
	var err error
	if p.metrics, err = newMetrics(cfg.Meter, p.Lag); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	opts, err := cfg.Kafka.Options(p.log)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if p.client, err = kgo.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("history: make a client: %w", err)
	}
	p.admin = kadm.NewClient(p.client)
	return p, nil
}

// Close disconnects; Run must have ended.
func (p *Projection) Close() { p.client.Close() }

// Lag is how many records wait to be projected as of the last fetch; -1 where this process isn't the one that does it.
func (p *Projection) Lag() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lag
}

func (p *Projection) setLag(n int64) {
	p.mu.Lock()
	p.lag = n
	p.mu.Unlock()
}

// Run projects whenever this process is the one to, until ctx ends. What fails is tried again.
func (p *Projection) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := p.lead(ctx)
		p.setLag(-1)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if errors.Is(err, errNotWriter) {
			p.log.Info("the history begins again from what the database says", zap.Error(err))
		} else {
			p.log.Warn("the history can't be written now, trying again", zap.Error(err))
		}
		if run.Sleep(ctx, time.Second) != nil {
			return nil
		}
	}
	return nil
}

// lead waits for its turn, and projects until it is over.
func (p *Projection) lead(ctx context.Context) error {
	led, release, err := p.store.db.LeadAs(ctx, role())
	if err != nil {
		return err
	}
	defer release()
	as, err := p.store.claim(led, ulid.Make().String())
	if err != nil {
		return err
	}
	r, err := p.begin(led, as)
	if err != nil {
		return err
	}
	defer r.client.Close()
	return r.run(led)
}

// term is one of being the writer.
type term struct {
	*Projection
	as     state
	client *kgo.Client
	next   map[kafka.TopicPartition]int64 // to be read
	ends   map[kafka.TopicPartition]int64 // of the log, as of the last fetch
	keeper keeper
	pace   pace
}

// begin finds out where to go on in each partition.
func (p *Projection) begin(ctx context.Context, as state) (*term, error) {
	next, err := p.store.progress(ctx)
	if err != nil {
		return nil, err
	}
	starts, ends, err := p.bounds(ctx)
	if err != nil {
		return nil, err
	}
	r := &term{Projection: p, as: as, next: map[kafka.TopicPartition]int64{}, ends: ends, pace: pace{least: p.cfg.Share, share: p.cfg.Share}}
	moved := map[kafka.TopicPartition]int64{}
	from := map[string]map[int32]kgo.Offset{}
	for at, end := range ends {
		offset, known := next[at]
		switch start := starts[at]; {
		case offset > end:
			// The next records come under offsets that were read before, so the rows would never hear of them.
			p.log.Warn("a log was cut or made anew: it is read again from its start", zap.Stringer("partition", at), zap.Int64("read to", offset), zap.Int64("end", end))
			offset, moved[at] = start, start
		case offset < start:
			if known {
				p.reportLoss(ctx, at, offset, start)
			}
			offset, moved[at] = start, start
		}
		r.next[at] = offset
		if from[at.Topic] == nil {
			from[at.Topic] = map[int32]kgo.Offset{}
		}
		from[at.Topic][at.Partition] = kgo.NewOffset().At(offset)
	}
	if len(moved) > 0 {
		if err := p.store.skip(ctx, as, moved); err != nil {
			return nil, err
		}
	}
	if r.keeper, err = p.newKeeper(ctx); err != nil {
		return nil, err
	}
	opts, err := p.cfg.Kafka.Options(p.log)
	if err != nil {
		return nil, err
	}
	r.client, err = kgo.NewClient(append(opts,
		kgo.ConsumePartitions(from),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // they take offsets, and a log may end in one
		// Few fetches with much in them: nobody waits for the history, and every fetch costs the broker a look at each
		// partition.
		kgo.FetchMinBytes(4<<20), kgo.FetchMaxWait(fetchWait),
		// And something of every topic in each: what belongs together is then mostly in one batch, and written once.
		kgo.FetchMaxBytes(batchBytes), kgo.FetchMaxPartitionBytes(256<<10), kgo.MaxConcurrentFetches(1),
	)...)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	p.log.Info("projecting", zap.Int("partitions", len(ends)), zap.Int64("behind", r.behind()), zap.Int64("generation", as.generation))
	return r, nil
}

const (
	// fetchWait is how long a broker waits until it has a fetch's worth of records. It is about how far the history is
	// behind at rest.
	fetchWait = 500 * time.Millisecond
	// lookEvery is how often is asked where the log ends.
	lookEvery = 5 * time.Second
	// checkEvery is how often, without new records, is looked whether the history was started over.
	checkEvery = time.Second
	// batchBytes bounds what one transaction is made of, but for a batch of the log that is larger.
	batchBytes = 16 << 20
)

var errTopics = errors.New("the topics are not there yet")

// bounds asks where the partitions start and end.
func (p *Projection) bounds(ctx context.Context) (starts, ends map[kafka.TopicPartition]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all := topics()
	first, err := p.admin.ListStartOffsets(ctx, all...)
	if err != nil {
		return nil, nil, fmt.Errorf("list start offsets: %w", err)
	}
	last, err := p.admin.ListCommittedOffsets(ctx, all...)
	if err != nil {
		return nil, nil, fmt.Errorf("list end offsets: %w", err)
	}
	if starts, err = offsets(first); err != nil {
		return nil, nil, err
	}
	if ends, err = offsets(last); err != nil {
		return nil, nil, err
	}
	have := map[string]bool{}
	for at := range ends {
		have[at.Topic] = true
	}
	if len(have) < len(all) {
		return nil, nil, errTopics
	}
	return starts, ends, nil
}

func offsets(listed kadm.ListedOffsets) (map[kafka.TopicPartition]int64, error) {
	all := map[kafka.TopicPartition]int64{}
	var failed error
	listed.Each(func(o kadm.ListedOffset) {
		if o.Err != nil {
			failed = fmt.Errorf("list the offsets of %s: %w", o.Topic, o.Err)
		}
		all[kafka.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = o.Offset
	})
	return all, failed
}

func (p *Projection) reportLoss(ctx context.Context, at kafka.TopicPartition, from, to int64) {
	p.log.Error("records are gone that were not in the history", zap.Stringer("partition", at), zap.Int64("from", from), zap.Int64("to", to))
	p.metrics.lost.Add(ctx, to-from, ofTopic(at.Topic))
}

// run projects until the term is over, which is an error but where ctx ended.
func (r *term) run(ctx context.Context) error {
	r.setLag(r.behind())
	looked := time.Now()
	for {
		poll, cancel := context.WithTimeout(ctx, checkEvery)
		fetches := r.client.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		began := time.Now()
		if err := r.project(ctx, fetches); err != nil {
			return err
		}
		if err := r.keeper.clean(ctx); err != nil {
			return err
		}
		took := time.Since(began)
		r.metrics.batch.Record(ctx, took.Seconds())
		if now := time.Now(); now.Sub(looked) > lookEvery {
			// A fetch says where the log ended when it was made, which may be long ago where fetches wait to be written.
			if _, ends, err := r.bounds(ctx); err == nil {
				r.ends = ends
			}
			looked = now
		}
		lag := r.behind()
		r.setLag(lag)
		if run.Await(ctx, r.urge, r.pace.rest(took, lag, time.Now())) != nil {
			return nil
		}
	}
}

// project writes what one poll brought.
func (r *term) project(ctx context.Context, fetches kgo.Fetches) error {
	fetches.EachError(func(topic string, partition int32, err error) {
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		r.log.Warn("history: read", zap.String("topic", topic), zap.Int32("partition", partition), zap.Error(err))
	})
	b := newBatch()
	var failed error
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		at := kafka.TopicPartition{Topic: f.Topic, Partition: f.Partition}
		if f.HighWatermark > 0 {
			r.ends[at] = max(f.HighWatermark, r.ends[at])
		}
		if next := r.next[at]; len(f.Records) > 0 && f.LogStartOffset > next && f.Records[0].Offset >= f.LogStartOffset {
			r.reportLoss(ctx, at, next, f.LogStartOffset)
		}
		for _, record := range f.Records {
			if failed == nil {
				failed = r.fold(ctx, b, record)
			}
		}
		if len(f.Records) > 0 {
			r.metrics.records.Add(ctx, int64(len(f.Records)), ofTopic(f.Topic))
		}
	})
	if failed != nil {
		return failed
	}
	if b.records == 0 {
		return r.store.check(ctx, r.as)
	}
	if b.useless > 0 {
		r.metrics.useless.Add(ctx, int64(b.useless))
	}
	for tries := 1; ; tries++ {
		added, err := r.store.apply(ctx, r.as, b)
		if err == nil {
			r.keeper.added(added)
			break
		}
		if errors.Is(err, errNotWriter) || ctx.Err() != nil {
			return err
		}
		r.log.Warn("history: write, trying again", zap.Error(err))
		if err := run.Again(ctx, tries); err != nil {
			return err
		}
	}
	r.metrics.batches.Add(ctx, 1)
	for at, offset := range b.next {
		r.next[at] = offset
	}
	return nil
}

// fold adds a record, waiting for a registry that is away.
func (r *term) fold(ctx context.Context, b *batch, record *kgo.Record) error {
	for tries := 1; ; tries++ {
		err := b.fold(ctx, r.cfg.Codec, record)
		if err == nil {
			return nil
		}
		b.records--
		if tries == 1 {
			r.log.Warn("history: waiting for the schema registry", zap.Error(err))
		}
		if err := run.Again(ctx, tries); err != nil {
			return err
		}
	}
}

// behind is how many records wait.
func (r *term) behind() int64 {
	var lag int64
	for at, end := range r.ends {
		lag += max(0, end-r.next[at])
	}
	return lag
}

// CaughtUp waits until everything that is on the topics now is in the history, whichever process writes it.
func (p *Projection) CaughtUp(ctx context.Context) error {
	_, ends, err := p.bounds(ctx)
	if err != nil {
		return fmt.Errorf("wait for the history: %w", err)
	}
	for {
		select {
		case p.urge <- struct{}{}:
		default:
		}
		next, err := p.store.progress(ctx)
		if err != nil {
			return fmt.Errorf("wait for the history: %w", err)
		}
		for at, end := range ends {
			if next[at] >= end {
				delete(ends, at)
			}
		}
		if len(ends) == 0 {
			return nil
		}
		if err := run.Sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("wait for the history, %d partitions are not read to their end: %w", len(ends), err)
		}
	}
}

// pace bounds how much of a processor is taken. The share grows while the lag does, and goes back when it no longer does:
// the history must not cost the pipeline much, and must not fall behind for ever either.
type pace struct {
	least, share float64
	lag          int64
	looked       time.Time
}

const (
	// paceEvery is how long the lag must have grown or shrunk for the share to change.
	paceEvery = time.Minute
	// paceStep is by how much it changes.
	paceStep = 1.5
	// tolerable is a lag that is worked off in the pauses of the traffic.
	tolerable = 100_000
)

// rest is how long to do nothing after work that took a while.
func (p *pace) rest(worked time.Duration, lag int64, now time.Time) time.Duration {
	switch {
	case p.looked.IsZero():
		p.looked, p.lag = now, lag
	case now.Sub(p.looked) >= paceEvery:
		if lag > p.lag && lag > tolerable {
			p.share = min(1, p.share*paceStep)
		} else {
			p.share = max(p.least, p.share/paceStep)
		}
		p.looked, p.lag = now, lag
	}
	return time.Duration(float64(worked) * (1/p.share - 1))
}
