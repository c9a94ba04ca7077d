// Package relay copies bytes between two connections and closes them.
//
// A caller that has decided where a connection goes hands both ends to an
// [Engine] and is told, once, what became of them:
//
//	streams := new(relay.Registry)
//	engine := relay.New(streams, warn)
//	engine.Start(&relay.Stream{
//		Client:      client,
//		Upstream:    upstream,
//		ToUpstream:  relay.Direction{Pending: head},
//		IdleTimeout: time.Hour,
//		Done:        func(a relay.Account) { log(a.Cause, a.ToUpstream, a.ToClient) },
//	})
//	…
//	streams.Drain(ctx) // at shutdown
//
// How one side ends is how the other side sees it end:
//
//   - The end of sending (FIN, or TLS close_notify) passes through once all bytes
//     before it are delivered; the other direction goes on.
//   - A reset is passed on as a reset. So is every other error: a truncated stream
//     must not look complete.
//   - A timeout closes both sides, without a reset.
//
// A reset needs a TCP connection, which package socket finds beneath wrappers such as
// [crypto/tls.Conn]. A Unix socket has no resets: its peer sees the end of the
// stream. A TLS peer whose TCP connection ends between two records without a
// close_notify counts as finished, because crypto/tls does not tell the two apart.
package relay

import (
	"net"
	"slices"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
)

// Stream is what an engine takes over: two connections and how to treat them.
// From Start on the Stream and both connections belong to the engine, which
// closes them. A connection takes part in half-close if socket.CloseWrite supports it;
// if not, the end of the other side's sending ends the stream, after all bytes
// read so far are delivered.
type Stream struct {
	Client, Upstream     net.Conn
	ToUpstream, ToClient Direction

	// No byte delivered in either direction for that long ends the stream.
	// A destination that does not read is not delivered to. 0: none.
	IdleTimeout time.Duration

	// Once one direction is over: no byte delivered in the other for that long
	// ends the stream. IdleTimeout goes on holding; the earlier one is the cause.
	// 0: none.
	HalfCloseTimeout time.Duration

	// Group is where the stream is registered besides, so that it can be killed
	// together with others. May be nil.
	Group *Registry

	// Meter counts what is delivered. May be nil.
	Meter *account.Meter

	// Done is called exactly once, after both connections are closed. It must not
	// wait for other streams (nor call [Registry.Drain]). May be nil.
	Done func(Account)
}

// Direction is what is particular to one of a stream's directions.
type Direction struct {
	// Bytes already read for the destination, delivered before any other.
	// They belong to the engine until Done.
	Pending []byte

	// The direction is over after that many bytes, Pending included. The
	// destination's writing is not shut down then, and no byte beyond is read from
	// the source (bytes of Pending beyond are dropped). 0: no limit; negative: over
	// from the start.
	Limit int64
}

// Account is what became of a stream.
type Account struct {
	ToUpstream, ToClient int64         // bytes delivered: accepted by the destination's socket
	Duration             time.Duration // from Start until both connections were closed
	Cause                Cause         // what ended it; the first of several
	Err                  error         // the error behind ClientError, UpstreamError, BadRequest or BadResponse
	Engine               string        // "event" or "portable"; "http" for an Exchange without a tunnel
}

// Cause is why a stream ended.
type Cause uint8

const (
	Finished         Cause = iota // both directions are over, by the end of sending or by limit
	ClientReset                   // the client reset its connection, or closed it while bytes were sent to it
	UpstreamReset                 // the upstream did
	ClientError                   // any other error of the client's connection, see Account.Err
	UpstreamError                 // any other error of the upstream's connection, see Account.Err
	IdleTimeout                   // Stream.IdleTimeout
	HalfCloseTimeout              // Stream.HalfCloseTimeout
	Shutdown                      // reset by Registry.Drain
	Killed                        // reset by Registry.Kill
	BadRequest                    // the client's request is no HTTP message, see Account.Err
	BadResponse                   // the upstream's response is none, or one that was not asked for, see Account.Err
	ResponseTimeout               // Exchange.ResponseHeaderTimeout
)

var causes = [...]string{
	Finished:         "finished",
	ClientReset:      "client_reset",
	UpstreamReset:    "upstream_reset",
	ClientError:      "client_error",
	UpstreamError:    "upstream_error",
	IdleTimeout:      "idle_timeout",
	HalfCloseTimeout: "half_close_timeout",
	Shutdown:         "shutdown",
	Killed:           "killed",
	BadRequest:       "bad_request",
	BadResponse:      "bad_response",
	ResponseTimeout:  "response_timeout",
}

// CauseNames returns the names of all causes, in their order.
func CauseNames() []string { return slices.Clone(causes[:]) }

// String returns the cause in snake_case, for logs and metrics.
func (c Cause) String() string {
	if int(c) < len(causes) {
		return causes[c]
	}
	return "unknown"
}

// abrupt reports whether bytes may be missing when a stream ends so: then its
// connections are closed with a reset.
func (c Cause) abrupt() bool {
	switch c {
	case Finished, IdleTimeout, HalfCloseTimeout, BadRequest, ResponseTimeout:
		return false
	}
	return true
}

// Engine relays streams.
type Engine interface {
	// Start takes the stream over and returns at once. Deadlines set on the
	// connections are cleared. Connections that are closed already are an error
	// like any other: the stream ends and Done is called.
	//
	// It reports whether the connections are detached: closed, because the engine has
	// their sockets by descriptors of its own. Then nobody need wait for Done who has to
	// close what he has accepted.
	Start(*Stream) (detached bool)

	// Serve takes the session over, as Start does a stream.
	Serve(*Session) (detached bool)
}
