package socket

import (
	"errors"
	"net"
	"os"
	"testing"
)

// TestCloseWrite: the peer sees the end, and can still send.
func TestCloseWrite(t *testing.T) {
	for _, test := range []struct {
		name, network string
		wrap          func(net.Conn) net.Conn
	}{
		{"TCP", "tcp", nil},
		{"Unix", "unix", nil},
		{"TLS", "tls", nil},
		{"a wrapper with Raw", "tcp", func(c net.Conn) net.Conn { return rawWrapper{c} }},
		{"a wrapper of SeeThrough", "tcp", func(c net.Conn) net.Conn { return seenWrapper{c} }},
		{"wrappers around TLS", "tls", func(c net.Conn) net.Conn { return seenWrapper{rawWrapper{c}} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			near, far := connect(t, test.network)
			if test.wrap != nil {
				near = test.wrap(near)
			}
			send(t, near, "request")
			if err := CloseWrite(near); err != nil {
				t.Fatal(err)
			}
			receivesEnd(t, far, "request")
			send(t, far, "response")
			far.Close()
			receivesEnd(t, near, "response")
		})
	}
}

// TestCloseWriteUnsupported: a wrapper that may encode what it is given is not passed by.
func TestCloseWriteUnsupported(t *testing.T) {
	tcp, _ := connect(t, "tcp")
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for _, conn := range []net.Conn{pipe, unknownWrapper{tcp}, netConnWrapper{tcp}, seenWrapper{netConnWrapper{tcp}}} {
		if err := CloseWrite(conn); err != errors.ErrUnsupported {
			t.Errorf("%T: got error %v, want %v", conn, err, errors.ErrUnsupported)
		}
	}
}

// failing is a connection that fails to end its sending.
type failing struct {
	net.Conn
	err error
}

func (c failing) CloseWrite() error { return c.err }
func (c failing) NetConn() net.Conn { return c.Conn }

func TestCloseWriteErrors(t *testing.T) {
	near, far := connect(t, "tcp")
	if err := CloseWrite(failing{near, errNotConnected}); err != nil {
		t.Errorf("of a connection that is gone: got error %v", err)
	}
	if err := CloseWrite(failing{near, net.ErrClosed}); err != net.ErrClosed {
		t.Errorf("of another error: got %v, want %v", err, net.ErrClosed)
	}
	// As crypto/tls when a peer does not read.
	if err := CloseWrite(failing{near, os.ErrDeadlineExceeded}); err != nil {
		t.Errorf("of a deadline: got error %v", err)
	}
	receivesEnd(t, far, "")
}

func TestReset(t *testing.T) {
	for name, reset := range map[string]func(net.Conn){
		"at once":  Reset,
		"on close": func(conn net.Conn) { ResetOnClose(conn); Innermost(conn).Close() },
	} {
		for _, test := range []struct {
			name, network string
			wrap          func(net.Conn) net.Conn
		}{
			{"TCP", "tcp", nil},
			{"TLS", "tls", nil},
			{"an embedded socket", "tcp", func(c net.Conn) net.Conn { return embedding{c.(*net.TCPConn)} }},
			{"a wrapper of SeeThrough", "tcp", func(c net.Conn) net.Conn { return seenWrapper{c} }},
			{"wrappers around TLS", "tls", func(c net.Conn) net.Conn { return seenWrapper{rawWrapper{c}} }},
		} {
			t.Run(name+", "+test.name, func(t *testing.T) {
				near, far := connect(t, test.network)
				if test.wrap != nil {
					near = test.wrap(near)
				}
				reset(near)
				receivesReset(t, far)
				if _, err := near.Write([]byte("x")); err == nil {
					t.Error("it is still open")
				}
			})
		}
	}
}

// TestResetClosesAll: what cannot be reset is closed, and every wrapper around it.
func TestResetClosesAll(t *testing.T) {
	pipe, far := net.Pipe()
	defer far.Close()
	closed := 0
	Reset(netConnWrapper{countedClose{pipe, &closed}})
	receivesEnd(t, far, "")
	if closed != 2 {
		t.Errorf("closed %d times, want as the innermost one and as the outermost one", closed)
	}
}

type countedClose struct {
	net.Conn
	closed *int
}

func (c countedClose) Close() error { *c.closed++; return c.Conn.Close() }
