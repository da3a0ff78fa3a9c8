package filter

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// The outcomes of a decision.
const (
	outcomeQueued  = "queued"
	outcomeSkipped = "skipped"
	outcomeDead    = "dead"
)

// skipDuplicate is the reason for skipping an event that was seen within ten minutes. All others are the subscription's own.
const skipDuplicate = "duplicate"

const (
	// maxOtherAgents bounds how many subscriptions that are for other agents an event's decisions name.
	maxOtherAgents = 50
	// maxEntries bounds the decisions in one record, which keeps it far below what its topic takes. An event with more
	// has several records.
	maxEntries = 4000
)

// verdicts are all the ways that a decision can end.
func verdicts() []verdict {
	all := []verdict{{outcomeQueued, ""}, {outcomeDead, reasonOther}, {outcomeSkipped, reasonOther}}
	for _, reason := range deadDeliveries() {
		all = append(all, verdict{outcomeDead, reason})
	}
	for _, reason := range []string{
		skipDuplicate, subscription.ReasonDeleted, subscription.ReasonUnreadable, subscription.ReasonPending, subscription.ReasonPaused,
		subscription.ReasonDisabled, subscription.ReasonType, subscription.ReasonItself, subscription.ReasonAgent, subscription.ReasonExpired,
		subscription.ReasonFiltered, subscription.ReasonMissingField, subscription.ReasonFilterError,
	} {
		all = append(all, verdict{outcomeSkipped, reason})
	}
	return all
}

// decider makes of an event record what follows from it: deliveries, decisions, dead letters. It decides by the log and
// the Book alone, so that a record that is read again makes the same deliveries, byte for byte; only a time to live asks
// the clock.
type decider struct {
	log     *zap.Logger
	codec   codec
	book    *subscription.Book
	lanes   *lanes
	metrics *metrics
	now     func() time.Time
}

// codec is the part of event.Codec that the filter uses.
type codec interface {
	peeker
	DecodeEventInto(ctx context.Context, e *event.Event, topic string, value []byte) error
	Encode(ctx context.Context, dst []byte, r event.Record) ([]byte, error)
	Decode(ctx context.Context, value []byte, r event.Record) error
}

// emission collects the records that follow from one event. flush hands a batch on when it has grown large.
type emission struct {
	*batch
	flush func(*batch) *batch
	*scratch
	// traceparent is the filter's own span, for the headers. It is not in the values, which a reread has to repeat.
	traceparent string
}

// scratch is memory that one event after another uses.
type scratch struct {
	bodies   []byte                // until they are copied into records
	entries  []event.DecisionEntry // until they are written
	event    event.Event
	job      job
	decision event.Decision
}

// again returns the memory for the next event, without what an unusually large one has taken.
func (s *scratch) again() *scratch {
	if cap(s.bodies) > flushBytes {
		s.bodies = nil
	}
	if cap(s.entries) > 2*maxEntries {
		s.entries = nil
	}
	clear(s.entries)
	s.bodies, s.entries = s.bodies[:0], s.entries[:0]
	return s
}

// decide appends to out all records that follow from r. An error means that nothing was decided and r has to be handled
// again: the context ended, or the registry can't be asked. A fault of ours makes a dead letter of the record, beside what
// was made of it before.
func (d *decider) decide(ctx context.Context, r *kgo.Record, memory *repeats, out *emission) (id identity, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = d.bury(ctx, r, id, &unusable{reason: deadInternal, detail: d.panicked(cause, r)}, out)
		}
	}()
	id, err = identify(ctx, d.codec, r)
	if err != nil {
		return id, d.bury(ctx, r, id, err, out)
	}
	if !d.book.Interested(id.Tenant, id.Type) {
		memory.notice(id, r)
		return id, nil
	}
	e, err := d.read(ctx, r, id, &out.event)
	if err != nil {
		return id, d.bury(ctx, r, id, err, out)
	}
	// Only now: whoever sends a mended event after a bad one under the same id repeats nothing.
	first, repeat := memory.notice(id, r)

	job := &out.job
	*job = newJob(d, r, e, out)
	if repeat {
		job.duplicateOf = fmt.Sprintf("the same event is at offset %d of the partition", first)
	}
	for _, c := range d.book.Candidates(e.Tenant, e.Type, e.AgentID) {
		if err := job.consider(ctx, c); err != nil {
			return id, err
		}
	}
	for _, c := range d.book.OtherAgents(e.Tenant, e.Type, e.AgentID, maxOtherAgents) {
		reason, detail := c.Wants(e)
		job.note(c, verdict{outcomeSkipped, reason}, detail, "")
	}
	return id, job.decisions(ctx)
}

// read decodes the event of a record that was identified into e, and returns it.
func (d *decider) read(ctx context.Context, r *kgo.Record, id identity, e *event.Event) (*event.Event, error) {
	if err := d.codec.DecodeEventInto(ctx, e, r.Topic, r.Value); err != nil {
		return nil, classify("decode the event", err)
	}
	complete(e, id, r)
	if faults := e.Check(); len(faults) > 0 {
		return nil, &unusable{reason: deadInvalid, detail: faults.Error()}
	}
	return e, nil
}

