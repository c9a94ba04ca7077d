package httphead

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http/httpguts"
)

// seeds are heads for the fuzz targets: the case of every rule, and those that
// are not HTTP/1.
func seeds() [][]byte {
	all := [][]byte{
		browser,
		bytes.ReplaceAll(browser, []byte("\r\n"), []byte("\n")),
		[]byte(preface),
		[]byte(signature),
		[]byte("\x16\x03\x01\x02\x00\x01"),
		[]byte("SSH-2.0-OpenSSH_9.6 Debian-3\r\n"),
		[]byte("OPTIONS rtsp://example.com/ RTSP/1.0\r\n"),
		[]byte(strings.Repeat("M", 33) + " / HTTP/1.1\r\nHost: a\r\n\r\n"), // one of these two lenient
		[]byte(start + fields(maxFields-1) + "\r\n"),
		[]byte(start + fields(maxFields) + "\r\n"),
		[]byte(start + "Connection: a" + strings.Repeat(",a", maxElements-1) + "\r\nUpgrade: a" + strings.Repeat(",a", maxElements-1) + "\r\n\r\n"),
		[]byte(start + "Upgrade: a" + strings.Repeat(",a", maxElements) + "\r\n\r\n"),
		[]byte(strings.Repeat("M", 200) + " / HTTP/1.1\r\nHost: a\r\n\r\n"),
	}
	for _, expect := range []string{"100-continue", "else"} {
		all = append(all, []byte("POST / HTTP/1.1\r\nHost: a\r\nExpect: "+expect+"\r\nContent-Length: 5\r\n\r\n"))
	}
	for _, test := range ruleTests {
		all = append(all, []byte(complete(test.in)))
	}
	return all
}

