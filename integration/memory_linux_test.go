package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestMemoryOfWaiting: what Caddy holds on its heap for a connection that waits: for more of a
// response, or for its next request. For one that is parked there are, besides its record, two
// goroutines that have ended, of 480 bytes each: the runtime keeps them to use them again.
func TestMemoryOfWaiting(t *testing.T) {
	parksHere(t)
	up := backend(t, func(conn net.Conn) {
		request, err := http.ReadRequest(bufio.NewReader(conn))
		switch {
		case err != nil:
		case request.URL.Path == "/quiet":
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
			_, _ = io.Copy(io.Discard, conn)
		default:
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		}
	})
	for _, test := range []struct {
		name, handler, path string
		most                int64 // bytes
	}{
		{"quiet response", "relay " + up, "/quiet", 1700},
		{"kept connection", "relay " + up, "/", 1300},
		{"parked connection", "http_app web {\npark 200ms\n}", "/", 2200},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, admin := freeport.Address(t), freeport.Address(t)
			global := strings.TrimPrefix(layer4Caddyfile(address, "route {\n"+test.handler+"\n}"), "{")
			startLimited(t, 8192, "{\nadmin "+admin+global+"\nhttp://:80 {\nbind streamprox/web\nrespond ok\n}\n")
			open := func(n int) {
				for range n {
					conn := dial(t, address)
					_, _ = io.WriteString(conn, "GET "+test.path+" HTTP/1.1\r\nHost: a\r\n\r\n")
					content := make([]byte, 2)
					response, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
					if err == nil {
						_, err = io.ReadFull(response.Body, content)
					}
					if err != nil || string(content) != "ok" {
						t.Fatalf("got %q (%v)", content, err)
					}
				}
				eventually(t, "only the engine has the connections", func() bool {
					return goroutinesIn(t, admin, "caddy-streamprox.(*Relay).Handle", waitsInHandler, waitsInServer) == 0
				})
			}
			const n = 1000
			open(10)
			heap, stacks := memoryOf(t, admin)
			open(n)
			moreHeap, moreStacks := memoryOf(t, admin)
			each := (moreHeap - heap) / n
			t.Logf("%d bytes for each, and %d of stacks that the runtime keeps", each, (moreStacks-stacks)/n)
			if each > test.most {
				t.Errorf("got %d bytes for each, want at most %d", each, test.most)
			}
		})
	}
}
