package upstream

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/modules/l4proxy"

	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Server is a server that a pool may dial, as its configuration says.
type Server struct {
	config    *l4proxy.Upstream // what selectors know it by
	network   string            // tcp, tcp4, tcp6 or unix
	address   string            // with the placeholders that depend on the client
	fixed     target            // the part that does not depend on the client
	perClient bool              // some of it does: placeholders are left in address, fixed.serverName or local
	local     []string          // local addresses, if placeholders are left in any
	allow     Allow             // where such placeholders may lead
	resolver  resolver
	direct    netip.AddrPort // where socket.Connect leads to the server; zero: dial it
	tls       *tls.Config    // nil: no TLS
	tlsWait   time.Duration  // for the handshake; 0: as long as the dial may take

	slowStart      time.Duration   // how long it takes until it gets its share; 0: at once
	backup         bool            // used while no other is available
	maxConnections int             // 0: no limit
	maxFails       int             // failed dials that make it unavailable; 0: they do not matter
	group          *relay.Registry // see Group

	check   *httpCheck // by HTTP; nil: none, or by connecting alone
	verdict *verdict   // of its own active checks, one of the peer's; nil: there are none

	peer *peer
}

// target is where a server is for one client.
type target struct {
	host, port string           // of a Unix socket the path, and ""
	serverName string           // for TLS
	local      []netip.AddrPort // where to dial from; the port 0 is any
}

// newServer checks the configuration of a server. The caller closes it.
func newServer(ctx caddy.Context, config *l4proxy.Upstream, options *Options) (*Server, error) {
	if err := CheckOneAddress(config); err != nil {
		return nil, err
	}
	s := &Server{
		config:         config,
		allow:          options.Allow,
		resolver:       net.DefaultResolver,
		maxConnections: cmp.Or(config.MaxConnections, options.MaxConnections),
		maxFails:       options.MaxFails,
		slowStart:      options.SlowStart,
		backup:         slices.Contains(options.Backups, config),
	}
	dial := caddy.NewReplacer().ReplaceKnown(config.Dial[0], "")
	err := explainAddress(dial)
	if err == nil {
		err = s.setAddress(dial)
	}
	if err == nil {
		err = s.setLocal()
	}
	if err == nil {
		err = s.setTLS(ctx)
	}
	if err == nil {
		err = s.checkOptions()
	}
	if err == nil {
		err = s.setCheck(ctx, options)
	}
	if err != nil {
		return nil, fmt.Errorf("upstream %q: %w", dial, err)
	}
	s.setDirect(options)
	s.peer = openPeer(s.key())
	s.setVerdict(options)
	s.peer.join(s) // from here on others look at it
	return s, nil
}

// CheckOneAddress refuses what makes caddy-l4's proxy send a stream to several servers at
// once.
func CheckOneAddress(config *l4proxy.Upstream) error {
	if len(config.Dial) == 1 {
		return nil
	}
	return fmt.Errorf("dial: want one address, got %d (%s); relay sends a stream to one server, so make each address an upstream of its own",
		len(config.Dial), strings.Join(config.Dial, " "))
}

// CheckWeight refuses a weight below 1.
func CheckWeight(weight int) error {
	if weight >= 1 {
		return nil
	}
	return fmt.Errorf("%d is not 1 or more; to send nothing to an upstream, leave it out", weight)
}

// setLocal sets the local addresses to dial from.
func (s *Server) setLocal() error {
	if s.network == "unix" && len(s.config.LocalAddrs) > 0 {
		return errors.New("a Unix socket has no local_address (local_addr)")
	}
	var patterns []string
	var addresses []netip.AddrPort
	for _, pattern := range s.config.LocalAddrs {
		pattern = caddy.NewReplacer().ReplaceKnown(pattern, "")
		patterns = append(patterns, pattern)
		if HasPlaceholder(pattern) {
			continue
		}
		address, err := parseLocal(pattern)
		if err != nil {
			return fmt.Errorf("local_address (local_addr): %w", err)
		}
		addresses = append(addresses, address)
	}
	if len(addresses) < len(patterns) {
		s.perClient, s.local = true, patterns
	} else {
		s.fixed.local = addresses
	}
	return nil
}

