// Package integration tests streamprox in a running Caddy, over real sockets.
package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/streamprox/caddy-streamprox"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// patience bounds every wait for something that should happen soon.
const patience = 20 * time.Second

// noAccounts returns an error if the account of a request or a stream is left when all tests
// have ended.
func noAccounts() error {
	address, release, err := freeport.Find()
	if err != nil {
		return err
	}
	defer release()
	if err := caddy.Load([]byte(`{"admin":{"listen":"`+address+`","config":{"persist":false}}}`), true); err != nil {
		return err
	}
	defer caddy.Stop()
	var left string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + address + "/streamprox/streams")
		if err != nil {
			left = err.Error()
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if left = string(body); strings.HasPrefix(left, `{"total":0,`) {
			return nil
		}
	}
	return errors.New("accounts are left: " + left)
}

// server is the Caddy of this process, running a configuration of a test.
type server struct {
	t     *testing.T
	admin string // address of the admin API
	home  string // storage
	level string // of the logs
	logs  *logBuffer
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "streamprox" {
		caddycmd.Main() // as which explain and its tests run this program
		return
	}
	// What Caddy keeps for the life of the process, such as its admin endpoint, is
	// there before anything is counted.
	if err := caddy.Load([]byte(`{"admin":{"listen":"127.0.0.1:0","config":{"persist":false}}}`), true); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := caddy.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := cleanCaddy(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := noAccounts(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// start runs Caddy with a Caddyfile until the test ends, and checks then that
// nothing is left of it.
func start(t *testing.T, caddyfile string) *server {
	t.Helper()
	return startConfig(t, adapt(t, caddyfile))
}

// startQuiet is start with logs at level info, as in production.
func startQuiet(t *testing.T, caddyfile string) *server {
	t.Helper()
	return startLogging(t, "INFO", adapt(t, caddyfile))
}

// startConfig is start with a configuration in Caddy's own form.
func startConfig(t *testing.T, config map[string]any) *server {
	t.Helper()
	return startLogging(t, "DEBUG", config)
}

func startLogging(t *testing.T, level string, config map[string]any) *server {
	t.Helper()
	s := &server{t: t, admin: freeport.Address(t), home: t.TempDir(), level: level, logs: theLogs}
	s.logs.reset()
	before := resources()
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		before.wait(t)
	})
	if err := s.loadConfig(config); err != nil {
		t.Fatalf("loading: %v\n%s", err, s.logs.problems())
	}
	return s
}

// load replaces the configuration.
func (s *server) load(caddyfile string) error {
	s.t.Helper()
	return s.loadConfig(adapt(s.t, caddyfile))
}

// loadConfig replaces the configuration, by one with the admin API, storage and logs of
// the tests.
func (s *server) loadConfig(config map[string]any) error {
	s.t.Helper()
	config["admin"] = map[string]any{"listen": s.admin, "config": map[string]any{"persist": false}}
	config["storage"] = map[string]any{"module": "file_system", "root": s.home}
	logging, _ := config["logging"].(map[string]any)
	logs, _ := logging["logs"].(map[string]any)
	if logs == nil {
		logs = make(map[string]any)
	}
	logs["default"] = map[string]any{
		"writer":  map[string]any{"output": "streamprox_test"},
		"encoder": map[string]any{"format": "json"},
		"level":   s.level,
	}
	config["logging"] = map[string]any{"logs": logs}
	raw, err := json.Marshal(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return caddy.Load(raw, true)
}

// adapt turns a Caddyfile into a configuration.
func adapt(t *testing.T, caddyfile string) map[string]any {
	t.Helper()
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	var config map[string]any
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// api sends a request to the admin API and returns the answer.
func (s *server) api(method, path, body string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequest(method, "http://"+s.admin+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	for end := time.Now().Add(patience); err != nil && method == http.MethodGet && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond) // a configuration that was just replaced had the endpoint, too
		resp, err = http.DefaultClient.Do(req)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer)
}

// theLogs receives the logs of every configuration of these tests.
var theLogs = new(logBuffer)

// logBuffer is a Caddy log writer that keeps what is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func init() { caddy.RegisterModule(testLogWriter{}) }

// testLogWriter writes to theLogs.
type testLogWriter struct{}

func (testLogWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.streamprox_test", New: func() caddy.Module { return new(testLogWriter) }}
}
func (testLogWriter) WriterKey() string                   { return "streamprox_test" }
func (testLogWriter) String() string                      { return "streamprox_test" }
func (testLogWriter) OpenWriter() (io.WriteCloser, error) { return nopCloser{theLogs}, nil }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// problems returns the last lines that are warnings or errors.
func (l *logBuffer) problems() string {
	var found []string
	for line := range strings.Lines(l.String()) {
		if !strings.Contains(line, `"level":"debug"`) && !strings.Contains(line, `"level":"info"`) {
			found = append(found, line[:min(len(line), 500)])
		}
	}
	return strings.Join(found[max(0, len(found)-20):], "\n")
}

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// lines returns the log lines that have all the given fields.
func (l *logBuffer) lines(fields map[string]any) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(l.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil {
			continue
		}
		matches := true
		for key, want := range fields {
			if got := entry[key]; fmt.Sprint(got) != fmt.Sprint(want) {
				matches = false
			}
		}
		if matches {
			found = append(found, entry)
		}
	}
	return found
}

// expect waits for a log line with the given fields, the only one of its message.
func (l *logBuffer) expect(t *testing.T, fields map[string]any) map[string]any {
	t.Helper()
	var found []map[string]any
	eventually(t, fmt.Sprintf("log line %v", fields), func() bool {
		found = l.lines(fields)
		return len(found) > 0
	})
	if len(found) != 1 {
		t.Errorf("got %d log lines with %v, want 1", len(found), fields)
	}
	return found[0]
}

// usage is what a configuration must give back.
type usage struct {
	goroutines  map[string]int
	descriptors int
}

func resources() usage {
	http.DefaultClient.CloseIdleConnections()
	return usage{goroutines: ownGoroutines(), descriptors: descriptors()}
}

// slack is how many descriptors may come and go with Caddy's admin endpoint, which is
// replaced with each configuration and outlives it.
const slack = 2

// wait waits until no more is in use than at the time of u.
func (u usage) wait(t *testing.T) {
	t.Helper()
	var now usage
	deadline := time.Now().Add(patience)
	for {
		now = resources()
		if now.descriptors <= u.descriptors+slack && len(now.goroutines) == 0 {
			return
		}
		if time.Now().After(deadline) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("left over: %d descriptors (%d before), goroutines: %v", now.descriptors, u.descriptors, now.goroutines)
	if runtime.GOOS == "linux" {
		out, _ := exec.Command("ls", "-l", fmt.Sprintf("/proc/%d/fd", os.Getpid())).Output()
		t.Logf("%s", out)
	}
}

// ownGoroutines returns the goroutines that run code of this module or of caddy-l4,
// by the function they are in.
func ownGoroutines() map[string]int {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	found := make(map[string]int)
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(stack, "/integration.") {
			continue // a goroutine of the tests
		}
		for line := range strings.Lines(stack) {
			if strings.HasPrefix(line, "github.com/streamprox/") || strings.HasPrefix(line, "github.com/mholt/caddy-l4") {
				name, _, _ := strings.Cut(line, "(")
				found[name+" "+line]++
				break
			}
		}
	}
	return maps.Clone(found)
}

func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s\n%s", what, patience, theLogs.problems())
		}
	}
}

