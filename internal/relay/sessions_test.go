package relay

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// keeper is the owner of a session that forwards each request to the same upstream as long
// as that is kept, and otherwise begins another session with a fresh connection to it. It
// is what the relay handler does, without routes.
type keeper struct {
	t        *testing.T
	streams  *Registry
	engine   Engine
	dial     func() net.Conn
	settings Session // the durations, and Group

	wg        sync.WaitGroup // what Serve and Take have begun
	taken     atomic.Int32
	due       atomic.Value // time.Time: what Take was told last
	forwards  atomic.Int32
	dropped   atomic.Int32
	ended     chan Account
	waits     atomic.Int32
	elsewhere func(data []byte) bool // a request that is not forwarded
	wait      func() time.Time       // until when
	onEnded   func()
	onDropped func()
	refusal   string         // the content of an answer in place of a response
	blank     exchange.Blank // that of each request
}

func newKeeper(t *testing.T, dial func() net.Conn) *keeper {
	t.Helper()
	k := &keeper{t: t, streams: new(Registry), dial: dial, ended: make(chan Account, 1000)}
	k.wait = func() time.Time { return time.Now().Add(time.Hour) }
	k.engine = New(k.streams, nil)
	k.settings = Session{Keepalive: time.Hour, UpstreamKeepalive: time.Hour}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		k.streams.Drain(ctx)
		k.wg.Wait()
	})
	return k
}

// read reads the head of a request.
func (k *keeper) read(data []byte) (request exchange.Request, headLen int, ok bool) {
	var reader httphead.Reader // several sessions may have one owner
	reader.Reset(httphead.Options{})
	switch reader.Read(data) {
	case httphead.HTTP:
	case httphead.More:
		return request, 0, false
	default:
		k.t.Errorf("%q is no request: %v", data, reader.Err())
		return request, 0, false
	}
	forward := httphead.Forward{Upgrades: []string{"websocket"}, Persistent: true}
	request = requestOf(k.t, &forward, &reader, data)
	request.Blank = k.blank
	return request, reader.Len, true
}

// serve begins a session with what the client has sent.
func (k *keeper) serve(client net.Conn, data []byte, upstream net.Conn) {
	data = append([]byte(nil), data...)
	request, headLen, ok := k.read(data)
	for !ok {
		b := make([]byte, 1<<10)
		n, err := client.Read(b)
		if err != nil {
			client.Close()
			return
		}
		data = append(data, b[:n]...)
		request, headLen, ok = k.read(data)
	}
	s := k.settings
	s.Client, s.Upstream, s.Owner = client, upstream, k
	if upstream == nil {
		s.Upstream = k.dial()
	} else {
		s.Reused, s.Received = true, bytes.Clone(data)
	}
	s.Request, s.Pending = request, data[headLen:]
	k.wg.Add(1)
	k.engine.Serve(&s)
}

func (k *keeper) Refusal(status int) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %d Refused\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, len(k.refusal), k.refusal)
}

func (k *keeper) Ended(a Account) {
	if k.onEnded != nil {
		k.onEnded()
	}
	k.ended <- a
}

func (k *keeper) Next(data []byte, kept bool) Next {
	if k.elsewhere != nil && k.elsewhere(data) {
		return Next{Verdict: Elsewhere}
	}
	request, headLen, ok := k.read(data)
	if !ok {
		k.waits.Add(1)
		return Next{Verdict: Wait, Deadline: k.wait()}
	}
	if !kept {
		return Next{Verdict: Elsewhere}
	}
	k.forwards.Add(1)
	return Next{Verdict: Forward, Request: request, HeadLen: headLen, Repeatable: request.Method != "POST"}
}

func (k *keeper) Take(client net.Conn, data []byte, due time.Time, upstream net.Conn, registered func()) {
	k.taken.Add(1)
	k.due.Store(due)
	k.serve(client, data, upstream)
	registered()
}

func (k *keeper) Tunnelled() {}
func (k *keeper) Dropped() {
	if k.dropped.Add(1); k.onDropped != nil {
		k.onDropped()
	}
}

func (k *keeper) Closed() { k.wg.Done() }

// kept begins a session over network with a real HTTP server, and returns the client's end.
func kept(t *testing.T, network string, handler http.Handler, configure func(*keeper)) (client net.Conn, k *keeper) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	k = newKeeper(t, func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Error(err)
		}
		return c
	})
	if configure != nil {
		configure(k)
	}
	near, client := connect(t, network)
	t.Cleanup(func() { client.Close() })
	go k.serve(near, nil, nil)
	return client, k
}

// ask sends a request and returns the content of its response.
func ask(t *testing.T, client net.Conn, r *bufio.Reader, method, path, body string) (content string, response *http.Response) {
	t.Helper()
	request, _ := http.NewRequest(method, "http://h"+path, strings.NewReader(body))
	if err := request.Write(client); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return answerOf(t, r, request)
}

