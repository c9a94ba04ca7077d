package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// script is a connection on which requests are sent and answers read.
type script struct {
	t    *testing.T
	conn io.Writer
	r    *bufio.Reader
}

func newScript(t *testing.T, address string) *script {
	conn := dial(t, address)
	return &script{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// get sends a request for each target in one packet and compares the contents of the
// answers. "end" stands for the end of the connection.
func (s *script) get(targets string, want ...string) {
	s.t.Helper()
	var requests strings.Builder
	for target := range strings.FieldsSeq(targets) {
		fmt.Fprintf(&requests, "GET %s HTTP/1.1\r\nHost: example.com\r\n\r\n", target)
	}
	_, _ = io.WriteString(s.conn, requests.String())
	for _, want := range want {
		got := "end"
		if response, err := http.ReadResponse(s.r, nil); err == nil {
			content, err := io.ReadAll(response.Body)
			if err != nil {
				content = fmt.Append(content, err)
			}
			got = string(content)
		}
		if got != want {
			s.t.Errorf("after %s: got %q, want %q", targets, got, want)
		}
	}
}

// TestRequestsAreRoutedBySubroutes checks that what decides inside a route decides for
// each request: a subroute, and another inspect.
func TestRequestsAreRoutedBySubroutes(t *testing.T) {
	for _, around := range []string{"subroute", "inspect"} {
		t.Run(around, func(t *testing.T) {
			address := freeport.Address(t)
			start(t, `{
				layer4 {
					`+address+` {
						route {
							inspect {
								@x http_request path /x/*
								route @x {
									`+around+` {
										@b http_request path /x/b/*
										route @b {
											relay `+httpBackend(t, "b")+`
										}
										route {
											http_app one
										}
									}
								}
								route {
									http_app two
								}
							}
						}
					}
				}
			}
			http://:80 {
				bind streamprox/one
				respond "one {uri}"
			}
			http://:81 {
				bind streamprox/two
				respond "two {uri}"
			}`)
			s := newScript(t, address)
			s.get("/x/1 /x/2 /3 /x/4 /x/b/5 /x/6", "one /x/1", "one /x/2", "two /3", "one /x/4", "b GET /x/b/5 ", "one /x/6")
			s = newScript(t, address)
			s.get("/1", "two /1")
			s.get("/x/2", "one /x/2")
			s.get("/x/b/3", "b GET /x/b/3 ")
			s.get("/x/b/4 /x/b/5 /6", "b GET /x/b/4 ", "b GET /x/b/5 ", "two /6")
		})
	}
}

// TestRequestsLeaveAWrappedServer checks that a request on the connection of a wrapped
// server can leave it, and that one which wants back finds the connection closed.
func TestRequestsLeaveAWrappedServer(t *testing.T) {
	address := freeport.Address(t)
	_, port, _ := strings.Cut(address, ":")
	start(t, `{
		http_port `+port+`
		servers :`+port+` {
			listener_wrappers {
				layer4 {
					route {
						inspect {
							@b http_request path /b/*
							route @b {
								relay `+httpBackend(t, "b")+`
							}
							@two http_request path /two/*
							route @two {
								http_app two
							}
							route {
								rewrite_head {
									strip_prefix /x
								}
								http_app
							}
						}
					}
				}
			}
		}
	}
	http://127.0.0.1:`+port+`, http://example.com:`+port+` {
		respond "wrapped {uri}"
	}
	http://:81 {
		bind streamprox/two
		respond "two {uri}"
	}`)
	newScript(t, address).get("/1 /x/2 /b/3", "wrapped /1", "wrapped /2", "b GET /b/3 ", "end")
	newScript(t, address).get("/1 /two/2 /two/3 /4", "wrapped /1", "two /two/2", "two /two/3", "end")
	newScript(t, address).get("/two/1 /two/2 /3", "two /two/1", "two /two/2", "end")
	newScript(t, address).get("/two/1 /b/2", "two /two/1", "b GET /b/2 ", "end")
}

// TestRequestsAcrossAReload checks that a kept connection whose configuration has been
// replaced is not routed by what is gone.
func TestRequestsAcrossAReload(t *testing.T) {
	address := freeport.Address(t)
	caddyfile := func(backend, generation string) string {
		return `{
			layer4 {
				` + address + ` {
					route {
						inspect {
							@b http_request path /b/*
							route @b {
								relay ` + backend + `
							}
							route {
								http_app web
							}
						}
					}
				}
			}
		}
		http://:80 {
			bind streamprox/web
			@slow path /slow
			handle @slow {
				reverse_proxy ` + backend + `
			}
			respond "` + generation + `"
		}`
	}
	asked, letGo := make(chan struct{}), make(chan struct{})
	arrived, answer := sync.OnceFunc(func() { close(asked) }), sync.OnceFunc(func() { close(letGo) })
	slow := backend(t, func(conn net.Conn) {
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		if request.URL.Path != "/slow" {
			t.Errorf("%s goes where the old configuration sends it", request.URL.Path)
			return
		}
		arrived()
		<-letGo
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
	})
	t.Cleanup(answer) // before the backend, which waits for it
	s := start(t, caddyfile(slow, "old"))
	idle, busy := newScript(t, address), newScript(t, address)
	idle.get("/", "old")
	busy.get("/slow /b/2")
	await(t, "the slow request", asked)
	done := make(chan error, 1)
	go func() { done <- s.load(caddyfile(httpBackend(t, "b"), "new")) }()
	eventually(t, "the new configuration", func() bool {
		fresh := &script{t: t, conn: dial(t, address)}
		fresh.r = bufio.NewReader(fresh.conn.(io.Reader))
		_, _ = io.WriteString(fresh.conn, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
		response, err := http.ReadResponse(fresh.r, nil)
		if err != nil {
			return false
		}
		content, _ := io.ReadAll(response.Body)
		return string(content) == "new"
	})
	// Caddy starts the new configuration before it stops the old one, which still routes until
	// then. The idle connection shows when that is: it ends.
	idle.get("", "end")
	answer()
	busy.get("", "slow", "end")
	if err := <-done; err != nil {
		t.Errorf("loading: %v", err)
	}
}

// Where the requests of one connection go, with the default of relay and of http_app.
func TestLaterRequests(t *testing.T) {
	const closed = "closed"
	port, layer4 := freeport.Get(t), freeport.Address(t)
	wrapper := "127.0.0.1:" + port
	inspect := func(last string) string {
		return `inspect {
			@chat http_request path /chat/*
			route @chat {
				relay ` + httpBackend(t, "chat") + `
			}
			@other http_request path /other/*
			route @other {
				http_app other
			}
			@site http_request path /site/*
			route @site {
				` + last + `
			}
		}`
	}
	start(t, `{
		servers `+wrapper+` {
			listener_wrappers {
				layer4 {
					route {
						`+inspect("http_app")+`
					}
				}
			}
		}
		layer4 {
			`+layer4+` {
				route {
					`+inspect("http_app site")+`
				}
			}
		}
	}
	http://:`+port+` {
		bind 127.0.0.1
		respond "wrapped {uri}"
	}
	http://:81 {
		bind streamprox/site
		respond "site {uri}"
	}
	http://:82 {
		bind streamprox/other
		respond "other {uri}"
	}`)
	tests := []struct {
		name, address string
		paths, want   []string
	}{
		{"the same route", layer4, []string{"/site/1", "/site/2", "/site/3"}, []string{"site /site/1", "site /site/2", "site /site/3"}},
		{"to another site and back", layer4, []string{"/site/1", "/other/2", "/other/3", "/site/4"}, []string{"site /site/1", "other /other/2", "other /other/3", "site /site/4"}},
		{"to relay and back", layer4, []string{"/site/1", "/chat/2", "/site/3"}, []string{"site /site/1", "chat GET /chat/2 ", "site /site/3"}},
		{"relay alone", layer4, []string{"/chat/1", "/chat/2"}, []string{"chat GET /chat/1 ", "chat GET /chat/2 "}},
		{"no route", layer4, []string{"/site/1", "/none", "/site/2"}, []string{"site /site/1", "404 Not Found\n", closed}},
		{"wrapper: no route", wrapper, []string{"/site/1", "/none", "/site/2"}, []string{"wrapped /site/1", closed, closed}},
		{"malformed", layer4, []string{"/site/1", "/site/../chat/2", "/site/3"}, []string{"site /site/1", "400 Bad Request\n", closed}},
		{"wrapper: the same route", wrapper, []string{"/site/1", "/site/2"}, []string{"wrapped /site/1", "wrapped /site/2"}},
		{"wrapper: to relay", wrapper, []string{"/site/1", "/chat/2", "/site/3"}, []string{"wrapped /site/1", "chat GET /chat/2 ", closed}},
		{"wrapper: to another site", wrapper, []string{"/site/1", "/other/2", "/other/3"}, []string{"wrapped /site/1", "other /other/2", "other /other/3"}},
		{"wrapper: back to the wrapped server", wrapper, []string{"/site/1", "/other/2", "/site/3"}, []string{"wrapped /site/1", "other /other/2", closed}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, piece := range pieces {
				conn := dial(t, test.address)
				r := bufio.NewReader(conn)
				for i, path := range test.paths {
					send(t, conn, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n", piece.size)
					if got := contentOrClosed(t, r); got != test.want[i] {
						t.Errorf("%s, %s: got %q, want %q", piece.name, path, got, test.want[i])
					}
				}
			}
			conn := dial(t, test.address)
			send(t, conn, "GET "+strings.Join(test.paths, " HTTP/1.1\r\nHost: a\r\n\r\nGET ")+" HTTP/1.1\r\nHost: a\r\n\r\n", 1<<20)
			r := bufio.NewReader(conn)
			for i, path := range test.paths {
				if got := contentOrClosed(t, r); got != test.want[i] {
					t.Errorf("sent ahead, %s: got %q, want %q", path, got, test.want[i])
				}
			}
		})
	}
}

// contentOrClosed returns the content of the next response, or "closed" if there is none.
func contentOrClosed(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	if _, err := r.Peek(1); err != nil {
		if err != io.EOF && !isReset(err) {
			t.Errorf("waiting for a response: %v", err)
		}
		return "closed"
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("reading the response: %v", err)
	}
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("reading the content: %v", err)
	}
	return string(content)
}

// TestRequestsOutsideInspectsRoutes checks that handlers which no route of inspect has
// chosen take the whole connection, and say so.
func TestRequestsOutsideInspectsRoutes(t *testing.T) {
	const message = "only the first request of a connection is routed: "
	pinned := httpBackendKept(t, "kept")
	for _, test := range []struct{ name, before, handler, want string }{
		{"http_app without inspect", "", "http_app web", "site"},
		{"http_app after inspect", "inspect {\n @b http_request path /b/*\n route @b {\n relay 127.0.0.1:1\n }\n}\n", "http_app web", "site"},
		{"relay without inspect", "", "relay " + pinned, "kept"},
		{"relay after inspect", "inspect {\n @b http_request path /b/*\n route @b {\n relay 127.0.0.1:1\n }\n}\n", "relay " + pinned, "kept"},
	} {
		for _, reuse := range []string{"", "close"} {
			t.Run(test.name+" "+reuse, func(t *testing.T) {
				address := freeport.Address(t)
				handler, level, msg := test.handler, "info", message+"this handler is not in a route of inspect"
				if reuse != "" {
					handler += " {\n reuse " + reuse + "\n}"
					level, msg = "warn", message+"reuse has no effect outside the routes of inspect"
				}
				s := start(t, `{
					layer4 {
						`+address+` {
							route {
								`+test.before+handler+`
							}
						}
					}
				}
				http://:80 {
					bind streamprox/web
					respond "site {uri}"
				}`)
				newScript(t, address).get("/1 /b/2", test.want+" /1", test.want+" /b/2")
				newScript(t, address).get("/3", test.want+" /3")
				s.logs.expect(t, map[string]any{"level": level, "msg": msg})
			})
		}
	}
}

// httpBackendKept is an HTTP server that answers with its name and the target, and keeps
// its connections.
func httpBackendKept(t *testing.T, name string) string {
	t.Helper()
	return backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			content := name + " " + request.RequestURI
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(content), content)
		}
	})
}
