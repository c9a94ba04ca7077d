package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

// patience bounds every wait for something that should happen soon.
const patience = 30 * time.Second

// asDemo makes this test binary run as the demo.
const asDemo = "STREAMPROX_TEST_AS_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// demo is a running demo, in a process of its own.
type demo struct {
	address string
	printed string // up to the last line that says what to try
	stop    func() // what the end of the test does otherwise

	mu    sync.Mutex
	lines string // after what was printed, one for each connection
}

// start runs the demo until the test ends. It checks then that the demo stops when
// asked, has complained about nothing, and has left nothing behind.
func start(t *testing.T, args ...string) *demo {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the demo is stopped with an interrupt, which Windows cannot send to a process")
	}
	cmd, dirs := command(t, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := time.AfterFunc(4*patience, func() { _ = cmd.Process.Kill() })

	d := new(demo)
	lines := bufio.NewReader(stdout)
	for !strings.Contains(d.printed, "Ctrl-C") {
		line, err := lines.ReadString('\n')
		d.printed += line
		if err != nil {
			_ = cmd.Wait()
			t.Fatalf("the demo did not start: %s", &stderr)
		}
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for {
			line, err := lines.ReadString('\n')
			d.mu.Lock()
			d.lines += line
			d.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	d.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		<-drained
		if err := cmd.Wait(); err != nil {
			t.Errorf("stopping: %v", err)
		}
		killed.Stop()
		if stderr.Len() > 0 {
			t.Errorf("the demo complained: %s", &stderr)
		}
		for _, dir := range dirs {
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left in %s: %v, %v", dir, left, err)
			}
		}
	})
	t.Cleanup(d.stop)
	if _, after, ok := strings.Cut(d.printed, "open http://"); ok {
		d.address, _, _ = strings.Cut(after, "/")
	}
	return d
}

// command returns the command that runs the demo, with a home directory and a
// directory for temporary files of its own.
func command(t *testing.T, args ...string) (*exec.Cmd, []string) {
	t.Helper()
	home, temp := t.TempDir(), t.TempDir()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asDemo+"=1", "HOME="+home, "TMPDIR="+temp, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=")
	return cmd, []string{home, temp}
}

func TestSite(t *testing.T) {
	d := start(t, "-listen", "127.0.0.1:0")
	client := &http.Client{Transport: new(http.Transport), Timeout: patience}
	defer client.CloseIdleConnections()
	for _, test := range []struct{ path, contentType, contains string }{
		{"/", "text/html; charset=utf-8", `data-destination="http_app"`},
		{"/demo.js", "text/javascript; charset=utf-8", "new WebSocket"},
		{"/demo.css", "text/css; charset=utf-8", "prefers-color-scheme"},
		{"/icon.svg", "image/svg+xml", "<svg"},
		{"/whoami", "application/json", `"destination":"http_app"`},
	} {
		resp, err := client.Get("http://" + d.address + test.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Errorf("%s: %v", test.path, err)
		}
		if got := resp.Header.Get("X-Destination"); resp.StatusCode != http.StatusOK || got != "http_app" {
			t.Errorf("%s: got %s from %q, want 200 from http_app", test.path, resp.Status, got)
		}
		if got := resp.Header.Get("Content-Type"); got != test.contentType {
			t.Errorf("%s: got Content-Type %q, want %q", test.path, got, test.contentType)
		}
		if !strings.Contains(string(body), test.contains) {
			t.Errorf("%s: no %q in %q", test.path, test.contains, body)
		}
	}
}

// TestLines checks that the line of each connection names its route.
func TestLines(t *testing.T) {
	d := start(t, "-listen", "127.0.0.1:0")
	for _, test := range []struct{ says, route string }{
		{"GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n", "site"},
		{"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", "echo"},
		{"GET /pictures HTTP/1.1\r\nHost: a\r\n\r\n", "pictures"},
		{"EHLO me\n", "tcp"},
		{"", "tcp"},
		{"GET /.. HTTP/1.1\r\nHost: a\r\n\r\n", "none"},
	} {
		conn := dial(t, d.address)
		fmt.Fprint(conn, test.says)
		client, want := fmt.Sprintf("%q", conn.LocalAddr()), fmt.Sprintf(`"route": %q`, test.route)
		var got string
		for deadline := time.Now().Add(patience); got == "" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			d.mu.Lock()
			for line := range strings.Lines(d.lines) {
				if strings.Contains(line, client) {
					got = line
				}
			}
			d.mu.Unlock()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%.20q: got line %q, want %s", test.says, got, want)
		}
	}
}

// TestConfiguration checks that the page shows the configuration that it is served by.
func TestConfiguration(t *testing.T) {
	d := start(t, "-listen", "127.0.0.1:0")
	client := &http.Client{Transport: new(http.Transport), Timeout: patience}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + d.address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(body), `aria-labelledby="configuration-title"><code>`)
	shown, _, _ = strings.Cut(shown, "</code></pre>")
	shown = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(shown, "")
	shown = regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(shown, "ADDRESS")
	if !strings.Contains(string(body), "\t"+d.address+" {") {
		t.Errorf("the configuration does not name %s", d.address)
	}

	_, want, _ := strings.Cut(string(caddyfile), "\n\tlayer4 {\n")
	want, _, _ = strings.Cut(want, "\n\t}\n")
	want = "layer4 {\n" + want + "\n}"
	want = regexp.MustCompile(`(?m)^\s*(#.*)?\n`).ReplaceAllString(want, "")
	want = regexp.MustCompile(`(?m)^\t`).ReplaceAllString(want, "")
	want = regexp.MustCompile(`\{\$\w+:127\.0\.0\.1:\d+\}`).ReplaceAllString(want, "ADDRESS")
	if shown != want {
		t.Errorf("the page shows\n%s\ndemo.caddyfile has\n%s", shown, want)
	}
}

