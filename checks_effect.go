package streamprox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// What can have no effect: handlers and routes that no connection reaches, matchers that
// match none, and sites and names that do not meet.

// ends reports whether a handler never hands a connection on.
func (c *checker) ends(h *configHandler) bool {
	switch h.Name {
	case "relay", "http_respond", "proxy", "echo", "close", "socks5":
		return true
	case "http_app":
		return !c.wrapped || h.Listener != ""
	}
	return false
}

// order warns of handlers after one that keeps every connection.
func (c *checker) order(handlers []configHandler, place string) {
	for i := 0; i+1 < len(handlers); i++ {
		h, after := &handlers[i], &handlers[i+1]
		if !c.ends(h) {
			continue
		}
		fix := fmt.Sprintf("put '%s' before '%s'", after.Name, h.Name)
		if c.ends(after) {
			fix = fmt.Sprintf("leave one of '%s' and '%s' out, or give each a route of its own", h.Name, after.Name)
		}
		c.warn("a handler gets no connection: the one before it keeps them", place, fix, zap.String("handler", after.Name))
		return
	}
}

// fallsThrough warns of handlers after an http_app that leaves connections to the wrapped
// server. They get them first.
func (c *checker) fallsThrough(next *sequel, place string) {
	const message = "a handler stands between http_app and the wrapped server"
	if len(next.handlers) > 0 && next.handlers[0].Name == "rewrite_head" {
		c.warn(message, place, "put 'rewrite_head' before 'http_app'", zap.String("handler", "rewrite_head"))
		return
	}
	if ends, _ := next.httpEnds(); len(ends) > 0 {
		c.warn(message, place, fmt.Sprintf("leave '%s' out, or put it into a route before that of 'http_app'", ends[0].Name), zap.String("handler", ends[0].Name))
	}
}

// rewriteHead warns of what strips nothing, and of edits where nothing has read a head.
func (c *checker) rewriteHead(h *configHandler, place string, inspected bool) {
	if prefix, _, ok := strings.Cut(h.StripPrefix, "*"); ok {
		prefix = strings.TrimRight(prefix, "/")
		if prefix == "" {
			prefix = "<path>"
		}
		c.warn("strip_prefix takes an asterisk as it is", place, fmt.Sprintf("write 'strip_prefix %s'", prefix), zap.String("strip_prefix", h.StripPrefix))
	}
	if !inspected && !c.inspected {
		c.warn("rewrite_head closes every connection that inspect has not read", place, "put it into a route of 'inspect { … }', before 'relay' or 'http_app'")
	}
}

// upgrades warns of what is no name of WebSocket.
func (c *checker) upgrades(h *configHandler, place string) {
	for _, protocol := range h.Upgrade {
		switch strings.ToLower(protocol) {
		case "ws", "wss", "websockets":
			c.warn("clients ask for no upgrade of that name", place, "write 'upgrade websocket'", zap.String("upgrade", protocol))
		}
	}
}

// matchers warns of matcher sets that match nothing.
func (c *checker) matchers(sets []caddy.ModuleMap, place string, inspected bool) {
	if !inspected && !c.inspected && slices.ContainsFunc(sets, asksOutcome) {
		c.warn("'inspected' asks for the outcome of an inspection where there was none", place, "put the route into 'inspect { … }'")
	}
	for _, set := range sets {
		if set["http_request"] == nil || httpMatchOfSet(set) != never {
			continue
		}
		fix := "give each a name of its own, and write both names after 'route' if one is to match"
		if set["tls"] != nil {
			fix = "TLS that is passed through shows no request: take it in a route with 'tls' as matcher and handler, and ask for the request in a route after that"
		}
		c.warn("matchers of one set exclude each other: the others match no HTTP request", place, fix, zap.Strings("matchers", sortedKeys(set)))
	}
}

