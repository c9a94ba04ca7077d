package opening_test

import (
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

const head = "GET /chat?a HTTP/1.1\r\nHost: example.com\r\nX: y\r\n\r\n"

// limits are usual ones.
var limits = opening.Limits{Bytes: 16 << 10, SilentTimeout: 15 * time.Second, Timeout: 10 * time.Second}

// began is when each opening begins.
var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// open returns an opening that has been told of the pieces, one packet each, until its
// outcome was certain, and how many bytes that took.
func open(limits opening.Limits, options httphead.Options, pieces ...string) (o *opening.Opening, at int) {
	o = new(opening.Opening)
	o.Begin(limits, options, began)
	for _, piece := range pieces {
		for len(piece) > 0 && !o.Certain() {
			n := copy(o.Room(), piece)
			o.Received(n, began)
			piece = piece[n:]
			at += n
		}
	}
	return o, at
}

// lent returns an opening that has been told of the whole as bytes that are only lent, and
// which are somebody else's again before what follows arrives.
func lent(limits opening.Limits, options httphead.Options, first, rest string) *opening.Opening {
	o := new(opening.Opening)
	o.Begin(limits, options, began)
	buffer := make([]byte, len(first)+100)
	n := copy(buffer, first)
	o.First(buffer[:n:n], began)
	o.Own(nil)
	for i := range buffer {
		buffer[i] = '?'
	}
	for i := 0; i < len(rest) && !o.Certain(); i++ {
		o.Received(copy(o.Room(), rest[i:i+1]), began)
	}
	return o
}

// TestOutcomes feeds openings byte by byte and in two packets at every cut, in memory of
// their own and in memory that is lent.
func TestOutcomes(t *testing.T) {
	few := opening.Limits{Bytes: 30, Timeout: time.Second}
	tests := []struct {
		name    string
		limits  opening.Limits
		options httphead.Options
		in      string
		want    opening.Outcome
		at      int // after how many bytes
		partial bool
	}{
		{"a request", limits, httphead.Options{}, head, opening.HTTP, len(head), false},
		{"a request and more", limits, httphead.Options{}, head + "more", opening.HTTP, len(head), false},
		{"a request line", limits, httphead.Options{LineOnly: true}, head, opening.HTTP, strings.Index(head, "\n") + 1, false},
		{"a ClientHello", limits, httphead.Options{}, "\x16\x03\x01\x02\x00\x01\x00", opening.TLS, 6, false},
		{"a ClientHello, later", limits, httphead.Options{Later: true}, "\x16\x03\x01\x02\x00\x01\x00", opening.Other, 1, false},
		{"HTTP/2", limits, httphead.Options{}, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", opening.HTTP2, 24, false},
		{"SSH", limits, httphead.Options{}, "SSH-2.0-client\r\n", opening.Other, 15, false},
		{"two Hosts", limits, httphead.Options{}, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", opening.Malformed, 34, true},
		{"a head as long as may be", few, httphead.Options{}, "GET / HTTP/1.1\r\nHost: 6789\r\n\r\n", opening.HTTP, 30, false},
		{"a head longer than may be", few, httphead.Options{}, "GET / HTTP/1.1\r\nHost: 67890\r\n\r\n", opening.TooLarge, 30, true},
		{"too many fields", limits, httphead.Options{}, "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("z:\r\n", 256), opening.TooLarge, 1047, true},
		{"text longer than may be", few, httphead.Options{Lenient: true}, strings.Repeat("M", 31), opening.TooLarge, 30, true},
		{"a PROXY header longer than may be", opening.Limits{Bytes: 5}, httphead.Options{}, "\r\n\r\n\x00\r\nQUIT\n", opening.TooLarge, 5, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check := func(how string, o *opening.Opening, at int) {
				t.Helper()
				if !o.Certain() || o.Outcome() != test.want || o.PartialHTTP() != test.partial {
					t.Errorf("%s: got %v (certain %v, partial %v), want %v (partial %v)",
						how, o.Outcome(), o.Certain(), o.PartialHTTP(), test.want, test.partial)
				}
				if at != 0 && at != test.at {
					t.Errorf("%s: certain after %d bytes, want %d", how, at, test.at)
				}
				if got := string(o.Data()); !strings.HasPrefix(test.in, got) || len(got) < test.at {
					t.Errorf("%s: the data are %q", how, got)
				}
				if test.want == opening.HTTP && string(o.Head.Method.Of(o.Data())) != "GET" {
					t.Errorf("%s: the head is not that of the data", how)
				}
			}
			o, at := open(test.limits, test.options, strings.Split(test.in, "")...)
			check("byte by byte", o, at)
			for cut := 1; cut < len(test.in); cut += 1 + len(test.in)/100 {
				o, _ := open(test.limits, test.options, test.in[:cut], test.in[cut:])
				check("in two", o, 0)
				check("lent", lent(test.limits, test.options, test.in[:cut], test.in[cut:]), 0)
			}
			o, _ = open(test.limits, test.options, test.in)
			check("whole", o, 0)
		})
	}
}

// TestUncertain checks what an end, and a clock, make of bytes that are no outcome.
func TestUncertain(t *testing.T) {
	for _, test := range []struct {
		name    string
		in      string
		tell    func(*opening.Opening)
		want    opening.Outcome
		partial bool
	}{
		{"no byte in time", "", (*opening.Opening).Expire, opening.Silent, false},
		{"no head in time", "GET / HT", (*opening.Opening).Expire, opening.Timeout, true},
		{"no ClientHello in time", "\x16\x03", (*opening.Opening).Expire, opening.Timeout, false},
		{"no byte at all", "", (*opening.Opening).End, opening.EOF, false},
		{"half a head", "GET / HT", (*opening.Opening).End, opening.EOF, true},
		{"a head", head, (*opening.Opening).End, opening.HTTP, false},
		{"a ClientHello", "\x16\x03\x01\x02\x00\x01", (*opening.Opening).Expire, opening.TLS, false},
	} {
		o, _ := open(limits, httphead.Options{}, test.in)
		test.tell(o)
		if !o.Certain() || o.Outcome() != test.want || o.PartialHTTP() != test.partial || o.More() {
			t.Errorf("%s: got %v (certain %v, partial %v, more %v), want %v (partial %v)",
				test.name, o.Outcome(), o.Certain(), o.PartialHTTP(), o.More(), test.want, test.partial)
		}
	}
}

// TestPackets checks the limit of packets: on the head, and on what somebody needs who
// reads on.
func TestPackets(t *testing.T) {
	three := limits
	three.Packets = 3
	for _, test := range []struct {
		pieces []string
		want   opening.Outcome
	}{
		{[]string{head[:10], head[10:20], head[20:]}, opening.HTTP},
		{[]string{head[:10], head[10:20], head[20:30], head[30:]}, opening.TooLarge},
	} {
		if o, _ := open(three, httphead.Options{}, test.pieces...); o.Outcome() != test.want {
			t.Errorf("%d packets: got %v, want %v", len(test.pieces), o.Outcome(), test.want)
		}
	}

	o, _ := open(three, httphead.Options{}, "\x16\x03\x01\x02\x00\x01")
	for packets := 1; packets < 3; packets++ {
		if !o.More() {
			t.Fatalf("no more after %d packets", packets)
		}
		o.Received(copy(o.Room(), "more"), began)
	}
	if o.More() {
		t.Error("more after three packets")
	}
	if got, want := string(o.Data()), "\x16\x03\x01\x02\x00\x01moremore"; got != want || o.Outcome() != opening.TLS {
		t.Errorf("got %q, %v, want %q, tls", got, o.Outcome(), want)
	}
}

// TestMore checks that reading on ends at the limit of bytes, and never begins where the
// outcome is final.
func TestMore(t *testing.T) {
	o, _ := open(opening.Limits{Bytes: 100}, httphead.Options{}, head)
	for o.More() {
		o.Received(copy(o.Room(), "0123456"), began)
	}
	if len(o.Data()) != 100 {
		t.Errorf("got %d bytes, want 100", len(o.Data()))
	}
	if o, _ := open(limits, httphead.Options{}, " GET"); o.More() {
		t.Error("more of what is malformed")
	}
}

// TestDeadline checks that the first byte has its own time, and that the others share one.
func TestDeadline(t *testing.T) {
	var o opening.Opening
	o.Begin(limits, httphead.Options{}, began)
	if got, want := o.Deadline(), began.Add(limits.SilentTimeout); got != want {
		t.Errorf("before the first byte: got %v, want %v", got, want)
	}
	at := began.Add(5 * time.Second)
	want := at.Add(limits.Timeout)
	for _, piece := range []string{"GET", " / HTTP/1.1\r\n", "Host:"} {
		o.Received(copy(o.Room(), piece), at)
		if got := o.Deadline(); got != want {
			t.Errorf("after %q: got %v, want %v", o.Data(), got, want)
		}
		at = at.Add(time.Second)
	}
	for _, at := range []time.Time{want.Add(time.Second), want.Add(-time.Second), want} {
		if o.Hasten(at); at.Before(want) {
			want = at
		}
		if got := o.Deadline(); got != want {
			t.Errorf("hastened to %v: got %v, want %v", at, got, want)
		}
	}
}

// TestNoAllocation checks that an opening that is used again costs no memory if the first
// packet decides, whoever has the memory of that.
func TestNoAllocation(t *testing.T) {
	var o opening.Opening
	packet := []byte(head)
	if got := testing.AllocsPerRun(100, func() {
		o.Begin(limits, httphead.Options{}, began)
		o.First(packet[:len(packet):len(packet)], began)
		if o.Outcome() != opening.HTTP {
			t.Fatalf("got %v", o.Outcome())
		}
	}); got > 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}

// TestMemory holds what is kept of a head that is not complete to three times the bytes
// received, beside a constant.
func TestMemory(t *testing.T) {
	const constant = 12 << 10
	const begin = "GET / HTTP/1.1\r\nHost: a\r\n"
	wide := limits
	wide.Bytes = 1 << 20
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
			var pieces []string
			for all := begin + rest; all != ""; {
				n := min(len(all), 700)
				pieces, all = append(pieces, all[:n]), all[n:]
			}
			o, _ := open(wide, httphead.Options{}, pieces...)
			o.End()
			held := int(unsafe.Sizeof(*o)) + cap(o.Data())
			if n := cap(o.Head.Fields); n > opening.UsualFields {
				held += n * int(unsafe.Sizeof(httphead.Field{}))
			}
			if most := 3*len(o.Data()) + constant; held > most {
				t.Errorf("%s, %d KiB, %s: %d bytes received, %d held, want at most %d", name, size>>10, o.Outcome(), len(o.Data()), held, most)
			}
		}
	}
}
