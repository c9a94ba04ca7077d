package httphead

// Error says why a head or a body is malformed.
type Error struct {
	Reason string // short, lower case
	Clause string // the rule that is broken, as "RFC 9112 section 6.1"
}

func (e *Error) Error() string { return e.Reason + " (" + e.Clause + ")" }

// What [Reader.Err], [Response.Err], [Chunks.Read] and [Body.Read] return.
var (
	ErrLeading = &Error{"whitespace before the request line", "RFC 9112 section 2.2"}
	ErrBareCR  = &Error{"CR without LF", "RFC 9112 section 2.2"}
	ErrBareLF  = &Error{"LF without CR", "RFC 9112 section 2.2"}
	ErrControl = &Error{"control byte in the request line", "RFC 9112 section 3"}

	ErrNoVersion  = &Error{"request line without a version", "RFC 9112 section 3"}
	ErrVersion    = &Error{"version other than HTTP/1.0 and HTTP/1.1", "RFC 9112 section 2.3"}
	ErrMethodCase = &Error{"method in wrong letter case", "RFC 9110 section 9.1"}

	ErrTarget     = &Error{"invalid request target", "RFC 9112 section 3.2"}
	ErrTargetForm = &Error{"form of request target not for this method", "RFC 9112 section 3.2"}
	ErrPath       = &Error{"invalid byte or percent-encoding in the path", "RFC 3986 section 3.3"}
	ErrQuery      = &Error{"invalid byte in the query", "RFC 3986 section 3.4"}
	ErrDotSegment = &Error{"dot segment in the path", "RFC 3986 section 3.3"}
	ErrPathNUL    = &Error{"encoded NUL in the path", "RFC 3986 section 7.3"}
	ErrAuthority  = &Error{"invalid authority in the request target", "RFC 3986 section 3.2"}
	ErrUserinfo   = &Error{"userinfo in the authority", "RFC 9110 section 4.2.4"}

	ErrStatus     = &Error{"invalid status line", "RFC 9112 section 4"}
	ErrStatusCode = &Error{"invalid status code", "RFC 9110 section 15"}
	ErrReason     = &Error{"invalid byte in the reason phrase", "RFC 9112 section 4"}

	ErrFold      = &Error{"line folding", "RFC 9112 section 5.2"}
	ErrNoColon   = &Error{"field line without a colon", "RFC 9112 section 5"}
	ErrNameSpace = &Error{"whitespace in or after a field name", "RFC 9112 section 5.1"}
	ErrName      = &Error{"invalid field name", "RFC 9110 section 5.1"}
	ErrValue     = &Error{"invalid byte in a field value", "RFC 9110 section 5.5"}
	ErrFields    = &Error{"too many fields", "RFC 9110 section 5.4"}

	ErrHostMissing  = &Error{"no Host", "RFC 9112 section 3.2"}
	ErrHostRepeated = &Error{"more than one Host", "RFC 9112 section 3.2"}
	ErrHost         = &Error{"empty or invalid Host", "RFC 9112 section 3.2"}
	ErrHostMismatch = &Error{"Host differs from the request target", "RFC 9112 section 3.2.2"}

	ErrLength         = &Error{"invalid Content-Length", "RFC 9110 section 8.6"}
	ErrLengthRepeated = &Error{"more than one Content-Length", "RFC 9112 section 6.3"}
	ErrLengthCoded    = &Error{"Content-Length with Transfer-Encoding", "RFC 9112 section 6.1"}
	ErrCoding         = &Error{"Transfer-Encoding other than chunked", "RFC 9112 section 6.1"}
	ErrCodingRepeated = &Error{"more than one Transfer-Encoding", "RFC 9112 section 6.1"}
	ErrCodingVersion  = &Error{"Transfer-Encoding with HTTP/1.0", "RFC 9112 section 6.1"}
	ErrConnection     = &Error{"invalid connection option", "RFC 9110 section 7.6.1"}
	ErrOptions        = &Error{"too many connection options", "RFC 9110 section 7.6.1"}
	ErrUpgrades       = &Error{"too many protocols to upgrade to", "RFC 9110 section 7.8"}
	ErrNominated      = &Error{"connection option that names an end-to-end field", "RFC 9110 section 7.6.1"}
	ErrTrailer        = &Error{"Trailer names a field of the framing", "RFC 9110 section 6.5.1"}

	ErrChunkSize      = &Error{"invalid chunk size", "RFC 9112 section 7.1"}
	ErrChunkEnd       = &Error{"chunk data longer than the chunk size", "RFC 9112 section 7.1"}
	ErrChunkExtension = &Error{"invalid chunk extension", "RFC 9112 section 7.1.1"}
	ErrChunkLine      = &Error{"chunk extensions too long", "RFC 9112 section 7.1.1"}
	ErrChunkOverhead  = &Error{"more chunk framing than data", "RFC 9112 section 7.1.1"}
	ErrTrailerField   = &Error{"field in the trailer section that says where a message goes or ends", "RFC 9110 section 6.5.1"}
	ErrTrailerLength  = &Error{"trailer section too long", "RFC 9112 section 7.1.2"}
)
