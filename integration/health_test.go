package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// downable is a backend that can go down, with the connections it has staying open, and
// come up again.
type downable struct {
	t       *testing.T
	address string
	serve   func(net.Conn)
	ln      net.Listener
}

func newDownable(t *testing.T, serve func(net.Conn)) *downable {
	d := &downable{t: t, address: freeport.Address(t), serve: serve}
	d.up()
	return d
}

func (d *downable) up() {
	d.t.Helper()
	var err error
	if d.ln, err = net.Listen("tcp", d.address); err != nil {
		d.t.Fatal(err)
	}
	serveBackend(d.t, d.ln, d.serve)
}

func (d *downable) down() { d.ln.Close() }

// answering serves each request with its name.
func answering(name string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(name), name)
		}
	}
}

// answerTo sends a request and returns the content of the response, or its status if
// that is not 200.
func answerTo(t *testing.T, address, request string) string {
	t.Helper()
	resp, content := roundTrip(t, dial(t, address), request, 1<<20)
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprint(resp.StatusCode)
	}
	return content
}

const activeChecks = "health_interval 20ms\n health_timeout 5s\n health_fall 2\n health_rise 2\n"

func TestActiveHealthChecks(t *testing.T) {
	first, second := newDownable(t, answering("first")), newDownable(t, answering("second"))
	address := freeport.Address(t)
	relay := "relay " + first.address + " " + second.address + " {\n lb_policy first\n " + activeChecks + "}"
	s := start(t, relayCaddyfile(address, relay))
	if got := answerTo(t, address, getRoot); got != "first" {
		t.Errorf("both up: got %q", got)
	}

	first.down()
	s.logs.expect(t, map[string]any{"msg": "upstream is down", "upstream": first.address})
	s.logs.reset()
	if got := answerTo(t, address, getRoot); got != "second" {
		t.Errorf("first down: got %q", got)
	}
	if n := len(s.logs.lines(map[string]any{"msg": "dial failed"})); n > 0 {
		t.Errorf("got %d dials of the upstream that is down, want none", n)
	}

	// A reload keeps what is known.
	if err := s.load(relayCaddyfile(address, relay+"\n# again")); err != nil {
		t.Fatal(err)
	}
	if err := s.load(relayCaddyfile(address, strings.Replace(relay, "20ms", "1h", 1))); err != nil {
		t.Fatal(err)
	}
	s.logs.reset()
	if got := answerTo(t, address, getRoot); got != "second" {
		t.Errorf("after a reload: got %q", got)
	}
	if n := len(s.logs.lines(map[string]any{"msg": "dial failed"})); n > 0 {
		t.Errorf("after a reload: got %d dials of the upstream that is down, want none", n)
	}
	if err := s.load(relayCaddyfile(address, relay)); err != nil {
		t.Fatal(err)
	}

	second.down()
	eventually(t, "second down", func() bool { return answerTo(t, address, getRoot) == "503" })
	first.up()
	s.logs.expect(t, map[string]any{"msg": "upstream is up", "upstream": first.address})
	if got := answerTo(t, address, getRoot); got != "first" {
		t.Errorf("first up again: got %q", got)
	}

	// Without checks nobody could find out that it is up again.
	first.down()
	eventually(t, "first down", func() bool { return answerTo(t, address, getRoot) == "503" })
	if err := s.load(relayCaddyfile(address, "relay "+first.address)); err != nil {
		t.Fatal(err)
	}
	first.up()
	eventually(t, "first without checks", func() bool { return answerTo(t, address, getRoot) == "first" })
}

