package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that should happen soon.
const patience = 30 * time.Second

// process is a program that runs until it is stopped, or until the context ends.
type process struct {
	name   string
	cmd    *exec.Cmd
	pids   []int  // its own, and those of its workers
	output string // file of what it prints
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
}

// start starts a program, which is stopped by a signal. What it prints goes to a file in dir.
func start(ctx context.Context, dir, name string, stop syscall.Signal, env []string, argv ...string) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	output, err := os.CreateTemp(dir, "output-*")
	if err != nil {
		cancel()
		return nil, err
	}
	defer output.Close()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = output, output
	// Nothing is left should this process be killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: stop}
	cmd.Cancel = func() error { return cmd.Process.Signal(stop) }
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{
		name: name, cmd: cmd, pids: []int{cmd.Process.Pid},
		output: output.Name(), cancel: cancel, done: make(chan struct{}),
	}
	go p.wait()
	return p, nil
}

// wait ends with the program.
func (p *process) wait() {
	_ = p.cmd.Wait() // who misses the program reads its output
	close(p.done)
}

// stop stops the program and returns when it is gone. It may be called twice.
func (p *process) stop() {
	p.cancel()
	<-p.done
}

// ready waits until the program accepts connections.
func (p *process) ready(addresses ...string) error {
	deadline := time.Now().Add(patience)
	for _, address := range addresses {
		for {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-p.done:
				return fmt.Errorf("%s ended at once: %s", p.name, p.tail())
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not listen on %s: %s", p.name, address, p.tail())
			}
		}
	}
	return nil
}

// findWorkers waits until the program has so many workers, and adds them to its processes.
func (p *process) findWorkers(workers int) error {
	if workers == 0 {
		return nil
	}
	own := p.cmd.Process.Pid
	for deadline := time.Now().Add(patience); ; {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", own))
		if err != nil {
			return fmt.Errorf("workers of %s: %w", p.name, err)
		}
		p.pids = []int{own}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("workers of %s: %w", p.name, err)
			}
			p.pids = append(p.pids, pid)
		}
		if len(p.pids) == 1+workers {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has %d workers, not %d: %s", p.name, len(p.pids)-1, workers, p.tail())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// tail returns the end of what the program has printed.
func (p *process) tail() string {
	text, err := os.ReadFile(p.output)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// self returns how to start this executable in a role.
func self(role string) (executable string, env []string, err error) {
	executable, err = os.Executable()
	return executable, []string{roleVariable + "=" + role}, err
}

// load is a process of clients.
type load struct {
	cmd    *exec.Cmd
	input  io.Closer
	output *json.Decoder
}

// startLoad starts clients, and returns with the result of the job.
func startLoad(ctx context.Context, j job) (*load, result, error) {
	executable, env, err := self(roleLoad)
	if err != nil {
		return nil, result{}, err
	}
	cmd := exec.CommandContext(ctx, executable)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var problems bytes.Buffer
	cmd.Stderr = &problems
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, result{}, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, result{}, err
	}
	if err := cmd.Start(); err != nil {
		return nil, result{}, err
	}
	l := &load{cmd: cmd, input: input, output: json.NewDecoder(output)}
	var r result
	if err = json.NewEncoder(input).Encode(j); err == nil {
		err = l.output.Decode(&r)
	}
	if err != nil {
		l.close()
		return nil, result{}, fmt.Errorf("%s to %s: %w: %s", j.Kind, j.Address, err, &problems)
	}
	return l, r, nil
}

// close ends the clients and returns when they are gone. Of the connections that they have
// held it returns how many were still open. It may be called twice.
func (l *load) close() (open int) {
	l.input.Close()
	_ = l.output.Decode(&open) // fails if none were held
	_ = l.cmd.Wait()
	return open
}

// runJob runs clients to their end.
func runJob(ctx context.Context, j job) (result, error) {
	l, r, err := startLoad(ctx, j)
	if err != nil {
		return result{}, err
	}
	l.close()
	return r, nil
}

// cpuTime returns the processor time that processes have used, in user and in kernel mode,
// in all their threads.
func cpuTime(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		// The process's own clock, as clock_getcpuclockid(3) makes its name: what
		// /proc/<pid>/stat shows, in nanoseconds.
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return 0, fmt.Errorf("processor time of %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// footprint is what a program holds, in all its processes.
type footprint struct {
	memory      float64 // resident and anonymous, in KiB
	descriptors float64
	goroutines  float64 // 0 if it has none
}

// look returns what a program holds, after it has rested. A Caddy, whose admin address is
// given, collects its garbage before.
func look(ctx context.Context, pids []int, admin string, settle time.Duration) (footprint, error) {
	var f footprint
	if admin != "" {
		// Twice, since what has a finalizer is freed by the second one.
		for range 2 {
			if _, err := get(ctx, admin, "/debug/pprof/heap?gc=1"); err != nil {
				return f, err
			}
			time.Sleep(settle)
		}
		text, err := get(ctx, admin, "/debug/pprof/goroutine?debug=1")
		if err != nil {
			return f, err
		}
		if _, err := fmt.Sscanf(string(text), "goroutine profile: total %f", &f.goroutines); err != nil {
			return f, fmt.Errorf("goroutines: %w", err)
		}
	} else {
		time.Sleep(settle)
	}
	for _, pid := range pids {
		if err := f.add(pid); err != nil {
			return f, err
		}
	}
	return f, nil
}

// add adds the memory and the descriptors of a process.
func (f *footprint) add(pid int) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	_, rest, found := strings.Cut(string(status), "RssAnon:")
	if !found {
		return errors.New("no RssAnon in /proc: Linux 4.5 or later is needed")
	}
	var memory float64
	if _, err := fmt.Sscan(rest, &memory); err != nil {
		return fmt.Errorf("RssAnon: %w", err)
	}
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	f.memory += memory
	f.descriptors += float64(len(descriptors))
	return nil
}

// get asks Caddy's admin API. The connection is not kept, so that it is not counted.
func get(ctx context.Context, admin, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+path, nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, response.Status)
	}
	return text, err
}

// ports gives out loopback addresses on which nothing listens. They are below the ports
// that outgoing connections get, which could otherwise take one before its server does.
// Runs at the same time begin at different ports: of two Caddys on one port each would
// get some of the other's connections.
type ports struct{ last int }

func (p *ports) address() (string, error) {
	const first, end = 20000, 32000
	if p.last == 0 {
		p.last = first + os.Getpid()*300%(end-first)
	}
	for range end - first {
		if p.last++; p.last >= end {
			p.last = first
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.last))
		listener, err := net.Listen("tcp", address)
		if err == nil {
			return address, listener.Close()
		}
	}
	return "", errors.New("no free port")
}

// write writes a file into dir and returns its path.
func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}
