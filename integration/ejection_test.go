package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// getOnce is the only request of its connection.
const getOnce = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

const ejectedLine = "upstream is ejected: streams to it have failed"

// askFrom sends a request from one of the addresses of this machine, and returns the answer.
func askFrom(t *testing.T, from, address, request string) (answer string) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Skip("several clients need several loopback addresses: ", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, request)
	got, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: no end of the answer", from)
	}
	return string(got)
}

// upstreamState is what the admin API says of an upstream.
func (s *server) upstreamState(address string) (found struct{ Healthy, Ejected bool }) {
	s.t.Helper()
	var all []struct {
		Address          string
		Healthy, Ejected bool
	}
	s.get("/streamprox/upstreams", &all)
	for _, u := range all {
		if u.Address == address {
			found.Healthy, found.Ejected = u.Healthy, u.Ejected
			return found
		}
	}
	s.t.Fatalf("no upstream %s in %v", address, all)
	return found
}

// TestEjection checks that an upstream which accepts and then fails is left out once several
// clients have seen that, for requests and raw streams; that one client cannot
// do it, whatever it does; that it is seen; and that it outlives a reload.
func TestEjection(t *testing.T) {
	answer := func(conn net.Conn) {
		_, _ = bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nworking")
	}
	// A reset that comes sooner may be a dial that fails.
	fails := map[string]func(conn net.Conn){
		"reset": func(conn net.Conn) {
			_, _ = bufio.NewReader(conn).ReadString('\n')
			_ = conn.(*net.TCPConn).SetLinger(0)
		},
		"closed before a response": func(conn net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(conn)) },
		"closed after an interim response": func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 102 Processing\r\n\r\n")
		},
		"no HTTP": func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "220 smtp.example ESMTP\r\n")
		},
	}
	const raw = "EHLO a\r\n"
	for _, test := range []struct{ name, request, failure string }{
		{"request", getOnce, "reset"},
		{"request", getOnce, "closed before a response"},
		{"request", getOnce, "closed after an interim response"},
		{"request", getOnce, "no HTTP"},
		{"raw stream", raw, "reset"},
	} {
		t.Run(test.name+" "+test.failure, func(t *testing.T) {
			failing, working := backend(t, fails[test.failure]), backend(t, answer)
			address := freeport.Address(t)
			config := layer4Caddyfile(address, "@any inspected http other\n route @any {\n relay "+failing+" "+working+" {\n lb_policy first\n fail_duration 1h\n }\n }")
			s := start(t, config)
			before := s.samples()
			ended := 0
			ask := func(from string) string {
				t.Helper()
				got := askFrom(t, from, address, test.request)
				if !strings.Contains(got, "working") {
					ended++
					eventually(t, "end of the stream", func() bool {
						return len(s.logs.lines(map[string]any{"msg": "stream ended", "upstream": failing})) >= ended
					})
				}
				return got
			}
			for range 10 {
				if got := ask("127.0.0.2"); strings.Contains(got, "working") {
					t.Fatal("one client has ejected an upstream")
				}
			}
			ask("127.0.0.3")
			if state := s.upstreamState(failing); state.Ejected || len(s.logs.lines(map[string]any{"msg": ejectedLine})) != 0 {
				t.Fatal("two clients have ejected an upstream")
			}
			// A stream that takes a second on a busy machine does not count.
			for n := 4; len(s.logs.lines(map[string]any{"msg": ejectedLine})) == 0 && n < 30; n++ {
				ask(fmt.Sprint("127.0.0.", n))
			}
			s.logs.expect(t, map[string]any{"msg": ejectedLine, "level": "warn", "upstream": failing, "for": 3600})

			leftOut := func(when string) {
				t.Helper()
				for _, from := range []string{"127.0.0.2", "127.0.0.30"} {
					if got := ask(from); !strings.Contains(got, "working") {
						t.Errorf("%s: %s got %q", when, from, got)
					}
				}
			}
			leftOut("ejected")
			if state := s.upstreamState(failing); !state.Ejected || !state.Healthy || s.upstreamState(working).Ejected {
				t.Errorf("the admin API says %+v", state)
			}
			name := func(upstream string) string {
				return `upstream_ejections_total{upstream="` + upstream + `"}`
			}
			s.become("the ejection", before, samples{name(failing): 1, name(working): 0})
			explained := s.explain(map[string]any{"listen": address, "bytes": []byte(test.request)}).Destination
			if explained.Address != working || explained.Upstreams[0].Out != "it is ejected: streams to it have failed" {
				t.Errorf("explained as %+v", explained)
			}

			if err := s.load(config + "\n# again"); err != nil {
				t.Fatal(err)
			}
			leftOut("after a reload")

			// It is used all the same rather than none.
			s.drain(working, "drain")
			if got := ask("127.0.0.2"); strings.Contains(got, "working") || test.name == "request" && !strings.Contains(got, "HTTP/1.1 502 ") {
				t.Errorf("no other is available: got %q", got)
			}
			s.drain(working, "undrain")
			leftOut("another is available again")
		})
	}
}

