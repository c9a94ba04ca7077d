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

// sink is a server that keeps what it gets and answers nothing.
type sink struct {
	mu    sync.Mutex
	got   strings.Builder
	ended atomic.Bool
}

func (s *sink) serve(conn net.Conn) {
	_, _ = io.Copy(s, conn)
	s.ended.Store(true)
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

// TestTeeThatLoads checks that where tee is allowed before the handlers of this package,
// each byte reaches them, and the branch, once.
func TestTeeThatLoads(t *testing.T) {
	app := backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(request.URL.Path), request.URL.Path)
		}
	})
	for name, test := range map[string]struct{ tee, then string }{
		"before inspect, to http_app":                  {"route", "inspect {\n route {\n http_app web\n }\n }"},
		"before inspect, to relay":                     {"route", "inspect {\n route {\n relay " + app + " {\n reuse pin\n }\n }\n }"},
		"before http_app":                              {"route", "http_app web"},
		"before relay":                                 {"route", "relay " + app},
		"before inspect, after a matcher of addresses": {"@a remote_ip 127.0.0.0/8\n route @a", "inspect {\n route {\n http_app web\n }\n }"},
		"before matchers":                              {"route", "subroute {\n @a http_request path /a\n route @a {\n http_app web\n }\n }"},
	} {
		t.Run(name, func(t *testing.T) {
			var branch sink
			address := freeport.Address(t)
			start(t, "{\n layer4 {\n "+address+" {\n "+test.tee+" {\n tee {\n proxy "+backend(t, branch.serve)+"\n }\n "+test.then+"\n }\n }\n }\n}\n"+
				"http://:80 {\n bind streamprox/web\n respond {path}\n}\n")
			conn := dial(t, address)
			var sent strings.Builder
			for _, path := range []string{"/a", "/b"} {
				request := "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n"
				sent.WriteString(request)
				if _, body := roundTrip(t, conn, request, 0); body != path {
					t.Errorf("asking for %s: got %q", path, body)
				}
			}
			// tee ends its branch when it reads the end, and only then.
			_ = conn.CloseWrite()
			if more := receive(t, conn); len(more) > 0 {
				t.Errorf("got more than two responses: %q", more)
			}
			eventually(t, "end of the branch", branch.ended.Load)
			if got := branch.String(); got != sent.String() {
				t.Errorf("the branch got %q, want %q", got, sent.String())
			}
		})
	}
}
