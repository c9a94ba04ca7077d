package streamprox

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

func init() { caddy.RegisterModule(new(elsewhere)) }

// elsewhere is a destination that is not the HTTP server. It answers with what it has
// read, once that ends in the empty line of a head, and closes.
type elsewhere struct {
	// Name begins the answer.
	Name string `json:"name"`
}

func (*elsewhere) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.elsewhere", New: func() caddy.Module { return new(elsewhere) }}
}

func (e *elsewhere) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b...) {
		if _, err := cx.Read(b); err != nil {
			return nil
		}
	}
	line, _, _ := strings.Cut(string(head), "\r\n")
	content := e.Name + " " + line
	_, _ = fmt.Fprintf(cx, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(content), content)
	return nil
}

// routedServer is a real net/http server behind inspect.
type routedServer struct {
	name    string // on the virtual network
	inspect *Inspect
	server  *http.Server
	address string // of a socket, if it has one
	running sync.WaitGroup

	opened atomic.Int64 // connections that reached the server
	record atomic.Bool

	mu     sync.Mutex
	served []string // the request targets that reached the handler
}

// newRoutedServer starts a server on a socket whose requests come through inspect with the
// given options and, before the route to the server, routes, both in JSON. httpApp are options
// of that route's handler.
func newRoutedServer(t testing.TB, options, routes, httpApp string, handler http.HandlerFunc) *routedServer {
	t.Helper()
	s := loadRoutedServer(t, options, routes, httpApp)
	s.serve(t, 0, handler)
	s.listen(t)
	return s
}

// loadRoutedServer loads the configuration of a server that does not run yet.
func loadRoutedServer(t testing.TB, options, routes, httpApp string) *routedServer {
	t.Helper()
	s := &routedServer{name: strings.ToLower(strings.NewReplacer("/", "-", " ", "-", ",", "").Replace(t.Name()))}
	ctx := provisionApps(t, "{"+httpServers(map[string]string{"routed": "streamprox/" + s.name + ":80"})+"}")
	s.inspect = loadHandlerIn(t, ctx, "inspect",
		`{`+options+`"routes":[`+routes+`{"match":[{"inspected":["http"]}],"handle":[{"handler":"http_app"`+httpApp+`}]}]}`).(*Inspect)
	s.record.Store(true)
	return s
}

// serve runs the server, with an idle timeout, until the test ends.
func (s *routedServer) serve(t testing.TB, idle time.Duration, handler http.HandlerFunc) {
	t.Helper()
	s.server = &http.Server{IdleTimeout: idle, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.record.Load() {
			s.mu.Lock()
			s.served = append(s.served, r.RequestURI)
			s.mu.Unlock()
		}
		handler(w, r)
	})}
	s.server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.opened.Add(1)
		}
	}
	virtual := listenVirtually(t, s.name)
	s.running.Go(func() { _ = s.server.Serve(virtual) })
	t.Cleanup(func() {
		s.server.Close()
		s.running.Wait()
	})
}

// listen accepts connections for inspect on a socket.
func (s *routedServer) listen(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = ln.Addr().String()
	s.running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.handle(conn)
		}
	})
	t.Cleanup(func() { ln.Close() })
}

// handle gives inspect a connection.
func (s *routedServer) handle(conn net.Conn) {
	s.running.Go(func() {
		defer conn.Close()
		_ = s.inspect.Handle(layer4.WrapConnection(conn, nil, zap.NewNop()), endOfChain)
	})
}

// dial connects to the server, for at most a while.
func (s *routedServer) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn.(*net.TCPConn)
}

// pipe connects to the server without a socket, for a bubble of synctest. A write ends when
// the server has read it all.
func (s *routedServer) pipe(t *testing.T) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	s.handle(server)
	return client
}

// sawOnly fails unless those targets, in that order, have reached the handler.
func (s *routedServer) sawOnly(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := strings.Join(s.served, " "); got != strings.Join(want, " ") {
		t.Errorf("the server saw %q, want %q", s.served, want)
	}
}

// readResponse returns status and content of the next response.
func readResponse(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		return err.Error()
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Sprintf("%d %s (%v)", response.StatusCode, content, err)
	}
	return fmt.Sprintf("%d %s", response.StatusCode, strings.TrimSuffix(string(content), "\n"))
}

// isEnd reports whether got says that the connection has ended. A server that closes
// with bytes unread resets.
func isEnd(got string) bool {
	return strings.HasSuffix(got, "EOF") || strings.HasSuffix(got, "connection reset by peer")
}

