package upstream

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// Slow start: a server that is new, or available again, gets its share of the streams
// gradually. It is Envoy's slow start mode with its defaults: the share grows in proportion to
// time, from a tenth. Only policies that spread streams evenly take part: those that hash would
// send the same value to two servers, one after the other.

// leastShare is the share that slow start begins with.
const leastShare = 0.1

// SlowStarts reports whether the policy of a selector takes shares into account.
func SlowStarts(selector l4proxy.Selector) bool {
	switch selector.(type) {
	case nil, *l4proxy.RandomSelection, *l4proxy.LeastConnSelection, *l4proxy.RandomChoiceSelection,
		*l4proxy.RoundRobinSelection, *l4proxy.WeightedRoundRobinSelection:
		return true
	}
	return false
}

// begin notes that the address takes streams from now on: it is new, or is drained no more, or
// its failed dials are forgotten. When health checks find it up is noted by their verdicts.
func (p *peer) begin() {
	now := time.Now()
	p.upSince.Store(&now)
}

// forgive forgets a failed dial.
func (p *peer) forgive() {
	left := p.fails.Add(-1)
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.servers {
		if int64(s.maxFails) == left+1 {
			p.begin() // it was one too many
			return
		}
	}
}

// share returns the part of its share of the streams that the server is to get, of 1.
func (s *Server) share() float64 {
	if s.slowStart <= 0 {
		return 1
	}
	share := s.shareSince(s.peer.upSince.Load())
	if s.verdict != nil {
		share = min(share, s.shareSince(s.verdict.upSince.Load()))
	}
	return share
}

func (s *Server) shareSince(begin *time.Time) float64 {
	if begin == nil {
		return 1
	}
	return min(max(float64(time.Since(*begin))/float64(s.slowStart), leastShare), 1)
}

// sharesOf returns the share of each server, in proportion to the greatest. nil: all are equal.
func sharesOf(among []*Server) []float64 {
	if !slices.ContainsFunc(among, func(s *Server) bool { return s.slowStart > 0 }) {
		return nil
	}
	shares := make([]float64, len(among))
	for i, s := range among {
		shares[i] = s.share()
	}
	most := slices.Max(shares)
	if slices.Min(shares) == most {
		return nil
	}
	for i := range shares {
		shares[i] /= most
	}
	return shares
}

// atRandom chooses one of the servers, in proportion to their shares.
func atRandom(among []*Server, shares []float64) *Server {
	total := 0.0
	for _, share := range shares {
		total += share
	}
	at := rand.Float64() * total
	for i, share := range shares {
		if at -= share; at < 0 {
			return among[i]
		}
	}
	return among[len(among)-1]
}

// load returns how much the i-th server has to do with one stream more, compared with the others.
func load(s *Server, shares []float64, i int) float64 {
	if shares == nil {
		return float64(s.peer.taken.Load())
	}
	return float64(s.peer.taken.Load()+1) / shares[i]
}
