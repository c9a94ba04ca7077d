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

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Portable is the engine that works everywhere and with any connection: two
// goroutines a stream. An idle direction that reads from a bare TCP or Unix socket
// holds no buffer (on Unix), any other a pooled one.
type Portable struct {
	Streams *Registry // where its streams are registered; nil: nowhere
}

// Start implements [Engine].
func (p Portable) Start(s *Stream) (detached bool) {
	client := side{s.Client, ClientReset, ClientError}
	upstream := side{s.Upstream, UpstreamReset, UpstreamError}
	st := &stream{
		meter:     s.Meter,
		started:   time.Now(),
		idle:      s.IdleTimeout,
		halfClose: s.HalfCloseTimeout,
		done:      s.Done,
		registry:  p.Streams,
		group:     s.Group,
	}
	st.up = flow{stream: st, src: client, dst: upstream, back: &st.down,
		pending: s.ToUpstream.Pending, limit: s.ToUpstream.Limit}
	st.down = flow{stream: st, src: upstream, dst: client, back: &st.up,
		pending: s.ToClient.Pending, limit: s.ToClient.Limit}
	st.up.guard = newGuard(s.Client, func(err error) { st.fail(client, err) })
	st.down.guard = newGuard(s.Upstream, func(err error) { st.fail(upstream, err) })
	st.running.Store(2)

	client.SetDeadline(time.Time{})
	upstream.SetDeadline(time.Time{})
	st.registry.add(st)
	st.group.add(st)
	st.expire = func(cause Cause) { st.end(cause, nil) }
	st.checkClocks()
	go st.up.run()
	go st.down.run()
	return false
}

// side is one of the two connections, with the names of what may befall it.
type side struct {
	net.Conn
	reset, failed Cause
}

// stream is the record of a stream in flight.
type stream struct {
	up, down        flow
	started         time.Time
	idle, halfClose time.Duration
	expire          func(Cause) // ends the stream when a clock has run out
	done            func(Account)
	registry, group *Registry
	meter           *account.Meter

	running   atomic.Int32 // flows that have not left
	delivered atomic.Int64 // when a byte was last delivered: nanoseconds since started

	ending sync.Once
	cause  Cause // set by the first call of end
	err    error

	mu           sync.Mutex
	timer        *time.Timer   // nil until a clock runs
	halfClosed   bool          // one direction is over …
	halfClosedAt time.Duration // … since then, measured from started
	gone         bool          // both flows have left: the timer is not set again
}

// end closes both connections for the given cause, unless another cause was
// first, and says whether it did. It returns when they are closed.
func (s *stream) end(cause Cause, err error) (first bool) {
	s.ending.Do(func() {
		first = true
		s.cause, s.err = cause, err
		for _, c := range [...]net.Conn{s.up.src.Conn, s.up.dst.Conn} {
			if cause.abrupt() {
				socket.Reset(c)
			} else {
				c.Close()
			}
		}
	})
	return first
}

// fail ends the stream because of an error of one side.
func (s *stream) fail(at side, err error) {
	if socket.IsReset(err) {
		s.end(at.reset, nil)
	} else {
		s.end(at.failed, err)
	}
}

// leave is the last act of each flow. The second one ends the stream, if nothing
// else has, and accounts for it.
func (s *stream) leave() {
	if s.running.Add(-1) == 0 {
		s.conclude("portable")
		s.registry.remove(s)
		s.group.remove(s)
	}
}

// conclude ends the stream, if nothing else has, and accounts for it.
func (s *stream) conclude(engine string) {
	s.end(Finished, nil)
	s.stopClocks()
	if s.done != nil {
		s.done(s.account(engine, s.cause, s.err))
	}
}

// account returns what has become of the stream.
func (s *stream) account(engine string, cause Cause, err error) Account {
	return Account{
		ToUpstream: s.up.delivered.Load(),
		ToClient:   s.down.delivered.Load(),
		Duration:   time.Since(s.started),
		Cause:      cause,
		Err:        err,
		Engine:     engine,
	}
}

// retire implements member.
func (s *stream) retire(func(Owner) bool) {}

// ownerOf implements member.
func (s *stream) ownerOf() Owner { return nil }

// meterOf implements member.
func (s *stream) meterOf() *account.Meter { return s.meter }

// flow is one direction of a stream.
type flow struct {
	stream    *stream
	src, dst  side
	back      *flow // the other direction
	pending   []byte
	limit     int64
	delivered atomic.Int64
	guard     guard       // of the source
	stopped   atomic.Bool // read no more: deliver what is in hand, then leave
	shut      atomic.Bool // the destination's writing is, or is about to be, shut down
}

