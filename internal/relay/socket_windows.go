package relay

import (
	"net"
	"syscall"
)

// resets are the errors of a connection that its peer has reset or closed.
var resets = []error{errReset, syscall.WSAECONNABORTED}

// errReset is what a reset is called.
const errReset = syscall.WSAECONNRESET

// errNotConnected is WSAENOTCONN, what shutdown says of a connection that is gone.
const errNotConnected = syscall.Errno(10057)

// lostPeer reports whether the end read from c was a reset. On Windows a reset
// socket goes on saying so.
func lostPeer(net.Conn) bool { return false }

// newSource returns a source that reads from c.
func newSource(c net.Conn) source { return &connSource{conn: c} }
