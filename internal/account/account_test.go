package account

import (
	"net"
	"sync"
	"testing"
	"time"
	"unsafe"
)

func TestID(t *testing.T) {
	a, b := NewID(), NewID()
	if a == b || a>>32 != b>>32 {
		t.Errorf("got %s and %s, want two of one process", a, b)
	}
	if got, err := ParseID(a.String()); err != nil || got != a {
		t.Errorf("got %s, %v, want %s", got, err, a)
	}
	for _, bad := range []string{"", "1", "g000000000000000", "00000000000000000", "-000000000000001", "+000000000000001"} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("%q: got %s, want an error", bad, id)
		}
	}
}

func TestRecord(t *testing.T) {
	var table Table
	r := table.Begin(Summary{Host: "example.com"}, "log")
	if r.Log != "log" || table.Len() != 1 || table.Find(r.Read().ID) != r || len(table.All()) != 1 {
		t.Error("it is not in its table")
	}
	r.Meter().Delivered(Up, 3)
	r.Meter().Delivered(Down, 4)
	r.Meter().Delivered(Down, 5)
	r.Meter().Responded(0)
	r.Meter().Responded(101)
	r.Meter().Responded(200) // frames may look like a response
	r.Change(func(s *Summary) { s.Upstream = "u" })
	got := r.Read()
	if got.Up != 3 || got.Down != 9 || got.Status != 101 || got.Upstream != "u" || got.Host != "example.com" || got.FirstByte <= 0 || got.Age < got.FirstByte || got.Idle < 0 {
		t.Errorf("got %+v", got)
	}
	end, first := r.End()
	if !first || end.Up != 3 || end.State != Ended {
		t.Errorf("the end: got %+v, %v", end, first)
	}
	if _, first := r.End(); first {
		t.Error("it has ended twice")
	}
	if table.Len() != 0 || table.Find(got.ID) != nil || len(table.All()) != 0 {
		t.Error("it is still in its table")
	}

	r.Again(Summary{Host: "next"})
	next := r.Read()
	if next.ID == got.ID || next.Up != 0 || next.Down != 0 || next.Status != 0 || next.FirstByte != 0 || next.Upstream != "" || table.Find(next.ID) != r {
		t.Errorf("again: got %+v", next)
	}
	r.End()
}

func TestKill(t *testing.T) {
	var table Table
	r := table.Begin(Summary{}, nil)
	defer r.End()
	if r.Kill("killed") {
		t.Error("killed by nobody")
	}
	ended := 0
	r.EndBy(func() { ended++ })
	if !r.Kill("another cause") || ended != 1 || r.Read().Cause != "killed" {
		t.Errorf("ended %d times, for %q", ended, r.Read().Cause)
	}
}

// TestNil: who has no account does the same as who has one.
func TestNil(t *testing.T) {
	var r *Record
	r.Meter().Delivered(Up, 1)
	r.Meter().Responded(200)
	r.Change(func(*Summary) { t.Error("changed") })
	r.EndBy(nil)
	if _, first := r.End(); first {
		t.Error("it has ended")
	}
}

// TestCosts: a piece costs no memory, a record little.
func TestCosts(t *testing.T) {
	var table Table
	r := table.Begin(Summary{}, nil)
	if got := testing.AllocsPerRun(100, func() { r.Meter().Delivered(Up, 1) }); got > 0 {
		t.Errorf("a piece: %v allocations", got)
	}
	address := &net.TCPAddr{}
	if got := testing.AllocsPerRun(100, func() {
		r.End()
		r.Again(Summary{Client: address, Started: time.Unix(1, 0)})
	}); got > 0 {
		t.Errorf("the next request: %v allocations", got)
	}
	if got := unsafe.Sizeof(*r); got > 512 {
		t.Errorf("a record has %d bytes, want at most 512", got)
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	var table Table
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			r := table.Begin(Summary{}, nil)
			for {
				r.Meter().Delivered(Down, 1)
				r.Change(func(s *Summary) { s.Route = "x" })
				r.End()
				select {
				case <-stop:
					return
				default:
					r.Again(Summary{})
				}
			}
		})
	}
	for range 1000 {
		for _, r := range table.All() {
			id := r.Read().ID
			if found := table.Find(id); found != nil && found.Read().ID == 0 {
				t.Error("found a record without an ID")
			}
		}
	}
	close(stop)
	wg.Wait()
	if table.Len() != 0 {
		t.Errorf("%d records are left", table.Len())
	}
}
