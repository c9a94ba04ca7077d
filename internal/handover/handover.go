// Package handover hands connections to listeners in the same process, for each address to
// the newest one.
//
// Two listeners share an address while one configuration replaces another: the new one gets
// the connections from the moment when it is there. If it closes again, because its
// configuration fails to start, the old one gets them.
//
//	network := handover.New("streamprox")
//
//	listener := network.Listen("web:80")
//	go server.Serve(listener)
//
//	err := network.Deliver("web:80", conn, 5*time.Second)
package handover

import (
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// Conn is a connection that can be handed over. It begins with a request, and knows when the
// server has taken that on: from then on the server answers it, even if it is told to shut
// down.
type Conn interface {
	net.Conn

	// WhenTaken sets what the connection calls, once, when the server has taken on the
	// request. It replaces what was set before; nil is nothing.
	WhenTaken(func())
}

// ErrNotListening is returned if no listener has accepted a connection in time.
var ErrNotListening = errors.New("no listener accepts connections")

// patience bounds the wait for requests on their way to a server that is about to be
// replaced. They take microseconds.
const patience = 500 * time.Millisecond

// Network is a set of addresses with their listeners.
type Network struct {
	name string

	mu        sync.Mutex
	listeners map[string][]*listener // those that are open, by address, the newest last
	changed   chan struct{}          // is closed, and forgotten, when listeners or final changes; nil: nobody waits for that
	final     bool                   // no listener is to come
}

// New returns a network without listeners. Its name is that of the network in the addresses
// of the listeners.
func New(name string) *Network {
	return &Network{name: name, listeners: make(map[string][]*listener)}
}

// Listen returns a listener that is the newest of its address until it is closed or another
// one follows. It waits for the requests on their way to the one before it, for at most half
// a second: net/http's server drops, without an answer, a request that it reads when it has
// been told to shut down, and that is what happens to the old server next.
func (n *Network) Listen(address string) net.Listener {
	l := &listener{
		network:  n,
		address:  addr{network: n.name, address: address},
		accepted: make(chan net.Conn),
		closed:   make(chan struct{}),
	}
	if arrived := n.add(l); arrived != nil {
		timeout := time.NewTimer(patience)
		defer timeout.Stop()
		select {
		case <-arrived:
		case <-timeout.C:
		}
	}
	return l
}

// Finish says that no listener is to come: from now on Deliver waits for none that is not
// there.
func (n *Network) Finish() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.final = true
	n.wake()
}

// Deliver hands conn to the newest listener of the address. It waits up to wait for one that
// accepts, and returns ErrNotListening if there is none; then conn is still the caller's.
func (n *Network) Deliver(address string, conn Conn, wait time.Duration) error {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		l, changed := n.send(address)
		if l == nil && changed == nil {
			return ErrNotListening
		}
		if l == nil {
			select {
			case <-changed:
				continue
			case <-timeout.C:
				return ErrNotListening
			}
		}
		conn.WhenTaken(l.taken)
		var err error
		select {
		case l.accepted <- conn:
			return nil
		case <-changed: // l may have been closed, or another one is the newest
		case <-timeout.C:
			err = ErrNotListening
		}
		conn.WhenTaken(nil)
		l.taken()
		if err != nil {
			return err
		}
	}
}

// add makes l the newest listener of its address. If there are requests on their way to the
// one before it, it returns a channel that is closed when they have arrived, else nil.
func (n *Network) add(l *listener) (arrived <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	address := l.address.address
	older := n.listeners[address]
	n.set(address, append(older, l))
	if len(older) == 0 {
		return nil
	}
	return older[len(older)-1].arrival()
}

// remove forgets l.
func (n *Network) remove(l *listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	address := l.address.address
	n.set(address, slices.DeleteFunc(n.listeners[address], func(other *listener) bool { return other == l }))
}

// set replaces the listeners of an address by open, and wakes those who wait for a change.
// n.mu is held.
func (n *Network) set(address string, open []*listener) {
	if len(open) == 0 {
		delete(n.listeners, address)
	} else {
		n.listeners[address] = open
	}
	n.wake()
}

// wake wakes those who wait for a change. n.mu is held.
func (n *Network) wake() {
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}

// send counts one more request on its way to the newest listener of an address, and returns
// that listener, or nil, and a channel that is closed when the listeners change. Without a
// listener the channel is nil if none is to come.
func (n *Network) send(address string) (*listener, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := n.listeners[address]
	if len(open) == 0 && n.final {
		return nil, nil
	}
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	if len(open) == 0 {
		return nil, n.changed
	}
	l := open[len(open)-1]
	l.underWay++
	return l, n.changed
}

// listener is one generation of the listener on an address. A connection is given to a call
// of Accept and never queued: none is left behind when the listener closes.
type listener struct {
	network  *Network
	address  addr
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once

	// Guarded by network.mu: how many requests are on their way to the server, and what is
	// closed when there are none, if somebody waits for that.
	underWay int
	arrived  chan struct{}
}

// arrival returns a channel that is closed when no request is on its way to the server, or
// nil if none is. network.mu is held.
func (l *listener) arrival() <-chan struct{} {
	if l.underWay > 0 && l.arrived == nil {
		l.arrived = make(chan struct{})
	}
	return l.arrived
}

// taken counts one request as having reached the server, or as not on its way any more.
func (l *listener) taken() {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	if l.underWay--; l.underWay == 0 && l.arrived != nil {
		close(l.arrived)
		l.arrived = nil
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: l.address.network, Addr: l.address, Err: net.ErrClosed}
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.network.remove(l)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.address }

// addr is the address of a listener.
type addr struct{ network, address string }

// Network implements net.Addr.
func (a addr) Network() string { return a.network }

// String implements net.Addr.
func (a addr) String() string { return a.address }

// Interface guards
var (
	_ net.Listener = (*listener)(nil)
	_ net.Addr     = addr{}
)
