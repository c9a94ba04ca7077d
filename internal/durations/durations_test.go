package durations

import (
	"maps"
	"sync"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	if count, sum, _ := h.Read(); count != 0 || sum != 0 {
		t.Errorf("empty: got %d durations, sum %v", count, sum)
	}
	for _, d := range []time.Duration{0, 500 * time.Microsecond, 500*time.Microsecond + 1, 2 * time.Second, time.Hour} {
		h.Observe(d)
	}
	(*Histogram)(nil).Observe(time.Second)
	count, sum, buckets := h.Read()
	want := map[float64]uint64{
		0.0005: 2, 0.001: 3, 0.0025: 3, 0.005: 3, 0.01: 3, 0.025: 3, 0.05: 3, 0.1: 3, 0.25: 3, 0.5: 3,
		1: 3, 2.5: 4, 5: 4, 10: 4, 25: 4,
	}
	if count != 5 || !maps.Equal(buckets, want) {
		t.Errorf("got %d durations in %v, want 5 in %v", count, buckets, want)
	}
	if sum < 3602.001 || sum > 3602.002 {
		t.Errorf("got the sum %v, want 3602.001…", sum)
	}
}

// TestHistogramConcurrent: no duration is lost.
func TestHistogramConcurrent(t *testing.T) {
	var h Histogram
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				h.Observe(time.Millisecond)
			}
		})
	}
	wg.Wait()
	if count, sum, buckets := h.Read(); count != 8000 || sum != 8 || buckets[0.001] != 8000 {
		t.Errorf("got %d durations, sum %v, %v", count, sum, buckets)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(100, func() { h.Observe(time.Second) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	var h Histogram
	for b.Loop() {
		h.Observe(time.Millisecond)
	}
}