// setTLS sets how the server speaks TLS, if it does.
func (s *Server) setTLS(ctx caddy.Context) (err error) {
	config := s.config.TLS
	if config == nil || !HasPlaceholder(s.address) && slices.Contains(config.ExceptPorts, s.fixed.port) {
		return nil
	}
	if s.tls, err = config.MakeTLSClientConfig(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	if s.tls == nil {
		s.tls = new(tls.Config)
	}
	s.tlsWait = time.Duration(config.HandshakeTimeout)
	s.fixed.serverName = caddy.NewReplacer().ReplaceKnown(s.tls.ServerName, "")
	switch {
	case HasPlaceholder(s.fixed.serverName):
		s.perClient = true
	case s.fixed.serverName != "", s.network == "unix" && s.tls.InsecureSkipVerify:
	case s.network == "unix":
		return errors.New("TLS on a Unix socket needs tls_server_name")
	default:
		s.fixed.serverName = s.fixed.host
	}
	s.tls.ServerName = s.fixed.serverName
	return nil
}

// setDirect sets direct, if a connection to one literal address is all there is to a dial.
func (s *Server) setDirect(options *Options) {
	host, err := netip.ParseAddr(s.fixed.host)
	port, portErr := strconv.ParseUint(s.fixed.port, 10, 16)
	if socket.CanConnect && err == nil && host.Zone() == "" && portErr == nil && s.network != "unix" &&
		!s.perClient && len(s.fixed.local) == 0 && s.tls == nil && options.ProxyProtocol == 0 {
		s.direct = netip.AddrPortFrom(host.Unmap(), uint16(port))
	}
}

// checkOptions refuses options that do not go together.
func (s *Server) checkOptions() error {
	preference := s.config.ResolverPreference
	switch preference {
	case "", "ipv4_first", "ipv6_first":
	case "ipv4_only", "ipv6_only":
		family4 := preference == "ipv4_only"
		if s.network == "tcp4" && !family4 || s.network == "tcp6" && family4 {
			return fmt.Errorf("resolver_preference %s leaves no address for the network %s", preference, s.network)
		}
		if len(s.fixed.local) > 0 && !slices.ContainsFunc(s.fixed.local, func(from netip.AddrPort) bool { return from.Addr().Is4() == family4 }) {
			return fmt.Errorf("resolver_preference %s leaves no local_address (local_addr) to dial from", preference)
		}
	default:
		return fmt.Errorf("resolver_preference: unknown value %q: use ipv4_only, ipv6_only, ipv4_first or ipv6_first", preference)
	}
	if literal, err := netip.ParseAddr(s.fixed.host); err == nil && s.network != "unix" {
		if _, err := s.prefer(s.fixed.host, []netip.Addr{literal.Unmap()}); err != nil {
			return err
		}
	}
	if s.config.Weight != 0 {
		if err := CheckWeight(s.config.Weight); err != nil {
			return fmt.Errorf("weight: %w", err)
		}
	}
	switch {
	case s.config.MaxConnections < 0:
		return fmt.Errorf("max_connections: %d is less than 0", s.config.MaxConnections)
	case s.perClient && s.allow.None():
		return errors.New("placeholders that depend on the connection need dial_allow, with the hosts and networks that they may lead to")
	}
	return nil
}

// String returns the address as it is configured.
func (s *Server) String() string { return s.address }

// AddressOf returns the address that conn, which was dialled, leads to: as it is configured,
// unless that depends on the client.
func (s *Server) AddressOf(conn net.Conn) string {
	if s.perClient {
		return conn.RemoteAddr().String()
	}
	return s.address
}

// Group returns where streams to the server are registered, so that they end when health
// checks find it down. Nil: they go on.
func (s *Server) Group() *relay.Registry { return s.group }

// key is what the peer of the server is known by. tcp4 and tcp6 may lead to two servers, of
// which one is down.
func (s *Server) key() string { return s.network + "/" + s.address }

// close lets go of the peer.
func (s *Server) close() {
	s.peer.part(s)
	if s.check != nil {
		s.peer.closeVerdict(s.check.asked)
		s.check = nil // once
	}
	closePeer(s.key())
}

// available reports whether streams are sent to the server.
func (s *Server) available() bool { return s.ready() && !s.ejected() }

// ready reports whether a stream may be sent to the server, be it ejected or not.
func (s *Server) ready() bool {
	return !s.peer.full(s.maxConnections) && s.healthy() && !s.peer.draining.Load()
}

// healthy reports whether neither failed dials nor health checks count against the server.
func (s *Server) healthy() bool { return !s.peer.failed(s.maxFails) && !s.down() }
