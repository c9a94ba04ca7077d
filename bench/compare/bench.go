package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mostStreams is how many streams there are at most. A relay holds two descriptors for
// each.
const mostStreams = 9000

// scale is how much of everything is done.
type scale struct {
	rounds, memoryRounds int
	streams              []int         // idle at once, ascending
	crowds               []int         // kept at once while some are busy, ascending
	parallel             int           // connections of a transfer
	bytes                int64         // on each of these
	file                 int64         // size, of which bytes is a multiple
	connections          int           // that exchange
	warm, duration       time.Duration // of an exchange
	count                int           // of exchanges at most, 0 for no limit
	settle               time.Duration // before a process is looked at
	rest                 time.Duration // of kept connections, before that
}

var (
	full = scale{
		rounds: 5, memoryRounds: 2,
		streams: []int{1500, mostStreams}, crowds: []int{1000, 3000, mostStreams}, parallel: 4, bytes: 256 << 20, file: 64 << 20,
		connections: 64, warm: 200 * time.Millisecond, duration: 1200 * time.Millisecond,
		settle: 500 * time.Millisecond, rest: 5 * time.Second,
	}
	smaller = scale{
		rounds: 2, memoryRounds: 1,
		streams: []int{500, 1500}, crowds: []int{500, 1500}, parallel: 4, bytes: 128 << 20, file: 64 << 20,
		connections: 64, warm: 100 * time.Millisecond, duration: 700 * time.Millisecond,
		settle: 500 * time.Millisecond, rest: 5 * time.Second,
	}
)

// bench holds the servers and the directory of a run.
type bench struct {
	scale
	ctx      context.Context
	dir      string
	notes    io.Writer // progress
	profiles string    // directory for profiles, if not empty
	ports    ports
	places   places // those that all contenders share
	backends []*process

	// requestServer names what answers requests behind the relays.
	requestServer string
}

// newBench starts the servers behind the relays. The programs are looked for in /usr/sbin
// too.
func newBench(ctx context.Context, s scale, notes io.Writer) (_ *bench, err error) {
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin"); err != nil {
		return nil, err
	}
	b := &bench{scale: s, ctx: ctx, notes: notes}
	if b.dir, err = os.MkdirTemp("", "streamprox-compare-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, os.NewSyscallError("getrlimit", err)
	}
	// streamprox leaves the last sixteenth alone.
	if need := uint64(2*max(slices.Max(s.streams), slices.Max(s.crowds))+400) * 16 / 15; limit.Max < need {
		return nil, fmt.Errorf("a process may have %d descriptors, and %d are needed: raise the hard limit, or use -short",
			limit.Max, need)
	}
	// Go raises its own limit, but not that of the programs it starts.
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, os.NewSyscallError("setrlimit", err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "file"), make([]byte, s.file), 0o644); err != nil {
		return nil, err
	}
	b.places.root = b.dir
	for _, address := range []*string{&b.places.streamBackend, &b.places.requestBackend} {
		if *address, err = b.ports.address(); err != nil {
			return nil, err
		}
	}
	return b, b.startBackends()
}

// startBackends starts the server of streams, and nginx or else another one of those for
// requests.
func (b *bench) startBackends() error {
	executable, env, err := self(roleBackend)
	if err != nil {
		return err
	}
	backend := func(address string) error {
		return b.startBackend(address, env, executable, address)
	}
	if err := backend(b.places.streamBackend); err != nil {
		return err
	}
	if _, err := exec.LookPath("nginx"); err != nil {
		b.requestServer = "a Go server, as there is no nginx"
		return backend(b.places.requestBackend)
	}
	b.requestServer = "nginx"
	argv, err := nginxBackendCommand(b.dir, b.places.requestBackend)
	if err != nil {
		return err
	}
	return b.startBackend(b.places.requestBackend, nil, argv...)
}

func (b *bench) startBackend(address string, env []string, argv ...string) error {
	p, err := start(b.ctx, b.dir, filepath.Base(argv[0]), syscall.SIGKILL, env, argv...)
	if err != nil {
		return err
	}
	b.backends = append(b.backends, p)
	return p.ready(address)
}

// close stops the servers behind the relays and removes the directory.
func (b *bench) close() {
	for _, p := range b.backends {
		p.stop()
	}
	_ = os.RemoveAll(b.dir)
}

// running is a contender that runs.
type running struct {
	contender
	places
	*process
}

// answers returns where the contender takes requests: for its site, or for requestBackend.
func (r *running) answers() string {
	if r.app {
		return r.site
	}
	return r.requests
}

