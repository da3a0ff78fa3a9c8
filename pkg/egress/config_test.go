package egress_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/callstream/callstream/pkg/egress"
)

// S3-13: connections leave from the address that is set, also those to a proxy.
func TestConnectionsLeaveFromTheSourceAddress(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }))
	t.Cleanup(server.Close)
	config := egress.Config{AllowPrivate: true, AllowHTTP: true, SourceAddress: []string{"127.0.0.2"}}
	if faults := config.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	_, body, err := get(t, newClient(t, egress.Options{Config: config}), server.URL)
	if !strings.HasPrefix(body, "127.0.0.2:") || err != nil {
		t.Errorf("left from %s: %v", body, err)
	}

	proxy := &socks{}
	config.Proxy = "socks5://" + proxy.start(t)
	if _, body, err := get(t, newClient(t, egress.Options{Config: config}), server.URL); !strings.HasPrefix(body, "127.0.0.1:") || err != nil {
		t.Errorf("%s: %v", body, err)
	}
	if got := <-proxy.asked; got.from.String() != "127.0.0.2" {
		t.Errorf("the proxy was asked from %s", got.from)
	}
}

// Of an endpoint's addresses, those count that can be reached from the source address.
func TestTheSourceAddressChoosesTheFamily(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }))
	t.Cleanup(server.Close)
	dns := &names{answers: map[string][][]netip.Addr{"both.test": {addrs("::1", "127.0.0.1")}, "six.test": {addrs("::1")}}}
	c := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true, AllowHTTP: true, SourceAddress: []string{"127.0.0.3"}}, Resolver: dns})
	if _, body, err := get(t, c, "http://both.test:"+portOf(t, server)); !strings.HasPrefix(body, "127.0.0.3:") || err != nil {
		t.Errorf("left from %s: %v", body, err)
	}
	if _, _, err := get(t, c, "http://six.test:"+portOf(t, server)); egress.ClassOf(err) != egress.ClassConnect || !strings.Contains(err.Error(), "SOURCE_ADDRESS") {
		t.Errorf("got %v, want it to name the setting", err)
	}
}

func TestSourceAddressIsValidatedAtTheStart(t *testing.T) {
	for want, list := range map[string][]string{
		"neither an address nor an interface": {"nosuchnic0"},
		"is not an address of this machine":   {"192.0.2.77"},
		"is no address to leave from":         {"0.0.0.0"},
		"are of one family":                   {"127.0.0.1", "127.0.0.2"},
	} {
		config := egress.Config{SourceAddress: list}
		if faults := config.Validate(); len(faults) != 1 || !strings.HasPrefix(faults[0], "CALLSTREAM_EGRESS_SOURCE_ADDRESS: ") || !strings.Contains(faults[0], want) {
			t.Errorf("%v: %v", list, faults)
		}
		if _, err := egress.NewClient(egress.Options{Config: config}); err == nil {
			t.Errorf("%v: a client all the same", list)
		}
	}
}

// S3-12: the operator may ask for TLS 1.3, and trust authorities of their own; nobody can turn the checks off.
func TestTLSOfTheOperator(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	server.TLS = &tls.Config{MaxVersion: tls.VersionTLS12, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	trusting := egress.Config{AllowPrivate: true, CAFile: file}
	if faults := trusting.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	if _, body, err := get(t, newClient(t, egress.Options{Config: trusting}), server.URL); body != "hello" || err != nil {
		t.Errorf("with its authority: %q %v", body, err)
	}
	modern := trusting
	modern.TLSMinVersion = "1.3"
	if _, _, err := get(t, newClient(t, egress.Options{Config: modern}), server.URL); egress.ClassOf(err) != egress.ClassTLS {
		t.Errorf("TLS 1.2 where 1.3 is the least: got %v, want tls", err)
	}
	careless := newClient(t, egress.Options{Config: egress.Config{AllowPrivate: true}, TLS: &tls.Config{InsecureSkipVerify: true}}) //nolint:gosec // what is tested
	if _, _, err := get(t, careless, server.URL); egress.ClassOf(err) != egress.ClassTLS {
		t.Errorf("without its authority: got %v, want tls", err)
	}
	// Those of a file are added to others.
	another := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(another.Close)
	roots := x509.NewCertPool()
	roots.AddCert(another.Certificate())
	if _, _, err := get(t, newClient(t, egress.Options{Config: trusting, TLS: &tls.Config{RootCAs: roots}}), another.URL); err != nil {
		t.Errorf("an authority beside the file's: %v", err)
	}

	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, filepath.Join(t.TempDir(), "none.pem")} {
		if faults := (egress.Config{CAFile: file}).Validate(); len(faults) != 1 || !strings.HasPrefix(faults[0], "CALLSTREAM_EGRESS_CA_FILE: ") {
			t.Errorf("%s: %v", file, faults)
		}
	}
}
