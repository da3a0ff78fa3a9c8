package callstream

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
)

const testSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

var monday = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// delivery is a request as callstream sends it, signed by the library of the standard.
func delivery(t *testing.T, secret, id string, at time.Time, body string) *http.Request {
	t.Helper()
	signer, err := webhooks.NewWebhook(secret)
	require.NoError(t, err)
	signature, err := signer.Sign(id, at, []byte(body))
	require.NoError(t, err)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/hooks", strings.NewReader(body))
	r.Header.Set("webhook-id", id)
	r.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	r.Header.Set("webhook-signature", signature)
	r.Header.Set("webhook-attempt", "1")
	r.Header.Set("x-event-id", "evt_1")
	return r
}

func receive(t *testing.T, opts listenOptions, requests ...*http.Request) (answers []*httptest.ResponseRecorder, printed string) {
	t.Helper()
	if opts.status == 0 {
		opts.status = http.StatusOK
	}
	var out bytes.Buffer
	r, err := newReceiver(opts, &out, func() time.Time { return monday })
	require.NoError(t, err)
	for _, req := range requests {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		answers = append(answers, w)
	}
	return answers, out.String()
}

func TestListenTellsGoodSignaturesFromBadOnes(t *testing.T) {
	body := `{"type":"call.ended","call_id":"c-1","data":{"n":1}}`
	other := "whsec_" + base64.StdEncoding.EncodeToString([]byte("another secret of some length..."))
	for name, c := range map[string]struct {
		change func(*http.Request)
		want   string
	}{
		"signed":              {func(*http.Request) {}, "✓ verified"},
		"unsigned":            {func(r *http.Request) { r.Header = http.Header{} }, "✗ it is not signed"},
		"no id":               {func(r *http.Request) { r.Header.Del("webhook-id") }, "✗ the header webhook-id is missing"},
		"body changed":        {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(body + " ")) }, "✗ the signature does not fit"},
		"id changed":          {func(r *http.Request) { r.Header.Set("webhook-id", "msg_2") }, "✗ the signature does not fit"},
		"timestamp changed":   {func(r *http.Request) { r.Header.Set("webhook-timestamp", strconv.FormatInt(monday.Unix()+1, 10)) }, "✗ the signature does not fit"},
		"timestamp no number": {func(r *http.Request) { r.Header.Set("webhook-timestamp", "noon") }, "✗ webhook-timestamp is not a number"},
		"only ed25519":        {func(r *http.Request) { r.Header.Set("webhook-signature", "v1a,AAAA") }, "✗ it has no v1 signature"},
		"second of two signatures": {func(r *http.Request) {
			r.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(make([]byte, 32))+" "+r.Header.Get("webhook-signature"))
		}, "✓ verified"},
	} {
		t.Run(name, func(t *testing.T) {
			r := delivery(t, testSecret, "msg_1", monday, body)
			c.change(r)
			answers, printed := receive(t, listenOptions{secrets: []string{testSecret}}, r)
			require.Contains(t, printed, c.want)
			require.Equal(t, 200, answers[0].Code)
		})
	}
	t.Run("another secret", func(t *testing.T) {
		_, printed := receive(t, listenOptions{secrets: []string{testSecret}}, delivery(t, other, "msg_1", monday, body))
		require.Contains(t, printed, "✗ the signature does not fit")
	})
	t.Run("old and new secret", func(t *testing.T) {
		_, printed := receive(t, listenOptions{secrets: []string{testSecret, other}}, delivery(t, other, "msg_1", monday, body))
		require.Contains(t, printed, "✓ verified")
	})
	t.Run("no secret", func(t *testing.T) {
		_, printed := receive(t, listenOptions{}, delivery(t, other, "msg_1", monday, body))
		require.Contains(t, printed, "unverified")
	})
}

func TestListenRefusesWhatWasSignedLongAgo(t *testing.T) {
	for age, good := range map[time.Duration]bool{
		0: true, 5 * time.Minute: true, 5*time.Minute + time.Second: false, -5 * time.Minute: true, -5*time.Minute - time.Second: false,
	} {
		_, printed := receive(t, listenOptions{secrets: []string{testSecret}}, delivery(t, testSecret, "msg_1", monday.Add(-age), "{}"))
		require.Equal(t, good, strings.Contains(printed, "✓"), "signed %s ago: %s", age, printed)
	}
}

