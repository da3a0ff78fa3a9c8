package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
	"go.uber.org/zap"
)

// Deps are what the console needs from outside.
type Deps struct {
	*telemetry.Telemetry
	// Codec reads and writes the feeds' records.
	Codec *event.Codec
	// Box seals subscriptions' secrets.
	Box *secret.Box
	// InForce waits until everything below an offset of the subscriptions' feed is applied where it matters, in
	// processes that can tell: nil means that a change is in force when it is on the feed.
	InForce func(ctx context.Context, offset int64) error
	// KeysInForce is InForce for the feed of keys.
	KeysInForce func(ctx context.Context, offset int64) error
	// Version goes into the user agent of verification requests; empty means dev.
	Version string
	// ExtraPaths are path items of other handlers in this process, as JSON by path; /openapi.json shows them.
	ExtraPaths map[string][]byte
	// HistoryShare is the part of one processor that the history may take while it keeps up, where the pipeline runs in
	// the same process; 0 means a whole one.
	HistoryShare float64
	// Now is the clock, time.Now when nil.
	Now func() time.Time

	// log is the log behind the feeds; nil means Kafka.
	log feedLog
	// records reads what the history points to, and starts says where topics begin; nil means Kafka.
	records recordReader
	starts  func(ctx context.Context) (map[kafka.TopicPartition]int64, error)
	// retry is the pause after a failure to publish; 0 means a second.
	retry time.Duration
}

// Service is the console.
type Service struct {
	cfg     Config
	deps    Deps
	log     *zap.Logger
	rules   subscription.Rules
	guard   auth.Guard
	sender  *outbound.Sender
	metrics *metrics
	handler http.Handler
	relay   *relay
	tail    *responseTail // nil where the log is not Kafka
	redrive *redriver     // nil without Kafka
	closers []func()

	mu      sync.Mutex
	store   *storage.Store // nil until the database was opened
	history *history.Store // the same
	project *history.Projection
	opened  chan struct{}
	dbErr   error // why it is not open yet
}

// New makes the service. Nothing is connected before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	if deps.Telemetry == nil {
		deps.Telemetry = telemetry.Nop()
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.retry == 0 {
		deps.retry = time.Second
	}
	if deps.Box == nil {
		return nil, errors.New("console: an encryption key is required")
	}
	s := &Service{
		cfg: cfg, deps: deps, log: deps.Log.Named("console"), rules: subscription.Rules{AllowHTTP: cfg.Egress.AllowHTTP, Lanes: cfg.Lanes},
		opened: make(chan struct{}), dbErr: errors.New("the database is not open yet"),
	}
	sender, err := outbound.New(outbound.Options{Egress: egress.Options{Config: cfg.Egress}, Version: deps.Version, Now: deps.Now})
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	s.sender = sender
	s.closers = append(s.closers, sender.Close)
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	s.metrics = m
	log := deps.log
	if log == nil {
		kafkaLog, err := newKafkaLog(cfg.Kafka, s.log)
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		reader, err := kafka.NewReader(cfg.Kafka, s.log)
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		s.closers = append(s.closers, kafkaLog.close, reader.Close)
		log, s.deps.records, s.deps.starts = kafkaLog, reader, kafkaLog.starts
		s.tail = newResponseTail(cfg.Kafka, s.log.Named("responses"), cfg.MaxStreams)
		if s.redrive, err = newRedriver(cfg.Kafka, deps.Codec, reader, s.log, deps.Now); err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		s.closers = append(s.closers, s.redrive.close)
	}
	s.relay = &relay{log: s.log.Named("relay"), feeds: log, codec: deps.Codec, now: deps.Now, metrics: m, wake: make(chan struct{}, 1), retry: deps.retry}
	s.guard = auth.Guard{Off: cfg.Auth == authOff, Lookup: s.lookupKey, Now: deps.Now}
	s.handler = newHandler(s)
	return s, nil
}

// Handler serves the API.
func (s *Service) Handler() http.Handler { return s.handler }

