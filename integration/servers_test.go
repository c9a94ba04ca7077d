package integration

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// Servers that journal what they see. Each parses HTTP with its own parser, so that what
// one of them takes for a request is known, and not what a test takes for one.
//
// They answer 200 with method and target as content, once they have read the body, and
// 401 without reading it where the path is /a/refuse.

// destination is a server that records.
type destination interface {
	// Addr is where streamprox reaches it.
	Addr() string

	// Seen returns the requests seen since the last call, in order, when nothing that
	// was sent to the server is still on its way.
	Seen(t *testing.T) []request
}

// request is what a server saw of a request.
type request struct {
	method string
	target string
	host   string
	body   string

	// fields holds those that the server tells of, in canonical spelling.
	fields http.Header

	// complete says that the request has come to its end.
	complete bool
}

// String returns the request as the cases write it.
func (r request) String() string {
	words := []string{r.method, r.target, r.host, r.body}
	return strings.Join(slices.DeleteFunc(words, func(word string) bool { return word == "" }), " ")
}

// recorder is a handler of net/http that records. Besides what all the servers do it
// answers 413 to a body of more than limit bytes where the path ends in /limited, reads
// no body where it ends in /ignore, waits for the test where it ends in /slow, and
// answers 403 where it begins with /deny/. It accepts WebSocket handshakes and sends back
// what follows.
type recorder struct {
	address string

	// release lets one request to a /slow path go on.
	release chan struct{}

	mu     sync.Mutex
	seen   []*request
	active int
}

// limit is the largest body that a server takes where the path is /a/limited.
const limit = 1 << 10

func newRecorder() *recorder { return &recorder{release: make(chan struct{})} }

// Addr returns the address, if the recorder has one of its own.
func (s *recorder) Addr() string { return s.address }

// Seen waits until no handler runs.
func (s *recorder) Seen(t *testing.T) []request {
	t.Helper()
	eventually(t, "end of the handlers", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.active == 0
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	var seen []request
	for _, r := range s.seen {
		seen = append(seen, *r)
	}
	s.seen = nil
	return seen
}

// ServeHTTP implements http.Handler.
func (s *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	entry := &request{method: r.Method, target: r.RequestURI, host: r.Host, fields: maps.Clone(r.Header)}
	s.mu.Lock()
	s.seen = append(s.seen, entry)
	s.active++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.active--
		s.mu.Unlock()
	}()
	end := func(body []byte) {
		s.mu.Lock()
		defer s.mu.Unlock()
		entry.body, entry.complete = string(body), true
	}

	_, last, _ := strings.Cut(r.URL.Path[1:], "/")
	switch last {
	case "ignore":
		end(nil)
		fmt.Fprintf(w, "%s %s", r.Method, r.RequestURI)
		return
	case "refuse":
		end(nil)
		w.WriteHeader(http.StatusUnauthorized)
		return
	case "limited":
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	body, err := io.ReadAll(r.Body)
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	end(body)
	if last == "slow" {
		select {
		case <-s.release:
		case <-time.After(patience):
		}
	}
	if r.Header.Get("Upgrade") == "websocket" && r.Header.Get("Sec-Websocket-Key") != "" {
		s.upgrade(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/deny/") {
		w.WriteHeader(http.StatusForbidden)
	}
	fmt.Fprintf(w, "%s %s", r.Method, r.RequestURI)
}

// upgrade sends back what follows the handshake.
func (s *recorder) upgrade(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, switching(r.Header.Get("Sec-Websocket-Key"))); err != nil {
		return
	}
	_, _ = io.Copy(conn, buffered)
}

// switching is the right answer to a WebSocket handshake (RFC 6455 section 4.2.2).
func switching(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
}

// startGo starts an HTTP server of Go.
func startGo(t *testing.T) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newRecorder()
	s.address = ln.Addr().String()
	server := &http.Server{Handler: s}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return s
}

// recorders holds those that the Caddyfile's directive test_recorder names.
var recorders sync.Map

// register names a recorder, until the test ends.
func (s *recorder) register(t *testing.T, name string) {
	t.Helper()
	if _, taken := recorders.LoadOrStore(name, s); taken {
		t.Fatalf("two recorders named %q", name)
	}
	t.Cleanup(func() { recorders.Delete(name) })
}

