package streamprox

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/difftest"
	"github.com/streamprox/caddy-streamprox/internal/headmatch"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// provisionRequestMatcher loads http_request from its JSON.
func provisionRequestMatcher(t testing.TB, sets string) *MatchHTTPRequest {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	loaded, err := ctx.LoadModuleByID("layer4.matchers.http_request", []byte(sets))
	if err != nil {
		t.Fatalf("loading %s: %v", sets, err)
	}
	return loaded.(*MatchHTTPRequest)
}

// matcherPair is a matcher of the HTTP app, and what was made of it.
type matcherPair struct {
	config string
	full   caddyhttp.RequestMatcherWithError
	onHead headmatch.Matcher
}

// matcherPairs returns the matchers of the shared configurations that are answered on
// the head.
func matcherPairs(t *testing.T) []matcherPair {
	t.Helper()
	var pairs []matcherPair
	root := filepath.ToSlash(t.TempDir())
	for _, config := range difftest.MatcherSets() {
		config = strings.ReplaceAll(config, difftest.FilesToken, root)
		for _, set := range provisionRequestMatcher(t, config).sets {
			for _, matcher := range set.full {
				if onHead := headMatcher(matcher); onHead != nil {
					pairs = append(pairs, matcherPair{config, matcher.(caddyhttp.RequestMatcherWithError), onHead})
				}
			}
		}
	}
	return pairs
}

// asHTTPApp reads a head as the HTTP app does: with net/http, and without the fields
// that it drops.
func asHTTPApp(t *testing.T, head string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		t.Fatalf("%q was accepted, net/http says: %v", head, err)
	}
	for name := range r.Header {
		if headmatch.Dropped(name) {
			delete(r.Header, name)
		}
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, new(caddyhttp.Server))
}

// readHead reads a head, strictly if that is possible. It returns nil for what is no
// HTTP.
func readHead(head string) *headmatch.Head {
	for _, lenient := range []bool{false, true} {
		reader := new(httphead.Reader)
		reader.Reset(httphead.Options{Lenient: lenient})
		if data := []byte(head); reader.Read(data) == httphead.HTTP {
			return &headmatch.Head{Data: data, Reader: reader}
		}
	}
	return nil
}

// lenientRequests are requests that a strict reader refuses.
func lenientRequests() []difftest.Request {
	requests := []difftest.Request{
		difftest.NewRequest("folded", "GET / HTTP/1.1", "Host: example.com", "X-Tag: one", " two", "Content-Type: application/grpc", "\t+proto"),
	}
	for _, host := range []string{
		"[::1]:80:90", "[::1]x", "[::1]]", "[[::1]:80", "[::1:80", "[::1]:8[0", "[a]b]:80", "[::1", "::1", "a:b:c", "example.com:80]", "example.com:8[0",
		"[", "[]", "[]:", ":", ":80", "a%20b", "%41.example.com", "",
	} {
		requests = append(requests, difftest.NewRequest("host "+host, "GET /chat HTTP/1.1", "Host: "+host))
	}
	for _, target := range []string{
		"/a/../chat", "/./chat", "/chat/.", "/chat/..", "/chat/./", "/%2e%2e/chat", "/\xc3\x89", "/chat?a=\"1\"", "http://u:p@example.com/chat", "chat:x",
		"http:///chat",
	} {
		requests = append(requests, difftest.NewRequest("target "+target, "GET "+target+" HTTP/1.1", "Host: example.com", "X-Tag: one"))
	}
	return requests
}

// TestHeadMatchersDifferential asserts that what answers on the head answers as the matcher
// of the HTTP app does, or leaves it to that.
func TestHeadMatchersDifferential(t *testing.T) {
	pairs := matcherPairs(t)
	requests := append(difftest.Requests(), lenientRequests()...)
	generator := difftest.NewGenerator(1)
	for range 3000 {
		requests = append(requests, generator.Request())
	}
	var asked, accepted, unsures int
	for _, request := range requests {
		head := readHead(request.Head)
		if head == nil {
			continue
		}
		accepted++
		r := asHTTPApp(t, request.Head)
		for _, pair := range pairs {
			asked++
			got := pair.onHead(head)
			if got == headmatch.Unsure {
				unsures++
				continue
			}
			matched, err := pair.full.MatchWithError(r)
			if err != nil {
				t.Fatalf("%s: %v", pair.config, err)
			}
			if matched != (got == headmatch.Yes) {
				t.Errorf("%s on %s %.500q: got %s, the HTTP app says %v", pair.config, request.Name, request.Head, got, matched)
			}
		}
	}
	t.Logf("%d questions to %d matchers on %d of %d heads, %d of the answers unsure", asked, len(pairs), accepted, len(requests), unsures)
	if asked < 200_000 {
		t.Errorf("asked %d questions, want at least 200000", asked)
	}
	if accepted < len(requests)/2 {
		t.Errorf("accepted %d of %d heads, want at least half", accepted, len(requests))
	}
	if unsures > asked/5 {
		t.Errorf("%d of %d answers are unsure, want at most a fifth", unsures, asked)
	}
}

