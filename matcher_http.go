package streamprox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/headmatch"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// MatchHTTPRequest matches a connection by the HTTP request at its beginning, with
// the matchers of Caddy's HTTP app, and answers as the HTTP app answers for the same
// request. Fields whose names hold an underscore or a dot, which the HTTP app drops
// before it routes, are not seen.
//
// This is routing, not authorization: the path that is compared is Caddy's (decoded,
// cleaned, case-folded), the path that is sent on is the client's.
//
// Its JSON is [an array of matcher sets](https://caddyserver.com/docs/json/apps/http/servers/routes/match/),
// of which one must match. Without inspect it reads what layer4 has prefetched, at
// most 16 KiB.
type MatchHTTPRequest struct {
	MatcherSetsRaw caddyhttp.RawMatcherSets `json:"-" caddy:"namespace=http.matchers"`

	sets []requestSet
}

// requestSet is a set of HTTP matchers that must all match.
type requestSet struct {
	// onHead holds the matchers that are answered on the bytes of the head. With whole,
	// they are all of the set.
	onHead headmatch.Set
	whole  bool

	connect bool // a method matcher names CONNECT
	full    caddyhttp.MatcherSet
}

// CaddyModule returns the Caddy module information.
func (*MatchHTTPRequest) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.matchers.http_request",
		New: func() caddy.Module { return new(MatchHTTPRequest) },
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *MatchHTTPRequest) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &m.MatcherSetsRaw)
}

// MarshalJSON implements json.Marshaler.
func (m *MatchHTTPRequest) MarshalJSON() ([]byte, error) {
	return json.Marshal(m.MatcherSetsRaw)
}

// Provision loads the HTTP matchers.
func (m *MatchHTTPRequest) Provision(ctx caddy.Context) error {
	// Loading a module takes its JSON away, so look at it before.
	var connect []bool
	for _, set := range m.MatcherSetsRaw {
		connect = append(connect, namesConnect(set))
	}
	loaded, err := ctx.LoadModule(m, "MatcherSetsRaw")
	if err != nil {
		return fmt.Errorf("loading http matcher modules: %w", err)
	}
	var sets caddyhttp.MatcherSets
	if err := sets.FromInterface(loaded); err != nil {
		return err
	}
	for i, full := range sets {
		set := requestSet{full: full, whole: true, connect: connect[i]}
		for _, matcher := range full {
			if onHead := headMatcher(matcher); onHead != nil {
				set.onHead = append(set.onHead, onHead)
			} else {
				set.whole = false
			}
		}
		m.sets = append(m.sets, set)
	}
	return nil
}

// Match implements layer4.ConnMatcher.
func (m *MatchHTTPRequest) Match(cx *layer4.Connection) (bool, error) {
	request, err := requestOf(cx)
	if request == nil || err != nil {
		return false, err
	}
	return m.match(request, func() (*layer4.Connection, error) { return cx, nil }, false)
}

// match reports whether one of the sets matches; with connect, one of those that name
// the method CONNECT. stream returns the connection, if it takes an *http.Request to answer.
func (m *MatchHTTPRequest) match(request *httpRequest, stream func() (*layer4.Connection, error), connect bool) (bool, error) {
	for i := range m.sets {
		set := &m.sets[i]
		if connect && !set.connect {
			continue
		}
		switch answer := set.onHead.Match(&request.head); {
		case answer == headmatch.No:
			continue
		case answer == headmatch.Yes && set.whole:
			return true, nil
		}
		cx, err := stream()
		if err != nil {
			return false, err
		}
		r, err := request.get(cx)
		if err != nil {
			return false, err
		}
		if matched, err := set.full.MatchWithError(r); matched || err != nil {
			return matched, err
		}
	}
	return len(m.sets) == 0 && !connect, nil
}

