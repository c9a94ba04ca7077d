//go:build linux

package relay

import "testing"

func newEvent(r *Registry) Engine { return &Event{Streams: r} }

func TestEvent(t *testing.T) { testEngine(t, newEvent) }
