package streamprox

import (
	"bytes"
	"net/textproto"
	"path"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// headMatcher answers a matcher of the HTTP app on the bytes of a request head,
// without an *http.Request. It is chosen when the configuration is loaded, for the
// matchers that have one, and answers as the matcher itself would, or unsure: then
// the matcher itself is asked.
type headMatcher func(*headView) answerKind

// answerKind is the answer of a headMatcher.
type answerKind uint8

const (
	no answerKind = iota
	yes
	unsure
)

func answerOf(matched bool) answerKind {
	if matched {
		return yes
	}
	return no
}

// headView is a request head in the form in which headMatchers look at it.
type headView struct {
	data []byte
	head *httphead.Reader
	tls  bool // TLS was terminated before the head was read

	path      []byte // as MatchPath compares it; valid if pathState is yes
	pathState answerKind
	scratch   [headScratch]byte
}

// headScratch is the longest path, in bytes, that is normalized without allocation.
const headScratch = 1024

// newHeadMatcher returns the headMatcher for a provisioned matcher of the HTTP app, or
// nil if it has none.
func newHeadMatcher(matcher any) headMatcher {
	switch m := matcher.(type) {
	case *caddyhttp.MatchMethod:
		return methodMatcher(*m)
	case *caddyhttp.MatchPath:
		return pathMatcher(*m)
	case *caddyhttp.MatchHost:
		return hostMatcher(*m)
	case *caddyhttp.MatchHeader:
		return headerMatcher(*m)
	case *caddyhttp.MatchQuery:
		return queryMatcher(*m)
	case *caddyhttp.MatchProtocol:
		return protocolMatcher(string(*m))
	case *caddyhttp.MatchNot:
		return notMatcher(m.MatcherSets)
	default:
		return nil
	}
}

// dynamic reports whether a value of the configuration depends on the request.
func dynamic(value string) bool { return strings.Contains(value, "{") }

// str returns a view of b as a string, for functions that take one and do not keep it.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func methodMatcher(methods caddyhttp.MatchMethod) headMatcher {
	methods = slices.Clone(methods)
	return func(v *headView) answerKind {
		return answerOf(slices.Contains(methods, str(v.head.Method.Of(v.data))))
	}
}

func protocolMatcher(protocol string) headMatcher {
	switch protocol {
	case "http":
		return func(v *headView) answerKind { return answerOf(!v.tls) }
	case "https":
		return func(v *headView) answerKind { return answerOf(v.tls) }
	case "http/1.0":
		return func(v *headView) answerKind { return answerOf(v.head.Minor == 0) }
	case "http/1.1", "http/1.1+":
		return func(v *headView) answerKind { return answerOf(v.head.Minor == 1) }
	case "http/1.0+":
		return func(*headView) answerKind { return yes }
	case "grpc":
		return func(v *headView) answerKind {
			for _, f := range v.head.Fields {
				if !httphead.EqualFold(f.Name.Of(v.data), "content-type") {
					continue
				}
				if f.Folded {
					return unsure
				}
				return answerOf(bytes.HasPrefix(f.Value.Of(v.data), []byte("application/grpc")))
			}
			return no
		}
	default:
		// HTTP/2 and 3, and what Caddy does not know.
		return func(*headView) answerKind { return no }
	}
}

// pathPattern is a pattern of MatchPath.
type pathPattern struct {
	kind pathKind
	text string // without the asterisks that the kind stands for
}

type pathKind uint8

const (
	pathAny pathKind = iota
	pathExact
	pathPrefix
	pathSuffix
	pathPart
	pathGlob
)

// pathMatcher is MatchPath for constant patterns. Patterns with a percent sign compare
// the encoded path, and those with two slashes one whose slashes are not merged: they
// are left to MatchPath.
func pathMatcher(configured caddyhttp.MatchPath) headMatcher {
	if runtime.GOOS == "windows" {
		return nil // MatchPath has further rules there
	}
	var patterns []pathPattern
	for _, text := range configured {
		if text == "*" {
			return func(*headView) answerKind { return yes }
		}
		if dynamic(text) || strings.Contains(text, "%") || strings.Contains(text, "//") || !isASCII(text) {
			return nil
		}
		patterns = append(patterns, newPathPattern(text))
	}
	return func(v *headView) answerKind {
		reqPath, ok := v.normalPath()
		if !ok {
			return unsure
		}
		for _, p := range patterns {
			if p.match(reqPath) {
				return yes
			}
		}
		return no
	}
}

