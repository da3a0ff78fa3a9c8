package console

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/stretchr/testify/require"
)

// P-11, S0-21: the CloudEvents handshake. The endpoint is asked with OPTIONS who may send, and passes by naming us or
// everyone; the request is signed and authenticated as deliveries are.
func TestVerificationByOptions(t *testing.T) {
	seen := make(chan *http.Request, 1)
	var respond atomic.Pointer[http.HandlerFunc]
	url := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		(*respond.Load())(w, r)
	})
	h := start(t, func(c *Config, _ *Deps) { c.WebhookOrigin = "events.acme.example" })
	made := h.create(`{"url":"` + url + `/hook","events":["*"],"verification":"options","rate_limit":{"per_second":2},"auth":{"type":"bearer","token":"t0ken"},"request":{"headers":{"X-Team":"crm"}}}`)
	path := "/v1/subscriptions/" + made.str("id")
	allowing := func(status int, origin string) {
		handle := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if origin != "" {
				w.Header().Set("WebHook-Allowed-Origin", origin)
			}
			w.WriteHeader(status)
		})
		respond.Store(&handle)
	}
	for _, c := range []struct {
		status int
		origin string
	}{{200, ""}, {200, "callstream"}, {200, "acme.example"}, {405, "*"}, {500, "events.acme.example"}, {302, "*"}} {
		allowing(c.status, c.origin)
		p := h.do("POST", path+"/verify", "").problem(422)
		require.Equal(t, "#/url", p.Errors[0].Pointer)
		require.EqualValues(t, c.status, p.Extensions["http_status"])
		<-seen
	}
	require.Equal(t, "pending", h.do("GET", path, "").str("state"))
	allowing(204, "events.acme.example")
	require.Equal(t, "active", h.do("POST", path+"/verify", "").is(200).str("state"))
	r := <-seen
	require.Equal(t, http.MethodOptions, r.Method)
	require.Equal(t, "/hook", r.URL.Path)
	require.Equal(t, "events.acme.example", r.Header.Get("WebHook-Request-Origin"))
	require.Equal(t, "120", r.Header.Get("WebHook-Request-Rate"), "a minute's")
	require.Equal(t, "Bearer t0ken", r.Header.Get("Authorization"))
	require.Equal(t, "crm", r.Header.Get("X-Team"))
	require.True(t, telemetry.ValidTraceparent(r.Header.Get("Traceparent")))
	verifier, err := webhook.NewVerifier(made.str("secret"))
	require.NoError(t, err)
	require.NoError(t, verifier.Verify(r.Header, nil, h.svc.deps.Now()))

	allowing(200, "*")
	h.do("POST", path+"/verify", "").is(200)
}

// S0-21: nothing goes to an origin that has not passed, in url, routes or fallback; until then what served serves on.
func TestEveryNewOriginIsVerified(t *testing.T) {
	h := start(t)
	primary, route, fallback := hooktest.Start(t, hooktest.Options{}), hooktest.Start(t, hooktest.Options{}), hooktest.Start(t, hooktest.Options{})
	made := h.create(`{"url":"` + primary.URL() + `","events":["*"],"fallback_url":"` + fallback.URL() + `/f","request":{"routes":{"sms.*":"` + route.URL() + `/sms","call.ended":"/ended"}}}`)
	path := "/v1/subscriptions/" + made.str("id")
	h.do("POST", path+"/verify", "").is(200)
	for _, r := range []*hooktest.Receiver{primary, route, fallback} {
		require.Len(t, r.Challenges(), 1, "each origin was asked once")
	}

	// A new origin in each place waits, with what served before in service.
	deaf := hooktest.Start(t, hooktest.Options{IgnoreChallenges: true})
	next := hooktest.Start(t, hooktest.Options{})
	patched := h.do("PATCH", path, `{"url":"`+next.URL()+`/new","fallback_url":"`+deaf.URL()+`","request":{"routes":{"sms.*":"`+next.URL()+`/sms"}}}`).is(200).object()
	require.Equal(t, primary.URL(), patched["url"])
	require.Equal(t, next.URL()+"/new", patched["pending_url"])
	require.Equal(t, fallback.URL()+"/f", patched["fallback_url"])
	require.Equal(t, deaf.URL(), patched["pending_fallback_url"])
	require.Equal(t, map[string]any{"sms.*": route.URL() + "/sms", "call.ended": "/ended"}, patched["request"].(map[string]any)["routes"])
	require.Equal(t, map[string]any{"sms.*": next.URL() + "/sms"}, patched["pending_routes"])

	p := h.do("POST", path+"/verify", "").problem(422)
	require.Len(t, p.Errors, 1, "only the one that did not pass: %v", p)
	require.Equal(t, "#/pending_fallback_url", p.Errors[0].Pointer)
	require.Equal(t, primary.URL(), h.do("GET", path, "").str("url"), "all of it or nothing")

	h.do("PATCH", path, `{"fallback_url":"`+next.URL()+`/f"}`).is(200)
	done := h.do("POST", path+"/verify", "").is(200).object()
	require.Equal(t, next.URL()+"/new", done["url"])
	require.Equal(t, next.URL()+"/f", done["fallback_url"])
	require.Equal(t, next.URL()+"/sms", done["request"].(map[string]any)["routes"].(map[string]any)["sms.*"])
	for _, member := range []string{"pending_url", "pending_routes", "pending_fallback_url"} {
		require.NotContains(t, done, member)
	}
	require.Equal(t, "active", done["state"])
}

