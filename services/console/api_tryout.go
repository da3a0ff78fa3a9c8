package console

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
	"github.com/callstream/callstream/subscription/payload"
	"github.com/oklog/ulid/v2"
)

// maxTryout is the largest body of a test or preview: an event of 1 MiB and a subscription.
const maxTryout = 1<<20 + subscription.MaxDocument

// shownEvent says which event a test or preview was made of.
type shownEvent struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

// shownRequest is a request to an endpoint as people may see it: the values of secrets are masked.
type shownRequest struct {
	Method  string            `json:"method" example:"POST"`
	URL     string            `json:"url" example:"https://crm.example.com/hooks"`
	Headers map[string]string `json:"headers" doc:"the values of secret ones are masked"`
	Body    string            `json:"body"`
}

func shown(p outbound.Prepared) *shownRequest {
	headers := make(map[string]string, len(p.Header))
	for name, values := range p.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return &shownRequest{Method: p.Method, URL: p.URL, Headers: headers, Body: string(p.Body)}
}

// testTimings say how long the parts of a test took, in milliseconds.
type testTimings struct {
	StartedAt time.Time `json:"started_at"`
	Connect   float64   `json:"connect_ms" doc:"to open the connection, 0 where one was open"`
	FirstByte float64   `json:"first_byte_ms" doc:"to the answer's headers"`
	Total     float64   `json:"total_ms"`
}

// testError says why no answer came.
type testError struct {
	Class  string `json:"class" doc:"dns, blocked, refused, connect, tls, timeout, reset, protocol, …" example:"timeout"`
	Detail string `json:"detail"`
}

// testResult is what came of a test.
type testResult struct {
	Delivered bool              `json:"delivered" doc:"whether the answer is one of success: 2xx"`
	Matched   bool              `json:"matched" doc:"whether the subscription would get this event; it was sent in any case"`
	Reason    string            `json:"reason,omitempty" doc:"why it would not: type, agent, filtered, missing_field, paused, …"`
	Detail    string            `json:"detail,omitempty" doc:"the same in words"`
	Status    int               `json:"status,omitempty" doc:"HTTP status of the endpoint's answer; absent where none came" example:"200"`
	Headers   map[string]string `json:"headers,omitempty" doc:"of the answer"`
	Body      string            `json:"body" doc:"of the answer, up to 16 KiB"`
	Truncated bool              `json:"truncated,omitempty" doc:"whether the answer's body was longer"`
	Error     *testError        `json:"error,omitempty"`
	Timings   testTimings       `json:"timings"`
	Event     shownEvent        `json:"event"`
	Request   *shownRequest     `json:"request" doc:"as it was sent"`
}

type oneTest struct {
	CacheControl string `header:"Cache-Control"`
	Body         testResult
}

// previewRequest is the body of a preview. huma describes no embedded members, so those of chosenEvent stand here again.
type previewRequest struct {
	SubscriptionID string          `json:"subscription_id,omitempty" doc:"a subscription, or"`
	Subscription   json.RawMessage `json:"subscription,omitempty" doc:"the document of one that is not saved; it counts as active"`
	Type           string          `json:"type,omitempty" doc:"an event type: its sample from the catalogue is used"`
	Event          json.RawMessage `json:"event,omitempty" doc:"an event, as POST /v1/events takes it"`
	EventID        string          `json:"event_id,omitempty" doc:"the id of an event that was sent before; needs the scope deliveries:read"`
}

// previewResult is what an event would become.
type previewResult struct {
	WouldSend bool          `json:"would_send"`
	Reason    string        `json:"reason,omitempty" doc:"why not: type, agent, filtered, missing_field, filter_error, expired, paused, pending, disabled, payload_too_large, template_error, render_failed"`
	Detail    string        `json:"detail,omitempty" doc:"the same in words"`
	Event     shownEvent    `json:"event"`
	Request   *shownRequest `json:"request,omitempty" doc:"the exact request, signed as of now"`
}

type onePreview struct {
	CacheControl string `header:"Cache-Control"`
	Body         previewResult
}

func (a *apiSet) registerTryouts() {
	bodies := []int{http.StatusBadRequest, http.StatusNotFound, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge}
	register(a, operation{id: "test-subscription", method: http.MethodPost, path: "/v1/subscriptions/{id}/test", scope: auth.ScopeSubscriptionsWrite,
		summary: "Send a sample, or a given event, to the endpoint now and show what it answers", body: schemaOf[chosenEvent](a), bodyOptional: true, maxBody: maxTryout,
		errors: append([]int{http.StatusConflict, http.StatusPreconditionFailed}, bodies...), request: map[string]any{"type": "call.ended"}}, a.test)
	// Signing what the caller chose takes the scope that could rotate the secret as well.
	register(a, operation{id: "preview-delivery", method: http.MethodPost, path: "/v1/subscriptions:preview", scope: auth.ScopeSubscriptionsWrite,
		summary: "Show the request that an event would become, or why it would not be sent; sends nothing", body: schemaOf[previewRequest](a), maxBody: maxTryout,
		errors: bodies, request: map[string]any{"subscription_id": exampleID, "type": "call.ended"}}, a.preview)
}

