package streamprox

import (
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

// errShed is why a connection is not inspected.
var errShed = descriptors.ErrScarce

// scarcity tells of what was refused for want of descriptors, for all handlers together.
var scarcity limitedLog
