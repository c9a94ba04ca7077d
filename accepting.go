package streamprox

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/accepting"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// The watch over the listeners of a configuration: whether they go on accepting. caddy-l4 ends
// its loop for good when an accept fails for want of a descriptor, and leaves the socket open:
// clients wait in its queue. Then the watch accepts in its place, until layer4 closes the
// socket.
//
// A listener wrapper of an HTTP server ends likewise, and the server then closes the socket.
// There the watch can only say so.

const (
	// lookInterval is how often the listeners are looked at.
	lookInterval = time.Second

	// acceptAgain is how long to wait after an accept that failed.
	acceptAgain = 50 * time.Millisecond
)

// acceptWatch watches the listeners of layer4, or of an HTTP server with a wrapper. If it
// takes a listener for stopped that still accepts, no harm is done: then two accept from
// one socket.
type acceptWatch struct {
	ctx     caddy.Context
	app     *layer4.App       // nil: a wrapper's
	server  *caddyhttp.Server // else
	logger  *zap.Logger
	found   bool
	sockets []*watchedSocket
	lost    []string                      // addresses at which no socket is left
	ports   atomic.Pointer[acceptedPorts] // for metrics
}

// watchedSocket is a listening socket.
type watchedSocket struct {
	*accepting.Socket
	address string         // as configured
	server  *layer4.Server // nil: a wrapper's
	stopped bool           // at the last look nobody accepted
	own     net.Listener   // ours; nil: its owner accepts
}

// acceptedPorts says of addresses whether connections to them are accepted.
type acceptedPorts map[string]bool

// add adds a listener of an address, which is accepted from if each of its listeners is.
func (p acceptedPorts) add(address string, accepting bool) {
	others, known := p[address]
	p[address] = (others || !known) && accepting
}

// acceptWatches holds the *acceptWatch of each *layer4.App and *caddyhttp.Server that is
// watched.
var acceptWatches sync.Map

// watchAccepting begins to watch the listeners through which a handler provisioned with ctx
// gets its connections, unless they are watched. It ends with the configuration.
func watchAccepting(ctx caddy.Context) {
	if ctx.Context == nil || !accepting.Supported {
		return
	}
	w := &acceptWatch{ctx: ctx}
	var watched any
	for _, module := range ctx.Modules() {
		if app, ok := module.(*layer4.App); ok {
			w.app, w.logger, watched = app, ctx.Logger(app), app
		}
	}
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && w.app == nil {
		w.server, w.logger, watched = server, ctx.Logger(), server
	}
	if watched == nil {
		return
	}
	if _, known := acceptWatches.LoadOrStore(watched, w); known {
		return
	}
	go func() {
		defer acceptWatches.Delete(watched)
		w.run()
	}()
}

// run is the goroutine of the watch. It ends when the configuration is cleaned up.
func (w *acceptWatch) run() {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.look()
		case <-w.ctx.Done():
			// A socket that is open stays among those to which the kernel gives
			// connections.
			for _, s := range w.sockets {
				s.close()
			}
			return
		}
	}
}

// look looks at each listener once.
func (w *acceptWatch) look() {
	// While a configuration is being loaded its listeners, and the routes behind them, are
	// not complete. While it is being stopped they are closed.
	active := caddy.ActiveContext()
	runs := active.Context != nil && active.Done() == w.ctx.Done() && !caddy.Exiting()
	if runs && !w.found {
		if w.sockets, w.found = w.find(); w.found {
			w.logger.Debug("watching that listeners go on accepting", zap.Int("listeners", len(w.sockets)))
		}
	}
	lost := w.forget()
	if !runs {
		return
	}
	w.lost = append(w.lost, lost...)
	defer w.note()
	for _, address := range lost {
		w.logger.Error("an HTTP server whose listener wrapper is layer4 has closed its listener, as it does when it had stopped accepting for want of descriptors; reload the configuration, with --force if it has not changed",
			zap.String("address", address))
	}
	for _, s := range w.sockets {
		if s.stopped = s.server != nil && s.own == nil && s.Stopped(); s.stopped {
			w.takeOver(s)
		}
	}
}

// forget lets go of the sockets that their owners have closed. It returns at which addresses
// an HTTP server with a wrapper has none any more: while a configuration is replaced, the one
// before it has a socket of its own there, which it may close late (shutdown_delay).
func (w *acceptWatch) forget() (lost []string) {
	w.sockets = slices.DeleteFunc(w.sockets, func(s *watchedSocket) bool {
		if !s.Closed() {
			return false
		}
		s.close()
		if s.server == nil {
			lost = append(lost, s.address)
		}
		return true
	})
	return slices.DeleteFunc(lost, func(address string) bool {
		return slices.ContainsFunc(w.sockets, func(s *watchedSocket) bool { return s.address == address })
	})
}

