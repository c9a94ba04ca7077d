package upstream

import (
	"cmp"
	"slices"
	"strings"
)

// Peer is an address that a pool has, as it is now.
type Peer struct {
	Address        string `json:"address"` // as in 10.0.0.5:9000; with its network unless that is tcp
	Healthy        bool   `json:"healthy"` // neither health checks nor failed dials count against it
	Draining       bool   `json:"draining"`
	Streams        int64  `json:"streams"`         // requests and streams under way, dials too
	Fails          int64  `json:"fails"`           // failed dials that still count
	MaxConnections int    `json:"max_connections"` // the least of the limits that pools have for it; 0: none

	Ejected bool          `json:"ejected"`          // streams to it have failed: it gets new ones only when no other is available
	Share   float64       `json:"share"`            // the least part of its share of the streams that slow start gives it; 1: all
	Backup  bool          `json:"backup"`           // to each pool that has it
	Checks  []CheckStatus `json:"checks,omitempty"` // what active checks say, of each kind that runs
}

// Peers returns the addresses that pools have, in order.
func Peers() (all []Peer) {
	peers.Range(func(key, value any) bool {
		all = append(all, peerOf(key.(string), value.(*peer)))
		return true
	})
	slices.SortFunc(all, func(a, b Peer) int { return cmp.Compare(a.Address, b.Address) })
	return all
}

func peerOf(key string, p *peer) Peer {
	s := Peer{
		Address:  strings.TrimPrefix(key, "tcp/"),
		Healthy:  p.healthy(),
		Draining: p.draining.Load(),
		Streams:  p.taken.Load(),
		Fails:    p.fails.Load(),
		Checks:   p.checks(),
		Ejected:  p.ejection.ejected.Load(),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Backup, s.Share = len(p.servers) > 0, 1
	for server := range p.servers {
		s.Backup, s.Share = s.Backup && server.backup, min(s.Share, server.share())
		if limit := server.maxConnections; limit > 0 && (s.MaxConnections == 0 || limit < s.MaxConnections) {
			s.MaxConnections = limit
		}
	}
	return s
}

// SetDraining says whether the address, as Peer has it, gets no new streams. It holds until
// it is said otherwise, or no pool has the address any more. SetDraining reports false if no
// pool has it.
func SetDraining(address string, draining bool) (state Peer, ok bool) {
	peers.Range(func(key, value any) bool {
		if key == address || key == "tcp/"+address {
			if was := value.(*peer).draining.Swap(draining); was && !draining {
				value.(*peer).begin()
			}
			state, ok = peerOf(key.(string), value.(*peer)), true
		}
		return !ok
	})
	return state, ok
}
