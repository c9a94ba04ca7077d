package integration

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestNotFoundWhereNothingFollows checks that a request which no route takes is answered
// with 404 if no handler can follow inspect, and goes on if one can.
func TestNotFoundWhereNothingFollows(t *testing.T) {
	next := backend(t, answering("next"))
	const none = "@none http_request path /none\nroute @none {\nhttp_respond 410\n}\n"
	inspect := "inspect {\n" + none + "}\n"
	for _, test := range []struct{ name, routes, want string }{
		{"alone", "route {\n" + inspect + "}", "404"},
		{"without routes", "route {\ninspect\n}", "404"},
		{"a handler that handles nothing after it", "route {\n" + inspect + "throttle {\nlatency 1ms\n}\n}", "404"},
		{"a route for another protocol after it", "route {\n" + inspect + "}\n@ssh ssh\nroute @ssh {\nproxy " + next + "\n}", "404"},
		{"a route without an end", "route {\ninspect {\nroute {\nrewrite_head {\nhost b\n}\n}\n}\n}", "404"},
		{"a subroute whose routes do not match", "route {\ninspect {\nroute {\nsubroute {\n" + none + "}\n}\n}\n}", "404"},
		{"in a subroute", "route {\nsubroute {\nroute {\n" + inspect + "}\n}\n}", "404"},
		{"inspect in inspect", "route {\ninspect {\nroute {\n" + inspect + "}\n}\n}", "404"},
		{"another inspect after it", "route {\n" + inspect + "inspect\n}", "404"},

		{"a handler after it", "route {\n" + inspect + "proxy " + next + "\n}", "next"},
		{"a route after it", "route {\n" + inspect + "}\nroute {\nproxy " + next + "\n}", "next"},
		{"a route with a matcher after it", "route {\n" + inspect + "}\n@http http\nroute @http {\nproxy " + next + "\n}", "next"},
		{"a handler after its subroute", "route {\nsubroute {\nroute {\n" + inspect + "}\n}\nproxy " + next + "\n}", "next"},
		{"a handler after inspect in inspect", "route {\ninspect {\nroute {\n" + inspect + "proxy " + next + "\n}\n}\n}", "next"},
		{"a handler after the inspect around it", "route {\ninspect {\nroute {\n" + inspect + "}\n}\nproxy " + next + "\n}", "next"},
		{"a handler that closes after it", "route {\n" + inspect + "close\n}", "closed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address := freeport.Address(t)
			start(t, "{\nlayer4 {\n"+address+" {\n"+test.routes+"\n}\n}\n}")
			for _, piece := range pieces {
				expectUnrouted(t, address, piece.size, test.want)
			}
			if test.want != "404" || strings.Contains(test.routes, "ssh") {
				return
			}
			for _, sent := range []string{"SSH-2.0-OpenSSH_9.6 Debian-3\r\n", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"} {
				conn := dial(t, address)
				send(t, conn, sent, 1<<20)
				if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !isReset(err) {
					t.Errorf("%.3q: got %q, error %v, want the end", sent, got, err)
				}
			}
		})
	}
}

// expectUnrouted checks what becomes of a request that no route takes: 404, next, or
// closed.
func expectUnrouted(t *testing.T, address string, size int, want string) {
	t.Helper()
	conn := dial(t, address)
	defer conn.Close() // caddy-l4's proxy waits for it
	send(t, conn, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", size)
	switch want {
	case "404":
		expectAnswer(t, conn, "404")
	case "closed":
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !isReset(err) {
			t.Errorf("got %q, error %v, want the end", got, err)
		}
	default:
		if got := contentOrClosed(t, bufio.NewReader(conn)); got != want {
			t.Errorf("got %q, want it from the next handler", got)
		}
	}
}

// TestNotFoundOfInspectsThatAreAlike checks that an inspect which stands in two places is
// never taken for the other one: what follows one of them gets its requests.
func TestNotFoundOfInspectsThatAreAlike(t *testing.T) {
	next := backend(t, answering("next"))
	const inspect = "inspect {\n@none http_request path /none\nroute @none {\nhttp_respond 410\n}\n}\n"
	for _, test := range []struct{ second, want, first string }{
		{"", "404", "404"},
		{"proxy " + next + "\n", "next", "closed"},
	} {
		first, second := freeport.Address(t), freeport.Address(t)
		start(t, "{\nlayer4 {\n"+first+" {\nroute {\n"+inspect+"}\n}\n"+second+" {\nroute {\n"+inspect+test.second+"}\n}\n}\n}")
		expectUnrouted(t, first, 1<<20, test.first)
		expectUnrouted(t, second, 1<<20, test.want)
	}
}

// TestNotFoundInAWrapperIsTheServers checks that in a listener wrapper a request that no
// route takes goes to the wrapped server, also where the same inspect stands alone.
func TestNotFoundInAWrapperIsTheServers(t *testing.T) {
	const inspect = "inspect {\n@none http_request path /none\nroute @none {\nhttp_respond 410\n}\n}"
	port, alone := freeport.Get(t), freeport.Address(t)
	start(t, `{
		servers 127.0.0.1:`+port+` {
			listener_wrappers {
				layer4 {
					route {
						`+inspect+`
					}
				}
			}
		}
		layer4 {
			`+alone+` {
				route {
					`+inspect+`
				}
			}
		}
	}
	http://:`+port+` {
		bind 127.0.0.1
		respond "site {uri}"
	}`)
	newScript(t, "127.0.0.1:"+port).get("/1", "site /1")
	newScript(t, alone).get("/1", "404 Not Found\n", "end")
}

// TestNotFoundLeavesOthersToLaterRoutes checks that a route behind inspect for another
// protocol gets its streams, though requests end before it.
func TestNotFoundLeavesOthersToLaterRoutes(t *testing.T) {
	address := freeport.Address(t)
	start(t, "{\nlayer4 {\n"+address+" {\nroute {\ninspect {\n@none http_request path /none\nroute @none {\nhttp_respond 410\n}\n}\n}\n"+
		"@ssh ssh\nroute @ssh {\nrelay "+backend(t, echo("ssh"))+"\n}\n"+
		"@tls tls\nroute @tls {\nrelay "+backend(t, echo("tls"))+"\n}\n}\n}\n}")
	for _, piece := range pieces {
		expectUnrouted(t, address, piece.size, "404")
		for sent, want := range map[string]string{
			"SSH-2.0-OpenSSH_9.6 Debian-3\r\n": "ssh\n",
			clientHello(t, "a.example"):        "tls\n",
		} {
			conn := dial(t, address)
			send(t, conn, sent, piece.size)
			_ = conn.CloseWrite()
			if got, err := bufio.NewReader(conn).ReadString('\n'); got != want {
				t.Errorf("%s: got %q, error %v, want %q", piece.name, got, err, want)
			}
		}
	}
}
