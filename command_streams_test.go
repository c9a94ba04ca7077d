package streamprox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// runCommand runs a command as `caddy streamprox` does.
func runCommand(args ...string) (out, errOut string, err error) {
	root := &cobra.Command{Use: "streamprox", SilenceErrors: true}
	root.AddCommand(streamsCommands()...)
	var stdout, stderr bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.Execute()
	return stdout.String(), stderr.String(), err
}

// hostile is a path that would clear a terminal, hide what follows and begin a script.
const hostile = "/\x1b[2J\u009b2J\u202e<script>alert(1)</script>\n\\"

func steered(t *testing.T) *stubAdmin {
	t.Helper()
	s := newStubAdmin(t)
	s.add("7f3a9c0000000012", nil)
	s.add("7f3a9c0000000013", map[string]any{
		"age": 3700, "client": "198.51.100.7:40000", "outcome": "silent", "route": "ssh", "upstream": "127.0.0.1:22", "rate": 0,
		"method": nil, "host": nil, "path": nil, "proto": nil, "status": nil, "bytes_up": 100, "bytes_down": 3 << 20,
	})
	s.add("7f3a9c0000000014", map[string]any{"age": 200000, "route": nil, "upstream": nil, "destination": "http_app", "path": hostile, "status": 200, "rate": 5e6})
	s.upstreams = []map[string]any{
		{"address": "10.0.0.5:9000", "healthy": true, "draining": false, "streams": 1, "fails": 0, "max_connections": 0},
		{"address": "unix//run/app.sock", "healthy": false, "draining": true, "streams": 0, "fails": 3, "max_connections": 10},
		{"address": "10.0.0.7:9000", "healthy": true, "ejected": true, "draining": false, "streams": 0, "fails": 0, "max_connections": 0},
	}
	return s
}

func TestCommands(t *testing.T) {
	for _, test := range []struct {
		name, args string
		want       string
		wantAsked  []string // what changes something
	}{
		{
			"all streams", "streams", `
ID                AGE    CLIENT              ROUTE  TO        UPSTREAM       STATE          BYTES          RATE  REQUEST
7f3a9c0000000012  12s    192.0.2.1:50000     chat   relay     10.0.0.5:9000  open 101      21 KiB     1.6 KiB/s  GET example.com/chat/1
7f3a9c0000000013  1h01m  198.51.100.7:40000  ssh    relay     127.0.0.1:22   open         3.0 MiB         0 B/s  silent
7f3a9c0000000014  2d07h  192.0.2.1:50000     -      http_app  -              open 200      21 KiB     4.8 MiB/s  GET example.com/\x1b[2J\u009b2J\u202e<script>alert(1)</script>\n\\
3 streams
`, nil,
		},
		{
			"filters", "streams --route chat --client 192.0.2.1 --state open --destination relay --host example.com --upstream 10.0.0.5:9000 --older 1s", `
ID                AGE  CLIENT           ROUTE  TO     UPSTREAM       STATE          BYTES          RATE  REQUEST
7f3a9c0000000012  12s  192.0.2.1:50000  chat   relay  10.0.0.5:9000  open 101      21 KiB     1.6 KiB/s  GET example.com/chat/1
1 stream
`, nil,
		},
		{
			"the fastest", "streams --sort -rate --limit 1", `
ID                AGE    CLIENT           ROUTE  TO        UPSTREAM  STATE          BYTES          RATE  REQUEST
7f3a9c0000000014  2d07h  192.0.2.1:50000  -      http_app  -         open 200      21 KiB     4.8 MiB/s  GET example.com/\x1b[2J\u009b2J\u202e<script>alert(1)</script>\n\\
1 of 3 streams; --limit shows more
`, nil,
		},
		{"no streams", "streams --route other", "\nno streams\n", nil},
		{
			"kill one", "kill 7f3a9c0000000012", "\nended 7f3a9c0000000012\n",
			[]string{"DELETE /streamprox/streams/7f3a9c0000000012"},
		},
		{
			"kill two", "kill 7f3a9c0000000012 7f3a9c0000000014", "\nended 7f3a9c0000000012\nended 7f3a9c0000000014\n",
			[]string{"DELETE /streamprox/streams/7f3a9c0000000012", "DELETE /streamprox/streams/7f3a9c0000000014"},
		},
		{
			"kill by filter", "kill --route chat --client 192.0.2.0/24", "\nended 0 streams\n",
			[]string{"DELETE /streamprox/streams?client=192.0.2.0%2F24&route=chat"},
		},
		{
			"kill over a time", "kill --route chat --over 30s", "\nending 1 stream over 30s\n",
			[]string{"DELETE /streamprox/streams?over=30s&route=chat"},
		},
		{"kill all", "kill --all", "\nended 3 streams\n", []string{"DELETE /streamprox/streams?all=true"}},
		{
			"upstreams", "upstreams", `
UPSTREAM            HEALTH   DRAIN     STREAMS  MAX  FAILS
10.0.0.5:9000       healthy  -               1  -        0
unix//run/app.sock  down     draining        0  10       3
10.0.0.7:9000       ejected  -               0  -        0
`, nil,
		},
		{
			"drain", "drain 10.0.0.5:9000", "\n10.0.0.5:9000: draining; it has 1 stream\n",
			[]string{"POST /streamprox/upstreams/10.0.0.5:9000/drain"},
		},
		{
			"undrain", "undrain unix//run/app.sock", "\nunix//run/app.sock: takes new streams; it has 0 streams\n",
			[]string{"POST /streamprox/upstreams/unix%2F%2Frun%2Fapp.sock/undrain"},
		},
		{
			"stats", "stats", `
since       2026-11-27T10:00:00Z
streams     relay 2, http_app 1
waiting     5
parked      9
requests    1001
bytes up    1000 B
bytes down  5.9 KiB
ended       finished 120, killed 1
`, nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := steered(t)
			out, errOut, err := runCommand(append(strings.Fields(test.args), "--address", s.address())...)
			if err != nil || errOut != "" {
				t.Fatalf("got error %v, %q", err, errOut)
			}
			if "\n"+out != test.want {
				t.Errorf("got\n%s\nwant%s", out, test.want)
			}
			if got := s.requests(); !slices.Equal(got, test.wantAsked) {
				t.Errorf("asked %q, want %q", got, test.wantAsked)
			}
		})
	}
}

