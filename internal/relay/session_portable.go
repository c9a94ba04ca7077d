package relay

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Serve implements [Engine]. It takes a goroutine while the client's connection waits, and
// two for an exchange.
func (p Portable) Serve(s *Session) (detached bool) {
	c := &conversation{Session: s, portable: p, client: socket.NewReader(s.Client)}
	_ = s.Client.SetDeadline(time.Time{})
	_ = s.Upstream.SetDeadline(time.Time{})
	c.exchange = c.newExchange(s.Request)
	p.Streams.add(c)
	s.Group.add(c)
	go c.run(c.exchange)
	return false
}

// conversation is a session of [Portable], and its record in the registries.
type conversation struct {
	*Session
	portable Portable
	client   socket.Reader
	asked    bool // Upstream is known to be quiet

	mu       sync.Mutex
	exchange *portableExchange // the one under way; nil: none
	silent   bool              // nothing has come of the next request, which is waited for
	over     bool              // the connections are closed, or the owner's
	cause    Cause             // why they are closed, by end; with err
	err      error
	retired  bool // the client's connection ends when no request is under way
}

// run is the goroutine of a session, which begins with e. It ends with the client's
// connection, with a tunnel, or when the owner has taken over.
func (c *conversation) run(e *portableExchange) {
	defer c.forget()
	for e != nil {
		pending := c.Pending
		c.Pending = nil
		data := e.run(pending)
		switch {
		case e.tunnel:
			return
		case e.repeats:
			c.release(e.Received, time.Time{}, e)
			return
		case !e.kept:
			c.Owner.Closed()
			return
		}
		e = c.next(e.keepsUpstream, e.x.Blank(), data)
	}
}

func (c *conversation) forget() {
	c.portable.Streams.remove(c)
	c.Group.remove(c)
}

// end implements member.
func (c *conversation) end(cause Cause, err error) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
		return false
	case cause == Killed && (c.exchange == nil || c.exchange.leftUpstream()):
		if c.Upstream != nil {
			socket.Reset(c.Upstream) // whoever asks whether it is quiet drops it
		}
		return false
	case c.exchange != nil:
		if !c.exchange.end(cause, err) {
			return false
		}
	default:
		socket.Reset(c.Client) // whoever reads from it goes on
		if c.Upstream != nil {
			socket.Reset(c.Upstream)
		}
	}
	c.over, c.cause, c.err = true, cause, err
	return true
}

// ownerOf implements member.
func (c *conversation) ownerOf() Owner { return c.Owner }

// meterOf implements member.
func (c *conversation) meterOf() *account.Meter { return c.Meter }

// retire implements member.
func (c *conversation) retire(which func(Owner) bool) {
	if which != nil && !which(c.Owner) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
	switch {
	case c.exchange != nil:
		c.exchange.retire()
	case c.silent:
		_ = c.Client.SetReadDeadline(longAgo)
	}
}

func (c *conversation) isRetired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}

// longAgo is a deadline that wakes whoever waits.
var longAgo = time.Unix(1, 0)

