package run_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/run"
)

// Every binary of ours learns its version from the same linker flag, which the Makefile and the Dockerfile give.
func TestTheLinkerSetsTheVersion(t *testing.T) {
	for _, file := range []string{"../../Makefile", "../../deploy/Dockerfile"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(text), "-X github.com/callstream/callstream/pkg/run.version=", file)
	}
	dir := t.TempDir()
	main := "package main\n\nimport \"github.com/callstream/callstream/pkg/run\"\n\nfunc main() { print(run.Version()) }\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(main), 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "run", "-ldflags=-X github.com/callstream/callstream/pkg/run.version=v1.2.3", filepath.Join(dir, "main.go")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "v1.2.3", string(out))
}

func TestVersionIsNeverEmpty(t *testing.T) { require.NotEmpty(t, run.Version()) }
