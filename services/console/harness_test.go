package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/services/console/storage/pgtest"
	"github.com/callstream/callstream/services/console/storage/storagetest"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// memoryLog is the log behind the feeds without a broker. It can be made to fail before or after the append.
type memoryLog struct {
	mu      sync.Mutex
	topics  map[string][]feedRecord
	failing func(topic string, r feedRecord, appended bool) error
}

func newMemoryLog() *memoryLog { return &memoryLog{topics: map[string][]feedRecord{}} }

func (l *memoryLog) append(_ context.Context, topic string, r feedRecord) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing != nil {
		if err := l.failing(topic, r, false); err != nil {
			return 0, err
		}
	}
	l.topics[topic] = append(l.topics[topic], r)
	if l.failing != nil {
		if err := l.failing(topic, r, true); err != nil {
			return 0, err
		}
	}
	return int64(len(l.topics[topic]) - 1), nil
}

func (l *memoryLog) read(_ context.Context, topic string, fn func(feedRecord)) error {
	for _, r := range l.records(topic) {
		fn(r)
	}
	return nil
}

func (l *memoryLog) records(topic string) []feedRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]feedRecord(nil), l.topics[topic]...)
}

func (l *memoryLog) fail(fn func(topic string, r feedRecord, appended bool) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = fn
}

// memoryRegistry is a schema registry without a server.
type memoryRegistry struct {
	mu      sync.Mutex
	schemas []string
}

var errNoSchema = errors.New("no such schema")

func (r *memoryRegistry) SchemaByID(_ context.Context, id int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id < 1 || id > len(r.schemas) {
		return "", errNoSchema
	}
	return r.schemas[id-1], nil
}

func (r *memoryRegistry) Register(_ context.Context, _, schema string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, s := range r.schemas {
		if s == schema {
			return i + 1, nil
		}
	}
	r.schemas = append(r.schemas, schema)
	return len(r.schemas), nil
}

// harness is a console behind an HTTP server, with what it stands on.
type harness struct {
	t     *testing.T
	url   string
	svc   *Service
	feeds *memoryLog
	codec *event.Codec
	box   *secret.Box
	cfg   Config
	deps  Deps
	logs  *syncBuffer
	key   string // sent as Authorization when set
	stop  func()
	// schemas are of the API's document, which every answer is checked against.
	schemas struct {
		mu       sync.Mutex
		doc      map[string]any
		compiler *jsonschema.Compiler
	}
	// producer writes to the topics, where the console is on Kafka.
	producer *kafka.Producer
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs a console. On PostgreSQL where the environment names one, else on SQLite.
func start(t *testing.T, change ...func(*Config, *Deps)) *harness {
	t.Helper()
	box, err := secret.NewBox([]byte(strings.Repeat("k", secret.KeySize)))
	require.NoError(t, err)
	h := &harness{t: t, feeds: newMemoryLog(), codec: event.NewCodec(&memoryRegistry{}), box: box, logs: &syncBuffer{}}
	h.cfg = Config{DataDir: t.TempDir(), Auth: authOff, HTTPAddr: "127.0.0.1:0", InForceTimeout: 5 * time.Second, VerifyTimeout: 2 * time.Second,
		WebhookOrigin: "callstream", DefaultSource: "api",
		Egress: egress.Config{AllowPrivate: true, AllowHTTP: true}}
	if base := os.Getenv(pgtest.EnvURL); base != "" {
		h.cfg.DatabaseURL = storagetest.NewDatabase(t, base)
	}
	tel := telemetry.Nop()
	tel.Log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}), zapcore.AddSync(h.logs), zap.DebugLevel))
	h.deps = Deps{Telemetry: tel, Codec: h.codec, Box: box, log: h.feeds, retry: 20 * time.Millisecond}
	for _, c := range change {
		c(&h.cfg, &h.deps)
	}
	h.run()
	return h
}

// run starts the service, until stop or the end of the test.
func (h *harness) run() {
	h.t.Helper()
	svc, err := New(h.cfg, h.deps)
	require.NoError(h.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	server := httptest.NewServer(svc.Handler())
	stop := sync.OnceFunc(func() {
		server.Close()
		cancel()
		require.NoError(h.t, <-done)
	})
	h.t.Cleanup(stop)
	h.svc, h.url, h.stop = svc, server.URL, stop
	select {
	case <-svc.opened:
	case err := <-done:
		h.t.Fatalf("the console ended: %v", err)
	}
}

func (h *harness) awaitReady() {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return h.svc.Ready() == nil }, 20*time.Second, 5*time.Millisecond, "not ready")
}

type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

func (h *harness) do(method, path, body string, header ...string) answer {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(body))
	require.NoError(h.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if h.key != "" {
		req.Header.Set("Authorization", "Bearer "+h.key)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(h.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(h.t, err)
	a := answer{h.t, resp.StatusCode, resp.Header, raw}
	h.conforms(method, path, a)
	return a
}

func (a answer) is(status int) answer {
	a.t.Helper()
	require.Equal(a.t, status, a.status, "%s", a.body)
	return a
}

// problem checks that the answer is a problem document of a status, and returns it.
func (a answer) problem(status int) problem.Problem {
	a.t.Helper()
	a.is(status)
	require.Equal(a.t, problem.ContentType, a.header.Get("Content-Type"))
	var p problem.Problem
	require.NoError(a.t, json.Unmarshal(a.body, &p))
	require.Equal(a.t, status, p.Status)
	require.NotEmpty(a.t, p.Title)
	return p
}

func (a answer) object() map[string]any {
	a.t.Helper()
	var m map[string]any
	require.NoError(a.t, json.Unmarshal(a.body, &m), "%s", a.body)
	return m
}

func (a answer) str(name string) string {
	a.t.Helper()
	s, _ := a.object()[name].(string)
	return s
}

// endpoint is a customer's endpoint that answers verification.
func endpoint(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return server.URL
}

// obliging echoes challenges.
func obliging(w http.ResponseWriter, r *http.Request) {
	var body struct{ Challenge string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, `{"challenge":%q}`, body.Challenge)
}

// subscriptions reads the feed, in order.
func (h *harness) subscriptions() []event.SubscriptionRecord {
	h.t.Helper()
	var out []event.SubscriptionRecord
	var feeds feedLog = h.feeds
	if h.deps.log == nil {
		feeds = h.svc.relay.feeds // on Kafka
	}
	require.NoError(h.t, feeds.read(h.t.Context(), feedTopic(storage.KindSubscription), func(r feedRecord) {
		if r.value == nil {
			return
		}
		var rec event.SubscriptionRecord
		require.NoError(h.t, h.codec.Decode(h.t.Context(), r.value, &rec))
		out = append(out, rec)
	}))
	return out
}

func (h *harness) keys() []event.KeyRecord {
	h.t.Helper()
	var out []event.KeyRecord
	for _, r := range h.feeds.records(feedTopic("key")) {
		if r.value == nil {
			continue
		}
		var rec event.KeyRecord
		require.NoError(h.t, h.codec.Decode(h.t.Context(), r.value, &rec))
		out = append(out, rec)
	}
	return out
}
