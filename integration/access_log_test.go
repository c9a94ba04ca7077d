package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// accessLog reads the lines of an access log.
type accessLog struct{ path string }

type accessLine struct {
	Message     string `json:"msg"`
	Logger      string
	ID          string
	RemoteIP    string `json:"remote_ip"`
	RemotePort  int    `json:"remote_port"`
	Outcome     string
	Route       string
	Destination string
	Upstream    string
	Method      string
	Host        string
	Path        string
	Proto       string
	Status      int
	Read        int64 `json:"bytes_read"`
	Size        int64
	Duration    float64
	Engine      string
	Cause       string
	Error       string
}

func (l accessLog) lines(t *testing.T) (lines []accessLine) {
	t.Helper()
	data, err := os.ReadFile(l.path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(data)) {
		var line accessLine
		if !strings.HasSuffix(text, "\n") {
			break // it is being written
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		lines = append(lines, line)
	}
	return lines
}

// await waits for a line that matches, and returns it.
func (l accessLog) await(t *testing.T, what string, matches func(accessLine) bool) (found accessLine) {
	t.Helper()
	eventually(t, "line of "+what+" in the access log", func() bool {
		lines := l.lines(t)
		i := slices.IndexFunc(lines, matches)
		if i >= 0 {
			found = lines[i]
		}
		return i >= 0
	})
	return found
}

// TestAccessLog checks the line of each kind of request and stream.
func TestAccessLog(t *testing.T) {
	echo := backend(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn); conn.Close() })
	site := startGo(t).address
	address, raw := freeport.Address(t), freeport.Address(t)
	log := accessLog{filepath.Join(t.TempDir(), "access.log")}
	start(t, fmt.Sprintf(`{
	log access {
		include streamprox.access
		output file %s
	}
	layer4 {
		%s {
			route {
				inspect {
					log start every 1s
					max_pending 50
					@relay http_request path /relay/*
					route @relay {
						relay %s
					}
					@down http_request path /down
					route @down {
						relay %s
					}
					@no http_request path /no
					route @no {
						http_respond 403 no
					}
					@app http_request path /app/*
					route @app {
						http_app web
					}
					@other inspected other
					route @other {
						relay %s
					}
				}
			}
		}
		%s {
			route {
				relay %s {
					log
				}
			}
		}
	}
}
http://:80 {
	bind streamprox/web
	respond "the app"
}
`, log.path, address, site, freeport.Address(t), echo, raw, echo))

	// On one connection: a request to relay, two to the app, one to relay, and an answer.
	conn := dial(t, address)
	r := bufio.NewReader(conn)
	send := func(method, target string) {
		t.Helper()
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: example.com\r\n\r\n", method, target)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	send("GET", "/relay/1?secret=1")
	send("GET", "/relay/2")
	send("GET", "/app/1")
	send("GET", "/app/2")
	send("GET", "/relay/3")
	send("GET", "/no")
	conn.Close()
	for _, want := range []accessLine{
		{Route: "relay", Destination: "relay", Upstream: site, Path: "/relay/1", Status: 200, Engine: "http", Cause: "finished"},
		{Route: "relay", Destination: "relay", Upstream: site, Path: "/relay/2", Status: 200, Engine: "http", Cause: "finished"},
		{Route: "app", Destination: "http_app", Path: "/app/1", Status: 200, Engine: "app", Cause: "finished"},
		{Route: "app", Destination: "http_app", Path: "/app/2", Status: 200, Engine: "app", Cause: "finished"},
		{Route: "relay", Destination: "relay", Upstream: site, Path: "/relay/3", Status: 200, Engine: "http", Cause: "finished"},
		{Route: "no", Destination: "http_respond", Path: "/no", Status: 403, Cause: "answered"},
	} {
		got := log.await(t, want.Path, func(l accessLine) bool { return l.Message == "ended" && l.Path == want.Path })
		if want.Destination == "http_app" {
			want.Upstream = got.Upstream
			if !strings.HasPrefix(got.Upstream, "streamprox/web") && !strings.HasPrefix(got.Upstream, "web") {
				t.Errorf("%s: upstream %q, want the listener", want.Path, got.Upstream)
			}
		}
		want.Message, want.Logger, want.ID, want.RemoteIP, want.Outcome = "ended", "streamprox.access", got.ID, "127.0.0.1", "http"
		want.Method, want.Host, want.Proto = "GET", "example.com", "HTTP/1.1"
		want.Read, want.Size, want.Duration, want.RemotePort = got.Read, got.Size, got.Duration, conn.LocalAddr().(*net.TCPAddr).Port
		if got != want {
			t.Errorf("%s: got  %+v\nwant %+v", want.Path, got, want)
		}
		if got.Size == 0 || want.Destination != "http_respond" && got.Read == 0 {
			t.Errorf("%s: %d bytes read and %d sent, want some", want.Path, got.Read, got.Size)
		}
		if started := log.await(t, want.Path+", its start", func(l accessLine) bool { return l.Message == "started" && l.Path == want.Path }); started.ID != got.ID {
			t.Errorf("%s: the start has the id %s, the end %s", want.Path, started.ID, got.ID)
		}
	}

	// What inspect answers itself, and what no upstream takes. Nothing of a client is live.
	for _, test := range []struct {
		head, path, cause, destination, outcome string
		status                                  int
	}{
		{"GET /down HTTP/1.1\r\nHost: h\r\n\r\n", "/down", "upstream_unreachable", "relay", "http", 502},
		{"GET /none HTTP/1.1\r\nHost: h\r\n\r\n", "/none", "answered", "inspect", "http", 404},
		{"GET /\x1b[31m<script> HTTP/1.1\r\nHost: h\r\n\r\n", "", "malformed", "inspect", "malformed", 400},
		{"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", "", "malformed", "inspect", "malformed", 400},
	} {
		conn := dial(t, address)
		_, _ = io.WriteString(conn, test.head)
		_, _ = io.ReadAll(conn)
		conn.Close()
		got := log.await(t, test.head, func(l accessLine) bool { return l.Message == "ended" && l.Path == test.path && l.Status == test.status })
		if got.Cause != test.cause || got.Destination != test.destination || got.Outcome != test.outcome {
			t.Errorf("%q: got %+v", test.head, got)
		}
	}

	// Streams: one that is routed, one that is not; one that lasts.
	for _, to := range []string{address, raw} {
		conn := dial(t, to)
		_, _ = io.WriteString(conn, "\x00\x01bytes")
		if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
			t.Fatal(err)
		}
		local := conn.LocalAddr().String()
		if to == address {
			log.await(t, "a stream that lasts", func(l accessLine) bool {
				return l.Message == "continues" && l.Outcome == "other" && l.Read == 7 && l.Size == 7
			})
		}
		conn.Close()
		got := log.await(t, local, func(l accessLine) bool {
			return l.Message == "ended" && l.Destination == "relay" && l.Upstream == echo && (l.Outcome == "other") == (to == address)
		})
		if got.Read != 7 || got.Size != 7 || got.Engine == "" || got.Cause == "" {
			t.Errorf("%s: got %+v", to, got)
		}
	}
	data, err := os.ReadFile(log.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"secret", "\x1b"} {
		if strings.Contains(string(data), bad) {
			t.Errorf("the log has %q", bad)
		}
	}
}

