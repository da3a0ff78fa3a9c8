package producer

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
)

const (
	// pooledBytes is the largest buffer that a batch keeps for the next request. Larger ones are in buffers.
	pooledBytes = 64 << 10
	// requestCost is what a request takes of the budget besides its body: its goroutine, headers and connection.
	requestCost = 8 << 10
	// recordCost is what an event takes besides its bytes, here and in the Kafka client: the record, its key and headers.
	recordCost = 1 << 10
	// away is how long nothing may be acknowledged, with records waiting, before Kafka counts as away.
	away = 3 * time.Second
	// maxKeyBytes bounds Idempotency-Key.
	maxKeyBytes = 255
)

// batch is the work on one request. It is reused for another once nothing refers to it any more.
type batch struct {
	body    []byte
	values  []byte // the records' values, one after the other
	names   []byte // the records' header values
	parts   []part
	records []kgo.Record
	headers []kgo.RecordHeader
	ids     []string
	answer  []byte
	seen    map[identity]struct{}
	held    int64 // bytes of the budget

	refusal refusal

	timer   *time.Timer
	done    chan struct{} // holds one item when every record has its answer from Kafka
	pending atomic.Int64
	failed  atomic.Pointer[error]
	ack     func(error) // b.acknowledge of the service, made once
}

// identity is what tells events of one tenant apart.
type identity struct{ source, id string }

// refusal collects what is wrong with a request. The gravest kind decides the status.
type refusal struct {
	faults []problem.Fault
	more   int // faults beyond maxFaults
	status int
}

func (f *refusal) add(status int, fault problem.Fault) {
	if grave(status) > grave(f.status) {
		f.status = status
	}
	if len(f.faults) < maxFaults {
		f.faults = append(f.faults, fault)
	} else {
		f.more++
	}
}

// grave orders the statuses of a request with several faults: what isn't JSON says nothing for certain, then what the
// caller may not do, then what can be put right in the events.
func grave(status int) int {
	switch status {
	case http.StatusBadRequest:
		return 4
	case http.StatusForbidden:
		return 3
	case http.StatusUnprocessableEntity:
		return 2
	case http.StatusRequestEntityTooLarge:
		return 1
	}
	return 0
}

func (f *refusal) problem() *problem.Problem {
	detail := ""
	switch f.status {
	case http.StatusBadRequest:
		detail = "the body is not JSON"
	case http.StatusForbidden:
		detail = "an event names another tenant than the API key's"
	case http.StatusRequestEntityTooLarge:
		detail = "an event is over 1 MiB once encoded"
	default:
		detail = "an event is not valid"
	}
	detail += "; nothing of the request was accepted"
	if f.more > 0 {
		detail += " (" + strconv.Itoa(len(f.faults)+f.more) + " faults, of which the first " + strconv.Itoa(len(f.faults)) + " are listed)"
	}
	return problem.New(f.status, detail, f.faults...)
}

// serveEvents answers POST /v1/events.
func (s *Service) serveEvents(w http.ResponseWriter, r *http.Request) {
	started := s.now()
	status := s.accept(w, r, started)
	s.metrics.answered(r.Context(), status, s.now().Sub(started))
}

