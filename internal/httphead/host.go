package httphead

import (
	"bytes"
	"net/netip"
	"unsafe"
)

// checkAuthority checks the authority of a target, host [":" port].
func checkAuthority(a []byte, needPort bool) *Error {
	switch {
	case validHost(a, needPort):
		return nil
	case bytes.IndexByte(a, '@') >= 0:
		return ErrUserinfo
	}
	return ErrAuthority
}

// validHost reports whether h is a non-empty uri-host with an optional port
// (RFC 9110 section 4.2). Two legal forms of a reg-name are not accepted, because
// recipients differ about which site they name: with a percent sign, which some decode
// and some do not, and with a dot at its end, which nginx and Apache take off, while
// Caddy's host matcher and net/http's patterns compare it.
func validHost(h []byte, needPort bool) bool {
	n := 0
	if len(h) > 0 && h[0] == '[' {
		n = bytes.IndexByte(h, ']') + 1
		if n == 0 || !validIPv6(h[1:n-1]) {
			return false
		}
	} else {
		for n < len(h) && class[h[n]]&hostByte != 0 {
			n++
		}
		if n == 0 || h[n-1] == '.' {
			return false
		}
	}
	port := h[n:]
	if len(port) == 0 {
		return !needPort
	}
	if needPort && len(port) == 1 {
		return false
	}
	return port[0] == ':' && len(port) <= 1+5 && all(port[1:], digitByte)
}

// validIPv6 reports whether s is an IPv6 address without a zone.
func validIPv6(s []byte) bool {
	if len(s) == 0 || bytes.IndexByte(s, '%') >= 0 {
		return false
	}
	// The string is a view of s, to spare an allocation. Nothing keeps it: an
	// address without a zone has no pointer into it.
	addr, err := netip.ParseAddr(unsafe.String(&s[0], len(s)))
	return err == nil && addr.Is6()
}

// readHost checks a Host field.
func (r *Reader) readHost(data []byte, value Span) *Error {
	if r.hasField {
		return ErrHostRepeated
	}
	r.hasField = true
	r.HasHost = true
	host, target := value.Of(data), r.authority.Of(data)
	switch {
	case r.opts.Lenient:
		if !hostBytes(host) {
			return ErrHost
		}
	case validHost(host, false):
	case len(host) == 0 && r.Minor == 0:
		// HTTP/1.0 has no Host; an empty one says as much.
	case bytes.IndexByte(host, '@') >= 0:
		return ErrUserinfo
	default:
		return ErrHost
	}
	if len(target) == 0 {
		r.Host = value
		return nil
	}
	if !r.opts.Lenient && !sameAuthority(host, target, r.defaultPort(data)) {
		return ErrHostMismatch
	}
	return nil
}

// sameAuthority reports whether both name the same host and port: written alike, or one
// with the default port and the other without (RFC 9110 section 4.2.3).
func sameAuthority(a, b []byte, defaultPort string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	n := len(a)
	return EqualFold(a, b[:n]) && (n == len(b) || string(b[n:]) == defaultPort)
}

// defaultPort returns the port, after its colon, that a client may leave out of the Host
// beside this target; "" if there is none. CONNECT's target always has one (RFC 9110
// section 9.3.6), and JDK and Apache HttpClient leave 443 out of the Host.
func (r *Reader) defaultPort(data []byte) string {
	target := r.Target.Of(data)
	switch {
	case string(r.Method.Of(data)) == "CONNECT", hasPrefixFold(target, "https://"):
		return ":443"
	case hasPrefixFold(target, "http://"):
		return ":80"
	}
	return ""
}

// hostBytes reports whether h holds only bytes that net/http takes in a Host.
func hostBytes(h []byte) bool {
	for _, c := range h {
		if class[c]&hostByte == 0 && c != ':' && c != '[' && c != ']' && c != '%' {
			return false
		}
	}
	return true
}
