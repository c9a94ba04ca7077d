package relay

import (
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

const (
	// pipeSize is what a pipe is to hold, in bytes. One that holds less than
	// leastPipeSize, as the kernel gives a user who has many, is of no use.
	pipeSize      = 256 << 10
	leastPipeSize = 64 << 10

	// bulkSize is the size in bytes from which on a piece is not copied through memory:
	// for less, a pipe costs more than it saves.
	bulkSize = 16 << 10

	// pipesKept is how many unused pipes a loop keeps.
	pipesKept = 4

	// shortage is how long to wait before asking for a pipe again when there was none.
	shortage = time.Second
)

// pipe is a pipe that carries bytes from one socket to another inside the kernel. It is
// only filled when empty: of one that holds bytes, EAGAIN would not say whether the
// socket has none or the pipe is full.
type pipe struct {
	read, write int // descriptors
	size, held  int // in bytes
}

// pipes are where a loop gets its pipes from.
type pipes struct {
	unused  []*pipe
	noneTil time.Duration // do not ask for one before
}

// pipesOpen is how many pipes the process has.
var pipesOpen atomic.Int64

// maxPipes keeps streams that are slow to be read, each of which may hold a pipe, to a
// quarter of the descriptors.
var maxPipes = sync.OnceValue(func() int64 {
	limit, _ := descriptors.Limit()
	return int64(min(limit, math.MaxInt32)) / 8
})

// take returns an empty pipe. It returns nil where memory has to do, with an error if
// that is for want of descriptors or of memory.
func (ps *pipes) take(now time.Duration) (*pipe, error) {
	if last := len(ps.unused) - 1; last >= 0 {
		p := ps.unused[last]
		ps.unused = ps.unused[:last]
		return p, nil
	}
	if now < ps.noneTil || pipesOpen.Load() >= maxPipes() {
		return nil, nil
	}
	p, err := openPipe()
	if p == nil {
		ps.noneTil = now + shortage
	}
	return p, err
}

// openPipe returns a new pipe, or nil and why there is none.
func openPipe() (*pipe, error) {
	if !descriptors.TakeAtOnce(2) { // the loop has others to serve
		return nil, descriptors.ErrScarce
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		descriptors.Unused(2)
		return nil, os.NewSyscallError("pipe2", err)
	}
	descriptors.Opened(uintptr(fds[0]))
	descriptors.Opened(uintptr(fds[1]))
	p := &pipe{read: fds[0], write: fds[1]}
	pipesOpen.Add(1)
	size, err := unix.FcntlInt(uintptr(p.write), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size, _ = unix.FcntlInt(uintptr(p.write), unix.F_GETPIPE_SZ, 0)
	}
	if size < leastPipeSize {
		p.close()
		return nil, os.NewSyscallError("F_SETPIPE_SZ", err)
	}
	p.size = size
	return p, nil
}

func (p *pipe) close() {
	unix.Close(p.read)
	unix.Close(p.write)
	pipesOpen.Add(-1)
}

// giveBack takes the pipe of a lane, if it has one.
func (ps *pipes) giveBack(ln *lane) {
	p := ln.pipe
	ln.pipe = nil
	switch {
	case p == nil:
	case p.held > 0 || len(ps.unused) == pipesKept:
		p.close()
	default:
		ps.unused = append(ps.unused, p)
	}
}

// close closes the unused pipes.
func (ps *pipes) close() {
	for _, p := range ps.unused {
		p.close()
	}
	*ps = pipes{}
}

// fill reads bytes into the lane's pipe, both of which are empty. It reports false if
// that did not work: read then tells why, or does better. Only an error is certain:
// where a socket's next byte is an urgent one, splice returns EAGAIN or the end.
func (l *loop) fill(p *pair, ln *lane, src *endpoint) bool {
	if ln.pipe == nil {
		var err error
		if ln.pipe, err = l.pipes.take(l.now); ln.pipe == nil {
			if err != nil {
				p.engine.warn("bytes are copied through memory for want of pipes", err)
			}
			return false
		}
	}
	n, err := splice(int(src.fd), ln.pipe.write, int(min(int64(ln.pipe.size), ln.left)))
	switch {
	case n > 0:
		ln.pipe.held = n
		ln.left -= int64(n)
		ln.bulk = n >= bulkSize
		return true
	case err == nil, err == unix.EAGAIN, err == unix.EINVAL:
		return false
	default:
		l.fail(p, src, os.NewSyscallError("splice", err))
		return true
	}
}

// pour writes what is in the pipe to the socket fd.
func (p *pipe) pour(fd int32) (int, error) {
	n, err := splice(p.read, int(fd), p.held)
	p.held -= n
	return n, err
}

// splice is splice(2), without interruptions.
func splice(from, to, most int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err == nil {
			return int(n), nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}
