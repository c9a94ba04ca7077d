package streamprox

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// Explaining a decision of which no more is known than what was kept. Its head is made anew,
// without the values of fields. A matcher that depends on those is not asked: what it would
// answer is unknown, unless the decision has kept the answer of the same matchers.

// keptMemory is what many such decisions have in common on their way through one configuration.
type keptMemory struct {
	ctx caddy.Context // for modules that are loaded to be asked

	canonical    map[*configRoute]string
	matchers     map[string]layer4.ConnMatcher // by module and configuration; nil: it cannot be loaded
	sets         map[string][]caddy.ModuleMap  // by their JSON; nil: it is none
	placeholders map[string]bool               // whether a configuration may have one
	known        map[string]json.RawMessage    // a set of matchers of the HTTP app as those of http_request
	compact      map[string]json.RawMessage    // what compactJSON returns
}

// newKeptMemory returns one for the configuration of ctx, and what lets go of it.
func newKeptMemory(ctx caddy.Context) (*keptMemory, context.CancelFunc) {
	loading, cancel := caddy.NewContext(ctx)
	return &keptMemory{
		ctx:          loading,
		canonical:    make(map[*configRoute]string),
		matchers:     make(map[string]layer4.ConnMatcher),
		sets:         make(map[string][]caddy.ModuleMap),
		placeholders: make(map[string]bool),
		known:        make(map[string]json.RawMessage),
		compact:      make(map[string]json.RawMessage),
	}, cancel
}

// remember returns what make has made of the key, once.
func remember[K comparable, V any](known map[K]V, key K, make func() V) V {
	v, ok := known[key]
	if !ok {
		v = make()
		known[key] = v
	}
	return v
}

// canonicalOf returns the matchers of a route as canonicalMatch does.
func (m *keptMemory) canonicalOf(route *configRoute) string {
	return remember(m.canonical, route, func() string { return canonicalMatch(route.Match) })
}

// matcher returns a matcher of layer4, nil if it cannot be loaded.
func (m *keptMemory) matcher(name string, config json.RawMessage) layer4.ConnMatcher {
	return remember(m.matchers, name+" "+string(config), func() layer4.ConnMatcher {
		module, err := m.ctx.LoadModuleByID("layer4.matchers."+name, config)
		if err != nil {
			return nil
		}
		matcher, _ := module.(layer4.ConnMatcher)
		return matcher
	})
}

// setsOf returns the sets of matchers in a configuration. It reports false if they are none.
func (m *keptMemory) setsOf(config json.RawMessage) (sets []caddy.ModuleMap, ok bool) {
	sets = remember(m.sets, string(config), func() []caddy.ModuleMap {
		sets := []caddy.ModuleMap{}
		if json.Unmarshal(config, &sets) != nil {
			return nil
		}
		return sets
	})
	return sets, sets != nil
}

// hasPlaceholder reports whether a text in a configuration may have one.
func (m *keptMemory) hasPlaceholder(config json.RawMessage) bool {
	return remember(m.placeholders, string(config), func() bool { return hasPlaceholder(config) })
}

// compactOf returns what compactJSON returns. m may be nil.
func (m *keptMemory) compactOf(config json.RawMessage) json.RawMessage {
	if m == nil {
		return compactJSON(config)
	}
	return remember(m.compact, string(config), func() json.RawMessage { return compactJSON(config) })
}

// keptWalk is such a decision on its way through the routes.
type keptWalk struct {
	*keptDecision
	*keptMemory
	facts   *inspectFacts   // of the inspect that has decided; nil: of the one that is asked
	answers map[string]bool // of matchers, by canonicalMatch

	bytes     []byte // of the head, or what stands for it
	end       bool   // nothing follows
	insideTLS bool   // they are, and the connection begins with a ClientHello

	match     string // of the route that is taken, by canonicalMatch
	rewritten bool   // the head is not that of then any more

	blind string // why it is not known what a layer4 route answers
	to    replayPlace
}

