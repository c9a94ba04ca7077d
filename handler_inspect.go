package streamprox

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// The defaults of inspect.
const (
	defaultMaxBytes = 16 << 10
	defaultTimeout  = 10 * time.Second
)

// maxMaxBytes bounds max_bytes: a head that is larger is no head.
const maxMaxBytes = 16 << 20

// Inspect buffers the first bytes of a connection until it knows what they are, and
// then runs the first of its routes that matches. The handlers of a route get the
// stream from its first byte.
//
// Every inspection ends with exactly one outcome: `http`, a complete and valid
// HTTP/1.0 or 1.1 head; `tls`, a TLS ClientHello; `other`, bytes that can become
// neither; `http2`, the preface of HTTP/2; `malformed`, meant as HTTP but invalid or
// ambiguous; `too_large`; `timeout`; `silent`; `eof`. Those after `tls` reach a route
// only if one of its matcher sets names them with the matcher `inspected`; `other` also
// if a matcher of the set has itself read the bytes, as `ssh` does. What no route takes
// is answered (400, 431, 408, GOAWAY) or closed; `http`, `tls` and `other` go to the next
// handler, but never `other` to an HTTP server. Where no handler can follow, `http` is
// answered with 404.
type Inspect struct {
	// What must have arrived before deciding: `headers`, the whole head, or `line`,
	// the request line. Default: `headers`.
	Until string `json:"until,omitempty"`

	// How many bytes the head may have. Default: 16384, as in Caddy's HTTP app.
	MaxBytes *int `json:"max_bytes,omitempty"`

	// How many reads may be needed for the head. Default: 0, no limit.
	MaxPackets int `json:"max_packets,omitempty"`

	// How long the head may take, from its first byte on. Default: 10s.
	Timeout *caddy.Duration `json:"timeout,omitempty"`

	// How long the first byte may take. Default: 15s.
	SilentTimeout *caddy.Duration `json:"silent_timeout,omitempty"`

	// How many connections may be under inspection at once; those beyond are reset.
	// Default: 0, no limit.
	MaxPending int `json:"max_pending,omitempty"`

	// The same for each IPv4 address and each IPv6 /64 network; clients on Unix
	// sockets are exempt. Default: 0, no limit.
	MaxPendingPerIP int `json:"max_pending_per_ip,omitempty"`

	// Accept what Go's HTTP server accepts. The default is strict: a head that two
	// parsers could read differently is `malformed`.
	Lenient bool `json:"lenient,omitempty"`

	// Write an access log. Default: none.
	Log *AccessLog `json:"log,omitempty"`

	// How many of the last decisions to keep for `caddy streamprox replay`, which takes them
	// to another configuration; at most 1000. Of a request method, path, host and the names of
	// fields are kept, up to 2 KiB. Default: 0, none.
	Replay int `json:"replay,omitempty"`

	// The routes, of which the first that matches gets the stream.
	Routes []*Route `json:"routes,omitempty"`

	limits  opening.Limits
	head    httphead.Options
	pending pendingLimits
	counts  []*routeCounts // of no route, and of each: see countsOf
	refused limitedLog
	last    bool        // no handler follows that an HTTP request could go to
	gone    atomic.Bool // the configuration has been replaced
	ledger  *ledger
	ring    *decisionRing // nil: no decisions are kept
	ringKey string
	facts   *inspectFacts // of its decisions; nil likewise
	ctx     caddy.Context
	logger  *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Inspect) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.handlers.inspect",
		New: func() caddy.Module { return new(Inspect) },
	}
}

