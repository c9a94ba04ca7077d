// Command demo shows streamprox at work: one port on which a site, two WebSocket
// servers and a raw TCP service answer.
//
// It runs Caddy with demo.caddyfile in this process and starts the servers behind it
// on loopback ports of their own. It writes nothing outside a temporary directory,
// which it removes when it ends.
package main

import (
	"context"
	"embed"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/streamprox/caddy-streamprox"
)

//go:embed demo.caddyfile
var caddyfile []byte

//go:embed site
var site embed.FS

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "the one `address` that everything shares")
	backendsOnly := flag.Bool("backends", false, "start only the servers behind the port, where demo.caddyfile looks for them by default")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q; see -help\n", flag.Arg(0))
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	var err error
	if *backendsOnly {
		err = runBackends(ctx, os.Stdout)
	} else {
		err = run(ctx, *listen, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run runs the demo on the address listen until ctx is done.
func run(ctx context.Context, listen string, out io.Writer) error {
	address, err := available(listen)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "streamprox-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, site); err != nil {
		return fmt.Errorf("writing the site: %w", err)
	}
	b, err := startBackends(anyPorts)
	if err != nil {
		return err
	}
	defer b.stop()

	if err := startCaddy(dir, map[string]string{
		"DEMO_LISTEN":   address.String(),
		"DEMO_ECHO":     b.addresses.echo,
		"DEMO_PICTURES": b.addresses.pictures,
		"DEMO_TCP":      b.addresses.tcp,
		"DEMO_SITE":     filepath.Join(dir, "site"),
	}); err != nil {
		return err
	}
	whatToTry(out, address, b.addresses)
	<-ctx.Done()
	fmt.Fprintln(out, "\nstopping")
	return caddy.Stop()
}

// runBackends runs only the servers behind the port until ctx is done.
func runBackends(ctx context.Context, out io.Writer) error {
	b, err := startBackends(defaultPorts)
	if err != nil {
		return err
	}
	defer b.stop()
	fmt.Fprintf(out, `The servers behind demo.caddyfile: echo on %s, pictures on %s, tcp on %s.

    go run ./cmd/caddy run --config examples/demo/demo.caddyfile --adapter caddyfile

Ctrl-C ends them.
`, b.addresses.echo, b.addresses.pictures, b.addresses.tcp)
	<-ctx.Done()
	return nil
}

// available returns the address that listen means, if it is free. Caddy itself would
// share a port with another Caddy (SO_REUSEPORT), and each get half of the clients.
func available(listen string) (*net.TCPAddr, error) {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another address with -listen", err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr), nil
}

// startCaddy runs Caddy with demo.caddyfile, its placeholders replaced by the given
// environment. All that Caddy stores goes to dir.
func startCaddy(dir string, environment map[string]string) error {
	environment["XDG_DATA_HOME"] = dir
	for name, value := range environment {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	caddy.DefaultStorage.Path = caddy.AppDataDir()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": "demo.caddyfile"})
	if err != nil {
		return fmt.Errorf("adapting the configuration: %w", err)
	}
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("starting Caddy: %w", err)
	}
	return nil
}

// whatToTry prints how to see each of the destinations.
func whatToTry(out io.Writer, address *net.TCPAddr, behind addresses) {
	host, port := address.IP.String(), address.Port
	if address.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	at := net.JoinHostPort(host, fmt.Sprint(port))
	fmt.Fprintf(out, `One port, four destinations: %[1]s

  everything, on a page: open http://%[1]s/ in a browser

  Caddy's HTTP app, in this process
    curl -i http://%[1]s/whoami
  a WebSocket echo, on %[4]s
    curl -isNm 2 -H Connection:Upgrade -H Upgrade:websocket -H Sec-WebSocket-Version:13 -H Sec-WebSocket-Key:c3RyZWFtcHJveCBkZW1vIQ== http://%[1]s/echo
  a TCP service that speaks first, on %[6]s: say nothing for a second
    nc %[2]s %[3]d
  nobody: what two parsers could read differently is answered with 400
    curl -i --path-as-is 'http://%[1]s/..%%2f'

A line for each connection follows, with what inspect saw and the route that took it.
Ctrl-C ends the demo.

`, at, host, port, behind.echo, behind.pictures, behind.tcp)
}
