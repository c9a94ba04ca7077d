package streamprox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/socket"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// What is wrong with a configuration, said when it is loaded: as an error what can do
// nothing but harm, as a warning what may leave requests unrouted. What an address alone
// shows is in checks_listen.go.

// checked holds what has been looked at: the apps, each with its *findings, and their
// sites.
var checked sync.Map

// findings is what the handlers of an app are told about their place in its
// configuration.
type findings struct {
	// last says of each inspect, by inspectKey, whether no handler follows it that an
	// HTTP request could go to. Of several that are alike it says so if that holds for
	// all.
	last map[string]bool

	// hidden is that there is an inspect among the handlers of a module that is not
	// known here.
	hidden bool
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
	found := &findings{last: make(map[string]bool)}
	for _, module := range slices.Backward(ctx.Modules()) {
		var check func() error
		switch app := module.(type) {
		case *layer4.App:
			check = func() error { return checkLayer4App(ctx, app, found) }
		case *caddyhttp.App:
			check = func() error { return checkHTTPApp(ctx, app) }
		default:
			continue
		}
		if before, looked := lookOnce(ctx, module, found); looked {
			return before.(*findings), nil
		}
		return found, check()
	}
	return found, nil
}

// isLast reports whether no handler follows the inspect that an HTTP request could go
// to. Where that is not known, it is false.
func (f *findings) isLast(h *Inspect) bool {
	raw, err := json.Marshal(h)
	return err == nil && !f.hidden && f.last[inspectKey(raw)]
}

// inspectKey returns what the inspect of that configuration is known by: a handler that
// is being provisioned does not know its place. Caddy has brought the JSON that it gets
// into another form. The key is "" if there is none.
func inspectKey(raw json.RawMessage) string {
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return ""
	}
	raw, err := json.Marshal(value)
	var h Inspect
	if err != nil || json.Unmarshal(raw, &h) != nil {
		return ""
	}
	key, _ := json.Marshal(&h)
	return string(key)
}

// lookOnce returns what the first call for that key and configuration has found, and
// whether this is a later one.
func lookOnce(ctx caddy.Context, key, found any) (first any, looked bool) {
	if first, looked = checked.LoadOrStore(key, found); !looked {
		// Not ctx.OnCancel: that of a module's context is never called.
		context.AfterFunc(ctx, func() { checked.Delete(key) })
	}
	return first, looked
}

