package httphead

import "testing"

// A response with a Connection field, and one without, allocate nothing.
func TestForwardResponseAllocations(t *testing.T) {
	for _, head := range [][]byte{answer, []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")} {
		var r Response
		r.Reset()
		if r.Read(head) != HTTP {
			t.Fatal(r.Err())
		}
		dst := make([]byte, 0, 2*len(head))
		got := testing.AllocsPerRun(100, func() {
			dst = r.Forward(dst[:0], head, true)
			r.Persistent(head)
		})
		if got != 0 {
			t.Errorf("%.20q: got %v allocations, want 0", head, got)
		}
	}
}

func BenchmarkForward(b *testing.B) {
	const plain = "GET /a HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
	const short = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
	for name, head := range map[string]string{"browser": string(browser), "plain": plain} {
		b.Run("request of "+name, func(b *testing.B) {
			data := []byte(head)
			var r Reader
			r.Reset(Options{})
			if r.Read(data) != HTTP {
				b.Fatal(r.Err())
			}
			f := Forward{Persistent: true, Upgrades: []string{"websocket"}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Request(&r, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, head := range map[string]string{"with Connection": string(answer), "plain": short} {
		b.Run("response, "+name, func(b *testing.B) {
			data := []byte(head)
			var r Response
			r.Reset()
			if r.Read(data) != HTTP {
				b.Fatal(r.Err())
			}
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				dst = r.Forward(dst[:0], data, true)
				r.Persistent(data)
			}
		})
	}
}
