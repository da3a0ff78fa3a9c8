package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
)

// The reasons for which a dead letter could not be put back.
const (
	failedGone       = "gone"       // retention took the letter, or what it points to
	failedAnother    = "another"    // another record is at its place by now
	failedUnreadable = "unreadable" // the record does not decode, or Kafka does not hand it out
	failedTooLarge   = "too_large"  // the lane does not take it
	failedNoLane     = "no_lane"    // neither its lane nor the default one has its partition
)

const (
	redrivePrefix = "rdr_" // of the ids of redrives, and of retries by hand
	replayPrefix  = "rpl_" // of the ids of replays
	// reasonRedrive is why a replay was asked for.
	reasonRedrive = "redrive"
	// byConsole stands where a dispatcher would be named.
	byConsole = "console"

	// redrivePoll is how often is looked for redrives that another process has stored.
	redrivePoll = time.Second
	// redriveBatch is how many letters of a redrive are on their way at most, which a crash repeats; redriveBatches is into
	// how many a second is divided, so that the rate is even.
	redriveBatch, redriveBatches = 100, 10
	// redriveTimeout bounds what is done with a batch, letterTimeout how long one record waits to be acknowledged.
	redriveTimeout, letterTimeout = 30 * time.Second, 10 * time.Second
	// redriveRest is the pause after a failure.
	redriveRest = time.Second
	// lanesKnownFor is how long it is believed which topics there are.
	lanesKnownFor = 10 * time.Second
)

// redriver puts deliveries back: dead letters whose redrive was asked for, and those that are retried by hand. One process
// at a time works off what is stored. It marks a letter as put back when the brokers have acknowledged it, so that a
// process that dies repeats what was on its way, under the same webhook-id, and loses none. A process that goes on repeats
// nothing that a lane has taken.
type redriver struct {
	log      *zap.Logger
	codec    *event.Codec
	records  recordReader
	producer *kafka.Producer
	now      func() time.Time
	wake     chan struct{}
	turns    map[string]*turn // of the redrives that run; whoever leads has it

	mu     sync.Mutex
	lanes  map[string]int // partitions of the topics that exist
	looked time.Time
}

// turn is how far a redrive is.
type turn struct {
	next time.Time // when it goes on
	// The place with which it goes on: letters that could not be put back are passed by until all others had their turn.
	partition int32
	offset    int64
	// kept are letters that their lanes have taken, and of which the history or the store has not been told.
	kept []*returned
}

// has says whether the letter is among those that are kept.
func (t *turn) has(item storage.RedriveItem) bool {
	return slices.ContainsFunc(t.kept, func(o *returned) bool { return o.item.Partition == item.Partition && o.item.Offset == item.Offset })
}

func newRedriver(cfg kafka.Config, codec *event.Codec, records recordReader, log *zap.Logger, now func() time.Time) (*redriver, error) {
	// Partition p stays p on every hop, so it is named, never made of the key.
	producer, err := kafka.NewProducer(cfg, log, kafka.ManualPartitions(func(string) bool { return true }), kgo.RecordDeliveryTimeout(letterTimeout))
	if err != nil {
		return nil, err
	}
	return &redriver{log: log.Named("redrive"), codec: codec, records: records, producer: producer, now: now, wake: make(chan struct{}, 1), turns: map[string]*turn{}}, nil
}

func (r *redriver) close() { r.producer.Close() }

// kick makes the redriver look at once for what there is to do.
func (r *redriver) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *redriver) run(ctx context.Context, store *storage.Store) error {
	for ctx.Err() == nil {
		led, release, err := store.LeadRedrives(ctx)
		if err == nil {
			err = r.lead(led, store)
			release()
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("dead letters can't be put back now, trying again", zap.Error(err))
		}
		if run.Sleep(ctx, redriveRest) != nil {
			return nil
		}
	}
	return nil
}

// lead works off all redrives, some letters of each in turn, until the end of the lead.
func (r *redriver) lead(ctx context.Context, store *storage.Store) error {
	for {
		running, err := store.RunningRedrives(ctx)
		if err != nil {
			return err
		}
		maps.DeleteFunc(r.turns, func(id string, _ *turn) bool {
			return !slices.ContainsFunc(running, func(one storage.Redrive) bool { return one.ID == id })
		})
		rest := redrivePoll
		for i := range running {
			one := &running[i]
			if ctx.Err() != nil {
				return ctx.Err()
			}
			t := r.turns[one.ID]
			if t == nil {
				t = &turn{}
				r.turns[one.ID] = t
			}
			if wait := t.next.Sub(r.now()); wait > 0 {
				rest = min(rest, wait)
				continue
			}
			began := r.now()
			n, err := r.step(ctx, store, one, t)
			wait := time.Duration(n) * time.Second / time.Duration(one.Rate)
			if err != nil {
				r.log.Warn("a redrive has to wait", zap.String("redrive", one.ID), zap.Error(err))
				wait = redriveRest
			}
			t.next = began.Add(wait)
			rest = max(min(rest, t.next.Sub(r.now())), 0)
		}
		if err := run.Await(ctx, r.wake, rest); err != nil {
			return err
		}
	}
}

