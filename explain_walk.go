package streamprox

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"time"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// givenConn is a connection in memory. Its client has sent the data, and sends no more, or
// has ended. Nobody writes to it.
type givenConn struct {
	data          []byte
	end           bool
	local, remote net.Addr
}

// Read implements net.Conn. After the data the time is up.
func (c *givenConn) Read(p []byte) (int, error) {
	if n := copy(p, c.data); n > 0 {
		c.data = c.data[n:]
		return n, nil
	}
	if c.end {
		return 0, io.EOF
	}
	return 0, os.ErrDeadlineExceeded
}

func (c *givenConn) Write([]byte) (int, error)        { return 0, net.ErrClosed }
func (c *givenConn) Close() error                     { return nil }
func (c *givenConn) LocalAddr() net.Addr              { return c.local }
func (c *givenConn) RemoteAddr() net.Addr             { return c.remote }
func (c *givenConn) SetDeadline(time.Time) error      { return nil }
func (c *givenConn) SetReadDeadline(time.Time) error  { return nil }
func (c *givenConn) SetWriteDeadline(time.Time) error { return nil }

// givenTLSConn is one whose TLS was terminated before.
type givenTLSConn struct{ *givenConn }

// ConnectionState implements withTLS.
func (givenTLSConn) ConnectionState() tls.ConnectionState { return givenTLSState }

// givenTLSState is what is known of TLS that nobody has spoken.
var givenTLSState = tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true}

// explainer is an explanation while it is made.
type explainer struct {
	*explanation
	ctx  caddy.Context // for modules that are loaded for the explanation alone
	done bool          // the destination is known

	// Of a decision that was kept: what is known of its head, and where it goes here.
	kept *keptWalk

	// How the wrapped server of a listener wrapper gets the connection, if http_app has left
	// it to that.
	delivery *delivery
}

// walk takes the connection through the routes of the listener.
func (e *explanation) walk(ctx caddy.Context, given *givenConn) error {
	loading, cancel := caddy.NewContext(ctx)
	defer cancel()
	return (&explainer{explanation: e, ctx: loading}).walk(given)
}

// memory returns what decisions that were kept have in common; nil: it is no such one.
func (x *explainer) memory() *keptMemory {
	if x.kept == nil {
		return nil
	}
	return x.kept.keptMemory
}

// walk takes the connection through the routes of the listener.
func (x *explainer) walk(given *givenConn) error {
	var conn net.Conn = given
	if x.Listener.TLS {
		conn = givenTLSConn{given}
	}
	cx := layer4.WrapConnection(conn, nil, zap.NewNop())
	if err := x.server(0, cx); err != nil && !errors.Is(err, errBlind) {
		return err
	}
	if !x.done && x.kept != nil && x.kept.blind != "" {
		x.unknown(x.kept.blind)
	}
	if !x.done {
		x.NeedsMore = x.NeedsMore || !given.end
		x.closed("a matcher of layer4's own routes needs more bytes, and none come before matching_timeout")
	}
	return nil
}

// server takes the connection through the list of routes with that index, and those after it.
func (x *explainer) server(i int, cx *layer4.Connection) error {
	lists := x.Listener.routes.lists
	if i == len(lists) {
		return x.end(cx)
	}
	if before := x.Listener.routes.beforeTLS; x.Listener.speaksTLS && i > 0 && before[i-1] && !before[i] {
		data, conn := drain(cx)
		x.deliver(explainedDestination{Kind: toHTTPApp, Server: x.Listener.Server, Listener: x.Listener.Address,
			Why: "it speaks TLS first; what its other listener wrapper makes of what is inside is not known"}, &delivery{reusePin, nil, data, conn}, true)
		return nil
	}
	routes := new(explainedRoutes)
	x.Routes = append(x.Routes, routes)
	return x.list("layer4", lists[i], routes, cx, layer4.HandlerFunc(func(cx *layer4.Connection) error {
		return x.server(i+1, cx)
	}))
}

// end is where a connection comes that no handler has kept.
func (x *explainer) end(cx *layer4.Connection) error {
	if x.Listener.App == "http" {
		return x.wrappedServer(cx)
	}
	x.closed("no handler keeps it")
	return nil
}

