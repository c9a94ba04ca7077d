package integration

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestBlackHole: an upstream that takes no connections and refuses none. Other systems
// than Linux refuse those for which there is no room.
func TestBlackHole(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) })
	if err != nil {
		t.Fatal(err)
	}
	full := false
	for range 8 { // until nobody is let into its queue
		conn, err := net.DialTimeout("tcp", ln.Addr().String(), 300*time.Millisecond)
		if full = err != nil; full {
			break
		}
		defer conn.Close()
	}
	if !full {
		t.Fatal("the queue of the listener is never full")
	}

	address := freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay "+ln.Addr().String()+" {\n dial_timeout 200ms\n }"))
	conn := dial(t, address)
	send(t, conn, getRoot, 1<<20)
	expectAnswer(t, conn, "504")
	s.logs.expect(t, map[string]any{"msg": "no upstream reached"})

	// A client that leaves does not wait for the end of the dial.
	if err := s.load(relayCaddyfile(address, "relay "+ln.Addr().String()+" {\n dial_timeout 1h\n }")); err != nil {
		t.Fatal(err)
	}
	conn = dial(t, address)
	send(t, conn, getRoot, 1<<20)
	eventually(t, "inspection", func() bool { return len(s.logs.lines(map[string]any{"msg": "inspected"})) == 2 })
	_ = conn.SetLinger(0)
	conn.Close()
	s.logs.expect(t, map[string]any{"msg": "relay given up"})
}

