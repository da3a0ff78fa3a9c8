// Package httpserver runs an HTTP server with the limits that a service on a network needs, and serves the health
// endpoints that every service has.
package httpserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Config describes a server. Zero fields take the defaults that their comments name.
type Config struct {
	Addr string // "host:port"; port 0 picks a free one
	Log  *zap.Logger
	// ReadHeaderTimeout bounds how long a client may take to send its headers. Default 10 s.
	ReadHeaderTimeout time.Duration
	// ReadTimeout bounds how long a client may take to send a whole request. Default 60 s.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request. Default 120 s.
	IdleTimeout time.Duration
	// MaxHeaderBytes bounds the headers of a request. Default 64 KiB.
	MaxHeaderBytes int
	// DrainTimeout is how long requests in flight may take to end at shutdown; then they are cut. Default 20 s.
	DrainTimeout time.Duration
}

// Server is an HTTP server. Listen, then Run.
type Server struct {
	cfg      Config
	server   *http.Server
	listener net.Listener
}

// New makes a server; it doesn't listen yet. There is no write timeout: event streams last, and a handler bounds itself.
func New(cfg Config, handler http.Handler) *Server {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	orDuration := func(d *time.Duration, fallback time.Duration) {
		if *d == 0 {
			*d = fallback
		}
	}
	orDuration(&cfg.ReadHeaderTimeout, 10*time.Second)
	orDuration(&cfg.ReadTimeout, 60*time.Second)
	orDuration(&cfg.IdleTimeout, 120*time.Second)
	orDuration(&cfg.DrainTimeout, 20*time.Second)
	if cfg.MaxHeaderBytes == 0 {
		cfg.MaxHeaderBytes = 64 << 10
	}
	return &Server{cfg: cfg, server: &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: cfg.ReadHeaderTimeout,
		ReadTimeout:       cfg.ReadTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeaderBytes,
		ErrorLog:          zap.NewStdLog(cfg.Log.Named("http")),
	}}
}

// Listen binds the address and returns the one it got, "host:port".
func (s *Server) Listen() (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", s.cfg.Addr)
	if err != nil {
		return "", fmt.Errorf("httpserver: listen on %s: %w", s.cfg.Addr, err)
	}
	s.listener = l
	return l.Addr().String(), nil
}

// Run serves until ctx is cancelled, then takes no new requests, lets those in flight end within DrainTimeout, and
// returns nil. It listens first if Listen wasn't called.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		if _, err := s.Listen(); err != nil {
			return err
		}
	}
	// Requests outlive ctx on purpose: they are drained. Streams that would never end watch Draining.
	base, cut := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), drainKey{}, ctx.Done()))
	defer cut()
	s.server.BaseContext = func(net.Listener) context.Context { return base }
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("httpserver: serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	err := s.server.Shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		s.cfg.Log.Warn("requests were cut at shutdown", zap.Duration("after", s.cfg.DrainTimeout))
		err = s.server.Close()
	}
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	if err != nil {
		return fmt.Errorf("httpserver: shut down: %w", err)
	}
	return nil
}

type drainKey struct{}

// Draining returns a channel that is closed when the server that ctx's request came to shuts down. Handlers that stream
// without end stop then. For a request from elsewhere the channel is never closed.
func Draining(ctx context.Context) <-chan struct{} {
	done, _ := ctx.Value(drainKey{}).(<-chan struct{})
	return done
}

// Health serves /healthz (the process is alive), /readyz (it is able to work, or what it waits for) and /metrics.
func Health(ready func() error, metrics http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			w.Header().Set("Retry-After", "1")
			plain(w, http.StatusServiceUnavailable, "not ready: "+strings.ReplaceAll(err.Error(), "\n", "; "))
			return
		}
		plain(w, http.StatusOK, "ready")
	})
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	return mux
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write([]byte(text + "\n"))
}
