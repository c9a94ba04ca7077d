package main

import "fmt"

// goal is what a column should show: that a contender's number, or with a peer its ratio to
// the peer's, is at most or at least a limit.
type goal struct {
	table, measure, column string
	contender, peer        string
	atLeast                bool
	limit                  float64
	more                   bool // the limit is of how much more it is than the peer's, and no ratio
}

// goals returns the goals of a run in which so many streams were idle.
func goals(s scale) []goal {
	var all []goal
	for _, n := range s.streams {
		for _, relay := range []string{relayPin, relayClose, relayBare} {
			all = append(all,
				goal{table: tableRelay, measure: idle(n), column: colMemory, contender: relay, limit: 1.5},
				goal{table: tableRelay, measure: idle(n), column: colFDs, contender: relay, limit: 2.01},
				goal{table: tableRelay, measure: idle(n), column: colGoroutines, contender: relay, limit: .01},
			)
		}
		for _, app := range []string{appReinspect, appPin} {
			all = append(all, goal{table: tableApp, measure: idle(n), column: colMemory, contender: app, peer: native, limit: 1.05})
		}
	}
	for _, n := range s.streams {
		all = append(all,
			goal{table: tableHTTP, measure: webSockets(n), column: colMemory, contender: relayRouted, limit: 1.5},
			goal{table: tableHTTP, measure: webSockets(n), column: colFDs, contender: relayRouted, limit: 2.01},
			goal{table: tableHTTP, measure: webSockets(n), column: colGoroutines, contender: relayRouted, limit: .01},
		)
	}
	for _, n := range s.crowds {
		all = append(all,
			goal{table: tableHTTP, measure: crowd(n), column: colRateAlone, contender: relayRouted, atLeast: true, limit: .9},
			goal{table: tableHTTP, measure: crowd(n), column: colCPUAlone, contender: relayRouted, limit: 1.1},
		)
	}
	for _, c := range []string{relayRouted, appReinspect} {
		n := s.streams[0]
		all = append(all,
			goal{table: tableHTTP, measure: keptIdle(n), column: colKept, contender: c, atLeast: true, limit: 1},
			goal{table: tableHTTP, measure: keptIdle(n), column: colFDs, contender: c, limit: 1.01},
			goal{table: tableHTTP, measure: keptIdle(n), column: colGoroutines, contender: c, limit: .01},
		)
	}
	all = append(all,
		goal{table: tableRelay, measure: transfers, column: colDown, contender: relayPin, peer: proxyBare, limit: .5},
		goal{table: tableRelay, measure: transfers, column: colUp, contender: relayPin, peer: proxyBare, limit: .25},
	)
	all = append(all,
		goal{table: tableHTTP, measure: accountsRequests, column: colRate, contender: relayWatched, peer: relayRouted, atLeast: true, limit: .97},
		goal{table: tableHTTP, measure: accountsBulk, column: colDown, contender: relayWatched, peer: relayRouted, limit: 1.03},
		goal{table: tableHTTP, measure: accountsBulk, column: colUp, contender: relayWatched, peer: relayRouted, limit: 1.03},
		goal{table: tableHTTP, measure: accountsIdle(s.streams[len(s.streams)-1]), column: colMemory, contender: relayWatched, peer: relayRouted, limit: .25, more: true},
	)
	for _, haproxy := range []string{haproxyCopy, haproxySplice} {
		all = append(all,
			goal{table: tableRelay, measure: transfers, column: colDown, contender: relayPin, peer: haproxy, limit: .4},
			goal{table: tableRelay, measure: transfers, column: colUp, contender: relayPin, peer: haproxy, limit: .4},
		)
	}
	all = append(all,
		goal{table: tableRelay, measure: kept, column: colRate, contender: relayPin, peer: haproxyCopy, atLeast: true, limit: 1},
		goal{table: tableRelay, measure: kept, column: colP99, contender: relayPin, peer: haproxyCopy, limit: 1},
	)
	for _, relay := range []string{relayPin, relayClose, relayBare} {
		all = append(all, goal{table: tableRelay, measure: connections, column: colRate, contender: relay, peer: haproxyCopy, atLeast: true, limit: 1})
	}
	for _, n := range []int{1, s.connections} {
		all = append(all,
			goal{table: tableRelay, measure: echo(n), column: colP50, contender: relayPin, peer: haproxyCopy, limit: 1},
			goal{table: tableRelay, measure: echo(n), column: colP99, contender: relayPin, peer: haproxyCopy, limit: 1},
		)
	}
	for _, app := range []string{appReinspect, appPin} {
		all = append(all,
			goal{table: tableApp, measure: connections, column: colRate, contender: app, peer: native, atLeast: true, limit: 1},
			goal{table: tableApp, measure: kept, column: colRate, contender: app, peer: native, atLeast: true, limit: .98},
			goal{table: tableApp, measure: downloads, column: colFile, contender: app, peer: native, limit: 1.05},
			goal{table: tableApp, measure: downloads, column: colSendfile, contender: app, peer: native, limit: 1.05},
		)
	}
	return all
}

// judged is a goal with what was measured.
type judged struct {
	Measure, Column, Contender string
	Goal                       string
	Got                        float64
	Met                        bool
}

// String returns the limit of the goal, as it is printed.
func (g goal) String() string {
	text := fmt.Sprintf("at most %.4g", g.limit)
	if g.atLeast {
		text = fmt.Sprintf("at least %.4g", g.limit)
	}
	switch {
	case g.more:
		text += " more than " + g.peer
	case g.peer != "":
		text += " × " + g.peer
	}
	return text
}

// judge compares the goals with what was measured. Those whose numbers are missing are
// left out.
func judge(s scale, all []measured) []judged {
	var list []judged
	for _, g := range goals(s) {
		got, ok := value(all, g, g.contender)
		if !ok {
			continue
		}
		if g.peer != "" {
			peer, ok := value(all, g, g.peer)
			if !ok {
				continue
			}
			if g.more {
				got -= peer
			} else {
				got /= peer
			}
		}
		met := got <= g.limit
		if g.atLeast {
			met = got >= g.limit
		}
		list = append(list, judged{g.table + ": " + g.measure, g.column, g.contender, g.String(), got, met})
	}
	return list
}

// value returns a contender's number for a goal.
func value(all []measured, g goal, contender string) (float64, bool) {
	for _, m := range all {
		if m.Table != g.table || m.Measure != g.measure {
			continue
		}
		for i, c := range m.columns {
			if c.name != g.column {
				continue
			}
			for _, r := range m.Rows {
				if r.Contender == contender {
					return r.Median[i], true
				}
			}
		}
	}
	return 0, false
}
