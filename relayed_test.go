package streamprox

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// watchedEngine counts what becomes of the requests that follow the first one of a session.
type watchedEngine struct {
	relay.Engine
	never            bool // no request is forwarded by Next
	forwarded, taken atomic.Int64
}

// Serve implements relay.Engine.
func (e *watchedEngine) Serve(s *relay.Session) bool {
	s.Owner = &watchedOwner{s.Owner.(*relayed), e}
	return e.Engine.Serve(s)
}

type watchedOwner struct {
	*relayed
	engine *watchedEngine
}

// Next implements relay.Owner.
func (o *watchedOwner) Next(data []byte, kept bool) relay.Next {
	if o.engine.never {
		return relay.Next{}
	}
	next := o.relayed.Next(data, kept)
	if next.Verdict == relay.Forward {
		o.engine.forwarded.Add(1)
	}
	return next
}

// Take implements relay.Owner.
func (o *watchedOwner) Take(client net.Conn, data []byte, due time.Time, upstream net.Conn, registered func()) {
	o.engine.taken.Add(1)
	o.relayed.Take(client, data, due, upstream, registered)
}

// engines are those of relay. On systems without an event loop they are the same.
func engines() map[string]func() *watchedEngine {
	return map[string]func() *watchedEngine{
		"default":  func() *watchedEngine { return &watchedEngine{Engine: relay.New(&streams, nil)} },
		"portable": func() *watchedEngine { return &watchedEngine{Engine: relay.Portable{Streams: &streams}} },
	}
}

// watchedRelay is an inspect with relays, whose later requests are counted.
type watchedRelay struct {
	*watchedEngine
	inspect *Inspect
	address string
}

// startRelay serves an inspect with those routes, in JSON, on a port of its own, and logs what
// it decides. prepare, if any, gets each connection before that.
func startRelay(t *testing.T, engine *watchedEngine, routes string, log zapcore.Core, prepare func(*layer4.Connection)) *watchedRelay {
	t.Helper()
	w := &watchedRelay{watchedEngine: engine, inspect: loadHandler(t, "inspect", `{"routes":[`+routes+`]}`).(*Inspect)}
	w.inspect.logger = zap.New(log)
	for _, route := range w.inspect.Routes {
		if h, ok := route.handlers[len(route.handlers)-1].(*Relay); ok {
			h.engine = w
		}
	}
	w.address = serveEach(t, func(conn net.Conn) {
		cx := layer4.WrapConnection(conn, nil, zap.NewNop())
		if prepare != nil {
			prepare(cx)
		}
		if err := w.inspect.Handle(cx, endOfChain); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { w.inspect.gone.Store(true); w.inspect.retire() })
	return w
}

// serveEach runs serve for each connection, and closes it then. It waits for that at the end.
func serveEach(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

// recorder is an HTTP server that keeps all that it is sent. It answers with its name and the
// number of the connection.
type recorder struct {
	address string

	mu          sync.Mutex
	connections int
	requests    []string
}

func startRecorder(t *testing.T, name string) *recorder {
	t.Helper()
	s := new(recorder)
	s.address = serveEach(t, func(conn net.Conn) {
		s.mu.Lock()
		s.connections++
		number := s.connections
		s.mu.Unlock()
		var received strings.Builder
		for r := bufio.NewReader(io.TeeReader(conn, &received)); ; received.Reset() {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, request.Body); err != nil {
				return
			}
			s.mu.Lock()
			s.requests = append(s.requests, received.String())
			s.mu.Unlock()
			content := fmt.Sprint(name, " ", number)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(content))
			if request.Method != http.MethodHead {
				_, _ = io.WriteString(conn, content)
			}
		}
	})
	return s
}

// took returns what has been received since it was called before.
func (s *recorder) took() (requests []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests, s.requests = s.requests, nil
	return requests
}

// asker is a client's connection.
type asker struct {
	net.Conn
	r *bufio.Reader
}

func (w *watchedRelay) dial(t *testing.T) *asker {
	t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &asker{conn, bufio.NewReader(conn)}
}