// close lets go of the socket.
func (s *watchedSocket) close() {
	if s.own != nil {
		_ = s.own.Close()
	}
}

// takeOver accepts from the socket. Where that fails, for want of a descriptor, the next
// look tries again.
func (w *acceptWatch) takeOver(s *watchedSocket) {
	ln, err := s.Listen()
	if err != nil {
		return
	}
	s.own = ln
	route := s.server.Routes.Compile(w.logger, time.Duration(s.server.MatchingTimeout), endOfChain)
	go w.accept(s, ln, route)
	w.logger.Error("a listener of layer4 had stopped accepting for want of descriptors; it is accepted from again",
		zap.String("address", s.address))
}

// accept is a goroutine that does what the accept loop of a layer4 server does, but does
// not end before the listener is closed.
func (w *acceptWatch) accept(s *watchedSocket, ln net.Listener, route layer4.Handler) {
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			if s.Closed() { // so that the kernel gives the next connection to another listener
				_ = ln.Close()
			}
			go w.handle(conn, route)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			time.Sleep(acceptAgain)
		}
	}
}

// handle is a goroutine that does with a connection what layer4's Server.handle does.
func (w *acceptWatch) handle(conn net.Conn, route layer4.Handler) {
	defer conn.Close()
	cx := layer4.WrapConnection(conn, make([]byte, 0, 2<<10), w.logger)
	if err := route.Handle(cx); err != nil {
		w.logger.Error("handling connection",
			zap.String("network", cx.LocalAddr().Network()),
			zap.String("local", cx.LocalAddr().String()),
			zap.String("remote", cx.RemoteAddr().String()),
			zap.Error(err))
	}
}

// note keeps for metrics which listeners are accepted from.
func (w *acceptWatch) note() {
	ports := make(acceptedPorts)
	for _, s := range w.sockets {
		ports.add(s.address, !s.stopped || s.own != nil)
	}
	for _, address := range w.lost {
		ports[address] = false
	}
	w.ports.Store(&ports)
}

// find returns the listening sockets of the process at the addresses of the configuration.
// It reports false if there was no descriptor to look with.
func (w *acceptWatch) find() (watched []*watchedSocket, ok bool) {
	wanted := w.addresses()
	sockets, err := accepting.Find()
	if err != nil {
		return nil, false
	}
	for _, s := range sockets {
		for _, address := range wanted {
			if address.is(s.Addr()) {
				watched = append(watched, &watchedSocket{Socket: s, address: address.String(), server: address.server})
				break
			}
		}
	}
	return watched, true
}

// listenAddress is where a server listens.
type listenAddress struct {
	caddy.NetworkAddress // with one port
	ips                  []netip.Addr
	server               *layer4.Server // nil: an HTTP server with a wrapper
}

// addresses returns where the servers listen, as far as that can be told.
func (w *acceptWatch) addresses() (addresses []listenAddress) {
	add := func(listen []string, server *layer4.Server) {
		for _, text := range listen {
			several, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(text, ""))
			if err != nil || socket.IsDatagram(several.Network) || several.IsFdNetwork() || several.Network == networkName {
				continue
			}
			ips := w.lookup(several)
			for _, address := range several.Expand() {
				addresses = append(addresses, listenAddress{address, ips, server})
			}
		}
	}
	if w.app == nil {
		add(w.server.Listen, nil)
		return addresses
	}
	for _, server := range w.app.Servers {
		add(server.Listen, server)
	}
	return addresses
}

// lookup returns the addresses that the host of a listener may stand for; none for all.
func (w *acceptWatch) lookup(address caddy.NetworkAddress) []netip.Addr {
	if address.Host == "" || address.IsUnixNetwork() {
		return nil
	}
	if ip, err := netip.ParseAddr(address.Host); err == nil {
		return []netip.Addr{ip.Unmap()}
	}
	ctx, cancel := context.WithTimeout(w.ctx, lookInterval)
	defer cancel()
	ips, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", address.Host)
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return append(ips, netip.Addr{}) // which no socket has: not for all
}

// is reports whether a socket bound to that address is one of a.
func (a *listenAddress) is(bound net.Addr) bool {
	if unix, ok := bound.(*net.UnixAddr); ok {
		return a.IsUnixNetwork() && unix.Name == unixPath(a.Host)
	}
	tcp, ok := bound.(*net.TCPAddr)
	if !ok || a.IsUnixNetwork() || tcp.Port == 0 || uint(tcp.Port) != a.StartPort {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if len(a.ips) == 0 {
		return ip.IsUnspecified()
	}
	return slices.ContainsFunc(a.ips, func(want netip.Addr) bool {
		// To listen on all addresses, net binds the IPv6 one, which takes IPv4 too.
		return want.WithZone("") == ip || want.IsUnspecified() && ip.IsUnspecified()
	})
}
