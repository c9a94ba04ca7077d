package upstream

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Ejection: a server that accepts connections and then fails gets no streams for a while.
//
// What is behind a failure is not known: a client may send what makes a good server fail. So a
// client alone ejects nothing, a stream that goes well clears what is held against a server, no
// more than half of the servers of a pool are ejected, and those that are get streams all the
// same when no other is available.

// leastClients is how many clients it takes at least to eject a server: one client may have
// two addresses, of IPv4 and of IPv6.
const leastClients = 3

// ejection is what streams have shown of an address.
type ejection struct {
	ejected atomic.Bool
	suspect atomic.Bool // failures are held against it

	mu     sync.Mutex
	failed map[netip.Prefix]time.Time // the clients whose streams have failed, and until when that counts
}

// Failed notes that a stream of the client has failed by the server. It reports whether that
// ejects the server: streams of as many clients have failed meanwhile as it takes.
func (p *Pool) Failed(s *Server, client netip.Prefix) (ejected bool) {
	// What a client may have chosen says nothing of the addresses of others.
	if p.options.FailDuration <= 0 || s.maxFails <= 0 || s.perClient {
		return false
	}
	p.ejecting.Lock()
	defer p.ejecting.Unlock()
	e := &s.peer.ejection
	enough := e.count(client, p.options.FailDuration, max(s.maxFails, leastClients))
	if !enough || !p.mayEject(s) || !e.ejected.CompareAndSwap(false, true) {
		return false
	}
	s.peer.counts.ejections.Add(1)
	time.AfterFunc(p.options.FailDuration, s.peer.takeBack)
	return true
}

// Answered notes that a stream to the server has gone well.
func (s *Server) Answered() { s.peer.ejection.clear() }

// mayEject reports whether at least half of the addresses of the pool are left without the server.
func (p *Pool) mayEject(s *Server) bool {
	out := map[*peer]bool{s.peer: true}
	all := make(map[*peer]bool)
	for _, other := range p.servers {
		all[other.peer] = true
		if other.peer.ejection.ejected.Load() {
			out[other.peer] = true
		}
	}
	return 2*len(out) <= len(all)
}

// count notes a failure for that long, and reports whether enough clients have failed.
func (e *ejection) count(client netip.Prefix, duration time.Duration, enough int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for other, forgotten := range e.failed {
		if !now.Before(forgotten) {
			delete(e.failed, other)
		}
	}
	if e.failed == nil {
		e.failed = make(map[netip.Prefix]time.Time)
	}
	if _, known := e.failed[client]; known || len(e.failed) < enough {
		e.failed[client] = now.Add(duration)
	}
	e.suspect.Store(true)
	return len(e.failed) >= enough
}

// clear forgets all failures.
func (e *ejection) clear() {
	if !e.suspect.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.failed)
	e.suspect.Store(false)
}

// takeBack ends an ejection.
func (p *peer) takeBack() {
	p.ejection.clear()
	p.begin()
	p.ejection.ejected.Store(false)
}

// ejected reports whether the server gets streams only when no other is available.
func (s *Server) ejected() bool { return s.maxFails > 0 && s.peer.ejection.ejected.Load() }
