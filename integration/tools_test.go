package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// command runs a program of the machine and returns what it printed.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, name), args...)
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}

func TestCurl(t *testing.T) {
	tool(t, "curl")
	plain, secure := freeport.Address(t), freeport.Address(t)
	start(t, sites(plain, secure, `inspect {
		@chat http_request path /chat/*
		route @chat {
			relay `+httpBackend(t, "chat")+`
		}
		route {
			http_app web
		}
	}`))
	_, httpPort, _ := net.SplitHostPort(plain)
	_, httpsPort, _ := net.SplitHostPort(secure)
	resolve := []string{"-sS", "-k", "--max-time", "15", "--resolve", "example.com:" + httpPort + ":127.0.0.1", "--resolve", "example.com:" + httpsPort + ":127.0.0.1"}
	curl := func(args ...string) string {
		return command(t, "curl", append(resolve, args...)...)
	}
	site := "https://example.com:" + httpsPort
	eventually(t, "certificate", func() bool { return strings.HasPrefix(curl(site), "GET / ") })

	if got := curl("--http2", site+"/x"); !strings.Contains(got, "proto HTTP/2.0 sni example.com") {
		t.Errorf("curl --http2: got %q", got)
	}
	if got := curl("--http1.1", site+"/x"); !strings.Contains(got, "proto HTTP/1.1 sni example.com") {
		t.Errorf("curl --http1.1: got %q", got)
	}
	if got := curl("-o", os.DevNull, "-w", "%{http_code} %{redirect_url}", "http://example.com:"+httpPort+"/x"); got != "308 https://example.com/x" {
		t.Errorf("redirect to HTTPS: got %q", got)
	}
	chat := "http://example.com:" + httpPort + "/chat/"
	if got := curl("-d", "hello", chat); got != "chat POST /chat/ hello" {
		t.Errorf("relayed POST: got %q", got)
	}
	if got := curl("-H", "Transfer-Encoding: chunked", "-d", "hello", chat); got != "chat POST /chat/ hello" {
		t.Errorf("relayed chunked POST: got %q", got)
	}
	if got := curl("-H", "Expect: 100-continue", "--expect100-timeout", "0.1", "-d", "hello", chat); got != "chat POST /chat/ hello" {
		t.Errorf("relayed POST with Expect: got %q", got)
	}
	if got := curl("--path-as-is", "-o", os.DevNull, "-w", "%{http_code}", chat+"../secret"); got != "400" {
		t.Errorf("dot segment: got %q, want 400", got)
	}
	if got := curl("--http2-prior-knowledge", chat); !strings.Contains(got, "HTTP_1_1_REQUIRED") && !strings.Contains(got, "curl: (") {
		t.Errorf("prior knowledge: got %q, want a refusal", got)
	}
}

func TestNghttp(t *testing.T) {
	tool(t, "nghttp")
	address := freeport.Address(t)
	start(t, layer4Caddyfile(address, "route {\n relay "+httpBackend(t, "x")+"\n}"))
	if got := command(t, "nghttp", "-v", "http://"+address+"/"); !strings.Contains(got, "recv GOAWAY") || !strings.Contains(got, "HTTP_1_1_REQUIRED") {
		t.Errorf("got %s, want GOAWAY with HTTP_1_1_REQUIRED", got)
	}
}

