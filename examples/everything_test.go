package examples

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
	"github.com/quic-go/quic-go/http3"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testEverything(t *testing.T) { everything(t, "everything/Caddyfile", false) }

func testEverythingWrapper(t *testing.T) { everything(t, "everything/wrapper/Caddyfile", true) }

// everything tests one of the two forms.
func everything(t *testing.T, path string, hasHTTP3 bool) {
	plain, secure := freeport.Get(t), freeport.Get(t)
	t.Setenv("HTTP_PORT", plain)
	t.Setenv("HTTPS_PORT", secure)
	site := "https://localhost:" + secure
	t.Setenv("ECHO", webSocketEcho(t, "localhost:"+secure, site))

	t.Run("HTTPS and WebSockets", func(t *testing.T) {
		run(t, path)
		for _, test := range []struct{ protocol, alpn string }{{"HTTP/2.0", "h2"}, {"HTTP/1.1", "http/1.1"}} {
			client, local := newClient(t)
			transport := client.Transport.(*http.Transport)
			transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
			transport.ForceAttemptHTTP2 = test.alpn == "h2"
			if got, want := get(t, client, site+"/").body, fmt.Sprintf("The site, with %s. Your address is %s.\n", test.protocol, *local); got != want {
				t.Errorf("%s: got %q, want %q", test.protocol, got, want)
			}
			wanted := http.StatusUpgradeRequired
			if test.alpn == "http/1.1" {
				wanted = http.StatusForbidden // the echo's own answer to another Origin
			}
			if got := get(t, client, site+"/echo").status; got != wanted {
				t.Errorf("%s: /echo: got %d, want %d", test.protocol, got, wanted)
			}
		}
		testWebSocket(t, secure)
		if hasHTTP3 {
			testHTTP3(t, site)
		}
	})

	t.Run("browser", func(t *testing.T) {
		chromium := browsertest.Find(t)
		run(t, path)
		obtained(t, site)
		page, browser := browsertest.Start(t, chromium, 5*patience, chromedp.Flag("ignore-certificate-errors", true))
		if err := chromedp.Do(page, chromedp.Navigate(site+"/")); err != nil {
			t.Fatalf("opening the page: %v", err)
		}
		got, err := chromedp.Run(page, chromedp.Evaluate[string](`new Promise((resolve, reject) => {
			const protocol = performance.getEntriesByType("navigation")[0].nextHopProtocol;
			const socket = new WebSocket("wss://" + location.host + "/echo");
			socket.onmessage = ({ data }) => {
				resolve("page by " + protocol + ", WebSocket asked for " + data);
				socket.close();
			};
			socket.onerror = () => reject(new Error("WebSocket"));
		})`, chromedp.EvalAwaitPromise))
		if want := "page by h2, WebSocket asked for /echo"; err != nil || got != want {
			t.Errorf("got %q, %v, want %q; console: %q", got, err, want, browser.Complaints())
		}
		browser.Close()
	})

	t.Run("SSH", func(t *testing.T) {
		server := startSSH(t)
		t.Setenv("SSH_PORT", server.port)
		run(t, path)
		server.test(t, secure)
	})
}

// obtained waits until a site has its certificate.
func obtained(t *testing.T, site string) {
	t.Helper()
	client, _ := newClient(t)
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	get(t, client, site)
	client.CloseIdleConnections()
}

// testWebSocket opens a WebSocket to the echo on the port and speaks to it.
func testWebSocket(t *testing.T, port string) {
	t.Helper()
	client, _ := newClient(t)
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	client.Timeout = 0
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "wss://localhost:"+port+"/echo", &websocket.DialOptions{
		HTTPClient: client, HTTPHeader: http.Header{"Origin": {"https://localhost:" + port}},
	})
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.CloseNow()
	for _, want := range []string{"/echo", "one", "two"} {
		if _, got, err := conn.Read(ctx); err != nil || string(got) != want {
			t.Errorf("WebSocket: got %q, %v, want %q", got, err, want)
			return
		}
		next := map[string]string{"/echo": "one", "one": "two"}[want]
		if next == "" {
			break
		}
		if err := conn.Write(ctx, websocket.MessageText, []byte(next)); err != nil {
			t.Error(err)
			return
		}
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing the WebSocket: %v", err)
	}
}

// testHTTP3 asks the site with HTTP/3.
func testHTTP3(t *testing.T, site string) {
	t.Helper()
	transport := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}}
	defer transport.Close()
	client := &http.Client{Transport: transport, Timeout: patience}
	req, err := http.NewRequest(http.MethodGet, strings.Replace(site, "localhost", "127.0.0.1", 1)+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "localhost"
	resp, err := client.Do(req)
	if err != nil {
		t.Errorf("HTTP/3: %v", err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := "The site, with HTTP/3.0. "; !strings.HasPrefix(string(body), want) {
		t.Errorf("HTTP/3: got %q, %v, want %q", body, err, want)
	}
}

// sshServer is a running sshd, and what it logs.
type sshServer struct {
	port, dir string
	log       *output
}

// startSSH runs an sshd, until the test ends, to which root can log in with the key
// dir/user.
func startSSH(t *testing.T) *sshServer {
	t.Helper()
	return startSSHOn(t, freeport.Get(t))
}

// startSSHOn is startSSH with a port of 127.0.0.1, and of ::1 where there is one.
func startSSHOn(t *testing.T, port string) *sshServer {
	t.Helper()
	sshd, keygen := tool(t, "sshd", "openssh-server"), tool(t, "ssh-keygen", "openssh-client")
	tool(t, "ssh", "openssh-client")
	s := &sshServer{port: port, dir: t.TempDir()}
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	config := filepath.Join(s.dir, "sshd_config")
	if err := os.WriteFile(config, fmt.Appendf(nil, `ListenAddress 127.0.0.1
ListenAddress ::1
Port %s
HostKey %s
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
`, s.port, filepath.Join(s.dir, "host"), filepath.Join(s.dir, "user.pub")), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		_ = os.MkdirAll("/run/sshd", 0o755) // sshd wants it when it is root
	}
	s.log = program(t, exec.Command(sshd, "-D", "-e", "-f", config))
	answers(t, "127.0.0.1:"+s.port)
	return s
}

// test asks the server for its name through another port, and logs in.
func (s *sshServer) test(t *testing.T, port string) {
	t.Helper()
	conn := dial(t, "127.0.0.1:"+port)
	fmt.Fprint(conn, "SSH-2.0-client\r\n")
	if got := readLine(t, conn); !strings.HasPrefix(got, "SSH-2.0-OpenSSH") {
		t.Errorf("sshd: got %q", got)
	}
	conn.Close()
	if os.Geteuid() != 0 {
		return // sshd lets nobody else log in
	}
	want := strings.Repeat("0123456789", 20000)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", "-F", "none", "-p", port, "-i", filepath.Join(s.dir, "user"), "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+filepath.Join(s.dir, "known"), "root@127.0.0.1", "cat")
	cmd.Stdin = strings.NewReader(want)
	errs := new(output)
	cmd.Stderr = errs
	out, err := cmd.Output()
	if err != nil || string(out) != want {
		t.Errorf("ssh: got %d of %d bytes (%v)\n%s", len(out), len(want), err, errs)
	}
}
