//go:build unix

package socket

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// Dup returns a second descriptor of conn, a socket. It does not block, and the caller
// closes it. The error is descriptors.ErrScarce if that would be one of the reserve.
func Dup(conn net.Conn) (fd int, err error) {
	if !descriptors.Take(1) {
		return -1, descriptors.ErrScarce
	}
	return DupTaken(conn)
}

// DupTaken is Dup for those to whom [descriptors.Take] has granted the descriptor. It settles
// that, also with an error.
func DupTaken(conn net.Conn) (fd int, err error) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		descriptors.Unused(1)
		return -1, err
	}
	if fd, err = dup(raw); err != nil {
		return -1, err
	}
	// Somebody may have called Fd of an *os.File of it.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// dup opens the descriptor that has been taken for it.
func dup(raw syscall.RawConn) (fd int, err error) {
	var dupErr error
	err = raw.Control(func(original uintptr) {
		fd, dupErr = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err = errors.Join(err, os.NewSyscallError("dup", dupErr)); err != nil {
		descriptors.Unused(1)
		return -1, err
	}
	descriptors.Opened(uintptr(fd))
	return fd, nil
}

// Detach moves a socket to a connection of its own, so that it outlives whoever closes
// conn later, such as a server when its handler returns. It closes conn. It reports false,
// and leaves conn as it is, if that is not a socket, or if descriptors are scarce.
func Detach(conn net.Conn) (detached net.Conn, ok bool) {
	raw := rawConn(conn)
	if raw == nil {
		return conn, false
	}
	if !descriptors.Take(1) {
		return conn, false
	}
	fd, err := dup(raw)
	if err != nil {
		return conn, false
	}
	if detached, err = FromDescriptor(fd); err != nil {
		return conn, false
	}
	_ = conn.Close() // takes it out of the runtime's poller, too
	return detached, true
}

// FromDescriptor returns a connection of the socket fd, with its options as they are. It
// closes fd, in any case. Since it opens one descriptor for another, the reserve of package
// descriptors is not spared.
func FromDescriptor(fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	options := socketOptionsOf(fd)
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	options.restore(fd)
	if raw := rawConn(conn); raw != nil {
		_ = raw.Control(descriptors.Saw)
	}
	return conn, nil
}

// socketOption is an option that net sets for each TCP connection that it makes, also of a
// socket which somebody has set up already, and what it sets it to.
type socketOption struct{ level, name, value int }

// socketOptions are the values of the options in goOptions.
type socketOptions [len(goOptions)]int

// socketOptionsOf returns those of the socket fd. Of one that is not TCP, and where a
// system does not tell, they are those of net.
func socketOptionsOf(fd int) (values socketOptions) {
	for i, option := range goOptions {
		value, err := unix.GetsockoptInt(fd, option.level, option.name)
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
func (values socketOptions) restore(fd int) {
	for i, option := range goOptions {
		if values[i] != option.value {
			_ = unix.SetsockoptInt(fd, option.level, option.name, values[i])
		}
	}
}
