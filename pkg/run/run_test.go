package run_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/run"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReport(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code int
		out  string
		errs string
	}{
		"success":       {nil, run.ExitOK, "", ""},
		"cancelled":     {fmt.Errorf("serve: %w", context.Canceled), run.ExitOK, "", ""},
		"failure":       {errors.New("no broker"), run.ExitFailed, "", "x: no broker\n"},
		"configuration": {fmt.Errorf("load: %w", &config.Errors{Problems: []config.Problem{{Where: "A", Detail: "b"}}}), run.ExitConfig, "", "x: load: 1 problem in the configuration:\n  A: b\n"},
		"status":        {fmt.Errorf("diff: %w", run.Status(2)), 2, "", ""},
		"help":          {&config.Help{Text: "usage\n"}, run.ExitOK, "usage\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			require.Equal(t, c.code, run.Report("x", c.err, &out, &errs))
			require.Equal(t, c.out, out.String())
			require.Equal(t, c.errs, errs.String())
		})
	}
}

func TestASignalCancels(t *testing.T) {
	ctx, stop := run.Signals(t.Context())
	defer stop()
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	<-ctx.Done()
}

func TestTuneRespectsTheUser(t *testing.T) {
	gc := debug.SetGCPercent(100)
	limit := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetGCPercent(gc); debug.SetMemoryLimit(limit) })
	given := func(string) (string, bool) { return "1", true }
	absent := func(string) (string, bool) { return "", false }
	gigabyte := func() int64 { return 1 << 30 }

	run.Tune(given, gigabyte)
	require.Equal(t, 100, debug.SetGCPercent(100))
	require.Equal(t, limit, debug.SetMemoryLimit(-1))

	run.Tune(absent, func() int64 { return 0 })
	require.Equal(t, 400, debug.SetGCPercent(100))
	require.Equal(t, limit, debug.SetMemoryLimit(-1), "unknown memory sets no limit")

	run.Tune(absent, gigabyte)
	require.Equal(t, int64(1<<30)/10*7, debug.SetMemoryLimit(-1))
}

func TestTheFirstFailureEndsTheGroup(t *testing.T) {
	g, ctx := run.NewGroup(t.Context())
	broken := errors.New("broken")
	ended := make(chan struct{})
	g.Go("waits", func(ctx context.Context) error { <-ctx.Done(); close(ended); return ctx.Err() })
	g.Go("finishes", func(context.Context) error { return nil })
	g.Go("fails", func(context.Context) error { return broken })
	err := g.Wait()
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "fails: broken")
	<-ended
	require.ErrorIs(t, context.Cause(ctx), broken)
}

func TestStoppingAGroupIsNoFailure(t *testing.T) {
	g, _ := run.NewGroup(t.Context())
	g.Go("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	g.Stop()
	require.NoError(t, g.Wait())
}
