package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// explained is what these tests look at of an explanation.
type explained struct {
	NeedsMore   bool `json:"needs_more"`
	Routes      []routesExplained
	Destination struct {
		Kind, Why, Handler, Server, Listener, Address, Policy string
		TLS                                                   bool
		Status                                                int
		Sent                                                  []byte
		Upstreams                                             []struct {
			Address, Out string
			Streams      int
			First        bool
		}
	}
	Next struct{ Fate, Why string } `json:"next_request"`
}

type routesExplained struct {
	Of         string
	Inspection struct {
		Outcome, Reason, Clause string
		Head                    struct{ Method, Host, Path string }
	}
	Routes []struct {
		Name, Answer string
		Match        []struct {
			Matchers []struct{ Name, Answer string }
		}
		Handle []struct {
			Name   string
			Inside *routesExplained
		}
	}
}

// taken returns the names of the routes that are taken, from the outside in.
func (e explained) taken() string {
	var names []string
	var look func(routesExplained)
	look = func(list routesExplained) {
		for _, route := range list.Routes {
			if route.Answer != "yes" {
				continue
			}
			names = append(names, route.Name)
			for _, handler := range route.Handle {
				if handler.Inside != nil {
					look(*handler.Inside)
				}
			}
		}
	}
	for _, list := range e.Routes {
		look(list)
	}
	return strings.Join(names, "/")
}

// inspection returns the innermost inspect that has looked at the bytes.
func (e explained) inspection() (found routesExplained) {
	var look func(routesExplained)
	look = func(list routesExplained) {
		if list.Of == "inspect" {
			found = list
		}
		for _, route := range list.Routes {
			for _, handler := range route.Handle {
				if handler.Inside != nil {
					look(*handler.Inside)
				}
			}
		}
	}
	for _, list := range e.Routes {
		look(list)
	}
	return found
}

// explain asks the admin API.
func (s *server) explain(question map[string]any) explained {
	s.t.Helper()
	status, body := s.tryExplain(question)
	if status != http.StatusOK {
		s.t.Fatalf("explaining %v: got status %d: %s", question, status, body)
	}
	var e explained
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		s.t.Fatalf("%v in %s", err, body)
	}
	return e
}

func (s *server) tryExplain(question map[string]any) (status int, body string) {
	s.t.Helper()
	raw, err := json.Marshal(question)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.api("POST", "/streamprox/explain", string(raw))
}

const explainedRoutes = `
	@chat http_request path /chat/*
	route @chat {
		rewrite_head {
			strip_prefix /chat
			header X-Path {l4.http.path}
		}
		relay %[1]s
	}
	@tenant http_request header X-Tenant *
	route @tenant {
		relay %[1]s %[2]s %[3]s {
			lb_policy header X-Tenant
		}
	}
	@inner http_request path /inner/*
	route @inner {
		subroute {
			@a http_request path /inner/a
			route @a {
				relay %[2]s
			}
			route {
				inspect {
					@b http_request path /inner/b
					route @b {
						relay %[3]s
					}
					@deep http_request path /inner/deep
					route @deep {
						http_app
					}
				}
			}
		}
	}
	@no http_request path /no
	route @no {
		http_respond 403 "no {l4.http.method}"
	}
	@connect http_request method CONNECT
	route @connect {
		http_respond 405
	}
	@ssh inspected other
	route @ssh {
		relay %[4]s
	}
	@site http_request path /site/*
	route @site {
		http_app
	}
`

