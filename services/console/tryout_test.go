package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/schemas/event"
	"github.com/stretchr/testify/require"
)

// verified makes a subscription to a receiver that has passed, and returns its path and secret. more are further members.
func (h *harness) verified(url, more string) (path, secret string) {
	h.t.Helper()
	made := h.create(`{"url":"` + url + `","events":["call.*"]` + more + `}`)
	path = "/v1/subscriptions/" + made.str("id")
	h.do("POST", path+"/verify", "").is(200)
	return path, made.str("secret")
}

func (a answer) test() testResult {
	a.t.Helper()
	var r testResult
	require.NoError(a.t, json.Unmarshal(a.is(200).body, &r), "%s", a.body)
	return r
}

func (a answer) preview() previewResult {
	a.t.Helper()
	var r previewResult
	require.NoError(a.t, json.Unmarshal(a.is(200).body, &r), "%s", a.body)
	return r
}

// S1-15, S2-21, S3-17: a test sends a sample, or a given event, through the production path and shows what came of it.
func TestATestIsARealRequest(t *testing.T) {
	h := start(t)
	receiver := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 201, Header: map[string]string{"X-Reply": "yes"}, Body: `{"received":true}`})})
	path, secret := h.verified(receiver.URL()+"/hook?x=1", `,"auth":{"type":"bearer","token":"t0ken"},"request":{"headers":{"X-Team":"crm"}},"payload":{"profile":"standard","extra":{"env":"prod"}}`)
	receiver.SetSecrets(secret)
	before := len(h.subscriptions())

	answer := h.do("POST", path+"/test", "")
	require.Equal(t, "no-store", answer.header.Get("Cache-Control"))
	r := answer.test()
	require.True(t, r.Delivered)
	require.True(t, r.Matched)
	require.Equal(t, 201, r.Status)
	require.Equal(t, "yes", r.Headers["x-reply"])
	require.Equal(t, `{"received":true}`, r.Body)
	require.Nil(t, r.Error)
	require.Positive(t, r.Timings.Total)
	require.GreaterOrEqual(t, r.Timings.Total, r.Timings.FirstByte)

	require.Equal(t, 1, receiver.Total())
	sent := receiver.Requests()[0]
	require.NoError(t, sent.Fault, "signed")
	require.Equal(t, "Bearer t0ken", sent.Header.Get("Authorization"))
	var body map[string]any
	require.NoError(t, json.Unmarshal(sent.Body, &body))
	require.Equal(t, true, body["test"])
	require.Equal(t, "prod", body["env"])
	require.Equal(t, r.Event.ID, body["id"])
	require.Equal(t, "POST", r.Request.Method)
	require.Equal(t, receiver.URL()+"/hook?x=1", r.Request.URL)
	require.Equal(t, string(sent.Body), r.Request.Body)
	require.Equal(t, "***", r.Request.Headers["authorization"])
	require.Equal(t, "crm", r.Request.Headers["x-team"])
	require.Equal(t, sent.Header.Get("Webhook-Signature"), r.Request.Headers["webhook-signature"])
	require.Equal(t, "1", r.Request.Headers["webhook-attempt"])
	require.True(t, telemetry.ValidTraceparent(sent.Header.Get("Traceparent")), "a trace begins, as with a delivery")
	require.Equal(t, sent.Header.Get("Traceparent"), r.Request.Headers["traceparent"])
	require.NotContains(t, string(answer.body), "t0ken")
	require.Len(t, h.subscriptions(), before, "it changes nothing")

	// By type, and with an event of the caller's own.
	require.Equal(t, "call.failed", h.do("POST", path+"/test", `{"type":"call.failed"}`).test().Event.Type)
	own := h.do("POST", path+"/test", `{"event":{"id":"evt_own","type":"call.ended","call_id":"c-1","data":{"score":85.50,"mine":[1,{"z":1,"a":2}]}}}`).test()
	require.Equal(t, "evt_own", own.Event.ID)
	require.Contains(t, own.Request.Body, `"mine":[1,{"z":1,"a":2}]`)
	require.NotEqual(t, event.DeliveryID("default", "api", "evt_own", strings.TrimPrefix(path, "/v1/subscriptions/")), own.Request.Headers["webhook-id"],
		"the delivery of the event must not look like a repeat of the test")
}