// start starts a contender on ports of its own.
func (b *bench) start(c contender) (*running, error) {
	r := &running{contender: c, places: b.places}
	for _, address := range []*string{&r.streams, &r.requests, &r.site, &r.files, &r.admin} {
		var err error
		if *address, err = b.ports.address(); err != nil {
			return nil, err
		}
	}
	listens := []string{r.streams, r.requests}
	if c.app {
		listens = []string{r.site, r.files}
	}
	argv, env, err := b.commandOf(r)
	if err != nil {
		return nil, err
	}
	stop := syscall.SIGKILL
	if c.workers > 0 {
		stop = syscall.SIGTERM // which it passes on to them
	}
	if r.process, err = start(b.ctx, b.dir, c.name, stop, env, argv...); err != nil {
		return nil, err
	}
	if err = r.ready(listens...); err == nil {
		err = r.findWorkers(c.workers)
	}
	if err != nil {
		r.stop()
		return nil, err
	}
	if c.watched {
		go b.watch(r)
	}
	return r, nil
}

// commandOf returns how to start a contender, and writes its configuration. What is no
// Caddy has no admin API.
func (b *bench) commandOf(r *running) (argv, env []string, err error) {
	if r.command != nil {
		r.admin = ""
		argv, err = r.command(b.dir, r.places)
		return argv, nil, err
	}
	config, err := write(b.dir, port(r.admin)+".caddyfile", r.caddyfile(r.places))
	if err != nil {
		return nil, nil, err
	}
	executable, env, err := self(roleCaddy)
	if err != nil {
		return nil, nil, err
	}
	env = append(env, "XDG_DATA_HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir)
	return []string{executable, "run", "--config", config, "--adapter", "caddyfile"}, env, nil
}

// split separates the contenders whose programs are there from the names of the others.
func split(all []contender) (there []contender, missing []string) {
	for _, c := range all {
		if c.program != "" {
			if _, err := exec.LookPath(c.program); err != nil {
				missing = append(missing, c.name)
				continue
			}
		}
		there = append(there, c)
	}
	return there, missing
}

// measureAll takes the measures of the kinds, and calls show with each as it is complete.
func (b *bench) measureAll(kinds []string, show func(measured)) (report, error) {
	r := report{Machine: machine(b)}
	for _, m := range measures(b.scale) {
		if !slices.Contains(kinds, m.kind) {
			continue
		}
		done, err := b.take(m)
		if b.ctx.Err() != nil {
			return r, errors.New("interrupted")
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", m.title(), err)
		}
		show(done)
		r.Measured = append(r.Measured, done)
	}
	return r, nil
}

// take takes one measure: each contender in turn, and that for as many rounds as there
// are, so that what disturbs the machine for a while disturbs all of them.
func (b *bench) take(m measure) (measured, error) {
	there, missing := split(m.contenders)
	done := measured{measure: m, Table: m.table, Measure: m.name, Missing: missing}
	for _, c := range m.columns {
		done.Columns = append(done.Columns, c.name)
	}
	started := map[string]*running{}
	defer func() {
		for _, r := range started {
			r.stop()
		}
	}()
	rounds := b.rounds
	if m.fresh {
		rounds = b.memoryRounds
	}
	samples := map[string][][]float64{}
	for round := range rounds {
		fmt.Fprintf(b.notes, "%s: round %d of %d\n", m.title(), round+1, rounds)
		for _, c := range there {
			if err := b.ctx.Err(); err != nil {
				return done, err
			}
			values, err := b.sample(m, c, started)
			if err != nil {
				return done, fmt.Errorf("%s: %w", c.name, err)
			}
			samples[c.name] = append(samples[c.name], values)
		}
	}
	for _, c := range there {
		done.Rows = append(done.Rows, newRow(c.name, len(m.columns), samples[c.name]))
	}
	if b.profiles == "" || m.fresh {
		return done, nil
	}
	for _, c := range there {
		r := started[c.name]
		err := b.profile(m.title(), r, func() error {
			_, err := m.take(b, r)
			return err
		})
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// sample takes a measure of one contender once, of a new process if that matters.
func (b *bench) sample(m measure, c contender, started map[string]*running) ([]float64, error) {
	r := started[c.name]
	if r == nil {
		var err error
		if r, err = b.start(c); err != nil {
			return nil, err
		}
		if m.fresh {
			defer r.stop()
		} else {
			started[c.name] = r
		}
	}
	values, err := m.take(b, r)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, r.tail())
	}
	return values, nil
}

// profile loads a Caddy, and writes where its time goes.
func (b *bench) profile(title string, r *running, load func() error) error {
	if r.admin == "" {
		return nil
	}
	profiled := make(chan error, 1)
	var text []byte
	go func() {
		var err error
		text, err = get(b.ctx, r.admin, "/debug/pprof/profile?seconds=2")
		profiled <- err
	}()
	err := load()
	if profileErr := <-profiled; err == nil {
		err = profileErr
	}
	if err != nil {
		return fmt.Errorf("profile of %s: %w", r.contender.name, err)
	}
	_, err = write(b.profiles, fileName(title+" "+r.contender.name+".pprof"), string(text))
	return err
}
