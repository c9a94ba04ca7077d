// Package upstream chooses among servers, dials the chosen one, and remembers what it finds
// out about an address for as long as a pool names it.
//
//	pool, err := upstream.New(ctx, upstream.Options{Servers: servers, DialTimeout: 3 * time.Second})
//	…
//	conn, to, err := pool.Connect(ctx, client)
//	…
//	to.Release() // when the stream over conn has ended
//
// [Pool.Connect] chooses and dials until a server answers. Its two steps can be taken alone:
// [Pool.Choose] asks the policy and reserves a place among the streams of the server that it
// names, [Pool.Dial] connects to a server.
//
// A [Pool] and its servers belong to a configuration. What is found out about an address
// (its streams, failed dials, health checks) is kept in a peer, which all servers with that
// address share, those of the next configuration too.
package upstream

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"github.com/pires/go-proxyproto"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// Options say how a pool chooses and dials.
type Options struct {
	// The servers, each with one address.
	Servers l4proxy.UpstreamPool

	// Backups are those of Servers that are used while no other is available.
	Backups []*l4proxy.Upstream

	// Where placeholders that depend on the client may lead.
	Allow Allow

	// Selector chooses among the servers that are available. Nil: at random.
	Selector l4proxy.Selector

	// How long it takes until a server that is new, or available again, gets its share of
	// the streams. 0: it gets it at once.
	SlowStart time.Duration

	// For how long Connect begins further rounds if no server of a round answers, and how
	// long it waits between two. TryDuration 0: one round.
	TryDuration, TryInterval time.Duration

	// How long connecting to one server may take, with TLS and the PROXY protocol header.
	DialTimeout time.Duration

	// The version of the PROXY protocol header to send: 1, 2, or 0 for none.
	ProxyProtocol byte

	// The most streams to a server that has no limit of its own. 0: no limit.
	MaxConnections int

	// For how long a failed dial counts against a server, and how many of them make it
	// unavailable. 0: they do not matter.
	FailDuration time.Duration
	MaxFails     int

	// The active health checks. Nil: none.
	HealthChecks *HealthChecks

	// Dialed and Checked are called after each attempt to dial and each health check. They
	// must not block. Either may be nil.
	Dialed  func(Attempt)
	Checked func(HealthCheck)
}

// Attempt is a dial of a server for a client.
type Attempt struct {
	Client   *Client
	Server   *Server
	Failure  *Error // nil: it is connected
	Duration time.Duration
}

// Pool is the servers of one configuration.
type Pool struct {
	options Options
	servers []*Server
	policy  policy

	ejecting sync.Mutex // held while a server is judged

	endChecks context.CancelFunc // nil: there are none
	checks    sync.WaitGroup
}

// Client is the connection that a server is chosen and dialled for.
type Client struct {
	// What selectors and placeholders look at. No byte is read from it.
	Stream *layer4.Connection

	// What the client's bytes are read from. Connect reads ahead to notice that the client
	// resets the connection.
	Conn net.Conn

	// What was read from Conn and is still to be sent. Connect appends what it reads.
	Pending []byte

	// The protocol that the client has negotiated by TLS, which a server with TLS is then
	// offered in the place of the configured ones. "": none.
	ALPN string
}

// New returns a pool, whose health checks have begun. They end with ctx, or by Close.
func New(ctx caddy.Context, options Options) (*Pool, error) {
	p := &Pool{options: options, policy: newPolicy(options.Selector)}
	for _, config := range options.Servers {
		s, err := newServer(ctx, config, &options)
		if err != nil {
			p.Close()
			return nil, err
		}
		p.servers = append(p.servers, s)
	}
	p.startChecks(ctx)
	return p, nil
}

// Close ends the health checks, and forgets what is known of addresses that no other pool
// names. Streams go on, and their reservations.
func (p *Pool) Close() {
	p.stopChecks()
	for _, s := range p.servers {
		s.close()
	}
}

// PerClient reports whether the address of a server depends on the client.
func (p *Pool) PerClient() bool {
	return slices.ContainsFunc(p.servers, func(s *Server) bool { return s.perClient })
}

