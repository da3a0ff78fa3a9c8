package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/test/process"
)

// pipeline is a whole callstream in one process.
type pipeline struct {
	*process.Process
	url string
}

// up starts one on an embedded broker and data of its own.
func (b *bench) up(ctx context.Context, env ...string) (*pipeline, error) {
	p, err := process.Start(process.Options{
		Binary: filepath.Join(b.bin, "callstream"), Args: []string{"up"}, Dir: b.data("up"),
		Env: append([]string{
			"CALLSTREAM_HTTP_ADDR=127.0.0.1:0", "CALLSTREAM_KAFKA_ADDR=127.0.0.1:0", "CALLSTREAM_SCHEMA_REGISTRY_ADDR=127.0.0.1:0", "CALLSTREAM_LOG_LEVEL=error",
		}, env...),
	})
	if err != nil {
		return nil, err
	}
	a, err := p.Ready(ctx)
	if err != nil {
		p.Kill()
		return nil, err
	}
	return &pipeline{Process: p, url: "http://" + a.HTTP}, nil
}

var errRefused = errors.New("callstream refused a request")

// subscribe makes a subscription for an endpoint and verifies it.
func (p *pipeline) subscribe(ctx context.Context, spec map[string]any) error {
	var created struct{ ID string }
	if err := p.call(ctx, "/v1/subscriptions", spec, &created); err != nil {
		return err
	}
	return p.call(ctx, "/v1/subscriptions/"+created.ID+"/verify", map[string]any{}, &created)
}

func (p *pipeline) call(ctx context.Context, path string, body, into any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+path, bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		return fmt.Errorf("%w: %s: %s %s", errRefused, path, res.Status, answer)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// words are what an event's 2 KB are mostly made of.
var words = strings.Repeat("the quick brown fox jumps over the lazy dog ", 36)

// eventBody is event n of a run: about 2 KB, most of it a transcript, with members that the catalogue declares and others.
func eventBody(buf []byte, run, kind string, n int) []byte {
	return fmt.Appendf(buf, `{"id":"%s-%d","type":%q,"call_id":"c-%d","agent_id":"a-9","time":"2026-01-20T10:00:00.123Z","source":"dialer-eu","sequence":4,`+
		`"data":{"transcript_text":"%s","language":"en","duration_ms":61000,"caller":{"name":"Ada Lovelace","phone_number":"+4930123456","city":"Berlin"},`+
		`"analysis":{"summary":"a short call","score":85,"mood":"good"},"custom":{"a":[1,2,3],"b":"x"}}}`, run, n, kind, n, words)
}

// load posts numbered events.
type load struct {
	url  string
	kind string // type of the events
	run  string
	sink *sink
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true}, Timeout: 30 * time.Second}

// post sends events from to to-1 in one request.
func (l *load) post(ctx context.Context, from, to int) error {
	body := make([]byte, 0, 2500*(to-from))
	if to-from > 1 {
		body = append(body, '[')
	}
	for n := from; n < to; n++ {
		if n > from {
			body = append(body, ',')
		}
		body = eventBody(body, l.run, l.kind, n)
	}
	if to-from > 1 {
		body = append(body, ']')
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/v1/events", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("post events: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	now := time.Now().UnixNano()
	for n := from; n < to; n++ {
		l.sink.sent[n].Store(now)
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("post events: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusAccepted {
		return fmt.Errorf("%w: post events: %s %s", errRefused, res.Status, answer)
	}
	return nil
}

// pace posts events from to to-1, one a request, so many a second, whatever the answers take: a slow answer delays no
// other event.
func (l *load) pace(ctx context.Context, from, to int, perSecond float64) error {
	var senders sync.WaitGroup
	var failed atomic.Pointer[error]
	began := time.Now()
	for n := from; n < to && failed.Load() == nil; n++ {
		due := began.Add(time.Duration(float64(n-from) / perSecond * float64(time.Second)))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return ctx.Err()
		}
		senders.Go(func() {
			if err := l.post(ctx, n, n+1); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	senders.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// until waits until cond holds; false when patience or ctx ends first.
func until(ctx context.Context, patience time.Duration, cond func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
