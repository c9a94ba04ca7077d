package relay

import (
	"container/heap"
	"time"
)

// clocks are the streams of a loop that have timeouts, in a heap by deadline. When a byte
// is delivered, a deadline moves, but the place in the heap stays: the stream is looked at
// when the old deadline has come.
type clocks []*pair

// noClock is the place of a stream without a timeout.
const noClock = -1

// first returns the time when the next stream must be looked at.
func (c clocks) first() time.Duration {
	if len(c) == 0 {
		return forever
	}
	return c[0].due
}

// set puts p in its place.
func (c *clocks) set(p *pair) {
	p.due, _ = p.deadline()
	switch {
	case p.clock != noClock:
		heap.Fix(c, int(p.clock))
	case p.due != forever:
		heap.Push(c, p)
	}
}

// hasten puts p in its place if something is due earlier than was known.
func (c *clocks) hasten(p *pair) {
	if at, _ := p.deadline(); p.clock == noClock || at < p.due {
		c.set(p)
	}
}

// stop takes p out.
func (c *clocks) stop(p *pair) {
	if p.clock != noClock {
		heap.Remove(c, int(p.clock))
	}
}

// deadline returns when p ends, or something of its session, if no more bytes are
// delivered, and why.
func (p *pair) deadline() (at time.Duration, cause Cause) {
	if p.session != nil {
		return p.session.deadline(p)
	}
	at = forever
	if p.idle > 0 {
		at, cause = after(p.delivered, p.idle), IdleTimeout
	}
	if p.halfClosedAt != 0 && p.halfClose > 0 {
		if t := after(max(p.delivered, p.halfClosedAt), p.halfClose); t < at {
			at, cause = t, HalfCloseTimeout
		}
	}
	return at, cause
}

// after is t+d, at most forever.
func after(t, d time.Duration) time.Duration {
	if d > forever-t {
		return forever
	}
	return t + d
}

// Len implements heap.Interface, as do the following.
func (c clocks) Len() int           { return len(c) }
func (c clocks) Less(i, j int) bool { return c[i].due < c[j].due }
func (c clocks) Swap(i, j int) {
	c[i], c[j] = c[j], c[i]
	c[i].clock, c[j].clock = int32(i), int32(j)
}

// Push adds a *pair.
func (c *clocks) Push(x any) {
	p := x.(*pair)
	p.clock = int32(len(*c))
	*c = append(*c, p)
}

// Pop removes the last one.
func (c *clocks) Pop() any {
	last := len(*c) - 1
	p := (*c)[last]
	(*c)[last] = nil
	*c = (*c)[:last]
	p.clock = noClock
	return p
}
