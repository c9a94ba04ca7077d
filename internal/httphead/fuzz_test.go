package httphead

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/textproto"
	"reflect"
	"strings"
	"sync"
	"testing"
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
		if (r.verdict == Malformed) != (r.Err() != nil) {
			t.Fatalf("%q: %v with error %v", data, r.verdict, r.Err())
		}
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
			if c, ok = unhex(path[i+1:]); !ok {
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
	h := http.Header{}
	for _, f := range r.Fields {
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
	h.Del("Host")
	h.Del("Transfer-Encoding")
	if r.Chunked {
		h.Del("Content-Length")
		h.Del("Trailer")
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
