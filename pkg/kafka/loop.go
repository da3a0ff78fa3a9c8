package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/zap"
)

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// String is topic/partition.
func (tp TopicPartition) String() string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }

// compare orders by topic, then by number.
func (tp TopicPartition) compare(other TopicPartition) int {
	return cmp.Or(cmp.Compare(tp.Topic, other.Topic), cmp.Compare(tp.Partition, other.Partition))
}

// WindowConfig bounds what may be taken beyond the committed offset of a partition.
type WindowConfig struct {
	// Offsets is at most 131,072, which is also the default. A window with 1,000 or more offsets that are not done spans
	// at most 23,936 (see Window).
	Offsets int
	// Bytes of records that are handed out and not done; the default is 32 MiB. One record is always let through.
	Bytes int64
}

// Loss is a range of offsets that the broker no longer had when they were to be read.
type Loss struct {
	TopicPartition
	// From and To bound the offsets that are gone: From ≤ offset < To.
	From, To int64
	// Reason is LossRetention or LossTruncated.
	Reason string
}

// Reasons of a Loss.
const (
	// LossRetention means that the records were deleted before they were read.
	LossRetention = "retention"
	// LossTruncated means that the log was cut, or its topic made anew: it now ends, or begins again, before what was
	// read. Reading goes on at From; work in hand is finished and not committed.
	LossTruncated = "truncated"
)

// LoopConfig says what a Loop consumes and who handles it.
type LoopConfig struct {
	Config
	Log   *zap.Logger
	Meter metric.MeterProvider

	Group  string
	Topics []string
	// Apart picks the topics that are read by a client of their own, so that a flood of their records, and the seeks back to
	// those that are not due, never hold up the fetches of the others. They stay in the group, with its placing and its
	// commits. May be nil.
	Apart func(topic string) bool
	// Balancer places partitions; nil is cooperative-sticky.
	Balancer kgo.GroupBalancer
	// ReadCommitted hides records of aborted and unfinished transactions.
	ReadCommitted bool
	Window        WindowConfig
	// QueueBytes bounds what is fetched and not handed out yet, over all partitions; 64 MiB by default. Topics that are
	// Apart have as much of their own. One fetch for each partition may come on top of it.
	QueueBytes int64
	// CommitEvery is the longest, and CommitCount the most completions of a partition, between commits: 1 s, 1,000.
	CommitEvery time.Duration
	CommitCount int
	// DrainTimeout is how long Run waits at its end for work in flight (20 s), RevokeTimeout how long a partition that
	// is taken away waits for it (5 s).
	DrainTimeout, RevokeTimeout time.Duration
	// StuckAfter is how long a partition with work in hand may go without progress before that is reported, in the log, by
	// Ready and as a metric; 1 min. It must be longer than a record may well take.
	StuckAfter time.Duration
	// Options are added to the client's.
	Options []kgo.Opt

	// Assigned is called before a partition's first record is handed out, in the partition's own goroutine. It is repeated
	// until it succeeds or ctx ends. May be nil.
	Assigned func(ctx context.Context, a Assignment) error
	// Lost is called after a partition is gone, whatever the reason, for each one that was assigned; by then late results
	// are void. May be nil.
	Lost func(tp TopicPartition)
	// LostRecords is called when records were gone before they could be read. May be nil; it is logged and counted anyway.
	LostRecords func(Loss)
	// Handle is called for each record, in the order of offsets, by one goroutine for each partition. It may block: then
	// only its partition waits. Its ctx ends as soon as the partition is to be given up or the loop drains; work already
	// begun goes on under Task.Context. A record for which nothing of Task is ever called keeps its offset open, and with
	// it in the end its partition.
	Handle func(ctx context.Context, t *Task)
}

const (
	// commitTimeout is longer than a session: while its group joins, which takes as long as the session of one that died, a
	// client sends no commits, and no partition is to wait for that.
	commitTimeout       = sessionTimeout + 5*time.Second
	lastCommitTimeout   = 5 * time.Second
	pingEvery           = 5 * time.Second
	logsEvery           = 15 * time.Second
	fetchMaxBytes       = 16 << 20
	apartMaxBytes       = 4 << 20
	apartPartitionFetch = 64 << 10
	partitionFetch      = 256 << 10
	fetchWait           = 100 * time.Millisecond
	minQueue            = 64 << 10
	maxQueue            = 4 << 20
	holdAtMost          = time.Second
	sessionTimeout      = 10 * time.Second
	rebalanceTimeout    = 30 * time.Second
	// heartbeat is how a member learns that others come, go or have let partitions go, and so the most of the time that a
	// partition which moves stands still.
	heartbeat = 250 * time.Millisecond
)

