package integration

import (
	"bufio"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// A client's first bytes for each outcome, with the limits of outcomesCaddyfile.
var flights = []struct {
	outcome string
	bytes   string
	end     bool   // the client finishes sending
	answer  string // when no route takes it: the status, or what happens
}{
	{outcome: "http", bytes: "GET /chat HTTP/1.1\r\nHost: example.com\r\n\r\n", answer: "404"},
	{outcome: "http", bytes: "POST / HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody", answer: "404"},
	{outcome: "tls", bytes: "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", answer: "ended"},
	{outcome: "other", bytes: "SSH-2.0-OpenSSH_9.6 Debian-3\r\n", answer: "ended"},
	{outcome: "other", bytes: "\x00\x00\x00\x08\x04\xd2\x16\x2f", answer: "ended"},
	{outcome: "http2", bytes: http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", answer: "goaway"},
	{outcome: "malformed", bytes: "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", answer: "400"},
	{outcome: "malformed", bytes: "GET /\r\n", answer: "400"},
	{outcome: "too_large", bytes: "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 600), answer: "431"},
	{outcome: "timeout", bytes: "GET / HTTP/1.1\r\nHost: a\r\n", answer: "408"},
	{outcome: "timeout", bytes: "\x16\x03", answer: "closed"},
	{outcome: "silent", bytes: "", answer: "closed"},
	{outcome: "eof", bytes: "GET / HT", end: true, answer: "closed"},
	{outcome: "eof", bytes: "", end: true, answer: "closed"},
}

var outcomes = []string{"http", "tls", "other", "http2", "malformed", "too_large", "timeout", "silent", "eof"}

func TestEveryOutcomeReachesItsRoute(t *testing.T) {
	address := freeport.Address(t)
	var routes strings.Builder
	for _, outcome := range outcomes {
		fmt.Fprintf(&routes, "@%[1]s inspected %[1]s\nroute @%[1]s {\n relay %[2]s {\n reuse pin\n }\n}\n", outcome, backend(t, echo(outcome)))
	}
	start(t, layer4Caddyfile(address, "timeout 5s\nsilent_timeout 5s\nmax_bytes 512\n"+routes.String()))

	for _, flight := range flights {
		for _, piece := range pieces {
			t.Run(fmt.Sprintf("%s/%.12q/%s", flight.outcome, flight.bytes, piece.name), func(t *testing.T) {
				t.Parallel()
				conn := dial(t, address)
				send(t, conn, flight.bytes, piece.size)
				if flight.end {
					conn.CloseWrite()
				}
				r := bufio.NewReader(conn)
				name, err := r.ReadString('\n')
				if name != flight.outcome+"\n" {
					t.Fatalf("taken by the route for %q (%v), want %q", name, err, flight.outcome)
				}
				// The stream is intact in both directions, and ends when the client ends it.
				send(t, conn, "after", 1<<20)
				conn.CloseWrite()
				want := flight.bytes + "after"
				if flight.end {
					want = flight.bytes
				}
				got, err := io.ReadAll(r)
				if string(got) != want || err != nil {
					t.Errorf("the destination saw %q (%v), want %q", got, err, want)
				}
			})
		}
	}
}

func TestOutcomeThatNoRouteTakes(t *testing.T) {
	address := freeport.Address(t)
	// A route without matchers and a negative one: neither names an outcome, so
	// neither sees what no router could read.
	other := backend(t, echo("a route that does not name the outcome"))
	start(t, layer4Caddyfile(address, `
		timeout 5s
		silent_timeout 5s
		max_bytes 512
		@public {
			not remote_ip 127.0.0.0/8
		}
		@private not inspected http tls other
		route @public {
			relay `+other+`
		}
		route @private {
			relay `+other+`
		}
	`))
	for _, flight := range flights {
		for _, piece := range pieces {
			t.Run(fmt.Sprintf("%s/%.12q/%s", flight.outcome, flight.bytes, piece.name), func(t *testing.T) {
				t.Parallel()
				conn := dial(t, address)
				send(t, conn, flight.bytes, piece.size)
				if flight.end {
					conn.CloseWrite()
				}
				expectAnswer(t, conn, flight.answer)
			})
		}
	}
}

func TestRouteWithoutMatchersSeesOpenOutcomesOnly(t *testing.T) {
	address := freeport.Address(t)
	start(t, layer4Caddyfile(address, `
		timeout 3s
		silent_timeout 3s
		max_bytes 512
		route {
			relay `+backend(t, echo("default"))+` {
				reuse pin
			}
		}
	`))
	for _, flight := range flights {
		t.Run(fmt.Sprintf("%s/%.12q", flight.outcome, flight.bytes), func(t *testing.T) {
			t.Parallel()
			conn := dial(t, address)
			send(t, conn, flight.bytes, 1<<20)
			if flight.end {
				conn.CloseWrite()
			}
			switch flight.outcome {
			case "http", "tls":
				if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "default\n" {
					t.Errorf("got %q, want the default route", got)
				}
			default:
				expectAnswer(t, conn, flight.answer)
			}
		})
	}
}

// expectAnswer checks what a client gets whose stream nobody takes, and that it gets
// all of it: what it still sends does not become a reset.
func expectAnswer(t *testing.T, conn *net.TCPConn, want string) {
	t.Helper()
	switch want {
	case "ended": // before the client may have sent everything: then it is reset
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !isReset(err) {
			t.Errorf("got %q (%v), want the end", got, err)
		}
	case "closed":
		if got := receive(t, conn); got != "" {
			t.Errorf("got %q, want nothing", got)
		}
	case "goaway":
		framer := http2.NewFramer(io.Discard, conn)
		if frame, err := framer.ReadFrame(); err != nil || frame.Header().Type != http2.FrameSettings {
			t.Fatalf("first frame is %v (%v), want SETTINGS", frame, err)
		}
		frame, err := framer.ReadFrame()
		goaway, ok := frame.(*http2.GoAwayFrame)
		if err != nil || !ok || goaway.ErrCode != http2.ErrCodeHTTP11Required {
			t.Errorf("second frame is %v (%v), want GOAWAY with HTTP_1_1_REQUIRED", frame, err)
		}
		if _, err := framer.ReadFrame(); err != io.EOF {
			t.Errorf("after GOAWAY: %v, want the end", err)
		}
	default:
		r := bufio.NewReader(conn)
		_, _ = r.Peek(1)
		_, _ = conn.Write(make([]byte, 64<<10)) // what nobody reads any more
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("reading the answer: %v", err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("reading the answer's content: %v", err)
		}
		if !strings.HasPrefix(resp.Status, want) || !resp.Close || resp.ContentLength != int64(len(body)) || len(body) == 0 {
			t.Errorf("got status %q, close %v, length %d of %d; want %s with Connection: close and Content-Length",
				resp.Status, resp.Close, resp.ContentLength, len(body), want)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("after the answer: %v, want the end", err)
		}
	}
}

// A head with many small fields, or with many elements in the fields that a proxy takes
// apart, costs who reads it more than its bytes: it is answered before it is complete.
func TestBoundsOfHeads(t *testing.T) {
	address := freeport.Address(t)
	crowded := backend(t, func(conn net.Conn) {
		_, _ = bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"+strings.Repeat("z:\r\n", 1024)+"\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	start(t, layer4Caddyfile(address, `
		max_bytes 256KiB
		@crowded http_request path /crowded
		route @crowded {
			relay `+crowded+`
		}
		@rewritten http_request path /rewritten
		route @rewritten {
			rewrite_head {
				header +X-Tag a
			}
			relay `+headBackend(t)+`
		}
		route {
			relay `+headBackend(t)+`
		}
	`))
	list := func(n int) string { return strings.Repeat("a,", n-1) + "a\r\n" }
	tests := []struct {
		name string
		path string
		rest string // of the head, after Host
		want string // the status
	}{
		{"256 fields", "/", "Connection: close\r\n" + strings.Repeat("z:\r\n", 254) + "\r\n", "200"},
		{"257 fields", "/", strings.Repeat("z:\r\n", 256) + "\r\n", "431"},
		{"257 fields, incomplete", "/", strings.Repeat("z:\r\n", 255) + "z:", "431"},
		{"256 fields, and one is added", "/rewritten", strings.Repeat("z:\r\n", 255) + "\r\n", "400"},
		{"32 connection options", "/", "Connection: close," + list(31) + "\r\n", "200"},
		{"33 connection options", "/", "Connection: " + list(33), "400"},
		{"33 protocols", "/", "Upgrade: " + list(33), "400"},
		{"half options, half fields", "/", "Connection: " + list(64<<10) + strings.Repeat("z:\r\n", 32<<10), "400"},
		{"half fields, half options", "/", strings.Repeat("z:\r\n", 32<<10) + "Connection: " + list(64<<10), "431"},
		{"a response with 1025 fields", "/crowded", "\r\n", "502"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn := dial(t, address)
			send(t, conn, "GET "+test.path+" HTTP/1.1\r\nHost: a\r\n"+test.rest, 1<<20)
			expectAnswer(t, conn, test.want)
		})
	}
}

func TestFallThroughToTheNextHandler(t *testing.T) {
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						@chat http_request path /chat/*
						route @chat {
							relay `+backend(t, echo("chat"))+` {
								reuse pin
							}
						}
					}
					proxy `+backend(t, echo("next"))+`
				}
			}
		}
	}`)
	for _, test := range []struct{ bytes, want string }{
		{"GET /chat/1 HTTP/1.1\r\nHost: a\r\n\r\n", "chat"},
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "next"},
		{"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", "next"},
		{"EHLO example.com\r\n", "next"},
	} {
		for _, piece := range pieces {
			t.Run(fmt.Sprintf("%.12q/%s", test.bytes, piece.name), func(t *testing.T) {
				conn := dial(t, address)
				send(t, conn, test.bytes, piece.size)
				conn.CloseWrite()
				if got, want := receive(t, conn), test.want+"\n"+test.bytes; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

func TestConnectOnlyWhereNamed(t *testing.T) {
	address := freeport.Address(t)
	start(t, layer4Caddyfile(address, `
		@tunnel http_request {
			method CONNECT
			host tunnel.example
		}
		route @tunnel {
			relay `+backend(t, tunnel("named"))+`
		}
		route {
			relay `+backend(t, tunnel("default"))+`
		}
	`))
	for _, piece := range pieces {
		conn := dial(t, address)
		send(t, conn, "CONNECT tunnel.example:443 HTTP/1.1\r\nHost: tunnel.example:443\r\n\r\nearly", piece.size)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Via") != "named" {
			t.Fatalf("named CONNECT, %s: got %v (%v), want 200 by the tunnel", piece.name, resp, err)
		}
		send(t, conn, " and late", piece.size)
		conn.CloseWrite()
		if got, err := io.ReadAll(r); string(got) != "early and late" || err != nil {
			t.Errorf("named CONNECT, %s: through the tunnel came %q (%v)", piece.name, got, err)
		}
	}
	conn := dial(t, address)
	send(t, conn, "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n", 1)
	expectAnswer(t, conn, "501")
}

// tunnel accepts a CONNECT request and then returns what it gets.
func tunnel(name string) func(net.Conn) {
	return func(conn net.Conn) {
		r := bufio.NewReader(conn)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nVia: "+name+"\r\n\r\n")
		_, _ = io.Copy(conn, r)
		_ = conn.(*net.TCPConn).CloseWrite()
	}
}

func TestLimitsOfInspect(t *testing.T) {
	t.Run("max_packets", func(t *testing.T) {
		address := freeport.Address(t)
		start(t, layer4Caddyfile(address, `
			max_packets 3
			@many inspected too_large
			route @many {
				relay `+backend(t, echo("many"))+` {
					reuse pin
				}
			}
			route {
				relay `+backend(t, echo("few"))+` {
					reuse pin
				}
			}
		`))
		request := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
		conn := dial(t, address)
		send(t, conn, request, len(request)/2+1)
		if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "few\n" {
			t.Errorf("in two packets: got %q", got)
		}
		conn = dial(t, address)
		send(t, conn, request, 1)
		conn.CloseWrite()
		if got := receive(t, conn); got != "many\n"+request {
			t.Errorf("in many packets: got %q", got)
		}
	})

	t.Run("until line", func(t *testing.T) {
		address := freeport.Address(t)
		start(t, layer4Caddyfile(address, `
			until line
			@chat http_request path /chat/*
			route @chat {
				relay `+backend(t, echo("chat"))+`
			}
			route {
				relay `+backend(t, echo("other"))+`
			}
		`))
		for line, want := range map[string]string{"GET /chat/a?b HTTP/1.1\r\n": "chat\n", "GET /a HTTP/1.0\r\n": "other\n"} {
			conn := dial(t, address)
			send(t, conn, line, 1)
			if got, _ := bufio.NewReader(conn).ReadString('\n'); got != want {
				t.Errorf("%q: got %q, want %q", line, got, want)
			}
		}
	})

	t.Run("lenient", func(t *testing.T) {
		address := freeport.Address(t)
		start(t, layer4Caddyfile(address, `
			lenient
			route {
				relay `+backend(t, echo("lenient"))+` {
					reuse pin
				}
			}
		`))
		conn := dial(t, address)
		send(t, conn, "GET /../x HTTP/1.1\nHost: a\n\n", 1)
		if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "lenient\n" {
			t.Errorf("got %q", got)
		}
	})

	t.Run("max_pending", func(t *testing.T) {
		for option, held := range map[string]int{"max_pending 2": 2, "max_pending_per_ip 3": 3} {
			t.Run(option, func(t *testing.T) { testMaxPending(t, option, held) })
		}
	})
}

func testMaxPending(t *testing.T, option string, held int) {
	address := freeport.Address(t)
	s := start(t, layer4Caddyfile(address, option+`
		route {
			relay `+backend(t, echo("in"))+` {
				reuse pin
			}
		}
	`))
	var waiting []*net.TCPConn
	for range held {
		conn := dial(t, address)
		send(t, conn, "GET", 1)
		waiting = append(waiting, conn)
	}
	// The ones before are under inspection for certain when one more is refused.
	eventually(t, "reset", func() bool {
		conn := dial(t, address)
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, err := conn.Read(make([]byte, 1))
		conn.Close()
		return isReset(err)
	})
	s.logs.expect(t, map[string]any{"msg": "too many connections under inspection; resetting new ones", "level": "warn"})
	// A place is free as soon as one is decided.
	send(t, waiting[0], " / HTTP/1.0\r\n\r\n", 1<<20)
	if got, err := bufio.NewReader(waiting[0]).ReadString('\n'); got != "in\n" {
		t.Errorf("admitted connection got %q (%v)", got, err)
	}
	eventually(t, "a free place", func() bool {
		conn := dial(t, address)
		_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		got, _ := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		return got == "in\n"
	})
}

func TestClientsThatVanish(t *testing.T) {
	address := freeport.Address(t)
	start(t, layer4Caddyfile(address, `
		route {
			relay `+backend(t, echo("x"))+`
		}
	`))
	// The check that nothing is left over is in start.
	for i := range 40 {
		conn := dial(t, address)
		send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n"[:i%24], 1<<20)
		if i%2 == 0 {
			conn.SetLinger(0)
		}
		conn.Close()
	}
}

// A matcher that fails ends the stream: the next route might be the wrong one.
func TestMatcherThatFails(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, layer4Caddyfile(address, `
		@broken http_request expression `+"`"+`{http.request.uri.query.n}.matches({http.request.uri.query.re})`+"`"+`
		route @broken {
			relay `+backend(t, echo("broken"))+`
		}
		route {
			relay `+backend(t, echo("default"))+`
		}
	`))
	conn := dial(t, address)
	send(t, conn, "GET /?n=1&re=%5B HTTP/1.1\r\nHost: a\r\n\r\n", 1)
	expectAnswer(t, conn, "400")
	s.logs.expect(t, map[string]any{"msg": "matcher failed; closing the connection", "level": "warn", "matcher": "http_request"})
}

// pemOf returns a certificate in PEM.
func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// tlsClient is a TLS client configuration for servers with certificates of the
// test's own CA.
func tlsClient(alpn ...string) *tls.Config {
	return &tls.Config{ServerName: "example.com", InsecureSkipVerify: true, NextProtos: alpn}
}

// layer4Caddyfile is a layer4 server with inspect alone.
func layer4Caddyfile(address, inspect string) string {
	return "{\n layer4 {\n " + address + " {\n route {\n inspect {\n" + inspect + "\n}\n}\n}\n}\n}"
}
