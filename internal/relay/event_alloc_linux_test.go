//go:build !race

package relay

import "testing"

func TestEventAllocations(t *testing.T) { testAllocations(t, newEvent(nil)) }
