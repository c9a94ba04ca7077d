package streamprox

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
)

// What inspect refuses or warns of when a configuration is loaded.

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

// leavesRequests reports whether requests of a wrapped server may be taken by no route:
// they reach the server together with all that follow on their connection.
func (h *Inspect) leavesRequests(ctx caddy.Context) bool {
	return ctx.Value(caddyhttp.ServerCtxKey) != nil &&
		!slices.ContainsFunc(h.Routes, func(r *Route) bool { return len(r.MatcherSetsRaw) == 0 })
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

// checkHTTP2 refuses a configuration that would turn away every browser: as a
// listener wrapper after TLS, on a server that offers HTTP/2, without a route for it.
func (h *Inspect) checkHTTP2(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || !slices.Contains(server.Protocols, "h2") || wrapsBeforeTLS(server) {
		return nil
	}
	if slices.ContainsFunc(h.Routes, func(r *Route) bool { return r.names(OutcomeHTTP2) }) {
		return nil
	}
	for _, policy := range server.TLSConnPolicies {
		if len(policy.ALPN) == 0 || slices.Contains(policy.ALPN, "h2") {
			return errors.New("this server offers HTTP/2 on TLS, which no route of inspect takes: set 'protocols h1' for the server, or name the outcome with 'inspected http2' in a route")
		}
	}
	return nil
}

// wrapsBeforeTLS reports whether the layer4 wrappers of the server that inspect stand
// before its TLS wrapper, so that they see TLS and not what is inside. Without a TLS
// wrapper, Caddy puts TLS before all of them.
func wrapsBeforeTLS(server *caddyhttp.Server) bool {
	wrappers := server.ListenerWrappersRaw
	tls := slices.IndexFunc(wrappers, func(raw json.RawMessage) bool {
		var wrapper struct {
			Name string `json:"wrapper"`
		}
		return json.Unmarshal(raw, &wrapper) == nil && wrapper.Name == "tls"
	})
	return tls >= 0 && !slices.ContainsFunc(wrappers[tls:], containsInspect)
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
				if err == nil && isDatagram(address.Network) {
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

// isDatagram reports whether connections on that network carry datagrams.
func isDatagram(network string) bool {
	return strings.HasPrefix(network, "udp") || network == "unixgram" || network == "fdgram" || strings.HasPrefix(network, "ip")
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