// run is the goroutine of the flow. It ends when both directions are over or one of
// the connections fails or is closed.
func (f *flow) run() {
	defer f.stream.leave()
	switch {
	case !f.carry():
	case !f.stream.startHalfClose():
		f.stream.end(Finished, nil)
	default:
		// Nothing is read from the source any more that would tell of a reset.
		if err := socket.AwaitHangUp(f.src.Conn); err != nil {
			f.stream.fail(f.src, err)
		}
	}
}

// carry delivers bytes until the direction is over (true), or until an error of a
// connection has ended the stream (false).
func (f *flow) carry() bool {
	left := f.limit
	if left == 0 {
		left = math.MaxInt64
	}
	if len(f.pending) > 0 && left > 0 {
		p := f.pending[:min(int64(len(f.pending)), left)]
		f.pending = nil // the stream may be long and idle
		left -= int64(len(p))
		if !f.deliver(p) {
			return false
		}
	}
	src := socket.NewReader(f.src.Conn)
	for left > 0 && !f.stopped.Load() {
		p, err := src.Read(left)
		left -= int64(len(p))
		delivered := f.deliver(p)
		socket.GiveBack(p)
		switch {
		case !delivered:
			return false
		case err == nil, left == 0:
		case err == io.EOF: // itself: a wrapped one is an error
			return f.passEnd()
		case f.stopped.Load() && errors.Is(err, os.ErrDeadlineExceeded):
		default:
			f.stream.fail(f.src, err)
			return false
		}
	}
	return true
}

// deliver writes p to the destination. If that fails, it ends the stream.
func (f *flow) deliver(p []byte) bool {
	if err := f.write(p); err != nil {
		f.stream.fail(f.dst, err)
		return false
	}
	return true
}

// write writes p to the destination and accounts for it.
func (f *flow) write(p []byte) error {
	f.guard.begin()
	defer f.guard.end()
	for len(p) > 0 {
		n, err := f.dst.Write(p)
		if n > 0 {
			p = p[n:]
			f.delivered.Add(int64(n))
			portableTally.delivered(f == &f.stream.up, n)
			f.stream.meter.Delivered(account.Direction(f == &f.stream.up), int64(n))
			f.stream.delivered.Store(int64(time.Since(f.stream.started)))
		} else if err == nil {
			err = io.ErrNoProgress
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// passEnd tells the destination that nothing follows. If that fails, it ends the
// stream.
func (f *flow) passEnd() bool {
	// In this order: the other flow may be shutting the source down at this moment.
	if socket.LostPeer(f.src.Conn) && !f.back.shut.Load() {
		f.stream.fail(f.src, socket.ErrReset)
		return false
	}
	f.shut.Store(true)
	switch err := socket.CloseWrite(f.dst.Conn); err {
	case nil:
		return true
	case errors.ErrUnsupported:
		// Only closing it can tell. Let the way back deliver what it has in hand.
		f.back.stopped.Store(true)
		if f.dst.SetReadDeadline(time.Unix(1, 0)) == nil {
			return true
		}
		f.stream.end(Finished, nil)
		return false
	default:
		f.stream.fail(f.dst, err)
		return false
	}
}

// checkClocks ends the stream if a clock has run out, else it sets the timer to the
// earlier of those that run, if any does. It is the timer's function.
func (s *stream) checkClocks() {
	s.mu.Lock()
	left, cause := s.timeLeft()
	expired := left <= 0
	switch {
	case s.gone || expired || left == forever:
	case s.timer == nil:
		s.timer = time.AfterFunc(left, s.checkClocks)
	default:
		s.timer.Reset(left)
	}
	s.mu.Unlock()
	if expired {
		s.expire(cause)
	}
}

// startHalfClose notes that a direction is over: from the first one on the
// half-close timeout holds. It reports whether this was the first one.
func (s *stream) startHalfClose() (first bool) {
	s.mu.Lock()
	if first = !s.halfClosed; first {
		s.halfClosed, s.halfClosedAt = true, time.Since(s.started)
	}
	s.mu.Unlock()
	s.checkClocks()
	return first
}

// stopClocks stops the timer for good.
func (s *stream) stopClocks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

const forever time.Duration = math.MaxInt64

// timeLeft returns after what time the stream ends if no more bytes are delivered,
// and why. s.mu is held.
func (s *stream) timeLeft() (left time.Duration, cause Cause) {
	now, delivered := time.Since(s.started), time.Duration(s.delivered.Load())
	left = forever
	if s.idle > 0 {
		left, cause = s.idle-(now-delivered), IdleTimeout
	}
	if s.halfClosed && s.halfClose > 0 {
		if l := s.halfClose - (now - max(delivered, s.halfClosedAt)); l < left {
			left, cause = l, HalfCloseTimeout
		}
	}
	return left, cause
}
