package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"go.uber.org/zap"
)

// newTestPool returns a pool, until the test ends.
func newTestPool(t *testing.T, options Options) *Pool {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if options.DialTimeout == 0 {
		options.DialTimeout = 20 * time.Second
	}
	p, err := New(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// newTestServer returns the server of a pool with the given entries of dial_allow, until the
// test ends.
func newTestServer(t *testing.T, config *l4proxy.Upstream, allow ...string) *Server {
	t.Helper()
	allowed, err := ParseAllow(allow)
	if err != nil {
		t.Fatal(err)
	}
	return newTestPool(t, Options{Servers: l4proxy.UpstreamPool{config}, Allow: allowed}).servers[0]
}

// silentClient returns a client that sends nothing, and its other end.
func silentClient(t *testing.T) (*Client, net.Conn) {
	near, far := net.Pipe()
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	return &Client{Stream: layer4.WrapConnection(near, nil, zap.NewNop()), Conn: near}, far
}

// closedPort returns an address at which nobody listens.
func closedPort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestConnect(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	up, down, other := "127.0.0.1:"+port, closedPort(t), closedPort(t)
	server := func(dial string) *l4proxy.Upstream { return &l4proxy.Upstream{Dial: []string{dial}} }
	tests := []struct {
		name    string
		servers l4proxy.UpstreamPool
		down    bool   // as health checks say, the first one
		want    string // the server, or "" for an error
		reason  Reason
		text    string
		dialled []string
	}{
		{"the first", l4proxy.UpstreamPool{server(up), server(down)}, false, up, 0, "", []string{up}},
		{"after one that fails", l4proxy.UpstreamPool{server(down), server(up)}, false, up, 0, "", []string{down, up}},
		{"none answers", l4proxy.UpstreamPool{server(down), server(other)}, false, "", NoConnection, "dialing " + other, []string{down, other}},
		{"only one is available", l4proxy.UpstreamPool{server(up), server(down)}, true, "", NoConnection, "dialing " + down, []string{down}},
		{"none is available", l4proxy.UpstreamPool{server(up)}, true, "", NoneAvailable, "no upstream available", nil},
		{"no address", l4proxy.UpstreamPool{server("{x}:80"), server(up)}, false, "", NoAddress, "dialing {x}:80: its placeholders make no address", []string{"{x}:80"}},
		{"an address that is not allowed", l4proxy.UpstreamPool{server("{l4.conn.remote_addr}"), server(up)}, false, "", NotAllowed, "dial_allow", []string{"{l4.conn.remote_addr}"}},
	}
	allow, err := ParseAllow([]string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var dialled []string
			p := newTestPool(t, Options{
				Servers:  test.servers,
				Selector: new(l4proxy.FirstSelection),
				Allow:    allow,
				Dialed: func(attempt Attempt) {
					dialled = append(dialled, attempt.Server.String())
					if succeeded := attempt.Failure == nil; succeeded != (attempt.Server.String() == test.want) {
						t.Errorf("got told of %s: succeeded %t", attempt.Server, succeeded)
					}
				},
			})
			p.servers[0].peer.down.Store(test.down)
			defer p.servers[0].peer.down.Store(false)
			client, _ := silentClient(t)
			client.Stream = clientOf("10.0.0.1")
			conn, to, err := p.Connect(t.Context(), client)
			switch {
			case err == nil:
				conn.Close()
				(<-accepted).Close()
				if to.String() != test.want || to.peer.taken.Load() != 1 {
					t.Errorf("got %s with %d streams, want %q with one", to, to.peer.taken.Load(), test.want)
				}
				to.Release()
			case test.want != "", ReasonOf(err) != test.reason, !strings.Contains(err.Error(), test.text):
				t.Errorf("got the error %v (%s), want %q and the server %q", err, ReasonOf(err), test.text, test.want)
			}
			if !slices.Equal(dialled, test.dialled) {
				t.Errorf("got %v dialled, want %v", dialled, test.dialled)
			}
			for _, s := range p.servers {
				if n := s.peer.taken.Load(); n != 0 {
					t.Errorf("%s: got %d streams left, want none", s, n)
				}
			}
		})
	}
}

// TestChooseExcluded: a server that is excluded is not chosen, whatever the policy.
func TestChooseExcluded(t *testing.T) {
	p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{"127.0.0.1:1"}}, {Dial: []string{"127.0.0.1:2"}}}, Selector: new(l4proxy.FirstSelection)})
	client := &Client{Stream: clientOf("10.0.0.1")}
	var excluded []*Server
	for _, want := range p.servers {
		to, err := p.Choose(client, excluded...)
		if err != nil || to.Server != want {
			t.Fatalf("without %v: got %v, error %v, want %s", excluded, to, err, want)
		}
		to.Release()
		excluded = append(excluded, want)
	}
	if _, err := p.Choose(client, excluded...); ReasonOf(err) != NoneAvailable {
		t.Errorf("without any: got error %v, want none available", err)
	}
}

