package streamprox

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/socket"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// server is a connection to an upstream.
type server struct {
	conn  net.Conn
	to    *upstream.Reservation // its place is taken while a request, or a raw stream, is under way
	leave func()                // forgets that the connection may come back in
}

// keptServer is a connection to an upstream that a request has left for the next one of the
// same client. It is closed when nobody takes it in time.
type keptServer struct {
	server
	relay *Relay
	since time.Time // the last response on it was complete

	mu    sync.Mutex
	timer *time.Timer // closes the connection
	gone  bool        // it is closed, or taken
}

// newKeptServer returns s, which a request by way of h has left at that time.
func newKeptServer(h *Relay, s server, since time.Time) *keptServer {
	k := &keptServer{server: s, relay: h, since: since}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.timer = time.AfterFunc(h.upstreamKeepalive, k.drop)
	return k
}

// take returns the connection, unless it is closed. The upstream may have closed it.
func (k *keptServer) take() (server, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return server{}, false
	}
	k.gone = true
	k.timer.Stop()
	if !socket.Quiet(k.conn) {
		socket.Reset(k.conn)
		k.leave()
		return server{}, false
	}
	return k.server, true
}

// drop closes the connection, unless somebody has taken it.
func (k *keptServer) drop() {
	if s, ok := k.take(); ok {
		socket.Reset(s.conn)
		s.leave()
	}
}

// takeKept returns the connection to the upstream that the request before has left. It
// reports false if there is none, or if this request, with that method, must not use it.
func (h *Relay) takeKept(in *inspection, client *upstream.Client, method string) (server, bool) {
	if in == nil || in.turn.kept == nil {
		return server{}, false
	}
	kept := in.turn.kept
	in.turn.kept = nil
	to := h.placeAt(kept, client, method)
	if to == nil {
		kept.drop()
		return server{}, false
	}
	s, ok := kept.take()
	if !ok {
		to.Release()
		return server{}, false
	}
	s.to = to
	to.Reuse()
	return s, true
}

// placeAt reserves a place at the upstream of a kept connection. It returns nil if the
// request, with that method, is not for that connection.
func (h *Relay) placeAt(kept *keptServer, client *upstream.Client, method string) *upstream.Reservation {
	switch {
	case kept.relay != h, h.pool.PerClient():
	case !isRepeatable(method) && time.Since(kept.since) > freshAnswer:
		// The upstream may be closing it, and the request must not be sent twice.
	default:
		if to, ok := h.pool.Again(kept.to.Server, client); ok {
			return to
		}
	}
	return nil
}

// renew reserves a place once more at the server that the request before has gone to, if the
// policy sends there the request of in, too, which is only looked at.
func (h *Relay) renew(r *upstream.Reservation, in *inspection) bool {
	var client upstream.Client
	if h.pool.PerRequest() {
		client.Stream = &layer4.Connection{Conn: in.client(), Context: relayedContext(context.Background(), in)}
	}
	return h.pool.Renew(r, &client)
}

// freshAnswer is how long ago an upstream must have answered on a connection for a request
// to be sent on it that must not be sent twice.
const freshAnswer = time.Second
