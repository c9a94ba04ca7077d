package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// A process that is told to stop lets streams come to an end, for the grace period,
// and then resets those that are left.
func TestShutdownDrainsStreams(t *testing.T) {
	stopsHere(t)
	address, upstream := freeport.Address(t), backend(t, echo("up"))
	for _, test := range []struct {
		name  string
		grace string
		ends  bool // the stream ends by itself
	}{
		{"waits", "1m", true},
		{"resets", "500ms", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startProcess(t, "{\n admin off\n grace_period "+test.grace+"\n"+strings.TrimPrefix(relayCaddyfile(address, "relay "+upstream+" {\n reuse pin\n }"), "{")+
				"\nhttp://:80 {\n bind streamprox/web\n}\n")
			conn := dial(t, address)
			send(t, conn, getRoot, 1<<20)
			r := bufio.NewReader(conn)
			if got, err := r.ReadString('\n'); got != "up\n" {
				t.Fatalf("got %q (%v)", got, err)
			}
			p.stop()
			eventually(t, "shutdown", func() bool {
				return strings.Contains(p.output.String(), "waiting for streams to end")
			})
			if test.ends {
				if _, err := net.DialTimeout("tcp", address, time.Second); err == nil {
					t.Error("the listener is still open")
				}
				send(t, conn, "more", 1)
				conn.CloseWrite()
				got, err := io.ReadAll(r)
				if string(got) != getRoot+"more" || err != nil {
					t.Errorf("the stream ended with %q (%v)", got, err)
				}
			} else if _, err := io.ReadAll(r); !isReset(err) {
				t.Errorf("the stream ended with %v, want a reset", err)
			}
			p.exits()
			if got := strings.Contains(p.output.String(), `"msg":"streams were reset at shutdown","streams":1`); got == test.ends {
				t.Errorf("logged that a stream was reset: %v", got)
			}
		})
	}
}

// A process that is told to stop finishes requests that no stream carries yet, because
// their upstream is being dialled: the first one of a connection, and one that the HTTP
// server has given back.
func TestShutdownWaitsForRequests(t *testing.T) {
	stopsHere(t)
	for _, before := range []string{"", "GET /site HTTP/1.1\r\nHost: a\r\n\r\n"} {
		t.Run(map[bool]string{true: "first request", false: "later request"}[before == ""], func(t *testing.T) {
			address, upstream := freeport.Address(t), freeport.Address(t)
			p := startProcess(t, "{\n debug\n admin off\n grace_period 1m\n"+strings.TrimPrefix(layer4Caddyfile(address, `
				@b http_request path /b*
				route @b {
					relay `+upstream+` {
						lb_try_duration 1m
						lb_try_interval 20ms
					}
				}
				route {
					http_app web
				}
			`), "{")+"\nhttp://:80 {\n bind streamprox/web\n respond site\n}\n")
			conn := dial(t, address)
			c := &client{TCPConn: conn, r: bufio.NewReader(conn), size: 1 << 20}
			if before != "" {
				sends(before)(t, c)
				gets(200, "site")(t, c)
			}
			sends("GET /b HTTP/1.1\r\nHost: a\r\n\r\n")(t, c)
			eventually(t, "dial", func() bool { return strings.Contains(p.output.String(), "dial failed") })
			p.stop()
			eventually(t, "shutdown", func() bool {
				return strings.Contains(p.output.String(), "waiting for streams to end") || strings.Contains(p.output.String(), "shutdown complete")
			})
			ln, err := net.Listen("tcp", upstream)
			if err != nil {
				t.Fatal(err)
			}
			serveBackend(t, ln, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb")
				}
			})
			last(200, "b")(t, c)
			p.exits()
		})
	}
}

// The branch of a tee waits for more from a client that is gone, and closing it does not
// wake it: shutdown does not wait for it for ever, nor once for each handler.
func TestShutdownLeavesWhatCannotEnd(t *testing.T) {
	stopsHere(t)
	// The upstream says nothing: what it said would come between the bytes of the site, or after.
	address, upstream := freeport.Address(t), backend(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	p := startProcess(t, "{\n admin off\n layer4 {\n "+address+" {\n route {\n tee {\n relay "+upstream+"\n }\n inspect {\n route {\n http_app web\n }\n}\n}\n}\n"+
		freeport.Address(t)+" {\n route {\n relay "+upstream+"\n }\n}\n}\n grace_period 500ms\n}\nhttp://:80 {\n bind streamprox/web\n respond hello\n}\n")
	conn := dial(t, address)
	send(t, conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 1<<20)
	if got, err := io.ReadAll(conn); !strings.HasSuffix(string(got), "hello") {
		t.Fatalf("got %q (%v)", got, err)
	}
	conn.Close()
	p.stop()
	p.exits()
	if n := strings.Count(p.output.String(), "streams did not end at shutdown"); n != 1 {
		t.Errorf("%d lines say that streams did not end, want 1", n)
	}
}
