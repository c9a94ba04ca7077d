package socket

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen returns a listener, and its address.
func listen(t *testing.T, address string) (net.Listener, netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err) // no IPv6
	}
	t.Cleanup(func() { ln.Close() })
	to := ln.Addr().(*net.TCPAddr).AddrPort()
	return ln, netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
}

// bareTo returns a connection to a new listener, and the other end.
func bareTo(t *testing.T, address string) (*Bare, net.Conn) {
	t.Helper()
	ln, to := listen(t, address)
	conn, begun, err := Connect(to)
	if err != nil || begun != nil {
		t.Fatalf("got %v and %v, want an open connection", err, begun)
	}
	t.Cleanup(func() { conn.Close() })
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return conn.(*Bare), far
}

// unpolled reports whether the runtime's poller does not know the connection.
func unpolled(b *Bare) bool { conn, fd := b.opened(); return conn == nil && fd >= 0 }

// TestBare: what need not wait is done without the runtime's poller, and the rest as
// *net.TCPConn does it.
func TestBare(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		bare, far := bareTo(t, address)
		if got, want := bare.RemoteAddr().String(), far.LocalAddr().String(); got != want {
			t.Errorf("remote address: got %s, want %s", got, want)
		}
		if got, want := bare.LocalAddr().String(), far.RemoteAddr().String(); got != want {
			t.Errorf("local address: got %s, want %s", got, want)
		}
		if !Is(bare) || !IsTCPSocket(bare) || Of(bare) != net.Conn(bare) {
			t.Error("not a socket of TCP")
		}
		if err := bare.SetDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		if !Quiet(bare) || HangUp(bare) != nil || Unread(bare) || LostPeer(bare) {
			t.Error("an idle connection is not quiet")
		}
		send(t, far, "x")
		for !Unread(bare) {
			time.Sleep(time.Millisecond)
		}
		if Quiet(bare) {
			t.Error("quiet with a byte to read")
		}
		if !unpolled(bare) {
			t.Fatal("it is known to the runtime's poller, and nothing had to wait")
		}
		b := make([]byte, 1)
		if _, err := io.ReadFull(bare, b); err != nil || b[0] != 'x' {
			t.Errorf("got %q, %v", b, err)
		}
		if unpolled(bare) {
			t.Error("it has read without the runtime's poller")
		}
		send(t, bare, "request")
		if err := bare.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Error(err)
		}
		if _, err := bare.Read(b); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
			t.Errorf("after the deadline: got error %v", err)
		}
		if got, want := bare.LocalAddr().String(), far.RemoteAddr().String(); got != want {
			t.Errorf("local address once it is open: got %s, want %s", got, want)
		}
		if err := CloseWrite(bare); err != nil {
			t.Error(err)
		}
		receivesEnd(t, far, "request")
		if err := bare.Close(); err != nil {
			t.Error(err)
		}
		if err := bare.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed again: got error %v", err)
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestBareOptions: they are those of a connection that net makes.
func TestBareOptions(t *testing.T) {
	bare, _ := bareTo(t, "127.0.0.1:0")
	dialed, _ := connect(t, "tcp")
	_, fd := bare.opened()
	var want socketOptions
	if err := rawConn(dialed).Control(func(fd uintptr) { want = socketOptionsOf(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if got := socketOptionsOf(fd); got != want {
		t.Errorf("got %v, want %v (of %v)", got, want, goOptions)
	}
}

// TestBareReset: without the runtime's poller, and with it.
func TestBareReset(t *testing.T) {
	for _, opened := range []bool{false, true} {
		bare, far := bareTo(t, "127.0.0.1:0")
		if opened {
			send(t, bare, "")
			if _, err := bare.open(); err != nil {
				t.Fatal(err)
			}
		}
		Reset(bare)
		receivesReset(t, far)
		if _, err := bare.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed one: got error %v", err)
		}
		if raw := rawConn(bare); raw.Control(func(uintptr) { t.Error("a closed one has a descriptor") }) == nil {
			t.Error("a closed one: no error")
		}
	}
}

// TestLend: who keeps the descriptor of a Bare has the only one, and who returns it has none.
func TestLend(t *testing.T) {
	bare, far := bareTo(t, "127.0.0.1:0")
	loan, err := Lend(bare)
	if err != nil {
		t.Fatal(err)
	}
	loan.Return()
	send(t, bare, "opened ")
	if loan, err = Lend(bare); err != nil { // a second descriptor
		t.Fatal(err)
	}
	loan.Return()
	send(t, bare, "returned")
	CloseWrite(bare)
	receivesEnd(t, far, "opened returned")

	bare, far = bareTo(t, "127.0.0.1:0")
	if loan, err = Lend(bare); err != nil {
		t.Fatal(err)
	}
	loan.Keep()
	if err := bare.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed after it was kept: got error %v", err)
	}
	if _, err := unix.Write(loan.FD, []byte("kept")); err != nil {
		t.Error(err)
	}
	unix.Close(loan.FD)
	receivesEnd(t, far, "kept")

	near, far := connect(t, "tcp")
	if loan, err = Lend(near); err != nil {
		t.Fatal(err)
	}
	loan.Keep()
	if _, err := unix.Write(loan.FD, []byte("second")); err != nil {
		t.Error(err)
	}
	unix.Close(loan.FD)
	receivesEnd(t, far, "second")
	if _, err := Lend(near); err == nil {
		t.Error("a closed one was lent")
	}
}

func TestConnectRefused(t *testing.T) {
	ln, to := listen(t, "127.0.0.1:0")
	ln.Close()
	conn, begun, err := Connect(to)
	if begun != nil {
		conn, err = begun.Wait(t.Context())
	}
	var failure *net.OpError
	if conn != nil || !errors.Is(err, unix.ECONNREFUSED) || !errors.As(err, &failure) || failure.Op != "dial" || failure.Addr.String() != to.String() {
		t.Errorf("got %v, %v, want the error of net.Dial", conn, err)
	}
}

// TestConnectItself: the system may give a connection the port that it leads to.
func TestConnectItself(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	bare := &Bare{fd: fd, to: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(self.(*unix.SockaddrInet4).Port))}
	defer bare.Close()
	if err := unix.Connect(fd, self); err != nil && err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	if !bare.isItself() {
		t.Error("not noticed")
	}
	if other, _ := bareTo(t, "127.0.0.1:0"); other.isItself() {
		t.Error("noticed where it is not so")
	}
}
