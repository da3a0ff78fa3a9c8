package egress

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
)

// Config is what an operator decides about outbound connections.
type Config struct {
	AllowPrivate   bool     `config:"ALLOW_PRIVATE_ENDPOINTS" default:"false" doc:"let endpoints resolve to private and loopback addresses"`
	AllowHTTP      bool     `config:"ALLOW_HTTP_ENDPOINTS" default:"false" doc:"let endpoints use plain http"`
	Proxy          string   `config:"EGRESS_PROXY" default:"" secret:"true" doc:"proxy for every outbound connection: http://, https:// (both by CONNECT) or socks5://, with user:password@ where it wants them; HTTP_PROXY and its kin are ignored"`
	SourceAddress  []string `config:"EGRESS_SOURCE_ADDRESS" default:"" doc:"address that outbound connections leave from: one IPv4 address, one IPv6 address, or both; or the name of an interface, for the addresses it has. An endpoint without an address of such a family can't be reached"`
	TLSMinVersion  string   `config:"EGRESS_TLS_MIN_VERSION" default:"1.2" oneof:"1.2,1.3" doc:"least version of TLS to speak with endpoints"`
	CAFile         string   `config:"EGRESS_CA_FILE" default:"" doc:"PEM file of certificate authorities to trust beside the system's"`
	MaxConnections int      `config:"EGRESS_MAX_CONNECTIONS" default:"4096" min:"16" doc:"most connections to endpoints, idle ones counted; never more than a third of the files that the process may open"`
}

// Validate returns the faults of the configuration, in words. It looks at the machine: whether it has the source address,
// and whether the file of authorities can be read.
func (c Config) Validate() []string {
	var faults []string
	add := func(key string, err error) {
		if err != nil {
			faults = append(faults, "CALLSTREAM_"+key+": "+err.Error())
		}
	}
	_, err := c.proxyURL()
	add("EGRESS_PROXY", err)
	_, err = c.sources()
	add("EGRESS_SOURCE_ADDRESS", err)
	_, err = c.roots(nil)
	add("EGRESS_CA_FILE", err)
	return faults
}

// proxyURL returns the proxy with its port, nil for none. Its errors never repeat what was given, which holds a password.
func (c Config) proxyURL() (*url.URL, error) {
	if c.Proxy == "" {
		return nil, nil
	}
	u, err := url.Parse(c.Proxy)
	if err != nil {
		return nil, errors.New("it is not a URL")
	}
	standard := map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	if standard == "" || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("it must be http://host:port, https://host:port or socks5://host:port, with user:password@ before the host where the proxy wants them")
	}
	port := u.Port()
	if port == "" {
		port = standard
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errors.New("its port is not a number from 1 to 65535")
	}
	u.Host = net.JoinHostPort(u.Hostname(), port)
	if password, has := u.User.Password(); u.Scheme == "socks5" && u.User != nil &&
		(u.User.Username() == "" || !has || password == "" || len(u.User.Username()) > 255 || len(password) > 255) {
		return nil, errors.New("a SOCKS5 proxy takes a user and a password of 1 to 255 bytes each")
	}
	return u, nil
}

// sources returns the addresses that connections leave from, at most one of each family, and none where any will do.
func (c Config) sources() ([]netip.Addr, error) {
	if len(c.SourceAddress) == 0 {
		return nil, nil
	}
	if len(c.SourceAddress) == 1 {
		if nic, err := net.InterfaceByName(c.SourceAddress[0]); err == nil {
			return addressesOf(nic)
		}
	}
	var out []netip.Addr
	for _, text := range c.SourceAddress {
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is neither an address nor an interface of this machine", text)
		case a.Zone() != "" || a.IsUnspecified() || a.IsMulticast():
			return nil, fmt.Errorf("%s is no address to leave from", a)
		}
		a = a.Unmap()
		for _, other := range out {
			if other.Is4() == a.Is4() {
				return nil, fmt.Errorf("%s and %s are of one family; give one of each at most", other, a)
			}
		}
		// Whether it is one of this machine's is for the kernel to say: it may allow more than the interfaces have.
		probe, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		if err != nil {
			return nil, fmt.Errorf("%s is not an address of this machine", a)
		}
		_ = probe.Close()
		out = append(out, a)
	}
	return out, nil
}

// addressesOf returns the first address of each family that an interface has.
func addressesOf(nic *net.Interface) ([]netip.Addr, error) {
	list, err := nic.Addrs()
	if err != nil {
		return nil, fmt.Errorf("the addresses of the interface %s: %w", nic.Name, err)
	}
	var out []netip.Addr
	for _, entry := range list {
		prefix, err := netip.ParsePrefix(entry.String())
		if err != nil {
			continue
		}
		a := prefix.Addr().Unmap()
		if a.IsLinkLocalUnicast() || len(out) > 0 && out[0].Is4() == a.Is4() {
			continue
		}
		if out = append(out, a); len(out) == 2 {
			break
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the interface %s has no address", nic.Name)
	}
	return out, nil
}

// roots returns the authorities to trust: base, or the system's where that is nil, and those of the file. It is base
// where there is no file.
func (c Config) roots(base *x509.CertPool) (*x509.CertPool, error) {
	if c.CAFile == "" {
		return base, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("it can't be read: %w", err)
	}
	var pool *x509.CertPool
	if base != nil {
		pool = base.Clone()
	} else if pool, err = x509.SystemCertPool(); err != nil {
		return nil, fmt.Errorf("the system's certificate authorities: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("it holds no certificate in PEM form")
	}
	return pool, nil
}

// minTLS is the least version to speak, as crypto/tls numbers it.
func (c Config) minTLS() uint16 {
	if c.TLSMinVersion == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// maxConnections is the bound that this process can keep: two thirds of its files are for the brokers, the database, those
// who ask it, and what else is open.
func (c Config) maxConnections() int {
	most := c.MaxConnections
	if most <= 0 {
		most = 4096
	}
	if files, known := openFiles(); known && files/3 < uint64(most) {
		most = max(int(files/3), 16) //nolint:gosec // less than most, which is an int
	}
	return most
}