// next waits for the next request, of which data has been received, and before which blank
// may come. It returns its exchange, or nil if the session is over.
func (c *conversation) next(keepsUpstream bool, blank exchange.Blank, data []byte) *portableExchange {
	c.mu.Lock()
	c.exchange = nil // from here on end and retire are about the waiting
	over := c.over
	c.mu.Unlock()
	if over {
		c.closeBoth()
		return nil
	}
	if c.Upstream != nil && !keepsUpstream {
		go closeBehind(c.Upstream)
		c.forgetUpstream()
	}
	ended := time.Now()
	upstreamDue, due := ended.Add(c.UpstreamKeepalive), ended.Add(c.Keepalive)
	var headDue time.Time
	for wait := len(data) == 0; ; wait = true {
		if wait {
			until := due
			if c.Upstream != nil && upstreamDue.Before(due) {
				until = upstreamDue
			}
			p, err := c.await(until, len(data) == 0)
			data = append(data, blank.Skip(p)...)
			socket.GiveBack(p)
			switch {
			case len(p) > 0 && len(data) == 0:
				continue
			case len(p) > 0:
			case errors.Is(err, os.ErrDeadlineExceeded) && c.Upstream != nil && time.Now().Before(due) && !(c.isRetired() && len(data) == 0):
				c.dropUpstream()
				continue
			case len(data) > 0:
				// The beginning of a request: whoever takes over sees what is wrong with it.
				c.release(data, headDue, nil)
				return nil
			default:
				c.closeBoth()
				return nil
			}
		}
		if c.Upstream != nil && !socket.Quiet(c.Upstream) {
			c.dropUpstream()
		}
		kept := c.Upstream != nil
		c.asked = kept
		switch next := c.Owner.Next(data, kept); {
		case next.Verdict == Wait:
			if headDue.IsZero() || next.Deadline.Before(headDue) {
				headDue = next.Deadline
			}
			due = headDue
		case next.Verdict == Forward && kept && (next.Repeatable || time.Since(ended) <= freshAnswer):
			c.Pending, c.Received, c.Reused = data[next.HeadLen:], nil, true
			if next.Repeatable {
				c.Received = slices.Clone(data)
			}
			return c.begin(next.Request)
		default:
			if next.Verdict == Forward {
				c.dropUpstream() // a request that must not be sent twice needs a fresh one
			}
			c.release(data, headDue, nil)
			return nil
		}
	}
}

// await reads what the client sends next. silent says that nothing has come of its request:
// then a session that is retired need not wait.
func (c *conversation) await(until time.Time, silent bool) ([]byte, error) {
	c.mu.Lock()
	c.silent = silent
	if silent && c.retired {
		until = longAgo
	}
	_ = c.Client.SetReadDeadline(until)
	c.mu.Unlock()
	portableTally.waiting.Add(1)
	defer portableTally.waiting.Add(-1)

	p, err := c.client.Read(math.MaxInt64)

	c.mu.Lock()
	c.silent = false
	retired := c.retired
	c.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) && silent && retired && socket.Unread(c.Client) {
		// To close its connection now would be a reset, and may destroy the last response.
		_ = c.Client.SetReadDeadline(time.Now().Add(lingerTimeout))
		p, err = c.client.Read(math.MaxInt64)
	}
	return p, err
}

// begin begins with the exchange of the next request. It returns nil if the session has
// been ended meanwhile.
func (c *conversation) begin(r exchange.Request) *portableExchange {
	c.mu.Lock()
	e := c.newExchange(r)
	over := c.over
	if !over {
		_ = c.Client.SetReadDeadline(time.Time{})
		c.exchange = e
		if c.retired {
			e.retire()
		}
	}
	c.mu.Unlock()
	if over {
		c.Owner.Ended(e.account("http", c.cause, c.err))
		c.closeBoth()
		return nil
	}
	return e
}

// release gives the connections to the owner, that of the upstream if it is kept: for a
// request that no exchange has begun for, and that must have come when it is due, or that of e,
// which is to be repeated.
func (c *conversation) release(data []byte, due time.Time, e *portableExchange) {
	c.mu.Lock()
	c.exchange = nil
	over := c.over
	c.over = true
	c.mu.Unlock()
	if over {
		if e != nil {
			c.Owner.Ended(e.account("http", c.cause, c.err))
		}
		c.closeBoth()
		return
	}
	_ = c.Client.SetReadDeadline(time.Time{})
	c.Owner.Take(c.Client, data, due, c.Upstream, c.forget)
	c.Owner.Closed()
}

// closeBoth closes the connections of a session that waits.
func (c *conversation) closeBoth() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.dropUpstream()
	_ = c.Client.Close()
	c.Owner.Closed()
}

// dropUpstream resets the upstream's connection, if there is one.
func (c *conversation) dropUpstream() {
	if c.Upstream != nil {
		socket.Reset(c.Upstream)
		c.forgetUpstream()
	}
}

func (c *conversation) forgetUpstream() {
	c.mu.Lock()
	c.Upstream = nil
	c.mu.Unlock()
	c.Owner.Dropped()
}

