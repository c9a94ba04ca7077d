package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// buildCaddy returns the path of a caddy command built from this checkout.
func buildCaddy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "caddy")
	cmd := exec.Command("go", "build", "-tags", "nobadger,nomysql,nopgx", "-o", path, "../cmd/caddy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building caddy: %v\n%s", err, out)
	}
	return path
}

// A process that is told to stop lets streams come to an end, for the grace period,
// and then resets those that are left.
func TestShutdownDrainsStreams(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGTERM, which Windows does not have")
	}
	caddy := buildCaddy(t)
	address, upstream := freeport.Address(t), backend(t, echo("up"))
	for _, test := range []struct {
		name  string
		grace string
		ends  bool // the stream ends by itself
	}{
		{"waits", "1m", true},
		{"resets", "500ms", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "Caddyfile")
			caddyfile := "{\n admin off\n grace_period " + test.grace + "\n" + strings.TrimPrefix(relayCaddyfile(address, "relay "+upstream+" {\n reuse pin\n }"), "{") +
				"\nhttp://:80 {\n bind streamprox/web\n}\n"
			if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(caddy, "run", "--config", config, "--adapter", "caddyfile")
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
			var output logBuffer
			cmd.Stdout, cmd.Stderr = &output, &output
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan error, 1)
			go func() {
				defer close(exited)
				exited <- cmd.Wait()
			}()
			t.Cleanup(func() {
				if t.Failed() { // its goroutines say what it waits for
					_ = cmd.Process.Signal(syscall.SIGQUIT)
					<-exited
					t.Log(output.String())
				}
				_ = cmd.Process.Kill()
			})

			conn := dial(t, address)
			send(t, conn, getRoot, 1<<20)
			r := bufio.NewReader(conn)
			if got, err := r.ReadString('\n'); got != "up\n" {
				t.Fatalf("got %q (%v)\n%s", got, err, output.String())
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, "shutdown", func() bool {
				return strings.Contains(output.String(), "waiting for streams to end")
			})
			if test.ends {
				if _, err := net.DialTimeout("tcp", address, time.Second); err == nil {
					t.Error("the listener is still open")
				}
				send(t, conn, "more", 1)
				conn.CloseWrite()
				got, err := io.ReadAll(r)
				if string(got) != getRoot+"more" || err != nil {
					t.Errorf("the stream ended with %q (%v)", got, err)
				}
			} else if _, err := io.ReadAll(r); !isReset(err) {
				t.Errorf("the stream ended with %v, want a reset", err)
			}
			select {
			case err := <-exited:
				if err != nil {
					t.Errorf("caddy exited with %v\n%s", err, output.String())
				}
			case <-time.After(patience):
				t.Errorf("caddy does not exit\n%s", output.String())
			}
			if got := strings.Contains(output.String(), `"msg":"streams were reset at shutdown","streams":1`); got == test.ends {
				t.Errorf("logged that a stream was reset: %v\n%s", got, output.String())
			}
		})
	}
}

// A process that is told to stop finishes requests that no stream carries yet, because
// their upstream is being dialled: the first one of a connection, and one that the HTTP
// server has given back.
func TestShutdownWaitsForRequests(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGTERM, which Windows does not have")
	}
	caddy := buildCaddy(t)
	for _, before := range []string{"", "GET /site HTTP/1.1\r\nHost: a\r\n\r\n"} {
		t.Run(map[bool]string{true: "first request", false: "later request"}[before == ""], func(t *testing.T) {
			address, upstream := freeport.Address(t), freeport.Address(t)
			config := filepath.Join(t.TempDir(), "Caddyfile")
			caddyfile := "{\n debug\n admin off\n grace_period 1m\n" + strings.TrimPrefix(layer4Caddyfile(address, `
				@b http_request path /b*
				route @b {
					relay `+upstream+` {
						lb_try_duration 1m
						lb_try_interval 20ms
					}
				}
				route {
					http_app web
				}
			`), "{") + "\nhttp://:80 {\n bind streamprox/web\n respond site\n}\n"
			if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(caddy, "run", "--config", config, "--adapter", "caddyfile")
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
			var output logBuffer
			cmd.Stdout, cmd.Stderr = &output, &output
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan error, 1)
			go func() { exited <- cmd.Wait() }()
			t.Cleanup(func() { _ = cmd.Process.Kill() })

			conn := dial(t, address)
			c := &client{TCPConn: conn, r: bufio.NewReader(conn), size: 1 << 20}
			if before != "" {
				sends(before)(t, c)
				gets(200, "site")(t, c)
			}
			sends("GET /b HTTP/1.1\r\nHost: a\r\n\r\n")(t, c)
			eventually(t, "dial", func() bool { return strings.Contains(output.String(), "dial failed") })
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, "shutdown", func() bool {
				return strings.Contains(output.String(), "waiting for streams to end") || strings.Contains(output.String(), "shutdown complete")
			})
			ln, err := net.Listen("tcp", upstream)
			if err != nil {
				t.Fatal(err)
			}
			serveBackend(t, ln, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb")
				}
			})
			last(200, "b")(t, c)
			select {
			case err := <-exited:
				if err != nil {
					t.Errorf("caddy exited with %v\n%s", err, output.String())
				}
			case <-time.After(patience):
				t.Errorf("caddy does not exit\n%s", output.String())
			}
		})
	}
}

// The branch of a tee waits for more from a client that is gone, and closing it does not
// wake it: shutdown does not wait for it for ever, nor once for each handler.
func TestShutdownLeavesWhatCannotEnd(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGTERM, which Windows does not have")
	}
	// The upstream says nothing: what it said would come between the bytes of the site, or after.
	address, upstream := freeport.Address(t), backend(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	caddyfile := "{\n admin off\n layer4 {\n " + address + " {\n route {\n tee {\n relay " + upstream + "\n }\n inspect {\n route {\n http_app web\n }\n}\n}\n}\n" +
		freeport.Address(t) + " {\n route {\n relay " + upstream + "\n }\n}\n}\n grace_period 500ms\n}\nhttp://:80 {\n bind streamprox/web\n respond hello\n}\n"
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(buildCaddy(t), "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
	var output logBuffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	conn := dial(t, address)
	send(t, conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 1<<20)
	if got, err := io.ReadAll(conn); !strings.HasSuffix(string(got), "hello") {
		t.Fatalf("got %q (%v)\n%s", got, err, output.String())
	}
	conn.Close()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-exited:
	case <-time.After(30 * time.Second):
		t.Fatalf("the process is still there\n%s", output.String())
	}
	if n := strings.Count(output.String(), "streams did not end at shutdown"); n != 1 {
		t.Errorf("%d lines say that streams did not end, want 1\n%s", n, output.String())
	}
}
