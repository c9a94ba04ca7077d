package main

import (
	"errors"
	"fmt"
	"time"
)

// resting are connections that rest.
type resting struct {
	job                // that opens them
	what string        // they are, in the names of profiles
	wait time.Duration // before the process is looked at
}

// idle opens connections and returns what the process holds for each. Of the connections it
// returns how many neither side had closed by then.
func (b *bench) idle(r *running, c resting) (each footprint, open int, err error) {
	// What is made once, such as the pipes and buffers that all streams share, is there
	// before anything is counted.
	first := c.job
	first.Connections = min(c.Connections, 50)
	if _, err := runJob(b.ctx, first); err != nil {
		return each, 0, err
	}
	before, err := b.look(r, c.wait)
	if err != nil {
		return each, 0, err
	}
	clients, _, err := startLoad(b.ctx, c.job)
	if err != nil {
		return each, 0, err
	}
	defer clients.close()
	after, err := b.look(r, c.wait)
	if err != nil {
		return each, 0, err
	}
	if b.profiles != "" && r.admin != "" {
		text, err := get(b.ctx, r.admin, "/debug/pprof/heap?debug=1")
		if err != nil {
			return each, 0, err
		}
		name := fileName(fmt.Sprintf("%d %s %s.heap", c.Connections, c.what, r.contender.name))
		if _, err := write(b.profiles, name, string(text)); err != nil {
			return each, 0, err
		}
	}
	n := float64(c.Connections)
	return footprint{
		memory:      (after.memory - before.memory) / n,
		descriptors: (after.descriptors - before.descriptors) / n,
		goroutines:  (after.goroutines - before.goroutines) / n,
	}, clients.close(), nil
}

// look returns what a contender holds after a time.
func (b *bench) look(r *running, wait time.Duration) (footprint, error) {
	select {
	case <-time.After(wait):
	case <-b.ctx.Done():
		return footprint{}, b.ctx.Err()
	}
	return look(b.ctx, r.pids, r.admin, b.settle)
}

// allIdle returns what the process holds for each of connections that all stay open.
func (b *bench) allIdle(r *running, c resting) ([]float64, error) {
	each, open, err := b.idle(r, c)
	if err == nil && open < c.Connections {
		err = fmt.Errorf("of %d connections %d were still open", c.Connections, open)
	}
	return []float64{each.memory, each.descriptors, each.goroutines}, err
}

// errBytes says that not everything was delivered.
var errBytes = errors.New("bytes are missing")

// move runs a transfer and returns the processor time in ms/GB, and GB/s.
func (b *bench) move(r *running, kind, address, request string) (cpu, rate float64, err error) {
	moved, err := runJob(b.ctx, job{
		Kind: kind, Address: address, Request: request,
		Connections: b.parallel, Bytes: b.bytes, PIDs: r.pids,
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

// exchange runs exchanges. What the job leaves open is as the scale says.
func (b *bench) exchange(r *running, j job) (result, error) {
	if j.Connections == 0 {
		j.Connections = b.connections
	}
	j.Warm, j.Duration, j.Count, j.PIDs = b.warm, b.duration, b.count, r.pids
	done, err := runJob(b.ctx, j)
	if err == nil && done.Exchanges == 0 {
		err = errors.New("no exchange was complete in time")
	}
	return done, err
}

// rates runs exchanges and returns what they came to.
func (b *bench) rates(r *running, j job) ([]float64, error) {
	done, err := b.exchange(r, j)
	return done.rates(), err
}

// rates returns the number of exchanges per second, p50, p99, and the processor time of each.
func (r result) rates() []float64 {
	n := float64(r.Exchanges)
	return []float64{n / r.Seconds, r.P50, r.P99, r.CPU * 1e6 / n}
}
