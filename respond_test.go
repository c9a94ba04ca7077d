package streamprox

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

func TestHTTPRespondCaddyfileErrors(t *testing.T) {
	block := func(lines string) string { return "http_respond 404 {\n " + lines + "\n}" }
	tests := []struct{ name, config, want string }{
		{"status", "http_respond 404", ""},
		{"status and body", "http_respond 404 \"not here\"", ""},
		{"empty block", block(""), ""},
		{"field twice", block("header Set-Cookie a=1\n header set-cookie b=2"), ""},
		{"lowest status", "http_respond 200", ""},
		{"highest status", "http_respond 599", ""},
		{"status that has no name", "http_respond 299 hello", ""},

		{"nothing", "http_respond", "http_respond needs a status, as in 'http_respond 404'"},
		{"body without status", "http_respond \"not here\"", "'not here' is no status: http_respond needs a status"},
		{"status with sign", "http_respond -1", "status: -1 is not between 200 and 599"},
		{"interim status", "http_respond 103", "status: 103 is not between 200 and 599"},
		{"switching protocols", "http_respond 101", "status: 101 is not between 200 and 599"},
		{"status too high", "http_respond 600", "status: 600 is not between 200 and 599"},
		{"status from a placeholder", "http_respond {l4.http.header.X}", "'{l4.http.header.X}' is no status"},
		{"body of 204", "http_respond 204 body", "a response with status 204 has no body"},
		{"body of 205", "http_respond 205 body", "a response with status 205 has no body"},
		{"body of 304", "http_respond 304 body", "a response with status 304 has no body"},
		{"long body", "http_respond 200 " + strings.Repeat("a", maxRespondBody+1), "the body has 65537 bytes, more than 65536; use http_app for a site"},
		{"body without quotes", "http_respond 404 not here", "http_respond takes a status and a body; unexpected 'here'; put a body with spaces in quotes"},
		{"unknown option", block("close"), "unrecognized http_respond option 'close': use header"},
		{"header without value", block("header Location"), "option 'header' takes a field and a value, got 1 arguments"},
		{"header with two values", block("header X a b"), "option 'header' takes a field and a value, got 3 arguments; put a value with spaces in quotes"},
		{"header with a block", block("header X a {\n b\n }"), "option 'header' takes no block"},
		{"header invalid name", block("header \"X Y\" a"), `option 'header': "X Y" is not a field name`},
		{"header with a colon", block("header Location: /a"), `option 'header': "Location:" is not a field name`},
		{"header with a plus sign", block("header +Set-Cookie a"), `option 'header': "+Set-Cookie": a field is added as it is, without a sign; for a second value write it twice`},
		{"header with a minus sign", block("header -Server a"), `option 'header': "-Server": a field is added as it is, without a sign`},
		{"header with a line break", block("header X `a\nb`"), `option 'header': "a\nb" holds what no field value can`},
		{"header Location twice", block("header Location /a\n header location /b"), "duplicate option 'header location'"},
		{"header Content-Type twice", block("header Content-Type text/html\n header Content-Type text/css"), "duplicate option 'header Content-Type'"},
		{"header Content-Length", block("header Content-Length 0"), "option 'header': Content-Length cannot be set: the length of the body says it"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := adaptConfig(inRoute(test.config))
			checkError(t, err, test.want)
		})
	}
	_, err := adaptConfig(inRoute("http_respond 404 {\n header X a\n header Connection close\n}"))
	checkError(t, err, "Caddyfile:7")
}

