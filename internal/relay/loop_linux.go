package relay

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loops are all the event loops of the process, as many as can run at once. Each runs
// while it has streams.
var loops = sync.OnceValue(func() []*loop {
	all := make([]*loop, runtime.GOMAXPROCS(0))
	for i := range all {
		all[i] = new(loop)
	}
	return all
})

// loop is an event loop: a goroutine that owns streams, and the epoll instance with
// their sockets. It waits in the runtime's poller, to which an epoll descriptor is one
// among others, so that no thread is held while nothing happens. Clocks and messages
// wake it through a deadline of that descriptor.
type loop struct {
	mu      sync.Mutex
	epoll   *os.File  // nil: the loop does not run
	fd      int       // that of epoll
	inbox   []message // in order
	expired bool      // the deadline of epoll has passed or is about to: it must be set anew
	streams atomic.Int32

	// The rest is the goroutine's.
	raw     syscall.RawConn    // of epoll
	harvest func(uintptr) bool // poll, bound once: no allocation per wait
	armed   time.Duration      // the deadline of epoll
	now     time.Duration      // when this turn began: the time is asked for once
	events  []unix.EpollEvent
	letters []message         // those of this turn
	sockets map[int32]*socket // by descriptor
	ready   []*pair           // to be served, each once
	serving []*pair           // those of this turn
	clocks  clocks
	pipes   pipes
	turn    int64  // bounds, in bytes, what a direction moves before other streams have their turn
	buffer  []byte // where bytes are between read and write
	ended   []*pair
}

// message asks the loop to begin with a stream, or to end it.
type message struct {
	pair  *pair
	cause Cause
	err   error
	first chan<- bool // what member.end returns; nil: begin
}

// join finds a loop for a stream with these sockets, and counts the stream.
func join(fds ...int32) (*loop, error) {
	l := loops()[0]
	for _, other := range loops() {
		if other.streams.Load() < l.streams.Load() {
			l = other
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	begins := l.epoll == nil
	if begins {
		if err := l.open(); err != nil {
			return nil, err
		}
	}
	// Events that come before the loop knows the sockets are not missed: it begins
	// with trying.
	if err := l.watch(fds); err != nil {
		if begins {
			l.close()
		}
		return nil, err
	}
	l.streams.Add(1)
	if begins {
		go l.run()
	}
	return l, nil
}

// open makes the loop ready to run. l.mu is held.
func (l *loop) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what NewFile gives to the poller
		unix.Close(fd)
		return err
	}
	l.epoll, l.fd = os.NewFile(uintptr(fd), "epoll"), fd
	l.raw, err = l.epoll.SyscallConn()
	if err = errors.Join(err, l.epoll.SetReadDeadline(time.Time{})); err != nil {
		l.close()
		return err
	}
	l.harvest = l.poll
	l.armed = forever
	l.events = make([]unix.EpollEvent, 128)
	l.sockets = make(map[int32]*socket)
	l.turn = 1 << 20
	l.buffer = takeBuffer(true, largeSize)
	return nil
}

// watch adds sockets to the epoll instance, all or none. l.mu is held.
func (l *loop) watch(fds []int32) error {
	for i, fd := range fds {
		err := unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
			Fd:     fd,
		})
		if err == nil {
			continue
		}
		for _, fd := range fds[:i] {
			unix.EpollCtl(l.fd, unix.EPOLL_CTL_DEL, int(fd), nil)
		}
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// close lets go of all that open and running have taken. l.mu is held.
func (l *loop) close() {
	l.epoll.Close()
	giveBack(l.buffer)
	l.pipes.close()
	l.epoll, l.raw, l.buffer, l.expired = nil, nil, nil, false
	l.inbox, l.letters, l.events, l.sockets, l.ready, l.serving, l.ended, l.clocks = nil, nil, nil, nil, nil, nil, nil, nil
}

// post sends a message to the loop of m.pair. It reports false if the loop has
// forgotten the stream, which is closed then.
func (l *loop) post(m message) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.pair.gone {
		return false
	}
	l.inbox = append(l.inbox, m)
	if !l.expired {
		l.expired = true
		l.epoll.SetReadDeadline(time.Unix(1, 0))
	}
	return true
}

