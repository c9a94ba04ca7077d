package streamprox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// What replay takes to another configuration: the last decisions of each inspect that has
// the option. A ring has them, for inspects of the same place in one configuration after the
// other. Of a request it has method, path, host and the names of the other fields; of other
// bytes the outcome.

const (
	// maxReplay bounds the decisions of a ring.
	maxReplay = 1000

	// maxKeptHead bounds, in bytes, what a ring has of a head.
	maxKeptHead = 2 << 10
)

// decisionRing has the last decisions of an inspect.
type decisionRing struct {
	listen []string // where its server listens

	mu    sync.Mutex
	slots []*decision
	next  int
	full  bool
}

// decision is one of them.
type decision struct {
	ring *decisionRing

	id            account.ID
	at            time.Time
	client, local net.Addr
	tls           bool // was terminated before
	outcome       opening.Outcome
	facts         *inspectFacts // nil: that inspect keeps no decisions

	// Of HTTP.
	head   string // method, target without query, host, and the names of fields; or the method alone
	minor  int
	length int
	query  bool // there is one
	cut    bool // there are more names

	// What was decided: under the ring's lock.
	kept  bool // it is in the ring, or was
	asked []askedRoutes
	to    replayPlace
}

// askedRoutes says what the routes of an inspect have answered: those before taken no, and
// that one yes. If it is -1 all have answered no.
type askedRoutes struct {
	facts *inspectFacts
	taken int
}

// inspectFacts is what decisions have in common that one inspect has made.
type inspectFacts struct {
	Lenient bool           `json:"lenient,omitempty"`
	Line    bool           `json:"line,omitempty"`
	Limits  opening.Limits `json:"limits"`
	Matches []string       `json:"matches"` // of each route, as canonicalMatch returns it
}

// replayPlace is where a request or a stream goes.
type replayPlace struct {
	Route       string `json:"route,omitempty"`
	Destination string `json:"destination"`
}

// What a decision calls destinations that no handler of a route is.
const (
	toNext       = "what follows inspect"
	toNoListener = "nothing: no server listens there"
)

// toStatus is what a decision calls an answer with that status.
func toStatus(status int) string { return fmt.Sprintf("answer %d", status) }

// rings has the rings that are in use, by place.
var rings = caddy.NewUsagePool()

// Destruct implements caddy.Destructor.
func (*decisionRing) Destruct() error { return nil }

// useRing returns the ring of an inspect, and what it is released by. The same place in the
// next configuration has the same ring, unless the number is another one.
func useRing(size int, place *configHandler, server *servedRoutes, name string) (*decisionRing, string, error) {
	ring := &decisionRing{slots: make([]*decision, size)}
	key := "?" + account.NewID().String() // of a place that is not known
	if place != nil {
		key = fmt.Sprintf("%s/%d/%d", name, slices.Index(server.own, place), size)
		for _, address := range listenAddresses(server.listen) {
			for _, at := range address.Expand() {
				ring.listen = append(ring.listen, at.String())
			}
		}
		key += strings.Join(ring.listen, " ")
	}
	used, _, err := rings.LoadOrNew(key, func() (caddy.Destructor, error) { return ring, nil })
	if err != nil {
		return nil, "", err
	}
	return used.(*decisionRing), key, nil
}

// newFacts returns the facts of an inspect whose routes are not loaded yet.
func (h *Inspect) newFacts() *inspectFacts {
	f := &inspectFacts{Lenient: h.head.Lenient, Line: h.head.LineOnly, Limits: h.limits}
	for _, route := range h.Routes {
		f.Matches = append(f.Matches, canonicalMatch(route.MatcherSetsRaw))
	}
	return f
}

// canonicalMatch returns the matchers of a route in a form that is the same however they are
// written.
func canonicalMatch(sets []caddy.ModuleMap) string {
	raw, err := json.Marshal(sets)
	var value any
	if err != nil || json.Unmarshal(raw, &value) != nil || len(sets) == 0 {
		return ""
	}
	raw, _ = json.Marshal(value)
	return string(raw)
}

