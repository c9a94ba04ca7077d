// Package protocol is a protocol of its own in the process: a layer4 handler that keeps
// a sum. A client sends a number in each line and gets the sum so far.
package protocol

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
)

func init() { caddy.RegisterModule(new(Sum)) }

// Sum is the handler. Each connection has a sum of its own.
type Sum struct{}

// CaddyModule returns the Caddy module information.
func (*Sum) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.sum", New: func() caddy.Module { return new(Sum) }}
}

// Handle speaks to one client until it leaves or is silent for a minute. It reads the
// stream from its first byte: what was buffered to decide on the route comes again.
func (*Sum) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	sum := int64(0)
	for lines := bufio.NewScanner(cx); ; {
		if err := cx.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		if !lines.Scan() {
			return lines.Err()
		}
		number, err := strconv.ParseInt(strings.TrimSpace(lines.Text()), 10, 32)
		if err != nil {
			_, err = fmt.Fprintln(cx, "not a number")
			return err
		}
		sum += number
		if _, err := fmt.Fprintln(cx, sum); err != nil {
			return err
		}
	}
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	sum
func (*Sum) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.Next(); d.NextArg() || d.NextBlock(d.Nesting()) {
		return d.Err("sum takes no arguments and no block")
	}
	return nil
}

var (
	_ layer4.NextHandler    = (*Sum)(nil)
	_ caddyfile.Unmarshaler = (*Sum)(nil)
)
