package egress_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/hooktest"
)

// names answers each lookup of a name with the next of its answers, and the last one from then on.
type names struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	lookups int
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookups++
	a, ok := n.answers[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(a) > 1 {
		n.answers[host] = a[1:]
	}
	return a[0], nil
}

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, a := range list {
		out[i] = netip.MustParseAddr(a)
	}
	return out
}

func newClient(t *testing.T, o egress.Options) *egress.Client {
	t.Helper()
	c, err := egress.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// exchange sends a request and reads up to 1 KiB of the answer.
func exchange(ctx context.Context, t *testing.T, c *egress.Client, method, target, body string) (int, string, error) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	timeout := 10 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	a, err := c.Exchange(context.WithoutCancel(ctx), &egress.Request{Method: method, URL: u, Header: http.Header{}, Body: []byte(body)}, timeout, make([]byte, 1024))
	if err == nil {
		err = a.Err
	}
	return a.Status, string(a.Body), err
}

func get(t *testing.T, c *egress.Client, target string) (int, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return exchange(ctx, t, c, http.MethodGet, target, "")
}

func portOf(t *testing.T, server *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// P-12: one forbidden address in the answer refuses the name.
func TestEveryAddressOfTheAnswerIsChecked(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	dns := &names{answers: map[string][][]netip.Addr{
		"inside.example": {addrs("127.0.0.1")},
		"mixed.example":  {addrs("93.184.216.34", "127.0.0.1")},
		"mapped.example": {addrs("::ffff:127.0.0.1")},
	}}
	c := newClient(t, egress.Options{Config: egress.Config{AllowHTTP: true}, Resolver: dns})
	for _, host := range []string{"inside.example", "mixed.example", "mapped.example", "127.0.0.1", "[::1]", "[::ffff:7f00:1]", "169.254.169.254"} {
		_, _, err := get(t, c, "http://"+host+":"+portOf(t, server)+"/")
		var blocked *egress.BlockedError
		if egress.ClassOf(err) != egress.ClassBlocked || !errors.As(err, &blocked) {
			t.Errorf("%s: got %v, want it blocked", host, err)
		}
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests arrived", hits.Load())
	}
}

// P-12: the resolver answers a public address first and a loopback address afterwards: a client that resolved again between the
// check and the connection would reach the loopback server.
func TestRebindingReachesNothing(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	dns := &names{answers: map[string][][]netip.Addr{
		// Reserved for documentation: nothing ever answers there, so the connection fails by its deadline or at once.
		"rebind.example": {addrs("2606:4700::dead:beef"), addrs("127.0.0.1")},
	}}
	c := newClient(t, egress.Options{Config: egress.Config{AllowHTTP: true}, Resolver: dns, DialTimeout: 50 * time.Millisecond})
	target := "http://rebind.example:" + portOf(t, server) + "/"
	if _, _, err := get(t, c, target); err == nil {
		t.Fatal("the first request succeeded")
	}
	if dns.lookups != 1 {
		t.Errorf("one connection made %d lookups: the address isn't pinned", dns.lookups)
	}
	if _, _, err := get(t, c, target); egress.ClassOf(err) != egress.ClassBlocked {
		t.Errorf("after the change of the name's address: %v, want it blocked", err)
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests arrived", hits.Load())
	}
}

// S0-20, S3-12: endpoints are spoken to in TLS, unless the operator allows otherwise.
func TestPlainHTTPOnlyWhereAllowed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer server.Close()
	closed := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true}})
	if _, _, err := get(t, closed, server.URL); egress.ClassOf(err) != egress.ClassInvalid {
		t.Errorf("got %v, want invalid", err)
	}
	open := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	if status, body, err := get(t, open, server.URL); status != 200 || body != "hello" || err != nil {
		t.Errorf("got %d %q %v", status, body, err)
	}
	for _, bad := range []string{"ftp://example.com/", "http://user:secret@example.com/", "http:///path"} {
		u, err := url.Parse(bad)
		if err != nil {
			t.Fatal(err)
		}
		if err := open.CheckURL(u); egress.ClassOf(err) != egress.ClassInvalid || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want invalid and no secret in it", bad, err)
		}
	}
}

func TestRedirectsAreAnswers(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer server.Close()
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	if status, _, err := get(t, c, server.URL); status != http.StatusFound || err != nil || hits.Load() != 1 {
		t.Errorf("got %d %v after %d requests", status, err, hits.Load())
	}
}