// portableExchange is the record of an exchange in flight. Its flow up, in a goroutine of
// its own, is all that reads from the client, until the end; its flow down is all that
// reads from the upstream.
type portableExchange struct {
	stream
	*conversation

	uploaded chan struct{} // closed when no more of the request goes up
	sent     chan struct{} // closed when the flow up has ended
	gaveUp   chan struct{} // closed when the exchange is given up and the stream ended
	handed   chan struct{} // closed when an engine has the tunnel

	tunnelled atomic.Bool // the connections are handed over to a tunnel

	watching   sync.Mutex // held while the flow up waits for a hang-up
	responding sync.Mutex // held while the client is written to

	state   sync.Mutex // guards x and the following, and the deadlines
	x       exchange.Exchange
	aborted bool // both connections belong to giveUp
	ended   bool // the response is delivered, or a tunnel begins: nothing to give up
	decided bool // the final response has begun

	whole      bool   // the upstream has all of the request; valid once uploaded is closed
	ahead      []byte // what the client has sent after its request; valid once sent is closed
	firstAhead int    // how much of that came with the request's head

	// What has become of it, once run has returned.
	tunnel, kept, keepsUpstream, repeats bool
}

// aheadLimit bounds, in bytes, what a client may send ahead while its request is answered.
// It is not read further.
const aheadLimit = 64 << 10

// newExchange returns the exchange of a request.
func (c *conversation) newExchange(r exchange.Request) *portableExchange {
	e := &portableExchange{
		conversation: c,
		uploaded:     make(chan struct{}),
		sent:         make(chan struct{}),
		gaveUp:       make(chan struct{}),
		handed:       make(chan struct{}),
	}
	r.Last = r.Last || c.Keepalive == 0
	c.Request = r
	e.x.Begin(r)
	client := side{c.Client, ClientReset, ClientError}
	upstream := side{c.Upstream, UpstreamReset, UpstreamError}
	e.up = flow{stream: &e.stream, src: client, dst: upstream}
	e.down = flow{stream: &e.stream, src: upstream, dst: client}
	e.meter = c.Meter
	e.started = time.Now()
	e.idle, e.halfClose = c.IdleTimeout, c.HalfCloseTimeout
	// The flow down has none: what an upstream has sent before its reset may be the whole
	// response, for which a slow client waits.
	e.up.guard = newGuard(c.Client, func(err error) { e.abortFor(client, err) })
	e.expire = func(cause Cause) { e.abort(cause, nil, statusGatewayTimeout) }
	e.done = c.Owner.Ended
	return e
}

// run carries the exchange out; pending has come after the request's head. It returns what
// the client has sent ahead, if its connection is kept.
func (e *portableExchange) run(pending []byte) (ahead []byte) {
	e.checkClocks()
	up, ok := e.take(slices.Clone(pending))
	e.firstAhead = len(e.ahead)
	if !e.requestDone() {
		e.Received = nil // no more than its beginning
	}
	if ok && e.Reused && !e.asked && !socket.Quiet(e.Upstream) {
		if e.mayRepeat() {
			e.dropUpstream()
			e.stopClocks()
			return nil
		}
		e.abort(UpstreamReset, nil, statusBadGateway)
		ok = false
	}
	go e.send(up, ok)
	rest := e.receive()
	if rest != nil {
		e.tunnel = e.startTunnel(rest)
	}
	if e.tunnel {
		return nil
	}
	<-e.sent
	if e.isAborted() {
		<-e.gaveUp
	}
	if e.kept || e.repeats {
		e.stopClocks()
		return e.ahead
	}
	e.conclude("http")
	if e.Upstream != nil {
		e.forgetUpstream()
	}
	return nil
}

// send is the flow up: the request, of which up is the beginning, and then what the client
// sends ahead. It ends with the exchange. ok says that there is something to do.
func (e *portableExchange) send(up []byte, ok bool) {
	defer close(e.sent)
	if ok {
		ok = e.sendRequest(up)
	}
	close(e.uploaded)
	if ok {
		// Where the upstream takes no more, whoever reads from it sees why.
		e.awaitResponse()
		e.readAhead()
	}
}

