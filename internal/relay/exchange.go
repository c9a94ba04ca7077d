package relay

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Exchange is one HTTP/1 request and its response. Neither connection carries another
// one: what the client sends after its request, and the upstream after its response, is
// dropped. An upgrade or a CONNECT request that the upstream accepts makes a tunnel of
// the two, which an [Engine] takes over.
//
// The bodies go through as they come; how they are framed is only followed. What a lenient
// [httphead.Body] accepts, and that of a response is lenient, goes on strictly framed. A request
// that breaks its framing resets the upstream, since it must not look complete there.
// A response that breaks it resets the client.
type Exchange struct {
	Client, Upstream net.Conn

	Request httphead.Forwarded
	Method  string
	Body    httphead.Body // follows the request's body from its first byte
	Pending []byte        // what the client has sent after its head
	Old     bool          // the client speaks HTTP/1.0, which has no interim responses

	// Refuse sends the client a response with that status, when the upstream has sent
	// none to pass on. It may take its time; the connection is closed after it.
	Refuse func(client net.Conn, status int)

	// How long the upstream may take to begin its final response once the request is
	// sent. 0: no limit.
	ResponseHeaderTimeout time.Duration

	IdleTimeout time.Duration // as that of a Stream

	// Once the client has finished sending, after a complete request: no byte of the
	// response delivered for that long ends the exchange. 0: none. Of a tunnel, as that
	// of a Stream.
	HalfCloseTimeout time.Duration

	Streams *Registry // where the exchange is registered; nil: nowhere
	Group   *Registry // as that of a Stream
	Tunnels Engine

	// Registered is called when the exchange is registered. May be nil.
	Registered func()

	// Answered is called when the response is delivered: the upstream has nothing to do
	// any more, though its connection may not be closed yet. May be nil. It is not called
	// for a tunnel, nor where the upstream's response is not delivered to its end.
	Answered func()

	// Done is as that of a Stream.
	Done func(Account)
}

const (
	// discardLimit bounds, in bytes, what is read from a client and dropped: after its
	// request, and once more after the response. Closing a socket with unread bytes
	// sends a reset, which may destroy the response (RFC 9112 section 9.6).
	discardLimit = 256 << 10

	// lingerTimeout bounds the latter in time.
	lingerTimeout = 2 * time.Second

	// holdLimit bounds, in bytes, what a client may send ahead of the answer to its
	// request for a tunnel. It is not read further.
	holdLimit = 64 << 10

	// maxResponseHead bounds, in bytes, the head of a response, and all its interim
	// responses together.
	maxResponseHead = 64 << 10
)

// upstreamPatience is how long an upstream may take to close its connection after a
// complete exchange, as it was asked to. Who closes first keeps the address of the
// connection for a minute (TIME-WAIT), and this machine has some 28,000 of them for
// each upstream. A variable for tests.
var upstreamPatience = 100 * time.Millisecond

// Statuses that the client gets when the upstream sends none.
const (
	statusBadRequest     = 400
	statusBadGateway     = 502
	statusGatewayTimeout = 504
)

// Why an exchange fails.
var (
	errHeadTooLarge = errors.New("response head is too large")
	errSwitched     = errors.New("upstream switched protocols without being asked to, or without proof")
)

