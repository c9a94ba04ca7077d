package httphead

import "math"

// Chunks follows a body in the chunked transfer coding (RFC 9112 section 7.1) to
// its end. It does not decode: it is for who passes the bytes on as they are. The
// zero value is ready for a body.
//
// It is strict: lines end in CRLF, there is no whitespace around a chunk size or
// in chunk extensions outside quotation marks, and the trailer section is read as
// a strict [Reader] reads fields. Recipients that disagree about the rest would
// disagree about where the body ends.
//
// With Lenient it accepts of a line that begins a chunk what net/http accepts: spaces and
// tabs at its end, and for extensions whatever is between a semicolon and CRLF. Who passes
// such a body on uses Forward. All else is as strict.
type Chunks struct {
	Lenient bool // to be set before the first byte

	state chunkState
	err   *Error
	left  int64 // of the chunk data; in a chunk-size, its value so far
	count int   // the length of the line so far, or of the trailer section

	// excess is by how much the framing outweighs the data, counted as net/http
	// does it.
	excess int64

	name  [maxRouting]byte // of the trailer's field, as isRouting wants it
	named int              // the length of the name, which may be longer
}

// chunkState is what the next byte belongs to.
type chunkState uint8

const (
	inSize          chunkState = iota
	inExtStart                 // after a semicolon
	inExtName                  // a chunk-ext-name after its first byte
	inExtValueStart            // after the equals sign
	inExtToken                 // a chunk-ext-val after its first byte
	inExtQuoted                // a chunk-ext-val in quotation marks
	inExtEscape                // after a backslash in one
	inExtQuoteEnd              // after its closing quotation mark
	inPadding                  // whitespace after a chunk-size, with Lenient
	inExtAny                   // extensions of any form, with Lenient
	inSizeEnd                  // after the CR of a line with a chunk-size
	inData                     // chunk data
	inDataCR                   // after the chunk data
	inDataLF                   // after its CR
	inTrailer                  // the beginning of a line in the trailer section
	inTrailerName              // a field name after its first byte
	inTrailerValue             // a field value, with the whitespace around it
	inTrailerCR                // after a CR in a field value
	inBodyEnd                  // after the CR of the empty line
	bodyDone
	bodyBroken
)

const (
	// Both limits are net/http's with the buffer of its server, and so is the
	// overhead: 16 bytes for a chunk and twice its data are free.
	maxChunkLine     = 4096 // with its CRLF
	maxTrailer       = 4096 // with its empty line
	maxChunkOverhead = 16 << 10
	freeOverhead     = 16

	maxSizeDigits = 16
)

// Read looks at data, the next bytes of the body, and returns how many of them
// belong to it. done says that the body is complete, with its trailer section. err
// is an [*Error]; n is then the number of bytes before the one that breaks the
// body. Both stay.
func (c *Chunks) Read(data []byte) (n int, done bool, err error) {
	_, n, done, err = c.read(data, false)
	return n, done, err
}

// Forward is Read for who passes the body on. The first kept bytes of data are to be sent
// for the n bytes that belong to the body. They are framed strictly: what only Lenient
// accepts of the lines that begin chunks is left out, and so are all extensions then, which
// any recipient may remove (RFC 9112 section 7.1.1). For that, bytes within data[:n] are
// moved; those of a body that is strict, or has nothing to be left out, stay where they are.
func (c *Chunks) Forward(data []byte) (kept, n int, done bool, err error) {
	return c.read(data, true)
}

func (c *Chunks) read(data []byte, forward bool) (kept, n int, done bool, err error) {
	from := 0 // data[from:n] is to be kept, and not yet at its place
	for n < len(data) && c.state < bodyDone {
		if c.state == inData {
			skip := min(c.left, int64(len(data)-n))
			c.skip(skip)
			n += int(skip)
			continue
		}
		if e := c.next(data[n]); e != nil {
			c.err = e
			if c.count--; c.state < inTrailer {
				c.count = 0
			}
			c.state = bodyBroken
			break
		}
		n++
		if forward && (c.state == inPadding || c.state == inExtAny) {
			kept = move(data, kept, from, n-1)
			from = n
		}
	}
	kept = move(data, kept, from, n)
	if c.err != nil {
		return kept, n, false, c.err
	}
	return kept, n, c.state == bodyDone, nil
}

// move moves data[from:to] to data[at:], and returns where that ends.
func move(data []byte, at, from, to int) int {
	if at == from {
		return to
	}
	return at + copy(data[at:], data[from:to])
}

