//go:build unix

package relay

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// AwaitHangUp waits until the peer of the socket under c resets its connection, or until
// that fails in another way, and returns why. It is for those who must not read: no byte
// is taken from c, and an end of sending is not waited for. It returns nil when a read
// deadline passes, when c is closed, and at once where there is no telling: with no
// socket under c, and on Windows.
func AwaitHangUp(c net.Conn) error {
	raw := rawSocket(c)
	if raw == nil {
		return nil
	}
	var err error
	_ = raw.Read(func(fd uintptr) bool {
		err = socketError(fd)
		return err != nil
	})
	return err
}

// hangUp asks once what AwaitHangUp waits for.
func hangUp(c net.Conn) error {
	raw := rawSocket(c)
	if raw == nil {
		return nil
	}
	var err error
	_ = raw.Control(func(fd uintptr) { err = socketError(fd) })
	return err
}

// rawSocket returns access to the socket under c, or nil.
func rawSocket(c net.Conn) syscall.RawConn {
	inner, _ := innermost(c)
	switch inner := inner.(type) {
	case *net.TCPConn, *net.UnixConn:
		if raw, err := inner.(syscall.Conn).SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// socketError returns the error of a socket, nil if it has none. To be shut down both
// ways (POLLHUP) is none. SO_ERROR alone must not be asked: it also tells of errors on
// the way that may pass.
func socketError(fd uintptr) error {
	asked := []unix.PollFd{{Fd: int32(fd)}} // POLLERR need not be asked for
	for {
		if _, err := unix.Poll(asked, 0); err != unix.EINTR {
			break
		}
	}
	if asked[0].Revents&unix.POLLERR == 0 {
		return nil
	}
	errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || errno == 0 {
		return errReset // a write that was under way took the error
	}
	return os.NewSyscallError("poll", syscall.Errno(errno))
}
