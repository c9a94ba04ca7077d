package streamprox

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// defaultWait is how long http_app waits for a listener by default.
const defaultWait = 5 * time.Second

// defaultPark is how long a connection of http_app may be idle by default before it is parked.
const defaultPark = time.Second

// HTTPApp delivers a connection to a server of Caddy's HTTP app in this process,
// without a socket in between. The server listens on the virtual network: its sites
// have `bind streamprox/<name>`. It sees the client's address, the local address that
// the client connected to, and the state of TLS that layer4 terminated.
//
// In a route of inspect, each request of a connection is routed: the HTTP server gets
// those of this route, one after the other, and when another one follows, it sees the end
// of the connection.
type HTTPApp struct {
	// The name, or name:port, on which the HTTP server listens. Without a port, TLS
	// goes to the HTTPS listener of that name and anything else to its HTTP
	// listener. Default: inside a listener wrapper, the wrapped server; elsewhere the
	// only name that is bound.
	Listener string `json:"listener,omitempty"`

	// How long to wait for a listener that is configured but does not accept yet.
	// Default: 5s.
	Wait *caddy.Duration `json:"wait,omitempty"`

	// What becomes of the requests that follow the first one on a connection.
	// `reinspect` routes each. `close` ends the connection after the first one. `pin`
	// leaves all to the HTTP server: those after the first one are not routed. Default:
	// `reinspect`; `pin` where inspect waits for the request line alone.
	Reuse string `json:"reuse,omitempty"`

	// How long a connection may have nothing to read before it leaves the HTTP server, which
	// sees its end and frees what it holds for it. It then waits at the cost of a descriptor
	// and a record, for as long as the server would, and its next request brings it back. 0
	// means never. TLS connections, those of a listener wrapper, and with other systems than
	// Linux all, stay with the server. Default: 1s.
	Park *caddy.Duration `json:"park,omitempty"`

	wait     time.Duration
	park     time.Duration                  // 0: never
	parker   relay.Parker                   // nil: there is none
	wrapped  bool                           // inside a listener wrapper
	targets  func() (*httpListeners, error) // of the configuration this handler is in
	unrouted unroutedLog
	failures limitedLog
	counts   *routeCounts   // of the route of inspect that it is in
	toServer *atomic.Uint64 // connections left to the wrapped server
	to       string         // what a decision calls it
	logger   *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*HTTPApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.handlers.http_app",
		New: func() caddy.Module { return new(HTTPApp) },
	}
}

// Provision sets up the handler and finds its listeners.
func (h *HTTPApp) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := checkConfiguration(ctx); err != nil {
		return err
	}
	watchAccepting(ctx)
	registerMetrics(ctx)
	h.counts = countsOfRoute(ctx)
	h.counts.uses(appConnection)
	h.Listener = strings.TrimPrefix(h.Listener, networkName+"/")
	h.to = h.whereTo()
	h.wait = defaultWait
	if h.Wait != nil {
		if h.wait = time.Duration(*h.Wait); h.wait <= 0 {
			return fmt.Errorf("wait: %s is not more than 0", h.wait)
		}
	}
	h.park = defaultPark
	if h.Park != nil {
		if h.park = time.Duration(*h.Park); h.park < 0 {
			return fmt.Errorf("park: %s is less than 0", h.park)
		}
	}
	h.parker, _ = relay.New(&streams, func(message string, err error) { h.logger.Warn(message, zap.Error(err)) }).(relay.Parker)
	if _, err := parseReuse(h.Reuse, reusePin); err != nil {
		return fmt.Errorf("%w: use reinspect, close or pin", err)
	}
	if h.Reuse == "pin" {
		h.logger.Info("only the first request of a connection is routed: reuse is pin")
	}

	h.targets = sync.OnceValues(func() (*httpListeners, error) {
		found, err := findHTTPListeners(ctx, h.Listener)
		found.countHandOffs(ctx)
		return found, err
	})
	if h.wrapped = ctx.Value(caddyhttp.ServerCtxKey) != nil; h.wrapped {
		h.toServer = handOffs.use(ctx, wrappedServer)
		return nil // the HTTP app is being provisioned: it is asked when it runs
	}
	if _, err := h.targets(); err != nil {
		return err
	}
	return unbindACME(ctx)
}

