package relay

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Registry knows the streams in flight, so that shutdown can drain them, and so that
// those of a group can be killed. The zero value is ready. Several engines may share
// one.
type Registry struct {
	mu      sync.Mutex
	streams map[member]struct{}
	empty   chan struct{} // if not nil, closed when the last stream leaves
	added   chan struct{} // if not nil, closed when a stream comes
}

// member is an engine's record of a stream; a pointer.
type member interface {
	// end ends the stream for the given cause unless it has ended, and says
	// whether it did. When it returns, both connections are closed.
	end(Cause, error) bool
}

// Len returns the number of streams in flight. A stream counts from Start until
// its Done has returned.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.streams)
}

// Drain waits until no stream is left or ctx is done; then it resets those left,
// with the cause Shutdown, and waits for them and their Done. It returns how many
// it reset. Streams may be started meanwhile and are treated alike.
func (r *Registry) Drain(ctx context.Context) (reset int) {
	patience, force := ctx.Done(), false
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
		case <-patience:
			patience, force = nil, true
		}
	}
}

// Kill resets the streams in flight, with the cause Killed, and returns how many. It
// does not wait for their Done.
func (r *Registry) Kill() (killed int) {
	// Twice, because an exchange that is becoming a tunnel cannot be ended, and the
	// tunnel takes its place.
	for range 2 {
		r.mu.Lock()
		left := slices.Collect(maps.Keys(r.streams))
		r.mu.Unlock()
		for _, m := range left {
			if m.end(Killed, nil) {
				killed++
			}
		}
	}
	return killed
}

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