// FuzzCuts asserts that the pieces in which data arrives change nothing, and
// what holds for the results of any head.
func FuzzCuts(f *testing.F) {
	for i, seed := range seeds() {
		f.Add(seed, uint(i), uint8(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint, mode uint8) {
		o := Options{Lenient: mode&1 != 0, LineOnly: mode&2 != 0, Later: mode&4 != 0}
		in := string(data)
		whole := read(o, in)
		compare(t, in, "in two", read(o, in, int(cut%uint(len(in)+1))), whole)

		var r Reader
		r.Reset(o)
		for i := range data {
			if v := r.Read(data[:i+1]); v != More && i != r.pos {
				t.Fatalf("%q: %v at byte %d, after %d", data, v, r.pos+1, i+1)
			} else if v != More {
				break
			}
		}
		compare(t, in, "byte by byte", &r, whole)

		if r.verdict == More && r.pos != len(data) {
			t.Fatalf("%q: stopped at %d without a verdict", data, r.pos)
		}
		if (r.verdict == Malformed || r.verdict == TooLarge) != (r.Err() != nil) {
			t.Fatalf("%q: %v with error %v", data, r.verdict, r.Err())
		}
		bounded(t, data, r.Fields, maxFields)
		if r.verdict != HTTP {
			return
		}
		if r.Len != r.pos+1 || data[r.Len-1] != '\n' {
			t.Fatalf("%q: length %d, decided at %d", data, r.Len, r.pos+1)
		}
		if !o.LineOnly {
			o.LineOnly = true
			if line := read(o, in); line.verdict != HTTP || line.Target != r.Target {
				t.Fatalf("%q: http, its first line %v", data, line.verdict)
			}
		}
		if !o.Lenient {
			o.LineOnly, o.Lenient = r.opts.LineOnly, true
			lenient := read(o, in)
			lenient.opts, lenient.length, lenient.special = r.opts, r.length, r.special
			compare(t, in, "strict accepts, lenient", lenient, &r)
		}
	})
}

// bounded fails if there are more fields, or more elements in them, than a head may
// have. The fields of a head that is not complete are those before the last one.
func bounded(t *testing.T, data []byte, fields []Field, most int) {
	t.Helper()
	if len(fields) > most {
		t.Fatalf("%q: %d fields", data, len(fields))
	}
	for _, name := range []string{"Connection", "Upgrade"} {
		elements := 0
		for _, f := range fields[:max(len(fields)-1, 0)] {
			if EqualFold(f.Name.Of(data), name) {
				elements += 1 + bytes.Count(f.Value.Of(data), comma)
			}
		}
		if elements > maxElements {
			t.Fatalf("%q: %d elements of %s", data, elements, name)
		}
	}
}

// FuzzNetHTTP asserts that net/http's server accepts every head that a Reader
// accepts, and reads the same in it.
func FuzzNetHTTP(f *testing.F) {
	for i, seed := range seeds() {
		f.Add(seed, i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, data []byte, lenient bool) {
		var r Reader
		r.Reset(Options{Lenient: lenient})
		if r.Read(data) != HTTP {
			return
		}
		head := data[:r.Len]
		req, response := netHTTP.serve(head)
		if req == nil {
			if _, status, _ := strings.Cut(response, " "); strings.HasPrefix(status, "417 ") {
				return // an Expect that it does not know: read, and declined
			}
			t.Fatalf("lenient %v, %q: net/http answers %q", lenient, head, response)
		}

		if got, want := string(r.Method.Of(data)), req.Method; got != want {
			t.Errorf("%q: method %q, net/http %q", head, got, want)
		}
		if got, want := string(r.Target.Of(data)), req.RequestURI; got != want {
			t.Errorf("%q: target %q, net/http %q", head, got, want)
		}
		if got, want := r.Minor, req.ProtoMinor; req.ProtoMajor != 1 || got != want {
			t.Errorf("%q: HTTP/1.%d, net/http %s", head, got, req.Proto)
		}
		if got, want := string(r.Host.Of(data)), req.Host; got != want {
			t.Errorf("%q: host %q, net/http %q", head, got, want)
		}
		if !r.HasHost && !r.Host.empty() {
			t.Errorf("%q: host without HasHost", head)
		}
		if got, want := string(r.Query.Of(data)), req.URL.RawQuery; got != want {
			t.Errorf("%q: query %q, net/http %q", head, got, want)
		}
		path, ok := unescape(r.Path.Of(data))
		if want := req.URL.Path; !ok || path != want {
			t.Errorf("%q: path %q, net/http %q", head, path, want)
		}
		if got, want := r.Chunked, len(req.TransferEncoding) > 0; got != want {
			t.Errorf("%q: chunked %v, net/http %v", head, got, want)
		}
		length := r.ContentLength
		if length < 0 && !r.Chunked {
			length = 0 // how a Request says that there is none
		}
		if want := req.ContentLength; length != want {
			t.Errorf("%q: length %d, net/http %d", head, length, want)
		}
		if got, want := headerOf(&r, data), withoutTrailingSpace(req.Header); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: fields %q, net/http %q", head, got, want)
		}
	})
}

func unescape(path []byte) (string, bool) {
	var b []byte
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			var ok bool
			if c, ok = Unescape(path[i:]); !ok {
				return "", false
			}
			i += 2
		}
		b = append(b, c)
	}
	return string(b), true
}

// headerOf returns the fields of r as net/http presents them to a handler.
func headerOf(r *Reader, data []byte) http.Header {
	h := headerFrom(r.Fields, data)
	h.Del("Host")
	h.Del("Transfer-Encoding")
	if r.Chunked {
		h.Del("Content-Length")
		h.Del("Trailer")
	}
	return h
}

// headerFrom returns fields as net/http does, with all those of the framing but
// equal lengths.
func headerFrom(fields []Field, data []byte) http.Header {
	h := http.Header{}
	for _, f := range fields {
		value := string(f.Value.Of(data))
		if f.Folded {
			lines := strings.Split(value, "\n")
			for i := range lines {
				lines[i] = strings.Trim(lines[i], " \t\r")
			}
			value = strings.Join(lines, " ")
		} else if strings.ContainsAny(value, "\r\n") {
			value = "a line break in a value that is not folded"
		}
		h.Add(string(f.Name.Of(data)), value)
	}
	if cc := h["Cache-Control"]; cc == nil && len(h["Pragma"]) > 0 && h["Pragma"][0] == "no-cache" {
		h["Cache-Control"] = []string{"no-cache"}
	}
	if length := h["Content-Length"]; len(length) > 1 {
		h["Content-Length"] = length[:1]
	}
	return h
}

