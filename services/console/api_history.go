package console

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
)

const (
	// mostAttempts bounds the attempts that one delivery shows; the newest are shown.
	mostAttempts = 100
	// mostBodies bounds the bytes of bodies in one answer.
	mostBodies = 8 << 20
	// mostOfCall bounds the events of a call that are shown, mostOfEvents the deliveries of what is shown together.
	mostOfCall, mostOfEvents = 1000, 5000
	// detailsWait bounds how long records are read from Kafka for one answer.
	detailsWait = 15 * time.Second
)

// noteGone says why something is missing in an answer.
const (
	noteGone    = "Kafka's retention has taken the record"
	noteAway    = "Kafka could not be asked now"
	noteAnother = "Kafka has another record there by now: the topic was made anew"
)

type listDeliveries struct {
	ListInput
	SubscriptionID string    `query:"subscription_id" maxLength:"200"`
	EventID        string    `query:"event_id" maxLength:"512"`
	CallID         string    `query:"call_id" maxLength:"512"`
	Type           string    `query:"type" maxLength:"200" doc:"type of the event"`
	State          string    `query:"state" enum:"queued,delivered,retrying,dead,skipped"`
	Reason         string    `query:"reason" maxLength:"200"`
	Since          time.Time `query:"since" doc:"deliveries of events that were accepted at this time or after it"`
	Until          time.Time `query:"until" doc:"deliveries of events that were accepted before this time"`
	HTTPStatus     int       `query:"http_status" minimum:"100" maximum:"599" doc:"status of the newest answer"`
	ErrorClass     string    `query:"error_class" maxLength:"200" doc:"class of the newest request's error"`
}

// DeliveryDocument is one as the API shows it. It is exported for huma, which describes embedded members by reflection.
type DeliveryDocument struct {
	ID                  string     `json:"id" doc:"its webhook-id"`
	EventID             string     `json:"event_id"`
	SubscriptionID      string     `json:"subscription_id"`
	SubscriptionVersion int64      `json:"subscription_version" doc:"of the subscription, when that state was decided"`
	Type                string     `json:"type"`
	Source              string     `json:"source,omitempty"`
	CallID              string     `json:"call_id,omitempty"`
	State               string     `json:"state" enum:"queued,delivered,retrying,dead,skipped"`
	Reason              string     `json:"reason,omitempty" doc:"why it is skipped, dead or retrying; redriven while it waits to be sent again"`
	Detail              string     `json:"detail,omitempty" doc:"the reason in words: the rule that was not met, the failure"`
	Via                 string     `json:"via,omitempty" doc:"where the newest request went: primary or fallback"`
	Attempts            int        `json:"attempts" doc:"requests that were made"`
	NextAttemptAt       *time.Time `json:"next_attempt_at,omitempty"`
	HTTPStatus          int        `json:"http_status,omitempty" doc:"of the newest answer"`
	ErrorClass          string     `json:"error_class,omitempty" doc:"of the newest request"`
	DurationMS          float64    `json:"duration_ms,omitempty" doc:"of the newest request"`
	ReplayID            string     `json:"replay_id,omitempty" doc:"the replay that led to that state"`
	RedriveID           string     `json:"redrive_id,omitempty" doc:"the redrive, or the retry by hand, that led to that state"`
	RepeatAt            string     `json:"repeat_at,omitempty" doc:"place of a repeat of the event that was not delivered again (topic/partition/offset)"`
	CreatedAt           time.Time  `json:"created_at" doc:"when the event was accepted"`
	UpdatedAt           time.Time  `json:"updated_at"`
}

