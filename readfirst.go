package streamprox

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// readFirstFrom is firstReader.read for a connection that is not a socket. While it waits
// on TLS it holds a buffer of one byte, and then takes what was decoded together with that
// byte: the rest of the record is at hand.
func readFirstFrom(conn net.Conn, limit int) ([]byte, error) {
	if _, ok := conn.(*tls.Conn); !ok {
		buf := takeFirst(limit)
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	var first [1]byte
	n, err := conn.Read(first[:])
	if n == 0 {
		return nil, err
	}
	buf := takeFirst(limit)
	buf[0] = first[0]
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	// An error is of no interest: no byte was ready, or the next read meets it again.
	n, _ = conn.Read(buf[1:])
	return buf[:1+n], nil
}

// changesDeadline reports whether a first read leaves a read deadline of its own on conn.
func changesDeadline(conn net.Conn) bool {
	_, ok := conn.(*tls.Conn)
	return ok
}

// firstBuffers are buffers of first reads.
var firstBuffers = sync.Pool{New: func() any { return new([firstBuffer]byte) }}

// takeFirst returns a buffer of at most limit bytes for a first read. Most of them are
// never given back, but go with their connection.
func takeFirst(limit int) []byte {
	return firstBuffers.Get().(*[firstBuffer]byte)[:min(firstBuffer, limit)]
}

// giveFirst returns a buffer of takeFirst that nobody else has. It may be another one.
func giveFirst(buf []byte) {
	if cap(buf) == firstBuffer {
		firstBuffers.Put((*[firstBuffer]byte)(buf[:firstBuffer]))
	}
}
