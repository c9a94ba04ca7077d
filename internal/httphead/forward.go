package httphead

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"slices"
)

// Forward says how a request head is passed on to a server.
type Forward struct {
	// Persistent lets the server keep its connection for the client's next request, unless
	// the client's own connection ends with this one. Without it the server is asked to close.
	Persistent bool
	// Upgrades holds the protocols that may be upgraded to, in lower case. Others are
	// not asked for.
	Upgrades []string
	// KeepAliases passes on fields whose names hold anything but letters, digits and
	// hyphens. Servers that hand their fields to CGI or WSGI applications do not tell
	// such a name from the one with hyphens, so X_Forwarded_For or X!Forwarded!For
	// would be taken for the field that a proxy has set.
	KeepAliases bool
}

// Forwarded is a request head to pass on.
type Forwarded struct {
	Head []byte // the bytes received if nothing needs to be changed; appending to it copies
	// Upgrade is the protocol asked for, in lower case; empty if none is.
	Upgrade string
	// Key is the Sec-WebSocket-Key, if Upgrade is websocket.
	Key []byte
	// Close says that the client's connection ends with the response: the client has asked
	// for that, or speaks HTTP/1.0 (RFC 9112 section 9.3).
	Close bool
}

// Request returns the head that r has read from data as it is passed on: with
// "Connection: close", or "Connection: Upgrade" if an upgrade is asked for, or no Connection
// field if the server's connection persists, and without the fields that concern the client's connection alone (RFC 9110 section 7.6.1). A
// CONNECT request has no Connection field: what follows is the tunnel's. A target in
// absolute-form becomes one in origin-form, with its authority as the Host. All other lines
// are those of the client, except that a head which only a lenient reader accepts is
// written in the form that all readers accept. An error is an [*Error].
//
// A request with content asks for no upgrade: servers disagree about whether they read the
// content before the other protocol begins.
func (f *Forward) Request(r *Reader, data []byte) (Forwarded, error) {
	var out Forwarded
	options := connectionOptions(r.Fields, data)
	if err := options.check(data); err != nil {
		return out, err
	}
	authority := r.authority.Of(data)
	if !hostBytes(authority) { // net/url, and so a lenient reader, takes more in a URL
		return out, ErrAuthority
	}
	out.Close = r.Minor == 0 || options.has(data, "close")
	connect := string(r.Method.Of(data)) == "CONNECT"
	content := r.Chunked || r.ContentLength > 0
	if !connect && !content && r.Minor == 1 && options.has(data, "upgrade") {
		out.Upgrade, out.Key = f.upgrade(r, data, options)
	}

	head := make([]byte, 0, r.Len+len("Connection: Upgrade\r\nUpgrade: \r\n")+len(out.Upgrade))
	connection := "close"
	switch {
	case connect:
		connection = ""
	case out.Upgrade != "":
		connection = "Upgrade"
	case f.Persistent && !out.Close:
		connection = ""
	}
	var hasConnection, hasUpgrade, hasLength bool
	head = r.appendLine(head, data)
	if !r.hasField && len(authority) > 0 && (!connect || r.Minor == 1) {
		// The target in origin-form does not say it any more; or CONNECT, to a lenient
		// reader (RFC 9112 section 3.2).
		head = appendField(head, hostName, authority)
	}
	for i, field := range r.Fields {
		name, value, line := field.Name.Of(data), field.Value.Of(data), r.Line(i).Of(data)
		keep, rewrite := true, field.Folded || !bytes.HasSuffix(line, crlf)
		switch known(name) {
		case connectionField:
			// Once, and only in the words that are wanted.
			keep = !hasConnection && connection != "" && EqualFold(value, connection)
			hasConnection = hasConnection || keep
		case upgradeField:
			keep = !hasUpgrade && out.Upgrade != "" && EqualFold(value, out.Upgrade)
			hasUpgrade = hasUpgrade || keep
		case hopField:
			keep = false
		case lengthField:
			keep = !hasLength && !r.Chunked
			hasLength = true
		case codingField:
			keep = r.Chunked
		case hostField:
			if len(authority) > 0 && !EqualFold(value, authority) {
				value, rewrite = authority, true // RFC 9112 section 3.2.2
			}
		default:
			keep = !options.names(data, name) && (f.KeepAliases || !isAlias(name))
		}
		switch {
		case !keep:
		case rewrite:
			head = appendField(head, name, value)
		default:
			head = append(head, line...)
		}
	}
	if !hasUpgrade && out.Upgrade != "" {
		head = appendField(head, upgradeName, []byte(out.Upgrade))
	}
	if !hasConnection && connection != "" {
		head = appendField(head, connectionName, []byte(connection))
	}
	if head = append(head, crlf...); bytes.Equal(head, data[:r.Len]) {
		head = data[:r.Len]
	}
	out.Head = slices.Clip(head)
	return out, nil
}