func (c *LoopConfig) defaults() error {
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Meter == nil {
		c.Meter = noop.NewMeterProvider()
	}
	if c.Balancer == nil {
		c.Balancer = kgo.CooperativeStickyBalancer()
	}
	if c.Window.Bytes <= 0 {
		c.Window.Bytes = 32 << 20
	}
	if c.QueueBytes <= 0 {
		c.QueueBytes = 64 << 20
	}
	if c.CommitCount <= 0 {
		c.CommitCount = 1000
	}
	for d, def := range map[*time.Duration]time.Duration{
		&c.CommitEvery: time.Second, &c.DrainTimeout: 20 * time.Second, &c.RevokeTimeout: 5 * time.Second, &c.StuckAfter: time.Minute,
	} {
		if *d <= 0 {
			*d = def
		}
	}
	switch {
	case c.Group == "":
		return errors.New("consume loop: no group")
	case len(c.Topics) == 0:
		return errors.New("consume loop: no topics")
	case c.Handle == nil:
		return errors.New("consume loop: no handler")
	}
	return nil
}

// Loop consumes topics as a member of a group: it hands out records, tracks what is done out of order, and commits.
//
// One goroutine polls each client (see reader). Each assigned partition has one more, which hands its records to Handle.
// Three rules keep them from losing or doubling a record:
//
//   - A partition begins paused (or, apart, unknown to its client) and is resumed by the polling goroutine between two
//     polls, and its position is only ever set there too. So whatever a poll brings for it was fetched for this assignment
//     and from this position; what an earlier poll still carries is dropped.
//   - Completions, and what is committed, are decided under the partition's lock together with whether it is lost.
//   - A commit, and the last moment of giving partitions up, exclude each other.
type Loop struct {
	cfg     LoopConfig
	log     *zap.Logger
	meters  *loopMeters
	grouped *reader
	apart   *reader // nil without topics that are read apart

	// commits is held, by having put something in it, for a commit, and while partitions go from live to lost. It is taken
	// before mu. A channel, because it is held while a broker answers.
	commits   chan struct{}
	commitAsk chan struct{} // a partition has completed CommitCount
	// overdue is why commits don't succeed, nil where they do. Meanwhile no partition hands out more than CommitCount beyond
	// what is committed, since a crash would repeat it.
	overdue atomic.Pointer[error]

	mu       sync.Mutex                    // taken before a partition's lock
	client   *kgo.Client                   // the group's
	parts    map[TopicPartition]*partition // those whose records are handed out
	live     map[*partition]struct{}       // those and the ones being given up: what may be committed
	phase    string                        // what the loop waits for; empty when it works
	troubled bool                          // that has been logged
	broker   error                         // the last ping's
	draining bool
	drainEnd time.Time
	workers  sync.WaitGroup
}

// NewLoop checks the configuration and makes a loop; nothing is connected before Run.
func NewLoop(cfg LoopConfig) (*Loop, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	l := &Loop{
		cfg:       cfg,
		log:       cfg.Log.With(zap.String("group", cfg.Group)),
		commits:   make(chan struct{}, 1),
		commitAsk: make(chan struct{}, 1),
		parts:     make(map[TopicPartition]*partition),
		live:      make(map[*partition]struct{}),
		phase:     "not started",
	}
	if err := l.makeReaders(); err != nil {
		return nil, err
	}
	var err error
	if l.meters, err = newLoopMeters(l); err != nil {
		return nil, fmt.Errorf("consume loop: make metrics: %w", err)
	}
	return l, nil
}

// Run consumes until ctx ends, then drains: no more is handed out, work in flight gets DrainTimeout, what is complete is
// committed, and the group is left. It returns nil then. A loop runs once.
func (l *Loop) Run(ctx context.Context) error {
	unregister, err := l.meters.observe(l)
	if err != nil {
		return fmt.Errorf("consume loop: register metrics: %w", err)
	}
	defer unregister()

	l.setPhase("waiting for Kafka at " + l.cfg.Where())
	if err := l.connect(); err != nil {
		return err
	}

	// What goes on until the drain is over, and what ends with ctx.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var services sync.WaitGroup
	services.Go(func() { l.commitRegularly(background) })
	services.Go(func() { l.watchBroker(background) })
	services.Go(func() { l.watchProgress(background) })
	services.Go(func() { l.watchLogs(background) })

	var polls sync.WaitGroup
	if l.apart != nil {
		polls.Go(func() { l.poll(ctx, l.apart) })
	}
	l.poll(ctx, l.grouped)
	polls.Wait()
	l.drain()

	stopBackground()
	services.Wait()
	leave, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := l.client.LeaveGroupContext(leave); err != nil {
		l.log.Warn("consume loop: leave the group; its partitions are free when the session times out", zap.Error(err))
	}
	l.client.Close()
	l.giveUp(l.everything(), time.Time{}, false) // whatever the client did not call back for
	if l.apart != nil {
		l.apart.client.Close()
	}
	l.setPhase("stopped")
	ended := make(chan struct{})
	go func() {
		l.workers.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(l.cfg.RevokeTimeout):
		return ErrHandlerStuck
	}
}

