package httphead

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

var chunkTests = []struct {
	rule string
	name string
	in   string // a whole body, or one that is broken where at says
	err  *Error
	at   int // with err: the bytes before the one that breaks the body
}{
	{"RFC 9112 7.1", "no chunk", "0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "one chunk", "5\r\nhello\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "chunks of any bytes", "3\r\n\r\n0\r\n2\r\n\x00\xff\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "hexadecimal digits", "a\r\n0123456789\r\nB\r\n0123456789a\r\n1F\r\n0123456789abcdefghijklmnopqrstu\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "leading zeros", "0000000000000001\r\nx\r\n0000000000000000\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "size of 17 digits", "00000000000000001\r\n", ErrChunkSize, 16},
	{"RFC 9112 7.1", "size of 2^63", "8000000000000000\r\n", ErrChunkSize, 15},
	{"RFC 9112 7.1", "size of 2^64", "10000000000000000\r\n", ErrChunkSize, 16},
	{"RFC 9112 7.1", "size with a prefix", "0x5\r\nhello\r\n", ErrChunkSize, 1},
	{"RFC 9112 7.1", "size with a plus", "+5\r\nhello\r\n", ErrChunkSize, 0},
	{"RFC 9112 7.1", "size with a minus", "-5\r\nhello\r\n", ErrChunkSize, 0},
	{"RFC 9112 7.1", "size with an underscore", "1_0\r\n", ErrChunkSize, 1},
	{"RFC 9112 7.1", "space before the size", " 5\r\nhello\r\n", ErrChunkSize, 0},
	{"RFC 9112 7.1", "space after the size", "5 \r\nhello\r\n", ErrChunkSize, 1},
	{"RFC 9112 7.1", "tab after the size", "5\t\r\nhello\r\n", ErrChunkSize, 1},
	{"RFC 9112 7.1", "no size", "\r\nhello\r\n", ErrChunkSize, 0},
	{"RFC 9112 7.1", "no size but an extension", ";a\r\nhello\r\n", ErrChunkSize, 0},
	{"RFC 9112 7.1", "letters that are no digits", "g\r\n", ErrChunkSize, 0},
	{"RFC 9112 7.1", "full-width digit", "\xef\xbc\x95\r\n", ErrChunkSize, 0},
	{"RFC 9112 7.1", "bare LF after the size", "5\nhello\r\n", ErrBareLF, 1},
	{"RFC 9112 7.1", "bare LF without a size", "\nhello\r\n", ErrChunkSize, 0},
	{"RFC 9112 2.2", "bare CR after the size", "5\rhello\r\n", ErrBareCR, 2},
	{"RFC 9112 2.2", "two CR after the size", "5\r\r\nhello\r\n", ErrBareCR, 2},
	{"RFC 9112 7.1", "data too long", "4\r\nhello\r\n", ErrChunkEnd, 7},
	{"RFC 9112 7.1", "data too short", "6\r\nhello\r\n0\r\n", ErrChunkEnd, 9},
	{"RFC 9112 7.1", "bare LF after the data", "5\r\nhello\n0\r\n", ErrChunkEnd, 8},
	{"RFC 9112 7.1", "bare CR after the data", "5\r\nhello\r0\r\n", ErrChunkEnd, 9},
	{"RFC 9112 7.1", "two line ends after the data", "5\r\nhello\r\n\r\n0\r\n", ErrChunkSize, 10},

	{"RFC 9112 7.1.1", "name", "1;a\r\nx\r\n0;b\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "name and token", "1;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "two extensions", "1;a;b=c\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "quoted value", "1;a=\"b;\\\"\\\\=\t\xff\";c\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "empty quoted value", "1;a=\"\"\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "no name", "1;\r\nx\r\n", ErrChunkExtension, 2},
	{"RFC 9112 7.1.1", "no name before the value", "1;=a\r\nx\r\n", ErrChunkExtension, 2},
	{"RFC 9112 7.1.1", "no value", "1;a=\r\nx\r\n", ErrChunkExtension, 4},
	{"RFC 9112 7.1.1", "space before the semicolon", "1 ;a\r\nx\r\n", ErrChunkSize, 1},
	{"RFC 9112 7.1.1", "space after the semicolon", "1; a\r\nx\r\n", ErrChunkExtension, 2},
	{"RFC 9112 7.1.1", "space after the name", "1;a =b\r\nx\r\n", ErrChunkExtension, 3},
	{"RFC 9112 7.1.1", "space after the equals sign", "1;a= b\r\nx\r\n", ErrChunkExtension, 4},
	{"RFC 9112 7.1.1", "space after the value", "1;a=b \r\nx\r\n", ErrChunkExtension, 5},
	{"RFC 9112 7.1.1", "space after the quoted value", "1;a=\"b\" \r\nx\r\n", ErrChunkExtension, 7},
	{"RFC 9112 7.1.1", "two values", "1;a=b=c\r\nx\r\n", ErrChunkExtension, 5},
	{"RFC 9112 7.1.1", "control byte", "1;a\x00\r\nx\r\n", ErrChunkExtension, 3},
	{"RFC 9112 7.1.1", "control byte in quotation marks", "1;a=\"\x00\"\r\nx\r\n", ErrChunkExtension, 5},
	{"RFC 9112 7.1.1", "line end in quotation marks", "1;a=\"\r\nx\r\n", ErrChunkExtension, 5},
	{"RFC 9112 7.1.1", "line end after a backslash", "1;a=\"\\\r\nx\r\n", ErrChunkExtension, 6},
	{"RFC 9112 7.1.1", "text after the quoted value", "1;a=\"b\"c\r\nx\r\n", ErrChunkExtension, 7},
	{"RFC 9112 7.1.1", "bare LF after the name", "1;a\nx\r\n", ErrBareLF, 3},
	{"RFC 9112 7.1.1", "bare LF after the value", "1;a=b\nx\r\n", ErrBareLF, 5},
	{"RFC 9112 7.1.1", "bare LF after the semicolon", "1;\nx\r\n", ErrChunkExtension, 2},
	{"RFC 9112 7.1.1", "bare CR in an extension", "1;a\rb\r\nx\r\n", ErrBareCR, 4},
	{"RFC 9112 7.1.1", "longest line", "1;" + strings.Repeat("a", 4092) + "\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "line too long", "1;" + strings.Repeat("a", 4093) + "\r\nx\r\n0\r\n\r\n", ErrChunkLine, 4096},
	{"RFC 9112 7.1.1", "chunks of one byte", strings.Repeat("1\r\nx\r\n", 400) + "0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "long extensions and much data", strings.Repeat("400;"+strings.Repeat("a", 1900)+"\r\n"+strings.Repeat("x", 1024)+"\r\n", 10) + "0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "long extensions and little data", strings.Repeat("1;"+strings.Repeat("a", 4092)+"\r\nx\r\n", 4) + "1;" + strings.Repeat("a", 100) + "\r\nx\r\n",
		ErrChunkOverhead, 4*4099 + 103},

	{"RFC 9112 7.1.2", "trailer", "0\r\nX-Sum: 5\r\nx!#$%&'*+-.^_`|~9:\t\xff \r\nEmpty:\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.2", "longest trailer section", "0\r\nX:" + strings.Repeat("a", 4090) + "\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.2", "trailer section too long", "0\r\nX:" + strings.Repeat("a", 4091) + "\r\n\r\n", ErrTrailerLength, 3 + 4096},
	{"RFC 9112 7.1.2", "trailers too many", "0\r\n" + strings.Repeat("X:\r\n", 1024), ErrTrailerLength, 3 + 4096},
	{"RFC 9112 7.1.2", "text for the empty line", "0\r\nGET / HTTP/1.1\r\n", ErrNameSpace, 6},
	{"RFC 9112 5", "no colon", "0\r\nX\r\n\r\n", ErrNoColon, 4},
	{"RFC 9112 5", "no name", "0\r\n: x\r\n\r\n", ErrName, 3},
	{"RFC 9112 5.1", "space before the colon", "0\r\nX : y\r\n\r\n", ErrNameSpace, 4},
	{"RFC 9112 5.1", "tab before the colon", "0\r\nX\t: y\r\n\r\n", ErrNameSpace, 4},
	{"RFC 9110 5.1", "NUL in the name", "0\r\nX\x00: y\r\n\r\n", ErrName, 4},
	{"RFC 9110 5.5", "NUL in the value", "0\r\nX: \x00\r\n\r\n", ErrValue, 6},
	{"RFC 9110 5.5", "DEL in the value", "0\r\nX: \x7f\r\n\r\n", ErrValue, 6},
	{"RFC 9112 5.2", "folding", "0\r\nX: a\r\n b\r\n\r\n", ErrFold, 9},
	{"RFC 9112 5.2", "space before the first field", "0\r\n X: a\r\n\r\n", ErrFold, 3},
	{"RFC 9112 2.2", "bare LF after a field", "0\r\nX: a\n\r\n", ErrBareLF, 7},
	{"RFC 9112 2.2", "bare LF for the empty line", "0\r\n\n", ErrBareLF, 3},
	{"RFC 9112 2.2", "bare CR in a value", "0\r\nX: a\rHost: b\r\n\r\n", ErrBareCR, 8},
	{"RFC 9112 2.2", "bare CR for the empty line", "0\r\n\rX", ErrBareCR, 4},
	{"RFC 9110 6.5.1", "Host", "0\r\nHost: a\r\n\r\n", ErrTrailerField, 7},
	{"RFC 9110 6.5.1", "Content-Length", "0\r\nX: a\r\ncontent-LENGTH: 5\r\n\r\n", ErrTrailerField, 23},
	{"RFC 9110 6.5.1", "Transfer-Encoding", "0\r\nTransfer-Encoding: chunked\r\n\r\n", ErrTrailerField, 20},
	{"RFC 9110 6.5.1", "Trailer", "0\r\ntrailer: X\r\n\r\n", ErrTrailerField, 10},
	{"RFC 9110 6.5.1", "Content_Length", "0\r\nContent_Length: 5\r\n\r\n", ErrTrailerField, 17},
	{"RFC 9110 6.5.1", "Transfer.Encoding", "0\r\nTransfer.Encoding: chunked\r\n\r\n", ErrTrailerField, 20},
	{"RFC 9110 6.5.1", "names that begin or end alike", "0\r\nHosts: a\r\nX-Host: a\r\nHos: a\r\nTransfer-Encodings: a\r\nContent-Length-: 5\r\n\r\n", accepted, 0},
}

// follow gives in to read in pieces, with their sum and the last answer. Each piece
// is overwritten once read.
func follow(t *testing.T, read func([]byte) (int, bool, error), in string, cuts ...int) (n int, done bool, err error) {
	t.Helper()
	start := 0
	for _, cut := range append(cuts, len(in)) {
		b := []byte(in[start:cut])
		m := 0
		m, done, err = read(b)
		n += m
		start = cut
		if m != len(b) && !done && err == nil {
			t.Fatalf("%q, cut at %d: left %d bytes", in, cuts, len(b)-m)
		}
		clear(b)
	}
	return n, done, err
}

// stretches returns a reader of a chunked body that skips what it may.
func stretches() func([]byte) (int, bool, error) {
	var body Body
	body.Reset(-1, true)
	return func(data []byte) (n int, done bool, err error) {
		for n < len(data) && !done && err == nil {
			if left := min(body.Left(), int64(len(data)-n)); left > 0 {
				body.Skip(left)
				n += int(left)
				continue
			}
			var m int
			m, done, err = body.Read(data[n : n+1])
			n += m
		}
		if n == len(data) {
			_, done, err = body.Read(nil)
		}
		return n, done, err
	}
}

func TestChunks(t *testing.T) {
	for _, test := range chunkTests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) {
			in, at := test.in+"0\r\n\r\nGET ", test.at
			var want error
			if test.err == accepted {
				at = len(test.in)
			} else {
				want = test.err
			}
			check := func(how string, n int, done bool, err error) {
				t.Helper()
				if n != at || done != (want == nil) || err != want {
					t.Fatalf("%q, %s: got %d, %v, %v, want %d, %v", in, how, n, done, err, at, want)
				}
			}
			n, done, err := follow(t, new(Chunks).Read, in)
			check("whole", n, done, err)
			n, done, err = follow(t, stretches(), in)
			check("skipping", n, done, err)

			// All cuts of the long bodies would take minutes.
			stride := 1 + len(in)/500
			var bytewise Chunks
			for i := range at {
				if i%stride == 0 {
					rest := bytewise
					n, done, err := rest.Read([]byte(in[i:]))
					check("cut", i+n, done, err)
				}
				n, done, err := bytewise.Read([]byte(in[i : i+1]))
				if n != 1 || done != (i+1 == at && want == nil) || err != nil {
					t.Fatalf("%q: byte %d: got %d, %v, %v", in, i, n, done, err)
				}
			}
			for range 2 { // an answer stays
				n, done, err = bytewise.Read([]byte(in[at:]))
				check("byte by byte", at+n, done, err)
			}
		})
	}
}

