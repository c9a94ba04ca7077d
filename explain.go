package streamprox

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What would become of a connection: explain takes the bytes with which one begins through
// the routes of a listener, and says what each answers and where the bytes would go. The
// code that decides is that of real connections: explain gives it a connection in memory,
// and stops where a handler would begin to act. Nothing is dialled, looked up or counted.
//
// This file has the question and the answer, explain_walk.go the way through the routes,
// explain_handlers.go what becomes of the bytes at each handler.

const (
	maxExplained  = 64 << 10    // bytes of a connection
	explainTime   = time.Second // for an answer
	explainAtOnce = 2           // how many answers may be under way

	explainClient = "192.0.2.1" // the address of a client of which none is given
	explainPort   = 49152       // of a client without one: the first that a system would take
)

// explainRequest is a question to explain.
type explainRequest struct {
	// Where the connection comes in: an address of a layer4 server, or of an HTTP server with
	// the layer4 listener wrapper, or the name of such a server. May be empty if there is
	// only one.
	Listen string `json:"listen,omitempty"`

	// The address of the client, with or without a port. Default: 192.0.2.1.
	Client string `json:"client,omitempty"`

	// What the client has sent so far, as bytes or as text. Where TLS is terminated before
	// the routes, that is what is inside.
	Bytes []byte `json:"bytes,omitempty"`
	Text  string `json:"text,omitempty"`

	// The client has finished sending after that. Default: it waits.
	End bool `json:"end,omitempty"`

	// A configuration to ask in the place of the one that runs.
	Config json.RawMessage `json:"config,omitempty"`
}

// explanation is the answer.
type explanation struct {
	Listener explainedListener `json:"listener"`
	Client   string            `json:"client"`
	Given    int               `json:"given"` // how many bytes

	// More bytes would decide. The rest says what happens if none come.
	NeedsMore bool `json:"needs_more,omitempty"`

	// The routes that the connection passes: those of the server, or of each layer4 wrapper.
	Routes []*explainedRoutes `json:"routes"`

	Destination explainedDestination `json:"destination"`
	Next        explainedNext        `json:"next_request"`
}

// explainedListener is where the connection comes in.
type explainedListener struct {
	App     string `json:"app"` // layer4 or http
	Server  string `json:"server"`
	Address string `json:"address"`
	TLS     bool   `json:"tls,omitempty"` // terminated before the routes see it

	routes    *servedRoutes
	speaksTLS bool // the server does
	at        caddy.NetworkAddress
}

// explainedRoutes is a list of routes.
type explainedRoutes struct {
	Of         string               `json:"of"` // layer4, subroute or inspect
	Inspection *explainedInspection `json:"inspection,omitempty"`
	Routes     []*explainedRoute    `json:"routes"`
}

// explainedInspection is what an inspect finds out.
type explainedInspection struct {
	Outcome   string         `json:"outcome"`
	Reason    string         `json:"reason,omitempty"` // why it is not http
	Clause    string         `json:"clause,omitempty"` // the rule that is broken
	Read      int            `json:"read"`             // how many bytes
	NeedsMore bool           `json:"needs_more,omitempty"`
	Head      *explainedHead `json:"head,omitempty"`
}

// explainedHead is a request.
type explainedHead struct {
	Method  string `json:"method"`
	Host    string `json:"host,omitempty"`
	Path    string `json:"path,omitempty"`
	Query   string `json:"query,omitempty"`
	Version string `json:"version"`
	Length  int    `json:"length"` // of the head, in bytes
}

// The answers of routes and matchers.
const (
	answerYes      = "yes"
	answerNo       = "no"
	answerMore     = "needs more bytes"
	answerFailed   = "failed"
	answerNotAsked = "not asked"
	answerUnknown  = "unknown" // it depends on what is not kept
)

// explainedRoute is a route, and what it answers.
type explainedRoute struct {
	Name     string              `json:"name"`
	Answer   string              `json:"answer"`
	Why      string              `json:"why,omitempty"` // it does not match without any matcher
	Sets     []*explainedSet     `json:"match,omitempty"`
	Handlers []*explainedHandler `json:"handle,omitempty"` // of a route that is taken, as far as the connection comes
}

// explainedSet is a matcher set.
type explainedSet struct {
	Why      string              `json:"why,omitempty"` // it does not match whatever its matchers answer
	Matchers []*explainedMatcher `json:"matchers"`
}

// explainedMatcher is a matcher, and what it answers.
type explainedMatcher struct {
	Name   string          `json:"name"`
	Config json.RawMessage `json:"config,omitempty"`
	Answer string          `json:"answer"`
	Error  string          `json:"error,omitempty"`
}

// explainedHandler is a handler on the way.
type explainedHandler struct {
	Name   string           `json:"name"`
	Does   string           `json:"does,omitempty"`
	Inside *explainedRoutes `json:"inside,omitempty"` // of inspect and subroute
}

