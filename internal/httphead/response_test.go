package httphead

import (
	"reflect"
	"strings"
	"testing"
)

const ok = "HTTP/1.1 200 OK\r\n"

func responseField(f string) string { return ok + f + "\r\n" }

var responseTests = []struct {
	rule string
	name string
	in   string // without the empty line
	err  *Error
}{
	{"RFC 9112 4", "HTTP/1.1", ok, accepted},
	{"RFC 9112 4", "HTTP/1.0", "HTTP/1.0 404 Not Found\r\n", accepted},
	{"RFC 9112 4", "empty reason", "HTTP/1.1 200 \r\n", accepted},
	{"RFC 9112 4", "no reason", "HTTP/1.1 200\r\n", accepted},
	{"RFC 9112 4", "reason bytes", "HTTP/1.1 200 \t caf\xc3\xa9 ~ \r\n", accepted},
	{"RFC 9112 4", "NUL in the reason", "HTTP/1.1 200 O\x00K\r\n", ErrReason},
	{"RFC 9112 4", "DEL in the reason", "HTTP/1.1 200 \x7f\r\n", ErrReason},
	{"RFC 9112 2.2", "bare LF after the status line", "HTTP/1.1 200 OK\n", accepted},
	{"RFC 9112 2.2", "bare LF, no reason", "HTTP/1.1 200\n", accepted},
	{"RFC 9112 2.2", "bare CR in the reason", "HTTP/1.1 200 O\rK\r\n", ErrBareCR},
	{"RFC 9112 2.2", "two CR", "HTTP/1.1 200\r\r\n", ErrBareCR},
	{"RFC 9112 2.2", "CR LF before the status line", "\r\n" + ok, ErrStatus},
	{"RFC 9112 4", "space before the status line", " " + ok, ErrStatus},
	{"RFC 9112 4", "no version", "200 OK\r\n", ErrStatus},
	{"RFC 9112 4", "another protocol", "ICY 200 OK\r\n", ErrStatus},
	{"RFC 9112 4", "a request", start, ErrStatus},
	{"RFC 9112 4", "no status code", "HTTP/1.1\r\n", ErrStatus},
	{"RFC 9112 4", "no status code, but a space", "HTTP/1.1 \r\n", ErrStatusCode},
	{"RFC 9112 4", "two spaces after the version", "HTTP/1.0  401 Unauthorized\r\n", accepted},
	{"RFC 9112 4", "many spaces after the version", "HTTP/1.1" + strings.Repeat(" ", 100) + "200\r\n", accepted},
	{"RFC 9112 4", "two spaces, and a code of two digits", "HTTP/1.1  20 OK\r\n", ErrStatusCode},
	{"RFC 9112 4", "two spaces, and a code of four digits", "HTTP/1.1  2000 OK\r\n", ErrStatusCode},
	{"RFC 9112 4", "two spaces, and no code", "HTTP/1.1  \r\n", ErrStatusCode},
	{"RFC 9112 4", "two spaces, and a zero", "HTTP/1.1  099 X\r\n", ErrStatusCode},
	{"RFC 9112 4", "space and tab after the version", "HTTP/1.1 \t200 OK\r\n", ErrStatusCode},
	{"RFC 9112 4", "tab after the version", "HTTP/1.1\t200 OK\r\n", ErrStatus},
	{"RFC 9112 4", "tab after the status code", "HTTP/1.1 200\tOK\r\n", ErrStatusCode},
	{"RFC 9112 2.3", "letter case", "http/1.1 200 OK\r\n", ErrStatus},
	{"RFC 9112 2.3", "HTTP/1.2", "HTTP/1.2 200 OK\r\n", ErrVersion},
	{"RFC 9112 2.3", "HTTP/2.0", "HTTP/2.0 200 OK\r\n", ErrVersion},
	{"RFC 9112 2.3", "HTTP/2", "HTTP/2 200\r\n", ErrVersion},
	{"RFC 9112 2.3", "HTTP/1.10", "HTTP/1.10 200 OK\r\n", ErrVersion},
	{"RFC 9110 15", "least", "HTTP/1.1 100\r\n", accepted},
	{"RFC 9110 15", "largest", "HTTP/1.1 999 Denied\r\n", accepted},
	{"RFC 9110 15", "less than 100", "HTTP/1.1 099 X\r\n", ErrStatusCode},
	{"RFC 9110 15", "two digits", "HTTP/1.1 20 OK\r\n", ErrStatusCode},
	{"RFC 9110 15", "four digits", "HTTP/1.1 2000 OK\r\n", ErrStatusCode},
	{"RFC 9110 15", "sign", "HTTP/1.1 +20 OK\r\n", ErrStatusCode},
	{"RFC 9110 15", "letters", "HTTP/1.1 2OO OK\r\n", ErrStatusCode},

	{"RFC 9112 5", "field", responseField("Server:\t a b "), accepted},
	{"RFC 9112 5", "no colon", responseField("X"), ErrNoColon},
	{"RFC 9112 5", "no name", responseField(": x"), ErrName},
	{"RFC 9112 5.1", "space before the colon", responseField("X : y"), ErrNameSpace},
	{"RFC 9112 5.1", "space in the name", responseField("X Y: z"), ErrNameSpace},
	{"RFC 9110 5.1", "NUL in the name", responseField("X\x00: y"), ErrName},
	{"RFC 9110 5.5", "NUL in a value", responseField("X: a\x00"), ErrValue},
	{"RFC 9112 2.2", "bare LF after a field", ok + "X: y\n", accepted},
	{"RFC 9112 2.2", "bare CR in a value", responseField("X: a\rb"), ErrBareCR},
	{"RFC 9112 2.2", "bare CR for the empty line", ok + "\rX", ErrBareCR},
	{"RFC 9112 5.2", "folding", responseField("X: a\r\n b"), accepted},
	{"RFC 9112 5.2", "folding with a tab", responseField("X: a\r\n\tb"), accepted},
	{"RFC 9112 5.2", "folding with LF", ok + "X: a\n b\n", accepted},
	{"RFC 9112 5.2", "folding with nothing", responseField("X: a\r\n "), accepted},
	{"RFC 9112 5.2", "folded name", responseField("X\r\n : a"), ErrNoColon},
	{"RFC 9112 5.2", "folded Content-Length", responseField("Content-Length: 5\r\n 0"), ErrFold},
	{"RFC 9112 5.2", "folded Transfer-Encoding", responseField("Transfer-Encoding:\r\n chunked"), ErrCoding},
	{"RFC 9112 5.2", "folded Transfer-Encoding, the first line whole", responseField("Transfer-Encoding: chunked\r\n ,gzip"), ErrFold},
	{"RFC 9112 5.2", "control byte in a folded line", responseField("X: a\r\n \x01"), ErrValue},
	{"RFC 9112 5.2", "bare CR in a folded line", responseField("X: a\r\n b\rc"), ErrBareCR},
	{"RFC 9112 5", "space before the first field", ok + " X: a\r\n", ErrFold},
	{"RFC 9110 7.2", "Host, which has no meaning", responseField("Host: a/b\r\nHost:"), accepted},

	{"RFC 9110 8.6", "Content-Length", responseField("Content-Length: 0"), accepted},
	{"RFC 9110 8.6", "largest Content-Length", responseField("Content-Length: 9223372036854775807"), accepted},
	{"RFC 9110 8.6", "Content-Length too large", responseField("Content-Length: 9223372036854775808"), ErrLength},
	{"RFC 9110 8.6", "Content-Length with a plus", responseField("Content-Length: +5"), ErrLength},
	{"RFC 9110 8.6", "Content-Length empty", responseField("Content-Length:"), ErrLength},
	{"RFC 9110 8.6", "Content-Length as a list", responseField("Content-Length: 5, 5"), ErrLength},
	{"RFC 9112 6.3", "Content-Length twice", responseField("Content-Length: 5\r\ncontent-length: 5"), accepted},
	{"RFC 9112 6.3", "Content-Length twice, different", responseField("Content-Length: 5\r\nContent-Length: 6"), ErrLengthRepeated},
	{"RFC 9112 6.3", "Content-Length twice, written differently", responseField("Content-Length: 5\r\nContent-Length: 05"), ErrLengthRepeated},
	{"RFC 9112 6.1", "chunked", responseField("Transfer-Encoding: Chunked"), accepted},
	{"RFC 9112 6.3", "Content-Length, then chunked", responseField("Content-Length: 5\r\nTransfer-Encoding: chunked"), accepted},
	{"RFC 9112 6.3", "chunked, then Content-Length", responseField("Transfer-Encoding: chunked\r\nContent-Length: 5"), accepted},
	{"RFC 9112 6.3", "chunked, then an invalid Content-Length", responseField("Transfer-Encoding: chunked\r\nContent-Length: x"), ErrLength},
	{"RFC 9112 6.1", "gzip", responseField("Transfer-Encoding: gzip"), ErrCoding},
	{"RFC 9112 6.1", "gzip, chunked", responseField("Transfer-Encoding: gzip, chunked"), ErrCoding},
	{"RFC 9112 6.1", "identity", responseField("Transfer-Encoding: identity"), ErrCoding},
	{"RFC 9112 6.1", "empty", responseField("Transfer-Encoding:"), ErrCoding},
	{"RFC 9112 6.1", "chunked twice", responseField("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), ErrCodingRepeated},
	{"RFC 9112 6.1", "chunked with HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", ErrCodingVersion},
	{"RFC 9110 6.5.1", "Trailer", responseField("Transfer-Encoding: chunked\r\nTrailer: Expires"), accepted},
	{"RFC 9110 6.5.1", "Trailer names Content-Length", responseField("Transfer-Encoding: chunked\r\nTrailer: Content-Length") + "\r\n", ErrTrailer},
}

// feedResponse reads data as feed does.
func feedResponse(t *testing.T, data string) *Response {
	t.Helper()
	whole := readResponse(data)
	same := func(how string, cuts ...int) {
		t.Helper()
		if got := readResponse(data, cuts...); !reflect.DeepEqual(got, whole) {
			t.Fatalf("%q, %s:\ngot  %+v\nwant %+v", data, how, *got, *whole)
		}
	}
	bytewise := make([]int, len(data))
	for i := range bytewise {
		bytewise[i] = i
	}
	same("byte by byte", bytewise...)
	for cut := range data {
		same("cut", cut)
	}
	return whole
}

func readResponse(data string, cuts ...int) *Response {
	r := new(Response)
	r.Reset()
	for _, cut := range cuts {
		b := []byte(data[:cut])
		r.Read(b)
		clear(b)
	}
	r.Read([]byte(data))
	return r
}

func TestResponseRules(t *testing.T) {
	for _, test := range responseTests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) {
			in := test.in
			if test.err == accepted {
				in += "\r\n"
			}
			r := feedResponse(t, in+"HTTP/1.1 ")
			if test.err == accepted {
				if r.head.verdict != HTTP || r.Err() != nil || r.Len != len(in) {
					t.Errorf("%q: got %v, %v, length %d", in, r.head.verdict, r.Err(), r.Len)
				}
			} else if r.head.verdict != Malformed || r.Err() != test.err {
				t.Errorf("%q: got %v, %v, want %v", in, r.head.verdict, r.Err(), test.err)
			}
		})
	}
}

