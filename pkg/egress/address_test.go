package egress_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/callstream/callstream/pkg/egress"
)

func TestCheckAddr(t *testing.T) {
	const (
		public  = "public"  // always allowed
		local   = "local"   // allowed with AllowPrivate
		refused = "refused" // never allowed
	)
	for addr, want := range map[string]string{
		"8.8.8.8": public, "1.1.1.1": public, "93.184.216.34": public, "100.63.255.255": public, "100.128.0.0": public,
		"172.15.255.255": public, "172.32.0.0": public, "192.167.255.255": public, "223.255.255.255": public,
		"2606:4700:4700::1111": public, "2a00:1450:4001::200e": public,
		"::ffff:8.8.8.8": public, "64:ff9b::8.8.8.8": public, "2002:0808:0808::1": public, "::8.8.8.8": public,

		"10.0.0.1": local, "10.255.255.255": local, "172.16.0.1": local, "172.31.255.255": local, "192.168.1.1": local,
		"127.0.0.1": local, "127.1.2.3": local, "100.64.0.1": local, "100.127.255.255": local,
		"192.0.2.1": local, "198.51.100.7": local, "203.0.113.9": local, "198.18.0.1": local, "198.19.255.255": local,
		"::1": local, "fc00::1": local, "fd12:3456::1": local, "fec0::1": local, "2001:db8::1": local, "3fff::1": local, "2001:2::1": local,
		"::ffff:127.0.0.1": local, "::ffff:10.0.0.1": local, "64:ff9b::10.0.0.1": local, "2002:7f00:0001::1": local, "2002:c0a8:0101::": local,
		"::ffff:0:10.0.0.1": local, "2606:4700::5efe:192.168.0.1": local, "2606:4700::200:5efe:10.0.0.1": local, "64:ff9b:1::10.0.0.1": local,

		"0.0.0.0": refused, "0.1.2.3": refused, "169.254.169.254": refused, "169.254.0.1": refused, "168.63.129.16": refused,
		"100.100.100.200": refused, "192.0.0.192": refused, "192.0.0.1": refused, "192.88.99.1": refused,
		"224.0.0.1": refused, "239.255.255.255": refused, "240.0.0.1": refused, "255.255.255.255": refused,
		"::": refused, "fe80::1": refused, "fe80::1%eth0": refused, "ff02::1": refused, "fd00:ec2::254": refused, "fd20:ce::254": refused,
		"::ffff:169.254.169.254": refused, "64:ff9b::169.254.169.254": refused, "2002:a9fe:a9fe::1": refused, "::169.254.169.254": refused,
		"::ffff:0.0.0.0": refused, "2001::1": refused, "2001:20::1": refused, "100::1": refused, "5f00::1": refused, "4000::1": refused,
		"::ffff:0:169.254.169.254": refused, "2606:4700::5efe:169.254.169.254": refused,
		// A network of one's own is no way around what is never an endpoint.
		"fd12::5efe:169.254.169.254": refused, "fc00::200:5efe:100.100.100.200": refused, "fd12::5efe:192.168.1.1": local,
		"64:ff9b:1::169.254.169.254": refused, "64:ff9b:1:a9fe:a9:fe00::": refused, "64:ff9b:1:c0a8:1:100::": local,
		"64:ff9b:1:a9fe:a9:fe00:a00:1": refused, "64:ff9b:1::8.8.8.8": local,
	} {
		a := netip.MustParseAddr(addr)
		for _, allowPrivate := range []bool{false, true} {
			wantOK := want == public || want == local && allowPrivate
			err := egress.CheckAddr(a, allowPrivate)
			if (err == nil) != wantOK {
				t.Errorf("%s, private allowed: %v: got %v, want ok %v", addr, allowPrivate, err, wantOK)
			}
			var blocked *egress.BlockedError
			if err != nil && (!errors.As(err, &blocked) || blocked.Addr != a || blocked.Reason == "") {
				t.Errorf("%s: %v doesn't say what is wrong with it", addr, err)
			}
		}
	}
	if egress.CheckAddr(netip.Addr{}, true) == nil {
		t.Error("the zero address passes")
	}
}
