package streamprox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// inspectIn returns the only inspect of a configuration.
func inspectIn(t *testing.T, ctx caddy.Context) *Inspect {
	t.Helper()
	listener, err := findListener(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range listener.routes.own {
		if inspect, ok := h.live.(*Inspect); ok {
			return inspect
		}
	}
	t.Fatal("there is no inspect")
	return nil
}

// decide makes the decision of an inspect about a request from 192.0.2.1.
func decide(t *testing.T, h *Inspect, request string) {
	t.Helper()
	conn := &givenConn{
		data:   []byte(request),
		local:  &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080},
		remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000},
	}
	in, err := h.inspect(layer4.WrapConnection(conn, nil, zap.NewNop()))
	if err != nil {
		t.Fatal(err)
	}
	in.keepDecision()
}

// replayTo takes decisions of one Caddyfile to another.
func replayTo(t *testing.T, from, to string, requests ...string) *replayAnswer {
	t.Helper()
	var kept *keptDecisions
	apps := func(caddyfile string) string {
		adapted, err := adaptConfig(caddyfile)
		if err != nil {
			t.Fatal(err)
		}
		return adapted
	}
	whileProvisioned(t, apps(from), func(ctx caddy.Context) {
		h := inspectIn(t, ctx)
		for _, request := range requests {
			decide(t, h, request)
		}
		kept = allKept(0)
	})
	var answer *replayAnswer
	whileProvisioned(t, apps(to), func(ctx caddy.Context) {
		var err error
		if answer, err = replayKept(ctx, kept); err != nil {
			t.Fatal(err)
		}
	})
	return answer
}

