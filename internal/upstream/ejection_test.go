package upstream

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// clientNumber is one of many clients.
func clientNumber(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 32)
}

// ejectionPool is a pool of servers at the given ports, the last of which are backups. The
// policy is first.
func ejectionPool(t *testing.T, maxFails, backups int, ports ...int) *Pool {
	t.Helper()
	var servers l4proxy.UpstreamPool
	for _, port := range ports {
		servers = append(servers, &l4proxy.Upstream{Dial: []string{fmt.Sprintf("127.0.0.1:%d", port)}})
	}
	return newTestPool(t, Options{
		Servers: servers, Backups: servers[len(servers)-backups:], Selector: new(l4proxy.FirstSelection),
		FailDuration: time.Minute, MaxFails: maxFails,
	})
}

// gets tests which server a client gets, and that Preview says the same.
func gets(t *testing.T, when string, p *Pool, want *Server) {
	t.Helper()
	client := &Client{Stream: clientOf("10.0.0.1")}
	r, err := p.Choose(client)
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	defer r.Release()
	if r.Server != want {
		t.Errorf("%s: got %s, want %s", when, r.Server, want)
	}
	preview := p.Preview(client.Stream)
	if len(preview.First) != 1 || preview.First[0] != want {
		t.Errorf("%s: preview says %v", when, addressesOf(preview.First))
	}
	for _, c := range preview.Servers {
		if c.Server == want && c.Out != "" || c.Ejected != c.ejected() {
			t.Errorf("%s: preview says of %s: %+v", when, c.Server, c)
		}
	}
}

// TestEjection checks how many clients it takes to eject a server, what clears it, and that the
// server gets streams again after the time.
func TestEjection(t *testing.T) {
	for _, test := range []struct{ maxFails, clients int }{{1, 3}, {3, 3}, {5, 5}} {
		t.Run(fmt.Sprint("max_fails ", test.maxFails), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := ejectionPool(t, test.maxFails, 0, 1, 2)
				bad, good := p.servers[0], p.servers[1]
				fail := func(client int) bool { return p.Failed(bad, clientNumber(client)) }
				eject := func() {
					t.Helper()
					for n := 1; n < test.clients; n++ {
						if fail(n) {
							t.Fatalf("ejected by %d clients", n)
						}
					}
					gets(t, "not yet", p, bad)
					if !fail(test.clients) {
						t.Fatalf("not ejected by %d clients", test.clients)
					}
				}
				for range 100 {
					if fail(1) {
						t.Fatal("ejected by one client")
					}
				}
				for n := range 100 { // a stream that goes well between two clients
					if fail(1) || fail(2+n) {
						t.Fatal("ejected though streams go well")
					}
					bad.Answered()
				}
				for n := range 100 { // clients that fail one after the other, too far apart
					if fail(n) {
						t.Fatal("ejected by failures that are forgotten")
					}
					time.Sleep(time.Minute)
				}
				eject()
				gets(t, "ejected", p, good)
				if out := p.Preview(clientOf("10.0.0.1")).Servers[0].Out; out != "it is ejected: streams to it have failed" {
					t.Errorf("out: got %q", out)
				}
				if kept, ok := p.Again(bad, &Client{Stream: clientOf("10.0.0.1")}); ok {
					kept.Release()
					t.Error("a kept connection to it is used again")
				}
				if fail(1) || fail(200) {
					t.Error("ejected twice")
				}
				bad.Answered() // a stream from before
				next := ejectionPool(t, test.maxFails, 0, 1, 2)
				gets(t, "after a reload", next, next.servers[1])
				if peer := peerOf("a", bad.peer); !peer.Ejected || !peer.Healthy {
					t.Errorf("the admin API says %+v", peer)
				}
				time.Sleep(time.Minute - time.Second)
				synctest.Wait()
				gets(t, "a second before", p, good)
				time.Sleep(time.Second)
				synctest.Wait()
				gets(t, "after the time", p, bad)
				if peer := peerOf("a", bad.peer); peer.Ejected {
					t.Errorf("the admin API says %+v", peer)
				}
				eject() // all is forgotten
				if status := Statuses()["127.0.0.1:1"]; status.Ejected != 2 {
					t.Errorf("counted %d ejections", status.Ejected)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
			})
		})
	}
}

