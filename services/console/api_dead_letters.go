package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
)

// notePoison says why the bytes of a letter are not shown: what does not say whose it is may be anybody's.
const notePoison = "the record does not say that it is your tenant's, so it is not shown; it is in Kafka, at its place"

type listDeadLetters struct {
	ListInput
	SubscriptionID string    `query:"subscription_id" maxLength:"200"`
	EventID        string    `query:"event_id" maxLength:"512"`
	CallID         string    `query:"call_id" maxLength:"512"`
	Type           string    `query:"type" maxLength:"200" doc:"type of the event"`
	Reason         string    `query:"reason" maxLength:"200" doc:"exhausted, rejected, gone, render_failed, payload_too_large, poison, …"`
	Since          time.Time `query:"since" doc:"dead at this time or after it"`
	Until          time.Time `query:"until" doc:"dead before this time"`
	HTTPStatus     int       `query:"http_status" minimum:"100" maximum:"599" doc:"status of the last answer"`
	ErrorClass     string    `query:"error_class" maxLength:"200" doc:"class of the last error"`
	Service        string    `query:"service" maxLength:"200" doc:"the process that gave it up"`
	Redriven       string    `query:"redriven" enum:"true,false" doc:"whether it was redriven; both where it is not given"`
}

func (in *listDeadLetters) filter() history.DeadFilter {
	f := history.DeadFilter{
		SubscriptionID: in.SubscriptionID, EventID: in.EventID, CallID: in.CallID, Type: in.Type, Reason: in.Reason, Since: in.Since, Until: in.Until,
		HTTPStatus: in.HTTPStatus, ErrorClass: in.ErrorClass, Service: in.Service,
	}
	if in.Redriven != "" {
		redriven := in.Redriven == "true"
		f.Redriven = &redriven
	}
	return f
}

// DeadLetterDocument is a dead letter as the API shows it. It is exported for huma, which describes embedded members by
// reflection.
type DeadLetterDocument struct {
	ID             string     `json:"id" example:"dlq_3_1042"`
	Reason         string     `json:"reason" doc:"why, from a closed set"`
	Detail         string     `json:"detail,omitempty" doc:"the reason in words"`
	SubscriptionID string     `json:"subscription_id,omitempty"`
	DeliveryID     string     `json:"delivery_id,omitempty" doc:"absent for an event that never became a delivery"`
	EventID        string     `json:"event_id,omitempty"`
	Type           string     `json:"type,omitempty"`
	Source         string     `json:"source,omitempty"`
	CallID         string     `json:"call_id,omitempty"`
	Attempts       int        `json:"attempts"`
	HTTPStatus     int        `json:"http_status,omitempty" doc:"of the last answer"`
	ErrorClass     string     `json:"error_class,omitempty" doc:"of the last error"`
	FirstFailedAt  *time.Time `json:"first_failed_at,omitempty"`
	LastFailedAt   *time.Time `json:"last_failed_at,omitempty"`
	DeadAt         time.Time  `json:"dead_at"`
	Service        string     `json:"service,omitempty" doc:"the process that gave it up"`
	Record         string     `json:"record" doc:"where the letter is in Kafka: topic/partition/offset"`
	Original       string     `json:"original,omitempty" doc:"where the record was that could not be processed or delivered"`
	RedrivenAt     *time.Time `json:"redriven_at,omitempty"`
	RedrivenBy     string     `json:"redriven_by,omitempty" doc:"id of the newest redrive"`
	NotRedrivable  string     `json:"not_redrivable,omitempty" doc:"why it can't be redriven"`
}

