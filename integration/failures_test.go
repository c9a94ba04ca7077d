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

// TestUpstreamFailuresAreLogged: at the default level there is one line for each kind of
// failure of an upstream, with its reason, and not one for each client.
func TestUpstreamFailuresAreLogged(t *testing.T) {
	const answered = "upstream did not answer as it should"
	says := func(response string) func(net.Conn) {
		return func(conn net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, response)
			}
		}
	}
	for _, test := range []struct {
		name      string
		upstream  func(net.Conn)
		options   string
		request   string
		message   string
		reasonHas string
	}{
		{"closes before its response", says(""), "", getRoot, answered, "closed the connection before its response"},
		{"resets", func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_ = conn.(*net.TCPConn).SetLinger(0)
		}, "", getRoot, answered, "reset the connection"},
		{"no HTTP", says("SSH-2.0-OpenSSH_9.6\r\n"), "", getRoot, answered, "invalid status line"},
		{"wrong Accept", says(head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: x")),
			"", handshake("/"), answered, "switched protocols"},
		{"no response in time", func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
			"response_header_timeout 100ms", getRoot, answered, "no response in time"},
		{"broken framing", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"), "", getRoot, answered, "invalid chunk size"},
		{"truncated", says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"), "", getRoot, answered, "truncated"},
		{"not reached", nil, "", getRoot, "upstream not reached", "no connection"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, upstream := freeport.Address(t), ""
			if test.upstream != nil {
				upstream = backend(t, test.upstream)
			} else {
				upstream = refusing(t)
			}
			s := start(t, relayCaddyfile(address, "relay "+upstream+" {\n "+test.options+"\n}"))
			for range 3 {
				conn := dial(t, address)
				send(t, conn, test.request, 1<<20)
				_, _ = io.ReadAll(conn)
				conn.Close()
			}
			line := s.logs.expect(t, map[string]any{"level": "warn", "msg": test.message, "upstream": upstream})
			if reason, _ := line["reason"].(string); !strings.Contains(reason, test.reasonHas) {
				t.Errorf("got the reason %q, want %q", reason, test.reasonHas)
			}
			if line["failures"] != 1.0 {
				t.Errorf("the line stands for %v failures, want 1", line["failures"])
			}
		})
	}
}

// TestFailedDialIsLogged: an upstream that is not reached is warned of also where the
// next one takes the request.
func TestFailedDialIsLogged(t *testing.T) {
	address, failing := freeport.Address(t), refusing(t)
	s := start(t, relayCaddyfile(address, "relay "+failing+" "+httpBackend(t, "next")+" {\n lb_policy first\n }"))
	if _, got := roundTrip(t, dial(t, address), getRoot, 1<<20); !strings.HasPrefix(got, "next") {
		t.Errorf("got %q, want the next upstream", got)
	}
	s.logs.expect(t, map[string]any{"level": "warn", "msg": "upstream not reached", "upstream": failing, "failures": 1})
	if n := len(s.logs.lines(map[string]any{"level": "error"})); n > 0 {
		t.Errorf("got %d errors, want none: the request was answered", n)
	}
}
