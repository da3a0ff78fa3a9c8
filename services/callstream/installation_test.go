package callstream

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// installation is a `callstream up` in this process, for commands that are tested through the front door.
type installation struct {
	api  string
	dir  string
	stop func()
}

// startUp runs `callstream up` until the test ends.
func startUp(t *testing.T) *installation {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan result, 1)
	go func() {
		ended <- commandIn(ctx, "", "up", "--data-dir", dir, "--http-addr", "127.0.0.1:0", "--kafka-addr", "127.0.0.1:0",
			"--schema-registry-addr", "127.0.0.1:0", "--partitions", "2", "--log-level", "error")
	}()
	i := &installation{dir: dir}
	i.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, (<-ended).err)
	})
	var addresses struct{ HTTP string }
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		select {
		case r := <-ended:
			ended <- r
			t.Fatalf("up ended: %v\n%s", r.err, r.out)
		default:
		}
		raw, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
		require.NoError(c, err)
		require.NoError(c, json.Unmarshal(raw, &addresses))
	}, time.Minute, 20*time.Millisecond)
	t.Cleanup(i.stop)
	i.api = "http://" + addresses.HTTP
	return i
}

// run runs a command line against the installation.
func (i *installation) run(t *testing.T, args ...string) result {
	t.Helper()
	return commandIn(t.Context(), "", append(args, "--api", i.api)...)
}

// subscription returns the one with a name, as the API shows it.
func (i *installation) subscription(t *testing.T, name string) map[string]any {
	t.Helper()
	var list struct{ Items []map[string]any }
	r := i.run(t, "subscriptions", "list", "--json")
	require.NoError(t, r.err)
	require.NoError(t, json.Unmarshal([]byte(r.out), &list))
	for _, s := range list.Items {
		if s["name"] == name {
			return s
		}
	}
	return nil
}