// Connect chooses and dials servers until one answers. Each available one is tried once in
// a round. The caller releases the reservation when it has closed the connection. An error
// is an *Error, for the last server that was tried.
func (p *Pool) Connect(ctx context.Context, client *Client) (net.Conn, *Reservation, error) {
	first := p.begin(client)
	if first.conn != nil {
		return first.conn, first.to, nil // nobody had to wait
	}
	watch := &clientWatch{conn: client.Conn, pending: client.Pending}
	ctx, stop := watch.start(ctx)
	defer func() {
		stop()
		client.Pending = watch.pending
	}()

	giveUp := time.Now().Add(p.options.TryDuration)
	for {
		conn, to, err := p.tryEach(ctx, client, first)
		if err == nil {
			return conn, to, nil
		}
		if ctx.Err() != nil {
			return nil, nil, errGivenUp
		}
		if watch.ended.Load() || ReasonOf(err).final() || time.Now().Add(p.options.TryInterval).After(giveUp) {
			return nil, nil, err
		}
		select {
		case <-time.After(p.options.TryInterval):
		case <-ctx.Done():
			return nil, nil, errGivenUp
		}
		first = beginning{}
	}
}

// beginning is how far the first server of a round has come. Zero: it is not chosen yet.
type beginning struct {
	to      *Reservation // nil: none
	began   time.Time    // the dial
	conn    net.Conn     // nil: there is none yet
	waiting *socket.Connecting
	err     error // why there is no server, or no connection
}

// begin chooses a server, and connects to it as far as that goes without waiting.
func (p *Pool) begin(client *Client) (b beginning) {
	if b.to, b.err = p.Choose(client); b.err != nil || !b.to.direct.IsValid() {
		return b
	}
	b.began = time.Now()
	b.conn, b.waiting, b.err = socket.Connect(b.to.direct)
	if b.waiting == nil {
		b.err = p.dialed(context.Background(), b.to.Server, client, b.began, b.err)
	}
	return b
}

// tryEach is a round of Connect.
func (p *Pool) tryEach(ctx context.Context, client *Client, first beginning) (net.Conn, *Reservation, error) {
	var tried []*Server
	var failure error
	for {
		to, err := first.to, first.err
		if to == nil && err == nil {
			to, err = p.Choose(client, tried...)
		}
		if to == nil {
			if failure == nil {
				failure = err
			}
			return nil, nil, failure
		}
		var conn net.Conn
		if err == nil {
			conn, err = p.dial(ctx, to.Server, client, first)
		}
		first = beginning{}
		if err == nil {
			return conn, to, nil
		}
		to.Release()
		if !ReasonOf(err).OfServer() {
			return nil, nil, err
		}
		failure = err
		tried = append(tried, to.Server)
	}
}

// Choose reserves a place at the server that the policy names for the client, of those that
// are available and not excluded; of backups, if there are no others; of those that are ejected
// rather than none. An error is an *Error with the reason NoneAvailable, and says what keeps the
// servers.
func (p *Pool) Choose(client *Client, excluded ...*Server) (*Reservation, error) {
	for _, ejected := range []bool{false, true} {
		for _, backups := range []bool{false, true} {
			if r := p.chooseAmong(p.availableOf(backups, ejected, excluded), client); r != nil {
				return r, nil
			}
		}
	}
	return nil, noneAvailable(p.servers, excluded)
}

// availableOf returns the servers that are available and not excluded: backups, or those that
// are none; ejected, or not.
func (p *Pool) availableOf(backups, ejected bool, excluded []*Server) []*Server {
	among := make([]*Server, 0, len(p.servers))
	for _, s := range p.servers {
		if s.backup == backups && s.ejected() == ejected && s.ready() && !slices.Contains(excluded, s) {
			among = append(among, s)
		}
	}
	return among
}

// chooseAmong reserves a place at one of the servers; nil: they have none any more.
func (p *Pool) chooseAmong(among []*Server, client *Client) *Reservation {
	for len(among) > 0 {
		s := p.policy.choose(among, client.Stream)
		if s.peer.acquire(s.maxConnections) {
			return &Reservation{Server: s}
		}
		// Others have taken its last places meanwhile.
		among = slices.DeleteFunc(among, func(other *Server) bool { return other == s })
	}
	return nil
}

