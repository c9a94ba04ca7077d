//go:build !unix

package relay

import (
	"net"
	"syscall"
)

// AwaitHangUp returns nil: there is no poll(2) to ask.
func AwaitHangUp(net.Conn) error { return nil }

func hangUp(net.Conn) error { return nil }

func rawSocket(net.Conn) syscall.RawConn { return nil }
