package relay

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
)

// stubborn is how long Drain waits for what it has reset. A stream cannot end while it
// reads from a wrapper that goes on waiting after it was closed, such as the branch of
// caddy-l4's tee.
const stubborn = 5 * time.Second

// Registry knows the streams in flight, and the work that is held for, so that shutdown
// can drain them, and so that those of a group can be killed. The zero value is ready.
// Several engines may share one.
type Registry struct {
	mu      sync.Mutex
	streams map[member]struct{}
	empty   chan struct{} // if not nil, closed when the last stream leaves
	added   chan struct{} // if not nil, closed when a stream comes
}

// member is an engine's record of a stream; a pointer.
type member interface {
	// end ends the stream for the given cause unless it has ended, and says
	// whether it did. When it returns, both connections are closed. For the cause Killed,
	// a session of which no request is under way lets go of its upstream's connection
	// alone, and does not end.
	end(Cause, error) bool

	// meterOf returns the stream's meter, or nil.
	meterOf() *account.Meter

	// retire lets a session end as soon as no request is under way, if which is nil or
	// reports true for its owner.
	retire(which func(Owner) bool)

	// ownerOf returns the owner of a session, else nil.
	ownerOf() Owner
}

// Len returns the number of streams in flight. A stream counts from Start until
// its Done has returned, work that is held for until it is released.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.streams)
}

// Drain waits until no stream is left or ctx is done; then it resets those left,
// with the cause Shutdown, and waits for them and their Done, but for no longer than
// stubborn. It returns how many it reset. Streams may be started meanwhile and
// are treated alike, and so is the work that is held for. Sessions are retired.
func (r *Registry) Drain(ctx context.Context) (reset int) {
	r.Retire(nil)
	patience, force := ctx.Done(), false
	var over <-chan time.Time
	for {
		r.mu.Lock()
		if len(r.streams) == 0 {
			r.mu.Unlock()
			return reset
		}
		if r.empty == nil {
			r.empty = make(chan struct{})
		}
		if r.added == nil {
			r.added = make(chan struct{})
		}
		empty, added := r.empty, r.added
		var left []member
		if force {
			left = slices.Collect(maps.Keys(r.streams))
		}
		r.mu.Unlock()

		for _, m := range left {
			if m.end(Shutdown, nil) {
				reset++
			}
		}
		select {
		case <-empty:
			return reset
		case <-added:
			r.Retire(nil) // a request that was held for may have become a session
		case <-patience:
			patience, force = nil, true
			over = time.After(stubborn)
		case <-over:
			return reset
		}
	}
}

// Retire lets sessions end that wait for a request, and the others after the one under way:
// those for whose owner which reports true; nil: all.
func (r *Registry) Retire(which func(Owner) bool) {
	r.mu.Lock()
	all := slices.Collect(maps.Keys(r.streams))
	r.mu.Unlock()
	for _, m := range all {
		m.retire(which)
	}
}

// Owners returns the owners of all sessions, those that wait for a request and the others.
func (r *Registry) Owners() (owners []Owner) {
	r.mu.Lock()
	all := slices.Collect(maps.Keys(r.streams))
	r.mu.Unlock()
	for _, m := range all {
		if owner := m.ownerOf(); owner != nil {
			owners = append(owners, owner)
		}
	}
	return owners
}

// Kill resets the streams in flight, with the cause Killed, stops the work that is held
// for, and returns how many. It does not wait for their Done. The client of a session that
// waits for its next request, or has had its last response, has nothing in flight: only the
// upstream's connection is closed, if it is kept.
func (r *Registry) Kill() (killed int) {
	return r.kill(func(member) bool { return true })
}

// KillMetered is Kill for the streams that have one of these meters.
func (r *Registry) KillMetered(meters []*account.Meter) (killed int) {
	wanted := make(map[*account.Meter]bool, len(meters))
	for _, m := range meters {
		wanted[m] = true
	}
	return r.kill(func(m member) bool { return wanted[m.meterOf()] })
}

// kill is Kill for those of which which reports true.
func (r *Registry) kill(which func(member) bool) (killed int) {
	// Twice, because an exchange that is becoming a tunnel cannot be ended, and the
	// tunnel takes its place.
	for range 2 {
		r.mu.Lock()
		left := slices.Collect(maps.Keys(r.streams))
		r.mu.Unlock()
		for _, m := range left {
			if which(m) && m.end(Killed, nil) {
				killed++
			}
		}
	}
	return killed
}

// Hold registers work that is not a stream yet, such as a dial or an answer, so that
// Drain waits for it and, when its patience is over, calls stop. release ends it and may
// be called more than once. To leave no gap, work that becomes a stream is released after
// Start.
//
// stop is called at most once, and not after release has returned. It must see to it that
// release is called soon, for Drain goes on waiting for that; but it must neither call
// release itself nor wait for it. Kill calls stop too. A nil Registry holds nothing.
func (r *Registry) Hold(stop func()) (release func()) {
	if r == nil {
		return func() {}
	}
	h := &hold{stop: stop}
	r.add(h)
	return func() {
		h.mu.Lock()
		h.stop = nil
		h.mu.Unlock()
		r.remove(h)
	}
}

// hold is the record of work that is no stream.
type hold struct {
	mu   sync.Mutex
	stop func() // nil: it was called, or must not be any more
}

// end implements member. Release waits for a stop that is being called.
func (h *hold) end(Cause, error) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop == nil {
		return false
	}
	h.stop()
	h.stop = nil
	return true
}

// retire implements member.
func (h *hold) retire(func(Owner) bool) {}

// ownerOf implements member.
func (h *hold) ownerOf() Owner { return nil }

// meterOf implements member.
func (h *hold) meterOf() *account.Meter { return nil }

// add registers a stream. A nil Registry registers nothing.
func (r *Registry) add(m member) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.streams == nil {
		r.streams = make(map[member]struct{})
	}
	r.streams[m] = struct{}{}
	if r.added != nil {
		close(r.added)
		r.added = nil
	}
}

// remove takes a stream out when it is closed and accounted for.
func (r *Registry) remove(m member) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, m)
	if len(r.streams) == 0 && r.empty != nil {
		close(r.empty)
		r.empty = nil
	}
}
