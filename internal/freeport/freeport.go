// Package freeport finds ports for the servers that tests start.
package freeport

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
)

// Ports are taken from below those that systems give to connections, and to listeners that
// ask for any port.
const lowest, count = 10000, 20000

// next is the next port to try, less lowest. Processes begin far from each other.
var next atomic.Uint32

func init() { next.Store(uint32(os.Getpid()) * 100) }

// Find returns an address of 127.0.0.1 on which nothing listens, over TCP and UDP. Until
// release is called, no other call returns it, in any process: a server may be started there
// and stopped, again and again.
func Find() (address string, release func(), err error) {
	for range count {
		port := lowest + int(next.Add(1)%count)
		claimed, err := claim(port)
		if err != nil {
			continue
		}
		release = func() { claimed.Close() }
		address = fmt.Sprint("127.0.0.1:", port)
		if unused(address) {
			return address, release, nil
		}
		release()
	}
	return "", nil, errors.New("no free port")
}

// Address is Find until the test ends.
func Address(t testing.TB) string {
	t.Helper()
	address, release, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return address
}

// Get returns the port of an Address.
func Get(t testing.TB) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(Address(t))
	return port
}

// claim tells other processes that the port is taken. Binding the port itself would not:
// Caddy's sockets share their port with those of other processes (SO_REUSEPORT).
func claim(port int) (claimed net.Listener, err error) {
	if runtime.GOOS != "linux" {
		return net.Listen("tcp", "127.0.0.1:0") // no abstract sockets: nothing is claimed
	}
	return net.Listen("unix", fmt.Sprint("@streamprox-test-port-", port))
}

// unused reports whether nothing listens on the address.
func unused(address string) bool {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	ln.Close()
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	packets.Close()
	return true
}
