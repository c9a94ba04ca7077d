package streamprox

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
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
	*replayConn
	single bool              // the server gets one request, and then the end
	left   func(*inspection) // is told what follows, when the server has been shown the end and has closed

	// How later requests are inspected: on the connection as the outermost inspect had it,
	// without what handlers have made of it for one request.
	continuation continuation
	base         net.Conn
	first        socket.Reader

	// What Read has to do, of which there is one call at a time. While it waits for the
	// next request there is no inspection, and on a socket no buffer.
	in       *inspection   // of the message, until it is delivered
	inspect  *Inspect      // that of in
	route    int           // that of in
	body     httphead.Body // follows the message's body
	complete bool          // the message has been read; the bytes to deliver are in pending
	trailer  []byte        // what has been read of its trailer section, unless that came in one piece
	broken   error         // why the rest of the message cannot be read
	rest     []byte        // what was read beyond the message
	blank    int           // how many more bytes CR and LF may come before the next head
	skipped  []byte        // those that came
	next     *inspection   // of the request after it, once there is a byte of it

	mu           sync.Mutex
	wake         sync.Cond // when the server interrupts or closes
	phase        phase
	deadline     time.Time // for reading, as the server has set it
	headDeadline time.Time // for the next head, as inspect sets it
	applied      time.Time // the read deadline of the connection beneath
	interrupted  bool      // the server's deadline was in the past when it was set
	closing      bool      // the server has closed

	// detached is that the server has been shown the end, and the connection beneath is
	// not its any more.
	detached atomic.Bool

	// reads counts the calls of Read in progress. One that is not counted when the server
	// closes sees closing.
	reads atomic.Int32
}

// phase is what a reinspectConn reads.
type phase uint8

const (
	delivering phase = iota // the message
	watching                // the next head, while a handler runs
	awaiting                // the next head, when the response is finished
	hijacked                // whatever comes
)

// newReinspectConn returns a connection that delivers the request in, of which data has
// been received and whose head has headLen bytes, and, unless single, those that follow
// it on base, which conn is or wraps. When the server has closed it, closed is called
// once, with the request that follows on base if that is not the server's: then base is
// still open.
func newReinspectConn(in *inspection, conn, base net.Conn, data []byte, headLen int, single bool, closed func(*inspection)) *reinspectConn {
	c := &reinspectConn{
		replayConn: newReplayConn(conn, nil, func() { closed(nil) }),
		single:     single,
		left:       closed,
	}
	c.continuation = in.turn.continuation
	c.base, c.first = base, socket.NewReader(base)
	c.wake.L = &c.mu
	c.begin(in, data, headLen)
	return c
}

// begin makes in the message to deliver.
func (c *reinspectConn) begin(in *inspection, data []byte, headLen int) {
	c.in, c.inspect, c.route, c.next = in, in.inspect, in.route, nil
	in.Head.ResetBody(&c.body)
	n, within := c.follow(data[headLen:])
	end := headLen + n
	c.pending, c.rest = data[:end:end], data[headLen+within:]
	c.blank, c.skipped = 0, nil
	if c.continuation.inspect.head.Lenient && string(in.Head.Method.Of(in.Data())) == http.MethodPost {
		c.blank = maxBlank
	}
}

// maxBlank is how many bytes CR and LF net/http's server skips after a POST request, whose
// body old clients end with a line end that its length does not count (RFC 9112 section
// 2.2). A lenient inspection skips as many.
const maxBlank = 4

// follow looks at the next bytes of the message's body. It returns how many of them may
// be delivered, and how many belong to the message.
//
// A trailer section is delivered when it is complete, and not at all if it is broken.
// Caddy hides its body from net/http's server, which then reads on after a trailer
// section that it could not read, and would answer the pieces of that as a request.
func (c *reinspectConn) follow(data []byte) (n, within int) {
	before := c.body.Trailer()
	within, c.complete, c.broken = c.body.Read(data)
	held := c.body.Trailer() - before
	switch {
	case c.broken != nil:
		c.trailer = nil
	case c.complete && before == 0:
		return within, within // it came in one piece
	default:
		c.trailer = append(c.trailer, data[within-held:within]...)
	}
	return within - held, within
}

// Read implements net.Conn.
func (c *reinspectConn) Read(p []byte) (int, error) {
	if !c.calls.begin() {
		return 0, net.ErrClosed
	}
	defer c.endCall()
	c.reads.Add(1)
	defer c.reads.Add(-1)
	switch phase, closing := c.enter(delivering); {
	case c.detached.Load():
		return 0, io.EOF
	case closing:
		return 0, net.ErrClosed
	case phase == hijacked:
		c.unread()
		return c.replayConn.Read(p)
	case len(c.pending) > 0:
		return c.replayConn.Read(p)
	case c.broken != nil:
		c.requestTaken()
		return 0, c.broken
	case !c.complete:
		c.requestTaken()
		return c.readMessage(p)
	case len(c.trailer) > 0:
		return c.takeTrailer(p), nil
	case len(p) == 1:
		c.requestTaken()
		return 0, c.watch()
	}
	if err := c.advance(); err != nil {
		return 0, err
	}
	return c.replayConn.Read(p)
}