// appendLine appends the request line with its target in origin-form, if that is in
// absolute-form, as a server without proxies before it gets it (RFC 9112 section 3.2.1).
// An OPTIONS request for a whole server is the exception (RFC 9112 section 3.2.4).
func (r *Reader) appendLine(head, data []byte) []byte {
	line := bytes.TrimRight(r.Line(-1).Of(data), "\r\n")
	target := r.Target.Of(data)
	if string(r.Method.Of(data)) == "CONNECT" || target[0] == '/' || string(target) == "*" || r.authority.empty() && r.Path.empty() {
		// The last is an opaque URI, as mailto:x, which a lenient reader accepts.
		return append(append(head, line...), crlf...)
	}
	head = append(head, data[:r.Target.Start]...)
	switch rest := data[r.Path.Start:r.Target.End]; {
	case len(rest) == 0 && string(r.Method.Of(data)) == "OPTIONS":
		head = append(head, '*')
	case len(rest) == 0 || rest[0] != '/':
		head = append(append(head, '/'), rest...)
	default:
		head = append(head, rest...)
	}
	return append(append(head, line[r.Target.End:]...), crlf...)
}

// Forward appends to dst the head of a response that r has read from data, as it is
// passed on to a client, without the fields that concern the server's connection alone.
// Only a 426 keeps its Upgrade field, which it must have (RFC 9110 section 15.5.22). What
// only tolerant readers accept is written in the form that all readers accept.
//
// If the client's connection is not kept, a final response (2xx to 5xx) gets
// "Connection: close". If it is, the version is HTTP/1.1 (RFC 9112 section 2.3): behind
// HTTP/1.0 a client would expect the end.
//
// 1xx and 204 lose the fields of the framing, which they must not have: some clients would
// wait for a body (RFC 9110 section 8.6, RFC 9112 section 6.1).
func (r *Response) Forward(dst, data []byte, keep bool) []byte {
	options := connectionOptions(r.Fields, data)
	version := len(dst) + len(responseVersion)
	dst = r.appendLine(dst, data)
	if keep {
		dst[version] = '1'
	}
	framed := r.Status >= 200 && r.Status != 204
	hasLength := false
	for i, field := range r.Fields {
		name := field.Name.Of(data)
		wanted := true
		switch known(name) {
		case connectionField, hopField:
			wanted = false
		case upgradeField:
			wanted = r.Status == 426
		case lengthField:
			wanted = framed && !hasLength && !r.Chunked
			hasLength = true
		case codingField:
			wanted = framed
		case otherField:
			wanted = !options.names(data, name) || endToEnd(name) || EqualFold(name, "Set-Cookie")
		}
		if wanted {
			dst = r.appendField(dst, data, i)
		}
	}
	switch {
	case r.Status < 200:
	case r.Status == 426 && keep:
		dst = append(dst, "Connection: Upgrade\r\n"...)
	case r.Status == 426:
		dst = append(dst, "Connection: close, Upgrade\r\n"...)
	case !keep:
		dst = append(dst, "Connection: close\r\n"...)
	}
	return append(dst, crlf...)
}

// ForwardTunnel appends to dst the head of a response that r has read from data and after
// which the connection is a tunnel, as it is passed on: with all its fields but those of
// the framing, which clients must ignore (RFC 9110 sections 8.6 and 9.3.6), and written as
// by Forward.
func (r *Response) ForwardTunnel(dst, data []byte) []byte {
	dst = r.appendLine(dst, data)
	for i, field := range r.Fields {
		switch known(field.Name.Of(data)) {
		case lengthField, codingField:
		default:
			dst = r.appendField(dst, data, i)
		}
	}
	return append(dst, crlf...)
}

