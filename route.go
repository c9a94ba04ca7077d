package streamprox

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// Route is a route of inspect. It has the JSON of a layer4 route, but is evaluated
// against an inspection: the outcome decides which matcher sets are asked at all.
type Route struct {
	// Name is what the log calls the route. Default: its number, from 0. The Caddyfile
	// takes the names of its matchers: `route @a @b` is called `a b`.
	Name string `json:"name,omitempty"`

	// Match holds matcher sets, of which one must match: all the matchers of a set
	// must match. No sets match the outcomes http and tls.
	MatcherSetsRaw []caddy.ModuleMap `json:"match,omitempty" caddy:"namespace=layer4.matchers"`

	// Handle holds the handlers that get the stream, from its first byte.
	HandlersRaw []json.RawMessage `json:"handle,omitempty" caddy:"namespace=layer4.handlers inline_key=handler"`

	sets     []matcherSet
	handlers []layer4.NextHandler
	to       string // what a decision calls the last of them
	inPlace  bool   // the handlers before the last one only change the head
	ahead    *Relay // the last handler, if a look can tell what those before it make of a head; else nil
}

// matcherSet is a set of matchers that must all match.
type matcherSet struct {
	inspected *MatchInspected // nil if the set does not name outcomes
	request   bool            // there is an http_request matcher among them
	matchers  []namedMatcher
}

// namedMatcher is a matcher with the name it has in the configuration. It is a set
// of one, because only a set can put a connection into matching mode.
type namedMatcher struct {
	name    string
	set     layer4.MatcherSet
	request *MatchHTTPRequest // the matcher, if it is one: it needs no connection
}

// matchError is the failure of a matcher, as opposed to its not matching.
type matchError struct {
	matcher string
	err     error
}

// Error implements error.
func (e *matchError) Error() string { return fmt.Sprintf("matcher %s: %v", e.matcher, e.err) }

// Unwrap returns the matcher's own error.
func (e *matchError) Unwrap() error { return e.err }

// provision loads the modules of the route.
func (r *Route) provision(ctx caddy.Context) error {
	loaded, err := ctx.LoadModule(r, "MatcherSetsRaw")
	if err != nil {
		return fmt.Errorf("loading matcher modules: %w", err)
	}
	for _, modules := range loaded.([]map[string]any) {
		set, err := newMatcherSet(modules)
		if err != nil {
			return err
		}
		r.sets = append(r.sets, set)
	}

	loaded, err = ctx.LoadModule(r, "HandlersRaw")
	if err != nil {
		return fmt.Errorf("loading handler modules: %w", err)
	}
	for _, module := range loaded.([]any) {
		r.handlers = append(r.handlers, module.(layer4.NextHandler))
	}
	r.to = r.whereTo()
	r.inPlace = onlyEdits(r.handlers)
	r.ahead = relayAhead(r.handlers)
	return nil
}

// Handlers that can be run for each request of a connection while the HTTP server keeps it.
type (
	eachRequest interface{ takesEach() } // takes one request after the other

	// headEditor changes the head, and runs the next handler.
	headEditor interface {
		// looksPast reports whether lookPast can be called.
		looksPast() bool

		// lookPast returns the edited request, of one that is only looked at, without what
		// follows its head. It is the caller's to forget. An error is left to Handle. It is
		// called where many sessions are served, and must not wait.
		lookPast(in *inspection) (*inspection, error)
	}
)

// onlyEdits reports whether handlers only edit heads on their way to the HTTP app.
func onlyEdits(handlers []layer4.NextHandler) bool {
	last := len(handlers) - 1
	for i, handler := range handlers {
		_, edits := handler.(headEditor)
		_, takes := handler.(eachRequest)
		if i < last && !edits || i == last && !takes {
			return false
		}
	}
	return last >= 0
}

// relayAhead returns the relay that ends handlers, if those before it are headEditors which
// can look past; else nil.
func relayAhead(handlers []layer4.NextHandler) *Relay {
	last := len(handlers) - 1
	if last < 0 {
		return nil
	}
	for _, handler := range handlers[:last] {
		if editor, ok := handler.(headEditor); !ok || !editor.looksPast() {
			return nil
		}
	}
	relay, _ := handlers[last].(*Relay)
	return relay
}

