//go:build !linux

package accepting

import (
	"errors"
	"net"
)

// Supported is true where listening sockets can be found.
const Supported = false

// Socket is a listening socket of the process.
type Socket struct{}

// Find returns an error.
func Find() ([]*Socket, error) { return nil, errors.ErrUnsupported }

// Addr returns nil.
func (*Socket) Addr() net.Addr { return nil }

// Closed reports true.
func (*Socket) Closed() bool { return true }

// Stopped reports false.
func (*Socket) Stopped() bool { return false }

// Listen returns an error.
func (*Socket) Listen() (net.Listener, error) { return nil, errors.ErrUnsupported }
