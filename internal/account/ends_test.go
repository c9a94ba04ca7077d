package account

import (
	"fmt"
	"net"
	"testing"
	"unsafe"
)

// TestEnds: an address is shown as net shows it.
func TestEnds(t *testing.T) {
	addresses := []net.Addr{
		nil,
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80},
		&net.TCPAddr{IP: net.IP{192, 0, 2, 1}, Port: 65535},
		&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1},
		&net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "eth0"},
		&net.TCPAddr{IP: net.IPv6zero},
		&net.TCPAddr{IP: net.IPv4zero},
		&net.TCPAddr{Port: 80},
		(*net.TCPAddr)(nil),
		&net.UnixAddr{Name: "/run/x", Net: "unix"},
	}
	show := func(address net.Addr) string {
		if address == nil {
			return "none"
		}
		return address.Network() + " " + address.String()
	}
	for _, client := range addresses {
		for _, local := range addresses {
			ends := EndsOf(client, local)
			got, want := fmt.Sprint(show(ends.Client()), ", ", show(ends.Local())), fmt.Sprint(show(client), ", ", show(local))
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

// TestEndsCost: addresses of TCP have no memory besides.
func TestEndsCost(t *testing.T) {
	if got := unsafe.Sizeof(Ends{}); got > 48 {
		t.Errorf("got %d bytes, want at most 48", got)
	}
	client, local := &net.TCPAddr{IP: net.IP{192, 0, 2, 1}, Port: 1}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 2}
	var ends Ends
	if got := testing.AllocsPerRun(100, func() { ends = EndsOf(client, local) }); got > 0 || ends.other != nil {
		t.Errorf("%v allocations", got)
	}
}
