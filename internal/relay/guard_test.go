package relay

import (
	"net"
	"runtime"
	"testing"
	"time"
)

// TestGuardIsNotKept: the timer of a guard, which the runtime keeps for a while after it was
// stopped, keeps nothing of an exchange that is over.
func TestGuardIsNotKept(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	freed := make(chan struct{})
	timer := func() *time.Timer {
		g := new(guard)
		*g = newGuard(conn, func(error) {})
		if g.gone == nil {
			t.Skip("here a guard notices nothing")
		}
		runtime.AddCleanup(g, func(freed chan struct{}) { close(freed) }, freed)
		g.begin()
		g.end()
		return g.timer
	}()
	for deadline := time.Now().Add(30 * time.Second); ; {
		runtime.GC()
		select {
		case <-freed:
			runtime.KeepAlive(timer)
			return
		case <-time.After(10 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("the timer keeps its guard")
			}
		}
	}
}
