package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/httpserver"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
)

const (
	eventStream = "text/event-stream"
	// heartbeat is how often a stream that has nothing to say says so: proxies close what is silent for a minute.
	heartbeat = 15 * time.Second
	// streamLife is how long a stream lasts. Whoever still looks comes back by itself, with a key that is looked at anew.
	streamLife = 30 * time.Minute
	// writeTime is how long a reader may take for what was written to it.
	writeTime = 10 * time.Second
	// streamPage is how many answers are read at once when a stream begins.
	streamPage = 100
	// lookForRest is how often is asked for what the history didn't have when a stream began.
	lookForRest = time.Second
)

type listResponses struct {
	ListInput
	ID string `path:"call_id" maxLength:"512"`
	// Accept and LastEventID are described here, and read where the stream is made.
	Accept      string `header:"Accept" doc:"text/event-stream for a stream of all that come"`
	LastEventID string `header:"Last-Event-ID" doc:"of a stream: the id of the last one that was received, behind which it goes on"`
}

// responseDocument is an endpoint's captured answer.
type responseDocument struct {
	ID             string    `json:"id" doc:"its place among those of the call"`
	CallID         string    `json:"call_id"`
	EventID        string    `json:"event_id"`
	Type           string    `json:"type"`
	SubscriptionID string    `json:"subscription_id"`
	DeliveryID     string    `json:"delivery_id" doc:"the webhook-id of the request"`
	Attempt        int       `json:"attempt,omitempty" doc:"which of its requests was answered so"`
	ReceivedAt     time.Time `json:"received_at"`
	HTTPStatus     int       `json:"http_status"`
	ContentType    string    `json:"content_type,omitempty"`
	Valid          bool      `json:"valid" doc:"it is JSON, and has the agreed shape where there is one"`
	Problem        string    `json:"problem,omitempty" doc:"what is wrong with it"`
	Truncated      bool      `json:"truncated,omitempty" doc:"the body was longer than what is kept"`
	Answer         any       `json:"answer,omitempty" doc:"the body of a valid one"`
	Content
	Note string `json:"note,omitempty" doc:"why the body is missing"`
}

type manyResponses struct{ Body list[responseDocument] }

func (a *apiSet) registerResponses() {
	register(a, operation{id: "list-call-responses", method: http.MethodGet, path: "/v1/calls/{call_id}/responses", scope: auth.ScopeDeliveriesRead,
		summary: "List what endpoints answered to a call's events, the newest first; or stream it, the oldest first",
		errors:  []int{http.StatusBadRequest, http.StatusNotFound, http.StatusTooManyRequests, http.StatusUnprocessableEntity}, stream: a.streamResponses}, a.listResponses)
	a.describeStream()
}

// describeStream adds the stream to what the operation answers.
func (a *apiSet) describeStream() {
	done := a.api.OpenAPI().Paths["/v1/calls/{call_id}/responses"].Get.Responses[strconv.Itoa(http.StatusOK)]
	done.Description = "A list; or a stream of server-sent events, where Accept asks for it"
	done.Content[eventStream] = &huma.MediaType{Schema: &huma.Schema{
		Type: huma.TypeArray, Description: "Server-sent events; comments in between say that the stream lives.",
		Items: &huma.Schema{Type: huma.TypeObject, Required: []string{"data"}, Properties: map[string]*huma.Schema{
			"id":    {Type: huma.TypeString, Description: "to be sent as Last-Event-ID by who comes back"},
			"event": {Type: huma.TypeString, Enum: []any{"response"}},
			"data":  schemaOf[responseDocument](a),
		}},
	}}
}

// responseID writes a place among a call's responses.
func responseID(partition int32, offset int64) string {
	return strconv.Itoa(int(partition)) + "-" + strconv.FormatInt(offset, 10)
}

func parseResponseID(text string) (history.ResponseAt, bool) {
	partition, offset, ok := strings.Cut(text, "-")
	p, err := strconv.ParseInt(partition, 10, 32)
	o, err2 := strconv.ParseInt(offset, 10, 64)
	return history.ResponseAt{Partition: int32(p), Offset: o}, ok && err == nil && err2 == nil && p >= 0 && o >= 0
}

// documentOfResponse is what a record tells.
func documentOfResponse(r *kgo.Record, a *event.Response) responseDocument {
	out := responseDocument{
		ID: responseID(r.Partition, r.Offset), CallID: a.CallID, EventID: a.EventID, Type: a.EventType, SubscriptionID: a.SubscriptionID, DeliveryID: a.DeliveryID,
		Attempt: a.Attempt, ReceivedAt: a.ReceivedAt, HTTPStatus: a.HTTPStatus, ContentType: a.ContentType, Valid: a.Valid, Problem: a.Problem, Truncated: a.Truncated,
	}
	if a.Valid && json.Valid(a.Body) {
		out.Answer = json.RawMessage(a.Body)
	} else {
		out.Content = contentOf(a.Body)
	}
	return out
}

