package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// keptServer is an HTTP server that keeps its connections and counts them. It answers with
// its name, the number of the connection and the target, and accepts WebSocket handshakes.
type keptServer struct {
	address     string
	connections atomic.Int64
}

func startKept(t *testing.T, name string) *keptServer {
	t.Helper()
	s := new(keptServer)
	s.address = backend(t, func(conn net.Conn) {
		number := s.connections.Add(1)
		for r := bufio.NewReader(conn); ; {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if key := request.Header.Get("Sec-Websocket-Key"); key != "" {
				_, _ = io.WriteString(conn, switching(key))
				_, _ = io.Copy(conn, r)
				return
			}
			body, err := io.ReadAll(request.Body)
			if err != nil {
				return
			}
			content := fmt.Sprintf("%s %d %s %s %s", name, number, request.Method, request.RequestURI, body)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(content), content)
		}
	})
	return s
}

// talk is a client's connection on which requests are sent and responses read.
type talk struct {
	net.Conn
	r *bufio.Reader
}

func newTalk(conn net.Conn) *talk { return &talk{conn, bufio.NewReader(conn)} }

func (c *talk) send(t *testing.T, requests ...string) {
	t.Helper()
	if _, err := io.WriteString(c, strings.Join(requests, "")); err != nil {
		t.Errorf("sending: %v", err)
	}
}

// get reads a response, and returns it and its content.
func (c *talk) get(t *testing.T) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatalf("reading a response: %v\n%s", err, theLogs.problems())
	}
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the content of %s: %v", resp.Status, err)
	}
	return resp, string(content)
}

// wants reads a response with that status and a content that begins like this.
func (c *talk) wants(t *testing.T, status int, prefix string) *http.Response {
	t.Helper()
	resp, content := c.get(t)
	if resp.StatusCode != status || !strings.HasPrefix(content, prefix) {
		t.Errorf("got %s %q, want %d %q", resp.Status, content, status, prefix)
	}
	return resp
}

// ends waits for the end of the connection.
func (c *talk) ends(t *testing.T) {
	t.Helper()
	if got, err := io.ReadAll(c.r); len(got) > 0 || err != nil && !isReset(err) {
		t.Errorf("got %q (%v), want the end", got, err)
	}
}

func getRequest(target string, fields ...string) string {
	return head(append([]string{"GET " + target + " HTTP/1.1", "Host: a.example"}, fields...)...)
}

