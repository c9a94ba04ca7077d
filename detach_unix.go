//go:build unix

package streamprox

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// detach moves a socket to a connection of its own, so that it outlives the handler that
// has it: caddy-l4 closes the connection that it has accepted, and keeps a goroutine and
// buffers for it, until its handlers return. It closes conn. It reports false, and leaves
// conn as it is, if that is no plain socket, or if no descriptor is left.
func detach(conn net.Conn) (net.Conn, bool) {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return conn, false
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return conn, false
	}
	own := -1
	var dupErr error
	if err := raw.Control(func(fd uintptr) {
		own, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || dupErr != nil {
		return conn, false
	}
	file := os.NewFile(uintptr(own), "")
	detached, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		return conn, false
	}
	_ = conn.Close() // takes it out of the runtime's poller, too
	if raw := rawConn(detached); raw != nil {
		_ = raw.Control(descriptors.Saw)
	}
	return detached, true
}
