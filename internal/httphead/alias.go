package httphead

import (
	"slices"
	"strings"
)

// A server that hands its fields to an application as variables (CGI, RFC 3875 section
// 4.1.18, and what is like it: FastCGI, WSGI, PHP) writes an underscore for a hyphen.
// lighttpd, Apache before 2.4 and many others write one for every character that is no
// letter or digit. To the application X_User, X.User and X!User are then X-User: the
// field on which it relies because a proxy sets it.

// Unaliased returns the spelling that a field name has in common with all names that
// such servers do not tell from it: lower case, and a hyphen for each character that is
// no letter or digit.
func Unaliased(name string) string {
	return strings.Map(func(r rune) rune {
		if r > 0x7f {
			return '-' // of no field name
		}
		return rune(unaliased(byte(r)))
	}, name)
}

// SameVariable reports whether such servers take the two for one field.
func SameVariable(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if unaliased(c) != unaliased(b[i]) {
			return false
		}
	}
	return true
}

// isAlias reports whether a name may be taken for another one, with hyphens.
func isAlias(name []byte) bool {
	return slices.ContainsFunc(name, func(c byte) bool { return c != '-' && unaliased(c) == '-' })
}

// unaliased returns what a character of a field name counts as.
func unaliased(c byte) byte {
	if c = Lower(c); isDigit(c) || 'a' <= c && c <= 'z' {
		return c
	}
	return '-'
}
