package streamprox

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// unknown is the value of a placeholder that is not known.
const unknown = "(unknown)"

// placeholderValues returns what placeholders stand for on a connection.
func placeholderValues(cx *layer4.Connection, names ...string) []string {
	values := make([]string, len(names))
	for i, name := range names {
		value, known := cx.Replacer().GetString(name)
		if !known {
			value = unknown
		}
		values[i] = value
	}
	return values
}

// inspected returns the connection that handlers get after inspect, with the given
// options, has read what a client sends.
func inspected(t *testing.T, options, sent string) *layer4.Connection {
	t.Helper()
	var stream *layer4.Connection
	cx := layer4.WrapConnection(&scriptedConn{r: strings.NewReader(sent), remote: textAddr("192.0.2.7:1")}, nil, zap.NewNop())
	cx.Replacer().Set("l4.http.host", "of an earlier request")
	cx.Replacer().Set("l4.http.query", "of an earlier request")
	cx.Replacer().Set("l4.inspect.outcome", "of an earlier request")
	err := chain(loadHandler(t, "inspect", "{"+options+"}"), nextFunc(func(cx *layer4.Connection, _ layer4.Handler) error {
		stream = cx
		return nil
	})).Handle(cx)
	if err != nil || stream == nil {
		t.Fatalf("inspecting %q: got %v, error %v", sent, stream, err)
	}
	return stream
}

func TestPlaceholders(t *testing.T) {
	const request = "POST /A%20b/../c%2f?q=%20&r HTTP/1.1\r\nHost: Example.com:8080\r\nX-Tag: one\r\nX-TAG:two \r\nX_Tag: three\r\nContent-Length: 4\r\n\r\nbody"
	tests := []struct {
		name    string
		inspect string
		sent    string
		want    map[string]string
	}{
		{"request", `"lenient":true`, request, map[string]string{
			"l4.inspect.outcome":            "http",
			"l4.http.method":                "POST",
			"l4.http.host":                  "Example.com:8080",
			"l4.http.hostname":              "Example.com",
			"l4.http.port":                  "8080",
			"l4.http.path":                  "/A b/../c/",
			"l4.http.query":                 "q=%20&r",
			"l4.http.uri":                   "/A%20b/../c%2f?q=%20&r",
			"l4.http.version":               "HTTP/1.1",
			"l4.http.header.X-Tag":          "one,two",
			"l4.http.header.x-tag":          "one,two",
			"l4.http.header.X_Tag":          "three",
			"l4.http.header.Content-Length": "4",
			"l4.http.header.Cookie":         "",
			"l4.http.nothing":               unknown,
			"l4.http":                       unknown,
			"l4.inspect.nothing":            unknown,
			"l4.conn.remote_addr":           "192.0.2.7:1",
		}},
		{"absolute-form", "", "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n", map[string]string{
			"l4.http.host": "a.example", "l4.http.hostname": "a.example", "l4.http.port": "80", "l4.http.path": "/x", "l4.http.query": "", "l4.http.uri": "http://a.example/x",
		}},
		{"HTTP/1.0 without Host", "", "GET / HTTP/1.0\r\n\r\n", map[string]string{
			"l4.http.host": "", "l4.http.hostname": "", "l4.http.port": "80", "l4.http.version": "HTTP/1.0",
		}},
		{"IPv6 address with a port", "", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8081\r\n\r\n", map[string]string{
			"l4.http.host": "[2001:db8::1]:8081", "l4.http.hostname": "2001:db8::1", "l4.http.port": "8081",
		}},
		{"IPv6 address without a port", "", "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", map[string]string{
			"l4.http.host": "[::1]", "l4.http.hostname": "::1", "l4.http.port": "80",
		}},
		{"colon without a port", "", "GET / HTTP/1.1\r\nHost: a.example:\r\n\r\n", map[string]string{
			"l4.http.hostname": "a.example", "l4.http.port": "80",
		}},
		{"folded field", `"lenient":true`, "GET / HTTP/1.1\r\nHost: a\r\nX: one \r\n\t two\r\n  \r\n three\r\n\r\n", map[string]string{
			"l4.http.header.X": "one two  three",
		}},
		{"asterisk-form", "", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", map[string]string{
			"l4.http.path": "*", "l4.http.uri": "*",
		}},
		{"request line", `"until":"line"`, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", map[string]string{
			"l4.inspect.outcome": "http", "l4.http.path": "/x", "l4.http.host": "", "l4.http.hostname": "", "l4.http.port": "80", "l4.http.header.Host": "",
		}},
		{"other", "", "SSH-2.0-client\r\n", map[string]string{
			"l4.inspect.outcome": "other", "l4.inspect.bytes": "16",
			"l4.http.method": unknown, "l4.http.host": unknown, "l4.http.hostname": unknown, "l4.http.port": unknown, "l4.http.query": unknown, "l4.http.header.X": unknown,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cx := inspected(t, test.inspect, test.sent)
			for name, want := range test.want {
				if got := placeholderValues(cx, name)[0]; got != want {
					t.Errorf("{%s}: got %q, want %q", name, got, want)
				}
			}
		})
	}
}