// A test is made once: whatever the endpoint does is the answer.
func TestATestShowsFailures(t *testing.T) {
	h := start(t)
	receiver := hooktest.Start(t, hooktest.Options{})
	path, _ := h.verified(receiver.URL(), `,"request":{"timeout":"150ms"}`)
	receiver.SetAnswer(hooktest.Always(hooktest.Answer{Status: 503, Header: map[string]string{"Retry-After": "1"}, Body: strings.Repeat("x", 20<<10)}))
	r := h.do("POST", path+"/test", "").test()
	require.False(t, r.Delivered)
	require.Equal(t, 503, r.Status)
	require.Len(t, r.Body, 16<<10)
	require.True(t, r.Truncated)
	receiver.SetAnswer(hooktest.Always(hooktest.Answer{Hang: true}))
	r = h.do("POST", path+"/test", "").test()
	require.Equal(t, "timeout", r.Error.Class)
	require.Zero(t, r.Status)
	receiver.SetAnswer(hooktest.Always(hooktest.Answer{Reset: true}))
	require.Equal(t, "reset", h.do("POST", path+"/test", "").test().Error.Class)
	require.Equal(t, 3, receiver.Total(), "nothing is retried")
	receiver.Close()
	require.Equal(t, "refused", h.do("POST", path+"/test", "").test().Error.Class)
	require.Equal(t, "active", h.do("GET", path, "").str("state"), "and nothing counts")
}

// What the subscription would not get is sent all the same, and the answer says why it would not come.
func TestATestSaysWhetherTheEventWouldCome(t *testing.T) {
	h := start(t)
	receiver := hooktest.Start(t, hooktest.Options{})
	path, _ := h.verified(receiver.URL(), `,"agents":["a-1"],"filter":"event.data.disposition == 'qualified'"`)
	for _, c := range []struct{ body, reason string }{
		{`{"event":{"type":"sms.sent","data":{}}}`, "type"},
		{`{"event":{"type":"call.ended","call_id":"c","agent_id":"a-2","data":{"disposition":"qualified"}}}`, "agent"},
		{`{"event":{"type":"call.ended","call_id":"c","agent_id":"a-1","data":{"disposition":"lost"}}}`, "filtered"},
		{`{"event":{"type":"call.ended","call_id":"c","agent_id":"a-1","data":{}}}`, "missing_field"},
		{`{"event":{"type":"call.ended","call_id":"c","agent_id":"a-1","data":{"disposition":"qualified"}}}`, ""},
	} {
		r := h.do("POST", path+"/test", c.body).test()
		require.Equal(t, c.reason, r.Reason, c.body)
		require.Equal(t, c.reason == "", r.Matched)
		require.True(t, r.Delivered)
	}
	h.do("POST", path+"/pause", "").is(200)
	r := h.do("POST", path+"/test", `{"event":{"type":"call.ended","call_id":"c","agent_id":"a-1","data":{"disposition":"qualified"}}}`).test()
	require.Equal(t, "paused", r.Reason, "a paused one can be tested")
	require.True(t, r.Delivered)
}

// S0-21: an endpoint that was not verified gets no test either.
func TestPendingEndpointsAreNotTested(t *testing.T) {
	h := start(t)
	receiver := hooktest.Start(t, hooktest.Options{})
	id := h.create(`{"url":"` + receiver.URL() + `","events":["*"]}`).str("id")
	require.Contains(t, h.do("POST", "/v1/subscriptions/"+id+"/test", "").problem(http.StatusConflict).Detail, "/verify")
	require.Zero(t, receiver.Total())
	path, _ := h.verified(receiver.URL(), "")
	stranger := hooktest.Start(t, hooktest.Options{})
	h.do("PATCH", path, `{"url":"`+stranger.URL()+`"}`).is(200)
	require.True(t, h.do("POST", path+"/test", "").test().Delivered)
	require.Zero(t, stranger.Total(), "the new origin has not passed")
	require.Equal(t, 1, receiver.Total())
}

