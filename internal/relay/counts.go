package relay

import "sync/atomic"

// Counts is what the engines of the process have delivered, and what they have.
type Counts struct {
	ToUpstream, ToClient int64 // bytes delivered so far, also of what still goes on
	Waiting              int64 // clients' connections that wait for a request, without those that were parked
	Pipes                int64 // through which bytes go in bulk
}

// Count returns the counts. It stops nobody.
func Count() Counts {
	var c Counts
	portableTally.addTo(&c)
	addLoops(&c)
	return c
}

// tally is what an event loop has counted, or the goroutines of the portable engine together.
type tally struct {
	toUpstream, toClient, waiting atomic.Int64
}

var portableTally tally

func (t *tally) addTo(c *Counts) {
	c.ToUpstream += t.toUpstream.Load()
	c.ToClient += t.toClient.Load()
	c.Waiting += t.waiting.Load()
}

// delivered counts n bytes.
func (t *tally) delivered(toUpstream bool, n int) {
	if toUpstream {
		t.toUpstream.Add(int64(n))
	} else {
		t.toClient.Add(int64(n))
	}
}
