package streamprox

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// Upstream is a server of relay. Its JSON is that of an upstream of caddy-l4's proxy handler,
// with the options below added.
type Upstream struct {
	l4proxy.Upstream

	// Send streams to it only while no upstream that is no backup is available.
	Backup bool `json:"backup,omitempty"`
}

// upstreamsOf returns the upstreams that caddy-l4 has read. backups are the indexes of those
// that are backups.
func upstreamsOf(proxy l4proxy.UpstreamPool, backups map[int]bool) (all []*Upstream) {
	for i, config := range proxy {
		all = append(all, &Upstream{Upstream: *config, Backup: backups[i]})
	}
	return all
}

// withoutBackup returns an option upstream without what caddy-l4 does not know, and whether
// it is a backup.
func withoutBackup(segment caddyfile.Segment) (rest caddyfile.Segment, backup bool, err error) {
	rest = append(rest, segment...)
	d := caddyfile.NewDispenser(rest)
	d.Next()
	d.RemainingArgs()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "backup" {
			d.RemainingArgs()
			continue
		}
		switch {
		case backup:
			return nil, false, d.Errf("duplicate option 'backup'")
		case d.CountRemainingArgs() > 0:
			return nil, false, d.Errf("option 'backup' takes no arguments")
		}
		backup = true
		rest = d.Delete()
	}
	return rest, backup, nil
}
