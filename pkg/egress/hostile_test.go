package egress_test

import (
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
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
)

// An endpoint that answers a large request without reading it, and leaves the connection open, has answered.
func TestExchangeTakesAnAnswerFromWhoReadsNothing(t *testing.T) {
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for _, answer := range []string{
		"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
	} {
		target := raw(t, func(conn net.Conn) {
			_, _ = io.WriteString(conn, answer)
			<-hang
		})
		// More than the buffers of both sockets hold.
		start := time.Now()
		a, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, target), Body: make([]byte, 32<<20)}, time.Minute, make([]byte, 10))
		if err != nil || a.Status != 413 || string(a.Body) != "no" || time.Since(start) > 30*time.Second {
			t.Errorf("%d %q %v after %v", a.Status, a.Body, err, time.Since(start))
		}
	}
}

// The query of a delivery is not the endpoint's URL, and has passed no parser.
func TestExchangeRefusesATargetThatWouldSmuggle(t *testing.T) {
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	target := raw(t, func(net.Conn) { t.Error("a request arrived") })
	for name, change := range map[string]func(*url.URL){
		"query": func(u *url.URL) { u.RawQuery = "a=b HTTP/1.1\r\nX-Other: c\r\n\r\n" },
		"space": func(u *url.URL) { u.RawQuery = "a=b c" },
	} {
		u := parsed(t, target)
		change(u)
		_, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: u, Header: http.Header{}}, 10*time.Second, nil)
		if egress.ClassOf(err) != egress.ClassInvalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}

// What an endpoint speaks may change: one that no longer speaks HTTP/1.1 is asked anew.
func TestExchangeLearnsAnew(t *testing.T) {
	var only atomic.Value
	only.Store("http/1.1")
	server, _ := counted(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, r.Proto)
	})
	server.TLS = &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	server.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Contains(hello.SupportedProtos, only.Load().(string)) {
			return nil, errors.New("no protocol in common")
		}
		cfg := server.TLS.Clone()
		cfg.NextProtos = []string{only.Load().(string)}
		return cfg, nil
	}
	server.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := newClient(t, egress.Options{
		Config: egress.Config{AllowPrivate: true}, TLS: &tls.Config{RootCAs: roots},
		Resolver: &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}}},
	})
	ask := func() (string, error) {
		a, err := c.Exchange(t.Context(), &egress.Request{
			Method: http.MethodPost, URL: parsed(t, "https://example.com:"+portOf(t, server)+"/"), Header: http.Header{},
		}, 10*time.Second, make([]byte, 100))
		return string(a.Body), err
	}
	for range 2 {
		if got, err := ask(); got != "HTTP/1.1" || err != nil {
			t.Fatalf("%s %v", got, err)
		}
	}
	only.Store("h2")
	if got, err := ask(); egress.ClassOf(err) != egress.ClassTLS {
		t.Fatalf("%s %v, want a failed handshake", got, err)
	}
	if got, err := ask(); got != "HTTP/2.0" || err != nil {
		t.Errorf("%s %v after the handshake had failed", got, err)
	}
}

// relay passes connections on to a server, until they are cut: then nothing passes, and nobody is told.
func relay(t *testing.T, to string) (address string, cut func()) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	silent := map[net.Conn]bool{}
	pass := func(dst, src net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := src.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			dead := silent[src]
			mu.Unlock()
			if dead {
				continue
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			var d net.Dialer
			far, err := d.DialContext(context.Background(), "tcp", to)
			if err != nil {
				_ = near.Close()
				return
			}
			mu.Lock()
			conns = append(conns, near, far)
			mu.Unlock()
			go pass(near, far)
			go pass(far, near)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return l.Addr().String(), func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			silent[c] = true
		}
	}
}

// A connection that was cut on the way without a word does not keep the endpoint's next requests.
func TestExchangeLeavesADeadHTTP2Connection(t *testing.T) {
	server, _ := counted(t, true, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	server.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	address, cut := relay(t, server.Listener.Addr().String())
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, egress.Options{
		Config: egress.Config{AllowPrivate: true}, TLS: &tls.Config{RootCAs: roots}, PingAfter: 20 * time.Millisecond,
		Resolver: &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}}},
	})
	ask := func(timeout time.Duration) (string, error) {
		a, err := c.Exchange(t.Context(), &egress.Request{
			Method: http.MethodPost, URL: parsed(t, "https://example.com:"+port+"/"), Header: http.Header{}, Body: []byte("{}"),
		}, timeout, make([]byte, 100))
		return string(a.Body), err
	}
	if got, err := ask(10 * time.Second); got != "HTTP/2.0" || err != nil {
		t.Fatalf("%s %v", got, err)
	}
	cut()
	if got, err := ask(2 * time.Second); err == nil {
		t.Fatalf("%s through a connection that was cut", got)
	}
	if got, err := ask(10 * time.Second); got != "HTTP/2.0" || err != nil {
		t.Errorf("%s %v after the connection had been cut", got, err)
	}
}

// A proxy is spoken to in HTTP/1.1, also when it could do more.
func TestAProxyIsNotAskedForHTTP2(t *testing.T) {
	server := httptest.NewTLSServer(nil) // for its certificate
	server.Close()
	negotiated := make(chan string, 1)
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		secure := tls.Server(conn, &tls.Config{Certificates: server.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}})
		if err := secure.HandshakeContext(context.Background()); err != nil {
			t.Error(err)
		}
		negotiated <- secure.ConnectionState().NegotiatedProtocol
	}()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := newClient(t, egress.Options{
		Config: egress.Config{AllowPrivate: true, Proxy: "https://" + l.Addr().String()}, TLS: &tls.Config{RootCAs: roots},
		Resolver: &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}}},
	})
	_, err = c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, "https://example.com/"), Header: http.Header{}}, 10*time.Second, nil)
	if got := <-negotiated; got == "h2" || egress.ClassOf(err) != egress.ClassProxy {
		t.Errorf("negotiated %q, then %v", got, err)
	}
}

// Over TLS the farewell to an endpoint that reads nothing would wait for it.
func TestExchangeSaysNoFarewellToWhoReadsNothing(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength < 1<<20 {
			w.Header().Set("Connection", "close")
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		<-hang
		_ = conn.Close()
	}))
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := newClient(t, egress.Options{
		Config: egress.Config{AllowPrivate: true}, TLS: &tls.Config{RootCAs: roots},
		Resolver: &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}}},
	})
	// The first finds out what the endpoint speaks. Whether one of the others meets a full buffer is up to the kernel.
	for i, size := range []int{2, 32 << 20, 32 << 20, 32 << 20, 32 << 20, 32 << 20, 32 << 20} {
		start := time.Now()
		a, err := c.Exchange(t.Context(), &egress.Request{
			Method: http.MethodPost, URL: parsed(t, "https://example.com:"+portOf(t, server)+"/"), Header: http.Header{}, Body: make([]byte, size),
		}, time.Minute, make([]byte, 10))
		if err != nil || (a.Status == 413) != (i > 0) || time.Since(start) > 4*time.Second {
			t.Errorf("%d bytes: %d %v after %v", size, a.Status, err, time.Since(start))
		}
	}
}
