package httpserver_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/callstream/callstream/pkg/httpserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}

func TestRequestsInFlightAreDrained(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := httpserver.New(httpserver.Config{Addr: "127.0.0.1:0"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-httpserver.Draining(r.Context())
		<-release
		if r.Context().Err() == nil {
			_, _ = io.WriteString(w, "whole")
		}
	}))
	addr, err := s.Listen()
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	answer := make(chan string, 1)
	go func() {
		_, body := get(t, "http://"+addr)
		answer <- body
	}()
	<-entered
	stop()
	close(release)
	require.Equal(t, "whole", <-answer)
	require.NoError(t, <-ran)
}

func TestAHangingRequestIsCut(t *testing.T) {
	entered := make(chan struct{})
	s := httpserver.New(httpserver.Config{Addr: "127.0.0.1:0", DrainTimeout: time.Millisecond},
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
		}))
	addr, err := s.Listen()
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	failed := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, "http://"+addr, nil)
		transport := &http.Transport{DisableKeepAlives: true}
		res, err := transport.RoundTrip(req)
		if err == nil {
			res.Body.Close()
		}
		failed <- err
	}()
	<-entered
	stop()
	require.NoError(t, <-ran)
	require.Error(t, <-failed)
}

func TestAnAddressInUse(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	err = httpserver.New(httpserver.Config{Addr: l.Addr().String()}, http.NotFoundHandler()).Run(t.Context())
	require.ErrorContains(t, err, "listen on "+l.Addr().String())
}

func TestHealth(t *testing.T) {
	waiting := errors.New("reads the keys:\n12 behind")
	mux := httpserver.Health(func() error { return waiting }, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "metrics")
	}))
	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	code, body := ask("/healthz")
	require.Equal(t, 200, code)
	require.Equal(t, "ok\n", body)
	code, body = ask("/readyz")
	require.Equal(t, 503, code)
	require.Equal(t, "not ready: reads the keys:; 12 behind\n", body)
	waiting = nil
	code, _ = ask("/readyz")
	require.Equal(t, 200, code)
	_, body = ask("/metrics")
	require.Equal(t, "metrics", body)
}
