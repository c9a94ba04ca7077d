package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
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
			address := freeAddress(t)
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
			s.get("/x/1 /x/2 /3 /x/4 /x/b/5 /x/6", "one /x/1", "one /x/2", "two /3", "one /x/4", "b GET /x/b/5 ", "end")
			s = newScript(t, address)
			s.get("/1", "two /1")
			s.get("/x/2", "one /x/2")
			s.get("/x/b/3", "b GET /x/b/3 ", "end")
		})
	}
}

// TestRequestsLeaveAWrappedServer checks that a request on the connection of a wrapped
// server can leave it, and that one which wants back finds the connection closed.
func TestRequestsLeaveAWrappedServer(t *testing.T) {
	address := freeAddress(t)
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
	address := freeAddress(t)
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
	asked, answer := make(chan struct{}), make(chan struct{})
	slow := backend(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		close(asked)
		<-answer
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
	})
	s := start(t, caddyfile(slow, "old"))
	idle, busy := newScript(t, address), newScript(t, address)
	idle.get("/", "old")
	busy.get("/slow /b/2")
	<-asked
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
	close(answer)
	busy.get("", "slow", "end")
	if err := <-done; err != nil {
		t.Errorf("loading: %v", err)
	}
	idle.get("/b/2", "end")
}