// newKeptWalk returns the decision as it goes to a listener.
func newKeptWalk(memory *keptMemory, d *keptDecision, facts []*inspectFacts, to *explainedListener) (*keptWalk, error) {
	k := &keptWalk{keptDecision: d, keptMemory: memory, answers: make(map[string]bool)}
	factsOf := func(i int) (*inspectFacts, error) {
		if i < 0 || i >= len(facts) {
			return nil, errors.New("a decision has facts that are not there")
		}
		return facts[i], nil
	}
	var err error
	if d.Facts >= 0 {
		if k.facts, err = factsOf(d.Facts); err != nil {
			return nil, err
		}
	}
	for _, asked := range d.Asked {
		f, err := factsOf(asked.Facts)
		if err != nil {
			return nil, err
		}
		for i, match := range f.Matches {
			if asked.Taken < 0 || i <= asked.Taken {
				k.answers[match] = i == asked.Taken
			}
		}
	}
	k.bytes, k.end = d.sent()
	k.insideTLS = d.TLS && !to.TLS
	return k, nil
}

// sent returns bytes with the outcome of the decision, and whether nothing follows them.
func (d *keptDecision) sent() (sent []byte, end bool) {
	switch d.Outcome {
	case opening.HTTP.String():
		return d.head(), false
	case opening.TLS.String():
		return clientHello(), false
	case opening.HTTP2.String():
		return []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), false
	case opening.Other.String():
		return []byte("\x00\x00\x00\x00"), false
	case opening.Malformed.String():
		return []byte(" \r\n\r\n"), false
	case opening.Silent.String():
		return nil, false
	}
	return []byte("GET / H"), d.Outcome == opening.EOF.String()
}

