//go:build unix

package streamprox

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// firstReader reads the first bytes of a connection.
type firstReader struct {
	conn net.Conn
	raw  syscall.RawConn // of a socket; else nil
}

func newFirstReader(conn net.Conn) firstReader {
	return firstReader{conn, rawConn(conn)}
}

// rawConn returns direct access to conn if it is a socket, else nil. A type that embeds a
// socket may have a Read of its own.
func rawConn(conn net.Conn) syscall.RawConn {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		if raw, err := conn.(syscall.Conn).SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// read waits for the first bytes and returns them, at most limit, in a buffer with room
// to grow. While it waits on a socket it holds no buffer: a client that says nothing
// costs none.
func (r firstReader) read(limit int) ([]byte, error) {
	if r.raw == nil {
		return readFirstFrom(r.conn, limit)
	}
	first := firstReads.Get().(*firstRead)
	defer firstReads.Put(first)
	first.limit = limit
	err := r.raw.Read(first.try)
	buf, readErr := first.buf, first.err
	first.buf, first.err = nil, nil
	if err != nil {
		return nil, err
	}
	return buf, readErr
}

// scarce reports whether the connection is one too many.
func (r firstReader) scarce() bool {
	raw := r.raw
	if raw == nil {
		raw = rawConn(socket(r.conn))
	}
	if raw != nil {
		_ = raw.Control(descriptors.Saw)
	}
	return descriptors.Scarce()
}

// firstRead is a read of a socket that is tried each time it becomes readable.
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

// unread reports whether the socket beneath conn holds bytes that nobody has read: then
// closing it sends a reset.
func unread(conn net.Conn) bool {
	raw := rawConn(socket(conn))
	if raw == nil {
		return false
	}
	var n int
	_ = raw.Control(func(fd uintptr) {
		n, _, _ = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return n > 0
}
