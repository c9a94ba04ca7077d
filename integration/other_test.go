package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// otherOpenings are first bytes of the outcome other that servers read as a request for
// /secret/x, or go on reading behind. Each is followed by a request that is one to all.
var otherOpenings = []struct{ name, bytes string }{
	{"RTSP", head("GET /secret/x RTSP/1.0", "Host: a.example")},
	{"RTSP 1.1 with a body", head("POST /secret/x RTSP/1.1", "Host: a.example", "Content-Length: 5") + "hello"},
	{"ICE", head("SOURCE /secret/x ICE/1.0", "Host: a.example")},
	{"X/1.1", head("GET /secret/x X/1.1", "Host: a.example")},
	{"method of 33 letters", head(strings.Repeat("A", 33)+" /secret/x HTTP/1.1", "Host: a.example")},
	{"method of 60 letters", head(strings.Repeat("A", 60)+" /secret/x HTTP/1.1", "Host: a.example")},
	{"method of 200 letters", head(strings.Repeat("A", 200)+" /secret/x HTTP/1.1", "Host: a.example")},
	{"tab before the target", head("FOO \t/secret/x?a HTTP/1.1", "Host: a.example")},
	{"tab after the method", head("PURGE\t/secret/x HTTP/1.1", "Host: a.example")},
	{"CONNECT without a version", "CONNECT evil:443\r\n\r\n"},
	{"target without a slash and a version", "GET secret/x\r\n\r\n"},
	{"SSH", "SSH-2.0-OpenSSH_9.6 Debian-3\r\n"},
	{"SMTP", "EHLO example.com\r\n"},
}

// TestOther sends what is no request to inspect to the catch-all route before each
// server: none of it may get there, nor a request behind it. With lenient, a method may
// be long, and its request goes where its path says.
func TestOther(t *testing.T) {
	const behind = "GET /secret/behind HTTP/1.1\r\nHost: a.example\r\n\r\n"
	for _, server := range servers {
		if server.name == "raw" {
			continue
		}
		t.Run(server.name, func(t *testing.T) {
			d := &desync{}
			a, secret := server.start(t, d), startGo(t)
			site := newRecorder()
			site.register(t, "site")
			strict, lenient, app := freeport.Address(t), freeport.Address(t), freeport.Address(t)
			routes := func(lastly string) string {
				return `
					@secret http_request path /secret/*
					route @secret {
						relay ` + secret.Addr() + `
					}
					route {
						` + lastly + `
					}`
			}
			layer4Server := func(address, inspect string) string {
				return address + " {\n route {\n inspect {\n" + inspect + "\n}\n}\n}\n"
			}
			start(t, "{\n layer4 {\n"+
				layer4Server(strict, routes("relay "+a.Addr()))+
				layer4Server(lenient, "lenient\n"+routes("relay "+a.Addr()))+
				layer4Server(app, routes("http_app web"))+
				"}\n}\n"+recorderSite(":80", "streamprox/web", "site")+d.sites)
			waitForListener(t, a.Addr())
			a.Seen(t)

			for _, opening := range otherOpenings {
				for _, address := range []string{strict, lenient, app} {
					for _, piece := range pieces {
						conn := dial(t, address)
						send(t, conn, opening.bytes+behind, piece.size)
						_ = conn.CloseWrite()
						_, _ = io.ReadAll(conn)
						conn.Close()
					}
				}
				if seen := a.Seen(t); len(seen) > 0 {
					t.Errorf("%s: the server of the catch-all route saw %q", opening.name, seen)
				}
				if seen := site.Seen(t); len(seen) > 0 {
					t.Errorf("%s: the HTTP app saw %q", opening.name, seen)
				}
			}

			// As the second request of a connection that the HTTP app has.
			for _, opening := range otherOpenings {
				conn := dial(t, app)
				c := &client{TCPConn: conn, r: bufio.NewReader(conn), size: 1 << 20, d: d}
				sends(getSite)(t, c)
				gets(200)(t, c)
				sends(opening.bytes+behind)(t, c)
				_ = conn.CloseWrite()
				_, _ = io.ReadAll(c.r)
				conn.Close()
				if seen := complete(site.Seen(t)); len(seen) != 1 || seen[0] != seenSite {
					t.Errorf("%s behind a request: the HTTP app saw %q, want %q", opening.name, seen, seenSite)
				}
			}
		})
	}
}

