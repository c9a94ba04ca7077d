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