func TestBadTestsAndPreviews(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	h.key = h.keyFor("acme", auth.ScopeAdmin)
	path, _ := h.verified(endpoint(t, obliging), "")
	id := strings.TrimPrefix(path, "/v1/subscriptions/")
	for body, place := range map[string]string{
		`{"type":5}`: "#/type", `{"type":"call.nope"}`: "#/type", `{"type":"call.ended","event_id":"evt_1"}`: "#", `{"event":{"type":"call.ended","call_id":"c","data":{"score":"x"}}}`: "#/event/data/score", `{"event":{"type":"call.ended"}}`: "#/event/call_id",
		`{"event":[]}`: "#/event", `{"event_id":7}`: "#/event_id", `{"surprise":1}`: "#/surprise",
	} {
		p := h.do("POST", path+"/test", body).problem(422)
		require.True(t, strings.HasPrefix(p.Errors[0].Pointer, place), "%s: %v", body, p)
	}
	h.do("POST", path+"/test", `{`).problem(400)
	h.do("POST", path+"/test", `{"event":{"type":"call.ended","call_id":"c","tenant":"other"}}`).problem(403)
	h.do("POST", path+"/test", `{"event_id":"evt_unknown"}`).problem(404)
	h.do("POST", path+"/test", "", "If-Match", `"1"`).problem(http.StatusPreconditionFailed)
	for body, place := range map[string]string{
		`{}`: "#", `{"subscription_id":"` + id + `","subscription":{}}`: "#", `{"subscription_id":7}`: "#/subscription_id",
		`{"subscription":{"url":"ftp://x","events":["*"]}}`: "#/subscription/url", `{"subscription":[]}`: "#/subscription",
	} {
		require.Equal(t, place, h.do("POST", "/v1/subscriptions:preview", body).problem(422).Errors[0].Pointer, body)
	}
	h.do("POST", "/v1/subscriptions:preview", "").problem(400)

	// Events of the past are what deliveries:read is for.
	h.key = h.keyFor("acme", auth.ScopeSubscriptionsWrite)
	h.do("POST", path+"/test", `{"event_id":"evt_1"}`).problem(403)
	h.do("POST", "/v1/subscriptions:preview", `{"subscription_id":"`+id+`","event_id":"evt_1"}`).problem(403)
}

