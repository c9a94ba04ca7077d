package integration

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// Everything after rewrite_head sees the edited request: matchers of a subroute, the
// relay's server and the HTTP app.
func TestRewriteHeadBeforeDestinations(t *testing.T) {
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						@app http_request path /app/*
						route @app {
							rewrite_head {
								host site.example
								strip_prefix /app
								header X-Path {l4.http.path}
								forwarded
							}
							http_app web
						}
						@placeholder http_request path /stock/*
						route @placeholder {
							rewrite_head {
								host {l4.http.header.X-Backend}
							}
							proxy {l4.http.host}
						}
						route {
							rewrite_head {
								host echo.example
								strip_prefix /echo
								header Origin http://echo.example
								header +X-Tag "{l4.inspect.outcome} {l4.http.host}"
								header -Cookie
							}
							subroute {
								@edited http_request {
									host echo.example
									path /room
									header Origin http://echo.example
									not header Cookie *
								}
								route @edited {
									relay `+headBackend(t)+`
								}
								route {
									relay `+backend(t, echo("not edited"))+`
								}
							}
						}
					}
				}
			}
		}
	}
	http://site.example:80 {
		bind streamprox/web
		respond "{http.request.host} {http.request.uri} {http.request.header.X-Path} {http.request.header.X-Forwarded-For} {http.request.header.X-Forwarded-Host}"
	}`)

	stock := headBackend(t)
	tests := []struct{ name, request, want string }{
		{
			name:    "relay",
			request: "GET /echo/room?a=b HTTP/1.1\r\norigin: http://www.example\r\nHost: www.example\r\nCookie: a=b\r\nx-TAG:1\r\n\r\n",
			want:    "GET /room?a=b HTTP/1.1\r\nOrigin: http://echo.example\r\nHost: echo.example\r\nx-TAG:1\r\nX-Tag: http www.example\r\n\r\n",
		},
		{
			name:    "http_app",
			request: "GET /app/a?b HTTP/1.1\r\nHost: www.example:8080\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
			want:    "site.example /a?b /app/a 127.0.0.1 www.example:8080",
		},
		{
			name:    "proxy with a placeholder",
			request: "GET /stock/a HTTP/1.1\r\nHost: www.example\r\nX-Backend: " + stock + "\r\n\r\n",
			want:    "GET /stock/a HTTP/1.1\r\nHost: " + stock + "\r\nX-Backend: " + stock + "\r\n\r\n",
		},
	}
	for _, test := range tests {
		for _, piece := range pieces {
			t.Run(test.name+"/"+piece.name, func(t *testing.T) {
				resp, got := roundTrip(t, dial(t, address), test.request, piece.size)
				if resp.StatusCode != http.StatusOK || got != test.want {
					t.Errorf("got %s %q, want 200 %q", resp.Status, got, test.want)
				}
			})
		}
	}
}

// What rewrite_head cannot edit never passes: what is not HTTP is closed, a request that
// the edits would break is answered.
func TestRewriteHeadRefuses(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, layer4Caddyfile(address, `
		@any inspected http other
		route @any {
			rewrite_head {
				header X-Path {l4.http.path}
			}
			relay `+backend(t, echo("passed"))+`
		}
	`))
	t.Run("not HTTP", func(t *testing.T) {
		conn := dial(t, address)
		send(t, conn, "SSH-2.0-client\r\n", 1<<20)
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !isReset(err) {
			t.Errorf("got %q, %v, want the end", got, err)
		}
		s.logs.expect(t, map[string]any{
			"level": "warn",
			"msg":   "closing a stream on which inspect has read no request head for rewrite_head to edit",
		})
	})
	for _, method := range []string{"GET", "HEAD", "POST"} {
		t.Run(method, func(t *testing.T) {
			conn := dial(t, address)
			send(t, conn, method+" /a%0d%0aX-Evil:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100_000), 1<<20)
			got := receive(t, conn)
			status, rest, _ := strings.Cut(got, "\r\n")
			if want := "HTTP/1.1 400 Bad Request"; status != want {
				t.Errorf("got %q, want %q", status, want)
			}
			if hasBody := !strings.HasSuffix(rest, "\r\n\r\n"); hasBody != (method != "HEAD") {
				t.Errorf("got %q, content: %t, want %t", got, hasBody, method != "HEAD")
			}
		})
	}
}

// A client cannot set what a CGI application is told of it, in no spelling that the
// server does not tell from the one that rewrite_head and relay look after.
func TestFieldsOfCGI(t *testing.T) {
	upstream, address := startLighttpd(t), freeport.Address(t)
	start(t, layer4Caddyfile(address, `
		@relayed http_request path /relayed/*
		route @relayed {
			rewrite_head {
				strip_prefix /relayed
			}
			relay `+upstream+`
		}
		@kept http_request path /kept/*
		route @kept {
			rewrite_head {
				strip_prefix /kept
			}
			relay `+upstream+` {
				keep_alias_headers
			}
		}
		@deleted http_request path /deleted/*
		route @deleted {
			rewrite_head {
				strip_prefix /deleted
				forwarded
				header -X-User
			}
			relay `+upstream+` {
				keep_alias_headers
			}
		}
		@set http_request path /set/*
		route @set {
			rewrite_head {
				strip_prefix /set
				forwarded
				header X-User ours
			}
			relay `+upstream+` {
				keep_alias_headers
			}
		}
		route {
			rewrite_head {
				forwarded
				header X-User ours
			}
			relay `+upstream+`
		}
	`))

	const client = "HTTP_X_FORWARDED_FOR=client\nHTTP_X_FORWARDED_PROTO=client\nHTTP_X_REAL_IP=client\nHTTP_X_USER=client\n"
	const forwarded = "HTTP_X_FORWARDED_FOR=127.0.0.1\nHTTP_X_FORWARDED_HOST=a.example\nHTTP_X_FORWARDED_PROTO=http\n"
	tests := []struct{ name, address, path, want string }{
		{"not through streamprox", upstream, "/env.cgi", client},
		{"keep_alias_headers", address, "/kept/env.cgi", client},
		{"relay", address, "/relayed/env.cgi", ""},
		{"header -X-User, keep_alias_headers", address, "/deleted/env.cgi", forwarded},
		{"header X-User, keep_alias_headers", address, "/set/env.cgi", forwarded + "HTTP_X_USER=ours\n"},
		{"header X-User", address, "/env.cgi", forwarded + "HTTP_X_USER=ours\n"},
	}
	for _, aliases := range [][]string{
		{"X!Forwarded!For", "X~Real~IP", "X-Forwarded'Proto", "X!User"},
		{"x_forwarded_for", "x_real_ip", "x_forwarded_proto", "x_user"},
		{"X.Forwarded|For", "X*Real+IP", "X^Forwarded&Proto", "X%User"},
	} {
		request := "Host: a.example\r\n"
		for _, alias := range aliases {
			request += alias + ": client\r\n"
		}
		for _, test := range tests {
			t.Run(test.name+"/"+aliases[0], func(t *testing.T) {
				resp, got := roundTrip(t, dial(t, test.address), "GET "+test.path+" HTTP/1.1\r\n"+request+"\r\n", 1<<20)
				if resp.StatusCode != http.StatusOK || got != test.want {
					t.Errorf("got %s %q, want 200 %q", resp.Status, got, test.want)
				}
			})
		}
	}
}

// startLighttpd starts lighttpd with /env.cgi, which tells of the request's fields what a
// CGI application is told: those that begin with X.
func startLighttpd(t *testing.T) string {
	t.Helper()
	program, dir, port := tool(t, "lighttpd"), t.TempDir(), freeport.Get(t)
	config := filepath.Join(dir, "lighttpd.conf")
	for path, content := range map[string]string{
		filepath.Join(dir, "env.cgi"): "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nenv | grep '^HTTP_X_' | LC_ALL=C sort\n",
		config: `
			server.modules = ("mod_cgi")
			server.document-root = "` + dir + `"
			server.bind = "127.0.0.1"
			server.port = ` + port + `
			cgi.assign = (".cgi" => "/bin/sh")
		`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, nil, program, "-D", "-f", config)
	address := net.JoinHostPort("127.0.0.1", port)
	waitForListener(t, address)
	return address
}