// A real SSH server shares the port with a site.
func TestSSH(t *testing.T) {
	sshd := tool(t, "sshd")
	for _, name := range []string{"ssh", "ssh-keygen", "ssh-keyscan"} {
		tool(t, name)
	}
	dir := t.TempDir()
	for _, name := range []string{"host", "user"} {
		command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))
	}
	listen, address := freeport.Address(t), freeport.Address(t)
	_, port, _ := net.SplitHostPort(listen)
	config := filepath.Join(dir, "sshd_config")
	err := os.WriteFile(config, fmt.Appendf(nil, `ListenAddress 127.0.0.1
Port %s
HostKey %s
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
`, port, filepath.Join(dir, "host"), filepath.Join(dir, "user.pub")), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		_ = os.MkdirAll("/run/sshd", 0o755) // sshd wants it when it is root
	}
	run(t, nil, sshd, "-D", "-e", "-f", config)
	eventually(t, "sshd", func() bool {
		conn, err := net.Dial("tcp", listen)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	start(t, layer4Caddyfile(address, `
		silent_timeout 2s
		@ssh inspected silent other
		route @ssh {
			relay `+listen+`
		}
		route {
			relay `+httpBackend(t, "site")+`
		}
	`))
	_, port, _ = net.SplitHostPort(address)

	hostKey, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if got := command(t, "ssh-keyscan", "-t", "ed25519", "-p", port, "127.0.0.1"); !strings.Contains(got, strings.Fields(string(hostKey))[1]) {
		t.Errorf("ssh-keyscan: got %s, want the key %s", got, hostKey)
	}
	// A client that waits for the server to speak first.
	conn := dial(t, address)
	banner := make([]byte, len("SSH-2.0-"))
	if _, err := conn.Read(banner); err != nil || string(banner) != "SSH-2.0-" {
		t.Errorf("a silent client got %q (%v)", banner, err)
	}
	_, got := roundTrip(t, dial(t, address), getRoot, 1)
	if got != "site GET / " {
		t.Errorf("the site: got %q", got)
	}
	if os.Geteuid() != 0 {
		return // sshd lets nobody else log in
	}
	want := strings.Repeat("0123456789", 20000)
	cmd := exec.Command("ssh", "-F", "none", "-p", port, "-i", filepath.Join(dir, "user"), "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+filepath.Join(dir, "known"), "root@127.0.0.1", "cat")
	cmd.Stdin = strings.NewReader(want)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || string(out) != want {
		t.Errorf("ssh: got %d of %d bytes (%v)\n%s", len(out), len(want), err, errs.String())
	}
}

// The file server sends files from the page cache to the socket, without a copy
// through this process, as it does on a TCP listener: only where Caddy's write_idle
// timeout is off, since that one hides the file from net/http.
func TestSendfile(t *testing.T) {
	strace := tool(t, "strace")
	dir, address := t.TempDir(), freeport.Address(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(dir, "trace")
	pid := startProcess(t, "{\n admin off\n servers {\n timeouts {\n write_idle -1s\n }\n }\n layer4 {\n "+address+" {\n route {\n inspect {\n route {\n http_app web\n }\n }\n }\n }\n }\n}\nhttp://:80 {\n bind streamprox/web\n root * "+dir+"\n file_server\n}\n").pid()
	run(t, nil, strace, "-f", "-e", "trace=sendfile", "-o", trace, "-p", strconv.Itoa(pid))
	eventually(t, "strace", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return err != nil || !bytes.Contains(status, []byte("TracerPid:\t0\n"))
	})
	_, got := roundTrip(t, dial(t, address), "GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 1<<20)
	if len(got) != 8<<20 {
		t.Errorf("got %d bytes, want %d", len(got), 8<<20)
	}
	eventually(t, "sendfile in the trace", func() bool {
		out, err := os.ReadFile(trace)
		return err == nil && bytes.Contains(out, []byte("sendfile("))
	})
}

// A gRPC client without TLS is told to use HTTP/1.1: it gives up at once instead of
// waiting, and where a route names the outcome it reaches its server.
func TestGRPCClient(t *testing.T) {
	address, named := freeport.Address(t), freeport.Address(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(ln)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						route {
							relay `+ln.Addr().String()+`
						}
					}
				}
			}
			`+named+` {
				route {
					inspect {
						@grpc inspected http2
						route @grpc {
							relay `+ln.Addr().String()+`
						}
					}
				}
			}
		}
	}`)
	check := func(address string) error {
		client, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err = healthpb.NewHealthClient(client).Check(ctx, new(healthpb.HealthCheckRequest))
		return err
	}
	if err := check(named); err != nil {
		t.Errorf("a route names http2: got %v", err)
	}
	if err := check(address); status.Code(err) != codes.Unavailable {
		t.Errorf("no route names http2: got %v, want the code Unavailable", err)
	}
}
