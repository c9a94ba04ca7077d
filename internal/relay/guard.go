package relay

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// askInterval is how often the source of a flow is asked for while nobody reads from it,
// because its destination takes nothing. Tests lower it before anything begins.
var askInterval = 5 * time.Second

// guard notices a reset of the source of a flow while the flow waits in a write. A socket
// reports a reset only to a read, or if it is asked.
type guard struct {
	source net.Conn
	gone   func(error) // told of the reset; nil: nothing is noticed
	timer  *time.Timer // nil until the first write

	// writing is the guard itself during a write, else nil. It is all that the timer
	// knows: the runtime keeps a stopped timer for a while, and must not keep an exchange
	// whose tunnel lasts for days.
	writing *atomic.Pointer[guard]
}

// newGuard returns a guard of source, which does nothing if that is not over a socket.
func newGuard(source net.Conn, gone func(error)) guard {
	if !socket.NoticesHangUp(source) {
		return guard{}
	}
	return guard{source: source, gone: gone}
}

// begin is called before a write, and end after it.
func (g *guard) begin() {
	if g.gone == nil {
		return
	}
	if g.timer == nil {
		writing := new(atomic.Pointer[guard])
		g.writing = writing
		g.timer = time.AfterFunc(forever, func() {
			if g := writing.Load(); g != nil {
				g.ask()
			}
		})
	}
	g.writing.Store(g)
	g.timer.Reset(askInterval)
}

func (g *guard) end() {
	if g.gone == nil {
		return
	}
	g.timer.Stop()
	g.writing.Store(nil)
}

// ask is what the timer does during a write.
func (g *guard) ask() {
	if err := socket.HangUp(g.source); err != nil {
		g.gone(err)
		return
	}
	if g.writing.Load() != nil {
		g.timer.Reset(askInterval)
	}
}