// sendRequest sends head and body. It reports false if that ends the exchange.
func (e *portableExchange) sendRequest(up []byte) bool {
	lost := e.up.write(append(slices.Clip(e.Request.Forwarded.Head), up...)) != nil
	for !lost && e.wantsRequest() {
		e.state.Lock()
		left := e.x.RequestLeft()
		e.state.Unlock()
		if left == 0 {
			left = math.MaxInt64
		}
		p, err := e.client.Read(left)
		up, ok := e.take(p)
		if ok {
			lost = e.up.write(up) != nil
		}
		socket.GiveBack(p)
		switch {
		case !ok:
			return false
		case lost, err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return true // the response is over
		case err == io.EOF && !socket.LostPeer(e.Client):
			e.state.Lock()
			e.x.RequestEnd()
			e.state.Unlock()
			if e.over() {
				return false
			}
		default:
			e.abortFor(e.up.src, err)
			return false
		}
	}
	e.whole = !lost && e.requestDone()
	return true
}

// take gives the exchange bytes from the client, and returns those for the upstream. It
// reports false if that ends the exchange.
func (e *portableExchange) take(p []byte) (up []byte, ok bool) {
	e.state.Lock()
	up, ahead := e.x.Request(p)
	e.ahead = append(e.ahead, ahead...)
	e.state.Unlock()
	return up, !e.over()
}

func (e *portableExchange) requestDone() bool {
	e.state.Lock()
	defer e.state.Unlock()
	return e.x.RequestDone()
}

func (e *portableExchange) wantsRequest() bool {
	e.state.Lock()
	defer e.state.Unlock()
	return e.x.WantsRequest()
}

// over looks whether the exchange is refused or broken, and if so acts on it.
func (e *portableExchange) over() bool {
	e.state.Lock()
	state := e.x.State()
	cause, err := failure(&e.x)
	e.state.Unlock()
	if state != exchange.Refused && state != exchange.Broken {
		return false
	}
	e.giveUp(cause, err)
	return true
}

// awaitResponse starts the clock of the response.
func (e *portableExchange) awaitResponse() {
	e.state.Lock()
	defer e.state.Unlock()
	if e.ResponseHeaderTimeout > 0 && !e.decided && e.x.RequestDone() {
		_ = e.up.dst.SetReadDeadline(time.Now().Add(e.ResponseHeaderTimeout))
	}
}

