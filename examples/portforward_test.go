package examples

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testPortForward(t *testing.T) {
	port, targetPort := freeport.Get(t), freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("TARGET_PORT", targetPort)
	address := "127.0.0.1:" + port

	t.Run("stand-in", func(t *testing.T) {
		t.Setenv("TARGET", "127.0.0.1:"+targetPort)
		run(t, "portforward/Caddyfile")
		client, _ := newClient(t)
		if got, want := get(t, client, "http://"+address+"/a").body, "The target. You asked 127.0.0.1 for /a.\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})

	t.Run("a server that speaks first", func(t *testing.T) {
		t.Setenv("TARGET", "127.0.0.1:"+greeter(t))
		run(t, "portforward/Caddyfile")
		conn := dial(t, address)
		if got, want := readLine(t, conn), "SSH-2.0-server\r\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		fmt.Fprint(conn, "SSH-2.0-client\r\n")
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("the server's end: %v", err)
		}
	})

	// The target gets every byte and the end of them, and answers only then.
	t.Run("any bytes", func(t *testing.T) {
		t.Setenv("TARGET", returner(t))
		run(t, "portforward/Caddyfile")
		sent := make([]byte, 1<<20)
		for i := range sent {
			sent[i] = byte(rand.Uint32())
		}
		conn := dial(t, address)
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes (%v), want the %d sent", len(got), err, len(sent))
		}
	})
}

// returner is a server that reads all that a client sends and then returns it, until the
// test ends.
func returner(t *testing.T) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all, err := io.ReadAll(conn)
			if err == nil {
				_, _ = conn.Write(all)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String()
}
