package relay

import "github.com/streamprox/caddy-streamprox/internal/account"

// addLoops adds what the event loops have counted. Each has a tally of its own, so that none
// waits for the memory of another.
func addLoops(c *Counts) {
	for _, l := range loops() {
		l.tally.addTo(c)
	}
	c.Pipes = pipesOpen.Load()
}

// count counts n bytes that the lane has delivered.
func (l *loop) count(p *pair, ln *lane, n int) {
	ln.carried += int64(n)
	l.tally.delivered(ln == &p.up, n)
	p.meter.DeliveredAt(account.Direction(ln == &p.up), int64(n), l.now)
}

// countWaiting counts p if it has begun to wait for a request, and not any more if it has
// ceased to.
func (l *loop) countWaiting(p *pair) {
	waits := p.ended == 0 && p.session != nil && p.session.phase == waiting && !p.parked
	switch {
	case waits == p.waits:
		return
	case waits:
		l.tally.waiting.Add(1)
	default:
		l.tally.waiting.Add(-1)
	}
	p.waits = waits
}