// TestKeepAlive: the kernel probes both sides of a relayed stream, so that a half-open
// one ends.
func TestKeepAlive(t *testing.T) {
	address := freeport.Address(t)
	upstream := backend(t, echo("up"))
	start(t, relayCaddyfile(address, "relay "+upstream+" {\n reuse pin\n }"))
	conn := dial(t, address)
	send(t, conn, getRoot, 1<<20)
	if got, err := bufio.NewReader(conn).ReadString('\n'); got != "up\n" {
		t.Fatalf("got %q (%v)", got, err)
	}
	found := map[string]int{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	port := func(a unix.Sockaddr) string {
		switch a := a.(type) {
		case *unix.SockaddrInet4:
			return fmt.Sprintf("127.0.0.1:%d", a.Port)
		case *unix.SockaddrInet6:
			return fmt.Sprintf("127.0.0.1:%d", a.Port)
		}
		return ""
	}
	for _, entry := range entries {
		var fd int
		if _, err := fmt.Sscan(entry.Name(), &fd); err != nil {
			continue
		}
		near, err := unix.Getsockname(fd)
		if err != nil {
			continue
		}
		far, err := unix.Getpeername(fd)
		if err != nil {
			continue
		}
		side := ""
		switch {
		case port(near) == address:
			side = "client"
		case port(far) == upstream:
			side = "upstream"
		default:
			continue
		}
		on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		idle, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		if err != nil || on == 0 || idle != 15 {
			t.Errorf("%s: SO_KEEPALIVE is %d (%v) after %d s, want on after 15 s", side, on, err, idle)
		}
		found[side]++
	}
	if found["client"] != 1 || found["upstream"] != 1 {
		t.Errorf("found %v sockets, want one for each side", found)
	}
}

// TestDescriptorsRunOut: a process with few descriptors resets the connections that would
// take the last ones, and goes on with those that it has. Its listener survives, which it
// would not if an accept failed.
func TestDescriptorsRunOut(t *testing.T) {
	upstream := backend(t, echo("up"))
	for _, test := range []struct {
		name, routes string // the routes of layer4
		first, again string // the first line of an answer, and the one to what is sent later
	}{
		{"inspect and relay", "route {\ninspect {\nroute {\nrelay " + upstream + " {\nreuse pin\n}\n}\n}\n}", "up\n", getRoot},
		{"relay alone", "route {\nrelay " + upstream + "\n}", "up\n", getRoot},
		{"inspect and http_app", "route {\ninspect {\nroute {\nhttp_app\n}\n}\n}", "HTTP/1.1 204 No Content\r\n", ""},
		{"http_app alone", "route {\nhttp_app\n}", "HTTP/1.1 204 No Content\r\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			const limit, atOnce = 512, 64
			address := freeport.Address(t)
			p := startLimited(t, limit, "{\nadmin off\nlayer4 {\n"+address+" {\n"+test.routes+"\n}\n}\n}\nhttp://:80 {\nbind streamprox/web\nrespond 204\n}\n")

			// noDial is what an HTTP client gets that is let in and for which nothing is
			// dialled.
			const noDial = "HTTP/1.1 503 Service Unavailable\r\n"

			// ask sends a request. It returns the first line of what comes back.
			ask := func(conn net.Conn, r *bufio.Reader) (string, error) {
				if _, err := io.WriteString(conn, getRoot); err != nil {
					return "", err
				}
				return r.ReadString('\n')
			}
			type kept struct {
				*net.TCPConn
				*bufio.Reader
			}
			var open []kept
			for range limit {
				conn := dial(t, address)
				r := bufio.NewReader(conn)
				line, err := ask(conn, r)
				if err != nil || line == noDial {
					break
				}
				if line != test.first {
					t.Fatalf("connection %d got %q", len(open), line)
				}
				open = append(open, kept{conn, r})
			}
			// Half are kept in reserve, and a relayed stream has two.
			if len(open) < limit/5 || len(open) > limit/2 {
				t.Fatalf("%d connections were served", len(open))
			}

			// A few may be served: a connection that is being handed over has more descriptors
			// for a moment, and leaves them to others.
			var flood sync.WaitGroup
			var resets atomic.Int32
			slots := make(chan struct{}, atOnce)
			for range 2 * limit {
				slots <- struct{}{}
				flood.Go(func() {
					defer func() { <-slots }()
					conn, err := net.Dial("tcp", address)
					if err != nil {
						resets.Add(1)
						return
					}
					defer conn.Close()
					_ = conn.SetDeadline(time.Now().Add(patience))
					switch line, err := ask(conn, bufio.NewReader(conn)); {
					case isReset(err), errors.Is(err, unix.EPIPE), line == noDial:
						resets.Add(1)
					case err != nil || line != test.first:
						t.Errorf("a connection beyond got %q (%v), want a reset", line, err)
					}
				})
			}
			flood.Wait()
			if got := resets.Load(); got < limit {
				t.Errorf("%d of %d connections beyond were reset", got, 2*limit)
			}

			for i, c := range open {
				if test.again == "" { // the rest of the answer before
					for line := ""; line != "\r\n"; {
						var err error
						if line, err = c.ReadString('\n'); err != nil {
							t.Fatalf("connection %d: %v", i, err)
						}
					}
					if line, err := ask(c, c.Reader); line != test.first {
						t.Fatalf("connection %d got %q (%v)", i, line, err)
					}
					continue
				}
				if _, err := io.WriteString(c, test.again); err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
				got := make([]byte, 2*len(getRoot)) // the first request, too
				if _, err := io.ReadFull(c, got); string(got) != getRoot+test.again {
					t.Fatalf("connection %d got %q (%v)", i, got, err)
				}
			}
			for _, c := range open {
				c.Close()
			}
			eventually(t, "service", func() bool {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					return false
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				line, _ := ask(conn, bufio.NewReader(conn))
				return line == test.first
			})
			if got := strings.Count(p.output.String(), "descriptors are scarce"); got == 0 || got > 5 {
				t.Errorf("the log says so %d times, want once or so", got)
			}
		})
	}
}

