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
	"github.com/callstream/callstream/subscription/payload"
)

// The outcomes of a decision.
const (
	outcomeQueued  = "queued"
	outcomeSkipped = "skipped"
	outcomeDead    = "dead"
)

// The reasons for skipping, besides the subscription's state and those of the CEL filter.
const (
	skipDuplicate = "duplicate" // the event was seen within ten minutes
	skipAgent     = "agent"     // the subscription names other agents
)

const (
	// maxBody is the largest rendering that is sent (CONTRACT section 7).
	maxBody = 3 << 20
	// maxOtherAgents bounds how many subscriptions that are for other agents an event's decisions name.
	maxOtherAgents = 50
	// maxEntries bounds the decisions in one record, which keeps it far below what its topic takes. An event with more
	// has several records.
	maxEntries = 4000
)

// verdicts are all the ways that a decision can end.
func verdicts() []verdict {
	all := []verdict{{outcomeQueued, ""}, {outcomeDead, deadTooLarge}, {outcomeDead, deadRender}}
	for _, reason := range []string{
		skipDuplicate, skipAgent, string(subscription.StatePending), string(subscription.StatePaused), string(subscription.StateDisabled),
		subscription.ReasonFiltered, subscription.ReasonMissingField, subscription.ReasonFilterError,
	} {
		all = append(all, verdict{outcomeSkipped, reason})
	}
	return all
}

// decider makes of an event record what follows from it: deliveries, decisions, dead letters. It decides by the log and
// the Book alone, so that a record that is read again makes the same deliveries, byte for byte.
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
	DecodeEvent(ctx context.Context, topic string, value []byte) (*event.Event, error)
	Encode(ctx context.Context, dst []byte, r event.Record) ([]byte, error)
	Decode(ctx context.Context, value []byte, r event.Record) error
}

// emission collects the records that follow from one event. flush hands a batch on when it has grown large.
type emission struct {
	*batch
	flush func(*batch) *batch
	// scratch holds the bodies of the event at hand, until they are copied into records.
	scratch []byte
	// traceparent is the filter's own span, for the headers. It is not in the values, which a reread has to repeat.
	traceparent string
}

// rendering is a body that several subscriptions may share.
type rendering struct {
	key  string
	body payload.Rendered
	err  error
}

