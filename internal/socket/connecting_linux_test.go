package socket

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// full returns a listener that takes no more connections, until one calls accept.
func full(t *testing.T) (to netip.AddrPort, accept func()) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(self.(*unix.SockaddrInet4).Port))
	accept = func() {
		if conn, _, err := unix.Accept(fd); err == nil {
			t.Cleanup(func() { unix.Close(conn) })
		}
	}
	for range 10 {
		conn, begun, err := Connect(to)
		switch {
		case err != nil:
			t.Fatal(err)
		case begun != nil:
			begun.Drop()
			return to, accept
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("it takes all")
	return to, accept
}

// TestConnectWaits: the end of the wait is that of its context.
func TestConnectWaits(t *testing.T) {
	to, _ := full(t)
	begin := func() *Connecting {
		conn, begun, err := Connect(to)
		if conn != nil || begun == nil || err != nil {
			t.Fatalf("got %v, %v, %v, want a connection that is not open yet", conn, begun, err)
		}
		return begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if conn, err := begin().Wait(ctx); conn != nil || !isTimeout(err) {
		t.Errorf("too late: got %v, %v", conn, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	go cancel()
	if conn, err := begin().Wait(ctx); conn != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, %v", conn, err)
	}
}

// TestConnectAnsweredLate: a connection is open once the listener has room for it.
func TestConnectAnsweredLate(t *testing.T) {
	to, accept := full(t)
	conn, begun, err := Connect(to)
	if conn != nil || begun == nil || err != nil {
		t.Fatalf("got %v, %v, %v, want a connection that is not open yet", conn, begun, err)
	}
	accept()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if conn, err = begun.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, want := conn.RemoteAddr().String(), to.String(); got != want {
		t.Errorf("it leads to %s, want %s", got, want)
	}
}

// started begins to connect, and does not look whether that has succeeded.
func started(to netip.AddrPort) (*Connecting, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, err
	}
	return &Connecting{&Bare{fd: fd, to: to}}, nil
}

// TestConnectOpensLater: a connection that had to wait is like one that had not.
func TestConnectOpensLater(t *testing.T) {
	ln, to := listen(t, "127.0.0.1:0")
	begun, err := started(to)
	if err != nil {
		t.Fatal(err)
	}
	waited, err := begun.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer waited.Close()
	bare, ok := waited.(*Bare)
	if !ok || !unpolled(bare) {
		t.Fatalf("got a %T, which the runtime's poller knows", waited)
	}
	other, _ := bareTo(t, "127.0.0.1:0")
	if got, want := socketOptionsOf(bare.fd), socketOptionsOf(other.fd); got != want {
		t.Errorf("options: got %v, want %v", got, want)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	send(t, waited, "request")
	CloseWrite(waited)
	receivesEnd(t, far, "request")
}

// TestConnectRefusedLater: of many that wait each gets its own answer, whoever has had its
// descriptor before.
func TestConnectRefusedLater(t *testing.T) {
	ln, open := listen(t, "127.0.0.1:0")
	closed := netip.MustParseAddrPort(freeport.Address(t))
	unanswered, _ := full(t)
	var accepted sync.WaitGroup
	accepted.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	})
	var all sync.WaitGroup
	for range 8 {
		for _, c := range []struct {
			to   netip.AddrPort
			want error
		}{{open, nil}, {closed, unix.ECONNREFUSED}, {unanswered, context.DeadlineExceeded}} {
			all.Go(func() {
				for range 20 {
					ctx, cancel := context.WithCancel(t.Context())
					if c.want == context.DeadlineExceeded {
						ctx, cancel = context.WithTimeout(ctx, 2*time.Millisecond)
					}
					var conn net.Conn
					begun, err := started(c.to)
					if err == nil {
						conn, err = begun.Wait(ctx)
					}
					cancel()
					if !errors.Is(err, c.want) || (conn == nil) != (err != nil) {
						t.Errorf("%s: got %v, %v, want %v", c.to, conn, err, c.want)
					}
					if conn != nil {
						Reset(conn)
					}
				}
			})
		}
	}
	all.Wait()
	ln.Close()
	accepted.Wait()
}

// TestConnectWithoutDescriptors: there is none left to wait with.
func TestConnectWithoutDescriptors(t *testing.T) {
	to, _ := full(t)
	begun, err := started(to)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the goroutine's end", func() bool {
		opening.mu.Lock()
		defer opening.mu.Unlock()
		return opening.epoll == nil
	})
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	conn, err := begun.Wait(t.Context())
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if conn != nil || !errors.Is(err, descriptors.ErrScarce) {
		t.Errorf("got %v, %v, want %v", conn, err, descriptors.ErrScarce)
	}
	if _, fd := begun.bare.opened(); fd >= 0 {
		t.Error("its socket is open")
	}
}

// await waits until a condition holds.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
	}
}
