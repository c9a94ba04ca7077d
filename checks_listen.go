package streamprox

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// What the addresses of a configuration show: two servers on one of them, datagrams for
// inspect, and an upstream that is the server itself.

// redirectServer is the name of the server that automatic HTTPS adds for its redirects.
const redirectServer = "remaining_auto_https_redirects"

// endpoint is a socket on which a server will listen.
type endpoint struct {
	key     string // the same for sockets between which the system splits clients
	address string // as configured
	server  string
	http    bool // of the HTTP app, else of the layer4 app
	udp     bool
}

func (s endpoint) String() string {
	if s.http {
		return "HTTP server " + s.server
	}
	return "layer4 server " + s.server
}

// checkAddresses refuses two sockets on one address, one of them of the layer4 app. The
// system does not: Caddy sets SO_REUSEPORT. http may be nil. Between its own servers
// the HTTP app compares itself.
func checkAddresses(servers map[string]layer4Server, http *caddyhttp.App) error {
	const split = "the system would split clients between them at random"
	taken := make(map[string]endpoint)
	for _, s := range layer4Endpoints(servers) {
		first, ok := taken[s.key]
		switch {
		case !ok:
			taken[s.key] = s
		case first.server == s.server:
			return fmt.Errorf("%s listens twice on %s%s; write the address once", s, s.address, first.otherwise(s))
		default:
			return fmt.Errorf("%s and %s both listen on %s%s: %s; put their routes into one server",
				first, s, s.address, first.otherwise(s), split)
		}
	}
	if http == nil {
		return nil
	}
	for _, s := range httpEndpoints(http) {
		first, ok := taken[s.key]
		if !ok {
			continue
		}
		fix := "add the missing 'bind " + networkName + "/<name>' to its sites, and send them what is theirs with 'http_app <name>'"
		switch {
		case s.udp:
			fix = "set 'protocols h1 h2' for the HTTP server, which offers HTTP/3 there, or give layer4 another port"
		case s.server == redirectServer:
			fix = "it holds the redirects of automatic HTTPS: turn them off with 'auto_https disable_redirects', or add 'bind " +
				networkName + "/<name>' to the sites, and send them both ports with 'http_app <name>'"
		}
		return fmt.Errorf("%s and %s both listen on %s%s: %s; %s", first, s, s.address, first.otherwise(s), split, fix)
	}
	return nil
}

// otherwise returns how the address of s is written, if that of other is written in another
// way.
func (s endpoint) otherwise(other endpoint) string {
	if s.address == other.address {
		return ""
	}
	return " (also written " + s.address + ")"
}

// layer4Endpoints returns the sockets of the layer4 app, in order.
func layer4Endpoints(servers map[string]layer4Server) (endpoints []endpoint) {
	for _, name := range sortedKeys(servers) {
		for _, address := range listenAddresses(servers[name].Listen) {
			endpoints = append(endpoints, endpointsOf(address, endpoint{server: name})...)
		}
	}
	return endpoints
}

// httpEndpoints returns the sockets of the HTTP app, in order: those of redirects last,
// since they are there because of others.
func httpEndpoints(app *caddyhttp.App) (endpoints []endpoint) {
	names := sortedKeys(app.Servers)
	if i := slices.Index(names, redirectServer); i >= 0 {
		names = append(slices.Delete(names, i, i+1), redirectServer)
	}
	for _, name := range names {
		server := app.Servers[name]
		for i, listen := range server.Listen {
			for _, address := range listenAddresses([]string{listen}) {
				endpoints = append(endpoints, httpEndpointsOf(app, name, i, address)...)
			}
		}
	}
	return endpoints
}

// httpEndpointsOf returns the sockets of the listen address with the number i, as
// caddyhttp opens them: TCP for HTTP/1 and 2, UDP for HTTP/3.
func httpEndpointsOf(app *caddyhttp.App, name string, i int, address caddy.NetworkAddress) (endpoints []endpoint) {
	protocols := protocolsOf(app.Servers[name], i)
	offers := func(protocol string) bool { return slices.Contains(protocols, protocol) }
	for _, at := range address.Expand() {
		tls := len(app.Servers[name].TLSConnPolicies) > 0 && at.StartPort != httpPort(app)
		if offers("h1") || offers("h2c") || offers("h2") && tls {
			endpoints = append(endpoints, endpointsOf(at, endpoint{server: name, http: true})...)
		}
		if offers("h3") && tls && strings.HasPrefix(at.Network, "tcp") {
			at.Network = "udp" + strings.TrimPrefix(at.Network, "tcp")
			endpoints = append(endpoints, endpointsOf(at, endpoint{server: name, http: true})...)
		}
	}
	return endpoints
}

// protocolsOf returns the protocols that a server offers on its listen address with the
// number i, whether it has been provisioned or not.
func protocolsOf(server *caddyhttp.Server, i int) []string {
	protocols := server.Protocols
	if len(protocols) == 0 {
		protocols = []string{"h1", "h2", "h3"}
	}
	if i >= len(server.ListenProtocols) || len(server.ListenProtocols[i]) == 0 {
		return protocols
	}
	own := server.ListenProtocols[i]
	if slices.Contains(own, "") { // those of the server, and more
		return slices.Concat(own, protocols)
	}
	return own
}

