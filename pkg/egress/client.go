package egress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options complete a Config with what the caller knows about its own traffic.
type Options struct {
	Config
	// MaxIdlePerHost is the number of idle connections kept for each host; it should be the number of requests the
	// caller keeps in flight to one, else connections are opened anew for each. Zero is 4.
	MaxIdlePerHost int
	// MaxIdle bounds the idle connections of all hosts. Zero is 1,024.
	MaxIdle int
	// DialTimeout bounds resolving and connecting, on top of the request's own deadline. Zero is 10 s.
	DialTimeout time.Duration
	// MaxHeaderBytes bounds the headers of an answer. Zero is 64 KiB.
	MaxHeaderBytes int64
	// PingAfter is how long an HTTP/2 connection may be silent, with requests waiting on it, before it is asked whether it
	// lives; it has as long again to answer. Without that, all requests to an endpoint would go to a connection that was
	// cut on the way, until the kernel gives it up after many minutes. Zero is 10 s.
	PingAfter time.Duration
	// Resolver is net.DefaultResolver where nil.
	Resolver Resolver
	// TLS holds further TLS settings, such as roots of one's own. The least version is raised to that of the Config, and
	// certificates are always checked.
	TLS *tls.Config
}

// Client sends requests to addresses that it has checked. It follows no redirects, keeps no cookies, ignores the
// proxies of the environment and never decompresses. It is safe for concurrent use.
type Client struct {
	opts      Options
	dialer    *dialer
	tls       *tls.Config
	transport *http.Transport
	http1     *http1

	closed atomic.Bool

	mu    sync.RWMutex
	plain map[string]struct{} // https hosts that answered over HTTP/1.1
}

// NewClient returns a client. Its connections are closed by Close. The error is one of the configuration.
func NewClient(o Options) (*Client, error) {
	proxy, err := o.proxyURL()
	if err != nil {
		return nil, fmt.Errorf("egress proxy: %w", err)
	}
	sources, err := o.sources()
	if err != nil {
		return nil, fmt.Errorf("egress source address: %w", err)
	}
	tlsConfig := &tls.Config{} //nolint:gosec // the version is set below
	if o.TLS != nil {
		tlsConfig = o.TLS.Clone()
	}
	tlsConfig.MinVersion = max(tlsConfig.MinVersion, o.minTLS())
	tlsConfig.InsecureSkipVerify = false
	if tlsConfig.RootCAs, err = o.roots(tlsConfig.RootCAs); err != nil {
		return nil, fmt.Errorf("egress certificate authorities: %w", err)
	}
	if tlsConfig.ClientSessionCache == nil {
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1024)
	}
	proxyTLS := tlsConfig.Clone()
	proxyTLS.NextProtos = []string{"http/1.1"} // what CONNECT is sent in
	d := &dialer{
		resolver: o.Resolver, allowPrivate: o.AllowPrivate, proxy: proxy, proxyTLS: proxyTLS, sources: sources,
		net:     net.Dialer{KeepAlive: 30 * time.Second},
		room:    newRoom(o.maxConnections()),
		timeout: orDuration(o.DialTimeout, 10*time.Second),
	}
	if d.resolver == nil {
		d.resolver = net.DefaultResolver
	}
	return newClient(o, d, tlsConfig), nil
}

// WithCertificate returns a client that shows a certificate to endpoints that ask for one, never to the proxy. Who it
// belongs to must have a client of its own: a connection that was opened with it speaks for its owner as long as it lasts.
// It keeps up to idle connections, and shares with c all settings and the bound on open ones. It has a Close of its own.
func (c *Client) WithCertificate(certificate tls.Certificate, idle int) *Client {
	o := c.opts
	o.MaxIdlePerHost, o.MaxIdle = idle, idle // there is one endpoint, or a few
	tlsConfig := c.tls.Clone()
	tlsConfig.Certificates = []tls.Certificate{certificate}
	// A session that is resumed is the certificate's as well.
	tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	return newClient(o, c.dialer, tlsConfig)
}