// TestSeeAndSteerPage runs the commands of see-and-steer.md, and compares what they print.
func TestSeeAndSteerPage(t *testing.T) {
	page, err := os.ReadFile("docs/see-and-steer.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```\n\\$ caddy streamprox ([^\n]+)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		s := steered(t)
		s.upstreams[1] = map[string]any{"address": "10.0.0.6:9000", "healthy": false, "draining": false, "streams": 0, "fails": 3, "max_connections": 10}
		out, _, err := runCommand(append(strings.Fields(block[1]), "--address", s.address())...)
		if err != nil || out != block[2] {
			t.Errorf("%s: got %v\n%s\nwant\n%s", block[1], err, out, block[2])
		}
		ran++
	}
	if ran == 0 {
		t.Error("the page shows no command")
	}
	for _, command := range streamsCommands() {
		if !strings.Contains(string(page), command.Name()) {
			t.Errorf("nothing about %s", command.Name())
		}
	}
}

func TestCommandErrors(t *testing.T) {
	nobody := freeport.Address(t)
	old := startServer(t, http.NotFoundHandler())
	silly := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }))
	for _, test := range []struct {
		args, at string
		want     string // in the error
	}{
		{"streams --client x", "", `client: "x" is not an IP address or a range`},
		{"streams --limit -1", "", "--limit: not below 0"},
		{"streams --limit many", "", `invalid argument "many" for "--limit"`},
		{"streams --watch", "", "--watch: the standard output is not a terminal"},
		{"streams --watch --json", "", "--watch draws a table: leave --json out"},
		{"streams more", "", `unknown command "more"`},
		{"streams --adapter caddyfile", "", "--adapter: name the file with --config"},
		{"streams", nobody, "asking the admin API at " + nobody + ": dial tcp " + nobody + ": connect: connection refused"},
		{"streams", old, "the Caddy at " + old + " has no /streamprox/streams: it runs without this plugin, or with an older one"},
		{"streams", silly, "the answer of the admin API at " + silly + ": invalid character"},
		{"stats", silly, "the answer of the admin API at " + silly + ": invalid character"},
		{"streams", "127.0.0.1:2019-2020", `admin address "127.0.0.1:2019-2020": not one that can be dialled`},
		{"streams", "127.0.0.1:x", `admin address "127.0.0.1:x": `},
		{"kill", "", "which streams? Give ids, or a filter such as --route; --all ends all of them"},
		{"kill --over 30s", "", "which streams?"},
		{"kill 1 --route chat", "", "give ids or filters, not both"},
		{"kill 1 --over 30s", "", "--over spreads what filters choose; ids end at once"},
		{"kill no-such", "", "no-such: no such stream"},
		{"drain", "", "accepts 1 arg(s), received 0"},
		{"drain 10.0.0.6:9000", "", `no upstream "10.0.0.6:9000"`},
		{"ui --port 65536", "", `invalid argument "65536" for "--port"`},
		{"ui --config none.json", "", "none.json"},
	} {
		t.Run(test.args, func(t *testing.T) {
			s := steered(t)
			at := test.at
			if at == "" && !strings.Contains(test.args, "--config") {
				at = s.address()
			}
			out, _, err := runCommand(append(strings.Fields(test.args), "--address", at)...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %s", err, test.want)
			}
			if out != "" && !strings.Contains(out, "Usage:") {
				t.Errorf("printed %q", out)
			}
			for _, asked := range s.requests() {
				if !strings.Contains(asked, "no-such") && !strings.Contains(asked, "10.0.0.6") {
					t.Errorf("asked %s", asked)
				}
			}
		})
	}
}

