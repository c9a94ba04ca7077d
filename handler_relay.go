package streamprox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// The defaults of relay. Those of health checks are those of caddy-l4's proxy.
const (
	defaultDialTimeout       = 3 * time.Second
	defaultIdleTimeout       = time.Hour
	defaultHalfCloseTimeout  = 5 * time.Minute
	defaultKeepalive         = 5 * time.Minute
	defaultUpstreamKeepalive = 5 * time.Second
	defaultTryInterval       = 250 * time.Millisecond
	defaultCheckInterval     = 30 * time.Second
	defaultCheckTimeout      = 5 * time.Second
)

// Relay sends a stream to a remote server, from its first byte. Its JSON is that of
// caddy-l4's proxy handler, whose place it can take, with the options below added.
//
// In a route of inspect, each HTTP/1 request of a connection is routed: the framing of the
// request and of its response are followed, and then the client's connection waits for its
// next request, which goes wherever it belongs. The connection to the server is this
// client's own, and is kept for its next request. Only an upgrade that the server accepts
// makes a raw stream of the two. Anything else, and everything without inspect, is a raw
// stream from its first byte.
type Relay struct {
	// The servers, each with one address. Of those available, the load-balancing
	// policy chooses; after a failed dial each other one is tried once.
	Upstreams []*Upstream `json:"upstreams,omitempty"`

	// How to notice that an upstream does not work, so that it is left out. Default: not
	// at all.
	HealthChecks *HealthChecks `json:"health_checks,omitempty"`

	// How to choose among the upstreams, and for how long to try. Default: at random,
	// one round.
	LoadBalancing *l4proxy.LoadBalancing `json:"load_balancing,omitempty"`

	// How long it takes until an upstream that is new, or available again, gets its share of
	// the streams. It begins with a tenth. 0 means that it gets it at once. Default: 0.
	SlowStart *caddy.Duration `json:"slow_start,omitempty"`

	// The version of the PROXY protocol header to send, `v1` or `v2`. Default: none.
	ProxyProtocol string `json:"proxy_protocol,omitempty"`

	// How long connecting to one upstream may take, with TLS and the PROXY protocol
	// header. Default: 3s.
	DialTimeout *caddy.Duration `json:"dial_timeout,omitempty"`

	// For how long a stream may deliver no byte in either direction. 0 means no
	// limit. Default: 1h.
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// For how long a stream may deliver no byte once one side has finished sending. 0
	// means no limit. Default: 5m.
	HalfCloseTimeout *caddy.Duration `json:"half_close_timeout,omitempty"`

	// How long the server may take to begin its response to an HTTP request, once that
	// is sent. 0 means no limit. Default: 0.
	ResponseHeaderTimeout *caddy.Duration `json:"response_header_timeout,omitempty"`

	// What becomes of the requests that follow the first one on a connection. `reinspect`
	// routes each. `close` takes one request from each connection. `pin` leaves all to the
	// same server: those after the first one are not routed. Default: `reinspect`; in a
	// listener wrapper `close`, since a connection cannot return to the wrapped server; `pin`
	// where inspect waits for the request line alone.
	Reuse string `json:"reuse,omitempty"`

	// How long a client's connection waits for its next request. Default: 5m.
	Keepalive *caddy.Duration `json:"keepalive,omitempty"`

	// How long a client's connection to the server is kept between its requests. 0 means
	// not at all. Default: 5s.
	UpstreamKeepalive *caddy.Duration `json:"upstream_keepalive,omitempty"`

	// The protocols to which a request may upgrade its connection (RFC 9110 section
	// 7.8), never `h2c`. Requests to upgrade to others are sent up as if they did not
	// ask. Empty: none. Default: `websocket`.
	Upgrade []string `json:"upgrade,omitzero"`

	// Send up fields whose names hold anything but letters, digits and hyphens. The
	// default is to drop them: CGI and WSGI applications would take X_Real_IP, and some
	// X!Real!IP, for X-Real-IP.
	KeepAliasHeaders bool `json:"keep_alias_headers,omitempty"`

	// The hosts, as in `example.org` or `*.example.org`, and networks, as in
	// `10.0.0.0/8`, to which placeholders that depend on the connection may lead. A host
	// is compared with the name that is dialled, a network with its resolved address.
	// Default: none, and such placeholders are refused.
	DialAllow []string `json:"dial_allow,omitempty"`

	// Write an access log of the streams that no inspect has routed here. Default: none.
	Log *AccessLog `json:"log,omitempty"`

	pool              *upstream.Pool
	to                string // what a decision calls it
	engine            relay.Engine
	idleTimeout       time.Duration
	halfCloseTimeout  time.Duration
	responseTimeout   time.Duration
	keepalive         time.Duration
	upstreamKeepalive time.Duration
	forward           httphead.Forward
	ahead             bool // a look at a head can tell the upstream that was chosen before from others
	wrapped           bool // inside a listener wrapper
	ledger            *ledger
	unrouted          unroutedLog
	failures          limitedLog
	events            *healthEvents // nil: there are no active checks
	counts            *routeCounts  // of the route of inspect that it is in
	ctx               caddy.Context
	logger            *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Relay) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.handlers.relay",
		New: func() caddy.Module { return new(Relay) },
	}
}

