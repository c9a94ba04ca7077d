package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// parksHere skips a test where connections are not parked.
func parksHere(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getenv("STREAMPROX_ENGINE") == "portable" {
		t.Skip("nothing parks connections here")
	}
}

// parkSite is a Caddyfile: a site behind http_app with these options, the routes before it,
// and the global options.
func parkSite(address, global, routes, options, site string) string {
	return `{
		` + global + `
		layer4 {
			` + address + ` {
				route {
					inspect {
						` + routes + `
						route {
							http_app web {
								` + options + `
							}
						}
					}
				}
			}
		}
	}
	http://:80 {
		bind streamprox/web
		` + site + `
	}`
}

// goroutinesIn returns how many goroutines of the Caddy with that admin address are in one of
// the functions, whose names are parts of what its profile says.
func goroutinesIn(t *testing.T, admin string, functions ...string) (n int) {
	t.Helper()
	request, err := http.NewRequest("GET", "http://"+admin+"/debug/pprof/goroutine?debug=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	profile, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for stack := range strings.SplitSeq(string(profile), "\n\n") {
		count := goroutineCount.FindStringSubmatch(stack)
		for _, function := range functions {
			if count != nil && strings.Contains(stack, function) {
				is, _ := strconv.Atoi(count[1])
				n += is
				break
			}
		}
	}
	return n
}

// goroutineCount finds how many goroutines have one stack.
var goroutineCount = regexp.MustCompile(`(?m)^(\d+) @ `)

// Where the goroutines of a connection are that is not parked: caddy-l4's, and that of the HTTP
// server.
const (
	waitsInHandler = "caddy-streamprox.(*HTTPApp).Handle"
	waitsInServer  = "caddy-streamprox.(*reinspectConn).Read"
	waitsForHead   = "caddy-streamprox.(*inspection).serve"
)

// parked waits until nothing but the engine has a connection.
func (s *server) parked() {
	s.t.Helper()
	eventually(s.t, "parked connection", func() bool {
		return goroutinesIn(s.t, s.admin, waitsInHandler, waitsInServer, waitsForHead) == 0
	})
}

// TestParkedConnectionMovesOn: one connection visits the HTTP app, is parked, goes to a relay,
// waits there, and comes back. To all it is the same client.
func TestParkedConnectionMovesOn(t *testing.T) {
	parksHere(t)
	address := freeport.Address(t)
	s := start(t, parkSite(address, "", `
		@b http_request path /b/*
		route @b {
			relay `+numberedBackend(t)+` {
				upstream_keepalive 0
			}
		}
		@answer http_request path /answer
		route @answer {
			http_respond 204
		}`, "park 20ms", `respond "{http.request.uri} {http.request.remote.port}"`))
	conn := dial(t, address)
	c := &script{t: t, conn: conn, r: bufio.NewReader(conn)}
	port := fmt.Sprint(" ", conn.LocalAddr().(*net.TCPAddr).Port)
	for i := range 3 {
		c.get("/1", "/1"+port)
		s.parked()
		c.get("/2 /3", "/2"+port, "/3"+port)
		s.parked()
		c.get("/b/4", fmt.Sprint(2*i+1))
		c.get("/b/5", fmt.Sprint(2*i+2))
		c.get("/6", "/6"+port)
		s.parked()
	}
	c.get("/7 /b/8 /9", "/7"+port, "7", "/9"+port)
	s.parked()
	c.get("/answer", "")
}

// TestParkedWebSocket: a connection that was parked becomes a WebSocket, which is quiet for
// longer than that takes.
func TestParkedWebSocket(t *testing.T) {
	parksHere(t)
	address := freeport.Address(t)
	up := backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, switching(request.Header.Get("Sec-WebSocket-Key")))
		_, _ = io.Copy(conn, r)
	})
	s := start(t, parkSite(address, "", "", "park 20ms", "handle /up {\n reverse_proxy "+up+"\n }\n handle {\n respond ok\n }"))
	conn := dial(t, address)
	c := &script{t: t, conn: conn, r: bufio.NewReader(conn)}
	c.get("/", "ok")
	s.parked()
	_, _ = io.WriteString(conn, handshake("/up"))
	if response, err := http.ReadResponse(c.r, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v (%v)", response, err)
	}
	for range 5 {
		time.Sleep(30 * time.Millisecond) // more than is needed to park
		_, _ = io.WriteString(conn, "hello")
		got := make([]byte, 5)
		if _, err := io.ReadFull(c.r, got); err != nil || string(got) != "hello" {
			t.Fatalf("got %q (%v)", got, err)
		}
	}
	conn.Close()
}

// connections opens as many, each of which has had a response.
func connections(t *testing.T, address string, n int) (clients []*script) {
	t.Helper()
	for range n {
		conn := dial(t, address)
		_ = conn.SetDeadline(time.Now().Add(3 * patience))
		c := &script{t: t, conn: conn, r: bufio.NewReaderSize(conn, 16)}
		clients = append(clients, c)
		c.get("/", "ok")
	}
	return clients
}

// TestParkedMany: 1,000 parked connections have no goroutine and a descriptor each, come back
// all at once, and end with their configuration.
func TestParkedMany(t *testing.T) {
	parksHere(t)
	const n = 1000
	address := freeport.Address(t)
	s := start(t, parkSite(address, "", "", "park 200ms", "respond ok"))
	connections(t, address, 1)
	s.parked()
	goroutines, opened := runtime.NumGoroutine(), descriptors()
	clients := connections(t, address, n)
	s.parked()
	eventually(t, fmt.Sprintf("end of the goroutines of %d connections that are parked", n), func() bool { return runtime.NumGoroutine() <= goroutines+n/50 })
	eventually(t, fmt.Sprintf("end of all but one descriptor for each of %d connections that are parked", n), func() bool { return descriptors() <= opened+2*n+slack })
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() { c.get("/ /", "ok", "ok") })
	}
	all.Wait()
	s.parked()
	if err := s.load(parkSite(address, "", "", "park 200ms", "respond new")); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		c.get("", "end")
	}
}

