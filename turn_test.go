package streamprox

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// continuationOf returns that of connections from which an inspect with these routes, in
// JSON, has had a request.
func continuationOf(t *testing.T, routes string) continuation {
	t.Helper()
	h := loadHandler(t, "inspect", `{"routes":[`+routes+`]}`).(*Inspect)
	cx := layer4.WrapConnection(clientConn{}, nil, zap.NewNop())
	return continuation{h, origin{parent: cx}}
}

const (
	chatRoute   = `{"match":[{"http_request":[{"path":["/chat/*"]}]}],"handle":[{"handler":"elsewhere","name":"chat"}]},`
	localRoute  = `{"match":[{"remote_ip":{"ranges":["127.0.0.0/8"]},"http_request":[{"path":["/local/*"]}]}],"handle":[{"handler":"elsewhere","name":"local"}]},`
	eitherRoute = `{"match":[{"remote_ip":{"ranges":["10.0.0.0/8"]}},{"http_request":[{"path":["/either/*"]}]}],"handle":[{"handler":"elsewhere","name":"either"}]},`
	lastRoute   = `{"handle":[{"handler":"elsewhere","name":"last"}]}`
)

// TestLook checks which heads decide their route without a stream, and that a head which
// does not is kept, and goes on when there is a connection.
func TestLook(t *testing.T) {
	for _, test := range []struct {
		name   string
		routes string
		in     string // what is there when the connection is looked at
		rest   string
		sure   bool
		want   string // the first line of the answer's content
	}{
		{"the first route", chatRoute + lastRoute, "GET /chat/1", "", true, "chat GET /chat/1 HTTP/1.1"},
		{"the last route", chatRoute + lastRoute, "GET /", "", true, "last GET / HTTP/1.1"},
		{"no route", chatRoute + chatRoute[:len(chatRoute)-1], "GET /", "", true, ""},
		{"a route before needs a stream", localRoute + lastRoute, "GET /local/1", "", false, "local GET /local/1 HTTP/1.1"},
		{"a route before does not, for another path", localRoute + lastRoute, "GET /", "", true, "last GET / HTTP/1.1"},
		{"a route after would", chatRoute + localRoute + lastRoute, "GET /chat/1", "", true, "chat GET /chat/1 HTTP/1.1"},
		{"a set before needs a stream", eitherRoute + lastRoute, "GET /either/1", "", false, "either GET /either/1 HTTP/1.1"},
		{"half a head", chatRoute + lastRoute, "GET /chat/1 HT", "TP/1.1\r\nHost: h\r\n\r\n", false, "chat GET /chat/1 HTTP/1.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := continuationOf(t, test.routes)
			if test.rest == "" {
				test.in += " HTTP/1.1\r\nHost: h\r\n\r\n"
			}
			buffer := []byte(test.in)
			in, sure := c.look(buffer[:len(buffer):len(buffer)])
			if sure != test.sure {
				t.Errorf("got %v, want %v", sure, test.sure)
			}
			looked := in.route
			in.Own(nil)
			clear(buffer)

			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				in.serve(server)
			}()
			_, _ = io.WriteString(client, test.rest)
			_ = client.(*net.TCPConn).CloseWrite()
			answer, _ := io.ReadAll(client)
			<-done
			_, got, _ := strings.Cut(string(answer), "\r\n\r\n")
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if sure && in.route != looked {
				t.Errorf("looked at, its route is %d, then %d", looked, in.route)
			}
		})
	}
}

// TestLookTLS checks that a look knows of TLS that was terminated on the way.
func TestLookTLS(t *testing.T) {
	const secure = `{"match":[{"http_request":[{"protocol":"https"}]}],"handle":[{"handler":"elsewhere","name":"secure"}]},`
	c := continuationOf(t, secure+lastRoute)
	wrapper := layer4.WrapConnection(tlsServedConn{served: newReplayConn(clientConn{}, nil, nil), state: new(tls.ConnectionState)}, nil, zap.NewNop())
	handler := layer4.WrapConnection(clientConn{}, nil, zap.NewNop())
	handler.SetVar(layer4.TLSConnectionStatesVarName, []*tls.ConnectionState{{}})
	for _, test := range []struct {
		name   string
		origin origin
		want   int
	}{
		{"none", c.origin, 1},
		{"before a listener wrapper", origin{parent: wrapper}, 0},
		{"… seen through a handler's connection", origin{parent: layer4.WrapConnection(wrapper, nil, zap.NewNop())}, 0},
		{"by a handler", origin{parent: handler}, 0},
	} {
		head := []byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		in, sure := continuation{c.inspect, test.origin}.lean().look(head)
		if !sure || in.route != test.want {
			t.Errorf("%s: got the route %d (sure: %v), want %d", test.name, in.route, sure, test.want)
		}
	}
}

