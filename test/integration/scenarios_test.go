package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
)

// TestTogether runs every scenario against callstream up.
func TestTogether(t *testing.T) { runScenarios(t, together) }

// TestApart runs every scenario against the four services as processes of their own, with two dispatchers.
func TestApart(t *testing.T) { runScenarios(t, apart) }

// scenarios are what a pipeline must do while nothing breaks. They share one pipeline and keep apart by tenant.
var scenarios = []struct {
	name string
	run  func(t *testing.T, p *pipeline)
}{
	{"an event reaches its endpoint, signed", deliversSigned},
	{"every form of POST is accepted", acceptsEveryForm},
	{"the post-call body is exactly the sample", postCallIsExact},
	{"patterns, agents and filters select", selects},
	{"a repeat is delivered once", deliversRepeatsOnce},
	{"an idempotency key gives the same ids", idempotencyKey},
	{"a failing endpoint is retried until it answers", retriesUntilAnswered},
	{"Retry-After is honoured", honoursRetryAfter},
	{"what is retried is what is asked for", retriesAsAsked},
	{"an exhausted delivery is a dead letter", deadLettersExhausted},
	{"a permanent refusal is a dead letter at once", deadLettersRefused},
	{"410 disables the subscription", goneDisables},
	{"a fallback gets what is exhausted", fallsBack},
	{"a hanging endpoint holds up nobody else", isolatesHanging},
	{"nothing is pushed before verification", verifiesFirst},
	{"pause skips and activate resumes", pauses},
	{"a changed filter and a deletion are in force", changesAreInForce},
	{"Avro straight on the topic is delivered", deliversDirectAvro},
	{"poison on a topic is a dead letter and stops nothing", survivesPoison},
	{"bad input is refused whole", refusesBadInput},
	{"bad subscriptions are refused", refusesBadSubscriptions},
	{"tenants cannot see each other", separatesTenants},
	{"scopes are enforced", enforcesScopes},
	{"the trace goes through to the endpoint", tracesThrough},
	{"health and metrics answer", answersHealth},
	{"fields are scoped and personal data is redacted", scopesAndRedacts},
	{"every payload profile is rendered", rendersEveryProfile},
	{"a GET has its fields in the query, signed, on its route", getsWithRoutes},
	{"ed25519 signatures verify", signsEd25519},
	{"both secrets verify during a rotation", rotatesSecrets},
	{"OAuth2 tokens are fetched once", authorizesByOAuth2},
	{"the CloudEvents handshake verifies", verifiesByOptions},
	{"a new origin waits for its verification", verifiesNewOrigins},
	{"activation is a step of its own", activatesApart},
	{"what became of an event is explained", explains},
	{"what was missed in a pause is replayed once", replaysTheMissed},
	{"the dead are redriven once their endpoint is mended", redrivesTheDead},
	{"a batch that is retried by hand is sent once", retriesByHandOnce},
	{"tests are sent, previews are not", testsAndPreviews},
	{"an agent's settings make a subscription", setsUpAnAgent},
	{"no more events go out than are wanted", limitsFrequency},
	{"a call that fails holds up itself alone, in order", keepsOrder},
	{"an endpoint's answer is on the agent's screen", showsAnswers},
	{"events go out in batches", sendsBatches},
	{"a batch that failed is sent as it was, and dies one by one", freezesBatches},
}

func runScenarios(t *testing.T, s shape) {
	p := startPipeline(t, settings{shape: s})
	t.Run("scenarios", func(t *testing.T) {
		for _, sc := range scenarios {
			t.Run(sc.name, func(t *testing.T) {
				t.Parallel()
				sc.run(t, p.in(t))
			})
		}
	})
}

// lookup finds a scenario's tenant: its own name, so that failures can be found in logs and topics.
func tenantOf(t *testing.T, p *pipeline) tenant {
	t.Helper()
	name := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	return p.tenant(name)
}

// ended is a small call.ended event.
func ended(callID string, more object) object {
	e := object{"type": "call.ended", "call_id": callID, "data": object{"duration_ms": 42000, "end_reason": "hangup"}}
	for k, v := range more {
		e[k] = v
	}
	return e
}

// verify checks a delivery with the Standard Webhooks project's own library.
func verify(t *testing.T, secret string, r *hooktest.Request) {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	require.NoError(t, wh.Verify(r.Body, r.Header), "signature of %s", r.ID)
}