func TestResponseMore(t *testing.T) {
	head := ok + "Server: a\r\nContent-Length: 5\r\n\r\n"
	for end := range head {
		if r := feedResponse(t, head[:end]); r.head.verdict != More || r.Err() != nil {
			t.Errorf("%q: got %v, %v", head[:end], r.head.verdict, r.Err())
		}
	}
}

// TestResponsePosition holds problems of a response to the byte that shows them.
func TestResponsePosition(t *testing.T) {
	for in, want := range map[string]*Error{ // the last byte decides
		"S":                  ErrStatus,
		"HTTP/2":             ErrVersion,
		"HTTP/1.1 0":         ErrStatusCode,
		"HTTP/1.1 200X":      ErrStatusCode,
		"HTTP/1.1 200 \x00":  ErrReason,
		"HTTP/1.1 200 O\r\r": ErrBareCR,
		ok + " ":             ErrFold,
		"HTTP/1.1  0":        ErrStatusCode,
		"HTTP/1.1   200X":    ErrStatusCode,
		ok + "X: a\x00":      ErrValue,
		ok + "X ":            ErrNameSpace,
		"HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n": ErrCodingVersion,
	} {
		if r := feedResponse(t, in+"more"); r.Err() != want || r.head.pos != len(in)-1 {
			t.Errorf("%q: got %v at %d, want %v at %d", in, r.Err(), r.head.pos, want, len(in)-1)
		}
	}
}

