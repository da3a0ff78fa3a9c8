package hooktest_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
)

// reply is what a test looks at of an answer, besides its body.
type reply struct {
	StatusCode int
	Header     http.Header
}

func post(t *testing.T, url, id, body string, header map[string]string) (reply, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("webhook-id", id)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header}, string(b), err
}

func TestAnswersAndAccounts(t *testing.T) {
	r := hooktest.Start(t, hooktest.Options{Answer: hooktest.Sequence(
		hooktest.Answer{Status: 503, Header: map[string]string{"Retry-After": "7"}, Body: "busy"},
		hooktest.Answer{Reset: true},
		hooktest.Answer{Status: 204},
	)})
	resp, body, err := post(t, r.URL(), "msg_1", "{}", map[string]string{"webhook-attempt": "3"})
	if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "7" || body != "busy" {
		t.Fatalf("got %v %q %v", resp, body, err)
	}
	if _, _, err := post(t, r.URL(), "msg_1", "{}", nil); err == nil {
		t.Fatal("the reset gave an answer")
	}
	for _, id := range []string{"msg_1", "msg_1"} {
		if resp, _, err := post(t, r.URL(), id, "{}", nil); err != nil || resp.StatusCode != 204 {
			t.Fatalf("got %v %v", resp, err)
		}
	}
	if resp, _, err := post(t, r.URL(), "msg_2", "{}", nil); err != nil || resp.StatusCode != 503 {
		t.Fatalf("got %v %v", resp, err)
	}
	if r.Total() != 5 || r.Unique() != 2 || r.Repeats() != 3 || r.Counts()["msg_1"] != 4 {
		t.Errorf("total %d, unique %d, repeats %d, counts %v", r.Total(), r.Unique(), r.Repeats(), r.Counts())
	}
	if first := r.Requests()[0]; first.N != 1 || first.Attempt != 3 || string(first.Body) != "{}" || first.ID != "msg_1" {
		t.Errorf("the first request is %+v", first)
	}
}

func TestHangEndsWithTheSender(t *testing.T) {
	r := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Hang: true})})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL(), nil)
		if err == nil {
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}
		ended <- err
	}()
	wait, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := r.WaitFor(wait, 1); err != nil {
		t.Fatal(err)
	}
	if r.Pending() != 1 {
		t.Errorf("%d pending, want 1", r.Pending())
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("an answer came")
	}
	if err := r.Wait(wait, func() bool { return r.Pending() == 0 }); err != nil {
		t.Fatal(err)
	}
}

func TestChallengeAndCheap(t *testing.T) {
	for _, cheap := range []bool{false, true} {
		r := hooktest.Start(t, hooktest.Options{Cheap: cheap})
		_, body, err := post(t, r.URL(), "", `{"type":"endpoint.verification","challenge":"abc"}`, nil)
		if err != nil || body != "{\"challenge\":\"abc\"}\n" {
			t.Errorf("got %q %v", body, err)
		}
		if _, _, err := post(t, r.URL(), "msg", `{"type":"call.ended"}`, nil); err != nil {
			t.Fatal(err)
		}
		if r.Total() != 1 || len(r.Challenges()) != 1 {
			t.Errorf("%d requests, challenges %v", r.Total(), r.Challenges())
		}
	}
}

func TestRecordsFaults(t *testing.T) {
	r := hooktest.Start(t, hooktest.Options{Secrets: []string{"whsec_AAAA"}})
	if _, _, err := post(t, r.URL(), "msg", "{}", nil); err != nil {
		t.Fatal(err)
	}
	if faults := r.Faults(); len(faults) != 1 || faults[0].ID != "msg" {
		t.Errorf("faults: %v", faults)
	}
}

// Both kinds of signatures are checked, over the body or, for a GET, over the query string as it was sent.
func TestVerifiesBothKindsAndQueries(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{7}, 32)
	r := hooktest.Start(t, hooktest.Options{Secrets: []string{
		"whsec_" + base64.StdEncoding.EncodeToString(key), "whpk_" + base64.StdEncoding.EncodeToString(public),
	}})
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	symmetric := func(text string) string {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	asymmetric := func(text string) string {
		return "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte(text)))
	}
	for i, one := range []struct {
		method, query, body, signature string
		right                          bool
	}{
		{"POST", "", "{}", symmetric("msg." + stamp + ".{}"), true},
		{"POST", "a=1", "{}", asymmetric("msg." + stamp + ".{}"), true},
		{"POST", "", "{ }", asymmetric("msg." + stamp + ".{}"), false},
		{"GET", "b=%C3%A4+c&a=1", "", symmetric("msg." + stamp + ".b=%C3%A4+c&a=1"), true},
		{"GET", "b=%C3%A4+c&a=1", "", asymmetric("msg." + stamp + ".b=%C3%A4+c&a=1"), true},
		{"GET", "a=1&b=%C3%A4+c", "", symmetric("msg." + stamp + ".b=%C3%A4+c&a=1"), false},
		{"GET", "a=1", "", symmetric("msg." + stamp + "."), false},
	} {
		req, err := http.NewRequestWithContext(t.Context(), one.method, r.URL()+"/?"+one.query, bytes.NewReader([]byte(one.body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Webhook-Id": {"msg"}, "Webhook-Timestamp": {stamp}, "Webhook-Signature": {one.signature}}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := r.Requests()[i]; (got.Fault == nil) != one.right {
			t.Errorf("%s ?%s: %v", one.method, got.Raw, got.Fault)
		}
	}
}

func TestAnswersTheHandshakeOfCloudEvents(t *testing.T) {
	ask := func(r *hooktest.Receiver) http.Header {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, r.URL(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("WebHook-Request-Origin", "callstream.example.com")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.Header
	}
	obliging := hooktest.Start(t, hooktest.Options{})
	if got := ask(obliging).Get("WebHook-Allowed-Origin"); got != "callstream.example.com" {
		t.Errorf("allowed %q", got)
	}
	if got := obliging.Origins(); len(got) != 1 || got[0] != "callstream.example.com" || obliging.Total() != 0 {
		t.Errorf("%v asked, %d requests", got, obliging.Total())
	}
	strict := hooktest.Start(t, hooktest.Options{Allow: func(string) string { return "" }})
	if got, there := ask(strict)["Webhook-Allowed-Origin"]; there {
		t.Errorf("allowed %q", got)
	}
	unaware := hooktest.Start(t, hooktest.Options{IgnoreChallenges: true})
	if ask(unaware); unaware.Total() != 1 || len(unaware.Origins()) != 0 {
		t.Errorf("%d requests, %v asked", unaware.Total(), unaware.Origins())
	}
}
