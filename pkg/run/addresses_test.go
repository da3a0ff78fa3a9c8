package run_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/run"
)

func TestAddressesAreWrittenOnceReady(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	file := filepath.Join(dir, "addresses.json")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(file, []byte("old"), 0o644))
	asked := 0
	require.NoError(t, run.PublishAddresses(t.Context(), dir, run.Addresses{HTTP: "127.0.0.1:1"}, func() error {
		_, err := os.Stat(file)
		require.ErrorIs(t, err, os.ErrNotExist, "the old file is gone and the new one not yet there")
		if asked++; asked < 3 {
			return errors.New("not yet")
		}
		return nil
	}))
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.JSONEq(t, `{"http":"127.0.0.1:1"}`, string(raw))
}

func TestAddressesOfAProcessThatEndsBefore(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	require.NoError(t, run.PublishAddresses(ctx, dir, run.Addresses{}, func() error { stop(); return errors.New("never") }))
	_, err := os.Stat(filepath.Join(dir, "addresses.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