// echoHandler reads the content, unless the target says not to, and answers with it.
func echoHandler(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/ignore") {
		_, _ = io.WriteString(w, r.RequestURI)
		return
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = fmt.Fprintf(w, "%s %s%s", r.RequestURI, content, r.Trailer.Get("X-Sum"))
}

const elsewhereRoute = `{"match":[{"http_request":[{"path":["/a/*"]}]}],"handle":[{"handler":"elsewhere","name":"a"}]},`

// TestReinspect sends requests on one connection, and reads what comes back: whole, in
// two packets at every cut, and byte by byte.
func TestReinspect(t *testing.T) {
	const get = " HTTP/1.1\r\nHost: h\r\n\r\n"
	tests := []struct {
		name string
		in   string
		want []string
		saw  []string
	}{
		{"one request", "GET /1" + get, []string{"200 /1 "}, []string{"/1"}},
		{"kept", "GET /1" + get + "GET /2" + get + "GET /3" + get, []string{"200 /1 ", "200 /2 ", "200 /3 "}, []string{"/1", "/2", "/3"}},
		{"leaves", "GET /1" + get + "GET /a/2" + get, []string{"200 /1 ", "200 a GET /a/2 HTTP/1.1", "EOF"}, []string{"/1"}},
		{"leaves after several", "GET /1" + get + "GET /2" + get + "GET /a/3" + get, []string{"200 /1 ", "200 /2 ", "200 a GET /a/3 HTTP/1.1"}, []string{"/1", "/2"}},
		{"content counted", "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET /2" + get, []string{"200 /1 hello", "200 /2 "}, []string{"/1", "/2"}},
		{"content that looks like a request", "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 33\r\n\r\nGET /a/deny HTTP/1.1\r\nHost: h\r\n\r\nGET /a/2" + get,
			[]string{"200 /1 GET /a/deny HTTP/1.1\r\nHost: h\r\n\r", "200 a GET /a/2 HTTP/1.1"}, []string{"/1"}},
		{"content chunked", "POST /1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /a/2" + get,
			[]string{"200 /1 hello", "200 a GET /a/2 HTTP/1.1"}, []string{"/1"}},
		{"content with a trailer", "POST /1 HTTP/1.1\r\nHost: h\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: !\r\n\r\nGET /2" + get,
			[]string{"200 /1 hello!", "200 /2 "}, []string{"/1", "/2"}},
		{"a trailer that frames", "POST /1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\nHost: i\r\n\r\nGET /a/2" + get,
			[]string{"400 http: unexpected EOF reading trailer", "EOF"}, []string{"/1"}},
		{"content ignored", "POST /ignore HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET /a/2" + get, []string{"200 /ignore", "200 a GET /a/2 HTTP/1.1"}, []string{"/ignore"}},
		{"nothing follows a broken chunk", "POST /ignore HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\nGET /a/2" + get, []string{"200 /ignore", "EOF"}, []string{"/ignore"}},
		{"malformed second", "GET /1" + get + "GET /x/../a HTTP/1.1\r\nHost: h\r\n\r\n", []string{"200 /1 ", "400 400 Bad Request", "EOF"}, []string{"/1"}},
		{"two hosts in the second", "GET /1" + get + "GET /2 HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", []string{"200 /1 ", "400 400 Bad Request", "EOF"}, []string{"/1"}},
		{"preface of HTTP/2 second", "GET /1" + get + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []string{"200 /1 ", "400 400 Bad Request", "EOF"}, []string{"/1"}},
		{"CONNECT second", "GET /1" + get + "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", []string{"200 /1 ", "501 501 Not Implemented", "EOF"}, []string{"/1"}},
		{"the client asks to close", "GET /1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /2" + get, []string{"200 /1 ", "EOF"}, []string{"/1"}},
		{"HTTP/1.0", "GET /1 HTTP/1.0\r\n\r\n", []string{"200 /1 ", "EOF"}, []string{"/1"}},
		{"HTTP/1.0 kept", "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /a/2 HTTP/1.0\r\n\r\n", []string{"200 /1 ", "200 a GET /a/2 HTTP/1.0"}, []string{"/1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, pieces := range piecesOf(test.in) {
				s := newRoutedServer(t, "", elsewhereRoute, "", echoHandler)
				answers(t, s.dial(t), pieces, test.want)
				s.sawOnly(t, test.saw...)
			}
		})
	}
}