func newPathPattern(text string) pathPattern {
	first, last, n := strings.HasPrefix(text, "*"), strings.HasSuffix(text, "*"), strings.Count(text, "*")
	switch {
	case n == 2 && first && last:
		return pathPattern{pathPart, text[1 : len(text)-1]}
	case n == 1 && first:
		return pathPattern{pathSuffix, text[1:]}
	case n == 1 && last:
		return pathPattern{pathPrefix, text[:len(text)-1]}
	case strings.ContainsAny(text, `*?[\`):
		return pathPattern{pathGlob, text}
	default:
		return pathPattern{pathExact, text}
	}
}

func (p pathPattern) match(reqPath []byte) bool {
	switch p.kind {
	case pathExact:
		return string(reqPath) == p.text
	case pathPrefix:
		return strings.HasPrefix(str(reqPath), p.text)
	case pathSuffix:
		return strings.HasSuffix(str(reqPath), p.text)
	case pathPart:
		return strings.Contains(str(reqPath), p.text)
	case pathGlob:
		matched, _ := path.Match(p.text, str(reqPath))
		return matched
	default:
		return true
	}
}

// normalPath returns the path of the target as MatchPath compares it: decoded, in lower
// case, and with slashes merged. It reports false if that takes more than a pass over
// its bytes: for text beyond ASCII, dot segments, or a path that is too long.
func (v *headView) normalPath() ([]byte, bool) {
	if v.pathState == no {
		v.path, v.pathState = v.normalizePath()
	}
	return v.path, v.pathState == yes
}

func (v *headView) normalizePath() ([]byte, answerKind) {
	raw := v.head.Path.Of(v.data)
	if len(raw) == 0 || raw[0] != '/' || len(raw) > len(v.scratch) {
		return nil, unsure
	}
	n, dotted := 0, false
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '%' {
			var ok bool
			if c, ok = httphead.Unescape(raw[i:]); !ok {
				return nil, unsure
			}
			i += 2
		}
		switch {
		case c >= 0x80:
			return nil, unsure
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case n > 0 && v.scratch[n-1] == '/':
			if c == '/' {
				continue
			}
			dotted = dotted || c == '.'
		}
		v.scratch[n] = c
		n++
	}
	if normal := v.scratch[:n]; !dotted || !hasDotSegment(normal) {
		return normal, yes
	}
	return nil, unsure
}

// hasDotSegment reports whether a segment of the path is "." or "..".
func hasDotSegment(p []byte) bool {
	for more := true; more; {
		var segment []byte
		if segment, p, more = bytes.Cut(p, slash); string(segment) == "." || string(segment) == ".." {
			return true
		}
	}
	return false
}

var slash = []byte("/")

// hostMatcher is MatchHost for constant names.
func hostMatcher(configured caddyhttp.MatchHost) headMatcher {
	var exact, wild []string
	for _, host := range configured {
		switch {
		case dynamic(host) || !isASCII(host):
			return nil
		case strings.Contains(host, "*"):
			wild = append(wild, host)
		default:
			exact = append(exact, host)
		}
	}
	return func(v *headView) answerKind {
		host, ok := hostname(v.head.Host.Of(v.data))
		if !ok {
			return unsure
		}
		for _, name := range exact {
			if httphead.EqualFold(host, name) {
				return yes
			}
		}
		for _, pattern := range wild {
			if matchLabels(pattern, host) {
				return yes
			}
		}
		return no
	}
}

// hostname returns the host of a Host field without its port, as MatchHost sees it. It
// reports false for a form that takes a closer look.
func hostname(host []byte) ([]byte, bool) {
	if len(host) > 0 && host[0] == '[' {
		end := bytes.IndexByte(host, ']')
		if end < 0 || bytes.IndexByte(host[1:end], '[') >= 0 {
			return nil, false
		}
		return host[1:end], isPort(host[end+1:])
	}
	for i, c := range host {
		switch {
		case c == ':':
			return host[:i], isPort(host[i:])
		case c >= 0x80 || c == '[' || c == ']' || c == '%':
			return nil, false
		}
	}
	return host, true
}

// isPort reports whether b is empty, or a colon and what net.SplitHostPort takes for a
// port.
func isPort(b []byte) bool {
	return len(b) == 0 || b[0] == ':' && !bytes.ContainsAny(b[1:], ":[]")
}

// matchLabels reports whether each label of pattern is that of host, or an asterisk.
func matchLabels(pattern string, host []byte) bool {
	for {
		want, restPattern, morePattern := strings.Cut(pattern, ".")
		got, restHost, moreHost := bytes.Cut(host, dot)
		if want != "*" && !httphead.EqualFold(got, want) || morePattern != moreHost {
			return false
		}
		if !morePattern {
			return true
		}
		pattern, host = restPattern, restHost
	}
}

var dot = []byte(".")

// headerMatcher is MatchHeader for constant values.
func headerMatcher(configured caddyhttp.MatchHeader) headMatcher {
	var conditions []fieldCondition
	for name, values := range configured {
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Content-Length", "Transfer-Encoding", "Trailer", "Cache-Control":
			return nil // net/http changes them
		}
		if slices.ContainsFunc(values, dynamic) {
			return nil
		}
		condition := fieldCondition{name: name, absent: values == nil, present: values != nil && len(values) == 0}
		for _, value := range values {
			condition.values = append(condition.values, newValuePattern(value))
		}
		conditions = append(conditions, condition)
	}
	return func(v *headView) answerKind {
		for i := range conditions {
			if answer := conditions[i].match(v); answer != yes {
				return answer
			}
		}
		return yes
	}
}

// fieldCondition is what MatchHeader asks of one field.
type fieldCondition struct {
	name    string
	absent  bool // the field must not be there
	present bool // it must be there, with any value
	values  []valuePattern
}

func (c *fieldCondition) match(v *headView) answerKind {
	if c.name == "Host" {
		host := v.head.Host.Of(v.data)
		if len(host) == 0 {
			return answerOf(c.absent)
		}
		return answerOf(c.present || c.anyMatch(host))
	}
	if strings.ContainsAny(c.name, "_.") {
		return answerOf(c.absent) // the HTTP app drops it
	}
	found := false
	for _, f := range v.head.Fields {
		if len(c.name) != int(f.Name.End-f.Name.Start) || !httphead.EqualFold(f.Name.Of(v.data), c.name) {
			continue
		}
		if f.Folded {
			return unsure
		}
		if found = true; c.anyMatch(f.Value.Of(v.data)) {
			return yes
		}
	}
	return answerOf(c.absent && !found || c.present && found)
}

func (c *fieldCondition) anyMatch(value []byte) bool {
	for _, pattern := range c.values {
		if pattern.match(value) {
			return true
		}
	}
	return false
}

// valuePattern is a pattern of MatchHeader.
type valuePattern struct {
	kind pathKind
	text string
}

func newValuePattern(text string) valuePattern {
	switch {
	case text == "*":
		return valuePattern{kind: pathAny}
	case strings.HasPrefix(text, "*") && strings.HasSuffix(text, "*"):
		return valuePattern{pathPart, text[1 : len(text)-1]}
	case strings.HasPrefix(text, "*"):
		return valuePattern{pathSuffix, text[1:]}
	case strings.HasSuffix(text, "*"):
		return valuePattern{pathPrefix, text[:len(text)-1]}
	default:
		return valuePattern{pathExact, text}
	}
}

func (p valuePattern) match(value []byte) bool { return pathPattern(p).match(value) }

// queryMatcher is MatchQuery for constant parameters.
func queryMatcher(configured caddyhttp.MatchQuery) headMatcher {
	type parameter struct {
		name   string
		values []string
	}
	if len(configured) == 0 {
		return nil
	}
	var parameters []parameter
	for name, values := range configured {
		if dynamic(name) || slices.ContainsFunc(values, dynamic) {
			return nil
		}
		parameters = append(parameters, parameter{name, values})
	}
	return func(v *headView) answerKind {
		query := v.head.Query.Of(v.data)
		switch {
		case bytes.Count(query, ampersand) >= maxParameters:
			return unsure
		case !validQuery(query):
			return no
		}
		for _, p := range parameters {
			if !hasParameter(query, p.name, p.values) {
				return no
			}
		}
		return yes
	}
}

// maxParameters is how many parameters url.ParseQuery takes, unless the process is
// started with GODEBUG=urlmaxqueryparams.
const maxParameters = 10_000

// validQuery reports whether url.ParseQuery takes the query.
func validQuery(query []byte) bool {
	for i := 0; i < len(query); i++ {
		switch query[i] {
		case ';':
			return false
		case '%':
			if _, ok := httphead.Unescape(query[i:]); !ok {
				return false
			}
			i += 2
		}
	}
	return true
}

// hasParameter reports whether a parameter of that name has one of the values, or any
// if one of them is an asterisk.
func hasParameter(query []byte, name string, values []string) bool {
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, ampersand)
		if len(pair) == 0 {
			continue
		}
		key, value, _ := bytes.Cut(pair, equals)
		if !decodesTo(key, name) {
			continue
		}
		for _, want := range values {
			if want == "*" || decodesTo(value, want) {
				return true
			}
		}
	}
	return false
}

var ampersand, equals = []byte("&"), []byte("=")

// decodesTo reports whether b, of a valid query, is want in decoded form.
func decodesTo(b []byte, want string) bool {
	n := 0
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			c, _ = httphead.Unescape(b[i:])
			i += 2
		}
		if n >= len(want) || want[n] != c {
			return false
		}
		n++
	}
	return n == len(want)
}

// notMatcher is MatchNot over matchers that all have a headMatcher.
func notMatcher(sets []caddyhttp.MatcherSet) headMatcher {
	var negated [][]headMatcher
	for _, set := range sets {
		var matchers []headMatcher
		for _, m := range set {
			matcher := newHeadMatcher(m)
			if matcher == nil {
				return nil
			}
			matchers = append(matchers, matcher)
		}
		negated = append(negated, matchers)
	}
	return func(v *headView) answerKind {
		for _, set := range negated {
			switch matchAll(set, v) {
			case yes:
				return no
			case unsure:
				return unsure
			}
		}
		return yes
	}
}

// matchAll is yes if all the matchers are, and otherwise the first other answer.
func matchAll(matchers []headMatcher, v *headView) answerKind {
	for _, m := range matchers {
		if answer := m(v); answer != yes {
			return answer
		}
	}
	return yes
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}
