package streamprox

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// upstreamSets are sets of upstreams, as one writes them for relay and for reverse_proxy.
var upstreamSets = map[string][]string{
	"one":       {"10.0.0.5:9000"},
	"two":       {"10.0.0.5:9000", "10.0.0.6:9000"},
	"three":     {"10.0.0.5:9000", "10.0.0.6:9000", "10.0.0.7:9000"},
	"ports":     {"localhost:9000", "localhost:9001", "localhost:9002", "localhost:9003", "localhost:9004"},
	"all kinds": {"10.0.0.5:9000", "[2001:db8::5]:9000", "app.example.org:443", "unix//run/app.sock", "tcp4/10.0.0.6:80"},
	"one twice": {"10.0.0.5:9000", "10.0.0.6:9000", "10.0.0.5:9000"},
	"names":     {"app-0.app:80", "app-1.app:80", "app-2.app:80", "app-3.app:80", "app-4.app:80", "app-5.app:80", "app-6.app:80", "app-7.app:80"},
}

// caddySelector returns a policy of reverse_proxy.
func caddySelector(t *testing.T, policy string) reverseproxy.Selector {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	module, err := ctx.LoadModule(&reverseproxy.LoadBalancing{SelectionPolicyRaw: json.RawMessage(policy)}, "SelectionPolicyRaw")
	if err != nil {
		t.Fatalf("policy %s: %v", policy, err)
	}
	return module.(reverseproxy.Selector)
}

// caddyPoolOf returns upstreams of reverse_proxy with those addresses.
func caddyPoolOf(addresses []string) (pool reverseproxy.UpstreamPool) {
	for _, address := range addresses {
		pool = append(pool, &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: address})
	}
	return pool
}

// asCaddyReads returns the request that Caddy's HTTP app reads.
func asCaddyReads(t *testing.T, sent string) *http.Request {
	t.Helper()
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(sent)))
	if err != nil {
		t.Fatalf("%q: %v", sent, err)
	}
	return request
}

