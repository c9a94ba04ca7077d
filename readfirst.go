package streamprox

import (
	"crypto/tls"
	"net"
	"time"
)

// readFirstFrom is readFirst for a connection that is not a socket. While it waits on
// TLS it holds a buffer of one byte, and then takes what was decoded together with that
// byte: the rest of the record is at hand.
func readFirstFrom(conn net.Conn, limit int) ([]byte, error) {
	if _, ok := conn.(*tls.Conn); !ok {
		buf := make([]byte, min(firstBuffer, limit))
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	var first [1]byte
	n, err := conn.Read(first[:])
	if n == 0 {
		return nil, err
	}
	buf := make([]byte, min(firstBuffer, limit))
	buf[0] = first[0]
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	// An error is of no interest: no byte was ready, or the next read meets it again.
	n, _ = conn.Read(buf[1:])
	return buf[:1+n], nil
}
