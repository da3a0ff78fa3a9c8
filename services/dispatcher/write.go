package dispatcher

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// follow is what follows from one record: its offset completes when all of it is acknowledged. A follow is held open by
// one count of its own while writes are added.
type follow struct {
	s        *Service
	task     *kafka.Task
	delivery *delivery
	rest     []*job // the other members of a batch: what follows from one follows from all
	next     step   // where a late delivery goes on; zero where nothing is to be noted
	left     atomic.Int32
}

// begin opens the follow of a record, or takes up the one that was kept open.
func (s *Service) begin(d *delivery) *follow {
	if f := d.open; f != nil {
		f.delivery = d
		return f
	}
	f := &follow{s: s, task: d.task, delivery: d}
	f.left.Store(1)
	return f
}

// leadsTo says how far the delivery has come with what follows.
func (f *follow) leadsTo(next step) {
	if f.delivery.isLate() {
		f.next = next
	}
}

// end closes it: from now on the last acknowledgement completes the record.
func (f *follow) end() {
	d := f.delivery
	d.settled, f.delivery = true, nil
	for _, j := range f.rest {
		j.settled = true
	}
	f.done()
	if d.order != nil {
		d.order.by.settled(d.order)
	}
}

// keep leaves it open: the record is tried again, and what followed from it so far belongs to what is to follow.
func (f *follow) keep() { f.delivery.open, f.delivery = f, nil }

func (f *follow) done() {
	if f.left.Add(-1) > 0 {
		return
	}
	f.complete(f.task)
	for _, j := range f.rest {
		f.complete(j.task)
	}
}

func (f *follow) complete(t *kafka.Task) {
	if f.next != (step{}) {
		f.s.copies.taken(t, f.next)
	}
	t.Done()
}

// write adds one record to be written.
func (f *follow) write(r kgo.Record) { f.writeThen(r, nil) }

// writeThen is write, and calls then when the record is written: see write.then. It is called by the producer, which must
// not wait.
func (f *follow) writeThen(r kgo.Record, then func(offset int64)) {
	f.left.Add(1)
	w := f.s.newWrite()
	w.follow, w.record, w.then = f, r, then
	w.produce()
}

// write is one record on its way to Kafka.
type write struct {
	follow *follow
	record kgo.Record
	tries  int
	shrunk shrunk
	value  []byte // room for the record's value, used again once that is written
	done   func(error)
	then   func(offset int64) // called when it is written, with its offset, -1 where another record was written instead
}

// shrunk says how far a record was made smaller, because its topic refused it.
type shrunk int

const (
	whole    shrunk = iota
	replaced        // by a dead letter that holds its bytes
	least           // nothing is left that could be found elsewhere
)

// newWrite returns a write to be filled; acknowledged ones come back.
func (s *Service) newWrite() *write {
	if w, ok := s.writes.Get().(*write); ok {
		return w
	}
	w := &write{value: make([]byte, 0, 1536)}
	w.done = w.acknowledged
	return w
}

// largestKept bounds the room that a write keeps for the next one.
const largestKept = 32 << 10

// release gives an acknowledged write back: the producer is done with its record.
func (s *Service) release(w *write) {
	if cap(w.value) > largestKept {
		return
	}
	w.follow, w.record, w.tries, w.shrunk, w.then, w.value = nil, kgo.Record{}, 0, whole, nil, w.value[:0]
	s.writes.Put(w)
}

// produce hands the record to the producer; it blocks while the producer's buffer is full, which is what slows the
// workers down when the brokers are slow.
func (w *write) produce() {
	w.follow.s.producer.Produce(w.follow.task.Context(), &w.record, w.done)
}

