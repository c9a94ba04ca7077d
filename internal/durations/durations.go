// Package durations counts durations by how long they are.
//
//	var dials durations.Histogram
//	dials.Observe(time.Since(began))
//	…
//	count, sum, buckets := dials.Read()
package durations

import (
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of the buckets. Above the last one there is another bucket.
var bounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond,
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 25 * time.Second,
}

// Histogram counts durations in buckets, and adds them up. The zero value is ready. It may be
// used by several goroutines, none of which waits for another.
type Histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	sum     atomic.Int64 // nanoseconds
}

// Observe counts one duration. A nil Histogram counts nothing.
func (h *Histogram) Observe(d time.Duration) {
	if h == nil {
		return
	}
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// Read returns how many durations there were, their sum in seconds, and how many of them
// were no longer than each bound in seconds.
func (h *Histogram) Read() (count uint64, sum float64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(bounds))
	for i, bound := range bounds {
		count += h.buckets[i].Load()
		buckets[bound.Seconds()] = count
	}
	count += h.buckets[len(bounds)].Load()
	return count, time.Duration(h.sum.Load()).Seconds(), buckets
}
