package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// showsID is an upstream that answers with the fields that carry ids.
func showsID(t *testing.T) string {
	return backend(t, func(conn net.Conn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body := strings.Join(req.Header.Values("X-Request-Id"), ",")
			if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
				return
			}
		}
	})
}

// idSite is a site that tells the id of a request wherever a site can.
const idSite = `
	streamprox
	header X-Stream "{l4.inspect.id} {l4.inspect.route}"
	log_append stream {l4.inspect.id}
	handle /app/proxied* {
		reverse_proxy %s {
			header_up X-Request-Id {l4.inspect.id}
			transport http {
				keepalive off
			}
		}
	}
	handle {
		respond {l4.inspect.id}
	}
`

// ask sends a request, and returns what the site tells of it.
func (c *idClient) ask(target string) (stream, body string) {
	c.t.Helper()
	fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: example.com\r\n\r\n", target)
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("%s: %v", target, err)
	}
	content, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		c.t.Fatalf("%s: status %d, %v", target, resp.StatusCode, err)
	}
	return resp.Header.Get("X-Stream"), string(content)
}

type idClient struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func newIDClient(t *testing.T, conn net.Conn) *idClient {
	return &idClient{t, conn, bufio.NewReader(conn)}
}

// idInLog returns the id that the access log of streamprox has for a path.
func idInLog(t *testing.T, log accessLog, path string) string {
	t.Helper()
	return log.await(t, path, func(l accessLine) bool { return l.Message == "ended" && l.Path == path }).ID
}

// TestSiteID: a site knows the id of each request as the access log has it: on a kept
// connection, after a visit to a relay, and after it was parked; and relay's upstream gets it.
func TestSiteID(t *testing.T) {
	log := accessLog{filepath.Join(t.TempDir(), "access.log")}
	address, up := freeport.Address(t), showsID(t)
	s := start(t, fmt.Sprintf(`{
	log access {
		include streamprox.access
		output file %s
	}
	layer4 {
		%s {
			route {
				inspect {
					log
					@up http_request path /up/*
					route @up {
						rewrite_head {
							header X-Request-Id {l4.inspect.id}
						}
						relay %s
					}
					@edited http_request path /edited/*
					route @edited {
						rewrite_head {
							header X-Edited {l4.inspect.id}
						}
						http_app web
					}
					@app http_request path /app/*
					route @app {
						http_app web {
							park 20ms
						}
					}
				}
			}
		}
	}
}
http://:80 {
	bind streamprox/web
	log
	%s
}
`, log.path, address, up, fmt.Sprintf(idSite, up)))
	c := newIDClient(t, dial(t, address))
	ids := make(map[string]string)
	check := func(target, route string) {
		t.Helper()
		stream, body := c.ask(target)
		want := idInLog(t, log, target)
		if other, taken := ids[want]; taken {
			t.Errorf("%s has the id of %s", target, other)
		}
		ids[want] = target
		if body != want {
			t.Errorf("%s: answered with the id %q, want %q", target, body, want)
		}
		if route == "up" {
			return
		}
		if stream != want+" "+route {
			t.Errorf("%s: the field has %q, want %q", target, stream, want+" "+route)
		}
		theLogs.expect(t, map[string]any{"msg": "handled request", "stream": want})
	}
	for i, step := range []struct{ path, route string }{
		{"/app/", "app"}, {"/app/", "app"}, {"/app/proxied/", "app"}, // one after the other in the server
		{"/up/", "up"}, {"/up/", "up"}, {"/app/", "app"}, // to a relay and back
		{"/edited/", "edited"}, {"/edited/", "edited"}, {"/app/", "app"}, // handlers run for each request
	} {
		check(fmt.Sprintf("%s%d", step.path, i), step.route)
	}
	t.Run("parked", func(t *testing.T) {
		parksHere(t)
		s.parked()
		check("/app/parked", "app")
		s.parked()
		check("/app/proxied/parked", "app")
	})
}

