package streamprox

import "sync/atomic"

// custody says who has a connection that was handed to an HTTP server: the server, until a
// hijacker gets it, or inspect takes it back. Whoever has it may close it once; closing it
// again, as both the server's goroutine and its Shutdown do, is told from that.
type custody struct {
	state atomic.Uint32
	reads atomic.Int32 // calls of Read in progress
}

// What a connection is that is not simply the server's.
const (
	withInspect  uint32 = 1 << iota // inspect has taken it back: the server sees its end
	withHijacker                    // a hijacker has it
	wasClosed                       // whoever has it has closed it; with inspect: the server has
)

// is reports whether the connection is one of these.
func (c *custody) is(state uint32) bool { return c.state.Load()&state != 0 }

// hijack gives the server's connection to a hijacker.
func (c *custody) hijack() { c.state.CompareAndSwap(0, withHijacker) }

// takeBack takes the connection from the server. It reports false if the server has closed
// it, or does not have it.
func (c *custody) takeBack() bool { return c.state.CompareAndSwap(0, withInspect) }

// close closes the connection, and returns what it was before. reading says whether it was
// being read: a read that begins now finds it closed.
func (c *custody) close() (before uint32, reading bool) {
	before = c.state.Or(wasClosed)
	return before, c.reads.Load() > 0
}
