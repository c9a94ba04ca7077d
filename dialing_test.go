package streamprox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// fakeResolver answers with the addresses of a name, each time with the next ones.
type fakeResolver struct {
	answers map[string][]string // each with spaces between the addresses
	asked   int
}

func (r *fakeResolver) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	answers := r.answers[host]
	if network != "ip" || len(answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	answer := answers[min(r.asked, len(answers)-1)]
	r.asked++
	var addrs []netip.Addr
	for _, addr := range strings.Fields(answer) {
		addrs = append(addrs, netip.MustParseAddr(addr))
	}
	return addrs, nil
}

// newTestUpstream returns an upstream with the given entries of dial_allow, until the
// test ends.
func newTestUpstream(t *testing.T, config *l4proxy.Upstream, allow ...string) *upstream {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	allowed, err := newDialAllow(allow)
	if err != nil {
		t.Fatal(err)
	}
	u, err := newUpstream(ctx, config, allowed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.close)
	return u
}

// replacerWith returns a replacer that knows {x} and {y}.
func replacerWith(x, y string) *caddy.Replacer {
	repl := caddy.NewReplacer()
	repl.Set("x", x)
	repl.Set("y", y)
	return repl
}

func TestDialAllow(t *testing.T) {
	allow, err := newDialAllow([]string{"Example.org", "*.example.org", "10.0.0.0/8", "192.0.2.1", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"example.org":       true,
		"a.example.org":     true,
		"a.b.example.org":   false,
		"badexample.org":    false,
		"example.org.evil":  false,
		"org":               false,
		"":                  false,
		"10.0.0.5":          false,
		"*.example.org":     true, // itself, which no client can ask for
		"example.org:80":    false,
		"aexample.org":      false,
		"a.example.org.org": false,
	} {
		if got := allow.host(name); got != want {
			t.Errorf("host %q: got %t, want %t", name, got, want)
		}
	}
	for addr, want := range map[string]bool{
		"10.255.0.1":       true,
		"11.0.0.1":         false,
		"192.0.2.1":        true,
		"192.0.2.2":        false,
		"2001:db8::1":      true,
		"2001:db9::1":      false,
		"127.0.0.1":        false,
		"::1":              false,
		"::ffff:10.0.0.1":  false, // unmapped before it is asked for
		"2001:db8::1%eth0": false,
	} {
		if got := allow.address(netip.MustParseAddr(addr)); got != want {
			t.Errorf("address %s: got %t, want %t", addr, got, want)
		}
	}
}

func TestDestination(t *testing.T) {
	long := strings.Repeat("a.", 127)
	tests := []struct {
		name string
		dial string
		x, y string
		want string // "" is refused
	}{
		{"host", "{x}:80", "Chat.Example.org", "", "chat.example.org:80"},
		{"host and port in one", "{x}", "chat.example.org:8080", "", "chat.example.org:8080"},
		{"label", "{x}.example.org:80", "chat", "", "chat.example.org:80"},
		{"port", "10.0.0.5:{y}", "", "8080", "10.0.0.5:8080"},
		{"host and port", "{x}:{y}", "10.0.0.5", "80", "10.0.0.5:80"},
		{"network", "tcp4/{x}:80", "10.0.0.5", "", "10.0.0.5:80"},
		{"IPv6 address in brackets", "{x}:80", "[2001:db8::1]", "", "[2001:db8::1]:80"},
		{"brackets in the configuration", "[{x}]:80", "2001:db8::1", "", "[2001:db8::1]:80"},
		{"dot at the end", "{x}:80", "example.org.", "", "example.org:80"},
		{"IPv6 address without brackets", "{x}:80", "2001:db8::1", "", "[2001:db8::1]:80"},
		{"IPv6 address and port", "{x}:{y}", "::1", "8081", "[::1]:8081"},
		{"IPv4 address as IPv6", "{x}:{y}", "::ffff:10.0.0.1", "80", "[::ffff:10.0.0.1]:80"},
		{"a part of an IPv6 address", "[2001:db8::{x}]:{y}", "1", "80", "[2001:db8::1]:80"},

		{"empty", "{x}:80", "", "", ""},
		{"unknown", "{z}:80", "", "", ""},
		{"no port", "{x}", "example.org", "", ""},
		{"port twice", "{x}:80", "example.org:90", "", ""},
		{"port 0", "{x}:{y}", "example.org", "0", ""},
		{"port too large", "{x}:{y}", "example.org", "65536", ""},
		{"named port", "{x}:{y}", "example.org", "http", ""},
		{"signed port", "{x}:{y}", "example.org", "+80", ""},
		{"port range", "{x}:{y}", "example.org", "80-90", ""},
		{"IPv6 address and port without brackets", "{x}", "2001:db8::1:80", "", ""},
		{"IPv6 address in brackets without a port", "{x}", "[2001:db8::1]", "", ""},
		{"a part of an IPv6 address without a port", "[2001:db8::{x}]", "1", "", ""},
		{"half of an address in brackets", "{x}:{y}", "[::1", "80", ""},
		{"port that brings a host", "{x}:{y}", "example.org", "90:80", ""},
		{"port that closes brackets", "{x}:{y}", "[::1", "1]:80", ""},
		{"zone without brackets", "{x}:{y}", "fe80::1%eth0", "80", ""},
		{"zone", "{x}:80", "[fe80::1%eth0]", "", ""},
		{"network in the value", "{x}:80", "udp/10.0.0.5", "", ""},
		{"Unix socket in the value", "{x}", "unix//run/docker.sock", "", ""},
		{"Unix socket after the network", "tcp/{x}", "unix//run/docker.sock", "", ""},
		{"leaves the suffix", "{x}.example.org:80", "evil.com:80/", "", ""},
		{"leaves the suffix by a port", "{x}.example.org:80", "evil.com:80", "", ""},
		{"leaves the suffix by NUL", "{x}.example.org:80", "evil.com\x00", "", ""},
		{"percent-encoding", "{x}:80", "ex%61mple.org", "", ""},
		{"user", "{x}:80", "user@example.org", "", ""},
		{"space", "{x}:80", "example.org ", "", ""},
		{"line break", "{x}:80", "example.org\r\n", "", ""},
		{"not ASCII", "{x}:80", "ex\u00e4mple.org", "", ""},
		{"asterisk", "{x}:80", "*.example.org", "", ""},
		{"dot at the beginning", "{x}:80", ".example.org", "", ""},
		{"two dots", "{x}:80", "a..example.org", "", ""},
		{"only a dot", "{x}:80", ".", "", ""},
		{"too long", "{x}:80", long + long, "", ""},
		{"a placeholder in the value", "{x}:80", "{env.HOME}", "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u := newTestUpstream(t, &l4proxy.Upstream{Dial: []string{test.dial}}, "example.org")
			to, err := u.destination(replacerWith(test.x, test.y))
			switch {
			case test.want == "" && !errors.Is(err, errNoAddress):
				t.Errorf("got %q, error %v, want it refused", to.address(), err)
			case test.want == "" && (errors.Is(err, errNotAllowed) || strings.Contains(err.Error(), "dial_allow")):
				t.Errorf("got error %v, want one that does not blame dial_allow", err)
			case test.want == "" && failureStatus(err) != http.StatusBadGateway:
				t.Errorf("got status %d, want 502", failureStatus(err))
			case test.want == "" && len(err.Error()) > 500:
				t.Errorf("got an error of %d bytes, want less for the log", len(err.Error()))
			case test.want != "" && (err != nil || to.address() != test.want):
				t.Errorf("got %q, error %v, want %q", to.address(), err, test.want)
			}
		})
	}
}