func init() {
	caddy.RegisterModule(recorderHandler{})
	httpcaddyfile.RegisterHandlerDirective("test_recorder", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(recorderHandler)
		h.Next()
		if !h.AllArgs(&handler.Name) {
			return nil, h.ArgErr()
		}
		return handler, nil
	})
}

// recorderHandler is a recorder in Caddy's HTTP app.
type recorderHandler struct {
	Name string `json:"name"`
}

func (recorderHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_recorder", New: func() caddy.Module { return new(recorderHandler) }}
}

func (h recorderHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	s, ok := recorders.Load(h.Name)
	if !ok {
		return fmt.Errorf("no recorder named %q", h.Name)
	}
	s.(*recorder).ServeHTTP(w, r)
	return nil
}

// recorderSite is a site of Caddy that records.
func recorderSite(address, bind, name string) string {
	return "\nhttp://" + address + " {\n bind " + bind + "\n route {\n test_recorder " + name + "\n}\n}\n"
}

// loggingServer is a server that runs as a program and writes what it has seen to a log.
type loggingServer struct {
	address string

	// lines returns the lines of the log that it has not returned yet.
	lines func() []string
	parse func(line string) (request, error)

	markers int
}

// Addr returns the address.
func (s *loggingServer) Addr() string { return s.address }

// Seen sends a request of its own, which comes after all that were sent before, and
// waits for it in the log.
func (s *loggingServer) Seen(t *testing.T) []request {
	t.Helper()
	s.markers++
	marker := fmt.Sprintf("/marker/%d", s.markers)
	conn := dial(t, s.address)
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET "+marker+" HTTP/1.1\r\nHost: marker\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer := receive(t, conn); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
		t.Fatalf("the marker was answered with %q", answer)
	}
	var seen []request
	eventually(t, "line for "+marker, func() bool {
		for _, line := range s.lines() {
			r, err := s.parse(line)
			if err != nil {
				t.Fatalf("in the log: %q: %v", line, err)
			}
			if r.target == marker {
				return true
			}
			seen = append(seen, r)
		}
		return false
	})
	return seen
}

// tail returns a function that returns the new lines of a file.
func tail(path string) func() []string {
	var offset int64
	return func() []string {
		file, err := os.Open(path)
		if err != nil {
			return nil // nothing has been written
		}
		defer file.Close()
		content, _ := io.ReadAll(io.NewSectionReader(file, offset, 1<<30))
		content = content[:bytes.LastIndexByte(content, '\n')+1]
		offset += int64(len(content))
		return slices.Collect(strings.Lines(string(content)))
	}
}

// waitForListener waits until something listens.
func waitForListener(t *testing.T, address string) {
	t.Helper()
	dial(t, address).Close()
}

// startNode starts testdata/server.js.
func startNode(t *testing.T) destination {
	t.Helper()
	port, log := freeport.Get(t), filepath.Join(t.TempDir(), "log")
	run(t, nil, tool(t, "node"), filepath.Join("testdata", "server.js"), port, log)
	s := &loggingServer{address: "127.0.0.1:" + port, lines: tail(log), parse: func(line string) (request, error) {
		var entry struct {
			Method, Target, Body string
			Fields               []string // name, value, name, value
			Complete             bool
		}
		err := json.Unmarshal([]byte(line), &entry)
		r := request{method: entry.Method, target: entry.Target, body: entry.Body, complete: entry.Complete, fields: make(http.Header)}
		for i := 0; i+1 < len(entry.Fields); i += 2 {
			r.fields.Add(entry.Fields[i], entry.Fields[i+1])
		}
		r.host = r.fields.Get("Host")
		return r, err
	}}
	waitForListener(t, s.address)
	return s
}

// nginxFields are those that nginx logs. Its variables do not tell an underscore from a
// hyphen, so the fields named with either are the same to it.
var nginxFields = []string{
	"Authorization", "Connection", "Content-Length", "Cookie", "Expect", "HTTP2-Settings", "Keep-Alive", "Proxy-Connection", "TE",
	"Trailer", "Transfer-Encoding", "Upgrade", "X-Forwarded-For", "X-Internal", "X-Kept",
}

