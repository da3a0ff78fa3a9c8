package kafka

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/run"
)

// partition is one assignment of a partition to this member: assigned again, it is another one.
type partition struct {
	l      *Loop
	tp     TopicPartition
	reader *reader

	workCtx context.Context // for work in hand: ends when the partition is lost
	cancel  context.CancelFunc
	intake  context.Context // for handing out: ends when the partition is to be given up
	stop    context.CancelFunc

	offsets   chan struct{} // closed when restore has been called
	wake      chan struct{} // to the worker: look again
	ended     chan struct{} // closed when the worker has ended
	queueHigh atomic.Int64  // bytes from which on fetching pauses; it goes on at half
	pauses    uint8         // guarded by Loop.mu
	added     bool          // the client that reads apart knows it; guarded by Loop.mu

	mu        sync.Mutex
	pressed   pressed
	committed int64 // what the group had committed when it was assigned; -1 for none
	epoch     int32 // the leader epoch of that; -1 for none
	known     bool  // restore has been called
	active    bool  // what is polled is ours
	dropped   bool  // something was polled before it was active
	rewinding bool  // what is polled was fetched before a seek that is still to come
	full      bool  // pauseFull is set or about to be
	lost      bool  // completions are void
	waiting   bool  // the worker waits for wake
	deferring bool  // the worker waits for a record to be due

	queue      []*kgo.Record // [first:] are to be handed out
	first      int
	queueBytes int64
	next       int64 // offset to be polled next; -1 while it is not known
	seen       int64 // offsets below it have been polled
	end        int64 // the log's end as the last fetch, or look at the log, told
	lossTo     int64 // offsets below it have been reported as lost

	window      *Window
	incarnation int // grows when the window is begun anew
	inflight    int64
	inBytes     int64
	idle        chan struct{} // closed when nothing is in flight; nil when nobody asks

	version          uint64 // grows with everything that a commit would tell
	committedVersion uint64
	completions      int // since a commit was tried
	uncommitted      int // since one was acknowledged
	epochs           []epochMark
	times            []timeMark
	unseen           timeMark
	progress         uint64 // grows with every record handed out and completed
	still            stillness
}

// epochMark says that records from an offset on are of a leader epoch.
type epochMark struct {
	from  int64
	epoch int32
}

