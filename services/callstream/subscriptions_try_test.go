package callstream

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/webhook"
)

// created makes a subscription from the command line, and returns what the API answered.
func (i *installation) created(t *testing.T, args ...string) subscriptionView {
	t.Helper()
	r := i.run(t, append([]string{"subscriptions", "create", "--json"}, args...)...)
	require.NoError(t, r.err)
	var s subscriptionView
	require.NoError(t, json.Unmarshal([]byte(r.out), &s))
	return s
}

// S1-15, S3-17: a person tries a subscription out with a sample, with an event of their own, and without sending anything.
func TestSubscriptionsAreTriedOut(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	t.Setenv("CRM_KEY", "s3cret")
	id := up.created(t, "--url", endpoint.URL+"/hooks", "--events", "call.*,sms.sent", "--profile", "dialer", "--extra", `{"rate": 85.50}`, "--header", "X-Team: crm",
		"--route", "call.started=/started", "--exclude", "data.transcript_text", "--auth", "api_key", "--auth-header", "X-Key", "--auth-secret", "env:CRM_KEY",
		"--filter", "event.data.direction == 'inbound'", "--signing", "ed25519").ID
	endpoint.requests = nil

	r := up.run(t, "subscriptions", "test", id, "--type", "call.started")
	require.NoError(t, r.err)
	require.Len(t, endpoint.requests, 1)
	got := endpoint.requests[0]
	require.Equal(t, "/hooks/started", got.path)
	require.Equal(t, "s3cret", got.header.Get("X-Key"))
	require.Contains(t, got.body, `"rate":85.50`)
	require.NotContains(t, r.out, "s3cret")
	require.Contains(t, r.out, "POST "+endpoint.URL+"/hooks/started\n")
	require.Contains(t, r.out, "x-team: crm\n")
	require.Contains(t, r.out, "\n200 OK\n")
	require.Regexp(t, `call.started of \S+: connected after [\d.]+ ms, first byte after [\d.]+ ms, [\d.]+ ms in all\.`, r.out)

	// What the endpoint does not take is the command's failure too.
	endpoint.fails = true
	r = up.run(t, "subscriptions", "test", id)
	require.ErrorIs(t, r.err, errTestFailed)
	require.Contains(t, r.out, "\n418 I'm a teapot\n")
	r = up.run(t, "subscriptions", "test", id, "--json")
	require.ErrorIs(t, r.err, errTestFailed)
	var v testView
	require.NoError(t, json.Unmarshal([]byte(r.out), &v))
	require.Equal(t, 418, v.Status)
	endpoint.fails = false
	sent := len(endpoint.requests)

	event := filepath.Join(t.TempDir(), "event.json")
	write := func(text string) { require.NoError(t, os.WriteFile(event, []byte(text), 0o600)) }
	write(`{"type": "call.ended", "call_id": "c-1", "data": {"direction": "outbound"}}`)
	r = up.run(t, "subscriptions", "test", id, "--event", event)
	require.NoError(t, r.err)
	require.Contains(t, r.out, "As an event of its own it would not have been sent: filtered")
	r = up.run(t, "subscriptions", "preview", id, "--event", event)
	require.NoError(t, r.err)
	require.Contains(t, r.out, "It would not be sent: filtered")
	write(`{"type": "call.ended", "call_id": "c-1", "data": {"direction": "inbound"}}`)
	r = up.run(t, "subscriptions", "preview", id, "--event", event)
	require.NoError(t, r.err)
	require.Contains(t, r.out, "POST "+endpoint.URL+"/hooks\n")
	require.Contains(t, r.out, `"rate":85.50`)
	require.NotContains(t, r.out, "s3cret")
	require.Len(t, endpoint.requests, sent+1, "a preview sends nothing")

	document := filepath.Join(t.TempDir(), "subscription.json")
	require.NoError(t, os.WriteFile(document, []byte(`{"url": "https://a.example.com/", "events": ["sms.*"]}`), 0o600))
	require.Contains(t, up.run(t, "subscriptions", "preview", "-f", document, "--event", event).out, "It would not be sent: type")
	require.Contains(t, up.run(t, "subscriptions", "preview", "-f", document, "--type", "sms.sent").out, "POST https://a.example.com/\n")

	write("no")
	for _, args := range [][]string{{"test", id, "--event", event}, {"preview", id, "-f", document}, {"preview"}, {"test", id, "--type", "a", "--event-id", "b"}, {"preview", "-f", event}} {
		require.Error(t, up.run(t, append([]string{"subscriptions"}, args...)...).err, "%v", args)
	}
}

