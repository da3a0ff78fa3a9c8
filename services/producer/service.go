package producer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// Deps is what a Service needs of the process.
type Deps struct {
	*telemetry.Telemetry
	// Codec writes the event records and reads the keys' feed.
	Codec *event.Codec
	// Now is the clock, time.Now when nil.
	Now func() time.Time

	// client is added to the Kafka client's options: tests connect it to a network of their own.
	client []kgo.Opt
}

// Service is the producer.
type Service struct {
	cfg       Config
	log       *zap.Logger
	failures  *zap.Logger // for what may be wrong with every request: a few lines a second
	now       func() time.Time
	codec     *event.Codec
	producer  *kafka.Producer
	feed      *kafka.Feed // nil when authentication is off
	keys      *keys
	guard     auth.Guard
	tracer    trace.Tracer
	recording bool
	metrics   *metrics
	budget    budget

	batches    sync.Pool // of *batch
	buffers    buffers
	inflaters  sync.Pool // of *gzip.Reader
	jsonHeader []string

	// background is the context of produce calls; it ends when the service does.
	background context.Context
	cancel     context.CancelFunc

	entry  sync.RWMutex // guards closed together with the counting up of active
	closed bool
	active sync.WaitGroup // requests that were read and not answered yet

	prepared atomic.Bool           // the codec knows the schemas' ids
	kafka    atomic.Pointer[error] // what is wrong with Kafka as last seen; nil before the first look

	outstanding  atomic.Int64 // records without an answer
	lastProgress atomic.Int64 // Unix nanoseconds of the last acknowledgement, or of the first record after none
}

// New makes a producer. It connects to nothing before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	if deps.Codec == nil {
		return nil, errors.New("producer: Deps.Codec is missing")
	}
	s := &Service{
		cfg: cfg, log: deps.Log, now: deps.Now, codec: deps.Codec, keys: newKeys(),
		tracer: deps.Tracer.Tracer("callstream/producer"), recording: deps.Recording(),
		jsonHeader: []string{"application/json"},
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.failures = s.log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 5, 1000)
	}))
	s.background, s.cancel = context.WithCancel(context.Background())
	s.budget.limit = int64(cfg.MaxInFlight)
	s.batches.New = func() any { return s.newBatch() }

	// The budget is what bounds memory. The client's own bounds lie above it, so that Produce never blocks: a request
	// that is alone may be over the budget by what one request can hold.
	records := int(s.budget.limit/recordCost) + cfg.MaxEvents + 1
	bytes := int(s.budget.limit) + 4*maxRequestBytes
	producer, err := kafka.NewProducer(cfg.Kafka, deps.Log, append([]kgo.Opt{
		kgo.MaxBufferedRecords(records), kgo.MaxBufferedBytes(bytes),
		// A record that Kafka never took is given up soon after its caller was: holding it on would only fill the budget.
		kgo.RecordDeliveryTimeout(cfg.AckTimeout + 2*time.Second),
		kafka.TopicBatchBytes(func(string) int { return 2 << 20 }),
	}, deps.client...)...)
	if err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	s.producer = producer
	s.guard = auth.Guard{Off: cfg.Auth == "off", Now: deps.Now, Lookup: func(_ context.Context, hash string) (auth.Key, bool, error) {
		key, ok := s.keys.lookup(hash)
		return key, ok, nil
	}}
	if !s.guard.Off {
		s.feed, err = kafka.NewFeed(kafka.FeedConfig{Config: cfg.Kafka, Log: deps.Log, Meter: deps.Meter, Reader: "producer", Topic: topic.Keys, Apply: s.applyKey})
		if err != nil {
			producer.Close()
			return nil, fmt.Errorf("producer: %w", err)
		}
	}
	s.metrics, err = newMetrics(deps.Meter, s.budget.used.Load)
	if err != nil {
		producer.Close()
		return nil, err
	}
	return s, nil
}

// drainTimeout is how long the requests being handled may take at the end. Each ends by itself within 10 s.
const drainTimeout = 11 * time.Second

