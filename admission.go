package streamprox

import (
	"net"
	"net/netip"
	"sync"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Which new connections are not inspected, but reset at once: those above the limits of
// inspect, and all while descriptors are scarce.

// admit counts a new connection as under inspection until leave is called. It reports false
// if a limit is reached: then the connection will be reset.
func (h *Inspect) admit(cx *layer4.Connection) (leave func(), ok bool) {
	leave, ok = h.pending.enter(cx.RemoteAddr())
	if !ok {
		h.refused.refusal(h.logger, "too many connections under inspection; resetting new ones")
		socket.ResetOnClose(cx)
		h.ledger.logRefusal(cx, "max_pending")
	}
	return leave, ok
}

// scarcity tells of what was refused for want of descriptors, for all handlers together.
var scarcity limitedLog

// shed reports whether descriptors are scarce: then the new connection cx will be reset.
// caddy-l4's listeners, and its listener wrapper, end for good when an accept fails for want
// of one.
func shed(cx *layer4.Connection, first socket.Reader, logger *zap.Logger) bool {
	first.Control(descriptors.Saw)
	if !descriptors.Scarce() {
		return false
	}
	refusedScarce.count()
	scarcity.refusal(logger, "descriptors are scarce; resetting new connections")
	socket.ResetOnClose(cx)
	return true
}

// pendingLimits counts the connections under inspection, in total and by client.
// The zero value has no limits.
type pendingLimits struct {
	max      int // 0 = no limit
	maxPerIP int // 0 = no limit

	mu    sync.Mutex
	total int
	perIP map[netip.Prefix]int
}

// enter counts a connection from client, unless a limit is reached. It counts until leave is
// called, once.
func (p *pendingLimits) enter(client net.Addr) (leave func(), ok bool) {
	if p.max == 0 && p.maxPerIP == 0 {
		return func() {}, true
	}
	ip, hasIP := clientPrefix(client)
	byIP := p.maxPerIP > 0 && hasIP

	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.max > 0 && p.total >= p.max:
		refusedPending.count()
		return nil, false
	case byIP && p.perIP[ip] >= p.maxPerIP:
		refusedPendingByIP.count()
		return nil, false
	}
	p.total++
	if byIP {
		if p.perIP == nil {
			p.perIP = make(map[netip.Prefix]int)
		}
		p.perIP[ip]++
	}
	return func() { p.leave(ip, byIP) }, true
}

func (p *pendingLimits) leave(ip netip.Prefix, byIP bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total--
	if !byIP {
		return
	}
	if p.perIP[ip]--; p.perIP[ip] == 0 {
		delete(p.perIP, ip)
	}
}

// clientPrefix returns what counts as one client: an IPv4 address, or the /64 that
// an IPv6 address is in, since one subscriber commonly has all of it. A Unix peer
// has none.
func clientPrefix(client net.Addr) (netip.Prefix, bool) {
	if client == nil {
		return netip.Prefix{}, false
	}
	addrPort, err := netip.ParseAddrPort(client.String())
	if err != nil {
		return netip.Prefix{}, false
	}
	ip := addrPort.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	prefix, err := ip.Prefix(bits)
	return prefix, err == nil
}
