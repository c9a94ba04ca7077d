package upstream_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// A client is connected to the second of two servers, since the first one has as many
// streams as it may.
func Example() {
	busy, free := listen(), listen()
	defer busy.Close()
	defer free.Close()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	pool, err := upstream.New(ctx, upstream.Options{
		Servers: l4proxy.UpstreamPool{
			{Dial: []string{busy.Addr().String()}, MaxConnections: 1},
			{Dial: []string{free.Addr().String()}},
		},
		Selector:    new(l4proxy.FirstSelection),
		DialTimeout: 3 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	near, far := net.Pipe() // where a client is
	defer near.Close()
	defer far.Close()
	client := &upstream.Client{Stream: layer4.WrapConnection(near, nil, zap.NewNop()), Conn: near}
	for range 2 {
		conn, to, err := pool.Connect(ctx, client)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer to.Release()
		defer conn.Close()
		fmt.Println("busy:", to.String() == busy.Addr().String(), "free:", to.String() == free.Addr().String())
	}
	// Output:
	// busy: true free: false
	// busy: false free: true
}

func listen() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return ln
}
