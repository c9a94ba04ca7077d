package account

import (
	"bytes"
	"errors"
	"math"
	"net"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"
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
	book := Book{Table: &table, Log: "log"}
	r := book.Begin(Summary{Host: "example.com"})
	if r.Log() != "log" || table.Len() != 1 || table.Find(r.Read().ID) != r || len(table.All()) != 1 {
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
	end, first := r.End(true)
	if !first || end.Up != 3 || end.State != Ended {
		t.Errorf("the end: got %+v, %v", end, first)
	}
	if _, first := r.End(true); first {
		t.Error("it has ended twice")
	}
	if table.Len() != 0 || table.Find(got.ID) != nil || len(table.All()) != 0 {
		t.Error("it is still in its table")
	}

	r.Again(Summary{Host: "next"})
	next := r.Read()
	if next.ID == got.ID || next.Up != 0 || next.Down != 0 || next.Status != 0 || next.FirstByte != 0 || next.Upstream != "u" || table.Find(next.ID) != r {
		t.Errorf("again: got %+v", next)
	}
	r.End(true)
}

func TestKill(t *testing.T) {
	var table Table
	book := Book{Table: &table}
	r := book.Begin(Summary{})
	defer r.End(true)
	id := r.Read().ID
	r.Kill(id, "killed") // noted for whoever knows its meter
	ended := 0
	r.EndBy(func() { ended++ })
	if r.Kill(id, "another cause"); ended != 1 || r.Read().Cause != "killed" {
		t.Errorf("ended %d times, for %q", ended, r.Read().Cause)
	}
	r.End(true)
	if r.Kill(id, "killed"); ended != 1 {
		t.Error("what has ended is ended once more: its connection may wait for the next request")
	}
	r.Again(Summary{})
	if r.Kill(id, "killed"); ended != 1 || r.Read().Cause != "" {
		t.Error("the next request on the connection is ended in the place of the one before")
	}
}

// TestNil: who has no account does the same as who has one.
func TestNil(t *testing.T) {
	var r *Record
	r.Meter().Delivered(Up, 1)
	r.Meter().Responded(200)
	r.Change(func(*Summary) { t.Error("changed") })
	r.EndBy(nil)
	if _, first := r.End(true); first {
		t.Error("it has ended")
	}
}

// TestSummary: what a record keeps in other forms is read as it was.
func TestSummary(t *testing.T) {
	var table Table
	book := Book{Table: &table}
	started := time.Now().Add(-time.Minute)
	cause := errors.New("a cause")
	want := Summary{
		ID:          NewID(),
		State:       Dialing,
		Client:      &net.TCPAddr{IP: net.IP{192, 0, 2, 1}, Port: 80},
		Local:       &net.UnixAddr{Name: "/run/x", Net: "unix"},
		Outcome:     "http",
		Route:       "a route",
		Destination: "relay",
		Upstream:    "10.0.0.5:9000",
		Engine:      "an engine",
		Method:      "GET",
		Host:        "example.com",
		Path:        "/a/b",
		Proto:       "HTTP/1.1",
		Cause:       "cause",
		Err:         cause,
		Inspected:   3 * time.Microsecond,
		Dialed:      time.Microsecond,
	}
	check := func(after string, got Summary) {
		t.Helper()
		if off := got.Started.Sub(started); off != 0 {
			t.Errorf("after %s: started %v too late", after, off)
		}
		got.Started, got.head = time.Time{}, ""
		if !reflect.DeepEqual(got, want) {
			t.Errorf("after %s: got\n%+v, want\n%+v", after, got, want)
		}
	}
	begun := want
	begun.Started = started
	r := book.Begin(begun)
	check("its beginning", r.Read().Summary)
	r.Change(func(s *Summary) { s.Route, s.Host, s.Path, s.Err = "another", "b", "", nil })
	want.Route, want.Host, want.Path, want.Err = "another", "b", "", nil
	check("a change", r.Read().Summary)
	r.Change(func(s *Summary) { s.Request("POSTc/", 4, 1) })
	want.Method, want.Host, want.Path = "POST", "c", "/"
	check("another request", r.Read().Summary)
	r.Change(func(s *Summary) { s.Inspected, s.Dialed = time.Nanosecond, 100*time.Hour })
	want.Inspected, want.Dialed = time.Microsecond, math.MaxUint32*time.Microsecond
	check("other durations", r.Read().Summary)
	end, _ := r.End(true)
	want.State, want.Client, want.Local = Ended, nil, nil
	check("its end", end.Summary)
	if ends := r.Ends(); ends.Client().String() != "192.0.2.1:80" || ends.Local().String() != "/run/x" {
		t.Errorf("got the addresses %v and %v", ends.Client(), ends.Local())
	}
}

// TestCosts: a piece costs no memory, the next request none but its head, and a record little.
func TestCosts(t *testing.T) {
	var table Table
	book := Book{Table: &table}
	head := "GETexample.com/some/path"
	request := func() (s Summary) {
		s = Summary{Outcome: "http", Route: "chat", Destination: "relay", Upstream: "10.0.0.5:9000", Proto: "HTTP/1.1", Started: time.Unix(1, 0)}
		s.Request(head, len("GET"), len("example.com"))
		return s
	}
	r := book.Begin(request())
	if got := testing.AllocsPerRun(100, func() { r.Meter().Delivered(Up, 1) }); got > 0 {
		t.Errorf("a piece: %v allocations", got)
	}
	if got := testing.AllocsPerRun(100, func() {
		r.Change(func(s *Summary) { s.State, s.Dialed = Open, time.Millisecond })
		r.End(true)
		r.Again(request())
	}); got > 0 {
		t.Errorf("the next request: %v allocations", got)
	}

	// All that is on the heap for a stream with a head of 48 bytes.
	const n, most = 10_000, 256
	records := make([]*Record, n)
	before := heapInUse()
	for i := range records {
		s := request()
		s.Client, s.Local = &net.TCPAddr{IP: net.IP{10, 0, 0, 1}, Port: i}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 80}
		s.Request(string(append([]byte("GETexample.com/"), bytes.Repeat([]byte("x"), 33)...)), len("GET"), len("example.com"))
		records[i] = book.Begin(s)
	}
	got := (heapInUse() - before) / n
	if got > most {
		t.Errorf("a record has %d bytes, want at most %d", got, most)
	}
	t.Logf("a record has %d bytes", got)
	if len(records[0].head) != 48 {
		t.Errorf("its head has %d", len(records[0].head))
	}
	runtime.KeepAlive(records)
}

