//go:build unix

package streamprox

import (
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// detach moves a socket to a connection of its own, so that it outlives the handler that
// has it: caddy-l4 closes the connection that it has accepted, and keeps a goroutine and
// buffers for it, until its handlers return. It closes conn. It reports false, and leaves
// conn as it is, if that is no plain socket, or if descriptors are scarce.
func detach(conn net.Conn) (net.Conn, bool) {
	raw := rawConn(conn)
	if raw == nil || !descriptors.Take(2) { // net.FileConn makes a second one
		return conn, false
	}
	own := -1
	var options socketOptions
	var dupErr error
	if err := raw.Control(func(fd uintptr) {
		options = socketOptionsOf(fd)
		own, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || dupErr != nil {
		descriptors.Unused(2)
		return conn, false
	}
	descriptors.Opened(uintptr(own))
	file := os.NewFile(uintptr(own), "")
	detached, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		descriptors.Unused(1)
		return conn, false
	}
	_ = conn.Close() // takes it out of the runtime's poller, too
	if raw := rawConn(detached); raw == nil || raw.Control(func(fd uintptr) {
		descriptors.Opened(fd)
		options.restore(fd)
	}) != nil {
		descriptors.Unused(1)
	}
	return detached, true
}

// socketOption is an option that net sets for each TCP connection that it makes, also of a
// socket which somebody has set up already, and what it sets it to.
type socketOption struct{ level, name, value int }

// socketOptions are the values of the options in goOptions.
type socketOptions [len(goOptions)]int

// socketOptionsOf returns those of the socket fd. Of one that is not TCP, and where a
// system does not tell, they are those of net.
func socketOptionsOf(fd uintptr) (values socketOptions) {
	for i, option := range goOptions {
		value, err := unix.GetsockoptInt(int(fd), option.level, option.name)
		switch {
		case err != nil:
			value = option.value
		case option.value == 1 && value != 0:
			value = 1 // macOS returns the option's bit
		}
		values[i] = value
	}
	return values
}

// restore sets what differs from what net has set.
func (values socketOptions) restore(fd uintptr) {
	for i, option := range goOptions {
		if values[i] != option.value {
			_ = unix.SetsockoptInt(int(fd), option.level, option.name, values[i])
		}
	}
}
