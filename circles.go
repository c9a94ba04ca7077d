package streamprox

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// maxHandOvers is how often a connection may be handed to an HTTP server of this process,
// or relayed to the port that it came in by. Once is usual, and twice is what a site needs
// whose own listener wrapper leads to another site. More is a circle.
const maxHandOvers = 8

// circles are the streams that relay has sent to a port of this process. turns says how
// often, by the address that the stream comes back from. ports are those by which relay's
// clients have come in.
var circles struct {
	sync.Mutex
	turns map[string]int
	ports [1 << 16 / 64]atomic.Uint64 // a bit for each
}

// circle counts a stream between client and upstream if it may come back to this process.
// It returns how often the stream has been sent here, and whether that is the port by which
// this client has come in (same). end forgets the stream. The ports that are known are
// those by which clients of relay have come in: in a circle of several relays all are known
// after the first round.
func circle(client, upstream net.Conn) (turns int, same bool, end func()) {
	to, ok := upstream.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return 0, false, func() {}
	}
	from := client
	if beneath := socket.Of(client); beneath != nil {
		from = beneath // its addresses are not those of a PROXY header
	}
	if in, ok := from.LocalAddr().(*net.TCPAddr); ok && !isClientPort(in.Port) {
		circles.ports[uint16(in.Port)/64].Or(1 << (in.Port % 64))
	}
	same = sameAddress(to, from.LocalAddr())
	if !same && !(isClientPort(to.Port) && onThisMachine(upstream)) {
		return 0, false, func() {}
	}
	key := upstream.LocalAddr().String()
	circles.Lock()
	defer circles.Unlock()
	turns = circles.turns[from.RemoteAddr().String()] + 1
	if circles.turns == nil {
		circles.turns = make(map[string]int)
	}
	circles.turns[key] = turns
	return turns, same, func() {
		circles.Lock()
		defer circles.Unlock()
		delete(circles.turns, key)
	}
}

// isClientPort reports whether clients of relay have come in by that port.
func isClientPort(port int) bool {
	return circles.ports[uint16(port)/64].Load()&(1<<(port%64)) != 0
}

// onThisMachine reports whether both ends of a TCP connection are.
func onThisMachine(conn net.Conn) bool {
	from, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	to, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && (from.IP.Equal(to.IP) || from.IP.IsLoopback() && to.IP.IsLoopback())
}

// sameAddress reports whether two TCP addresses are one.
func sameAddress(a, b net.Addr) bool {
	first, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	second, ok := b.(*net.TCPAddr)
	return ok && first.Port == second.Port && first.IP.Equal(second.IP)
}
