package filter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// replayStart is the command of callstream.replays that sends events again.
const replayStart = "start"

// What became of an event that a replay names, besides the outcomes of a decision.
const (
	replayGone       = "gone"       // retention took it, or there never was a record
	replayUnreadable = "unreadable" // it makes no event, or not one of the replay's tenant
)

// maxReplayBytes bounds what a replay has on its way to the brokers.
const maxReplayBytes = 8 << 20

// replayer does what callstream.replays asks for: it reads events again by their places in the log, decides about each for
// one subscription as it is now, and writes the delivery and the decision with the replay's id. A command's offset
// completes when all that follows from it is acknowledged. One that is cut short is done again from its beginning: what it
// had sent goes out again under the same webhook-id.
//
// Commands are done one after another, each no faster than rate, so that what was missed yesterday does not hold up what
// happens now.
type replayer struct {
	*decider
	outbox  *outbox
	records recordReader
	catchUp func(ctx context.Context) error // with the feed of subscriptions
	rate    float64                         // events a second
	part    *partition
}

// recordReader is the part of kafka.Reader that the replayer uses.
type recordReader interface {
	Records(ctx context.Context, places []kafka.Place, each func(i int, r *kgo.Record, err error))
}

// handle takes one command. It returns when the command is done, or when ctx has ended and it is left to its next reader.
func (p *replayer) handle(ctx context.Context, t *kafka.Task) {
	var replay *replay
	for try := 0; ; try++ {
		err := p.attempt(ctx, t, &replay)
		if err == nil {
			t.Done()
			return
		}
		if ctx.Err() == nil {
			p.log.Warn("a replay has to wait", zap.Int64("offset", t.Record.Offset), zap.Error(err))
		}
		if !pause(ctx, try) {
			t.Abandon()
			return
		}
	}
}

// attempt goes on with a command, from where the attempt before came to. An error is worth another one.
func (p *replayer) attempt(ctx context.Context, t *kafka.Task, replay **replay) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = p.refuse(ctx, t, &unusable{reason: deadInternal, detail: p.panicked(cause, t.Record)})
			if *replay != nil && err == nil {
				err = (*replay).flight.wait(ctx, 0) // what was sent before
			}
		}
	}()
	if *replay == nil {
		var command event.Replay
		if err := p.codec.Decode(ctx, t.Record.Value, &command); err != nil {
			return p.refuse(ctx, t, classify("decode the command", err))
		}
		if command.Command != replayStart || len(command.Events) == 0 {
			p.log.Warn("a replay's command is not one that this version of the filter knows", zap.String("replay", command.ID),
				zap.String("command", command.Command), zap.Int64("offset", t.Record.Offset))
			return nil
		}
		// Who asked for the replay may have changed the subscription just before, which the feed tells: perhaps not yet here.
		if err := p.catchUp(ctx); err != nil {
			return err
		}
		*replay = p.open(t.Context(), &command)
	}
	return (*replay).do(ctx)
}

// refuse writes the dead letter of a command that can't be done. Any other error is handed back.
func (p *replayer) refuse(ctx context.Context, t *kafka.Task, cause error) error {
	r := &replay{replayer: p, working: t.Context()}
	if err := r.emit(t.Record, func(out *emission) error { return p.bury(ctx, t.Record, identity{}, cause, out) }); err != nil {
		return err
	}
	return r.flight.wait(ctx, 0)
}

// replay is one command being done.
type replay struct {
	*replayer
	log     *zap.Logger
	command *event.Replay
	working context.Context // ends when the command is somebody else's
	left    []kafka.Place   // still to be sent
	pace    pace
	flight  flight
	scratch scratch
	counts  map[string]int // events by what became of them
}

func (p *replayer) open(working context.Context, command *event.Replay) *replay {
	r := &replay{
		replayer: p, command: command, working: working, counts: make(map[string]int),
		log:  p.log.With(zap.String("replay", command.ID), zap.String("tenant", command.Tenant), zap.String("subscription", command.SubscriptionID)),
		pace: pace{rate: p.rate},
	}
	if command.Rate > 0 {
		r.pace.rate = min(p.rate, command.Rate)
	}
	for _, e := range command.Events {
		if !topic.IsEvents(e.Topic) {
			r.count(replayUnreadable)
			continue
		}
		r.left = append(r.left, kafka.Place{Topic: e.Topic, Partition: e.Partition, Offset: e.Offset})
	}
	return r
}

// do sends what is left, and returns nil when all of it is acknowledged.
func (r *replay) do(ctx context.Context) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var failed error
	done := make([]bool, len(r.left))
	r.records.Records(reading, r.left, func(i int, record *kgo.Record, err error) {
		if failed != nil {
			return
		}
		if failed = r.event(ctx, r.left[i], record, err); failed != nil {
			stop() // the rest has to come after this one
			return
		}
		done[i] = true
	})
	left := make([]kafka.Place, 0, len(r.left))
	for i, place := range r.left {
		if !done[i] {
			left = append(left, place)
		}
	}
	r.left = left
	if failed != nil {
		return failed
	}
	if err := r.flight.wait(ctx, 0); err != nil {
		return err
	}
	fields := []zap.Field{zap.String("reason", r.command.Reason), zap.Int("events", len(r.command.Events))}
	for outcome, n := range r.counts {
		fields = append(fields, zap.Int(outcome, n))
	}
	r.log.Info("replay done", fields...)
	return nil
}