func documentOfDelivery(d *history.Delivery) DeliveryDocument {
	out := DeliveryDocument{
		ID: d.ID, EventID: d.EventID, SubscriptionID: d.SubscriptionID, SubscriptionVersion: d.SubscriptionVersion, Type: d.Type, Source: d.Source, CallID: d.CallID,
		State: d.State, Reason: d.Reason, Detail: d.Detail, Via: d.Via, Attempts: d.Requests(), HTTPStatus: d.HTTPStatus, ErrorClass: d.ErrorClass,
		DurationMS: milliseconds(d.Duration), ReplayID: d.ReplayID, RedriveID: d.Redrive, RepeatAt: d.Occurrence, CreatedAt: d.CreatedAt, UpdatedAt: d.UpdatedAt,
	}
	if !d.NextAttemptAt.IsZero() {
		out.NextAttemptAt = &d.NextAttemptAt
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

type manyDeliveries struct{ Body list[DeliveryDocument] }

// DeliveryID is the id in a path. It is exported for huma, which sets embedded parameters by reflection.
type DeliveryID struct {
	ID string `path:"id" maxLength:"512"`
}

// attemptDocument is one try to deliver, or the decision not to.
type attemptDocument struct {
	Number              int          `json:"number" doc:"from 1; 0 is a decision not to send"`
	At                  time.Time    `json:"at"`
	Outcome             string       `json:"outcome,omitempty" doc:"delivered, retry, dead or skipped"`
	Reason              string       `json:"reason,omitempty"`
	Via                 string       `json:"via,omitempty"`
	SubscriptionVersion int64        `json:"subscription_version,omitempty"`
	DurationMS          float64      `json:"duration_ms,omitempty"`
	ConnectMS           float64      `json:"connect_ms,omitempty" doc:"until the connection stood"`
	FirstByteMS         float64      `json:"first_byte_ms,omitempty" doc:"until the answer's first byte"`
	Request             *sentRequest `json:"request,omitempty"`
	Response            *gotResponse `json:"response,omitempty"`
	ErrorClass          string       `json:"error_class,omitempty"`
	Error               string       `json:"error,omitempty"`
	NextAttemptAt       *time.Time   `json:"next_attempt_at,omitempty"`
	ReplayID            string       `json:"replay_id,omitempty"`
	RedriveID           string       `json:"redrive_id,omitempty"`
	BatchID             string       `json:"batch_id,omitempty" doc:"the webhook-id of the batch that it was sent in; the request's body shown is this event's part"`
	Traceparent         string       `json:"traceparent,omitempty"`
	Dispatcher          string       `json:"dispatcher,omitempty"`
	Note                string       `json:"note,omitempty" doc:"why something is missing"`
}

// Content is a body, as text or in base64. It is exported for huma, which describes embedded members by reflection.
type Content struct {
	Body       *string `json:"body,omitempty"`
	BodyBase64 *string `json:"body_base64,omitempty" doc:"a body that is not text"`
}

func contentOf(raw []byte) Content {
	text := string(raw)
	if utf8.ValidString(text) {
		return Content{Body: &text}
	}
	text = base64.StdEncoding.EncodeToString(raw)
	return Content{BodyBase64: &text}
}

type sentRequest struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Query   string            `json:"query,omitempty" doc:"what the rendering adds to the URL"`
	Headers map[string]string `json:"headers" doc:"secrets are masked"`
	Bytes   int64             `json:"bytes" doc:"of the body"`
	Content
	Note string `json:"note,omitempty" doc:"why the body is missing"`
}

type gotResponse struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Content
	Truncated bool `json:"truncated,omitempty" doc:"the body was longer than what is kept"`
}

// deliveryDetails is one delivery with all that was tried.
type deliveryDetails struct {
	DeliveryDocument
	AttemptLog []attemptDocument  `json:"attempt_log" doc:"every attempt, oldest first; the newest 100"`
	Repeats    []DeliveryDocument `json:"repeats,omitempty" doc:"repeats of the event that were not delivered again"`
}

type oneDelivery struct{ Body deliveryDetails }

// eventDetails is an event and what became of it.
type eventDetails struct {
	ID           string                     `json:"id"`
	Type         string                     `json:"type"`
	Time         time.Time                  `json:"time"`
	Tenant       string                     `json:"tenant"`
	Source       string                     `json:"source,omitempty"`
	CallID       string                     `json:"call_id,omitempty"`
	AgentID      string                     `json:"agent_id,omitempty"`
	Sequence     *int64                     `json:"sequence,omitempty"`
	Test         bool                       `json:"test,omitempty"`
	Data         json.RawMessage            `json:"data,omitempty"`
	Members      map[string]json.RawMessage `json:"members,omitempty" doc:"what the event had beside these members"`
	AcceptedAt   time.Time                  `json:"accepted_at"`
	Record       string                     `json:"record" doc:"where the event is in Kafka: topic/partition/offset"`
	Note         string                     `json:"note,omitempty" doc:"why the data is missing"`
	Dead         *deadEvent                 `json:"dead,omitempty" doc:"set where the event could not be processed and no subscription was asked"`
	OtherSources []string                   `json:"other_sources,omitempty" doc:"further sources that used the id; ask for one by source"`
	Deliveries   []DeliveryDocument         `json:"deliveries" doc:"one for each subscription whose event types match"`
}

