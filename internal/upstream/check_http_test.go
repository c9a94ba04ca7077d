package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"github.com/pires/go-proxyproto"
)

// httpChecks returns health checks that ask by HTTP, and do not run by themselves: their
// interval is an hour, and the first one has been.
func httpChecks(uri string, change func(*HTTPCheck)) *HealthChecks {
	parsed, err := url.ParseRequestURI(uri)
	if err != nil {
		panic(err)
	}
	check := &HTTPCheck{Method: "GET", URI: parsed, MaxSize: 1000}
	if change != nil {
		change(check)
	}
	return &HealthChecks{HTTP: check, Interval: time.Hour, Timeout: 20 * time.Second, Rise: 1, Fall: 1}
}

// probed returns what a check of an upstream finds.
func probed(t *testing.T, config *l4proxy.Upstream, options Options) error {
	t.Helper()
	options.Servers = l4proxy.UpstreamPool{config}
	checks := options.HealthChecks
	options.HealthChecks = nil
	p := newTestPool(t, options)
	p.options.HealthChecks = checks
	s := p.servers[0]
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := s.setCheck(ctx, &p.options); err != nil {
		t.Fatal(err)
	}
	s.setVerdict(&p.options)
	return p.probe(t.Context(), s)
}

// wants tests an error against a part of it; "": none.
func wants(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestHTTPCheck(t *testing.T) {
	content := func(expect string) func(*HTTPCheck) {
		return func(c *HTTPCheck) { c.Content = regexp.MustCompile(expect) }
	}
	status := func(status int) func(*HTTPCheck) { return func(c *HTTPCheck) { c.Status = status } }
	for _, test := range []struct {
		name, uri string
		change    func(*HTTPCheck)
		want      string
	}{
		{"200", "/200", nil, ""},
		{"204", "/204", nil, ""},
		{"301", "/301", nil, "status 301"},
		{"404", "/404", nil, "status 404"},
		{"503", "/503", nil, "status 503"},
		{"one status", "/503", status(503), ""},
		{"another status", "/200", status(204), "status 200"},
		{"class", "/404", status(4), ""},
		{"another class", "/404", status(5), "status 404"},
		{"content", "/200?say=ready", content("^read"), ""},
		{"other content", "/200?say=starting", content("^read"), "does not match"},
		{"content beyond the limit", "/200?say=" + strings.Repeat("x", 1000) + "ready", content("ready"), "does not match"},
		{"content up to the limit", "/200?say=" + strings.Repeat("x", 995) + "ready", content("ready"), ""},
		{"early hints", "/hints", content("late"), ""},
		{"method, fields and content", "/echo", func(c *HTTPCheck) {
			c.Method, c.Body = "POST", `{"a":1}`
			c.Header = http.Header{"Host": {"db.example"}, "X-Target": {"to {http.reverse_proxy.active.target_upstream}"}}
			c.Content = regexp.MustCompile(`^POST db\.example to 127\.0\.0\.1:\d+ {"a":1}$`)
		}, ""},
		{"escaped path and query", "/echo%2Fed?a=%20", content(`/echo%2Fed\?a=%20`), ""},
		{"HEAD", "/200?say=x", func(c *HTTPCheck) { c.Method, c.Content = "HEAD", regexp.MustCompile("^$") }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(answerCheck))
			defer server.Close()
			wants(t, probed(t, &l4proxy.Upstream{Dial: []string{server.Listener.Addr().String()}},
				Options{HealthChecks: httpChecks(test.uri, test.change)}), test.want)
		})
	}
}

// answerCheck answers with the status that the path says.
func answerCheck(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/hints":
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "late")
	case r.URL.Path == "/echo":
		content, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.Header.Get("X-Target"), content)
	case strings.HasPrefix(r.URL.Path, "/echo"):
		_, _ = io.WriteString(w, r.RequestURI)
	default:
		status, _ := strconv.Atoi(r.URL.Path[1:])
		w.Header().Set("Location", "/200")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, r.FormValue("say"))
	}
}

