package filter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// Deps are what the filter is given.
type Deps struct {
	*telemetry.Telemetry
	Codec *event.Codec
}

// Service is the filter. New, then Run.
type Service struct {
	cfg      Config
	log      *zap.Logger
	codec    codec
	prepare  func(ctx context.Context, subjects ...string) error
	tracer   trace.Tracer // nil when nobody collects spans
	metrics  *metrics
	book     *subscription.Book
	feed     *kafka.Feed
	producer *kafka.Producer
	outbox   *outbox
	decider  *decider
	recaller *recaller
	loop     *kafka.Loop
	reader   *kafka.Reader // of events that replays name
	replays  *kafka.Loop
	replayer *replayer
	prepared chan struct{}   // closed when events can be handled
	working  context.Context // of Run; for apply, which the feed calls without one

	state atomic.Pointer[error] // what Run waits for before the loop runs; nil in it when nothing

	mu         sync.Mutex
	partitions map[kafka.TopicPartition]*partition
}

// New makes a filter; it connects to nothing before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	s := &Service{
		cfg: cfg, log: deps.Log.Named("filter"), codec: deps.Codec, prepare: deps.Codec.Prepare,
		book: subscription.NewBook(), prepared: make(chan struct{}), partitions: make(map[kafka.TopicPartition]*partition),
	}
	s.waitFor(errors.New("not started"))
	if deps.Recording() {
		s.tracer = deps.Tracer.Tracer("callstream/filter")
	}
	s.book.OnFault(func(c *subscription.Compiled) {
		s.log.Error("a subscription cannot be read, so no event is matched with it", zap.String("subscription", c.ID),
			zap.String("tenant", c.Tenant), zap.Int64("version", c.Version), zap.Error(c.Fault))
	})
	var err error
	if s.metrics, err = newMetrics(deps.Meter, topic.Events(), s.book.Len); err != nil {
		return nil, err
	}
	if s.feed, err = kafka.NewFeed(kafka.FeedConfig{Config: cfg.Kafka, Log: s.log, Meter: deps.Meter, Reader: "filter", Topic: topic.Subscriptions, Apply: s.apply}); err != nil {
		return nil, err
	}
	sizes := make(map[string]int)
	for _, t := range topic.All(topic.Policy{}) {
		sizes[t.Name] = t.MaxBytes
	}
	s.producer, err = kafka.NewProducer(cfg.Kafka, s.log,
		kafka.ManualPartitions(isLane),
		kafka.TopicBatchBytes(func(name string) int {
			if size, ok := sizes[name]; ok {
				return size
			}
			return sizes[topic.Lane(topic.DefaultLane)]
		}))
	if err != nil {
		return nil, err
	}
	s.outbox = &outbox{log: s.log, metrics: s.metrics, write: s.producer.Produce, fit: s.fit}
	adm := kadm.NewClient(s.producer.Client())
	s.decider = &decider{
		log: s.log, codec: s.codec, book: s.book, metrics: s.metrics, now: time.Now,
		lanes: &lanes{log: s.log, list: listLanes(adm), now: time.Now},
	}
	s.recaller = &recaller{
		config: cfg.Kafka, log: s.log, codec: s.codec, remember: cfg.RememberEvents, reach: cfg.RecallEvents, ahead: cfg.Window,
		slots: make(chan struct{}, 4), now: time.Now,
	}
	s.loop, err = kafka.NewLoop(kafka.LoopConfig{
		Config: cfg.Kafka, Log: s.log, Meter: deps.Meter, Group: Group, Topics: topic.Events(), ReadCommitted: true,
		Window:   kafka.WindowConfig{Offsets: cfg.Window},
		Assigned: func(ctx context.Context, a kafka.Assignment) error { return s.assigned(ctx, adm, a) },
		Lost:     s.lost,
		Handle:   s.handle,
	})
	if err != nil {
		return nil, err
	}
	if s.reader, err = kafka.NewReader(cfg.Kafka, s.log); err != nil {
		return nil, err
	}
	s.replayer = newReplayer(s.decider, s.outbox, s.reader, s.feed.CatchUp, cfg.ReplayRate)
	s.replays, err = kafka.NewLoop(kafka.LoopConfig{
		Config: cfg.Kafka, Log: s.log, Meter: deps.Meter, Group: ReplayGroup, Topics: []string{topic.Replays}, ReadCommitted: true,
		Window:     kafka.WindowConfig{Bytes: math.MaxInt64 / 2}, // of commands that wait, no bytes are kept
		StuckAfter: slowReplay,
		Handle:     s.replayer.handle,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// slowReplay is longer than a command of thousands of events takes, which is one record.
const slowReplay = time.Hour

// Run works until ctx ends, drains, and returns when everything it started has ended.
func (s *Service) Run(ctx context.Context) error {
	defer s.producer.Close()
	defer s.reader.Close()
	group, ctx := run.NewGroup(ctx)
	s.working = ctx
	group.Go("feed", s.feed.Run)
	group.Go("events", s.consume)
	group.Go("replays", s.replay)
	err := group.Wait()
	s.outbox.retries.Wait() // every partition is gone, so these end
	return err
}

// consume waits for what every event needs, and then handles events until ctx ends.
func (s *Service) consume(ctx context.Context) error {
	if s.patiently(ctx, "prepare the schemas", func() error { return s.prepare(ctx, s.subjects()...) }) != nil ||
		s.patiently(ctx, "look for the delivery topics", func() error { return s.decider.lanes.load(ctx) }) != nil {
		return nil
	}
	s.waitFor(nil)
	// An event that is handled before its subscription is known would never be sent.
	select {
	case <-s.feed.Ready():
	case <-ctx.Done():
		return nil
	}
	close(s.prepared)
	return s.loop.Run(ctx)
}

// replay does what replays ask for until ctx ends.
func (s *Service) replay(ctx context.Context) error {
	select {
	case <-s.prepared:
		defer s.replayer.workers.Wait() // every command is done or abandoned, so these end
		return s.replays.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// subjects are those of all topics that the filter reads and writes: once their ids are known, a registry that goes away
// stops nothing but records of writers with another version.
func (s *Service) subjects() []string {
	subjects := []string{
		topic.Subject(topic.Lane(topic.DefaultLane)), topic.Subject(topic.Decisions), topic.Subject(topic.DeadLetters), topic.Subject(topic.Subscriptions),
		topic.Subject(topic.Replays),
	}
	for _, name := range topic.Events() {
		subjects = append(subjects, topic.Subject(name))
	}
	return subjects
}

// Ready is nil when the filter is able to work; else it says what it waits for.
func (s *Service) Ready() error {
	if err := *s.state.Load(); err != nil {
		return err
	}
	if err := s.feed.Err(); err != nil {
		return err
	}
	return cmp.Or(s.producer.Err(), s.loop.Ready())
}

// WaitApplied waits until the feed callstream.subscriptions is in force here up to, and without, offset: the one after a
// record waits for that record, as with the dispatcher and the producer.
func (s *Service) WaitApplied(ctx context.Context, offset int64) error {
	return s.feed.WaitFor(ctx, offset)
}

func (s *Service) waitFor(err error) { s.state.Store(&err) }

// patiently does something until it succeeds, and returns an error only when ctx ended.
func (s *Service) patiently(ctx context.Context, what string, do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.waitFor(fmt.Errorf("%s: %w", what, err))
		if try%10 == 3 {
			s.log.Warn("waiting", zap.String("to", what), zap.Error(err))
		}
		if run.Again(ctx, try+1) != nil {
			return ctx.Err()
		}
	}
}

// apply takes one record of the feed of subscriptions.
func (s *Service) apply(r *kgo.Record) {
	if len(r.Value) == 0 {
		return // the tombstone of a subscription whose deletion was read before
	}
	record := &event.SubscriptionRecord{}
	for try := 0; ; try++ {
		err := s.codec.Decode(s.working, r.Value, record)
		if err == nil {
			break
		}
		if errors.Is(err, event.ErrPoison) {
			s.log.Error("a record of the subscriptions' feed cannot be read", zap.Int64("offset", r.Offset), zap.Error(err))
			return
		}
		s.log.Warn("waiting to read a subscription", zap.Int64("offset", r.Offset), zap.Error(err))
		if run.Again(s.working, try+1) != nil {
			return
		}
	}
	s.book.Apply(record)
}

// assigned prepares a partition: its memory of recent events has to stand before its first record.
func (s *Service) assigned(ctx context.Context, adm *kadm.Client, a kafka.Assignment) error {
	memory, err := s.recaller.recall(ctx, adm, a.TopicPartition, a.Committed)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partitions[a.TopicPartition] = &partition{TopicPartition: a.TopicPartition, repeats: memory}
	return nil
}

func (s *Service) lost(tp kafka.TopicPartition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.partitions, tp)
}

func (s *Service) partition(r *kgo.Record) *partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.partitions[kafka.TopicPartition{Topic: r.Topic, Partition: r.Partition}]
}

// handle takes one event record. It returns when everything that follows from it is with the Kafka client, in order, or
// when ctx has ended; then the record is abandoned and its next owner takes it.
func (s *Service) handle(ctx context.Context, t *kafka.Task) {
	r := t.Record
	part := s.partition(r)
	if part == nil || part.settle(ctx) != nil {
		t.Abandon()
		return
	}
	started := time.Now()
	w := &work{task: t, record: r, part: part}
	w.pending.Store(1)
	out := &emission{flush: func(b *batch) *batch {
		s.outbox.send(w, b)
		return s.outbox.batch(flushBytes)
	}}
	var span trace.Span
	if s.tracer != nil {
		span = s.span(ctx, r, out)
		w.done = func() { span.End() }
	}
	for try := 0; ; try++ {
		out.batch, out.scratch = s.outbox.batch(roomFor(r)), part.scratch.again()
		id, err := s.decider.decide(ctx, r, part.repeats, out)
		if err == nil {
			s.wide(r, id, out)
			break
		}
		// The registry is away. Bytes are never given up for that: the partition waits.
		s.outbox.free(out.batch)
		if ctx.Err() == nil {
			s.log.Warn("an event has to wait", zap.String("topic", r.Topic), zap.Int32("partition", r.Partition),
				zap.Int64("offset", r.Offset), zap.Error(err))
		}
		if run.Again(ctx, try+1) != nil {
			if span != nil {
				span.End()
			}
			t.Abandon()
			return
		}
	}
	if span != nil {
		span.SetAttributes(attribute.Int("callstream.records", len(out.records)))
	}
	s.outbox.send(w, out.batch)
	s.metrics.event(r.Topic, time.Since(started))
	w.release()
}

// roomFor is about what one delivery and the decision about a record take.
func roomFor(r *kgo.Record) int { return len(r.Value)*3/2 + 1024 }

// span starts the span of an event that is sampled, in the trace that its record carries.
func (s *Service) span(ctx context.Context, r *kgo.Record, out *emission) trace.Span {
	ctx, span := s.tracer.Start(telemetry.Extract(ctx, kafka.Header(r, kafka.HeaderTraceparent)), "filter "+kafka.Header(r, kafka.HeaderType),
		trace.WithSpanKind(trace.SpanKindConsumer))
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("messaging.destination.name", r.Topic), attribute.Int("messaging.destination.partition.id", int(r.Partition)),
			attribute.Int64("messaging.kafka.offset", r.Offset), attribute.String("callstream.event_id", kafka.Header(r, kafka.HeaderID)),
			attribute.String("callstream.tenant", kafka.Header(r, kafka.HeaderTenant)))
		out.traceparent = telemetry.Inject(ctx)
	}
	return span
}

