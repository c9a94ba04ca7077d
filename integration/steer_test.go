package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// steerSite is a Caddy with streams to see and steer.
type steerSite struct {
	*server
	program      string // the caddy command
	address      string // where clients connect to
	first, other string // upstreams of the route ws, first while it may be
	socket       string // upstream of the route raw, as the admin API writes it
}

func startSteered(t *testing.T) *steerSite {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, ln, echo("raw"))
	s := &steerSite{program: buildCaddy(t), address: freeport.Address(t), first: upgradingServer(t), other: upgradingServer(t), socket: "unix/" + path}
	s.server = start(t, layer4Caddyfile(s.address, fmt.Sprintf(`
		@ws http_request path /ws/*
		route @ws {
			relay %s %s {
				lb_policy first
			}
		}
		@raw inspected other
		route @raw {
			relay %s
		}`, s.first, s.other, s.socket)))
	return s
}

// websocket opens a WebSocket at a path, and sends a message there and back.
func (s *steerSite) websocket(path string) net.Conn {
	s.t.Helper()
	conn := dial(s.t, s.address)
	_, _ = io.WriteString(conn, strings.Replace(upgradeRequest, "/ws/%d", path, 1)+"frame")
	got := make([]byte, len(switched+"frame"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != switched+"frame" {
		s.t.Fatalf("the WebSocket %s: got %q (%v)", path, got, err)
	}
	return conn
}

// raw opens a stream that is not HTTP.
func (s *steerSite) raw() net.Conn {
	s.t.Helper()
	conn := dial(s.t, s.address)
	_, _ = io.WriteString(conn, "\x00\x01")
	if _, err := io.ReadFull(conn, make([]byte, len("raw\n")+2)); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// isKilled tests that a stream ends with a reset.
func isKilled(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience)) // what was done before may have taken longer
	if _, err := io.ReadAll(conn); !isReset(err) {
		t.Errorf("%s: ended with %v, want a reset", what, err)
	}
}

// command runs `caddy streamprox` and returns what it prints.
func (s *steerSite) command(args ...string) (out, problem string, err error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, append(append([]string{"streamprox"}, args...), "--address", s.admin)...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// prints runs a command, which must go well.
func (s *steerSite) prints(args ...string) string {
	s.t.Helper()
	out, problem, err := s.command(args...)
	if err != nil || problem != "" {
		s.t.Fatalf("%q: %v: %s%s", args, err, out, problem)
	}
	return out
}

// table returns the lines of a table below the names, with what a row has in each column.
func table(t *testing.T, text string) (rows []map[string]string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	names := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		row, cells := make(map[string]string), strings.FieldsFunc(strings.ReplaceAll(line, "  ", "\t"), func(r rune) bool { return r == '\t' })
		if len(cells) != len(names) {
			continue // the line at the end
		}
		for i, name := range names {
			row[name] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, row)
	}
	return rows
}

// has tests that a row has these cells.
func has(t *testing.T, what string, row, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if row[name] != value {
			t.Errorf("%s: %s is %q, want %q; all: %v", what, name, row[name], value, row)
		}
	}
}

