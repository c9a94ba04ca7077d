package examples

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testProtocol(t *testing.T) {
	port := freeport.Get(t)
	t.Setenv("PORT", port)
	run(t, "protocol/Caddyfile")
	address := "127.0.0.1:" + port

	for _, test := range []struct {
		name, sent, want string
		bytewise         bool
	}{
		{"in one packet", "1\n20\n300\n", "1\n21\n321\n", false},
		{"byte by byte", "-1\n+20\n300\n", "-1\n19\n319\n", true},
		{"no number", "1\nx\n5\n", "1\nnot a number\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := dial(t, address)
			size := len(test.sent)
			if test.bytewise {
				size = 1
			}
			for sent := 0; sent < len(test.sent); sent += size {
				if _, err := io.WriteString(conn, test.sent[sent:sent+size]); err != nil {
					t.Fatal(err)
				}
			}
			_ = conn.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(conn)
			if string(got) != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}

	t.Run("a conversation", func(t *testing.T) {
		conn := dial(t, address)
		answers := bufio.NewReader(conn)
		for number, want := range []string{"0\n", "1\n", "3\n", "6\n"} {
			fmt.Fprintln(conn, number)
			if got, err := answers.ReadString('\n'); got != want {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
		conn.Close()
	})

	client, local := newClient(t)
	got := get(t, client, "http://"+address+"/")
	if want := fmt.Sprintf("The site. Your address is %s.\n", *local); got.status != http.StatusOK || got.body != want {
		t.Errorf("/: got %d %q, want %q", got.status, got.body, want)
	}
}
