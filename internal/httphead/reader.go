// Package httphead reads the first bytes of a connection: it tells an
// HTTP/1.x request head from TLS, from the HTTP/2 preface and from everything
// else, and it takes the head apart.
//
// A [Reader] is given the bytes received so far, again and again, until it has
// reached a verdict. It looks at every byte once, keeps offsets and never the
// bytes themselves, and allocates nothing once its list of fields has grown.
// The verdict, and the byte at which it is reached, depend on the bytes alone,
// never on the pieces in which they came.
//
// What a head may hold is bounded, in both modes, so that nobody who works on an
// accepted head does more than is linear in its bytes.
//
// By default it is strict: it accepts only a head that all parsers read alike,
// which is less than RFC 9112 and RFC 9110 allow a recipient to tolerate. What
// it refuses on top of their grammar are dot segments in the path, a percent
// sign or a dot at the end of the host and a Host that differs from the target's
// authority. With [Options].Lenient it accepts what the server of net/http
// accepts, within these bounds. In neither mode does it accept what net/http
// rejects.
//
// What comes after a request head has readers of its own: [Body] and [Chunks]
// find the end of a body, and [Response] reads the head of the answer. They too
// are given pieces, keep no bytes, allocate nothing and accept nothing that
// net/http rejects.
package httphead

import "iter"

// Verdict says what the bytes are.
type Verdict uint8

const (
	More      Verdict = iota // not decided: needs more bytes
	HTTP                     // a complete, valid HTTP/1.0 or 1.1 head (with LineOnly: request line)
	TLS                      // begins as a TLS ClientHello record
	HTTP2                    // the HTTP/2 connection preface
	Other                    // can become none of these
	Malformed                // meant as HTTP, but invalid or ambiguous
	TooLarge                 // an HTTP/1 head with more fields than are read
)

func (v Verdict) String() string {
	switch v {
	case More:
		return "more"
	case HTTP:
		return "http"
	case TLS:
		return "tls"
	case HTTP2:
		return "http2"
	case Other:
		return "other"
	case Malformed:
		return "malformed"
	case TooLarge:
		return "too large"
	}
	return "invalid"
}

// Options choose how a [Reader] reads. The zero value is strict, reads a whole
// head, and takes the bytes for the first ones of their connection.
type Options struct {
	// Lenient accepts what the server of net/http accepts, within the bounds of
	// any head.
	Lenient bool
	// LineOnly decides as soon as the request line is complete.
	LineOnly bool
	// Later marks a later request of a connection. TLS, the HTTP/2 preface and
	// a PROXY header cannot begin there: the preface is Malformed, and the
	// others are judged like any bytes that are not HTTP.
	Later bool

	response bool // reads the head of a response; see [Response]
}

// Span is a part of the data given to [Reader.Read], by offsets.
type Span struct{ Start, End uint32 }

// Of returns the bytes of s in data. They are not copied.
func (s Span) Of(data []byte) []byte { return data[s.Start:s.End:s.End] }

func (s Span) empty() bool { return s.Start == s.End }

func span(start, end int) Span { return Span{uint32(start), uint32(end)} }

// Field is one field line (RFC 9112 section 5).
type Field struct {
	Name  Span
	Value Span // without surrounding whitespace
	// Folded marks a field that continues on further lines (obs-fold, RFC 9112
	// section 5.2): Value holds the line breaks. Only with Lenient, and in a [Response].
	Folded bool
}

// Reader reads one head, once Reset has made it ready. The exported
// fields are results, valid once Read has returned HTTP; with LineOnly those
// of the request line.
type Reader struct {
	Method Span
	Target Span
	Minor  int // the x of HTTP/1.x

	// Path and Query are the target's, as sent: without the question mark
	// between them, not decoded. An authority-form target has neither; the
	// path of an asterisk-form target is "*".
	Path, Query Span

	// Host is the authority of the target, or else the value of the Host field
	// (RFC 9112 section 3.3), with its port; empty if there is none. HasHost
	// tells a missing Host from an empty one.
	Host    Span
	HasHost bool

	Fields []Field // in the order received; reused after Reset

	ContentLength int64 // -1 when absent, and with Chunked
	Chunked       bool

	// Len is the length of the head with its empty line; with LineOnly, of the
	// request line with its line end.
	Len int

	opts    Options
	verdict Verdict
	err     *Error

	state state
	stops []bool // stops[state]
	pos   int    // how many bytes have been looked at; after the verdict, which one brought it
	start int    // where the field name, or the line of a field value, begins

	authority  Span // of the target
	status     Span // the status code of a response
	length     Span // the value of the first Content-Length
	hasField   bool // a Host field was seen
	coded      bool // a Transfer-Encoding field was seen
	badTrailer bool // a Trailer field names a field of the framing
	special    bool // the last field has a meaning to this package
	folding    bool // the line being read continues the last field

	list     kind // what the last field is, if its elements are counted
	options  int  // the elements of the Connection fields
	upgrades int  // the elements of the Upgrade fields
}