// await waits until a channel is closed.
func await(t *testing.T, what string, closed <-chan struct{}) {
	t.Helper()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatalf("no %s within %s\n%s", what, patience, theLogs.problems())
	}
}

// backend serves each connection of a new loopback listener with f, until the test
// ends, and returns its address.
func backend(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, ln, f)
	return ln.Addr().String()
}

func serveBackend(t *testing.T, ln net.Listener, f func(net.Conn)) {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer conn.Close()
				f(conn)
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
}

// echo returns what it gets, after a word that tells who it is.
func echo(name string) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = io.WriteString(conn, name+"\n")
		_, _ = io.Copy(conn, conn)
		if cw, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		}
	}
}

// httpBackend is an HTTP server that answers with its name, the request line and
// the remote address.
func httpBackend(t *testing.T, name string) string {
	t.Helper()
	return backend(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		body, _ := io.ReadAll(r.Body)
		content := fmt.Sprintf("%s %s %s %s", name, r.Method, r.URL, body)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(content), content)
	})
}

// dial connects to an address; the connection is closed when the test ends and
// fails rather than waits for ever.
func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	var conn net.Conn
	eventually(t, "listener on "+address, func() bool {
		var err error
		conn, err = net.Dial("tcp", address)
		return err == nil
	})
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// pieces are the ways in which bytes are sent to show that they arrive as one.
var pieces = []struct {
	name string
	size int
}{
	{"whole", 1 << 20},
	{"bytewise", 1},
}

// send writes data in pieces of the given size, each in a packet of its own; what
// remains after a hundred pieces in one.
func send(t *testing.T, conn net.Conn, data string, size int) {
	t.Helper()
	for piece := 0; len(data) > 0; piece++ {
		n := min(size, len(data))
		if piece >= 100 {
			n = len(data)
		}
		if _, err := io.WriteString(conn, data[:n]); err != nil {
			t.Logf("sending: %v", err)
			return
		}
		if data = data[n:]; len(data) > 0 {
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// receive reads until the other side has finished sending.
func receive(t *testing.T, conn net.Conn) string {
	t.Helper()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("receiving after %q: %v", got, err)
	}
	return string(got)
}

// isReset reports whether err is what a reset by the other side looks like.
func isReset(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "reset by peer") || strings.Contains(err.Error(), "forcibly closed") || errors.Is(err, net.ErrClosed))
}
