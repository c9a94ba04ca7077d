package relay

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Event is the engine for sockets on Linux. A few loops, a goroutine each, own all its
// streams: an idle one costs its two descriptors and a record, no goroutine, no buffer
// and no timer. Bytes in bulk go through a pipe and do not leave the kernel.
//
// Bare *net.TCPConn and *net.UnixConn are taken over by descriptor. All else, and a
// stream that comes when descriptors are short, goes to [Portable].
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
func (e *Event) Start(s *Stream) {
	p := e.takeOver(s)
	if p == nil {
		Portable{Streams: e.Streams}.Start(s)
		return
	}
	// The runtime's poller lets go of the sockets, which stay open.
	s.Client.Close()
	s.Upstream.Close()
	e.Streams.add(p)
	p.loop.post(message{pair: p})
}

// takeOver returns the record of s with descriptors of its own, or nil if s is not for
// this engine.
func (e *Event) takeOver(s *Stream) *pair {
	if !isSocket(s.Client) || !isSocket(s.Upstream) {
		return nil
	}
	p := &pair{
		engine:    e,
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
			if p.loop, err = join(p.client.fd, p.upstream.fd); err == nil {
				return p
			}
			unix.Close(int(p.upstream.fd))
		}
		unix.Close(int(p.client.fd))
	}
	if !errors.Is(err, net.ErrClosed) {
		e.warn("a stream takes more memory than it has to", err)
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

// isSocket reports whether the bytes of c come from a socket and nothing else.
func isSocket(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// pair is the record of a stream. Only its loop touches it, except where a field says
// otherwise.
type pair struct {
	client, upstream socket
	up, down         lane

	loop    *loop  // constant
	engine  *Event // constant
	done    func(Account)
	started time.Duration // these times since epoch
	ended   time.Duration // 0: not ended

	idle, halfClose time.Duration
	delivered       time.Duration // when a byte was last delivered
	halfClosedAt    time.Duration // when the first direction was over; 0: none is
	due             time.Duration // not before then has a clock run out
	clock           int32         // the place among the loop's clocks, or noClock

	cause  Cause
	queued bool // in loop.ready
	gone   bool // closed and forgotten by the loop; guarded by loop.mu
	err    error
}

// socket is one of the two connections of a pair.
type socket struct {
	pair               *pair
	fd                 int32
	tcp                bool
	readable, writable bool // as far as is known
	failed             bool // an error is to be collected
}

// dup makes s a second descriptor of c.
func (s *socket) dup(p *pair, c net.Conn) error {
	_, tcp := c.(*net.TCPConn)
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	var dupErr error
	err = raw.Control(func(original uintptr) {
		fd, dupErr = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err = errors.Join(err, os.NewSyscallError("dup", dupErr)); err != nil {
		return err
	}
	// Somebody may have called Fd of an *os.File of it.
	if err = unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	*s = socket{pair: p, fd: int32(fd), tcp: tcp}
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
func (p *pair) ends(ln *lane) (src, dst *socket) {
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
func (p *pair) names(s *socket) (reset, failed Cause) {
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
}

// turn bounds, in bytes, what a direction moves before other streams have their turn.
const turn = 1 << 20

// serve moves what bytes can be moved in both directions.
func (l *loop) serve(p *pair) {
	for _, ln := range [...]*lane{&p.up, &p.down} {
		if !ln.over {
			l.carry(p, ln)
		}
		if src, _ := p.ends(ln); ln.over && src.failed {
			l.collect(p, src)
		}
	}
}

// carry moves bytes until the source has none, the destination takes none, the
// direction is over, or it is the turn of others.
func (l *loop) carry(p *pair, ln *lane) {
	src, dst := p.ends(ln)
	for stop := ln.carried + turn; p.ended == 0 && !ln.over; {
		switch {
		case !ln.empty():
			if !dst.writable {
				ln.keep()
				return
			}
			l.deliver(p, ln, dst)
		case ln.left == 0:
			l.finish(p, ln)
		case !src.readable:
			l.pipes.giveBack(ln)
			return
		case ln.carried >= stop:
			l.enqueue(p)
			return
		default:
			l.fetch(p, ln, src)
		}
	}
}

// fetch reads bytes. The lane is empty.
func (l *loop) fetch(p *pair, ln *lane, src *socket) {
	if ln.bulk && l.fill(p, ln, src) {
		return
	}
	n, err := read(src.fd, l.buffer[:min(int64(len(l.buffer)), ln.left)])
	switch {
	case n > 0:
		ln.held, ln.borrowed = l.buffer[:n], true
		ln.left -= int64(n)
		ln.bulk = ln.bulk || n == len(l.buffer)
	case err == nil:
		l.passEnd(p, ln)
	case err == unix.EAGAIN:
		src.readable = false
	default:
		l.fail(p, src, os.NewSyscallError("read", err))
	}
}

// deliver writes bytes that the lane holds.
func (l *loop) deliver(p *pair, ln *lane, dst *socket) {
	var n int
	var err error
	if len(ln.held) > 0 {
		n, err = write(dst.fd, ln.held)
		if ln.held = ln.held[n:]; len(ln.held) == 0 {
			ln.release()
		}
	} else {
		n, err = ln.pipe.pour(dst.fd)
	}
	if n > 0 {
		ln.carried += int64(n)
		p.delivered = l.now
	}
	switch {
	case err == unix.EAGAIN:
		dst.writable = false
	case err != nil:
		l.fail(p, dst, os.NewSyscallError("write", err))
	case n == 0:
		l.fail(p, dst, io.ErrNoProgress)
	}
}

// keep moves held bytes from the loop's buffer to one of their own.
func (ln *lane) keep() {
	if !ln.borrowed {
		return
	}
	ln.buffer = takeBuffer(len(ln.held) > smallSize, int64(len(ln.held)))
	copy(ln.buffer, ln.held)
	ln.held, ln.borrowed = ln.buffer, false
}

// release lets go of the memory behind held.
func (ln *lane) release() {
	giveBack(ln.buffer)
	ln.held, ln.buffer, ln.borrowed = nil, nil, false
}

// passEnd tells the destination that nothing follows, and finishes the direction.
func (l *loop) passEnd(p *pair, ln *lane) {
	src, dst := p.ends(ln)
	if src.tcp && !p.opposite(ln).shut && isGone(src.fd) {
		l.fail(p, src, errReset)
		return
	}
	ln.shut = true
	if err := unix.Shutdown(int(dst.fd), unix.SHUT_WR); err != nil && err != errNotConnected {
		l.fail(p, dst, os.NewSyscallError("shutdown", err))
		return
	}
	l.finish(p, ln)
}

// isGone is lostPeer for a descriptor: a reset that follows an end of sending leaves
// only the end to be read.
func isGone(fd int32) bool {
	_, err := unix.Getpeername(int(fd))
	return err == unix.ENOTCONN
}

// finish notes that a direction is over.
func (l *loop) finish(p *pair, ln *lane) {
	l.pipes.giveBack(ln)
	ln.over = true
	if p.opposite(ln).over {
		l.end(p, Finished, nil)
		return
	}
	p.halfClosedAt = l.now
	l.clocks.set(p)
}

// collect ends the stream if s, of which nothing is read any more, has failed.
// Elsewhere reading tells, after the bytes that came before.
func (l *loop) collect(p *pair, s *socket) {
	if p.ended != 0 {
		return
	}
	s.failed = false
	if errno, err := unix.GetsockoptInt(int(s.fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
		l.fail(p, s, syscall.Errno(errno))
	}
}

// fail ends the stream because of an error of s.
func (l *loop) fail(p *pair, s *socket, err error) {
	reset, failed := p.names(s)
	if isReset(err) {
		l.end(p, reset, nil)
	} else {
		l.end(p, failed, err)
	}
}

// end closes both sockets and lets go of all the stream has, unless that is done.
func (l *loop) end(p *pair, cause Cause, err error) (first bool) {
	if p.ended != 0 {
		return false
	}
	p.cause, p.err = cause, err
	for _, s := range [...]*socket{&p.client, &p.upstream} {
		if cause.abrupt() {
			unix.SetsockoptLinger(int(s.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		delete(l.sockets, s.fd)
		unix.Close(int(s.fd))
	}
	for _, ln := range [...]*lane{&p.up, &p.down} {
		ln.release()
		l.pipes.giveBack(ln)
	}
	l.clocks.stop(p)
	p.ended = time.Since(epoch)
	l.ended = append(l.ended, p)
	return true
}

// read is read(2), without interruptions. It returns 0 and nil at the end.
func read(fd int32, b []byte) (int, error) {
	for {
		if n, err := unix.Read(int(fd), b); err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// write is write(2), without interruptions.
func write(fd int32, b []byte) (int, error) {
	for {
		if n, err := unix.Write(int(fd), b); err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
