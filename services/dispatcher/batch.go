package dispatcher

import (
	"context"
	"mime"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription/outbound"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	typeJSON             = "application/json"
	typeCloudEvent       = "application/cloudevents+json"
	typeCloudEventsBatch = "application/cloudevents-batch+json"
)

// part is one event of what a worker sends: all of it, or a member of a batch. Whatever is written down of an attempt, or
// of why there is none, is so for each part.
type part struct {
	*event.Delivery
	record *kgo.Record // that it was read from
}

// appendParts adds the parts of a delivery that was read from a record: those of a frozen batch are as they would have
// been read by themselves.
func appendParts(parts []part, d *event.Delivery, r *kgo.Record) []part {
	if len(d.Members) == 0 {
		return append(parts, part{d, r})
	}
	for i := range d.Members {
		one := d.Member(i)
		parts = append(parts, part{&one, r})
	}
	return parts
}

// batched is a member of a batch that is being made.
type batched struct {
	*event.Delivery
	job *job
}

// batch sends the members of a batch that are to be sent in one request. The others have outcomes of their own.
func (w *worker) batch(j *job) {
	all := append([]*job{j}, j.rest...)
	// The turn is the whole batch's: its members are asked about in their order.
	whole := j.turn
	j.turn = turn{}
	defer func() { whole.pass() }()
	whole.wait()

	decoded := make([]event.Delivery, len(all))
	in, apart := make([]batched, 0, len(all)), []*job(nil)
	var t *target
	for i, one := range all {
		d := &decoded[i]
		to := w.admit(one, d)
		switch {
		case to == nil:
		case !mayJoin(d):
			one.joins = false
			apart = append(apart, one)
		case len(in) > 0 && (!alike(in[0].Delivery, d) || t.route(in[0].EventType) != to.route(d.EventType)):
			// The version that is in force now may send them to different places.
			one.with.route = to.route(d.EventType)
			apart = append(apart, one)
		default:
			t = to
			in = append(in, batched{d, one})
		}
	}
	whole.pass()
	// The job stands for those that are left, should it go back to its queue.
	w.s.scheduler.requeue(apart)
	left := make([]*job, len(in))
	for i, m := range in {
		left[i] = m.job
	}
	w.s.scheduler.regroup(j, left)
	if len(in) == 0 {
		return
	}
	in[0].job = j
	if w.s.scheduler.maySend(j) {
		w.sendBatch(j, in, t)
	}
}

// sendBatch sends these in one request.
func (w *worker) sendBatch(j *job, in []batched, t *target) {
	w.parts = w.parts[:0]
	for _, m := range in {
		w.parts = append(w.parts, part{m.Delivery, m.job.task.Record})
	}
	w.delivery = joined(w.parts)
	w.unwritten = true
	w.send(j.task.Context(), j, t)
}

// wraps says whether a delivery that is sent alone is an array of one: everything is that an endpoint with a batch gets
// for the first time, or for the first time in a redrive.
func wraps(j *job, d *event.Delivery, t *target) bool {
	return t.compiled.Subscription.Batch != nil && !j.fallback && j.order == nil && (j.attempts == 0 || j.redrive != "" && j.attempts == j.scheduleFrom) && mayJoin(d)
}

// mayJoin says whether a delivery can be an item of an array: one that was rendered before its subscription had a batch
// may not be.
func mayJoin(d *event.Delivery) bool {
	return (d.Method == "" || d.Method == "POST") && d.Query == "" && len(d.Headers) == 0 && len(d.Members) == 0 && batchType(d.ContentType) != ""
}

// alike says whether two deliveries can be in one request.
func alike(a, b *event.Delivery) bool {
	return a.ReplayID == b.ReplayID && batchType(a.ContentType) == batchType(b.ContentType)
}

// batchType is the content type of an array of such bodies; "" where there is none.
func batchType(contentType string) string {
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case contentType == "", err == nil && media == typeJSON:
		return typeJSON
	case err == nil && media == typeCloudEvent:
		return typeCloudEventsBatch
	}
	return ""
}

// joined is the delivery of a batch. It expires when its last member does.
func joined(parts []part) event.Delivery {
	first := parts[0]
	d := event.Delivery{
		Tenant: first.Tenant, SubscriptionID: first.SubscriptionID, SubscriptionVersion: first.SubscriptionVersion,
		EventType: first.EventType, AcceptedAt: first.AcceptedAt, ExpiresAt: first.ExpiresAt,
		ContentType: batchType(first.ContentType), Method: first.Method, Traceparent: first.Traceparent, ReplayID: first.ReplayID, Lane: first.Lane,
		Test: true, Members: make([]event.DeliveryMember, len(parts)),
	}
	ids, size := make([]string, len(parts)), 2
	for _, p := range parts {
		size += len(p.Body) + 1
	}
	d.Body = append(make([]byte, 0, size), '[')
	for i, p := range parts {
		ids[i] = p.ID
		if i > 0 {
			d.Body = append(d.Body, ',')
		}
		d.Members[i] = event.DeliveryMember{
			ID: p.ID, SubscriptionVersion: p.SubscriptionVersion, EventID: p.EventID, EventType: p.EventType, Source: p.Source,
			CallID: p.CallID, AgentID: p.AgentID, EventTime: p.EventTime, AcceptedAt: p.AcceptedAt, ExpiresAt: p.ExpiresAt,
			ContentType: p.ContentType, Traceparent: p.Traceparent, Test: p.Test,
			EventTopic: p.EventTopic, EventPartition: p.EventPartition, EventOffset: p.EventOffset, Sequence: p.Sequence,
			BodyStart: int64(len(d.Body)), BodyLength: int64(len(p.Body)),
		}
		d.Body = append(d.Body, p.Body...)
		d.Test = d.Test && p.Test
		d.SubscriptionVersion = max(d.SubscriptionVersion, p.SubscriptionVersion)
		switch {
		case d.ExpiresAt.IsZero():
		case p.ExpiresAt.IsZero():
			d.ExpiresAt = time.Time{}
		case p.ExpiresAt.After(d.ExpiresAt):
			d.ExpiresAt = p.ExpiresAt
		}
	}
	d.Body = append(d.Body, ']')
	d.ID = event.BatchID(ids...)
	return d
}