// S0-20, S3-12: the certificate must be the endpoint's, and the version 1.2 at least.
func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.ServerName)
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	dns := &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}, "other.test": {addrs("127.0.0.1")}}}
	private := egress.Config{AllowPrivate: true}

	trusting := newClient(t, egress.Options{Config: private, Resolver: dns, TLS: &tls.Config{RootCAs: roots}})
	if status, body, err := get(t, trusting, "https://example.com:"+portOf(t, server)); status != 200 || body != "example.com" || err != nil {
		t.Errorf("got %d %q %v", status, body, err)
	}
	if _, _, err := get(t, trusting, "https://other.test:"+portOf(t, server)); egress.ClassOf(err) != egress.ClassTLS {
		t.Errorf("a certificate for another name: got %v, want tls", err)
	}
	wary := newClient(t, egress.Options{Config: private, Resolver: dns})
	if _, _, err := get(t, wary, "https://example.com:"+portOf(t, server)); egress.ClassOf(err) != egress.ClassTLS {
		t.Errorf("an unknown authority: got %v, want tls", err)
	}

	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11} //nolint:gosec // the client must refuse it
	old.StartTLS()
	defer old.Close()
	oldRoots := x509.NewCertPool()
	oldRoots.AddCert(old.Certificate())
	modern := newClient(t, egress.Options{Config: private, Resolver: dns, TLS: &tls.Config{RootCAs: oldRoots, MinVersion: tls.VersionTLS10}}) //nolint:gosec // raised by the client
	if _, _, err := get(t, modern, "https://example.com:"+portOf(t, old)); egress.ClassOf(err) != egress.ClassTLS {
		t.Errorf("TLS 1.1: got %v, want tls", err)
	}
}

// proxy is a CONNECT proxy that records what it is asked for.
func proxy(t *testing.T, asked chan<- *http.Request, answer int) string {
	t.Helper()
	server := httptest.NewServer(tunnel(t, asked, answer))
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
	return server.URL
}

func tunnel(t *testing.T, asked chan<- *http.Request, answer int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Clone(context.WithoutCancel(r.Context()))
		if answer != http.StatusOK {
			w.WriteHeader(answer)
			return
		}
		var d net.Dialer
		up, err := d.DialContext(r.Context(), "tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		down, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() {
			_, _ = io.Copy(up, buffered)
			_ = up.Close()
		}()
		_, _ = io.Copy(down, up)
		_ = down.Close()
	})
}

// P-12, S3-13: through a proxy, whose address is fixed, the checked address is asked for, never the name.
func TestProxyIsAskedForTheCheckedAddress(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.ServerName)
	}))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	asked := make(chan *http.Request, 4)
	through := strings.Replace(proxy(t, asked, http.StatusOK), "http://", "http://user:pass@", 1)
	dns := &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}, "inside.test": {addrs("10.0.0.1")}}}

	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, Proxy: through}, Resolver: dns, TLS: &tls.Config{RootCAs: roots}})
	status, body, err := get(t, c, "https://example.com:"+portOf(t, server))
	if status != 200 || body != "example.com" || err != nil {
		t.Fatalf("got %d %q %v", status, body, err)
	}
	r := <-asked
	if r.Method != http.MethodConnect || r.Host != "127.0.0.1:"+portOf(t, server) {
		t.Errorf("the proxy was asked to %s %s, not to CONNECT to the checked address", r.Method, r.Host)
	}
	if r.Header.Get("Proxy-Authorization") != "Basic dXNlcjpwYXNz" {
		t.Errorf("Proxy-Authorization is %q", r.Header.Get("Proxy-Authorization"))
	}

	guarded := newClient(t, egress.Options{Config: egress.Config{Proxy: through}, Resolver: dns})
	if _, _, err := get(t, guarded, "https://inside.test/"); egress.ClassOf(err) != egress.ClassBlocked || len(asked) != 0 {
		t.Errorf("got %v and %d requests to the proxy, want it blocked before", err, len(asked))
	}

	refusing := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, Proxy: proxy(t, asked, http.StatusForbidden)}, Resolver: dns})
	if _, _, err := get(t, refusing, "https://example.com/"); egress.ClassOf(err) != egress.ClassProxy {
		t.Errorf("got %v, want proxy", err)
	}
	for _, bad := range []string{"ftp://127.0.0.1:1", "socks5h://127.0.0.1:1", "://", "http://", "http://a:0", "http://a/path", "socks5://user@a:1"} {
		if faults := (egress.Config{Proxy: bad}).Validate(); len(faults) != 1 {
			t.Errorf("%q: %v", bad, faults)
		}
	}
}

