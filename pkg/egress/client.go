package egress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Config is what an operator decides about outbound connections.
type Config struct {
	AllowPrivate bool   `config:"ALLOW_PRIVATE_ENDPOINTS" default:"false" doc:"let endpoints resolve to private and loopback addresses"`
	AllowHTTP    bool   `config:"ALLOW_HTTP_ENDPOINTS" default:"false" doc:"let endpoints use plain http"`
	Proxy        string `config:"EGRESS_PROXY" default:"" secret:"true" doc:"http:// or https:// URL of a CONNECT proxy for every outbound connection; HTTP_PROXY and its kin are ignored"`
}

// Validate returns the faults of the configuration, in words.
func (c Config) Validate() []string {
	if _, err := c.proxyURL(); err != nil {
		return []string{"EGRESS_PROXY: " + err.Error()}
	}
	return nil
}

func (c Config) proxyURL() (*url.URL, error) {
	if c.Proxy == "" {
		return nil, nil
	}
	u, err := url.Parse(c.Proxy)
	if err != nil {
		// The text of the error would repeat the password.
		return nil, errors.New("not a URL")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, errors.New("must be http://host:port or https://host:port")
	}
	return u, nil
}

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
	// TLS holds further TLS settings, such as roots of one's own. The least version is raised to 1.2.
	TLS *tls.Config
	// Certificate is shown to endpoints that ask for one, never to the proxy. Who it belongs to must have a client of
	// its own: a connection that was opened with it speaks for its owner as long as it lasts.
	Certificate *tls.Certificate
}

// Client sends requests to addresses that it has checked. It follows no redirects, keeps no cookies, ignores the
// proxies of the environment and never decompresses. It is safe for concurrent use.
type Client struct {
	transport *http.Transport
	http1     *http1
	allowHTTP bool

	mu    sync.RWMutex
	plain map[string]struct{} // https hosts that answered over HTTP/1.1
}

// NewClient returns a client. Its connections are closed by Close.
func NewClient(o Options) (*Client, error) {
	proxy, err := o.proxyURL()
	if err != nil {
		return nil, fmt.Errorf("egress proxy: %w", err)
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLS != nil {
		tlsConfig = o.TLS.Clone()
		tlsConfig.MinVersion = max(tlsConfig.MinVersion, tls.VersionTLS12)
	}
	if tlsConfig.ClientSessionCache == nil {
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1024)
	}
	proxyTLS := tlsConfig.Clone()
	proxyTLS.NextProtos = []string{"http/1.1"} // what CONNECT is sent in
	if o.Certificate != nil {
		tlsConfig.Certificates = []tls.Certificate{*o.Certificate}
		// A session that is resumed is the certificate's as well.
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	}
	d := &dialer{
		resolver: o.Resolver, allowPrivate: o.AllowPrivate, proxy: proxy, proxyTLS: proxyTLS,
		net:     net.Dialer{KeepAlive: 30 * time.Second},
		timeout: orDuration(o.DialTimeout, 10*time.Second),
	}
	if d.resolver == nil {
		d.resolver = net.DefaultResolver
	}
	perHost := int(orInt64(int64(o.MaxIdlePerHost), 4))
	total := max(int(orInt64(int64(o.MaxIdle), 1024)), perHost)
	return &Client{
		allowHTTP: o.AllowHTTP,
		plain:     map[string]struct{}{},
		http1: &http1{
			dial: d.DialContext, tls: tlsConfig, perHost: perHost, total: total,
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
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: orInt64(o.MaxHeaderBytes, 64<<10),
			ExpectContinueTimeout:  time.Second,
			ReadBufferSize:         4 << 10,
			WriteBufferSize:        8 << 10,
			HTTP2: &http.HTTP2Config{
				SendPingTimeout: orDuration(o.PingAfter, 10*time.Second), PingTimeout: orDuration(o.PingAfter, 10*time.Second),
			},
		},
	}, nil
}

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
	case u.Scheme == "http" && !c.allowHTTP:
		return &Error{ClassInvalid, "request", errors.New("plain http is not allowed")}
	case u.Scheme != "http" && u.Scheme != "https":
		return &Error{ClassInvalid, "request", fmt.Errorf("the scheme %q is not https", u.Scheme)}
	case u.User != nil:
		return &Error{ClassInvalid, "request", errors.New("the URL holds a user name")}
	}
	return nil
}

// roundTrip sends one request through the transport and returns its answer, of whatever status. The request's context bounds
// all of it, reading the body included. Every error is an *Error.
func (c *Client) roundTrip(req *http.Request) (*http.Response, error) {
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

// Close closes the idle connections.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.http1.close()
}

// drainLimit is how much of an answer beyond what is kept is read so that the connection can be used again; a longer
// answer costs its connection.
const drainLimit = 64 << 10
