package relay

import (
	"encoding/binary"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// loops are all the event loops of the process, as many as can run at once. Each runs
// while it has streams, and for a moment after the last one.
var loops = sync.OnceValue(func() []*loop {
	all := make([]*loop, runtime.GOMAXPROCS(0))
	for i := range all {
		all[i] = new(loop)
	}
	return all
})

// loop is an event loop: a goroutine that owns streams, and the epoll instance with
// their sockets. It waits in epoll_wait(2) with a thread, not in the runtime's poller:
// that would be two more waits and a hand-over from thread to thread for each event.
type loop struct {
	mu      sync.Mutex
	epoll   int             // descriptor
	wake    int             // descriptor of an eventfd, which interrupts the waiting
	waker   *os.File        // has wake
	poller  syscall.RawConn // of waker: waits in the runtime's poller
	woken   bool
	inbox   []message           // in order
	sockets map[int32]*endpoint // by descriptor; nil: the loop does not run
	streams atomic.Int32

	// Times since epoch, which other loops look at.
	turned atomic.Int64 // when this turn began
	rested atomic.Int64 // when it last waited for long enough to let others run

	tally tally // which others look at

	// The rest is the goroutine's.
	now      time.Duration // when this turn began: the time is asked for once
	yielded  time.Duration // when others last came first
	deserted time.Duration // when the last stream ended; 0: there are some
	events   []unix.EpollEvent
	messages []message // those of this turn
	ready    []*pair   // to be served, each once
	serving  []*pair   // those of this turn
	clocks   clocks
	pipes    pipes
	turn     int64  // bounds, in bytes, what a direction moves before other streams have their turn
	buffer   []byte // where bytes are between read and write
	scratch  []byte // where heads are before they are written
	ended    []*pair
}

// message asks the loop to begin with a stream, to end it or to retire it.
type message struct {
	pair  *pair
	cause Cause
	err   error
	first chan<- bool // what member.end returns

	// In place of first: to begin with the pair is the default.
	retire bool // what member.retire asks for
}

// join finds a loop for p, and lets it know the sockets.
func (p *pair) join() error {
	l := loops()[0]
	for _, other := range loops() {
		if other.streams.Load() < l.streams.Load() {
			l = other
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	begins := l.sockets == nil
	if begins {
		if err := l.open(); err != nil {
			return err
		}
	}
	if err := l.watch(p); err != nil {
		if begins {
			l.close()
		}
		return err
	}
	p.loop = l
	l.streams.Add(1)
	if begins {
		go l.run()
	}
	return nil
}

// open makes the loop ready to run. l.mu is held.
func (l *loop) open() error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return os.NewSyscallError("eventfd", err)
	}
	// Each writing to it is an event: nobody need read it.
	if err := watch(epoll, int32(wake), unix.EPOLLIN); err != nil {
		unix.Close(wake)
		unix.Close(epoll)
		return err
	}
	l.waker = os.NewFile(uintptr(wake), "eventfd")
	if l.poller, err = l.waker.SyscallConn(); err != nil {
		l.waker.Close()
		unix.Close(epoll)
		return err
	}
	l.epoll, l.wake = epoll, wake
	l.rested.Store(int64(time.Since(epoch)))
	l.events = make([]unix.EpollEvent, 128)
	l.sockets = make(map[int32]*endpoint)
	l.turn = 1 << 20
	l.buffer = socket.TakeBuffer(socket.LargeSize, socket.LargeSize)
	return nil
}

// watch adds the sockets of p, both or none. From then on the loop notes what they are
// ready for, but does nothing before it begins with p. l.mu is held.
func (l *loop) watch(p *pair) error {
	const events = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI
	if err := watch(l.epoll, p.client.fd, events); err != nil {
		return err
	}
	if p.upstream.fd >= 0 {
		if err := watch(l.epoll, p.upstream.fd, events); err != nil {
			unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, int(p.client.fd), nil)
			return err
		}
		l.sockets[p.upstream.fd] = &p.upstream
	}
	l.sockets[p.client.fd] = &p.client
	return nil
}

// watch adds a descriptor to an epoll instance, which reports each change.
func watch(epoll int, fd int32, events uint32) error {
	err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: fd})
	return os.NewSyscallError("epoll_ctl", err)
}

// close lets go of all that open and running have taken. l.mu is held.
func (l *loop) close() {
	unix.Close(l.epoll)
	l.waker.Close()
	socket.GiveBack(l.buffer)
	l.pipes.close()
	l.woken, l.buffer = false, nil
	l.scratch = nil
	l.inbox, l.messages, l.events, l.sockets, l.ready, l.serving, l.ended, l.clocks = nil, nil, nil, nil, nil, nil, nil, nil
}

// post sends a message to the loop of m.pair. It reports false if the loop has
// forgotten the stream, which is closed then.
func (l *loop) post(m message) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.postLocked(m)
}

// postLocked is post for who holds l.mu.
func (l *loop) postLocked(m message) bool {
	if m.pair.gone {
		return false
	}
	l.inbox = append(l.inbox, m)
	if !l.woken {
		l.woken = true
		unix.Write(l.wake, one)
	}
	return true
}

const (
	// manyServed is how many streams make a turn a busy one.
	manyServed = 4

	// yieldAfter is for how long loops may keep all processors to themselves.
	yieldAfter = 100 * time.Microsecond

	// rest is how long a loop waits so that others get its processor: the runtime looks
	// every 20 µs, and takes the processors of threads that wait.
	rest = 50 * time.Microsecond
)

