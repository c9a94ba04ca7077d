package headmatch

import (
	"strings"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// Host matches the host of the request without its port. A name has an asterisk for each
// label that may be any. It returns nil for names beyond ASCII.
func Host(names []string) Matcher {
	var exact, patterns []string
	for _, name := range names {
		switch {
		case !isASCII(name):
			return nil
		case strings.Contains(name, "*"):
			patterns = append(patterns, name)
		default:
			exact = append(exact, name)
		}
	}
	return func(h *Head) Answer {
		host, ok := hostname(h.text(h.Reader.Host))
		if !ok {
			return Unsure
		}
		for _, name := range exact {
			if httphead.EqualFold(host, name) {
				return Yes
			}
		}
		for _, pattern := range patterns {
			if matchLabels(pattern, host) {
				return Yes
			}
		}
		return No
	}
}

// hostname returns a host without its port and without the brackets of an IPv6 address; ok
// is false if it is written in a way that is left to the HTTP app.
func hostname(host string) (name string, ok bool) {
	if strings.HasPrefix(host, "[") {
		address, port, closed := strings.Cut(host[1:], "]")
		return address, closed && !strings.Contains(address, "[") && isPort(port)
	}
	for i := range len(host) {
		switch c := host[i]; {
		case c == ':':
			return host[:i], isPort(host[i:])
		case c >= 0x80 || c == '[' || c == ']' || c == '%':
			return "", false
		}
	}
	return host, true
}

// isPort reports whether s is empty, or a colon and what net.SplitHostPort takes for a
// port.
func isPort(s string) bool {
	return s == "" || s[0] == ':' && !strings.ContainsAny(s[1:], ":[]")
}

// matchLabels reports whether each label of pattern is that of host, or an asterisk.
func matchLabels(pattern, host string) bool {
	for {
		want, patternRest, patternMore := strings.Cut(pattern, ".")
		got, hostRest, hostMore := strings.Cut(host, ".")
		if want != "*" && !httphead.EqualFold(got, want) || patternMore != hostMore {
			return false
		}
		if !patternMore {
			return true
		}
		pattern, host = patternRest, hostRest
	}
}