// list takes the connection through a list of layer4's own routes, as caddy-l4 does: the
// matchers are loaded anew, and in the place of the handlers it runs what explains them.
func (x *explainer) list(of string, list *routeList, to *explainedRoutes, cx *layer4.Connection, next layer4.Handler) error {
	to.Of = of
	var compiled layer4.RouteList
	for i := range list.routes {
		route := &list.routes[i]
		explained := &explainedRoute{Name: route.name(), Answer: answerNotAsked}
		to.Routes = append(to.Routes, explained)
		sets, err := x.matchers(route, explained)
		if err != nil {
			return err
		}
		r := new(layer4.Route)
		if err := setPrivate(r, "matcherSets", sets); err != nil {
			return err
		}
		handlers := func(next layer4.Handler) layer4.Handler {
			return layer4.HandlerFunc(func(cx *layer4.Connection) error {
				explained.Answer = answerYes
				return x.handlers(route.Handle, explained, cx, next)
			})
		}
		if err := setPrivate(r, "middleware", []layer4.Middleware{handlers}); err != nil {
			return err
		}
		compiled = append(compiled, r)
	}
	// The time is not a limit: nothing waits.
	return compiled.Compile(zap.NewNop(), time.Hour, next).Handle(cx)
}

// setPrivate sets a private field of a route, which is what caddy-l4 compiles a list of routes
// from.
func setPrivate[T any](route *layer4.Route, name string, value T) error {
	field := reflect.ValueOf(route).Elem().FieldByName(name)
	if !field.IsValid() || field.Type() != reflect.TypeFor[T]() {
		return fmt.Errorf("explain does not know this version of caddy-l4: a route has no %s", name)
	}
	*(*T)(unsafe.Pointer(field.UnsafeAddr())) = value
	return nil
}

// matchers loads the matchers of one of layer4's own routes. Their answers go to explained.
func (x *explainer) matchers(route *configRoute, explained *explainedRoute) (layer4.MatcherSets, error) {
	var sets layer4.MatcherSets
	for _, modules := range route.Match {
		set := new(explainedSet)
		explained.Sets = append(explained.Sets, set)
		var matchers, blind layer4.MatcherSet
		for _, name := range sortedKeys(modules) {
			module, err := x.ctx.LoadModuleByID("layer4.matchers."+name, modules[name])
			if err != nil {
				return nil, err
			}
			matcher, ok := module.(layer4.ConnMatcher)
			if !ok {
				return nil, fmt.Errorf("module %q is not a layer4 matcher: %T", name, module)
			}
			m := &explainedMatcher{Name: name, Config: compactJSON(modules[name]), Answer: answerNotAsked}
			set.Matchers = append(set.Matchers, m)
			if x.kept != nil && !x.kept.knows(name, modules[name]) {
				blind = append(blind, blindMatcher{x.kept, m, explained})
				continue
			}
			matchers = append(matchers, heardMatcher{matcher, m, explained})
		}
		matchers = append(matchers, blind...) // asked where the others say yes
		sets = append(sets, matchers)
	}
	return sets, nil
}

// heardMatcher is a matcher whose answer is kept.
type heardMatcher struct {
	layer4.ConnMatcher
	to    *explainedMatcher
	route *explainedRoute
}

// Match implements layer4.ConnMatcher.
func (m heardMatcher) Match(cx *layer4.Connection) (bool, error) {
	matched, err := m.ConnMatcher.Match(cx)
	m.to.set(matched, err)
	if m.route.Answer = m.to.Answer; matched {
		m.route.Answer = answerNo // unless it is taken
	}
	return matched, err
}

// set sets what the matcher answers.
func (m *explainedMatcher) set(matched bool, err error) {
	m.Answer = answerOf(matched, err)
	if m.Answer == answerFailed {
		m.Error = err.Error()
	}
}

// answerOf returns what a matcher or a route answers.
func answerOf(matched bool, err error) string {
	switch {
	case errors.Is(err, layer4.ErrConsumedAllPrefetchedBytes):
		return answerMore
	case err != nil:
		return answerFailed
	case matched:
		return answerYes
	default:
		return answerNo
	}
}

