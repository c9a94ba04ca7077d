package examples

import (
	"fmt"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testSSH(t *testing.T) {
	server, port := startSSH(t), freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("SSH_PORT", server.port)
	run(t, "ssh/Caddyfile")

	server.test(t, port)
	silent := dial(t, "127.0.0.1:"+port)
	if got := readLine(t, silent); !strings.HasPrefix(got, "SSH-2.0-OpenSSH") {
		t.Errorf("a silent client got %q", got)
	}
	silent.Close()
	client, local := newClient(t)
	got := get(t, client, "http://127.0.0.1:"+port+"/")
	if want := fmt.Sprintf("The site. Your address is %s.\n", *local); got.body != want {
		t.Errorf("/: got %q, want %q", got.body, want)
	}
}