// Handle implements layer4.NextHandler. It returns when the HTTP server has closed the
// connection, or has left it to wait for its next request; with a plain socket that is all
// the server's, when the server has it. Inside a listener wrapper and without a name it
// returns after next has taken it.
func (h *HTTPApp) Handle(cx *layer4.Connection, next layer4.Handler) error {
	a := arrive(cx)
	a.counts = h.counts
	switch {
	case a.in != nil && a.in.turn.server != nil:
		// The server that got the request before waits for this one.
		a.in.turn.server.resume(a.in, a.pending)
		return nil
	case a.in != nil && a.in.Outcome() == opening.Other:
		// The server's parser takes more for a request than inspect does.
		refusedOther.count()
		a.in.respond(a.conn, statusOnly(http.StatusBadRequest))
		return nil
	case a.in == nil && shed(cx, socket.NewReader(a.conn), h.logger):
		return nil
	}
	if err := finishHandshake(a.conn, defaultSilentTimeout); err != nil {
		h.logger.Debug("TLS handshake", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
		return nil
	}
	if h.wrapped && h.Listener == "" {
		return h.fallThrough(&a, next)
	}
	if err := a.awaitFirst(); err != nil {
		h.logger.Debug("no first byte", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
		return nil
	}
	address, status := h.address(&a)
	if address == "" {
		a.refuse(status)
		return nil
	}
	setTLSState(cx)
	record := h.account(&a, address)
	reuse, park := h.reuse(&a), h.parkingOf(&a)
	ended, wait := serveNext, func() {} // while the connection is idle, nothing of this call is kept
	if reuse == reuseReinspect && park != nil || !a.detach() {
		ended, wait = a.awaitEnd()
	}
	if a.in != nil {
		a.in.turn.dropKept() // whoever gets the next request is not told of it
	}
	handed := a.hand(reuse, park, record, ended)
	a.counts.begins(appConnection)
	if state := tlsState(cx); state != nil {
		handed = tlsServedConn{served: handed, state: state}
	}
	if err := network.Deliver(address, handed, h.wait); err != nil {
		h.undelivered(&a, record, address, err)
		return nil
	}
	h.handedOff(address)
	if a.in != nil {
		a.in.turn.settle() // the server counts it now
	}
	wait()
	return nil
}

// undelivered closes a connection that no listener has taken from a.
func (h *HTTPApp) undelivered(a *arrival, record *account.Record, address string, err error) {
	defer a.conn.Close()
	a.counts.leaves(appConnection)
	if caddy.Exiting() {
		// The server has stopped. Like it, drop the request without an answer: the client
		// may send it to another one.
		closeAccount(record, relay.Shutdown.String(), nil, "")
		return
	}
	h.failures.failure(h.logger.Error, lineKind{message: "delivering connection"},
		zap.String("listener", address),
		zap.Duration("wait", h.wait),
		zap.Stringer("remote", a.cx.RemoteAddr()),
		zap.Error(err))
	record.Meter().Responded(http.StatusServiceUnavailable)
	closeAccount(record, "not_delivered", err, "")
	a.refuse(http.StatusServiceUnavailable)
}

// takesEach implements eachRequest.
func (*HTTPApp) takesEach() {}

// account returns the account of what the HTTP server with that address gets.
func (h *HTTPApp) account(a *arrival, address string) *account.Record {
	var record *account.Record
	if a.in != nil {
		record = a.in.turn.record
		a.in.turn.decidedFor(h.to)
	} else {
		record = openRaw(a.cx, a.conn, nil)
	}
	record.Change(func(s *account.Summary) { s.Destination, s.Upstream = toHTTPApp, address })
	return record
}

// arrival is a stream on its way to the HTTP server.
type arrival struct {
	cx      *layer4.Connection
	in      *inspection // nil if none is known
	pending []byte      // the first bytes
	conn    net.Conn    // has what follows
	base    net.Conn    // conn as the outermost inspect had it, before handlers wrapped it
	counts  *routeCounts
}

// arrive takes the stream out of cx.
func arrive(cx *layer4.Connection) (a arrival) {
	a = arrival{cx: cx, in: inspectionOf(cx)}
	a.pending, a.conn = drain(cx)
	a.base = a.conn
	if a.in != nil {
		a.base = a.in.turn.conn
	}
	return a
}

// awaitFirst waits for the first bytes if none has been read.
func (a *arrival) awaitFirst() error {
	if len(a.pending) > 0 {
		return nil
	}
	if err := a.conn.SetReadDeadline(time.Now().Add(defaultSilentTimeout)); err != nil {
		return err
	}
	first := socket.NewReader(a.conn)
	pending, err := first.ReadFirst(socket.FirstSize)
	if len(pending) == 0 {
		return noProgress(err)
	}
	a.pending = pending
	return a.conn.SetReadDeadline(time.Time{})
}

// tlsHandshakeRecord is the first byte of a TLS connection (RFC 8446 section 5.1).
const tlsHandshakeRecord = 0x16

// isTLS reports whether the stream begins as TLS.
func (a *arrival) isTLS() bool { return a.pending[0] == tlsHandshakeRecord }

// address returns where the server for the stream listens, or "" and the status that says
// why there is none.
func (h *HTTPApp) address(a *arrival) (address string, status int) {
	targets, err := h.targets()
	if err != nil {
		h.logger.Error("finding listeners", zap.String("listener", h.Listener), zap.Error(err))
		return "", http.StatusServiceUnavailable
	}
	if address = targets.choose(a.isTLS()); address == "" {
		h.logMissing(targets, a.isTLS(), a.cx.RemoteAddr())
		return "", http.StatusServiceUnavailable
	}
	if handOvers(a.conn) >= maxHandOvers {
		h.failures.failure(h.logger.Warn, lineKind{message: "connections are handed over in a circle: the http_app in a listener wrapper leads back to the wrapper's own server"})
		return "", http.StatusLoopDetected
	}
	return address, 0
}

// logMissing says why a connection has no listener. A name with sites for HTTP alone gets
// TLS from those who look for open ports, and so the other way round: that is no mistake.
func (h *HTTPApp) logMissing(targets *httpListeners, isTLS bool, remote net.Addr) {
	if targets.empty() {
		h.failures.failure(h.logger.Error, lineKind{message: "no site is bound to that name"},
			zap.String("listener", h.Listener),
			zap.String("missing", targets.bind()),
			zap.Bool("tls", isTLS),
			zap.Stringer("remote", remote))
		return
	}
	h.logger.Debug("the name has no listener of that kind",
		zap.String("listener", targets.name),
		zap.Bool("tls", isTLS),
		zap.Stringer("remote", remote))
}

// refuse tells the client that its connection goes nowhere: an HTTP client, or one of
// which the first bytes are all that is known, with that status.
func (a *arrival) refuse(status int) {
	refusalTo(status).count()
	switch {
	case a.isTLS():
		tlsAlert(a.conn, tlsInternalError)
	case a.in == nil:
		answer(a.conn, status, bytes.HasPrefix(a.pending, []byte("HEAD ")))
	case a.in.Outcome() == opening.HTTP:
		a.in.respond(a.conn, statusOnly(status))
	}
}

// detach makes the connection independent of whoever closes it when Handle returns. It
// reports false if only a plain socket could be.
func (a *arrival) detach() (ok bool) {
	if a.conn, ok = socket.Detach(a.conn); ok {
		a.base = a.conn
	}
	return ok
}

// awaitEnd returns what the end of the connection is to be told to, and a function that
// waits for it. The request that follows is left to the inspect whose handler waits.
func (a *arrival) awaitEnd() (ended func(*inspection), wait func()) {
	in, closed := a.in, make(chan *inspection, 1)
	ended = func(successor *inspection) {
		if successor != nil {
			successor.turn.hold()
		}
		closed <- successor
	}
	return ended, func() {
		successor := <-closed
		switch {
		case successor == nil:
		case successor.complete(nil) != nil: // one whose head is not complete comes from a socket
			successor.turn.settle()
		default:
			successor.decide()
			in.turn.successor = successor
		}
	}
}

// serveNext starts the goroutine for the request that follows, unless it is nil, on a
// connection that nobody else has.
func serveNext(successor *inspection) {
	if successor != nil {
		successor.turn.hold()
		go successor.serve(successor.conn)
	}
}

// reuse returns how the connection is used, and says once if nobody could route its later
// requests.
func (h *HTTPApp) reuse(a *arrival) reuse {
	reuse, unrouted := h.reuseOf(a)
	if unrouted {
		h.unrouted.log(h.logger, h.Reuse)
	}
	return reuse
}

// reuseOf returns how the connection is used. unrouted says that no route of inspect has
// brought it, so that nobody could route its later requests.
func (h *HTTPApp) reuseOf(a *arrival) (reuse reuse, unrouted bool) {
	reuse, _ = parseReuse(h.Reuse, reuseReinspect) // checked by Provision
	switch {
	case reuse == reusePin:
	case !a.in.routed():
		return reusePin, true
	case a.in.Outcome() != opening.HTTP, a.in.Head.Options().LineOnly:
		return reusePin, false
	case reuse == reuseReinspect && !throttles(a.conn, a.base):
		// The next request is read from base, and a wrapper may hold a part of it.
		return reuseClose, false
	}
	return reuse, false
}

// withHead returns data as the HTTP server gets them, which begin with the head of in, and
// the length of the head in them: with reuseClose it asks the server to close.
func (r reuse) withHead(in *inspection, data []byte) (delivered []byte, headLen int) {
	if r != reuseClose {
		return data, in.Head.Len
	}
	head := in.Head.WithClose(in.Data())
	return append(head, data[in.Head.Len:]...), len(head)
}

// parkingOf returns what parks the connection when it is idle, or nil.
func (h *HTTPApp) parkingOf(a *arrival) *parking {
	if h.park == 0 || h.parker == nil || h.wrapped || !socket.Is(a.conn) {
		return nil
	}
	return &parking{h.parker, h.park}
}

// hand returns the connection that the HTTP server gets. When the server has closed it,
// ended is called once, with the request that follows if that is not the server's.
func (a *arrival) hand(reuse reuse, park *parking, record *account.Record, ended func(*inspection)) served {
	if reuse == reusePin {
		if a.in != nil {
			a.in.turn.takeRecord()
		}
		c := newReplayConn(a.conn, a.pending, ended)
		c.counts = a.counts
		c.account(record)
		return c
	}
	pending, headLen := reuse.withHead(a.in, a.pending)
	c := newReinspectConn(a.in, a.conn, a.base, pending, headLen, reuse == reuseClose, ended)
	c.parking, c.counts = park, a.counts
	return c
}

// fallThrough leaves the connection to the wrapped server. It cannot come back to that,
// so a request that does not belong there is the last one that the server knows of.
func (h *HTTPApp) fallThrough(a *arrival, next layer4.Handler) error {
	reuse := h.reuse(a)
	if reuse == reusePin {
		h.toServer.Add(1)
		if a.in != nil {
			noteCause(h.account(a, ""), "handed_over", nil) // nobody tells what becomes of it
		}
		stream := forkOf(a.cx, a.conn, a.pending)
		setTLSState(stream)
		return next.Handle(stream)
	}
	if a.in.turn.later {
		return nil
	}
	h.toServer.Add(1)
	reuse = a.inWrapper(reuse)
	stream := forkOf(a.cx, a.conn, nil)
	setTLSState(stream)
	stream.Conn = a.hand(reuse, nil, h.account(a, ""), serveNext)
	a.counts.begins(appConnection)
	return next.Handle(stream)
}

// inWrapper returns how a connection that is routed is used by the wrapped server.
func (a *arrival) inWrapper(reuse reuse) reuse {
	if !a.in.inspect.Routes[a.in.route].inPlace {
		// The handlers of the route run for each request, and each could only lead here.
		return reuseClose
	}
	return reuse
}

// Interface guards
var (
	_ caddy.Provisioner     = (*HTTPApp)(nil)
	_ caddyfile.Unmarshaler = (*HTTPApp)(nil)
	_ eachRequest           = (*HTTPApp)(nil)
	_ layer4.NextHandler    = (*HTTPApp)(nil)
)