// carryOn writes the record that carries on what was sent: the bytes that were read, or those of a batch that is new, which
// is frozen with that.
func (w *worker) carryOn(f *follow, j *job, m move, now time.Time) {
	r := j.moved(m, now)
	if w.unwritten {
		value, err := w.s.encode(j.task.Context(), nil, &w.delivery)
		if err != nil {
			f.left.Add(1) // never complete what could not be written
			return
		}
		r.Value = value
		for i := range r.Headers {
			switch h := &r.Headers[i]; h.Key {
			case kafka.HeaderDelivery:
				h.Value = []byte(w.delivery.ID)
			case kafka.HeaderID:
				h.Value = nil // it is of several events
			}
		}
	}
	f.write(r)
}

// original is the record of a part alone, as its dead letter has it: from there it is sent by itself.
func (w *worker) original(f *follow, p part) *kgo.Record {
	if w.unwritten || len(w.delivery.Members) == 0 {
		return p.record
	}
	return w.s.alone(f, p)
}

// alone makes the record that a member of a frozen batch would have had by itself, at the frozen one's place.
func (s *Service) alone(f *follow, p part) *kgo.Record {
	r := *p.record
	r.Headers = headersOf(p)
	value, err := s.encode(f.task.Context(), nil, p.Delivery)
	if err != nil {
		f.left.Add(1) // never complete what could not be written
	}
	r.Value = value
	return &r
}

// refused are the dead letters of a delivery that its next topic refuses, one for each of its events.
func (s *Service) refused(ctx context.Context, w *write, reason, detail string) []*event.DeadLetter {
	now := time.Now()
	records := []*kgo.Record{w.follow.task.Record}
	var d event.Delivery
	switch {
	case len(w.follow.rest) > 0:
		for _, j := range w.follow.rest {
			records = append(records, j.task.Record)
		}
	case s.codec.Decode(ctx, w.record.Value, &d) == nil && len(d.Members) > 0:
		parts := appendParts(nil, &d, records[0])
		for records = records[:0]; len(parts) > 0; parts = parts[1:] {
			records = append(records, s.alone(w.follow, parts[0]))
		}
	}
	letters := make([]*event.DeadLetter, len(records))
	for i, r := range records {
		letters[i] = s.deadRecord(r, reason, detail, now)
	}
	return letters
}

// headersOf are the headers of the record that holds a part, as its own record had them.
func headersOf(p part) []kgo.RecordHeader {
	headers := append([]kgo.RecordHeader(nil), p.record.Headers...)
	for i := range headers {
		h := &headers[i]
		switch h.Key {
		case kafka.HeaderDelivery:
			h.Value = []byte(p.ID)
		case kafka.HeaderID:
			h.Value = []byte(p.EventID)
		case kafka.HeaderType:
			h.Value = []byte(p.EventType)
		case kafka.HeaderSource:
			h.Value = []byte(p.Source)
		case kafka.HeaderAcceptedAt:
			*h = kafka.IntHeader(kafka.HeaderAcceptedAt, p.AcceptedAt.UnixMicro())
		case kafka.HeaderTraceparent:
			h.Value = []byte(p.Traceparent)
		}
	}
	return headers
}

// leastKept is how much of an answer's body each member's record keeps, however many there are.
const leastKept = 512

// identify makes w.attempt the record of one part. What was answered is the same for all; of a long answer the members of
// a batch keep a share each.
func (w *worker) identify(p part) {
	if len(w.delivery.Members) == 0 {
		return // it is what it is
	}
	a := &w.attempt
	a.BatchID = w.delivery.ID
	a.DeliveryID, a.EventID, a.EventType, a.Source, a.CallID = p.ID, p.EventID, p.EventType, p.Source, p.CallID
	a.AcceptedAt, a.Test = p.AcceptedAt, p.Test
	a.BodyTopic, a.BodyPartition, a.BodyOffset = p.record.Topic, p.record.Partition, p.record.Offset
	if most := max(outbound.MaxBody/len(w.parts), leastKept); len(a.ResponseBody) > most {
		a.ResponseBody, a.ResponseTruncated = a.ResponseBody[:most], true
	}
}
