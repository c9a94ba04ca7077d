package streamprox

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// unattended returns a listener from which nobody accepts, as the watch knows it.
func unattended(t *testing.T, network, address string) (net.Listener, *watchedSocket) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	s := &watchedSocket{server: new(layer4.Server)}
	raw, err := ln.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		s.fd = int(fd)
		s.cookie, err = unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	})
	if err != nil {
		t.Fatal(err)
	}
	return ln, s
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

// TestStops: a listener counts as stopped when connections wait and none of them is taken
// for several looks, not when it is slow.
func TestStops(t *testing.T) {
	for _, network := range []string{"tcp", "tcp4", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			ln, s := unattended(t, network, address)
			looks := func(what string, n int, want bool) {
				t.Helper()
				for i := range n {
					if got := s.stops(); got != (want && i == n-1) {
						t.Errorf("%s, look %d: stopped %v", what, i, got)
					}
				}
			}
			accept := func() {
				t.Helper()
				conn, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
			}
			looks("nobody waits", 2*looksStalled, false)
			knock(t, ln)
			knock(t, ln)
			looks("two wait", looksStalled-1, false)
			if network != "unix" {
				accept()
				looks("one was taken", looksStalled, false)
				knock(t, ln)
				looks("another came", 1, true)
				accept()
			} else {
				accept()
			}
			accept()
			looks("nobody waits any more", 2*looksStalled, false)
			knock(t, ln)
			looks("one waits", looksStalled, true)
		})
	}
}

// TestTakeOver: the watch accepts from a socket until its owner closes it.
func TestTakeOver(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	ln, s := unattended(t, "tcp", "127.0.0.1:0")
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

// TestTakeOverOfOther: a number that is somebody else's by now is left alone.
func TestTakeOverOfOther(t *testing.T) {
	_, s := unattended(t, "tcp", "127.0.0.1:0")
	_, other := unattended(t, "tcp", "127.0.0.1:0")
	s.fd = other.fd
	new(acceptWatch).takeOver(s)
	if s.own != nil {
		t.Error("another socket was taken over")
	}
}

// TestForgetWhileReplaced: that the configuration before has closed its socket says nothing
// of the one that is at the same address now.
func TestForgetWhileReplaced(t *testing.T) {
	var listeners [2]net.Listener
	w := new(acceptWatch)
	for i := range listeners {
		var s *watchedSocket
		listeners[i], s = unattended(t, "tcp", "127.0.0.1:0")
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
