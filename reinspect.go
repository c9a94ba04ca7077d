package streamprox

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// reinspectConn is the connection that the HTTP server gets if each request on it is to
// be routed. It never returns bytes beyond the message that the server is reading. The
// next head is read here first: if its route is that of the request before, the server
// gets it; else the server is shown the end of the connection, and once it has closed
// it, the request goes where it belongs.
//
// It relies on how net/http's server reads a connection (TestServerReads). While a
// handler runs it reads one byte, to notice a client that leaves, and interrupts that
// read by a deadline in the past. A longer read after the message comes when the
// response is finished and flushed. A hijack shows as a call of SetDeadline, the only
// one: from then on the connection is the hijacker's.
type reinspectConn struct {
	handedConn
	custody custody
	clock   readClock // of handedConn's connection

	// What Read has to do, of which there is one call at a time. While it waits for the
	// next request there is no inspection, and on a socket no buffer.
	message message     // that the server gets
	in      *inspection // of the message, until that is delivered
	next    *inspection // of the request after it, once there is a byte of it
	route   int         // that leads here, of the outermost inspect; -1 if none does by itself
	single  bool        // there is no next request
	direct  bool        // the server reads without a buffer in between: it has read one byte
	parking *parking    // for when there is nothing to read; nil: the server waits

	// Later requests come on the connection as the outermost inspect had it, without what
	// handlers have made of it for one request.
	continuation continuation
	base         net.Conn
	first        socket.Reader
}

// newReinspectConn returns a connection that delivers the request in, of which data has
// been received and whose head has headLen bytes, and, unless single, those that follow it
// on base, which conn is or wraps. When the server has closed it, ended is called once, with
// the request that follows on base if that is not the server's: then base is still open.
func newReinspectConn(in *inspection, conn, base net.Conn, data []byte, headLen int, single bool, ended func(*inspection)) *reinspectConn {
	c := &reinspectConn{
		handedConn:   handedConn{Conn: conn, ended: ended},
		route:        -1,
		single:       single,
		continuation: in.turn.continuation.lean(),
		base:         base,
		first:        socket.NewReader(base),
	}
	if in.inspect == c.continuation.inspect {
		c.route = in.route
	}
	c.clock.init(conn)
	c.begin(in, data, headLen)
	return c
}

// begin makes in, of which data has been received, the message to deliver.
func (c *reinspectConn) begin(in *inspection, data []byte, headLen int) {
	var blank exchange.Blank
	if c.continuation.inspect.head.Lenient && string(in.Head.Method.Of(in.Data())) == http.MethodPost {
		blank = maxBlank
	}
	c.message.begin(&in.Head, data, headLen, blank)
	c.in, c.next = in, nil
	if record := in.turn.takeRecord(); record != nil {
		c.account(record)
	} else if last := c.record.Load(); last != nil {
		in.keepDecision()
		in.openNext(last)
	}
}

// Read implements net.Conn.
func (c *reinspectConn) Read(p []byte) (int, error) {
	n, err := c.read(p)
	c.received(n)
	return n, err
}

func (c *reinspectConn) read(p []byte) (int, error) {
	if !c.calls.begin() {
		return 0, net.ErrClosed
	}
	defer c.endCall()
	c.custody.reads.Add(1)
	defer c.custody.reads.Add(-1)
	switch {
	case c.custody.is(withInspect):
		return 0, io.EOF
	case c.custody.is(wasClosed):
		return 0, net.ErrClosed
	case c.custody.is(withHijacker):
		return c.readAll(p)
	}
	c.clock.enter(delivering)
	if len(c.message.ready) > 0 {
		return c.message.take(p), nil
	}
	c.requestTaken()
	switch {
	case c.message.broken != nil:
		return 0, c.message.broken
	case !c.message.complete:
		return c.readMessage(p)
	case len(p) == 1:
		c.direct = true
		return 0, c.watch()
	}
	c.closeAccount() // the response is complete
	if err := c.advance(); err != nil {
		return 0, err
	}
	return c.message.take(p), nil
}

