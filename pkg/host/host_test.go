package host

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/telemetry"
)

func TestAnnounceWritesAddressesOnlyWhenReady(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "addresses.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"http":"127.0.0.1:1"}`), 0o600))
	var asked atomic.Int64
	ready := func() error {
		if n := asked.Add(1); n < 4 {
			_, err := os.Stat(path)
			require.ErrorIs(t, err, os.ErrNotExist, "a stale or early file, at check %d", n)
			return errors.New("kafka")
		}
		return nil
	}
	require.NoError(t, announce(t.Context(), zap.NewNop(), dir, Addresses{HTTP: "127.0.0.1:2", Kafka: "127.0.0.1:3"}, ready))
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var got map[string]string
	require.NoError(t, json.Unmarshal(raw, &got))
	require.Equal(t, map[string]string{"http": "127.0.0.1:2", "kafka": "127.0.0.1:3"}, got)
}

func TestAnnounceEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := announce(ctx, zap.NewNop(), t.TempDir(), Addresses{}, func() error { return errors.New("never") })
	require.ErrorIs(t, err, context.Canceled)
}

type fakeService struct {
	run   func(ctx context.Context) error
	ready error
}

func (s fakeService) Run(ctx context.Context) error { return s.run(ctx) }
func (s fakeService) Ready() error                  { return s.ready }

type fakeSettings struct{ Host Standalone }

func program(cfg *fakeSettings, service Service) Program {
	return Program{
		Name: "fake", Settings: cfg, Standalone: &cfg.Host, HTTPAddr: "127.0.0.1:0",
		Build: func(*telemetry.Telemetry, *kafka.Registry) (Service, http.Handler, error) {
			return service, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), nil
		},
	}
}

func flags(dir string) []string {
	return []string{"--data-dir=" + dir, "--log-level=error", "--kafka-brokers=127.0.0.1:1", "--schema-registry-url=http://127.0.0.1:1"}
}

func TestProgramServesHealthBesideItsHandlerAndDrainsTheServerFirst(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var url string
	service := fakeService{run: func(working context.Context) error {
		<-working.Done()
		// The server has drained and closed by the time that the service is told to end.
		_, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.WithoutCancel(working), "tcp", url)
		require.Error(t, err)
		return nil
	}}
	done := make(chan error, 1)
	go func() { done <- program(&fakeSettings{}, service).Run(ctx, flags(dir)) }()
	var a Addresses
	require.Eventually(t, func() bool {
		raw, err := os.ReadFile(filepath.Join(dir, addressesFile))
		return err == nil && json.Unmarshal(raw, &a) == nil
	}, patience, pollInterval)
	url = a.HTTP
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/v1/other": 418} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.HTTP+path, nil)
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, want, res.StatusCode, path)
	}
	cancel()
	require.NoError(t, <-done)
}

func TestAServiceThatFailsEndsTheProcess(t *testing.T) {
	broken := errors.New("broken")
	service := fakeService{ready: errors.New("never"), run: func(context.Context) error { return broken }}
	require.ErrorIs(t, program(&fakeSettings{}, service).Run(t.Context(), flags(t.TempDir())), broken)
	service.run = func(context.Context) error { return nil }
	require.ErrorIs(t, program(&fakeSettings{}, service).Run(t.Context(), flags(t.TempDir())), errEnded)
	err := program(&fakeSettings{}, service).Run(t.Context(), append(flags(t.TempDir()), "--http-addr=256.0.0.1:0"))
	require.ErrorContains(t, err, "listen on 256.0.0.1:0")
}

func TestStandaloneNeedsAClusterAndARegistry(t *testing.T) {
	err := program(&fakeSettings{}, fakeService{}).Run(t.Context(), nil)
	var problems *config.Errors
	require.ErrorAs(t, err, &problems)
	require.Len(t, problems.Problems, 2)
}

func TestMuxWithoutHandler(t *testing.T) {
	rec := httptest.NewRecorder()
	mux(nil, func() error { return nil }, telemetry.Nop()).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/x", nil))
	require.Equal(t, http.StatusNotFound, rec.Code)
}

const (
	patience     = 30 * time.Second
	pollInterval = 5 * time.Millisecond
)

func TestAddressesAreChecked(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:8080", ":0", "[::1]:65535", "localhost:80"} {
		require.Empty(t, (&Config{HTTPAddr: addr}).Validate(), addr)
	}
	for _, addr := range []string{"", "nope", "8080", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80"} {
		require.Len(t, (&Config{HTTPAddr: addr}).Validate(), 1, addr)
	}
	var settings fakeSettings
	err := config.Load(&settings, config.Source{Env: []string{"CALLSTREAM_HTTP_ADDR=nope", "CALLSTREAM_LOG_LEVEL=loud"}})
	require.ErrorContains(t, err, "CALLSTREAM_HTTP_ADDR")
	require.ErrorContains(t, err, "CALLSTREAM_KAFKA_BROKERS")
	require.ErrorContains(t, err, "CALLSTREAM_LOG_LEVEL")
}
