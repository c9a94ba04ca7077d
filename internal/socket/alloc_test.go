//go:build !race

package socket

import "testing"

// TestReadAllocations: a reader of a socket allocates nothing, whether it waits or not.
func TestReadAllocations(t *testing.T) {
	near, far := connect(t, "tcp")
	r := NewReader(near)
	ping := []byte("ping")
	if allocs := testing.AllocsPerRun(1000, func() {
		_, _ = far.Write(ping)
		p, err := r.Read(100)
		if err != nil {
			t.Fatal(err)
		}
		GiveBack(p)
	}); allocs != 0 {
		t.Errorf("got %v allocations, want none", allocs)
	}
}