func TestListenAnswersChallenges(t *testing.T) {
	body := `{"type":"endpoint.verification","challenge":"ab\"c"}`
	answers, printed := receive(t, listenOptions{status: 500}, delivery(t, testSecret, "msg_1", monday, body))
	require.Equal(t, 200, answers[0].Code)
	var got struct{ Challenge string }
	require.NoError(t, json.Unmarshal(answers[0].Body.Bytes(), &got))
	require.Equal(t, `ab"c`, got.Challenge)
	require.Contains(t, printed, "challenge")
}

func TestListenMarksRepeats(t *testing.T) {
	_, printed := receive(t, listenOptions{quiet: true}, delivery(t, testSecret, "msg_1", monday, "{}"),
		delivery(t, testSecret, "msg_2", monday, "{}"), delivery(t, testSecret, "msg_1", monday, "{}"))
	lines := strings.Split(strings.TrimSpace(printed), "\n")
	require.Len(t, lines, 3)
	require.NotContains(t, lines[0]+lines[1], "repeat")
	require.Contains(t, lines[2], "repeat of msg_1")
}

func TestListenPrintsForPeopleAndPrograms(t *testing.T) {
	body := `{"type":"call.ended","id":"evt_9","call_id":"c-1","data":{"text":"a <b> & ü"}}`
	_, printed := receive(t, listenOptions{status: 503}, delivery(t, testSecret, "msg_1", monday, body))
	require.Contains(t, printed, "call.ended  evt_1  call c-1  attempt 1  ? unverified (no --secret)  answered 503\n")
	require.Contains(t, printed, "\n      \"id\": \"evt_9\",\n")

	_, printed = receive(t, listenOptions{json: true, secrets: []string{testSecret}}, delivery(t, testSecret, "msg_1", monday, body),
		delivery(t, testSecret, "msg_2", monday, "not json"))
	dec := json.NewDecoder(strings.NewReader(printed))
	var first, second receipt
	require.NoError(t, dec.Decode(&first))
	require.NoError(t, dec.Decode(&second))
	require.True(t, *first.Verified)
	require.JSONEq(t, body, string(first.Body))
	require.Equal(t, `"not json"`, string(second.Body))
	require.Equal(t, "call.ended", first.Type)
	require.Equal(t, "1", first.Headers["webhook-attempt"])
}

func TestListenPrintsBatches(t *testing.T) {
	r := delivery(t, testSecret, "msg_1", monday, `[{"type":"call.ended","id":"evt_1","call_id":"c-1"},{"type":"sms.sent","id":"evt_2"}]`)
	r.Header.Del("x-event-id")
	_, printed := receive(t, listenOptions{secrets: []string{testSecret}}, r)
	require.Contains(t, printed, "batch of 2  msg_1  attempt 1  ✓ verified\n    call.ended  evt_1  call c-1\n    sms.sent  evt_2\n    [\n      {\n")
}

func TestListenPrintsNoControlCharacters(t *testing.T) {
	r := delivery(t, testSecret, "msg_1", monday, "\x1b[2Jgone")
	r.Header.Set("x-event-id", "evt\x1b[31m")
	_, printed := receive(t, listenOptions{}, r)
	require.NotContains(t, printed, "\x1b")
}

func TestListenServesAndSaysWhatToDoNext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hints, w := io.Pipe()
	var out bytes.Buffer
	cmd := NewCommand("test", []string{"listen", "--addr", "127.0.0.1:0"})
	cmd.SetOut(&out)
	cmd.SetErr(w)
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.ExecuteContext(ctx)
		_ = w.Close()
	}()
	var line string
	_, err := fmt.Fscanf(hints, "Listening on %s\n", &line)
	require.NoError(t, err)
	rest := make(chan string, 1)
	go func() {
		raw, _ := io.ReadAll(hints)
		rest <- string(raw)
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, line, strings.NewReader(`{"type":"call.ended"}`))
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, 200, res.StatusCode)
	cancel()
	require.NoError(t, <-ended)
	require.Contains(t, <-rest, "callstream subscriptions create --url "+line)
	require.Contains(t, out.String(), "call.ended")
}

