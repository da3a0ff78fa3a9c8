package callstream

import (
	"context"
	"encoding/json"
	"errors"
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
	"github.com/callstream/callstream/pkg/run"
)

// endpoint passes verification, and remembers what it was sent.
type endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	requests []apiRequest
	fails    bool
	before   func() // runs before an answer
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		e.requests = append(e.requests, apiRequest{r.Method, r.URL.Path, r.URL.RawQuery, string(raw), r.Header})
		fails, before := e.fails, e.before
		e.mu.Unlock()
		if before != nil {
			before()
		}
		if fails {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		_, _ = w.Write(raw)
	}))
	t.Cleanup(e.Close)
	return e
}

// declared writes a file with subscriptions, and returns its path.
func declared(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "subscriptions.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func exitStatus(err error) int { return run.Report("callstream", err, io.Discard, io.Discard) }

// P-19: a file, a plan, and what it says done; once more, and there is nothing to do.
func TestApplyMakesSubscriptionsBeAsDeclared(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	t.Setenv("CRM_TOKEN", "t0ken")
	text := `subscriptions:
  - name: CRM
    url: ` + endpoint.URL + `/crm
    events: [call.ended]
    request: {timeout: 5000ms, headers: {X-Team: crm}}
    payload: {extra: {rate: 85.50, big: 123456789012345678901234567890, unit: {name: ~, of: [1, ~]}}}
    ttl: {default: 24h, call.ringing: 60s}
    auth: {type: bearer, token: {env: CRM_TOKEN}}
  - name: Ledger
    url: ` + endpoint.URL + `/ledger
    events: ["call.*"]
    activate: false
`
	file := declared(t, text)
	apply := func(args ...string) result {
		t.Helper()
		return up.run(t, append([]string{"subscriptions", "apply", "-f", file}, args...)...)
	}
	diff := func(args ...string) result {
		t.Helper()
		return up.run(t, append([]string{"subscriptions", "diff", "-f", file}, args...)...)
	}

	r := diff()
	require.Equal(t, 2, exitStatus(r.err))
	require.Contains(t, r.out, "+ CRM  create\n")
	require.Regexp(t, `(?m)^ +request\.headers\.X-Team +"crm"$`, r.out)
	require.NotContains(t, r.out, `"set"`)
	require.Regexp(t, `(?m)^ +auth\.token +secret, from env CRM_TOKEN$`, r.out)
	require.Contains(t, r.out, "2 to create, 0 to change, 0 to delete, 0 as declared.\n")
	require.Nil(t, up.subscription(t, "CRM"), "a diff changes nothing")
	require.Empty(t, endpoint.requests)

	r = apply()
	require.NoError(t, r.err)
	require.Regexp(t, `\+ CRM: created sub_\w+, pending\n  its signing secret, shown this once: whsec_\S+\n! CRM: verified, active\n`, r.out)
	require.Regexp(t, `! Ledger: verified, paused\n`, r.out)
	require.NotContains(t, r.out, "t0ken")
	require.Equal(t, "Bearer t0ken", endpoint.requests[0].header.Get("Authorization"))
	crm := up.subscription(t, "CRM")
	require.Equal(t, "active", crm["state"])

	// Spelled otherwise, and without what is the default anyway: nothing to do.
	for _, command := range []func(...string) result{apply, diff} {
		r = command()
		require.NoError(t, r.err)
		require.Equal(t, "Nothing to do: 2 subscriptions as declared.\n", r.out)
	}
	require.Equal(t, crm, up.subscription(t, "CRM"))

	// What is changed, and what is taken out, which then has its default.
	file = declared(t, strings.NewReplacer("request: {timeout: 5000ms, headers: {X-Team: crm}}", "request: {headers: {X-Team: sales, X.A: b}}",
		"[call.ended]", `[call.ended, "sms.*"]`).Replace(text))
	r = diff()
	require.Equal(t, 2, exitStatus(r.err))
	require.Contains(t, r.out, `~ CRM  change `+crm["id"].(string)+`, version 2
    events                  ["call.ended"] → ["call.ended","sms.*"]
    request.headers.X-Team  "crm" → "sales"
    request.headers.X.A     (none) → "b"
    request.timeout         "5s" → "10s"
    auth.token              secret, sent again from env CRM_TOKEN (whether it changed can't be told)

0 to create, 1 to change, 0 to delete, 1 as declared.
`)
	require.Equal(t, crm, up.subscription(t, "CRM"))
	t.Setenv("CRM_TOKEN", "t0ken2")
	require.NoError(t, apply().err)
	changed := up.subscription(t, "CRM")
	require.Equal(t, map[string]any{"X-Team": "sales", "X.A": "b"}, changed["request"].(map[string]any)["headers"])
	require.EqualValues(t, 3, changed["version"], "one change in all")
	require.Equal(t, "Nothing to do: 2 subscriptions as declared.\n", apply().out)

	// Renamed: it is the same one.
	file = declared(t, strings.Replace(text, "name: CRM", "name: Customers\n    was: CRM", 1))
	r = apply()
	require.NoError(t, r.err)
	require.Regexp(t, `(?m)^ +name +"CRM" → "Customers"$`, r.out)
	require.Equal(t, crm["id"], up.subscription(t, "Customers")["id"])
	require.Equal(t, "Nothing to do: 2 subscriptions as declared.\n", apply().out)

	// What is in no file is only deleted when that is asked for.
	file = declared(t, strings.Replace(text[:strings.Index(text, "  - name: Ledger")], "name: CRM", "name: Customers", 1))
	r = apply()
	require.NoError(t, r.err)
	require.Equal(t, "Nothing to do: 1 subscription as declared.\n1 subscription in none of the files; with --prune they would be deleted.\n", r.out)
	require.Equal(t, 2, exitStatus(diff("--prune").err))
	require.NotNil(t, up.subscription(t, "Ledger"))
	r = apply("--prune")
	require.NoError(t, r.err)
	require.Contains(t, r.out, "- Ledger: deleted\n")
	require.Nil(t, up.subscription(t, "Ledger"))
}

// S1-08, P-19: secrets are sent with what changes, or when that is asked for, and nothing is changed without them.
func TestApplySendsSecrets(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	text := `subscriptions:
  - {name: Open, url: ` + endpoint.URL + `/open, events: ["call.*"]}
  - name: CRM
    url: ` + endpoint.URL + `/crm
    events: ["call.*"]
    auth: {type: api_key, header: X-Key, value: {file: key}}
    signing: {secret: {env: CRM_SIGNING}}
`
	file := declared(t, text)
	r := up.run(t, "subscriptions", "apply", "-f", file)
	require.EqualError(t, r.err, "nothing was changed:\n"+
		file+":6: subscriptions[1].auth.value: "+filepath.Join(filepath.Dir(file), "key")+": no such file or directory\n"+
		file+":7: subscriptions[1].signing.secret: the environment variable CRM_SIGNING is not set")
	require.Nil(t, up.subscription(t, "Open"))
	require.Equal(t, 2, exitStatus(up.run(t, "subscriptions", "diff", "-f", file).err), "a diff needs no secret")

	write := func(secret string) {
		require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(file), "key"), []byte(secret+"\n"), 0o600))
	}
	write("one")
	t.Setenv("CRM_SIGNING", testSecret)
	kept := filepath.Join(t.TempDir(), "secrets.jsonl")
	r = up.run(t, "subscriptions", "apply", "-f", file, "--secrets-out", kept)
	require.NoError(t, r.err)
	require.NotContains(t, r.out, "whsec_")
	info, err := os.Stat(kept)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	var line struct{ Name, ID, Secret string }
	require.NoError(t, json.Unmarshal(must(os.ReadFile(kept)), &line), "one: the secret of CRM is known already")
	require.Equal(t, "Open", line.Name)
	require.True(t, strings.HasPrefix(line.Secret, "whsec_"))
	last := endpoint.requests[len(endpoint.requests)-1]
	require.Equal(t, "one", last.header.Get("X-Key"))

	// A file that others can read takes no secrets, and nothing is made whose secret would be lost.
	require.NoError(t, os.Chmod(kept, 0o644))
	more := declared(t, strings.Replace(text, "Open", "More", 1)[:strings.Index(text, "  - name: CRM")])
	r = up.run(t, "subscriptions", "apply", "-f", more, "--secrets-out", kept)
	require.ErrorContains(t, r.err, "chmod 600")
	require.Nil(t, up.subscription(t, "More"))

	// A secret that changed is no difference, as it can't be read back; it can be sent all the same.
	write("two")
	require.NoError(t, up.run(t, "subscriptions", "diff", "-f", file).err)
	r = up.run(t, "subscriptions", "diff", "-f", file, "--rotate-credentials")
	require.Equal(t, 2, exitStatus(r.err))
	require.Regexp(t, `(?m)^ +auth\.value +secret, sent again from file key`, r.out)
	require.NoError(t, up.run(t, "subscriptions", "apply", "-f", file, "--rotate-credentials").err)
	require.NoError(t, up.run(t, "subscriptions", "verify", up.subscription(t, "CRM")["id"].(string)).err)
	last = endpoint.requests[len(endpoint.requests)-1]
	require.Equal(t, "two", last.header.Get("X-Key"))
}

