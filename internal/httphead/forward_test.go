package httphead

import (
	"bytes"
	"net/url"
	"strings"
	"testing"
)

const (
	closes    = "Connection: close\r\n"
	upgrades  = "Connection: Upgrade\r\n"
	nonce     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" // of RFC 6455 section 1.3
	webSocket = "Upgrade: websocket\r\n" + nonce
)

// forwardTest is a head and what is passed on. Neither has its empty line.
type forwardTest struct {
	rule    string
	name    string
	in      string
	want    string
	upgrade string
	err     error
}

// forwardTests are for a strict reader, and the upgrades websocket and other.
var forwardTests = []forwardTest{
	{"RFC 9112 9.6", "close", start + closes, start + closes, "", nil},
	{"RFC 9112 9.6", "close in other letters", start + "CONNECTION:\tCLOSE \r\n", start + "CONNECTION:\tCLOSE \r\n", "", nil},
	{"RFC 9112 9.6", "close between other fields", get + "Accept:*/*\r\n" + closes + "host:  example.com\r\nx:\r\n", get + "Accept:*/*\r\n" + closes + "host:  example.com\r\nx:\r\n", "", nil},
	{"RFC 9112 9.6", "close with HTTP/1.0", "GET / HTTP/1.0\r\n" + closes, "GET / HTTP/1.0\r\n" + closes, "", nil},
	{"RFC 9112 9.6", "no Connection", start, start + closes, "", nil},
	{"RFC 9112 9.6", "no Connection, HTTP/1.0", "GET / HTTP/1.0\r\n", "GET / HTTP/1.0\r\n" + closes, "", nil},
	{"RFC 9112 9.6", "close twice", start + closes + "X: a\r\n" + closes, start + closes + "X: a\r\n", "", nil},
	{"RFC 9112 9.6", "close twice in a list", start + "Connection: close, close\r\n", start + closes, "", nil},

	{"RFC 9110 7.6.1", "keep-alive", start + "Connection: keep-alive\r\nX: a\r\n", start + "X: a\r\n" + closes, "", nil},
	{"RFC 9110 7.6.1", "keep-alive with HTTP/1.0", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", "GET / HTTP/1.0\r\n" + closes, "", nil},
	{"RFC 9110 7.6.1", "empty Connection", start + "Connection:\r\n", start + closes, "", nil},
	{"RFC 9110 7.6.1", "nominated field", start + "Connection: X\r\nX: a\r\nY: b\r\n", start + "Y: b\r\n" + closes, "", nil},
	{"RFC 9110 7.6.1", "nominated field before Connection", start + "X: a\r\nConnection: X\r\n", start + closes, "", nil},
	{"RFC 9110 7.6.1", "nominated field in other letters", start + "Connection: x-HOP\r\nX-Hop: a\r\n", start + closes, "", nil},
	{"RFC 9110 7.6.1", "nominated field that occurs twice", start + "X: a\r\nY: b\r\nX: c\r\nConnection: X\r\n", start + "Y: b\r\n" + closes, "", nil},
	{"RFC 9110 7.6.1", "nominated field that is not there", start + "Connection: X\r\nXY: a\r\n", start + "XY: a\r\n" + closes, "", nil},
	{"RFC 9110 7.6.1", "close and a nominated field", start + "Connection: close, X\r\nX: a\r\n", start + closes, "", nil},
	{"RFC 9110 7.6.1", "several Connection fields", start + "Connection: X\r\n" + closes + "Connection: Y\r\nX: a\r\nY: b\r\nZ: c\r\n", start + closes + "Z: c\r\n", "", nil},
	{"RFC 9110 7.6.1", "more options than fit on the stack", start + "Connection: a,b,c,d,e,f,g,h,i,X\r\nX: a\r\n", start + closes, "", nil},
	{"RFC 9110 5.6.1.2", "empty elements", start + "Connection: ,, \t,X ,\r\nX: a\r\n", start + closes, "", nil},
	{"RFC 9110 7.6.1", "Host nominated", start + "Connection: close, Host\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "Content-Length nominated", start + "Connection: content-length\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "Transfer-Encoding nominated", start + "Connection: TRANSFER-ENCODING\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "Authorization nominated", start + "Connection: Authorization\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "Cookie nominated", start + "Connection: Cookie\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "Forwarded nominated", start + "Connection: Forwarded\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "X-Forwarded-For nominated", start + "Connection: X-Forwarded-For\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "X-Forwarded-Anything nominated", start + "Connection: x-forwarded-anything\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "Host nominated in a second field", start + closes + "Connection: X,Host\r\n", "", "", ErrNominated},
	{"RFC 9110 7.6.1", "X-Forwarded nominated", start + "Connection: X-Forwarded, X-Forwarded-\r\nX-Forwarded: a\r\nX-Forwarded-: a\r\n", start + closes, "", nil},
	{"RFC 9110 7.6.1", "Cookie2 nominated", start + "Connection: Cookie2\r\nCookie2: a\r\nCookie: b\r\n", start + "Cookie: b\r\n" + closes, "", nil},
	{"RFC 9110 7.6.1", "option with a space", start + "Connection: close X\r\n", "", "", ErrConnection},
	{"RFC 9110 7.6.1", "quoted option", start + "Connection: \"close\"\r\n", "", "", ErrConnection},
	{"RFC 9110 7.6.1", "option with a parameter", start + "Connection: keep-alive; timeout=5\r\n", "", "", ErrConnection},
	{"RFC 9110 7.6.1", "option with a byte above 7f", start + "Connection: X, caf\xc3\xa9\r\n", "", "", ErrConnection},
	{"RFC 9110 7.6.1", "Keep-Alive", start + "Keep-Alive: timeout=5\r\n" + closes, start + closes, "", nil},
	{"RFC 9110 7.6.1", "Proxy-Connection", start + "proxy-connection: keep-alive\r\n" + closes, start + closes, "", nil},
	{"RFC 9110 7.6.1", "TE", start + closes + "TE: trailers\r\n", start + closes, "", nil},
	{"RFC 7540 3.2.1", "HTTP2-Settings", start + closes + "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", start + closes, "", nil},
	{"RFC 9110 7.6.1", "fields that resemble these", start + closes + "TEx: a\r\nTrailer: b\r\nKeepAlive: c\r\n", start + closes + "TEx: a\r\nTrailer: b\r\nKeepAlive: c\r\n", "", nil},

	{"RFC 9112 6", "Content-Length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n" + closes, "", nil},
	{"RFC 9112 6", "chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: X\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: X\r\n" + closes, "", nil},
	{"RFC 9112 3.2.2", "absolute-form", "GET http://a/b HTTP/1.1\r\nHost: A\r\n" + closes, "GET /b HTTP/1.1\r\nHost: A\r\n" + closes, "", nil},
	{"RFC 9112 3.2.2", "absolute-form, Host with the default port", "GET http://a/b HTTP/1.1\r\nHost: a:80\r\n" + closes, "GET /b HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},
	{"RFC 9112 3.2.2", "absolute-form, Host without the default port", "GET http://a:80/b HTTP/1.1\r\nHost: a\r\n" + closes, "GET /b HTTP/1.1\r\nHost: a:80\r\n" + closes, "", nil},
	{"RFC 9112 3.2.2", "absolute-form with a query", "GET HTTPS://[::1]:8443/b//c;d?e=/f?g HTTP/1.1\r\nHost: [::1]:8443\r\n" + closes, "GET /b//c;d?e=/f?g HTTP/1.1\r\nHost: [::1]:8443\r\n" + closes, "", nil},
	{"RFC 9112 3.2.2", "absolute-form with two slashes", "GET http://a//b HTTP/1.1\r\nHost: a\r\n" + closes, "GET //b HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},
	{"RFC 9112 3.2.1", "absolute-form without a path", "GET http://a HTTP/1.1\r\nHost: a\r\n" + closes, "GET / HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},
	{"RFC 9112 3.2.1", "absolute-form without a path, empty query", "GET http://a? HTTP/1.1\r\nHost: a\r\n" + closes, "GET /? HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},
	{"RFC 9112 3.2.2", "absolute-form, HTTP/1.0 without Host", "GET http://a:81/b HTTP/1.0\r\n" + closes, "GET /b HTTP/1.0\r\nHost: a:81\r\n" + closes, "", nil},
	{"RFC 9112 3.2.4", "OPTIONS for a server", "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n" + closes, "OPTIONS * HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},
	{"RFC 9112 3.2.4", "OPTIONS for a path", "OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n" + closes, "OPTIONS / HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},
	{"RFC 9112 3.2.4", "OPTIONS for a query", "OPTIONS http://a?b HTTP/1.1\r\nHost: a\r\n" + closes, "OPTIONS /?b HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},
	{"RFC 9112 3.2.4", "asterisk-form", "OPTIONS * HTTP/1.1\r\nHost: a\r\n" + closes, "OPTIONS * HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},

	{"RFC 3875 4.1.18", "alias with an underscore", start + closes + "X_Forwarded_For: 10.0.0.1\r\nX: a\r\n", start + closes + "X: a\r\n", "", nil},
	{"RFC 3875 4.1.18", "alias with a dot", start + closes + "X.Forwarded.For: 10.0.0.1\r\n", start + closes, "", nil},
	{"RFC 3875 4.1.18", "aliases with other characters", start + "X!Forwarded!For: 1\r\n" + closes + "X~Real~IP: 1\r\nX-Forwarded'Proto: 1\r\nX-Us|er: 1\r\n`: 1\r\nX-2: a\r\n", start + closes + "X-2: a\r\n", "", nil},
	{"RFC 3875 4.1.18", "alias of the framing", start + closes + "Content_Length: 5\r\nTransfer_Encoding: chunked\r\n", start + closes, "", nil},
	{"RFC 3875 4.1.18", "underscore and dot in a value", start + closes + "X: a_b.c\r\n", start + closes + "X: a_b.c\r\n", "", nil},

	{"RFC 6455 4.1", "WebSocket", start + upgrades + webSocket, start + upgrades + webSocket, "websocket", nil},
	{"RFC 6455 4.1", "WebSocket in other letters", start + "connection:upgrade\r\nupgrade:WebSocket\r\n" + nonce, start + "connection:upgrade\r\nupgrade:WebSocket\r\n" + nonce, "websocket", nil},
	{"RFC 6455 4.1", "WebSocket, keep-alive too", start + "Connection: keep-alive, Upgrade\r\n" + webSocket, start + webSocket + upgrades, "websocket", nil},
	{"RFC 6455 4.1", "WebSocket, close too", start + closes + upgrades + webSocket, start + upgrades + webSocket, "websocket", nil},
	{"RFC 6455 4.1", "WebSocket in a list", start + upgrades + "Upgrade: foo, websocket,other\r\n" + nonce, start + upgrades + nonce + "Upgrade: websocket\r\n", "websocket", nil},
	{"RFC 6455 4.1", "WebSocket twice", start + upgrades + webSocket + "Upgrade: websocket\r\n", start + upgrades + webSocket, "websocket", nil},
	{"RFC 6455 4.1", "no key", start + upgrades + "Upgrade: websocket\r\n", start + closes, "", nil},
	{"RFC 6455 4.1", "empty key", start + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Key:\r\n", start + "Sec-WebSocket-Key:\r\n" + closes, "", nil},
	{"RFC 6455 4.1", "key of 15 bytes", start + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n", start + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n" + closes, "", nil},
	{"RFC 6455 4.1", "key of 17 bytes", start + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWQ=\r\n", start + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWQ=\r\n" + closes, "", nil},
	{"RFC 6455 4.1", "key of 18 bytes", start + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWRk\r\n", start + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWRk\r\n" + closes, "", nil},
	{"RFC 6455 4.1", "key of 19 bytes", start + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWRkZA==\r\n", start + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWRkZA==\r\n" + closes, "", nil},
	{"RFC 6455 4.1", "key that is not base64", start + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!==\r\n", start + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!==\r\n" + closes, "", nil},
	{"RFC 6455 4.1", "two keys", start + upgrades + webSocket + nonce, start + nonce + nonce + closes, "", nil},
	{"RFC 6455 4.1", "key nominated", start + "Connection: Upgrade, Sec-WebSocket-Key\r\n" + webSocket, start + closes, "", nil},
	{"MS-TSGU 3.1.5.1", "RDG_OUT_DATA", "RDG_OUT_DATA / HTTP/1.1\r\nHost: a\r\n" + upgrades + webSocket, "RDG_OUT_DATA / HTTP/1.1\r\nHost: a\r\n" + upgrades + webSocket, "websocket", nil},
	{"RFC 9110 7.8", "POST", "POST / HTTP/1.1\r\nHost: a\r\n" + upgrades + webSocket, "POST / HTTP/1.1\r\nHost: a\r\n" + upgrades + webSocket, "websocket", nil},
	{"RFC 6455 4.1", "POST without a key", "POST / HTTP/1.1\r\nHost: a\r\n" + upgrades + "Upgrade: websocket\r\n", "POST / HTTP/1.1\r\nHost: a\r\n" + closes, "", nil},
	{"RFC 9110 7.8", "with no content", start + "Content-Length: 0\r\n" + upgrades + webSocket, start + "Content-Length: 0\r\n" + upgrades + webSocket, "websocket", nil},
	{"RFC 9110 7.8", "with content", start + "Content-Length: 1\r\n" + upgrades + webSocket, start + "Content-Length: 1\r\n" + nonce + closes, "", nil},
	{"RFC 9110 7.8", "with content, chunked", start + upgrades + webSocket + "Transfer-Encoding: chunked\r\n", start + nonce + "Transfer-Encoding: chunked\r\n" + closes, "", nil},
	{"RFC 9110 7.8", "another protocol, with content", start + upgrades + "Upgrade: other\r\nContent-Length: 1\r\n", start + "Content-Length: 1\r\n" + closes, "", nil},
	{"RFC 9110 7.8", "HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\n" + upgrades + webSocket, "GET / HTTP/1.0\r\nHost: a\r\n" + nonce + closes, "", nil},
	{"RFC 9110 7.8", "Connection without upgrade", start + "Connection: keep-alive\r\n" + webSocket, start + nonce + closes, "", nil},
	{"RFC 9110 7.8", "no Connection", start + webSocket, start + nonce + closes, "", nil},
	{"RFC 9110 7.8", "no Upgrade", start + upgrades, start + closes, "", nil},
	{"RFC 9110 7.8", "another protocol, with POST", "POST / HTTP/1.1\r\nHost: a\r\n" + upgrades + "Upgrade: other\r\n", "POST / HTTP/1.1\r\nHost: a\r\n" + upgrades + "Upgrade: other\r\n", "other", nil},
	{"RFC 9110 7.8", "the client's first choice", start + upgrades + "Upgrade: OTHER, websocket\r\n" + nonce, start + upgrades + nonce + "Upgrade: other\r\n", "other", nil},
	{"RFC 9110 7.8", "the client's first choice, on two lines", start + upgrades + webSocket + "Upgrade: other\r\n", start + upgrades + webSocket, "websocket", nil},
	{"RFC 9110 7.8", "second choice on a line of its own", start + upgrades + "Upgrade: foo\r\nUpgrade: other\r\n", start + upgrades + "Upgrade: other\r\n", "other", nil},
	{"RFC 9110 7.8", "WebSocket without a key, then another", start + upgrades + "Upgrade: websocket, other\r\n", start + upgrades + "Upgrade: other\r\n", "other", nil},
	{"RFC 9110 7.8", "protocol not allowed", start + upgrades + "Upgrade: foo\r\n", start + closes, "", nil},
	{"RFC 9110 7.8", "protocol with a version", start + upgrades + "Upgrade: websocket/13\r\n" + nonce, start + nonce + closes, "", nil},
	{"RFC 7540 3.2", "h2c", start + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", start + closes, "", nil},
	{"RFC 7540 3.2", "h2c beside WebSocket", start + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AAMAAABk\r\n" + nonce, start + nonce + "Upgrade: websocket\r\n" + upgrades, "websocket", nil},

	{"RFC 9110 9.3.6", "CONNECT", connect, connect, "", nil},
	{"RFC 9112 3.2.3", "CONNECT, Host without its port", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n", "", nil},
	{"RFC 9110 9.3.6", "CONNECT with close", connect + closes, connect, "", nil},
	{"RFC 9110 9.3.6", "CONNECT as browsers send it", connect + "Proxy-Connection: keep-alive\r\nConnection: keep-alive, X\r\nX: a\r\nUser-Agent: b\r\n", connect + "User-Agent: b\r\n", "", nil},
	{"RFC 9110 9.3.6", "CONNECT with an upgrade", connect + upgrades + "Upgrade: other\r\n", connect, "", nil},
	{"RFC 9110 9.3.6", "CONNECT, Host nominated", connect + "Connection: Host\r\n", "", "", ErrNominated},
}

const connect = "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n"

// lenientTests are for a lenient reader. They have their empty line.
var lenientTests = []forwardTest{
	{"RFC 9112 9.6", "nothing to be changed", get + "Host:example.com\r\nX: \ta \r\n" + closes + "\r\n", get + "Host:example.com\r\nX: \ta \r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 2.2", "bare LF", "GET / HTTP/1.1\nHost:a\nX:\nConnection: close\n\n", "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 2.2", "bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n" + closes + "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 2.2", "bare LF after a field", start + "Connection: close\n\r\n", start + closes + "\r\n", "", nil},
	{"RFC 9112 2.2", "bare LF for the empty line", start + closes + "\n", start + closes + "\r\n", "", nil},
	{"RFC 9112 5.2", "folding", start + closes + "X: a\r\n b\r\n\t c \r\n\r\n", start + closes + "X: a b c\r\n\r\n", "", nil},
	{"RFC 9112 5.2", "folding with LF", start + closes + "X: a\n b\n\n", start + closes + "X: a b\r\n\r\n", "", nil},
	{"RFC 9112 5.2", "folding before the value", start + closes + "X:\r\n a\r\n\r\n", start + closes + "X: a\r\n\r\n", "", nil},
	{"RFC 9112 5.2", "folding after the value", start + closes + "X: a\r\n \r\n\r\n", start + closes + "X: a\r\n\r\n", "", nil},
	{"RFC 9112 5.2", "folding around nothing", start + closes + "X: a\r\n \t\r\n b\r\n\r\n", start + closes + "X: a b\r\n\r\n", "", nil},
	{"RFC 9112 5.2", "folding of nothing", start + closes + "X:\r\n \r\n\r\n", start + closes + "X: \r\n\r\n", "", nil},
	{"RFC 9112 5.2", "folded close", start + "Connection:\r\n close\r\n\r\n", start + closes + "\r\n", "", nil},
	{"RFC 9112 5.2", "folded connection options", start + "Connection: X,\r\n Y\r\n ,Z\nX: a\r\nY: b\r\nZ: c\r\n\r\n", start + closes + "\r\n", "", nil},
	{"RFC 9112 5.2", "folded connection option", start + "Connection: clo\r\n se\r\n\r\n", "", "", ErrConnection},
	{"RFC 9112 5.2", "folded nomination", start + "Connection: close,\r\n Cookie\r\n\r\n", "", "", ErrNominated},
	{"RFC 9112 5.2", "folded upgrade", start + "Connection: keep-alive,\r\n Upgrade\r\nUpgrade: foo,\n\twebsocket\r\nSec-WebSocket-Key:\r\n dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", start + nonce + "Upgrade: websocket\r\n" + upgrades + "\r\n", "websocket", nil},
	{"RFC 9112 5.2", "folded alias", start + closes + "X_Y: a\r\n b\r\n\r\n", start + closes + "\r\n", "", nil},
	{"RFC 9112 6.3", "Content-Length, then chunked", start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + closes + "\r\n", start + "Transfer-Encoding: chunked\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 6.3", "chunked, then Content-Length", start + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n" + closes + "\r\n", start + "Transfer-Encoding: chunked\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 6.3", "Content-Length thrice", start + "Content-Length: 5\r\ncontent-length: 5\r\n" + closes + "Content-Length:5\r\n\r\n", start + "Content-Length: 5\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 6.1", "Transfer-Encoding with HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n" + closes + "\r\n", "POST / HTTP/1.0\r\nContent-Length: 5\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 6.1", "Transfer-Encoding alone with HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n" + closes + "\r\n", "POST / HTTP/1.0\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 3.2.2", "Host beside an absolute-form target", "GET http://a:80/b HTTP/1.1\r\nhost: c\r\n" + closes + "\r\n", "GET /b HTTP/1.1\r\nhost: a:80\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 3.2.2", "empty Host beside an absolute-form target", "GET http://a/b HTTP/1.1\r\nHost:\r\n" + closes + "\r\n", "GET /b HTTP/1.1\r\nHost: a\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 3.2.2", "Host that is the target's", "GET http://a/b HTTP/1.1\r\nHost:a\r\n" + closes + "\r\n", "GET /b HTTP/1.1\r\nHost:a\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 3.2.2", "absolute-form target whose host is for no Host", "GET http://a\"b/ HTTP/1.1\r\nHost: c\r\n\r\n", "", "", ErrAuthority},
	{"RFC 9112 3.2.2", "absolute-form target without an authority", "GET http:///b HTTP/1.1\r\nHost: c\r\n" + closes + "\r\n", "GET /b HTTP/1.1\r\nHost: c\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 3.2.2", "absolute-form target without slashes", "GET http:/b?c HTTP/1.1\nHost: c\r\n" + closes + "\r\n", "GET /b?c HTTP/1.1\r\nHost: c\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 3.2.2", "absolute-form target with userinfo", "GET http://u:p@a/b HTTP/1.1\r\nHost: c\r\n" + closes + "\r\n", "GET /b HTTP/1.1\r\nHost: a\r\n" + closes + "\r\n", "", nil},
	{"RFC 9112 3.2", "CONNECT without Host, nor a target for it", "CONNECT a\"b:443 HTTP/1.1\r\n\r\n", "", "", ErrAuthority},
	{"RFC 9112 3.2", "CONNECT without Host", "CONNECT a:443 HTTP/1.1\r\nX: a\r\n\r\n", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nX: a\r\n\r\n", "", nil},
	{"RFC 9112 3.2", "CONNECT without Host, HTTP/1.0", "CONNECT a:443 HTTP/1.0\r\n\r\n", "CONNECT a:443 HTTP/1.0\r\n\r\n", "", nil},
}

func TestForward(t *testing.T) {
	f := &Forward{Upgrades: []string{"websocket", "other"}}
	for _, test := range forwardTests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) {
			test.in += "\r\n"
			if test.err == nil {
				test.want += "\r\n"
			}
			forward(t, f, Options{}, test)
			forward(t, f, Options{Lenient: true}, test) // which sees the same in it
			forward(t, f, Options{Later: true}, test)
		})
	}
}

func TestForwardLenient(t *testing.T) {
	f := &Forward{Upgrades: []string{"websocket", "other"}}
	for _, test := range lenientTests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) { forward(t, f, Options{Lenient: true}, test) })
	}
}

func TestForwardOptions(t *testing.T) {
	const aliases = "X_Tag: one\r\nx.tag: two\r\nX!#$%&'*+^`|~Tag: three\r\n"
	tests := []struct {
		forward Forward
		forwardTest
	}{
		{Forward{KeepAliases: true}, forwardTest{"RFC 3875 4.1.18", "aliases kept", start + closes + aliases + "\r\n", start + closes + aliases + "\r\n", "", nil}},
		{Forward{KeepAliases: true}, forwardTest{"RFC 9110 7.6.1", "alias nominated", start + "Connection: x_tag\r\n" + aliases + "\r\n", start + "x.tag: two\r\nX!#$%&'*+^`|~Tag: three\r\n" + closes + "\r\n", "", nil}},
		{Forward{}, forwardTest{"RFC 9110 7.8", "no upgrades", start + upgrades + webSocket + "\r\n", start + nonce + closes + "\r\n", "", nil}},
		{Forward{Upgrades: []string{"other"}}, forwardTest{"RFC 9110 7.8", "WebSocket not allowed", start + upgrades + webSocket + "\r\n", start + nonce + closes + "\r\n", "", nil}},
	}
	for _, test := range tests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) { forward(t, &test.forward, Options{}, test.forwardTest) })
	}
}

// forward fails unless f passes on as test has it what a reader with these options
// reads, and a strict reader reads the same in it.
func forward(t *testing.T, f *Forward, o Options, test forwardTest) {
	t.Helper()
	r := feed(t, o, test.in)
	if r.verdict != HTTP {
		t.Fatalf("%q: %v, %v", test.in, r.verdict, r.Err())
	}
	data := []byte(test.in + "body")
	got, err := f.Request(r, data)
	if string(data) != test.in+"body" {
		t.Fatalf("%q: changed to %q", test.in, data)
	}
	if err != test.err || string(got.Head) != test.want || got.Upgrade != test.upgrade {
		t.Fatalf("%q:\ngot  %q, upgrade %q, %v\nwant %q, upgrade %q, %v", test.in, got.Head, got.Upgrade, err, test.want, test.upgrade, test.err)
	}
	if err != nil {
		return
	}
	var wantKey string
	if test.upgrade == "websocket" {
		wantKey = "dGhlIHNhbXBsZSBub25jZQ=="
	}
	if string(got.Key) != wantKey {
		t.Errorf("%q: key %q, want %q", test.in, got.Key, wantKey)
	}
	if same := &got.Head[0] == &data[0]; same != (test.in == test.want) {
		t.Errorf("%q: the bytes received are passed on: %v", test.in, same)
	}
	if cap(got.Head) != len(got.Head) {
		t.Errorf("%q: appending to the head does not copy", test.in)
	}

	s := read(Options{}, test.want)
	if s.verdict != HTTP || s.Len != len(test.want) {
		t.Fatalf("%q: passed on, %v, %v", test.want, s.verdict, s.Err())
	}
	if a, b := meaning(r, data), meaning(s, got.Head); a != b {
		t.Errorf("%q: passed on, a strict reader reads %+v, want %+v", test.want, b, a)
	}
}

// meant is what a head says about where the request goes and where it ends. A target in
// absolute-form says the same as one in origin-form.
type meant struct {
	method, target, host string
	minor                int
	length               int64
	chunked              bool
}

func meaning(r *Reader, data []byte) meant {
	method, target, host := string(r.Method.Of(data)), string(r.Target.Of(data)), string(r.Host.Of(data))
	if u, err := url.Parse(target); method != "CONNECT" && err == nil && u.Scheme != "" && u.Opaque == "" && (u.Host != "" || u.Path != "") {
		_, query, asked := strings.Cut(target, "?")
		switch target = string(r.Path.Of(data)); {
		case target != "":
		case method == "OPTIONS" && !asked:
			target = "*"
		default:
			target = "/"
		}
		if asked {
			target += "?" + query
		}
	}
	return meant{method, target, strings.ToLower(host), r.Minor, r.ContentLength, r.Chunked}
}

// responseForwardTests have the response head and what is passed on, both without their
// empty line.
var responseForwardTests = []struct {
	rule string
	name string
	in   string
	want string
}{
	{"RFC 9112 9.6", "no Connection", ok + "X:  a \r\n", ok + "X:  a \r\n" + closes},
	{"RFC 9112 9.6", "close", ok + closes + "X: a\r\n", ok + "X: a\r\n" + closes},
	{"RFC 9112 9.6", "HTTP/1.0", "HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\n", "HTTP/1.0 404 Not Found\r\n" + closes},
	{"RFC 9110 7.6.1", "hop-by-hop fields", ok + "Connection: keep-alive\r\nKEEP-ALIVE: timeout=5\r\nProxy-Connection: a\r\nTE: b\r\nHTTP2-Settings: c\r\nX: d\r\n", ok + "X: d\r\n" + closes},
	{"RFC 9110 7.6.1", "nominated fields", ok + "X: a\r\nConnection: x,\tY\r\nconnection: Z\r\nY: b\r\nZ: c\r\nXY: d\r\n", ok + "XY: d\r\n" + closes},
	{"RFC 9110 7.6.1", "invalid option", ok + "Connection: \"a\", X\r\nX: a\r\nY: b\r\n", ok + "Y: b\r\n" + closes},
	{"RFC 9112 6", "Content-Length nominated", ok + "Connection: Content-Length\r\nContent-Length: 5\r\n", ok + "Content-Length: 5\r\n" + closes},
	{"RFC 9112 6", "Transfer-Encoding nominated", ok + "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", ok + "Transfer-Encoding: chunked\r\n" + closes},
	{"RFC 6265 3", "Set-Cookie nominated", ok + "Connection: set-cookie\r\nSet-Cookie: a=b\r\n", ok + "Set-Cookie: a=b\r\n" + closes},
	{"RFC 9110 7.6.1", "a request's fields nominated", ok + "Connection: Authorization, Forwarded, X-Forwarded-Host\r\nAuthorization: a\r\nForwarded: b\r\nX-Forwarded-Host: c\r\n", ok + "Authorization: a\r\nForwarded: b\r\nX-Forwarded-Host: c\r\n" + closes},
	{"RFC 9112 6.3", "Content-Length beside chunked", ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nTrailer: X\r\n", ok + "Transfer-Encoding: chunked\r\nTrailer: X\r\n" + closes},
	{"RFC 9112 6.3", "Content-Length twice", ok + "Content-Length: 5\r\nX: a\r\ncontent-length: 5\r\n", ok + "Content-Length: 5\r\nX: a\r\n" + closes},
	{"RFC 9110 7.8", "Upgrade", ok + "Connection: Upgrade\r\nUpgrade: h2c\r\n", ok + closes},
	{"RFC 9110 15.5.22", "426", "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: close, Upgrade\r\n"},
	{"RFC 9110 15.2", "100", "HTTP/1.1 100 Continue\r\n", "HTTP/1.1 100 Continue\r\n"},
	{"RFC 9110 15.2", "103 with Connection", "HTTP/1.1 103 Early Hints\r\nConnection: close, X\r\nX: a\r\nLink: b\r\n", "HTTP/1.1 103 Early Hints\r\nLink: b\r\n"},
	{"RFC 9112 4", "199", "HTTP/1.1 199\r\n", "HTTP/1.1 199 \r\n"},
	{"RFC 9112 4", "200 without a reason", "HTTP/1.1 200\r\n", "HTTP/1.1 200 \r\n" + closes},
	{"RFC 9112 4", "200 with an empty reason", "HTTP/1.1 200 \r\n", "HTTP/1.1 200 \r\n" + closes},
	{"RFC 9112 4", "two spaces before the status code", "HTTP/1.0  401 Not you\r\nX: a\r\n", "HTTP/1.0 401 Not you\r\nX: a\r\n" + closes},
	{"RFC 9112 4", "three spaces before the status code, no reason", "HTTP/1.1   200\r\n", "HTTP/1.1 200 \r\n" + closes},
	{"RFC 9112 5.2", "folded field", ok + "X: a,\r\n b\r\n\t c\r\nY: d\r\n", ok + "X: a, b c\r\nY: d\r\n" + closes},
	{"RFC 9112 5.2", "folded field with LF", ok + "X:\n a\n", ok + "X: a\r\n" + closes},
	{"RFC 9112 5.2", "folding of nothing", ok + "X:\r\n \r\n", ok + "X: \r\n" + closes},
	{"RFC 9112 5.2", "folded Connection", ok + "Connection: close,\r\n X\r\nX: a\r\nY: b\r\n", ok + "Y: b\r\n" + closes},
	{"RFC 9110 8.6", "1xx with Content-Length", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nLink: a\r\n", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n"},
	{"RFC 9112 6.1", "1xx with Transfer-Encoding", "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n", "HTTP/1.1 100 Continue\r\n"},
	{"RFC 9110 8.6", "204 with Content-Length", "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n", "HTTP/1.1 204 No Content\r\n" + closes},
	{"RFC 9112 6.1", "204 with Transfer-Encoding", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nX: a\r\n", "HTTP/1.1 204 No Content\r\nX: a\r\n" + closes},
	{"RFC 9110 8.6", "304 with Content-Length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n" + closes},
	{"RFC 9112 6.1", "304 with Transfer-Encoding", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n" + closes},
	{"RFC 9110 8.6", "205 with Content-Length", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n" + closes},
	{"RFC 9110 15.3.5", "204", "HTTP/1.1 204 No Content\r\n", "HTTP/1.1 204 No Content\r\n" + closes},
	{"RFC 9112 2.2", "bare LF", "HTTP/1.1 200 OK\nX: a\nSet-Cookie:\n", ok + "X: a\r\nSet-Cookie:\r\n" + closes},
	{"RFC 9110 5.1", "aliases", ok + "X_Tag: a\r\nX.Tag: b\r\n", ok + "X_Tag: a\r\nX.Tag: b\r\n" + closes},
}

func TestForwardResponse(t *testing.T) {
	for _, test := range responseForwardTests {
		for _, end := range []string{"\r\n", "\n"} {
			t.Run(test.rule+" "+test.name, func(t *testing.T) {
				in, want := test.in+end, test.want+"\r\n"
				r := feedResponse(t, in)
				if r.head.verdict != HTTP {
					t.Fatalf("%q: %v, %v", in, r.head.verdict, r.Err())
				}
				data := []byte(in + "body")
				if got := string(r.Forward([]byte("before "), data, false)); got != "before "+want {
					t.Errorf("%q:\ngot  %q\nwant %q", in, got, "before "+want)
				}
				if string(data) != in+"body" {
					t.Errorf("%q: changed to %q", in, data)
				}
				s := readResponse(want)
				if s.head.verdict != HTTP || s.Status != r.Status || s.Minor != r.Minor || framing(s) != framing(r) {
					t.Errorf("%q: passed on, a reader reads %+v, want %+v", want, *s, *r)
				}
			})
		}
	}
}

// framing returns what says how long the body of r is.
func framing(r *Response) (f struct {
	length  int64
	chunked bool
}) {
	f.length, f.chunked = r.ContentLength, r.Chunked
	if r.Status < 200 || r.Status == 204 {
		f.length, f.chunked = -1, false // whatever it says
	}
	return f
}

func TestForwardTunnel(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\n"
	for _, test := range []struct{ rule, name, in, want string }{ // without their empty line
		{"RFC 9110 7.8", "as it should be", switching + upgrades + "upgrade:  websocket \r\nX_Y: a\r\n", switching + upgrades + "upgrade:  websocket \r\nX_Y: a\r\n"},
		{"RFC 9110 8.6", "Content-Length", switching + "Content-Length: 0\r\n" + upgrades, switching + upgrades},
		{"RFC 9112 6.1", "Transfer-Encoding", switching + upgrades + "transfer-encoding: chunked\r\n", switching + upgrades},
		{"RFC 9110 9.3.6", "CONNECT", ok + "Content-Length: 5\r\nProxy-Agent: a\r\n", ok + "Proxy-Agent: a\r\n"},
		{"RFC 9112 4", "status line", "HTTP/1.1  101\n" + upgrades, "HTTP/1.1 101 \r\n" + upgrades},
		{"RFC 9112 5.2", "folded field", switching + "X: a\r\n b\n" + upgrades, switching + "X: a b\r\n" + upgrades},
	} {
		t.Run(test.rule+" "+test.name, func(t *testing.T) {
			in := test.in + "\r\n"
			r := feedResponse(t, in)
			if r.head.verdict != HTTP {
				t.Fatalf("%q: %v, %v", in, r.head.verdict, r.Err())
			}
			if got, want := string(r.ForwardTunnel([]byte("before "), []byte(in+"tunnel"))), "before "+test.want+"\r\n"; got != want {
				t.Errorf("%q:\ngot  %q\nwant %q", in, got, want)
			}
		})
	}
}

func TestSwitches(t *testing.T) {
	const (
		switching = "HTTP/1.1 101 Switching Protocols\r\n"
		accept    = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" // of RFC 6455 section 1.3
	)
	tests := []struct {
		rule  string
		name  string
		asked string // the protocol
		in    string // without the empty line
		want  bool
	}{
		{"RFC 6455 4.1", "WebSocket", "websocket", switching + upgrades + "Upgrade: websocket\r\n" + accept, true},
		{"RFC 6455 4.1", "WebSocket in other letters", "websocket", switching + "connection: keep-alive, UPGRADE\r\nupgrade: WebSocket\r\nsec-websocket-accept:s3pPLMBiTxaQ9kYGzzhZRbK+xOo= \r\n", true},
		{"RFC 6455 4.1", "WebSocket with LF", "websocket", "HTTP/1.1 101\nConnection: Upgrade\nUpgrade: websocket\n" + accept, true},
		{"RFC 6455 4.1", "no proof", "websocket", switching + upgrades + "Upgrade: websocket\r\n", false},
		{"RFC 6455 4.1", "empty proof", "websocket", switching + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Accept:\r\n", false},
		{"RFC 6455 4.1", "wrong proof", "websocket", switching + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n", false},
		{"RFC 6455 4.1", "proof in other letters", "websocket", switching + upgrades + "Upgrade: websocket\r\n" + strings.Replace(accept, "s3p", "S3p", 1), false},
		{"RFC 6455 4.1", "the key for proof", "websocket", switching + upgrades + "Upgrade: websocket\r\nSec-WebSocket-Accept: dGhlIHNhbXBsZSBub25jZQ==\r\n", false},
		{"RFC 6455 4.1", "proof twice", "websocket", switching + upgrades + "Upgrade: websocket\r\n" + accept + accept, false},
		{"RFC 9110 7.8", "another protocol", "other", switching + upgrades + "Upgrade: Other\r\n", true},
		{"RFC 9110 7.8", "no Connection", "other", switching + "Upgrade: other\r\n", false},
		{"RFC 9110 7.8", "Connection without upgrade", "other", switching + "Connection: keep-alive\r\nUpgrade: other\r\n", false},
		{"RFC 9110 7.8", "no Upgrade", "other", switching + upgrades, false},
		{"RFC 9110 7.8", "protocol not asked for", "other", switching + upgrades + "Upgrade: websocket\r\n" + accept, false},
		{"RFC 9110 7.8", "WebSocket asked for, another protocol", "websocket", switching + upgrades + "Upgrade: other\r\n" + accept, false},
		{"RFC 9110 7.8", "two protocols", "other", switching + upgrades + "Upgrade: other, foo\r\n", false},
		{"RFC 9110 7.8", "two Upgrade fields", "other", switching + upgrades + "Upgrade: other\r\nUpgrade: foo\r\n", false},
		{"RFC 9110 7.8", "nothing asked for", "", switching + upgrades + "Upgrade: other\r\n", false},
		{"RFC 9110 7.8", "nothing asked for, empty Upgrade", "", switching + upgrades + "Upgrade:\r\n", false},
		{"RFC 9110 15.2", "101 of HTTP/1.0, which has no 1xx", "other", "HTTP/1.0 101 Switching Protocols\r\n" + upgrades + "Upgrade: other\r\n", false},
		{"RFC 9110 15.2.2", "100", "other", "HTTP/1.1 100 Continue\r\n" + upgrades + "Upgrade: other\r\n", false},
		{"RFC 9110 15.2.2", "200", "other", ok + upgrades + "Upgrade: other\r\n", false},
	}
	for _, test := range tests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) {
			request := []byte(start + upgrades + "Upgrade: " + test.asked + "\r\n" + nonce + "\r\n")
			f := &Forward{Upgrades: []string{"websocket", "other"}}
			sent, err := f.Request(read(Options{}, string(request)), request)
			if err != nil || sent.Upgrade != test.asked {
				t.Fatalf("asked for %q, %v", sent.Upgrade, err)
			}
			key := string(sent.Key)
			in := test.in + "\r\n"
			r := feedResponse(t, in)
			if r.head.verdict != HTTP {
				t.Fatalf("%q: %v, %v", in, r.head.verdict, r.Err())
			}
			for range 2 { // asking changes nothing
				if got := sent.Switches(r, []byte(in)); got != test.want {
					t.Errorf("%q after a request for %q: got %v, want %v", in, test.asked, got, test.want)
				}
			}
			if string(sent.Key) != key {
				t.Errorf("key changed to %q", sent.Key)
			}
		})
	}
}

func TestWithClose(t *testing.T) {
	tests := []struct {
		rule    string
		name    string
		lenient bool
		in      string
		added   bool
	}{
		{"RFC 9112 9.6", "no Connection", false, start + "X: a\r\n", true},
		{"RFC 9112 9.6", "no fields", false, "GET / HTTP/1.0\r\n", true},
		{"RFC 9112 9.6", "keep-alive", false, start + "Connection: keep-alive\r\nX: a\r\n", true},
		{"RFC 9112 9.6", "another option with close in its name", false, start + "Connection: closed\r\n", true},
		{"RFC 9112 9.6", "close in another field", false, start + "X: close\r\n", true},
		{"RFC 9112 9.6", "close", false, start + closes + "X: a\r\n", false},
		{"RFC 9112 9.6", "close in other letters, in a list", false, start + "Connection: X\r\nconnection: keep-alive ,\tCLOSE\r\n", false},
		{"RFC 9110 7.8", "upgrade", false, start + upgrades + webSocket, false},
		{"RFC 9110 7.8", "upgrade in other letters, in a list", false, start + "Connection: keep-alive,upgrade\r\n", false},
		{"RFC 9110 7.8", "Upgrade without the option", false, start + webSocket, true},
		{"RFC 9110 7.6.1", "nominations are the server's to judge", false, start + "Connection: Cookie, \"\r\n", true},
		{"RFC 9112 2.2", "bare LF", true, "GET / HTTP/1.1\nHost: a\n", true},
		{"RFC 9112 5.2", "folded field at the end", true, start + "X: a\r\n b\r\n", true},
		{"RFC 9112 5.2", "folded close", true, start + "Connection: X,\r\n close\r\n", false},
		{"RFC 9112 5.2", "folded upgrade", true, start + "Connection: X,\n\tupgrade\n", false},
	}
	for _, test := range tests {
		t.Run(test.rule+" "+test.name, func(t *testing.T) {
			in, want := test.in+"\r\n", test.in+"\r\n"
			if test.added {
				want = test.in + closes + "\r\n"
			}
			r := feed(t, Options{Lenient: test.lenient}, in)
			if r.verdict != HTTP {
				t.Fatalf("%q: %v, %v", in, r.verdict, r.Err())
			}
			data := []byte(in + "body")
			got := r.WithClose(data)
			if string(got) != want {
				t.Errorf("%q:\ngot  %q\nwant %q", in, got, want)
			}
			if same := &got[0] == &data[0]; same == test.added {
				t.Errorf("%q: the bytes received are passed on: %v", in, same)
			}
			if _ = append(got, "more"...); !bytes.Equal(data, []byte(in+"body")) {
				t.Errorf("%q: appending changes the data to %q", in, data)
			}
			if cap(got) != len(got) {
				t.Errorf("%q: appending to the head does not copy", in)
			}
		})
	}
}
