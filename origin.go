package streamprox

import (
	"context"
	"maps"
	"net"
	"reflect"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// origin is what a stream takes over from the connection that it is a fork of: what was set
// there by whoever has had that before.
type origin struct {
	parent *layer4.Connection // the connection; nil if it is not kept, but what follows

	logger  *zap.Logger
	vars    map[string]any // nil if there are none
	fixed   map[string]any // the values of placeholders, but for the next one
	wrapped time.Time      // when the connection came
	conn    net.Conn       // beneath all those of layer4; nil: it is a socket, whose addresses are all that is of use

	ends account.Ends // of the connection, for whoever waits
}

// log returns the connection's logger.
func (o *origin) log() *zap.Logger {
	if o.parent != nil {
		return o.parent.Logger
	}
	return o.logger
}

// context returns the connection's context.
func (o *origin) context() context.Context {
	if o.parent != nil {
		return o.parent.Context
	}
	return context.Background()
}

// variables returns the connection's variables, which are not to be changed.
func (o *origin) variables() map[string]any {
	if o.parent != nil {
		return variablesOf(o.parent)
	}
	return o.vars
}

// base returns the connection beneath all those of layer4, in which TLS may have ended. It may
// be nil if it is a socket.
func (o *origin) base() net.Conn {
	if o.parent != nil {
		return innermost(o.parent)
	}
	return o.conn
}

// client returns what stands for the connection: it has its addresses.
func (o *origin) client() net.Conn {
	if conn := o.base(); conn != nil {
		return conn
	}
	return &nowhere{ends: o.ends}
}

// placeholders returns what knows the values of the connection's placeholders.
func (o *origin) placeholders() func(key string) (value any, known bool) {
	if o.parent != nil {
		return o.parent.Context.Value(replacerKey).(*caddy.Replacer).Get
	}
	fixed, wrapped := o.fixed, o.wrapped
	return func(key string) (value any, known bool) {
		if key == layer4.ConnWrapTimeReplKey && !wrapped.IsZero() {
			return wrapped, true
		}
		value, known = fixed[key]
		return value, known
	}
}

// replacerKey is the key of the replacer, as one that costs no memory to look for.
var replacerKey any = layer4.ReplacerCtxKey

// lean returns an origin that gives the same to forks and is small, for a connection that
// waits. caddy-l4's record of a connection has 1.2 KiB, with its replacer and its maps, and a
// buffer of 2 KiB. So what is of use is taken out of it, where it is certain that this is all.
// It does not change any more: what handlers set from now on, they set on a fork.
func (o *origin) lean() origin {
	if o.parent == nil {
		return *o // it is one
	}
	conn := innermost(o.parent)
	ends := account.EndsOf(conn.RemoteAddr(), conn.LocalAddr())
	same := origin{parent: o.parent, ends: ends}
	if !isBare(o.parent.Context) {
		return same
	}
	replacer := o.parent.Context.Value(replacerKey).(*caddy.Replacer)
	keys, ok := fixedKeys(replacer)
	if !ok {
		return same
	}
	small := origin{logger: o.parent.Logger, vars: o.variables(), ends: ends}
	if !socket.Is(conn) {
		small.conn = conn
	}
	if _, ok := small.vars[stockHTTPRequestVar]; ok {
		small.vars = maps.Clone(small.vars)
		delete(small.vars, stockHTTPRequestVar)
	}
	if len(small.vars) == 0 {
		small.vars = nil
	}
	for _, key := range keys {
		value, known := replacer.Get(key)
		wrapped, isTime := value.(time.Time)
		switch {
		case !known:
		case key == layer4.ConnWrapTimeReplKey && isTime && !wrapped.IsZero():
			small.wrapped = wrapped
		default:
			if small.fixed == nil {
				small.fixed = make(map[string]any)
			}
			small.fixed[key] = value
		}
	}
	return small
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
var valueCtx = reflect.TypeOf(context.WithValue(context.Background(), variablesKey, nil))

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
	ends account.Ends
}

// LocalAddr and RemoteAddr implement net.Conn.
func (c *nowhere) LocalAddr() net.Addr  { return c.ends.Local() }
func (c *nowhere) RemoteAddr() net.Addr { return c.ends.Client() }