// Trailer returns how many of the bytes read are of the trailer section, with the empty
// line that ends it.
func (c *Chunks) Trailer() int {
	if c.state < inTrailer {
		return 0
	}
	return c.count
}

// skip accounts for n bytes of chunk data.
func (c *Chunks) skip(n int64) {
	c.left -= n
	if c.left == 0 {
		c.state = inDataCR
	}
}

// next reads a byte that is not chunk data.
func (c *Chunks) next(b byte) *Error {
	c.count++
	switch {
	case c.state < inData:
		if c.count > maxChunkLine {
			return ErrChunkLine
		}
		return c.readLine(b)
	case c.state == inDataCR:
		if b != '\r' {
			return ErrChunkEnd
		}
		c.state = inDataLF
	case c.state == inDataLF:
		if b != '\n' {
			return ErrChunkEnd
		}
		c.state = inSize
		c.count = 0
	default:
		if c.count > maxTrailer {
			return ErrTrailerLength
		}
		return c.readTrailer(b)
	}
	return nil
}

// readLine reads a byte of the line that begins a chunk, the last one too.
func (c *Chunks) readLine(b byte) *Error {
	switch c.state {
	case inSize:
		return c.readSize(b)
	case inExtStart:
		return c.expect(b, inExtName)
	case inExtName:
		switch {
		case b == '=':
			c.state = inExtValueStart
		case class[b]&tokenByte == 0:
			return c.endExtension(b)
		}
	case inExtValueStart:
		if b == '"' {
			c.state = inExtQuoted
			return nil
		}
		return c.expect(b, inExtToken)
	case inExtToken:
		if class[b]&tokenByte == 0 {
			return c.endExtension(b)
		}
	case inExtQuoted, inExtEscape:
		// A quoted line end is where the next chunk begins to one recipient,
		// and part of the extension to another.
		switch {
		case class[b]&valueByte == 0:
			return ErrChunkExtension
		case c.state == inExtEscape:
			c.state = inExtQuoted
		case b == '\\':
			c.state = inExtEscape
		case b == '"':
			c.state = inExtQuoteEnd
		}
	case inExtQuoteEnd:
		return c.endExtension(b)
	case inPadding:
		if b != ' ' && b != '\t' {
			return c.endLine(b, ErrChunkSize)
		}
	case inExtAny:
		if b == '\r' || b == '\n' {
			return c.endLine(b, nil)
		}
	case inSizeEnd:
		if b != '\n' {
			return ErrBareCR
		}
		return c.beginChunk()
	}
	return nil
}

// expect reads b, which must begin a token, and goes on with state s.
func (c *Chunks) expect(b byte, s chunkState) *Error {
	if class[b]&tokenByte == 0 {
		return ErrChunkExtension
	}
	c.state = s
	return nil
}

func (c *Chunks) readSize(b byte) *Error {
	if d, ok := hexDigit(b); ok {
		if c.count > maxSizeDigits || c.left > math.MaxInt64>>4 {
			return ErrChunkSize
		}
		c.left = c.left<<4 | int64(d)
		return nil
	}
	switch {
	case c.count == 1:
		return ErrChunkSize
	case b == ';' && c.Lenient:
		c.state = inExtAny
		return nil
	case b == ';':
		c.state = inExtStart
		return nil
	case (b == ' ' || b == '\t') && c.Lenient:
		c.state = inPadding
		return nil
	}
	return c.endLine(b, ErrChunkSize)
}

// endExtension reads b, the first byte that is not of an extension.
func (c *Chunks) endExtension(b byte) *Error {
	if b == ';' {
		c.state = inExtStart
		return nil
	}
	return c.endLine(b, ErrChunkExtension)
}

// endLine reads b, the first byte of the line end. It returns e if b is none.
func (c *Chunks) endLine(b byte, e *Error) *Error {
	switch b {
	case '\r':
		c.state = inSizeEnd
		return nil
	case '\n':
		return ErrBareLF
	}
	return e
}

// beginChunk judges the line that begins a chunk.
func (c *Chunks) beginChunk() *Error {
	c.excess += int64(c.count) - freeOverhead
	c.excess = max(0, c.excess-2*min(c.left, math.MaxInt32))
	if c.excess > maxChunkOverhead {
		return ErrChunkOverhead
	}
	c.state = inData
	if c.left == 0 {
		c.state = inTrailer
		c.count = 0
	}
	return nil
}

