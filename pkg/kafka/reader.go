package kafka

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

// reader is a client that fetches, with the goroutine that polls it. A loop has one, the group's member, and one more for
// the topics that are read apart. The latter knows nothing of the group: it is told which partitions to fetch, from where,
// while in the group's client those topics are paused for ever. So both fetch on connections and in requests of their
// own, and membership and commits stay in one place.
type reader struct {
	apart bool
	opts  []kgo.Opt

	// Guarded by Loop.mu.
	client   *kgo.Client
	commands []func()           // for the polling goroutine, between two polls
	wake     context.CancelFunc // ends the poll that is under way
}

// makeReaders prepares the clients, unconnected.
func (l *Loop) makeReaders() error {
	common, err := l.cfg.Config.Options(l.cfg.Log)
	if err != nil {
		return err
	}
	common = append(common,
		// A group's first read, and one whose offset is gone, begin at the start: repeating beats losing.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(fetchMaxBytes),
		kgo.FetchMaxPartitionBytes(partitionFetch),
		// A partition that is resumed joins the next request. The one under way, for the others alone, may find nothing and
		// wait; what the resumed one still has queued (half) is to last as long.
		kgo.FetchMaxWait(fetchWait),
		kgo.KeepControlRecords(), // or a log that ends in a transaction's mark would never be read to its end
	)
	if l.cfg.ReadCommitted {
		common = append(common, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	l.grouped = &reader{opts: slices.Concat(common, []kgo.Opt{
		kgo.ConsumerGroup(l.cfg.Group),
		kgo.ConsumeTopics(l.cfg.Topics...),
		kgo.Balancers(l.cfg.Balancer),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(sessionTimeout),
		kgo.HeartbeatInterval(heartbeat),
		kgo.RebalanceTimeout(rebalanceTimeout),
		kgo.OnPartitionsAssigned(l.onAssigned),
		kgo.OnPartitionsRevoked(l.onRevoked),
		kgo.OnPartitionsLost(l.onLost),
		kgo.OnOffsetsFetched(l.onOffsets),
	}, l.cfg.Options)}
	if slices.ContainsFunc(l.cfg.Topics, l.isApart) {
		l.apart = &reader{apart: true, opts: slices.Concat(common, []kgo.Opt{
			kgo.FetchMaxBytes(apartMaxBytes),
			// What waits on disk needs no large fetches, and mostly its first record is not due: what was fetched behind it is
			// dropped. Compressed it may be ten times as large in memory, in each partition of each retry tier.
			kgo.FetchMaxPartitionBytes(apartPartitionFetch),
		}, l.cfg.Options)}
	}
	for _, r := range []*reader{l.grouped, l.apart} {
		if r == nil {
			continue
		}
		if err := kgo.ValidateOpts(r.opts...); err != nil {
			return fmt.Errorf("consume loop: %w", err)
		}
	}
	return nil
}

func (l *Loop) isApart(topic string) bool { return l.cfg.Apart != nil && l.cfg.Apart(topic) }

// readerOf is who fetches a topic.
func (l *Loop) readerOf(topic string) *reader {
	if l.isApart(topic) {
		return l.apart
	}
	return l.grouped
}

// connect makes the clients. The group's joins as soon as it exists, and calls back: it must find all in place.
func (l *Loop) connect() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.apart != nil {
		client, err := kgo.NewClient(l.apart.opts...)
		if err != nil {
			return fmt.Errorf("consume loop: make a client: %w", err)
		}
		l.apart.client = client
	}
	client, err := kgo.NewClient(l.grouped.opts...)
	if err != nil {
		if l.apart != nil {
			l.apart.client.Close()
		}
		return fmt.Errorf("consume loop: make a client: %w", err)
	}
	for _, t := range l.cfg.Topics {
		if l.isApart(t) {
			client.PauseFetchTopics(t)
		}
	}
	l.client, l.grouped.client = client, client
	return nil
}

// poll fetches and delivers until ctx ends.
func (l *Loop) poll(ctx context.Context, r *reader) {
	for ctx.Err() == nil {
		l.mu.Lock()
		commands := r.commands
		r.commands = nil
		pollCtx, wake := context.WithCancel(ctx)
		r.wake = wake
		l.mu.Unlock()
		// A command that comes from here on ends the poll below, which then returns at once.
		for _, c := range commands {
			c()
		}
		fetches := r.client.PollFetches(pollCtx)
		wake()
		if fetches.IsClientClosed() {
			return
		}
		fetches.EachError(l.fetchError)
		fetches.EachPartition(func(fp kgo.FetchTopicPartition) {
			if len(fp.Records) == 0 {
				return
			}
			l.mu.Lock()
			p := l.parts[TopicPartition{fp.Topic, fp.Partition}]
			l.mu.Unlock()
			if p != nil {
				p.deliver(fp)
			}
		})
	}
}

// command has fn run by the goroutine that polls p's reader, between two polls. l.mu is held.
func (l *Loop) command(p *partition, fn func()) {
	p.reader.commands = append(p.reader.commands, fn)
	if p.reader.wake != nil {
		p.reader.wake()
	}
}

// Reasons for which a partition is paused. It is fetched when none holds.
const (
	pauseStarting = 1 << iota // its offsets are not known, or Assigned has not succeeded
	pauseFull                 // its queue is
	pauseDeferred             // its next record is not due
	pauseAll      = pauseStarting | pauseFull | pauseDeferred
)

// pause and unpause keep the client's pauses in step with the reasons. l.mu is held, and p is the partition's current
// owner: pausing for a former one would pause its successor.
func (l *Loop) pause(p *partition, why uint8) {
	if p.pauses == 0 {
		p.reader.client.PauseFetchPartitions(map[string][]int32{p.tp.Topic: {p.tp.Partition}})
	}
	p.pauses |= why
}

func (l *Loop) unpause(p *partition, why uint8) {
	if p.pauses == 0 {
		return
	}
	if p.pauses &^= why; p.pauses == 0 {
		p.reader.client.ResumeFetchPartitions(map[string][]int32{p.tp.Topic: {p.tp.Partition}})
	}
}

// whileCurrent runs fn with l.mu held if p's records are still handed out.
func (l *Loop) whileCurrent(p *partition, fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parts[p.tp] == p {
		fn()
	}
}

// stopFetching has the clients forget partitions that are given up. l.mu is held.
func (l *Loop) stopFetching(ps []*partition) {
	gone := make(map[string][]int32) // at once, since each call interrupts the client's other fetches
	for _, p := range ps {
		if p.added {
			gone[p.tp.Topic] = append(gone[p.tp.Topic], p.tp.Partition)
		}
	}
	if len(gone) > 0 {
		l.apart.client.RemoveConsumePartitions(gone)
	}
	for _, p := range ps {
		l.unpause(p, pauseAll) // pauses outlive an assignment: the next one would never be fetched
	}
}

// shareQueue divides each reader's QueueBytes among its partitions. l.mu is held.
func (l *Loop) shareQueue() {
	counts := make(map[*reader]int64, 2)
	for _, p := range l.parts {
		counts[p.reader]++
	}
	for _, p := range l.parts {
		p.queueHigh.Store(min(max(l.cfg.QueueBytes/counts[p.reader], minQueue), maxQueue))
	}
}

// activate lets a prepared partition be fetched. It runs between two polls.
func (l *Loop) activate(p *partition) {
	l.whileCurrent(p, func() {
		l.shareQueue()
		from, dropped := p.activate()
		switch {
		case p.reader.apart:
			p.added = true
			p.reader.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{
				p.tp.Topic: {p.tp.Partition: kgo.NewOffset().At(from.Offset).WithEpoch(from.Epoch)}})
		case dropped:
			l.seek(p, from.Offset)
		}
		l.unpause(p, pauseStarting)
	})
}

// rewind seeks back to a record that was fetched and is not due. It runs between two polls, so that nothing that was
// fetched before it can be delivered after it.
func (l *Loop) rewind(p *partition, to int64) {
	l.whileCurrent(p, func() {
		l.seek(p, to)
		p.rewound(to)
	})
}

// seek sets the client's position, while l.mu keeps the partition from being revoked. Without an epoch: the position is
// ours, not one that a leader is to be asked about.
func (l *Loop) seek(p *partition, to int64) {
	p.reader.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{p.tp.Topic: {p.tp.Partition: {Epoch: -1, Offset: to}}})
}
