// Package headmatch answers the request matchers of Caddy's HTTP app on the bytes of a
// request head: a head in, the HTTP app's answer out. The answer is yes, no, or unsure.
//
// A matcher here gives the answer that the HTTP app's own would give after net/http has
// read the same head, without making an *http.Request and without allocating. Where that
// would take more than a look at the bytes, it is unsure, and the caller asks the HTTP
// app's own matcher.
//
// There is a constructor for each kind of matcher: [Method], [Path], [Host], [Header],
// [Query], [Protocol] and [Not]. Its arguments are those of the HTTP app's matcher once
// its configuration is loaded: paths in lower case, methods in upper case, and no
// placeholders, which here are ordinary text. It returns nil for arguments that no look at
// the bytes can answer.
package headmatch

import (
	"unsafe"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// Answer says whether a request matches.
type Answer uint8

const (
	No     Answer = iota
	Yes           // the HTTP app's matcher would match
	Unsure        // only the HTTP app's matcher knows
)

func (a Answer) String() string {
	switch a {
	case No:
		return "no"
	case Yes:
		return "yes"
	case Unsure:
		return "unsure"
	}
	return "invalid"
}

func answer(matches bool) Answer {
	if matches {
		return Yes
	}
	return No
}

// Matcher answers for one matcher of the HTTP app. It may be used by several goroutines,
// for a [Head] each.
type Matcher func(*Head) Answer

// Head is a request head that matchers look at. It keeps what one of them has worked out for
// the others.
type Head struct {
	Data   []byte           // what Reader has read; it may move
	Reader *httphead.Reader // its verdict is HTTP
	TLS    bool             // TLS was terminated before the head was read

	path comparedPath
}

// Reset makes h the head that reader has read from data.
func (h *Head) Reset(data []byte, reader *httphead.Reader, tls bool) {
	h.Data, h.Reader, h.TLS = data, reader, tls
	h.path.known = false
}

// text returns the bytes of s as a string that shares their memory. It must not be kept.
func (h *Head) text(s httphead.Span) string { return view(s.Of(h.Data)) }

// view returns b as a string that shares its memory, and is valid while b does not change.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
