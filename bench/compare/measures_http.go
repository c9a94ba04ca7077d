package main

import (
	"fmt"
	"slices"
	"time"
)

// webSockets, quiet and keptIdle return the names of measures of connections that rest.
func webSockets(n int) string { return fmt.Sprintf("idle WebSockets, %d", n) }
func quiet(n int) string      { return fmt.Sprintf("quiet responses, %d", n) }
func keptIdle(n int) string   { return fmt.Sprintf("kept and idle, %d", n) }

// crowd returns the name of the measure of requests on a few of many connections.
func crowd(n int) string { return fmt.Sprintf("requests on few of %d kept connections", n) }

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
	for _, n := range s.crowds {
		all = append(all, crowdMeasure(n, s.busy()))
	}
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

// busy returns how many connections of a crowd carry requests: 1 % of the largest crowd, so
// that only those that rest are more in one crowd than in another.
func (s scale) busy() int { return max(slices.Max(s.crowds)/100, 1) }

// crowdMeasure is of n kept connections, some of them busy.
func crowdMeasure(n, busy int) measure {
	return measure{
		kind: "crowd", table: tableHTTP, name: crowd(n), contenders: crowded, fresh: true,
		note: fmt.Sprintf("%d clients as above, beside %d kept connections that have carried one request, and rest. "+
			"Alone: the same clients, and a process without the others; in turns, %d of each.", busy, n-busy, pairs),
		columns: []column{
			{colRate, "%.0f", relayRouted}, {colP99, "%.0f", relayRouted}, {colCPU, "%.1f", relayRouted},
			{colRateAlone, "%.3f", ""}, {colCPUAlone, "%.3f", ""},
		},
		take: func(b *bench, r *running) ([]float64, error) { return b.crowd(r, n, busy) },
	}
}

// pairs is how many times a crowd, and the same clients alone, are measured in turn.
const pairs = 3

// crowd runs exchanges on some of n kept connections, and in turn on as many of another
// process, which has no others.
func (b *bench) crowd(r *running, n, busy int) ([]float64, error) {
	alone, err := b.start(r.contender)
	if err != nil {
		return nil, err
	}
	defer alone.stop()
	resting, _, err := startLoad(b.ctx, job{Kind: jobHold, Address: r.requests, Request: requestHead, Connections: n - busy})
	if err != nil {
		return nil, err
	}
	defer resting.close()
	select {
	case <-time.After(b.rest): // for connections to the server behind, which are not kept as long
	case <-b.ctx.Done():
		return nil, b.ctx.Err()
	}
	load := func(r *running) ([]float64, error) {
		return b.rates(r, job{Kind: jobExchange, Address: r.requests, Request: requestHead, Connections: busy})
	}
	var rates, p99s, costs, rateRatios, costRatios []float64
	for range pairs {
		with, err := load(r)
		if err != nil {
			return nil, err
		}
		without, err := load(alone)
		if err != nil {
			return nil, err
		}
		rates, p99s, costs = append(rates, with[0]), append(p99s, with[2]), append(costs, with[3])
		rateRatios, costRatios = append(rateRatios, with[0]/without[0]), append(costRatios, with[3]/without[3])
	}
	if b.profiles != "" {
		if err := b.profile(crowd(n), r, func() error { _, err := load(r); return err }); err != nil {
			return nil, err
		}
	}
	if open := resting.close(); open < n-busy {
		return nil, fmt.Errorf("of %d resting connections %d were still open", n-busy, open)
	}
	return []float64{median(rates), median(p99s), median(costs), median(rateRatios), median(costRatios)}, nil
}
