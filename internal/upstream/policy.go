package upstream

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// policy chooses among servers.
type policy interface {
	// choose returns one of the servers, which are at least one and all available.
	choose(among []*Server, client *layer4.Connection) *Server

	// would returns those of the servers of which choose would return one, and changes
	// nothing.
	would(among []*Server, client *layer4.Connection) []*Server
}

// newPolicy returns the policy of a selector of caddy-l4's proxy. Those that count streams,
// or keep state by position, are written here: caddy-l4's read counters that only its own
// proxy keeps, or hash in another way than Caddy's reverse_proxy.
func newPolicy(selector l4proxy.Selector) policy {
	switch selector := selector.(type) {
	case nil:
		return selectorPolicy{new(l4proxy.RandomSelection)}
	case *l4proxy.IPHashSelection:
		return selectorPolicy{ipHash{}}
	case *l4proxy.LeastConnSelection:
		return leastConn{}
	case *l4proxy.RandomChoiceSelection:
		return randomChoice{selector.Choose}
	case *l4proxy.RoundRobinSelection:
		return new(roundRobin)
	case *l4proxy.WeightedRoundRobinSelection:
		return &weightedRoundRobin{current: make(map[*Server]int)}
	default:
		return selectorPolicy{selector}
	}
}

// perRequest reports whether a selector may look at a request.
func perRequest(selector l4proxy.Selector) bool {
	switch selector.(type) {
	case nil, *l4proxy.FirstSelection, *l4proxy.IPHashSelection, *l4proxy.LeastConnSelection,
		*l4proxy.RandomChoiceSelection, *l4proxy.RandomSelection, *l4proxy.RoundRobinSelection,
		*l4proxy.WeightedRoundRobinSelection:
		return false
	}
	return true
}

// Hasher is a selector without state, whose choice is certain for some connections and
// random for the others.
type Hasher interface {
	l4proxy.Selector
	Certain(client *layer4.Connection) bool
}

// selectorPolicy chooses as the selector does.
type selectorPolicy struct{ selector l4proxy.Selector }

func (p selectorPolicy) choose(among []*Server, client *layer4.Connection) *Server {
	if _, random := p.selector.(*l4proxy.RandomSelection); random {
		if shares := sharesOf(among); shares != nil {
			return atRandom(among, shares)
		}
	}
	pool := make(l4proxy.UpstreamPool, len(among))
	for i, s := range among {
		pool[i] = s.config
	}
	chosen := p.selector.Select(pool, client)
	return among[max(slices.Index(pool, chosen), 0)]
}

// would implements policy. A selector of another plugin may count how often it is asked, so
// it is not asked.
func (p selectorPolicy) would(among []*Server, client *layer4.Connection) []*Server {
	certain := false
	switch selector := p.selector.(type) {
	case *l4proxy.FirstSelection:
		certain = true
	case Hasher:
		certain = selector.Certain(client)
	}
	if !certain {
		return among
	}
	return []*Server{p.choose(among, client)}
}

// isForeign reports whether the selector is another plugin's.
func (p selectorPolicy) isForeign() bool {
	switch p.selector.(type) {
	case *l4proxy.RandomSelection, *l4proxy.FirstSelection, Hasher:
		return false
	}
	return true
}

// roundRobin chooses in turn, and begins with the second one, as caddy-l4's proxy does.
type roundRobin struct{ turn atomic.Uint32 }

func (p *roundRobin) choose(among []*Server, _ *layer4.Connection) *Server {
	shares := sharesOf(among)
	for {
		i := p.turn.Add(1) % uint32(len(among))
		if shares == nil || rand.Float64() < shares[i] { // that of one is 1
			return among[i]
		}
	}
}

func (p *roundRobin) would(among []*Server, _ *layer4.Connection) (may []*Server) {
	shares := sharesOf(among)
	for turn := p.turn.Load() + 1; ; turn++ {
		i := turn % uint32(len(among))
		may = append(may, among[i])
		if shares == nil || shares[i] == 1 {
			return may
		}
	}
}

// leastConn chooses the server with the fewest streams, among equals at random.
type leastConn struct{}

func (leastConn) choose(among []*Server, _ *layer4.Connection) *Server {
	return fewestStreams(among)
}

func (leastConn) would(among []*Server, _ *layer4.Connection) []*Server {
	shares := sharesOf(among)
	least, may := math.Inf(1), []*Server(nil)
	for i, s := range among {
		n := load(s, shares, i)
		if n < least {
			least, may = n, nil
		}
		if n == least {
			may = append(may, s)
		}
	}
	return may
}

func fewestStreams(among []*Server) *Server {
	var best *Server
	var fewest float64
	equals := 0
	shares := sharesOf(among)
	for i, s := range among {
		switch n := load(s, shares, i); {
		case best == nil || n < fewest:
			best, fewest, equals = s, n, 1
		case n == fewest:
			// Each of k equals is kept with probability 1/k: reservoir sampling.
			if equals++; rand.IntN(equals) == 0 {
				best = s
			}
		}
	}
	return best
}

// randomChoice picks some servers at random and of those the one with the fewest streams.
type randomChoice struct{ number int }

func (p randomChoice) choose(among []*Server, _ *layer4.Connection) *Server {
	picked := slices.Clone(among)
	rand.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return fewestStreams(picked[:min(p.number, len(picked))])
}

func (p randomChoice) would(among []*Server, client *layer4.Connection) []*Server {
	if p.number >= len(among) {
		return leastConn{}.would(among, client)
	}
	return among
}

// weightedRoundRobin chooses in turn, in proportion to weight, as smoothly as nginx's
// algorithm of that name: each server gains its weight, the highest is chosen and pays the
// total.
type weightedRoundRobin struct {
	mu      sync.Mutex
	current map[*Server]int
}

func (p *weightedRoundRobin) choose(among []*Server, _ *layer4.Connection) *Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return weighted(p.current, among)
}

func (p *weightedRoundRobin) would(among []*Server, _ *layer4.Connection) []*Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []*Server{weighted(maps.Clone(p.current), among)}
}

// weightUnit is the weight 1 in parts, of which slow start takes some.
const weightUnit = 1000

// weighted chooses one of the servers, by what each has gained so far.
func weighted(current map[*Server]int, among []*Server) *Server {
	var best *Server
	total := 0
	shares := sharesOf(among)
	for i, s := range among {
		weight := max(s.config.Weight, 1) * weightUnit
		if shares != nil {
			weight = max(int(float64(weight)*shares[i]), 1)
		}
		current[s] += weight
		total += weight
		if best == nil || current[s] > current[best] {
			best = s
		}
	}
	current[best] -= total
	return best
}
