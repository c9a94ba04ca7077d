package integration

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/difftest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// How many requests are generated, and how many of them are also given byte by byte.
const (
	generatedRequests = 2000
	bytewiseRequests  = 40
)

// TestMatchersDifferential asserts that http_request answers as a running HTTP server
// of Caddy answers for the same bytes: for each matcher configuration, on requests
// with a name and on generated ones, with and without TLS.
func TestMatchersDifferential(t *testing.T) {
	configs := matcherConfigs(t)
	app := startMatcherServer(t, map[string]any{"routes": matcherRoutes(configs)})
	matchers := loadRequestMatchers(t, configs)
	growing := loadMatcherRoutes(t, configs)
	seen := newAnswersSeen(configs)

	for _, listener := range []struct {
		name string
		dial func(*testing.T) *clientSide
	}{
		{"plain", app.dialPlain},
		{"TLS", app.dialTLS},
	} {
		for _, request := range difftest.Requests() {
			t.Run(listener.name+"/"+request.Name, func(t *testing.T) {
				client := listener.dial(t)
				want, got := client.ask(t, request), matchers.ask(t, client, request)
				if !compareAnswers(t, configs, request, got, want) {
					return
				}
				seen.add(want)
				if client.tls == nil && len(request.Head) < 1000 {
					growing.compare(t, client, request, got)
				}
			})
		}
	}

	t.Run("generated", func(t *testing.T) {
		accepted, compared := 0, 0
		generator := difftest.NewGenerator(2)
		for range generatedRequests {
			request := generator.Request()
			client := app.dialPlain(t)
			want, got := client.ask(t, request), matchers.ask(t, client, request)
			client.Close()
			if got.routed {
				accepted++
			}
			if !compareAnswers(t, configs, request, got, want) {
				continue
			}
			seen.add(want)
			if compared++; compared <= bytewiseRequests {
				growing.compare(t, client, request, got)
			}
		}
		t.Logf("%d of %d requests accepted", accepted, generatedRequests)
		if accepted < generatedRequests/2 {
			t.Errorf("accepted %d of %d requests, want at least half", accepted, generatedRequests)
		}
	})
	if !t.Failed() {
		seen.check(t)
	}
}

// matcherConfigs returns the matcher configurations, with the files they look for.
func matcherConfigs(t *testing.T) []string {
	t.Helper()
	root := matcherFiles(t)
	configs := difftest.MatcherSets()
	for i := range configs {
		configs[i] = strings.ReplaceAll(configs[i], difftest.FilesToken, root)
	}
	return configs
}

// matcherFiles returns a directory with the files of the matcher configurations.
func matcherFiles(t *testing.T) string {
	t.Helper()
	root := filepath.ToSlash(t.TempDir()) // as it stands in JSON
	for _, name := range difftest.Files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// answers are the answers to one request.
type answers struct {
	routed  bool  // it reached the routes: http_request without matchers matches
	matched []int // the configurations that match, by index
	status  int   // of the HTTP server's response
}

// compareAnswers reports whether both sides took the request and agree.
func compareAnswers(t *testing.T, configs []string, request difftest.Request, got, want answers) bool {
	t.Helper()
	if !got.routed {
		if len(got.matched) > 0 {
			t.Errorf("%s %q: refused, but configurations %d match", request.Name, request.Head, got.matched)
		}
		return false // it is not strict: nothing to compare
	}
	if !want.routed {
		if answeredUnrouted(request, want.status) == "" {
			t.Errorf("%s %q: accepted, but Caddy answers %d before it routes", request.Name, request.Head, want.status)
		}
		return false
	}
	agree := true
	for i, config := range configs {
		got, want := slices.Contains(got.matched, i), slices.Contains(want.matched, i)
		if got != want {
			t.Errorf("%s on %s %.500q: got %v, want %v", config, request.Name, request.Head, got, want)
			agree = false
		}
	}
	return agree
}

// answeredUnrouted says why the HTTP server answers a request without asking its
// routes although http_request sees it; TestRequestsNotRouted has an example of each.
// It is "" if there is no known reason.
func answeredUnrouted(request difftest.Request, status int) string {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request.Head)))
	if err != nil {
		return ""
	}
	switch expect := r.Header.Get("Expect"); {
	case status == http.StatusOK && r.Method == http.MethodOptions && r.RequestURI == "*":
		return "net/http answers OPTIONS * itself"
	case status == http.StatusExpectationFailed && expect != "" && !strings.EqualFold(expect, "100-continue"):
		return "net/http refuses the expectation"
	}
	return ""
}

