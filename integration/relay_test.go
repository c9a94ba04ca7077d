package integration

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// relayCaddyfile is a layer4 server that inspects and relays everything.
func relayCaddyfile(address, relay string) string {
	return layer4Caddyfile(address, "@all inspected http tls other eof\nroute @all {\n"+relay+"\n}")
}

const getRoot = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

func TestStockHandlersEndARoute(t *testing.T) {
	address := freeport.Address(t)
	start(t, layer4Caddyfile(address, `
		@proxy http_request path /proxy
		route @proxy {
			proxy `+backend(t, echo("proxied"))+`
		}
		@echo http_request path /echo
		route @echo {
			echo
		}
		@close http_request path /close
		route @close {
			close
		}
		@throttled http_request path /throttled
		route @throttled {
			throttle {
				read_bytes_per_second 1000000
			}
			relay `+backend(t, echo("throttled"))+` {
				reuse pin
			}
		}
		@sub http_request path /sub
		route @sub {
			subroute {
				@again http_request method GET
				route @again {
					relay `+backend(t, echo("sub"))+` {
						reuse pin
					}
				}
			}
		}
		@none http_request path /none
		route @none {
			close
		}
	`))
	for path, want := range map[string]string{"/proxy": "proxied\n", "/echo": "", "/throttled": "throttled\n", "/sub": "sub\n"} {
		for _, piece := range pieces {
			conn := dial(t, address)
			request := "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n"
			send(t, conn, request, piece.size)
			conn.CloseWrite()
			if got := receive(t, conn); got != want+request {
				t.Errorf("%s %s: got %q, want %q", path, piece.name, got, want+request)
			}
		}
	}
	conn := dial(t, address)
	send(t, conn, "GET /close HTTP/1.1\r\nHost: a\r\n\r\n", 1)
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("/close: got %q", got)
	}
}

