package accepting

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
)

// listen returns a listener from which nobody accepts, and its socket as it is found.
func listen(t *testing.T, network, address string) (net.Listener, *Socket) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	sockets, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		if s.Addr().Network() == ln.Addr().Network() && s.Addr().String() == ln.Addr().String() {
			return ln, s
		}
	}
	t.Fatalf("%s is not among %d sockets", ln.Addr(), len(sockets))
	return nil, nil
}

// knock connects, and stays until the end of the test.
func knock(t *testing.T, ln net.Listener) {
	t.Helper()
	conn, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
}

// TestStopped: a listener counts as stopped when connections wait and none of them is taken
// for several looks, not when it is slow.
func TestStopped(t *testing.T) {
	for _, network := range []string{"tcp", "tcp4", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			ln, s := listen(t, network, address)
			looks := func(what string, n int, want bool) {
				t.Helper()
				for i := range n {
					if got := s.Stopped(); got != (want && i == n-1) {
						t.Errorf("%s, look %d: stopped %v", what, i, got)
					}
				}
			}
			accept := func() {
				t.Helper()
				conn, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
			}
			looks("nobody waits", 2*looksStalled, false)
			knock(t, ln)
			knock(t, ln)
			looks("two wait", looksStalled-1, false)
			if network != "unix" {
				accept()
				looks("one was taken", looksStalled, false)
				knock(t, ln)
				looks("another came", 1, true)
				accept()
			} else {
				accept()
			}
			accept()
			looks("nobody waits any more", 2*looksStalled, false)
			knock(t, ln)
			looks("one waits", looksStalled, true)
		})
	}
}

// TestListen: a second listener accepts from the socket, also when its owner has closed it.
func TestListen(t *testing.T) {
	ln, s := listen(t, "tcp", "127.0.0.1:0")
	second, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for _, close := range []bool{false, true} {
		if close {
			ln.Close()
		}
		if got := s.Closed(); got != close {
			t.Errorf("closed: got %v, want %v", got, close)
		}
		knock(t, ln)
		conn, err := second.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if third, err := s.Listen(); err == nil {
		third.Close()
		t.Error("got a listener on a socket that its owner has closed")
	}
}

// TestNumberOfAnother: a descriptor whose number is another socket's by now is left alone.
func TestNumberOfAnother(t *testing.T) {
	_, s := listen(t, "tcp", "127.0.0.1:0")
	_, other := listen(t, "tcp", "127.0.0.1:0")
	s.fd = other.fd
	if !s.Closed() {
		t.Error("another socket was taken for the first one")
	}
	if ln, err := s.Listen(); err == nil {
		ln.Close()
		t.Error("got a listener on another socket")
	}
}

func Example() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()
	sockets, _ := Find()
	for _, s := range sockets {
		if s.Addr().String() == ln.Addr().String() {
			fmt.Println("found; stopped:", s.Stopped())
		}
	}
	// Output: found; stopped: false
}