// readMessage reads more of the message from the connection.
func (c *reinspectConn) readMessage(p []byte) (int, error) {
	if left := c.body.Left(); 0 < left && left < int64(len(p)) {
		p = p[:left]
	}
	for {
		n, err := c.Conn.Read(p)
		deliver, within := c.follow(p[:n])
		c.rest = append(c.rest, p[within:n]...)
		switch {
		case deliver > 0 || err != nil:
			return deliver, err
		case c.broken != nil:
			return 0, c.broken
		case c.complete:
			return c.takeTrailer(p), nil
		}
	}
}

// takeTrailer delivers the trailer section.
func (c *reinspectConn) takeTrailer(p []byte) int {
	n := copy(p, c.trailer)
	if c.trailer = c.trailer[n:]; len(c.trailer) == 0 {
		c.trailer = nil
	}
	return n
}

// unread puts what was read beyond the message back, for a hijacker.
func (c *reinspectConn) unread() {
	if c.next != nil {
		c.rest, c.next = c.next.Data(), nil
	}
	if len(c.trailer)+len(c.skipped)+len(c.rest) > 0 {
		c.pending = slices.Concat(c.pending, c.trailer, c.skipped, c.rest)
		c.trailer, c.skipped, c.rest = nil, nil, nil
	}
}

// watch reads the next head while a handler runs, and delivers nothing. It returns when
// the server interrupts it, or with the error by which the server knows that the client
// has gone.
func (c *reinspectConn) watch() error {
	c.enter(watching)
	if err := c.readNext(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.interrupted && !c.closing {
		c.wake.Wait()
	}
	return os.ErrDeadlineExceeded
}

// advance reads the next head and makes it the message, if it is one for the server. If
// not, the server is shown an end.
func (c *reinspectConn) advance() error {
	if c.single || c.inspect.gone.Load() {
		return io.EOF
	}
	c.enter(awaiting)
	if err := c.readNext(); err != nil {
		return err
	}
	next := c.next
	next.decide()
	if next.inspect != c.inspect || next.Outcome() != opening.HTTP || next.route < 0 || next.route != c.route {
		return c.leave(next)
	}
	switch route := c.inspect.Routes[next.route]; {
	case !route.inPlace:
		return c.leave(next)
	case len(route.handlers) == 1:
		c.begin(next, next.Data(), next.Head.Len)
	default:
		// The handlers before http_app run for this request too.
		next.turn.server = c
		_ = route.handle(next.stream(), endOfChain)
		if c.next != nil {
			return io.EOF // one of them has answered it
		}
	}
	c.enter(delivering)
	return nil
}

// retire lets go of the inspection of the message, which has been delivered, and of its
// buffer. They are used again unless somebody else may have them.
func (c *reinspectConn) retire() {
	in, shared := c.in, len(c.rest) > 0
	c.in = nil
	if !shared {
		c.rest = nil // or an empty slice keeps the buffer
	}
	if in != nil {
		in.recycle(!shared)
	}
}

// resume delivers the request in, which the handlers of the route have brought back.
func (c *reinspectConn) resume(in *inspection, data []byte) {
	c.begin(in, data, in.Head.Len)
}

// readNext reads until it is certain what follows the message. An error is one of the
// connection, or the server's interruption.
func (c *reinspectConn) readNext() error {
	if c.next == nil {
		c.retire()
		if err := c.readFirst(); err != nil {
			return err
		}
	}
	return receive(&c.next.Opening, (*nextHead)(c), nil)
}

// nextHead is the connection beneath, as the next head arrives on it.
type nextHead reinspectConn

// Read implements incoming.
func (c *nextHead) Read(p []byte) (int, error) {
	n, err := c.base.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && (*reinspectConn)(c).isInterrupted() {
		return n, errInterrupted{}
	}
	return n, err
}

// SetReadDeadline implements incoming.
func (c *nextHead) SetReadDeadline(t time.Time) error {
	return (*reinspectConn)(c).setHeadDeadline(t)
}

// errInterrupted says that the server has interrupted its read. To the server that is a
// timeout, and to an opening it is none.
type errInterrupted struct{}

func (errInterrupted) Error() string   { return "interrupted" }
func (errInterrupted) Timeout() bool   { return true }
func (errInterrupted) Temporary() bool { return true }

// readFirst waits for the first bytes of the next request and begins to inspect it.
func (c *reinspectConn) readFirst() error {
	waits := false
	for c.skipBlank(); len(c.rest) == 0; c.skipBlank() {
		waits = true
		if err := c.setHeadDeadline(time.Time{}); err != nil {
			return err
		}
		first, err := c.first.ReadFirst(c.continuation.inspect.limits.Bytes)
		if len(first) == 0 {
			return noProgress(err)
		}
		c.rest = first
	}
	c.next = c.continuation.next(c.base, c.rest)
	c.next.source = (*nextHead)(c)
	c.rest = nil
	if waits && c.first.ChangesDeadline() {
		return c.setHeadDeadline(c.next.Deadline())
	}
	return nil
}

// skipBlank leaves out what may come before the next head.
func (c *reinspectConn) skipBlank() {
	n := 0
	for n < len(c.rest) && n < c.blank && (c.rest[n] == '\r' || c.rest[n] == '\n') {
		n++
	}
	if n == 0 {
		return
	}
	c.blank -= n
	c.skipped = append(c.skipped, c.rest[:n]...)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil // or an empty slice keeps the buffer
	}
}

