// Package embedded is a Kafka-protocol broker and a Confluent-compatible schema registry in this process, for one
// machine: development, tests, and small installations that can live with one copy of their data.
//
// The broker is franz-go's kfake. With a data directory its data survives kill -9; it survives a power loss only with
// Fsync. It keeps one copy, serves all requests from one goroutine, and its compaction is not safe in a crash, so that
// topics on it are declared without (kafka.TopicOptions.NeverCompact).
package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
)

// Config says where the broker and the registry listen and keep their data.
type Config struct {
	// KafkaAddr and RegistryAddr are host:port; empty means a free port of 127.0.0.1.
	KafkaAddr    string
	RegistryAddr string
	// AdvertisedHost is the host that clients are told to connect to; empty for the one in KafkaAddr, or this machine's
	// name where that is a wildcard address.
	AdvertisedHost string
	// DataDir keeps topics, commits and schemas; empty keeps everything in memory.
	DataDir string
	// Fsync syncs each write before it is acknowledged.
	Fsync bool
	Log   *zap.Logger
	// Compatible returns why a new schema is invalid, or not fully compatible with any of the old ones; nil lets every
	// schema pass that is JSON.
	Compatible func(newSchema string, old []string) error
}

// Embedded is a running broker and registry.
type Embedded struct {
	cluster   *kfake.Cluster
	kafkaAddr string
	registry  *http.Server
	url       string
	served    chan error
	lock      *dirLock
}

// Start starts both; they run until Close. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (_ *Embedded, err error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	e := &Embedded{served: make(chan error, 1)}
	defer func() {
		if err != nil {
			_ = e.Close()
		}
	}()
	if err := e.openDir(cfg.DataDir); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := e.startBroker(ctx, cfg); err != nil {
		return nil, err
	}
	if err := e.startRegistry(ctx, cfg); err != nil {
		return nil, err
	}
	fields := []zap.Field{zap.String("kafka", e.kafkaAddr), zap.String("schema_registry", e.url), zap.Duration("took", time.Since(began))}
	switch {
	case cfg.DataDir == "":
		cfg.Log.Info("embedded broker started: everything is kept in memory and gone with this process", fields...)
	case cfg.Fsync:
		cfg.Log.Info("embedded broker started: each write is synced to disk; one copy, for one machine", append(fields, zap.String("data", cfg.DataDir))...)
	default:
		cfg.Log.Info("embedded broker started: data survives a crash of this process, not a power loss (CALLSTREAM_FSYNC=true for that); one copy, for one machine",
			append(fields, zap.String("data", cfg.DataDir))...)
	}
	return e, nil
}

// startBroker starts the broker; what it started before an error is closed by Close.
func (e *Embedded) startBroker(ctx context.Context, cfg Config) error {
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("callstream"),
		kfake.DefaultNumPartitions(1),
		kfake.WithLogger(brokerLog{cfg.Log.Named("broker")}),
	}
	if cfg.DataDir != "" {
		opts = append(opts, kfake.DataDir(filepath.Join(cfg.DataDir, "kafka")))
		if cfg.Fsync {
			opts = append(opts, kfake.SyncWrites())
		}
	}
	listener, err := listen(ctx, cfg.KafkaAddr)
	if err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	e.kafkaAddr = listener.Addr().String()
	host, err := advertised(cfg, listener.Addr())
	if err != nil {
		_ = listener.Close()
		return err
	}
	// The broker tells clients to connect to its listener's address.
	opts = append(opts, kfake.ListenFn(func(string, string) (net.Listener, error) {
		return advertisedListener{Listener: listener, host: host}, nil
	}))
	if e.cluster, err = kfake.NewCluster(opts...); err != nil {
		_ = listener.Close()
		return fmt.Errorf("start the embedded broker: %w", err)
	}
	return nil
}

// StartRegistry starts the schema registry alone, for a Kafka cluster that has none; KafkaAddr is empty then.
func StartRegistry(ctx context.Context, cfg Config) (_ *Embedded, err error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	e := &Embedded{served: make(chan error, 1)}
	if err := errors.Join(e.openDir(cfg.DataDir), e.startRegistry(ctx, cfg)); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	cfg.Log.Info("embedded schema registry started", zap.String("schema_registry", e.url), zap.String("data", cfg.DataDir))
	return e, nil
}

// openDir makes the data directory and locks it.
func (e *Embedded) openDir(dir string) (err error) {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	e.lock, err = lockDir(dir)
	return err
}

func (e *Embedded) startRegistry(ctx context.Context, cfg Config) error {
	schemas := ""
	if cfg.DataDir != "" {
		schemas = filepath.Join(cfg.DataDir, "schemas.json")
	}
	reg, err := newRegistry(schemas, cfg.Compatible)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, cfg.RegistryAddr)
	if err != nil {
		return fmt.Errorf("embedded schema registry: %w", err)
	}
	e.url = "http://" + listener.Addr().String()
	e.registry = &http.Server{
		Handler:           reg.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	go func() { e.served <- e.registry.Serve(listener) }()
	return nil
}

// listen takes "", ":0" and "host:port". An address in use gets an error that says what to set.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	if host, port, err := net.SplitHostPort(addr); err == nil && host == "" && port == "0" {
		addr = "127.0.0.1:0"
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return l, nil
}

func advertised(cfg Config, bound net.Addr) (string, error) {
	if cfg.AdvertisedHost != "" {
		return cfg.AdvertisedHost, nil
	}
	tcp, ok := bound.(*net.TCPAddr)
	if ok && !tcp.IP.IsUnspecified() {
		return tcp.IP.String(), nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find this machine's name, to tell Kafka clients: %w", err)
	}
	return host, nil
}

// advertisedListener is a listener that says another host than it listens on.
type advertisedListener struct {
	net.Listener
	host string
}

// Addr is where clients are sent.
func (l advertisedListener) Addr() net.Addr {
	_, port, _ := net.SplitHostPort(l.Listener.Addr().String())
	return hostAddr(net.JoinHostPort(l.host, port))
}

type hostAddr string

// Network is part of net.Addr.
func (hostAddr) Network() string { return "tcp" }

// String is part of net.Addr.
func (a hostAddr) String() string { return string(a) }

// KafkaAddr is where the broker listens, host:port.
func (e *Embedded) KafkaAddr() string { return e.kafkaAddr }

// RegistryURL is where the registry listens, http://host:port.
func (e *Embedded) RegistryURL() string { return e.url }

// Close stops both and writes what is not written yet. It is safe to repeat.
func (e *Embedded) Close() error {
	var errs []error
	if e.registry != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if err := e.registry.Shutdown(ctx); err != nil {
			_ = e.registry.Close()
		}
		cancel()
		if err := <-e.served; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, fmt.Errorf("serve the embedded schema registry: %w", err))
		}
		e.registry = nil
	}
	if e.cluster != nil {
		e.cluster.Close()
		e.cluster = nil
	}
	if e.lock != nil {
		errs = append(errs, e.lock.unlock())
		e.lock = nil
	}
	return errors.Join(errs...)
}

// brokerLog passes on what the broker finds wrong. Its info messages are one for every request.
type brokerLog struct{ log *zap.Logger }

// Logf is part of kfake.Logger.
func (l brokerLog) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.log.Error(fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.log.Warn(fmt.Sprintf(format, args...))
	}
}
