//go:build unix

package streamprox

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// readFirst waits for the first bytes of conn and returns them, at most limit, in
// a buffer with room to grow. While it waits on a socket it holds no buffer: a
// client that says nothing costs none.
func readFirst(conn net.Conn, limit int) ([]byte, error) {
	// A type that embeds a socket may have a Read of its own.
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return readFirstFrom(conn, limit)
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	r := firstReads.Get().(*firstRead)
	defer firstReads.Put(r)
	r.limit = limit
	err = raw.Read(r.try)
	buf, readErr := r.buf, r.err
	r.buf, r.err = nil, nil
	if err != nil {
		return nil, err
	}
	return buf, readErr
}

// firstRead is a read of a socket that is tried each time the socket becomes readable.
type firstRead struct {
	try   func(fd uintptr) bool // tryRead, bound once: no allocation for each connection
	limit int
	buf   []byte
	err   error
}

var firstReads = sync.Pool{New: func() any {
	r := new(firstRead)
	r.try = r.tryRead
	return r
}}

// tryRead reads once. It returns false if the poller is to wait for the socket.
func (r *firstRead) tryRead(fd uintptr) bool {
	buf := takeFirst(r.limit)
	n, err := syscall.Read(int(fd), buf)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), buf)
	}
	if n > 0 {
		r.buf = buf[:n]
		return true
	}
	giveFirst(buf)
	switch err {
	case syscall.EAGAIN:
		return false
	case nil:
		r.err = io.EOF
	default:
		r.err = os.NewSyscallError("read", err)
	}
	return true
}
