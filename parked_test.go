package streamprox

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// countingParker counts what an engine parks.
type countingParker struct {
	relay.Parker
	parked atomic.Int64
	refuse func(net.Conn) // is called in place of parking; may be nil
}

func (p *countingParker) Park(s *relay.Session) bool {
	if p.refuse != nil {
		descriptors.Unused(1)
		p.refuse(s.Client)
		return false
	}
	parked := p.Parker.Park(s)
	if parked {
		p.parked.Add(1)
	}
	return parked
}

// newParkingServer starts a server with these options of inspect and of http_app, and returns
// it with what parks its connections. idle is the server's idle timeout.
func newParkingServer(t *testing.T, options, httpApp string, idle time.Duration, handler http.HandlerFunc) (*routedServer, *countingParker) {
	t.Helper()
	s := loadRoutedServer(t, options, elsewhereRoute, httpApp)
	app := s.inspect.Routes[1].handlers[0].(*HTTPApp)
	if app.parker == nil {
		t.Skip("nothing parks connections here")
	}
	p := &countingParker{Parker: app.parker}
	app.parker = p
	s.serve(t, idle, handler)
	s.listen(t)
	return s, p
}

// wait waits until that many connections have been parked, and their parking is over as far
// as the server is concerned.
func (p *countingParker) wait(t *testing.T, want int64) {
	t.Helper()
	for begin := time.Now(); p.parked.Load() < want; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("parked %d times, want %d", p.parked.Load(), want)
		}
	}
}