// P-19, P-11: an endpoint that fails its verification is tried again by the next apply.
func TestApplyVerifies(t *testing.T) {
	up, endpoint, other := startUp(t), newEndpoint(t), newEndpoint(t)
	file := declared(t, `subscriptions: [{name: CRM, url: `+endpoint.URL+`, events: ["call.*"]}]`)
	endpoint.fails = true
	r := up.run(t, "subscriptions", "apply", "-f", file)
	require.ErrorContains(t, r.err, "1 subscription failed\nCRM: the endpoint did not pass verification (it is pending; apply again")
	require.ErrorContains(t, r.err, file+":1: subscriptions[0].url: the endpoint answered 418")
	require.Equal(t, 1, exitStatus(r.err))
	require.Contains(t, r.out, "whsec_", "there is no other time to show it")

	require.NoError(t, up.run(t, "subscriptions", "diff", "-f", file, "--verify=false").err)
	r = up.run(t, "subscriptions", "diff", "-f", file)
	require.Equal(t, 2, exitStatus(r.err))
	require.Contains(t, r.out, "! CRM  verify sub_")
	require.Contains(t, r.out, ", 1 to verify, 0 as declared.")
	endpoint.fails = false
	r = up.run(t, "subscriptions", "apply", "-f", file)
	require.NoError(t, r.err)
	require.Contains(t, r.out, "! CRM: verified, active\n")

	// Another origin has to pass too. While it waits it is what was asked for: no difference, but something to do.
	file = declared(t, `subscriptions: [{name: CRM, url: `+other.URL+`, events: ["call.*"]}]`)
	require.NoError(t, up.run(t, "subscriptions", "apply", "-f", file, "--verify=false").err)
	require.Equal(t, endpoint.URL, up.subscription(t, "CRM")["url"])
	require.NoError(t, up.run(t, "subscriptions", "diff", "-f", file, "--verify=false").err)
	require.Equal(t, 2, exitStatus(up.run(t, "subscriptions", "diff", "-f", file).err))
	require.NoError(t, up.run(t, "subscriptions", "apply", "-f", file).err)
	require.Equal(t, other.URL, up.subscription(t, "CRM")["url"])
	require.NoError(t, up.run(t, "subscriptions", "diff", "-f", file).err)
}