// ErrHandlerStuck means that a handler went on after its contexts had ended: the loop is over, but not its work.
var ErrHandlerStuck = errors.New("consume loop: a handler did not return")

func (l *Loop) fetchError(topic string, partition int32, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return
	}
	fields := []zap.Field{zap.String("topic", topic), zap.Int32("partition", partition), zap.Error(err)}
	var loss *kgo.ErrDataLoss
	switch {
	case topic == "":
		// The client's own troubles, such as joining the group. It repeats them as long as they last.
		l.mu.Lock()
		again := l.troubled
		l.troubled = true
		l.phase = "joining the group: " + err.Error()
		l.mu.Unlock()
		if !again {
			l.log.Warn("consume loop: trying again", zap.Error(err))
		}
	case errors.As(err, &loss):
		// The records from ResetTo on come next; deliver notices that they go back, and reports it.
		l.log.Error("consume loop: the broker lost records that were read before", fields...)
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		l.setPhase("waiting for the topic " + topic + " to exist")
		l.log.Warn("consume loop: no such topic", fields...)
	default:
		l.log.Warn("consume loop: fetch", fields...)
	}
}

func (l *Loop) setPhase(phase string) {
	l.mu.Lock()
	l.phase = phase
	l.mu.Unlock()
}

// Ready is nil when the loop has joined its group, and every assigned partition is being read and moves; else it says
// what it waits for.
func (l *Loop) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.broker != nil:
		return fmt.Errorf("group %s: waiting for Kafka at %s: %w", l.cfg.Group, l.cfg.Where(), l.broker)
	case l.draining:
		return fmt.Errorf("group %s: draining", l.cfg.Group)
	case l.phase != "":
		return fmt.Errorf("group %s: %s", l.cfg.Group, l.phase)
	}
	overdue := l.overdue.Load()
	now := time.Now()
	for _, p := range l.parts {
		if p.pauses&pauseStarting != 0 {
			return fmt.Errorf("group %s: preparing partition %s", l.cfg.Group, p.tp)
		}
		p.mu.Lock()
		stalled, inflight, held := p.stalled(now), p.inflight, p.held()
		p.mu.Unlock()
		if held && overdue != nil {
			return fmt.Errorf("group %s: partition %s waits for a commit to succeed: %w", l.cfg.Group, p.tp, *overdue)
		}
		if !stalled.IsZero() {
			return fmt.Errorf("group %s: partition %s has made no progress since %s, with %d records in hand: the log has more", l.cfg.Group, p.tp,
				stalled.UTC().Format(time.RFC3339), inflight)
		}
	}
	return nil
}

// onAssigned makes a partition of each assignment, paused before its first fetch.
func (l *Loop) onAssigned(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
	l.mu.Lock()
	var stale []*partition
	for topic, ps := range assigned {
		for _, n := range ps {
			if p := l.parts[TopicPartition{topic, n}]; p != nil {
				stale = append(stale, p) // the client never does that; a lost record would be the price of trusting it
			}
		}
	}
	l.mu.Unlock()
	l.giveUp(stale, time.Time{}, false)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase, l.troubled = "", false
	for topic, ps := range assigned {
		for _, n := range ps {
			p := newPartition(l, TopicPartition{topic, n})
			l.parts[p.tp] = p
			l.live[p] = struct{}{}
			l.pause(p, pauseStarting)
			if l.draining {
				p.stopIntake()
			}
			l.workers.Go(p.work)
		}
	}
	if len(assigned) > 0 {
		l.log.Info("partitions assigned", zap.Any("partitions", assigned), zap.Int("total", len(l.parts)))
	}
}

// onOffsets takes each new partition's committed offset and metadata.
func (l *Loop) onOffsets(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, rp := range t.Partitions {
				p := l.parts[TopicPartition{t.Topic, rp.Partition}]
				if p == nil || rp.ErrorCode != 0 {
					continue
				}
				metadata := ""
				if rp.Metadata != nil {
					metadata = *rp.Metadata
				}
				p.restore(rp.Offset, rp.LeaderEpoch, metadata)
			}
		}
	}
	return nil
}