// TestParked parks the connection after each response. The client sees nothing of it.
func TestParked(t *testing.T) {
	const get = " HTTP/1.1\r\nHost: h\r\n\r\n"
	type turn struct{ send, want string }
	tests := []struct {
		name  string
		turns []turn
		last  string // is sent after the last parking
		want  []string
		saw   string
	}{
		{"the same route", []turn{{"GET /1" + get, "200 /1 "}, {"GET /2" + get, "200 /2 "}}, "GET /3" + get, []string{"200 /3 "}, "/1 /2 /3"},
		{"content", []turn{{"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "200 /1 hello"}},
			"POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", []string{"200 /2 hello"}, "/1 /2"},
		{"another route", []turn{{"GET /1" + get, "200 /1 "}}, "GET /a/2" + get, []string{"200 a GET /a/2 HTTP/1.1", "EOF"}, "/1"},
		{"sent ahead", []turn{{"GET /1" + get, "200 /1 "}}, "GET /2" + get + "GET /3" + get + "GET /a/4" + get, []string{"200 /2 ", "200 /3 ", "200 a GET /a/4 HTTP/1.1", "EOF"}, "/1 /2 /3"},
		{"HTTP/1.0", []turn{{"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "200 /1 "}}, "GET /2 HTTP/1.0\r\n\r\n", []string{"200 /2 ", "EOF"}, "/1 /2"},
		{"the client asks to close", []turn{{"GET /1" + get, "200 /1 "}}, "GET /2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []string{"200 /2 ", "EOF"}, "/1 /2"},
		{"malformed", []turn{{"GET /1" + get, "200 /1 "}}, "GET /x/../a HTTP/1.1\r\nHost: h\r\n\r\n", []string{"400 400 Bad Request", "EOF"}, "/1"},
		{"a line end", []turn{{"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "200 /1 "}}, "\r\nGET /2" + get, []string{"400 400 Bad Request", "EOF"}, "/1"},
		{"CONNECT", []turn{{"GET /1" + get, "200 /1 "}}, "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", []string{"501 501 Not Implemented", "EOF"}, "/1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, pieces := range piecesOf(test.last) {
				s, p := newParkingServer(t, "", `,"park":"1ms"`, 0, echoHandler)
				conn := s.dial(t)
				r := bufio.NewReader(conn)
				for i, turn := range test.turns {
					_, _ = io.WriteString(conn, turn.send)
					if got := readResponse(t, r); got != turn.want {
						t.Fatalf("got %q, want %q", got, turn.want)
					}
					p.wait(t, int64(i+1))
				}
				answers(t, conn, pieces, test.want)
				s.sawOnly(t, strings.Fields(test.saw)...)
				if opened := s.opened.Load(); opened < int64(len(test.turns)) {
					t.Errorf("the server had %d connections", opened)
				}
			}
		})
	}
}

// TestParkedExpect checks that a request which waits for 100 Continue is no idle one.
func TestParkedExpect(t *testing.T) {
	s, p := newParkingServer(t, "", `,"park":"1ms"`, 0, echoHandler)
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := readResponse(t, r); got != "200 /1 " {
		t.Fatalf("got %q", got)
	}
	p.wait(t, 1)
	_, _ = io.WriteString(conn, "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if line, err := r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q (%v)", line, err)
	}
	_, _ = r.ReadString('\n')
	time.Sleep(10 * time.Millisecond) // more than is needed to park, were it idle
	if n := p.parked.Load(); n != 1 {
		t.Errorf("parked %d times", n)
	}
	_, _ = io.WriteString(conn, "hello")
	if got := readResponse(t, r); got != "200 /2 hello" {
		t.Errorf("got %q", got)
	}
}

// TestParkedAsItComes sends requests about when the connection is parked. Each is answered,
// once.
func TestParkedAsItComes(t *testing.T) {
	const clients, requests = 20, 100
	s, p := newParkingServer(t, "", `,"park":"2ms"`, time.Hour, echoHandler)
	var running sync.WaitGroup
	for i := range clients {
		conn := s.dial(t)
		running.Go(func() {
			r := bufio.NewReader(conn)
			for j := range requests {
				time.Sleep(time.Duration(1000+rand.IntN(2000)) * time.Microsecond)
				_, _ = fmt.Fprintf(conn, "GET /%d/%d HTTP/1.1\r\nHost: h\r\n\r\n", i, j)
				if got, want := readResponse(t, r), fmt.Sprintf("200 /%d/%d ", i, j); got != want {
					t.Errorf("got %q, want %q", got, want)
					return
				}
			}
		})
	}
	running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.served) != clients*requests {
		t.Errorf("the server has answered %d requests, of %d", len(s.served), clients*requests)
	}
	t.Logf("parked %d times", p.parked.Load())
}

// TestParkedIdle checks that a parked connection is closed when the server would have closed
// it, and that one is not parked which is closed before.
func TestParkedIdle(t *testing.T) {
	for _, test := range []struct {
		name, park string
		idle       time.Duration
		parked     int64
	}{
		{"parked", `,"park":"1ms"`, 500 * time.Millisecond, 1},
		{"closed before", `,"park":"1h"`, 10 * time.Millisecond, 0},
		{"never parked", `,"park":0`, 10 * time.Millisecond, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, p := newParkingServer(t, "", test.park, test.idle, echoHandler)
			conn := s.dial(t)
			r := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
			for _, want := range []string{"200 /1 ", "EOF"} {
				if got := readResponse(t, r); got != want && (want != "EOF" || !isEnd(got)) {
					t.Errorf("got %q, want %q", got, want)
				}
			}
			if n := p.parked.Load(); n != test.parked {
				t.Errorf("parked %d times, want %d", n, test.parked)
			}
		})
	}
}

// TestParkedForWhatIsLeft checks that a connection is parked for what is left of the server's
// idle timeout, which began with the end of the response.
func TestParkedForWhatIsLeft(t *testing.T) {
	for _, test := range []struct {
		name              string
		idle, least, most time.Duration // of the server; of parking
	}{
		{"none", 0, math.MaxInt64, math.MaxInt64},
		{"none either", -1, math.MaxInt64, math.MaxInt64},
		{"an hour", time.Hour, time.Minute, time.Hour - 5*time.Millisecond},
		{"Caddy's own", 5 * time.Minute, time.Second, 5*time.Minute - 5*time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, p := newParkingServer(t, "", `,"park":"5ms"`, test.idle, echoHandler)
			engine, keepalives := p.Parker, make(chan time.Duration, 1)
			p.Parker = parkerFunc(func(session *relay.Session) bool {
				keepalives <- session.Keepalive
				return engine.Park(session)
			})
			conn := s.dial(t)
			r := bufio.NewReader(conn)
			for i := range 3 { // it is new to the server each time
				_, _ = fmt.Fprintf(conn, "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i)
				if got, want := readResponse(t, r), fmt.Sprintf("200 /%d ", i); got != want {
					t.Fatalf("got %q, want %q", got, want)
				}
				select {
				case got := <-keepalives:
					if got < test.least || got > test.most {
						t.Errorf("parked for %s, want %s to %s", got, test.least, test.most)
					}
				case <-time.After(30 * time.Second):
					t.Fatal("not parked")
				}
			}
		})
	}
}

// TestNotParked checks which connections stay with the server until that closes them.
func TestNotParked(t *testing.T) {
	for _, test := range []struct {
		name, options string
		wrapped       bool
		piped         bool
	}{
		{"pin", `,"reuse":"pin","park":"1ms"`, false, false},
		{"close", `,"reuse":"close","park":"1ms"`, false, false},
		{"in a listener wrapper", `,"park":"1ms"`, true, false},
		{"no socket", `,"park":"1ms"`, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, p := newParkingServer(t, "", test.options, 50*time.Millisecond, echoHandler)
			app := s.inspect.Routes[1].handlers[0].(*HTTPApp)
			if app.wrapped = test.wrapped; test.wrapped {
				app.Listener = s.name
			}
			var conn net.Conn
			if test.piped {
				conn = s.pipe(t)
			} else {
				conn = s.dial(t)
			}
			r := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
			if got := readResponse(t, r); got != "200 /1 " {
				t.Errorf("got %q", got)
			}
			if got := readResponse(t, r); !isEnd(got) {
				t.Errorf("got %q, want the end", got)
			}
			if n := p.parked.Load(); n != 0 {
				t.Errorf("parked %d times", n)
			}
		})
	}
}

// TestNotParkedBeforeALineEnd checks that a lenient POST stays with the server: what comes
// next may be the line end after its content.
func TestNotParkedBeforeALineEnd(t *testing.T) {
	s, p := newParkingServer(t, `"lenient":true,`, `,"park":"1ms"`, 0, echoHandler)
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
	if got := readResponse(t, r); got != "200 /1 " {
		t.Fatalf("got %q", got)
	}
	for _, piece := range []string{"\r", "\n", "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n"} {
		time.Sleep(10 * time.Millisecond) // more than is needed to park
		_, _ = io.WriteString(conn, piece)
	}
	if got := readResponse(t, r); got != "200 /2 " {
		t.Errorf("got %q", got)
	}
	p.wait(t, 1) // after a GET
}

// TestParkedHijack checks that a hijacker's connection is not parked, also one that was
// parked before.
func TestParkedHijack(t *testing.T) {
	s, p := newParkingServer(t, "", `,"park":"1ms"`, time.Hour, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hijack" {
			echoHandler(w, r)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	})
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := readResponse(t, r); got != "200 /1 " {
		t.Fatalf("got %q", got)
	}
	p.wait(t, 1)
	others := streams.Len()
	_, _ = io.WriteString(conn, "GET /hijack HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if response, err := http.ReadResponse(r, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v (%v)", response, err)
	}
	for range 5 {
		time.Sleep(5 * time.Millisecond) // more than is needed to park
		_, _ = io.WriteString(conn, "hello")
		if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.parked.Load(); n != 1 {
		t.Errorf("parked %d times", n)
	}
	// It is the server's, so shutdown does not wait for it. It was one of others while it
	// was parked.
	if n := streams.Len(); n >= others {
		t.Errorf("%d streams with the hijacked connection, %d before", n, others)
	}
	_ = conn.CloseWrite()
	if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
		t.Errorf("got %q (%v)", rest, err)
	}
}

// TestParkedByNobody checks that a connection which nothing parks is closed, but not one on
// which a request has come meanwhile.
func TestParkedByNobody(t *testing.T) {
	for _, test := range []struct {
		name, send, rest string
		ends             bool
		want             string
	}{
		{"nothing", "", "", false, "EOF"},
		{"the same route", "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n", "", false, "200 /2 "},
		{"another route", "GET /a/2 HTTP/1.1\r\nHost: h\r\n\r\n", "", false, "200 a GET /a/2 HTTP/1.1"},
		{"the beginning of a request", "GET /a", "/2 HTTP/1.1\r\nHost: h\r\n\r\n", false, "200 a GET /a/2 HTTP/1.1"},
		{"a beginning alone", "GET /a", "", true, "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, p := newParkingServer(t, "", `,"park":"1ms"`, time.Hour, echoHandler)
			conn := s.dial(t)
			var asked atomic.Bool
			p.refuse = func(at net.Conn) {
				if asked.Swap(true) {
					return
				}
				_, _ = io.WriteString(conn, test.send)
				for begin := time.Now(); test.send != "" && !socket.Unread(at) && time.Since(begin) < 30*time.Second; {
					time.Sleep(time.Millisecond)
				}
				for _, piece := range strings.SplitAfter(test.rest, "") {
					_, _ = io.WriteString(conn, piece)
				}
				if test.ends {
					_ = conn.CloseWrite()
				}
			}
			r := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
			if got := readResponse(t, r); got != "200 /1 " {
				t.Fatalf("got %q", got)
			}
			if got := readResponse(t, r); got != test.want && (test.want != "EOF" || !isEnd(got)) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestParkedEndsWithItsConfiguration checks that a parked connection is closed when its
// configuration is gone, and one that is parked just then.
func TestParkedEndsWithItsConfiguration(t *testing.T) {
	for _, when := range []string{"before", "while", "after"} {
		t.Run(when, func(t *testing.T) {
			s, p := newParkingServer(t, "", `,"park":"1ms"`, time.Hour, echoHandler)
			conn := s.dial(t)
			r := bufio.NewReader(conn)
			if when == "while" {
				engine := p.Parker
				p.Parker = parkerFunc(func(session *relay.Session) bool {
					_ = s.inspect.Cleanup() // knows nothing of this connection
					return engine.Park(session)
				})
			}
			_, _ = io.WriteString(conn, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
			if got := readResponse(t, r); got != "200 /1 " {
				t.Fatalf("got %q", got)
			}
			if when == "after" {
				p.wait(t, 1)
			}
			_ = s.inspect.Cleanup()
			if got := readResponse(t, r); !isEnd(got) {
				t.Errorf("got %q, want the end", got)
			}
		})
	}
}

type parkerFunc func(*relay.Session) bool

func (f parkerFunc) Park(s *relay.Session) bool { return f(s) }

// TestParkedShutdown checks that of a configuration that is replaced no connection is left
// behind: the server stops, which may see the end of a connection that is being parked, and
// inspect after it.
func TestParkedShutdown(t *testing.T) {
	const connections = 50
	s, _ := newParkingServer(t, "", `,"park":"1ms"`, time.Hour, echoHandler)
	var readers []*bufio.Reader
	for range connections {
		conn := s.dial(t)
		readers = append(readers, bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
	}
	for _, r := range readers {
		if got := readResponse(t, r); got != "200 /1 " {
			t.Fatalf("got %q", got)
		}
	}
	if err := s.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = s.inspect.Cleanup()
	for _, r := range readers {
		if got := readResponse(t, r); !isEnd(got) {
			t.Errorf("got %q, want the end", got)
		}
	}
}
