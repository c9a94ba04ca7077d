package streamprox

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// pieceReader returns a few bytes from each read.
type pieceReader struct{ *bytes.Reader }

func (r pieceReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 700)]) }

// TestUnfinishedHeadMemory holds what an inspection keeps of a head that is not complete
// to three times the bytes received, beside a constant.
func TestUnfinishedHeadMemory(t *testing.T) {
	const constant = 12 << 10
	const begin = "GET / HTTP/1.1\r\nHost: a\r\n"
	for _, size := range []int{1 << 10, 16 << 10, 256 << 10} {
		for name, rest := range map[string]string{
			"one field":               "X: " + strings.Repeat("x", size),
			"many fields":             strings.Repeat("z:\r\n", size/4),
			"fields, then one":        strings.Repeat("z:\r\n", 254) + "X: " + strings.Repeat("x", size),
			"options":                 "Connection: a" + strings.Repeat(",a", size/2),
			"options, fields":         "Connection: a" + strings.Repeat(",a", size/4) + "\r\n" + strings.Repeat("z:\r\n", size/8),
			"request line":            strings.Repeat("x", size),
			"fields of one byte more": strings.Repeat("zz:\r\n", size/5),
		} {
			t.Run(fmt.Sprintf("%s, %d KiB", name, size>>10), func(t *testing.T) {
				h := loadHandler(t, "inspect", `{"max_bytes":1048576}`).(*Inspect)
				conn := &scriptedConn{r: pieceReader{bytes.NewReader([]byte(begin + rest))}, remote: textAddr("192.0.2.7:1")}
				in := newInspection(h, layer4.WrapConnection(conn, nil, zap.NewNop()), conn, nil)
				in.data = make([]byte, 1, socket.FirstSize)
				if _, err := conn.Read(in.data); err != nil {
					t.Fatal(err)
				}
				if err := in.begin(); err != nil {
					t.Fatal(err)
				}
				held := int(unsafe.Sizeof(*in)) + cap(in.data)
				if n := cap(in.head.Fields); n > usualFields {
					held += n * int(unsafe.Sizeof(httphead.Field{}))
				}
				if most := 3*len(in.data) + constant; held > most {
					t.Errorf("%s: %d bytes received, %d held, want at most %d", in.outcome, len(in.data), held, most)
				}
			})
		}
	}
}

// TestPrefetchedHeadTooLarge checks that http_request without inspect matches no request
// with more fields than inspect would read, and asks for no more bytes of it.
func TestPrefetchedHeadTooLarge(t *testing.T) {
	matcher := provisionRequestMatcher(t, `[{"path":["/*"]}]`)
	for fields, want := range map[int]bool{255: true, 256: false, 1000: false} {
		data := []byte("GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("z:\r\n", fields) + "\r\n")
		if got, err := matcher.Match(layer4.WrapConnection(clientConn{}, data, zap.NewNop())); got != want || err != nil {
			t.Errorf("Host and %d more fields: got %v, %v, want %v", fields, got, err, want)
		}
	}
}