// One connection visits two servers, a site and a route that answers itself, again and
// again and in any order, and ends as a WebSocket: each answer is that to its request.
func TestRelayKeptWalk(t *testing.T) {
	a, b := startKept(t, "a"), startKept(t, "b")
	plain, secure := freeport.Address(t), freeport.Address(t)
	httpPort := freeport.Get(t)
	inspect := `inspect {
		@a http_request path /a/*
		route @a {
			relay ` + a.address + `
		}
		@b http_request path /b/*
		route @b {
			relay ` + b.address + `
		}
		@ended http_request path /ended/*
		route @ended {
			http_respond 410 "gone"
		}
		route {
			http_app web:` + httpPort + `
		}
	}`
	startQuiet(t, `{
		http_port `+httpPort+`
		local_certs
		skip_install_trust
		layer4 {
			`+plain+` {
				route {
					`+inspect+`
				}
			}
			`+secure+` {
				route {
					tls {
						connection_policy {
							alpn http/1.1
						}
					}
					`+inspect+`
				}
			}
		}
	}
	http://a.example {
		bind streamprox/web
		respond "site {uri}"
	}
	https://example.com:`+freeport.Get(t)+` {
		bind streamprox/certificates
		respond certificates
	}`)
	targets := []string{"/a/1", "/site/1", "/b/1", "/a/2", "/a/3", "/b/2", "/b/3", "/site/2", "/site/3", "/b/4", "/a/4", "/site/4"}
	prefix := func(target string) string {
		switch name := target[1 : strings.Index(target[1:], "/")+1]; name {
		case "site":
			return "site " + target
		default:
			return name + " "
		}
	}
	for name, open := range map[string]func(*testing.T) net.Conn{
		"plain": func(t *testing.T) net.Conn { return dial(t, plain) },
		"tls": func(t *testing.T) net.Conn {
			var conn *tls.Conn
			eventually(t, "certificate", func() bool {
				conn = tls.Client(dial(t, secure), tlsClient("http/1.1"))
				return conn.Handshake() == nil
			})
			return conn
		},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(c *talk, target string) {
				t.Helper()
				resp, content := c.get(t)
				if resp.StatusCode != 200 || resp.Close || !strings.HasPrefix(content, prefix(target)) || !strings.Contains(content, target) {
					t.Errorf("%s: got %s %q, close %v", target, resp.Status, content, resp.Close)
				}
			}
			c := newTalk(open(t))
			for range 20 {
				for _, target := range targets {
					c.send(t, getRequest(target))
					check(c, target)
				}
			}
			for range 20 {
				var requests []string
				for _, target := range targets {
					requests = append(requests, getRequest(target))
				}
				c.send(t, requests...)
				for _, target := range targets {
					check(c, target)
				}
			}
			for _, size := range []int{1, 7, 1000} {
				for _, target := range targets {
					send(t, c, head("POST "+target+" HTTP/1.1", "Host: a.example", "Content-Length: 5")+"hello", size)
					check(c, target)
				}
			}
			c.send(t, handshake("/b/ws"), frame)
			if resp, err := http.ReadResponse(c.r, nil); err != nil || resp.StatusCode != 101 {
				t.Fatalf("got %v (%v), want 101", resp, err)
			}
			got := make([]byte, len(frame))
			if _, err := io.ReadFull(c.r, got); string(got) != frame {
				t.Errorf("got %q (%v), want the frame", got, err)
			}
			c.Close()

			c = newTalk(open(t))
			c.send(t, getRequest("/a/1"), getRequest("/ended/1"), getRequest("/a/2"))
			check(c, "/a/1")
			if resp := c.wants(t, 410, "gone"); !resp.Close {
				t.Error("http_respond keeps the connection")
			}
			c.ends(t)
		})
	}
}

// Requests of one connection, one after the other to the same server, take one connection
// to it.
func TestRelayKeptUpstream(t *testing.T) {
	a := startKept(t, "a")
	address := freeport.Address(t)
	startQuiet(t, layer4Caddyfile(address, "route {\n relay "+a.address+" {\n upstream_keepalive 1m\n }\n}"))
	c := newTalk(dial(t, address))
	for i := range 100 {
		c.send(t, getRequest(fmt.Sprint("/", i)))
		c.wants(t, 200, fmt.Sprintf("a 1 GET /%d ", i))
	}
	if n := a.connections.Load(); n != 1 {
		t.Errorf("got %d connections to the server, want 1", n)
	}
}

// A scheme such as NTLM knows the client by its connection: nobody else gets it.
func TestRelayKeptAuthentication(t *testing.T) {
	up := backend(t, func(conn net.Conn) {
		who := ""
		for r := bufio.NewReader(conn); ; {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			scheme, word, _ := strings.Cut(request.Header.Get("Authorization"), " ")
			switch {
			case who != "":
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(who), who)
			case scheme != "NTLM":
				_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n")
			case word == "hello":
				_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM challenge\r\nContent-Length: 0\r\n\r\n")
			default:
				who = word
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		}
	})
	address := freeport.Address(t)
	startQuiet(t, layer4Caddyfile(address, "route {\n relay "+up+" {\n upstream_keepalive 1m\n }\n}"))
	var clients []*talk
	for i := range 8 {
		c := newTalk(dial(t, address))
		c.send(t, getRequest("/"))
		c.wants(t, 401, "")
		c.send(t, getRequest("/", "Authorization: NTLM hello"))
		if resp := c.wants(t, 401, ""); resp.Header.Get("WWW-Authenticate") != "NTLM challenge" {
			t.Errorf("got %q, want the challenge", resp.Header.Get("WWW-Authenticate"))
		}
		c.send(t, getRequest("/", fmt.Sprint("Authorization: NTLM client", i)))
		c.wants(t, 200, "")
		clients = append(clients, c)
	}
	for range 20 {
		for i, c := range clients {
			c.send(t, getRequest("/"))
			if _, got := c.get(t); got != fmt.Sprint("client", i) {
				t.Errorf("client %d is taken for %q", i, got)
			}
		}
	}
	stranger := newTalk(dial(t, address))
	stranger.send(t, getRequest("/"))
	stranger.wants(t, 401, "")
}

