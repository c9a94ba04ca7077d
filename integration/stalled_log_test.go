package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// stalledLog is an output of logs that takes nothing until it is released.
var stalledLog struct {
	mu      sync.Mutex
	called  func()        // the first time that something is written
	release chan struct{} // closed: everything is taken
	taken   strings.Builder
}

func init() { caddy.RegisterModule(stalledLogWriter{}) }

type stalledLogWriter struct{}

func (stalledLogWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.streamprox_stalled", New: func() caddy.Module { return new(stalledLogWriter) }}
}
func (stalledLogWriter) WriterKey() string                     { return "streamprox_stalled" }
func (stalledLogWriter) String() string                        { return "streamprox_stalled" }
func (w stalledLogWriter) OpenWriter() (io.WriteCloser, error) { return nopCloser{w}, nil }

func (stalledLogWriter) Write(p []byte) (int, error) {
	stalledLog.called()
	<-stalledLog.release
	stalledLog.mu.Lock()
	defer stalledLog.mu.Unlock()
	return stalledLog.taken.Write(p)
}

// TestStalledLog: while the output of a log takes nothing, streams go on, and no line is lost
// when it takes them again.
func TestStalledLog(t *testing.T) {
	const each = 8 // more than there are event loops
	for _, test := range []struct {
		name, options, logger string
		upstream              func(net.Conn)
		message               string
		lines                 int
	}{
		{"access log", "log", "streamprox.access", nil, "ended", 2 * each},
		{"warnings", "", "layer4.handlers.relay", func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }, "upstream did not answer as it should", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			called := make(chan struct{})
			stalledLog.called, stalledLog.release = sync.OnceFunc(func() { close(called) }), make(chan struct{})
			stalledLog.taken.Reset()
			release := sync.OnceFunc(func() { close(stalledLog.release) })
			defer release()
			address, upstream := freeport.Address(t), ""
			if test.upstream == nil {
				upstream = httpBackend(t, "server")
			} else {
				upstream = backend(t, test.upstream)
			}
			config := adapt(t, layer4Caddyfile(address, test.options+`
				route {
					relay `+upstream+`
				}
				@raw inspected other
				route @raw {
					relay `+backend(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })+`
				}`))
			config["logging"] = map[string]any{"logs": map[string]any{"stalled": map[string]any{
				"writer": map[string]any{"output": "streamprox_stalled"}, "include": []string{test.logger}, "level": "INFO",
			}}}
			startConfig(t, config)
			var stay []net.Conn
			for range each {
				conn := dial(t, address)
				_, _ = io.WriteString(conn, "\x00\x01")
				if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
					t.Fatal(err)
				}
				stay = append(stay, conn)
			}
			for range each {
				conn := dial(t, address)
				_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
					t.Fatal(err)
				}
			}
			await(t, "line in the log", called)
			for range 3 {
				for _, conn := range stay {
					bounce(t, conn)
				}
			}
			release()
			for _, conn := range stay {
				bounce(t, conn)
				conn.Close()
			}
			eventually(t, "lines of all", func() bool {
				stalledLog.mu.Lock()
				defer stalledLog.mu.Unlock()
				return strings.Count(stalledLog.taken.String(), `"msg":"`+test.message+`"`) == test.lines
			})
		})
	}
}

// bounce sends bytes to an upstream that sends them back.
func bounce(t *testing.T, conn net.Conn) {
	t.Helper()
	const sent = "there and back"
	if _, err := io.WriteString(conn, sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != sent {
		t.Fatalf("got %q (%v), want %q", got, err, sent)
	}
}
