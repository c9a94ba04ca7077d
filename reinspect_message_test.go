package streamprox

import (
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// follow returns what a server has got of a request that arrives as in, of which the first
// cut bytes were there when it began, and the others come in pieces; and what follows. Each
// piece comes in memory that is used again.
func follow(t *testing.T, in string, cut, piece int, blank exchange.Blank) (m *message, got string) {
	t.Helper()
	head := new(httphead.Reader)
	head.Reset(httphead.Options{})
	data := []byte(in[:cut])
	if head.Read(data) != httphead.HTTP {
		t.Fatalf("%q is no head: %v", data, head.Err())
	}
	m = new(message)
	m.begin(head, data, head.Len, blank)
	server, buffer := make([]byte, 5), make([]byte, piece)
	take := func() {
		for n := m.take(server); n > 0; n = m.take(server) {
			got += string(server[:n])
		}
	}
	take()
	rest := in[cut:]
	for rest != "" && !m.complete && m.broken == nil {
		p := m.room(buffer)
		n := copy(p, rest)
		rest = rest[n:]
		got += string(p[:m.receive(p[:n])])
		take()
	}
	m.rest = append(m.rest, rest...) // as what is read when the next request is waited for
	return m, got
}

// TestMessage checks that a server gets all of a message and nothing else, in whatever
// pieces it arrives.
func TestMessage(t *testing.T) {
	const (
		get     = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
		counted = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
		chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
		chunk   = "5\r\nhello\r\n"
	)
	tests := []struct {
		name   string
		in     string
		want   string // what the server gets; "": all of in but what is after
		after  string
		broken bool
	}{
		{"no content", get, "", "", false},
		{"no content, and a request", get + get, "", get, false},
		{"counted content", counted, "", "", false},
		{"counted content, and a request", counted + get, "", get, false},
		{"chunks", chunked + chunk + "0\r\n\r\n" + get, "", get, false},
		{"chunks with a trailer", chunked + chunk + "0\r\nX: y\r\nZ: z\r\n\r\n" + get, "", get, false},
		{"a trailer that frames", chunked + chunk + "0\r\nX: y\r\nHost: i\r\n\r\n" + get, chunked + chunk + "0\r\n", "", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			head := strings.Index(test.in, "\r\n\r\n") + 4
			for cut := head; cut <= len(test.in); cut++ {
				for _, piece := range []int{1, 3, 1000} {
					m, got := follow(t, test.in, cut, piece, 0)
					want := test.want
					if want == "" {
						want = strings.TrimSuffix(test.in, test.after)
					}
					if got != want || (m.broken != nil) != test.broken {
						t.Errorf("cut at %d, pieces of %d: got %q (%v), want %q", cut, piece, got, m.broken, want)
					}
					if !test.broken && string(m.rest) != test.after {
						t.Errorf("cut at %d, pieces of %d: %q follows, want %q", cut, piece, m.rest, test.after)
					}
					if len(m.rest) == 0 && m.rest != nil || len(m.ready) == 0 && m.ready != nil {
						t.Errorf("cut at %d, pieces of %d: an empty slice keeps its array", cut, piece)
					}
				}
			}
		})
	}
}

// TestMessageBlank checks that so many line ends before the next head are left out, and that
// a hijacker gets them all the same.
func TestMessageBlank(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, test := range []struct {
		blank       exchange.Blank
		after, rest string
	}{
		{0, "\r\nGET", "\r\nGET"},
		{maxBlank, "GET", "GET"},
		{maxBlank, "\r\nGET", "GET"},
		{maxBlank, "\n\n\r\rGET", "GET"},
		{maxBlank, "\n\n\r\r\nGET", "\nGET"},
		{maxBlank, "\r\n", ""},
	} {
		m, _ := follow(t, get+test.after, len(get)+len(test.after), 1, test.blank)
		m.skipBlank()
		if string(m.rest) != test.rest || test.rest == "" && m.rest != nil {
			t.Errorf("%q: got %q, want %q", test.after, m.rest, test.rest)
		}
		m.unread()
		if got := string(m.ready); got != test.after {
			t.Errorf("%q: a hijacker gets %q", test.after, got)
		}
	}

	// They may come one by one.
	m, _ := follow(t, get, len(get), 1, maxBlank)
	for _, after := range []string{"\r", "\n", "\r", "\n", "\r"} {
		m.rest = append(m.rest, after...)
		m.skipBlank()
	}
	if string(m.rest) != "\r" {
		t.Errorf("five line ends: got %q, want the last one", m.rest)
	}
}