// readAhead reads what the client sends ahead, within a bound. That also tells when the
// client goes away. It returns when the exchange is over.
func (e *portableExchange) readAhead() {
	var err error
	for err == nil && len(e.ahead) < aheadLimit && e.requestDone() {
		var p []byte
		p, err = e.client.Read(int64(aheadLimit - len(e.ahead)))
		e.state.Lock()
		e.ahead = append(e.ahead, e.x.Ahead(p)...)
		e.state.Unlock()
		socket.GiveBack(p)
	}
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

// receive is the flow down: the response. It returns what the upstream has sent of a
// tunnel, not nil, if there is to be one.
func (e *portableExchange) receive() (tunnel []byte) {
	src := socket.NewReader(e.up.dst.Conn)
	for {
		p, err := src.Read(math.MaxInt64)
		e.state.Lock()
		head, body := e.x.Response(nil, p)
		e.meter.Responded(e.x.Responded())
		state, answered := e.x.State(), e.x.Answered()
		e.state.Unlock()
		if len(head) > 0 && len(body) <= socket.SmallSize && state != exchange.Tunnel {
			head, body = append(head, body...), nil // in one write
		}
		if answered && !e.decide() || !e.pass(head) {
			socket.GiveBack(p)
			return nil
		}
		if state == exchange.Tunnel {
			rest := append([]byte{}, body...)
			socket.GiveBack(p)
			return rest
		}
		passed := e.pass(body)
		socket.GiveBack(p)
		switch {
		case !passed, e.over():
			return nil
		case state == exchange.Complete:
			e.finish()
			return nil
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			e.abort(ResponseTimeout, nil, statusGatewayTimeout)
			return nil
		case err == io.EOF && !socket.LostPeer(e.up.dst.Conn):
			if e.repeat() {
				return nil
			}
			e.state.Lock()
			e.x.ResponseEnd()
			complete := e.x.State() == exchange.Complete
			e.state.Unlock()
			if !e.over() && complete {
				e.finish()
			}
			return nil
		default:
			if !e.repeat() {
				e.abortFor(e.down.src, err)
			}
			return nil
		}
	}
}

// decide notes that the final response has begun. It reports false if the exchange is
// given up.
func (e *portableExchange) decide() bool {
	e.state.Lock()
	defer e.state.Unlock()
	if e.aborted {
		return false
	}
	if !e.decided {
		e.decided = true
		_ = e.up.dst.SetReadDeadline(time.Time{})
	}
	return true
}

// pass sends the client bytes of a response. It reports false if that, or something else,
// has ended the exchange.
func (e *portableExchange) pass(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	e.responding.Lock()
	defer e.responding.Unlock()
	if e.isAborted() {
		return false
	}
	if err := e.down.write(p); err != nil {
		e.abortFor(e.down.dst, err)
		return false
	}
	return true
}

// mayRepeat ends the exchange if its request can be sent once more.
func (e *portableExchange) mayRepeat() bool {
	e.state.Lock()
	defer e.state.Unlock()
	if !e.Reused || e.x.Begun() || e.Received == nil || e.aborted {
		return false
	}
	e.repeats, e.ended = true, true
	return true
}

// repeat reports whether the request is to be sent once more, on a fresh connection.
func (e *portableExchange) repeat() bool {
	if !e.mayRepeat() {
		return false
	}
	_ = e.Client.SetReadDeadline(longAgo) // wakes the flow up
	e.dropUpstream()
	<-e.sent
	e.Received = append(e.Received, e.ahead[e.firstAhead:]...)
	return true
}

// finish ends the exchange after its response. It closes what is not kept.
func (e *portableExchange) finish() {
	e.state.Lock()
	if e.aborted {
		e.state.Unlock()
		return
	}
	e.ended = true
	requestDone := e.x.RequestDone()
	e.state.Unlock()
	whole := requestDone && e.isUploaded()
	if !whole {
		// A request that has not gone up to its end must not look complete, and none may
		// follow it: its head would be taken for the rest of this one.
		e.dropUpstream()
	}
	_ = e.Client.SetReadDeadline(longAgo) // wakes the flow up
	<-e.sent
	e.done = nil
	e.Owner.Ended(e.account("http", Finished, nil))

	retired := e.isRetired()
	e.state.Lock()
	requestDone = e.x.RequestDone()
	e.kept = e.x.KeepsClient() && !retired
	e.keepsUpstream = whole && e.x.KeepsUpstream() && e.UpstreamKeepalive > 0
	e.state.Unlock()
	if e.kept {
		return
	}
	if socket.CloseWrite(e.Client) != nil {
		_ = e.Client.Close()
	}
	if whole {
		closeBehind(e.Upstream)
	}
	limit := int64(lingerLimit)
	if !requestDone {
		// A client in the middle of its request fills all buffers on the way before it
		// looks for a response: it is only bounded in time.
		limit = math.MaxInt64
	}
	_ = e.Client.SetReadDeadline(time.Now().Add(lingerTimeout))
	drop(&e.client, limit)
}

// isUploaded waits a little for what has been read of the request and may still be on its
// way up. It reports false where the upstream does not take it.
func (e *portableExchange) isUploaded() bool {
	select {
	case <-e.uploaded:
		return e.whole
	default:
	}
	patience := time.NewTimer(upstreamPatience)
	defer patience.Stop()
	select {
	case <-e.uploaded:
		return e.whole
	case <-patience.C:
		return false
	}
}

// drop reads and drops at most so many bytes.
func drop(src *socket.Reader, left int64) {
	for left > 0 {
		p, err := src.Read(left)
		left -= int64(len(p))
		socket.GiveBack(p)
		if err != nil {
			return
		}
	}
}

// closeBehind closes an upstream's connection after its last exchange: behind the upstream,
// for which it waits a little, or with a reset.
func closeBehind(upstream net.Conn) {
	_ = upstream.SetReadDeadline(time.Now().Add(upstreamPatience))
	inner := socket.Innermost(upstream)
	// The end of a wrapper (TLS close_notify) comes before that of the connection.
	for _, c := range [...]net.Conn{upstream, inner} {
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			socket.Reset(upstream)
			return
		}
	}
	_ = upstream.Close()
}

