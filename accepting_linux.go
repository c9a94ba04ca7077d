package streamprox

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

const (
	// lookInterval is how often the listeners are looked at: a system call for each.
	lookInterval = time.Second

	// looksStalled is how many looks in a row find connections that wait in the queue of a
	// listener, and none taken from it, before it counts as stopped. One that is alive but
	// slow takes some. If it is taken for stopped all the same, two accept from one
	// socket, which does no harm.
	looksStalled = 4

	// acceptAgain is for how long nothing is accepted after that has failed.
	acceptAgain = 50 * time.Millisecond
)

// acceptWatch sees to it that the listeners of a configuration go on accepting. caddy-l4
// ends its loop for good when an accept fails for want of a descriptor, and leaves the
// socket open: clients wait in its queue. Then the watch accepts in its place, from a second
// descriptor of the socket, until layer4 closes the first one.
//
// A listener wrapper of an HTTP server ends likewise, and the server then closes the socket.
// There the watch can only say so.
type acceptWatch struct {
	ctx     caddy.Context
	app     *layer4.App       // nil: a wrapper's
	server  *caddyhttp.Server // else
	logger  *zap.Logger
	found   bool
	sockets []*watchedSocket
}

// watchedSocket is a listening socket.
type watchedSocket struct {
	fd      int    // its owner's descriptor, which may be closed at any time
	cookie  uint64 // the kernel's name of the socket: a descriptor's number is used again
	address string
	server  *layer4.Server // nil: a wrapper's
	queued  int            // at the last look
	stalled int            // looks in a row
	own     net.Listener   // ours; nil: its owner accepts
}

// acceptWatches holds the *layer4.App and *caddyhttp.Server that are watched.
var acceptWatches sync.Map

// watchAccepting begins to watch the listeners through which a handler provisioned with ctx
// gets its connections, unless they are watched. It ends with the configuration.
func watchAccepting(ctx caddy.Context) {
	if ctx.Context == nil {
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
	if _, known := acceptWatches.LoadOrStore(watched, true); known {
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
	for _, address := range lost {
		w.logger.Error("an HTTP server whose listener wrapper is layer4 has closed its listener, as it does when it had stopped accepting for want of descriptors; reload the configuration, with --force if it has not changed",
			zap.String("address", address))
	}
	for _, s := range w.sockets {
		if s.server != nil && s.own == nil && s.stops() {
			w.takeOver(s)
		}
	}
}

// forget lets go of the sockets that their owners have closed. It returns at which addresses
// an HTTP server with a wrapper has none any more: while a configuration is replaced, the one
// before it has a socket of its own there, which it may close late (shutdown_delay).
func (w *acceptWatch) forget() (lost []string) {
	w.sockets = slices.DeleteFunc(w.sockets, func(s *watchedSocket) bool {
		if !s.closed() {
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

// closed reports whether the owner of the socket has closed it.
func (s *watchedSocket) closed() bool {
	cookie, err := unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	return err != nil || cookie != s.cookie
}

// close lets go of the socket.
func (s *watchedSocket) close() {
	if s.own != nil {
		_ = s.own.Close()
	}
}

// stops looks at the queue of the listener, and reports whether it is clear that nobody
// accepts from it.
func (s *watchedSocket) stops() bool {
	poll := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	waiting := err == nil && n == 1 && poll[0].Revents&unix.POLLIN != 0
	queued := 0 // of a Unix socket nobody tells
	if info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && waiting {
		queued = int(info.Unacked) // which of a listener is the length of its queue
	}
	if !waiting || queued < s.queued {
		s.stalled = 0
	} else {
		s.stalled++
	}
	s.queued = queued
	return s.stalled >= looksStalled
}

// takeOver accepts from the socket. Where that fails, for want of a descriptor, the next
// look tries again.
func (w *acceptWatch) takeOver(s *watchedSocket) {
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	own := &watchedSocket{fd: fd, cookie: s.cookie}
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	if own.closed() { // and the number is somebody else's
		return
	}
	ln, err := net.FileListener(file)
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
			if s.closed() { // so that the kernel gives the next one to who follows
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

// find returns the listening sockets of the process at the addresses of the configuration.
// It reports false if there was no descriptor to look with.
func (w *acceptWatch) find() (sockets []*watchedSocket, ok bool) {
	wanted := w.addresses()
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, false
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
			continue
		}
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			continue
		}
		bound, err := unix.Getsockname(fd)
		if err != nil {
			continue
		}
		for _, address := range wanted {
			if address.is(bound) {
				sockets = append(sockets, &watchedSocket{fd: fd, cookie: cookie, address: address.String(), server: address.server})
				break
			}
		}
	}
	return sockets, true
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

// is reports whether a socket that is bound to that listens at the address.
func (a *listenAddress) is(bound unix.Sockaddr) bool {
	var ip netip.Addr
	var port int
	switch bound := bound.(type) {
	case *unix.SockaddrUnix:
		path, _, _ := strings.Cut(a.Host, "|") // the permissions
		return a.IsUnixNetwork() && bound.Name == path
	case *unix.SockaddrInet4:
		ip, port = netip.AddrFrom4(bound.Addr), bound.Port
	case *unix.SockaddrInet6:
		ip, port = netip.AddrFrom16(bound.Addr).Unmap(), bound.Port
	}
	if a.IsUnixNetwork() || port == 0 || uint(port) != a.StartPort {
		return false
	}
	if len(a.ips) == 0 {
		return ip.IsUnspecified()
	}
	return slices.ContainsFunc(a.ips, func(want netip.Addr) bool {
		// For all addresses net takes those of IPv6, which are those of IPv4, too.
		return want.WithZone("") == ip || want.IsUnspecified() && ip.IsUnspecified()
	})
}
