// Command caddy is Caddy with its standard modules, caddy-l4 and streamprox.
//
// It is the ordinary caddy command: everything it can do, and how its
// configuration is written, is documented at https://caddyserver.com/docs/.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/streamprox/caddy-streamprox"
)

func main() {
	caddycmd.Main()
}
