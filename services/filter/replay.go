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
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// replayStart is the command of callstream.replays that sends events again.
const replayStart = "start"

// What became of an event that a replay names, besides the outcomes of a decision.
const (
	replayGone       = "gone"       // retention took it, or another event is at its place
	replayUnreadable = "unreadable" // it can't be read, makes no event, or not one of the replay's tenant
)

const (
	// replaysAtOnce is how many commands are done at a time, each for another tenant.
	replaysAtOnce = 8
	// maxReplayBytes bounds what each of them has on its way to the brokers.
	maxReplayBytes = 2 << 20
	// unreadablePatience is how long a command waits, in all, for records that can't be read.
	unreadablePatience = 2 * time.Minute
)

// replayer does what callstream.replays asks for: it reads events again by their places in the log, decides about each for
// one subscription as it is now, and writes the delivery and the decision with the replay's id. A command's offset
// completes when all that follows from it is acknowledged. One that is cut short is done again from its beginning: what it
// had sent goes out again under the same webhook-id.
//
// The commands of one tenant are done one after another, and tenants take turns, command by command: whoever missed a
// million events holds up nobody else. All together keep to one rate, so that what was missed yesterday does not hold up
// what happens now.
type replayer struct {
	*decider
	outbox  *outbox
	records recordReader
	catchUp func(ctx context.Context) error // with the feed of subscriptions
	pace    *pace                           // of all commands

	slots   chan struct{} // holds one for each command being done; who waits longest is next
	workers sync.WaitGroup

	mu      sync.Mutex
	waiting map[string][]parked // by tenant; a tenant that is in it has a worker
}

// parked is a command whose turn has not come. Where it stands is all that is kept of it, since a tenant may have
// thousands of them.
type parked struct {
	ctx  context.Context // of its partition's intake
	task *kafka.Task
	at   kafka.Place
}

// recordReader is the part of kafka.Reader that the replayer uses.
type recordReader interface {
	Record(ctx context.Context, at kafka.Place) (*kgo.Record, error)
	Records(ctx context.Context, places []kafka.Place, each func(i int, r *kgo.Record, err error))
}

func newReplayer(d *decider, o *outbox, records recordReader, catchUp func(ctx context.Context) error, rate float64) *replayer {
	return &replayer{
		decider: d, outbox: o, records: records, catchUp: catchUp, pace: &pace{rate: rate},
		slots: make(chan struct{}, replaysAtOnce), waiting: make(map[string][]parked),
	}
}

// handle takes one command and puts it behind those of its tenant. It returns at once, but where the command can't be
// read: then when that is settled, or when ctx has ended and the command is left to its next reader.
func (p *replayer) handle(ctx context.Context, t *kafka.Task) {
	for try := 0; ; try++ {
		command, err := p.commandOf(ctx, t.Context(), t.Record)
		switch {
		case err == nil && command == nil:
			t.Done()
			return
		case err == nil:
			p.park(ctx, t, command.Tenant)
			return
		case ctx.Err() == nil:
			p.log.Warn("a replay's command has to wait", zap.Int64("offset", t.Record.Offset), zap.Error(err))
		}
		if run.Again(ctx, try+1) != nil {
			t.Abandon()
			return
		}
	}
}

// commandOf decodes a command. It returns nil for one that can't be done.
func (p *replayer) commandOf(ctx, working context.Context, r *kgo.Record) (*event.Replay, error) {
	var command event.Replay
	if err := p.codec.Decode(ctx, r.Value, &command); err != nil {
		return nil, p.refuse(ctx, working, r, classify("decode the command", err))
	}
	if command.Command != replayStart || len(command.Events) == 0 {
		p.log.Warn("a replay's command is not one that this version of the filter knows", zap.String("replay", command.ID),
			zap.String("command", command.Command), zap.Int64("offset", r.Offset))
		return nil, nil
	}
	return &command, nil
}

// park queues a command behind its tenant's others.
func (p *replayer) park(ctx context.Context, t *kafka.Task, tenant string) {
	at := kafka.Place{Topic: t.Record.Topic, Partition: t.Record.Partition, Offset: t.Record.Offset}
	t.Record = &kgo.Record{Topic: at.Topic, Partition: at.Partition, Offset: at.Offset} // lets go of what was fetched with it
	p.mu.Lock()
	defer p.mu.Unlock()
	queue, working := p.waiting[tenant]
	p.waiting[tenant] = append(queue, parked{ctx, t, at})
	if !working {
		p.workers.Go(func() { p.work(tenant) })
	}
}

// work does a tenant's commands until there are none.
func (p *replayer) work(tenant string) {
	for {
		p.mu.Lock()
		queue := p.waiting[tenant]
		if len(queue) == 0 {
			delete(p.waiting, tenant)
			p.mu.Unlock()
			return
		}
		next := queue[0]
		p.waiting[tenant] = queue[1:]
		p.mu.Unlock()
		select {
		case p.slots <- struct{}{}:
			p.finish(next)
			<-p.slots
		case <-next.ctx.Done():
			next.task.Abandon()
		}
	}
}

