package streamprox

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"github.com/pires/go-proxyproto"
)

// upstream is a server that relay may dial.
type upstream struct {
	config  *l4proxy.Upstream
	network string
	address string
	tls     *tls.Config   // nil: no TLS
	tlsWait time.Duration // for the handshake; 0 = as long as the dial may take
	peer    *peer
}

// peer is what is known of an upstream address, across configurations.
type peer struct{ streams atomic.Int64 }

// peers holds the peer of each address that a configuration names.
var peers = caddy.NewUsagePool()

// newUpstream checks the configuration of an upstream. The caller closes it.
func newUpstream(ctx caddy.Context, config *l4proxy.Upstream) (*upstream, error) {
	if len(config.Dial) != 1 {
		return nil, fmt.Errorf("dial: want one address, got %d (%s); relay sends a stream to one server, so make each address an upstream of its own",
			len(config.Dial), strings.Join(config.Dial, " "))
	}
	for option, set := range map[string]bool{
		"local_address (local_addr)": len(config.LocalAddrs) > 0,
		"resolver_preference":        config.ResolverPreference != "",
	} {
		if set {
			return nil, fmt.Errorf("upstream %s: %s is not available yet", config.Dial[0], option)
		}
	}
	if config.MaxConnections < 0 {
		return nil, fmt.Errorf("upstream %s: max_connections: %d is less than 0", config.Dial[0], config.MaxConnections)
	}

	dial := caddy.NewReplacer().ReplaceKnown(config.Dial[0], "")
	if strings.Contains(dial, "{") {
		return nil, fmt.Errorf("upstream %q: placeholders that depend on the connection are not available yet", dial)
	}
	address, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: %w", dial, err)
	}
	switch {
	case isDatagram(address.Network):
		return nil, fmt.Errorf("upstream %q: relay carries streams, not datagrams", dial)
	case address.Network != "tcp" && address.Network != "tcp4" && address.Network != "tcp6" && address.Network != "unix":
		return nil, fmt.Errorf("upstream %q: unknown network %q: use tcp, tcp4, tcp6 or unix", dial, address.Network)
	case !address.IsUnixNetwork() && (address.StartPort == 0 || address.PortRangeSize() != 1):
		return nil, fmt.Errorf("upstream %q: want one port, as in 10.0.0.5:9000", dial)
	}

	u := &upstream{config: config, network: address.Network, address: address.JoinHostPort(0)}
	if config.TLS != nil && !slices.Contains(config.TLS.ExceptPorts, fmt.Sprint(address.StartPort)) {
		u.tls, err = config.TLS.MakeTLSClientConfig(ctx)
		if err != nil {
			return nil, fmt.Errorf("upstream %q: TLS: %w", dial, err)
		}
		if u.tls == nil {
			u.tls = new(tls.Config)
		}
		switch {
		case u.tls.ServerName != "", address.IsUnixNetwork() && u.tls.InsecureSkipVerify:
		case address.IsUnixNetwork():
			return nil, fmt.Errorf("upstream %q: TLS on a Unix socket needs tls_server_name", dial)
		default:
			u.tls.ServerName = address.Host
		}
		if strings.Contains(u.tls.ServerName, "{") {
			return nil, fmt.Errorf("upstream %q: tls_server_name: placeholders that depend on the connection are not available yet", dial)
		}
		u.tlsWait = time.Duration(config.TLS.HandshakeTimeout)
	}
	known, _ := peers.LoadOrStore(u.address, new(peer))
	u.peer = known.(*peer)
	return u, nil
}

// close lets go of what is kept across configurations.
func (u *upstream) close() { _, _ = peers.Delete(u.address) }

// acquire counts a stream to the upstream, unless it has as many as it may.
func (u *upstream) acquire() bool {
	for {
		n := u.peer.streams.Load()
		if u.config.MaxConnections > 0 && n >= int64(u.config.MaxConnections) {
			return false
		}
		if u.peer.streams.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release ends what acquire began.
func (u *upstream) release() { u.peer.streams.Add(-1) }

// available reports whether acquire would succeed.
func (u *upstream) available() bool {
	return u.config.MaxConnections == 0 || u.peer.streams.Load() < int64(u.config.MaxConnections)
}

// dial connects to the upstream and sends the PROXY protocol header, if any, as
// the first bytes of the stream: within TLS, as caddy-l4's proxy does.
func (u *upstream) dial(ctx context.Context, header *proxyproto.Header, alpn string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, u.network, u.address)
	if err != nil {
		return nil, err
	}
	if u.tls != nil {
		if conn, err = u.handshake(ctx, conn, alpn); err != nil {
			return nil, err
		}
	}
	if header == nil {
		return conn, nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetWriteDeadline(deadline)
	}
	if _, err := header.WriteTo(conn); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("sending PROXY protocol header: %w", err)
	}
	return conn, conn.SetWriteDeadline(time.Time{})
}