// Provision sets up the handler and its routes.
func (h *Inspect) Provision(ctx caddy.Context) error {
	h.ctx = ctx
	h.logger = ctx.Logger()
	found, err := findingsOf(ctx)
	if err != nil {
		return err
	}
	h.last = found.isLast(h)
	if h.ledger, err = newLedger(ctx, h.Log); err != nil {
		return err
	}
	watchAccepting(ctx)
	whenStopping(ctx, h.leave)
	registerMetrics(ctx)
	if err := h.provisionLimits(); err != nil {
		return err
	}
	if i := slices.Index(h.Routes, nil); i >= 0 {
		return fmt.Errorf("route %d is null", i)
	}
	for i := -1; i < len(h.Routes); i++ {
		h.counts = append(h.counts, routesCounted.use(ctx, h.routeName(i)))
	}
	// Loading a module takes its JSON away, so look at it before.
	if h.Replay > 0 {
		h.facts = h.newFacts()
		place, server, name := found.places.of(h)
		if h.ring, h.ringKey, err = useRing(h.Replay, place, server, name); err != nil {
			return err
		}
	}
	if err := h.checkUntilLine(); err != nil {
		return err
	}
	for i, route := range h.Routes {
		if unboundedNot(route.MatcherSetsRaw) {
			h.logger.Warn("a route matches what is not this request, and so TLS too; add 'inspected http' to its matchers",
				zap.String("route", h.routeName(i)))
		}
		if err := route.provision(contextOfRoute(ctx, h.routeName(i))); err != nil {
			return fmt.Errorf("route %d: %w", i, err)
		}
	}
	return nil
}

// provisionLimits checks the options and replaces those that are unset by defaults.
func (h *Inspect) provisionLimits() error {
	switch h.Until {
	case "", "headers":
	case "line":
		h.head.LineOnly = true
	default:
		return fmt.Errorf("until: unknown value %q: use headers or line", h.Until)
	}
	h.head.Lenient = h.Lenient

	h.limits = opening.Limits{Bytes: defaultMaxBytes, Packets: h.MaxPackets, Timeout: defaultTimeout, SilentTimeout: defaultSilentTimeout}
	if h.MaxBytes != nil {
		if h.limits.Bytes = *h.MaxBytes; h.limits.Bytes <= 0 || h.limits.Bytes > maxMaxBytes {
			return fmt.Errorf("max_bytes: %d is not between 1 and %d bytes", *h.MaxBytes, maxMaxBytes)
		}
	}
	if h.Timeout != nil {
		if h.limits.Timeout = time.Duration(*h.Timeout); h.limits.Timeout <= 0 {
			return fmt.Errorf("timeout: %s is not more than 0", h.limits.Timeout)
		}
	}
	if h.SilentTimeout != nil {
		if h.limits.SilentTimeout = time.Duration(*h.SilentTimeout); h.limits.SilentTimeout <= 0 {
			return fmt.Errorf("silent_timeout: %s is not more than 0", h.limits.SilentTimeout)
		}
	}
	for _, option := range []struct {
		name  string
		value int
	}{
		{"max_packets", h.MaxPackets},
		{"max_pending", h.MaxPending},
		{"max_pending_per_ip", h.MaxPendingPerIP},
	} {
		if option.value < 0 {
			return fmt.Errorf("%s: %d is less than 0", option.name, option.value)
		}
	}
	if h.Replay < 0 || h.Replay > maxReplay {
		return fmt.Errorf("replay: %d is not between 0 and %d", h.Replay, maxReplay)
	}
	h.pending.max, h.pending.maxPerIP = h.MaxPending, h.MaxPendingPerIP
	return nil
}

