package streamprox

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// handlers takes the connection through the handlers of a route, and next after them.
func (x *explainer) handlers(handlers []configHandler, to *explainedRoute, cx *layer4.Connection, next layer4.Handler) error {
	if len(handlers) == 0 {
		return next.Handle(cx)
	}
	step := &explainedHandler{Name: handlers[0].Name}
	to.Handlers = append(to.Handlers, step)
	return x.handler(&handlers[0], step, cx, layer4.HandlerFunc(func(cx *layer4.Connection) error {
		return x.handlers(handlers[1:], to, cx, next)
	}))
}

// handler takes the connection through a handler.
func (x *explainer) handler(h *configHandler, step *explainedHandler, cx *layer4.Connection, next layer4.Handler) error {
	switch live := h.live.(type) {
	case *Inspect:
		return x.inspect(live, h, step, cx, next)
	case *RewriteHead:
		return x.rewriteHead(live, step, cx, next)
	case *HTTPRespond:
		x.httpRespond(live, cx)
		return nil
	case *HTTPApp:
		return x.httpApp(live, step, cx, next)
	case *Relay:
		x.relay(live, cx)
		return nil
	}
	switch h.Name {
	case "subroute":
		step.Inside = new(explainedRoutes)
		return x.list("subroute", h.inner, step.Inside, cx, next)
	case "vars", "proxy_protocol":
		if x.kept != nil && h.Name == "proxy_protocol" {
			return next.Handle(cx) // the client is the one that its header names
		}
		return x.run(h, cx, next)
	case "tls":
		return x.terminateTLS(step, cx, next)
	case "throttle":
		return next.Handle(cx) // it delays, and changes nothing
	case "tee":
		step.Does = "a copy of the stream goes to its branch"
		teed := *cx
		teed.Conn = opaqueConn{cx}
		return next.Handle(&teed)
	case "close":
		x.closed("the handler close")
		return nil
	}
	data, conn := drain(cx)
	x.finish(explainedDestination{Kind: toHandler, Handler: h.Name, Why: "what it does is not known here", Sent: remaining(data, conn)},
		nextPinned, "the handler keeps the connection")
	return nil
}

// opaqueConn is a connection that a handler of another plugin has wrapped.
type opaqueConn struct{ net.Conn }

// run lets a handler of caddy-l4 do its work, which is all in memory.
func (x *explainer) run(h *configHandler, cx *layer4.Connection, next layer4.Handler) error {
	raw, err := withoutName(h.raw)
	if err != nil {
		return err
	}
	module, err := x.ctx.LoadModuleByID("layer4.handlers."+h.Name, raw)
	if err != nil {
		return err
	}
	handler, ok := module.(layer4.NextHandler)
	if !ok {
		return fmt.Errorf("module %q is not a layer4 handler: %T", h.Name, module)
	}
	var inner error // of what follows; another one is the handler's, and ends the connection
	err = handler.Handle(cx, layer4.HandlerFunc(func(cx *layer4.Connection) error {
		inner = next.Handle(cx)
		return inner
	}))
	switch {
	case inner != nil:
		return inner
	case err != nil:
		x.closed(fmt.Sprintf("the handler %s: %v", h.Name, err))
	}
	return nil
}

