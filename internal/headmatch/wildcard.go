package headmatch

import "strings"

// wildcard is a pattern of a text, with an asterisk at its beginning or its end for any
// text before it or after it.
type wildcard struct {
	text          string // without the two asterisks
	before, after bool   // whether they are there
}

func newWildcard(pattern string) wildcard {
	text, before := strings.CutPrefix(pattern, "*")
	text, after := strings.CutSuffix(text, "*")
	return wildcard{text, before, after}
}

func (w *wildcard) match(text string) bool {
	switch {
	case w.before && w.after:
		return strings.Contains(text, w.text)
	case w.before:
		return strings.HasSuffix(text, w.text)
	case w.after:
		return strings.HasPrefix(text, w.text)
	default:
		return text == w.text
	}
}

// matchAny reports whether one of the patterns matches.
func matchAny(patterns []wildcard, text string) bool {
	for i := range patterns {
		if patterns[i].match(text) {
			return true
		}
	}
	return false
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}
