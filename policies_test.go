package streamprox

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
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

// TestHeadPolicies checks that equal values go to the same upstream, that all upstreams
// are used about equally, and that only the values of an upstream that is away move.
func TestHeadPolicies(t *testing.T) {
	const values = 300
	a, b, c := testUpstream("10.0.0.5:9000", 0, 0), testUpstream("10.0.0.6:9000", 0, 0), testUpstream("10.0.0.7:9000", 0, 0)
	for _, test := range headPolicies {
		t.Run(test.name, func(t *testing.T) {
			balancer := testBalancer(t, test.policy)
			counts := make(map[string]int)
			for i := range values {
				cx := inspected(t, "", test.request(fmt.Sprintf("tenant-%d", i)))
				names := chosen(balancer, []*upstream{a, b, c}, cx, 3)
				if len(tally(names)) != 1 {
					t.Fatalf("value %d: got %v, want always the same upstream", i, names)
				}
				counts[names[0]]++
				without := chosen(balancer, []*upstream{c, a}, cx, 1)[0]
				if names[0] != b.address && without != names[0] {
					t.Errorf("value %d moved from %s to %s though its upstream is available", i, names[0], without)
				}
			}
			for _, u := range []*upstream{a, b, c} {
				if counts[u.address] < values/6 {
					t.Errorf("got %v, want about %d of each", counts, values/3)
				}
			}
		})
	}
}

// TestHeadPoliciesWithoutValue checks that the choice is random then.
func TestHeadPoliciesWithoutValue(t *testing.T) {
	among := []*upstream{testUpstream("a", 0, 0), testUpstream("b", 0, 0), testUpstream("c", 0, 0)}
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
				got := tally(chosen(testBalancer(t, test.policy), among, connections[name], 300))
				if len(got) != 3 || got["a"] < 50 || got["b"] < 50 || got["c"] < 50 {
					t.Errorf("got %v, want about 100 of each", got)
				}
			})
		}
	}
}

// TestHeaderSelectionValues checks which requests count as equal.
func TestHeaderSelectionValues(t *testing.T) {
	var among []*upstream
	for i := range 64 {
		among = append(among, testUpstream(fmt.Sprintf("10.0.0.%d:9000", i), 0, 0))
	}
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
		{"another field of the name", `{"policy":"header","field":"X-Tenant"}`, get("X-Tenant: a\r\n"), get("X-Tenant: a\r\nX-Tenant: b\r\n"), false},
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
			balancer := testBalancer(t, test.policy)
			first, second := inspected(t, `"lenient":true`, test.first), inspected(t, `"lenient":true`, test.second)
			got := balancer.choose(among, first) == balancer.choose(among, second)
			if got != test.equal {
				t.Errorf("got the same upstream: %t, want %t", got, test.equal)
			}
		})
	}
}

// TestSimilarValuesSpread checks that values that differ in the last byte alone do not
// go to the same upstream.
func TestSimilarValuesSpread(t *testing.T) {
	among := []*upstream{testUpstream("10.0.0.5:9000", 0, 0), testUpstream("10.0.0.6:9000", 0, 0), testUpstream("10.0.0.7:9000", 0, 0)}
	counts := make(map[string]int)
	for c := 'a'; c <= 'z'; c++ {
		cx := inspected(t, "", fmt.Sprintf("GET / HTTP/1.1\r\nHost: %c\r\n\r\n", c))
		counts[testBalancer(t, `{"policy":"header","field":"Host"}`).choose(among, cx).address]++
	}
	for _, u := range among {
		if counts[u.address] < 3 {
			t.Errorf("got %v, want about 9 of each", counts)
		}
	}
}

// TestHeadPoliciesInRelay checks that the head is known when relay has taken the bytes.
func TestHeadPoliciesInRelay(t *testing.T) {
	for _, test := range headPolicies {
		cx := inspected(t, "", test.request("value"))
		in := inspectionOf(cx)
		balancer := testBalancer(t, test.policy)
		among := []*upstream{testUpstream("a", 0, 0), testUpstream("b", 0, 0), testUpstream("c", 0, 0)}
		want := balancer.choose(among, cx)
		cx.Context = relayedContext(cx.Context, in)
		drain(cx)
		if got := chosen(balancer, among, cx, 20); len(tally(got)) != 1 || got[0] != want.address {
			t.Errorf("%s: got %v, want %s", test.name, tally(got), want.address)
		}
	}
}

// TestHeadPoliciesInProxy checks that the policies work with the upstreams of caddy-l4's
// proxy, of which only it knows which ones are available.
func TestHeadPoliciesInProxy(t *testing.T) {
	pool := l4proxy.UpstreamPool{{Dial: []string{"a:1"}}, {Dial: []string{"b:1"}}, {Dial: []string{"c:1"}}}
	for _, test := range headPolicies {
		t.Run(test.name, func(t *testing.T) {
			selector := testBalancer(t, test.policy).(selectorBalancer).selector
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
