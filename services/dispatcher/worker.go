package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// givenUpTurns is how often a delivery that cannot be sent for a reason of our own (its subscription was never read, its
// secrets don't open) goes round before it is dead: about a day. The age of the event says nothing: an encryption key
// that is wrong for a minute must not end every delivery that has been retried for longer.
const givenUpTurns = 300

// worker sends one delivery at a time, with buffers that it uses again.
type worker struct {
	s         *Service
	delivery  event.Delivery
	parts     []part // what the delivery consists of
	unwritten bool   // no record holds the delivery: it is a batch that was made just now
	attempt   event.Attempt
	body      [outbound.MaxBody]byte
}

func (s *Service) newWorker() func(*job) {
	w := &worker{s: s}
	w.attempt.ResponseHeaders = map[string]string{}
	return w.do
}

// do takes one record, or those of a batch, to their outcomes.
func (w *worker) do(j *job) {
	defer j.turn.pass()
	w.unwritten = false
	defer func() {
		if cause := recover(); cause != nil {
			for _, one := range append([]*job{j}, j.rest...) {
				w.s.broken(&one.delivery, cause)
			}
		}
		// They would keep the whole fetch in memory.
		clear(w.parts)
		w.delivery.Body, w.delivery.Members = nil, nil
	}()
	if len(j.rest) > 0 {
		w.batch(j)
		return
	}
	t := w.admit(j, &w.delivery)
	switch {
	case t == nil:
	case !w.s.scheduler.maySend(j):
	case wraps(j, &w.delivery, t):
		only := w.delivery
		w.sendBatch(j, []batched{{&only, j}}, t)
	default:
		w.send(j.task.Context(), j, t)
	}
}

// admit reads a delivery into d and returns the target that it may be sent to. Else it returns nil: the delivery has its
// outcome, or its partition is to be given up, and it is left to the next owner.
func (w *worker) admit(j *job, d *event.Delivery) (to *target) {
	if stopping(j.task) {
		j.task.Abandon()
		return nil
	}
	defer func() {
		if cause := recover(); cause != nil {
			w.s.broken(&j.delivery, cause)
			to = nil
		}
	}()
	ctx := j.task.Context()
	if err := w.s.decode(ctx, j.task.Record, d); err != nil {
		if errors.Is(err, event.ErrPoison) {
			w.s.poison(j, err)
		} else {
			j.task.Abandon()
		}
		return nil
	}
	w.parts = appendParts(w.parts[:0], d, j.task.Record)
	if w.s.redriven.overtaken(d.ID, &j.delivery) {
		w.s.supersede(&j.delivery)
		return nil
	}
	switch overtaken, busy := w.s.copies.claim(&j.delivery); {
	case overtaken:
		w.s.supersede(&j.delivery)
		return nil
	case busy:
		w.s.divert(j, copied, time.Now())
		return nil
	}
	t, reason, err := w.s.resolve(ctx, j)
	switch {
	case ctx.Err() != nil || stopping(j.task):
		j.task.Abandon()
	case errors.Is(err, errNoFallback):
		w.withoutFallback(j, d)
	case err != nil:
		w.unsendable(j, d, err)
	case reason != "":
		w.skip(j, d, reason)
	case expired(j, d, time.Now()):
		w.skip(j, d, reasonExpired)
	case !w.allowed(j, d, t):
		w.skip(j, d, reasonFrequency)
	default:
		return t
	}
	return nil
}

// allowed says whether the subscription's frequency lets the delivery through, asked in the order of the shard's jobs.
func (w *worker) allowed(j *job, d *event.Delivery, t *target) bool {
	rule := t.compiled.Subscription.Frequency
	if rule == nil {
		return true
	}
	j.turn.wait()
	defer j.turn.pass()
	return j.shard.lets(rule, j, d, time.Now())
}

func stopping(t *kafka.Task) bool {
	select {
	case <-t.Stopping():
		return true
	default:
		return t.Context().Err() != nil
	}
}

// decode reads a delivery; a registry that is away is waited for.
func (s *Service) decode(ctx context.Context, r *kgo.Record, d *event.Delivery) error {
	for tries := 1; ; tries++ {
		err := s.codec.Decode(ctx, r.Value, d)
		if err == nil {
			// The header has the filter's span. The value keeps the event's context, since it must come out the same when an
			// event is filtered again.
			if t := kafka.Header(r, kafka.HeaderTraceparent); telemetry.ValidTraceparent(t) {
				d.Traceparent = t
			}
			return nil
		}
		if errors.Is(err, event.ErrPoison) {
			return err
		}
		if tries == 1 {
			s.log.Warn("waiting for the schema registry", zap.Error(err))
		}
		if err := run.Again(ctx, tries); err != nil {
			return err
		}
	}
}