// wide writes one log line with all that is known of an event, where debug logs are on.
func (s *Service) wide(r *kgo.Record, id identity, out *emission) {
	if line := s.log.Check(zap.DebugLevel, "event filtered"); line != nil {
		line.Write(zap.String("topic", r.Topic), zap.Int32("partition", r.Partition), zap.Int64("offset", r.Offset),
			zap.String("tenant", id.Tenant), zap.String("source", id.Source), zap.String("event", id.ID), zap.String("type", id.Type),
			zap.Bool("id made", id.made), zap.Int("records", len(out.records)), zap.Duration("age", time.Since(r.Timestamp)))
	}
}

// fit makes a record that its topic refuses as too large into one that fits: a delivery becomes its dead letter, a dead
// letter loses the original's bytes, which the source offset stands for.
func (s *Service) fit(r *kgo.Record, w *work, refused error) *kgo.Record {
	source := w.record
	reason, detail := subscription.ReasonTooLarge, fmt.Sprintf("the record for %s is %d bytes, more than the topic takes", r.Topic, len(r.Value))
	if !errors.Is(refused, kafka.ErrTooLarge) {
		reason, detail = deadRefused, fmt.Sprintf("the topic %s refuses the record: %s", r.Topic, refused)
	}
	letter := s.decider.letter(source, reason, detail)
	letter.OriginalValue = nil
	letter.Tenant, letter.EventID = kafka.Header(r, kafka.HeaderTenant), kafka.Header(r, kafka.HeaderID)
	letter.EventType, letter.Source = kafka.Header(r, kafka.HeaderType), kafka.Header(r, kafka.HeaderSource)
	letter.SubscriptionID, letter.DeliveryID = kafka.Header(r, kafka.HeaderSubscription), kafka.Header(r, kafka.HeaderDelivery)
	letter.SubscriptionVersion, _ = kafka.HeaderInt(r, kafka.HeaderSubscriptionVersion)
	letter.Traceparent, letter.ErrorClass = kafka.Header(r, kafka.HeaderTraceparent), reason
	if r.Topic == topic.DeadLetters {
		if len(r.Value) < smallLetter {
			s.log.Error("not even the shortest dead letter fits, so the event is only here", zap.String("topic", source.Topic),
				zap.Int32("partition", source.Partition), zap.Int64("offset", source.Offset))
			return nil
		}
		if reason := kafka.Header(r, headerReason); reason != "" {
			letter.Reason = reason
		}
		// What is left after this is a few hundred bytes.
		letter.OriginalKey, letter.OriginalHeaders = nil, nil
	}
	value, err := s.codec.Encode(w.task.Context(), nil, letter)
	if err != nil {
		return r // tried again, and here again
	}
	s.metrics.deadLetter(letter.Reason)
	return &kgo.Record{Topic: topic.DeadLetters, Key: r.Key, Value: value, Headers: letterHeaders(letter)}
}

// smallLetter is more than a dead letter without the original takes.
const smallLetter = 8 << 10
