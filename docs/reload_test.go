package docs

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/coder/websocket"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// reloadCaddyfile has three ports that lead to one server.
const reloadCaddyfile = `{
	admin off
	persist_config off
	grace_period 1s
	log {
		level ERROR
	}
	layer4 {
		127.0.0.1:%[2]s {
			@chat http path /chat/*
			route @chat {
				proxy %[4]s
			}
		}
		127.0.0.1:%[3]s {
			route {
				inspect {
					@chat http_request path /chat/*
					route @chat {
						relay %[4]s
					}
				}
			}
		}
	}
}

http://:%[1]s {
	bind 127.0.0.1
	header X-Configuration %[5]d
	reverse_proxy /chat/* %[4]s
}
`

// TestWebSocketsAtReload tests what README says of WebSockets at a reload. With -v it
// prints how many of them go on.
func TestWebSocketsAtReload(t *testing.T) {
	const each = 10
	backend := echoServer(t)
	ports := [3]string{freeport.Get(t), freeport.Get(t), freeport.Get(t)}
	load := func(generation int) {
		t.Helper()
		source := fmt.Sprintf(reloadCaddyfile, ports[0], ports[1], ports[2], backend, generation)
		config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), map[string]any{"filename": "Caddyfile"})
		if err == nil {
			err = caddy.Load(config, true)
		}
		if err != nil {
			t.Fatalf("loading configuration %d: %v", generation, err)
		}
	}
	load(1)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var streams [3][]*websocket.Conn
	for i, port := range ports {
		for range each {
			conn, _, err := websocket.Dial(ctx, "ws://127.0.0.1:"+port+"/chat/room", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			if !answers(ctx, conn) {
				t.Fatalf("port %d: no echo before the reload", i)
			}
			streams[i] = append(streams[i], conn)
		}
	}
	load(2)
	time.Sleep(2 * time.Second) // longer than the grace period
	for i, test := range []struct {
		name string
		want int
	}{{"reverse_proxy", 0}, {"caddy-l4's proxy", each}, {"relay", each}} {
		got := 0
		err := eventually(func() error { // those that end may take longer
			got = 0
			for _, conn := range streams[i] {
				if answers(ctx, conn) {
					got++
				}
			}
			if got != test.want {
				return fmt.Errorf("%s: got %d, want %d", test.name, got, test.want)
			}
			return nil
		})
		t.Logf("%s: %d of %d WebSockets go on after a reload", test.name, got, each)
		if err != nil {
			t.Error(err)
		}
	}
}

// answers reports whether a message comes back.
func answers(ctx context.Context, conn *websocket.Conn) bool {
	if conn.Write(ctx, websocket.MessageText, []byte("one")) != nil {
		return false
	}
	_, got, err := conn.Read(ctx)
	return err == nil && string(got) == "one"
}

// echoServer is a WebSocket server that returns each message, until the test ends.
func echoServer(t *testing.T) (address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for err == nil {
			var kind websocket.MessageType
			var message []byte
			if kind, message, err = conn.Read(ctx); err == nil {
				err = conn.Write(ctx, kind, message)
			}
		}
	}))
	t.Cleanup(func() {
		cancel()
		server.Close()
	})
	return server.Listener.Addr().String()
}