// Handle implements layer4.NextHandler. It returns when the stream has ended or,
// with a stream that no route keeps, after next has taken it.
func (h *Inspect) Handle(cx *layer4.Connection, next layer4.Handler) error {
	if socket.IsDatagram(cx.LocalAddr().Network()) {
		return errors.New("inspect reads streams, not datagrams")
	}
	leave, ok := h.admit(cx)
	if !ok {
		return nil
	}
	in, err := h.inspect(cx)
	leave()
	if err != nil {
		h.logger.Debug("inspection ended", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
		return nil
	}
	return h.run(in, next)
}

// inspect inspects cx, of which earlier matchers may have read a part, and chooses its
// route. An error is errClientGone, descriptors.ErrScarce, or that of a TLS handshake that Caddy has
// left to whoever reads first.
func (h *Inspect) inspect(cx *layer4.Connection) (*inspection, error) {
	outer := inspectionOf(cx)
	data, conn := drain(cx)
	first := socket.NewReader(conn)
	if outer == nil && shed(cx, first, h.logger) {
		h.ledger.logRefusal(cx, "scarce")
		return nil, descriptors.ErrScarce
	}
	if err := finishHandshake(conn, h.limits.SilentTimeout); err != nil {
		return nil, err
	}
	in := new(inspection)
	in.init(continuation{h, origin{parent: cx}}, conn, data, false)
	if outer != nil {
		in.turn = outer.turn
	}
	if err := in.complete(&first); err != nil {
		return nil, fmt.Errorf("%w: %w", errClientGone, err)
	}
	in.decide()
	return in, nil
}

// run sends the inspected connection where it belongs, and after it the requests that
// follow on the connection, as far as they are left to inspect.
func (h *Inspect) run(in *inspection, next layer4.Handler) error {
	for {
		err := h.dispatch(in, next)
		switch t := in.turn; {
		case t.inspect != h:
			return err // the outermost inspect goes on
		case t.successor == nil:
			t.dropKept()
			t.end()
			t.settle()
			return err
		default:
			// The handlers behind this inspect have seen the first request, and get no
			// other.
			t.dropKept()
			t.settle()
			in, next = t.successor, endOfChain
		}
	}
}

// notFound takes the place of next where no handler for HTTP can follow inspect. It answers
// requests with 404, unless a handler has read from them. Other streams go on to next.
type notFound struct{ next layer4.Handler }

// Handle implements layer4.Handler.
func (h notFound) Handle(cx *layer4.Connection) error {
	in := inspectionOf(cx)
	if in == nil || in.Outcome() != opening.HTTP {
		return h.next.Handle(cx)
	}
	_, conn := drain(cx)
	refusedNoRoute.count()
	in.turn.decidedFor(toStatus(http.StatusNotFound))
	in.respond(conn, statusOnly(http.StatusNotFound))
	return nil
}

// dispatch sends the inspected connection to its route, to next, or away.
func (h *Inspect) dispatch(in *inspection, next layer4.Handler) error {
	if errors.Is(in.failure, errClientGone) {
		return nil
	}
	in.openAccount()
	// The destination's own deadlines begin now.
	_ = in.conn.SetReadDeadline(time.Time{})
	if h.last {
		next = notFound{next}
	}
	if in.failure != nil {
		noteCause(in.turn.record, "matcher_failed", in.failure)
	}
	fate, why, status := in.fate()
	switch fate {
	case fateRoute:
		return h.Routes[in.route].handle(in.stream(), next)
	case fatePasses:
		return next.Handle(in.stream())
	}
	why.count()
	switch {
	case status != 0:
		in.answer(status)
	case in.Outcome() == opening.HTTP2 && in.failure == nil:
		goAway(in.conn)
	}
	return nil
}

// fate is what becomes of an inspected connection.
type fate uint8

const (
	fateRoute  fate = iota // its route gets it
	fatePasses             // the handler after inspect gets it
	fateEnds               // nobody gets it
)

// fate returns what becomes of the inspected connection; if it ends, with why, and the status
// that the client is told. Without one it is closed, after a GOAWAY if it is HTTP/2.
func (in *inspection) fate() (f fate, why refusal, status int) {
	switch {
	case in.failure != nil && in.Outcome() == opening.HTTP:
		return fateEnds, refusedMatcher, http.StatusBadRequest
	case in.failure != nil:
		return fateEnds, refusedMatcher, 0
	case in.route >= 0:
		return fateRoute, 0, 0
	case in.isConnect():
		return fateEnds, refusedConnect, http.StatusNotImplemented
	case in.Outcome().Passes():
		return fatePasses, 0, 0
	default:
		return fateEnds, refusalOf(in.Outcome()), in.refusalStatus()
	}
}

// choose returns the index of the route that takes the inspected connection, or -1. An
// error is errClientGone or a *matchError. asked is told what each route answers; it may be
// nil.
func (h *Inspect) choose(in *inspection, asked func(route int, matched bool, err error)) (int, error) {
	for i := 0; i < len(h.Routes); {
		matched, err := h.Routes[i].match(in)
		if asked != nil {
			asked(i, matched, err)
		}
		switch {
		case errors.Is(err, layer4.ErrConsumedAllPrefetchedBytes):
			// The same route again: with more bytes, or knowing that none will come.
			if err := in.more(); err != nil {
				return -1, err
			}
		case err != nil:
			return -1, err
		case matched:
			return i, nil
		default:
			i++
		}
	}
	return -1, nil
}

// chooseByHead chooses the route of an inspection that has no stream. It reports false if a
// matcher needs one: then the route is not known.
func (h *Inspect) chooseByHead(in *inspection) bool {
	var err error
	in.route, err = h.choose(in, nil)
	return err == nil
}

// logDecision writes one line for the connection: a warning if a matcher failed,
// else at debug level.
func (h *Inspect) logDecision(in *inspection) {
	if failed, ok := in.failure.(*matchError); ok {
		h.logger.Warn("matcher failed; closing the connection",
			zap.Stringer("remote", in.conn.RemoteAddr()),
			zap.String("matcher", failed.matcher),
			zap.Error(failed.err))
		return
	}
	if !h.logger.Core().Enabled(zap.DebugLevel) {
		return
	}
	conn := in.client()
	fields := []zap.Field{
		zap.Stringer("remote", conn.RemoteAddr()),
		zap.Stringer("local", conn.LocalAddr()),
		zap.Stringer("outcome", in.Outcome()),
		zap.Int("read", len(in.Data())),
		zap.Duration("duration", time.Since(in.started)),
		zap.String("route", h.routeName(in.route)),
	}
	if in.Outcome() == opening.HTTP {
		s := in.summary()
		fields = append(fields, zap.String("method", s.Method), zap.String("host", s.Host), zap.String("path", s.Path))
	}
	if reason := in.Head.Err(); reason != nil {
		fields = append(fields, zap.NamedError("reason", reason))
	}
	if in.failure != nil {
		fields = append(fields, zap.Error(in.failure))
	}
	h.logger.Debug("inspected", fields...)
}

// noRoute is what stands for a route where there is none.
const noRoute = "none"

// routeName returns what the log calls the route of that index, noRoute for -1.
func (h *Inspect) routeName(i int) string {
	switch {
	case i < 0:
		return noRoute
	case h.Routes[i].Name != "":
		return h.Routes[i].Name
	default:
		return strconv.Itoa(i)
	}
}

// leave ends the routing of further requests on connections that are kept.
func (h *Inspect) leave() {
	h.gone.Store(true)
	h.retire()
}

// Cleanup ends the routing of further requests, where stopping has not done so. When the
// process exits it waits for those under way.
func (h *Inspect) Cleanup() error {
	h.leave()
	if h.ring != nil {
		_, _ = rings.Delete(h.ringKey)
	}
	drainAtExit(h.ctx, h.logger)
	flushAtExit()
	return nil
}

// over reports whether no request may follow on a connection: the configuration has been
// replaced, or the process exits.
func (h *Inspect) over() bool { return h.gone.Load() || caddy.Exiting() }

// retire closes connections that wait for a request which this inspect would route, and
// those that have one under way after that.
func (h *Inspect) retire() {
	streams.Retire(func(owner relay.Owner) bool {
		next, ok := owner.(interface{ inspector() *Inspect })
		return ok && next.inspector() == h
	})
}

// Interface guards
var (
	_ caddy.CleanerUpper    = (*Inspect)(nil)
	_ caddy.Provisioner     = (*Inspect)(nil)
	_ caddyfile.Unmarshaler = (*Inspect)(nil)
	_ layer4.NextHandler    = (*Inspect)(nil)
)
