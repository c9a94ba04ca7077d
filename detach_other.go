//go:build !unix

package streamprox

import "net"

// detach reports false: here a connection cannot outlive the handler that has it.
func detach(conn net.Conn) (net.Conn, bool) { return conn, false }