// TestExplainTellsTheTruth sends what was explained, and checks that it comes where the
// explanation says, as it says.
func TestExplainTellsTheTruth(t *testing.T) {
	names := make(map[string]string) // of upstreams, by address
	one, two, three := httpBackend(t, "one"), httpBackend(t, "two"), httpBackend(t, "three")
	raw := backend(t, func(conn net.Conn) {
		buf := make([]byte, 100)
		n, _ := conn.Read(buf)
		fmt.Fprintf(conn, "raw %s", buf[:n])
	})
	names[one], names[two], names[three], names[raw] = "one", "two", "three", "raw"
	routes := fmt.Sprintf(explainedRoutes, one, two, three, raw)
	plain, outer := freeport.Address(t), freeport.Address(t)
	port := freeport.Get(t)
	s := start(t, `{
		servers 127.0.0.1:`+port+` {
			protocols h1
			listener_wrappers {
				layer4 {
					@out http_request path /out
					route @out {
						relay `+one+`
					}
					route {
						inspect {
							`+routes+`
							route {
								http_app
							}
						}
					}
				}
			}
		}
		layer4 {
			`+plain+` {
				route {
					inspect {
						`+routes+`
					}
				}
			}
			`+outer+` {
				@pg postgres
				route @pg {
					relay `+raw+`
				}
				route {
					proxy_protocol {
						allow 192.0.2.0/24 127.0.0.0/8
					}
				}
				route {
					subroute {
						@never remote_ip 203.0.113.0/24
						route @never {
							close
						}
						@lan remote_ip 127.0.0.1 10.0.0.0/8
						route @lan {
							inspect {
								`+routes+`
								route {
									http_app
								}
							}
						}
					}
				}
			}
		}
	}
	http://:`+port+` {
		bind 127.0.0.1
		respond "wrapped {http.request.method} {http.request.uri.path}"
	}
	http:// {
		bind streamprox/web
		respond "web {http.request.method} {http.request.uri.path}"
	}`)

	const closing = "Host: a.example\r\nConnection: close\r\n"
	get := func(target, fields string) string {
		return "GET " + target + " HTTP/1.1\r\n" + closing + fields + "\r\n"
	}
	type test struct {
		name, sent string
		want       string // the beginning of the response, or of its content if that has status 200
	}
	tests := []test{
		{"chat", get("/chat/x", ""), "one GET /x"},
		{"tenant", get("/t", "X-Tenant: blue\r\n"), ""},
		{"another tenant", get("/t", "X-Tenant: green\r\n"), ""},
		{"a third tenant", get("/t", "X-Tenant: red\r\n"), ""},
		{"subroute", get("/inner/a", ""), "two GET /inner/a"},
		{"inspect in a subroute in inspect", get("/inner/b", ""), "three GET /inner/b"},
		{"http_app within", get("/inner/deep", ""), "* GET /inner/deep"},
		{"none within", get("/inner/none", ""), ""},
		{"http_respond", get("/no", ""), "403"},
		{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", "405"},
		{"site", get("/site/x", ""), "* GET /site/x"},
		{"content", "POST /chat/x HTTP/1.1\r\n" + closing + "Content-Length: 3\r\n\r\nabc", "one POST /x abc"},
		{"chunks", "POST /site/x HTTP/1.1\r\n" + closing + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "* POST /site/x"},
		{"other", "SSH-2.0-x\r\n", "raw SSH-2.0-x"},
		{"malformed", "GET /site/../x HTTP/1.1\r\n" + closing + "\r\n", "400"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""},
		{"nominated", "GET /chat/x HTTP/1.1\r\nHost: a.example\r\nConnection: close, X-Path\r\n\r\n", "400"},
		{"no route", get("/else", ""), ""},
	}
	for _, listener := range []struct{ name, address, site, prefix string }{
		{"layer4", plain, "web", ""},
		{"listener wrapper", "127.0.0.1:" + port, "wrapped", ""},
		{"behind proxy_protocol and subroute", outer, "web", "PROXY TCP4 10.0.0.1 10.0.0.2 4000 80\r\n"},
	} {
		t.Run(listener.name, func(t *testing.T) {
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					sent := listener.prefix + test.sent
					s := *s
					s.t = t
					e := s.explain(map[string]any{"listen": listener.address, "client": "127.0.0.1:4000", "bytes": []byte(sent)})

					conn := dial(t, listener.address)
					send(t, conn, sent, 1<<20)
					if test.name == "other" {
						_ = conn.CloseWrite()
					}
					got, _ := io.ReadAll(conn)
					if want := strings.Replace(test.want, "*", listener.site, 1); !strings.Contains(string(got), want) {
						t.Errorf("got response %q, want %q", got, want)
					}
					checkExplained(t, e, string(got), listener.site, names)
				})
			}
		})
	}
	t.Run("a matcher of layer4 takes it", func(t *testing.T) {
		startup := "\x00\x00\x00\x17\x00\x03\x00\x00user\x00someone\x00\x00"
		startup = string([]byte{0, 0, 0, byte(len(startup))}) + startup[4:]
		e := s.explain(map[string]any{"listen": outer, "bytes": []byte(startup)})
		if e.Destination.Address != raw || e.taken() != "0" {
			t.Errorf("got destination %+v by %s, want %s by route 0", e.Destination, e.taken(), raw)
		}
	})
}