// withoutTrailingSpace trims the space that net/http leaves where a value ends
// in an empty folded line.
func withoutTrailingSpace(h http.Header) http.Header {
	for _, values := range h {
		for i := range values {
			values[i] = textproto.TrimString(values[i])
		}
	}
	return h
}

// netHTTP is a real server, one for all tests: goroutines of its own end with
// the test process.
var netHTTP server

type server struct {
	start sync.Once
	conns chan net.Conn
	reqs  chan *http.Request
}

// serve has the server read head. It returns the request that it handed to its
// handler, or what it answered instead.
func (s *server) serve(head []byte) (req *http.Request, response string) {
	s.start.Do(func() {
		s.conns = make(chan net.Conn)
		s.reqs = make(chan *http.Request)
		srv := &http.Server{
			Handler:                      s,
			DisableGeneralOptionsHandler: true,
			ErrorLog:                     log.New(io.Discard, "", 0),
		}
		go srv.Serve(s)
	})
	client, conn := net.Pipe()
	defer client.Close() // the body, which the server waits for, will not come
	s.conns <- conn
	go client.Write(head)
	answer := make(chan string, 1)
	go func() {
		b := make([]byte, 512)
		n, _ := client.Read(b)
		answer <- string(b[:n])
	}()
	select {
	case req = <-s.reqs:
		return req, ""
	case response = <-answer:
		return nil, response
	}
}

func (s *server) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	s.reqs <- req
	panic(http.ErrAbortHandler) // closes the connection, without an answer
}

func (s *server) Accept() (net.Conn, error) { return <-s.conns, nil }
func (s *server) Close() error              { return nil }
func (s *server) Addr() net.Addr            { return &net.TCPAddr{} }

// bodyOf follows the body with which data begins, skipping what it may, and
// returns its content beside what [Body.Read] does.
func bodyOf(length int64, chunked, lenient bool, data []byte) (content []byte, n int, done bool, err error) {
	var body Body
	body.Reset(length, chunked)
	if lenient {
		body.Lenient()
	}
	for {
		if skip := min(body.Left(), int64(len(data)-n)); skip > 0 {
			body.Skip(skip)
			content = append(content, data[n:n+int(skip)]...)
			n += int(skip)
		}
		var m int
		m, done, err = body.Read(data[n:min(n+1, len(data))])
		n += m
		if done || err != nil || n == len(data) {
			return content, n, done, err
		}
	}
}

// FuzzChunks asserts that the pieces in which a chunked body arrives change
// nothing, and that net/http's server accepts every body that [Chunks] accepts,
// finds the same end and the same content. What goes on of a body that only a lenient
// reader accepts, a strict one accepts, with the same content.
func FuzzChunks(f *testing.F) {
	for i, test := range chunkTests {
		f.Add([]byte(test.in+"0\r\n\r\nGET "), uint(i*7))
	}
	for i, test := range lenientChunkTests {
		f.Add([]byte(test.in+"GET "), uint(i*7))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint) {
		in := string(data)
		strict, lenient := chunksIn(t, in, cut, false), chunksIn(t, in, cut, true)
		if strict.done && (!lenient.done || strict.n != lenient.n) {
			t.Fatalf("%q: %d bytes to a strict reader, to a lenient one %d, %v", in, strict.n, lenient.n, lenient.err)
		}
		if !lenient.done {
			return
		}

		const post = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		const next = "GET /next HTTP/1.1\r\nHost: b\r\n\r\n"
		content, _, _, _ := bodyOf(-1, true, true, data)
		for _, body := range []string{in[:lenient.n], lenient.forwarded} {
			br := bufio.NewReader(strings.NewReader(post + body + next))
			req, err := http.ReadRequest(br)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(req.Body)
			if err != nil {
				t.Fatalf("%q: net/http: %v", body, err)
			}
			if !bytes.Equal(got, content) {
				t.Errorf("%q: content %q, net/http %q", body, content, got)
			}
			if req.Host != "a" || req.ContentLength != -1 {
				t.Errorf("%q: net/http: host %q, length %d", body, req.Host, req.ContentLength)
			}
			req, err = http.ReadRequest(br)
			if err != nil || req.RequestURI != "/next" || req.Host != "b" || br.Buffered() != 0 {
				t.Fatalf("%q: net/http reads after it %+v, %v", body, req, err)
			}
		}

		got, n, done, err := bodyOf(-1, true, false, []byte(lenient.forwarded))
		if n != len(lenient.forwarded) || !done || err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%q goes on as %q, in which a strict reader reads %q of %d, %v, %v, want %q", in, lenient.forwarded, got, n, done, err, content)
		}
		if again := chunksIn(t, lenient.forwarded, cut, true); again.forwarded != lenient.forwarded {
			t.Errorf("%q goes on again as %q", lenient.forwarded, again.forwarded)
		}
	})
}