// browserWebSocket is a WebSocket handshake as a browser sends it.
var browserWebSocket = difftest.NewRequest("browser WebSocket", "GET /chat/room/42?token=c2Vzc2lvbi10b2tlbg HTTP/1.1",
	"Host: chat.example.com",
	"Connection: keep-alive, Upgrade",
	"Pragma: no-cache",
	"Cache-Control: no-cache",
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
	"Upgrade: websocket",
	"Origin: https://chat.example.com",
	"Sec-WebSocket-Version: 13",
	"Accept-Encoding: gzip, deflate, br, zstd",
	"Accept-Language: en-US,en;q=0.9",
	"Cookie: sid=0123456789abcdef",
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	"Sec-WebSocket-Extensions: permessage-deflate")

// TestHeadMatchersDecide asserts that what answers on the head leaves no ordinary request to
// the matcher of the HTTP app.
func TestHeadMatchersDecide(t *testing.T) {
	ordinary := []difftest.Request{
		browserWebSocket,
		difftest.NewRequest("curl", "GET /chat?a=1&b=%20x HTTP/1.1", "Host: 127.0.0.1:8080", "User-Agent: curl/8.0", "Accept: */*"),
		difftest.NewRequest("upload", "POST /API/v1/Upload%20file HTTP/1.1", "Host: EXAMPLE.com:443", "Content-Type: application/json", "Content-Length: 5"),
		difftest.NewRequest("grpc", "POST /pkg.Service/Method HTTP/1.1", "Host: example.com", "Content-Type: application/grpc", "Transfer-Encoding: chunked"),
		difftest.NewRequest("IPv6", "GET / HTTP/1.1", "Host: [2001:db8::1]:8080"),
		difftest.NewRequest("hidden", "GET /.well-known/acme-challenge/x HTTP/1.1", "Host: example.com"),
		difftest.NewRequest("slashes", "GET //a///b/ HTTP/1.1", "Host: example.com"),
		difftest.NewRequest("absolute form", "GET http://example.com/chat HTTP/1.1", "Host: example.com"),
		difftest.NewRequest("HTTP 1.0 without Host", "GET /chat.php HTTP/1.0"),
	}
	pairs := matcherPairs(t)
	for _, request := range ordinary {
		t.Run(request.Name, func(t *testing.T) {
			head := readHead(request.Head)
			if head == nil {
				t.Fatalf("%q: not accepted as HTTP", request.Head)
			}
			for _, pair := range pairs {
				if pair.onHead(head) == headmatch.Unsure {
					t.Errorf("%s on %q: unsure", pair.config, request.Head)
				}
			}
		})
	}
}

// TestHeadMatchersCompile asserts which matchers are answered on the head.
func TestHeadMatchersCompile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths are left to the HTTP app's matcher on Windows")
	}
	tests := []struct {
		name, sets string
		whole      bool
	}{
		{"constants", `[{"path":["/chat/*"],"host":["*.example.com"],"method":["GET"],"header":{"Upgrade":["websocket"]},"query":{"a":["*"]},"protocol":"http/1.1"}]`, true},
		{"negated constants", `[{"not":[{"path":["/chat/*"]},{"host":["example.com"],"method":["GET"]}]}]`, true},
		{"placeholder in a path", `[{"path":["/{http.request.host}"]}]`, false},
		{"placeholder in a host", `[{"host":["{http.request.header.X-Tag}.example.com"]}]`, false},
		{"placeholder in a field", `[{"header":{"X-Tag":["one","{http.request.method}"]}}]`, false},
		{"placeholder in a parameter", `[{"query":{"a":["{http.request.host}"]}}]`, false},
		{"placeholder in the name of a parameter", `[{"query":{"{http.request.host}":["1"]}}]`, false},
		{"negated placeholder", `[{"not":[{"method":["GET"]},{"host":["{http.request.header.X-Tag}"]}]}]`, false},
		{"encoded byte in a path", `[{"path":["/a%2fb"]}]`, false},
		{"field that net/http changes", `[{"header":{"cache-control":["no-cache"]}}]`, false},
		{"no parameters", `[{"query":{}}]`, false},
		{"regular expression", `[{"path_regexp":{"pattern":"^/chat"}}]`, false},
		{"regular expression beside a constant", `[{"method":["GET"],"path_regexp":{"pattern":"^/chat"}}]`, false},
		{"negated regular expression", `[{"not":[{"path_regexp":{"pattern":"^/chat"}}]}]`, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := provisionRequestMatcher(t, test.sets).sets[0].whole; got != test.whole {
				t.Errorf("%s answered on the head: got %v, want %v", test.sets, got, test.whole)
			}
		})
	}
}

