package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// head returns the lines of a head with their line ends, and the empty line.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

var (
	getA1   = head("GET /a/1 HTTP/1.1", "Host: a.example")
	getSite = head("GET /site/1 HTTP/1.1", "Host: a.example")

	// smuggled is a request that no case sends as one of its own: no server may see it.
	smuggled = head("GET /deny/smuggled HTTP/1.1", "Host: a.example")

	// behind is a request that follows the last one of a case. Where that ends the
	// connection, no server may see it.
	behind     = head("GET /deny/smuggled?behind HTTP/1.1", "Host: a.example")
	seenBehind = "GET /deny/smuggled?behind a.example"

	smuggledLength = fmt.Sprintf("Content-Length: %d", len(smuggled))
	smuggledChunk  = fmt.Sprintf("%x\r\n%s\r\n", len(smuggled), smuggled)

	// unsolicited is a response that nobody has asked for.
	unsolicited = head("HTTP/1.1 200 OK", "Content-Length: 8") + "smuggled"

	chunkedPost = head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked")
	chunkedSite = head("POST /site/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked")

	// seenA1 is getA1 as a server sees it, and so on.
	seenA1    = "GET /a/1 a.example"
	seenSite  = "GET /site/1 a.example"
	seenPost  = "POST /a/1 a.example hello"
	seenShake = "GET /ws/1 a.example"
)

const (
	// wsKey is the key of a WebSocket handshake, from RFC 6455 section 1.3.
	wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

	// frame is a WebSocket text message of a client.
	frame = "\x81\x85\x00\x00\x00\x00hello"
)

// handshake is a WebSocket handshake, with further fields.
func handshake(target string, fields ...string) string {
	return head(append([]string{
		"GET " + target + " HTTP/1.1", "Host: a.example", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + wsKey,
	}, fields...)...)
}

// upgrading are the servers that accept WebSocket handshakes.
func upgrading() []string {
	var names []string
	for _, s := range servers {
		if s.upgrades {
			names = append(names, s.name)
		}
	}
	return names
}

// resets wants the server's connection to have been reset.
func resets(t *testing.T, f *flow) {
	t.Helper()
	if !f.reset {
		t.Errorf("the connection to the server was not reset, after %q", f.up.String())
	}
}

// onlyHead wants nothing after the head to have reached the server.
func onlyHead(t *testing.T, f *flow) {
	t.Helper()
	if up := f.up.String(); strings.Index(up, "\r\n\r\n") != len(up)-4 {
		t.Errorf("the server was sent %q, want a head and nothing else", up)
	}
}

// holdsBack wants nothing after the head to have reached the server before it answered.
func holdsBack(t *testing.T, f *flow) {
	t.Helper()
	up := f.up.String()
	if end := strings.Index(up, "\r\n\r\n") + 4; f.unanswered != end {
		t.Errorf("before its answer the server was sent %d bytes of %q, want %d", f.unanswered, up, end)
	}
}

// exactly wants the server to have been sent these bytes.
func exactly(want string) func(*testing.T, *flow) {
	return func(t *testing.T, f *flow) {
		t.Helper()
		if f.kept {
			want = strings.Replace(want, connectionClose, "", 1)
		}
		if got := f.up.String(); got != want {
			t.Errorf("the server was sent %q, want %q", got, want)
		}
	}
}

// desyncCases returns all the cases.
func desyncCases() []desyncCase {
	return slices.Concat(
		malformedCases(),
		nominatedCases(),
		requestCases(),
		brokenChunkCases(),
		bodyCases(),
		responseCases(),
		badResponseCases(),
		upgradeCases(),
		badUpgradeCases(),
		pinnedToOneCases(),
		reinspectCases(),
	)
}

