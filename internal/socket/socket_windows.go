package socket

import (
	"net"
	"syscall"
)

// The errors of a connection that its peer has reset or closed, and WSAENOTCONN, what
// shutdown says of one that is gone.
const (
	errReset        = syscall.WSAECONNRESET
	errNotConnected = syscall.Errno(10057)
)

var resets = []error{errReset, syscall.WSAECONNABORTED}

// rawConn returns nil: here nothing is done with a socket directly.
func rawConn(net.Conn) syscall.RawConn { return nil }

// read waits for bytes and returns at most max of them in a buffer of the size.
func (r *Reader) read(size int, max int64) ([]byte, error) { return r.readConn(size, max) }

// Unread reports false: there is no telling.
func Unread(net.Conn) bool { return false }

// NoticesHangUp reports false: there is no poll(2) to ask.
func NoticesHangUp(net.Conn) bool { return false }

// AwaitHangUp returns nil: see NoticesHangUp.
func AwaitHangUp(net.Conn) error { return nil }

// HangUp returns nil: see NoticesHangUp.
func HangUp(net.Conn) error { return nil }

// Quiet is that of Unix, as far as it goes without asking the socket.
func Quiet(conn net.Conn) bool { return Is(conn) || holdsNothing(conn) }

// LostPeer reports false: here a connection that is reset goes on saying so.
func LostPeer(net.Conn) bool { return false }

// Detach reports false: here a connection cannot outlive the handler that has it.
func Detach(conn net.Conn) (net.Conn, bool) { return conn, false }
