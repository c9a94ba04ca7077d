package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// Request smuggling works where two parsers disagree on where a request ends. These
// tests send raw bytes through streamprox, and look at what each server behind it took
// for a request.

// servers are those that serve /a/* and /ws/*, in turn.
var servers = []struct {
	name     string
	upgrades bool // it accepts WebSocket handshakes
	start    func(*testing.T, *desync) destination
}{
	{"go", true, func(t *testing.T, _ *desync) destination { return startGo(t) }},
	{"caddy", true, func(t *testing.T, d *desync) destination {
		s := newRecorder()
		s.register(t, "a")
		s.address = freeport.Address(t)
		_, port, _ := net.SplitHostPort(s.address)
		d.sites += recorderSite(":"+port, "127.0.0.1", "a")
		return s
	}},
	{"nginx", false, func(t *testing.T, _ *desync) destination { return startNginx(t) }},
	{"haproxy", false, func(t *testing.T, d *desync) destination {
		d.hides = "Connection" // it takes "close" and "keep-alive" out before anything can see them
		return startHAProxy(t)
	}},
	{"node", true, func(t *testing.T, _ *desync) destination { return startNode(t) }},
	{"raw", false, func(t *testing.T, d *desync) destination {
		d.raw = startRaw(t)
		return d.raw
	}},
}

// desync is streamprox before three servers.
type desync struct {
	address string
	sites   string     // further sites for the Caddyfile
	kept    bool       // relay keeps connections
	a       *tap       // /a/* and /ws/*
	raw     *rawServer // the same, where it is one
	hides   string     // a field that this server does not tell of
	b       *tap       // /b/*, and everything for b.example
	site    *recorder  // what is left
}

// startDesync starts streamprox and its servers, with options of inspect and of relay.
func startDesync(t *testing.T, server, inspect, options string) *desync {
	t.Helper()
	d := &desync{address: freeport.Address(t), site: newRecorder(), kept: strings.Contains(options, "reinspect")}
	d.site.register(t, "site")
	d.b = startTap(t, startGo(t))
	for _, s := range servers {
		if s.name == server {
			d.a = startTap(t, s.start(t, d))
		}
	}
	// Once Caddy has stopped, and before the servers do, nothing is on its way any more.
	t.Cleanup(func() {
		for _, violation := range d.seen(t).violations() {
			t.Errorf("in the end: %s", violation)
		}
	})
	startAs := start
	if d.kept {
		startAs = startQuiet // at level debug, no request is decided in the event loop
	}
	startAs(t, layer4Caddyfile(d.address, inspect+`
		@a http_request path /a/*
		route @a {
			relay `+d.a.Addr()+options+`
		}
		@ws http_request path /ws/*
		route @ws {
			relay `+d.a.Addr()+options+`
		}
		@b http_request path /b/*
		route @b {
			relay `+d.b.Addr()+options+`
		}
		@host http_request host b.example
		route @host {
			relay `+d.b.Addr()+options+`
		}
		route {
			http_app web
		}
	`)+recorderSite(":80", "streamprox/web", "site")+d.sites)
	if server == "caddy" {
		waitForListener(t, d.a.destination.Addr())
	}
	return d
}

// sightings are what the servers saw.
type sightings struct{ a, b, site []request }

// seen returns what the servers saw since the last call.
func (d *desync) seen(t *testing.T) sightings {
	t.Helper()
	return sightings{d.a.Seen(t), d.b.Seen(t), d.site.Seen(t)}
}

// violations names the requests that a server saw although its route does not choose
// them, or although nobody may see them.
func (r sightings) violations() []string {
	var found []string
	for name, seen := range map[string][]request{"a": r.a, "b": r.b, "site": r.site} {
		for _, request := range seen {
			if name == "site" && request.String() == seenBehind {
				continue // how many there may be is the case's to say
			}
			if chooses(request) != name || strings.Contains(request.target, "smuggled") {
				found = append(found, fmt.Sprintf("%s saw %q", name, request))
			}
		}
	}
	slices.Sort(found)
	return found
}

