package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// What a user of the HTTP app sees of parking: the table in docs/http_app.md.

func init() {
	caddy.RegisterModule(connectionsSeen{})
	caddy.RegisterModule(readsAhead{})
	httpcaddyfile.RegisterHandlerDirective("streamprox_test_connections", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return connectionsSeen{}, nil
	})
}

// connectionsSeen is an HTTP handler that notes the states of its server's connections, as
// Caddy lets plugins do, and answers with the number of the connection.
type connectionsSeen struct{}

var seen struct {
	mu     sync.Mutex
	states map[net.Conn][]http.ConnState
	number int
}

type connectionNumber struct{}

func (connectionsSeen) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.streamprox_test_connections", New: func() caddy.Module { return connectionsSeen{} }}
}

func (connectionsSeen) Provision(ctx caddy.Context) error {
	server := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	seen.states, seen.number = make(map[net.Conn][]http.ConnState), 0
	server.RegisterConnState(func(conn net.Conn, state http.ConnState) {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		seen.states[conn] = append(seen.states[conn], state)
	})
	server.RegisterConnContext(func(ctx context.Context, _ net.Conn) context.Context {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		seen.number++
		return context.WithValue(ctx, connectionNumber{}, seen.number)
	})
	return nil
}

func (connectionsSeen) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	_, err := fmt.Fprint(w, r.Context().Value(connectionNumber{}))
	return err
}

// readsAhead is a listener wrapper with a buffer, through which the server reads.
type readsAhead struct{}

func (readsAhead) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.streamprox_test_ahead", New: func() caddy.Module { return new(readsAhead) }}
}
func (readsAhead) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (readsAhead) WrapListener(ln net.Listener) net.Listener     { return aheadListener{ln} }

type aheadListener struct{ net.Listener }

func (l aheadListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return aheadConn{conn, bufio.NewReader(conn)}, nil
}

type aheadConn struct {
	net.Conn
	r *bufio.Reader
}

func (c aheadConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// asked is one request on a connection, with its answer.
func (s *script) asked(request string) string {
	s.t.Helper()
	if _, err := io.WriteString(s.conn, request); err != nil {
		s.t.Fatal(err)
	}
	response, err := http.ReadResponse(s.r, nil)
	if err != nil {
		s.t.Fatalf("after %.100q: %v\n%s", request, err, theLogs.problems())
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("after %.100q: %v", request, err)
	}
	return fmt.Sprint(response.StatusCode, " ", string(content))
}

// TestParkedPlaceholdersAndLogs: a request on a connection that was parked has the placeholders
// of the one before, and one line in the access log, with the same addresses.
func TestParkedPlaceholdersAndLogs(t *testing.T) {
	parksHere(t)
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		t.Run(network, func(t *testing.T) {
			address, listen := freeport.Address(t), ""
			switch network {
			case "tcp4":
				listen = address
			case "tcp6":
				_, port, _ := net.SplitHostPort(address)
				address = net.JoinHostPort("::1", port)
				if ln, err := net.Listen("tcp6", address); err != nil {
					t.Skip("no IPv6 here")
				} else {
					ln.Close()
				}
				listen = address
			case "unix":
				dir, err := os.MkdirTemp("", "sp") // the path of a socket is short
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.RemoveAll(dir) })
				address = filepath.Join(dir, "s")
				listen = "unix/" + address
			}
			placeholders := []string{"proto", "scheme", "host", "port", "hostport", "local", "local.host", "local.port",
				"remote", "remote.host", "remote.port", "tls.version", "tls.client.subject"}
			body := "-"
			for _, name := range placeholders {
				body += " " + name + "={http.request." + name + "}"
			}
			body += " client_ip={client_ip} l4={l4.conn.remote_addr}"
			s := start(t, parkSite(listen, "metrics", "", "park 20ms", "log\nrespond `"+body+"`"))
			var conn net.Conn
			eventually(t, "listener", func() (ok bool) {
				var err error
				conn, err = net.Dial(network[:min(len(network), 4)], address)
				return err == nil
			})
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			c := &script{t: t, conn: conn, r: bufio.NewReader(conn)}
			const requests = 3
			var first string
			for i := range requests {
				got := c.asked("GET / HTTP/1.1\r\nHost: a.example:81\r\n\r\n")
				if i == 0 {
					first = got
				} else if got != first {
					t.Errorf("after parking: got\n%s\nwant\n%s", got, first)
				}
				s.parked()
			}
			eventually(t, "access log", func() bool { return len(accesses()) >= requests })
			lines := accesses()
			if len(lines) != requests {
				t.Fatalf("%d lines in the access log, want %d", len(lines), requests)
			}
			for _, line := range lines {
				got, want := line["request"].(map[string]any), lines[0]["request"].(map[string]any)
				if !maps.EqualFunc(got, want, func(a, b any) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
					t.Errorf("access log after parking: got %v, want %v", got, want)
				}
				if line["bytes_read"] != lines[0]["bytes_read"] || line["size"] != lines[0]["size"] || line["status"] != lines[0]["status"] {
					t.Errorf("access log after parking: got %v, want %v", line, lines[0])
				}
			}
			_, metrics := s.api("GET", "/metrics", "")
			if got := sum(metrics, "caddy_http_request_duration_seconds_count"); got != requests {
				t.Errorf("metrics: %d requests, want %d\n%s", got, requests, metrics)
			}
			if got := sum(metrics, "caddy_http_requests_in_flight"); got != 0 {
				t.Errorf("metrics: %d requests in flight, want none", got)
			}
		})
	}
}

