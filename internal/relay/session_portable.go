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

	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Serve implements [Engine]. It takes a goroutine while the client's connection waits, and
// two for an exchange.
func (p Portable) Serve(s *Session) (detached bool) {
	c := &conversation{Session: s, portable: p, client: socket.NewReader(s.Client)}
	_ = s.Client.SetDeadline(time.Time{})
	if s.Upstream == nil {
		c.waits = true
		w := c.wait()
		go func() { c.run(c.next(w, time.Now(), s.Pending)) }()
		return false
	}
	_ = s.Upstream.SetDeadline(time.Time{})
	e := c.newExchange(s.Request)
	go c.run(e)
	return false
}

// conversation is a session of [Portable].
type conversation struct {
	*Session
	portable Portable
	client   socket.Reader

	mu      sync.Mutex
	retired bool // the client's connection ends as soon as no request is under way
	waits   bool // for the next request
}

// run is the goroutine of a session, which begins with e. It ends with the client's
// connection, with a tunnel, or when the owner takes over.
func (c *conversation) run(e *portableExchange) {
	for e != nil {
		pending := c.Pending
		c.Pending = nil
		data := e.run(pending)
		switch {
		case e.tunnel:
			e.forget()
			return
		case e.repeats:
			c.Owner.Closed()
			c.Owner.Take(c.Client, c.Received, nil, e.forget)
			return
		case !e.kept:
			e.forget()
			c.Owner.Closed()
			return
		}
		w := c.wait()
		e.forget()
		c.keepUpstream(e.keepsUpstream)
		e = c.next(w, time.Now(), data)
	}
}

// wait registers that the session waits for a request.
func (c *conversation) wait() *waitingClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waits = true
	w := &waitingClient{c}
	c.portable.Streams.add(w)
	return w
}

// keepUpstream keeps the upstream's connection for the next request, or lets go of it.
func (c *conversation) keepUpstream(keep bool) {
	if keep || c.Upstream == nil {
		return
	}
	go closeBehind(c.Upstream)
	c.Upstream = nil
	c.Owner.Dropped()
}

// dropUpstream resets the upstream's connection, if there is one.
func (c *conversation) dropUpstream() {
	if c.Upstream == nil {
		return
	}
	socket.Reset(c.Upstream)
	c.Upstream = nil
	c.Owner.Dropped()
}

// next waits for the next request, of which data has been received, and returns its
// exchange, or nil if the session is over. The exchange before it has ended at that time.
func (c *conversation) next(w *waitingClient, ended time.Time, data []byte) *portableExchange {
	forget := func() { c.portable.Streams.remove(w) }
	upstreamDue, due := ended.Add(c.UpstreamKeepalive), ended.Add(c.Keepalive)
	wait := len(data) == 0
	for {
		if wait {
			p, err := c.readNext(upstreamDue, due)
			data = append(data, p...)
			socket.GiveBack(p)
			switch {
			case len(p) > 0:
			case c.Upstream != nil && errors.Is(err, os.ErrDeadlineExceeded) && !c.isRetired() && time.Now().Before(due):
				c.dropUpstream()
				continue
			case len(data) > 0:
				// The beginning of a request: whoever takes over sees what is wrong with it.
				c.dropUpstream()
				c.handOver(data, forget)
				return nil
			default:
				c.dropUpstream()
				_ = c.Client.Close()
				forget()
				c.Owner.Closed()
				return nil
			}
		}
		if c.Upstream != nil && !socket.Quiet(c.Upstream) {
			c.dropUpstream()
		}
		kept := c.Upstream != nil
		switch next := c.Owner.Next(data, kept); {
		case next.Verdict == Wait:
			due, wait = next.Deadline, true
		case next.Verdict == Forward && kept && (next.Repeatable || time.Since(ended) <= freshAnswer):
			_ = c.Client.SetReadDeadline(time.Time{})
			c.Pending, c.Received, c.Reused = data[next.HeadLen:], nil, true
			if next.Repeatable {
				c.Received = slices.Clone(data)
			}
			c.mu.Lock()
			c.waits = false
			next.Request.Last = next.Request.Last || c.retired
			c.mu.Unlock()
			e := c.newExchange(next.Request)
			forget()
			return e
		default:
			c.handOver(data, forget)
			return nil
		}
	}
}