// TestNoneAvailableSaysWhy: the error names the servers and what keeps each, but no more than few.
func TestNoneAvailableSaysWhy(t *testing.T) {
	var servers l4proxy.UpstreamPool
	for _, port := range []string{"1", "2", "3", "4", "5"} {
		servers = append(servers, &l4proxy.Upstream{Dial: []string{"127.0.0.1:" + port}})
	}
	p := newTestPool(t, Options{Servers: servers})
	client := &Client{Stream: clientOf("10.0.0.1")}
	for _, s := range p.servers {
		s.peer.down.Store(true)
		defer s.peer.down.Store(false)
	}
	SetDraining("127.0.0.1:2", true)
	defer SetDraining("127.0.0.1:2", false)
	p.servers[1].peer.down.Store(false)
	for _, test := range []struct {
		excluded []*Server
		want     string
	}{
		{nil, "no upstream available (127.0.0.1:1: health checks find it down; 127.0.0.1:2: it is drained: it gets no new streams; 127.0.0.1:3: health checks find it down; and others)"},
		{p.servers[:4], "no upstream available (127.0.0.1:5: health checks find it down)"},
		{p.servers, "no upstream available"},
	} {
		_, err := p.Choose(client, test.excluded...)
		if err == nil || ReasonOf(err) != NoneAvailable || err.Error() != test.want {
			t.Errorf("without %v: got error %v, want %s", test.excluded, err, test.want)
		}
	}
}

// byKey is a selector of a plugin: the n-th server.
type byKey struct{ n int }

func (s *byKey) Select(pool l4proxy.UpstreamPool, _ *layer4.Connection) *l4proxy.Upstream {
	return pool[min(s.n, len(pool)-1)]
}

// TestAgain checks that a server is had again if it is available, and if a policy that may
// look at requests still names it; and that no place is taken of another one.
func TestAgain(t *testing.T) {
	client, _ := silentClient(t)
	servers := func() l4proxy.UpstreamPool {
		return l4proxy.UpstreamPool{{Dial: []string{closedPort(t)}, MaxConnections: 1}, {Dial: []string{closedPort(t)}, MaxConnections: 1}}
	}
	places := func(p *Pool) [2]int64 {
		return [2]int64{p.servers[0].peer.taken.Load(), p.servers[1].peer.taken.Load()}
	}
	for _, test := range []struct {
		name   string
		policy l4proxy.Selector
		full   bool
		down   bool
		want   bool
	}{
		{name: "a policy that chooses once", policy: new(l4proxy.RoundRobinSelection), want: true},
		{name: "the same server", policy: &byKey{0}, want: true},
		{name: "another server", policy: &byKey{1}},
		{name: "full", policy: new(l4proxy.FirstSelection), full: true},
		{name: "full, by request", policy: &byKey{0}, full: true},
		{name: "down", policy: new(l4proxy.FirstSelection), down: true},
		{name: "down, by request", policy: &byKey{0}, down: true},
	} {
		for way, again := range map[string]func(*Pool) (*Reservation, bool){
			"again": func(p *Pool) (*Reservation, bool) { return p.Again(p.servers[0], client) },
			"renewed": func(p *Pool) (*Reservation, bool) {
				released := &Reservation{Server: p.servers[0]}
				released.released.Store(true)
				return released, p.Renew(released, client)
			},
		} {
			p := newTestPool(t, Options{Servers: servers(), Selector: test.policy})
			if test.full {
				p.servers[0].peer.acquire(1)
			}
			p.servers[0].peer.down.Store(test.down)
			before := places(p)
			to, ok := again(p)
			if ok != test.want {
				t.Errorf("%s, %s: got %v, want %v", test.name, way, ok, test.want)
			}
			if ok {
				if after := places(p); to.Server != p.servers[0] || after != [2]int64{1, 0} {
					t.Errorf("%s, %s: got %v, places %v, want the first server and its place", test.name, way, to.Server, after)
				}
			}
			to.Release() // nothing, if there is no place
			if after := places(p); after != before {
				t.Errorf("%s, %s: places %v, want %v", test.name, way, after, before)
			}
		}
	}
}

// TestFailedDialsCount: failed dials make a server unavailable, unless the client may have
// chosen its address.
func TestFailedDialsCount(t *testing.T) {
	down := closedPort(t)
	allow, err := ParseAllow([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	client := &Client{Stream: clientOf("10.0.0.1")}
	client.Stream.Replacer().Set("x", down)
	for dial, available := range map[string]bool{down: false, "{x}": true} {
		p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{dial}}}, Allow: allow, FailDuration: time.Hour, MaxFails: 2})
		for i := range 2 {
			if !p.servers[0].available() {
				t.Errorf("%s: not available after %d failed dials", dial, i)
			}
			if _, err := p.Dial(t.Context(), p.servers[0], client); ReasonOf(err) != NoConnection {
				t.Errorf("%s: got error %v, want no connection", dial, err)
			}
		}
		if got := p.servers[0].available(); got != available {
			t.Errorf("%s: got available %t after two failed dials, want %t", dial, got, available)
		}
	}
}

