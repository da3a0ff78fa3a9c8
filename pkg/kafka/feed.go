package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/run"
)

// FeedConfig says which feed to read and who takes it.
type FeedConfig struct {
	Config
	Log *zap.Logger
	// Meter exports the applied offset as callstream.feed.applied.offset, so that whoever changed something can see where it
	// is in force; nil exports nothing. Reader tells the feeds of one process apart.
	Meter  metric.MeterProvider
	Reader string
	// Topic has one partition.
	Topic string
	// Apply is called for each record in order, by one goroutine. The record is its to keep.
	Apply func(*kgo.Record)
}

// Feed reads a one-partition topic from its start and goes on reading: every process that holds the feed's state reads
// it for itself.
type Feed struct {
	cfg    FeedConfig
	client *kgo.Client
	ready  chan struct{}

	mu      sync.Mutex
	applied int64         // next offset to read; -1 before the first answer
	moved   chan struct{} // closed and replaced when applied moves
	waits   error         // what Run waits for, until ready
	isReady bool
}

// NewFeed makes a feed; nothing is connected before Run, CatchUp or WaitFor.
func NewFeed(cfg FeedConfig) (*Feed, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	opts, err := cfg.Options(cfg.Log)
	if err != nil {
		return nil, err
	}
	opts = append(opts,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{cfg.Topic: {0: kgo.NewOffset().AtStart()}}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// A transaction's markers take offsets too: without seeing them, a feed that ends in one never reaches its end.
		kgo.KeepControlRecords(),
	)
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("make a client for the feed %s: %w", cfg.Topic, err)
	}
	f := &Feed{cfg: cfg, client: client, ready: make(chan struct{}), applied: -1, moved: make(chan struct{}),
		waits: fmt.Errorf("the feed %s: waiting for Kafka at %s", cfg.Topic, cfg.Where())}
	if err := f.export(); err != nil {
		client.Close()
		return nil, err
	}
	return f, nil
}

// export registers the metric.
func (f *Feed) export() error {
	if f.cfg.Meter == nil {
		return nil
	}
	attrs := metric.WithAttributes(attribute.String("topic", f.cfg.Topic), attribute.String("reader", f.cfg.Reader))
	_, err := f.cfg.Meter.Meter("github.com/callstream/callstream/pkg/kafka").Int64ObservableGauge("callstream.feed.applied.offset",
		metric.WithDescription("next offset of a feed to read: everything below it is in force in this process"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(f.Applied(), attrs)
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make the metric of the feed %s: %w", f.cfg.Topic, err)
	}
	return nil
}

// Run reads until ctx ends, then closes the feed's client.
func (f *Feed) Run(ctx context.Context) error {
	defer f.client.Close()
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group.Go(func() { f.watchStart(ctx) })
	for {
		fetches := f.client.PollFetches(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return nil
		}
		fetches.EachError(func(_ string, _ int32, err error) {
			f.cfg.Log.Warn("feed: read", zap.String("topic", f.cfg.Topic), zap.Error(err))
		})
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				f.cfg.Apply(r)
			}
			f.advance(r.Offset + 1)
		})
	}
}

// watchStart finds out where the feed ends now, and closes Ready when reading has got there.
func (f *Feed) watchStart(ctx context.Context) {
	for {
		end, err := f.end(ctx)
		if err == nil {
			f.setWaits(fmt.Errorf("the feed %s: reading to offset %d", f.cfg.Topic, end))
			if f.WaitFor(ctx, end) != nil {
				return
			}
			f.mu.Lock()
			f.isReady, f.waits = true, nil
			f.mu.Unlock()
			close(f.ready)
			f.cfg.Log.Info("feed read to its end", zap.String("topic", f.cfg.Topic), zap.Int64("applied", f.Applied()))
			return
		}
		if ctx.Err() != nil {
			return
		}
		f.setWaits(fmt.Errorf("the feed %s: waiting for Kafka at %s: %w", f.cfg.Topic, f.cfg.Where(), err))
		f.cfg.Log.Warn("feed: waiting for Kafka", zap.String("topic", f.cfg.Topic), zap.Error(err))
		if run.Sleep(ctx, time.Second) != nil {
			return
		}
	}
}

var errFeedPartition = errors.New("the feed's topic has no partition 0")

// end asks for the feed's end, and takes an empty or emptied log for read.
func (f *Feed) end(ctx context.Context) (int64, error) {
	adm := kadm.NewClient(f.client)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	starts, err := adm.ListStartOffsets(ctx, f.cfg.Topic)
	if err != nil {
		return 0, fmt.Errorf("list the feed's start offset: %w", err)
	}
	ends, err := adm.ListCommittedOffsets(ctx, f.cfg.Topic)
	if err != nil {
		return 0, fmt.Errorf("list the feed's end offset: %w", err)
	}
	start, ok := starts.Lookup(f.cfg.Topic, 0)
	end, ok2 := ends.Lookup(f.cfg.Topic, 0)
	switch {
	case !ok || !ok2:
		return 0, errFeedPartition
	case start.Err != nil:
		return 0, fmt.Errorf("list the feed's start offset: %w", start.Err)
	case end.Err != nil:
		return 0, fmt.Errorf("list the feed's end offset: %w", end.Err)
	}
	f.advance(start.Offset)
	return end.Offset, nil
}

func (f *Feed) setWaits(err error) {
	f.mu.Lock()
	f.waits = err
	f.mu.Unlock()
}

func (f *Feed) advance(next int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if next > f.applied {
		f.applied = next
		close(f.moved)
		f.moved = make(chan struct{})
	}
}

// Ready is closed when everything that stood in the feed at Run's start is applied.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Err is nil when Ready is closed; before, it says what the feed waits for.
func (f *Feed) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waits
}

// Applied is the next offset to read: everything below it is applied. It is -1 before the broker first answered.
func (f *Feed) Applied() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// WaitFor waits until Applied is at least offset. To wait for a record, pass its offset plus one.
func (f *Feed) WaitFor(ctx context.Context, offset int64) error {
	for {
		f.mu.Lock()
		applied, moved := f.applied, f.moved
		f.mu.Unlock()
		if applied >= offset {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for offset %d of the feed %s (at %d): %w", offset, f.cfg.Topic, applied, ctx.Err())
		}
	}
}

// CatchUp reads to where the feed ends now.
func (f *Feed) CatchUp(ctx context.Context) error {
	end, err := f.end(ctx)
	if err != nil {
		return fmt.Errorf("catch up with the feed %s: %w", f.cfg.Topic, err)
	}
	return f.WaitFor(ctx, end)
}
