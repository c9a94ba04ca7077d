package streamprox

import (
	"net"
	"testing"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// TestDecisionAllocations checks what inspect costs from a connection's start to the
// choice of a route, over a real socket: the inspection, its buffer and what Go makes
// for direct access to a socket.
func TestDecisionAllocations(t *testing.T) {
	h := loadHandler(t, "inspect", `{"routes":[
		{"match":[{"http_request":[{"path":["/other/*"]}]}]},
		{"match":[{"http_request":[{"path":["/chat/*"],"host":["example.com"],"header":{"Upgrade":["websocket"]}}]}]}
	]}`).(*Inspect)

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
	defer server.Close()
	head := []byte("GET /chat/1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	cx := layer4.WrapConnection(server, make([]byte, 0, 2048), zap.NewNop())

	const most = 3
	got := testing.AllocsPerRun(100, func() {
		if _, err := client.Write(head); err != nil {
			t.Fatal(err)
		}
		in, err := h.inspect(cx)
		if err != nil {
			t.Fatal(err)
		}
		if in.route != 1 || in.failure != nil {
			t.Fatalf("got route %d (%v), want 1", in.route, in.failure)
		}
	})
	if got > most {
		t.Errorf("got %v allocations, want at most %d", got, most)
	}
}