// explained waits until explain has nothing under way, and no more descriptors are in use
// than at the time of u. What else could be left the end of the test finds.
func (u usage) explained(t *testing.T) {
	t.Helper()
	eventually(t, "end of what explain has begun", func() bool {
		now := resources()
		for name := range now.goroutines {
			if strings.Contains(name, "limited") || strings.Contains(strings.ToLower(name), "explain") {
				return false
			}
		}
		return now.descriptors <= u.descriptors+slack
	})
}

// checkExplained checks that a response came from where the explanation says.
func checkExplained(t *testing.T, e explained, got, site string, names map[string]string) {
	t.Helper()
	d := e.Destination
	from := ""
	switch d.Kind {
	case "relay":
		if from = names[d.Address]; from == "" {
			t.Fatalf("explained address %q is none of %v", d.Address, names)
		}
	case "http_app":
		from = site
	case "answer":
		if d.Status == 0 { // GOAWAY
			if !strings.HasPrefix(got, "\x00\x00\x00\x04") {
				t.Errorf("got %q, want frames of HTTP/2: %+v", got, d)
			}
			return
		}
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", d.Status)) || e.Next.Fate != "closed" {
			t.Errorf("got %q, explained was status %d, next %+v", got, d.Status, e.Next)
		}
		return
	default:
		t.Fatalf("explained was %+v", d)
	}
	_, content, _ := strings.Cut(got, "\r\n\r\n")
	if !strings.HasPrefix(content, from+" ") && !strings.HasPrefix(got, from+" ") {
		t.Errorf("got %q, explained was %+v", got, d)
	}
}