// TestHTTPCheckOverTLS: a check is as the streams are, with TLS or without, unless its port is
// one of tls_except_ports.
func TestHTTPCheckOverTLS(t *testing.T) {
	secure := httptest.NewTLSServer(http.HandlerFunc(answerCheck))
	defer secure.Close()
	plain := httptest.NewServer(http.HandlerFunc(answerCheck))
	defer plain.Close()
	port := func(s *httptest.Server) int { return s.Listener.Addr().(*net.TCPAddr).Port }
	tls := func(except ...*httptest.Server) *reverseproxy.TLSConfig {
		config := &reverseproxy.TLSConfig{InsecureSkipVerify: true}
		for _, s := range except {
			config.ExceptPorts = append(config.ExceptPorts, strconv.Itoa(port(s)))
		}
		return config
	}
	for _, test := range []struct {
		name    string
		to, via *httptest.Server
		tls     *reverseproxy.TLSConfig
		want    string
	}{
		{"TLS", secure, nil, tls(), ""},
		{"certificate that nobody knows", secure, nil, new(reverseproxy.TLSConfig), "certificate"},
		{"TLS where there is none", plain, nil, tls(), "TLS handshake"},
		{"no TLS where there is some", secure, nil, nil, "status 400"},
		{"another port", plain, secure, tls(), ""},
		{"another port without TLS", secure, plain, tls(plain), ""},
		{"another port, which alone has TLS", plain, secure, tls(plain), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			checks := httpChecks("/200", nil)
			if test.via != nil {
				checks.Port = port(test.via)
			}
			wants(t, probed(t, &l4proxy.Upstream{Dial: []string{test.to.Listener.Addr().String()}, TLS: test.tls}, Options{HealthChecks: checks}), test.want)
		})
	}
}

func TestHTTPCheckOfASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(answerCheck)}}
	server.Start()
	defer server.Close()
	checks := httpChecks("/echo", func(c *HTTPCheck) { c.Content = regexp.MustCompile("^GET localhost ") })
	checks.Port = 9 // a socket has none
	wants(t, probed(t, &l4proxy.Upstream{Dial: []string{"unix/" + path}}, Options{HealthChecks: checks}), "")
}

// TestHTTPCheckWithProxyProtocol: a check of the upstream's own port begins as streams do, with
// a header that names nobody. One of another port does not.
func TestHTTPCheckWithProxyProtocol(t *testing.T) {
	for version := byte(0); version <= 2; version++ {
		for _, own := range []bool{true, false} {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			seen := make(chan *proxyproto.Header, 1)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				r := bufio.NewReader(conn)
				header, _ := proxyproto.Read(r)
				seen <- header
				if _, err := http.ReadRequest(r); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
				}
			}()
			checks := httpChecks("/", nil)
			to := ln.Addr().String()
			if !own {
				checks.Port = ln.Addr().(*net.TCPAddr).Port
				to = closedPort(t)
			}
			wants(t, probed(t, &l4proxy.Upstream{Dial: []string{to}}, Options{HealthChecks: checks, ProxyProtocol: version}), "")
			header := <-seen
			if (header != nil) != (own && version > 0) || header != nil && (header.Version != version || !header.Command.IsLocal() && version == 2 || header.TransportProtocol != proxyproto.UNSPEC) {
				t.Errorf("version %d, own port %t: got %+v", version, own, header)
			}
			ln.Close()
			<-ended
		}
	}
}

// TestHTTPCheckIsBounded: what an upstream sends costs no more than the limits, and no more
// time than the check has.
func TestHTTPCheckIsBounded(t *testing.T) {
	ready := func(c *HTTPCheck) { c.Content = regexp.MustCompile("ready") }
	forever := func(s string) func(net.Conn, func()) {
		return func(conn net.Conn, _ func()) {
			chunk := []byte(strings.Repeat(s, 1000))
			for {
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		}
	}
	for _, test := range []struct {
		name, begin string
		rest        func(conn net.Conn, giveUp func())
		change      func(*HTTPCheck)
		want        string
	}{
		{"no end of the line", "", forever("x"), nil, "longer than"},
		{"no end of the head", "HTTP/1.1 200 OK\r\n", forever("X: y\r\n"), nil, "longer than"},
		{"no end of responses", "", forever("HTTP/1.1 100 Continue\r\n\r\n"), nil, "longer than"},
		{"10 GB that nobody asks for", "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", forever("x"), nil, ""},
		{"10 GB", "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", forever("x"), ready, "does not match"},
		{"no end", "HTTP/1.1 200 OK\r\n\r\n", forever("x"), ready, "does not match"},
		{"no end of chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", forever("1\r\nx\r\n"), ready, "does not match"},
		{"chunks with more around them than in them", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", forever("1;" + strings.Repeat("y", 200) + "\r\nx\r\n"), ready, "reading the content"},
		{"nothing", "", func(_ net.Conn, giveUp func()) { giveUp() }, nil, "timeout"},
		{"half a head", "HTTP/1.1 200 OK\r\n", func(_ net.Conn, giveUp func()) { giveUp() }, nil, "timeout"},
		{"half the content", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nrea", func(_ net.Conn, giveUp func()) { giveUp() }, ready, "timeout"},
		{"end before the head", "HTTP/1.1 200", func(conn net.Conn, _ func()) { conn.Close() }, nil, "unexpected EOF"},
		{"end before the content's", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nready", func(conn net.Conn, _ func()) { conn.Close() }, ready, "unexpected EOF"},
		{"no HTTP", "220 smtp.example ESMTP\r\n", func(conn net.Conn, _ func()) { conn.Close() }, nil, "reading the answer"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nready", func(conn net.Conn, _ func()) { conn.Close() }, ready, "reading the answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{ln.Addr().String()}}}})
			p.options.HealthChecks = httpChecks("/", test.change)
			ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
			defer cancel()
			s := p.servers[0]
			if err := s.setCheck(ctx, &p.options); err != nil {
				t.Fatal(err)
			}
			s.setVerdict(&p.options)
			checking, giveUp := context.WithCancel(t.Context())
			defer giveUp()
			var sent atomic.Int64
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				_, _ = io.WriteString(conn, test.begin)
				counted := &countingConn{Conn: conn, written: &sent}
				test.rest(counted, giveUp)
				_, _ = io.Copy(io.Discard, conn)
			}()
			wants(t, p.probe(checking, s), test.want)
			ln.Close()
			<-ended // the upstream has seen the end of the connection
			if n := sent.Load(); n > 32<<20 {
				t.Errorf("%d bytes went to a check", n)
			}
		})
	}
}