// Matchers of caddy-l4 that need more than the head, or something else than a head.
func TestStockMatchersInRoutes(t *testing.T) {
	address := freeport.Address(t)
	start(t, layer4Caddyfile(address, `
		@ssh ssh
		route @ssh {
			relay `+backend(t, echo("ssh"))+`
		}
		@sni tls sni chat.example
		route @sni {
			relay `+backend(t, echo("sni"))+`
		}
		@body regexp "body-marker" 88
		route @body {
			relay `+backend(t, echo("body"))+` {
				reuse pin
			}
		}
		route {
			relay `+backend(t, echo("default"))+` {
				reuse pin
			}
		}
	`))
	hello := clientHello(t, "chat.example")
	post := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n"
	for _, test := range []struct{ name, bytes, want string }{
		{"ssh", "SSH-2.0-OpenSSH_9.6\r\n", "ssh"},
		{"sni", hello, "sni"},
		{"other sni", clientHello(t, "other.example"), "default"},
		{"body", post + "0123456789012345678901234body-marker!!!!", "body"},
		{"other body", post + "0123456789012345678901234567890123456789", "default"},
	} {
		for _, piece := range pieces {
			t.Run(test.name+"/"+piece.name, func(t *testing.T) {
				t.Parallel()
				conn := dial(t, address)
				send(t, conn, test.bytes, piece.size)
				conn.CloseWrite()
				if got, want := receive(t, conn), test.want+"\n"+test.bytes; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

// clientHello returns the first flight of a TLS client.
func clientHello(t *testing.T, serverName string) string {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go tls.Client(client, &tls.Config{ServerName: serverName}).Handshake() //nolint:errcheck // it cannot succeed
	buf := make([]byte, 16<<10)
	n, err := io.ReadAtLeast(server, buf, 600)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestRelayWithoutInspect(t *testing.T) {
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				@chat http_request path /chat/*
				route @chat {
					relay `+backend(t, echo("chat"))+`
				}
				@other not http_request path /chat/*
				route @other {
					relay `+backend(t, echo("other"))+`
				}
			}
		}
	}`)
	for _, test := range []struct{ bytes, want string }{
		{"GET /chat/1 HTTP/1.1\r\nHost: a\r\n\r\n", "chat"},
		{"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n", "other"},
		{"\x00\x01\x02", "other"},
	} {
		for _, piece := range pieces {
			conn := dial(t, address)
			send(t, conn, test.bytes, piece.size)
			conn.CloseWrite()
			if got, want := receive(t, conn), test.want+"\n"+test.bytes; got != want {
				t.Errorf("%s: got %q, want %q", piece.name, got, want)
			}
		}
	}
}

// refusing returns an address that refuses connections.
func refusing(t *testing.T) string { return freeport.Address(t) }

func TestUpstreamsThatFail(t *testing.T) {
	// It accepts, but the TLS handshake never comes to an end.
	hanging := backend(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	busy := backend(t, echo("busy"))
	for _, test := range []struct {
		name, relay string
		status      int
		held        int // streams that are open already
	}{
		{"refused", "relay " + refusing(t), http.StatusBadGateway, 0},
		{"all refused", "relay " + refusing(t) + " " + refusing(t), http.StatusBadGateway, 0},
		{"no such host", "relay host.invalid:80", http.StatusBadGateway, 0},
		{"no such socket", "relay unix/" + filepath.Join(t.TempDir(), "none"), http.StatusBadGateway, 0},
		{"handshake hangs", "relay {\n dial_timeout 200ms\n upstream " + hanging + " {\n tls\n }\n }", http.StatusGatewayTimeout, 0},
		{"not TLS", "relay {\n upstream " + busy + " {\n tls\n }\n }", http.StatusBadGateway, 0},
		{"full", "relay {\n reuse pin\n upstream " + busy + " {\n max_connections 1\n }\n }", http.StatusServiceUnavailable, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			address := freeport.Address(t)
			s := start(t, relayCaddyfile(address, test.relay))
			var held *net.TCPConn
			for range test.held {
				held = dial(t, address)
				send(t, held, getRoot, 1<<20)
				if _, err := held.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			for _, piece := range pieces {
				conn := dial(t, address)
				send(t, conn, getRoot, piece.size)
				expectAnswer(t, conn, fmt.Sprint(test.status))
				conn = dial(t, address)
				send(t, conn, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", piece.size)
				if got := receive(t, conn); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", test.status)) || !strings.HasSuffix(got, "\r\n\r\n") {
					t.Errorf("HEAD: got %q, want %d without content", got, test.status)
				}
				conn = dial(t, address)
				send(t, conn, "EHLO a\r\n", piece.size)
				if got := receive(t, conn); got != "" {
					t.Errorf("not HTTP: got %q, want nothing", got)
				}
			}
			s.logs.expect(t, map[string]any{"level": "error", "msg": "no upstream reached", "failures": 1})
			if held == nil {
				return
			}
			// A place is free when the stream that had it has ended.
			held.Close()
			eventually(t, "free place", func() bool {
				conn := dial(t, address)
				defer conn.Close()
				_, _ = io.WriteString(conn, getRoot)
				got, _ := bufio.NewReader(conn).ReadString('\n')
				return got == "busy\n"
			})
		})
	}
}

func TestRelayTriesTheNextUpstream(t *testing.T) {
	address := freeport.Address(t)
	start(t, relayCaddyfile(address, "relay "+refusing(t)+" "+refusing(t)+" "+backend(t, echo("third"))+" {\n reuse pin\n lb_policy first\n }"))
	for range 5 {
		conn := dial(t, address)
		send(t, conn, getRoot, 1<<20)
		conn.CloseWrite()
		if got := receive(t, conn); got != "third\n"+getRoot {
			t.Errorf("got %q", got)
		}
	}
}

func TestRelayTriesAgain(t *testing.T) {
	address, late := freeport.Address(t), freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay "+late+" {\n reuse pin\n lb_try_duration 1m\n lb_try_interval 20ms\n }"))
	conn := dial(t, address)
	send(t, conn, getRoot, 1<<20)
	eventually(t, "failed dial", func() bool { return len(s.logs.lines(map[string]any{"msg": "dial failed"})) > 2 })
	ln, err := net.Listen("tcp", late)
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, ln, echo("late"))
	if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "late\n" {
		t.Errorf("got %q", got)
	}
	conn.Close() // before the backend, which waits for it
}

func TestRelayPolicies(t *testing.T) {
	var upstreams []string
	for _, name := range []string{"a", "b", "c"} {
		upstreams = append(upstreams, backend(t, echo(name)))
	}
	for _, policy := range []string{"random", "random_choose 2", "least_conn", "round_robin", "weighted_round_robin", "first", "ip_hash"} {
		t.Run(policy, func(t *testing.T) {
			address := freeport.Address(t)
			start(t, relayCaddyfile(address, "relay "+strings.Join(upstreams, " ")+" {\n reuse pin\n lb_policy "+policy+"\n }"))
			seen := make(map[string]int)
			var open []net.Conn
			for range 30 {
				conn := dial(t, address)
				send(t, conn, getRoot, 1<<20)
				name, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				seen[name]++
				open = append(open, conn)
			}
			for _, conn := range open {
				conn.Close()
			}
			switch policy {
			case "first", "ip_hash":
				if len(seen) != 1 {
					t.Errorf("got %v, want one upstream", seen)
				}
			case "round_robin", "weighted_round_robin", "least_conn":
				for name, n := range seen {
					if n != 10 {
						t.Errorf("got %d streams to %q of %v, want 10", n, name, seen)
					}
				}
			default:
				if len(seen) != 3 {
					t.Errorf("got %v, want all upstreams", seen)
				}
			}
		})
	}
}

func TestRelaySendsProxyProtocol(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, &proxyproto.Listener{Listener: ln}, func(conn net.Conn) {
		fmt.Fprintf(conn, "%s %s\n", conn.RemoteAddr(), conn.LocalAddr())
		_, _ = io.Copy(conn, conn)
		_ = conn.(*proxyproto.Conn).Raw().(*net.TCPConn).CloseWrite()
	})
	for _, version := range []string{"v1", "v2"} {
		address := freeport.Address(t)
		s := start(t, relayCaddyfile(address, "relay "+ln.Addr().String()+" {\n reuse pin\n proxy_protocol "+version+"\n }"))
		conn := dial(t, address)
		send(t, conn, getRoot, 1)
		conn.CloseWrite()
		if got, want := receive(t, conn), fmt.Sprintf("%s %s\n", conn.LocalAddr(), address)+getRoot; got != want {
			t.Errorf("%s: got %q, want %q", version, got, want)
		}
		_ = s.load("{\n}")
	}
}

func TestRelayToUnixSocketAndTLS(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, ln, echo("unix"))

	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	certificate, roots := server.TLS.Certificates[0], filepath.Join(t.TempDir(), "roots.pem")
	server.Close()
	if err := os.WriteFile(roots, pemOf(certificate.Certificate[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	tlsListener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, tlsListener, echo("tls"))

	for want, relay := range map[string]string{
		"unix": "relay unix/" + socket + " {\n reuse pin\n }",
		"tls":  "relay {\n reuse pin\n upstream " + tlsListener.Addr().String() + " {\n tls_server_name example.com\n tls_trust_pool file " + roots + "\n }\n }",
	} {
		t.Run(want, func(t *testing.T) {
			address := freeport.Address(t)
			start(t, relayCaddyfile(address, relay))
			for _, piece := range pieces {
				conn := dial(t, address)
				send(t, conn, getRoot, piece.size)
				conn.CloseWrite()
				if got := receive(t, conn); got != want+"\n"+getRoot {
					t.Errorf("%s: got %q", piece.name, got)
				}
			}
		})
	}
}

// Bytes in bulk behind a head that was buffered, in both directions: as a raw stream,
// and as a request and its response.
func TestRelayBulk(t *testing.T) {
	const size = 64 << 20
	for _, reuse := range []string{"pin", "close"} {
		t.Run(reuse, func(t *testing.T) {
			raw := reuse == "pin"
			sums := make(chan [32]byte, 1)
			address := freeport.Address(t)
			start(t, relayCaddyfile(address, "relay "+backend(t, func(conn net.Conn) {
				hash := sha256.New()
				if raw {
					_, _ = io.Copy(hash, conn)
				} else {
					r, err := http.ReadRequest(bufio.NewReader(conn))
					if err != nil {
						return
					}
					_, _ = io.Copy(hash, r.Body)
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
				}
				sums <- [32]byte(hash.Sum(nil))
				_, _ = io.CopyN(conn, rand.NewChaCha8([32]byte{2}), size)
			})+" {\n reuse "+reuse+"\n }"))
			conn := dial(t, address)
			_ = conn.SetDeadline(time.Now().Add(3 * patience))
			sent, received, want := sha256.New(), sha256.New(), sha256.New()
			head := "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\n\r\n"
			_, _ = io.WriteString(conn, head)
			if raw {
				_, _ = io.WriteString(sent, head)
			}
			if _, err := io.CopyN(io.MultiWriter(conn, sent), rand.NewChaCha8([32]byte{1}), size); err != nil {
				t.Fatal(err)
			}
			conn.CloseWrite()
			var content io.Reader = conn
			if !raw {
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				content = resp.Body
			}
			if n, err := io.Copy(received, content); n != size || err != nil {
				t.Errorf("received %d bytes (%v), want %d", n, err, size)
			}
			_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{2}), size)
			if got := <-sums; got != [32]byte(sent.Sum(nil)) {
				t.Error("the upstream received other bytes than were sent")
			}
			if [32]byte(received.Sum(nil)) != [32]byte(want.Sum(nil)) {
				t.Error("the client received other bytes than were sent")
			}
		})
	}
}

func TestRelayPassesResets(t *testing.T) {
	seen := make(chan error, 1)
	address := freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay "+backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		line, _ := r.ReadString('\n')
		if strings.HasPrefix(line, "GET /reset") {
			_ = conn.(*net.TCPConn).SetLinger(0)
			return
		}
		_, _ = io.WriteString(conn, "ready\n")
		_, err := io.Copy(io.Discard, r)
		seen <- err
	})+" {\n reuse pin\n }"))

	conn := dial(t, address)
	send(t, conn, "GET /reset HTTP/1.1\r\nHost: a\r\n\r\n", 1<<20)
	if _, err := io.ReadAll(conn); !isReset(err) {
		t.Errorf("reset by the upstream: the client sees %v", err)
	}
	s.logs.expect(t, map[string]any{"msg": "stream ended", "cause": "upstream_reset"})

	conn = dial(t, address)
	send(t, conn, getRoot, 1<<20)
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	conn.SetLinger(0)
	conn.Close()
	if err := <-seen; !isReset(err) {
		t.Errorf("reset by the client: the upstream sees %v", err)
	}
	s.logs.expect(t, map[string]any{"msg": "stream ended", "cause": "client_reset"})
}

func TestRelayTimeouts(t *testing.T) {
	// The upstream has to say hello within them.
	for option, cause := range map[string]string{"idle_timeout 2s": "idle_timeout", "half_close_timeout 2s": "half_close_timeout"} {
		address, over := freeport.Address(t), make(chan struct{})
		upstream := backend(t, func(conn net.Conn) {
			_, _ = io.WriteString(conn, "hello")
			<-over // it keeps its side open
		})
		end := sync.OnceFunc(func() { close(over) })
		t.Cleanup(end) // before the upstream, which waits for it
		s := start(t, relayCaddyfile(address, "relay "+upstream+" {\n reuse pin\n "+option+"\n }"))
		conn := dial(t, address)
		send(t, conn, getRoot, 1<<20)
		if cause == "half_close_timeout" {
			conn.CloseWrite()
		}
		if got := receive(t, conn); got != "hello" {
			t.Errorf("%s: got %q", option, got)
		}
		s.logs.expect(t, map[string]any{"msg": "stream ended", "cause": cause})
		conn.Close()
		end()
		_ = s.load("{\n}")
	}
}

// A client that resets its connection while an upstream is dialled frees everything
// at once, however long the dial may take; one that has finished sending waits.
func TestClientLeavesDuringDial(t *testing.T) {
	letGo := make(chan struct{})
	release := sync.OnceFunc(func() { close(letGo) })
	hanging := backend(t, func(conn net.Conn) { <-letGo })
	t.Cleanup(release) // before the backend, which waits for it
	address := freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay {\n dial_timeout 1h\n upstream "+hanging+" {\n tls\n }\n }"))
	conn := dial(t, address)
	send(t, conn, getRoot, 1<<20)
	send(t, conn, "and more", 1)
	eventually(t, "inspection", func() bool { return len(s.logs.lines(map[string]any{"msg": "inspected"})) == 1 })
	conn.SetLinger(0)
	conn.Close()
	s.logs.expect(t, map[string]any{"msg": "relay given up"})

	conn = dial(t, address)
	send(t, conn, getRoot, 1<<20)
	conn.CloseWrite()
	eventually(t, "inspection", func() bool { return len(s.logs.lines(map[string]any{"msg": "inspected"})) == 2 })
	release() // the upstream closes: the handshake fails
	expectAnswer(t, conn, "502")
}

// What the client sends while an upstream is dialled arrives after its head.
func TestClientSendsDuringDial(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	config := &tls.Config{Certificates: server.TLS.Certificates}
	server.Close()
	slow := backend(t, func(conn net.Conn) {
		time.Sleep(300 * time.Millisecond)
		tlsConn := tls.Server(conn, config)
		echo("slow")(tlsConn)
	})
	address := freeport.Address(t)
	start(t, relayCaddyfile(address, "relay {\n reuse pin\n dial_timeout 1m\n upstream "+slow+" {\n tls_insecure_skip_verify\n }\n }"))
	conn := dial(t, address)
	want := getRoot
	send(t, conn, want, 1<<20)
	for range 10 {
		time.Sleep(20 * time.Millisecond)
		send(t, conn, "early ", 1)
		want += "early "
	}
	conn.CloseWrite()
	if got := receive(t, conn); got != "slow\n"+want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReload(t *testing.T) {
	address := freeport.Address(t)
	caddyfile := func(answer, upstream string) string {
		return `{
			layer4 {
				` + address + ` {
					route {
						inspect {
							@chat http_request path /chat/*
							route @chat {
								relay ` + upstream + ` {
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
			respond "` + answer + `"
		}`
	}
	first, second := backend(t, echo("first")), backend(t, echo("second"))
	s := start(t, caddyfile("one", first))

	// A stream, and connections at every stage before one, are there when the
	// configuration changes.
	stream := dial(t, address)
	send(t, stream, "GET /chat/ HTTP/1.1\r\nHost: a\r\n\r\n", 1<<20)
	streamReader := bufio.NewReader(stream)
	if got, _ := streamReader.ReadString('\n'); got != "first\n" {
		t.Fatalf("got %q", got)
	}
	if _, err := io.ReadFull(streamReader, make([]byte, len("GET /chat/ HTTP/1.1\r\nHost: a\r\n\r\n"))); err != nil {
		t.Fatal(err)
	}
	var early []*net.TCPConn
	for i := range 8 {
		conn := dial(t, address)
		send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n"[:3*i], 1<<20)
		early = append(early, conn)
	}
	// One that the old configuration has not accepted would be reset by the kernel.
	eventually(t, "all connections under inspection", func() bool {
		_, metrics := s.api("GET", "/metrics", "")
		return strings.Contains(metrics, fmt.Sprintf("\ncaddy_streamprox_inspecting_connections %d\n", len(early)))
	})

	if err := s.load(caddyfile("two", second)); err != nil {
		t.Fatal(err)
	}
	for i, conn := range early {
		if _, got := roundTrip(t, conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"[3*i:], 1<<20); got != "two" {
			t.Errorf("connection with %d bytes before the reload: got %q, want the new site", 3*i, got)
		}
	}

	// A configuration that cannot start changes nothing.
	occupied, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer occupied.Close()
	broken := caddyfile("three", second) + "\nhttp://:" + strings.TrimPrefix(occupied.Addr().String(), "127.0.0.1:") + " {\n bind 127.0.0.1 \n}"
	if err := s.load(broken); err == nil {
		t.Fatal("a configuration with an occupied port has started")
	}
	for range 5 {
		if _, got := roundTrip(t, dial(t, address), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 1); got != "two" {
			t.Errorf("after a failed reload: got %q, want the old site", got)
		}
	}

	// A route patched through the admin API.
	const upstream = "/config/apps/layer4/servers/srv0/routes/0/handle/0/routes/0/handle/0/upstreams/0/dial/0"
	if status, answer := s.api("GET", upstream, ""); status != 200 || strings.TrimSpace(answer) != `"`+second+`"` {
		t.Fatalf("admin API: got %d %q", status, answer)
	}
	if status, answer := s.api("PATCH", upstream, `"`+first+`"`); status != 200 {
		t.Fatalf("patching: got %d %q", status, answer)
	}
	conn := dial(t, address)
	send(t, conn, "GET /chat/ HTTP/1.1\r\nHost: a\r\n\r\n", 1)
	if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "first\n" {
		t.Errorf("after the patch: got %q", got)
	}

	// The stream has seen nothing of all this.
	send(t, stream, "still there\n", 1)
	if got, err := streamReader.ReadString('\n'); got != "still there\n" {
		t.Errorf("the stream after the reloads: got %q (%v)", got, err)
	}
}

// Kept connections, and requests under way, survive reloads in a row.
func TestReloadUnderLoad(t *testing.T) {
	address := freeport.Address(t)
	caddyfile := func(generation int) string {
		return `{
			layer4 {
				` + address + ` {
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
			respond "generation ` + fmt.Sprint(generation) + `"
		}`
	}
	s := start(t, caddyfile(0))
	ctx, stop := context.WithCancel(context.Background())
	const clients = 4
	results := make(chan error, clients)
	for range clients {
		go func() {
			// The sockets are connected before the reload that they live through: what a
			// closed listening socket does to those in its queue is the kernel's affair.
			for ctx.Err() == nil {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					continue
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n")
				if err == nil {
					time.Sleep(time.Millisecond)
					_, err = io.WriteString(conn, "Connection: close\r\n\r\n")
				}
				answer, readErr := io.ReadAll(conn)
				conn.Close()
				if isReset(err) || isReset(readErr) && len(answer) == 0 {
					continue // never accepted
				}
				if !strings.Contains(string(answer), "\r\n\r\ngeneration ") {
					results <- fmt.Errorf("%s: got %q (%v, %v)", conn.LocalAddr(), answer, err, readErr)
					return
				}
			}
			results <- nil
		}()
	}
	for generation := range 15 {
		if err := s.load(caddyfile(generation + 1)); err != nil {
			t.Error(err)
		}
	}
	stop()
	for range clients {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// The end of the upstream's sending reaches the client, and a reset too, also where
// caddy-l4 has wrapped the client's socket; the other direction goes on.
func TestRelayEndsThroughWrappers(t *testing.T) {
	received := make(chan string, 1)
	upstream := backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if request.URL.Path == "/reset" {
			_ = conn.(*net.TCPConn).SetLinger(0)
			return
		}
		_, _ = io.WriteString(conn, "that is all")
		_ = conn.(*net.TCPConn).CloseWrite()
		rest, _ := io.ReadAll(r)
		received <- string(rest)
	})
	plain, proxied, secure := freeport.Address(t), freeport.Address(t), freeport.Address(t)
	const inspect = "inspect {\n route {\n relay %s {\n reuse pin\n }\n }\n }"
	start(t, `{
		local_certs
		skip_install_trust
		layer4 {
			`+plain+` {
				route {
					`+fmt.Sprintf(inspect, upstream)+`
				}
			}
			`+proxied+` {
				route {
					proxy_protocol {
						allow 127.0.0.0/8
					}
					`+fmt.Sprintf(inspect, upstream)+`
				}
			}
			`+secure+` {
				route {
					tls
					`+fmt.Sprintf(inspect, upstream)+`
				}
			}
		}
	}
	https://example.com:`+freeport.Get(t)+` {
		bind streamprox/certificates
		respond certificates
	}`)
	type halfCloser interface {
		net.Conn
		CloseWrite() error
	}
	for name, open := range map[string]func(t *testing.T) halfCloser{
		"plain": func(t *testing.T) halfCloser { return dial(t, plain) },
		"proxy_protocol": func(t *testing.T) halfCloser {
			conn := dial(t, proxied)
			send(t, conn, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 1<<20)
			return conn
		},
		"tls": func(t *testing.T) halfCloser {
			var conn *tls.Conn
			eventually(t, "certificate", func() bool {
				conn = tls.Client(dial(t, secure), tlsClient())
				return conn.Handshake() == nil
			})
			return conn
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := open(t)
			send(t, conn, getRoot, 1<<20)
			if got := receive(t, conn); got != "that is all" {
				t.Errorf("got %q", got)
			}
			send(t, conn, "and I go on", 1<<20)
			_ = conn.CloseWrite()
			if got := <-received; got != "and I go on" {
				t.Errorf("the upstream got %q after it had finished sending", got)
			}

			conn = open(t)
			send(t, conn, "GET /reset HTTP/1.1\r\nHost: a\r\n\r\n", 1<<20)
			if _, err := io.ReadAll(conn); !isReset(err) {
				t.Errorf("reset by the upstream: the client sees %v", err)
			}
		})
	}
}

// TestAnsweredRequestsDoNotCount: a request that has been answered leaves its place under
// max_connections to the next one, also while its upstream, which keeps its connection
// open, is waited for.
func TestAnsweredRequestsDoNotCount(t *testing.T) {
	up := backend(t, func(conn net.Conn) {
		for r := bufio.NewReader(conn); ; {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	address := freeport.Address(t)
	start(t, layer4Caddyfile(address, "route {\nrelay {\nupstream "+up+" {\nmax_connections 1\n}\nreuse close\n}\n}"))
	for range 5 {
		conn := dial(t, address)
		send(t, conn, head("GET / HTTP/1.1", "Host: a.example"), 1<<20)
		got, err := io.ReadAll(conn)
		if !strings.HasPrefix(string(got), "HTTP/1.1 200 ") || err != nil {
			t.Errorf("got %q, error %v, want 200", got, err)
		}
	}
}
