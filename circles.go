package streamprox

import (
	"net"
	"sync"
)

// maxHandOvers is how often a connection may be handed to an HTTP server of this process,
// or relayed to the port that it came in by. Once is usual, and twice is what a site needs
// whose own listener wrapper leads to another site. More is a circle.
const maxHandOvers = 8

// circles are the streams that relay has sent to the port that they came in by: how often
// that was, by the address that the stream comes back from.
var circles struct {
	sync.Mutex
	turns map[string]int
}

// circle counts a stream between client and upstream if it comes back in, and reports how
// often it has done so. After end it is forgotten.
func circle(client, upstream net.Conn) (turns int, end func()) {
	from := client
	if beneath := socket(client); beneath != nil {
		from = beneath // its addresses are not those of a PROXY header
	}
	if !sameAddress(upstream.RemoteAddr(), from.LocalAddr()) {
		return 0, func() {}
	}
	key := upstream.LocalAddr().String()
	circles.Lock()
	defer circles.Unlock()
	turns = circles.turns[from.RemoteAddr().String()] + 1
	if circles.turns == nil {
		circles.turns = make(map[string]int)
	}
	circles.turns[key] = turns
	return turns, func() {
		circles.Lock()
		defer circles.Unlock()
		delete(circles.turns, key)
	}
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
