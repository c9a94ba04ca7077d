package streamprox

import (
	"crypto/tls"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"sync/atomic"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4throttle"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/handover"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// handedConn is a connection that has been handed to an HTTP server of this process. It
// tells when the server has taken on the request at its beginning, and when it has ended:
// when it is closed and no call is in progress. A hijacker may read and close from several
// goroutines, and whoever waits for the end uses the connection beneath.
type handedConn struct {
	net.Conn
	calls calls

	// ended is called once, at the end. If a request follows that is not the server's, it
	// gets that, and the connection beneath is still open; else nil.
	ended func(successor *inspection)

	record atomic.Pointer[account.Record] // of the request, or of all; or nil
	counts *routeCounts

	// taken, unless nil, is called once when the server has taken on the request.
	taken atomic.Pointer[func()]
}

// handOvers returns how often the connection beneath has been handed to an HTTP server
// of this process, this time included.
func (c *handedConn) handOvers() int { return handOvers(c.Conn) + 1 }

// handOvers returns how often conn has been handed to an HTTP server of this process.
func handOvers(conn net.Conn) int {
	for conn != nil {
		if handed, ok := conn.(interface{ handOvers() int }); ok {
			return handed.handOvers()
		}
		conn = beneath(conn)
	}
	return 0
}

// beneath returns the connection that conn wraps, as far as that can be seen, or nil.
func beneath(conn net.Conn) net.Conn {
	if inner := socket.Unwrap(conn); inner != nil {
		return inner
	}
	// Most wrappers embed what they wrap.
	v := reflect.Indirect(reflect.ValueOf(conn))
	if v.Kind() != reflect.Struct {
		return nil
	}
	embedded := v.FieldByName("Conn")
	if !embedded.IsValid() || !embedded.CanInterface() {
		return nil
	}
	inner, _ := embedded.Interface().(net.Conn)
	return inner
}

// unwrap tells package socket what the wrappers of caddy-l4 and of this package wrap. What a
// reinspectConn wraps is not always its own.
func unwrap(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case *layer4.Connection:
		return c.Conn
	case *replayConn:
		return c.Conn
	}
	return nil
}

// throttles reports whether conn is what caddy-l4's throttle makes of base: it delays
// reading, and holds no bytes.
func throttles(conn, base net.Conn) bool {
	for !same(conn, base) {
		if conn == nil || reflect.TypeOf(conn).PkgPath() != throttlePackage {
			return false
		}
		conn = beneath(conn)
	}
	return true
}

var throttlePackage = reflect.TypeFor[l4throttle.Handler]().PkgPath()

// same reports whether a and b are one connection. Wrappers of a type that cannot be
// compared are not.
func same(a, b net.Conn) bool {
	return a != nil && reflect.TypeOf(a).Comparable() && reflect.ValueOf(a).Comparable() && a == b
}

// Write implements net.Conn.
func (c *handedConn) Write(p []byte) (int, error) {
	if !c.calls.begin() {
		return 0, net.ErrClosed
	}
	defer c.endCall()
	c.requestTaken()
	c.record.Load().Meter().Responded(statusOf(p))
	return sentWriter{c}.Write(p)
}

// statusOf returns the status of the final response that p begins with, 0 if it begins with none.
func statusOf(p []byte) int {
	const start = "HTTP/1.1 "
	if len(p) < len(start)+3 || string(p[:7]) != start[:7] || p[8] != ' ' {
		return 0
	}
	status, err := strconv.Atoi(string(p[len(start) : len(start)+3]))
	if err != nil || status < 200 && status != http.StatusSwitchingProtocols {
		return 0
	}
	return status
}

// ReadFrom implements io.ReaderFrom. net/http's server looks for it: a TCP
// connection sends files without copying them.
func (c *handedConn) ReadFrom(r io.Reader) (int64, error) {
	if !c.calls.begin() {
		return 0, net.ErrClosed
	}
	defer c.endCall()
	c.requestTaken()
	if to, ok := c.Conn.(io.ReaderFrom); ok {
		return c.sendFrom(to, r)
	}
	return io.Copy(sentWriter{c}, r)
}

// pieceSize is how many bytes of a file are sent before they are counted.
const pieceSize = 4 << 20

// sendFrom lets to, the connection beneath, read from r, and counts that in pieces: a file may
// take hours. It gives to what net.TCPConn sends without copying.
func (c *handedConn) sendFrom(to io.ReaderFrom, r io.Reader) (n int64, err error) {
	all, ok := r.(*io.LimitedReader)
	if !ok {
		all = &io.LimitedReader{R: r, N: math.MaxInt64}
		_, isFile := r.(*os.File)
		if _, writes := r.(io.WriterTo); writes && !isFile {
			n, err = to.ReadFrom(r) // from memory
			c.sent(n)
			return n, err
		}
	}
	for err == nil && all.N > 0 {
		size := min(all.N, pieceSize)
		piece := io.LimitedReader{R: all.R, N: size}
		var sent int64
		sent, err = to.ReadFrom(&piece)
		c.sent(sent)
		n += sent
		if all.N -= size - piece.N; sent < size {
			break
		}
	}
	return n, err
}

