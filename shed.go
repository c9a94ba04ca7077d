package streamprox

import (
	"errors"
	"sync/atomic"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// shed resets a new connection if descriptors are scarce, and reports whether it did.
// caddy-l4's listeners, and its listener wrapper, end for good when an accept fails for
// want of one.
func shed(cx *layer4.Connection, first firstReader, logger *zap.Logger) bool {
	if !first.scarce() {
		return false
	}
	scarcity.warn(logger, "descriptors are scarce; resetting new connections", shedConnections.Add(1))
	reset(cx)
	return true
}

// errShed is why a connection is not inspected.
var errShed = errors.New("descriptors are scarce")

// shedConnections counts them, and scarcity tells of them, for all handlers together.
var (
	shedConnections atomic.Uint64
	scarcity        throttledLog
)