// errUnknown says that no record of a subscription was ever read.
var errUnknown = errors.New("the subscription is not in the feed")

// resolve returns the newest version of the delivery's subscription, ready to be sent to, or the reason to skip it. Where
// the delivery was made under a version that is not applied here yet, the feed is read to its end first. An error says
// that it can't be sent now, for a reason of ours.
func (s *Service) resolve(ctx context.Context, j *job) (*target, string, error) {
	state := &j.shard.sub
	c, known := s.book.Get(j.subscription)
	if (!known || c.Version < j.version) && state.checked.Load() < max(j.version, 1) {
		if err := s.catchUp(ctx, j.subscription, j.version); err != nil {
			return nil, "", err
		}
		state.checked.Store(max(j.version, 1))
		c, known = s.book.Get(j.subscription)
	}
	switch {
	case !known:
		return nil, "", errUnknown
	case c.Deleted:
		return nil, reasonDeleted, nil
	case c.Fault != nil:
		return nil, "", c.Fault
	}
	switch c.Subscription.State {
	case subscription.StateActive:
	case subscription.StatePaused:
		return nil, reasonPaused, nil
	case subscription.StatePending:
		return nil, reasonPending, nil
	default:
		return nil, reasonDisabled, nil
	}
	if s.gone.covers(c) {
		return nil, reasonDisabled, nil
	}
	t, err := s.targetOf(j.shard, c)
	return t, "", err
}

// catchUp reads the feed to its current end, one reader at a time: those who waited find what they need applied.
func (s *Service) catchUp(ctx context.Context, id string, version int64) error {
	for tries := 1; ; tries++ {
		err := func() error {
			s.catching.Lock()
			defer s.catching.Unlock()
			if c, ok := s.book.Get(id); ok && c.Version >= version {
				return nil
			}
			return s.feed.CatchUp(ctx)
		}()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		s.log.Warn("could not read the subscriptions to their end, trying again", zap.Error(err))
		if err := run.Again(ctx, tries); err != nil {
			return err
		}
	}
}

// send makes one attempt and writes down what came of it.
func (w *worker) send(ctx context.Context, j *job, t *target) {
	s, d := w.s, &w.delivery
	n := j.attempts + 1
	traceparent := d.Traceparent
	sendCtx := ctx
	var span trace.Span
	if s.recording {
		sendCtx, span = s.tracer.Start(telemetry.Extract(ctx, d.Traceparent), "deliver",
			trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
				attribute.String("webhook.id", d.ID), attribute.String("webhook.type", d.EventType), attribute.Int("webhook.attempt", n),
				attribute.String("tenant", d.Tenant), attribute.String("subscription", d.SubscriptionID), attribute.String("server.address", t.Host(d.EventType))))
		defer span.End()
		traceparent = telemetry.Inject(sendCtx)
	} else if traceparent == "" {
		traceparent = telemetry.NewTraceparent()
	}
	sendCtx, j.cancel = context.WithCancel(sendCtx)
	j.sending.Store(true)
	a := t.Send(sendCtx, d, outbound.Attempt{Number: n, Traceparent: traceparent, Buffer: w.body[:]})
	j.sending.Store(false)
	j.cancel()
	if ctx.Err() != nil {
		// The partition was lost meanwhile: the result is nobody's, the next owner sends it again.
		j.task.Abandon()
		for _, other := range j.rest {
			other.task.Abandon()
		}
		return
	}
	if j.wasCut.Load() {
		timedOut(&a)
	}
	j.came = cameFrom(&a, a.Started.Add(a.Took))
	j.took = a.Took
	s.watchEgress(&a, t, d.EventType)
	v := w.settle(j, t, &a, n, traceparent)
	a.Release()

	rec := &w.attempt
	s.metrics.attempt(ctx, rec.ErrorClass, a.Took)
	for _, p := range w.parts {
		s.metrics.outcome(v.outcome)
		if n == 1 {
			s.metrics.first(ctx, a.Started.Sub(p.AcceptedAt))
		}
	}
	if span != nil {
		span.SetAttributes(attribute.Int("http.response.status_code", rec.HTTPStatus), attribute.String("outcome", v.outcome))
		if v.outcome != outcomeDelivered {
			span.SetStatus(codes.Error, rec.ErrorClass)
		}
	}
}

