package streamprox

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Deliveries of http_app that lead back to the server they come from.

// handOver is a delivery by an http_app handler in a listener wrapper.
type handOver struct {
	from, to string // servers
	listener string // as the handler names it
}

// checkHandOvers refuses deliveries that come back to the server they come from: its
// wrapper would deliver them again, without end. delivered holds, by server, what the
// http_app handlers in its listener wrappers name.
func checkHandOvers(app *caddyhttp.App, delivered map[string][]string) error {
	bound := boundListeners(app)
	overs := make(map[string][]handOver)
	for from, listeners := range delivered {
		for _, listener := range listeners {
			for _, b := range bound {
				if listener == b.name || listener == b.address() {
					overs[from] = append(overs[from], handOver{from, b.server, listener})
				}
			}
		}
	}
	for _, server := range sortedKeys(overs) {
		cycle := findCycle(overs, server, server, make(map[string]bool))
		if cycle == nil {
			continue
		}
		steps := make([]string, len(cycle))
		for i, over := range cycle {
			steps[i] = fmt.Sprintf("'http_app %s' in the listener wrapper of server %s (%s) delivers to server %s (%s)",
				over.listener, over.from, strings.Join(app.Servers[over.from].Listen, " "),
				over.to, strings.Join(app.Servers[over.to].Listen, " "))
		}
		return fmt.Errorf("a hand-over leads back to itself: %s; its wrapper would deliver again, without end: give the wrapper to the outer server alone, as in 'servers %s { listener_wrappers … }'",
			strings.Join(steps, ", and "), outerAddress(app, delivered))
	}
	return nil
}

// findCycle returns the deliveries that lead from a server to the one called back, or nil.
func findCycle(overs map[string][]handOver, from, back string, seen map[string]bool) []handOver {
	for _, over := range overs[from] {
		if over.to == back {
			return []handOver{over}
		}
		if seen[over.to] {
			continue
		}
		seen[over.to] = true
		if rest := findCycle(overs, over.to, back, seen); rest != nil {
			return append([]handOver{over}, rest...)
		}
	}
	return nil
}

// outerAddress returns the address of a server with a wrapper that clients can connect
// to.
func outerAddress(app *caddyhttp.App, delivered map[string][]string) string {
	for _, name := range sortedKeys(delivered) {
		for _, address := range listenAddresses(app.Servers[name].Listen) {
			if len(delivered[name]) > 0 && address.Network != networkName {
				return address.String()
			}
		}
	}
	return "<address>"
}