type deadEvent struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Detail string    `json:"detail,omitempty"`
}

type getEvent struct {
	ID     string `path:"id" maxLength:"512"`
	Source string `query:"source" maxLength:"512" doc:"of several events with the id, the one of this source; else the newest"`
}

type oneEvent struct{ Body eventDetails }

type getCall struct {
	ID string `path:"call_id" maxLength:"512"`
}

type callTimeline struct {
	CallID    string         `json:"call_id"`
	Events    []eventDetails `json:"events" doc:"in the order in which they happened, without their data"`
	Truncated bool           `json:"truncated,omitempty" doc:"the call has more events, or deliveries, than are shown"`
}

type oneCall struct{ Body callTimeline }

func (a *apiSet) registerHistory() {
	register(a, operation{id: "list-deliveries", method: http.MethodGet, path: "/v1/deliveries", scope: auth.ScopeDeliveriesRead,
		summary: "List deliveries, those of the newest events first", errors: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}}, a.listDeliveries)
	register(a, operation{id: "get-delivery", method: http.MethodGet, path: "/v1/deliveries/{id}", scope: auth.ScopeDeliveriesRead,
		summary: "Get a delivery with every attempt, request and response", errors: []int{http.StatusNotFound}}, a.getDelivery)
	register(a, operation{id: "get-event", method: http.MethodGet, path: "/v1/events/{id}", scope: auth.ScopeDeliveriesRead,
		summary: "Get an event and what became of it", errors: []int{http.StatusNotFound}}, a.getEvent)
	register(a, operation{id: "get-call", method: http.MethodGet, path: "/v1/calls/{call_id}", scope: auth.ScopeDeliveriesRead,
		summary: "Get a call's timeline: its events, and what became of them", errors: []int{http.StatusNotFound}}, a.getCall)
}