// settle decides what becomes of a delivery after an attempt, and writes all that follows from it.
func (w *worker) settle(j *job, t *target, a *outbound.Answer, n int, traceparent string) verdict {
	s, d := w.s, &w.delivery
	now := a.Started.Add(a.Took)
	got := result{status: a.Status, err: a.Err, tokenRefused: a.TokenRefused}
	v := judge(got, n-j.scheduleFrom, t.compiled.Subscription.Retry, s.cfg.RetrySchedule)
	if v.outcome != outcomeDelivered {
		v = v.next(j, d, t.compiled.Subscription, now, parseRetryAfter(a.Header.Get("Retry-After"), now))
	}

	s.attemptRecord(&w.attempt, d, j.task.Record, n, v)
	rec := &w.attempt
	rec.SubscriptionVersion = t.compiled.Version
	rec.StartedAt, rec.DurationMicros, rec.FirstByteMicros = a.Started, a.Took.Microseconds(), a.FirstByte.Microseconds()
	rec.ConnectMicros = a.Connect.Microseconds()
	rec.Method, rec.URL, rec.Traceparent, rec.RequestHeaders = a.Method, a.URL, traceparent, a.RequestHeader()
	rec.HTTPStatus, rec.ResponseBody, rec.ResponseTruncated = a.Status, a.Body, a.Truncated
	a.RecordHeader(rec.ResponseHeaders)
	rec.ErrorClass, rec.Error = got.errorClass(), a.ErrorText()
	f := s.begin(&j.delivery)
	f.rest = j.rest
	f.leadsTo(ended)
	inPlace := v.outcome == outcomeRetry && j.order != nil && !v.fallback
	if v.outcome == outcomeRetry {
		if v.fallback {
			s.metrics.fallback.Add(1)
		}
		rec.NextAttemptAt = v.due
		// In place, those behind it wait as well.
		if tier := s.tiers.choose(v.due.Sub(now)); !inPlace {
			f.leadsTo(step{attempts: n})
			w.carryOn(f, j, move{
				topic: topic.RetryTier(tier), tier: tier, due: v.due, attempts: n, class: rec.ErrorClass, status: a.Status, failed: now, fallback: v.fallback,
			}, now)
		}
	}
	host := t.Host(d.EventType)
	for _, p := range w.parts {
		w.identify(p)
		if v.outcome == outcomeDead {
			w.dead(f, p, now, v)
		}
		s.writeRecord(f, topic.Attempts, p.record, rec)
		s.logAttempt(rec, host, traceparent)
	}
	if t.compiled.Subscription.CaptureResponse {
		w.capture(f, t.compiled.Subscription, now)
	}
	if v.disable {
		s.disable(f, d, t.compiled.Version, &event.Signal{
			Kind: signalDisable, Reason: reasonGone, Detail: "the endpoint answered 410 Gone", At: now, HTTPStatus: http.StatusGone,
		})
	}
	w.examine(f, j, t, v, now)
	if !inPlace {
		f.end()
		return v
	}
	j.attempts, j.parked, j.lastClass, j.lastStatus = n, 0, rec.ErrorClass, a.Status
	if j.firstFailed.IsZero() {
		j.firstFailed = now
	}
	f.keep()
	j.wait(v.due)
	return v
}

// dead writes the dead letter of what w.attempt tells, and the event for those who watch for exhausted deliveries.
func (w *worker) dead(f *follow, p part, now time.Time, v verdict) {
	s, d := w.s, p.Delivery
	letter := s.deadLetter(d, w.original(f, p), &w.attempt, deadDetail(v.reason, &w.attempt), now)
	s.writeRecord(f, topic.DeadLetters, p.record, letter)
	if v.reason != reasonExhausted || ownEvent(d) {
		return
	}
	s.metrics.exhausted.Add(1)
	e, err := exhaustedEvent(d, letter, now)
	if err != nil {
		// It is built from our own fields, so this is a fault of ours, and no reason to hold the delivery back.
		s.log.Error("could not make an event of an exhausted delivery", zap.String("delivery", d.ID), zap.Error(err))
		return
	}
	s.writeEvent(f, e)
}

