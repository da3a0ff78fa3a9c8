package console

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/history"
	"github.com/stretchr/testify/require"
)

// document is what the tests read of the OpenAPI document.
type document struct {
	OpenAPI string
	Paths   map[string]map[string]documented
}

type documented struct {
	Summary     string
	Description string
	Security    []map[string][]string
	Parameters  []struct {
		Name, In string
		Required bool
	}
	RequestBody struct {
		Required bool
		Content  map[string]struct {
			Schema  json.RawMessage
			Example json.RawMessage
		}
	}
	Responses map[string]struct {
		Content map[string]struct{ Example json.RawMessage }
	}
}

func (d documented) scope() string {
	if len(d.Security) == 1 && len(d.Security[0]["key"]) == 1 {
		return d.Security[0]["key"][0]
	}
	return ""
}

// body is the document's own example of a request, with its media type.
func (d documented) body() (mediaType, example string) {
	types := slices.Sorted(maps.Keys(d.RequestBody.Content))
	if len(types) == 0 {
		return "", ""
	}
	if e := d.RequestBody.Content[types[0]].Example; e != nil {
		return types[0], string(e)
	}
	return types[0], "{}"
}

func (h *harness) document() document {
	h.t.Helper()
	var doc document
	require.NoError(h.t, json.Unmarshal(h.do("GET", "/openapi.json", "").is(200).body, &doc))
	return doc
}

func (h *harness) keyFor(tenant string, scopes ...string) string {
	h.t.Helper()
	key, err := CreateKey(h.t.Context(), h.cfg, NewKey{Tenant: tenant, Name: "test", Scopes: scopes})
	require.NoError(h.t, err)
	return key.Plain
}

