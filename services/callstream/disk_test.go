package callstream

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// P-18: what is left on the disk is told of a data directory that is still to be made, too.
func TestRoomOnTheDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet")
	require.NoError(t, room(dir, 1))
	require.ErrorContains(t, room(dir, 1<<62), "free under "+dir)
}