// onRevoked gives partitions up in good order: it lets work in flight finish for RevokeTimeout, and commits.
func (l *Loop) onRevoked(_ context.Context, _ *kgo.Client, revoked map[string][]int32) {
	until := time.Now().Add(l.cfg.RevokeTimeout)
	l.mu.Lock()
	if l.draining { // the drain has waited already
		until = l.drainEnd
	}
	l.mu.Unlock()
	l.giveUp(l.named(revoked), until, true)
	if len(revoked) > 0 {
		l.log.Info("partitions revoked", zap.Any("partitions", revoked))
	}
}

// onLost gives partitions up that others may own already: nothing is committed.
func (l *Loop) onLost(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	l.mu.Lock()
	if !l.draining {
		l.phase = "joining the group"
	}
	l.mu.Unlock()
	l.giveUp(l.named(lost), time.Time{}, false)
	if len(lost) > 0 {
		l.log.Warn("partitions lost: the group went on without this member", zap.Any("partitions", lost))
	}
}

func (l *Loop) named(tps map[string][]int32) []*partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ps []*partition
	for topic, ns := range tps {
		for _, n := range ns {
			if p := l.parts[TopicPartition{topic, n}]; p != nil {
				ps = append(ps, p)
			}
		}
	}
	return ps
}

func (l *Loop) everything() []*partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	ps := make([]*partition, 0, len(l.parts))
	for _, p := range l.parts {
		ps = append(ps, p)
	}
	return ps
}

// giveUp ends partitions: nothing more is handed out, work in flight has until then, what is done is committed, and late
// results are void.
func (l *Loop) giveUp(ps []*partition, until time.Time, commit bool) {
	if len(ps) == 0 {
		return
	}
	l.mu.Lock()
	gone := make([]*partition, 0, len(ps))
	for _, p := range ps {
		if l.parts[p.tp] == p {
			delete(l.parts, p.tp)
			gone = append(gone, p)
		}
	}
	l.stopFetching(gone)
	l.shareQueue()
	l.mu.Unlock()
	for _, p := range ps {
		p.stopIntake()
	}
	if commit {
		for _, p := range ps {
			p.waitIdle(until)
		}
	}

	l.commits <- struct{}{}
	if commit {
		ctx, cancel := context.WithTimeout(context.Background(), lastCommitTimeout)
		if err := l.commit(ctx, ps); err != nil {
			l.log.Warn("consume loop: commit partitions that are given up; what they completed since the last commit is repeated", zap.Error(err))
		}
		cancel()
	}
	for _, p := range ps {
		p.void()
	}
	l.mu.Lock()
	for _, p := range ps {
		delete(l.live, p)
	}
	l.mu.Unlock()
	<-l.commits

	for _, p := range ps {
		p.finish()
	}
}

// drain stops handing out, and waits for what is in flight.
func (l *Loop) drain() {
	until := time.Now().Add(l.cfg.DrainTimeout)
	l.mu.Lock()
	l.draining, l.drainEnd = true, until
	l.mu.Unlock()
	ps := l.everything()
	for _, p := range ps {
		p.stopIntake()
	}
	left := int64(0)
	for _, p := range ps {
		left += p.waitIdle(until)
	}
	l.commits <- struct{}{}
	defer func() { <-l.commits }()
	ctx, cancel := context.WithTimeout(context.Background(), lastCommitTimeout)
	defer cancel()
	if err := l.commit(ctx, ps); err != nil {
		l.log.Warn("consume loop: last commit; what was completed since the one before is repeated", zap.Error(err))
	}
	if left > 0 {
		l.log.Warn("consume loop: drained, with work unfinished that will be repeated", zap.Int64("records", left))
	}
}

// startOffset asks where the partition's log begins, until there is an answer or ctx ends.
func (l *Loop) startOffset(ctx context.Context, tp TopicPartition) (int64, error) {
	starts, err := l.listStarts(ctx, tp.Topic)
	if err != nil {
		return 0, err
	}
	o, ok := starts.Lookup(tp.Topic, tp.Partition)
	if !ok {
		return 0, fmt.Errorf("list the start offset of %s: %w", tp, kerr.UnknownTopicOrPartition)
	}
	if o.Err != nil {
		return 0, fmt.Errorf("list the start offset of %s: %w", tp, o.Err)
	}
	return o.Offset, nil
}

func (l *Loop) listStarts(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	starts, err := kadm.NewClient(l.client).ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("list start offsets: %w", err)
	}
	return starts, nil
}

func (l *Loop) listEnds(ctx context.Context) (kadm.ListedOffsets, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list := kadm.NewClient(l.client).ListEndOffsets
	if l.cfg.ReadCommitted {
		list = kadm.NewClient(l.client).ListCommittedOffsets
	}
	ends, err := list(ctx, l.cfg.Topics...)
	if err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	return ends, nil
}
