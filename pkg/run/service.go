package run

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"

	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/httpserver"
)

// Process is a program that runs one service behind one HTTP server.
type Process struct {
	Addr    string // where the server listens
	Handler http.Handler
	DataDir string // where addresses.json is written
	Log     *zap.Logger
	// Ready is nil once the service is able to work.
	Ready func() error
	// Run runs the service until its context ends.
	Run func(ctx context.Context) error
}

// Service runs a process until ctx ends or something fails. At the end the server takes no more requests and drains
// first, while the service still works for those in flight; then the service ends.
func Service(ctx context.Context, p Process) error {
	server := httpserver.New(httpserver.Config{Addr: p.Addr, Log: p.Log}, p.Handler)
	addr, err := server.Listen()
	if err != nil {
		return err
	}
	p.Log.Info("listening", zap.String("http", addr))
	g, ctx := NewGroup(ctx)
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.Go("http", func(ctx context.Context) error {
		defer stop()
		return server.Run(ctx)
	})
	g.Go("service", func(context.Context) error {
		err := p.Run(working)
		if err == nil && working.Err() == nil {
			return fmt.Errorf("ended by itself")
		}
		return err
	})
	g.Go("addresses", func(ctx context.Context) error {
		if err := PublishAddresses(ctx, p.DataDir, Addresses{HTTP: addr}, p.Ready); err != nil {
			return err
		}
		if ctx.Err() == nil {
			p.Log.Info("ready", zap.String("http", addr))
		}
		return nil
	})
	return g.Wait()
}

// Version is the version that the program was built as: the module's, or the commit, or "dev".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "dev"
}

// Warner prints warnings about the configuration, which come before there is a logger.
func Warner(name string) func(string) {
	return func(message string) { fmt.Fprintf(os.Stderr, "%s: warning: %s\n", name, message) }
}