// chunked is what comes of a chunked body.
type chunked struct {
	forwarded string
	n         int
	done      bool
	err       error
}

// chunksIn reads a chunked body, whole and in pieces.
func chunksIn(t *testing.T, in string, cut uint, lenient bool) chunked {
	t.Helper()
	n, done, err := (&Chunks{Lenient: lenient}).Read([]byte(in))
	if n > len(in) || done && err != nil || !done && err == nil && n != len(in) {
		t.Fatalf("%q: got %d, %v, %v", in, n, done, err)
	}
	body := func() *Body {
		b := new(Body)
		b.Reset(-1, true)
		if lenient {
			b.Lenient()
		}
		return b
	}
	want := chunked{n: n, done: done, err: err}
	want.forwarded, _, _, _ = forwards(t, body(), false, in)
	if !lenient && want.forwarded != in[:n] {
		t.Fatalf("%q goes on as %q", in, want.forwarded)
	}
	// A long body in larger pieces: a fuzzing process that takes ten seconds counts as hung.
	var bytewise []int
	for i := 0; i < len(in); i += 1 + len(in)/4096 {
		bytewise = append(bytewise, i)
	}
	for how, cuts := range map[string][]int{
		"whole":        nil,
		"in two":       {int(cut % uint(len(in)+1))},
		"byte by byte": bytewise,
	} {
		c := &Chunks{Lenient: lenient}
		if n2, done2, err2 := follow(t, c.Read, in, cuts...); n2 != n || done2 != done || err2 != err {
			t.Fatalf("%q, %s: got %d, %v, %v, want %d, %v, %v", in, how, n2, done2, err2, n, done, err)
		}
		for _, skip := range []bool{false, true} {
			var got chunked
			got.forwarded, got.n, got.done, got.err = forwards(t, body(), skip, in, cuts...)
			if got != want {
				t.Fatalf("%q, %s, skipping %v: goes on as %+v, want %+v", in, how, skip, got, want)
			}
		}
	}
	if _, n2, done2, err2 := bodyOf(-1, true, lenient, []byte(in)); n2 != n || done2 != done || err2 != err {
		t.Fatalf("%q, skipping: got %d, %v, %v, want %d, %v, %v", in, n2, done2, err2, n, done, err)
	}
	return want
}