// drain tells the admin API to drain an upstream, or to undrain it.
func (s *server) drain(upstream, verb string) {
	s.t.Helper()
	if status, text := s.api("POST", "/streamprox/upstreams/"+upstream+"/"+verb, "{}"); status != http.StatusOK {
		s.t.Fatalf("%s: %d %s", verb, status, text)
	}
}

// TestEjectionEnds checks that an ejected upstream gets streams again after fail_duration.
func TestEjectionEnds(t *testing.T) {
	for name, request := range map[string]string{"request": getOnce, "raw stream": "EHLO a\r\n"} {
		t.Run(name, func(t *testing.T) {
			var repaired atomic.Bool
			respond := func(conn net.Conn, name string) {
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(name), name)
			}
			first := backend(t, func(conn net.Conn) {
				_, _ = bufio.NewReader(conn).ReadString('\n')
				if !repaired.Load() {
					_ = conn.(*net.TCPConn).SetLinger(0)
					return
				}
				respond(conn, "first")
			})
			second := backend(t, func(conn net.Conn) {
				_, _ = bufio.NewReader(conn).ReadString('\n')
				respond(conn, "second")
			})
			address := freeport.Address(t)
			s := start(t, layer4Caddyfile(address, "@any inspected http other\n route @any {\n relay "+first+" "+second+" {\n lb_policy first\n fail_duration 2s\n }\n }"))
			client := 0
			eventually(t, "ejection", func() bool {
				client = (client + 1) % 40
				_ = askFrom(t, fmt.Sprint("127.0.0.", 2+client), address, request)
				return len(s.logs.lines(map[string]any{"msg": ejectedLine, "upstream": first})) > 0
			})
			repaired.Store(true)
			eventually(t, "streams to the upstream", func() bool {
				got := askFrom(t, "127.0.0.2", address, request)
				if !strings.HasSuffix(got, "first") && !strings.HasSuffix(got, "second") {
					t.Fatalf("got %q", got)
				}
				return strings.HasSuffix(got, "first")
			})
			if s.upstreamState(first).Ejected {
				t.Error("the admin API says that it is still ejected")
			}
		})
	}
}

// TestClientsEjectNothing checks that streams which end by the client, or after an answer, are not
// held against an upstream, however many clients there are.
func TestClientsEjectNothing(t *testing.T) {
	upstream := backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		line, _ := r.ReadString('\n')
		switch {
		case strings.HasPrefix(line, "answer"):
			_, _ = io.WriteString(conn, "a")
			_ = conn.(*net.TCPConn).SetLinger(0)
		case strings.HasPrefix(line, "POST /large"):
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
			_ = conn.(*net.TCPConn).SetLinger(0)
		default:
			_, _ = io.Copy(io.Discard, r)
		}
	})
	address, limited := freeport.Address(t), freeport.Address(t)
	relay := func(options string) string {
		return "@any inspected http other\n route @any {\n relay " + upstream + " " + freeport.Address(t) + " {\n lb_policy first\n fail_duration 1h\n " + options + "}\n }\n"
	}
	s := start(t, "{\n layer4 {\n "+address+" {\n route {\n inspect {\n"+relay("")+"}\n }\n }\n "+
		limited+" {\n route {\n inspect {\n"+relay("response_header_timeout 10ms\n")+"}\n }\n }\n }\n}")
	n := 0
	for _, test := range []struct {
		name, address, send string
		reset               bool // by the client
		status              string
	}{
		{"an answer, and a reset", address, "answer\n", false, ""},
		{"a reset by the client", address, "hello\n", true, ""},
		{"a request whose client leaves", address, getOnce, true, ""},
		{"a request whose client ends it early", address, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n", false, "400"},
		{"a response, and a reset", address, "POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", false, "413"},
		{"no response in time", limited, getOnce, false, "504"},
	} {
		for _, from := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"} {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			conn, err := dialer.DialContext(t.Context(), "tcp", test.address)
			if err != nil {
				t.Skip("several clients need several loopback addresses: ", err)
			}
			_, _ = io.WriteString(conn, test.send)
			if test.reset {
				eventually(t, "stream", func() bool { return s.list("upstream="+upstream+"&state=open").Total == 1 })
				_ = conn.(*net.TCPConn).SetLinger(0)
			} else {
				got, _ := io.ReadAll(conn)
				if test.status != "" && !strings.HasPrefix(string(got), "HTTP/1.1 "+test.status+" ") {
					t.Errorf("%s: got %q", test.name, got)
				}
			}
			conn.Close()
			n++
			eventually(t, "end of: "+test.name, func() bool { return len(s.logs.lines(map[string]any{"msg": "stream ended"})) == n })
		}
		if lines := s.logs.lines(map[string]any{"msg": ejectedLine}); len(lines) > 0 {
			t.Fatalf("%s: %v", test.name, lines)
		}
	}
}
