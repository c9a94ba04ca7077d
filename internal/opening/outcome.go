package opening

import (
	"fmt"
	"slices"
	"strings"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// Outcome is what the first bytes are, or why that is not known.
type Outcome uint8

// The outcomes.
const (
	HTTP      Outcome = iota // a complete, valid HTTP/1.0 or 1.1 head
	TLS                      // begins as a TLS ClientHello record
	Other                    // bytes that can become none of these
	HTTP2                    // the HTTP/2 preface
	Malformed                // meant as HTTP, but invalid or ambiguous
	TooLarge                 // a limit is reached with an incomplete head, or it has too many fields
	Timeout                  // some bytes, no complete head in time
	Silent                   // no byte in time
	EOF                      // the client finished sending before the head was complete
)

var names = [...]string{"http", "tls", "other", "http2", "malformed", "too_large", "timeout", "silent", "eof"}

// Names returns the names of all outcomes, in their order.
func Names() []string { return slices.Clone(names[:]) }

// ParseOutcome returns the outcome of that name.
func ParseOutcome(name string) (Outcome, error) {
	i := slices.Index(names[:], name)
	if i < 0 {
		return 0, fmt.Errorf("unknown outcome %q: use one of %s", name, strings.Join(names[:], ", "))
	}
	return Outcome(i), nil
}

// String returns the name of the outcome in configurations and logs.
func (o Outcome) String() string { return names[o] }

// ByDefault reports whether a route gets the outcome without naming it. Bytes that are
// neither HTTP nor TLS to this package may well be HTTP to a server: servers take methods
// of a hundred letters, and versions that are none.
func (o Outcome) ByDefault() bool { return o == HTTP || o == TLS }

// Passes reports whether a stream that no route takes goes on to the next handler.
func (o Outcome) Passes() bool { return o == HTTP || o == TLS || o == Other }

// Final reports whether nothing more is read, whoever asks for it.
func (o Outcome) Final() bool { return o >= Malformed }

// outcomeOf is the outcome of each verdict but httphead.More.
var outcomeOf = [...]Outcome{
	httphead.HTTP:      HTTP,
	httphead.TLS:       TLS,
	httphead.HTTP2:     HTTP2,
	httphead.Other:     Other,
	httphead.Malformed: Malformed,
	httphead.TooLarge:  TooLarge,
}