// P-19: what someone else changes meanwhile is left as it is, and stops nothing else.
func TestApplyOverwritesNobodysChange(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	before := `  - {name: A, url: ` + endpoint.URL + `, events: ["call.*"]}
  - {name: Gone, url: ` + endpoint.URL + `, events: ["call.*"]}
  - {name: B, url: ` + endpoint.URL + `, events: ["call.*"]}
`
	require.NoError(t, up.run(t, "subscriptions", "apply", "-f", declared(t, "subscriptions:\n"+before)).err)
	a, gone := up.subscription(t, "A")["id"].(string), up.subscription(t, "Gone")["id"].(string)
	// While the first one is created, someone else is at work.
	var once sync.Once
	endpoint.before = func() {
		once.Do(func() {
			if err := errors.Join(up.run(t, "subscriptions", "update", a, "--filter", "event.data.score > 1.0").err, up.run(t, "subscriptions", "delete", gone).err); err != nil {
				t.Error(err)
			}
		})
	}
	file := declared(t, "subscriptions:\n  - {name: New, url: "+endpoint.URL+", events: ['call.*']}\n"+strings.ReplaceAll(before, `["call.*"]`, "[call.ended]"))
	r := up.run(t, "subscriptions", "apply", "-f", file, "--json")
	require.ErrorContains(t, r.err, "2 subscriptions failed\nA: someone else changed it since it was compared, so it was left as it is: apply again\nGone: someone else deleted it")
	require.Equal(t, 1, exitStatus(r.err))
	var report struct{ Subscriptions []outcome }
	require.NoError(t, json.Unmarshal([]byte(r.out), &report))
	results := map[string]string{}
	for _, o := range report.Subscriptions {
		results[o.Name] = o.Result
	}
	require.Equal(t, map[string]string{"New": "done", "A": "failed", "Gone": "failed", "B": "done"}, results)
	require.True(t, strings.HasPrefix(report.Subscriptions[0].Secret, "whsec_"))
	require.Equal(t, []any{"call.*"}, up.subscription(t, "A")["events"])
	require.Equal(t, []any{"call.ended"}, up.subscription(t, "B")["events"])

	r = up.run(t, "subscriptions", "apply", "-f", file)
	require.NoError(t, r.err)
	require.Regexp(t, `(?m)^ +filter +"event.data.score > 1.0" → \(none\)$`, r.out)
	require.Equal(t, []any{"call.ended"}, up.subscription(t, "Gone")["events"])

	// A name that two have says of neither which one is meant.
	require.NoError(t, up.run(t, "subscriptions", "create", "--name", "B", "--url", endpoint.URL, "--events", "call.*").err)
	r = up.run(t, "subscriptions", "apply", "-f", file)
	require.ErrorContains(t, r.err, file+":5: subscriptions[3].name: it is the name of several subscriptions, sub_")
}

