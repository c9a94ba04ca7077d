package streamprox

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4throttle"
	"github.com/pires/go-proxyproto"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// slowClose is a connection whose Close takes until it is told to go on.
type slowClose struct {
	net.Conn
	closing, goOn chan struct{}
}

func (c *slowClose) Close() error {
	close(c.closing)
	<-c.goOn
	return c.Conn.Close()
}

// TestReplayConnEndsWithItsLastCall checks that the end is told once, and not while a call
// of another goroutine is in progress.
func TestReplayConnEndsWithItsLastCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		slow := &slowClose{Conn: server, closing: make(chan struct{}), goOn: make(chan struct{})}
		ended := 0
		c := newReplayConn(slow, nil, func(*inspection) { ended++ })
		go c.Close()
		<-slow.closing
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 2))
			read <- err
		}()
		synctest.Wait()
		if ended != 0 {
			t.Error("the end was told while the connection was being closed")
		}
		close(slow.goOn)
		synctest.Wait()
		if ended != 1 {
			t.Errorf("the end was told %d times, want once", ended)
		}
		if err := <-read; err == nil {
			t.Error("a read of what is closed succeeded")
		}
		if _, err := c.Write([]byte("late")); err != net.ErrClosed {
			t.Errorf("after the end: got %v, want %v", err, net.ErrClosed)
		}
		if _, err := c.ReadFrom(client); err == nil || err == io.EOF {
			t.Errorf("after the end: got %v, want an error", err)
		}
		if err := c.Close(); err != net.ErrClosed {
			t.Errorf("closed again: got %v, want %v", err, net.ErrClosed)
		}
		if ended != 1 {
			t.Errorf("the end was told %d times, want once", ended)
		}
	})
}

// TestReplayConnTellsThatRequestIsTaken: a server that has taken on the request shows that by
// what it does next with the connection.
func TestReplayConnTellsThatRequestIsTaken(t *testing.T) {
	tests := []struct {
		name string
		does func(*replayConn)
		want int
	}{
		{"reads the head", func(c *replayConn) { _, _ = c.Read(make([]byte, 64)) }, 0},
		{"looks for a client that leaves", func(c *replayConn) { _, _ = c.Read(make([]byte, 1)) }, 1},
		{"reads on", func(c *replayConn) { _, _ = io.ReadFull(c, make([]byte, 20)) }, 1},
		{"answers", func(c *replayConn) { _, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n")) }, 1},
		{"sends a file", func(c *replayConn) { _, _ = c.ReadFrom(strings.NewReader("file")) }, 1},
		{"closes", func(c *replayConn) { _ = c.Close() }, 1},
		{"closes when it has answered", func(c *replayConn) {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n"))
			_ = c.Close()
		}, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			client, conn := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, client) }()
			defer client.Close()
			c := newReplayConn(conn, []byte("GET / HTTP/1.1\r\n\r\n"), func(*inspection) {})
			defer c.Close()
			told := 0
			c.WhenTaken(func() { told++ })
			go func() { _, _ = io.WriteString(client, "body") }()
			test.does(c)
			if told != test.want {
				t.Errorf("told %d times, want %d", told, test.want)
			}
		})
	}
}

// wrapping is a connection as a plugin may wrap it.
type wrapping struct {
	net.Conn
	_ []func() // no two can be compared
}

// TestHandOversEnd: a connection that is handed over in a circle, through wrappers of all
// kinds, is answered with 508, and everything ends.
func TestHandOversEnd(t *testing.T) {
	const name = "circle"
	virtual := listenVirtually(t, name)
	app := loadHandlerIn(t, provisionApps(t, "{"+httpServers(map[string]string{"a": "streamprox/" + name + ":80"})+"}"), "http_app", `{}`)
	var running sync.WaitGroup
	var handed atomic.Int64
	running.Go(func() {
		for {
			conn, err := virtual.Accept()
			if err != nil {
				return
			}
			if handed.Add(1)%2 == 0 {
				conn = wrapping{Conn: conn}
			}
			running.Go(func() {
				defer conn.Close()
				_ = app.Handle(layer4.WrapConnection(conn, nil, zap.NewNop()), endOfChain)
			})
		}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, request := range []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"} {
		handed.Store(0)
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			defer server.Close()
			_ = app.Handle(layer4.WrapConnection(server, []byte(request), zap.NewNop()), endOfChain)
		})
		_ = client.SetDeadline(time.Now().Add(30 * time.Second))
		got, err := io.ReadAll(client)
		if !strings.HasPrefix(string(got), "HTTP/1.1 508 ") || err != nil {
			t.Errorf("got %q (%v), want 508", got, err)
		}
		if n := handed.Load(); n != maxHandOvers {
			t.Errorf("handed over %d times, want %d", n, maxHandOvers)
		}
		client.Close()
	}
	virtual.Close()
	running.Wait()
}

