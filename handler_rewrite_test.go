package streamprox

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// scriptedConn is a connection on which a client sends what r holds. It keeps what is
// sent to the client.
type scriptedConn struct {
	net.Conn
	r      io.Reader
	sent   bytes.Buffer
	remote net.Addr
}

func (c *scriptedConn) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *scriptedConn) Write(p []byte) (int, error)      { return c.sent.Write(p) }
func (c *scriptedConn) Close() error                     { return nil }
func (c *scriptedConn) CloseWrite() error                { return nil }
func (c *scriptedConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptedConn) SetWriteDeadline(time.Time) error { return nil }
func (c *scriptedConn) RemoteAddr() net.Addr             { return c.remote }
func (c *scriptedConn) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
}

// chain is a handler that runs the given ones, each with those after it as its next.
func chain(handlers ...layer4.NextHandler) layer4.Handler {
	var next layer4.Handler = layer4.HandlerFunc(func(*layer4.Connection) error { return nil })
	for i := len(handlers) - 1; i >= 0; i-- {
		handler, then := handlers[i], next
		next = layer4.HandlerFunc(func(cx *layer4.Connection) error { return handler.Handle(cx, then) })
	}
	return next
}

// nextFunc is a handler made of a function.
type nextFunc func(cx *layer4.Connection, next layer4.Handler) error

func (f nextFunc) Handle(cx *layer4.Connection, next layer4.Handler) error { return f(cx, next) }

// received is a handler that ends a chain: it keeps what it can read.
type received struct {
	called bool
	data   string
}

func (r *received) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	data, err := io.ReadAll(cx)
	r.called, r.data = true, string(data)
	return err
}

// rewriteCase is an edit, as JSON of rewrite_head, and what becomes of a request.
type rewriteCase struct {
	name    string
	edit    string // without braces
	in      string
	want    string // what the next handler gets; with a status, nothing
	status  string // of the answer
	remote  net.Addr
	tls     bool
	inspect string // options of inspect, without braces
}

func (c rewriteCase) run(t *testing.T) {
	t.Helper()
	for _, piece := range []struct {
		name string
		of   func(io.Reader) io.Reader
	}{
		{"whole", func(r io.Reader) io.Reader { return r }},
		{"bytewise", iotest.OneByteReader},
	} {
		var got received
		conn := &scriptedConn{r: piece.of(strings.NewReader(c.in)), remote: c.remote}
		if conn.remote == nil {
			conn.remote = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}
		}
		cx := layer4.WrapConnection(conn, make([]byte, 0, 2048), zap.NewNop())
		cx.SetVar("evil", "a\r\nX-Evil: 1")
		if c.tls {
			cx.SetVar(layer4.TLSConnectionStatesVarName, []*tls.ConnectionState{{HandshakeComplete: true}})
		}
		handler := chain(
			loadHandler(t, "inspect", "{"+c.inspect+"}"),
			loadHandler(t, "rewrite_head", "{"+c.edit+"}"),
			&got)
		if err := handler.Handle(cx); err != nil {
			t.Fatalf("%s: %v", piece.name, err)
		}
		if got.data != c.want {
			t.Errorf("%s: got\n%q, want\n%q", piece.name, got.data, c.want)
		}
		if wantCalled := c.want != ""; got.called != wantCalled {
			t.Errorf("%s: next handler called: %t, want %t", piece.name, got.called, wantCalled)
		}
		status, _, _ := strings.Cut(conn.sent.String(), "\r\n")
		if status != c.status {
			t.Errorf("%s: got answer %q, want %q", piece.name, status, c.status)
		}
	}
}

const badRequest = "HTTP/1.1 400 Bad Request"