// headMatcher returns what answers for a provisioned matcher of the HTTP app on the bytes of
// a head, or nil if only the matcher itself can: it has placeholders, or headmatch does not
// know its kind or its arguments.
func headMatcher(matcher any) headmatch.Matcher {
	switch m := matcher.(type) {
	case *caddyhttp.MatchMethod:
		return headmatch.Method(*m)
	case *caddyhttp.MatchPath:
		// On Windows MatchPath has further rules.
		if runtime.GOOS != "windows" && !slices.ContainsFunc(*m, dynamic) {
			return headmatch.Path(*m)
		}
	case *caddyhttp.MatchHost:
		if !slices.ContainsFunc(*m, dynamic) {
			return headmatch.Host(*m)
		}
	case *caddyhttp.MatchHeader:
		if !anyDynamic(*m) {
			return headmatch.Header(*m)
		}
	case *caddyhttp.MatchQuery:
		if !anyDynamic(*m) {
			return headmatch.Query(*m)
		}
	case *caddyhttp.MatchProtocol:
		return headmatch.Protocol(string(*m))
	case *caddyhttp.MatchNot:
		sets := make([]headmatch.Set, len(m.MatcherSets))
		for i, set := range m.MatcherSets {
			for _, negated := range set {
				sets[i] = append(sets[i], headMatcher(negated))
			}
		}
		return headmatch.Not(sets)
	}
	return nil
}

// anyDynamic reports whether a name or a value depends on the request.
func anyDynamic(valuesOf map[string][]string) bool {
	for name, values := range valuesOf {
		if dynamic(name) || slices.ContainsFunc(values, dynamic) {
			return true
		}
	}
	return false
}

// dynamic reports whether a value of the configuration depends on the request.
func dynamic(value string) bool { return strings.Contains(value, "{") }

// requestOf returns the request at the beginning of cx, nil if there is none, or
// layer4.ErrConsumedAllPrefetchedBytes if that is not certain yet.
func requestOf(cx *layer4.Connection) (*httpRequest, error) {
	if in := inspectionOf(cx); in != nil {
		return in.request(), nil
	}
	p := prefetchedHeadOf(cx)
	data := cx.MatchingBytes()
	switch p.head.Read(data) {
	case httphead.HTTP:
		if p.http.head.Reader == nil {
			p.http.head.Reset(data, &p.head, tlsState(cx) != nil)
		}
		p.http.head.Data = data // it may have moved
		return &p.http, nil
	case httphead.More:
		if len(data) >= layer4.MaxMatchingBytes {
			return nil, layer4.ErrMatchingBufferFull
		}
		return nil, layer4.ErrConsumedAllPrefetchedBytes
	default:
		return nil, nil
	}
}

// httpRequest is a request as HTTP matchers see it: its head, and for those that need
// it an *http.Request, built when the first of them asks.
type httpRequest struct {
	head    headmatch.Head
	request *http.Request
	err     error
}

// get returns the *http.Request.
func (h *httpRequest) get(cx *layer4.Connection) (*http.Request, error) {
	if h.request == nil && h.err == nil {
		h.request, h.err = newRequest(cx, h.head.Data[:h.head.Reader.Len])
	}
	return h.request, h.err
}

var crlf = []byte("\r\n")

// newRequest returns the request as the HTTP app would see it.
func newRequest(cx *layer4.Connection, head []byte) (*http.Request, error) {
	if bytes.IndexByte(head, '\n') == len(head)-1 { // the request line alone
		head = append(slices.Clip(head), crlf...)
	}
	r, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(head), len(head)))
	if err != nil {
		return nil, fmt.Errorf("reading request: %w", err)
	}
	for name := range r.Header {
		if headmatch.Dropped(name) {
			delete(r.Header, name)
		}
	}
	if remote := cx.RemoteAddr(); remote != nil {
		r.RemoteAddr = remote.String()
	}
	r.TLS = tlsState(cx)
	r = r.WithContext(context.WithValue(cx.Context, http.LocalAddrContextKey, cx.LocalAddr()))
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, &defaultServer), nil
}

// defaultServer is the HTTP server that requests are prepared for, with no settings.
// Without one there is no client IP, and placeholders such as {http.shutting_down}
// panic.
var defaultServer caddyhttp.Server

// prefetchedHead is the state of http_request on a connection that is not
// inspected: each byte is read once, in however many packets it came.
type prefetchedHead struct {
	cx     *layer4.Connection
	known  int    // how many bytes the reader has seen …
	hash   uint64 // … and a hash of them, to notice that others have taken their place
	head   httphead.Reader
	fields [opening.UsualFields]httphead.Field // what head.Fields begins in
	http   httpRequest
}

const prefetchedHeadVar = "streamprox.prefetched_head"