// TestCloseIfUnhealthy checks that the streams of an upstream end when it goes down,
// those of others do not, and that their places are free again.
func TestCloseIfUnhealthy(t *testing.T) {
	const stays, ends = "", " close_if_unhealthy\n"
	hold := func(conn net.Conn) {
		r := bufio.NewReader(conn)
		if line, _ := r.ReadString('\n'); strings.HasPrefix(line, "GET ") {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
		}
		_, _ = io.WriteString(conn, "held\n")
		_, _ = io.Copy(conn, r)
	}
	for _, test := range []struct{ name, option, request string }{
		{"raw stream", ends, "EHLO a\r\n"},
		{"response under way", ends, getRoot},
		{"raw stream stays", stays, "EHLO a\r\n"},
		{"response stays", stays, getRoot},
	} {
		t.Run(test.name, func(t *testing.T) {
			failing, other := newDownable(t, hold), newDownable(t, hold)
			address, otherAddress := freeport.Address(t), freeport.Address(t)
			relay := func(to string) string {
				return "route {\n inspect {\n @any inspected http other\n route @any {\n relay {\n " + activeChecks + test.option +
					"upstream " + to + " {\n max_connections 2\n }\n }\n }\n }\n }\n"
			}
			s := start(t, "{\n layer4 {\n "+address+" {\n "+relay(failing.address)+"}\n "+otherAddress+" {\n "+relay(other.address)+"}\n }\n}")
			open := func(address string) *bufio.Reader {
				conn := dial(t, address)
				conn.SetLinger(0) // a response goes on for a client that only says that it has sent all
				send(t, conn, test.request, 1<<20)
				r := bufio.NewReader(conn)
				for {
					if line, err := r.ReadString('\n'); err != nil {
						t.Fatal(err)
					} else if line == "held\n" {
						return r
					}
				}
			}
			streams := []*bufio.Reader{open(address), open(address)}
			open(otherAddress)

			failing.down()
			s.logs.expect(t, map[string]any{"msg": "upstream is down", "upstream": failing.address})
			if test.option == stays {
				if n := len(s.logs.lines(map[string]any{"msg": "stream ended"})); n > 0 {
					t.Errorf("got %d streams ended, want none", n)
				}
				return
			}
			for _, r := range streams {
				if _, err := io.Copy(io.Discard, r); !isReset(err) {
					t.Errorf("the client sees %v, want a reset", err)
				}
			}
			eventually(t, "ends of the streams", func() bool {
				return len(s.logs.lines(map[string]any{"msg": "stream ended", "cause": "killed", "upstream": failing.address})) == 2
			})
			if n := len(s.logs.lines(map[string]any{"msg": "stream ended"})); n != 2 {
				t.Errorf("got %d streams ended, want those of one upstream", n)
			}

			failing.up()
			s.logs.expect(t, map[string]any{"msg": "upstream is up"})
			open(address)
			open(address) // both places are free
			conn := dial(t, address)
			send(t, conn, getRoot, 1<<20)
			expectAnswer(t, conn, "503")
		})
	}
}

// TestCloseIfUnhealthyWaiting checks that a client which waits between two requests when the
// upstream goes down keeps its connection: its next request goes to another upstream.
func TestCloseIfUnhealthyWaiting(t *testing.T) {
	left := make(chan struct{})
	leaves := sync.OnceFunc(func() { close(left) })
	first := newDownable(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		if line, _ := r.ReadString('\n'); strings.HasPrefix(line, "GET ") {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
			_, _ = io.Copy(io.Discard, r)
			leaves()
		}
	})
	second := newDownable(t, answering("second"))
	address := freeport.Address(t)
	relay := "relay " + first.address + " " + second.address + " {\n lb_policy first\n close_if_unhealthy\n upstream_keepalive 1h\n " + activeChecks + "}"
	s := start(t, relayCaddyfile(address, relay))
	client := newScript(t, address)
	client.get("/", "first")
	// The client has its response before the session has ended the exchange: only then it waits.
	eventually(t, "client that waits", func() bool { return s.samples()[`kept_connections{state="waiting"}`] == 1 })
	first.down()
	s.logs.expect(t, map[string]any{"msg": "upstream is down", "upstream": first.address, "closed": 0.0})
	await(t, "end of the connection to the upstream", left)
	client.get("/", "second")
}

func TestPassiveHealthChecks(t *testing.T) {
	failing, working := newDownable(t, answering("first")), newDownable(t, answering("second"))
	failing.down()
	address := freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay "+failing.address+" "+working.address+" {\n lb_policy first\n fail_duration 1h\n max_fails 3\n }"))
	failedDials := func() int {
		return len(s.logs.lines(map[string]any{"msg": "dial failed", "upstream": failing.address}))
	}
	for i := range 6 {
		if got := answerTo(t, address, getRoot); got != "second" {
			t.Errorf("got %q, want the upstream that works", got)
		}
		if got, want := failedDials(), min(i+1, 3); got != want {
			t.Errorf("request %d: got %d failed dials, want %d", i, got, want)
		}
	}

	// Failures count for the address, also in the next configuration.
	if err := s.load(relayCaddyfile(address, "relay "+failing.address+" {\n fail_duration 1h\n max_fails 3\n }")); err != nil {
		t.Fatal(err)
	}
	if got := answerTo(t, address, getRoot); got != "503" {
		t.Errorf("the only upstream has failed: got %q, want 503", got)
	}
	failing.up()
	if got := answerTo(t, address, getRoot); got != "503" {
		t.Errorf("within fail_duration: got %q, want 503", got)
	}
	if err := s.load(relayCaddyfile(address, "relay "+failing.address+" {\n fail_duration 1h\n max_fails 4\n }")); err != nil {
		t.Fatal(err)
	}
	if got := answerTo(t, address, getRoot); got != "first" {
		t.Errorf("with more failures allowed: got %q, want the upstream", got)
	}
}