// chooses names the server whose route of startDesync's Caddyfile takes a request.
func chooses(r request) string {
	u, err := url.Parse(r.target)
	if err != nil {
		return "none"
	}
	switch p := strings.ToLower(path.Clean("/" + u.Path)); {
	case strings.HasPrefix(p, "/a/"), strings.HasPrefix(p, "/ws/"):
		return "a"
	case strings.HasPrefix(p, "/b/"):
		return "b"
	}
	host := r.host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "b.example") {
		return "b"
	}
	return "site"
}

// complete returns the requests that came to their end, as the cases write them.
func complete(seen []request) []string {
	var found []string
	for _, r := range seen {
		if r.complete {
			found = append(found, r.String())
		}
	}
	return found
}

// desyncCase is what a client does on one connection, and what comes of it.
type desyncCase struct {
	name string

	// clause is the rule or the attack that the case is about.
	clause string

	// on names the servers that the case is for. None: all but the raw one.
	on []string

	// raw makes the server raw, which does this with each connection.
	raw func(*rawConn)

	steps []step

	// closes says that the connection ends with the last response also where relay keeps
	// connections, though its status is not that of a refusal.
	closes bool

	// once makes the case one of connections with one request for relay.
	once bool

	// What the servers saw, as "method target host body". Requests that did not come
	// to their end are left out.
	a, b, site []string

	// fields are those of the last request that the server of /a/* saw. An empty value
	// means that it did not see the field.
	fields map[string]string

	// flow checks the connection to that server. There is one, or none where the server
	// saw no complete request.
	flow func(*testing.T, *flow)
}

// runsOn reports whether the case is for a server.
func (c *desyncCase) runsOn(d *desync, server string) bool {
	switch {
	case d.kept && c.once:
		return false
	case c.raw != nil:
		return server == "raw"
	case len(c.on) > 0:
		return slices.Contains(c.on, server)
	case d.kept && len(c.a) == 0 && c.flow == nil:
		return server == "go" // what does not reach the server does not depend on it
	}
	return server != "raw"
}

// run plays the case, with what the client sends in pieces of the given size. A request
// to before, if that is not empty, precedes it on the connection.
func (c *desyncCase) run(t *testing.T, d *desync, size int, before string) {
	if d.raw != nil {
		d.raw.play(c.raw)
	}
	conn := dial(t, d.address)
	_ = conn.SetDeadline(time.Now().Add(patience / 2))
	client := &client{TCPConn: conn, r: bufio.NewReader(conn), size: size, d: d, closes: c.closes, before: before}
	if before != "" {
		sends(head("GET "+before+" HTTP/1.1", "Host: a.example"))(t, client)
		gets(200, "GET "+before)(t, client)
	}
	for _, do := range c.steps {
		do(t, client)
		if t.Failed() {
			break
		}
	}
	conn.Close()

	seen := d.seen(t)
	for _, violation := range seen.violations() {
		t.Error(violation)
	}
	for _, server := range []struct {
		name      string
		got, want []string
	}{
		{"a", complete(seen.a), client.saw("/a/", c.a, nil)},
		{"b", complete(seen.b), client.saw("/b/", c.b, nil)},
		{"site", complete(seen.site), client.saw("/site/", c.site, client.answered)},
	} {
		if !slices.Equal(server.got, server.want) {
			t.Errorf("%s saw %.300q, want %.300q", server.name, server.got, server.want)
		}
	}
	for name, want := range c.fields {
		if len(seen.a) == 0 {
			break // which has been said
		}
		if name == d.hides {
			continue
		}
		if name == "Connection" && d.kept && !c.closes && want == "close" {
			want = ""
		}
		if got := strings.Join(seen.a[len(seen.a)-1].fields.Values(name), ", "); got != want {
			t.Errorf("a saw %s: %q, want %q", name, got, want)
		}
	}
	flows := d.a.took()
	d.b.took()
	if c.flow == nil || strings.HasPrefix(before, "/a/") {
		return // the request before is part of the flow
	}
	if len(flows) > 1 || len(flows) < len(c.a) {
		t.Errorf("got %d connections to a for %d requests", len(flows), len(c.a))
	}
	for _, f := range flows {
		f.kept = d.kept && !c.closes
		c.flow(t, f)
	}
}