// state is what the next byte belongs to.
type state uint8

const (
	atStart     state = iota
	inTLS             // a TLS record header and the first byte of its content
	inSignature       // a PROXY v2 signature
	inMethod          // the first token
	inMethodEnd       // after a known method and a CR
	inLine            // the rest of the first line
	inLineEnd         // after a CR in the first line
	inPreface         // the HTTP/2 preface after its first line
	inName            // a field name, or the beginning of a line without one
	inValue           // a field value, with the whitespace around it
	inFieldEnd        // after a CR in a field value
	inHeadEnd         // after the CR of the empty line
	inStatus          // a status line up to the byte after its status code
	inReason          // a reason phrase
	inReasonEnd       // after a CR in a reason phrase
	decided           // nothing: the verdict is reached
)

// within holds the class of the bytes that a state goes on with; a state without
// one judges each byte.
var within = [decided + 1]uint8{
	inLine:   lineByte,
	inName:   tokenByte,
	inValue:  valueByte,
	inReason: valueByte,
}

// stops marks for each state the bytes that it does not simply go on with.
var stops = func() (stops [decided + 1][]bool) {
	for s := range stops {
		stops[s] = make([]bool, 256)
		for c := range stops[s] {
			stops[s][c] = class[c]&within[s] == 0
		}
	}
	return stops
}()

const (
	// maxMethod bounds the first token where a Reader is strict: text with no
	// space in it is not waited for. The longest registered method has 17 bytes.
	// A server of net/http takes a token of any length for a method.
	maxMethod = 32

	// maxFields bounds the fields of a request, maxResponseFields those of a
	// response: 20 bytes are kept for each, and who passes a head on looks at each
	// for every connection option. HAProxy reads 101 (tune.http.maxhdr), Apache 100
	// (LimitRequestFields); nginx and net/http bound their bytes alone. Browsers
	// send about 20.
	maxFields         = 256
	maxResponseFields = 1024

	// maxElements bounds the elements of all Connection fields of a head together,
	// and those of all Upgrade fields, empty ones too. Other servers have no such
	// bound: HAProxy and nginx look for a few known words in these lists, Apache
	// removes what is named, from at most 100 fields. Clients send up to three.
	maxElements = 32

	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113 section 3.4
	prefaceLine = "PRI * HTTP/2.0\r\n"
	signature   = "\r\n\r\n\x00\r\nQUIT\n" // PROXY protocol, section 2.2
)

// Reset makes r ready for another head. The memory of r.Fields is reused.
func (r *Reader) Reset(o Options) {
	*r = Reader{Fields: r.Fields[:0], opts: o, stops: stops[atStart]}
}

// Read looks at data, all bytes received so far from the first one on, and
// returns the verdict on them. Bytes that an earlier call has seen must not
// have changed, but data may have moved. Once reached, a verdict stays.
//
// The length of data is for the caller to limit; it must stay below 4 GiB.
func (r *Reader) Read(data []byte) (v Verdict) {
	// Most bytes of a head that comes in small packets change nothing. These lines are
	// just few enough to be compiled in line, which halves what such a head costs.
	for _, c := range data[r.pos:] {
		if r.stops[c] {
			return r.read(data)
		}
		r.pos++
	}
	return
}

// read goes on from a byte that changes something.
func (r *Reader) read(data []byte) Verdict {
	for r.state != decided && r.pos < len(data) {
		// Most bytes change nothing else.
		r.pos = scan(data, r.pos, within[r.state])
		if r.pos == len(data) {
			break
		}
		switch r.state {
		case atStart:
			r.readStart(data[0])
		case inTLS:
			r.readTLS(data)
		case inSignature:
			r.match(data, signature, Other, ErrLeading)
		case inMethod:
			r.readMethod(data)
		case inMethodEnd:
			r.readMethodEnd(data)
		case inLine:
			r.readLine(data)
		case inLineEnd:
			r.readLineEnd(data)
		case inPreface:
			r.match(data, preface, HTTP2, ErrVersion)
		case inName, inValue:
			r.readFields(data)
		case inFieldEnd:
			r.readFieldEnd(data)
		case inHeadEnd:
			r.readHeadEnd(data)
		case inStatus:
			r.readStatus(data)
		case inReason:
			r.readReason(data)
		case inReasonEnd:
			r.readReasonEnd(data)
		}
	}
	r.stops = stops[r.state]
	return r.verdict
}