// Run carries the exchange out. It returns when it is over, or when an engine has its
// tunnel, and reports whether its connections are closed, as [Engine].Start does.
// Deadlines set on the connections are cleared.
func (x *Exchange) Run() (detached bool) {
	e := &exchange{
		Exchange: x,
		decision: make(chan struct{}),
		over:     make(chan struct{}),
		sent:     make(chan struct{}),
		gaveUp:   make(chan struct{}),
		handed:   make(chan struct{}),
	}
	client := side{x.Client, ClientReset, ClientError}
	upstream := side{x.Upstream, UpstreamReset, UpstreamError}
	e.up = flow{stream: &e.stream, src: client, dst: upstream}
	e.down = flow{stream: &e.stream, src: upstream, dst: client}
	e.started = time.Now()
	e.idle, e.halfClose = x.IdleTimeout, x.HalfCloseTimeout
	// The flow down has none: what an upstream has sent before its reset may be the whole
	// response, for which a slow client waits.
	e.up.guard = newGuard(x.Client, func(err error) { e.abortFor(client, err) })
	e.expire = func(cause Cause) { e.abort(cause, nil, statusGatewayTimeout) }
	e.done, e.registry = x.Done, x.Streams

	_ = client.SetDeadline(time.Time{})
	_ = upstream.SetDeadline(time.Time{})
	e.registry.add(e)
	e.Group.add(e)
	if x.Registered != nil {
		x.Registered()
	}
	e.checkClocks()
	go e.send()
	e.receive()
	<-e.sent
	detached = true
	if e.tunnel && e.handOver() {
		detached = e.startTunnel()
	} else {
		if e.isAborted() {
			<-e.gaveUp
		}
		e.conclude("http")
	}
	e.registry.remove(e)
	e.Group.remove(e)
	return detached
}

// exchange is the record of an exchange in flight. Its flow up, in a goroutine of its
// own, is all that reads from the client, until the end; its flow down is all that
// reads from the upstream.
type exchange struct {
	stream
	*Exchange

	complete  atomic.Bool // the last byte of the request is sent, or about to be
	tunnelled atomic.Bool // the connections are handed over to a tunnel

	decision chan struct{} // closed when the final response is known: a tunnel or not
	over     chan struct{} // closed when the response is delivered
	sent     chan struct{} // closed when the flow up has ended
	gaveUp   chan struct{} // closed when abort has ended the stream
	handed   chan struct{} // closed when an engine has the tunnel

	watching sync.Mutex // held while the flow up waits for a hang-up

	state    sync.Mutex // guards the following, and the deadlines
	answered bool       // the client gets a final response, the upstream's or ours
	aborted  bool       // both connections are abort's
	decided  bool       // decision is closed
	ended    bool       // the response is delivered, or the tunnel handed over: nothing to give up

	tunnel bool   // what the decision is; valid once it is closed
	held   []byte // what the client has sent for the tunnel; valid once sent is closed
	rest   []byte // what the upstream has
}

// wantsTunnel reports whether the client asks for one.
func (e *exchange) wantsTunnel() bool { return e.Request.Upgrade != "" || e.Method == "CONNECT" }

// send is the flow up: the request, and then what the client sends after it. It ends
// some time after the response, with a connection, or with the beginning of a tunnel.
func (e *exchange) send() {
	defer close(e.sent)
	src := socket.NewReader(e.Client)
	e.sendRequest(&src)
	// A complete request holds, also if its last bytes could not be sent: the upstream
	// may have answered before, and then there is a tunnel, of which no byte is lost.
	if e.wantsTunnel() && e.complete.Load() && e.hold(&src) {
		return
	}
	e.discard(&src)
}

// sendRequest sends head and body, as far as it can and need.
func (e *exchange) sendRequest(src *socket.Reader) {
	first := append(e.Request.Head, e.Pending...) // copies
	kept, n, done, err := e.Body.Forward(first[len(e.Request.Head):])
	if done && e.wantsTunnel() {
		e.held = append(e.held, e.Pending[n:]...)
	}
	if err != nil {
		// Nothing is sent of a request that is known to be broken.
		e.abort(BadRequest, err, statusBadRequest)
		return
	}
	e.complete.Store(done)
	if e.up.write(first[:len(e.Request.Head)+kept]) != nil {
		return // whoever reads from the upstream sees why
	}
	e.Pending, first = nil, nil
	for !done {
		limit := e.Body.Left()
		if limit == 0 {
			limit = math.MaxInt64
		}
		p, readErr := src.Read(limit)
		kept, n, done, err = e.Body.Forward(p)
		if done && e.wantsTunnel() {
			e.held = append(e.held, p[n:]...)
		}
		if err == nil {
			e.complete.Store(done)
			if writeErr := e.up.write(p[:kept]); writeErr != nil {
				socket.GiveBack(p)
				return
			}
		}
		socket.GiveBack(p)
		switch {
		case err != nil:
			e.abort(BadRequest, err, statusBadRequest)
			return
		case done || readErr == nil:
		case errors.Is(readErr, os.ErrDeadlineExceeded): // the response is over
			return
		case readErr == io.EOF && !socket.LostPeer(e.Client):
			e.abort(BadRequest, io.ErrUnexpectedEOF, statusBadRequest)
			return
		default:
			e.abortFor(e.up.src, readErr)
			return
		}
	}
	e.awaitResponse()
}

