//go:build linux || darwin

package socket

import (
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDetachKeepsOptions: net sets options of each connection that it makes of a socket.
// Those that caddy-l4's handlers or the system have set are as they were.
func TestDetachKeepsOptions(t *testing.T) {
	for _, test := range []struct {
		name string
		set  func(*net.TCPConn) error
	}{
		{"Go's", func(*net.TCPConn) error { return nil }},
		{"no keepalive", func(c *net.TCPConn) error { return c.SetKeepAlive(false) }},
		{"keepalive", func(c *net.TCPConn) error {
			return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 100 * time.Second, Interval: 7 * time.Second, Count: 3})
		}},
		{"keepalive set and off", func(c *net.TCPConn) error {
			return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: false, Idle: 100 * time.Second, Interval: 7 * time.Second, Count: 3})
		}},
		{"delay", func(c *net.TCPConn) error { return c.SetNoDelay(false) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := test.set(conn.(*net.TCPConn)); err != nil {
				t.Fatal(err)
			}
			before := optionsOf(t, conn)
			detached, ok := Detach(conn)
			if !ok {
				t.Fatal("not detached")
			}
			defer detached.Close()
			if after := optionsOf(t, detached); after != before {
				t.Errorf("got %v, want %v (of %v)", after, before, goOptions)
			}
		})
	}
}

// TestDetach: the socket goes on when whoever had it closes it again.
func TestDetach(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		near, far := connect(t, network)
		detached, ok := Detach(near)
		if !ok {
			t.Fatalf("%s: not detached", network)
		}
		defer detached.Close()
		if err := near.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got error %v, want the first one to be closed", network, err)
		}
		send(t, detached, "from the new one")
		_ = CloseWrite(detached)
		receivesEnd(t, far, "from the new one")
	}
	near, _ := connect(t, "tls")
	for _, conn := range []net.Conn{near, unknownWrapper{near}} {
		if same, ok := Detach(conn); ok || same != conn {
			t.Errorf("%T: got %v and %v, want it as it was", conn, same, ok)
		}
	}
	near, _ = connect(t, "tcp")
	near.Close()
	if _, ok := Detach(near); ok {
		t.Error("a closed one was detached")
	}
}

func TestDup(t *testing.T) {
	near, far := connect(t, "tcp")
	fd, err := Dup(near)
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	if _, err := unix.Write(fd, []byte("from the second one")); err != nil {
		t.Error(err)
	}
	if _, err := unix.Read(fd, make([]byte, 1)); err != unix.EAGAIN {
		t.Errorf("reading: got error %v, want %v", err, unix.EAGAIN)
	}
	_ = unix.Close(fd)
	receivesEnd(t, far, "from the second one")
	if _, err := Dup(near); !errors.Is(err, net.ErrClosed) {
		t.Errorf("of a closed one: got error %v, want %v", err, net.ErrClosed)
	}
}

// optionsOf reads them without the code that is tested.
func optionsOf(t *testing.T, conn net.Conn) (values [5]int) {
	t.Helper()
	idle := 4 // TCP_KEEPIDLE
	if runtime.GOOS == "darwin" {
		idle = 0x10 // TCP_KEEPALIVE
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		for i, option := range [5]struct{ level, name int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE},
			{unix.IPPROTO_TCP, idle},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
			{unix.IPPROTO_TCP, unix.TCP_NODELAY},
		} {
			if values[i], err = unix.GetsockoptInt(int(fd), option.level, option.name); err != nil {
				t.Fatal(err)
			}
		}
	})
	return values
}
