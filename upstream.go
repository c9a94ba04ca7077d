package streamprox

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"github.com/pires/go-proxyproto"
)

// upstream is a server that relay may dial.
type upstream struct {
	config   *l4proxy.Upstream
	network  string      // tcp, tcp4, tcp6 or unix
	address  string      // with the placeholders that depend on the connection
	fixed    destination // the part that does not
	dynamic  bool        // some of it does: placeholders are left in address, fixed.serverName or local
	local    []string    // local addresses, if placeholders are left in any
	allow    dialAllow   // where such placeholders may lead
	resolver resolver
	tls      *tls.Config   // nil: no TLS
	tlsWait  time.Duration // for the handshake; 0 = as long as the dial may take
	maxFails int           // failed dials until it counts as down; 0 = no limit
	peer     *peer
}

// newUpstream checks the configuration of an upstream. The caller closes it.
func newUpstream(ctx caddy.Context, config *l4proxy.Upstream, allow dialAllow) (*upstream, error) {
	if err := checkOneAddress(config); err != nil {
		return nil, err
	}
	u := &upstream{config: config, allow: allow, resolver: net.DefaultResolver}
	dial := caddy.NewReplacer().ReplaceKnown(config.Dial[0], "")
	err := checkDial(dial)
	if err == nil {
		err = u.setAddress(dial)
	}
	if err == nil {
		err = u.setLocal()
	}
	if err == nil {
		err = u.setTLS(ctx)
	}
	if err == nil {
		err = u.checkOptions()
	}
	if err != nil {
		return nil, fmt.Errorf("upstream %q: %w", dial, err)
	}
	known, _ := peers.LoadOrStore(u.key(), new(peer))
	u.peer = known.(*peer)
	return u, nil
}

// checkOneAddress refuses what makes caddy-l4's proxy send a stream to several servers
// at once.
func checkOneAddress(config *l4proxy.Upstream) error {
	if len(config.Dial) == 1 {
		return nil
	}
	return fmt.Errorf("dial: want one address, got %d (%s); relay sends a stream to one server, so make each address an upstream of its own",
		len(config.Dial), strings.Join(config.Dial, " "))
}

// setAddress sets where the upstream is.
func (u *upstream) setAddress(dial string) (err error) {
	if hasPlaceholder(dial) {
		u.dynamic = true
		u.network, u.address, err = splitNetwork(dial)
	} else {
		var address caddy.NetworkAddress
		address, err = caddy.ParseNetworkAddress(dial)
		u.network, u.address = address.Network, address.JoinHostPort(0)
		u.fixed.host = address.Host
		if !address.IsUnixNetwork() {
			u.fixed.port = fmt.Sprint(address.StartPort)
		}
		if err == nil && (u.network == "tcp" || u.network == "tcp4" || u.network == "tcp6") &&
			(address.StartPort == 0 || address.PortRangeSize() != 1) {
			return errors.New("want one port, as in 10.0.0.5:9000")
		}
	}
	switch {
	case err != nil:
		return err
	case isDatagram(u.network):
		return errors.New("relay carries streams, not datagrams")
	case u.network != "tcp" && u.network != "tcp4" && u.network != "tcp6" && u.network != "unix":
		return fmt.Errorf("unknown network %q: use tcp, tcp4, tcp6 or unix", u.network)
	case u.dynamic && u.network == "unix":
		return errors.New("the path of a Unix socket cannot depend on the connection")
	}
	return nil
}

// setLocal sets the local addresses to dial from.
func (u *upstream) setLocal() error {
	if u.network == "unix" && len(u.config.LocalAddrs) > 0 {
		return errors.New("a Unix socket has no local_address (local_addr)")
	}
	var patterns []string
	for _, pattern := range u.config.LocalAddrs {
		pattern = caddy.NewReplacer().ReplaceKnown(pattern, "")
		patterns = append(patterns, pattern)
		if hasPlaceholder(pattern) {
			u.dynamic, u.local = true, patterns
			continue
		}
		local, err := parseLocal(pattern)
		if err != nil {
			return fmt.Errorf("local_address (local_addr): %w", err)
		}
		u.fixed.local = append(u.fixed.local, local)
	}
	if u.local != nil {
		u.local, u.fixed.local = patterns, nil
	}
	return nil
}

