package relay

import (
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Serve implements [Engine].
func (e *Event) Serve(s *Session) (detached bool) {
	p := newSession(s)
	p.session.first = &firstRequest{s.Request, s.Pending, s.Received}
	if err := e.takeOver(p, s.Client, s.Upstream, socket.Lend); err != nil {
		e.warn(relayedByGoroutines, err)
		return Portable{Streams: e.Streams}.Serve(s)
	}
	p.enrol()
	return true
}

// Park implements [Parker].
func (e *Event) Park(s *Session) bool {
	if !socket.Is(s.Client) {
		descriptors.Unused(1)
		return false
	}
	p := newSession(s)
	p.parked = true
	if err := e.takeOver(p, s.Client, nil, socket.LendTaken); err != nil {
		e.warn("an idle connection is closed: no event loop could take it", err)
		return false
	}
	p.enrol()
	return true
}

func newSession(s *Session) *pair {
	return &pair{
		group:     s.Group,
		meter:     s.Meter,
		owner:     s.Owner,
		idle:      s.IdleTimeout,
		halfClose: s.HalfCloseTimeout,
		session: &session{
			reused:            s.Reused,
			responseHeader:    s.ResponseHeaderTimeout,
			keepalive:         s.Keepalive,
			upstreamKeepalive: s.UpstreamKeepalive,
		},
	}
}

// firstRequest is the request with which a session begins.
type firstRequest struct {
	request           exchange.Request
	pending, received []byte
}

// session is what a pair has that carries HTTP requests.
type session struct {
	x     *exchange.Exchange // while exchanging; else nil
	phase phase
	first *firstRequest // until the loop begins with the session; nil: it waits for one

	ahead    []byte         // what the client has sent after the request
	received []byte         // all of the request under way, as long as it may be sent once more
	reused   bool           // the upstream's connection has carried a request before
	lost     bool           // the upstream takes no more of the request
	retired  bool           // the client's connection ends with the response under way
	blank    exchange.Blank // while waiting: what may come before the next request

	cause Cause // what the exchange ends with; with err
	err   error

	responseHeader, keepalive, upstreamKeepalive time.Duration

	// Times since epoch; 0: not yet.
	began    time.Duration // the exchange
	sent     time.Duration // the request was sent to its end
	ended    time.Duration // the last exchange ended
	headDue  time.Duration // the next head must have come
	leaveDue time.Duration // the upstream's connection is closed

	up, down int64 // what the lanes had carried when the exchange began
	linger   int64 // how many more bytes are dropped
}

// exchanges holds unused exchanges, all zero. One is a third of what a session is.
var exchanges = sync.Pool{New: func() any { return new(exchange.Exchange) }}

// takeExchange begins an exchange.
func (s *session) takeExchange(r exchange.Request) {
	if s.x == nil {
		s.x = exchanges.Get().(*exchange.Exchange)
	}
	s.x.Begin(r)
}

// giveExchangeBack lets go of an exchange that is over.
func (s *session) giveExchangeBack() {
	*s.x = exchange.Exchange{}
	exchanges.Put(s.x)
	s.x = nil
}

// phase is what a session does.
type phase uint8

const (
	exchanging phase = iota // a request and its response
	waiting                 // for the next request
	lingering               // the last response is sent: the client is read from until it closes
)

// serveSession moves a session on as far as it goes.
func (l *loop) serveSession(p *pair) {
	s := p.session
	for p.ended == 0 && p.session == s {
		phase := s.phase
		switch phase {
		case exchanging:
			l.exchange(p)
		case waiting:
			l.await(p)
		case lingering:
			l.lingerOn(p)
		}
		if s.phase == phase {
			return
		}
	}
}

// beginSession begins with the first request. It goes as far as it can at once: what it
// has of the request lies in memory that all sessions use.
func (l *loop) beginSession(p *pair) {
	s, first := p.session, p.session.first
	s.first = nil
	if first == nil {
		s.phase, s.ended = waiting, l.now
		l.clocks.set(p)
		l.enqueue(p) // it may have been readable before the loop began with it
		return
	}
	s.began = l.now
	if s.reused {
		l.askUpstream(p)
	}
	switch {
	case p.upstream.fd >= 0:
		l.forward(p, first.request, first.pending, first.received)
	case first.received != nil:
		l.handBack(p, first.received)
	default:
		s.takeExchange(first.request)
		s.x.Abort(statusBadGateway)
		l.giveUp(p, UpstreamReset, nil)
	}
	l.serve(p)
}

// forward begins the exchange of a request, of which data has come after its head.
// received is all that the client has sent, if the request may be sent once more.
func (l *loop) forward(p *pair, r exchange.Request, data, received []byte) {
	s := p.session
	r.Last = r.Last || s.retired || s.keepalive == 0
	s.phase, s.lost, s.cause, s.err = exchanging, false, Finished, nil
	s.began, s.sent, s.headDue, s.leaveDue = l.now, 0, 0, 0
	s.up, s.down = p.up.carried, p.down.carried
	p.delivered = l.now
	p.halfClosedAt = 0
	s.ahead = nil
	s.takeExchange(r)
	up, ahead := s.x.Request(data)
	if l.over(p) {
		return // nothing is sent of a request that is known to be broken
	}
	if len(ahead) > 0 {
		s.ahead = append([]byte(nil), ahead...)
	}
	if s.x.RequestDone() {
		s.received = received
	}
	l.scratch = append(append(l.scratch[:0], r.Forwarded.Head...), up...)
	p.up.held, p.up.borrowed = l.scratch, true
	l.clocks.hasten(p)
}

// exchange carries request and response as far as they go.
func (l *loop) exchange(p *pair) {
	l.carryRequest(p)
	if p.ended == 0 && p.session != nil && p.session.phase == exchanging {
		l.carryResponse(p)
	}
	l.lookAfterClient(p)
}

// lookAfterClient notices, without reading, that the client has finished sending, or is
// gone.
func (l *loop) lookAfterClient(p *pair) {
	s := p.session
	if p.ended != 0 || p.session == nil || s.phase != exchanging || s.x.WantsRequest() && !s.lost && p.up.empty() {
		return // reading tells
	}
	if p.client.failed {
		l.collect(p, &p.client)
	}
	if p.ended == 0 && p.client.finished && p.halfClosedAt == 0 && s.x.RequestDone() {
		p.halfClosedAt = l.now
		l.clocks.hasten(p)
	}
}

// carryRequest moves bytes of the request until there are none, or the upstream takes
// none, or it is the turn of others.
func (l *loop) carryRequest(p *pair) {
	s, ln := p.session, &p.up
	for read := int64(0); p.ended == 0 && s.phase == exchanging; {
		switch {
		case s.lost:
			ln.release()
			l.pipes.giveBack(ln)
			return // whoever reads from the upstream sees why
		case !ln.empty():
			if !p.upstream.writable {
				ln.keep()
				return
			}
			l.deliverRequest(p)
		case !s.x.WantsRequest():
			l.pipes.giveBack(ln)
			if s.sent == 0 && s.x.RequestDone() {
				s.sent = l.now
				l.clocks.hasten(p)
			}
			return
		case !p.client.readable:
			l.pipes.giveBack(ln)
			return
		case read >= l.turn:
			l.enqueue(p)
			return
		default:
			read += l.fetchRequest(p)
		}
	}
}

// fetchRequest reads more of the request. It returns how many bytes.
func (l *loop) fetchRequest(p *pair) int64 {
	s, ln := p.session, &p.up
	s.received = nil
	left := s.x.RequestLeft()
	if ln.bulk && left >= bulkSize {
		ln.left = left
		if l.fill(p, ln, &p.client) {
			n := left - ln.left
			if p.ended == 0 {
				s.x.RequestPassed(n)
			}
			return n
		}
	}
	b := l.buffer
	if left > 0 {
		b = b[:min(int64(len(b)), left)]
	}
	n, err := read(p.client.fd, b)
	switch {
	case n > 0:
		p.client.readable = n == len(b) || p.client.shortReads
		ln.bulk = n >= bulkSize
		up, ahead := s.x.Request(b[:n])
		ln.held, ln.borrowed = up, true
		if len(ahead) > 0 {
			s.ahead = append([]byte(nil), ahead...)
		}
		l.over(p)
	case err == nil && socket.PeerLost(int(p.client.fd)):
		l.fail(p, &p.client, socket.ErrReset)
	case err == nil:
		s.x.RequestEnd()
		l.over(p)
	case err == unix.EAGAIN:
		p.client.readable = false
	default:
		l.fail(p, &p.client, os.NewSyscallError("read", err))
	}
	return int64(n)
}

// deliverRequest writes bytes of the request that the lane holds.
func (l *loop) deliverRequest(p *pair) {
	ln := &p.up
	switch n, err := ln.pour(p.upstream.fd); {
	case err == unix.EAGAIN:
		p.upstream.writable = false
	case err != nil || n == 0:
		p.session.lost = true
	default:
		l.count(p, ln, n)
		p.delivered = l.now
	}
}

// carryResponse moves bytes of the response until there are none, or the client takes
// none, or it is the turn of others.
func (l *loop) carryResponse(p *pair) {
	s, ln := p.session, &p.down
	for stop := ln.carried + l.turn; p.ended == 0 && p.session == s && s.phase == exchanging; {
		switch {
		case !ln.empty():
			if !p.client.writable {
				ln.keep()
				return
			}
			l.deliver(p, ln, &p.client)
		case s.x.State() == exchange.Tunnel:
			l.startTunnel(p)
		case s.x.State() != exchange.Running:
			l.complete(p)
		case !p.upstream.readable:
			l.pipes.giveBack(ln)
			return
		case ln.carried >= stop:
			l.enqueue(p)
			return
		default:
			l.fetchResponse(p)
		}
	}
}

// fetchResponse reads more of the response.
func (l *loop) fetchResponse(p *pair) {
	s, ln := p.session, &p.down
	left := s.x.ResponseLeft()
	if ln.bulk && left >= bulkSize {
		ln.left = left
		if l.fill(p, ln, &p.upstream) {
			if p.ended == 0 && s.phase == exchanging {
				s.x.ResponsePassed(left - ln.left)
			}
			return
		}
	}
	b := l.buffer[headroom:]
	n, err := read(p.upstream.fd, b)
	switch {
	case n > 0:
		p.upstream.readable = n == len(b) || p.upstream.shortReads
		ln.bulk = n >= bulkSize
		s.received = nil
		head, body := s.x.Response(l.scratch[:0], b[:n])
		ln.held, ln.borrowed = l.join(head, body), true
		p.meter.Responded(s.x.Responded())
		l.over(p)
	case err == nil && socket.PeerLost(int(p.upstream.fd)):
		l.fail(p, &p.upstream, socket.ErrReset)
	case err == nil:
		if s.x.Begun() || !l.repeat(p) {
			s.x.ResponseEnd()
			l.over(p)
		}
	case err == unix.EAGAIN:
		p.upstream.readable = false
	default:
		l.fail(p, &p.upstream, os.NewSyscallError("read", err))
	}
}

// headroom is how many bytes of the loop's buffer are left free, for a head that becomes
// longer than it was.
const headroom = 256

// join returns head and body in one. body lies in l.buffer or in memory of its own.
func (l *loop) join(head, body []byte) []byte {
	if cap(head) > cap(l.scratch) {
		l.scratch = head
	}
	switch at := cap(l.buffer) - cap(body); {
	case len(head) == 0:
		return body
	case len(body) == 0:
		return head
	case at >= len(head) && at < len(l.buffer) && &l.buffer[at] == &body[0]:
		copy(l.buffer[at-len(head):], head)
		return l.buffer[at-len(head) : at+len(body)]
	default:
		return append(head, body...)
	}
}

// over looks whether the exchange is refused or broken, and if so acts on it.
func (l *loop) over(p *pair) bool {
	switch state := p.session.x.State(); state {
	case exchange.Refused, exchange.Broken:
		cause, err := failure(p.session.x)
		l.giveUp(p, cause, err)
		return true
	default:
		return false
	}
}

// giveUp ends an exchange that is refused or broken.
func (l *loop) giveUp(p *pair, cause Cause, err error) {
	s := p.session
	if s.cause != Finished {
		return
	}
	s.cause, s.err = cause, err
	if s.x.State() == exchange.Broken {
		// What came before the fault is the client's.
		if ln := &p.down; !ln.empty() && p.client.writable {
			if n, _ := ln.pour(p.client.fd); n > 0 {
				l.count(p, ln, n)
			}
		}
		l.end(p, cause, err)
		return
	}
	l.dropUpstream(p)
	p.up.release()
	l.pipes.giveBack(&p.up)
	s.lost, s.ended = true, l.now
	// What it holds is whole interim responses, or what is left of them.
	p.down.keep()
	p.meter.Responded(s.x.Status())
	p.down.append(p.owner.Refusal(s.x.Status()))
	l.clocks.hasten(p)
}

// failSession ends an exchange because of an error of a connection.
func (l *loop) failSession(p *pair, at *endpoint, cause Cause, err error) {
	s := p.session
	status := 0
	switch {
	case s.phase != exchanging:
		l.end(p, Finished, nil)
		return
	case at == &p.upstream:
		if l.repeat(p) {
			return
		}
		status = statusBadGateway
	}
	s.x.Abort(status)
	if s.x.State() == exchange.Complete || s.cause != Finished || s.x.State() == exchange.Tunnel {
		// The response is on its way, or an answer: there is nobody to take it.
		if at == &p.client {
			l.end(p, cause, err)
		}
		return
	}
	l.giveUp(p, cause, err)
}

// repeat lets a request be sent once more, which has gone up on a connection that the
// upstream has closed meanwhile (RFC 9112 section 9.3.1).
func (l *loop) repeat(p *pair) bool {
	s := p.session
	if !s.reused || s.x.Begun() || s.received == nil {
		return false
	}
	data := s.received
	l.dropUpstream(p)
	l.handBack(p, data)
	return true
}

// complete ends an exchange whose response, or the answer in place of one, is delivered.
func (l *loop) complete(p *pair) {
	s := p.session
	l.pipes.giveBack(&p.down)
	s.received = nil
	p.up.bulk, p.down.bulk = false, false
	s.ended = l.now
	if s.sent == 0 {
		// A request that has not gone up to its end must not look complete, and none may
		// follow it: its head would be taken for the rest of this one.
		l.dropUpstream(p)
		p.up.release()
		l.pipes.giveBack(&p.up)
	}
	complete := s.x.State() == exchange.Complete
	l.account(p, s.cause, s.err)
	keepsClient, keepsUpstream, asked, blank := s.x.KeepsClient(), s.x.KeepsUpstream(), s.x.RequestDone(), s.x.Blank()
	s.giveExchangeBack()
	if complete && keepsClient && !s.retired && s.keepalive > 0 {
		s.phase, s.blank = waiting, blank
		switch {
		case p.upstream.fd < 0:
		case !keepsUpstream || s.upstreamKeepalive == 0:
			l.leaveUpstream(p)
		default:
			s.reused = true
			s.leaveDue = after(l.now, s.upstreamKeepalive)
		}
		l.clocks.hasten(p)
		return
	}
	s.phase = lingering
	s.ahead = nil
	s.linger = lingerLimit
	if !asked {
		// A client in the middle of its request fills all buffers on the way before it
		// looks for a response: it is only bounded in time.
		s.linger = forever.Nanoseconds()
	}
	l.leaveUpstream(p)
	if err := unix.Shutdown(int(p.client.fd), unix.SHUT_WR); err != nil {
		l.discard(&p.client, false)
	}
	l.clocks.hasten(p)
}

// account tells the owner of the end of an exchange.
func (l *loop) account(p *pair, cause Cause, err error) {
	s := p.session
	p.owner.Ended(Account{
		ToUpstream: p.up.carried - s.up,
		ToClient:   p.down.carried - s.down,
		Duration:   time.Since(epoch) - s.began,
		Cause:      cause,
		Err:        err,
		Engine:     "http",
	})
}

// await looks what comes between two requests.
func (l *loop) await(p *pair) {
	s := p.session
	if len(s.ahead) > 0 && s.headDue == 0 {
		// The next request was sent ahead: what follows the response has not been waited for.
		l.askUpstream(p)
		l.next(p, s.ahead)
	} else {
		l.lookAfterUpstream(p)
	}
	for p.ended == 0 && s.phase == waiting && p.client.readable {
		n, err := read(p.client.fd, l.buffer)
		switch {
		case n > 0:
			p.client.readable = n == len(l.buffer) || p.client.shortReads
			data := s.blank.Skip(l.buffer[:n])
			if len(data) == 0 {
				continue
			}
			if len(s.ahead) > 0 {
				s.ahead = append(s.ahead, data...)
				data = s.ahead
			}
			l.next(p, data)
		case err == unix.EAGAIN:
			p.client.readable = false
		case len(s.ahead) > 0:
			l.handBack(p, s.ahead) // the beginning of a request
		default:
			l.end(p, Finished, nil)
		}
	}
	if p.ended == 0 && s.phase == waiting && s.retired && len(s.ahead) == 0 {
		l.end(p, Finished, nil)
	}
}

// next asks what becomes of the request that begins data.
func (l *loop) next(p *pair, data []byte) {
	s := p.session
	kept := p.upstream.fd >= 0 && s.reused
	next := p.owner.Next(data, kept)
	switch {
	case next.Verdict == Wait:
		if s.headDue == 0 {
			s.ahead = append([]byte(nil), data...)
		}
		due := max(time.Until(next.Deadline)+l.now, 1)
		if s.headDue == 0 || due < s.headDue {
			s.headDue = due
		}
		l.clocks.hasten(p)
	case next.Verdict == Forward && kept && (next.Repeatable || l.now-s.ended <= freshAnswer):
		var received []byte
		if next.Repeatable {
			received = append(received, data...)
		}
		l.forward(p, next.Request, data[next.HeadLen:], received)
	default:
		if next.Verdict == Forward {
			l.dropUpstream(p) // a request that must not be sent twice needs a fresh one
		}
		l.handBack(p, data)
	}
}

// lingerOn reads from the client, and drops it, until it closes its connection, and leaves
// the upstream time to close its own.
func (l *loop) lingerOn(p *pair) {
	s := p.session
	l.lookAfterUpstream(p)
	for dropped := int64(0); p.client.fd >= 0 && p.client.readable; {
		if dropped >= l.turn {
			l.enqueue(p)
			return
		}
		n, err := read(p.client.fd, l.buffer)
		dropped += int64(n)
		s.linger -= int64(n)
		switch {
		case n > 0 && s.linger > 0:
		case n == 0 && err == unix.EAGAIN:
			p.client.readable = false
		default:
			l.discard(&p.client, false)
		}
	}
	if p.client.fd < 0 && p.upstream.fd < 0 {
		l.end(p, Finished, nil)
	}
}

// leaveUpstream waits for the upstream to close its connection, if there is one.
func (l *loop) leaveUpstream(p *pair) {
	s := p.session
	s.reused = false
	if p.upstream.fd >= 0 {
		s.leaveDue = after(l.now, upstreamPatience)
	}
}

// askUpstream is lookAfterUpstream where no event would have told.
func (l *loop) askUpstream(p *pair) {
	p.upstream.readable = true
	l.lookAfterUpstream(p)
}

// lookAfterUpstream lets go of the upstream's connection, of which no request is under way,
// if the upstream closes it, or sends what nobody has asked for.
func (l *loop) lookAfterUpstream(p *pair) {
	if p.upstream.fd < 0 || !p.upstream.readable {
		return
	}
	switch n, err := read(p.upstream.fd, l.buffer[:1]); {
	case n == 0 && err == nil:
		l.forgetUpstream(p, false)
	case err == unix.EAGAIN:
		p.upstream.readable = false
	default:
		l.dropUpstream(p)
	}
}

// dropUpstream resets the upstream's connection, if there is one.
func (l *loop) dropUpstream(p *pair) {
	if p.upstream.fd < 0 {
		return
	}
	l.forgetUpstream(p, true)
}

func (l *loop) forgetUpstream(p *pair, reset bool) {
	l.discard(&p.upstream, reset)
	p.session.reused, p.session.leaveDue = false, 0
	p.owner.Dropped()
}

// startTunnel makes the pair a raw stream.
func (l *loop) startTunnel(p *pair) {
	s := p.session
	s.giveExchangeBack()
	p.session = nil
	p.owner.Tunnelled()
	p.started = s.began
	p.up.carried -= s.up
	p.down.carried -= s.down
	p.up.left, p.down.left = unlimited, unlimited
	p.up.bulk, p.down.bulk = false, false
	p.halfClosedAt = 0
	// What was sent ahead may be the tunnel's; the rest lies in the sockets.
	p.up.append(s.ahead)
	p.client.readable, p.upstream.readable = true, true
	l.clocks.set(p)
	l.enqueue(p)
}

// handBack gives the client's connection, of which data has been read, to the owner, and
// that of the upstream if it is kept. The session is over.
func (l *loop) handBack(p *pair, data []byte) {
	s := p.session
	s.phase = waiting // nothing has ended
	data = append([]byte(nil), data...)
	if p.upstream.fd >= 0 && !s.reused {
		l.dropUpstream(p)
	}
	client, upstream := l.leave(&p.client), -1
	if p.upstream.fd >= 0 {
		upstream = l.leave(&p.upstream)
	}
	var due time.Time
	if s.headDue != 0 {
		due = epoch.Add(s.headDue)
	}
	p.taken = func() (take func()) { return p.handOver(client, upstream, data, due) }
	l.end(p, Finished, nil)
}

// handOver makes connections of the descriptors that a session has left. It returns what
// gives them to the owner, nil if the client's is lost.
func (p *pair) handOver(client, upstream int, data []byte, due time.Time) (take func()) {
	var kept net.Conn
	switch {
	case upstream < 0:
	case p.upstream.tcp && hasDescriptor():
		kept = socket.NewBare(upstream)
	case p.upstream.tcp: // one that is only kept makes room
		unix.Close(upstream)
		p.owner.Dropped()
	default:
		var err error
		if kept, err = socket.FromDescriptor(upstream); err != nil {
			p.owner.Dropped()
		}
	}
	conn, err := socket.FromDescriptor(client)
	if err != nil {
		p.engine.warn("a client's connection is closed between two requests", err)
		if kept != nil {
			socket.Reset(kept)
			p.owner.Dropped()
		}
		return nil
	}
	return func() {
		p.owner.Take(conn, data, due, kept, p.forget)
		p.forget()
	}
}

// hasDescriptor reports whether there is one left.
func hasDescriptor() bool {
	fd, err := unix.Dup(0)
	if err == nil {
		unix.Close(fd)
	}
	return err != unix.EMFILE && err != unix.ENFILE
}

// leave takes a socket out of the loop, which does not close it.
func (l *loop) leave(s *endpoint) (fd int) {
	l.mu.Lock()
	delete(l.sockets, s.fd)
	l.mu.Unlock()
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, int(s.fd), nil)
	fd = int(s.fd)
	s.fd = -1
	return fd
}

