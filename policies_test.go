package streamprox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"go.uber.org/zap"
)

// headPolicies are the policies that look at the head, each with a request that has the
// given value where it looks.
var headPolicies = []struct {
	name    string
	policy  string
	request func(value string) string
	without string // a request that has none
}{
	{"header", `{"policy":"header","field":"x-tenant"}`, func(value string) string {
		return "GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: " + value + "\r\n\r\n"
	}, "GET / HTTP/1.1\r\nHost: a\r\nX-Tenants: 1\r\n\r\n"},
	{"host", `{"policy":"header","field":"host"}`, func(value string) string {
		return "GET / HTTP/1.1\r\nHost: " + value + "\r\n\r\n"
	}, "GET / HTTP/1.0\r\n\r\n"},
	{"cookie", `{"policy":"cookie","name":"sid"}`, func(value string) string {
		return "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1; sid=" + value + "; b=2\r\n\r\n"
	}, "GET / HTTP/1.1\r\nHost: a\r\nCookie: SID=1; sids=2\r\n\r\n"},
	{"uri_hash", `{"policy":"uri_hash"}`, func(value string) string {
		return "GET /a?" + value + " HTTP/1.1\r\nHost: a\r\n\r\n"
	}, "EHLO a\r\n"},
}

// headSelector returns the policy of that JSON.
func headSelector(t *testing.T, policy string) l4proxy.Selector {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	module, err := ctx.LoadModule(&l4proxy.LoadBalancing{SelectionPolicyRaw: json.RawMessage(policy)}, "SelectionPolicyRaw")
	if err != nil {
		t.Fatalf("policy %s: %v", policy, err)
	}
	return module.(l4proxy.Selector)
}

// poolOf returns upstreams with those addresses.
func poolOf(addresses ...string) (pool l4proxy.UpstreamPool) {
	for _, address := range addresses {
		pool = append(pool, &l4proxy.Upstream{Dial: []string{address}})
	}
	return pool
}

// selected returns the addresses that are selected, one after the other.
func selected(selector l4proxy.Selector, pool l4proxy.UpstreamPool, cx *layer4.Connection, times int) []string {
	addresses := make([]string, times)
	for i := range addresses {
		addresses[i] = selector.Select(pool, cx).String()
	}
	return addresses
}

func tally(names []string) map[string]int {
	counts := make(map[string]int)
	for _, name := range names {
		counts[name]++
	}
	return counts
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

// TestHeadPolicies checks that equal values go to the same upstream, that all upstreams
// are used about equally, and that only the values of an upstream that is away move.
func TestHeadPolicies(t *testing.T) {
	const values = 300
	pool := poolOf("10.0.0.5:9000", "10.0.0.6:9000", "10.0.0.7:9000")
	a, b, c := pool[0], pool[1], pool[2]
	for _, test := range headPolicies {
		t.Run(test.name, func(t *testing.T) {
			selector := headSelector(t, test.policy)
			counts := make(map[string]int)
			for i := range values {
				cx := inspected(t, "", test.request(fmt.Sprintf("tenant-%d", i)))
				names := selected(selector, pool, cx, 3)
				if len(tally(names)) != 1 {
					t.Fatalf("value %d: got %v, want always the same upstream", i, names)
				}
				counts[names[0]]++
				without := selected(selector, l4proxy.UpstreamPool{c, a}, cx, 1)[0]
				if names[0] != b.String() && without != names[0] {
					t.Errorf("value %d moved from %s to %s though its upstream is available", i, names[0], without)
				}
			}
			for _, u := range pool {
				if counts[u.String()] < values/6 {
					t.Errorf("got %v, want about %d of each", counts, values/3)
				}
			}
		})
	}
}

// TestHeadPoliciesWithoutValue checks that the choice is random then.
func TestHeadPoliciesWithoutValue(t *testing.T) {
	pool := poolOf("a", "b", "c")
	for _, test := range headPolicies {
		connections := map[string]*layer4.Connection{
			"no value":    inspected(t, "", test.without),
			"not HTTP":    inspected(t, "", "EHLO a\r\n"),
			"no inspect":  clientOf("10.0.0.1"),
			"empty value": inspected(t, "", "GET / HTTP/1.0\r\nHost:\r\nX-Tenant:\r\nCookie: sid=\r\n\r\n"),
		}
		if test.name == "uri_hash" {
			delete(connections, "empty value") // a target is never empty
		}
		for _, name := range slices.Sorted(maps.Keys(connections)) {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				got := tally(selected(headSelector(t, test.policy), pool, connections[name], 300))
				if len(got) != 3 || got["a"] < 50 || got["b"] < 50 || got["c"] < 50 {
					t.Errorf("got %v, want about 100 of each", got)
				}
			})
		}
	}
}

