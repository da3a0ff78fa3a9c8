package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/history"
)

// answered writes a captured answer, as a dispatcher does.
func (h *harness) answered(tenant, call, delivery, body string, valid bool) {
	h.t.Helper()
	a := event.Response{
		Tenant: tenant, CallID: call, EventID: "evt_" + delivery, EventType: "call.ringing", SubscriptionID: "sub_1", DeliveryID: delivery,
		HTTPStatus: 200, ContentType: "application/json", ReceivedAt: time.Now(), Valid: valid, Body: []byte(body), Attempt: 1,
	}
	if !valid {
		a.Problem = "it is not JSON"
	}
	value, err := h.codec.Encode(h.t.Context(), nil, &a)
	require.NoError(h.t, err)
	require.NoError(h.t, h.producer.ProduceSync(h.t.Context(), &kgo.Record{Topic: topic.Responses, Key: topic.EventKey(tenant, call), Value: value}))
}

// rang writes an event of a call.
func (h *harness) rang(tenant, call string) {
	h.t.Helper()
	h.produceEvent(&event.Event{ID: "evt_of_" + call, Type: "call.ringing", Tenant: tenant, Source: "api", CallID: call, Time: time.Now(), IngestedAt: time.Now()})
	require.NoError(h.t, h.svc.project.CaughtUp(h.t.Context()))
}

// streamed is one open stream.
type streamed struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Scanner
	close context.CancelFunc
}

// stream follows the answers to call c-1.
func (h *harness) stream(header ...string) *streamed {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/v1/calls/c-1/responses", nil)
	require.NoError(h.t, err)
	req.Header.Set("Accept", "text/event-stream")
	if h.key != "" {
		req.Header.Set("Authorization", "Bearer "+h.key)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(h.t, err)
	s := &streamed{h.t, resp, bufio.NewScanner(resp.Body), cancel}
	h.t.Cleanup(func() {
		cancel()
		resp.Body.Close()
	})
	return s
}

// next reads up to the next event, its id and its data; false at the stream's end.
func (s *streamed) next() (id string, d responseDocument, ok bool) {
	s.t.Helper()
	for s.lines.Scan() {
		line := s.lines.Text()
		if rest, found := strings.CutPrefix(line, "id: "); found {
			id = rest
		}
		if rest, found := strings.CutPrefix(line, "data: "); found {
			require.NoError(s.t, json.Unmarshal([]byte(rest), &d))
			return id, d, true
		}
	}
	return "", d, false
}

func (s *streamed) is(delivery string) (id string) {
	s.t.Helper()
	id, d, ok := s.next()
	require.True(s.t, ok, "the stream ended before %s", delivery)
	require.Equal(s.t, delivery, d.DeliveryID)
	return id
}

// S2-07, S1-20: what endpoints answered is listed for the call, and streamed: what there is, and what comes.
func TestResponsesAreListedAndStreamed(t *testing.T) {
	h := startOnKafka(t)
	h.answered("default", "c-1", "msg_1", `{"success":true,"contact":{"id":"1"}}`, true)
	h.answered("default", "c-1", "msg_2", `nonsense`, false)
	h.answered("default", "c-2", "msg_other", `{}`, true)
	h.rang("default", "c-1")

	list := h.do("GET", "/v1/calls/c-1/responses", "").is(200)
	var page struct {
		Items []map[string]any
		Next  *string `json:"next_cursor"`
	}
	require.NoError(t, json.Unmarshal(list.body, &page))
	require.Len(t, page.Items, 2)
	require.Nil(t, page.Next)
	require.Equal(t, []any{"msg_2", "msg_1"}, []any{page.Items[0]["delivery_id"], page.Items[1]["delivery_id"]}, "the newest first")
	require.Equal(t, map[string]any{"success": true, "contact": map[string]any{"id": "1"}}, page.Items[1]["answer"])
	require.Equal(t, []any{"nonsense", "it is not JSON", false}, []any{page.Items[0]["body"], page.Items[0]["problem"], page.Items[0]["valid"]})

	s := h.stream()
	require.Equal(t, http.StatusOK, s.resp.StatusCode)
	require.Equal(t, "text/event-stream", s.resp.Header.Get("Content-Type"))
	first := s.is("msg_1")
	require.NotEmpty(t, first)
	s.is("msg_2")
	h.answered("default", "c-2", "msg_elsewhere", `{}`, true)
	h.answered("default", "c-1", "msg_3", `{"late":true}`, true)
	last := s.is("msg_3")
	s.close()

	// Who comes back is sent what came since, and nothing twice.
	h.answered("default", "c-1", "msg_4", `{}`, true)
	again := h.stream("Last-Event-ID", last)
	again.is("msg_4")
	behind := h.stream("Last-Event-ID", first)
	for _, want := range []string{"msg_2", "msg_3", "msg_4"} {
		behind.is(want)
	}

	// At the end of the process the streams end, and the reader is not left hanging.
	stopped := make(chan struct{})
	go func() { h.svc.tail.end(); close(stopped) }()
	_, _, more := again.next()
	require.False(t, more)
	<-stopped
}

// A list has all there is also before the history has it, each once, page by page.
func TestResponsesArePaged(t *testing.T) {
	h := startOnKafka(t)
	h.rang("default", "c-1")
	for i := range 7 {
		h.answered("default", "c-1", fmt.Sprintf("msg_%d", i), `{}`, true)
	}
	require.Eventually(t, func() bool {
		found, _ := h.svc.tail.recently("default", "c-1")
		return len(found) == 7
	}, 20*time.Second, 5*time.Millisecond)
	for range 2 { // the second time from the history
		var got []string
		cursor := ""
		for {
			var page struct {
				Items []responseDocument
				Next  *string `json:"next_cursor"`
			}
			require.NoError(t, json.Unmarshal(h.do("GET", "/v1/calls/c-1/responses?limit=3"+cursor, "").is(200).body, &page))
			for _, d := range page.Items {
				got = append(got, d.DeliveryID)
			}
			if page.Next == nil {
				break
			}
			cursor = "&cursor=" + *page.Next
			require.NoError(t, h.svc.project.CaughtUp(t.Context()))
		}
		require.Equal(t, []string{"msg_6", "msg_5", "msg_4", "msg_3", "msg_2", "msg_1", "msg_0"}, got)
	}
	h.do("GET", "/v1/calls/c-1/responses?cursor=nonsense", "").problem(http.StatusBadRequest)
	h.do("GET", "/v1/calls/c-1/responses?since=yesterday", "").problem(http.StatusUnprocessableEntity)
}

// A call without answers has an empty list, one that isn't there none; and a tenant sees its own calls only.
func TestResponsesOfWhichCalls(t *testing.T) {
	h := startOnKafka(t, func(c *Config, _ *Deps) { c.Auth, c.MaxStreams = "keys", 2 })
	mine, theirs := h.keyFor("mine", auth.ScopeDeliveriesRead), h.keyFor("theirs", auth.ScopeDeliveriesRead)
	h.rang("mine", "c-silent")
	h.answered("mine", "c-1", "msg_1", `{}`, true)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))

	h.key = mine
	require.JSONEq(t, `{"items":[],"next_cursor":null}`, string(h.do("GET", "/v1/calls/c-silent/responses", "").is(200).body))
	h.do("GET", "/v1/calls/c-none/responses", "").problem(http.StatusNotFound)
	h.do("GET", "/v1/calls/c-none/responses", "", "Accept", "text/event-stream").problem(http.StatusNotFound)
	first := h.stream()
	first.is("msg_1")

	// A tenant has half of the streams.
	full := h.do("GET", "/v1/calls/c-1/responses", "", "Accept", "text/html, text/event-stream;q=0.9")
	full.problem(http.StatusTooManyRequests)
	require.NotEmpty(t, full.header.Get("Retry-After"))

	h.key = theirs
	h.do("GET", "/v1/calls/c-1/responses", "").problem(http.StatusNotFound)
	h.do("GET", "/v1/calls/c-1/responses", "", "Accept", "text/event-stream").problem(http.StatusNotFound)
	h.key = h.keyFor("mine", auth.ScopeEventsWrite)
	h.do("GET", "/v1/calls/c-1/responses", "", "Accept", "text/event-stream").problem(http.StatusForbidden)

	h.key = mine
	first.close()
	require.Eventually(t, func() bool {
		h.svc.tail.mu.Lock()
		defer h.svc.tail.mu.Unlock()
		return h.svc.tail.count == 0
	}, 20*time.Second, 5*time.Millisecond, "a reader that went away still has its place")
	h.stream().is("msg_1")
}