// step puts the next letters of a redrive back, and returns how many it took up. What it began it ends, also when ctx does
// meanwhile: else it would be repeated.
func (r *redriver) step(ctx context.Context, store *storage.Store, redrive *storage.Redrive, t *turn) (int, error) {
	limit := max(1, min(redrive.Rate/redriveBatches, redriveBatch))
	items, err := store.RedriveWaiting(ctx, redrive.ID, t.partition, t.offset, limit)
	if err != nil {
		return 0, err
	}
	// Those that are kept count too, so that a crash repeats no more than a batch.
	room := limit - len(t.kept)
	last := len(items) < limit // the next step begins with the first place again
	items = slices.DeleteFunc(items, t.has)
	if len(items) > room {
		items, last = items[:room], false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redriveTimeout)
	defer cancel()
	all, failed := r.read(ctx, redrive, items)
	switch {
	case last:
		t.partition, t.offset = 0, 0
	case len(items) > 0:
		passed := items[len(items)-1]
		t.partition, t.offset = passed.Partition, passed.Offset+1
	}
	for _, one := range t.kept {
		one.err = nil
	}
	all = append(t.kept, all...)
	r.send(ctx, all)
	// Those that the store does not know to be done are not sent again for that.
	t.kept = slices.DeleteFunc(slices.Clone(all), func(o *returned) bool { return !o.taken() })
	settled := make([]storage.RedriveItem, 0, len(items))
	commands := map[string]*event.Replay{} // by subscription
	for _, one := range all {
		if one.err != nil {
			failed = errors.Join(failed, one.err)
			continue // it stays where it is
		}
		if one.replay != nil && one.item.State == storage.ItemDone {
			command := commands[one.mark.SubscriptionID]
			if command == nil {
				command = &event.Replay{ID: replayPrefix + ulid.Make().String(), Tenant: redrive.Tenant, SubscriptionID: one.mark.SubscriptionID, Command: replayStart,
					Rate: float64(redrive.Rate), RequestedAt: r.now().UTC(), RequestedBy: redrive.RequestedBy, Reason: reasonRedrive}
				commands[one.mark.SubscriptionID] = command
			}
			command.Events = append(command.Events, *one.replay)
		}
		settled = append(settled, one.item)
	}
	asked := make([]event.Replay, 0, len(commands))
	for _, id := range slices.Sorted(maps.Keys(commands)) {
		asked = append(asked, *commands[id])
	}
	if err := store.SettleRedrive(ctx, redrive.ID, settled, asked); err != nil {
		return 0, err
	}
	t.kept = slices.DeleteFunc(t.kept, func(o *returned) bool { return o.err == nil })
	return len(settled), failed
}

// returned is one delivery on its way back.
type returned struct {
	item   storage.RedriveItem
	record *kgo.Record        // for its lane; nil where it has been taken, or its event is replayed
	replay *event.ReplayEvent // the event to be rendered anew
	mark   event.Attempt      // tells the history
	note   *kgo.Record        // the mark as it is written
	told   bool               // the history has it
	err    error              // worth another try
}

// taken says whether its lane has it, or only the history is left to be told.
func (o *returned) taken() bool { return o.note != nil && o.record == nil }

// fail says why the letter can't be put back.
func (o *returned) fail(reason, detail string) {
	o.item.State, o.item.Reason, o.item.Detail = storage.ItemFailed, reason, detail
}

// read makes of letters what is written to put them back.
func (r *redriver) read(ctx context.Context, redrive *storage.Redrive, items []storage.RedriveItem) ([]*returned, error) {
	all, places := make([]*returned, len(items)), make([]kafka.Place, len(items))
	for i, item := range items {
		item.State = storage.ItemDone
		all[i], places[i] = &returned{item: item}, kafka.Place{Topic: topic.DeadLetters, Partition: item.Partition, Offset: item.Offset}
	}
	lanes, err := r.existing(ctx)
	if err != nil {
		return nil, err
	}
	r.records.Records(ctx, places, func(i int, record *kgo.Record, err error) {
		r.resolve(ctx, all[i], redrive, lanes, record, err)
	})
	return all, nil
}

