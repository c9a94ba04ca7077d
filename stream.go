package streamprox

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
)

// defaultSilentTimeout is how long the first byte may take where no option says so.
const defaultSilentTimeout = 15 * time.Second

// drain takes the bytes that cx has buffered out of it and returns them together
// with the connection they were read from. The bytes are the caller's own: the
// buffer of cx is pooled by caddy-l4 and returns to its pool while a connection
// that was passed on still lives.
func drain(cx *layer4.Connection) (pending []byte, conn net.Conn) {
	for {
		if n := len(cx.MatchingBytes()); n > 0 {
			buf := make([]byte, n)
			n, _ = cx.Read(buf) // copies from the buffer and resets it; cannot fail
			if pending == nil {
				pending = buf[:n]
			} else {
				pending = append(pending, buf[:n]...)
			}
		}
		inner, ok := cx.Conn.(*layer4.Connection)
		if !ok {
			return pending, cx.Conn
		}
		cx = inner
	}
}

// innermost returns the connection beneath all those of layer4.
func innermost(cx *layer4.Connection) net.Conn {
	for {
		inner, ok := cx.Conn.(*layer4.Connection)
		if !ok {
			return cx.Conn
		}
		cx = inner
	}
}

// fork returns a connection that first reads pending, which it owns from now on, and then
// conn. It has the context, the variables and the placeholders of its origin. If its variables
// hold an inspection, the placeholders of that come first. What caddy-l4's http matcher has
// left there is not passed on: that matcher keeps its request for the life of a connection,
// so a second request would be matched as the first one.
func (o *origin) fork(conn net.Conn, pending []byte) *layer4.Connection {
	forked := layer4.WrapConnection(conn, pending, o.log())

	vars := variablesOf(forked)
	for key, value := range o.variables() {
		if key != stockHTTPRequestVar {
			vars[key] = value
		}
	}

	repl, inherited := forked.Replacer(), o.placeholders()
	if started, ok := inherited(layer4.ConnWrapTimeReplKey); ok {
		repl.Set(layer4.ConnWrapTimeReplKey, started)
	}
	repl.Map(func(key string) (any, bool) {
		if in, ok := vars[inspectionVar].(placeholderSource); ok {
			if value, known := in.placeholder(key); known {
				return value, true
			}
		}
		if strings.HasPrefix(key, stockHTTPReplPrefix) {
			return nil, false
		}
		return inherited(key)
	})

	ctx := context.WithValue(o.context(), layer4.VarsCtxKey, vars)
	forked.Context = context.WithValue(ctx, layer4.ReplacerCtxKey, repl)
	return forked
}

// forkOf returns a fork of cx.
func forkOf(cx *layer4.Connection, conn net.Conn, pending []byte) *layer4.Connection {
	o := origin{parent: cx}
	return o.fork(conn, pending)
}

// placeholderSource is an inspection, to a stream: it knows the values of placeholders.
type placeholderSource interface {
	placeholder(key string) (value any, known bool)
}

// handingOver is the context of a stream that is told when caddy-l4 hands the stream to
// the wrapped server: then, and only then, it asks for the listener.
type handingOver struct {
	context.Context
	told func()
}

// Value implements context.Context.
func (c handingOver) Value(key any) any {
	if key == wrapperListenerKey {
		c.told()
	}
	return c.Context.Value(key)
}

// wrapperListenerKey is the key under which caddy-l4 keeps the listener of a wrapper.
var wrapperListenerKey any = caddy.CtxKey("listener")

// refusedConn is a connection that is not for the server that reads it.
type refusedConn struct{ net.Conn }

// Read answers the client, and is the end.
func (c refusedConn) Read([]byte) (int, error) {
	refusedOther.count()
	answer(c.Conn, http.StatusBadRequest, false)
	return 0, io.EOF
}

// What caddy-l4's http matcher leaves on a connection.
const (
	stockHTTPRequestVar = "http_request"
	stockHTTPReplPrefix = layer4.AppReplPrefix + "http."
)

// setTLSState is for TLS that Caddy has terminated before a listener wrapper. It sets the
// variable in which caddy-l4's tls handler keeps the state of a TLS connection.
func setTLSState(cx *layer4.Connection) {
	conn, ok := cx.Conn.(withTLS)
	if !ok || cx.GetVar(layer4.TLSConnectionStatesVarName) != nil {
		return
	}
	state := conn.ConnectionState()
	cx.SetVar(layer4.TLSConnectionStatesVarName, []*tls.ConnectionState{&state})
}

// variablesOf returns the variables of cx.
func variablesOf(cx *layer4.Connection) map[string]any {
	vars, _ := cx.Context.Value(variablesKey).(map[string]any)
	return vars
}

// variablesKey is the key of the variables, as one that costs no memory to look for.
var variablesKey any = layer4.VarsCtxKey

// tlsTerminated reports whether TLS was terminated on the way to a connection with these
// variables, of which conn is the one beneath.
func tlsTerminated(vars map[string]any, conn net.Conn) bool {
	_, ok := conn.(withTLS)
	return ok || lastTLSState(vars) != nil
}

// withTLS is a connection whose TLS ends here, as *tls.Conn, or has ended before, as
// tlsServedConn where a listener wrapper gets it.
type withTLS interface {
	ConnectionState() tls.ConnectionState
}

// tlsState returns the state of the innermost TLS connection that was terminated
// on the way to cx, or nil.
func tlsState(cx *layer4.Connection) *tls.ConnectionState { return lastTLSState(variablesOf(cx)) }

// lastTLSState is tlsState for a connection with these variables.
func lastTLSState(vars map[string]any) *tls.ConnectionState {
	states, _ := vars[layer4.TLSConnectionStatesVarName].([]*tls.ConnectionState)
	if len(states) == 0 {
		return nil
	}
	return states[len(states)-1]
}

// finishHandshake completes the handshake of a TLS connection that nobody has read
// from, which may take as long as patience: the state that the HTTP server sees must be
// complete.
func finishHandshake(conn net.Conn, patience time.Duration) error {
	tlsConn, ok := conn.(*tls.Conn)
	if !ok || tlsConn.ConnectionState().HandshakeComplete {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return tlsConn.HandshakeContext(ctx)
}
