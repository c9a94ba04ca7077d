package streamprox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Outcome is how an inspection ends.
type Outcome uint8

// The outcomes. A route sees those after OutcomeTLS only if one of its matcher sets
// names them; OutcomeOther also if a matcher of the set has itself read the bytes.
const (
	OutcomeHTTP      Outcome = iota // a complete, valid HTTP/1.0 or 1.1 head
	OutcomeTLS                      // begins as a TLS ClientHello record
	OutcomeOther                    // bytes that can become none of these
	OutcomeHTTP2                    // the HTTP/2 preface
	OutcomeMalformed                // meant as HTTP, but invalid or ambiguous
	OutcomeTooLarge                 // max_bytes or max_packets reached with an incomplete head, or too many fields
	OutcomeTimeout                  // some bytes, no complete head in time
	OutcomeSilent                   // no byte in time
	OutcomeEOF                      // the client finished sending before the head was complete
	outcomeCount
)

var outcomeNames = [outcomeCount]string{
	"http", "tls", "other", "http2", "malformed", "too_large", "timeout", "silent", "eof",
}

// String returns the name of the outcome in configurations and logs.
func (o Outcome) String() string { return outcomeNames[o] }

// parseOutcome returns the outcome of that name.
func parseOutcome(name string) (Outcome, error) {
	for o, known := range outcomeNames {
		if name == known {
			return Outcome(o), nil
		}
	}
	return 0, fmt.Errorf("unknown outcome %q: use one of %s", name, strings.Join(outcomeNames[:], ", "))
}

// open reports whether routes see the outcome without naming it. Bytes that are
// neither HTTP nor TLS to this package may well be HTTP to a server: servers take
// methods of a hundred letters, and versions that are none.
func (o Outcome) open() bool { return o <= OutcomeTLS }

// passes reports whether a stream with the outcome that no route takes goes to the
// next handler.
func (o Outcome) passes() bool { return o <= OutcomeOther }

// final reports whether an inspection that ended so reads no further, whatever a
// matcher asks for.
func (o Outcome) final() bool { return o > OutcomeHTTP2 }

// bounds are the limits of an inspection.
type bounds struct {
	bytes         int
	packets       int // 0 = no limit
	timeout       time.Duration
	silentTimeout time.Duration
}

// inspection is what is known of the beginning of a connection: its bytes, what
// they are, and the limits under which more may be read.
type inspection struct {
	inspect *Inspect // whose routes decide
	bounds  bounds
	conn    net.Conn
	first   socket.Reader
	data    []byte // every byte received; nobody else writes to it
	packets int
	head    httphead.Reader
	fields  [usualFields]httphead.Field // what head.Fields begins in
	outcome Outcome
	decided bool // outcome is certain

	started   time.Time
	deadline  time.Time     // for the whole head; zero before the first byte
	took      time.Duration // from started until the last read ended
	exhausted bool          // nothing more can be read within the bounds
	added     int           // how many bytes of data are not from the client, but from rewrite_head

	// later is that a request came before on the connection; limit, unless nil, sets
	// its read deadline for this inspection.
	later bool
	limit func(time.Time) error

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

// usualFields is how many fields a head has room for without a further allocation:
// those of browsers have up to twenty.
const usualFields = 24

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
	if len(in.data) == 0 && len(next) > 0 || !bytes.HasPrefix(next, in.data) {
		return nil
	}
	return in
}

