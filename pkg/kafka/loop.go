package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
)

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// WindowConfig bounds what may be taken beyond the committed offset of a partition.
type WindowConfig struct {
	// Offsets is at most 131,072, which is also the default.
	Offsets int
	// Bytes of records that are handed out and not done; the default is 32 MiB. One record is always let through.
	Bytes int64
}

// Loss is a range of offsets that the broker no longer had when they were to be read.
type Loss struct {
	TopicPartition
	// From and To bound the offsets that are gone: From ≤ offset < To.
	From, To int64
	// Reason is "retention" (deleted before they were read) or "truncated" (the log was cut or made anew; it is read
	// again from where it starts).
	Reason string
}

// LoopConfig says what a Loop consumes and who handles it.
type LoopConfig struct {
	Config
	Log   *zap.Logger
	Meter metric.MeterProvider

	Group  string
	Topics []string
	// Balancer places partitions; nil is cooperative-sticky.
	Balancer kgo.GroupBalancer
	// ReadCommitted hides records of aborted and unfinished transactions.
	ReadCommitted bool
	Window        WindowConfig
	// QueueBytes bounds what is fetched and not handed out yet, over all partitions; 64 MiB by default.
	QueueBytes int64
	// CommitEvery is the longest, and CommitCount the most completions of a partition, between commits: 1 s, 1,000.
	CommitEvery time.Duration
	CommitCount int
	// DrainTimeout is how long Run waits at its end for work in flight (20 s), RevokeTimeout how long a partition that
	// is taken away waits for it (5 s).
	DrainTimeout, RevokeTimeout time.Duration
	// StuckAfter is how long a partition with work in hand may go without progress before that is reported; 1 min.
	StuckAfter time.Duration
	// Options are added to the client's.
	Options []kgo.Opt

	// Assigned is called before a partition's first record is handed out, in the partition's own goroutine, with the
	// committed offset (-1 for none). It is repeated until it succeeds or ctx ends. May be nil.
	Assigned func(ctx context.Context, tp TopicPartition, committed int64) error
	// Lost is called after a partition is gone, whatever the reason; when it returns, late results are already void.
	// May be nil.
	Lost func(tp TopicPartition)
	// LostRecords is called when records were gone before they could be read. May be nil; it is logged and counted anyway.
	LostRecords func(Loss)
	// Handle is called for each record, in the order of offsets, by one goroutine for each partition. It may block: then
	// only its partition waits. Its ctx ends as soon as the partition is to be given up or the loop drains; work already
	// begun goes on under Task.Context.
	Handle func(ctx context.Context, t *Task)
}

// Loop consumes topics as a member of a group.
type Loop struct{}

// NewLoop checks the configuration and makes a loop; nothing is connected before Run.
func NewLoop(cfg LoopConfig) (*Loop, error) { return nil, errors.New("not built yet") }

// Run consumes until ctx ends, then drains: no more is handed out, work in flight gets DrainTimeout, what is complete is
// committed, and the group is left. It returns nil then.
func (l *Loop) Run(ctx context.Context) error { return nil }

// Ready is nil when the loop has joined its group and every assigned partition is being read; else it says what it
// waits for.
func (l *Loop) Ready() error { return nil }

// Task is one record, handed out to be done.
type Task struct {
	Record *kgo.Record
}

// Context ends when the partition is lost, which for one that is taken away is at most RevokeTimeout after Stopping.
func (t *Task) Context() context.Context { return nil }

// Stopping is closed when the partition is to be given up or the loop drains: begin nothing new.
func (t *Task) Stopping() <-chan struct{} { return nil }

// Done completes the record's offset. All calls but the first, and any after the partition was lost, do nothing.
func (t *Task) Done() {}

// Abandon gives the record back undone, so that nobody waits for it when its partition is given up. It is handed out
// again by the partition's next owner. Only sensible after Stopping.
func (t *Task) Abandon() {}

// Defer says that the record is not due before until. Only valid inside Handle, which then returns: the partition waits,
// and hands out this record again. Nothing behind it is handed out meanwhile.
func (t *Task) Defer(until time.Time) {}