// countingConn counts what is written.
type countingConn struct {
	net.Conn
	written *atomic.Int64
}

func (c *countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// TestVerdicts: servers whose checks ask the same share what these say, the next configuration
// too. Others do not. What checks find that only connect holds for all.
func TestVerdicts(t *testing.T) {
	const address = "127.0.0.1:9"
	open := func(checks *HealthChecks) (*Pool, *Server) {
		if checks != nil {
			checks.Timeout, checks.Fall, checks.Rise = 20*time.Second, 1, 1
		}
		p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{address}}}})
		p.options.HealthChecks = checks
		s := p.servers[0]
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		t.Cleanup(cancel)
		if err := s.setCheck(ctx, &p.options); err != nil {
			t.Fatal(err)
		}
		if s.setVerdict(&p.options); s.verdict != nil {
			s.verdict.watch()
		}
		return p, s
	}
	_, write := open(httpChecks("/primary", nil))
	_, again := open(httpChecks("/primary", nil))
	_, read := open(httpChecks("/replica", nil))
	_, field := open(httpChecks("/primary", func(c *HTTPCheck) { c.Header = http.Header{"X": {"y"}} }))
	_, none := open(nil)
	_, connect := open(&HealthChecks{})

	check := func(when string, want ...*Server) {
		t.Helper()
		for _, s := range []*Server{write, again, read, field, none, connect} {
			up := false
			for _, other := range want {
				up = up || s == other
			}
			if s.available() != up || (s.out() == "") != up {
				t.Errorf("%s: %s available %t (%s), want %t", when, s.checkName(), s.available(), s.out(), up)
			}
		}
	}
	check("at first", write, again, read, field, none, connect)
	write.verdict.record(false, 1, 1)
	check("no primary", read, field, none, connect)
	statuses := peerOf("tcp/"+address, write.peer).Checks
	if got := fmt.Sprint(statuses); got != "[{GET /primary false 0 1} {GET /primary true 0 0} {GET /replica true 0 0} {connect true 0 0}]" &&
		got != "[{GET /primary true 0 0} {GET /primary false 0 1} {GET /replica true 0 0} {connect true 0 0}]" {
		t.Errorf("got %s", got)
	}
	if c := Statuses()[address].Checks["GET /primary"]; c.Healthy || c.Downs != 1 {
		t.Errorf("got %+v of both kinds that have one name", c)
	}
	connect.verdict.record(false, 1, 1)
	check("nobody listens")
	connect.verdict.record(true, 1, 1)
	write.verdict.unwatch()
	check("one of two does not check any more", read, field, none, connect)
	again.verdict.unwatch()
	check("nobody checks for a primary", write, again, read, field, none, connect)
	write.verdict.watch()
	again.verdict.watch() // as they are closed later
}

// TestVerdictIsForgotten with the last server that has it.
func TestVerdictIsForgotten(t *testing.T) {
	address := closedPort(t)
	open := func() *Pool {
		return newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{address}}}, HealthChecks: httpChecks("/", nil)})
	}
	first := open()
	s := first.servers[0]
	second := open()
	first.Close()
	if n := len(s.peer.verdicts); n != 1 {
		t.Errorf("got %d verdicts while a pool has one", n)
	}
	second.Close()
	if n := len(s.peer.verdicts); n != 0 {
		t.Errorf("got %d verdicts after the last pool", n)
	}
}
