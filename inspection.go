package streamprox

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// inspection is what an inspect knows of a request, or of a connection that begins with
// something else: what its bytes are, and which route takes it.
type inspection struct {
	opening.Opening
	added int // how many bytes of the data are not from the client, but from rewrite_head

	inspect *Inspect // whose routes decide
	origin  *origin  // of the stream
	conn    net.Conn // what follows the data; nil while they are only looked at
	source  incoming // conn, as the rest of the head is read from it
	started time.Time
	took    time.Duration // from started to the last packet

	decided bool  // route and failure are final
	route   int   // the index of the route that takes it, -1 if none does
	failure error // why there is no route: errClientGone or a *matchError

	forked *layer4.Connection // the connection for matchers and handlers, once somebody needs it
	lent   bool               // somebody has been given one
	http   httpRequest        // what http_request matchers make of the head

	turn *turn
	own  turn // turn points here if this is the first inspection of the request
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
		in.http.head.Reset(in.Data(), &in.Head, in.tlsTerminated())
	}
	return &in.http
}

// client returns the connection that says where the client is: what follows the data, or
// while those are only looked at, what stands for the connection of the first request.
func (in *inspection) client() net.Conn {
	if in.conn != nil {
		return in.conn
	}
	return in.origin.client()
}

// tlsTerminated reports whether TLS was terminated on the way.
func (in *inspection) tlsTerminated() bool {
	conn := in.conn
	if conn == nil {
		conn = in.origin.base()
	}
	return tlsTerminated(in.origin.variables(), conn)
}

// stream returns the connection that matchers and handlers get: its bytes are those
// inspected so far and what follows them, its variables and placeholders its own.
//
// It gets a copy of the bytes: caddy-l4 uses the array that it is given again, for what
// it reads next, and that may be the decoded form of what is in data.
func (in *inspection) stream() *layer4.Connection {
	if in.forked == nil {
		in.lent = true
		in.forked = in.origin.fork(in.conn, bytes.Clone(in.Data()))
		in.forked.SetVar(inspectionVar, in)
		setTLSState(in.forked)
		if in.Outcome() == opening.Other {
			in.keepFromServer()
		}
	}
	return in.forked
}

// keepFromServer answers the stream with 400 in place of the server around a listener
// wrapper, if it gets there: its bytes are no request to inspect, and may be one to that
// server, which no route has chosen.
func (in *inspection) keepFromServer() {
	stream := in.forked
	stream.Context = handingOver{stream.Context, func() {
		if inspectionOf(stream) == in { // else a handler has read it
			_, conn := drain(stream)
			stream.Conn = refusedConn{conn}
		}
	}}
}

// errNeedsStream is returned if a matcher needs a stream and there is none.
var errNeedsStream = errors.New("needs the stream")

// streamToMatch returns the stream for a matcher. The error is errNeedsStream if there is
// none, since the bytes are only looked at.
func (in *inspection) streamToMatch() (*layer4.Connection, error) {
	if in.conn == nil {
		return nil, errNeedsStream
	}
	return in.stream(), nil
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

// isConnect reports whether the request is a CONNECT request.
func (in *inspection) isConnect() bool {
	return in.method() == http.MethodConnect
}

// errClientGone is returned when a connection breaks during inspection.
var errClientGone = errors.New("client went away")

// init makes in ready to inspect what begins with data on conn; in must be zero. later says
// that a request came before on the connection.
func (in *inspection) init(c continuation, conn net.Conn, data []byte, later bool) {
	// No literals: they would be made on the stack first, which is small in the young
	// goroutine in which net/http's server reads while a handler runs.
	in.inspect = c.inspect
	in.conn, in.source = conn, conn
	in.turn = &in.own
	in.own.first = in
	in.origin = &in.own.origin
	in.own.continuation, in.own.conn, in.own.later = c, conn, later
	in.started = time.Now()
	options := c.inspect.head
	options.Later = later
	in.Begin(c.inspect.limits, options, in.started)
	if len(data) > 0 {
		in.First(data, in.started)
	}
}

// complete reads until the outcome is certain. An error is one of the connection.
func (in *inspection) complete(first *socket.Reader) error {
	err := receive(&in.Opening, in.source, first)
	in.took = time.Since(in.started)
	return err
}

// more reads once more after the outcome is certain, because a matcher needs more than the
// head. An error is errClientGone.
func (in *inspection) more() error {
	had := len(in.Data())
	r := countReading(&in.Opening)
	defer r.done()
	if err := receivePacket(&in.Opening, in.source, nil); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	in.took = time.Since(in.started)
	if len(in.Data()) > had {
		in.forked = nil // its bytes are not all any more
	}
	return nil
}

// decide chooses the route, unless that is done.
func (in *inspection) decide() {
	if !in.decided {
		in.route, in.failure = in.inspect.choose(in, nil)
		in.decided = true
		in.count()
		in.inspect.logDecision(in)
	}
}
