//go:build unix

package egress

import (
	"errors"
	"net"
	"syscall"
)

// stillOpen looks, without waiting, whether an idle connection has been closed by the other side or has something to
// read, which before a request it must not have.
func stillOpen(c net.Conn) bool {
	sys, ok := beneath(c).(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EWOULDBLOCK)
		return true
	})
	return err == nil && open
}
