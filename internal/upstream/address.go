package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// setAddress sets where the server is. Placeholders that do not depend on the client have
// been replaced.
func (s *Server) setAddress(dial string) error {
	var err error
	if HasPlaceholder(dial) {
		s.perClient = true
		s.network, s.address, err = splitNetwork(dial)
	} else {
		err = s.setFixedAddress(dial)
	}
	switch {
	case err != nil:
		return err
	case socket.IsDatagram(s.network):
		return errors.New("relay carries streams, not datagrams")
	case !socket.IsTCP(s.network) && s.network != "unix":
		return fmt.Errorf("unknown network %q: use tcp, tcp4, tcp6 or unix", s.network)
	case s.perClient && s.network == "unix":
		return errors.New("the path of a Unix socket cannot depend on the connection")
	}
	return nil
}

// setFixedAddress is setAddress for an address without placeholders.
func (s *Server) setFixedAddress(dial string) error {
	address, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return err
	}
	if socket.IsTCP(address.Network) && (address.StartPort == 0 || address.PortRangeSize() != 1) {
		return errors.New("want one port, as in 10.0.0.5:9000")
	}
	s.network, s.address, s.fixed.host = address.Network, address.JoinHostPort(0), address.Host
	if !address.IsUnixNetwork() {
		s.fixed.port = strconv.FormatUint(uint64(address.StartPort), 10)
	}
	return nil
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

// HasPlaceholder reports whether s holds a placeholder.
func HasPlaceholder(s string) bool { return placeholders.MatchString(s) }

// withoutPlaceholders returns s with other bytes in the place of its placeholders.
func withoutPlaceholders(s string) string {
	return placeholders.ReplaceAllStringFunc(s, func(p string) string { return strings.Repeat("_", len(p)) })
}
