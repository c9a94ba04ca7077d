//go:build unix

package socket

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The errors of a connection that its peer has reset or closed, and what shutdown(2) says
// of one that is gone.
const (
	errReset        = syscall.ECONNRESET
	errNotConnected = syscall.ENOTCONN
)

var resets = []error{errReset, syscall.EPIPE}

// NoticesHangUp reports whether AwaitHangUp and HangUp can notice a reset of conn: on Unix,
// if there is a socket beneath.
func NoticesHangUp(conn net.Conn) bool { return rawConn(Of(conn)) != nil }

// AwaitHangUp waits until the peer of the socket beneath conn resets its connection, or
// until that fails in another way, and returns why. It is for those who must not read: no
// byte is taken from conn, and an end of sending is not waited for. It returns nil when a
// read deadline passes, when conn is closed, and at once where nothing can be noticed.
func AwaitHangUp(conn net.Conn) error {
	raw := rawConn(Of(conn))
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

// HangUp asks once what AwaitHangUp waits for.
func HangUp(conn net.Conn) error {
	raw := rawConn(Of(conn))
	if raw == nil {
		return nil
	}
	var err error
	_ = raw.Control(func(fd uintptr) { err = socketError(fd) })
	return err
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
		return ErrReset // a write that was under way took the error
	}
	return os.NewSyscallError("poll", syscall.Errno(errno))
}

// LostPeer reports whether the TCP connection beneath conn is gone, after reading from it
// has come to an end and before we have shut down writing to it. Then there was no end but
// a reset: a socket tells of it once, and a write of ours that was under way took the
// error, so that reading only saw an end.
func LostPeer(conn net.Conn) bool {
	tcp := Of(conn)
	if !IsTCPSocket(tcp) {
		return false
	}
	raw := rawConn(tcp)
	if raw == nil {
		return true
	}
	lost := false
	err := raw.Control(func(fd uintptr) { lost = PeerLost(int(fd)) })
	// Where err is set the stream has ended meanwhile: there is no end to pass on.
	return err != nil || lost
}

// PeerLost is LostPeer for the descriptor of a TCP connection.
func PeerLost(fd int) bool {
	_, err := syscall.Getpeername(fd) // package unix asks for the protocol too
	return err == syscall.ENOTCONN
}

// Quiet reports whether the peer of an idle connection has neither sent anything nor ended
// it, as far as that can be told at once. A byte may be lost if it has. It clears the read
// deadline of a wrapper, which may hold bytes that it has read.
func Quiet(conn net.Conn) bool {
	if !Is(conn) && !holdsNothing(conn) {
		return false
	}
	raw := rawConn(Of(conn))
	if raw == nil {
		return true
	}
	var err error
	if raw.Control(func(fd uintptr) {
		_, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}) != nil {
		return false
	}
	return err == unix.EAGAIN
}
