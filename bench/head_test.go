// Package bench measures streamprox beside its peers.
//
//	go test -C bench -bench Head -benchmem
//
// prints what it costs to read a browser's WebSocket head and to match it by path,
// host and field, in one run: with streamprox, with caddy-l4's http matcher, with
// net/http, cmux and tcpproxy. The last lines give the ratios.
package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	"github.com/inetaf/tcpproxy"
	"github.com/mholt/caddy-l4/layer4"
	_ "github.com/mholt/caddy-l4/modules/l4http"
	_ "github.com/mholt/caddy-l4/modules/l4subroute"
	"github.com/soheilhy/cmux"
	"go.uber.org/zap"

	streamprox "github.com/streamprox/caddy-streamprox"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// head is the head of a browser that opens a WebSocket, 560 bytes.
var head = []byte("GET /chat/rooms/42?token=8c1f0c3a9be44f0c5b27d9e1a63 HTTP/1.1\r\n" +
	"Host: chat.example.com\r\n" +
	"Connection: Upgrade\r\n" +
	"Pragma: no-cache\r\n" +
	"Cache-Control: no-cache\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
	"Upgrade: websocket\r\n" +
	"Origin: https://chat.example.com\r\n" +
	"Sec-WebSocket-Version: 13\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Accept-Language: en-GB,en-US;q=0.9,en;q=0.8,de;q=0.7\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
	"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")

// condition is what is asked of the head, in JSON of Caddy's HTTP matchers.
const condition = `{"path":["/chat/*"],"host":["chat.example.com"],"header":{"Upgrade":["websocket"]}}`

// conn is a connection that delivers the head in pieces of the given size.
type conn struct {
	rest  []byte
	piece int
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(c.piece, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

var localhost = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}

func (*conn) Write(p []byte) (int, error)      { return len(p), nil }
func (*conn) Close() error                     { return nil }
func (*conn) LocalAddr() net.Addr              { return localhost }
func (*conn) RemoteAddr() net.Addr             { return localhost }
func (*conn) SetDeadline(time.Time) error      { return nil }
func (*conn) SetReadDeadline(time.Time) error  { return nil }
func (*conn) SetWriteDeadline(time.Time) error { return nil }

// reached is the end of a route: it counts the connections that come to it.
type reached struct{}

var count int

func (reached) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.reached", New: func() caddy.Module { return new(reached) }}
}

func (reached) Handle(*layer4.Connection, layer4.Handler) error {
	count++
	return nil
}

func init() { caddy.RegisterModule(reached{}) }

func TestMain(m *testing.M) {
	// Logs as in production: no line per connection.
	err := caddy.Run(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: new(bool)}},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var end = layer4.HandlerFunc(func(*layer4.Connection) error { return nil })

// handler provisions a layer4 handler.
func handler(b *testing.B, id, config string) layer4.NextHandler {
	b.Helper()
	module, err := caddy.ActiveContext().LoadModuleByID(id, json.RawMessage(config))
	if err != nil {
		b.Fatal(err)
	}
	return module.(layer4.NextHandler)
}

// perHead runs f for each iteration and fails unless each came to the end of its route.
func perHead(b *testing.B, f func()) {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(int64(len(head)))
	before := count
	for b.Loop() {
		f()
	}
	if count-before < b.N {
		b.Fatalf("%d of %d connections came to the end of their route", count-before, b.N)
	}
}

func BenchmarkHead(b *testing.B) {
	if len(head) != 560 {
		b.Fatalf("the head has %d bytes", len(head))
	}
	results := make(map[string]float64)
	var order []string
	measure := func(name string, f func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			f(b)
			if _, ok := results[name]; !ok {
				order = append(order, name)
			}
			results[name] = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
		})
	}
	log := zap.NewNop()

	measure("end of the head alone", func(b *testing.B) {
		perHead(b, func() {
			if bytes.Contains(head, []byte("\r\n\r\n")) {
				count++
			}
		})
	})
	measure("httphead", func(b *testing.B) {
		var r httphead.Reader
		perHead(b, func() {
			r.Reset(httphead.Options{})
			if r.Read(head) == httphead.HTTP {
				count++
			}
		})
	})
	measure("httphead, byte by byte", func(b *testing.B) {
		var r httphead.Reader
		perHead(b, func() {
			r.Reset(httphead.Options{})
			for i := range head {
				if r.Read(head[:i+1]) == httphead.HTTP {
					count++
				}
			}
		})
	})

	const matchers = `{"routes":[{"match":[{"http_request":[` + condition + `]}],"handle":[{"handler":"reached"}]}]}`
	const stock = `{"routes":[{"match":[{"http":[` + condition + `]}],"handle":[{"handler":"reached"}]}]}`
	for _, piece := range []int{len(head), 100, 1} {
		pieces := ""
		if piece != len(head) {
			pieces = fmt.Sprintf(", %d at a time", piece)
		}
		// caddy-l4's matcher fails on a head that is cut between its lines.
		for _, peer := range []struct{ name, id, config string }{
			{"a layer4 connection alone", "", ""},
			{"inspect", "layer4.handlers.inspect", matchers},
			{"http_request without inspect", "layer4.handlers.subroute", matchers},
			{"caddy-l4's http", "layer4.handlers.subroute", stock},
		} {
			if peer.config != matchers && piece != len(head) {
				continue
			}
			measure(peer.name+pieces, func(b *testing.B) {
				var h layer4.NextHandler = reached{}
				if peer.id != "" {
					h = handler(b, peer.id, peer.config)
				}
				buf := make([]byte, 0, 2048)
				perHead(b, func() {
					_ = h.Handle(layer4.WrapConnection(&conn{head, piece}, buf, log), end)
				})
			})
		}
	}
	measure("net/http's ReadRequest", func(b *testing.B) {
		r := bufio.NewReader(nil)
		perHead(b, func() {
			r.Reset(bytes.NewReader(head))
			req, err := http.ReadRequest(r)
			if err == nil && req.Host == "chat.example.com" && req.Header.Get("Upgrade") == "websocket" {
				count++
			}
		})
	})
	measure("cmux", func(b *testing.B) {
		match := cmux.HTTP1HeaderField("Upgrade", "websocket")
		perHead(b, func() {
			if match(bytes.NewReader(head)) {
				count++
			}
		})
	})
	measure("tcpproxy", benchTCPProxy)

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t\tns\tx httphead\t\n")
	for _, name := range order {
		fmt.Fprintf(w, "\t%s\t%.0f\t%.1f\t\n", name, results[name], results[name]/results["httphead"])
	}
	w.Flush()
}

// benchTCPProxy has no way in but a listener.
func benchTCPProxy(b *testing.B) {
	listener := &connListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	proxy := &tcpproxy.Proxy{ListenFunc: func(string, string) (net.Listener, error) { return listener, nil }}
	handled := make(chan struct{})
	proxy.AddHTTPHostRoute("x:80", "chat.example.com", tcpproxy.Target(targetFunc(func(net.Conn) { handled <- struct{}{} })))
	if err := proxy.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { proxy.Close() })
	perHead(b, func() {
		listener.conns <- &conn{head, len(head)}
		<-handled
		count++
	})
}

type targetFunc func(net.Conn)

func (f targetFunc) HandleConn(c net.Conn) { f(c) }

type connListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *connListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *connListener) Addr() net.Addr { return localhost }

var _ layer4.NextHandler = (*streamprox.Inspect)(nil)
