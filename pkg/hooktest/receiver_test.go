package hooktest_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
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
