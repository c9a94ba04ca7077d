//go:build unix

package relay

import (
	"io"
	"net"
	"os"
	"syscall"
)

// resets are the errors of a connection that its peer has reset or closed.
var resets = []error{errReset, syscall.EPIPE}

// errReset is what a reset is called.
const errReset = syscall.ECONNRESET

// errNotConnected is what shutdown(2) says of a connection that is gone.
const errNotConnected = syscall.ENOTCONN

// lostPeer reports whether the TCP connection under c is gone, after reading from
// it has come to an end and before we have shut down writing to it. Then there was
// no end but a reset: a socket tells of it once, and a write of ours that was under
// way took the error, so that reading only saw an end.
func lostPeer(c net.Conn) bool {
	inner, _ := innermost(c)
	tcp, ok := inner.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	var peerErr error
	err = raw.Control(func(fd uintptr) { _, peerErr = syscall.Getpeername(int(fd)) })
	// Where err is set the stream has ended meanwhile: there is no end to pass on.
	return err != nil || peerErr == syscall.ENOTCONN
}

// newSource returns a source that reads from c: without holding a buffer while it
// waits, if c is a socket.
func newSource(c net.Conn) source {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		if raw, err := c.(syscall.Conn).SyscallConn(); err == nil {
			s := &socketSource{raw: raw}
			s.try = s.tryRead
			return s
		}
	}
	return &connSource{conn: c}
}

// socketSource reads from a socket. It takes a buffer for each attempt only, so
// that an idle stream holds none.
type socketSource struct {
	raw   syscall.RawConn
	try   func(fd uintptr) bool // tryRead, bound once: no allocation per read
	large bool

	// The arguments and results of tryRead.
	max int64
	buf []byte
	err error
}

func (s *socketSource) read(max int64) ([]byte, error) {
	s.max, s.buf, s.err = max, nil, nil
	if err := s.raw.Read(s.try); err != nil {
		return nil, err
	}
	s.large = len(s.buf) >= smallSize
	return s.buf, s.err
}

// tryRead reads once. It returns false if the poller is to wait for the socket.
func (s *socketSource) tryRead(fd uintptr) bool {
	buf := takeBuffer(s.large, s.max)
	n, err := syscall.Read(int(fd), buf)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), buf)
	}
	if n > 0 {
		s.buf = buf[:n]
		return true
	}
	giveBack(buf)
	switch err {
	case nil:
		s.err = io.EOF
	case syscall.EAGAIN:
		return false
	default:
		s.err = os.NewSyscallError("read", err)
	}
	return true
}
