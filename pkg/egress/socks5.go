package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
)

// What RFC 1928 and RFC 1929 number.
const (
	socksVersion     = 5
	socksAnyone      = 0
	socksPassword    = 2
	socksConnect     = 1
	socksIPv4        = 1
	socksName        = 3
	socksIPv6        = 4
	socksAuthVersion = 1
)

// socksAsk asks a SOCKS5 proxy for a connection to an address. Nothing is read beyond the answer: what follows is the
// endpoint's.
func socksAsk(conn net.Conn, user *url.Userinfo, to netip.AddrPort) error {
	hello := []byte{socksVersion, 1, socksAnyone}
	if user != nil {
		hello = []byte{socksVersion, 2, socksAnyone, socksPassword}
	}
	var answer [4]byte
	if _, err := conn.Write(hello); err != nil {
		return fmt.Errorf("greeting the proxy: %w", err)
	}
	if _, err := io.ReadFull(conn, answer[:2]); err != nil {
		return fmt.Errorf("reading the proxy's greeting: %w", err)
	}
	switch method := answer[1]; {
	case answer[0] != socksVersion:
		return errors.New("the proxy doesn't speak SOCKS5")
	case method == socksPassword && user != nil:
		if err := socksLogIn(conn, user); err != nil {
			return err
		}
	case method != socksAnyone:
		return errors.New("the proxy wants another authentication than it was offered")
	}
	ask := []byte{socksVersion, socksConnect, 0, socksIPv4}
	if to.Addr().Is6() {
		ask[3] = socksIPv6
	}
	ask = binary.BigEndian.AppendUint16(append(ask, to.Addr().AsSlice()...), to.Port())
	if _, err := conn.Write(ask); err != nil {
		return fmt.Errorf("asking for a connection: %w", err)
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("reading the proxy's answer: %w", err)
	}
	if answer[0] != socksVersion {
		return errors.New("the proxy's answer is not SOCKS5")
	}
	if err := socksRefusal(answer[1]); err != nil {
		return err
	}
	size := 0 // of the address that the proxy connects from
	switch answer[3] {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksName:
		if _, err := io.ReadFull(conn, answer[:1]); err != nil {
			return fmt.Errorf("reading the proxy's answer: %w", err)
		}
		size = int(answer[0])
	default:
		return errors.New("the proxy's answer has an address of no known kind")
	}
	if _, err := io.ReadFull(conn, make([]byte, size+2)); err != nil {
		return fmt.Errorf("reading the proxy's answer: %w", err)
	}
	return nil
}

func socksLogIn(conn net.Conn, user *url.Userinfo) error {
	name := user.Username()
	password, _ := user.Password()
	b := append([]byte{socksAuthVersion, byte(len(name))}, name...) // the lengths are checked with the configuration
	b = append(append(b, byte(len(password))), password...)
	var answer [2]byte
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("logging in to the proxy: %w", err)
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("logging in to the proxy: %w", err)
	}
	if answer[0] != socksAuthVersion || answer[1] != 0 {
		return errors.New("the proxy refused the user or the password")
	}
	return nil
}

// socksRefusal is nil for 0. What lies with the endpoint is told from what lies with the proxy: only the first may count
// against it.
func socksRefusal(reply byte) error {
	switch reply {
	case 0:
		return nil
	case 2:
		return errors.New("the proxy's rules forbid the connection")
	case 3, 4, 6:
		return &Error{ClassConnect, "proxy", errors.New("the proxy can't reach the endpoint")}
	case 5:
		return &Error{ClassRefused, "proxy", errors.New("the endpoint refused the proxy's connection")}
	}
	return fmt.Errorf("the proxy failed with reply %d", reply)
}
