package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

// Loan is a descriptor of a socket, for who may take it over: either Keep or Return is to
// be called. The zero Loan is of none.
type Loan struct {
	FD   int
	conn net.Conn
	own  bool // FD is a second descriptor
}

// Lend returns a descriptor of conn, a socket, which does not block. The error is
// descriptors.ErrScarce if that would be one of the reserve.
func Lend(conn net.Conn) (l Loan, err error) {
	if bare, ok := conn.(*Bare); ok {
		if _, fd := bare.opened(); fd >= 0 {
			return Loan{FD: fd, conn: conn}, nil
		}
	}
	fd, err := Dup(conn)
	if err != nil {
		return Loan{}, err
	}
	return Loan{FD: fd, conn: conn, own: true}, nil
}

// Keep makes the descriptor the caller's. It closes the connection.
func (l Loan) Keep() {
	switch {
	case l.own:
		_ = l.conn.Close() // the runtime's poller lets go of it; the socket stays open
	case l.conn != nil:
		l.conn.(*Bare).take()
	}
}

// Return leaves the connection as it was.
func (l Loan) Return() {
	if l.own {
		_ = unix.Close(l.FD)
	}
}
