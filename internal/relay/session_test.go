package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// testSession is a session of one exchange, and what a test may change about it.
type testSession struct {
	Session
	Streams *Registry
	Engine  Engine

	dropped func()        // called when the upstream's connection is closed
	ended   func(Account) // called when the exchange is over
}

// exchanged carries out the exchange that begins with the bytes in, seen from the
// peers. Its client is not kept.
func exchanged(t *testing.T, network, in string, configure func(*testSession)) *link {
	t.Helper()
	l := &link{done: make(chan Account, 1)}
	x := &testSession{Streams: new(Registry)}
	x.Engine = New(x.Streams, nil)
	x.Client, l.client = connect(t, network)
	x.Upstream, l.upstream = connect(t, network)

	data := []byte(in)
	var head httphead.Reader
	head.Reset(httphead.Options{})
	if got := head.Read(data); got != httphead.HTTP {
		t.Fatalf("%q is %v: %v", in, got, head.Err())
	}
	forward := httphead.Forward{Upgrades: []string{"websocket", "other"}}
	x.Request, x.Pending = requestOf(t, &forward, &head, data), data[head.Len:]
	if configure != nil {
		configure(x)
	}
	closed := make(chan struct{})
	x.Owner = &oneExchange{link: l, t: t, closed: closed, dropped: x.dropped, ended: x.ended}
	streams := x.Streams // not x: TestTunnelKeepsNoExchange
	x.Engine.Serve(&x.Session)
	t.Cleanup(func() {
		l.client.Close()
		l.upstream.Close()
		await(t, "the end of the session", closed)
		streams.Drain(context.Background())
	})
	return l
}

// requestOf returns the request that head has read from data.
func requestOf(t *testing.T, forward *httphead.Forward, head *httphead.Reader, data []byte) exchange.Request {
	t.Helper()
	forwarded, err := forward.Request(head, data)
	if err != nil {
		t.Fatal(err)
	}
	r := exchange.Request{Method: string(head.Method.Of(data)), Forwarded: forwarded, Old: head.Minor == 0}
	head.ResetBody(&r.Body)
	return r
}

// oneExchange is the owner of a session of one exchange.
type oneExchange struct {
	t       *testing.T
	link    *link
	dropped func()
	ended   func(Account)
	account Account
	closed  chan struct{}
}

func (o *oneExchange) Refusal(status int) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %d Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status)
}

func (o *oneExchange) Ended(a Account) {
	if o.account.Engine != "" && o.account.Engine != "http" || o.account.Engine == a.Engine {
		o.t.Error("Ended was called twice")
	}
	o.account = a
	if o.ended != nil {
		o.ended(a)
	}
}

func (o *oneExchange) Next([]byte, bool) Next {
	o.t.Error("Next was called")
	return Next{}
}

func (o *oneExchange) Take(net.Conn, []byte, time.Time, net.Conn, func()) {
	o.t.Error("Take was called")
}

func (o *oneExchange) Tunnelled() {}

func (o *oneExchange) Dropped() {
	if o.dropped != nil {
		o.dropped()
	}
}

func (o *oneExchange) Closed() {
	o.link.done <- o.account
	close(o.closed)
}

// over waits for the end of the exchange and compares its cause.
func (l *link) over(t *testing.T, want Cause) Account {
	t.Helper()
	a := l.account(t)
	if a.Cause != want {
		t.Errorf("cause: got %v (error %v), want %v", a.Cause, a.Err, want)
	}
	return a
}

// maxHead is how large a response head may be.
const maxHead = 64 << 10

