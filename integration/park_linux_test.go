package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// socketOptionsAt returns the options of the accepted socket at that loopback address, by name.
func socketOptionsAt(t *testing.T, address string) map[string]int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
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
		if _, err := unix.Getpeername(fd); err != nil {
			continue // it listens
		}
		if near, ok := near.(*unix.SockaddrInet4); !ok || fmt.Sprintf("127.0.0.1:%d", near.Port) != address {
			continue
		}
		options := make(map[string]int)
		for _, option := range []struct {
			name        string
			level, what int
		}{
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
			{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY},
		} {
			if options[option.name], err = unix.GetsockoptInt(fd, option.level, option.what); err != nil {
				break
			}
		}
		if err == nil { // else it was closed meanwhile: there is another descriptor of the socket
			return options
		}
	}
	t.Fatalf("no socket at %s", address)
	return nil
}

// TestParkedSocketOptions: the kernel probes a parked connection as it does the others, and
// as it did before when it is back. keepalive_interval of the HTTP app is not for the virtual
// network, with parking or without it.
func TestParkedSocketOptions(t *testing.T) {
	parksHere(t)
	address := freeport.Address(t)
	s := start(t, parkSite(address, "servers {\nkeepalive_interval 77s\n}", "", "park 200ms", "respond ok"))
	c := newScript(t, address)
	var before map[string]int
	for i := range 3 {
		c.get("/", "ok")
		for _, when := range []string{"with the server", "parked"} {
			now := socketOptionsAt(t, address)
			if before == nil {
				before = now
			}
			if fmt.Sprint(now) != fmt.Sprint(before) {
				t.Errorf("%d, %s: got %v, before %v", i, when, now, before)
			}
			s.parked()
		}
	}
	if before["SO_KEEPALIVE"] != 1 || before["TCP_KEEPIDLE"] != 15 || before["TCP_NODELAY"] != 1 {
		t.Errorf("got %v", before)
	}
}

// TestParkedScarce: a connection that has nothing to read while descriptors are scarce stays
// with the server, is answered, and is parked when there are enough again.
func TestParkedScarce(t *testing.T) {
	parksHere(t)
	const limit, spare = 512, 40
	address, direct, admin := freeport.Address(t), freeport.Address(t), freeport.Address(t)
	pid := startLimited(t, limit, parkSite(address, "admin "+admin, "timeout 5m", "park 300ms", "respond ok")+
		"\nhttp://"+direct+" {\nrespond ok\n}\n").pid()
	waiting := func() int { return goroutinesIn(t, admin, waitsInServer) }
	clients := connections(t, address, spare)
	eventually(t, "parked connections", func() bool { return waiting() == 0 })
	// Those that say nothing take the rest.
	var silent []net.Conn
	for reset := false; !reset && len(silent) < limit; {
		conn := dial(t, address)
		silent = append(silent, conn)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		_, err := conn.Read(make([]byte, 1))
		reset = isReset(err)
	}
	// Caddy's own listener takes more, which nobody refuses: now one that is closed is no room.
	for range spare {
		silent = append(silent, dial(t, direct))
	}
	eventually(t, "scarcity", func() bool { return descriptorsOf(t, pid) >= limit/2+spare/2 })
	for range 3 {
		for _, c := range clients {
			c.get("/ /", "ok", "ok")
		}
		time.Sleep(600 * time.Millisecond) // more than is needed to park
		// One that was parked would stay so.
		eventually(t, fmt.Sprintf("%d connections with the server", spare), func() bool { return waiting() == spare })
	}
	for _, conn := range silent {
		conn.Close()
	}
	eventually(t, "parked connections", func() bool { return waiting() == 0 })
	for _, c := range clients {
		c.get("/", "ok")
	}
}

// TestParkedThousands: 4,000 connections that are parked all wake at once, by a byte each, and
// again by the rest of their requests. Each is answered, and nothing is left.
func TestParkedThousands(t *testing.T) {
	parksHere(t)
	const n = 4000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 3*n {
		t.Skipf("only %d descriptors (%v)", limit.Cur, err)
	}
	address := freeport.Address(t)
	s := start(t, parkSite(address, "", "", "park 300ms", "respond ok"))
	clients := connections(t, address, n)
	for _, c := range clients {
		_ = c.conn.(net.Conn).SetDeadline(time.Now().Add(6 * patience))
	}
	s.parked()
	opened := descriptors()
	for range 2 {
		for _, c := range clients {
			_, _ = io.WriteString(c.conn, "G")
		}
		for _, c := range clients {
			_, _ = io.WriteString(c.conn, "ET / HTTP/1.1\r\nHost: a\r\n\r\n")
		}
		var all sync.WaitGroup
		for part := range 8 {
			all.Go(func() {
				for i := part; i < n; i += 8 {
					clients[i].get("", "ok")
				}
			})
		}
		all.Wait()
		s.parked()
		eventually(t, "end of what each request has opened", func() bool { return descriptors() <= opened+slack })
	}
}