// readAll reads whatever comes, for a hijacker.
func (c *reinspectConn) readAll(p []byte) (int, error) {
	if c.next != nil {
		c.message.rest, c.next = c.next.Data(), nil
	}
	if c.message.unread(); len(c.message.ready) > 0 {
		return c.message.take(p), nil
	}
	return c.Conn.Read(p)
}

// readMessage reads more of the message from the connection.
func (c *reinspectConn) readMessage(p []byte) (int, error) {
	p = c.message.room(p)
	for {
		n, err := c.Conn.Read(p)
		ready := c.message.receive(p[:n])
		switch {
		case ready > 0 || err != nil:
			return ready, err
		case c.message.broken != nil:
			return 0, c.message.broken
		case c.message.complete:
			return c.message.take(p), nil
		}
	}
}

// watch reads the next head while a handler runs, and delivers nothing. It returns when
// the server interrupts it, or with the error by which the server knows that the client
// has gone.
func (c *reinspectConn) watch() error {
	c.clock.enter(watching)
	if err := c.readNext(nil); err != nil {
		return err
	}
	c.clock.waitInterrupt()
	return os.ErrDeadlineExceeded
}

// advance reads the next head and makes it the message, if it is one for the server. If
// not, the server is shown an end.
func (c *reinspectConn) advance() error {
	if c.single || c.continuation.inspect.gone.Load() {
		return io.EOF
	}
	c.clock.enter(awaiting)
	park := c.parking
	if c.message.blank > 0 || !c.direct {
		// What comes next may be a line end that is not for inspect. With a buffer in between,
		// a handler may still run.
		park = nil
	}
	switch err := c.readNext(park); {
	case err == errIdle:
		end := c.leave()
		if end != io.EOF {
			descriptors.Unused(1) // else Close parks
		}
		return end
	case err != nil:
		return err
	}
	next := c.next
	next.decide()
	if !c.takes(next) {
		return c.leave()
	}
	if route := next.inspect.Routes[next.route]; len(route.handlers) == 1 {
		c.begin(next, next.Data(), next.Head.Len)
	} else {
		// The handlers before http_app run for this request too.
		next.turn.server = c
		next.openAccount()
		_ = route.handle(next.stream(), endOfChain)
		if c.next != nil {
			next.turn.settle()
			return io.EOF // one of them has answered it
		}
	}
	c.clock.enter(delivering)
	return nil
}

// takes reports whether the server gets the next request: its route leads here, and the
// handlers on the way can run here.
func (c *reinspectConn) takes(next *inspection) bool {
	return next.Outcome() == opening.HTTP && next.route >= 0 && next.route == c.route &&
		next.inspect.Routes[next.route].inPlace
}

// resume implements resumer.
func (c *reinspectConn) resume(in *inspection, data []byte) {
	c.begin(in, data, in.Head.Len)
}

// leave shows the server the end of the connection, which goes on with the next request.
func (c *reinspectConn) leave() error {
	if !c.custody.takeBack() {
		return net.ErrClosed
	}
	c.clock.stop()
	return io.EOF
}

// readNext reads until it is certain what follows the message. An error is one of the
// connection, the server's interruption, or, with parking, errIdle: then a descriptor has been
// taken to park with.
func (c *reinspectConn) readNext(park *parking) error {
	if c.next == nil {
		c.retire()
		if err := c.readFirst(park); err != nil {
			return err
		}
	}
	return c.next.complete(nil)
}

// retire lets go of the inspection of the message, which has been delivered.
func (c *reinspectConn) retire() {
	if c.in != nil {
		c.in.recycle(c.message.rest == nil) // else that is in the same buffer
		c.in = nil
	}
}

