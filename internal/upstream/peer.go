package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// peer is what is known of an address. It outlives the configurations that name it.
type peer struct {
	taken atomic.Int64 // places: one for each stream, also while it is dialled for
	fails atomic.Int64 // failed dials that still count
	down  atomic.Bool  // as active checks say

	draining atomic.Bool // it gets no new streams

	// streams holds those that end when the address goes down.
	streams relay.Registry

	counts counts

	mu           sync.Mutex
	servers      map[*Server]struct{} // that have the address
	checkers     int                  // servers whose active checks run
	passedInARow int                  // checks …
	failedInARow int                  // … of which one is 0
}

// peers holds the peer of each address that a server has.
var peers = caddy.NewUsagePool()

// openPeer returns the peer of that key for one more server.
func openPeer(key string) *peer {
	known, _ := peers.LoadOrStore(key, new(peer))
	return known.(*peer)
}

// closePeer ends what openPeer began. With the last server the peer is forgotten.
func closePeer(key string) { _, _ = peers.Delete(key) }

// Known reports whether a pool has a server with that network and address, as in
// tcp/10.0.0.5:9000.
func Known(address string) bool {
	_, known := peers.References(address)
	return known
}

// acquire takes a place, unless as many as limit are taken. The limit 0 is none.
func (p *peer) acquire(limit int) bool {
	for {
		n := p.taken.Load()
		if limit > 0 && n >= int64(limit) {
			return false
		}
		if p.taken.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives back a place that acquire has taken.
func (p *peer) release() { p.taken.Add(-1) }

// full reports whether as many places as limit are taken. The limit 0 is none.
func (p *peer) full(limit int) bool { return limit > 0 && p.taken.Load() >= int64(limit) }

// fail counts a failed dial for that long.
func (p *peer) fail(duration time.Duration) {
	p.fails.Add(1)
	time.AfterFunc(duration, func() { p.fails.Add(-1) })
}

// failed reports whether as many failed dials as limit count. The limit 0 is none.
func (p *peer) failed(limit int) bool { return limit > 0 && p.fails.Load() >= int64(limit) }

// watch counts one more server whose active checks run.
func (p *peer) watch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checkers++
}

// unwatch ends what watch began. When nobody checks the address any more, it counts as up:
// nobody would notice that it is up again.
func (p *peer) unwatch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checkers--; p.checkers == 0 {
		p.passedInARow, p.failedInARow = 0, 0
		p.down.Store(false)
	}
}

// record counts the result of an active check, and reports whether the address has gone up
// or down by it.
func (p *peer) record(passed bool, rise, fall int) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if passed {
		p.passedInARow, p.failedInARow = p.passedInARow+1, 0
		return p.passedInARow >= rise && p.down.CompareAndSwap(true, false)
	}
	p.passedInARow, p.failedInARow = 0, p.failedInARow+1
	return p.failedInARow >= fall && p.down.CompareAndSwap(false, true)
}