func deliversSigned(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL() + "/hooks", "events": []string{"call.*"}})
	require.Len(t, hook.Challenges(), 1, "the endpoint is asked before anything is pushed")

	ids := tn.post(object{
		"type": "call.ended", "id": "evt_first", "time": "2026-01-20T10:00:00.123Z", "source": "dialer-eu",
		"call_id": "c-77", "agent_id": "a-9", "sequence": 4,
		"data": object{
			"duration_ms": 42000, "caller": object{"name": "Zoë <O'Neil> & Söhne", "nickname": "Z"},
			"custom": object{"b": 1, "a": []any{1.50, nil, "x"}},
		},
	})
	require.Equal(t, []string{"evt_first"}, ids)
	one := await(t, hook, 1)[0]
	verify(t, sub.Secret, one)
	assert.Equal(t, http.MethodPost, one.Method)
	assert.Equal(t, "/hooks", one.Path)
	assert.Equal(t, "application/json", one.Header.Get("Content-Type"))
	assert.True(t, strings.HasPrefix(one.Header.Get("User-Agent"), "callstream/"), one.Header.Get("User-Agent"))
	assert.Equal(t, "evt_first", one.Header.Get("X-Event-Id"))
	assert.Equal(t, "1", one.Header.Get("Webhook-Attempt"))
	assert.Equal(t, event.DeliveryID(tn.name, "dialer-eu", "evt_first", sub.ID), one.ID)
	assert.JSONEq(t, `{"type":"call.ended","timestamp":"2026-01-20T10:00:00.123Z","id":"evt_first","tenant":"`+tn.name+`",
		"source":"dialer-eu","call_id":"c-77","agent_id":"a-9","sequence":4,
		"data":{"duration_ms":42000,"caller":{"name":"Zoë <O'Neil> & Söhne","nickname":"Z"},"custom":{"b":1,"a":[1.5,null,"x"]}}}`, string(one.Body))
	assert.Contains(t, string(one.Body), `"custom":{"a":[1.5,null,"x"],"b":1}`, "what the catalogue doesn't declare keeps its bytes")
}

func acceptsEveryForm(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"*"}})
	send := func(contentType string, body string, more http.Header) []string {
		h := http.Header{"Content-Type": {contentType}}
		for k, v := range more {
			h[k] = v
		}
		r, err := tn.try(http.MethodPost, "/v1/events", body, h)
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, r.status, r.String())
		return decode[accepted](t, r).IDs
	}
	var ids []string
	ids = append(ids, send("application/json", `{"type":"call.started","call_id":"f-1"}`, nil)...)
	ids = append(ids, send("application/json", `[{"type":"call.started","call_id":"f-2"},{"type":"sms.sent","data":{"message_id":"m-1","body":"hi"}}]`, nil)...)
	ids = append(ids, send("application/x-ndjson", "{\"type\":\"call.started\",\"call_id\":\"f-3\"}\n{\"type\":\"call.ended\",\"call_id\":\"f-3\"}\n", nil)...)
	ids = append(ids, send("application/cloudevents+json", `{"specversion":"1.0","type":"call.started","source":"pbx","id":"ce-1","subject":"f-4","data":{"direction":"inbound"}}`, nil)...)
	ids = append(ids, send("application/cloudevents-batch+json", `[{"specversion":"1.0","type":"call.started","source":"pbx","id":"ce-2","subject":"f-5"}]`, nil)...)
	ids = append(ids, send("application/json", `{"direction":"outbound"}`, http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Type": {"call.started"}, "Ce-Source": {"pbx"}, "Ce-Id": {"ce-3"}, "Ce-Subject": {"f-6"},
	})...)
	require.Len(t, ids, 8)
	require.Subset(t, ids, []string{"ce-1", "ce-2", "ce-3"})
	got := map[string]bool{}
	for _, r := range await(t, hook, len(ids)) {
		got[r.Header.Get("X-Event-Id")] = true
		var body struct {
			CallID string `json:"call_id"`
			Source string `json:"source"`
		}
		require.NoError(t, json.Unmarshal(r.Body, &body))
		if strings.HasPrefix(r.Header.Get("X-Event-Id"), "ce-") {
			assert.Equal(t, "pbx", body.Source)
			assert.True(t, strings.HasPrefix(body.CallID, "f-"), "subject is the call id: %s", r.Body)
		}
	}
	for _, id := range ids {
		assert.True(t, got[id], "event %s arrived", id)
	}
}

