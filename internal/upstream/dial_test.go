package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"github.com/pires/go-proxyproto"
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
			s := newTestServer(t, &test.config, strings.Fields(test.allow)...)
			fake := &fakeResolver{answers: make(map[string][]string)}
			s.resolver = fake
			to, err := s.target(replacerWith(test.host, ""))
			if err != nil {
				t.Fatal(err)
			}
			if test.answer != "" {
				fake.answers[to.host] = []string{test.answer}
			}
			addrs, err := s.lookup(t.Context(), to.host)
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

// TestLookupIsOrdered checks that nothing of the answer's order is lost within a
// family.
func TestLookupIsOrdered(t *testing.T) {
	s := newTestServer(t, &l4proxy.Upstream{Dial: []string{"{x}:80"}}, "a.example")
	var answer []string
	for i := range 20 {
		answer = append(answer, fmt.Sprintf("10.0.0.%d", 20-i), fmt.Sprintf("2001:db8::%d", i+1))
	}
	s.resolver = &fakeResolver{answers: map[string][]string{"a.example": {strings.Join(answer, " ")}}}
	addrs, err := s.lookup(t.Context(), "a.example")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(addrs[:20], func(a, b netip.Addr) int { return b.Compare(a) }) ||
		!slices.IsSortedFunc(addrs[20:], netip.Addr.Compare) {
		t.Errorf("got %v, want IPv4 in the order of the answer, then IPv6", addrs)
	}
}

// TestConnectDialsWhatItChecked checks that a name which resolves to something else a
// moment after the check is not asked for again.
func TestConnectDialsWhatItChecked(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	s := newTestServer(t, &l4proxy.Upstream{Dial: []string{"{x}:" + port}}, "127.0.0.1")
	fake := &fakeResolver{answers: map[string][]string{"rebinding.example": {"127.0.0.1", "127.0.0.2"}}}
	s.resolver = fake
	repl := replacerWith("rebinding.example", "")

	conn, err := s.dial(t.Context(), repl, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	(<-accepted).Close()
	if got := conn.RemoteAddr().String(); got != "127.0.0.1:"+port || fake.asked != 1 {
		t.Errorf("got a connection to %s after %d lookups, want the checked address after one", got, fake.asked)
	}

	if _, err := s.dial(t.Context(), repl, nil, ""); !errors.Is(err, errNotAllowed) {
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
	s := newTestServer(t, &l4proxy.Upstream{Dial: []string{"a.example:" + port}, ResolverPreference: "ipv6_first"})
	s.resolver = &fakeResolver{answers: map[string][]string{"a.example": {"127.0.0.2 127.0.0.3 127.0.0.1"}}}
	conn, err := s.dial(t.Context(), caddy.NewReplacer(), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	(<-accepted).Close()
	if got := conn.RemoteAddr().String(); got != "127.0.0.1:"+port {
		t.Errorf("got %s, want the address that answers", got)
	}

	s.resolver = &fakeResolver{answers: map[string][]string{"a.example": {"127.0.0.2 127.0.0.3"}}}
	if _, err := s.dial(t.Context(), caddy.NewReplacer(), nil, ""); err == nil || !strings.Contains(err.Error(), "127.0.0.2") {
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
			s := newTestServer(t, &l4proxy.Upstream{Dial: []string{net.JoinHostPort(test.host, port)}, LocalAddrs: test.local}, "127.0.0.0/8")
			conn, err := s.dial(t.Context(), replacerWith("127.0.0.4", "nothing"), nil, "")
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
	s := newTestServer(t, &l4proxy.Upstream{Dial: []string{"127.0.0.1:" + port}, LocalAddrs: []string{local}})
	conn, err := s.dial(t.Context(), caddy.NewReplacer(), nil, "")
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

// TestDialLeaksNoConnection: a connection that breaks while it is made ready is closed.
func TestDialLeaksNoConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := newTestServer(t, &l4proxy.Upstream{Dial: []string{ln.Addr().String()}})
	for name, header := range map[string]*proxyproto.Header{
		"a header that cannot be sent": {Version: 7},
		"no header":                    nil,
	} {
		conn, err := s.dial(t.Context(), caddy.NewReplacer(), header, "")
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
