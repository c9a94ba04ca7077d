package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"github.com/pires/go-proxyproto"
)

// Preview says which server a stream would be sent to now. Nothing is counted or reserved,
// and nobody is dialled or looked up.
type Preview struct {
	Servers []Candidate // all, in the order of the configuration
	First   []*Server   // one of them is tried first; if there are several, at random …
	Foreign bool        // … or as the policy of another plugin says, which was not asked

	// The PROXY protocol header that the stream begins with; nil: none.
	Header []byte
}

// Candidate is a server of a pool as it is now.
type Candidate struct {
	*Server
	Streams int64   // that it has
	Out     string  // why no stream is sent to it; "" if one may be
	Backup  bool    // it is used while no other is available
	Ejected bool    // streams to it have failed: it is used when no other is available
	Share   float64 // the part of its share of the streams that slow start gives it; 1: all
}

// Preview returns what Choose would do for the client.
func (p *Pool) Preview(client *layer4.Connection) Preview {
	var preview Preview
	among := p.availableOf(false, false, nil)
	for _, others := range []struct{ backups, ejected bool }{{true, false}, {false, true}, {true, true}} {
		if len(among) == 0 {
			among = p.availableOf(others.backups, others.ejected, nil)
		}
	}
	for _, s := range p.servers {
		c := Candidate{Server: s, Streams: s.peer.taken.Load(), Out: s.out(), Backup: s.backup, Ejected: s.ejected(), Share: s.share()}
		if c.Ejected && slices.Contains(among, s) {
			c.Out = "" // there are no others
		} else if c.Out == "" && s.backup && len(among) > 0 && !among[0].backup {
			c.Out = "it is a backup, and another one is available"
		}
		preview.Servers = append(preview.Servers, c)
	}
	if len(among) > 0 {
		preview.First = p.policy.would(among, client)
	}
	if selector, ok := p.policy.(selectorPolicy); ok {
		preview.Foreign = selector.isForeign()
	}
	if p.options.ProxyProtocol != 0 {
		header := proxyproto.HeaderProxyFromAddrs(p.options.ProxyProtocol, client.RemoteAddr(), client.LocalAddr())
		preview.Header, _ = header.Format()
	}
	return preview
}

// out returns why no stream may be sent to the server, or "".
func (s *Server) out() string {
	switch {
	case s.available():
		return ""
	case s.down():
		return "health checks find it down"
	case s.peer.draining.Load():
		return "it is drained: it gets no new streams"
	case s.peer.failed(s.maxFails):
		return "dials have failed"
	case s.ready():
		return "it is ejected: streams to it have failed"
	default:
		return "it has as many streams as it may have"
	}
}

// errLookup says that it takes a look-up to know whether dial_allow permits an address.
var errLookup = errors.New("its name is looked up, and each address must be in dial_allow")

// AddressFor returns where the server is for the client. An error says why no stream would
// be sent there, or, with an address, on what that depends.
func (s *Server) AddressFor(client *layer4.Connection) (string, error) {
	if !s.perClient {
		return s.address, nil
	}
	to, err := s.target(client.Replacer())
	if err != nil {
		return "", err
	}
	if s.allow.host(to.host) {
		return to.address(), nil
	}
	addr, err := netip.ParseAddr(to.host)
	switch {
	case err == nil && s.allow.address(addr.Unmap()):
		return to.address(), nil
	case err == nil || len(s.allow.networks) == 0:
		return "", fmt.Errorf("%w: %s", errNotAllowed, to.host)
	default:
		return to.address(), errLookup
	}
}

// TLS reports whether the server gets its streams over TLS.
func (s *Server) TLS() bool { return s.tls != nil }

// Selector returns what chooses among the servers; nil: chance.
func (p *Pool) Selector() l4proxy.Selector { return p.options.Selector }