// inspect takes the connection through an inspect.
func (x *explainer) inspect(h *Inspect, node *configHandler, to *explainedHandler, cx *layer4.Connection, next layer4.Handler) error {
	routes := &explainedRoutes{Of: "inspect"}
	to.Inside = routes
	for i := range h.Routes {
		routes.Routes = append(routes.Routes, x.newRoute(h, i, &node.inner.routes[i]))
	}

	outer := inspectionOf(cx)
	data, conn := drain(cx)
	in := new(inspection)
	in.init(continuation{h, origin{parent: cx}}, conn, data, false)
	if outer != nil {
		in.turn = outer.turn
	}
	if x.kept != nil {
		x.kept.limit(in, data)
	}
	first := socket.NewReader(conn)
	if err := in.complete(&first); err != nil {
		return err
	}
	if x.kept == nil {
		in.route, in.failure = h.choose(in, func(route int, matched bool, err error) {
			routes.Routes[route].hear(in, h.Routes[route], matched, err)
		})
	} else if why := x.chooseKept(in, node.inner.routes, routes); why != "" {
		x.unknown(why)
		return nil
	}
	in.decided = true
	if x.kept != nil {
		if outer == nil {
			x.kept.to = replayPlace{}
		}
		x.kept.to.enter(in)
	}
	routes.Inspection = explainInspection(in)
	x.NeedsMore = x.NeedsMore || routes.Inspection.NeedsMore

	if h.last {
		next = x.notFound(next)
	}
	switch fate, _, status := in.fate(); {
	case fate == fateRoute:
		return x.handlers(node.inner.routes[in.route].Handle, routes.Routes[in.route], in.stream(), next)
	case fate == fatePasses:
		return next.Handle(in.stream())
	case status != 0:
		x.answer(in, statusOnly(status), whyEnds(in))
	case in.Outcome() == opening.HTTP2 && in.failure == nil:
		x.finish(explainedDestination{Kind: toAnswer, Why: "GOAWAY with HTTP_1_1_REQUIRED: " + whyEnds(in)}, nextClosed, "")
	default:
		x.closed(whyEnds(in))
	}
	return nil
}

// whyEnds says why nobody gets an inspected connection.
func whyEnds(in *inspection) string {
	switch {
	case in.failure != nil:
		return in.failure.Error()
	case in.isConnect():
		return "no route names the method CONNECT"
	default:
		return "no route takes the outcome " + in.Outcome().String()
	}
}

// notFound is for explain what the type notFound is for a connection.
func (x *explainer) notFound(next layer4.Handler) layer4.Handler {
	return layer4.HandlerFunc(func(cx *layer4.Connection) error {
		in := inspectionOf(cx)
		if in == nil || in.Outcome() != opening.HTTP {
			return next.Handle(cx)
		}
		x.goesTo(toStatus(http.StatusNotFound))
		x.answer(in, statusOnly(http.StatusNotFound), "no route takes the request, and nothing follows inspect")
		return nil
	})
}

// newRoute returns a route of inspect that has not been asked.
func (x *explainer) newRoute(h *Inspect, index int, config *configRoute) *explainedRoute {
	r := &explainedRoute{Name: h.routeName(index), Answer: answerNotAsked}
	for _, modules := range config.Match {
		set := new(explainedSet)
		for _, name := range sortedKeys(modules) {
			set.Matchers = append(set.Matchers, &explainedMatcher{Name: name, Config: x.memory().compactOf(modules[name]), Answer: answerNotAsked})
		}
		r.Sets = append(r.Sets, set)
	}
	return r
}