// saw returns what the server of the paths that begin with prefix has seen: the request
// before the case, those of the case, and those behind it.
func (c *client) saw(prefix string, want, behind []string) []string {
	if strings.HasPrefix(c.before, prefix) {
		want = slices.Concat([]string{"GET " + c.before + " a.example"}, want)
	}
	return slices.Concat(want, behind)
}

// client is the client's side of a case.
type client struct {
	*net.TCPConn
	r    *bufio.Reader
	size int
	d    *desync

	closes   bool     // as the case says
	finished bool     // nothing more will be sent
	before   string   // the target of the request before the case
	behind   int      // the requests behind the case that were sent
	answered []string // those that were answered, and others after them
}

// kept reports whether relay keeps the client's connection.
func (c *client) kept() bool { return c.d != nil && c.d.kept }

// ending reports whether the connection ends with a response that has that status, which
// is the last one of the case. Refusals always end it.
func (c *client) ending(status int) bool {
	if !c.kept() || c.closes {
		return true
	}
	switch status {
	case http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge, http.StatusNotImplemented, http.StatusBadGateway:
		return true
	}
	return false
}

// over checks what follows the last response of the case: the end of the connection, or
// the responses to the requests behind it, and to one more.
func (c *client) over(t *testing.T, closed bool) {
	t.Helper()
	if closed {
		if got, err := io.ReadAll(c.r); len(got) > 0 || err != nil {
			t.Errorf("got %q (%v), want the end", got, err)
		}
		return
	}
	for range c.behind {
		c.get(t, http.MethodGet, 403, "GET /deny/smuggled?behind")
		c.answered = append(c.answered, seenBehind)
	}
	send(t, c, getSite, c.size)
	c.get(t, http.MethodGet, 200, "GET /site/1")
	c.answered = append(c.answered, seenSite)
}

// step is something that the client does.
type step func(*testing.T, *client)

// sends sends bytes.
func sends(data string) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		c.behind += strings.Count(data, behind)
		send(t, c, data, c.size)
	}
}

// gets reads a response to a request that is not HEAD. Content, if given, must be all
// of it.
func gets(status int, content ...string) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		c.get(t, http.MethodGet, status, content...)
	}
}

// getsHead is gets for a HEAD request.
func getsHead(status int) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		c.get(t, http.MethodHead, status, "")
	}
}

// last reads the last response of the case. It says that it ends the connection, and does;
// or it does neither.
func last(status int, content ...string) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		c.last(t, http.MethodGet, status, content...)
	}
}

// lastHead is last for a HEAD request.
func lastHead(status int) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		c.last(t, http.MethodHead, status, "")
	}
}

func (c *client) last(t *testing.T, method string, status int, content ...string) {
	t.Helper()
	resp := c.get(t, method, status, content...)
	if resp == nil {
		return
	}
	ending := c.ending(status)
	if c.finished && c.kept() {
		ending = true
		resp.Close = true // whether it says so depends on what comes first, the response or the end
	}
	if resp.Close != ending {
		t.Errorf("got %s, Connection: close %v, want %v", resp.Status, resp.Close, ending)
	}
	c.over(t, ending && resp.Close)
}

// get reads a response.
func (c *client) get(t *testing.T, method string, status int, content ...string) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		t.Errorf("reading a response, want %d: %v", status, err)
		return nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("reading the content of %s after %q: %v", resp.Status, body, err)
	}
	if resp.StatusCode != status {
		t.Errorf("got %s %q, want %d", resp.Status, body, status)
		return nil
	}
	if len(content) > 0 && string(body) != content[0] {
		t.Errorf("got %s with %q, want %q", resp.Status, body, content[0])
	}
	return resp
}

// cut reads the head of a response with that status and then less content than it
// promises: the connection ends before.
func cut(status int) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Errorf("reading a response, want %d: %v", status, err)
			return
		}
		if body, err := io.ReadAll(resp.Body); err == nil || resp.StatusCode != status {
			t.Errorf("got %s with %q as if it were all, want the beginning of a %d", resp.Status, body, status)
		}
	}
}

