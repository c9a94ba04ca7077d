//go:build unix

package socket

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawConn returns access to the descriptor of conn if it is a socket, else nil.
func rawConn(conn net.Conn) syscall.RawConn {
	if !Is(conn) {
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// read waits for bytes and returns at most max of them in a buffer of the size.
func (r *Reader) read(size int, max int64) ([]byte, error) {
	if r.raw == nil {
		return r.readConn(size, max)
	}
	a := attempts.Get().(*attempt)
	defer attempts.Put(a)
	a.size, a.max = size, max
	err := r.raw.Read(a.try)
	p, readErr := a.p, a.err
	a.p, a.err = nil, nil
	if err != nil {
		return nil, err
	}
	return p, readErr
}

// attempt is a read of a socket that is tried each time the socket becomes readable. It
// takes a buffer for each try only.
type attempt struct {
	try  func(fd uintptr) bool // tryRead, bound once: that allocates
	size int
	max  int64
	p    []byte
	err  error
}

var attempts = sync.Pool{New: func() any {
	a := new(attempt)
	a.try = a.tryRead
	return a
}}

// tryRead reads once. It returns false if the poller is to wait for the socket.
func (a *attempt) tryRead(fd uintptr) bool {
	p := TakeBuffer(a.size, a.max)
	n, err := syscall.Read(int(fd), p)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), p)
	}
	if n > 0 {
		a.p = p[:n]
		return true
	}
	GiveBack(p)
	switch err {
	case syscall.EAGAIN:
		return false
	case nil:
		a.err = io.EOF
	default:
		a.err = os.NewSyscallError("read", err)
	}
	return true
}

// Unread reports whether the socket beneath conn holds bytes that nobody has read: then
// closing it sends a reset. Where there is no telling it reports false: with no socket
// beneath conn, and on Windows.
func Unread(conn net.Conn) bool {
	raw := rawConn(Of(conn))
	if raw == nil {
		return false
	}
	var n int
	_ = raw.Control(func(fd uintptr) {
		n, _, _ = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return n > 0
}