func TestListenSubscribesItself(t *testing.T) {
	var created map[string]any
	deleted := make(chan struct{})
	verified := make(chan struct{})
	a := newAPI(t, func(r apiRequest) (int, any) {
		switch {
		case r.method == http.MethodDelete:
			close(deleted)
			return http.StatusNoContent, nil
		case strings.HasSuffix(r.path, "/verify"):
			defer close(verified)
			// As the console does: the endpoint must answer, and a delivery follows.
			for _, body := range []string{`{"type":"endpoint.verification","challenge":"x"}`, `{"type":"call.ended"}`} {
				in := delivery(t, testSecret, "msg_1", time.Now(), body)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, created["url"].(string), in.Body)
				if err != nil {
					return 500, nil
				}
				req.Header = in.Header
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					return 500, nil
				}
				_ = res.Body.Close()
			}
			return http.StatusOK, map[string]any{"id": "sub_1", "state": "active"}
		}
		if json.Unmarshal([]byte(r.body), &created) != nil {
			return http.StatusBadRequest, nil
		}
		return http.StatusCreated, map[string]any{"id": "sub_1", "state": "pending", "secret": testSecret}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan result, 1)
	go func() {
		ended <- commandIn(ctx, "", "listen", "--addr", "127.0.0.1:0", "--subscribe", "call.*,sms.sent", "--filter", "true", "--api", a.URL)
	}()
	<-verified
	cancel()
	r := <-ended
	require.NoError(t, r.err)
	<-deleted
	require.Equal(t, []any{"call.*", "sms.sent"}, created["events"])
	require.Equal(t, "true", created["filter"])
	require.Contains(t, r.out, "call.ended  evt_1  attempt 1  ✓ verified")
}

func TestRecentIDsForgetsOnlyTheOldest(t *testing.T) {
	s := newRecentIDs(100)
	for i := range 1000 {
		require.False(t, s.add(strconv.Itoa(i)))
		for back := range min(i, 49) {
			require.True(t, s.has(strconv.Itoa(i-back)), "%d after %d", i-back, i)
		}
		require.LessOrEqual(t, len(s.recent)+len(s.older), 100)
	}
}

// P-10, P-11, S2-15: a receiver for every way that callstream sends: the CloudEvents handshake, public keys, fields in a
// query, attributes in headers.
func TestListenTakesEveryKindOfDelivery(t *testing.T) {
	up := startUp(t)
	var out bytes.Buffer
	r, err := newReceiver(listenOptions{status: http.StatusOK}, &out, time.Now)
	require.NoError(t, err)
	server := httptest.NewServer(r)
	defer server.Close()
	for profile, want := range map[string]string{
		"dialer":             `callEnded  evt_1  call c-1  attempt 1  ✓ verified`,
		"callback":           `call_completed  evt_1  call c-1  attempt 1  ✓ verified`,
		"push":               `call.ended  evt_1  call c-1  attempt 1  ✓ verified`,
		"platform":           `Call Ended  evt_1  call c-1  attempt 1  ✓ verified`,
		"standard":           `call.ended  evt_1  call c-1  attempt 1  ✓ verified`,
		"cloudevents":        `call.ended  evt_1  call c-1  attempt 1  ✓ verified`,
		"cloudevents-binary": `call.ended  evt_1  call c-1  attempt 1  ✓ verified`,
		"raw":                `POST /  evt_1  attempt 1  ✓ verified`,
	} {
		for _, method := range []string{"POST", "GET"} {
			if method == "GET" && strings.HasPrefix(profile, "cloudevents") {
				continue // there is no such thing
			}
			if method == "GET" {
				want = strings.Replace(want, "POST /", "GET /?durationMs=1200", 1)
			}
			name := profile + " by " + method
			s := up.created(t, "--name", name, "--url", server.URL, "--events", "call.*", "--profile", profile, "--method", method,
				"--signing", "ed25519", "--verification", "options", "--verify=false")
			require.True(t, strings.HasPrefix(s.Signing.PublicKey, "whpk_"))
			require.NoError(t, r.trust([]string{s.Signing.PublicKey}))
			out.Reset()
			require.NoError(t, up.run(t, "subscriptions", "verify", s.ID).err, name)
			require.Contains(t, out.String(), "CloudEvents handshake answered: callstream may send\n", name)
			out.Reset()
			event := filepath.Join(t.TempDir(), "event.json")
			require.NoError(t, os.WriteFile(event, []byte(`{"type": "call.ended", "id": "evt_1", "call_id": "c-1", "data": {"durationMs": 1200}}`), 0o600))
			require.NoError(t, up.run(t, "subscriptions", "test", s.ID, "--event", event).err, name)
			require.Contains(t, out.String(), want, name)
			switch {
			case profile == "cloudevents-binary":
				require.Regexp(t, `(?m)^    ce  .*id: evt_1 .*type: call\.ended`, out.String())
			case method == "GET" && profile == "dialer":
				require.Regexp(t, `(?m)^    callId: c-1$`, out.String())
			}
		}
	}
	// The key of another subscription fits none of it.
	s := up.created(t, "--url", server.URL, "--events", "call.*", "--signing", "ed25519", "--verification", "options")
	out.Reset()
	require.NoError(t, up.run(t, "subscriptions", "test", s.ID).err)
	require.Contains(t, out.String(), "✗ the signature does not fit")
}