// TestSiteIDOfConnections: where the HTTP server has all that follows, its requests have the id
// of the connection, which the list of streams has.
func TestSiteIDOfConnections(t *testing.T) {
	const site = "\n\tstreamprox\n\trespond \"{l4.inspect.id} {l4.inspect.route}\"\n"
	dir := t.TempDir()
	certificate, key := filepath.Join(dir, "certificate"), filepath.Join(dir, "key")
	chain, private := selfSigned(t)
	for file, content := range map[string]string{certificate: chain, key: private} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secure := fmt.Sprintf("https://:443 {\n\tbind streamprox/web\n\ttls %s %s%s}\n", certificate, key, site)
	plain := "http://:80 {\n\tbind streamprox/web" + site + "}\n"
	for name, test := range map[string]struct {
		routes, sites, route string
		client               func(address string) (get func() string)
	}{
		"pinned":        {"inspect {\n@a http_request path /*\nroute @a {\nhttp_app web {\nreuse pin\n}\n}\n}", plain, "a", plainly(t)},
		"not inspected": {"http_app web", plain, "", plainly(t)},
		"TLS": {"inspect {\n@a inspected tls\nroute @a {\nhttp_app web\n}\n}", secure, "a", func(address string) func() string {
			return plainlyOn(t, tls.Client(dial(t, address), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}))
		}},
		"HTTP/2": {"inspect {\n@a inspected http2\nroute @a {\nhttp_app web\n}\n}", plain, "a", func(address string) func() string {
			transport := &http.Transport{Protocols: new(http.Protocols)}
			transport.Protocols.SetUnencryptedHTTP2(true)
			t.Cleanup(transport.CloseIdleConnections)
			return func() string {
				resp, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + address + "/")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				return string(body)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			address := freeport.Address(t)
			s := start(t, fmt.Sprintf("{\nlayer4 {\n%s {\nroute {\n%s\n}\n}\n}\n}\n%s", address, test.routes, test.sites))
			get := test.client(address)
			first := get()
			list := s.list("").Streams
			if len(list) != 1 || first != list[0].ID+" "+test.route {
				t.Errorf("got %q, want the id of one of %+v and the route %q", first, list, test.route)
			}
			if second := get(); second != first {
				t.Errorf("the next request: got %q, want %q", second, first)
			}
		})
	}
}

func plainly(t *testing.T) func(string) func() string {
	return func(address string) func() string { return plainlyOn(t, dial(t, address)) }
}

func plainlyOn(t *testing.T, conn net.Conn) func() string {
	c := newIDClient(t, conn)
	return func() string {
		_, body := c.ask("/")
		return body
	}
}

// TestSiteIDInWrapper: the wrapped server knows the id too, and a site that http_app does not
// lead to has none.
func TestSiteIDInWrapper(t *testing.T) {
	for name, test := range map[string]struct{ handler, route string }{
		"each request": {"http_app", "app"},
		"pinned":       {"http_app {\nreuse pin\n}", "app"},
	} {
		t.Run(name, func(t *testing.T) {
			log := accessLog{filepath.Join(t.TempDir(), "access.log")}
			port, other := freeport.Get(t), freeport.Get(t)
			start(t, fmt.Sprintf(`{
	log access {
		include streamprox.access
		output file %s
	}
	servers 127.0.0.1:%s {
		listener_wrappers {
			layer4 {
				route {
					inspect {
						log
						@app http_request path /*
						route @app {
							%s
						}
					}
				}
			}
		}
	}
}
http://:%s, http://:%s {
	bind 127.0.0.1
	streamprox
	respond "{l4.inspect.id} {l4.inspect.route}"
}
`, log.path, port, test.handler, port, other))
			conn := dial(t, "127.0.0.1:"+port)
			c := newIDClient(t, conn)
			for _, path := range []string{"/1", "/2"} {
				_, got := c.ask(path)
				if name == "pinned" {
					path = "/1" // only the first one is inspected
				}
				if want := idInLog(t, log, path) + " " + test.route; got != want {
					t.Errorf("%s: got %q, want %q", path, got, want)
				}
			}
			if _, got := newIDClient(t, dial(t, "127.0.0.1:"+other)).ask("/"); got != " " {
				t.Errorf("without layer4: got %q, want nothing", got)
			}
		})
	}
}