// accept handles a request and returns the status that it was answered with.
func (s *Service) accept(w http.ResponseWriter, r *http.Request, now time.Time) int {
	refuse := func(p *problem.Problem) int {
		problem.Write(w, p)
		return p.Status
	}
	if r.Method != http.MethodPost {
		p := problem.New(http.StatusMethodNotAllowed, "events are sent with POST")
		p.Header = http.Header{"Allow": {http.MethodPost}}
		return refuse(p)
	}
	if p := s.unready(); p != nil {
		return refuse(p)
	}
	caller, p := s.guard.Authenticate(r)
	if p == nil {
		p = auth.Require(caller, auth.ScopeEventsWrite)
	}
	if p != nil {
		return refuse(p)
	}
	f, p := formOf(r.Header)
	if p != nil {
		return refuse(p)
	}
	key := r.Header.Get("Idempotency-Key")
	if p := checkKey(r.Header); p != nil {
		return refuse(p)
	}

	b := s.takeBatch()
	if !s.budget.take(&b.held, requestCost+min(max(r.ContentLength, 0), pooledBytes)) {
		s.dropBatch(b)
		return refuse(s.overloaded())
	}
	if p := s.read(b, r); p != nil {
		if p.Status == http.StatusRequestEntityTooLarge {
			w.Header().Set("Connection", "close") // what is left of the body isn't worth reading
		}
		s.dropBatch(b)
		return refuse(p)
	}
	// From here on the end of the service waits for the request: before, it depends on how fast a caller sends.
	if !s.enter() {
		s.dropBatch(b)
		return refuse(unavailable("the service is shutting down; nothing was accepted"))
	}
	defer s.active.Done()
	traceparent, end := s.traceparent(r)
	defer end()
	if p := s.encode(b, r, f, caller.Tenant, key, traceparent, now); p != nil {
		s.dropBatch(b)
		return refuse(p)
	}
	// Everything that can be refused has been: from here on records go out.
	if !s.budget.take(&b.held, int64(len(b.values))) {
		s.dropBatch(b)
		return refuse(s.overloaded())
	}
	return s.produce(b, w, r, refuse)
}

// produce sends the batch's records and answers.
func (s *Service) produce(b *batch, w http.ResponseWriter, r *http.Request, refuse func(*problem.Problem) int) int {
	n := len(b.records)
	b.pending.Store(int64(n))
	s.began(n)
	for i := range b.records {
		// Not the request's context: a caller that goes away must not take back what was accepted half.
		s.producer.Produce(s.background, &b.records[i], b.ack)
	}
	b.timer.Reset(s.cfg.AckTimeout)
	select {
	case <-b.done:
		b.timer.Stop()
	case <-b.timer.C:
		// The batch isn't reused: its records are still with the client.
		s.failures.Warn("Kafka did not acknowledge a request in time", zap.Duration("waited", s.cfg.AckTimeout), zap.Int("events", len(b.ids)))
		p := unavailable("Kafka did not acknowledge every event in time. Some may have been accepted; repeating them under these ids is safe")
		return refuse(p.With("ids", b.ids))
	case <-r.Context().Done():
		b.timer.Stop()
		// One that only closed its sending side looks the same and still reads: without an answer it would be told 200.
		p := unavailable("the connection was closed before Kafka acknowledged every event. Some may have been accepted; repeating them under these ids is safe")
		refuse(p.With("ids", b.ids))
		return http.StatusRequestTimeout // for the metric
	}
	if failure := b.failed.Load(); failure != nil {
		return refuse(s.failure(*failure).With("ids", b.ids))
	}
	out := append(b.answer[:0], `{"accepted":`...)
	out = strconv.AppendInt(out, int64(len(b.ids)), 10)
	out = append(out, `,"ids":[`...)
	for i, id := range b.ids {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = jsontext.AppendQuote(out, id); err != nil {
			out = append(out, `""`...) // can't be: ids were parsed as valid UTF-8
		}
	}
	b.answer = append(out, ']', '}', '\n')
	h := w.Header()
	h["Content-Type"] = s.jsonHeader
	w.WriteHeader(http.StatusAccepted)
	w.Write(b.answer)
	s.metrics.accepted(r.Context(), len(b.ids), len(b.values))
	s.dropBatch(b)
	return http.StatusAccepted
}

// failure words a classified produce error for the caller; what only an operator can mend goes to the log.
func (s *Service) failure(err error) *problem.Problem {
	const partly = ". Some of the events may have been accepted; repeating them under these ids is safe"
	switch {
	case errors.Is(err, kafka.ErrTooLarge):
		s.failures.Error("an event topic takes smaller records than declared: raise its max.message.bytes", zap.Error(err))
		return problem.New(http.StatusInternalServerError, "Kafka refuses records of this size, which its settings should allow"+partly)
	case errors.Is(err, kafka.ErrFatal):
		s.failures.Error("Kafka refuses records", zap.Error(err))
		return unavailable("Kafka refuses the events until its operator mends it; the service's log says why" + partly)
	default:
		s.failures.Warn("Kafka did not take records", zap.Error(err))
		return unavailable("Kafka did not acknowledge every event" + partly)
	}
}

