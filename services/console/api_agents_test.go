package console

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/stretchr/testify/require"
)

const agentPath = "/v1/agents/a-9/settings"

// S4-02, S4-03: one URL for one agent, in the shape that system has it, makes the equivalent subscription.
func TestAnAgentsPostCallWebhook(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	h.key = h.keyFor("acme", auth.ScopeAdmin)
	first, second := hooktest.Start(t, hooktest.Options{}), hooktest.Start(t, hooktest.Options{})
	h.do("GET", agentPath, "").problem(http.StatusNotFound)
	settings := func(url string) string { return `{"webhooks":{"postCall":"` + url + `"}}` }

	made := h.do("PUT", agentPath, settings(first.URL()+"/calls")).is(200)
	require.JSONEq(t, toJSON(t, map[string]any{"postCall": first.URL() + "/calls"}), toJSON(t, made.object()["webhooks"]))
	require.NotEmpty(t, made.str("secret"))
	require.Equal(t, "no-store", made.header.Get("Cache-Control"))
	id := made.str("subscription_id")
	got := h.do("GET", agentPath, "").is(200)
	require.JSONEq(t, toJSON(t, map[string]any{"webhooks": map[string]any{"postCall": first.URL() + "/calls"}, "subscription_id": id}), string(got.body))
	sub := h.do("GET", "/v1/subscriptions/"+id, "").is(200).object()
	require.Equal(t, "active", sub["state"])
	require.Equal(t, []any{"call.report"}, sub["events"])
	require.Equal(t, []any{"a-9"}, sub["agents"])
	require.Equal(t, "post-call", sub["payload"].(map[string]any)["profile"])
	require.Equal(t, "ack", sub["verification"])
	require.Equal(t, 1, first.Total(), "it acknowledged a sample")
	var sample map[string]any
	require.NoError(t, json.Unmarshal(first.Requests()[0].Body, &sample))
	require.Contains(t, sample, "callId")

	// The same again changes nothing and asks nobody.
	same := h.do("PUT", agentPath, settings(first.URL()+"/calls")).is(200)
	require.Equal(t, made.header.Get("ETag"), same.header.Get("ETag"))
	require.Equal(t, 1, first.Total())

	// Another URL serves when it has acknowledged; one that does not leaves what served.
	second.SetAnswer(hooktest.Always(hooktest.Answer{Status: 500}))
	require.Equal(t, "#/webhooks/postCall", h.do("PUT", agentPath, settings(second.URL())).problem(422).Errors[0].Pointer)
	require.Equal(t, first.URL()+"/calls", h.do("GET", "/v1/subscriptions/"+id, "").str("url"))
	second.SetAnswer(nil)
	moved := h.do("PUT", agentPath, settings(second.URL())).is(200)
	require.Equal(t, id, moved.str("subscription_id"))
	require.Empty(t, moved.str("secret"), "it has not changed")
	require.Equal(t, second.URL(), h.do("GET", "/v1/subscriptions/"+id, "").str("url"))

	// null removes it.
	require.JSONEq(t, `{"webhooks":{"postCall":null}}`, string(h.do("PUT", agentPath, `{"webhooks":{"postCall":null}}`).is(200).body))
	h.do("GET", "/v1/subscriptions/"+id, "").problem(404)
	require.JSONEq(t, `{"webhooks":{"postCall":null}}`, string(h.do("GET", agentPath, "").is(200).body))
	require.JSONEq(t, `{"webhooks":{"postCall":null}}`, string(h.do("PUT", agentPath, `{"webhooks":{"postCall":null}}`).is(200).body))
	again := h.do("PUT", agentPath, settings(first.URL())).is(200)
	require.NotEqual(t, id, again.str("subscription_id"))
	require.NotEmpty(t, again.str("secret"))
}

func TestAgentSettingsAreChecked(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	h.key = h.keyFor("acme", auth.ScopeAdmin)
	for body, place := range map[string]string{
		`{}`: "#/webhooks", `{"webhooks":{}}`: "#/webhooks/postCall", `{"webhooks":{"postCall":5}}`: "#/webhooks/postCall", `{"webhooks":{"postCall":""}}`: "#/webhooks/postCall",
		`{"webhooks":{"postCall":"ftp://x"}}`: "#/webhooks/postCall", `{"webhooks":{"postCall":null,"preCall":"https://x"}}`: "#/webhooks/preCall", `{"webhooks":{"postCall":null},"x":1}`: "#/x",
		`{"webhooks":{"postCall":"http://127.0.0.1:1/"}}`: "#/webhooks/postCall",
	} {
		require.Equal(t, place, h.do("PUT", agentPath, body).problem(422).Errors[0].Pointer, body)
	}
	require.Empty(t, h.subscriptions(), "nothing was stored")
	h.do("GET", agentPath, "").problem(404)

	url := endpoint(t, func(http.ResponseWriter, *http.Request) {})
	made := h.do("PUT", agentPath, `{"webhooks":{"postCall":"`+url+`"}}`, "If-Match", `"1"`)
	made.problem(http.StatusPreconditionFailed)
	version := h.do("PUT", agentPath, `{"webhooks":{"postCall":"`+url+`"}}`).is(200).header.Get("ETag")
	h.do("PUT", agentPath, `{"webhooks":{"postCall":null}}`, "If-Match", `"99"`).problem(http.StatusPreconditionFailed)
	h.do("PUT", agentPath, `{"webhooks":{"postCall":null}}`, "If-Match", version).is(200)

	// An ack takes the endpoint's word for less than a challenge: it is for admins.
	h.key = h.keyFor("acme", auth.ScopeSubscriptionsWrite, auth.ScopeSubscriptionsRead)
	h.do("PUT", agentPath, `{"webhooks":{"postCall":"`+url+`"}}`).problem(http.StatusForbidden)
	h.do("GET", agentPath, "").is(200)
}

// The agent's subscription was disabled by the system: asking for the same URL again brings it back when it acknowledges.
func TestAgentSettingsBringADisabledWebhookBack(t *testing.T) {
	h := start(t)
	receiver := hooktest.Start(t, hooktest.Options{})
	body := `{"webhooks":{"postCall":"` + receiver.URL() + `"}}`
	id := h.do("PUT", agentPath, body).is(200).str("subscription_id")
	outcome, err := h.svc.applySignal(t.Context(), disabling(id, 1))
	require.NoError(t, err)
	require.Equal(t, "applied", outcome)
	h.do("PUT", agentPath, body).is(200)
	require.Equal(t, "active", h.do("GET", "/v1/subscriptions/"+id, "").str("state"))
	require.Equal(t, 2, receiver.Total())
}