func TestMalformed(t *testing.T) {
	d := start(t, "-listen", "127.0.0.1:0")
	conn := dial(t, d.address)
	fmt.Fprintf(conn, "GET /..%%2f HTTP/1.1\r\nHost: %s\r\n\r\n", d.address)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || !resp.Close || resp.Header.Get("X-Destination") != "" {
		t.Errorf("got %s, close %t, from %q, want 400 and a close from inspect", resp.Status, resp.Close, resp.Header.Get("X-Destination"))
	}
}

func TestTCP(t *testing.T) {
	d := start(t, "-listen", "127.0.0.1:0")
	for _, test := range []struct{ name, says string }{
		{"silent", ""},
		{"other", "EHLO me\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := dial(t, d.address)
			answers := bufio.NewReader(conn)
			fmt.Fprint(conn, test.says)
			greeting, err := answers.ReadString('\n')
			if err != nil || !strings.HasPrefix(greeting, "hello from tcp on 127.0.0.1:") {
				t.Fatalf("got greeting %q, %v", greeting, err)
			}
			fmt.Fprint(conn, "more\n")
			for want := range strings.Lines(test.says + "more\n") {
				if got, err := answers.ReadString('\n'); got != want {
					t.Fatalf("got %q, %v, want %q", got, err, want)
				}
			}
		})
	}
}

func TestWebSockets(t *testing.T) {
	d := start(t, "-listen", "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	conn := connect(t, ctx, d.address, "echo")
	for _, want := range []string{"one", "two"} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(ctx); string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}

	conn = connect(t, ctx, d.address, "pictures")
	var before []byte
	for range 3 {
		kind, file, err := conn.Read(ctx)
		if err != nil || kind != websocket.MessageBinary {
			t.Fatalf("got a message of %v, %v, want binary", kind, err)
		}
		picture, err := png.Decode(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if got := picture.Bounds().Size().String(); got != "(320,180)" {
			t.Errorf("got a picture of %s, want (320,180)", got)
		}
		if bytes.Equal(file, before) {
			t.Error("the picture does not move")
		}
		before = file
	}
	// This connection stays open: the demo has to stop all the same.
}

// connect opens a WebSocket and checks who answers.
func connect(t *testing.T, ctx context.Context, address, name string) *websocket.Conn {
	t.Helper()
	conn, resp, err := websocket.Dial(ctx, "ws://"+address+"/"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if got := resp.Header.Get("X-Destination"); got != name {
		t.Errorf("%s: answered by %q", name, got)
	}
	_, message, err := conn.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var hello struct{ Destination, Address string }
	if err := json.Unmarshal(message, &hello); err != nil || hello.Destination != name || hello.Address == address {
		t.Errorf("%s: first message %s, %v", name, message, err)
	}
	return conn
}

func TestAddressTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	complains(t, ln.Addr().String(), ln.Addr().String())
}

// Another Caddy's port is one that Caddy could share.
func TestAddressTakenByCaddy(t *testing.T) {
	d := start(t, "-listen", "127.0.0.1:0")
	complains(t, d.address, d.address)
}

func TestAddressInvalid(t *testing.T) {
	complains(t, "127.0.0.1:80800", "invalid port")
}

// complains checks that the demo does not start on an address, and says why.
func complains(t *testing.T, address, why string) {
	t.Helper()
	cmd, dirs := command(t, "-listen", address)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("got exit code %d, want 1", code)
	}
	got := stderr.String()
	if !strings.HasPrefix(got, "demo: ") || strings.Count(got, "\n") != 1 || !strings.Contains(got, why) || !strings.Contains(got, "-listen") {
		t.Errorf("got %q, want one line with %q and -listen", got, why)
	}
	for _, dir := range dirs {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

// TestBackends runs the servers on the ports that demo.caddyfile has as defaults.
func TestBackends(t *testing.T) {
	for _, address := range []string{defaultPorts.echo, defaultPorts.pictures, defaultPorts.tcp} {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("a port is taken: %v", err)
		}
		ln.Close()
		if !bytes.Contains(caddyfile, []byte(":"+address+"}")) {
			t.Errorf("%s is no default in demo.caddyfile", address)
		}
	}
	d := start(t, "-backends")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for name, address := range map[string]string{"echo": defaultPorts.echo, "pictures": defaultPorts.pictures} {
		conn, _, err := websocket.Dial(ctx, "ws://"+address+"/", nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		conn.CloseNow()
	}
	greeting, err := bufio.NewReader(dial(t, defaultPorts.tcp)).ReadString('\n')
	if err != nil || !strings.Contains(greeting, defaultPorts.tcp) {
		t.Errorf("tcp: got %q, %v", greeting, err)
	}
	if want := "--config examples/demo/demo.caddyfile"; !strings.Contains(d.printed, want) {
		t.Errorf("no %q in %q", want, d.printed)
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}
