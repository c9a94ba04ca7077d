package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Allow is where placeholders that depend on a client may lead: the client may have chosen
// their values. The zero value permits nothing.
type Allow struct {
	hosts    []string // in lower case; an asterisk may stand for the first label
	networks []netip.Prefix
}

// ParseAllow returns what entries of dial_allow permit: hosts, as in example.org and
// *.example.org, and networks, as in 10.0.0.0/8.
func ParseAllow(entries []string) (Allow, error) {
	var allow Allow
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

// None reports whether nothing is permitted.
func (a Allow) None() bool { return len(a.hosts)+len(a.networks) == 0 }

// host reports whether the name may be dialled, whatever its addresses are. An asterisk
// stands for one label.
func (a Allow) host(name string) bool {
	_, parent, _ := strings.Cut(name, ".")
	return slices.Contains(a.hosts, name) || slices.Contains(a.hosts, "*."+parent)
}

// address reports whether the address may be dialled, whatever its name is.
func (a Allow) address(addr netip.Addr) bool {
	return slices.ContainsFunc(a.networks, func(network netip.Prefix) bool { return network.Contains(addr) })
}