// ends checks what follows the last response, which was read as bytes.
func ends() step {
	return func(t *testing.T, c *client) {
		t.Helper()
		c.over(t, c.ending(200))
	}
}

// settles reads a response with one of the statuses, the last one, which holds nothing
// of what follows it.
func settles(statuses ...int) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Errorf("reading a response: %v", err)
			return
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !slices.Contains(statuses, resp.StatusCode) || strings.Contains(string(got), "smuggled") {
			t.Errorf("got %s, %q (%v), want one response with one of %v", resp.Status, got, err, statuses)
		}
		if c.ending(resp.StatusCode) != resp.Close {
			t.Errorf("got %s, Connection: close %v", resp.Status, resp.Close)
		}
		c.over(t, resp.Close)
	}
}

// over waits for the end of the connection, which may be a reset.
func over(t *testing.T, c *client) {
	t.Helper()
	if got, err := io.ReadAll(c.r); len(got) > 0 || err != nil && !isReset(err) {
		t.Errorf("got %q (%v), want the end", got, err)
	}
}

// refused takes one response with that status, or none, and the end of the connection.
func refused(status int) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		if _, err := c.r.Peek(1); err == nil {
			c.get(t, http.MethodGet, status)
		}
		over(t, c)
	}
}

// reads reads these bytes.
func reads(want string) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		if !c.ending(200) {
			want = strings.Replace(strings.Replace(want, connectionClose, "", 1), "HTTP/1.0", "HTTP/1.1", 1) // RFC 9112 section 2.3
		}
		got := make([]byte, len(want))
		if n, err := io.ReadFull(c.r, got); string(got[:n]) != want {
			t.Errorf("got %q (%v), want %q", got[:n], err, want)
		}
	}
}

// halfCloses ends the client's sending side.
func halfCloses(t *testing.T, c *client) {
	c.finished = true
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
}

// reaches waits until the server of /a/* has been sent bytes that end like this.
func reaches(end string) step {
	return func(t *testing.T, c *client) {
		t.Helper()
		eventually(t, fmt.Sprintf("%q at the server", end), func() bool {
			c.d.a.mu.Lock()
			defer c.d.a.mu.Unlock()
			flows := c.d.a.flows
			return len(flows) > 0 && strings.HasSuffix(flows[len(flows)-1].up.String(), end)
		})
	}
}

// leaves closes the connection.
func leaves(_ *testing.T, c *client) { _ = c.Close() }

// releases lets a site's answer to a /slow path come.
func releases(t *testing.T, c *client) {
	t.Helper()
	c.d.a.mu.Lock()
	open := c.d.a.open
	c.d.a.mu.Unlock()
	if open > 0 && c.before == "" {
		t.Error("the next request is at its server before the answer to the one before it")
	}
	select {
	case c.d.site.release <- struct{}{}:
	case <-time.After(patience):
		t.Error("no request waits")
	}
}

func TestDesync(t *testing.T) {
	runDesync(t, "", " {\n reuse close\n }", desyncCases())
}

func TestDesyncLenient(t *testing.T) {
	runDesync(t, "lenient", " {\n reuse close\n }", lenientCases())
}

// The same where relay keeps connections, with other requests on each.
func TestDesyncKept(t *testing.T) {
	runDesync(t, "", " {\n reuse reinspect\n }", slices.Concat(desyncCases(), keptCases()))
}

func TestDesyncKeptLenient(t *testing.T) {
	runDesync(t, "lenient", " {\n reuse reinspect\n }", slices.Concat(lenientCases(), keptLenientCases()))
}

// connectionClose is the line that is missing where relay keeps connections.
const connectionClose = "Connection: close\r\n"

