package integration

import (
	"bytes"
	"cmp"
	"crypto/tls"
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
	"sync"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// replayPlace is where a request goes, to replay.
type replayPlace struct{ Route, Destination string }

// replayAnswer is what these tests look at of an answer of replay.
type replayAnswer struct {
	Decisions, Same, Elsewhere, Unknown int
	OtherRoute                          int `json:"other_route"`
	Moves                               []replayMove
	Rows                                []struct {
		Outcome, Method, Host, Path, Client, Answer string
		From, To                                    replayPlace
	} `json:"rows"`
}

type replayMove struct {
	Answer, Why string
	From, To    replayPlace
	Count       int
}

// replay takes the decisions to a configuration.
func (s *server) replay(config map[string]any) (answer replayAnswer) {
	s.t.Helper()
	question, err := json.Marshal(map[string]any{"config": config})
	if err != nil {
		s.t.Fatal(err)
	}
	status, body := s.api("POST", "/streamprox/replay", string(question))
	if status != http.StatusOK {
		s.t.Fatalf("replay: got %d %s", status, body)
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		s.t.Fatalf("%v in %s", err, body)
	}
	return answer
}

// String returns the sums of an answer, and a line for each move.
func (a replayAnswer) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d: %d %d %d %d\n", a.Decisions, a.Same, a.OtherRoute, a.Elsewhere, a.Unknown)
	slices.SortStableFunc(a.Moves, func(a, b replayMove) int { // ports are in no order
		return cmp.Or(-cmp.Compare(a.Count, b.Count), strings.Compare(a.From.Route, b.From.Route))
	})
	for _, m := range a.Moves {
		fmt.Fprintf(&b, "%d %s: %s to %s -> %s to %s", m.Count, m.Answer, m.From.Route, m.From.Destination, m.To.Route, m.To.Destination)
		if m.Why != "" {
			b.WriteString(": " + m.Why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// exchangeOnce sends bytes, and reads until the end.
func exchangeOnce(t *testing.T, address, data string) string {
	t.Helper()
	conn := dial(t, address)
	defer conn.Close()
	if _, err := io.WriteString(conn, data); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil && len(got) == 0 && !isReset(err) {
		t.Fatalf("%.60q: %v", data, err)
	}
	return string(got)
}

// get returns a request that is the last of its connection.
func get(path, fields string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n" + fields + "\r\n"
}

// replaySite is a configuration with routes and what follows inspect, and a site.
func replaySite(address, options, routes string) string {
	return "{\nlayer4 {\n" + address + " {\nroute {\ninspect {\n" + options + "\n" + routes + "\n}\n}\n}\n}\n}\n" +
		"http:// {\nbind streamprox/web\nrespond site\n}\n"
}

// TestReplay sends requests, and takes them to configurations that are not loaded.
func TestReplay(t *testing.T) {
	one, two, address := httpBackend(t, "one"), httpBackend(t, "two"), freeport.Address(t)
	routes := func(chat, tenant, more string) string {
		return `
		@chat http_request path /chat/*
		route @chat {
			relay ` + chat + `
		}
		@tenant http_request header X-Tenant ` + tenant + `
		route @tenant {
			relay ` + two + `
		}
		@no http_request path /no
		route @no {
			http_respond 403
		}
		` + more + `
		route {
			http_app web
		}`
	}
	now := routes(one, "gold", "")
	s := start(t, replaySite(address, "replay 100", now))
	for _, test := range []struct{ request, want string }{
		{get("/chat/1?secret=1", "Authorization: Basic c2VjcmV0\r\n"), "one GET /chat/1?secret=1"},
		{get("/chat/2", ""), "one GET /chat/2"},
		{get("/x", "X-Tenant: gold\r\n"), "two GET /x"},
		{get("/x", "X-Tenant: tin\r\n"), "site"},
		{get("/x", ""), "site"},
		{get("/no", ""), " 403 "},
		{"GET /\x1b[2J<script> HTTP/1.1\r\nHost: a\r\n\r\n", " 400 "},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", " 400 "},
		{"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n" + strings.Repeat("X-"+strings.Repeat("y", 500)+": z\r\n", 10) + "\r\n", "site"},
		{"GET /" + strings.Repeat("z", 3000) + " HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n", "site"},
	} {
		if got := exchangeOnce(t, address, test.request); !strings.Contains(got, test.want) {
			t.Fatalf("%.60q: got %q, want %q", test.request, got, test.want)
		}
	}
	requests := func() (n int) {
		_, body := s.api("GET", "/streamprox/stats", "")
		var stats struct{ Requests int }
		if err := json.Unmarshal([]byte(body), &stats); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		return stats.Requests
	}
	before := requests()
	for _, test := range []struct {
		name, config, want string
	}{
		{"the same", replaySite(address, "replay 100", now), "10: 10 0 0 0\n"},
		{"another upstream", replaySite(address, "", routes(two, "gold", "")), "10: 8 0 2 0\n" +
			"2 elsewhere: chat to relay " + one + " -> chat to relay " + two + "\n"},
		{"another value of a field", replaySite(address, "", routes(one, "tin", "")), "10: 6 0 0 4\n" +
			"3 unknown: 3 to http_app web ->  to unknown: route tenant depends on what is not kept\n" +
			"1 unknown: tenant to relay " + two + " ->  to unknown: route tenant depends on what is not kept\n"},
		{"a route before the last", replaySite(address, "", routes(one, "gold", "@x http_request path /x\nroute @x {\nhttp_app web\n}")), "10: 7 2 0 1\n" +
			"2 other route: 3 to http_app web -> x to http_app web\n" +
			"1 unknown: 3 to http_app web ->  to unknown: route x depends on what is not kept\n"},
		{"an answer", replaySite(address, "", strings.ReplaceAll(now, "http_app web", "http_respond 404")), "10: 6 0 4 0\n" +
			"4 elsewhere: 3 to http_app web -> 3 to http_respond 404\n"},
		{"no listener", replaySite(freeport.Address(t), "", now), "10: 0 0 10 0\n" +
			"4 elsewhere: 3 to http_app web ->  to nothing: no server listens there\n"},
		{"a smaller head", replaySite(address, "max_bytes 1KiB", now), "10: 6 0 2 2\n" +
			"2 unknown:  to answer 400 ->  to unknown: the limits of inspect are others, and the bytes are not kept\n" +
			"2 elsewhere: 3 to http_app web ->  to answer 431\n"},
		{"lenient", replaySite(address, "lenient", now), "10: 8 0 0 2\n" +
			"2 unknown:  to answer 400 ->  to unknown: the limits of inspect are others, and the bytes are not kept\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := s.replay(adapt(t, test.config)).String()
			if got != test.want && test.name != "no listener" || !strings.HasPrefix(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			if strings.Contains(got, "c2VjcmV0") || strings.Contains(got, "gold") {
				t.Errorf("it has values of fields: %s", got)
			}
		})
	}
	if after := requests(); after != before {
		t.Errorf("replay has been counted: %d requests, then %d", before, after)
	}
}

// TestReplayRing keeps decisions over reloads, as many as the option says, and those of later
// requests on a connection too.
func TestReplayRing(t *testing.T) {
	address, up := freeport.Address(t), httpBackendKept(t, "up")
	site := func(options, route string) string {
		return replaySite(address, options, "@up http_request path /up/*\nroute @up {\nrelay "+up+"\n}\nroute {\n"+route+"\n}")
	}
	const toSite, toAnswer = "http_app web", "http_respond 404"
	s := start(t, site("", toSite))
	replayed := func(want string) {
		t.Helper()
		if got := s.replay(adapt(t, site("", toAnswer))).String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	load := func(options, route string) {
		t.Helper()
		if err := s.load(site(options, route)); err != nil {
			t.Fatal(err)
		}
	}
	moved := func(n int) string {
		return fmt.Sprintf("%d elsewhere: 1 to http_app web -> 1 to http_respond 404\n", n)
	}

	exchangeOnce(t, address, get("/1", ""))
	replayed("0: 0 0 0 0\n")
	load("replay 0", toSite)
	exchangeOnce(t, address, get("/1", ""))
	replayed("0: 0 0 0 0\n")

	load("replay 1", toSite)
	exchangeOnce(t, address, get("/up/1", ""))
	replayed("1: 1 0 0 0\n")
	exchangeOnce(t, address, get("/1", ""))
	replayed("1: 0 0 1 0\n" + moved(1))

	load("replay 4", toSite)
	replayed("0: 0 0 0 0\n") // another number begins anew
	more := "GET /up/2 HTTP/1.1\r\nHost: a\r\n\r\nGET /up/3 HTTP/1.1\r\nHost: a\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\nGET /5 HTTP/1.1\r\nHost: a\r\n\r\n"
	got := exchangeOnce(t, address, more+get("/up/6", ""))
	if !strings.Contains(got, "up /up/6") {
		t.Fatalf("got %q", got)
	}
	replayed("4: 2 0 2 0\n" + moved(2))

	// The next configuration has the ring of the one before, and what that decided.
	load("replay 4", toAnswer)
	replayed("4: 2 0 2 0\n" + moved(2))
	exchangeOnce(t, address, get("/7", ""))
	exchangeOnce(t, address, get("/8", ""))
	exchangeOnce(t, address, get("/9", ""))
	replayed("4: 4 0 0 0\n")
	load("", toAnswer)
	replayed("0: 0 0 0 0\n")
}

// TestReplayTLS takes what came inside TLS to configurations that terminate it or not.
func TestReplayTLS(t *testing.T) {
	address, up := freeport.Address(t), httpBackend(t, "up")
	site := func(options, handlers string) string {
		return "{\nlocal_certs\nskip_install_trust\nlayer4 {\n" + address + ` {
			@tls tls
			route @tls {
				` + handlers + `
				inspect {
					` + options + `
					@up http_request path /up
					route @up {
						relay ` + up + `
					}
					@ssh inspected other
					route @ssh {
						relay ` + up + `
					}
				}
			}
			route {
				inspect {
					` + options + `
					route {
						http_respond 418
					}
				}
			}
		}
	}
}
https://a.example {
	bind streamprox/web
	respond site
}
`
	}
	s := start(t, site("replay 10", "tls {\nconnection_policy {\nalpn http/1.1\n}\n}"))
	var client *tls.Conn
	eventually(t, "TLS on "+address, func() (ok bool) {
		var err error
		client, err = tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, ServerName: "a.example"})
		return err == nil
	})
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(client, get("/up", "")); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(client); !strings.Contains(string(got), "up GET /up") {
		t.Fatalf("got %q", got)
	}
	if got := exchangeOnce(t, address, get("/up", "")); !strings.Contains(got, " 418 ") {
		t.Fatalf("got %q", got)
	}
	for _, test := range []struct{ name, config, want string }{
		{"the same", site("", "tls {\nconnection_policy {\nalpn http/1.1\n}\n}"), "2: 2 0 0 0\n"},
		{"TLS passes", site("", ""), "2: 1 0 1 0\n1 elsewhere: up to relay " + up + " -> 0 to http_respond 418\n"},
		{"TLS for some names", strings.Replace(site("", "tls"), "@tls tls", "@tls tls sni b.example", 1),
			"2: 1 0 0 1\n1 unknown: up to relay " + up + " ->  to unknown: route 0 of layer4 depends on what is not kept\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := s.replay(adapt(t, test.config)).String(); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestReplayInTheHTTPApp replays what a listener wrapper has decided, and what falls through
// one inspect into another.
func TestReplayInTheHTTPApp(t *testing.T) {
	port, up := freeport.Get(t), httpBackend(t, "up")
	site := func(path, last string) string {
		return `{
	servers 127.0.0.1:` + port + ` {
		protocols h1
		listener_wrappers {
			layer4 {
				route {
					inspect {
						replay 10
						@a http_request path /a/*
						route @a {
							inspect {
								@up http_request path ` + path + `
								route @up {
									relay ` + up + `
								}
							}
							` + last + `
						}
						route {
							http_app
						}
					}
				}
			}
		}
	}
}
http://127.0.0.1:` + port + ` {
	bind 127.0.0.1
	respond site
}
`
	}
	s := start(t, site("/a/up", "http_app"))
	address := "127.0.0.1:" + port
	for path, want := range map[string]string{"/a/up": "up GET", "/a/other": "site", "/b": "site"} {
		request := strings.Replace(get(path, ""), "a.example", address, 1)
		if got := exchangeOnce(t, address, request); !strings.Contains(got, want) {
			t.Fatalf("%s: got %q, want %q", path, got, want)
		}
	}
	for _, test := range []struct{ name, config, want string }{
		{"the same", site("/a/up", "http_app"), "3: 3 0 0 0\n"},
		{"another path", site("/a/other", "http_app"), "3: 1 0 2 0\n" +
			"1 elsewhere: a to http_app -> a/up to relay " + up + "\n1 elsewhere: a/up to relay " + up + " -> a to http_app\n"},
		{"another end", site("/a/up", "http_respond 404"), "3: 2 0 1 0\n1 elsewhere: a to http_app -> a to http_respond 404\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := s.replay(adapt(t, test.config)).String(); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestReplayInside keeps what came in where only an inspect inside another keeps decisions.
func TestReplayInside(t *testing.T) {
	address, one, two := freeport.Address(t), httpBackend(t, "one"), httpBackend(t, "two")
	site := func(x string) string {
		return layer4Caddyfile(address, `
			@a http_request path /a/*
			route @a {
				rewrite_head {
					strip_prefix /a
				}
				inspect {
					replay 10
					@x http_request path `+x+`
					route @x {
						relay `+one+`
					}
					route {
						relay `+two+`
					}
				}
			}`)
	}
	s := start(t, site("/x"))
	for path, want := range map[string]string{"/a/x": "one GET /x", "/a/y": "two GET /y", "/x": " 404 "} {
		if got := exchangeOnce(t, address, get(path, "")); !strings.Contains(got, want) {
			t.Fatalf("%s: got %q, want %q", path, got, want)
		}
	}
	for x, want := range map[string]string{
		"/x": "2: 2 0 0 0\n",
		"/y": "2: 0 0 2 0\n1 elsewhere: a/1 to relay " + two + " -> a/x to relay " + one + "\n1 elsewhere: a/x to relay " + one + " -> a/1 to relay " + two + "\n",
	} {
		if got := s.replay(adapt(t, site(x))).String(); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", x, got, want)
		}
	}
}

// TestReplayRewritten does not take what was answered about one head for an answer about
// another.
func TestReplayRewritten(t *testing.T) {
	address, one, two := freeport.Address(t), httpBackend(t, "one"), httpBackend(t, "two")
	site := func(outer, field string) string {
		return layer4Caddyfile(address, `
			replay 10
			`+outer+`
			@a http_request path /a/*
			route @a {
				rewrite_head {
					header X-Tenant `+field+`
				}
				inspect {
					replay 10
					@gold http_request header X-Tenant gold
					route @gold {
						relay `+one+`
					}
					route {
						relay `+two+`
					}
				}
			}`)
	}
	s := start(t, site("", "gold"))
	if got := exchangeOnce(t, address, get("/a/x", "X-Tenant: tin\r\n")); !strings.Contains(got, "one GET /a/x") {
		t.Fatalf("got %q", got)
	}
	outer := "@gold http_request header X-Tenant gold\nroute @gold {\nrelay " + two + "\n}"
	for _, config := range []string{site(outer, "gold"), site("", "tin")} {
		if got := s.replay(adapt(t, config)); got.Decisions != 1 || got.Unknown != 1 {
			t.Errorf("got %s, want it unknown", got)
		}
	}
}

// TestReplayUnderWay replays, explains and reloads while requests come.
func TestReplayUnderWay(t *testing.T) {
	address, up := freeport.Address(t), httpBackendKept(t, "up")
	site := func(route string) string {
		return replaySite(address, "replay 5", "@up http_request path /up/*\nroute @up {\nrelay "+up+"\n}\nroute {\n"+route+"\n}")
	}
	s := start(t, site("http_app web"))
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			for range 10_000 {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := net.Dial("tcp", address)
				if err != nil {
					continue // while it is loaded
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = io.WriteString(conn, "GET /up/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"+get("/up/3", ""))
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
		})
	}
	for i := range 6 {
		answer := s.replay(adapt(t, site("http_respond 404")))
		if answer.Decisions > 5 || answer.Same+answer.Elsewhere != answer.Decisions {
			t.Errorf("got %s", answer)
		}
		if i%3 == 2 {
			if err := s.load(site("http_app web")); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	clients.Wait()
}

// TestReplayErrors asks what has no answer.
func TestReplayErrors(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, replaySite(address, "replay 10", "route {\nhttp_app web\n}"))
	for _, test := range []struct {
		body   string
		status int
		want   string
	}{
		{`{}`, 400, "config: "},
		{`{"config":{"apps":{"nonsense":{}}}}`, 400, "config: "},
		{`{"config":{},"more":1}`, 400, "more"},
		{`{"config":{},"decisions":[]}`, 400, "decisions"},
		{`{"config":{},"listen":1}`, 400, "listen: "},
		{`{"config":{},"listen":":1-9"}`, 400, "listen: "},
		{`{"config":{"x":"` + strings.Repeat("x", 16<<20) + `"}}`, 413, "more than"},
	} {
		if status, body := s.api("POST", "/streamprox/replay", test.body); status != test.status || !strings.Contains(body, test.want) {
			t.Errorf("%.60s: got %d %.200s, want %d %s", test.body, status, body, test.status, test.want)
		}
	}
	if status, _ := s.api("GET", "/streamprox/replay", ""); status != 405 {
		t.Errorf("GET: got %d, want 405", status)
	}
	exchangeOnce(t, address, get("/", ""))
	for listen, want := range map[string]string{address: `"decisions":1,`, ":1": `"decisions":0,`} {
		if status, body := s.api("POST", "/streamprox/replay", `{"config":{},"listen":"`+listen+`"}`); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: got %d %s, want %s", listen, status, body, want)
		}
	}
}

// TestReplayCommand runs the command as its users do.
func TestReplayCommand(t *testing.T) {
	address, up := freeport.Address(t), httpBackend(t, "up")
	site := func(route string) string {
		return replaySite(address, "replay 10\nlenient", "@up http_request path /up/*\nroute @up {\nrelay "+up+"\n}\nroute {\n"+route+"\n}")
	}
	s := start(t, site("http_app web"))
	exchangeOnce(t, address, get("/up/1", "X-Secret: secret\r\n"))
	exchangeOnce(t, address, get("/%1b[2J/<script>?secret", ""))
	same, other := filepath.Join(t.TempDir(), "same.caddyfile"), filepath.Join(t.TempDir(), "other.caddyfile")
	for file, content := range map[string]string{same: site("http_app web"), other: site("http_respond 404")} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (out, problem string, code int) {
		t.Helper()
		command := exec.Command(os.Args[0], append([]string{"streamprox", "replay"}, args...)...)
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		if err := command.Run(); command.ProcessState == nil {
			t.Fatal(err)
		}
		return stdout.String(), stderr.String(), command.ProcessState.ExitCode()
	}
	const none = "2 decisions: 2 as before, 0 by another route to the same destination, 0 elsewhere, 0 unknown\n"
	if out, problem, code := run("--address", s.admin, "--config", same); out != none || code != 0 {
		t.Errorf("the same: got %d %s%s", code, out, problem)
	}
	const one = "2 decisions: 1 as before, 0 by another route to the same destination, 1 elsewhere, 0 unknown\n\n" +
		"COUNT  FROM             TO\n1      1: http_app web  1: http_respond 404\n\n" +
		"REQUEST                        FROM             TO\n" +
		"GET a.example/%1b[2J/<script>  1: http_app web  1: http_respond 404\n"
	if out, problem, code := run("--address", s.admin, "--config", other, "--adapter", "caddyfile"); out != one || code != 3 || strings.Contains(problem, "rror") {
		t.Errorf("another one: got %d\n%s%s\nwant\n%s", code, out, problem, one)
	}
	out, problem, code := run("--address", s.admin, "--config", other, "--json", "--listen", address)
	var answer replayAnswer
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 3 || answer.Elsewhere != 1 || len(answer.Rows) != 1 || answer.Rows[0].Path != "/%1b[2J/<script>" {
		t.Errorf("JSON: got %d %s%s (%v)", code, out, problem, err)
	}
	if strings.Contains(out, "secret") {
		t.Errorf("it has what is not kept: %s", out)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "--config"},
		{[]string{"--address", s.admin, "--config", other + ".none"}, "no such file"},
		{[]string{"--address", freeport.Address(t), "--config", other}, "asking the admin API"},
		{[]string{"--address", s.admin, "--config", other, "--listen", ":1-9"}, "listen: "},
	} {
		if out, problem, code := run(test.args...); code != 1 || !strings.Contains(problem, test.want) {
			t.Errorf("%v: got %d %s%s, want an error with %q", test.args, code, out, problem, test.want)
		}
	}
}

// TestExplainStream explains requests that are there, with and without a ring.
func TestExplainStream(t *testing.T) {
	for _, ring := range []bool{true, false} {
		t.Run(fmt.Sprint(ring), func(t *testing.T) {
			options, from := "", "account"
			if ring {
				options, from = "replay 10", "replay"
			}
			address, up := freeport.Address(t), upgradingServer(t)
			s := start(t, replaySite(address, options, `
				@gold http_request header X-Tenant gold
				@ws http_request path /ws/*
				route @ws {
					relay `+up+`
				}
				route @gold {
					relay `+up+`
				}
				@raw inspected other
				route @raw {
					relay `+up+`
				}
				route {
					http_app web
				}`))
			open := func(data string) (id string) {
				t.Helper()
				conn := dial(t, address)
				if _, err := io.WriteString(conn, data); err != nil {
					t.Fatal(err)
				}
				local := conn.LocalAddr().String()
				eventually(t, "the stream of "+local, func() bool {
					var list struct {
						Streams []struct{ ID, Client, Upstream string }
					}
					_, body := s.api("GET", "/streamprox/streams", "")
					if json.Unmarshal([]byte(body), &list) != nil {
						return false
					}
					for _, stream := range list.Streams {
						if stream.Client == local && stream.Upstream != "" {
							id = stream.ID
						}
					}
					return id != ""
				})
				return id
			}
			type explainedStream struct {
				explained
				Stream  struct{ ID, Path string }
				From    string
				Decided *replayPlace
				Unknown []string
			}
			explain := func(id string) (e explainedStream) {
				t.Helper()
				status, body := s.api("GET", "/streamprox/streams/"+id+"?explain", "")
				if status != 200 {
					t.Fatalf("got %d %s", status, body)
				}
				if err := json.Unmarshal([]byte(body), &e); err != nil {
					t.Fatalf("%v in %s", err, body)
				}
				if e.Stream.ID != id || e.From != from || (e.Decided != nil) != ring || len(e.Unknown) == 0 || e.Destination.Sent != nil {
					t.Errorf("got %s", body)
				}
				return e
			}
			e := explain(open(strings.Replace(upgradeRequest, "/ws/%d", "/ws/1?x", 1)))
			if e.taken() != "0/ws" || e.Destination.Address != up || e.Stream.Path != "/ws/1" {
				t.Errorf("by its path: got %q %+v", e.taken(), e.Destination)
			}
			e = explain(open(strings.Replace(strings.Replace(upgradeRequest, "/ws/%d", "/", 1), "\r\n\r\n", "\r\nX-Tenant: gold\r\n\r\n", 1)))
			if want := map[bool]string{true: "relay", false: "unknown"}[ring]; e.Destination.Kind != want {
				t.Errorf("by a field: got %q %+v, want %s", e.taken(), e.Destination, want)
			}
			id := open(fmt.Sprintf(upgradeRequest, 2))
			for query, want := range map[string]int{"": 200, "?explain": 200, "?other": 400} {
				if status, body := s.api("GET", "/streamprox/streams/"+id+query, ""); status != want {
					t.Errorf("%s: got %d %s, want %d", query, status, body, want)
				}
			}
			if status, _ := s.api("GET", "/streamprox/streams/0000000000000000?explain", ""); status != 404 {
				t.Errorf("of none: got %d, want 404", status)
			}
		})
	}
}