// TestDestinationWithoutPort checks that an address that lacks nothing but its port is
// said to.
func TestDestinationWithoutPort(t *testing.T) {
	for host, want := range map[string]string{
		"localhost": `its placeholders make no address: "localhost" has no port; for that of the request, or its default, write {l4.http.hostname}:{l4.http.port}`,
		"[::1]":     `its placeholders make no address: "[::1]" has no port; for that of the request, or its default, write {l4.http.hostname}:{l4.http.port}`,
		"::1":       `its placeholders make no address: "::1" is not a host and a port`,
	} {
		u := newTestUpstream(t, &l4proxy.Upstream{Dial: []string{"{x}"}}, "localhost", "::1")
		if _, err := u.destination(replacerWith(host, "")); err == nil || err.Error() != want {
			t.Errorf("%s: got error %v, want %s", host, err, want)
		}
	}
}

func TestLookup(t *testing.T) {
	tests := []struct {
		name    string
		config  l4proxy.Upstream
		allow   string
		host    string // {x}
		answer  string
		want    string // the addresses, or a part of the error
		refused bool
		unasked bool // the name is not looked up
	}{
		{"name", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "a.example", "a.example", "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", false, false},
		{"name under an asterisk", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "*.example", "a.example", "127.0.0.1", "127.0.0.1", false, false},
		{"address", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "10.0.0.0/8", "10.0.0.1", "", "10.0.0.1", false, true},
		{"IPv6 address", l4proxy.Upstream{Dial: []string{"[{x}]:80"}}, "2001:db8::/32", "2001:db8::1", "", "2001:db8::1", false, true},
		{"IPv4 address as IPv6", l4proxy.Upstream{Dial: []string{"[{x}]:80"}}, "10.0.0.0/8", "::ffff:10.0.0.1", "", "10.0.0.1", false, true},
		{"name with an address in a network", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "10.0.0.0/8", "b.example", "10.0.0.1", "10.0.0.1", false, false},
		{"name with one address in a network", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "10.0.0.0/8", "b.example", "127.0.0.1 10.0.0.1 ::1", "10.0.0.1", false, false},
		{"fixed address with a name from a placeholder", l4proxy.Upstream{Dial: []string{"10.0.0.1:80"}, LocalAddrs: []string{"{x}"}}, "10.0.0.0/8", "127.0.0.2", "", "10.0.0.1", false, true},

		{"another name", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "a.example", "b.example", "10.0.0.1", "b.example", true, true},
		{"another address", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "10.0.0.0/8", "127.0.0.1", "", "[127.0.0.1]", true, true},
		{"IPv6 loopback", l4proxy.Upstream{Dial: []string{"[{x}]:80"}}, "10.0.0.0/8", "::1", "", "[::1]", true, true},
		{"loopback as IPv6", l4proxy.Upstream{Dial: []string{"[{x}]:80"}}, "10.0.0.0/8", "::ffff:127.0.0.1", "", "[127.0.0.1]", true, true},
		{"unspecified", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "127.0.0.0/8", "0.0.0.0", "", "[0.0.0.0]", true, true},
		{"name with another address", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "10.0.0.0/8", "b.example", "127.0.0.1 ::1", "b.example, which has the addresses [127.0.0.1 ::1]", true, false},
		{"number that some resolvers read as an address", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "10.0.0.0/8", "2130706433", "127.0.0.1", "2130706433, which has the addresses [127.0.0.1]", true, false},
		{"fixed address elsewhere", l4proxy.Upstream{Dial: []string{"192.0.2.1:80"}, LocalAddrs: []string{"{x}"}}, "10.0.0.0/8", "127.0.0.2", "", "[192.0.2.1]", true, true},
		{"no such name", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "a.example", "a.example", "", "no such host", false, true},

		{"IPv4 first by default", l4proxy.Upstream{Dial: []string{"{x}:80"}}, "a.example", "a.example", "::1 10.0.0.1 ::2 10.0.0.2", "10.0.0.1 10.0.0.2 ::1 ::2", false, false},
		{"ipv4_first", l4proxy.Upstream{Dial: []string{"a.example:80"}, ResolverPreference: "ipv4_first"}, "", "", "::1 10.0.0.1", "10.0.0.1 ::1", false, false},
		{"ipv6_first", l4proxy.Upstream{Dial: []string{"a.example:80"}, ResolverPreference: "ipv6_first"}, "", "", "10.0.0.1 ::1", "::1 10.0.0.1", false, false},
		{"ipv6_first without IPv6", l4proxy.Upstream{Dial: []string{"a.example:80"}, ResolverPreference: "ipv6_first"}, "", "", "10.0.0.1", "10.0.0.1", false, false},
		{"ipv4_only", l4proxy.Upstream{Dial: []string{"a.example:80"}, ResolverPreference: "ipv4_only"}, "", "", "::1 10.0.0.1", "10.0.0.1", false, false},
		{"ipv6_only", l4proxy.Upstream{Dial: []string{"a.example:80"}, ResolverPreference: "ipv6_only"}, "", "", "10.0.0.1 ::1", "::1", false, false},
		{"ipv4_only without IPv4", l4proxy.Upstream{Dial: []string{"a.example:80"}, ResolverPreference: "ipv4_only"}, "", "", "::1", "a.example has no IPv4 address", false, false},
		{"ipv6_only without IPv6", l4proxy.Upstream{Dial: []string{"a.example:80"}, ResolverPreference: "ipv6_only"}, "", "", "10.0.0.1", "a.example has no IPv6 address", false, false},
		{"tcp4", l4proxy.Upstream{Dial: []string{"tcp4/{x}:80"}}, "a.example", "a.example", "::1 10.0.0.1", "10.0.0.1", false, false},
		{"tcp6", l4proxy.Upstream{Dial: []string{"tcp6/{x}:80"}}, "a.example", "a.example", "10.0.0.1 ::1", "::1", false, false},
		{"IPv4 as IPv6 in an answer", l4proxy.Upstream{Dial: []string{"tcp4/{x}:80"}}, "a.example", "a.example", "::ffff:10.0.0.1", "10.0.0.1", false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u := newTestUpstream(t, &test.config, strings.Fields(test.allow)...)
			fake := &fakeResolver{answers: make(map[string][]string)}
			u.resolver = fake
			to, err := u.destination(replacerWith(test.host, ""))
			if err != nil {
				t.Fatal(err)
			}
			if test.answer != "" {
				fake.answers[to.host] = []string{test.answer}
			}
			addrs, err := u.lookup(t.Context(), to.host)
			var got []string
			for _, addr := range addrs {
				got = append(got, addr.String())
			}
			switch {
			case err == nil && strings.Join(got, " ") != test.want:
				t.Errorf("got %v, want %s", got, test.want)
			case err != nil && !strings.Contains(err.Error(), test.want):
				t.Errorf("got error %v, want one with %q", err, test.want)
			case errors.Is(err, errNotAllowed) != test.refused:
				t.Errorf("got error %v, want refused %t", err, test.refused)
			}
			if asked := fake.asked > 0; asked == test.unasked {
				t.Errorf("got the name looked up: %t, want %t", asked, !test.unasked)
			}
		})
	}
}