func postCallIsExact(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.report"}, "payload": object{"profile": "post-call"}})
	raw, err := os.ReadFile("testdata/post-call-body.json")
	require.NoError(t, err)
	var want object
	require.NoError(t, json.Unmarshal(raw, &want))
	tn.post(object{
		"type": "call.report", "call_id": want["callId"],
		"data": object{
			"recording_uri": want["recordingUri"], "transcript_uri": want["transcriptUri"],
			"caller": snake(want["callerDetails"]), "analysis": snake(want["callAnalysis"]),
		},
	})
	got := await(t, hook, 1)[0]
	require.Equal(t, compact(t, raw), string(got.Body), "byte for byte, keys in order, 85 and not 85.0")
}

func selects(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	families := hooktest.Start(t, hooktest.Options{})
	agents := hooktest.Start(t, hooktest.Options{})
	qualified := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": families.URL(), "events": []string{"transcript.*", "call.failed"}})
	tn.subscribe(object{"url": agents.URL(), "events": []string{"*"}, "agents": []string{"a-1", "a-2"}})
	cel := tn.subscribe(object{"url": qualified.URL(), "events": []string{"disposition.updated"}, "filter": "event.data.disposition == 'qualified'"})
	tn.post([]object{
		{"id": "s1", "type": "call.started", "call_id": "s", "agent_id": "a-1"},
		{"id": "s2", "type": "transcript.ready", "call_id": "s"},
		{"id": "s3", "type": "call.failed", "call_id": "s", "agent_id": "a-3"},
		{"id": "s4", "type": "disposition.updated", "call_id": "s", "agent_id": "a-2", "data": object{"disposition": "qualified"}},
		{"id": "s5", "type": "disposition.updated", "call_id": "s", "data": object{"disposition": "lost"}},
		{"id": "s6", "type": "disposition.updated", "call_id": "s", "data": object{"notes": "none"}},
	})
	decided := awaitDecisions(t, p, tn.name, 6)
	require.Equal(t, "skipped filtered", decided["s5"][cel.ID])
	require.Equal(t, "skipped missing_field", decided["s6"][cel.ID])
	require.Equal(t, "queued", decided["s4"][cel.ID])
	require.ElementsMatch(t, []string{"s2", "s3"}, eventIDs(await(t, families, 2)))
	require.ElementsMatch(t, []string{"s1", "s4"}, eventIDs(await(t, agents, 2)))
	require.ElementsMatch(t, []string{"s4"}, eventIDs(await(t, qualified, 1)))
}

func deliversRepeatsOnce(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	tn.post(ended("r", object{"id": "twice"}))
	tn.post(ended("r", object{"id": "twice"}))
	tn.post(ended("r", object{"id": "after"}))
	eventually(t, "the repeat is explained", func() error {
		for _, d := range p.decisions(tn.name) {
			for _, one := range d.Decisions {
				if d.EventID == "twice" && one.SubscriptionID == sub.ID && one.Reason == "duplicate" {
					return nil
				}
			}
		}
		return errors.New("no decision says duplicate")
	})
	require.ElementsMatch(t, []string{"twice", "after"}, eventIDs(await(t, hook, 2)))
}

func idempotencyKey(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	send := func(key string) []string {
		r, err := tn.try(http.MethodPost, "/v1/events", []object{ended("i", nil), ended("i", nil)}, http.Header{"Idempotency-Key": {key}})
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, r.status, r.String())
		return decode[accepted](t, r).IDs
	}
	first := send("k1")
	require.Equal(t, first, send("k1"))
	require.NotEqual(t, first, send("k2"))
	require.NotEqual(t, first[0], first[1])
}

