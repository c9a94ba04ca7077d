package streamprox

import (
	"errors"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// Requests that nobody will route: all but the first one of a connection that leaves the
// routes of inspect, or that goes to a handler which does not give it back.

// unrouted warns of handlers in the routes of inspect that keep a connection after its first
// request.
func (c *checker) unrouted(h *configHandler) {
	const last = "only the first request of a connection is routed"
	routes, _ := h.inner.httpRoutes()
	for _, route := range routes {
		ends, passes := httpEnds(route.Handle)
		if passes {
			var after []*configHandler
			after, passes = h.httpEndsAfter()
			ends = append(ends, after...)
		}
		for _, end := range ends {
			switch {
			case end.harmless():
			case end.Name == "http_app", end.Name == "relay":
				if h.Until == "line" && end.Reuse == "" {
					c.warn(route, last+": 'until line' does not wait for heads",
						"use 'until headers'; or write 'reuse pin' if nothing depends on the route of later requests", zap.String("handler", end.Name))
				}
			default:
				c.warn(route, last+": the handler keeps the connection",
					"use 'relay' or 'http_app'; or add 'inspected' with outcomes other than http to the matchers if this is no route for HTTP", zap.String("handler", end.Name))
			}
		}
		if passes && c.wrapped {
			c.warn(route, last+": the rest stays with the wrapped server", "end the route with 'http_app'")
		}
	}
}

// unroutedAfter warns of requests that no route of inspect takes.
func (c *checker) unroutedAfter(h *configHandler) {
	if _, rest := h.inner.httpRoutes(); !rest {
		return
	}
	ends, passes := h.httpEndsAfter()
	for _, end := range ends {
		if !end.harmless() && end.Reuse != "pin" {
			c.warn(h.route, "a request that no route of inspect takes goes to a later handler with all that follow on its connection",
				"end the routes of inspect with one without matchers that holds the handler", zap.String("handler", end.Name))
		}
	}
	if passes && c.wrapped {
		c.warn(h.route, "a request that no route takes reaches the wrapped server with all that follow on its connection",
			"end the routes with 'route { http_app }' to have each routed")
	}
}

// noRoutes warns of an inspect that leads nowhere.
func (c *checker) noRoutes(h *configHandler) {
	if len(h.Routes) > 0 {
		return
	}
	ends, passes := h.httpEndsAfter()
	if !(passes && c.wrapped) && all(ends, (*configHandler).harmless) {
		c.warn(h.route, "inspect has no routes, and nothing follows that takes a connection", "give it routes, as in 'route { … }'")
	}
}

// otherToHTTPApp warns of a route that sends bytes of other protocols to http_app.
func (c *checker) otherToHTTPApp(h *configHandler) {
	for i := range h.inner.routes {
		if route := &h.inner.routes[i]; route.names(opening.Other) && route.leadsToHTTPApp() {
			c.warn(route, "http_app answers other protocols with 400",
				"leave 'other' out of 'inspected', or use another handler, such as 'relay', for these protocols")
		}
	}
}

// lastRoute says what a last route without matchers does not take.
func (c *checker) lastRoute(h *configHandler) {
	if len(h.Routes) == 0 {
		return
	}
	if last := &h.inner.routes[len(h.Routes)-1]; len(last.Match) == 0 && !last.leadsToHTTPApp() {
		c.logger.Info("the last route of inspect takes http and tls only; bytes of other protocols reach it with 'inspected other'",
			zap.String("server", c.server), zap.String("route", last.place()))
	}
}

// leadsToHTTPApp reports whether the route, whatever the bytes are, ends in http_app.
func (r *configRoute) leadsToHTTPApp() bool {
	passing := named("http_app", "rewrite_head", "subroute", "throttle", "vars")
	return has(r, named("http_app")) && !has(r, func(h *configHandler) bool { return !passing(h) })
}

// errHTTP2 refuses a configuration that would turn away every browser.
var errHTTP2 = errors.New("this server offers HTTP/2 on TLS, which no route of inspect takes: set 'protocols h1' for the server, or name the outcome with 'inspected http2' in a route")

// refuseHTTP2 refuses an inspect that gets HTTP/2 and has no route for it.
func (c *checker) refuseHTTP2(h *configHandler) {
	if c.alpn && h.route.takesHTTP2() && all(h.Routes, func(r configRoute) bool { return !r.names(opening.HTTP2) }) {
		c.refuse(h.route, "%w", errHTTP2)
	}
}

// takesHTTP2 reports whether the route gets HTTP/2, if its server or wrapper does.
func (r *configRoute) takesHTTP2() bool {
	if r.list.isIn("inspect") && !r.names(opening.HTTP2) {
		return false
	}
	return r.list.in == nil || r.list.in.route.takesHTTP2()
}

// unroutedHTTP2 warns of routes for HTTP/2 in a wrapper.
func (c *checker) unroutedHTTP2(h *configHandler) {
	for i := range h.inner.routes {
		if route := &h.inner.routes[i]; c.http2 && route.names(opening.HTTP2) && !endsHarmless(route.Handle) {
			c.warn(route, "a connection of HTTP/2 carries many requests, of which none is routed",
				"set 'protocols h1' for the server, and leave 'http2' out of the matchers")
		}
	}
}

// httpRoutes returns the routes of inspect that may take an HTTP request, and whether there
// may be requests that none takes.
func (l *routeList) httpRoutes() (routes []*configRoute, rest bool) {
	for i := range l.routes {
		route := &l.routes[i]
		switch route.httpMatch() {
		case never:
		case sometimes:
			routes = append(routes, route)
		case always:
			return append(routes, route), false
		}
	}
	return routes, true
}

// httpEndsAfter returns the handlers that may keep an HTTP stream which h has passed on, and
// whether it may also come out behind the last one. Another inspect is looked at on its own.
func (h *configHandler) httpEndsAfter() (ends []*configHandler, passes bool) {
	rest, later := h.following()
	ends, passes = httpEnds(rest)
	if passes {
		var found []*configHandler
		found, passes = httpEndsOfRoutes(later)
		ends = append(ends, found...)
	}
	around := h.route.list.in
	switch {
	case !passes, around == nil:
		return ends, passes
	case around.Name == "tee":
		return ends, false
	}
	found, passes := around.httpEndsAfter()
	return append(ends, found...), passes
}

// httpEnds returns what httpEndsAfter does, of handlers in a row.
func httpEnds(handlers []configHandler) (ends []*configHandler, passes bool) {
	for i := range handlers {
		switch h := &handlers[i]; h.Name {
		case "tls", "postgres_tls", "proxy_protocol", "throttle", "tee", "vars", "rewrite_head":
		case "subroute":
			found, passes := httpEndsOfRoutes(h.inner.routes)
			ends = append(ends, found...)
			if !passes {
				return ends, false
			}
		case "inspect":
			return ends, false
		default:
			return append(ends, h), false
		}
	}
	return ends, true
}

// httpEndsOfRoutes returns what httpEndsAfter does, of routes of layer4.
func httpEndsOfRoutes(routes []configRoute) (ends []*configHandler, passes bool) {
	for i := range routes {
		match := routes[i].httpMatch()
		if match == never {
			continue
		}
		found, passes := httpEnds(routes[i].Handle)
		ends = append(ends, found...)
		if match == always && !passes {
			return ends, false
		}
	}
	return ends, true
}

// endsHarmless reports whether no handler of a route gets requests that are not routed.
func endsHarmless(handlers []configHandler) bool {
	ends, passes := httpEnds(handlers)
	return !passes && all(ends, (*configHandler).harmless)
}

// harmless reports whether the handler ends the connection after one request at most.
func (h *configHandler) harmless() bool { return h.Name == "close" || h.Name == "http_respond" }

// offersALPN reports whether a server offers HTTP/2 on TLS.
func offersALPN(server *caddyhttp.Server) bool {
	return offersProtocol(server, "h2") && slices.ContainsFunc(server.TLSConnPolicies, func(p *caddytls.ConnectionPolicy) bool {
		return len(p.ALPN) == 0 || slices.Contains(p.ALPN, "h2")
	})
}

// offersHTTP2 reports whether a server takes HTTP/2 on one of its listeners: without
// TLS too, where the client begins with it.
func offersHTTP2(server *caddyhttp.Server) bool {
	return offersProtocol(server, "h2") || offersProtocol(server, "h2c")
}

// offersProtocol reports whether a server offers the protocol on one of its listeners.
func offersProtocol(server *caddyhttp.Server, protocol string) bool {
	for i := range server.Listen {
		if slices.Contains(protocolsOf(server, i), protocol) {
			return true
		}
	}
	return false
}
