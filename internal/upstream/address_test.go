package upstream

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// replacerWith returns a replacer that knows {x} and {y}.
func replacerWith(x, y string) *caddy.Replacer {
	repl := caddy.NewReplacer()
	repl.Set("x", x)
	repl.Set("y", y)
	return repl
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
			s := newTestServer(t, &l4proxy.Upstream{Dial: []string{test.dial}}, "example.org")
			to, err := s.target(replacerWith(test.x, test.y))
			switch {
			case test.want == "" && !errors.Is(err, errNoAddress):
				t.Errorf("got %q, error %v, want it refused", to.address(), err)
			case test.want == "" && (errors.Is(err, errNotAllowed) || strings.Contains(err.Error(), "dial_allow")):
				t.Errorf("got error %v, want one that does not blame dial_allow", err)
			case test.want == "" && reasonOf(err) != NoAddress:
				t.Errorf("got the reason %s, want that there is no address", reasonOf(err))
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
		s := newTestServer(t, &l4proxy.Upstream{Dial: []string{"{x}"}}, "localhost", "::1")
		if _, err := s.target(replacerWith(host, "")); err == nil || err.Error() != want {
			t.Errorf("%s: got error %v, want %s", host, err, want)
		}
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
			to, err := newTestServer(t, config, "*.example").target(replacerWith(test.x, ""))
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