// accesses returns the lines of the access log.
func accesses() []map[string]any {
	return theLogs.lines(map[string]any{"msg": "handled request"})
}

// sum adds up the values of a metric.
func sum(metrics, name string) (total int) {
	for _, sample := range regexp.MustCompile(`(?m)^`+name+`\{[^}]*\} (\d+)$`).FindAllStringSubmatch(metrics, -1) {
		var n int
		_, _ = fmt.Sscan(sample[1], &n)
		total += n
	}
	return total
}

// TestParkedDuration: the time that a connection was parked is in no request's duration, and
// while a request takes longer than park its connection is not parked.
func TestParkedDuration(t *testing.T) {
	parksHere(t)
	for _, wrapper := range []string{"", "proxy_protocol", "streamprox_test_ahead"} {
		for _, protocols := range []string{"", "protocols h1"} {
			t.Run(wrapper+" "+protocols, func(t *testing.T) {
				address := freeport.Address(t)
				arrived, finish := make(chan struct{}, 2), make(chan struct{}, 2)
				up := backend(t, func(conn net.Conn) {
					if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
						return
					}
					arrived <- struct{}{}
					select {
					case <-finish:
					case <-time.After(patience):
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
				})
				wrapped := ""
				if wrapper != "" {
					wrapped = "listener_wrappers {\n" + wrapper + "\n}\n"
				}
				s := start(t, parkSite(address, "servers {\n"+wrapped+protocols+"\n}", "", "park 20ms",
					"log\nhandle /slow {\n reverse_proxy "+up+"\n }\n handle {\n respond ok\n }"))
				c := newScript(t, address)
				for range 2 {
					c.get("/", "ok")
					if wrapper != "streamprox_test_ahead" {
						s.parked()
					}
					c.get("/slow")
					select {
					case <-arrived:
					case <-time.After(patience):
						t.Fatal("the request does not arrive")
					}
					time.Sleep(60 * time.Millisecond) // more than is needed to park, were it idle
					finish <- struct{}{}              // has room
					c.get("", "slow")
				}
			})
		}
	}
}

// TestParkedStates: to plugins that look at connections, a connection that is parked has
// ended, and one that comes back is new.
func TestParkedStates(t *testing.T) {
	parksHere(t)
	address := freeport.Address(t)
	s := start(t, parkSite(address, "", "", "park 20ms", "route {\nstreamprox_test_connections\n}"))
	c := newScript(t, address)
	c.get("/ /", "1", "1")
	s.parked()
	c.get("/ /", "2", "2")
	s.parked()
	c.get("/", "3")
	s.parked()
	eventually(t, "end of the connections", func() bool {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		for _, states := range seen.states {
			if states[len(states)-1] != http.StateClosed {
				return false
			}
		}
		return true
	})
	seen.mu.Lock()
	defer seen.mu.Unlock()
	var got []string
	for _, states := range seen.states {
		got = append(got, fmt.Sprint(states))
	}
	slices.Sort(got)
	want := []string{"[new active idle active idle closed]", "[new active idle active idle closed]", "[new active idle closed]"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestParkedUploads: content that follows a request on a connection that was parked, at once,
// byte by byte, or when the server asks for it, arrives whole.
func TestParkedUploads(t *testing.T) {
	parksHere(t)
	address := freeport.Address(t)
	up := backend(t, func(conn net.Conn) {
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, request.Body)
		content := fmt.Sprint(n, " ", err, " ", request.Trailer.Get("T"))
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(content), content)
	})
	s := start(t, parkSite(address, "", "", "park 20ms", "reverse_proxy "+up))
	c := newScript(t, address)
	const size = 8 << 20
	big := strings.Repeat("x", size)
	const post = "POST / HTTP/1.1\r\nHost: a\r\n"
	for _, test := range []struct{ name, request, want string }{
		{"nothing", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200 0 <nil> "},
		{"big", fmt.Sprintf(post+"Content-Length: %d\r\n\r\n%s", size, big), fmt.Sprintf("200 %d <nil> ", size)},
		{"chunks", fmt.Sprintf(post+"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", size, big), fmt.Sprintf("200 %d <nil> ", size)},
		{"trailer", post + "Transfer-Encoding: chunked\r\nTrailer: T\r\n\r\n2\r\nab\r\n0\r\nT: t\r\n\r\n", "200 2 <nil> t"},
	} {
		if got := c.asked(test.request); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		s.parked()
	}
	for range 2 {
		_, _ = io.WriteString(c.conn, post+"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		if line, err := c.r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q (%v)", line, err)
		}
		_, _ = c.r.ReadString('\n')
		time.Sleep(60 * time.Millisecond) // more than is needed to park, were it idle
		c.get("")
		_, _ = io.WriteString(c.conn, "hello")
		c.get("", "5 <nil> ")
		s.parked()
	}
	for range 2 {
		send(t, c.conn.(net.Conn), post+"Content-Length: 5\r\n\r\nhello", 1)
		c.get("", "5 <nil> ")
		s.parked()
	}
}

