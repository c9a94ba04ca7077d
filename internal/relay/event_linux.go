package relay

import (
	"errors"
	"math"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Event is the engine for sockets on Linux. A few loops, a goroutine each, own all its
// streams: an idle one costs its two descriptors and a record, no goroutine, no buffer
// and no timer. Bytes in bulk go through a pipe and do not leave the kernel.
//
// Bare *net.TCPConn and *net.UnixConn are taken over by descriptor: when Start returns
// they are closed, and the sockets under them the engine's. All else, and a stream that
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
var epoch = time.Now()

// Start implements [Engine].
func (e *Event) Start(s *Stream) (detached bool) {
	p := e.takeOver(s)
	if p == nil {
		return Portable{Streams: e.Streams}.Start(s)
	}
	// The runtime's poller lets go of the sockets, which stay open.
	s.Client.Close()
	s.Upstream.Close()
	p.enrol()
	return true
}

// enrol registers p and lets its loop begin with it, in one: who ends p meanwhile waits.
// Else p could be over, and out of one registry, before it is in the other, for ever.
// The loop's lock comes before those of the registries, which end nothing while they
// hold theirs.
func (p *pair) enrol() {
	p.loop.mu.Lock()
	defer p.loop.mu.Unlock()
	p.engine.Streams.add(p)
	p.group.add(p)
	p.loop.postLocked(message{pair: p})
}

// takeOver returns the record of s with descriptors of its own, or nil if s is not for
// this engine.
func (e *Event) takeOver(s *Stream) *pair {
	if !socket.Is(s.Client) || !socket.Is(s.Upstream) {
		return nil
	}
	p := &pair{
		engine:    e,
		group:     s.Group,
		done:      s.Done,
		started:   time.Since(epoch),
		idle:      s.IdleTimeout,
		halfClose: s.HalfCloseTimeout,
		clock:     noClock,
	}
	p.delivered = p.started
	p.up.accept(s.ToUpstream)
	p.down.accept(s.ToClient)

	err := p.client.dup(p, s.Client)
	if err == nil {
		if err = p.upstream.dup(p, s.Upstream); err == nil {
			if err = p.join(); err == nil {
				return p
			}
			unix.Close(int(p.upstream.fd))
		}
		unix.Close(int(p.client.fd))
	}
	if !errors.Is(err, net.ErrClosed) {
		e.warn("a stream is relayed by goroutines: no event loop could take it", err)
	}
	return nil
}

// warn calls Warn, unless it did lately.
func (e *Event) warn(message string, err error) {
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

	loop    *loop  // constant
	engine  *Event // constant
	group   *Registry
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
	gone   bool // closed and forgotten by the loop; guarded by loop.mu
	err    error
}

// endpoint is one of the two connections of a pair.
type endpoint struct {
	pair               *pair
	fd                 int32
	tcp                bool
	readable, writable bool // as far as is known
	wary               bool // reading less than was asked for does not mean that there is no more, as before urgent data
	failed             bool // an error is to be collected
}

// dup makes s a second descriptor of c.
func (s *endpoint) dup(p *pair, c net.Conn) error {
	fd, err := socket.Dup(c)
	if err != nil {
		return err
	}
	_, tcp := c.(*net.TCPConn)
	// What it is ready to be read for, epoll tells.
	*s = endpoint{pair: p, fd: int32(fd), tcp: tcp, writable: true, wary: !tcp}
	return nil
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
		ln.left = math.MaxInt64
	case d.Limit > 0:
		ln.left = d.Limit
	}
	ln.held = d.Pending[:min(int64(len(d.Pending)), ln.left)]
	ln.left -= int64(len(ln.held))
}

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
	return p.loop.post(message{p, cause, err, first}) && <-first
}

// conclude accounts for the stream. It is a goroutine, since Done may take its time.
func (p *pair) conclude() {
	if p.done != nil {
		p.done(Account{
			ToUpstream: p.up.carried,
			ToClient:   p.down.carried,
			Duration:   p.ended - p.started,
			Cause:      p.cause,
			Err:        p.err,
			Engine:     "event",
		})
	}
	p.engine.Streams.remove(p)
	p.group.remove(p)
}