// FuzzResponse asserts that the pieces in which a response arrives change
// nothing, and that net/http's client accepts every response that [Response] and
// [Body] accept, and reads the same in it.
func FuzzResponse(f *testing.F) {
	for i, test := range responseTests {
		f.Add([]byte(test.in+"\r\n5\r\nhello\r\n0\r\n\r\n"), uint(i*7), uint8(i))
	}
	for i, test := range chunkTests {
		f.Add([]byte(responseField("Transfer-Encoding: chunked")+"\r\n"+test.in), uint(i*7), uint8(0))
	}
	for i, test := range lenientChunkTests {
		f.Add([]byte(responseField("Transfer-Encoding: chunked")+"\r\n"+test.in), uint(i*7), uint8(0))
	}
	f.Add(answer, uint(0), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, cut uint, method uint8) {
		in := string(data)
		r := readResponse(in)
		bytewise := new(Response)
		bytewise.Reset()
		for i := range data {
			if bytewise.Read(data[:i+1]) != More {
				break
			}
		}
		for how, got := range map[string]*Response{
			"in two":       readResponse(in, int(cut%uint(len(in)+1))),
			"byte by byte": bytewise,
		} {
			if !reflect.DeepEqual(got, r) {
				t.Fatalf("%q, %s:\ngot  %+v\nwant %+v", data, how, *got, *r)
			}
		}
		switch r.head.verdict {
		case HTTP, More, Malformed:
		default:
			t.Fatalf("%q: %v", data, r.head.verdict)
		}
		if (r.head.verdict == Malformed) != (r.Err() != nil) {
			t.Fatalf("%q: %v with error %v", data, r.head.verdict, r.Err())
		}
		bounded(t, data, r.Fields, maxResponseFields)
		if r.head.verdict != HTTP {
			return
		}

		head, rest := data[:r.Len], data[r.Len:]
		req := &http.Request{Method: []string{"GET", "HEAD", "POST"}[method%3]}
		framing := r.Body([]byte(req.Method))
		br := bufio.NewReader(bytes.NewReader(data))
		resp, err := http.ReadResponse(br, req)
		if err != nil {
			t.Fatalf("%q: net/http: %v", head, err)
		}
		if r.Status != resp.StatusCode || resp.ProtoMajor != 1 || r.Minor != resp.ProtoMinor {
			t.Errorf("%q: HTTP/1.%d, %d, net/http %s, %d", head, r.Minor, r.Status, resp.Proto, resp.StatusCode)
		}
		if got, want := r.Chunked, len(resp.TransferEncoding) > 0; got != want {
			t.Errorf("%q: chunked %v, net/http %v", head, got, want)
		}
		if got, want := r.ContentLength, resp.ContentLength; framing != NoBody && got != want {
			t.Errorf("%q: length %d, net/http %d", head, got, want)
		}
		header := headerFrom(r.Fields, data)
		header.Del("Transfer-Encoding")
		if framing == Chunked {
			header.Del("Content-Length")
		}
		if r.Chunked {
			header.Del("Trailer")
		}
		if want := withoutTrailingSpace(resp.Header); !reflect.DeepEqual(header, want) {
			t.Errorf("%q: fields %q, net/http %q", head, header, want)
		}

		length, chunked := int64(-1), false
		switch framing {
		case Counted:
			length = r.ContentLength
		case Chunked:
			chunked = true
		case UntilClose:
			length = math.MaxInt64
		}
		content, n, done, bodyErr := bodyOf(length, chunked, true, rest)
		if bodyErr != nil {
			return
		}
		got, err := io.ReadAll(resp.Body)
		if complete := done || framing == UntilClose; complete != (err == nil) {
			t.Fatalf("%q %q: %v, complete %v, net/http %v", head, rest, framing, complete, err)
		}
		if !bytes.Equal(got, content) {
			t.Errorf("%q %q: content %q, net/http %q", head, rest, content, got)
		}
		if left, _ := io.ReadAll(br); done && !bytes.Equal(left, rest[n:]) {
			t.Errorf("%q %q: %q follow, net/http %q", head, rest, rest[n:], left)
		}
	})
}