// TestWaits checks which heads wait for their rest without a goroutine.
func TestWaits(t *testing.T) {
	half := "GET /chat/1 HT"
	for _, test := range []struct {
		name    string
		options string
		in      string
		want    relay.Verdict
	}{
		{"half a head", "", half, relay.Wait},
		{"a byte", "", "G", relay.Wait},
		{"a head", "", half + "TP/1.1\r\nHost: h\r\n\r\n", relay.Elsewhere},
		{"no head", "", "GET /chat/1 HTTP/1.1\r\nHost : h", relay.Elsewhere},
		{"an empty line", "", "\r\n", relay.Elsewhere},
		{"as much as may wait", "", half + strings.Repeat("x", maxWaiting-len(half)), relay.Wait},
		{"more than may wait", "", half + strings.Repeat("x", maxWaiting-len(half)+1), relay.Elsewhere},
		{"less than max_bytes", `"max_bytes":15,`, half, relay.Wait},
		{"max_bytes", `"max_bytes":14,`, half, relay.Elsewhere},
		{"packets are counted", `"max_packets":9,`, half, relay.Elsewhere},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := loadHandler(t, "inspect", `{`+test.options+`"timeout":"1h","routes":[`+chatRoute+lastRoute+`]}`).(*Inspect)
			cx := layer4.WrapConnection(clientConn{}, nil, zap.NewNop())
			c := continuation{h, origin{parent: cx}}
			for _, owner := range []relay.Owner{&relayed{relay: new(Relay), continuation: c}, &parked{continuation: c}} {
				before := time.Now()
				got := owner.Next([]byte(test.in), false)
				if got.Verdict != test.want {
					t.Errorf("%T: got verdict %v, want %v", owner, got.Verdict, test.want)
				}
				if test.want == relay.Wait && (got.Deadline.Before(before.Add(time.Hour)) || got.Deadline.After(time.Now().Add(time.Hour))) {
					t.Errorf("%T: got the deadline %v, want an hour from %v", owner, got.Deadline, before)
				}
			}
		})
	}
}

// TestWaitedInVain checks that the time for a head does not begin anew when somebody takes
// its beginning: a head that is due by now is answered, though timeout is long.
func TestWaitedInVain(t *testing.T) {
	h := loadHandler(t, "inspect", `{"timeout":"1h","routes":[`+chatRoute+lastRoute+`]}`).(*Inspect)
	cx := layer4.WrapConnection(clientConn{}, nil, zap.NewNop())
	c := continuation{h, origin{parent: cx}}
	for _, detached := range []bool{true, false} {
		for _, owner := range []relay.Owner{&relayed{relay: new(Relay), continuation: c, detached: detached}, &parked{continuation: c}} {
			client, server := net.Pipe()
			_ = client.SetDeadline(time.Now().Add(30 * time.Second))
			taken := make(chan struct{})
			go func() {
				defer close(taken)
				owner.Take(server, []byte("GET /chat/1 HT"), time.Now(), nil, func() {})
				if r, ok := owner.(*relayed); ok && !detached { // for Handle to go on with
					_ = r.successor.inspect.run(r.successor, endOfChain)
				}
			}()
			if got := readResponse(t, bufio.NewReader(client)); !strings.HasPrefix(got, "408") {
				t.Errorf("%T: got %q, want 408", owner, got)
			}
			client.Close()
			<-taken
		}
	}
}

// TestLookAllocates checks that a route which the head alone decides costs no memory.
func TestLookAllocates(t *testing.T) {
	c := continuationOf(t, chatRoute+lastRoute)
	head := []byte("GET /chat/1 HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := testing.AllocsPerRun(100, func() {
		in, sure := c.look(head[:len(head):len(head)])
		if !sure || in.route != 0 || in.Outcome() != opening.HTTP {
			t.Fatalf("got %v, route %d (sure %v)", in.Outcome(), in.route, sure)
		}
		in.recycle(false)
	}); got > 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}