// acknowledged decides by the class of the error. It runs in the producer's goroutine and must not block, so whatever
// produces again does it from a goroutine of its own.
func (w *write) acknowledged(err error) {
	s, ctx := w.follow.s, w.follow.task.Context()
	switch {
	case err == nil:
		f := w.follow
		if w.then != nil {
			offset := w.record.Offset
			if w.shrunk != whole {
				offset = -1
			}
			w.then(offset)
		}
		s.release(w)
		f.done()
	case ctx.Err() != nil:
		// The partition is somebody else's now: its new owner repeats the record.
	case errors.Is(err, kafka.ErrTooLarge) && w.shrunk != least:
		go w.shrink(ctx, reasonTooLarge, "the record is too large for the topic "+w.record.Topic)
	case errors.Is(err, kafka.ErrRejected) && w.tries >= refusals && w.shrunk == whole && w.moves():
		s.log.Warn("Kafka refuses a delivery, so it goes to the dead letters", zap.String("topic", w.record.Topic),
			zap.String("record", place(w.follow.task.Record)), zap.Error(err))
		go w.shrink(ctx, reasonRefused, "the topic "+w.record.Topic+" refuses the record: "+err.Error())
	case errors.Is(err, kafka.ErrTooLarge):
		// What is left is a few hundred bytes, so a topic that refuses it has been given a limit that nothing fits.
		// Holding the partition for it would stop every other delivery.
		s.metrics.lost.Add(1)
		s.log.Error("a record doesn't fit its topic and was not written", zap.String("topic", w.record.Topic),
			zap.Int("bytes", len(w.record.Value)), zap.String("record", place(w.follow.task.Record)), zap.Error(err))
		if w.then != nil {
			w.then(-1)
		}
		w.follow.done()
	default:
		// Brokers that are away, and what somebody has to mend: a permission, a topic that is gone or has too few partitions,
		// a clock. Readiness names it (Producer.Err), and nothing is given up for it.
		w.tries++
		s.metrics.rewrites.Add(1)
		if w.tries == 1 || w.tries%10 == 0 {
			s.log.Warn("could not write to Kafka, trying again", zap.String("topic", w.record.Topic), zap.Int("tries", w.tries), zap.Error(err))
		}
		// The client sets topic and partition of a record that it was given; the rest is as it was.
		time.AfterFunc(run.Backoff(w.tries), func() {
			if ctx.Err() == nil {
				w.produce()
			}
		})
	}
}

// refusals is how often a record is tried again that its topic refuses: a batch is refused as a whole, and the fault may be
// with a neighbour.
const refusals = 4

// moves tells whether the record takes its delivery on to another topic, so that a dead letter can stand for it.
func (w *write) moves() bool {
	switch w.record.Topic {
	case topic.Attempts, topic.Responses, topic.DeadLetters, topic.Signals, topic.OwnEvents:
		return false
	}
	return true
}

// shrink replaces a record that its topic refuses by one that fits: the same facts without the bytes that can be found
// elsewhere. A delivery that may not go on to the next topic becomes its dead letter first, and that one without the
// bytes if it doesn't fit either.
func (w *write) shrink(ctx context.Context, reason, detail string) {
	s := w.follow.s
	w.shrunk = least
	var smaller event.Record
	switch w.record.Topic {
	case topic.Attempts:
		var a event.Attempt
		if s.codec.Decode(ctx, w.record.Value, &a) == nil {
			a.ResponseBody, a.ResponseHeaders, a.RequestHeaders, a.ResponseTruncated = nil, nil, nil, true
			smaller = &a
		}
	case topic.Responses:
		var a event.Response
		if s.codec.Decode(ctx, w.record.Value, &a) == nil {
			a.Body, a.ContentType, a.Truncated, a.Valid, a.Problem = nil, "", true, false, "the answer doesn't fit the topic "+topic.Responses
			smaller = &a
		}
	case topic.DeadLetters:
		var d event.DeadLetter
		if s.codec.Decode(ctx, w.record.Value, &d) == nil {
			// source_topic, source_partition and source_offset say where the bytes are.
			d.OriginalValue, d.OriginalHeaders, d.ResponseBody = nil, nil, nil
			smaller = &d
		}
	case topic.Signals, topic.OwnEvents:
	default:
		w.shrunk = replaced
		letters := s.refused(ctx, w, reason, detail)
		for _, more := range letters[1:] {
			s.writeRecord(w.follow, topic.DeadLetters, &w.record, more)
		}
		smaller = letters[0]
		w.record = kgo.Record{Topic: topic.DeadLetters, Partition: w.record.Partition, Key: w.record.Key}
	}
	if smaller != nil {
		value, err := s.encode(ctx, nil, smaller)
		if err != nil {
			return // the partition is somebody else's now: its new owner repeats the record
		}
		w.record.Value = value
	}
	w.record.Headers = nil
	w.produce()
}