func newPartition(l *Loop, tp TopicPartition) *partition {
	p := &partition{l: l, tp: tp, reader: l.readerOf(tp.Topic), committed: -1, epoch: -1, next: -1, window: NewWindow(l.cfg.Window.Offsets),
		offsets: make(chan struct{}), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	p.queueHigh.Store(minQueue)
	p.workCtx, p.cancel = context.WithCancel(context.Background())
	p.intake, p.stop = context.WithCancel(p.workCtx)
	return p
}

// restore begins the window where the group has committed.
func (p *partition) restore(committed int64, epoch int32, metadata string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active { // asked again while in use: what we know is newer
		return
	}
	if committed >= 0 {
		if !p.window.Restore(committed, metadata) {
			p.l.log.Info("commit metadata is not ours or damaged: records completed out of order are repeated",
				zap.Stringer("partition", p.tp), zap.Int64("offset", committed))
		}
		p.committed, p.next, p.epoch = committed, committed, epoch
	}
	if !p.known {
		p.known = true
		close(p.offsets)
	}
}

// work prepares the partition, then hands out its records until it is to be given up.
func (p *partition) work() {
	defer close(p.ended)
	if !p.prepare() {
		return
	}
	p.l.whileCurrent(p, func() { p.l.command(p, func() { p.l.activate(p) }) })
	for {
		t := p.take()
		if t == nil {
			return
		}
		p.l.cfg.Handle(p.intake, t)
		if until, ok := t.deferred(); ok && !p.wait(t, until) {
			return
		}
	}
}

// prepare waits for the committed offset and calls Assigned.
func (p *partition) prepare() bool {
	select {
	case <-p.offsets:
	case <-p.intake.Done():
		return false
	}
	retry := func(what string, fn func() error) bool {
		for tries := 1; p.intake.Err() == nil; tries++ {
			err := fn()
			if err == nil {
				return p.intake.Err() == nil
			}
			if p.intake.Err() == nil {
				p.l.log.Warn("consume loop: "+what+"; trying again", zap.Stringer("partition", p.tp), zap.Error(err))
			}
			_ = run.Sleep(p.intake, backoff(tries))
		}
		return false
	}
	p.mu.Lock()
	committed := p.committed
	p.mu.Unlock()
	if committed < 0 {
		// Where reading begins must be known: to seek back to, and to tell records that retention took.
		ok := retry("find where the partition begins", func() error {
			start, err := p.l.startOffset(p.intake, p.tp)
			if err == nil {
				p.mu.Lock()
				if p.next < 0 {
					p.next = start
				}
				p.mu.Unlock()
			}
			return err
		})
		if !ok {
			return false
		}
	}
	if p.l.cfg.Assigned == nil {
		return true
	}
	a := p.assignment()
	return retry("prepare the partition", func() error { return p.l.cfg.Assigned(p.intake, a) })
}

// activate takes what is polled from now on for ours. It tells where reading begins, and whether something was polled
// before that may have been ours too.
func (p *partition) activate() (from kgo.EpochOffset, dropped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active = true
	return kgo.EpochOffset{Epoch: p.epoch, Offset: p.next}, p.dropped
}

// rewound ends the dropping of what was fetched before a seek.
func (p *partition) rewound(to int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rewinding, p.next = false, to
}

// deliver queues what was polled.
func (p *partition) deliver(fp kgo.FetchTopicPartition) {
	first, last := fp.Records[0], fp.Records[len(fp.Records)-1]
	p.mu.Lock()
	switch {
	case p.lost || p.intake.Err() != nil || p.rewinding:
		p.mu.Unlock()
		return
	case !p.active:
		p.dropped = true
		p.mu.Unlock()
		return
	}
	var loss Loss
	switch {
	case first.Offset < p.next:
		loss = Loss{p.tp, first.Offset, p.next, LossTruncated}
		p.restart(first.Offset)
	case first.Offset > p.next && fp.LogStartOffset > max(p.next, p.lossTo):
		loss = Loss{p.tp, max(p.next, p.lossTo), min(fp.LogStartOffset, first.Offset), LossRetention}
	}
	if p.first > len(p.queue)/2 {
		p.queue, p.first = append(p.queue[:0], p.queue[p.first:]...), 0
	}
	p.queue = append(p.queue, fp.Records...)
	for _, r := range fp.Records {
		p.queueBytes += recordSize(r)
		if n := len(p.epochs); n == 0 || p.epochs[n-1].epoch != r.LeaderEpoch {
			p.epochs = append(p.epochs, epochMark{r.Offset, r.LeaderEpoch})
		}
	}
	p.noteTimes(fp.Records)
	p.next, p.end = last.Offset+1, fp.HighWatermark
	full := p.queueBytes >= p.queueHigh.Load() && !p.full
	p.full = p.full || full
	p.wakeWorker()
	p.mu.Unlock()

	if full {
		p.settleFull()
	}
	if loss.Reason != "" {
		p.l.reportLoss(loss)
	}
}

// restart begins anew at an offset of a log that is no longer the one that was read. p.mu is held.
func (p *partition) restart(at int64) {
	p.queue, p.first, p.queueBytes = nil, 0, 0
	p.window.Reset(at)
	p.incarnation++
	p.epochs, p.times, p.seen = nil, nil, 0
	p.version++
	p.lossTo = 0
}

// settleFull pauses or resumes for a full queue. The worker and the polling goroutine may both have changed their minds
// meanwhile: what counts is the state now.
func (p *partition) settleFull() {
	p.l.whileCurrent(p, func() {
		p.mu.Lock()
		full := p.full
		p.mu.Unlock()
		if full {
			p.l.pause(p, pauseFull)
		} else {
			p.l.unpause(p, pauseFull)
		}
	})
}

// recordSize is about what a record takes of memory.
func recordSize(r *kgo.Record) int64 {
	n := 128 + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return int64(n)
}

// wakeWorker has the worker look again. p.mu is held.
func (p *partition) wakeWorker() {
	if p.waiting {
		p.waiting = false
		p.wake <- struct{}{} // has room: waiting is only set by a worker that has emptied it
	}
}

// take waits for the next record that can be handed out. It is nil when the partition is to be given up.
func (p *partition) take() *Task {
	p.mu.Lock()
	for {
		if p.intake.Err() != nil {
			p.mu.Unlock()
			return nil
		}
		if t := p.nextTask(); t != nil {
			resume := p.full && p.queueBytes < p.queueHigh.Load()/2
			if resume {
				p.full = false
			}
			p.mu.Unlock()
			if resume {
				p.settleFull()
			}
			return t
		}
		if p.full && p.queueBytes < p.queueHigh.Load()/2 {
			p.full = false
			p.mu.Unlock()
			p.settleFull()
			p.mu.Lock()
			continue
		}
		p.waiting = true
		p.mu.Unlock()
		select {
		case <-p.wake:
			p.mu.Lock()
		case <-p.intake.Done():
			p.mu.Lock()
			if !p.waiting {
				<-p.wake
			}
			p.waiting = false
		}
	}
}

// nextTask takes the queue's first record into the window, if it has room, and passes by those that are done. p.mu is held.
func (p *partition) nextTask() *Task {
	if p.held() {
		return nil
	}
	for p.first < len(p.queue) {
		r := p.queue[p.first]
		size := recordSize(r)
		if p.inflight > 0 && p.inBytes+size > p.l.cfg.Window.Bytes {
			return nil
		}
		taken := p.window.Take(r.Offset)
		if taken == TakenFull {
			return nil
		}
		p.pop(size)
		p.progress++
		switch taken {
		case TakenNow:
			if r.Attrs.IsControl() { // the mark of a transaction's end: nobody's work, but part of the log
				p.window.Done(r.Offset)
				p.version++
				continue
			}
			p.inflight++
			p.inBytes += size
			return &Task{Record: r, p: p, size: size, incarnation: p.incarnation}
		case TakenDone:
			p.version++
			p.l.meters.skipped.Add(context.Background(), 1, p.l.meters.topic(p.tp.Topic))
		}
	}
	return nil
}

// held tells that nothing more is handed out until a commit succeeds. p.mu is held.
func (p *partition) held() bool {
	return p.uncommitted >= p.l.cfg.CommitCount && p.l.overdue.Load() != nil
}

func (p *partition) pop(size int64) {
	p.queue[p.first] = nil
	p.first++
	p.queueBytes -= size
	if p.first == len(p.queue) {
		p.queue, p.first = p.queue[:0], 0
	}
}

// wait holds the partition back until a record is due, then lets it be handed out again. It reports false when the
// partition is to be given up first.
func (p *partition) wait(t *Task, until time.Time) bool {
	left := time.Until(until)
	p.mu.Lock()
	if t.incarnation != p.incarnation {
		p.release(t)
		p.mu.Unlock()
		return true
	}
	p.window.Rewind(t.Record.Offset)
	p.release(t)
	p.progress++
	if left <= holdAtMost {
		// Soon due: fetching it again would cost more than keeping it.
		if p.first > 0 {
			p.first--
			p.queue[p.first] = t.Record
		} else {
			p.queue = append([]*kgo.Record{t.Record}, p.queue...)
		}
		p.queueBytes += t.size
	} else {
		// A long wait must not hold memory: a partition of each retry tier may wait for hours. What was fetched is
		// dropped and fetched again, from this record on.
		p.queue, p.first, p.queueBytes = nil, 0, 0
		p.rewinding = true
	}
	p.deferring = true
	rewinding := p.rewinding
	p.mu.Unlock()
	if rewinding {
		p.l.whileCurrent(p, func() {
			p.l.pause(p, pauseDeferred)
			p.l.command(p, func() { p.l.rewind(p, t.Record.Offset) })
		})
	}
	p.l.meters.deferred.Add(context.Background(), 1, p.l.meters.topic(p.tp.Topic))
	due := left <= 0 || run.Sleep(p.intake, left) == nil
	p.mu.Lock()
	p.deferring = false
	p.mu.Unlock()
	if rewinding {
		p.l.whileCurrent(p, func() { p.l.unpause(p, pauseDeferred) })
	}
	return due
}

// complete takes a task's offset for done.
func (p *partition) complete(t *Task) {
	p.mu.Lock()
	ask := false
	if !p.lost && t.incarnation == p.incarnation && p.window.Done(t.Record.Offset) {
		p.version++
		p.progress++
		p.completions++
		p.uncommitted++
		ask = p.completions == p.l.cfg.CommitCount
	}
	p.release(t)
	p.mu.Unlock()
	if ask {
		select {
		case p.l.commitAsk <- struct{}{}:
		default:
		}
	}
}

func (p *partition) abandon(t *Task) {
	p.mu.Lock()
	p.release(t)
	p.mu.Unlock()
}

// release takes a task out of what is in flight. p.mu is held.
func (p *partition) release(t *Task) {
	p.inflight--
	p.inBytes -= t.size
	p.wakeWorker()
	if p.inflight == 0 && p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
}

// stopIntake ends the handing out; it is safe to repeat.
func (p *partition) stopIntake() {
	p.stop()
}

// waitIdle waits until the worker has ended and nothing is in flight, or until then. It tells what still is.
func (p *partition) waitIdle(until time.Time) int64 {
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
	}
	p.mu.Lock()
	if p.inflight == 0 {
		p.mu.Unlock()
		return 0
	}
	if p.idle == nil {
		p.idle = make(chan struct{})
	}
	idle := p.idle
	p.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inflight
}