// FuzzForward asserts what holds for every request head that is passed on: all readers
// accept it and read the same in it, it asks for what is wanted of the connection, and
// besides what must go all fields are there as they were.
func FuzzForward(f *testing.F) {
	for i, seed := range seeds() {
		f.Add(seed, i%2 == 0, i%3 == 0)
	}
	for _, test := range forwardTests {
		f.Add([]byte(test.in+"\r\n"), false, false)
	}
	for _, test := range lenientTests {
		f.Add([]byte(test.in), true, false)
	}
	f.Fuzz(func(t *testing.T, data []byte, lenient, aliases bool) {
		o := Options{Lenient: lenient}
		var r Reader
		r.Reset(o)
		if r.Read(data) != HTTP {
			return
		}
		if len(r.Fields) > maxFields-3 {
			return // Host, Connection and Upgrade may be added, and s would not read so many
		}
		in := data[:r.Len]
		forward := &Forward{Upgrades: []string{"websocket", "other"}, KeepAliases: aliases}
		got, err := forward.Request(&r, data)
		nominated, invalid := nominatedIn(r.Fields, data)
		if refused := invalid || slices.ContainsFunc(nominated, isEndToEnd) || !httpguts.ValidHostHeader(string(r.Host.Of(data))); (err != nil) != refused {
			t.Fatalf("%q: error %v, want one: %v", in, err, refused)
		}
		if err != nil {
			return
		}
		head := got.Head
		if bytes.Equal(head, in) != (&head[0] == &in[0]) {
			t.Errorf("%q: changed to the same, or unchanged to %q", in, head)
		}

		s := read(o, string(head))
		if s.verdict != HTTP || s.Len != len(head) {
			t.Fatalf("%q: passed on as %q: %v, %v", in, head, s.verdict, s.Err())
		}
		connect := string(r.Method.Of(data)) == "CONNECT"
		a, b := meaning(&r, data), meaning(s, head)
		if a != b {
			t.Errorf("%q: passed on as %q: %+v, want %+v", in, head, b, a)
		}
		checkLines(t, head)

		// The connection.
		upgrade := wantUpgrade(&r, data, nominated)
		connection, asked := []string{"close"}, []string(nil)
		switch {
		case connect:
			connection = nil
		case upgrade != "":
			connection, asked = []string{"upgrade"}, []string{upgrade}
		}
		if got.Upgrade != upgrade || (got.Key != nil) != (upgrade == "websocket") {
			t.Errorf("%q: upgrade %q, key %q, want %q", in, got.Upgrade, got.Key, upgrade)
		}
		for name, want := range map[string][]string{"connection": connection, "upgrade": asked} {
			if values := valuesOf(s.Fields, head, name); !reflect.DeepEqual(values, want) {
				t.Errorf("%q: passed on as %q: %s %q, want %q", in, head, name, values, want)
			}
		}

		// All other fields.
		drop := append(nominated, "connection", "upgrade")
		var want []string
		for _, field := range linesOf(r.Fields, data) {
			name, _, _ := strings.Cut(field, ":")
			lower := inLower(name)
			switch {
			case slices.Contains(drop, lower), slices.Contains(hopByHop, lower), !aliases && strings.Trim(lower, alphanumeric+"-") != "":
				continue
			case lower == "content-length":
				if r.Chunked {
					continue
				}
				drop = append(drop, lower) // once
			case lower == "transfer-encoding" && !r.Chunked:
				continue
			case lower == "host":
				if target := name + ":" + string(r.Host.Of(data)); !EqualFold([]byte(field), target) {
					field = target
				}
			}
			want = append(want, field)
		}
		var others []string
		for i, field := range linesOf(s.Fields, head) {
			name, _, _ := strings.Cut(field, ":")
			switch lower := inLower(name); {
			case lower == "connection", lower == "upgrade":
			case i == 0 && lower == "host" && !r.hasField && a.host != "":
			default:
				others = append(others, field)
			}
		}
		if !reflect.DeepEqual(others, want) {
			t.Errorf("%q: passed on as %q: other fields\n%q, want\n%q", in, head, others, want)
		}

		// net/http reads it, and whoever passes it on again changes nothing.
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			t.Fatalf("%q: passed on as %q: net/http: %v", in, head, err)
		}
		if req.Method != a.method || req.RequestURI != a.target || !EqualFold([]byte(req.Host), a.host) || req.ProtoMinor != a.minor {
			t.Errorf("%q: net/http: %s %s, host %q, %s, want %+v", head, req.Method, req.RequestURI, req.Host, req.Proto, a)
		}
		if length := max(a.length, 0); a.chunked != (len(req.TransferEncoding) > 0) || !a.chunked && req.ContentLength != length {
			t.Errorf("%q: net/http: length %d, %q, want %+v", head, req.ContentLength, req.TransferEncoding, a)
		}
		if closes := !connect && upgrade == "" || r.Minor == 0; req.Close != closes {
			t.Errorf("%q: net/http: close %v, want %v", head, req.Close, closes)
		}
		again, err := forward.Request(s, head)
		if err != nil || &again.Head[0] != &head[0] || again.Upgrade != got.Upgrade || !bytes.Equal(again.Key, got.Key) {
			t.Errorf("%q: passed on again as %q, %v", head, again.Head, err)
		}
	})
}

