package upstream

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// startingServer is a testServer with slow start, which takes streams for that long.
func startingServer(name string, weight, streams int, since time.Duration) *Server {
	s := testServer(name, weight, streams)
	s.slowStart = time.Hour
	begin := time.Now().Add(-since)
	s.peer.upSince.Store(&begin)
	return s
}

// TestShareOfAServer checks the share of a server through its life: it grows with time, from a tenth,
// and begins anew whenever the server has been away.
func TestShareOfAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers := l4proxy.UpstreamPool{{Dial: []string{"127.0.0.1:1"}}}
		open := func() *Pool {
			return newTestPool(t, Options{Servers: servers, SlowStart: 100 * time.Second, MaxFails: 2})
		}
		p := open()
		s := p.servers[0]
		after := func(seconds int, want float64) {
			t.Helper()
			time.Sleep(time.Duration(seconds) * time.Second)
			synctest.Wait()
			if got := s.share(); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		}
		after(0, 0.1)
		after(10, 0.1)
		after(10, 0.2)
		after(40, 0.6)
		next := open() // a reload changes nothing
		p.Close()
		s = next.servers[0]
		after(0, 0.6)
		if got := peerOf("a", s.peer).Share; got != 0.6 {
			t.Errorf("the admin API says %v", got)
		}
		after(40, 1)
		after(1000, 1)

		SetDraining("127.0.0.1:1", true)
		after(0, 1)
		SetDraining("127.0.0.1:1", false)
		after(50, 0.5)
		SetDraining("127.0.0.1:1", false) // it was not drained
		after(50, 1)

		s.peer.fail(10 * time.Second)
		after(20, 1) // one failed dial is not too many
		s.peer.fail(10 * time.Second)
		s.peer.fail(20 * time.Second)
		if s.available() {
			t.Error("available, with as many failed dials as max_fails")
		}
		after(10, 0.1)
		after(50, 0.5)
		after(50, 1)

		s.verdict = s.peer.openVerdict("x", "x")
		after(0, 1)
		s.verdict.record(false, 1, 1)
		s.verdict.record(true, 1, 1)
		after(30, 0.3)
		s.peer.record(false, 1, 1)
		s.peer.record(true, 1, 1)
		after(20, 0.2)
	})
}

// TestSlowStart checks how each policy takes shares into account, and foretells.
func TestSlowStart(t *testing.T) {
	for _, test := range []struct {
		policy    string
		may       string // what is foretold
		least, of int    // choices of the new server, of 10000
	}{
		// A share of one half beside one whole is a third.
		{"", "new old", 3000, 3700},
		{`{"policy":"random"}`, "new old", 3000, 3700},
		{`{"policy":"round_robin"}`, "old", 3000, 3700},
		{`{"policy":"weighted_round_robin"}`, "old", 3330, 3340},
		{`{"policy":"first"}`, "new", 10000, 10000},
	} {
		t.Run(test.policy, func(t *testing.T) {
			among := []*Server{startingServer("new", 0, 0, time.Hour/2), startingServer("old", 0, 0, 2*time.Hour)}
			p := testPolicy(t, test.policy)
			client := clientOf("10.0.0.1")
			if got := strings.Join(addressesOf(p.would(among, client)), " "); got != test.may {
				t.Errorf("would %q, want %q", got, test.may)
			}
			got := 0
			for range 10000 {
				would := p.would(among, client)
				chose := p.choose(among, client)
				if !slices.Contains(would, chose) {
					t.Fatalf("chose %s, would have %v", chose, addressesOf(would))
				}
				if chose == among[0] {
					got++
				}
			}
			if got < test.least || got > test.of {
				t.Errorf("got %d of 10000 streams, want %d to %d", got, test.least, test.of)
			}
		})
	}
}

// TestSlowStartByStreams: where streams count, a new server gets no more than its share of what
// the others have.
func TestSlowStartByStreams(t *testing.T) {
	for _, policy := range []string{`{"policy":"least_conn"}`, `{"policy":"random_choose","choose":3}`} {
		among := []*Server{startingServer("a", 0, 99, 2*time.Hour), startingServer("b", 0, 99, 2*time.Hour), startingServer("new", 0, 0, 0)}
		p := testPolicy(t, policy)
		for range 30 {
			p.choose(among, clientOf("10.0.0.1")).peer.acquire(0)
		}
		// The eleventh stream would make it as busy as one of 10 × 11 streams.
		if got := among[2].peer.taken.Load(); got < 10 || got > 11 {
			t.Errorf("%s: the new server has %d streams, want a tenth of the others' 100 to 110", policy, got)
		}
	}
}

// TestSlowStartOfAll: servers that are all new share alike, and hashes do not move.
func TestSlowStartOfAll(t *testing.T) {
	fresh := []*Server{startingServer("a", 0, 0, 0), startingServer("b", 0, 0, 0), startingServer("c", 0, 0, 0)}
	if shares := sharesOf(fresh); shares != nil {
		t.Errorf("got %v", shares)
	}
	mixed := []*Server{startingServer("a", 0, 0, 0), startingServer("b", 0, 0, 2*time.Hour), testServer("c", 0, 0)}
	plain := []*Server{testServer("a", 0, 0), testServer("b", 0, 0), testServer("c", 0, 0)}
	p := testPolicy(t, `{"policy":"ip_hash"}`)
	for i := range 50 {
		client := clientOf("10.0.0." + string(rune('0'+i%10)))
		if got, want := p.choose(mixed, client).address, p.choose(plain, client).address; got != want {
			t.Errorf("ip_hash sends a client to %s while a server starts, and to %s else", got, want)
		}
	}
	if SlowStarts(new(l4proxy.IPHashSelection)) || SlowStarts(new(l4proxy.FirstSelection)) || SlowStarts(new(counting)) || !SlowStarts(nil) {
		t.Error("SlowStarts does not say what policies do")
	}
}