// TestChunkSize reads sizes whose data nobody could send.
func TestChunkSize(t *testing.T) {
	for in, want := range map[string]int64{
		"7fffffffffffffff\r\n": math.MaxInt64,
		"4000000000000000\r\n": 1 << 62,
		"0000000100000000\r\n": 1 << 32,
	} {
		var body Body
		body.Reset(-1, true)
		if n, done, err := body.Read([]byte(in)); n != len(in) || done || err != nil || body.Left() != want {
			t.Errorf("%q: got %d, %v, %v, left %d, want left %d", in, n, done, err, body.Left(), want)
		}
	}
}

func TestBody(t *testing.T) {
	tests := []struct {
		name    string
		length  int64
		chunked bool
		in      string
		n       int
		left    int64 // before anything is read
	}{
		{"none", -1, false, "GET ", 0, 0},
		{"empty", 0, false, "GET ", 0, 0},
		{"counted", 5, false, "helloGET ", 5, 5},
		{"chunked", -1, true, "5\r\nhello\r\n0\r\n\r\nGET ", 15, 0},
		{"chunked and counted", 5, true, "5\r\nhello\r\n0\r\n\r\nGET ", 15, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for cut := range test.in {
				body := Body{left: 99, chunks: Chunks{state: bodyBroken, err: ErrChunkEnd}}
				body.Reset(test.length, test.chunked)
				if body.Left() != test.left {
					t.Errorf("left %d, want %d", body.Left(), test.left)
				}
				if n, done, err := follow(t, body.Read, test.in, cut); n != test.n || !done || err != nil {
					t.Errorf("cut %d: got %d, %v, %v, want %d", cut, n, done, err, test.n)
				}
				if body.Left() != 0 {
					t.Errorf("complete, but left %d", body.Left())
				}
			}
		})
	}
	t.Run("counted, skipping", func(t *testing.T) {
		var body Body
		body.Reset(5, false)
		body.Skip(2)
		if n, done, err := body.Read([]byte("l")); n != 1 || done || err != nil || body.Left() != 2 {
			t.Errorf("got %d, %v, %v, left %d", n, done, err, body.Left())
		}
		body.Skip(2)
		if n, done, err := body.Read(nil); n != 0 || !done || err != nil {
			t.Errorf("got %d, %v, %v", n, done, err)
		}
	})
	t.Run("until close", func(t *testing.T) {
		var body Body
		body.Reset(math.MaxInt64, false)
		if n, done, err := body.Read([]byte("hello")); n != 5 || done || err != nil || body.Left() != math.MaxInt64-5 {
			t.Errorf("got %d, %v, %v, left %d", n, done, err, body.Left())
		}
	})
	for name, n := range map[string]int64{"too far": 6, "back": -1} {
		t.Run("skipping "+name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			var body Body
			body.Reset(5, false)
			body.Skip(n)
		})
	}
}

