package httphead

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const (
	get   = "GET / HTTP/1.1\r\n"
	start = get + "Host: example.com\r\n"
)

// feed reads data whole, byte by byte and in two pieces cut at every place.
// Verdict, error, position and results must be the same. Each piece comes in a
// new buffer, and the one before is overwritten: the Reader may keep nothing.
func feed(t *testing.T, o Options, data string) *Reader {
	t.Helper()
	whole := read(o, data)
	bytewise := make([]int, len(data))
	for i := range bytewise {
		bytewise[i] = i
	}
	compare(t, data, "byte by byte", read(o, data, bytewise...), whole)
	for cut := range len(data) {
		compare(t, data, "cut", read(o, data, cut), whole)
	}
	return whole
}

func read(o Options, data string, cuts ...int) *Reader {
	r := new(Reader)
	r.Reset(o)
	for _, cut := range cuts {
		b := []byte(data[:cut])
		r.Read(b)
		for i := range b {
			b[i] = '?'
		}
	}
	r.Read([]byte(data))
	return r
}

func compare(t *testing.T, data, how string, got, want *Reader) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%q, %s:\ngot  %+v\nwant %+v", data, how, *got, *want)
	}
}

// check fails unless r has decided so. at is the number of bytes it took, 0
// for all of data.
func check(t *testing.T, r *Reader, data string, want Verdict, err error, at int) {
	t.Helper()
	if at == 0 {
		at = len(data)
	}
	if r.verdict != want || r.looked() != at || r.Err() != err {
		t.Errorf("%q: got %v at byte %d, error %v; want %v at %d, %v", data, r.verdict, r.looked(), r.Err(), want, at, err)
	}
}

// looked returns how many bytes r has looked at.
func (r *Reader) looked() int {
	if r.verdict == More {
		return r.pos
	}
	return r.pos + 1
}

