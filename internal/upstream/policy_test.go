package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"go.uber.org/zap"
)

// testServer returns a server of which only what policies look at is set.
func testServer(name string, weight, streams int) *Server {
	s := &Server{config: &l4proxy.Upstream{Dial: []string{name}, Weight: weight}, address: name, peer: new(peer)}
	s.peer.taken.Store(int64(streams))
	return s
}

// testPolicy returns the policy for the JSON of a selector; "": none is configured.
func testPolicy(t *testing.T, config string) policy {
	t.Helper()
	if config == "" {
		return newPolicy(nil)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	module, err := ctx.LoadModule(&l4proxy.LoadBalancing{SelectionPolicyRaw: json.RawMessage(config)}, "SelectionPolicyRaw")
	if err != nil {
		t.Fatalf("policy %s: %v", config, err)
	}
	return newPolicy(module.(l4proxy.Selector))
}

// clientConn is a connection of which only the remote address matters.
type clientConn struct {
	net.Conn
	remote net.Addr
}

func (c clientConn) RemoteAddr() net.Addr { return c.remote }
func (c clientConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func clientOf(ip string) *layer4.Connection {
	return layer4.WrapConnection(clientConn{remote: &net.TCPAddr{IP: net.ParseIP(ip), Port: 4000}}, nil, zap.NewNop())
}

// chosen returns the names that the policy chooses, one after the other.
func chosen(p policy, among []*Server, cx *layer4.Connection, times int) []string {
	names := make([]string, times)
	for i := range names {
		names[i] = p.choose(among, cx).address
	}
	return names
}

func tally(names []string) map[string]int {
	counts := make(map[string]int)
	for _, name := range names {
		counts[name]++
	}
	return counts
}

func TestPoliciesInOrder(t *testing.T) {
	a, b, c := testServer("a", 5, 0), testServer("b", 1, 0), testServer("c", 1, 0)
	even := []*Server{testServer("a", 0, 0), testServer("b", 0, 0), testServer("c", -1, 0)}
	tests := []struct {
		name   string
		policy string
		among  []*Server
		want   string
	}{
		{"first", `{"policy":"first"}`, []*Server{a, b, c}, "a a a a"},
		{"first of those available", `{"policy":"first"}`, []*Server{c, b}, "c c"},
		{"round_robin", `{"policy":"round_robin"}`, []*Server{a, b, c}, "b c a b c a"},
		{"weighted_round_robin as nginx", `{"policy":"weighted_round_robin"}`, []*Server{a, b, c}, "a a b a c a a a a b a c a a"},
		{"weighted_round_robin 3 2 1", `{"policy":"weighted_round_robin"}`,
			[]*Server{testServer("a", 3, 0), testServer("b", 2, 0), testServer("c", 1, 0)}, "a b a c b a"},
		{"weighted_round_robin without weights", `{"policy":"weighted_round_robin"}`, even, "a b c a b c"},
		{"weighted_round_robin, one", `{"policy":"weighted_round_robin"}`, []*Server{a}, "a a a"},
		{"one server", "", []*Server{b}, "b b"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := strings.Fields(test.want)
			got := chosen(testPolicy(t, test.policy), test.among, clientOf("10.0.0.1"), len(want))
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestWeightedRoundRobinWhileOneIsAway checks that the proportions hold when an
// server is not available for a time.
func TestWeightedRoundRobinWhileOneIsAway(t *testing.T) {
	a, b, c := testServer("a", 5, 0), testServer("b", 1, 0), testServer("c", 1, 0)
	p := testPolicy(t, `{"policy":"weighted_round_robin"}`)
	chosen(p, []*Server{a, b, c}, nil, 3)
	if got, want := tally(chosen(p, []*Server{b, c}, nil, 20)), 10; got["b"] < want-3 || got["b"] > want+3 {
		t.Errorf("without a: got %v, want b and c about equally", got)
	}
	got := tally(chosen(p, []*Server{a, b, c}, nil, 70))
	for name, want := range map[string]int{"a": 50, "b": 10, "c": 10} {
		if diff := got[name] - want; diff < -2 || diff > 2 {
			t.Errorf("with a again: got %v, want about 50, 10 and 10", got)
			break
		}
	}
}

func TestRoundRobinIsEvenConcurrently(t *testing.T) {
	for _, policy := range []string{"weighted_round_robin"} {
		p := testPolicy(t, fmt.Sprintf(`{"policy":%q}`, policy))
		among := []*Server{testServer("a", 2, 0), testServer("b", 1, 0)}
		var a, b atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 300 {
					if p.choose(among, nil).address == "a" {
						a.Add(1)
					} else {
						b.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if a.Load() != 1600 || b.Load() != 800 {
			t.Errorf("%s: got %d and %d, want 1600 and 800", policy, a.Load(), b.Load())
		}
	}
}

func TestLeastConn(t *testing.T) {
	p := testPolicy(t, `{"policy":"least_conn"}`)
	among := []*Server{testServer("a", 0, 3), testServer("b", 0, 1), testServer("c", 0, 2)}
	if got := tally(chosen(p, among, nil, 50)); got["b"] != 50 {
		t.Errorf("got %v, want only b, which has the fewest", got)
	}

	ties := []*Server{testServer("a", 0, 1), testServer("b", 0, 2), testServer("c", 0, 1), testServer("d", 0, 1)}
	got := tally(chosen(p, ties, nil, 3000))
	if got["b"] != 0 {
		t.Errorf("got %v, want never b, which has more", got)
	}
	for _, name := range []string{"a", "c", "d"} {
		if got[name] < 800 || got[name] > 1200 {
			t.Errorf("got %v, want about 1000 of each of the equals", got)
			break
		}
	}
}

func TestLeastConnFollowsTheStreams(t *testing.T) {
	p := testPolicy(t, `{"policy":"least_conn"}`)
	among := []*Server{testServer("a", 0, 0), testServer("b", 0, 0), testServer("c", 0, 0)}
	for range 30 {
		p.choose(among, nil).peer.acquire(0)
	}
	for _, s := range among {
		if got := s.peer.taken.Load(); got != 10 {
			t.Errorf("%s: got %d streams, want 10", s.address, got)
		}
	}
	for range 4 {
		among[1].peer.release()
	}
	if got := tally(chosen(p, among, nil, 10)); got["b"] != 10 {
		t.Errorf("after streams of b ended: got %v, want only b", got)
	}
}

func TestRandomChoose(t *testing.T) {
	among := []*Server{testServer("a", 0, 9), testServer("b", 0, 5), testServer("c", 0, 1)}
	order := slices.Clone(among)
	tests := []struct {
		name   string
		policy string
		among  []*Server
		never  string
		often  string
	}{
		{"two by default", `{"policy":"random_choose"}`, among, "a", "c"},
		{"two", `{"policy":"random_choose","choose":2}`, among, "a", "c"},
		{"all", `{"policy":"random_choose","choose":3}`, among, "a b", "c"},
		{"more than there are", `{"policy":"random_choose","choose":9}`, among, "a b", "c"},
		{"more than are left", `{"policy":"random_choose"}`, among[:1], "b c", "a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := tally(chosen(testPolicy(t, test.policy), test.among, nil, 600))
			for _, name := range strings.Fields(test.never) {
				if got[name] != 0 {
					t.Errorf("got %v, want never %s", got, name)
				}
			}
			// c is in two of three pairs.
			if got[test.often] < 300 {
				t.Errorf("got %v, want mostly %s", got, test.often)
			}
		})
	}
	if !slices.Equal(among, order) {
		t.Errorf("the servers were put in another order")
	}
}

func TestRandomIsTheDefault(t *testing.T) {
	among := []*Server{testServer("a", 0, 0), testServer("b", 0, 0), testServer("c", 0, 0)}
	for _, policy := range []string{"", `{"policy":"random"}`} {
		got := tally(chosen(testPolicy(t, policy), among, nil, 3000))
		for _, s := range among {
			if got[s.address] < 800 || got[s.address] > 1200 {
				t.Errorf("policy %q: got %v, want about 1000 of each", policy, got)
				break
			}
		}
	}
}

func TestIPHash(t *testing.T) {
	p := testPolicy(t, `{"policy":"ip_hash"}`)
	among := []*Server{testServer("a", 0, 0), testServer("b", 0, 0), testServer("c", 0, 0)}
	var used []string
	moved := 0
	for i := range 100 {
		cx := clientOf(fmt.Sprintf("10.0.0.%d", i))
		names := tally(chosen(p, among, cx, 5))
		if len(names) != 1 {
			t.Fatalf("client %d: got %v, want always the same server", i, names)
		}
		name := chosen(p, among, cx, 1)[0]
		used = append(used, name)

		// While another server is not available the client stays where it was.
		without := slices.DeleteFunc(slices.Clone(among), func(s *Server) bool { return s.address == "c" })
		if name != "c" && chosen(p, without, cx, 1)[0] != name {
			moved++
		}
	}
	if got := tally(used); len(got) != 3 {
		t.Errorf("got %v, want all servers used by some clients", got)
	}
	if moved > 0 {
		t.Errorf("%d clients moved though their server was available, want none", moved)
	}
}

func TestPoliciesWithOneUpstream(t *testing.T) {
	only := testServer("only", 0, 3)
	for _, policy := range []string{"first", "ip_hash", "least_conn", "random", "random_choose", "round_robin", "weighted_round_robin"} {
		if got := testPolicy(t, fmt.Sprintf(`{"policy":%q}`, policy)).choose([]*Server{only}, clientOf("10.0.0.1")); got != only {
			t.Errorf("%s: got %v, want the only one", policy, got)
		}
	}
}

// TestPoliciesWithMaxConnections checks that policies which caddy-l4 evaluates do
// not consult limits or counters of its own proxy.
func TestPoliciesWithMaxConnections(t *testing.T) {
	among := []*Server{testServer("a", 0, 1), testServer("b", 0, 1)}
	for _, s := range among {
		s.config.MaxConnections = 2
	}
	for _, policy := range []string{"first", "ip_hash", "least_conn", "random", "random_choose", "round_robin", "weighted_round_robin"} {
		if got := testPolicy(t, fmt.Sprintf(`{"policy":%q}`, policy)).choose(among, clientOf("10.0.0.1")); !slices.Contains(among, got) {
			t.Errorf("%s: got %v, want one of the servers", policy, got)
		}
	}
}
