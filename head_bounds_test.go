package streamprox

import (
	"strings"
	"testing"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

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
