package relay

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
)

// TestHold is work that Drain and Kill wait for and stop, though it is no stream.
func TestHold(t *testing.T) {
	noPatience, cancel := context.WithCancel(t.Context())
	cancel()

	t.Run("released in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := new(Registry)
			release := r.Hold(func() { t.Error("stop was called") })
			if got := r.Len(); got != 1 {
				t.Errorf("held: got %d, want 1", got)
			}
			var drained atomic.Bool
			go func() {
				if got := r.Drain(t.Context()); got != 0 {
					t.Errorf("reset: got %d, want 0", got)
				}
				drained.Store(true)
			}()
			synctest.Wait()
			if drained.Load() {
				t.Error("Drain does not wait")
			}
			release()
			release()
			synctest.Wait()
			if !drained.Load() {
				t.Error("Drain waits though all is released")
			}
			if got := r.Len() + r.Drain(noPatience) + r.Kill(); got != 0 {
				t.Errorf("after release: got %d, want 0", got)
			}
		})
	})
	t.Run("stopped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := new(Registry)
			var stops atomic.Int32
			work := func(last time.Duration) {
				stopped := make(chan struct{}, 1)
				release := r.Hold(func() { stops.Add(1); stopped <- struct{}{} })
				go func() {
					<-stopped
					time.Sleep(last)
					release()
				}()
			}
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			work(time.Second)
			// Work that comes meanwhile is treated alike, and the first is not stopped again.
			time.AfterFunc(time.Minute+time.Millisecond, func() { work(0) })
			if got := r.Drain(ctx); got != 2 || stops.Load() != 2 {
				t.Errorf("reset: got %d, stopped %d, want 2", got, stops.Load())
			}
			if got, want := time.Since(begin), time.Minute+time.Second; got != want {
				t.Errorf("drained after %v, want %v: that of the release", got, want)
			}
		})
	})
	t.Run("killed", func(t *testing.T) {
		r := new(Registry)
		stops := 0
		release := r.Hold(func() { stops++ })
		if got := r.Kill(); got != 1 || stops != 1 {
			t.Errorf("killed: got %d, stopped %d, want 1", got, stops)
		}
		if got := r.Len(); got != 1 {
			t.Errorf("not released: got %d, want 1", got)
		}
		release()
		if got := r.Len(); got != 0 {
			t.Errorf("released: got %d, want 0", got)
		}
	})
	t.Run("no stop after release", func(t *testing.T) {
		r := new(Registry)
		var released [1000]atomic.Bool
		var wg sync.WaitGroup
		for i := range released {
			release := r.Hold(func() {
				if released[i].Load() {
					t.Error("stop was called after release had returned")
				}
			})
			wg.Go(func() { release(); released[i].Store(true) })
			wg.Go(func() { r.Kill() })
		}
		wg.Wait()
		if got := r.Len(); got != 0 {
			t.Errorf("released: got %d, want 0", got)
		}
	})
	t.Run("nowhere", func(t *testing.T) {
		release := (*Registry)(nil).Hold(func() { t.Error("stop was called") })
		release()
	})
}

// stuck is a stream that does not end when it is told to.
type stuck struct{ ends int }

func (s *stuck) retire(func(Owner) bool) {}
func (s *stuck) ownerOf() Owner          { return nil }
func (s *stuck) meterOf() *account.Meter { return nil }

func (s *stuck) end(Cause, error) bool { s.ends++; return s.ends == 1 }

// Drain does not wait for ever for what cannot end.
func TestDrainGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Registry
		m := new(stuck)
		r.add(m)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if reset := r.Drain(ctx); reset != 1 {
			t.Errorf("reset %d streams, want 1", reset)
		}
		if took := time.Since(began); took != time.Second+stubborn {
			t.Errorf("took %v, want %v", took, time.Second+stubborn)
		}
		if r.Len() != 1 {
			t.Errorf("%d streams are left, want 1", r.Len())
		}
	})
}