// appendLine appends the status line, with one space before the status code and one after
// it (RFC 9112 section 4).
func (r *Response) appendLine(dst, data []byte) []byte {
	line := bytes.TrimRight(r.Line(-1).Of(data), "\r\n")
	code, end := int(r.head.status.Start), int(r.head.status.End)
	dst = append(append(dst, line[:statusStart]...), line[code:]...)
	if len(line) == end {
		dst = append(dst, ' ')
	}
	return append(dst, crlf...)
}

// appendField appends the i-th field.
func (r *Response) appendField(dst, data []byte, i int) []byte {
	if field := r.Fields[i]; field.Folded {
		return appendField(dst, field.Name.Of(data), field.Value.Of(data))
	}
	return append(append(dst, bytes.TrimRight(r.Line(i).Of(data), "\r\n")...), crlf...)
}

// Persistent reports whether the server that sent the response, which r has read from data,
// keeps its connection after it (RFC 9112 section 9.3).
func (r *Response) Persistent(data []byte) bool {
	return r.Minor > 0 && !connectionOptions(r.Fields, data).has(data, "close")
}

// Switches reports whether r, read from data, is the answer that ends HTTP on a
// connection on which f was sent: 101 for the one protocol that was asked for, and for
// a WebSocket with the proof that the server has read its key (RFC 9110 section 7.8, RFC
// 6455 section 4.1).
func (f *Forwarded) Switches(r *Response, data []byte) bool {
	protocol, n := r.Lookup(data, "Upgrade")
	if f.Upgrade == "" || r.Status != 101 || r.Minor == 0 || n != 1 || !EqualFold(protocol, f.Upgrade) ||
		!connectionOptions(r.Fields, data).has(data, "upgrade") {
		return false
	}
	if f.Upgrade != "websocket" {
		return true
	}
	accept, n := r.Lookup(data, "Sec-WebSocket-Accept")
	sum := sha1.Sum(append(bytes.Clone(f.Key), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return n == 1 && string(accept) == base64.StdEncoding.EncodeToString(sum[:])
}

// WithClose returns the head that r has read from data with the connection option
// close, unless it has that, or asks for an upgrade. Appending to it copies.
func (r *Reader) WithClose(data []byte) []byte {
	options := connectionOptions(r.Fields, data)
	if options.has(data, "close") || options.has(data, "upgrade") {
		return data[:r.Len:r.Len]
	}
	head := append(make([]byte, 0, r.Len+len("Connection: close\r\n")), data[:r.start]...)
	head = appendField(head, connectionName, []byte("close"))
	return slices.Clip(append(head, crlf...))
}

var (
	crlf           = []byte("\r\n")
	connectionName = []byte("Connection")
	upgradeName    = []byte("Upgrade")
	hostName       = []byte("Host")
)

// appendField appends a field line. A value on several lines (obs-fold) becomes one
// line (RFC 9112 section 5.2).
func appendField(head, name, value []byte) []byte {
	head = append(append(head, name...), ": "...)
	for first := true; len(value) > 0 || first; first = false {
		line := value
		if i := bytes.IndexByte(value, '\n'); i >= 0 {
			line, value = value[:i], value[i+1:]
		} else {
			value = nil
		}
		if line = bytes.Trim(line, " \t\r"); len(line) > 0 && !first {
			head = append(head, ' ')
		}
		head = append(head, line...)
	}
	return append(head, crlf...)
}

// upgrade returns the first protocol that the client asks for and may be upgraded to. A
// WebSocket needs a key, by which its answer is known to be one (RFC 6455 section 4.1). Its
// method need not be GET: gateways for Remote Desktop use RDG_OUT_DATA ([MS-TSGU] section
// 3.1.5.1), and whether the server accepts it is its own to say.
func (f *Forward) upgrade(r *Reader, data []byte, options options) (protocol string, key []byte) {
	key, hasKey := webSocketKey(r, data, options)
	for field := range r.Named(data, "Upgrade") {
		for list := field.Value; !list.empty(); {
			var element Span
			element, list = cutElement(data, list)
			i := slices.IndexFunc(f.Upgrades, func(allowed string) bool { return EqualFold(element.Of(data), allowed) })
			switch {
			case i < 0:
			case f.Upgrades[i] != "websocket":
				return f.Upgrades[i], nil
			case hasKey:
				return "websocket", key
			}
		}
	}
	return "", nil
}

// webSocketKey returns the key of a WebSocket handshake. One that Connection names does
// not go up, so there is none.
func webSocketKey(r *Reader, data []byte, options options) (key []byte, ok bool) {
	key, n := r.Lookup(data, "Sec-WebSocket-Key")
	var nonce [18]byte
	if n != 1 || options.has(data, "Sec-WebSocket-Key") || len(key) != base64.StdEncoding.EncodedLen(16) {
		return nil, false
	}
	length, err := base64.StdEncoding.Decode(nonce[:], key)
	return key, err == nil && length == 16
}

// options are the elements of the Connection fields of a head.
type options []Span

// Nominated returns the first of the names that a Connection field of the head that r
// has read from data holds, or "". Recipients remove a field of that name (RFC 9110
// section 7.6.1). Letter case does not matter.
func (r *Reader) Nominated(data []byte, names []string) string {
	options := connectionOptions(r.Fields, data)
	for _, name := range names {
		if options.has(data, name) {
			return name
		}
	}
	return ""
}

// connectionOptions returns the connection options of a head. It is inlined, so that room for
// as many as most heads have is on the stack of the caller.
func connectionOptions(fields []Field, data []byte) options {
	return make(options, 0, 4).add(fields, data)
}

// add appends those of the Connection fields.
func (o options) add(fields []Field, data []byte) options {
	for _, field := range fields {
		if !EqualFold(field.Name.Of(data), "Connection") {
			continue
		}
		for list := field.Value; !list.empty(); {
			var element Span
			if element, list = cutElement(data, list); !element.empty() { // RFC 9110 section 5.6.1.2
				o = append(o, element)
			}
		}
	}
	return o
}

// check returns what is wrong with the options of a request.
func (o options) check(data []byte) error {
	for _, element := range o {
		switch option := element.Of(data); {
		case !all(option, tokenByte):
			return ErrConnection
		case endToEnd(option):
			return ErrNominated
		}
	}
	return nil
}

// has reports whether the option is among them.
func (o options) has(data []byte, option string) bool {
	return slices.ContainsFunc(o, func(s Span) bool { return EqualFold(s.Of(data), option) })
}

// names reports whether one of them is the name of that field.
func (o options) names(data, name []byte) bool {
	return slices.ContainsFunc(o, func(s Span) bool { return EqualFold(s.Of(data), name) })
}

// cutElement returns the first element of a list (RFC 9110 section 5.6.1), and what
// follows it.
func cutElement(data []byte, list Span) (element, rest Span) {
	const space = " \t\r\n" // the line breaks are those of obs-fold
	end := int(list.End)
	rest = span(end, end)
	if i := bytes.IndexByte(list.Of(data), ','); i >= 0 {
		end = int(list.Start) + i
		rest.Start = uint32(end + 1)
	}
	text := bytes.TrimLeft(data[list.Start:end], space)
	start := end - len(text)
	return span(start, start+len(bytes.TrimRight(text, space))), rest
}

// endToEnd reports whether the field of that name says where a request goes, where it
// ends, whose it is, or where it came from. To have a proxy remove such a field is an
// attack on who is behind it.
func endToEnd(name []byte) bool {
	const forwardedFor = "X-Forwarded-"
	if len(name) > len(forwardedFor) && EqualFold(name[:len(forwardedFor)], forwardedFor) {
		return true
	}
	for _, field := range [...]string{"Host", "Content-Length", "Transfer-Encoding", "Authorization", "Cookie", "Forwarded"} {
		if EqualFold(name, field) {
			return true
		}
	}
	return false
}

// kind is what a field means to those who pass a head on.
type kind uint8

const (
	otherField      kind = iota
	connectionField      // Connection
	upgradeField         // Upgrade
	hopField             // another one that concerns one connection alone
	lengthField          // Content-Length
	codingField          // Transfer-Encoding
	hostField            // Host
)

var kinds = []struct {
	name string
	kind kind
}{
	{"Connection", connectionField},
	{"Upgrade", upgradeField},
	{"Keep-Alive", hopField},
	{"Proxy-Connection", hopField},
	{"TE", hopField},
	{"HTTP2-Settings", hopField}, // RFC 7540 section 3.2.1
	{"Content-Length", lengthField},
	{"Transfer-Encoding", codingField},
	{"Host", hostField},
}

// known returns the kind of the field of that name.
func known(name []byte) kind {
	for _, k := range kinds {
		if EqualFold(name, k.name) {
			return k.kind
		}
	}
	return otherField
}