// Run keeps the service working until ctx ends; then no request is taken any more, those being handled end, and what is
// buffered is sent.
func (s *Service) Run(ctx context.Context) error {
	var group sync.WaitGroup
	failed := make(chan error, 1)
	work, stop := context.WithCancel(ctx)
	defer stop()
	if s.feed != nil {
		group.Go(func() {
			if err := s.feed.Run(work); err != nil && work.Err() == nil {
				failed <- fmt.Errorf("producer: keys: %w", err)
			}
		})
	}
	group.Go(func() { s.prepare(work) })
	group.Go(func() { s.watch(work) })

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.entry.Lock()
	s.closed = true
	s.entry.Unlock()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	handled := make(chan struct{})
	go func() { s.active.Wait(); close(handled) }()
	select {
	case <-handled:
	case <-drain.Done():
	}
	if ferr := s.producer.Flush(drain); ferr != nil {
		s.log.Warn("records were still buffered at the end; their senders were told so", zap.Error(ferr))
	}
	stop()
	s.cancel() // before the wait: a key that waits for the registry waits under this
	group.Wait()
	s.producer.Close()
	<-handled // closing fails what is left, so no request waits any longer
	return err
}

// enter counts a request in, unless the service has ended.
func (s *Service) enter() bool {
	s.entry.RLock()
	defer s.entry.RUnlock()
	if s.closed {
		return false
	}
	s.active.Add(1)
	return true
}

// Handler serves POST /v1/events, and its description at /openapi.json. Other methods get 405, other paths 404.
func (s *Service) Handler() http.Handler {
	document := openAPIDocument()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/events":
			s.serveEvents(w, r)
		case "/openapi.json":
			w.Header().Set("Content-Type", "application/openapi+json")
			w.Write(document)
		default:
			problem.Write(w, problem.New(http.StatusNotFound, "there is only POST /v1/events here"))
		}
	})
}

// Ready is nil when requests can be accepted, else it says what the service waits for.
func (s *Service) Ready() error {
	if s.feed != nil {
		if err := s.feed.Err(); err != nil {
			return err
		}
	}
	switch seen := s.kafka.Load(); {
	case seen == nil:
		return errors.New("waiting for Kafka")
	case *seen != nil:
		return *seen
	}
	if !s.prepared.Load() {
		return errors.New("waiting for the schema registry")
	}
	// What a broker refuses for good may be the fault of one event, and of whoever sent it; and one partition that takes nothing is
	// no reason to accept nothing for the others.
	if err := s.producer.Err(); errors.Is(err, kafka.ErrTransient) && s.silent() {
		return err
	}
	return nil
}

// unready refuses requests that can't be handled yet. Once the keys and the schemas were read they stay known.
func (s *Service) unready() *problem.Problem {
	if s.feed != nil {
		select {
		case <-s.feed.Ready():
		default:
			return unavailable("the API keys are not read yet; nothing was accepted")
		}
	}
	if !s.prepared.Load() {
		return unavailable("the schema registry has not answered yet; nothing was accepted")
	}
	return nil
}

// WaitKeysApplied waits until the keys' feed is applied up to offset: the one after a record waits for that record.
// With authentication off there are no keys and nothing to wait for.
func (s *Service) WaitKeysApplied(ctx context.Context, offset int64) error {
	if s.feed == nil {
		return nil
	}
	return s.feed.WaitFor(ctx, offset)
}

// applyKey takes a record of the keys' feed. It is called by one goroutine.
func (s *Service) applyKey(r *kgo.Record) {
	if r.Value == nil {
		s.keys.forget(string(r.Key))
		return
	}
	var rec event.KeyRecord
	for tries := 1; ; tries++ {
		err := s.codec.Decode(s.background, r.Value, &rec)
		if err == nil {
			s.keys.apply(&rec)
			return
		}
		if !errors.Is(err, event.ErrRegistry) {
			s.log.Error("a record of the keys' feed can't be read and is passed over", zap.Int64("offset", r.Offset), zap.Error(err))
			return
		}
		// Passing it over could bring back a key that it revokes: the feed waits.
		if run.Again(s.background, tries) != nil {
			return
		}
	}
}