// answers sends the pieces on conn and fails unless these responses come back.
func answers(t *testing.T, conn net.Conn, pieces, want []string) {
	t.Helper()
	go func() {
		for _, piece := range pieces {
			_, _ = io.WriteString(conn, piece)
		}
	}()
	r := bufio.NewReader(conn)
	for i, want := range want {
		got := readResponse(t, r)
		if want == "EOF" && isEnd(got) {
			continue
		}
		if got != want {
			t.Errorf("%d pieces: response %d: got %q, want %q", len(pieces), i+1, got, want)
		}
	}
}

// TestReinspectLenient checks that a lenient inspect takes what net/http's server takes,
// and that a strict one does not. A bare server gets the same bytes where no other route is
// concerned.
func TestReinspectLenient(t *testing.T) {
	const (
		get     = " HTTP/1.1\r\nHost: h\r\n\r\n"
		counted = " HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
		chunked = " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	)
	bad := "400 400 Bad Request"
	tests := []struct {
		name   string
		in     string
		want   []string
		saw    []string
		strict []string // what a strict inspect answers
	}{
		{"CR LF after POST", "POST /1" + counted + "\r\nGET /2" + get, []string{"200 /1 hello", "200 /2 "}, []string{"/1", "/2"}, []string{"200 /1 hello", bad, "EOF"}},
		{"LF after POST", "POST /1" + counted + "\nGET /2" + get, []string{"200 /1 hello", "200 /2 "}, []string{"/1", "/2"}, []string{"200 /1 hello", bad, "EOF"}},
		{"four bytes after POST", "POST /1" + counted + "\n\n\r\rGET /2" + get, []string{"200 /1 hello", "200 /2 "}, []string{"/1", "/2"}, []string{"200 /1 hello", bad, "EOF"}},
		{"five bytes after POST", "POST /1" + counted + "\r\n\r\n\nGET /2" + get, []string{"200 /1 hello", bad, "EOF"}, []string{"/1"}, []string{"200 /1 hello", bad, "EOF"}},
		{"CR LF after each POST", "POST /1" + counted + "\r\nPOST /2" + counted + "\r\nGET /3" + get, []string{"200 /1 hello", "200 /2 hello", "200 /3 "}, []string{"/1", "/2", "/3"}, []string{"200 /1 hello", bad, "EOF"}},
		{"space after CR LF", "POST /1" + counted + "\r\n GET /2" + get, []string{"200 /1 hello", bad, "EOF"}, []string{"/1"}, []string{"200 /1 hello", bad, "EOF"}},
		{"CR LF after GET", "GET /1" + get + "\r\nGET /2" + get, []string{"200 /1 ", bad, "EOF"}, []string{"/1"}, []string{"200 /1 ", bad, "EOF"}},
		{"CR LF after POST and GET", "POST /1" + counted + "GET /2" + get + "\r\nGET /3" + get, []string{"200 /1 hello", "200 /2 ", bad, "EOF"}, []string{"/1", "/2"}, []string{"200 /1 hello", "200 /2 ", bad, "EOF"}},
		{"CR LF after PUT", "PUT /1" + counted + "\r\nGET /2" + get, []string{"200 /1 hello", bad, "EOF"}, []string{"/1"}, []string{"200 /1 hello", bad, "EOF"}},
		{"CR LF before the first request", "\r\nGET /1" + get, []string{bad, "EOF"}, nil, []string{bad, "EOF"}},
		{"padded sizes and extensions", "POST /1" + chunked + "5 \r\nhello\r\n1;\x00 = \"\r\n!\r\n0\t \r\n\r\nGET /2" + get, []string{"200 /1 hello!", "200 /2 "}, []string{"/1", "/2"}, nil},
		{"chunks, and CR LF", "POST /1" + chunked + "5 \r\nhello\r\n0\r\nX: y\r\n\r\n\r\nGET /2" + get, []string{"200 /1 hello", "200 /2 "}, []string{"/1", "/2"}, nil},
		{"long method", strings.Repeat("M", 200) + " /1" + get + "GET /2" + get, []string{"200 /1 ", "200 /2 "}, []string{"/1", "/2"}, nil},
		{"padded sizes, then another route", "POST /1" + chunked + "5 \r\nhello\r\n0 \r\n\r\n\r\nGET /a/2" + get, []string{"200 /1 hello", "200 a GET /a/2 HTTP/1.1", "EOF"}, []string{"/1"}, nil},
		{"CR LF after POST, then another route", "POST /1" + counted + "\r\nGET /a/2" + get, []string{"200 /1 hello", "200 a GET /a/2 HTTP/1.1", "EOF"}, []string{"/1"}, []string{"200 /1 hello", bad, "EOF"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			lenient := newRoutedServer(t, `"lenient":true,`, elsewhereRoute, "", echoHandler)
			for _, pieces := range piecesOf(test.in) {
				answers(t, lenient.dial(t), pieces, test.want)
			}
			lenient.sawOnly(t, slices.Repeat(test.saw, len(piecesOf(test.in)))...)
			if test.strict != nil {
				answers(t, newRoutedServer(t, "", elsewhereRoute, "", echoHandler).dial(t), []string{test.in}, test.strict)
			}
			if !strings.Contains(test.in, "/a/") {
				bare := httptest.NewServer(http.HandlerFunc(echoHandler))
				defer bare.Close()
				conn, err := net.Dial("tcp", bare.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
				answers(t, conn, []string{test.in}, test.want)
			}
		})
	}
}

// TestReinspectBlankAfterPOST checks that what may come after a POST request is no
// beginning of a head: the connection is idle, and a hijacker gets it.
func TestReinspectBlankAfterPOST(t *testing.T) {
	const counted = " HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\r\n"
	t.Run("idle", func(t *testing.T) {
		s := loadRoutedServer(t, `"lenient":true,`, elsewhereRoute, "")
		synctest.Test(t, func(t *testing.T) {
			s.serve(t, 0, echoHandler)
			conn := s.pipe(t)
			r := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "POST /1"+counted)
			if got := readResponse(t, r); got != "200 /1 hello" {
				t.Errorf("got %q", got)
			}
			time.Sleep(time.Hour) // longer than a head may take
			_, _ = io.WriteString(conn, "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
			if got := readResponse(t, r); got != "200 /2 " {
				t.Errorf("got %q, want the answer to the next request", got)
			}
		})
	})
	for name, after := range map[string]string{"nothing": "", "a frame": "frame", "a request": "GET /a/2 HTTP/1.1\r\nHost: h\r\n\r\n"} {
		t.Run("hijacked before "+name, func(t *testing.T) {
			s := loadRoutedServer(t, `"lenient":true,`, elsewhereRoute, "")
			synctest.Test(t, func(t *testing.T) {
				goOn := make(chan struct{})
				s.serve(t, 0, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.ReadAll(r.Body)
					<-goOn
					conn, rw, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					_, _ = io.Copy(conn, rw)
				})
				conn := s.pipe(t)
				_, _ = io.WriteString(conn, "POST /1"+counted+after)
				synctest.Wait() // until all is read while the handler runs
				close(goOn)
				want := "\r\n" + after
				got := make([]byte, len(want))
				if _, err := io.ReadFull(conn, got); string(got) != want || err != nil {
					t.Errorf("got %q (%v), want %q", got, err, want)
				}
			})
		})
	}
}

// piecesOf returns in as a whole, in two, and byte by byte.
func piecesOf(in string) [][]string {
	pieces := [][]string{{in}, strings.Split(in, "")}
	for cut := 1; cut < len(in); cut += 1 + len(in)/12 {
		pieces = append(pieces, []string{in[:cut], in[cut:]})
	}
	return pieces
}

// TestReinspectEditsInPlace checks that each request is edited as its route says, on one
// connection to the server, and that one which cannot be edited is the last.
func TestReinspectEditsInPlace(t *testing.T) {
	route := `{"match":[{"http_request":[{"path":["/x/*"]}]}],"handle":[
		{"handler":"rewrite_head","strip_prefix":"/x","header":{"set":{"X-Tag":["{l4.http.query}"]}}},{"handler":"http_app"}]},`
	s := newRoutedServer(t, "", elsewhereRoute+route, "", func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.RequestURI, r.Header.Get("X-Tag"), content)
	})
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	const host = " HTTP/1.1\r\nHost: h\r\n"
	_, _ = io.WriteString(conn, "GET /x/1?a"+host+"\r\nPOST /x/2?b"+host+"X-Tag: mine\r\nContent-Length: 5\r\n\r\nhelloGET /x/3?c"+host+"\r\nGET /4"+host+"\r\n")
	for _, want := range []string{"200 /1?a a ", "200 /2?b b hello", "200 /3?c c ", "200 /4  "} {
		if got := readResponse(t, r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := s.opened.Load(); got != 2 {
		t.Errorf("got %d connections to the server, want one for each route", got)
	}
	s.sawOnly(t, "/1?a", "/2?b", "/3?c", "/4")
}

// TestReinspectBehindASlowResponse checks that a request which arrives while a handler
// runs waits for its response, wherever it goes.
func TestReinspectBehindASlowResponse(t *testing.T) {
	for _, next := range []string{"/2", "/a/2"} {
		t.Run(next, func(t *testing.T) {
			s := loadRoutedServer(t, "", elsewhereRoute, "")
			synctest.Test(t, func(t *testing.T) {
				running, finish := make(chan struct{}), make(chan struct{})
				s.serve(t, 0, func(w http.ResponseWriter, r *http.Request) {
					if r.RequestURI == "/slow" {
						close(running)
						<-finish
					}
					if err := r.Context().Err(); err != nil {
						t.Errorf("%s: %v", r.RequestURI, err)
					}
					_, _ = io.WriteString(w, r.RequestURI)
				})
				conn := s.pipe(t)
				_, _ = io.WriteString(conn, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
				<-running
				_, _ = io.WriteString(conn, "GET "+next+" HTTP/1.1\r\nHost: h\r\n\r\n")
				// The server notices the bytes, and must not take them for the client's end.
				synctest.Wait()
				close(finish)
				r := bufio.NewReader(conn)
				if got := readResponse(t, r); got != "200 /slow" {
					t.Errorf("got %q first", got)
				}
				want := "200 " + next
				if next == "/a/2" {
					want = "200 a GET /a/2 HTTP/1.1"
				}
				if got := readResponse(t, r); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}

// TestReinspectNoticesAClientThatLeaves checks that the context of a request is
// cancelled when the client goes away, also one that has sent a part of another head.
func TestReinspectNoticesAClientThatLeaves(t *testing.T) {
	for name, more := range map[string]string{"silent": "", "within a head": "GET /2 HT"} {
		t.Run(name, func(t *testing.T) {
			running, cancelled := make(chan struct{}), make(chan struct{})
			s := newRoutedServer(t, "", "", "", func(_ http.ResponseWriter, r *http.Request) {
				close(running)
				<-r.Context().Done()
				close(cancelled)
			})
			conn := s.dial(t)
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			<-running
			_, _ = io.WriteString(conn, more)
			_ = conn.SetLinger(0)
			conn.Close()
			select {
			case <-cancelled:
			case <-time.After(30 * time.Second):
				t.Error("the context was not cancelled")
			}
		})
	}
}

// TestReinspectOverTLS checks that the content of a later request may come after its
// head where TLS was terminated before inspect, whatever the server's idle timeout is.
func TestReinspectOverTLS(t *testing.T) {
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	config := certificate.TLS
	certificate.Close()
	for _, idle := range []time.Duration{-1, 0, time.Minute} {
		t.Run(idle.String(), func(t *testing.T) {
			s := loadRoutedServer(t, "", elsewhereRoute, "")
			synctest.Test(t, func(t *testing.T) {
				s.serve(t, idle, echoHandler)
				near, far := net.Pipe()
				s.handle(tls.Server(near, config))
				conn := tls.Client(far, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
				defer conn.Close()
				r := bufio.NewReader(conn)
				for _, target := range []string{"/1", "/2", "/3"} {
					_, _ = io.WriteString(conn, "POST "+target+" HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n")
					synctest.Wait() // until the server waits for the content
					_, _ = io.WriteString(conn, "hello")
					if got, want := readResponse(t, r), "200 "+target+" hello"; got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
			})
		})
	}
}

// TestReinspectHijack checks that a hijacked connection is the hijacker's, with what
// the client has sent ahead.
func TestReinspectHijack(t *testing.T) {
	for name, early := range map[string]string{"nothing ahead": "", "a frame ahead": "\x81\x85frame", "a request ahead": "GET /a/2 HTTP/1.1\r\nHost: h\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			s := newRoutedServer(t, "", elsewhereRoute, "", func(w http.ResponseWriter, _ *http.Request) {
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
				_, _ = io.Copy(conn, rw)
			})
			conn := s.dial(t)
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"+early)
			_, _ = io.WriteString(conn, "GET /a/3 HTTP/1.1\r\nHost: h\r\n\r\n")
			_ = conn.CloseWrite()
			got, err := io.ReadAll(conn)
			want := "HTTP/1.1 101 Switching Protocols\r\n\r\n" + early + "GET /a/3 HTTP/1.1\r\nHost: h\r\n\r\n"
			if string(got) != want || err != nil {
				t.Errorf("got %q (%v), want %q", got, err, want)
			}
			s.sawOnly(t, "/")
		})
	}
}

// TestReinspectExpect checks that a client which waits for 100 gets it, and that one
// that is refused does not have its content taken for a request.
func TestReinspectExpect(t *testing.T) {
	const head = " HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	s := newRoutedServer(t, "", elsewhereRoute, "", echoHandler)
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, "POST /1"+head)
	if line, err := r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q (%v)", line, err)
	}
	_, _ = r.ReadString('\n')
	_, _ = io.WriteString(conn, "hello")
	if got := readResponse(t, r); got != "200 /1 hello" {
		t.Errorf("got %q", got)
	}
	_, _ = io.WriteString(conn, "POST /ignore"+head)
	if got := readResponse(t, r); got != "200 /ignore" {
		t.Errorf("got %q", got)
	}
	_, _ = io.WriteString(conn, "GET /a/3 HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := readResponse(t, r); !isEnd(got) {
		t.Errorf("after content that was not sent: got %q, want the end", got)
	}
	s.sawOnly(t, "/1", "/ignore")
}

// TestReinspectClocks checks which clock holds where: the server's for a client that is
// idle, inspect's from the first byte of the next head on.
func TestReinspectClocks(t *testing.T) {
	s := loadRoutedServer(t, `"timeout":"2s","silent_timeout":"1s",`, elsewhereRoute, "")
	synctest.Test(t, func(t *testing.T) {
		s.serve(t, time.Minute, echoHandler)
		begin := func() func(after time.Duration, text, want string, took time.Duration) {
			conn := s.pipe(t)
			r := bufio.NewReader(conn)
			return func(after time.Duration, text, want string, took time.Duration) {
				t.Helper()
				time.Sleep(after)
				begun := time.Now()
				if text != "" {
					_, _ = io.WriteString(conn, text)
				}
				got := readResponse(t, r)
				if want == "EOF" && isEnd(got) {
					got = want
				}
				if got != want || time.Since(begun) != took {
					t.Errorf("after %q: got %q after %s, want %q after %s", text, got, time.Since(begun), want, took)
				}
			}
		}
		request := begin()
		request(0, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n", "200 /1 ", 0)
		request(59*time.Second, "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n", "200 /2 ", 0)
		request(59*time.Second, "GET /3 HT", "408 408 Request Timeout", 2*time.Second)

		request = begin()
		request(0, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n", "200 /1 ", 0)
		request(0, "", "EOF", time.Minute)
	})
}

// TestReinspectTimeoutBehindASlowResponse checks that a head which takes too long while
// a handler runs does not end that, and is answered after it.
func TestReinspectTimeoutBehindASlowResponse(t *testing.T) {
	s := loadRoutedServer(t, "", "", "")
	synctest.Test(t, func(t *testing.T) {
		running, finish := make(chan struct{}), make(chan struct{})
		s.serve(t, 0, func(w http.ResponseWriter, r *http.Request) {
			close(running)
			<-finish
			_, _ = fmt.Fprint(w, r.Context().Err())
		})
		conn := s.pipe(t)
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-running
		_, _ = io.WriteString(conn, "GET /2 HT")
		time.Sleep(time.Hour) // longer than the head may take
		close(finish)
		r := bufio.NewReader(conn)
		if got := readResponse(t, r); got != "200 <nil>" {
			t.Errorf("got %q, want the handler undisturbed", got)
		}
		if got := readResponse(t, r); got != "408 408 Request Timeout" {
			t.Errorf("got %q", got)
		}
	})
}

// TestReinspectShutdown checks that an idle connection is closed by the server's
// shutdown, and one that is busy after its response.
func TestReinspectShutdown(t *testing.T) {
	running, finish := make(chan struct{}), make(chan struct{})
	s := newRoutedServer(t, "", elsewhereRoute, "", func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI == "/slow" {
			close(running)
			<-finish
		}
		_, _ = io.WriteString(w, r.RequestURI)
	})
	idle, busy := s.dial(t), s.dial(t)
	ri, rb := bufio.NewReader(idle), bufio.NewReader(busy)
	_, _ = io.WriteString(idle, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := readResponse(t, ri); got != "200 /1" {
		t.Errorf("got %q", got)
	}
	_, _ = io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
	<-running
	var down sync.WaitGroup
	down.Go(func() { _ = s.server.Shutdown(t.Context()) })
	if got := readResponse(t, ri); !isEnd(got) {
		t.Errorf("idle: got %q, want the end", got)
	}
	close(finish)
	if got := readResponse(t, rb); got != "200 /slow" {
		t.Errorf("busy: got %q", got)
	}
	if got := readResponse(t, rb); !isEnd(got) {
		t.Errorf("busy: got %q, want the end", got)
	}
	down.Wait()
	s.sawOnly(t, "/1", "/slow")
}

// TestReinspectEndsWithItsConfiguration checks that a connection whose routes are gone
// ends at the next request.
func TestReinspectEndsWithItsConfiguration(t *testing.T) {
	s := newRoutedServer(t, "", elsewhereRoute, "", echoHandler)
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n")
	_ = s.inspect.Cleanup()
	_, _ = io.WriteString(conn, "hello")
	if got := readResponse(t, r); got != "200 /1 hello" {
		t.Errorf("got %q", got)
	}
	_, _ = io.WriteString(conn, "GET /a/2 HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := readResponse(t, r); !isEnd(got) {
		t.Errorf("got %q, want the end", got)
	}
}

// TestReuseOfHTTPApp checks the values that are not the default.
func TestReuseOfHTTPApp(t *testing.T) {
	const two = "GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /a/2 HTTP/1.1\r\nHost: h\r\n\r\n"
	tests := []struct {
		reuse string
		in    string
		want  []string
		saw   []string
	}{
		{"pin", two, []string{"200 /1 ", "200 /a/2 "}, []string{"/1", "/a/2"}},
		{"close", two, []string{"200 /1 ", "EOF"}, []string{"/1"}},
		{"close", "GET /1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n", []string{"200 /1 ", "EOF"}, []string{"/1"}},
		{"close", "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET /3 HTTP/1.1\r\nHost: h\r\n\r\n", []string{"200 /1 hello", "EOF"}, []string{"/1"}},
		{"close", "GET /1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n", []string{"200 /1 ", "EOF"}, []string{"/1"}},
		{"reinspect", two, []string{"200 /1 ", "200 a GET /a/2 HTTP/1.1"}, []string{"/1"}},
	}
	for _, test := range tests {
		t.Run(test.reuse, func(t *testing.T) {
			for _, pieces := range piecesOf(test.in) {
				s := newRoutedServer(t, "", elsewhereRoute, `,"reuse":"`+test.reuse+`"`, echoHandler)
				conn := s.dial(t)
				go func() {
					for _, piece := range pieces {
						_, _ = io.WriteString(conn, piece)
					}
				}()
				r := bufio.NewReader(conn)
				for _, want := range test.want {
					got := readResponse(t, r)
					if want == "EOF" && isEnd(got) {
						continue
					}
					if got != want {
						t.Errorf("%q in %d pieces: got %q, want %q", test.in, len(pieces), got, want)
					}
				}
				s.sawOnly(t, test.saw...)
			}
		})
	}
}

// readLog is a connection that notes what net/http's server does with it.
type readLog struct {
	net.Conn
	mu  sync.Mutex
	log []string
}

func (c *readLog) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.log) == 0 || c.log[len(c.log)-1] != what {
		c.log = append(c.log, what)
	}
}

func (c *readLog) has(what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(strings.Join(c.log, "\n")+"\n", what+"\n")
}

func (c *readLog) Read(p []byte) (int, error) {
	if len(p) == 1 {
		c.note("reads one byte")
	} else {
		c.note("reads")
	}
	return c.Conn.Read(p)
}

func (c *readLog) Write(p []byte) (int, error) {
	c.note("writes")
	return c.Conn.Write(p)
}

// WhenTaken implements handover.Conn.
func (*readLog) WhenTaken(func()) {}

func (c *readLog) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		c.note("interrupts")
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *readLog) SetDeadline(t time.Time) error {
	c.note("sets both deadlines")
	return c.Conn.SetDeadline(t)
}

// TestServerReads holds net/http's server to what reinspectConn relies on.
func TestServerReads(t *testing.T) {
	listener := listenVirtually(t, "server-reads")
	running, finish := make(chan string), make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI == "/ignore" {
			_, _ = io.WriteString(w, "ignored")
			return
		}
		_, _ = io.ReadAll(r.Body)
		running <- r.RequestURI
		<-finish
		if r.RequestURI == "/hijack" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		}
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	defer serving.Wait()
	defer server.Close()

	client, conn := net.Pipe()
	defer client.Close()
	log := &readLog{Conn: conn}
	if err := network.Deliver("server-reads:80", log, time.Minute); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(client)
	wait := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !log.has(what); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the server never %s: %q", what, log.log)
			}
		}
	}
	step := func(want ...string) {
		t.Helper()
		log.mu.Lock()
		defer log.mu.Unlock()
		if got := strings.Join(log.log, ", "); got != strings.Join(want, ", ") {
			t.Errorf("the server %s, want %s", got, strings.Join(want, ", "))
		}
		log.log = nil
	}

	first := []string{"reads"}
	for _, request := range []string{
		"GET /get HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /post HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
		"POST /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		_, _ = io.WriteString(client, request)
		<-running
		wait("reads one byte")
		finish <- struct{}{}
		if got := readResponse(t, r); got != "200 " {
			t.Fatalf("got %q", got)
		}
		wait("interrupts\nreads")
		step(append(first, "reads one byte", "writes", "interrupts", "reads")...)
		first = nil // the read that brings the next request has begun
	}

	_, _ = io.WriteString(client, "GET /hijack HTTP/1.1\r\nHost: h\r\n\r\n")
	<-running
	wait("reads one byte")
	finish <- struct{}{}
	wait("sets both deadlines")
	step("reads one byte", "interrupts", "sets both deadlines")
}