// The kinds of destinations, besides toRelay, and toHTTPApp for a server of the HTTP app by way
// of http_app or of the listener wrapper.
const (
	toHandler = "handler" // one of another plugin
	toAnswer  = "answer"  // made here
	toClosed  = "closed"
	toUnknown = "unknown" // of what was kept of a decision
)

// explainedDestination is where the bytes go.
type explainedDestination struct {
	Kind     string `json:"kind"`
	Why      string `json:"why,omitempty"`
	Handler  string `json:"handler,omitempty"`
	Server   string `json:"server,omitempty"`   // of the HTTP app
	Listener string `json:"listener,omitempty"` // of that server

	// Of relay. The address is that of the server which is tried first, if that is certain.
	Address   string              `json:"address,omitempty"`
	TLS       bool                `json:"tls,omitempty"`
	Policy    string              `json:"policy,omitempty"`
	Upstreams []explainedUpstream `json:"upstreams,omitempty"`

	Status   int    `json:"status,omitempty"`
	Response string `json:"response,omitempty"` // which begins with that status

	// What the destination gets of the bytes.
	Sent []byte `json:"sent,omitempty"`
}

// explainedUpstream is an upstream of relay as it is now.
type explainedUpstream struct {
	Address string  `json:"address"`
	Streams int64   `json:"streams"`
	First   bool    `json:"first,omitempty"` // it is tried first, or is one of those of which one is
	Out     string  `json:"out,omitempty"`   // why nothing is sent there
	Backup  bool    `json:"backup,omitempty"`
	Ejected bool    `json:"ejected,omitempty"`
	Share   float64 `json:"share,omitempty"` // the part of its share that slow start gives it, if not all
}

// What becomes of the next request on the connection.
const (
	nextRouted = "routed"
	nextPinned = "pinned" // it goes where the first went, without being looked at
	nextClosed = "closed" // there is none

	nextUnknown = "unknown"
)

// explainedNext is what becomes of the next request on the connection.
type explainedNext struct {
	Fate string `json:"fate"`
	Why  string `json:"why,omitempty"`
}

// explainError is why a question has no answer. As JSON it goes from the process that
// explainElsewhere begins to this one.
type explainError struct {
	Status int    `json:"status"` // of HTTP
	Text   string `json:"error"`
}

// Error implements error.
func (e *explainError) Error() string { return e.Text }

// explainErrorOf returns an error of this package as it is, and any other with the status 500.
func explainErrorOf(err error) *explainError {
	var known *explainError
	if errors.As(err, &known) {
		return known
	}
	return &explainError{http.StatusInternalServerError, err.Error()}
}

func explainErrorf(status int, format string, args ...any) error {
	return &explainError{status, fmt.Sprintf(format, args...)}
}

// explaining has a place for each explanation that may be under way.
var explaining = make(chan struct{}, explainAtOnce)

// explainLimited answers for the configuration of ctx within the limits of time and number.
func explainLimited(ctx caddy.Context, r *explainRequest) (*explanation, error) {
	return limited(explainTime, func() (*explanation, error) { return explain(ctx, r) })
}

// limited returns what f returns, unless as many run as may, or f takes longer than patience.
// A place is free again when f has returned.
func limited[T any](patience time.Duration, f func() (T, error)) (none T, err error) {
	select {
	case explaining <- struct{}{}:
	default:
		return none, explainErrorf(http.StatusTooManyRequests, "%d explanations are under way; ask again when one is done", explainAtOnce)
	}
	type result struct {
		answer T
		err    error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-explaining }()
		defer func() {
			if p := recover(); p != nil {
				done <- result{err: fmt.Errorf("a module has failed: %v", p)}
			}
		}()
		answer, err := f()
		done <- result{answer, err}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-timer.C:
		return none, explainErrorf(http.StatusGatewayTimeout, "no answer within %s", patience)
	}
}

// explain answers for the configuration of ctx, whose apps are provisioned.
func explain(ctx caddy.Context, r *explainRequest) (*explanation, error) {
	given, err := r.given()
	if err != nil {
		return nil, err
	}
	listener, err := findListener(ctx, r.Listen)
	if err != nil {
		return nil, err
	}
	if !listener.routes.known() {
		return nil, explainErrorf(http.StatusNotImplemented, "server %s: which handler stands where is not known; one of another plugin may hold routes", listener.Server)
	}
	local, remote, err := r.addresses(listener.at)
	if err != nil {
		return nil, err
	}
	answer := &explanation{Listener: *listener, Client: remote.String(), Given: len(given)}
	conn := &givenConn{data: given, end: r.End, local: local, remote: remote}
	if err := answer.walk(ctx, conn); err != nil {
		return nil, err
	}
	return answer, nil
}

// given returns the bytes.
func (r *explainRequest) given() ([]byte, error) {
	if len(r.Bytes) > 0 && r.Text != "" {
		return nil, explainErrorf(http.StatusBadRequest, "bytes and text: give one of them")
	}
	given := r.Bytes
	if r.Text != "" {
		given = []byte(r.Text)
	}
	if len(given) > maxExplained {
		return nil, explainErrorf(http.StatusRequestEntityTooLarge, "bytes: %d are more than %d", len(given), maxExplained)
	}
	return given, nil
}