// FuzzForwardResponse asserts the same for every response head that is passed on.
func FuzzForwardResponse(f *testing.F) {
	for i, test := range responseTests {
		f.Add([]byte(test.in+"\r\n"), uint8(i))
	}
	for i, test := range responseForwardTests {
		f.Add([]byte(test.in+"\r\n"), uint8(i))
	}
	f.Add(answer, uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, method uint8) {
		r := readResponse(string(data))
		if r.head.verdict != HTTP || len(r.Fields) == maxResponseFields {
			return // Connection is added, and s would not read so many
		}
		in := data[:r.Len]
		head := r.Forward(nil, data, false)
		s := readResponse(string(head))
		if s.head.verdict != HTTP || s.Len != len(head) {
			t.Fatalf("%q: passed on as %q: %v, %v", in, head, s.head.verdict, s.Err())
		}
		if s.Status != r.Status || s.Minor != r.Minor || framing(s) != framing(r) {
			t.Errorf("%q: passed on as %q: %+v, want %+v", in, head, *s, *r)
		}
		checkLines(t, head)
		if line, _, _ := strings.Cut(string(head), "\r\n"); !strings.HasPrefix(line, fmt.Sprintf("HTTP/1.%d %d ", r.Minor, r.Status)) {
			t.Errorf("%q: passed on with the status line %q", in, line)
		}

		var connection []string
		switch {
		case r.Status == 426:
			connection = []string{"close, upgrade"}
		case r.Status >= 200:
			connection = []string{"close"}
		}
		if got := valuesOf(s.Fields, head, "connection"); !reflect.DeepEqual(got, connection) {
			t.Errorf("%q: passed on as %q: connection %q, want %q", in, head, got, connection)
		}
		nominated, _ := nominatedIn(r.Fields, data)
		drop := []string{"connection"}
		if r.Status != 426 {
			drop = append(drop, "upgrade")
		}
		for _, name := range nominated {
			if name != "set-cookie" && name != "upgrade" && !isEndToEnd(name) {
				drop = append(drop, name)
			}
		}
		var want []string
		for _, field := range linesOf(r.Fields, data) {
			name, _, _ := strings.Cut(field, ":")
			lower := inLower(name)
			if slices.Contains(drop, lower) || slices.Contains(hopByHop, lower) {
				continue
			}
			unframed := r.Status < 200 || r.Status == 204
			if unframed && lower == "transfer-encoding" {
				continue
			}
			if lower == "content-length" {
				if unframed || r.Chunked {
					continue
				}
				drop = append(drop, lower) // once
			}
			want = append(want, field)
		}
		var others []string
		for _, field := range linesOf(s.Fields, head) {
			if name, _, _ := strings.Cut(field, ":"); inLower(name) != "connection" {
				others = append(others, field)
			}
		}
		if !reflect.DeepEqual(others, want) {
			t.Errorf("%q: passed on as %q: other fields\n%q, want\n%q", in, head, others, want)
		}

		req := &http.Request{Method: []string{"GET", "HEAD", "POST"}[method%3]}
		before, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), req)
		if err != nil {
			t.Fatal(err)
		}
		after, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), req)
		if err != nil {
			t.Fatalf("%q: passed on as %q: net/http: %v", in, head, err)
		}
		if r.Status < 200 || r.Status == 204 {
			before.TransferEncoding = nil
		}
		if strings.TrimRight(after.Status, " ") != strings.TrimRight(before.Status, " ") || after.Proto != before.Proto ||
			r.Body([]byte(req.Method)) != NoBody && after.ContentLength != before.ContentLength ||
			!reflect.DeepEqual(after.TransferEncoding, before.TransferEncoding) || !reflect.DeepEqual(after.Header["Set-Cookie"], before.Header["Set-Cookie"]) {
			t.Errorf("%q: passed on as %q: net/http:\n%+v, want\n%+v", in, head, after, before)
		}
		if r.Status >= 200 && !after.Close {
			t.Errorf("%q: net/http does not close", head)
		}
	})
}

