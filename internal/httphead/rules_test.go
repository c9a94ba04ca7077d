package httphead

import (
	"strings"
	"testing"
)

func line(target string) string { return "GET " + target + " HTTP/1.1\r\n" }

func field(f string) string { return start + f + "\r\n" }

func host(h string) string { return get + "Host: " + h + "\r\n" }

// accepted stands for a head that is valid so far: the test completes it.
var accepted *Error

var ruleTests = []struct {
	rule    string
	name    string
	in      string
	strict  *Error
	lenient *Error
}{
	// The request line.
	{"RFC 9112 3", "GET", line("/"), accepted, accepted},
	{"RFC 9112 3", "HTTP/1.0", "GET / HTTP/1.0\r\n", accepted, accepted},
	{"RFC 9112 3", "two spaces before the target", "GET  / HTTP/1.1\r\n", ErrTarget, ErrTarget},
	{"RFC 9112 3", "two spaces after the target", "GET /  HTTP/1.1\r\n", ErrPath, ErrTarget},
	{"RFC 9112 3", "space in the target", "GET /a b HTTP/1.1\r\n", ErrPath, ErrTarget},
	{"RFC 9112 3", "space after the version", "GET / HTTP/1.1 \r\n", ErrVersion, ErrVersion},
	{"RFC 9112 3", "two versions", "GET / HTTP/1.1 HTTP/1.1\r\n", ErrPath, ErrTarget},
	{"RFC 9112 2.2", "bare LF after the request line", "GET / HTTP/1.1\n", ErrBareLF, accepted},
	{"RFC 9112 2.3", "HTTP/1.2", "GET / HTTP/1.2\r\n", ErrVersion, ErrVersion},
	{"RFC 9112 2.3", "HTTP/0.9", "GET / HTTP/0.9\r\n", ErrVersion, ErrVersion},
	{"RFC 9112 2.3", "HTTP/2.0", "GET / HTTP/2.0\r\n", ErrVersion, ErrVersion},
	{"RFC 9112 2.3", "HTTP/1.10", "GET / HTTP/1.10\r\n", ErrVersion, ErrVersion},
	{"RFC 9112 2.3", "HTTP/1", "GET / HTTP/1\r\n", ErrVersion, ErrVersion},
	{"RFC 9112 2.3", "HTTP/01.1", "GET / HTTP/01.1\r\n", ErrVersion, ErrVersion},
	{"RFC 9110 9.1", "extension method", "X!#$%&'*+-.^_`|~9 / HTTP/1.1\r\n", accepted, accepted},
	{"RFC 9110 9.1", "get", "get / HTTP/1.1\r\n", ErrMethodCase, accepted},
	{"RFC 9110 9.1", "Post with a URL", "Post http://example.com/ HTTP/1.1\r\n", ErrMethodCase, accepted},
	{"RFC 9110 9.1", "unknown method in lower case", "purge / HTTP/1.1\r\n", accepted, accepted},

	// Forms of the target.
	{"RFC 9112 3.2.1", "origin-form, path bytes", line("/-._~!$&'()*+,;=:@|[]^%7E"), accepted, accepted},
	{"RFC 9112 3.2.1", "origin-form, query bytes", line("/?-._~!$&'()*+,;=:@/?|[]^{}`\\%zz%"), accepted, accepted},
	{"RFC 9112 3.2.1", "slashes", line("//a//"), accepted, accepted},
	{"RFC 9112 3.2.1", "encoded slash", line("/a%2Fb"), accepted, accepted},
	{"RFC 9112 3.2.1", "semicolon", line("/a;b=c/d"), accepted, accepted},
	{"RFC 9112 3.2.1", "no slash", line("a/b"), ErrTarget, ErrTarget},
	{"RFC 9112 3.2", "fragment", line("/a#b"), ErrPath, accepted},
	{"RFC 9112 3.2", "fragment after a query", line("/a?b#c"), ErrQuery, accepted},
	{"RFC 3986 3.3", "bytes above 7f in the path", line("/caf\xc3\xa9"), ErrPath, accepted},
	{"RFC 3986 3.4", "bytes above 7f in the query", line("/?caf\xc3\xa9"), ErrQuery, accepted},
	{"RFC 3986 3.3", "quotation mark in the path", line("/\""), ErrPath, accepted},
	{"RFC 3986 3.3", "angle bracket in the path", line("/<a>"), ErrPath, accepted},
	{"RFC 3986 3.3", "brace in the path", line("/{a}"), ErrPath, accepted},
	{"RFC 3986 3.3", "backtick in the path", line("/`"), ErrPath, accepted},
	{"RFC 3986 3.3", "backslash in the path", line("/a\\b"), ErrPath, accepted},
	{"RFC 3986 3.4", "quotation mark in the query", line("/?\""), ErrQuery, accepted},
	{"RFC 3986 3.4", "angle bracket in the query", line("/?a>b"), ErrQuery, accepted},
	{"RFC 3986 2.1", "percent sign alone", line("/a%"), ErrPath, ErrTarget},
	{"RFC 3986 2.1", "percent sign and one digit", line("/a%2"), ErrPath, ErrTarget},
	{"RFC 3986 2.1", "percent sign and no digits", line("/a%2g"), ErrPath, ErrTarget},
	{"RFC 3986 2.1", "percent sign, digits in the query", line("/a%2?f"), ErrPath, ErrTarget},
	{"RFC 9112 3.2.2", "absolute-form", "GET http://example.com/a HTTP/1.1\r\n", accepted, accepted},
	{"RFC 9112 3.2.2", "absolute-form, other scheme", "GET a+b-1.c://example.com HTTP/1.1\r\n", accepted, accepted},
	{"RFC 9112 3.2.2", "scheme alone", line("http:"), ErrTarget, accepted},
	{"RFC 9112 3.2.2", "no host", line("http:///a"), ErrAuthority, accepted},
	{"RFC 9112 3.2.2", "port alone", line("http://:80/a"), ErrAuthority, accepted},
	{"RFC 9112 3.2.2", "no scheme", line("://example.com/"), ErrTarget, ErrTarget},
	{"RFC 9112 3.2.2", "scheme that begins with a digit", line("1http://example.com/"), ErrTarget, ErrTarget},
	{"RFC 9112 3.2.2", "one slash", line("http:/example.com/"), ErrTarget, accepted},
	{"RFC 9112 3.2.2", "two ports", line("http://example.com:80:80/"), ErrAuthority, ErrTarget},
	{"RFC 9112 3.2.2", "port of letters", line("http://example.com:http/"), ErrAuthority, ErrTarget},
	{"RFC 9112 3.2.2", "dot segment", "GET http://example.com/a/.. HTTP/1.1\r\n", ErrDotSegment, accepted},
	{"RFC 9112 3.2.2", "backslash for a slash", line("http:\\\\example.com/"), ErrTarget, accepted},
	{"RFC 9112 3.2.2", "backslash in the authority", line("http://example.com\\@a/"), ErrUserinfo, ErrTarget},
	{"RFC 9110 4.2.4", "userinfo", line("http://user@example.com/"), ErrUserinfo, accepted},
	{"RFC 9110 4.2.4", "empty userinfo", line("http://@example.com/"), ErrUserinfo, accepted},
	{"RFC 9112 3.2.3", "CONNECT with a port", "CONNECT example.com:443 HTTP/1.1\r\n", accepted, accepted},
	{"RFC 9112 3.2.3", "CONNECT without a port", "CONNECT example.com HTTP/1.1\r\n", ErrAuthority, accepted},
	{"RFC 9112 3.2.3", "CONNECT with an empty port", "CONNECT example.com: HTTP/1.1\r\n", ErrAuthority, accepted},
	{"RFC 9112 3.2.3", "CONNECT with a path", "CONNECT / HTTP/1.1\r\n", ErrAuthority, accepted},
	{"RFC 9112 3.2.3", "CONNECT with a URL", "CONNECT http://example.com:443 HTTP/1.1\r\n", ErrAuthority, accepted},
	{"RFC 9112 3.2.3", "CONNECT with userinfo", "CONNECT a@example.com:443 HTTP/1.1\r\n", ErrUserinfo, accepted},
	{"RFC 9112 3.2.3", "GET with an authority", line("example.com:443"), ErrTarget, accepted}, // a scheme to net/url
	{"RFC 9112 3.2.4", "OPTIONS with an asterisk", "OPTIONS * HTTP/1.1\r\n", accepted, accepted},
	{"RFC 9112 3.2.4", "GET with an asterisk", line("*"), ErrTargetForm, accepted},
	{"RFC 9112 3.2.4", "two asterisks", "OPTIONS ** HTTP/1.1\r\n", ErrTarget, ErrTarget},

	// Dot segments.
	{"RFC 3986 3.3", "one dot", line("/."), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "two dots", line("/.."), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "two dots, slash", line("/a/../b"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "two dots, query", line("/..?a"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "dots in a query", line("/?/../"), accepted, accepted},
	{"RFC 3986 3.3", "three dots", line("/.../a"), accepted, accepted},
	{"RFC 3986 3.3", "dots in names", line("/.a/..a/a../a.b/a;.."), accepted, accepted},
	{"RFC 3986 3.3", "encoded dots", line("/%2e%2E/"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "one dot encoded", line("/.%2e"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "dots and encoded slash", line("/..%2fa"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "dots between encoded slashes", line("/a%2F..%2fb"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "dots and encoded backslash", line("/a%5C%2e%2e%5cb"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "dots and backslash", line("/a\\..\\b"), ErrPath, accepted},
	{"RFC 3986 3.3", "dots and parameters", line("/..;/a"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "dot and parameters", line("/.;a=b/a"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "dots and encoded semicolon", line("/..%3B/a"), ErrDotSegment, accepted},
	{"RFC 3986 3.3", "dots encoded twice", line("/%252e%252e/"), accepted, accepted},
	{"RFC 3986 7.3", "encoded NUL", line("/a%00b"), ErrPathNUL, accepted},
	{"RFC 3986 7.3", "encoded NUL in the query", line("/?%00"), accepted, accepted},

	// Field lines.
	{"RFC 9112 5", "no colon", field("X"), ErrNoColon, ErrNoColon},
	{"RFC 9112 5", "no name", field(": x"), ErrName, ErrName},
	{"RFC 9112 5.1", "space before the colon", field("X : y"), ErrNameSpace, ErrNameSpace},
	{"RFC 9112 5.1", "tab before the colon", field("X\t: y"), ErrNameSpace, ErrNameSpace},
	{"RFC 9112 5.1", "space in the name", field("X Y: z"), ErrNameSpace, ErrNameSpace},
	{"RFC 9110 5.1", "name bytes", field("x!#$%&'*+-.^_`|~9: y"), accepted, accepted},
	{"RFC 9110 5.1", "bracket in the name", field("X[]: y"), ErrName, ErrName},
	{"RFC 9110 5.1", "NUL in the name", field("X\x00: y"), ErrName, ErrName},
	{"RFC 9110 5.1", "byte above 7f in the name", field("X\xe9: y"), ErrName, ErrName},
	{"RFC 9110 5.5", "value bytes", field("X: !\t \"~\x80\xff"), accepted, accepted},
	{"RFC 9110 5.5", "NUL in a value", field("X: a\x00"), ErrValue, ErrValue},
	{"RFC 9110 5.5", "control byte in a value", field("X: \x1b[0m"), ErrValue, ErrValue},
	{"RFC 9110 5.5", "DEL in a value", field("X: \x7f"), ErrValue, ErrValue},
	{"RFC 9112 2.2", "bare CR in a value", field("X: a\rHost: b"), ErrBareCR, ErrBareCR},
	{"RFC 9112 2.2", "two CR", field("X: a\r"), ErrBareCR, ErrBareCR},
	{"RFC 9112 2.2", "bare CR in a name", field("X\r: a"), ErrNoColon, ErrNoColon},
	{"RFC 9112 2.2", "bare LF after a field", start + "X: y\n", ErrBareLF, accepted},
	{"RFC 9112 2.2", "bare LF for the empty line", start + "\n", ErrBareLF, accepted},
	{"RFC 9112 2.2", "CR for the empty line", start + "\rX", ErrBareCR, ErrBareCR},
	{"RFC 9112 2.2", "space before the first field", get + " Host: a\r\n", ErrFold, ErrFold},
	{"RFC 9112 5.2", "folding", field("X: a\r\n b"), ErrFold, accepted},
	{"RFC 9112 5.2", "folding with a tab", field("X: a\r\n\tb"), ErrFold, accepted},
	{"RFC 9112 5.2", "folding with nothing", field("X: a\r\n "), ErrFold, accepted},
	{"RFC 9112 5.2", "folded name", field("X\r\n : a"), ErrNoColon, ErrNoColon},
	{"RFC 9112 5.2", "folded Host", get + "Host:\r\n a\r\n", ErrHost, ErrFold},
	{"RFC 9112 5.2", "folded Content-Length", field("Content-Length: 5\r\n 0"), ErrFold, ErrFold},
	{"RFC 9112 5.2", "folded Transfer-Encoding", field("Transfer-Encoding: chunked\r\n ,x"), ErrFold, ErrFold},
	{"RFC 9112 5.2", "control byte in a folded line", field("X: a\r\n \x01"), ErrFold, ErrValue},

	// Host.
	{"RFC 9112 3.2", "no Host", get + "\r\n", ErrHostMissing, ErrHostMissing},
	{"RFC 9112 3.2", "no Host, absolute-form", line("http://a/") + "\r\n", ErrHostMissing, ErrHostMissing},
	{"RFC 9112 3.2", "no Host, CONNECT", "CONNECT a:1 HTTP/1.1\r\n\r\n", ErrHostMissing, accepted},
	{"RFC 9112 3.2", "no Host, HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", accepted, accepted},
	{"RFC 9112 3.2", "two Hosts", field("Host: example.com"), ErrHostRepeated, ErrHostRepeated},
	{"RFC 9112 3.2", "two Hosts, letter case", field("hOST: b"), ErrHostRepeated, ErrHostRepeated},
	{"RFC 9112 3.2", "two Hosts, HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n", ErrHostRepeated, ErrHostRepeated},
	{"RFC 9112 3.2", "empty Host", host(""), ErrHost, accepted},
	{"RFC 9112 3.2", "empty Host, HTTP/1.0", "GET / HTTP/1.0\r\nHost:\r\n", accepted, accepted},
	{"RFC 9112 3.2", "invalid Host, HTTP/1.0", "GET / HTTP/1.0\r\nHost: a b\r\n", ErrHost, ErrHost},
	{"RFC 9110 7.2", "port alone", host(":80"), ErrHost, accepted},
	{"RFC 9110 7.2", "empty port", host("a:"), accepted, accepted},
	{"RFC 9110 7.2", "five digits", host("a:65535"), accepted, accepted},
	{"RFC 9110 7.2", "six digits", host("a:065535"), ErrHost, accepted},
	{"RFC 9110 7.2", "port of letters", host("a:b"), ErrHost, accepted},
	{"RFC 9110 7.2", "two ports", host("a:80:80"), ErrHost, accepted},
	{"RFC 9110 7.2", "underscore", host("a_b.example.com"), accepted, accepted},
	{"RFC 9110 7.2", "dot at the end", host("example.com."), ErrHost, accepted},
	{"RFC 9110 7.2", "dot at the end, HTTP/1.0", "GET / HTTP/1.0\r\nHost: example.com.\r\n", ErrHost, accepted},
	{"RFC 9110 7.2", "dot before the port", host("example.com.:80"), ErrHost, accepted},
	{"RFC 9110 7.2", "dot before an empty port", host("example.com.:"), ErrHost, accepted},
	{"RFC 9110 7.2", "two dots at the end", host("example.com.."), ErrHost, accepted},
	{"RFC 9110 7.2", "dot after an IPv4 address", host("192.0.2.1."), ErrHost, accepted},
	{"RFC 9110 7.2", "dot after an IPv6 address", host("[::1]."), ErrHost, accepted},
	{"RFC 9110 7.2", "dot at the end in the target", line("http://example.com./") + "Host: example.com.\r\n", ErrAuthority, accepted},
	{"RFC 9110 7.2", "dot before the port in the target", line("http://example.com.:80/") + "Host: example.com\r\n", ErrAuthority, accepted},
	{"RFC 9110 7.2", "dot at the end beside a target without", line("http://example.com/") + "Host: example.com.\r\n", ErrHost, accepted},
	{"RFC 9110 7.2", "dot before CONNECT's port", "CONNECT example.com.:443 HTTP/1.1\r\nHost: example.com.:443\r\n", ErrAuthority, accepted},
	{"RFC 9110 7.2", "dot at the beginning and within", host(".example..com"), accepted, accepted},
	{"RFC 9110 7.2", "dots alone", host("...:80"), ErrHost, accepted},
	{"RFC 9110 7.2", "dots alone in the target", line("http://.../"), ErrAuthority, accepted},
	{"RFC 9110 7.2", "sub-delims", host("!$&'()*+,;=~"), accepted, accepted},
	{"RFC 9110 7.2", "IPv4", host("192.0.2.1:80"), accepted, accepted},
	{"RFC 9110 7.2", "IPv6", host("[2001:db8::192.0.2.1]:80"), accepted, accepted},
	{"RFC 9110 7.2", "IPv6 without brackets", host("2001:db8::1"), ErrHost, accepted},
	{"RFC 9110 7.2", "IPv6, no closing bracket", host("[::1"), ErrHost, accepted},
	{"RFC 9110 7.2", "IPv6, text after it", host("[::1]a"), ErrHost, accepted},
	{"RFC 9110 7.2", "IPv6 with a zone", host("[fe80::1%25eth0]"), ErrHost, accepted},
	{"RFC 9110 7.2", "IPv4 in brackets", host("[192.0.2.1]"), ErrHost, accepted},
	{"RFC 9110 7.2", "empty brackets", host("[]"), ErrHost, accepted},
	{"RFC 9110 7.2", "IPvFuture", host("[v1.a]"), ErrHost, accepted},
	{"RFC 9110 7.2", "percent-encoding", host("a%2eb"), ErrHost, accepted},
	{"RFC 9110 7.2", "percent-encoding in the target", line("http://%C3%A9/"), ErrAuthority, ErrAuthority},
	{"RFC 9110 7.2", "space", host("a b"), ErrHost, ErrHost},
	{"RFC 9110 7.2", "slash", host("a/b"), ErrHost, ErrHost},
	{"RFC 9110 7.2", "byte above 7f", host("caf\xc3\xa9"), ErrHost, ErrHost},
	{"RFC 9110 7.2", "list", host("a,b"), accepted, accepted},
	{"RFC 9110 4.2.4", "userinfo in Host", host("user@a"), ErrUserinfo, ErrHost},
	{"RFC 9112 3.2.2", "Host equal to the target's", line("http://Example.com:80/") + "Host: eXample.com:80\r\n", accepted, accepted},
	{"RFC 9112 3.2.2", "Host other than the target's", line("http://a/") + "Host: b\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "Host without the target's default port", line("http://a:80/") + "Host: A\r\n", accepted, accepted},
	{"RFC 9110 4.2.3", "Host with the default port, the target without", line("HTTP://a") + "Host: a:80\r\n", accepted, accepted},
	{"RFC 9110 4.2.3", "https, Host without the target's default port", line("https://a:443/") + "Host: a\r\n", accepted, accepted},
	{"RFC 9110 4.2.3", "https, Host with the default port, the target without", line("hTTps://a/") + "Host: a:443\r\n", accepted, accepted},
	{"RFC 9110 4.2.3", "default port after an IPv6 address", line("http://[::1]:80/") + "Host: [::1]\r\n", accepted, accepted},
	{"RFC 9110 4.2.3", "default port, HTTP/1.0", "GET http://a:80/ HTTP/1.0\r\nHost: a\r\n", accepted, accepted},
	{"RFC 9110 4.2.3", "the other scheme's default port", line("http://a:443/") + "Host: a\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "https, the other scheme's default port", line("https://a/") + "Host: a:80\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "a scheme with no default port", line("ws://a:80/") + "Host: a\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "both default ports", line("http://a:443/") + "Host: a:80\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "default port written otherwise", line("http://a:080/") + "Host: a\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "empty port", line("http://a:/") + "Host: a\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "empty port and the default one", line("http://a:/") + "Host: a:80\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "default port after another host", line("http://a:80/") + "Host: b\r\n", ErrHostMismatch, accepted},
	{"RFC 9110 4.2.3", "default port after the beginning of the host", line("http://ab:80/") + "Host: a\r\n", ErrHostMismatch, accepted},
	{"RFC 9112 3.2.3", "Host without CONNECT's port", "CONNECT a:443 HTTP/1.1\r\nHost: A\r\n", accepted, accepted},
	{"RFC 9112 3.2.3", "Host without CONNECT's port, an IPv6 address", "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]\r\n", accepted, accepted},
	{"RFC 9112 3.2.3", "CONNECT to port 80", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n", ErrHostMismatch, accepted},
	{"RFC 9112 3.2.2", "empty Host and a target's, HTTP/1.0", "GET http://a/ HTTP/1.0\r\nHost:\r\n", ErrHostMismatch, accepted},
	{"RFC 9112 3.2.3", "Host other than CONNECT's", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n", ErrHostMismatch, accepted},

	// Framing.
	{"RFC 9110 8.6", "Content-Length", field("Content-Length: 0"), accepted, accepted},
	{"RFC 9110 8.6", "largest Content-Length", field("Content-Length: 9223372036854775807"), accepted, accepted},
	{"RFC 9110 8.6", "Content-Length too large", field("Content-Length: 9223372036854775808"), ErrLength, ErrLength},
	{"RFC 9110 8.6", "Content-Length far too large", field("Content-Length: 18446744073709551617"), ErrLength, ErrLength},
	{"RFC 9110 8.6", "Content-Length with a plus", field("Content-Length: +5"), ErrLength, ErrLength},
	{"RFC 9110 8.6", "Content-Length with a minus", field("Content-Length: -5"), ErrLength, ErrLength},
	{"RFC 9110 8.6", "Content-Length empty", field("Content-Length:"), ErrLength, ErrLength},
	{"RFC 9110 8.6", "Content-Length in hex", field("Content-Length: 0x5"), ErrLength, ErrLength},
	{"RFC 9110 8.6", "Content-Length, underscore", field("Content-Length: 1_0"), ErrLength, ErrLength},
	{"RFC 9110 8.6", "Content-Length as a list", field("Content-Length: 5, 5"), ErrLength, ErrLength},
	{"RFC 9110 8.6", "Content-Length, space within", field("Content-Length: 5 5"), ErrLength, ErrLength},
	{"RFC 9112 6.3", "Content-Length twice", field("Content-Length: 5\r\nContent-Length: 5"), ErrLengthRepeated, accepted},
	{"RFC 9112 6.3", "Content-Length twice, different", field("Content-Length: 5\r\nContent-Length: 6"), ErrLengthRepeated, ErrLengthRepeated},
	{"RFC 9112 6.3", "Content-Length twice, written differently", field("Content-Length: 5\r\nContent-Length: 05"), ErrLengthRepeated, ErrLengthRepeated},
	{"RFC 9112 6.1", "chunked", field("Transfer-Encoding: chunked"), accepted, accepted},
	{"RFC 9112 7", "chunked, letter case", field("TRANSFER-ENCODING: CHUNKED"), accepted, accepted},
	{"RFC 9112 6.1", "Content-Length, then chunked", field("Content-Length: 5\r\nTransfer-Encoding: chunked"), ErrLengthCoded, accepted},
	{"RFC 9112 6.1", "chunked, then Content-Length", field("Transfer-Encoding: chunked\r\nContent-Length: 5"), ErrLengthCoded, accepted},
	{"RFC 9112 6.1", "chunked, then an invalid Content-Length", field("Transfer-Encoding: chunked\r\nContent-Length: x"), ErrLength, ErrLength},
	{"RFC 9112 6.1", "gzip", field("Transfer-Encoding: gzip"), ErrCoding, ErrCoding},
	{"RFC 9112 6.1", "gzip, chunked", field("Transfer-Encoding: gzip, chunked"), ErrCoding, ErrCoding},
	{"RFC 9112 6.1", "identity", field("Transfer-Encoding: identity"), ErrCoding, ErrCoding},
	{"RFC 9112 6.1", "empty", field("Transfer-Encoding:"), ErrCoding, ErrCoding},
	{"RFC 9112 6.1", "chunked and a comma", field("Transfer-Encoding: chunked,"), ErrCoding, ErrCoding},
	{"RFC 9112 6.1", "chunked in quotation marks", field("Transfer-Encoding: \"chunked\""), ErrCoding, ErrCoding},
	{"RFC 9112 6.1", "chunked with a parameter", field("Transfer-Encoding: chunked;a=b"), ErrCoding, ErrCoding},
	{"RFC 9112 6.1", "chunked and a vertical tab", field("Transfer-Encoding: \vchunked"), ErrValue, ErrValue},
	{"RFC 9112 6.1", "chunked twice", field("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), ErrCodingRepeated, ErrCodingRepeated},
	{"RFC 9112 6.1", "chunked on HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", ErrCodingVersion, accepted},
	{"RFC 9110 6.5.1", "Trailer", field("Transfer-Encoding: chunked\r\nTrailer: Expires, X"), accepted, accepted},
	{"RFC 9110 6.5.1", "Trailer names Content-Length", field("Trailer: X ,\tcontent-length\r\nTransfer-Encoding: chunked") + "\r\n", ErrTrailer, ErrTrailer},
	{"RFC 9110 6.5.1", "Trailer names Transfer-Encoding", field("Transfer-Encoding: chunked\r\nTrailer: Transfer-Encoding") + "\r\n", ErrTrailer, ErrTrailer},
	{"RFC 9110 6.5.1", "Trailer names Trailer", field("Transfer-Encoding: chunked\r\nTrailer: ,Trailer,") + "\r\n", ErrTrailer, ErrTrailer},
	{"RFC 9110 6.5.1", "Trailer without chunked", field("Trailer: Content-Length"), accepted, accepted},
}

func TestRules(t *testing.T) {
	for _, test := range ruleTests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) {
			for _, mode := range []struct {
				o   Options
				err *Error
			}{
				{Options{}, test.strict},
				{Options{Lenient: true}, test.lenient},
			} {
				in := test.in
				if mode.err == nil {
					in = complete(in)
				}
				r := feed(t, mode.o, in)
				if mode.err == nil {
					check(t, r, in, HTTP, nil, 0)
				} else if r.verdict != Malformed || r.err != mode.err {
					t.Errorf("lenient %v, %q: got %v, %v, want %v", mode.o.Lenient, in, r.verdict, r.Err(), mode.err)
				}
				mode.o.LineOnly = true
				lineOnly := feed(t, mode.o, in)
				first := strings.IndexByte(in, '\n') + 1
				if r.verdict == HTTP || r.pos >= first {
					check(t, lineOnly, in, HTTP, nil, first)
				} else {
					check(t, lineOnly, in, Malformed, r.err, r.pos+1)
				}
			}
		})
	}
}

// complete adds what head lacks: a Host and the empty line.
func complete(head string) string {
	if strings.HasSuffix(head, "\n\r\n") || strings.HasSuffix(head, "\n\n") {
		return head
	}
	if !strings.Contains(head, "\nHost:") && !strings.Contains(head, "HTTP/1.0") {
		host := "example.com"
		if strings.HasPrefix(head, "CONNECT example.com:443") {
			host += ":443"
		}
		head += "Host: " + host + "\r\n"
	}
	return head + "\r\n"
}

// TestErrorPosition holds problems of a head to the byte that shows them.
func TestErrorPosition(t *testing.T) {
	tests := []struct {
		name string
		in   string // the last byte decides
		err  error
	}{
		{"byte in a name", start + "X\x00", ErrName},
		{"space before the colon", start + "X ", ErrNameSpace},
		{"byte in a value", start + "X: a\x00", ErrValue},
		{"bare LF", start + "X: a\n", ErrBareLF},
		{"bare CR", start + "X: a\rb", ErrBareCR},
		{"folding", start + " ", ErrFold},
		{"field", start + "Host: b\r\n", ErrHostRepeated},
		{"target", "GET /.. HTTP/1.1\r\n", ErrDotSegment},
		{"end of the head", get + "\r\n", ErrHostMissing},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := feed(t, Options{}, test.in+"more")
			check(t, r, test.in, Malformed, test.err, 0)
		})
	}
}
