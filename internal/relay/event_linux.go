package relay

import (
	"errors"
	"math"
	"net"
	"sync/atomic"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Event is the engine for sockets on Linux. A few loops, a goroutine each, own all its
// streams: an idle one costs its two descriptors and a record, no goroutine, no buffer
// and no timer. Bytes in bulk go through a pipe and do not leave the kernel.
//
// Sockets, as of [socket.Is], are taken over by descriptor: when Start returns the
// connections are closed, and the sockets under them the engine's. All else, and a stream that
// comes when descriptors are short, goes to [Portable].
type Event struct {
	Streams *Registry // where its streams are registered; nil: nowhere

	// Warn is told, in a goroutine of its own and at most once a minute, what the
	// engine is short of and makes do without. May be nil.
	Warn func(message string, err error)

	warned atomic.Int64 // when Warn was last called: nanoseconds since epoch
}

func newEngine(streams *Registry, warn func(string, error)) Engine {
	return &Event{Streams: streams, Warn: warn}
}

// epoch is what the engine's times are measured from: a time.Duration is a third of a
// time.Time.
var epoch = account.Epoch

// Start implements [Engine].
func (e *Event) Start(s *Stream) (detached bool) {
	p := &pair{group: s.Group, meter: s.Meter, done: s.Done, idle: s.IdleTimeout, halfClose: s.HalfCloseTimeout}
	p.up.accept(s.ToUpstream)
	p.down.accept(s.ToClient)
	if err := e.takeOver(p, s.Client, s.Upstream, socket.Lend); err != nil {
		e.warn(relayedByGoroutines, err)
		return Portable{Streams: e.Streams}.Start(s)
	}
	p.enrol()
	return true
}

// enrol registers p and lets its loop begin with it, in one step: whoever ends p meanwhile
// waits. Else p could end, and leave one registry, before it is added to the other, where
// it would then stay. The loop's lock comes before those of the registries, which end
// nothing while they hold theirs.
func (p *pair) enrol() {
	p.loop.mu.Lock()
	defer p.loop.mu.Unlock()
	p.engine.Streams.add(p)
	p.group.add(p)
	p.loop.postLocked(message{pair: p})
}

// errNoSocket says that a connection is not for this engine.
var errNoSocket = errors.New("no socket")

// relayedByGoroutines is what is warned of where a stream goes to the portable engine.
const relayedByGoroutines = "a stream is relayed by goroutines: no event loop could take it"

// takeOver gives p the two sockets, by lend, and a loop. upstream may be nil. After an error
// the connections are as they were.
func (e *Event) takeOver(p *pair, client, upstream net.Conn, lend func(net.Conn) (socket.Loan, error)) error {
	if !socket.Is(client) || upstream != nil && !socket.Is(upstream) {
		return errNoSocket
	}
	p.engine, p.clock = e, noClock
	p.started = time.Since(epoch)
	p.delivered = p.started

	toClient, err := p.client.borrow(p, client, lend)
	if err != nil {
		return err
	}
	toUpstream, err := p.upstream.borrow(p, upstream, lend)
	if err == nil {
		if err = p.join(); err == nil {
			toClient.Keep()
			toUpstream.Keep()
			return nil
		}
		toUpstream.Return()
	}
	toClient.Return()
	return err
}

// warn calls Warn, unless it did lately, or err is none of a shortage.
func (e *Event) warn(message string, err error) {
	if errors.Is(err, net.ErrClosed) || err == errNoSocket {
		return
	}
	now, last := int64(time.Since(epoch)), e.warned.Load()
	if e.Warn == nil || last != 0 && now-last < int64(time.Minute) || !e.warned.CompareAndSwap(last, now) {
		return
	}
	go e.Warn(message, err)
}

// pair is the record of a stream. Only its loop touches it, except where a field says
// otherwise.
type pair struct {
	client, upstream endpoint
	up, down         lane

	session *session             // nil: a raw stream
	owner   Owner                // of the session, or of what has become a raw stream; else nil
	taken   func() (take func()) // hands over what a session has left, when it is over

	loop    *loop  // constant
	engine  *Event // constant
	group   *Registry
	meter   *account.Meter
	done    func(Account)
	started time.Duration // these times since epoch
	ended   time.Duration // 0: not ended

	idle, halfClose time.Duration
	delivered       time.Duration // when a byte was last delivered
	halfClosedAt    time.Duration // when the first direction was over; 0: none is
	due             time.Duration // not before then has a clock run out
	clock           int32         // the place among the loop's clocks, or noClock

	cause  Cause
	begun  bool // the loop serves it
	queued bool // in loop.ready
	parked bool // by Park; constant
	waits  bool // counted as waiting for a request
	gone   bool // closed and forgotten by the loop; guarded by loop.mu
	err    error
}

// endpoint is one of the two connections of a pair.
type endpoint struct {
	pair               *pair
	fd                 int32
	tcp                bool
	readable, writable bool // as far as is known
	shortReads         bool // a read may return less than there is, as before urgent data
	failed             bool // an error is to be collected
	finished           bool // its peer has finished sending
}

// borrow gives s the socket c, by lend, or nothing if c is nil.
func (s *endpoint) borrow(p *pair, c net.Conn, lend func(net.Conn) (socket.Loan, error)) (loan socket.Loan, err error) {
	if c == nil {
		s.fd = -1
		return loan, nil
	}
	if loan, err = lend(c); err != nil {
		return loan, err
	}
	tcp := socket.IsTCPSocket(c)
	// epoll tells when it can be read.
	*s = endpoint{pair: p, fd: int32(loan.FD), tcp: tcp, writable: true, shortReads: !tcp}
	return loan, nil
}

// lane is one direction of a pair: it holds bytes, in memory or in a pipe, only while
// its destination does not take them, and does not read meanwhile.
type lane struct {
	held     []byte // read and not delivered
	buffer   []byte // the pooled buffer that held lies in, if it lies in one
	pipe     *pipe  // where bytes go in bulk; nil: none
	left     int64  // bytes still to be read
	carried  int64  // bytes delivered
	borrowed bool   // held lies in the loop's buffer
	bulk     bool   // bytes come in large pieces
	over     bool   // nothing is read or delivered any more
	shut     bool   // the destination's writing is shut down
}

// accept takes over what s says of the direction.
func (ln *lane) accept(d Direction) {
	switch {
	case d.Limit == 0:
		ln.left = unlimited
	case d.Limit > 0:
		ln.left = d.Limit
	}
	ln.held = d.Pending[:min(int64(len(d.Pending)), ln.left)]
	ln.left -= int64(len(ln.held))
}

// unlimited is what is left of a direction that has no limit.
const unlimited = math.MaxInt64

// empty reports whether all that was read is delivered.
func (ln *lane) empty() bool {
	return len(ln.held) == 0 && (ln.pipe == nil || ln.pipe.held == 0)
}

// ends returns where the bytes of ln come from and where they go.
func (p *pair) ends(ln *lane) (src, dst *endpoint) {
	if ln == &p.up {
		return &p.client, &p.upstream
	}
	return &p.upstream, &p.client
}

// opposite returns the other direction.
func (p *pair) opposite(ln *lane) *lane {
	if ln == &p.up {
		return &p.down
	}
	return &p.up
}

// names returns what errors of s are called.
func (p *pair) names(s *endpoint) (reset, failed Cause) {
	if s == &p.client {
		return ClientReset, ClientError
	}
	return UpstreamReset, UpstreamError
}

// end implements member.
func (p *pair) end(cause Cause, err error) bool {
	first := make(chan bool, 1)
	return p.loop.post(message{pair: p, cause: cause, err: err, first: first}) && <-first
}

// meterOf implements member.
func (p *pair) meterOf() *account.Meter { return p.meter }

// ownerOf implements member.
func (p *pair) ownerOf() Owner { return p.owner }

// retire implements member.
func (p *pair) retire(which func(Owner) bool) {
	if p.owner != nil && (which == nil || which(p.owner)) {
		p.loop.post(message{pair: p, retire: true})
	}
}

// conclude accounts for the stream. It is a goroutine, since Done may take its time.
func (p *pair) conclude() {
	account := Account{
		ToUpstream: p.up.carried,
		ToClient:   p.down.carried,
		Duration:   p.ended - p.started,
		Cause:      p.cause,
		Err:        p.err,
		Engine:     "event",
	}
	switch {
	case p.done != nil:
		p.done(account)
	case p.owner == nil:
	case p.session == nil: // it had become a tunnel
		p.owner.Ended(account)
		p.owner.Dropped()
		p.owner.Closed()
	default:
		p.concludeSession()
		return
	}
	p.forget()
}

// concludeSession tells the owner that the session is over, and hands over what is left.
func (p *pair) concludeSession() {
	var take func()
	if p.taken != nil {
		take = p.taken()
	}
	p.owner.Closed()
	if take == nil {
		p.forget()
		return
	}
	take()
}

// forget takes p out of the registries.
func (p *pair) forget() {
	p.engine.Streams.remove(p)
	p.group.remove(p)
}
