//go:build unix

package egress

import (
	"crypto/tls"
	"net"
	"testing"
	"time"
)

// Behind an https proxy there is TLS inside TLS: a connection that was closed is noticed there as well.
func TestStillOpenLooksThroughBothLayers(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var d net.Dialer
	near, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = near.Close() }()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(tls.Client(near, &tls.Config{ServerName: "proxy.test"}), &tls.Config{ServerName: "example.com"})
	if !stillOpen(conn) {
		t.Error("closed before it was")
	}
	_ = far.Close()
	for deadline := time.Now().Add(10 * time.Second); stillOpen(conn); {
		if time.Now().After(deadline) {
			t.Fatal("the end is not noticed")
		}
	}
}