// terminateTLS takes bytes that are no ClientHello for those inside TLS.
func (x *explainer) terminateTLS(step *explainedHandler, cx *layer4.Connection, next layer4.Handler) error {
	data, conn := drain(cx)
	given := remaining(data, conn)
	if x.kept != nil && !(x.kept.AnyTLS && x.kept.Outcome == opening.HTTP.String()) {
		switch {
		case !x.kept.insideTLS && x.kept.Outcome == opening.TLS.String():
			x.unknown("what is inside TLS is not known")
			return nil
		case !x.kept.insideTLS:
			x.closed("the handler tls: the client does not speak TLS")
			return nil
		}
		given, x.kept.insideTLS = x.kept.bytes, false
	}
	if len(given) > 0 && given[0] == tlsHandshakeRecord {
		x.finish(explainedDestination{Kind: toHandler, Handler: "tls", Why: "it terminates TLS; to see what becomes of what is inside, give that in the place of the ClientHello"},
			nextPinned, "")
		return nil
	}
	step.Does = "the bytes are taken for those inside TLS"
	states, _ := cx.GetVar(layer4.TLSConnectionStatesVarName).([]*tls.ConnectionState)
	cx.SetVar(layer4.TLSConnectionStatesVarName, append(states, &givenTLSState))
	return next.Handle(cx.Wrap(givenTLSConn{&givenConn{data: given, end: x.kept != nil && x.kept.end, local: cx.LocalAddr(), remote: cx.RemoteAddr()}}))
}

// rewriteHead edits the request.
func (x *explainer) rewriteHead(h *RewriteHead, step *explainedHandler, cx *layer4.Connection, next layer4.Handler) error {
	in := inspectionOf(cx)
	if in == nil || !in.hasHead() {
		x.closed("rewrite_head has no request head to edit")
		return nil
	}
	if x.kept != nil {
		x.kept.rewritten = true
	}
	edited, _, err := h.rewrite(cx, in)
	if err != nil {
		x.answer(in, statusOnly(http.StatusBadRequest), fmt.Sprintf("rewrite_head: %v", err))
		return nil
	}
	head := explainHead(edited)
	step.Does = fmt.Sprintf("the request is %s %s of %s now", head.Method, head.Path, head.Host)
	return next.Handle(edited.stream())
}

// httpRespond answers the request.
func (x *explainer) httpRespond(h *HTTPRespond, cx *layer4.Connection) {
	in := inspectionOf(cx)
	x.goesTo(h.whereTo())
	if in == nil || in.Outcome() != opening.HTTP {
		x.closed("http_respond has no request to answer")
		return
	}
	r, err := h.responseTo(in, cx.Replacer())
	why := "http_respond"
	if err != nil {
		why = fmt.Sprintf("http_respond: %v", err)
	}
	x.answer(in, r, why)
}

// delivery is how an HTTP server gets a connection.
type delivery struct {
	reuse reuse
	in    *inspection // nil: the stream as it is
	data  []byte
	conn  net.Conn
}

// httpApp delivers the connection to a server of the HTTP app.
func (x *explainer) httpApp(h *HTTPApp, step *explainedHandler, cx *layer4.Connection, next layer4.Handler) error {
	x.goesTo(h.whereTo())
	a := arrive(cx)
	if a.in != nil && a.in.Outcome() == opening.Other {
		x.answer(a.in, statusOnly(http.StatusBadRequest), "http_app takes no bytes that are neither HTTP nor TLS")
		return nil
	}
	reuse, _ := h.reuseOf(&a)
	if h.wrapped && h.Listener == "" {
		step.Does = "the wrapped server gets the connection"
		if reuse == reusePin {
			return next.Handle(forkOf(a.cx, a.conn, a.pending))
		}
		x.delivery = &delivery{a.inWrapper(reuse), a.in, a.pending, a.conn}
		return next.Handle(forkOf(a.cx, a.conn, nil))
	}
	if len(a.pending) == 0 {
		a.pending = remaining(nil, a.conn)
	}
	if len(a.pending) == 0 {
		x.NeedsMore = true
		x.closed(fmt.Sprintf("http_app waits for the first byte, for %s", defaultSilentTimeout))
		return nil
	}
	targets, err := h.targets()
	if err != nil {
		return err
	}
	address := targets.choose(a.isTLS())
	switch {
	case address == "" && a.isTLS():
		x.closed("a TLS alert: no HTTPS server listens on that name; '" + targets.bind() + "' is missing, or its site has no TLS")
		return nil
	case address == "":
		x.answer(a.in, statusOnly(http.StatusServiceUnavailable), "no HTTP server listens on that name; '"+targets.bind()+"' is missing, or its site has TLS alone")
		return nil
	}
	to := explainedDestination{Kind: toHTTPApp, Listener: networkName + "/" + address, Server: x.boundServer(address)}
	if x.hasWrapper(to.Server) {
		to.Why = "it has a listener wrapper with routes of its own: ask about " + to.Listener
	}
	x.deliver(to, &delivery{reuse, a.in, a.pending, a.conn}, false)
	return nil
}