func TestResponseResults(t *testing.T) {
	tests := []struct {
		name          string
		lines         []string
		status, minor int
		contentLength int64
		chunked       bool
		fields        string // "name=value;" each
	}{
		{"counted", []string{ok, "Content-Length: 042\r\n", "X:  a b \r\n", "\r\n"}, 200, 1, 42, false, "Content-Length=042;X=a b;"},
		{"chunked", []string{"HTTP/1.1 404 Not Found\r\n", "Transfer-Encoding: chunked\r\n", "\r\n"}, 404, 1, -1, true, "Transfer-Encoding=chunked;"},
		{"both", []string{ok, "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "\r\n"}, 200, 1, -1, true, "Content-Length=5;Transfer-Encoding=chunked;"},
		{"neither, LF alone", []string{"HTTP/1.0 999\n", "x:\n", "\n"}, 999, 0, -1, false, "x=;"},
		{"no fields", []string{"HTTP/1.1 101 Switching Protocols\r\n", "\r\n"}, 101, 1, -1, false, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := strings.Join(test.lines, "")
			data := []byte(in + "body")
			r := feedResponse(t, string(data))
			if r.Status != test.status || r.Minor != test.minor || r.ContentLength != test.contentLength || r.Chunked != test.chunked || r.Len != len(in) {
				t.Errorf("got %+v", *r)
			}
			var fields strings.Builder
			for _, f := range r.Fields {
				fields.WriteString(string(f.Name.Of(data)) + "=" + string(f.Value.Of(data)) + ";")
			}
			if fields.String() != test.fields {
				t.Errorf("fields: got %q, want %q", fields.String(), test.fields)
			}
			for i, want := range test.lines[:len(test.lines)-1] {
				if got := string(r.Line(i - 1).Of(data)); got != want {
					t.Errorf("line %d: got %q, want %q", i-1, got, want)
				}
			}
			if value, n := r.Lookup(data, "X"); n != strings.Count(strings.ToLower(fields.String()), "x=") || n == 0 && value != nil {
				t.Errorf("lookup: got %q, %d", value, n)
			}
		})
	}
}

func TestFraming(t *testing.T) {
	const (
		counted = "Content-Length: 5\r\n"
		chunked = "Transfer-Encoding: chunked\r\n"
	)
	tests := []struct {
		rule   string
		method string
		in     string // status code and fields
		want   Framing
	}{
		{"RFC 9112 6.3, 1", "HEAD", "200\r\n" + counted, NoBody},
		{"RFC 9112 6.3, 1", "HEAD", "200\r\n" + chunked, NoBody},
		{"RFC 9112 6.3, 1", "HEAD", "200\r\n", NoBody},
		{"RFC 9112 6.3, 1", "GET", "100\r\n" + counted, NoBody},
		{"RFC 9112 6.3, 1", "GET", "101\r\n", NoBody},
		{"RFC 9112 6.3, 1", "GET", "103\r\n" + chunked, NoBody},
		{"RFC 9112 6.3, 1", "GET", "199\r\n", NoBody},
		{"RFC 9112 6.3, 1", "GET", "204\r\n" + counted, NoBody},
		{"RFC 9112 6.3, 1", "GET", "304\r\n" + chunked, NoBody},
		{"RFC 9112 6.3, 2", "CONNECT", "200\r\n" + counted, NoBody},
		{"RFC 9112 6.3, 2", "CONNECT", "299\r\n" + chunked, NoBody},
		{"RFC 9112 6.3, 2", "CONNECT", "300\r\n" + counted, Counted},
		{"RFC 9112 6.3, 2", "CONNECT", "407\r\n", UntilClose},
		{"RFC 9112 6.3, 3", "GET", "200\r\n" + counted + chunked, Chunked},
		{"RFC 9112 6.3, 4", "POST", "500\r\n" + chunked, Chunked},
		{"RFC 9112 6.3, 6", "GET", "200\r\n" + counted, Counted},
		{"RFC 9112 6.3, 6", "GET", "200\r\nContent-Length: 0\r\n", Counted},
		{"RFC 9112 6.3, 6", "head", "200\r\n" + counted, Counted},
		{"RFC 9112 6.3, 8", "GET", "200\r\n", UntilClose},
		{"RFC 9112 6.3, 8", "GET", "205\r\n", UntilClose},
	}
	for _, test := range tests {
		var r Response
		r.Reset()
		if v := r.Read([]byte("HTTP/1.1 " + test.in + "\r\n")); v != HTTP {
			t.Fatalf("%q: got %v, %v", test.in, v, r.Err())
		}
		if got := r.Body([]byte(test.method)); got != test.want {
			t.Errorf("%s: %s %q: got %v, want %v", test.rule, test.method, test.in, got, test.want)
		}
	}
}

func TestFramingString(t *testing.T) {
	for f, want := range []string{"no body", "counted", "chunked", "until close", "invalid"} {
		if got := Framing(f).String(); got != want {
			t.Errorf("%d: got %q, want %q", f, got, want)
		}
	}
}

// answer is the response head of a web server.
var answer = []byte("HTTP/1.1 200 OK\r\n" +
	"Server: nginx/1.28.0\r\n" +
	"Date: Tue, 04 Mar 2025 09:41:07 GMT\r\n" +
	"Content-Type: text/html; charset=utf-8\r\n" +
	"Content-Length: 48213\r\n" +
	"Last-Modified: Mon, 03 Mar 2025 18:20:55 GMT\r\n" +
	"Connection: keep-alive\r\n" +
	"Vary: Accept-Encoding\r\n" +
	"ETag: \"67c5f1b7-bc55\"\r\n" +
	"Cache-Control: max-age=600\r\n" +
	"Accept-Ranges: bytes\r\n\r\n")

func TestResponseAllocations(t *testing.T) {
	heads := [][]byte{
		answer,
		[]byte("HTTP/1.0 404\nTransfer-Encoding: chunked\n"),
		[]byte(ok + "X: \x00"),
		answer[:200],
	}
	var r Response
	got := testing.AllocsPerRun(100, func() {
		for _, data := range heads {
			r.Reset()
			for i := range data {
				r.Read(data[:i+1])
			}
			r.Body([]byte("GET"))
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func BenchmarkResponse(b *testing.B) {
	var r Response
	b.SetBytes(int64(len(answer)))
	b.ReportAllocs()
	for b.Loop() {
		r.Reset()
		if r.Read(answer) != HTTP {
			b.Fatal(r.Err())
		}
	}
}
