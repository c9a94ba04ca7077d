package upstream

import (
	"strings"
	"testing"

	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// TestBackup checks when a backup is used: while no other server is available, whatever keeps
// the others out, and for no longer.
func TestBackup(t *testing.T) {
	servers := l4proxy.UpstreamPool{
		{Dial: []string{"127.0.0.1:1"}, MaxConnections: 1},
		{Dial: []string{"127.0.0.1:2"}},
		{Dial: []string{"127.0.0.1:3"}},
	}
	for policy, selector := range map[string]l4proxy.Selector{"first": new(l4proxy.FirstSelection), "ip_hash": new(l4proxy.IPHashSelection), "random": nil} {
		t.Run(policy, func(t *testing.T) {
			p := newTestPool(t, Options{Servers: servers, Backups: servers[1:], Selector: selector, MaxFails: 1})
			primary, backup := p.servers[0], p.servers[1]
			client := &Client{Stream: clientOf("10.0.0.1")}
			uses := func(when string, want *Server, excluded ...*Server) {
				t.Helper()
				r, err := p.Choose(client, excluded...)
				if err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				defer r.Release()
				if (want == primary) != (r.Server == primary) {
					t.Errorf("%s: got %s", when, r.Server)
				}
				if len(excluded) == 0 {
					preview := p.Preview(client.Stream)
					waits := strings.HasPrefix(preview.Servers[1].Out, "it is a backup")
					if r.Server != primary && waits || preview.Servers[0].Backup || !preview.Servers[1].Backup {
						t.Errorf("%s: got preview %+v", when, preview.Servers)
					}
				}
			}
			uses("at first", primary)
			uses("after a dial that has failed", backup, primary)

			r, _ := p.Choose(client)
			uses("full", backup)
			r.Release()
			uses("not full", primary)

			SetDraining("127.0.0.1:1", true)
			uses("drained", backup)
			kept, _ := p.Choose(client)
			SetDraining("127.0.0.1:1", false)
			uses("not drained", primary)
			if again, ok := p.Again(kept.Server, client); ok {
				t.Error("a kept connection to the backup is used again, though another server is available")
				again.Release()
			}
			kept.Release()

			primary.peer.down.Store(true)
			uses("down", backup)
			primary.peer.down.Store(false)
			primary.peer.fails.Store(1)
			uses("dials have failed", backup)
			if kept, _ := p.Choose(client); kept != nil {
				again, ok := p.Again(kept.Server, client)
				if !ok {
					t.Error("a kept connection to the backup is not used again, though nothing else is available")
				}
				again.Release()
				kept.Release()
			}
			primary.peer.fails.Store(0)
			uses("at last", primary)
			if preview := p.Preview(client.Stream); preview.Servers[1].Out == "" || len(preview.First) != 1 {
				t.Errorf("got preview %+v", preview)
			}
		})
	}
}

// TestPeerIsBackup: an address is a backup if it is one to each pool that has it.
func TestPeerIsBackup(t *testing.T) {
	servers := l4proxy.UpstreamPool{{Dial: []string{"127.0.0.1:1"}}, {Dial: []string{"127.0.0.1:2"}}}
	p := newTestPool(t, Options{Servers: servers, Backups: servers[1:]})
	if a, b := peerOf("a", p.servers[0].peer), peerOf("b", p.servers[1].peer); a.Backup || !b.Backup {
		t.Errorf("got backup %t and %t", a.Backup, b.Backup)
	}
	newTestPool(t, Options{Servers: servers[1:]})
	if peerOf("b", p.servers[1].peer).Backup {
		t.Error("the first choice of a pool counts as backup")
	}
}
