package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Deps are what a dispatcher is given.
type Deps struct {
	*telemetry.Telemetry
	// Codec reads and writes the values of records.
	Codec *event.Codec
	// Box opens the secrets of subscriptions.
	Box *secret.Box
	// Version goes into the user agent.
	Version string
	// Name tells dispatchers apart in attempt records; the host's name and the process id where empty.
	Name string
}

// Service is a dispatcher.
type Service struct {
	cfg       Config
	log       *zap.Logger
	failures  *zap.Logger // samples
	tracer    trace.Tracer
	recording bool
	codec     *event.Codec
	box       *secret.Box
	name      string

	tiers      tiers
	sources    map[string]source // not changed any more when the loop runs
	book       *subscription.Book
	gone       gone
	health     *health
	catching   sync.Mutex
	feed       *kafka.Feed
	signals    *kafka.Feed
	sender     *outbound.Sender
	producer   *kafka.Producer
	meter      metric.MeterProvider
	loop       atomic.Pointer[kafka.Loop] // from Run on
	scheduler  *scheduler
	outage     *outage
	owned      ownedPartitions
	redriven   *redriven
	copies     *copies
	sequencers *sequencers
	metrics    *metrics
	writes     sync.Pool // of *write

	running context.Context // of Run, for the feeds' functions, which get none
	mu      sync.Mutex
	started bool
}

// New makes a dispatcher. Nothing is connected before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	cfg.setDefaults()
	if deps.Codec == nil || deps.Box == nil || deps.Telemetry == nil {
		return nil, errors.New("a dispatcher needs telemetry, a codec and a box")
	}
	policy := topic.Policy{Lanes: cfg.Lanes, RetryDelays: cfg.RetrySchedule}
	s := &Service{
		cfg: cfg, log: deps.Log, tracer: deps.Tracer.Tracer("github.com/callstream/callstream/services/dispatcher"),
		recording: deps.Recording(), codec: deps.Codec, box: deps.Box, name: deps.Name,
		tiers: newTiers(policy.Tiers()), book: subscription.NewBook(), health: newHealth(cfg.DisableAfter), outage: newOutage(time.Now()),
		redriven: newRedriven(), copies: newCopies(), running: context.Background(),
	}
	if s.name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "dispatcher"
		}
		s.name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	s.failures = s.log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 20, 200)
	}))
	s.book.OnFault(func(c *subscription.Compiled) {
		s.log.Error("a subscription can't be read", zap.String("tenant", c.Tenant), zap.String("subscription", c.ID), zap.Error(c.Fault))
	})
	s.sources = sources(cfg.Lanes, s.tiers)

	var err error
	if s.sender, err = outbound.New(outbound.Options{
		Egress:  egress.Options{Config: cfg.Egress, MaxIdlePerHost: cfg.IdlePerHost, MaxIdle: max(cfg.InFlight, cfg.IdlePerHost)},
		Version: deps.Version,
	}); err != nil {
		return nil, err
	}
	if most := s.sender.MaxConnections(); cfg.InFlight > most {
		// They would wait for connections in their own time, and end as timeouts that no endpoint caused.
		s.log.Warn("fewer requests in flight than configured: no more connections may be open", zap.Int("in_flight", most))
		cfg.InFlight = most
	}
	s.sequencers = newSequencers(s, cfg)
	// A quarter of the window may wait for one subscription, so that one which is slow leaves room for the others. Records
	// that wait take memory, which the offsets of a wide window don't: hence the bound.
	s.scheduler = newScheduler(schedulerConfig{
		workers: cfg.InFlight, share: min(max(cfg.WindowOffsets/4, 1), mostShare), shareBytes: cfg.WindowBytes / 4,
		newWork: s.newWorker, since: s.owned.sinceWhen, changed: s.changed,
	})
	if s.metrics, err = newMetrics(deps.Meter, s.scheduler.load, s.sequencers.holds); err != nil {
		return nil, err
	}
	if s.feed, err = kafka.NewFeed(kafka.FeedConfig{
		Config: cfg.Config, Log: s.log, Meter: deps.Meter, Reader: "dispatcher", Topic: topic.Subscriptions, Apply: s.applySubscription,
	}); err != nil {
		return nil, fmt.Errorf("make the subscriptions' feed: %w", err)
	}
	if s.signals, err = kafka.NewFeed(kafka.FeedConfig{
		Config: cfg.Config, Log: s.log, Meter: deps.Meter, Reader: "dispatcher", Topic: topic.Signals, Apply: s.applySignal,
	}); err != nil {
		return nil, fmt.Errorf("make the signals' feed: %w", err)
	}
	largest := map[string]int{}
	for _, t := range topic.All(policy) {
		largest[t.Name] = t.MaxBytes
	}
	if s.producer, err = kafka.NewProducer(cfg.Config, s.log,
		kafka.ManualPartitions(func(name string) bool { return name != topic.OwnEvents && name != topic.Responses }),
		kafka.TopicBatchBytes(func(name string) int { return largest[name] }),
	); err != nil {
		return nil, err
	}
	s.meter = deps.Meter
	return s, nil
}

