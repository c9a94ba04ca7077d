package httphead

import "bytes"

// endLine judges the first line, data[:end], whose LF is at i. It holds a
// method, a space, and no control byte.
func (r *Reader) endLine(data []byte, end, i int) {
	line := data[:end]
	minor, ok := version(line)
	if !ok {
		r.endOther(data[:i+1], line, i)
		return
	}
	if end == i && !r.opts.Lenient {
		r.malformed(ErrBareLF, i)
		return
	}
	r.Minor = minor
	if err := r.checkLine(data, end-len(" HTTP/1.1")); err != nil {
		r.malformed(err, i)
		return
	}
	r.Host = r.authority
	r.HasHost = !r.authority.empty()
	r.start, r.pos = i+1, i+1
	if r.opts.LineOnly {
		r.accept(i)
		return
	}
	r.state = inName
}

// accept ends reading with the LF at i.
func (r *Reader) accept(i int) {
	r.Len = i + 1
	r.decide(HTTP, i)
}

// version returns the minor version of a line that ends in a supported one.
func version(line []byte) (minor int, ok bool) {
	const prefix = " HTTP/1."
	n := len(line) - len(prefix) - 1
	if n < 0 || string(line[n:len(line)-1]) != prefix {
		return 0, false
	}
	switch line[len(line)-1] {
	case '0':
		return 0, true
	case '1':
		return 1, true
	}
	return 0, false
}

// endOther judges a first line, complete at i, that does not end in a version
// we read: it was meant as HTTP, or it is another protocol.
func (r *Reader) endOther(raw, line []byte, i int) {
	switch {
	case !r.opts.Later && string(raw) == prefaceLine:
		r.pos = i + 1
		r.state = inPreface
	case bytes.Contains(line, httpVersion):
		r.malformed(ErrVersion, i)
	case hasOtherVersion(line):
		r.decide(Other, i)
	case hasTarget(line):
		r.malformed(ErrNoVersion, i)
	default:
		r.decide(Other, i)
	}
}

// breakLine judges a first line that a control byte at i, for which e stands,
// has made neither HTTP nor text. line is what comes before it.
func (r *Reader) breakLine(line []byte, e *Error, i int) {
	word, _, _ := bytes.Cut(line, space)
	if known, _ := knownMethod(word); known || hasTarget(line) || bytes.Contains(line, httpVersion) {
		r.malformed(e, i)
		return
	}
	r.decide(Other, i)
}

var (
	httpVersion   = []byte(" HTTP/")
	schemeSlashes = []byte("://")
)

// hasTarget reports whether the second word of line looks like a request
// target: a path or a URL.
func hasTarget(line []byte) bool {
	_, rest, _ := bytes.Cut(line, space)
	word, _, _ := bytes.Cut(bytes.TrimLeft(rest, " "), space)
	return len(word) > 0 && word[0] == '/' || bytes.Contains(word, schemeSlashes)
}

var space = []byte(" ")

// hasOtherVersion reports whether line ends in the version of another
// protocol, such as RTSP/1.0 or SIP/2.0.
func hasOtherVersion(line []byte) bool {
	word := line[bytes.LastIndexByte(line, ' ')+1:]
	name, number, ok := bytes.Cut(word, slash)
	return ok && len(name) > 0 && all(name, tokenByte) && !EqualFold(name, "HTTP") &&
		len(number) == 3 && isDigit(number[0]) && number[1] == '.' && isDigit(number[2])
}

var slash = []byte("/")

// checkLine checks method and target of a request line whose target ends at
// end.
func (r *Reader) checkLine(data []byte, end int) *Error {
	start := int(r.Method.End) + 1
	if end <= start {
		return ErrTarget
	}
	r.Target = span(start, end)
	r.Path, r.Query = span(end, end), span(end, end)
	if r.opts.Lenient {
		return r.splitLenient(data)
	}
	if !goodCase(r.Method.Of(data)) {
		return ErrMethodCase
	}
	return r.splitStrict(data)
}

// goodCase reports whether method is not a known one in wrong letter case.
// Methods are case-sensitive, and still some servers take "get" for GET.
func goodCase(method []byte) bool {
	known, exact := knownMethod(method)
	return exact || !known
}

// methods are those of RFC 9110 and RFC 5789.
var methods = []string{"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"}

// knownMethod reports whether word is one of them in any letter case, and
// whether it is in its own.
func knownMethod(word []byte) (known, exact bool) {
	for _, m := range methods {
		if EqualFold(word, m) {
			return true, string(word) == m
		}
	}
	return false, false
}