// Again reserves a place at a server that was chosen before for the client, for its next
// request on a connection that was kept. It reports false if the server is not available, if it
// is a backup and another one is available, or if the policy looks at requests and names another one for this.
func (p *Pool) Again(to *Server, client *Client) (*Reservation, bool) {
	if !p.again(to, client) {
		return nil, false
	}
	return &Reservation{Server: to}, true
}

// again takes the place that Again reserves.
func (p *Pool) again(to *Server, client *Client) bool {
	if to.backup && slices.ContainsFunc(p.servers, func(s *Server) bool { return !s.backup && s.available() }) {
		return false
	}
	if !p.PerRequest() {
		return to.available() && to.peer.acquire(to.maxConnections)
	}
	r, err := p.Choose(client)
	if err != nil {
		return false
	}
	if r.Server != to {
		r.Release()
		return false
	}
	return true // the place of r, which nobody else releases
}

// Renew is Again for the server of a reservation that has been released: the reservation then
// counts once more.
func (p *Pool) Renew(r *Reservation, client *Client) bool {
	if !p.again(r.Server, client) {
		return false
	}
	r.released.Store(false)
	return true
}

// PerRequest reports whether which server is chosen may depend on the request, not on the
// client's connection alone.
func (p *Pool) PerRequest() bool { return perRequest(p.options.Selector) }

// Dial connects to a server for the client, with TLS and the PROXY protocol header. An error
// is an *Error.
func (p *Pool) Dial(ctx context.Context, to *Server, client *Client) (net.Conn, error) {
	return p.dial(ctx, to, client, beginning{})
}

// dial is Dial, which may have begun.
func (p *Pool) dial(ctx context.Context, to *Server, client *Client, b beginning) (conn net.Conn, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, p.options.DialTimeout)
	defer cancel()
	if b.waiting == nil {
		b.began = time.Now()
	}
	switch {
	case b.waiting != nil:
		conn, err = b.waiting.Wait(dialCtx)
	case to.direct.IsValid():
		if conn, b.waiting, err = socket.Connect(to.direct); b.waiting != nil {
			conn, err = b.waiting.Wait(dialCtx)
		}
	default:
		var header *proxyproto.Header
		if p.options.ProxyProtocol != 0 {
			header = proxyproto.HeaderProxyFromAddrs(p.options.ProxyProtocol, client.Stream.RemoteAddr(), client.Stream.LocalAddr())
		}
		conn, err = to.dial(dialCtx, client.Stream.Replacer(), header, client.ALPN)
	}
	if err = p.dialed(ctx, to, client, b.began, err); err != nil {
		return nil, err
	}
	return conn, nil
}

// dialed counts and reports a dial that has ended, with err if that is not nil. It returns
// the *Error of that.
func (p *Pool) dialed(ctx context.Context, to *Server, client *Client, began time.Time, err error) error {
	attempt := Attempt{Client: client, Server: to, Duration: time.Since(began)}
	if err != nil {
		attempt.Failure = newError(ctx, to, err)
		// What a client may have chosen says nothing of the addresses of others.
		if attempt.Failure.Reason.OfServer() && !to.perClient && p.options.FailDuration > 0 {
			to.peer.fail(p.options.FailDuration)
		}
	}
	to.peer.counts.dialed(&attempt)
	if p.options.Dialed != nil {
		p.options.Dialed(attempt)
	}
	if err != nil {
		return attempt.Failure
	}
	return nil
}

// Reservation is a server that was chosen, and a place among its streams, which counts until
// Release.
type Reservation struct {
	*Server
	released atomic.Bool
}

// TakeOver makes r, which has no place, the reservation that other was. Releasing other does
// nothing any more.
func (r *Reservation) TakeOver(other *Reservation) {
	r.Server = other.Server
	r.released.Store(!other.released.CompareAndSwap(false, true))
}

// Release gives the place back. Calls after the first one do nothing, nor do those of a nil or
// a zero Reservation.
func (r *Reservation) Release() {
	if r != nil && r.Server != nil && r.released.CompareAndSwap(false, true) {
		r.peer.release()
	}
}
