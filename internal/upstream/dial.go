package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/pires/go-proxyproto"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// resolver looks up the addresses of a name, as *net.Resolver does.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// dial connects to the server and sends the PROXY protocol header, if any, as the first
// bytes of the stream: within TLS, as caddy-l4's proxy does.
func (s *Server) dial(ctx context.Context, repl *caddy.Replacer, header *proxyproto.Header, alpn string) (net.Conn, error) {
	to, err := s.target(repl)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx, to)
	if err != nil {
		return nil, err
	}
	if s.tls != nil && !slices.Contains(s.config.TLS.ExceptPorts, to.port) {
		if conn, err = s.handshake(ctx, conn, to.serverName, alpn); err != nil {
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

// target returns where the server is for the client with these placeholders.
func (s *Server) target(repl *caddy.Replacer) (target, error) {
	to := s.fixed
	if !s.perClient {
		return to, nil
	}
	if HasPlaceholder(s.address) {
		address, err := expandAddress(s.address, repl)
		if err == nil {
			to.host, to.port, err = splitHostPort(address)
		}
		if err != nil {
			return to, fmt.Errorf("%w: %w", errNoAddress, err)
		}
	}
	if HasPlaceholder(to.serverName) {
		to.serverName = repl.ReplaceAll(to.serverName, "")
	}
	to.serverName = cmp.Or(to.serverName, to.host)
	for _, pattern := range s.local {
		if local, err := parseLocal(repl.ReplaceAll(pattern, "")); err == nil {
			to.local = append(to.local, local)
		}
	}
	return to, nil
}

// address returns what net.Dialer takes.
func (to target) address() string {
	if to.port == "" {
		return to.host
	}
	return net.JoinHostPort(to.host, to.port)
}

// connect opens a connection to the target. Where it resolves a name itself, the addresses
// that it has checked are those that it dials: asking again could give others.
func (s *Server) connect(ctx context.Context, to target) (net.Conn, error) {
	if s.network == "unix" || !s.perClient && s.config.ResolverPreference == "" && len(to.local) == 0 {
		return dialSparingly(ctx, net.Dialer{}, s.network, to.address())
	}
	addrs, err := s.lookup(ctx, to.host)
	if err != nil {
		return nil, err
	}
	var first error
	for i, addr := range addrs {
		attempt, cancel := share(ctx, len(addrs)-i)
		conn, err := dialFrom(attempt, to.local, net.JoinHostPort(addr.String(), to.port), addr)
		cancel()
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil || errors.Is(err, descriptors.ErrScarce) {
			break
		}
	}
	return nil, first
}

// lookup returns the addresses of host that the server may have, in the order in which to
// try them.
func (s *Server) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	named := !s.perClient || s.allow.host(host)
	if !named && len(s.allow.networks) == 0 {
		return nil, fmt.Errorf("%w: %s", errNotAllowed, host) // without a look-up that a client has chosen
	}
	var addrs []netip.Addr
	if literal, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{literal}
	} else if addrs, err = s.resolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	if !named {
		found := slices.Clone(addrs)
		addrs = slices.DeleteFunc(addrs, func(addr netip.Addr) bool { return !s.allow.address(addr) })
		if len(addrs) == 0 {
			return nil, fmt.Errorf("%w: %s, which has the addresses %v", errNotAllowed, host, found)
		}
	}
	return s.prefer(host, addrs)
}

// prefer returns those of the addresses of host that are of the family that network and
// resolver_preference ask for, those that are preferred first.
func (s *Server) prefer(host string, addrs []netip.Addr) ([]netip.Addr, error) {
	only4 := s.network == "tcp4" || s.config.ResolverPreference == "ipv4_only"
	only6 := s.network == "tcp6" || s.config.ResolverPreference == "ipv6_only"
	addrs = slices.DeleteFunc(addrs, func(addr netip.Addr) bool { return only4 && !addr.Is4() || only6 && addr.Is4() })
	if len(addrs) == 0 {
		family := "IPv6"
		if only4 {
			family = "IPv4"
		}
		return nil, fmt.Errorf("%s has no %s address", host, family)
	}
	first4 := s.config.ResolverPreference != "ipv6_first"
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int {
		switch {
		case a.Is4() == b.Is4():
			return 0
		case a.Is4() == first4:
			return -1
		default:
			return 1
		}
	})
	return addrs, nil
}

// share returns a context with an equal share of the time that ctx leaves for that many
// attempts.
func share(ctx context.Context, attempts int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(attempts))
}

// dialFrom dials an IP address from the first local address of its family that works; if
// none is of its family, from the one that the system chooses.
func dialFrom(ctx context.Context, local []netip.AddrPort, address string, ip netip.Addr) (net.Conn, error) {
	var err error
	for _, from := range local {
		if from.Addr().Is4() != ip.Is4() {
			continue
		}
		var conn net.Conn
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from)}
		if conn, err = dialSparingly(ctx, dialer, "tcp", address); err == nil {
			return conn, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return dialSparingly(ctx, net.Dialer{}, "tcp", address)
}

// dialSparingly dials as d does, which has no Control, unless that took one of the
// descriptors that are kept for accepting. Then, and where none is left at all, the error is
// descriptors.ErrScarce, which says nothing of the address.
func dialSparingly(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
	if !descriptors.Take(1) {
		return nil, descriptors.ErrScarce
	}
	// Settled as soon as there is a socket: until then it counts twice. A name with several
	// addresses may get several sockets, one after the other or side by side.
	var opened atomic.Bool
	d.Control = func(_, _ string, raw syscall.RawConn) error {
		if opened.CompareAndSwap(false, true) {
			return raw.Control(descriptors.Opened)
		}
		return raw.Control(descriptors.Saw)
	}
	conn, err := d.DialContext(ctx, network, address)
	if opened.CompareAndSwap(false, true) {
		descriptors.Unused(1)
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return nil, fmt.Errorf("%w: %w", descriptors.ErrScarce, err)
	}
	return conn, err
}

// handshake begins TLS on conn, which it closes if that fails. The protocol that the client
// has negotiated, if any, is the one that the server is offered.
func (s *Server) handshake(ctx context.Context, conn net.Conn, serverName, alpn string) (net.Conn, error) {
	config := s.tls
	if alpn != "" || serverName != config.ServerName {
		config = config.Clone()
		config.ServerName = serverName
		if alpn != "" {
			config.NextProtos = []string{alpn}
		}
	}
	if s.tlsWait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.tlsWait)
		defer cancel()
	}
	tlsConn := tls.Client(conn, config)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	return tlsConn, nil
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