// encode parses and checks every event of the body and makes its record, or says all that is wrong.
func (s *Service) encode(b *batch, r *http.Request, f form, tenant, key, traceparent string, now time.Time) *problem.Problem {
	var err error
	switch f {
	case formJSON:
		b.parts, err = split(b.parts, b.body, s.cfg.MaxEvents)
	case formLines:
		b.parts, err = splitLines(b.parts, b.body, s.cfg.MaxEvents)
	case formCloudBatch:
		b.parts, err = split(b.parts, b.body, s.cfg.MaxEvents)
		if err == nil && len(b.parts) == 1 && b.parts[0].alone {
			return problem.New(http.StatusUnprocessableEntity, "a batch of CloudEvents must be an array; nothing of the request was accepted",
				problem.Fault{Pointer: "#", Detail: "must be an array"})
		}
	case formCloudEvent:
		if skipSpace(b.body, 0) == len(b.body) {
			err = &shapeError{detail: "the body is empty; it must hold a CloudEvent", offset: -1}
		}
		b.parts = append(b.parts, part{raw: b.body, alone: true})
	case formCloudBinary:
		b.parts = append(b.parts, part{raw: b.body, alone: true})
	}
	if err != nil {
		return shapeProblem(b.body, err)
	}
	switch {
	case len(b.parts) == 0:
		return problem.New(http.StatusUnprocessableEntity, "the array holds no events", problem.Fault{Pointer: "#", Detail: "must not be empty"})
	case len(b.parts) > s.cfg.MaxEvents:
		return problem.New(http.StatusRequestEntityTooLarge, "a request may hold "+strconv.Itoa(s.cfg.MaxEvents)+" events; send them in several requests")
	}
	if !s.budget.take(&b.held, int64(recordCost*len(b.parts))) {
		return s.overloaded()
	}
	b.reserve(len(b.parts))
	if cap(b.values) < len(b.body) {
		b.values = s.buffers.get(len(b.body)) // about as much: the records are shorter, but for what is filled in
	}
	now = now.UTC().Truncate(time.Microsecond) // the precision of the records' columns
	for i := range b.parts {
		p := &b.parts[i]
		e := s.parse(b, p, f, r.Header)
		if e == nil {
			continue
		}
		if e.Tenant != "" && e.Tenant != tenant {
			b.refusal.add(http.StatusForbidden, place(p, f, event.Fault{Pointer: "/tenant", Detail: "must be " + quoted(tenant) + ", the API key's tenant, or left out"}))
			continue
		}
		repeat := false
		switch {
		case e.ID != "" && len(b.parts) > 1:
			source := e.Source
			if source == "" {
				source = s.cfg.DefaultSource
			}
			if b.seen == nil {
				b.seen = map[identity]struct{}{}
			}
			_, repeat = b.seen[identity{source, e.ID}]
			b.seen[identity{source, e.ID}] = struct{}{}
		case e.ID == "" && key != "":
			e.ID = keyedID(tenant, key, p.index)
		case e.ID == "":
			e.ID = newID(now)
		}
		if len(b.refusal.faults) > 0 {
			continue // only faults are of interest now
		}
		b.ids = append(b.ids, e.ID)
		if repeat {
			continue // accepted, and delivered once: it is the same event
		}
		e.Tenant = tenant
		e.IngestedAt = now
		if e.Source == "" {
			e.Source = s.cfg.DefaultSource
		}
		if e.Time.IsZero() {
			e.Time = now
		}
		// A trace that the event itself names goes before the request's.
		trace := e.Traceparent
		if !telemetry.ValidTraceparent(trace) {
			trace = traceparent
		}
		if e.Traceparent == "" {
			e.Traceparent = trace
		}
		if p := s.record(b, p, f, e, trace, now); p != nil {
			return p
		}
	}
	if len(b.refusal.faults) > 0 {
		return b.refusal.problem()
	}
	return nil
}