// httpPort returns the port on which the HTTP app serves no TLS.
func httpPort(app *caddyhttp.App) uint {
	if app.HTTPPort == 0 {
		return caddyhttp.DefaultHTTPPort
	}
	return uint(app.HTTPPort)
}

// listenAddresses parses addresses to listen on. Those that are wrong are left out: the
// servers say so.
func listenAddresses(listen []string) (addresses []caddy.NetworkAddress) {
	for _, l := range listen {
		if address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(l, "")); err == nil {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// endpointsOf returns the sockets of an address, one for each port, as copies of s. Ports
// that the system chooses are left out, and networks of other plugins.
func endpointsOf(address caddy.NetworkAddress, s endpoint) (endpoints []endpoint) {
	for _, at := range address.Expand() {
		s := s
		s.address = at.String()
		switch network := at.Network; {
		case at.IsUnixNetwork():
			s.key = "unix " + unixPath(at.Host)
		case at.IsFdNetwork():
			s.key = "fd " + at.Host
		case socket.IsTCP(network), isUDP(network):
			if at.StartPort == 0 {
				continue
			}
			s.udp = isUDP(network)
			s.key = fmt.Sprintf("%s %s %d", network[:3], listenHost(network, at.Host), at.StartPort)
		default:
			continue
		}
		endpoints = append(endpoints, s)
	}
	return endpoints
}

func isUDP(network string) bool { return network == "udp" || network == "udp4" || network == "udp6" }

// unixPath returns the path of a Unix socket without its permissions.
func unixPath(host string) string {
	path, _, _ := strings.Cut(host, "|")
	return path
}

// listenHost returns the host on which Go listens for a host as configured. "::" is all
// of IPv6, and of IPv4 what 0.0.0.0 and single addresses leave: without tcp4 or udp4, Go
// listens so for 0.0.0.0 too.
func listenHost(network, host string) string {
	ip, err := netip.ParseAddr(host)
	unspecified := host == "" || err == nil && ip.Unmap().IsUnspecified()
	switch {
	case unspecified && strings.HasSuffix(network, "4"):
		return "0.0.0.0"
	case unspecified:
		return "::"
	case strings.EqualFold(host, "localhost") && strings.HasSuffix(network, "6"):
		return "::1"
	case strings.EqualFold(host, "localhost"):
		return "127.0.0.1"
	}
	if err == nil {
		return ip.Unmap().String()
	}
	return strings.ToLower(host)
}

// refuseDatagrams refuses an inspect in a layer4 server that listens for datagrams.
func (c *checker) refuseDatagrams(listen []string) error {
	inspects := has(c.routes, func(h *configHandler) bool {
		return h.Name == "inspect" || h.hidesInspect()
	})
	if !inspects {
		return nil
	}
	for _, l := range listen {
		address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(l, ""))
		if err == nil && socket.IsDatagram(address.Network) {
			return fmt.Errorf("server %s listens on %s: inspect reads streams, not datagrams; move it to a server that listens on TCP or a Unix socket", c.server, l)
		}
	}
	return nil
}

// relayToItself warns of upstreams at which the server itself listens.
func (c *checker) relayToItself(h *configHandler) {
	for _, server := range h.Upstreams {
		for _, dial := range server.Dial {
			if listen, ok := leadsTo(dial, c.listen); ok {
				c.warn(h.route, "relay sends the stream back to the server it comes from",
					"name the address of another server; for a site of this process, bind it to streamprox/<name> and use 'http_app <name>'",
					zap.String("upstream", dial), zap.String("listen", listen))
			}
		}
	}
}

// leadsTo returns the address among listen that takes what is dialled at address, if
// that is certain.
func leadsTo(address string, listen []caddy.NetworkAddress) (string, bool) {
	address = caddy.NewReplacer().ReplaceKnown(address, "")
	to, err := caddy.ParseNetworkAddress(address)
	if err != nil || strings.Contains(address, "{") {
		return "", false
	}
	for _, l := range listen {
		switch {
		case to.IsUnixNetwork() && l.IsUnixNetwork() && unixPath(to.Host) == unixPath(l.Host),
			socket.IsTCP(to.Network) && socket.IsTCP(l.Network) &&
				l.StartPort <= to.StartPort && to.StartPort <= l.EndPort && listensFor(l, to):
			return l.String(), true
		}
	}
	return "", false
}

// listensFor reports whether a listener on the host of l gets what is dialled at that
// of to. Of this machine's addresses it knows the loopback ones.
func listensFor(l, to caddy.NetworkAddress) bool {
	own, dialled := listenHost(l.Network, l.Host), listenHost(to.Network, to.Host)
	if own == dialled {
		return true
	}
	ip, err := netip.ParseAddr(dialled)
	if err != nil || !ip.IsLoopback() && !ip.IsUnspecified() {
		return false
	}
	return own == "::" || own == "0.0.0.0" && (ip.Is4() || ip.IsUnspecified()) || ip.IsUnspecified() && isLoopback(own)
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