// setTLS sets how the upstream speaks TLS, if it does.
func (u *upstream) setTLS(ctx caddy.Context) (err error) {
	config := u.config.TLS
	if config == nil || !hasPlaceholder(u.address) && slices.Contains(config.ExceptPorts, u.fixed.port) {
		return nil
	}
	if u.tls, err = config.MakeTLSClientConfig(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	if u.tls == nil {
		u.tls = new(tls.Config)
	}
	u.tlsWait = time.Duration(config.HandshakeTimeout)
	u.fixed.serverName = caddy.NewReplacer().ReplaceKnown(u.tls.ServerName, "")
	switch {
	case hasPlaceholder(u.fixed.serverName):
		u.dynamic = true
	case u.fixed.serverName != "", u.network == "unix" && u.tls.InsecureSkipVerify:
	case u.network == "unix":
		return errors.New("TLS on a Unix socket needs tls_server_name")
	default:
		u.fixed.serverName = u.fixed.host
	}
	u.tls.ServerName = u.fixed.serverName
	return nil
}

// checkOptions says which options do not go together.
func (u *upstream) checkOptions() error {
	preference := u.config.ResolverPreference
	switch preference {
	case "", "ipv4_first", "ipv6_first":
	case "ipv4_only", "ipv6_only":
		family4 := preference == "ipv4_only"
		if u.network == "tcp4" && !family4 || u.network == "tcp6" && family4 {
			return fmt.Errorf("resolver_preference %s leaves no address for the network %s", preference, u.network)
		}
		if len(u.fixed.local) > 0 && !slices.ContainsFunc(u.fixed.local, func(from netip.AddrPort) bool { return from.Addr().Is4() == family4 }) {
			return fmt.Errorf("resolver_preference %s leaves no local_address (local_addr) to dial from", preference)
		}
	default:
		return fmt.Errorf("resolver_preference: unknown value %q: use ipv4_only, ipv6_only, ipv4_first or ipv6_first", preference)
	}
	if literal, err := netip.ParseAddr(u.fixed.host); err == nil && u.network != "unix" {
		if _, err := u.prefer(u.fixed.host, []netip.Addr{literal.Unmap()}); err != nil {
			return err
		}
	}
	switch {
	case u.config.Weight < 0:
		return fmt.Errorf("weight: %w", errWeight(u.config.Weight))
	case u.config.MaxConnections < 0:
		return fmt.Errorf("max_connections: %d is less than 0", u.config.MaxConnections)
	case u.dynamic && u.allow.none():
		return errors.New("placeholders that depend on the connection need dial_allow, with the hosts and networks that they may lead to")
	}
	return nil
}

// key is what the upstream is known by across configurations. tcp4 and tcp6 may lead to
// two servers, of which one is down.
func (u *upstream) key() string { return u.network + "/" + u.address }

// close lets go of what is kept across configurations.
func (u *upstream) close() { _, _ = peers.Delete(u.key()) }

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

// available reports whether a stream may be sent to the upstream.
func (u *upstream) available() bool {
	switch {
	case u.config.MaxConnections > 0 && u.peer.streams.Load() >= int64(u.config.MaxConnections):
		return false
	case u.maxFails > 0 && u.peer.fails.Load() >= int64(u.maxFails):
		return false
	default:
		return !u.peer.down.Load()
	}
}

// dial connects to the upstream and sends the PROXY protocol header, if any, as
// the first bytes of the stream: within TLS, as caddy-l4's proxy does.
func (u *upstream) dial(ctx context.Context, repl *caddy.Replacer, header *proxyproto.Header, alpn string) (net.Conn, error) {
	to, err := u.destination(repl)
	if err != nil {
		return nil, err
	}
	conn, err := u.connect(ctx, to)
	if err != nil {
		return nil, err
	}
	if u.tls != nil && !slices.Contains(u.config.TLS.ExceptPorts, to.port) {
		if conn, err = u.handshake(ctx, conn, to.serverName, alpn); err != nil {
			return nil, err
		}
	}
	if header != nil {
		if err := announce(ctx, conn, header); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("sending PROXY protocol header: %w", err)
		}
	}
	return conn, nil
}

// announce sends the PROXY protocol header.
func announce(ctx context.Context, conn net.Conn, header *proxyproto.Header) error {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetWriteDeadline(deadline)
	}
	if _, err := header.WriteTo(conn); err != nil {
		return err
	}
	return conn.SetWriteDeadline(time.Time{})
}

// handshake begins TLS on conn, which it closes if that fails. The protocol that
// the client negotiated, if any, is the one that the upstream is offered.
func (u *upstream) handshake(ctx context.Context, conn net.Conn, serverName, alpn string) (net.Conn, error) {
	config := u.tls
	if alpn != "" || serverName != config.ServerName {
		config = config.Clone()
		config.ServerName = serverName
		if alpn != "" {
			config.NextProtos = []string{alpn}
		}
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