// readTrailer reads a byte of the trailer section (RFC 9112 section 7.1.2).
func (c *Chunks) readTrailer(b byte) *Error {
	switch c.state {
	case inTrailer:
		switch {
		case b == '\r':
			c.state = inBodyEnd
		case b == '\n':
			return ErrBareLF
		case b == ' ' || b == '\t':
			return ErrFold
		case class[b]&tokenByte == 0:
			return ErrName
		default:
			c.state = inTrailerName
			c.named = 0
			c.keepName(b)
		}
	case inTrailerName:
		switch {
		case class[b]&tokenByte != 0:
			c.keepName(b)
		case b != ':':
			return nameError(b)
		case c.named <= len(c.name) && isRouting(c.name[:c.named]):
			return ErrTrailerField
		default:
			c.state = inTrailerValue
		}
	case inTrailerValue:
		switch {
		case b == '\r':
			c.state = inTrailerCR
		case b == '\n':
			return ErrBareLF
		case class[b]&valueByte == 0:
			return ErrValue
		}
	case inTrailerCR:
		if b != '\n' {
			return ErrBareCR
		}
		c.state = inTrailer
	case inBodyEnd:
		if b != '\n' {
			return ErrBareCR
		}
		c.state = bodyDone
	}
	return nil
}

// keepName keeps a byte of a field name as it counts to servers that name variables
// after fields.
func (c *Chunks) keepName(b byte) {
	if c.named < len(c.name) {
		c.name[c.named] = unaliased(b)
	}
	c.named++
}

const maxRouting = len("transfer-encoding")

// isRouting reports whether a trailer field of that name would say where the
// message goes or where it ends, to a server that merges trailers into the header
// (RFC 9110 section 6.5.1).
func isRouting(name []byte) bool {
	switch string(name) {
	case "host", "content-length", "transfer-encoding", "trailer":
		return true
	}
	return false
}

// Body follows the body of a message to its end, once Reset has made it ready.
type Body struct {
	left    int64 // of a counted body
	chunked bool
	chunks  Chunks
}

// Reset makes b ready for the body of a message with such results of [Reader] or
// [Response]; with neither a length nor chunked, of a message without a body. One
// that ends with its connection has the length [math.MaxInt64].
func (b *Body) Reset(contentLength int64, chunked bool) {
	*b = Body{left: max(contentLength, 0), chunked: chunked}
	if chunked {
		b.left = 0
	}
}

// Lenient makes b, just reset, read a chunked body as [Chunks] does with Lenient.
func (b *Body) Lenient() { b.chunks.Lenient = true }

// ResetBody makes b ready for the body of the request that r has read, lenient as r is.
func (r *Reader) ResetBody(b *Body) {
	b.Reset(r.ContentLength, r.Chunked)
	if r.opts.Lenient {
		b.Lenient()
	}
}

// Read looks at data, the next bytes of the connection, as [Chunks.Read] does.
// Without data it says whether the body is complete.
func (b *Body) Read(data []byte) (n int, done bool, err error) {
	if b.chunked {
		return b.chunks.Read(data)
	}
	n = int(min(b.left, int64(len(data))))
	b.left -= int64(n)
	return n, b.left == 0, nil
}

// Forward is as that of [Chunks]. All bytes of another body are kept.
func (b *Body) Forward(data []byte) (kept, n int, done bool, err error) {
	if b.chunked {
		return b.chunks.Forward(data)
	}
	n, done, err = b.Read(data)
	return n, n, done, err
}

// Trailer is as that of [Chunks]; 0 for any other body.
func (b *Body) Trailer() int {
	if !b.chunked {
		return 0
	}
	return b.chunks.Trailer()
}

// Left returns how many of the next bytes are the body's, whatever they are: those
// of a counted body, or of the chunk data begun. Nobody needs to look at them: they
// may be moved in the kernel, and accounted for with Skip.
func (b *Body) Left() int64 {
	switch {
	case !b.chunked:
		return b.left
	case b.chunks.state == inData:
		return b.chunks.left
	}
	return 0
}

// Skip accounts for n of the bytes that Left has counted.
func (b *Body) Skip(n int64) {
	switch {
	case n < 0 || n > b.Left():
		panic("httphead: Skip beyond what is left")
	case n == 0:
	case b.chunked:
		b.chunks.skip(n)
	default:
		b.left -= n
	}
}