// stuckAfter is longer than a delivery may be in hand: a minute in a batch that fills, 30 s on its way, and the rest for
// brokers that are slow to acknowledge.
const stuckAfter = 3 * time.Minute

// newLoop makes the loop over the delivery topics: those of the configuration, and any other that exists. A retry tier or
// a lane that was taken out of the configuration may still hold deliveries, and the filter writes to every lane that
// exists: what no dispatcher reads, retention would take without a word.
func (s *Service) newLoop(ctx context.Context) (*kafka.Loop, error) {
	for tries := 1; ; tries++ {
		topics, err := kadm.NewClient(s.producer.Client()).ListTopics(ctx)
		if err == nil {
			for _, name := range topics.Names() {
				if _, known := s.sources[name]; known {
					continue
				}
				if from, ok := sourceOf(name); ok {
					s.sources[name] = from
					s.log.Info("a delivery topic that is not in the configuration is read as well", zap.String("topic", name))
				}
			}
			break
		}
		if tries == 1 {
			s.log.Warn("could not list the topics, trying again", zap.Error(err))
		}
		if err := run.Again(ctx, tries); err != nil {
			return nil, err
		}
	}
	names := make([]string, 0, len(s.sources))
	for name := range s.sources {
		names = append(names, name)
	}
	loop, err := kafka.NewLoop(kafka.LoopConfig{
		Config: s.cfg.Config, Log: s.log, Meter: s.meter, Group: Group, Topics: names,
		Balancer: kafka.ColocatingBalancer(),
		// So that a flood of retries never holds up a first attempt.
		Apart:       func(name string) bool { return s.sources[name].kind != fromLane },
		Window:      kafka.WindowConfig{Offsets: s.cfg.WindowOffsets, Bytes: s.cfg.WindowBytes},
		CommitEvery: s.cfg.CommitInterval, DrainTimeout: s.cfg.DrainTimeout, RevokeTimeout: s.cfg.RevokeTimeout,
		StuckAfter: stuckAfter,
		Assigned:   s.assigned, Lost: s.lost, LostRecords: s.sequencers.gone, Handle: s.handle,
	})
	if err != nil {
		return nil, fmt.Errorf("make the dispatcher's loop: %w", err)
	}
	s.loop.Store(loop)
	return loop, nil
}

