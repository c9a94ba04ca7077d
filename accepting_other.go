//go:build !linux

package streamprox

import "github.com/caddyserver/caddy/v2"

// watchAccepting does nothing: here nobody can tell that a listener has stopped accepting.
func watchAccepting(caddy.Context) {}