// readNext reads more of the next request, until the earlier of the two deadlines that
// holds, or until the session is retired.
func (c *conversation) readNext(upstreamDue, due time.Time) ([]byte, error) {
	if c.Upstream != nil && upstreamDue.Before(due) {
		due = upstreamDue
	}
	c.mu.Lock()
	if c.retired {
		due = time.Unix(1, 0)
	}
	_ = c.Client.SetReadDeadline(due)
	c.mu.Unlock()
	return c.client.Read(math.MaxInt64)
}

// handOver gives the connections to the owner.
func (c *conversation) handOver(data []byte, forget func()) {
	_ = c.Client.SetReadDeadline(time.Time{})
	c.Owner.Closed()
	c.Owner.Take(c.Client, data, c.Upstream, forget)
}

func (c *conversation) isRetired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}

// waitingClient is the record of a session between two requests.
type waitingClient struct{ *conversation }

// end implements member.
func (w *waitingClient) end(Cause, error) bool {
	w.retire(nil)
	return true
}

// retire implements member.
func (w *waitingClient) retire(which func(Owner) bool) {
	if which != nil && !which(w.Owner) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retired = true
	if w.waits {
		_ = w.Client.SetReadDeadline(time.Unix(1, 0))
	}
}

// portableExchange is the record of an exchange in flight. Its flow up, in a goroutine of
// its own, is all that reads from the client, until the end; its flow down is all that
// reads from the upstream.
type portableExchange struct {
	stream
	*conversation

	sent   chan struct{} // closed when the flow up has ended
	gaveUp chan struct{} // closed when the exchange is given up and the stream ended
	handed chan struct{} // closed when an engine has the tunnel

	tunnelled atomic.Bool // the connections are handed over to a tunnel

	watching sync.Mutex // held while the flow up waits for a hang-up

	state   sync.Mutex // guards x and the following, and the deadlines
	x       exchange.Exchange
	aborted bool // both connections belong to giveUp
	ended   bool // the response is delivered, or a tunnel begins: nothing to give up
	decided bool // the final response has begun

	ahead      []byte // what the client has sent after its request; valid once sent is closed
	firstAhead int    // how much of that came with the request's head

	// What has become of it, once run has returned.
	tunnel, kept, keepsUpstream, repeats bool
}

// aheadLimit bounds, in bytes, what a client may send ahead while its request is answered.
// It is not read further.
const aheadLimit = 64 << 10

// newExchange returns the exchange of a request, registered.
func (c *conversation) newExchange(r exchange.Request) *portableExchange {
	e := &portableExchange{
		conversation: c,
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
	e.started = time.Now()
	e.idle, e.halfClose = c.IdleTimeout, c.HalfCloseTimeout
	// The flow down has none: what an upstream has sent before its reset may be the whole
	// response, for which a slow client waits.
	e.up.guard = newGuard(c.Client, func(err error) { e.abortFor(client, err) })
	e.expire = func(cause Cause) { e.abort(cause, nil, statusGatewayTimeout) }
	e.done = c.Owner.Ended
	e.registry, e.group = c.portable.Streams, c.Group
	e.registry.add(e)
	e.group.add(e)
	return e
}

func (e *portableExchange) forget() {
	e.registry.remove(e)
	e.group.remove(e)
}

// run carries the exchange out; pending has come after the request's head. It returns what
// the client has sent ahead, if its connection is kept.
func (e *portableExchange) run(pending []byte) (ahead []byte) {
	e.checkClocks()
	go e.send(pending)
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
	if e.kept {
		e.stopClocks()
		_ = e.Client.SetReadDeadline(time.Time{})
		return e.ahead
	}
	if e.repeats {
		e.stopClocks()
		return nil
	}
	e.conclude("http")
	e.Owner.Dropped()
	return nil
}

// send is the flow up: the request, and then what the client sends ahead. It ends with the
// exchange.
func (e *portableExchange) send(pending []byte) {
	defer close(e.sent)
	if e.sendRequest(pending) {
		e.readAhead()
	}
}

// sendRequest sends head and body. It reports false if that ends the exchange.
func (e *portableExchange) sendRequest(pending []byte) bool {
	up, ok := e.take(slices.Clone(pending))
	if !ok {
		return false // nothing is sent of a request that is known to be broken
	}
	e.firstAhead = len(e.ahead)
	if !e.requestDone() {
		e.Received = nil
	}
	lost := e.up.write(append(slices.Clip(e.Request.Forwarded.Head), up...)) != nil
	for !lost && !e.requestDone() {
		e.state.Lock()
		left := e.x.RequestLeft()
		e.state.Unlock()
		if left == 0 {
			left = math.MaxInt64
		}
		p, err := e.client.Read(left)
		up, ok = e.take(p)
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
			e.over()
			return false
		default:
			e.abortFor(e.up.src, err)
			return false
		}
	}
	// Where the upstream takes no more, whoever reads from it sees why.
	e.awaitResponse()
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
		_ = e.Upstream.SetReadDeadline(time.Now().Add(e.ResponseHeaderTimeout))
	}
}

