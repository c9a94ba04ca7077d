package freeport

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// TestAddress takes ports in two processes that begin at the same one.
func TestAddress(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("ports are claimed on Linux alone")
	}
	if first := os.Getenv("FREEPORT_TEST"); first != "" {
		next.Store(0)
		if got := Address(t); got == first {
			t.Errorf("got %s again", got)
		}
		return
	}
	next.Store(0)
	address := Address(t)
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // the server has stopped, the test goes on
	other := exec.Command(os.Args[0], "-test.run=^TestAddress$")
	other.Env = append(os.Environ(), "FREEPORT_TEST="+address)
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTaken(t *testing.T) {
	ln, err := net.Listen("tcp", Address(t))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if unused(ln.Addr().String()) {
		t.Error("a port with a listener is unused")
	}
}