// TestSteerCommands runs the commands that see and steer.
func TestSteerCommands(t *testing.T) {
	s := startSteered(t)
	one, two, raw := s.websocket("/ws/1"), s.websocket("/ws/2"), s.raw()
	eventually(t, "three streams", func() bool { return s.list("").Total == 3 })

	// The list.
	out := s.prints("streams", "--sort", "-age")
	rows := table(t, out)
	if len(rows) != 3 || !strings.HasSuffix(out, "\n3 streams\n") {
		t.Fatalf("got\n%s", out)
	}
	id := rows[0]["ID"]
	has(t, "the WebSocket", rows[0], map[string]string{
		"CLIENT": one.LocalAddr().String(), "ROUTE": "ws", "TO": "relay", "UPSTREAM": s.first, "STATE": "open 101", "REQUEST": "GET Example.com/ws/1",
	})
	has(t, "the other stream", rows[2], map[string]string{"ROUTE": "raw", "TO": "relay", "STATE": "open", "REQUEST": "other"})
	for _, test := range []struct {
		filter []string
		want   int
	}{
		{[]string{"--route", "ws"}, 2},
		{[]string{"--host", "example.com"}, 2},
		{[]string{"--client", "127.0.0.0/8"}, 3},
		{[]string{"--client", "192.0.2.1"}, 0},
		{[]string{"--destination", "relay"}, 3},
		{[]string{"--state", "open"}, 3},
		{[]string{"--older", "1h"}, 0},
		{[]string{"--upstream", s.first}, 2},
		{[]string{"--upstream", s.socket}, 1}, // as upstreams writes it
		{[]string{"--upstream", rows[2]["UPSTREAM"]}, 1},
	} {
		var list struct {
			Total   int
			Streams []struct{ ID, Path, Upstream string }
		}
		out := s.prints(append([]string{"streams", "--json"}, test.filter...)...)
		if err := json.Unmarshal([]byte(out), &list); err != nil || list.Total != test.want || len(list.Streams) != test.want {
			t.Errorf("%q: got %v, want %d streams: %s", test.filter, err, test.want, out)
		}
	}
	for args, names := range map[string]string{
		"streams --client nobody":    `client: "nobody"`,
		"streams --older long":       `older: "long"`,
		"streams --sort size":        `sort: unknown order "size"`,
		"kill 0123456789abcdef":      `no stream "0123456789abcdef" is under way`,
		"kill --route ws --over 25h": `over: "25h"`,
		"drain 192.0.2.1:1":          `no relay has the upstream "192.0.2.1:1"`,
	} {
		out, problem, err := s.command(strings.Fields(args)...)
		if err == nil || out != "" || !strings.Contains(problem, names) {
			t.Errorf("%s: got %v, %q, %q, want %s", args, err, out, problem, names)
		}
	}

	// Drain: streams go on, new ones go elsewhere.
	if got, want := s.prints("drain", s.first), s.first+": draining; it has 2 streams\n"; got != want {
		t.Errorf("drain: got %q, want %q", got, want)
	}
	s.websocket("/ws/3")
	upstreams := func() map[string]map[string]string {
		t.Helper()
		by := make(map[string]map[string]string)
		for _, row := range table(t, s.prints("upstreams")) {
			by[row["UPSTREAM"]] = row
		}
		return by
	}
	got := upstreams()
	has(t, "drained", got[s.first], map[string]string{"HEALTH": "healthy", "DRAIN": "draining", "STREAMS": "2", "MAX": "-", "FAILS": "0"})
	has(t, "not drained", got[s.other], map[string]string{"HEALTH": "healthy", "DRAIN": "-", "STREAMS": "1"})
	has(t, "a socket", got[s.socket], map[string]string{"HEALTH": "healthy", "DRAIN": "-", "STREAMS": "1"})
	var all []struct {
		Address  string
		Draining bool
	}
	if err := json.Unmarshal([]byte(s.prints("upstreams", "--json")), &all); err != nil || len(all) != 3 {
		t.Errorf("upstreams --json: got %v (%v)", all, err)
	}
	for range 2 { // one that is drained already, and one that is not any more
		if got, want := s.prints("drain", s.socket), s.socket+": draining; it has 1 stream\n"; got != want {
			t.Errorf("drain: got %q, want %q", got, want)
		}
	}
	refused := dial(t, s.address)
	_, _ = io.WriteString(refused, "\x00\x01")
	if got, err := io.ReadAll(refused); len(got) > 0 || err != nil {
		t.Errorf("the only upstream is drained: got %q (%v), want the end", got, err)
	}
	s.prints("drain", s.other)
	refused = dial(t, s.address)
	fmt.Fprintf(refused, upgradeRequest, 0)
	if got, err := io.ReadAll(refused); !strings.HasPrefix(string(got), "HTTP/1.1 503 ") || err != nil {
		t.Errorf("all upstreams are drained: got %q (%v), want 503", got, err)
	}
	s.prints("undrain", s.other)
	for range 2 {
		if got, want := s.prints("undrain", s.socket), s.socket+": takes new streams; it has 1 stream\n"; got != want {
			t.Errorf("undrain: got %q, want %q", got, want)
		}
	}
	s.raw().Close()
	eventually(t, "end of the stream that was closed", func() bool { return s.list("route=raw").Total == 1 })

	// Kill.
	if got, want := s.prints("kill", id), "ended "+id+"\n"; got != want {
		t.Errorf("kill: got %q, want %q", got, want)
	}
	isKilled(t, "by its id", one)
	eventually(t, "end", func() bool { return s.list("route=ws").Total == 2 })
	if _, problem, err := s.command("kill", id); err == nil || !strings.Contains(problem, id) {
		t.Errorf("killed twice: got %v, %q", err, problem)
	}
	if got, want := s.prints("kill", "--upstream", s.socket, "--older", "0s"), "ended 1 stream\n"; got != want {
		t.Errorf("kill: got %q, want %q", got, want)
	}
	isKilled(t, "by the socket", raw)
	if got, want := s.prints("kill", "--upstream", s.first, "--over", "10ms"), "ending 1 stream over 10ms\n"; got != want {
		t.Errorf("kill: got %q, want %q", got, want)
	}
	isKilled(t, "by the upstream", two)
	eventually(t, "an upstream without streams", func() bool {
		var all []struct {
			Address string
			Streams int
		}
		s.get("/streamprox/upstreams", &all)
		for _, u := range all {
			if u.Address == s.first {
				return u.Streams == 0
			}
		}
		return false
	})
	if got, want := s.prints("undrain", s.first), s.first+": takes new streams; it has 0 streams\n"; got != want {
		t.Errorf("undrain: got %q, want %q", got, want)
	}
	s.websocket("/ws/4")
	if got := upstreams()[s.first]; got["STREAMS"] != "1" {
		t.Errorf("not drained any more: got %v", got)
	}

	// Totals.
	eventually(t, "two streams", func() bool { return s.list("").Total == 2 })
	var names []string
	stats := make(map[string]string)
	for line := range strings.Lines(s.prints("stats")) {
		name, value, _ := strings.Cut(line, "  ")
		names, stats[name] = append(names, name), strings.TrimSpace(value)
	}
	if want := []string{"since", "streams", "waiting", "parked", "requests", "bytes up", "bytes down", "ended"}; !slices.Equal(names, want) {
		t.Errorf("stats: got %q, want %q", names, want)
	}
	if stats["streams"] != "relay 2" || !strings.Contains(stats["ended"], "killed ") || stats["requests"] == "0" || stats["bytes up"] == "0 B" {
		t.Errorf("stats: got %q", stats)
	}
	var totals map[string]any
	if err := json.Unmarshal([]byte(s.prints("stats", "--json")), &totals); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"since", "streams", "waiting", "parked", "requests", "bytes_up", "bytes_down", "ended"} {
		if totals[name] == nil {
			t.Errorf("stats --json: no %s in %v", name, totals)
		}
	}
	if got, want := s.prints("kill", "--all"), "ended 2 streams\n"; got != want {
		t.Errorf("kill: got %q, want %q", got, want)
	}
	eventually(t, "end of all", func() bool { return s.list("").Total == 0 })
	if got, want := s.prints("streams"), "no streams\n"; got != want {
		t.Errorf("streams: got %q, want %q", got, want)
	}
}