// TestParkedLastRequests: after parking, a connection ends where the client or the site asks
// for it, and the one of an HTTP/1.0 client goes on only if that asks for it.
func TestParkedLastRequests(t *testing.T) {
	parksHere(t)
	address := freeport.Address(t)
	s := start(t, parkSite(address, "", "", "park 20ms", "header /last Connection close\nrespond {http.request.uri}"))
	for _, test := range []struct {
		name, request string
		halfClose     bool
		want          string
	}{
		{"the client asks for it", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false, "/a"},
		{"the site asks for it", "GET /last HTTP/1.1\r\nHost: a\r\n\r\n", false, "/last"},
		{"HTTP/1.0", "GET /b HTTP/1.0\r\nHost: a\r\n\r\n", false, "/b"},
		{"the client finishes sending", "GET /c HTTP/1.1\r\nHost: a\r\n\r\n", true, "/c"},
		{"and sends nothing", "", true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := dial(t, address)
			c := &script{t: t, conn: conn, r: bufio.NewReader(conn)}
			for range 2 {
				if got := c.asked("GET /1 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"); got != "200 /1" {
					t.Fatalf("got %q", got)
				}
				s.parked()
			}
			_, _ = io.WriteString(conn, test.request)
			if test.halfClose {
				_ = conn.CloseWrite()
			}
			if test.want != "" {
				c.get("", test.want)
			}
			if rest, err := io.ReadAll(c.r); len(rest) > 0 || err != nil {
				t.Errorf("got %q (%v), want the end", rest, err)
			}
		})
	}
}

// TestParkedResponseOnItsWay: a response that the client has not read yet survives the end of
// its connection, which was parked meanwhile.
func TestParkedResponseOnItsWay(t *testing.T) {
	parksHere(t)
	const size = 256 << 10 // it has room in the sockets
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"reload", "idle", "half-close"} {
		t.Run(end, func(t *testing.T) {
			idle := "1h"
			if end == "idle" {
				idle = "100ms"
			}
			address := freeport.Address(t)
			caddyfile := parkSite(address, "servers {\ntimeouts {\nidle "+idle+"\n}\n}", "", "park 20ms", "root * \""+filepath.ToSlash(dir)+"\"\nfile_server")
			s := start(t, caddyfile)
			conn := dial(t, address)
			if _, err := io.WriteString(conn, "GET /file HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReaderSize(conn, 16)
			if _, err := r.Peek(1); err != nil {
				t.Fatal(err)
			}
			s.parked()
			switch end {
			case "reload":
				if err := s.load(strings.Replace(caddyfile, "park 20ms", "park 30ms", 1)); err != nil {
					t.Fatal(err)
				}
			case "half-close":
				_ = conn.CloseWrite()
			}
			eventually(t, "end of the connection", func() bool { return established(t, address) == 0 })
			response, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, response.Body); n != size || err != nil {
				t.Errorf("got %d bytes (%v), want %d", n, err, size)
			}
			if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
				t.Errorf("then got %q (%v), want the end", rest, err)
			}
		})
	}
}

