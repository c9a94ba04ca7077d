package streamprox

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
)

// openMany opens that many accounts, and closes them at the end. Each tenth has the route tenth.
func openMany(tb testing.TB) (ids map[string]bool) {
	tb.Helper()
	ids = make(map[string]bool, manyStreams)
	records := make([]*account.Record, manyStreams)
	local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	for i := range records {
		s := account.Summary{Outcome: "http", Route: "app", Destination: toRelay, Upstream: "10.0.0.5:9000", Proto: "HTTP/1.1", Local: local}
		s.Client = &net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: 1024 + i%50_000}
		if i%10 == 0 {
			s.Route = "tenth"
		}
		s.Request(fmt.Sprintf("GETexample.com/path/%d", i), len("GET"), len("example.com"))
		records[i] = unlogged.Begin(s)
		records[i].Meter().Delivered(account.Down, int64(i%7))
		ids[records[i].ID().String()] = true
	}
	tb.Cleanup(func() {
		for _, record := range records {
			record.End(false)
		}
	})
	return ids
}

// openAndClose opens and closes accounts until stop is closed. It counts them.
func openAndClose(stop <-chan struct{}, n *atomic.Int64, took func(time.Duration)) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		began := time.Now()
		record := unlogged.Begin(account.Summary{Route: "tenth"})
		record.Change(func(s *account.Summary) { s.Upstream = "10.0.0.6:9000" })
		record.End(false)
		took(time.Since(began))
		n.Add(1)
	}
}

// page asks for a page of the list.
func page(tb testing.TB, query string) (ids []string, total int, next string) {
	tb.Helper()
	w := httptest.NewRecorder()
	if err := serveStreams(w, httptest.NewRequest(http.MethodGet, "/streamprox/streams?limit=1000&"+query, nil)); err != nil {
		tb.Fatal(err)
	}
	var answer struct {
		Total   int
		Streams []struct{ ID string }
		Next    string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		tb.Fatal(err)
	}
	for _, stream := range answer.Streams {
		ids = append(ids, stream.ID)
	}
	return ids, answer.Total, answer.Next
}

// TestManyStreams: while others begin and end, each stream that lasts is on exactly one page, and
// those others go on between two pages.
func TestManyStreams(t *testing.T) {
	ids := openMany(t)
	var others atomic.Int64
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		openAndClose(stop, &others, func(time.Duration) {})
	}()
	defer func() {
		close(stop)
		<-ended
	}()
	for query, want := range map[string]int{
		"sort=age":                manyStreams,
		"sort=-bytes&route=tenth": manyStreams / 10,
		"sort=-idle&client=10.0.0.0/16&older=1ms&host=EXAMPLE.com&route=tenth": manyStreams / 10,
	} {
		seen, after := make(map[string]bool), ""
		for range manyStreams/maxStreams + 2 {
			before := others.Load()
			got, total, next := page(t, query+"&after="+after)
			if len(got) > maxStreams || total < want {
				t.Fatalf("%s: a page of %d streams, of %d", query, len(got), total)
			}
			for _, id := range got {
				if seen[id] {
					t.Fatalf("%s: %s is listed twice", query, id)
				}
				seen[id] = true
			}
			for deadline := time.Now().Add(commandPatience); others.Load() == before; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: nothing begins or ends besides", query)
				}
			}
			if after = next; after == "" {
				break
			}
		}
		lasting := 0
		for id := range seen {
			if ids[id] {
				lasting++
			}
		}
		if after != "" || lasting != want {
			t.Errorf("%s: %d of the streams that last are on the pages, want %d; next %q", query, lasting, want, after)
		}
	}
}

// TestEndSpread: all end, each once, in their order and not together.
func TestEndSpread(t *testing.T) {
	var all []found
	var ended []account.ID
	for range 500 {
		record := unlogged.Begin(account.Summary{})
		id := record.ID()
		record.EndBy(func() {
			ended = append(ended, id)
			record.End(false)
		})
		all = append(all, found{listed{record: record}, place{id: id}})
	}
	gone := all[250]
	gone.record.End(false)
	want := slices.DeleteFunc(slices.Clone(all), func(f found) bool { return f.id == gone.id })
	began := time.Now()
	endSpread(all, 100*time.Millisecond)
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("all have ended within %s", took)
	}
	if !slices.EqualFunc(want, ended, func(f found, id account.ID) bool { return f.id == id }) {
		t.Errorf("%d of %d have ended, in the order %v", len(ended), len(want), ended)
	}
}

// TestListLocksNothing: while a list looks at a stream, every part of the table is free, and so
// is that stream.
func TestListLocksNothing(t *testing.T) {
	record := unlogged.Begin(account.Summary{Route: "listed"})
	defer record.End(false)
	looked := make(chan int, 1)
	go func() {
		filter := streamFilter{equal: map[string]string{"route": "listed"}}
		all := filter.find(func(*account.Reading) int64 {
			for range 1000 { // IDs count, and each part has those of one remainder
				unlogged.Begin(account.Summary{}).End(false)
			}
			record.Change(func(s *account.Summary) { s.Upstream = "changed" })
			return 0
		})
		looked <- len(all)
	}()
	select {
	case n := <-looked:
		if n != 1 || record.Read().Upstream != "changed" {
			t.Errorf("found %d", n)
		}
	case <-time.After(commandPatience):
		t.Fatal("a list keeps others from beginning")
	}
}

// TestPlace: the place of a page is read as it was written.
func TestPlace(t *testing.T) {
	for _, key := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64} {
		want := place{key, account.NewID()}
		if got, err := parsePlace(want.String()); err != nil || got != want {
			t.Errorf("got %v (%v), want %v", got, err, want)
		}
	}
	for _, bad := range []string{"", "1", "_", "1_", "_0000000000000001", "x_0000000000000001", "1_1", "1_000000000000000g"} {
		if got, err := parsePlace(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

// BenchmarkManyStreams measures a page of 1,000 of 100,000 streams, and how long an account that
// is opened, changed and closed beside it takes at most.
func BenchmarkManyStreams(b *testing.B) {
	openMany(b)
	for _, beside := range []bool{false, true} {
		b.Run(fmt.Sprintf("beside=%v", beside), func(b *testing.B) {
			var n, longest atomic.Int64
			stop, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				if beside {
					openAndClose(stop, &n, func(d time.Duration) { longest.Store(max(longest.Load(), int64(d))) })
				}
			}()
			for b.Loop() {
				w := httptest.NewRecorder()
				if err := serveStreams(w, httptest.NewRequest(http.MethodGet, "/streamprox/streams?limit=1000", nil)); err != nil {
					b.Fatal(err)
				}
			}
			close(stop)
			<-ended
			if beside {
				b.ReportMetric(float64(longest.Load())/1e6, "ms-longest-wait")
			}
		})
	}
}
