package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestUnfinishedHeadsCostNoGoroutine has clients that begin their second request and say no
// more, those of relay and those that are parked: what has come of their heads waits in the
// event loop. It is answered when the time is over.
func TestUnfinishedHeadsCostNoGoroutine(t *testing.T) {
	const clients = 50
	for name, first := range map[string]string{"relay": "/relay", "parked": "/site"} {
		t.Run(name, func(t *testing.T) {
			address := freeport.Address(t)
			startQuiet(t, layer4Caddyfile(address, `
				timeout 5s
				@relay http_request path /relay*
				route @relay {
					relay `+numberedBackend(t)+` {
						upstream_keepalive 0
					}
				}
				route {
					http_app web {
						park 1ms
					}
				}
			`)+"\nhttp://:80 {\n bind streamprox/web\n respond site\n}")
			want := map[string]string{"/relay": "1", "/site": "site"}[first]
			warm := newScript(t, address)
			warm.get(first, want)
			before := runtime.NumGoroutine()

			var all []*net.TCPConn
			for i := range clients {
				conn := dial(t, address)
				s := &script{t: t, conn: conn, r: bufio.NewReader(conn)}
				if first == "/relay" {
					want = fmt.Sprint(i + 2)
				}
				s.get(first, want)
				all = append(all, conn)
			}
			eventually(t, "clients that wait without a goroutine", func() bool { return runtime.NumGoroutine() < before+clients/2 })
			for _, conn := range all {
				if _, err := io.WriteString(conn, "GET /relay HTTP/1.1\r\nHo"); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "beginnings of heads that are read", func() bool { return unread(t, address) == 0 })
			if after := runtime.NumGoroutine(); after >= before+clients/2 {
				t.Errorf("%d goroutines with %d unfinished heads, %d before", after, clients, before)
			}
			for _, conn := range all {
				expectAnswer(t, conn, "408")
			}
		})
	}
}