// established returns how many connections of a loopback address of IPv4 are established, as
// the server sees them.
func established(t *testing.T, address string) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscanf(address, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	local := fmt.Sprintf(": 0100007F:%04X ", port)
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 3 && strings.Contains(line, local) && (fields[3] == "01" || fields[3] == "08") {
			n++ // ESTABLISHED, or CLOSE_WAIT
		}
	}
	return n
}

// TestParkedSurplus: requests that come in any pieces and any number about when the connection
// is parked are answered in order, each once.
func TestParkedSurplus(t *testing.T) {
	parksHere(t)
	const clients, rounds = 16, 60
	address := freeport.Address(t)
	start(t, parkSite(address, "", "@b http_request path /b/*\nroute @b {\nhttp_respond 204\n}", "park 2ms", "log\nrespond {http.request.uri}"))
	var all sync.WaitGroup
	for i := range clients {
		conn := dial(t, address)
		_ = conn.SetDeadline(time.Now().Add(3 * patience))
		all.Go(func() {
			c := &script{t: t, conn: conn, r: bufio.NewReader(conn)}
			for round := range rounds {
				time.Sleep(time.Duration(1500+(i*61+round*131)%1000) * time.Microsecond)
				var requests strings.Builder
				n := 1 + (i+round)%3
				for j := range n {
					fmt.Fprintf(&requests, "GET /%d/%d/%d HTTP/1.1\r\nHost: a\r\n\r\n", i, round, j)
				}
				cut := 1 + (i*7+round*13)%(requests.Len()-1)
				_, _ = io.WriteString(conn, requests.String()[:cut])
				time.Sleep(time.Duration((i+round)%4) * time.Millisecond)
				_, _ = io.WriteString(conn, requests.String()[cut:])
				for j := range n {
					c.get("", fmt.Sprintf("/%d/%d/%d", i, round, j))
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	all.Wait()
	want := 0
	for i := range clients {
		for round := range rounds {
			want += 1 + (i+round)%3
		}
	}
	eventually(t, "access log", func() bool { return len(accesses()) >= want })
	if got := len(accesses()); got != want {
		t.Errorf("%d lines in the access log, want %d", got, want)
	}
}

// TestParkedReloadUnderGrace: while a replaced server has its grace period, for a request on a
// connection that was parked before, those that are parked are closed at once, and that one
// after its response.
func TestParkedReloadUnderGrace(t *testing.T) {
	parksHere(t)
	const n = 50
	for _, grace := range []string{"", "grace_period 1h"} {
		t.Run(grace, func(t *testing.T) {
			address := freeport.Address(t)
			arrived, finish := make(chan struct{}, 1), make(chan struct{}, 1)
			up := backend(t, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				arrived <- struct{}{}
				select {
				case <-finish:
				case <-time.After(patience):
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
			})
			caddyfile := func(answer string) string {
				return parkSite(address, grace, "", "park 100ms", "handle /slow {\n reverse_proxy "+up+"\n }\n handle {\n respond "+answer+"\n }")
			}
			s := start(t, caddyfile("ok"))
			clients := connections(t, address, n)
			busy := newScript(t, address)
			busy.get("/", "ok")
			s.parked()
			busy.get("/slow")
			select {
			case <-arrived:
			case <-time.After(patience):
				t.Fatal("the request does not arrive")
			}
			if err := s.load(caddyfile("new")); err != nil {
				t.Fatal(err)
			}
			for _, c := range clients {
				c.get("", "end")
			}
			newScript(t, address).get("/", "new")
			finish <- struct{}{}
			busy.get("", "slow", "end")
		})
	}
}

// TestParkedShutdownAsItComes: of a process that is told to stop while requests come on
// connections that are parked, a client gets a whole response or none.
func TestParkedShutdownAsItComes(t *testing.T) {
	parksHere(t)
	const clients = 1000
	for _, park := range []string{"200ms", "0"} {
		t.Run(park, func(t *testing.T) {
			address, admin := freeport.Address(t), freeport.Address(t)
			p := startProcess(t, parkSite(address, "admin "+admin+"\ngrace_period 1m", "", "park "+park, "respond ok"))
			open := connections(t, address, clients)
			if park != "0" {
				eventually(t, "parked connections", func() bool { return goroutinesIn(t, admin, waitsInHandler, waitsInServer) == 0 })
			}
			answered := 0
			for i, c := range open {
				if i == clients/10 {
					p.stop()
				}
				_, _ = io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") // it may have ended
			}
			for i, c := range open {
				if _, err := c.r.Peek(1); err != nil {
					if err != io.EOF && !isReset(err) {
						t.Errorf("client %d: %v", i, err)
					}
					continue
				}
				c.get("", "ok")
				answered++
			}
			t.Logf("%d of %d answered", answered, clients)
		})
	}
}
