package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
)

// closeWriter is a connection that can tell its peer that nothing follows, and still read.
type closeWriter interface{ CloseWrite() error }

// CloseWrite tells the peer of conn that nothing follows; conn can still be read. It
// returns errors.ErrUnsupported if only closing conn can tell. That the connection is gone
// is no error: whoever reads from it sees how it ended.
func CloseWrite(conn net.Conn) error {
	err := closeWrite(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// crypto/tls gives up on a close_notify after 5 s. A peer as slow as that
		// has yet to read bytes that count as delivered, and a reset would discard
		// them. A FIN comes after them.
		if inner, ok := Innermost(conn).(closeWriter); ok {
			err = inner.CloseWrite()
		}
	}
	if errors.Is(err, errNotConnected) {
		return nil
	}
	return err
}

func closeWrite(conn net.Conn) error {
	for conn != nil {
		if c, ok := conn.(closeWriter); ok {
			return c.CloseWrite()
		}
		conn = unwrapPlain(conn)
	}
	return errors.ErrUnsupported
}

// Reset closes conn so that its peer sees a reset, and drops what was not sent. A Unix
// socket has no resets: its peer sees an end.
func Reset(conn net.Conn) {
	ResetOnClose(conn)
	// The innermost connection first: to close a *tls.Conn is to send a close_notify,
	// which tells the peer that the stream is complete.
	if inner := Unwrap(conn); inner != nil {
		_ = Innermost(inner).Close()
	}
	_ = conn.Close()
}

// ResetOnClose makes the next Close of conn send a reset and drop what was not sent.
func ResetOnClose(conn net.Conn) {
	if c, ok := Innermost(conn).(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0)
	}
}

// IsReset reports whether err says that the peer has reset the connection, or has closed
// it while bytes were sent to it.
func IsReset(err error) bool {
	return errors.Is(err, io.ErrClosedPipe) || // net.Pipe's EPIPE
		slices.ContainsFunc(resets, func(reset error) bool { return errors.Is(err, reset) })
}

// ErrReset is the error of a connection that its peer has reset.
const ErrReset = errReset
