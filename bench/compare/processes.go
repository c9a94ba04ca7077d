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
	output string // file of what it prints
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
}

// start starts a program. What it prints goes to a file in dir.
func start(ctx context.Context, dir, name string, env []string, argv ...string) (*process, error) {
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, output: output.Name(), cancel: cancel, done: make(chan struct{})}
	go p.wait()
	return p, nil
}

// wait ends with the program.
func (p *process) wait() {
	_ = p.cmd.Wait() // who misses the program reads its output
	close(p.done)
}

// stop kills the program and returns when it is gone. It may be called twice.
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

// load is a process of clients. Close ends it, and with it the connections it holds.
type load struct {
	cmd   *exec.Cmd
	input io.Closer
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
	l := &load{cmd: cmd, input: input}
	var r result
	if err = json.NewEncoder(input).Encode(j); err == nil {
		err = json.NewDecoder(output).Decode(&r)
	}
	if err != nil {
		l.close()
		return nil, result{}, fmt.Errorf("%s to %s: %w: %s", j.Kind, j.Address, err, &problems)
	}
	return l, r, nil
}

// close ends the clients and returns when they are gone.
func (l *load) close() {
	l.input.Close()
	_ = l.cmd.Wait()
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

// cpuTime returns the processor time that a process has used, in user and in kernel mode,
// in all its threads.
func cpuTime(pid int) (time.Duration, error) {
	// The process's own clock, as clock_getcpuclockid(3) makes its name: what
	// /proc/<pid>/stat shows, in nanoseconds.
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("processor time of %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// footprint is what a process holds.
type footprint struct {
	memory      float64 // resident and anonymous, in KiB
	descriptors float64
	goroutines  float64 // 0 if it has none
}

// look returns what a process holds, after it has rested. A Caddy, whose admin address is
// given, collects its garbage before.
func look(ctx context.Context, pid int, admin string, settle time.Duration) (footprint, error) {
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
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return f, err
	}
	_, rest, found := strings.Cut(string(status), "RssAnon:")
	if !found {
		return f, errors.New("no RssAnon in /proc: Linux 4.5 or later is needed")
	}
	if _, err := fmt.Sscan(rest, &f.memory); err != nil {
		return f, fmt.Errorf("RssAnon: %w", err)
	}
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return f, err
	}
	f.descriptors = float64(len(descriptors))
	return f, nil
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
