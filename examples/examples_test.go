// Package examples tests the Caddyfiles in the folders here: each is formatted,
// adapts, validates and runs, and does what its first lines say.
package examples

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/coder/websocket"
	_ "github.com/mholt/caddy-l4"
	"go.uber.org/goleak"

	_ "github.com/streamprox/caddy-streamprox"
	_ "github.com/streamprox/caddy-streamprox/examples/protocol"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// patience bounds every wait for something that should happen soon.
const patience = 20 * time.Second

// examples are the Caddyfiles and the tests that do what their first lines say.
var examples = map[string]func(*testing.T){
	"demo/demo.caddyfile":          nil, // tested in its folder, with the servers behind it
	"autobahn/Caddyfile":           testAutobahn,
	"events/Caddyfile":             testEvents,
	"everything/Caddyfile":         testEverything,
	"everything/wrapper/Caddyfile": testEverythingWrapper,
	"example4/Caddyfile":           testExample4,
	"existing-sites/Caddyfile":     testExistingSites,
	"grpc/Caddyfile":               testGRPC,
	"https/Caddyfile":              testHTTPS,
	"mqtt/Caddyfile":               testMQTT,
	"port/Caddyfile":               testPort,
	"portforward/Caddyfile":        testPortForward,
	"protocol/Caddyfile":           testProtocol,
	"proxy-protocol/Caddyfile":     testProxyProtocol,
	"remote-echo/Caddyfile":        testEcho,
	"socketio/Caddyfile":           testSocketIO,
	"socketio/https/Caddyfile":     testSocketIOHTTPS,
	"ssh/Caddyfile":                testSSH,
	"ssh-behind-proxy/Caddyfile":   nil, // tested on Linux alone, by TestSSHBehindProxy
	"twisted-proxy/Caddyfile":      testTwistedProxy,
	"txws/Caddyfile":               testTxWS,
	"wrapper/Caddyfile":            testWrapper,
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "streamprox-examples-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("XDG_CONFIG_HOME", dir)
	os.Setenv("XDG_DATA_HOME", dir)
	caddy.DefaultStorage.Path = caddy.AppDataDir()
	code := m.Run()
	// certmagic's locks end some seconds after they were released.
	if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := os.RemoveAll(dir); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestExamples(t *testing.T) {
	found := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && (filepath.Ext(path) == ".caddyfile" || filepath.Base(path) == "Caddyfile") {
			found[filepath.ToSlash(path)] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range found {
		try, known := examples[path]
		if !known {
			t.Errorf("%s: no test does what its first lines say", path)
		}
		t.Run(path, func(t *testing.T) {
			testWritten(t, path)
			if try != nil {
				try(t)
			}
		})
	}
	for path := range examples {
		if !found[path] {
			t.Errorf("%s: no such file", path)
		}
	}
}

// testWritten tests what can be told without running the Caddyfile.
func testWritten(t *testing.T, path string) {
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inFolder := filepath.Base(path) == "Caddyfile" // caddy knows its format by that name
	command := "--config examples/" + path
	if !inFolder {
		command += " --adapter caddyfile"
	}
	if !strings.Contains(string(source), command) {
		t.Errorf("the first lines do not say how to run it: %s", command)
	}
	if formatted := caddyfile.Format(source); string(formatted) != string(source) {
		t.Errorf("not formatted; run 'caddy fmt --overwrite examples/%s'", path)
	}
	if err := caddy.Validate(adapt(t, path)); err != nil {
		t.Errorf("validating: %v", err)
	}
	if inFolder {
		testJSON(t, path, source)
	}
}

// testJSON tests that caddy.json beside a Caddyfile is what that one means where its
// placeholders are not set.
func testJSON(t *testing.T, path string, source []byte) {
	for _, name := range regexp.MustCompile(`\{\$(\w+)`).FindAllSubmatch(source, -1) {
		if value, set := os.LookupEnv(string(name[1])); set {
			os.Unsetenv(string(name[1]))
			defer os.Setenv(string(name[1]), value)
		}
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(source, map[string]any{"filename": path})
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	var want bytes.Buffer
	if err := json.Indent(&want, adapted, "", "\t"); err != nil {
		t.Fatal(err)
	}
	want.WriteByte('\n')
	file := filepath.Join(filepath.Dir(path), "caddy.json")
	if os.Getenv("STREAMPROX_WRITE_JSON") != "" {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what the Caddyfile means (%v); run 'STREAMPROX_WRITE_JSON=1 go test ./examples'", file, err)
	}
}

func testEcho(t *testing.T) {
	port, echoPort := freeport.Get(t), freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("ECHO_PORT", echoPort)

	t.Run("stand-in", func(t *testing.T) {
		t.Setenv("ECHO", "127.0.0.1:"+echoPort)
		run(t, "remote-echo/Caddyfile")
		client, local := newClient(t)
		for _, test := range []struct {
			url    string
			status int
			want   string
		}{
			{"http://127.0.0.1:" + port + "/echo/room", http.StatusOK, "The remote server. You asked echo.example.org for /room.\n"},
			{"http://127.0.0.1:" + port + "/echo", http.StatusOK, "The remote server. You asked echo.example.org for /.\n"},
			{"http://127.0.0.1:" + echoPort + "/room", http.StatusForbidden, "This server answers only to its own Host and Origin.\n"},
		} {
			client.CloseIdleConnections()
			if got := get(t, client, test.url); got.status != test.status || got.body != test.want {
				t.Errorf("%s: got %d %q, want %d %q", test.url, got.status, got.body, test.status, test.want)
			}
		}
		client.CloseIdleConnections()
		got := get(t, client, "http://127.0.0.1:"+port+"/")
		if want := fmt.Sprintf("The site. Your address is %s.\n", *local); got.body != want {
			t.Errorf("/: got %q, want %q", got.body, want)
		}
	})

	t.Run("WebSocket", func(t *testing.T) {
		address := webSocketEcho(t, "echo.example.org", "http://echo.example.org")
		t.Setenv("ECHO", address)
		run(t, "remote-echo/Caddyfile")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		options := &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://127.0.0.1:" + port}}}

		// Without the edits the server would refuse.
		if conn, resp, err := websocket.Dial(ctx, "ws://"+address+"/room", options); err == nil {
			conn.CloseNow()
			t.Error("asked directly, the server accepts")
		} else if resp == nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("asked directly: got %v, want 403", err)
		}

		conn, _, err := websocket.Dial(ctx, "ws://127.0.0.1:"+port+"/echo/room?a=b", options)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		if _, got, err := conn.Read(ctx); string(got) != "/room?a=b" {
			t.Errorf("the server was asked for %q (%v), want /room?a=b", got, err)
		}
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
	})
}

// webSocketEcho is a WebSocket server that answers only to its own Host and Origin,
// until the test ends. It says what it was asked for and returns each message.
func webSocketEcho(t *testing.T, host, origin string) (address string) {
	t.Helper()
	var serving sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != host || r.Header.Get("Origin") != origin {
			http.Error(w, "another Host or Origin", http.StatusForbidden)
			return
		}
		serving.Add(1)
		defer serving.Done()
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		kind, message := websocket.MessageText, []byte(r.RequestURI)
		for err == nil {
			if err = conn.Write(ctx, kind, message); err == nil {
				kind, message, err = conn.Read(ctx)
			}
		}
	}))
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return server.Listener.Addr().String()
}