// test sends one event through rendering, signing and sending as deliveries go, once, and records nothing of it.
func (a *apiSet) test(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnSubscription) (*oneTest, error) {
	choice, err := parseChoice(in.RawBody)
	if err != nil {
		return nil, err
	}
	version, err := expectedVersion(in.IfMatch)
	if err != nil {
		return nil, err
	}
	sub, err := store.Subscription(ctx, p.Tenant, in.ID)
	switch {
	case err != nil:
		return nil, err
	case version != 0 && sub.Version != version:
		return nil, storage.ErrStale
	case sub.State == subscription.StatePending:
		return nil, refuse(http.StatusConflict, "nothing is sent to an endpoint before it is verified: call /verify, or :preview to see the request")
	}
	e, err := a.choose(ctx, p, sub, choice)
	if err != nil {
		return nil, err
	}
	e.Test, e.HasTest = true, true
	d, err := render(sub, e)
	if err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, "the event can't be rendered: "+err.Error())
	}
	// Not the id of the delivery: an endpoint that remembers it would take the delivery for a repeat.
	d.ID = "test_" + ulid.Make().String()
	target, err := a.sender.Target(sub, a.deps.Box)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	attempt := firstAttempt(&d)
	request, err := target.Prepare(&d, attempt)
	if err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, err.Error())
	}
	answer := target.Send(ctx, &d, attempt)
	out := &oneTest{CacheControl: "no-store", Body: resultOf(&answer)}
	out.Body.Event, out.Body.Request = shownEvent{e.ID, e.Type}, shown(request)
	maps.Copy(out.Body.Request.Headers, lowered(answer.RequestHeader()))
	out.Body.Reason, out.Body.Detail = judge(sub, e, a.deps.Now())
	out.Body.Matched = out.Body.Reason == ""
	return out, nil
}

// firstAttempt goes on with the trace that the event came under, and begins one where it came under none, as deliveries do.
func firstAttempt(d *event.Delivery) outbound.Attempt {
	return outbound.Attempt{Number: 1, Traceparent: cmp.Or(d.Traceparent, telemetry.NewTraceparent())}
}

func resultOf(answer *outbound.Answer) testResult {
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	r := testResult{
		Delivered: answer.Err == nil && answer.Status >= 200 && answer.Status <= 299, Status: answer.Status,
		Body: string(answer.Body), Truncated: answer.Truncated,
		Timings: testTimings{StartedAt: answer.Started.UTC(), Connect: milliseconds(answer.Connect), FirstByte: milliseconds(answer.FirstByte), Total: milliseconds(answer.Took)},
	}
	if answer.Err != nil {
		r.Error = &testError{Class: string(egress.ClassOf(answer.Err)), Detail: answer.ErrorText()}
	}
	if answer.Status != 0 {
		headers := map[string]string{}
		answer.RecordHeader(headers)
		r.Headers = lowered(headers)
	}
	return r
}

func lowered(headers map[string]string) map[string]string {
	out := make(map[string]string, len(headers))
	for name, value := range headers {
		out[strings.ToLower(name)] = value
	}
	return out
}

// judge says why a subscription would not get an event, "" when it would.
func judge(sub *subscription.Subscription, e *event.Event, now time.Time) (reason, detail string) {
	c := &subscription.Compiled{ID: sub.ID, Tenant: sub.Tenant, Version: sub.Version, Subscription: sub}
	if reason, detail = c.Wants(e); reason != "" {
		return reason, detail
	}
	return c.Verdict(e, now, false, nil)
}

func (a *apiSet) preview(ctx context.Context, store *storage.Store, p auth.Principal, in *createSubscription) (*onePreview, error) {
	choice, err := parseChoice(in.RawBody, "subscription_id", "subscription")
	if err != nil {
		return nil, err
	}
	sub, err := a.previewed(ctx, store, p, in.RawBody)
	if err != nil {
		return nil, err
	}
	e, err := a.choose(ctx, p, sub, choice)
	if err != nil {
		return nil, err
	}
	out := &onePreview{CacheControl: "no-store", Body: previewResult{Event: shownEvent{e.ID, e.Type}}}
	r := &out.Body
	if r.Reason, r.Detail = judge(sub, e, a.deps.Now()); r.Reason != "" {
		return out, nil
	}
	d, err := render(sub, e)
	if err != nil {
		r.Reason, r.Detail = payload.Reason(err), err.Error()
		return out, nil
	}
	target, err := a.sender.Target(sub, a.deps.Box)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	request, err := target.Prepare(&d, firstAttempt(&d))
	if err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, err.Error())
	}
	r.WouldSend, r.Request = true, shown(request)
	return out, nil
}

// previewed is the subscription of a preview: a stored one, or a document with keys made for this once.
func (a *apiSet) previewed(ctx context.Context, store *storage.Store, p auth.Principal, raw []byte) (*subscription.Subscription, error) {
	var request previewRequest
	if err := json.Unmarshal(raw, &request); err != nil {
		return nil, subscription.Faults{faultAt("/subscription_id", "want a string")}
	}
	if (request.SubscriptionID == "") == (request.Subscription == nil) {
		return nil, subscription.Faults{faultAt("", "want one of subscription_id and subscription")}
	}
	if request.SubscriptionID != "" {
		return store.Subscription(ctx, p.Tenant, request.SubscriptionID)
	}
	sub, err := subscription.Parse(request.Subscription, a.rules)
	if err != nil {
		return nil, below("/subscription", err)
	}
	if _, err := a.prepare(sub, p.Tenant); err != nil {
		return nil, err
	}
	sub.State = subscription.StateActive
	return sub, nil
}

// below moves the faults of a part of the body to where the part stands.
func below(place string, err error) error {
	faults, ok := err.(subscription.Faults) //nolint:errorlint // Parse returns it as it is
	if !ok {
		return err
	}
	moved := slices.Clone(faults)
	for i := range moved {
		moved[i].Pointer = cmp.Or("#"+place+strings.TrimPrefix(moved[i].Pointer, "#"), moved[i].Pointer)
	}
	return moved
}