func documentOfDeadLetter(l *history.DeadLetter) DeadLetterDocument {
	out := DeadLetterDocument{
		ID: l.ID(), Reason: l.Reason, Detail: l.Detail, SubscriptionID: l.SubscriptionID, DeliveryID: l.DeliveryID, EventID: l.EventID, Type: l.Type, Source: l.Source, CallID: l.CallID,
		Attempts: l.Attempts, HTTPStatus: l.HTTPStatus, ErrorClass: l.ErrorClass, FirstFailedAt: known(l.FirstFailedAt), LastFailedAt: known(l.LastFailedAt), DeadAt: l.DeadAt, Service: l.Service,
		Record: l.Place().String(),
	}
	if l.Original.Topic != "" {
		out.Original = l.Original.String()
	}
	if l.Redriven() {
		out.RedrivenAt, out.RedrivenBy = known(l.RedrivenAt), l.RedrivenBy
	}
	_, out.NotRedrivable = unredrivable(l)
	return out
}

// known is a time as an optional member.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

type manyDeadLetters struct{ Body list[DeadLetterDocument] }

type getDeadLetter struct {
	ID string `path:"id" maxLength:"64"`
}

// deadLetterDetails are a letter with what the record of it holds.
type deadLetterDetails struct {
	DeadLetterDocument
	Error       string            `json:"error,omitempty" doc:"the last error in words"`
	Headers     map[string]string `json:"headers,omitempty" doc:"those of the original record"`
	Request     *deadRequest      `json:"request,omitempty" doc:"the request that could not be delivered"`
	Event       json.RawMessage   `json:"event,omitempty" doc:"the event that never became a request"`
	Response    *Content          `json:"response,omitempty" doc:"the last answer, up to 16 KiB"`
	Traceparent string            `json:"traceparent,omitempty"`
	Note        string            `json:"note,omitempty" doc:"why something is missing"`
}

// deadRequest is the rendering that a letter holds. Secrets are not in it: they are added when it is sent.
type deadRequest struct {
	Method      string            `json:"method,omitempty"`
	Query       string            `json:"query,omitempty" doc:"what the rendering adds to the URL"`
	ContentType string            `json:"content_type,omitempty"`
	Headers     map[string]string `json:"headers,omitempty" doc:"what the rendering adds"`
	Content
}

type oneDeadLetter struct{ Body deadLetterDetails }

func (a *apiSet) registerDeadLetters() {
	register(a, operation{id: "list-dead-letters", method: http.MethodGet, path: "/v1/dlq", scope: auth.ScopeDeliveriesRead,
		summary: "List dead letters, newest first", errors: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}}, a.listDeadLetters)
	register(a, operation{id: "get-dead-letter", method: http.MethodGet, path: "/v1/dlq/{id}", scope: auth.ScopeDeliveriesRead,
		summary: "Get a dead letter with the original record", errors: []int{http.StatusNotFound}}, a.getDeadLetter)
}

// tenantsOf are those whose dead letters a caller sees: its own, and for an admin those of which nobody could tell whose
// they are, without their bytes.
func tenantsOf(p auth.Principal) []string {
	if p.Has(auth.ScopeAdmin) {
		return []string{p.Tenant, ""}
	}
	return []string{p.Tenant}
}

func (a *apiSet) listDeadLetters(ctx context.Context, _ *storage.Store, p auth.Principal, in *listDeadLetters) (*manyDeadLetters, error) {
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	found, err := rows.DeadLetters(ctx, tenantsOf(p), in.filter(), after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	cut := page(found, in.Limit, func(l *history.DeadLetter) string {
		return strconv.FormatInt(l.DeadAt.UnixMicro(), 10) + ":" + l.ID()
	})
	out := list[DeadLetterDocument]{Items: make([]DeadLetterDocument, len(cut.Items)), NextCursor: cut.NextCursor}
	for i, l := range cut.Items {
		out.Items[i] = documentOfDeadLetter(l)
	}
	return &manyDeadLetters{out}, nil
}

// after is the place that the cursor stands for: when the letter was written, and its id.
func (in *listDeadLetters) after() (history.DeadCursor, error) {
	text, err := in.before()
	if err != nil || text == "" {
		return history.DeadCursor{}, err
	}
	at, id, _ := strings.Cut(text, ":")
	micros, err := strconv.ParseInt(at, 10, 64)
	if err != nil || id == "" {
		return history.DeadCursor{}, errCursor()
	}
	return history.DeadCursor{DeadAt: time.UnixMicro(micros).UTC(), ID: id}, nil
}

func (a *apiSet) getDeadLetter(ctx context.Context, _ *storage.Store, p auth.Principal, in *getDeadLetter) (*oneDeadLetter, error) {
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	found, err := rows.DeadLettersOf(ctx, tenantsOf(p), []string{in.ID})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, storage.ErrNotFound
	}
	out := deadLetterDetails{DeadLetterDocument: documentOfDeadLetter(found[0])}
	ctx, cancel := context.WithTimeout(ctx, detailsWait)
	defer cancel()
	if err := a.readLetter(ctx, found[0], &out); err != nil {
		out.Note = noteOf(err)
	}
	return &oneDeadLetter{out}, nil
}