// A console that has only just begun streams what was answered before, as soon as its history has it.
func TestAStreamWaitsForTheHistory(t *testing.T) {
	h := startOnKafka(t)
	h.answered("default", "c-1", "msg_1", `{}`, true)
	h.rang("default", "c-1")
	h.stop()
	h.answered("default", "c-1", "msg_2", `{}`, true)
	require.NoError(t, history.Rebuild(t.Context(), h.cfg.storage(time.Now))) // as if it had not been projected
	h.run()
	h.awaitReady()
	var s *streamed
	require.Eventually(t, func() bool {
		s = h.stream()
		return s.resp.StatusCode == http.StatusOK // not before the call or an answer is known, and the topic's end
	}, 20*time.Second, 20*time.Millisecond)
	s.is("msg_1")
	s.is("msg_2")
}

// Who reads too slowly is cut off, and the others are not held up.
func TestATailIsNotHeldUp(t *testing.T) {
	tail := newResponseTail(kafka.Config{}, zap.NewNop(), 10)
	tail.began = map[int32]int64{0: 5}
	slow, _, _, err := tail.join("acme", "c-1")
	require.NoError(t, err)
	for i := range int64(behindBy + 1) {
		tail.take(&kgo.Record{Key: topic.EventKey("acme", "c-1"), Offset: 5 + i, Value: []byte("x")})
	}
	got := 0
	for range slow.records {
		got++
	}
	require.Equal(t, behindBy, got)
	slow.leave() // once more is nothing
	require.Zero(t, tail.count)

	// What is kept is bounded, and it is known from where on it is all there is.
	for i := range int64(recentRecords) {
		tail.take(&kgo.Record{Key: topic.EventKey("acme", "c-2"), Offset: 100 + i, Value: []byte("x")})
	}
	found, began := tail.recently("acme", "c-2")
	require.Len(t, found, recentRecords)
	require.Equal(t, map[int32]int64{0: 5 + behindBy + 1}, began)
	tail.take(&kgo.Record{Key: topic.EventKey("acme", "c-3"), Offset: 9000, Value: make([]byte, recentBytes)})
	found, began = tail.recently("acme", "c-3")
	require.Len(t, found, 1)
	require.Equal(t, map[int32]int64{0: 100 + recentRecords}, began)
	tail.end()
	_, _, _, err = tail.join("acme", "c-1")
	require.ErrorIs(t, err, errNoTail)
}
