package examples

import (
	"fmt"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testWrapper(t *testing.T) {
	port, chatPort := freeport.Get(t), freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("CHAT_PORT", chatPort)
	t.Setenv("CHAT", "127.0.0.1:"+chatPort)

	t.Run("stand-in", func(t *testing.T) {
		run(t, "wrapper/Caddyfile")
		testSiteAndChat(t, port)
		for _, path := range []string{"/..%2f", "/chat/..%2f"} {
			conn := dial(t, "127.0.0.1:"+port)
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n\r\n", path, port)
			if got, want := readLine(t, conn), "HTTP/1.1 400 Bad Request\r\n"; got != want {
				t.Errorf("%s: got %q, want %q", path, got, want)
			}
		}
	})

	t.Run("browser", func(t *testing.T) { testChatInBrowser(t, "wrapper/Caddyfile", port) })
}
