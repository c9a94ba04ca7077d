package examples

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testProxyProtocol(t *testing.T) {
	haproxy := tool(t, "haproxy", "haproxy")
	port, front, appPort := freeport.Get(t), freeport.Get(t), freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("HAPROXY_PORT", front)
	t.Setenv("APP_PORT", appPort)
	program(t, exec.Command(haproxy, "-db", "-f", "proxy-protocol/haproxy.cfg"))
	answers(t, "127.0.0.1:"+front)

	for _, application := range []struct {
		name string
		port func(*testing.T) string
		want string // with the client's address for %s
	}{
		{"Caddy", func(*testing.T) string { return appPort }, "The application. Your address is %s.\n"},
		{"nginx", proxyProtocolNginx, "nginx. Your address is %s.\n"},
	} {
		t.Run(application.name, func(t *testing.T) {
			t.Setenv("APP", "127.0.0.1:"+application.port(t))
			run(t, "proxy-protocol/Caddyfile")
			for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
				for path, want := range map[string]string{"/": "The site. Your address is %s.\n", "/app/a": application.want} {
					conn := dialFrom(t, from, "127.0.0.1:"+front)
					got := roundTrip(t, conn, path, "")
					if want := fmt.Sprintf(want, conn.LocalAddr()); got != want {
						t.Errorf("%s from %s: got %q, want %q", path, from, got, want)
					}
				}
			}

			// Only the balancer's word is taken.
			const header = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"
			conn := dialFrom(t, "127.0.0.1", "127.0.0.1:"+port)
			if got, want := roundTrip(t, conn, "/", header), "The site. Your address is 192.0.2.1:1000.\n"; got != want {
				t.Errorf("from the balancer: got %q, want %q", got, want)
			}
			conn = dialFrom(t, "127.0.0.2", "127.0.0.1:"+port)
			fmt.Fprintf(conn, "%sGET / HTTP/1.1\r\nHost: localhost\r\n\r\n", header)
			if got, err := io.ReadAll(conn); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("from another address: got %q, %v, want the end", got, err)
			}
		})
	}
}

// dialFrom connects from an address of this machine.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", to)
	if err != nil {
		t.Skipf("no other loopback address: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// roundTrip sends a request behind the given bytes and returns the body of its response.
func roundTrip(t *testing.T, conn net.Conn, path, before string) string {
	t.Helper()
	fmt.Fprintf(conn, "%sGET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", before, path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return string(body)
}

// proxyProtocolNginx runs an nginx that reads the PROXY protocol, until the test ends,
// and returns its port.
func proxyProtocolNginx(t *testing.T) string {
	t.Helper()
	nginx, dir, port := tool(t, "nginx", "nginx-light"), t.TempDir(), freeport.Get(t)
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:%[2]s proxy_protocol;
		location / {
			return 200 "nginx. Your address is $proxy_protocol_addr:$proxy_protocol_port.\n";
		}
	}
}
`, dir, port), 0o600); err != nil {
		t.Fatal(err)
	}
	program(t, exec.Command(nginx, "-p", dir, "-c", config, "-e", "stderr"))
	answers(t, "127.0.0.1:"+port)
	return port
}