// TestExplainWhatIsSent compares the bytes that an upstream gets with those that are
// explained.
func TestExplainWhatIsSent(t *testing.T) {
	received := make(chan []byte, 1)
	upstream := backend(t, func(conn net.Conn) {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		for !bytes.HasSuffix(all.Bytes(), []byte("the end")) {
			n, err := conn.Read(buf)
			if all.Write(buf[:n]); err != nil {
				break
			}
		}
		received <- all.Bytes()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	address := freeport.Address(t)
	s := start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						@raw inspected other
						route @raw {
							relay `+upstream+` {
								proxy_protocol v2
							}
						}
						@close http_request path /close
						route @close {
							relay `+upstream+` {
								reuse close
								proxy_protocol v1
							}
						}
						route {
							rewrite_head {
								host inside.example
								forwarded
							}
							relay `+upstream+`
						}
					}
				}
			}
		}
	}`)
	const content = "Content-Length: 7\r\n\r\nthe end"
	for _, test := range []struct{ name, sent, next string }{
		{"kept", "POST /x HTTP/1.1\r\nHost: a\r\nX-Alias_Field: x\r\nTE: trailers\r\n" + content, "routed"},
		{"close", "POST /close HTTP/1.1\r\nHost: a\r\nForwarded: for=x\r\n" + content, "closed"},
		{"the client closes", "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + content, "closed"},
		{"HTTP/1.0", "POST /x HTTP/1.0\r\nHost: a\r\n" + content, "closed"},
		{"absolute target", "POST http://a/x HTTP/1.1\r\nHost: a\r\n" + content, "routed"},
		{"raw", "\x01\x02the end", "pinned"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := dial(t, address)
			e := s.explain(map[string]any{"client": conn.LocalAddr().String(), "bytes": []byte(test.sent)})
			send(t, conn, test.sent, 1<<20)
			if got := <-received; string(got) != string(e.Destination.Sent) {
				t.Errorf("got\n%q, explained\n%q", got, e.Destination.Sent)
			}
			if e.Next.Fate != test.next {
				t.Errorf("next request: got %+v, want %s", e.Next, test.next)
			}
		})
	}
}

// TestExplainChangesNothing explains many times, and then looks at what could have changed.
func TestExplainChangesNothing(t *testing.T) {
	one, two, three := httpBackend(t, "one"), httpBackend(t, "two"), httpBackend(t, "three")
	away := refusing(t)
	address := freeport.Address(t)
	log := accessLog{filepath.Join(t.TempDir(), "access.log")}
	s := start(t, `{
		log access {
			include streamprox.access
			output file `+log.path+`
		}
		layer4 {
			`+address+` {
				route {
					inspect {
						log start
						max_pending 1
						@turn http_request path /turn
						route @turn {
							relay `+one+` `+two+` `+three+` {
								lb_policy round_robin
							}
						}
						@away http_request path /away
						route @away {
							relay `+away+` {
								fail_duration 1m
							}
						}
						@weight http_request path /weight
						route @weight {
							relay {
								upstream `+one+` {
									weight 2
								}
								upstream `+two+`
								lb_policy weighted_round_robin
							}
						}
					}
				}
			}
		}
	}`)
	request := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	}
	ask := func(path string) explained {
		t.Helper()
		return s.explain(map[string]any{"listen": address, "text": request(path)})
	}
	fetch := func(path string) string {
		t.Helper()
		conn := dial(t, address)
		send(t, conn, request(path), 1<<20)
		got, _ := io.ReadAll(conn)
		return string(got)
	}
	names := map[string]string{one: "one", two: "two", three: "three"}
	theLogs.reset()
	counted := s.samples()
	for _, path := range []string{"/turn", "/weight"} {
		for range 7 {
			first := ask(path)
			for range 3 {
				if again := ask(path); again.Destination.Address != first.Destination.Address {
					t.Fatalf("%s: explained %s, then %s", path, first.Destination.Address, again.Destination.Address)
				}
			}
			if got := fetch(path); !strings.Contains(got, names[first.Destination.Address]+" GET") {
				t.Errorf("%s: got %q, explained was %s", path, got, first.Destination.Address)
			}
		}
	}
	for range 10 {
		if e := ask("/away"); e.Destination.Kind != "relay" || e.Destination.Upstreams[0].Out != "" || e.Destination.Upstreams[0].Streams != 0 {
			t.Errorf("got %+v, want an upstream that nobody has dialled", e.Destination)
		}
	}
	if got := theLogs.lines(map[string]any{"logger": "layer4.handlers.inspect", "msg": "inspected"}); len(got) != 14 {
		t.Errorf("got %d decisions in the log, want those of 14 connections", len(got))
	}
	if got := fetch("/away"); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
		t.Errorf("got %q, want 502", got)
	}
	if e := ask("/away"); e.Destination.Kind != "answer" || e.Destination.Status != 503 || e.Destination.Upstreams[0].Out == "" {
		t.Errorf("got %+v, want 503, since the upstream has failed", e.Destination)
	}
	before := resources()
	for range 20 {
		ask("/turn")
	}
	before.explained(t)

	// Each request that came was counted and has its two lines, and no other account was opened.
	if got := fetch("/turn"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("got %q, want 200", got)
	}
	count := func(message string) (n int) {
		for _, line := range log.lines(t) {
			if line.Message == message {
				n++
			}
		}
		return n
	}
	const fetched = 16
	eventually(t, "the last line of the access log", func() bool { return count("ended") >= fetched })
	if started, ended := count("started"), count("ended"); started != fetched || ended != fetched {
		t.Errorf("the access log has %d lines at the start and %d at the end, want %d each", started, ended, fetched)
	}
	s.become("the requests", counted, samples{
		`inspections_total{outcome="http",route="turn"}`:   8,
		`inspections_total{outcome="http",route="weight"}`: 7,
		`inspections_total{outcome="http",route="away"}`:   1,
	})
}

// TestExplainUnderWay checks that what is asked does not disturb a connection that holds a
// place, and that its place is seen.
func TestExplainUnderWay(t *testing.T) {
	upstream := backend(t, echo("raw"))
	address := freeport.Address(t)
	s := start(t, `{
		layer4 {
			`+address+` {
				route {
					relay {
						upstream `+upstream+` {
							max_connections 1
						}
					}
				}
			}
		}
	}`)
	question := map[string]any{"text": "x"}
	if e := s.explain(question); e.Destination.Address != upstream || e.Next.Fate != "pinned" {
		t.Errorf("got %+v, want %s", e.Destination, upstream)
	}
	conn := dial(t, address)
	if got := make([]byte, 4); true {
		if _, err := io.ReadFull(conn, got); err != nil {
			t.Fatal(err)
		}
	}
	e := s.explain(question)
	if e.Destination.Kind != "closed" || e.Destination.Upstreams[0].Streams != 1 || !strings.Contains(e.Destination.Upstreams[0].Out, "as many streams") {
		t.Errorf("got %+v, want none available, since one stream is there", e.Destination)
	}
}

// TestExplainOutcomes checks what is said of bytes that are no complete request.
func TestExplainOutcomes(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						max_bytes 100
						@named inspected timeout
						route @named {
							echo
						}
						@sni tls sni a.example
						route @sni {
							close
						}
						@all http_request path /never
						route @all {
							echo
						}
					}
				}
			}
		}
	}`)
	for _, test := range []struct {
		name, sent      string
		end             bool
		outcome, clause string
		more            bool
		kind            string
		status          int
	}{
		{"half a request line", "GET / HT", false, "timeout", "", true, "handler", 0},
		{"nothing", "", false, "silent", "", true, "closed", 0},
		{"half, and the end", "GET / HT", true, "eof", "", false, "closed", 0},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", false, "malformed", "RFC 9112 section 3.2", false, "answer", 400},
		{"both lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", false, "malformed", "RFC 9112 section 6.1", false, "answer", 400},
		{"bare LF", "GET / HTTP/1.1\nHost: a\n\n", false, "malformed", "RFC 9112 section 2.2", false, "answer", 400},
		{"too large", "GET / HTTP/1.1\r\nHost: " + strings.Repeat("a", 100), false, "too_large", "", false, "answer", 431},
		{"other", "\x00\x01", false, "other", "", false, "closed", 0},
		{"other with a first line", "hello\r\n", false, "other", "", false, "closed", 0},
		{"TLS", "\x16\x03\x01\x01\x00\x01\x00", false, "tls", "", false, "closed", 0},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, "http2", "", false, "answer", 0},
		{"CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", false, "http", "", false, "answer", 501},
		{"no route", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", false, "http", "", false, "answer", 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := s.explain(map[string]any{"bytes": []byte(test.sent), "end": test.end})
			in := e.inspection().Inspection
			if in.Outcome != test.outcome || in.Clause != test.clause || e.NeedsMore != test.more {
				t.Errorf("got outcome %s (%s, %s), needs more %v; want %s (%s), %v", in.Outcome, in.Reason, in.Clause, e.NeedsMore, test.outcome, test.clause, test.more)
			}
			if d := e.Destination; d.Kind != test.kind || d.Status != test.status {
				t.Errorf("got destination %+v, want %s %d", d, test.kind, test.status)
			}
		})
	}
}