// startNginx starts nginx. The server that is tested passes requests on to another one
// of the same process, as nginx keeps no body otherwise.
func startNginx(t *testing.T) destination {
	t.Helper()
	program, dir, address := tool(t, "nginx"), t.TempDir(), freeport.Address(t)
	log, answering := filepath.Join(dir, "log"), freeport.Address(t)
	var fields strings.Builder
	for _, name := range nginxFields {
		fmt.Fprintf(&fields, `,"%s":"$http_%s"`, name, strings.ReplaceAll(strings.ToLower(name), "-", "_"))
	}
	config := filepath.Join(dir, "nginx.conf")
	err := os.WriteFile(config, []byte(`
		daemon off;
		master_process off;
		error_log stderr;
		pid `+dir+`/pid;
		events {}
		http {
			log_format seen escape=json '{"line":"$request","host":"$http_host","body":"$request_body","complete":"$request_completion $status","fields":{"":""`+fields.String()+`}}';
			client_body_temp_path `+dir+`/body;
			proxy_temp_path `+dir+`/proxy;
			fastcgi_temp_path `+dir+`/fastcgi;
			uwsgi_temp_path `+dir+`/uwsgi;
			scgi_temp_path `+dir+`/scgi;
			client_body_buffer_size 1m;
			underscores_in_headers on;
			server {
				listen `+address+`;
				access_log `+log+` seen;
				location / {
					proxy_pass http://`+answering+`;
				}
				location = /a/refuse {
					return 401;
				}
				location = /a/limited {
					client_max_body_size `+fmt.Sprint(limit)+`;
					proxy_pass http://`+answering+`;
				}
			}
			server {
				listen `+answering+`;
				access_log off;
				location / {
					return 200 "$request_method $request_uri";
				}
			}
		}
	`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	run(t, nil, program, "-e", "stderr", "-p", dir, "-c", config)
	s := &loggingServer{address: address, lines: tail(log), parse: func(line string) (request, error) {
		var entry struct {
			Line, Host, Body, Complete string
			Fields                     map[string]string
		}
		err := json.Unmarshal([]byte(line), &entry)
		method, rest, _ := strings.Cut(entry.Line, " ")
		target, _, _ := strings.Cut(rest, " ")
		r := request{method: method, target: target, host: entry.Host, body: entry.Body, complete: entry.Complete == "OK 200" || entry.Complete == "OK 401", fields: make(http.Header)}
		for name, value := range entry.Fields {
			if value != "" {
				r.fields.Set(name, value)
			}
		}
		return r, err
	}}
	waitForListener(t, s.address)
	return s
}

// startHAProxy starts HAProxy, which logs to a socket of the test. The frontend that is
// tested passes requests on to another one of the same process: HAProxy answers by rule
// without asking whether the body has come to its end.
func startHAProxy(t *testing.T) destination {
	t.Helper()
	program, dir, address, answering := tool(t, "haproxy"), t.TempDir(), freeport.Address(t), freeport.Address(t)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := new(datagrams)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		log.receive(socket)
	}()
	t.Cleanup(func() {
		socket.Close()
		<-ended
	})
	config := filepath.Join(dir, "haproxy.cfg")
	err = os.WriteFile(config, []byte(`
global
	nbthread 1
	tune.bufsize 65536
	log `+socket.LocalAddr().String()+` len 65000 format raw local0

defaults
	mode http
	option dontlognull
	timeout client 30s
	timeout server 30s
	timeout connect 30s

frontend a
	bind `+address+`
	log global
	http-request set-var(txn.method) method
	http-request set-var(txn.url) url,base64
	http-request set-var(txn.host) req.hdr(host),base64
	http-request set-var(txn.fields) req.hdrs,base64
	http-request return status 401 if { path /a/refuse }
	http-request wait-for-body time 30s
	http-request set-var(txn.body) req.body,base64
	use_backend answering
	log-format "%ST %[var(txn.method)] url=%[var(txn.url)] host=%[var(txn.host)] fields=%[var(txn.fields)] body=%[var(txn.body)]"

backend answering
	server answering `+answering+`

frontend answering
	bind `+answering+`
	http-request wait-for-body time 30s
	http-request return status 200 content-type text/plain lf-string "%[method] %[url]"
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	run(t, nil, program, "-db", "-f", config)
	s := &loggingServer{address: address, lines: log.lines, parse: parseHAProxy}
	waitForListener(t, s.address)
	return s
}

// parseHAProxy parses a line of startHAProxy's format.
func parseHAProxy(line string) (request, error) {
	words := strings.Fields(line)
	if len(words) != 6 {
		return request{}, errors.New("not 6 words")
	}
	values := make(map[string]string)
	for _, word := range words[2:] {
		name, encoded, _ := strings.Cut(word, "=")
		if encoded == "-" {
			continue // HAProxy's word for nothing
		}
		value, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return request{}, err
		}
		values[name] = string(value)
	}
	fields, _ := textproto.NewReader(bufio.NewReader(strings.NewReader(values["fields"]))).ReadMIMEHeader()
	complete := words[0] == "200" || words[0] == "401"
	return request{method: words[1], target: values["url"], host: values["host"], body: values["body"], fields: http.Header(fields), complete: complete}, nil
}

// datagrams is a log that comes over a socket.
type datagrams struct {
	mu     sync.Mutex
	unread []string
}

// receive reads until the socket is closed.
func (d *datagrams) receive(socket net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := socket.ReadFrom(buf)
		if err != nil {
			return
		}
		d.mu.Lock()
		// Besides what log-format says there are messages about the program itself.
		for line := range strings.Lines(string(buf[:n])) {
			if strings.Contains(line, " url=") {
				d.unread = append(d.unread, line)
			}
		}
		d.mu.Unlock()
	}
}

func (d *datagrams) lines() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.unread
	d.unread = nil
	return lines
}

// rawServer is a server without a mind of its own: each case brings what it does with a
// connection.
type rawServer struct {
	address string

	mu     sync.Mutex
	script func(*rawConn)
	seen   []request
	active int
}

// startRaw starts a server that does what its script says.
func startRaw(t *testing.T) *rawServer {
	t.Helper()
	s := new(rawServer)
	s.address = backend(t, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		s.mu.Lock()
		script := s.script
		s.active++
		s.mu.Unlock()
		if script != nil {
			script(&rawConn{Conn: conn, r: bufio.NewReader(conn), server: s})
		}
		s.mu.Lock()
		s.active--
		s.mu.Unlock()
	})
	return s
}

// play sets what the server does with the connections that come.
func (s *rawServer) play(script func(*rawConn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// Addr returns the address.
func (s *rawServer) Addr() string { return s.address }

// Seen waits until no script runs.
func (s *rawServer) Seen(t *testing.T) []request {
	t.Helper()
	eventually(t, "end of the scripts", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.active == 0
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

// rawConn is a connection to a rawServer.
type rawConn struct {
	net.Conn
	r      *bufio.Reader
	server *rawServer
}

// head reads the head of a request and leaves its body alone. It reports whether there
// was one.
func (c *rawConn) head() (*http.Request, bool) {
	r, err := http.ReadRequest(c.r)
	if err != nil {
		return nil, false
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.seen = append(c.server.seen, request{
		method: r.Method, target: r.RequestURI, host: r.Host, fields: r.Header,
		complete: r.ContentLength == 0,
	})
	return r, true
}

// request reads a whole request. It reports whether there was one.
func (c *rawConn) request() bool {
	r, ok := c.head()
	if !ok {
		return false
	}
	body, err := io.ReadAll(r.Body)
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	last := &c.server.seen[len(c.server.seen)-1]
	last.body, last.complete = string(body), err == nil
	return err == nil
}

// say sends bytes.
func (c *rawConn) say(data string) { _, _ = io.WriteString(c, data) }

// drain takes what comes until the other side ends the connection, as requests as long
// as it can be read so: this server never ends a connection itself.
func (c *rawConn) drain() {
	for c.request() {
	}
	c.discard()
}

// discard takes what comes until the other side ends the connection.
func (c *rawConn) discard() { _, _ = io.Copy(io.Discard, c.r) }

// echo sends back what comes, until the other side has finished sending.
func (c *rawConn) echo() { _, _ = io.Copy(c.Conn, c.r) }

// finish ends the sending side, and the connection once the other side has ended it: a
// socket closed with bytes unread would reset the connection and destroy the answer.
func (c *rawConn) finish() {
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.discard()
}

// tap stands between streamprox and a server and keeps what goes up.
type tap struct {
	net.Listener
	destination destination

	mu    sync.Mutex
	open  int
	flows []*flow
}

// flow is one connection to a server.
type flow struct {
	*net.TCPConn // from streamprox

	up bytes.Buffer // what the server was sent

	// unanswered is how much of it was sent before the server sent its first byte, or
	// all.
	unanswered int
	answered   bool

	// reset says that streamprox reset the connection.
	reset bool

	kept bool // it was to be kept
}

// startTap lets streamprox reach a server through a tap.
func startTap(t *testing.T, to destination) *tap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{Listener: ln, destination: to}
	serveBackend(t, tapListener{p}, p.serve)
	return p
}

// Addr returns the address of the tap.
func (p *tap) Addr() string { return p.Listener.Addr().String() }

// tapListener is the listener of a tap.
type tapListener struct{ *tap }

func (l tapListener) Addr() net.Addr { return l.Listener.Addr() }

// Accept counts a connection before the next one is accepted.
func (l tapListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	f := &flow{TCPConn: conn.(*net.TCPConn)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	l.flows = append(l.flows, f)
	return f, nil
}

// settle waits until streamprox has ended every connection to the server. A connection
// of its own, which comes after all the others, tells when these have been accepted.
func (p *tap) settle(t *testing.T) {
	t.Helper()
	marker := dial(t, p.Addr())
	defer marker.Close()
	own := marker.LocalAddr().String()
	eventually(t, "connection to the tap", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, f := range p.flows {
			if f.RemoteAddr().String() == own {
				p.flows = slices.Delete(p.flows, i, i+1)
				return true
			}
		}
		return false
	})
	marker.Close()
	eventually(t, "end of the connections to the server", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.open == 0
	})
}

// Seen returns what the server saw, once the connections to it have ended.
func (p *tap) Seen(t *testing.T) []request {
	t.Helper()
	p.settle(t)
	return p.destination.Seen(t)
}

// took returns the connections since the last call.
func (p *tap) took() []*flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	flows := p.flows
	p.flows = nil
	return flows
}

// serve passes a connection on to the server.
func (p *tap) serve(conn net.Conn) {
	f := conn.(*flow)
	defer func() {
		p.mu.Lock()
		p.open--
		p.mu.Unlock()
	}()
	upstream, err := net.Dial("tcp", p.destination.Addr())
	if err != nil {
		return
	}
	defer upstream.Close()
	down := make(chan struct{})
	go func() {
		defer close(down)
		_, writing := pass(f.TCPConn, upstream, func([]byte) {
			p.mu.Lock()
			defer p.mu.Unlock()
			f.answered = true
		})
		if writing != nil {
			reset(upstream)
		}
	}()
	reading, writing := pass(upstream, f.TCPConn, func(data []byte) {
		p.mu.Lock()
		defer p.mu.Unlock()
		f.up.Write(data)
		if !f.answered {
			f.unanswered = f.up.Len()
		}
	})
	if writing != nil {
		// The server has closed the connection, perhaps after an answer, which is still
		// on its way down. How it ended is told there.
		_, reading = io.Copy(io.Discard, f.TCPConn)
	}
	p.mu.Lock()
	f.reset = isReset(reading) && !errors.Is(reading, net.ErrClosed) // which is the tap's own
	p.mu.Unlock()
	<-down
}

// pass copies from src to dst, noting the bytes before it sends them, and ends dst in
// the way in which src ended, unless writing fails.
func pass(dst, src net.Conn, note func([]byte)) (reading, writing error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			note(buf[:n])
			if _, err := dst.Write(buf[:n]); err != nil {
				return nil, err
			}
		}
		if err == io.EOF {
			_ = dst.(*net.TCPConn).CloseWrite()
			return nil, nil
		}
		if err != nil {
			reset(dst)
			return err, nil
		}
	}
}

// reset closes a connection so that the other side sees a reset.
func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}
