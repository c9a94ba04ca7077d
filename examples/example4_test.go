package examples

import (
	"bufio"
	"io"
	"net/http"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testExample4(t *testing.T) {
	port, remotePort := freeport.Get(t), freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("REMOTE_PORT", remotePort)
	t.Setenv("REMOTE", "127.0.0.1:"+remotePort)
	run(t, "example4/Caddyfile")

	// One connection: what it has asked before opens nothing.
	const (
		open    = "The open site.\n"
		members = "The site for members. You are bob.\n"
		remote  = "The remote server. You asked remote.localhost for /a, from 127.0.0.1.\n"
	)
	conn := dial(t, "127.0.0.1:"+port)
	answers := bufio.NewReader(conn)
	for _, test := range []struct {
		host, password string
		status         int
		want           string
	}{
		{"open", "", http.StatusOK, open},
		{"members", "", http.StatusUnauthorized, ""},
		{"members", "wrong", http.StatusUnauthorized, ""},
		{"members", "hiccup", http.StatusOK, members},
		{"open", "", http.StatusOK, open},
		{"members", "", http.StatusUnauthorized, ""},
		{"remote", "", http.StatusOK, remote},
	} {
		req, err := http.NewRequest(http.MethodGet, "http://"+test.host+".localhost:"+port+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.password != "" {
			req.SetBasicAuth("bob", test.password)
		}
		if err := req.Write(conn); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, req)
		if err != nil {
			t.Fatalf("%s: %v", test.host, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != test.status || string(body) != test.want {
			t.Errorf("%s, password %q: got %d %q (%v), want %d %q", test.host, test.password, resp.StatusCode, body, err, test.status, test.want)
		}
	}
}
