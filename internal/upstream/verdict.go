package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// verdict is what active checks of one kind say of an address. Servers whose checks ask the
// same share it, also those of the next configuration. Others do not: of two servers of a
// database, one is down to those who write, and up to those who read.
type verdict struct {
	name string // of the checks, in few words

	down    atomic.Bool
	upSince atomic.Pointer[time.Time] // when it has gone up; nil: it has not been down

	ups, downs atomic.Uint64 // how often it has gone up, and down

	// streams holds those that end when it goes down.
	streams relay.Registry

	mu           sync.Mutex
	users        int // servers that have it; those of the peer's own are not counted
	checkers     int // servers whose checks run
	passedInARow int // checks …
	failedInARow int // … of which one is 0
}

// connects is the name of checks that only connect.
const connects = "connect"

// watch counts one more server whose active checks run.
func (v *verdict) watch() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.checkers++
}

// unwatch ends what watch began. When nobody checks the address any more, it counts as up:
// nobody would notice that it is up again.
func (v *verdict) unwatch() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.checkers--; v.checkers == 0 {
		v.passedInARow, v.failedInARow = 0, 0
		v.goUp()
	}
}

// record counts the result of an active check, and reports whether the address has gone up
// or down by it.
func (v *verdict) record(passed bool, rise, fall int) (changed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if passed {
		v.passedInARow, v.failedInARow = v.passedInARow+1, 0
		if changed = v.passedInARow >= rise && v.goUp(); changed {
			v.ups.Add(1)
		}
		return changed
	}
	v.passedInARow, v.failedInARow = 0, v.failedInARow+1
	if changed = v.failedInARow >= fall && v.down.CompareAndSwap(false, true); changed {
		v.downs.Add(1)
	}
	return changed
}

// goUp makes the address up, and reports whether it was down.
func (v *verdict) goUp() bool {
	now := time.Now()
	if !v.down.Load() {
		return false
	}
	v.upSince.Store(&now)
	v.down.Store(false)
	return true
}

// checked reports whether active checks of the kind run.
func (v *verdict) checked() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.checkers > 0
}

// CheckStatus is what active checks of one kind say of an address.
type CheckStatus struct {
	Check   string `json:"check"` // the kind: connect, or the request, as in GET /primary
	Healthy bool   `json:"healthy"`

	Ups   uint64 `json:"-"` // how often the address has gone up …
	Downs uint64 `json:"-"` // … and down
}

// status returns what the verdict says.
func (v *verdict) status() CheckStatus {
	return CheckStatus{Check: v.name, Healthy: !v.down.Load(), Ups: v.ups.Load(), Downs: v.downs.Load()}
}
