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
	if after := runtime.NumGoroutine(); after > before+10 {
		t.Errorf("%d goroutines after 40 more requests, %d before", after, before)
	}
}