// TestExplainErrors checks what is said of questions without an answer.
func TestExplainErrors(t *testing.T) {
	first, second := freeport.Address(t), freeport.Address(t)
	server := func(address string) string {
		return address + " {\nroute {\ninspect {\nroute {\nrelay 127.0.0.1:1\n}\n}\n}\n}\n"
	}
	s := start(t, "{\nlayer4 {\n"+server(first)+server(second)+"}\n}\n")
	for _, test := range []struct {
		name     string
		question map[string]any
		status   int
		want     string
	}{
		{"which listener", map[string]any{}, 400, "listen: name one of"},
		{"unknown listener", map[string]any{"listen": ":1"}, 404, "listen: nothing"},
		{"no address", map[string]any{"listen": "nonsense"}, 404, first},
		{"client", map[string]any{"listen": first, "client": "a.example"}, 400, "client: "},
		{"bytes are not base64", map[string]any{"bytes": "?"}, 400, "illegal base64"},
		{"a number", map[string]any{"listen": 1}, 400, "listen: number"},
		{"unknown field", map[string]any{"listn": ""}, 400, "unknown field"},
		{"both", map[string]any{"bytes": []byte("x"), "text": "x"}, 400, "bytes and text"},
		{"too large", map[string]any{"listen": first, "bytes": make([]byte, 64<<10+1)}, 413, "bytes: 65537"},
		{"too large as text", map[string]any{"listen": first, "text": strings.Repeat("x", 64<<10+1)}, 413, "bytes: 65537"},
		{"not a configuration", map[string]any{"config": 1}, 400, "config: "},
		{"an invalid configuration", map[string]any{"config": map[string]any{"apps": map[string]any{"layer4": map[string]any{"servers": map[string]any{"a": map[string]any{"listen": []string{":x"}}}}}}}, 400, "config: "},
		{"a configuration without", map[string]any{"config": map[string]any{}}, 404, "no server"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, body := s.tryExplain(test.question)
			if status != test.status || !strings.Contains(body, test.want) {
				t.Errorf("got %d %s, want %d with %q", status, body, test.status, test.want)
			}
		})
	}
	if status, body := s.api("POST", "/streamprox/explain", "{"); status != 400 {
		t.Errorf("half of JSON: got %d %s, want 400", status, body)
	}
	if status, body := s.api("GET", "/streamprox/explain", ""); status != 405 {
		t.Errorf("GET: got %d %s, want 405", status, body)
	}
}

