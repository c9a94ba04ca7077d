//go:build !unix

package streamprox

import "net"

// firstReader reads the first bytes of a connection.
type firstReader struct{ conn net.Conn }

func newFirstReader(conn net.Conn) firstReader { return firstReader{conn} }

// read waits for the first bytes and returns them, at most limit, in a buffer with room
// to grow.
func (r firstReader) read(limit int) ([]byte, error) { return readFirstFrom(r.conn, limit) }

// scarce reports whether the connection is one too many.
func (firstReader) scarce() bool { return false }

// unread reports whether the socket beneath conn holds bytes that nobody has read. There
// is no telling.
func unread(net.Conn) bool { return false }