func answerOf(t *testing.T, r *bufio.Reader, request *http.Request) (string, *http.Response) {
	t.Helper()
	response, err := http.ReadResponse(r, request)
	if err != nil {
		t.Fatalf("%s: %v", request.URL.Path, err)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s: %v", request.URL.Path, err)
	}
	return string(content), response
}

// site answers with what it was asked.
var site = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	switch r.URL.Path {
	case "/chunked":
		for i := range 3 {
			fmt.Fprintf(w, "piece %d", i)
			w.(http.Flusher).Flush()
		}
	case "/none":
		w.WriteHeader(http.StatusNoContent)
	case "/close":
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, "last")
	default:
		fmt.Fprintf(w, "%s %s %s %d", r.Method, r.URL.Path, r.RemoteAddr, len(body))
	}
})

// TestSessionKeeps sends many requests of all kinds on one connection: the upstream gets
// them on one of its own.
func TestSessionKeeps(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			client, k := kept(t, network, site, nil)
			r := bufio.NewReader(client)
			from := ""
			for i := range 20 {
				for _, test := range []struct{ method, path, body, want string }{
					{"GET", "/a", "", "GET /a"},
					{"POST", "/b", strings.Repeat("x", 10+i*100), "POST /b"},
					{"PUT", "/c", strings.Repeat("y", 100_000), "PUT /c"},
					{"GET", "/chunked", "", "piece 0piece 1piece 2"},
					{"GET", "/none", "", ""},
					{"HEAD", "/d", "", ""},
				} {
					got, response := ask(t, client, r, test.method, test.path, test.body)
					if !strings.HasPrefix(got, test.want) || response.Close {
						t.Fatalf("%s %s: got %q, close %v", test.method, test.path, got, response.Close)
					}
					if fields := strings.Fields(got); test.want != "" && fields[0] == test.method {
						if from == "" {
							from = fields[2]
						}
						if fields[2] != from || fields[3] != fmt.Sprint(len(test.body)) {
							t.Fatalf("got %q, want it from %s with %d bytes", got, from, len(test.body))
						}
					}
					if a := <-k.ended; a.Cause != Finished {
						t.Fatalf("%s: cause %v %v", test.path, a.Cause, a.Err)
					}
				}
			}
			if k.taken.Load() != 0 || k.forwards.Load() != 119 {
				t.Errorf("taken %d times, forwarded %d, want 0 and 119", k.taken.Load(), k.forwards.Load())
			}
			client.Close()
		})
	}
}

// TestSessionPipelined sends requests without waiting for their responses.
func TestSessionPipelined(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		for _, piece := range []int{1, 7, 1000, 1 << 20} {
			t.Run(fmt.Sprintf("%s, %d", network, piece), func(t *testing.T) {
				client, _ := kept(t, network, site, nil)
				var all strings.Builder
				const requests = 30
				for i := range requests {
					fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", i)
				}
				go func() {
					for in := all.String(); in != ""; {
						n := min(piece, len(in))
						if _, err := io.WriteString(client, in[:n]); err != nil {
							return
						}
						in = in[n:]
					}
					_ = client.(closeWriter).CloseWrite()
				}()
				r := bufio.NewReader(client)
				for i := range requests {
					request, _ := http.NewRequest("POST", fmt.Sprintf("http://h/%d", i), nil)
					got, _ := answerOf(t, r, request)
					if want := fmt.Sprintf("POST /%d ", i); !strings.HasPrefix(got, want) {
						t.Fatalf("got %q, want %q", got, want)
					}
				}
				if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
					t.Errorf("after the responses: got %q and error %v, want the end", rest, err)
				}
			})
		}
	}
}

// TestSessionUpstreamCloses: an upstream may close its connection whenever it likes between
// two requests. The client does not notice.
func TestSessionUpstreamCloses(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			client, k := kept(t, network, site, nil)
			r := bufio.NewReader(client)
			for i := range 5 {
				if got, response := ask(t, client, r, "GET", "/close", ""); got != "last" || response.Close {
					t.Fatalf("got %q, close %v", got, response.Close)
				}
				if got, _ := ask(t, client, r, "POST", fmt.Sprint("/", i), "abc"); !strings.HasPrefix(got, fmt.Sprint("POST /", i)) {
					t.Fatalf("got %q", got)
				}
			}
			if got := k.taken.Load(); got != 5 {
				t.Errorf("taken %d times, want 5", got)
			}
		})
	}
}

// dyingServer accepts connections and answers the first request on each; it then waits for
// the second one, and closes the connection without an answer.
func dyingServer(t *testing.T) (dial func() net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				r := bufio.NewReader(c)
				request, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, request.Body)
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(request.URL.Path), request.URL.Path)
				_, _ = r.ReadByte()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Error(err)
		}
		return c
	}
}

