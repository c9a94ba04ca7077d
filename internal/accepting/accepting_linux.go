package accepting

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Supported is true where listening sockets can be found.
const Supported = true

// errClosed is returned for a socket that its owner has closed.
var errClosed = errors.New("the socket is closed")

// Socket is a listening socket of the process. Its owner may close it at any time.
type Socket struct {
	fd      int    // its owner's descriptor
	cookie  uint64 // the kernel's name of the socket: a descriptor's number is used again
	addr    net.Addr
	queued  int // at the last look
	stalled int // looks in a row
}

// Find returns the listening sockets of the process. It fails if there is no descriptor left
// to look with.
func Find() ([]*Socket, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var sockets []*Socket
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
			continue
		}
		cookie, err := cookieOf(fd)
		if err != nil {
			continue
		}
		if addr := boundTo(fd); addr != nil {
			sockets = append(sockets, &Socket{fd: fd, cookie: cookie, addr: addr})
		}
	}
	return sockets, nil
}

func cookieOf(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
}

// boundTo returns the address that a socket is bound to, nil if that is of another family than
// those of Addr.
func boundTo(fd int) net.Addr {
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil
	}
	switch bound := bound.(type) {
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Net: "unix", Name: bound.Name}
	case *unix.SockaddrInet4:
		return tcpAddr(netip.AddrFrom4(bound.Addr), bound.Port)
	case *unix.SockaddrInet6:
		return tcpAddr(netip.AddrFrom16(bound.Addr).Unmap(), bound.Port)
	default:
		return nil
	}
}

func tcpAddr(ip netip.Addr, port int) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port)))
}

// Addr returns where the socket listens: a *net.TCPAddr without a zone, or a *net.UnixAddr.
func (s *Socket) Addr() net.Addr { return s.addr }

// Closed reports whether the owner of the socket has closed it.
func (s *Socket) Closed() bool {
	cookie, err := cookieOf(s.fd)
	return err != nil || cookie != s.cookie
}

// Stopped looks at the queue of the socket once, and reports whether it is clear by now that
// nobody accepts from it: several looks in a row have found connections that wait, and none
// that was taken. It costs two system calls.
func (s *Socket) Stopped() bool {
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

// Listen returns another listener on the socket, on a second descriptor. While it is open the
// kernel gives it connections, though the owner may have closed its own.
func (s *Socket) Listen() (net.Listener, error) {
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	if second := (&Socket{fd: fd, cookie: s.cookie}); second.Closed() {
		return nil, errClosed // and the number is somebody else's
	}
	return net.FileListener(file)
}
