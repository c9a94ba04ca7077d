package upstream

import (
	"strings"
	"sync/atomic"

	"github.com/streamprox/caddy-streamprox/internal/durations"
)

// What is counted of an address. Whoever dials adds to it, and waits for nobody.

// connected is the result of a dial that has not failed. It is none of the reasons.
const connected = len(reasons)

// resultNames are what the results of dials are called: those of the reasons, and connected.
var resultNames = append(append([]string(nil), reasons[:]...), "connected")

// counts is what is counted of an address.
type counts struct {
	dials  [connected + 1]atomic.Uint64
	took   durations.Histogram // of the dials that have not failed
	reused atomic.Uint64

	ejections atomic.Uint64
}

// dialed counts a dial.
func (c *counts) dialed(attempt *Attempt) {
	if attempt.Failure != nil {
		c.dials[attempt.Failure.Reason].Add(1)
		return
	}
	c.dials[connected].Add(1)
	c.took.Observe(attempt.Duration)
}

// Reuse notes that a connection to the server, which an earlier request has left, carries
// another one.
func (s *Server) Reuse() { s.peer.counts.reused.Add(1) }

// Status is what has been found out about an address, and what was counted of it, as long as
// pools have named it.
type Status struct {
	Address string                 // as configured, without the network
	Healthy bool                   // to each pool that names it: neither health checks nor failed dials count against it
	Dials   map[string]uint64      // by their result; those that have not happened may be left out
	Took    []*durations.Histogram // how long the dials took that have not failed; those of several are to be added up
	Reused  uint64                 // how often a connection has carried one more request
	Ejected uint64                 // how often it was ejected, see Pool.Failed
	Checks  map[string]CheckStatus // what active checks say, by their kind
}

// Statuses returns the status of each address that a pool names. Those that differ in their
// network alone are one.
func Statuses() map[string]*Status {
	all := make(map[string]*Status)
	peers.Range(func(key, value any) bool {
		_, address, _ := strings.Cut(key.(string), "/")
		s := all[address]
		if s == nil {
			s = &Status{Address: address, Healthy: true, Dials: make(map[string]uint64), Checks: make(map[string]CheckStatus)}
			all[address] = s
		}
		value.(*peer).addTo(s)
		return true
	})
	return all
}

// addTo adds what is known of the address.
func (p *peer) addTo(s *Status) {
	s.Healthy = s.Healthy && p.healthy()
	for result := range p.counts.dials {
		n := p.counts.dials[result].Load()
		if n > 0 || result == connected || Reason(result).OfServer() {
			s.Dials[resultNames[result]] += n
		}
	}
	s.Took = append(s.Took, &p.counts.took)
	s.Reused += p.counts.reused.Load()
	s.Ejected += p.counts.ejections.Load()
	for _, c := range p.checks() {
		if other, known := s.Checks[c.Check]; known { // over another network, or by other fields
			c.Healthy, c.Ups, c.Downs = c.Healthy && other.Healthy, c.Ups+other.Ups, c.Downs+other.Downs
		}
		s.Checks[c.Check] = c
	}
}

// healthy reports whether nothing counts against the address with any of its servers.
func (p *peer) healthy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.servers {
		if !s.healthy() {
			return false
		}
	}
	return true
}

// join and part say that a server has the address, and that it does not any more.
func (p *peer) join(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.servers == nil {
		p.servers = make(map[*Server]struct{})
	}
	p.servers[s] = struct{}{}
}

func (p *peer) part(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.servers, s)
}