func TestPassiveFailuresAreForgotten(t *testing.T) {
	failing := newDownable(t, answering("back"))
	failing.down()
	address := freeport.Address(t)
	start(t, relayCaddyfile(address, "relay "+failing.address+" {\n fail_duration 200ms\n }"))
	if got := answerTo(t, address, getRoot); got != "502" {
		t.Errorf("first dial: got %q, want 502", got)
	}
	failing.up()
	eventually(t, "upstream after fail_duration", func() bool { return answerTo(t, address, getRoot) == "back" })
}

func TestUnhealthyConnectionCount(t *testing.T) {
	limited, own := backend(t, echo("limited")), backend(t, echo("own"))
	address := freeport.Address(t)
	start(t, relayCaddyfile(address, "relay "+limited+" {\n lb_policy first\n reuse pin\n unhealthy_connection_count 2\n upstream "+own+" {\n max_connections 1\n }\n }"))
	var got []string
	for range 3 {
		conn := dial(t, address)
		send(t, conn, getRoot, 1<<20)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(line))
	}
	if got, want := strings.Join(got, " "), "limited limited own"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	conn := dial(t, address)
	send(t, conn, getRoot, 1<<20)
	expectAnswer(t, conn, "503")
}

// TestDialAllow checks where a client can take a relay that dials what it asks for.
func TestDialAllow(t *testing.T) {
	host, port, _ := net.SplitHostPort(backend(t, answering("reached")))
	address := freeport.Address(t)
	relay := func(dial, allow string) string {
		return "relay " + dial + " {\n dial_allow " + allow + "\n lb_policy first\n lb_try_duration 1h\n fail_duration 1h\n }"
	}
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	for _, test := range []struct {
		name, dial, allow, request string
		want                       string
	}{
		{"address", "{l4.http.host}", host + "/32", get(host + ":" + port), "reached"},
		{"name with an allowed address", "{l4.http.host}", "127.0.0.0/8 ::1", get("localhost:" + port), "reached"},
		{"allowed name", "{l4.http.host}", "localhost", get("LocalHost:" + port), "reached"},
		{"field", "{l4.http.header.X-To}:" + port, "localhost", "GET / HTTP/1.1\r\nHost: a\r\nX-To: localhost\r\n\r\n", "reached"},
		{"port", host + ":{l4.http.header.X-Port}", host, "GET / HTTP/1.1\r\nHost: a\r\nX-Port: " + port + "\r\n\r\n", "reached"},
		{"host and port of Host", "{l4.http.hostname}:{l4.http.port}", "localhost", get("localhost:" + port), "reached"},
		{"host of Host", "{l4.http.hostname}:" + port, "localhost", get("localhost"), "reached"},
		{"another address", "{l4.http.host}", "10.0.0.0/8", get(host + ":" + port), "refused"},
		{"IPv6 loopback", "{l4.http.host}", "127.0.0.0/8", get("[::1]:" + port), "refused"},
		{"loopback as IPv6", "{l4.http.host}", "10.0.0.0/8", get("[::ffff:127.0.0.1]:" + port), "refused"},
		{"another name", "{l4.http.host}", "*.example.org", get("localhost:" + port), "refused"},
		{"name with another address", "{l4.http.host}", "10.0.0.0/8", get("localhost:" + port), "refused"},
		{"another address before one that is fixed", "{l4.http.host} " + host + ":" + port, "10.0.0.0/8", get("localhost:" + port), "refused"},
		{"no port", "{l4.http.host}", "localhost", get("localhost"), "none"},
		{"a socket of this machine", "{l4.http.header.X-To}", "localhost", "GET / HTTP/1.1\r\nHost: a\r\nX-To: unix//run/docker.sock\r\n\r\n", "none"},
		{"nothing", "{l4.http.header.X-To}", "localhost", get("localhost"), "none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, relayCaddyfile(address, relay(test.dial, test.allow)))
			// Twice: what one client asks for is not held against the next one.
			for range 2 {
				conn := dial(t, address)
				send(t, conn, test.request, 1)
				if test.want == "reached" {
					if _, got := roundTrip(t, conn, "", 1); got != "reached" {
						t.Errorf("got %q", got)
					}
					continue
				}
				expectAnswer(t, conn, "502")
			}
			for want, msg := range map[string]string{"refused": "address refused", "none": "no address to dial"} {
				n := len(s.logs.lines(map[string]any{"level": "warn", "msg": msg}))
				if want == test.want && n != 1 || want != test.want && n != 0 {
					t.Errorf("got %d log lines that say %q for 2 requests, want 1 for both\n%s", n, msg, s.logs.problems())
				}
			}
		})
	}
}

