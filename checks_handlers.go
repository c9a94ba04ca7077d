package streamprox

import (
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// Handlers and options that can have no effect, and handlers to which no connection comes.

// ends reports whether a handler never hands a connection on.
func (c *checker) ends(h *configHandler) bool {
	switch h.Name {
	case "relay", "http_respond", "proxy", "echo", "close", "socks5":
		return true
	case "http_app":
		return !c.wrapped || h.Listener != ""
	}
	return false
}

// order warns of handlers after one that keeps every connection.
func (c *checker) order(r *configRoute) {
	for i := 0; i+1 < len(r.Handle); i++ {
		h, after := &r.Handle[i], &r.Handle[i+1]
		if !c.ends(h) {
			continue
		}
		fix := fmt.Sprintf("put '%s' before '%s'", after.Name, h.Name)
		if c.ends(after) {
			fix = fmt.Sprintf("leave one of '%s' and '%s' out, or give each a route of its own", h.Name, after.Name)
		}
		c.warn(r, "a handler gets no connection: the one before it keeps them", fix, zap.String("handler", after.Name))
		return
	}
}

// fallsThrough warns of handlers after an http_app that leaves connections to the wrapped
// server. They get them first.
func (c *checker) fallsThrough(h *configHandler) {
	const message = "a handler stands between http_app and the wrapped server"
	if c.ends(h) {
		return
	}
	if rest, _ := h.following(); len(rest) > 0 && rest[0].Name == "rewrite_head" {
		c.warn(h.route, message, "put 'rewrite_head' before 'http_app'", zap.String("handler", "rewrite_head"))
		return
	}
	if ends, _ := h.httpEndsAfter(); len(ends) > 0 {
		c.warn(h.route, message, fmt.Sprintf("leave '%s' out, or put it into a route before that of 'http_app'", ends[0].Name), zap.String("handler", ends[0].Name))
	}
}

// stripsAsterisk warns of a strip_prefix that strips nothing.
func (c *checker) stripsAsterisk(h *configHandler) {
	prefix, _, ok := strings.Cut(h.StripPrefix, "*")
	if !ok {
		return
	}
	prefix = strings.TrimRight(prefix, "/")
	if prefix == "" {
		prefix = "<path>"
	}
	c.warn(h.route, "strip_prefix takes an asterisk as it is", fmt.Sprintf("write 'strip_prefix %s'", prefix), zap.String("strip_prefix", h.StripPrefix))
}

// editsNothing warns of rewrite_head where nothing has read a head.
func (c *checker) editsNothing(h *configHandler) {
	if !h.afterInspect() {
		c.warn(h.route, "rewrite_head closes every connection that inspect has not read", "put it into a route of 'inspect { … }', before 'relay' or 'http_app'")
	}
}

// upgradeNames warns of what is no name of WebSocket.
func (c *checker) upgradeNames(h *configHandler) {
	for _, protocol := range h.Upgrade {
		switch strings.ToLower(protocol) {
		case "ws", "wss", "websockets":
			c.warn(h.route, "clients ask for no upgrade of that name", "write 'upgrade websocket'", zap.String("upgrade", protocol))
		}
	}
}

// refuseWeights refuses weights that caddy-l4 takes for others.
func (c *checker) refuseWeights(h *configHandler) {
	for _, server := range h.Upstreams {
		if server.Weight == nil {
			continue
		}
		if err := upstream.CheckWeight(*server.Weight); err != nil {
			c.refuse(h.route, "upstream %s: weight: %w", strings.Join(server.Dial, " "), err)
		}
	}
}