// TestDialGivenUp: a dial that the caller ends says nothing of the server.
func TestDialGivenUp(t *testing.T) {
	p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{"a.example:80"}, ResolverPreference: "ipv4_only"}}, FailDuration: time.Hour, MaxFails: 1})
	ctx, cancel := context.WithCancel(t.Context())
	p.servers[0].resolver = resolverFunc(func(ctx context.Context) ([]netip.Addr, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	_, err := p.Dial(ctx, p.servers[0], &Client{Stream: clientOf("10.0.0.1")})
	if ReasonOf(err) != GivenUp || !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that it was given up", err)
	}
	if !p.servers[0].available() {
		t.Error("the server is not available any more")
	}
}

// TestConnectReadsAhead: what a client sends during a dial is pending after it, and its
// connection is as it was.
func TestConnectReadsAhead(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{"a.example:" + port}, ResolverPreference: "ipv4_only"}}})
	client, far := silentClient(t)
	client.Pending = []byte("sent before, ")
	p.servers[0].resolver = resolverFunc(func(ctx context.Context) ([]netip.Addr, error) {
		_, err := far.Write([]byte("and meanwhile")) // returns when it is read
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, err
	})
	conn, to, err := p.Connect(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Release()
	defer conn.Close()
	(<-accepted).Close()
	if got, want := string(client.Pending), "sent before, and meanwhile"; got != want {
		t.Errorf("got %q pending, want %q", got, want)
	}
	go far.Write([]byte("x"))
	if n, err := client.Conn.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("reading on: got %d bytes and the error %v", n, err)
	}
}

// TestConnectGivesUp: a client that leaves during a dial ends it.
func TestConnectGivesUp(t *testing.T) {
	p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{"a.example:80"}, ResolverPreference: "ipv4_only"}}, TryDuration: time.Hour, TryInterval: time.Hour})
	client, _ := silentClient(t)
	client.Conn = brokenConn{client.Conn}
	p.servers[0].resolver = resolverFunc(func(ctx context.Context) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if _, _, err := p.Connect(t.Context(), client); ReasonOf(err) != GivenUp || err.Error() != "client went away while an upstream was dialled" {
		t.Errorf("got error %v, want that the client went away", err)
	}
	if n := p.servers[0].peer.taken.Load(); n != 0 {
		t.Errorf("got %d streams left, want none", n)
	}
}

// TestConnectRounds: rounds are begun until the time is over.
func TestConnectRounds(t *testing.T) {
	p := newTestPool(t, Options{
		Servers:  l4proxy.UpstreamPool{{Dial: []string{closedPort(t)}}},
		Selector: new(l4proxy.FirstSelection), TryDuration: time.Hour, TryInterval: time.Millisecond,
	})
	rounds := 0
	ctx, cancel := context.WithCancel(t.Context())
	p.options.Dialed = func(Attempt) {
		if rounds++; rounds == 3 {
			cancel()
		}
	}
	client, _ := silentClient(t)
	if _, _, err := p.Connect(ctx, client); ReasonOf(err) != GivenUp || rounds != 3 {
		t.Errorf("got error %v after %d rounds, want that it is given up after 3", err, rounds)
	}
	p.options.TryDuration = 0
	if _, _, err := p.Connect(t.Context(), client); ReasonOf(err) != NoConnection || rounds != 4 {
		t.Errorf("got error %v after %d rounds, want no connection after one", err, rounds-3)
	}
}

// TestConnectEndsWhatCannotChange: what the client's placeholders make is the same in each
// round.
func TestConnectEndsWhatCannotChange(t *testing.T) {
	allow, err := ParseAllow([]string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	for dial, want := range map[string]Reason{"{x}:80": NoAddress, "{y}:80": NotAllowed} {
		p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{dial}}}, Allow: allow, TryDuration: time.Hour, TryInterval: time.Minute})
		client, _ := silentClient(t)
		client.Stream.Replacer().Set("y", "b.example")
		if _, _, err := p.Connect(t.Context(), client); ReasonOf(err) != want {
			t.Errorf("%s: got error %v, want %s", dial, err, want)
		}
	}
}

// resolverFunc is a resolver that answers each look-up alike.
type resolverFunc func(ctx context.Context) ([]netip.Addr, error)

func (f resolverFunc) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	return f(ctx)
}

// brokenConn is a connection that its peer has reset.
type brokenConn struct{ net.Conn }

func (brokenConn) Read([]byte) (int, error) { return 0, errors.New("connection reset") }