func retriesUntilAnswered(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{Answer: hooktest.Sequence(hooktest.Answer{Status: 503, Body: "busy"}, hooktest.Answer{Reset: true}, hooktest.Answer{Status: 204})})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	tn.post(ended("t", object{"id": "t1"}))
	got := await(t, hook, 3)
	for i, r := range got {
		verify(t, sub.Secret, r)
		assert.Equal(t, i+1, r.Attempt)
		assert.Equal(t, got[0].ID, r.ID)
		assert.Equal(t, string(got[0].Body), string(r.Body), "attempts of one delivery send the same bytes")
	}
	attempts := awaitAttempts(t, p, tn.name, 3)
	require.Equal(t, []string{"retry", "retry", "delivered"}, outcomes(attempts))
	require.EqualValues(t, 503, attempts[0].HTTPStatus)
	require.Equal(t, "busy", string(attempts[0].ResponseBody))
	require.NotEmpty(t, attempts[1].ErrorClass)
}

func honoursRetryAfter(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{Answer: hooktest.Sequence(
		hooktest.Answer{Status: 429, Header: map[string]string{"Retry-After": "2"}}, hooktest.Answer{Status: 200})})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "retry": object{"schedule": []string{"200ms"}, "max_attempts": 3}})
	tn.post(ended("ra", nil))
	got := await(t, hook, 2)
	require.GreaterOrEqual(t, got[1].At.Sub(got[0].At), 2*time.Second)
}

func deadLettersExhausted(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 500, Body: "broken"})})
	own := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "retry": object{"schedule": []string{"200ms", "500ms"}, "max_attempts": 3}})
	tn.subscribe(object{"url": own.URL(), "events": []string{"delivery.exhausted"}})
	tn.post(ended("d", object{"id": "d1"}))
	dead := awaitDead(t, p, tn.name, 1)[0]
	assert.Equal(t, sub.ID, dead.SubscriptionID)
	assert.Equal(t, "d1", dead.EventID)
	assert.EqualValues(t, 3, dead.Attempts)
	assert.EqualValues(t, 500, dead.HTTPStatus)
	assert.Equal(t, "broken", string(dead.ResponseBody))
	assert.NotEmpty(t, dead.OriginalValue)
	assert.NotEmpty(t, dead.SourceTopic)
	mine := slices.DeleteFunc(awaitAttempts(t, p, tn.name, 3), func(a event.Attempt) bool { return a.SubscriptionID != sub.ID })
	assert.Equal(t, []string{"retry", "retry", "dead"}, outcomes(mine))
	notice := await(t, own, 1)[0]
	assert.Contains(t, string(notice.Body), sub.ID)
	assert.Contains(t, string(notice.Body), "d1")
}

func deadLettersRefused(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{Answer: func(r *hooktest.Request) hooktest.Answer {
		return map[string]hooktest.Answer{
			"/bad": {Status: 400}, "/moved": {Status: 301, Header: map[string]string{"Location": "/elsewhere"}},
		}[r.Path]
	}})
	tn.subscribe(object{"url": hook.URL() + "/bad", "events": []string{"call.ended"}})
	tn.subscribe(object{"url": hook.URL() + "/moved", "events": []string{"call.started"}, "retry": object{"max_attempts": 1}})
	tn.post([]object{ended("p", nil), {"type": "call.started", "call_id": "p"}})
	for _, d := range awaitDead(t, p, tn.name, 2) {
		assert.EqualValues(t, 1, d.Attempts, "%s", d.EventType)
	}
	for _, r := range hook.Requests() {
		assert.NotEqual(t, "/elsewhere", r.Path, "redirects are not followed")
	}
}

func goneDisables(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	watch := hooktest.Start(t, hooktest.Options{})
	watching := tn.subscribe(object{"url": watch.URL(), "events": []string{"endpoint.*"}})
	hook := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 410})})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	tn.post(ended("g", object{"id": "g1"}))
	await(t, hook, 1)
	awaitTold(t, watch, sub.ID, "endpoint.verified", "challenge")
	awaitTold(t, watch, sub.ID, "endpoint.disabled", "gone")
	eventually(t, "the subscription is disabled", func() error {
		if c := decode[created](t, tn.must(200, http.MethodGet, "/v1/subscriptions/"+sub.ID, nil)); c.State != "disabled" {
			return fmt.Errorf("it is %s", c.State)
		}
		return nil
	})
	tn.inForce()
	tn.post(ended("g", object{"id": "g2"}))
	eventually(t, "the next event is skipped", func() error {
		if got := p.decided(tn.name)["g2"][sub.ID]; got != "skipped disabled" {
			return fmt.Errorf("decided %q", got)
		}
		return nil
	})
	require.Equal(t, 1, hook.Total())
	tn.must(200, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/activate", nil)
	awaitTold(t, watch, sub.ID, "endpoint.recovered", "activated")
	require.Equal(t, "active", decode[created](t, tn.must(200, http.MethodGet, "/v1/subscriptions/"+watching.ID, nil)).State)
}

