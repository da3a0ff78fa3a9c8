//go:build unix

package egress_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
)

// anywhere resolves each name to the same address.
type anywhere netip.Addr

func (a anywhere) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.Addr(a)}, nil
}

// gauge is a server that knows how many connections are open to it, and how many were at most.
type gauge struct {
	*httptest.Server
	mu        sync.Mutex
	changed   *sync.Cond
	open, top int
	accepted  int
}

func newGauge(t *testing.T, handler http.HandlerFunc) *gauge {
	t.Helper()
	g := &gauge{Server: httptest.NewUnstartedServer(handler)}
	g.changed = sync.NewCond(&g.mu)
	g.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		g.mu.Lock()
		defer g.mu.Unlock()
		switch s {
		case http.StateNew:
			g.open++
			g.accepted++
			g.top = max(g.top, g.open)
		case http.StateClosed, http.StateHijacked:
			g.open--
			g.changed.Broadcast()
		}
	}
	t.Cleanup(g.Close)
	return g
}

// settle waits until at most that many connections are open.
func (g *gauge) settle(most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.open > most {
		g.changed.Wait()
	}
}

// each asks every host once, by several at a time.
func each(t *testing.T, c *egress.Client, hosts, at int, target func(i int) string) {
	t.Helper()
	var group sync.WaitGroup
	for worker := range at {
		group.Go(func() {
			for i := worker; i < hosts; i += at {
				a, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, target(i)), Body: []byte("{}")}, time.Minute, make([]byte, 16))
				if a.Status != 200 || err != nil {
					t.Errorf("host %d: %d %v", i, a.Status, err)
					return
				}
			}
		})
	}
	group.Wait()
}

func TestManyHostsLeaveFewIdleConnections(t *testing.T) {
	const hosts, idle = 10_000, 50
	server := newGauge(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	server.Start()
	c := newClient(t, egress.Options{
		Config: egress.Config{AllowPrivate: true, AllowHTTP: true}, MaxIdle: idle, Resolver: anywhere(netip.MustParseAddr("127.0.0.1")),
	})
	target := func(i int) string { return fmt.Sprintf("http://h%d.example.com:%s/", i, portOf(t, server.Server)) }
	each(t, c, hosts, 8, target)
	server.settle(idle)
	// Those that are left belong to whom was asked last, not to the first.
	last := func(int) string { return target(hosts) }
	each(t, c, 1, 1, last)
	server.settle(idle)
	server.mu.Lock()
	before := server.accepted
	server.mu.Unlock()
	each(t, c, 3, 1, last)
	server.mu.Lock()
	defer server.mu.Unlock()
	if n := server.accepted - before; n != 0 {
		t.Errorf("%d new connections to the last host", n)
	}
}

// Idle connections, of whatever kind and whoever's, make room for those that are needed.
func TestOpenConnectionsAreBounded(t *testing.T) {
	const most, hosts = 16, 60
	for _, kind := range []string{"http", "https", "https over HTTP/2"} {
		t.Run(kind, func(t *testing.T) {
			server := newGauge(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
			roots, scheme := x509.NewCertPool(), "http"
			if kind == "http" {
				server.Start()
			} else {
				server.EnableHTTP2 = kind != "https"
				server.StartTLS()
				roots.AddCert(server.Certificate())
				scheme = "https"
			}
			c := newClient(t, egress.Options{
				Config:   egress.Config{AllowPrivate: true, AllowHTTP: true, MaxConnections: most},
				Resolver: anywhere(netip.MustParseAddr("127.0.0.1")), TLS: &tls.Config{RootCAs: roots},
			})
			other := c.WithCertificate(tls.Certificate{}, 4)
			t.Cleanup(other.Close)
			target := func(i int) string {
				return fmt.Sprintf("%s://h%d.example.com:%s/", scheme, i, portOf(t, server.Server))
			}
			// Each host twice: with TLS the first request goes another way than the second.
			var group sync.WaitGroup
			for _, client := range []*egress.Client{c, other} {
				group.Go(func() { each(t, client, 2*hosts, most/2-1, func(i int) string { return target(i / 2) }) })
			}
			group.Wait()
			server.mu.Lock()
			defer server.mu.Unlock()
			// The server may hear of a new connection before it has heard of the end of the one it replaces.
			if server.top > 2*most {
				t.Errorf("%d connections were open at once, of at most %d", server.top, most)
			}
		})
	}
}

// More requests than there may be connections wait; and it is not the endpoint's fault where they wait in vain.
func TestRequestsWaitForRoom(t *testing.T) {
	const most = 16
	arrived, release := make(chan struct{}, most+1), make(chan struct{})
	server := newGauge(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	server.Start()
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true, MaxConnections: most}})
	ask := func(timeout time.Duration) error {
		_, err := c.Exchange(t.Context(), &egress.Request{Method: http.MethodPost, URL: parsed(t, server.URL)}, timeout, nil)
		return err
	}
	var group sync.WaitGroup
	for range most {
		group.Go(func() {
			if err := ask(time.Minute); err != nil {
				t.Error(err)
			}
		})
		<-arrived
	}
	if err := ask(50 * time.Millisecond); egress.ClassOf(err) != egress.ClassConnect || !strings.Contains(err.Error(), "MAX_CONNECTIONS") {
		t.Errorf("got %v", err)
	}
	group.Go(func() {
		if err := ask(time.Minute); err != nil {
			t.Errorf("who waited: %v", err)
		}
	})
	close(release)
	group.Wait()
}

func TestTheBoundKeepsToTheFilesOfTheProcess(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, egress.Options{Config: egress.Config{MaxConnections: math.MaxInt}})
	if got := c.MaxConnections(); uint64(got) > max(limit.Cur/3, 16) {
		t.Errorf("%d connections of %d files", got, limit.Cur)
	}
}