// addresses returns the addresses of the connection, which comes in there.
func (r *explainRequest) addresses(at caddy.NetworkAddress) (local, remote net.Addr, err error) {
	if at.IsUnixNetwork() {
		if r.Client != "" {
			return nil, nil, explainErrorf(http.StatusBadRequest, "client: a client on a Unix socket has no address")
		}
		return &net.UnixAddr{Name: unixPath(at.Host), Net: "unix"}, &net.UnixAddr{Name: "@", Net: "unix"}, nil
	}
	text := cmp.Or(r.Client, explainClient)
	client, err := netip.ParseAddrPort(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, nil, explainErrorf(http.StatusBadRequest, "client: %q is not an IP address, with or without a port", text)
		}
		client = netip.AddrPortFrom(addr, explainPort)
	}
	host, err := netip.ParseAddr(at.Host)
	if err != nil || host.IsUnspecified() {
		host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(host, uint16(at.StartPort))), net.TCPAddrFromAddrPort(client), nil
}

// findListener returns the listener that is asked about.
func findListener(ctx caddy.Context, listen string) (*explainedListener, error) {
	listeners, err := explainable(ctx)
	if err != nil {
		return nil, err
	}
	best, how := []*explainedListener(nil), answersNot
	for _, l := range listeners {
		switch h := l.answersTo(listen); {
		case h > how:
			best, how = []*explainedListener{l}, h
		case h == how && h != answersNot:
			best = append(best, l)
		}
	}
	switch {
	case len(listeners) == 0:
		return nil, explainErrorf(http.StatusNotFound, "no server of the configuration has a handler of streamprox in routes of layer4")
	case len(best) == 0:
		return nil, explainErrorf(http.StatusNotFound, "listen: nothing with routes of streamprox listens on %s; there are %s", listen, describe(listeners))
	case len(best) > 1 && !sameServer(best):
		return nil, explainErrorf(http.StatusBadRequest, "listen: name one of %s", describe(best))
	}
	return best[0], nil
}

// explainable returns the listeners with routes of layer4 that hold handlers of this package.
func explainable(ctx caddy.Context) ([]*explainedListener, error) {
	var listeners []*explainedListener
	for _, app := range []string{"layer4", "http"} {
		module, err := ctx.AppIfConfigured(app)
		if errors.Is(err, caddy.ErrNotConfigured) {
			continue
		}
		if err != nil {
			return nil, err
		}
		known, ok := checked.Load(module)
		if !ok {
			continue // none of its handlers is of this package
		}
		servers := known.(*findings).places
		for _, name := range sortedKeys(servers) {
			for _, address := range listenAddresses(servers[name].listen) {
				for _, at := range address.Expand() {
					l := &explainedListener{App: app, Server: name, Address: at.String(), routes: servers[name], at: at}
					if http, ok := module.(*caddyhttp.App); ok {
						l.speaksTLS = len(http.Servers[name].TLSConnPolicies) > 0 && at.StartPort != httpPort(http)
						l.TLS = l.speaksTLS && !l.routes.beforeTLS[0]
					}
					listeners = append(listeners, l)
				}
			}
		}
	}
	return listeners, nil
}

// How well a listener answers to what is asked for.
const (
	answersNot = iota
	answersByPort
	answersByAny // it listens on all addresses of the machine
	answersExactly
)

// answersTo returns how well the listener answers to an address or the name of a server.
func (l *explainedListener) answersTo(listen string) int {
	if listen == "" || listen == l.Server {
		return answersExactly
	}
	asked, err := caddy.ParseNetworkAddress(listen)
	switch {
	case err != nil || asked.PortRangeSize() != 1:
		return answersNot
	case asked.String() == l.at.String():
		return answersExactly
	case asked.Network != l.at.Network || asked.IsUnixNetwork() || asked.StartPort != l.at.StartPort:
		return answersNot
	case isAny(l.at.Host) && isAny(asked.Host):
		return answersExactly
	case isAny(l.at.Host):
		return answersByAny
	case isAny(asked.Host):
		return answersByPort
	}
	return answersNot
}

// isAny reports whether a host to listen on is all addresses of the machine.
func isAny(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

// sameServer reports whether all listeners are of one server, and TLS is terminated for all
// of them or for none.
func sameServer(listeners []*explainedListener) bool {
	return !slices.ContainsFunc(listeners, func(l *explainedListener) bool {
		return l.routes != listeners[0].routes || l.TLS != listeners[0].TLS
	})
}

// describe lists listeners.
func describe(listeners []*explainedListener) string {
	var names []string
	for _, l := range listeners {
		names = append(names, fmt.Sprintf("%s (server %s of %s)", l.Address, l.Server, l.App))
	}
	return strings.Join(names, ", ")
}
