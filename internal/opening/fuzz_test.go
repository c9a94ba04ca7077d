package opening_test

import (
	"reflect"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// FuzzPieces asserts that the packets in which bytes arrive, and whose memory holds them,
// change neither the outcome nor the head.
func FuzzPieces(f *testing.F) {
	for i, seed := range []string{
		head, head + head, head[:20], "GET / HTTP/1.1\n\n", "\r\nGET / HTTP/1.1\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "SSH-2.0-client\r\n", "",
	} {
		f.Add([]byte(seed), uint(i), uint(40), uint8(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut, most uint, mode uint8) {
		limits := opening.Limits{Bytes: int(most%1000) + 1}
		options := httphead.Options{Lenient: mode&1 != 0, LineOnly: mode&2 != 0, Later: mode&4 != 0}
		in := string(data)
		middle := int(cut % uint(len(in)+1))

		whole := new(opening.Opening)
		whole.Begin(limits, options, began)
		if in != "" {
			whole.First(data, began)
		}
		var bytes []string
		for _, c := range data {
			bytes = append(bytes, string([]byte{c}))
		}
		single, at := open(limits, options, bytes...)
		halves, _ := open(limits, options, in[:middle], in[middle:])
		others := map[string]*opening.Opening{"byte by byte": single, "in two": halves}
		if middle > 0 {
			others["lent"] = lent(limits, options, in[:middle], in[middle:])
		}
		if whole.Certain() && at > limits.Bytes {
			t.Fatalf("%q: certain after %d bytes, more than %d", in, at, limits.Bytes)
		}
		for how, o := range others {
			if o.Certain() != whole.Certain() || o.Outcome() != whole.Outcome() || o.PartialHTTP() != whole.PartialHTTP() {
				t.Fatalf("%q, %s: got %v (certain %v), whole %v (certain %v)", in, how, o.Outcome(), o.Certain(), whole.Outcome(), whole.Certain())
			}
			if !reflect.DeepEqual(o.Head, whole.Head) {
				t.Fatalf("%q, %s: got head %+v, whole %+v", in, how, o.Head, whole.Head)
			}
		}
	})
}
