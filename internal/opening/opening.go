// Package opening judges the first bytes of a connection, or of the next request on it,
// until it is certain what they are: bytes in, an [Outcome] out.
//
// An [Opening] neither reads from a connection nor looks at a clock. Somebody who does, a
// goroutine or an event loop, tells it what has arrived, asks it where to put what comes
// next and until when to wait for that, and stops when the outcome is certain.
package opening

import (
	"time"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// Limits bound what is read before the outcome is certain, and after.
type Limits struct {
	Bytes         int           // a head that has not ended within them is too large
	Packets       int           // how many reads, 0 for any number
	SilentTimeout time.Duration // from Begin to the first byte
	Timeout       time.Duration // from the first byte on
}

// UsualFields is how many fields a head may have before memory is allocated for them:
// browsers send up to twenty.
const UsualFields = 24

// firstRoom is how many bytes Room makes room for at first: nearly every head, and nearly
// every ClientHello.
const firstRoom = 2 << 10

// Opening is the beginning of a connection, or of a later request on it. Begin makes it
// ready, also for use again. From then on it must not be copied.
//
// What arrives is told by First or Received, End and Expire, until the outcome is Certain.
// Who needs to see more of the stream goes on while More reports true.
type Opening struct {
	_ noCopy

	// Head is the request, if the outcome is HTTP. Its spans are parts of Data.
	Head httphead.Reader

	fields   [UsualFields]httphead.Field // what Head.Fields begins in
	limits   Limits
	data     []byte
	packets  int
	deadline time.Time
	outcome  Outcome
	certain  bool
	ended    bool // nothing more arrives, or not in time
}

// noCopy lets go vet find copies.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// Begin makes o ready for the first bytes. With options.Later they are those of a request
// that follows another one.
func (o *Opening) Begin(limits Limits, options httphead.Options, now time.Time) {
	// No literal of the other fields: it would be made on the stack first, and a goroutine
	// may be as young as that in which net/http's server reads while a handler runs.
	*o = Opening{}
	o.limits = limits
	o.deadline = now.Add(limits.SilentTimeout)
	o.Head.Fields = o.fields[:0]
	o.Head.Reset(options)
}

// First is told the first bytes, in one packet. They stay where they are: that memory is
// o's from now on, or until Own. To lend it for so long, cut its capacity to its length.
func (o *Opening) First(p []byte, now time.Time) {
	o.data = p[:0]
	o.received(p, now)
}

// Own moves the bytes to memory that o may have for good. It is new if memory, which may be
// nil, is too small.
func (o *Opening) Own(memory []byte) { o.data = append(memory[:0], o.data...) }

// Room returns memory for the next packet, within the limit of bytes. It is for an opening
// that is not certain, or that may have more.
func (o *Opening) Room() []byte {
	n := len(o.data)
	if n == cap(o.data) {
		grown := make([]byte, n, min(max(2*n, firstRoom), o.limits.Bytes))
		copy(grown, o.data)
		o.data = grown
	}
	return o.data[n:min(cap(o.data), o.limits.Bytes)]
}

// Received is told that a packet of n bytes has arrived, n > 0, and is in Room.
func (o *Opening) Received(n int, now time.Time) {
	o.received(o.data[:len(o.data)+n], now)
}

// received makes data all the bytes, of which the last ones have arrived now.
func (o *Opening) received(data []byte, now time.Time) {
	if len(o.data) == 0 {
		o.deadline = now.Add(o.limits.Timeout)
	}
	o.data = data
	o.packets++
	if o.certain {
		return
	}
	if verdict := o.Head.Read(data[:min(len(data), o.limits.Bytes)]); verdict != httphead.More {
		o.decide(outcomeOf[verdict])
	} else if o.full() {
		o.decide(TooLarge)
	}
}

// End is told that the client has finished sending.
func (o *Opening) End() {
	o.ended = true
	o.decide(EOF)
}

// Expire is told that nothing has arrived before Deadline.
func (o *Opening) Expire() {
	o.ended = true
	if len(o.data) == 0 {
		o.decide(Silent)
	} else {
		o.decide(Timeout)
	}
}

// decide makes outcome certain, unless one is.
func (o *Opening) decide(outcome Outcome) {
	if !o.certain {
		o.outcome, o.certain = outcome, true
	}
}

// full reports whether a limit is reached.
func (o *Opening) full() bool {
	return len(o.data) >= o.limits.Bytes || o.limits.Packets > 0 && o.packets >= o.limits.Packets
}

// Certain reports whether the outcome is known: it will not change any more.
func (o *Opening) Certain() bool { return o.certain }

// Outcome returns the outcome, once it is certain.
func (o *Opening) Outcome() Outcome { return o.outcome }

// More reports whether more of the stream may be read although the outcome is certain.
func (o *Opening) More() bool { return !o.ended && !o.outcome.Final() && !o.full() }

// Data returns all bytes received, which is more than the head if more came with it.
// Nobody may write to them.
func (o *Opening) Data() []byte { return o.data }

// Deadline returns until when the next packet may take.
func (o *Opening) Deadline() time.Time { return o.deadline }

// Hasten makes the deadline an earlier one.
func (o *Opening) Hasten(deadline time.Time) {
	if deadline.Before(o.deadline) {
		o.deadline = deadline
	}
}

// Limits returns the limits that o began with.
func (o *Opening) Limits() Limits { return o.limits }

// PartialHTTP reports whether the bytes, which are no HTTP head, may be the beginning of
// one, or are meant as one: their sender understands an HTTP answer.
func (o *Opening) PartialHTTP() bool {
	return o.outcome == Malformed || len(o.data) > 0 && o.Head.Partial()
}
