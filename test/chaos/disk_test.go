//go:build chaos

package chaos

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// P-18, promise 1: the disk under the embedded broker is full. Events are refused, not lost; what was accepted survives
// kill -9 at that moment; with room again everything goes on by itself.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Fatalf("a small file system can't be mounted (%v): this test needs root, and CAP_SYS_ADMIN in a container", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	w := newUp(t, dir)
	stop := w.flowing(8)
	defer stop()
	w.progress("events flow", 200)
	before := w.failures()
	refused := func(most int) func() error {
		return func() error {
			if n := w.failures() - before; n < most {
				return fmt.Errorf("%d refused so far, %d accepted", n, w.count())
			}
			return nil
		}
	}
	eventually(t, "the disk is full, and events are refused", refused(20))
	require.Contains(t, w.process(up).Log(), "no space left on device")
	w.unready(up)
	w.process(up).Kill()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=96m"))
	w.launch(up)
	w.ready(up)
	w.progress("events flow, with room and after a crash", 200)
	before = w.failures()
	eventually(t, "the disk is full again, and events are refused", refused(20))
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=2g"))
	w.progress("events flow, with room and without a restart", 200)
	w.again(up)
	stop()
	w.report("the disk full")
}