// boundServer returns the name of the HTTP server that listens there on the virtual network.
func (x *explainer) boundServer(address string) string {
	module, err := x.ctx.AppIfConfigured("http")
	if err != nil {
		return ""
	}
	for _, b := range boundListeners(module.(*caddyhttp.App)) {
		if b.address() == address {
			return b.server
		}
	}
	return ""
}

// hasWrapper reports whether an HTTP server has the layer4 listener wrapper.
func (x *explainer) hasWrapper(server string) bool {
	module, err := x.ctx.AppIfConfigured("http")
	if err != nil {
		return false
	}
	known, ok := checked.Load(module)
	return ok && known.(*findings).places[server] != nil
}

// wrappedServer leaves the connection to the server around the listener wrapper.
func (x *explainer) wrappedServer(cx *layer4.Connection) error {
	cx.Context.Value(wrapperListenerKey) // as caddy-l4 asks
	data, conn := drain(cx)
	if _, refused := conn.(refusedConn); refused {
		x.answer(inspectionOf(cx), statusOnly(http.StatusBadRequest), "an HTTP server takes no bytes that are neither HTTP nor TLS")
		return nil
	}
	d := x.delivery
	if d == nil {
		d = &delivery{reusePin, nil, data, conn}
	}
	x.deliver(explainedDestination{Kind: toHTTPApp, Server: x.Listener.Server, Listener: x.Listener.Address}, d, true)
	return nil
}

// deliver says what an HTTP server gets, and what becomes of the next request.
func (x *explainer) deliver(to explainedDestination, d *delivery, wrapped bool) {
	if d.reuse == reusePin {
		to.Sent = remaining(d.data, d.conn)
		x.finish(to, nextPinned, "the HTTP server reads what follows, and nothing routes it")
		return
	}
	data, headLen := d.reuse.withHead(d.in, d.data)
	var m message
	m.begin(&d.in.Head, data, headLen, 0)
	to.Sent = m.ready
	if m.broken != nil {
		to.Why = fmt.Sprintf("the body breaks its framing: %v", m.broken)
	}
	next, why := nextRouted, "if it is of this route, the HTTP server gets it; else it leaves the server"
	switch {
	case d.reuse == reuseClose:
		next, why = nextClosed, "the server is asked to close after the response"
	case asksToClose(d.in):
		next, why = nextClosed, "the request asks for that, or is HTTP/1.0 and does not ask for more"
	case wrapped:
		why += ", and cannot come back"
	}
	x.finish(to, next, why)
}

// asksToClose reports whether the connection ends with the response for an HTTP server.
func asksToClose(in *inspection) bool {
	var forward httphead.Forward
	forwarded, err := forward.Request(&in.Head, in.Data())
	if err != nil || !forwarded.Close {
		return false
	}
	return in.Head.Minor == 1 || fieldValues(in.Data(), &in.Head, "Connection", ",") == ""
}