// documentOfRow is what is known of a response whose record is not to be had.
func documentOfRow(row *history.Response, err error) responseDocument {
	return responseDocument{
		ID: responseID(row.Partition, row.Offset), CallID: row.CallID, EventID: row.EventID, Type: row.Type, SubscriptionID: row.SubscriptionID, DeliveryID: row.DeliveryID,
		Attempt: row.Attempt, ReceivedAt: row.ReceivedAt, HTTPStatus: row.HTTPStatus, Valid: row.Valid, Problem: row.Problem, Note: noteOf(err),
	}
}

// responseDocuments reads the records of rows.
func (s *Service) responseDocuments(ctx context.Context, rows []*history.Response) []responseDocument {
	ctx, cancel := context.WithTimeout(ctx, detailsWait)
	defer cancel()
	out, places := make([]responseDocument, len(rows)), make([]kafka.Place, len(rows))
	for i, row := range rows {
		places[i] = row.Place()
	}
	if len(rows) == 0 {
		return out
	}
	s.deps.records.Records(ctx, places, func(i int, r *kgo.Record, err error) {
		var a event.Response
		if err == nil {
			err = s.deps.Codec.Decode(ctx, r.Value, &a)
		}
		if err == nil && (a.Tenant != rows[i].Tenant || a.DeliveryID != rows[i].DeliveryID) {
			err = errAnother
		}
		if err != nil {
			out[i] = documentOfRow(rows[i], err)
			return
		}
		out[i] = documentOfResponse(r, &a)
	})
	return out
}

func (a *apiSet) listResponses(ctx context.Context, _ *storage.Store, p auth.Principal, in *listResponses) (*manyResponses, error) {
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	before, err := in.at()
	if err != nil {
		return nil, err
	}
	found, err := rows.Responses(ctx, p.Tenant, in.ID, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	fresh := []responseDocument{}
	if in.Cursor == "" {
		recent, _ := a.tail.recently(p.Tenant, in.ID)
		if fresh, err = a.notIn(ctx, recent, found); err != nil {
			return nil, err
		}
		if len(fresh)+len(found) == 0 {
			// Nothing was answered yet; or there is no such call.
			events, err := rows.Call(ctx, p.Tenant, in.ID, 1)
			if err != nil {
				return nil, err
			}
			if len(events) == 0 {
				return nil, storage.ErrNotFound
			}
		}
	}
	found = found[:min(len(found), max(in.Limit+1-len(fresh), 0))]
	items := append(fresh, a.responseDocuments(ctx, found)...)
	return &manyResponses{page(items, in.Limit, func(d responseDocument) string { return d.ID })}, nil
}

// notIn returns those of the records that are not among the rows, the newest first.
func (s *Service) notIn(ctx context.Context, records []*kgo.Record, rows []*history.Response) ([]responseDocument, error) {
	out := []responseDocument{}
	for _, r := range slices.Backward(records) {
		if slices.ContainsFunc(rows, func(row *history.Response) bool { return row.Partition == r.Partition && row.Offset == r.Offset }) ||
			len(rows) > 0 && r.Offset < rows[len(rows)-1].Offset {
			continue
		}
		var a event.Response
		if err := s.deps.Codec.Decode(ctx, r.Value, &a); errors.Is(err, event.ErrPoison) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("read a response: %w", err)
		}
		out = append(out, documentOfResponse(r, &a))
	}
	return out, nil
}

// at is the place that the cursor stands for.
func (in *listResponses) at() (history.ResponseAt, error) {
	text, err := in.before()
	if err != nil || text == "" {
		return history.ResponseAt{}, err
	}
	at, ok := parseResponseID(text)
	if !ok {
		return at, errCursor()
	}
	return at, nil
}

// wantsStream says whether the header Accept asks for a stream.
func wantsStream(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		if media, params, err := mime.ParseMediaType(part); err == nil && media == eventStream && params["q"] != "0" {
			return true
		}
	}
	return false
}

// streamResponses answers with a stream instead of the list, where one is asked for.
func (a *apiSet) streamResponses(hc huma.Context, next func(huma.Context)) {
	if !wantsStream(hc.Header("Accept")) {
		next(hc)
		return
	}
	r, w := humago.Unwrap(hc)
	refused := func(err error) {
		var p apiError
		if err := a.answer(r.Context(), err); errors.As(err, &p) {
			problem.Write(w, p.Problem)
		}
	}
	rows, err := a.rows()
	if err != nil {
		refused(refuse(http.StatusServiceUnavailable, "the database is not available; try again"))
		return
	}
	tenant, call := caller(hc.Context()).Tenant, hc.Param("call_id")
	stream, recent, began, err := a.tail.join(tenant, call)
	switch {
	case errors.Is(err, errStreams):
		p := problem.New(http.StatusTooManyRequests, "as many streams are open as may be (CALLSTREAM_MAX_STREAMS)")
		p.Header = http.Header{"Retry-After": {"5"}}
		problem.Write(w, p)
		return
	case err != nil:
		refused(refuse(http.StatusServiceUnavailable, err.Error()+"; try again"))
		return
	}
	defer stream.leave()
	o := &responseWriter{Service: a.Service, ctx: r.Context(), rows: rows, tenant: tenant, call: call, began: began, w: w, control: http.NewResponseController(w)}
	if at, ok := parseResponseID(hc.Header("Last-Event-ID")); ok {
		o.after = &at
	}
	if len(recent) == 0 {
		known, err := o.known()
		if err != nil {
			refused(err)
			return
		}
		if !known {
			refused(storage.ErrNotFound)
			return
		}
	}
	o.run(stream, recent)
}

