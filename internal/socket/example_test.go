package socket_test

import (
	"fmt"
	"io"
	"net"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// A server reads all that its client says, without a buffer while it waits, and answers
// when the client has finished sending.
func Example() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for reader := socket.NewReader(conn); err == nil; {
			var p []byte
			p, err = reader.Read(1 << 20)
			fmt.Printf("%s", p)
			socket.GiveBack(p)
		}
		_, _ = io.WriteString(conn, "and good-bye")
	}()

	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "hello ")
	_ = socket.CloseWrite(conn)
	answer, _ := io.ReadAll(conn)
	fmt.Println(string(answer))
	// Output: hello and good-bye
}
