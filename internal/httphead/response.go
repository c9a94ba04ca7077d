package httphead

// Framing says what ends the body of a response (RFC 9112 section 6.3).
type Framing uint8

const (
	NoBody     Framing = iota // the head ends the response
	Counted                   // Content-Length counts the body's bytes
	Chunked                   // the body ends with its last chunk and its trailer section
	UntilClose                // the end of the connection ends the body
)

func (f Framing) String() string {
	switch f {
	case NoBody:
		return "no body"
	case Counted:
		return "counted"
	case Chunked:
		return "chunked"
	case UntilClose:
		return "until close"
	}
	return "invalid"
}

// Response reads one response head (RFC 9112 section 4), once Reset has made it
// ready. Its verdict is More, HTTP or Malformed. The exported fields are results,
// valid once Read has returned HTTP.
//
// It accepts what servers send and clients agree on, as net/http's client does: lines that
// end in LF alone, several spaces before the status code, a reason phrase that is missing
// with its space, and folded fields; [Response.Forward] writes them as they should be. It
// refuses what clients read in different ways, and more than 1,024 fields.
type Response struct {
	Status int // 100 to 999
	Minor  int // the x of HTTP/1.x

	Fields []Field // in the order received; reused after Reset

	// ContentLength is -1 when absent, and with Chunked. Content-Length fields
	// beside chunked must not be sent on (RFC 9112 section 6.3).
	ContentLength int64
	Chunked       bool

	Len int // the length of the head with its empty line

	head Reader
}

// Reset makes r ready for another head. The memory of r.Fields is reused.
func (r *Response) Reset() {
	*r = Response{Fields: r.Fields[:0]}
	r.head.Fields = r.Fields
	r.head.Reset(Options{Lenient: true, response: true})
}

// Read looks at data, all bytes received so far from the first one on, and
// returns the verdict on them, as [Reader.Read] does.
func (r *Response) Read(data []byte) Verdict {
	h := &r.head
	v := h.Read(data)
	r.Fields = h.Fields // may have grown
	if v == HTTP {
		status, _ := parseLength(h.status.Of(data))
		r.Status = int(status)
		r.Minor = h.Minor
		r.ContentLength, r.Chunked = h.ContentLength, h.Chunked
		r.Len = h.Len
	}
	return v
}

// Err returns why the verdict is Malformed, an [*Error], or nil.
func (r *Response) Err() error { return r.head.Err() }

// Lookup returns the value of the first field of that name, and how many
// fields have it. Letter case does not matter. data is what Read was given.
func (r *Response) Lookup(data []byte, name string) (value []byte, n int) {
	return r.head.Lookup(data, name)
}

// Line returns the line of the i-th field, with its line end. Line(-1) is the
// status line.
func (r *Response) Line(i int) Span { return r.head.Line(i) }

// Body returns what ends the body of r as the response to a request with this
// method. After a 2xx to CONNECT, which has no body, the connection is a tunnel,
// and after a 101 one for the protocol that was asked for.
func (r *Response) Body(method []byte) Framing {
	switch {
	case r.Status < 200, r.Status == 204, r.Status == 304,
		string(method) == "HEAD",
		string(method) == "CONNECT" && r.Status < 300:
		return NoBody
	case r.Chunked:
		return Chunked
	case r.ContentLength >= 0:
		return Counted
	}
	return UntilClose
}

// A status line begins with "HTTP/1.1 200".
const (
	responseVersion = "HTTP/1."
	statusStart     = len(responseVersion + "1 ")
	statusLen       = len("200")
)

// readStatus reads a status line up to the byte after its status code, which
// begins the reason phrase or the line end.
func (r *Reader) readStatus(data []byte) {
	for ; r.pos < len(data); r.pos++ {
		code := int(r.status.Start) // 0 before it has begun
		if code > 0 && r.pos == code+statusLen {
			r.endCode(data)
			return
		}
		if err := r.checkStatus(data[r.pos], code); err != nil {
			r.malformed(err, r.pos)
			return
		}
	}
}

// checkStatus checks the byte c of a status line at r.pos, and marks the status code where
// it begins.
func (r *Reader) checkStatus(c byte, code int) *Error {
	switch i := r.pos; {
	case i < len("HTTP/"):
		if c != responseVersion[i] {
			return ErrStatus
		}
	case i < len(responseVersion):
		if c != responseVersion[i] {
			return ErrVersion
		}
	case i == len(responseVersion):
		if c != '0' && c != '1' {
			return ErrVersion
		}
		r.Minor = int(c - '0')
	case i < statusStart:
		if isDigit(c) {
			return ErrVersion
		}
		if c != ' ' {
			return ErrStatus
		}
	case code == 0 && c == ' ':
	case code == 0 && c == '0' || !isDigit(c):
		return ErrStatusCode
	case code == 0:
		r.status = span(i, i+statusLen)
	}
	return nil
}

// endCode reads the byte after the status code.
func (r *Reader) endCode(data []byte) {
	switch i := r.pos; data[i] {
	case ' ':
		r.pos = i + 1
		r.state = inReason
	case '\r', '\n':
		r.readReason(data)
	default:
		r.malformed(ErrStatusCode, i)
	}
}

// readReason reads the byte that ends the reason phrase.
func (r *Reader) readReason(data []byte) {
	i := r.pos
	switch data[i] {
	case '\r':
		r.pos = i + 1
		r.state = inReasonEnd
	case '\n':
		r.endStatus(i)
	default:
		r.malformed(ErrReason, i)
	}
}

func (r *Reader) readReasonEnd(data []byte) {
	i := r.pos
	if data[i] != '\n' {
		r.malformed(ErrBareCR, i)
		return
	}
	r.endStatus(i)
}

// endStatus ends the status line with the LF at i.
func (r *Reader) endStatus(i int) {
	r.start, r.pos = i+1, i+1
	r.state = inName
}
