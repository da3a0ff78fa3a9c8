package outbound

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/subscription"
)

// mutual is an endpoint that asks for client certificates, and a Sender that trusts it.
func mutual(t *testing.T, authority *hooktest.Authority) (*hooktest.Receiver, *Sender) {
	t.Helper()
	hook := hooktest.Start(t, hooktest.Options{TLS: true, Clients: authority.Pool(), Secrets: []string{testSecret}})
	roots := x509.NewCertPool()
	roots.AddCert(hook.Server().Certificate())
	return hook, testSender(t, Options{Egress: egress.Options{TLS: &tls.Config{RootCAs: roots}, MaxIdlePerHost: 8}})
}

func withCertificate(authority *hooktest.Authority, id string) func(*subscription.Subscription) {
	certificate, key := authority.Client(id)
	return func(s *subscription.Subscription) {
		s.ID = id
		s.Auth = subscription.Auth{Type: subscription.AuthMTLS, Certificate: certificate, PrivateKey: subscription.NewHidden(key)}
	}
}

// P-15: each subscription shows its own certificate, whatever others send to the same endpoint at the same time, and one
// without a certificate never gets through on another's connection.
func TestCertificatesDoNotMix(t *testing.T) {
	authority := hooktest.NewAuthority(t)
	hook, sender := mutual(t, authority)
	const each = 30
	var group sync.WaitGroup
	for _, id := range []string{"sub_a", "sub_b"} {
		target := testTarget(t, sender, hook.URL(), withCertificate(authority, id))
		for range 3 {
			group.Go(func() {
				for i := range each {
					d := testDelivery()
					d.ID = fmt.Sprintf("%s_%d", id, i)
					if a := target.Send(t.Context(), d, Attempt{Number: 1}); a.Err != nil || a.Status != 200 {
						t.Errorf("%s: %d %v", id, a.Status, a.Err)
					}
				}
			})
		}
	}
	none := testTarget(t, sender, hook.URL(), nil)
	group.Go(func() {
		for range each {
			// The endpoint's refusal and its closing of the connection race each other to us, so the class varies.
			if a := none.Send(t.Context(), testDelivery(), Attempt{Number: 1}); a.Status != 0 || a.Err == nil {
				t.Errorf("without a certificate: %d %v", a.Status, a.Err)
			}
		}
	})
	group.Wait()
	for _, r := range hook.Requests() {
		if r.Client == "" || r.ID[:len("sub_a")] != r.Client {
			t.Errorf("%s came with the certificate of %q", r.ID, r.Client)
		}
	}
	if n := hook.Total(); n != 2*3*each {
		t.Errorf("%d requests", n)
	}
}

// P-15: connections that were opened with a certificate are closed with the version of the subscription that it belongs
// to, those of others are not.
func TestACertificatesConnectionsEndWithIt(t *testing.T) {
	authority := hooktest.NewAuthority(t)
	hook, sender := mutual(t, authority)
	send := func(target *Target) {
		t.Helper()
		if a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1}); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	first, second := testTarget(t, sender, hook.URL(), withCertificate(authority, "sub_a")), testTarget(t, sender, hook.URL(), withCertificate(authority, "sub_b"))
	send(first)
	send(first)
	send(second)
	at := func(n int) string { return hook.Requests()[n].Remote }
	if at(0) != at(1) || at(0) == at(2) {
		t.Fatalf("connections %s, %s, %s", at(0), at(1), at(2))
	}
	first.Close()
	send(second)
	if at(3) != at(2) {
		t.Error("the connection of another subscription was closed")
	}
	// By who had it in hand. Where an answer was read a moment ago, its connection may not have been idle yet.
	deadline := time.Now().Add(20 * time.Second)
	for n := 4; ; n++ {
		if send(first); at(n) != at(0) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection is still open")
		}
	}
}
