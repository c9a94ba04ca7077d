package streamprox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// http_app handlers and sites on the virtual network that do not meet.

// listener returns the name, or name:port, that an http_app handler delivers to, or "".
func (h *configHandler) listener() string { return strings.TrimPrefix(h.Listener, networkName+"/") }

// boundTo returns the ports that are bound to a name, and whether one of them is what a
// listener, name or name:port, stands for.
func boundTo(bound []boundListener, listener string) (name string, ports []string, found bool) {
	name, port, err := splitListener(listener)
	if err != nil {
		name = listener
	}
	for _, b := range bound {
		if b.name == name {
			ports = append(ports, b.port)
			found = found || port == "" || port == b.port
		}
	}
	return name, ports, found
}

// httpApps returns the http_app handlers in the list.
func (l *routeList) httpApps() (handlers []*configHandler) {
	l.walk(func(n node) bool {
		if h, ok := n.(*configHandler); ok && h.Name == "http_app" {
			handlers = append(handlers, h)
		}
		return true
	})
	return handlers
}

// checkNames warns of http_app handlers that name what no site is bound to. app may be nil.
func (c *checker) checkNames(app *caddyhttp.App) {
	var bound []boundListener
	if app != nil {
		bound = boundListeners(app)
	}
	for _, handler := range c.routes.httpApps() {
		listener := handler.listener()
		name, ports, found := boundTo(bound, listener)
		switch {
		case found, listener == "" && (c.wrapped || len(bound) > 0):
			continue
		case name == "":
			name = "web"
		}
		bind := fmt.Sprintf("bind %s/%s", networkName, name)
		fix := fmt.Sprintf("write '%s' in a site", bind)
		switch {
		case len(ports) > 0:
			fix = fmt.Sprintf("%s is bound with the port %s alone: write 'http_app %[1]s:%[2]s'", name, ports[0])
			if len(ports) > 1 {
				fix = fmt.Sprintf("%s is bound with the ports %s: name one of them", name, strings.Join(ports, ", "))
			}
		case len(bound) > 0:
			fix += fmt.Sprintf(", or name what is bound: %s", strings.Join(boundNames(bound), ", "))
		}
		c.warn(handler.route, "no site is bound to that name", fix, zap.String("listener", listener), zap.String("missing", bind))
	}
}

func boundNames(bound []boundListener) (names []string) {
	for _, b := range bound {
		names = append(names, b.name)
	}
	return slices.Compact(names)
}

// sitesOf is what checkSites remembers an HTTP app by.
type sitesOf struct{ app *caddyhttp.App }

// checkSites warns, once for a configuration, of servers on the virtual network that no
// http_app handler leads to. It says nothing where one of them is misspelt: that is said
// of the handler. app may be nil.
func checkSites(ctx caddy.Context, servers map[string]layer4Server, app *caddyhttp.App) {
	if app == nil {
		return
	}
	if _, looked := lookOnce(ctx, sitesOf{app}, nil); looked {
		return
	}
	bound := boundListeners(app)
	var listeners []string
	for _, server := range servers {
		for _, h := range newRouteList(server.Routes, "").httpApps() {
			listeners = append(listeners, h.listener())
		}
	}
	for _, server := range app.Servers {
		for _, wrapper := range layer4Wrappers(server) {
			for _, h := range newRouteList(wrapper.Routes, "").httpApps() {
				if h.Listener != "" {
					listeners = append(listeners, h.listener())
				}
			}
		}
	}
	for _, listener := range listeners {
		if _, _, found := boundTo(bound, listener); !found || listener == "" {
			return
		}
	}
	unreached := make(map[string][]boundListener)
	for _, b := range bound {
		if b.server != redirectServer && !slices.ContainsFunc(listeners, func(l string) bool { return l == b.name || l == b.address() }) {
			unreached[b.server] = append(unreached[b.server], b)
		}
	}
	for _, server := range sortedKeys(unreached) {
		first := unreached[server][0]
		listener := first.name
		if _, ports, _ := boundTo(bound, listener); len(ports) > len(unreached[server]) {
			listener = first.address()
		}
		warnUnreached(ctx.Logger(), server, first, listener)
	}
}

// warnUnreached says that nobody delivers to a server of the HTTP app.
func warnUnreached(logger *zap.Logger, server string, b boundListener, listener string) {
	logger.Warn("no http_app leads to a site",
		zap.String("server", server),
		zap.String("listen", networkName+"/"+b.address()),
		zap.String("fix", fmt.Sprintf("write 'http_app %s' in a route of layer4 or of a listener wrapper, or leave out 'bind %s/%s'", listener, networkName, b.name)))
}

// checkUnreached does what checkSites does for a configuration without a handler of this
// package that is provisioned.
func checkUnreached(ctx caddy.Context) {
	var http *caddyhttp.App
	for _, name := range []string{"layer4", "http"} {
		app, err := ctx.AppIfConfigured(name)
		if err != nil {
			continue
		}
		if _, looked := checked.Load(app); looked {
			return
		}
		http, _ = app.(*caddyhttp.App)
	}
	checkSites(ctx, nil, http)
}
