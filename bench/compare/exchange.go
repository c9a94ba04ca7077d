package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// exchange sends and waits on all connections at once, from one thread around epoll: on
// a machine of two cores the clients must cost less than what they measure.
func (j job) exchange() (result, error) {
	address, err := netip.ParseAddrPort(j.Address)
	if err != nil {
		return result{}, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return result{}, os.NewSyscallError("epoll_create1", err)
	}
	defer unix.Close(epoll)
	e := &exchanger{
		job:       j,
		target:    &unix.SockaddrInet4{Addr: address.Addr().As4(), Port: int(address.Port())},
		epoll:     epoll,
		message:   []byte(j.Request),
		clients:   make([]client, j.Connections),
		piece:     make([]byte, 16<<10),
		latencies: make([]time.Duration, 0, 1<<20),
	}
	for i := range e.clients {
		e.clients[i].fd = -1
	}
	defer e.close()
	return e.run()
}

// exchanger is a job of exchanges while it runs.
type exchanger struct {
	job
	target    *unix.SockaddrInet4
	epoll     int
	message   []byte
	upgraded  bool // messages and replies are single bytes
	heads     heads
	clients   []client
	piece     []byte
	opened    int // connections
	latencies []time.Duration
}

// client is one connection.
type client struct {
	fd    int       // -1 without one
	used  bool      // it has carried a reply
	began time.Time // the exchange, connecting included if that is necessary
	reply reply
}

// run returns after the duration of the job, or after its count.
func (e *exchanger) run() (result, error) {
	for i := range e.clients {
		e.clients[i].began = time.Now()
		if err := e.open(i); err != nil {
			return result{}, err
		}
	}
	if e.upgrades() { // bytes from here on
		if err := e.drain(); err != nil {
			return result{}, err
		}
		e.message, e.upgraded = []byte{'x'}, true
		for i := range e.clients {
			e.clients[i].began = time.Now()
			if err := e.send(i); err != nil {
				return result{}, err
			}
		}
	}
	var before time.Duration
	var err error
	began := time.Now()
	warm := e.Warm == 0
	if before, err = cpuTime(e.PIDs); err != nil {
		return result{}, err
	}
	events := make([]unix.EpollEvent, len(e.clients))
	total, opened := 0, e.opened
	for {
		n, err := e.wait(events)
		if err != nil {
			return result{}, err
		}
		now := time.Now()
		for _, event := range events[:n] {
			i := int(event.Fd)
			complete, err := e.read(i)
			if err != nil {
				return result{}, err
			}
			if !complete {
				continue
			}
			total++
			now = time.Now()
			e.latencies = append(e.latencies, now.Sub(e.clients[i].began))
			e.clients[i].began = now
			if e.Kind == jobConnect || e.clients[i].reply.last {
				err = e.reopen(i)
			} else {
				err = e.send(i)
			}
			if err != nil {
				return result{}, err
			}
		}
		switch since := now.Sub(began); {
		case !warm && since >= e.Warm:
			warm, began = true, now
			e.latencies, opened = e.latencies[:0], e.opened
			if before, err = cpuTime(e.PIDs); err != nil {
				return result{}, err
			}
		case warm && since >= e.Duration, e.Count > 0 && total >= e.Count:
			after, err := cpuTime(e.PIDs)
			if err != nil {
				return result{}, err
			}
			r := result{
				Exchanges: len(e.latencies),
				Opened:    e.opened - opened,
				Seconds:   since.Seconds(),
				CPU:       (after - before).Seconds(),
			}
			r.P50, r.P99 = percentiles(e.latencies)
			return r, nil
		}
	}
}

// percentiles returns the median and the 99th percentile, in µs. It sorts its argument.
func percentiles(latencies []time.Duration) (p50, p99 float64) {
	if len(latencies) == 0 {
		return 0, 0
	}
	slices.Sort(latencies)
	at := func(share float64) float64 {
		return float64(latencies[int(share*float64(len(latencies)-1))].Nanoseconds()) / 1e3
	}
	return at(.5), at(.99)
}

// wait returns what is readable.
func (e *exchanger) wait(events []unix.EpollEvent) (int, error) {
	for {
		n, err := unix.EpollWait(e.epoll, events, int(patience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = unix.ETIMEDOUT
		}
		return n, os.NewSyscallError("epoll_wait", err)
	}
}

// drain reads the first reply of every connection.
func (e *exchanger) drain() error {
	events := make([]unix.EpollEvent, len(e.clients))
	for left := len(e.clients); left > 0; {
		n, err := e.wait(events)
		if err != nil {
			return err
		}
		for _, event := range events[:n] {
			complete, err := e.read(int(event.Fd))
			if err != nil {
				return err
			}
			if complete {
				left--
			}
		}
	}
	return nil
}

// open connects client i and sends its message. On loopback, connecting does not wait for
// the program on the other side.
func (e *exchanger) open(i int) error {
	c := &e.clients[i]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	c.fd, c.used = fd, false
	bound := unix.NsecToTimeval(patience.Nanoseconds()) // for connecting, too
	for _, err := range []error{
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &bound),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: source(e.opened).As4()}),
		connect(fd, e.target),
		unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}),
	} {
		if err != nil {
			return fmt.Errorf("connecting to %s: %w", e.Address, err)
		}
	}
	e.opened++
	return e.send(i)
}

// reopen gives client i a new connection.
func (e *exchanger) reopen(i int) error {
	e.shut(i)
	return e.open(i)
}

// connect connects a socket. A signal, of which Go's runtime sends some, interrupts the call
// but not what it has begun: the next call goes on waiting for it.
func connect(fd int, target unix.Sockaddr) error {
	for range 100 {
		if err := unix.Connect(fd, target); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return unix.EINTR
}

// send sends the message of client i.
func (e *exchanger) send(i int) error {
	c := &e.clients[i]
	c.reply = reply{head: c.reply.head[:0]}
	if e.upgraded {
		c.reply.known, c.reply.left = true, 1
	}
	n, err := unix.Write(c.fd, e.message)
	if e.stale(i, err) {
		return e.reopen(i)
	}
	if err == nil && n < len(e.message) {
		err = io.ErrShortWrite
	}
	return os.NewSyscallError("write", err)
}

// stale says whether an error means that the server had closed client i's connection after
// the reply before. The client then sends its message once more, on another connection.
func (e *exchanger) stale(i int, err error) bool {
	c := &e.clients[i]
	return !e.upgraded && c.used && c.reply.got == 0 &&
		(errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET))
}

// read reads what client i has got. It returns true if that completes the reply.
func (e *exchanger) read(i int) (bool, error) {
	c := &e.clients[i]
	n, err := unix.Read(c.fd, e.piece)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if e.stale(i, err) {
		return false, e.reopen(i)
	}
	if err != nil {
		return false, fmt.Errorf("read, after %d bytes of a reply: %w", c.reply.got, err)
	}
	complete, err := c.reply.add(e.piece[:n], &e.heads)
	c.used = c.used || complete
	return complete, err
}

// shut closes client i.
func (e *exchanger) shut(i int) {
	if fd := e.clients[i].fd; fd >= 0 {
		unix.Close(fd)
		e.clients[i].fd = -1
	}
}

// close closes all.
func (e *exchanger) close() {
	for i := range e.clients {
		e.shut(i)
	}
}
