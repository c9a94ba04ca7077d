package socket

import (
	"io"
	"net"
	"strings"
	"testing"
)

// decodingConn is a socket with a Read of its own, as listener wrappers make it.
type decodingConn struct {
	*net.TCPConn
	r io.Reader
}

func (c decodingConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func TestReadFirstUsesTheConnectionsOwnRead(t *testing.T) {
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
	if _, err := io.WriteString(client, "encoded"); err != nil {
		t.Fatal(err)
	}
	r := NewReader(decodingConn{server.(*net.TCPConn), strings.NewReader("decoded")})
	got, err := r.ReadFirst(100)
	if string(got) != "decoded" || err != nil {
		t.Errorf("got %q (%v), want what Read returns", got, err)
	}
}