// TestSteerLog tests that what is done through the admin API is logged, at the default level:
// who has done what.
func TestSteerLog(t *testing.T) {
	address, upstream := freeport.Address(t), upgradingServer(t)
	s := &steerSite{address: address}
	s.server = startQuiet(t, layer4Caddyfile(address, `
		@ws http_request path /ws/*
		route @ws {
			relay `+upstream+`
		}`))
	// done returns the status of a request to the admin API, and the address that it came from.
	done := func(method, path string) (status int, from string) {
		t.Helper()
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { from = info.Conn.LocalAddr().String() }}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), method, "http://"+s.admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode, from
	}
	var conns []net.Conn
	for i := range 4 {
		conns = append(conns, s.websocket(fmt.Sprintf("/ws/%d", i)))
	}
	eventually(t, "streams", func() bool { return s.list("state=open").Total == len(conns) })
	id := s.list("sort=-age").Streams[0].ID

	expected := 0
	for _, test := range []struct {
		method, path string
		status       int
		want         map[string]any // fields of the line, none if nothing was done
	}{
		{"POST", "/upstreams/" + upstream + "/drain", 200, map[string]any{"msg": "draining upstream", "upstream": upstream, "streams": 4}},
		{"POST", "/upstreams/" + upstream + "/undrain", 200, map[string]any{"msg": "upstream takes new streams", "upstream": upstream, "streams": 4}},
		{"DELETE", "/streams/" + id, 200, map[string]any{"msg": "ending streams", "id": id, "streams": 1}},
		{"DELETE", "/streams?host=none%0A&older=0s", 200, map[string]any{"msg": "ending streams", "filter": "host=none%0A&older=0s", "streams": 0}},
		{"DELETE", "/streams?route=ws&over=10ms", 202, map[string]any{"msg": "ending streams", "filter": "route=ws", "streams": 3, "over": 0.01}},
		{"DELETE", "/streams?all=true&client=192.0.2.1", 200, map[string]any{"msg": "ending streams", "filter": "all=true&client=192.0.2.1", "streams": 0}},
		{"DELETE", "/streams?route=ws&over=long", 400, nil},
		{"DELETE", "/streams/0123456789abcdef", 404, nil},
		{"POST", "/upstreams/192.0.2.1:1/drain", 404, nil},
		{"GET", "/streams", 200, nil},
	} {
		status, from := done(test.method, "/streamprox"+test.path)
		if status != test.status {
			t.Errorf("%s %s: got %d, want %d", test.method, test.path, status, test.status)
		}
		if test.want != nil {
			expected++
			test.want["logger"], test.want["level"], test.want["remote"] = "streamprox.admin", "info", from
			s.logs.expect(t, test.want)
		}
		if strings.HasPrefix(test.path, "/streams/"+id) { // the list that follows is without it
			isKilled(t, "by its id", conns[0])
			eventually(t, "end", func() bool { return s.list("").Total == len(conns)-1 })
		}
	}
	for _, conn := range conns[1:] {
		isKilled(t, "by its route", conn)
	}
	if got := s.logs.lines(map[string]any{"logger": "streamprox.admin"}); len(got) != expected {
		t.Errorf("got %d lines, want %d: %v", len(got), expected, got)
	}
}

