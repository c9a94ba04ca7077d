package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The kinds of jobs.
const (
	// jobHold opens connections, each with one request and its response, after an
	// upgrade also with four bytes there and back, and leaves them idle.
	jobHold = "hold"

	// jobExchange sends a message on each connection, waits for its reply, and again.
	// The message is the request, or after an upgrade one byte.
	jobExchange = "exchange"

	// jobConnect is jobExchange with a connection for each request.
	jobConnect = "connect"

	// jobDown and jobUp move bytes through connections that have been upgraded.
	jobDown = "down"
	jobUp   = "up"

	// jobFetch sends a request for a file, some times one after the other on each
	// connection.
	jobFetch = "fetch"
)

// job is what a process of clients does.
type job struct {
	Kind        string
	Address     string
	Request     string        // with which each connection begins
	Connections int           // at once
	Bytes       int64         // to move on each connection
	Warm        time.Duration // before anything is counted
	Duration    time.Duration // after that
	Count       int           // if not 0, the most exchanges, also while warming
	PID         int           // of the process whose processor time is read
}

// result is what they saw. With jobHold nothing is in it.
type result struct {
	Exchanges int
	Bytes     int64 // that were moved, and are content
	Seconds   float64
	P50, P99  float64 // of an exchange, in µs
	CPU       float64 // of the process, in seconds
}

func (j job) run() (result, []net.Conn, error) {
	switch j.Kind {
	case jobHold:
		held, err := j.hold()
		return result{}, held, err
	case jobExchange, jobConnect:
		r, err := j.exchange()
		return r, nil, err
	case jobDown, jobUp, jobFetch:
		r, err := j.bulk()
		return r, nil, err
	}
	return result{}, nil, fmt.Errorf("unknown job %q", j.Kind)
}

// upgrades says whether the request opens a stream.
func (j job) upgrades() bool { return strings.Contains(j.Request, "Upgrade:") }

// source returns the i-th address to connect from. There are many, since the ports of one
// address would not do for all the connections of a minute.
func source(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i%250)})
}

// dial connects and makes the first exchange. It returns the response and its length.
func (j job) dial(i int) (c net.Conn, r *bufio.Reader, length int, err error) {
	dialer := net.Dialer{
		Timeout:   patience,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source(i), 0)),
	}
	if c, err = dialer.Dial("tcp", j.Address); err != nil {
		return nil, nil, 0, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err = c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, nil, 0, err
	}
	counted := &counter{Reader: c}
	r = bufio.NewReader(counted)
	response, err := j.request(c, r)
	if err != nil {
		return nil, nil, 0, err
	}
	if _, err = io.Copy(io.Discard, response.Body); err != nil {
		return nil, nil, 0, err
	}
	if r.Buffered() > 0 {
		err = fmt.Errorf("%d bytes more than the response", r.Buffered())
		return nil, nil, 0, err
	}
	return c, r, counted.n, c.SetDeadline(time.Time{})
}

// request sends the request and reads the head of the response.
func (j job) request(c net.Conn, r *bufio.Reader) (*http.Response, error) {
	if _, err := io.WriteString(c, j.Request); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusSwitchingProtocols {
		return nil, errors.New("the response is " + response.Status)
	}
	if response.StatusCode == http.StatusOK && response.ContentLength < bodySize {
		return nil, fmt.Errorf("the response has %d bytes", response.ContentLength)
	}
	return response, nil
}

