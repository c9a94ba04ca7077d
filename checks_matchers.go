package streamprox

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// What the matchers of a route match, as far as their configuration tells, and those that
// match nothing.

// outcomesUnknown warns of matchers that ask for an outcome where inspect has not been.
func (c *checker) outcomesUnknown(r *configRoute) {
	if !r.afterInspect() && slices.ContainsFunc(r.Match, asksOutcome) {
		c.warn(r, "'inspected' asks for the outcome of an inspection where there was none", "put the route into 'inspect { … }'")
	}
}

// matchersExclude warns of matchers of one set that match no connection together.
func (c *checker) matchersExclude(r *configRoute) {
	for _, set := range r.Match {
		if set["http_request"] == nil || httpMatchOfSet(set) != never {
			continue
		}
		fix := "give each a name of its own, and write both names after 'route' if one is to match"
		if set["tls"] != nil {
			fix = "TLS that is passed through shows no request: take it in a route with 'tls' as matcher and handler, and ask for the request in a route after that"
		}
		c.warn(r, "matchers of one set exclude each other: the others match no HTTP request", fix, zap.Strings("matchers", sortedKeys(set)))
	}
}

// asksOutcome reports whether a matcher set asks for the outcome of an inspection.
func asksOutcome(set caddy.ModuleMap) bool {
	return set["inspected"] != nil || slices.ContainsFunc(negatedIn(set), asksOutcome)
}

// unboundedNot reports whether one of the sets matches because there is no such request,
// without asking whether there is HTTP at all.
func unboundedNot(sets []caddy.ModuleMap) bool {
	return slices.ContainsFunc(sets, func(set caddy.ModuleMap) bool {
		return set["http_request"] == nil &&
			slices.ContainsFunc(negatedIn(set), func(s caddy.ModuleMap) bool { return s["http_request"] != nil }) &&
			!slices.Equal(outcomesOf(set["inspected"]), []string{opening.HTTP.String()})
	})
}

// negatedIn returns the sets that a matcher set holds in a not.
func negatedIn(set caddy.ModuleMap) (sets []caddy.ModuleMap) {
	_ = json.Unmarshal(set["not"], &sets)
	return sets
}

// outcomesOf returns what an inspected matcher names.
func outcomesOf(raw json.RawMessage) (outcomes []string) {
	_ = json.Unmarshal(raw, &outcomes)
	return outcomes
}

// frequency is how often matchers match what a check asks about.
type frequency uint8

const (
	never frequency = iota
	sometimes
	always
)

// httpMatch says how often a route gets HTTP requests that inspect has read.
func (r *configRoute) httpMatch() frequency {
	if len(r.Match) == 0 {
		return always
	}
	return httpMatchOfAny(r.Match)
}

// httpMatchOfAny says how often one of the matcher sets matches HTTP requests.
func httpMatchOfAny(sets []caddy.ModuleMap) frequency {
	best := never
	for _, set := range sets {
		best = max(best, httpMatchOfSet(set))
	}
	return best
}

// httpMatchOfSet says how often a matcher set matches HTTP requests.
func httpMatchOfSet(set caddy.ModuleMap) frequency {
	worst := always
	for name, raw := range set {
		match := sometimes
		switch name {
		case "inspected":
			match = never
			if slices.Contains(outcomesOf(raw), opening.HTTP.String()) {
				match = always
			}
		case "not":
			match = always - httpMatchOfAny(negatedIn(set))
		case "dns", "openvpn", "postgres", "proxy_protocol", "quic", "rdp", "socks4", "socks5", "ssh", "tls", "winbox", "wireguard", "xmpp":
			match = never
		}
		worst = min(worst, match)
	}
	return worst
}

// names reports whether one of the route's matcher sets names the outcome.
func (r *configRoute) names(outcome opening.Outcome) bool {
	return slices.ContainsFunc(r.Match, func(set caddy.ModuleMap) bool {
		return slices.Contains(outcomesOf(set["inspected"]), outcome.String())
	})
}

// reader returns the name of a matcher that may read bytes of the stream, or "".
func reader(sets []caddy.ModuleMap) string {
	for _, set := range sets {
		for _, name := range sortedKeys(set) {
			switch name {
			case "clock", "inspected", "local_ip", "remote_ip", "remote_ip_list", "vars", "vars_regexp":
			case "not":
				if name := reader(negatedIn(set)); name != "" {
					return name
				}
			default:
				return name
			}
		}
	}
	return ""
}

// openOutcomes are those that a route of inspect takes unless it names others.
var openOutcomes = []string{opening.HTTP.String(), opening.TLS.String()}

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
			outcomes = slices.DeleteFunc(outcomes, func(o string) bool { return o != opening.HTTP.String() })
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
func outcomesTaken(r *configRoute) (outcomes []string) {
	if len(r.Match) == 0 {
		return openOutcomes
	}
	for _, set := range r.Match {
		if len(set) == 1 {
			outcomes = append(outcomes, outcomesOf(set["inspected"])...)
		}
	}
	if r.httpMatch() == always {
		outcomes = append(outcomes, opening.HTTP.String())
	}
	return outcomes
}
