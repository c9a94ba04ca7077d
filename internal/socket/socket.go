// Package socket adds to package net what a proxy needs of a connection: the socket
// beneath its wrappers, half-close, reset, a descriptor of its own, a read that holds no
// buffer while it waits, and whether the peer is still there.
//
// A socket is a *net.TCPConn, a *net.UnixConn or a *[Bare] itself, not a type that embeds
// one: such a type may have a Read of its own.
package socket

import "net"

// Is reports whether conn is a socket: its bytes are those of the socket, and nobody has
// read ahead.
func Is(conn net.Conn) bool {
	_, unix := conn.(*net.UnixConn)
	return unix || IsTCPSocket(conn)
}

// IsTCPSocket reports whether conn is a socket of TCP.
func IsTCPSocket(conn net.Conn) bool {
	switch conn.(type) {
	case *net.TCPConn, *Bare:
		return true
	}
	return false
}

// Of returns the socket beneath conn, for its options and addresses, never for its bytes.
// It is nil if conn wraps it in a way that is not known.
func Of(conn net.Conn) net.Conn {
	if inner := Innermost(conn); Is(inner) {
		return inner
	}
	return nil
}

// Innermost returns the connection beneath all wrappers that are known: a socket, or
// whatever connection cannot be seen through.
func Innermost(conn net.Conn) net.Conn {
	for {
		inner := Unwrap(conn)
		if inner == nil {
			return conn
		}
		conn = inner
	}
}

// Unwrap returns the connection that conn wraps, or nil. Known are wrappers with a method
// NetConn, such as [crypto/tls.Conn], those with a method Raw, such as the Conn of
// github.com/pires/go-proxyproto, and those of [SeeThrough].
func Unwrap(conn net.Conn) net.Conn {
	if wrapper, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return wrapper.NetConn()
	}
	return unwrapPlain(conn)
}

// unwrapPlain is Unwrap for the wrappers that write what they are given and nothing else.
// One with a method NetConn may encode it.
func unwrapPlain(conn net.Conn) net.Conn {
	if wrapper, ok := conn.(interface{ Raw() net.Conn }); ok {
		return wrapper.Raw()
	}
	return unwrapOther(conn)
}

// unwrapOther is the function of SeeThrough.
var unwrapOther = func(net.Conn) net.Conn { return nil }

// SeeThrough makes wrappers known that have no method to tell what they wrap: unwrap
// returns that, or nil. They must write to it what they are given and nothing else.
// SeeThrough is for an init function, and for one caller.
func SeeThrough(unwrap func(net.Conn) net.Conn) { unwrapOther = unwrap }