// leave shows the server the end of the connection, which goes on with next.
func (c *reinspectConn) leave(next *inspection) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return net.ErrClosed
	}
	c.detached.Store(true)
	return io.EOF
}

// enter makes p the phase, unless the connection is hijacked, and returns what it is, and
// whether the server has closed.
func (c *reinspectConn) enter(p phase) (phase phase, closing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != hijacked && c.phase != p {
		c.phase = p
		_ = c.applyDeadline()
	}
	return c.phase, c.closing
}

// applyDeadline sets the read deadline of the connection beneath. While the next head
// arrives, inspect's holds; the server's is one for a client that says nothing. What it
// interrupts it interrupts in any phase. c.mu is held.
func (c *reinspectConn) applyDeadline() error {
	t := c.deadline
	if !c.interrupted && (c.phase == watching || c.phase == awaiting && !c.headDeadline.IsZero()) {
		t = c.headDeadline
	}
	if t.Equal(c.applied) || c.closing {
		return nil
	}
	c.applied = t
	return c.Conn.SetReadDeadline(t)
}

// setHeadDeadline sets the deadline for the next head; zero before its first byte.
func (c *reinspectConn) setHeadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headDeadline = t
	return c.applyDeadline()
}

func (c *reinspectConn) isInterrupted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.interrupted
}

// SetReadDeadline implements net.Conn.
func (c *reinspectConn) SetReadDeadline(t time.Time) error {
	if c.detached.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.interrupted = !t.IsZero() && !t.After(time.Now()); c.interrupted {
		c.wake.Broadcast()
	}
	return c.applyDeadline()
}

// SetWriteDeadline implements net.Conn.
func (c *reinspectConn) SetWriteDeadline(t time.Time) error {
	if c.detached.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn. The server calls it for a hijacker.
func (c *reinspectConn) SetDeadline(t time.Time) error {
	if c.detached.Load() {
		return nil
	}
	c.enter(hijacked)
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Write implements net.Conn.
func (c *reinspectConn) Write(p []byte) (int, error) {
	if c.detached.Load() {
		return 0, net.ErrClosed
	}
	return c.replayConn.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (c *reinspectConn) ReadFrom(r io.Reader) (int64, error) {
	if c.detached.Load() {
		return 0, net.ErrClosed
	}
	return c.replayConn.ReadFrom(r)
}

// CloseWrite shuts the sending side down.
func (c *reinspectConn) CloseWrite() error {
	if c.detached.Load() {
		return nil
	}
	return c.replayConn.CloseWrite()
}

// Close implements net.Conn. Both the server's goroutine for the connection and its
// Shutdown may call it.
func (c *reinspectConn) Close() error {
	c.mu.Lock()
	first := !c.closing
	c.closing = true
	served := c.phase != hijacked
	c.wake.Broadcast()
	c.mu.Unlock()
	if !c.detached.Load() {
		if first && served && c.reads.Load() == 0 && socket.Unread(c.base) {
			// Closing would send a reset, and destroy the response that is on its way. While
			// the server reads there is none: then its Shutdown closes.
			c.requestTaken()
			go c.closeLater(streams.Hold(func() { _ = c.replayConn.Close() }))
			return nil
		}
		return c.replayConn.Close()
	}
	if first {
		c.requestTaken()
		_ = c.base.SetDeadline(time.Time{})
		c.left(c.next)
	}
	return nil
}

// closeLater is a goroutine that closes the connection when the client has had some time
// to read what it was sent.
func (c *reinspectConn) closeLater(release func()) {
	defer release()
	linger(c.base)
	_ = c.replayConn.Close()
}

// Interface guards
var _ served = (*reinspectConn)(nil)
