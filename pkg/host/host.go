// Package host runs a service as a process: its configuration, its telemetry, the HTTP listener that every service has
// for health and metrics, and the file that tells others where it listens.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/httpserver"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
)

// Config is what every process has, whatever it serves.
type Config struct {
	HTTPAddr  string `config:"HTTP_ADDR" default:"127.0.0.1:8080" doc:"where the process listens for HTTP: its API if it has one, /healthz, /readyz and /metrics; port 0 picks a free one"`
	DataDir   string `config:"DATA_DIR" default:"./data" doc:"folder for what must survive restarts on this machine (embedded broker, SQLite, generated keys) and for addresses.json"`
	Telemetry telemetry.Config
}

// Validate asks for an address that can be listened on.
func (c *Config) Validate() []string { return CheckAddr("CALLSTREAM_HTTP_ADDR", c.HTTPAddr) }

// CheckAddr returns, as a problem of the setting that variable names, why addr is no address to listen on: host:port, the
// host empty for every interface, the port 0 for a free one.
func CheckAddr(variable, addr string) []string {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return []string{fmt.Sprintf("%s: %q is not an address to listen on: write host:port, such as 127.0.0.1:8080", variable, addr)}
	}
	return nil
}

// Standalone is what a process with one service of the pipeline has: it needs a cluster and a registry that are there
// already.
type Standalone struct {
	Config
	Kafka    kafka.Config
	Registry kafka.RegistryConfig
}

// Validate asks for what only callstream up can do without.
func (s *Standalone) Validate() []string {
	var problems []string
	if len(s.Kafka.Brokers) == 0 {
		problems = append(problems, "CALLSTREAM_KAFKA_BROKERS: it is required: name the seed brokers as host:port,host:port (only callstream up embeds a broker)")
	}
	if len(s.Registry.URLs) == 0 {
		problems = append(problems, "CALLSTREAM_SCHEMA_REGISTRY_URL: it is required: name the Confluent-compatible registry, such as http://registry:8081")
	}
	return problems
}

// Service is what a process runs.
type Service interface {
	// Run works until ctx is cancelled, drains, and returns when everything it started has ended.
	Run(ctx context.Context) error
	// Ready returns nil when the service is able to work, else what it waits for.
	Ready() error
}

// Program describes a binary with one service.
type Program struct {
	Name string
	// Settings is a pointer to the struct to load; Standalone points to the one inside it.
	Settings   any
	Standalone *Standalone
	// HTTPAddr is the default of HTTP_ADDR, so that all services can run on one machine.
	HTTPAddr string
	// Build makes the service once Settings is loaded. The handler, nil for none, is served beside the health endpoints.
	Build func(tel *telemetry.Telemetry, registry *kafka.Registry) (Service, http.Handler, error)
}

// Run loads the settings from args and the environment, and runs the service until ctx is cancelled.
func (p Program) Run(ctx context.Context, args []string) error {
	src := config.OS(args)
	src.Defaults = map[string]string{"HTTP_ADDR": p.HTTPAddr}
	var warnings []string
	src.Warn = func(message string) { warnings = append(warnings, message) }
	if err := config.Load(p.Settings, src); err != nil {
		return err
	}
	cfg := p.Standalone.Config
	tel, err := telemetry.New(cfg.Telemetry, p.Name, run.Version())
	if err != nil {
		return err
	}
	defer tel.Close()
	for _, w := range warnings {
		tel.Log.Warn(w)
	}
	registry, err := kafka.NewRegistry(p.Standalone.Registry)
	if err != nil {
		return err
	}
	service, handler, err := p.Build(tel, registry)
	if err != nil {
		return err
	}
	return Serve(ctx, tel, cfg, Addresses{}, handler, service)
}

// Serve runs a service behind an HTTP server at cfg.HTTPAddr until ctx is cancelled or something fails, and announces
// where it listens, beside the addresses given. At the end the server takes no more requests and drains first, while the
// service still works for those in flight; then the service ends.
func Serve(ctx context.Context, tel *telemetry.Telemetry, cfg Config, a Addresses, handler http.Handler, service Service) error {
	server := httpserver.New(httpserver.Config{Addr: cfg.HTTPAddr, Log: tel.Log}, mux(handler, service.Ready, tel))
	var err error
	if a.HTTP, err = server.Listen(); err != nil {
		return err
	}
	tel.Log.Info("starting", zap.String("version", run.Version()), zap.String("http", a.HTTP))
	group, ctx := run.NewGroup(ctx)
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	group.Go("http", func(ctx context.Context) error {
		defer stop()
		return server.Run(ctx)
	})
	group.Go("service", func(context.Context) error {
		err := service.Run(working)
		if err == nil && working.Err() == nil {
			return errEnded
		}
		return err
	})
	group.Go("addresses", func(ctx context.Context) error { return announce(ctx, tel.Log, cfg.DataDir, a, service.Ready) })
	err = group.Wait()
	tel.Log.Info("stopped")
	return err
}

// errEnded means that a service's Run returned although nobody asked it to.
var errEnded = errors.New("ended by itself")

// mux serves handler, and before it the health endpoints.
func mux(handler http.Handler, ready func() error, tel *telemetry.Telemetry) *http.ServeMux {
	m := httpserver.Health(ready, tel.MetricsHandler())
	if handler != nil {
		m.Handle("/", handler)
	}
	return m
}

// Addresses is the content of addresses.json: where a process listens, as "host:port". What it doesn't serve is omitted.
type Addresses struct {
	HTTP           string `json:"http,omitempty"`
	Kafka          string `json:"kafka,omitempty"`
	SchemaRegistry string `json:"schema_registry,omitempty"`
}

// addressesFile is written to the data directory once the process is ready.
const addressesFile = "addresses.json"

// announce waits until ready returns nil, then writes addresses.json to dir and logs that the process is ready. What
// the process waits for is logged when it changes. The file of an earlier run is removed first, since its addresses are wrong by now.
func announce(ctx context.Context, log *zap.Logger, dir string, a Addresses, ready func() error) error {
	path := filepath.Join(dir, addressesFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the addresses of an earlier run: %w", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	// A short wait is no news: say what is waited for when it has lasted a second.
	last, said := time.Now(), ""
	for {
		err := ready()
		if err == nil {
			break
		}
		if text := err.Error(); text != said && time.Since(last) > time.Second {
			log.Info("waiting", zap.String("for", text))
			said = text
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	if err := writeAddresses(path, a); err != nil {
		return err
	}
	log.Info("ready", zap.String("http", a.HTTP), zap.String("kafka", a.Kafka), zap.String("schema_registry", a.SchemaRegistry))
	return nil
}

// writeAddresses replaces the file in one step, so that nobody reads half of it.
func writeAddresses(path string, a Addresses) error {
	raw, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	next := path + ".next"
	if err := os.WriteFile(next, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	return nil
}