// Provision checks the options, and makes the pool of upstreams and the engine.
func (h *Relay) Provision(ctx caddy.Context) error {
	h.ctx = ctx
	h.logger = ctx.Logger()
	err := checkConfiguration(ctx)
	if err != nil {
		return err
	}
	watchAccepting(ctx)
	registerMetrics(ctx)
	h.counts = countsOfRoute(ctx)
	h.counts.uses(relayRequest, relayStream)
	h.wrapped = ctx.Value(caddyhttp.ServerCtxKey) != nil
	if h.ledger, err = newLedger(ctx, h.Log); err != nil {
		return err
	}
	h.engine = relay.New(&streams, func(message string, err error) { h.logger.Warn(message, zap.Error(err)) })

	options := upstream.Options{Dialed: h.logDial, Checked: h.logHealthCheck}
	if err := h.provisionTimeouts(&options); err != nil {
		return err
	}
	if err := h.provisionConnect(&options); err != nil {
		return err
	}
	if err := h.provisionRequests(); err != nil {
		return err
	}
	if err := h.provisionHealthChecks(&options); err != nil {
		return err
	}
	if err := h.provisionEvents(ctx); err != nil {
		return err
	}
	if err := h.provisionServers(&options); err != nil {
		return err
	}
	if err := h.provisionPolicy(ctx, &options); err != nil {
		return err
	}
	pool, err := upstream.New(ctx, options)
	if err != nil {
		return err
	}
	h.pool = pool
	h.to = h.whereTo()
	_, byHead := options.Selector.(headPolicy)
	h.ahead = !pool.PerClient() && (!pool.PerRequest() || byHead)
	if options.SlowStart > 0 && !upstream.SlowStarts(options.Selector) {
		h.logger.Warn("slow_start has no effect with this lb_policy", zap.String("policy", h.policyName()))
	}
	if !options.Allow.None() && !pool.PerClient() {
		h.logger.Warn("dial_allow has no effect: no upstream depends on the connection")
	}
	return nil
}

// provisionTimeouts checks the timeouts and replaces those that are unset by defaults.
func (h *Relay) provisionTimeouts(options *upstream.Options) error {
	options.DialTimeout = defaultDialTimeout
	h.idleTimeout = defaultIdleTimeout
	h.halfCloseTimeout = defaultHalfCloseTimeout
	h.keepalive, h.upstreamKeepalive = defaultKeepalive, defaultUpstreamKeepalive
	for _, option := range []struct {
		name  string
		value *caddy.Duration
		to    *time.Duration
		zero  bool // 0 means none
	}{
		{"dial_timeout", h.DialTimeout, &options.DialTimeout, false},
		{"idle_timeout", h.IdleTimeout, &h.idleTimeout, true},
		{"half_close_timeout", h.HalfCloseTimeout, &h.halfCloseTimeout, true},
		{"response_header_timeout", h.ResponseHeaderTimeout, &h.responseTimeout, true},
		{"upstream_keepalive", h.UpstreamKeepalive, &h.upstreamKeepalive, true},
		{"slow_start", h.SlowStart, &options.SlowStart, true},
	} {
		if option.value == nil {
			continue
		}
		*option.to = time.Duration(*option.value)
		switch {
		case *option.to < 0:
			return fmt.Errorf("%s: %s is less than 0", option.name, *option.to)
		case *option.to == 0 && !option.zero:
			return fmt.Errorf("%s: 0 would refuse every connection; leave it out for the default of %s", option.name, defaultDialTimeout)
		}
	}
	if h.Keepalive != nil {
		if h.keepalive = time.Duration(*h.Keepalive); h.keepalive <= 0 {
			return fmt.Errorf("keepalive: %s is not more than 0; for one request a connection use 'reuse close'", h.keepalive)
		}
	}
	return nil
}

