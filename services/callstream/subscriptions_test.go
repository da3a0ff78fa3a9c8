package callstream

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/problem"
)

// api answers each request with what a test says, and remembers them.
type api struct {
	*httptest.Server
	mu       sync.Mutex
	requests []apiRequest
}

type apiRequest struct {
	method, path, query, body string
	header                    http.Header
}

func newAPI(t *testing.T, answer func(apiRequest) (int, any)) *api {
	t.Helper()
	a := &api{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		req := apiRequest{r.Method, r.URL.Path, r.URL.RawQuery, string(raw), r.Header}
		a.mu.Lock()
		a.requests = append(a.requests, req)
		a.mu.Unlock()
		status, body := answer(req)
		if p, ok := body.(*problem.Problem); ok {
			problem.Write(w, p)
			return
		}
		w.WriteHeader(status)
		if body != nil {
			_ = json.NewEncoder(w).Encode(body)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

// run runs a command line against the API.
func (a *api) run(t *testing.T, args ...string) result {
	t.Helper()
	return commandIn(t.Context(), "", append(args, "--api", a.URL)...)
}

var aSubscription = map[string]any{
	"id": "sub_1", "tenant": "acme", "name": "CRM", "url": "https://crm.example.com/hooks", "state": "active", "version": 3,
	"events": []string{"call.*"}, "filter": "event.data.score > 1.0", "created_at": "2026-03-02T12:00:00Z",
	"payload": map[string]any{"profile": "standard"}, "request": map[string]any{"timeout": "10s"}, "max_in_flight": 32,
}

func TestSubscriptionsCreateSendsWhatTheFlagsSay(t *testing.T) {
	a := newAPI(t, func(apiRequest) (int, any) {
		s := map[string]any{"secret": "whsec_x"}
		for k, v := range aSubscription {
			s[k] = v
		}
		return http.StatusCreated, s
	})
	r := a.run(t, "subscriptions", "create", "--url", "http://127.0.0.1:9000/", "--events", "call.*,transcript.ready", "--name", "CRM",
		"--filter", "event.data.x == 'a,b'", "--profile", "post-call", "--header", "X-Team: crm", "--header", "X-B:  c: d", "--timeout", "3s",
		"--retry-schedule", "1s,2s", "--activate=false", "--max-in-flight", "4", "--tenant", "acme", "--key", "cs_k",
		"--rate-limit", "50", "--frequency", `{"per":"call","max":1,"window":"10m"}`, "--ordering", "none", "--fallback-url", "http://127.0.0.1:9001/", "--batch", `{"max_events":9,"max_wait":"1s"}`)
	require.NoError(t, r.err)
	require.Contains(t, r.out, "Created sub_1: active.")
	require.Contains(t, r.out, "whsec_x")
	req := a.requests[0]
	require.Equal(t, "POST /v1/subscriptions", req.method+" "+req.path)
	require.Equal(t, "application/json", req.header.Get("Content-Type"))
	require.Equal(t, "Bearer cs_k", req.header.Get("Authorization"))
	require.Equal(t, "acme", req.header.Get("X-Tenant"))
	require.JSONEq(t, `{"url":"http://127.0.0.1:9000/","events":["call.*","transcript.ready"],"name":"CRM","filter":"event.data.x == 'a,b'",
		"payload":{"profile":"post-call"},"request":{"timeout":"3s","headers":{"X-Team":"crm","X-B":"c: d"}},
		"retry":{"schedule":["1s","2s"]},"activate":false,"max_in_flight":4,
		"rate_limit":{"per_second":50},"frequency":{"per":"call","max":1,"window":"10m"},"ordering":"none","fallback_url":"http://127.0.0.1:9001/","batch":{"max_events":9,"max_wait":"1s"}}`, req.body)
}

func TestSubscriptionsCreateVerifies(t *testing.T) {
	passes := true
	a := newAPI(t, func(r apiRequest) (int, any) {
		s := map[string]any{}
		for k, v := range aSubscription {
			s[k] = v
		}
		if r.path == "/v1/subscriptions" {
			s["state"], s["secret"] = "pending", "whsec_x"
			return http.StatusCreated, s
		}
		if !passes {
			return 0, problem.New(http.StatusUnprocessableEntity, "the endpoint did not pass verification")
		}
		return http.StatusOK, s
	})
	r := a.run(t, "subscriptions", "create", "--url", "http://127.0.0.1:9000/", "--events", "*")
	require.NoError(t, r.err)
	require.Equal(t, "Created sub_1: active.\nIts signing secret, shown this once:\n  whsec_x\n", r.out)
	require.Equal(t, "/v1/subscriptions/sub_1/verify", a.requests[1].path)

	r = a.run(t, "subscriptions", "create", "--url", "http://127.0.0.1:9000/", "--events", "*", "--json")
	require.NoError(t, r.err)
	var got subscriptionView
	require.NoError(t, json.Unmarshal([]byte(r.out), &got))
	require.Equal(t, "active", got.State)
	require.Equal(t, "whsec_x", got.Secret)

	r = a.run(t, "subscriptions", "create", "--url", "http://127.0.0.1:9000/", "--events", "*", "--verify=false")
	require.NoError(t, r.err)
	require.Contains(t, r.out, "callstream subscriptions verify sub_1")

	passes = false
	r = a.run(t, "subscriptions", "create", "--url", "http://127.0.0.1:9000/", "--events", "*")
	require.ErrorContains(t, r.err, "did not pass verification")
	require.Contains(t, r.out, "whsec_x", "there is no other time to show it")
	require.Contains(t, r.out, "callstream subscriptions verify sub_1")
}

func TestSubscriptionsCreateTakesAFileWithFlagsOverIt(t *testing.T) {
	a := newAPI(t, func(apiRequest) (int, any) { return http.StatusCreated, aSubscription })
	file := filepath.Join(t.TempDir(), "s.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"url":"https://a.example.com","events":["*"],"auth":{"type":"bearer","token":"t"},"request":{"method":"POST"}}`), 0o600))
	require.NoError(t, a.run(t, "subscriptions", "create", "-f", file, "--events", "call.ended", "--timeout", "5s").err)
	require.JSONEq(t, `{"url":"https://a.example.com","events":["call.ended"],"auth":{"type":"bearer","token":"t"},"request":{"method":"POST","timeout":"5s"}}`, a.requests[0].body)

	r := commandIn(t.Context(), `{"url":"https://b.example.com","events":["*"]}`, "subscriptions", "create", "-f", "-", "--api", a.URL)
	require.NoError(t, r.err)
	require.JSONEq(t, `{"url":"https://b.example.com","events":["*"]}`, a.requests[1].body)
	require.ErrorContains(t, commandIn(t.Context(), `[1]`, "subscriptions", "create", "-f", "-").err, "not a JSON object")
	require.Error(t, command(t, "subscriptions", "create", "-f", file+".gone").err)
}

func TestSubscriptionsListReadsEveryPage(t *testing.T) {
	a := newAPI(t, func(r apiRequest) (int, any) {
		if strings.Contains(r.query, "cursor=next") {
			return 200, map[string]any{"items": []any{map[string]any{"id": "sub_2", "state": "paused", "url": "https://b", "name": "x\x1b[2J"}}}
		}
		return 200, map[string]any{"items": []any{aSubscription}, "next_cursor": "next"}
	})
	r := a.run(t, "subscriptions", "list")
	require.NoError(t, r.err)
	require.Contains(t, r.out, "sub_1")
	require.Contains(t, r.out, "sub_2")
	require.NotContains(t, r.out, "\x1b")
	require.Equal(t, 3, strings.Count(r.out, "\n"))
	r = a.run(t, "subs", "ls", "--json")
	var page struct{ Items []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(r.out), &page))
	require.Len(t, page.Items, 2)

	none := newAPI(t, func(apiRequest) (int, any) { return 200, map[string]any{"items": []any{}} })
	require.Contains(t, none.run(t, "subscriptions", "list").out, "There are no subscriptions")
}

func TestSubscriptionsGetUpdateAndAct(t *testing.T) {
	a := newAPI(t, func(r apiRequest) (int, any) {
		if r.method == http.MethodDelete {
			return http.StatusNoContent, nil
		}
		return http.StatusOK, aSubscription
	})
	r := a.run(t, "subscriptions", "get", "sub_1")
	require.NoError(t, r.err)
	require.Regexp(t, `(?m)^filter +event.data.score > 1.0$`, r.out)
	r = a.run(t, "subscriptions", "get", "sub_1", "--json")
	require.NoError(t, r.err)
	require.JSONEq(t, string(must(json.Marshal(aSubscription))), r.out)

	require.NoError(t, a.run(t, "subscriptions", "update", "sub_1", "--name", "", "--if-version", "3").err)
	last := a.requests[len(a.requests)-1]
	require.Equal(t, "PATCH /v1/subscriptions/sub_1", last.method+" "+last.path)
	require.Equal(t, `"3"`, last.header.Get("If-Match"))
	require.Equal(t, "application/merge-patch+json", last.header.Get("Content-Type"))
	require.JSONEq(t, `{"name":""}`, last.body)

	for _, action := range []string{"verify", "activate", "pause"} {
		r := a.run(t, "subscriptions", action, "sub_1")
		require.NoError(t, r.err)
		require.Equal(t, "sub_1 is active.\n", r.out)
		last := a.requests[len(a.requests)-1]
		require.Equal(t, "POST /v1/subscriptions/sub_1/"+action, last.method+" "+last.path)
	}
	r = a.run(t, "subscriptions", "delete", "sub_1", "a/b")
	require.NoError(t, r.err)
	require.Equal(t, "Deleted sub_1.\nDeleted a/b.\n", r.out)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestProblemsAreShownWithEveryFaultAndItsPlace(t *testing.T) {
	a := newAPI(t, func(apiRequest) (int, any) {
		return 0, problem.New(http.StatusUnprocessableEntity, "the subscription has faults",
			problem.Fault{Pointer: "#/events/0", Detail: "there is no such type"}, problem.Fault{Pointer: "#/filter", Detail: "1:3: syntax error\n | a b\n | ..^"})
	})
	r := a.run(t, "subscriptions", "create", "--url", "x", "--events", "nope")
	require.EqualError(t, r.err, `422 Unprocessable Entity: the subscription has faults
  #/events/0: there is no such type
  #/filter: 1:3: syntax error
     | a b
     | ..^`)
	var p *problem.Problem
	require.ErrorAs(t, r.err, &p)
	require.Len(t, p.Errors, 2)
}

func TestWhatIsNoProblemDocumentIsShownToo(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<h1>proxy</h1>", http.StatusBadGateway) }))
	defer plain.Close()
	require.EqualError(t, command(t, "subscriptions", "list", "--api", plain.URL).err, "502 Bad Gateway: <h1>proxy</h1>")

	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer html.Close()
	require.ErrorContains(t, command(t, "subscriptions", "list", "--api", html.URL).err, "is "+html.URL+" the right address?")
	html.Close()
	require.ErrorContains(t, command(t, "subscriptions", "list", "--api", html.URL).err, "--api")
}

func TestKeysCreateAdminWorksOnTheDatabaseItself(t *testing.T) {
	dir := t.TempDir()
	create := func(args ...string) result {
		return command(t, append([]string{"keys", "create", "--admin", "--data-dir", dir}, args...)...)
	}
	r := create("--tenant", "acme", "--name", "first", "--json", "--expires-in", "1h")
	require.NoError(t, r.err)
	var k keyView
	require.NoError(t, json.Unmarshal([]byte(r.out), &k))
	require.Equal(t, "acme", k.Tenant)
	require.Equal(t, []string{"admin"}, k.Scopes)
	require.True(t, strings.HasPrefix(k.Key, "cs_"))
	require.NotEmpty(t, k.ExpiresAt)
	// What is kept is the hash: the file doesn't hold the key.
	for _, name := range must(os.ReadDir(dir)) {
		require.NotContains(t, string(must(os.ReadFile(filepath.Join(dir, name.Name())))), k.Key)
	}
	r = create("--tenant", "acme", "--scopes", "events:write")
	require.NoError(t, r.err)
	require.Contains(t, r.out, "of tenant acme, for events:write")
	require.ErrorContains(t, create().err, "--tenant")
	require.ErrorContains(t, create("--tenant", "a/b").err, "tenant")
	require.ErrorContains(t, create("--tenant", "a", "--name", "").err, "#/name")
	require.ErrorContains(t, create("--tenant", "a", "--database-url", "mysql://x").err, "postgres://")
}

func TestKeys(t *testing.T) {
	key := map[string]any{"id": "key_1", "tenant": "acme", "name": "dialer", "scopes": []string{"events:write"}, "key": "cs_secret", "created_at": "2026-03-02T12:00:00Z"}
	a := newAPI(t, func(r apiRequest) (int, any) {
		switch r.method {
		case http.MethodGet:
			return 200, map[string]any{"items": []any{key}}
		case http.MethodDelete:
			return 204, nil
		}
		return 201, key
	})
	r := a.run(t, "keys", "create", "--name", "dialer", "--scopes", "events:write,replay", "--expires-in", "24h")
	require.NoError(t, r.err)
	require.Contains(t, r.out, "key_1 of tenant acme")
	require.Contains(t, r.out, "cs_secret")
	var sent map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.requests[0].body), &sent))
	require.Equal(t, []any{"events:write", "replay"}, sent["scopes"])
	require.NotEmpty(t, sent["expires_at"])
	require.Contains(t, a.run(t, "keys", "list").out, "key_1")
	require.Contains(t, a.run(t, "keys", "rotate", "key_1").out, "cs_secret")
	require.Equal(t, "Revoked key_1.\n", a.run(t, "keys", "delete", "key_1").out)
	last := a.requests[len(a.requests)-1]
	require.Equal(t, "DELETE /v1/keys/key_1", last.method+" "+last.path)
}