// run is the goroutine of the loop. It ends when no stream is left.
func (l *loop) run() {
	for more := true; more; {
		l.wait()
		l.readMessages()
		l.now = time.Since(epoch)
		l.serveReady()
		l.checkClocks()
		more = l.bury()
	}
}

// wait waits until there is something to do, and finds out which sockets are ready.
func (l *loop) wait() {
	l.mu.Lock()
	busy := len(l.inbox) > 0 || len(l.ready) > 0
	if !busy {
		l.arm()
	}
	l.mu.Unlock()
	if busy {
		l.poll(uintptr(l.fd))
		return
	}
	if l.raw.Read(l.harvest) != nil { // the deadline
		l.mu.Lock()
		l.expired = true
		l.mu.Unlock()
	}
}

// arm sets the deadline to the clock that runs out first. One that is too early does no
// harm, and saves setting it anew whenever a stream ends. l.mu is held.
func (l *loop) arm() {
	due := l.clocks.first()
	if !l.expired && due >= l.armed {
		return
	}
	l.armed, l.expired = due, false
	if due == forever {
		l.epoll.SetReadDeadline(time.Time{})
	} else {
		l.epoll.SetReadDeadline(epoch.Add(due))
	}
}

// poll notes which sockets are ready. It returns false if none is.
func (l *loop) poll(epoll uintptr) bool {
	n, _ := unix.EpollWait(int(epoll), l.events, 0) // interrupted is as good as none
	for _, event := range l.events[:max(n, 0)] {
		l.note(event)
	}
	return n > 0
}

// note makes a stream one to be served.
func (l *loop) note(event unix.EpollEvent) {
	s := l.sockets[event.Fd]
	if s == nil {
		return // not begun, or closed while somebody else has the socket open
	}
	const over = unix.EPOLLERR | unix.EPOLLHUP
	s.readable = s.readable || event.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|over) != 0
	s.writable = s.writable || event.Events&(unix.EPOLLOUT|over) != 0
	s.failed = s.failed || event.Events&unix.EPOLLERR != 0
	l.enqueue(s.pair)
}

// enqueue lets p have a turn.
func (l *loop) enqueue(p *pair) {
	if !p.queued {
		p.queued = true
		l.ready = append(l.ready, p)
	}
}

// serveReady gives each stream that is ready a turn.
func (l *loop) serveReady() {
	l.ready, l.serving = l.serving[:0], l.ready
	for _, p := range l.serving {
		p.queued = false
		l.serve(p)
	}
	clear(l.serving) // no record is kept alive
}

// readMessages does what others have asked for.
func (l *loop) readMessages() {
	l.mu.Lock()
	l.letters, l.inbox = l.inbox, l.letters[:0]
	l.mu.Unlock()
	for _, m := range l.letters {
		if m.first != nil {
			m.first <- l.end(m.pair, m.cause, m.err)
		} else if m.pair.ended == 0 {
			l.begin(m.pair)
		}
	}
	clear(l.letters)
}

// begin lets the loop know a stream.
func (l *loop) begin(p *pair) {
	for _, s := range [...]*socket{&p.client, &p.upstream} {
		l.sockets[s.fd] = s
		s.readable, s.writable = true, true
	}
	l.clocks.set(p)
	l.enqueue(p)
}

// checkClocks ends the streams of which a clock has run out.
func (l *loop) checkClocks() {
	for l.clocks.first() <= l.now {
		p := l.clocks[0]
		if at, cause := p.deadline(); at <= l.now {
			l.end(p, cause, nil)
		} else {
			l.clocks.set(p)
		}
	}
}

// bury lets streams that have ended be accounted for. It reports false when none is
// left: then the loop is closed.
func (l *loop) bury() (more bool) {
	if len(l.ended) == 0 {
		return true
	}
	ended := l.ended
	l.ended = nil
	l.mu.Lock()
	for _, p := range ended {
		p.gone = true
	}
	if more = l.streams.Add(int32(-len(ended))) > 0; !more {
		for _, m := range l.inbox { // about streams that have ended
			if m.first != nil {
				m.first <- false
			}
		}
		l.close()
	}
	l.mu.Unlock()
	for _, p := range ended {
		go p.conclude()
	}
	return more
}
