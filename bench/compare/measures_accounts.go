package main

import (
	"fmt"
	"time"
)

// What it costs to see what goes on. An account of each request and stream is always there, and
// what is counted for metrics; the access log is what a configuration switches on.

// relayWatched is relayRouted with an access log, of which somebody asks for the metrics and a
// page of the streams each second.
const relayWatched = "streamprox inspect, relay: log, metrics, table"

// watched has the two contenders.
var watched = []contender{
	{name: relayRouted, caddyfile: relayCaddyfile("inspect {\n@app http_request path /app/*\nroute @app {\nrelay %s\n}\n}")},
	{name: relayWatched, watched: true, caddyfile: func(p places) string {
		log := fmt.Sprintf("log access {\ninclude streamprox.access\noutput file %s/access-%s.log\n}\nlog default {\nexclude streamprox.access\n}\n",
			p.root, port(p.admin))
		return relayOptionsCaddyfile(p, log, "inspect {\nlog\n@app http_request path /app/*\nroute @app {\nrelay %s\n}\n}")
	}},
}

// accountsIdle returns the name of the measure of idle streams.
func accountsIdle(n int) string { return fmt.Sprintf("accounts, %d idle WebSockets", n) }

// Names of measures.
const (
	accountsRequests = "accounts, requests"
	accountsBulk     = "accounts, bulk transfer"
)

// accountMeasures returns the measures of log, metrics and table against none, in the order in
// which they are taken.
func accountMeasures(s scale) []measure {
	n := s.streams[len(s.streams)-1]
	return []measure{
		{
			kind: "accounts", table: tableHTTP, name: accountsRequests, contenders: watched,
			note: fmt.Sprintf("%d clients, one request at a time on each connection, 1 KiB of content..", s.connections),
			columns: []column{
				{colRate, "%.0f", relayWatched}, {colP50, "%.0f", ""}, {colP99, "%.0f", relayWatched}, {colCPU, "%.1f", relayWatched},
			},
			take: func(b *bench, r *running) ([]float64, error) {
				return b.rates(r, job{Kind: jobExchange, Address: r.requests, Request: requestHead})
			},
		},
		{
			kind: "accounts", table: tableHTTP, name: accountsBulk, contenders: watched,
			note: fmt.Sprintf("%d streams at once, %d MiB on each.", s.parallel, s.bytes>>20),
			columns: []column{
				{colDown, "%.0f", relayWatched}, {colUp, "%.0f", relayWatched},
				{"down GB/s", "%.2f", ""}, {"up GB/s", "%.2f", ""},
			},
			take: (*bench).transfer,
		},
		{
			kind: "accounts", table: tableHTTP, name: accountsIdle(n), contenders: watched, fresh: true,
			note:    "What the process holds for each, as above.",
			columns: idleColumns(relayWatched),
			take: func(b *bench, r *running) ([]float64, error) {
				return b.allIdle(r, resting{what: "WebSockets", job: job{
					Kind: jobHold, Address: r.streams, Request: stream("echo"), Connections: n}})
			},
		},
	}
}

// watch is a goroutine that asks for the metrics and for a page of the streams each second. It
// ends with the process.
func (b *bench) watch(r *running) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		for _, path := range []string{"/metrics", "/streamprox/streams?sort=-bytes"} {
			if _, err := get(b.ctx, r.admin, path); err != nil && b.ctx.Err() == nil {
				select {
				case <-r.done:
					return
				default:
					fmt.Fprintf(b.notes, "%s: %s: %v\n", r.contender.name, path, err)
				}
			}
		}
		select {
		case <-ticker.C:
		case <-r.done:
			return
		}
	}
}
