package streamprox

import (
	"slices"

	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// message follows a request on its way to the HTTP server, through the bytes in which it
// arrives: which of them the server may have, and which belong to the next request. It does
// not read them itself.
//
// A trailer section is for the server when it is complete, and not at all if it is broken.
// Caddy hides its body from net/http's server, which then reads on after a trailer section
// that it could not read, and would answer the pieces of that as a request.
type message struct {
	body     httphead.Body // finds the end
	complete bool          // all of the message has arrived
	broken   error         // why the rest of the message cannot be read
	ready    []byte        // what has arrived, and is for the server
	trailer  []byte        // what has arrived of a trailer section that is not complete

	rest    []byte         // what has arrived of the next request; nil if nothing has
	blank   exchange.Blank // what may come before its head
	skipped []byte         // what came of that
}

// maxBlank is how many bytes CR and LF net/http's server skips after a POST request, whose
// body old clients end with a line end that its length does not count (RFC 9112 section
// 2.2). After a lenient inspection as many are skipped.
const maxBlank = 4

// begin makes m the request with this head, which is the first headLen bytes of data.
// blank is what may follow it. The data are m's from now on.
func (m *message) begin(head *httphead.Reader, data []byte, headLen int, blank exchange.Blank) {
	*m = message{blank: blank}
	head.ResetBody(&m.body)
	ready, within := m.follow(data[headLen:])
	m.ready = data[: headLen+ready : headLen+ready]
	m.rest = nonEmpty(data[headLen+within:])
}

// receive looks at p, which has arrived, and returns how many of its bytes are for the
// server at once. The others are copied.
func (m *message) receive(p []byte) (ready int) {
	ready, within := m.follow(p)
	m.rest = append(m.rest, p[within:]...)
	return ready
}

// follow looks at the next bytes. It returns how many of them are for the server, and how
// many belong to the message.
func (m *message) follow(p []byte) (ready, within int) {
	before := m.body.Trailer()
	within, m.complete, m.broken = m.body.Read(p)
	held := m.body.Trailer() - before
	switch {
	case m.broken != nil:
		m.trailer = nil
		return within - held, within
	case m.complete && before == 0:
		return within, within // it has come in one piece
	}
	m.trailer = append(m.trailer, p[within-held:within]...)
	if m.complete {
		m.ready, m.trailer = m.trailer, nil
	}
	return within - held, within
}

// room cuts p to what the rest of the message may fill, if its length is known.
func (m *message) room(p []byte) []byte {
	if left := m.body.Left(); 0 < left && left < int64(len(p)) {
		return p[:left]
	}
	return p
}

// take moves what is ready to p.
func (m *message) take(p []byte) int {
	n := copy(p, m.ready)
	m.ready = nonEmpty(m.ready[n:])
	return n
}

// skipBlank leaves out what may come before the next head.
func (m *message) skipBlank() {
	rest := m.blank.Skip(m.rest)
	m.skipped = append(m.skipped, m.rest[:len(m.rest)-len(rest)]...)
	m.rest = nonEmpty(rest)
}

// unread makes all that has arrived, and has not been taken, ready, whatever it is.
func (m *message) unread() {
	if len(m.trailer)+len(m.skipped)+len(m.rest) > 0 {
		m.ready = slices.Concat(m.ready, m.trailer, m.skipped, m.rest)
		m.trailer, m.skipped, m.rest = nil, nil, nil
	}
}

// nonEmpty returns p, or nil: an empty slice would keep its array.
func nonEmpty(p []byte) []byte {
	if len(p) == 0 {
		return nil
	}
	return p
}
