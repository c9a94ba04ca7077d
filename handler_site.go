package streamprox

import (
	"context"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/account"
)

// SitePlaceholders makes placeholders of the inspection known in a site behind `http_app`:
// `{l4.inspect.id}`, the id of the request in the access log and the admin API, and
// `{l4.inspect.route}`, the route that brought it. What comes after this handler can use them.
// They are of the request, where each request is routed; of the connection for HTTP/2, with
// TLS that is passed through and with `reuse pin`. They are empty for a request that has not
// come by way of `http_app`.
type SitePlaceholders struct{}

// CaddyModule returns the Caddy module information.
func (*SitePlaceholders) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.streamprox",
		New: func() caddy.Module { return new(SitePlaceholders) },
	}
}

// Provision lets the server remember the connections that http_app hands to it: a request
// does not tell which one it came on.
func (*SitePlaceholders) Provision(ctx caddy.Context) error {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnContext(withCarrier)
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (*SitePlaceholders) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	carrier, _ := r.Context().Value(carrierKey{}).(carrier)
	r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(carrier.placeholder)
	return next.ServeHTTP(w, r)
}

// carrier is the connection on which an HTTP server gets requests. The zero carrier is one
// that http_app has not brought.
type carrier struct {
	handed accounted // nil: the wrapped server has all that follows, and what is known is that
	id     string
	route  string
}

// accounted is a connection that knows the account of the request that is under way on it.
type accounted interface{ accountRecord() *account.Record }

// carrierKey is the key of the carrier in the context of a connection.
type carrierKey struct{}

// withCarrier adds the carrier to the context of a connection that http_app has brought. Each
// of several sites of a server calls for it.
func withCarrier(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(carrierKey{}) != nil {
		return ctx
	}
	var pinned carrier
	for ; conn != nil; conn = beneath(conn) {
		if handed, ok := conn.(accounted); ok {
			return context.WithValue(ctx, carrierKey{}, carrier{handed: handed})
		}
		if cx, ok := conn.(*layer4.Connection); ok && pinned.id == "" {
			pinned.id, _ = cx.Replacer().GetString(inspectIDReplKey)
			pinned.route, _ = cx.Replacer().GetString(inspectReplPrefix + "route")
		}
	}
	if pinned.id == "" {
		return ctx
	}
	return context.WithValue(ctx, carrierKey{}, pinned)
}

// placeholder returns the value of a placeholder, and whether it is one of those that are known
// in sites.
func (c carrier) placeholder(key string) (value any, known bool) {
	switch key {
	case inspectIDReplKey:
		if c.handed != nil {
			return c.handed.accountRecord().ID().String(), true
		}
		return c.id, true
	case inspectReplPrefix + "route":
		if c.handed != nil {
			return c.handed.accountRecord().Route(), true
		}
		return c.route, true
	}
	return nil, false
}

// Interface guards
var (
	_ caddy.Provisioner           = (*SitePlaceholders)(nil)
	_ caddyfile.Unmarshaler       = (*SitePlaceholders)(nil)
	_ caddyhttp.MiddlewareHandler = (*SitePlaceholders)(nil)
)