// readFirst waits for the first bytes of the next request, and begins to inspect it.
func (c *reinspectConn) readFirst(park *parking) error {
	waits := false
	for c.message.skipBlank(); c.message.rest == nil; c.message.skipBlank() {
		waits = true
		idle, err := c.clock.setIdle(park.due(time.Now()))
		if err != nil {
			return err
		}
		first, err := c.first.ReadFirst(c.continuation.inspect.limits.Bytes)
		if idle && errors.Is(err, os.ErrDeadlineExceeded) && !c.clock.isInterrupted() {
			if descriptors.Take(1) { // the one to park with
				return errIdle
			}
			continue // it stays with the server
		}
		if len(first) == 0 {
			return noProgress(err)
		}
		c.message.rest = first
	}
	c.next = c.continuation.next(c.base, c.message.rest)
	c.next.source = (*nextHead)(c)
	c.message.rest = nil
	if waits && c.first.ChangesDeadline() {
		return c.clock.setHead(c.next.Deadline())
	}
	return nil
}

// nextHead is the connection as the next head arrives on it.
type nextHead reinspectConn

// Read implements incoming.
func (c *nextHead) Read(p []byte) (int, error) {
	n, err := c.base.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && c.clock.isInterrupted() {
		return n, errInterrupted{}
	}
	return n, err
}

// SetReadDeadline implements incoming.
func (c *nextHead) SetReadDeadline(t time.Time) error { return c.clock.setHead(t) }

// errInterrupted says that the server has interrupted its read. To the server that is a
// timeout, and to an opening it is none.
type errInterrupted struct{}

func (errInterrupted) Error() string   { return "read interrupted" }
func (errInterrupted) Timeout() bool   { return true }
func (errInterrupted) Temporary() bool { return true }

// SetReadDeadline implements net.Conn.
func (c *reinspectConn) SetReadDeadline(t time.Time) error { return c.clock.setServer(t) }

// SetWriteDeadline implements net.Conn.
func (c *reinspectConn) SetWriteDeadline(t time.Time) error {
	if c.custody.is(withInspect | wasClosed) {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn. The server calls it for a hijacker.
func (c *reinspectConn) SetDeadline(t time.Time) error {
	c.custody.hijack()
	c.clock.enter(delivering)
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Write implements net.Conn.
func (c *reinspectConn) Write(p []byte) (int, error) {
	if c.custody.is(withInspect) {
		return 0, net.ErrClosed
	}
	return c.handedConn.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (c *reinspectConn) ReadFrom(r io.Reader) (int64, error) {
	if c.custody.is(withInspect) {
		return 0, net.ErrClosed
	}
	return c.handedConn.ReadFrom(r)
}

// CloseWrite shuts the sending side down.
func (c *reinspectConn) CloseWrite() error {
	if c.custody.is(withInspect) {
		return nil
	}
	return c.handedConn.CloseWrite()
}

// Close implements net.Conn. Both the server's goroutine for the connection and its
// Shutdown may call it.
func (c *reinspectConn) Close() error {
	before, reading := c.custody.close()
	c.clock.stop()
	switch {
	case before == withInspect:
		c.requestTaken()
		_ = c.base.SetDeadline(time.Time{})
		if c.next != nil {
			c.counts.ends(appConnection, endMoved)
		} else {
			c.counts.ends(appConnection, endParked)
			c.next = c.parking.park(c.base, c.continuation, c.record.Load(), c.clock.left(time.Now()))
		}
		c.ended(c.next)
		return nil
	case before&withInspect != 0:
		return nil
	case before == 0 && !reading && socket.Unread(c.base):
		// Closing would send a reset, and destroy the response that is on its way. While
		// the server reads there is none: then its Shutdown closes.
		c.requestTaken()
		go c.closeLater(streams.Hold(func() { _ = c.handedConn.Close() }))
		return nil
	}
	return c.handedConn.Close()
}

// closeLater is a goroutine that closes the connection when the client has had some time
// to read what it was sent.
func (c *reinspectConn) closeLater(release func()) {
	defer release()
	linger(c.base)
	_ = c.handedConn.Close()
}

// Interface guards
var (
	_ incoming = (*nextHead)(nil)
	_ resumer  = (*reinspectConn)(nil)
	_ served   = (*reinspectConn)(nil)
)