// checkLayer4App looks at the servers of the layer4 app.
func checkLayer4App(ctx caddy.Context, app *layer4.App, found *findings) error {
	servers := layer4Servers(ctx, app)
	var checkers []*checker
	for _, name := range sortedKeys(servers) {
		server := servers[name]
		c := &checker{logger: ctx.Logger(), server: name, listen: listenAddresses(server.Listen), found: found}
		if _, err := c.routes(server.Routes, nil, "", false, ""); err != nil {
			return fmt.Errorf("server %s, %w", name, err)
		}
		checkers = append(checkers, c)
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
func checkHTTPApp(ctx caddy.Context, app *caddyhttp.App) error {
	delivered := make(map[string][]string) // by server, what its http_app handlers name
	for _, name := range sortedKeys(app.Servers) {
		server := app.Servers[name]
		wrappers := layer4Wrappers(server)
		for i, wrapper := range wrappers {
			c := &checker{
				logger:  ctx.Logger(),
				server:  name,
				listen:  listenAddresses(server.Listen),
				wrapped: true,
				http2:   offersHTTP2(server) && !(len(server.TLSConnPolicies) > 0 && wrapper.beforeTLS),
				alpn:    offersALPN(server) && !wrapper.beforeTLS,
			}
			place := ""
			if len(wrappers) > 1 {
				place = fmt.Sprintf("wrapper %d/", i)
			}
			if _, err := c.routes(wrapper.Routes, nil, place, false, ""); err != nil {
				return fmt.Errorf("listener wrapper of server %s, %w", name, err)
			}
			for _, handler := range c.apps {
				if handler.listener != "" {
					delivered[name] = append(delivered[name], handler.listener)
				}
			}
			c.checkNames(app)
		}
	}
	if err := checkHandOvers(app, delivered); err != nil {
		return err
	}
	// The layer4 app may be about to be provisioned, and must not be from here: its
	// handlers would take themselves for those of a wrapper.
	var servers map[string]layer4Config
	if raw := rawApp(ctx, "layer4"); raw != nil {
		servers = parseLayer4(raw)
	} else if module, err := ctx.AppIfConfigured("layer4"); err == nil {
		if layer4App, ok := module.(*layer4.App); ok {
			servers = layer4Servers(ctx, layer4App)
		}
	}
	if err := checkAddresses(servers, app); err != nil {
		return err
	}
	checkSites(ctx, servers, app)
	return nil
}

// layer4Config is what the checks read of a layer4 server or listener wrapper. Its JSON
// is read leniently: what is wrong in it, loading the modules says.
type layer4Config struct {
	Listen []string      `json:"listen"`
	Routes []configRoute `json:"routes"`
}

// configRoute is a route of layer4, of a subroute or of inspect.
type configRoute struct {
	Match  []caddy.ModuleMap `json:"match"`
	Handle []configHandler   `json:"handle"`
}

// configHandler is a layer4 handler with those of its fields that the checks need.
type configHandler struct {
	Name      string           `json:"handler"`
	Routes    []configRoute    `json:"routes"`    // of inspect and subroute
	Branch    []configHandler  `json:"branch"`    // of tee
	Until     string           `json:"until"`     // of inspect
	Reuse     string           `json:"reuse"`     // of relay and http_app
	Listener  string           `json:"listener"`  // of http_app
	Upgrade   []string         `json:"upgrade"`   // of relay
	Upstreams []configUpstream `json:"upstreams"` // of relay

	StripPrefix string `json:"strip_prefix"` // of rewrite_head

	raw json.RawMessage
}

// configUpstream is an upstream of relay.
type configUpstream struct {
	Dial   []string `json:"dial"`
	Weight *int     `json:"weight"`
}

// UnmarshalJSON implements json.Unmarshaler. Of handlers that the checks do not know,
// only the name is read.
func (h *configHandler) UnmarshalJSON(b []byte) error {
	var named struct {
		Name string `json:"handler"`
	}
	_ = json.Unmarshal(b, &named)
	switch named.Name {
	case "inspect", "subroute", "tee", "relay", "http_app", "rewrite_head":
		type fields configHandler
		_ = json.Unmarshal(b, (*fields)(h))
	}
	h.Name, h.raw = named.Name, bytes.Clone(b)
	return nil
}

// layer4Servers returns the servers of the layer4 app as they are configured, or as much
// as is left of that.
func layer4Servers(ctx caddy.Context, app *layer4.App) map[string]layer4Config {
	raw := rawApp(ctx, "layer4")
	if raw == nil {
		raw, _ = json.Marshal(app)
	}
	return parseLayer4(raw)
}

func parseLayer4(raw json.RawMessage) map[string]layer4Config {
	var app struct {
		Servers map[string]layer4Config `json:"servers"`
	}
	_ = json.Unmarshal(raw, &app)
	return app.Servers
}

// layer4Wrapper is a layer4 listener wrapper.
type layer4Wrapper struct {
	layer4Config
	beforeTLS bool // it sees TLS and not what is inside
}

// layer4Wrappers returns the layer4 listener wrappers of a server that is not
// provisioned yet. Without a TLS wrapper, Caddy puts TLS before all of them.
func layer4Wrappers(server *caddyhttp.Server) (wrappers []layer4Wrapper) {
	for _, raw := range server.ListenerWrappersRaw {
		var named struct {
			Name string `json:"wrapper"`
		}
		_ = json.Unmarshal(raw, &named)
		switch named.Name {
		case "tls":
			for i := range wrappers {
				wrappers[i].beforeTLS = true
			}
		case "layer4":
			var wrapper layer4Wrapper
			_ = json.Unmarshal(raw, &wrapper.layer4Config)
			wrappers = append(wrappers, wrapper)
		}
	}
	return wrappers
}

// rawApp returns the JSON of an app that has not been provisioned to the end, or nil.
// Caddy keeps it until then, but does not show it; and what it shows lacks the routes
// before the first handler of this package, which matter where tee is.
func rawApp(ctx caddy.Context, name string) json.RawMessage {
	config := reflect.ValueOf(ctx).FieldByName("cfg")
	if !config.IsValid() || config.Kind() != reflect.Pointer || config.IsNil() {
		return nil
	}
	apps := config.Elem().FieldByName("AppsRaw")
	if !apps.IsValid() || apps.Type() != reflect.TypeFor[caddy.ModuleMap]() {
		return nil
	}
	raw := apps.MapIndex(reflect.ValueOf(name))
	if !raw.IsValid() {
		return nil
	}
	return raw.Bytes()
}

// checker looks at the routes of one layer4 server, or of one listener wrapper.
type checker struct {
	logger    *zap.Logger
	server    string
	listen    []caddy.NetworkAddress
	wrapped   bool // a listener wrapper: its server follows
	http2     bool // and that takes HTTP/2
	alpn      bool // and offers it to the clients of whose TLS the wrapper sees the inside
	inspected bool // an inspect stands before what is looked at
	apps      []appHandler
	found     *findings
}

// appHandler is an http_app handler.
type appHandler struct{ place, listener string }

// sequel is what follows a handler: the handlers after it in its route, the routes after
// that in its list, and what follows the list.
type sequel struct {
	handlers []configHandler
	routes   []configRoute
	outer    *sequel
	branch   bool // of tee: nothing follows, not even a wrapped server
}

// routes looks at a list of routes. Its place is a prefix for those of its routes;
// inspected says whether they are, or are within, a route of inspect; read names what has
// buffered bytes before, or is empty. It returns what has after them.
func (c *checker) routes(routes []configRoute, next *sequel, place string, inspected bool, read string) (string, error) {
	c.ended(routes, place)
	for i, route := range routes {
		c.matchers(route.Match, fmt.Sprintf("%s%d", place, i), inspected)
		if name := reader(route.Match); name != "" {
			read = "the matcher " + name
		}
		after, err := c.handlers(route.Handle, &sequel{routes: routes[i+1:], outer: next}, fmt.Sprintf("%s%d", place, i), inspected, read)
		if err != nil {
			return "", err
		}
		if after != "" || len(route.Match) == 0 {
			read = after
		}
	}
	return read, nil
}

// handlers looks at the handlers of a route. It returns what has buffered bytes after
// them.
func (c *checker) handlers(handlers []configHandler, next *sequel, place string, inspected bool, read string) (string, error) {
	c.order(handlers, place)
	for i := range handlers {
		h := &handlers[i]
		rest := &sequel{handlers: handlers[i+1:], outer: next}
		switch h.Name {
		case "inspect":
			if c.alpn && !slices.ContainsFunc(h.Routes, func(r configRoute) bool { return names(r.Match, OutcomeHTTP2) }) {
				return "", fmt.Errorf("route %s: %w", place, errHTTP2)
			}
			c.inspect(h, rest, place)
			c.noteLast(h, rest)
			alpn := c.alpn
			for j, route := range h.Routes {
				c.alpn = alpn && names(route.Match, OutcomeHTTP2)
				place := fmt.Sprintf("%s/inspect/%d", place, j)
				c.matchers(route.Match, place, true)
				if _, err := c.handlers(route.Handle, rest, place, true, ""); err != nil {
					return "", err
				}
			}
			c.alpn, c.inspected = alpn, true
			read = "inspect"
		case "subroute":
			var err error
			if read, err = c.routes(h.Routes, rest, place+"/subroute/", inspected, read); err != nil {
				return "", err
			}
		case "tee":
			if inspected {
				return "", fmt.Errorf("route %s: tee in a route of inspect would deliver twice the bytes that inspect has read; put tee before inspect, in a route without matchers", place)
			}
			if read != "" && (anyHandler(h.Branch, isOurs) || rest.any(isOurs)) {
				return "", fmt.Errorf("route %s: tee would deliver twice the bytes that %s has read; put tee before it, in a route without matchers", place, read)
			}
			before := c.inspected
			if _, err := c.handlers(h.Branch, &sequel{branch: true}, place+"/tee", false, read); err != nil {
				return "", err
			}
			c.inspected = before
		case "tls", "proxy_protocol":
			read = "" // they take all that is buffered
		case "http_app":
			c.apps = append(c.apps, appHandler{place, h.listener()})
			if !c.ends(h) {
				c.fallsThrough(rest, place)
			}
		case "relay":
			if err := c.relay(h, place); err != nil {
				return "", err
			}
		case "rewrite_head":
			c.rewriteHead(h, place, inspected)
		default:
			if c.found != nil && containsInspect(h.raw) {
				c.found.hidden = true
			}
		}
	}
	return read, nil
}

// inspect warns of requests that nobody will route: all but the first one of a
// connection that leaves the routes of inspect, or that goes to a handler which does not
// give it back.
func (c *checker) inspect(h *configHandler, next *sequel, place string) {
	const last = "only the first request of a connection is routed"
	c.neverAsked(h.Routes, place)
	leaves := true // a request may be taken by no route
	for i, route := range h.Routes {
		place := fmt.Sprintf("%s/inspect/%d", place, i)
		if c.http2 && names(route.Match, OutcomeHTTP2) && !endsHarmless(route.Handle) {
			c.warn("a connection of HTTP/2 carries many requests, of which none is routed", place,
				"set 'protocols h1' for the server, and leave 'http2' out of the matchers")
		}
		match := httpMatch(route.Match)
		if !leaves || match == never {
			continue
		}
		ends, passes := httpEnds(route.Handle)
		if passes {
			var outer []*configHandler
			outer, passes = next.httpEnds()
			ends = append(ends, outer...)
		}
		for _, end := range ends {
			switch {
			case end.harmless():
			case end.Name == "http_app", end.Name == "relay":
				if h.Until == "line" && end.Reuse == "" {
					c.warn(last+": 'until line' does not wait for heads", place,
						"use 'until headers'; or write 'reuse pin' if nothing depends on the route of later requests", zap.String("handler", end.Name))
				}
			default:
				c.warn(last+": the handler keeps the connection", place,
					"use 'relay' or 'http_app'; or add 'inspected' with outcomes other than http to the matchers if this is no route for HTTP", zap.String("handler", end.Name))
			}
		}
		if passes && c.wrapped {
			c.warn(last+": the rest stays with the wrapped server", place, "end the route with 'http_app'")
		}
		if match == always {
			leaves = false
		}
	}
	for i, route := range h.Routes {
		if names(route.Match, OutcomeOther) && leadsToHTTPApp(route.Handle) {
			c.warn("http_app answers other protocols with 400", fmt.Sprintf("%s/inspect/%d", place, i),
				"leave 'other' out of 'inspected', or use another handler, such as 'relay', for these protocols")
		}
	}
	if n := len(h.Routes); n > 0 && len(h.Routes[n-1].Match) == 0 && !leadsToHTTPApp(h.Routes[n-1].Handle) {
		c.logger.Info("the last route of inspect takes http and tls only; bytes of other protocols reach it with 'inspected other'",
			zap.String("server", c.server), zap.String("route", fmt.Sprintf("%s/inspect/%d", place, n-1)))
	}
	if !leaves {
		return
	}
	ends, passes := next.httpEnds()
	if len(h.Routes) == 0 && !(passes && c.wrapped) && !slices.ContainsFunc(ends, func(h *configHandler) bool { return !h.harmless() }) {
		c.warn("inspect has no routes, and nothing follows that takes a connection", place, "give it routes, as in 'route { … }'")
	}
	for _, end := range ends {
		if !end.harmless() && end.Reuse != "pin" {
			c.warn("a request that no route of inspect takes goes to a later handler with all that follow on its connection", place,
				"end the routes of inspect with one without matchers that holds the handler", zap.String("handler", end.Name))
		}
	}
	if passes && c.wrapped {
		c.warn("a request that no route takes reaches the wrapped server with all that follow on its connection", place,
			"end the routes with 'route { http_app }' to have each routed")
	}
}

// noteLast notes whether no handler follows the inspect that an HTTP request could go to.
func (c *checker) noteLast(h *configHandler, next *sequel) {
	if c.found == nil {
		return // in a listener wrapper the wrapped server follows
	}
	key := inspectKey(h.raw)
	if key == "" {
		c.found.hidden = true
		return
	}
	ends, passes := next.httpEnds()
	last := passes && len(ends) == 0 && !next.any(func(h *configHandler) bool { return h.Name == "tee" })
	if before, known := c.found.last[key]; known {
		last = last && before
	}
	c.found.last[key] = last
}

// relay refuses weights that caddy-l4 takes for others, and warns of upstreams at which
// the server itself listens.
func (c *checker) relay(h *configHandler, place string) error {
	c.upgrades(h, place)
	for _, server := range h.Upstreams {
		if server.Weight != nil {
			if err := upstream.CheckWeight(*server.Weight); err != nil {
				return fmt.Errorf("route %s: upstream %s: weight: %w", place, strings.Join(server.Dial, " "), err)
			}
		}
		for _, dial := range server.Dial {
			if listen, ok := leadsTo(dial, c.listen); ok {
				c.warn("relay sends the stream back to the server it comes from", place,
					"name the address of another server; for a site of this process, bind it to streamprox/<name> and use 'http_app <name>'",
					zap.String("upstream", dial), zap.String("listen", listen))
			}
		}
	}
	return nil
}

func (c *checker) warn(message, place, fix string, fields ...zap.Field) {
	c.logger.Warn(message, append([]zap.Field{
		zap.String("server", c.server),
		zap.String("route", place),
		zap.String("fix", fix),
	}, fields...)...)
}

// httpEnds returns the handlers that may end the chain for an HTTP stream, and whether
// it may also come out at the other end.
func (c *sequel) httpEnds() (ends []*configHandler, passes bool) {
	for ; c != nil; c = c.outer {
		found, passes := httpEnds(c.handlers)
		ends = append(ends, found...)
		if passes {
			found, passes = httpEndsOfRoutes(c.routes)
			ends = append(ends, found...)
		}
		if !passes || c.branch {
			return ends, false
		}
	}
	return ends, true
}

// httpEnds is that of handlers in a row. Another inspect is looked at on its own.
func httpEnds(handlers []configHandler) (ends []*configHandler, passes bool) {
	for i := range handlers {
		switch h := &handlers[i]; h.Name {
		case "tls", "postgres_tls", "proxy_protocol", "throttle", "tee", "vars", "rewrite_head":
		case "subroute":
			found, passes := httpEndsOfRoutes(h.Routes)
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

func httpEndsOfRoutes(routes []configRoute) (ends []*configHandler, passes bool) {
	for _, route := range routes {
		match := httpMatch(route.Match)
		if match == never {
			continue
		}
		found, passes := httpEnds(route.Handle)
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
	return !passes && !slices.ContainsFunc(ends, func(h *configHandler) bool { return !h.harmless() })
}

// harmless reports whether the handler ends the connection after one request at most.
func (h *configHandler) harmless() bool { return h.Name == "close" || h.Name == "http_respond" }

// isOurs reports whether a handler is one of this package that takes connections.
func isOurs(h *configHandler) bool {
	return h.Name == "inspect" || h.Name == "http_app" || h.Name == "relay" || h.Name == "rewrite_head" || h.Name == "http_respond"
}

// any reports whether a handler of the chain is one that is looked for.
func (c *sequel) any(is func(*configHandler) bool) bool {
	for ; c != nil; c = c.outer {
		if anyHandler(c.handlers, is) || anyHandlerOfRoutes(c.routes, is) {
			return true
		}
	}
	return false
}

func anyHandler(handlers []configHandler, is func(*configHandler) bool) bool {
	for i := range handlers {
		h := &handlers[i]
		if is(h) || anyHandlerOfRoutes(h.Routes, is) || anyHandler(h.Branch, is) {
			return true
		}
	}
	return false
}

func anyHandlerOfRoutes(routes []configRoute, is func(*configHandler) bool) bool {
	return slices.ContainsFunc(routes, func(r configRoute) bool { return anyHandler(r.Handle, is) })
}

// frequency is how often matchers match what a check asks about.
type frequency uint8

const (
	never frequency = iota
	sometimes
	always
)

// httpMatch says how often the matcher sets of a route match inspected HTTP requests.
func httpMatch(sets []caddy.ModuleMap) frequency {
	if len(sets) == 0 {
		return always
	}
	best := never
	for _, set := range sets {
		best = max(best, httpMatchOfSet(set))
	}
	return best
}

// httpMatchOfSet is httpMatch of one set.
func httpMatchOfSet(set caddy.ModuleMap) frequency {
	worst := always
	for name, raw := range set {
		match := sometimes
		switch name {
		case "inspected":
			match = never
			if outcomes := outcomesOf(raw); slices.Contains(outcomes, OutcomeHTTP.String()) {
				match = always
			}
		case "not":
			var negated []caddy.ModuleMap
			_ = json.Unmarshal(raw, &negated)
			match = always
			if len(negated) > 0 {
				match = always - httpMatch(negated)
			}
		case "dns", "openvpn", "postgres", "proxy_protocol", "quic", "rdp", "socks4", "socks5", "ssh", "tls", "winbox", "wireguard", "xmpp":
			match = never
		}
		worst = min(worst, match)
	}
	return worst
}

// names reports whether one of the matcher sets names the outcome.
func names(sets []caddy.ModuleMap, outcome Outcome) bool {
	return slices.ContainsFunc(sets, func(set caddy.ModuleMap) bool {
		return slices.Contains(outcomesOf(set["inspected"]), outcome.String())
	})
}

// outcomesOf returns what an inspected matcher names.
func outcomesOf(raw json.RawMessage) (outcomes []string) {
	_ = json.Unmarshal(raw, &outcomes)
	return outcomes
}

// reader returns the name of a matcher that may read bytes of the stream, or "".
func reader(sets []caddy.ModuleMap) string {
	for _, set := range sets {
		for _, name := range sortedKeys(set) {
			switch name {
			case "clock", "inspected", "local_ip", "remote_ip", "remote_ip_list", "vars", "vars_regexp":
			case "not":
				var negated []caddy.ModuleMap
				_ = json.Unmarshal(set[name], &negated)
				if name := reader(negated); name != "" {
					return name
				}
			default:
				return name
			}
		}
	}
	return ""
}

// checkUntilLine refuses matchers and handlers that need what has not arrived when the
// request line alone is awaited.
func (h *Inspect) checkUntilLine() error {
	if !h.head.LineOnly {
		return nil
	}
	for i, route := range h.Routes {
		if name := looksBeyondLine(route.MatcherSetsRaw, route.HandlersRaw); name != "" {
			return fmt.Errorf("route %d: http_request %s needs the header fields, which 'until line' does not wait for; use 'until headers'", i, name)
		}
		if what := needsHead(route.HandlersRaw); what != "" {
			return fmt.Errorf("route %d: %s, which 'until line' does not wait for; use 'until headers'", i, what)
		}
	}
	return nil
}

// looksBeyondLine returns the first HTTP matcher of a route that needs the header
// fields, or "". It looks into caddy-l4's not, and into subroutes at the beginning of
// the handlers: after other handlers the stream may be another one.
func looksBeyondLine(sets []caddy.ModuleMap, handlers []json.RawMessage) string {
	for _, set := range sets {
		var request caddyhttp.RawMatcherSets
		if json.Unmarshal(set["http_request"], &request) == nil {
			if name := needsHeaders(request); name != "" {
				return name
			}
		}
		var negated []caddy.ModuleMap
		if json.Unmarshal(set["not"], &negated) == nil {
			if name := looksBeyondLine(negated, nil); name != "" {
				return name
			}
		}
	}
	for _, raw := range handlers {
		var subroute struct {
			Handler string  `json:"handler"`
			Routes  []Route `json:"routes"`
		}
		if json.Unmarshal(raw, &subroute) != nil || subroute.Handler != "subroute" {
			break
		}
		for _, route := range subroute.Routes {
			if name := looksBeyondLine(route.MatcherSetsRaw, route.HandlersRaw); name != "" {
				return name
			}
		}
	}
	return ""
}

// needsHead says what needs the whole head among the handlers of a route, or "". It
// looks into subroutes, and not beyond another inspect, which reads a head of its own.
func needsHead(handlers []json.RawMessage) string {
	for _, raw := range handlers {
		var handler struct {
			Handler string  `json:"handler"`
			Reuse   string  `json:"reuse"`
			Routes  []Route `json:"routes"`
		}
		if json.Unmarshal(raw, &handler) != nil {
			continue
		}
		switch name, reuse := handler.Handler, handler.Reuse; {
		case name == "inspect":
			return ""
		case name == "rewrite_head":
			return "rewrite_head edits the whole head"
		case name == "relay" && reuse == "close", name == "http_app" && (reuse == "close" || reuse == "reinspect"):
			return name + " with reuse " + reuse + " (which is pin if it is left out) needs the whole head"
		case name == "subroute":
			for _, route := range handler.Routes {
				if what := needsHead(route.HandlersRaw); what != "" {
					return what
				}
			}
		}
	}
	return ""
}

// errHTTP2 refuses a configuration that would turn away every browser.
var errHTTP2 = errors.New("this server offers HTTP/2 on TLS, which no route of inspect takes: set 'protocols h1' for the server, or name the outcome with 'inspected http2' in a route")

// offersALPN reports whether a server offers HTTP/2 on TLS.
func offersALPN(server *caddyhttp.Server) bool {
	offers := false
	for i := range server.Listen {
		offers = offers || slices.Contains(protocolsOf(server, i), "h2")
	}
	return offers && slices.ContainsFunc(server.TLSConnPolicies, func(p *caddytls.ConnectionPolicy) bool {
		return len(p.ALPN) == 0 || slices.Contains(p.ALPN, "h2")
	})
}

// offersHTTP2 reports whether a server takes HTTP/2 on one of its listeners: without
// TLS too, where the client begins with it.
func offersHTTP2(server *caddyhttp.Server) bool {
	for i := range server.Listen {
		if protocols := protocolsOf(server, i); slices.Contains(protocols, "h2") || slices.Contains(protocols, "h2c") {
			return true
		}
	}
	return false
}

// refuseUDP returns an error if the layer4 server around this handler listens for
// datagrams. The server being provisioned is not known to its handlers; it is the
// one whose configuration still holds theirs.
func refuseUDP(ctx caddy.Context) error {
	for _, module := range ctx.Modules() {
		app, ok := module.(*layer4.App)
		if !ok {
			continue
		}
		for name, server := range app.Servers {
			inspects := slices.ContainsFunc(server.Routes, func(r *layer4.Route) bool {
				return slices.ContainsFunc(r.HandlersRaw, containsInspect)
			})
			if !inspects {
				continue
			}
			for _, listen := range server.Listen {
				address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(listen, ""))
				if err == nil && socket.IsDatagram(address.Network) {
					return fmt.Errorf("server %s listens on %s: inspect reads streams, not datagrams; move it to a server that listens on TCP or a Unix socket", name, listen)
				}
			}
		}
	}
	return nil
}

// containsInspect reports whether a JSON value holds an inspect handler.
func containsInspect(raw json.RawMessage) bool {
	var value any
	return json.Unmarshal(raw, &value) == nil && findInspect(value)
}

func findInspect(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		if v["handler"] == "inspect" {
			return true
		}
		for _, inner := range v {
			if findInspect(inner) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, findInspect)
	}
	return false
}

// unboundedNot reports whether one of the sets matches by the absence of a request
// without asking for HTTP.
func unboundedNot(sets []caddy.ModuleMap) bool {
	return slices.ContainsFunc(sets, func(set caddy.ModuleMap) bool {
		var negated []caddy.ModuleMap
		if set["http_request"] != nil || json.Unmarshal(set["not"], &negated) != nil {
			return false
		}
		if !slices.ContainsFunc(negated, func(s caddy.ModuleMap) bool { return s["http_request"] != nil }) {
			return false
		}
		var outcomes []string
		_ = json.Unmarshal(set["inspected"], &outcomes)
		return len(outcomes) != 1 || outcomes[0] != OutcomeHTTP.String()
	})
}
