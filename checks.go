package streamprox

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// What is wrong with a configuration, said when it is loaded, with what to write instead.
// What can only do harm is an error; what is probably a mistake is a warning. This file has
// the list of the checks, and asks them about all routes of layer4, in its app and in
// listener wrappers of the HTTP app. Each family of checks has a file, checks_<family>.go.
//
// What a Caddyfile alone shows is in mistakes.go.

// The checks of a list of routes, of a route, and of a handler by its name.
var (
	listChecks = []func(*checker, *routeList){
		(*checker).neverAsked,
	}
	routeChecks = []func(*checker, *configRoute){
		(*checker).outcomesUnknown,
		(*checker).matchersExclude,
		(*checker).order,
	}
	handlerChecks = map[string][]func(*checker, *configHandler){
		"inspect": {
			(*checker).refuseHTTP2,
			(*checker).unroutedHTTP2,
			(*checker).unrouted,
			(*checker).otherToHTTPApp,
			(*checker).lastRoute,
			(*checker).noRoutes,
			(*checker).unroutedAfter,
		},
		"tee": {
			(*checker).refuseTee,
		},
		"http_app": {
			(*checker).fallsThrough,
		},
		"relay": {
			(*checker).upgradeNames,
			(*checker).refuseWeights,
			(*checker).relayToItself,
		},
		"rewrite_head": {
			(*checker).stripsAsterisk,
			(*checker).editsNothing,
		},
	}
)

// checker looks at the routes of one layer4 server, or of one listener wrapper.
type checker struct {
	logger  *zap.Logger
	server  string
	listen  []caddy.NetworkAddress
	routes  *routeList
	wrapped bool      // a listener wrapper: its server follows
	http2   bool      // and that takes HTTP/2
	alpn    bool      // and offers it to the clients of whose TLS the wrapper sees the inside
	found   *findings // of the layer4 app; nil for a wrapper

	err error // the first one
}

// check asks the checks about all routes, and returns the first error.
func (c *checker) check() error {
	c.routes.walk(func(n node) bool {
		if c.err != nil {
			return false
		}
		switch n := n.(type) {
		case *routeList:
			for _, check := range listChecks {
				check(c, n)
			}
		case *configRoute:
			for _, check := range routeChecks {
				check(c, n)
			}
		case *configHandler:
			for _, check := range handlerChecks[n.Name] {
				check(c, n)
			}
			c.found.note(n)
		}
		return c.err == nil
	})
	return c.err
}

// refuse makes an error of the configuration, unless there is one.
func (c *checker) refuse(r *configRoute, format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("route %s: "+format, append([]any{r.place()}, args...)...)
	}
}

// warn says what is wrong with a route, and how to mend it.
func (c *checker) warn(r *configRoute, message, fix string, fields ...zap.Field) {
	c.logger.Warn(message, append([]zap.Field{
		zap.String("server", c.server),
		zap.String("route", r.place()),
		zap.String("fix", fix),
	}, fields...)...)
}

// checked holds what has been looked at: the apps, each with its *findings, and their
// sites.
var checked sync.Map

// lookOnce returns what the first call for that key and configuration has found, and
// whether this is a later one.
func lookOnce(ctx caddy.Context, key, found any) (first any, looked bool) {
	if first, looked = checked.LoadOrStore(key, found); !looked {
		// Not ctx.OnCancel: that of a module's context is never called.
		context.AfterFunc(ctx, func() { checked.Delete(key) })
	}
	return first, looked
}

// checkConfiguration looks once at the whole app, layer4 or HTTP, in which a handler of
// this package is being provisioned. The first handler to ask sees all of them: Caddy
// takes the JSON of modules away only once they are loaded.
func checkConfiguration(ctx caddy.Context) error {
	_, err := findingsOf(ctx)
	return err
}

// findingsOf is checkConfiguration, and returns what was found.
func findingsOf(ctx caddy.Context) (*findings, error) {
	found := newFindings()
	module := appOf(ctx)
	if module == nil {
		return found, nil
	}
	if before, looked := lookOnce(ctx, module, found); looked {
		found = before.(*findings)
		found.places.enter(ctx, module)
		return found, nil
	}
	var err error
	if app, ok := module.(*layer4.App); ok {
		err = checkLayer4App(ctx, app, found)
	} else {
		err = checkHTTPApp(ctx, module.(*caddyhttp.App), found)
	}
	found.places.enter(ctx, module)
	return found, err
}

// checkLayer4App looks at the servers of the layer4 app.
func checkLayer4App(ctx caddy.Context, app *layer4.App, found *findings) error {
	servers := layer4Servers(ctx, app)
	var checkers []*checker
	for _, name := range sortedKeys(servers) {
		server := servers[name]
		c := &checker{
			logger: ctx.Logger(),
			server: name,
			listen: listenAddresses(server.Listen),
			routes: newRouteList(server.Routes, ""),
			found:  found,
		}
		if err := c.refuseDatagrams(server.Listen); err != nil {
			return err
		}
		if err := c.check(); err != nil {
			return fmt.Errorf("server %s, %w", name, err)
		}
		checkers = append(checkers, c)
		found.places.add(name, server.Listen, c.routes, false)
	}
	// An error of the HTTP app is for Caddy to report.
	var http *caddyhttp.App
	module, err := ctx.AppIfConfigured("http")
	if err == nil {
		http, _ = module.(*caddyhttp.App)
	}
	if err := checkAddresses(servers, http); err != nil {
		return err
	}
	if err == nil || errors.Is(err, caddy.ErrNotConfigured) {
		for _, c := range checkers {
			c.checkNames(http)
		}
	}
	checkSites(ctx, servers, http)
	return nil
}

// checkHTTPApp looks at the layer4 listener wrappers of the HTTP app.
func checkHTTPApp(ctx caddy.Context, app *caddyhttp.App, found *findings) error {
	delivered := make(map[string][]string) // by server, what its http_app handlers name
	for _, name := range sortedKeys(app.Servers) {
		server := app.Servers[name]
		wrappers := layer4Wrappers(server)
		for i, wrapper := range wrappers {
			prefix := ""
			if len(wrappers) > 1 {
				prefix = fmt.Sprintf("wrapper %d/", i)
			}
			c := &checker{
				logger:  ctx.Logger(),
				server:  name,
				listen:  listenAddresses(server.Listen),
				routes:  newRouteList(wrapper.Routes, prefix),
				wrapped: true,
				http2:   offersHTTP2(server) && !(len(server.TLSConnPolicies) > 0 && wrapper.beforeTLS),
				alpn:    offersALPN(server) && !wrapper.beforeTLS,
			}
			if err := c.check(); err != nil {
				return fmt.Errorf("listener wrapper of server %s, %w", name, err)
			}
			for _, handler := range c.routes.httpApps() {
				if handler.Listener != "" {
					delivered[name] = append(delivered[name], handler.listener())
				}
			}
			c.checkNames(app)
			found.places.add(name, server.Listen, c.routes, wrapper.beforeTLS)
		}
	}
	if err := checkHandOvers(app, delivered); err != nil {
		return err
	}
	servers := layer4ServersBeside(ctx)
	if err := checkAddresses(servers, app); err != nil {
		return err
	}
	checkSites(ctx, servers, app)
	return nil
}