// adapt turns a Caddyfile into a configuration, in which only the admin endpoint and
// the logs are not the file's.
func adapt(t *testing.T, path string) *caddy.Config {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(source, map[string]any{"filename": path})
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	for _, warning := range warnings {
		t.Errorf("adapting: warning: %s", warning)
	}
	config := new(caddy.Config)
	if err := json.Unmarshal(adapted, config); err != nil {
		t.Fatal(err)
	}
	persist := false
	config.Admin = &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &persist}}
	config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}}
	return config
}

// run runs a Caddyfile until the test ends.
func run(t *testing.T, path string) {
	t.Helper()
	if err := caddy.Run(adapt(t, path)); err != nil {
		t.Fatalf("running: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
}

// newClient returns an HTTP client that follows no redirect, connects to 127.0.0.1
// whatever the host, and notes the address of its last connection.
func newClient(t *testing.T) (*http.Client, *string) {
	local := new(string)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			conn, err := new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
			if err == nil {
				*local = conn.LocalAddr().String()
			}
			return conn, err
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, local
}

// answer is what the tests look at in a response.
type answer struct {
	status                        int
	body, location, altSvc, proto string
}

func get(t *testing.T, client *http.Client, url string) answer {
	t.Helper()
	resp, err := client.Get(url)
	for end := time.Now().Add(patience); err != nil && strings.Contains(err.Error(), "tls: internal error") && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond) // Caddy obtains certificates while it runs
		resp, err = client.Get(url)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return answer{resp.StatusCode, string(body), resp.Header.Get("Location"), resp.Header.Get("Alt-Svc"), resp.Header.Get("X-Protocol")}
}

// greeter is a server that greets each client as sshd does, until the test ends. It
// returns its port.
func greeter(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "SSH-2.0-server\r\n")
			_, _ = bufio.NewReader(conn).ReadString('\n')
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
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

func readLine(t *testing.T, r io.Reader) string {
	t.Helper()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Errorf("reading: %v", err)
	}
	return line
}