// ask sends a request and returns the status of the response, and its content.
func (a *asker) ask(t *testing.T, request string) string {
	t.Helper()
	if _, err := io.WriteString(a, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(a.r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	return fmt.Sprint(resp.StatusCode, " ", string(content))
}

// expect checks how many later requests were forwarded by Next, and how many went to Take.
func (w *watchedRelay) expect(t *testing.T, forwarded, taken int64) {
	t.Helper()
	if f, n := w.forwarded.Load(), w.taken.Load(); f != forwarded || n != taken {
		t.Errorf("%d requests forwarded by Next, %d left to Take; want %d and %d", f, n, forwarded, taken)
	}
}

const plainRequest = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// TestNextRewrites checks that rewrite_head before relay needs no goroutine for a later
// request if the head and the connection are all that it looks at, and that the request goes
// up byte for byte as a goroutine would have sent it.
func TestNextRewrites(t *testing.T) {
	requests := []string{
		"GET /echo/room?a=b HTTP/1.1\r\nHost: www.example\r\nOrigin: http://www.example\r\nCookie: a=b; c=d\r\nx-tag: 1\r\nX-Path: /no\r\n\r\n",
		"GET /Ech%6F//x HTTP/1.1\r\nhOST:  www.example:8080 \r\nX-Forwarded-For: 198.51.100.1\r\nX_Forwarded_For: 198.51.100.2\r\nX-Forwarded-Host: b\r\nX-Forwarded-Proto: gopher\r\nForwarded: for=c\r\nX-Real-IP: d\r\nX-Path: 1\r\nX_Path: 2\r\n\r\n",
		"GET http://www.example/echo?x HTTP/1.1\r\nHost: www.example\r\n\r\n",
		"GET http://www.example HTTP/1.1\r\nHost: www.example\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nX-Odd: {l4.http.path}\r\n\r\n",
		"HEAD /echo HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
		"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: \r\n\r\nhello",
		"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"GET /" + strings.Repeat("long/", 500) + " HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X-Tag: 2\r\n", 60) + "\r\n",
		"GET /a?%0d%0a HTTP/1.1\r\nHost: a\r\nX-Last: 1\r\n\r\n",
	}
	// Each of these ends its connection.
	last := []string{
		"GET /a%0d%0aX-Evil:1 HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: X-Path, X-Forwarded-For\r\nX-Path: 1\r\n\r\n",
		"GET /echo HTTP/1.1\r\nHost: a\r\nX-Host: not a host\r\nConnection: close\r\n\r\n",
		"GET /echo HTTP/1.0\r\n\r\n",
		"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + strings.Repeat("X-Many: 1\r\n", 254) + "\r\n",
	}
	for _, test := range []struct {
		name  string
		edits []string // each the JSON of a rewrite_head, without braces
		ahead bool     // no goroutine is needed
	}{
		{"nothing", nil, true},
		{"host", []string{`"host":"echo.example:81"`}, true},
		{"set, add and delete", []string{`"header":{"set":{"X-Path":["1","2"],"Origin":["http://echo"]},"add":{"X-Tag":["new"]},"delete":["Cookie","X-Odd"]}`}, true},
		{"strip_prefix", []string{`"strip_prefix":"/echo"`}, true},
		{"strip_prefix and host", []string{`"strip_prefix":"/echo","host":"b"`}, true},
		{"forwarded", []string{`"forwarded":{}`}, true},
		{"forwarded, trusted", []string{`"forwarded":{"trusted":["127.0.0.0/8"]}`}, true},
		{"forwarded, another trusted", []string{`"forwarded":{"trusted":["10.0.0.0/8"]},"host":"b"`}, true},
		{"placeholders of the request", []string{`"header":{"set":{"X-Path":["{l4.http.path} {l4.http.header.x-tag} {l4.http.nothing}"],` +
			`"X-All":["{l4.http.method} {l4.http.host} {l4.http.hostname} {l4.http.port} {l4.http.query} {l4.http.uri} {l4.http.version}"]}}`}, true},
		{"host from a placeholder", []string{`"host":"{l4.http.header.X-Host}x"`}, true},
		{"strip_prefix from a placeholder", []string{`"strip_prefix":"/{l4.http.method}"`}, true},
		{"placeholders of the connection", []string{`"header":{"set":{"X-Path":["{l4.conn.remote_addr} {l4.conn.local_addr} {l4.conn.wrap_time} {l4.tls.server_name} {l4.tls.nothing} {env.STREAMPROX_TEST}"]}}`}, true},
		{"braces and escapes", []string{`"header":{"add":{"X-Odd":["a\\}b","\\{l4.http.path} }","{{l4.http.path}","{}"]}}`}, false},
		{"escapes alone", []string{`"header":{"add":{"X-Odd":["a\\}b","\\{l4.http.path} }"]}}`}, true},
		{"two", []string{`"forwarded":{},"strip_prefix":"/echo","header":{"set":{"X-Path":["1"]}}`,
			`"host":"b","header":{"add":{"X-Path":["{l4.http.path} {l4.http.header.X-Path} {l4.http.port} {l4.tls.server_name}"]}}`}, true},
		{"a variable", []string{`"header":{"set":{"X-Path":["{l4.vars.test}"]}}`}, false},
		{"the time", []string{`"header":{"set":{"X-Path":["{time.now.year}"]}}`}, false},
		{"the inspection", []string{`"header":{"set":{"X-Path":["{l4.inspect.outcome}"]}}`}, false},
		{"a file", []string{`"header":{"set":{"X-Path":["{file./dev/null}"]}}`}, false},
		{"what nobody knows", []string{`"header":{"set":{"X-Path":["{nothing}"]}}`}, false},
		{"the second", []string{`"forwarded":{}`, `"header":{"set":{"X-Path":["{time.now.year}"]}}`}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("STREAMPROX_TEST", "from the environment")
			up := startRecorder(t, "up")
			var handlers strings.Builder
			for _, edit := range test.edits {
				handlers.WriteString(`{"handler":"rewrite_head",` + edit + `},`)
			}
			route := `{"handle":[` + handlers.String() + `{"handler":"relay","upstreams":[{"dial":["` + up.address + `"]}]}]}`
			for _, tlsTerminated := range []bool{false, true} {
				prepare := func(cx *layer4.Connection) {
					cx.SetVar("test", "of the connection")
					cx.Replacer().Set(layer4.ConnWrapTimeReplKey, "then")
					cx.Replacer().Map(func(key string) (any, bool) { return "tls.example", key == "l4.tls.server_name" })
					if tlsTerminated {
						cx.SetVar(layer4.TLSConnectionStatesVarName, []*tls.ConnectionState{{HandshakeComplete: true}})
					}
				}
				for name, engine := range engines() {
					// sent returns what has gone up and what has come down, of all requests.
					sent := func(never bool) (up_, down []string) {
						e := engine()
						e.never = never
						w := startRelay(t, e, route, nil, prepare)
						connection := func(requests []string) {
							up.took()
							c := w.dial(t)
							down = append(down, c.ask(t, plainRequest)[:3])
							before := w.forwarded.Load()
							for _, request := range requests {
								down = append(down, c.ask(t, request)[:3])
							}
							if n := w.forwarded.Load() - before; len(requests) > 1 {
								if want := int64(len(requests)); test.ahead && !never && n != want {
									t.Errorf("%s: %d requests forwarded by Next, want %d", name, n, want)
								} else if (!test.ahead || never) && n != 0 {
									t.Errorf("%s: %d requests forwarded by Next, want none", name, n)
								}
							}
							// Only the ports are not those of other connections.
							ports := strings.NewReplacer(w.address, "LOCAL", c.LocalAddr().String(), "REMOTE")
							for _, request := range up.took() {
								up_ = append(up_, ports.Replace(request))
							}
						}
						connection(requests)
						for _, request := range last {
							connection([]string{request})
						}
						if test.ahead && !never && w.taken.Load() > int64(len(last)) {
							t.Errorf("%s: %d requests left to Take, want at most the %d that may be refused", name, w.taken.Load(), len(last))
						}
						return up_, down
					}
					looked, lookedDown := sent(false)
					taken, takenDown := sent(true)
					if !slices.Equal(lookedDown, takenDown) {
						t.Errorf("%s: got the answers\n%v, by goroutines\n%v", name, lookedDown, takenDown)
					}
					if len(looked) != len(taken) {
						t.Fatalf("%s: %d requests have gone up, by goroutines %d", name, len(looked), len(taken))
					}
					for i := range looked {
						if looked[i] != taken[i] {
							t.Errorf("%s: got\n%q, by a goroutine\n%q", name, looked[i], taken[i])
						}
					}
				}
			}
		})
	}
}

// TestNextAsksPolicy checks that a policy by the head needs no goroutine for a later request
// that goes to the same upstream, and that others go where the policy sends them.
func TestNextAsksPolicy(t *testing.T) {
	servers := []*recorder{startRecorder(t, "a"), startRecorder(t, "b"), startRecorder(t, "c")}
	var upstreams []string
	for _, s := range servers {
		upstreams = append(upstreams, `{"dial":["`+s.address+`"]}`)
	}
	for _, edit := range []string{"", `{"handler":"rewrite_head","forwarded":{}},`} {
		for _, test := range headPolicies {
			for name, engine := range engines() {
				t.Run(fmt.Sprint(test.name, " ", name, " ", edit != ""), func(t *testing.T) {
					w := startRelay(t, engine(), `{"handle":[`+edit+`{"handler":"relay","load_balancing":{"selection":`+test.policy+`},"upstreams":[`+strings.Join(upstreams, ",")+`]}]}`, nil, nil)
					// Of each server, a request that goes there.
					var there [3]string
					for i := 0; slices.Contains(there[:], ""); i++ {
						request := test.request(fmt.Sprint("v", i))
						there[w.dial(t).ask(t, request)[len("200 ")]-'a'] = request
					}
					w.forwarded.Store(0)
					w.taken.Store(0)
					c := w.dial(t)
					first := c.ask(t, there[0])
					for range 10 {
						if got := c.ask(t, there[0]); got != first {
							t.Errorf("got %q, then %q", first, got)
						}
					}
					w.expect(t, 10, 0)
					second := c.ask(t, there[1])
					if !strings.HasPrefix(second, "200 b ") {
						t.Errorf("got %q, want the second server", second)
					}
					w.expect(t, 10, 1)
					if got := c.ask(t, there[1]); got != second {
						t.Errorf("got %q, then %q", second, got)
					}
					w.expect(t, 11, 1)
					if got := c.ask(t, there[2]); !strings.HasPrefix(got, "200 c ") {
						t.Errorf("got %q, want the third server", got)
					}
					w.expect(t, 11, 2)
				})
			}
		}
	}
}

// TestNextPolicySeesEdits checks that the policy is asked about the head as rewrite_head has
// left it.
func TestNextPolicySeesEdits(t *testing.T) {
	a, b := startRecorder(t, "a"), startRecorder(t, "b")
	w := startRelay(t, engines()["default"](), `{"handle":[`+
		`{"handler":"rewrite_head","header":{"set":{"X-Tenant":["one"]}}},`+
		`{"handler":"relay","load_balancing":{"selection":{"policy":"header","field":"X-Tenant"}},"upstreams":[{"dial":["`+a.address+`"]},{"dial":["`+b.address+`"]}]}]}`, nil, nil)
	c := w.dial(t)
	first := c.ask(t, plainRequest)
	for i := range 20 {
		if got := c.ask(t, fmt.Sprintf("GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: %d\r\n\r\n", i)); got != first {
			t.Errorf("got %q, then %q", first, got)
		}
	}
	w.expect(t, 20, 0)
}

// TestNextLogs checks that a later request that needs no goroutine is logged as one that has
// one.
func TestNextLogs(t *testing.T) {
	up := startRecorder(t, "up")
	logged := func(t *testing.T, engine *watchedEngine) (lines []map[string]any) {
		core, logs := observer.New(zapcore.DebugLevel)
		w := startRelay(t, engine, `{"name":"only","handle":[{"handler":"relay","upstreams":[{"dial":["`+up.address+`"]}]}]}`, core, nil)
		c := w.dial(t)
		for range 3 {
			c.ask(t, plainRequest)
		}
		if engine.never {
			w.expect(t, 0, 2)
		} else {
			w.expect(t, 2, 0)
		}
		for _, entry := range logs.FilterMessage("inspected").All() {
			fields := entry.ContextMap()
			if fields["remote"] != c.LocalAddr().String() || fields["local"] != w.address {
				t.Errorf("got %v, want remote %s and local %s", fields, c.LocalAddr(), w.address)
			}
			delete(fields, "remote")
			delete(fields, "local")
			delete(fields, "duration")
			lines = append(lines, fields)
		}
		return lines
	}
	for name, engine := range engines() {
		t.Run(name, func(t *testing.T) {
			looked := logged(t, engine())
			never := engine()
			never.never = true
			taken := logged(t, never)
			if len(looked) != 3 || fmt.Sprint(looked) != fmt.Sprint(taken) {
				t.Errorf("got\n%v, by goroutines\n%v", looked, taken)
			}
		})
	}
}

// TestRetireBesideTunnels is for the race detector: whoever retires connections asks each
// for its inspect, while their loop goes on with them.
func TestRetireBesideTunnels(t *testing.T) {
	h := new(Inspect)
	r := &relayed{relay: new(Relay), continuation: continuation{inspect: h}}
	tunnelled := make(chan struct{})
	go func() {
		defer close(tunnelled)
		r.Tunnelled()
	}()
	if owner, ok := relay.Owner(r).(interface{ inspector() *Inspect }); !ok || owner.inspector() != h {
		t.Error("it has no inspect")
	}
	<-tunnelled
}

// TestRepeatedRequestKeepsItsName: a request that is inspected once more, because the upstream
// had closed the connection on which it went up, keeps its ID: the lines of an access log are
// of one request.
func TestRepeatedRequestKeepsItsName(t *testing.T) {
	inspect := loadHandler(t, "inspect", `{"routes":[{"handle":[{"handler":"http_respond","status":404,"headers":{"X-Id":["{l4.inspect.id}"]}}]}]}`).(*Inspect)
	client, server := net.Pipe()
	defer client.Close()
	record := unlogged.Begin(account.Summary{Method: "GET"})
	r := &relayed{
		relay:        new(Relay),
		continuation: continuation{inspect, origin{logger: zap.NewNop()}},
		record:       record,
		detached:     true,
	}
	want := record.Read().ID.String()
	go r.Take(server, []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), time.Time{}, nil, func() {})
	response, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("X-Id"); got != want {
		t.Errorf("got the ID %s, want %s", got, want)
	}
}
