package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/callstream/callstream/test/process"
)

// patience bounds every wait of the suite. It is far above what a wait takes, even with the race detector on a busy
// machine, so that running into it means that something is stuck.
const patience = 90 * time.Second

// start runs a binary with the environment given and nothing else of ours, and ends it with the test.
func start(t testing.TB, name string, o process.Options) *process.Process {
	t.Helper()
	p, err := process.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("--- log of %s:\n%s", name, p.Log())
		}
	})
	return p
}

// terminate asks a process to drain and waits for its end. It returns the exit error, nil for status 0.
func (p *pipeline) terminate(name string) error {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), patience)
	defer cancel()
	return p.process(name).Terminate(ctx)
}

// ready waits until a process is ready, and returns where it listens.
func (p *pipeline) ready(name string) process.Addresses {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	a, err := p.process(name).Ready(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// url is where a process listens for HTTP.
func (p *pipeline) url(name string) string { return "http://" + p.ready(name).HTTP }

// eventually tries cond until it returns nil, and fails with its last error when patience is at its end. It is the one
// way this suite waits.
func eventually(t testing.TB, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for: %s: %v", patience, what, err)
		}
		<-tick.C
	}
}

// reply is an HTTP answer, read whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) String() string { return fmt.Sprintf("%d %s", r.status, r.body) }

// decode reads the answer's JSON into a value of type T.
func decode[T any](t testing.TB, r reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("answer is not the JSON expected: %v: %s", err, r)
	}
	return v
}

// request sends one HTTP request and reads its answer whole. An error is a transport error.
func request(ctx context.Context, method, url string, header http.Header, body io.Reader) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return reply{}, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return reply{}, err
	}
	return reply{status: res.StatusCode, header: res.Header, body: raw}, nil
}
