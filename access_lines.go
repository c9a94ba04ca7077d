package streamprox

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/account"
)

// The lines of access logs are written by a goroutine of their own: requests end on event
// loops, and an output that takes nothing, such as a pipe that nobody reads or a network, would
// hold up every stream of the loop. All access logs have the same outputs.

const (
	// maxUnwritten bounds the lines that wait to be written.
	maxUnwritten = 8192

	// flushPatience is how long the end of the process waits for them.
	flushPatience = time.Second
)

// accessLines has the lines that wait.
var accessLines lineQueue

// lineQueue has lines of access logs in the order in which they came.
type lineQueue struct {
	lost      atomic.Uint64 // lines that found maxUnwritten before them
	unwritten atomic.Int64  // waiting, and taken by write

	mu      sync.Mutex
	waiting []accessLine
	idle    chan struct{} // closed when write ends; nil: it does not run
	inVain  bool          // flush has not waited long enough
}

// accessLine is a line of an access log.
type accessLine struct {
	of      *ledger
	message string
	reading account.Reading
}

// add lets a line be written. It does not wait.
func (q *lineQueue) add(line accessLine) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unwritten.Load() >= maxUnwritten {
		q.lost.Add(1)
		return
	}
	q.unwritten.Add(1)
	q.waiting = append(q.waiting, line)
	if q.idle == nil {
		q.idle = make(chan struct{})
		go q.write()
	}
}

// write is the goroutine that writes the lines. It ends when none waits.
func (q *lineQueue) write() {
	var lines []accessLine
	for {
		q.mu.Lock()
		clear(lines)
		lines, q.waiting = q.waiting, lines[:0]
		if len(lines) == 0 {
			idle := q.idle
			q.waiting, q.idle = nil, nil
			q.mu.Unlock()
			close(idle)
			return
		}
		q.mu.Unlock()
		for i := range lines {
			lines[i].of.print(lines[i].message, &lines[i].reading)
			q.unwritten.Add(-1)
		}
	}
}

// flush waits for the lines to be written, but not for longer than patience, and not again if
// that was too short.
func (q *lineQueue) flush(patience time.Duration) {
	q.mu.Lock()
	idle, inVain := q.idle, q.inVain
	q.mu.Unlock()
	if idle == nil || inVain {
		return
	}
	select {
	case <-idle:
	case <-time.After(patience):
		q.mu.Lock()
		defer q.mu.Unlock()
		q.inVain = true
	}
}

// flushAtExit lets the lines be written before the process exits.
func flushAtExit() {
	if caddy.Exiting() {
		accessLines.flush(flushPatience)
	}
}
