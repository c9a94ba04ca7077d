package streamprox

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// defaultWait is how long http_app waits for a listener by default.
const defaultWait = 5 * time.Second

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

	wait     time.Duration
	wrapped  bool                           // inside a listener wrapper
	targets  func() (*httpListeners, error) // of the configuration this handler is in
	unrouted unroutedLog
	failures limitedLog
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
	h.Listener = strings.TrimPrefix(h.Listener, networkName+"/")
	h.wait = defaultWait
	if h.Wait != nil {
		if h.wait = time.Duration(*h.Wait); h.wait <= 0 {
			return fmt.Errorf("wait: %s is not more than 0", h.wait)
		}
	}
	if _, err := parseReuse(h.Reuse, reusePin); err != nil {
		return fmt.Errorf("%w: use reinspect, close or pin", err)
	}
	if h.Reuse == "pin" {
		h.logger.Info("only the first request of a connection is routed: reuse is pin")
	}

	h.targets = sync.OnceValues(func() (*httpListeners, error) { return findHTTPListeners(ctx, h.Listener) })
	if h.wrapped = ctx.Value(caddyhttp.ServerCtxKey) != nil; h.wrapped {
		return nil // the HTTP app is being provisioned: it is asked when it runs
	}
	if _, err := h.targets(); err != nil {
		return err
	}
	return unbindACME(ctx)
}

// httpListeners are the addresses on the virtual network at which a name is served.
// Either may be empty; where a port was asked for, both are that listener.
type httpListeners struct {
	name  string
	plain string // for HTTP
	tls   string // for HTTPS
}

func (t *httpListeners) empty() bool { return t.plain == "" && t.tls == "" }

// bind returns the directive that binds a site to the name.
func (t *httpListeners) bind() string {
	name := t.name
	if name == "" {
		name = "web"
	}
	return "bind " + networkName + "/" + name
}

// findHTTPListeners looks for the listeners of a name, or name:port, or of the only
// name, among the servers of the HTTP app.
func findHTTPListeners(ctx caddy.Context, listener string) (*httpListeners, error) {
	name, port, err := splitListener(listener)
	if err != nil {
		return nil, err
	}
	found := &httpListeners{name: name}
	module, err := ctx.AppIfConfigured("http")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	bound := boundListeners(module.(*caddyhttp.App))
	if name == "" {
		var names []string
		for _, b := range bound {
			names = append(names, b.name)
		}
		switch names = slices.Compact(names); len(names) {
		case 0:
			return found, nil
		case 1:
			found.name = names[0]
		default:
			return nil, fmt.Errorf("http_app needs a name, since several are bound to %s: %s", networkName, strings.Join(names, ", "))
		}
	}

	var plain, tls []string
	for _, b := range bound {
		switch {
		case b.name != found.name:
		case port != "" && b.port != port:
		case port != "":
			found.plain, found.tls = b.address(), b.address()
			return found, nil
		case b.tls:
			tls = append(tls, b.address())
		default:
			plain = append(plain, b.address())
		}
	}
	for kind, addresses := range map[string][]string{"HTTPS": tls, "HTTP": plain} {
		if len(addresses) > 1 {
			return nil, fmt.Errorf("http_app %s: several %s listeners have that name (%s); name one of them with its port",
				found.name, kind, strings.Join(addresses, ", "))
		}
	}
	found.plain, found.tls = strings.Join(plain, ""), strings.Join(tls, "")
	return found, nil
}

