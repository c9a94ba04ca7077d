//go:build !unix

package streamprox

import "net"

// readFirst waits for the first bytes of conn and returns them, at most limit, in
// a buffer with room to grow.
func readFirst(conn net.Conn, limit int) ([]byte, error) {
	return readFirstFrom(conn, limit)
}