// keepDecision keeps what has been decided, if that is asked for. An inspect inside another
// adds its route.
func (in *inspection) keepDecision() {
	t, ring := in.turn, in.inspect.ring
	if ring == nil && t.decision == nil {
		return
	}
	d := t.decision
	if d == nil {
		// What came in is what the first inspect has seen, even if only one inside it keeps
		// decisions.
		d = t.first.newDecision(ring)
		if t.record != nil {
			d.to.Route = t.record.Read().Route
		}
		t.decision = d
	} else {
		ring = d.ring
	}
	ring.mu.Lock()
	defer ring.mu.Unlock()
	if !d.kept {
		d.kept = true
		ring.add(d)
	}
	// What was answered about another head, or by some of the routes, says nothing.
	if in.inspect.facts != nil && in.failure == nil && in.sameHead(t.first) {
		d.asked = append(d.asked, askedRoutes{in.inspect.facts, in.route})
	}
	d.to.enter(in)
}

// sameHead reports whether in has the head of first: it is not rewritten.
func (in *inspection) sameHead(first *inspection) bool {
	return in == first || bytes.Equal(in.Data()[:in.Head.Len], first.Data()[:first.Head.Len])
}

// enter makes p the place that an inspect has decided on.
func (p *replayPlace) enter(in *inspection) {
	if in.route >= 0 {
		p.Route = strings.TrimPrefix(p.Route+"/"+in.inspect.routeName(in.route), "/")
	}
	switch fate, _, status := in.fate(); {
	case fate == fateRoute:
		p.Destination = in.inspect.Routes[in.route].to
	case fate == fatePasses:
		p.Destination = toNext
	case status != 0:
		p.Destination = toStatus(status)
	default:
		p.Destination = toClosed
	}
}

// decidedFor notes that another destination has the request than the decision tells.
func (t *turn) decidedFor(destination string) {
	if d := t.decision; d != nil {
		d.ring.mu.Lock()
		d.to.Destination = destination
		d.ring.mu.Unlock()
	}
}

// add puts a decision in the place of the oldest.
func (r *decisionRing) add(d *decision) {
	r.slots[r.next] = d
	if r.next++; r.next == len(r.slots) {
		r.next, r.full = 0, true
	}
}

// newDecision returns what is kept of an inspection, but for what was decided.
func (in *inspection) newDecision(ring *decisionRing) *decision {
	client := in.client()
	d := &decision{
		ring:    ring,
		id:      in.turn.accountID(),
		at:      in.started,
		client:  client.RemoteAddr(),
		local:   client.LocalAddr(),
		tls:     in.tlsTerminated(),
		outcome: in.Outcome(),
		facts:   in.inspect.facts,
	}
	if d.outcome != opening.HTTP {
		return d
	}
	head, data := &in.Head, in.Data()
	d.minor, d.length = head.Minor, head.Len
	target, _, query := bytes.Cut(head.Target.Of(data), []byte("?"))
	d.query = query
	method, host := head.Method.Of(data), head.Host.Of(data)
	length := len(method) + len(target) + len(host) + 2
	if length > maxKeptHead || bytes.ContainsAny(method, " \n") || bytes.ContainsAny(target, " \n@") && !bytes.HasPrefix(target, []byte("/")) || bytes.ContainsAny(host, " \n@") {
		d.cut = true // or somebody's name and password may stand before the host
		d.head = string(method[:min(len(method), maxAccountMethod)])
		return d
	}
	text := make([]byte, 0, min(len(data), maxKeptHead))
	text = append(append(append(append(append(text, method...), '\n'), target...), '\n'), host...)
	d.cut = in.inspect.head.LineOnly
	for i := range head.Fields {
		name := head.Fields[i].Name.Of(data)
		if len(text)+1+len(name) > maxKeptHead {
			d.cut = true
			break
		}
		if !strings.EqualFold(string(name), "Host") {
			text = append(append(text, '\n'), name...)
		}
	}
	d.head = string(text)
	return d
}

// keptDecision is a decision as replay takes it along.
type keptDecision struct {
	ID      string      `json:"id"`
	At      time.Time   `json:"at"`
	Listen  string      `json:"listen"`
	Client  string      `json:"client,omitempty"` // "": on a Unix socket
	Local   string      `json:"local"`
	TLS     bool        `json:"tls,omitempty"`
	AnyTLS  bool        `json:"any_tls,omitempty"` // whether it was is not known
	Outcome string      `json:"outcome"`
	Head    bool        `json:"head,omitempty"` // target, host and, unless Cut, all fields are known
	Method  string      `json:"method,omitempty"`
	Target  string      `json:"target,omitempty"`
	Host    string      `json:"host,omitempty"`
	Fields  []string    `json:"fields,omitempty"`
	Cut     bool        `json:"cut,omitempty"`
	Query   bool        `json:"query,omitempty"`
	Minor   int         `json:"minor,omitempty"`
	Length  int         `json:"length,omitempty"`
	Facts   int         `json:"facts"` // an index; -1: those of the configuration that is asked
	Asked   []keptAsked `json:"asked,omitempty"`
	To      replayPlace `json:"to"`
}