// TestRequestsNotRouted documents the requests that http_request matches and that the
// HTTP app answers before it asks its matchers.
func TestRequestsNotRouted(t *testing.T) {
	tests := []struct {
		name   string
		line   string
		fields []string
		status int
	}{
		{"OPTIONS of the server", "OPTIONS * HTTP/1.1", []string{"Host: example.com"}, http.StatusOK},
		{"unknown expectation", "GET / HTTP/1.1", []string{"Host: example.com", "Expect: else"}, http.StatusExpectationFailed},
	}
	app := startMatcherServer(t, map[string]any{"routes": matcherRoutes(nil)})
	matchers := loadRequestMatchers(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			request := difftest.NewRequest(test.name, test.line, test.fields...)
			client := app.dialPlain(t)
			theirs, ours := client.ask(t, request), matchers.ask(t, client, request)
			if theirs.routed || theirs.status != test.status {
				t.Errorf("Caddy: routed %v, status %d, want not routed, %d", theirs.routed, theirs.status, test.status)
			}
			if !ours.routed {
				t.Error("http_request does not match: no exception any more")
			}
			if answeredUnrouted(request, theirs.status) == "" {
				t.Error("answeredUnrouted knows no reason")
			}
		})
	}
}

// TestMatchersThatDiffer documents the matchers whose answer depends on what only a
// configured HTTP server has. http_request answers as a server with default settings
// does, to the first of its routes, before it has read the body.
func TestMatchersThatDiffer(t *testing.T) {
	get := difftest.NewRequest("", "GET / HTTP/1.1", "Host: example.com", "X-Forwarded-For: 10.1.2.3", "X_Tag: one")
	post := difftest.NewRequest("", "POST / HTTP/1.1", "Host: example.com", "Content-Length: 5")
	tests := []struct {
		name    string
		server  string // settings of the HTTP server
		before  string // a route before the one that asks
		sets    string // Caddy: match; http_request: no match
		request difftest.Request
	}{
		{
			name:    "client_ip with trusted proxies",
			server:  `{"trusted_proxies":{"source":"static","ranges":["127.0.0.0/8"]}}`,
			sets:    `[{"client_ip":{"ranges":["10.0.0.0/8"]}}]`,
			request: get,
		},
		{
			name:    "header with expected_underscore_headers",
			server:  `{"expected_underscore_headers":["X_Tag"]}`,
			sets:    `[{"header":{"X_Tag":["one"]}}]`,
			request: get,
		},
		{
			name:    "vars after a handler that sets one",
			before:  `{"handle":[{"handler":"vars","tenant":"acme"}]}`,
			sets:    `[{"vars":{"tenant":["acme"]}}]`,
			request: get,
		},
		{
			name:    "vars_regexp after a handler that sets one",
			before:  `{"handle":[{"handler":"vars","tenant":"acme"}]}`,
			sets:    `[{"vars_regexp":{"tenant":{"pattern":"^ac"}}}]`,
			request: get,
		},
		{
			name:    "file after a handler that sets the root",
			before:  `{"handle":[{"handler":"vars","root":"FILES"}]}`,
			sets:    `[{"file":{"try_files":["/index.php"]}}]`,
			request: get,
		},
		{
			name:    "path after a handler that rewrites it",
			before:  `{"handle":[{"handler":"rewrite","uri":"/else"}]}`,
			sets:    `[{"path":["/else"]}]`,
			request: get,
		},
		{
			name:    "header after a handler that sets it",
			before:  `{"handle":[{"handler":"headers","request":{"set":{"X-Tag":["one"]}}}]}`,
			sets:    `[{"header":{"X-Tag":["one"]}}]`,
			request: get,
		},
		{
			name:    "placeholder of an earlier route's regular expression",
			before:  `{"match":[{"path_regexp":{"name":"re","pattern":"^(/)"}}]}`,
			sets:    `[{"vars":{"{http.regexp.re.1}":["/"]}}]`,
			request: get,
		},
		{
			name:    "placeholder of the body",
			sets:    `[{"vars":{"{http.request.body}":["hello"]}}]`,
			request: post,
		},
		{
			name:    "placeholder of the response",
			sets:    `[{"vars":{"{http.response.header.Server}":["Caddy"]}}]`,
			request: get,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			settings := map[string]any{}
			if test.server != "" {
				if err := json.Unmarshal([]byte(test.server), &settings); err != nil {
					t.Fatal(err)
				}
			}
			routes := matcherRoutes([]string{test.sets})
			if test.before != "" {
				before := strings.ReplaceAll(test.before, difftest.FilesToken, matcherFiles(t))
				routes = append([]any{json.RawMessage(before)}, routes...)
			}
			settings["routes"] = routes
			client := startMatcherServer(t, settings).dialPlain(t)
			theirs, ours := client.ask(t, test.request), loadRequestMatchers(t, []string{test.sets}).ask(t, client, test.request)
			if len(theirs.matched) == 0 {
				t.Errorf("Caddy: %s does not match", test.sets)
			}
			if len(ours.matched) > 0 {
				t.Errorf("http_request: %s matches, as in Caddy: no exception any more", test.sets)
			}
		})
	}
}