// provisionConnect checks how a client is connected: for how long to try, and with which
// PROXY protocol header.
func (h *Relay) provisionConnect(options *upstream.Options) error {
	if lb := h.LoadBalancing; lb != nil {
		if lb.TryDuration < 0 || lb.TryInterval < 0 {
			return errors.New("load_balancing: try_duration and try_interval cannot be less than 0")
		}
		options.TryDuration = time.Duration(lb.TryDuration)
		options.TryInterval = cmp.Or(time.Duration(lb.TryInterval), defaultTryInterval)
	}
	switch version := caddy.NewReplacer().ReplaceKnown(h.ProxyProtocol, ""); version {
	case "":
	case "v1":
		options.ProxyProtocol = 1
	case "v2":
		options.ProxyProtocol = 2
	default:
		return fmt.Errorf("proxy_protocol: unknown version %q: use v1 or v2", version)
	}
	return nil
}

// provisionRequests checks how requests are passed on.
func (h *Relay) provisionRequests() error {
	if _, err := parseReuse(h.Reuse, reusePin); err != nil {
		return fmt.Errorf("%w: use reinspect, close or pin", err)
	}
	if h.Reuse == "pin" {
		h.logger.Info("only the first request of a connection is routed: reuse is pin")
	}
	h.forward = httphead.Forward{Upgrades: []string{"websocket"}, KeepAliases: h.KeepAliasHeaders}
	if h.Upgrade == nil {
		return nil
	}
	h.forward.Upgrades = nil
	for _, protocol := range h.Upgrade {
		switch lower := strings.ToLower(protocol); {
		case !httpguts.ValidHeaderFieldName(strings.Replace(protocol, "/", "", 1)): // token ["/" token]
			return fmt.Errorf("upgrade: %q is no name of a protocol", protocol)
		case lower == "h2c", lower == "h2":
			return fmt.Errorf("upgrade: %s multiplexes requests that would not be routed; use 'reuse pin' if that is wanted", protocol)
		default:
			h.forward.Upgrades = append(h.forward.Upgrades, lower)
		}
	}
	return nil
}

// provisionServers checks that there are upstreams, and where their placeholders may lead.
func (h *Relay) provisionServers(options *upstream.Options) (err error) {
	if len(h.Upstreams) == 0 {
		return errors.New("relay needs at least one upstream")
	}
	for i, config := range h.Upstreams {
		if config == nil {
			return fmt.Errorf("upstream %d is null", i)
		}
		options.Servers = append(options.Servers, &config.Upstream)
		if config.Backup {
			options.Backups = append(options.Backups, &config.Upstream)
		}
	}
	if len(options.Backups) == len(options.Servers) {
		return errors.New("every upstream is a backup: one that is used first is needed")
	}
	options.Allow, err = upstream.ParseAllow(h.DialAllow)
	return err
}

// provisionPolicy loads the policy by which an upstream is chosen, if there is one.
func (h *Relay) provisionPolicy(ctx caddy.Context, options *upstream.Options) error {
	if h.LoadBalancing == nil || h.LoadBalancing.SelectionPolicyRaw == nil {
		return nil
	}
	var policy struct {
		Name string `json:"policy"`
	}
	if err := json.Unmarshal(h.LoadBalancing.SelectionPolicyRaw, &policy); err != nil {
		return fmt.Errorf("selection policy: %w", err)
	}
	module, err := ctx.LoadModule(h.LoadBalancing, "SelectionPolicyRaw")
	if err != nil {
		return fmt.Errorf("loading selection policy: %w", err)
	}
	selector, ok := module.(l4proxy.Selector)
	if !ok {
		return fmt.Errorf("selection policy %q is not a selector: %T", policy.Name, module)
	}
	options.Selector = selector
	return nil
}