// endSession accounts for an exchange that is cut off, and lets go of the upstream's
// connection.
func (l *loop) endSession(p *pair, cause Cause, err error) {
	if s := p.session; s.phase == exchanging {
		if s.cause != Finished { // the first of several
			cause, err = s.cause, s.err
		}
		l.account(p, cause, err)
	}
	l.dropUpstream(p)
}

// deadline returns when something is due in a session if nothing happens.
func (s *session) deadline(p *pair) (at time.Duration, cause Cause) {
	at = forever
	earlier := func(t time.Duration, c Cause) {
		if t < at {
			at, cause = t, c
		}
	}
	if s.leaveDue != 0 {
		at = s.leaveDue
	}
	switch s.phase {
	case lingering:
		if p.client.fd >= 0 {
			earlier(after(s.ended, lingerTimeout), Finished)
		}
	case waiting:
		if s.headDue != 0 {
			earlier(s.headDue, Finished)
		} else {
			earlier(after(s.ended, s.keepalive), Finished)
		}
	case exchanging:
		if s.cause != Finished {
			earlier(after(s.ended, lingerTimeout), s.cause) // for the answer to be taken
			break
		}
		if p.idle > 0 {
			earlier(after(p.delivered, p.idle), IdleTimeout)
		}
		if p.halfClosedAt != 0 && p.halfClose > 0 {
			earlier(after(max(p.delivered, p.halfClosedAt), p.halfClose), HalfCloseTimeout)
		}
		if s.sent != 0 && s.responseHeader > 0 && !s.x.Answered() {
			earlier(after(s.sent, s.responseHeader), ResponseTimeout)
		}
	}
	return at, cause
}

