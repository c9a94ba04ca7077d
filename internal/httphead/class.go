package httphead

// Byte classes; a byte may be in several.
const (
	tokenByte uint8 = 1 << iota // tchar, RFC 9110 section 5.6.2
	valueByte                   // of a field value, RFC 9110 section 5.5: HTAB, SP, VCHAR, obs-text
	lineByte                    // all but CTL, RFC 5234 appendix B.1
	pathByte                    // of a path, and the percent sign
	plainByte                   // of a path, and neither dot, percent sign, nor end of a segment
	queryByte                   // of a query
	hostByte                    // of a reg-name, RFC 3986 section 3.2.2, without the percent sign
	digitByte                   // DIGIT, RFC 5234 appendix B.1
)

const (
	alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	unreserved   = alphanumeric + "-._~"
	subDelims    = "!$&'()*+,;="
)

var class = classes()

func classes() (class [256]uint8) {
	add := func(bit uint8, bytes string) {
		for i := range len(bytes) {
			class[bytes[i]] |= bit
		}
	}
	add(tokenByte, alphanumeric+"!#$%&'*+-.^_`|~")
	add(hostByte, unreserved+subDelims)
	add(digitByte, "0123456789")
	// Browsers send some bytes as they are that RFC 3986 wants encoded: the
	// WHATWG URL standard leaves |, [, ] and ^ in paths, and in queries all
	// but the ones excepted below.
	add(pathByte, unreserved+subDelims+":@/%"+"|[]^")
	for c := range 256 {
		switch {
		case c == '\t' || c == ' ' || c >= 0x80:
			class[c] |= valueByte
		case c > ' ' && c < 0x7f:
			class[c] |= valueByte
			if c != '"' && c != '<' && c != '>' && c != '#' {
				class[c] |= queryByte
			}
		}
		if class[c]&pathByte != 0 && c != '%' && c != '.' && c != '/' && c != ';' {
			class[c] |= plainByte
		}
		if c >= ' ' && c != 0x7f {
			class[c] |= lineByte
		}
	}
	return class
}

// all reports whether every byte of b is in the class.
func all(b []byte, bit uint8) bool {
	for _, c := range b {
		if class[c]&bit == 0 {
			return false
		}
	}
	return true
}
