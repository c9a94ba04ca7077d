package streamprox

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"golang.org/x/net/http/httpguts"

	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// HeaderSelection chooses the upstream by the value of a header field, so that equal
// values go to the same upstream as long as it is available. It needs the head that
// inspect has read; without it, or without the field, the choice is random. Caddy-l4's
// proxy can use it too.
type HeaderSelection struct {
	// The name of the field.
	Field string `json:"field,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*HeaderSelection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.proxy.selection_policies.header",
		New: func() caddy.Module { return new(HeaderSelection) },
	}
}

// Validate checks the name of the field.
func (s *HeaderSelection) Validate() error {
	if !httpguts.ValidHeaderFieldName(s.Field) {
		return fmt.Errorf("header: %q is not the name of a field", s.Field)
	}
	return nil
}

// Select implements l4proxy.Selector.
func (s *HeaderSelection) Select(pool l4proxy.UpstreamPool, cx *layer4.Connection) *l4proxy.Upstream {
	return selectByHead(s, pool, cx)
}

// Certain implements upstream.Hasher.
func (s *HeaderSelection) Certain(cx *layer4.Connection) bool { return headValue(s, cx) != "" }

// value implements headPolicy.
func (s *HeaderSelection) value(in *inspection) string {
	if strings.EqualFold(s.Field, "Host") {
		return string(in.Head.Host.Of(in.Data()))
	}
	for f := range in.Head.Named(in.Data(), s.Field) { // the first, as reverse_proxy does
		return fieldValue(in.Data(), f)
	}
	return ""
}

// CookieSelection chooses the upstream by the value of a cookie, as HeaderSelection does
// by that of a field. The cookie is one that the server sets, or that the policy `cookie` of
// Caddy's `reverse_proxy` has set: then it leads to the upstream that was chosen there. No other
// is added.
type CookieSelection struct {
	// The name of the cookie.
	Name string `json:"name,omitempty"`

	// The secret with which `reverse_proxy` makes its cookies.
	Secret string `json:"secret,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*CookieSelection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.proxy.selection_policies.cookie",
		New: func() caddy.Module { return new(CookieSelection) },
	}
}

// Validate checks the name of the cookie.
func (s *CookieSelection) Validate() error {
	if !httpguts.ValidHeaderFieldName(s.Name) { // RFC 6265 section 4.1.1: a token too
		return fmt.Errorf("cookie: %q is not the name of a cookie", s.Name)
	}
	return nil
}

// Select implements l4proxy.Selector.
func (s *CookieSelection) Select(pool l4proxy.UpstreamPool, cx *layer4.Connection) *l4proxy.Upstream {
	return upstream.SelectByCookie(headValue(s, cx), s.Secret, pool, cx)
}

// Certain implements upstream.Hasher.
func (s *CookieSelection) Certain(cx *layer4.Connection) bool { return headValue(s, cx) != "" }

// value implements headPolicy.
func (s *CookieSelection) value(in *inspection) string {
	request := http.Request{Header: http.Header{"Cookie": {fieldValues(in.Data(), &in.Head, "Cookie", "; ")}}}
	cookie, err := request.Cookie(s.Name)
	if err != nil {
		return ""
	}
	return cookie.Value
}

// URIHashSelection chooses the upstream by the target of the request, path and query as
// they are sent, as HeaderSelection does by a field.
type URIHashSelection struct{}

// CaddyModule returns the Caddy module information.
func (*URIHashSelection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.proxy.selection_policies.uri_hash",
		New: func() caddy.Module { return new(URIHashSelection) },
	}
}

// Select implements l4proxy.Selector.
func (s *URIHashSelection) Select(pool l4proxy.UpstreamPool, cx *layer4.Connection) *l4proxy.Upstream {
	return selectByHead(s, pool, cx)
}

// Certain implements upstream.Hasher.
func (s *URIHashSelection) Certain(cx *layer4.Connection) bool { return headValue(s, cx) != "" }

// value implements headPolicy.
func (*URIHashSelection) value(in *inspection) string { return string(in.Head.Target.Of(in.Data())) }

// headPolicy is a policy by the head of the request alone. It can also be asked where many
// sessions are served: it does not wait.
type headPolicy interface {
	// value returns what the upstream is chosen by, or "": at random.
	value(in *inspection) string
}

// selectByHead implements l4proxy.Selector for p.
func selectByHead(p headPolicy, pool l4proxy.UpstreamPool, cx *layer4.Connection) *l4proxy.Upstream {
	return upstream.SelectByHash(headValue(p, cx), pool, cx)
}

// headValue returns what p chooses the upstream of the connection by, or "": at random.
func headValue(p headPolicy, cx *layer4.Connection) string {
	if in := relayedInspection(cx); in != nil && in.Outcome() == opening.HTTP {
		return p.value(in)
	}
	return ""
}

// relayedKey is the context key under which relay keeps the *inspection for policies. They
// cannot use inspectionOf, since relay has taken the bytes by which that knows the
// inspection.
type relayedKey struct{}

// relayedContext returns the context with what policies look at.
func relayedContext(ctx context.Context, in *inspection) context.Context {
	return context.WithValue(ctx, relayedKey{}, in)
}

// relayedInspection returns the inspection of the connection that an upstream is chosen
// for, or nil.
func relayedInspection(cx *layer4.Connection) *inspection {
	if in, ok := cx.Context.Value(relayedKey{}).(*inspection); ok {
		return in
	}
	return inspectionOf(cx)
}

// Interface guards
var (
	_ caddy.Validator       = (*HeaderSelection)(nil)
	_ caddy.Validator       = (*CookieSelection)(nil)
	_ caddyfile.Unmarshaler = (*HeaderSelection)(nil)
	_ caddyfile.Unmarshaler = (*CookieSelection)(nil)
	_ caddyfile.Unmarshaler = (*URIHashSelection)(nil)
	_ upstream.Hasher       = (*HeaderSelection)(nil)
	_ upstream.Hasher       = (*CookieSelection)(nil)
	_ upstream.Hasher       = (*URIHashSelection)(nil)
	_ l4proxy.Selector      = (*HeaderSelection)(nil)
	_ l4proxy.Selector      = (*CookieSelection)(nil)
	_ l4proxy.Selector      = (*URIHashSelection)(nil)
)