// TestHeadMatchersAllocate asserts that constant matchers allocate nothing once the head
// has been read.
func TestHeadMatchersAllocate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths are left to the HTTP app's matcher on Windows")
	}
	matcher := provisionRequestMatcher(t, `[{"path":["/chat/*"],"host":["*.example.com"],"header":{"Upgrade":["websocket"],"Origin":["https://*"]}}]`)
	data := []byte(browserWebSocket.Head)
	if len(data) < 540 || len(data) > 580 {
		t.Fatalf("the head has %d bytes, want about 560", len(data))
	}
	var head httphead.Reader
	head.Reset(httphead.Options{})
	if got := head.Read(data); got != httphead.HTTP {
		t.Fatalf("reading %q: got %v, want http", data, got)
	}
	request := new(httpRequest)
	connection := func() (*layer4.Connection, error) {
		t.Error("the connection was asked for")
		return nil, errNeedsStream
	}
	allocations := testing.AllocsPerRun(100, func() {
		request.head.Reset(data, &head, false) // forgets the path that the last run has made
		if matched, err := matcher.match(request, connection, false); !matched || err != nil {
			t.Fatalf("got %v, %v, want a match", matched, err)
		}
	})
	if allocations != 0 {
		t.Errorf("got %v allocations, want 0", allocations)
	}
}

// TestRequestMatcherServerState asserts that matchers which ask the HTTP server for
// something get the answer of one with default settings.
func TestRequestMatcherServerState(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: 10.1.2.3\r\n\r\n"
	v4 := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4000}
	v6 := &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 4000}
	unix := &net.UnixAddr{Net: "unix", Name: "@"}
	tests := []struct {
		name, sets string
		peer       net.Addr
		want       bool
	}{
		{"client_ip is the peer", `[{"client_ip":{"ranges":["192.0.2.1"]}}]`, v4, true},
		{"client_ip is another peer", `[{"client_ip":{"ranges":["192.0.2.1"]}}]`, v6, false},
		{"client_ip is a peer with a zone", `[{"client_ip":{"ranges":["fe80::/10"]}}]`, v6, true},
		{"client_ip is not what a field says", `[{"client_ip":{"ranges":["10.0.0.0/8"]}}]`, v4, false},
		{"variable client_ip", `[{"vars":{"client_ip":["192.0.2.1"]}}]`, v4, true},
		{"variable client_ip on a Unix socket", `[{"vars":{"client_ip":[""]}}]`, unix, true},
		{"not shutting down", `[{"vars":{"{http.shutting_down}":["false"]}}]`, v4, true},
		{"time until shutdown", `[{"vars":{"{http.time_until_shutdown}":[""]}}]`, v4, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cx := layer4.WrapConnection(clientConn{remote: test.peer}, []byte(head), zap.NewNop())
			if got, err := provisionRequestMatcher(t, test.sets).Match(cx); got != test.want || err != nil {
				t.Errorf("%s: got %v, %v, want %v", test.sets, got, err, test.want)
			}
		})
	}
}