// TestSessionRepeats: a request that may be repeated goes on a fresh connection if the
// upstream closes the kept one without an answer. One that may not is answered with 502.
func TestSessionRepeats(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			k := newKeeper(t, dyingServer(t))
			near, client := connect(t, network)
			go k.serve(near, nil, nil)
			r := bufio.NewReader(client)
			for i := range 5 {
				path := fmt.Sprint("/", i)
				if got, _ := ask(t, client, r, "GET", path, ""); got != path {
					t.Fatalf("got %q, want %q", got, path)
				}
			}
			if got := k.taken.Load(); got != 4 {
				t.Errorf("sent once more: %d, want 4", got)
			}
			if _, response := ask(t, client, r, "POST", "/post", "abc"); response.StatusCode != 502 {
				t.Errorf("POST: got %s, want 502", response.Status)
			}
			client.Close()
		})
	}
}

// TestSessionElsewhere: a request that is not the upstream's is handed over with all its
// bytes, and the upstream's connection, if it is kept, with it.
func TestSessionElsewhere(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			client, k := kept(t, network, site, func(k *keeper) {
				k.elsewhere = func(data []byte) bool { return strings.HasPrefix(string(data), "GET /else") }
			})
			r := bufio.NewReader(client)
			var from string
			for i := range 6 {
				path := []string{"/here", "/elsewhere"}[i%2]
				got, _ := ask(t, client, r, "GET", path, "")
				fields := strings.Fields(got)
				if len(fields) != 4 || fields[1] != path || from != "" && fields[2] != from {
					t.Fatalf("got %q, want %s from %s", got, path, from)
				}
				from = fields[2]
			}
			if got := k.taken.Load(); got != 3 {
				t.Errorf("taken %d times, want 3", got)
			}
			if due := k.due.Load().(time.Time); !due.IsZero() {
				t.Errorf("a request that has come was due at %v", due)
			}
		})
	}
}

// TestSessionRetires: a session that waits ends at once, and one with a request under way
// after it.
func TestSessionRetires(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			entered, leave := make(chan struct{}), make(chan struct{})
			client, k := kept(t, network, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(entered)
					<-leave
				}
				fmt.Fprint(w, "done")
			}), nil)
			r := bufio.NewReader(client)
			ask(t, client, r, "GET", "/", "")
			request, _ := http.NewRequest("GET", "http://h/slow", nil)
			_ = request.Write(client)
			<-entered
			k.streams.Retire(nil)
			close(leave)
			if got, response := answerOf(t, r, request); got != "done" || !response.Close {
				t.Errorf("got %q, close %v, want the response and the end", got, response.Close)
			}
			receivesEnd(t, client)

			client, k = kept(t, network, site, nil)
			r = bufio.NewReader(client)
			ask(t, client, r, "GET", "/", "")
			<-k.ended
			k.streams.Retire(nil)
			receivesEnd(t, client)
		})
	}
}

// TestSessionWaits checks for how long connections are kept.
func TestSessionWaits(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			client, k := kept(t, network, site, func(k *keeper) { k.settings.UpstreamKeepalive = time.Millisecond })
			r := bufio.NewReader(client)
			ask(t, client, r, "GET", "/", "")
			for begin := time.Now(); k.dropped.Load() == 0; time.Sleep(time.Millisecond) {
				if time.Since(begin) > patience {
					t.Fatal("the upstream's connection is kept for ever")
				}
			}
			if got, _ := ask(t, client, r, "GET", "/again", ""); !strings.HasPrefix(got, "GET /again") {
				t.Errorf("got %q", got)
			}

			client, _ = kept(t, network, site, func(k *keeper) { k.settings.Keepalive = time.Millisecond })
			ask(t, client, bufio.NewReader(client), "GET", "/", "")
			receivesEnd(t, client)
		})
	}
}

// TestSessionTunnel: an upgrade on a connection that has carried requests before.
func TestSessionTunnel(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			client, k := kept(t, network, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") == "" {
					fmt.Fprint(w, "page")
					return
				}
				c, rw, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				_, _ = io.WriteString(c, switching)
				_, _ = io.Copy(c, rw)
			}), nil)
			r := bufio.NewReader(client)
			if got, _ := ask(t, client, r, "GET", "/", ""); got != "page" {
				t.Fatalf("got %q", got)
			}
			send(t, client, upgradeGet+"early")
			receivesFrom(t, r, switching+"early")
			send(t, client, "late")
			receivesFrom(t, r, "late")
			closeWrite(t, client)
			if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
				t.Errorf("got %q and error %v, want the end", rest, err)
			}
			if a := <-k.ended; a.Engine != "http" || a.Cause != Finished {
				t.Errorf("the page: got %+v", a)
			}
			if a := <-k.ended; a.Engine == "http" || a.ToUpstream == 0 || a.Cause != Finished {
				t.Errorf("the tunnel: got %+v", a)
			}
		})
	}
}

func receivesFrom(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q and error %v, want %q", got[:n], err, want)
	}
}
