package examples

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/coder/websocket"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testMQTT(t *testing.T) {
	mosquitto := tool(t, "mosquitto", "mosquitto")
	sub, pub := tool(t, "mosquitto_sub", "mosquitto-clients"), tool(t, "mosquitto_pub", "mosquitto-clients")
	port, bare, websockets := freeport.Get(t), freeport.Get(t), freeport.Get(t)
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `listener %s 127.0.0.1
listener %s 127.0.0.1
protocol websockets
allow_anonymous true
`, bare, websockets), 0o644); err != nil {
		t.Fatal(err)
	}
	program(t, exec.Command(mosquitto, "-c", config))
	answers(t, "127.0.0.1:"+bare)
	answers(t, "127.0.0.1:"+websockets)
	t.Setenv("PORT", port)
	t.Setenv("MQTT", "127.0.0.1:"+bare)
	t.Setenv("MQTT_WEBSOCKETS", "127.0.0.1:"+websockets)
	run(t, "mqtt/Caddyfile")

	// The broker keeps the message for those who come later.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	arguments := []string{"-h", "127.0.0.1", "-p", port, "-t", "a"}
	if out, err := exec.CommandContext(ctx, pub, append(arguments, "-q", "1", "-r", "-m", "hello")...).CombinedOutput(); err != nil {
		t.Errorf("publishing: %v: %s", err, out)
	}
	if out, err := exec.CommandContext(ctx, sub, append(arguments, "-C", "1")...).CombinedOutput(); err != nil || string(out) != "hello\n" {
		t.Errorf("subscribing: got %q, %v, want hello", out, err)
	}

	conn, resp, err := websocket.Dial(ctx, "ws://127.0.0.1:"+port+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatalf("WebSocket: %v, %v", err, resp)
	}
	defer conn.CloseNow()
	connect := "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x" // MQTT 3.1.1, section 3.1
	if err := conn.Write(ctx, websocket.MessageBinary, []byte(connect)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(ctx); string(got) != "\x20\x02\x00\x00" {
		t.Errorf("CONNACK in a WebSocket: got %q, %v", got, err)
	}
	conn.CloseNow()

	client, local := newClient(t)
	got := get(t, client, "http://127.0.0.1:"+port+"/")
	if want := fmt.Sprintf("The site. Your address is %s.\n", *local); got.body != want {
		t.Errorf("/: got %q, want %q", got.body, want)
	}
}
