package integration

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
)

// personal is an event with personal data in every kind of place: declared members, free text, and members that the
// catalogue doesn't declare.
func personal(id string) object {
	return object{
		"type": "call.report", "id": id, "call_id": "c-" + id, "agent_id": "a-1",
		"data": object{
			"from_number": "+15551234567", "disposition": "qualified", "duration_ms": 42000,
			"caller":          object{"name": "Ada Lovelace", "phone_number": "+1 (555) 123-4567", "email": "ada@example.com", "city": "London"},
			"transcript_text": "My card is 4111 1111 1111 1111 and my mail is ada@example.com, thanks.",
			"crm":             object{"note": "reach her at ada@example.com or 555-123-4567", "deep": []any{object{"ssn": "078-05-1120", "claim": "CL-2231"}}},
		},
	}
}

// S1-06, S0-17, S0-26, S0-27, P-05: each subscription gets the fields that it may see, and one without rules everything.
func scopesAndRedacts(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	plain, scoped, redacted := hooktest.Start(t, hooktest.Options{}), hooktest.Start(t, hooktest.Options{}), hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": plain.URL(), "events": []string{"call.report"}})
	tn.subscribe(object{
		"url": scoped.URL(), "events": []string{"call.report"},
		"payload": object{"include": []string{"data.disposition", "data.caller", "data.crm.deep"}, "exclude": []string{"data.caller.email"}, "extra": object{"env": "prod"}},
	})
	tn.subscribe(object{
		"url": redacted.URL(), "events": []string{"call.report"},
		"payload": object{"redact": []string{"phone", "email", "name", "payment", "ssn", `/CL-\d+/`}},
	})
	tn.post(personal("pii"))

	var whole, part object
	require.NoError(t, json.Unmarshal(await(t, plain, 1)[0].Body, &whole))
	sent, err := json.Marshal(personal("pii")["data"])
	require.NoError(t, err)
	got, err := json.Marshal(whole["data"])
	require.NoError(t, err)
	assert.JSONEq(t, string(sent), string(got), "without rules nothing is altered")

	require.NoError(t, json.Unmarshal(await(t, scoped, 1)[0].Body, &part))
	assert.Equal(t, "prod", part["env"])
	data, err := json.Marshal(part["data"])
	require.NoError(t, err)
	assert.JSONEq(t, `{"disposition":"qualified","caller":{"name":"Ada Lovelace","phone_number":"+1 (555) 123-4567","city":"London"},
		"crm":{"deep":[{"ssn":"078-05-1120","claim":"CL-2231"}]}}`, string(data))

	body := string(await(t, redacted, 1)[0].Body)
	for _, secret := range []string{"5551234567", "123-4567", "ada@example.com", "Ada", "4111", "078-05", "CL-2231"} {
		assert.NotContains(t, body, secret)
	}
	for _, kept := range []string{"London", "qualified", "42000", "thanks"} {
		assert.Contains(t, body, kept)
	}
}

// S1-14, S2-01, S3-10, S4-05: the same call in the shapes of the systems that callstream replaces.
func rendersEveryProfile(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	contains := map[string]string{
		"standard": `"type":"call.ended"`, "cloudevents": `"specversion":"1.0"`, "cloudevents-binary": `"duration_ms":42000`, "push": `call.ended`,
		"callback": `call_completed`, "dialer": `callEnded`, "platform": `Call Ended`, "raw": `"duration_ms":42000`, "custom": `{"minutes":0.7}`,
	}
	for profile := range contains {
		payload := object{"profile": profile}
		if profile == "custom" {
			payload["template"] = "{'minutes': double(event.data.duration_ms) / 60000.0}"
		}
		tn.subscribe(object{"url": hook.URL() + "/" + profile, "events": []string{"call.ended"}, "payload": payload})
	}
	tn.post(ended("shapes", object{"id": "shape-1", "source": "pbx"}))
	for _, r := range await(t, hook, len(contains)) {
		profile := strings.TrimPrefix(r.Path, "/")
		assert.Contains(t, string(r.Body), contains[profile], profile)
		assert.True(t, json.Valid(r.Body), "%s: %s", profile, r.Body)
		if profile == "cloudevents-binary" {
			assert.Equal(t, "1.0", r.Header.Get("Ce-Specversion"))
			assert.Equal(t, "shape-1", r.Header.Get("Ce-Id"))
			assert.Equal(t, "shapes", r.Header.Get("Ce-Subject"))
		}
		delete(contains, profile)
	}
	assert.Empty(t, contains)
}

