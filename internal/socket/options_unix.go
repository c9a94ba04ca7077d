//go:build unix && !linux && !darwin

package socket

import "golang.org/x/sys/unix"

// goOptions are those of what net sets that all systems have.
var goOptions = [...]socketOption{
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
}