// BenchmarkKeptConnection is a request on a connection that is kept, with each reuse of
// http_app, one after the other on two connections.
func BenchmarkKeptConnection(b *testing.B) {
	for _, reuse := range []string{"pin", "reinspect"} {
		b.Run(reuse, func(b *testing.B) {
			s := newRoutedServer(b, "", elsewhereRoute, `,"reuse":"`+reuse+`"`, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "hello")
			})
			s.record.Store(false)
			b.SetParallelism(1)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				conn, err := net.Dial("tcp", s.address)
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.Close()
				response := make([]byte, 4096)
				for pb.Next() {
					_, _ = io.WriteString(conn, browserWebSocket.Head)
					if n, err := conn.Read(response); err != nil || !bytes.HasSuffix(response[:n], []byte("hello")) {
						b.Errorf("got %q (%v)", response[:n], err)
						return
					}
				}
			})
		})
	}
}

// An idle connection has no inspection and no buffer, of neither the last request nor the
// next, and one that is parked nothing of the server's.
func TestReinspectIdle(t *testing.T) {
	const connections, requests = 200, 3
	live := func(options string, parks bool) (perConnection int64) {
		server := newRoutedServer(t, "", "", options, echoHandler)
		others := streams.Len()
		server.record.Store(false)
		heap := func() int64 {
			runtime.GC()
			runtime.GC() // what pools held
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			return int64(stats.HeapAlloc)
		}
		before := heap()
		for range connections {
			conn := server.dial(t)
			r := bufio.NewReaderSize(conn, 16)
			for range requests {
				_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
				if got := readResponse(t, r); !strings.HasPrefix(got, "200 ") {
					t.Fatalf("got %q", got)
				}
			}
		}
		for begin := time.Now(); parks && streams.Len() < others+connections; time.Sleep(time.Millisecond) {
			if time.Since(begin) > 30*time.Second {
				t.Fatalf("%d of %d connections are parked", streams.Len()-others, connections)
			}
		}
		return (heap() - before) / connections
	}
	pin, reinspect := live(`,"reuse":"pin"`, false), live(`,"park":0`, false)
	t.Logf("pin %d bytes, reinspect %d", pin, reinspect)
	if _, parks := relay.New(nil, nil).(relay.Parker); parks {
		parked := live(`,"park":"200ms"`, true)
		t.Logf("parked %d", parked)
		if parked > pin/2 {
			t.Errorf("an idle connection has %d bytes on the heap with the server, and %d parked", pin, parked)
		}
	}
	if inspection := int64(unsafe.Sizeof(inspection{})); reinspect-pin > inspection+socket.FirstSize/2 {
		t.Errorf("an idle connection has %d bytes on the heap with pin, and %d with reinspect", pin, reinspect)
	}
}