// TestDescriptorsOfSilentClients: nor do clients that say nothing get the last descriptors,
// before TLS or without it.
func TestDescriptorsOfSilentClients(t *testing.T) {
	for _, test := range []struct {
		name, global, site string
		tls                bool
	}{
		{"layer4", "layer4 {\nADDRESS {\nroute {\ninspect {\nsilent_timeout 5m\nroute {\nhttp_app\n}\n}\n}\n}\n}", "http://:80 {\nbind streamprox/web", false},
		{"behind TLS", "local_certs\nskip_install_trust\nauto_https disable_redirects\n" +
			"servers {\ntimeouts {\nread_header 5m\n}\nprotocols h1\nlistener_wrappers {\nlayer4 {\nroute {\ninspect {\nroute {\nhttp_app\n}\n}\n}\n}\n}\n}", "https://ADDRESS {", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			const limit = 512
			address := freeport.Address(t)
			pid := startLimited(t, limit, strings.ReplaceAll("{\nadmin off\n"+test.global+"\n}\n"+test.site+"\nrespond 204\n}\n", "ADDRESS", address)).pid()

			served := func() bool {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					return false
				}
				defer conn.Close()
				if test.tls {
					conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "127.0.0.1"})
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
					return false
				}
				line, _ := bufio.NewReader(conn).ReadString('\n')
				return line == "HTTP/1.1 204 No Content\r\n"
			}
			eventually(t, "service", served)

			open := func() int {
				names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
				if err != nil {
					t.Fatal(err)
				}
				return len(names)
			}
			var silent []net.Conn
			resets := 0
			for before := open(); len(silent) < 2*limit; {
				conn := dial(t, address)
				silent = append(silent, conn)
				// No more than a few are under way: it is reset, or has got a descriptor.
				const few = 20
				eventually(t, "sign of the connection", func() bool {
					_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
					_, err := conn.Read(make([]byte, 1))
					if isReset(err) {
						resets++
						return true
					}
					return open() >= before+len(silent)-resets-few
				})
			}
			if resets < limit {
				t.Errorf("%d of %d connections were reset", resets, len(silent))
			}
			for _, conn := range silent {
				conn.Close()
			}
			eventually(t, "service again", served)
		})
	}
}

// stopped is what the log says of a listener that could not accept for want of
// descriptors.
const stopped = "had stopped accepting for want of descriptors"

// descriptorsOf returns how many descriptors a process has.
func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestDescriptorsOfDials: dials do not take the descriptors that are kept for accepting,
// however many are begun at once. A client whose dial is refused is told, which is no
// failure of the upstream.
func TestDescriptorsOfDials(t *testing.T) {
	const limit, clients, enough = 1024, 560, 768
	for _, test := range []struct {
		name        string
		half, rest  string
		refusedWith string // the first line; "": a reset
	}{
		{"http", "GET / HTTP/1.1\r\nHost: a.example\r\n", "\r\n", "HTTP/1.1 503 Service Unavailable\r\n"},
		{"tls", "\x16", "\x03\x01\x00\x04\x01\x00\x00\x00", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			const answered = "HTTP/1.1 200 OK\r\n"
			letGo := make(chan struct{})
			upstream := backend(t, func(conn net.Conn) {
				<-letGo
				_, _ = io.WriteString(conn, answered+"Content-Length: 0\r\nConnection: close\r\n\r\n")
				_, _ = io.Copy(io.Discard, conn)
			})
			release := sync.OnceFunc(func() { close(letGo) })
			t.Cleanup(release)
			address := freeport.Address(t)
			p := startLimited(t, limit, "{\nadmin off\nlayer4 {\n"+address+" {\nroute {\ninspect {\ntimeout 5m\nmax_pending_per_ip 2000\nroute {\nrelay "+
				upstream+" {\nfail_duration 1h\nmax_fails 1\n}\n}\n}\n}\n}\n}\n}\n")
			dial(t, address).Close()
			before := descriptorsOf(t, p.pid()) // that one may still count

			conns := make([]*net.TCPConn, clients)
			for i := range conns {
				conns[i] = dial(t, address)
				send(t, conns[i], test.half, 1<<20)
			}
			eventually(t, "half of each", func() bool { return descriptorsOf(t, p.pid()) >= before-1+clients })
			for _, conn := range conns {
				_, _ = io.WriteString(conn, test.rest)
			}
			var refused, told, served atomic.Int32
			var all sync.WaitGroup
			defer func() { release(); all.Wait() }()
			for i, conn := range conns {
				all.Go(func() {
					_ = conn.SetDeadline(time.Now().Add(2 * patience))
					switch line, err := bufio.NewReader(conn).ReadString('\n'); {
					case line == answered:
						served.Add(1)
					case line != "" && line == test.refusedWith:
						told.Add(1)
						refused.Add(1)
					case isReset(err): // which is all that TLS gets, and at the door, where its handler began late
						refused.Add(1)
					default:
						t.Errorf("client %d got %q (%v)", i, line, err)
					}
					conn.Close()
				})
			}
			// What could be dialled is held, so others were refused. Each of them that has left
			// makes room for another.
			eventually(t, "refusals", func() bool { return refused.Load() >= (clients-(enough-clients))/2-20 })
			// Whoever comes now is accepted, and served if others have left, or reset, which the
			// one of sending and receiving that is first finds out.
			conn := dial(t, address)
			_, sendErr := io.WriteString(conn, getRoot)
			release()
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil && !isReset(err) && !isReset(sendErr) {
				t.Errorf("a connection afterwards got %q (%v)", line, err)
			}
			all.Wait()
			if served.Load() == 0 {
				t.Error("no client was served")
			}
			if test.refusedWith != "" && told.Load() == 0 {
				t.Errorf("no client was refused with %q", test.refusedWith)
			}
			eventually(t, "service", func() bool {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					return false
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = io.WriteString(conn, getRoot)
				line, _ := bufio.NewReader(conn).ReadString('\n')
				return line == answered
			})
			said := p.output.String() // of the door, too, if a handler began late
			if strings.Contains(said, stopped) {
				t.Error("the listener had stopped")
			}
			if got := strings.Count(said, `"msg":"descriptors are scarce; `); got == 0 || got > 5 {
				t.Errorf("the log says so %d times, want once or so", got)
			}
			if strings.Contains(said, "no upstream reached") {
				t.Error("the log says that no upstream was reached")
			}
		})
	}
}

