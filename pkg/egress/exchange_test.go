package egress_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
)

func parsed(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// counted is a server that counts its connections and says what it got.
func counted(t *testing.T, h2 bool, handler http.HandlerFunc) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.EnableHTTP2 = h2
	t.Cleanup(server.Close)
	return server, &connections
}

func TestExchangeOverHTTP1(t *testing.T) {
	server, connections := counted(t, false, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Got", fmt.Sprintf("%s %s %s %d %s", r.Method, r.RequestURI, r.Host, r.ContentLength, r.Header.Get("Webhook-Id")))
		switch r.URL.Path {
		case "/chunked":
			w.Write(body[:1])
			w.(http.Flusher).Flush()
			w.Write(body[1:])
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
			w.Write(body)
		default:
			w.Write(body)
		}
	})
	server.Start()
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	large := strings.Repeat("abcdefgh", 40_000)
	for _, test := range []struct {
		path, body, want string
		status           int
		truncated        bool
	}{
		{"/plain?a=b%20c", "hello", "hello", 200, false},
		{"/chunked", "hello", "hello", 200, false},
		{"/empty", "x", "", 204, false},
		{"/early", "hello", "hello", 200, false},
		{"/none", "", "", 200, false},
		{"/keeps", large[:40_000], large[:1024], 200, true},
		{"/plain", "again", "again", 200, false},
	} {
		a, err := c.Exchange(t.Context(), &egress.Request{
			Method: http.MethodPost, URL: parsed(t, server.URL+test.path), Header: http.Header{"Webhook-Id": {"msg_1"}}, Body: []byte(test.body),
		}, 10*time.Second, make([]byte, 1024))
		if err != nil || a.Err != nil || a.Status != test.status || string(a.Body) != test.want || a.Truncated != test.truncated || a.FirstByte <= 0 {
			t.Errorf("%s: %d %q %v %v %v", test.path, a.Status, a.Body, a.Truncated, err, a.Err)
		}
		if want := fmt.Sprintf("POST %s %s %d msg_1", test.path, server.Listener.Addr(), len(test.body)); a.Header.Get("X-Got") != want {
			t.Errorf("got %q, want %q", a.Header.Get("X-Got"), want)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for requests in turn", n)
	}
	// What is longer than what is read of it costs the connection, and nothing else.
	for range 2 {
		a, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, server.URL), Body: []byte(large)}, 10*time.Second, make([]byte, 16))
		if err != nil || a.Status != 200 || !a.Truncated || len(a.Body) != 16 {
			t.Errorf("%d %v %v", a.Status, a.Truncated, err)
		}
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections after two long answers, want 2", n)
	}
}

// A connection that the endpoint closed while it was idle is noticed before a request is wasted on it.
func TestExchangeNoticesAClosedConnection(t *testing.T) {
	server, connections := counted(t, false, func(http.ResponseWriter, *http.Request) {})
	server.Start()
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	send := func() error {
		_, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, server.URL), Body: []byte("{}")}, 10*time.Second, nil)
		return err
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	server.CloseClientConnections()
	idle := time.NewTimer(150 * time.Millisecond) // longer than a connection is trusted without a look
	<-idle.C
	if err := send(); err != nil || connections.Load() != 2 {
		t.Errorf("%v after %d connections", err, connections.Load())
	}
}

func TestExchangeRefusesWhatWouldSmuggle(t *testing.T) {
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	target := raw(t, func(net.Conn) { t.Error("a request arrived") })
	for name, r := range map[string]*egress.Request{
		"header value": {Method: "POST", Header: http.Header{"X-Event-Id": {"a\r\nX-Other: b"}}},
		"header name":  {Method: "POST", Header: http.Header{"X-Event\r\nId": {"a"}}},
		"method":       {Method: "POST / HTTP/1.1\r\nX: y\r\n\r\nGET"},
	} {
		for _, scheme := range []string{"http", "https"} { // each goes its own way
			r.URL = parsed(t, target)
			r.URL.Scheme = scheme
			if _, err := c.Exchange(t.Context(), r, 10*time.Second, nil); egress.ClassOf(err) != egress.ClassInvalid {
				t.Errorf("%s over %s: got %v, want invalid", name, scheme, err)
			}
		}
	}
}

func TestExchangeSpeaksWhatTheEndpointSpeaks(t *testing.T) {
	for _, h2 := range []bool{true, false} {
		var last atomic.Value
		server, connections := counted(t, h2, func(w http.ResponseWriter, r *http.Request) {
			last.Store(r.Proto)
			_, _ = io.Copy(w, r.Body)
		})
		server.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		c := newClient(t, egress.Options{
			Config: egress.Config{AllowPrivate: true}, TLS: &tls.Config{RootCAs: roots},
			Resolver: &names{answers: map[string][][]netip.Addr{"example.com": {addrs("127.0.0.1")}}},
		})
		for i := range 4 {
			body := bytes.Repeat([]byte("x"), i*500)
			a, err := c.Exchange(t.Context(), &egress.Request{
				Method: http.MethodPost, URL: parsed(t, "https://example.com:"+portOf(t, server)+"/"), Header: http.Header{}, Body: body,
			}, 10*time.Second, make([]byte, 4096))
			if err != nil || a.Err != nil || a.Status != 200 || !bytes.Equal(a.Body, body) {
				t.Fatalf("HTTP/2 %v, request %d: %d %v %v", h2, i, a.Status, err, a.Err)
			}
		}
		want := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[h2]
		if last.Load() != want {
			t.Errorf("spoke %v, want %s", last.Load(), want)
		}
		// Over HTTP/1.1 the first request finds out, through a connection that the others don't use.
		if n := connections.Load(); n > 2 {
			t.Errorf("%d connections", n)
		}
	}
}

// An answer that comes before the request has been taken whole is an answer.
func TestExchangeTakesAnEarlyAnswer(t *testing.T) {
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	target := raw(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	})
	a, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, target), Body: make([]byte, 1<<20)}, 10*time.Second, make([]byte, 10))
	if err != nil || a.Status != 413 || string(a.Body) != "no" {
		t.Errorf("%d %q %v", a.Status, a.Body, err)
	}
}

// The answer's status counts even if its body never ends.
func TestExchangeReportsABrokenBodyBesideTheStatus(t *testing.T) {
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}})
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for want, answer := range map[egress.Class]func(net.Conn){
		egress.ClassReset: func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") },
		egress.ClassTimeout: func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
			<-hang
		},
	} {
		timeout := 10 * time.Second
		if want == egress.ClassTimeout {
			timeout = 50 * time.Millisecond
		}
		a, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, raw(t, answer))}, timeout, make([]byte, 10))
		if err != nil || a.Status != 200 || string(a.Body) != "abc" || egress.ClassOf(a.Err) != want {
			t.Errorf("%d %q %v, body: %v, want %s", a.Status, a.Body, err, a.Err, want)
		}
	}
}

func TestExchangeAtOnce(t *testing.T) {
	server, _ := counted(t, false, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, bufio.NewReader(r.Body)) })
	server.Start()
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true}, MaxIdlePerHost: 4})
	errs := make(chan error)
	for i := range 16 {
		go func() {
			buf := make([]byte, 100)
			for j := range 50 {
				body := fmt.Sprintf("%d-%d", i, j)
				a, err := c.Exchange(context.Background(), &egress.Request{Method: http.MethodPost, URL: parsed(t, server.URL), Body: []byte(body)}, 10*time.Second, buf)
				if err == nil && string(a.Body) != body {
					err = fmt.Errorf("sent %s, got %s", body, a.Body)
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 16 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
