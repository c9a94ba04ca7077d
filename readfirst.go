package streamprox

import (
	"net"
	"time"
)

// readFirstByte is readFirst for a connection that is not a socket, such as one
// whose TLS was terminated. It waits with a buffer of one byte, then takes what the
// connection has decoded together with that byte.
func readFirstByte(conn net.Conn, limit int) ([]byte, error) {
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