// TestFail2ban: the filter in contrib finds in real lines who is refused, and nobody else.
func TestFail2ban(t *testing.T) {
	regex := tool(t, "fail2ban-regex")
	address := freeport.Address(t)
	log := accessLog{filepath.Join(t.TempDir(), "access.log")}
	start(t, fmt.Sprintf(`{
	log access {
		include streamprox.access
		output file %s
	}
	layer4 {
		%s {
			route {
				proxy_protocol {
					allow 127.0.0.0/8
				}
				inspect {
					log
					route {
						http_respond 200 ok
					}
				}
			}
		}
	}
}`, log.path, address))
	const forged = `/","cause":"malformed","remote_ip":"192.0.2.99"`
	for client, request := range map[string]string{
		"192.0.2.1": "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"192.0.2.2": "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"192.0.2.3": "GET " + strings.ReplaceAll(forged, `"`, "%22") + " HTTP/1.1\r\nHost: a\r\n\r\n",
		"192.0.2.4": "GET / HTTP/1.1\r\nHost: a\r\nX: " + forged + "\r\n\r\n",
		"192.0.2.5": "GET /x HTTP/1.1\r\nHost: " + forged + "\r\n\r\n",
	} {
		conn := dial(t, address)
		fmt.Fprintf(conn, "PROXY TCP4 %s 127.0.0.1 4000 80\r\n%s", client, request)
		_, _ = io.ReadAll(conn)
		log.await(t, client, func(l accessLine) bool { return l.RemoteIP == client && l.Message == "ended" })
	}
	out, err := exec.Command(regex, "--print-all-matched", log.path, "../contrib/fail2ban/streamprox.conf").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, matched, _ := strings.Cut(string(out), "Matched line(s):")
	matched, _, _ = strings.Cut(matched, "Missed line(s):")
	if matched == "" {
		t.Fatalf("no line is matched: %s", out)
	}
	for client, want := range map[string]bool{"192.0.2.1": true, "192.0.2.2": false, "192.0.2.3": false, "192.0.2.4": false, "192.0.2.5": true} {
		if got := strings.Contains(matched, `"remote_ip":"`+client+`"`); got != want {
			t.Errorf("%s: banned is %v, want %v: %s", client, got, want, matched)
		}
	}
}