// prepare registers the schemas of the event topics, trying until the registry answers.
func (s *Service) prepare(ctx context.Context) {
	var subjects []string
	for _, name := range topic.Events() {
		subjects = append(subjects, name+"-value")
	}
	for tries := 1; ; tries++ {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := s.codec.Prepare(attempt, subjects...)
		cancel()
		if err == nil {
			s.prepared.Store(true)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if tries == 1 {
			s.log.Warn("waiting for the schema registry", zap.Error(err))
		}
		if run.Again(ctx, tries) != nil {
			return
		}
	}
}

// watch looks at Kafka now and then, so that Ready can tell of it: every second until all is well, then every five.
func (s *Service) watch(ctx context.Context) {
	admin := kadm.NewClient(s.producer.Client())
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := missing(attempt, admin)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if last := s.kafka.Load(); err != nil && (last == nil || *last == nil) {
			s.log.Warn("Kafka can't be used", zap.Error(err))
		}
		s.kafka.Store(&err)
		pause := 5 * time.Second
		if err != nil {
			pause = 200 * time.Millisecond
		}
		if run.Sleep(ctx, pause) != nil {
			return
		}
	}
}

// missing says what keeps the event topics from being written.
func missing(ctx context.Context, admin *kadm.Client) error {
	topics, err := admin.ListTopics(ctx, topic.Events()...)
	if err != nil {
		return fmt.Errorf("waiting for Kafka: %w", err)
	}
	for _, name := range topic.Events() {
		switch t, ok := topics[name]; {
		case !ok || errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			return fmt.Errorf("the topic %s does not exist: run callstream topics apply", name)
		case t.Err != nil:
			return fmt.Errorf("the topic %s: %w", name, t.Err)
		}
	}
	return nil
}

// began counts records out to Kafka.
func (s *Service) began(n int) {
	if s.outstanding.Add(int64(n)) == int64(n) {
		s.lastProgress.Store(s.now().UnixNano())
	}
}

// stalled reports whether records wait and none was acknowledged for a while: Kafka is away then.
func (s *Service) stalled() bool {
	return s.outstanding.Load() > 0 && s.silent()
}

// silent reports whether nothing was acknowledged for a while, or asked for.
func (s *Service) silent() bool { return s.now().UnixNano()-s.lastProgress.Load() > int64(away) }

func (s *Service) newBatch() *batch {
	b := &batch{timer: time.NewTimer(time.Hour), done: make(chan struct{}, 1)}
	b.timer.Stop()
	b.ack = func(err error) { s.acknowledge(b, err) }
	return b
}

// acknowledge takes Kafka's answer to one record of b.
func (s *Service) acknowledge(b *batch, err error) {
	s.outstanding.Add(-1)
	if err != nil {
		b.failed.CompareAndSwap(nil, &err)
	}
	if b.pending.Add(-1) > 0 {
		return
	}
	if b.failed.Load() == nil {
		s.lastProgress.Store(s.now().UnixNano())
	}
	s.budget.give(&b.held)
	b.done <- struct{}{}
}

func (s *Service) takeBatch() *batch { return s.batches.Get().(*batch) }

// dropBatch gives a batch back that nothing refers to: nothing of it was produced, or all of it acknowledged.
func (s *Service) dropBatch(b *batch) {
	s.budget.give(&b.held)
	for _, buffer := range []*[]byte{&b.body, &b.values} {
		if cap(*buffer) >= pooledBytes { // a rare large request must not keep its memory for ever
			s.buffers.put(*buffer)
			*buffer = nil
		}
	}
	if cap(b.parts) > 1024 {
		return
	}
	clear(b.seen)
	clear(b.parts)
	clear(b.records)
	clear(b.headers)
	clear(b.ids)
	b.body, b.values, b.names = b.body[:0], b.values[:0], b.names[:0]
	b.parts, b.records, b.headers, b.ids = b.parts[:0], b.records[:0], b.headers[:0], b.ids[:0]
	b.refusal = refusal{}
	b.failed.Store(nil)
	s.batches.Put(b)
}