// abort gives the exchange up, unless its response is delivered. The client gets an answer
// with that status if there is none yet.
func (e *portableExchange) abort(cause Cause, err error, status int) {
	e.state.Lock()
	e.x.Abort(status)
	e.state.Unlock()
	e.giveUp(cause, err)
}

// giveUp resets the upstream, answers the client if the exchange is refused, and ends the
// stream.
func (e *portableExchange) giveUp(cause Cause, err error) {
	e.state.Lock()
	if e.aborted || e.ended {
		e.state.Unlock()
		return
	}
	e.aborted = true
	refused := e.x.State() == exchange.Refused
	e.state.Unlock()

	socket.Reset(e.up.dst.Conn)
	if refused {
		e.refuse()
	}
	e.end(cause, err)
	close(e.gaveUp)
}

// refuse answers the client, and closes its connection some time after that.
func (e *portableExchange) refuse() {
	// A flow up that waits for a hang-up lets this read.
	_ = e.Client.SetReadDeadline(longAgo)
	e.watching.Lock()
	defer e.watching.Unlock()
	_ = e.Client.SetDeadline(time.Now().Add(lingerTimeout))
	e.responding.Lock() // an interim response is on its way
	defer e.responding.Unlock()
	e.meter.Responded(e.x.Status())
	if _, err := e.Client.Write(e.Owner.Refusal(e.x.Status())); err == nil && socket.CloseWrite(e.Client) == nil {
		_, _ = io.CopyN(io.Discard, e.Client, lingerLimit)
	}
	_ = e.Client.Close() // not with a reset, which could overtake the answer
}

func (e *portableExchange) isAborted() bool {
	e.state.Lock()
	defer e.state.Unlock()
	return e.aborted
}

// leftUpstream reports whether nothing of the exchange is under way at the upstream any more.
func (e *portableExchange) leftUpstream() bool {
	e.state.Lock()
	defer e.state.Unlock()
	return (e.ended || e.aborted) && !e.tunnelled.Load()
}

// abortFor gives the exchange up because of an error of one side.
func (e *portableExchange) abortFor(at side, err error) {
	cause, status := at.failed, 0
	if socket.IsReset(err) || err == io.EOF {
		cause, err = at.reset, nil
	}
	if at.failed == UpstreamError {
		status = statusBadGateway
	}
	e.abort(cause, err, status)
}

// end is that of a member. An exchange whose tunnel is handed over has not ended, and is
// not its own to end: the tunnel is registered when end returns.
func (e *portableExchange) end(cause Cause, err error) (first bool) {
	first = e.stream.end(cause, err)
	if e.tunnelled.Load() {
		<-e.handed
	}
	return first
}

// startTunnel makes the connections a raw stream, unless something has ended the exchange
// meanwhile. The upstream has sent rest of it.
func (e *portableExchange) startTunnel(rest []byte) bool {
	e.state.Lock()
	_ = e.Client.SetReadDeadline(longAgo) // wakes the flow up
	e.state.Unlock()
	<-e.sent
	e.stopClocks()
	e.state.Lock()
	if !e.aborted {
		e.ended = true
		e.ending.Do(func() { e.tunnelled.Store(true) })
	}
	e.state.Unlock()
	if !e.tunnelled.Load() {
		return false
	}
	defer close(e.handed)
	e.Owner.Tunnelled()
	// Done keeps nothing else of the exchange: a tunnel may last for days.
	up, down, started, owner := e.up.delivered.Load(), e.down.delivered.Load(), e.started, e.Owner
	e.portable.Start(&Stream{
		Client:           e.Client,
		Upstream:         e.Upstream,
		ToUpstream:       Direction{Pending: e.ahead},
		ToClient:         Direction{Pending: rest},
		IdleTimeout:      e.IdleTimeout,
		HalfCloseTimeout: e.HalfCloseTimeout,
		Group:            e.Group,
		Meter:            e.Meter,
		Done: func(a Account) {
			a.ToUpstream += up
			a.ToClient += down
			a.Duration = time.Since(started)
			owner.Ended(a)
			owner.Dropped()
			owner.Closed()
		},
	})
	return true
}

// retire lets the client's connection end with the response.
func (e *portableExchange) retire() {
	e.state.Lock()
	defer e.state.Unlock()
	e.x.End()
}