// decide appends to out all records that follow from r. An error means that nothing was decided and r has to be handled
// again: the context ended, or the registry can't be asked.
func (d *decider) decide(ctx context.Context, r *kgo.Record, memory *repeats, out *emission) (identity, error) {
	id, err := identify(ctx, d.codec, r)
	if err != nil {
		return id, d.bury(ctx, r, id, err, out)
	}
	if !d.book.Interested(id.Tenant, id.Type) {
		memory.notice(id, r)
		return id, nil
	}
	e, err := d.codec.DecodeEvent(ctx, r.Topic, r.Value)
	if err != nil {
		return id, d.bury(ctx, r, id, classify("decode the event", err), out)
	}
	complete(e, id, r)
	if faults := e.Check(); len(faults) > 0 {
		return id, d.bury(ctx, r, id, &unusable{reason: deadInvalid, detail: faults.Error()}, out)
	}
	// Only now: whoever sends a mended event after a bad one under the same id repeats nothing.
	first, repeat := memory.notice(id, r)

	job := job{decider: d, record: r, event: e, out: out}
	if repeat {
		job.duplicateOf = fmt.Sprintf("the same event is at offset %d of the partition", first)
	}
	for _, c := range d.book.Candidates(e.Tenant, e.Type, e.AgentID) {
		if err := job.consider(ctx, c); err != nil {
			return id, err
		}
	}
	for _, c := range d.book.OtherAgents(e.Tenant, e.Type, e.AgentID, maxOtherAgents) {
		job.note(c, verdict{outcomeSkipped, skipAgent}, "the subscription is for other agents", "")
	}
	return id, job.decisions(ctx)
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

// job is the work on one event that somebody may want.
type job struct {
	*decider
	record      *kgo.Record
	event       *event.Event
	out         *emission
	duplicateOf string // says of which record the event is a repeat; empty when it is none

	renderings []rendering
	entries    []event.DecisionEntry
	room       [4]rendering // first backing of renderings
}

// consider decides about one candidate and writes what follows.
func (j *job) consider(ctx context.Context, c *subscription.Compiled) error {
	s := c.Subscription
	switch {
	case j.duplicateOf != "":
		j.note(c, verdict{outcomeSkipped, skipDuplicate}, j.duplicateOf, "")
		return nil
	case s.State != subscription.StateActive:
		j.note(c, verdict{outcomeSkipped, string(s.State)}, s.StateReason, "")
		return nil
	}
	filter, err := c.Filter()
	if err != nil {
		j.note(c, verdict{outcomeSkipped, subscription.ReasonFilterError}, err.Error(), "")
		return nil
	}
	if matched, reason, detail := filter.Match(j.event); !matched {
		j.note(c, verdict{outcomeSkipped, reason}, detail, "")
		return nil
	}
	body := j.render(c)
	delivery := payload.NewDelivery(s, j.event, body.body)
	switch {
	case body.err != nil:
		j.note(c, verdict{outcomeDead, deadRender}, body.err.Error(), delivery.ID)
		return j.dead(ctx, c, delivery.ID, deadRender, body.err.Error())
	case body.body.Size() > maxBody:
		detail := fmt.Sprintf("the body is %d bytes, at most %d are sent", body.body.Size(), maxBody)
		j.note(c, verdict{outcomeDead, deadTooLarge}, detail, delivery.ID)
		return j.dead(ctx, c, delivery.ID, deadTooLarge, detail)
	}
	j.note(c, verdict{outcomeQueued, ""}, "", delivery.ID)
	return j.deliver(ctx, c, &delivery)
}

// render renders the event for a subscription, once for all that want the same rendering.
func (j *job) render(c *subscription.Compiled) *rendering {
	if j.renderings == nil {
		j.renderings = j.room[:0]
	}
	renderer, err := payload.For(c)
	if err != nil {
		return &rendering{err: err}
	}
	key := renderer.Key()
	for i := range j.renderings {
		if j.renderings[i].key == key {
			return &j.renderings[i]
		}
	}
	started := j.now()
	var body payload.Rendered
	j.out.scratch, body, err = renderer.Append(j.out.scratch, j.event)
	j.metrics.rendered(j.now().Sub(started))
	j.renderings = append(j.renderings, rendering{key: key, body: body, err: err})
	return &j.renderings[len(j.renderings)-1]
}

func (j *job) note(c *subscription.Compiled, v verdict, detail, deliveryID string) {
	j.metrics.decision(v)
	j.entries = append(j.entries, event.DecisionEntry{
		SubscriptionID: c.ID, SubscriptionVersion: c.Version, Outcome: v.outcome, Reason: v.reason, Detail: detail, DeliveryID: deliveryID,
	})
}

// deliver writes the delivery record. Everything in its value comes from the event record and the subscription.
func (j *job) deliver(ctx context.Context, c *subscription.Compiled, delivery *event.Delivery) error {
	s, e := c.Subscription, j.event
	delivery.EventTopic, delivery.EventPartition, delivery.EventOffset = j.record.Topic, j.record.Partition, j.record.Offset
	b := j.out.batch
	value, err := j.encode(ctx, b, delivery)
	if err != nil {
		return err
	}
	lane, partitions := j.lanes.find(ctx, s.Lane)
	from := len(b.headers)
	b.header(kafka.HeaderTenant, e.Tenant)
	b.header(kafka.HeaderType, e.Type)
	b.header(kafka.HeaderID, e.ID)
	b.header(kafka.HeaderSource, e.Source)
	if t := j.traceparent(); t != "" {
		b.header(kafka.HeaderTraceparent, t)
	}
	b.header(kafka.HeaderSubscription, c.ID)
	b.number(kafka.HeaderSubscriptionVersion, c.Version)
	b.header(kafka.HeaderDelivery, delivery.ID)
	b.number(kafka.HeaderAcceptedAt, e.IngestedAt.UnixMicro())
	j.out.add(kgo.Record{
		Topic: lane, Partition: topic.PartitionFor(c.ID, e.CallID, s.Spread, partitions),
		Key: b.text(c.ID), Value: value, Headers: b.headers[from:len(b.headers):len(b.headers)],
	})
	return nil
}

// traceparent is the context that whoever reads a record of ours continues.
func (j *job) traceparent() string {
	if j.out.traceparent != "" {
		return j.out.traceparent
	}
	return j.event.Traceparent
}

// decisions writes what was decided about the event, if anything was.
func (j *job) decisions(ctx context.Context) error {
	e := j.event
	for len(j.entries) > 0 {
		part := j.entries[:min(maxEntries, len(j.entries))]
		j.entries = j.entries[len(part):]
		decision := event.Decision{
			Tenant: e.Tenant, EventID: e.ID, EventType: e.Type, Source: e.Source, CallID: e.CallID, AgentID: e.AgentID,
			EventTime: e.Time, AcceptedAt: e.IngestedAt,
			EventTopic: j.record.Topic, EventPartition: j.record.Partition, EventOffset: j.record.Offset,
			DecidedAt: j.now(), Decisions: part,
		}
		b := j.out.batch
		value, err := j.encode(ctx, b, &decision)
		if err != nil {
			return err
		}
		from := len(b.headers)
		b.header(kafka.HeaderTenant, e.Tenant)
		b.header(kafka.HeaderType, e.Type)
		b.header(kafka.HeaderID, e.ID)
		b.header(kafka.HeaderSource, e.Source)
		if t := j.traceparent(); t != "" {
			b.header(kafka.HeaderTraceparent, t)
		}
		j.out.add(kgo.Record{
			Topic: topic.Decisions, Key: e.Key(), Value: value, Headers: b.headers[from:len(b.headers):len(b.headers)],
		})
	}
	return nil
}

// dead writes the dead letter of a delivery that could not be made.
func (j *job) dead(ctx context.Context, c *subscription.Compiled, id, reason, detail string) error {
	e := j.event
	letter := j.letter(j.record, reason, detail)
	letter.Tenant, letter.SubscriptionID, letter.SubscriptionVersion, letter.DeliveryID = e.Tenant, c.ID, c.Version, id
	letter.EventID, letter.EventType, letter.Source, letter.CallID = e.ID, e.Type, e.Source, e.CallID
	letter.Traceparent, letter.ErrorClass = j.traceparent(), reason
	return j.emitLetter(ctx, letter, []byte(c.ID), j.out)
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