// event sends one event, or finds that it is gone.
func (r *replay) event(ctx context.Context, place kafka.Place, record *kgo.Record, err error) error {
	switch {
	case errors.Is(err, kafka.ErrGone), errors.Is(err, kafka.ErrNoRecord):
		r.log.Warn("an event can't be replayed: it is no longer in the log", zap.Stringer("event", place), zap.Error(err))
		r.count(replayGone)
		return nil
	case err != nil:
		return err
	}
	for _, wait := range []func() error{
		func() error { return r.pace.wait(ctx) },
		func() error { return r.part.settle(ctx) }, // what has to be produced again goes before
		func() error { return r.flight.wait(ctx, maxReplayBytes) },
	} {
		if err := wait(); err != nil {
			return err
		}
	}
	outcome := ""
	err = r.emit(record, func(out *emission) (err error) {
		outcome, err = r.again(ctx, record, r.command, r.target(r.command), out)
		return err
	})
	if err == nil {
		r.count(outcome)
	}
	return err
}

// emit produces what build makes of a record.
func (r *replay) emit(record *kgo.Record, build func(out *emission) error) error {
	size := int64(1)
	w := &work{record: record, part: r.part}
	w.pending.Store(1)
	out := &emission{batch: r.outbox.batch(roomFor(record)), scratch: r.scratch.again()}
	out.flush = func(b *batch) *batch {
		size += int64(len(b.buf))
		r.outbox.send(w, b)
		return r.outbox.batch(flushBytes)
	}
	w.task = replayed{ctx: r.working, done: func() { r.flight.add(-size) }}
	if err := build(out); err != nil {
		r.outbox.free(out.batch)
		return err
	}
	size += int64(len(out.buf))
	r.flight.add(size)
	r.outbox.send(w, out.batch)
	w.release()
	return nil
}

func (r *replay) count(outcome string) {
	r.counts[outcome]++
	r.metrics.replayed(outcome)
}

// target is the subscription that a replay is for, as it is now. One that was deleted, one that there never was and one of
// another tenant come to the same: nothing is sent.
func (p *replayer) target(command *event.Replay) *subscription.Compiled {
	if c, ok := p.book.Get(command.SubscriptionID); ok && c.Tenant == command.Tenant {
		return c
	}
	return &subscription.Compiled{ID: command.SubscriptionID, Tenant: command.Tenant, Deleted: true}
}

// again decides about an event that a replay names, for the replay's subscription alone, and appends what follows from it.
// It returns the decision's outcome, or replayUnreadable for a record that makes no event: that had its dead letter when it
// first came.
func (d *decider) again(ctx context.Context, r *kgo.Record, command *event.Replay, c *subscription.Compiled, out *emission) (outcome string, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			d.panicked(cause, r, zap.String("replay", command.ID))
			outcome, err = replayUnreadable, nil
		}
	}()
	id, err := identify(ctx, d.codec, r)
	var e *event.Event
	if err == nil {
		e, err = d.read(ctx, r, id, &out.event)
	}
	if err == nil && e.Tenant != command.Tenant {
		err = &unusable{reason: deadHeaderMismatch, detail: fmt.Sprintf("the replay is of tenant %q, the event is not", command.Tenant)}
	}
	if unusable, ok := asUnusable(err); ok {
		d.log.Warn("an event can't be replayed", zap.String("replay", command.ID), zap.String("reason", unusable.reason),
			zap.String("detail", unusable.detail), zap.String("topic", r.Topic), zap.Int32("partition", r.Partition), zap.Int64("offset", r.Offset))
		return replayUnreadable, nil
	}
	if err != nil {
		return "", err
	}
	job := &out.job
	*job = newJob(d, r, e, out)
	job.replayID = command.ID
	if err := job.consider(ctx, c); err != nil {
		return "", err
	}
	outcome = out.entries[0].Outcome
	return outcome, job.decisions(ctx)
}

// replayed is the task of one event of a replay.
type replayed struct {
	ctx  context.Context
	done func()
}

func (t replayed) Context() context.Context { return t.ctx }

func (t replayed) Done() { t.done() }

// flight counts the bytes that are with the brokers and not acknowledged.
type flight struct {
	mu    sync.Mutex
	bytes int64
	less  chan struct{} // closed when bytes fall; nil while nobody waits
}

func (f *flight) add(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += n
	if n < 0 && f.less != nil {
		close(f.less)
		f.less = nil
	}
}

// wait waits until no more than most bytes are in flight.
func (f *flight) wait(ctx context.Context, most int64) error {
	for {
		f.mu.Lock()
		if f.bytes <= most {
			f.mu.Unlock()
			return nil
		}
		if f.less == nil {
			f.less = make(chan struct{})
		}
		less := f.less
		f.mu.Unlock()
		select {
		case <-less:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pace keeps events at a rate.
type pace struct {
	rate float64 // a second
	next time.Time
}

// paceSlack is how far events may run ahead of their rate: a timer for each would be less exact than that anyway.
const paceSlack = 10 * time.Millisecond

// wait waits until it is time for the next event.
func (p *pace) wait(ctx context.Context) error {
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	ahead := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(time.Second) / p.rate))
	if ahead <= paceSlack {
		return ctx.Err()
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