// A client certificate is for the endpoint: a proxy that asks for one as well gets none.
func TestTheProxyGetsNoClientCertificate(t *testing.T) {
	certificate, key := hooktest.NewAuthority(t).Client("sub_1")
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	who := func(r *http.Request) string {
		if len(r.TLS.PeerCertificates) == 0 {
			return "nobody"
		}
		return r.TLS.PeerCertificates[0].Subject.CommonName
	}
	start := func(h http.Handler) *httptest.Server {
		server := httptest.NewUnstartedServer(h)
		server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		server.StartTLS()
		t.Cleanup(server.Close)
		t.Cleanup(server.CloseClientConnections)
		return server
	}
	asked := make(chan *http.Request, 1)
	through := start(tunnel(t, asked, http.StatusOK))
	endpoint := start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, who(r)) }))
	roots := x509.NewCertPool()
	roots.AddCert(endpoint.Certificate())
	roots.AddCert(through.Certificate())
	o := egress.Options{
		Config: egress.Config{AllowPrivate: true, Proxy: through.URL}, TLS: &tls.Config{RootCAs: roots},
		Resolver: &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}}},
	}
	certified := newClient(t, o).WithCertificate(pair, 1)
	t.Cleanup(certified.Close)
	if _, body, err := get(t, certified, "https://example.com:"+portOf(t, endpoint)); body != "sub_1" || err != nil {
		t.Errorf("the endpoint saw %q: %v", body, err)
	}
	if got := who(<-asked); got != "nobody" {
		t.Errorf("the proxy saw %q", got)
	}
}

func TestEnvironmentProxyIsIgnored(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	dns := &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}}}
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}, Resolver: dns})
	if status, _, err := get(t, c, "http://example.com:"+portOf(t, server)); status != 200 || err != nil {
		t.Errorf("got %d %v", status, err)
	}
}

// raw answers each connection with fixed bytes, or with what the function does to it.
func raw(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					answer(conn)
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

func TestErrorClasses(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := "http://" + l.Addr().String()
	_ = l.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	dns := &names{answers: map[string][][]netip.Addr{"empty.test": {{}}}}
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}, Resolver: dns, MaxHeaderBytes: 8 << 10})
	for name, test := range map[string]struct {
		url  string
		want egress.Class
	}{
		"no such name": {"http://nowhere.test/", egress.ClassDNS},
		"no addresses": {"http://empty.test/", egress.ClassDNS},
		"refused":      {free, egress.ClassRefused},
		"closed":       {raw(t, func(net.Conn) {}), egress.ClassReset},
		"reset":        {raw(t, func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }), egress.ClassReset},
		"cut short":    {raw(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") }), egress.ClassReset},
		"not HTTP":     {raw(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n") }), egress.ClassProtocol},
		"huge headers": {raw(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
		}), egress.ClassProtocol},
		"http on https": {strings.Replace(plain.URL, "http:", "https:", 1), egress.ClassTLS},
		"hangs":         {raw(t, func(net.Conn) { <-hang }), egress.ClassTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if test.want == egress.ClassTimeout {
				ctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
			}
			_, _, err := exchange(ctx, t, c, http.MethodPost, test.url, "{}")
			var typed *egress.Error
			if egress.ClassOf(err) != test.want || !errors.As(err, &typed) {
				t.Errorf("got %v of class %q, want %q", err, egress.ClassOf(err), test.want)
			}
		})
	}
}

func TestCancelEndsARequest(t *testing.T) {
	for _, secure := range []bool{false, true} { // one through each of the two senders underneath
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			cancel()
			<-over // an answer to a connection that is being closed may still be read
		}))
		if secure {
			server.StartTLS()
		} else {
			server.Start()
		}
		t.Cleanup(server.Close)
		roots := x509.NewCertPool()
		if secure {
			roots.AddCert(server.Certificate())
		}
		c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}, TLS: &tls.Config{RootCAs: roots}})
		_, err := c.Exchange(ctx, &egress.Request{Method: http.MethodPost, URL: parsed(t, server.URL)}, time.Minute, nil)
		close(over)
		if egress.ClassOf(err) != egress.ClassCanceled {
			t.Errorf("over TLS %v: got %v, want canceled", secure, err)
		}
	}
}

func TestAnswersKeepTheLimitAndTheConnection(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		server, connections := counted(t, http2, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/exact":
				_, _ = io.WriteString(w, "12345678")
			case "/long":
				_, _ = io.WriteString(w, strings.Repeat("x", 1000))
			}
		})
		server.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true}, TLS: &tls.Config{RootCAs: roots}})
		ask := func(path string, n int, truncated bool) {
			t.Helper()
			a, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodGet, URL: parsed(t, server.URL+path)}, 10*time.Second, make([]byte, 8))
			if len(a.Body) != n || a.Truncated != truncated || err != nil || a.Err != nil {
				t.Errorf("%s: got %d %v %v %v", path, len(a.Body), a.Truncated, err, a.Err)
			}
		}
		// The first request tells what the endpoint speaks; where that is HTTP/1.1, the next have a connection of another kind.
		ask("/empty", 0, false)
		ask("/exact", 8, false)
		before := connections.Load()
		ask("/empty", 0, false)
		ask("/long", 8, true)
		ask("/exact", 8, false)
		if n := connections.Load(); n != before {
			t.Errorf("three more requests took %d connections", n-before)
		}
	}
}
