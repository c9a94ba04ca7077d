package relay

import (
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// serve moves what bytes can be moved in both directions.
func (l *loop) serve(p *pair) {
	if p.session != nil {
		l.serveSession(p)
		l.countWaiting(p)
	}
	if p.session != nil || p.ended != 0 {
		return
	}
	for _, ln := range [...]*lane{&p.up, &p.down} {
		if !ln.over {
			l.carry(p, ln)
		}
		if src, _ := p.ends(ln); src.failed && (ln.over || !ln.empty()) {
			l.collect(p, src)
		}
	}
}

// carry moves bytes until the source has none, the destination takes none, the
// direction is over, or it is the turn of others.
func (l *loop) carry(p *pair, ln *lane) {
	src, dst := p.ends(ln)
	for stop := ln.carried + l.turn; p.ended == 0 && !ln.over; {
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
func (l *loop) fetch(p *pair, ln *lane, src *endpoint) {
	if ln.bulk && l.fill(p, ln, src) {
		return
	}
	b := l.buffer[:min(int64(len(l.buffer)), ln.left)]
	n, err := read(src.fd, b)
	switch {
	case n > 0:
		ln.held, ln.borrowed = b[:n], true
		ln.left -= int64(n)
		ln.bulk = ln.bulk || n == len(l.buffer)
		// It saves a read(2) for each piece. What comes from now on is an event.
		src.readable = n == len(b) || src.shortReads
	case err == nil:
		l.passEnd(p, ln)
	case err == unix.EAGAIN:
		src.readable = false
	default:
		l.fail(p, src, os.NewSyscallError("read", err))
	}
}

// pour writes bytes that the lane holds to the socket fd.
func (ln *lane) pour(fd int32) (n int, err error) {
	if len(ln.held) == 0 {
		return ln.pipe.pour(fd)
	}
	n, err = write(fd, ln.held)
	if ln.held = ln.held[n:]; len(ln.held) == 0 {
		ln.release()
	}
	return n, err
}

// deliver writes bytes that the lane holds to their destination.
func (l *loop) deliver(p *pair, ln *lane, dst *endpoint) {
	n, err := ln.pour(dst.fd)
	if n > 0 {
		l.count(p, ln, n)
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

// keep moves held bytes from the loop's memory to a buffer of their own.
func (ln *lane) keep() {
	switch {
	case !ln.borrowed:
		return
	case len(ln.held) > socket.LargeSize: // with a head before what was read
		ln.buffer = make([]byte, len(ln.held))
	case len(ln.held) > socket.SmallSize:
		ln.buffer = socket.TakeBuffer(socket.LargeSize, int64(len(ln.held)))
	default:
		ln.buffer = socket.TakeBuffer(socket.SmallSize, int64(len(ln.held)))
	}
	copy(ln.buffer, ln.held)
	ln.held, ln.borrowed = ln.buffer, false
}

// append adds bytes to those that the lane holds.
func (ln *lane) append(b []byte) {
	if len(b) == 0 {
		return
	}
	held := append(append(make([]byte, 0, len(ln.held)+len(b)), ln.held...), b...)
	ln.release()
	ln.held = held
}

// release lets go of the memory behind held.
func (ln *lane) release() {
	socket.GiveBack(ln.buffer)
	ln.held, ln.buffer, ln.borrowed = nil, nil, false
}

// passEnd tells the destination that nothing follows, and finishes the direction.
func (l *loop) passEnd(p *pair, ln *lane) {
	src, dst := p.ends(ln)
	if src.tcp && !p.opposite(ln).shut && socket.PeerLost(int(src.fd)) {
		l.fail(p, src, socket.ErrReset)
		return
	}
	ln.shut = true
	if !p.opposite(ln).over { // else closing tells, at once
		if err := unix.Shutdown(int(dst.fd), unix.SHUT_WR); err != nil && err != unix.ENOTCONN {
			l.fail(p, dst, os.NewSyscallError("shutdown", err))
			return
		}
	}
	l.finish(p, ln)
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

// collect ends the stream if s has failed. It is for an s that is not read: because its
// direction is over, or because the destination takes nothing. Otherwise reading reports
// the failure, after the bytes before it.
func (l *loop) collect(p *pair, s *endpoint) {
	if p.ended != 0 {
		return
	}
	s.failed = false
	if errno, err := unix.GetsockoptInt(int(s.fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
		l.fail(p, s, syscall.Errno(errno))
	}
}

// fail ends the stream because of an error of s.
func (l *loop) fail(p *pair, s *endpoint, err error) {
	cause, failed := p.names(s)
	if socket.IsReset(err) {
		err = nil
	} else {
		cause = failed
	}
	if p.session != nil {
		l.failSession(p, s, cause, err)
		return
	}
	l.end(p, cause, err)
}

// end closes both sockets and lets go of all the stream has, unless that is done.
func (l *loop) end(p *pair, cause Cause, err error) (first bool) {
	if p.ended != 0 {
		return false
	}
	p.cause, p.err = cause, err
	if p.session != nil {
		l.endSession(p, cause, err)
	}
	for _, s := range [...]*endpoint{&p.client, &p.upstream} {
		if s.fd >= 0 {
			l.discard(s, cause.abrupt())
		}
	}
	for _, ln := range [...]*lane{&p.up, &p.down} {
		ln.release()
		l.pipes.giveBack(ln)
	}
	l.clocks.stop(p)
	p.ended = time.Since(epoch)
	l.ended = append(l.ended, p)
	l.countWaiting(p)
	return true
}

// discard closes a socket, with a reset or not.
func (l *loop) discard(s *endpoint, reset bool) {
	if reset {
		unix.SetsockoptLinger(int(s.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	l.mu.Lock()
	delete(l.sockets, s.fd) // before somebody else gets this descriptor
	l.mu.Unlock()
	unix.Close(int(s.fd))
	s.fd = -1
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