// An upstream that closes kept connections when it likes is not the client's affair, if its
// request may be repeated.
func TestRelayKeptUpstreamCloses(t *testing.T) {
	var n atomic.Int64
	up := backend(t, func(conn net.Conn) {
		for r := bufio.NewReader(conn); ; {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(request.Body)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(request.RequestURI)+len(body), request.RequestURI+string(body))
			switch n.Add(1) % 5 {
			case 0:
				return
			case 1:
				_ = conn.(*net.TCPConn).SetLinger(0)
				return
			case 2: // it takes the next request, and closes
				_, _ = r.Peek(1)
				return
			}
		}
	})
	address := freeport.Address(t)
	startQuiet(t, layer4Caddyfile(address, "route {\n relay "+up+"\n}"))
	var wg sync.WaitGroup
	for range 4 {
		c := newTalk(dial(t, address))
		wg.Go(func() {
			defer c.Close()
			for i := range 200 {
				target := fmt.Sprint("/", i)
				if _, err := io.WriteString(c, getRequest(target)); err != nil {
					t.Errorf("%s: %v", target, err)
					return
				}
				resp, err := http.ReadResponse(c.r, nil)
				if err != nil {
					t.Errorf("%s: %v", target, err)
					return
				}
				content, err := io.ReadAll(resp.Body)
				if resp.StatusCode != 200 || string(content) != target || err != nil || resp.Close {
					t.Errorf("%s: got %s %q (%v)", target, resp.Status, content, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A POST is sent once. If the kept connection dies under it, the client is told.
func TestRelayKeptPostIsNotRepeated(t *testing.T) {
	var posts atomic.Int64
	up := backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if request.Method == http.MethodPost {
				posts.Add(1)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	address := freeport.Address(t)
	startQuiet(t, layer4Caddyfile(address, "route {\n relay "+up+"\n}"))
	for i := range int64(10) {
		c := newTalk(dial(t, address))
		c.send(t, getRequest("/"))
		c.wants(t, 200, "")
		c.send(t, head("POST / HTTP/1.1", "Host: a.example", "Content-Length: 5")+"hello")
		if resp := c.wants(t, 502, ""); !resp.Close {
			t.Error("the connection is kept after 502")
		}
		c.ends(t)
		if got := posts.Load(); got != i+1 {
			t.Fatalf("the server has seen %d of %d requests", got, i+1)
		}
	}
}

// An idle kept connection takes no place under max_connections.
func TestRelayKeptTakesNoPlace(t *testing.T) {
	a := startKept(t, "a")
	address := freeport.Address(t)
	startQuiet(t, layer4Caddyfile(address, "route {\n relay {\n upstream "+a.address+" {\n max_connections 1\n }\n upstream_keepalive 1m\n }\n}"))
	clients := make([]*bufio.ReadWriter, 5)
	for range 3 {
		for i := range clients {
			// A place is free when the last byte of its response has been sent, which is a
			// moment before this process knows.
			eventually(t, "free place after the client before", func() bool {
				if clients[i] == nil {
					conn := dial(t, address)
					clients[i] = bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
				}
				_, _ = clients[i].WriteString(getRequest("/1"))
				_ = clients[i].Flush()
				resp, err := http.ReadResponse(clients[i].Reader, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.Close {
					clients[i] = nil
				}
				return resp.StatusCode == http.StatusOK
			})
		}
	}
}

// A request that is repeated, or that needs a fresh connection, has one place, not two.
func TestRelayKeptTakesOnePlace(t *testing.T) {
	closing := backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		_, _ = http.ReadRequest(r) // and no answer to that
	})
	relayed := func(t *testing.T, up string) *talk {
		address := freeport.Address(t)
		startQuiet(t, layer4Caddyfile(address, "route {\n relay {\n upstream "+up+" {\n max_connections 1\n }\n upstream_keepalive 1m\n }\n}"))
		return newTalk(dial(t, address))
	}
	t.Run("repeated", func(t *testing.T) {
		c := relayed(t, closing)
		for range 5 {
			c.send(t, getRequest("/"))
			c.wants(t, 200, "")
		}
	})
	t.Run("on a fresh connection", func(t *testing.T) {
		a := startKept(t, "a")
		c := relayed(t, a.address)
		for i := range 2 {
			c.send(t, getRequest("/"))
			c.wants(t, 200, fmt.Sprintf("a %d GET", i+1))
			time.Sleep(1100 * time.Millisecond) // more does no harm
			c.send(t, head("POST / HTTP/1.1", "Host: a", "Content-Length: 1")+"x")
			c.wants(t, 200, fmt.Sprintf("a %d POST", i+2))
		}
	})
}

// A policy that decides by the head is asked anew for each request.
func TestRelayKeptPolicies(t *testing.T) {
	var addresses []string
	for i := range 3 {
		addresses = append(addresses, startKept(t, fmt.Sprint("server", i)).address)
	}
	for policy, request := range map[string]func(i int) string{
		"header X-Key": func(i int) string { return getRequest("/", fmt.Sprint("X-Key: ", i)) },
		"uri_hash":     func(i int) string { return getRequest(fmt.Sprint("/", i)) },
		"cookie key":   func(i int) string { return getRequest("/", fmt.Sprint("Cookie: key=", i)) },
	} {
		t.Run(policy, func(t *testing.T) {
			address := freeport.Address(t)
			startQuiet(t, layer4Caddyfile(address, "route {\n relay "+strings.Join(addresses, " ")+" {\n lb_policy "+policy+"\n }\n}"))
			first := make(map[int]string)
			seen := make(map[string]bool)
			for range 2 {
				c := newTalk(dial(t, address))
				for range 3 {
					for i := range 20 {
						c.send(t, request(i))
						_, content := c.get(t)
						name, _, _ := strings.Cut(content, " ")
						if seen[name] = true; first[i] == "" {
							first[i] = name
						}
						if first[i] != name {
							t.Errorf("%d went to %s, then to %s", i, first[i], name)
						}
					}
				}
			}
			if len(seen) != 3 {
				t.Errorf("one connection has reached %v, want all three", seen)
			}
		})
	}
}

// What handlers make of a request, and placeholders, are those of the request.
func TestRelayKeptHandlers(t *testing.T) {
	address := freeport.Address(t)
	startQuiet(t, layer4Caddyfile(address, `
		@throttled http_request path /throttled/*
		route @throttled {
			throttle {
				read_bytes_per_second 1000000
			}
			relay `+headBackend(t)+`
		}
		route {
			rewrite_head {
				strip_prefix /x
				header X-Path {l4.http.path}
			}
			relay `+headBackend(t)+`
		}
	`))
	c := newTalk(dial(t, address))
	for i := range 20 {
		c.send(t, getRequest(fmt.Sprint("/x/", i)))
		if _, got := c.get(t); got != head(fmt.Sprintf("GET /%d HTTP/1.1", i), "Host: a.example", fmt.Sprint("X-Path: /x/", i)) {
			t.Errorf("the server got %q", got)
		}
		target := fmt.Sprint("/throttled/", i)
		c.send(t, getRequest(target))
		if _, got := c.get(t); got != getRequest(target) {
			t.Errorf("the server got %q", got)
		}
	}
}

// Limits between two requests: the next head that is never complete, silence, and a client
// that sends and never reads.
func TestRelayKeptLimits(t *testing.T) {
	a := startKept(t, "a")
	// Each limit alone: with another one, a client that is slow to go on would meet that first.
	hasty, silent, deaf := freeport.Address(t), freeport.Address(t), freeport.Address(t)
	limited := func(address, inspect, relay string) string {
		return address + " {\n route {\n inspect {\n" + inspect + "\nroute {\n relay " + a.address + " {\n" + relay + "\n}\n}\n}\n}\n}\n"
	}
	startQuiet(t, "{\n layer4 {\n"+limited(hasty, "timeout 300ms", "keepalive 1h")+limited(silent, "", "keepalive 300ms")+limited(deaf, "", "idle_timeout 500ms")+"}\n}")
	t.Run("half a head", func(t *testing.T) {
		c := newTalk(dial(t, hasty))
		c.send(t, getRequest("/1"))
		c.wants(t, 200, "a ")
		c.send(t, "GET /2 HTTP/1.1\r\nHost")
		if resp := c.wants(t, 408, ""); !resp.Close {
			t.Error("the connection is kept after 408")
		}
		c.ends(t)
	})
	t.Run("silence", func(t *testing.T) {
		c := newTalk(dial(t, silent))
		c.send(t, getRequest("/1"))
		c.wants(t, 200, "a ")
		c.ends(t)
	})
	t.Run("never reads", func(t *testing.T) {
		conn := dial(t, deaf)
		for request, sent := []byte(getRequest("/"+strings.Repeat("x", 4000))), 0; ; sent += len(request) {
			if _, err := conn.Write(request); err != nil {
				if !isReset(err) && !strings.Contains(err.Error(), "broken pipe") {
					t.Errorf("after %d bytes: %v, want the end", sent, err)
				}
				return
			}
			if sent > 1<<30 {
				t.Fatal("it takes requests for ever")
			}
		}
	})
}

// An upstream that is not available any more gets no next request, whoever has a kept
// connection to it.
func TestRelayKeptUnhealthyUpstream(t *testing.T) {
	first, second := startKept(t, "first"), startKept(t, "second")
	check := freeport.Address(t)
	ln, err := net.Listen("tcp", check)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(check)
	address := freeport.Address(t)
	startQuiet(t, layer4Caddyfile(address, `
		route {
			relay `+first.address+` `+second.address+` {
				upstream_keepalive 1m
				lb_policy first
				health_interval 20ms
				health_port `+port+`
			}
		}
	`))
	c := newTalk(dial(t, address))
	c.send(t, getRequest("/1"))
	c.wants(t, 200, "first 1 ")
	ln.Close()
	eventually(t, "refusal", func() bool {
		c := newTalk(dial(t, address))
		defer c.Close()
		c.send(t, getRequest("/2", "Connection: close"))
		resp, _ := c.get(t)
		return resp.StatusCode == 503
	})
	c.send(t, getRequest("/3"))
	c.wants(t, 503, "")
}

// A reload closes connections that wait, and others after the response under way.
func TestRelayKeptReload(t *testing.T) {
	asked, letGo := make(chan struct{}), make(chan struct{})
	arrived, answer := sync.OnceFunc(func() { close(asked) }), sync.OnceFunc(func() { close(letGo) })
	slow := backend(t, func(conn net.Conn) {
		for r := bufio.NewReader(conn); ; {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if request.URL.Path == "/slow" {
				arrived()
				<-letGo
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	t.Cleanup(answer) // before the backend, which waits for it
	address := freeport.Address(t)
	config := func(keepalive string) string {
		return layer4Caddyfile(address, "route {\n relay "+slow+" {\n keepalive "+keepalive+"\n }\n}")
	}
	s := startQuiet(t, config("1h"))
	waits, busy := newTalk(dial(t, address)), newTalk(dial(t, address))
	for _, c := range []*talk{waits, busy} {
		c.send(t, getRequest("/"))
		c.wants(t, 200, "ok")
	}
	busy.send(t, getRequest("/slow"))
	await(t, "the slow request", asked)
	if err := s.load(config("2h")); err != nil {
		t.Fatal(err)
	}
	waits.ends(t)
	answer()
	if resp := busy.wants(t, 200, "ok"); !resp.Close {
		t.Error("the response after a reload keeps the connection")
	}
	busy.ends(t)
}

// Reloads under load lose no request: a client repeats one only on a kept connection that
// was closed before the first byte of the response, as RFC 9110 section 9.2.2 allows.
func TestRelayKeptReloadUnderLoad(t *testing.T) {
	a := startKept(t, "a")
	address := freeport.Address(t)
	config := func(i int) string {
		return layer4Caddyfile(address, fmt.Sprintf("route {\n relay %s {\n keepalive %dh\n }\n}", a.address, i+1))
	}
	s := startQuiet(t, config(0))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var done atomic.Int64
	for range 4 {
		wg.Go(func() {
			var c *talk
			for i, fresh := 0, true; ; {
				select {
				case <-stop:
					return
				default:
				}
				if c == nil {
					conn, err := net.Dial("tcp", address)
					if err != nil {
						continue
					}
					_ = conn.SetDeadline(time.Now().Add(patience))
					c, fresh = newTalk(conn), true
				}
				target := fmt.Sprint("/", i)
				_, err := io.WriteString(c, getRequest(target))
				if err == nil {
					_, err = c.r.Peek(1)
				}
				if err != nil {
					c.Close()
					c = nil
					if fresh && !isReset(err) { // a reset one may have waited in a socket that was closed
						t.Errorf("%s on a new connection: %v", target, err)
						return
					}
					continue
				}
				resp, err := http.ReadResponse(c.r, nil)
				if err != nil {
					t.Errorf("%s: %v", target, err)
					return
				}
				content, err := io.ReadAll(resp.Body)
				if resp.StatusCode != 200 || !strings.HasSuffix(string(content), " GET "+target+" ") || err != nil {
					t.Errorf("%s: got %s %q (%v)", target, resp.Status, content, err)
					return
				}
				i, fresh = i+1, false
				done.Add(1)
				if resp.Close {
					c.Close()
					c = nil
				}
			}
		})
	}
	for i := range 20 {
		before := done.Load()
		if err := s.load(config(i + 1)); err != nil {
			t.Error(err)
		}
		eventually(t, "responses", func() bool { return done.Load() > before+10 || t.Failed() })
	}
	close(stop)
	wg.Wait()
}

// A process that is told to stop closes connections that wait for their next request at once,
// also while the HTTP app waits for a request.
func TestRelayKeptShutdown(t *testing.T) {
	stopsHere(t)
	for _, engine := range []string{"", "portable"} {
		t.Run("engine "+engine, func(t *testing.T) {
			asked, finish := make(chan struct{}), make(chan struct{})
			arrived, answer := sync.OnceFunc(func() { close(asked) }), sync.OnceFunc(func() { close(finish) })
			slow := backend(t, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				arrived()
				<-finish
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
			})
			t.Cleanup(answer) // before the backend, which waits for it
			a := startKept(t, "a")
			address := freeport.Address(t)
			p := startProcess(t, "{\n admin off\n grace_period 1h\n"+strings.TrimPrefix(layer4Caddyfile(address, "@slow http_request path /slow\nroute @slow {\n http_app web\n}\nroute {\n relay "+a.address+"\n}"), "{")+
				"\nhttp://:80 {\n bind streamprox/web\n reverse_proxy "+slow+"\n}\n", "STREAMPROX_ENGINE="+engine)
			var clients []*talk
			for range 10 {
				c := newTalk(dial(t, address))
				c.send(t, getRequest("/1"))
				c.wants(t, 200, "a ")
				clients = append(clients, c)
			}
			busy := newTalk(dial(t, address))
			busy.send(t, getRequest("/slow"))
			await(t, "the slow request", asked)
			p.stop()
			for _, c := range clients {
				c.ends(t)
			}
			if p.hasExited() {
				t.Fatalf("caddy exited with %v under a request", p.err)
			}
			answer()
			busy.wants(t, 200, "slow")
			p.exits()
		})
	}
}