// runDesync plays the cases with each server, and with options of inspect.
func runDesync(t *testing.T, inspect, options string, cases []desyncCase) {
	t.Helper()
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			d := startDesync(t, server.name, inspect, options)
			for _, c := range cases {
				if !c.runsOn(d, server.name) {
					continue
				}
				t.Run(c.name, func(t *testing.T) { c.run(t, d, 1<<20, "") })
				// What comes of pieces does not depend on the server.
				if server.name == "go" || server.name == "raw" {
					t.Run(c.name+", in pieces", func(t *testing.T) { c.run(t, d, 7, "") })
				}
				if d.kept {
					t.Run(c.name+", after another request", func(t *testing.T) { c.run(t, d, 1<<20, "/b/before") })
				}
				if d.kept && c.raw == nil {
					t.Run(c.name+", after one for the same server", func(t *testing.T) { c.run(t, d, 1<<20, "/a/before") })
				}
			}
		})
	}
}

// What the cases rely on: the servers journal what they see, and a request that was
// smuggled does not go unnoticed.
func TestDesyncServers(t *testing.T) {
	const pin = " {\n reuse pin\n }"
	tell := func(r *rawConn) {
		for r.request() {
			r.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	}
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			d := startDesync(t, server.name, "", pin)
			if d.raw != nil {
				d.raw.play(tell)
			}
			do := func(t *testing.T, steps ...step) sightings {
				t.Helper()
				conn := dial(t, d.address)
				c := &client{TCPConn: conn, r: bufio.NewReader(conn), size: 1 << 20, d: d}
				for _, do := range steps {
					do(t, c)
				}
				conn.Close()
				return d.seen(t)
			}
			t.Run("records", func(t *testing.T) {
				for _, request := range []string{
					head("POST /a/1?x=y HTTP/1.1", "Host: a.example", "X-Internal: z", "Content-Length: 5") + "hello",
					head("POST /a/1?x=y HTTP/1.1", "Host: a.example", "X-Internal: z", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n",
				} {
					seen := do(t, sends(request), gets(200))
					if got, want := complete(seen.a), []string{"POST /a/1?x=y a.example hello"}; !slices.Equal(got, want) {
						t.Errorf("got %q, want %q", got, want)
					} else if got := seen.a[0].fields.Get("X-Internal"); got != "z" {
						t.Errorf("got X-Internal: %q", got)
					}
					if found := seen.violations(); len(found) > 0 {
						t.Error(found)
					}
				}
				seen := do(t, sends(head("POST /b/1 HTTP/1.1", "Host: a.example", "Content-Length: 5")+"hello"), gets(200, "POST /b/1"))
				if got, want := complete(seen.b), []string{"POST /b/1 a.example hello"}; !slices.Equal(got, want) {
					t.Errorf("b saw %q, want %q", got, want)
				}
				seen = do(t, sends(head("POST / HTTP/1.1", "Host: a.example", "Content-Length: 5")+"hello"), gets(200, "POST /"))
				if got, want := complete(seen.site), []string{"POST / a.example hello"}; !slices.Equal(got, want) {
					t.Errorf("the site saw %q, want %q", got, want)
				}
			})
			t.Run("incomplete", func(t *testing.T) {
				seen := do(t, sends(head("POST /a/1 HTTP/1.1", "Host: a.example", "Content-Length: 50")+"hello"), reaches("hello"), leaves)
				if got := complete(seen.a); len(got) > 0 {
					t.Errorf("got %q as a complete request", got)
				}
			})
			t.Run("upgrade", func(t *testing.T) {
				if !server.upgrades {
					t.Skip("it accepts no WebSocket handshake")
				}
				seen := do(t, sends(handshake("/ws/1")), reads("HTTP/1.1 101 Switching Protocols\r\n"))
				if got, want := complete(seen.a), []string{"GET /ws/1 a.example"}; !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			})
			t.Run("smuggled", func(t *testing.T) {
				d.a.took()
				seen := do(t, sends(getA1+smuggled), gets(200), halfCloses)
				if want := []string{`a saw "GET /deny/smuggled a.example"`}; !slices.Equal(seen.violations(), want) {
					t.Errorf("got the violations %q, want %q", seen.violations(), want)
				}
				flows := d.a.took()
				if len(flows) != 1 || flows[0].up.String() != getA1+smuggled {
					t.Errorf("the tap saw %d connections, want one with %q", len(flows), getA1+smuggled)
				}
			})
		})
	}
}