// startServer returns the address of an HTTP server.
func startServer(t *testing.T, handler http.Handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, listener, handler)
}

func serveOn(t *testing.T, listener net.Listener, handler http.Handler) string {
	server := &http.Server{Handler: handler}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return listener.Addr().String()
}

// TestKillGoesOn tests that a stream that is not there does not keep those after it.
func TestKillGoesOn(t *testing.T) {
	s := steered(t)
	out, _, err := runCommand("kill", "none\x1b[2J", "7f3a9c0000000013", "--address", s.address())
	if out != "ended 7f3a9c0000000013\n" {
		t.Errorf("printed %q", out)
	}
	if err == nil || err.Error() != `none\x1b[2J: no such stream` {
		t.Errorf("got error %q", err)
	}
}

// TestStreamsJSON tests that JSON has all that the admin API gave, in characters that no
// terminal obeys.
func TestStreamsJSON(t *testing.T) {
	s := steered(t)
	s.add("more", map[string]any{"age": 1e6, "new_field": "\U000e0001"})
	out, _, err := runCommand("streams", "--json", "--address", s.address())
	if err != nil {
		t.Fatal(err)
	}
	if at := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && r != '\t' && (r < ' ' || r > '~') }); at >= 0 {
		t.Errorf("at %d: %q", at, out[at:])
	}
	var list struct {
		Total   int
		Streams []map[string]any
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	if list.Total != 4 || list.Streams[2]["path"] != hostile || list.Streams[3]["new_field"] != "\U000e0001" {
		t.Errorf("got %+v", list)
	}
	for _, args := range []string{"upstreams", "stats"} {
		out, _, err := runCommand(args, "--json", "--address", s.address())
		if err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%s: got %q, %v", args, out, err)
		}
	}
}

// TestPages tests that a long list is put together.
func TestPages(t *testing.T) {
	s := newStubAdmin(t)
	const n = 2500
	for i := range n {
		s.add(fmt.Sprintf("%016x", i), nil)
	}
	for _, test := range []struct{ limit, want int }{{0, n}, {1, 1}, {1000, 1000}, {1001, 1001}, {n, n}, {n + 1, n}} {
		out, _, err := runCommand("streams", "--limit", fmt.Sprint(test.limit), "--address", s.address())
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out, "\n")
		seen := make(map[string]bool)
		for _, line := range lines[1:] {
			if id, _, ok := strings.Cut(line, "  "); ok {
				seen[id] = true
			}
		}
		if len(seen) != test.want {
			t.Errorf("limit %d: got %d streams, want %d", test.limit, len(seen), test.want)
		}
	}
}