// parse reads one event; nil means that its faults were noted.
func (s *Service) parse(b *batch, p *part, f form, h http.Header) *event.Event {
	var ce *cloudEvent
	raw := p.raw
	switch f {
	case formCloudEvent, formCloudBatch:
		var faults event.Faults
		var err error
		ce, faults, err = structured(raw)
		if err != nil {
			b.refusal.add(http.StatusBadRequest, syntaxFault(b.body, p, err))
			return nil
		}
		if len(faults) > 0 {
			for _, fault := range faults {
				b.refusal.add(http.StatusUnprocessableEntity, place(p, f, fault))
			}
			return nil
		}
		raw = ce.json
	case formCloudBinary:
		if i := skipSpace(raw, 0); i < len(raw) {
			if err := rest(raw); err != nil {
				b.refusal.add(http.StatusBadRequest, syntaxFault(b.body, p, err))
				return nil
			}
		}
		var faults event.Faults
		ce, faults = fromHeaders(h, raw)
		if len(faults) > 0 {
			for _, fault := range faults {
				b.refusal.add(http.StatusUnprocessableEntity, problem.Fault{Detail: fault.Detail})
			}
			return nil
		}
		raw = ce.json
	}
	e, err := event.Parse(raw)
	if err == nil {
		if ce != nil {
			e.Attributes = append(e.Attributes, ce.attributes...)
		}
		return e
	}
	var syntax *event.SyntaxError
	var faults event.Faults
	switch {
	case errors.As(err, &faults):
		for _, fault := range faults {
			if ce != nil {
				fault.Pointer = ce.pointer(fault.Pointer)
			}
			b.refusal.add(http.StatusUnprocessableEntity, place(p, f, fault))
		}
	case errors.As(err, &syntax) && ce == nil:
		b.refusal.add(http.StatusBadRequest, syntaxFault(b.body, p, err))
	default:
		// Of a CloudEvent only the translation was read here: a place in it means nothing to the caller.
		fault := place(p, f, event.Fault{Detail: err.Error()})
		b.refusal.add(http.StatusBadRequest, fault)
	}
	return nil
}

// record encodes an event and adds its record to the batch.
func (s *Service) record(b *batch, p *part, f form, e *event.Event, traceparent string, now time.Time) *problem.Problem {
	from := len(b.values)
	values, err := s.codec.EncodeEvent(s.background, b.values, e)
	if err != nil {
		s.failures.Error("an event could not be encoded", zap.String("type", e.Type), zap.Error(err))
		if errors.Is(err, event.ErrRegistry) {
			return unavailable("the schema registry can't be reached; nothing was accepted")
		}
		return problem.New(http.StatusInternalServerError, "the event could not be encoded; nothing was accepted")
	}
	b.values = values
	if n := len(values) - from; n > maxEventBytes {
		b.refusal.add(http.StatusRequestEntityTooLarge, place(p, f, event.Fault{Detail: "the encoded event has " + strconv.Itoa(n) + " bytes; the most is 1048576"}))
		return nil
	}
	h := len(b.headers)
	b.header(kafka.HeaderType, e.Type)
	b.header(kafka.HeaderID, e.ID)
	b.header(kafka.HeaderSource, e.Source)
	b.header(kafka.HeaderTenant, e.Tenant)
	b.header(kafka.HeaderTraceparent, traceparent)
	b.records = append(b.records, kgo.Record{
		Topic: e.Topic(), Key: e.Key(), Value: values[from:len(values):len(values)],
		Headers: b.headers[h:len(b.headers):len(b.headers)], Timestamp: now,
	})
	return nil
}

// header adds a header whose value is a copy of text. When names has to grow, earlier values keep the old array.
func (b *batch) header(name, text string) {
	from := len(b.names)
	b.names = append(b.names, text...)
	b.headers = append(b.headers, kgo.RecordHeader{Key: name, Value: b.names[from:len(b.names):len(b.names)]})
}

