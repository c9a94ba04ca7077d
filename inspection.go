package streamprox

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// inspection is the inspection of one request, or of a connection that begins with none:
// what it begins with, and where it goes.
type inspection struct {
	opening.Opening
	inspect *Inspect // whose routes decide
	conn    net.Conn // the connection
	source  incoming // conn, as the bytes arrive on it
	added   int      // how many bytes of the data are not from the client, but from rewrite_head

	started time.Time
	took    time.Duration // from started until the last packet

	later bool // a request came before on the connection

	route   int   // the index of the route that takes it, -1 if none does
	failure error // why there is no route: errClientGone or a *matchError

	// server, unless nil, has the connection and waits for this request to come back
	// to it. successor is the request that follows on the connection, if http_app has
	// brought it back because it belongs elsewhere. It is that of origin: what a handler
	// has made of a request has the same origin.
	server    *reinspectConn
	origin    *inspection
	successor *inspection

	release  func() // what hold began; nil: nothing
	answered bool   // here; of the origin

	outer *inspection // that of the same request by an inspect around this one, or nil

	parent *layer4.Connection // the connection that is inspected
	forked *layer4.Connection // the one for matchers and handlers, once somebody needs it
	lent   bool               // somebody has been given one
	http   httpRequest        // what http_request matchers make of the head
}

// inspectionVar is the connection variable that holds the *inspection.
const inspectionVar = "streamprox.inspection"

// inspectionOf returns what inspect found out about the bytes that cx reads next, or
// nil: the connection was not inspected, or a handler since then has consumed or
// decoded what inspect saw. One that decodes wraps the connection; one that consumes
// leaves other bytes behind.
func inspectionOf(cx *layer4.Connection) *inspection {
	in, ok := cx.GetVar(inspectionVar).(*inspection)
	if !ok || cx != in.forked {
		return nil
	}
	next := cx.MatchingBytes()
	if len(in.Data()) == 0 && len(next) > 0 || !bytes.HasPrefix(next, in.Data()) {
		return nil
	}
	return in
}

// request returns the request, nil if the outcome is not HTTP.
func (in *inspection) request() *httpRequest {
	if in.Outcome() != opening.HTTP {
		return nil
	}
	if in.http.head.Reader == nil {
		in.http.head.Reset(in.Data(), &in.Head, tlsTerminated(in.parent, in.conn))
	}
	return &in.http
}

// stream returns the connection that matchers and handlers get: its bytes are those
// inspected so far and what follows them, its variables and placeholders its own.
//
// It gets a copy of the bytes: caddy-l4 uses the array that it is given again, for what
// it reads next, and that may be the decoded form of what is in data.
func (in *inspection) stream() *layer4.Connection {
	if in.forked == nil {
		in.lent = true
		in.forked = fork(in.parent, in.conn, bytes.Clone(in.Data()))
		in.forked.SetVar(inspectionVar, in)
		setTLSState(in.forked)
		if in.Outcome() == opening.Other {
			in.keepFromServer()
		}
	}
	return in.forked
}

// routed reports whether a connection has come here by a route of inspect: then what
// follows the first request can be routed too.
func (in *inspection) routed() bool { return in != nil && in.route >= 0 }

// method returns the method of the request, or "" if the outcome is not HTTP.
func (in *inspection) method() string {
	if in == nil || in.Outcome() != opening.HTTP {
		return ""
	}
	return string(in.Head.Method.Of(in.Data()))
}

// errClientGone is returned when a connection breaks during inspection.
var errClientGone = errors.New("client went away")

// newInspection returns the inspection of conn, of which data has been received; parent
// is the connection as layer4 has it.
func newInspection(h *Inspect, parent *layer4.Connection, conn net.Conn, data []byte) *inspection {
	in := new(inspection)
	in.init(h, parent, conn, data, false)
	return in
}

// init makes in, which is zero, new.
func (in *inspection) init(h *Inspect, parent *layer4.Connection, conn net.Conn, data []byte, later bool) {
	// Not by a literal: that would be made on the stack first, and a goroutine as young
	// as that in which net/http's server reads while a handler runs has little.
	in.inspect, in.parent, in.later = h, parent, later
	in.conn, in.source = conn, conn
	in.origin = in
	in.started = time.Now()
	options := h.head
	options.Later = later
	in.Begin(h.limits, options, in.started)
	if len(data) > 0 {
		in.First(data, in.started)
	}
}

// outermost returns the inspection of the first request by the outermost inspect.
func (in *inspection) outermost() *inspection {
	first := in.origin
	for first.outer != nil {
		first = first.outer.origin
	}
	return first
}

// complete reads until the outcome is certain. An error is errClientGone.
func (in *inspection) complete(first *socket.Reader) error {
	if err := receive(&in.Opening, in.source, first); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	in.took = time.Since(in.started)
	return nil
}

// more reads once more after the outcome is certain, because a matcher needs more than the
// head. An error is errClientGone.
func (in *inspection) more() error {
	had := len(in.Data())
	if err := receivePacket(&in.Opening, in.source, nil); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	in.took = time.Since(in.started)
	if len(in.Data()) > had {
		in.forked = nil // its bytes are not all any more
	}
	return nil
}
