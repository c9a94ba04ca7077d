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
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// numberedBackend answers each request with the number of the connection that it came on.
func numberedBackend(t *testing.T) (address string) {
	var connections atomic.Int32
	return backend(t, func(conn net.Conn) {
		number := fmt.Sprint(connections.Add(1))
		for r := bufio.NewReader(conn); ; {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, request.Body)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(number), number)
		}
	})
}

// unread returns how many of the connections to the port of address hold bytes that the
// server has not read.
func unread(t *testing.T, address string) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip(err)
	}
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	local := fmt.Sprintf(":%04X", tcp.Port)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line) // sl local_address rem_address st tx_queue:rx_queue …
		if len(fields) > 4 && strings.HasSuffix(fields[1], local) && fields[3] == "01" && !strings.HasSuffix(fields[4], ":00000000") {
			n++
		}
	}
	return n
}

// TestPostNeedsFreshAnswer checks that a request which must not be sent twice goes up on a
// connection of its own if the kept one has not answered within the last second.
func TestPostNeedsFreshAnswer(t *testing.T) {
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						route {
							relay `+numberedBackend(t)+`
						}
					}
				}
			}
		}
	}`)
	s := newScript(t, address)
	s.get("/", "1")
	time.Sleep(1100 * time.Millisecond) // more does no harm: the connection is not used either
	post := "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1\r\n\r\nx"
	if _, err := io.Copy(s.conn, strings.NewReader(post)); err != nil {
		t.Fatal(err)
	}
	s.get("", "2")
}

// TestNextRequestElsewhereWithTLS checks that a connection of which caddy-l4 keeps the
// socket goes to another upstream, as often as its requests do, and that nobody waits for
// the requests before.
func TestNextRequestElsewhereWithTLS(t *testing.T) {
	address := freeport.Address(t)
	certificate, key := selfSigned(t)
	dir := t.TempDir()
	for name, content := range map[string]string{"certificate.pem": certificate, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, `{
		skip_install_trust
		layer4 {
			`+address+` {
				route {
					tls
					inspect {
						@b http_request path /b
						route @b {
							relay `+numberedBackend(t)+`
						}
						route {
							relay `+numberedBackend(t)+`
						}
					}
				}
			}
		}
	}
	https://example.com {
		tls "`+filepath.ToSlash(filepath.Join(dir, "certificate.pem"))+`" "`+filepath.ToSlash(filepath.Join(dir, "key.pem"))+`"
		bind streamprox/certificates
	}`)
	conn := tls.Client(dial(t, address), &tls.Config{InsecureSkipVerify: true, ServerName: "example.com"})
	s := &script{t: t, conn: conn, r: bufio.NewReader(conn)}
	s.get("/a /b", "1", "1")
	before := runtime.NumGoroutine()
	for i := range 20 {
		next := fmt.Sprint(2 + i)
		s.get("/a /b", next, next)
	}
	eventually(t, "end of the goroutines of 40 more requests", func() bool { return runtime.NumGoroutine() <= before+10 })
}

// TestUnfinishedHead checks what becomes of a later head of which no more than a part comes,
// and that the rest of one may come as late and in as many pieces as that of a first head.
func TestUnfinishedHead(t *testing.T) {
	backend := numberedBackend(t)
	for _, before := range []string{"", "throttle {\n latency 1ns\n }\n "} {
		address, hasty := freeport.Address(t), freeport.Address(t)
		server := func(address, timeout string) string {
			return address + " {\n route {\n " + before + "inspect {\n " + timeout + "max_bytes 5000\n route {\n relay " + backend + "\n }\n }\n }\n }\n "
		}
		startQuiet(t, "{\n layer4 {\n "+server(address, "")+server(hasty, "timeout 300ms\n ")+"}\n}")
		kept := func(address string) (conn *net.TCPConn, s *script, number string) {
			conn = dial(t, address)
			s = &script{t: t, conn: conn, r: bufio.NewReader(conn)}
			s.get("/")
			response, err := http.ReadResponse(s.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			content, _ := io.ReadAll(response.Body)
			return conn, s, string(content)
		}
		next := "GET / HTTP/1.1\r\nHost: example.com\r\nX: " + strings.Repeat("x", 4000) + "\r\n\r\n"

		conn, s, number := kept(address)
		send(t, conn, next[:100], 1)
		send(t, conn, next[100:], 1000)
		s.get("", number)
		_, _ = io.WriteString(conn, strings.Repeat("GET /", 1001))
		expectAnswer(t, conn, "431")

		conn, _, _ = kept(address)
		_, _ = io.WriteString(conn, next[:100])
		_ = conn.CloseWrite()
		expectAnswer(t, conn, "closed")

		conn, _, _ = kept(hasty)
		_, _ = io.WriteString(conn, next[:100])
		expectAnswer(t, conn, "408")
	}
}

// TestMovedClientLeavesNothing checks that a client which moves from a relay to a site leaves
// neither a connection to the upstream nor a place there, while it stays at the site and
// afterwards.
func TestMovedClientLeavesNothing(t *testing.T) {
	for _, before := range []string{"", "throttle {\n latency 1ns\n }\n "} {
		var open, connections atomic.Int32
		upstream := backend(t, func(conn net.Conn) {
			open.Add(1)
			defer open.Add(-1)
			connections.Add(1)
			for r := bufio.NewReader(conn); ; {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nrelay")
			}
		})
		address := freeport.Address(t)
		startQuiet(t, `{
			layer4 {
				`+address+` {
					route {
						`+before+`inspect {
							@relay http_request path /relay
							route @relay {
								relay {
									upstream_keepalive 1h
									upstream `+upstream+` {
										max_connections 1
									}
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
			respond site
		}`)
		var clients []*script
		var conns []*net.TCPConn
		for range 10 {
			conn := dial(t, address)
			s := &script{t: t, conn: conn, r: bufio.NewReader(conn)}
			clients, conns = append(clients, s), append(conns, conn)
		}
		for round := range 3 {
			for _, s := range clients {
				s.get("/relay /relay", "relay", "relay") // the only place is free again
				s.get("/site", "site")
			}
			eventually(t, "end of the connections that are kept for nobody", func() bool { return open.Load() == 0 })
			if got, want := connections.Load(), int32((round+1)*len(clients)); got != want {
				t.Errorf("got %d connections to the upstream, want %d", got, want)
			}
		}
		clients[0].get("/relay", "relay") // it leaves while its connection to the upstream is kept
		for _, conn := range conns {
			conn.Close()
		}
		eventually(t, "end of the last connections", func() bool { return open.Load() == 0 })
		newScript(t, address).get("/relay", "relay")
	}
}