// Run opens the database, waiting for one that does not answer yet, publishes changes and applies signals until ctx
// ends.
func (s *Service) Run(ctx context.Context) error {
	defer func() {
		for _, c := range s.closers {
			c()
		}
	}()
	opened, err := s.open(ctx)
	if err != nil || !opened {
		return err
	}
	defer s.store.Close()
	defer s.history.Close()
	group, _ := run.NewGroup(ctx)
	group.Go("relay", func(ctx context.Context) error { return s.relay.run(ctx, s.store) })
	if s.deps.log == nil {
		defer s.project.Close()
		group.Go("signals", func(ctx context.Context) error { return s.runSignals(ctx) })
		group.Go("history", s.project.Run)
		group.Go("responses", s.tail.run)
		group.Go("redrive", func(ctx context.Context) error { return s.redrive.run(ctx, s.store) })
	}
	return group.Wait()
}

// open opens the databases, waiting for a server that does not answer yet. It returns false when ctx ended first.
func (s *Service) open(ctx context.Context) (bool, error) {
	for {
		err := s.openNow(ctx)
		if err == nil {
			return true, nil
		}
		if ctx.Err() != nil {
			return false, nil
		}
		if s.cfg.DatabaseURL == "" {
			// A file that can't be opened now won't be opened later either.
			return false, fmt.Errorf("console: %w", err)
		}
		s.mu.Lock()
		s.dbErr = fmt.Errorf("waiting for the database: %w", err)
		s.mu.Unlock()
		s.log.Warn("waiting for the database", zap.Error(err))
		if run.Sleep(ctx, time.Second) != nil {
			return false, nil
		}
	}
}

func (s *Service) openNow(ctx context.Context) error {
	cfg := s.cfg.storage(s.deps.Now)
	store, err := storage.Open(ctx, cfg)
	if err != nil {
		return err
	}
	rows, err := history.Open(ctx, cfg)
	if err != nil {
		store.Close()
		return err
	}
	var project *history.Projection
	if s.deps.log == nil {
		project, err = history.NewProjection(history.ProjectionConfig{
			Kafka: s.cfg.Kafka, Codec: s.deps.Codec, Log: s.log, Meter: s.deps.Meter, Now: s.deps.Now,
			Share: s.deps.HistoryShare, Retention: s.cfg.HistoryRetention, MaxDeliveries: s.cfg.HistoryMaxDeliveries,
		}, rows)
		if err != nil {
			rows.Close()
			store.Close()
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store, s.history, s.project, s.dbErr = store, rows, project, nil
	close(s.opened)
	return nil
}

// database returns the open database, or what it waits for.
func (s *Service) database() (*storage.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store, s.dbErr
}

// Ready returns nil when the console can take changes and publish them, else what it waits for.
func (s *Service) Ready() error {
	store, err := s.database()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := store.Ping(ctx); err != nil {
		return err
	}
	return s.relay.ready()
}

func (s *Service) lookupKey(ctx context.Context, hash string) (auth.Key, bool, error) {
	store, err := s.database()
	if err != nil {
		return auth.Key{}, false, err
	}
	key, err := store.KeyByHash(ctx, hash)
	if errors.Is(err, storage.ErrNotFound) {
		return auth.Key{}, false, nil
	}
	if err != nil {
		s.log.Error("API keys can't be checked", zap.Error(err))
		return auth.Key{}, false, err
	}
	return key.Key, true, nil
}

// inForce waits until a change is in force, at most the configured time, and says whether it is. The caller's going away
// does not end the wait's meaning: the change is stored and will be published in any case.
func (s *Service) inForce(ctx context.Context, store *storage.Store, kind storage.Kind, receipt storage.Receipt) bool {
	if receipt == 0 {
		return true
	}
	s.relay.kick()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.InForceTimeout)
	defer cancel()
	offset, err := store.WaitPublished(ctx, receipt)
	if err == nil {
		wait := map[storage.Kind]func(context.Context, int64) error{storage.KindSubscription: s.deps.InForce, storage.KindKey: s.deps.KeysInForce}[kind]
		if wait == nil {
			return true
		}
		err = wait(ctx, offset+1)
	}
	if err != nil {
		s.log.Warn("a change is stored, but not in force yet", zap.String("kind", string(kind)), zap.Error(err))
		return false
	}
	return true
}
