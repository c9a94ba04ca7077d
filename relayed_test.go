package streamprox

import (
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// TestRetireBesideTunnels is for the race detector: whoever retires connections asks each
// for its inspect, while their loop goes on with them.
func TestRetireBesideTunnels(t *testing.T) {
	h := new(Inspect)
	r := &relayed{continuation: continuation{inspect: h}}
	tunnelled := make(chan struct{})
	go func() {
		defer close(tunnelled)
		r.Tunnelled()
	}()
	if owner, ok := relay.Owner(r).(interface{ inspector() *Inspect }); !ok || owner.inspector() != h {
		t.Error("it has no inspect")
	}
	<-tunnelled
}
