package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// headBackend answers each request with the head it received, and leaves it to the client
// to close.
func headBackend(t *testing.T) string {
	t.Helper()
	return backend(t, func(conn net.Conn) {
		for r := bufio.NewReader(conn); ; {
			var head strings.Builder
			for !strings.HasSuffix(head.String(), "\r\n\r\n") {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				head.WriteString(line)
			}
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: %d\r\n\r\n%s", head.Len(), head.String())
		}
	})
}

// What of a head reaches the upstream, and whether a second request on the connection does.
func TestRelayedHeads(t *testing.T) {
	const (
		hops      = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nX_Real_IP: 192.0.2.1\r\nX-Real-IP: 192.0.2.2\r\n\r\n"
		webSocket = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
		irc       = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, IRC/6.9\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA\r\n\r\n"
		closing   = "GET / HTTP/1.1\r\nhost:a\r\nConnection: close\r\n\r\n"
	)
	upstream := headBackend(t)
	const last = "reuse close\n"
	tests := []struct{ name, options, head, want string }{
		{"kept: fields of the connection", "", hops, "GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.2\r\n\r\n"},
		{"kept: the client closes", "", closing, closing},
		{"kept: WebSocket", "", webSocket, webSocket},
		{"kept: WebSocket, upgrade off", "upgrade off", webSocket, "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"},
		{"kept: the upstream's connection is not", "upstream_keepalive 0", hops, "GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.2\r\nConnection: close\r\n\r\n"},
		{"fields of the connection", last, hops, "GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.2\r\nConnection: close\r\n\r\n"},
		{"keep_alias_headers", last + "keep_alias_headers", hops, "GET / HTTP/1.1\r\nHost: a\r\nX_Real_IP: 192.0.2.1\r\nX-Real-IP: 192.0.2.2\r\nConnection: close\r\n\r\n"},
		{"nothing to change", last, closing, closing},
		{"WebSocket", last, webSocket, webSocket},
		{"WebSocket, upgrade off", last + "upgrade off", webSocket, "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\n\r\n"},
		{"WebSocket, another protocol allowed", last + "upgrade irc/6.9", webSocket, "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\n\r\n"},
		{"protocols that are not allowed", last, irc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"},
		{"one of two protocols allowed", last + "upgrade irc/6.9", irc, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: irc/6.9\r\nConnection: Upgrade\r\n\r\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			address := freeport.Address(t)
			start(t, relayCaddyfile(address, "relay "+upstream+" {\n"+test.options+"\n}"))
			for _, piece := range pieces {
				conn := dial(t, address)
				send(t, conn, test.head+getRoot, piece.size)
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatalf("%s: reading the response: %v", piece.name, err)
				}
				got, err := io.ReadAll(resp.Body)
				if string(got) != test.want || err != nil {
					t.Errorf("%s: the upstream received %q (%v), want %q", piece.name, got, err, test.want)
				}
				kept := strings.HasPrefix(test.name, "kept: ") && test.head != closing && test.want != webSocket
				if resp.Close == kept || resp.Header.Get("Keep-Alive") != "" {
					t.Errorf("%s: got close %v, Keep-Alive %q, want close %v", piece.name, resp.Close, resp.Header.Get("Keep-Alive"), !kept)
				}
				if kept {
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatalf("%s: reading the second response: %v", piece.name, err)
					}
					if got, err := io.ReadAll(resp.Body); !strings.HasPrefix(string(got), "GET / HTTP/1.1\r\nHost: a\r\n") || err != nil {
						t.Errorf("%s: the second request was answered with %q (%v)", piece.name, got, err)
					}
					continue
				}
				if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
					t.Errorf("%s: after the response came %q (%v), want the end", piece.name, rest, err)
				}
			}
		})
	}
}

// A request that would have a proxy remove what it is known by reaches no upstream.
func TestNominatedFields(t *testing.T) {
	address := freeport.Address(t)
	start(t, relayCaddyfile(address, "relay "+headBackend(t)))
	for _, name := range []string{"Host", "Content-Length", "Transfer-Encoding", "Authorization", "cookie", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto"} {
		conn := dial(t, address)
		send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, "+name+"\r\n\r\n", 1<<20)
		expectAnswer(t, conn, "400")
	}
}

func TestResponseHeaderTimeout(t *testing.T) {
	hangs := backend(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	address := freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay "+hangs+" {\n response_header_timeout 200ms\n }"))
	conn := dial(t, address)
	send(t, conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 1)
	expectAnswer(t, conn, "504")
	s.logs.expect(t, map[string]any{"msg": "stream ended", "cause": "response_timeout"})
}
