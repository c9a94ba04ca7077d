package streamprox

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
)

// What the checks look at: the routes of layer4 as configured. The JSON is read leniently:
// loading the modules reports what is wrong in it.

// layer4Server is a server of layer4, or a layer4 listener wrapper.
type layer4Server struct {
	Listen []string      `json:"listen"`
	Routes []configRoute `json:"routes"`
}

// layer4Wrapper is a layer4 listener wrapper.
type layer4Wrapper struct {
	layer4Server
	beforeTLS bool // it sees TLS and not what is inside
}

// routeList is a list of routes: of a server or listener wrapper, of inspect or subroute; or
// the branch of tee, as a single route without matchers.
type routeList struct {
	routes []configRoute
	in     *configHandler // nil: that of a server or wrapper
	prefix string         // of the places in it, in a wrapper that is not the only one
}

// configRoute is a route of a list.
type configRoute struct {
	Match  []caddy.ModuleMap `json:"match"`
	Handle []configHandler   `json:"handle"`

	list  *routeList
	index int
}

// configHandler is a handler of a route, with those of its fields that the checks need.
type configHandler struct {
	Name        string           `json:"handler"`
	Routes      []configRoute    `json:"routes"`       // of inspect and subroute
	Branch      []configHandler  `json:"branch"`       // of tee
	Until       string           `json:"until"`        // of inspect
	Reuse       string           `json:"reuse"`        // of relay and http_app
	Listener    string           `json:"listener"`     // of http_app
	Upgrade     []string         `json:"upgrade"`      // of relay
	Upstreams   []configUpstream `json:"upstreams"`    // of relay
	StripPrefix string           `json:"strip_prefix"` // of rewrite_head

	raw   json.RawMessage
	inner *routeList // of inspect, subroute and tee
	route *configRoute
	index int
	live  layer4.NextHandler // of this package, once it is being provisioned; else nil
}

// configUpstream is an upstream of relay.
type configUpstream struct {
	Dial   []string `json:"dial"`
	Weight *int     `json:"weight"`
}

// parseLayer4 returns the servers of the layer4 app.
func parseLayer4(raw json.RawMessage) map[string]layer4Server {
	var app struct {
		Servers map[string]layer4Server `json:"servers"`
	}
	_ = json.Unmarshal(raw, &app)
	return app.Servers
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
			_ = json.Unmarshal(raw, &wrapper.layer4Server)
			wrappers = append(wrappers, wrapper)
		}
	}
	return wrappers
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

// configured returns the routes of an inspect that has not been provisioned.
func (h *Inspect) configured() *routeList {
	routes := make([]configRoute, len(h.Routes))
	for i, route := range h.Routes {
		routes[i].Match = route.MatcherSetsRaw
		routes[i].Handle = make([]configHandler, len(route.HandlersRaw))
		for j, raw := range route.HandlersRaw {
			_ = json.Unmarshal(raw, &routes[i].Handle[j])
		}
	}
	return newRouteList(routes, "")
}

// name returns what one of layer4's own routes is called.
func (r *configRoute) name() string { return strconv.Itoa(r.index) }
