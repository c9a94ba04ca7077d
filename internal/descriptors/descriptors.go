// Package descriptors tells when the process has nearly used up the descriptors that it
// may have, so that it can refuse connections while it still has some:
//
//	descriptors.Saw(fd) // of the connection
//	if descriptors.Scarce() {
//		// close it
//	}
//
// It costs next to nothing while there are enough: a system gives out the lowest
// descriptor that is free, so only a high one is reason to count those that are open.
// Linux and macOS can; elsewhere they are never scarce.
package descriptors

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The last descriptors are for what is under way: connections that have been accepted by
// the time others are refused, and what those need. They are a sixteenth of all, within
// these bounds, and half of all if there are few.
const (
	leastReserve = 256
	mostReserve  = 4096
)

// While descriptors are scarce, they are counted again after this time, or after so many
// times as long as counting took.
const (
	recount = 100 * time.Millisecond
	times   = 20
)

// Saw notes a descriptor that has been opened lately.
func Saw(fd uintptr) { process().saw(uint64(fd)) }

// Scarce reports whether only the reserve is left: a sixteenth of the descriptors, at
// least 256 and at most 4,096, or half of the few if there are fewer than 512. It finds
// that out when Saw has been told one of them. It takes a moment to notice that there are
// more again: a tenth of a second, or twenty times as long as it takes to count them.
func Scarce() bool { return process().isScarce() }

// process is the watch over the descriptors of the process.
var process = sync.OnceValue(func() *watch { return newWatch(Limit, count) })

// watch is what is known of descriptors.
type watch struct {
	limit func() (n uint64, limited bool) // how many there may be
	count func() (open uint64, err error) // errExhausted if one is needed to count them

	enough atomic.Uint64 // as many may be open
	scarce atomic.Bool
	calm   atomic.Int64 // until then, since epoch, a count holds by which they are not scarce

	mu   sync.Mutex
	next time.Duration // when to count again, since epoch
}

// errExhausted is why descriptors are not counted: there is none left.
var errExhausted = errors.New("descriptors are exhausted")

var epoch = time.Now()

func newWatch(limit func() (uint64, bool), count func() (uint64, error)) *watch {
	w := &watch{limit: limit, count: count}
	w.setEnough()
	return w
}

// setEnough sets enough to what the limit, which may have changed, leaves beside the
// reserve.
func (w *watch) setEnough() {
	enough := uint64(math.MaxUint64)
	if limit, limited := w.limit(); limited {
		enough = limit - min(max(limit/16, leastReserve), mostReserve, limit/2)
	}
	w.enough.Store(enough)
}

// saw notes a descriptor. It may be an old one, from when more were open: if those that
// are open have just been counted, that counts.
func (w *watch) saw(fd uint64) {
	if fd >= w.enough.Load() && int64(time.Since(epoch)) >= w.calm.Load() {
		w.scarce.Store(true)
	}
}

func (w *watch) isScarce() bool {
	// While one counts, nobody waits.
	if !w.scarce.Load() || !w.mu.TryLock() {
		return w.scarce.Load()
	}
	defer w.mu.Unlock()
	began := time.Since(epoch)
	if began < w.next {
		return true
	}
	w.setEnough()
	open, err := w.count()
	ended := time.Since(epoch)
	w.next = ended + max(recount, times*(ended-began))
	// Where they cannot be counted, a high one is all there is to go by.
	if errors.Is(err, errExhausted) || err == nil && open >= w.enough.Load() {
		return true
	}
	w.calm.Store(int64(w.next))
	w.scarce.Store(false)
	return false
}