// panicked logs a panic while a record was handled, with the stack, and says for people what happened. It is called by the
// deferred function that recovered.
func (d *decider) panicked(cause any, r *kgo.Record, about ...zap.Field) string {
	text := clip(fmt.Sprint(cause))
	d.log.Error("a fault of ours while an event was handled: it is a dead letter", append(about, zap.String("panic", text),
		zap.String("topic", r.Topic), zap.Int32("partition", r.Partition), zap.Int64("offset", r.Offset), zap.Stack("stack"))...)
	return "callstream failed on this event: " + text
}

// bury writes the dead letter of a record that no subscription can be asked about. Any other error is handed back.
func (d *decider) bury(ctx context.Context, r *kgo.Record, id identity, cause error, out *emission) error {
	unusable, ok := asUnusable(cause)
	if !ok {
		return cause
	}
	letter := d.letter(r, unusable.reason, unusable.detail)
	// What the headers claim helps whoever looks for it, and routes nothing.
	letter.Tenant, letter.EventID, letter.EventType, letter.Source = id.Tenant, id.ID, id.Type, id.Source
	if letter.Tenant == "" {
		letter.Tenant = kafka.Header(r, kafka.HeaderTenant)
	}
	if letter.EventID == "" {
		letter.EventID = kafka.Header(r, kafka.HeaderID)
	}
	if letter.EventType == "" {
		letter.EventType = kafka.Header(r, kafka.HeaderType)
	}
	if letter.Source == "" {
		letter.Source = kafka.Header(r, kafka.HeaderSource)
	}
	letter.ErrorClass = unusable.reason
	if unusable.err != nil {
		letter.Error = unusable.err.Error()
	}
	d.log.Warn("event record is dead", zap.String("reason", unusable.reason), zap.String("detail", unusable.detail),
		zap.String("topic", r.Topic), zap.Int32("partition", r.Partition), zap.Int64("offset", r.Offset), zap.Error(unusable.err))
	return d.emitLetter(ctx, letter, r.Key, out)
}

// letter starts a dead letter with what is known of every record.
func (d *decider) letter(r *kgo.Record, reason, detail string) *event.DeadLetter {
	now := d.now()
	letter := &event.DeadLetter{
		Reason: reason, Detail: detail, OriginalKey: r.Key, OriginalValue: r.Value,
		SourceTopic: r.Topic, SourcePartition: r.Partition, SourceOffset: r.Offset,
		FirstFailedAt: now, LastFailedAt: now, DeadAt: now, Service: "filter",
		Traceparent: kafka.Header(r, kafka.HeaderTraceparent),
	}
	if len(r.Headers) > 0 {
		letter.OriginalHeaders = make(map[string][]byte, len(r.Headers))
		for i := range r.Headers {
			letter.OriginalHeaders[r.Headers[i].Key] = r.Headers[i].Value
		}
	}
	return letter
}

func (d *decider) emitLetter(ctx context.Context, letter *event.DeadLetter, key []byte, out *emission) error {
	b := out.batch
	value, err := d.encode(ctx, b, letter)
	if err != nil {
		return err
	}
	d.metrics.deadLetter(letter.Reason)
	out.add(kgo.Record{Topic: topic.DeadLetters, Key: key, Value: value, Headers: letterHeaders(letter)})
	return nil
}

// letterHeaders let a dead letter be found without decoding it.
func letterHeaders(letter *event.DeadLetter) []kgo.RecordHeader {
	var headers []kgo.RecordHeader
	for _, h := range [...][2]string{
		{kafka.HeaderTenant, letter.Tenant}, {kafka.HeaderType, letter.EventType}, {kafka.HeaderID, letter.EventID},
		{kafka.HeaderSource, letter.Source}, {kafka.HeaderTraceparent, letter.Traceparent},
		{kafka.HeaderSubscription, letter.SubscriptionID}, {kafka.HeaderDelivery, letter.DeliveryID}, {headerReason, letter.Reason},
	} {
		if h[1] != "" {
			headers = append(headers, kafka.StringHeader(h[0], h[1]))
		}
	}
	return headers
}

// headerReason says on a dead letter why it is one.
const headerReason = "reason"

// encode appends a record's value to the batch's buffer. It waits for a registry that doesn't answer; bytes of ours always
// encode otherwise.
func (d *decider) encode(ctx context.Context, b *batch, r event.Record) ([]byte, error) {
	from := len(b.buf)
	buf, err := d.codec.Encode(ctx, b.buf, r)
	if err != nil {
		return nil, fmt.Errorf("encode a %s: %w", r.SchemaName(), err)
	}
	b.buf = buf
	return buf[from:len(buf):len(buf)], nil
}

// add appends a record, and sends the batch on when it has grown large.
func (o *emission) add(r kgo.Record) {
	o.records = append(o.records, r)
	if len(o.buf) >= flushBytes {
		o.batch = o.flush(o.batch)
	}
}
