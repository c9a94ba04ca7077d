package streamprox

import "sync/atomic"

// calls counts the calls in progress on a connection, so that what is beneath is given to
// somebody else only when the last one has ended: a reader may still be in Read when another
// goroutine closes.
type calls struct{ state atomic.Int64 }

const (
	callsClosing  = 1 << 62 // added when no more are to come
	callsFinished = -1      // closing, and none is in progress
)

// begin counts one more call. It reports false if the last one has ended.
func (c *calls) begin() bool {
	for {
		switch n := c.state.Load(); {
		case n == callsFinished:
			return false
		case c.state.CompareAndSwap(n, n+1):
			return true
		}
	}
}

// end ends what begin began, and reports whether it was the last call of all.
func (c *calls) end() bool {
	return c.state.Add(-1) == callsClosing && c.state.CompareAndSwap(callsClosing, callsFinished)
}

// close lets the call that ends when no other is in progress be the last one.
func (c *calls) close() {
	for {
		n := c.state.Load()
		if n < 0 || n >= callsClosing || c.state.CompareAndSwap(n, n+callsClosing) {
			return
		}
	}
}
