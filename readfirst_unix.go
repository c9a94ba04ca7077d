//go:build unix

package streamprox

import (
	"io"
	"net"
	"syscall"
)

// readFirst waits for the first bytes of conn and returns them, at most limit, in
// a buffer with room to grow. While it waits on a socket it holds no buffer: a
// client that says nothing costs none.
func readFirst(conn net.Conn, limit int) ([]byte, error) {
	var sc syscall.Conn
	switch c := conn.(type) {
	case *net.TCPConn:
		sc = c
	case *net.UnixConn:
		sc = c
	default:
		return readFirstFrom(conn, limit)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var buf []byte
	var n int
	var readErr error
	// The function is called again each time the socket becomes readable, until it
	// returns true.
	err = raw.Read(func(fd uintptr) bool {
		buf = make([]byte, min(firstBuffer, limit))
		for {
			n, readErr = syscall.Read(int(fd), buf)
			if readErr != syscall.EINTR {
				break
			}
		}
		if readErr == syscall.EAGAIN {
			buf = nil
			return false
		}
		return true
	})
	switch {
	case err != nil:
		return nil, err
	case readErr != nil:
		return nil, &net.OpError{Op: "read", Net: conn.LocalAddr().Network(), Source: conn.LocalAddr(), Addr: conn.RemoteAddr(), Err: readErr}
	case n == 0:
		return nil, io.EOF
	}
	return buf[:n], nil
}
