package streamprox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"github.com/pires/go-proxyproto"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// The defaults of relay.
const (
	defaultDialTimeout      = 3 * time.Second
	defaultIdleTimeout      = time.Hour
	defaultHalfCloseTimeout = 5 * time.Minute
	defaultTryInterval      = 250 * time.Millisecond
)

// Relay sends a stream to a remote server, from its first byte. Its JSON is that of
// caddy-l4's proxy handler, whose place it can take, with the options below added.
//
// In a route of inspect, an HTTP/1 connection carries one request, so that each is
// routed: it goes up with `Connection: close`, its framing and that of the response are
// followed, and the connection is closed after the response. Only an upgrade that the
// server accepts makes it a raw stream. Anything else, and everything without inspect,
// is a raw stream from its first byte.
type Relay struct {
	// The servers, each with one address. Of those available, the load-balancing
	// policy chooses; after a failed dial each other one is tried once.
	Upstreams l4proxy.UpstreamPool `json:"upstreams,omitempty"`

	// How to notice that an upstream does not work, so that it is left out. Default: not
	// at all.
	HealthChecks *l4proxy.HealthChecks `json:"health_checks,omitempty"`

	// How to choose among the upstreams, and for how long to try. Default: at random,
	// one round.
	LoadBalancing *l4proxy.LoadBalancing `json:"load_balancing,omitempty"`

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

	// What becomes of the requests that follow the first one on a connection. `close`
	// takes one request from each connection. `pin` leaves all to the same server:
	// those after the first one are not routed. Default: `close`; `pin` where inspect
	// waits for the request line alone.
	Reuse string `json:"reuse,omitempty"`

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

	upstreams        []*upstream
	checks           healthChecks
	balancer         balancer
	tryDuration      time.Duration
	tryInterval      time.Duration
	dialTimeout      time.Duration
	idleTimeout      time.Duration
	halfCloseTimeout time.Duration
	responseTimeout  time.Duration
	forward          httphead.Forward
	unrouted         unroutedLog
	failures         limitedLog
	proxyVersion     byte // 0: no PROXY protocol header
	engine           relay.Engine
	ctx              caddy.Context
	logger           *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Relay) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.handlers.relay",
		New: func() caddy.Module { return new(Relay) },
	}
}

// Provision sets up the handler and its upstreams.
func (h *Relay) Provision(ctx caddy.Context) error {
	h.ctx = ctx
	h.logger = ctx.Logger()
	if err := checkConfiguration(ctx); err != nil {
		return err
	}
	watchAccepting(ctx)
	h.engine = relay.New(&streams, func(message string, err error) { h.logger.Warn(message, zap.Error(err)) })
	if err := h.provisionOptions(); err != nil {
		return err
	}
	if len(h.Upstreams) == 0 {
		return errors.New("relay needs at least one upstream")
	}
	allow, err := newDialAllow(h.DialAllow)
	if err != nil {
		return err
	}
	for i, config := range h.Upstreams {
		if config == nil {
			return fmt.Errorf("upstream %d is null", i)
		}
		if config.MaxConnections == 0 {
			config.MaxConnections = h.checks.maxConnections
		}
		u, err := newUpstream(ctx, config, allow)
		if err != nil {
			return err
		}
		u.maxFails = h.checks.maxFails
		h.upstreams = append(h.upstreams, u)
	}
	if !allow.none() && !slices.ContainsFunc(h.upstreams, func(u *upstream) bool { return u.dynamic }) {
		h.logger.Warn("dial_allow has no effect: no upstream depends on the connection")
	}
	if h.balancer, err = newBalancer(ctx, h.LoadBalancing); err != nil {
		return err
	}
	h.startChecks()
	return nil
}