// TestMatcherErrors asserts that a matcher that fails in the HTTP app, which then asks
// no other, fails in http_request.
func TestMatcherErrors(t *testing.T) {
	request := difftest.NewRequest("", "GET / HTTP/1.1", "Host: example.com")
	tests := []struct {
		name, sets string
		status     int
	}{
		{"file with a status", `[{"file":{"root":"/","try_files":["/none-such","=418"]}}]`, http.StatusTeapot},
		{"expression without a value", `[{"expression":"{http.request.uri.query.a}[0] == 'x'"}]`, http.StatusInternalServerError},
		{"failure within not", `[{"not":[{"file":{"root":"/","try_files":["/none-such","=418"]}}]}]`, http.StatusTeapot},
		{"failure before a set that matches", `[{"file":{"root":"/","try_files":["/none-such","=418"]}},{}]`, http.StatusTeapot},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			routes := matcherRoutes([]string{test.sets})
			client := startMatcherServer(t, map[string]any{"routes": routes}).dialPlain(t)
			if got := client.ask(t, request); got.routed || got.status != test.status {
				t.Errorf("Caddy: reached the last route: %v, status %d, want %d", got.routed, got.status, test.status)
			}
			matcher := loadRequestMatchers(t, []string{test.sets}).matchers[0]
			matched, err := matcher.Match(client.layer4Connection([]byte(request.Head), ""))
			if matched || err == nil {
				t.Errorf("http_request: got %v, %v, want an error", matched, err)
			}
			var failed caddyhttp.HandlerError
			if errors.As(err, &failed) && failed.StatusCode != test.status {
				t.Errorf("http_request: got an error with status %d, want %d", failed.StatusCode, test.status)
			}
		})
	}
}

// Fields of the responses of the HTTP server.
const (
	matchedField = "X-Matched" // a configuration that matches, by index
	routedField  = "X-Routed"  // the request reached the last route
)

type object = map[string]any

// matcherRoutes returns HTTP routes that say in the response which of the
// configurations match.
func matcherRoutes(configs []string) []any {
	add := func(field, value string) object {
		return object{"handler": "headers", "response": object{"add": object{field: []string{value}}}}
	}
	var routes []any
	for i, config := range configs {
		routes = append(routes, object{"match": json.RawMessage(config), "handle": []any{add(matchedField, strconv.Itoa(i))}})
	}
	return append(routes, object{"handle": []any{add(routedField, "yes"), object{"handler": "static_response"}}})
}

// matcherServer is a running HTTP server of Caddy, by its addresses.
type matcherServer struct{ plain, tls string }

// startMatcherServer starts an HTTP server with the given settings, without TLS and
// with.
func startMatcherServer(t *testing.T, settings object) matcherServer {
	t.Helper()
	app := matcherServer{plain: freeport.Address(t), tls: freeport.Address(t)}
	settings["listen"] = []string{app.plain}
	settings["protocols"] = []string{"h1"}
	settings["automatic_https"] = object{"disable": true}
	withTLS := object{"listen": []string{app.tls}, "tls_connection_policies": []any{object{}}}
	for name, value := range settings {
		if withTLS[name] == nil {
			withTLS[name] = value
		}
	}
	certificate, key := selfSigned(t)
	startConfig(t, object{"apps": object{
		"http": object{"servers": object{"plain": settings, "tls": withTLS}},
		"tls":  object{"certificates": object{"load_pem": []any{object{"certificate": certificate, "key": key}}}},
	}})
	return app
}

