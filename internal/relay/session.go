package relay

import (
	"io"
	"net"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/exchange"
)

// Session is a client's connection that carries HTTP/1 requests, one after the other. Each
// of them is an [exchange.Exchange] with an upstream's connection, which is this client's
// own. An upgrade or a CONNECT request that the upstream accepts makes a raw stream of the
// two.
//
// Between two requests the client's connection waits. What follows on it, the Owner is
// asked: the same upstream, or somebody else, who takes the connection over.
type Session struct {
	// The two connections. They belong to the engine from Serve on.
	Client, Upstream net.Conn

	Request exchange.Request // the first one
	Pending []byte           // what the client has sent after its head; the engine's from Serve on

	// Reused says that Upstream has carried a request before, and may have been closed
	// by the upstream meanwhile. Received then is all that the client has sent since the
	// request's first byte, if the request may be repeated (RFC 9110 section 9.2.2), else
	// nil: see [Owner.Take].
	Reused   bool
	Received []byte

	// How long the upstream may take to begin its final response once the request is
	// sent. 0: no limit.
	ResponseHeaderTimeout time.Duration

	// No byte delivered in either direction for that long ends an exchange, and a tunnel.
	// 0: none.
	IdleTimeout time.Duration

	// Once the client has finished sending, after a complete request: no byte of the
	// response delivered for that long ends the exchange. 0: none. Of a tunnel, as that of
	// a Stream.
	HalfCloseTimeout time.Duration

	// How long the client may take to begin its next request. 0: its connection ends with
	// the response.
	Keepalive time.Duration

	// How long the upstream's connection waits for the next request. 0: it does not.
	UpstreamKeepalive time.Duration

	Group *Registry      // as that of a Stream
	Meter *account.Meter // of the request under way, and then of the tunnel; may be nil
	Owner Owner
}

// Parker is an engine that takes over a client's connection which only waits for a request,
// at the cost of a descriptor and a record.
type Parker interface {
	// Park begins a session with waiting, for Keepalive. It has neither Upstream nor Request.
	// The caller has been granted a descriptor for it, by descriptors.Take; Park settles that.
	// Park reports false, and leaves the connection as it is, if that is nothing for the
	// engine or it fails. Else the connection is closed, as by Serve, and the engine has its
	// socket.
	Park(*Session) bool
}

// Owner is asked and told about a session. Of its methods one runs at a time. All but Take
// are called where many sessions are served: they must not wait.
type Owner interface {
	// Refusal returns the response with that status, which the client gets in place of
	// one from the upstream. Its connection is closed after it.
	Refusal(status int) []byte

	// Ended is called when an exchange or a tunnel is over, once for each.
	Ended(Account)

	// Next looks at the next request: at all that the client has sent of it and after it.
	// It is called again when there is more. kept says that the upstream's connection can
	// be used for it. data is only lent.
	Next(data []byte, kept bool) Next

	// Take gets the client's connection, with data that has been read from it, for the
	// session is over; and that of the upstream if it is kept, else nil. It is for requests
	// that Next has not forwarded, and for one that was sent on a connection which the
	// upstream had closed: that one is to be sent on a fresh one. Take is a goroutine of its
	// own. Until it returns, or calls registered, since the request is known elsewhere to be
	// under way, the session counts as one of its registries, but cannot be ended or retired. If Serve has
	// not detached the client's connection, Take returns before Closed is called.
	//
	// due is until when the request must have come, as Next has said of its beginning; zero:
	// Next was not asked, or had seen all it needed.
	Take(client net.Conn, data []byte, due time.Time, upstream net.Conn, registered func())

	// Tunnelled is called when the connections have become a raw stream, which may last for
	// days: no request follows.
	Tunnelled()

	// Dropped is called when the upstream's connection is closed, while the session goes on,
	// or at its end.
	Dropped()

	// Closed is called when the client's connection is closed, or Take has got it: the last
	// call but for Take of a detached connection.
	Closed()
}

// Next is what becomes of the next request.
type Next struct {
	Verdict Verdict

	// With Wait: until when the request must have come. Then Take is called. The first
	// Deadline that is given for a request holds for all of it, unless another is earlier.
	Deadline time.Time

	// With Forward: the request, how long its head is in the data given, and whether it may
	// be repeated (RFC 9110 section 9.2.2).
	Request    exchange.Request
	HeadLen    int
	Repeatable bool
}

// Verdict is where the next request goes.
type Verdict uint8

const (
	Elsewhere Verdict = iota // Take is called
	Wait                     // more of it is needed to say
	Forward                  // to the upstream of the request before
)

// lingerLimit and lingerTimeout bound, in bytes and in time, what is read from a client and
// dropped after the last response. Closing a socket with unread bytes sends a reset, which may
// destroy the response (RFC 9112 section 9.6).
const lingerLimit = 256 << 10

var lingerTimeout = 2 * time.Second // a variable for tests

// freshAnswer is how long ago an upstream must have answered on a connection for a request
// to be sent on it that must not be sent twice. A variable for tests.
var freshAnswer = time.Second

// upstreamPatience is how long an upstream may take to close its connection after its last
// exchange, as it was asked to. Who closes first keeps the address of the connection for a
// minute (TIME-WAIT), and this machine has some 28,000 of them for each upstream. A
// variable for tests.
var upstreamPatience = 100 * time.Millisecond

// statusBadGateway and statusGatewayTimeout are what a client gets of an upstream whose
// connection fails, or that takes too long.
const (
	statusBadGateway     = 502
	statusGatewayTimeout = 504
)

// failure returns why an exchange is refused or broken.
func failure(x *exchange.Exchange) (Cause, error) {
	switch blame, err := x.Err(); {
	case blame == exchange.Client:
		return BadRequest, err
	case !x.Answered() && err == io.ErrUnexpectedEOF:
		return UpstreamError, err
	default:
		return BadResponse, err
	}
}
