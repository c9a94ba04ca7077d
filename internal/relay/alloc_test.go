//go:build !race

package relay

import "testing"

func TestPortableAllocations(t *testing.T) { testAllocations(t, newPortable(nil)) }

// testAllocations: once started a stream moves bytes without allocating, and its timer
// is not touched.
func testAllocations(t *testing.T, e Engine) {
	l := relayed(t, e, "tcp", Stream{IdleTimeout: patience, HalfCloseTimeout: patience})
	ping, got := make([]byte, 1000), make([]byte, 1000)
	allocs := testing.AllocsPerRun(1000, func() {
		l.client.Write(ping)
		l.upstream.Read(got)
		l.upstream.Write(ping)
		l.client.Read(got)
	})
	if allocs != 0 {
		t.Errorf("allocations a round trip: got %v, want 0", allocs)
	}
}