// awaitTold waits until an endpoint that watches others is told what became of a subscription's.
func awaitTold(t *testing.T, watch *hooktest.Receiver, subscription, eventType, reason string) {
	t.Helper()
	eventually(t, "another endpoint is told: "+eventType, func() error {
		for _, r := range watch.Requests() {
			var e struct {
				Type string
				Data object
			}
			if err := json.Unmarshal(r.Body, &e); err != nil {
				return err
			}
			if e.Type == eventType && e.Data["subscription_id"] == subscription && e.Data["reason"] == reason {
				return nil
			}
		}
		return errors.New("it was not")
	})
}

func isolatesHanging(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hanging := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Hang: true})})
	good := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": hanging.URL(), "events": []string{"*"}, "request": object{"timeout": "30s"}})
	tn.subscribe(object{"url": good.URL(), "events": []string{"*"}})
	const n = 1000
	var batch []object
	for i := range n {
		batch = append(batch, ended(fmt.Sprintf("h-%d", i), nil))
	}
	tn.post(batch)
	await(t, good, n)
	// None of the requests that hang had to end for that: no more than the first max_in_flight of them have begun.
	require.LessOrEqual(t, hanging.Total(), 32)
	require.Positive(t, hanging.Pending())
}

func verifiesFirst(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{IgnoreChallenges: true})
	c := decode[created](t, tn.must(http.StatusCreated, http.MethodPost, "/v1/subscriptions", object{"url": hook.URL(), "events": []string{"*"}}))
	require.Equal(t, "pending", c.State)
	tn.inForce()
	tn.post(ended("v", object{"id": "v1"}))
	eventually(t, "the event is skipped", func() error {
		if got := p.decided(tn.name)["v1"][c.ID]; got != "skipped pending" {
			return fmt.Errorf("decided %q", got)
		}
		return nil
	})
	require.Zero(t, hook.Total())
	r := tn.do(http.MethodPost, "/v1/subscriptions/"+c.ID+"/verify", nil)
	require.True(t, r.status >= 400 && r.status < 500, "an endpoint that doesn't answer the challenge isn't verified: %s", r)
	require.Equal(t, "pending", decode[created](t, tn.must(200, http.MethodGet, "/v1/subscriptions/"+c.ID, nil)).State)
}

