package httphead

import (
	"bytes"
	"net/url"
)

// splitStrict takes the target apart and accepts the four forms of RFC 9112
// section 3.2, each for the methods that have it.
func (r *Reader) splitStrict(data []byte) *Error {
	method, target, start := r.Method.Of(data), r.Target.Of(data), int(r.Target.Start)
	switch {
	case string(method) == "CONNECT":
		r.authority = r.Target
		return checkAuthority(target, true)
	case string(target) == "*":
		r.Path = r.Target
		if string(method) != "OPTIONS" {
			return ErrTargetForm
		}
		return nil
	case target[0] == '/':
		r.split(data, start, false)
	default:
		n := schemeLen(target)
		if n == 0 || !bytes.HasPrefix(target[n:], schemeSlashes) {
			return ErrTarget
		}
		r.split(data, start+n+len("://"), true)
		if err := checkAuthority(r.authority.Of(data), false); err != nil {
			return err
		}
	}
	if err := checkPath(r.Path.Of(data)); err != nil {
		return err
	}
	if !all(r.Query.Of(data), queryByte) {
		return ErrQuery
	}
	return nil
}

// splitLenient takes the target apart as net/http does, and leaves it to
// net/url what to accept.
func (r *Reader) splitLenient(data []byte) *Error {
	raw, start := string(r.Target.Of(data)), int(r.Target.Start)
	tunnel := string(r.Method.Of(data)) == "CONNECT" && raw[0] != '/'
	if tunnel {
		raw = "http://" + raw
	}
	u, err := url.ParseRequestURI(raw)
	if err != nil || bytes.IndexByte(r.Target.Of(data), ' ') >= 0 {
		return ErrTarget
	}
	switch {
	case tunnel:
		r.split(data, start, true)
	case u.Scheme == "":
		r.split(data, start, false)
	default:
		start += len(u.Scheme) + len(":")
		if bytes.HasPrefix(data[start:r.Target.End], []byte("//")) {
			r.split(data, start+len("//"), true)
			break
		}
		r.split(data, start, false)
		if u.Path == "" {
			r.Path.End = r.Path.Start // opaque, as in mailto:x
		}
	}
	userinfo := bytes.LastIndexByte(r.authority.Of(data), '@') + 1
	r.authority.Start += uint32(userinfo)
	if string(r.authority.Of(data)) != u.Host {
		// Percent-encoded: a backend may compare it with or without decoding.
		return ErrAuthority
	}
	return nil
}

// split finds the authority, if there is one, path and query in the target
// from start on.
func (r *Reader) split(data []byte, start int, hasAuthority bool) {
	end := int(r.Target.End)
	if n := bytes.IndexByte(data[start:end], '?'); n >= 0 {
		r.Query.Start = uint32(start + n + 1)
		end = start + n
	}
	if hasAuthority {
		n := bytes.IndexByte(data[start:end], '/')
		if n < 0 {
			n = end - start
		}
		r.authority = span(start, start+n)
		start += n
	}
	r.Path = span(start, end)
}

// schemeLen returns the length of the scheme that target begins with, 0 if
// there is none (RFC 3986 section 3.1).
func schemeLen(target []byte) int {
	for i, c := range target {
		switch c = Lower(c); {
		case 'a' <= c && c <= 'z':
		case i > 0 && (isDigit(c) || c == '+' || c == '-' || c == '.'):
		case c == ':':
			return i
		default:
			return 0
		}
	}
	return 0
}

// checkPath refuses bytes and percent-encodings that a path cannot hold, and
// dot segments. Servers disagree on which of them to resolve, and when, so a
// path with a dot segment may name another resource behind a router than it
// named to the router. A segment ends at a slash, at an encoded slash or
// backslash, which some servers decode first, and for some at a semicolon
// ("/..;/").
func checkPath(path []byte) *Error {
	const notDots = 3
	dots := 0 // how many dots the segment consists of, or notDots
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case class[c]&plainByte != 0:
			dots = notDots
			continue
		case class[c]&pathByte == 0:
			return ErrPath
		}
		if c == '%' {
			var ok bool
			if c, ok = Unescape(path[i:]); !ok {
				return ErrPath
			}
			i += 2
		}
		switch c {
		case 0:
			return ErrPathNUL
		case '.':
			dots = min(dots+1, notDots)
		case '/', '\\', ';':
			if dots == 1 || dots == 2 {
				return ErrDotSegment
			}
			dots = notDots
			if c != ';' {
				dots = 0
			}
		default:
			dots = notDots
		}
	}
	if dots == 1 || dots == 2 {
		return ErrDotSegment
	}
	return nil
}
