// Package run holds what every program does the same: signals, exit statuses, memory defaults, waiting, and running
// several components until the first one fails.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/callstream/callstream/pkg/config"
)

// The exit statuses of our programs.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitConfig = 2 // the configuration or the command line is wrong
)

// Status is an error that only stands for an exit status: what there was to say has been said.
type Status int

func (s Status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Main runs fn with the program's arguments until it returns, and exits with the status that its error stands for.
// SIGTERM and SIGINT cancel fn's context; a second one kills the process.
func Main(name string, fn func(ctx context.Context, args []string) error) {
	Tune(os.LookupEnv, memoryAvailable)
	ctx, stop := Signals(context.Background())
	err := fn(ctx, os.Args[1:])
	stop()
	os.Exit(Report(name, err, os.Stdout, os.Stderr))
}

// Signals returns a context that SIGTERM or SIGINT cancels. After the first signal the default action is back in
// place, so that a second one ends a process that hangs.
func Signals(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Report writes what a person needs to know about err and returns the exit status for it.
func Report(name string, err error, stdout, stderr io.Writer) int {
	if err == nil || errors.Is(err, context.Canceled) {
		return ExitOK
	}
	if text, ok := config.IsHelp(err); ok {
		fmt.Fprint(stdout, text)
		return ExitOK
	}
	var status Status
	if errors.As(err, &status) {
		return int(status)
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	var wrong *config.Errors
	if errors.As(err, &wrong) {
		return ExitConfig
	}
	return ExitFailed
}

// Tune sets the garbage collector's defaults, unless the user gave GOGC or GOMEMLIMIT: those stand.
func Tune(lookup func(string) (string, bool), available func() int64) {
	if _, given := lookup("GOGC"); !given {
		collect()
	}
	if _, given := lookup("GOMEMLIMIT"); !given {
		if n := available(); n > 0 {
			// Near this the collector works harder instead of letting the kernel kill the process.
			debug.SetMemoryLimit(n / 10 * 7)
		}
	}
}

// Group runs components together. The first one to fail cancels the others; Wait returns when all have ended.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	err    error
}

// NewGroup returns a Group and the context that its components are to run with.
func NewGroup(parent context.Context) (*Group, context.Context) {
	ctx, cancel := context.WithCancelCause(parent)
	return &Group{ctx: ctx, cancel: cancel}, ctx
}

// Go runs a component. Its error, unless it is just the cancellation, ends the group; nil ends only the component.
func (g *Group) Go(name string, fn func(ctx context.Context) error) {
	g.wg.Go(func() {
		err := fn(g.ctx)
		if err == nil || errors.Is(err, context.Canceled) && g.ctx.Err() != nil {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.err == nil {
			g.err = fmt.Errorf("%s: %w", name, err)
			g.cancel(g.err)
		}
	})
}

// Stop cancels every component, as a failure would.
func (g *Group) Stop() { g.cancel(context.Canceled) }

// Wait waits for every component and returns the first failure.
func (g *Group) Wait() error {
	g.wg.Wait()
	g.cancel(context.Canceled)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}