func TestRewriteHead(t *testing.T) {
	tests := []rewriteCase{
		{name: "host", edit: `"host":"echo.example.org"`,
			in:   "GET / HTTP/1.1\r\nAccept: */*\r\nHost: www.example.com:8080\r\nX: y\r\n\r\nbody",
			want: "GET / HTTP/1.1\r\nAccept: */*\r\nHost: echo.example.org\r\nX: y\r\n\r\nbody"},
		{name: "host in odd letter case and spacing", edit: `"host":"echo.example.org"`,
			in:   "GET / HTTP/1.1\r\nhOST:www.example.com \t\r\nx-ODD:\t 1 \r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: echo.example.org\r\nx-ODD:\t 1 \r\n\r\n"},
		{name: "host in absolute-form", edit: `"host":"echo.example.org:81"`,
			in:   "GET http://www.example.com:8080/a?b=http://www.example.com HTTP/1.1\r\nHost: www.example.com:8080\r\n\r\n",
			want: "GET http://echo.example.org:81/a?b=http://www.example.com HTTP/1.1\r\nHost: echo.example.org:81\r\n\r\n"},
		{name: "host in absolute-form without path", edit: `"host":"echo"`,
			in:   "GET http://www.example.com HTTP/1.1\r\nHost: www.example.com\r\n\r\n",
			want: "GET http://echo HTTP/1.1\r\nHost: echo\r\n\r\n"},
		{name: "host in absolute-form of another scheme", edit: `"host":"echo"`,
			in:   "GET ws://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET ws://echo/x HTTP/1.1\r\nHost: echo\r\n\r\n"},
		{name: "host after userinfo", edit: `"host":"echo"`, inspect: `"lenient":true`,
			in:   "GET http://u:p@a/x HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET http://u:p@echo/x HTTP/1.1\r\nHost: echo\r\n\r\n"},
		{name: "host where there is none", edit: `"host":"echo.example.org"`,
			in:   "GET /a HTTP/1.0\r\nX: y\r\n\r\n",
			want: "GET /a HTTP/1.0\r\nX: y\r\nHost: echo.example.org\r\n\r\n"},
		{name: "host where there are no fields", edit: `"host":"echo.example.org"`,
			in:   "GET /a HTTP/1.0\r\n\r\nrest",
			want: "GET /a HTTP/1.0\r\nHost: echo.example.org\r\n\r\nrest"},
		{name: "host in absolute-form of HTTP/1.0", edit: `"host":"echo"`,
			in:   "GET http://a/x HTTP/1.0\r\n\r\n",
			want: "GET http://echo/x HTTP/1.0\r\nHost: echo\r\n\r\n"},
		{name: "host that is an IPv6 address", edit: `"host":"[::1]:80"`,
			in:   "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"},
		{name: "host from a placeholder", edit: `"host":"{l4.http.header.X-Host}"`,
			in:   "GET / HTTP/1.1\r\nHost: a\r\nx-host: b\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: b\r\nx-host: b\r\n\r\n"},

		{name: "set where it is", edit: `"header":{"set":{"Origin":["http://echo"]}}`,
			in:   "GET / HTTP/1.1\r\norigin: http://a\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nOrigin: http://echo\r\nHost: a\r\n\r\n"},
		{name: "set where it is not", edit: `"header":{"set":{"Origin":["http://echo"]}}`,
			in:   "GET / HTTP/1.1\r\nHost: a\r\n\r\nrest",
			want: "GET / HTTP/1.1\r\nHost: a\r\nOrigin: http://echo\r\n\r\nrest"},
		{name: "set what is repeated", edit: `"header":{"set":{"x-tag":["new"]}}`,
			in:   "GET / HTTP/1.1\r\nA: 1\r\nX-Tag: 1\r\nHost: a\r\nX-TAG: 2\r\nB: 2\r\nx-tag: 3\r\n\r\n",
			want: "GET / HTTP/1.1\r\nA: 1\r\nx-tag: new\r\nHost: a\r\nB: 2\r\n\r\n"},
		{name: "set to several values", edit: `"header":{"set":{"X":["1","2","3"]}}`,
			in:   "GET / HTTP/1.1\r\nx: a\r\nHost: a\r\nx: b\r\nY: c\r\n\r\n",
			want: "GET / HTTP/1.1\r\nX: 1\r\nX: 2\r\nX: 3\r\nHost: a\r\nY: c\r\n\r\n"},
		{name: "set to an empty value", edit: `"header":{"set":{"X":[""]}}`,
			in:   "GET / HTTP/1.1\r\nX: a\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nX: \r\nHost: a\r\n\r\n"},
		{name: "set where an alias is", edit: `"header":{"set":{"X-Tag":["new","newer"]}}`,
			in:   "GET / HTTP/1.1\r\nX_Tag: 1\r\nHost: a\r\nX.TAG: 2\r\nX-Tags: 3\r\nXTag: 4\r\n\r\n",
			want: "GET / HTTP/1.1\r\nX-Tag: new\r\nX-Tag: newer\r\nHost: a\r\nX-Tags: 3\r\nXTag: 4\r\n\r\n"},
		{name: "set where it is, among aliases", edit: `"header":{"set":{"X-Tag":["new"]}}`,
			in:   "GET / HTTP/1.1\r\nX!Tag: 1\r\nA: 1\r\nx'tag: 2\r\nHost: a\r\nx-tag: 3\r\nB: 2\r\nX~Tag: 4\r\nX-Tag: 5\r\nC: 3\r\n\r\n",
			want: "GET / HTTP/1.1\r\nA: 1\r\nHost: a\r\nX-Tag: new\r\nB: 2\r\nC: 3\r\n\r\n"},
		{name: "set under the name of an alias", edit: `"header":{"set":{"X_Tag":["new"]}}`,
			in:   "GET / HTTP/1.1\r\nX-Tag: 1\r\nHost: a\r\nx.tag: 2\r\n\r\n",
			want: "GET / HTTP/1.1\r\nX_Tag: new\r\nHost: a\r\n\r\n"},
		{name: "set every spelling", edit: `"header":{"set":{"X-User":["new"]}}`,
			in: "GET / HTTP/1.1\r\nHost: a\r\nX!User: 1\r\nX#User: 1\r\nX$User: 1\r\nX%User: 1\r\nX&User: 1\r\nX'User: 1\r\nX*User: 1\r\nX+User: 1\r\n" +
				"X.User: 1\r\nX^User: 1\r\nX_User: 1\r\nX`User: 1\r\nX|User: 1\r\nX~User: 1\r\nX-User: 1\r\nX2User: 1\r\nX--User: 1\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX-User: new\r\nX2User: 1\r\nX--User: 1\r\n\r\n"},
		{name: "set several fields, by name", edit: `"header":{"set":{"C":["3"],"A":["1"],"B":["2"]}}`,
			in:   "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n"},
		{name: "set from placeholders", edit: `"header":{"set":{"X":["{l4.http.method} {l4.http.host}{l4.http.uri} {l4.nothing}"]}}`,
			in:   "POST /a?b HTTP/1.1\r\nHost: a:1\r\nContent-Length: 4\r\n\r\nbody",
			want: "POST /a?b HTTP/1.1\r\nHost: a:1\r\nContent-Length: 4\r\nX: POST a:1/a?b \r\n\r\nbody"},
		{name: "placeholders stand for what was received", edit: `"host":"echo","strip_prefix":"/a","header":{"set":{"X":["{l4.http.host} {l4.http.path}"]},"delete":["Y"],"add":{"Z":["{l4.http.header.Y}"]}}`,
			in:   "GET /a/b HTTP/1.1\r\nHost: a\r\nY: 1\r\n\r\n",
			want: "GET /b HTTP/1.1\r\nHost: echo\r\nX: a /a/b\r\nZ: 1\r\n\r\n"},
		{name: "a placeholder in a value is a value", edit: `"header":{"set":{"X":["{l4.http.header.Y}"]}}`,
			in:   "GET / HTTP/1.1\r\nHost: a\r\nY: {l4.http.host}\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nY: {l4.http.host}\r\nX: {l4.http.host}\r\n\r\n"},
		{name: "add", edit: `"header":{"add":{"X-Tag":["new"]}}`,
			in:   "GET / HTTP/1.1\r\nX-Tag: 1\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nX-Tag: 1\r\nHost: a\r\nX-Tag: new\r\n\r\n"},
		{name: "delete", edit: `"header":{"delete":["cookie"]}`,
			in:   "GET / HTTP/1.1\r\nCookie: 1\r\nHost: a\r\nCOOKIE: 2\r\nCookies: 3\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nCookies: 3\r\n\r\n"},
		{name: "delete what is not there", edit: `"header":{"delete":["cookie"]}`,
			in:   "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{name: "delete, set and add, in this order", edit: `"header":{"add":{"X":["2"]},"set":{"X":["1"]},"delete":["X"]}`,
			in:   "GET / HTTP/1.1\r\nX: 0\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n"},
		{name: "delete aliases too", edit: `"header":{"delete":["X-User"]}`,
			in:   "GET / HTTP/1.1\r\nX!User: 1\r\nHost: a\r\nX_User: 2\r\nX-User: 3\r\nXUser: 4\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nXUser: 4\r\n\r\n"},
		{name: "delete an alias of a field that must stay", edit: `"header":{"delete":["Content_Length"]}`,
			in:   "POST / HTTP/1.1\r\nHost: a\r\ncontent_length: 5\r\ncontent-length: 4\r\nContent.Length: 3\r\n\r\nbody",
			want: "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 4\r\n\r\nbody"},
		{name: "folded fields and bare line feeds", edit: `"header":{"set":{"A":["new"]},"add":{"D":["{l4.http.header.B}"]}}`, inspect: `"lenient":true`,
			in:   "GET / HTTP/1.1\nHost: a\nA: 1\n 2\nB: 3\r\n\t 4\nC: 5\n\nrest",
			want: "GET / HTTP/1.1\nHost: a\nA: new\r\nB: 3\r\n\t 4\nC: 5\nD: 3 4\r\n\nrest"},

		{name: "strip_prefix", edit: `"strip_prefix":"/echo"`,
			in:   "GET /echo/room?a=/echo HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET /room?a=/echo HTTP/1.1\r\nHost: a\r\n\r\n"},
		{name: "strip_prefix in absolute-form", edit: `"strip_prefix":"/echo"`,
			in:   "GET http://a/echo?x HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET http://a/?x HTTP/1.1\r\nHost: a\r\n\r\n"},
		{name: "strip_prefix and host in absolute-form", edit: `"strip_prefix":"/echo","host":"b"`,
			in:   "GET http://a/echo/x HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET http://b/x HTTP/1.1\r\nHost: b\r\n\r\n"},
		{name: "strip_prefix of OPTIONS *", edit: `"strip_prefix":"/echo"`,
			in:   "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"},
		{name: "strip_prefix from a placeholder", edit: `"strip_prefix":"/{l4.http.header.X}"`,
			in:   "GET /echo/x HTTP/1.1\r\nHost: a\r\nX: echo\r\n\r\n",
			want: "GET /x HTTP/1.1\r\nHost: a\r\nX: echo\r\n\r\n"},

		{name: "forwarded", edit: `"forwarded":{}`,
			in:   "GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a:8080\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: a:8080\r\nX-Forwarded-Proto: http\r\n\r\n"},
		{name: "forwarded after TLS", edit: `"forwarded":{}`, tls: true,
			in:   "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: https\r\n\r\n"},
		{name: "forwarded: the host as received", edit: `"forwarded":{},"host":"b"`,
			in:   "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET http://b/x HTTP/1.1\r\nHost: b\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: http\r\n\r\n"},
		{name: "forwarded without Host", edit: `"forwarded":{}`,
			in:   "GET / HTTP/1.0\r\n\r\n",
			want: "GET / HTTP/1.0\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\r\n"},
		{name: "forwarded: what the client sent is removed", edit: `"forwarded":{"trusted":["10.0.0.0/8"]}`,
			in: "GET / HTTP/1.1\r\nX-Forwarded-For: 1\r\nx_forwarded_for: 2\r\nX.Forwarded-For: 3\r\nX-FORWARDED-HOST: b\r\nX_Forwarded.Host: c\r\n" +
				"Forwarded: for=1\r\nX-Real-IP: 1\r\nx_real_ip: 1\r\nX.Real.IP: 1\r\nX~Real~IP: 1\r\nX!Forwarded!For: 1\r\nX-Forwarded'Proto: https\r\nX*Forwarded|Host: b\r\n" +
				"Host: a\r\nX-Forwarded-Proto: https\r\nX_Forwarded_Proto: https\r\nX-Forwarded-Port: 1\r\nXForwardedFor: 1\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Port: 1\r\nXForwardedFor: 1\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: http\r\n\r\n"},
		{name: "forwarded: a trusted peer is believed", edit: `"forwarded":{"trusted":["10.0.0.0/8","192.0.2.7"]}`,
			in: "GET / HTTP/1.1\r\nX-Forwarded-For: 10.1.1.1\r\nx-forwarded-for:  10.2.2.2,10.3.3.3 \r\nx_forwarded_for: 2\r\nX-Forwarded-For:\r\nX-Forwarded-Host:b\r\nX_Forwarded_Host: c\r\n" +
				"Forwarded: for=1\r\nX-Real-IP: 1\r\nHost: a\r\nx-forwarded-proto: https\r\nX!Forwarded!For: 3\r\nX-Forwarded'Proto: http\r\n\r\n",
			want: "GET / HTTP/1.1\r\nX-Forwarded-Host:b\r\nHost: a\r\nx-forwarded-proto: https\r\nX-Forwarded-For: 10.1.1.1, 10.2.2.2,10.3.3.3, 192.0.2.7\r\n\r\n"},
		{name: "forwarded: a trusted peer that sent nothing", edit: `"forwarded":{"trusted":["192.0.2.0/24"]}`,
			in:   "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: http\r\n\r\n"},
		{name: "forwarded: IPv6 with a zone", edit: `"forwarded":{"trusted":["fe80::/10"]}`, remote: &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "eth0"},
			in:   "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1, fe80::1\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: http\r\n\r\n"},
		{name: "forwarded: IPv4 in IPv6", edit: `"forwarded":{"trusted":["192.0.2.7"]}`, remote: textAddr("[::ffff:192.0.2.7]:4711"),
			in:   "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1, 192.0.2.7\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: http\r\n\r\n"},
		{name: "forwarded: Unix peer", edit: `"forwarded":{"trusted":["0.0.0.0/0","::/0"]}`, remote: &net.UnixAddr{Name: "@", Net: "unix"},
			in:   "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1\r\nX-Forwarded-Proto: https\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: http\r\n\r\n"},
		{name: "forwarded: header comes after it", edit: `"forwarded":{},"header":{"delete":["X-Forwarded-Host"],"set":{"X-Forwarded-Proto":["https"],"X-Real-IP":["{l4.conn.remote_addr}"]}}`,
			in:   "GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 1\r\n\r\n",
			want: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 192.0.2.7:4711\r\n\r\n"},

		{name: "host that expands to nothing", edit: `"host":"{l4.http.header.X}"`, in: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest},
		{name: "host that expands to no host", edit: `"host":"{l4.http.header.X}"`, in: "GET / HTTP/1.1\r\nHost: a\r\nX: b c\r\n\r\n", status: badRequest},
		{name: "host that would end the authority", edit: `"host":"{l4.http.header.X}"`, in: "GET http://a/ HTTP/1.1\r\nHost: a\r\nX: b/c\r\n\r\n", status: badRequest},
		{name: "host that would move the authority", edit: `"host":"{l4.http.header.X}"`, in: "GET http://a/ HTTP/1.1\r\nHost: a\r\nX: b@c\r\n\r\n", status: badRequest},
		{name: "host with CR and LF", edit: `"host":"{l4.vars.evil}"`, in: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest},
		{name: "set with CR and LF", edit: `"header":{"set":{"X":["{l4.vars.evil}"]}}`, in: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest},
		{name: "set with CR and LF from the path", edit: `"header":{"set":{"X":["{l4.http.path}"]}}`, in: "GET /%0d%0aY:1 HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest},
		{name: "set with LF from the path", edit: `"header":{"set":{"X":["{l4.http.path}"]}}`, in: "GET /%0aY:1 HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest, inspect: `"lenient":true`},
		{name: "add with CR from the path", edit: `"header":{"add":{"X":["{l4.http.path}"]}}`, in: "GET /%0dY:1 HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest, inspect: `"lenient":true`},
		{name: "add with NUL from the path", edit: `"header":{"add":{"X":["{l4.http.path}"]}}`, in: "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest, inspect: `"lenient":true`},
		{name: "set with another control byte", edit: `"header":{"set":{"X":["{l4.http.path}"]}}`, in: "GET /%07 HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest},
		{name: "strip_prefix with LF", edit: `"strip_prefix":"/{l4.vars.evil}"`, in: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", status: badRequest},

		{name: "outcome other", edit: `"host":"b"`, in: "SSH-2.0-client\r\n"},
		{name: "outcome tls", edit: `"host":"b"`, in: "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"},
		{name: "until line", edit: `"host":"b"`, inspect: `"until":"line"`, in: "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t) })
	}
}

func TestStripPrefix(t *testing.T) {
	tests := []struct{ path, prefix, want string }{
		{"/echo", "/echo", "/"},
		{"/echo/", "/echo", "/"},
		{"/echo/x", "/echo", "/x"},
		{"/echo//x", "/echo", "/x"},
		{"/echo///", "/echo", "/"},
		{"/echo/x//y/", "/echo", "/x//y/"},
		{"/echo/echo", "/echo", "/echo"},
		{"/echox", "/echo", "/echox"},
		{"/echo.x", "/echo", "/echo.x"},
		{"/echo;v=1", "/echo", "/echo;v=1"},
		{"/echo%2fx", "/echo", "/echo%2fx"},
		{"/ech", "/echo", "/ech"},
		{"/x/echo", "/echo", "/x/echo"},
		{"//echo", "/echo", "//echo"},
		{"/", "/echo", "/"},
		{"*", "/echo", "*"},
		{"/ECHO/X", "/echo", "/X"},
		{"/echo/x", "/EchO", "/x"},
		{"/%65c%68O/%65", "/echo", "/%65"},
		{"/%65ch", "/echo", "/%65ch"},
		{"/a/b/c", "/a/b", "/c"},
		{"/a/bc", "/a/b", "/a/bc"},
		{"/a%2Fb/c", "/a/b", "/c"},
		{"/a%2Fb/c", "/a%2fb", "/c"},
		{"/a/b/c", "/a%2fb", "/a/b/c"},
		{"/a b/c", "/a%20b", "/a b/c"},
		{"/caf%C3%A9/x", "/caf\u00e9", "/x"},
		{"/100%/x", "/100%", "/x"},
		{"/echo/x", "/echo/", "/x"},
		{"/echo", "/echo//", "/"},
		{"/echox", "/echo/", "/echox"},
		{"//x", "/", "//x"},
	}
	for _, test := range tests {
		t.Run(test.path+" without "+test.prefix, func(t *testing.T) {
			if got := stripPrefix(test.path, test.prefix); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestStripPrefixAsCaddyDoes compares with the HTTP app's own, which does not look at
// segments, where the prefix ends with one.
func TestStripPrefixAsCaddyDoes(t *testing.T) {
	paths := []string{"/echo/x", "/ECHO/x", "/%65cho/x", "/ech%6f/x", "/e%63h%4F/x", "/echp/x", "/x", "/echo/%65", "/%2fecho/x", "/ech%", "/ech%6"}
	for _, prefix := range []string{"/echo", "/Echo", "/%65cho", "/ech%6F", "/ech%6f", "/e%"} {
		for _, path := range paths {
			u := &url.URL{Path: path, RawPath: path}
			if decoded, err := url.PathUnescape(path); err == nil {
				u.Path = decoded
			} else {
				continue // no request has it
			}
			r := &http.Request{URL: u, Header: make(http.Header)}
			rewrite.Rewrite{StripPathPrefix: prefix}.Rewrite(r, caddy.NewReplacer())
			if got, want := stripPrefix(path, prefix), r.URL.EscapedPath(); got != want {
				t.Errorf("%s without %s: got %q, Caddy has %q", path, prefix, got, want)
			}
		}
	}
}

// TestRewriteHeadKeepsWhatCameBefore checks that what handlers and matchers before
// rewrite_head have left on the connection is there after it, and that it goes on from
// the connection as they have left it.
func TestRewriteHeadKeepsWhatCameBefore(t *testing.T) {
	const head, body = "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n", "one-two-"
	conn := &scriptedConn{r: io.MultiReader(strings.NewReader(head+"one-"), strings.NewReader("two-")), remote: textAddr("192.0.2.7:1")}
	cx := layer4.WrapConnection(conn, nil, zap.NewNop())
	var wrapper net.Conn
	var got received
	err := chain(
		loadHandler(t, "inspect", "{}"),
		nextFunc(func(cx *layer4.Connection, next layer4.Handler) error {
			cx.SetVar("before", "kept")
			cx.Replacer().Set("l4.regexp.one", "captured")
			wrapper = struct{ net.Conn }{cx.Conn}
			cx.Conn = wrapper
			return next.Handle(cx)
		}),
		loadHandler(t, "rewrite_head", `{"host":"b"}`),
		nextFunc(func(cx *layer4.Connection, next layer4.Handler) error {
			if value := cx.Replacer().ReplaceAll("{l4.vars.before} {l4.regexp.one}", ""); value != "kept captured" {
				t.Errorf("got placeholders %q, want what was set before", value)
			}
			if cx.Conn != wrapper {
				t.Errorf("goes on from %T, want the wrapper that a handler has put around the connection", cx.Conn)
			}
			return next.Handle(cx)
		}),
		&got,
	).Handle(cx)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(head, "Host: a", "Host: b", 1) + body; got.data != want {
		t.Errorf("got %q, want %q", got.data, want)
	}
}

// TestRewriteHeadRefusesNominations checks that a client cannot have the next recipient
// remove what rewrite_head writes, and that it may name anything else.
func TestRewriteHeadRefusesNominations(t *testing.T) {
	const edits = `{"host":"b","strip_prefix":"/a","forwarded":{},"header":{"set":{"X-Verified":["NONE"]},"add":{"X-Tag":["1"]},"delete":["X-Gone"]}}`
	for connection, refused := range map[string]bool{
		"close, X-Verified":           true,
		"x-verified":                  true,
		"X-Tag":                       true,
		"close, X-Forwarded-Proto":    true,
		"X-Forwarded-For":             true,
		"close":                       false,
		"keep-alive, X-Gone, X-Other": false,
	} {
		t.Run(connection, func(t *testing.T) {
			conn := &scriptedConn{r: strings.NewReader("GET /a HTTP/1.1\r\nHost: a\r\nConnection: " + connection + "\r\n\r\n"), remote: textAddr("192.0.2.7:1")}
			var got received
			err := chain(loadHandler(t, "inspect", "{}"), loadHandler(t, "rewrite_head", edits), &got).
				Handle(layer4.WrapConnection(conn, nil, zap.NewNop()))
			if err != nil || got.called == refused {
				t.Errorf("passed on: got %t (%v), want %t", got.called, err, !refused)
			}
		})
	}
}

// TestRewriteHeadTwice checks that a second rewrite_head, a matcher and placeholders see
// the request as the first one has left it.
func TestRewriteHeadTwice(t *testing.T) {
	conn := &scriptedConn{r: strings.NewReader("GET /a/b HTTP/1.1\r\nHost: one\r\n\r\n"), remote: textAddr("192.0.2.7:1")}
	cx := layer4.WrapConnection(conn, nil, zap.NewNop())
	matchers := []struct {
		config string
		want   bool
	}{
		{`[{"path":["/b"],"host":["two"],"header":{"X":["one"]}}]`, true},
		{`[{"host":["one"]}]`, false},
		{`[{"expression":"host('two') && path('/b')"}]`, true},
	}
	var got received
	err := chain(
		loadHandler(t, "inspect", "{}"),
		nextFunc(func(cx *layer4.Connection, next layer4.Handler) error {
			if r, err := inspectionOf(cx).request().get(cx); err != nil || r.Host != "one" {
				t.Errorf("before: got request %v, %v, want one with Host one", r, err)
			}
			return next.Handle(cx)
		}),
		loadHandler(t, "rewrite_head", `{"host":"two","strip_prefix":"/a","header":{"set":{"X":["{l4.http.host}"]}}}`),
		nextFunc(func(cx *layer4.Connection, next layer4.Handler) error {
			for _, m := range matchers {
				if matched, err := provisionRequestMatcher(t, m.config).Match(cx); matched != m.want || err != nil {
					t.Errorf("%s: got %t, %v, want %t", m.config, matched, err, m.want)
				}
			}
			return next.Handle(cx)
		}),
		loadHandler(t, "rewrite_head", `{"host":"three","forwarded":{},"header":{"set":{"X":["{l4.http.host}"]}}}`),
		&got,
	).Handle(cx)
	if err != nil {
		t.Fatal(err)
	}
	if want := "GET /b HTTP/1.1\r\nHost: three\r\nX: two\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: two\r\nX-Forwarded-Proto: http\r\n\r\n"; got.data != want {
		t.Errorf("got %q, want %q", got.data, want)
	}
}

// TestRewriteHeadSharesNoMemory checks that the edited head stays as it is when the
// buffers of the received one are used again.
func TestRewriteHeadSharesNoMemory(t *testing.T) {
	const request = "GET /a HTTP/1.1\r\nHost: one\r\nX: y\r\n\r\nbody"
	conn := &scriptedConn{r: strings.NewReader(request), remote: textAddr("192.0.2.7:1")}
	cx := layer4.WrapConnection(conn, nil, zap.NewNop())
	var received, edited *inspection
	keep := func(in **inspection) nextFunc {
		return func(cx *layer4.Connection, next layer4.Handler) error {
			*in = inspectionOf(cx)
			return next.Handle(cx)
		}
	}
	err := chain(loadHandler(t, "inspect", "{}"), keep(&received), loadHandler(t, "rewrite_head", `{"host":"two"}`), keep(&edited)).Handle(cx)
	if err != nil {
		t.Fatal(err)
	}
	if received == nil || edited == nil || received == edited {
		t.Fatalf("got inspections %p and %p, want two", received, edited)
	}
	clear(received.Data()[:cap(received.Data())])
	clear(received.Head.Fields)
	if got, want := string(edited.Data()), strings.Replace(request, "one", "two", 1); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := fieldValues(edited.Data(), &edited.Head, "x", ","); got != "y" {
		t.Errorf("got field %q, want y", got)
	}
}

func TestRewriteHeadJSONErrors(t *testing.T) {
	rewrite := func(fields string) string { return `{"handler":"rewrite_head",` + fields + `}` }
	header := func(edits string) string { return rewrite(`"header":{` + edits + `}`) }
	checkJSON(t, []jsonCase{
		{"nothing", `{"handler":"rewrite_head"}`, "rewrite_head edits nothing: give it host, header, strip_prefix or forwarded"},
		{"empty header", header(``), "rewrite_head edits nothing"},
		{"all of the design's fields", rewrite(`"host":"a","header":{"set":{"Origin":["b"]},"add":{},"delete":["Cookie"]},"strip_prefix":"/echo","forwarded":{"trusted":["10.0.0.0/8"]}`), ""},
		{"unknown field", rewrite(`"uri":"/a"`), "uri"},
		{"unknown edit", header(`"replace":{}`), "replace"},
		{"host with a space", rewrite(`"host":"a b"`), `host: "a b" is no host, as in echo.example.org or 10.0.0.5:8080`},
		{"host with userinfo", rewrite(`"host":"u@a"`), `host: "u@a" is no host`},
		{"host with a line break", rewrite(`"host":"a\r\nX: b"`), `is no host`},
		{"placeholder with a line break", rewrite(`"host":"{l4.http.host}\n"`), `is no host`},
		{"host with a placeholder", rewrite(`"host":"{l4.http.header.X}:80"`), ""},
		{"strip_prefix without slash", rewrite(`"strip_prefix":"echo"`), `strip_prefix: "echo" does not begin with a slash, as in /echo`},
		{"strip_prefix of nothing but slashes", rewrite(`"strip_prefix":"//"`), `strip_prefix: "//" names no segment`},
		{"strip_prefix with a line break", rewrite(`"strip_prefix":"/a\n"`), `holds what no path can`},
		{"forwarded alone", rewrite(`"forwarded":{}`), ""},
		{"trusted addresses", rewrite(`"forwarded":{"trusted":["10.0.0.1","::1","fd00::/8"]}`), ""},
		{"trusted name", rewrite(`"forwarded":{"trusted":["private"]}`), "forwarded: trusted: invalid IP address: 'private'"},
		{"trusted bad network", rewrite(`"forwarded":{"trusted":["10.0.0.0/8","10.0.0.0/33"]}`), "forwarded: trusted: parsing CIDR expression: '10.0.0.0/33'"},
		{"set invalid name", header(`"set":{"X Y":["a"]}`), `header: set: "X Y" is not a field name`},
		{"set empty name", header(`"set":{"":["a"]}`), `header: set: "" is not a field name`},
		{"add invalid name", header(`"add":{"X:":["a"]}`), `header: add: "X:" is not a field name`},
		{"delete invalid name", header(`"delete":["X\n"]`), `header: delete: "X\n" is not a field name`},
		{"set without value", header(`"set":{"X":[]}`), "header: set: X has no value; to remove it use delete"},
		{"set null", header(`"set":{"X":null}`), "header: set: X has no value"},
		{"set to a line break", header(`"set":{"X":["a\r\nY: b"]}`), `header: set: X: "a\r\nY: b" holds what no field value can`},
		{"add NUL", header(`"add":{"X":["a","\u0000"]}`), `header: add: X: "\x00" holds what no field value can`},
		{"set twice", header(`"set":{"X-a":["1"],"x-A":["2"]}`), "header: set: x-A is there twice, in different spellings"},
		{"set a field and its alias", header(`"set":{"X-A":["1"],"x.a":["2"]}`), "header: set: x.a is there twice, in different spellings"},
		{"add a field and its alias", header(`"add":{"X-A":["1"],"x.a":["2"]}`), ""},
		{"add twice", header(`"add":{"X-a":["1"],"x-A":["2"]}`), "header: add: x-A is there twice, in different spellings"},
		{"delete twice", header(`"delete":["X","x"]`), "header: delete: x is there twice"},
		{"delete wildcard", header(`"delete":["X-*"]`), `header: delete: "X-*": there are no wildcards; name each field`},
		{"delete alias of framing", header(`"delete":["Content_Length","Transfer.Encoding"]`), ""},
		{"set alias of framing", header(`"set":{"Content_Length":["1"]}`), "header: set: Content_Length cannot be edited: it says where the body ends"},
		{"add alias of framing", header(`"add":{"transfer.encoding":["chunked"]}`), "header: add: transfer.encoding cannot be edited: it says where the body ends"},
	})
}

// TestRewriteHeadUntouchable checks that no edit of a field that must stay loads, in any
// letter case, and that the error says why.
func TestRewriteHeadUntouchable(t *testing.T) {
	const ofConnection, framing = "it is about the connection, which the next handler looks after", "it says where the body ends, and the body is sent on as it is"
	for name, why := range map[string]string{
		"Content-Length": framing, "Transfer-Encoding": framing, "Trailer": framing,
		"Connection": ofConnection, "Keep-Alive": ofConnection, "Proxy-Connection": ofConnection,
		"TE": ofConnection, "Upgrade": ofConnection, "HTTP2-Settings": ofConnection,
		"Expect": "it decides when the client sends the body",
		"Host":   "use 'host', which edits the request target too",
	} {
		for _, spelling := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			for operation, edit := range map[string]string{
				"set":    fmt.Sprintf(`"set":{%q:["a"]}`, spelling),
				"add":    fmt.Sprintf(`"add":{%q:["a"]}`, spelling),
				"delete": fmt.Sprintf(`"delete":[%q]`, spelling),
			} {
				t.Run(operation+" "+spelling, func(t *testing.T) {
					_, err := loadApps(t, "{"+inServer(`{"handler":"rewrite_head","header":{`+edit+`}}`)+"}")
					checkError(t, err, fmt.Sprintf("header: %s: %s cannot be edited: %s", operation, spelling, why))
				})
			}
		}
	}
}
