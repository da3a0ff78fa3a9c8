package callstream

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// lines is what a command prints, to be waited for.
type lines struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{}
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() {
		select {
		case l.written <- struct{}{}:
		default:
		}
	}()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// S2-07: a stream that ends is gone on with behind the last one that was shown, and nothing is shown twice.
func TestFollowingGoesOn(t *testing.T) {
	answer := func(id string) string {
		return fmt.Sprintf(`{"id":%q,"type":"call.ringing","subscription_id":"sub_1","received_at":"2026-03-02T12:00:00Z","http_status":200,"valid":true,"answer":{"n":%q}}`, id, id)
	}
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.EscapedPath()+" "+r.Header.Get("Accept")+" "+r.Header.Get("Last-Event-ID"))
		n := len(asked)
		mu.Unlock()
		if n == 2 {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		if n == 1 {
			fmt.Fprintf(w, "retry: 1000\n\nid: 0-1\nevent: response\ndata: %s\n\n: alive\n\nevent: response\ndata: %s\n\n", answer("0-1"), answer("0-2"))
			return
		}
		fmt.Fprintf(w, "id: 0-2\ndata: %s\n\nid: 0-3\ndata: %s\n\n", answer("0-2"), answer("0-3"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lines{written: make(chan struct{}, 1)}
	cmd := NewCommand("test", []string{"calls", "responses", "c/1", "--follow", "--json", "--api", server.URL})
	cmd.SetOut(out)
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	for !strings.Contains(out.String(), `"0-3"`) {
		<-out.written
	}
	cancel()
	require.NoError(t, <-done)
	require.Equal(t, answer("0-1")+"\n"+answer("0-2")+"\n"+answer("0-3")+"\n", out.String())
	require.Equal(t, []string{"0-1", "0-1"}, []string{strings.Fields(asked[1])[3], strings.Fields(asked[2])[3]})
	require.True(t, strings.HasPrefix(asked[0], "/v1/calls/c%2F1/responses text/event-stream"), asked[0])
}

// S1-20: a person at a shell sees what endpoints answered.
func TestCapturedAnswersAtAShell(t *testing.T) {
	up, crm := startUp(t), newEndpoint(t)
	id := up.created(t, "--url", crm.URL, "--events", "call.ringing", "--capture-response").ID
	up.post(t, `{"type": "call.ringing", "call_id": "c/1"}`)
	up.became(t, "c/1", map[string]int{"delivered": 1})
	r := up.run(t, "calls", "responses", "c/1")
	require.NoError(t, r.err)
	require.Regexp(t, `(?m)^── \S+ \S+  call\.ringing  `+id+`  200`, r.out)
	require.Error(t, up.run(t, "calls", "responses", "c/2").err)
	require.Error(t, up.run(t, "calls", "responses", "c/2", "--follow").err)
}