// responseWriter writes one stream.
type responseWriter struct {
	*Service
	ctx          context.Context
	rows         *history.Store
	tenant, call string
	began        map[int32]int64     // from where on the tail has all
	after        *history.ResponseAt // what was sent last, of those with an id
	looked       bool                // those were sent that the history had at first
	complete     bool                // all from before began were sent
	w            http.ResponseWriter
	control      *http.ResponseController
}

// known says whether there is such a call: its first event, or an answer.
func (o *responseWriter) known() (bool, error) {
	events, err := o.rows.Call(o.ctx, o.tenant, o.call, 1)
	if err != nil || len(events) > 0 {
		return len(events) > 0, err
	}
	found, err := o.rows.Responses(o.ctx, o.tenant, o.call, history.ResponseAt{}, 1)
	return len(found) > 0, err
}

// run writes what there is, and then what comes, until somebody ends it.
func (o *responseWriter) run(stream *responseStream, recent []*kgo.Record) {
	// The server's limit is for requests; a stream would be cut by it.
	_ = o.control.SetReadDeadline(time.Time{})
	defer func() { _ = o.control.SetWriteDeadline(time.Time{}) }() // for the connection's next request
	header := o.w.Header()
	header.Set("Content-Type", eventStream)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // some proxies would collect it
	if o.write([]byte("retry: 1000\n\n")) != nil {
		return
	}
	if o.rest() != nil {
		return
	}
	for _, r := range recent {
		if o.record(r) != nil {
			return
		}
	}
	beat, end, look := time.NewTicker(heartbeat), time.NewTimer(streamLife), time.NewTicker(lookForRest)
	defer beat.Stop()
	defer end.Stop()
	defer look.Stop()
	draining := httpserver.Draining(o.ctx)
	for {
		var err error
		select {
		case r, more := <-stream.records:
			if !more {
				return
			}
			err = o.record(r)
		case <-look.C:
			if o.complete {
				look.Stop()
			} else {
				err = o.rest()
			}
		case <-beat.C:
			err = o.write([]byte(": alive\n\n"))
		case <-end.C:
			return
		case <-draining:
			return
		case <-o.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// rest writes what the history has from before the tail began: at first what it has, and then the rest when that is whole.
func (o *responseWriter) rest() error {
	complete, err := o.rows.ResponsesBelow(o.ctx, o.began)
	if err != nil {
		return err
	}
	if !complete && o.looked {
		return nil // the history is being made: it may take a while, and all streams ask
	}
	o.looked = true
	for {
		found, err := o.rows.ResponsesAfter(o.ctx, o.tenant, o.call, o.after, streamPage)
		if err != nil {
			return err
		}
		older := slices.DeleteFunc(slices.Clone(found), func(r *history.Response) bool { return r.Offset >= o.began[r.Partition] })
		for _, d := range o.responseDocuments(o.ctx, older) {
			if err := o.document(d, true); err != nil {
				return err
			}
		}
		if len(older) < streamPage {
			break
		}
	}
	o.complete = complete
	return nil
}

// record writes one that the tail has. While older ones may still be missing it has no id: who came back with it would
// never be sent those.
func (o *responseWriter) record(r *kgo.Record) error {
	if o.after != nil && r.Partition == o.after.Partition && r.Offset <= o.after.Offset {
		return nil
	}
	var a event.Response
	if err := o.deps.Codec.Decode(o.ctx, r.Value, &a); errors.Is(err, event.ErrPoison) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read a response: %w", err)
	}
	return o.document(documentOfResponse(r, &a), o.complete)
}

func (o *responseWriter) document(d responseDocument, withID bool) error {
	raw, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("write a response: %w", err)
	}
	var b []byte
	if at, ok := parseResponseID(d.ID); ok && withID {
		o.after = &at
		b = append(append(append(b, "id: "...), d.ID...), '\n')
	}
	return o.write(append(append(append(b, "event: response\ndata: "...), raw...), "\n\n"...))
}

// write sends a piece, in the time that a reader has for it.
func (o *responseWriter) write(b []byte) error {
	_ = o.control.SetWriteDeadline(time.Now().Add(writeTime))
	_, err := o.w.Write(b)
	return cmp.Or(err, o.control.Flush())
}