// TestHeaderSelectionValues checks which requests count as equal.
func TestHeaderSelectionValues(t *testing.T) {
	var addresses []string
	for i := range 64 {
		addresses = append(addresses, fmt.Sprintf("10.0.0.%d:9000", i))
	}
	pool := poolOf(addresses...)
	get := func(fields string) string { return "GET / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" }
	tests := []struct {
		name          string
		policy        string
		first, second string
		equal         bool
	}{
		{"letter case of the name", `{"policy":"header","field":"X-Tenant"}`, get("x-tenant: a\r\n"), get("X-TENANT: a\r\n"), true},
		{"space around the value", `{"policy":"header","field":"X-Tenant"}`, get("X-Tenant: a\r\n"), get("X-Tenant:a \r\n"), true},
		{"other fields", `{"policy":"header","field":"X-Tenant"}`, get("X-Tenant: a\r\n"), get("X-Other: b\r\nX-Tenant: a\r\n"), true},
		{"other value", `{"policy":"header","field":"X-Tenant"}`, get("X-Tenant: a\r\n"), get("X-Tenant: b\r\n"), false},
		{"another field of the name", `{"policy":"header","field":"X-Tenant"}`, get("X-Tenant: a\r\n"), get("X-Tenant: a\r\nX-Tenant: b\r\n"), true},
		{"looks like an address", `{"policy":"header","field":"X-Tenant"}`, get("X-Tenant: a:1\r\n"), get("X-Tenant: a:2\r\n"), false},
		{"looks like an IPv6 address", `{"policy":"header","field":"X-Tenant"}`, get("X-Tenant: [a]:1\r\n"), get("X-Tenant: [a]:2\r\n"), false},
		{"host in the target", `{"policy":"header","field":"Host"}`, "GET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: b\r\n\r\n", true},
		{"quoted cookie", `{"policy":"cookie","name":"sid"}`, get("Cookie: sid=\"a\"\r\n"), get("Cookie: sid=a\r\n"), true},
		{"cookies in two fields", `{"policy":"cookie","name":"sid"}`, get("Cookie: x=1\r\nCookie: sid=a\r\n"), get("Cookie: sid=a\r\n"), true},
		{"letter case of the cookie", `{"policy":"cookie","name":"sid"}`, get("Cookie: SID=b; sid=a\r\n"), get("Cookie: sid=a\r\n"), true},
		{"other query", `{"policy":"uri_hash"}`, "GET /?a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?b HTTP/1.1\r\nHost: a\r\n\r\n", false},
		{"other method", `{"policy":"uri_hash"}`, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			selector := headSelector(t, test.policy)
			first, second := inspected(t, `"lenient":true`, test.first), inspected(t, `"lenient":true`, test.second)
			got := selector.Select(pool, first) == selector.Select(pool, second)
			if got != test.equal {
				t.Errorf("got the same upstream: %t, want %t", got, test.equal)
			}
		})
	}
}

// TestSimilarValuesSpread checks that values that differ in the last byte alone do not
// go to the same upstream.
func TestSimilarValuesSpread(t *testing.T) {
	pool := poolOf("10.0.0.5:9000", "10.0.0.6:9000", "10.0.0.7:9000")
	selector := headSelector(t, `{"policy":"header","field":"Host"}`)
	counts := make(map[string]int)
	for c := 'a'; c <= 'z'; c++ {
		cx := inspected(t, "", fmt.Sprintf("GET / HTTP/1.1\r\nHost: %c\r\n\r\n", c))
		counts[selector.Select(pool, cx).String()]++
	}
	for _, u := range pool {
		if counts[u.String()] < 3 {
			t.Errorf("got %v, want about 9 of each", counts)
		}
	}
}

// TestHeadPoliciesInRelay checks that the head is known when relay has taken the bytes.
func TestHeadPoliciesInRelay(t *testing.T) {
	for _, test := range headPolicies {
		cx := inspected(t, "", test.request("value"))
		in := inspectionOf(cx)
		selector := headSelector(t, test.policy)
		pool := poolOf("a", "b", "c")
		want := selector.Select(pool, cx)
		cx.Context = relayedContext(cx.Context, in)
		drain(cx)
		if got := selected(selector, pool, cx, 20); len(tally(got)) != 1 || got[0] != want.String() {
			t.Errorf("%s: got %v, want %s", test.name, tally(got), want)
		}
	}
}

// TestHeadPoliciesInProxy checks that the policies work with the upstreams of caddy-l4's
// proxy, of which only it knows which ones are available.
func TestHeadPoliciesInProxy(t *testing.T) {
	pool := l4proxy.UpstreamPool{{Dial: []string{"a:1"}}, {Dial: []string{"b:1"}}, {Dial: []string{"c:1"}}}
	for _, test := range headPolicies {
		t.Run(test.name, func(t *testing.T) {
			selector := headSelector(t, test.policy)
			for _, sent := range []string{test.request("value"), test.without} {
				cx := inspected(t, "", sent)
				if got := selector.Select(pool, cx); got == nil {
					t.Errorf("%q: got no upstream", sent)
				}
				if got := selector.Select(nil, cx); got != nil {
					t.Errorf("%q, no upstream: got %v, want nil", sent, got)
				}
				if got := string(cx.MatchingBytes()); !strings.HasPrefix(got, sent) {
					t.Errorf("got bytes %q left, want all", got)
				}
			}
		})
	}
}
