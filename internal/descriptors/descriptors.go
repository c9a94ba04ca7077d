// Package descriptors tells when the process has nearly used up the descriptors that it
// may have, so that it can refuse connections while it still has some. At the door, where
// a descriptor is spent already:
//
//	descriptors.Saw(fd) // of the connection
//	if descriptors.Scarce() {
//		// close it
//	}
//
// And where one is about to be spent:
//
//	if !descriptors.Take(1) {
//		// do without
//	}
//	fd, err := open()
//	if err != nil {
//		descriptors.Unused(1)
//	} else {
//		descriptors.Opened(fd)
//	}
//
// It costs next to nothing while there are enough: those that are open are counted only
// when a high one was given out, which a system does when all lower ones are open, or when
// many have been taken since the last count.
// Linux and macOS can; elsewhere they are never scarce.
package descriptors

import (
	"errors"
	"math"
	"runtime"
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

// Take asks for n descriptors that are about to be opened. It reports false if they would
// be of the reserve. Each one that it grants is settled by Opened or Unused, at once when
// it is open: one that is not settled counts twice. Take may wait for a count.
func Take(n int) bool { return process().take(int64(n)) }

// TakeAtOnce is Take for those who cannot wait. It may report false when a count would
// find that there are enough; that count is begun then.
func TakeAtOnce(n int) bool { return process().takeAtOnce(int64(n)) }

// Opened settles a descriptor that Take has granted: it is fd.
func Opened(fd uintptr) { process().opened(uint64(fd)) }

// Unused settles n descriptors that Take has granted and that were not opened.
func Unused(n int) { process().inFlight.Add(int64(-n)) }

// Count returns how many descriptors are open. An old kernel lists them all for that.
func Count() (open uint64, err error) { return count() }

// ErrScarce is for those who are refused.
var ErrScarce = errors.New("descriptors are scarce")

// process is the watch over the descriptors of the process.
var process = sync.OnceValue(func() *watch { return newWatch(Limit, count) })

// watch is what is known of descriptors.
//
// At any time, no more are open than bound says, those included that were granted and are
// not open yet: each one granted or seen adds to it, nothing takes away from it but a
// count. So it only says that there are enough, never that there are not: many may have
// been closed since. What Take refuses, it refuses by a count.
//
// Nobody tells of the descriptors that others open, such as connections that were accepted
// and have not come to a handler. Of those, bound learns by the number of the next one that
// it is told of; until then the reserve is for them.
type watch struct {
	limit func() (n uint64, limited bool) // how many there may be
	count func() (open uint64, err error) // errExhausted if one is needed to count them

	enough   atomic.Int64 // as many may be open
	bound    atomic.Int64
	inFlight atomic.Int64 // granted, and not settled yet
	soon     atomic.Int64 // from this bound on they are counted early, so that nobody waits
	early    atomic.Bool  // that count is under way

	scarce atomic.Bool
	calm   atomic.Int64 // until then, since epoch, a count holds by which they are not scarce

	mu   sync.Mutex    // held while they are counted
	next time.Duration // when to count again, since epoch
	full bool          // by the last count the reserve alone is left: until next, that holds
}

// errExhausted is why descriptors are not counted: there is none left.
var errExhausted = errors.New("descriptors are exhausted")

var epoch = time.Now()

func newWatch(limit func() (uint64, bool), count func() (uint64, error)) *watch {
	w := &watch{limit: limit, count: count}
	w.setEnough()
	if enough := w.enough.Load(); enough < math.MaxInt64 {
		w.bound.Store(enough) // whoever takes the first one counts
	} else {
		w.soon.Store(enough)
	}
	return w
}

// setEnough sets enough to the limit, which may have changed, without the reserve.
func (w *watch) setEnough() {
	enough := uint64(math.MaxInt64)
	if limit, limited := w.limit(); limited {
		enough = min(enough, limit-min(max(limit/16, leastReserve), mostReserve, limit/2))
	}
	w.enough.Store(int64(enough))
}

// saw notes a descriptor. It may be an old one, from when more were open. So a count that
// is recent holds in spite of it.
func (w *watch) saw(fd uint64) {
	w.bound.Add(1)
	w.note(fd)
}

// note learns from the number of a descriptor that has been opened.
func (w *watch) note(fd uint64) {
	if int64(fd) >= w.enough.Load() && int64(time.Since(epoch)) >= w.calm.Load() {
		w.scarce.Store(true)
	}
	least := int64(fd) + 1 + w.inFlight.Load()
	for {
		bound := w.bound.Load()
		if bound >= least || w.bound.CompareAndSwap(bound, least) {
			return
		}
	}
}

func (w *watch) isScarce() bool {
	// While one counts, nobody waits.
	if !w.scarce.Load() || !w.mu.TryLock() {
		return w.scarce.Load()
	}
	defer w.mu.Unlock()
	if time.Since(epoch) >= w.next {
		w.recount()
	}
	return w.scarce.Load()
}

func (w *watch) take(n int64) bool {
	if w.grant(n) {
		return true
	}
	// Those who wait here have nothing in flight, so that a count is of what is spent.
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.grant(n) { // another has counted
		return true
	}
	if w.full && time.Since(epoch) < w.next {
		return false
	}
	// What is open and has not been settled yet counts twice, for a moment.
	for range 3 {
		w.recount()
		if w.grant(n) {
			return true
		}
		if w.full {
			break
		}
		runtime.Gosched()
	}
	return false
}

func (w *watch) takeAtOnce(n int64) bool {
	if w.grant(n) {
		return true
	}
	w.countEarly()
	return false
}

// grant takes n descriptors if the bound leaves room for them.
func (w *watch) grant(n int64) bool {
	if w.bound.Load()+n > w.enough.Load() {
		return false
	}
	// First: what is in bound when a count begins is in flight, or is open.
	w.inFlight.Add(n)
	for {
		bound := w.bound.Load()
		if bound+n > w.enough.Load() {
			w.inFlight.Add(-n)
			return false
		}
		if w.bound.CompareAndSwap(bound, bound+n) {
			if bound+n > w.soon.Load() {
				w.countEarly()
			}
			return true
		}
	}
}

func (w *watch) opened(fd uint64) {
	w.inFlight.Add(-1)
	w.note(fd)
}

// countEarly begins a count, unless one was begun.
func (w *watch) countEarly() {
	if w.early.CompareAndSwap(false, true) {
		go w.countInBackground()
	}
}

// countInBackground is a goroutine that ends when it has counted.
func (w *watch) countInBackground() {
	defer w.early.Store(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bound.Load() > w.soon.Load() && (!w.full || time.Since(epoch) >= w.next) {
		w.recount()
	}
}

// recount counts, and sets what follows from it. w.mu is held.
func (w *watch) recount() {
	began := time.Since(epoch)
	w.setEnough()
	enough := w.enough.Load()
	// Before the count, and in this order: what bound holds is open when the count
	// begins, or in flight. What is granted or seen from now on is added to bound and
	// stays in it, counted or not.
	bound := w.bound.Load()
	inFlight := w.inFlight.Load()
	counted, err := w.count()
	open := int64(counted)
	switch {
	case errors.Is(err, errExhausted):
		open = max(enough, 0)
	case err != nil:
		open = 0 // there is nothing to go by but high numbers
	}
	bound = w.bound.Add(open + inFlight - bound)
	w.soon.Store(bound + max(enough-bound, 0)/2)

	ended := time.Since(epoch)
	w.next = ended + max(recount, times*(ended-began))
	w.full = open >= enough
	w.scarce.Store(w.full)
	if !w.full {
		w.calm.Store(int64(w.next))
	}
}