// TestReplayPage does what replay.md shows, and compares what is printed.
func TestReplayPage(t *testing.T) {
	page, err := os.ReadFile("docs/replay.md")
	if err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile("(?s)```caddyfile\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	shown := regexp.MustCompile("(?s)```\n\\$ caddy streamprox replay --config new.caddyfile\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(files) != 2 || len(shown) != 1 {
		t.Fatalf("got %d configurations and %d commands, want 2 and 1", len(files), len(shown))
	}
	request := func(path, fields string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: example.com\r\n" + fields + "\r\n"
	}
	answer := replayTo(t, files[0][1], files[1][1],
		request("/", ""), request("/style.css", ""), request("/chat/lobby", ""),
		request("/chat/room/1", "Cookie: sid=1\r\n"), request("/chat/room/2?token=x", ""), request("/about", "X-Beta: no\r\n"))
	if got := answer.text(); got != shown[0][1] {
		t.Errorf("got\n%s\nwant\n%s", got, shown[0][1])
	}
	for _, flag := range regexp.MustCompile("--[a-z]+").FindAllString(replayCommand().Flags().FlagUsages(), -1) {
		if !strings.Contains(string(page), "`"+flag+"`") {
			t.Errorf("nothing about %s", flag)
		}
	}
}

// TestReplayManyRoutes: the matchers of a configuration are loaded once, not for each of
// thousands of decisions, which would take longer than an answer may.
func TestReplayManyRoutes(t *testing.T) {
	const routes = 50
	var config strings.Builder
	for i := range routes {
		fmt.Fprintf(&config, "@r%d http_request {\npath /%d/*\npath_regexp ^/%d/[a-z]+$\nhost h%d.example\n}\nroute @r%d {\nclose\n}\n", i, i, i, i, i)
	}
	adapted, err := adaptConfig("{\nlayer4 {\n:8080 {\nroute {\ninspect {\nreplay 3\n" + config.String() + "route {\nhttp_respond 404\n}\n}\n}\n}\n}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	whileProvisioned(t, adapted, func(ctx caddy.Context) {
		decide(t, inspectIn(t, ctx), "GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
		kept := allKept(0)
		kept.Decisions[0].Asked = nil // no answer of then helps
		memory, forget := newKeptMemory(ctx)
		defer forget()
		each := testing.AllocsPerRun(10, func() {
			if _, to, err := explainKept(memory, "", kept.Decisions[0], kept.Facts); err != nil || to != kept.Decisions[0].To {
				t.Errorf("it goes to %v (%v)", to, err)
			}
		})
		if each /= routes; each > 50 {
			t.Errorf("a route takes %.0f allocations", each)
		}
	})
}

// TestReplayMatchers takes a request to a route with other matchers than then, and holds what
// is known of their answers.
func TestReplayMatchers(t *testing.T) {
	const request = "GET /Chat/a%20b?q=1 HTTP/1.1\r\nHost: a.example\r\nX-Tenant: gold\r\nCookie: sid=1\r\n\r\n"
	const plain = "GET /x HTTP/1.1\r\nHost: b.example:8080\r\n\r\n"
	const tls = "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"
	const yes, no, unknown = replayElsewhere, replaySame, replayUnknown
	for _, test := range []struct {
		matchers string
		request  string
		want     string
	}{
		{"http_request path /chat/*", request, yes},
		{"http_request path /x", request, no},
		{"http_request path /{http.request.header.X-Tenant}", request, unknown},
		{"http_request path_regexp ^/Chat/.*b$", request, yes},
		{"http_request host a.example", request, yes},
		{"http_request host b.example", plain, yes},
		{"http_request host c.example", plain, no},
		{"http_request method POST", request, no},
		{"http_request method GET", request, yes},
		{"http_request protocol http/1.1", request, yes},
		{"http_request protocol grpc", request, unknown},
		{"http_request query q=1", request, unknown},
		{"http_request query q=1", plain, no},
		{"http_request header X-Tenant gold", request, unknown},
		{"http_request header x-tenant *", request, unknown},
		{"http_request header X-Tenant gold", plain, no},
		{"http_request header !X-Tenant", plain, yes},
		{"http_request header_regexp Cookie sid=.", request, unknown},
		{"http_request header_regexp Cookie sid=.", plain, no},
		{"http_request expression `{http.request.method} == \"GET\"`", request, unknown},
		{"http_request remote_ip 192.0.2.0/24", request, yes},
		{"http_request {\npath /x\nheader X-Tenant gold\n}", request, no},
		{"http_request {\npath /chat/*\nheader X-Tenant gold\n}", request, unknown},
		{"http_request {\npath /chat/*\nnot header X-Tenant tin\n}", request, unknown},
		{"http_request {\npath /x\nnot header X-Tenant tin\n}", plain, yes},
		{"remote_ip 192.0.2.0/24", request, yes},
		{"remote_ip 10.0.0.0/8", request, no},
		{"not remote_ip 10.0.0.0/8", request, yes},
		{"not http_request header X-Tenant gold", request, unknown},
		{"not http_request path /chat/*", request, no},
		{"http path /x", request, no},
		{"http header X-Tenant gold", request, unknown},
		{"ssh", request, no},
		{"tls", request, no},
		{"tls", tls, yes},
		{"tls sni a.example", tls, unknown},
		{"tls sni a.example", request, no},
		{"inspected http", request, yes},
		{"inspected tls", request, no},
		{"inspected tls", tls, yes},
		{"regexp ^GET", request, unknown},
		{"clock 00:00:00 23:59:59", request, unknown},
		{"http_request path /x", tls, no},
		{"inspected other", "\x00\x00", yes},
		{"ssh", "SSH-2.0-x\r\n", unknown},
		{"http_request path /x", "SSH-2.0-x\r\n", no},
		{"http_request method CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", yes},
		{"http_request path /x", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", no},
		{"http_request header X-Tenant gold", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", no},
		{"inspected silent", "", yes},
		{"inspected timeout", "GET / HT", yes},
		{"inspected malformed", "GET  / HTTP/1.1\r\n\r\n", yes},
		{"inspected http2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", yes},
		{"inspected too_large", "GET /" + strings.Repeat("x", 20_000), yes},
		// What is longer than what is kept has no path, and the method alone.
		{"http_request path /x", "GET /" + strings.Repeat("x", 5000) + " HTTP/1.1\r\nHost: a\r\n\r\n", unknown},
		{"inspected http", "GET /" + strings.Repeat("x", 5000) + " HTTP/1.1\r\nHost: a\r\n\r\n", yes},
		{"http_request header X-Tenant gold", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X-"+strings.Repeat("y", 100)+": z\r\n", 40) + "\r\n", unknown},
	} {
		name := test.matchers + "/" + test.request[:min(len(test.request), 20)]
		t.Run(name, func(t *testing.T) {
			site := func(route string) string {
				return "{\nlayer4 {\n:8080 {\nroute {\ninspect {\nreplay 10\n" + route + "route {\nrelay 10.0.0.1:1\n}\n}\n}\n}\n}\n}\n"
			}
			answer := replayTo(t, site(""), site("@m "+test.matchers+"\nroute @m {\nrelay 10.0.0.2:2\n}\n"), test.request)
			got := replaySame
			if len(answer.Rows) > 0 {
				got = answer.Rows[0].Answer
			}
			if got != test.want || answer.Decisions != 1 {
				t.Errorf("got %q of %d, want %q: %+v", got, answer.Decisions, test.want, answer.Moves)
			}
		})
	}
}

// TestReplayKeeps holds what is kept of a head: no value, no query, and no more than the bound.
func TestReplayKeeps(t *testing.T) {
	adapted, err := adaptConfig("{\nlayer4 {\n:8080 {\nroute {\ninspect {\nreplay 3\nlenient\nroute {\nrelay 10.0.0.1:1\n}\n}\n}\n}\n}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	whileProvisioned(t, adapted, func(ctx caddy.Context) {
		h := inspectIn(t, ctx)
		for _, request := range []string{
			"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n",
			"GET http://user:secret@a.example/path?secret HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"POST /p?secret=1 HTTP/1.1\r\nHost: a.example\r\nAuthorization: secret\r\nCookie: secret\r\nContent-Length: 6\r\n\r\nsecret",
			"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X-"+strings.Repeat("y", 100)+": secret\r\n", 100) + "\r\n",
		} {
			decide(t, h, request)
		}
		kept, err := json.Marshal(allKept(0))
		if err != nil {
			t.Fatal(err)
		}
		for _, not := range []string{"secret", "gone", "user"} {
			if bytes.Contains(kept, []byte(not)) {
				t.Errorf("%s is kept: %s", not, kept)
			}
		}
		if n := len(allKept(0).Decisions); n != 3 {
			t.Errorf("got %d decisions, want 3", n)
		}
		for _, d := range h.ring.slots {
			if len(d.head) > maxKeptHead {
				t.Errorf("%d bytes of a head are kept, want at most %d", len(d.head), maxKeptHead)
			}
		}
	})
	if kept := allKept(0); len(kept.Decisions) > 0 {
		t.Errorf("%d decisions are kept after the configuration", len(kept.Decisions))
	}
}

