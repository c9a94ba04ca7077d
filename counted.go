package streamprox

import (
	"context"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/durations"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// What is counted for metrics.go, for as long as the process lives. Whoever counts adds to a
// number, which was found when the configuration was loaded, and waits for nobody. What is
// counted of sockets and of upstreams, the packages relay and upstream count.

// refusal is why a connection or a request went no further than this plugin.
type refusal uint8

const (
	refusedPending     refusal = iota // max_pending
	refusedPendingByIP                // max_pending_per_ip
	refusedScarce                     // descriptors
	refusedHTTP2                      // no route takes this outcome, as with those up to refusedEOF
	refusedMalformed
	refusedTooLarge
	refusedTimeout
	refusedSilent
	refusedEOF
	refusedOther      // neither HTTP nor TLS, on its way to an HTTP server
	refusedConnect    // no route names the method
	refusedMatcher    // a matcher failed
	refusedNoRoute    // 404
	refusedRewrite    // by rewrite_head: the head would be broken
	refusedForward    // by relay: the head cannot be forwarded
	refusedNoListener // by http_app: nobody listens
	refusedCircle     // the connection comes back in again and again
)

var refusalNames = [...]string{
	refusedPending:     "max_pending",
	refusedPendingByIP: "max_pending_per_ip",
	refusedScarce:      "descriptors",
	refusedHTTP2:       "http2",
	refusedMalformed:   "malformed",
	refusedTooLarge:    "too_large",
	refusedTimeout:     "timeout",
	refusedSilent:      "silent",
	refusedEOF:         "eof",
	refusedOther:       "other",
	refusedConnect:     "connect",
	refusedMatcher:     "matcher",
	refusedNoRoute:     "no_route",
	refusedRewrite:     "rewrite",
	refusedForward:     "forward",
	refusedNoListener:  "no_listener",
	refusedCircle:      "circle",
}

// refusalOf is the refusal of an outcome that no route takes.
func refusalOf(o opening.Outcome) refusal { return refusedHTTP2 + refusal(o-opening.HTTP2) }

var refusals [len(refusalNames)]atomic.Uint64

// count counts one more.
func (r refusal) count() { refusals[r].Add(1) }

// ownAnswers counts the responses that were made here, by their status.
var ownAnswers answerCounts

type answerCounts [600]atomic.Uint64

func (a *answerCounts) count(status int) {
	if 0 <= status && status < len(a) {
		a[status].Add(1)
	}
}

// inspectionTook is how long inspections took, up to the last packet.
var inspectionTook durations.Histogram

// inspecting is what is being read to know where it belongs.
var inspecting struct{ connections, bytes atomic.Int64 }

// readOpening is an opening that is counted in inspecting until done.
type readOpening struct {
	*opening.Opening
	bytes int
}

func countReading(o *opening.Opening) (r readOpening) {
	inspecting.connections.Add(1)
	r.Opening = o
	r.update()
	return r
}

// update counts what has arrived since the last call.
func (r *readOpening) update() {
	inspecting.bytes.Add(int64(len(r.Data()) - r.bytes))
	r.bytes = len(r.Data())
}

func (r *readOpening) done() {
	inspecting.bytes.Add(int64(-r.bytes))
	inspecting.connections.Add(-1)
}

// parkedConnections is how many wait outside the HTTP server.
var parkedConnections atomic.Int64

// underWay is what a destination has of a client.
type underWay uint8

const (
	nothing       underWay = iota
	relayRequest           // a request and its response
	relayStream            // a raw stream
	appConnection          // a connection in the HTTP server
)

var underWayNames = [...]struct{ destination, kind string }{
	relayRequest:  {"relay", "request"},
	relayStream:   {"relay", "stream"},
	appConnection: {"http_app", "connection"},
}

// Why a connection in the HTTP server ended there, besides the causes of package relay.
var (
	endClosed = relay.Cause(len(relay.CauseNames())) // the server, or a hijacker, has closed it
	endMoved  = endClosed + 1                        // its next request belongs elsewhere
	endParked = endClosed + 2                        // it was idle
)

var endNames = append(relay.CauseNames(), "closed", "moved", "parked")

// routeCounts is what is counted of the routes with one name, those of all configurations
// together. A nil one counts nothing.
type routeCounts struct {
	inspections []atomic.Uint64 // by outcome
	streams     [len(underWayNames)]streamCounts
	unreached   []atomic.Uint64 // by upstream.Reason
	repeated    atomic.Uint64
}

// streamCounts is what is counted of one kind of what is under way.
type streamCounts struct {
	used   atomic.Bool // there is a handler for it
	active atomic.Int64
	ended  []atomic.Uint64 // by cause
}

func newRouteCounts() *routeCounts {
	c := &routeCounts{
		inspections: make([]atomic.Uint64, len(opening.Names())),
		unreached:   make([]atomic.Uint64, len(upstream.ReasonNames())),
	}
	for i := range c.streams {
		c.streams[i].ended = make([]atomic.Uint64, len(endNames))
	}
	return c
}

// idle reports whether nothing is under way.
func (c *routeCounts) idle() bool {
	for i := range c.streams {
		if c.streams[i].active.Load() != 0 {
			return false
		}
	}
	return true
}

// uses notes that there is a handler for what is under way like that.
func (c *routeCounts) uses(kinds ...underWay) {
	for _, kind := range kinds {
		c.streams[kind].used.Store(true)
	}
}

// begins counts something that is under way from now on.
func (c *routeCounts) begins(kind underWay) {
	if c != nil && kind != nothing {
		c.streams[kind].active.Add(1)
	}
}

// leaves ends what begins began, without a cause: it has not ended.
func (c *routeCounts) leaves(kind underWay) {
	if c != nil && kind != nothing {
		c.streams[kind].active.Add(-1)
	}
}

// ends ends what begins began.
func (c *routeCounts) ends(kind underWay, cause relay.Cause) {
	if c != nil && kind != nothing {
		c.streams[kind].active.Add(-1)
		c.streams[kind].ended[cause].Add(1)
	}
}

// fails counts a client for which no upstream was reached.
func (c *routeCounts) fails(reason upstream.Reason) {
	if c != nil {
		c.unreached[reason].Add(1)
	}
}

// count counts the inspection, whose route is chosen.
func (in *inspection) count() {
	if c := in.inspect.countsOf(in.route); c != nil {
		c.inspections[in.Outcome()].Add(1)
		inspectionTook.Observe(in.took)
	}
}

// countsOf returns what is counted of the route with that index, -1 for none.
func (h *Inspect) countsOf(route int) *routeCounts {
	if h.counts == nil {
		return nil // not provisioned
	}
	return h.counts[route+1]
}

// is notes what the engine does with the connection from now on.
func (r *relayed) is(kind underWay) {
	r.relay.counts.leaves(r.kind)
	r.kind = kind
	r.relay.counts.begins(kind)
}

// isOver notes the end of that.
func (r *relayed) isOver(cause relay.Cause) {
	r.relay.counts.ends(r.kind, cause)
	r.kind = nothing
}

// isUnsent notes that the request under way, if one is, was not carried out: its connection
// had been closed by the upstream.
func (r *relayed) isUnsent() {
	if c := r.relay.counts; c != nil && r.kind == relayRequest {
		c.repeated.Add(1)
	}
	r.is(nothing)
}

// appBytes counts the bytes that the HTTP server has read and written.
var appBytes struct{ toServer, toClient atomic.Int64 }

// routesCounted holds what is counted of routes, by their names. Without one, the name is that
// of the log: none.
var routesCounted = table[routeCounts]{make: newRouteCounts, idle: (*routeCounts).idle}

// handOffs holds how many connections were delivered, by the address of the listener.
var handOffs = table[atomic.Uint64]{
	make: func() *atomic.Uint64 { return new(atomic.Uint64) },
	idle: func(*atomic.Uint64) bool { return true },
}

// wrappedServer is in the place of an address where the server is that around the wrapper.
const wrappedServer = "wrapped"

// countHandOffs finds where to count what is delivered to the listeners.
func (t *httpListeners) countHandOffs(ctx context.Context) {
	if t != nil && t.plain != "" {
		t.toPlain = handOffs.use(ctx, t.plain)
	}
	if t != nil && t.tls != "" {
		t.toTLS = handOffs.use(ctx, t.tls)
	}
}

// handedOff counts a connection that was delivered to an address.
func (h *HTTPApp) handedOff(address string) {
	targets, _ := h.targets()
	if address == targets.tls {
		targets.toTLS.Add(1)
	} else {
		targets.toPlain.Add(1)
	}
}

// refusalTo returns why http_app refuses a connection with that status.
func refusalTo(status int) refusal {
	if status == http.StatusLoopDetected {
		return refusedCircle
	}
	return refusedNoListener
}

// routeNameKey is the key under which a context has the name of the route of inspect whose
// handlers are being provisioned.
type routeNameKey struct{}

// contextOfRoute returns the context for the handlers of a route.
func contextOfRoute(ctx caddy.Context, name string) caddy.Context {
	return ctx.WithValue(routeNameKey{}, name)
}

// countsOfRoute returns what is counted of the route whose handlers are provisioned with ctx.
func countsOfRoute(ctx caddy.Context) *routeCounts {
	name, ok := ctx.Value(routeNameKey{}).(string)
	if !ok {
		name = noRoute
	}
	return routesCounted.use(ctx, name)
}