// page is the page that `caddy streamprox ui` serves, in a browser.
type page struct {
	t       *testing.T
	ctx     context.Context
	browser *browsertest.Browser
}

// openPage runs `caddy streamprox ui` and a browser until the test ends.
func (s *steerSite) openPage(chromium string) *page {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	s.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, s.program, "streamprox", "ui", "--address", s.admin)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("the end of the command: %v", err)
		}
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.t.Fatal(err)
	}
	p := &page{t: s.t}
	p.ctx, p.browser = browsertest.Start(s.t, chromium, 6*patience)
	p.do("opening", chromedp.EmulateViewport(1280, 900), chromedp.Navigate(strings.TrimSpace(address)), chromedp.WaitVisible(chromedp.CSS("#state[data-state=live]")))
	return p
}

func (p *page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatalf("%s: %v; console: %q; the page: %s", what, err, p.browser.Complaints(), p.text("body"))
	}
}

func (p *page) click(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(selector))
}

// until waits until the JavaScript expression is true.
func (p *page) until(expression string) chromedp.Action[chromedp.Void] {
	return chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(patience))
}

// text returns what an element shows, in words with one space between them.
func (p *page) text(selector string) string {
	got, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q)?.innerText ?? 'no such element'", selector)))
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(got), " ")
}