// relay sends the stream to an upstream.
func (x *explainer) relay(h *Relay, cx *layer4.Connection) {
	x.goesTo(h.whereTo())
	in := inspectionOf(cx)
	cx.Context = relayedContext(cx.Context, in)
	data, conn := drain(cx)
	reuse, unrouted := h.reuse(in, conn)
	to := explainedDestination{Kind: toRelay}
	next, why := nextPinned, "it is a raw stream"
	if unrouted {
		why = "no route of inspect has read it: it is a raw stream"
	}
	if reuse == reusePin {
		to.Sent = remaining(data, conn)
	} else {
		request, err := h.request(in, reuse == reuseReinspect)
		if err != nil {
			x.answer(in, statusOnly(http.StatusBadRequest), fmt.Sprintf("relay: %v", err))
			return
		}
		var ex exchange.Exchange
		ex.Begin(request)
		body, _ := ex.Request(append([]byte(nil), data[in.Head.Len:]...))
		if _, err := ex.Err(); err != nil {
			to.Why = fmt.Sprintf("the body breaks its framing: %v; the client gets %d, and the upstream a reset", err, ex.Status())
		}
		to.Sent = append(append([]byte(nil), request.Forwarded.Head...), body...)
		next, why = h.nextAfter(request, reuse)
	}
	if x.choose(h, cx, &to) {
		x.finish(to, next, why)
		return
	}
	to.Sent = nil
	if in.method() == "" {
		to.Kind = toClosed
	} else {
		to.Kind, to.Status = toAnswer, failureStatus(upstream.NoneAvailable)
		to.Response = statusOnly(to.Status).text(in.method() == http.MethodHead)
	}
	x.finish(to, nextClosed, "")
}

// nextAfter returns what becomes of the request that follows one.
func (h *Relay) nextAfter(request exchange.Request, reuse reuse) (next, why string) {
	switch {
	case request.Method == http.MethodConnect:
		return nextPinned, "if the server answers 2xx the connection is a tunnel; else it is closed or routed as after any response"
	case request.Forwarded.Upgrade != "":
		return nextPinned, "if the server switches to " + request.Forwarded.Upgrade + " the connection is a raw stream; else it is closed or routed as after any response"
	case reuse == reuseClose && h.wrapped && h.Reuse == "":
		return nextClosed, "in a listener wrapper a connection could not come back to the wrapped server"
	case reuse == reuseClose:
		return nextClosed, "after the response"
	case request.Forwarded.Close:
		return nextClosed, "the request asks for that, or is HTTP/1.0"
	}
	return nextRouted, "after the response"
}

// choose says which upstream gets the stream. It reports false if none does.
func (x *explainer) choose(h *Relay, cx *layer4.Connection, to *explainedDestination) bool {
	preview := h.pool.Preview(cx)
	first := make(map[*upstream.Server]bool)
	for _, s := range preview.First {
		first[s] = true
	}
	for _, c := range preview.Servers {
		u := explainedUpstream{Address: c.String(), Streams: c.Streams, First: first[c.Server], Out: c.Out, Backup: c.Backup, Ejected: c.Ejected}
		if c.Share < 1 && upstream.SlowStarts(h.pool.Selector()) {
			u.Share = c.Share
		}
		to.Upstreams = append(to.Upstreams, u)
	}
	to.Policy = h.policyName()
	_, byHead := h.pool.Selector().(headPolicy)
	switch {
	case len(preview.First) == 0:
		to.Why = "no upstream is available"
		return false
	case x.kept != nil && (byHead && len(preview.Servers) > 1 || h.pool.PerClient()):
		to.Why = "which upstream depends on what is not kept"
		for i := range to.Upstreams {
			to.Upstreams[i].First = to.Upstreams[i].Out == ""
		}
	case preview.Foreign && len(preview.First) > 1:
		to.Why = "the policy is another plugin's, and was not asked"
	case len(preview.First) > 1:
		to.Why = "one of the upstreams, at random"
	default:
		server := preview.First[0]
		address, err := server.AddressFor(cx)
		if err != nil && address == "" {
			to.Why = err.Error()
			return false
		}
		if err != nil {
			to.Why = err.Error()
		}
		to.Address, to.TLS = address, server.TLS()
	}
	to.Sent = append(preview.Header, to.Sent...)
	return true
}

// policyName returns the name of the policy that chooses the upstream.
func (h *Relay) policyName() string {
	if h.LoadBalancing == nil {
		return ""
	}
	if module, ok := h.pool.Selector().(caddy.Module); ok {
		return module.CaddyModule().ID.Name()
	}
	return ""
}