// reserve makes room for n records, whose addresses are not to change.
func (b *batch) reserve(n int) {
	if cap(b.records) < n {
		b.records = make([]kgo.Record, 0, n)
		b.headers = make([]kgo.RecordHeader, 0, 5*n)
		b.ids = make([]string, 0, n)
	}
}

// place makes the fault of one event a fault of the request: the index goes before the pointer, or the line beside it.
func place(p *part, f form, fault event.Fault) problem.Fault {
	if f == formCloudBinary {
		fault = binaryFault(fault)
		if fault.Pointer == headerPointer {
			return problem.Fault{Detail: fault.Detail}
		}
		return problem.Fault{Pointer: problem.Pointer(fault.Pointer), Detail: fault.Detail}
	}
	pointer := fault.Pointer
	if !p.alone && p.line == 0 {
		pointer = "/" + strconv.Itoa(p.index) + pointer
	}
	return problem.Fault{Pointer: problem.Pointer(pointer), Detail: fault.Detail, Line: p.line}
}

// syntaxFault says where an event stops being JSON.
func syntaxFault(body []byte, p *part, err error) problem.Fault {
	fault := problem.Fault{Line: p.line, Detail: err.Error()}
	if !p.alone && p.line == 0 {
		fault.Pointer = "#/" + strconv.Itoa(p.index)
	}
	offset := -1
	var ours *event.SyntaxError
	var theirs *jsontext.SyntacticError
	var shape *shapeError
	switch {
	case errors.As(err, &ours):
		offset, fault.Detail = int(ours.Offset), "not JSON: "+ours.Detail
	case errors.As(err, &theirs):
		offset, fault.Detail = int(theirs.ByteOffset), "not JSON: "+strings.TrimPrefix(theirs.Err.Error(), "jsontext: ")
	case errors.As(err, &shape):
		offset = shape.offset
	}
	if offset >= 0 {
		fault.Detail += " at " + position(body, p.offset+offset)
	}
	return fault
}

func shapeProblem(body []byte, err error) *problem.Problem {
	var shape *shapeError
	if !errors.As(err, &shape) || shape.offset < 0 {
		return problem.New(http.StatusBadRequest, err.Error())
	}
	return problem.New(http.StatusBadRequest, "the body is not JSON; nothing of the request was accepted",
		problem.Fault{Detail: shape.detail + " at " + position(body, shape.offset)})
}

// checkKey checks the header Idempotency-Key.
func checkKey(h http.Header) *problem.Problem {
	values := h["Idempotency-Key"]
	switch {
	case len(values) == 0:
		return nil
	case len(values) > 1 || values[0] == "" || len(values[0]) > maxKeyBytes:
		return problem.New(http.StatusBadRequest, "Idempotency-Key must be one value of 1 to 255 bytes")
	}
	return nil
}

// traceparent returns what the records carry to go on with the caller's trace, or to begin one, and ends the span.
func (s *Service) traceparent(r *http.Request) (string, func()) {
	given := ""
	if values := r.Header["Traceparent"]; len(values) == 1 {
		given = values[0]
	}
	if !s.recording {
		if telemetry.ValidTraceparent(given) {
			return given, nothing
		}
		return telemetry.NewTraceparent(), nothing
	}
	ctx, span := s.tracer.Start(telemetry.Extract(r.Context(), given), "POST /v1/events", trace.WithSpanKind(trace.SpanKindProducer))
	return telemetry.Inject(ctx), func() { span.End() }
}

func nothing() {}

func unavailable(detail string) *problem.Problem {
	p := problem.New(http.StatusServiceUnavailable, detail)
	p.RetryAfter = 2 * time.Second
	return p
}

// overloaded is the answer to a request that there is no room for: 429, or 503 when the reason is that Kafka is away.
func (s *Service) overloaded() *problem.Problem {
	if s.stalled() {
		return unavailable("Kafka acknowledges nothing and the buffer is full; nothing was accepted")
	}
	p := problem.New(http.StatusTooManyRequests, "more is coming in than Kafka takes; nothing was accepted")
	p.RetryAfter = time.Second
	return p
}
