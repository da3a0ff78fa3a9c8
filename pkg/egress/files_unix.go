//go:build unix

package egress

import "syscall"

// openFiles is how many files this process may have open. The runtime has raised the limit to the hard one at the start.
func openFiles() (uint64, bool) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, false
	}
	return uint64(limit.Cur), true //nolint:unconvert // signed on some systems
}