// resolve decides what becomes of one letter.
func (r *redriver) resolve(ctx context.Context, out *returned, redrive *storage.Redrive, lanes map[string]int, record *kgo.Record, err error) {
	var l event.DeadLetter
	if err == nil {
		err = r.codec.Decode(ctx, record.Value, &l)
	}
	if err == nil && (l.Tenant != redrive.Tenant || !deadAt(&l, record).Equal(out.item.DeadAt)) {
		err = errAnother
	}
	if err != nil {
		out.unread(err)
		return
	}
	out.mark = event.Attempt{
		DeliveryID: l.DeliveryID, Tenant: l.Tenant, SubscriptionID: l.SubscriptionID, SubscriptionVersion: l.SubscriptionVersion,
		EventID: l.EventID, EventType: l.EventType, Source: l.Source, CallID: l.CallID, Attempt: l.Attempts,
		BodyTopic: topic.DeadLetters, BodyPartition: out.item.Partition, BodyOffset: out.item.Offset, Traceparent: l.Traceparent, Redrive: redrive.ID,
		// The history takes a mark from before the letter for that of another one.
		StartedAt: later(r.now().UTC(), out.item.DeadAt.Add(time.Microsecond)),
	}
	at := kafka.Place{Topic: l.SourceTopic, Partition: l.SourcePartition, Offset: l.SourceOffset}
	if topic.IsEvents(l.SourceTopic) {
		// The filter has nobody to tell that the event is gone.
		if _, err := r.records.Record(ctx, at); err != nil {
			out.unread(err)
			return
		}
		out.replay = &event.ReplayEvent{Topic: at.Topic, Partition: at.Partition, Offset: at.Offset, ID: l.EventID, Source: l.Source}
		return
	}
	original := &kgo.Record{Key: l.OriginalKey, Value: l.OriginalValue, Topic: l.SourceTopic, Partition: l.SourcePartition, Offset: l.SourceOffset}
	for _, name := range slices.Sorted(maps.Keys(l.OriginalHeaders)) {
		original.Headers = append(original.Headers, kgo.RecordHeader{Key: name, Value: l.OriginalHeaders[name]})
	}
	if len(original.Value) == 0 {
		// It was too large to be carried.
		if original, err = r.records.Record(ctx, at); err != nil {
			out.unread(err)
			return
		}
	}
	r.putBack(ctx, out, original, l.Attempts, lanes)
}

// putBack makes the record that carries a delivery on, after so many attempts. out.mark says which delivery it has to be.
func (r *redriver) putBack(ctx context.Context, out *returned, original *kgo.Record, attempts int, lanes map[string]int) {
	var d event.Delivery
	if err := r.codec.Decode(ctx, original.Value, &d); err != nil {
		out.unread(err)
		return
	}
	// A frozen batch goes back as a whole: its bytes are what the attempts before have sent.
	d, is := d.Of(out.mark.DeliveryID)
	if !is || d.Tenant != out.mark.Tenant {
		out.unread(errAnother)
		return
	}
	lane := topic.Lane(cmp.Or(d.Lane, topic.DefaultLane))
	if lanes[lane] == 0 {
		lane = topic.Lane(topic.DefaultLane)
	}
	if int(original.Partition) >= lanes[lane] {
		out.fail(failedNoLane, fmt.Sprintf("the topic %s has no partition %d", lane, original.Partition))
		return
	}
	out.mark.ReplayID, out.mark.Test, out.mark.AcceptedAt = d.ReplayID, d.Test, d.AcceptedAt
	out.record = &kgo.Record{Topic: lane, Partition: original.Partition, Key: original.Key, Value: original.Value, Headers: redrivenHeaders(original, attempts, out.mark.Redrive)}
}

// redrivenHeaders are those of a delivery that begins a new schedule, and name the one that it takes over from: copies of that
// one are not sent any more. What said where it was parked and when it was due is left out, with its place in the order of its
// call, which those behind it have passed.
func redrivenHeaders(original *kgo.Record, attempts int, redrive string) []kgo.RecordHeader {
	headers := make([]kgo.RecordHeader, 0, len(original.Headers)+5)
	for _, h := range original.Headers {
		switch h.Key {
		case kafka.HeaderDue, kafka.HeaderEnqueued, kafka.HeaderTier, kafka.HeaderParked, kafka.HeaderVia, kafka.HeaderOrder, kafka.HeaderRank,
			kafka.HeaderAttempt, kafka.HeaderScheduleFrom, kafka.HeaderOrigin, kafka.HeaderRedrive, kafka.HeaderOvertakes:
		default:
			headers = append(headers, h)
		}
	}
	origin := cmp.Or(kafka.Header(original, kafka.HeaderOrigin), placeOfRecord(original).String())
	if before := kafka.Header(original, kafka.HeaderRedrive); before != "" {
		headers = append(headers, kafka.StringHeader(kafka.HeaderOvertakes, before))
	}
	return append(headers, kafka.IntHeader(kafka.HeaderAttempt, int64(attempts)), kafka.IntHeader(kafka.HeaderScheduleFrom, int64(attempts)),
		kafka.StringHeader(kafka.HeaderOrigin, origin), kafka.StringHeader(kafka.HeaderRedrive, redrive))
}