// chunkBodies are bodies of 64 KiB in chunks of one size.
func chunkBodies() map[string][]byte {
	bodies := map[string][]byte{}
	for name, chunk := range map[string]string{
		"chunks of 16 KiB":   "4000\r\n" + strings.Repeat("x", 16<<10) + "\r\n",
		"chunks of 64 bytes": "40\r\n" + strings.Repeat("x", 64) + "\r\n",
		"chunks of 1 byte":   "1\r\nx\r\n",
	} {
		body := bytes.Repeat([]byte(chunk), 64<<10/len(chunk))
		bodies[name] = append(body, "0\r\nX-Sum: 5\r\n\r\n"...)
	}
	return bodies
}

func TestBodyAllocations(t *testing.T) {
	bodies := chunkBodies()
	broken := []byte("5\r\nhello\n")
	padded := []byte("5 \r\nhello\r\n0 \r\n\r\n")
	padding := make([]byte, len(padded))
	var body Body
	got := testing.AllocsPerRun(10, func() {
		for name, data := range bodies {
			body.Reset(-1, true)
			if n, done, err := body.Read(data); n != len(data) || !done || err != nil {
				t.Fatalf("%s: got %d, %v, %v", name, n, done, err)
			}
		}
		for name, data := range bodies {
			body.Reset(-1, true)
			body.Lenient()
			if kept, n, done, err := body.Forward(data); kept != n || n != len(data) || !done || err != nil {
				t.Fatalf("%s: forwarded %d of %d, %v, %v", name, kept, n, done, err)
			}
		}
		copy(padding, padded)
		body.Reset(-1, true)
		body.Lenient()
		if kept, n, done, err := body.Forward(padding); n-kept != 2 || !done || err != nil {
			t.Fatalf("padded: forwarded %d of %d, %v, %v", kept, n, done, err)
		}
		body.Reset(-1, true)
		if _, _, err := body.Read(broken); err != ErrChunkEnd {
			t.Fatalf("got %v, want %v", err, ErrChunkEnd)
		}
		body.Reset(5, false)
		body.Read(broken)
	})
	if got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func BenchmarkForwardBody(b *testing.B) {
	for name, data := range chunkBodies() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				var body Body
				body.Reset(-1, true)
				body.Lenient()
				if _, _, done, err := body.Forward(data); !done {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkChunks(b *testing.B) {
	for name, data := range chunkBodies() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				var c Chunks
				if _, done, err := c.Read(data); !done {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestTrailer(t *testing.T) {
	for _, test := range []struct {
		name string
		in   string
		want int
	}{
		{"before it", "5\r\nhello\r\n0\r\n", 0},
		{"within", "5\r\nhello\r\n0\r\nX: ", 3},
		{"complete", "0\r\nX: y\r\n\r\nGET /", 8},
		{"empty", "0\r\n\r\n", 2},
		{"broken", "0\r\nX: y\r\n z\r\n\r\n", 6},
		{"broken before it", "+5\r\nhello\r\n", 0},
		{"broken in a later chunk", "5\r\nhello\r\n5;=\r\n", 0},
	} {
		var body Body
		body.Reset(-1, true)
		_, _, _ = body.Read([]byte(test.in))
		if got := body.Trailer(); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
	var body Body
	body.Reset(5, false)
	_, _, _ = body.Read([]byte("hello"))
	if got := body.Trailer(); got != 0 {
		t.Errorf("counted: got %d, want 0", got)
	}
}

// lenientChunkTests are bodies that only a lenient reader reads differently, each with what
// of it goes on.
var lenientChunkTests = []struct {
	rule string
	name string
	in   string // a whole body, or one that is broken where at says
	want string // what goes on of a whole body
	err  *Error
	at   int
}{
	{"RFC 9112 7.1", "nothing to be left out", "5\r\nhello\r\n0\r\nX: y\r\n\r\n", "5\r\nhello\r\n0\r\nX: y\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "space after the size", "5 \r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "tab after the size", "5\t\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "spaces after each size", "5B4 \r\n" + strings.Repeat("x", 0x5b4) + "\r\n005  \t \r\nhello\r\n0     \r\n\r\n", "5B4\r\n" + strings.Repeat("x", 0x5b4) + "\r\n005\r\nhello\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "spaces before a trailer", "0 \r\nX: y\r\n\r\n", "0\r\nX: y\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "data that looks like a padded size", "4 \r\n4 \r\n\r\n0\r\n\r\n", "4\r\n4 \r\n\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "longest line", "1" + strings.Repeat(" ", 4093) + "\r\nx\r\n0\r\n\r\n", "1\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1", "line too long", "1" + strings.Repeat(" ", 4094) + "\r\nx\r\n", "", ErrChunkLine, 4096},
	{"RFC 9112 7.1", "space before the size", " 5\r\nhello\r\n", "", ErrChunkSize, 0},
	{"RFC 9112 7.1", "space for the size", " \r\nhello\r\n", "", ErrChunkSize, 0},
	{"RFC 9112 7.1", "digit after the space", "5 0\r\nhello\r\n", "", ErrChunkSize, 2},
	{"RFC 9112 7.1", "other whitespace after the size", "5\v\r\nhello\r\n", "", ErrChunkSize, 1},
	{"RFC 9112 7.1", "bare LF after a padded size", "5 \nhello\r\n", "", ErrBareLF, 2},
	{"RFC 9112 2.2", "bare CR after a padded size", "5 \rhello\r\n", "", ErrBareCR, 3},
	{"RFC 9112 7.1.1", "space before the semicolon", "1 ;a\r\nx\r\n", "", ErrChunkSize, 2},
	{"RFC 9112 7.1.1", "size of 17 digits, padded", "00000000000000001 \r\n", "", ErrChunkSize, 16},

	{"RFC 9112 7.1.1", "extensions of strict form", "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "no name", "1;\r\nx\r\n0\r\n\r\n", "1\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "spaces in an extension", "1; a = b \r\nx\r\n0; c\r\n\r\n", "1\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "control bytes in an extension", "1;\x00\x1b\x7f\xff\r\nx\r\n0\r\n\r\n", "1\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "line end in quotation marks", "1;a=\"\r\nx\r\n0;b=\"\\\r\n\r\n", "1\r\nx\r\n0\r\n\r\n", accepted, 0},
	{"RFC 9112 7.1.1", "bare LF in an extension", "1;a\nb\r\nx\r\n", "", ErrBareLF, 3},
	{"RFC 9112 7.1.1", "bare LF at the end of an extension", "1;a \nx\r\n", "", ErrBareLF, 4},
	{"RFC 9112 7.1.1", "bare CR in an extension", "1;a\rb\r\nx\r\n", "", ErrBareCR, 4},
	{"RFC 9112 7.1.1", "two CR after an extension", "1;a\r\r\nx\r\n", "", ErrBareCR, 4},
	{"RFC 9112 7.1.1", "no size but an extension", ";a\r\nhello\r\n", "", ErrChunkSize, 0},
	{"RFC 9112 7.1.1", "padding and little data", strings.Repeat("1"+strings.Repeat(" ", 4093)+"\r\nx\r\n", 4) + "1" + strings.Repeat(" ", 100) + "\r\nx\r\n", "",
		ErrChunkOverhead, 4*4099 + 102},

	{"RFC 9112 7.1", "bare LF after the data", "5 \r\nhello\n0\r\n", "", ErrChunkEnd, 9},
	{"RFC 9112 7.1.2", "bare LF after a trailer", "0 \r\nX: a\n\r\n", "", ErrBareLF, 8},
	{"RFC 9112 5.2", "folded trailer", "0 \r\nX: a\r\n b\r\n\r\n", "", ErrFold, 10},
	{"RFC 9110 6.5.1", "Host in the trailer", "0 \r\nHost: a\r\n\r\n", "", ErrTrailerField, 8},
}

// forwards gives in to b in pieces, and returns what goes on, with the sum and the last
// answer. With skip it does not look at what it may skip.
func forwards(t *testing.T, b *Body, skip bool, in string, cuts ...int) (out string, n int, done bool, err error) {
	t.Helper()
	var passed strings.Builder
	start := 0
	for _, cut := range append(cuts, len(in)) {
		data := []byte(in[start:cut])
		start = cut
		for len(data) > 0 && !done && err == nil {
			if left := min(b.Left(), int64(len(data))); skip && left > 0 {
				b.Skip(left)
				passed.Write(data[:left])
				n += int(left)
				data = data[left:]
				continue
			}
			piece := data
			if skip {
				piece = data[:1]
			}
			around := data[:min(len(data), len(piece)+8)]
			before := string(around)
			var kept, m int
			kept, m, done, err = b.Forward(piece)
			if string(around[m:]) != before[m:] || kept > m || kept == m && string(around[:m]) != before[:m] {
				t.Fatalf("%q: changed to %q, of which %d are the body's and %d go on", before, around, m, kept)
			}
			if m < len(piece) && !done && err == nil {
				t.Fatalf("%q: left %d bytes", in, len(piece)-m)
			}
			passed.Write(piece[:kept])
			n += m
			data = data[m:]
		}
	}
	return passed.String(), n, done, err
}

func TestChunksLenient(t *testing.T) {
	for _, test := range lenientChunkTests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) {
			in, at := test.in, test.at
			var want error
			if test.err == accepted {
				in += "GET "
				at = len(test.in)
			} else {
				want = test.err
			}
			check := func(how string, skip bool, cuts ...int) {
				t.Helper()
				var b Body
				b.Reset(-1, true)
				b.Lenient()
				out, n, done, err := forwards(t, &b, skip, in, cuts...)
				if n != at || done != (want == nil) || err != want || want == nil && out != test.want {
					t.Fatalf("%q, %s %d: got %q of %d, %v, %v, want %q of %d, %v", in, how, cuts, out, n, done, err, test.want, at, want)
				}
			}
			bytewise := make([]int, len(in))
			for i := range bytewise {
				bytewise[i] = i
			}
			check("whole", false)
			check("skipping", true)
			check("byte by byte", false, bytewise...)
			for cut := 0; cut < len(in); cut += 1 + len(in)/500 {
				check("cut", false, cut)
			}
			if n, done, err := (&Chunks{Lenient: true}).Read([]byte(in)); n != at || done != (want == nil) || err != want {
				t.Errorf("%q: read %d, %v, %v", in, n, done, err)
			}
			if want != nil {
				return
			}
			if n, done, err := new(Chunks).Read([]byte(test.want)); n != len(test.want) || !done || err != nil {
				t.Errorf("%q goes on: a strict reader reads %d, %v, %v", test.want, n, done, err)
			}
		})
	}
}

// TestForwardBodyStrict checks that nothing is left out of a body that a strict reader
// reads, nor of one that is not chunked, and that no byte of it is moved.
func TestForwardBodyStrict(t *testing.T) {
	for _, test := range chunkTests {
		var strict Body
		strict.Reset(-1, true)
		out, n, done, err := forwards(t, &strict, false, test.in)
		wantN, wantDone, wantErr := new(Chunks).Read([]byte(test.in))
		if out != test.in[:n] || n != wantN || done != wantDone || err != wantErr {
			t.Errorf("%s: %.200q: got %.200q of %d, %v, %v, want %d, %v, %v", test.name, test.in, out, n, done, err, wantN, wantDone, wantErr)
		}
	}
	for _, length := range []int64{-1, 0, 5, 9, math.MaxInt64} {
		var b Body
		b.Reset(length, false)
		b.Lenient()
		want := "5 \r\nhello"[:max(0, min(length, 9))]
		if out, n, done, err := forwards(t, &b, false, "5 \r\nhello"); out != want || n != len(want) || done != (length <= 9) || err != nil {
			t.Errorf("length %d: got %q of %d, %v, %v, want %q", length, out, n, done, err, want)
		}
	}
}

// TestResetBody checks that a body is read as its head was.
func TestResetBody(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, lenient := range []bool{false, true} {
		b := Body{left: 5, chunks: Chunks{Lenient: !lenient}}
		read(Options{Lenient: lenient}, head).ResetBody(&b)
		if _, done, err := b.Read([]byte("0 \r\n\r\n")); done != lenient || (err == nil) != lenient {
			t.Errorf("lenient %v: %v, %v", lenient, done, err)
		}
	}
	var b Body
	read(Options{Lenient: true}, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n").ResetBody(&b)
	if b.Left() != 3 {
		t.Errorf("counted: %d left, want 3", b.Left())
	}
}