// TestExplainUnloaded asks about a configuration that is not loaded, while another one runs.
func TestExplainUnloaded(t *testing.T) {
	running, planned := httpBackend(t, "running"), freeport.Address(t)
	address := freeport.Address(t)
	caddyfile := func(upstream, more string) string {
		return "{\nlayer4 {\n" + address + " {\nroute {\ninspect {\nroute {\nrelay " + upstream + " {\n" + more + "\n}\n}\n}\n}\n}\n}\n}\n" +
			"http:// {\nbind streamprox/web\nlog {\noutput file " + t.TempDir() + "/access.log\n}\nrespond x\n}\n"
	}
	checks := backend(t, func(net.Conn) { t.Error("a health check came") })
	s := start(t, caddyfile(running, ""))
	before := resources()
	config := adapt(t, caddyfile(planned+" "+checks, "health_interval 10ms\nlb_policy first"))
	question := map[string]any{"text": "GET / HTTP/1.1\r\nHost: a\r\n\r\n"}
	asked := maps.Clone(question)
	asked["config"] = config
	if e := s.explain(asked); e.Destination.Address != planned {
		t.Errorf("got %+v, want %s", e.Destination, planned)
	}
	if e := s.explain(question); e.Destination.Address != running {
		t.Errorf("got %+v, want %s", e.Destination, running)
	}
	if got := theLogs.lines(map[string]any{"msg": "redirected default logger"}); len(got) > 0 {
		t.Errorf("the logs have changed: %v", got)
	}
	before.explained(t)
}

// TestExplainCommand runs the command as its users do.
func TestExplainCommand(t *testing.T) {
	upstream, address := httpBackend(t, "up"), freeport.Address(t)
	caddyfile := "{\n\tlayer4 {\n\t\t" + address + " {\n\t\t\troute {\n\t\t\t\tinspect {\n\t\t\t\t\t@up http_request path /up\n\t\t\t\t\troute @up {\n\t\t\t\t\t\trelay " + upstream + "\n\t\t\t\t\t}\n\t\t\t\t}\n\t\t\t}\n\t\t}\n\t}\n}\n"
	file := t.TempDir() + "/planned.caddyfile"
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, caddyfile)
	run := func(input string, args ...string) (string, error) {
		t.Helper()
		command := exec.Command(os.Args[0], append([]string{"streamprox", "explain"}, args...)...)
		command.Stdin = strings.NewReader(input)
		var stderr bytes.Buffer
		command.Stderr = &stderr
		out, err := command.Output()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, stderr.String())
		}
		return string(out), err
	}
	const request = "GET /up HTTP/1.1\nHost: a\n\n"
	want := address + ", server srv0 of layer4, 29 bytes from 192.0.2.1:49152\n" +
		"route 0: taken\n" +
		"  > inspect\n" +
		"    outcome http: \"GET\" \"/up\" HTTP/1.1, host \"a\"\n" +
		"    route up: taken\n" +
		"      http_request [{\"path\":[\"/up\"]}]: yes\n" +
		"      > relay\n" +
		"\n" +
		"to " + upstream + "\n" +
		"  upstream " + upstream + ": 0 streams, tried first\n" +
		"it gets 29 bytes:\n" +
		"  \"GET /up HTTP/1.1\\r\\n\"\n" +
		"  \"Host: a\\r\\n\"\n" +
		"  \"\\r\\n\"\n" +
		"next request: routed: after the response\n"
	for _, source := range [][]string{
		{"--address", s.admin},
		{"--config", file},
		{"--config", file, "--adapter", "caddyfile", "--listen", address},
	} {
		got, err := run(request, append([]string{"--crlf"}, source...)...)
		if err != nil || got != want {
			t.Errorf("%v: got %v\n%s\nwant\n%s", source, err, got, want)
		}
		got, err = run(request, append([]string{"--json"}, source...)...)
		var e explained
		if err != nil || json.Unmarshal([]byte(got), &e) != nil || e.inspection().Inspection.Clause != "RFC 9112 section 2.2" {
			t.Errorf("%v: got %v\n%s\nwant what is malformed, since no --crlf was given", source, err, got)
		}
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--address", s.admin, "--listen", ":1"}, "listen: nothing"},
		{[]string{"--config", file, "--listen", ":1"}, "listen: nothing"},
		{[]string{"--config", "-"}, "standard input"},
		{[]string{"--adapter", "caddyfile"}, "--config"},
		{[]string{"--config", file, "--address", s.admin}, "give one of them"},
		{[]string{"--config", file + ".none"}, "no such file"},
		{[]string{"--client", "x", "--config", file}, "client: "},
	} {
		if out, err := run(request, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: got %v %s, want an error with %q", test.args, err, out, test.want)
		}
	}
}