// Partial reports whether the bytes so far, undecided or too large, may be the
// beginning of an HTTP/1 head: there is at least one, and they are not part of a
// TLS record, a PROXY header or the HTTP/2 preface. Their sender understands an
// error response.
func (r *Reader) Partial() bool {
	if r.verdict != More {
		return r.verdict == TooLarge
	}
	switch r.state {
	case atStart, inTLS, inSignature, inPreface:
		return false
	}
	return true
}

// Err returns why the verdict is Malformed or TooLarge, an [*Error], or nil.
func (r *Reader) Err() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

// Options returns the options given to Reset.
func (r *Reader) Options() Options { return r.opts }

// Named returns the fields of that name, in the order received. Letter case does not
// matter. data is what Read was given.
func (r *Reader) Named(data []byte, name string) iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for _, f := range r.Fields {
			if EqualFold(f.Name.Of(data), name) && !yield(f) {
				return
			}
		}
	}
}

// Lookup returns the value of the first of the fields that Named returns, and how many
// there are.
func (r *Reader) Lookup(data []byte, name string) (value []byte, n int) {
	for f := range r.Named(data, name) {
		if n == 0 {
			value = f.Value.Of(data)
		}
		n++
	}
	return value, n
}

// Line returns the line of the i-th field, with its line end; with obs-fold, all its
// lines. Line(-1) is the request line.
func (r *Reader) Line(i int) Span {
	start, end := uint32(0), uint32(r.start)
	if i >= 0 {
		start = r.Fields[i].Name.Start
	}
	if i+1 < len(r.Fields) {
		end = r.Fields[i+1].Name.Start
	}
	return Span{start, end}
}

// decide ends reading: the byte at i has settled the verdict.
func (r *Reader) decide(v Verdict, i int) {
	r.verdict = v
	r.state = decided
	r.pos = i // where Read stops again, whether or not more bytes have come
}

func (r *Reader) malformed(e *Error, i int) {
	r.err = e
	r.decide(Malformed, i)
}

func (r *Reader) readStart(c byte) {
	r.ContentLength = -1
	switch {
	case r.opts.response:
		r.state = inStatus
	case c == 0x16 && !r.opts.Later:
		r.state = inTLS
	case c == '\r' && !r.opts.Later:
		r.state = inSignature
	case c == '\r' || c == '\n' || c == ' ' || c == '\t':
		// Parsers that skip these would read a request.
		r.malformed(ErrLeading, 0)
	default:
		r.state = inMethod
	}
}

// readTLS reads the header of a TLS record (RFC 8446 section 5.1) that holds
// a handshake message, and the type of that message, which is ClientHello.
func (r *Reader) readTLS(data []byte) {
	for ; r.pos < len(data); r.pos++ {
		c := data[r.pos]
		var ok bool
		switch r.pos {
		case 0:
			ok = c == 0x16
		case 1:
			ok = c == 3
		case 2:
			ok = c <= 4
		case 3:
			ok = c <= 0x40
		case 4:
			length := int(data[3])<<8 | int(c)
			ok = 1 <= length && length <= 1<<14
		case 5:
			if c == 1 {
				r.decide(TLS, 5)
				return
			}
		}
		if !ok {
			r.decide(Other, r.pos)
			return
		}
	}
}

// match compares data with want: all of it is the verdict v, a byte that
// differs is malformed.
func (r *Reader) match(data []byte, want string, v Verdict, e *Error) {
	for ; r.pos < len(data); r.pos++ {
		if data[r.pos] != want[r.pos] {
			r.malformed(e, r.pos)
			return
		}
		if r.pos == len(want)-1 {
			r.decide(v, r.pos)
			return
		}
	}
}

func (r *Reader) readMethod(data []byte) {
	end := len(data)
	if !r.opts.Lenient {
		end = min(end, maxMethod)
	}
	i := scan(data[:end], r.pos, tokenByte)
	r.pos = i
	switch {
	case i == len(data):
	case data[i] == ' ':
		r.Method = span(0, i)
		r.pos = skipText(data, i+1)
		r.state = inLine
	default:
		r.breakMethod(data[:i], data[i])
	}
}

