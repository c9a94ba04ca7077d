package streamprox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// destination is where an upstream is for one connection.
type destination struct {
	host, port string           // of a Unix socket the path, and ""
	serverName string           // for TLS
	local      []netip.AddrPort // where to dial from; the port 0 is any
}

// address returns what net.Dialer takes.
func (to destination) address() string {
	if to.port == "" {
		return to.host
	}
	return net.JoinHostPort(to.host, to.port)
}

// resolver looks up the addresses of a name, as *net.Resolver does.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// errNotAllowed is why an address that depends on the connection is not dialled. The
// client may have chosen it.
var errNotAllowed = errors.New("address is not one that dial_allow permits")

// errNoAddress is why an address that depends on the connection is none.
var errNoAddress = errors.New("its placeholders make no address")

// isFinal reports whether an upstream was not dialled for a reason that is none of its own
// and holds for the next attempt too: what the connection's placeholders stand for, or
// that there are no descriptors.
func isFinal(err error) bool {
	return errors.Is(err, errNotAllowed) || errors.Is(err, errNoAddress) || errors.Is(err, descriptors.ErrScarce)
}

// destination returns where the upstream is for the connection with these
// placeholders.
func (u *upstream) destination(repl *caddy.Replacer) (destination, error) {
	to := u.fixed
	if !u.dynamic {
		return to, nil
	}
	if hasPlaceholder(u.address) {
		address, err := expandAddress(u.address, repl)
		if err == nil {
			to.host, to.port, err = splitHostPort(address)
		}
		if err != nil {
			return to, fmt.Errorf("%w: %w", errNoAddress, err)
		}
	}
	if hasPlaceholder(to.serverName) {
		to.serverName = repl.ReplaceAll(to.serverName, "")
	}
	to.serverName = cmp.Or(to.serverName, to.host)
	for _, pattern := range u.local {
		if local, err := parseLocal(repl.ReplaceAll(pattern, "")); err == nil {
			to.local = append(to.local, local)
		}
	}
	return to, nil
}

// connect opens a connection to the destination. Where it resolves a name itself, the
// addresses that it has checked are those that it dials: asking again could give others.
func (u *upstream) connect(ctx context.Context, to destination) (net.Conn, error) {
	if u.network == "unix" || !u.dynamic && u.config.ResolverPreference == "" && len(to.local) == 0 {
		return dialSparing(ctx, net.Dialer{}, u.network, to.address())
	}
	addrs, err := u.lookup(ctx, to.host)
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

// share returns a context with an equal share of the time that ctx leaves for that
// many attempts.
func share(ctx context.Context, attempts int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(attempts))
}

// dialFrom dials an IP address from the first local address of its family that works;
// if none is of its family, from the one that the system chooses.
func dialFrom(ctx context.Context, local []netip.AddrPort, address string, ip netip.Addr) (net.Conn, error) {
	var err error
	for _, from := range local {
		if from.Addr().Is4() != ip.Is4() {
			continue
		}
		var conn net.Conn
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from)}
		if conn, err = dialSparing(ctx, dialer, "tcp", address); err == nil {
			return conn, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return dialSparing(ctx, net.Dialer{}, "tcp", address)
}

// lookup returns the addresses of host that the upstream may use, in the order in
// which to try them.
func (u *upstream) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	named := !u.dynamic || u.allow.host(host)
	if !named && len(u.allow.networks) == 0 {
		return nil, fmt.Errorf("%w: %s", errNotAllowed, host) // nor is anybody asked for it
	}
	var addrs []netip.Addr
	if literal, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{literal}
	} else if addrs, err = u.resolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	if !named {
		found := slices.Clone(addrs)
		addrs = slices.DeleteFunc(addrs, func(addr netip.Addr) bool { return !u.allow.address(addr) })
		if len(addrs) == 0 {
			return nil, fmt.Errorf("%w: %s, which has the addresses %v", errNotAllowed, host, found)
		}
	}
	return u.prefer(host, addrs)
}