// splitListener splits name, or name:port, as http_app takes it.
func splitListener(listener string) (name, port string, err error) {
	if !strings.Contains(listener, ":") {
		return listener, "", nil
	}
	if name, port, err = net.SplitHostPort(listener); err != nil {
		return "", "", fmt.Errorf("listener %q: %w", listener, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || name == "" {
		return "", "", fmt.Errorf("listener %q: use <name> or <name>:<port>", listener)
	}
	return name, port, nil
}

// boundListener is a listener on the virtual network, as configured.
type boundListener struct {
	name, port string
	tls        bool
	server     string
}

func (b boundListener) address() string { return net.JoinHostPort(b.name, b.port) }

// boundListeners returns the listeners of app on the virtual network, in order.
func boundListeners(app *caddyhttp.App) []boundListener {
	var bound []boundListener
	for name, server := range app.Servers {
		for _, address := range listenAddresses(server.Listen) {
			if address.Network != networkName {
				continue
			}
			for port := address.StartPort; port <= address.EndPort; port++ {
				bound = append(bound, boundListener{
					name:   address.Host,
					port:   strconv.FormatUint(uint64(port), 10),
					tls:    len(server.TLSConnPolicies) > 0 && port != httpPort(app),
					server: name,
				})
			}
		}
	}
	slices.SortFunc(bound, func(a, b boundListener) int { return strings.Compare(a.address(), b.address()) })
	return bound
}

// Handle implements layer4.NextHandler. It returns when the HTTP server has the
// connection, if that is a plain socket; else when the server has closed it. Inside a
// listener wrapper and without a name it returns after next has taken it.
func (h *HTTPApp) Handle(cx *layer4.Connection, next layer4.Handler) error {
	in := inspectionOf(cx)
	pending, conn := drain(cx)
	switch {
	case in != nil && in.turn.server != nil:
		in.turn.server.resume(in, pending)
		return nil
	case in != nil && in.Outcome() == opening.Other:
		// The server's parser takes more for a request than inspect does.
		answer(conn, http.StatusBadRequest, false)
		return nil
	case in == nil && shed(cx, socket.NewReader(conn), h.logger):
		return nil
	}
	if err := finishHandshake(conn, defaultSilentTimeout); err != nil {
		h.logger.Debug("TLS handshake", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
		return nil
	}
	if h.wrapped && h.Listener == "" {
		return h.fallThrough(cx, in, conn, pending, next)
	}

	pending, err := firstBytes(conn, pending)
	if err != nil {
		h.logger.Debug("no first byte", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
		return nil
	}
	isTLS := pending[0] == tlsHandshakeRecord
	targets, err := h.targets()
	if err != nil {
		h.logger.Error("finding listeners", zap.String("listener", h.Listener), zap.Error(err))
		refuse(conn, in, pending, http.StatusServiceUnavailable)
		return nil
	}
	address := targets.choose(isTLS)
	if address == "" {
		h.logMissing(targets, isTLS, cx.RemoteAddr())
		refuse(conn, in, pending, http.StatusServiceUnavailable)
		return nil
	}
	if handOvers(conn) >= maxHandOvers {
		h.failures.failure(h.logger.Warn, lineKind{message: "connections are handed over in a circle: the http_app in a listener wrapper leads back to the wrapper's own server"})
		refuse(conn, in, pending, http.StatusLoopDetected)
		return nil
	}

	setTLSState(cx)
	base := conn
	if in != nil {
		base = in.turn.conn
	}
	conn, detached := socket.Detach(conn)
	if detached {
		base = conn
	}
	closed := make(chan struct{})
	ended := serveNext // which keeps nothing of this call while the connection is idle
	if !detached {
		ended = func(successor *inspection) {
			if successor != nil {
				in.turn.successor = successor
			}
			close(closed)
		}
	}
	handed := h.hand(in, conn, base, pending, h.reuse(in, conn, base), ended)
	if state := tlsState(cx); state != nil {
		handed = tlsServedConn{served: handed, state: state}
	}
	if err := network.Deliver(address, handed, h.wait); err != nil {
		h.failures.failure(h.logger.Error, lineKind{message: "delivering connection"},
			zap.String("listener", address),
			zap.Duration("wait", h.wait),
			zap.Stringer("remote", cx.RemoteAddr()),
			zap.Error(err))
		refuse(conn, in, pending, http.StatusServiceUnavailable)
		_ = conn.Close()
		return nil
	}
	if !detached {
		<-closed
	}
	return nil
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

// fallThrough leaves the connection to the wrapped server. It cannot come back to that,
// so a request that does not belong there is the last one that the server knows of.
func (h *HTTPApp) fallThrough(cx *layer4.Connection, in *inspection, conn net.Conn, pending []byte, next layer4.Handler) error {
	base := conn
	if in != nil {
		base = in.turn.conn
	}
	reuse := h.reuse(in, conn, base)
	if reuse == reusePin {
		stream := fork(cx, conn, pending)
		setTLSState(stream)
		return next.Handle(stream)
	}
	if in.turn.later {
		return nil
	}
	if !in.inspect.Routes[in.route].inPlace {
		// The handlers of the route run for each request, and each could only lead here.
		reuse = reuseClose
	}
	stream := fork(cx, conn, nil)
	setTLSState(stream)
	stream.Conn = h.hand(in, conn, base, pending, reuse, serveNext)
	return next.Handle(stream)
}

// serveNext starts the goroutine for the request that follows, unless it is nil, on a
// connection that nobody else has.
func serveNext(successor *inspection) {
	if successor != nil {
		successor.turn.hold()
		go successor.serve(successor.conn)
	}
}

// hand returns the connection that the HTTP server gets. When the server has closed it,
// closed is called once, with the request that follows on base if that is not the
// server's.
func (h *HTTPApp) hand(in *inspection, conn, base net.Conn, pending []byte, reuse reuse, closed func(*inspection)) served {
	if reuse == reusePin {
		return newReplayConn(conn, pending, closed)
	}
	headLen := in.Head.Len
	if reuse == reuseClose {
		head := in.Head.WithClose(in.Data())
		pending = append(head, pending[headLen:]...)
		headLen = len(head)
	}
	return newReinspectConn(in, conn, base, pending, headLen, reuse == reuseClose, closed)
}

// reuse returns how a connection that begins as inspected is used. It is conn, which a
// handler may have made of base.
func (h *HTTPApp) reuse(in *inspection, conn, base net.Conn) reuse {
	reuse, _ := parseReuse(h.Reuse, reuseReinspect) // checked by Provision
	switch {
	case reuse == reusePin:
	case !in.routed():
		h.unrouted.log(h.logger, h.Reuse)
		return reusePin
	case in.Outcome() != opening.HTTP, in.Head.Options().LineOnly:
		return reusePin
	case reuse == reuseReinspect && !throttles(conn, base):
		// The next request is read from base, and a wrapper may hold a part of it.
		return reuseClose
	}
	return reuse
}

// choose returns the address for a stream that begins as TLS, or does not.
func (t *httpListeners) choose(isTLS bool) string {
	if isTLS {
		return t.tls
	}
	return t.plain
}

// tlsHandshakeRecord is the first byte of a TLS connection (RFC 8446 section 5.1).
const tlsHandshakeRecord = 0x16

// firstBytes waits for the first bytes of the stream if none has been read.
func firstBytes(conn net.Conn, pending []byte) ([]byte, error) {
	if len(pending) > 0 {
		return pending, nil
	}
	if err := conn.SetReadDeadline(time.Now().Add(defaultSilentTimeout)); err != nil {
		return nil, err
	}
	first := socket.NewReader(conn)
	pending, err := first.ReadFirst(socket.FirstSize)
	if len(pending) == 0 {
		return nil, noProgress(err)
	}
	return pending, conn.SetReadDeadline(time.Time{})
}

// finishHandshake completes the handshake of a TLS connection that nobody has read
// from, which may take as long as patience: the state that the HTTP server sees must be
// complete.
func finishHandshake(conn net.Conn, patience time.Duration) error {
	tlsConn, ok := conn.(*tls.Conn)
	if !ok || tlsConn.ConnectionState().HandshakeComplete {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return tlsConn.HandshakeContext(ctx)
}

// refuse tells the client that its connection goes nowhere: an HTTP client, or one of
// which the first bytes are all that is known, with that status.
func refuse(conn net.Conn, in *inspection, pending []byte, status int) {
	switch {
	case pending[0] == tlsHandshakeRecord:
		tlsAlert(conn, tlsInternalError)
	case in == nil || in.Outcome() == opening.HTTP:
		answer(conn, status, bytes.HasPrefix(pending, []byte("HEAD ")))
	}
}

// Interface guards
var (
	_ caddy.Provisioner     = (*HTTPApp)(nil)
	_ caddyfile.Unmarshaler = (*HTTPApp)(nil)
	_ layer4.NextHandler    = (*HTTPApp)(nil)
)
