package streamprox

import (
	"reflect"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
)

// Which handler of this package stands where in a configuration. A handler that is being
// provisioned does not know its place. But Caddy provisions the handlers of a server one
// after the other, in the order in which they are written, and each of this package's asks
// for the findings of its app first.

// places are the servers of an app that have routes of layer4, by name.
type places map[string]*servedRoutes

// servedRoutes are the routes of a layer4 server, or of the layer4 wrappers of an HTTP
// server.
type servedRoutes struct {
	listen    []string
	lists     []*routeList // of the server, or of each wrapper in the order in which connections pass them
	beforeTLS []bool       // of each list: it sees TLS and not what is inside

	own     []*configHandler // those of this package, in their order
	entered int              // how many of them are being provisioned, or are
	unknown bool             // there are others, in a handler that is not known here
}

// ownHandlers are the names of the handlers of this package.
var ownHandlers = named("inspect", "http_app", "relay", "rewrite_head", "http_respond")

// add adds a list of routes to those of a server.
func (p places) add(server string, listen []string, list *routeList, beforeTLS bool) {
	s := p[server]
	if s == nil {
		s = &servedRoutes{listen: listen}
		p[server] = s
	}
	s.lists = append(s.lists, list)
	s.beforeTLS = append(s.beforeTLS, beforeTLS)
	list.walk(func(n node) bool {
		if h, ok := n.(*configHandler); ok && ownHandlers(h) {
			s.own = append(s.own, h)
		}
		return true
	})
}

// enter finds the place of the handler that ctx provisions, in that app.
func (p places) enter(ctx caddy.Context, app caddy.Module) {
	s := p[serverOf(ctx, app)]
	handler, ok := ctx.Module().(layer4.NextHandler)
	if s == nil || !ok {
		return
	}
	if s.entered >= len(s.own) || "layer4.handlers."+s.own[s.entered].Name != string(ctx.Module().CaddyModule().ID) {
		s.unknown = true
		return
	}
	s.own[s.entered].live = handler
	s.entered++
}

// of returns the place of a handler that is being provisioned, with its server and the name
// of that; nil if it is not known.
func (p places) of(handler layer4.NextHandler) (*configHandler, *servedRoutes, string) {
	for name, server := range p {
		for _, h := range server.own {
			if h.live == handler {
				return h, server, name
			}
		}
	}
	return nil, nil, ""
}

// known reports whether all places are known.
func (s *servedRoutes) known() bool { return !s.unknown && s.entered == len(s.own) }

// serverOf returns the name of the server of an app that is being provisioned, or "".
func serverOf(ctx caddy.Context, app caddy.Module) string {
	switch app := app.(type) {
	case *caddyhttp.App:
		server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
		for name, s := range app.Servers {
			if s == server {
				return name
			}
		}
	case *layer4.App:
		for name, s := range app.Servers {
			if s != nil && isProvisioned(s) {
				return name
			}
		}
	}
	return ""
}

// isProvisioned reports whether a layer4 server is being provisioned: it has its logger, and
// not yet its routes. It reads private fields.
func isProvisioned(server *layer4.Server) bool {
	v := reflect.ValueOf(server).Elem()
	logger, routes := v.FieldByName("logger"), v.FieldByName("compiledRoute")
	return logger.Kind() == reflect.Pointer && !logger.IsNil() && routes.Kind() == reflect.Interface && routes.IsNil()
}
