package headmatch

import (
	"path"
	"slices"
	"strings"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// Path matches the path of the target: decoded, in lower case and with slashes merged.
// A pattern has an asterisk at its beginning, its end or both, or is one of [path.Match].
//
// It returns nil for patterns with a percent sign, with which the HTTP app compares the
// encoded path, and with two slashes, for which it does not merge those of the path.
func Path(patterns []string) Matcher {
	if slices.Contains(patterns, "*") {
		return func(*Head) Answer { return Yes }
	}
	var wildcards []wildcard
	var globs []string
	for _, pattern := range patterns {
		if strings.Contains(pattern, "%") || strings.Contains(pattern, "//") || !isASCII(pattern) {
			return nil
		}
		w := newWildcard(pattern)
		if strings.Contains(w.text, "*") || !w.before && !w.after && strings.ContainsAny(w.text, `?[\`) {
			globs = append(globs, pattern)
		} else {
			wildcards = append(wildcards, w)
		}
	}
	return func(h *Head) Answer {
		compared := h.comparedPath()
		switch {
		case compared == "":
			return Unsure
		case matchAny(wildcards, compared):
			return Yes
		}
		for _, glob := range globs {
			if matched, _ := path.Match(glob, compared); matched {
				return Yes
			}
		}
		return No
	}
}

// maxPath is the length in bytes of the longest path that is compared.
const maxPath = 1024

// comparedPath is the path of a head as Path compares it, once it is known.
type comparedPath struct {
	known bool
	len   int // 0 if only the HTTP app knows the path that it compares
	bytes [maxPath]byte
}

// comparedPath returns the path as Path compares it, or "" if to find it takes more than
// a pass over its bytes: with text beyond ASCII, a dot segment, or too many bytes.
func (h *Head) comparedPath() string {
	p := &h.path
	if !p.known {
		p.known, p.len = true, normalize(&p.bytes, h.Reader.Path.Of(h.Data))
	}
	return view(p.bytes[:p.len])
}

// normalize writes the path that is compared to dst, and returns its length, or 0.
func normalize(dst *[maxPath]byte, raw []byte) int {
	if len(raw) == 0 || raw[0] != '/' || len(raw) > len(dst) {
		return 0
	}
	n, dotted := 0, false
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '%' {
			var ok bool
			if c, ok = httphead.Unescape(raw[i:]); !ok {
				return 0
			}
			i += len("%00") - 1
		}
		if c >= 0x80 {
			return 0
		}
		if n > 0 && dst[n-1] == '/' {
			if c == '/' {
				continue
			}
			dotted = dotted || c == '.'
		}
		dst[n] = httphead.Lower(c)
		n++
	}
	if dotted && hasDotSegment(view(dst[:n])) {
		return 0
	}
	return n
}

// hasDotSegment reports whether a segment of the absolute path p is "." or "..".
func hasDotSegment(p string) bool {
	return strings.Contains(p, "/./") || strings.Contains(p, "/../") ||
		strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")
}
