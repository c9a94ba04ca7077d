package exchange

// Blank is how many bytes CR and LF may still come between a request and the next one, of
// which they are no part: old clients end the body of a POST request with a line end that its
// length does not count (RFC 9112 section 2.2).
type Blank uint8

// Skip returns data, which come next, without those at their beginning. From the first other
// byte on there are none.
func (b *Blank) Skip(data []byte) []byte {
	n := 0
	for n < len(data) && n < int(*b) && (data[n] == '\r' || data[n] == '\n') {
		n++
	}
	if *b -= Blank(n); n < len(data) {
		*b = 0
	}
	return data[n:]
}