// readLetter adds what only the letter's record has. The bytes that it holds are shown where they themselves say that they
// are the tenant's: the letter's own word may be what a header claimed.
func (s *Service) readLetter(ctx context.Context, known *history.DeadLetter, out *deadLetterDetails) error {
	r, err := s.deps.records.Record(ctx, known.Place())
	if err != nil {
		return err
	}
	var l event.DeadLetter
	if err := s.deps.Codec.Decode(ctx, r.Value, &l); err != nil {
		return err
	}
	if l.Tenant != known.Tenant || l.DeliveryID != known.DeliveryID || !deadAt(&l, r).Equal(known.DeadAt) {
		return errAnother
	}
	out.Error, out.Traceparent = l.Error, l.Traceparent
	if known.Tenant == "" {
		out.Note = notePoison
		return nil
	}
	if len(l.ResponseBody) > 0 {
		body := contentOf(l.ResponseBody)
		out.Response = &body
	}
	value, headers := l.OriginalValue, l.OriginalHeaders
	if len(value) == 0 {
		// It was too large to be carried.
		original, err := s.deps.records.Record(ctx, known.Original)
		if err != nil {
			return err
		}
		value = original.Value
		headers = make(map[string][]byte, len(original.Headers))
		for _, h := range original.Headers {
			headers[h.Key] = h.Value
		}
	}
	theirs, err := s.readOriginal(ctx, &l, value, string(headers[kafka.HeaderTenant]), out)
	if err != nil {
		return err
	}
	if !theirs {
		out.Note = notePoison
		return nil
	}
	out.Headers = make(map[string]string, len(headers))
	for name, value := range headers {
		if out.Headers[name] = string(value); !utf8.Valid(value) {
			out.Headers[name] = strings.ToValidUTF8(string(value), "\uFFFD")
		}
	}
	return nil
}

// readOriginal shows the delivery or the event that a letter holds, and says whether it is the letter's tenant's.
func (s *Service) readOriginal(ctx context.Context, l *event.DeadLetter, value []byte, tenantHeader string, out *deadLetterDetails) (bool, error) {
	if topic.IsEvents(l.SourceTopic) {
		e, err := s.deps.Codec.DecodeEvent(ctx, l.SourceTopic, value)
		if err != nil || cmp.Or(e.Tenant, tenantHeader) != l.Tenant {
			return false, unlessPoison(err)
		}
		e.Tenant = l.Tenant
		out.Event = e.AppendJSON(nil)
		return true, nil
	}
	if !isDelivery(l.SourceTopic) {
		return false, nil
	}
	var d event.Delivery
	if err := s.deps.Codec.Decode(ctx, value, &d); err != nil || d.Tenant != l.Tenant {
		return false, unlessPoison(err)
	}
	out.Request = &deadRequest{Method: d.Method, Query: d.Query, ContentType: d.ContentType, Headers: d.Headers, Content: contentOf(d.Body)}
	return true, nil
}

// isDelivery says whether a topic holds deliveries.
func isDelivery(name string) bool {
	schema, ok := topic.SchemaOf(name)
	return ok && schema == topic.DeliverySchema
}

// unlessPoison passes an error on, but for bytes that don't decode: those say nothing of whose they are.
func unlessPoison(err error) error {
	if errors.Is(err, event.ErrPoison) {
		return nil
	}
	return err
}