func TestFirstFlights(t *testing.T) {
	tls := func(minor byte) string {
		return "\x16\x03" + string(minor) + "\x02\x00\x01\x00\x01\xfc\x03\x03"
	}
	tests := []struct {
		name string
		in   string
		want Verdict
		at   int   // 0: all of in
		err  error // with Malformed
	}{
		{"nothing", "", More, 0, nil},

		{"TLS with record version SSL 3.0", tls(0), TLS, 6, nil},
		{"TLS 1.0, and 1.3 as browsers send it", tls(1), TLS, 6, nil},
		{"TLS with record version 1.1", tls(2), TLS, 6, nil},
		{"TLS 1.2", tls(3), TLS, 6, nil},
		{"TLS with record version 1.3", tls(4), TLS, 6, nil},
		{"TLS version unknown", tls(5), Other, 3, nil},
		{"TLS major version", "\x16\x02\x00", Other, 2, nil},
		{"TLS record of 1 byte", "\x16\x03\x01\x00\x01\x01", TLS, 6, nil},
		{"TLS record empty", "\x16\x03\x01\x00\x00", Other, 5, nil},
		{"TLS record of 16384 bytes", "\x16\x03\x01\x40\x00\x01", TLS, 6, nil},
		{"TLS record of 16385 bytes", "\x16\x03\x01\x40\x01", Other, 5, nil},
		{"TLS record far too long", "\x16\x03\x01\x41", Other, 4, nil},
		{"TLS ServerHello", "\x16\x03\x03\x00\x7a\x02", Other, 6, nil},
		{"TLS record, incomplete", "\x16\x03\x01\x02\x00", More, 0, nil},
		{"TLS alert", "\x15\x03\x01\x00\x02\x01\x00", Other, 1, nil},
		{"SSL 2.0 ClientHello", "\x80\x2e\x01\x00\x02", Other, 1, nil},

		{"HTTP/2 preface", preface, HTTP2, 24, nil},
		{"HTTP/2 preface and SETTINGS", preface + "\x00\x00\x12\x04\x00", HTTP2, 24, nil},
		{"HTTP/2 preface, incomplete", preface[:23], More, 0, nil},
		{"HTTP/2 preface, then a field", prefaceLine + "Host: example.com\r\n\r\n", Malformed, 17, ErrVersion},
		{"HTTP/2 preface, then other text", prefaceLine + "\r\nSN", Malformed, 20, ErrVersion},
		{"HTTP/2 preface with LF", "PRI * HTTP/2.0\n\nSM\n\n", Malformed, 15, ErrVersion},
		{"HTTP/2 preface, target", "PRI / HTTP/2.0\r\n", Malformed, 0, ErrVersion},
		{"HTTP/2 preface, version", "PRI * HTTP/2.1\r\n", Malformed, 0, ErrVersion},
		{"a method like PRI", "PRINT / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP, 0, nil},
		{"PRI as a method", "PRI / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP, 0, nil},

		{"PROXY v1", "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET / HTTP/1.1\r\n", Other, 42, nil},
		{"PROXY v1 unknown", "PROXY UNKNOWN\r\n", Other, 0, nil},
		{"PROXY v2", signature + "\x21\x11\x00\x0c", Other, 12, nil},
		{"PROXY v2, incomplete", signature[:11], More, 0, nil},
		{"PROXY v2, broken at the end", signature[:11] + "\r", Malformed, 12, ErrLeading},
		{"CR LF before a request", "\r\nGET / HTTP/1.1\r\n", Malformed, 3, ErrLeading},
		{"two CR LF before a request", "\r\n\r\nGET / HTTP/1.1\r\n", Malformed, 5, ErrLeading},
		{"CR before a request", "\rGET / HTTP/1.1\r\n", Malformed, 2, ErrLeading},
		{"LF before a request", "\nGET / HTTP/1.1\r\n", Malformed, 1, ErrLeading},
		{"space before a request", " GET / HTTP/1.1\r\n", Malformed, 1, ErrLeading},
		{"tab before a request", "\tGET / HTTP/1.1\r\n", Malformed, 1, ErrLeading},

		{"SSH", "SSH-2.0-OpenSSH_9.6\r\n", Other, 20, nil},
		{"SSH with a comment", "SSH-2.0-OpenSSH_9.6 Debian-3\r\n", Other, 0, nil},
		{"SSH with a comment and LF", "SSH-1.99-Old Software 1\n", Other, 0, nil},
		{"SMTP EHLO", "EHLO mail.example.com\r\n", Other, 0, nil},
		{"SMTP HELO with LF", "HELO mail.example.com\n", Other, 0, nil},
		{"SMTP QUIT", "QUIT\r\n", Other, 5, nil},
		{"FTP USER", "USER anonymous\r\n", Other, 0, nil},
		{"IRC NICK", "NICK alice\r\nUSER alice 0 * :Alice\r\n", Other, 12, nil},
		{"IRC USER", "USER alice 0 * :Alice A.\r\n", Other, 0, nil},
		{"IRC CAP", "CAP LS 302\r\n", Other, 0, nil},
		{"POP3 USER", "USER alice\r\n", Other, 0, nil},
		{"IMAP", "a001 LOGIN alice secret\r\n", Other, 0, nil},
		{"XMPP", "<?xml version='1.0'?><stream:stream", Other, 1, nil},
		{"MySQL handshake response", "\x54\x00\x00\x01\x8d\xa6\x0f\x00", Other, 2, nil},
		{"PostgreSQL SSLRequest", "\x00\x00\x00\x08\x04\xd2\x16\x2f", Other, 1, nil},
		{"RDP", "\x03\x00\x00\x13\x0e\xe0\x00\x00", Other, 1, nil},
		{"MQTT CONNECT", "\x10\x1a\x00\x04MQTT\x04\x02", Other, 1, nil},
		{"AMQP", "AMQP\x00\x00\x09\x01", Other, 5, nil},
		{"Redis RESP", "*1\r\n$4\r\nPING\r\n", Other, 3, nil},
		{"Redis inline PING", "PING\r\n", Other, 5, nil},
		{"Redis inline GET", "GET key\r\n", Other, 0, nil},
		{"Redis inline SET", "SET key a longer value\r\n", Other, 0, nil},
		{"memcached", "get some_key\r\n", Other, 0, nil},
		{"BitTorrent", "\x13BitTorrent protocol\x00\x00", Other, 1, nil},
		{"RTSP", "OPTIONS rtsp://example.com/media RTSP/1.0\r\nCSeq: 1\r\n", Other, 43, nil},
		{"RTSP with a path", "OPTIONS / RTSP/1.0\r\n", Other, 0, nil},
		{"RTSP with LF", "DESCRIBE rtsp://example.com/ RTSP/2.0\n", Other, 0, nil},
		{"SIP", "INVITE sip:bob@example.com SIP/2.0\r\n", Other, 0, nil},
		{"ICAP", "REQMOD icap://example.com/ ICAP/1.0\r\n", Other, 0, nil},
		{"SOCKS4", "\x04\x01\x00\x50\xc0\x00\x02\x01\x00", Other, 1, nil},
		{"SOCKS5", "\x05\x01\x00", Other, 1, nil},
		{"DNS over TCP", "\x00\x1d\x12\x34\x01\x00", Other, 1, nil},
		{"a status line", "HTTP/1.1 200 OK\r\n", Other, 5, nil},
		{"UTF-8", "caf\xc3\xa9 / HTTP/1.1\r\n", Other, 4, nil},
		{"DEL", "GET\x7f/ HTTP/1.1\r\n", Other, 4, nil},
		{"NUL", "GET\x00/ HTTP/1.1\r\n", Other, 4, nil},
		{"tab for a space", "GET\t/ HTTP/1.1\r\n", Malformed, 4, ErrControl},
		{"tab after a method in wrong case", "get\t/ HTTP/1.1\r\n", Malformed, 4, ErrControl},
		{"vertical tab for a space", "GET\v/ HTTP/1.1\r\n", Malformed, 4, ErrControl},
		{"form feed for a space", "GET\f/ HTTP/1.1\r\n", Malformed, 4, ErrControl},
		{"CR for a space", "GET\r/ HTTP/1.1\r\n", Malformed, 5, ErrBareCR},
		{"a method alone", "HEAD\r\n", Other, 6, nil},
		{"tab after another word", "NICK\tme\r\n", Other, 5, nil},
		{"NUL after a method", "GET\x00/ HTTP/1.1\r\n", Other, 4, nil},

		{"first word of 32 bytes", strings.Repeat("M", 32) + " / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP, 0, nil},
		{"first word of 32 bytes, incomplete", strings.Repeat("M", 32), More, 0, nil},

		{"HTTP/0.9", "GET /\r\n", Malformed, 0, ErrNoVersion},
		{"HTTP/0.9 with LF", "GET /index.html\n", Malformed, 0, ErrNoVersion},
		{"HTTP/0.9 with a URL", "GET http://example.com/\r\n", Malformed, 0, ErrNoVersion},
		{"HTTP/0.9, letter case", "get /\r\n", Malformed, 0, ErrNoVersion},
		{"no version, two spaces", "GET  /\r\n", Malformed, 0, ErrNoVersion},
		{"no version, space after", "GET / \r\n", Malformed, 0, ErrNoVersion},
		{"half a version", "GET / HTTP\r\n", Malformed, 0, ErrNoVersion},
		{"a path like a version", "GET /RTSP/1.0\r\n", Malformed, 0, ErrNoVersion},
		{"version, letter case", "GET / http/1.1\r\n", Malformed, 0, ErrNoVersion},
		{"version, letter case, no path", "GET key http/1.1\r\n", Other, 0, nil},
		{"version of another form", "GET / RTSP/10.0\r\n", Malformed, 0, ErrNoVersion},
		{"version without a name", "GET / /1.0\r\n", Malformed, 0, ErrNoVersion},
		{"method and version", "GET HTTP/1.1\r\n", Malformed, 0, ErrTarget},
		{"method, two spaces, version", "GET  HTTP/1.1\r\n", Malformed, 0, ErrTarget},
		{"not a target", "GET key HTTP/1.1\r\n", Malformed, 0, ErrTarget},
		{"a sentence that names HTTP", "SAY what HTTP/ is\r\n", Malformed, 0, ErrVersion},
		{"a space and nothing", "GET \r\n", Other, 0, nil},

		{"tab in the target", "GET /a\tb HTTP/1.1\r\n", Malformed, 7, ErrControl},
		{"NUL in the target", "GET /a\x00b HTTP/1.1\r\n", Malformed, 7, ErrControl},
		{"DEL in a URL", "GET http://a/\x7f", Malformed, 14, ErrControl},
		{"tab after the target", "GET /\tHTTP/1.1\r\n", Malformed, 6, ErrControl},
		{"tab after the version", "GET key HTTP/1.1\t\r\n", Malformed, 17, ErrControl},
		{"tab in another protocol", "USER alice\tA\r\n", Other, 11, nil},
		{"NUL in another protocol", "CONN \x00\x00", Other, 6, nil},
		{"tab before a path", "GET \t/ HTTP/1.1\r\n", Malformed, 5, ErrControl},
		{"CR before a path", "GET \r/ HTTP/1.1\r\n", Malformed, 6, ErrBareCR},
		{"bare CR in the target", "GET /a\rb HTTP/1.1\r\n", Malformed, 8, ErrBareCR},
		{"bare CR after the version", "GET / HTTP/1.1\rX: y\r\n", Malformed, 16, ErrBareCR},
		{"two CR", "GET / HTTP/1.1\r\r\n", Malformed, 16, ErrBareCR},
		{"bare CR in another protocol", "USER alice\rX", Other, 12, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, o := range []Options{{}, {Lenient: true}} {
				if o.Lenient && test.err == ErrTarget {
					continue // wording may differ
				}
				r := feed(t, o, test.in)
				check(t, r, test.in, test.want, test.err, test.at)
			}
			r := feed(t, Options{LineOnly: true}, test.in)
			if test.want != HTTP {
				check(t, r, test.in, test.want, test.err, test.at)
			}
		})
	}
}

func TestLater(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want Verdict
		at   int
		err  error
	}{
		{"a request", start + "\r\n", HTTP, 0, nil},
		{"TLS", "\x16\x03\x01\x02\x00\x01", Other, 1, nil},
		{"PROXY v2", signature, Malformed, 1, ErrLeading},
		{"CR LF", "\r\n" + start + "\r\n", Malformed, 1, ErrLeading},
		{"PROXY v1", "PROXY UNKNOWN\r\n", Other, 0, nil},
		{"HTTP/2 preface", preface, Malformed, len(prefaceLine), ErrVersion},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, o := range []Options{{Later: true}, {Later: true, Lenient: true}} {
				check(t, feed(t, o, test.in), test.in, test.want, test.err, test.at)
			}
		})
	}
}