// hopByHop are fields that concern one connection.
var hopByHop = []string{"keep-alive", "proxy-connection", "te", "http2-settings"}

// isEndToEnd reports whether a Connection field must not name the field of that name.
func isEndToEnd(name string) bool {
	switch name {
	case "host", "content-length", "transfer-encoding", "authorization", "cookie", "forwarded":
		return true
	}
	after, ok := strings.CutPrefix(name, "x-forwarded-")
	return ok && after != ""
}

// nominatedIn returns the connection options in lower case, and whether there are
// invalid ones.
func nominatedIn(fields []Field, data []byte) (options []string, invalid bool) {
	for _, list := range valuesOf(fields, data, "connection") {
		for option := range strings.SplitSeq(list, ",") {
			if option = strings.Trim(option, " \t"); option != "" {
				options = append(options, option)
				invalid = invalid || !httpguts.ValidHeaderFieldName(option)
			}
		}
	}
	return options, invalid
}

// wantUpgrade returns the protocol that is asked for, if it may be websocket or other.
func wantUpgrade(r *Reader, data []byte, options []string) string {
	method := string(r.Method.Of(data))
	if r.Minor == 0 || method == "CONNECT" || r.Chunked || r.ContentLength > 0 || !slices.Contains(options, "upgrade") {
		return ""
	}
	keys := valuesOf(r.Fields, data, "sec-websocket-key")
	for _, list := range valuesOf(r.Fields, data, "upgrade") {
		for protocol := range strings.SplitSeq(list, ",") {
			switch strings.Trim(protocol, " \t") {
			case "other":
				return "other"
			case "websocket":
				key, _ := r.Lookup(data, "Sec-WebSocket-Key")
				raw, err := base64.StdEncoding.DecodeString(string(key))
				if len(keys) == 1 && err == nil && len(raw) == 16 && !slices.Contains(options, "sec-websocket-key") {
					return "websocket"
				}
			}
		}
	}
	return ""
}

// valuesOf returns the values of the fields of that name, all in lower case.
func valuesOf(fields []Field, data []byte, name string) (values []string) {
	for _, line := range linesOf(fields, data) {
		if n, value, _ := strings.Cut(inLower(line), ":"); n == name {
			values = append(values, value)
		}
	}
	return values
}

// inLower returns s with its ASCII letters in lower case. To [strings.ToLower] the Kelvin
// sign is a K.
func inLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		b[i] = Lower(c)
	}
	return string(b)
}

// linesOf returns fields as name:value, with a space for what folds a value.
func linesOf(fields []Field, data []byte) (lines []string) {
	for _, f := range fields {
		parts := strings.Split(string(f.Value.Of(data)), "\n")
		kept := parts[:0]
		for i, part := range parts {
			if part = strings.Trim(part, " \t\r"); part != "" || i == 0 {
				kept = append(kept, part)
			}
		}
		lines = append(lines, string(f.Name.Of(data))+":"+strings.Join(kept, " "))
	}
	return lines
}

// checkLines fails unless every line of head ends in CR LF, none is folded, and one
// field at most says where the body ends.
func checkLines(t *testing.T, head []byte) {
	t.Helper()
	framing := 0
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if bytes.ContainsAny(line, "\r\n") || len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			t.Errorf("%q: line %q", head, line)
		}
		switch name, _, _ := bytes.Cut(line, []byte(":")); inLower(string(name)) {
		case "content-length", "transfer-encoding":
			framing++
		}
	}
	if framing > 1 || !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		t.Errorf("%q: %d fields of the framing", head, framing)
	}
}
