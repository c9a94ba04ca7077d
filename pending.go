package streamprox

import (
	"net"
	"net/netip"
	"sync"
)

// pendingLimits counts the connections under inspection, in total and by client.
// The zero value has no limits.
type pendingLimits struct {
	max      int // 0 = no limit
	maxPerIP int // 0 = no limit

	mu    sync.Mutex
	total int
	perIP map[netip.Prefix]int
}

// acquire admits a connection from client, unless a limit is reached. The
// connection leaves by release, which is called once.
func (p *pendingLimits) acquire(client net.Addr) (release func(), ok bool) {
	if p.max == 0 && p.maxPerIP == 0 {
		return func() {}, true
	}
	ip, hasIP := clientPrefix(client)
	byIP := p.maxPerIP > 0 && hasIP

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max > 0 && p.total >= p.max || byIP && p.perIP[ip] >= p.maxPerIP {
		return nil, false
	}
	p.total++
	if byIP {
		if p.perIP == nil {
			p.perIP = make(map[netip.Prefix]int)
		}
		p.perIP[ip]++
	}
	return func() { p.release(ip, byIP) }, true
}

func (p *pendingLimits) release(ip netip.Prefix, byIP bool) {
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