func deadDetail(reason string, a *event.Attempt) string {
	switch {
	case a.Attempt == 0:
	case reason == reasonExhausted:
		return fmt.Sprintf("attempt %d was the last", a.Attempt)
	case reason == reasonRejected:
		return fmt.Sprintf("status %d is not retried", a.HTTPStatus)
	case reason == reasonRedirect:
		return fmt.Sprintf("redirects are not followed (status %d)", a.HTTPStatus)
	case reason == reasonGone && a.Via == viaFallback:
		return "the fallback is gone (status 410)"
	case reason == reasonGone:
		return "the endpoint is gone (status 410) and was disabled"
	}
	return a.Error
}

// skip writes down that a delivery is not sent, and why.
func (w *worker) skip(j *job, d *event.Delivery, reason string) {
	w.unsent(j, d, verdict{outcome: outcomeSkipped, reason: reason}, nil)
}

// unsendable parks a delivery that can't be sent for a reason of ours, and gives it up after a day.
func (w *worker) unsendable(j *job, d *event.Delivery, cause error) {
	s := w.s
	if j.parked < givenUpTurns {
		s.failures.Warn("a delivery can't be sent now", zap.String("delivery", d.ID), zap.String("subscription", d.SubscriptionID), zap.Error(cause))
		s.putOff(j, time.Now())
		return
	}
	reason := reasonUnsent
	if errors.Is(cause, errUnknown) {
		reason = reasonUnknown
	}
	w.unsent(j, d, verdict{outcome: outcomeDead, reason: reason}, cause)
}

// unsent writes down what becomes of a delivery of which there is no attempt, in each of its parts.
func (w *worker) unsent(j *job, d *event.Delivery, v verdict, cause error) {
	s, now := w.s, time.Now()
	s.attemptRecord(&w.attempt, d, j.task.Record, 0, v)
	w.attempt.StartedAt = now
	if cause != nil {
		w.attempt.Error = cause.Error()
	}
	f := s.begin(&j.delivery)
	f.leadsTo(ended)
	for _, p := range w.parts {
		w.identify(p)
		if v.outcome == outcomeDead {
			w.dead(f, p, now, v)
		}
		s.writeRecord(f, topic.Attempts, p.record, &w.attempt)
		s.metrics.outcome(v.outcome)
		s.logAttempt(&w.attempt, "", p.Traceparent)
	}
	f.end()
}

// poison writes a record that does not decode to the dead letters, as it is.
func (s *Service) poison(j *job, cause error) {
	f := s.begin(&j.delivery)
	s.writeRecord(f, topic.DeadLetters, j.task.Record, s.deadRecord(j.task.Record, reasonPoison, cause.Error(), time.Now()))
	f.end()
	s.metrics.outcome(outcomeDead)
	s.log.Warn("a record doesn't decode and is dead", zap.String("record", place(j.task.Record)), zap.Error(cause))
}

// broken writes a record to the dead letters that made our own code panic: whoever read it again would do the same, and
// nothing behind it would ever be delivered.
func (s *Service) broken(d *delivery, cause any) {
	r := d.task.Record
	// What was passed to panic could repeat anything, a secret as well; the run-time's own errors don't.
	detail := fmt.Sprintf("callstream failed with a panic (%T)", cause)
	if err, ok := cause.(runtime.Error); ok {
		detail = "callstream failed: " + err.Error()
	}
	s.log.Error("a fault in callstream ended the work on a record", zap.String("record", place(r)), zap.String("detail", detail), zap.StackSkip("stack", 1))
	if d.settled {
		return // its outcome is on its way
	}
	now := time.Now()
	f := s.begin(d)
	f.leadsTo(ended)
	dead := s.deadRecord(r, reasonInternal, detail, now)
	s.writeRecord(f, topic.DeadLetters, r, dead)
	if dead.DeliveryID != "" {
		known := event.Delivery{
			ID: dead.DeliveryID, Tenant: dead.Tenant, SubscriptionID: dead.SubscriptionID, SubscriptionVersion: dead.SubscriptionVersion,
			EventID: dead.EventID, EventType: dead.EventType, Source: dead.Source, Traceparent: dead.Traceparent,
		}
		var a event.Attempt
		s.attemptRecord(&a, &known, r, 0, verdict{outcome: outcomeDead, reason: reasonInternal})
		a.StartedAt, a.Error = now, detail
		s.writeRecord(f, topic.Attempts, r, &a)
	}
	f.end()
	s.metrics.outcome(outcomeDead)
}

// hop moves a record that left its tier before it is due to the tier for what remains.
func (s *Service) hop(d *delivery, now time.Time) {
	s.metrics.hops.Add(1)
	tier := s.tiers.choose(d.due.Sub(now))
	f := s.begin(d)
	f.write(d.moved(move{
		topic: topic.RetryTier(tier), tier: tier, due: d.due, attempts: d.attempts, parked: d.parked,
	}, now))
	f.end()
}