// void makes completions count for nothing. It runs before the group may give the partition to somebody else.
func (p *partition) void() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = true
	p.queue, p.first, p.queueBytes = nil, 0, 0
}

// finish tells the work in hand that the partition is lost, and calls Lost once nothing more is handed out.
func (p *partition) finish() {
	p.cancel()
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	select {
	case <-p.ended:
	case <-patience.C:
		p.l.log.Error("consume loop: the handler goes on although its partition is lost and its contexts have ended",
			zap.Stringer("partition", p.tp))
	}
	if p.l.cfg.Lost != nil {
		p.l.cfg.Lost(p.tp)
	}
}

// snapshot is what to commit, false when there is nothing new.
func (p *partition) snapshot() (c commit, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost || p.version == p.committedVersion || !p.window.Started() {
		return commit{}, false
	}
	p.completions = 0
	offset := p.window.Watermark()
	// The epoch of the newest record below the watermark: with a newer one, a successor would look for a cut log at a
	// place where it was not cut.
	epoch := int32(-1)
	for len(p.epochs) > 1 && p.epochs[1].from < offset {
		p.epochs = p.epochs[1:]
	}
	if len(p.epochs) > 0 && p.epochs[0].from < offset {
		epoch = p.epochs[0].epoch
	}
	return commit{p: p, offset: offset, epoch: epoch, metadata: p.window.Metadata(), version: p.version, done: p.uncommitted}, true
}