// TestPrefetchedHeadAllocations checks what http_request costs without inspect, on a
// fresh connection: the state that it keeps there, and the connection's first variable.
// Further packets and further matchers cost nothing.
func TestPrefetchedHeadAllocations(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths are left to the HTTP app's matcher on Windows")
	}
	matching := layer4.MatcherSet{provisionRequestMatcher(t, browserCondition)}
	other := layer4.MatcherSet{provisionRequestMatcher(t, `[{"path":["/other"]}]`)}
	data := []byte(browserWebSocket.Head)
	connection := func() *layer4.Connection {
		return layer4.WrapConnection(clientConn{}, data, zap.NewNop())
	}
	match := func(cx *layer4.Connection, m layer4.MatcherSet, want bool) {
		if got, err := m.Match(cx); got != want || err != nil {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}

	alone := testing.AllocsPerRun(100, func() { connection() })
	fresh := testing.AllocsPerRun(100, func() { match(connection(), matching, true) })
	const most = 2
	if got := fresh - alone; got > most {
		t.Errorf("on a fresh connection: got %v allocations, want at most %d", got, most)
	}

	cx := connection()
	match(cx, matching, true)
	if got := testing.AllocsPerRun(100, func() { match(cx, other, false); match(cx, matching, true) }); got != 0 {
		t.Errorf("once the head is read: got %v allocations, want 0", got)
	}
}

// browserCondition is a path prefix, a host and a field of browserWebSocket.
const browserCondition = `[{"path":["/chat/*"],"host":["chat.example.com"],"header":{"Upgrade":["websocket"]}}]`

// BenchmarkReadAndMatch reads a browser's WebSocket head and matches it by path, host
// and field: in the steady state after inspect, and with caddy-l4's http matcher. bench
// has more peers, and whole handlers.
func BenchmarkReadAndMatch(b *testing.B) {
	data := []byte(browserWebSocket.Head)
	b.Run("http_request", func(b *testing.B) {
		matcher := provisionRequestMatcher(b, browserCondition)
		var head httphead.Reader
		request := new(httpRequest)
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			head.Reset(httphead.Options{})
			if head.Read(data) != httphead.HTTP {
				b.Fatal("not a head")
			}
			request.head.Reset(data, &head, false)
			if matched, _ := matcher.match(request, nil, false); !matched {
				b.Fatal("no match")
			}
		}
	})
	b.Run("caddy-l4's http", func(b *testing.B) {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		defer cancel()
		module, err := ctx.LoadModuleByID("layer4.matchers.http", []byte(browserCondition))
		if err != nil {
			b.Fatal(err)
		}
		matchers := layer4.MatcherSet{module.(layer4.ConnMatcher)}
		cx := layer4.WrapConnection(clientConn{}, data, zap.NewNop())
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			cx.SetVar(stockHTTPRequestVar, nil) // what it remembers of the request before
			if matched, err := matchers.Match(cx); !matched {
				b.Fatal("no match", err)
			}
		}
	})
}

// TestPrefetchedHeadTooLarge checks that http_request without inspect matches no request
// with more fields than inspect would read, and asks for no more bytes of it.
func TestPrefetchedHeadTooLarge(t *testing.T) {
	matcher := provisionRequestMatcher(t, `[{"path":["/*"]}]`)
	for fields, want := range map[int]bool{255: true, 256: false, 1000: false} {
		data := []byte("GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("z:\r\n", fields) + "\r\n")
		if got, err := matcher.Match(layer4.WrapConnection(clientConn{}, data, zap.NewNop())); got != want || err != nil {
			t.Errorf("Host and %d more fields: got %v, %v, want %v", fields, got, err, want)
		}
	}
}

func TestInspectedJSONErrors(t *testing.T) {
	inspect := func(fields string) string { return `{"handler":"inspect",` + fields + `}` }
	inspected := func(outcomes string) string {
		return inspect(`"routes":[{"match":[{"inspected":` + outcomes + `}],"handle":[{"handler":"echo"}]}]`)
	}
	checkJSON(t, []jsonCase{
		{"none", inspected(`[]`), "inspected needs at least one outcome"},
		{"null", inspected(`null`), "module value cannot be null"},
		{"unknown", inspected(`["http","quic"]`), `unknown outcome "quic": use one of http, tls`},
		{"no array", inspected(`"http"`), "inspected"},
		{"outside inspect", `{"handler":"subroute","routes":[{"match":[{"inspected":["http"]}]}]}`, ""},
	})
}

func TestHTTPRequestJSONErrors(t *testing.T) {
	inspect := func(fields string) string { return `{"handler":"inspect",` + fields + `}` }
	request := func(fields, sets string) string {
		return inspect(fields + `"routes":[{"match":[{"http_request":` + sets + `}],"handle":[{"handler":"echo"}]}]`)
	}
	checkJSON(t, []jsonCase{
		{"unknown matcher", request("", `[{"nonsense":{}}]`), "http.matchers.nonsense"},
		{"no array", request("", `{"path":["/a"]}`), "http_request"},
		{"several sets", request("", `[{"path":["/a"]},{"host":["a"]}]`), ""},
	})
}