// asksOutcome reports whether a matcher set asks for the outcome of an inspection.
func asksOutcome(set caddy.ModuleMap) bool {
	var negated []caddy.ModuleMap
	_ = json.Unmarshal(set["not"], &negated)
	return set["inspected"] != nil || slices.ContainsFunc(negated, asksOutcome)
}

// leadsToHTTPApp reports whether a row of handlers, whatever the bytes are, ends in
// http_app.
func leadsToHTTPApp(handlers []configHandler) bool {
	return anyHandler(handlers, func(h *configHandler) bool { return h.Name == "http_app" }) &&
		!anyHandler(handlers, func(h *configHandler) bool {
			return !slices.Contains([]string{"http_app", "rewrite_head", "subroute", "throttle", "vars"}, h.Name)
		})
}

// ended warns of routes of layer4 that come after one which takes all that they would
// match, and keeps it.
func (c *checker) ended(routes []configRoute, place string) {
	for i, route := range routes {
		for j, earlier := range routes[:i] {
			ends := slices.ContainsFunc(earlier.Handle, func(h configHandler) bool { return c.ends(&h) })
			// A route without matchers waits for those before it that need more bytes, and
			// those after it are asked meanwhile.
			waits := slices.ContainsFunc(routes[:j], func(r configRoute) bool { return reader(r.Match) != "" })
			all := len(earlier.Match) == 0 && !waits || len(route.Match) > 0 && !slices.ContainsFunc(route.Match, func(set caddy.ModuleMap) bool {
				return !slices.ContainsFunc(earlier.Match, func(e caddy.ModuleMap) bool { return includes(set, e, "") })
			})
			if ends && all {
				c.never(fmt.Sprintf("%s%d", place, i), fmt.Sprintf("%s%d", place, j))
				break
			}
		}
	}
}

// neverAsked warns of routes of inspect that come after others which take all that they
// would match.
func (c *checker) neverAsked(routes []configRoute, place string) {
	at := func(i int) string { return fmt.Sprintf("%s/inspect/%d", place, i) }
	taken := make(map[string]int) // outcomes, by the route that takes all of each
	for i, route := range routes {
		if by := takenBy(routes[:i], route.Match, taken); by >= 0 {
			c.never(at(i), at(by))
		}
		for _, outcome := range outcomesTaken(route.Match) {
			if _, ok := taken[outcome]; !ok {
				taken[outcome] = i
			}
		}
	}
}

func (c *checker) never(place, earlier string) {
	c.warn("a route is never asked: an earlier one takes all that it matches", place, "put it before the other, or leave it out", zap.String("earlier", earlier))
}

// takenBy returns the last of the earlier routes that together take all that the matcher
// sets match, or -1.
func takenBy(earlier []configRoute, sets []caddy.ModuleMap, taken map[string]int) int {
	if len(sets) == 0 {
		sets = []caddy.ModuleMap{{}}
	}
	last := -1
	for _, set := range sets {
		by := -1
		outcomes, bounded := outcomesOfSet(set)
		for _, outcome := range outcomes {
			i, ok := taken[outcome]
			if !ok {
				by, outcomes = -1, nil
				break
			}
			by = max(by, i)
		}
		if !bounded || len(outcomes) == 0 {
			by = slices.IndexFunc(earlier, func(r configRoute) bool {
				return slices.ContainsFunc(r.Match, func(e caddy.ModuleMap) bool { return covers(e, set) })
			})
		}
		if by < 0 {
			return -1
		}
		last = max(last, by)
	}
	return last
}

// openOutcomes are those that a route of inspect takes unless it names others.
var openOutcomes = []string{OutcomeHTTP.String(), OutcomeTLS.String()}

