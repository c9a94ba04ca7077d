package upstream

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// addressesOf returns the addresses of servers.
func addressesOf(servers []*Server) (addresses []string) {
	for _, s := range servers {
		addresses = append(addresses, s.address)
	}
	return addresses
}

// TestPoliciesForetell checks that each policy does as it has said, and that to ask changes
// nothing.
func TestPoliciesForetell(t *testing.T) {
	a, b, c := testServer("a", 3, 1), testServer("b", 2, 1), testServer("c", 1, 5)
	all := []*Server{a, b, c}
	for _, test := range []struct {
		policy string
		most   string // of the servers that are foretold at once
	}{
		{"", "a b c"},
		{`{"policy":"random"}`, "a b c"},
		{`{"policy":"random_choose"}`, "a b c"},
		{`{"policy":"random_choose","choose":3}`, "a b"},
		{`{"policy":"least_conn"}`, "a b"},
		{`{"policy":"first"}`, ""},
		{`{"policy":"ip_hash"}`, ""},
		{`{"policy":"round_robin"}`, ""},
		{`{"policy":"weighted_round_robin"}`, ""},
	} {
		t.Run(test.policy, func(t *testing.T) {
			p, asked := testPolicy(t, test.policy), testPolicy(t, test.policy)
			client := clientOf("10.0.0.7")
			for i := range 20 {
				among := all[:1+i%3]
				would := asked.would(among, client)
				for range 3 {
					if again := asked.would(among, client); !slices.Equal(again, would) {
						t.Fatalf("would %v, then %v", addressesOf(would), addressesOf(again))
					}
				}
				if len(among) == 3 && test.most != "" && strings.Join(addressesOf(would), " ") != test.most || test.most == "" && len(would) != 1 {
					t.Errorf("of %v would %v, want %q", addressesOf(among), addressesOf(would), test.most)
				}
				chose := asked.choose(among, client)
				if !slices.Contains(would, chose) {
					t.Errorf("chose %s, would have %v", chose.address, addressesOf(would))
				}
				// One that nobody asks before does the same.
				if test.most == "" {
					if other := p.choose(among, client); other != chose {
						t.Errorf("chose %s, and %s if nobody asks", chose.address, other.address)
					}
				}
			}
		})
	}
}

// counting is a selector of another plugin, which counts how often it is asked.
type counting struct{ asked int }

func (c *counting) Select(pool l4proxy.UpstreamPool, _ *layer4.Connection) *l4proxy.Upstream {
	c.asked++
	return pool[0]
}

// certain is a selector without state.
type certain struct {
	counting
	is bool
}

func (c *certain) Certain(*layer4.Connection) bool { return c.is }

func TestPreview(t *testing.T) {
	selector := new(counting)
	pool := newTestPool(t, Options{
		Servers: l4proxy.UpstreamPool{
			{Dial: []string{"127.0.0.1:1"}, MaxConnections: 1},
			{Dial: []string{"127.0.0.1:2"}},
			{Dial: []string{"127.0.0.1:3"}},
			{Dial: []string{"127.0.0.1:4"}},
		},
		Selector:      selector,
		ProxyProtocol: 1,
		MaxFails:      1,
	})
	client := clientOf("192.0.2.7")
	preview := pool.Preview(client)
	if got := strings.Join(addressesOf(preview.First), " "); got != "127.0.0.1:1 127.0.0.1:2 127.0.0.1:3 127.0.0.1:4" || !preview.Foreign || selector.asked != 0 {
		t.Errorf("got %s, foreign %v, asked %d times; want all, without asking", got, preview.Foreign, selector.asked)
	}
	if want := "PROXY TCP4 192.0.2.7 127.0.0.1 4000 80\r\n"; string(preview.Header) != want {
		t.Errorf("got PROXY header %q, want %q", preview.Header, want)
	}

	to, err := pool.Choose(&Client{Stream: client})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Release()
	pool.servers[1].peer.down.Store(true)
	pool.servers[2].peer.fails.Store(1)
	defer pool.servers[2].peer.fails.Store(0)
	preview = pool.Preview(client)
	if got := addressesOf(preview.First); !slices.Equal(got, []string{"127.0.0.1:4"}) {
		t.Errorf("got %v, want the one that is available", got)
	}
	for i, want := range []string{"as many streams", "health checks", "dials have failed", ""} {
		if c := preview.Servers[i]; !strings.Contains(c.Out, want) || (c.Out == "") != (want == "") || c.Streams != map[int]int64{0: 1}[i] {
			t.Errorf("server %d: got %q with %d streams, want %q", i, c.Out, c.Streams, want)
		}
	}
	SetDraining("127.0.0.1:4", true)
	defer SetDraining("127.0.0.1:4", false)
	if preview = pool.Preview(client); len(preview.First) != 0 || !strings.Contains(preview.Servers[3].Out, "drained") {
		t.Errorf("got %v and %q, want none, since the last one is drained", addressesOf(preview.First), preview.Servers[3].Out)
	}
	if n := pool.servers[0].peer.taken.Load(); n != 1 {
		t.Errorf("%d places are taken, want 1", n)
	}
}

func TestPreviewAsksHashers(t *testing.T) {
	for _, test := range []struct {
		is   bool
		want int
	}{{true, 1}, {false, 2}} {
		selector := &certain{is: test.is}
		pool := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{"127.0.0.1:1"}}, {Dial: []string{"127.0.0.1:2"}}}, Selector: selector})
		if preview := pool.Preview(clientOf("192.0.2.7")); len(preview.First) != test.want || preview.Foreign {
			t.Errorf("certain %v: got %v, want %d of them", test.is, addressesOf(preview.First), test.want)
		}
	}
}

func TestAddressFor(t *testing.T) {
	for _, test := range []struct {
		name, dial string
		allow      []string
		want       string
		err        error
	}{
		{"fixed", "10.0.0.5:80", nil, "10.0.0.5:80", nil},
		{"a name", "a.example:80", nil, "a.example:80", nil},
		{"allowed host", "{l4.vars.host}:80", []string{"*.example"}, "a.example:80", nil},
		{"another host", "{l4.vars.host}:80", []string{"b.example"}, "", errNotAllowed},
		{"a host by its addresses", "{l4.vars.host}:80", []string{"10.0.0.0/8"}, "a.example:80", errLookup},
		{"allowed address", "{l4.vars.address}:80", []string{"10.0.0.0/8"}, "10.1.2.3:80", nil},
		{"another address", "{l4.vars.address}:80", []string{"192.0.2.0/24"}, "", errNotAllowed},
		{"no address", "{l4.vars.none}:80", []string{"*.example"}, "", errNoAddress},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newTestServer(t, &l4proxy.Upstream{Dial: []string{test.dial}}, test.allow...)
			s.resolver = neverAsked{t}
			client := clientOf("192.0.2.7")
			client.SetVar("host", "a.example")
			client.SetVar("address", "10.1.2.3")
			got, err := s.AddressFor(client)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, test.want, test.err)
			}
		})
	}
}

// neverAsked is a resolver that nobody may ask.
type neverAsked struct{ t *testing.T }

func (r neverAsked) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.t.Errorf("%s was looked up", host)
	return nil, errors.New("no look-up here")
}
