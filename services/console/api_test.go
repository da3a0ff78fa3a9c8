package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/stretchr/testify/require"
)

func (h *harness) create(doc string) answer {
	h.t.Helper()
	return h.do("POST", "/v1/subscriptions", doc).is(http.StatusCreated)
}

func TestASubscriptionThroughTheAPI(t *testing.T) {
	h := start(t)
	url := endpoint(t, obliging)
	made := h.create(`{"name":"CRM","url":"` + url + `/hook","events":["call.*"]}`)
	id, secret := made.str("id"), made.str("secret")
	require.True(t, strings.HasPrefix(id, "sub_"))
	key, err := webhook.ParseKey(secret)
	require.NoError(t, err)
	require.Len(t, secret, len(webhook.PrefixSecret)+44, "32 bytes in base64")
	require.Equal(t, "pending", made.str("state"))
	require.Equal(t, "default", made.str("tenant"))
	require.Equal(t, `"1"`, made.header.Get("ETag"))
	require.Equal(t, "/v1/subscriptions/"+id, made.header.Get("Location"))
	require.Equal(t, "no-store", made.header.Get("Cache-Control"))

	// Answered once in force: the record is on the feed already, and opens to the secret that was shown.
	feed := h.subscriptions()
	require.Len(t, feed, 1)
	sub, err := subscription.FromRecord(&feed[0])
	require.NoError(t, err)
	opened, err := sub.Open(h.box, time.Now())
	require.NoError(t, err)
	require.Equal(t, []webhook.Key{key}, opened.Signing)

	path := "/v1/subscriptions/" + id
	got := h.do("GET", path, "").is(200)
	require.Empty(t, got.str("secret"), "shown this once")
	require.JSONEq(t, `{"scheme":"hmac","secret":{"set":true}}`, toJSON(t, got.object()["signing"]))

	h.do("POST", path+"/pause", "").problem(http.StatusConflict)
	require.Equal(t, "active", h.do("POST", path+"/verify", "").is(200).str("state"))
	require.Equal(t, "active", h.do("POST", path+"/verify", "").is(200).str("state"))
	require.Equal(t, "paused", h.do("POST", path+"/pause", "").is(200).str("state"))
	require.Equal(t, "paused", h.do("POST", path+"/pause", "{}").is(200).str("state"), "it is what was asked for")
	require.Equal(t, "active", h.do("POST", path+"/activate", `{"replay_missed":false}`).is(200).str("state"))
	require.Equal(t, "#/replay_missed", h.do("POST", path+"/activate", `{"replay_missed":"yes"}`).problem(422).Errors[0].Pointer)

	patched := h.do("PATCH", path, `{"name":"new","agents":["a-1"]}`, "Content-Type", "application/merge-patch+json", "If-Match", h.do("GET", path, "").header.Get("ETag")).is(200)
	require.Equal(t, "new", patched.str("name"))
	before := len(h.subscriptions())
	for _, same := range []string{`{}`, `{"name":"new"}`, string(h.do("GET", path, "").body)} {
		unchanged := h.do("PATCH", path, same).is(200)
		require.Equal(t, patched.object()["version"], unchanged.object()["version"], "what changes nothing is no version")
	}
	require.Len(t, h.subscriptions(), before, "and nothing is published")
	h.do("PATCH", path, `{"name":"stale"}`, "If-Match", `"1"`).problem(http.StatusPreconditionFailed)
	h.do("PATCH", path, `{"name":"x"}`, "If-Match", `"one"`).problem(http.StatusBadRequest)
	h.do("DELETE", path, "", "If-Match", `"1"`).problem(http.StatusPreconditionFailed)
	h.do("DELETE", path, "").is(http.StatusNoContent)
	h.do("GET", path, "").problem(http.StatusNotFound)
	h.do("DELETE", path, "").problem(http.StatusNotFound)

	feed = h.subscriptions()
	for i, r := range feed {
		require.EqualValues(t, i+1, r.Version)
		require.Equal(t, i == len(feed)-1, r.Deleted)
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}

func TestTenantsDoNotSeeEachOther(t *testing.T) {
	h := start(t)
	id := h.do("POST", "/v1/subscriptions", `{"url":"https://x.example","events":["*"]}`, auth.TenantHeader, "acme").is(201).str("id")
	other := []string{auth.TenantHeader, "other"}
	path := "/v1/subscriptions/" + id
	for _, c := range [][3]string{{"GET", path, ""}, {"PATCH", path, "{}"}, {"DELETE", path, ""}, {"POST", path + "/verify", ""}, {"POST", path + "/activate", ""}, {"POST", path + "/pause", ""}} {
		h.do(c[0], c[1], c[2], other...).problem(http.StatusNotFound)
	}
	require.JSONEq(t, `{"items":[],"next_cursor":null}`, string(h.do("GET", "/v1/subscriptions", "", other...).is(200).body))
	h.do("GET", path, "", auth.TenantHeader, "acme").is(200)

	key := h.do("POST", "/v1/keys", `{"name":"k","scopes":["admin"]}`, auth.TenantHeader, "acme").is(201).str("id")
	h.do("DELETE", "/v1/keys/"+key, "", other...).problem(http.StatusNotFound)
	h.do("POST", "/v1/keys/"+key+"/rotate", "", other...).problem(http.StatusNotFound)
	require.JSONEq(t, `{"items":[],"next_cursor":null}`, string(h.do("GET", "/v1/keys", "", other...).is(200).body))
}

func TestLists(t *testing.T) {
	h := start(t)
	var want []string
	for i := range 5 {
		want = append([]string{h.create(fmt.Sprintf(`{"name":"%d","url":"https://x.example","events":["*"]}`, i)).str("id")}, want...)
	}
	type page struct {
		Items      []struct{ ID string }
		NextCursor *string `json:"next_cursor"`
	}
	var got []string
	query := "?limit=2"
	for {
		var p page
		require.NoError(t, json.Unmarshal(h.do("GET", "/v1/subscriptions"+query, "").is(200).body, &p))
		for _, item := range p.Items {
			got = append(got, item.ID)
		}
		if p.NextCursor == nil {
			break
		}
		query = "?limit=2&cursor=" + *p.NextCursor
	}
	require.Equal(t, want, got)
	for _, bad := range []string{"limit=0", "limit=501", "limit=x", "limit=-1", "nope=1"} {
		h.do("GET", "/v1/subscriptions?"+bad, "").problem(http.StatusUnprocessableEntity)
	}
	for _, bad := range []string{"!!", "aWQ", "eA"} {
		h.do("GET", "/v1/subscriptions?cursor="+bad, "").problem(http.StatusBadRequest)
	}
}

// Every bad input is a problem of the 4xx kind, nothing is stored and the service goes on.
func TestBadInput(t *testing.T) {
	h := start(t)
	id := h.create(`{"url":"https://x.example","events":["*"]}`).str("id")
	path := "/v1/subscriptions/" + id
	for _, body := range []string{"", " ", "{", "nul", "{\"url\":\"\xff\"}", `{"a":1,"a":2}`, `{} {}`, strings.Repeat("[", 50_000)} {
		h.do("POST", "/v1/subscriptions", body, "Content-Type", "application/json").problem(http.StatusBadRequest)
		h.do("PATCH", path, body, "Content-Type", "application/json").problem(http.StatusBadRequest)
		h.do("POST", "/v1/keys", body, "Content-Type", "application/json").problem(http.StatusBadRequest)
	}
	p := h.do("POST", "/v1/subscriptions", `{"url":"ftp://x","events":["nope"],"filter":"event.data.x ==","agents":[1],"surprise":true,"batch":{"max_events":0,"max_wait":"1s"}}`).problem(422)
	places := []string{}
	for _, f := range p.Errors {
		places = append(places, f.Pointer)
		if f.Pointer == "#/filter" {
			require.Contains(t, f.Detail, "1:16", "the place in the expression")
		}
	}
	slices.Sort(places)
	require.Equal(t, []string{"#/agents/0", "#/batch/max_events", "#/events/0", "#/filter", "#/surprise", "#/url"}, places)
	for _, body := range []string{`[]`, `"x"`, `null`, `5`} {
		h.do("POST", "/v1/subscriptions", body).problem(422)
		h.do("PATCH", path, body).problem(422)
		h.do("POST", path+"/pause", body).problem(422)
	}
	big := `{"url":"https://x.example","events":["*"],"name":"` + strings.Repeat("n", subscription.MaxDocument) + `"}`
	h.do("POST", "/v1/subscriptions", big).problem(http.StatusRequestEntityTooLarge)
	h.do("PATCH", path, big).problem(http.StatusRequestEntityTooLarge)
	h.do("POST", "/v1/subscriptions", `{}`, "Content-Type", "text/plain").problem(http.StatusUnsupportedMediaType)
	h.do("POST", "/v1/subscriptions", `{}`, "Content-Type", "application/json; charset=latin1").problem(http.StatusUnsupportedMediaType)
	h.do("POST", "/v1/subscriptions", `{}`, "Content-Type", "").problem(http.StatusUnsupportedMediaType)
	h.do("POST", path+"/verify", `{"force":true}`).problem(422)
	h.do("GET", "/v1/subscriptions/sub_unknown", "").problem(404)
	h.do("GET", "/v1/nothing", "").problem(404)
	require.Contains(t, h.do("PUT", path, "{}").problem(http.StatusMethodNotAllowed).Detail, "PATCH")
	h.do("GET", "/v1/event-types/nope", "").problem(404)
	h.do("GET", "/v1/subscriptions/"+strings.Repeat("x", 100), "").problem(422)
	for body, place := range map[string]string{`{}`: "#/name", `{"name":"k","scopes":["root"]}`: "#/scopes/0", `{"name":"k","scopes":["admin","admin"]}`: "#/scopes/1", `{"name":"k","scopes":"admin"}`: "#/scopes",
		`{"name":"k","scopes":["admin"],"expires_at":"2001-01-01T00:00:00Z"}`: "#/expires_at", `{"name":"k","scopes":["admin"],"expires_at":"soon"}`: "#/expires_at",
		`{"name":5,"scopes":["admin"]}`: "#/name", `{"name":"k","scopes":["admin"],"tenant":"other"}`: "#/tenant", `{"name":"k","scopes":[null]}`: "#/scopes/0"} {
		require.Equal(t, place, h.do("POST", "/v1/keys", body).problem(422).Errors[0].Pointer, body)
	}
	require.Len(t, h.subscriptions(), 1)
	require.Empty(t, h.keys())
	h.awaitReady()
}

func TestHostileFiltersAreRefusedOrHarmless(t *testing.T) {
	h := start(t)
	for _, expr := range []string{strings.Repeat("(", 4000) + "1", "event.x.matches('(((a{100}){100}){100})')", strings.Repeat("[", 4000), "event" + strings.Repeat(".a", 4000)} {
		h.do("POST", "/v1/subscriptions", toJSON(t, map[string]any{"url": "https://x.example", "events": []string{"*"}, "filter": expr})).problem(422)
	}
}

func TestKeysAndScopes(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	h.do("GET", "/v1/subscriptions", "").problem(http.StatusUnauthorized)
	require.Equal(t, "Bearer", h.do("GET", "/v1/subscriptions", "").header.Get("Www-Authenticate"))
	h.do("GET", "/openapi.json", "").is(200)

	// The first key is made on the database itself, beside the running service.
	admin, err := CreateKey(t.Context(), h.cfg, NewKey{Tenant: "acme", Name: "first", Scopes: []string{auth.ScopeAdmin}})
	require.NoError(t, err)
	h.key = admin.Plain
	list := h.do("GET", "/v1/keys", "").is(200)
	require.NotContains(t, string(list.body), admin.Plain)
	require.NotContains(t, string(list.body), auth.Hash(admin.Plain))

	made := h.do("POST", "/v1/keys", `{"name":"ci","scopes":["subscriptions:read"],"expires_at":"2999-01-01T00:00:00Z"}`).is(201)
	require.Equal(t, "acme", made.str("tenant"))
	require.Equal(t, "no-store", made.header.Get("Cache-Control"))
	id := made.str("id")
	require.Eventually(t, func() bool { return len(h.keys()) == 2 }, 10*time.Second, 5*time.Millisecond)
	last := h.keys()[1]
	require.Equal(t, auth.Hash(made.str("key")), last.Hash)
	require.Equal(t, []string{auth.ScopeSubscriptionsRead}, last.Scopes)

	adminKey := h.key
	h.key = made.str("key")
	h.do("GET", "/v1/subscriptions", "").is(200)
	h.do("GET", "/v1/event-types", "").is(200)
	for _, c := range [][3]string{{"POST", "/v1/subscriptions", `{"url":"https://x.example","events":["*"]}`}, {"PATCH", "/v1/subscriptions/sub_1", `{}`}, {"DELETE", "/v1/subscriptions/sub_1", ""},
		{"POST", "/v1/subscriptions/sub_1/verify", ""}, {"GET", "/v1/keys", ""}, {"POST", "/v1/keys", `{"name":"x","scopes":["admin"]}`}, {"DELETE", "/v1/keys/" + id, ""}, {"POST", "/v1/keys/" + id + "/rotate", ""}} {
		h.do(c[0], c[1], c[2]).problem(http.StatusForbidden)
	}

	h.key = adminKey
	rotated := h.do("POST", "/v1/keys/"+id+"/rotate", "").is(200)
	require.NotEqual(t, made.str("key"), rotated.str("key"))
	h.key = made.str("key")
	h.do("GET", "/v1/subscriptions", "").problem(401)
	h.key = rotated.str("key")
	h.do("GET", "/v1/subscriptions", "").is(200)
	h.key = adminKey
	h.do("DELETE", "/v1/keys/"+id, "").is(204)
	h.key = rotated.str("key")
	h.do("GET", "/v1/subscriptions", "").problem(401)
	require.True(t, h.keys()[len(h.keys())-1].Deleted)

	_, err = CreateKey(t.Context(), h.cfg, NewKey{Tenant: "a/b", Name: "x", Scopes: []string{auth.ScopeAdmin}})
	require.Error(t, err)
	_, err = CreateKey(t.Context(), h.cfg, NewKey{Tenant: "a", Name: "x", Scopes: []string{"root"}})
	require.Error(t, err)
}

func TestWithoutAuthenticationOtherHostsAreRefused(t *testing.T) {
	h := start(t)
	h.do("GET", "/v1/subscriptions", "", "Origin", "https://evil.example").problem(http.StatusForbidden)
	for _, path := range []string{"/v1/subscriptions", "/openapi.json"} {
		req := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		req.Host = "evil.example"
		w := httptest.NewRecorder()
		h.svc.Handler().ServeHTTP(w, req)
		require.Equal(t, http.StatusForbidden, w.Code)
	}
}

// S0-20, S0-21: an endpoint is verified before anything is sent to it, by a challenge that it echoes with 2xx.
func TestVerification(t *testing.T) {
	requests := make(chan *http.Request, 10)
	bodies := make(chan string, 10)
	var respond atomic.Pointer[http.HandlerFunc]
	answerWith := func(handle http.HandlerFunc) { respond.Store(&handle) }
	url := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		requests <- r.Clone(context.Background())
		(*respond.Load())(w, r)
	})
	h := start(t)
	made := h.create(`{"url":"` + url + `/hook?x=1","events":["call.ended"],"request":{"headers":{"X-Team":"crm"}},"auth":{"type":"bearer","token":"t0ken"}}`)
	verify := "/v1/subscriptions/" + made.str("id") + "/verify"

	for name, bad := range map[string]http.HandlerFunc{
		"another value": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"challenge":"x"}`) },
		"nothing":       func(http.ResponseWriter, *http.Request) {},
		"404 with echo": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404); obliging(w, r) },
		"redirect":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"abort":         func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"secret page":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); fmt.Fprint(w, "internal-data") },
		"too much":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1<<20)) },
	} {
		answerWith(bad)
		p := h.do("POST", verify, "").problem(422)
		require.Equal(t, "#/url", p.Errors[0].Pointer, name)
		require.NotContains(t, p.Error(), "internal-data")
		<-requests
	}
	require.Equal(t, "pending", h.do("GET", "/v1/subscriptions/"+made.str("id"), "").str("state"))

	answerWith(func(w http.ResponseWriter, r *http.Request) { // exactly it, as text
		var body struct{ Type, Challenge string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Errorf("the challenge: %v", err)
		}
		bodies <- body.Type
		fmt.Fprint(w, body.Challenge)
	})
	require.Equal(t, "active", h.do("POST", verify, "").is(200).str("state"))
	require.Equal(t, "endpoint.verification", <-bodies)
	require.Len(t, requests, 1)
	seen := <-requests
	require.Equal(t, "POST", seen.Method)
	require.Equal(t, "/hook?x=1", seen.URL.RequestURI())
	require.Equal(t, "Bearer t0ken", seen.Header.Get("Authorization"))
	require.Equal(t, "crm", seen.Header.Get("X-Team"))
	require.Equal(t, "callstream/dev", seen.Header.Get("User-Agent"), "as deliveries have it")
	require.NotEmpty(t, seen.Header.Get("Webhook-Signature"))

	// A new origin serves only after it has passed.
	other := endpoint(t, obliging)
	path := "/v1/subscriptions/" + made.str("id")
	require.Equal(t, "#/auth/token", h.do("PATCH", path, `{"url":"`+other+`"}`).problem(422).Errors[0].Pointer, "a stored secret goes to no other origin")
	patched := h.do("PATCH", path, `{"url":"`+other+`","auth":{"token":"t0ken"}}`).is(200)
	require.Equal(t, url+"/hook?x=1", patched.str("url"))
	require.Equal(t, other, patched.str("pending_url"))
	require.Equal(t, other, h.do("POST", verify, "").is(200).str("url"))
}

// S0-21: an ack and an admin's word are verifications for admins, on record in the audit log.
func TestVerificationsForAdminsOnly(t *testing.T) {
	samples := make(chan []byte, 10)
	url := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the sample: %v", err)
		}
		samples <- raw
		w.WriteHeader(http.StatusNoContent)
	})
	h := start(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	admin, err := CreateKey(t.Context(), h.cfg, NewKey{Tenant: "acme", Name: "a", Scopes: []string{auth.ScopeAdmin}})
	require.NoError(t, err)
	writer, err := CreateKey(t.Context(), h.cfg, NewKey{Tenant: "acme", Name: "w", Scopes: []string{auth.ScopeSubscriptionsWrite, auth.ScopeSubscriptionsRead}})
	require.NoError(t, err)
	for _, method := range []string{"manual", "ack"} {
		h.key = writer.Plain
		id := h.create(`{"url":"` + url + `","events":["call.ended"],"verification":"` + method + `","activate":false}`).str("id")
		h.do("POST", "/v1/subscriptions/"+id+"/verify", "").problem(http.StatusForbidden)
		h.key = admin.Plain
		require.Equal(t, "paused", h.do("POST", "/v1/subscriptions/"+id+"/verify", "").is(200).str("state"), "it waits for /activate")
		store, err := h.svc.database()
		require.NoError(t, err)
		lines, err := store.Audit(t.Context(), "acme", storage.AuditQuery{ID: id, Limit: 1})
		require.NoError(t, err)
		require.Equal(t, actionVerified, lines[0].Action)
		require.Contains(t, string(lines[0].Detail), `"method":"`+method+`"`)
		require.Equal(t, admin.ID, lines[0].Actor)
		require.Equal(t, "active", h.do("POST", "/v1/subscriptions/"+id+"/activate", "").is(200).str("state"))
	}
	require.Len(t, samples, 1, "manual sends nothing")
	var sample struct{ Type string }
	require.NoError(t, json.Unmarshal(<-samples, &sample))
	require.Equal(t, "call.ended", sample.Type)
}

// S0-21: an endpoint that changes the subscription while it is asked does not get the old URL verified.
func TestAChangeDuringVerification(t *testing.T) {
	h := start(t)
	ids := make(chan string, 1)
	url := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		h.do("PATCH", "/v1/subscriptions/"+<-ids, `{"url":"https://elsewhere.example"}`)
		obliging(w, r)
	})
	id := h.create(`{"url":"` + url + `","events":["*"]}`).str("id")
	ids <- id
	h.do("POST", "/v1/subscriptions/"+id+"/verify", "").problem(http.StatusConflict)
	require.Equal(t, "pending", h.do("GET", "/v1/subscriptions/"+id, "").str("state"))
}

func TestPrivateAddressesAreNotAsked(t *testing.T) {
	var asked atomic.Bool
	url := endpoint(t, func(http.ResponseWriter, *http.Request) { asked.Store(true) })
	h := start(t, func(c *Config, _ *Deps) { c.Egress.AllowPrivate = false })
	id := h.create(`{"url":"` + url + `","events":["*"]}`).str("id")
	h.do("POST", "/v1/subscriptions/"+id+"/verify", "").problem(422)
	require.False(t, asked.Load())
}

// No secret leaves through an answer, the log, the feed or the audit.
func TestSecretsStayInside(t *testing.T) {
	const planted = "planted-53cr3t-value"
	url := endpoint(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	h := start(t)
	var shown strings.Builder
	note := func(a answer) { shown.Write(a.body); fmt.Fprint(&shown, a.header) }
	made := h.create(`{"url":"` + url + `","events":["*"],"auth":{"type":"bearer","token":"` + planted + `"}}`)
	signing := strings.TrimPrefix(made.str("secret"), webhook.PrefixSecret)
	require.NotContains(t, string(made.body), planted)
	path := "/v1/subscriptions/" + made.str("id")
	note(h.do("GET", path, ""))
	note(h.do("GET", "/v1/subscriptions", ""))
	note(h.do("POST", path+"/verify", ""))
	note(h.do("PATCH", path, `{"auth":{"token":"`+planted+`\n"}}`))
	note(h.do("PATCH", path, `{"auth":{"type":"basic","username":"u","password":"`+planted+`"}}`).is(200))
	note(h.do("PATCH", path, `{"auth":{"password":{"set":true}},"request":{"headers":{"Authorization":"`+planted+`"}}}`).is(422))
	note(h.do("PATCH", path, `{"auth":"`+planted+`"}`).is(422))
	note(h.do("POST", "/v1/subscriptions", `{"url":"https://u:`+planted+`@x.example","events":["*"]}`).is(422))
	note(h.do("POST", "/v1/subscriptions", `{"url":"https://x.example","events":["*"],"signing":{"secret":"whsec_`+planted+`"}}`).is(422))
	store, err := h.svc.database()
	require.NoError(t, err)
	lines, err := store.Audit(t.Context(), "default", storage.AuditQuery{Limit: 100})
	require.NoError(t, err)
	for _, l := range lines {
		shown.Write(l.Detail)
	}
	for _, r := range h.feeds.records(feedTopic("subscription")) {
		shown.Write(r.value)
	}
	shown.WriteString(h.logs.String())
	require.NotContains(t, shown.String(), planted)
	require.NotContains(t, shown.String(), signing)
	require.NotContains(t, h.logs.String(), url, "not even where it goes")
}

// Kafka is away: changes are stored and answered 202, reading works, and the change takes effect when Kafka is back.
func TestKafkaIsAway(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.InForceTimeout = 50 * time.Millisecond })
	h.awaitReady()
	away := errors.New("broker away")
	h.feeds.fail(func(string, feedRecord, bool) error { return away })
	made := h.do("POST", "/v1/subscriptions", `{"url":"https://x.example","events":["*"]}`).is(http.StatusAccepted)
	require.NotEmpty(t, made.str("secret"))
	h.do("GET", "/v1/subscriptions/"+made.str("id"), "").is(200)
	require.Eventually(t, func() bool { return errors.Is(h.svc.Ready(), away) }, 10*time.Second, 5*time.Millisecond, "and it says so")
	require.Empty(t, h.subscriptions())
	h.feeds.fail(nil)
	require.Eventually(t, func() bool { return len(h.subscriptions()) == 1 }, 10*time.Second, 5*time.Millisecond)
	h.awaitReady()
}

// A change that is on the feed but not applied by the filter and dispatcher in time is a 202, too.
func TestInForceIsWhereItMatters(t *testing.T) {
	offsets := make(chan int64, 10)
	var late atomic.Bool
	h := start(t, func(_ *Config, d *Deps) {
		d.InForce = func(_ context.Context, offset int64) error {
			offsets <- offset
			if late.Load() {
				return context.DeadlineExceeded
			}
			return nil
		}
	})
	h.create(`{"url":"https://x.example","events":["*"]}`)
	require.EqualValues(t, 1, <-offsets, "everything below it")
	late.Store(true)
	h.do("POST", "/v1/subscriptions", `{"url":"https://x.example","events":["*"]}`).is(http.StatusAccepted)
}

func TestSignals(t *testing.T) {
	h := start(t)
	url := endpoint(t, obliging)
	id := h.create(`{"url":"` + url + `","events":["*"]}`).str("id")
	h.do("POST", "/v1/subscriptions/"+id+"/verify", "").is(200) // version 2
	apply := func(kind string, version int64) string {
		outcome, err := h.svc.applySignal(t.Context(), event.Signal{Kind: kind, Tenant: "default", SubscriptionID: id, SubscriptionVersion: version, Reason: "http_410", At: time.Now()})
		require.NoError(t, err)
		return outcome
	}
	state := func() string { return h.do("GET", "/v1/subscriptions/"+id, "").str("state") }
	require.Equal(t, "stale", apply("disable", 1))
	require.Equal(t, "stale", apply("disable", 0))
	require.Equal(t, "active", state())
	require.Equal(t, "applied", apply("disable", 2))
	require.Equal(t, "stale", apply("disable", 2), "read twice")
	require.Equal(t, "disabled", state())
	require.Equal(t, "http_410", h.do("GET", "/v1/subscriptions/"+id, "").str("state_reason"))
	require.Equal(t, "stale", apply("recover", 3), "it was not failing")
	h.do("POST", "/v1/subscriptions/"+id+"/activate", "").is(200) // version 4
	require.Equal(t, "passed", apply("unheard-of", 4))
	h.do("POST", "/v1/subscriptions/"+id+"/pause", "").is(200) // version 5
	require.Equal(t, "stale", apply("disable", 5), "a person paused it")
	require.Equal(t, "paused", state())
	outcome, err := h.svc.applySignal(t.Context(), event.Signal{Kind: "disable", Tenant: "other", SubscriptionID: id, SubscriptionVersion: 5})
	require.NoError(t, err)
	require.Equal(t, "stale", outcome)
}

func TestTheCatalogueAndTheDocument(t *testing.T) {
	h := start(t, func(_ *Config, d *Deps) {
		d.ExtraPaths = map[string][]byte{"/v1/events": []byte(`{"post":{"summary":"Send events"}}`)}
	})
	var types struct{ Items []struct{ Type string } }
	require.NoError(t, json.Unmarshal(h.do("GET", "/v1/event-types", "").is(200).body, &types))
	require.NotEmpty(t, types.Items)
	one := h.do("GET", "/v1/event-types/call.ended", "").is(200).object()
	require.Equal(t, "call.ended", one["type"])
	require.Contains(t, one, "schema")

	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]any
	}
	raw := h.do("GET", "/openapi.json", "").is(200).body
	require.NoError(t, json.Unmarshal(raw, &doc))
	require.True(t, strings.HasPrefix(doc.OpenAPI, "3.1"))
	for path, methods := range map[string][]string{"/v1/events": {"post"}, "/v1/subscriptions": {"get", "post"}, "/v1/subscriptions/{id}": {"get", "patch", "delete"}, "/v1/subscriptions/{id}/verify": {"post"},
		"/v1/subscriptions/{id}/activate": {"post"}, "/v1/subscriptions/{id}/pause": {"post"}, "/v1/keys": {"get", "post"}, "/v1/keys/{id}": {"delete"}, "/v1/keys/{id}/rotate": {"post"}, "/v1/event-types": {"get"}, "/v1/event-types/{type}": {"get"}} {
		for _, m := range methods {
			require.Contains(t, doc.Paths[path], m, path)
		}
	}
	require.NotContains(t, string(raw), "octet-stream")
	var parts struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				Required   []string
			}
		}
	}
	require.NoError(t, json.Unmarshal(raw, &parts))
	require.NotContains(t, parts.Components.Schemas, "")
	input := parts.Components.Schemas["NewSubscription"]
	require.Equal(t, []string{"url", "events"}, input.Required)
	require.Contains(t, input.Properties, "filter")
	require.NotContains(t, input.Properties, "state")
	require.Empty(t, parts.Components.Schemas["SubscriptionPatch"].Required)
}

// A subscription that names a lane which the installation lacks is refused with those that there are, and not sent through
// another in silence.
func TestALaneIsOneOfTheInstallation(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.Lanes = []string{"standard", "bulk"} })
	id := h.create(`{"url":"https://x.example","events":["*"],"lane":"bulk"}`).str("id")
	for _, p := range []problem.Problem{
		h.do("POST", "/v1/subscriptions", `{"url":"https://x.example","events":["*"],"lane":"nope"}`).problem(422),
		h.do("PATCH", "/v1/subscriptions/"+id, `{"lane":"nope"}`).problem(422),
	} {
		require.Equal(t, []problem.Fault{{Pointer: "#/lane", Detail: "there is no such lane: want one of standard, bulk"}}, p.Errors)
	}
}