const (
	exchangeGet = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	getSent     = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	ok          = "HTTP/1.1 200 OK\r\n"
	okSent      = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
	upgradeGet  = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	switching   = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

// TestExchange is requests and responses as they should be, and what goes up and down.
func TestExchange(t *testing.T) {
	tests := []struct {
		name     string
		in, up   string // from the client; to the upstream
		from, to string // from the upstream; to the client
	}{
		{"counted", exchangeGet, getSent,
			ok + "Content-Length: 5\r\n\r\nhello", ok + "Content-Length: 5\r\nConnection: close\r\n\r\nhello"},
		{"more than counted", exchangeGet, getSent,
			ok + "Content-Length: 5\r\n\r\nhello" + ok + "Content-Length: 4\r\n\r\nevil", ok + "Content-Length: 5\r\nConnection: close\r\n\r\nhello"},
		{"chunked", exchangeGet, getSent,
			ok + "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n" + ok, ok + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"},
		{"chunked, sizes padded", exchangeGet, getSent,
			"HTTP/1.1  200 OK\r\nX: a\r\n b\r\nTransfer-Encoding: chunked\r\n\r\n5 \t\r\nhello\r\n0; a = \r\nX: y\r\n\r\n" + ok,
			ok + "X: a b\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"},
		{"chunked and counted", exchangeGet, getSent,
			ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ok + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
			ok + "Content-Length: 5\r\n\r\nevil", ok + "Content-Length: 5\r\nConnection: close\r\n\r\n"},
		{"204", exchangeGet, getSent, "HTTP/1.1 204 No Content\r\n\r\nevil", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"},
		{"304", exchangeGet, getSent, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\nevil", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"},
		{"interim responses", exchangeGet, getSent,
			"HTTP/1.1 103 Early Hints\r\nLink: a\r\nConnection: x\r\nX: y\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok + "Content-Length: 0\r\nConnection: close\r\n\r\n"},
		{"no interim responses for HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nConnection: close\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", ok + "Content-Length: 0\r\nConnection: close\r\n\r\n"},
		{"a second request", exchangeGet + "GET /deny HTTP/1.1\r\nHost: h\r\n\r\n", getSent, ok + "Content-Length: 0\r\n\r\n", ok + "Content-Length: 0\r\nConnection: close\r\n\r\n"},
		{"content", "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhelloGET /deny", "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
			ok + "Content-Length: 0\r\n\r\n", ok + "Content-Length: 0\r\nConnection: close\r\n\r\n"},
		{"content chunked", "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /deny", "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			ok + "Content-Length: 0\r\n\r\n", ok + "Content-Length: 0\r\nConnection: close\r\n\r\n"},
		{"refused upgrade, with frames ahead", upgradeGet + "frames", upgradeGet, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, network := range []string{"tcp", "unix", "tls"} {
				for _, cut := range []int{0, len(test.in), strings.Index(test.in, "\r\n\r\n") + 4} {
					cut = max(cut, strings.Index(test.in, "\r\n\r\n")+4)
					l := exchanged(t, network, test.in[:cut], nil)
					send(t, l.client, test.in[cut:])
					receives(t, l.upstream, test.up)
					for _, b := range test.from {
						if _, err := l.upstream.Write([]byte(string(b))); err != nil {
							break // the rest is not wanted
						}
					}
					receives(t, l.client, test.to)
					receivesEnd(t, l.client)
					l.client.Close()
					if a := l.over(t, Finished); a.ToUpstream != int64(len(test.up)) || a.ToClient != int64(len(test.to)) {
						t.Errorf("%s: got %d bytes up and %d down, want %d and %d", network, a.ToUpstream, a.ToClient, len(test.up), len(test.to))
					}
					if rest, _ := io.ReadAll(l.upstream); len(rest) > 0 {
						t.Errorf("%s: the upstream got %q more", network, rest)
					}
				}
			}
		})
	}
}

// TestExchangeLenient checks that a request whose body only a lenient reader accepts goes
// up strictly framed, whatever pieces it comes in.
func TestExchangeLenient(t *testing.T) {
	const (
		head  = "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
		body  = "5 \r\nhello\r\n2; a=\"\r\n\r\n\r\n0\t\r\nX: y\r\n\r\n"
		up    = head + "5\r\nhello\r\n2\r\n\r\n\r\n0\r\nX: y\r\n\r\n"
		reply = ok + "Content-Length: 0\r\nConnection: close\r\n\r\n"
	)
	for _, network := range []string{"tcp", "unix", "tls"} {
		for cut := range len(body) + 1 {
			l := exchanged(t, network, head+body[:cut], func(x *testSession) { x.Request.Body.Lenient() })
			for i := range body[cut:] {
				send(t, l.client, body[cut+i:cut+i+1])
			}
			send(t, l.client, "GET /deny")
			receives(t, l.upstream, up)
			send(t, l.upstream, reply)
			receives(t, l.client, reply)
			receivesEnd(t, l.client)
			l.client.Close()
			if a := l.over(t, Finished); a.ToUpstream != int64(len(up)) {
				t.Errorf("%s, cut at %d: got %d bytes up, want %d", network, cut, a.ToUpstream, len(up))
			}
		}
	}
	l := exchanged(t, "tcp", head+body, nil)
	receives(t, l.client, "HTTP/1.1 400")
	l.over(t, BadRequest)
}

// TestExchangeUntilClose checks a response that ends with its connection, as far as it
// does so in order.
func TestExchangeUntilClose(t *testing.T) {
	l := exchanged(t, "tcp", exchangeGet, nil)
	receives(t, l.upstream, getSent)
	send(t, l.upstream, ok+"\r\nhello")
	closeWrite(t, l.upstream)
	receives(t, l.client, okSent+"hello")
	receivesEnd(t, l.client)
	l.client.Close()
	l.over(t, Finished)

	l = exchanged(t, "tcp", exchangeGet, nil)
	receives(t, l.upstream, getSent)
	send(t, l.upstream, ok+"\r\nhello")
	receives(t, l.client, okSent+"hello")
	sendReset(l.upstream)
	receivesReset(t, l.client)
	l.over(t, UpstreamReset)
}

// TestExchangeBulk sends much in both directions at once.
func TestExchangeBulk(t *testing.T) {
	up, down := random(5<<20, 1), random(7<<20, 2)
	for _, network := range []string{"tcp", "unix", "tls"} {
		head := fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", len(up))
		l := exchanged(t, network, head, nil)
		go func() { _, _ = l.client.Write(up) }()
		got, received := make(chan []byte, 1), make(chan struct{})
		go func() {
			b := make([]byte, len(head)+len(up))
			_, _ = io.ReadFull(l.upstream, b)
			close(received)
			got <- b[len(head):]
		}()
		go func() {
			_, _ = fmt.Fprintf(l.upstream, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(down))
			_, _ = l.upstream.Write(down[:len(down)-1])
			<-received
			_, _ = l.upstream.Write(down[len(down)-1:]) // not before the end of the request
		}()
		response, err := http.ReadResponse(bufio.NewReader(l.client), nil)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(response.Body)
		if err != nil {
			t.Errorf("%s: %v", network, err)
		}
		same(t, network+" down", content, down)
		same(t, network+" up", <-got, up)
		l.client.Close()
		l.over(t, Finished)
	}
}

// TestExchangeAnswers is what the client gets if there is no response to pass on.
func TestExchangeAnswers(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	tests := []struct {
		name     string
		in       string
		timeout  time.Duration
		client   func(*testing.T, net.Conn)
		upstream func(*testing.T, net.Conn)
		status   string // "" if the connection just ends
		cause    Cause
	}{
		{name: "the upstream says nothing and closes", in: exchangeGet, upstream: closeWrite, status: "502", cause: UpstreamError},
		{name: "the upstream resets", in: exchangeGet, upstream: func(_ *testing.T, c net.Conn) { sendReset(c) }, status: "502", cause: UpstreamReset},
		{name: "the upstream breaks off in the head", in: exchangeGet, upstream: func(t *testing.T, c net.Conn) { send(t, c, "HTTP/1.1 200 OK\r\nX: "); closeWrite(t, c) }, status: "502", cause: UpstreamError},
		{name: "not HTTP", in: exchangeGet, upstream: func(t *testing.T, c net.Conn) { send(t, c, "SSH-2.0-x\r\n") }, status: "502", cause: BadResponse},
		{name: "head without end", in: exchangeGet, upstream: func(_ *testing.T, c net.Conn) {
			_, _ = io.WriteString(c, ok+strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", maxHead/32))
		}, status: "502", cause: BadResponse},
		{name: "interim responses without end", in: exchangeGet, upstream: func(_ *testing.T, c net.Conn) {
			_, _ = io.WriteString(c, strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", maxHead/20))
		}, status: "102*502", cause: BadResponse},
		{name: "101 that nobody asked for", in: exchangeGet, upstream: func(t *testing.T, c net.Conn) { send(t, c, switching) }, status: "502", cause: BadResponse},
		{name: "101 without proof", in: upgradeGet, upstream: func(t *testing.T, c net.Conn) {
			send(t, c, strings.Replace(switching, "s3pP", "S3pP", 1))
		}, status: "502", cause: BadResponse},
		{name: "101 for another protocol", in: upgradeGet, upstream: func(t *testing.T, c net.Conn) {
			send(t, c, strings.Replace(switching, "websocket", "other", 1))
		}, status: "502", cause: BadResponse},
		{name: "101 for two protocols", in: upgradeGet, upstream: func(t *testing.T, c net.Conn) {
			send(t, c, strings.Replace(switching, "Upgrade: websocket", "Upgrade: websocket, other", 1))
		}, status: "502", cause: BadResponse},
		{name: "101 before the content", in: strings.Replace(upgradeGet, "\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhell", 1), upstream: func(t *testing.T, c net.Conn) { send(t, c, switching) }, status: "502", cause: BadResponse},
		{name: "the upstream takes too long", in: exchangeGet, timeout: 20 * time.Millisecond, status: "504", cause: ResponseTimeout},
		{name: "broken chunk", in: post, client: func(t *testing.T, c net.Conn) { send(t, c, "5\r\nhello\r\n+1\r\n") }, status: "400", cause: BadRequest},
		{name: "broken chunk at once", in: post + "0x5\r\n", status: "400", cause: BadRequest},
		{name: "trailer that frames", in: post, client: func(t *testing.T, c net.Conn) { send(t, c, "0\r\nContent-Length: 3\r\n\r\n") }, status: "400", cause: BadRequest},
		{name: "the client ends within the content", in: post, client: func(t *testing.T, c net.Conn) { send(t, c, "5\r\nhel"); closeWrite(t, c) }, status: "400", cause: BadRequest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := exchanged(t, "tcp", test.in, func(x *testSession) { x.ResponseHeaderTimeout = test.timeout })
			if test.client != nil {
				test.client(t, l.client)
			}
			if test.upstream != nil {
				head := make([]byte, 1)
				_, _ = io.ReadFull(l.upstream, head)
				test.upstream(t, l.upstream)
			}
			got, err := io.ReadAll(l.client)
			if err != nil {
				t.Errorf("the client got %q and %v", got, err)
			}
			final := strings.TrimPrefix(test.status, "102*")
			if final != test.status {
				got = []byte(strings.TrimLeft(strings.ReplaceAll(string(got), "HTTP/1.1 102 Processing\r\n\r\n", ""), "\r\n"))
			}
			if want := "HTTP/1.1 " + final + " "; !strings.HasPrefix(string(got), want) {
				t.Errorf("the client got %q, want %q", got, want)
			}
			l.client.Close()
			l.over(t, test.cause)
			if _, err := io.Copy(io.Discard, struct{ io.Reader }{l.upstream}); err == nil && test.cause != UpstreamError {
				t.Error("the upstream saw a proper end, want a reset")
			}
		})
	}
}

// TestExchangeBreaksOff is a response that does not end as its head says. The client is
// told in no other way than that its connection breaks.
func TestExchangeBreaksOff(t *testing.T) {
	tests := []struct {
		name  string
		from  string
		end   func(*testing.T, net.Conn)
		cause Cause
	}{
		{"less than counted", ok + "Content-Length: 9\r\n\r\nhello", closeWrite, BadResponse},
		{"no last chunk", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", closeWrite, BadResponse},
		{"broken chunk", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n", nil, BadResponse},
		{"reset", ok + "Content-Length: 9\r\n\r\nhello", func(_ *testing.T, c net.Conn) { sendReset(c) }, UpstreamReset},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := exchanged(t, "tcp", exchangeGet, nil)
			receives(t, l.upstream, getSent)
			send(t, l.upstream, test.from)
			if test.end != nil {
				test.end(t, l.upstream)
			}
			receivesReset(t, l.client)
			l.over(t, test.cause)
		})
	}
}

// TestExchangeEarlyResponse checks that a response which comes before the end of the
// request is delivered, whatever becomes of the rest of the request.
func TestExchangeEarlyResponse(t *testing.T) {
	const tooLarge = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n"
	for name, upstream := range map[string]func(*testing.T, net.Conn){
		"the upstream goes on reading": func(*testing.T, net.Conn) {},
		"the upstream closes":          func(_ *testing.T, c net.Conn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			l := exchanged(t, "tcp", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n", nil)
			sent := make(chan error, 1)
			go func() {
				_, err := l.client.Write(make([]byte, 4<<20))
				sent <- err
			}()
			_, _ = io.ReadFull(l.upstream, make([]byte, 1<<10))
			send(t, l.upstream, tooLarge+"\r\n")
			upstream(t, l.upstream)
			receives(t, l.client, tooLarge+"Connection: close\r\n\r\n")
			l.client.Close()
			<-sent
			l.over(t, Finished)
			if _, err := io.Copy(io.Discard, struct{ io.Reader }{l.upstream}); err == nil {
				t.Error("the upstream saw a proper end of a request that is not complete")
			}
		})
	}
}

// TestExchangeTunnel checks what an upgrade carries: what was sent ahead, and then
// anything, with half-closes.
func TestExchangeTunnel(t *testing.T) {
	tests := []struct{ name, in, up, from string }{
		{"websocket", upgradeGet, upgradeGet, switching},
		{"another protocol", "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
			"HTTP/1.1 101 Switching Protocols\r\nUpgrade: OTHER\r\nConnection: keep-alive, upgrade\r\n\r\n"},
		{"CONNECT", "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"},
		{"after interim responses", upgradeGet, upgradeGet, "HTTP/1.1 103 Early Hints\r\n\r\n" + switching},
	}
	type hand struct{ network, engine string }
	hands := []hand{{"tls", "portable"}}
	for engine := range engines {
		hands = append(hands, hand{"tcp", engine}, hand{"unix", engine})
	}
	for _, test := range tests {
		for _, by := range hands {
			t.Run(test.name+" "+by.network+" "+by.engine, func(t *testing.T) {
				l := exchanged(t, by.network, test.in+"ahead ", func(x *testSession) {
					x.Engine = engines[by.engine](x.Streams)
				})
				receives(t, l.upstream, test.up)
				send(t, l.client, "of the answer ")
				send(t, l.upstream, test.from+"welcome ")
				receives(t, l.client, test.from+"welcome ")
				receives(t, l.upstream, "ahead of the answer ")
				send(t, l.client, exchangeGet)
				receives(t, l.upstream, exchangeGet)
				closeWrite(t, l.client)
				receivesEnd(t, l.upstream)
				send(t, l.upstream, "bye")
				closeWrite(t, l.upstream)
				receives(t, l.client, "bye")
				receivesEnd(t, l.client)
				a := l.over(t, Finished)
				if up, down := len(test.up)+len("ahead of the answer ")+len(exchangeGet), len(test.from)+len("welcome bye"); a.ToUpstream != int64(up) || a.ToClient != int64(down) {
					t.Errorf("got %d bytes up and %d down, want %d and %d", a.ToUpstream, a.ToClient, up, down)
				}
				if a.Engine != by.engine {
					t.Errorf("got engine %q, want %q", a.Engine, by.engine)
				}
			})
		}
	}
}

// TestExchangeUpgradeWithContent checks that a request with content asks for no upgrade,
// and that its content goes up to its end, although the response has begun before.
func TestExchangeUpgradeWithContent(t *testing.T) {
	head := strings.Replace(upgradeGet, "\r\n\r\n", "\r\nContent-Length: 10\r\n\r\n", 1)
	l := exchanged(t, "tcp", head+"hello", nil)
	receives(t, l.upstream, "GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello")
	send(t, l.upstream, ok+"Content-Length: 2\r\n\r\no")
	receives(t, l.client, ok+"Content-Length: 2\r\nConnection: close\r\n\r\no")
	send(t, l.client, "world")
	receives(t, l.upstream, "world")
	send(t, l.upstream, "k")
	receives(t, l.client, "k")
	receivesEnd(t, l.client)
	l.client.Close()
	l.over(t, Finished)
}

// TestExchangeHoldsNoAnswerUp checks that a client which fills what is held and stays
// cannot keep an exchange that is given up: whatever holds it, the answer's deadline
// stands.
func TestExchangeHoldsNoAnswerUp(t *testing.T) {
	var all sync.WaitGroup
	for range 200 {
		l := exchanged(t, "tcp", upgradeGet, func(x *testSession) {
			x.IdleTimeout = 30 * time.Millisecond
		})
		all.Go(func() {
			_, _ = l.client.Write(make([]byte, aheadLimit))
			select {
			case <-l.done:
			case <-time.After(patience):
				t.Error("the exchange did not end")
			}
		})
	}
	all.Wait()
}

// TestExchangeHolds checks that what is sent ahead of the answer to an upgrade is
// bounded, and that none of it is lost.
func TestExchangeHolds(t *testing.T) {
	ahead := string(random(4*aheadLimit, 7))
	l := exchanged(t, "tcp", upgradeGet, nil)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(l.client, ahead)
	}()
	receives(t, l.upstream, upgradeGet)
	send(t, l.upstream, switching)
	receives(t, l.upstream, ahead)
	<-sent
}

// TestExchangeClientLeaves checks that a client which goes away takes the upstream's
// connection with it, and that one which has merely finished sending does not.
func TestExchangeClientLeaves(t *testing.T) {
	for name, in := range map[string]string{"request": exchangeGet, "upgrade": upgradeGet} {
		t.Run(name+", reset", func(t *testing.T) {
			l := exchanged(t, "tcp", in, nil)
			_, _ = io.ReadFull(l.upstream, make([]byte, 1))
			sendReset(l.client)
			receivesReset(t, l.upstream)
			l.over(t, ClientReset)
		})
		t.Run(name+", end of sending", func(t *testing.T) {
			l := exchanged(t, "tcp", in, nil)
			closeWrite(t, l.client)
			_, _ = io.ReadFull(l.upstream, make([]byte, 1))
			send(t, l.upstream, ok+"Content-Length: 2\r\n\r\n")
			send(t, l.upstream, "ok")
			receives(t, l.client, ok+"Content-Length: 2\r\nConnection: close\r\n\r\nok")
			l.over(t, Finished)
		})
	}
}

// TestExchangeDiscards checks that a client which goes on sending gets its response
// nevertheless, and is not read for ever.
func TestExchangeDiscards(t *testing.T) {
	l := exchanged(t, "tcp", exchangeGet, nil)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = l.client.Write(make([]byte, 64<<20))
	}()
	receives(t, l.upstream, getSent)
	send(t, l.upstream, ok+"Content-Length: 2\r\n\r\nok")
	receives(t, l.client, ok+"Content-Length: 2\r\nConnection: close\r\n\r\nok")
	l.over(t, Finished)
	<-sent // it was reset, or it would still be sending
}

// TestExchangeIdle checks that an exchange in which nothing moves ends, with an answer
// if none has begun.
func TestExchangeIdle(t *testing.T) {
	l := exchanged(t, "tcp", exchangeGet, func(x *testSession) { x.IdleTimeout = 30 * time.Millisecond })
	receives(t, l.client, "HTTP/1.1 504 ")
	l.over(t, IdleTimeout)

	// Long enough for the upstream to begin its response.
	l = exchanged(t, "tcp", exchangeGet, func(x *testSession) { x.IdleTimeout = 2 * time.Second })
	receives(t, l.upstream, getSent)
	send(t, l.upstream, ok+"Content-Length: 2\r\n\r\no")
	receives(t, l.client, ok+"Content-Length: 2\r\nConnection: close\r\n\r\no")
	receivesEnd(t, l.client)
	l.over(t, IdleTimeout)
}

// TestExchangeDrain checks that a shutdown waits for exchanges, and then resets them.
func TestExchangeDrain(t *testing.T) {
	var registry *Registry
	l := exchanged(t, "tcp", exchangeGet, func(x *testSession) { registry = x.Streams })
	receives(t, l.upstream, getSent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := registry.Drain(ctx); got != 1 {
		t.Errorf("reset: got %d, want 1", got)
	}
	receivesReset(t, l.client)
	receivesReset(t, l.upstream)
	l.over(t, Shutdown)
}

// TestExchangeKill checks that an exchange is killed with its group, also once it has
// become a tunnel.
func TestExchangeKill(t *testing.T) {
	for _, test := range []struct {
		name     string
		in       string
		response string // all of it: a tunnel begins, or it is awaited
	}{
		{"before the response", exchangeGet, ""},
		{"in the response", exchangeGet, ok + "Content-Length: 9\r\n\r\n1"},
		{"in a tunnel", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			group := new(Registry)
			l := exchanged(t, "tcp", test.in, func(x *testSession) { x.Group = group })
			if _, err := l.upstream.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			send(t, l.upstream, test.response)
			if test.response != "" {
				if _, err := l.client.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			if strings.HasPrefix(test.in, "CONNECT ") {
				send(t, l.client, "through")
				for got := ""; !strings.HasSuffix(got, "through"); {
					b := make([]byte, 1)
					if _, err := l.upstream.Read(b); err != nil {
						t.Fatal(err)
					}
					got += string(b)
				}
			}
			for group.Len() != 1 { // the exchange is there until its tunnel is
				runtime.Gosched()
			}
			if got := group.Kill(); got != 1 {
				t.Errorf("killed: got %d, want 1", got)
			}
			if _, err := io.Copy(io.Discard, l.client); !socket.IsReset(err) {
				t.Errorf("the client sees %v, want a reset", err)
			}
			if _, err := io.Copy(io.Discard, l.upstream); !socket.IsReset(err) {
				t.Errorf("the upstream sees %v, want a reset", err)
			}
			l.over(t, Killed)
			group.Drain(t.Context())
		})
	}
}

// hookedConn calls a function before its first write.
type hookedConn struct {
	*net.TCPConn
	before func() error
}

func (c *hookedConn) NetConn() net.Conn { return c.TCPConn }

func (c *hookedConn) Write(p []byte) (int, error) {
	if before := c.before; before != nil {
		c.before = nil
		if err := before(); err != nil {
			return 0, err
		}
	}
	return c.TCPConn.Write(p)
}

// TestKillBecomingTunnel: killing spares no stream that is becoming a tunnel at that moment,
// neither as one of a group nor by its meter.
func TestKillBecomingTunnel(t *testing.T) {
	group, meter := new(Registry), new(account.Meter)
	for name, kill := range map[string]func() int{
		"group": group.Kill,
		"meter": func() int { return group.KillMetered([]*account.Meter{meter}) },
	} {
		t.Run(name, func(t *testing.T) {
			killed := make(chan int)
			l := exchanged(t, "tcp", upgradeGet, func(x *testSession) {
				x.Group, x.Meter = group, meter
				x.Client = &hookedConn{x.Client.(*net.TCPConn), func() error {
					go func() { killed <- kill() }()
					return nil
				}}
			})
			receives(t, l.upstream, upgradeGet)
			send(t, l.upstream, switching)
			if got := <-killed; got != 1 {
				t.Errorf("killed: got %d, want 1", got)
			}
			receivesReset(t, l.client)
			receivesReset(t, l.upstream)
			l.over(t, Killed)
		})
	}
}

// TestTunnelNotAnnounced: no tunnel begins if the client does not get the answer to its
// request for one.
func TestTunnelNotAnnounced(t *testing.T) {
	boom := errors.New("boom")
	l := exchanged(t, "tcp", upgradeGet, func(x *testSession) {
		x.Client = &hookedConn{x.Client.(*net.TCPConn), func() error { return boom }}
	})
	receives(t, l.upstream, upgradeGet)
	send(t, l.upstream, switching)
	receivesReset(t, l.upstream)
	if a := l.over(t, ClientError); !errors.Is(a.Err, boom) || a.Engine != "http" {
		t.Errorf("got %+v, want error %v, and no tunnel", a, boom)
	}
}

// TestTunnelKeepsNoExchange: what an exchange holds is free once it is a tunnel, which may
// last for days.
func TestTunnelKeepsNoExchange(t *testing.T) {
	var x weak.Pointer[testSession]
	l := exchanged(t, "tcp", upgradeGet, func(strong *testSession) { x = weak.Make(strong) })
	receives(t, l.upstream, upgradeGet)
	send(t, l.upstream, switching)
	receives(t, l.client, switching)
	send(t, l.client, "through the tunnel")
	receives(t, l.upstream, "through the tunnel")
	for begin := time.Now(); x.Value() != nil; runtime.GC() {
		if time.Since(begin) > patience {
			t.Fatal("the exchange is still held")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestExchangeClientReadsLate: a client that does not read the end of its response before
// its connection is closed gets it all the same.
func TestExchangeClientReadsLate(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			body := string(random(100<<10, 10)) // the sockets take that
			l := exchanged(t, network, exchangeGet, nil)
			receives(t, l.upstream, getSent)
			send(t, l.upstream, ok+"\r\n"+body)
			closeWrite(t, l.upstream)
			for range 20 { // dropped, or there would be a reset; some of it after the response
				send(t, l.client, exchangeGet)
				time.Sleep(5 * time.Millisecond)
			}
			l.over(t, Finished)
			receives(t, l.client, okSent+body)
			receivesEnd(t, l.client)
		})
	}
}

// TestExchangeAnswered: when the client has its response, the upstream has nothing to do
// any more, also while it may still close its connection.
func TestExchangeAnswered(t *testing.T) {
	was := upstreamPatience
	t.Cleanup(func() { upstreamPatience = was })
	upstreamPatience = time.Hour
	for _, test := range []struct {
		name, response string
		answered       bool
	}{
		{"left open", ok + "Content-Length: 2\r\n\r\nok", true},
		{"no body", "HTTP/1.1 204 No Content\r\n\r\n", true},
		{"truncated", ok + "Content-Length: 3\r\n\r\nok", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var answered atomic.Int32
			l := exchanged(t, "tcp", exchangeGet, func(x *testSession) {
				x.ended = func(a Account) {
					if a.Cause == Finished {
						answered.Add(1)
					}
				}
			})
			receives(t, l.upstream, getSent)
			send(t, l.upstream, test.response)
			if !test.answered {
				l.upstream.Close()
			}
			_, _ = io.Copy(io.Discard, struct{ io.Reader }{l.client})
			if got := answered.Load() == 1; got != test.answered {
				t.Errorf("at the end of the response: answered %v, want %v", got, test.answered)
			}
			select {
			case <-l.done:
				if test.answered {
					t.Error("done, though the upstream has not closed its connection")
				}
			default:
			}
		})
	}
}