// keptAsked is askedRoutes, with an index of facts.
type keptAsked struct {
	Facts int `json:"facts"`
	Taken int `json:"taken"`
}

// keptDecisions is what replay takes along.
type keptDecisions struct {
	Decisions []*keptDecision `json:"decisions"`
	Facts     []*inspectFacts `json:"facts"`
}

// keep adds a decision, of a ring that is locked.
func (k *keptDecisions) keep(d *decision) {
	kept := &keptDecision{
		ID: d.id.String(), At: d.at, Listen: d.listen(), TLS: d.tls, Outcome: d.outcome.String(),
		Client: portAddress(d.client), Local: addressOf(d.local),
		Cut: d.cut, Query: d.query, Minor: d.minor, Length: d.length,
		Facts: k.factsIndex(d.facts), To: d.to,
	}
	parts := strings.Split(d.head, "\n")
	kept.Method = parts[0]
	if len(parts) > 1 {
		kept.Head = true
		kept.Target, kept.Host, kept.Fields = parts[1], parts[2], parts[3:]
	}
	for _, asked := range d.asked {
		kept.Asked = append(kept.Asked, keptAsked{k.factsIndex(asked.facts), asked.taken})
	}
	k.Decisions = append(k.Decisions, kept)
}

// factsIndex returns the index of facts, -1 for none.
func (k *keptDecisions) factsIndex(f *inspectFacts) int {
	if f == nil {
		return -1
	}
	if i := slices.Index(k.Facts, f); i >= 0 {
		return i
	}
	k.Facts = append(k.Facts, f)
	return len(k.Facts) - 1
}

// portAddress returns an address with a port as text, "" for another one.
func portAddress(address net.Addr) string {
	if tcp, ok := address.(*net.TCPAddr); ok {
		return tcp.String()
	}
	text := addressOf(address)
	if _, port, err := net.SplitHostPort(text); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			return text
		}
	}
	return ""
}

// listen returns where the connection of a decision has come in.
func (d *decision) listen() string {
	local := addressOf(d.local)
	_, port, err := net.SplitHostPort(local)
	for _, address := range d.ring.listen {
		if _, at, _ := strings.Cut(address, "/"); at == "" && err == nil && strings.HasSuffix(address, ":"+port) {
			return local
		}
	}
	if len(d.ring.listen) > 0 {
		return d.ring.listen[0]
	}
	return local
}

// allKept returns the decisions of all rings, or the one with that id.
func allKept(id account.ID) *keptDecisions {
	kept := new(keptDecisions)
	rings.Range(func(_, value any) bool {
		ring := value.(*decisionRing)
		ring.mu.Lock()
		defer ring.mu.Unlock()
		order := ring.slots[:ring.next]
		if ring.full {
			order = slices.Concat(ring.slots[ring.next:], ring.slots[:ring.next])
		}
		for _, d := range order {
			if id == 0 || d.id == id {
				kept.keep(d)
			}
		}
		return true
	})
	slices.SortStableFunc(kept.Decisions, func(a, b *keptDecision) int { return a.At.Compare(b.At) })
	return kept
}

// whereTo says what a decision calls the destination that the last handler of the route is.
func (r *Route) whereTo() string {
	if len(r.handlers) == 0 {
		return toNext
	}
	switch last := r.handlers[len(r.handlers)-1].(type) {
	case *Relay:
		return last.whereTo()
	case *HTTPApp:
		return last.whereTo()
	case *HTTPRespond:
		return last.whereTo()
	case caddy.Module:
		return last.CaddyModule().ID.Name()
	}
	return toHandler
}

// whereTo says what a decision calls the relay: by its upstreams as they are written.
func (h *Relay) whereTo() string {
	names := []string{toRelay}
	for _, upstream := range h.Upstreams {
		names = append(names, strings.Join(upstream.Dial, "+"))
	}
	return strings.Join(names, " ")
}

func (h *HTTPApp) whereTo() string {
	return strings.TrimSpace(toHTTPApp + " " + strings.TrimPrefix(h.Listener, networkName+"/"))
}

func (h *HTTPRespond) whereTo() string {
	return fmt.Sprintf("%s %d", toRespond, h.Status)
}
