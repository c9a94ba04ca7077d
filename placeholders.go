package streamprox

import (
	"bytes"
	"net"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// The placeholders of an inspected connection. Those of the request have the prefix
// under which caddy-l4's http matcher sets its host.
const (
	inspectReplPrefix = layer4.AppReplPrefix + "inspect."
	inspectIDReplKey  = inspectReplPrefix + "id"
	httpReplPrefix    = stockHTTPReplPrefix
	headerReplPrefix  = httpReplPrefix + "header."
)

// placeholder returns the value of a placeholder, and whether it is one of those that
// an inspection serves.
func (in *inspection) placeholder(key string) (value any, known bool) {
	if name, ok := strings.CutPrefix(key, inspectReplPrefix); ok {
		return in.ownPlaceholder(name)
	}
	if in.Outcome() != opening.HTTP || !strings.HasPrefix(key, httpReplPrefix) {
		return nil, false
	}
	if name, ok := strings.CutPrefix(key, headerReplPrefix); ok {
		return fieldValues(in.Data(), &in.Head, name, ","), true
	}
	switch key[len(httpReplPrefix):] {
	case "method":
		return in.method(), true
	case "host":
		return string(in.Head.Host.Of(in.Data())), true
	case "hostname":
		name, _ := splitHost(string(in.Head.Host.Of(in.Data())))
		return name, true
	case "port":
		if _, port := splitHost(string(in.Head.Host.Of(in.Data()))); port != "" {
			return port, true
		}
		if in.tlsTerminated() {
			return "443", true
		}
		return "80", true
	case "path":
		path := string(in.Head.Path.Of(in.Data()))
		if decoded, err := url.PathUnescape(path); err == nil {
			path = decoded
		}
		return path, true
	case "query":
		return string(in.Head.Query.Of(in.Data())), true
	case "uri":
		return string(in.Head.Target.Of(in.Data())), true
	case "version":
		if in.Head.Minor == 0 {
			return "HTTP/1.0", true
		}
		return "HTTP/1.1", true
	default:
		return nil, false
	}
}

// The placeholders of a connection, beside layer4.ConnWrapTimeReplKey.
const (
	remoteAddrReplKey = layer4.AppReplPrefix + "conn.remote_addr"
	localAddrReplKey  = layer4.AppReplPrefix + "conn.local_addr"
	tlsReplPrefix     = layer4.AppReplPrefix + "tls."
	envReplPrefix     = "env."
)

// knownAhead reports whether all placeholders in value are known while a request is only
// looked at: they depend on its head, or are the same for all requests of a connection.
func knownAhead(value string) bool {
	known := true
	repl := caddy.NewEmptyReplacer()
	repl.Map(func(key string) (any, bool) {
		switch {
		case strings.HasPrefix(key, httpReplPrefix), strings.HasPrefix(key, tlsReplPrefix), strings.HasPrefix(key, envReplPrefix):
		case key == remoteAddrReplKey, key == localAddrReplKey, key == layer4.ConnWrapTimeReplKey, key == inspectIDReplKey:
		default:
			known = false
		}
		return nil, true
	})
	repl.ReplaceAll(value, "")
	return known
}

// replacerAhead returns what replaces those placeholders as that of the stream would.
func (in *inspection) replacerAhead() *caddy.Replacer {
	repl, ofConnection := caddy.NewEmptyReplacer(), in.origin.placeholders()
	repl.Map(func(key string) (any, bool) {
		switch {
		case strings.HasPrefix(key, httpReplPrefix), key == inspectIDReplKey:
			return in.placeholder(key)
		case key == remoteAddrReplKey:
			return in.client().RemoteAddr(), true
		case key == localAddrReplKey:
			return in.client().LocalAddr(), true
		default:
			return ofConnection(key)
		}
	})
	return repl
}

// splitHost splits a Host field, or the host of a target. The name has no brackets; a
// port that is not there is "".
func splitHost(host string) (name, port string) {
	if name, port, err := net.SplitHostPort(host); err == nil {
		return name, port
	}
	if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
		return strings.TrimSuffix(inner, "]"), ""
	}
	return host, ""
}

// ownPlaceholder returns what the placeholder {l4.inspect.<name>} stands for.
func (in *inspection) ownPlaceholder(name string) (value any, known bool) {
	switch name {
	case "outcome":
		return in.Outcome().String(), true
	case "bytes":
		return len(in.Data()) - in.added, true
	case "duration":
		return in.took, true
	case "route":
		if !in.decided || in.route < 0 {
			return "", true
		}
		return in.inspect.routeName(in.route), true
	case "id":
		return in.turn.accountID().String(), true
	default:
		return nil, false
	}
}

// fieldValues returns the values of all the fields of that name. Letter case does not
// matter.
func fieldValues(data []byte, head *httphead.Reader, name, separator string) string {
	var values []string
	for f := range head.Named(data, name) {
		values = append(values, fieldValue(data, f))
	}
	return strings.Join(values, separator)
}

// fieldValue returns the value of a field, as net/http reads it: with one space for
// each line break of obs-fold (RFC 9112 section 5.2).
func fieldValue(data []byte, f httphead.Field) string {
	value := f.Value.Of(data)
	if !f.Folded {
		return string(value)
	}
	lines := bytes.Split(value, []byte("\n"))
	for i, line := range lines {
		lines[i] = bytes.Trim(line, " \t\r")
	}
	return string(bytes.Join(lines, []byte(" ")))
}
