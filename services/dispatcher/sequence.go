package dispatcher

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

const (
	// mostHeld bounds the bytes that a sequencer holds of a topic.
	mostHeld = 8 << 20
	// scans is how many partitions of the ordered lane are read at once.
	scans = 4
)

// sequencers keep the deliveries of calls in order whose subscriptions want that, each those of one partition number.
type sequencers struct {
	s      *Service
	limits orderLimits
	delay  time.Duration // for which a record stays in the ordered lane at least
	seed   maphash.Seed
	slots  chan struct{} // bounds scans

	mu    sync.Mutex
	all   map[int32]*sequencer
	ended sync.WaitGroup
}

func newSequencers(s *Service, cfg Config) *sequencers {
	return &sequencers{
		s: s, all: map[int32]*sequencer{}, seed: maphash.MakeSeed(), slots: make(chan struct{}, scans),
		// What comes back from the ordered lane has half of its time in place left to be in time for those behind it.
		delay: cfg.OrderInPlace / 2,
		limits: orderLimits{
			ordered: topic.Ordered, inPlace: cfg.OrderInPlace, bytes: min(cfg.WindowBytes/2, mostHeld),
			// With many in hand a window spans no more than a bitmap, whatever is configured.
			offsets: int64(max(min(cfg.WindowOffsets, kafka.CrowdedWindow)/2, 1)),
		},
	}
}

// of returns the sequencer of a partition number, making it where there is none.
func (q *sequencers) of(partition int32) *sequencer {
	q.mu.Lock()
	defer q.mu.Unlock()
	one := q.all[partition]
	if one == nil {
		one = &sequencer{sequencers: q, s: q.s, book: newOrderBook(q.limits), wake: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(context.Background())
		one.end = cancel
		q.all[partition] = one
		q.ended.Go(func() { one.run(ctx) })
	}
	return one
}

// owned is the sequencer of a partition number, nil where there is none.
func (q *sequencers) owned(partition int32) *sequencer {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.all[partition]
}

// lost forgets a topic's partition, and all of its number when it was the last of it.
func (q *sequencers) lost(tp kafka.TopicPartition, last bool) {
	q.mu.Lock()
	one := q.all[tp.Partition]
	if last {
		delete(q.all, tp.Partition)
	}
	q.mu.Unlock()
	switch {
	case one == nil:
	case last:
		one.end()
	default:
		one.change(func(now time.Time) { one.book.drop(tp.Topic, now) })
	}
}

// close ends what is left, and waits for it.
func (q *sequencers) close() {
	q.mu.Lock()
	for _, one := range q.all {
		one.end()
	}
	q.mu.Unlock()
	q.ended.Wait()
}

// holds is how many deliveries wait for their turn here, and how many stand in the ordered lane for it.
func (q *sequencers) holds() (held, away int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, one := range q.all {
		one.mu.Lock()
		h, a := one.book.holds()
		one.mu.Unlock()
		held, away = held+h, away+a
	}
	return held, away
}

// sequencer carries out what the book of one partition number wants, and tells it what came of that.
type sequencer struct {
	*sequencers
	s    *Service
	wake chan struct{}
	end  func()

	mu   sync.Mutex
	book *orderBook
}

// run keeps the book's time, until ctx ends.
func (q *sequencer) run(ctx context.Context) {
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	for {
		q.change(q.book.tick)
		q.mu.Lock()
		next := q.book.nextAlarm()
		q.mu.Unlock()
		wait := time.Hour
		if !next.IsZero() {
			wait = max(time.Until(next), 0)
		}
		alarm.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-alarm.C:
		case <-q.wake:
		}
	}
}

// nudge has run look at the book again.
func (q *sequencer) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// change does something to the book, and then what the book wants. It must not be called by who must not wait.
func (q *sequencer) change(fn func(now time.Time)) {
	q.mu.Lock()
	before := q.book.nextAlarm()
	fn(time.Now())
	orders := q.book.take()
	after := q.book.nextAlarm()
	q.mu.Unlock()
	if !after.IsZero() && (before.IsZero() || after.Before(before)) {
		q.nudge()
	}
	for _, o := range orders {
		q.obey(o)
	}
}

// take takes a delivery that was handed out into the book, and waits as submit does where its subscription has no room.
func (q *sequencer) take(ctx context.Context, j *job) {
	r := j.task.Record
	e := &ordered{
		position: position{rank: j.rank, id: maphash.String(q.seed, kafka.Header(r, kafka.HeaderDelivery))},
		key:      callKey{j.subscription, j.call}, topic: r.Topic, offset: r.Offset, size: j.size, job: j, by: q, notBefore: j.due,
	}
	j.order = e
	q.mu.Lock()
	waits := q.book.waits(e.key, time.Now())
	q.mu.Unlock()
	if !waits {
		switch why := q.s.scheduler.submit(ctx, j, patience(j.from.kind)); why {
		case admitted:
			e.counted = true
		case closing:
			j.task.Abandon()
			return
		default:
			q.s.metrics.parked[why].Add(1)
			e.full = true
		}
	}
	q.change(func(now time.Time) {
		if !q.book.add(e, now) {
			j.task.Abandon() // its place goes with its shard
		}
	})
}

// settled says that a delivery's outcome is on its way.
func (q *sequencer) settled(e *ordered) {
	q.change(func(now time.Time) { q.book.settled(e, now) })
}

