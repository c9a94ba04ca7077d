package streamprox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"github.com/pires/go-proxyproto"
	"go.uber.org/zap"
)

// testUpstream returns an upstream of which only what balancers look at is set.
func testUpstream(name string, weight, streams int) *upstream {
	u := &upstream{config: &l4proxy.Upstream{Dial: []string{name}, Weight: weight}, address: name, peer: new(peer)}
	u.peer.streams.Store(int64(streams))
	return u
}

// testBalancer returns the balancer for the JSON of a selection policy.
func testBalancer(t *testing.T, policy string) balancer {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	var config *l4proxy.LoadBalancing
	if policy != "" {
		config = &l4proxy.LoadBalancing{SelectionPolicyRaw: json.RawMessage(policy)}
	}
	b, err := newBalancer(ctx, config)
	if err != nil {
		t.Fatalf("policy %s: %v", policy, err)
	}
	return b
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

// chosen returns the names that the balancer chooses, one after the other.
func chosen(b balancer, among []*upstream, cx *layer4.Connection, times int) []string {
	names := make([]string, times)
	for i := range names {
		names[i] = b.choose(among, cx).address
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

func TestBalancersInOrder(t *testing.T) {
	a, b, c := testUpstream("a", 5, 0), testUpstream("b", 1, 0), testUpstream("c", 1, 0)
	even := []*upstream{testUpstream("a", 0, 0), testUpstream("b", 0, 0), testUpstream("c", -1, 0)}
	tests := []struct {
		name   string
		policy string
		among  []*upstream
		want   string
	}{
		{"first", `{"policy":"first"}`, []*upstream{a, b, c}, "a a a a"},
		{"first of those available", `{"policy":"first"}`, []*upstream{c, b}, "c c"},
		{"round_robin", `{"policy":"round_robin"}`, []*upstream{a, b, c}, "b c a b c a"},
		{"weighted_round_robin as nginx", `{"policy":"weighted_round_robin"}`, []*upstream{a, b, c}, "a a b a c a a a a b a c a a"},
		{"weighted_round_robin 3 2 1", `{"policy":"weighted_round_robin"}`,
			[]*upstream{testUpstream("a", 3, 0), testUpstream("b", 2, 0), testUpstream("c", 1, 0)}, "a b a c b a"},
		{"weighted_round_robin without weights", `{"policy":"weighted_round_robin"}`, even, "a b c a b c"},
		{"weighted_round_robin, one", `{"policy":"weighted_round_robin"}`, []*upstream{a}, "a a a"},
		{"one upstream", "", []*upstream{b}, "b b"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := strings.Fields(test.want)
			got := chosen(testBalancer(t, test.policy), test.among, clientOf("10.0.0.1"), len(want))
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestWeightedRoundRobinWhileOneIsAway checks that the proportions hold when an
// upstream is not available for a time.
func TestWeightedRoundRobinWhileOneIsAway(t *testing.T) {
	a, b, c := testUpstream("a", 5, 0), testUpstream("b", 1, 0), testUpstream("c", 1, 0)
	balancer := testBalancer(t, `{"policy":"weighted_round_robin"}`)
	chosen(balancer, []*upstream{a, b, c}, nil, 3)
	if got, want := tally(chosen(balancer, []*upstream{b, c}, nil, 20)), 10; got["b"] < want-3 || got["b"] > want+3 {
		t.Errorf("without a: got %v, want b and c about equally", got)
	}
	got := tally(chosen(balancer, []*upstream{a, b, c}, nil, 70))
	for name, want := range map[string]int{"a": 50, "b": 10, "c": 10} {
		if diff := got[name] - want; diff < -2 || diff > 2 {
			t.Errorf("with a again: got %v, want about 50, 10 and 10", got)
			break
		}
	}
}

func TestRoundRobinIsEvenConcurrently(t *testing.T) {
	for _, policy := range []string{"weighted_round_robin"} {
		balancer := testBalancer(t, fmt.Sprintf(`{"policy":%q}`, policy))
		among := []*upstream{testUpstream("a", 2, 0), testUpstream("b", 1, 0)}
		var a, b atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 300 {
					if balancer.choose(among, nil).address == "a" {
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
	balancer := testBalancer(t, `{"policy":"least_conn"}`)
	among := []*upstream{testUpstream("a", 0, 3), testUpstream("b", 0, 1), testUpstream("c", 0, 2)}
	if got := tally(chosen(balancer, among, nil, 50)); got["b"] != 50 {
		t.Errorf("got %v, want only b, which has the fewest", got)
	}

	ties := []*upstream{testUpstream("a", 0, 1), testUpstream("b", 0, 2), testUpstream("c", 0, 1), testUpstream("d", 0, 1)}
	got := tally(chosen(balancer, ties, nil, 3000))
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
	balancer := testBalancer(t, `{"policy":"least_conn"}`)
	among := []*upstream{testUpstream("a", 0, 0), testUpstream("b", 0, 0), testUpstream("c", 0, 0)}
	for range 30 {
		balancer.choose(among, nil).acquire()
	}
	for _, u := range among {
		if got := u.peer.streams.Load(); got != 10 {
			t.Errorf("%s: got %d streams, want 10", u.address, got)
		}
	}
	for range 4 {
		among[1].release()
	}
	if got := tally(chosen(balancer, among, nil, 10)); got["b"] != 10 {
		t.Errorf("after streams of b ended: got %v, want only b", got)
	}
}

func TestRandomChoose(t *testing.T) {
	among := []*upstream{testUpstream("a", 0, 9), testUpstream("b", 0, 5), testUpstream("c", 0, 1)}
	order := slices.Clone(among)
	tests := []struct {
		name   string
		policy string
		among  []*upstream
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
			got := tally(chosen(testBalancer(t, test.policy), test.among, nil, 600))
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
		t.Errorf("the upstreams were put in another order")
	}
}

func TestRandomIsTheDefault(t *testing.T) {
	among := []*upstream{testUpstream("a", 0, 0), testUpstream("b", 0, 0), testUpstream("c", 0, 0)}
	for _, policy := range []string{"", `{"policy":"random"}`} {
		got := tally(chosen(testBalancer(t, policy), among, nil, 3000))
		for _, u := range among {
			if got[u.address] < 800 || got[u.address] > 1200 {
				t.Errorf("policy %q: got %v, want about 1000 of each", policy, got)
				break
			}
		}
	}
}

func TestIPHash(t *testing.T) {
	balancer := testBalancer(t, `{"policy":"ip_hash"}`)
	among := []*upstream{testUpstream("a", 0, 0), testUpstream("b", 0, 0), testUpstream("c", 0, 0)}
	var used []string
	moved := 0
	for i := range 100 {
		cx := clientOf(fmt.Sprintf("10.0.0.%d", i))
		names := tally(chosen(balancer, among, cx, 5))
		if len(names) != 1 {
			t.Fatalf("client %d: got %v, want always the same upstream", i, names)
		}
		name := chosen(balancer, among, cx, 1)[0]
		used = append(used, name)

		// While another upstream is not available the client stays where it was.
		without := slices.DeleteFunc(slices.Clone(among), func(u *upstream) bool { return u.address == "c" })
		if name != "c" && chosen(balancer, without, cx, 1)[0] != name {
			moved++
		}
	}
	if got := tally(used); len(got) != 3 {
		t.Errorf("got %v, want all upstreams used by some clients", got)
	}
	if moved > 0 {
		t.Errorf("%d clients moved though their upstream was available, want none", moved)
	}
}

func TestBalancersWithOneUpstream(t *testing.T) {
	only := testUpstream("only", 0, 3)
	for _, policy := range []string{"first", "ip_hash", "least_conn", "random", "random_choose", "round_robin", "weighted_round_robin"} {
		if got := testBalancer(t, fmt.Sprintf(`{"policy":%q}`, policy)).choose([]*upstream{only}, clientOf("10.0.0.1")); got != only {
			t.Errorf("%s: got %v, want the only one", policy, got)
		}
	}
}

// TestBalancersWithMaxConnections checks that policies which caddy-l4 evaluates do
// not consult limits or counters of its own proxy.
func TestBalancersWithMaxConnections(t *testing.T) {
	among := []*upstream{testUpstream("a", 0, 1), testUpstream("b", 0, 1)}
	for _, u := range among {
		u.config.MaxConnections = 2
	}
	for _, policy := range []string{"first", "ip_hash", "least_conn", "random", "random_choose", "round_robin", "weighted_round_robin"} {
		if got := testBalancer(t, fmt.Sprintf(`{"policy":%q}`, policy)).choose(among, clientOf("10.0.0.1")); !slices.Contains(among, got) {
			t.Errorf("%s: got %v, want one of the upstreams", policy, got)
		}
	}
}

func TestNewBalancerErrors(t *testing.T) {
	tests := []struct{ name, policy, want string }{
		{"unknown policy", `{"policy":"fastest"}`, "fastest"},
		{"no policy", `{}`, "loading selection policy"},
		{"unknown field", `{"policy":"first","weight":1}`, "weight"},
		{"too few to choose from", `{"policy":"random_choose","choose":1}`, "choose must be at least 2"},
		{"negative choice", `{"policy":"random_choose","choose":-2}`, "choose must be at least 2"},
		{"no object", `"first"`, "selection policy"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
			defer cancel()
			_, err := newBalancer(ctx, &l4proxy.LoadBalancing{SelectionPolicyRaw: json.RawMessage(test.policy)})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestAcquire(t *testing.T) {
	u := testUpstream("a", 0, 0)
	for range 100 {
		if !u.available() || !u.acquire() {
			t.Fatal("without max_connections: got refused, want no limit")
		}
	}
	for range 100 {
		u.release()
	}

	u.config.MaxConnections = 2
	for i, want := range []bool{true, true, false, false} {
		if got := u.available(); got != want {
			t.Errorf("stream %d: got available %t, want %t", i, got, want)
		}
		if got := u.acquire(); got != want {
			t.Errorf("stream %d: got acquired %t, want %t", i, got, want)
		}
	}
	u.release()
	if !u.available() || !u.acquire() {
		t.Errorf("after a stream ended: got refused, want admitted")
	}
	u.release()
	u.release()
	if got := u.peer.streams.Load(); got != 0 {
		t.Errorf("after all streams ended: got %d, want 0", got)
	}
}

// TestAcquireConcurrently checks that there are never more streams than
// max_connections, and that the count goes down again.
func TestAcquireConcurrently(t *testing.T) {
	const limit = 5
	u := testUpstream("a", 0, 0)
	u.config.MaxConnections = limit
	var streams, acquired atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				if !u.acquire() {
					continue
				}
				if n := streams.Add(1); n > limit {
					t.Errorf("got %d streams at once, want at most %d", n, limit)
				}
				acquired.Add(1)
				streams.Add(-1)
				u.release()
			}
		})
	}
	wg.Wait()
	if acquired.Load() == 0 {
		t.Error("got no stream at all")
	}
	if got := u.peer.streams.Load(); got != 0 {
		t.Errorf("after all streams ended: got %d counted, want 0", got)
	}
}

// TestPeersOutliveConfigurations checks that the streams to an address are counted
// together, whoever names it, and forgotten when nobody does.
func TestPeersOutliveConfigurations(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	open := func() *upstream {
		u, err := newUpstream(ctx, &l4proxy.Upstream{Dial: []string{"tcp/127.0.0.1:9"}, MaxConnections: 1}, dialAllow{})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	old := open()
	if !old.acquire() {
		t.Fatal("first stream: got refused")
	}
	replacing := open()
	old.close()
	if replacing.available() || replacing.acquire() {
		t.Error("a stream of the old configuration was not counted in the new one")
	}
	old.release()
	if !replacing.acquire() {
		t.Error("after the old stream ended: got refused, want admitted")
	}
	replacing.release()
	replacing.close()
	if _, known := peers.References("tcp/127.0.0.1:9"); known {
		t.Error("the peer is still known after the last configuration that names it")
	}
}

// TestPeersOfOtherNetworks: what is known of an address over IPv4 says nothing of the
// same name over IPv6.
func TestPeersOfOtherNetworks(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	seen := make(map[*peer]string)
	for _, address := range []string{"tcp4/localhost:9", "tcp6/localhost:9", "tcp/localhost:9", "unix//run/localhost:9"} {
		u, err := newUpstream(ctx, &l4proxy.Upstream{Dial: []string{address}}, dialAllow{})
		if err != nil {
			t.Fatal(err)
		}
		defer u.close()
		if other, known := seen[u.peer]; known {
			t.Errorf("%s and %s share what is known of them", address, other)
		}
		seen[u.peer] = address
	}
}

// TestDialLeaksNoConnection: a connection that breaks while it is made ready is closed.
func TestDialLeaksNoConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	u, err := newUpstream(ctx, &l4proxy.Upstream{Dial: []string{ln.Addr().String()}}, dialAllow{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	for name, header := range map[string]*proxyproto.Header{
		"a header that cannot be sent": {Version: 7},
		"no header":                    nil,
	} {
		conn, err := u.dial(t.Context(), caddy.NewReplacer(), header, "")
		if (conn == nil) != (err != nil) {
			t.Errorf("%s: got a connection %v and the error %v, want one of them", name, conn != nil, err)
		}
		if conn != nil {
			conn.Close()
		}
		client, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = client.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("%s: the connection is still open: %v", name, err)
		}
		client.Close()
	}
	err = announce(t.Context(), stubbornConn{}, proxyproto.HeaderProxyFromAddrs(1, ln.Addr(), ln.Addr()))
	if !errors.Is(err, os.ErrInvalid) {
		t.Errorf("a deadline that cannot be cleared: got %v, want the error, so that the connection is closed", err)
	}
}

// stubbornConn takes all bytes and no deadline.
type stubbornConn struct{ net.Conn }

func (stubbornConn) Write(p []byte) (int, error)      { return len(p), nil }
func (stubbornConn) SetWriteDeadline(time.Time) error { return os.ErrInvalid }