func newClient(o Options, d *dialer, tlsConfig *tls.Config) *Client {
	perHost := int(orInt64(int64(o.MaxIdlePerHost), 4))
	total := max(int(orInt64(int64(o.MaxIdle), 1024)), perHost)
	c := &Client{
		opts: o, dialer: d, tls: tlsConfig, plain: map[string]struct{}{},
		http1: &http1{
			dial: d.DialContext, tls: tlsConfig, perHost: perHost, total: total, crowded: d.room.full,
			maxHeader: orInt64(o.MaxHeaderBytes, 64<<10), idle: map[string][]*h1Conn{},
		},
		transport: &http.Transport{
			// Proxy stays nil: the dialer does the tunnelling, and the environment has no say.
			DialContext:            d.DialContext,
			TLSClientConfig:        tlsConfig.Clone(), // the transport writes into it
			TLSHandshakeTimeout:    10 * time.Second,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			MaxIdleConns:           total,
			MaxIdleConnsPerHost:    perHost,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: orInt64(o.MaxHeaderBytes, 64<<10),
			ExpectContinueTimeout:  time.Second,
			ReadBufferSize:         4 << 10,
			WriteBufferSize:        8 << 10,
			HTTP2: &http.HTTP2Config{
				SendPingTimeout: orDuration(o.PingAfter, 10*time.Second), PingTimeout: orDuration(o.PingAfter, 10*time.Second),
			},
		},
	}
	d.room.join(c)
	return c
}

// MaxConnections is how many connections may be open at once, idle ones and those of clients made from c included. More
// requests than that wait for each other.
func (c *Client) MaxConnections() int { return cap(c.dialer.room.slots) }

func orInt64(v, otherwise int64) int64 {
	if v > 0 {
		return v
	}
	return otherwise
}

func orDuration(v, otherwise time.Duration) time.Duration {
	if v > 0 {
		return v
	}
	return otherwise
}

// CheckURL tells whether the client would send to u at all, as far as that can be said without resolving its name: the
// scheme, the host, no user and password, and the address where the host is one. The error is an *Error.
func (c *Client) CheckURL(u *url.URL) error {
	switch {
	case u == nil || u.Hostname() == "":
		return &Error{ClassInvalid, "request", errors.New("the URL has no host")}
	case u.Scheme == "http" && !c.opts.AllowHTTP:
		return &Error{ClassInvalid, "request", errors.New("plain http is not allowed")}
	case u.Scheme != "http" && u.Scheme != "https":
		return &Error{ClassInvalid, "request", fmt.Errorf("the scheme %q is not https", u.Scheme)}
	case u.User != nil:
		return &Error{ClassInvalid, "request", errors.New("the URL holds a user name")}
	case oddNumber(u.Hostname()):
		return &Error{ClassInvalid, "request", errors.New("the host is neither a name nor an address in its usual spelling")}
	}
	return nil
}

// oddNumber says whether a host is no name because its last part is a number (RFC 3696, and what browsers go by), and yet
// no address as this package reads it: 127.1, 0177.0.0.1, 2130706433 or 0x7f.1, which some resolvers take for addresses.
func oddNumber(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	last := strings.TrimSuffix(host, ".")
	last = strings.ToLower(last[strings.LastIndexByte(last, '.')+1:])
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// roundTrip sends one request through the transport and returns its answer, of whatever status. The request's context bounds
// all of it, reading the body included. Every error is an *Error.
func (c *Client) roundTrip(req *http.Request) (*http.Response, error) {
	if c.closed.Load() {
		c.transport.CloseIdleConnections() // one that was not idle yet when the client was closed
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		// The transport reports a deadline in its own words, or as a closed connection.
		if ctxErr := req.Context().Err(); ctxErr != nil {
			return nil, &Error{classify(ctxErr), "request", ctxErr}
		}
		return nil, &Error{classify(err), "request", err}
	}
	return resp, nil
}

// Close closes the idle connections. Requests of those who have the client in hand are sent all the same.
func (c *Client) Close() {
	c.closed.Store(true)
	c.dialer.room.leave(c)
	c.transport.CloseIdleConnections()
	c.http1.close()
}

// drainLimit is how much of an answer beyond what is kept is read so that the connection can be used again; a longer
// answer costs its connection.
const drainLimit = 64 << 10