// failed says that a delivery is to be sent again, not before until.
func (q *sequencer) failed(e *ordered, until time.Time) {
	q.change(func(now time.Time) { q.book.failed(e, until, now) })
}

// obey does one thing that the book wants.
func (q *sequencer) obey(o order) {
	e := o.ordered
	defer func() {
		if cause := recover(); cause != nil {
			q.s.broken(&e.job.delivery, cause)
			q.mu.Lock()
			q.book.written(e, -1, time.Now())
			q.mu.Unlock()
			q.nudge()
		}
	}()
	switch o.what {
	case orderSend:
		// A job goes through the scheduler once.
		j := &job{delivery: e.job.delivery, size: e.size, late: e.job.late || e.job.attempts > 0}
		j.shard, j.settled = q.s.shardOf(j), false
		e.job = j
		switch why := q.s.scheduler.enter(j); why {
		case admitted:
		case closing:
			j.task.Abandon()
		default:
			q.s.divert(j, why, j.until)
		}
	case orderWrite:
		q.write(e)
	case orderFinish:
		e.job.task.Done()
	case orderRelent:
		q.s.scheduler.vacate(e.job)
	}
}

// write appends a delivery to the ordered lane.
func (q *sequencer) write(e *ordered) {
	q.s.metrics.ordered.Add(1)
	d, now := &e.job.delivery, time.Now()
	m := move{topic: topic.Ordered, attempts: d.attempts, parked: d.parked}
	if e.notBefore.After(now) {
		m.due = e.notBefore
	}
	f := q.s.begin(d)
	f.writeThen(d.moved(m, now), func(offset int64) {
		q.mu.Lock()
		q.book.written(e, offset, time.Now())
		q.mu.Unlock()
		q.nudge() // the producer's goroutine must not wait
	})
	f.end()
}

// stays is until when a record of the ordered lane stays there. It is the same time for all, so that the head is always
// the next to leave. A record that was stamped by a clock that is ahead leaves at once.
func (q *sequencers) stays(d *delivery, now time.Time) (time.Time, bool) {
	at := d.enqueued.Add(q.delay)
	return at, at.After(now) && at.Sub(now) <= q.delay+clockSkew
}

// begin reads what stands in the ordered lane when a partition of it is assigned.
func (q *sequencers) begin(ctx context.Context, a kafka.Assignment) error {
	select {
	case q.slots <- struct{}{}:
		defer func() { <-q.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	in, err := q.unread(ctx, a)
	if err != nil {
		return fmt.Errorf("find what stands in %s: %w", a.TopicPartition, err)
	}
	var found []standing
	err = kafka.Scan(ctx, q.s.cfg.Config, q.s.log, in, func(r *kgo.Record) bool {
		if d := readDelivery(r, source{kind: fromOrdered}); d.call != "" && !a.Done(r.Offset) {
			found = append(found, standing{
				key:      callKey{d.subscription, d.call},
				position: position{rank: d.rank, id: maphash.String(q.seed, kafka.Header(r, kafka.HeaderDelivery))}, offset: r.Offset,
			})
		}
		return true
	})
	if err != nil {
		return err
	}
	if len(found) > 0 {
		q.s.log.Info("deliveries wait in the ordered lane", zap.Int32("partition", a.Partition), zap.Int("deliveries", len(found)))
	}
	one := q.of(a.Partition)
	one.change(func(now time.Time) { one.book.begin(found, now) })
	return nil
}

// unread is what the partition's owner has still to read, up to where the log ends now. Who owned it before writes nothing
// more that matters: what it was writing is still in the lane that it came from.
func (q *sequencers) unread(ctx context.Context, a kafka.Assignment) (kafka.Range, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	adm := kadm.NewClient(q.s.producer.Client())
	bound := func(list func(context.Context, ...string) (kadm.ListedOffsets, error)) (int64, error) {
		listed, err := list(ctx, a.Topic)
		if err != nil {
			return 0, err
		}
		o, ok := listed.Lookup(a.Topic, a.Partition)
		if !ok {
			return 0, fmt.Errorf("the brokers know no %s", a.TopicPartition)
		}
		return o.Offset, o.Err
	}
	start, err := bound(adm.ListStartOffsets)
	if err != nil {
		return kafka.Range{}, err
	}
	end, err := bound(adm.ListEndOffsets)
	return kafka.Range{TopicPartition: a.TopicPartition, From: max(start, a.Committed), To: end}, err
}

// gone passes by what the ordered lane has lost unread: nothing is to wait for it.
func (q *sequencers) gone(l kafka.Loss) {
	if l.Topic != topic.Ordered {
		return
	}
	from, to := l.From, l.To
	if l.Reason == kafka.LossTruncated {
		from, to = 0, math.MaxInt64
	}
	if one := q.owned(l.Partition); one != nil {
		one.change(func(now time.Time) { one.book.lost(from, to, now) })
	}
}

// stop gives back what waits of a topic that is being given up.
func (q *sequencers) stop(tp kafka.TopicPartition) {
	one := q.owned(tp.Partition)
	if one == nil {
		return
	}
	one.mu.Lock()
	idle := one.book.stop(tp.Topic)
	one.mu.Unlock()
	for _, e := range idle {
		e.job.task.Abandon()
	}
}
