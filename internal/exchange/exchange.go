// Package exchange follows one HTTP/1 request and its response between a client and an
// upstream. It is a machine without I/O: bytes and events in, bytes to write and a verdict
// out.
//
// The caller reads from both connections and writes to both:
//
//	x.Begin(request)
//	up, ahead := x.Request(received)   // what goes to the upstream; what came after the request
//	head, body := x.Response(nil, received)
//	x.RequestEnd(); x.ResponseEnd()    // a connection has ended
//	switch x.State() { … }             // after each of these calls
//
// The bodies go through as they come; how they are framed is only followed. Where many
// bytes are to pass unchanged, nobody need look at them: [Exchange.RequestLeft] and
// [Exchange.ResponseLeft] say how many.
//
// The rules are those of docs/requests.md. Each is decided here, and nowhere else.
package exchange

import (
	"bytes"
	"errors"
	"io"
	"math"
	"sync"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// Request is what is known of a request when its head has been read and is about to be
// sent to the upstream.
type Request struct {
	Method string

	// Forwarded is its head as it goes up. To send Forwarded.Head is for the caller, before
	// what [Exchange.Request] returns.
	Forwarded httphead.Forwarded

	Body httphead.Body // follows the content from its first byte
	Old  bool          // the client speaks HTTP/1.0, which has no interim responses

	// Last says that the client's connection ends with the response, whatever the two
	// messages say.
	Last bool

	// Blank is what may come after the request, if no tunnel can.
	Blank Blank
}

// State is how far an exchange has come.
type State uint8

const (
	// Running: the exchange goes on.
	Running State = iota

	// Complete: the last byte of the response has been returned. See KeepsClient and
	// KeepsUpstream for what becomes of the connections.
	Complete

	// Tunnel: the upstream has switched protocols, or accepted a CONNECT request. What
	// Request has returned as ahead belongs to the tunnel, and so does what Response has
	// returned as body. From here on both directions are raw.
	Tunnel

	// Refused: the client gets a response with the status Status instead of one from the
	// upstream, whose connection is reset.
	Refused

	// Broken: the response has begun and cannot be completed, or there is nobody to send
	// one to. Both connections are to be reset.
	Broken
)

// Statuses that the client gets when the upstream sends none.
const (
	statusBadRequest     = 400
	statusBadGateway     = 502
	StatusGatewayTimeout = 504
)

// maxResponseHead bounds, in bytes, the head of a response, and all its interim responses
// together.
const maxResponseHead = 64 << 10

// Why an exchange fails, besides the errors of [httphead].
var (
	ErrHeadTooLarge = errors.New("response head is too large")
	ErrSwitched     = errors.New("upstream switched protocols without being asked to, or without proof")
)

// Side says whose doing a failure is.
type Side uint8

const (
	Nobody   Side = iota
	Client        // its request breaks the rules, or ends too early
	Upstream      // its response does
)

// Exchange is one request and its response. Only one goroutine may use it at a time. The
// zero value is ready for Begin.
type Exchange struct {
	state  State
	blame  Side
	err    error
	status int // of the answer in place of a response

	// The request.
	request     httphead.Body
	requestDone bool // its last byte has been returned
	requestOver bool // nothing more is wanted of it, since it is broken, or has ended too early
	isHead      bool
	isConnect   bool
	old         bool
	last        bool // the client's connection ends with the response
	blank       Blank
	upgrade     string // the protocol asked for
	key         []byte

	// The response.
	head       *httphead.Response // that of the head which is incomplete, else nil
	partial    []byte             // what has been received of that
	interim    int                // the bytes of all interim responses
	begun      bool               // the upstream has sent a byte
	answered   bool               // the final head has been returned
	responded  int                // its status
	untilClose bool               // the end of the connection ends the body
	response   httphead.Body
	persistent bool // the upstream keeps its connection
}

// Begin makes x ready for a request.
func (x *Exchange) Begin(r Request) {
	*x = Exchange{
		request:   r.Body,
		isHead:    r.Method == "HEAD",
		isConnect: r.Method == "CONNECT",
		old:       r.Old,
		last:      r.Last || r.Old || r.Forwarded.Close,
		upgrade:   r.Forwarded.Upgrade,
		key:       bytes.Clone(r.Forwarded.Key), // it lies in the request's head
	}
	if !x.WantsTunnel() {
		x.blank = r.Blank
	}
	_, x.requestDone, _ = x.request.Read(nil)
}

// State returns how far the exchange has come. Refused, Broken and Tunnel stay.
func (x *Exchange) State() State { return x.state }

// Status returns the status of the answer that the client gets. In state Refused.
func (x *Exchange) Status() int { return x.status }

// Responded returns the status of the final response, 0 as long as its head has not been
// returned.
func (x *Exchange) Responded() int { return x.responded }

// Err returns why the exchange is refused or broken, and whose doing that is; Nobody and
// nil if Abort was called.
func (x *Exchange) Err() (Side, error) { return x.blame, x.err }

// RequestDone reports whether the request has been returned to its end.
func (x *Exchange) RequestDone() bool { return x.requestDone }

// WantsRequest reports whether more of the request is to be given to Request: it is not
// done, and what comes of it is still to go to the upstream. That a response is complete
// does not change that: it may wait for a client that first sends all of its request.
func (x *Exchange) WantsRequest() bool {
	return !x.requestDone && !x.requestOver && (x.state == Running || x.state == Complete)
}

// Begun reports whether the upstream has sent anything yet.
func (x *Exchange) Begun() bool { return x.begun }

// Answered reports whether the head of the final response has been returned. Until then,
// and once the request is complete, the upstream is waited for.
func (x *Exchange) Answered() bool { return x.answered }

// WantsTunnel reports whether the connections may become a tunnel: then what follows the
// request belongs to that.
func (x *Exchange) WantsTunnel() bool { return x.upgrade != "" || x.isConnect }

// End lets the client's connection end with the response, if its head is not sent yet.
func (x *Exchange) End() { x.last = true }

// KeepsClient reports whether the client's connection is ready for another request. In
// state Complete.
func (x *Exchange) KeepsClient() bool { return x.requestDone && !x.last }

// KeepsUpstream reports whether the upstream's connection is ready for another request,
// as far as the two messages say. In state Complete.
func (x *Exchange) KeepsUpstream() bool { return x.requestDone && x.persistent }

// Request takes bytes that the client has sent after the head, and returns those to send
// to the upstream, in place, and those that are of the next one. Where WantsRequest is
// false, all are ahead, but for what Ahead leaves out.
func (x *Exchange) Request(data []byte) (up, ahead []byte) {
	if !x.WantsRequest() {
		return nil, x.Ahead(data)
	}
	kept, n, done, err := x.request.Forward(data)
	if err != nil {
		x.requestOver = true
		x.fail(Client, err, statusBadRequest)
		return nil, nil
	}
	if x.requestDone = done; !done {
		return data[:kept], nil
	}
	return data[:kept], x.Ahead(data[n:])
}

// Ahead takes bytes that the client has sent after the request, also once the response is
// complete, and returns those that are of the next one.
func (x *Exchange) Ahead(data []byte) []byte { return x.blank.Skip(data) }

// Blank returns what may still come before the next request.
func (x *Exchange) Blank() Blank { return x.blank }

// RequestLeft returns how many of the client's next bytes go to the upstream, whatever
// they are; 0 if that is not known. Those of them that have passed, and were not given to
// Request, are to be reported to RequestPassed.
func (x *Exchange) RequestLeft() int64 {
	if !x.WantsRequest() {
		return 0
	}
	return x.request.Left()
}

// RequestPassed accounts for n of the bytes that RequestLeft has counted.
func (x *Exchange) RequestPassed(n int64) {
	x.request.Skip(n)
	_, x.requestDone, _ = x.request.Read(nil)
}

// RequestEnd says that the client has finished sending. After a complete request it may
// still wait for its response.
func (x *Exchange) RequestEnd() {
	x.last = true
	if !x.requestDone {
		x.requestOver = true
		x.fail(Client, io.ErrUnexpectedEOF, statusBadRequest)
	}
}

// Response takes bytes that the upstream has sent, and returns those to send to the client:
// first head, which is appended to dst, then body, which lies in data or in memory of its
// own. Either may be empty.
func (x *Exchange) Response(dst, data []byte) (head, body []byte) {
	head = dst
	x.begun = x.begun || len(data) > 0
	for x.state == Running && !x.answered {
		if len(data) == 0 {
			return head, nil
		}
		head, data = x.readHead(head, data)
	}
	switch x.state {
	case Running:
		return head, x.readBody(data)
	case Complete:
		// Nobody has asked for these: the next response must not begin with them.
		x.persistent = x.persistent && len(data) == 0
	case Tunnel:
		return head, data
	}
	return head, nil
}

// readHead reads one head, of an interim response or the final one. It returns what
// follows it.
func (x *Exchange) readHead(dst, data []byte) (head, rest []byte) {
	r, known := x.head, x.head != nil
	if !known {
		r = responses.Get().(*httphead.Response)
		r.Reset()
	} else {
		data = append(x.partial, data...)
	}
	x.head, x.partial = nil, nil // whoever ends the exchange meanwhile leaves r to us
	switch r.Read(data[:min(len(data), maxResponseHead)]) {
	case httphead.HTTP:
		dst = x.pass(r, dst, data)
		rest = data[r.Len:]
	case httphead.Malformed:
		x.fail(Upstream, r.Err(), statusBadGateway)
	default:
		if len(data) < maxResponseHead {
			if !known {
				data = bytes.Clone(data)
			}
			x.head, x.partial = r, data
			return dst, nil
		}
		x.fail(Upstream, ErrHeadTooLarge, statusBadGateway)
	}
	responses.Put(r)
	return dst, rest
}

// responses are heads that are not in use.
var responses = sync.Pool{New: func() any { return new(httphead.Response) }}

// pass passes on the head that r has read from data, and notes what comes after it.
func (x *Exchange) pass(r *httphead.Response, dst, data []byte) []byte {
	switch {
	case r.Status == 101:
		asked := httphead.Forwarded{Upgrade: x.upgrade, Key: x.key}
		if !x.requestDone || !asked.Switches(r, data) {
			x.fail(Upstream, ErrSwitched, statusBadGateway)
			return dst
		}
		x.state, x.answered, x.responded = Tunnel, true, r.Status
		return r.ForwardTunnel(dst, data)
	case r.Status < 200:
		if x.interim += r.Len; x.interim > maxResponseHead {
			x.fail(Upstream, ErrHeadTooLarge, statusBadGateway)
			return dst
		}
		if x.old {
			return dst
		}
		return r.Forward(dst, data, false)
	case x.isConnect && r.Status < 300 && x.requestDone:
		x.state, x.answered, x.responded = Tunnel, true, r.Status
		return r.ForwardTunnel(dst, data)
	}
	x.answered, x.key, x.responded = true, nil, r.Status
	framing := r.Body(x.method())
	switch framing {
	case httphead.NoBody:
		x.state = Complete
	case httphead.UntilClose:
		x.untilClose = true
		x.response.Reset(math.MaxInt64, false)
	default:
		x.response.Reset(r.ContentLength, r.Chunked)
		x.response.Lenient() // servers pad chunk sizes, as "5B4 "
	}
	x.persistent = r.Persistent(data) && !x.untilClose
	// The connection ends, too, if the client is still sending its request, or may have
	// sent bytes for a tunnel that it does not get.
	x.last = x.last || x.untilClose || !x.requestDone || x.WantsTunnel()
	return r.Forward(dst, data, !x.last)
}

// method returns what a response depends on of the request's method.
func (x *Exchange) method() []byte {
	switch {
	case x.isHead:
		return []byte("HEAD")
	case x.isConnect:
		return []byte("CONNECT")
	}
	return nil
}

// readBody reads bytes of the response's body, and returns those to send.
func (x *Exchange) readBody(data []byte) []byte {
	kept, n, done, err := x.response.Forward(data)
	switch {
	case err != nil:
		x.fail(Upstream, err, 0)
	case done:
		x.state = Complete
		x.persistent = x.persistent && n == len(data)
	}
	return data[:kept]
}

// ResponseLeft returns how many of the upstream's next bytes go to the client, whatever
// they are; 0 if that is not known. Those of them that have passed, and were not given to
// Response, are to be reported to ResponsePassed.
func (x *Exchange) ResponseLeft() int64 {
	if !x.answered || x.state != Running {
		return 0
	}
	return x.response.Left()
}

// ResponsePassed accounts for n of the bytes that ResponseLeft has counted.
func (x *Exchange) ResponsePassed(n int64) {
	x.response.Skip(n)
	if _, done, _ := x.response.Read(nil); done {
		x.state = Complete
	}
}

// ResponseEnd says that the upstream has finished sending.
func (x *Exchange) ResponseEnd() {
	x.persistent = false
	switch {
	case x.state != Running:
	case x.untilClose:
		x.state = Complete
	default:
		x.fail(Upstream, io.ErrUnexpectedEOF, statusBadGateway)
	}
}

// Abort gives the exchange up: a connection has failed, or a time has run out. The client
// gets an answer with that status if no final response has begun; 0: it gets none.
func (x *Exchange) Abort(status int) { x.fail(Nobody, nil, status) }

// fail ends the exchange, unless it has ended.
func (x *Exchange) fail(blame Side, err error, status int) {
	if x.state != Running {
		return
	}
	x.blame, x.err = blame, err
	if x.head != nil {
		responses.Put(x.head)
		x.head, x.partial = nil, nil
	}
	if x.answered || status == 0 {
		x.state = Broken
		return
	}
	x.state, x.status = Refused, status
}
