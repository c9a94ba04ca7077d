package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// whoami answers with what the HTTP app knows of the request.
const whoami = "`{http.request.method} {http.request.uri} {http.request.body} from {http.request.remote} to {http.request.local} proto {http.request.proto} sni {http.request.tls.server_name}`"

// roundTrip sends a raw request in pieces and returns the content of the answer.
func roundTrip(t *testing.T, conn net.Conn, request string, size int) (*http.Response, string) {
	t.Helper()
	send(t, conn, request, size)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the answer: %v\n%s", err, theLogs.problems())
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the content: %v", err)
	}
	return resp, string(content)
}

func TestHTTPApp(t *testing.T) {
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
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
		respond `+whoami+`
	}`)
	for _, piece := range pieces {
		t.Run(piece.name, func(t *testing.T) {
			conn := dial(t, address)
			want := func(request string) string {
				return fmt.Sprintf("%s from %s to %s proto HTTP/1.1 sni ", request, conn.LocalAddr(), conn.RemoteAddr())
			}
			_, got := roundTrip(t, conn, "POST /a?b=c HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello", piece.size)
			if got != want("POST /a?b=c hello") {
				t.Errorf("got %q, want %q", got, want("POST /a?b=c hello"))
			}
			// The connection is kept.
			_, got = roundTrip(t, conn, "GET /second HTTP/1.1\r\nHost: example.com\r\n\r\n", piece.size)
			if got != want("GET /second ") {
				t.Errorf("second request: got %q, want %q", got, want("GET /second "))
			}
		})
	}
}

// sites puts whole sites, with automatic HTTPS, behind layer4.
func sites(plain, secure, inspect string) string {
	_, httpPort, _ := net.SplitHostPort(plain)
	_, httpsPort, _ := net.SplitHostPort(secure)
	return `{
		http_port ` + httpPort + `
		https_port ` + httpsPort + `
		local_certs
		skip_install_trust
		layer4 {
			` + plain + ` ` + secure + ` {
				route {
					` + inspect + `
				}
			}
		}
	}
	example.com {
		bind streamprox/web
		respond ` + whoami + `
	}`
}

func TestWholeSitesBehindLayer4(t *testing.T) {
	for name, route := range map[string]string{
		"without inspect": "http_app web",
		"after inspect":   "inspect {\n route {\n http_app web\n }\n }",
		"the only name":   "http_app",
	} {
		t.Run(name, func(t *testing.T) {
			plain, secure := freeport.Address(t), freeport.Address(t)
			start(t, sites(plain, secure, route))

			for _, alpn := range []string{"http/1.1", "h2"} {
				client := &http.Client{Transport: &http.Transport{
					DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, network, secure)
					},
					TLSClientConfig:   tlsClient(alpn),
					ForceAttemptHTTP2: alpn == "h2",
					DisableKeepAlives: true,
				}, Timeout: patience}
				var resp *http.Response
				eventually(t, "certificate", func() bool {
					var err error
					resp, err = client.Get("https://example.com/x")
					return err == nil
				})
				content, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				proto := map[string]string{"http/1.1": "HTTP/1.1", "h2": "HTTP/2.0"}[alpn]
				if got := string(content); !strings.Contains(got, "proto "+proto+" sni example.com") || !strings.Contains(got, "to "+secure) {
					t.Errorf("%s: got %q", alpn, got)
				}
				if got := resp.Header.Get("Alt-Svc"); got != "" {
					t.Errorf("%s: Alt-Svc %q advertises what nobody serves", alpn, got)
				}
			}

			conn := dial(t, plain)
			resp, _ := roundTrip(t, conn, "GET /x HTTP/1.1\r\nHost: example.com\r\n\r\n", 1<<20)
			if resp.StatusCode != http.StatusPermanentRedirect || !strings.HasPrefix(resp.Header.Get("Location"), "https://example.com") {
				t.Errorf("plain: got %s to %q, want a redirect to HTTPS", resp.Status, resp.Header.Get("Location"))
			}
		})
	}
}

// TLS that layer4 terminates is seen by the HTTP app, and inspect routes what is
// inside.
func TestBehindTLSHandler(t *testing.T) {
	plain, secure := freeport.Address(t), freeport.Address(t)
	_, httpPort, _ := net.SplitHostPort(plain)
	start(t, `{
		http_port `+httpPort+`
		local_certs
		skip_install_trust
		layer4 {
			`+secure+` {
				route {
					tls {
						connection_policy {
							alpn http/1.1
						}
					}
					inspect {
						@chat http_request path /chat/*
						route @chat {
							relay `+httpBackend(t, "chat")+`
						}
						@silent inspected silent
						route {
							http_app web:`+httpPort+`
						}
					}
				}
			}
		}
	}
	http://example.com {
		bind streamprox/web
		respond `+whoami+`
	}
	https://example.com:`+freeport.Get(t)+` {
		bind streamprox/certificates
		respond certificates
	}`)
	dialTLS := func() net.Conn {
		conn := dial(t, secure)
		var tlsConn *tls.Conn
		eventually(t, "certificate", func() bool {
			tlsConn = tls.Client(conn, tlsClient("http/1.1"))
			if err := tlsConn.Handshake(); err != nil {
				conn = dial(t, secure)
				return false
			}
			return true
		})
		return tlsConn
	}
	for _, piece := range pieces {
		t.Run(piece.name, func(t *testing.T) {
			_, got := roundTrip(t, dialTLS(), "GET /chat/1 HTTP/1.1\r\nHost: example.com\r\n\r\n", piece.size)
			if got != "chat GET /chat/1 " {
				t.Errorf("relayed: got %q", got)
			}
			_, got = roundTrip(t, dialTLS(), "GET /x HTTP/1.1\r\nHost: example.com\r\n\r\n", piece.size)
			if !strings.HasPrefix(got, "GET /x  from 127.0.0.1:") || !strings.HasSuffix(got, "sni example.com") {
				t.Errorf("http_app: got %q", got)
			}
			tlsConn := dialTLS()
			send(t, tlsConn, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", piece.size)
			resp, err := http.ReadResponse(bufio.NewReader(tlsConn), nil)
			if err != nil || resp.StatusCode != http.StatusBadRequest {
				t.Errorf("malformed: got %v (%v), want 400", resp, err)
			}
		})
	}
}

func TestBehindProxyProtocol(t *testing.T) {
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				@proxied proxy_protocol
				route @proxied {
					proxy_protocol {
						allow 127.0.0.0/8
					}
					inspect {
						@chat http_request path /chat/*
						route @chat {
							relay `+backend(t, echo("chat"))+` {
								reuse pin
							}
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
		respond `+whoami+`
	}`)
	for _, version := range []byte{1, 2} {
		for _, piece := range pieces {
			t.Run(fmt.Sprintf("v%d/%s", version, piece.name), func(t *testing.T) {
				var header bytes.Buffer
				_, err := proxyproto.HeaderProxyFromAddrs(version,
					&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 7777}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}).WriteTo(&header)
				if err != nil {
					t.Fatal(err)
				}
				// The header comes in one packet: its parser insists on that (v1).
				conn := dial(t, address)
				send(t, conn, header.String(), 1<<20)
				_, got := roundTrip(t, conn, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", piece.size)
				if want := "GET /x  from 192.0.2.7:7777 to 192.0.2.1:80 proto HTTP/1.1 sni "; got != want {
					t.Errorf("http_app: got %q, want %q", got, want)
				}
				conn = dial(t, address)
				request := "GET /chat/ HTTP/1.1\r\nHost: a\r\n\r\n"
				send(t, conn, header.String(), 1<<20)
				send(t, conn, request, piece.size)
				conn.CloseWrite()
				if got := receive(t, conn); got != "chat\n"+request {
					t.Errorf("relay: got %q", got)
				}
			})
		}
	}
}

// inspect gets bytes that earlier matchers have prefetched, inside a subroute too.
func TestAfterOtherMatchers(t *testing.T) {
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				@http regexp ^GET 3
				route @http {
					subroute {
						@any http_request path *
						route @any {
							inspect {
								@chat http_request path /chat/*
								route @chat {
									relay `+backend(t, echo("chat"))+` {
										reuse pin
									}
								}
								route {
									http_app web
								}
							}
						}
					}
				}
			}
		}
	}
	http://:80 {
		bind streamprox/web
		respond `+whoami+`
	}`)
	for _, piece := range pieces {
		conn := dial(t, address)
		request := "GET /chat/ HTTP/1.1\r\nHost: a\r\n\r\n"
		send(t, conn, request, piece.size)
		conn.CloseWrite()
		if got := receive(t, conn); got != "chat\n"+request {
			t.Errorf("%s: relay: got %q", piece.name, got)
		}
		_, got := roundTrip(t, dial(t, address), "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", piece.size)
		if !strings.HasPrefix(got, "GET /x  from 127.0.0.1:") {
			t.Errorf("%s: http_app: got %q", piece.name, got)
		}
	}
}

func TestListenerWrapper(t *testing.T) {
	port, named := freeport.Get(t), freeport.Get(t)
	start(t, `{
		servers 127.0.0.1:`+port+` {
			listener_wrappers {
				layer4 {
					route {
						inspect {
							@chat http_request path /chat/*
							route @chat {
								relay `+backend(t, echo("chat"))+` {
									reuse pin
								}
							}
							@named http_request path /named/*
							route @named {
								http_app elsewhere
							}
							@app http_request path /app/*
							route @app {
								http_app
							}
							@speaker inspected silent
							route @speaker {
								relay `+backend(t, echo("speaker"))+`
							}
							silent_timeout 2s
						}
					}
				}
			}
		}
	}
	http://:`+port+` {
		bind 127.0.0.1
		respond `+whoami+`
	}
	http://:`+named+` {
		bind streamprox/elsewhere
		respond "elsewhere {http.request.uri} from {http.request.remote}"
	}`)
	address := "127.0.0.1:" + port
	for _, piece := range pieces {
		t.Run(piece.name, func(t *testing.T) {
			conn := dial(t, address)
			request := "GET /chat/ HTTP/1.1\r\nHost: a\r\n\r\n"
			send(t, conn, request, piece.size)
			conn.CloseWrite()
			if got := receive(t, conn); got != "chat\n"+request {
				t.Errorf("relay: got %q", got)
			}
			for _, path := range []string{"/app/", "/falls-through"} {
				conn = dial(t, address)
				_, got := roundTrip(t, conn, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n", piece.size)
				if want := fmt.Sprintf("GET %s  from %s to %s proto HTTP/1.1 sni ", path, conn.LocalAddr(), conn.RemoteAddr()); got != want {
					t.Errorf("%s: got %q, want %q", path, got, want)
				}
			}
			conn = dial(t, address)
			_, got := roundTrip(t, conn, "GET /named/ HTTP/1.1\r\nHost: a\r\n\r\n", piece.size)
			if want := fmt.Sprintf("elsewhere /named/ from %s", conn.LocalAddr()); got != want {
				t.Errorf("named: got %q, want %q", got, want)
			}
		})
	}
	conn := dial(t, address)
	if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "speaker\n" {
		t.Errorf("silent: got %q", got)
	}
	conn = dial(t, address)
	send(t, conn, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 1)
	expectAnswer(t, conn, "400")
}

// Two clients at once through a wrapped server: neither sees the other's bytes.
func TestListenerWrapperMixesNothing(t *testing.T) {
	port := freeport.Get(t)
	start(t, `{
		servers 127.0.0.1:`+port+` {
			listener_wrappers {
				layer4 {
					route {
						inspect {
							route {
								http_app
							}
						}
					}
				}
			}
		}
	}
	http://:`+port+` {
		bind 127.0.0.1
		respond "{http.request.header.X-Secret} {http.request.body}"
	}`)
	errs := make(chan error)
	const clients, rounds = 8, 50
	for c := range clients {
		go func() {
			for i := range rounds {
				secret := fmt.Sprintf("secret-%d-%d", c, i)
				conn, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err != nil {
					errs <- err
					return
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nX-Secret: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", secret, len(secret), secret)
				answer, err := io.ReadAll(conn)
				conn.Close()
				if want := secret + " " + secret; err != nil || !strings.HasSuffix(string(answer), "\r\n\r\n"+want) {
					errs <- fmt.Errorf("got %q (%v), want %q", answer, err, want)
					return
				}
			}
			errs <- nil
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestListenerWrapperOnTLS(t *testing.T) {
	port, httpPort := freeport.Get(t), freeport.Get(t)
	start(t, `{
		http_port `+httpPort+`
		https_port `+port+`
		local_certs
		skip_install_trust
		servers 127.0.0.1:`+port+` {
			protocols h1
			listener_wrappers {
				layer4 {
					route {
						inspect {
							@chat http_request path /chat/*
							route @chat {
								relay `+httpBackend(t, "chat")+`
							}
							route {
								http_app
							}
						}
					}
				}
			}
		}
	}
	example.com {
		bind 127.0.0.1
		respond `+whoami+`
	}`)
	for _, piece := range pieces {
		for path, want := range map[string]string{"/chat/1": "chat GET /chat/1 ", "/x": "sni example.com"} {
			var conn *tls.Conn
			eventually(t, "handshake", func() bool {
				conn = tls.Client(dial(t, "127.0.0.1:"+port), tlsClient("h2", "http/1.1"))
				return conn.Handshake() == nil
			})
			if got := conn.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
				t.Errorf("negotiated %q, want http/1.1", got)
			}
			if _, got := roundTrip(t, conn, "GET "+path+" HTTP/1.1\r\nHost: example.com\r\n\r\n", piece.size); !strings.HasSuffix(got, want) {
				t.Errorf("%s %s: got %q, want ...%q", piece.name, path, got, want)
			}
		}
	}
}

// TestSiteWithoutHTTPApp checks that a site on the virtual network is missed by those who
// configure nothing that could lead to it.
func TestSiteWithoutHTTPApp(t *testing.T) {
	s := start(t, `{
		layer4 {
			`+freeport.Address(t)+` {
				route {
					echo
				}
			}
		}
	}
	http://:80 {
		bind streamprox/web
		respond other
	}`)
	s.logs.expect(t, map[string]any{"level": "warn", "msg": "no http_app leads to a site", "server": "srv0", "listen": "streamprox/web:80"})
	if n := len(s.logs.lines(map[string]any{"msg": "no http_app leads to a site"})); n != 1 {
		t.Errorf("got %d warnings, want 1\n%s", n, s.logs)
	}
}

func TestHTTPAppWithoutBind(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						route {
							http_app web
						}
					}
				}
			}
		}
	}
	http://:80 {
		bind streamprox/other
		respond other
	}`)
	const message, missing = "no site is bound to that name", "bind streamprox/web"
	s.logs.expect(t, map[string]any{"level": "warn", "msg": message, "listener": "web", "missing": missing})

	for _, method := range []string{"GET", "HEAD"} {
		conn := dial(t, address)
		send(t, conn, method+" / HTTP/1.1\r\nHost: a\r\n\r\n", 1)
		got := receive(t, conn)
		if !strings.HasPrefix(got, "HTTP/1.1 503 ") || strings.HasSuffix(got, "\r\n\r\n") != (method == "HEAD") {
			t.Errorf("%s: got %q, want 503, with content unless HEAD", method, got)
		}
	}
	s.logs.expect(t, map[string]any{"level": "error", "msg": message, "missing": missing, "failures": 1})

	err := tls.Client(dial(t, address), tlsClient()).Handshake()
	if err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("TLS: got %v, want the alert internal_error", err)
	}

	conn := dial(t, address)
	send(t, conn, "EHLO example.com\r\n", 1)
	expectAnswer(t, conn, "ended")
}

// A TLS probe of a name that has sites for HTTP alone is no error, and claims no missing
// bind.
func TestTLSProbeOfHTTPSites(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, `{
		layer4 {
			`+address+` {
				route {
					http_app web
				}
			}
		}
	}
	http://:80 {
		bind streamprox/web
		respond web
	}`)
	for range 3 {
		err := tls.Client(dial(t, address), tlsClient()).Handshake()
		if err == nil || !strings.Contains(err.Error(), "internal error") {
			t.Errorf("got %v, want the alert internal_error", err)
		}
	}
	if got := s.logs.problems(); strings.Contains(got, "http_app") {
		t.Errorf("got %s, want no warning of http_app", got)
	}
}

func TestFileServerThroughHTTPApp(t *testing.T) {
	dir := t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(filepath.Join(dir, "file"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						route {
							http_app
						}
					}
				}
			}
		}
	}
	http://:80 {
		bind streamprox/web
		root * `+dir+`
		file_server
	}`)
	_, got := roundTrip(t, dial(t, address), "GET /file HTTP/1.1\r\nHost: a\r\n\r\n", 1<<20)
	if got != string(want) {
		t.Errorf("got %d bytes that differ from the %d of the file", len(got), len(want))
	}
}