// finish does one command. It returns when the command is done, or when ctx has ended and it is left to its next reader.
func (p *replayer) finish(c parked) {
	var replay *replay
	for try := 0; ; try++ {
		err := p.attempt(c, &replay)
		if err == nil {
			c.task.Done()
			return
		}
		if c.ctx.Err() == nil {
			p.log.Warn("a replay has to wait", zap.Int64("offset", c.at.Offset), zap.Error(err))
		}
		if run.Again(c.ctx, try+1) != nil {
			c.task.Abandon()
			return
		}
	}
}

// attempt goes on with a command, from where the attempt before came to. An error is worth another one.
func (p *replayer) attempt(c parked, replay **replay) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			record := c.task.Record
			if *replay != nil {
				record = (*replay).record
			}
			err = p.refuse(c.ctx, c.task.Context(), record, &unusable{reason: deadInternal, detail: p.panicked(cause, record)})
			if *replay != nil && err == nil {
				err = (*replay).flight.wait(c.ctx, 0) // what was sent before
			}
		}
	}()
	if *replay == nil {
		record, err := p.records.Record(c.ctx, c.at)
		if gone(err) {
			p.log.Warn("a replay's command is no longer in the log", zap.Stringer("command", c.at), zap.Error(err))
			return nil
		}
		if err != nil {
			return err
		}
		command, err := p.commandOf(c.ctx, c.task.Context(), record)
		if err != nil || command == nil {
			return err
		}
		// Who asked for the replay may have changed the subscription just before, which the feed tells: perhaps not yet here.
		if err := p.catchUp(c.ctx); err != nil {
			return err
		}
		*replay = p.open(c.task.Context(), record, command)
	}
	return (*replay).do(c.ctx)
}

// gone says of an error of the reader that there is no such record.
func gone(err error) bool { return errors.Is(err, kafka.ErrGone) || errors.Is(err, kafka.ErrNoRecord) }

// refuse writes the dead letter of a command that can't be done. Any other error is handed back.
func (p *replayer) refuse(ctx, working context.Context, record *kgo.Record, cause error) error {
	r := p.open(working, record, &event.Replay{})
	if err := r.emit(record, func(out *emission) error { return p.bury(ctx, record, identity{}, cause, out) }); err != nil {
		return err
	}
	return r.flight.wait(ctx, 0)
}

// replay is one command being done.
type replay struct {
	*replayer
	log     *zap.Logger
	record  *kgo.Record // of the command
	command *event.Replay
	working context.Context     // ends when the command is somebody else's
	left    []event.ReplayEvent // still to be sent
	pace    *pace               // of this command; nil where only that of all counts
	part    *partition
	flight  flight
	scratch scratch
	counts  map[string]int // events by what became of them
	// unreadable is when a record could not be read first; zero while all could.
	unreadable time.Time
}

func (p *replayer) open(working context.Context, record *kgo.Record, command *event.Replay) *replay {
	r := &replay{
		replayer: p, record: record, command: command, working: working, counts: make(map[string]int),
		log:  p.log.With(zap.String("replay", command.ID), zap.String("tenant", command.Tenant), zap.String("subscription", command.SubscriptionID)),
		part: &partition{TopicPartition: kafka.TopicPartition{Topic: topic.Replays}},
	}
	if command.Rate > 0 {
		r.pace = &pace{rate: command.Rate}
	}
	for _, e := range command.Events {
		if !topic.IsEvents(e.Topic) {
			r.count(replayUnreadable)
			continue
		}
		r.left = append(r.left, e)
	}
	return r
}