// readAhead reads what the client sends ahead, within a bound. That also tells when the
// client goes away. It returns when the exchange is over.
func (e *portableExchange) readAhead() {
	var err error
	for err == nil && len(e.ahead) < aheadLimit && e.requestDone() {
		var p []byte
		p, err = e.client.Read(int64(aheadLimit - len(e.ahead)))
		e.ahead = append(e.ahead, p...)
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
	src := socket.NewReader(e.Upstream)
	for {
		p, err := src.Read(math.MaxInt64)
		e.state.Lock()
		head, body := e.x.Response(nil, p)
		state, answered := e.x.State(), e.x.Answered()
		e.state.Unlock()
		if answered && !e.decide() || len(head) > 0 && !e.pass(head) {
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
		case err == io.EOF && !socket.LostPeer(e.Upstream):
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
		_ = e.Upstream.SetReadDeadline(time.Time{})
	}
	return true
}

// pass sends the client bytes of a response. It reports false if that, or something else,
// has ended the exchange.
func (e *portableExchange) pass(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if e.isAborted() {
		return false
	}
	if err := e.down.write(p); err != nil {
		e.abortFor(e.down.dst, err)
		return false
	}
	return true
}

// repeat reports whether the request is to be sent once more, on a fresh connection.
func (e *portableExchange) repeat() bool {
	e.state.Lock()
	repeats := e.Reused && !e.x.Begun() && e.Received != nil && !e.aborted
	if repeats {
		e.repeats, e.ended = true, true
		_ = e.Client.SetReadDeadline(time.Unix(1, 0)) // wakes the flow up
	}
	e.state.Unlock()
	if !repeats {
		return false
	}
	socket.Reset(e.Upstream)
	e.Owner.Dropped()
	<-e.sent
	_ = e.Client.SetReadDeadline(time.Time{})
	e.Received = append(e.Received, e.ahead[e.firstAhead:]...)
	return true
}

// finish ends the exchange after its response. It closes what is not kept.
func (e *portableExchange) finish() {
	e.state.Lock()
	ended := !e.aborted
	e.ended = ended
	done := e.x.RequestDone()
	e.keepsUpstream = e.x.KeepsUpstream() && e.UpstreamKeepalive > 0
	if ended {
		_ = e.Client.SetReadDeadline(time.Unix(1, 0)) // wakes the flow up
	}
	e.state.Unlock()
	if !ended {
		return
	}
	e.done = nil
	e.Owner.Ended(e.account("http"))
	if !done {
		socket.Reset(e.Upstream)
	}
	<-e.sent
	e.state.Lock()
	e.kept = e.x.KeepsClient() && !e.isRetired()
	e.state.Unlock()
	if e.kept {
		return
	}
	if socket.CloseWrite(e.Client) != nil {
		_ = e.Client.Close()
	}
	if done {
		closeBehind(e.Upstream)
	}
	limit := int64(lingerLimit)
	if !done {
		// A client in the middle of its request fills all buffers on the way before it
		// looks for a response: it is only bounded in time.
		limit = math.MaxInt64
	}
	_ = e.Client.SetReadDeadline(time.Now().Add(lingerTimeout))
	drop(&e.client, limit)
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

	socket.Reset(e.Upstream)
	if refused {
		e.refuse()
	}
	e.end(cause, err)
	close(e.gaveUp)
}

// refuse answers the client, and closes its connection some time after that.
func (e *portableExchange) refuse() {
	// A flow up that waits for a hang-up lets this read.
	_ = e.Client.SetReadDeadline(time.Unix(1, 0))
	e.watching.Lock()
	defer e.watching.Unlock()
	_ = e.Client.SetDeadline(time.Now().Add(lingerTimeout))
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

// end implements member. An exchange whose tunnel is handed over has not ended, and is
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
	_ = e.Client.SetReadDeadline(time.Unix(1, 0)) // wakes the flow up
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

// retire implements member.
func (e *portableExchange) retire(which func(Owner) bool) {
	if which != nil && !which(e.Owner) {
		return
	}
	e.conversation.mu.Lock()
	e.retired = true
	e.conversation.mu.Unlock()
	e.state.Lock()
	e.x.End()
	e.state.Unlock()
}