// A route or a fallback that does not pass is named where it stands.
func TestAFailedHandshakeNamesItsMember(t *testing.T) {
	h := start(t)
	good, deaf := hooktest.Start(t, hooktest.Options{}), hooktest.Start(t, hooktest.Options{IgnoreChallenges: true})
	id := h.create(`{"url":"` + good.URL() + `","events":["*"],"request":{"routes":{"sms.*":"` + deaf.URL() + `/sms"}}}`).str("id")
	p := h.do("POST", "/v1/subscriptions/"+id+"/verify", "").problem(422)
	require.Equal(t, "#/request/routes/sms.*", p.Errors[0].Pointer)
	require.Equal(t, "pending", h.do("GET", "/v1/subscriptions/"+id, "").str("state"))
}

// The fallback is somebody else's: it never sees the primary's credentials, not even to verify it.
func TestTheFallbackGetsNoCredentials(t *testing.T) {
	h := start(t)
	headers := make(chan http.Header, 2)
	note := func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		obliging(w, r)
	}
	primary, fallback := endpoint(t, note), endpoint(t, note)
	id := h.create(`{"url":"` + primary + `","events":["*"],"fallback_url":"` + fallback + `","auth":{"type":"api_key","header":"X-Key","value":"planted"}}`).str("id")
	h.do("POST", "/v1/subscriptions/"+id+"/verify", "").is(200)
	given := []string{(<-headers).Get("X-Key"), (<-headers).Get("X-Key")}
	require.ElementsMatch(t, []string{"planted", ""}, given)
}

// S3-11: activation is a step of its own for who wants it so.
func TestActivationIsAStepOfItsOwn(t *testing.T) {
	h := start(t)
	id := h.create(`{"url":"` + endpoint(t, obliging) + `","events":["*"],"activate":false}`).str("id")
	path := "/v1/subscriptions/" + id
	require.Contains(t, h.do("POST", path+"/activate", "").problem(http.StatusConflict).Detail, "verified")
	require.Equal(t, "paused", h.do("POST", path+"/verify", "").is(200).str("state"))
	require.Equal(t, "paused", h.do("POST", path+"/verify", "").is(200).str("state"), "it stays so")
	require.Equal(t, "active", h.do("POST", path+"/activate", "").is(200).str("state"))
	active := h.do("POST", path+"/activate", "").is(200)
	require.EqualValues(t, 3, active.object()["version"], "asking for what is changes nothing")
}

// S0-21: an ack is a signed sample of what the endpoint will get: rendered, routed, signed and authenticated as deliveries are.
func TestVerificationByAckIsAProductionRequest(t *testing.T) {
	type request struct {
		path, query string
		header      http.Header
		body        []byte
	}
	seen := make(chan request, 2)
	url := endpoint(t, func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the sample: %v", err)
		}
		seen <- request{r.URL.Path, r.URL.RawQuery, r.Header, body}
	})
	h := start(t)
	made := h.create(`{"url":"` + url + `/base?k=1","events":["call.report"],"agents":["a-9"],"verification":"ack","payload":{"profile":"post-call"},"auth":{"type":"basic","username":"u","password":"p"}}`)
	h.do("POST", "/v1/subscriptions/"+made.str("id")+"/verify", "").is(200)
	r := <-seen
	require.Equal(t, "/base", r.path)
	require.Equal(t, "k=1", r.query)
	var body map[string]any
	require.NoError(t, json.Unmarshal(r.body, &body))
	require.Contains(t, body, "callerDetails", "the profile's own shape")
	require.True(t, strings.HasPrefix(r.header.Get("Authorization"), "Basic "))
	require.Empty(t, r.header.Get("Webhook-Attempt"), "it is no attempt of a delivery")
	verifier, err := webhook.NewVerifier(made.str("secret"))
	require.NoError(t, err)
	require.NoError(t, verifier.Verify(r.header, r.body, h.svc.deps.Now()))
}

// What an endpoint answers does not reach the caller: a handshake must not become a way to read from inside.
func TestAHandshakeTellsNothingOfTheAnswer(t *testing.T) {
	url := endpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Inside", "internal-header")
		w.Header().Set("WebHook-Allowed-Origin", "internal-header")
		fmt.Fprint(w, "internal-body")
	})
	h := start(t)
	for _, method := range []string{"challenge", "options"} {
		id := h.create(`{"url":"` + url + `","events":["*"],"verification":"` + method + `"}`).str("id")
		answer := h.do("POST", "/v1/subscriptions/"+id+"/verify", "")
		answer.problem(422)
		require.NotContains(t, string(answer.body), "internal")
	}
}
