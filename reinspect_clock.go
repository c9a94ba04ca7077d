package streamprox

import (
	"sync"
	"time"
)

// readClock sets the read deadline of a connection that an HTTP server reads, and inspect
// behind its back: while the next head arrives inspect's holds, else the server's, which is
// one for a client that says nothing. What the server interrupts, by a deadline in the past,
// it interrupts at any time.
type readClock struct {
	conn interface{ SetReadDeadline(time.Time) error }

	mu          sync.Mutex
	wake        sync.Cond // when interrupted or stopped
	phase       phase
	server      time.Time // as the server has set it
	head        time.Time // as inspect has set it, for the next head; zero before its first byte
	applied     time.Time // that of conn
	interrupted bool      // the server's was in the past when it was set
	stopped     bool
}

// phase is what is read.
type phase uint8

const (
	delivering phase = iota // the message
	watching                // the next head, while a handler runs
	awaiting                // the next head, when the response is finished
)

// init makes c, which is zero, the clock of conn.
func (c *readClock) init(conn interface{ SetReadDeadline(time.Time) error }) {
	c.conn = conn
	c.wake.L = &c.mu
}

// enter makes p the phase.
func (c *readClock) enter(p phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != p {
		c.phase = p
		_ = c.apply()
	}
}

// setServer sets the server's deadline.
func (c *readClock) setServer(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = t
	if c.interrupted = !t.IsZero() && !t.After(time.Now()); c.interrupted {
		c.wake.Broadcast()
	}
	return c.apply()
}

// setHead sets the deadline of the next head.
func (c *readClock) setHead(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.head = t
	return c.apply()
}

// setIdle is setHead before the first byte of the next head, by when something is to be done
// about a client that says nothing; zero: nothing is. It reports whether that is before the
// server's deadline.
func (c *readClock) setIdle(t time.Time) (earlier bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	earlier = !t.IsZero() && (c.server.IsZero() || t.Before(c.server))
	if !earlier {
		t = time.Time{}
	}
	c.head = t
	return earlier, c.apply()
}

// left returns for how long the server would have waited for a byte; 0: for ever.
func (c *readClock) left(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server.IsZero() {
		return 0
	}
	return max(c.server.Sub(now), 1)
}

// apply sets the deadline that holds. c.mu is held.
func (c *readClock) apply() error {
	t := c.server
	if !c.interrupted && (c.phase == watching || c.phase == awaiting && !c.head.IsZero()) {
		t = c.head
	}
	if t.Equal(c.applied) || c.stopped {
		return nil
	}
	c.applied = t
	return c.conn.SetReadDeadline(t)
}

// isInterrupted reports whether the server has interrupted what it reads.
func (c *readClock) isInterrupted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.interrupted
}

// waitInterrupt waits until the server interrupts what it reads, or the clock stops.
func (c *readClock) waitInterrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.interrupted && !c.stopped {
		c.wake.Wait()
	}
}

// stop leaves the deadline as it is from now on: the connection is somebody else's.
func (c *readClock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.wake.Broadcast()
}