// TestUnixAdmin tests commands with an admin API on a Unix socket, which wants another host
// and no origin.
func TestUnixAdmin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "127.0.0.1" || len(r.Header["Origin"]) > 0 {
			stubError(w, http.StatusForbidden, fmt.Sprintf("host %q, origin %q", r.Host, r.Header["Origin"]))
			return
		}
		_ = writeJSON(w, streamList{})
	}))
	for _, address := range []string{"unix/" + path, "unix/" + path + "|0200"} {
		if out, _, err := runCommand("streams", "--address", address); err != nil || out != "no streams\n" {
			t.Errorf("%s: got %q, %v", address, out, err)
		}
	}
}

// TestWatch tests what is drawn: the list, an error in its place, and the list again. The
// first screen comes back at the end.
func TestWatch(t *testing.T) {
	s := steered(t)
	client, err := newAdminClient(s.address())
	if err != nil {
		t.Fatal(err)
	}
	defer client.close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tick, drawn := make(chan time.Time), make(chan string)
	ended := make(chan error, 1)
	go func() {
		defer close(drawn)
		size := func() (int, int, error) { return 60, 5, nil }
		ended <- watchStreams(ctx, client, url.Values{"sort": {"age"}}, 0, chanWriter(drawn), size, tick)
	}()
	if got := <-drawn; got != otherScreen {
		t.Errorf("begins with %q", got)
	}
	want := "\x1b[HID                AGE    CLIENT              ROUTE  TO      \x1b[K\r\n" +
		"7f3a9c0000000012  12s    192.0.2.1:50000     chat   relay   \x1b[K\r\n" +
		"7f3a9c0000000013  1h01m  198.51.100.7:40000  ssh    relay   \x1b[K\r\n" +
		"7f3a9c0000000014  2d07h  192.0.2.1:50000     -      http_app\x1b[K\r\n" +
		"3 streams\x1b[K\x1b[J"
	if got := <-drawn; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for range 3 {
		s.add("more", map[string]any{"age": 1e6})
	}
	tick <- time.Time{}
	if got, want := <-drawn, "\r\n3 of 6 streams\x1b[K\x1b[J"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q at the end", got, want)
	}
	s.mu.Lock()
	s.streams = nil
	s.mu.Unlock()
	tick <- time.Time{}
	if got, want := <-drawn, "\x1b[Hno streams\x1b[K\x1b[J"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	s.Close()
	tick <- time.Time{}
	if got := <-drawn; !strings.HasPrefix(got, "\x1b[Hasking the admin API at") || !strings.HasSuffix(got, "\x1b[K\x1b[J") {
		t.Errorf("got %q", got)
	}
	cancel()
	if got := <-drawn; got != firstScreen {
		t.Errorf("ends with %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// chanWriter passes on what is written.
type chanWriter chan<- string

func (w chanWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func TestPrintable(t *testing.T) {
	for _, test := range []struct{ given, want string }{
		{"/chat/ä/日本/'\"", "/chat/ä/日本/'\""},
		{"\x00\t\r\n\x1b\x7f", `\x00\t\r\n\x1b\x7f`},
		{"\u0085\u009b\u00ad\u200b\u202e\u2028\ufeff\U000e0001", `\u0085\u009b\u00ad\u200b\u202e\u2028\ufeff\U000e0001`},
		{"\xff\xc3", `\xff\xc3`},
		{`\x1b`, `\\x1b`},
	} {
		if got := printable(test.given); got != test.want {
			t.Errorf("%q: got %s, want %s", test.given, got, test.want)
		}
	}
}

func TestShortAge(t *testing.T) {
	for _, test := range []struct {
		seconds float64
		want    string
	}{
		{-1, "0s"}, {0.9, "0s"}, {59.9, "59s"}, {60, "1m00s"}, {3599, "59m59s"}, {3600, "1h00m"}, {86399, "23h59m"}, {86400, "1d00h"}, {90000, "1d01h"},
	} {
		if got := shortAge(test.seconds); got != test.want {
			t.Errorf("%g: got %s, want %s", test.seconds, got, test.want)
		}
	}
}
