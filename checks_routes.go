package streamprox

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// Routes that no connection reaches, because earlier ones of their list take all that they
// match.

// neverAsked warns of the routes of a list that no connection reaches.
func (c *checker) neverAsked(list *routeList) {
	takenBy := c.takenByRoute
	if list.isIn("inspect") {
		takenBy = takenByInspect()
	}
	for i := range list.routes {
		if earlier := takenBy(&list.routes[i]); earlier != nil {
			c.warn(&list.routes[i], "a route is never asked: an earlier one takes all that it matches", "put it before the other, or leave it out",
				zap.String("earlier", earlier.place()))
		}
	}
}

// takenByRoute returns the earlier route of a list of layer4 that takes all that a route
// matches, and keeps it; or nil.
func (c *checker) takenByRoute(r *configRoute) *configRoute {
	for i := range r.list.routes[:r.index] {
		earlier := &r.list.routes[i]
		keeps := slices.ContainsFunc(earlier.Handle, func(h configHandler) bool { return c.ends(&h) })
		if keeps && earlier.takesAllOf(r) {
			return earlier
		}
	}
	return nil
}

// takesAllOf reports whether a route of layer4 takes all connections that a later one matches.
func (r *configRoute) takesAllOf(later *configRoute) bool {
	if len(r.Match) == 0 {
		// It waits for routes before it that need more bytes, and those after it are asked
		// meanwhile.
		return !slices.ContainsFunc(r.list.routes[:r.index], func(r configRoute) bool { return reader(r.Match) != "" })
	}
	return len(later.Match) > 0 && all(later.Match, func(set caddy.ModuleMap) bool {
		return slices.ContainsFunc(r.Match, func(e caddy.ModuleMap) bool { return includes(set, e, "") })
	})
}

// takenByInspect returns a function that is called for each route of inspect, in order. It
// returns the last of the earlier routes that together take all that this one matches, or
// nil.
func takenByInspect() func(*configRoute) *configRoute {
	taken := make(map[string]int) // outcomes, by the route that takes all of each
	return func(r *configRoute) *configRoute {
		by := lastTaking(r, taken)
		for _, outcome := range outcomesTaken(r) {
			if _, ok := taken[outcome]; !ok {
				taken[outcome] = r.index
			}
		}
		if by < 0 {
			return nil
		}
		return &r.list.routes[by]
	}
}

// lastTaking returns the last of the earlier routes that together take all that a route of
// inspect matches, or -1.
func lastTaking(r *configRoute, taken map[string]int) int {
	sets := r.Match
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
			by = slices.IndexFunc(r.list.routes[:r.index], func(earlier configRoute) bool {
				return slices.ContainsFunc(earlier.Match, func(e caddy.ModuleMap) bool { return covers(e, set) })
			})
		}
		if by < 0 {
			return -1
		}
		last = max(last, by)
	}
	return last
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
		return all(outcomes, func(o string) bool { return slices.Contains(bound, o) })
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

// all reports whether something holds for all of s.
func all[E any](s []E, holds func(E) bool) bool {
	return !slices.ContainsFunc(s, func(e E) bool { return !holds(e) })
}
