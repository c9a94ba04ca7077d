package streamprox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	networkName      = "streamprox"
	networkNameHTTP3 = "streamproxudp"
)

// network is the virtual network: the addresses on which HTTP servers of this
// process listen. It outlives configurations, as sockets do.
var network = virtualNetwork{listeners: make(map[string][]*listener), changed: make(chan struct{})}

// virtualNetwork hands connections to listeners without a socket in between.
type virtualNetwork struct {
	mu sync.Mutex

	// listeners holds the open listeners of each address, the newest last. They
	// overlap while a configuration replaces another one; when the new one fails to
	// start, its listeners close and those of the old one are the newest again.
	listeners map[string][]*listener

	// changed is closed, and replaced, whenever listeners changes.
	changed chan struct{}
}

// errNotListening is returned by deliver when nobody takes the connection in time.
var errNotListening = errors.New("no listener accepts connections")

// deliver gives conn to the newest listener of addr. It waits up to wait for one
// that listens and accepts; a connection that it cannot deliver stays the caller's.
func (n *virtualNetwork) deliver(addr string, conn net.Conn, wait time.Duration) error {
	replay, awaited := conn.(request)
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		l, changed := n.newest(addr, awaited)
		if l == nil {
			select {
			case <-changed:
				continue
			case <-timeout.C:
				return errNotListening
			}
		}
		if awaited {
			replay.whenTaken(l.requestTaken)
		}
		var err error
		select {
		case l.conns <- conn:
			return nil
		case <-l.closed:
		case <-changed:
		case <-timeout.C:
			err = errNotListening
		}
		if awaited {
			replay.requestTaken()
		}
		if err != nil {
			return err
		}
	}
}

// request is a connection that tells when the server has taken on the request at its
// beginning.
type request interface {
	// whenTaken sets what requestTaken calls, once.
	whenTaken(func())
	requestTaken()
}

// newest returns the newest listener of addr, or nil, and a channel that is closed
// when that changes. With await, the listener awaits one more request.
func (n *virtualNetwork) newest(addr string, await bool) (*listener, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := n.listeners[addr]
	if len(open) == 0 {
		return nil, n.changed
	}
	l := open[len(open)-1]
	if await {
		l.awaited++
	}
	return l, n.changed
}

// add makes l the newest listener of its address, and waits for the requests that
// are on their way to the one before it. net/http's server drops, without an answer,
// a request that it reads after its shutdown has begun, and that begins when those
// who add a listener are ready.
func (n *virtualNetwork) add(l *listener) {
	n.mu.Lock()
	key := l.addr.String()
	open := n.listeners[key]
	n.listeners[key] = append(open, l)
	n.announce()
	var idle chan struct{}
	if len(open) > 0 && open[len(open)-1].awaited > 0 {
		idle = make(chan struct{})
		open[len(open)-1].idle = idle
	}
	n.mu.Unlock()

	if idle != nil {
		timeout := time.NewTimer(handoverPatience)
		defer timeout.Stop()
		select {
		case <-idle:
		case <-timeout.C:
		}
	}
}

// handoverPatience bounds the wait for requests on their way to a server that is
// about to be replaced. They take microseconds.
const handoverPatience = 500 * time.Millisecond

func (n *virtualNetwork) remove(l *listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := l.addr.String()
	open := n.listeners[key]
	kept := make([]*listener, 0, len(open))
	for _, other := range open {
		if other != l {
			kept = append(kept, other)
		}
	}
	if len(kept) == 0 {
		delete(n.listeners, key)
	} else {
		n.listeners[key] = kept
	}
	n.announce()
}

// announce wakes those who wait for a change. n.mu is held.
func (n *virtualNetwork) announce() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// listener is one generation of the listener on an address. Connections are given
// to a call of Accept, never queued: none is left behind when it closes.
type listener struct {
	addr   addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	// Guarded by network.mu: how many requests are on their way to the server, and
	// whom to tell when there are none, or nil.
	awaited int
	idle    chan struct{}
}

// requestTaken counts one request as having reached the server.
func (l *listener) requestTaken() {
	network.mu.Lock()
	defer network.mu.Unlock()
	if l.awaited--; l.awaited == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: networkName, Addr: l.addr, Err: net.ErrClosed}
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		network.remove(l)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

// listen implements caddy.ListenerFunc for the virtual network.
func listen(ctx context.Context, _, host, portRange string, portOffset uint, _ net.ListenConfig) (any, error) {
	address, err := joinAddr(host, portRange, portOffset)
	if err != nil {
		return nil, err
	}
	if caddyCtx, ok := ctx.(caddy.Context); ok {
		if err := unbindACME(caddyCtx); err != nil {
			return nil, err
		}
		checkUnreached(caddyCtx)
	}
	l := &listener{addr: address, conns: make(chan net.Conn), closed: make(chan struct{})}
	network.add(l)
	return l, nil
}

// joinAddr returns the address of a listener on the virtual network.
func joinAddr(host, portRange string, portOffset uint) (addr, error) {
	if host == "" {
		return "", fmt.Errorf("%s needs a name to listen on, as in 'bind %s/web'", networkName, networkName)
	}
	first, _, _ := strings.Cut(portRange, "-")
	port, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return "", fmt.Errorf("parsing port of %s/%s: %w", networkName, host, err)
	}
	return addr(net.JoinHostPort(host, strconv.FormatUint(port+uint64(portOffset), 10))), nil
}

// addr is an address on the virtual network, such as "web:80".
type addr string

// Network implements net.Addr.
func (addr) Network() string { return networkName }

// String implements net.Addr.
func (a addr) String() string { return string(a) }

// listenPacket implements caddy.ListenerFunc for HTTP/3 on the virtual network.
// Caddy enables HTTP/3 for every site with TLS and would fail to start without a
// packet listener; this one never receives a packet.
func listenPacket(_ context.Context, _, host, _ string, _ uint, _ net.ListenConfig) (any, error) {
	return &packetListener{addr: packetAddr(host), closed: make(chan struct{})}, nil
}

type packetListener struct {
	addr   packetAddr
	closed chan struct{}
	once   sync.Once
}

// packetAddr has no port: with one, the HTTP app would advertise it in Alt-Svc.
type packetAddr string

// Network implements net.Addr.
func (packetAddr) Network() string { return networkNameHTTP3 }

// String implements net.Addr.
func (a packetAddr) String() string { return string(a) }

// ReadFrom blocks until the listener is closed.
func (p *packetListener) ReadFrom([]byte) (int, net.Addr, error) {
	<-p.closed
	return 0, nil, net.ErrClosed
}

// WriteTo drops the packet.
func (p *packetListener) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }

// Close implements net.PacketConn.
func (p *packetListener) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// LocalAddr implements net.PacketConn.
func (p *packetListener) LocalAddr() net.Addr { return p.addr }

// SetDeadline implements net.PacketConn.
func (p *packetListener) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline implements net.PacketConn.
func (p *packetListener) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline implements net.PacketConn.
func (p *packetListener) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// Interface guards
var (
	_ net.Listener       = (*listener)(nil)
	_ net.PacketConn     = (*packetListener)(nil)
	_ caddy.ListenerFunc = listen
	_ caddy.ListenerFunc = listenPacket
)
