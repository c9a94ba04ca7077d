package streamprox

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

const (
	// answerTimeout bounds the time in which an answer is written and then the time
	// in which what the client still sends is read and dropped.
	answerTimeout = 2 * time.Second

	// answerDrain bounds, in bytes, what is read and dropped after an answer.
	answerDrain = 256 << 10
)

// response is an HTTP/1.1 response that is made here.
type response struct {
	status  int
	fields  []fieldEdit // besides those that send writes
	content string
}

// statusOnly returns a response that says no more than its status.
func statusOnly(status int) response {
	return response{status: status, content: fmt.Sprintf("%d %s\n", status, http.StatusText(status))}
}

// answer sends a response that says no more than its status.
func answer(conn net.Conn, status int, head bool) { statusOnly(status).send(conn, head) }

// send writes the response to conn, shuts down the sending side and reads what the
// client still sends, within bounds. Closing a socket with unread bytes sends a reset,
// which may destroy the answer before the client has read it (RFC 9112 section 9.6). It
// does not close conn, and returns how many bytes it has written. With head, the request is a
// HEAD request and the response has no content (RFC 9110 section 9.3.2).
func (r response) send(conn net.Conn, head bool) (written int) {
	ownAnswers.count(r.status)
	_ = conn.SetDeadline(time.Now().Add(answerTimeout))
	written, err := io.WriteString(conn, r.text(head))
	if err == nil {
		linger(conn)
	}
	return written
}

// text returns the response as it is sent.
func (r response) text(head bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", r.status, http.StatusText(r.status))
	if !r.has("Date") {
		fmt.Fprintf(&b, "Date: %s\r\n", time.Now().UTC().Format(http.TimeFormat))
	}
	if r.content != "" && !r.has("Content-Type") {
		b.WriteString("Content-Type: text/plain; charset=utf-8\r\n")
	}
	for _, field := range r.fields {
		for _, value := range field.values {
			fmt.Fprintf(&b, "%s: %s\r\n", field.name, value)
		}
	}
	if r.status != http.StatusNoContent && r.status != http.StatusNotModified {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.content))
	}
	b.WriteString("Connection: close\r\n\r\n")
	if !head {
		b.WriteString(r.content)
	}
	return b.String()
}

// has reports whether the response has a field of that name besides those that send
// writes.
func (r response) has(name string) bool {
	return slices.ContainsFunc(r.fields, func(f fieldEdit) bool { return strings.EqualFold(f.name, name) })
}

// refusalStatus returns the status that the outcome of a stream calls for which no route
// took, or 0: bytes that cannot be HTTP get no answer.
func (in *inspection) refusalStatus() (status int) {
	switch {
	case in.Outcome() == opening.HTTP2, !in.PartialHTTP():
	case in.Outcome() == opening.Malformed:
		return http.StatusBadRequest
	case in.Outcome() == opening.TooLarge:
		return http.StatusRequestHeaderFieldsTooLarge
	case in.Outcome() == opening.Timeout:
		return http.StatusRequestTimeout
	}
	return 0
}

// answer answers the request with no more than a status.
func (in *inspection) answer(status int) { in.respond(in.conn, statusOnly(status)) }

// respond answers the request on conn, which is its connection as the handlers before
// have left it.
func (in *inspection) respond(conn net.Conn, r response) {
	if in.turn.release == nil {
		in.turn.hold()
		defer in.turn.settle()
	}
	in.turn.lingered = true
	record := in.turn.record
	record.Meter().Responded(r.status)
	record.Change(func(s *account.Summary) { s.Destination = cmp.Or(s.Destination, toInspect) })
	noteCause(record, "answered", nil)
	written := r.send(conn, in.method() == http.MethodHead)
	record.Meter().Delivered(account.Down, int64(written))
}

// hasContent reports whether a response with that status may have content
// (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
func hasContent(status int) bool {
	return status != http.StatusNoContent && status != http.StatusResetContent && status != http.StatusNotModified
}

// goAway tells an HTTP/2 client to use HTTP/1.1 (RFC 9113 sections 3.4 and 7). It
// does not close conn.
func goAway(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(answerTimeout))
	framer := http2.NewFramer(conn, nil)
	if err := framer.WriteSettings(); err != nil {
		return
	}
	if err := framer.WriteGoAway(0, http2.ErrCodeHTTP11Required, nil); err != nil {
		return
	}
	linger(conn)
}

// tlsAlert sends a fatal TLS alert in the clear, as a server may before it has
// chosen a version (RFC 8446 section 6.2). It does not close conn.
func tlsAlert(conn net.Conn, description byte) {
	_ = conn.SetDeadline(time.Now().Add(answerTimeout))
	const alert, fatal = 21, 2
	if _, err := conn.Write([]byte{alert, 3, 3, 0, 2, fatal, description}); err != nil {
		return
	}
	linger(conn)
}

// tlsInternalError is the alert description internal_error (RFC 8446 section 6).
const tlsInternalError = 80

// linger shuts down the sending side of conn and drops what arrives.
func linger(conn net.Conn) {
	_ = socket.CloseWrite(conn)
	_ = conn.SetReadDeadline(time.Now().Add(answerTimeout))
	_, _ = io.CopyN(io.Discard, conn, answerDrain)
}
