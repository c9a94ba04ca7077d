package streamprox

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What an inspect with `until line` cannot have in its routes: it has read the request line
// alone, and no header fields.

// checkUntilLine refuses matchers and handlers that need what has not arrived when the
// request line alone is awaited.
func (h *Inspect) checkUntilLine() error {
	if !h.head.LineOnly {
		return nil
	}
	for i, route := range h.configured().routes {
		if name := route.matchesFields(); name != "" {
			return fmt.Errorf("route %d: http_request %s needs the header fields, which 'until line' does not wait for; use 'until headers'", i, name)
		}
		if what := route.needsHead(); what != "" {
			return fmt.Errorf("route %d: %s, which 'until line' does not wait for; use 'until headers'", i, what)
		}
	}
	return nil
}

// matchesFields returns the first HTTP matcher of the route that needs the header fields, or
// "". It looks into subroutes at the beginning of the handlers: after other handlers the
// stream may be another one.
func (r *configRoute) matchesFields() string {
	if name := fieldsIn(r.Match); name != "" {
		return name
	}
	for i := range r.Handle {
		h := &r.Handle[i]
		if h.Name != "subroute" {
			break
		}
		for j := range h.inner.routes {
			if name := h.inner.routes[j].matchesFields(); name != "" {
				return name
			}
		}
	}
	return ""
}

// fieldsIn returns the first HTTP matcher of the sets that needs the header fields, or "".
func fieldsIn(sets []caddy.ModuleMap) string {
	for _, set := range sets {
		var request caddyhttp.RawMatcherSets
		if json.Unmarshal(set["http_request"], &request) == nil {
			if name := needsHeaders(request); name != "" {
				return name
			}
		}
		if name := fieldsIn(negatedIn(set)); name != "" {
			return name
		}
	}
	return ""
}

// needsHead says what needs the whole head among the handlers of the route, or "". It looks
// into subroutes, and not beyond another inspect, which reads a head of its own.
func (r *configRoute) needsHead() string {
	for i := range r.Handle {
		switch h := &r.Handle[i]; h.Name {
		case "inspect":
			return ""
		case "rewrite_head":
			return "rewrite_head edits the whole head"
		case "relay", "http_app":
			if h.Reuse == "close" || h.Reuse == "reinspect" {
				return h.Name + " with reuse " + h.Reuse + " (which is pin if it is left out) needs the whole head"
			}
		case "subroute":
			for j := range h.inner.routes {
				if what := h.inner.routes[j].needsHead(); what != "" {
					return what
				}
			}
		}
	}
	return ""
}