func TestApplyTakesFoldersAndStandardInput(t *testing.T) {
	a := newAPI(t, func(r apiRequest) (int, any) {
		if r.method == http.MethodGet {
			return 200, map[string]any{"items": []any{}}
		}
		return 0, problem.New(422, "the subscription has faults", problem.Fault{Pointer: "#/url", Detail: "want https"})
	})
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": `subscriptions: [{name: A, url: https://a.example.com, events: ["call.*"]}]`,
		"b.json": `{"subscriptions": [{"name": "B", "url": "https://b.example.com", "events": ["call.*"]}]}`,
		"c.txt":  "no",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	r := commandIn(t.Context(), "subscriptions:\n  - name: C\n    events: ['call.*']\n    url: http://c.example.com\n", "subscriptions", "diff", "-f", dir, "-f", "-", "--api", a.URL, "--json")
	require.Equal(t, 2, exitStatus(r.err))
	var plan struct {
		Subscriptions []struct{ Action, Name, File string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &plan))
	require.Len(t, plan.Subscriptions, 3)
	require.Equal(t, "standard input", plan.Subscriptions[2].File)

	// What only the API can find wrong has its place in the file too.
	r = commandIn(t.Context(), "subscriptions:\n  - name: C\n    events: ['call.*']\n    url: http://c.example.com\n", "subscriptions", "apply", "-f", "-", "--api", a.URL)
	require.EqualError(t, r.err, "1 subscription failed\nC: the subscription has faults\n  standard input:4: subscriptions[0].url: want https")

	require.ErrorContains(t, a.run(t, "subscriptions", "diff", "-f", filepath.Join(dir, "gone")).err, "no such file")
	require.ErrorContains(t, a.run(t, "subscriptions", "diff", "-f", t.TempDir()).err, "has no *.yaml")
	require.ErrorContains(t, a.run(t, "subscriptions", "diff").err, "file")
	require.Equal(t, 1, exitStatus(a.run(t, "subscriptions", "diff", "-f", filepath.Join(dir, "c.txt")).err))
}

// P-19: an interrupted apply says what it has left undone.
func TestApplyIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a := newAPI(t, func(r apiRequest) (int, any) {
		if r.method == http.MethodGet {
			return 200, map[string]any{"items": []any{}}
		}
		cancel()
		return 201, aSubscription
	})
	file := declared(t, "subscriptions:\n  - {name: A, url: https://a.example.com, events: ['call.*']}\n  - {name: B, url: https://b.example.com, events: ['call.*']}\n")
	r := commandIn(ctx, "", "subscriptions", "apply", "-f", file, "--api", a.URL, "--json")
	require.ErrorContains(t, r.err, "interrupted")
	require.Equal(t, 1, exitStatus(r.err))
	require.Len(t, a.requests, 2)
	require.Contains(t, r.out, `"result": "left"`)
}
