package socket

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// Connecting is a connection that is not open yet.
type Connecting struct{ bare *Bare }

// Wait returns the connection when it is open. It is called once.
//
// The runtime's poller does not get to know the socket: to make it let go of one again takes
// a second descriptor, which would be all that the connection has.
func (c *Connecting) Wait(ctx context.Context) (net.Conn, error) {
	b := c.bare
	if err := c.wait(ctx); err != nil {
		b.Close()
		return nil, err
	}
	b.setOptions()
	return b, nil
}

func (c *Connecting) wait(ctx context.Context) error {
	b := c.bare
	changed, err := opening.add(b.fd)
	if err == unix.EMFILE || err == unix.ENFILE {
		return descriptors.ErrScarce
	}
	if err != nil {
		return dialError(b.to, os.NewSyscallError("epoll_ctl", err))
	}
	defer opening.remove(b.fd)
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return dialError(b.to, ctx.Err())
		}
		done, err := connected(b.fd)
		switch {
		case !done: // the change was that of another socket, whose descriptor this one has got
		case err != nil:
			return dialError(b.to, os.NewSyscallError("connect", err))
		case b.isItself():
			return dialError(b.to, os.NewSyscallError("connect", unix.ECONNREFUSED))
		default:
			return nil
		}
	}
}

// Drop gives the connection up, in the place of Wait.
func (c *Connecting) Drop() { c.bare.Close() }

// opening are the sockets of which somebody waits that they connect.
var opening waiting

// waiting are sockets that are waited for, in an epoll instance of their own. A goroutine looks
// after it while there are some, and for a moment after the last one.
type waiting struct {
	mu      sync.Mutex
	sockets map[int32]chan<- struct{} // by descriptor
	epoll   *os.File                  // nil: the goroutine does not run
	fd      int                       // of epoll
}

// add adds a socket. The channel gets a value when the socket has changed, and perhaps others.
func (w *waiting) add(fd int) (changed <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.epoll == nil {
		if err := w.begin(); err != nil {
			return nil, err
		}
	}
	event := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLET, Fd: int32(fd)}
	if err := unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return nil, err
	}
	c := make(chan struct{}, 1)
	w.sockets[int32(fd)] = c
	return c, nil
}

// remove removes a socket that was added and is still open.
func (w *waiting) remove(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sockets, int32(fd))
	_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_DEL, fd, nil)
}

// begin starts the goroutine. w.mu is held.
func (w *waiting) begin() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for the runtime's poller to take it
		unix.Close(fd)
		return err
	}
	epoll := os.NewFile(uintptr(fd), "epoll")
	raw, err := epoll.SyscallConn()
	if err == nil {
		err = epoll.SetReadDeadline(time.Now().Add(waitingEnds)) // fails if the poller has not taken it
	}
	if err != nil {
		epoll.Close()
		return err
	}
	w.epoll, w.fd, w.sockets = epoll, fd, make(map[int32]chan<- struct{})
	go w.run(raw)
	return nil
}

// waitingEnds is how long the goroutine goes on at least when no socket is left.
const waitingEnds = 200 * time.Millisecond

// run is the goroutine. It ends when it has found no socket at the end of an interval.
func (w *waiting) run(epoll syscall.RawConn) {
	events := make([]unix.EpollEvent, 128)
	for {
		_ = epoll.Read(func(fd uintptr) (done bool) {
			for {
				n, _ := unix.EpollWait(int(fd), events, 0)
				w.tell(events[:max(n, 0)])
				if n < len(events) {
					return false // wait, until the deadline
				}
			}
		})
		if w.ends() {
			return
		}
		_ = w.epoll.SetReadDeadline(time.Now().Add(waitingEnds))
	}
}

// tell lets those who wait know of events.
func (w *waiting) tell(events []unix.EpollEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, event := range events {
		select {
		case w.sockets[event.Fd] <- struct{}{}:
		default: // it is removed, or has been told
		}
	}
}

// ends closes the epoll instance if it has no socket, and reports whether it did.
func (w *waiting) ends() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sockets) > 0 {
		return false
	}
	w.epoll.Close()
	w.epoll, w.sockets = nil, nil
	return true
}
