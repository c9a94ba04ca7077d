package difftest

import (
	"math/rand/v2"
	"strings"
)

// Request is what a client sends.
type Request struct {
	Name string
	Head string
	Body string // in its framing
}

// Method returns the method of the head.
func (r Request) Method() string {
	method, _, _ := strings.Cut(r.Head, " ")
	return method
}

// NewRequest returns a request of the given line and fields, with the body that its
// fields announce.
func NewRequest(name, line string, fields ...string) Request {
	r := Request{Name: name, Head: line + "\r\n"}
	for _, field := range fields {
		r.Head += field + "\r\n"
		switch {
		case strings.EqualFold(field, "Transfer-Encoding: chunked"):
			r.Body = "5\r\nhello\r\n0\r\n\r\n"
		case field == "Content-Length: 5" && r.Body == "":
			r.Body = "hello"
		}
	}
	r.Head += "\r\n"
	return r
}

// Requests returns requests with a name each: the ordinary, and the cases in which two
// implementations are likely to differ.
func Requests() []Request {
	const host = "Host: example.com"
	get := func(name, target string, fields ...string) Request {
		return NewRequest(name, "GET "+target+" HTTP/1.1", append([]string{host}, fields...)...)
	}
	to := func(name, field string) Request { return NewRequest(name, "GET /chat HTTP/1.1", field) }

	return []Request{
		get("root", "/"),
		get("path", "/chat"),
		get("query", "/chat?a=1"),
		NewRequest("method POST", "POST /chat HTTP/1.1", host, "Content-Length: 5"),
		NewRequest("method HEAD", "HEAD /chat HTTP/1.1", host),
		NewRequest("method PUT", "PUT /chat HTTP/1.1", host, "Transfer-Encoding: chunked"),
		NewRequest("method in lower case", "foo /chat HTTP/1.1", host),
		NewRequest("method OPTIONS", "OPTIONS /chat HTTP/1.1", host),
		NewRequest("method PROPFIND", "PROPFIND / HTTP/1.1", host),
		NewRequest("method CONNECT", "CONNECT example.com:443 HTTP/1.1", "Host: example.com:443"),
		NewRequest("method of 31 bytes", strings.Repeat("M", 31)+" /chat HTTP/1.1", host),
		NewRequest("method of 32 bytes", strings.Repeat("M", 32)+" /chat HTTP/1.1", host),
		NewRequest("method of 33 bytes", strings.Repeat("M", 33)+" /chat HTTP/1.1", host),
		NewRequest("HTTP/1.0 with Host", "GET /chat HTTP/1.0", host),
		NewRequest("HTTP/1.0 without Host", "GET /chat HTTP/1.0"),
		NewRequest("HTTP/1.0 with empty Host", "GET /chat HTTP/1.0", "Host:"),
		NewRequest("absolute form", "GET http://example.com/chat?a=1 HTTP/1.1", host),
		NewRequest("absolute form in upper case", "GET HTTP://EXAMPLE.com/Chat HTTP/1.1", host),
		NewRequest("absolute form without a path", "GET http://example.com HTTP/1.1", host),
		NewRequest("absolute form with query, without a path", "GET http://example.com?a=1 HTTP/1.1", host),
		NewRequest("absolute form, HTTP/1.0", "GET http://b.example.com/ HTTP/1.0"),
		NewRequest("absolute form with port", "GET http://example.com:8080//chat HTTP/1.1", "Host: example.com:8080"),
		NewRequest("absolute form, https", "GET https://example.com/ HTTP/1.1", host),

		to("host in upper case", "Host: EXAMPLE.COM"),
		to("host with a dot at the end", "Host: example.com."),
		to("host with port", "Host: example.com:8080"),
		to("host with an empty port", "Host: example.com:"),
		to("host: subdomain", "Host: A.example.com"),
		to("host: two labels more", "Host: a.b.example.com"),
		to("host with a letter more", "Host: ab.example.com"),
		to("host: one label", "Host: localhost"),
		to("host: one label and a dot", "Host: localhost."),
		to("host: IPv4", "Host: 127.0.0.1:80"),
		to("host: IPv6", "Host: [::1]"),
		to("host: IPv6 with port", "Host: [::1]:8080"),
		to("host: IPv6 in upper case", "Host: [2001:DB8::1]:443"),
		to("host: IPv4 in IPv6", "Host: [::ffff:127.0.0.1]"),
		to("host with an underscore", "Host: _sip.example.com"),
		to("host in punycode", "Host: XN--bcher-kva.example"),
		to("host: Kelvin sign in the pattern", "Host: kelvin.example"),
		to("host: one of many", "Host: hOST77.example.org"),
		NewRequest("host: from a field", "GET /chat HTTP/1.1", "Host: one.example.net", "X-Tag: one"),
		to("host with two dots", "Host: example..com"),
		to("host: asterisk", "Host: *"),
		to("host: sub-delims", "Host: a!b.example.com"),

		get("path in upper case", "/CHAT"),
		get("path with a slash at the end", "/chat/"),
		get("path below", "/chat/room"),
		get("path: encoded letters", "/%63h%61t"),
		get("path: encoded slash", "/chat%2Froom"),
		get("path: encoded slash in lower case", "/foo%2fbar"),
		get("path: encoded slash and more", "/foo%2fbarbaz"),
		get("path: two encoded slashes", "/foo%2F%2Fbar"),
		get("path: encoded percent", "/%2563hat"),
		get("path: percent", "/100%25"),
		get("path: encoded at sign", "/foo%40bar"),
		get("path: at sign", "/foo@bar"),
		get("path: encoded asterisk", "/foo%2Abar"),
		get("path: asterisk", "/foo*bar"),
		get("path: brackets", "/foo[1]"),
		get("path: encoded brackets", "/foo%5B1%5D"),
		get("path: encoded question mark", "/chat%3Fa=1"),
		get("path: encoded space", "/foo%20bar"),
		get("path: plus", "/foo+bar"),
		get("path: semicolon", "/a;b"),
		get("path: encoded backslash", "/foo%5Cbar"),
		get("path: two slashes first", "//chat"),
		get("path: two slashes within", "/chat//room"),
		get("path: many slashes", "///chat////room//"),
		get("path: slashes only", "//"),
		get("path: two slashes and a name", "/a//xb"),
		get("path: two slashes, encoded slash", "//%2Fx"),
		get("path: glob", "/chbt"),
		get("path: glob, literally", "/ch[a-c]tter"),
		get("path: three parts", "/x/y/room"),
		get("path: well-known", "/.well-known/acme-challenge/x"),
		get("path: encoded dot", "/%2Ewell-known/x"),
		get("path: three dots", "/..."),
		get("path: dots before a name", "/..a/b"),
		get("path: dot at the end", "/a."),
		get("path: dot before a slash", "/a./"),
		get("path: hidden below", "/a/.b"),
		get("path: .php", "/index.php"),
		get("path: .PHP below", "/x.PHP/y"),
		get("path: beyond ASCII", "/caf%C3%A9"),
		get("path: beyond ASCII in upper case", "/CAF%C3%89"),
		get("path: Kelvin sign", "/%E2%84%AA"),
		get("path: dotted I", "/%C4%B0"),
		get("path: not UTF-8", "/%FF"),
		get("path: encoded brace", "/%7Bchat"),
		get("path: encoded brace at the end", "/chat%7D"),
		get("path: a placeholder", "/%7Bhttp.request.method%7D"),
		get("path: method", "/GET/x"),
		get("path: long", "/"+strings.Repeat("long/", 300)),
		get("path: dot segment", "/a/../chat"),
		get("path: encoded dot segment", "/a/%2e%2e/chat"),
		get("path: dot segment at the end", "/chat/."),

		get("query: empty", "/chat?"),
		get("query: ampersands", "/chat?&&"),
		get("query: no value", "/chat?a"),
		get("query: empty value", "/chat?a="),
		get("query: empty name", "/chat?=1"),
		get("query: repeated", "/chat?a=2&a=1"),
		get("query: two", "/chat?b=x&a=1"),
		get("query: other letter case", "/chat?A=1"),
		get("query: encoded", "/chat?%61=%31"),
		get("query: space", "/chat?a=x+y"),
		get("query: encoded space", "/chat?a=x%20y"),
		get("query: space in a name", "/chat?a+b=1"),
		get("query: encoded plus", "/chat?a=%2B"),
		get("query: encoded ampersand", "/chat?a=1%26b=2"),
		get("query: equals signs", "/chat?a=a=b"),
		get("query: semicolon", "/chat?a=1;b=2"),
		get("query: semicolon elsewhere", "/chat?a=1&b;c"),
		get("query: encoded semicolon", "/chat?a=1%3Bb"),
		get("query: bad encoding", "/chat?a=1&b=%zz"),
		get("query: cut encoding", "/chat?a=1&b=%2"),
		get("query: asterisk", "/chat?*=*"),
		get("query: asterisk as a value", "/chat?a=*"),
		get("query: brackets", "/chat?a[]=1"),
		get("query: encoded brackets", "/chat?a%5B%5D=1"),
		get("query: beyond ASCII", "/chat?a=%C3%A9"),
		get("query: raw beyond ASCII", "/chat?a=\xc3\xa9"),
		get("query: question mark", "/chat?a=1?b"),
		get("query: the host", "/chat?a=example.com"),
		get("query: named by a field", "/chat?one=1", "X-Tag: one"),
		get("query: 10000 parameters", "/chat?a=1"+strings.Repeat("&", 9_999)),
		get("query: more than 10000 parameters", "/chat?a=1"+strings.Repeat("&", 10_000)),

		get("field", "/chat", "X-Tag: one"),
		get("field: other value", "/chat", "X-Tag: two"),
		get("field: letter case of the name", "/chat", "x-TAG: one"),
		get("field: letter case of the value", "/chat", "X-Tag: One"),
		get("field: repeated", "/chat", "X-Tag: one", "X-Tag: two"),
		get("field: repeated, second matches", "/chat", "X-Tag: three", "x-tag: one"),
		get("field: list", "/chat", "X-Tag: one, two"),
		get("field: empty", "/chat", "X-Tag:"),
		get("field: space around", "/chat", "X-Tag:\t one \t"),
		get("field: prefix", "/chat", "X-Tag: one-more"),
		get("field: suffix", "/chat", "X-Tag: more-one"),
		get("field: asterisk", "/chat", "X-Tag: o*e"),
		get("field: beyond ASCII", "/chat", "X-Tag: caf\xc3\xa9"),
		get("field: not UTF-8", "/chat", "X-Tag: \xff"),
		get("field: method", "/chat", "X-Tag: GET"),
		get("field: another", "/chat", "X-Tag: one", "X-Other: x"),
		get("field: underscore", "/chat", "X_Tag: one"),
		get("field: dot", "/chat", "X.Tag: one"),
		get("field: underscore beside hyphen", "/chat", "X-Tag: one", "X_Tag: two"),
		get("field: underscore and hyphen", "/chat", "X-Tag_A: one"),
		get("field: Host with an underscore", "/chat", "Host_: other"),
		get("field: Content-Length 0", "/chat", "Content-Length: 0"),
		get("field: Content-Length", "/chat", "Content-Length: 5"),
		get("field: chunked", "/chat", "Transfer-Encoding: chunked"),
		get("field: Chunked", "/chat", "Transfer-Encoding: Chunked"),
		get("field: chunked with Trailer", "/chat", "Trailer: X-Sum", "Transfer-Encoding: chunked"),
		get("field: Trailer alone", "/chat", "Trailer: X-Sum"),
		get("field: Pragma", "/chat", "Pragma: no-cache"),
		get("field: Pragma in upper case", "/chat", "Pragma: No-Cache"),
		get("field: second Pragma", "/chat", "Pragma: x", "Pragma: no-cache"),
		get("field: Pragma and Cache-Control", "/chat", "Pragma: no-cache", "Cache-Control: max-age=0"),
		get("field: Cache-Control", "/chat", "Cache-Control: no-cache"),
		get("field: Connection close", "/chat", "Connection: close"),
		get("field: Expect", "/chat", "Expect: 100-continue", "Content-Length: 5"),
		get("field: cookies", "/chat", "Cookie: theme=dark; sid=abc", "Cookie: sid=xyz"),
		get("field: Forwarded", "/chat", "X-Forwarded-For: 10.1.2.3", "Forwarded: for=10.1.2.3"),
		get("grpc", "/chat", "Content-Type: application/grpc"),
		get("grpc with a suffix", "/chat", "content-type: application/grpc+proto"),
		get("grpc second", "/chat", "Content-Type: text/plain", "Content-Type: application/grpc"),
		get("websocket", "/chat/room", "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
	}
}

// A Generator makes requests of fragments that are hard to read alike. Its seed
// decides which.
type Generator struct{ *rand.Rand }

// NewGenerator returns a generator.
func NewGenerator(seed uint64) Generator { return Generator{rand.New(rand.NewPCG(seed, 0))} }

// Request returns the next request. Most of them are strict HTTP.
func (g Generator) Request() Request {
	method, version := "GET", "1.1"
	if g.IntN(3) == 0 {
		method = g.one(methods)
	}
	if g.IntN(6) == 0 {
		version = "1.0"
	}
	host := g.one(hosts)
	if g.IntN(24) == 0 {
		host = g.one(badHosts)
	}
	target := g.path() + g.query()
	if g.IntN(8) == 0 {
		target = g.one(schemes) + host + strings.TrimSuffix(target, "/")
	}
	if method == "CONNECT" {
		host = g.one(hosts) + ":443"
		target = host
	}
	var fields []string
	if version == "1.1" || g.IntN(2) == 0 {
		fields = append(fields, "Host: "+host)
	}
	for range g.IntN(4) {
		fields = append(fields, g.one(fieldLines))
	}
	if g.IntN(24) == 0 {
		fields = append(fields, g.one(badFieldLines))
	}
	g.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	return NewRequest("generated", method+" "+target+" HTTP/"+version, fields...)
}

func (g Generator) one(of []string) string { return of[g.IntN(len(of))] }

func (g Generator) path() string {
	var path strings.Builder
	for range 1 + g.IntN(3) {
		path.WriteString(g.one(pathParts))
	}
	if g.IntN(24) == 0 {
		path.WriteString(g.one(badPathParts))
	}
	return path.String()
}

func (g Generator) query() string {
	if g.IntN(2) == 0 {
		return ""
	}
	parts := make([]string, g.IntN(4))
	for i := range parts {
		parts[i] = g.one(queryParts)
	}
	return "?" + strings.Join(parts, "&")
}

// The fragments.
var (
	methods = []string{"POST", "HEAD", "OPTIONS", "PUT", "get", "PROPFIND", "CONNECT", "M-SEARCH", "X"}
	schemes = []string{"http://", "HTTP://", "https://"}

	hosts = []string{
		"example.com", "Example.COM", "example.com.", "example.com:8080", "example.com:", "b.example.com", "a.b.example.com",
		"one.example.com", "one.example.net", "host7.EXAMPLE.org", "host119.example.org", "localhost", "127.0.0.1", "127.0.0.1:80",
		"[::1]", "[::1]:8080", "[2001:db8::1]", "_sip.example.com", "xn--bcher-kva.example", "kelvin.example", "a..com", ".com", "com.",
		"*", "*.example.com", "EXAMPLE.COM:0", "a-b.c", "0",
	}
	badHosts  = []string{"a@example.com", "[::1", "a:b:c", "ex%61mple.com", "...", ".:80", ""}
	pathParts = []string{
		"/", "/", "//", "/chat", "/chat", "/CHAT", "/Ch%61t", "/%63hat", "/room", "/chat%2Froom", "/foo%2fbar", "/foo%2Fbar", "/foo%40bar",
		"/foo@bar", "/foo*bar", "/foo%2Abar", "/foo[1]", "/foo%5B1%5D", "/foo%20bar", "/foo+bar", "/a;b", "/a%3Bb", "/%25", "/100%25", "/%2563",
		"/.well-known", "/%2ewell-known", "/...", "/%2e%2e%2e", "/..a", "/a..", "/a.", "/.a", "/index.php", "/x.PHP", "/caf%C3%A9", "/CAF%C3%89",
		"/%E2%84%AA", "/%C4%B0", "/%FF", "/%C3", "/%7Bchat%7D", "/%7E", "/~", "/chbt", "/x", "%2F", "%2f%2F", "%5C", "a", "B", "%41", "*", "%2A",
		":", "|", "^",
	}
	badPathParts = []string{"/.", "/..", "/../", "/%2e", "/%2E%2e/x", "/%2F..", "/..;/", "%00", "%", "%4", "%zz", "#", "\"", "\\", "\xc3\xa9", "<"}
	queryParts   = []string{
		"a=1", "a=1", "a", "a=", "=1", "", "=", "a=2", "a=1&a=2", "A=1", "b=x", "%61=%31", "a=x+y", "a=x%20y", "a+b=1", "a=%2B", "a=+", "a=1%26b=2",
		"a=a=b", "a=1;b=2", ";", "a=1%3Bb", "b=%zz", "b=%2", "%", "*=*", "a=*", "a[]=1", "a%5B%5D=1", "a=%C3%A9", "a=\xc3\xa9", "a=1?b",
		"a=example.com", "one=1", "a=1*", "a=%E9", "a=/../", "a={x}", "%20=", "\xc3\xa9=",
	}
	fieldLines = []string{
		"X-Tag: one", "X-Tag: one", "X-Tag: two", "x-tag: One", "X-TAG:one", "X-Tag:", "X-Tag: *", "X-Tag: one, two", "X-Tag: one-more", "X-Tag: more-one",
		"X-Tag: caf\xc3\xa9", "X-Tag: \xff", "X-Tag:\t one \t", "X-Tag: GET", "X_Tag: one", "X.Tag: one", "X-Tag_A: one", "x_.tag: one", "_: x", "X-Other: x",
		"Pragma: no-cache", "pragma: No-Cache", "Pragma: x", "Cache-Control: no-cache", "Cache-Control: max-age=0", "Content-Length: 5", "Content-Length: 0",
		"Transfer-Encoding: chunked", "Trailer: X-Sum", "Content-Type: application/grpc", "content-type: application/grpc-web", "Content-Type: text/html",
		"Cookie: sid=abc; theme=dark", "Cookie: sid=xyz", "Connection: Upgrade", "Upgrade: websocket", "Connection: close", "Connection: keep-alive, X-Tag",
		"User-Agent: curl/8.0", "Accept: */*", "Expect: 100-continue", "X-Forwarded-For: 10.1.2.3", "TE: trailers", "Host_: other", "Host-: other",
	}
	badFieldLines = []string{"X-Tag : one", "X Tag: one", "Transfer-Encoding: gzip", "Content-Length: +5", "X-Tag: a\x00b", "Expect: else", "Host: other"}
)
