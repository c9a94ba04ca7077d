package streamprox

import (
	"fmt"
	"maps"
	"slices"
)

// How the checks get about in a configuration: the walk through its routes, and what stands
// before, around and after a route or a handler.

// newRouteList returns the list of the routes of a server or wrapper. All that is in it knows
// where it stands.
func newRouteList(routes []configRoute, prefix string) *routeList {
	list := &routeList{routes: routes, prefix: prefix}
	list.walk(func(n node) bool {
		switch n := n.(type) {
		case *routeList:
			for i := range n.routes {
				n.routes[i].list, n.routes[i].index = n, i
			}
		case *configRoute:
			for i := range n.Handle {
				n.Handle[i].route, n.Handle[i].index = n, i
			}
		case *configHandler:
			switch n.Name {
			case "inspect", "subroute":
				n.inner = &routeList{routes: n.Routes, in: n}
			case "tee":
				n.inner = &routeList{routes: []configRoute{{Handle: n.Branch}}, in: n}
			}
		}
		return true
	})
	return list
}

// node is a routeList, a configRoute or a configHandler.
type node interface {
	// walk calls visit for the node and then, if visit reports true, for all that is in it,
	// in the order in which that is written.
	walk(visit func(node) bool)
}

func (l *routeList) walk(visit func(node) bool) {
	if visit(l) {
		for i := range l.routes {
			l.routes[i].walk(visit)
		}
	}
}

func (r *configRoute) walk(visit func(node) bool) {
	if visit(r) {
		for i := range r.Handle {
			r.Handle[i].walk(visit)
		}
	}
}

func (h *configHandler) walk(visit func(node) bool) {
	if visit(h) && h.inner != nil {
		h.inner.walk(visit)
	}
}

// has reports whether a handler that is looked for is n or in it.
func has(n node, is func(*configHandler) bool) bool {
	found := false
	n.walk(func(n node) bool {
		if h, ok := n.(*configHandler); ok && is(h) {
			found = true
		}
		return !found
	})
	return found
}

// named reports whether a handler has one of the names.
func named(names ...string) func(*configHandler) bool {
	return func(h *configHandler) bool { return slices.Contains(names, h.Name) }
}

// isIn reports whether the list belongs to a handler of that name.
func (l *routeList) isIn(handler string) bool { return l.in != nil && l.in.Name == handler }

// place returns what messages call the route: where it stands, by the numbers of the routes
// and the handlers around it.
func (r *configRoute) place() string {
	list := r.list
	switch {
	case list.in == nil:
		return fmt.Sprintf("%s%d", list.prefix, r.index)
	case list.isIn("tee"):
		return list.in.route.place() + "/tee"
	default:
		return fmt.Sprintf("%s/%s/%d", list.in.route.place(), list.in.Name, r.index)
	}
}

// inInspect reports whether the route is one of inspect, or in a subroute of one.
func (r *configRoute) inInspect() bool {
	for list := r.list; list.in != nil && !list.isIn("tee"); list = list.in.route.list {
		if list.isIn("inspect") {
			return true
		}
	}
	return false
}

// afterInspect reports whether inspect has looked at the connections of the route: it is
// around it, or before it.
func (r *configRoute) afterInspect() bool {
	list := r.list
	for i := range list.routes[:r.index] {
		if inspects(&list.routes[i]) {
			return true
		}
	}
	return list.isIn("inspect") || list.in != nil && list.in.afterInspect()
}

// afterInspect reports whether inspect has looked at the connections of the handler.
func (h *configHandler) afterInspect() bool {
	for i := range h.route.Handle[:h.index] {
		if inspects(&h.route.Handle[i]) {
			return true
		}
	}
	return h.route.afterInspect()
}

// inspects reports whether there is an inspect in n, but for the branches of tee.
func inspects(n node) bool {
	found := false
	n.walk(func(n node) bool {
		h, ok := n.(*configHandler)
		found = found || ok && h.Name == "inspect"
		return !found && !(ok && h.Name == "tee")
	})
	return found
}

// followedBy reports whether a handler that is looked for may get a connection after h.
func (h *configHandler) followedBy(is func(*configHandler) bool) bool {
	rest, later := h.following()
	for i := range rest {
		if has(&rest[i], is) {
			return true
		}
	}
	for i := range later {
		if has(&later[i], is) {
			return true
		}
	}
	around := h.route.list.in
	return around != nil && around.Name != "tee" && around.followedBy(is)
}

// following returns the handlers after h in its route, and the routes after that in its list,
// which get a connection when those have had it. Of the routes of inspect one alone gets it.
func (h *configHandler) following() ([]configHandler, []configRoute) {
	route := h.route
	var later []configRoute
	if !route.list.isIn("inspect") {
		later = route.list.routes[route.index+1:]
	}
	return route.Handle[h.index+1:], later
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
