package egress_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/callstream/callstream/pkg/egress"
)

// socks is a SOCKS5 proxy: what it does, and what it was asked.
type socks struct {
	user, password string // wanted where not empty
	method         byte   // chosen where user is empty
	reply          byte   // 0: connect
	bound          []byte // the address in the answer: its kind, the address and the port
	asked          chan socksAsked
}

type socksAsked struct {
	kind     byte // of the address: 1 IPv4, 3 a name, 4 IPv6
	to       string
	from     netip.Addr
	user, pw string
}

func (s *socks) start(t *testing.T) string {
	t.Helper()
	s.asked = make(chan socksAsked, 8)
	if s.bound == nil {
		s.bound = []byte{1, 0, 0, 0, 0, 0, 0}
	}
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
				s.serve(t, conn)
			}()
		}
	}()
	return l.Addr().String()
}

func (s *socks) serve(t *testing.T, conn net.Conn) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(conn, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	var asked socksAsked
	asked.from = conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
	read(int(read(2)[1]))
	if s.user == "" {
		_, _ = conn.Write([]byte{5, s.method})
		if s.method != 0 {
			return
		}
	} else {
		_, _ = conn.Write([]byte{5, 2})
		asked.user = string(read(int(read(2)[1])))
		asked.pw = string(read(int(read(1)[0])))
		if asked.user != s.user || asked.pw != s.password {
			_, _ = conn.Write([]byte{1, 1})
			return
		}
		_, _ = conn.Write([]byte{1, 0})
	}
	asked.kind = read(4)[3]
	var host string
	switch asked.kind {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	case 4:
		host = net.IP(read(16)).String()
	}
	asked.to = net.JoinHostPort(host, itoa(binary.BigEndian.Uint16(read(2))))
	s.asked <- asked
	if s.reply != 0 {
		_, _ = conn.Write(append([]byte{5, s.reply, 0}, s.bound...))
		return
	}
	var d net.Dialer
	up, err := d.DialContext(t.Context(), "tcp", asked.to)
	if err != nil {
		_, _ = conn.Write(append([]byte{5, 5, 0}, s.bound...))
		return
	}
	_, _ = conn.Write(append([]byte{5, 0, 0}, s.bound...))
	go func() {
		_, _ = io.Copy(up, conn)
		_ = up.Close()
	}()
	_, _ = io.Copy(conn, up)
}

func itoa(n uint16) string {
	return strings.TrimPrefix(netip.AddrPortFrom(netip.IPv4Unspecified(), n).String(), "0.0.0.0:")
}

// P-12, S3-13: through a SOCKS5 proxy with a user and a password, the checked address is asked for, never the name; also
// where the endpoint speaks plain http.
func TestSOCKS5ProxyIsAskedForTheCheckedAddress(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello "+r.Host) })
	plain, secure := httptest.NewServer(hello), httptest.NewTLSServer(hello)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	dns := &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}, "inside.test": {addrs("10.0.0.1")}, "mapped.test": {addrs("::ffff:127.0.0.1")}}}
	for name, bound := range map[string][]byte{
		"bound to IPv4":   nil,
		"bound to IPv6":   append([]byte{4}, make([]byte, 18)...),
		"bound to a name": append([]byte{3, 4}, "eu-1\x00\x00"...),
	} {
		t.Run(name, func(t *testing.T) {
			proxy := &socks{user: "us er", password: "p@ss:word", bound: bound}
			through := (&url.URL{Scheme: "socks5", User: url.UserPassword(proxy.user, proxy.password), Host: proxy.start(t)}).String()
			o := egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true, Proxy: through}, Resolver: dns, TLS: &tls.Config{RootCAs: roots}}
			c := newClient(t, o)
			for _, endpoint := range []struct{ target, to string }{
				{"http://example.com:" + portOf(t, plain), plain.Listener.Addr().String()},
				{"https://example.com:" + portOf(t, secure), secure.Listener.Addr().String()},
				{"http://mapped.test:" + portOf(t, plain), plain.Listener.Addr().String()},
			} {
				if status, body, err := get(t, c, endpoint.target); status != 200 || "http://"+strings.TrimPrefix(body, "hello ") != strings.Replace(endpoint.target, "https", "http", 1) || err != nil {
					t.Errorf("%s: got %d %q %v", endpoint.target, status, body, err)
				}
				if got := <-proxy.asked; got.kind != 1 || got.to != endpoint.to || got.user != proxy.user || got.pw != proxy.password {
					t.Errorf("%s: the proxy was asked %+v", endpoint.target, got)
				}
			}
			o.AllowPrivate = false
			if _, _, err := get(t, newClient(t, o), "https://inside.test/"); egress.ClassOf(err) != egress.ClassBlocked || len(proxy.asked) != 0 {
				t.Errorf("got %v and %d requests to the proxy, want it blocked before", err, len(proxy.asked))
			}
		})
	}
}

