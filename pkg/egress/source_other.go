//go:build !linux

package egress

import "syscall"

// latePort has nothing to set here.
func latePort(_, _ string, _ syscall.RawConn) error { return nil }
