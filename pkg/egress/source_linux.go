package egress

import "syscall"

// ipBindAddressNoPort is IP_BIND_ADDRESS_NO_PORT, which package syscall doesn't name.
const ipBindAddressNoPort = 24

// latePort lets the kernel choose the port of a connection with a source address when it connects, as it does for others.
// Chosen when the address is bound, a port would serve one connection at a time to whatever endpoint, and a minute beyond
// its end: few hundred new connections in a second would use all of them up.
func latePort(_, _ string, c syscall.RawConn) error {
	// A kernel without it only has fewer ports.
	return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1) })
}
