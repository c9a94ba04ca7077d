//go:build !linux

package socket

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// CanConnect says that Connect works: with Linux.
const CanConnect = false

// Connect is for Linux.
func Connect(netip.AddrPort) (net.Conn, *Connecting, error) { return nil, nil, errors.ErrUnsupported }

// Connecting is a connection that is not open yet.
type Connecting struct{}

// Wait is for Linux.
func (*Connecting) Wait(context.Context) (net.Conn, error) { return nil, errors.ErrUnsupported }

// Drop is for Linux.
func (*Connecting) Drop() {}

// Bare is for Linux.
type Bare struct{ net.Conn }
