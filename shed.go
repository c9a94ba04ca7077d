package streamprox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// shed resets a new connection if descriptors are scarce, and reports whether it did.
// caddy-l4's listeners, and its listener wrapper, end for good when an accept fails for
// want of one.
func shed(cx *layer4.Connection, first socket.Reader, logger *zap.Logger) bool {
	first.Control(descriptors.Saw)
	if !descriptors.Scarce() {
		return false
	}
	scarcity.refusal(logger, "descriptors are scarce; resetting new connections")
	socket.ResetOnClose(cx)
	return true
}

// dialSparing dials as d does, without Control, unless that took one of the descriptors
// that are kept for accepting. Then, and where none is left at all, the error is
// descriptors.ErrScarce, which says nothing of the address.
func dialSparing(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
	if !descriptors.Take(1) {
		return nil, descriptors.ErrScarce
	}
	// Told as soon as there is a socket: until then it counts twice. A name with several
	// addresses may get several sockets, one after the other or side by side.
	var opened atomic.Bool
	d.Control = func(_, _ string, raw syscall.RawConn) error {
		if opened.CompareAndSwap(false, true) {
			return raw.Control(descriptors.Opened)
		}
		return raw.Control(descriptors.Saw)
	}
	conn, err := d.DialContext(ctx, network, address)
	if opened.CompareAndSwap(false, true) {
		descriptors.Unused(1)
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return nil, fmt.Errorf("%w: %w", descriptors.ErrScarce, err)
	}
	return conn, err
}

// errShed is why a connection is not inspected.
var errShed = descriptors.ErrScarce

// scarcity tells of what was refused for want of descriptors, for all handlers together.
var scarcity limitedLog