// S3-19: a preview shows the exact request, and sends nothing.
func TestAPreviewIsTheExactRequest(t *testing.T) {
	h := start(t)
	receiver := hooktest.Start(t, hooktest.Options{})
	path, secret := h.verified(receiver.URL()+"/hook", `,"auth":{"type":"basic","username":"u","password":"p4ssw0rd"},"request":{"routes":{"call.started":"/started"}}`)
	id := strings.TrimPrefix(path, "/v1/subscriptions/")
	const given = `{"id":"evt_1","type":"call.started","time":"2026-01-20T10:00:00Z","call_id":"c-1","data":{"from":"+1 555"}}`
	answer := h.do("POST", "/v1/subscriptions:preview", `{"subscription_id":"`+id+`","event":`+given+`}`)
	require.Equal(t, "no-store", answer.header.Get("Cache-Control"))
	r := answer.preview()
	require.True(t, r.WouldSend)
	require.Empty(t, r.Reason)
	require.Equal(t, receiver.URL()+"/hook/started", r.Request.URL)
	require.Equal(t, "***", r.Request.Headers["authorization"])
	require.NotContains(t, string(answer.body), "p4ssw0rd")
	require.Equal(t, event.DeliveryID("default", "api", "evt_1", id), r.Request.Headers["webhook-id"], "as the delivery will have it")
	require.True(t, telemetry.ValidTraceparent(r.Request.Headers["traceparent"]))
	require.NotContains(t, r.Request.Body, `"test"`)
	verifier, err := webhook.NewVerifier(secret)
	require.NoError(t, err)
	signed := http.Header{}
	for name, value := range r.Request.Headers {
		signed.Set(name, value)
	}
	require.NoError(t, verifier.Verify(signed, []byte(r.Request.Body), time.Now()))
	require.Zero(t, receiver.Total())

	// It is byte for byte what a test of that event sends, but for being one.
	sent := h.do("POST", path+"/test", `{"event":`+strings.Replace(given, `"call_id"`, `"test":true,"call_id"`, 1)+`}`).test()
	same := h.do("POST", "/v1/subscriptions:preview", `{"subscription_id":"`+id+`","event":`+strings.Replace(given, `"call_id"`, `"test":true,"call_id"`, 1)+`}`).preview()
	require.Equal(t, sent.Request.Body, same.Request.Body)
	require.Equal(t, sent.Request.URL, same.Request.URL)
	require.Equal(t, string(receiver.Requests()[0].Body), same.Request.Body)
}

// P-07: a preview says why an event would not be sent, for a saved subscription and for a document that is not.
func TestAPreviewSaysWhyNot(t *testing.T) {
	h := start(t)
	pending := h.create(`{"url":"https://x.example","events":["*"]}`).str("id")
	r := h.do("POST", "/v1/subscriptions:preview", `{"subscription_id":"`+pending+`"}`).preview()
	require.False(t, r.WouldSend)
	require.Equal(t, "pending", r.Reason)
	require.Nil(t, r.Request)

	for _, c := range []struct{ doc, event, reason string }{
		{`{"url":"https://x.example","events":["call.*"]}`, `{"type":"sms.sent","data":{}}`, "type"},
		{`{"url":"https://x.example","events":["*"],"agents":["a-1"]}`, `{"type":"call.ended","call_id":"c"}`, "agent"},
		{`{"url":"https://x.example","events":["*"],"filter":"event.data.x == 1"}`, `{"type":"call.ended","call_id":"c"}`, "missing_field"},
		{`{"url":"https://x.example","events":["*"],"filter":"event.data.x == 1"}`, `{"type":"call.ended","call_id":"c","data":{"x":2}}`, "filtered"},
		{`{"url":"https://x.example","events":["*"],"payload":{"profile":"custom","template":"event.data.absent"}}`, `{"type":"call.ended","call_id":"c"}`, "missing_field"},
		{`{"url":"https://x.example","events":["*"],"payload":{"profile":"custom","template":"{'x': 1 / event.data.zero}"}}`, `{"type":"call.ended","call_id":"c","data":{"zero":0}}`, "template_error"},
	} {
		r := h.do("POST", "/v1/subscriptions:preview", `{"subscription":`+c.doc+`,"event":`+c.event+`}`).preview()
		require.False(t, r.WouldSend, c.doc)
		require.Equal(t, c.reason, r.Reason, c.doc)
	}
	r = h.do("POST", "/v1/subscriptions:preview", `{"subscription":{"url":"https://x.example/h","events":["*"],"request":{"method":"GET"},"payload":{"profile":"dialer"}},"type":"call.started"}`).preview()
	require.True(t, r.WouldSend, r.Detail)
	require.Equal(t, "GET", r.Request.Method)
	require.Empty(t, r.Request.Body)
	require.Contains(t, r.Request.URL, "https://x.example/h?")
	require.Equal(t, "application/json", fmt.Sprint(h.do("POST", "/v1/subscriptions:preview", `{"subscription":{"url":"https://x.example/h","events":["*"]}}`).preview().Request.Headers["content-type"]))
	require.Len(t, h.subscriptions(), 1, "nothing is saved")
}