// TestLenientTakesLongMethods: with lenient a method of any length is one, as to Go's
// server, and its request is routed by its path.
func TestLenientTakesLongMethods(t *testing.T) {
	address, a, secret := freeport.Address(t), startGo(t), startGo(t)
	start(t, layer4Caddyfile(address, `
		lenient
		@secret http_request path /secret/*
		route @secret {
			relay `+secret.Addr()+`
		}
		route {
			relay `+a.Addr()+`
		}
	`))
	for _, n := range []int{33, 200} {
		for _, piece := range pieces {
			method := strings.Repeat("A", n)
			resp, _ := roundTrip(t, dial(t, address), head(method+" /secret/x HTTP/1.1", "Host: a.example"), piece.size)
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%d letters, %s: got %s", n, piece.name, resp.Status)
			}
		}
		if got := complete(secret.Seen(t)); len(got) != 2 {
			t.Errorf("%d letters: the server of /secret/* saw %q, want two requests", n, got)
		}
	}
	if got := a.Seen(t); len(got) > 0 {
		t.Errorf("the server of the catch-all route saw %q", got)
	}
}

// TestOtherIsNotForHTTPServers: the HTTP app answers what is no request to inspect with
// 400, where a route names the outcome and where the stream falls through to a wrapped
// server. What a route's own handler has read of it is not its first bytes any more.
func TestOtherIsNotForHTTPServers(t *testing.T) {
	site := newRecorder()
	site.register(t, "site")
	address, port, through := freeport.Address(t), freeport.Get(t), freeport.Get(t)
	start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						@other inspected other
						route @other {
							http_app web
						}
					}
				}
			}
		}
		servers 127.0.0.1:`+port+` {
			listener_wrappers {
				layer4 {
					route {
						inspect {
							@ice http_request method SOURCE
							route @ice {
								http_app
							}
							@named {
								inspected other
								regexp ^EHLO 4
							}
							route @named {
								http_app
							}
						}
					}
				}
			}
		}
		servers 127.0.0.1:`+through+` {
			listener_wrappers {
				layer4 {
					route {
						inspect {
							@other inspected other
							route @other {
								proxy_protocol {
									allow 127.0.0.0/8
								}
							}
						}
					}
				}
			}
		}
	}`+recorderSite(":80", "streamprox/web", "site")+recorderSite(":"+port, "127.0.0.1", "site")+recorderSite(":"+through, "127.0.0.1", "site"))
	for name, address := range map[string]string{"named": address, "wrapped": "127.0.0.1:" + port, "wrapped, named": "127.0.0.1:" + through} {
		for _, opening := range otherOpenings {
			if name == "wrapped, named" {
				continue // go-proxyproto waits for what it takes for a header
			}
			for _, piece := range pieces {
				conn := dial(t, address)
				send(t, conn, opening.bytes, piece.size)
				expectAnswer(t, conn, "400")
				conn.Close()
			}
		}
	}
	if seen := site.Seen(t); len(seen) > 0 {
		t.Errorf("the servers saw %q", seen)
	}

	conn := dial(t, "127.0.0.1:"+through)
	send(t, conn, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 1<<20)
	if resp, _ := roundTrip(t, conn, getSite, 1<<20); resp.StatusCode != http.StatusOK {
		t.Errorf("behind a PROXY header: got %s", resp.Status)
	}
	if got := complete(site.Seen(t)); len(got) != 1 || got[0] != seenSite {
		t.Errorf("behind a PROXY header: the server saw %q", got)
	}
}

// TestOtherReachesWhoHasReadIt: a route whose matchers have recognized the bytes gets
// them without naming the outcome. One that only rules something out, or that looks at
// addresses, does not.
func TestOtherReachesWhoHasReadIt(t *testing.T) {
	for _, test := range []struct {
		matchers string
		takes    bool
	}{
		{"ssh", true},
		{"regexp ^SSH 3", true},
		{"inspected other", true},
		{"@m {\n ssh\n remote_ip 127.0.0.0/8\n}", true},
		{"@m {\n not tls\n regexp ^SSH 3\n}", true},
		{"remote_ip 127.0.0.0/8", false},
		{"not http_request path /x", false},
		{"not tls", false},
		{"not regexp ^EHLO 4", false},
		{"@m {\n not tls\n remote_ip 127.0.0.0/8\n}", false},
		{"http_request path *", false},
	} {
		t.Run(test.matchers, func(t *testing.T) {
			address := freeport.Address(t)
			matchers := test.matchers
			if !strings.HasPrefix(matchers, "@") {
				name, rest, _ := strings.Cut(matchers, " ")
				if name == "not" {
					matchers = "@m {\n not " + rest + "\n}"
				} else {
					matchers = "@m " + matchers
				}
			}
			start(t, layer4Caddyfile(address, matchers+`
				route @m {
					relay `+backend(t, echo("taken"))+`
				}
			`))
			for _, piece := range pieces {
				conn := dial(t, address)
				send(t, conn, "SSH-2.0-OpenSSH_9.6 Debian-3\r\n", piece.size)
				_ = conn.CloseWrite()
				got, _ := bufio.NewReader(conn).ReadString('\n')
				if want := map[bool]string{true: "taken\n", false: ""}[test.takes]; got != want {
					t.Errorf("%s: got %q, want %q", piece.name, got, want)
				}
			}
		})
	}
}

// TestOtherIsNotForTheStockHTTPMatcher: caddy-l4's http takes methods of any length. That
// brings no stream which inspect cannot read to a server of HTTP, past the other routes.
func TestOtherIsNotForTheStockHTTPMatcher(t *testing.T) {
	address, a, secret := freeport.Address(t), startGo(t), startGo(t)
	start(t, layer4Caddyfile(address, `
		@secret http_request path /secret/*
		route @secret {
			relay `+secret.Addr()+`
		}
		@site http host a.example
		route @site {
			relay `+a.Addr()+`
		}
	`))
	for _, opening := range otherOpenings {
		for _, piece := range pieces {
			conn := dial(t, address)
			send(t, conn, opening.bytes+head("GET /secret/behind HTTP/1.1", "Host: a.example"), piece.size)
			_ = conn.CloseWrite()
			_, _ = io.ReadAll(conn)
			conn.Close()
		}
		if seen := append(a.Seen(t), secret.Seen(t)...); len(seen) > 0 {
			t.Errorf("%s: the servers saw %q", opening.name, seen)
		}
	}
	if resp, _ := roundTrip(t, dial(t, address), head("GET / HTTP/1.1", "Host: a.example"), 1<<20); resp.StatusCode != http.StatusOK {
		t.Errorf("a request: got %s", resp.Status)
	}
	if got := complete(a.Seen(t)); len(got) != 1 {
		t.Errorf("a request: the server saw %q", got)
	}
}

// recordedConn keeps the first bytes that are written to it.
type recordedConn struct {
	net.Conn
	first []byte
}

func (c *recordedConn) Write(p []byte) (int, error) {
	if c.first == nil {
		c.first = append(c.first, p...)
	}
	return c.Conn.Write(p)
}

// padded is a request with exactly n bytes.
func padded(t *testing.T, line string, n int) string {
	t.Helper()
	request := head(line, "Host: example.com", "X: ")
	if n < len(request) {
		t.Fatalf("%d bytes are too few for %q", n, request)
	}
	return head(line, "Host: example.com", "X: "+fmt.Sprint(strings.Repeat("x", n-len(request))))
}
