package main

import (
	"fmt"
	"slices"
)

// webSockets, quiet and keptIdle return the names of measures of connections that rest.
func webSockets(n int) string { return fmt.Sprintf("idle WebSockets, %d", n) }
func quiet(n int) string      { return fmt.Sprintf("quiet responses, %d", n) }
func keptIdle(n int) string   { return fmt.Sprintf("kept and idle, %d", n) }

// proxyMeasures returns the measures beside proxies that understand HTTP, in the order in
// which they are taken.
func proxyMeasures(s scale) []measure {
	var all []measure
	for _, n := range s.streams {
		all = append(all, measure{
			kind: "websockets", table: tableHTTP, name: webSockets(n), contenders: proxies, fresh: true,
			note: "Each was upgraded by the server behind the proxy, and sent four bytes there and back. " +
				"What the proxy's processes hold for each, as above.",
			columns: idleColumns(relayRouted),
			take: func(b *bench, r *running) ([]float64, error) {
				return b.allIdle(r, resting{what: "WebSockets", job: job{
					Kind: jobHold, Address: r.streams, Request: stream("echo"), Connections: n}})
			},
		})
	}
	all = append(all, measure{
		kind: "routed", table: tableHTTP, name: routed, contenders: slices.Concat(proxies, []contender{notRouted}),
		note: fmt.Sprintf("%d clients, one request at a time on each connection, 1 KiB of content. Where the server closes, "+
			"the client connects again, in the time of its next request: %q counts that.", s.connections, colOpened),
		columns: []column{
			{colRate, "%.0f", relayRouted}, {colP50, "%.0f", ""}, {colP99, "%.0f", relayRouted},
			{colCPU, "%.1f", relayRouted}, {colOpened, "%.3f", ""},
		},
		take: (*bench).routed,
	})
	for _, n := range s.streams {
		all = append(all, measure{
			kind: "quiet", table: tableHTTP, name: quiet(n), contenders: proxies, fresh: true,
			note:    "Streams of events that have sent their head and then nothing. What the processes hold for each, as above.",
			columns: idleColumns(relayRouted),
			take: func(b *bench, r *running) ([]float64, error) {
				return b.allIdle(r, resting{what: "quiet", job: job{
					Kind: jobQuiet, Address: r.streams, Request: eventsHead, Connections: n}})
			},
		})
	}
	n := s.streams[0] // since it takes a while
	return append(all, measure{
		kind: "kept", table: tableHTTP, name: keptIdle(n), contenders: slices.Concat(proxies, []contender{inspectApp, ownListener}), fresh: true,
		note: fmt.Sprintf("Connections of clients that have carried one request, %s later. What the processes hold for each, "+
			"those to the server behind included. A client closes its connection if the response says so.", s.rest),
		columns: append(idleColumns(relayRouted), column{colKept, "%.2f", ""}),
		take: func(b *bench, r *running) ([]float64, error) {
			each, open, err := b.idle(r, resting{what: "kept", wait: b.rest, job: job{
				Kind: jobHold, Address: r.answers(), Request: requestHead, Connections: n}})
			return []float64{each.memory, each.descriptors, each.goroutines, float64(open) / float64(n)}, err
		},
	})
}

// routed runs exchanges on connections that are kept as long as the server keeps them.
func (b *bench) routed(r *running) ([]float64, error) {
	done, err := b.exchange(r, job{Kind: jobExchange, Address: r.requests, Request: requestHead})
	return append(done.rates(), float64(done.Opened)/float64(done.Exchanges)), err
}