// Run sends deliveries until ctx ends; then it finishes what is in flight, commits and returns nil. It starts with the
// subscriptions read to the end of their feed, and needs no other service.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.started {
		s.mu.Unlock()
		return errors.New("a dispatcher runs once")
	}
	s.started = true
	// The feeds serve until the last delivery is out, so they outlive ctx.
	feeding, stopFeeds := context.WithCancel(context.WithoutCancel(ctx))
	s.running = feeding
	s.mu.Unlock()
	defer stopFeeds()
	loopCtx, stopLoop := context.WithCancelCause(ctx)
	defer stopLoop(nil)

	var feeds sync.WaitGroup
	for name, feed := range map[string]*kafka.Feed{"subscriptions": s.feed, "signals": s.signals} {
		feeds.Go(func() {
			if err := feed.Run(feeding); err != nil {
				stopLoop(fmt.Errorf("feed of %s: %w", name, err))
			}
		})
	}
	var err error
	if ready(loopCtx, s.feed, s.signals) {
		sweeping := make(chan struct{})
		var sweeper sync.WaitGroup
		sweeper.Go(func() { s.sweep(sweeping) })
		var loop *kafka.Loop
		if loop, err = s.newLoop(loopCtx); err == nil {
			sweeper.Go(func() { s.watchHeads(loop, sweeping) })
			err = loop.Run(loopCtx)
		} else if loopCtx.Err() != nil {
			err = nil
		}
		s.sequencers.close()
		s.scheduler.stop()
		close(sweeping)
		sweeper.Wait()
	}
	// What is still to be acknowledged belongs to partitions that are given up: the drain has waited for the rest.
	flushing, cancel := context.WithTimeout(feeding, time.Second)
	flushErr := s.producer.Flush(flushing)
	cancel()
	if flushErr != nil {
		s.log.Warn("not everything could be written before the end; it will be sent again", zap.Error(flushErr))
	}
	s.producer.Close()
	stopFeeds()
	feeds.Wait()
	s.sender.Close()
	if err == nil && ctx.Err() == nil {
		err = context.Cause(loopCtx)
	}
	if err != nil {
		return fmt.Errorf("dispatcher: %w", err)
	}
	return nil
}

