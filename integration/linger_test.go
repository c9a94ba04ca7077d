package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestResponseBeforeARefusedRequest: a response that a slow client still reads is not
// destroyed by the end of its connection, whatever the client has sent behind its request.
func TestResponseBeforeARefusedRequest(t *testing.T) {
	const size = 1 << 20 // more than the buffers of both sides hold
	big := strings.Repeat("x", size)
	site := newRecorder()
	site.register(t, "site")
	port, address, single := freeport.Get(t), freeport.Address(t), freeport.Address(t)
	server := backend(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, big)
		}
	})
	layer4Server := func(address, routes string) string {
		return address + " {\n route {\n inspect {\n" + routes + "\n}\n}\n}\n"
	}
	const app = "@big http_request path /big /elsewhere\nroute @big {\n http_app %s\n}\n"
	start(t, "{\n layer4 {\n"+
		layer4Server(address, fmt.Sprintf(app, "web"))+
		layer4Server(single, fmt.Sprintf(app, "web {\n reuse close\n }"))+`
		}
		servers 127.0.0.1:`+port+` {
			listener_wrappers {
				layer4 {
					route {
						inspect {
							@away http_request path /away
							route @away {
								http_app web
							}
							@big http_request path /big
							route @big {
								http_app
							}
						}
					}
				}
			}
		}
	}
	http://:80 {
		bind streamprox/web
		handle /away {
			respond away
		}
		reverse_proxy `+server+`
	}
	http://:`+port+` {
		bind 127.0.0.1
		reverse_proxy `+server+`
	}`)
	get := func(target string) string { return head("GET "+target+" HTTP/1.1", "Host: a.example") }
	rest := strings.Repeat("y", 100<<10)
	for _, test := range []struct{ name, address, behind string }{
		{"no route", address, get("/nowhere") + rest},
		{"no HTTP", address, "SOURCE / ICE/1.0\r\n\r\n" + rest},
		{"malformed", address, "GET / HTTP/9\r\n\r\n" + rest},
		{"reuse close", single, get("/big") + rest},
		{"another route of a wrapped server", "127.0.0.1:" + port, get("/nowhere") + rest},
		{"back to a wrapped server", "127.0.0.1:" + port, get("/away") + get("/big") + rest},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 3 {
				conn := dial(t, test.address)
				_ = conn.SetReadBuffer(64 << 10)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					_, _ = io.WriteString(conn, get("/big")+test.behind)
				}()
				r := bufio.NewReaderSize(conn, 4<<10)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				// Slow: the connection has long been given up when the rest is read.
				n, err := io.CopyN(io.Discard, resp.Body, size/2)
				if err == nil {
					time.Sleep(100 * time.Millisecond)
					var more int64
					more, err = io.Copy(io.Discard, resp.Body)
					n += more
				}
				if n != size || err != nil {
					t.Errorf("got %d bytes of %d (%v)", n, size, err)
				}
				conn.Close()
				<-sent
			}
		})
	}
}