// selfSigned returns a certificate for example.com and its key, in PEM.
func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// clientSide is a client's connection to a matcherServer.
type clientSide struct {
	net.Conn
	tls *tls.ConnectionState // nil without TLS
}

func (s matcherServer) dialPlain(t *testing.T) *clientSide {
	t.Helper()
	return &clientSide{Conn: dial(t, s.plain)}
}

func (s matcherServer) dialTLS(t *testing.T) *clientSide {
	t.Helper()
	conn := tls.Client(dial(t, s.tls), &tls.Config{ServerName: "example.com", InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatalf("TLS handshake: %v", err)
	}
	state := conn.ConnectionState()
	return &clientSide{Conn: conn, tls: &state}
}

// ask sends a request and returns the HTTP server's answers.
func (c *clientSide) ask(t *testing.T, request difftest.Request) answers {
	t.Helper()
	if _, err := io.WriteString(c, request.Head+request.Body); err != nil {
		t.Fatalf("sending %q: %v", request.Head, err)
	}
	response, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: request.Method()})
	if err != nil {
		t.Fatalf("response to %q: %v", request.Head, err)
	}
	response.Body.Close()
	got := answers{routed: response.Header.Get(routedField) != "", status: response.StatusCode}
	for _, index := range response.Header[matchedField] {
		i, err := strconv.Atoi(index)
		if err != nil {
			t.Fatalf("%s: %v", matchedField, err)
		}
		got.matched = append(got.matched, i)
	}
	return got
}

// layer4Connection returns the server's side of the connection as layer4 sees it,
// with the bytes it has prefetched and those that it will read one by one.
func (c *clientSide) layer4Connection(prefetched []byte, rest string) *layer4.Connection {
	cx := layer4.WrapConnection(serverSide{c.Conn, strings.NewReader(rest)}, prefetched, zap.NewNop())
	if c.tls != nil {
		cx.SetVar(layer4.TLSConnectionStatesVarName, []*tls.ConnectionState{c.tls})
	}
	return cx
}

// serverSide has the addresses of the other side of a connection, and gives its data
// byte by byte.
type serverSide struct {
	net.Conn
	data *strings.Reader
}

func (c serverSide) LocalAddr() net.Addr             { return c.Conn.RemoteAddr() }
func (c serverSide) RemoteAddr() net.Addr            { return c.Conn.LocalAddr() }
func (c serverSide) SetReadDeadline(time.Time) error { return nil }
func (c serverSide) Read(p []byte) (int, error)      { return c.data.Read(p[:1]) }

// requestMatchers are http_request matchers: one for each configuration, and one that
// matches every request.
type requestMatchers struct {
	matchers []layer4.ConnMatcher
	every    layer4.ConnMatcher
}

func loadRequestMatchers(t *testing.T, configs []string) requestMatchers {
	t.Helper()
	ctx := moduleContext(t)
	load := func(config string) layer4.ConnMatcher {
		loaded, err := ctx.LoadModuleByID("layer4.matchers.http_request", json.RawMessage(config))
		if err != nil {
			t.Fatalf("loading %s: %v", config, err)
		}
		return loaded.(layer4.ConnMatcher)
	}
	m := requestMatchers{every: load(`[]`)}
	for _, config := range configs {
		m.matchers = append(m.matchers, load(config))
	}
	return m
}

// moduleContext returns a context to load modules in.
func moduleContext(t *testing.T) caddy.Context {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	return ctx
}

// ask returns the answers of the matchers to a whole head.
func (m requestMatchers) ask(t *testing.T, client *clientSide, request difftest.Request) answers {
	t.Helper()
	cx := client.layer4Connection([]byte(request.Head), "")
	match := func(matcher layer4.ConnMatcher) bool {
		matched, err := matcher.Match(cx)
		if err != nil {
			t.Fatalf("%s %q: %v", request.Name, request.Head, err)
		}
		return matched
	}
	got := answers{routed: match(m.every)}
	for i, matcher := range m.matchers {
		if match(matcher) {
			got.matched = append(got.matched, i)
		}
	}
	return got
}

