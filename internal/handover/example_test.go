package handover_test

import (
	"fmt"
	"net"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/handover"
)

// request is a connection whose request is taken at once.
type request struct{ net.Conn }

func (request) WhenTaken(taken func()) {
	if taken != nil {
		taken()
	}
}

func Example() {
	network := handover.New("inproc")
	serve := func(name string, listener net.Listener) {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "hello from the %s", name)
			conn.Close()
		}
	}
	ask := func() {
		client, server := net.Pipe()
		if err := network.Deliver("web:80", request{server}, time.Second); err != nil {
			fmt.Println(err)
			server.Close()
			return
		}
		answer := make([]byte, 64)
		n, _ := client.Read(answer)
		fmt.Println(string(answer[:n]))
	}

	first := network.Listen("web:80")
	go serve("first", first)
	ask()

	second := network.Listen("web:80") // as when a configuration is replaced
	go serve("second", second)
	ask()

	second.Close() // as when it fails to start
	ask()
	first.Close()

	// Output:
	// hello from the first
	// hello from the second
	// hello from the first
}