// TestDescriptorsRunOutBeforeHandlers: connections that come faster than handlers begin, or
// that matchers of layer4's own hold back, take all descriptors, which ends the accept loop
// of caddy-l4. The port answers again when they have left, and a reload takes it over
// without losing a connection to the routes before.
func TestDescriptorsRunOutBeforeHandlers(t *testing.T) {
	const limit, clients = 1024, 1500
	for _, test := range []struct {
		name, listen, before string // the address and what comes before inspect
		stops                bool   // for certain
	}{
		{"a burst", "tcp", "", false},
		{"a matcher that waits", "tcp", "matching_timeout 5m\n@t tls\nroute @t {\nclose\n}\n", true},
		{"a Unix socket", "unix", "matching_timeout 5m\n@t tls\nroute @t {\nclose\n}\n", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			network, address := "tcp", freeport.Address(t)
			listen := address
			if test.listen == "unix" {
				dir, err := os.MkdirTemp("", "sp") // the path of a socket is short
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.RemoveAll(dir) })
				network, address = "unix", filepath.Join(dir, "s")
				listen = "unix/" + address
			}
			admin := freeport.Address(t)
			caddyfile := func(status int) string {
				return fmt.Sprintf("{\ndebug\nadmin %s\nlayer4 {\n%s {\n%sroute {\ninspect {\nroute {\nhttp_app\n}\n}\n}\n}\n}\n}\nhttp://:80 {\nbind streamprox/web\nrespond %d\n}\n",
					admin, listen, test.before, status)
			}
			p := startLimited(t, limit, caddyfile(204))
			answer := func() string {
				conn, err := net.Dial(network, address)
				if err != nil {
					return err.Error()
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience / 4))
				if _, err := io.WriteString(conn, strings.Replace(getRoot, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)); err != nil {
					return err.Error()
				}
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil {
					return err.Error()
				}
				return line
			}
			const old, changed = "HTTP/1.1 204 No Content\r\n", "HTTP/1.1 201 Created\r\n"
			eventually(t, "service", func() bool { return answer() == old })

			var conns []net.Conn
			for range clients {
				conn, err := net.Dial(network, address)
				if err != nil {
					continue // it is reset already
				}
				t.Cleanup(func() { conn.Close() })
				conns = append(conns, conn)
			}
			if test.stops {
				// What Caddy had open for a moment may be closed by now, so that there are fewer
				// descriptors than the limit, and nobody accepts.
				eventually(t, "end of the accept loop", func() bool { return strings.Contains(p.output.String(), "stopped handling listener socket") })
			}
			for _, conn := range conns {
				conn.Close()
			}
			eventually(t, "service again", func() bool { return answer() == old })
			if got := strings.Count(p.output.String(), stopped); got > 1 || test.stops && got == 0 {
				t.Errorf("the log says %d times that the listener had stopped", got)
			}

			response, err := http.Post("http://"+admin+"/load", "text/caddyfile", strings.NewReader(caddyfile(201)))
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Fatal(response.Status)
			}
			// Some connections may still have come to the socket of before.
			eventually(t, "new configuration", func() bool { return answer() == changed })
			if network == "tcp" {
				eventually(t, "end of the socket of before", func() bool { return listening(t, address) == 1 })
			}
			for range 50 {
				if got := answer(); got != changed {
					t.Fatalf("got %q after a reload", got)
				}
			}
		})
	}
}