// hear notes what a route has answered, and asks its matchers why, in the order in which the
// route does.
func (r *explainedRoute) hear(in *inspection, route *Route, matched bool, err error) {
	r.Answer = answerOf(matched, err)
	if len(route.sets) == 0 && !matched {
		r.Why = "without matchers a route takes http but for CONNECT, and tls"
	}
	for i := range route.sets {
		set, explained := &route.sets[i], r.Sets[i]
		if set.inspected != nil {
			explained.matcher("inspected").set(set.names(in.Outcome()), nil)
		}
		explained.Why = set.excludes(in)
		if explained.Why != "" {
			continue
		}
		all := true
		for j := range set.matchers {
			m := &set.matchers[j]
			matched, err := m.match(in)
			if errors.Is(err, layer4.ErrMatchingBufferFull) || errors.Is(err, layer4.ErrConsumedAllPrefetchedBytes) && !in.More() {
				matched, err = false, nil // it cannot have what it needs
				explained.Why = "it needs more bytes than there are"
			}
			explained.matcher(m.name).set(matched, err)
			if all = matched && err == nil; !all {
				break
			}
		}
		if all {
			if matched, err := set.match(in); !matched && err == nil {
				explained.Why = "none of its matchers has recognized the bytes"
			}
		}
	}
}

// matcher returns the matcher of that name.
func (s *explainedSet) matcher(name string) *explainedMatcher {
	for _, m := range s.Matchers {
		if m.Name == name {
			return m
		}
	}
	m := &explainedMatcher{Name: name}
	s.Matchers = append(s.Matchers, m)
	return m
}

// explainInspection says what an inspection has found out.
func explainInspection(in *inspection) *explainedInspection {
	e := &explainedInspection{Outcome: in.Outcome().String(), Read: len(in.Data())}
	var broken *httphead.Error
	if errors.As(in.Head.Err(), &broken) {
		e.Reason, e.Clause = broken.Reason, broken.Clause
	}
	limits := in.Limits()
	switch in.Outcome() {
	case opening.HTTP:
		e.Head = explainHead(in)
	case opening.TooLarge:
		if broken == nil {
			e.Reason = fmt.Sprintf("the head has not ended within %d bytes", limits.Bytes)
			if limits.Packets > 0 {
				e.Reason += fmt.Sprintf(" and %d reads", limits.Packets)
			}
		}
	case opening.Timeout:
		e.NeedsMore = true
		e.Reason = fmt.Sprintf("the head is not complete, if nothing comes within %s", limits.Timeout)
	case opening.Silent:
		e.NeedsMore = true
		e.Reason = fmt.Sprintf("no byte, if none comes within %s", limits.SilentTimeout)
	case opening.EOF:
		e.Reason = "the client has finished sending before the head was complete"
	case opening.Other:
		e.Reason = "the bytes can become neither HTTP nor TLS"
	}
	return e
}

// explainHead describes the head of a request.
func explainHead(in *inspection) *explainedHead {
	head, data := &in.Head, in.Data()
	return &explainedHead{
		Method:  in.method(),
		Host:    string(head.Host.Of(data)),
		Path:    string(head.Path.Of(data)),
		Query:   string(head.Query.Of(data)),
		Version: fmt.Sprintf("HTTP/1.%d", head.Minor),
		Length:  head.Len,
	}
}

// finish says where the connection goes.
func (x *explainer) finish(to explainedDestination, next, why string) {
	x.done = true
	x.Destination, x.Next = to, explainedNext{next, why}
}

// closed says that the connection is closed.
func (x *explainer) closed(why string) {
	x.finish(explainedDestination{Kind: toClosed, Why: why}, nextClosed, "")
}

// answer says that the request is answered here.
func (x *explainer) answer(in *inspection, r response, why string) {
	to := explainedDestination{Kind: toAnswer, Why: why, Status: r.status, Response: r.text(in.method() == http.MethodHead)}
	x.finish(to, nextClosed, "the connection ends with the answer")
}

// remaining returns the data and what follows them on the connection.
func remaining(data []byte, conn net.Conn) []byte {
	rest, _ := io.ReadAll(conn)
	return append(bytes.Clone(data), rest...)
}

// compactJSON returns the value without space between its parts, and nil for nothing.
func compactJSON(raw json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return nil
	}
	return b.Bytes()
}

// withoutName returns the JSON of a handler as the module takes it.
func withoutName(raw json.RawMessage) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	delete(fields, "handler")
	return json.Marshal(fields)
}
