package run_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/run"
)

func TestTheServerDrainsBeforeTheServiceEnds(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	published := make(chan struct{})
	err := run.Service(ctx, run.Process{
		Addr: "127.0.0.1:0", Handler: http.NotFoundHandler(), DataDir: dir, Log: zap.NewNop(),
		Ready: func() error {
			select {
			case <-published:
				stop()
			default:
				close(published)
			}
			return nil
		},
		Run: func(working context.Context) error {
			<-published
			stop()
			<-working.Done()
			require.Error(t, ctx.Err())
			return nil
		},
	})
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	require.NoError(t, err)
	require.Contains(t, string(raw), `{"http":"127.0.0.1:`)
}

func TestAServiceThatFailsEndsTheProcess(t *testing.T) {
	broken := errors.New("broken")
	p := run.Process{Addr: "127.0.0.1:0", Handler: http.NotFoundHandler(), DataDir: t.TempDir(), Log: zap.NewNop(),
		Ready: func() error { return errors.New("never") }, Run: func(context.Context) error { return broken }}
	require.ErrorIs(t, run.Service(t.Context(), p), broken)
	p.Run = func(context.Context) error { return nil }
	require.ErrorContains(t, run.Service(t.Context(), p), "ended by itself")
	p.Addr = "256.0.0.1:0"
	require.ErrorContains(t, run.Service(t.Context(), p), "listen on 256.0.0.1:0")
}

func TestVersionIsNeverEmpty(t *testing.T) { require.NotEmpty(t, run.Version()) }