// parting is how long a loop waits for another stream before it ends. Streams that last for a
// moment would else let it begin and end again and again.
const parting = 200 * time.Millisecond

// one is what is added to an eventfd.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// run is the goroutine of the loop. It ends when no stream is left.
func (l *loop) run() {
	for !l.ends() {
		l.wait()
		l.readMessages()
		l.serveReady()
		l.checkClocks()
		l.reportEnded()
	}
}

// ends closes the loop if it has had no stream for parting, and reports whether it did.
func (l *loop) ends() bool {
	switch {
	case l.streams.Load() > 0:
		l.deserted = 0
		return false
	case l.deserted == 0:
		l.deserted = l.now
		return false
	case l.now-l.deserted < parting:
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams.Load() > 0 { // it has just joined
		return false
	}
	l.close()
	return true
}

// wait waits until there is something to do, and begins the next turn with it. After a busy
// turn other goroutines come first: they may have waited, and more events gather meanwhile.
func (l *loop) wait() {
	began := time.Since(epoch)
	switch {
	case began-l.yielded > yieldAfter && allBusy(began):
		l.yield()
		began = time.Since(epoch)
		l.yielded = began
	case len(l.serving) >= manyServed:
		runtime.Gosched()
	}
	n, _ := unix.EpollWait(l.epoll, l.events, l.patience()) // interrupted is as good as none
	l.now = time.Since(epoch)
	l.turned.Store(int64(l.now))
	if l.now-began > rest {
		l.rested.Store(int64(l.now))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, event := range l.events[:max(n, 0)] {
		l.note(event)
	}
	l.messages, l.inbox, l.woken = l.inbox, l.messages[:0], false
}

// allBusy reports whether there is a busy loop for each processor, so that nobody else has
// one: each has a turn, and has not rested of late.
func allBusy(now time.Duration) bool {
	for _, l := range loops() {
		turned, rested := time.Duration(l.turned.Load()), time.Duration(l.rested.Load())
		if now-turned > yieldAfter || now-rested < yieldAfter {
			return false
		}
	}
	return true
}

// yield lets other goroutines come first, also those of which the runtime only learns by
// asking its poller. runtime.Gosched alone is not enough: as long as this goroutine can
// run, the runtime does not ask before 10 ms are over. So this goroutine first waits in the
// poller itself, for an event of its own making. To always wait there would take away the
// thread that asks the poller for the rest of the process.
func (l *loop) yield() {
	asked := false
	_ = l.poller.Read(func(fd uintptr) bool {
		if asked {
			return true
		}
		asked = true
		unix.Write(int(fd), one)
		return false
	})
	runtime.Gosched() // the others can run now
}

// patience returns for how many milliseconds there is nothing to do if nothing happens;
// -1: for ever.
func (l *loop) patience() int {
	due := l.clocks.first()
	if l.deserted != 0 {
		due = l.deserted + parting
	}
	switch {
	case len(l.ready) > 0:
		return 0
	case due == forever:
		return -1
	}
	left := due - time.Since(epoch)
	return int(min(max((left+time.Millisecond-1)/time.Millisecond, 0), math.MaxInt32))
}

// note marks a stream as one to be served. l.mu is held.
func (l *loop) note(event unix.EpollEvent) {
	s := l.sockets[event.Fd]
	if s == nil {
		return // wake, or a socket that is closed while somebody else has it open
	}
	const over = unix.EPOLLERR | unix.EPOLLHUP
	s.readable = s.readable || event.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|over) != 0
	s.writable = s.writable || event.Events&(unix.EPOLLOUT|over) != 0
	s.failed = s.failed || event.Events&unix.EPOLLERR != 0
	s.finished = s.finished || event.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
	s.shortReads = s.shortReads || event.Events&(unix.EPOLLRDHUP|unix.EPOLLPRI|over) != 0
	if s.pair.begun {
		l.enqueue(s.pair)
	}
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
	for _, m := range l.messages {
		switch {
		case m.first != nil && m.cause == Killed:
			m.first <- l.kill(m.pair)
		case m.first != nil:
			m.first <- l.end(m.pair, m.cause, m.err)
		case m.retire:
			l.retire(m.pair)
		case m.pair.ended == 0:
			l.begin(m.pair)
		}
	}
	clear(l.messages)
}

// begin makes p one of the streams that are served.
func (l *loop) begin(p *pair) {
	p.begun = true
	if p.session != nil {
		l.beginSession(p)
		return
	}
	l.clocks.set(p)
	l.enqueue(p)
}

// checkClocks ends the streams of which a clock has run out.
func (l *loop) checkClocks() {
	for l.clocks.first() <= l.now {
		p := l.clocks[0]
		switch at, cause := p.deadline(); {
		case at > l.now:
			l.clocks.set(p)
		case p.session != nil:
			l.expire(p, cause)
		default:
			l.end(p, cause, nil)
		}
	}
}

// reportEnded reports the streams that have ended to those who began them.
func (l *loop) reportEnded() {
	if len(l.ended) == 0 {
		return
	}
	ended := l.ended
	l.ended = nil
	l.mu.Lock()
	for _, p := range ended {
		p.gone = true
	}
	l.streams.Add(int32(-len(ended)))
	l.mu.Unlock()
	for _, p := range ended {
		go p.conclude()
	}
}
