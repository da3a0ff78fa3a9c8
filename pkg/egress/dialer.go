package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Resolver finds the addresses of a name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// dialer connects to addresses that it resolved and checked itself.
type dialer struct {
	resolver     Resolver
	allowPrivate bool
	proxy        *url.URL // with its port
	proxyTLS     *tls.Config
	sources      []netip.Addr // to leave from; any will do where there are none
	net          net.Dialer
	room         *room
	timeout      time.Duration
}

// DialContext resolves the host of address, checks every address of the answer and connects to the first that accepts.
// One forbidden address refuses the name: an answer that mixes public and internal addresses is how rebinding starts.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.timeout)
		defer cancel()
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &Error{ClassInvalid, "resolve", err}
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, &Error{ClassInvalid, "resolve", fmt.Errorf("port %q is not a number from 1 to 65535", portText)}
	}
	addrs, err := d.resolve(ctx, network, host)
	if err != nil {
		return nil, err
	}
	if d.proxy == nil && len(d.sources) > 0 {
		if addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !d.leavesTo(a) }); len(addrs) == 0 {
			return nil, &Error{ClassConnect, "connect", errFamily}
		}
	}
	var firstErr error
	for i, a := range addrs {
		conn, err := d.connect(ctx, netip.AddrPortFrom(a, uint16(port)), len(addrs)-i)
		if err == nil {
			return conn, nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, firstErr
}

func (d *dialer) resolve(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if err := CheckAddr(a, d.allowPrivate); err != nil {
			return nil, &Error{ClassBlocked, "connect", err}
		}
		return []netip.Addr{a.WithZone("").Unmap()}, nil
	}
	family := "ip"
	switch network {
	case "tcp4":
		family = "ip4"
	case "tcp6":
		family = "ip6"
	}
	addrs, err := d.resolver.LookupNetIP(ctx, family, host)
	if err != nil {
		return nil, &Error{classify(err), "resolve", err}
	}
	if len(addrs) == 0 {
		return nil, &Error{ClassDNS, "resolve", &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}}
	}
	out := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		if err := CheckAddr(a, d.allowPrivate); err != nil {
			return nil, &Error{ClassBlocked, "connect", err}
		}
		out[i] = a.WithZone("").Unmap()
	}
	return out, nil
}

// connect opens a connection to one checked address; left is the number of addresses still to try, this one included, which
// share what is left of the deadline.
func (d *dialer) connect(ctx context.Context, to netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		share := max(time.Until(deadline)/time.Duration(left), 2*time.Second)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	if d.proxy != nil {
		return d.tunnel(ctx, to)
	}
	conn, err := d.open(ctx, to.String(), to.Addr())
	if err != nil {
		return nil, &Error{classify(err), "connect", err}
	}
	return conn, nil
}

var errFamily = errors.New("it has no address of a family that connections may leave from (CALLSTREAM_EGRESS_SOURCE_ADDRESS)")

// leavesTo says whether there is an address to leave from to a.
func (d *dialer) leavesTo(a netip.Addr) bool {
	return slices.ContainsFunc(d.sources, func(source netip.Addr) bool { return source.Is4() == a.Is4() })
}

// open opens a connection from the source address, where one is set. The address of to is not known for a proxy that has
// a name: then each source is tried with what the name has of its family.
func (d *dialer) open(ctx context.Context, address string, to netip.Addr) (net.Conn, error) {
	if len(d.sources) == 0 {
		return d.openFrom(ctx, d.net, address)
	}
	err := errFamily
	for _, source := range d.sources {
		if to.IsValid() && to.Is4() != source.Is4() {
			continue
		}
		from := d.net
		from.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		from.Control = latePort
		var conn net.Conn
		if conn, err = d.openFrom(ctx, from, address); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (d *dialer) openFrom(ctx context.Context, from net.Dialer, address string) (net.Conn, error) {
	if err := d.room.enter(ctx); err != nil {
		return nil, err
	}
	conn, err := from.DialContext(ctx, "tcp", address)
	if err != nil {
		d.room.exit()
		return nil, err
	}
	return &roomed{TCPConn: conn.(*net.TCPConn), room: d.room}, nil //nolint:forcetypeassert // what "tcp" gives
}

// tunnel asks the proxy for a connection to an address. The proxy itself is the operator's choice and is not checked.
func (d *dialer) tunnel(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	// A proxy that can't be reached, in time or at all, is not the endpoint's fault; and where it is, is nothing for those
	// who read of failures.
	fail := func(doing string, err error) error {
		var known *Error
		if errors.As(err, &known) {
			return known
		}
		if ctx.Err() != nil && classify(ctx.Err()) == ClassCanceled {
			return &Error{ClassCanceled, "proxy", ctx.Err()}
		}
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return &Error{ClassProxy, "proxy", fmt.Errorf("%s: %w", doing, err)}
	}
	at, _ := netip.ParseAddr(d.proxy.Hostname())
	conn, err := d.open(ctx, d.proxy.Host, at)
	if err != nil {
		return nil, fail("connecting to it", err)
	}
	if d.proxy.Scheme == "https" {
		cfg := d.proxyTLS.Clone()
		cfg.ServerName = d.proxy.Hostname()
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, fail("handshake", err)
		}
		conn = secure
	}
	if err := d.connectVia(ctx, conn, to); err != nil {
		_ = beneath(conn).Close()
		var known *Error
		if errors.As(err, &known) {
			return nil, known
		}
		// Here the time may be what the endpoint took.
		if class := classify(err); class == ClassTimeout || class == ClassCanceled {
			return nil, &Error{class, "proxy", err}
		}
		return nil, &Error{ClassProxy, "proxy", err}
	}
	return conn, nil
}

// connectVia turns a connection to the proxy into one to the endpoint. An *Error among its errors is the endpoint's.
func (d *dialer) connectVia(ctx context.Context, conn net.Conn, to netip.AddrPort) error {
	// A deadline in the past unblocks the read and the write below when the context ends first.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	ask := httpAsk
	if d.proxy.Scheme == "socks5" {
		ask = socksAsk
	}
	err := ask(conn, d.proxy.User, to)
	if err == nil && !stop() {
		err = errors.New("the tunnel came too late")
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// httpAsk asks an HTTP proxy for a connection to an address.
func httpAsk(conn net.Conn, user *url.Userinfo, to netip.AddrPort) error {
	target := to.String()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("asking for a tunnel: %w", err)
	}
	reader := bufio.NewReader(&limitedConn{Conn: conn, left: 64 << 10})
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		return fmt.Errorf("reading the answer to CONNECT: %w", err)
	}
	// A CONNECT answer of 2xx has no body; that of a refusal ends with the connection.
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode/100 == 2:
	case resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusGatewayTimeout:
		// What proxies say when it is the endpoint that doesn't answer them.
		return &Error{ClassConnect, "proxy", fmt.Errorf("the proxy can't reach the endpoint (status %d)", resp.StatusCode)}
	default:
		return fmt.Errorf("the proxy refused the tunnel with status %d", resp.StatusCode)
	}
	if reader.Buffered() > 0 {
		// The client speaks first in both TLS and HTTP, so these bytes cannot be the endpoint's.
		return errors.New("the proxy sent more than its answer to CONNECT")
	}
	return nil
}

// limitedConn bounds what a proxy may answer to CONNECT.
type limitedConn struct {
	net.Conn
	left int
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("the answer to CONNECT is too long")
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}