// layer4Routes are lists of one layer4 route for each configuration, compiled.
type layer4Routes struct {
	configs  []string
	handlers []layer4.Handler
}

// decisionVar is the connection variable in which a layer4 route leaves its answer,
// a routeDecision.
const decisionVar = "streamprox_test.decision"

type routeDecision struct {
	matched bool
	read    int // bytes that had arrived
}

func init() { caddy.RegisterModule(matchedHandler{}) }

// matchedHandler ends a layer4 route and leaves its answer.
type matchedHandler struct{}

func (matchedHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.streamprox_test_matched", New: func() caddy.Module { return new(matchedHandler) }}
}

func (matchedHandler) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	cx.SetVar(decisionVar, routeDecision{true, len(cx.MatchingBytes())})
	return nil
}

// notMatched takes the connections that no layer4 route took.
var notMatched = layer4.HandlerFunc(func(cx *layer4.Connection) error {
	cx.SetVar(decisionVar, routeDecision{false, len(cx.MatchingBytes())})
	return nil
})

func loadMatcherRoutes(t *testing.T, configs []string) layer4Routes {
	t.Helper()
	ctx := moduleContext(t)
	routes := layer4Routes{configs: configs}
	for _, config := range configs {
		list := layer4.RouteList{{
			MatcherSetsRaw: []caddy.ModuleMap{{"http_request": json.RawMessage(config)}},
			HandlersRaw:    []json.RawMessage{json.RawMessage(`{"handler":"streamprox_test_matched"}`)},
		}}
		if err := list.Provision(ctx); err != nil {
			t.Fatalf("loading %s: %v", config, err)
		}
		routes.handlers = append(routes.handlers, list.Compile(zap.NewNop(), patience, notMatched))
	}
	return routes
}

// compare asserts that each route answers as want says when the head arrives byte by
// byte, and on its last byte.
func (routes layer4Routes) compare(t *testing.T, client *clientSide, request difftest.Request, want answers) {
	t.Helper()
	for i, handler := range routes.handlers {
		cx := client.layer4Connection(nil, request.Head)
		if err := handler.Handle(cx); err != nil {
			t.Fatalf("%s on %s %q, byte by byte: %v", routes.configs[i], request.Name, request.Head, err)
		}
		want := routeDecision{slices.Contains(want.matched, i), len(request.Head)}
		if got := cx.GetVar(decisionVar); got != want {
			t.Errorf("%s on %s %q, byte by byte: got %+v, want %+v", routes.configs[i], request.Name, request.Head, got, want)
		}
	}
}

// answersSeen counts which answers each configuration gave.
type answersSeen struct {
	configs  []string
	matched  []int
	requests int
}

func newAnswersSeen(configs []string) *answersSeen {
	return &answersSeen{configs: configs, matched: make([]int, len(configs))}
}

func (s *answersSeen) add(a answers) {
	s.requests++
	for _, i := range a.matched {
		s.matched[i]++
	}
}

// check asserts that every HTTP matcher there is was asked, alone, for what it matches
// and for what it does not.
func (s *answersSeen) check(t *testing.T) {
	t.Helper()
	matches, differs := make(map[string]bool), make(map[string]bool)
	var always, never []string
	for i, config := range s.configs {
		id := soleMatcher(config)
		matches[id] = matches[id] || s.matched[i] > 0
		differs[id] = differs[id] || s.matched[i] < s.requests
		switch s.matched[i] {
		case 0:
			never = append(never, config)
		case s.requests:
			always = append(always, config)
		}
	}
	for _, module := range caddy.GetModules("http.matchers") {
		if id := module.ID.Name(); !matches[id] || !differs[id] {
			t.Errorf("%s: a case that matches: %v, one that does not: %v, want both", module.ID, matches[id], differs[id])
		}
	}
	t.Logf("%d requests compared with %d configurations\nalways matched: %s\nnever matched: %s",
		s.requests, len(s.configs), strings.Join(always, " "), strings.Join(never, " "))
}

// soleMatcher returns the name of the matcher that a configuration consists of, or "".
func soleMatcher(config string) string {
	var sets caddyhttp.RawMatcherSets
	if json.Unmarshal([]byte(config), &sets) != nil || len(sets) != 1 || len(sets[0]) != 1 {
		return ""
	}
	for name := range sets[0] {
		return name
	}
	return ""
}