// placeOfRecord is where a record stands.
func placeOfRecord(r *kgo.Record) kafka.Place {
	return kafka.Place{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
}

// unread says what it means that a record can't be had: that there is none, or that another try may help.
func (o *returned) unread(err error) {
	switch {
	case errors.Is(err, kafka.ErrGone), errors.Is(err, kafka.ErrNoRecord):
		o.fail(failedGone, noteGone)
	case errors.Is(err, errAnother):
		o.fail(failedAnother, noteAnother)
	case errors.Is(err, event.ErrPoison):
		o.fail(failedUnreadable, "the record does not decode")
	case errors.Is(err, kafka.ErrUnreadable):
		o.fail(failedUnreadable, "Kafka has the record and does not hand it out")
	default:
		o.err = err
	}
}

// send writes deliveries, and then the marks of those that their lanes have taken: of one that is not sent the history is
// told nothing, and one that is sent is not sent again because the history could not be told.
func (r *redriver) send(ctx context.Context, all []*returned) {
	ready := func(one *returned) bool { return one.err == nil && one.item.State == storage.ItemDone }
	for _, one := range all {
		if ready(one) && one.note == nil {
			one.note, one.err = r.marked(ctx, one)
		}
	}
	r.write(ctx, all, func(one *returned) *kgo.Record {
		if !ready(one) {
			return nil
		}
		return one.record
	}, func(one *returned, err error) {
		switch {
		case err == nil:
			one.record = nil
		case errors.Is(err, kafka.ErrTooLarge):
			one.fail(failedTooLarge, "its lane does not take a record of that size")
		default:
			one.err = err // also what is fatal: somebody may mend it
		}
	})
	r.write(ctx, all, func(one *returned) *kgo.Record {
		if !ready(one) || one.told {
			return nil
		}
		note := *one.note // what was tried is not to be tried again
		return &note
	}, func(one *returned, err error) { one.told, one.err = err == nil, err })
}

// write produces the record that each has, if any, and waits for all of them.
func (r *redriver) write(ctx context.Context, all []*returned, record func(*returned) *kgo.Record, done func(*returned, error)) {
	var acknowledged sync.WaitGroup
	for _, one := range all {
		rec := record(one)
		if rec == nil {
			continue
		}
		acknowledged.Add(1)
		r.producer.Produce(ctx, rec, func(err error) {
			defer acknowledged.Done()
			done(one, err)
		})
	}
	acknowledged.Wait()
}

// marked is the record that tells the history of a delivery that is put back.
func (r *redriver) marked(ctx context.Context, one *returned) (*kgo.Record, error) {
	one.mark.Outcome, one.mark.Reason, one.mark.Dispatcher = history.StateQueued, history.ReasonRedriven, byConsole
	value, err := r.codec.Encode(ctx, nil, &one.mark)
	if err != nil {
		return nil, fmt.Errorf("encode what tells of a redrive: %w", err)
	}
	partition := one.item.Partition
	if one.record != nil {
		partition = one.record.Partition
	}
	return &kgo.Record{Topic: topic.Attempts, Partition: partition, Key: []byte(one.mark.SubscriptionID), Value: value}, nil
}

// existing returns how many partitions each topic has.
func (r *redriver) existing(ctx context.Context) (map[string]int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); r.lanes == nil || now.Sub(r.looked) > lanesKnownFor {
		details, err := kadm.NewClient(r.producer.Client()).ListTopics(ctx)
		if err != nil {
			return nil, fmt.Errorf("ask which lanes there are: %w", err)
		}
		lanes := map[string]int{}
		for _, d := range details {
			if d.Err == nil {
				lanes[d.Topic] = len(d.Partitions)
			}
		}
		r.lanes, r.looked = lanes, now
	}
	return r.lanes, nil
}

// deadAt is when a letter was written, as the history has it.
func deadAt(l *event.DeadLetter, record *kgo.Record) time.Time {
	if l.DeadAt.IsZero() {
		return record.Timestamp.UTC()
	}
	return l.DeadAt
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