// do sends what is left, and returns nil when all of it is acknowledged.
func (r *replay) do(ctx context.Context) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var failed error
	places, done := make([]kafka.Place, len(r.left)), make([]bool, len(r.left))
	for i := range r.left {
		places[i] = placeOf(&r.left[i])
	}
	r.records.Records(reading, places, func(i int, record *kgo.Record, err error) {
		if failed != nil {
			return
		}
		if failed = r.event(ctx, &r.left[i], record, err); failed != nil {
			stop() // the rest has to come after this one
			return
		}
		done[i] = true
	})
	left := make([]event.ReplayEvent, 0, len(r.left))
	for i := range r.left {
		if !done[i] {
			left = append(left, r.left[i])
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

func placeOf(e *event.ReplayEvent) kafka.Place {
	return kafka.Place{Topic: e.Topic, Partition: e.Partition, Offset: e.Offset}
}

// event sends one event, or finds that it can't be had.
func (r *replay) event(ctx context.Context, named *event.ReplayEvent, record *kgo.Record, err error) error {
	switch {
	case gone(err):
		r.log.Warn("an event can't be replayed: it is no longer in the log", zap.Stringer("event", placeOf(named)), zap.Error(err))
		r.count(replayGone)
		return nil
	case errors.Is(err, kafka.ErrUnreadable) && r.impatient():
		return r.giveUp(ctx, named, err)
	case err != nil:
		return err
	}
	if err := r.turn(ctx); err != nil {
		return err
	}
	outcome := ""
	err = r.emit(record, func(out *emission) (err error) {
		outcome, err = r.again(ctx, record, r.command, named, r.target(r.command), out)
		return err
	})
	if err == nil {
		r.count(outcome)
	}
	return err
}

// turn waits until the next event may be sent.
func (r *replay) turn(ctx context.Context) error {
	if r.pace != nil {
		if err := r.pace.wait(ctx); err != nil {
			return err
		}
	}
	for _, wait := range []func() error{
		func() error { return r.replayer.pace.wait(ctx) },
		func() error { return r.part.settle(ctx) }, // what has to be produced again goes before
		func() error { return r.flight.wait(ctx, maxReplayBytes) },
	} {
		if err := wait(); err != nil {
			return err
		}
	}
	return nil
}

// impatient says whether the command has waited long enough for records that can't be read. It waits once, not for each of
// them: they may be all.
func (r *replay) impatient() bool {
	if r.unreadable.IsZero() {
		r.unreadable = time.Now()
	}
	return time.Since(r.unreadable) >= unreadablePatience
}

// giveUp explains why an event is not sent whose record can't be read.
func (r *replay) giveUp(ctx context.Context, named *event.ReplayEvent, cause error) error {
	r.log.Error("an event can't be replayed: its record can't be read", zap.Stringer("event", placeOf(named)), zap.Error(cause))
	if named.ID != "" { // else nobody knows which event it is
		if err := r.turn(ctx); err != nil {
			return err
		}
		record := &kgo.Record{Topic: named.Topic, Partition: named.Partition, Offset: named.Offset}
		err := r.emit(record, func(out *emission) error {
			job := &out.job
			*job = newJob(r.decider, record, &event.Event{Tenant: r.command.Tenant, ID: named.ID, Source: named.Source}, out)
			job.replayID = r.command.ID
			job.note(r.target(r.command), verdict{outcomeSkipped, subscription.ReasonUnreadable}, "the event's record can't be read: "+clip(cause.Error()), "")
			return job.decisions(ctx)
		})
		if err != nil {
			return err
		}
	}
	r.count(replayUnreadable)
	return nil
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
// It returns the decision's outcome, replayGone for a record of another event, or replayUnreadable for one that makes no
// event: that had its dead letter when it first came. A fault of ours makes a dead letter of the event, beside what was
// made of it before.
func (d *decider) again(ctx context.Context, r *kgo.Record, command *event.Replay, named *event.ReplayEvent, c *subscription.Compiled, out *emission) (outcome string, err error) {
	var id identity
	defer func() {
		if cause := recover(); cause != nil {
			detail := d.panicked(cause, r, zap.String("replay", command.ID))
			outcome, err = outcomeDead, d.fail(ctx, r, id, command, c, detail, out)
		}
	}()
	id, err = identify(ctx, d.codec, r)
	if err == nil && named.ID != "" && (id.Tenant != command.Tenant || id.ID != named.ID || id.Source != named.Source) {
		d.log.Warn("an event can't be replayed: the log has another one at its place", zap.String("replay", command.ID),
			zap.String("event", named.ID), zap.Stringer("place", placeOf(named)))
		return replayGone, nil
	}
	if err == nil && id.Tenant != command.Tenant {
		err = &unusable{reason: deadHeaderMismatch, detail: fmt.Sprintf("the replay is of tenant %q, the event is not", command.Tenant)}
	}
	var e *event.Event
	if err == nil {
		e, err = d.read(ctx, r, id, &out.event)
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

// fail writes the dead letter of an event that a fault of ours stopped on its way to a replay's subscription, and the
// decision that says so. Of one that is not known to be of the replay's tenant it says no more than decide does.
func (d *decider) fail(ctx context.Context, r *kgo.Record, id identity, command *event.Replay, c *subscription.Compiled, detail string, out *emission) error {
	if id.Tenant != command.Tenant || id.ID == "" {
		return d.bury(ctx, r, id, &unusable{reason: deadInternal, detail: detail}, out)
	}
	out.entries = out.entries[:0]
	job := &out.job
	*job = newJob(d, r, &event.Event{Tenant: id.Tenant, ID: id.ID, Source: id.Source, Type: id.Type}, out)
	job.replayID = command.ID
	if err := job.die(ctx, c, deadInternal, detail); err != nil {
		return err
	}
	return job.decisions(ctx)
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

// pace keeps events at a rate, whoever sends them.
type pace struct {
	rate float64 // a second
	mu   sync.Mutex
	next time.Time
}

// paceSlack is how far events may run ahead of their rate: a timer for each would be less exact than that anyway.
const paceSlack = 10 * time.Millisecond

// wait waits until it is time for the next event.
func (p *pace) wait(ctx context.Context) error {
	now := time.Now()
	p.mu.Lock()
	if p.next.Before(now) {
		p.next = now
	}
	ahead := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(time.Second) / p.rate))
	p.mu.Unlock()
	if ahead <= paceSlack {
		return ctx.Err()
	}
	return run.Sleep(ctx, ahead)
}
