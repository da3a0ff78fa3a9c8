package callstream

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// result is what a command line has printed.
type result struct {
	out, hints string
	err        error
}

// command runs a command line to its end.
func command(t *testing.T, args ...string) result {
	t.Helper()
	return commandIn(t.Context(), "", args...)
}

func commandIn(ctx context.Context, stdin string, args ...string) result {
	var out, hints bytes.Buffer
	cmd := NewCommand("test", args)
	cmd.SetOut(&out)
	cmd.SetErr(&hints)
	cmd.SetIn(bytes.NewBufferString(stdin))
	err := explain(cmd.ExecuteContext(ctx))
	return result{out: out.String(), hints: hints.String(), err: err}
}

func TestEveryCommandHasHelp(t *testing.T) {
	var walk func(path []string)
	walk = func(path []string) {
		r := command(t, append(path, "--help")...)
		require.NoError(t, r.err)
		require.Contains(t, r.out, "Usage:", "%v", path)
		cmd, _, err := NewCommand("test", nil).Find(path)
		require.NoError(t, err)
		require.NotEmpty(t, cmd.Short, "%v has no description", path)
		for _, sub := range cmd.Commands() {
			if !sub.Hidden && sub.Name() != "help" && sub.Name() != "completion" {
				walk(append(append([]string{}, path...), sub.Name()))
			}
		}
	}
	walk(nil)
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	for name, args := range map[string][]string{
		"no such command": {"simulte"},
		"no such flag":    {"simulate", "--call", "3"},
		"two rates":       {"simulate", "--rate", "3", "--event-rate", "3"},
		"bad status":      {"listen", "--status", "99"},
		"bad secret":      {"listen", "--addr", "127.0.0.1:0", "--secret", "abc"},
		"bad API address": {"subscriptions", "list", "--api", "ftp://x"},
		"bad tenant":      {"subscriptions", "list", "--tenant", "a/b"},
		"bad header":      {"subscriptions", "create", "--header", "X"},
		"no such scope":   {"keys", "create", "--scopes", "everything"},
		"no scope":        {"keys", "create"},
		"empty update":    {"subscriptions", "update", "sub_1"},
		"no id":           {"subscriptions", "get"},
		"extra argument":  {"listen", "now"},
	} {
		t.Run(name, func(t *testing.T) {
			r := command(t, args...)
			require.Error(t, r.err)
			require.Empty(t, r.out)
		})
	}
	require.ErrorContains(t, command(t, "listen", "--adr", ":1").err, "callstream listen --help")
}

func TestHealth(t *testing.T) {
	ready := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || !ready {
			http.Error(w, "not ready: waiting for Kafka", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	}))
	defer server.Close()
	require.ErrorContains(t, command(t, "health", server.URL).err, "waiting for Kafka")
	ready = true
	r := command(t, "health", server.URL)
	require.NoError(t, r.err)
	require.Equal(t, "ready\n", r.out)
	server.Close()
	require.Error(t, command(t, "health", server.URL).err)
}