// provisionOptions checks the options and replaces those that are unset by defaults.
func (h *Relay) provisionOptions() error {
	h.dialTimeout = defaultDialTimeout
	h.idleTimeout = defaultIdleTimeout
	h.halfCloseTimeout = defaultHalfCloseTimeout
	for _, option := range []struct {
		name  string
		value *caddy.Duration
		to    *time.Duration
		zero  bool // 0 means none
	}{
		{"dial_timeout", h.DialTimeout, &h.dialTimeout, false},
		{"idle_timeout", h.IdleTimeout, &h.idleTimeout, true},
		{"half_close_timeout", h.HalfCloseTimeout, &h.halfCloseTimeout, true},
		{"response_header_timeout", h.ResponseHeaderTimeout, &h.responseTimeout, true},
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
	if lb := h.LoadBalancing; lb != nil {
		if lb.TryDuration < 0 || lb.TryInterval < 0 {
			return errors.New("load_balancing: try_duration and try_interval cannot be less than 0")
		}
		h.tryDuration = time.Duration(lb.TryDuration)
		if h.tryInterval = time.Duration(lb.TryInterval); h.tryInterval == 0 {
			h.tryInterval = defaultTryInterval
		}
	}
	switch version := caddy.NewReplacer().ReplaceKnown(h.ProxyProtocol, ""); version {
	case "":
	case "v1":
		h.proxyVersion = 1
	case "v2":
		h.proxyVersion = 2
	default:
		return fmt.Errorf("proxy_protocol: unknown version %q: use v1 or v2", version)
	}
	switch h.Reuse {
	case "", "close":
	case "pin":
		h.logger.Info("only the first request of a connection is routed: reuse is pin")
	default:
		return fmt.Errorf("reuse: unknown value %q: use close or pin", h.Reuse)
	}
	if err := h.provisionHealthChecks(); err != nil {
		return err
	}
	return h.provisionForward()
}

// provisionForward checks how a request is passed on.
func (h *Relay) provisionForward() error {
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

// Handle implements layer4.NextHandler. It returns when the stream has ended, or when
// the engine has taken the sockets for its own.
func (h *Relay) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	in := inspectionOf(cx)
	cx.Context = relayedContext(cx.Context, in)
	pending, client := drain(cx)
	if in == nil && shed(cx, socket.NewReader(client), h.logger) {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// Until a stream is registered, shutdown waits for this.
	release := streams.Hold(func() {
		cancel()
		socket.Reset(client)
	})
	defer release()
	in.settle()
	watch := &clientWatch{conn: client, pending: pending}

	var request *httphead.Forwarded
	if h.reuse(in) == reuseClose {
		forwarded, err := h.forwarded(in)
		if err != nil {
			h.logger.Debug("refusing request", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
			answer(client, http.StatusBadRequest, in.method() == http.MethodHead)
			return nil
		}
		request = &forwarded
	}

	conn, to, err := h.connect(ctx, cx, watch)
	if err != nil {
		h.logFailure(cx, err)
		if method := in.method(); method != "" && !errors.Is(err, errLeftDial) {
			answer(client, failureStatus(err), method == http.MethodHead)
		} else if errors.Is(err, descriptors.ErrScarce) {
			socket.ResetOnClose(cx)
		}
		return nil
	}

	turns, same, leave := circle(client, conn)
	switch {
	case same:
		h.failures.failure(h.logger.Warn, lineKind{"relay leads back to the port that its client has come in by", to.address, ""})
	case turns > maxHandOvers:
		h.failures.failure(h.logger.Warn, lineKind{"relays of this process lead to each other in a circle", to.address, ""})
	}
	if turns > maxHandOvers {
		leave()
		_ = conn.Close()
		to.release()
		if method := in.method(); method != "" {
			answer(client, http.StatusLoopDetected, method == http.MethodHead)
		}
		return nil
	}

	var group *relay.Registry
	if h.checks.closeStreams {
		group = &to.peer.closable
	}
	name := to.address
	if to.dynamic {
		name = conn.RemoteAddr().String()
	}
	// What an idle stream keeps alive is little: not the connection as layer4 has it.
	remote := cx.RemoteAddr()
	var ended sync.WaitGroup
	ended.Add(1)
	var freed atomic.Bool
	free := func() {
		if freed.CompareAndSwap(false, true) {
			to.release()
		}
	}
	isRequest := request != nil
	done := func(account relay.Account) {
		leave()
		free()
		if isRequest {
			h.logResponse(remote, to.address, account)
		}
		h.logEnd(remote, name, account)
		ended.Done()
	}
	var detached bool
	if request != nil {
		detached = h.exchange(in, *request, client, conn, watch.pending, group, release, free, done)
	} else {
		detached = h.engine.Start(&relay.Stream{
			Client:           client,
			Upstream:         conn,
			ToUpstream:       relay.Direction{Pending: watch.pending},
			IdleTimeout:      h.idleTimeout,
			HalfCloseTimeout: h.halfCloseTimeout,
			Group:            group,
			Done:             done,
		})
		release()
	}
	if !detached {
		// caddy-l4 closes the client's socket when Handle returns.
		ended.Wait()
	}
	return nil
}

// reuse returns how a connection that begins as inspected is used.
func (h *Relay) reuse(in *inspection) reuse {
	switch {
	case h.Reuse == "pin":
		return reusePin
	case !in.routed():
		h.unrouted.log(h.logger, h.Reuse)
		return reusePin
	case in.outcome != OutcomeHTTP, in.head.Options().LineOnly:
		return reusePin
	default:
		return reuseClose
	}
}

// forwarded returns the head of the request as the upstream gets it.
func (h *Relay) forwarded(in *inspection) (httphead.Forwarded, error) {
	if in.isConnect() && (in.head.ContentLength > 0 || in.head.Chunked) {
		return httphead.Forwarded{}, errConnectContent
	}
	return h.forward.Request(&in.head, in.data)
}

// errConnectContent is why a request is refused: recipients disagree about where the
// tunnel begins (RFC 9110 section 9.3.6).
var errConnectContent = errors.New("CONNECT with content")

// exchange carries out one request, of which pending has been received.
func (h *Relay) exchange(in *inspection, request httphead.Forwarded, client, upstream net.Conn, pending []byte, group *relay.Registry, registered, answered func(), done func(relay.Account)) (detached bool) {
	head := in.method() == http.MethodHead
	x := relay.Exchange{
		Client:                client,
		Upstream:              upstream,
		Request:               request,
		Method:                in.method(),
		Old:                   in.head.Minor == 0,
		Pending:               pending[in.head.Len:],
		Refuse:                func(client net.Conn, status int) { answer(client, status, head) },
		ResponseHeaderTimeout: h.responseTimeout,
		IdleTimeout:           h.idleTimeout,
		HalfCloseTimeout:      h.halfCloseTimeout,
		Streams:               &streams,
		Group:                 group,
		Tunnels:               h.engine,
		Registered:            registered,
		Answered:              answered,
		Done:                  done,
	}
	in.head.ResetBody(&x.Body)
	return x.Run()
}

// connect dials upstreams until one answers. The upstream it returns is acquired.
func (h *Relay) connect(ctx context.Context, cx *layer4.Connection, watch *clientWatch) (net.Conn, *upstream, error) {
	var header *proxyproto.Header
	if h.proxyVersion != 0 {
		header = proxyproto.HeaderProxyFromAddrs(h.proxyVersion, cx.RemoteAddr(), cx.LocalAddr())
	}
	var alpn string
	if state := tlsState(cx); state != nil {
		alpn = state.NegotiatedProtocol
	}

	ctx, stop := watch.start(ctx)
	defer stop()

	giveUp := time.Now().Add(h.tryDuration)
	for {
		conn, to, err := h.tryEach(ctx, cx, header, alpn)
		if err == nil {
			return conn, to, nil
		}
		if ctx.Err() != nil {
			return nil, nil, errLeftDial
		}
		if watch.ended.Load() || isFinal(err) || time.Now().Add(h.tryInterval).After(giveUp) {
			return nil, nil, err
		}
		select {
		case <-time.After(h.tryInterval):
		case <-ctx.Done():
			return nil, nil, errLeftDial
		}
	}
}

// tryEach dials each available upstream once, in the order the policy chooses, until
// one answers. The error is that of the last one.
func (h *Relay) tryEach(ctx context.Context, cx *layer4.Connection, header *proxyproto.Header, alpn string) (net.Conn, *upstream, error) {
	untried := slices.Clone(h.upstreams)
	err := errNoUpstream
	for {
		untried = slices.DeleteFunc(untried, func(u *upstream) bool { return !u.available() })
		if len(untried) == 0 {
			return nil, nil, err
		}
		u := h.balancer.choose(untried, cx)
		untried = slices.DeleteFunc(untried, func(other *upstream) bool { return other == u })
		if !u.acquire() {
			continue
		}
		dialCtx, cancel := context.WithTimeout(ctx, h.dialTimeout)
		conn, dialErr := u.dial(dialCtx, cx.Replacer(), header, alpn)
		cancel()
		if dialErr == nil {
			return conn, u, nil
		}
		u.release()
		err = fmt.Errorf("dialing %s: %w", u.address, dialErr)
		if ctx.Err() != nil || isFinal(dialErr) {
			return nil, nil, err
		}
		// An address that a client may have chosen says nothing of those of others.
		if h.checks.failDuration > 0 && !u.dynamic {
			u.peer.fail(h.checks.failDuration)
		}
		h.logger.Debug("dial failed", zap.String("upstream", u.address), zap.Stringer("remote", cx.RemoteAddr()), zap.Error(dialErr))
		h.failures.failure(h.logger.Warn, lineKind{"upstream not reached", u.address, dialFailure(dialErr)},
			zap.Stringer("remote", cx.RemoteAddr()), zap.Error(dialErr))
	}
}

// failureStatus is the answer for an HTTP client whose request reaches no upstream.
func failureStatus(err error) int {
	var timeout net.Error
	switch {
	case errors.Is(err, errNoUpstream), errors.Is(err, descriptors.ErrScarce):
		return http.StatusServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return http.StatusGatewayTimeout
	default:
		return http.StatusBadGateway
	}
}

func (h *Relay) logFailure(cx *layer4.Connection, err error) {
	if errors.Is(err, errLeftDial) {
		h.logger.Debug("relay given up", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
		return
	}
	if errors.Is(err, errNoAddress) {
		h.failures.failure(h.logger.Warn, lineKind{message: "no address to dial"}, zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
		return
	}
	if errors.Is(err, errNotAllowed) {
		h.failures.failure(h.logger.Warn, lineKind{message: "address refused"}, zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
		return
	}
	if errors.Is(err, descriptors.ErrScarce) {
		scarcity.refusal(h.logger, "descriptors are scarce; not dialling upstreams")
		return
	}
	h.failures.failure(h.logger.Error, lineKind{message: "no upstream reached"}, zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
}

// logResponse warns of an upstream that has not answered a request as it should.
func (h *Relay) logResponse(remote net.Addr, upstream string, account relay.Account) {
	if reason := responseFailure(account); reason != "" {
		h.failures.failure(h.logger.Warn, lineKind{"upstream did not answer as it should", upstream, reason},
			zap.Stringer("remote", remote), zap.NamedError("error", account.Err))
	}
}

func (h *Relay) logEnd(remote net.Addr, upstream string, account relay.Account) {
	if !h.logger.Core().Enabled(zap.DebugLevel) {
		return
	}
	h.logger.Debug("stream ended",
		zap.Stringer("remote", remote),
		zap.String("upstream", upstream),
		zap.Int64("read", account.ToUpstream),
		zap.Int64("written", account.ToClient),
		zap.Duration("duration", account.Duration),
		zap.Stringer("cause", account.Cause),
		zap.String("engine", account.Engine),
		zap.Error(account.Err))
}

// Cleanup ends the health checks and lets go of the upstreams. When the process exits
// it first waits for the streams to end.
func (h *Relay) Cleanup() error {
	h.stopChecks()
	for _, u := range h.upstreams {
		u.close()
	}
	drainAtExit(h.ctx, h.logger)
	return nil
}

// Interface guards
var (
	_ caddy.CleanerUpper    = (*Relay)(nil)
	_ caddy.Provisioner     = (*Relay)(nil)
	_ caddyfile.Unmarshaler = (*Relay)(nil)
	_ layer4.NextHandler    = (*Relay)(nil)
)
