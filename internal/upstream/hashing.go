package upstream

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net"

	"github.com/cespare/xxhash/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// Policies that hash choose what those of that name of Caddy's reverse_proxy choose for the same
// value of the same upstreams, so that a site and its streams meet at one server. caddy-l4's
// ip_hash has another hash.

// SelectByHash selects by a value: equal values get the same upstream of those that are
// available, in whatever order they are. Without a value it selects at random.
func SelectByHash(value string, pool l4proxy.UpstreamPool, client *layer4.Connection) *l4proxy.Upstream {
	if value == "" {
		return new(l4proxy.RandomSelection).Select(pool, client)
	}
	return rendezvous(value, pool)
}

// rendezvous selects the upstream of which the hash with the value is the greatest.
func rendezvous(value string, pool l4proxy.UpstreamPool) (chosen *l4proxy.Upstream) {
	var greatest uint64
	var hash xxhash.Digest
	for i, u := range pool {
		hash.Reset()
		_, _ = hash.WriteString(u.String())
		_, _ = hash.WriteString(value)
		if h := hash.Sum64(); (chosen == nil || h > greatest) && isAvailable(pool[i:i+1]) {
			greatest, chosen = h, u
		}
	}
	return chosen
}

// isAvailable reports whether the only upstream of a pool is available to caddy-l4's proxy,
// which keeps that to itself.
func isAvailable(one l4proxy.UpstreamPool) bool {
	return new(l4proxy.FirstSelection).Select(one, nil) != nil
}

// SelectByCookie selects the upstream that reverse_proxy has named in the value of a cookie, by
// its policy of that name and with that secret. Any other value is hashed.
func SelectByCookie(value, secret string, pool l4proxy.UpstreamPool, client *layer4.Connection) *l4proxy.Upstream {
	if len(value) == hex.EncodedLen(sha256.Size) {
		mac := hmac.New(sha256.New, []byte(secret))
		for i, u := range pool {
			mac.Reset()
			_, _ = mac.Write([]byte(u.String()))
			if hmac.Equal([]byte(hex.EncodeToString(mac.Sum(nil))), []byte(value)) && isAvailable(pool[i:i+1]) {
				return u
			}
		}
	}
	return SelectByHash(value, pool, client)
}

// ipHash selects by the client's address.
type ipHash struct{}

// Select implements l4proxy.Selector.
func (ipHash) Select(pool l4proxy.UpstreamPool, client *layer4.Connection) *l4proxy.Upstream {
	address := client.RemoteAddr().String()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	return rendezvous(host, pool)
}

// Certain implements Hasher.
func (ipHash) Certain(*layer4.Connection) bool { return true }

// Interface guards
var _ Hasher = ipHash{}
