// Command caddy is Caddy with caddy-l4, streamprox and the handler of this example.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/streamprox/caddy-streamprox"
	_ "github.com/streamprox/caddy-streamprox/examples/protocol"
)

func main() {
	caddycmd.Main()
}