func TestHTTPRespondJSONErrors(t *testing.T) {
	tests := []struct{ name, fields, want string }{
		{"status", `"status":404`, ""},
		{"all of the design's fields", `"status":404,"body":"a","headers":{"Location":["/a"]}`, ""},
		{"several values", `"status":200,"headers":{"Set-Cookie":["a=1","b=2"]}`, ""},
		{"nothing", `"body":"a"`, "status: 0 is not between 200 and 599"},
		{"status 199", `"status":199`, "status: 199 is not between 200 and 599"},
		{"status 600", `"status":600`, "status: 600 is not between 200 and 599"},
		{"unknown field", `"status":404,"header":{}`, "header"},
		{"body of 204", `"status":204,"body":"a"`, "a response with status 204 has no body"},
		{"long body", `"status":200,"body":"` + strings.Repeat("a", maxRespondBody+1) + `"`, "the body has 65537 bytes"},
		{"invalid name", `"status":404,"headers":{"X Y":["a"]}`, `headers: "X Y" is not a field name`},
		{"no value", `"status":404,"headers":{"X":[]}`, "headers: X has no value"},
		{"null", `"status":404,"headers":{"X":null}`, "headers: X has no value"},
		{"line break", `"status":404,"headers":{"X":["a\r\nY: b"]}`, `headers: X: "a\r\nY: b" holds what no field value can`},
		{"NUL", `"status":404,"headers":{"X":["\u0000"]}`, `headers: X: "\x00" holds what no field value can`},
		{"twice", `"status":404,"headers":{"X-a":["1"],"x-A":["2"]}`, "headers: x-A is there twice, in different spellings"},
		{"Location twice", `"status":301,"headers":{"Location":["/a","/b"]}`, "headers: Location has one value, got 2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadApps(t, "{"+inServer(`{"handler":"http_respond",`+test.fields+`}`)+"}")
			checkError(t, err, test.want)
		})
	}
}

// TestHTTPRespondUntouchable checks that no field about the connection or the length
// loads, in any spelling, and that the error says why.
func TestHTTPRespondUntouchable(t *testing.T) {
	const ofConnection, framing = "it is about the connection, which is closed after the response", "the length of the body says it"
	for name, why := range map[string]string{
		"Content-Length": framing, "Transfer-Encoding": framing, "Trailer": framing,
		"Connection": ofConnection, "Keep-Alive": ofConnection, "Proxy-Connection": ofConnection,
		"TE": ofConnection, "Upgrade": ofConnection, "HTTP2-Settings": ofConnection,
	} {
		for _, spelling := range []string{name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_")} {
			t.Run(spelling, func(t *testing.T) {
				_, err := loadApps(t, "{"+inServer(fmt.Sprintf(`{"handler":"http_respond","status":404,"headers":{%q:["a"]}}`, spelling))+"}")
				checkError(t, err, fmt.Sprintf("headers: %s cannot be set: %s", spelling, why))
			})
		}
	}
}

// respondTo returns what a client gets that sends that to inspect with http_respond
// after it, with the JSON fields given. Whatever comes after is called for nothing.
func respondTo(t *testing.T, inspect, fields string, sent io.Reader) string {
	t.Helper()
	conn := &scriptedConn{r: sent, remote: textAddr("192.0.2.7:1")}
	cx := layer4.WrapConnection(conn, nil, zap.NewNop())
	cx.SetVar(layer4.TLSConnectionStatesVarName, []*tls.ConnectionState{{}})
	var next received
	if err := chain(loadHandler(t, "inspect", "{"+inspect+"}"), loadHandler(t, "http_respond", "{"+fields+"}"), &next).Handle(cx); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if next.called {
		t.Error("the next handler was called")
	}
	return conn.sent.String()
}

var dateLine = regexp.MustCompile(`Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n`)

