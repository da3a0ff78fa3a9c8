// Package host runs a service as a process: its configuration, its telemetry, the HTTP listener that every service has
// for health and metrics, and the file that tells others where it listens.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/httpserver"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
)

// Config is what every process has, whatever it serves. The defaults of HTTP_ADDR differ between services: each gives
// its own in Program.Defaults.
type Config struct {
	HTTPAddr  string `config:"HTTP_ADDR" default:"127.0.0.1:8080" doc:"where the process listens for HTTP: its API and console if it has them, /healthz, /readyz and /metrics; port 0 picks a free one"`
	DataDir   string `config:"DATA_DIR" default:"./data" doc:"folder for what must survive restarts on this machine (embedded broker, SQLite, generated keys) and for addresses.json"`
	Telemetry telemetry.Config
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
	Name    string
	Version string
	// Config is a pointer to the struct to load; Host points to the Config inside it.
	Config any
	Host   *Config
	// Defaults replace default tags, by key ("HTTP_ADDR").
	Defaults map[string]string
	// Build makes the service once Config is loaded. The handler, nil for none, is served beside the health endpoints.
	Build func(tel *telemetry.Telemetry) (Service, http.Handler, error)
}

// Run loads the configuration from args and the environment, and runs the service until ctx is cancelled.
func (p Program) Run(ctx context.Context, args []string) error {
	src := config.OS(args)
	src.Defaults = p.Defaults
	var warnings []string
	src.Warn = func(message string) { warnings = append(warnings, message) }
	if err := config.Load(p.Config, src); err != nil {
		return err
	}
	tel, err := telemetry.New(p.Host.Telemetry, p.Name, p.Version)
	if err != nil {
		return err
	}
	defer shutdown(ctx, tel)
	for _, w := range warnings {
		tel.Log.Warn(w)
	}
	service, handler, err := p.Build(tel)
	if err != nil {
		return err
	}
	server := httpserver.New(httpserver.Config{Addr: p.Host.HTTPAddr, Log: tel.Log}, Mux(handler, service.Ready, tel))
	addr, err := server.Listen()
	if err != nil {
		return err
	}
	tel.Log.Info("starting", zap.String("version", p.Version), zap.String("http", addr))
	group, _ := run.NewGroup(ctx)
	group.Go("http", server.Run)
	group.Go(p.Name, service.Run)
	group.Go("addresses", func(ctx context.Context) error {
		return Announce(ctx, tel.Log, p.Host.DataDir, Addresses{HTTP: addr}, service.Ready)
	})
	err = group.Wait()
	tel.Log.Info("stopped")
	return err
}

func shutdown(ctx context.Context, tel *telemetry.Telemetry) {
	// Spans and logs of the drain still have to go out, so not under ctx, which is cancelled by now.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := tel.Shutdown(last); err != nil {
		tel.Log.Warn("telemetry did not flush", zap.Error(err))
	}
}

// Mux serves handler, and before it the health endpoints.
func Mux(handler http.Handler, ready func() error, tel *telemetry.Telemetry) *http.ServeMux {
	mux := httpserver.Health(ready, tel.MetricsHandler())
	if handler != nil {
		mux.Handle("/", handler)
	}
	return mux
}

// Addresses is the content of addresses.json: where a process listens, as "host:port". What it doesn't serve is omitted.
type Addresses struct {
	HTTP           string `json:"http,omitempty"`
	Kafka          string `json:"kafka,omitempty"`
	SchemaRegistry string `json:"schema_registry,omitempty"`
}

// addressesFile is written to the data directory once the process is ready.
const addressesFile = "addresses.json"

// Announce waits until ready returns nil, then writes addresses.json to dir and logs that the process is ready. What
// the process waits for is logged when it changes. The file of an earlier run is removed first, since its addresses are wrong by now.
func Announce(ctx context.Context, log *zap.Logger, dir string, a Addresses, ready func() error) error {
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
