package socket

import "testing"

func TestNetworks(t *testing.T) {
	for network, want := range map[string]struct{ tcp, datagram bool }{
		"tcp":      {true, false},
		"tcp4":     {true, false},
		"tcp6":     {true, false},
		"unix":     {false, false},
		"fd":       {false, false},
		"":         {false, false},
		"tcpx":     {false, false},
		"udp":      {false, true},
		"udp6":     {false, true},
		"unixgram": {false, true},
		"fdgram":   {false, true},
		"ip4:icmp": {false, true},
	} {
		if got := IsTCP(network); got != want.tcp {
			t.Errorf("%q: got TCP %t, want %t", network, got, want.tcp)
		}
		if got := IsDatagram(network); got != want.datagram {
			t.Errorf("%q: got datagrams %t, want %t", network, got, want.datagram)
		}
	}
}