// Handle implements layer4.NextHandler. It returns when the client's connection has ended,
// or when the engine has taken the sockets for its own.
func (h *Relay) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	in := inspectionOf(cx)
	cx.Context = relayedContext(cx.Context, in)
	pending, conn := drain(cx)
	if in == nil && shed(cx, socket.NewReader(conn), h.logger) {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// Until the engine has registered the stream, shutdown waits for this.
	release := streams.Hold(func() {
		cancel()
		socket.Reset(conn)
	})
	defer release()
	var record, unrelayed *account.Record
	if in != nil {
		in.turn.unhold()
		in.turn.decidedFor(h.to)
		record = in.turn.record // which it closes, unless it is taken
	} else {
		record = openRaw(cx, conn, h.ledger)
		unrelayed = record
		defer func() { closeAccount(unrelayed, "closed", nil, "") }()
	}
	record.Change(func(s *account.Summary) { s.Destination, s.State = toRelay, account.Dialing })
	record.EndBy(func() {
		cancel()
		socket.Reset(conn)
	})
	began := time.Now()

	var request exchange.Request
	reuse, unrouted := h.reuse(in, conn)
	if unrouted {
		h.unrouted.log(h.logger, h.Reuse)
	}
	if reuse != reusePin {
		var err error
		if request, err = h.request(in, reuse == reuseReinspect); err != nil {
			h.logger.Debug("refusing request", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
			refusedForward.count()
			answerRequest(in, conn, http.StatusBadRequest)
			return nil
		}
	}

	client := &upstream.Client{Stream: cx, Conn: conn, Pending: pending}
	if state := tlsState(cx); state != nil {
		client.ALPN = state.NegotiatedProtocol
	}
	server, reused := h.takeKept(in, client, request.Method)
	if !reused {
		var ok bool
		if server, ok = h.connect(ctx, in, client, record); !ok {
			return nil
		}
	}
	address, dialed := server.to.AddressOf(server.conn), time.Duration(0)
	if !reused {
		dialed = time.Since(began)
	}
	record.Change(func(s *account.Summary) { s.Upstream, s.State, s.Dialed = address, account.Open, dialed })
	if unrelayed = nil; in != nil {
		in.turn.takeRecord()
	}

	// An idle stream keeps r in memory. So r does not refer to the connection as layer4 has
	// it.
	r := &relayed{relay: h, leave: server.leave, address: address, record: record}
	r.to.TakeOver(server.to)
	r.origin.ends = account.EndsOf(cx.RemoteAddr(), cx.LocalAddr())
	r.ended.Add(1)
	r.serving.Add(1)
	if reuse == reusePin {
		r.is(relayStream)
		r.detached = h.engine.Start(&relay.Stream{
			Client:           conn,
			Upstream:         server.conn,
			ToUpstream:       relay.Direction{Pending: client.Pending},
			IdleTimeout:      h.idleTimeout,
			HalfCloseTimeout: h.halfCloseTimeout,
			Group:            server.to.Group(),
			Meter:            record.Meter(),
			Done:             r.done,
		})
	} else {
		r.is(relayRequest)
		r.detached = h.serve(in, r, &relay.Session{
			Client:   conn,
			Upstream: server.conn,
			Request:  request,
			Pending:  client.Pending[in.Head.Len:],
			Reused:   reused,
			Group:    server.to.Group(),
			Meter:    record.Meter(),
			Owner:    r,
		}, reuse)
	}
	record.EndBy(nil) // the engine has it
	detached := r.detached
	r.serving.Done()
	release()
	if !detached {
		r.ended.Wait()
		if r.successor != nil {
			in.turn.successor = r.successor
		}
	}
	return nil
}

// reuse returns what becomes of later requests on conn, the connection of a client. unrouted
// says that no route of inspect has brought it, so that nobody could route them.
func (h *Relay) reuse(in *inspection, conn net.Conn) (reuse reuse, unrouted bool) {
	byDefault := reuseReinspect
	if h.wrapped {
		// A request for the wrapped server could not get there any more.
		byDefault = reuseClose
	}
	reuse, _ = parseReuse(h.Reuse, byDefault) // checked by Provision
	switch {
	case reuse == reusePin:
	case !in.routed():
		return reusePin, true
	case in.Outcome() != opening.HTTP, in.Head.Options().LineOnly:
		return reusePin, false
	case reuse == reuseReinspect && !throttles(conn, in.turn.conn):
		// The next request is read from the connection as inspect has it, and a wrapper may
		// hold a part of it.
		return reuseClose, false
	}
	return reuse, false
}

// request returns the request as the engine carries it out. keep says that the upstream's
// connection is to be kept.
func (h *Relay) request(in *inspection, keep bool) (exchange.Request, error) {
	r := exchange.Request{
		Method: in.method(),
		Old:    in.Head.Minor == 0,
		Last:   in.turn.inspect.over(),
	}
	if r.Method == http.MethodPost && in.turn.inspect.head.Lenient {
		r.Blank = maxBlank
	}
	if r.Method == http.MethodConnect && (in.Head.ContentLength > 0 || in.Head.Chunked) {
		return r, errConnectContent
	}
	forward := h.forward
	forward.Persistent = keep && h.upstreamKeepalive > 0
	var err error
	r.Forwarded, err = forward.Request(&in.Head, in.Data())
	in.Head.ResetBody(&r.Body)
	return r, err
}

// errConnectContent is why a request is refused: recipients disagree about where the
// tunnel begins (RFC 9110 section 9.3.6).
var errConnectContent = errors.New("CONNECT with content")

// connect dials an upstream for the client. If none is reached it tells the client, and
// reports false.
func (h *Relay) connect(ctx context.Context, in *inspection, client *upstream.Client, record *account.Record) (server, bool) {
	conn, to, err := h.pool.Connect(ctx, client)
	if err != nil {
		noteCause(record, upstream.ReasonOf(err).Cause(), err)
		h.logFailure(client.Stream.RemoteAddr(), err)
		h.counts.fails(upstream.ReasonOf(err))
		endUnreached(in, client.Conn, upstream.ReasonOf(err))
		return server{}, false
	}
	leave, ok := h.enter(client.Conn, conn, to.Server)
	if !ok {
		_ = conn.Close()
		to.Release()
		answerRequest(in, client.Conn, http.StatusLoopDetected)
		return server{}, false
	}
	return server{conn: conn, to: to, leave: leave}, true
}

// serve lets the engine carry out the client's requests, the first of which is in s.
func (h *Relay) serve(in *inspection, r *relayed, s *relay.Session, reuse reuse) (detached bool) {
	ends := r.origin.ends
	r.continuation, r.head = in.turn.continuation.lean(), s.Request.Method == http.MethodHead
	if ends != r.origin.ends { // a handler since inspect has changed them
		r.remote = ends.Client()
	}
	s.ResponseHeaderTimeout = h.responseTimeout
	s.IdleTimeout = h.idleTimeout
	s.HalfCloseTimeout = h.halfCloseTimeout
	if reuse == reuseReinspect {
		s.Keepalive, s.UpstreamKeepalive = h.keepalive, h.upstreamKeepalive
		if !same(s.Client, in.turn.conn) {
			r.base = in.turn.conn
		}
	}
	if s.Reused && isRepeatable(s.Request.Method) {
		s.Received = bytes.Clone(in.turn.first.Data())
	}
	detached = h.engine.Serve(s)
	if r.inspect.over() {
		r.inspect.retire() // may have been before the engine knew of the session
	}
	return detached
}

// endUnreached tells a client that no upstream was reached. caddy-l4 closes its connection.
func endUnreached(in *inspection, client net.Conn, reason upstream.Reason) {
	switch {
	case reason == upstream.GivenUp: // there is no client
	case in.method() != "":
		answerRequest(in, client, failureStatus(reason))
	case reason == upstream.Scarce:
		socket.ResetOnClose(client)
	}
}

// failureStatus is the answer to a request that reaches no upstream.
func failureStatus(reason upstream.Reason) int {
	switch reason {
	case upstream.NoneAvailable, upstream.Scarce:
		return http.StatusServiceUnavailable
	case upstream.Timeout:
		return http.StatusGatewayTimeout
	default:
		return http.StatusBadGateway
	}
}

// answerRequest answers the client in the place of an upstream, if it has sent a request.
func answerRequest(in *inspection, client net.Conn, status int) {
	if in.method() != "" {
		in.respond(client, statusOnly(status))
	}
}

// enter counts a stream that may come back to a relay of this process, until leave is
// called. It reports false if the stream has come back too often.
func (h *Relay) enter(client, server net.Conn, to *upstream.Server) (leave func(), ok bool) {
	turns, same, leave := circle(client, server)
	switch {
	case same:
		h.failures.failure(h.logger.Warn, lineKind{"relay leads back to the port that its client has come in by", to.String(), ""})
	case turns > maxHandOvers:
		h.failures.failure(h.logger.Warn, lineKind{"relays of this process lead to each other in a circle", to.String(), ""})
	}
	if turns > maxHandOvers {
		refusedCircle.count()
		leave()
		return nil, false
	}
	return leave, true
}

// Cleanup ends the health checks and lets go of the upstreams. When the process exits
// it first waits for the streams to end.
func (h *Relay) Cleanup() error {
	if h.pool != nil {
		h.pool.Close()
	}
	drainAtExit(h.ctx, h.logger)
	flushAtExit()
	return nil
}

// Interface guards
var (
	_ caddy.CleanerUpper    = (*Relay)(nil)
	_ caddy.Provisioner     = (*Relay)(nil)
	_ caddyfile.Unmarshaler = (*Relay)(nil)
	_ layer4.NextHandler    = (*Relay)(nil)
)