// awaitResponse starts the clock of the response.
func (e *exchange) awaitResponse() {
	e.state.Lock()
	defer e.state.Unlock()
	if e.ResponseHeaderTimeout > 0 && !e.decided {
		_ = e.Upstream.SetReadDeadline(time.Now().Add(e.ResponseHeaderTimeout))
	}
}

// hold keeps what the client sends until the decision, and reports whether it is a
// tunnel.
func (e *exchange) hold(src *socket.Reader) (tunnel bool) {
	var err error
	for err == nil && len(e.held) < holdLimit {
		var p []byte
		p, err = src.Read(int64(holdLimit - len(e.held)))
		e.held = append(e.held, p...)
		socket.GiveBack(p)
	}
	e.awaitHangUp(err)
	select {
	case <-e.decision:
	case <-e.over:
	}
	if e.tunnel {
		return true
	}
	e.held = nil
	e.state.Lock()
	defer e.state.Unlock()
	if !e.ended && !e.aborted {
		_ = e.Client.SetReadDeadline(time.Time{}) // that of the decision
	}
	return false
}

// discard reads and drops what the client sends, which also tells when it goes away,
// until some time after the response.
func (e *exchange) discard(src *socket.Reader) {
	e.awaitHangUp(drop(src, discardLimit))
	<-e.over
	e.state.Lock()
	linger := e.ended && !e.aborted
	if linger {
		_ = e.Client.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
	e.state.Unlock()
	if linger {
		_ = drop(src, e.lingerLimit())
	}
}

// drop reads and drops at most so many bytes. It returns why it read less.
func drop(src *socket.Reader, left int64) error {
	for left > 0 {
		p, err := src.Read(left)
		left -= int64(len(p))
		socket.GiveBack(p)
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitHangUp is for when reading from the client has come to a bound (nil) or an error.
// If that is no error of the connection, it waits until the client goes away, and then
// gives the exchange up; or until a deadline says that something else is to be done.
func (e *exchange) awaitHangUp(err error) {
	if err == io.EOF && !socket.LostPeer(e.Client) {
		e.startHalfClose()
		err = nil
	}
	if err == nil {
		e.watching.Lock()
		if !e.isAborted() {
			err = socket.AwaitHangUp(e.Client)
		}
		e.watching.Unlock()
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		e.abortFor(e.up.src, err)
	}
}

// lingerLimit bounds, in bytes, what is dropped after the response. A client in the middle
// of its request fills all buffers on the way before it looks for a response, so then it
// is only bounded in time.
func (e *exchange) lingerLimit() int64 {
	if e.complete.Load() {
		return discardLimit
	}
	return math.MaxInt64
}

// receive is the flow down: interim responses, and the final one. It ends with the
// response, a connection, or the beginning of a tunnel.
func (e *exchange) receive() {
	src := socket.NewReader(e.Upstream)
	var r httphead.Response
	var data []byte
	for interim := 0; ; {
		var ok bool
		if data, ok = e.readHead(&src, &r, data); !ok {
			e.finish()
			return
		}
		if r.Status >= 200 || r.Status == 101 {
			break
		}
		interim += r.Len
		switch {
		case interim > maxResponseHead:
			e.abort(BadResponse, errHeadTooLarge, statusBadGateway)
			ok = false
		case !e.Old:
			ok = e.passInterim(r.Forward(nil, data))
		}
		if !ok {
			e.finish()
			return
		}
		data = data[r.Len:]
	}

	switch {
	case r.Status == 101 && !(e.complete.Load() && e.Request.Switches(&r, data)):
		e.abort(BadResponse, errSwitched, statusBadGateway)
	case r.Status == 101, e.Method == "CONNECT" && r.Status < 300 && e.complete.Load():
		if e.decide(true) && e.down.deliver(r.ForwardTunnel(make([]byte, 0, r.Len+1), data)) {
			e.rest = data[r.Len:]
			return
		}
	case e.decide(false):
		_ = e.down.deliver(r.Forward(make([]byte, 0, r.Len+len("Connection: close\r\n")), data)) &&
			e.passBody(&src, r.Body([]byte(e.Method)), &r, data[r.Len:])
	}
	e.finish()
}

// readHead reads a response head into r, from data and then from the upstream. It
// returns all the bytes read, and false if the exchange is over without it.
func (e *exchange) readHead(src *socket.Reader, r *httphead.Response, data []byte) ([]byte, bool) {
	r.Reset()
	for {
		switch r.Read(data[:min(len(data), maxResponseHead)]) {
		case httphead.HTTP:
			return data, true
		case httphead.Malformed:
			e.abort(BadResponse, r.Err(), statusBadGateway)
			return nil, false
		}
		if len(data) >= maxResponseHead {
			e.abort(BadResponse, errHeadTooLarge, statusBadGateway)
			return nil, false
		}
		p, err := src.Read(math.MaxInt64)
		data = append(data, p...)
		socket.GiveBack(p)
		switch {
		case err == nil || len(p) > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			e.abort(ResponseTimeout, nil, statusGatewayTimeout)
			return nil, false
		case err == io.EOF && !socket.LostPeer(e.Upstream):
			e.abort(UpstreamError, io.ErrUnexpectedEOF, statusBadGateway)
			return nil, false
		default:
			e.abortFor(e.down.src, err)
			return nil, false
		}
	}
}

// passInterim sends the client the head of an interim response.
func (e *exchange) passInterim(head []byte) bool {
	if !e.claim() {
		return false
	}
	if !e.down.deliver(head) {
		return false
	}
	e.state.Lock()
	defer e.state.Unlock()
	e.answered = false
	return !e.aborted
}

// passBody sends the client the body of the response, of which data has been read. It
// ends the stream if the body breaks off.
func (e *exchange) passBody(src *socket.Reader, framing httphead.Framing, r *httphead.Response, data []byte) bool {
	var body httphead.Body
	switch framing {
	case httphead.NoBody:
		return true
	case httphead.UntilClose:
		body.Reset(math.MaxInt64, false)
	default:
		body.Reset(r.ContentLength, r.Chunked)
		body.Lenient() // servers pad chunk sizes, as "5B4 "
	}
	kept, _, done, err := body.Forward(data)
	if !e.down.deliver(data[:kept]) {
		return false
	}
	for err == nil && !done {
		limit := body.Left()
		if limit == 0 {
			limit = math.MaxInt64
		}
		p, readErr := src.Read(limit)
		kept, _, done, err = body.Forward(p)
		delivered := e.down.deliver(p[:kept])
		socket.GiveBack(p)
		switch {
		case !delivered:
			return false
		case err != nil, done, readErr == nil:
		case readErr != io.EOF || socket.LostPeer(e.Upstream):
			e.abortFor(e.down.src, readErr)
			return false
		case framing == httphead.UntilClose:
			return true
		default:
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		e.abort(BadResponse, err, 0)
		return false
	}
	return true
}

// claim reports whether a response may be sent to the client: none has been, and the
// exchange is not given up.
func (e *exchange) claim() bool {
	e.state.Lock()
	defer e.state.Unlock()
	if e.answered || e.aborted {
		return false
	}
	e.answered = true
	return true
}

// decide makes known what the final response is. It reports false if there is nobody to
// send it to.
func (e *exchange) decide(tunnel bool) bool {
	if !e.claim() {
		return false
	}
	e.state.Lock()
	defer e.state.Unlock()
	_ = e.Upstream.SetReadDeadline(time.Time{})
	e.tunnel = tunnel
	e.decided = true
	close(e.decision)
	if e.wantsTunnel() && e.complete.Load() {
		_ = e.Client.SetReadDeadline(time.Unix(1, 0)) // wakes hold
	}
	return true
}

// finish ends the exchange after its response: the client is told that nothing follows,
// and what it still sends is read for a while. It closes the upstream's connection.
func (e *exchange) finish() {
	e.state.Lock()
	ended := !e.aborted
	if e.ended = ended; ended {
		_ = e.Client.SetReadDeadline(time.Unix(1, 0)) // wakes the flow up, which lingers
	}
	e.state.Unlock()
	close(e.over)
	if !ended {
		return
	}
	complete := e.complete.Load()
	if !complete {
		socket.Reset(e.Upstream)
	}
	if e.Answered != nil {
		e.Answered()
	}
	if socket.CloseWrite(e.Client) != nil {
		_ = e.Client.Close()
	}
	if complete {
		e.closeUpstream()
	}
}

// closeUpstream closes the upstream's connection after a complete exchange: behind the
// upstream, for which it waits a little, or with a reset.
func (e *exchange) closeUpstream() {
	_ = e.Upstream.SetReadDeadline(time.Now().Add(upstreamPatience))
	inner := socket.Innermost(e.Upstream)
	// The end of a wrapper (TLS close_notify) comes before that of the connection.
	for _, c := range [...]net.Conn{e.Upstream, inner} {
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			socket.Reset(e.Upstream)
			return
		}
	}
	_ = e.Upstream.Close()
}

// abort gives the exchange up, unless its response is delivered: it resets the
// upstream, and answers the client if nothing else has. It ends the stream.
func (e *exchange) abort(cause Cause, err error, status int) {
	e.state.Lock()
	if e.aborted || e.ended {
		e.state.Unlock()
		return
	}
	e.aborted = true
	refuse := !e.answered && status != 0
	e.answered = true
	e.state.Unlock()

	socket.Reset(e.Upstream)
	if refuse {
		// A flow up that waits for a hang-up lets Refuse read.
		_ = e.Client.SetReadDeadline(time.Unix(1, 0))
		e.watching.Lock()
		_ = e.Client.SetReadDeadline(time.Time{})
		e.watching.Unlock()
		e.Refuse(e.Client, status)
		_ = e.Client.Close() // not with a reset, which could overtake the answer
	}
	e.end(cause, err)
	close(e.gaveUp)
}

func (e *exchange) isAborted() bool {
	e.state.Lock()
	defer e.state.Unlock()
	return e.aborted
}

// abortFor gives the exchange up because of an error of one side.
func (e *exchange) abortFor(at side, err error) {
	cause, status := at.failed, 0
	if socket.IsReset(err) || err == io.EOF {
		cause, err = at.reset, nil
	}
	if at.failed == UpstreamError {
		status = statusBadGateway
	}
	e.abort(cause, err, status)
}

// end implements member. An exchange whose tunnel is handed over has not ended, and is
// not its caller's to end: the tunnel is registered when end returns.
func (e *exchange) end(cause Cause, err error) (first bool) {
	first = e.stream.end(cause, err)
	if e.tunnelled.Load() {
		<-e.handed
	}
	return first
}

// handOver makes the connections the tunnel's, unless something has ended the exchange
// meanwhile. From then on nothing can.
func (e *exchange) handOver() bool {
	e.stopClocks()
	e.state.Lock()
	defer e.state.Unlock()
	if e.aborted {
		return false
	}
	e.ended = true
	e.ending.Do(func() { e.tunnelled.Store(true) })
	return e.tunnelled.Load()
}

// startTunnel hands both connections to the engine.
func (e *exchange) startTunnel() (detached bool) {
	defer close(e.handed)
	// Done keeps nothing else of the exchange: a tunnel may last for days.
	up, down := e.up.delivered.Load(), e.down.delivered.Load()
	started, done := e.started, e.done
	return e.Tunnels.Start(&Stream{
		Client:           e.Client,
		Upstream:         e.Upstream,
		ToUpstream:       Direction{Pending: e.held},
		ToClient:         Direction{Pending: e.rest},
		IdleTimeout:      e.IdleTimeout,
		HalfCloseTimeout: e.HalfCloseTimeout,
		Group:            e.Group,
		Done: func(a Account) {
			a.ToUpstream += up
			a.ToClient += down
			a.Duration = time.Since(started)
			if done != nil {
				done(a)
			}
		},
	})
}