// breakMethod judges a first token that the byte c, neither a token byte nor a
// space, comes after. Parsers that split the request line at any whitespace (RFC
// 9112 section 3) would read a request where it follows a method.
func (r *Reader) breakMethod(token []byte, c byte) {
	known, _ := knownMethod(token)
	switch {
	case known && (c == '\t' || c == '\v' || c == '\f'):
		r.malformed(ErrControl, len(token))
	case known && c == '\r':
		r.pos = len(token) + 1
		r.state = inMethodEnd
	default:
		r.decide(Other, len(token))
	}
}

// readMethodEnd reads what follows a method and a CR.
func (r *Reader) readMethodEnd(data []byte) {
	if data[r.pos] == '\n' {
		r.decide(Other, r.pos)
		return
	}
	r.malformed(ErrBareCR, r.pos)
}

// readLine reads the control byte that ends the first line.
func (r *Reader) readLine(data []byte) {
	i := r.pos
	switch data[i] {
	case '\r':
		r.pos = i + 1
		r.state = inLineEnd
	case '\n':
		r.endLine(data, i, i)
	default:
		r.breakLine(data[:i], ErrControl, i)
	}
}

func (r *Reader) readLineEnd(data []byte) {
	i := r.pos
	if data[i] != '\n' {
		r.breakLine(data[:i-1], ErrBareCR, i)
		return
	}
	r.endLine(data, i-1, i)
}

// readFields reads field lines, the first one from within its name or value on.
func (r *Reader) readFields(data []byte) {
	i := r.pos
	for {
		if r.state == inName {
			if i = scan(data, skipName(data, i), tokenByte); i == len(data) {
				break
			}
			if i == r.start {
				r.readFieldStart(data, i)
				return
			}
			if data[i] != ':' {
				r.malformed(nameError(data[i]), i)
				return
			}
			if len(r.Fields) >= maxFields && r.full() {
				r.refuseField(i)
				return
			}
			r.Fields = append(r.Fields, Field{Name: span(r.start, i)})
			i++
			r.start = i
			r.state = inValue
		}
		if i = scan(data, skipText(data, i), valueByte); i == len(data) {
			break
		}
		if data[i] != '\r' || i+1 == len(data) || data[i+1] != '\n' {
			r.breakValue(data, i)
			return
		}
		r.endField(data, i, i+1)
		if r.verdict != More {
			return
		}
		i += 2
	}
	r.pos = i
}

// full reports whether the head has as many fields as it may have.
func (r *Reader) full() bool {
	return !r.opts.response || len(r.Fields) >= maxResponseFields
}

// refuseField ends reading at i, where the name of one field too many ends.
func (r *Reader) refuseField(i int) {
	if r.opts.response {
		r.malformed(ErrFields, i)
		return
	}
	r.err = ErrFields
	r.decide(TooLarge, i)
}

// readFieldStart reads the byte at i, where a line begins, but no field name.
func (r *Reader) readFieldStart(data []byte, i int) {
	switch data[i] {
	case '\r':
		r.pos = i + 1
		r.state = inHeadEnd
	case '\n':
		if !r.opts.Lenient {
			r.malformed(ErrBareLF, i)
			return
		}
		r.endHead(data, i)
	case ' ', '\t':
		if !r.opts.Lenient || len(r.Fields) == 0 || r.special {
			r.malformed(ErrFold, i)
			return
		}
		r.folding = true
		r.pos = i
		r.state = inValue
	default:
		r.malformed(ErrName, i)
	}
}

// nameError returns what c, the first byte that is not of a field name, breaks
// if it is not a colon.
func nameError(c byte) *Error {
	switch c {
	case ' ', '\t':
		return ErrNameSpace
	case '\r', '\n':
		return ErrNoColon
	}
	return ErrName
}

// breakValue judges the byte at i, after which a field line is incomplete or not
// as it should be.
func (r *Reader) breakValue(data []byte, i int) {
	switch c := data[i]; {
	case c == '\r':
		r.pos = i + 1
		r.state = inFieldEnd
	case c == '\n' && r.opts.Lenient:
		r.endField(data, i, i)
	case c == '\n':
		r.malformed(ErrBareLF, i)
	default:
		r.malformed(ErrValue, i)
	}
}

func (r *Reader) readFieldEnd(data []byte) {
	i := r.pos
	if data[i] != '\n' {
		r.malformed(ErrBareCR, i)
		return
	}
	r.endField(data, i-1, i)
}

func (r *Reader) readHeadEnd(data []byte) {
	i := r.pos
	if data[i] != '\n' {
		r.malformed(ErrBareCR, i)
		return
	}
	r.endHead(data, i)
}
