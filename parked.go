package streamprox

import (
	"errors"
	"math"
	"net"
	"time"
	"unique"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// parking says when an idle connection leaves the HTTP server, and who takes it.
type parking struct {
	parker relay.Parker
	after  time.Duration
}

// errIdle says that nothing has come in time.
var errIdle = errors.New("connection is idle")

// due returns when a connection that is idle from now on is parked; zero: never.
func (p *parking) due(now time.Time) time.Time {
	if p == nil {
		return time.Time{}
	}
	return now.Add(p.after)
}

// park lets a connection wait for its next request, for as long as the HTTP server would
// have waited; 0: for ever. The caller has taken a descriptor to do it with. Where nothing
// takes the connection, it is closed: it is idle, and its client opens another one. But if
// that request has come meanwhile, it is returned, and the connection is left open. last is the
// account of the request before.
func (p *parking) park(conn net.Conn, next continuation, last *account.Record, patience time.Duration) (came *inspection) {
	if patience == 0 {
		patience = math.MaxInt64
	}
	parkedConnections.Add(1)
	if !p.parker.Park(&relay.Session{Client: conn, Keepalive: patience, Owner: newParked(next, last)}) {
		parkedConnections.Add(-1)
		if socket.Unread(conn) {
			first := socket.NewReader(conn)
			if data, _ := first.ReadFirst(next.inspect.limits.Bytes); len(data) > 0 {
				return next.next(conn, data)
			}
		}
		_ = conn.Close()
	}
	if next.inspect.over() {
		next.inspect.retire() // may have been before the engine knew of the connection
	}
	return nil
}

// retireParked closes the connections that are parked. It is called when an HTTP server stops
// at the end of the process: it would close them if it still had them.
func retireParked() {
	streams.Retire(func(owner relay.Owner) bool {
		_, ok := owner.(*parked)
		return ok
	})
}

// parked is a connection that waits for its next request, which has left the HTTP server.
type parked struct {
	continuation
	id    account.ID // of the request before
	to    unique.Handle[parkedFrom]
	since time.Duration // since account.Epoch
}

// parkedFrom is where a parked connection was: many were at the same place.
type parkedFrom struct{ route, listener string }

// newParked returns what waits for the request after last.
func newParked(next continuation, last *account.Record) *parked {
	before := last.Read()
	return &parked{next, before.ID, unique.Make(parkedFrom{before.Route, before.Upstream}), time.Since(account.Epoch)}
}

// reading returns what is known of the connection.
func (p *parked) reading() account.Reading {
	now, to := time.Now(), p.to.Value()
	idle := now.Sub(account.Epoch) - p.since
	return account.Reading{
		Summary: account.Summary{
			ID: p.id, Started: now.Add(-idle), State: account.Parked,
			Client: p.origin.ends.Client(), Local: p.origin.ends.Local(),
			Outcome: opening.HTTP.String(), Route: to.route, Destination: toHTTPApp, Upstream: to.listener,
		},
		Idle: idle, Age: idle,
	}
}

// Next implements relay.Owner: all that is complete is for Take.
func (p *parked) Next(data []byte, _ bool) relay.Next {
	in := p.next(nil, data)
	defer in.recycle(false)
	if in.mayWait() {
		return relay.Next{Verdict: relay.Wait, Deadline: in.Deadline()}
	}
	return relay.Next{}
}

// Take implements relay.Owner: the request is inspected, and goes wherever it belongs.
func (p *parked) Take(client net.Conn, data []byte, due time.Time, _ net.Conn, registered func()) {
	in := p.next(client, data)
	in.isDue(due)
	in.turn.hold()
	registered()
	in.serve(client)
}

// Closed implements relay.Owner.
func (*parked) Closed() { parkedConnections.Add(-1) }

// Refusal, Ended, Tunnelled and Dropped implement relay.Owner. There is nothing to tell.
func (*parked) Refusal(int) []byte  { return nil }
func (*parked) Ended(relay.Account) {}
func (*parked) Tunnelled()          {}
func (*parked) Dropped()            {}

// Interface guards
var _ relay.Owner = (*parked)(nil)
