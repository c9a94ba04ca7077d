package streamprox

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// relayed is a client's connection in the engine's hands: what the engine asks when the
// next request comes, and tells when one is over. A connection that waits keeps it, so it
// is small.
type relayed struct {
	relay        *Relay
	continuation                      // for the next request; for a raw stream, only addresses
	to           upstream.Reservation // held while a request, or a raw stream, is under way
	leave        func()               // forgets that the upstream's connection may come back in
	address      string               // of the upstream, for the log
	remote       net.Addr             // of the client, for the log; nil: as the continuation has it
	base         net.Conn             // the client's connection as inspect has it, if handlers have wrapped it; else nil
	head         bool                 // the method of the request is HEAD
	detached     bool                 // the engine has the connection for its own; known after serving
	refused      uint16               // the status that the client got in place of a response; 0: none
	kind         underWay             // what is counted of it
	answered     time.Time            // when the last request was over
	record       *account.Record      // of what is under way, or was last; or nil

	// caddy-l4 closes a connection that the engine could not detach when Handle returns. So
	// that waits, and goes on with the request that follows, if the engine leaves it.
	serving   sync.WaitGroup // until it is known whether the connection is detached
	ended     sync.WaitGroup // until the connection is closed, or somebody has taken it
	successor *inspection    // of the request that follows, for Handle; or nil
}

// client returns the client's address for the log, which costs nothing unless it is shown.
func (r *relayed) client() fmt.Stringer { return (*relayedClient)(r) }

// relayedClient is a relayed as its client's address.
type relayedClient relayed

// String implements fmt.Stringer.
func (r *relayedClient) String() string {
	if r.remote != nil {
		return r.remote.String()
	}
	return addressOf(r.origin.ends.Client())
}

// reading returns what is known of a connection that waits for its next request. It reports
// false if it does not wait.
func (r *relayed) reading() (reading account.Reading, waits bool) {
	if r.record == nil {
		return reading, false
	}
	reading = r.record.Read()
	if reading.State != account.Ended {
		return reading, false
	}
	reading.State = account.Waiting
	reading.Started = reading.Started.Add(reading.Age - reading.Idle)
	reading.Age = reading.Idle
	return reading, true
}

// Refusal implements relay.Owner.
func (r *relayed) Refusal(status int) []byte {
	ownAnswers.count(status)
	r.refused = uint16(status)
	return []byte(statusOnly(status).text(r.head))
}

// Ended implements relay.Owner.
func (r *relayed) Ended(a relay.Account) {
	r.answered = time.Now()
	r.relay.judge(r, a)
	r.refused = 0
	r.to.Release()
	closeRelayed(r.record, a)
	r.isOver(a.Cause)
	r.relay.logResponse(r.client(), r.to.Server, a)
	r.relay.logEnd(r.client(), r.address, a)
}

// Next implements relay.Owner. It forwards a request that its head alone sends the same way
// as the one before, and leaves all others to Take.
func (r *relayed) Next(data []byte, kept bool) relay.Next {
	in, sure := r.look(data)
	defer in.recycle(false)
	if r.base == nil && in.mayWait() { // else the rest is read from another connection than data
		return relay.Next{Verdict: relay.Wait, Deadline: in.Deadline()}
	}
	if !kept || !r.relay.ahead || !sure || in.Outcome() != opening.HTTP || in.route < 0 || r.inspect.Routes[in.route].ahead != r.relay {
		return relay.Next{}
	}
	edited, err := r.inspect.Routes[in.route].lookPast(in)
	if err != nil {
		return relay.Next{}
	}
	if edited != in {
		defer edited.forget()
	}
	request, err := r.relay.request(edited, true)
	repeatable := isRepeatable(request.Method)
	if err != nil || !repeatable && time.Since(r.answered) > freshAnswer {
		return relay.Next{}
	}
	if !r.relay.renew(&r.to, edited) {
		return relay.Next{}
	}
	r.inspect.logDecision(in)
	in.keepDecision()
	if r.record != nil {
		in.openNext(r.record)
	}
	r.head = request.Method == http.MethodHead
	in.count()
	r.to.Reuse()
	r.is(relayRequest)
	return relay.Next{Verdict: relay.Forward, Request: request, HeadLen: in.Head.Len, Repeatable: repeatable}
}

// Take implements relay.Owner: the request is inspected, and goes wherever it belongs. If
// the connection is not detached, that is for Handle to do.
func (r *relayed) Take(client net.Conn, data []byte, due time.Time, kept net.Conn, registered func()) {
	r.isUnsent()
	if r.base != nil {
		client = r.base
	}
	// A request that has not been answered had a place and an account, and gets others, of
	// the same name.
	r.to.Release()
	before, unanswered := r.record.End(false)
	in := r.next(client, data)
	if unanswered {
		in.turn.id = before.ID
	}
	in.isDue(due)
	in.turn.hold()
	registered()
	if kept != nil {
		in.turn.kept = newKeptServer(r.relay, server{conn: kept, to: &r.to, leave: r.leave}, r.answered)
	}
	if r.serving.Wait(); r.detached {
		in.serve(client)
		return
	}
	if in.complete(nil) != nil {
		client.Close()
		in.turn.dropKept()
		in.turn.settle()
		return
	}
	in.decide()
	r.successor = in
}

// Tunnelled implements relay.Owner: no request follows, so what would inspect it may go.
func (r *relayed) Tunnelled() {
	r.is(relayStream)
	r.origin, r.base = origin{ends: r.origin.ends}, nil
}

// Dropped implements relay.Owner.
func (r *relayed) Dropped() { r.leave() }

// Closed implements relay.Owner.
func (r *relayed) Closed() { r.ended.Done() }

// done is for a raw stream what Ended, Dropped and Closed are for a session.
func (r *relayed) done(a relay.Account) {
	r.leave()
	r.Ended(a)
	r.Closed()
}

// isRepeatable reports whether a request with that method may be sent once more, if there
// was no answer to it (RFC 9110 section 9.2.2).
func isRepeatable(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete, http.MethodTrace:
		return true
	}
	return false
}

// Interface guards
var _ relay.Owner = (*relayed)(nil)
