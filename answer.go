package streamprox

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

const (
	// answerTimeout bounds the time in which an answer is written and then the time
	// in which what the client still sends is read and dropped.
	answerTimeout = 2 * time.Second

	// answerDrain bounds, in bytes, what is read and dropped after an answer.
	answerDrain = 256 << 10
)

// answer writes a short HTTP/1.1 response to conn, shuts down the sending side and
// reads what the client still sends, within bounds. Closing a socket with unread
// bytes sends a reset, which may destroy the answer before the client has read it
// (RFC 9112 section 9.6). It does not close conn. With head, the request is a HEAD
// request and the response has no content (RFC 9110 section 9.3.2).
func answer(conn net.Conn, status int, head bool) {
	content := fmt.Sprintf("%d %s\n", status, http.StatusText(status))
	response := fmt.Sprintf("HTTP/1.1 %d %s\r\n"+
		"Date: %s\r\n"+
		"Content-Type: text/plain; charset=utf-8\r\n"+
		"Content-Length: %d\r\n"+
		"Connection: close\r\n\r\n",
		status, http.StatusText(status), time.Now().UTC().Format(http.TimeFormat), len(content))
	if !head {
		response += content
	}
	_ = conn.SetDeadline(time.Now().Add(answerTimeout))
	if _, err := io.WriteString(conn, response); err != nil {
		return
	}
	linger(conn)
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
	_ = closeWrite(conn)
	_ = conn.SetReadDeadline(time.Now().Add(answerTimeout))
	_, _ = io.CopyN(io.Discard, conn, answerDrain)
}