// expire acts on a session of which something is due.
func (l *loop) expire(p *pair, cause Cause) {
	s := p.session
	switch {
	case s.leaveDue != 0 && s.leaveDue <= l.now:
		s.leaveDue = 0
		l.dropUpstream(p)
	case s.phase == lingering:
		l.discard(&p.client, false) // not with a reset, which could overtake the response
	case s.phase == waiting && s.headDue != 0:
		l.handBack(p, s.ahead)
	case s.phase == waiting:
		l.end(p, Finished, nil)
	case s.cause != Finished:
		l.end(p, Finished, nil) // nor does the client take the answer
	default:
		s.x.Abort(statusGatewayTimeout)
		if state := s.x.State(); state == exchange.Complete || state == exchange.Tunnel {
			l.end(p, cause, nil) // the client does not take the response
			return
		}
		l.giveUp(p, cause, nil)
	}
	if p.ended == 0 {
		l.enqueue(p)
		l.clocks.set(p)
	}
}

// kill ends p with the cause Killed, and reports whether it did. A session of which no request
// is under way at its upstream loses that connection alone.
func (l *loop) kill(p *pair) bool {
	if s := p.session; p.ended == 0 && s != nil && (s.phase != exchanging || p.upstream.fd < 0) {
		l.dropUpstream(p)
		l.enqueue(p) // it may have waited for nothing else
		return false
	}
	return l.end(p, Killed, nil)
}

// retire lets the session end with the response under way, or at once.
func (l *loop) retire(p *pair) {
	s := p.session
	if s == nil || p.ended != 0 {
		return
	}
	s.retired = true
	if s.x != nil {
		s.x.End()
	}
	l.enqueue(p)
}