// TestReplayOff keeps nothing and allocates nothing.
func TestReplayOff(t *testing.T) {
	h := new(Inspect)
	in := new(inspection)
	in.init(continuation{h, origin{}}, nil, []byte(explainedGET), false)
	if n := testing.AllocsPerRun(100, in.keepDecision); n != 0 || in.turn.decision != nil {
		t.Errorf("got %v allocations, want none", n)
	}
}

// TestExplainKeptPolicy does not name an upstream that depends on what is not kept.
func TestExplainKeptPolicy(t *testing.T) {
	for relay, want := range map[string]string{
		"relay 10.0.0.1:1 10.0.0.2:2 {\nlb_policy header X-Tenant\n}": "",
		"relay 10.0.0.1:1 10.0.0.2:2 {\nlb_policy uri_hash\n}":        "",
		"relay 10.0.0.1:1 10.0.0.2:2 {\nlb_policy first\n}":           "10.0.0.1:1",
		"relay {l4.http.header.X-To}:1 {\ndial_allow 10.0.0.0/8\n}":   "",
		"relay 10.0.0.1:1 {\nlb_policy header X-Tenant\n}":            "10.0.0.1:1",
	} {
		adapted, err := adaptConfig("{\nlayer4 {\n:8080 {\nroute {\ninspect {\nreplay 3\nroute {\n" + relay + "\n}\n}\n}\n}\n}\n}\n")
		if err != nil {
			t.Fatal(err)
		}
		whileProvisioned(t, adapted, func(ctx caddy.Context) {
			decide(t, inspectIn(t, ctx), "GET /?q HTTP/1.1\r\nHost: a\r\nX-Tenant: gold\r\nX-To: 10.0.0.9\r\n\r\n")
			kept := allKept(0)
			memory, forget := newKeptMemory(ctx)
			defer forget()
			e, _, err := explainKept(memory, "", kept.Decisions[0], kept.Facts)
			if err != nil {
				t.Fatal(err)
			}
			if e.Destination.Kind != toRelay || e.Destination.Address != want {
				t.Errorf("%s: got %+v, want %q", relay, e.Destination, want)
			}
		})
	}
}
