package integration

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// tool returns the path of a program that a test needs. Where it is missing the
// test is skipped, but not where all of them must run.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("STREAMPROX_E2E") != "" {
		t.Fatalf("%s is not installed, and STREAMPROX_E2E is set", name)
	}
	t.Skipf("needs %s, which is not installed", name)
	return ""
}

// run starts a program that ends with the test, or when the function it returns is
// called.
func run(t *testing.T, env []string, name string, args ...string) (pid int, stop func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var output logBuffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = time.Second // for children that it leaves behind
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), output.String())
		}
	})
	return cmd.Process.Pid, stop
}

// pebble runs an ACME server that validates on the given port, and returns its
// directory, its root certificate and a function that ends it.
func pebble(t *testing.T, httpPort string) (directory, root string, stop func()) {
	t.Helper()
	program, names := tool(t, "pebble"), tool(t, "pebble-challtestsrv")
	dir, dns, listen := t.TempDir(), freeport.Address(t), freeport.Address(t)

	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	certificate := server.TLS.Certificates[0]
	server.Close()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	root = filepath.Join(dir, "root.pem")
	files := map[string][]byte{
		root:                          pemOf(certificate.Certificate[0]),
		filepath.Join(dir, "key.pem"): pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}
	var port int
	_, _ = fmt.Sscan(httpPort, &port)
	files[filepath.Join(dir, "config.json")], err = json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": freeport.Address(t),
		"certificate": root, "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": port, "tlsPort": 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range files {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, nil, names, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", dns, "-management", freeport.Address(t),
		"-http01", "", "-https01", "", "-tlsalpn01", "")
	_, stop = run(t, []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0"}, program, "-config", filepath.Join(dir, "config.json"), "-dnsserver", dns)
	for _, address := range []string{listen, dns} {
		eventually(t, address, func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return "https://" + listen + "/dir", root, stop
}

// A site on the virtual network gets its certificate by HTTP-01 through layer4,
// although the Caddyfile adapter makes the issuer listen on that network.
func TestACME(t *testing.T) {
	for name, config := range map[string]struct{ global, site string }{
		"bind and a site's issuer":     {"", "bind streamprox/web\n tls {\n issuer acme {\n disable_tlsalpn_challenge\n }\n }"},
		"default_bind and an email":    {"default_bind streamprox/web\n email a@example.com", ""},
		"bind and the site's tls line": {"", "bind streamprox/web\n tls a@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			plain, secure := freeport.Address(t), freeport.Address(t)
			_, httpPort, _ := net.SplitHostPort(plain)
			_, httpsPort, _ := net.SplitHostPort(secure)
			directory, root, stop := pebble(t, httpPort)
			s := start(t, `{
				http_port `+httpPort+`
				https_port `+httpsPort+`
				acme_ca `+directory+`
				acme_ca_root `+root+`
				`+config.global+`
				layer4 {
					`+plain+` `+secure+` {
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
			acme.example.com {
				`+config.site+`
				respond "certified"
			}`)
			var conn *tls.Conn
			eventually(t, "certificate", func() bool {
				conn = tls.Client(dial(t, secure), &tls.Config{ServerName: "acme.example.com", InsecureSkipVerify: true})
				return conn.Handshake() == nil
			})
			if issuer := conn.ConnectionState().PeerCertificates[0].Issuer.CommonName; !strings.HasPrefix(issuer, "Pebble") {
				t.Errorf("the certificate is by %q, want Pebble", issuer)
			}
			resp, content := roundTrip(t, conn, "GET / HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", 1<<20)
			if resp.StatusCode != http.StatusOK || content != "certified" {
				t.Errorf("got %s %q", resp.Status, content)
			}
			if served := s.logs.lines(map[string]any{"msg": "served key authentication", "challenge": "http-01"}); len(served) == 0 {
				t.Errorf("the challenge was not answered through layer4\n%s", s.logs.problems())
			}
			stop() // and with it the connection that the ACME client keeps
		})
	}
}