// request returns the request, nil if the outcome is not HTTP.
func (in *inspection) request() *httpRequest {
	if in.outcome != OutcomeHTTP {
		return nil
	}
	if in.http.head.Reader == nil {
		in.http.head.Reset(in.data, &in.head, tlsTerminated(in.parent, in.conn))
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
		in.forked = fork(in.parent, in.conn, bytes.Clone(in.data))
		in.forked.SetVar(inspectionVar, in)
		setTLSState(in.forked)
		if in.outcome == OutcomeOther {
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
	if in == nil || in.outcome != OutcomeHTTP {
		return ""
	}
	return string(in.head.Method.Of(in.data))
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
	in.inspect, in.bounds, in.parent = h, h.bounds, parent
	in.conn, in.data, in.later = conn, data, later
	in.origin = in
	in.head.Fields = in.fields[:0]
	options := h.head
	options.Later = later
	in.head.Reset(options)
	in.started = time.Now()
	if len(data) > 0 {
		in.packets = 1
		in.deadline = in.started.Add(in.bounds.timeout)
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

// begin reads until the outcome is certain. An error is errClientGone.
func (in *inspection) begin() error {
	for !in.certain() {
		err := in.read()
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			in.end(OutcomeEOF)
		case errors.Is(err, os.ErrDeadlineExceeded) && len(in.data) == 0:
			in.end(OutcomeSilent)
		case errors.Is(err, os.ErrDeadlineExceeded):
			in.end(OutcomeTimeout)
		default:
			return fmt.Errorf("%w: %w", errClientGone, err)
		}
	}
	return nil
}

// certain reports whether the outcome is.
func (in *inspection) certain() bool {
	if !in.decided {
		switch {
		case len(in.data) > 0 && in.recognize():
			in.end(in.outcome)
		case in.full():
			in.end(OutcomeTooLarge)
		}
	}
	return in.decided
}

// end makes o the outcome.
func (in *inspection) end(o Outcome) {
	in.outcome, in.decided = o, true
	in.stop()
}

// recognize sets the outcome if the bytes received allow it.
func (in *inspection) recognize() bool {
	switch in.head.Read(in.data[:min(len(in.data), in.bounds.bytes)]) {
	case httphead.HTTP:
		in.outcome = OutcomeHTTP
	case httphead.TLS:
		in.outcome = OutcomeTLS
	case httphead.HTTP2:
		in.outcome = OutcomeHTTP2
	case httphead.Other:
		in.outcome = OutcomeOther
	case httphead.Malformed:
		in.outcome = OutcomeMalformed
	case httphead.TooLarge:
		in.outcome = OutcomeTooLarge
	default:
		return false
	}
	return true
}

// more reads once more after the outcome is certain, because a matcher needs more
// than the head. It reports false when the bounds are reached or the client has
// finished sending. An error is errClientGone.
func (in *inspection) more() (bool, error) {
	if in.exhausted || in.outcome.final() || in.full() {
		in.exhausted = true
		return false, nil
	}
	err := in.read()
	in.stop()
	if err == nil {
		in.forked = nil // its bytes are not all any more
		return true, nil
	}
	in.exhausted = true
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	return false, fmt.Errorf("%w: %w", errClientGone, err)
}

// full reports whether max_bytes or max_packets is reached.
func (in *inspection) full() bool {
	return len(in.data) >= in.bounds.bytes || in.bounds.packets > 0 && in.packets >= in.bounds.packets
}

// read receives one packet: what one read of the connection returns.
func (in *inspection) read() error {
	if len(in.data) == 0 {
		if err := in.setReadDeadline(in.started.Add(in.bounds.silentTimeout)); err != nil {
			return err
		}
		first, err := in.first.ReadFirst(in.bounds.bytes)
		if len(first) == 0 {
			return noProgress(err)
		}
		in.data = first
		in.packets++
		in.deadline = time.Now().Add(in.bounds.timeout)
		return nil
	}
	if err := in.setReadDeadline(in.deadline); err != nil {
		return err
	}
	if len(in.data) == cap(in.data) {
		in.data = grow(in.data, in.bounds.bytes)
	}
	free := in.data[len(in.data):min(cap(in.data), in.bounds.bytes)]
	n, err := in.conn.Read(free)
	if n == 0 {
		return noProgress(err)
	}
	in.data = in.data[:len(in.data)+n]
	in.packets++
	return nil
}

// setReadDeadline sets the deadline of the next read.
func (in *inspection) setReadDeadline(t time.Time) error {
	if in.limit != nil {
		return in.limit(t)
	}
	return in.conn.SetReadDeadline(t)
}

// noProgress turns a read without bytes and without error, which io.Reader permits
// but discourages, into one that ends the inspection.
func noProgress(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// grow returns data in a buffer of twice its capacity, or of limit bytes.
func grow(data []byte, limit int) []byte {
	grown := make([]byte, len(data), max(min(2*cap(data), limit), len(data)))
	copy(grown, data)
	return grown
}

// partialHTTP reports whether the bytes received may be the beginning of an HTTP
// request, so that its sender understands an HTTP answer.
func (in *inspection) partialHTTP() bool {
	return in.outcome == OutcomeMalformed || len(in.data) > 0 && in.head.Partial()
}
