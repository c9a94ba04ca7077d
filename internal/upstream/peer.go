package upstream

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// peer is what is known of an address. It outlives the configurations that name it.
type peer struct {
	taken atomic.Int64 // places: one for each stream, also while it is dialled for
	fails atomic.Int64 // failed dials that still count

	draining atomic.Bool // it gets no new streams

	verdict // of checks that only connect: it holds for all servers

	counts   counts
	ejection ejection

	mu       sync.Mutex
	servers  map[*Server]struct{} // that have the address
	verdicts map[string]*verdict  // of checks by HTTP, by what they ask
}

// peers holds the peer of each address that a server has.
var peers = caddy.NewUsagePool()

// openPeer returns the peer of that key for one more server.
func openPeer(key string) *peer {
	fresh := new(peer)
	fresh.begin()
	known, _ := peers.LoadOrStore(key, fresh)
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
	time.AfterFunc(duration, p.forgive)
}

// failed reports whether as many failed dials as limit count. The limit 0 is none.
func (p *peer) failed(limit int) bool { return limit > 0 && p.fails.Load() >= int64(limit) }

// openVerdict returns the verdict of checks that ask the same, for one more server. name says
// in few words what they ask.
func (p *peer) openVerdict(asked, name string) *verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.verdicts[asked]
	if v == nil {
		if p.verdicts == nil {
			p.verdicts = make(map[string]*verdict)
		}
		v = &verdict{name: name}
		p.verdicts[asked] = v
	}
	v.users++
	return v
}

// closeVerdict ends what openVerdict began. With the last server the verdict is forgotten.
func (p *peer) closeVerdict(asked string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.verdicts[asked]
	if v.users--; v.users == 0 {
		delete(p.verdicts, asked)
	}
}

// checks returns what the active checks of each kind that run say of the address.
func (p *peer) checks() (all []CheckStatus) {
	if p.checked() {
		all = append(all, p.status())
		all[0].Check = connects
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.verdicts {
		if v.checked() {
			all = append(all, v.status())
		}
	}
	slices.SortFunc(all, func(a, b CheckStatus) int { return cmp.Compare(a.Check, b.Check) })
	return all
}