// An IPv6 address goes to the proxy as one.
func TestSOCKS5ProxyIsAskedForIPv6(t *testing.T) {
	proxy := &socks{reply: 3}
	c := newClient(t, egress.Options{Config: egress.Config{Proxy: "socks5://" + proxy.start(t)}, Resolver: &names{answers: map[string][][]netip.Addr{
		"example.com": {addrs("2606:4700::dead:beef")},
	}}})
	if _, _, err := get(t, c, "https://example.com/"); egress.ClassOf(err) != egress.ClassConnect {
		t.Errorf("got %v, want connect", err)
	}
	if got := <-proxy.asked; got.kind != 4 || got.to != "[2606:4700::dead:beef]:443" {
		t.Errorf("the proxy was asked %+v", got)
	}
}

// What lies with the proxy is told from what lies with the endpoint, and no failure repeats the password or where the
// proxy is.
func TestProxyFailures(t *testing.T) {
	const password = "hunter2-planted"
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	mute := func(answer string) string {
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
				_, _ = io.WriteString(conn, answer)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			}
		}()
		return l.Addr().String()
	}
	connect := func(status int) string {
		u, err := url.Parse(proxy(t, make(chan *http.Request, 8), status))
		if err != nil {
			t.Fatal(err)
		}
		return u.Host
	}
	start := func(s socks) string { return (&s).start(t) }
	for name, test := range map[string]struct {
		scheme, host string
		want         egress.Class
	}{
		"http, nobody there":         {"http", nobody, egress.ClassProxy},
		"http, wrong password":       {"http", connect(http.StatusProxyAuthRequired), egress.ClassProxy},
		"http, forbidden":            {"http", connect(http.StatusForbidden), egress.ClassProxy},
		"http, endpoint away":        {"http", connect(http.StatusBadGateway), egress.ClassConnect},
		"http, endpoint not found":   {"http", connect(http.StatusServiceUnavailable), egress.ClassConnect},
		"http, not HTTP":             {"http", mute("SSH-2.0-OpenSSH\r\n"), egress.ClassProxy},
		"http, more than its answer": {"http", mute("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), egress.ClassProxy},
		"https, no TLS":              {"https", mute("HTTP/1.1 200 OK\r\n\r\n"), egress.ClassProxy},
		"socks5, nobody there":       {"socks5", nobody, egress.ClassProxy},
		"socks5, wrong password":     {"socks5", start(socks{user: "another", password: "x"}), egress.ClassProxy},
		"socks5, another method":     {"socks5", start(socks{method: 0xff}), egress.ClassProxy},
		"socks5, failure":            {"socks5", start(socks{reply: 1}), egress.ClassProxy},
		"socks5, rules":              {"socks5", start(socks{reply: 2}), egress.ClassProxy},
		"socks5, network away":       {"socks5", start(socks{reply: 3}), egress.ClassConnect},
		"socks5, host away":          {"socks5", start(socks{reply: 4}), egress.ClassConnect},
		"socks5, endpoint refuses":   {"socks5", start(socks{reply: 5}), egress.ClassRefused},
		"socks5, not SOCKS":          {"socks5", mute("HTTP/1.1 400 Bad Request\r\n\r\n"), egress.ClassProxy},
		"socks5, older":              {"socks5", mute("\x04\x5a"), egress.ClassProxy},
		"socks5, cut short":          {"socks5", mute("\x05\x00\x05"), egress.ClassProxy},
		"socks5, unknown kind":       {"socks5", mute("\x05\x00\x05\x00\x00\x09\x00\x00"), egress.ClassProxy},
	} {
		t.Run(name, func(t *testing.T) {
			config := egress.Config{AllowPrivate: true, AllowHTTP: true, Proxy: test.scheme + "://user:" + password + "@" + test.host}
			if faults := config.Validate(); len(faults) > 0 {
				t.Fatal(faults)
			}
			_, _, err := get(t, newClient(t, egress.Options{Config: config}), "http://127.0.0.1:1/")
			if egress.ClassOf(err) != test.want || strings.Contains(err.Error(), password) || strings.Contains(err.Error(), test.host) {
				t.Errorf("got %v (%s), want %s", err, egress.ClassOf(err), test.want)
			}
		})
	}
	for _, bad := range []string{"socks5://user:" + password + "@host:99999", "http://user:" + password + "@ho st", "user:" + password + "@host:1080"} {
		faults := (egress.Config{Proxy: bad}).Validate()
		if len(faults) != 1 || strings.Contains(faults[0], password) {
			t.Errorf("%s: %v", bad, faults)
		}
	}
}
