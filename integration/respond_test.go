package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// respondRoutes are routes of inspect that answer, before one that leads to a site.
const respondRoutes = `
	@moved http_request path /old/*
	route @moved {
		http_respond 301 {
			header Location https://{l4.http.host}{l4.http.uri}
		}
	}
	@private http_request path /private/*
	route @private {
		rewrite_head {
			strip_prefix /private
		}
		http_respond 403 "not you: {l4.http.path}"
	}
	@empty http_request path /empty
	route @empty {
		http_respond 204
	}
`

// TestHTTPRespond checks answers to the first request and to later ones, on a server of
// layer4, behind its TLS, and in a listener wrapper.
func TestHTTPRespond(t *testing.T) {
	plain, secure, port := freeport.Address(t), freeport.Address(t), freeport.Get(t)
	wrapper := "127.0.0.1:" + port
	start(t, `{
		local_certs
		skip_install_trust
		servers `+wrapper+` {
			listener_wrappers {
				layer4 {
					route {
						inspect {
							`+respondRoutes+`
							route {
								http_app
							}
						}
					}
				}
			}
		}
		layer4 {
			`+plain+` {
				route {
					inspect {
						`+respondRoutes+`
						route {
							http_app site
						}
					}
				}
			}
			`+secure+` {
				route {
					tls {
						connection_policy {
							alpn http/1.1
						}
					}
					inspect {
						`+respondRoutes+`
						route {
							http_app site:81
						}
					}
				}
			}
		}
	}
	http://:`+port+` {
		bind 127.0.0.1
		respond "site {uri}"
	}
	http://:81 {
		bind streamprox/site
		respond "site {uri}"
	}
	https://example.com:`+freeport.Get(t)+` {
		bind streamprox/certificates
		respond certificates
	}`)
	for name, connect := range map[string]func() net.Conn{
		"layer4":  func() net.Conn { return dial(t, plain) },
		"wrapper": func() net.Conn { return dial(t, wrapper) },
		"TLS": func() (conn net.Conn) {
			eventually(t, "certificate", func() bool {
				tlsConn := tls.Client(dial(t, secure), tlsClient("http/1.1"))
				conn = tlsConn
				return tlsConn.Handshake() == nil
			})
			return conn
		},
	} {
		for _, test := range []struct{ method, path, status, location, content string }{
			{"GET", "/old/a?b", "301 Moved Permanently", "https://example.com/old/a?b", ""},
			{"GET", "/private/x", "403 Forbidden", "", "not you: /x"},
			{"HEAD", "/private/x", "403 Forbidden", "", ""},
			{"GET", "/empty", "204 No Content", "", ""},
		} {
			for kept := range 3 {
				t.Run(fmt.Sprintf("%s/%s %s/after %d", name, test.method, test.path, kept), func(t *testing.T) {
					conn := connect()
					r := bufio.NewReader(conn)
					for i := range kept {
						_, _ = fmt.Fprintf(conn, "GET /%d HTTP/1.1\r\nHost: example.com\r\n\r\n", i)
						if got, want := contentOrClosed(t, r), fmt.Sprintf("site /%d", i); got != want {
							t.Fatalf("before it: got %q, want %q", got, want)
						}
					}
					// What nobody reads does not destroy the answer.
					content := strings.Repeat("x", 64<<10)
					_, _ = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n%s", test.method, test.path, len(content), content)
					expectResponse(t, r, test.method, test.status, test.location, test.content)
				})
			}
			t.Run(fmt.Sprintf("%s/%s %s/sent ahead", name, test.method, test.path), func(t *testing.T) {
				conn := connect()
				_, _ = fmt.Fprintf(conn, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n%s %s HTTP/1.1\r\nHost: example.com\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n", test.method, test.path)
				r := bufio.NewReader(conn)
				if got := contentOrClosed(t, r); got != "site /1" {
					t.Fatalf("before it: got %q", got)
				}
				expectResponse(t, r, test.method, test.status, test.location, test.content)
			})
		}
	}
	// Whatever is no request is closed.
	for _, sent := range []string{"SSH-2.0-OpenSSH_9.6 Debian-3\r\n", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"} {
		address := freeport.Address(t)
		start(t, layer4Caddyfile(address, "@all inspected http tls other\nroute @all {\nhttp_respond 200 hello\n}"))
		conn := dial(t, address)
		send(t, conn, sent, 1)
		expectAnswer(t, conn, "ended")
	}
}

// expectResponse checks the next response, and that it is the last one.
func expectResponse(t *testing.T, r *bufio.Reader, method, status, location, content string) {
	t.Helper()
	response, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("reading the response: %v", err)
	}
	got, err := io.ReadAll(response.Body)
	if response.Status != status || response.Header.Get("Location") != location || string(got) != content || err != nil || !response.Close {
		t.Errorf("got status %q, location %q, content %q, error %v, close %t; want %q, %q, %q and the end",
			response.Status, response.Header.Get("Location"), got, err, response.Close, status, location, content)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after the response: %v, want the end", err)
	}
}

// TestHTTPRespondOutsideInspect checks that what inspect has not read is closed, and that
// a request which no route takes is answered by a handler after it.
func TestHTTPRespondOutsideInspect(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	address := freeport.Address(t)
	s := start(t, "{\n layer4 {\n "+address+" {\n route {\n http_respond 200 hello\n }\n }\n }\n}")
	conn := dial(t, address)
	send(t, conn, request, 1<<20)
	if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !isReset(err) {
		t.Errorf("without inspect: got %q, error %v, want the end", got, err)
	}
	s.logs.expect(t, map[string]any{"level": "warn", "msg": "closing a stream on which inspect has read no request for http_respond to answer"})

	address = freeport.Address(t)
	start(t, "{\n layer4 {\n "+address+" {\n route {\n inspect\n http_respond 410\n }\n }\n }\n}")
	conn = dial(t, address)
	send(t, conn, request, 1)
	expectResponse(t, bufio.NewReader(conn), "GET", "410 Gone", "", "")
}
