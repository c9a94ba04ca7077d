package upstream

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// textAddress is an address of another kind than TCP.
type textAddress string

func (textAddress) Network() string  { return "test" }
func (a textAddress) String() string { return string(a) }

// TestIPHashOfReverseProxy checks that ip_hash chooses what that of Caddy's reverse_proxy chooses for
// the same client, whatever the order of the servers is.
func TestIPHashOfReverseProxy(t *testing.T) {
	clients := []net.Addr{
		&net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 4000},
		&net.TCPAddr{IP: net.ParseIP("fe80::7"), Port: 4000, Zone: "eth0"},
		&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.7"), Port: 4000},
		&net.UnixAddr{Net: "unix", Name: "@"},
		&net.UnixAddr{Net: "unix"},
		textAddress("192.0.2.8:1"),
		textAddress("host.example"),
	}
	for i := range 200 {
		clients = append(clients, &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(i)), Port: 1024 + i})
	}
	p := testPolicy(t, `{"policy":"ip_hash"}`)
	used := make(map[string]bool)
	for n := 1; n < 9; n++ {
		var among []*Server
		var pool reverseproxy.UpstreamPool
		for i := range n {
			address := fmt.Sprintf("10.0.%d.5:9000", i)
			among = append(among, testServer(address, 0, 0))
			pool = append(pool, &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: address})
		}
		for _, client := range clients {
			want := reverseproxy.IPHashSelection{}.Select(pool, &http.Request{RemoteAddr: client.String()}, nil).Dial
			cx := layer4.WrapConnection(clientConn{remote: client}, nil, zap.NewNop())
			for range 5 {
				got := p.choose(among, cx).address
				if got != want {
					t.Errorf("%s: got %s of %v, reverse_proxy chooses %s", client, got, addressesOf(among), want)
				}
				if would := p.would(among, cx); len(would) != 1 || would[0].address != want {
					t.Errorf("%s: would choose %v, not %s", client, addressesOf(would), want)
				}
				rand.Shuffle(len(among), func(i, j int) { among[i], among[j] = among[j], among[i] })
			}
			used[fmt.Sprint(n, want)] = true
		}
	}
	if len(used) != 1+2+3+4+5+6+7+8 {
		t.Errorf("only %d servers of %d get clients", len(used), 36)
	}
}
