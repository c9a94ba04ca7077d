package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
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

	// jobQuiet opens connections, each with a request whose response has a head and then
	// nothing, and leaves them so.
	jobQuiet = "quiet"

	// jobExchange sends a message on each connection, waits for its reply, and again.
	// The message is the request, or after an upgrade one byte. Where the server closes
	// the connection after a reply, the next message goes on another one, and the time
	// of its exchange begins before that is opened.
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
	PIDs        []int         // of the processes whose processor time is read
}

// result is what they saw. With jobHold and jobQuiet nothing is in it.
type result struct {
	Exchanges int
	Opened    int   // connections, beside the first ones
	Bytes     int64 // that were moved, and are content
	Seconds   float64
	P50, P99  float64 // of an exchange, in µs
	CPU       float64 // of the process, in seconds
}

func (j job) run() (result, []net.Conn, error) {
	switch j.Kind {
	case jobHold, jobQuiet:
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

// dial connects and makes the first exchange. It returns the response, whose content has
// been read, unless the job is to leave it quiet.
func (j job) dial(i int) (c net.Conn, r *bufio.Reader, response *http.Response, err error) {
	dialer := net.Dialer{
		Timeout:   patience,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source(i), 0)),
	}
	if c, err = dialer.Dial("tcp", j.Address); err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err = c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, nil, nil, err
	}
	r = bufio.NewReader(c)
	if response, err = j.request(c, r); err != nil {
		return nil, nil, nil, err
	}
	if j.Kind != jobQuiet {
		if _, err = io.Copy(io.Discard, response.Body); err != nil {
			return nil, nil, nil, err
		}
	}
	if r.Buffered() > 0 {
		err = fmt.Errorf("%d bytes more than the response", r.Buffered())
		return nil, nil, nil, err
	}
	return c, r, response, c.SetDeadline(time.Time{})
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
	return response, check(response, j.Kind == jobQuiet)
}

// hold opens connections, a few at a time, and returns them. One that is to be closed after
// the response is closed, and is nil.
func (j job) hold() ([]net.Conn, error) {
	held := make([]net.Conn, j.Connections)
	err := parallel(16, j.Connections, func(i int) error {
		c, r, response, err := j.dial(i)
		if err != nil {
			return err
		}
		if response.Close && j.Kind == jobHold && !j.upgrades() {
			return c.Close()
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

// release resets connections that were held, so that no proxy waits for the rest of a
// half-closed one, and returns how many the other side had not closed.
func release(held []net.Conn) (open int) {
	for _, c := range held {
		if c == nil {
			continue
		}
		if stillOpen(c) {
			open++
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	return open
}

// stillOpen says whether the other side has neither closed a connection nor reset it. It does
// not wait.
func stillOpen(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		open = err == nil && n > 0 || errors.Is(err, unix.EAGAIN)
	})
	return err == nil && open
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