// TestPortPlaceholderAfterTLS checks that the port is that of HTTPS where TLS was
// terminated and Host has none, and also in what rewrite_head has made of the request.
func TestPortPlaceholderAfterTLS(t *testing.T) {
	for sent, want := range map[string]string{"a.example": "a.example 443", "a.example:8443": "a.example 8443"} {
		cx := layer4.WrapConnection(&scriptedConn{r: strings.NewReader("GET / HTTP/1.1\r\nHost: " + sent + "\r\n\r\n"), remote: textAddr("192.0.2.7:1")}, nil, zap.NewNop())
		cx.SetVar(layer4.TLSConnectionStatesVarName, []*tls.ConnectionState{{}})
		var got []string
		keep := nextFunc(func(cx *layer4.Connection, next layer4.Handler) error {
			got = append(got, strings.Join(placeholderValues(cx, "l4.http.hostname", "l4.http.port"), " "))
			return next.Handle(cx)
		})
		err := chain(loadHandler(t, "inspect", "{}"), keep, loadHandler(t, "rewrite_head", `{"header":{"delete":["X"]}}`), keep).Handle(cx)
		if err != nil || len(got) != 2 || got[0] != want || got[1] != want {
			t.Errorf("Host %s: got %q, error %v, want %q twice", sent, got, err, want)
		}
	}
}

// TestPlaceholdersOfMatchers checks that the matchers of a route have the placeholders
// too.
func TestPlaceholdersOfMatchers(t *testing.T) {
	cx := layer4.WrapConnection(&scriptedConn{r: strings.NewReader("GET /a HTTP/1.1\r\nHost: b\r\n\r\n"), remote: textAddr("192.0.2.7:1")}, nil, zap.NewNop())
	h := loadHandler(t, "inspect", "{}").(*Inspect)
	in, err := h.inspect(cx)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(placeholderValues(in.stream(), "l4.inspect.outcome", "l4.http.host"), " "), "http b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestPlaceholdersOfEachInspection checks that a stream has the values of the
// inspection it comes from, also where another one surrounds it.
func TestPlaceholdersOfEachInspection(t *testing.T) {
	names := []string{"l4.inspect.outcome", "l4.inspect.bytes", "l4.http.host", "l4.http.uri"}
	var outer, edited, inner []string
	keep := func(values *[]string) nextFunc {
		return func(cx *layer4.Connection, next layer4.Handler) error {
			*values = placeholderValues(cx, names...)
			return next.Handle(cx)
		}
	}
	cx := layer4.WrapConnection(&scriptedConn{r: strings.NewReader("GET /a/b HTTP/1.1\r\nHost: one\r\n\r\nSSH-2.0-client\r\n"), remote: textAddr("192.0.2.7:1")}, nil, zap.NewNop())
	err := chain(
		loadHandler(t, "inspect", "{}"), keep(&outer),
		loadHandler(t, "rewrite_head", `{"host":"three.example","strip_prefix":"/a"}`), keep(&edited),
		nextFunc(func(cx *layer4.Connection, next layer4.Handler) error { // as a handler that consumes a message
			_, err := io.ReadFull(cx, make([]byte, len("GET /b HTTP/1.1\r\nHost: three.example\r\n\r\n")))
			if err != nil {
				return err
			}
			return next.Handle(cx)
		}),
		loadHandler(t, "inspect", "{}"), keep(&inner),
	).Handle(cx)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		got  []string
		want string
	}{
		{"outer", outer, "http 48 one /a/b"},
		{"edited", edited, "http 48 three.example /b"},
		{"inner", inner, "other 16 (unknown) (unknown)"},
	} {
		if got := strings.Join(test.got, " "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// slowReader sends one byte a second.
type slowReader struct{ data io.Reader }

func (r slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	return r.data.Read(p[:1])
}

// TestDurationPlaceholder checks that {l4.inspect.duration} is the time the inspection
// has taken, not the time since.
func TestDurationPlaceholder(t *testing.T) {
	inspect := loadHandler(t, "inspect", `{"timeout":"1m"}`)
	synctest.Test(t, func(t *testing.T) {
		const head = "GET / HTTP/1.0\r\n\r\n"
		cx := layer4.WrapConnection(&scriptedConn{r: slowReader{strings.NewReader(head)}, remote: textAddr("192.0.2.7:1")}, nil, zap.NewNop())
		var got any
		err := chain(inspect, nextFunc(func(cx *layer4.Connection, _ layer4.Handler) error {
			time.Sleep(time.Hour)
			got, _ = cx.Replacer().Get("l4.inspect.duration")
			return nil
		})).Handle(cx)
		if err != nil {
			t.Fatal(err)
		}
		if want := time.Duration(len(head)) * time.Second; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// TestDurationOfLaterRequests checks that each request of a connection has a duration of its
// own.
func TestDurationOfLaterRequests(t *testing.T) {
	route := `{"handle":[{"handler":"rewrite_head","header":{"set":{"X-Took":["{l4.inspect.duration}"]}}},{"handler":"http_app"}]},`
	s := newRoutedServer(t, "", route, "", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Took"))
	})
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	for range 3 {
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		got := strings.TrimPrefix(readResponse(t, r), "200 ")
		if took, err := time.ParseDuration(got); err != nil || took <= 0 {
			t.Errorf("got %q (%v)", got, err)
		}
	}
}
