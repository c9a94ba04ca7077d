package upstream

import (
	"testing"

	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// TestReservationAgain checks that a reservation which is moved, released and renewed counts
// once, and gives its place back once.
func TestReservationAgain(t *testing.T) {
	p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{"127.0.0.1:9"}, MaxConnections: 1}}})
	s := p.servers[0]
	counts := func(want int64, after string) {
		t.Helper()
		if got := s.peer.taken.Load(); got != want {
			t.Errorf("after %s: got %d places taken, want %d", after, got, want)
		}
	}
	first, err := p.Choose(&Client{Stream: clientOf("10.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	var r Reservation
	r.TakeOver(first)
	first.Release()
	counts(1, "releasing what was taken over")
	r.Release()
	r.Release()
	counts(0, "releasing it")
	if !p.Renew(&r, nil) {
		t.Fatal("a free place was refused")
	}
	counts(1, "renewing it")
	other := Reservation{Server: s}
	if p.Renew(&other, nil) {
		t.Error("got a place more than there are")
	}
	r.Release()
	counts(0, "releasing it once more")
	s.peer.down.Store(true)
	if p.Renew(&r, nil) {
		t.Error("got a place at a server that is down")
	}
	s.peer.down.Store(false)

	var late Reservation
	late.TakeOver(&r)
	late.Release()
	counts(0, "releasing what was taken over after its release")
}
