package egress

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// BlockedError says that an address may not be connected to, and why.
type BlockedError struct {
	Addr   netip.Addr
	Reason string
}

// Error names the address and the range it fell in.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("address %s is not allowed: %s", e.Addr, e.Reason)
}

type ipRange struct {
	prefix netip.Prefix
	reason string
	// local ranges are the ones that AllowPrivate opens: networks one may own. The others are never an endpoint.
	local bool
}

// Ranges that are not the public Internet: the IANA special-purpose registries (RFC 6890 and its successors), and two
// addresses of cloud providers that look public or unique-local and answer with credentials.
//
// The order matters only where a narrow range lies inside a wide one: the narrow one comes first.
var refused = []ipRange{
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local, cloud metadata", false},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud platform service", false},
	{netip.MustParsePrefix("100.100.100.200/32"), "cloud metadata", false},
	{netip.MustParsePrefix("192.0.0.192/32"), "cloud metadata", false},
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified, this network", false},
	{netip.MustParsePrefix("10.0.0.0/8"), "private", true},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT", true},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback", true},
	{netip.MustParsePrefix("172.16.0.0/12"), "private", true},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments", false},
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation", true},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay", false},
	{netip.MustParsePrefix("192.168.0.0/16"), "private", true},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking", true},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation", true},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation", true},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast", false},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved, broadcast", false},

	{netip.MustParsePrefix("::/128"), "unspecified", false},
	{netip.MustParsePrefix("::1/128"), "loopback", true},
	{netip.MustParsePrefix("fd00:ec2::/32"), "cloud metadata", false},
	{netip.MustParsePrefix("fd20:ce::254/128"), "cloud metadata", false},
	{netip.MustParsePrefix("fc00::/7"), "unique local", true},
	{netip.MustParsePrefix("fe80::/10"), "link-local", false},
	{netip.MustParsePrefix("fec0::/10"), "site-local", true},
	{netip.MustParsePrefix("ff00::/8"), "multicast", false},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local-use NAT64", true},
	{netip.MustParsePrefix("100::/64"), "discard only", false},
	{netip.MustParsePrefix("2001:db8::/32"), "documentation", true},
	{netip.MustParsePrefix("2001:2::/48"), "benchmarking", true},
	{netip.MustParsePrefix("2001::/23"), "protocol assignments, Teredo", false},
	{netip.MustParsePrefix("3fff::/20"), "documentation", true},
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	compatible = netip.MustParsePrefix("::/96")
	translated = netip.MustParsePrefix("::ffff:0:0:0/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	globalV6   = netip.MustParsePrefix("2000::/3")
)

// CheckAddr returns nil where a connection to a is allowed and a *BlockedError otherwise. With allowPrivate, private,
// loopback, shared and test networks are allowed; link-local, metadata, multicast, unspecified and reserved addresses
// never are. An IPv6 address that carries an IPv4 address (mapped, compatible, NAT64, 6to4, ISATAP) is also judged by that
// one, wherever it lies: a translator on the way would connect to it.
func CheckAddr(a netip.Addr, allowPrivate bool) error {
	if !a.IsValid() {
		return &BlockedError{Addr: a, Reason: "not an address"}
	}
	plain := a.WithZone("").Unmap()
	own := false // a network that AllowPrivate opens
	for _, r := range refused {
		if r.prefix.Contains(plain) {
			if !r.local || !allowPrivate {
				return &BlockedError{Addr: a, Reason: r.reason}
			}
			own = true
			break
		}
	}
	if plain.Is4() || plain == netip.IPv6Loopback() {
		return nil
	}
	for _, inner := range embedded(plain) {
		if err := CheckAddr(inner.addr, allowPrivate); err != nil {
			return &BlockedError{Addr: a, Reason: inner.how + " of " + inner.addr.String()}
		}
		own = true
	}
	if !own && !globalV6.Contains(plain) {
		return &BlockedError{Addr: a, Reason: "not global unicast"}
	}
	return nil
}

// inner is an IPv4 address inside an IPv6 one, and the name of the form.
type inner struct {
	addr netip.Addr
	how  string
}

// embedded returns what IPv4 addresses an IPv6 address may carry.
func embedded(a netip.Addr) []inner {
	b := a.As16()
	last := netip.AddrFrom4([4]byte(b[12:16]))
	switch {
	case nat64.Contains(a):
		return []inner{{last, "NAT64"}}
	case localNAT64.Contains(a):
		// RFC 6052 puts it behind a prefix of 48 bits around the ninth byte, or behind one of 96 bits at the end; which, only
		// the network knows. A part that is not used is zero.
		middle := netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]})
		switch none := netip.IPv4Unspecified(); {
		case middle == none:
			return []inner{{last, "NAT64"}}
		case last == none:
			return []inner{{middle, "NAT64"}}
		}
		return []inner{{last, "NAT64"}, {middle, "NAT64"}}
	case compatible.Contains(a):
		return []inner{{last, "IPv4-compatible form"}}
	case translated.Contains(a):
		return []inner{{last, "IPv4-translated form"}}
	case sixToFour.Contains(a):
		return []inner{{netip.AddrFrom4([4]byte(b[2:6])), "6to4"}}
	}
	// ISATAP (RFC 5214): the interface identifier is 0000:5efe or 0200:5efe and the IPv4 address.
	if id := binary.BigEndian.Uint32(b[8:12]); id == 0x00005efe || id == 0x02005efe {
		return []inner{{last, "ISATAP"}}
	}
	return nil
}