// TestServedTLS: a connection whose TLS has ended before it was handed over keeps the state
// of it, and the count of its hand-overs, where it is handed over again.
func TestServedTLS(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	state := &tls.ConnectionState{ServerName: "example.com"}
	conn := tlsServedConn{served: newReplayConn(newReplayConn(server, nil, nil), nil, nil), state: state}
	cx := layer4.WrapConnection(conn, nil, zap.NewNop())
	setTLSState(cx)
	if got := tlsState(cx); got == nil || got.ServerName != "example.com" {
		t.Errorf("got the TLS state %v, want that of the connection", got)
	}
	if !tlsTerminated(nil, conn) {
		t.Error("TLS is forgotten")
	}
	if got := handOvers(cx); got != 2 {
		t.Errorf("got %d hand-overs, want 2", got)
	}
}

// TestSocketBeneath: the socket is found beneath all that caddy-l4, its handlers and this
// package make of a connection.
func TestSocketBeneath(t *testing.T) {
	base := new(net.TCPConn)
	wrap := func(conn net.Conn) net.Conn { return layer4.WrapConnection(conn, nil, zap.NewNop()) }
	for _, test := range []struct {
		name string
		conn net.Conn
		want net.Conn
	}{
		{"caddy-l4's", wrap(base), base},
		{"TLS that caddy-l4 terminates", tls.Server(wrap(wrap(base)), new(tls.Config)), base},
		{"PROXY protocol", wrap(proxyproto.NewConn(wrap(base))), base},
		{"handed over before", wrap(newReplayConn(base, nil, nil)), base},
		{"a plugin's", wrap(wrapping{Conn: base}), nil},
	} {
		if got := socket.Of(test.conn); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// TestThrottles: of all wrappers only caddy-l4's throttle is known to hold no bytes.
func TestThrottles(t *testing.T) {
	base, other := net.Pipe()
	defer base.Close()
	defer other.Close()
	throttled := func(conn net.Conn) (wrapped net.Conn) {
		cx := layer4.WrapConnection(conn, nil, zap.NewNop())
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		defer cancel()
		handler := new(l4throttle.Handler)
		if err := handler.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		_ = handler.Handle(cx, layer4.HandlerFunc(func(cx *layer4.Connection) error {
			wrapped = cx.Conn
			return nil
		}))
		return wrapped
	}
	for _, test := range []struct {
		name string
		conn net.Conn
		want bool
	}{
		{"the same", base, true},
		{"another", other, false},
		{"none", nil, false},
		{"throttled", throttled(base), true},
		{"throttled twice", throttled(throttled(base)), true},
		{"another, throttled", throttled(other), false},
		{"wrapped", wrapping{Conn: base}, false},
		{"wrapped and throttled", throttled(wrapping{Conn: base}), false},
	} {
		if got := throttles(test.conn, base); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// TestHandshakeIsBoundedBySilence: a client that does not finish its TLS handshake waits
// no longer than one that says nothing.
func TestHandshakeIsBoundedBySilence(t *testing.T) {
	h := loadHandler(t, "inspect", `{"silent_timeout":"3s"}`).(*Inspect)
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		began := time.Now()
		in, err := h.inspect(layer4.WrapConnection(tls.Server(server, new(tls.Config)), nil, zap.NewNop()))
		if in != nil || err == nil {
			t.Errorf("got an inspection of an unfinished handshake (%v)", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("it ended after %s, want 3s", took)
		}
		server.Close()
	})
}

// watchedConn is a connection that tells of what it has sent, at each beginning of a piece.
type watchedConn struct {
	net.Conn
	atPiece func()
}

func (c watchedConn) ReadFrom(r io.Reader) (int64, error) {
	c.atPiece()
	return io.Copy(io.Discard, r)
}

// TestDownloadIsCountedMeanwhile: the account of a file that is being sent has what was sent
// of it, and does not look idle until its end.
func TestDownloadIsCountedMeanwhile(t *testing.T) {
	record := unlogged.Begin(account.Summary{})
	defer record.End(false)
	var seen []int64
	c := &handedConn{
		Conn:  watchedConn{atPiece: func() { seen = append(seen, record.Read().Down) }},
		ended: func(*inspection) {},
	}
	c.record.Store(record)
	const size = 16 << 20
	if n, err := c.ReadFrom(io.LimitReader(neverEnding{}, size)); n != size || err != nil {
		t.Fatalf("sent %d bytes, %v", n, err)
	}
	if len(seen) < 2 || seen[1] == 0 {
		t.Errorf("at the beginning of each piece the account had %v bytes", seen)
	}
	if got := record.Read().Down; got != size {
		t.Errorf("in the end: got %d bytes, want %d", got, size)
	}
}

// neverEnding is a reader that has no WriterTo.
type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }
