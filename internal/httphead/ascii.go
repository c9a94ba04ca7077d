package httphead

// EqualFold reports whether a and b are the same ASCII text, in any letter case.
func EqualFold[A, B string | []byte](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if a[i] != b[i] && Lower(a[i]) != Lower(b[i]) {
			return false
		}
	}
	return true
}

// hasPrefixFold reports whether b begins with the ASCII text prefix, in any letter case.
func hasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && EqualFold(b[:len(prefix)], prefix)
}

// Lower returns an ASCII letter in lower case, and any other byte as it is.
func Lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func isDigit(c byte) bool { return class[c]&digitByte != 0 }

// hexDigit returns the value of the HEXDIG c in any letter case.
func hexDigit(c byte) (v byte, ok bool) {
	switch c = Lower(c); {
	case isDigit(c):
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// Unescape returns the byte that the percent-encoding at the beginning of s stands for
// (RFC 3986 section 2.1); ok is false if s does not begin with one.
func Unescape[T string | []byte](s T) (c byte, ok bool) {
	if len(s) < len("%00") || s[0] != '%' {
		return 0, false
	}
	high, ok := hexDigit(s[1])
	if !ok {
		return 0, false
	}
	low, ok := hexDigit(s[2])
	return high<<4 | low, ok
}
