package headmatch

import (
	"slices"
	"strings"
)

// Method matches requests with one of the methods.
func Method(methods []string) Matcher {
	return func(h *Head) Answer {
		return answer(slices.Contains(methods, h.text(h.Reader.Method)))
	}
}

// Protocol matches by the scheme (http, https), by the version of HTTP (http/1.1), by the
// lowest version (http/1.0+), or grpc.
func Protocol(name string) Matcher {
	switch name {
	case "http":
		return func(h *Head) Answer { return answer(!h.TLS) }
	case "https":
		return func(h *Head) Answer { return answer(h.TLS) }
	case "http/1.0":
		return func(h *Head) Answer { return answer(h.Reader.Minor == 0) }
	case "http/1.1", "http/1.1+":
		return func(h *Head) Answer { return answer(h.Reader.Minor == 1) }
	case "http/1.0+":
		return func(*Head) Answer { return Yes }
	case "grpc":
		return grpc
	default:
		// HTTP/2 and 3, and names that the HTTP app does not know.
		return func(*Head) Answer { return No }
	}
}

// grpc matches by the first Content-Type field.
func grpc(h *Head) Answer {
	for field := range h.Reader.Named(h.Data, "Content-Type") {
		if field.Folded {
			return Unsure
		}
		return answer(strings.HasPrefix(h.text(field.Value), "application/grpc"))
	}
	return No
}
