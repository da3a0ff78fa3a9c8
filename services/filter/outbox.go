package filter

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
)

// work is one event record on its way through the filter. Its offset completes when every record that follows from it is
// acknowledged, and not before: what is lost in a crash is made again from the same record.
type work struct {
	task    task
	record  *kgo.Record // of the event
	part    *partition
	pending atomic.Int64 // unacknowledged records, and one for the handler itself
	done    func()       // ends the span; may be nil
}

// task is the part of kafka.Task that work needs.
type task interface {
	Context() context.Context
	Done()
}

// release gives back one of pending.
func (w *work) release() {
	if w.pending.Add(-1) != 0 {
		return
	}
	if w.done != nil {
		w.done()
	}
	w.task.Done()
}

// batch holds records of one work with the bytes that they are made of. The broker's client reads them until they are
// acknowledged, so they go back to the pool only then.
type batch struct {
	buf     []byte
	headers []kgo.RecordHeader
	records []kgo.Record
	left    atomic.Int64
}

func (b *batch) number(key string, value int64) {
	from := len(b.buf)
	b.buf = strconv.AppendInt(b.buf, value, 10)
	b.headers = append(b.headers, kgo.RecordHeader{Key: key, Value: b.buf[from:len(b.buf):len(b.buf)]})
}

// flushBytes is when a batch that is being filled is sent: an event with thousands of subscriptions must not need memory
// for all its renderings at once.
const flushBytes = 256 << 10

func (b *batch) reset() {
	clear(b.headers)
	clear(b.records)
	b.buf, b.headers, b.records = b.buf[:0], b.headers[:0], b.records[:0]
}

// text appends a string to the batch's buffer and returns it as bytes. Growing the buffer leaves what was handed out
// before where it is.
func (b *batch) text(s string) []byte {
	from := len(b.buf)
	b.buf = append(b.buf, s...)
	return b.buf[from:len(b.buf):len(b.buf)]
}

func (b *batch) header(key, value string) {
	b.headers = append(b.headers, kgo.RecordHeader{Key: key, Value: b.text(value)})
}

// outbox produces what the filter makes. For each partition of the input it keeps the order in which records were made,
// also when some of them have to be tried again.
type outbox struct {
	log     *zap.Logger
	metrics *metrics
	write   func(ctx context.Context, r *kgo.Record, done func(error))
	// fit makes a record that the broker refuses into one that it takes: what is too large smaller, and a delivery that is
	// refused for another reason its dead letter. It is nil when nothing smaller is left.
	fit     func(r *kgo.Record, w *work, refused error) *kgo.Record
	retries sync.WaitGroup
	batches sync.Pool
}

// batch returns an empty batch with room for about size bytes.
func (o *outbox) batch(size int) *batch {
	b, ok := o.batches.Get().(*batch)
	if !ok {
		b = &batch{}
	}
	b.buf = slices.Grow(b.buf, size)
	return b
}

// free puts a batch back. One that an unusually large event has blown up is left to the garbage collector.
func (o *outbox) free(b *batch) {
	if cap(b.buf) > 2*flushBytes {
		return
	}
	b.reset()
	o.batches.Put(b)
}

// send produces a batch's records in order. The batch belongs to the outbox from here on.
func (o *outbox) send(w *work, b *batch) {
	if len(b.records) == 0 {
		o.free(b)
		return
	}
	n := int64(len(b.records))
	w.pending.Add(n)
	b.left.Store(n)
	for i := range b.records {
		r := &b.records[i]
		o.write(w.task.Context(), r, func(err error) { o.settle(w, b, r, err) })
	}
}

// settle takes the broker's answer for one record.
func (o *outbox) settle(w *work, b *batch, r *kgo.Record, err error) {
	if err != nil {
		w.part.retry(o, unsent{work: w, batch: b, record: r, err: err})
		return
	}
	o.acknowledged(w, b)
}

func (o *outbox) acknowledged(w *work, b *batch) {
	if b.left.Add(-1) == 0 {
		o.free(b)
	}
	w.release()
}

// unsent is a record that the broker did not take.
type unsent struct {
	work   *work
	batch  *batch
	record *kgo.Record
	err    error
}

// partition is what the filter keeps for one partition of the input while it owns it.
type partition struct {
	kafka.TopicPartition
	repeats *repeats // used by the partition's handler alone, as is scratch
	scratch scratch

	mu      sync.Mutex
	unsent  []unsent
	settled chan struct{} // closed when unsent is empty again; nil while it is
}

// retry queues a record to be produced again. The client reports failures in the order of its calls, so the queue is in
// the order in which the records were made; while it is not empty the handler waits, so nothing overtakes it.
func (p *partition) retry(o *outbox, u unsent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsent = append(p.unsent, u)
	if p.settled == nil {
		p.settled = make(chan struct{})
		o.retries.Go(func() { p.drain(o) })
	}
}

// settle waits until nothing waits to be produced again.
func (p *partition) settle(ctx context.Context) error {
	p.mu.Lock()
	settled := p.settled
	p.mu.Unlock()
	if settled == nil {
		return nil
	}
	select {
	case <-settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drain produces the queue one by one, until it is empty. It gives up only what belongs to a partition that was lost: the
// next owner makes the same records again.
func (p *partition) drain(o *outbox) {
	for {
		p.mu.Lock()
		if len(p.unsent) == 0 {
			close(p.settled)
			p.settled, p.unsent = nil, nil
			p.mu.Unlock()
			return
		}
		u := p.unsent[0]
		p.unsent = p.unsent[1:]
		p.mu.Unlock()
		o.insist(u)
	}
}

// refusals is how often a delivery is tried again that its topic refuses: a batch is refused as a whole, and the fault may
// be with a neighbour.
const refusals = 4

// insist produces one record until it is taken, in a form that is.
func (o *outbox) insist(u unsent) {
	ctx := u.work.task.Context()
	for try := 0; u.err != nil; try++ {
		if ctx.Err() != nil {
			return // lost: never released, so its offset never completes here
		}
		o.metrics.produceError(u.err)
		refused := errors.Is(u.err, kafka.ErrRejected) && try >= refusals && isLane(u.record.Topic)
		if refused || errors.Is(u.err, kafka.ErrTooLarge) {
			o.log.Warn("a topic refuses a record", zap.String("topic", u.record.Topic),
				zap.Int("bytes", len(u.record.Value)), zap.Error(u.err))
			if u.record = o.fit(u.record, u.work, u.err); u.record == nil {
				break // logged; holding up the partition for ever would lose more
			}
		} else {
			// Brokers that are away, and what somebody has to mend: Producer.Err names it, and nothing is given up for it.
			o.log.Warn("produce failed, trying again", zap.String("topic", u.record.Topic), zap.Int("try", try+1), zap.Error(u.err))
			if run.Again(ctx, try+1) != nil {
				return
			}
		}
		answer := make(chan error, 1)
		o.write(ctx, u.record, func(err error) { answer <- err })
		select {
		case u.err = <-answer:
		case <-ctx.Done():
			// The client can't take back what may be on its way, and with the brokers away it answers when they are back:
			// the end of the process must not wait for that.
			return
		}
	}
	o.acknowledged(u.work, u.batch)
}
