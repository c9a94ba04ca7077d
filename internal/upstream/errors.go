package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// Error is why no server was reached.
type Error struct {
	Reason Reason
	Server *Server // nil: none was dialled
	Err    error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Server == nil {
		return e.Err.Error()
	}
	return fmt.Sprintf("dialing %s: %v", e.Server, e.Err)
}

// Unwrap returns what has failed.
func (e *Error) Unwrap() error { return e.Err }

// Reason is the kind of an Error.
type Reason uint8

// The reasons.
const (
	NoConnection       Reason = iota // refused, unreachable, broken before it was ready
	Timeout                          // there was no connection in time
	HandshakeFailed                  // of TLS
	InvalidCertificate               // the server's
	NoneAvailable                    // each server is down, has failed, has as many streams as it may, or is excluded
	NoAddress                        // the client's placeholders make no address
	NotAllowed                       // Options.Allow does not permit the address
	Scarce                           // of descriptors, those left are for what is under way
	GivenUp                          // the context ended: the client went away
)

var reasons = [...]string{
	NoConnection:       "no connection",
	Timeout:            "timeout",
	HandshakeFailed:    "TLS handshake failed",
	InvalidCertificate: "its certificate is not valid",
	NoneAvailable:      "none available",
	NoAddress:          "no address",
	NotAllowed:         "address refused",
	Scarce:             "descriptors are scarce",
	GivenUp:            "given up",
}

// ReasonNames returns the names of all reasons, in their order.
func ReasonNames() []string { return slices.Clone(reasons[:]) }

// String returns the reason in few words, for logs and metrics.
func (r Reason) String() string { return reasons[r] }

// Cause returns the reason in one word, as the cause of the end of a stream.
func (r Reason) Cause() string { return causes[r] }

var causes = [...]string{
	NoConnection:       "upstream_unreachable",
	Timeout:            "upstream_timeout",
	HandshakeFailed:    "upstream_tls_failed",
	InvalidCertificate: "upstream_certificate",
	NoneAvailable:      "no_upstream_available",
	NoAddress:          "no_upstream_address",
	NotAllowed:         "upstream_not_allowed",
	Scarce:             "scarce",
	GivenUp:            "client_gone",
}

// OfServer reports whether the server is the reason: another one may be reached.
func (r Reason) OfServer() bool { return r <= InvalidCertificate }

// final reports whether the reason holds for the next round too.
func (r Reason) final() bool { return r == NoAddress || r == NotAllowed || r == Scarce }

// ReasonOf returns the reason of the *Error that err is.
func ReasonOf(err error) Reason {
	var failure *Error
	if errors.As(err, &failure) {
		return failure.Reason
	}
	return NoConnection
}

// Errors of no server in particular.
var (
	errNoneAvailable = &Error{Reason: NoneAvailable, Err: errors.New("no upstream available")}
	errGivenUp       = &Error{Reason: GivenUp, Err: errors.New("client went away while an upstream was dialled")}
)

// maxNamed bounds how many servers an error names.
const maxNamed = 3

// noneAvailable returns an error that says why none of the servers is available, but for those
// excluded, of which others tell.
func noneAvailable(servers, excluded []*Server) *Error {
	var why []string
	for _, s := range servers {
		out := s.out()
		if out == "" || slices.Contains(excluded, s) {
			continue
		}
		if len(why) == maxNamed {
			why = append(why, "and others")
			break
		}
		why = append(why, s.String()+": "+out)
	}
	if len(why) == 0 {
		return errNoneAvailable
	}
	return &Error{Reason: NoneAvailable, Err: fmt.Errorf("no upstream available (%s)", strings.Join(why, "; "))}
}

// What the steps of a dial wrap their errors in.
var (
	errNoAddress  = errors.New("its placeholders make no address")
	errNotAllowed = errors.New("address is not one that dial_allow permits")
	errHandshake  = errors.New("TLS handshake")
)

// newError returns what the error of a dial means, of which ctx is the caller's context.
func newError(ctx context.Context, to *Server, err error) *Error {
	failure := &Error{Reason: reasonOf(err), Server: to, Err: err}
	if ctx.Err() != nil {
		failure.Reason = GivenUp
	}
	return failure
}

// reasonOf returns the reason of an error of a dial.
func reasonOf(err error) Reason {
	var timeout net.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, descriptors.ErrScarce):
		return Scarce
	case errors.Is(err, errNoAddress):
		return NoAddress
	case errors.Is(err, errNotAllowed):
		return NotAllowed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	case errors.As(err, &certificate):
		return InvalidCertificate
	case errors.Is(err, errHandshake):
		return HandshakeFailed
	default:
		return NoConnection
	}
}