// ready waits for feeds to be read to their ends; false when ctx ends first.
func ready(ctx context.Context, feeds ...*kafka.Feed) bool {
	for _, feed := range feeds {
		select {
		case <-feed.Ready():
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (s *Service) sweep(stop <-chan struct{}) {
	every := time.NewTicker(time.Minute)
	defer every.Stop()
	for {
		select {
		case now := <-every.C:
			s.scheduler.sweep(now.Add(-10 * time.Minute))
		case <-stop:
			return
		}
	}
}

// Ready is nil when the dispatcher is able to work; else it says what it waits for.
func (s *Service) Ready() error {
	for _, feed := range []*kafka.Feed{s.feed, s.signals} {
		if err := feed.Err(); err != nil {
			return err
		}
	}
	if loop := s.loop.Load(); loop != nil {
		return cmp.Or(s.producer.Err(), loop.Ready())
	}
	return errors.New("the delivery topics are not listed yet")
}

// WaitApplied waits until the subscriptions' feed is applied up to, and without, offset.
func (s *Service) WaitApplied(ctx context.Context, offset int64) error {
	return s.feed.WaitFor(ctx, offset)
}

// handle takes one record of a partition: it waits until it is due, and queues it with its subscription.
func (s *Service) handle(ctx context.Context, t *kafka.Task) {
	j := &job{delivery: readDelivery(t.Record, s.sources[t.Record.Topic])}
	j.task = t
	defer func() {
		if cause := recover(); cause != nil {
			s.broken(&j.delivery, cause)
		}
	}()
	if j.from.kind == fromTier {
		now := time.Now()
		if at := leaves(j.enqueued, j.due, j.from.tier); at.After(now) {
			if at.Sub(now) > j.from.tier+clockSkew {
				s.hop(&j.delivery, now) // waiting for it would hold up what is behind it
			} else {
				t.Defer(at)
			}
			return
		}
		if remaining := j.due.Sub(now); remaining > 0 {
			if remaining <= nearlyDue {
				t.Defer(j.due)
			} else {
				s.hop(&j.delivery, now)
			}
			return
		}
	}
	if j.from.kind == fromOrdered {
		if at, stays := s.sequencers.stays(&j.delivery, time.Now()); stays {
			t.Defer(at)
			return
		}
	}
	j.shard = s.shardOf(j)
	j.late, j.size = j.from.kind != fromLane, int64(len(t.Record.Value)+len(t.Record.Key))
	if j.call != "" {
		s.sequencers.of(t.Record.Partition).take(ctx, j)
		return
	}
	switch why := s.scheduler.submit(ctx, j, patience(j.from.kind)); why {
	case admitted:
	case closing:
		t.Abandon()
	default:
		s.divert(j, why, j.until)
	}
}

// shardOf returns the shard that a delivery goes through, with the limits of its subscription, and says what it may be
// sent together with.
func (s *Service) shardOf(j *job) *shard {
	allowed := limits{inFlight: subscription.DefaultMaxInFlight}
	if c, ok := s.book.Get(j.subscription); ok && c.Subscription != nil {
		allowed = limitsOf(c.Subscription)
		j.with, j.joins = togetherOf(&j.delivery, c.Subscription)
	}
	return s.scheduler.shardOf(j.key(), allowed)
}

// assigned takes a topic's partition. What waits of it when it is given up goes back at once: it would only wait for the
// end of what its endpoints have in flight, or for a rate limit.
func (s *Service) assigned(ctx context.Context, a kafka.Assignment) error {
	s.owned.assigned(ctx, a.TopicPartition, func() {
		s.sequencers.stop(a.TopicPartition)
		s.scheduler.abandon(a.Partition)
	})
	if a.Topic != topic.Ordered {
		return nil
	}
	return s.sequencers.begin(ctx, a)
}

// lost forgets what was known of a partition number when the last of its topics is gone.
func (s *Service) lost(tp kafka.TopicPartition) {
	last := s.owned.lost(tp)
	s.sequencers.lost(tp, last)
	if last {
		s.scheduler.release(tp.Partition)
		s.health.forget()
	}
}

// patience is how long a record may hold up those behind it in its partition until its subscription has room. In a lane
// that happens only for an endpoint that keeps up; the slow topic is where waiting belongs.
func patience(k kind) time.Duration {
	switch k {
	case fromLane, fromOrdered:
		return 500 * time.Millisecond
	case fromSlow:
		return time.Second
	}
	return 100 * time.Millisecond
}

// applySubscription takes one record of the subscriptions' feed.
func (s *Service) applySubscription(r *kgo.Record) {
	var record event.SubscriptionRecord
	if len(r.Value) == 0 || !s.decodeFeed(r, &record) {
		return // a tombstone: the deletion before it was applied
	}
	before, _ := s.book.Get(record.ID)
	if !s.book.Apply(&record) {
		return
	}
	var allowed *limits
	if c, ok := s.book.Get(record.ID); ok {
		s.gone.drop(c)
		s.health.changes(before, c)
		if c.Subscription != nil {
			newest := limitsOf(c.Subscription)
			allowed = &newest
		}
	}
	s.scheduler.adopt(record.ID, allowed)
}

// applySignal takes one record of the signals' topic: what this or another dispatcher found. What the console has dealt with
// stands in the subscription.
func (s *Service) applySignal(r *kgo.Record) {
	var signal event.Signal
	if len(r.Value) == 0 || !s.decodeFeed(r, &signal) {
		return
	}
	c, known := s.book.Get(signal.SubscriptionID)
	switch signal.Kind {
	case signalDisable:
		if !known || (asOf{signal.SubscriptionVersion, signal.At}).covers(c) {
			s.gone.add(signal.SubscriptionID, signal.SubscriptionVersion, signal.At, true)
		}
	case signalFailing, signalRecover:
		if !known || (asOf{signal.SubscriptionVersion, r.Timestamp}).covers(c) || c.Subscription != nil && !c.Subscription.FailingSince.IsZero() {
			s.health.reads(&signal, r.Timestamp)
		}
	}
}

// decodeFeed reads a feed's record. One that doesn't decode is passed over: it can't come from the console.
func (s *Service) decodeFeed(r *kgo.Record, into event.Record) bool {
	s.mu.Lock()
	ctx := s.running
	s.mu.Unlock()
	for tries := 1; ; tries++ {
		err := s.codec.Decode(ctx, r.Value, into)
		switch {
		case err == nil:
			return true
		case errors.Is(err, event.ErrPoison):
			s.log.Error("a record of a feed doesn't decode and is passed over", zap.String("record", place(r)), zap.Error(err))
			return false
		}
		s.log.Warn("waiting for the schema registry", zap.Error(err))
		if run.Again(ctx, tries) != nil {
			return false
		}
	}
}