// newMatcherSet orders the matchers of a set by what they cost: the outcome, which
// is known, then the head, which is parsed, then the others by name.
func newMatcherSet(modules map[string]any) (matcherSet, error) {
	var set matcherSet
	for name, module := range modules {
		if inspected, ok := module.(*MatchInspected); ok {
			set.inspected = inspected
			continue
		}
		matcher, ok := module.(layer4.ConnMatcher)
		if !ok {
			return set, fmt.Errorf("module %q is not a layer4 matcher: %T", name, module)
		}
		request, ok := module.(*MatchHTTPRequest)
		set.request = set.request || ok
		set.matchers = append(set.matchers, namedMatcher{name: name, set: layer4.MatcherSet{matcher}, request: request})
	}
	slices.SortFunc(set.matchers, func(a, b namedMatcher) int {
		if (a.request != nil) != (b.request != nil) {
			if a.request != nil {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	return set, nil
}

// match reports whether the matcher matches the inspected connection.
func (m *namedMatcher) match(in *inspection) (bool, error) {
	if m.request == nil {
		stream, err := in.streamToMatch()
		if err != nil {
			return false, err
		}
		return m.set.Match(stream)
	}
	request := in.request()
	if request == nil {
		return false, nil
	}
	return m.request.match(request, in.streamToMatch, in.isConnect())
}

func (s *matcherSet) names(o opening.Outcome) bool { return s.inspected != nil && s.inspected.has(o) }

// match reports whether the route takes the inspected connection. An error is
// layer4.ErrConsumedAllPrefetchedBytes if that depends on bytes still to come, or a
// *matchError.
func (r *Route) match(in *inspection) (bool, error) {
	if len(r.sets) == 0 {
		return in.Outcome().ByDefault() && !in.isConnect(), nil
	}
	var needsMore error
	for i := range r.sets {
		matched, err := r.sets[i].match(in)
		switch {
		case matched:
			return true, nil
		case errors.Is(err, layer4.ErrConsumedAllPrefetchedBytes):
			needsMore = err
		case err != nil:
			return false, err
		}
	}
	return false, needsMore
}

func (s *matcherSet) match(in *inspection) (bool, error) {
	if s.excludes(in) != "" {
		return false, nil
	}
	for i := range s.matchers {
		m := &s.matchers[i]
		matched, err := m.match(in)
		switch {
		case errors.Is(err, layer4.ErrMatchingBufferFull):
			return false, nil // it cannot have what it needs: it does not match
		case errors.Is(err, layer4.ErrConsumedAllPrefetchedBytes):
			if !in.More() {
				return false, nil
			}
			return false, err
		case err != nil:
			return false, &matchError{matcher: m.name, err: err}
		case !matched:
			return false, nil
		}
	}
	return s.names(in.Outcome()) || in.Outcome().ByDefault() || s.reads(in), nil
}

// excludes returns why the set does not match whatever its matchers would answer, or "".
func (s *matcherSet) excludes(in *inspection) (why string) {
	switch named := s.names(in.Outcome()); {
	case s.inspected != nil && !named:
		return "the outcome is another one"
	case !named && !in.Outcome().ByDefault() && in.Outcome() != opening.Other:
		return "only a set that names this outcome with inspected gets it"
	case in.isConnect() && !s.request:
		return "only http_request that names the method gets CONNECT"
	}
	return ""
}

// reads reports whether one of the matchers, all of which match, depends on the bytes: it
// does not match without them. Then the destination expects what it gets. A 'not' does not
// count, since it recognizes nothing. Nor does caddy-l4's http where inspect has found no
// request: as a raw stream, that request and those behind it would pass all routes with
// http_request.
func (s *matcherSet) reads(in *inspection) bool {
	return slices.ContainsFunc(s.matchers, func(m namedMatcher) bool {
		if m.request != nil || m.name == "not" || m.name == "http" {
			return false
		}
		matched, err := m.set.Match(in.origin.fork(in.conn, nil))
		return !matched || err != nil
	})
}

// handle runs the handlers of the route, and next after them unless one of them
// keeps the stream.
func (r *Route) handle(cx *layer4.Connection, next layer4.Handler) error {
	return runHandlers(r.handlers, cx, next)
}

// lookPast returns what a route with ahead makes of a request that is only looked at: in
// itself, or an inspection that is the caller's to forget. An error is left to handle.
func (r *Route) lookPast(in *inspection) (*inspection, error) {
	edited := in
	for _, handler := range r.handlers[:len(r.handlers)-1] {
		next, err := handler.(headEditor).lookPast(edited)
		if edited != in {
			edited.forget()
		}
		if err != nil {
			return nil, err
		}
		edited = next
	}
	return edited, nil
}

func runHandlers(handlers []layer4.NextHandler, cx *layer4.Connection, next layer4.Handler) error {
	if len(handlers) == 0 {
		return next.Handle(cx)
	}
	return handlers[0].Handle(cx, layer4.HandlerFunc(func(cx *layer4.Connection) error {
		return runHandlers(handlers[1:], cx, next)
	}))
}

// endOfChain is the handler after the last one.
var endOfChain = layer4.HandlerFunc(func(*layer4.Connection) error { return nil })