// listening returns the port of a listener on each of the addresses, with the ends
// that it accepts.
func listening(t *testing.T, addresses ...string) (port string, accepted <-chan net.Conn) {
	t.Helper()
	conns := make(chan net.Conn, 10)
	port = "0"
	for _, address := range addresses {
		ln, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if err != nil {
			t.Skipf("listening on %s: %v", address, err)
		}
		_, port, _ = net.SplitHostPort(ln.Addr().String())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				conns <- conn
			}
		}()
		t.Cleanup(func() {
			ln.Close()
			<-ended
		})
	}
	t.Cleanup(func() {
		for len(conns) > 0 {
			(<-conns).Close()
		}
	})
	return port, conns
}

// TestConnectDialsWhatItChecked checks that a name which resolves to something else a
// moment after the check is not asked for again.
func TestConnectDialsWhatItChecked(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	u := newTestUpstream(t, &l4proxy.Upstream{Dial: []string{"{x}:" + port}}, "127.0.0.1")
	fake := &fakeResolver{answers: map[string][]string{"rebinding.example": {"127.0.0.1", "127.0.0.2"}}}
	u.resolver = fake
	repl := replacerWith("rebinding.example", "")

	conn, err := u.dial(t.Context(), repl, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	(<-accepted).Close()
	if got := conn.RemoteAddr().String(); got != "127.0.0.1:"+port || fake.asked != 1 {
		t.Errorf("got a connection to %s after %d lookups, want the checked address after one", got, fake.asked)
	}

	if _, err := u.dial(t.Context(), repl, nil, ""); !errors.Is(err, errNotAllowed) {
		t.Errorf("the name resolves to another address now: got error %v, want it refused", err)
	}
	if len(accepted) > 0 {
		t.Error("the refused address was dialled")
	}
}

// TestConnectTriesEachAddress checks that an address which does not answer is followed
// by the next one, and leaves it time.
func TestConnectTriesEachAddress(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	u := newTestUpstream(t, &l4proxy.Upstream{Dial: []string{"a.example:" + port}, ResolverPreference: "ipv6_first"})
	u.resolver = &fakeResolver{answers: map[string][]string{"a.example": {"127.0.0.2 127.0.0.3 127.0.0.1"}}}
	conn, err := u.dial(t.Context(), caddy.NewReplacer(), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	(<-accepted).Close()
	if got := conn.RemoteAddr().String(); got != "127.0.0.1:"+port {
		t.Errorf("got %s, want the address that answers", got)
	}

	u.resolver = &fakeResolver{answers: map[string][]string{"a.example": {"127.0.0.2 127.0.0.3"}}}
	if _, err := u.dial(t.Context(), caddy.NewReplacer(), nil, ""); err == nil || !strings.Contains(err.Error(), "127.0.0.2") {
		t.Errorf("none answers: got error %v, want that of the first", err)
	}
}

func TestShare(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	half, cancelHalf := share(ctx, 2)
	defer cancelHalf()
	deadline, _ := half.Deadline()
	if left := time.Until(deadline); left > 31*time.Minute || left < 29*time.Minute {
		t.Errorf("got %s for the first of two attempts in an hour, want half of it", left)
	}
	free, cancelFree := share(t.Context(), 2)
	defer cancelFree()
	if _, bounded := free.Deadline(); bounded {
		t.Error("got a deadline, want none where there was none")
	}
}

func TestConnectFromLocalAddress(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1", "::1")
	tests := []struct {
		name  string
		host  string
		local []string
		want  string // address that the server sees
	}{
		{"none", "127.0.0.1", nil, "127.0.0.1"},
		{"one", "127.0.0.1", []string{"127.0.0.2"}, "127.0.0.2"},
		{"the first", "127.0.0.1", []string{"127.0.0.3", "127.0.0.2"}, "127.0.0.3"},
		{"the first of the family", "127.0.0.1", []string{"::1", "127.0.0.2"}, "127.0.0.2"},
		{"the first that works", "127.0.0.1", []string{"192.0.2.1", "127.0.0.2"}, "127.0.0.2"},
		{"none of the family", "::1", []string{"127.0.0.2"}, "::1"},
		{"IPv6", "::1", []string{"127.0.0.2", "::1"}, "::1"},
		{"from a placeholder", "127.0.0.1", []string{"{x}"}, "127.0.0.4"},
		{"from a placeholder after another", "127.0.0.1", []string{"{y}", "{x}"}, "127.0.0.4"},
		{"from a placeholder after a fixed one", "127.0.0.1", []string{"127.0.0.2", "{x}"}, "127.0.0.2"},
		{"placeholder without an address", "127.0.0.1", []string{"{y}"}, "127.0.0.1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u := newTestUpstream(t, &l4proxy.Upstream{Dial: []string{net.JoinHostPort(test.host, port)}, LocalAddrs: test.local}, "127.0.0.0/8")
			conn, err := u.dial(t.Context(), replacerWith("127.0.0.4", "nothing"), nil, "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			seen := <-accepted
			defer seen.Close()
			if got, _, _ := net.SplitHostPort(seen.RemoteAddr().String()); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestConnectFromLocalPort(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	from, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	local := from.Addr().String()
	from.Close()
	u := newTestUpstream(t, &l4proxy.Upstream{Dial: []string{"127.0.0.1:" + port}, LocalAddrs: []string{local}})
	conn, err := u.dial(t.Context(), caddy.NewReplacer(), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	seen := <-accepted
	defer seen.Close()
	if got := seen.RemoteAddr().String(); got != local {
		t.Errorf("got %s, want %s", got, local)
	}
}

func TestServerName(t *testing.T) {
	tests := []struct{ name, dial, serverName, x, want string }{
		{"host", "a.example:443", "", "", "a.example"},
		{"host from a placeholder", "{x}:443", "", "B.example", "b.example"},
		{"fixed", "{x}:443", "c.example", "b.example", "c.example"},
		{"from a placeholder", "a.example:443", "{x}", "d.example", "d.example"},
		{"from an empty placeholder", "a.example:443", "{x}", "", "a.example"},
		{"of the environment", "a.example:443", "{env.STREAMPROX_TEST_NAME}", "", "e.example"},
	}
	t.Setenv("STREAMPROX_TEST_NAME", "e.example")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := &l4proxy.Upstream{Dial: []string{test.dial}, TLS: &reverseproxy.TLSConfig{ServerName: test.serverName}}
			to, err := newTestUpstream(t, config, "*.example").destination(replacerWith(test.x, ""))
			if err != nil || to.serverName != test.want {
				t.Errorf("got %q, error %v, want %q", to.serverName, err, test.want)
			}
		})
	}
}

func TestSplitNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"{x}:80":          "tcp {x}:80",
		"TCP4/{x}:80":     "tcp4 {x}:80",
		"tcp/{x}/{y}":     "tcp {x}/{y}",
		"{x/y}:80":        "tcp {x/y}:80",
		"tcp6/[{x/y}]:80": "tcp6 [{x/y}]:80",
		"{x}/a:80":        "the network cannot be from a placeholder",
		"t{x}p/a:80":      "the network cannot be from a placeholder",
		"{x}/{y}:80":      "the network cannot be from a placeholder",
		"{x/y}/a:80":      "the network cannot be from a placeholder",
	} {
		network, rest, err := splitNetwork(address)
		got := network + " " + rest
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
	}
}

// TestDialAllowIsOrdered checks that nothing of the answer's order is lost within a
// family.
func TestDialAllowIsOrdered(t *testing.T) {
	u := newTestUpstream(t, &l4proxy.Upstream{Dial: []string{"{x}:80"}}, "a.example")
	var answer []string
	for i := range 20 {
		answer = append(answer, fmt.Sprintf("10.0.0.%d", 20-i), fmt.Sprintf("2001:db8::%d", i+1))
	}
	u.resolver = &fakeResolver{answers: map[string][]string{"a.example": {strings.Join(answer, " ")}}}
	addrs, err := u.lookup(t.Context(), "a.example")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(addrs[:20], func(a, b netip.Addr) int { return b.Compare(a) }) ||
		!slices.IsSortedFunc(addrs[20:], netip.Addr.Compare) {
		t.Errorf("got %v, want IPv4 in the order of the answer, then IPv6", addrs)
	}
}
