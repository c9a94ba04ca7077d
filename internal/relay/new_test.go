package relay

import (
	"os"
	"runtime"
	"testing"
)

func TestNew(t *testing.T) {
	registry := new(Registry)
	l := relayed(t, New(registry, nil), "tcp", Stream{})
	if got := registry.Len(); got != 1 {
		t.Errorf("streams: got %d, want 1", got)
	}
	closeWrite(t, l.client)
	closeWrite(t, l.upstream)
	want := "portable"
	if runtime.GOOS == "linux" && os.Getenv("STREAMPROX_ENGINE") != "portable" {
		want = "event"
	}
	if a := l.ends(t, Account{}); a.Engine != want {
		t.Errorf("engine: got %q, want %q", a.Engine, want)
	}
}