// TestLongMethod reads first words that are longer than a strict reader waits for. What a
// server of net/http reads as a request behind a lenient one is one to it too: see
// FuzzNetHTTP, which has these as seeds.
func TestLongMethod(t *testing.T) {
	tests := []struct {
		name string
		in   string // after 33 or more letters
		want Verdict
		err  error
	}{
		{"request", " / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP, nil},
		{"HTTP/0.9", " /\r\n", Malformed, ErrNoVersion},
		{"another version", " / HTTP/1.2\r\n", Malformed, ErrVersion},
		{"no target", " HTTP/1.1\r\n", Malformed, ErrTarget},
		{"incomplete", "", More, nil},
		{"incomplete line", " / HTT", More, nil},
		{"no token", "\x00", Other, nil},
		{"a word alone", "\r", Other, nil},
		{"another protocol", " a b\r\n", Other, nil},
	}
	for _, test := range tests {
		for _, n := range []int{maxMethod + 1, 200, 5000} {
			t.Run(fmt.Sprintf("%s, %d", test.name, n), func(t *testing.T) {
				in := strings.Repeat("M", n) + test.in
				for _, o := range []Options{{Lenient: true}, {Lenient: true, Later: true}} {
					r := read(o, in, maxMethod, maxMethod+1, n)
					check(t, r, in, test.want, test.err, 0)
					if r.Partial() != (test.want == More) {
						t.Errorf("%.40q: partial %v", in, r.Partial())
					}
				}
				check(t, read(Options{}, in, 1), in, Other, nil, maxMethod+1)
				check(t, read(Options{Later: true}, in, 1), in, Other, nil, maxMethod+1)
			})
		}
	}
}

func TestPartial(t *testing.T) {
	tests := []struct {
		in   string
		o    Options
		want bool
	}{
		{in: "", want: false},
		{in: "G", want: true},
		{in: "SSH-2.0-", want: true},
		{in: "PRI", want: true},
		{in: "PRI * HTTP/2.0\r", want: true},
		{in: prefaceLine, want: false},
		{in: prefaceLine, o: Options{Later: true}, want: false}, // malformed
		{in: "GET / HTT", want: true},
		{in: "GET / HTTP/1.1\r", want: true},
		{in: start, want: true},
		{in: start + "\r", want: true},
		{in: start + "\r\n", want: false},
		{in: "GET key\r\n", want: false},
		{in: "\x16\x03", want: false},
		{in: signature[:5], want: false},
	}
	for _, test := range tests {
		if got := feed(t, test.o, test.in).Partial(); got != test.want {
			t.Errorf("%q: got %v, want %v", test.in, got, test.want)
		}
	}
}

func TestResults(t *testing.T) {
	tests := []struct {
		name          string
		in            string
		o             Options
		method        string
		target        string
		minor         int
		path, query   string
		host          string
		hasHost       bool
		fields        string // "name=value;" each
		contentLength int64
		chunked       bool
	}{
		{
			name:   "GET",
			in:     "GET /a%2Fb;c//d?e=f&g HTTP/1.1\r\nhost:\t Example.com:8080 \r\nX-Empty:\r\nX-Two: a b\t\r\nx-two:c\r\n\r\n",
			method: "GET", target: "/a%2Fb;c//d?e=f&g", minor: 1, path: "/a%2Fb;c//d", query: "e=f&g",
			host: "Example.com:8080", hasHost: true,
			fields: "host=Example.com:8080;X-Empty=;X-Two=a b;x-two=c;", contentLength: -1,
		},
		{
			name:   "POST with a length",
			in:     "POST /? HTTP/1.1\r\nHost: a_b\r\nContent-Length: 0042\r\n\r\n",
			method: "POST", target: "/?", minor: 1, path: "/", host: "a_b", hasHost: true,
			fields: "Host=a_b;Content-Length=0042;", contentLength: 42,
		},
		{
			name:   "PUT, chunked",
			in:     "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n\r\n",
			method: "PUT", target: "/", minor: 1, path: "/", host: "a", hasHost: true,
			fields: "Host=a;Transfer-Encoding=Chunked;Trailer=X-Sum;", contentLength: -1, chunked: true,
		},
		{
			name:   "HTTP/1.0 without Host",
			in:     "GET / HTTP/1.0\r\n\r\n",
			method: "GET", target: "/", minor: 0, path: "/", contentLength: -1,
		},
		{
			name:   "HTTP/1.0 with an empty Host",
			in:     "GET / HTTP/1.0\r\nHost:\r\n\r\n",
			method: "GET", target: "/", minor: 0, path: "/", hasHost: true, fields: "Host=;", contentLength: -1,
		},
		{
			name:   "absolute-form",
			in:     "GET http://Example.com:80/a?b HTTP/1.1\r\nHost: example.COM:80\r\n\r\n",
			method: "GET", target: "http://Example.com:80/a?b", minor: 1, path: "/a", query: "b",
			host: "Example.com:80", hasHost: true, fields: "Host=example.COM:80;", contentLength: -1,
		},
		{
			name:   "absolute-form without a path",
			in:     "OPTIONS http://a?b/c HTTP/1.1\r\nHost: a\r\n\r\n",
			method: "OPTIONS", target: "http://a?b/c", minor: 1, query: "b/c",
			host: "a", hasHost: true, fields: "Host=a;", contentLength: -1,
		},
		{
			name:   "authority-form",
			in:     "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n",
			method: "CONNECT", target: "[::1]:443", minor: 1,
			host: "[::1]:443", hasHost: true, fields: "Host=[::1]:443;", contentLength: -1,
		},
		{
			name:   "asterisk-form",
			in:     "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
			method: "OPTIONS", target: "*", minor: 1, path: "*",
			host: "a", hasHost: true, fields: "Host=a;", contentLength: -1,
		},
		{
			name:   "request line only",
			in:     "GET http://a/b HTTP/1.1\r\n",
			o:      Options{LineOnly: true},
			method: "GET", target: "http://a/b", minor: 1, path: "/b",
			host: "a", hasHost: true, contentLength: -1,
		},
		{
			name:   "lenient: bare LF, folding, repeated length",
			in:     "get / HTTP/1.1\nHost: a\nX: b \r\n\t c\n \nY:\n\n",
			o:      Options{Lenient: true},
			method: "get", target: "/", minor: 1, path: "/", host: "a", hasHost: true,
			fields: "Host=a;X=b \r\n\t c (folded);Y=;", contentLength: -1,
		},
		{
			name:   "lenient: folding before the value",
			in:     "GET / HTTP/1.0\r\nX:\r\n \t\r\n y\r\n\r\n",
			o:      Options{Lenient: true},
			method: "GET", target: "/", path: "/",
			fields: "X=y (folded);", contentLength: -1,
		},
		{
			name:   "lenient: repeated length",
			in:     "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
			o:      Options{Lenient: true},
			method: "POST", target: "/", minor: 1, path: "/", host: "a", hasHost: true,
			fields: "Host=a;Content-Length=5;Content-Length=5;", contentLength: 5,
		},
		{
			name:   "lenient: length and chunked",
			in:     "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
			o:      Options{Lenient: true},
			method: "POST", target: "/", minor: 1, path: "/", host: "a", hasHost: true,
			fields: "Host=a;Content-Length=5;Transfer-Encoding=chunked;", contentLength: -1, chunked: true,
		},
		{
			name:   "lenient: chunked on HTTP/1.0",
			in:     "POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
			o:      Options{Lenient: true},
			method: "POST", target: "/", path: "/",
			fields: "Content-Length=5;Transfer-Encoding=chunked;", contentLength: 5,
		},
		{
			name:   "lenient: userinfo and another Host",
			in:     "GET http://u:p@a:1/../b HTTP/1.1\r\nHost: c\r\n\r\n",
			o:      Options{Lenient: true},
			method: "GET", target: "http://u:p@a:1/../b", minor: 1, path: "/../b", host: "a:1", hasHost: true,
			fields: "Host=c;", contentLength: -1,
		},
		{
			name:   "lenient: no authority",
			in:     "GET http:///b HTTP/1.1\r\nHost: c\r\n\r\n",
			o:      Options{Lenient: true},
			method: "GET", target: "http:///b", minor: 1, path: "/b", host: "c", hasHost: true,
			fields: "Host=c;", contentLength: -1,
		},
		{
			name:   "lenient: opaque",
			in:     "GET mailto:a?b HTTP/1.1\r\nHost: c\r\n\r\n",
			o:      Options{Lenient: true},
			method: "GET", target: "mailto:a?b", minor: 1, query: "b", host: "c", hasHost: true,
			fields: "Host=c;", contentLength: -1,
		},
		{
			name:   "lenient: CONNECT with a path, no Host",
			in:     "CONNECT /rpc HTTP/1.1\r\n\r\n",
			o:      Options{Lenient: true},
			method: "CONNECT", target: "/rpc", minor: 1, path: "/rpc", contentLength: -1,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := feed(t, test.o, test.in+"body")
			check(t, r, test.in, HTTP, nil, 0)
			data := []byte(test.in)
			var fields strings.Builder
			for _, f := range r.Fields {
				fields.WriteString(string(f.Name.Of(data)) + "=" + string(f.Value.Of(data)))
				if f.Folded {
					fields.WriteString(" (folded)")
				}
				fields.WriteString(";")
			}
			for _, s := range []struct{ name, got, want string }{
				{"method", string(r.Method.Of(data)), test.method},
				{"target", string(r.Target.Of(data)), test.target},
				{"path", string(r.Path.Of(data)), test.path},
				{"query", string(r.Query.Of(data)), test.query},
				{"host", string(r.Host.Of(data)), test.host},
				{"fields", fields.String(), test.fields},
			} {
				if s.got != s.want {
					t.Errorf("%s: got %q, want %q", s.name, s.got, s.want)
				}
			}
			if r.Minor != test.minor || r.HasHost != test.hasHost || r.ContentLength != test.contentLength || r.Chunked != test.chunked || r.Len != len(data) {
				t.Errorf("got %+v", *r)
			}
		})
	}
}

