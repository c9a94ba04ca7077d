package streamprox

import (
	"net"
	"sync"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// continuation is what it takes to inspect the next request of a connection. A connection
// that waits for one keeps no more, so it is small.
type continuation struct {
	inspect *Inspect // the outermost one: what handlers do is for one request
	origin  origin   // the connection as that inspect was given it
}

// lean returns the continuation for a connection that waits.
func (c continuation) lean() continuation { return continuation{c.inspect, c.origin.lean()} }

// inspector returns the inspect that routes the next request. Anybody may call it at any time:
// it looks at nothing else.
func (c *continuation) inspector() *Inspect { return c.inspect }

// next returns the inspection of the next request, of which data, not empty, has been
// received on conn.
func (c continuation) next(conn net.Conn, data []byte) *inspection {
	in := inspections.Get().(*inspection)
	in.init(c, conn, data, true)
	return in
}

// look returns an inspection of the next request by data alone, which are only lent. sure
// says that the head has decided the route, in.route. It is for a look: to go on, inspect
// the request anew, with next.
func (c continuation) look(data []byte) (in *inspection, sure bool) {
	in = c.next(nil, data)
	return in, in.Certain() && c.inspect.chooseByHead(in)
}

// maxWaiting bounds, in bytes, the head that waits for its rest where connections wait: each
// time that more of it comes it is read anew, by who serves many.
const maxWaiting = 2 << 10

// mayWait reports whether more of the head is needed, and need not be waited for by a
// goroutine of its own. Who waits does not count packets.
func (in *inspection) mayWait() bool {
	return !in.Certain() && len(in.Data()) <= maxWaiting && in.Limits().Packets == 0
}

// isDue is told until when the head must have come, of which there was a beginning before;
// zero: there was none.
func (in *inspection) isDue(due time.Time) {
	if !due.IsZero() {
		in.started = due.Add(-in.Limits().Timeout)
		in.Hasten(due)
	}
}

// serve is a goroutine that reads the rest of the head of a later request from conn, if it
// is not complete, sends the request where it belongs, and those that follow it, and closes
// conn.
func (in *inspection) serve(conn net.Conn) {
	defer conn.Close()
	defer in.turn.settle()
	in.conn, in.source, in.turn.conn = conn, conn, conn
	if in.complete(nil) != nil {
		in.turn.dropKept()
		return
	}
	in.decide()
	_ = in.inspect.run(in, endOfChain)
}

// inspections holds unused inspections, all zero.
var inspections = sync.Pool{New: func() any { return new(inspection) }}

// recycle gives the memory of the inspection to later requests, unless somebody else may
// still use it; with bytes, that of its data too.
func (in *inspection) recycle(bytes bool) {
	if !in.own.later || in.lent {
		return
	}
	if bytes {
		socket.GiveBack(in.Data())
	}
	in.forget()
}

// forget gives the memory of an inspection, of which nobody else knows, to later requests.
func (in *inspection) forget() {
	*in = inspection{}
	inspections.Put(in)
}

// turn is what all inspections of one request share. There are several where one inspect is
// inside another, and after rewrite_head. The first inspection holds it, the others point
// there.
type turn struct {
	continuation          // for the request that follows
	conn         net.Conn // as the outermost inspect has it
	later        bool     // a request came before

	first     *inspection // holds the turn
	kept      *keptServer // has carried the request before, by way of a relay; or nil
	server    resumer     // waits for this request, with what handlers have made of it; or nil
	successor *inspection // of the request that follows, if that is left to inspect; or nil
	lingered  bool        // the client has had time to read what it was sent
	release   func()      // ends what hold began; or nil

	id     account.ID      // 0: nobody has asked for it
	record *account.Record // the account of the request, until its destination has it; or nil

	decision *decision // as it is kept for replay; or nil
}

// resumer is a server's connection, on which one request after the other is delivered. The
// request may be another one, and have other data, than what arrived on the connection.
type resumer interface {
	resume(in *inspection, data []byte)
}

// hold lets shutdown wait for the turn until settle.
func (t *turn) hold() {
	conn := t.conn
	t.release = streams.Hold(func() { socket.Reset(conn) })
}

// dropKept closes the connection to an upstream that was kept for this request alone, if
// the request has not used it.
func (t *turn) dropKept() {
	if t.kept != nil {
		t.kept.drop()
		t.kept = nil
	}
}

// unhold ends what hold began: from then on somebody else lets shutdown wait.
func (t *turn) unhold() {
	if t.release != nil {
		t.release()
	}
}

// settle ends what hold began, and closes the account, unless its destination has it: the
// request is over.
func (t *turn) settle() {
	t.unhold()
	if record := t.takeRecord(); record != nil {
		closeAccount(record, "closed", nil, "")
	}
}

// end lets the client read the last response, which may still be on its way, before the
// connection is closed. If somebody has taken that, it finds it closed.
func (t *turn) end() {
	if t.later && !t.lingered {
		t.lingered = true
		linger(t.conn)
	}
}