func (a *apiSet) listDeliveries(ctx context.Context, _ *storage.Store, p auth.Principal, in *listDeliveries) (*manyDeliveries, error) {
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	found, err := rows.Deliveries(ctx, p.Tenant, history.Filter{
		SubscriptionID: in.SubscriptionID, EventID: in.EventID, CallID: in.CallID, Type: in.Type, State: in.State, Reason: in.Reason,
		Since: in.Since, Until: in.Until, HTTPStatus: in.HTTPStatus, ErrorClass: in.ErrorClass,
	}, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	cut := page(found, in.Limit, func(d *history.Delivery) string {
		c := d.Cursor()
		return strconv.FormatInt(c.CreatedAt.UnixMicro(), 10) + ":" + c.ID + ":" + c.Occurrence
	})
	out := list[DeliveryDocument]{Items: make([]DeliveryDocument, len(cut.Items)), NextCursor: cut.NextCursor}
	for i, d := range cut.Items {
		out.Items[i] = documentOfDelivery(d)
	}
	return &manyDeliveries{out}, nil
}

// after is the place that the cursor stands for: when the event was accepted, the delivery, and the repeat.
func (in *listDeliveries) after() (history.Cursor, error) {
	text, err := in.before()
	if err != nil || text == "" {
		return history.Cursor{}, err
	}
	at, rest, _ := strings.Cut(text, ":")
	id, occurrence, _ := strings.Cut(rest, ":")
	micros, err := strconv.ParseInt(at, 10, 64)
	if err != nil || id == "" {
		return history.Cursor{}, errCursor()
	}
	return history.Cursor{CreatedAt: time.UnixMicro(micros).UTC(), ID: id, Occurrence: occurrence}, nil
}

func (a *apiSet) getDelivery(ctx context.Context, _ *storage.Store, p auth.Principal, in *DeliveryID) (*oneDelivery, error) {
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	found, err := rows.Delivery(ctx, p.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, storage.ErrNotFound
	}
	out := deliveryDetails{DeliveryDocument: documentOfDelivery(found[0])}
	for _, repeat := range found[1:] {
		out.Repeats = append(out.Repeats, documentOfDelivery(repeat))
	}
	ctx, cancel := context.WithTimeout(ctx, detailsWait)
	defer cancel()
	out.AttemptLog = a.attempts(ctx, found[0])
	return &oneDelivery{out}, nil
}

// attempts reads the records of a delivery's attempts, and the bodies that they sent.
func (s *Service) attempts(ctx context.Context, d *history.Delivery) []attemptDocument {
	pointers := d.Attempts[max(0, len(d.Attempts)-mostAttempts):]
	log, bodies := make([]attemptDocument, len(pointers)), make([]kafka.Place, len(pointers))
	places := make([]kafka.Place, len(pointers))
	for i, p := range pointers {
		log[i], places[i] = attemptDocument{Number: p.Number, At: p.StartedAt}, p.Place()
	}
	s.deps.records.Records(ctx, places, func(i int, r *kgo.Record, err error) {
		var a event.Attempt
		if err == nil {
			err = s.deps.Codec.Decode(ctx, r.Value, &a)
		}
		if err == nil && (a.DeliveryID != d.ID || a.Tenant != d.Tenant) {
			err = errAnother
		}
		if err != nil {
			log[i].Note = noteOf(err)
			return
		}
		log[i] = documentOfAttempt(&a)
		bodies[i] = kafka.Place{Topic: a.BodyTopic, Partition: a.BodyPartition, Offset: a.BodyOffset}
	})
	s.bodies(ctx, d, log, bodies)
	return log
}

// bodies adds what the requests sent, read from the records that held them. Attempts of one rendering sent the same bytes
// from different records: the first that is left serves them all.
func (s *Service) bodies(ctx context.Context, d *history.Delivery, log []attemptDocument, places []kafka.Place) {
	type rendering struct {
		delivery event.Delivery
		err      error
	}
	renderings := map[string]*rendering{} // by replay
	left := mostBodies
	for i := range log {
		if log[i].Request == nil {
			continue
		}
		made := renderings[log[i].ReplayID]
		if made == nil || made.err != nil {
			made = &rendering{}
			var r *kgo.Record
			if r, made.err = s.deps.records.Record(ctx, places[i]); made.err == nil {
				made.err = s.deps.Codec.Decode(ctx, r.Value, &made.delivery)
			}
			if made.err == nil {
				var same bool
				if made.delivery, same = made.delivery.Of(d.ID); !same || made.delivery.Tenant != d.Tenant {
					made.err = errAnother
				}
			}
			renderings[log[i].ReplayID] = made
		}
		switch {
		case made.err != nil:
			log[i].Request.Note = noteOf(made.err)
		case len(made.delivery.Body) > left:
			log[i].Request.Note = "left out: the bodies of one answer are at most 8 MiB; it is that of the attempts before"
		default:
			left -= len(made.delivery.Body)
			log[i].Request.Content, log[i].Request.Query = contentOf(made.delivery.Body), made.delivery.Query
		}
	}
}

func documentOfAttempt(a *event.Attempt) attemptDocument {
	micros := func(n int64) float64 { return milliseconds(time.Duration(n) * time.Microsecond) }
	out := attemptDocument{
		Number: a.Attempt, At: a.StartedAt, Outcome: a.Outcome, Reason: a.Reason, Via: a.Via, SubscriptionVersion: a.SubscriptionVersion,
		DurationMS: micros(a.DurationMicros), ConnectMS: micros(a.ConnectMicros), FirstByteMS: micros(a.FirstByteMicros),
		ErrorClass: a.ErrorClass, Error: a.Error, ReplayID: a.ReplayID, RedriveID: a.Redrive, BatchID: a.BatchID, Traceparent: a.Traceparent, Dispatcher: a.Dispatcher,
	}
	if !a.NextAttemptAt.IsZero() {
		out.NextAttemptAt = &a.NextAttemptAt
	}
	if a.Attempt == 0 {
		return out
	}
	out.Request = &sentRequest{Method: a.Method, URL: a.URL, Headers: orEmpty(a.RequestHeaders), Bytes: a.RequestBytes}
	if a.HTTPStatus != 0 {
		out.Response = &gotResponse{Status: a.HTTPStatus, Headers: orEmpty(a.ResponseHeaders), Content: contentOf(a.ResponseBody), Truncated: a.ResponseTruncated}
	}
	return out
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// errAnother means that a pointer of the history leads to a record that it was not made from.
var errAnother = errors.New("another record is at this place")

// noteOf says what of a record can't be shown.
func noteOf(err error) string {
	switch {
	case errors.Is(err, kafka.ErrGone), errors.Is(err, kafka.ErrNoRecord):
		return noteGone
	case errors.Is(err, errAnother), errors.Is(err, event.ErrPoison):
		return noteAnother
	}
	return noteAway
}

func (a *apiSet) getEvent(ctx context.Context, _ *storage.Store, p auth.Principal, in *getEvent) (*oneEvent, error) {
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	found, err := rows.Events(ctx, p.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	var e *history.Event
	var others []string
	for _, one := range found {
		if in.Source != "" && one.Source != in.Source {
			continue
		}
		if e != nil {
			others = append(others, e.Source)
		}
		e = one
	}
	if e == nil {
		return nil, storage.ErrNotFound
	}
	of, err := rows.Of(ctx, p.Tenant, []*history.Event{e}, mostOfEvents)
	if err != nil {
		return nil, err
	}
	out := documentOfEvent(e, of)
	out.OtherSources = others
	ctx, cancel := context.WithTimeout(ctx, detailsWait)
	defer cancel()
	if err := a.readEvent(ctx, e, &out); err != nil {
		out.Note = noteOf(err)
	}
	return &oneEvent{out}, nil
}

// documentOfEvent is what the rows tell of an event.
func documentOfEvent(e *history.Event, of map[string][]*history.Delivery) eventDetails {
	out := eventDetails{ID: e.ID, Type: e.Type, Time: e.Time, Tenant: e.Tenant, Source: e.Source, CallID: e.CallID, AcceptedAt: e.AcceptedAt,
		Record: e.Place.String(), Deliveries: []DeliveryDocument{}}
	if !e.DeadAt.IsZero() {
		out.Dead = &deadEvent{e.DeadAt, e.DeadReason, e.DeadDetail}
	}
	for _, d := range of[e.ID] {
		if d.Source == e.Source {
			out.Deliveries = append(out.Deliveries, documentOfDelivery(d))
		}
	}
	return out
}

// readEvent adds what only the event's record has.
func (s *Service) readEvent(ctx context.Context, known *history.Event, out *eventDetails) error {
	e, err := s.recorded(ctx, known)
	if err != nil {
		return err
	}
	out.AgentID, out.Test, out.Data = e.AgentID, e.Test, e.AppendData(nil)
	if e.HasSequence {
		out.Sequence = &e.Sequence
	}
	if err := json.Unmarshal(e.AppendJSON(nil), &out.Members); err != nil {
		return fmt.Errorf("read the members of the event %s: %w", known.ID, err)
	}
	for _, envelope := range []string{"id", "type", "time", "tenant", "source", "call_id", "agent_id", "sequence", "test", "data"} {
		delete(out.Members, envelope)
	}
	return nil
}

func (a *apiSet) getCall(ctx context.Context, _ *storage.Store, p auth.Principal, in *getCall) (*oneCall, error) {
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	events, err := rows.Call(ctx, p.Tenant, in.ID, mostOfCall+1)
	if err != nil {
		return nil, err
	}
	if len(events) == 0 {
		return nil, storage.ErrNotFound
	}
	out := callTimeline{CallID: in.ID, Events: []eventDetails{}, Truncated: len(events) > mostOfCall}
	events = events[:min(len(events), mostOfCall)]
	of, err := rows.Of(ctx, p.Tenant, events, mostOfEvents+1)
	if err != nil {
		return nil, err
	}
	deliveries := 0
	for _, e := range events {
		one := documentOfEvent(e, of)
		deliveries += len(one.Deliveries)
		out.Events = append(out.Events, one)
	}
	out.Truncated = out.Truncated || deliveries > mostOfEvents
	return &oneCall{out}, nil
}