// prefer returns those of the addresses of host that are of the family that network and
// resolver_preference ask for, those that are preferred first.
func (u *upstream) prefer(host string, addrs []netip.Addr) ([]netip.Addr, error) {
	only4 := u.network == "tcp4" || u.config.ResolverPreference == "ipv4_only"
	only6 := u.network == "tcp6" || u.config.ResolverPreference == "ipv6_only"
	addrs = slices.DeleteFunc(addrs, func(addr netip.Addr) bool { return only4 && !addr.Is4() || only6 && addr.Is4() })
	if len(addrs) == 0 {
		family := "IPv6"
		if only4 {
			family = "IPv4"
		}
		return nil, fmt.Errorf("%s has no %s address", host, family)
	}
	first4 := u.config.ResolverPreference != "ipv6_first"
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

// dialAllow is where placeholders of a connection may take it.
type dialAllow struct {
	hosts    []string // in lower case; an asterisk may stand for the first label
	networks []netip.Prefix
}

// newDialAllow returns what the entries of dial_allow permit.
func newDialAllow(entries []string) (dialAllow, error) {
	var allow dialAllow
	seen := make(map[string]bool)
	for _, entry := range entries {
		entry = strings.ToLower(caddy.NewReplacer().ReplaceKnown(entry, ""))
		if seen[entry] {
			return allow, fmt.Errorf("dial_allow: duplicate entry %q", entry)
		}
		seen[entry] = true
		network, err := caddyhttp.CIDRExpressionToPrefix(entry)
		switch {
		case err == nil && network.Addr().Is4In6():
			return allow, fmt.Errorf("dial_allow: %q: write it as IPv4", entry)
		case err == nil && strings.Contains(entry, "%"):
			return allow, fmt.Errorf("dial_allow: %q: an address here has no zone", entry)
		case err == nil:
			allow.networks = append(allow.networks, network)
		case strings.Contains(entry, "/"):
			return allow, fmt.Errorf("dial_allow: %w", err)
		case entry == "*":
			return allow, errors.New("dial_allow: * would permit every address, also those that only this machine reaches; if that is wanted use 0.0.0.0/0 and ::/0")
		case checkHostname(strings.TrimPrefix(entry, "*.")) != nil:
			return allow, fmt.Errorf("dial_allow: %q is neither a host, as in example.org or *.example.org, nor a network, as in 10.0.0.0/8", entry)
		default:
			allow.hosts = append(allow.hosts, entry)
		}
	}
	return allow, nil
}

// none reports whether nothing is permitted.
func (a dialAllow) none() bool { return len(a.hosts)+len(a.networks) == 0 }

// host reports whether the name may be dialled, whatever its addresses are. An asterisk
// stands for one label.
func (a dialAllow) host(name string) bool {
	_, parent, _ := strings.Cut(name, ".")
	return slices.Contains(a.hosts, name) || slices.Contains(a.hosts, "*."+parent)
}

// address reports whether the address may be dialled, whatever its name is.
func (a dialAllow) address(addr netip.Addr) bool {
	return slices.ContainsFunc(a.networks, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// expandAddress replaces the placeholders of an address. A host that becomes an IPv6
// address gets the brackets that it needs before a port.
func expandAddress(pattern string, repl *caddy.Replacer) (string, error) {
	literal := withoutPlaceholders(pattern)
	colon := strings.LastIndexByte(literal, ':')
	if colon < 0 || strings.Contains(literal[colon:], "]") {
		return repl.ReplaceOrErr(pattern, true, true)
	}
	host, err := repl.ReplaceOrErr(pattern[:colon], true, true)
	if err != nil {
		return "", err
	}
	port, err := repl.ReplaceOrErr(pattern[colon+1:], true, true)
	if err != nil {
		return "", err
	}
	if strings.Contains(port, ":") {
		return "", fmt.Errorf("%.20q is not a port", port)
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + port, nil
}

// splitHostPort splits an address that may come from a client: the host in lower case,
// and one numeric port.
func splitHostPort(address string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		if _, _, err := net.SplitHostPort(address + ":"); err == nil {
			return "", "", fmt.Errorf("%.300q has no port; for that of the request, or its default, write {l4.http.hostname}:{l4.http.port}", address)
		}
		return "", "", fmt.Errorf("%.300q is not a host and a port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", fmt.Errorf("%.20q is not a port", port)
	}
	host = strings.ToLower(host)
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		return host, port, nil
	}
	host = strings.TrimSuffix(host, ".")
	return host, port, checkHostname(host)
}

// checkHostname says why a name in lower case is none that can be looked up.
func checkHostname(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-_."
	if name == "" || len(name) > 253 ||
		strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") ||
		strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(letters, r) }) {
		return fmt.Errorf("%.300q is not a host name", name)
	}
	return nil
}

// parseLocal reads a local address, with or without a port.
func parseLocal(s string) (netip.AddrPort, error) {
	s = strings.TrimSpace(s)
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), 0), nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IP address, with or without a port, as in 10.0.0.1 or [2001:db8::1]:4000", s)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IP address", host)
	}
	n, err := strconv.ParseUint(cmp.Or(port, "0"), 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not a port", port)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

var placeholders = regexp.MustCompile(`\{[^{}]*\}`)

// hasPlaceholder reports whether s holds a placeholder. Those that do not depend on
// the connection have been replaced.
func hasPlaceholder(s string) bool { return placeholders.MatchString(s) }

// withoutPlaceholders returns s with other bytes in the place of its placeholders.
func withoutPlaceholders(s string) string {
	return placeholders.ReplaceAllStringFunc(s, func(p string) string { return strings.Repeat("_", len(p)) })
}

// splitNetwork splits an address with placeholders into its network and the rest. The
// network is never from a placeholder: a client could make a socket of this machine of
// it.
func splitNetwork(address string) (network, rest string, err error) {
	literal := withoutPlaceholders(address)
	slash := strings.IndexByte(literal, '/')
	if slash < 0 {
		return "tcp", address, nil
	}
	network = strings.ToLower(address[:slash])
	if network != strings.ToLower(literal[:slash]) {
		return "", "", errors.New("the network cannot be from a placeholder")
	}
	return network, address[slash+1:], nil
}
