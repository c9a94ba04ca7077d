package main

import (
	"fmt"
	"strings"
)

// measure is one table: what is done with each contender, and what is read.
type measure struct {
	kind       string // as -only names it
	table      string // relay, HTTP proxies or hand-off
	name       string
	note       string // what it means, under its title
	columns    []column
	contenders []contender

	// fresh says that every sample needs a new process.
	fresh bool

	// take returns a value for each column.
	take func(*bench, *running) ([]float64, error)
}

// title returns what the measure is called.
func (m measure) title() string { return m.table + ": " + m.name }

// column is one number of a measure.
type column struct {
	name   string
	format string

	// against is the contender that the ratios of the column compare with the others.
	// Without one there are none.
	against string
}

// Names of measures and columns to which goals refer.
const (
	tableRelay = "relay"
	tableHTTP  = "HTTP proxies"
	tableApp   = "hand-off"

	transfers   = "bulk transfer"
	kept        = "requests on kept connections"
	connections = "new connections"
	downloads   = "download of a file"
	routed      = "requests on kept connections, each routed"

	colMemory     = "KiB"
	colFDs        = "descriptors"
	colGoroutines = "goroutines"
	colDown       = "down CPU ms/GB"
	colUp         = "up CPU ms/GB"
	colRate       = "per second"
	colP50        = "p50 µs"
	colP99        = "p99 µs"
	colCPU        = "CPU µs each"
	colFile       = "CPU ms/GB"
	colSendfile   = "with sendfile, CPU ms/GB"
	colOpened     = "connections each"
	colKept       = "still open"
	colRateAlone  = "rate ÷ alone"
	colCPUAlone   = "CPU ÷ alone"
)

// idle returns the name of the measure of idle streams.
func idle(n int) string { return fmt.Sprintf("memory, %d idle", n) }

// echo returns the name of the measure of round trips.
func echo(streams int) string { return fmt.Sprintf("echo of one byte, streams: %d", streams) }

