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

// recount is how often open descriptors are counted while they are scarce.
const recount = time.Second

// Saw notes a descriptor that has just been opened.
func Saw(fd uintptr) { process().saw(uint64(fd)) }

// Scarce reports whether only the reserve is left: a sixteenth of the descriptors, at
// least 256 and at most 4,096. That is found out when Saw has been told one of them, and
// it takes up to a second to notice that there are more again.
func Scarce() bool { return process().isScarce() }

// process is the watch over the descriptors of the process.
var process = sync.OnceValue(func() *watch {
	limit, ok := limit()
	return newWatch(limit, ok, count)
})

// watch is what is known of descriptors.
type watch struct {
	enough uint64 // as many may be open
	count  func() (open uint64, err error)
	scarce atomic.Bool

	mu      sync.Mutex
	counted time.Time // the last time
}

// newWatch returns a watch over descriptors below limit. Not limited, they are never
// scarce.
func newWatch(limit uint64, limited bool, count func() (uint64, error)) *watch {
	w := &watch{enough: ^uint64(0), count: count}
	if limited {
		w.enough = limit - min(max(limit/16, leastReserve), mostReserve, limit/2)
	}
	return w
}

func (w *watch) saw(fd uint64) {
	if fd >= w.enough {
		w.scarce.Store(true)
	}
}

func (w *watch) isScarce() bool {
	if !w.scarce.Load() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.counted) >= recount {
		w.counted = time.Now()
		open, err := w.count()
		w.scarce.Store(err != nil || open >= w.enough) // counting takes a descriptor, too
	}
	return w.scarce.Load()
}