// framing are the fields of which a head says without a value what is not true.
var framing = []string{"Connection", "Content-Length", "Expect", "Http2-Settings", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// head returns a head with what is known of the request.
func (d *keptDecision) head() []byte {
	if !d.Head {
		return []byte(d.Method + " / HTTP/1.1\r\nHost: unknown.invalid\r\n\r\n") // no matcher is asked about it
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.%d\r\n", d.Method, d.Target, d.Minor)
	if d.Host != "" || d.Minor == 1 {
		fmt.Fprintf(&b, "Host: %s\r\n", d.Host)
	}
	for _, name := range d.Fields {
		if !slices.ContainsFunc(framing, func(f string) bool { return strings.EqualFold(f, name) }) {
			fmt.Fprintf(&b, "%s:\r\n", name)
		}
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// clientHello returns one that names no server.
var clientHello = sync.OnceValue(func() []byte {
	sent := new(sentOnce)
	_ = tls.Client(sent, &tls.Config{InsecureSkipVerify: true}).Handshake() // which ends without an answer
	return sent.Bytes()
})

// sentOnce is a connection that keeps what is written, and on which nothing comes.
type sentOnce struct{ bytes.Buffer }

func (*sentOnce) Read([]byte) (int, error)         { return 0, io.EOF }
func (*sentOnce) Close() error                     { return nil }
func (*sentOnce) LocalAddr() net.Addr              { return nil }
func (*sentOnce) RemoteAddr() net.Addr             { return nil }
func (*sentOnce) SetDeadline(time.Time) error      { return nil }
func (*sentOnce) SetReadDeadline(time.Time) error  { return nil }
func (*sentOnce) SetWriteDeadline(time.Time) error { return nil }

// explainKept says where a decision goes in the configuration that memory is of.
func explainKept(memory *keptMemory, listen string, d *keptDecision, facts []*inspectFacts) (*explanation, replayPlace, error) {
	listener, err := findListener(memory.ctx, listen)
	if err != nil {
		return nil, replayPlace{Destination: toNoListener}, err
	}
	if !listener.routes.known() {
		return nil, replayPlace{}, explainErrorf(http.StatusNotImplemented, "server %s: which handler stands where is not known; one of another plugin may hold routes", listener.Server)
	}
	k, err := newKeptWalk(memory, d, facts, listener)
	if err != nil {
		return nil, replayPlace{}, err
	}
	local, remote, err := (&explainRequest{Client: d.Client}).addresses(listener.at)
	if err != nil {
		return nil, replayPlace{}, err
	}
	if at, err := netip.ParseAddrPort(d.Local); err == nil && !listener.at.IsUnixNetwork() {
		local = net.TCPAddrFromAddrPort(at)
	}
	answer := &explanation{Listener: *listener, Client: remote.String(), Given: len(k.bytes)}
	x := &explainer{explanation: answer, ctx: memory.ctx, kept: k}
	switch {
	case listener.TLS && !d.TLS && !d.AnyTLS && d.Outcome == opening.TLS.String():
		x.unknown("what is inside TLS is not known")
	case listener.TLS && !d.TLS && !d.AnyTLS:
		x.closed("the server speaks TLS, and the client does not")
	default:
		sent := k.bytes
		if k.insideTLS {
			sent = clientHello()
		}
		if err := x.walk(&givenConn{data: sent, end: k.end, local: local, remote: remote}); err != nil {
			return nil, replayPlace{}, err
		}
	}
	answer.Destination.Sent = nil // they were made here
	answer.NeedsMore = false
	switch to := &k.to.Destination; {
	case answer.Destination.Kind == toUnknown:
		*to = toUnknown
	case *to == "" && answer.Destination.Kind == toHandler:
		*to = answer.Destination.Handler
	case *to == "" && answer.Destination.Kind == toHTTPApp:
		*to = toNext
	case *to == "":
		*to = answer.Destination.Kind
	}
	if k.renumbered(facts) {
		k.to.Route = d.To.Route
	}
	return answer, k.to, nil
}

// renumbered reports whether the route that is taken is the one of then, without a name and
// with another number.
func (k *keptWalk) renumbered(facts []*inspectFacts) bool {
	if len(k.Asked) != strings.Count(k.To.Route, "/")+1 || k.to.Destination != k.To.Destination {
		return false
	}
	last := k.Asked[len(k.Asked)-1]
	if last.Taken < 0 || last.Taken >= len(facts[last.Facts].Matches) || facts[last.Facts].Matches[last.Taken] != k.match {
		return false
	}
	then, thenNumber := cutLast(k.To.Route)
	now, nowNumber := cutLast(k.to.Route)
	return then == now && isNumber(thenNumber) && isNumber(nowNumber)
}

// cutLast cuts the name of the innermost route off.
func cutLast(route string) (outer, last string) {
	i := strings.LastIndexByte(route, '/')
	return route[:i+1], route[i+1:]
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

// unknown says that it is not known where the connection goes.
func (x *explainer) unknown(why string) {
	x.finish(explainedDestination{Kind: toUnknown, Why: why}, nextUnknown, "")
}

// goesTo notes which destination has the connection.
func (x *explainer) goesTo(destination string) {
	if x.kept != nil {
		x.kept.to.Destination = destination
	}
}

// limit makes the limits of an inspection those with which it ends as the decision did.
func (k *keptWalk) limit(in *inspection, data []byte) {
	limits := in.Limits()
	switch {
	case k.Outcome == opening.HTTP.String() && !k.insideTLS && k.Length > limits.Bytes, k.Outcome == opening.TooLarge.String() && !k.insideTLS:
		limits.Bytes = 4 // of what stands for the head
	default:
		// The packets are not those in which it came, and the head may be longer than what is kept of it.
		limits.Packets, limits.Bytes = 0, max(limits.Bytes, maxExplained)
	}
	options := in.inspect.head
	in.Begin(limits, options, in.started)
	if len(data) > 0 {
		in.First(data, in.started)
	}
}

// differs returns why the outcome in an inspect is not known from that of the decision, or "".
func (k *keptWalk) differs(in *inspection) string {
	if k.insideTLS {
		return "" // it reads the ClientHello
	}
	h, got := in.inspect, in.Outcome().String()
	f := k.facts
	if f == nil {
		f = &inspectFacts{Lenient: h.head.Lenient, Line: h.head.LineOnly, Limits: h.limits}
	}
	same := f.Lenient == h.head.Lenient && f.Line == h.head.LineOnly && f.Limits == h.limits
	switch k.Outcome {
	case opening.HTTP.String():
		stricter := f.Lenient && !h.head.Lenient || f.Line && !h.head.LineOnly
		switch {
		case got == k.Outcome && stricter:
			return "inspect is stricter than the one that decided, and the values of the fields are not kept"
		case got == k.Outcome && f.Limits.Packets != h.limits.Packets && h.limits.Packets > 0:
			return "max_packets is another one, and the packets are not kept"
		}
		return ""
	case opening.TLS.String(), opening.HTTP2.String():
		return ""
	}
	if !same || got != k.Outcome {
		return "the limits of inspect are others, and the bytes are not kept"
	}
	return ""
}

// chooseKept chooses the route of an inspection, and returns why that is not known, or "".
func (x *explainer) chooseKept(in *inspection, config []configRoute, to *explainedRoutes) (why string) {
	k, h := x.kept, in.inspect
	in.route, k.match = -1, ""
	if k.Outcome == opening.HTTP.String() && !k.Head && !k.insideTLS && k.Method == http.MethodConnect {
		return "the head is longer than what is kept"
	}
	if why := k.differs(in); why != "" {
		return why
	}
	for i, route := range h.Routes {
		explained := to.Routes[i]
		answer, known := false, len(route.sets) == 0
		if known {
			answer = in.Outcome().ByDefault() && !in.isConnect()
		} else if answer, known = k.answers[k.canonicalOf(&config[i])]; known && !k.rewritten && in.Outcome().String() == k.Outcome {
			explained.Why = "as it answered then"
		} else {
			switch x.route(in, route, config[i].Match, explained) {
			case certainYes:
				answer = true
			case certainNo:
				answer = false
			default:
				explained.Answer = answerUnknown
				return fmt.Sprintf("route %s depends on what is not kept", h.routeName(i))
			}
		}
		explained.Answer = answerOf(answer, nil)
		if answer {
			in.route, k.match = i, k.canonicalOf(&config[i])
			return ""
		}
	}
	return ""
}

// certainty is an answer of a matcher, as far as it is known.
type certainty uint8

const (
	certainNo certainty = iota
	uncertain
	certainYes
)

func certain(answer bool) certainty {
	if answer {
		return certainYes
	}
	return certainNo
}

// route returns what a route of inspect answers.
func (x *explainer) route(in *inspection, route *Route, config []caddy.ModuleMap, to *explainedRoute) certainty {
	best := certainNo
	for i := range route.sets {
		set, explained := &route.sets[i], to.Sets[i]
		if set.inspected != nil {
			explained.matcher("inspected").set(set.names(in.Outcome()), nil)
		}
		if explained.Why = set.excludes(in); explained.Why != "" {
			continue
		}
		answer := certainYes
		for _, name := range sortedKeys(config[i]) {
			if name == "inspected" {
				continue
			}
			got := x.matcher(in, name, config[i][name])
			explained.matcher(name).Answer = [...]string{answerNo, answerUnknown, answerYes}[got]
			if answer = min(answer, got); answer == certainNo {
				break
			}
		}
		if answer == certainYes && !set.names(in.Outcome()) && !in.Outcome().ByDefault() {
			answer = certainNo // none of its matchers has read the bytes
			explained.Why = "none of its matchers has recognized the bytes"
		}
		if best = max(best, answer); best == certainYes {
			break
		}
	}
	return best
}

// matcher returns what a matcher in a route of inspect answers.
func (x *explainer) matcher(in *inspection, name string, config json.RawMessage) certainty {
	switch name {
	case "http_request", "http":
		if in.Outcome() != opening.HTTP {
			if name == "http" && !in.Outcome().ByDefault() {
				return uncertain // it reads for itself
			}
			return certainNo
		}
		return x.anySet(config, func(modules caddy.ModuleMap) certainty { return x.requestSet(in, modules) })
	case "not":
		return certainYes - x.anySet(config, func(modules caddy.ModuleMap) certainty {
			answer := certainYes
			for _, name := range sortedKeys(modules) {
				answer = min(answer, x.matcher(in, name, modules[name]))
			}
			return answer
		})
	case "inspected":
		var m MatchInspected
		if json.Unmarshal(config, &m) != nil {
			return uncertain
		}
	default:
		if !x.kept.knows(name, config) {
			return uncertain
		}
	}
	return x.ask(in, name, config)
}

// anySet returns the best answer of the sets of a matcher.
func (x *explainer) anySet(config json.RawMessage, answer func(caddy.ModuleMap) certainty) certainty {
	sets, ok := x.kept.setsOf(config)
	if !ok {
		return uncertain
	}
	best := certainNo
	for _, modules := range sets {
		best = max(best, answer(modules))
	}
	return best
}

// requestSet returns what a set of matchers of the HTTP app answers: that of those of which it
// is known, if they say no.
func (x *explainer) requestSet(in *inspection, modules caddy.ModuleMap) certainty {
	if in.isConnect() && !namesConnect(modules) {
		return certainNo
	}
	known := make(caddy.ModuleMap)
	key := ""
	for _, name := range sortedKeys(modules) {
		if x.kept.knowsHTTP(name, modules[name]) {
			known[name] = modules[name]
			key += name + " " + string(modules[name]) + "\n"
		}
	}
	answer := certainYes
	if len(known) > 0 {
		raw := remember(x.kept.known, key, func() json.RawMessage {
			raw, _ := json.Marshal([]caddy.ModuleMap{known}) // which has been JSON
			return raw
		})
		if answer = x.ask(in, "http_request", raw); in.isConnect() && !namesConnect(known) {
			answer = uncertain
		}
	}
	if len(known) < len(modules) {
		answer = min(answer, uncertain)
	}
	return answer
}

// ask loads a matcher and asks it.
func (x *explainer) ask(in *inspection, name string, config json.RawMessage) certainty {
	matcher := x.kept.keptMemory.matcher(name, config)
	if matcher == nil {
		return uncertain
	}
	m := namedMatcher{name: name, set: layer4.MatcherSet{matcher}}
	m.request, _ = matcher.(*MatchHTTPRequest)
	answer, err := m.match(in)
	if err != nil {
		return uncertain
	}
	return certain(answer)
}

// byBeginning are the matchers that tell another protocol from HTTP and TLS by how it begins.
var byBeginning = []string{"ssh", "postgres", "rdp", "socks4", "socks5", "xmpp"}

// knows reports whether a matcher of layer4 can be asked about what is kept.
func (k *keptWalk) knows(name string, config json.RawMessage) bool {
	isHTTP, isTLS := k.Outcome == opening.HTTP.String() && !k.insideTLS, k.Outcome == opening.TLS.String() || k.insideTLS
	switch {
	case name == "remote_ip", name == "local_ip":
		return !k.hasPlaceholder(config) && k.Client != ""
	case name == "tls":
		text := string(k.compactOf(config))
		return !k.AnyTLS && isHTTP || isTLS && (text == "{}" || text == "null")
	case name == "http_request", name == "http":
		return isTLS || isHTTP && k.knowsSets(config, k.knowsHTTP)
	case name == "not":
		return k.knowsSets(config, k.knows)
	}
	return (isHTTP || isTLS) && slices.Contains(byBeginning, name)
}

// knowsSets reports whether all matchers in sets can be asked.
func (k *keptWalk) knowsSets(config json.RawMessage, knows func(string, json.RawMessage) bool) bool {
	sets, ok := k.setsOf(config)
	if !ok {
		return false
	}
	for _, set := range sets {
		for name, config := range set {
			if !knows(name, config) {
				return false
			}
		}
	}
	return true
}

// knowsHTTP reports whether a matcher of the HTTP app can be asked about what is kept.
func (k *keptWalk) knowsHTTP(name string, config json.RawMessage) bool {
	placeholders := k.hasPlaceholder(config)
	switch name {
	case "path", "method":
		return k.Head && !placeholders
	case "remote_ip", "client_ip":
		return !placeholders && k.Client != ""
	case "host":
		return k.Head && !placeholders && !k.line()
	case "path_regexp":
		return k.Head
	case "protocol":
		return k.Head && string(k.compactOf(config)) != `"grpc"`
	case "query":
		return k.Head && !k.Query && !placeholders
	case "header", "header_regexp":
		var fields map[string]json.RawMessage
		if json.Unmarshal(config, &fields) != nil || k.Cut || !k.Head || name == "header" && placeholders {
			return false
		}
		for name := range fields {
			if slices.ContainsFunc(k.Fields, func(field string) bool { return httphead.EqualFold([]byte(field), name) }) {
				return false
			}
		}
		return true
	case "not":
		return k.knowsSets(config, k.knowsHTTP)
	}
	return false
}

// hasPlaceholder reports whether a text in a configuration may have one.
func hasPlaceholder(config json.RawMessage) bool {
	var value any
	if json.Unmarshal(config, &value) != nil {
		return true
	}
	var has func(any) bool
	has = func(value any) bool {
		switch v := value.(type) {
		case string:
			return strings.Contains(v, "{")
		case []any:
			return slices.ContainsFunc(v, has)
		case map[string]any:
			for name, inner := range v {
				if has(name) || has(inner) {
					return true
				}
			}
		}
		return false
	}
	return has(value)
}

// line reports whether only the request line was read.
func (k *keptWalk) line() bool { return k.facts != nil && k.facts.Line }

// blindMatcher is one that cannot be asked about what is kept.
type blindMatcher struct {
	kept  *keptWalk
	to    *explainedMatcher
	route *explainedRoute
}

// errBlind ends the way of a connection at a matcher that cannot be asked.
var errBlind = errors.New("it depends on what is not kept")

// Match implements layer4.ConnMatcher.
func (m blindMatcher) Match(*layer4.Connection) (bool, error) {
	m.to.Answer, m.route.Answer = answerUnknown, answerUnknown
	m.kept.blind = fmt.Sprintf("route %s of layer4 depends on what is not kept", m.route.Name)
	return false, errBlind
}