// outcomesOfSet returns the outcomes that a matcher set may match in a route of inspect,
// if that is certain. CONNECT, which goes to routes with http_request alone, counts where
// it is named.
func outcomesOfSet(set caddy.ModuleMap) (outcomes []string, certain bool) {
	switch {
	case bytes.Contains(set["http_request"], []byte(`"CONNECT"`)):
		return nil, false
	case set["inspected"] != nil:
		outcomes = outcomesOf(set["inspected"])
		if set["http_request"] != nil {
			outcomes = slices.DeleteFunc(outcomes, func(o string) bool { return o != OutcomeHTTP.String() })
		}
		return outcomes, true
	case set["http_request"] != nil:
		return openOutcomes[:1], true
	case set["tls"] != nil:
		return openOutcomes[1:], true
	}
	// One that reads what is neither may match that too.
	for name := range set {
		if reader([]caddy.ModuleMap{{name: nil}}) != "" {
			return nil, false
		}
	}
	return openOutcomes, true
}

// outcomesTaken returns outcomes of which a route with these matcher sets takes all.
func outcomesTaken(sets []caddy.ModuleMap) (outcomes []string) {
	if len(sets) == 0 {
		return openOutcomes
	}
	for _, set := range sets {
		if len(set) == 1 {
			outcomes = append(outcomes, outcomesOf(set["inspected"])...)
		}
	}
	if httpMatch(sets) == always {
		outcomes = append(outcomes, OutcomeHTTP.String())
	}
	return outcomes
}

// covers reports whether an earlier matcher set of inspect matches whatever a later one
// does.
func covers(earlier, later caddy.ModuleMap) bool {
	if !includes(later, earlier, "inspected") {
		return false
	}
	bound, named := openOutcomes, earlier["inspected"] != nil
	if named {
		bound = outcomesOf(earlier["inspected"])
	}
	if outcomes, certain := outcomesOfSet(later); certain && len(outcomes) > 0 {
		return !slices.ContainsFunc(outcomes, func(o string) bool { return !slices.Contains(bound, o) })
	}
	// Both take what they have read themselves.
	return !named && later["inspected"] == nil && reader([]caddy.ModuleMap{earlier}) != ""
}

// includes reports whether a matcher set has all the matchers of another one, but for
// the one that is excepted.
func includes(set, other caddy.ModuleMap, except string) bool {
	for name, raw := range other {
		if name != except && (set[name] == nil || !sameJSON(set[name], raw)) {
			return false
		}
	}
	return len(other) > 0
}

// sameJSON reports whether two values are written alike.
func sameJSON(a, b json.RawMessage) bool {
	var first, second bytes.Buffer
	return json.Compact(&first, a) == nil && json.Compact(&second, b) == nil && bytes.Equal(first.Bytes(), second.Bytes())
}

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

// checkNames warns of http_app handlers that name what no site is bound to. app may be
// nil.
func (c *checker) checkNames(app *caddyhttp.App) {
	var bound []boundListener
	if app != nil {
		bound = boundListeners(app)
	}
	for _, handler := range c.apps {
		name, ports, found := boundTo(bound, handler.listener)
		switch {
		case found, handler.listener == "" && (c.wrapped || len(bound) > 0):
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
		c.warn("no site is bound to that name", handler.place, fix, zap.String("listener", handler.listener), zap.String("missing", bind))
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
func checkSites(ctx caddy.Context, servers map[string]layer4Config, app *caddyhttp.App) {
	if app == nil {
		return
	}
	if _, looked := lookOnce(ctx, sitesOf{app}, nil); looked {
		return
	}
	bound := boundListeners(app)
	var listeners []string
	collect := func(wrapped bool) func(*configHandler) bool {
		return func(h *configHandler) bool {
			if h.Name == "http_app" && (h.Listener != "" || !wrapped) {
				listeners = append(listeners, h.listener())
			}
			return false
		}
	}
	for _, server := range servers {
		anyHandlerOfRoutes(server.Routes, collect(false))
	}
	for _, server := range app.Servers {
		for _, wrapper := range layer4Wrappers(server) {
			anyHandlerOfRoutes(wrapper.Routes, collect(true))
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