func TestHTTPRespond(t *testing.T) {
	const (
		get   = "GET /a%0d%0aX-Evil:%201?q HTTP/1.1\r\nHost: example.com\r\nX: one\r\nX-Tab: a\tb\r\n\r\n"
		plain = "Content-Type: text/plain; charset=utf-8\r\n"
		end   = "Connection: close\r\n\r\n"
		bad   = "HTTP/1.1 400 Bad Request\r\n(date)" + plain + "Content-Length: 16\r\n" + end + "400 Bad Request\n"
	)
	tests := []struct {
		name, fields, sent string
		want               string // (date) stands for the line of Date
		inspect            string
	}{
		{name: "status", fields: `"status":404`, sent: get, want: "HTTP/1.1 404 Not Found\r\n(date)Content-Length: 0\r\n" + end},
		{name: "body", fields: `"status":403,"body":"not ünder here\n"`, sent: get, want: "HTTP/1.1 403 Forbidden\r\n(date)" + plain + "Content-Length: 16\r\n" + end + "not ünder here\n"},
		{name: "HEAD", fields: `"status":403,"body":"body"`, sent: "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", want: "HTTP/1.1 403 Forbidden\r\n(date)" + plain + "Content-Length: 4\r\n" + end},
		{name: "HTTP/1.0", fields: `"status":200,"body":"body"`, sent: "GET / HTTP/1.0\r\n\r\n", want: "HTTP/1.1 200 OK\r\n(date)" + plain + "Content-Length: 4\r\n" + end + "body"},
		{name: "no content", fields: `"status":204`, sent: get, want: "HTTP/1.1 204 No Content\r\n(date)" + end},
		{name: "not modified", fields: `"status":304,"headers":{"ETag":["\"a\""]}`, sent: get, want: "HTTP/1.1 304 Not Modified\r\n(date)ETag: \"a\"\r\n" + end},
		{name: "reset content", fields: `"status":205`, sent: get, want: "HTTP/1.1 205 Reset Content\r\n(date)Content-Length: 0\r\n" + end},
		{name: "status without a name", fields: `"status":299`, sent: get, want: "HTTP/1.1 299 \r\n(date)Content-Length: 0\r\n" + end},
		{name: "redirect", fields: `"status":301,"headers":{"Location":["https://{l4.http.host}{l4.http.uri}"]}`, sent: get, want: "HTTP/1.1 301 Moved Permanently\r\n(date)Location: https://example.com/a%0d%0aX-Evil:%201?q\r\nContent-Length: 0\r\n" + end},
		{name: "redirect to the port of TLS", fields: `"status":308,"headers":{"Location":["https://{l4.http.hostname}:{l4.http.port}/"]}`, sent: get, want: "HTTP/1.1 308 Permanent Redirect\r\n(date)Location: https://example.com:443/\r\nContent-Length: 0\r\n" + end},
		{name: "fields", fields: `"status":200,"body":"{}","headers":{"content-type":["application/json"],"date":["never"],"Set-Cookie":["a=1","b=2"],"A":[""]}`, sent: get, want: "HTTP/1.1 200 OK\r\nA: \r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\ncontent-type: application/json\r\ndate: never\r\nContent-Length: 2\r\n" + end + "{}"},
		{name: "placeholders of the body", fields: `"status":200,"body":"{l4.http.method} {l4.http.path} {\"x\":{\"y\":1}} a{b:c} {l4.nothing}"`, sent: get, want: "HTTP/1.1 200 OK\r\n(date)" + plain + "Content-Length: 51\r\n" + end + "GET /a\r\nX-Evil: 1 {\"x\":{\"y\":1}} a{b:c} {l4.nothing}"},
		{name: "a tab in a value", fields: `"status":200,"headers":{"X":["{l4.http.header.X-Tab}"]}`, sent: get, want: "HTTP/1.1 200 OK\r\n(date)X: a\tb\r\nContent-Length: 0\r\n" + end},

		{name: "line break from the client", fields: `"status":301,"body":"b","headers":{"Location":["{l4.http.path}"]}`, sent: get, want: bad},
		{name: "line break from a HEAD request", fields: `"status":301,"headers":{"Location":["{l4.http.path}"]}`, sent: strings.Replace(get, "GET", "HEAD", 1), want: strings.TrimSuffix(bad, "400 Bad Request\n")},
		{name: "LF from the client", fields: `"status":200,"headers":{"X":["{l4.http.path}"]}`, sent: "GET /%0a HTTP/1.1\r\nHost: a\r\n\r\n", want: bad},
		{name: "CR from the client", fields: `"status":200,"headers":{"X":["{l4.http.path}"]}`, sent: "GET /%0d HTTP/1.1\r\nHost: a\r\n\r\n", want: bad},
		{name: "NUL from the client", inspect: `"lenient":true`, fields: `"status":200,"headers":{"X":["{l4.http.path}"]}`, sent: "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", want: bad},
		{name: "control byte from the client", fields: `"status":200,"headers":{"X":["{l4.http.path}"]}`, sent: "GET /%1b HTTP/1.1\r\nHost: a\r\n\r\n", want: bad},

		{name: "until line", inspect: `"until":"line"`, fields: `"status":404`, sent: get, want: "HTTP/1.1 404 Not Found\r\n(date)Content-Length: 0\r\n" + end},
		{name: "TLS", fields: `"status":404`, sent: "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", want: ""},
		{name: "other", fields: `"status":404`, sent: "SSH-2.0-OpenSSH_9.6 Debian-3\r\n", want: ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for name, sent := range map[string]io.Reader{"whole": strings.NewReader(test.sent), "bytewise": iotest.OneByteReader(strings.NewReader(test.sent))} {
				got := respondTo(t, test.inspect, test.fields, sent)
				if strings.Contains(test.want, "(date)") && !dateLine.MatchString(got) {
					t.Errorf("%s: got %q, want a Date", name, got)
				}
				if got := dateLine.ReplaceAllString(got, "(date)"); got != test.want {
					t.Errorf("%s: got\n%q, want\n%q", name, got, test.want)
				}
				if got == "" {
					continue
				}
				request := &http.Request{Method: strings.Fields(test.sent)[0]}
				response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), request)
				if err != nil || !response.Close {
					t.Errorf("%s: net/http reads %v, error %v, want a response that ends the connection", name, response, err)
				}
			}
		})
	}
}

