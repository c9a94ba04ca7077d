package socket

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// CanConnect says that Connect works.
const CanConnect = true

// Connect begins a TCP connection to an address without a zone. It returns the connection
// if that is open at once, as it mostly is to a server on the same machine, else what waits
// for it. The error is descriptors.ErrScarce if the descriptor would be one of the reserve.
//
// It does what net.Dialer does with a third of the system calls: the connection is a *Bare,
// with the same options set.
func Connect(to netip.AddrPort) (conn net.Conn, begun *Connecting, err error) {
	// As net.Dialer: the system may give a connection to a port on which nobody listens that
	// very port, and so connect it to itself, and it may find no port when there are some.
	for range 3 {
		conn, begun, err = connectOnce(to)
		if err == nil && begun != nil {
			return nil, begun, nil
		}
		if bare, ok := conn.(*Bare); ok && bare.isItself() {
			bare.Close()
			err = dialError(to, os.NewSyscallError("connect", unix.ECONNREFUSED))
			continue
		}
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return conn, nil, nil
}

func connectOnce(to netip.AddrPort) (net.Conn, *Connecting, error) {
	if !descriptors.Take(1) {
		return nil, nil, descriptors.ErrScarce
	}
	family := unix.AF_INET6
	var address unix.Sockaddr = &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		descriptors.Unused(1)
		if err == unix.EMFILE || err == unix.ENFILE {
			return nil, nil, descriptors.ErrScarce
		}
		return nil, nil, dialError(to, os.NewSyscallError("socket", err))
	}
	descriptors.Opened(uintptr(fd))
	b := &Bare{fd: fd, to: to}
	if err = unix.Connect(fd, address); err == unix.EINPROGRESS || err == unix.EINTR {
		var done bool
		if done, err = connected(fd); !done {
			return nil, &Connecting{b}, nil
		}
	}
	if err != nil {
		b.Close()
		return nil, nil, dialError(to, os.NewSyscallError("connect", err))
	}
	b.setOptions()
	return b, nil, nil
}

// connected reports whether the connection that fd was to open is open, or has failed.
func connected(fd int) (done bool, err error) {
	ask := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	switch n, err := unix.Poll(ask, 0); {
	case err != nil, n == 0:
		return false, nil
	case ask[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0:
		return true, nil
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return true, err
}

func dialError(to netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
}

// Bare is a TCP connection that the runtime's poller does not know. It becomes one that it
// knows when a method is called that may wait: one that goes to an event loop never does.
type Bare struct {
	to netip.AddrPort // the peer; zero: not known

	mu   sync.Mutex
	fd   int // -1: it is conn's, or somebody else's, or closed
	conn net.Conn
}

// NewBare returns a connection of the socket fd, which does not block. The connection
// closes it.
func NewBare(fd int) *Bare { return &Bare{fd: fd} }

// setOptions sets what net sets.
func (b *Bare) setOptions() {
	for _, option := range goOptions {
		_ = unix.SetsockoptInt(b.fd, option.level, option.name, option.value)
	}
}

// isItself reports whether the connection leads to itself.
func (b *Bare) isItself() bool {
	local, ok := b.LocalAddr().(*net.TCPAddr)
	return ok && local.Port == int(b.to.Port()) && local.AddrPort().Addr().Unmap() == b.to.Addr()
}

// open returns the connection that the runtime's poller knows.
func (b *Bare) open() (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		return b.conn, nil
	}
	if b.fd < 0 {
		return nil, net.ErrClosed
	}
	fd := b.fd
	b.fd = -1
	var err error
	b.conn, err = FromDescriptor(fd)
	return b.conn, err
}

// opened returns the connection if it is open already, else the descriptor, -1 if that is
// closed.
func (b *Bare) opened() (net.Conn, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conn, b.fd
}

// take returns the descriptor, which is the caller's from then on; -1 if it is closed, or
// known to the runtime's poller.
func (b *Bare) take() (fd int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fd, b.fd = b.fd, -1
	return fd
}

// Read implements net.Conn.
func (b *Bare) Read(p []byte) (int, error) {
	conn, err := b.open()
	if err != nil {
		return 0, err
	}
	return conn.Read(p)
}

// Write implements net.Conn.
func (b *Bare) Write(p []byte) (int, error) {
	conn, err := b.open()
	if err != nil {
		return 0, err
	}
	return conn.Write(p)
}

// Close implements net.Conn.
func (b *Bare) Close() error {
	if fd := b.take(); fd >= 0 {
		return unix.Close(fd)
	}
	if conn, _ := b.opened(); conn != nil {
		return conn.Close()
	}
	return net.ErrClosed
}

// CloseWrite ends sending.
func (b *Bare) CloseWrite() error {
	conn, err := b.open()
	if err != nil {
		return err
	}
	return CloseWrite(conn)
}

// SetLinger is that of *net.TCPConn.
func (b *Bare) SetLinger(sec int) error {
	conn, fd := b.opened()
	if conn != nil {
		return conn.(*net.TCPConn).SetLinger(sec)
	}
	linger := unix.Linger{Linger: int32(max(sec, 0))}
	if sec >= 0 {
		linger.Onoff = 1
	}
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger)
}

