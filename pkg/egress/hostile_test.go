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

// dribble writes the bytes one by one, and goes on with the last for as long as they are taken.
func dribble(conn net.Conn, answer string) {
	for i := 0; ; i = min(i+1, len(answer)-1) {
		if _, err := io.WriteString(conn, answer[i:i+1]); err != nil {
			return
		}
	}
}

// An endpoint that never stops answering, byte by byte, is cut off at the timeout, or at the limit of its headers.
func TestExchangeEndsWithWhoeverDribbles(t *testing.T) {
	const slow = "HTTP/1.1 200 OK\r\nX: y"
	slowly := func(conn net.Conn) {
		for i := 0; ; i = min(i+1, len(slow)-1) {
			if _, err := io.WriteString(conn, slow[i:i+1]); err != nil {
				return
			}
			select {
			case <-t.Context().Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}, MaxHeaderBytes: 8 << 10})
	for name, test := range map[string]struct {
		answer func(net.Conn)
		class  egress.Class
		status int
	}{
		"headers, slowly": {slowly, egress.ClassTimeout, 0},
		"endless headers": {func(conn net.Conn) { dribble(conn, "HTTP/1.1 200 OK\r\nX: y") }, egress.ClassProtocol, 0},
		"endless hints": {func(conn net.Conn) {
			for {
				if _, err := io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		}, egress.ClassProtocol, 0},
		"a body, slowly": {func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
			slowly(conn)
		}, egress.ClassTimeout, 200},
		"chunks, slowly": {func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n")
			slowly(conn)
		}, egress.ClassTimeout, 200},
	} {
		t.Run(name, func(t *testing.T) {
			// The raw server's own goroutine ends when the client closes the connection: the test would hang otherwise.
			ended := make(chan struct{})
			target := raw(t, func(conn net.Conn) {
				defer close(ended)
				test.answer(conn)
			})
			timeout := 30 * time.Second
			if test.class == egress.ClassTimeout {
				timeout = 100 * time.Millisecond
			}
			a, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, target), Body: []byte("{}")}, timeout, make([]byte, 4<<10))
			if a.Status == 0 && egress.ClassOf(err) != test.class || a.Status != test.status || a.Status != 0 && egress.ClassOf(a.Err) != test.class {
				t.Errorf("%d %v %v, want %d and %s", a.Status, err, a.Err, test.status, test.class)
			}
			<-ended
		})
	}
}

// The same over TLS, in both versions of HTTP.
func TestExchangeEndsWithWhoeverDribblesOverTLS(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		ended := make(chan struct{}, 4)
		server, _ := counted(t, http2, func(w http.ResponseWriter, r *http.Request) {
			defer func() { ended <- struct{}{} }()
			if r.URL.Path == "/late" {
				<-r.Context().Done()
				return
			}
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
			panic(http.ErrAbortHandler) // a body that ended after all, as the connection was being closed, would be an answer
		})
		server.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true}, TLS: &tls.Config{RootCAs: roots}})
		for range 2 { // the second request over HTTP/1.1 goes another way than the first
			a, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, server.URL)}, 200*time.Millisecond, make([]byte, 4<<10))
			if a.Status != 200 || err != nil || egress.ClassOf(a.Err) != egress.ClassTimeout {
				t.Errorf("HTTP/2 %v: %d %v %v", http2, a.Status, err, a.Err)
			}
			<-ended
		}
		if _, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, server.URL+"/late")}, 100*time.Millisecond, nil); egress.ClassOf(err) != egress.ClassTimeout {
			t.Errorf("HTTP/2 %v, no headers: %v", http2, err)
		}
		<-ended
	}
}

// P-12: an address in a spelling that only some resolvers know is refused before anybody is asked, and what a resolver makes of
// one is checked all the same.
func TestOddSpellingsOfAddresses(t *testing.T) {
	dns := &names{answers: map[string][][]netip.Addr{}}
	c := newClient(t, egress.Options{Config: egress.Config{AllowHTTP: true}, Resolver: dns})
	for host, want := range map[string]egress.Class{
		"2130706433": egress.ClassInvalid, "127.1": egress.ClassInvalid, "0177.0.0.1": egress.ClassInvalid, "0x7f000001": egress.ClassInvalid,
		"0x7F.1": egress.ClassInvalid, "127.0.0.0x1": egress.ClassInvalid, "127.0.0.1.": egress.ClassInvalid, "0": egress.ClassInvalid,
		"010.0.0.1": egress.ClassInvalid, "1.2.3.4.5": egress.ClassInvalid, "017700000001": egress.ClassInvalid, "169.254.43518": egress.ClassInvalid,
		"[::ffff:127.0.0.1]": egress.ClassBlocked, "[0:0:0:0:0:ffff:a9fe:a9fe]": egress.ClassBlocked, "[fe80::1%25lo]": egress.ClassBlocked,
		"[::ffff:127.0.0.1%25lo]": egress.ClassBlocked, "[64:ff9b::7f00:1]": egress.ClassBlocked, "0.0.0.0": egress.ClassBlocked,
	} {
		_, _, err := get(t, c, "http://"+host+"/")
		if egress.ClassOf(err) != want || dns.lookups != 0 {
			t.Errorf("%s: got %v (%s) after %d lookups, want %s", host, err, egress.ClassOf(err), dns.lookups, want)
		}
	}
	for _, name := range []string{"1.example.com", "a1", "0x7f.example", "3com"} {
		before := dns.lookups
		if _, _, err := get(t, c, "http://"+name+"/"); egress.ClassOf(err) != egress.ClassDNS || dns.lookups != before+1 {
			t.Errorf("%s: got %v, want it resolved", name, err)
		}
	}
}

// P-12: also where it comes over TLS, by either version of HTTP, a redirect is an answer and nobody is asked for its target.
func TestRedirectsAreAnswersOverTLS(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		var hits atomic.Int32
		server, _ := counted(t, http2, func(w http.ResponseWriter, r *http.Request) {
			hits.Add(1)
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusTemporaryRedirect)
		})
		server.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true}, TLS: &tls.Config{RootCAs: roots}})
		for n := range int32(2) {
			if status, _, err := get(t, c, server.URL); status != http.StatusTemporaryRedirect || err != nil || hits.Load() != n+1 {
				t.Errorf("HTTP/2 %v: got %d %v after %d requests", http2, status, err, hits.Load())
			}
		}
	}
}