// handshake begins TLS on conn, which it closes if that fails. The protocol that
// the client negotiated, if any, is the one that the upstream is offered.
func (u *upstream) handshake(ctx context.Context, conn net.Conn, alpn string) (net.Conn, error) {
	config := u.tls
	if alpn != "" {
		config = config.Clone()
		config.NextProtos = []string{alpn}
	}
	if u.tlsWait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, u.tlsWait)
		defer cancel()
	}
	tlsConn := tls.Client(conn, config)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return tlsConn, nil
}

// balancer chooses among upstreams.
type balancer interface {
	// choose returns one of the upstreams, which are at least one and all available.
	choose(among []*upstream, cx *layer4.Connection) *upstream
}

// newBalancer returns the balancer for a selection policy of caddy-l4's proxy.
// Policies that count streams or keep state by position are written here, since
// caddy-l4's read counters that only its own proxy keeps.
func newBalancer(ctx caddy.Context, config *l4proxy.LoadBalancing) (balancer, error) {
	if config == nil || config.SelectionPolicyRaw == nil {
		return selectorBalancer{new(l4proxy.RandomSelection)}, nil
	}
	var policy struct {
		Name string `json:"policy"`
	}
	if err := json.Unmarshal(config.SelectionPolicyRaw, &policy); err != nil {
		return nil, fmt.Errorf("selection policy: %w", err)
	}
	module, err := ctx.LoadModule(config, "SelectionPolicyRaw")
	if err != nil {
		return nil, fmt.Errorf("loading selection policy: %w", err)
	}
	switch selector := module.(type) {
	case *l4proxy.LeastConnSelection:
		return leastConn{}, nil
	case *l4proxy.RandomChoiceSelection:
		return randomChoose{selector.Choose}, nil
	case *l4proxy.WeightedRoundRobinSelection:
		return &weightedRoundRobin{current: make(map[*upstream]int)}, nil
	case l4proxy.Selector:
		return selectorBalancer{selector}, nil
	default:
		return nil, fmt.Errorf("selection policy %q is not a selector: %T", policy.Name, module)
	}
}

// selectorBalancer chooses by a policy module.
type selectorBalancer struct{ selector l4proxy.Selector }

func (b selectorBalancer) choose(among []*upstream, cx *layer4.Connection) *upstream {
	pool := make(l4proxy.UpstreamPool, len(among))
	for i, u := range among {
		pool[i] = u.config
	}
	chosen := b.selector.Select(pool, cx)
	for _, u := range among {
		if u.config == chosen {
			return u
		}
	}
	return among[0]
}

// leastConn chooses the upstream with the fewest streams, among equals at random.
type leastConn struct{}

func (leastConn) choose(among []*upstream, _ *layer4.Connection) *upstream {
	return fewestStreams(among)
}

func fewestStreams(among []*upstream) *upstream {
	var best *upstream
	var fewest int64
	equals := 0
	for _, u := range among {
		switch n := u.peer.streams.Load(); {
		case best == nil || n < fewest:
			best, fewest, equals = u, n, 1
		case n == fewest:
			// Each of k equals is kept with probability 1/k: reservoir sampling.
			if equals++; rand.IntN(equals) == 0 {
				best = u
			}
		}
	}
	return best
}

// randomChoose picks some upstreams at random and of those the one with the fewest
// streams.
type randomChoose struct{ number int }

func (b randomChoose) choose(among []*upstream, _ *layer4.Connection) *upstream {
	picked := slices.Clone(among)
	rand.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return fewestStreams(picked[:min(b.number, len(picked))])
}

// weightedRoundRobin chooses in turn, in proportion to weight, as smoothly as
// nginx's algorithm of that name: each upstream gains its weight, the highest is
// chosen and pays the total.
type weightedRoundRobin struct {
	mu      sync.Mutex
	current map[*upstream]int
}

func (b *weightedRoundRobin) choose(among []*upstream, _ *layer4.Connection) *upstream {
	b.mu.Lock()
	defer b.mu.Unlock()
	var best *upstream
	total := 0
	for _, u := range among {
		weight := max(u.config.Weight, 1)
		b.current[u] += weight
		total += weight
		if best == nil || b.current[u] > b.current[best] {
			best = u
		}
	}
	b.current[best] -= total
	return best
}

// Why no upstream was reached.
var (
	errNoUpstream = errors.New("no upstream available")
	errLeftDial   = errors.New("client went away while an upstream was dialled")
)