// P-10: the new key is shown once, and signs beside the one before.
func TestSubscriptionsRotateSecret(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	s := up.created(t, "--url", endpoint.URL, "--events", "call.*")
	r := up.run(t, "subscriptions", "rotate-secret", s.ID, "--overlap", "1h")
	require.NoError(t, r.err)
	require.Contains(t, r.out, "The one before signs as well until ")
	lines := strings.Split(r.out, "\n")
	next := strings.TrimSpace(lines[2])
	require.True(t, strings.HasPrefix(next, "whsec_"), r.out)
	endpoint.requests = nil
	require.NoError(t, up.run(t, "subscriptions", "test", s.ID).err)
	for _, secret := range []string{s.Secret, next} {
		v, err := webhook.NewVerifier(secret)
		require.NoError(t, err)
		require.NoError(t, v.Verify(endpoint.requests[0].header, []byte(endpoint.requests[0].body), time.Now()))
	}
	require.Contains(t, up.run(t, "subscriptions", "get", s.ID).out, "key before until")

	// Another scheme: its public key is shown, and back again a new secret.
	r = up.run(t, "subscriptions", "update", s.ID, "--signing", "ed25519")
	require.NoError(t, r.err)
	require.Regexp(t, `(?m)^public key +whpk_`, r.out)
	r = up.run(t, "subscriptions", "update", s.ID, "--signing", "hmac")
	require.NoError(t, r.err)
	require.Contains(t, r.out, "Its signing secret, shown this once:\n  whsec_")
	require.Error(t, up.run(t, "subscriptions", "rotate-secret", s.ID, "--overlap", "soon").err)
}

func TestSubscriptionsAuthFlags(t *testing.T) {
	a := newAPI(t, func(apiRequest) (int, any) { return 201, aSubscription })
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s3cret\n"), 0o600))
	for typ, want := range map[string]string{
		"bearer": `{"type":"bearer","token":"s3cret"}`, "basic": `{"type":"basic","password":"s3cret"}`, "api_key": `{"type":"api_key","value":"s3cret"}`,
		"oauth2": `{"type":"oauth2","client_secret":"s3cret"}`, "mtls": `{"type":"mtls","private_key":"s3cret","certificate":"s3cret\n"}`,
	} {
		args := []string{"subscriptions", "create", "--auth", typ, "--auth-secret", "file:" + filepath.Join(dir, "secret")}
		if typ == "mtls" {
			args = append(args, "--auth-certificate", filepath.Join(dir, "secret"))
		}
		require.NoError(t, a.run(t, args...).err)
		require.JSONEq(t, `{"auth":`+want+`}`, a.requests[len(a.requests)-1].body)
	}
	for _, args := range [][]string{{"--auth-secret", "s3cret"}, {"--auth", "bearer", "--auth-secret", "s3cret"}, {"--auth", "none", "--auth-secret", "env:X"},
		{"--auth", "bearer", "--auth-secret", "env:"}, {"--auth", "bearer", "--auth-secret", "env:NOT_SET_ANYWHERE"}, {"--auth-certificate", filepath.Join(dir, "gone")},
		{"--extra", "[1]"}, {"--extra", "null"}, {"--extra", "{} {}"}, {"--route", "=/x"}} {
		r := a.run(t, append([]string{"subscriptions", "create"}, args...)...)
		require.Error(t, r.err, "%v", args)
		require.NotContains(t, r.err.Error(), "s3cret")
	}
}