// S2-13, S2-14, S2-15: a dialer's connector by GET, with routes; the query string is what is signed.
func getsWithRoutes(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{
		"url": hook.URL() + "/base", "events": []string{"call.started", "call.ended"},
		"payload": object{"profile": "dialer", "extra": object{"team": "Süd & Co"}},
		"request": object{"method": "GET", "routes": object{"call.started": "/started"}},
	})
	tn.post([]object{{"type": "call.started", "call_id": "r-1", "data": object{"direction": "inbound"}}, ended("r-1", nil)})
	paths := map[string]*hooktest.Request{}
	for _, r := range await(t, hook, 2) {
		paths[r.Path] = r
		assert.Equal(t, http.MethodGet, r.Method)
		assert.Empty(t, r.Body)
		assert.Equal(t, "Süd & Co", r.Query.Get("team"))
		assert.Equal(t, "r-1", r.Query.Get("callId"))
		signed := *r
		signed.Body = []byte(r.Raw)
		verify(t, sub.Secret, &signed)
	}
	require.Contains(t, paths, "/base/started")
	require.Contains(t, paths, "/base")
	tn.inForce()
}

// P-10, S0-22: ed25519 signatures verify with the public key that the subscription shows.
func signsEd25519(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	r := tn.must(http.StatusCreated, http.MethodPost, "/v1/subscriptions", object{
		"url": hook.URL(), "events": []string{"call.*"}, "signing": object{"scheme": "ed25519"}})
	var sub struct {
		ID      string `json:"id"`
		Signing struct {
			PublicKey string `json:"public_key"`
		} `json:"signing"`
	}
	require.NoError(t, json.Unmarshal(r.body, &sub))
	tn.must(http.StatusOK, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/verify", nil)
	tn.inForce()
	tn.post(ended("e", nil))
	one := await(t, hook, 1)[0]
	encoded, ok := strings.CutPrefix(sub.Signing.PublicKey, "whpk_")
	require.True(t, ok, sub.Signing.PublicKey)
	key, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	signature, ok := strings.CutPrefix(one.Header.Get("Webhook-Signature"), "v1a,")
	require.True(t, ok, one.Header.Get("Webhook-Signature"))
	raw, err := base64.StdEncoding.DecodeString(signature)
	require.NoError(t, err)
	message := one.ID + "." + one.Header.Get("Webhook-Timestamp") + "." + string(one.Body)
	assert.True(t, ed25519.Verify(key, []byte(message), raw))
}

// P-10: during a rotation both secrets verify, and the new one is shown once.
func rotatesSecrets(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	r := tn.must(http.StatusOK, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/rotate-secret", nil)
	fresh := decode[created](t, r).Secret
	require.True(t, strings.HasPrefix(fresh, "whsec_"), r.String())
	require.NotEqual(t, sub.Secret, fresh)
	assert.Equal(t, "no-store", r.header.Get("Cache-Control"))
	assert.NotContains(t, string(tn.must(200, http.MethodGet, "/v1/subscriptions/"+sub.ID, nil).body), fresh)
	tn.inForce()
	tn.post(ended("rotated", nil))
	one := await(t, hook, 1)[0]
	verify(t, sub.Secret, one)
	verify(t, fresh, one)
}

// S3-14, P-15: OAuth2 client credentials: one token for many deliveries.
func authorizesByOAuth2(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	var asked atomic.Int64
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.FormValue("grant_type") != "client_credentials" {
			http.Error(w, "unsupported", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"tok-1","token_type":"Bearer","expires_in":3600}`)
	}))
	t.Cleanup(tokens.Close)
	tn.subscribe(object{
		"url": hook.URL(), "events": []string{"call.*"},
		"auth": object{"type": "oauth2", "token_url": tokens.URL, "client_id": "callstream", "client_secret": "s3cr3t", "scopes": []string{"events"}},
	})
	for i := range 10 {
		tn.post(ended(fmt.Sprintf("o-%d", i), nil))
	}
	for _, r := range await(t, hook, 10) {
		assert.Equal(t, "Bearer tok-1", r.Header.Get("Authorization"))
	}
	assert.LessOrEqual(t, asked.Load(), int64(4), "a token is fetched by each process, not for each delivery")
}

// P-11: the CloudEvents handshake.
func verifiesByOptions(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	var asked atomic.Pointer[http.Header]
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			h := r.Header.Clone()
			asked.Store(&h)
			w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
			w.Header().Set("WebHook-Allowed-Rate", "1000")
		}
	}))
	t.Cleanup(hook.Close)
	tn.subscribeNoSecret(object{"url": hook.URL, "events": []string{"call.*"}, "verification": "options"})
	require.NotNil(t, asked.Load())
	require.NotEmpty(t, asked.Load().Get("WebHook-Request-Origin"))

	deaf := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(deaf.Close)
	c := decode[created](t, tn.must(http.StatusCreated, http.MethodPost, "/v1/subscriptions",
		object{"url": deaf.URL, "events": []string{"call.*"}, "verification": "options"}))
	tn.must(http.StatusUnprocessableEntity, http.MethodPost, "/v1/subscriptions/"+c.ID+"/verify", nil)
}

// subscribeNoSecret creates a subscription and verifies it.
func (tn tenant) subscribeNoSecret(spec object) created {
	tn.p.t.Helper()
	c := decode[created](tn.p.t, tn.must(http.StatusCreated, http.MethodPost, "/v1/subscriptions", spec))
	v := decode[created](tn.p.t, tn.must(http.StatusOK, http.MethodPost, "/v1/subscriptions/"+c.ID+"/verify", nil))
	require.Equal(tn.p.t, "active", v.State)
	tn.inForce()
	return c
}

// S0-21: a new origin is asked before it gets anything; the old one serves until then.
func verifiesNewOrigins(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	before, after := hooktest.Start(t, hooktest.Options{}), hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": before.URL(), "events": []string{"call.*"}})
	path := "/v1/subscriptions/" + sub.ID
	tn.must(200, http.MethodPatch, path, object{"url": after.URL()})
	tn.inForce()
	tn.post(ended("o", object{"id": "still-old"}))
	require.Equal(t, []string{"still-old"}, eventIDs(await(t, before, 1)))
	require.Zero(t, after.Total())
	tn.must(200, http.MethodPost, path+"/verify", nil)
	tn.inForce()
	require.Len(t, after.Challenges(), 1)
	tn.post(ended("o", object{"id": "now-new"}))
	require.Equal(t, []string{"now-new"}, eventIDs(await(t, after, 1)))
	require.Equal(t, 1, before.Total())
}

// S3-11: activation is a step of its own where that is asked for.
func activatesApart(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	c := decode[created](t, tn.must(http.StatusCreated, http.MethodPost, "/v1/subscriptions", object{"url": hook.URL(), "events": []string{"call.*"}, "activate": false}))
	path := "/v1/subscriptions/" + c.ID
	require.Equal(t, "paused", decode[created](t, tn.must(200, http.MethodPost, path+"/verify", nil)).State)
	tn.inForce()
	tn.post(ended("a", object{"id": "early"}))
	require.Equal(t, "skipped paused", awaitDecisions(t, p, tn.name, 1)["early"][c.ID])
	require.Equal(t, "active", decode[created](t, tn.must(200, http.MethodPost, path+"/activate", nil)).State)
	tn.inForce()
	tn.post(ended("a", object{"id": "late"}))
	require.Equal(t, []string{"late"}, eventIDs(await(t, hook, 1)))
}

// delivery is an item of GET /v1/deliveries.
type delivery struct {
	ID             string `json:"id"`
	EventID        string `json:"event_id"`
	SubscriptionID string `json:"subscription_id"`
	Type           string `json:"type"`
	CallID         string `json:"call_id"`
	State          string `json:"state"`
	Reason         string `json:"reason"`
	Via            string `json:"via"`
	Attempts       any    `json:"attempts"`
}

// deliveries lists what GET /v1/deliveries answers to a query.
func (tn tenant) deliveries(query url.Values) []delivery {
	tn.p.t.Helper()
	query.Set("limit", "500")
	return decode[struct {
		Items []delivery `json:"items"`
	}](tn.p.t, tn.must(200, http.MethodGet, "/v1/deliveries?"+query.Encode(), nil)).Items
}

// awaitDelivery waits until a delivery of an event to a subscription is in a state with a reason.
func (tn tenant) awaitDelivery(eventID, subscription, state, reason string) delivery {
	tn.p.t.Helper()
	var found delivery
	eventually(tn.p.t, fmt.Sprintf("%s to %s is %s %s", eventID, subscription, state, reason), func() error {
		all := tn.deliveries(url.Values{"event_id": {eventID}, "subscription_id": {subscription}})
		for _, d := range all {
			if d.State == state && d.Reason == reason {
				found = d
				return nil
			}
		}
		return fmt.Errorf("found %+v", all)
	})
	return found
}

// P-07, S0-25: for each event and each subscription whose types match, what became of it and why.
func explains(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	ok := hooktest.Start(t, hooktest.Options{})
	failing := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 500, Body: "boom"})})
	good := tn.subscribe(object{"url": ok.URL(), "events": []string{"call.*"}})
	filtered := tn.subscribe(object{"url": ok.URL() + "/f", "events": []string{"call.*"}, "filter": "event.data.duration_ms > 100000"})
	missing := tn.subscribe(object{"url": ok.URL() + "/m", "events": []string{"call.*"}, "filter": "event.data.disposition == 'x'"})
	agents := tn.subscribe(object{"url": ok.URL() + "/a", "events": []string{"call.*"}, "agents": []string{"a-7"}})
	paused := tn.subscribe(object{"url": ok.URL() + "/p", "events": []string{"call.*"}})
	tn.must(200, http.MethodPost, "/v1/subscriptions/"+paused.ID+"/pause", nil)
	expiring := tn.subscribe(object{"url": failing.URL() + "/e", "events": []string{"call.*"}, "ttl": object{"call.ended": "1s"},
		"retry": object{"schedule": []string{"500ms"}, "max_attempts": 100}})
	dead := tn.subscribe(object{"url": failing.URL() + "/d", "events": []string{"call.*"}, "retry": object{"schedule": []string{"200ms"}, "max_attempts": 2}})
	tn.inForce()
	for range 2 { // the second one is a repeat
		tn.post(ended("explained", object{"id": "ex-1", "source": "pbx"}))
	}

	delivered := tn.awaitDelivery("ex-1", good.ID, "delivered", "")
	assert.Equal(t, event.DeliveryID(tn.name, "pbx", "ex-1", good.ID), delivered.ID)
	assert.Equal(t, "primary", delivered.Via)
	tn.awaitDelivery("ex-1", good.ID, "skipped", "duplicate")
	tn.awaitDelivery("ex-1", filtered.ID, "skipped", "filtered")
	tn.awaitDelivery("ex-1", missing.ID, "skipped", "missing_field")
	tn.awaitDelivery("ex-1", agents.ID, "skipped", "agent")
	tn.awaitDelivery("ex-1", paused.ID, "skipped", "paused")
	tn.awaitDelivery("ex-1", expiring.ID, "skipped", "expired")
	deadID := tn.awaitDelivery("ex-1", dead.ID, "dead", "exhausted").ID

	one := string(tn.must(200, http.MethodGet, "/v1/deliveries/"+deadID, nil).body)
	assert.Contains(t, one, "boom", "the endpoint's answer is shown")
	assert.Contains(t, one, "call.ended", "and the request's body")
	whole := string(tn.must(200, http.MethodGet, "/v1/events/ex-1", nil).body)
	for _, id := range []string{good.ID, filtered.ID, missing.ID, agents.ID, paused.ID, expiring.ID, dead.ID} {
		assert.Contains(t, whole, id)
	}
	assert.Contains(t, whole, "data.disposition", "the missing member is named")
	assert.Contains(t, whole, "42000", "and the event itself")
	assert.Contains(t, string(tn.must(200, http.MethodGet, "/v1/calls/explained", nil).body), "ex-1")

	other := p.tenant(tn.name + "-other")
	for _, path := range []string{"/v1/deliveries/" + deadID, "/v1/events/ex-1", "/v1/calls/explained"} {
		other.must(404, http.MethodGet, path, nil)
	}
	assert.Empty(t, other.deliveries(url.Values{}))
}

// Pause, miss two events, ask for them: they come once, marked as a replay, and nothing that was filtered comes with them.
func replaysTheMissed(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "filter": "event.call_id != 'unwanted'"})
	path := "/v1/subscriptions/" + sub.ID
	tn.must(200, http.MethodPost, path+"/pause", nil)
	tn.inForce()
	tn.post([]object{
		ended("m", object{"id": "missed-1", "source": "pbx"}), ended("m", object{"id": "missed-2", "source": "pbx"}),
		ended("unwanted", object{"id": "missed-3", "source": "pbx"}),
	})
	tn.awaitDelivery("missed-2", sub.ID, "skipped", "paused")
	tn.must(200, http.MethodPost, path+"/activate", object{"replay_missed": true})
	got := await(t, hook, 2)
	assert.ElementsMatch(t, []string{"missed-1", "missed-2"}, eventIDs(got))
	for _, r := range got {
		assert.True(t, strings.HasPrefix(r.Header.Get("Webhook-Replay"), "rpl_"))
		assert.Equal(t, event.DeliveryID(tn.name, "pbx", r.Header.Get("X-Event-Id"), sub.ID), r.ID)
		verify(t, sub.Secret, r)
	}
	tn.awaitDelivery("missed-1", sub.ID, "delivered", "")
	tn.awaitDelivery("missed-3", sub.ID, "skipped", "filtered")

	// Once means once: asking again brings nothing but what comes after.
	tn.must(200, http.MethodPost, path+"/pause", nil)
	tn.must(200, http.MethodPost, path+"/activate", object{"replay_missed": true})
	tn.inForce()
	tn.post(ended("m", object{"id": "after"}))
	eventually(t, "what comes after arrives", func() error {
		for _, id := range eventIDs(hook.Requests()) {
			if id == "after" {
				return nil
			}
		}
		return errors.New("not yet")
	})
	assert.Equal(t, 3, hook.Unique())
	assert.Equal(t, 3, hook.Total())
}

// S1-15, S2-21, S3-17: a test through the production path, and a preview that sends nothing.
func testsAndPreviews(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 418, Body: "short and stout"})})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.ended"}, "filter": "event.data.duration_ms > 1000", "payload": object{"profile": "callback"}})
	r := tn.must(200, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/test", nil)
	assert.Contains(t, string(r.body), "418")
	assert.Contains(t, string(r.body), "short and stout")
	one := await(t, hook, 1)[0]
	verify(t, sub.Secret, one)
	assert.Contains(t, string(one.Body), "call_completed")

	r = tn.must(200, http.MethodPost, "/v1/subscriptions:preview", object{"subscription_id": sub.ID, "event": ended("p", object{"id": "pre-1"})})
	assert.Contains(t, string(r.body), "call_completed")
	assert.Contains(t, string(r.body), "pre-1")
	short := object{"type": "call.ended", "call_id": "p", "data": object{"duration_ms": 1}}
	assert.Contains(t, string(tn.must(200, http.MethodPost, "/v1/subscriptions:preview", object{"subscription_id": sub.ID, "event": short}).body), "filtered")
	assert.Equal(t, 1, hook.Total(), "a preview sends nothing, a test is not retried")
	assert.Empty(t, tn.deliveries(url.Values{"subscription_id": {sub.ID}}), "a test is not counted")
}

// S4-02: the settings of one agent make a post-call subscription.
func setsUpAnAgent(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	tn.must(200, http.MethodPut, "/v1/agents/a-1/settings", object{"webhooks": object{"postCall": hook.URL() + "/post-call"}})
	assert.Contains(t, string(tn.must(200, http.MethodGet, "/v1/agents/a-1/settings", nil).body), hook.URL()+"/post-call")
	tn.inForce()
	acks := hook.Total()
	require.Equal(t, 1, acks, "verified by an acknowledged sample")
	report := object{"type": "call.report", "call_id": "s4", "agent_id": "a-1", "data": object{"caller": object{"name": "John"}}}
	tn.post(report)
	report["agent_id"] = "a-2"
	tn.post(report)
	require.NoError(t, hook.WaitFor(t.Context(), acks+1))
	last := hook.Requests()[acks]
	assert.JSONEq(t, `{"callId":"s4","callerDetails":{"name":"John"}}`, string(last.Body))
	tn.must(200, http.MethodPut, "/v1/agents/a-1/settings", object{"webhooks": object{"postCall": nil}})
	list := decode[struct {
		Items []created `json:"items"`
	}](t, tn.must(200, http.MethodGet, "/v1/subscriptions", nil))
	assert.Empty(t, list.Items)
}
