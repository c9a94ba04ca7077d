package headmatch

import (
	"strings"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// Query matches requests that have all of the parameters, each with one of the values given
// for it. An asterisk alone is any value. It returns nil if there are no parameters: the
// HTTP app then asks for an empty query.
func Query(parameters map[string][]string) Matcher {
	if len(parameters) == 0 {
		return nil
	}
	var wanted []parameter
	for name, values := range parameters {
		wanted = append(wanted, parameter{name, values})
	}
	return func(h *Head) Answer {
		query := h.text(h.Reader.Query)
		switch {
		case strings.Count(query, "&") >= maxParameters:
			return Unsure
		case !validQuery(query):
			return No
		}
		for _, p := range wanted {
			if !p.isIn(query) {
				return No
			}
		}
		return Yes
	}
}

// maxParameters is how many parameters url.ParseQuery takes, unless the process is
// started with GODEBUG=urlmaxqueryparams.
const maxParameters = 10_000

// validQuery reports whether url.ParseQuery takes the query.
func validQuery(query string) bool {
	for i := 0; i < len(query); i++ {
		switch query[i] {
		case ';':
			return false
		case '%':
			if _, ok := httphead.Unescape(query[i:]); !ok {
				return false
			}
			i += len("%00") - 1
		}
	}
	return true
}

// parameter is what Query asks for.
type parameter struct {
	name   string
	values []string
}

// isIn reports whether a valid query has a parameter of that name with one of the values.
func (p *parameter) isIn(query string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		if !decodesTo(name, p.name) {
			continue
		}
		for _, want := range p.values {
			if want == "*" || decodesTo(value, want) {
				return true
			}
		}
	}
	return false
}

// decodesTo reports whether s, of a valid query, is want in decoded form.
func decodesTo(s, want string) bool {
	n := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			c, _ = httphead.Unescape(s[i:])
			i += len("%00") - 1
		}
		if n >= len(want) || want[n] != c {
			return false
		}
		n++
	}
	return n == len(want)
}
