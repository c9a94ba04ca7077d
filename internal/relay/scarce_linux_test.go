package relay

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// leaveReserve lets the process have so few descriptors until the end of the test that
// only the reserve is left, which is enough for all that the test opens.
func leaveReserve(t *testing.T) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	scarce := before
	scarce.Cur = uint64(2*len(entries) - 4) // half of so few is the reserve
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &scarce); err != nil {
		t.Fatal(err)
	}
	const counts = 1 << 30 // a number that makes it count, in case it has not yet
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
		descriptors.Saw(counts)
		for !descriptors.Take(1) { // until it has counted again
		}
		descriptors.Unused(1)
	})
	descriptors.Saw(counts)
}

// TestEventScarce: a stream gets no descriptors of its own from the reserve.
func TestEventScarce(t *testing.T) {
	warned := make(chan error, 10)
	e := &Event{Warn: func(_ string, err error) { warned <- err }}
	s := Stream{}
	l := &link{}
	s.Client, l.client = connect(t, "tcp")
	s.Upstream, l.upstream = connect(t, "tcp")
	leaveReserve(t)
	l.start(t, e, s)
	transfer(t, l, []byte("hello"))
	l.client.Close()
	l.upstream.Close()
	if got := l.account(t).Engine; got != "portable" {
		t.Errorf("engine: got %s, want portable", got)
	}
	if err := <-warned; !errors.Is(err, descriptors.ErrScarce) {
		t.Errorf("warned of %v, want %v", err, descriptors.ErrScarce)
	}
}

// TestPipesScarce: nor does a pipe.
func TestPipesScarce(t *testing.T) {
	leaveReserve(t)
	var ps pipes
	if p, err := ps.take(1); p != nil || !errors.Is(err, descriptors.ErrScarce) {
		t.Errorf("got %v (%v), want no pipe for %v", p, err, descriptors.ErrScarce)
	}
	if p, err := ps.take(2); p != nil || err != nil {
		t.Errorf("soon after: got %v (%v), want none without asking", p, err)
	}
}