// counter counts what is read.
type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// hold opens connections, a few at a time, and returns them.
func (j job) hold() ([]net.Conn, error) {
	held := make([]net.Conn, j.Connections)
	err := parallel(16, j.Connections, func(i int) error {
		c, r, _, err := j.dial(i)
		if err != nil {
			return err
		}
		held[i] = c
		if !j.upgrades() {
			return nil
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, err = io.ReadFull(r, make([]byte, 4))
		return err
	})
	return held, err
}

// parallel calls f with 0 to n-1, from as many goroutines as workers says, and returns
// when all have ended, with one of their errors.
func parallel(workers, n int, f func(int) error) error {
	errs := make([]error, workers)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = f(i)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// bulk moves bytes on all connections at once.
func (j job) bulk() (result, error) {
	conns := make([]net.Conn, j.Connections)
	readers := make([]*bufio.Reader, j.Connections)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	for i := range conns {
		var err error
		if conns[i], readers[i], _, err = j.dial(i); err != nil {
			return result{}, err
		}
		// A bound that no transfer comes near.
		if err := conns[i].SetDeadline(time.Now().Add(4 * patience)); err != nil {
			return result{}, err
		}
	}
	before, err := cpuTime(j.PID)
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	err = parallel(len(conns), len(conns), func(i int) error {
		switch j.Kind {
		case jobDown:
			return down(conns[i], readers[i], j.Bytes)
		case jobUp:
			return up(conns[i], readers[i], j.Bytes)
		}
		return j.fetch(conns[i], readers[i])
	})
	if err != nil {
		return result{}, err
	}
	seconds := time.Since(began).Seconds()
	after, err := cpuTime(j.PID)
	if err != nil {
		return result{}, err
	}
	return result{
		Bytes:   j.Bytes * int64(len(conns)),
		Seconds: seconds,
		CPU:     (after - before).Seconds(),
	}, nil
}

// down says that it is ready and reads n bytes.
func down(c net.Conn, r io.Reader, n int64) error {
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	return swallow(r, n)
}

// swallow reads n bytes.
func swallow(r io.Reader, n int64) error {
	got, err := io.CopyBuffer(discard{}, io.LimitReader(reader{r}, n), make([]byte, buffer))
	if err == nil && got < n {
		err = fmt.Errorf("%d bytes of %d", got, n)
	}
	return err
}

// up sends n bytes and waits for the one that acknowledges them.
func up(c net.Conn, r *bufio.Reader, n int64) error {
	piece := make([]byte, buffer)
	for n > 0 {
		written, err := c.Write(piece[:min(n, buffer)])
		if err != nil {
			return err
		}
		n -= int64(written)
	}
	_, err := r.ReadByte()
	return err
}

// fetch sends the request again and again until it has read the bytes of the job.
func (j job) fetch(c net.Conn, r *bufio.Reader) error {
	for n := j.Bytes; n > 0; {
		response, err := j.request(c, r)
		if err != nil {
			return err
		}
		if response.ContentLength > n {
			return fmt.Errorf("%d bytes are no multiple of the file's %d", j.Bytes, response.ContentLength)
		}
		// The body is read past net/http, whose reader copies 4 KiB at a time.
		if err := swallow(r, response.ContentLength); err != nil {
			return err
		}
		n -= response.ContentLength
	}
	return nil
}

// exchange sends and waits on all connections at once, from one thread around epoll: on
// a machine of two cores the clients must cost less than what they measure.
func (j job) exchange() (result, error) {
	c, _, length, err := j.dial(0)
	if err != nil {
		return result{}, err
	}
	c.Close()
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
		reply:     length,
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
	reply     int // length
	clients   []client
	piece     []byte
	opened    int
	latencies []time.Duration
}

// client is one connection.
type client struct {
	fd    int // -1 without one
	began time.Time
	got   int // of the reply
}

// run returns after the duration of the job, or after its count.
func (e *exchanger) run() (result, error) {
	for i := range e.clients {
		if err := e.open(i); err != nil {
			return result{}, err
		}
	}
	if e.upgrades() { // bytes from here on
		if err := e.drain(); err != nil {
			return result{}, err
		}
		e.message, e.reply = []byte{'x'}, 1
		for i := range e.clients {
			if err := e.send(i); err != nil {
				return result{}, err
			}
		}
	}
	var before time.Duration
	var err error
	began := time.Now()
	warm := e.Warm == 0
	if before, err = cpuTime(e.PID); err != nil {
		return result{}, err
	}
	events := make([]unix.EpollEvent, len(e.clients))
	total := 0
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
			if e.Kind == jobConnect {
				e.shut(i)
				err = e.open(i)
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
			e.latencies = e.latencies[:0]
			if before, err = cpuTime(e.PID); err != nil {
				return result{}, err
			}
		case warm && since >= e.Duration, e.Count > 0 && total >= e.Count:
			after, err := cpuTime(e.PID)
			if err != nil {
				return result{}, err
			}
			r := result{
				Exchanges: len(e.latencies),
				Bytes:     int64(len(e.latencies)) * int64(e.reply),
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
	began := time.Now()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	c.fd = fd
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
	if err := e.send(i); err != nil {
		return err
	}
	c.began = began
	return nil
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
	c.began, c.got = time.Now(), 0
	n, err := unix.Write(c.fd, e.message)
	if err == nil && n < len(e.message) {
		err = io.ErrShortWrite
	}
	return os.NewSyscallError("write", err)
}

// read reads what client i has got. It returns true if that completes the reply.
func (e *exchanger) read(i int) (bool, error) {
	c := &e.clients[i]
	n, err := unix.Read(c.fd, e.piece)
	if err != nil {
		return false, os.NewSyscallError("read", err)
	}
	if c.got += n; n == 0 || c.got > e.reply {
		return false, fmt.Errorf("%d bytes of a reply of %d, and then %d", c.got-n, e.reply, n)
	}
	return c.got == e.reply, nil
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
