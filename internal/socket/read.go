package socket

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// Reader reads from a connection into pooled buffers. While it waits on a socket it holds
// none (on Unix): a peer that says nothing costs no buffer. One goroutine at a time reads.
type Reader struct {
	conn  net.Conn
	raw   syscall.RawConn // of a socket; else nil
	large bool            // the last read has filled a small buffer
}

// NewReader returns a reader of conn. It takes no bytes that a read does not return.
func NewReader(conn net.Conn) Reader { return Reader{conn: conn, raw: rawConn(conn)} }

// Read waits for bytes and returns at most max of them, max > 0, in a buffer for
// [GiveBack]: a large one after a read that has filled a small one.
func (r *Reader) Read(max int64) ([]byte, error) {
	size := SmallSize
	if r.large {
		size = LargeSize
	}
	p, err := r.read(size, max)
	r.large = len(p) >= SmallSize
	return p, err
}

// ReadFirst waits for the first bytes of a connection, or of a message on it, and returns
// at most limit of them, limit > 0, in a buffer of FirstSize. That may go with its
// connection, or to GiveBack.
//
// While it waits on TLS it holds a buffer of one byte. Then it takes what was decoded
// together with that byte: the rest of the record is at hand.
func (r *Reader) ReadFirst(limit int) ([]byte, error) {
	if !r.ChangesDeadline() {
		return r.read(FirstSize, int64(limit))
	}
	var first [1]byte
	n, err := r.conn.Read(first[:])
	if n == 0 {
		return nil, err
	}
	if err := r.conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	p := TakeBuffer(FirstSize, int64(limit))
	p[0] = first[0]
	// An error is of no interest: no byte was ready, or the next read meets it again.
	n, _ = r.conn.Read(p[1:])
	return p[:1+n], nil
}

// ChangesDeadline reports whether ReadFirst leaves a read deadline of its own.
func (r *Reader) ChangesDeadline() bool {
	_, ok := r.conn.(*tls.Conn)
	return ok
}

// Control calls f with the descriptor of the socket beneath the connection, if that is
// known (on Unix).
func (r *Reader) Control(f func(fd uintptr)) {
	raw := r.raw
	if raw == nil {
		raw = rawConn(Of(r.conn))
	}
	if raw != nil {
		_ = raw.Control(f)
	}
}

// readConn reads from a connection of any kind, into a buffer that it holds while it
// waits.
func (r *Reader) readConn(size int, max int64) ([]byte, error) {
	p := TakeBuffer(size, max)
	n, err := r.conn.Read(p)
	if n == 0 {
		GiveBack(p)
		return nil, err
	}
	return p[:n], err
}

// holdsNothing reports whether a wrapper has no bytes at hand.
func holdsNothing(conn net.Conn) bool {
	if conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	n, err := conn.Read(make([]byte, 1))
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && conn.SetReadDeadline(time.Time{}) == nil
}