// S4-02, P-19: the per-agent shorthand, which no pruning takes away.
func TestAgentSettings(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	r := up.run(t, "agents", "settings", "set", "a/9", "--post-call", endpoint.URL+"/calls")
	require.NoError(t, r.err)
	require.Regexp(t, `^The post-call reports of a/9 go to `+endpoint.URL+`/calls \(sub_\w+\)\.\nIts signing secret, shown this once:\n  whsec_`, r.out)
	r = up.run(t, "agents", "settings", "get", "a/9")
	require.NoError(t, r.err)
	require.NotContains(t, r.out, "whsec_")
	require.Contains(t, up.run(t, "agents", "settings", "get", "a/9", "--json").out, `"postCall": "`+endpoint.URL+`/calls"`)

	// Its look-alike was made by hand, and is in no file.
	up.created(t, "--name", "By hand", "--url", endpoint.URL+"/calls", "--events", "call.report", "--agents", "a/9", "--profile", "post-call")
	file := declared(t, "subscriptions: []")
	r = up.run(t, "subscriptions", "apply", "-f", file, "--prune")
	require.NoError(t, r.err)
	require.Contains(t, r.out, "- By hand: deleted\n")
	require.Contains(t, r.out, "0 to create, 0 to change, 1 to delete")
	require.Contains(t, up.run(t, "agents", "settings", "get", "a/9").out, endpoint.URL)

	require.NoError(t, up.run(t, "agents", "settings", "set", "a/9", "--no-post-call").err)
	require.Contains(t, up.run(t, "agents", "settings", "get", "a/9").out, "go nowhere of their own")
	require.ErrorContains(t, up.run(t, "agents", "settings", "set", "a/9").err, "--post-call")
	require.ErrorContains(t, up.run(t, "agents", "settings", "set", "a/9", "--post-call", "nonsense").err, "#/webhooks/postCall")
}

// S1-18: who changed what, and a list that can be searched.
func TestAuditAndSearch(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	crm := up.created(t, "--name", "CRM", "--url", endpoint.URL+"/crm", "--events", "call.ended", "--position", "2")
	up.created(t, "--name", "Ledger", "--url", endpoint.URL+"/ledger", "--events", "sms.*", "--position", "1")
	require.NoError(t, up.run(t, "subscriptions", "update", crm.ID, "--filter", "event.data.score > 1.0").err)
	require.NoError(t, up.run(t, "subscriptions", "pause", crm.ID).err)

	r := up.run(t, "audit", "--id", crm.ID)
	require.NoError(t, r.err)
	require.Regexp(t, `(?s)paused.*updated.*verified.*created`, r.out)
	require.Regexp(t, `updated +`+crm.ID+` +3 .*/filter`, r.out)
	require.NotContains(t, r.out, "event.data.score", "places of members, never their values")
	require.Contains(t, up.run(t, "audit", "--until", "1h").out, "Nothing like that")
	require.NotContains(t, up.run(t, "audit", "--since", "1h", "--action", "created").out, "paused")
	var page struct{ Items []map[string]any }
	r = up.run(t, "audit", "--json", "--limit", "3")
	require.NoError(t, json.Unmarshal([]byte(r.out), &page))
	require.Len(t, page.Items, 3)
	require.ErrorContains(t, up.run(t, "audit", "--since", "yesterday").err, "since")

	require.NotContains(t, up.run(t, "subscriptions", "list", "--q", "ledg").out, "CRM")
	require.NotContains(t, up.run(t, "subscriptions", "list", "--state", "paused").out, "Ledger")
	require.NotContains(t, up.run(t, "subscriptions", "list", "--event", "sms.sent").out, "CRM")
	require.Regexp(t, `(?s)Ledger.*CRM`, up.run(t, "subscriptions", "list", "--sort", "position").out)
}

func TestListsReadNoMoreThanAskedFor(t *testing.T) {
	a := newAPI(t, func(r apiRequest) (int, any) {
		items := []any{map[string]any{"id": "1"}, map[string]any{"id": "2"}}
		return http.StatusOK, map[string]any{"items": items, "next_cursor": "more" + r.query[len(r.query)-1:]}
	})
	r := a.run(t, "audit", "--limit", "4", "--json")
	require.NoError(t, r.err)
	require.Equal(t, 4, strings.Count(r.out, `"id"`))
	require.Equal(t, []string{"limit=4", "cursor=more4&limit=2"}, []string{a.requests[0].query, a.requests[1].query})
}