// LocalAddr implements net.Conn.
func (b *Bare) LocalAddr() net.Addr { return b.address(syscall.Getsockname, net.Conn.LocalAddr) }

// RemoteAddr implements net.Conn.
func (b *Bare) RemoteAddr() net.Addr {
	if b.to.IsValid() {
		return net.TCPAddrFromAddrPort(b.to)
	}
	return b.address(syscall.Getpeername, net.Conn.RemoteAddr)
}

// address asks the system, or conn. Package unix would ask for the protocol too.
func (b *Bare) address(ask func(fd int) (syscall.Sockaddr, error), of func(net.Conn) net.Addr) net.Addr {
	conn, fd := b.opened()
	if conn != nil {
		return of(conn)
	}
	switch address, _ := ask(fd); address := address.(type) {
	case *syscall.SockaddrInet4:
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4(address.Addr), uint16(address.Port)))
	case *syscall.SockaddrInet6:
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(address.Addr), uint16(address.Port)))
	}
	return (*net.TCPAddr)(nil)
}

// SetDeadline implements net.Conn.
func (b *Bare) SetDeadline(t time.Time) error { return b.setDeadline(t, net.Conn.SetDeadline) }

// SetReadDeadline implements net.Conn.
func (b *Bare) SetReadDeadline(t time.Time) error { return b.setDeadline(t, net.Conn.SetReadDeadline) }

// SetWriteDeadline implements net.Conn.
func (b *Bare) SetWriteDeadline(t time.Time) error {
	return b.setDeadline(t, net.Conn.SetWriteDeadline)
}

func (b *Bare) setDeadline(t time.Time, set func(net.Conn, time.Time) error) error {
	if conn, fd := b.opened(); conn == nil && fd >= 0 && t.IsZero() {
		return nil // it has none
	}
	conn, err := b.open()
	if err != nil {
		return err
	}
	return set(conn, t)
}

// SyscallConn implements syscall.Conn.
func (b *Bare) SyscallConn() (syscall.RawConn, error) { return bareRaw{b}, nil }

type bareRaw struct{ *Bare }

// Control implements syscall.RawConn.
func (r bareRaw) Control(f func(fd uintptr)) error {
	conn, fd := r.opened()
	switch {
	case conn != nil:
		return rawConn(conn).Control(f)
	case fd < 0:
		return net.ErrClosed
	}
	f(uintptr(fd))
	return nil
}

// Read implements syscall.RawConn.
func (r bareRaw) Read(f func(fd uintptr) (done bool)) error {
	conn, err := r.open()
	if err != nil {
		return err
	}
	return rawConn(conn).Read(f)
}

// Write implements syscall.RawConn.
func (r bareRaw) Write(f func(fd uintptr) (done bool)) error {
	conn, err := r.open()
	if err != nil {
		return err
	}
	return rawConn(conn).Write(f)
}

// Interface guards
var (
	_ net.Conn     = (*Bare)(nil)
	_ syscall.Conn = (*Bare)(nil)
)