// TestSteerPage uses the page in a browser.
func TestSteerPage(t *testing.T) {
	chromium := browsertest.Find(t)
	s := startSteered(t)
	p := s.openPage(chromium)
	p.do("nothing yet", p.until(`!document.querySelector("#none").hidden`))

	// A stream that begins is shown. Its path is text, as it was sent: inspect refuses a
	// path with <, but lets through what a browser could make that of.
	const path = "/ws/%3Cscript%3Ealert(1)%3C/script%3E&lt;script&gt;"
	conn := s.websocket(path)
	p.do("the stream", p.until(`document.querySelectorAll("#rows tr").length === 1`), p.until(`document.querySelector("#rows .state").innerText === "open 101"`))
	listed := s.list("").Streams
	if len(listed) != 1 {
		t.Fatalf("got %v", listed)
	}
	stream := listed[0]
	const request = "GET Example.com" + path
	for selector, want := range map[string]string{
		"#rows .id":      stream.ID,
		"#rows .client":  conn.LocalAddr().String(),
		"#rows .to":      "relay " + s.first,
		"#rows .request": request,
	} {
		if got := p.text(selector); got != want {
			t.Errorf("%s: got %q, want %q", selector, got, want)
		}
	}
	inert := func(where string) {
		t.Helper()
		p.do("scripts", p.until(`document.scripts.length === 1 && document.scripts[0].src.endsWith("/ui.js")`))
		if got := p.text(where); !strings.Contains(got, path) {
			t.Errorf("%s: the path is not shown as it was sent: %q", where, got)
		}
	}
	inert("#rows")

	// Filters, as the admin API has them.
	p.do("a wrong filter", chromedp.SendKeys(chromedp.CSS("#filter [name=client]"), "nobody"), p.until(`!document.querySelector("#filter-error").hidden`))
	if got, want := p.text("#filter-error"), `client: "nobody" is neither`; !strings.HasPrefix(got, want) {
		t.Errorf("a wrong filter: got %q, want %q", got, want)
	}
	p.do("no filter", p.click("#filter [type=reset]"), p.until(`document.querySelector("#filter-error").hidden`))
	for _, sort := range []string{"-rate", "rate", "-bytes", "bytes", "-age", "age"} {
		p.do("the order "+sort, chromedp.SetValue(chromedp.CSS("#filter [name=sort]"), sort))
	}
	p.do("another route", chromedp.SendKeys(chromedp.CSS("#filter [name=route]"), "other"), p.until(`document.querySelectorAll("#rows tr").length === 0`),
		p.click("#filter [type=reset]"), p.until(`document.querySelectorAll("#rows tr").length === 1`))

	// Upstreams.
	p.do("three upstreams", p.until(`document.querySelectorAll("#upstream-list li").length === 3`))
	for _, address := range []string{s.first, s.socket} {
		card := fmt.Sprintf("#upstream-list [data-address='%s']", address)
		p.do("drain", p.click(card+" button"), p.until(fmt.Sprintf(`document.querySelector(%q).dataset.draining === "true"`, card)))
		if got := p.text(card); !strings.Contains(got, "healthy draining") {
			t.Errorf("%s: drained: got %q", address, got)
		}
		if !strings.Contains(s.prints("upstreams"), "draining") {
			t.Errorf("%s is not drained", address)
		}
		p.do("undrain", p.until(fmt.Sprintf(`!document.querySelector(%q).disabled`, card+" button")), p.click(card+" button"),
			p.until(fmt.Sprintf(`document.querySelector(%q).dataset.draining === "false"`, card)))
	}

	// Explain: a head that is pasted.
	p.do("explain", chromedp.SetValue(chromedp.CSS("#question [name=text]"), "GET "+path+" HTTP/1.1\nHost: example.com\n\n"),
		p.click("#question > button"), p.until(`!document.querySelector("#answer").hidden`))
	if got, want := p.text("#destination"), "to "+s.first; !strings.HasPrefix(got, want) {
		t.Errorf("the destination: got %q, want %q", got, want)
	}
	for selector, want := range map[string]string{
		"#answer [data-route=ws][data-answer=yes]":             "route ws taken",
		"#answer [data-matcher=http_request][data-answer=yes]": "http_request",
		"#answer [data-handler=inspect]":                       "→ inspect",
		"#answer [data-route=ws] [data-handler=relay]":         "→ relay",
		"#answer [data-route=raw][data-answer='not asked']":    "route raw not asked",
		"#answer .upstream-choice":                             s.first + " 1 stream",
		"#answer pre":                                          "GET " + path + " HTTP/1.1",
		"#next":                                                "next request: ",
	} {
		if got := p.text(selector); !strings.HasPrefix(got, want) {
			t.Errorf("explained, %s: got %q, want %q", selector, got, want)
		}
	}
	inert("#answer")
	p.do("explain a script", chromedp.SetValue(chromedp.CSS("#question [name=text]"), "GET /<script>alert(1)</script> HTTP/1.1\nHost: example.com\n\n"),
		p.click("#question > button"), p.until(`document.querySelector("#destination").dataset.kind === "answer"`))
	if got, want := p.text("#answer"), "outcome malformed: invalid byte or percent-encoding in the path"; !strings.Contains(got, want) {
		t.Errorf("explained: got %q, want %q", got, want)
	}

	// What became of a stream, and its end.
	p.do("the stream", p.click("#rows button"), p.until(`document.querySelectorAll("#detail-facts dd").length > 5`))
	inert("#detail")
	for _, want := range []string{request + " HTTP/1.1", "Outcome http", "Came in at " + s.address, "Upstream " + s.first, "State open", "Status 101"} {
		if got := p.text("#detail"); !strings.Contains(got, want) {
			t.Errorf("the stream: no %q in %q", want, got)
		}
	}
	p.do("explain it", p.click("#detail-explain"), p.until(`document.querySelector("#answer").innerText.includes("this is not known: the query, the fields.")`))
	if got, want := p.text("#destination"), "to "+s.first; !strings.HasPrefix(got, want) {
		t.Errorf("the destination of the stream: got %q, want %q", got, want)
	}
	p.do("the stream again", p.click("#rows button"), p.until(`document.querySelectorAll("#detail-facts dd").length > 5`))
	p.do("kill", p.click("#kill"), p.until(`document.querySelector("#confirm").open`))
	p.do("kill it", p.click("#confirm-yes"), p.until(`document.querySelector("#detail-state").innerText === "Ended by you."`))
	isKilled(t, "on the page", conn)
	p.do("no stream", p.click("#detail-close"), p.until(`document.querySelectorAll("#rows tr").length === 0`))
	p.do("the totals", p.until(`document.querySelector("#facts").innerText.includes("killed")`))

	wanted := func(complaint string) bool { return strings.Contains(complaint, "status of 400") }
	if got := slices.DeleteFunc(p.browser.Complaints(), wanted); len(got) > 0 {
		t.Errorf("console: %q", got)
	}
}
