package host

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

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
	require.NoError(t, Announce(t.Context(), zap.NewNop(), dir, Addresses{HTTP: "127.0.0.1:2", Kafka: "127.0.0.1:3"}, ready))
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var got map[string]string
	require.NoError(t, json.Unmarshal(raw, &got))
	require.Equal(t, map[string]string{"http": "127.0.0.1:2", "kafka": "127.0.0.1:3"}, got)
}

func TestAnnounceEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Announce(ctx, zap.NewNop(), t.TempDir(), Addresses{}, func() error { return errors.New("never") })
	require.ErrorIs(t, err, context.Canceled)
}

type fakeService struct{ ended chan struct{} }

func (s fakeService) Run(ctx context.Context) error { <-ctx.Done(); close(s.ended); return nil }
func (s fakeService) Ready() error                  { return nil }

func TestProgramServesHealthBesideItsHandler(t *testing.T) {
	dir := t.TempDir()
	var cfg struct{ Config }
	service := fakeService{ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	p := Program{
		Name: "fake", Version: "1", Config: &cfg, Host: &cfg.Config,
		Build: func(*telemetry.Telemetry) (Service, http.Handler, error) {
			return service, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), nil
		},
	}
	done := make(chan error, 1)
	go func() {
		done <- p.Run(ctx, []string{"--http-addr=127.0.0.1:0", "--data-dir=" + dir, "--log-level=error"})
	}()
	var a Addresses
	require.Eventually(t, func() bool {
		raw, err := os.ReadFile(filepath.Join(dir, addressesFile))
		return err == nil && json.Unmarshal(raw, &a) == nil
	}, patience, pollInterval)
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
	<-service.ended
}

func TestMuxWithoutHandler(t *testing.T) {
	rec := httptest.NewRecorder()
	Mux(nil, func() error { return nil }, telemetry.Nop()).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v1/x", nil))
	require.Equal(t, http.StatusNotFound, rec.Code)
}

const (
	patience = 30 * time.Second
	pollInterval     = 5 * time.Millisecond
)