// TestDialAllowWithoutHTTP checks that a stream that has no answer is closed.
func TestDialAllowWithoutHTTP(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay {l4.http.host} {\n dial_allow localhost\n }"))
	conn := dial(t, address)
	send(t, conn, "EHLO a\r\n", 1<<20)
	if got := receive(t, conn); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
	s.logs.expect(t, map[string]any{"msg": "no address to dial"})
}

// TestDialAllowWithTheHostAsSent checks the documented relay to where a request asks for:
// with the port of Host, with the default port, and with an IPv6 address.
func TestDialAllowWithTheHostAsSent(t *testing.T) {
	address := freeport.Address(t)
	start(t, relayCaddyfile(address, "relay {l4.http.hostname}:{l4.http.port} {\n dial_allow localhost ::1\n }"))
	for host, listen := range map[string]string{
		"localhost:": "127.0.0.1:0",
		"localhost":  "127.0.0.1:80",
		"[::1]:":     "[::1]:0",
		"[::1]":      "[::1]:80",
	} {
		t.Run(host, func(t *testing.T) {
			ln, err := net.Listen("tcp", listen)
			if err != nil {
				t.Skip(err) // no IPv6, no right to listen on port 80
			}
			serveBackend(t, ln, answering("reached"))
			if strings.HasSuffix(host, ":") {
				host += fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)
			}
			if got := answerTo(t, address, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); got != "reached" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestHeadPolicies checks that requests with the same value reach the same upstream, in
// relay and in caddy-l4's proxy.
func TestHeadPolicies(t *testing.T) {
	var upstreams []string
	for _, name := range []string{"a", "b", "c"} {
		upstreams = append(upstreams, backend(t, answering(name)))
	}
	for _, handler := range []string{"relay", "proxy"} {
		for policy, request := range map[string]string{
			"header X-Tenant": "GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: %d\r\nConnection: close\r\n\r\n",
			"cookie sid":      "GET / HTTP/1.1\r\nHost: a\r\nCookie: sid=%d\r\nConnection: close\r\n\r\n",
			"uri_hash":        "GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		} {
			t.Run(handler+"/"+policy, func(t *testing.T) {
				address := freeport.Address(t)
				start(t, relayCaddyfile(address, handler+" "+strings.Join(upstreams, " ")+" {\n lb_policy "+policy+"\n }"))
				used := make(map[string]bool)
				for value := range 12 {
					seen := make(map[string]bool)
					for range 3 {
						seen[answerTo(t, address, fmt.Sprintf(request, value))] = true
					}
					if len(seen) != 1 {
						t.Errorf("value %d: got %v, want one upstream", value, seen)
					}
					for name := range seen {
						used[name] = true
					}
				}
				if len(used) < 2 {
					t.Errorf("got %v for all values, want several upstreams", used)
				}
			})
		}
	}
}

// TestHealthChecksWithTLS checks that a check is a connection without TLS, and that an
// upstream whose handshake fails is the business of passive checks.
func TestHealthChecksWithTLS(t *testing.T) {
	var accepted atomic.Int32
	plain := backend(t, func(conn net.Conn) {
		accepted.Add(1)
		answering("plain")(conn)
	})
	address := freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay {\n "+activeChecks+" fail_duration 1h\n upstream "+plain+" {\n tls\n }\n }"))
	if got := answerTo(t, address, getRoot); got != "502" {
		t.Errorf("first request: got %q, want 502", got)
	}
	if got := answerTo(t, address, getRoot); got != "503" {
		t.Errorf("after the failure: got %q, want 503", got)
	}
	before := accepted.Load()
	eventually(t, "checks", func() bool { return accepted.Load() > before+3 })
	if n := len(s.logs.lines(map[string]any{"msg": "upstream is down"})); n > 0 {
		t.Error("the upstream is down, though it accepts connections")
	}
}