func pauses(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	tn.must(200, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/pause", nil)
	tn.inForce()
	tn.post(ended("p", object{"id": "paused"}))
	eventually(t, "the event is skipped", func() error {
		if got := p.decided(tn.name)["paused"][sub.ID]; got != "skipped paused" {
			return fmt.Errorf("decided %q", got)
		}
		return nil
	})
	tn.must(200, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/activate", nil)
	tn.inForce()
	tn.post(ended("p", object{"id": "resumed"}))
	require.Equal(t, []string{"resumed"}, eventIDs(await(t, hook, 1)))
}

func changesAreInForce(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	tn.post(ended("c", object{"id": "c1"}))
	await(t, hook, 1)
	tn.must(200, http.MethodPatch, "/v1/subscriptions/"+sub.ID, object{"filter": "event.call_id == 'other'"})
	tn.inForce()
	tn.post(ended("c", object{"id": "c2"}))
	tn.post(ended("other", object{"id": "c3"}))
	decided := awaitDecisions(t, p, tn.name, 3)
	require.Equal(t, "skipped filtered", decided["c2"][sub.ID])
	await(t, hook, 2)
	tn.must(204, http.MethodDelete, "/v1/subscriptions/"+sub.ID, nil)
	tn.inForce()
	tn.must(404, http.MethodGet, "/v1/subscriptions/"+sub.ID, nil)
	tn.post(ended("other", object{"id": "c4"}))
	// Another subscription shows that c4 has passed the filter.
	require.ElementsMatch(t, []string{"c1", "c3"}, eventIDs(hook.Requests()))
}

func separatesTenants(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	other := p.tenant(tn.name + "-other")
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	path := "/v1/subscriptions/" + sub.ID
	other.must(404, http.MethodGet, path, nil)
	other.must(404, http.MethodPatch, path, object{"name": "mine"})
	other.must(404, http.MethodDelete, path, nil)
	for _, verb := range []string{"verify", "activate", "pause"} {
		other.must(404, http.MethodPost, path+"/"+verb, nil)
	}
	list := decode[struct {
		Items []created `json:"items"`
	}](t, other.must(200, http.MethodGet, "/v1/subscriptions", nil))
	require.Empty(t, list.Items)
	r := other.do(http.MethodPost, "/v1/events", ended("x", object{"tenant": tn.name}))
	require.Equal(t, 403, r.status, r.String())
	other.post(ended("x", object{"id": "x1"}))
	tn.post(ended("x", object{"id": "x2"}))
	require.Equal(t, []string{"x2"}, eventIDs(await(t, hook, 1)))
}

func enforcesScopes(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	made := decode[struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}](t, tn.must(201, http.MethodPost, "/v1/keys", object{"name": "reader", "scopes": []string{"subscriptions:read"}}))
	reader := tenant{p: p, name: tn.name, key: made.Key}
	reader.must(200, http.MethodGet, "/v1/subscriptions", nil)
	reader.must(403, http.MethodPost, "/v1/subscriptions", object{"url": "https://example.com", "events": []string{"*"}})
	eventually(t, "the producer knows the key and refuses its scope", func() error {
		if r := reader.do(http.MethodPost, "/v1/events", ended("s", nil)); r.status != 403 {
			return errors.New(r.String())
		}
		return nil
	})
	tn.must(204, http.MethodDelete, "/v1/keys/"+made.ID, nil)
	reader.must(401, http.MethodGet, "/v1/subscriptions", nil)
	eventually(t, "the producer has forgotten the key", func() error {
		if r := reader.do(http.MethodPost, "/v1/events", ended("s", nil)); r.status != 401 {
			return errors.New(r.String())
		}
		return nil
	})
}

func tracesThrough(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	r, err := tn.try(http.MethodPost, "/v1/events", ended("tr", nil), http.Header{"Traceparent": {"00-" + trace + "-00f067aa0ba902b7-01"}})
	require.NoError(t, err)
	require.Equal(t, 202, r.status, r.String())
	got := await(t, hook, 1)[0].Header.Get("Traceparent")
	require.True(t, strings.HasPrefix(got, "00-"+trace+"-"), "traceparent %q carries the caller's trace", got)
	tn.post(ended("tr", nil))
	require.Len(t, await(t, hook, 2)[1].Header.Get("Traceparent"), 55, "a trace is begun where the caller has none")
}

func answersHealth(t *testing.T, p *pipeline) {
	for _, name := range p.names() {
		base := p.url(name)
		for path, want := range map[string]string{"/healthz": "", "/readyz": "", "/metrics": "callstream_"} {
			r, err := request(t.Context(), http.MethodGet, base+path, nil, nil)
			require.NoError(t, err)
			require.Equal(t, 200, r.status, "%s %s: %s", name, path, r)
			require.Contains(t, string(r.body), want, "%s %s", name, path)
		}
	}
	methods := map[string]map[string]any{}
	for _, base := range []string{p.base(http.MethodPost, "/v1/events"), p.base(http.MethodGet, "/")} {
		r, err := request(t.Context(), http.MethodGet, base+"/openapi.json", nil, nil)
		require.NoError(t, err)
		require.Equal(t, 200, r.status)
		doc := decode[struct {
			OpenAPI string                    `json:"openapi"`
			Paths   map[string]map[string]any `json:"paths"`
		}](t, r)
		require.True(t, strings.HasPrefix(doc.OpenAPI, "3.1"), doc.OpenAPI)
		maps.Copy(methods, doc.Paths)
	}
	for path, method := range map[string]string{
		"/v1/events": "post", "/v1/subscriptions": "post", "/v1/subscriptions/{id}": "patch", "/v1/subscriptions/{id}/verify": "post",
		"/v1/keys": "get", "/v1/event-types": "get",
	} {
		require.Contains(t, methods[path], method, path)
	}
}
