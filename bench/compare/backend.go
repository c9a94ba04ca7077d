package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// bodySize is the content of every response that is no file.
const bodySize = 1 << 10

// body is that content.
var body = strings.Repeat("0123456789abcdef", bodySize/16)

// buffer is how much the two ends of a bulk transfer move with one call.
const buffer = 256 << 10

// serveBackend is the server behind the relays. Each of its streams begins with the
// handshake of a WebSocket, so that a proxy that looks at requests makes it a tunnel, and
// goes on as plain bytes. What it then does, the path says:
//
//	/app/echo        sends back what comes
//	/app/down/<n>    sends n bytes after it has got one
//	/app/up/<n>      reads n bytes, then sends one
//
// A request that asks for no upgrade is answered with a constant content, or if its path is
// /app/events with the head of a stream of events and then with nothing.
func serveBackend(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := listener.Accept()
		if err != nil {
			return err
		}
		go serveStream(c)
	}
}

// serveStream serves one connection and closes it.
func serveStream(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 1<<10)
	for {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if request.Header.Get("Upgrade") != "" {
			serveUpgraded(c, r, request)
			return
		}
		if request.URL.Path == "/app/events" {
			// What a server of events sends so that nginx does not collect them.
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"+
				"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
				return
			}
			_, _ = r.ReadByte() // ends when the proxy closes
			return
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			return
		}
	}
}

// serveUpgraded does what the path says. An error shows at the client, which misses bytes.
func serveUpgraded(c net.Conn, r *bufio.Reader, request *http.Request) {
	sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:])); err != nil {
		return
	}
	what, number, _ := strings.Cut(strings.TrimPrefix(request.URL.Path, "/app/"), "/")
	n, _ := strconv.ParseInt(number, 10, 64)
	switch what {
	case "echo":
		piece := make([]byte, 64)
		for {
			n, err := r.Read(piece)
			if err != nil {
				return
			}
			if _, err := c.Write(piece[:n]); err != nil {
				return
			}
		}
	case "down":
		if _, err := r.ReadByte(); err != nil {
			return
		}
		piece := make([]byte, buffer)
		for n > 0 {
			written, err := c.Write(piece[:min(n, buffer)])
			if err != nil {
				return
			}
			n -= int64(written)
		}
	case "up":
		if _, err := io.CopyBuffer(discard{}, io.LimitReader(reader{r}, n), make([]byte, buffer)); err != nil {
			return
		}
		_, _ = c.Write([]byte{1})
	}
}

// discard is io.Discard without its ReadFrom, which reads 8 KiB at a time.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// reader is a reader and nothing else, so that io.CopyBuffer uses the buffer.
type reader struct{ io.Reader }