// measures returns all measures in the order in which they are taken.
func measures(s scale) []measure {
	reusing := withoutOnce(relays)
	var all []measure
	for _, n := range s.streams {
		all = append(all, measure{
			kind: "memory", table: tableRelay, name: idle(n), contenders: relays, fresh: true,
			note: "Each stream opened as a WebSocket and sent four bytes there and back. What the relay's process " +
				"holds for each: resident anonymous memory, after two garbage collections where it is Caddy.",
			columns: idleColumns(relayPin),
			take: func(b *bench, r *running) ([]float64, error) {
				return b.allIdle(r, resting{what: "idle", job: job{
					Kind: jobHold, Address: r.streams, Request: stream("echo"), Connections: n}})
			},
		})
	}
	all = append(all,
		measure{
			kind: "cpu", table: tableRelay, name: transfers, contenders: relays,
			note: fmt.Sprintf("%d streams at once, %d MiB on each. Processor time of the relay alone.",
				s.parallel, s.bytes>>20),
			columns: []column{
				{colDown, "%.0f", relayPin}, {colUp, "%.0f", relayPin},
				{"down GB/s", "%.2f", ""}, {"up GB/s", "%.2f", ""},
			},
			take: (*bench).transfer,
		},
		measure{
			kind: "rates", table: tableRelay, name: kept, contenders: reusing,
			note: fmt.Sprintf("%d connections, one request at a time on each, 1 KiB of content.", s.connections),
			columns: []column{
				{colRate, "%.0f", relayPin}, {colP50, "%.0f", ""}, {colP99, "%.0f", relayPin}, {colCPU, "%.1f", relayPin},
			},
			take: func(b *bench, r *running) ([]float64, error) {
				return b.rates(r, job{Kind: jobExchange, Address: r.requests, Request: requestHead})
			},
		},
		measure{
			kind: "rates", table: tableRelay, name: connections, contenders: relays,
			note: "32 clients: connect, one request, its response, close.",
			columns: []column{
				{colRate, "%.0f", relayClose}, {colP50, "%.0f", ""}, {colP99, "%.0f", relayClose}, {colCPU, "%.1f", relayClose},
			},
			take: func(b *bench, r *running) ([]float64, error) {
				return b.rates(r, job{Kind: jobConnect, Address: r.requests, Request: requestHead,
					Connections: min(32, b.connections)})
			},
		},
	)
	for _, n := range []int{1, s.connections} {
		all = append(all, measure{
			kind: "echo", table: tableRelay, name: echo(n), contenders: relays,
			note: "One byte there and back on each established stream, one at a time.",
			columns: []column{
				{colP50, "%.1f", relayPin}, {colP99, "%.1f", relayPin}, {colCPU, "%.2f", relayPin},
			},
			take: func(b *bench, r *running) ([]float64, error) {
				values, err := b.rates(r, job{Kind: jobExchange, Address: r.streams,
					Request: stream("echo"), Connections: n})
				if err != nil {
					return nil, err
				}
				return values[1:], nil
			},
		})
	}
	all = append(all, proxyMeasures(s)...)
	all = append(all, accountMeasures(s)...)
	for _, n := range s.streams {
		all = append(all, measure{
			kind: "memory", table: tableApp, name: idle(n), contenders: apps, fresh: true,
			note:    "Each connection carried one request and is kept. What the process holds for each, as above.",
			columns: idleColumns(appReinspect),
			take: func(b *bench, r *running) ([]float64, error) {
				return b.allIdle(r, resting{what: "idle", job: job{
					Kind: jobHold, Address: r.site, Request: requestHead, Connections: n}})
			},
		})
	}
	return append(all,
		measure{
			kind: "cpu", table: tableApp, name: downloads, contenders: apps,
			note: fmt.Sprintf("file_server, %d connections at once, a file of %d MiB, %d MiB on each. "+
				"With sendfile: the server has write_idle -1s.", s.parallel, s.file>>20, s.bytes>>20),
			columns: []column{{colFile, "%.0f", appReinspect}, {colSendfile, "%.0f", appReinspect}},
			take:    (*bench).download,
		},
		measure{
			kind: "rates", table: tableApp, name: kept, contenders: apps,
			note: fmt.Sprintf("respond, %d connections, one request at a time on each, 1 KiB of content.", s.connections),
			columns: []column{
				{colRate, "%.0f", appReinspect}, {colP50, "%.0f", ""}, {colP99, "%.0f", appReinspect}, {colCPU, "%.1f", appReinspect},
			},
			take: func(b *bench, r *running) ([]float64, error) {
				return b.rates(r, job{Kind: jobExchange, Address: r.site, Request: requestHead})
			},
		},
		measure{
			kind: "rates", table: tableApp, name: connections, contenders: apps,
			note: "32 clients: connect, one request, its response, close.",
			columns: []column{
				{colRate, "%.0f", appReinspect}, {colP50, "%.0f", ""}, {colP99, "%.0f", appReinspect}, {colCPU, "%.1f", appReinspect},
			},
			take: func(b *bench, r *running) ([]float64, error) {
				return b.rates(r, job{Kind: jobConnect, Address: r.site, Request: requestHead,
					Connections: min(32, b.connections)})
			},
		},
	)
}

// idleColumns are the columns of a measure of idle streams.
func idleColumns(against string) []column {
	return []column{{colMemory, "%.2f", against}, {colFDs, "%.2f", ""}, {colGoroutines, "%.2f", ""}}
}

// withoutOnce leaves out those with which a connection carries one request.
func withoutOnce(all []contender) (reusing []contender) {
	for _, c := range all {
		if !c.once {
			reusing = append(reusing, c)
		}
	}
	return reusing
}

// stream returns the request that opens a stream for what the backend should do.
func stream(what string) string { return strings.Replace(streamHead, "%s", what, 1) }
