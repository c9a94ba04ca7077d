package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
)

// closeWriter is a connection that can tell its peer that nothing follows and
// still read.
type closeWriter interface{ CloseWrite() error }

// innermost follows NetConn() to the connection under all wrappers.
func innermost(c net.Conn) (inner net.Conn, wrapped bool) {
	for {
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c, wrapped
		}
		next := w.NetConn()
		if next == nil {
			return c, wrapped
		}
		c, wrapped = next, true
	}
}

// closeWithReset closes c so that its peer sees a reset.
//
// The innermost connection is closed first: to close a *tls.Conn is to send a
// close_notify, which tells the peer that the stream is complete.
func closeWithReset(c net.Conn) {
	inner, wrapped := innermost(c)
	if l, ok := inner.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	inner.Close()
	if wrapped {
		c.Close()
	}
}

// shutWrite tells c's peer that nothing follows. It returns errors.ErrUnsupported
// if there is no way to but to close c.
func shutWrite(c net.Conn) error {
	w, ok := c.(closeWriter)
	if !ok {
		return errors.ErrUnsupported
	}
	err := w.CloseWrite()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// crypto/tls gives up on a close_notify after 5 s. A peer as slow as that
		// has yet to read bytes we count as delivered, and a reset would discard
		// them. A FIN comes after them.
		inner, _ := innermost(c)
		if w, ok := inner.(closeWriter); ok {
			err = w.CloseWrite()
		}
	}
	if errors.Is(err, errNotConnected) {
		return nil // the connection is gone; whoever reads from it sees how
	}
	return err
}

// isReset reports whether err says that the peer reset the connection, or closed
// it while we were sending.
func isReset(err error) bool {
	return errors.Is(err, io.ErrClosedPipe) || // net.Pipe's EPIPE
		slices.ContainsFunc(resets, func(r error) bool { return errors.Is(err, r) })
}