// malformedCases are heads that parsers read differently: as the first of a connection,
// after the response to another, and in one packet with it.
func malformedCases() []desyncCase {
	body := "0\r\n\r\n" + smuggled
	var cases []desyncCase
	for _, m := range []struct{ name, clause, bytes string }{
		{"CL.TE", "RFC 9112 section 6.1: Transfer-Encoding with Content-Length",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5", "Transfer-Encoding: chunked") + body},
		{"TE.CL", "RFC 9112 section 6.1, in the other order",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked", "Content-Length: 5") + body},
		{"CL 0 and TE", "RFC 9112 section 6.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 0", "Transfer-Encoding: chunked") + body},
		{"CL and TE identity", "RFC 9112 section 6.1; RFC 7230 removed identity",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5", "Transfer-Encoding: identity") + body},
		{"TE space before colon", "RFC 9112 section 5.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding : chunked") + body},
		{"TE space before colon and CL", "RFC 9112 section 5.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5", "Transfer-Encoding : chunked") + body},
		{"CL space before colon", "RFC 9112 section 5.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length : 5") + body},
		{"TE tab before colon", "RFC 9112 section 5.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding\t: chunked") + body},
		{"TE tab and CL", "RFC 9110 section 5.5: a tab before the value is legal, so this is chunked",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5", "Transfer-Encoding:\tchunked") + body},
		{"TE vertical tab", "RFC 9110 section 5.5",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding:\vchunked") + body},
		{"TE form feed after", "RFC 9110 section 5.5",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked\f") + body},
		{"TE xchunked", "RFC 9112 section 6.1: an unknown coding",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: xchunked") + body},
		{"TE quoted", "RFC 9112 section 7: a token",
			head("POST /a/1 HTTP/1.1", "Host: a.example", `Transfer-Encoding: "chunked"`) + body},
		{"TE empty", "RFC 9112 section 6.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding:") + body},
		{"TE chunked, identity", "RFC 9112 section 6.3: chunked is not last",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked, identity") + body},
		{"TE identity, chunked", "RFC 9112 section 6.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: identity, chunked") + body},
		{"TE gzip, chunked", "RFC 9112 section 6.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: gzip, chunked") + body},
		{"TE chunked, chunked", "RFC 9112 section 6.1: chunked twice",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked, chunked") + body},
		{"TE with parameter", "RFC 9112 section 7: chunked has none",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked;x=y") + body},
		{"two TE", "RFC 9112 section 6.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + body},
		{"two TE, the second unknown", "TE.TE",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked", "Transfer-encoding: cow") + body},
		{"two TE, the first unknown", "TE.TE",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: cow", "Transfer-Encoding: chunked") + body},
		{"TE on 1.0", "RFC 9112 section 6.1",
			head("POST /a/1 HTTP/1.0", "Host: a.example", "Transfer-Encoding: chunked") + body},
		{"two CL, equal", "RFC 9112 section 6.3",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5", "Content-Length: 5") + body},
		{"two CL, different", "RFC 9112 section 6.3",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5", "Content-Length: 0") + body},
		{"CL list", "RFC 9110 section 8.6",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5, 5") + body},
		{"CL plus sign", "RFC 9110 section 8.6",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: +5") + body},
		{"CL minus sign", "RFC 9110 section 8.6",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: -5") + body},
		{"CL with a space in it", "RFC 9110 section 8.6",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5 0") + body},
		{"CL hexadecimal", "RFC 9110 section 8.6",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 0x5") + body},
		{"CL with underscore", "RFC 9110 section 8.6: some languages take 1_0 for 10",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 0_5") + body},
		{"CL fraction", "RFC 9110 section 8.6",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5.0") + body},
		{"CL empty", "RFC 9110 section 8.6",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length:") + body},
		{"CL of 2^64+5", "RFC 9110 section 8.6: overflow",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 18446744073709551621") + body},
		{"Trailer names the framing", "RFC 9110 section 6.5.1",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked", "Trailer: Content-Length") + body},
		{"obs-fold", "RFC 9112 section 5.2",
			"GET /a/1 HTTP/1.1\r\nHost: a.example\r\nX-Kept: a\r\n b\r\n\r\n" + smuggled},
		{"obs-fold in TE", "RFC 9112 section 5.2",
			"POST /a/1 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding:\r\n chunked\r\n\r\n" + body},
		{"obs-fold of the first field", "RFC 9112 section 2.2",
			"POST /a/1 HTTP/1.1\r\n X: y\r\nHost: a.example\r\n\r\n" + smuggled},
		{"bare LF line ends", "RFC 9112 section 2.2",
			"GET /a/1 HTTP/1.1\nHost: a.example\n\n" + smuggled},
		{"bare LF after one field", "RFC 9112 section 2.2",
			"POST /a/1 HTTP/1.1\r\nHost: a.example\r\nX-Kept: a\nTransfer-Encoding: chunked\r\n\r\n" + body},
		{"bare LF as the empty line", "RFC 9112 section 2.2",
			"GET /a/1 HTTP/1.1\r\nHost: a.example\r\n\n" + smuggled},
		{"bare CR in a value", "RFC 9112 section 2.2",
			"POST /a/1 HTTP/1.1\r\nHost: a.example\r\nX-Kept: a\rTransfer-Encoding: chunked\r\n\r\n" + body},
		{"NUL in the request line", "RFC 9112 section 3",
			"GET /a/1\x00 HTTP/1.1\r\nHost: a.example\r\n\r\n" + smuggled},
		{"NUL in a value", "RFC 9110 section 5.5",
			"GET /a/1 HTTP/1.1\r\nHost: a.example\r\nX-Kept: a\x00b\r\n\r\n" + smuggled},
		{"NUL in a name", "RFC 9110 section 5.1",
			"POST /a/1 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding\x00: chunked\r\n\r\n" + body},
		{"name with a space", "RFC 9110 section 5.1",
			head("GET /a/1 HTTP/1.1", "Host: a.example", "X Kept: a") + smuggled},
		{"empty name", "RFC 9110 section 5.1",
			head("GET /a/1 HTTP/1.1", "Host: a.example", ": a") + smuggled},
		{"line without a colon", "RFC 9112 section 5",
			head("GET /a/1 HTTP/1.1", "Host: a.example", "X-Kept") + smuggled},
		{"empty line first", "RFC 9112 section 2.2",
			"\r\n" + getA1 + smuggled},
		{"space first", "RFC 9112 section 2.2",
			" " + getA1 + smuggled},
		{"method in lower case", "RFC 9110 section 9.1",
			head("get /a/1 HTTP/1.1", "Host: a.example") + smuggled},
		{"version in lower case", "RFC 9112 section 2.3",
			head("GET /a/1 http/1.1", "Host: a.example") + smuggled},
		{"version 1.2", "RFC 9112 section 2.3",
			head("GET /a/1 HTTP/1.2", "Host: a.example") + smuggled},
		{"version 2.0", "RFC 9112 section 2.3",
			head("GET /a/1 HTTP/2.0", "Host: a.example") + smuggled},
		{"version 0.9", "RFC 9112 section 2.3",
			"GET /a/1\r\n\r\n" + smuggled},
		{"space after the version", "RFC 9112 section 3",
			head("GET /a/1 HTTP/1.1 ", "Host: a.example") + smuggled},
		{"two spaces before the target", "RFC 9112 section 3",
			head("GET  /a/1 HTTP/1.1", "Host: a.example") + smuggled},
		{"space in the target", "RFC 9112 section 3.2",
			head("GET /a/1 HTTP/1.1 /deny/smuggled HTTP/1.1", "Host: a.example")},
		{"fragment", "RFC 9112 section 3.2",
			head("GET /a/1#/deny/smuggled HTTP/1.1", "Host: a.example")},
		{"asterisk", "RFC 9112 section 3.2.4",
			head("GET * HTTP/1.1", "Host: a.example") + smuggled},
		{"no Host", "RFC 9112 section 3.2",
			head("GET /a/1 HTTP/1.1") + smuggled},
		{"empty Host", "RFC 9112 section 3.2",
			head("GET /a/1 HTTP/1.1", "Host:") + smuggled},
		{"two Hosts", "RFC 9112 section 3.2",
			head("GET /a/1 HTTP/1.1", "Host: a.example", "Host: b.example") + smuggled},
		{"two equal Hosts", "RFC 9112 section 3.2",
			head("GET /a/1 HTTP/1.1", "Host: a.example", "host: a.example") + smuggled},
		{"Host with userinfo", "RFC 9110 section 4.2.4",
			head("GET /a/1 HTTP/1.1", "Host: b.example@a.example") + smuggled},
		{"Host list", "RFC 9112 section 3.2",
			head("GET /a/1 HTTP/1.1", "Host: a.example, b.example") + smuggled},
		{"Host with a path", "RFC 9112 section 3.2",
			head("GET /a/1 HTTP/1.1", "Host: a.example/deny") + smuggled},
		{"Host with a dot at its end", "RFC 9110 section 7.2: nginx takes the dot off, Caddy's host matcher does not",
			head("GET /a/1 HTTP/1.1", "Host: a.example.") + smuggled},
		{"Host with a dot before its port", "RFC 9110 section 7.2",
			head("GET /a/1 HTTP/1.1", "Host: a.example.:80") + smuggled},
		{"absolute form with a dot at the end of its host", "RFC 9110 section 7.2",
			head("GET http://a.example./a/1 HTTP/1.1", "Host: a.example.") + smuggled},
		{"absolute form with another Host", "RFC 9112 section 3.2.2",
			head("GET http://a.example/a/1 HTTP/1.1", "Host: b.example") + smuggled},
		{"absolute form with userinfo", "RFC 9110 section 4.2.4",
			head("GET http://b.example@a.example/a/1 HTTP/1.1", "Host: a.example") + smuggled},
		{"too many connection options", "RFC 9110 section 7.6.1",
			head("GET /a/1 HTTP/1.1", "Host: a.example", "Connection: close"+strings.Repeat(", a", 32)) + smuggled},
		{"too many protocols to upgrade to", "RFC 9110 section 7.8",
			head("GET /a/1 HTTP/1.1", "Host: a.example", "Connection: Upgrade", "Upgrade: websocket"+strings.Repeat(", a", 32)) + smuggled},
		{"dot segment", "RFC 3986 section 3.3",
			head("GET /a/../deny/smuggled HTTP/1.1", "Host: a.example")},
		{"dot segment, encoded", "RFC 3986 section 3.3",
			head("GET /a/%2e%2E/deny/smuggled HTTP/1.1", "Host: a.example")},
		{"dot segment, half encoded", "RFC 3986 section 3.3",
			head("GET /a/.%2e/deny/smuggled HTTP/1.1", "Host: a.example")},
		{"dot segment across an encoded slash", "RFC 3986 section 3.3",
			head("GET /site/..%2fa/smuggled HTTP/1.1", "Host: a.example")},
		{"dot segment across a backslash", "RFC 3986 section 3.3",
			head(`GET /a/..%5c..%5cdeny/smuggled HTTP/1.1`, "Host: a.example")},
		{"dot segment with a parameter", "RFC 3986 section 3.3: /..;/ of servlet containers",
			head("GET /a/..;/deny/smuggled HTTP/1.1", "Host: a.example")},
		{"encoded NUL", "RFC 3986 section 7.3",
			head("GET /a/1%00/deny/smuggled HTTP/1.1", "Host: a.example")},
		{"broken percent-encoding", "RFC 3986 section 2.1",
			head("GET /a/%2/deny/smuggled HTTP/1.1", "Host: a.example")},
	} {
		cases = append(cases,
			desyncCase{name: m.name + ", first", clause: m.clause,
				steps: []step{sends(m.bytes), last(400)}},
			desyncCase{name: m.name + ", second", clause: m.clause,
				steps: []step{sends(getSite), gets(200, "GET /site/1"), sends(m.bytes), last(400)},
				site:  []string{seenSite}},
			desyncCase{name: m.name + ", pipelined", clause: m.clause,
				steps: []step{sends(getSite + m.bytes), gets(200, "GET /site/1"), last(400)},
				site:  []string{seenSite}},
		)
	}
	return append(cases,
		desyncCase{name: "CONNECT, first", clause: "RFC 9110 section 9.3.6",
			steps: []step{sends(head("CONNECT a.example:443 HTTP/1.1", "Host: a.example:443") + smuggled), last(501)}},
		desyncCase{name: "CONNECT, second", clause: "RFC 9110 section 9.3.6",
			steps: []step{sends(getSite), gets(200), sends(head("CONNECT a.example:443 HTTP/1.1", "Host: a.example:443") + smuggled), last(501)},
			site:  []string{seenSite}},
		desyncCase{name: "CONNECT, pipelined", clause: "RFC 9110 section 9.3.6",
			steps: []step{sends(getSite + head("CONNECT a.example:443 HTTP/1.1", "Host: a.example:443") + smuggled), gets(200), last(501)},
			site:  []string{seenSite}},
		desyncCase{name: "CONNECT, Host without the default port", clause: "RFC 9112 section 3.2.3: as JDK and Apache HttpClient send it",
			steps: []step{sends(head("CONNECT a.example:443 HTTP/1.1", "Host: a.example") + smuggled), last(501)}},
		desyncCase{name: "CONNECT, Host without another port", clause: "RFC 9112 section 3.2.3",
			steps: []step{sends(head("CONNECT a.example:80 HTTP/1.1", "Host: a.example") + smuggled), last(400)}},
		desyncCase{name: "HTTP/2 preface, second", clause: "RFC 9113 section 3.4: only a connection begins with it",
			steps: []step{sends(getSite), gets(200), sends("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled), last(400)},
			site:  []string{seenSite}},
		desyncCase{name: "HTTP/2 preface, pipelined", clause: "RFC 9113 section 3.4",
			steps: []step{sends(getSite + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled), gets(200), last(400)},
			site:  []string{seenSite}},
		desyncCase{name: "not HTTP, second", clause: "an outcome that the first request's route takes, and that is no request",
			steps: []step{sends(getSite), gets(200), sends("EHLO a.example\r\n" + smuggled), refused(400)},
			site:  []string{seenSite}},
		desyncCase{name: "second head too large", clause: "RFC 6585 section 5: the limits are the same for later heads",
			steps: []step{sends(getSite), gets(200), sends("GET /a/1 HTTP/1.1\r\nHost: a.example\r\nX-Kept: " + strings.Repeat("x", 20<<10) + "\r\n\r\n" + smuggled), last(431)},
			site:  []string{seenSite}},
		desyncCase{name: "second head with too many fields", clause: "RFC 6585 section 5",
			steps: []step{sends(getSite), gets(200), sends("GET /a/1 HTTP/1.1\r\nHost: a.example\r\n" + strings.Repeat("z:\r\n", 256) + "\r\n" + smuggled), last(431)},
			site:  []string{seenSite}},
		desyncCase{name: "second head with too many fields, pipelined", clause: "RFC 6585 section 5",
			steps: []step{sends(getSite + "GET /a/1 HTTP/1.1\r\nHost: a.example\r\n" + strings.Repeat("z:\r\n", 256) + "\r\n" + smuggled), gets(200), last(431)},
			site:  []string{seenSite}},
	)
}

// nominatedCases are fields that Connection names: a proxy that removed them would change
// what the next server believes (RFC 9110 section 7.6.1; "hop-by-hop header abuse").
func nominatedCases() []desyncCase {
	var cases []desyncCase
	for _, field := range []string{
		"Connection: Host",
		"Connection: close, X-Forwarded-For",
		"Connection: x-forwarded-host",
		"Connection: X-Forwarded-Proto, close",
		"Connection: close,Content-Length",
		"Connection: close ,\ttransfer-encoding",
		"Connection: Authorization",
		"Connection: ,, Cookie ,,",
		"Connection: Forwarded",
		"Connection: close\r\nConnection: cookie",
		"Connection: keep-alive\r\nX-Kept: 1\r\nconnection: AUTHORIZATION",
	} {
		request := head("POST /a/1 HTTP/1.1", "Host: a.example", field, "Cookie: c=d", "Authorization: Basic YTpi",
			"X-Forwarded-For: 192.0.2.1", "Content-Length: 5") + "hello" + smuggled
		name := strings.ReplaceAll(field, "\r\n", "; ")
		const clause = "RFC 9110 section 7.6.1"
		cases = append(cases,
			desyncCase{name: name, clause: clause, steps: []step{sends(request), last(400)}},
			desyncCase{name: name + ", second", clause: clause,
				steps: []step{sends(getSite), gets(200), sends(request), last(400)},
				site:  []string{seenSite}},
		)
	}
	return cases
}

// requestCases are heads that reach the server of their route, and what of them does.
func requestCases() []desyncCase {
	get := func(lines ...string) step {
		return sends(head(append([]string{"GET /a/1 HTTP/1.1", "Host: a.example"}, lines...)...) + behind)
	}
	answer := last(200, "GET /a/1")
	// Caddy wraps the body, so that net/http reads it before it sends the refusal.
	refusing100 := []string{"go", "nginx", "haproxy", "node"}
	return []desyncCase{
		{name: "GET", clause: "RFC 9112 section 9.6",
			steps:  []step{get("X-Kept: 1"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"Connection": "close", "X-Kept": "1"}},
		{name: "byte for byte", closes: true, clause: "a head that needs no change is not changed",
			steps: []step{sends("GET /a/1?x=%2f&y HTTP/1.1\r\nhOST:a.example\r\nx-Kept:  1 \t\r\nconnection:close\r\n\r\n" + behind), last(200)},
			a:     []string{"GET /a/1?x=%2f&y a.example"},
			flow:  exactly("GET /a/1?x=%2f&y HTTP/1.1\r\nhOST:a.example\r\nx-Kept:  1 \t\r\nconnection:close\r\n\r\n")},
		{name: "HEAD", clause: "RFC 9110 section 9.3.2: a response without content",
			steps: []step{sends(head("HEAD /a/1 HTTP/1.1", "Host: a.example") + behind), lastHead(200)},
			a:     []string{"HEAD /a/1 a.example"}},
		{name: "keep-alive", clause: "RFC 9112 section 9.3",
			steps:  []step{get("Connection: keep-alive", "Keep-Alive: timeout=5"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"Connection": "close", "Keep-Alive": ""}},
		{name: "HTTP/1.0", closes: true, clause: "RFC 9112 section 9.3",
			steps: []step{sends(head("GET /a/1 HTTP/1.0", "Host: a.example") + behind), last(200, "GET /a/1")},
			a:     []string{seenA1}},
		{name: "HTTP/1.0 keep-alive", closes: true, clause: "RFC 9112 appendix C.2.2",
			steps: []step{sends(head("GET /a/1 HTTP/1.0", "Host: a.example", "Connection: keep-alive") + behind), last(200, "GET /a/1")},
			a:     []string{seenA1}},
		{name: "Proxy-Connection", clause: "RFC 9112 appendix C.2.2",
			steps:  []step{get("Proxy-Connection: keep-alive"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"Proxy-Connection": "", "Connection": "close"}},
		{name: "TE trailers", clause: "RFC 9110 section 10.1.4: a hop-by-hop field",
			steps:  []step{get("TE: trailers", "Connection: TE"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"TE": "", "Connection": "close"}},
		{name: "nominated field", clause: "RFC 9110 section 7.6.1",
			steps:  []step{get("Connection: keep-alive, X-Internal", "X-Internal: 1", "X-Kept: 1", "x-internal: 2"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"X-Internal": "", "X-Kept": "1", "Connection": "close"}},
		{name: "nominated field before its Connection", clause: "RFC 9110 section 7.6.1",
			steps:  []step{get("X-Internal: 1", "X-Kept: 1", "connection:\tx-internal ,"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"X-Internal": "", "X-Kept": "1", "Connection": "close"}},
		{name: "two Connection fields", closes: true, clause: "RFC 9110 section 5.3",
			steps:  []step{get("Connection: close", "X-Internal: 1", "X-Kept: 1", "Connection: X-Internal"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"X-Internal": "", "X-Kept": "1", "Connection": "close"}},
		{name: "alias of X-Forwarded-For", clause: "CGI names do not tell an underscore from a hyphen",
			steps:  []step{get("X_Forwarded_For: 192.0.2.1", "X_Forwarded-For: 192.0.2.1", "x.forwarded.for: 192.0.2.1", "X-Kept: 1"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"X_Forwarded_For": "", "X_Forwarded-For": "", "X.Forwarded.For": "", "X-Forwarded-For": "", "X-Kept": "1"}},
		{name: "alias of X-Forwarded-For with other characters", clause: "some CGI names do not tell them from a hyphen",
			steps:  []step{get("X!Forwarded!For: 192.0.2.1", "X-Forwarded~For: 192.0.2.1", "X-Kept: 1"), answer},
			a:      []string{seenA1},
			fields: map[string]string{"X!Forwarded!For": "", "X-Forwarded~For": "", "X-Forwarded-For": "", "X-Kept": "1"}},
		{name: "alias of Content-Length", clause: "CGI names do not tell an underscore from a hyphen",
			steps:  []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content_Length: 0", "Content-Length: 5") + "hello" + behind), last(200, "POST /a/1")},
			a:      []string{seenPost},
			fields: map[string]string{"Content_Length": ""}},
		{name: "alias of Transfer-Encoding", clause: "CGI names do not tell an underscore from a hyphen",
			steps:  []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer_Encoding: chunked", "Content-Length: 5") + "hello" + behind), last(200, "POST /a/1")},
			a:      []string{seenPost},
			fields: map[string]string{"Transfer_Encoding": "", "Transfer-Encoding": ""}},
		{name: "absolute form", clause: "RFC 9112 section 3.2.2",
			steps: []step{sends(head("GET http://a.example/a/1 HTTP/1.1", "Host: a.example") + behind), last(200)},
			a:     []string{seenA1}, flow: exactly(head("GET /a/1 HTTP/1.1", "Host: a.example", "Connection: close"))},
		{name: "absolute form, Host without the default port", clause: "RFC 9112 section 3.2.2: the target's authority is the Host",
			steps: []step{sends(head("GET http://a.example:80/a/1 HTTP/1.1", "Host: a.example") + behind), last(200, "GET /a/1")},
			a:     []string{"GET /a/1 a.example:80"}},
		{name: "absolute form, Host with the default port", clause: "RFC 9112 section 3.2.2",
			steps: []step{sends(head("GET http://a.example/a/1?x HTTP/1.1", "Host: a.example:80") + behind), last(200, "GET /a/1?x")},
			a:     []string{"GET /a/1?x a.example"}},
		{name: "absolute form without a path", clause: "RFC 9112 section 3.2.1",
			steps: []step{sends(head("GET http://b.example HTTP/1.1", "Host: b.example") + behind), last(200, "GET /")},
			b:     []string{"GET / b.example"}},
		{name: "absolute form on HTTP/1.0 without Host", closes: true, clause: "RFC 9112 section 3.2.2: the host is not lost",
			steps: []step{sends(head("GET http://b.example/1 HTTP/1.0") + behind), last(200, "GET /1")},
			b:     []string{"GET /1 b.example"}},
		{name: "Host with a port", clause: "RFC 9110 section 7.2",
			steps: []step{sends(head("GET /a/1 HTTP/1.1", "Host: a.example:8080") + behind), last(200)},
			a:     []string{"GET /a/1 a.example:8080"}},
		{name: "escaped path", clause: "RFC 3986 section 6.2.2: matched decoded, sent as it came",
			steps: []step{sends(head("GET /%61/1 HTTP/1.1", "Host: a.example") + behind), last(200)},
			a:     []string{"GET /%61/1 a.example"}},
		{name: "escaped line end in the path", clause: "response splitting",
			steps: []step{sends(head("GET /a/%0d%0aX:y HTTP/1.1", "Host: a.example") + behind), last(200, "GET /a/%0d%0aX:y")},
			a:     []string{"GET /a/%0d%0aX:y a.example"}},
		{name: "client's end after a request", clause: "RFC 9112 section 9.6: it still gets the response",
			steps: []step{sends(getA1), halfCloses, answer},
			a:     []string{seenA1}},
		{name: "Expect honoured", clause: "RFC 9110 section 10.1.1",
			steps: []step{
				sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5", "Expect: 100-continue")),
				gets(100), sends("hello" + behind), last(200, "POST /a/1"),
			},
			a: []string{seenPost}},
		{name: "Expect refused", closes: true, clause: "RFC 9110 section 10.1.1: the body may never come", on: refusing100,
			steps: []step{
				sends(head("POST /a/refuse HTTP/1.1", "Host: a.example", "Content-Length: 5", "Expect: 100-continue")),
				last(401),
			},
			a: []string{"POST /a/refuse a.example"}},
		{name: "Expect refused, and a request instead of the body", clause: "RFC 9110 section 10.1.1", on: refusing100,
			steps: []step{
				sends(head("POST /a/refuse HTTP/1.1", "Host: a.example", "Content-Length: 500", "Expect: 100-continue")),
				gets(401), sends(smuggled), over,
			},
			a: []string{"POST /a/refuse a.example"}},
		{name: "413 in mid-upload", closes: true, clause: "RFC 9112 section 9.6: no reset may destroy the response",
			on: []string{"go", "nginx"},
			steps: []step{
				sends(head("POST /a/limited HTTP/1.1", "Host: a.example", "Content-Length: 1048576") + strings.Repeat("x", 64<<10)),
				last(413),
			}},
		{name: "413 in mid-upload, Caddy", once: true, clause: "RFC 9112 section 9.6: on a connection that it keeps, Caddy reads on before it answers",
			on: []string{"caddy"},
			steps: []step{
				sends(head("POST /a/limited HTTP/1.1", "Host: a.example", "Content-Length: 1048576") + strings.Repeat("x", 64<<10)),
				last(413),
			}},
	}
}

// brokenChunkCases are chunked bodies whose framing parsers read differently, or that end
// in trailers which change the framing or the routing for a server that merges them.
func brokenChunkCases() []desyncCase {
	const end = "\r\n0\r\n\r\n"
	var cases []desyncCase
	for _, b := range []struct{ name, clause, body string }{
		{"chunk size 0x5", "RFC 9112 section 7.1", "0x5\r\nhello" + end},
		{"chunk size +5", "RFC 9112 section 7.1", "+5\r\nhello" + end},
		{"chunk size -5", "RFC 9112 section 7.1", "-5\r\nhello" + end},
		{"chunk size with underscore", "RFC 9112 section 7.1", "0_5\r\nhello" + end},
		{"chunk size g", "RFC 9112 section 7.1", "g\r\nhello" + end},
		{"chunk size empty", "RFC 9112 section 7.1", "\r\nhello" + end},
		{"chunk size missing before an extension", "RFC 9112 section 7.1", ";a=b\r\nhello" + end},
		{"chunk size of 17 digits", "RFC 9112 section 7.1: overflow", "00000000000000005\r\nhello" + end},
		{"chunk size 2^64+5", "RFC 9112 section 7.1: overflow", "10000000000000005\r\nhello" + end},
		{"chunk size 2^64-1", "RFC 9112 section 7.1: overflow", "ffffffffffffffff\r\nhello" + end},
		{"chunk size 2^63", "RFC 9112 section 7.1: overflow", "8000000000000000\r\nhello" + end},
		{"space before the chunk size", "RFC 9112 section 7.1", " 5\r\nhello" + end},
		{"space after the chunk size", "RFC 9112 section 7.1", "5 \r\nhello" + end},
		{"tab after the chunk size", "RFC 9112 section 7.1", "5\t\r\nhello" + end},
		{"NUL after the chunk size", "RFC 9112 section 7.1", "5\x00\r\nhello" + end},
		{"bare LF after the chunk size", "RFC 9112 section 2.2", "5\nhello" + end},
		{"bare CR after the chunk size", "RFC 9112 section 2.2", "5\rhello" + end},
		{"bare LF in a chunk extension", "TERM.EXT", "5;a\nhello" + end},
		{"bare LF within a chunk extension", "EXT.TERM", "5;a\nb\r\nhello" + end},
		{"bare CR in a chunk extension", "RFC 9112 section 7.1.1", "5;a\rb\r\nhello" + end},
		{"NUL in a chunk extension", "RFC 9112 section 7.1.1", "5;a=\x00\r\nhello" + end},
		{"chunk extension of 64 KiB", "RFC 9112 section 7.1.1: a recipient ought to limit them", "5;" + strings.Repeat("a", 64<<10) + "\r\nhello" + end},
		{"no CRLF after chunk data", "RFC 9112 section 7.1", "5\r\nhello0\r\n\r\n"},
		{"bare LF after chunk data", "TERM.SPILL", "5\r\nhello\n0\r\n\r\n"},
		{"bare CR after chunk data", "RFC 9112 section 7.1", "5\r\nhello\r0\r\n\r\n"},
		{"two bytes instead of CRLF", "SPILL.TERM", "5\r\nhelloXX0\r\n\r\n"},
		{"chunk data longer than its size", "RFC 9112 section 7.1", "5\r\nhello world" + end},
		{"bare LF after the last chunk", "RFC 9112 section 2.2", "5\r\nhello\r\n0\n\r\n"},
		{"bare LF as the empty line after the trailers", "RFC 9112 section 2.2", "5\r\nhello\r\n0\r\n\n"},
		{"trailer Host", "RFC 9110 section 6.5.1", "5\r\nhello\r\n0\r\nHost: b.example\r\n\r\n"},
		{"trailer Content-Length", "RFC 9110 section 6.5.1", "5\r\nhello\r\n0\r\ncontent-length: 50\r\n\r\n"},
		{"trailer Transfer-Encoding", "RFC 9110 section 6.5.1", "5\r\nhello\r\n0\r\nX-Sum: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"trailer with obs-fold", "RFC 9112 section 5.2", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n 2\r\n\r\n"},
		{"trailer with a space before its colon", "RFC 9112 section 5.1", "5\r\nhello\r\n0\r\nX-Sum : 1\r\n\r\n"},
		{"trailer with bare LF", "RFC 9112 section 2.2", "5\r\nhello\r\n0\r\nX-Sum: 1\n\r\n"},
		{"trailer without a colon", "RFC 9112 section 5", "5\r\nhello\r\n0\r\n" + smuggled},
	} {
		cases = append(cases,
			desyncCase{name: b.name, clause: b.clause,
				steps: []step{sends(chunkedPost + b.body + smuggled), last(400)},
				flow:  resets},
			desyncCase{name: b.name + ", second", clause: b.clause,
				steps: []step{sends(getSite), gets(200), sends(chunkedPost + b.body + smuggled), last(400)},
				site:  []string{seenSite},
				flow:  resets},
			// The HTTP server must not find a request after a body of which it may know the end
			// from a parser with other rules.
			desyncCase{name: b.name + ", site", clause: b.clause,
				steps: []step{sends(chunkedSite + b.body + smuggled), refused(400)}},
		)
	}
	return append(cases,
		desyncCase{name: "client's end in a chunk", clause: "RFC 9112 section 8",
			steps: []step{sends(chunkedPost + "5\r\nhel"), reaches("hel"), halfCloses, refused(400)},
			flow:  resets},
		desyncCase{name: "client's end before the last chunk", clause: "RFC 9112 section 8",
			steps: []step{sends(chunkedPost + "5\r\nhello\r\n"), reaches("hello\r\n"), halfCloses, refused(400)},
			flow:  resets},
		desyncCase{name: "client's end in a body with a length", clause: "RFC 9112 section 8",
			steps: []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 50") + "hello"), reaches("hello"), halfCloses, refused(400)},
			flow:  resets},
		desyncCase{name: "client leaves in a chunk", clause: "RFC 9112 section 8",
			steps: []step{sends(chunkedPost + "5\r\nhel"), reaches("hel"), leaves},
			flow:  resets},
		desyncCase{name: "client leaves in a body with a length", clause: "RFC 9112 section 8",
			steps: []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 50") + "hello"), reaches("hello"), leaves},
			flow:  resets},
	)
}

// bodyCases are bodies with sound framing: they arrive whole, and what follows them does
// not.
func bodyCases() []desyncCase {
	large := strings.Repeat("0123456789abcdef", 16<<10)
	var cases []desyncCase
	for _, b := range []struct{ name, clause, request, seen string }{
		{"GET whose body is a request", "RFC 9110 section 9.3.1: a body of GET has no meaning, but a length",
			head("GET /a/1 HTTP/1.1", "Host: a.example", smuggledLength) + smuggled, "GET /a/1 a.example " + smuggled},
		{"GET whose chunks are a request", "RFC 9110 section 9.3.1",
			head("GET /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + smuggledChunk + "0\r\n\r\n", "GET /a/1 a.example " + smuggled},
		{"POST whose body is the end of chunks", "CL.TE",
			head("POST /a/1 HTTP/1.1", "Host: a.example", fmt.Sprintf("Content-Length: %d", 5+len(smuggled))) + "0\r\n\r\n" + smuggled, "POST /a/1 a.example 0\r\n\r\n" + smuggled},
		{"Content-Length", "RFC 9112 section 6.2",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5") + "hello", seenPost},
		{"Content-Length with leading zeros", "RFC 9110 section 8.6",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 0005") + "hello", seenPost},
		{"Content-Length with spaces around", "RFC 9110 section 5.5",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length:   5 ") + "hello", seenPost},
		{"Content-Length 0", "CL.0",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 0"), "POST /a/1 a.example"},
		{"POST without a length", "RFC 9112 section 6.3: no body",
			head("POST /a/1 HTTP/1.1", "Host: a.example"), "POST /a/1 a.example"},
		{"chunks", "RFC 9112 section 7.1",
			chunkedPost + "2\r\nhe\r\n003\r\nllo\r\n000\r\n\r\n", seenPost},
		{"Chunked", "RFC 9112 section 7: codings are case-insensitive",
			head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding:Chunked ") + "5\r\nhello\r\n0\r\n\r\n", seenPost},
		{"chunk extension", "RFC 9112 section 7.1.1",
			chunkedPost + "5;a=b;c\r\nhello\r\n0;d=e\r\n\r\n", seenPost},
		{"quoted chunk extension", "RFC 9112 section 7.1.1",
			chunkedPost + "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", seenPost},
		{"trailer", "RFC 9112 section 7.1.2",
			chunkedPost + "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", seenPost},
		{"no chunks", "RFC 9112 section 7.1",
			chunkedPost + "0\r\n\r\n", "POST /a/1 a.example"},
		{"chunks of 16 KiB", "RFC 9112 section 7.1",
			chunkedPost + strings.Repeat("4000\r\n"+large[:16<<10]+"\r\n", 2) + "0\r\n\r\n", "POST /a/1 a.example " + large[:32<<10]},
	} {
		method, _, _ := strings.Cut(b.request, " ")
		cases = append(cases,
			desyncCase{name: b.name, clause: b.clause,
				steps: []step{sends(b.request + behind), last(200, method+" /a/1")},
				a:     []string{b.seen}},
			desyncCase{name: b.name + ", second", clause: b.clause,
				steps: []step{sends(getSite), gets(200), sends(b.request + behind), last(200, method+" /a/1")},
				a:     []string{b.seen}, site: []string{seenSite}},
		)
	}
	return append(cases,
		desyncCase{name: "body of 256 KiB", clause: "RFC 9112 section 6.2", on: []string{"go", "caddy", "nginx", "node"},
			steps: []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 262144") + large + behind), last(200, "POST /a/1")},
			a:     []string{"POST /a/1 a.example " + large}},
		desyncCase{name: "tab before chunked", clause: "RFC 9110 section 5.5: legal, but nginx refuses it", on: []string{"go", "caddy", "haproxy", "node"},
			steps: []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding:\tchunked") + "5\r\nhello\r\n0\r\n\r\n" + behind), last(200, "POST /a/1")},
			a:     []string{seenPost}},
		desyncCase{name: "tab before chunked, nginx", once: true, clause: "what a server refuses, nobody sees", on: []string{"nginx"},
			steps: []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding:\tchunked") + "5\r\nhello\r\n0\r\n\r\n" + behind), last(501)}},
		desyncCase{name: "body after a pause", clause: "the head alone is no complete request",
			steps: []step{
				sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5")), reaches("\r\n\r\n"),
				sends("he"), reaches("he"), sends("llo" + behind), last(200, "POST /a/1"),
			},
			a: []string{seenPost}},
		desyncCase{name: "chunks after a pause", clause: "RFC 9112 section 7.1",
			steps: []step{
				sends(chunkedPost), reaches("\r\n\r\n"),
				sends("5\r\nhe"), reaches("he"), sends("llo\r\n0\r\n\r\n" + behind), last(200, "POST /a/1"),
			},
			a: []string{seenPost}},
	)
}

// lenientCases are requests that inspect takes with lenient alone, and that a server may
// read differently: they reach it as all servers read them. What Go's server refuses is
// refused all the same.
func lenientCases() []desyncCase {
	up := head("POST /a/1 HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked", "Connection: close")
	var cases []desyncCase
	for _, b := range []struct{ name, clause, body, up string }{
		{"space after the chunk size", "RFC 9112 section 7.1", "5 \r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
		{"padding in all sizes", "RFC 9112 section 7.1", "2 \t\r\nhe\r\n003     \r\nllo\r\n0\t\r\nX-Sum: 1\r\n\r\n", "2\r\nhe\r\n003\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{"spaces in a chunk extension", "RFC 9112 section 7.1.1", "5; a = b \r\nhello\r\n0;\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
		{"NUL in a chunk extension", "RFC 9112 section 7.1.1", "5;a=\x00\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
		{"line end in quotation marks", "RFC 9112 section 7.1.1: to some the extension goes on", "5;a=\"\r\nhello\r\n0;\"\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
		{"chunk extension of strict form", "RFC 9112 section 7.1.1: any recipient may remove it", "5;a=b\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
	} {
		cases = append(cases,
			desyncCase{name: b.name, clause: b.clause,
				steps: []step{sends(chunkedPost + b.body + behind), last(200, "POST /a/1")},
				a:     []string{seenPost}, flow: exactly(up + b.up)},
			desyncCase{name: b.name + ", second", clause: b.clause,
				steps: []step{sends(chunkedSite + b.body + chunkedPost + b.body + behind), gets(200, "POST /site/1"), last(200, "POST /a/1")},
				a:     []string{seenPost}, site: []string{"POST /site/1 a.example hello"}, flow: exactly(up + b.up)},
			desyncCase{name: b.name + ", after a pause", clause: b.clause,
				steps: []step{sends(chunkedPost), reaches("\r\n\r\n"), sends(b.body + behind), last(200, "POST /a/1")},
				a:     []string{seenPost}, flow: exactly(up + b.up)},
		)
	}
	for _, c := range brokenChunkCases() {
		switch name, _, _ := strings.Cut(c.name, ","); name {
		case "space after the chunk size", "tab after the chunk size", "NUL in a chunk extension":
			continue // accepted
		}
		c.on = []string{"go"} // what does not reach the server does not depend on it
		cases = append(cases, c)
	}
	post := head("POST /site/1 HTTP/1.1", "Host: a.example", "Content-Length: 5") + "hello"
	seenPostSite := []string{"POST /site/1 a.example hello"}
	return append(cases,
		desyncCase{name: "CR LF after POST", clause: "RFC 9112 section 2.2",
			steps: []step{sends(post + "\r\n" + getSite), gets(200, "POST /site/1"), gets(200, "GET /site/1")},
			site:  append(seenPostSite, seenSite)},
		desyncCase{name: "CR LF after POST, then relay", clause: "RFC 9112 section 2.2: the server of the next request does not get it",
			steps: []step{sends(post + "\r\n" + getA1 + behind), gets(200, "POST /site/1"), last(200, "GET /a/1")},
			a:     []string{seenA1}, site: seenPostSite, flow: exactly(head("GET /a/1 HTTP/1.1", "Host: a.example", "Connection: close"))},
		desyncCase{name: "CR LF after chunks, then relay", clause: "RFC 9112 section 2.2",
			steps: []step{sends(chunkedSite + "5 \r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n\r\n" + getA1 + behind), gets(200, "POST /site/1"), last(200, "GET /a/1")},
			a:     []string{seenA1}, site: seenPostSite},
		desyncCase{name: "CR LF after POST, and the next request after the response", clause: "RFC 9112 section 2.2",
			steps: []step{sends(post + "\r\n"), gets(200, "POST /site/1"), sends(getA1), last(200, "GET /a/1")},
			a:     []string{seenA1}, site: seenPostSite},
		desyncCase{name: "CR LF after a POST to relay", clause: "RFC 9112 section 2.2: it is no part of the request",
			steps: []step{sends(chunkedPost + "5\r\nhello\r\n0\r\n\r\n\r\n" + behind), last(200, "POST /a/1")},
			a:     []string{seenPost}, flow: exactly(up + "5\r\nhello\r\n0\r\n\r\n")},
		desyncCase{name: "five bytes CR and LF after POST", clause: "Go's server skips four",
			steps: []step{sends(post + "\r\n\r\n\n" + getA1), gets(200, "POST /site/1"), last(400)},
			site:  seenPostSite},
		desyncCase{name: "CR LF after GET", clause: "Go's server skips none",
			steps: []step{sends(getSite + "\r\n" + getA1), gets(200, "GET /site/1"), last(400)},
			site:  []string{seenSite}},
	)
}

// keptLenientCases are line ends after a request to relay, where that keeps connections: old
// clients send them, and they go nowhere.
func keptLenientCases() []desyncCase {
	const clause = "RFC 9112 section 2.2: a line end after the body is ignored"
	post := head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5") + "hello"
	var cases []desyncCase
	for _, second := range []struct {
		name, bytes string
		answer      step
		a, b, site  []string
	}{
		{"the same relay", getA1, last(200, "GET /a/1"), []string{seenA1}, nil, nil},
		{"another relay", head("GET /b/1 HTTP/1.1", "Host: a.example"), last(200, "GET /b/1"), nil, []string{"GET /b/1 a.example"}, nil},
		{"the site", getSite, last(200, "GET /site/1"), nil, nil, []string{seenSite}},
	} {
		a := append([]string{seenPost}, second.a...)
		cases = append(cases,
			desyncCase{name: "CR LF after POST, then " + second.name + ", pipelined", clause: clause,
				steps: []step{sends(post + "\r\n" + second.bytes + behind), gets(200, "POST /a/1"), second.answer}, a: a, b: second.b, site: second.site},
			desyncCase{name: "CR LF after POST, and then " + second.name, clause: clause,
				steps: []step{sends(post + "\r\n"), gets(200, "POST /a/1"), sends(second.bytes + behind), second.answer}, a: a, b: second.b, site: second.site},
			desyncCase{name: "CR LF after the response to POST, then " + second.name, clause: clause,
				steps: []step{sends(post), gets(200, "POST /a/1"), sends("\r\n"), sends(second.bytes + behind), second.answer}, a: a, b: second.b, site: second.site},
		)
	}
	return append(cases,
		desyncCase{name: "five bytes CR and LF after a POST to relay", clause: "Go's server skips four",
			steps: []step{sends(post + "\r\n\r\n\n" + getA1), gets(200, "POST /a/1"), last(400)}, a: []string{seenPost}},
		desyncCase{name: "CR LF after a GET to relay", clause: "Go's server skips none",
			steps: []step{sends(getA1 + "\r\n" + getA1), gets(200, "GET /a/1"), last(400)}, a: []string{seenA1}},
		desyncCase{name: "CR LF after POST, and the client's end", clause: clause,
			steps: []step{sends(post), gets(200, "POST /a/1"), sends("\r\n"), halfCloses, over}, a: []string{seenPost}},
	)
}

// responds makes a raw server that reads a request, sends bytes and leaves the connection
// open.
func responds(data string) func(*rawConn) {
	return func(c *rawConn) {
		if c.request() {
			c.say(data)
			c.drain()
		}
	}
}

// respondsAndEnds makes a raw server that reads a request, sends bytes and ends the
// connection.
func respondsAndEnds(data string) func(*rawConn) {
	return func(c *rawConn) {
		if c.request() {
			c.say(data)
			c.finish()
		}
	}
}

// responseCases are responses with sound framing, from servers that do not end the
// connection as they were asked to, or do more than that.
func responseCases() []desyncCase {
	hello := head("HTTP/1.1 200 OK", "Content-Length: 5") + "hello"
	get, seen := sends(getA1+behind), []string{seenA1}
	return []desyncCase{
		{name: "ignores close", clause: "RFC 9112 section 9.6: the response ends at its own framing",
			raw: responds(hello), steps: []step{get, last(200, "hello")}, a: seen},
		{name: "says keep-alive", clause: "RFC 9112 section 9.3",
			raw:   responds(head("HTTP/1.1 200 OK", "Connection: keep-alive", "Keep-Alive: timeout=60", "Content-Length: 5") + "hello"),
			steps: []step{get, last(200, "hello")}, a: seen},
		{name: "second response in one packet", clause: "response queue poisoning",
			raw: responds(hello + unsolicited), steps: []step{get, last(200, "hello")}, a: seen},
		{name: "second response after the client's end", clause: "response queue poisoning",
			raw: func(c *rawConn) {
				if c.request() {
					c.say(hello)
					c.drain()
					c.say(unsolicited)
				}
			},
			steps: []step{get, last(200, "hello")}, a: seen},
		{name: "chunked, and a second response", clause: "RFC 9112 section 7.1",
			raw:   responds(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n" + unsolicited),
			steps: []step{get, last(200, "hello")}, a: seen},
		{name: "padded chunk sizes, and a second response", clause: "RFC 9112 section 7.1: as some servers send them, and strictly framed on the way down",
			raw:   responds(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5 \r\nhello\r\n0  \t\r\nX-Sum: 1\r\n\r\n" + unsolicited),
			steps: []step{get, reads(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Connection: close") + "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), ends()},
			a:     seen},
		{name: "chunk extensions of no form, and a second response", clause: "RFC 9112 section 7.1.1: to a client that honours quotation marks the chunk would begin elsewhere",
			raw:   responds(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5; a=\"\r\nhello\r\n0;\x00\r\n\r\n" + unsolicited),
			steps: []step{get, reads(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Connection: close") + "5\r\nhello\r\n0\r\n\r\n"), ends()},
			a:     seen},
		{name: "empty, and a second response", clause: "RFC 9112 section 6.2",
			raw:   responds(head("HTTP/1.1 200 OK", "Content-Length: 0") + unsolicited),
			steps: []step{get, last(200, "")}, a: seen},
		{name: "until close", closes: true, clause: "RFC 9112 section 6.3: the content ends with the connection",
			raw:   respondsAndEnds(head("HTTP/1.1 200 OK", "X-Kept: 1") + "hello"),
			steps: []step{get, last(200, "hello")}, a: seen},
		{name: "HTTP/1.0 until close", closes: true, clause: "RFC 9112 section 6.3",
			raw:   respondsAndEnds(head("HTTP/1.0 200 OK") + "hello"),
			steps: []step{get, last(200, "hello")}, a: seen},
		{name: "HTTP/1.0 with a length", clause: "RFC 9112 section 9.3",
			raw:   responds(head("HTTP/1.0 200 OK", "Content-Length: 5") + "hello" + unsolicited),
			steps: []step{get, last(200, "hello")}, a: seen},
		{name: "two spaces in the status line", clause: "RFC 9112 section 4: as some devices send it, and one space on the way down",
			raw:   responds(head("HTTP/1.0  401 Unauthorized", "Content-Length: 5") + "hello" + unsolicited),
			steps: []step{get, reads(head("HTTP/1.0 401 Unauthorized", "Content-Length: 5", "Connection: close") + "hello"), ends()}, a: seen},
		{name: "status line without a reason", clause: "RFC 9112 section 4: the space before it is due",
			raw:   responds(head("HTTP/1.1 200", "Content-Length: 5") + "hello"),
			steps: []step{get, reads(head("HTTP/1.1 200 ", "Content-Length: 5", "Connection: close") + "hello"), ends()}, a: seen},
		{name: "folded field of a response", clause: "RFC 9112 section 5.2: one line on the way down",
			raw:   responds(head("HTTP/1.1 200 OK", "X-Kept: a", "\tb", " Content-Length: 50", "Content-Length: 5") + "hello" + unsolicited),
			steps: []step{get, reads(head("HTTP/1.1 200 OK", "X-Kept: a b Content-Length: 50", "Content-Length: 5", "Connection: close") + "hello"), ends()}, a: seen},
		{name: "204 with a length", clause: "RFC 9110 section 8.6: to some clients that is a body",
			raw:   responds(head("HTTP/1.1 204 No Content", "Content-Length: 8", "X-Kept: 1") + "smuggled"),
			steps: []step{get, reads(head("HTTP/1.1 204 No Content", "X-Kept: 1", "Connection: close")), ends()}, a: seen},
		{name: "204, chunked", clause: "RFC 9112 section 6.1",
			raw:   responds(head("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked") + "0\r\n\r\n" + unsolicited),
			steps: []step{get, reads(head("HTTP/1.1 204 No Content", "Connection: close")), ends()}, a: seen},
		{name: "103 with a length, on the way down", clause: "RFC 9110 section 8.6",
			raw:   responds(head("HTTP/1.1 103 Early Hints", "Content-Length: 5", "Link: </x>") + head("HTTP/1.1 102 Processing", "Transfer-Encoding: chunked") + hello),
			steps: []step{get, reads(head("HTTP/1.1 103 Early Hints", "Link: </x>") + head("HTTP/1.1 102 Processing")), last(200, "hello")}, a: seen},
		{name: "304 keeps its length", clause: "RFC 9110 section 8.6",
			raw:   responds(head("HTTP/1.1 304 Not Modified", "Content-Length: 8")),
			steps: []step{get, reads(head("HTTP/1.1 304 Not Modified", "Content-Length: 8", "Connection: close")), ends()}, a: seen},
		{name: "204 with a body", clause: "RFC 9112 section 6.3: it has none",
			raw:   responds(head("HTTP/1.1 204 No Content", "Content-Length: 8") + "smuggled"),
			steps: []step{get, last(204, "")}, a: seen},
		{name: "204 and a second response", clause: "RFC 9112 section 6.3",
			raw:   responds(head("HTTP/1.1 204 No Content") + unsolicited),
			steps: []step{get, last(204, "")}, a: seen},
		{name: "304 with a length", clause: "RFC 9110 section 15.4.5: the length is another response's",
			raw:   responds(head("HTTP/1.1 304 Not Modified", "Content-Length: 8")),
			steps: []step{get, last(304, "")}, a: seen},
		{name: "304 with a body", clause: "RFC 9112 section 6.3",
			raw:   responds(head("HTTP/1.1 304 Not Modified", "Content-Length: 8") + "smuggled"),
			steps: []step{get, last(304, "")}, a: seen},
		{name: "HEAD with a length", clause: "RFC 9110 section 9.3.2",
			raw:   responds(head("HTTP/1.1 200 OK", "Content-Length: 5")),
			steps: []step{sends(head("HEAD /a/1 HTTP/1.1", "Host: a.example") + behind), lastHead(200)}, a: []string{"HEAD /a/1 a.example"}},
		{name: "HEAD, chunked", clause: "RFC 9110 section 9.3.2",
			raw:   responds(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")),
			steps: []step{sends(head("HEAD /a/1 HTTP/1.1", "Host: a.example") + behind), lastHead(200)}, a: []string{"HEAD /a/1 a.example"}},
		{name: "HEAD with a body", clause: "a body that the client would take for the next response",
			raw:   responds(head("HTTP/1.1 200 OK", fmt.Sprintf("Content-Length: %d", len(unsolicited))) + unsolicited),
			steps: []step{sends(head("HEAD /a/1 HTTP/1.1", "Host: a.example") + behind), lastHead(200)}, a: []string{"HEAD /a/1 a.example"}},
		{name: "100 that nobody expects", clause: "RFC 9110 section 15.2",
			raw:   responds(head("HTTP/1.1 100 Continue") + hello),
			steps: []step{get, gets(100), last(200, "hello")}, a: seen},
		{name: "100 and 103", clause: "RFC 8297: the final response comes after them",
			raw:   responds(head("HTTP/1.1 100 Continue") + head("HTTP/1.1 103 Early Hints", "Link: </x>; rel=preload") + hello + unsolicited),
			steps: []step{get, gets(100), gets(103), last(200, "hello")}, a: seen},
		{name: "103 with a length", clause: "RFC 9112 section 6.3: 1xx has no body",
			raw:   responds(head("HTTP/1.1 103 Early Hints", "Content-Length: 5") + hello),
			steps: []step{get, gets(103), last(200, "hello")}, a: seen},
		{name: "100 to HTTP/1.0", closes: true, clause: "RFC 9110 section 15.2: an HTTP/1.0 client does not know it",
			raw:   responds(head("HTTP/1.1 100 Continue") + hello),
			steps: []step{sends(head("GET /a/1 HTTP/1.0", "Host: a.example")), last(200, "hello")}, a: seen},
		{name: "body ignored", once: true, clause: "CL.0: to the server the body is a request",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(hello + unsolicited)
					c.discard()
				}
			},
			steps: []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", smuggledLength) + smuggled), last(200, "hello")}},
		{name: "answer before the body", closes: true, clause: "RFC 9112 section 9.5: it need not be read to the end",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(hello)
					c.discard()
				}
			},
			steps: []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 50") + "hello"), last(200, "hello")}},
		{name: "413 in mid-upload, and the end", closes: true, clause: "RFC 9112 section 9.6",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(head("HTTP/1.1 413 Content Too Large", "Connection: close", "Content-Length: 9") + "too large")
					c.finish()
				}
			},
			steps: []step{
				sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 1048576") + strings.Repeat("x", 64<<10)),
				last(413, "too large"),
			}},
		{name: "417", clause: "RFC 9110 section 10.1.1",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(head("HTTP/1.1 417 Expectation Failed", "Content-Length: 0"))
					c.discard()
				}
			},
			steps: []step{sends(head("POST /a/1 HTTP/1.1", "Host: a.example", smuggledLength, "Expect: 100-continue")), gets(417), sends(smuggled), over}},
	}
}

// badResponseCases are responses whose framing is broken or in doubt.
func badResponseCases() []desyncCase {
	get, seen := sends(getA1+behind), []string{seenA1}
	var cases []desyncCase
	for _, r := range []struct {
		name, clause, response string
		result                 step
	}{
		{"no response", "RFC 9110 section 15.6.3", "", last(502)},
		{"half a head", "RFC 9110 section 15.6.3", "HTTP/1.1 200 OK\r\nContent-Le", last(502)},
		{"not HTTP", "RFC 9112 section 4", "SSH-2.0-OpenSSH_9.6\r\n", last(502)},
		{"version 2", "RFC 9112 section 2.3", head("HTTP/2 200 OK", "Content-Length: 0"), last(502)},
		{"status of two digits", "RFC 9112 section 4", head("HTTP/1.1 20 OK", "Content-Length: 0"), last(502)},
		{"status not a number", "RFC 9112 section 4", head("HTTP/1.1 2x0 OK", "Content-Length: 0"), last(502)},
		{"Content-Length +5", "RFC 9112 section 6.3", head("HTTP/1.1 200 OK", "Content-Length: +5") + "hello", last(502)},
		{"different Content-Lengths", "RFC 9112 section 6.3", head("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 50") + "hello" + unsolicited, last(502)},
		{"equal Content-Lengths", "RFC 9112 section 6.3: one of them, or an error", head("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 5") + "hello" + unsolicited, settles(200, 502)},
		{"length and chunked", "RFC 9112 section 6.3: chunked, without the length, or an error", head("HTTP/1.1 200 OK", fmt.Sprintf("Content-Length: %d", 5+len(unsolicited)), "Transfer-Encoding: chunked") + "0\r\n\r\n" + unsolicited, settles(200, 502)},
		{"chunked and length", "RFC 9112 section 6.3", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Content-Length: 5") + "5\r\nhello\r\n0\r\n\r\n" + unsolicited, settles(200, 502)},
		{"folded Content-Length", "RFC 9112 section 5.2", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n 0\r\n\r\nhello" + unsolicited, last(502)},
		{"folded Transfer-Encoding", "RFC 9112 section 5.2", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n ,x\r\n\r\n0\r\n\r\n" + unsolicited, last(502)},
		{"space before the first field", "RFC 9112 section 2.2", "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 5\r\n\r\nhello" + unsolicited, last(502)},
		{"tab in the status line", "RFC 9112 section 4", head("HTTP/1.1\t200 OK", "Content-Length: 0"), last(502)},
		{"space before the colon", "RFC 9112 section 5.1: removed, or an error", head("HTTP/1.1 200 OK", "Content-Length : 5") + "hello", settles(200, 502)},
		{"NUL in a value", "RFC 9110 section 5.5", head("HTTP/1.1 200 OK", "X-Kept: a\x00", "Content-Length: 5") + "hello", settles(200, 502)},
		{"body cut short", "RFC 9112 section 8", head("HTTP/1.1 200 OK", "Content-Length: 50") + "hello", cut(200)},
		{"chunks cut short", "RFC 9112 section 8", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5\r\nhello\r\n", cut(200)},
		{"chunk cut short", "RFC 9112 section 8", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5\r\nhel", cut(200)},
		{"bad chunk", "RFC 9112 section 7.1", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5\r\nhello\r\nzz\r\n", cut(200)},
		{"space before a chunk size", "RFC 9112 section 7.1", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5\r\nhello\r\n 0\r\n\r\n", cut(200)},
		{"bare LF after a padded chunk size", "RFC 9112 section 2.2", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0 \n\r\n", cut(200)},
		{"no CRLF after chunk data", "RFC 9112 section 7.1", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5\r\nhelloXX0\r\n\r\n", cut(200)},
	} {
		cases = append(cases, desyncCase{name: "response: " + r.name, clause: r.clause, raw: respondsAndEnds(r.response), steps: []step{get, r.result}, a: seen})
	}
	return cases
}

// upgradeCases are upgrades that come off, and requests that ask for one in vain: what
// the client has sent early is held until the server has agreed.
func upgradeCases() []desyncCase {
	tunnel := func(more ...step) []step {
		return append([]step{sends(handshake("/ws/1") + frame), gets(101), reads(frame)}, more...)
	}
	seen, agree := []string{seenShake}, switching(wsKey)
	return []desyncCase{
		{name: "WebSocket with early frames", clause: "RFC 9110 section 7.8", on: upgrading(),
			steps: tunnel(sends(frame+frame), reads(frame+frame), halfCloses, over), a: seen, flow: holdsBack},
		{name: "WebSocket with what looks like a request", clause: "RFC 6455 section 4: what follows the handshake is no HTTP", on: upgrading(),
			steps: tunnel(sends(smuggled), reads(smuggled), halfCloses, over), a: seen, flow: holdsBack},
		{name: "WebSocket, second", clause: "RFC 9110 section 7.8", on: upgrading(),
			steps: append([]step{sends(getSite), gets(200)}, tunnel(halfCloses, over)...), a: seen, site: []string{seenSite}, flow: holdsBack},
		{name: "WebSocket, pipelined", clause: "RFC 9110 section 7.8", on: upgrading(),
			steps: []step{sends(getSite + handshake("/ws/1") + frame), gets(200), gets(101), reads(frame), halfCloses, over},
			a:     seen, site: []string{seenSite}, flow: holdsBack},
		{name: "fields of the handshake", clause: "RFC 6455 section 4.1", on: upgrading(),
			steps:  tunnel(halfCloses, over),
			a:      seen,
			fields: map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"}},
		{name: "list of protocols", clause: "RFC 9110 section 7.8: h2c is not passed on", on: upgrading(),
			steps: []step{
				sends(head("GET /ws/1 HTTP/1.1", "Host: a.example", "Connection: Upgrade, HTTP2-Settings", "Upgrade: websocket, h2c", "HTTP2-Settings: AAMAAABk",
					"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+wsKey)),
				gets(101), sends(frame), reads(frame), halfCloses, over,
			},
			a:      seen,
			fields: map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "HTTP2-Settings": ""}},
		{name: "server's frames with its 101", clause: "RFC 9110 section 7.8",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(agree + "\x81\x02hi")
					c.echo()
				}
			},
			steps: []step{sends(handshake("/ws/1") + frame), gets(101), reads("\x81\x02hi" + frame), halfCloses, over}, a: seen, flow: holdsBack},
		{name: "101 after 100", clause: "RFC 9110 section 7.8",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(head("HTTP/1.1 100 Continue") + agree)
					c.echo()
				}
			},
			steps: []step{sends(handshake("/ws/1") + frame), gets(100), gets(101), reads(frame), halfCloses, over}, a: seen},
		{name: "101 with a length and folded fields", clause: "RFC 9110 section 8.6: the tunnel begins after the head",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(strings.NewReplacer("HTTP/1.1 101", "HTTP/1.1  101", "\r\n\r\n", "\r\nContent-Length: 5\r\nX-Kept: a\r\n b\r\n\r\n").Replace(agree))
					c.echo()
				}
			},
			steps: []step{sends(handshake("/ws/1") + frame), reads(strings.Replace(agree, "\r\n\r\n", "\r\nX-Kept: a b\r\n\r\n", 1) + frame), halfCloses, over}, a: seen, flow: holdsBack},
		{name: "upgrade refused", closes: true, clause: "RFC 9110 section 7.8: what was sent early is no frame then, and no request", on: []string{"nginx", "haproxy"},
			steps: []step{sends(handshake("/ws/1") + frame + behind), last(200, "GET /ws/1")}, a: seen, flow: onlyHead},
		{name: "upgrade refused with 403", closes: true, clause: "RFC 9110 section 7.8",
			raw:   responds(head("HTTP/1.1 403 Forbidden", "Content-Length: 0") + unsolicited),
			steps: []step{sends(handshake("/ws/1") + behind), last(403, "")}, a: seen, flow: onlyHead},
		{name: "upgrade refused with 426", closes: true, clause: "RFC 9110 section 15.5.22",
			raw:   responds(head("HTTP/1.1 426 Upgrade Required", "Upgrade: websocket", "Connection: Upgrade", "Content-Length: 0") + unsolicited),
			steps: []step{sends(handshake("/ws/1") + behind), last(426, "")}, a: seen, flow: onlyHead},
		{name: "upgrade to h2c", once: true, clause: "RFC 9113 section 3.1: h2c smuggling",
			steps:  []step{sends(head("GET /a/1 HTTP/1.1", "Host: a.example", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk") + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + behind), last(200, "GET /a/1")},
			a:      []string{seenA1},
			fields: map[string]string{"Upgrade": "", "HTTP2-Settings": "", "Connection": "close"}},
		{name: "upgrade to h2c, settings not nominated", clause: "h2c smuggling: servers take it without",
			steps:  []step{sends(head("GET /a/1 HTTP/1.1", "Host: a.example", "Connection: Upgrade", "Upgrade: H2C", "HTTP2-Settings: AAMAAABk") + behind), last(200, "GET /a/1")},
			a:      []string{seenA1},
			fields: map[string]string{"Upgrade": "", "HTTP2-Settings": "", "Connection": "close"}},
		{name: "upgrade to a protocol that is not allowed", clause: "RFC 9110 section 7.8",
			steps:  []step{sends(head("GET /a/1 HTTP/1.1", "Host: a.example", "Connection: Upgrade", "Upgrade: foo/2") + behind), last(200, "GET /a/1")},
			a:      []string{seenA1},
			fields: map[string]string{"Upgrade": "", "Connection": "close"}},
		{name: "upgrade with content", clause: "RFC 9110 section 7.8: a server may take the content for the other protocol",
			steps: []step{sends(strings.Replace(handshake("/a/1", "Content-Length: 5"), "GET", "POST", 1) + "hello" + behind), last(200, "POST /a/1")},
			a:     []string{seenPost}, fields: map[string]string{"Upgrade": "", "Connection": "close"}},
		{name: "upgrade with chunks", clause: "RFC 9110 section 7.8",
			steps: []step{sends(strings.Replace(handshake("/a/1", "Transfer-Encoding: chunked"), "GET", "POST", 1) + "5\r\nhello\r\n0\r\n\r\n" + behind), last(200, "POST /a/1")},
			a:     []string{seenPost}, fields: map[string]string{"Upgrade": "", "Connection": "close"}},
		{name: "WebSocket of a Remote Desktop gateway", clause: "RFC 9110 section 7.8: an upgrade is not tied to a method",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(agree)
					c.echo()
				}
			},
			steps: []step{sends(strings.Replace(handshake("/ws/1"), "GET", "RDG_OUT_DATA", 1) + frame), gets(101), reads(frame), sends(smuggled), reads(smuggled), halfCloses, over},
			a:     []string{"RDG_OUT_DATA /ws/1 a.example"}, flow: holdsBack},
		{name: "Upgrade that Connection does not name", clause: "RFC 9110 section 7.8",
			steps:  []step{sends(head("GET /a/1 HTTP/1.1", "Host: a.example", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+wsKey) + behind), last(200, "GET /a/1")},
			a:      []string{seenA1},
			fields: map[string]string{"Upgrade": "", "Connection": "close"}},
		{name: "upgrade on HTTP/1.0", closes: true, clause: "RFC 9110 section 7.8: ignored there",
			steps:  []step{sends(strings.Replace(handshake("/a/1"), "HTTP/1.1", "HTTP/1.0", 1) + behind), last(200, "GET /a/1")},
			a:      []string{seenA1},
			fields: map[string]string{"Upgrade": "", "Connection": "close"}},
		{name: "upgrade in the site", clause: "a hijacked connection is the site's for good",
			steps: []step{sends(handshake("/site/1")), gets(101), sends(getA1 + smuggled), reads(getA1 + smuggled), halfCloses, over},
			site:  []string{seenSite}},
		{name: "upgrade in the site, pipelined", clause: "a hijacked connection is the site's for good",
			steps: []step{sends(handshake("/site/1") + getA1), gets(101), reads(getA1), halfCloses, over},
			site:  []string{seenSite}},
		{name: "upgrade in the site, refused", clause: "what follows a request that was not upgraded is a request",
			steps: []step{
				sends(head("GET /site/1 HTTP/1.1", "Host: a.example", "Connection: Upgrade", "Upgrade: foo") + getA1),
				gets(200, "GET /site/1"), last(200, "GET /a/1"),
			},
			a: []string{seenA1}, site: []string{seenSite}},
	}
}

// badUpgradeCases are 101s that open no tunnel: to the client, or to streamprox, the
// bytes that follow would be another protocol than to the server.
func badUpgradeCases() []desyncCase {
	var cases []desyncCase
	for _, b := range []struct{ name, clause, response string }{
		{"wrong Accept", "RFC 6455 section 4.2.2", switching("x3JJHMbDL1EzLkh9GBhXDw==")},
		{"no Accept", "RFC 6455 section 4.1", head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket")},
		{"two Accepts", "RFC 6455 section 11.3.3", strings.Replace(switching(wsKey), "\r\n\r\n", "\r\nSec-WebSocket-Accept: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n", 1)},
		{"another protocol", "RFC 9110 section 7.8", strings.Replace(switching(wsKey), "Upgrade: websocket", "Upgrade: foo", 1)},
		{"h2c", "h2c smuggling", strings.Replace(switching(wsKey), "Upgrade: websocket", "Upgrade: h2c", 1)},
		{"no Upgrade", "RFC 9110 section 15.2.2", strings.Replace(switching(wsKey), "Upgrade: websocket\r\n", "", 1)},
		{"no Connection", "RFC 6455 section 4.1", strings.Replace(switching(wsKey), "Connection: Upgrade\r\n", "", 1)},
	} {
		cases = append(cases, desyncCase{name: "101: " + b.name, clause: b.clause,
			raw:   responds(b.response + unsolicited),
			steps: []step{sends(handshake("/ws/1") + frame + smuggled), last(502)},
			a:     []string{seenShake},
			flow: func(t *testing.T, f *flow) {
				t.Helper()
				onlyHead(t, f)
				resets(t, f)
			}})
	}
	agree := responds(switching(wsKey) + unsolicited)
	return append(cases,
		desyncCase{name: "101 that nobody asked for", clause: "RFC 9110 section 7.8: a fake upgrade opens a tunnel past the router",
			raw: agree, steps: []step{sends(getA1 + smuggled), last(502)}, a: []string{seenA1}, flow: resets},
		desyncCase{name: "101 to h2c", clause: "h2c smuggling",
			raw: responds(head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: h2c")),
			steps: []step{
				sends(head("GET /a/1 HTTP/1.1", "Host: a.example", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk") + smuggled),
				last(502),
			},
			a: []string{seenA1}, flow: resets},
		desyncCase{name: "101 to a request without a key", clause: "RFC 6455 section 4.2.2: there is no right Accept",
			raw: agree,
			steps: []step{
				sends(head("GET /ws/1 HTTP/1.1", "Host: a.example", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13") + smuggled),
				refused(502),
			},
			flow: nil, a: []string{seenShake}},
		desyncCase{name: "101 to HTTP/1.0", clause: "RFC 9110 section 7.8",
			raw: agree, steps: []step{sends(strings.Replace(handshake("/ws/1"), "HTTP/1.1", "HTTP/1.0", 1) + smuggled), last(502)}, a: []string{seenShake}, flow: resets},
		desyncCase{name: "101 to another method, wrong Accept", clause: "RFC 6455 section 4.2.2",
			raw:   responds(switching("x3JJHMbDL1EzLkh9GBhXDw==") + unsolicited),
			steps: []step{sends(strings.Replace(handshake("/ws/1"), "GET", "RDG_OUT_DATA", 1) + frame + smuggled), last(502)},
			a:     []string{"RDG_OUT_DATA /ws/1 a.example"},
			flow: func(t *testing.T, f *flow) {
				t.Helper()
				onlyHead(t, f)
				resets(t, f)
			}},
		desyncCase{name: "101 after content", clause: "RFC 9110 section 7.8: nothing was asked for",
			raw:   agree,
			steps: []step{sends(strings.Replace(handshake("/ws/1", "Content-Length: 5"), "GET", "POST", 1) + "hello" + smuggled), last(502)},
			a:     []string{"POST /ws/1 a.example hello"}, flow: resets},
		desyncCase{name: "101 before the body", clause: "RFC 9110 section 7.8: not before the request has come to its end",
			raw: func(c *rawConn) {
				if _, ok := c.head(); ok {
					c.say(switching(wsKey))
					c.discard()
				}
			},
			steps: []step{sends(strings.Replace(handshake("/ws/1", smuggledLength), "GET", "POST", 1)), last(502)}, flow: resets},
	)
}

// pinnedToOneCases are second requests on a connection of which relay has the first:
// nobody sees them.
func pinnedToOneCases() []desyncCase {
	var cases []desyncCase
	for _, second := range []struct{ name, bytes string }{
		{"the same route", head("GET /a/smuggled HTTP/1.1", "Host: a.example")},
		{"another relay", head("GET /b/smuggled HTTP/1.1", "Host: a.example")},
		{"the site", head("GET /site/smuggled HTTP/1.1", "Host: a.example")},
		{"a refused path", smuggled},
		{"another Host", head("GET /smuggled HTTP/1.1", "Host: b.example")},
		{"a CONNECT", head("CONNECT smuggled:443 HTTP/1.1", "Host: smuggled:443")},
		{"the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{"half a head", "GET /a/smuggled HTTP/1.1\r\nHo"},
		{"no HTTP", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"},
		{"100 KiB of requests", strings.Repeat(smuggled, 2000)},
	} {
		const clause = "one request per connection"
		cases = append(cases,
			desyncCase{name: "relay, then " + second.name + ", pipelined, unseen", clause: clause, once: true,
				steps: []step{sends(getA1 + second.bytes), last(200, "GET /a/1")}, a: []string{seenA1}},
			desyncCase{name: "relay, then " + second.name + ", after the response", clause: clause, once: true,
				steps: []step{sends(getA1), gets(200, "GET /a/1"), sends(second.bytes), over}, a: []string{seenA1}},
		)
	}
	return append(cases,
		desyncCase{name: "relay to another server", once: true, clause: "one request per connection",
			steps: []step{sends(head("GET /b/1 HTTP/1.1", "Host: a.example") + getA1), last(200, "GET /b/1")}, b: []string{"GET /b/1 a.example"}},
		desyncCase{name: "relay by Host, then another Host", once: true, clause: "RFC 9110 section 7.4: misdirected requests",
			steps: []step{sends(head("GET /1 HTTP/1.1", "Host: b.example") + getSite), last(200, "GET /1")}, b: []string{"GET /1 b.example"}},
		desyncCase{name: "relay by Host with a port", once: true, clause: "RFC 9110 section 7.2",
			steps: []step{sends(head("GET /1 HTTP/1.1", "Host: B.example:80") + getSite), last(200, "GET /1")}, b: []string{"GET /1 B.example:80"}},
	)
}

// keptCases are second requests on a connection of which relay has had the first: each goes
// where it belongs.
func keptCases() []desyncCase {
	getB := head("GET /b/1 HTTP/1.1", "Host: a.example")
	seenB := []string{"GET /b/1 a.example"}
	twice := []string{seenA1, seenA1}
	var cases []desyncCase
	for _, second := range []struct {
		name, bytes string
		answer      step
		a, b, site  []string
		on          []string
	}{
		{"the same route", getA1 + behind, last(200, "GET /a/1"), twice, nil, nil, nil},
		{"another relay", getB + behind, last(200, "GET /b/1"), []string{seenA1}, seenB, nil, nil},
		{"another Host", head("GET /1 HTTP/1.1", "Host: b.example") + behind, last(200, "GET /1"), []string{seenA1}, []string{"GET /1 b.example"}, nil, nil},
		{"the site", getSite + behind, last(200, "GET /site/1"), []string{seenA1}, nil, []string{seenSite}, nil},
		{"a body that is a request", head("POST /a/1 HTTP/1.1", "Host: a.example", smuggledLength) + smuggled + behind, last(200, "POST /a/1"),
			[]string{seenA1, "POST /a/1 a.example " + smuggled}, nil, nil, nil},
		{"a CONNECT", head("CONNECT smuggled:443 HTTP/1.1", "Host: smuggled:443") + smuggled, last(501), []string{seenA1}, nil, nil, nil},
		{"the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled, last(400), []string{seenA1}, nil, nil, nil},
		{"no HTTP", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", refused(400), []string{seenA1}, nil, nil, nil},
		{"a malformed head", "GET /a/1 HTTP/1.1\r\nHost : a.example\r\n\r\n" + smuggled, last(400), []string{seenA1}, nil, nil, nil},
		{"an empty line", "\r\n" + getA1, last(400), []string{seenA1}, nil, nil, nil},
		{"CL.TE", head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n" + smuggled, last(400), []string{seenA1}, nil, nil, nil},
		{"broken chunks", chunkedPost + "5\r\nhelloXX0\r\n\r\n" + smuggled, last(400), []string{seenA1}, nil, nil, nil},
		{"the last one by its own word", head("GET /a/2 HTTP/1.1", "Host: a.example", "Connection: close") + smuggled, lastOfAll(200, "GET /a/2"), []string{seenA1, "GET /a/2 a.example"}, nil, nil, nil},
		{"one on HTTP/1.0", head("GET /a/2 HTTP/1.0", "Host: a.example") + smuggled, lastOfAll(200, "GET /a/2"), []string{seenA1, "GET /a/2 a.example"}, nil, nil, nil},
		{"HEAD", head("HEAD /a/1 HTTP/1.1", "Host: a.example") + behind, lastHead(200), []string{seenA1, "HEAD /a/1 a.example"}, nil, nil, nil},
	} {
		const clause = "RFC 9112 section 9.3.2: each response belongs to its request"
		cases = append(cases,
			desyncCase{name: "relay, then " + second.name + ", pipelined", clause: clause, on: second.on,
				steps: []step{sends(getA1 + second.bytes), gets(200, "GET /a/1"), second.answer}, a: second.a, b: second.b, site: second.site},
			desyncCase{name: "relay, then " + second.name, clause: clause, on: second.on,
				steps: []step{sends(getA1), gets(200, "GET /a/1"), sends(second.bytes), second.answer}, a: second.a, b: second.b, site: second.site},
			desyncCase{name: "relay, then " + second.name + ", cut in the head", clause: clause, on: second.on,
				steps: []step{sends(getA1 + second.bytes[:3]), gets(200, "GET /a/1"), sends(second.bytes[3:]), second.answer}, a: second.a, b: second.b, site: second.site},
		)
	}
	return append(cases,
		desyncCase{name: "relay, then half a head and the end", clause: "RFC 9112 section 8",
			steps: []step{sends(getA1), gets(200), sends(smuggled[:20]), halfCloses, over}, a: []string{seenA1}},
		desyncCase{name: "relay, then a WebSocket, pipelined", clause: "RFC 9110 section 7.8", on: upgrading(),
			steps: []step{sends(getA1 + handshake("/ws/1") + frame + smuggled), gets(200), gets(101), reads(frame + smuggled), halfCloses, over},
			a:     []string{seenA1, seenShake}},
	)
}

// lastOfAll reads a response that ends the connection.
func lastOfAll(status int, content string) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		c.closes = true
		last(status, content)(t, c)
	}
}

// reinspectCases are requests that follow one to the site: each goes where it belongs.
func reinspectCases() []desyncCase {
	a, site := []string{seenA1}, []string{seenSite}
	post := head("POST /site/1 HTTP/1.1", "Host: a.example", smuggledLength) + smuggled
	seenPostSite := "POST /site/1 a.example " + smuggled
	bothAnswers := []step{gets(200), last(200, "GET /a/1")}
	then := func(request string, more ...step) []step {
		return slices.Concat([]step{sends(request)}, more, bothAnswers)
	}
	return []desyncCase{
		{name: "site, then relay", clause: "RFC 9112 section 9.3.2: each response belongs to its request",
			steps: []step{sends(getSite), gets(200, "GET /site/1"), sends(getA1 + behind), last(200, "GET /a/1")}, a: a, site: site},
		{name: "site, then relay, pipelined", clause: "RFC 9112 section 9.3.2",
			steps: []step{sends(getSite + getA1 + behind), gets(200, "GET /site/1"), last(200, "GET /a/1")}, a: a, site: site},
		{name: "site, then relay, cut in the head", clause: "RFC 9112 section 9.3.2",
			steps: []step{sends(getSite + getA1[:10]), gets(200, "GET /site/1"), sends(getA1[10:] + behind), last(200, "GET /a/1")}, a: a, site: site},
		{name: "site, then relay, and the client's end", clause: "RFC 9112 section 9.6",
			steps: []step{sends(getSite + getA1), halfCloses, gets(200, "GET /site/1"), last(200, "GET /a/1")}, a: a, site: site},
		{name: "slow site, then relay", clause: "RFC 9112 section 9.3.2: the second waits for the first response",
			steps: []step{sends(head("GET /site/slow HTTP/1.1", "Host: a.example") + getA1), releases, gets(200, "GET /site/slow"), last(200, "GET /a/1")},
			a:     a, site: []string{"GET /site/slow a.example"}},
		{name: "slow site, then a malformed head", clause: "RFC 9112 section 9.3.2: it is answered in its turn",
			steps: []step{sends(head("GET /site/slow HTTP/1.1", "Host: a.example") + "GET /a/1 HTTP/1.1\r\n\r\n"), releases, gets(200, "GET /site/slow"), last(400)},
			site:  []string{"GET /site/slow a.example"}},
		{name: "site, site, then relay", clause: "RFC 9112 section 9.3",
			steps: []step{sends(getSite), gets(200), sends(head("GET /site/2 HTTP/1.1", "Host: a.example")), gets(200, "GET /site/2"), sends(getA1), last(200, "GET /a/1")},
			a:     a, site: []string{seenSite, "GET /site/2 a.example"}},
		{name: "site, site, then relay, pipelined", clause: "RFC 9112 section 9.3.2",
			steps: []step{sends(getSite + head("GET /site/2 HTTP/1.1", "Host: a.example") + getA1 + behind), gets(200, "GET /site/1"), gets(200, "GET /site/2"), last(200, "GET /a/1")},
			a:     a, site: []string{seenSite, "GET /site/2 a.example"}},
		{name: "site, then another relay", once: true, clause: "RFC 9112 section 9.3",
			steps: []step{sends(getSite + head("GET /b/1 HTTP/1.1", "Host: a.example") + getA1), gets(200), last(200, "GET /b/1")},
			b:     []string{"GET /b/1 a.example"}, site: site},
		{name: "site, then another Host", clause: "RFC 9110 section 7.4: routed by its own Host",
			steps: []step{sends(getSite), gets(200), sends(head("GET /1 HTTP/1.1", "Host: b.example") + behind), last(200, "GET /1")},
			b:     []string{"GET /1 b.example"}, site: site},
		{name: "site, then a refused path", clause: "the site refuses what its rules refuse",
			steps: []step{sends(getSite + head("GET /deny/1 HTTP/1.1", "Host: a.example") + getA1), gets(200), gets(403), last(200, "GET /a/1")},
			a:     a, site: []string{seenSite, "GET /deny/1 a.example"}},
		{name: "site with HEAD, then relay", clause: "RFC 9110 section 9.3.2",
			steps: []step{sends(head("HEAD /site/1 HTTP/1.1", "Host: a.example") + getA1), getsHead(200), last(200, "GET /a/1")},
			a:     a, site: []string{"HEAD /site/1 a.example"}},
		{name: "site with a body that is a request, then relay", clause: "RFC 9112 section 6.2",
			steps: then(post + getA1 + behind), a: a, site: []string{seenPostSite}},
		{name: "site with chunks that are a request, then relay", clause: "RFC 9112 section 7.1",
			steps: then(chunkedSite + fmt.Sprintf("%x;x=y\r\n%s\r\n", len(smuggled), smuggled) + "0\r\nX-Sum: 1\r\n\r\n" + getA1 + behind), a: a, site: []string{seenPostSite}},
		{name: "site with a body in pieces, then relay", clause: "RFC 9112 section 6.2",
			steps: then(post[:len(post)-30], sends(post[len(post)-30:]+getA1)), a: a, site: []string{seenPostSite}},
		{name: "site that ignores the body, then relay", clause: "CL.0: the rest of a body is no request",
			steps: then(head("POST /site/ignore HTTP/1.1", "Host: a.example", smuggledLength) + smuggled + getA1 + behind),
			a:     a, site: []string{"POST /site/ignore a.example"}},
		{name: "site that ignores the chunks, then relay", clause: "TE.0",
			steps: then(head("POST /site/ignore HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + smuggledChunk + "0\r\n\r\n" + getA1 + behind),
			a:     a, site: []string{"POST /site/ignore a.example"}},
		{name: "site that ignores a large body", clause: "net/http gives up the connection: what follows is no request",
			steps: []step{
				sends(head("POST /site/ignore HTTP/1.1", "Host: a.example", fmt.Sprintf("Content-Length: %d", 6000*len(smuggled))) + strings.Repeat(smuggled, 6000) + head("GET /a/smuggled HTTP/1.1", "Host: a.example")),
				gets(200), over,
			},
			site: []string{"POST /site/ignore a.example"}},
		{name: "site with Expect, then relay", clause: "RFC 9110 section 10.1.1",
			steps: []step{
				sends(head("POST /site/1 HTTP/1.1", "Host: a.example", smuggledLength, "Expect: 100-continue")),
				gets(100), sends(smuggled + getA1), gets(200, "POST /site/1"), last(200, "GET /a/1"),
			},
			a: a, site: []string{seenPostSite}},
		{name: "site that refuses what Expect announces, then relay", clause: "RFC 9110 section 10.1.1: a client may send the body without waiting, and it is no request",
			steps: []step{
				sends(head("POST /site/refuse HTTP/1.1", "Host: a.example", smuggledLength, "Expect: 100-continue") + smuggled + getA1),
				gets(401), last(200, "GET /a/1"),
			},
			a: a, site: []string{"POST /site/refuse a.example"}},
		{name: "site with Connection: close, then relay", clause: "RFC 9112 section 9.6: no request after it is processed",
			steps: []step{sends(head("GET /site/1 HTTP/1.1", "Host: a.example", "Connection: close") + head("GET /a/smuggled HTTP/1.1", "Host: a.example")), gets(200), over}, site: site},
		{name: "site with HTTP/1.0, then relay", clause: "RFC 9112 section 9.3: HTTP/1.0 does not persist",
			steps: []step{sends(head("GET /site/1 HTTP/1.0", "Host: a.example") + head("GET /a/smuggled HTTP/1.1", "Host: a.example")), gets(200), over}, site: site},
		{name: "site with HTTP/1.0 keep-alive, then relay", clause: "RFC 9112 appendix C.2.2",
			steps: then(head("GET /site/1 HTTP/1.0", "Host: a.example", "Connection: keep-alive") + getA1), a: a, site: site},
		{name: "site, then relay on HTTP/1.0", closes: true, clause: "RFC 9112 section 9.3",
			steps: then(getSite + head("GET /a/1 HTTP/1.0", "Host: a.example") + behind), a: a, site: site},
		{name: "site, then the client's end in the body", clause: "RFC 9112 section 8",
			steps: []step{sends(getSite), gets(200), sends(chunkedPost + "5\r\nhel"), reaches("hel"), halfCloses, refused(400)},
			site:  site, flow: resets},
		{name: "site, then half a head and the end", clause: "RFC 9112 section 8",
			steps: []step{sends(getSite), gets(200), sends(getA1[:20]), halfCloses, over}, site: site},
		{name: "the client's end in the site's body", clause: "RFC 9112 section 8",
			steps: []step{sends(head("POST /site/1 HTTP/1.1", "Host: a.example", "Content-Length: 500") + smuggled), halfCloses, refused(400)}},
	}
}