// TestEjectionLeavesSome checks that no more than half of the addresses of a pool are ejected,
// and that those which are get streams when no other is available.
func TestEjectionLeavesSome(t *testing.T) {
	for _, test := range []struct {
		name    string
		backups int
		ports   []int
		want    []bool // whether the servers are ejected when all fail, in turn
		gets    int    // which one then gets streams
		left    int    // which one does when that is drained
	}{
		{"one", 0, []int{1}, []bool{false}, 0, -1},
		{"two", 0, []int{1, 2}, []bool{true, false}, 1, 0},
		{"three", 0, []int{1, 2, 3}, []bool{true, false, false}, 1, 2},
		{"four", 0, []int{1, 2, 3, 4}, []bool{true, true, false, false}, 2, 3},
		{"two of one address", 0, []int{1, 1, 2, 3}, []bool{true, true, false, false}, 2, 3},
		{"a backup", 1, []int{1, 2}, []bool{true, false}, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := ejectionPool(t, 1, test.backups, test.ports...)
				for range 2 { // those that come later are still there
					for _, s := range p.servers {
						for n := range 10 {
							p.Failed(s, clientNumber(n))
						}
					}
				}
				for i, s := range p.servers {
					if s.ejected() != test.want[i] {
						t.Errorf("%s: ejected is %t", s, s.ejected())
					}
				}
				gets(t, "all have failed", p, p.servers[test.gets])
				last := p.servers[test.gets].address
				SetDraining(last, true)
				if test.left >= 0 {
					gets(t, "the last one is drained", p, p.servers[test.left])
				} else if r, err := p.Choose(&Client{Stream: clientOf("10.0.0.1")}); err == nil {
					t.Errorf("got %s, which is drained", r.Server)
				}
				SetDraining(last, false)
				time.Sleep(time.Minute)
				synctest.Wait()
				gets(t, "at last", p, p.servers[0])
			})
		})
	}
}

// TestEjectionOptions checks whom an ejection concerns: not a pool that does not ask for it, and
// not a server whose address the client may have chosen.
func TestEjectionOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ejectionPool(t, 1, 0, 1, 2)
		carefree := newTestPool(t, Options{
			Servers:  l4proxy.UpstreamPool{{Dial: []string{"127.0.0.1:1"}}, {Dial: []string{"127.0.0.1:2"}}},
			Selector: new(l4proxy.FirstSelection),
		})
		allowed, err := ParseAllow([]string{"127.0.0.0/8"})
		if err != nil {
			t.Fatal(err)
		}
		chosen := newTestPool(t, Options{
			Servers:      l4proxy.UpstreamPool{{Dial: []string{"{l4.http.hostname}:1"}}, {Dial: []string{"127.0.0.1:2"}}},
			Allow:        allowed,
			FailDuration: time.Minute, MaxFails: 1,
		})
		for n := range 10 {
			if carefree.Failed(carefree.servers[0], clientNumber(n)) {
				t.Error("ejected by a pool without fail_duration")
			}
			if chosen.Failed(chosen.servers[0], clientNumber(n)) {
				t.Error("ejected a server that the client has chosen")
			}
		}
		for n := range 10 {
			p.Failed(p.servers[0], clientNumber(n))
		}
		gets(t, "ejected", p, p.servers[1])
		gets(t, "without fail_duration", carefree, carefree.servers[0])
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}

// TestEjectionIsBounded checks that no more clients are remembered than it takes to eject a server.
func TestEjectionIsBounded(t *testing.T) {
	p := ejectionPool(t, 5, 0, 1)
	for n := range 10_000 {
		p.Failed(p.servers[0], clientNumber(n))
	}
	if n := len(p.servers[0].peer.ejection.failed); n != 5 {
		t.Errorf("%d clients are remembered", n)
	}
}
