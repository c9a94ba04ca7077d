// Command grpc is the gRPC server of this example, with -serve, or a client of it.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/streamprox/caddy-streamprox/examples/grpc/echo"
)

func main() {
	serving := flag.Bool("serve", false, "be the server")
	listen := flag.String("listen", "127.0.0.1:50051", "address of the server")
	connect := flag.String("connect", "127.0.0.1:8443", "address that the client connects to")
	flag.Parse()
	run := func() error { return talk(*connect) }
	if *serving {
		run = func() error { return serve(*listen) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(address string) error {
	certificate, err := echo.Certificate()
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Printf("a gRPC server on %s, for %s\n", ln.Addr(), echo.Name)
	return echo.NewServer(certificate).Serve(ln)
}

// talk trusts every server: the certificate is new each time.
func talk(address string) error {
	client, err := echo.Dial(address, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	return echo.Talk(context.Background(), client, os.Stdin, os.Stdout)
}
