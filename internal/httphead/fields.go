package httphead

import (
	"bytes"
	"math"
)

// endField ends a field line, or with obs-fold a further line of its value,
// that reaches from r.start to end. Its LF is at i.
func (r *Reader) endField(data []byte, end, i int) {
	f := &r.Fields[len(r.Fields)-1]
	value := trim(data, r.start, end)
	r.start, r.pos = i+1, i+1
	r.state = inName
	if r.folding {
		r.folding = false
		f.Folded = true
		switch {
		case value.empty():
		case f.Value.empty():
			f.Value = value
		default:
			f.Value.End = value.End
		}
		if err := r.count(bytes.Count(value.Of(data), comma)); err != nil {
			r.malformed(err, i)
		}
		return
	}
	f.Value = value
	r.special, r.list = false, otherField
	var err *Error
	switch name := f.Name.Of(data); len(name) { // spares most fields the comparisons
	case len("Connection"):
		if EqualFold(name, "Connection") {
			err = r.beginList(connectionField, value.Of(data))
		}
	case len("Trailer"), len("Host"), len("Content-Length"), len("Transfer-Encoding"):
		if EqualFold(name, "Upgrade") {
			err = r.beginList(upgradeField, value.Of(data))
		} else {
			err = r.checkField(data, name, value)
		}
	}
	if err != nil {
		r.malformed(err, i)
	}
}

// trim returns data[start:end] without the spaces and tabs around it.
func trim(data []byte, start, end int) Span {
	for start < end && (data[start] == ' ' || data[start] == '\t') {
		start++
	}
	for start < end && (data[end-1] == ' ' || data[end-1] == '\t') {
		end--
	}
	return span(start, end)
}

// checkField checks the fields that say where the request goes and where it
// ends.
func (r *Reader) checkField(data, name []byte, value Span) *Error {
	r.special = true
	switch {
	case EqualFold(name, "Host"):
		if r.opts.response {
			return nil // has no meaning there
		}
		return r.readHost(data, value)
	case EqualFold(name, "Content-Length"):
		return r.readLength(data, value)
	case EqualFold(name, "Transfer-Encoding"):
		return r.readCoding(value.Of(data))
	case EqualFold(name, "Trailer"):
		r.badTrailer = r.badTrailer || namesFraming(value.Of(data))
		return nil
	}
	r.special = false
	return nil
}

// beginList begins to count the elements of a list field of that kind.
func (r *Reader) beginList(list kind, value []byte) *Error {
	r.list = list
	return r.count(1 + bytes.Count(value, comma))
}

// count adds n to the elements of the list that the last field is a part of.
func (r *Reader) count(n int) *Error {
	switch r.list {
	case connectionField:
		if r.options += n; r.options > maxElements {
			return ErrOptions
		}
	case upgradeField:
		if r.upgrades += n; r.upgrades > maxElements {
			return ErrUpgrades
		}
	}
	return nil
}

// readLength checks a Content-Length field (RFC 9112 section 6.3).
func (r *Reader) readLength(data []byte, value Span) *Error {
	if r.ContentLength >= 0 {
		if r.opts.Lenient && bytes.Equal(value.Of(data), r.length.Of(data)) {
			return nil
		}
		return ErrLengthRepeated
	}
	n, ok := parseLength(value.Of(data))
	if !ok {
		return ErrLength
	}
	if r.coded && !r.opts.Lenient {
		return ErrLengthCoded
	}
	r.length = value
	r.ContentLength = n
	return nil
}

// parseLength parses 1*DIGIT that fits an int64.
func parseLength(s []byte) (n int64, ok bool) {
	for _, c := range s {
		d := int64(c) - '0'
		if d < 0 || d > 9 || n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, len(s) > 0
}

// readCoding checks a Transfer-Encoding field (RFC 9112 section 6.1). Only
// chunked is supported, as in net/http and nginx.
func (r *Reader) readCoding(value []byte) *Error {
	if r.Minor == 0 {
		if r.opts.Lenient && !r.opts.response {
			return nil // net/http ignores it there
		}
		return ErrCodingVersion
	}
	if r.coded {
		return ErrCodingRepeated
	}
	r.coded = true
	if !EqualFold(value, "chunked") {
		return ErrCoding
	}
	if r.ContentLength >= 0 && !r.opts.Lenient {
		return ErrLengthCoded
	}
	return nil
}

// namesFraming reports whether the list in a Trailer field names a field that
// a trailer section cannot hold, and that net/http refuses there.
func namesFraming(list []byte) bool {
	for len(list) > 0 {
		var name []byte
		name, list, _ = bytes.Cut(list, comma)
		name = bytes.Trim(name, " \t")
		if EqualFold(name, "Transfer-Encoding") || EqualFold(name, "Content-Length") || EqualFold(name, "Trailer") {
			return true
		}
	}
	return false
}

var comma = []byte(",")

// endHead judges the head as a whole. The LF of its empty line is at i.
func (r *Reader) endHead(data []byte, i int) {
	if err := r.checkHead(data); err != nil {
		r.malformed(err, i)
		return
	}
	r.Chunked = r.coded
	if r.Chunked {
		r.ContentLength = -1
	}
	r.accept(i)
}

func (r *Reader) checkHead(data []byte) *Error {
	if r.Minor == 1 && !r.hasField && !r.opts.response {
		// net/http lets CONNECT do without.
		if !r.opts.Lenient || string(r.Method.Of(data)) != "CONNECT" {
			return ErrHostMissing
		}
	}
	if r.coded && r.badTrailer {
		return ErrTrailer
	}
	return nil
}
