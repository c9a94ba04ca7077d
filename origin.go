package streamprox

import (
	"context"
	"maps"
	"net"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// origin is what a stream takes over from the connection that it is a fork of: what was set
// there by whoever has had that before.
type origin struct {
	logger  *zap.Logger
	context context.Context
	vars    map[string]any // nil if there are none
	conn    net.Conn       // beneath all those of layer4: for its addresses, and for TLS that ends there
	placeholders
}

// placeholders are those of a replacer, or, if that is nil, some that do not change.
type placeholders struct {
	replacer *caddy.Replacer
	fixed    []placeholder
}

// placeholder is one whose value does not change.
type placeholder struct {
	key   string
	value any
}

// originOf returns the origin of forks of cx.
func originOf(cx *layer4.Connection) origin {
	return origin{
		logger:       cx.Logger,
		context:      cx.Context,
		vars:         variablesOf(cx),
		conn:         innermost(cx),
		placeholders: placeholders{replacer: cx.Context.Value(replacerKey).(*caddy.Replacer)},
	}
}

// replacerKey is the key of the replacer, as one that costs no memory to look for.
var replacerKey any = layer4.ReplacerCtxKey

// get returns the value of a placeholder, and whether it is known.
func (p placeholders) get(key string) (value any, known bool) {
	if p.replacer != nil {
		return p.replacer.Get(key)
	}
	for _, p := range p.fixed {
		if p.key == key {
			return p.value, true
		}
	}
	return nil, false
}

// lean returns an origin that gives the same to forks and is small, for a connection that
// waits. A replacer holds on to the connection that it was made for, with its buffer: 4 KiB.
// So the values are taken out, where it is certain that they are all. Nothing of the first
// connection changes any more: what handlers set from now on, they set on a fork.
func (o *origin) lean() *origin {
	if o.replacer == nil {
		return o // it is one
	}
	small := *o // o may be a part of something large
	if socket.Is(o.conn) {
		small.conn = &nowhere{local: o.conn.LocalAddr(), remote: o.conn.RemoteAddr()}
	}
	keys, ok := fixedKeys(o.replacer)
	if !ok || !isBare(o.context) {
		return &small
	}
	small.context, small.replacer = context.Background(), nil
	if _, ok := small.vars[stockHTTPRequestVar]; ok {
		small.vars = maps.Clone(small.vars)
		delete(small.vars, stockHTTPRequestVar)
	}
	if len(small.vars) == 0 {
		small.vars = nil
	}
	small.fixed = make([]placeholder, 0, len(keys))
	for _, key := range keys {
		if value, known := o.replacer.Get(key); known {
			small.fixed = append(small.fixed, placeholder{key, value})
		}
	}
	return &small
}

// isBare reports whether ctx holds no more than the variables and the replacer, as that of
// each new connection.
func isBare(ctx context.Context) bool {
	for _, want := range [...]caddy.CtxKey{layer4.ReplacerCtxKey, layer4.VarsCtxKey} {
		if reflect.TypeOf(ctx) != valueCtx {
			return false
		}
		v := reflect.ValueOf(ctx).Elem()
		key, parent := v.FieldByName("key"), v.FieldByName("Context")
		if !key.IsValid() || key.Kind() != reflect.Interface || key.Elem().Type() != reflect.TypeOf(want) ||
			key.Elem().String() != string(want) || !parent.IsValid() {
			return false
		}
		ctx, _ = parent.Interface().(context.Context)
	}
	return ctx == context.Background()
}

// valueCtx is the type of a context with a value.
var valueCtx = reflect.TypeOf(context.WithValue(context.Background(), replacerKey, nil))

// fixedKeys returns the keys of the values in a replacer that forks can see. It reports false
// if the replacer knows others: somebody has added a function. caddy.Replacer tells neither,
// so this looks into it; where it does not look as expected, nothing is known of it.
func fixedKeys(r *caddy.Replacer) (keys []string, ok bool) {
	providers, static := partsOf(r)
	if !providers.IsValid() || providers.Len() != ownProviders {
		return nil, false
	}
	for _, key := range static.MapKeys() {
		switch key := key.String(); {
		case key == remoteAddrReplKey, key == localAddrReplKey: // each fork has its own
		case strings.HasPrefix(key, stockHTTPReplPrefix): // hidden from forks
		default:
			keys = append(keys, key)
		}
	}
	return keys, true
}

// partsOf returns the functions of a replacer and its values, which are no values if it does
// not have them as expected.
func partsOf(r *caddy.Replacer) (providers, static reflect.Value) {
	v := reflect.ValueOf(r).Elem()
	providers, static = v.FieldByName("providers"), v.FieldByName("static")
	if !providers.IsValid() || providers.Kind() != reflect.Slice || !static.IsValid() || static.Type() != reflect.TypeFor[map[string]any]() {
		return reflect.Value{}, reflect.Value{}
	}
	return providers, static
}

// ownProviders is how many functions the replacer of a new connection has. A fork has each of
// them too.
var ownProviders = func() int {
	providers, _ := partsOf(layer4.WrapConnection(&nowhere{}, nil, zap.NewNop()).Replacer())
	if !providers.IsValid() {
		return -1
	}
	return providers.Len()
}()

// nowhere is a connection that has only addresses.
type nowhere struct {
	net.Conn
	local, remote net.Addr
}

// LocalAddr and RemoteAddr implement net.Conn.
func (c *nowhere) LocalAddr() net.Addr  { return c.local }
func (c *nowhere) RemoteAddr() net.Addr { return c.remote }