// heapInUse returns how many bytes are on the heap that are not garbage.
func heapInUse() int64 {
	var stats runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	var table Table
	book := Book{Table: &table}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			r := book.Begin(Summary{})
			for {
				r.Meter().Delivered(Down, 1)
				r.Change(func(s *Summary) { s.Route = "x" })
				r.End(true)
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

// TestEndInPart: who needs little of it does not pay for the rest.
func TestEndInPart(t *testing.T) {
	var table Table
	book := Book{Table: &table}
	r := book.Begin(Summary{Method: "GET", Host: "h", Path: "/", Route: "r"})
	r.Meter().Delivered(Up, 3)
	r.Meter().DeliveredAt(Down, 4, time.Since(Epoch))
	r.EndBy(func() {})
	r.Kill(r.Read().ID, "killed")
	got, first := r.End(false)
	if !first || got.Method != "GET" || got.Up != 3 || got.Down != 4 || got.Cause != "killed" || got.ID == 0 {
		t.Errorf("got %+v, %v", got, first)
	}
	if table.Len() != 0 {
		t.Error("it is still in its table")
	}
}

// The account of a later request on a connection.
func BenchmarkAgain(b *testing.B) {
	book := &Book{Table: new(Table)}
	r := book.Begin(Summary{})
	b.ReportAllocs()
	for b.Loop() {
		r.End(false)
		r.Again(Summary{Started: time.Now()})
	}
}