// sentWriter counts what is written to the connection beneath a handedConn. It has no
// ReadFrom.
type sentWriter struct{ to *handedConn }

// Write implements io.Writer.
func (w sentWriter) Write(p []byte) (int, error) {
	n, err := w.to.Conn.Write(p)
	w.to.sent(int64(n))
	return n, err
}

// sent counts n bytes that the client gets of the server.
func (c *handedConn) sent(n int64) {
	appBytes.toClient.Add(n)
	c.record.Load().Meter().Delivered(account.Down, n)
}

// CloseWrite shuts the sending side down. net/http's server looks for it: it lets
// the client read an answer to a request whose body nobody reads.
func (c *handedConn) CloseWrite() error {
	if !c.calls.begin() {
		return net.ErrClosed
	}
	defer c.endCall()
	return socket.CloseWrite(c.Conn)
}

// Close implements net.Conn.
func (c *handedConn) Close() error {
	c.requestTaken()
	c.calls.close()
	if !c.calls.begin() {
		return net.ErrClosed
	}
	defer c.endCall()
	return c.Conn.Close()
}

// endCall ends a call, and with the last one after Close the connection.
func (c *handedConn) endCall() {
	if c.calls.end() {
		c.closeAccount()
		c.counts.ends(appConnection, endClosed)
		c.ended(nil)
	}
}

// account makes record that of the request, or of all, that the server gets.
func (c *handedConn) account(record *account.Record) {
	c.record.Store(record)
	record.EndBy(func() { socket.Reset(c.Conn) })
}

// accountRecord implements accounted.
func (c *handedConn) accountRecord() *account.Record { return c.record.Load() }

// received counts n bytes that the server gets of the client.
func (c *handedConn) received(n int) {
	if n > 0 {
		appBytes.toServer.Add(int64(n))
		c.record.Load().Meter().Delivered(account.Up, int64(n))
	}
}

// closeAccount closes the account of what the server has had.
func (c *handedConn) closeAccount() { closeAccount(c.record.Load(), "finished", nil, "app") }

// WhenTaken implements handover.Conn.
func (c *handedConn) WhenTaken(taken func()) {
	if taken == nil {
		c.taken.Store(nil)
	} else {
		c.taken.Store(&taken)
	}
}

// requestTaken tells that the server has taken on the request at the beginning.
func (c *handedConn) requestTaken() {
	if taken := c.taken.Swap(nil); taken != nil {
		(*taken)()
	}
}

// replayConn is the connection that the HTTP server gets if all that follows is its own: it
// reads pending first.
type replayConn struct {
	handedConn
	pending []byte
	begun   bool // the server has begun to read it
}

func newReplayConn(conn net.Conn, pending []byte, ended func(*inspection)) *replayConn {
	return &replayConn{handedConn: handedConn{Conn: conn, ended: ended}, pending: pending}
}

// Read implements net.Conn. When net/http's server has read a request it either
// drops it, because it is shutting down, or goes on to read: one byte, to notice a
// client that leaves, or the content. If it goes on because the head is not complete,
// nobody waits for the rest.
func (c *replayConn) Read(p []byte) (int, error) {
	n, err := c.read(p)
	c.received(n)
	return n, err
}

func (c *replayConn) read(p []byte) (int, error) {
	if !c.calls.begin() {
		return 0, net.ErrClosed
	}
	defer c.endCall()
	if len(p) == 1 || c.begun && len(c.pending) == 0 {
		c.requestTaken()
	}
	c.begun = true
	if len(c.pending) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.pending)
	if c.pending = c.pending[n:]; len(c.pending) == 0 {
		c.pending = nil // free the buffer
	}
	return n, nil
}

// served is a connection that the HTTP server gets.
type served interface {
	handover.Conn
	io.ReaderFrom
	accounted
	CloseWrite() error
	handOvers() int
}

// tlsServedConn is one whose TLS was terminated before it was handed over. The HTTP app
// takes the state from ConnectionState.
type tlsServedConn struct {
	served
	state *tls.ConnectionState
}

// ConnectionState returns the state of the TLS connection.
func (c tlsServedConn) ConnectionState() tls.ConnectionState { return *c.state }

// Interface guards
var (
	_ served = (*replayConn)(nil)
	_ served = tlsServedConn{}
)