func TestVerdictStays(t *testing.T) {
	var r Reader
	r.Reset(Options{})
	data := []byte(start + "\r\n")
	for range 2 {
		if got := r.Read(data); got != HTTP || r.ContentLength != -1 {
			t.Errorf("got %v, content length %d, want %v, -1", got, r.ContentLength, HTTP)
		}
		data = append(data, "\x00\x01\x02"...)
	}
	if got := r.Read(data); got != HTTP {
		t.Errorf("without further bytes: got %v, want %v", got, HTTP)
	}
}

func TestLookup(t *testing.T) {
	data := []byte(start + "Cookie: a\r\nCOOKIE: b\r\nX-Empty:\r\n\r\n")
	var r Reader
	r.Reset(Options{})
	r.Read(data)
	for _, test := range []struct {
		name  string
		value string
		n     int
	}{
		{"cookie", "a", 2},
		{"x-empty", "", 1},
		{"host", "example.com", 1},
		{"cooki", "", 0},
	} {
		value, n := r.Lookup(data, test.name)
		if string(value) != test.value || n != test.n {
			t.Errorf("%s: got %q, %d, want %q, %d", test.name, value, n, test.value, test.n)
		}
	}
}

func TestLines(t *testing.T) {
	for _, test := range []struct {
		name  string
		o     Options
		lines []string
	}{
		{"with fields", Options{}, []string{"GET / HTTP/1.1\r\n", "Host:  a \r\n", "X:\r\n", "\r\n"}},
		{"without fields", Options{}, []string{"GET / HTTP/1.0\r\n", "\r\n"}},
		{"lenient", Options{Lenient: true}, []string{"GET / HTTP/1.1\n", "Host: a\n", "X: b\r\n c\n", "\n"}},
		{"request line alone", Options{LineOnly: true}, []string{"GET / HTTP/1.1\r\n", ""}},
	} {
		data := []byte(strings.Join(test.lines, ""))
		var r Reader
		r.Reset(test.o)
		if got := r.Read(append(data, "body"...)); got != HTTP || r.Len != len(data) {
			t.Fatalf("%s: got %v, length %d", test.name, got, r.Len)
		}
		if got, want := len(r.Fields), len(test.lines)-2; got != want {
			t.Fatalf("%s: got %d fields, want %d", test.name, got, want)
		}
		for i, want := range test.lines[:len(test.lines)-1] {
			if got := string(r.Line(i - 1).Of(data)); got != want {
				t.Errorf("%s: line %d: got %q, want %q", test.name, i-1, got, want)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	var r Reader
	if r.Reset(Options{}); r.Err() != nil {
		t.Errorf("got %v, want nil", r.Err())
	}
	r.Read([]byte(start + "Transfer-Encoding: gzip\r\n"))
	if got, want := r.Err().Error(), "Transfer-Encoding other than chunked (RFC 9112 section 6.1)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestVerdictString(t *testing.T) {
	for v, want := range []string{"more", "http", "tls", "http2", "other", "malformed", "too large", "invalid"} {
		if got := Verdict(v).String(); got != want {
			t.Errorf("%d: got %q, want %q", v, got, want)
		}
	}
}

// TestLinear reads heads that are slow for a reader that looks back.
func TestLinear(t *testing.T) {
	const size = 1 << 20
	for name, in := range map[string]string{
		"method":        strings.Repeat("A", size),
		"target":        "GET /" + strings.Repeat("a", size),
		"slashes":       "GET " + strings.Repeat("://", size/3),
		"name":          start + strings.Repeat("a", size),
		"value":         start + "a:" + strings.Repeat(" ", size),
		"folding":       start + "a:" + strings.Repeat("\r\n ", size/3),
		"folding words": start + "a:" + strings.Repeat("\r\n b ", size/6),
		"fields":        start + strings.Repeat("a: "+strings.Repeat("b", size/255)+"\r\n", 255),
		"options":       start + strings.Repeat("a:\r\n", 250) + "Connection: " + strings.Repeat(strings.Repeat("a", size/32)+",", 31),
		"folded list":   start + "Upgrade: a" + strings.Repeat("\r\n b", size/4),
	} {
		data := []byte(in)
		var r Reader
		r.Reset(Options{Lenient: true})
		for i := range data {
			r.Read(data[:i+1])
		}
		if r.verdict != More || r.pos != len(data) {
			t.Errorf("%s: got %v at %d, want %v at %d", name, r.verdict, r.pos, More, len(data))
		}
	}
}

// browser is the head of a browser that opens a WebSocket, 560 bytes.
var browser = []byte("GET /chat/rooms/42?token=8c1f0c3a9be44f0c5b27d9e1a63 HTTP/1.1\r\n" +
	"Host: chat.example.com\r\n" +
	"Connection: Upgrade\r\n" +
	"Pragma: no-cache\r\n" +
	"Cache-Control: no-cache\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
	"Upgrade: websocket\r\n" +
	"Origin: https://chat.example.com\r\n" +
	"Sec-WebSocket-Version: 13\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Accept-Language: en-GB,en-US;q=0.9,en;q=0.8,de;q=0.7\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
	"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")

func TestAllocations(t *testing.T) {
	heads := [][]byte{
		browser,
		[]byte("GET http://[2001:db8::1]:80/a%20b HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n"),
		[]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: A, B\r\n\r\n"),
		[]byte("GET /../ HTTP/1.1\r\n"),
		[]byte("EHLO mail.example.com\r\n"),
		[]byte(preface),
	}
	if len(browser) != 560 {
		t.Errorf("the browser's head has %d bytes", len(browser))
	}
	var r Reader
	got := testing.AllocsPerRun(100, func() {
		for _, data := range heads {
			r.Reset(Options{})
			for i := range data {
				r.Read(data[:i+1])
			}
			r.Lookup(data, "upgrade")
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
	if r.Reset(Options{Lenient: true}); r.Read(browser) != HTTP {
		t.Errorf("lenient: got %v, want %v", r.verdict, HTTP)
	}
}

func BenchmarkRead(b *testing.B) {
	b.Run("whole", func(b *testing.B) {
		var r Reader
		b.SetBytes(int64(len(browser)))
		b.ReportAllocs()
		for b.Loop() {
			r.Reset(Options{})
			if r.Read(browser) != HTTP {
				b.Fatal(r.Err())
			}
		}
	})
	b.Run("byte by byte", func(b *testing.B) {
		var r Reader
		b.SetBytes(int64(len(browser)))
		b.ReportAllocs()
		for b.Loop() {
			r.Reset(Options{})
			for i := range browser {
				r.Read(browser[:i+1])
			}
			if r.verdict != HTTP {
				b.Fatal(r.Err())
			}
		}
	})
}
