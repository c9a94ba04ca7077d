package upstream

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/caddy-l4/modules/l4proxy"
)

func TestAcquire(t *testing.T) {
	s := testServer("a", 0, 0)
	for range 100 {
		if !s.available() || !s.peer.acquire(s.maxConnections) {
			t.Fatal("without max_connections: got refused, want no limit")
		}
	}
	for range 100 {
		s.peer.release()
	}

	s.maxConnections = 2
	for i, want := range []bool{true, true, false, false} {
		if got := s.available(); got != want {
			t.Errorf("stream %d: got available %t, want %t", i, got, want)
		}
		if got := s.peer.acquire(s.maxConnections); got != want {
			t.Errorf("stream %d: got acquired %t, want %t", i, got, want)
		}
	}
	s.peer.release()
	if !s.available() || !s.peer.acquire(s.maxConnections) {
		t.Errorf("after a stream ended: got refused, want admitted")
	}
	s.peer.release()
	s.peer.release()
	if got := s.peer.taken.Load(); got != 0 {
		t.Errorf("after all streams ended: got %d, want 0", got)
	}
}

// TestAcquireConcurrently checks that there are never more streams than
// max_connections, and that the count goes down again.
func TestAcquireConcurrently(t *testing.T) {
	const limit = 5
	s := testServer("a", 0, 0)
	s.maxConnections = limit
	var streams, acquired atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				if !s.peer.acquire(s.maxConnections) {
					continue
				}
				if n := streams.Add(1); n > limit {
					t.Errorf("got %d streams at once, want at most %d", n, limit)
				}
				acquired.Add(1)
				streams.Add(-1)
				s.peer.release()
			}
		})
	}
	wg.Wait()
	if acquired.Load() == 0 {
		t.Error("got no stream at all")
	}
	if got := s.peer.taken.Load(); got != 0 {
		t.Errorf("after all streams ended: got %d counted, want 0", got)
	}
}

// TestPeersOutliveConfigurations checks that the streams to an address are counted
// together, whoever names it, and forgotten when nobody does.
func TestPeersOutliveConfigurations(t *testing.T) {
	const address = "tcp/127.0.0.1:9"
	open := func() *Pool {
		return newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{address}, MaxConnections: 1}}})
	}
	client := &Client{Stream: clientOf("10.0.0.1")}
	old := open()
	to, err := old.Choose(client)
	if err != nil {
		t.Fatal("first stream: got refused")
	}
	replacing := open()
	old.Close()
	if _, err := replacing.Choose(client); ReasonOf(err) != NoneAvailable {
		t.Error("a stream of the old configuration was not counted in the new one")
	}
	to.Release()
	to.Release()
	for i, admitted := range []bool{true, false} {
		if _, err := replacing.Choose(client); (err == nil) != admitted {
			t.Errorf("stream %d after the old one has ended: got error %v, want admitted %t", i, err, admitted)
		}
	}
	if !Known(address) {
		t.Error("the address is not known, though a pool names it")
	}
	replacing.Close()
	if Known(address) {
		t.Error("the address is still known after the last pool that names it")
	}
}

// TestPeersOfOtherNetworks: what is known of an address over IPv4 says nothing of the
// same name over IPv6.
func TestPeersOfOtherNetworks(t *testing.T) {
	seen := make(map[*peer]string)
	for _, address := range []string{"tcp4/localhost:9", "tcp6/localhost:9", "tcp/localhost:9", "unix//run/localhost:9"} {
		s := newTestServer(t, &l4proxy.Upstream{Dial: []string{address}})
		if other, known := seen[s.peer]; known {
			t.Errorf("%s and %s share what is known of them", address, other)
		}
		seen[s.peer] = address
	}
}

// TestRecord checks when an address goes down and up. In results and states a letter
// stands for each check: + passed or up, - failed or down.
func TestRecord(t *testing.T) {
	tests := []struct {
		name       string
		rise, fall int
		results    string
		states     string
	}{
		{"at once", 1, 1, "+-+--+", "+-+--+"},
		{"falls after two", 1, 2, "-+--+-+", "+++-+++"},
		{"falls after three", 1, 3, "--+---", "+++++-"},
		{"rises after two", 2, 1, "-+-++-", "----+-"},
		{"rises after three, falls after two", 3, 2, "--++-+++--", "+------++-"},
		{"up for long", 3, 2, "++++++-+--", "+++++++++-"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := new(peer)
			before := byte('+')
			for i, result := range test.results {
				changed := p.record(result == '+', test.rise, test.fall)
				got := byte('+')
				if p.down.Load() {
					got = '-'
				}
				if got != test.states[i] {
					t.Fatalf("after %s: got %c, want %c", test.results[:i+1], got, test.states[i])
				}
				if changed != (got != before) {
					t.Errorf("after %s: got changed %t, want %t", test.results[:i+1], changed, got != before)
				}
				before = got
			}
		})
	}
}

// TestUnwatch checks that an address which nobody checks any more is not down for ever,
// and that one which somebody else still checks stays as it is.
func TestUnwatch(t *testing.T) {
	p := new(peer)
	p.watch()
	p.record(false, 1, 1)
	p.watch() // that of the next configuration comes before the last one ends
	p.unwatch()
	if !p.down.Load() {
		t.Error("after a reload: got up, want down as before")
	}
	p.unwatch()
	if p.down.Load() {
		t.Error("after the last check ended: got down, want up")
	}
	p.watch()
	if p.record(false, 1, 2); p.down.Load() {
		t.Error("after one failed check of a new series: got down, want the second one awaited")
	}
}

// TestFails checks that failed dials make a server unavailable, and are forgotten.
func TestFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testServer("a", 0, 0)
		s.maxFails = 2
		want := func(when string, available bool) {
			t.Helper()
			synctest.Wait()
			if got := s.available(); got != available {
				t.Errorf("%s: got available %t, want %t", when, got, available)
			}
		}
		s.peer.fail(10 * time.Second)
		want("after one failure", true)
		time.Sleep(4 * time.Second)
		s.peer.fail(10 * time.Second)
		want("after two failures", false)
		time.Sleep(5 * time.Second)
		want("9 s after the first", false)
		time.Sleep(time.Second)
		want("10 s after the first", true)
		s.peer.fail(10 * time.Second)
		want("after a third", false)
		time.Sleep(10 * time.Second)
		want("when all are forgotten", true)
		if got := s.peer.fails.Load(); got != 0 {
			t.Errorf("got %d failures, want 0", got)
		}
	})
}

func TestAvailable(t *testing.T) {
	for _, test := range []struct {
		name     string
		down     bool
		fails    int64
		maxFails int
		streams  int64
		max      int
		want     bool
	}{
		{"up", false, 0, 0, 0, 0, true},
		{"down", true, 0, 0, 0, 0, false},
		{"fails do not matter", false, 9, 0, 0, 0, true},
		{"fewer fails", false, 1, 2, 0, 0, true},
		{"as many fails", false, 2, 2, 0, 0, false},
		{"fewer streams", false, 0, 0, 1, 2, true},
		{"as many streams", false, 0, 0, 2, 2, false},
		{"all but the streams", true, 2, 2, 1, 2, false},
	} {
		s := testServer("a", 0, int(test.streams))
		s.maxConnections, s.maxFails = test.max, test.maxFails
		s.peer.down.Store(test.down)
		s.peer.fails.Store(test.fails)
		if got := s.available(); got != test.want {
			t.Errorf("%s: got %t, want %t", test.name, got, test.want)
		}
	}
}
