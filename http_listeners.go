package streamprox

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// httpListeners are the addresses on the virtual network at which a name is served. Either
// may be empty. If a port was asked for, both are the listener on it.
type httpListeners struct {
	name  string
	plain string // for HTTP
	tls   string // for HTTPS

	toPlain, toTLS *atomic.Uint64 // connections delivered there
}

func (t *httpListeners) empty() bool { return t.plain == "" && t.tls == "" }

// bind returns the directive that binds a site to the name.
func (t *httpListeners) bind() string {
	name := t.name
	if name == "" {
		name = "web"
	}
	return "bind " + networkName + "/" + name
}

// choose returns the address for a stream that begins as TLS, or does not.
func (t *httpListeners) choose(isTLS bool) string {
	if isTLS {
		return t.tls
	}
	return t.plain
}

// findHTTPListeners looks for the listeners of a name, or name:port, or of the only
// name, among the servers of the HTTP app.
func findHTTPListeners(ctx caddy.Context, listener string) (*httpListeners, error) {
	name, port, err := splitListener(listener)
	if err != nil {
		return nil, err
	}
	found := &httpListeners{name: name}
	module, err := ctx.AppIfConfigured("http")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	bound := boundListeners(module.(*caddyhttp.App))
	if name == "" {
		var names []string
		for _, b := range bound {
			names = append(names, b.name)
		}
		switch names = slices.Compact(names); len(names) {
		case 0:
			return found, nil
		case 1:
			found.name = names[0]
		default:
			return nil, fmt.Errorf("http_app needs a name, since several are bound to %s: %s", networkName, strings.Join(names, ", "))
		}
	}

	var plain, tls []string
	for _, b := range bound {
		switch {
		case b.name != found.name:
		case port != "" && b.port != port:
		case port != "":
			found.plain, found.tls = b.address(), b.address()
			return found, nil
		case b.tls:
			tls = append(tls, b.address())
		default:
			plain = append(plain, b.address())
		}
	}
	for kind, addresses := range map[string][]string{"HTTPS": tls, "HTTP": plain} {
		if len(addresses) > 1 {
			return nil, fmt.Errorf("http_app %s: several %s listeners have that name (%s); name one of them with its port",
				found.name, kind, strings.Join(addresses, ", "))
		}
	}
	found.plain, found.tls = strings.Join(plain, ""), strings.Join(tls, "")
	return found, nil
}

// splitListener splits name, or name:port, as http_app takes it.
func splitListener(listener string) (name, port string, err error) {
	if !strings.Contains(listener, ":") {
		return listener, "", nil
	}
	if name, port, err = net.SplitHostPort(listener); err != nil {
		return "", "", fmt.Errorf("listener %q: %w", listener, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || name == "" {
		return "", "", fmt.Errorf("listener %q: use <name> or <name>:<port>", listener)
	}
	return name, port, nil
}

// boundListener is a listener on the virtual network, as configured.
type boundListener struct {
	name, port string
	tls        bool
	server     string
}

func (b boundListener) address() string { return net.JoinHostPort(b.name, b.port) }

// boundListeners returns the listeners of app on the virtual network, in order.
func boundListeners(app *caddyhttp.App) []boundListener {
	var bound []boundListener
	for name, server := range app.Servers {
		for _, address := range listenAddresses(server.Listen) {
			if address.Network != networkName {
				continue
			}
			for port := address.StartPort; port <= address.EndPort; port++ {
				bound = append(bound, boundListener{
					name:   address.Host,
					port:   strconv.FormatUint(uint64(port), 10),
					tls:    len(server.TLSConnPolicies) > 0 && port != httpPort(app),
					server: name,
				})
			}
		}
	}
	slices.SortFunc(bound, func(a, b boundListener) int { return strings.Compare(a.address(), b.address()) })
	return bound
}