// disable obeys here what the console is asked to record: nothing more is sent to a subscription.
func (s *Service) disable(f *follow, d *event.Delivery, version int64, signal *event.Signal) {
	if id := d.SubscriptionID; s.gone.add(id, version, signal.At, false) {
		context.AfterFunc(f.task.Context(), func() { s.gone.retract(id) })
		s.metrics.disabled.Add(1)
		s.log.Info("a subscription is disabled", zap.String("tenant", d.Tenant), zap.String("subscription", d.SubscriptionID),
			zap.String("reason", signal.Reason), zap.String("detail", signal.Detail))
	}
	s.signal(f, d, version, signal)
}

// signal adds what the console and the other dispatchers are told of a subscription to what follows.
func (s *Service) signal(f *follow, d *event.Delivery, version int64, signal *event.Signal) {
	signal.Tenant, signal.SubscriptionID, signal.SubscriptionVersion = d.Tenant, d.SubscriptionID, version
	signal.Dispatcher, signal.EventType = s.name, d.EventType
	s.writeRecord(f, topic.Signals, &kgo.Record{Key: []byte(d.SubscriptionID)}, signal)
}

// writeRecord encodes a record and adds it to what follows; it goes to the partition that the delivery came from, under
// the delivery's key.
func (s *Service) writeRecord(f *follow, name string, from *kgo.Record, r event.Record) {
	w := s.newWrite()
	value, err := s.encode(f.task.Context(), w.value, r)
	if err != nil {
		f.left.Add(1) // never complete what could not be written
		return
	}
	f.left.Add(1)
	w.follow, w.value = f, value
	w.record = kgo.Record{Topic: name, Partition: from.Partition, Key: from.Key, Value: value}
	w.produce()
}

// encode waits for the schema registry where it must.
func (s *Service) encode(ctx context.Context, dst []byte, r event.Record) ([]byte, error) {
	for tries := 1; ; tries++ {
		value, err := s.codec.Encode(ctx, dst[:0], r)
		if err == nil {
			return value, nil
		}
		if tries == 1 {
			s.log.Warn("could not encode a record, trying again", zap.String("schema", r.SchemaName()), zap.Error(err))
		}
		if err := run.Again(ctx, tries); err != nil {
			return nil, err
		}
	}
}

// writeEvent adds one of callstream's own events to what follows.
func (s *Service) writeEvent(f *follow, e *event.Event) {
	ctx := f.task.Context()
	for tries := 1; ; tries++ {
		value, err := s.codec.EncodeEvent(ctx, nil, e)
		if err == nil {
			f.write(kgo.Record{Topic: e.Topic(), Key: e.Key(), Value: value,
				Headers: kafka.EventHeaders(e.Type, e.ID, e.Source, e.Tenant, e.Traceparent)})
			return
		}
		if err := run.Again(ctx, tries); err != nil {
			f.left.Add(1) // never complete what could not be written
			return
		}
	}
}

// logAttempt writes the one line that an attempt leaves: what succeeded for those who debug, what failed for everybody,
// in samples where there is much of it.
func (s *Service) logAttempt(a *event.Attempt, host, traceparent string) {
	level, log := zap.DebugLevel, s.log
	if a.Outcome == outcomeRetry || a.Outcome == outcomeDead {
		level, log = zap.InfoLevel, s.failures
	}
	line := log.Check(level, "attempt")
	if line == nil {
		return
	}
	line.Write(
		zap.String("outcome", a.Outcome), zap.String("reason", a.Reason), zap.String("delivery", a.DeliveryID), zap.Int("attempt", a.Attempt),
		zap.String("tenant", a.Tenant), zap.String("subscription", a.SubscriptionID), zap.Int64("subscription_version", a.SubscriptionVersion),
		zap.String("event", a.EventID), zap.String("type", a.EventType), zap.String("call", a.CallID), zap.String("host", host),
		zap.Int("status", a.HTTPStatus), zap.String("error_class", a.ErrorClass), zap.String("error", a.Error),
		zap.Int64("duration_us", a.DurationMicros), zap.Int64("bytes", a.RequestBytes),
		zap.String("record", fmt.Sprintf("%s/%d/%d", a.BodyTopic, a.BodyPartition, a.BodyOffset)),
		zap.Time("next_attempt_at", a.NextAttemptAt), zap.String("traceparent", traceparent),
	)
}
