package streamprox

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/handover"
)

// What Caddy calls for addresses such as streamprox/web: there an HTTP server listens inside
// the process, for the connections that http_app delivers.

const (
	networkName      = "streamprox"
	networkNameHTTP3 = "streamproxudp"
)

// network is the virtual network: HTTP servers listen on it, and http_app delivers to them.
// It outlives configurations, as sockets do.
var network = handover.New(networkName)

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
	return exitListener{network.Listen(address)}, nil
}

// exitListener closes with itself, when the process exits, the connections that are parked:
// a server that stops closes idle ones at once, and then waits for requests. No listener
// follows then.
type exitListener struct{ net.Listener }

// Close implements net.Listener.
func (l exitListener) Close() error {
	if caddy.Exiting() {
		network.Finish()
		retireParked() // first: no request of theirs finds that nobody listens
	}
	return l.Listener.Close()
}

// joinAddr returns the address of a listener on the virtual network, such as "web:80".
func joinAddr(host, portRange string, portOffset uint) (string, error) {
	if host == "" {
		return "", fmt.Errorf("%s needs a name to listen on, as in 'bind %s/web'", networkName, networkName)
	}
	first, _, _ := strings.Cut(portRange, "-")
	port, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return "", fmt.Errorf("parsing port of %s/%s: %w", networkName, host, err)
	}
	return net.JoinHostPort(host, strconv.FormatUint(port+uint64(portOffset), 10)), nil
}

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
	_ net.PacketConn     = (*packetListener)(nil)
	_ caddy.ListenerFunc = listen
	_ caddy.ListenerFunc = listenPacket
)
