package main

import (
	"errors"
	"fmt"
	"strings"
)

// measure is one table: what is done with each contender, and what is read.
type measure struct {
	kind       string // as -only names it
	table      string // relay or hand-off
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
	tableApp   = "hand-off"

	transfers   = "bulk transfer"
	kept        = "requests on kept connections"
	connections = "new connections"
	downloads   = "download of a file"

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
				return b.idle(r, r.streams, stream("echo"), n)
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
				return b.exchange(r, job{Kind: jobExchange, Address: r.requests, Request: requestHead})
			},
		},
		measure{
			kind: "rates", table: tableRelay, name: connections, contenders: relays,
			note: "32 clients: connect, one request, its response, close.",
			columns: []column{
				{colRate, "%.0f", relayClose}, {colP50, "%.0f", ""}, {colP99, "%.0f", relayClose}, {colCPU, "%.1f", relayClose},
			},
			take: func(b *bench, r *running) ([]float64, error) {
				return b.exchange(r, job{Kind: jobConnect, Address: r.requests, Request: requestHead,
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
				values, err := b.exchange(r, job{Kind: jobExchange, Address: r.streams,
					Request: stream("echo"), Connections: n})
				if err != nil {
					return nil, err
				}
				return values[1:], nil
			},
		})
	}
	for _, n := range s.streams {
		all = append(all, measure{
			kind: "memory", table: tableApp, name: idle(n), contenders: apps, fresh: true,
			note:    "Each connection carried one request and is kept. What the process holds for each, as above.",
			columns: idleColumns(appReinspect),
			take: func(b *bench, r *running) ([]float64, error) {
				return b.idle(r, r.site, requestHead, n)
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
				return b.exchange(r, job{Kind: jobExchange, Address: r.site, Request: requestHead})
			},
		},
		measure{
			kind: "rates", table: tableApp, name: connections, contenders: apps,
			note: "32 clients: connect, one request, its response, close.",
			columns: []column{
				{colRate, "%.0f", appReinspect}, {colP50, "%.0f", ""}, {colP99, "%.0f", appReinspect}, {colCPU, "%.1f", appReinspect},
			},
			take: func(b *bench, r *running) ([]float64, error) {
				return b.exchange(r, job{Kind: jobConnect, Address: r.site, Request: requestHead,
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

// idle opens n connections and returns what the process holds for each.
func (b *bench) idle(r *running, address, request string, n int) ([]float64, error) {
	// What is made once, such as the pipes and buffers that all streams share, is there
	// before anything is counted.
	j := job{Kind: jobHold, Address: address, Request: request, Connections: min(n, 50)}
	if _, err := runJob(b.ctx, j); err != nil {
		return nil, err
	}
	before, err := look(b.ctx, r.pid(), r.admin, b.settle)
	if err != nil {
		return nil, err
	}
	j.Connections = n
	clients, _, err := startLoad(b.ctx, j)
	if err != nil {
		return nil, err
	}
	defer clients.close()
	after, err := look(b.ctx, r.pid(), r.admin, b.settle)
	if err != nil {
		return nil, err
	}
	if b.profiles != "" && r.admin != "" {
		text, err := get(b.ctx, r.admin, "/debug/pprof/heap?debug=1")
		if err != nil {
			return nil, err
		}
		if _, err := write(b.profiles, fileName(fmt.Sprintf("%d idle %s.heap", n, r.contender.name)), string(text)); err != nil {
			return nil, err
		}
	}
	each := func(before, after float64) float64 { return (after - before) / float64(n) }
	return []float64{
		each(before.memory, after.memory),
		each(before.descriptors, after.descriptors),
		each(before.goroutines, after.goroutines),
	}, nil
}

// errBytes says that not everything was delivered.
var errBytes = errors.New("bytes are missing")

// move runs a transfer and returns the processor time in ms/GB, and GB/s.
func (b *bench) move(r *running, kind, address, request string) (cpu, rate float64, err error) {
	moved, err := runJob(b.ctx, job{
		Kind: kind, Address: address, Request: request,
		Connections: b.parallel, Bytes: b.bytes, PID: r.pid(),
	})
	if err == nil && moved.Bytes != int64(b.parallel)*b.bytes {
		err = errBytes
	}
	gb := float64(moved.Bytes) / 1e9
	return moved.CPU * 1e3 / gb, gb / moved.Seconds, err
}

// transfer moves bytes down and up through a relay.
func (b *bench) transfer(r *running) ([]float64, error) {
	down, downRate, err := b.move(r, jobDown, r.streams, stream(fmt.Sprintf("down/%d", b.bytes)))
	if err != nil {
		return nil, err
	}
	up, upRate, err := b.move(r, jobUp, r.streams, stream(fmt.Sprintf("up/%d", b.bytes)))
	return []float64{down, up, downRate, upRate}, err
}

// download fetches a file from an HTTP server, as it is by default and with sendfile.
func (b *bench) download(r *running) ([]float64, error) {
	file, _, err := b.move(r, jobFetch, r.site, fileHead)
	if err != nil {
		return nil, err
	}
	sendfile, _, err := b.move(r, jobFetch, r.files, fileHead)
	return []float64{file, sendfile}, err
}

// exchange runs exchanges and returns their number per second, p50, p99, and the processor
// time of each. What the job leaves open is as the scale says.
func (b *bench) exchange(r *running, j job) ([]float64, error) {
	if j.Connections == 0 {
		j.Connections = b.connections
	}
	j.Warm, j.Duration, j.Count, j.PID = b.warm, b.duration, b.count, r.pid()
	done, err := runJob(b.ctx, j)
	if err != nil {
		return nil, err
	}
	if done.Exchanges == 0 {
		return nil, errors.New("no exchange was complete in time")
	}
	n := float64(done.Exchanges)
	return []float64{n / done.Seconds, done.P50, done.P99, done.CPU * 1e6 / n}, nil
}