// TestParkedIdleTimeout: the idle timeout of the HTTP app closes a parked connection, and one
// that would be parked later.
func TestParkedIdleTimeout(t *testing.T) {
	for _, park := range []string{"20ms", "1h", "0"} {
		t.Run(park, func(t *testing.T) {
			address := freeport.Address(t)
			start(t, parkSite(address, "servers {\n timeouts {\n idle 500ms\n }\n }", "", "park "+park, "respond ok"))
			newScript(t, address).get("/", "ok", "end")
		})
	}
}

// TestParkedRequestAcrossAReload: a request that has begun on a parked connection is answered
// by the new configuration.
func TestParkedRequestAcrossAReload(t *testing.T) {
	parksHere(t)
	address := freeport.Address(t)
	s := start(t, parkSite(address, "", "", "park 20ms", "respond old"))
	c := newScript(t, address)
	c.get("/", "old")
	s.parked()
	_, _ = io.WriteString(c.conn, "GET / HTTP/1.1\r\nHo")
	eventually(t, "beginning of a head that is read", func() bool { return unread(t, address) == 0 })
	if err := s.load(parkSite(address, "", "", "park 20ms", "respond new")); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c.conn, "st: a\r\n\r\n")
	c.get("", "new", "end")
}

// TestParkedReloads: connections that are parked and come back lose no request while the
// configuration is replaced again and again. One that is closed between two requests loses
// none: its client opens another one.
func TestParkedReloads(t *testing.T) {
	parksHere(t)
	const clients, reloads = 8, 20
	address := freeport.Address(t)
	caddyfile := func(generation int) string {
		return parkSite(address, "", "", "park 3ms", fmt.Sprintf(`respond "generation %d"`, generation))
	}
	s := start(t, caddyfile(0))
	var stop atomic.Bool
	var answered, again atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			var conn net.Conn
			var r *bufio.Reader
			for turn := i; !stop.Load(); turn++ {
				if conn == nil {
					var err error
					if conn, err = net.Dial("tcp", address); err != nil {
						continue // between two listeners
					}
					_ = conn.SetDeadline(time.Now().Add(patience))
					r = bufio.NewReader(conn)
				}
				_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				if err == nil {
					_, err = r.Peek(1)
				}
				if err == io.EOF || isReset(err) {
					again.Add(1)
					conn.Close()
					conn = nil
					continue
				}
				response, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Errorf("%d: %v", turn, err)
					break
				}
				content, err := io.ReadAll(response.Body)
				if err != nil || !strings.HasPrefix(string(content), "generation ") {
					t.Errorf("%d: got %d %q (%v)", turn, response.StatusCode, content, err)
					break
				}
				answered.Add(1)
				time.Sleep(time.Duration(turn%7) * time.Millisecond)
			}
			if conn != nil {
				conn.Close()
			}
		})
	}
	for generation := range reloads {
		before := answered.Load()
		eventually(t, "answers", func() bool { return answered.Load() >= before+2*clients || t.Failed() })
		if err := s.load(caddyfile(generation + 1)); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	all.Wait()
	t.Logf("%d answers, %d connections closed before a request", answered.Load(), again.Load())
}

// memoryOf returns the bytes in use on the heap and for the stacks of the Caddy with that admin
// address.
func memoryOf(t *testing.T, admin string) (heap, stacks int64) {
	t.Helper()
	for range 6 { // what pools held goes with the second collection, what has a finalizer later
		response, err := http.Get("http://" + admin + "/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			t.Fatal(err)
		}
		profile, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for name, n := range map[string]*int64{"HeapAlloc": &heap, "Stack": &stacks} {
			_, rest, _ := strings.Cut(string(profile), "\n# "+name+" = ")
			if _, err := fmt.Sscan(rest, n); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	return heap, stacks
}

// TestParkedShutdown: a process that is told to stop closes parked connections at once, and not
// after its grace period, for which it waits for a request.
func TestParkedShutdown(t *testing.T) {
	parksHere(t)
	address, admin := freeport.Address(t), freeport.Address(t)
	asked, finish := make(chan struct{}), make(chan struct{})
	arrived, answer := sync.OnceFunc(func() { close(asked) }), sync.OnceFunc(func() { close(finish) })
	slow := backend(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		arrived()
		<-finish
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
	})
	t.Cleanup(answer)
	p := startProcess(t, parkSite(address, "admin "+admin+"\ngrace_period 1m", "", "park 200ms",
		"handle /slow {\n reverse_proxy "+slow+"\n }\n handle {\n respond ok\n }"))
	parked := func() {
		eventually(t, "parked connections", func() bool { return goroutinesIn(t, admin, waitsInHandler, waitsInServer) == 0 })
	}
	clients := connections(t, address, 100)
	parked()
	busy := newScript(t, address)
	busy.get("/slow")
	await(t, "the slow request", asked)
	p.stop()
	for _, c := range clients {
		c.get("", "end")
	}
	if p.hasExited() {
		t.Fatalf("caddy exited with %v under a request", p.err)
	}
	answer()
	busy.get("", "slow", "end")
	p.exits()
}
