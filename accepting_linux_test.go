package streamprox

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/accepting"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// unattended returns a listener from which nobody accepts, as the watch knows it.
func unattended(t *testing.T) (net.Listener, *watchedSocket) {
	t.Helper()
	ln, err := net.Listen("tcp", freeport.Address(t)) // where nobody else listens once it is closed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	sockets, err := accepting.Find()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(sockets, func(s *accepting.Socket) bool { return s.Addr().String() == ln.Addr().String() })
	return ln, &watchedSocket{Socket: sockets[i], server: new(layer4.Server)}
}

// knock connects, and stays until the end of the test.
func knock(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestTakeOver: the watch accepts from a socket until its owner closes it.
func TestTakeOver(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	ln, s := unattended(t)
	w := &acceptWatch{ctx: ctx, app: new(layer4.App), logger: zap.NewNop(), sockets: []*watchedSocket{s}}
	w.takeOver(s)
	if s.own == nil {
		t.Fatal("not taken over")
	}
	for range 3 {
		conn := knock(t, ln)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("got %v, want the end: the server has no route", err)
		}
	}
	ln.Close()
	w.look()
	if len(w.sockets) != 0 {
		t.Error("the socket is watched though its owner has closed it")
	}
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
}

// TestForgetWhileReplaced: that the configuration before has closed its socket says nothing
// of the one that is at the same address now.
func TestForgetWhileReplaced(t *testing.T) {
	var listeners [2]net.Listener
	w := new(acceptWatch)
	for i := range listeners {
		var s *watchedSocket
		listeners[i], s = unattended(t)
		s.server, s.address = nil, "tcp/127.0.0.1:80"
		w.sockets = append(w.sockets, s)
	}
	check := func(what string, want ...string) {
		t.Helper()
		if got := w.forget(); !slices.Equal(got, want) {
			t.Errorf("%s: lost %q, want %q", what, got, want)
		}
	}
	check("both are open")
	listeners[0].Close()
	check("one is left")
	listeners[1].Close()
	check("none is left", "tcp/127.0.0.1:80")
	check("later")
}

// TestNoteListeners: metrics say which ports are accepted from.
func TestNoteListeners(t *testing.T) {
	one := &watchedSocket{address: ":1"}
	older := &watchedSocket{address: ":1"}
	w := &acceptWatch{sockets: []*watchedSocket{one, older, {address: ":2"}}}
	check := func(what string, want map[string]bool) {
		t.Helper()
		w.note()
		if got := *w.ports.Load(); !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	check("all are", map[string]bool{":1": true, ":2": true})
	one.stopped = true
	check("one is not", map[string]bool{":1": false, ":2": true})
	one.own, _ = unattended(t)
	check("it is again", map[string]bool{":1": true, ":2": true})
	older.stopped = true
	check("another socket of the port is not", map[string]bool{":1": false, ":2": true})
	w.sockets, w.lost = w.sockets[:2], []string{":2"}
	older.stopped = false
	check("one is lost", map[string]bool{":1": true, ":2": false})
}

// TestFindListeners: the sockets are found in whatever form their address is written.
func TestFindListeners(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	for _, test := range []struct {
		listen, written string
		found           int
	}{
		{"127.0.0.1:0", "127.0.0.1:PORT", 1},
		{"127.0.0.1:0", "tcp4/127.0.0.1:PORT", 1},
		{"127.0.0.1:0", "localhost:PORT", 1},
		{"127.0.0.1:0", "127.0.0.1:PORT-PORT", 1},
		{":0", ":PORT", 1},
		{"0.0.0.0:0", "0.0.0.0:PORT", 1},
		{"[::1]:0", "[::1]:PORT", 1},
		{"127.0.0.1:0", ":PORT", 0},
		{"127.0.0.1:0", "127.0.0.2:PORT", 0},
		{"127.0.0.1:0", "udp/127.0.0.1:PORT", 0},
	} {
		t.Run(test.listen+" as "+test.written, func(t *testing.T) {
			ln, err := net.Listen("tcp", test.listen)
			if err != nil {
				t.Skip(err) // no IPv6
			}
			defer ln.Close()
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			server := &layer4.Server{Listen: []string{strings.ReplaceAll(test.written, "PORT", port)}}
			w := &acceptWatch{ctx: ctx, app: &layer4.App{Servers: map[string]*layer4.Server{"a": server}}}
			if sockets, ok := w.find(); !ok || len(sockets) != test.found {
				t.Errorf("found %d sockets (%v), want %d", len(sockets), ok, test.found)
			}
		})
	}
}