// Every operation of the document, whichever is added, refuses callers without a key and callers without its scope; and
// with an id of another tenant it answers 404 and changes nothing. A path with an id that this test has no object for
// fails it.
func TestEveryOperationIsGuarded(t *testing.T) {
	h := startOnKafka(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	mine := h.keyFor("acme", auth.ScopeAdmin)
	theirs := h.keyFor("victim", auth.ScopeAdmin)
	url := endpoint(t, obliging)

	// What the other tenant has: one of everything that an id can name.
	h.key = theirs
	sub := h.create(`{"url":"` + url + `","events":["*"]}`).str("id")
	key := h.do("POST", "/v1/keys", `{"name":"k","scopes":["admin"]}`).is(201).str("id")
	h.do("PUT", "/v1/agents/a-victim/settings", `{"webhooks":{"postCall":"`+url+`"}}`).is(200)
	e := &event.Event{ID: "evt_victim", Type: "call.ended", Tenant: "victim", Source: "api", CallID: "c-victim", Time: time.Now(), IngestedAt: time.Now()}
	h.produceEvent(e)
	delivery := event.DeliveryID("victim", "api", e.ID, sub)
	h.produceRecord(topic.Decisions, &event.Decision{Tenant: "victim", EventID: e.ID, EventType: e.Type, Source: "api", CallID: e.CallID, EventTime: e.Time, AcceptedAt: e.IngestedAt,
		EventTopic: topic.CallsEvents, DecidedAt: time.Now(), Decisions: []event.DecisionEntry{{SubscriptionID: sub, SubscriptionVersion: 1, Outcome: "queued", DeliveryID: delivery}}})
	h.produceRecord(topic.DeadLetters, &event.DeadLetter{Tenant: "victim", Reason: "exhausted", SubscriptionID: sub, DeliveryID: delivery, EventID: e.ID, DeadAt: time.Now(), SourceTopic: topic.Lane(topic.DefaultLane)})
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	letter := history.DeadLetterID(0, 0)
	redrive := h.do("POST", "/v1/dlq:redrive", `{"ids":["`+letter+`"]}`).is(202).str("id")
	ids := map[string]string{
		"/v1/subscriptions/{id}": sub, "/v1/keys/{id}": key, "/v1/agents/{agent_id}": "a-victim",
		"/v1/events/{id}": e.ID, "/v1/calls/{call_id}": e.CallID, "/v1/deliveries/{id}": delivery,
		"/v1/dlq/{id}": letter, "/v1/redrives/{id}": redrive,
	}
	everyones := []string{"/v1/event-types/{type}"} // the catalogue

	state := func() string {
		h.key = theirs
		defer func() { h.key = mine }()
		all := ""
		for _, path := range []string{"/v1/subscriptions", "/v1/subscriptions/" + sub, "/v1/keys", "/v1/agents/a-victim/settings", "/v1/audit", "/v1/dlq"} {
			all += string(h.do("GET", path, "").is(200).body)
		}
		return all
	}
	without := map[string]string{} // a key of theirs with every scope but one
	for _, scope := range auth.Scopes() {
		without[scope] = h.keyFor("victim", slices.DeleteFunc(auth.Scopes(), func(s string) bool { return s == scope || s == auth.ScopeAdmin })...)
	}
	before := state()
	feed := len(h.subscriptions())
	scoped := 0
	paths := h.document().Paths
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		for _, method := range slices.Sorted(maps.Keys(paths[path])) { // get before put
			op := paths[path][method]
			method = strings.ToUpper(method)
			what := method + " " + path
			require.NotEmpty(t, op.Summary, what)
			target := path
			for pattern, id := range ids {
				if rest, ok := strings.CutPrefix(path, pattern); ok {
					target = pattern[:strings.Index(pattern, "{")] + id + rest
				}
			}
			global := slices.Contains(everyones, path)
			require.True(t, global || !strings.Contains(target, "{"), "%s has an id that this test knows no object of: add one to ids", what)
			mediaType, body := op.body()

			h.key = ""
			h.do(method, target, body, "Content-Type", mediaType).problem(http.StatusUnauthorized)
			require.Contains(t, op.Responses, "401", what)
			if scope := op.scope(); scope != "" {
				scoped++
				h.key = without[scope]
				h.do(method, target, body, "Content-Type", mediaType).problem(http.StatusForbidden)
				require.Contains(t, op.Responses, "403", what)
				require.Contains(t, op.Description, scope, what)
			} else {
				require.True(t, strings.HasPrefix(path, "/v1/event-types"), "%s takes no scope", what)
			}
			if target == path {
				continue
			}
			h.key = mine
			if what == "PUT /v1/agents/{agent_id}/settings" {
				// The names of agents are each tenant's own: it makes mine, beside theirs.
				h.do(method, target, `{"webhooks":{"postCall":"`+url+`/mine"}}`).is(200)
				h.do(method, target, `{"webhooks":{"postCall":null}}`).is(200)
				feed += 2
				continue
			}
			h.do(method, target, body, "Content-Type", mediaType).problem(http.StatusNotFound)
			require.Contains(t, op.Responses, "404", what)
			if method == http.MethodGet {
				h.key = theirs
				h.do(method, target, "").is(200) // so that the 404 is for the tenant
			}
		}
	}
	require.Greater(t, scoped, 15)
	require.True(t, before == state(), "nothing of theirs has changed")
	require.Len(t, h.subscriptions(), feed)
	// Ids in bodies and queries are no way in either.
	h.key = mine
	h.do("POST", "/v1/subscriptions:preview", `{"subscription_id":"`+sub+`"}`).problem(404)
	own := h.create(`{"url":"` + url + `","events":["*"]}`).str("id")
	h.do("POST", "/v1/subscriptions:preview", `{"subscription_id":"`+own+`","event_id":"evt_victim"}`).problem(404)
	h.do("POST", "/v1/dlq:redrive", `{"ids":["`+letter+`"]}`).problem(404)
	require.Zero(t, as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"filter":{}}`)).Total)
	require.NotContains(t, string(h.do("GET", "/v1/audit?id="+sub, "").is(200).body), sub)
	require.NotContains(t, string(h.do("GET", "/v1/subscriptions?q="+sub, "").is(200).body), sub)
}

// The document says what the operations are: bodies with examples that the API itself takes, the 202 of a change that is
// not in force in time, what is read-only.
func TestTheDocumentIsWhole(t *testing.T) {
	h := start(t)
	doc := h.document()
	require.True(t, strings.HasPrefix(doc.OpenAPI, "3.1"))
	changes := []string{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if _, ok := op.Responses["202"]; ok {
				changes = append(changes, method+" "+path)
			}
			for mediaType, content := range op.RequestBody.Content {
				require.NotEmpty(t, content.Schema, "%s %s %s", method, path, mediaType)
			}
		}
	}
	slices.Sort(changes)
	require.Equal(t, []string{
		"delete /v1/keys/{id}", "delete /v1/subscriptions/{id}", "patch /v1/subscriptions/{id}",
		"post /v1/deliveries/{id}/retry", "post /v1/dlq:redrive",
		"post /v1/keys", "post /v1/keys/{id}/rotate", "post /v1/subscriptions", "post /v1/subscriptions/{id}/activate", "post /v1/subscriptions/{id}/pause",
		"post /v1/subscriptions/{id}/rotate-secret", "post /v1/subscriptions/{id}/verify", "put /v1/agents/{agent_id}/settings",
	}, changes)
	_, example := doc.Paths["/v1/subscriptions"]["post"].body()
	made := h.create(example)
	var shown map[string]any
	require.NoError(t, json.Unmarshal(doc.Paths["/v1/subscriptions"]["post"].Responses["201"].Content["application/json"].Example, &shown))
	for _, member := range slices.Sorted(maps.Keys(made.object())) {
		require.Contains(t, shown, member, "the example of the answer")
	}
	_, patch := doc.Paths["/v1/subscriptions/{id}"]["patch"].body()
	h.do("PATCH", "/v1/subscriptions/"+made.str("id"), patch).is(200)

	var schemas struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ ReadOnly bool }
			}
		}
	}
	require.NoError(t, json.Unmarshal(h.do("GET", "/openapi.json", "").body, &schemas))
	answer, input := schemas.Components.Schemas["ShownSubscription"].Properties, schemas.Components.Schemas["NewSubscription"].Properties
	for _, member := range []string{"id", "tenant", "state", "state_reason", "pending_url", "pending_routes", "pending_fallback_url", "version", "created_at", "updated_at", "secret", "replay"} {
		require.True(t, answer[member].ReadOnly, member)
		require.NotContains(t, input, member)
	}
	require.False(t, answer["url"].ReadOnly)
	require.Contains(t, input, "fallback_url")
}