// prefetchedHeadOf returns the state on cx. It begins anew when a handler has
// wrapped the connection or consumed bytes since: caddy-l4 reads what follows into the
// same memory.
func prefetchedHeadOf(cx *layer4.Connection) *prefetchedHead {
	data := cx.MatchingBytes()
	p, ok := cx.GetVar(prefetchedHeadVar).(*prefetchedHead)
	if !ok || p.cx != cx || len(data) < p.known || maphash.Bytes(prefetchedSeed, data[:p.known]) != p.hash {
		p = &prefetchedHead{cx: cx}
		p.head.Fields = p.fields[:0]
		p.head.Reset(httphead.Options{})
		cx.SetVar(prefetchedHeadVar, p)
	}
	if len(data) > p.known {
		p.known, p.hash = len(data), maphash.Bytes(prefetchedSeed, data)
	}
	return p
}

var prefetchedSeed = maphash.MakeSeed()

// lineMatchers are the HTTP matchers that see no further than the request line.
var lineMatchers = []string{"method", "path", "path_regexp", "query", "protocol", "remote_ip", "tls"}

// needsHeaders returns the name of the first matcher in sets that looks at more than
// the request line, or "".
func needsHeaders(sets caddyhttp.RawMatcherSets) string {
	for _, set := range sets {
		for name, raw := range set {
			switch {
			case name == "not":
				var negated caddyhttp.RawMatcherSets
				if json.Unmarshal(raw, &negated) != nil {
					return name
				}
				if inner := needsHeaders(negated); inner != "" {
					return inner
				}
			case !slices.Contains(lineMatchers, name),
				name == "protocol" && bytes.Contains(raw, []byte("grpc")),
				bytes.Contains(raw, []byte("{http.")):
				return name
			}
		}
	}
	return ""
}

// namesConnect reports whether the method matcher of the set names CONNECT.
func namesConnect(set caddy.ModuleMap) bool {
	var methods []string
	return json.Unmarshal(set["method"], &methods) == nil && slices.Contains(methods, http.MethodConnect)
}

// MatchInspected matches a connection by the outcome of its inspection. Its JSON is
// an array of outcomes: `http`, `tls`, `other`, `http2`, `malformed`, `too_large`,
// `timeout`, `silent`, `eof`. A connection that was not inspected never matches.
type MatchInspected struct {
	// Outcomes holds the names, of which one must be the outcome.
	Outcomes []string `json:"-"`

	mask uint16
}

// CaddyModule returns the Caddy module information.
func (*MatchInspected) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.matchers.inspected",
		New: func() caddy.Module { return new(MatchInspected) },
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *MatchInspected) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &m.Outcomes)
}

// MarshalJSON implements json.Marshaler.
func (m *MatchInspected) MarshalJSON() ([]byte, error) {
	return json.Marshal(m.Outcomes)
}

// Provision parses the outcomes.
func (m *MatchInspected) Provision(caddy.Context) error {
	if len(m.Outcomes) == 0 {
		return fmt.Errorf("inspected needs at least one outcome: use %s", strings.Join(opening.Names(), ", "))
	}
	for _, name := range m.Outcomes {
		o, err := opening.ParseOutcome(name)
		if err != nil {
			return err
		}
		m.mask |= 1 << o
	}
	return nil
}

// Match implements layer4.ConnMatcher.
func (m *MatchInspected) Match(cx *layer4.Connection) (bool, error) {
	in := inspectionOf(cx)
	return in != nil && m.has(in.Outcome()), nil
}

func (m *MatchInspected) has(o opening.Outcome) bool { return m.mask&(1<<o) != 0 }

// Interface guards
var (
	_ caddy.Provisioner     = (*MatchHTTPRequest)(nil)
	_ caddyfile.Unmarshaler = (*MatchHTTPRequest)(nil)
	_ json.Marshaler        = (*MatchHTTPRequest)(nil)
	_ json.Unmarshaler      = (*MatchHTTPRequest)(nil)
	_ layer4.ConnMatcher    = (*MatchHTTPRequest)(nil)
	_ caddy.Provisioner     = (*MatchInspected)(nil)
	_ caddyfile.Unmarshaler = (*MatchInspected)(nil)
	_ json.Marshaler        = (*MatchInspected)(nil)
	_ json.Unmarshaler      = (*MatchInspected)(nil)
	_ layer4.ConnMatcher    = (*MatchInspected)(nil)
)