// TestHTTPRespondWithoutInspect checks that a stream of which no head was read is closed,
// and that a warning says so.
func TestHTTPRespondWithoutInspect(t *testing.T) {
	configLogs.take(t)
	h := loadHandler(t, "http_respond", `{"status":404}`)
	conn := &scriptedConn{r: strings.NewReader(""), remote: textAddr("192.0.2.7:1")}
	cx := layer4.WrapConnection(conn, []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), zap.NewNop())
	var next received
	if err := chain(h, &next).Handle(cx); err != nil || next.called || conn.sent.Len() > 0 {
		t.Errorf("got error %v, next called %t, answer %q; want it closed", err, next.called, conn.sent.String())
	}
	checkWarnings(t, configLogs.take(t), true, "closing a stream on which inspect has read no request for http_respond to answer")
}

// TestRespondToConnect: a 2xx would make the client take what follows for a tunnel (RFC
// 9110 section 9.3.6).
func TestRespondToConnect(t *testing.T) {
	for status, want := range map[string]string{"200": "501", "204": "501", "403": "403"} {
		h := loadHandler(t, "inspect",
			`{"routes":[{"match":[{"http_request":[{"method":["CONNECT"]}]}],"handle":[{"handler":"http_respond","status":`+status+`}]}]}`)
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			defer client.Close()
			go func() {
				defer server.Close()
				_ = h.Handle(layer4.WrapConnection(server, []byte("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), zap.NewNop()), endOfChain)
			}()
			got, _ := io.ReadAll(client)
			if !strings.HasPrefix(string(got), "HTTP/1.1 "+want+" ") {
				t.Errorf("status %s: got %.40q, want %s", status, got, want)
			}
		})
	}
}

// TestAnswerIsCounted: the account of a request that is answered here has the bytes that the
// client got, which for HEAD are those of the head.
func TestAnswerIsCounted(t *testing.T) {
	inspect := loadHandler(t, "inspect", `{"routes":[{"handle":[{"handler":"http_respond","status":404,"body":"not here"}]}]}`).(*Inspect)
	handled := make(chan struct{}, 1)
	address := serveEach(t, func(conn net.Conn) {
		_ = inspect.Handle(layer4.WrapConnection(conn, nil, zap.NewNop()), endOfChain)
		handled <- struct{}{}
	})
	for _, method := range []string{"GET", "HEAD"} {
		before := totals.down.Load()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: a\r\n\r\n", method)
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		<-handled
		if counted := totals.down.Load() - before; counted != int64(len(got)) {
			t.Errorf("%s: counted %d bytes, the client got %d", method, counted, len(got))
		}
	}
}
