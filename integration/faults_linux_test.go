package integration

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBlackHole: an upstream that takes no connections and refuses none. Other systems
// than Linux refuse those for which there is no room.
func TestBlackHole(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) })
	if err != nil {
		t.Fatal(err)
	}
	full := false
	for range 8 { // until nobody is let into its queue
		conn, err := net.DialTimeout("tcp", ln.Addr().String(), 300*time.Millisecond)
		if full = err != nil; full {
			break
		}
		defer conn.Close()
	}
	if !full {
		t.Fatal("the queue of the listener is never full")
	}

	address := freeAddress(t)
	s := start(t, relayCaddyfile(address, "relay "+ln.Addr().String()+" {\n dial_timeout 200ms\n }"))
	conn := dial(t, address)
	send(t, conn, getRoot, 1<<20)
	expectAnswer(t, conn, "504")
	s.logs.expect(t, map[string]any{"msg": "no upstream reached"})

	// A client that leaves does not wait for the end of the dial.
	if err := s.load(relayCaddyfile(address, "relay "+ln.Addr().String()+" {\n dial_timeout 1h\n }")); err != nil {
		t.Fatal(err)
	}
	conn = dial(t, address)
	send(t, conn, getRoot, 1<<20)
	eventually(t, "inspection", func() bool { return len(s.logs.lines(map[string]any{"msg": "inspected"})) == 2 })
	_ = conn.SetLinger(0)
	conn.Close()
	s.logs.expect(t, map[string]any{"msg": "relay given up"})
}

// TestKeepAlive: the kernel probes both sides of a relayed stream, so that a half-open
// one ends.
func TestKeepAlive(t *testing.T) {
	address := freeAddress(t)
	upstream := backend(t, echo("up"))
	start(t, relayCaddyfile(address, "relay "+upstream+" {\n reuse pin\n }"))
	conn := dial(t, address)
	send(t, conn, getRoot, 1<<20)
	if got, err := bufio.NewReader(conn).ReadString('\n'); got != "up\n" {
		t.Fatalf("got %q (%v)", got, err)
	}
	found := map[string]int{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	port := func(a unix.Sockaddr) string {
		switch a := a.(type) {
		case *unix.SockaddrInet4:
			return fmt.Sprintf("127.0.0.1:%d", a.Port)
		case *unix.SockaddrInet6:
			return fmt.Sprintf("127.0.0.1:%d", a.Port)
		}
		return ""
	}
	for _, entry := range entries {
		var fd int
		if _, err := fmt.Sscan(entry.Name(), &fd); err != nil {
			continue
		}
		near, err := unix.Getsockname(fd)
		if err != nil {
			continue
		}
		far, err := unix.Getpeername(fd)
		if err != nil {
			continue
		}
		side := ""
		switch {
		case port(near) == address:
			side = "client"
		case port(far) == upstream:
			side = "upstream"
		default:
			continue
		}
		on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		idle, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		if err != nil || on == 0 || idle != 15 {
			t.Errorf("%s: SO_KEEPALIVE is %d (%v) after %d s, want on after 15 s", side, on, err, idle)
		}
		found[side]++
	}
	if found["client"] != 1 || found["upstream"] != 1 {
		t.Errorf("found %v sockets, want one for each side", found)
	}
}