// listening returns how many sockets listen at a loopback address of IPv4.
func listening(t *testing.T, address string) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscanf(address, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	const listens = "00000000:0000 0A"
	return strings.Count(string(table), fmt.Sprintf("0100007F:%04X %s", port, listens))
}

// TestDescriptorsRunOutBeforeWrapper: an HTTP server whose listener wrapper cannot accept
// closes its listener, and the log says so.
func TestDescriptorsRunOutBeforeWrapper(t *testing.T) {
	const limit = 512
	address, admin := freeport.Address(t), freeport.Address(t)
	p := startLimited(t, limit, "{\nadmin "+admin+"\ndebug\nservers {\nlistener_wrappers {\nlayer4 {\nmatching_timeout 5m\n@t tls\nroute @t {\nclose\n}\nroute {\ninspect {\nroute {\nhttp_app\n}\n}\n}\n}\n}\n}\n}\nhttp://"+address+" {\nbind 127.0.0.1\nrespond 204\n}\n")
	eventually(t, "watch", func() bool { return strings.Contains(p.output.String(), `"listeners":1`) })
	accepting := func(want float64) bool {
		got, ok := (&server{t: t, admin: admin}).samples()[`listener_accepting{address="`+address+`"}`]
		return ok && got == want
	}
	eventually(t, "metric of the listener", func() bool { return accepting(1) })
	if n := listening(t, address); n != 1 {
		t.Fatalf("%d sockets listen", n)
	}
	var conns []net.Conn
	for range limit {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			break // it is closed already
		}
		t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
	}
	eventually(t, "end of the listener", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, unix.ECONNREFUSED) && listening(t, address) == 0
	})
	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, "line in the log", func() bool { return strings.Count(p.output.String(), stopped) == 1 })
	eventually(t, "metric of the end", func() bool { return accepting(0) })
}

// TestMetricsOfScarcity: what is reset for want of descriptors is counted, and the descriptors
// are.
func TestMetricsOfScarcity(t *testing.T) {
	const limit = 512
	address, admin := freeport.Address(t), freeport.Address(t)
	pid := startLimited(t, limit, "{\nadmin "+admin+"\nlayer4 {\n"+address+" {\nroute {\ninspect {\nsilent_timeout 5m\nroute {\nclose\n}\n}\n}\n}\n}\n}\n").pid()
	dial(t, address).Close()
	caddy := &server{t: t, admin: admin}
	if n := caddy.samples()[`refusals_total{reason="descriptors"}`]; n != 0 {
		t.Errorf("%v connections were reset at first", n)
	}
	for range limit * 3 / 4 {
		dial(t, address)
	}
	eventually(t, "resets", func() bool { return caddy.samples()[`refusals_total{reason="descriptors"}`] > 0 })
	// Those that it has let in are handled by and by, and none leaves.
	eventually(t, "number of descriptors and of connections under inspection", func() bool {
		now := caddy.samples()
		open, is := now["descriptors_open"], float64(descriptorsOf(t, pid))
		return now["descriptors_limit"] == limit && open >= is-20 && open <= is+20 && now["inspecting_connections"] >= limit/4
	})
}