// TestPoliciesOfReverseProxy checks that header and uri_hash choose what the policies of that name
// of Caddy's reverse_proxy choose for the same request, whatever the order of the upstreams is.
func TestPoliciesOfReverseProxy(t *testing.T) {
	get := func(fields ...string) string {
		return "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(fields, "", ""), "\r\n")
	}
	const byTenant, byHost, byURI = `{"policy":"header","field":"X-Tenant"}`, `{"policy":"header","field":"Host"}`, `{"policy":"uri_hash"}`
	tests := []struct{ policy, sent string }{
		{byTenant, get("x-tenant: \t a b \t")},
		{byTenant, get("X-Tenant: a", "X-Tenant: b")},
		{byTenant, get("X-Tenant: a,b")},
		{byTenant, get("X-Tenant: [::1]:80")},
		{byTenant, get("X-Tenant: \xc3\xa4\xff")},
		{byTenant, get("X-Tenant: " + strings.Repeat("long", 1000))},
		{`{"policy":"header","field":"x-tenant"}`, get("X-TENANT: a")},
		{byHost, "GET / HTTP/1.1\r\nHost: Example.org:8080\r\n\r\n"},
		{byHost, "GET http://example.org:80/ HTTP/1.1\r\nHost: example.org\r\n\r\n"},
		{byHost, "GET / HTTP/1.0\r\nHost: [::1]\r\n\r\n"},
		{byURI, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{byURI, "POST /a//b/%2f?q=%20&r= HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"},
		{byURI, "GET http://example.org/a?b HTTP/1.1\r\nHost: example.org\r\n\r\n"},
		{byURI, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"},
	}
	for i := range 100 {
		tests = append(tests,
			struct{ policy, sent string }{byTenant, get(fmt.Sprint("X-Tenant: ", i))},
			struct{ policy, sent string }{byHost, fmt.Sprintf("GET / HTTP/1.1\r\nHost: %d.example.org\r\n\r\n", i)},
			struct{ policy, sent string }{byURI, fmt.Sprintf("GET /rooms/%d HTTP/1.1\r\nHost: a\r\n\r\n", i)})
	}
	ours, theirs := make(map[string]l4proxy.Selector), make(map[string]reverseproxy.Selector)
	for _, test := range tests {
		if ours[test.policy] == nil {
			ours[test.policy], theirs[test.policy] = headSelector(t, test.policy), caddySelector(t, test.policy)
		}
		request, cx := asCaddyReads(t, test.sent), inspected(t, "", test.sent)
		for _, name := range slices.Sorted(maps.Keys(upstreamSets)) {
			addresses := slices.Clone(upstreamSets[name])
			want := theirs[test.policy].Select(caddyPoolOf(addresses), request, nil).Dial
			for range 5 {
				if got := ours[test.policy].Select(poolOf(addresses...), cx).String(); got != want {
					t.Errorf("%s, %s, %.60q: got %s of %q, reverse_proxy chooses %s", name, test.policy, test.sent, got, addresses, want)
				}
				rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
			}
		}
	}
}

// TestCookieOfReverseProxy checks that a cookie which reverse_proxy has set leads to the upstream
// that was chosen there, as long as it is there, and that others are hashed.
func TestCookieOfReverseProxy(t *testing.T) {
	for _, secret := range []string{"", "secret"} {
		ours := headSelector(t, fmt.Sprintf(`{"policy":"cookie","name":"lb","secret":%q}`, secret))
		stranger := headSelector(t, `{"policy":"cookie","name":"lb","secret":"another"}`)
		theirs := caddySelector(t, fmt.Sprintf(`{"policy":"cookie","name":"lb","secret":%q}`, secret))
		for name, set := range upstreamSets {
			strange := make(map[string]bool) // whether the stranger went to the same upstream
			for range 50 {
				w := httptest.NewRecorder()
				want := theirs.Select(caddyPoolOf(set), asCaddyReads(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"), w).Dial
				cookies := w.Result().Cookies()
				if len(cookies) != 1 {
					t.Fatalf("reverse_proxy has set %v", cookies)
				}
				sent := "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; lb=" + cookies[0].Value + "\r\n\r\n"
				if again := theirs.Select(caddyPoolOf(set), asCaddyReads(t, sent), httptest.NewRecorder()).Dial; again != want {
					t.Fatalf("reverse_proxy chooses %s, then %s", want, again)
				}
				cx := inspected(t, "", sent)
				addresses := slices.Clone(set)
				for range 5 {
					if got := ours.Select(poolOf(addresses...), cx).String(); got != want {
						t.Errorf("%s, secret %q: got %s of %q, reverse_proxy chose %s", name, secret, got, addresses, want)
					}
					rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
				}
				strange[fmt.Sprint(stranger.Select(poolOf(set...), cx).String() == want)] = true

				others := slices.DeleteFunc(slices.Clone(set), func(address string) bool { return address == want })
				if len(others) == 0 {
					continue
				}
				first := ours.Select(poolOf(others...), cx).String()
				for range 5 { // the same one each time, not one at random
					rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
					if got := ours.Select(poolOf(others...), cx).String(); got != first {
						t.Errorf("%s: %s is gone: got %s, then %s", name, want, first, got)
					}
				}
			}
			if name == "names" && !strange["false"] {
				t.Error("a cookie with another secret leads to the same upstreams")
			}
		}
	}
}

// TestOneUpstreamGone checks that the values of an upstream that goes move, and no others, and that
// they come back with it.
func TestOneUpstreamGone(t *testing.T) {
	for _, test := range headPolicies {
		for name, addresses := range upstreamSets {
			if len(addresses) == 1 || name == "one twice" {
				continue
			}
			selector := headSelector(t, test.policy)
			moved := make(map[string]map[string]bool) // from where, to where
			for i := range 200 {
				cx := inspected(t, "", test.request(fmt.Sprintf("%d", i)))
				before := selector.Select(poolOf(addresses...), cx).String()
				for _, gone := range addresses {
					left := slices.DeleteFunc(slices.Clone(addresses), func(address string) bool { return address == gone })
					after := selector.Select(poolOf(left...), cx).String()
					if gone != before && after != before {
						t.Errorf("%s, %s: value %d moves from %s to %s when %s goes", test.name, name, i, before, after, gone)
					}
					if gone == before {
						if moved[gone] == nil {
							moved[gone] = make(map[string]bool)
						}
						moved[gone][after] = true
					}
				}
			}
			for _, gone := range addresses { // the values of one do not all fall on one other
				if len(moved[gone]) < min(len(addresses)-1, 3) {
					t.Errorf("%s, %s: the values of %s go to %v", test.name, name, gone, moved[gone])
				}
			}
		}
	}
}

// TestPoliciesAllocate checks that to choose by a value costs no memory.
func TestPoliciesAllocate(t *testing.T) {
	pool := poolOf(upstreamSets["names"]...)
	for _, test := range headPolicies {
		cx := inspected(t, "", test.request("value"))
		selector := headSelector(t, test.policy)
		value := testing.AllocsPerRun(100, func() { _ = headValue(selector.(headPolicy), cx) })
		if all := testing.AllocsPerRun(100, func() { _ = selector.Select(pool, cx) }); all > value {
			t.Errorf("%s: %v allocations, %v of them for the value", test.name, all, value)
		}
	}
}
