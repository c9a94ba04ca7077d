package socket

import (
	"net"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
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
func Lend(conn net.Conn) (Loan, error) {
	if l := lendOnly(conn); l.conn != nil {
		return l, nil
	}
	return loanOf(conn, Dup)
}

// LendTaken is Lend for those to whom [descriptors.Take] has granted a descriptor. It settles
// that, also with an error.
func LendTaken(conn net.Conn) (Loan, error) {
	if l := lendOnly(conn); l.conn != nil {
		descriptors.Unused(1)
		return l, nil
	}
	return loanOf(conn, DupTaken)
}

// lendOnly lends the only descriptor of conn, if it can be taken away.
func lendOnly(conn net.Conn) Loan {
	if bare, ok := conn.(*Bare); ok {
		if _, fd := bare.opened(); fd >= 0 {
			return Loan{FD: fd, conn: conn}
		}
	}
	return Loan{}
}

// loanOf lends a second descriptor of conn.
func loanOf(conn net.Conn, dup func(net.Conn) (int, error)) (Loan, error) {
	fd, err := dup(conn)
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
