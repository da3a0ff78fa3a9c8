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
	proxy        *url.URL
	proxyTLS     *tls.Config
	net          net.Dialer
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
	conn, err := d.net.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, &Error{classify(err), "connect", err}
	}
	return conn, nil
}

// tunnel asks the proxy for a connection to an address. The proxy itself is the operator's choice and is not checked.
func (d *dialer) tunnel(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		if class := classify(err); class == ClassTimeout || class == ClassCanceled {
			return nil, &Error{class, "proxy", err}
		}
		return nil, &Error{ClassProxy, "proxy", err}
	}
	port := d.proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[d.proxy.Scheme]
	}
	conn, err := d.net.DialContext(ctx, "tcp", net.JoinHostPort(d.proxy.Hostname(), port))
	if err != nil {
		return fail(err)
	}
	if d.proxy.Scheme == "https" {
		cfg := d.proxyTLS.Clone()
		cfg.ServerName = d.proxy.Hostname()
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return fail(err)
		}
		conn = secure
	}
	tunnelled, err := d.connectVia(ctx, conn, to)
	if err != nil {
		_ = conn.Close()
		return fail(err)
	}
	return tunnelled, nil
}

func (d *dialer) connectVia(ctx context.Context, conn net.Conn, to netip.AddrPort) (net.Conn, error) {
	// A deadline in the past unblocks the read and the write below when the context ends first.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	target := to.String()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if u := d.proxy.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	ended := func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	if err := req.Write(conn); err != nil {
		return nil, ended(fmt.Errorf("asking for a tunnel: %w", err))
	}
	reader := bufio.NewReader(&limitedConn{Conn: conn, left: 64 << 10})
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		return nil, ended(fmt.Errorf("reading the answer to CONNECT: %w", err))
	}
	// A CONNECT answer of 2xx has no body; that of a refusal ends with the connection.
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("the proxy refused the tunnel with status %d", resp.StatusCode)
	}
	if reader.Buffered() > 0 {
		// The client speaks first in both TLS and HTTP, so these bytes cannot be the endpoint's.
		return nil, errors.New("the proxy sent more than its answer to CONNECT")
	}
	if !stop() {
		return nil, ended(errors.New("the tunnel came too late"))
	}
	return conn, nil
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
