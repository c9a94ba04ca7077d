package streamprox

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// RewriteHead edits the head of the HTTP request that inspect has read, before it is
// replayed. What it does not edit stays byte for byte as it was received, and so does
// what follows the head. Handlers after it, and the matchers of their routes, see the
// edited request.
//
// All values take placeholders, which stand for the request as it was received. If one
// brings a line break or NUL into the head, or makes it one that inspect would not
// accept, the request is answered with 400. A stream that is not HTTP is closed.
type RewriteHead struct {
	// The new value of Host, and of the host in a target that has one. Default: as
	// received.
	Host string `json:"host,omitempty"`

	// Edits of other header fields.
	Header *HeaderEdits `json:"header,omitempty"`

	// A prefix, of whole segments, to take from the path. It is compared without regard
	// to letter case and, where it has no percent-encoding itself, with the decoded
	// path. A path without the prefix stays as it is.
	StripPrefix string `json:"strip_prefix,omitempty"`

	// Tell the server where the request came from, in X-Forwarded-For, -Host and
	// -Proto. Default: these fields are passed on as the client sent them.
	Forwarded *ForwardedFields `json:"forwarded,omitempty"`

	set, add []fieldEdit
	written  []string // the names of all fields that get a value here
	replaces bool     // values hold placeholders, or braces …
	ahead    bool     // … all of which a look at the head can replace: see lookPast
	trusted  []netip.Prefix

	closing limitedLog // of streams without a head
	logger  *zap.Logger
}

// HeaderEdits are edits of header fields, made in this order: delete, set, add. The
// letter case of names does not matter.
//
// Delete and set concern a field in all the spellings that a server of CGI or WSGI
// applications does not tell apart, in which another character than a letter or a digit
// stands for a hyphen: with X-User also X_User and X!User.
type HeaderEdits struct {
	// The fields to remove.
	Delete []string `json:"delete,omitempty"`

	// Fields that replace those of the same name, at the place of the first one that is
	// written as here, else of the first one.
	Set http.Header `json:"set,omitempty"`

	// Fields to add to those that are there.
	Add http.Header `json:"add,omitempty"`
}

// ForwardedFields sets X-Forwarded-For to the address of the peer, X-Forwarded-Host to
// the host that the request asked for, and X-Forwarded-Proto to `https` if TLS was
// terminated on the way, else `http`. What the client itself sent in these fields, in
// Forwarded and X-Real-IP is removed, also under names in which another character than a
// letter or a digit stands for a hyphen.
type ForwardedFields struct {
	// The networks, as CIDR, or addresses of proxies that are believed: theirs is the
	// beginning of X-Forwarded-For, and X-Forwarded-Host and -Proto stay if they have
	// sent them. Default: none.
	Trusted []string `json:"trusted,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*RewriteHead) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.handlers.rewrite_head",
		New: func() caddy.Module { return new(RewriteHead) },
	}
}

// Provision checks the edits.
func (h *RewriteHead) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := checkConfiguration(ctx); err != nil {
		return err
	}
	if h.empty() {
		return errEditsNothing
	}
	if h.Host != "" {
		if err := checkHost(h.Host); err != nil {
			return fmt.Errorf("host: %w", err)
		}
	}
	if h.StripPrefix != "" {
		if err := checkPrefix(h.StripPrefix); err != nil {
			return fmt.Errorf("strip_prefix: %w", err)
		}
	}
	if h.Header != nil {
		if err := h.provisionHeader(); err != nil {
			return fmt.Errorf("header: %w", err)
		}
	}
	values := []string{h.Host, h.StripPrefix}
	for _, edits := range [...][]fieldEdit{h.set, h.add} {
		for _, edit := range edits {
			h.written = append(h.written, edit.name)
			values = append(values, edit.values...)
		}
	}
	h.replaces = slices.ContainsFunc(values, func(value string) bool { return strings.ContainsAny(value, "{}") })
	h.ahead = !slices.ContainsFunc(values, func(value string) bool { return !knownAhead(value) })
	if h.Forwarded != nil {
		h.written = append(h.written, forwardedFor, forwardedHost, forwardedProto)
		for _, network := range h.Forwarded.Trusted {
			prefix, err := caddyhttp.CIDRExpressionToPrefix(network)
			if err != nil {
				return fmt.Errorf("forwarded: trusted: %w", err)
			}
			h.trusted = append(h.trusted, prefix)
		}
	}
	return nil
}

func (h *RewriteHead) provisionHeader() error {
	deleted := make(map[string]bool)
	for _, name := range h.Header.Delete {
		if err := checkDeletedName(name); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
		if deleted[strings.ToLower(name)] {
			return fmt.Errorf("delete: %s is there twice", name)
		}
		deleted[strings.ToLower(name)] = true
	}
	var err error
	// Of two that are one to some servers, the second would remove the first.
	if h.set, err = fieldEdits(h.Header.Set, checkWrittenName, httphead.Unaliased); err != nil {
		return fmt.Errorf("set: %w", err)
	}
	if h.add, err = fieldEdits(h.Header.Add, checkWrittenName, strings.ToLower); err != nil {
		return fmt.Errorf("add: %w", err)
	}
	return nil
}

var errEditsNothing = errors.New("rewrite_head edits nothing: give it host, header, strip_prefix or forwarded")

// empty reports whether there is nothing to edit.
func (h *RewriteHead) empty() bool {
	return h.Host == "" && h.StripPrefix == "" && h.Forwarded == nil &&
		(h.Header == nil || len(h.Header.Delete)+len(h.Header.Set)+len(h.Header.Add) == 0)
}

// Handle implements layer4.NextHandler. It returns when next has, or after a stream
// that it cannot edit, which caddy-l4 then closes.
func (h *RewriteHead) Handle(cx *layer4.Connection, next layer4.Handler) error {
	in := inspectionOf(cx)
	if in == nil || !in.hasHead() {
		h.closing.refusal(h.logger, "closing a stream on which inspect has read no request head for rewrite_head to edit")
		return nil
	}
	edited, conn, err := h.rewrite(cx, in)
	if err == nil {
		return next.Handle(edited.stream())
	}
	h.logger.Debug("request head refused after its edits", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
	refusedRewrite.count()
	in.respond(conn, statusOnly(http.StatusBadRequest))
	return nil
}

// rewrite drains cx and returns the inspection of the edited request, and the connection
// beneath. An error says why the request cannot be edited so.
func (h *RewriteHead) rewrite(cx *layer4.Connection, in *inspection) (edited *inspection, conn net.Conn, err error) {
	head, err := h.edit(in, cx.Replacer())
	pending, conn := drain(cx)
	if err != nil {
		return nil, conn, err
	}
	// Matchers since inspect may have read on: pending is what it saw and more.
	edited, err = in.rewritten(&origin{parent: cx}, conn, append(head, pending[in.Head.Len:]...))
	return edited, conn, err
}

// looksPast implements headEditor.
func (h *RewriteHead) looksPast() bool { return h.ahead }

// lookPast implements headEditor.
func (h *RewriteHead) lookPast(in *inspection) (*inspection, error) {
	if !in.hasHead() {
		return nil, errNoHead
	}
	var repl *caddy.Replacer
	if h.replaces {
		repl = in.replacerAhead()
	}
	head, err := h.edit(in, repl)
	if err != nil {
		return nil, err
	}
	return in.rewritten(in.origin, nil, head)
}

// hasHead reports whether a whole request head has been read.
func (in *inspection) hasHead() bool {
	return in.Outcome() == opening.HTTP && !in.Head.Options().LineOnly
}

var errNoHead = errors.New("no request head")

// rewritten returns the inspection of an edited request: data holds its head and what
// follows, and belongs to it from now on. Its stream goes on from that origin, whose bytes
// have been drained, with those of conn; conn is nil while the request is only looked at. An
// error says why inspect would not have accepted the head.
func (in *inspection) rewritten(from *origin, conn net.Conn, data []byte) (*inspection, error) {
	edited := inspections.Get().(*inspection)
	edited.added = in.added + len(data) - len(in.Data())
	edited.inspect, edited.origin = in.inspect, from
	edited.conn, edited.source = conn, conn
	edited.started, edited.took = in.started, in.took
	edited.decided, edited.route = in.decided, in.route
	edited.turn = in.turn
	edited.Begin(opening.Limits{Bytes: len(data)}, in.Head.Options(), in.started)
	edited.First(data, in.started)
	if edited.Outcome() == opening.HTTP {
		return edited, nil
	}
	err := cmp.Or(edited.Head.Err(), errNoHead)
	edited.forget()
	return nil, err
}

// headLine is a line of a head. A line of a field has its name.
type headLine struct {
	name []byte
	text []byte // with its line end
}

// headLines are the field lines of a head while they are edited.
type headLines []headLine

// edit returns the edited head, in memory of its own. repl is nil if no value has
// placeholders. An error names the value that would break the head.
func (h *RewriteHead) edit(in *inspection, repl *caddy.Replacer) ([]byte, error) {
	// Servers rely on what is written here because the client cannot set it. It must not
	// be able to have the next recipient remove it either.
	if name := in.Head.Nominated(in.Data(), h.written); name != "" {
		return nil, fmt.Errorf("the client's Connection field names %s", name)
	}
	values := valueReplacer{repl: repl}
	line := in.Head.Line(-1).Of(in.Data())
	lines := make(headLines, 0, len(in.Head.Fields)+len(h.written))
	end := in.Head.Line(-1).End
	for i, f := range in.Head.Fields {
		span := in.Head.Line(i)
		lines = append(lines, headLine{f.Name.Of(in.Data()), span.Of(in.Data())})
		end = span.End
	}

	if h.Forwarded != nil {
		lines = h.forward(lines, in)
	}
	host := values.replace("host", h.Host)
	if h.Host != "" {
		lines = lines.set("Host", host)
	}
	if h.Host != "" || h.StripPrefix != "" {
		line = editedLine(in, host, values.replace("strip_prefix", h.StripPrefix))
	}
	if h.Header != nil {
		for _, name := range h.Header.Delete {
			lines = lines.delete(name)
		}
	}
	for _, edit := range h.set {
		lines = lines.set(edit.name, values.all(edit)...)
	}
	for _, edit := range h.add {
		lines = lines.add(edit.name, values.all(edit)...)
	}
	if values.err != nil {
		return nil, values.err
	}

	size := len(line) + in.Head.Len - int(end)
	for _, l := range lines {
		size += len(l.text)
	}
	head := append(make([]byte, 0, size), line...)
	for _, l := range lines {
		head = append(head, l.text...)
	}
	return append(head, in.Data()[end:in.Head.Len]...), nil
}

// editedLine returns the request line with another host in the target, if that has one,
// and without the prefix of its path.
func editedLine(in *inspection, host, prefix string) []byte {
	head, data := &in.Head, in.Data()
	line := head.Line(-1).Of(data)
	edited := make([]byte, 0, len(line)+len(host)+1)
	from := uint32(0)
	if inTarget := head.Host.Start >= head.Target.Start && head.Host.End <= head.Target.End; host != "" && inTarget {
		edited = append(edited, data[:head.Host.Start]...)
		edited = append(edited, host...)
		from = head.Host.End
	}
	if path := head.Path.Of(data); prefix != "" && len(path) > 0 {
		edited = append(edited, data[from:head.Path.Start]...)
		edited = append(edited, stripPrefix(string(path), prefix)...)
		from = head.Path.End
	}
	return append(edited, line[from:]...)
}

// stripPrefix returns path without a prefix of whole segments and with one slash at its
// beginning, or as it is if it does not have the prefix. Bytes are compared as Caddy's
// own strip_prefix compares them: without regard to letter case, and decoded where the
// prefix has no percent-encoding.
func stripPrefix(path, prefix string) string {
	prefix = strings.TrimRight(prefix, "/")
	i := 0
	for j := range len(prefix) {
		if i == len(path) {
			return path
		}
		c, n := path[i], 1
		if decoded, ok := httphead.Unescape(path[i:]); ok && !isEscape(prefix[j:]) {
			c, n = decoded, len("%00")
		}
		if httphead.Lower(c) != httphead.Lower(prefix[j]) {
			return path
		}
		i += n
	}
	rest := path[i:]
	if prefix == "" || rest != "" && rest[0] != '/' {
		return path
	}
	return "/" + strings.TrimLeft(rest, "/")
}

// isEscape reports whether s begins with a percent-encoding.
func isEscape(s string) bool {
	_, ok := httphead.Unescape(s)
	return ok
}

// The fields of ForwardedFields.
const (
	forwardedFor   = "X-Forwarded-For"
	forwardedHost  = "X-Forwarded-Host"
	forwardedProto = "X-Forwarded-Proto"
)

// clientsOwn are the fields in which a client itself could say where it came from.
var clientsOwn = []string{forwardedFor, forwardedHost, forwardedProto, "Forwarded", "X-Real-IP"}

// forward sets the fields that tell where a request came from.
func (h *RewriteHead) forward(lines headLines, in *inspection) headLines {
	peer, hasPeer := peerAddress(in.client().RemoteAddr())
	trusted := hasPeer && slices.ContainsFunc(h.trusted, func(p netip.Prefix) bool { return p.Contains(peer) })

	var chain []string
	if trusted {
		for f := range in.Head.Named(in.Data(), forwardedFor) {
			if value := fieldValue(in.Data(), f); value != "" {
				chain = append(chain, value)
			}
		}
	}
	lines = slices.DeleteFunc(lines, func(l headLine) bool {
		if trusted && (httphead.EqualFold(l.name, forwardedHost) || httphead.EqualFold(l.name, forwardedProto)) {
			return false
		}
		return slices.ContainsFunc(clientsOwn, func(name string) bool { return httphead.SameVariable(l.name, name) })
	})

	if hasPeer {
		lines = lines.add(forwardedFor, strings.Join(append(chain, peer.String()), ", "))
	}
	if host := in.Head.Host.Of(in.Data()); len(host) > 0 && !lines.has(forwardedHost) {
		lines = lines.add(forwardedHost, string(host))
	}
	if !lines.has(forwardedProto) {
		proto := "http"
		if in.tlsTerminated() {
			proto = "https"
		}
		lines = lines.add(forwardedProto, proto)
	}
	return lines
}

// peerAddress returns the IP address of a peer. One on a Unix socket has none.
func peerAddress(peer net.Addr) (netip.Addr, bool) {
	if peer == nil {
		return netip.Addr{}, false
	}
	addrPort, err := netip.ParseAddrPort(peer.String())
	return addrPort.Addr().Unmap().WithZone(""), err == nil
}

// is reports whether the line is of the field of that name, or of an alias of it. A field
// that must stay is not edited under the name of an alias.
func (l headLine) is(name string) bool {
	return httphead.EqualFold(l.name, name) ||
		httphead.SameVariable(l.name, name) && untouchable[strings.ToLower(string(l.name))] == ""
}

// index returns the index of the first field written with that name, or -1.
func (l headLines) index(name string) int {
	return slices.IndexFunc(l, func(line headLine) bool { return httphead.EqualFold(line.name, name) })
}

func (l headLines) has(name string) bool { return l.index(name) >= 0 }

// delete removes the fields of that name and its aliases.
func (l headLines) delete(name string) headLines {
	return slices.DeleteFunc(l, func(line headLine) bool { return line.is(name) })
}

// set puts the values in the place of the first field of that name, else of the first
// alias of it, and removes the others, or adds them at the end.
func (l headLines) set(name string, values ...string) headLines {
	place := l.index(name)
	if place < 0 {
		place = slices.IndexFunc(l, func(line headLine) bool { return line.is(name) })
	}
	if place < 0 {
		return l.add(name, values...)
	}
	rest := slices.Clone(l[place:]).delete(name)
	return append(l[:place].delete(name).add(name, values...), rest...)
}

func (l headLines) add(name string, values ...string) headLines {
	for _, value := range values {
		l = append(l, headLine{name: []byte(name), text: []byte(name + ": " + value + "\r\n")})
	}
	return l
}

// checkHost returns an error for a host that no inspection would accept.
func checkHost(host string) error {
	if dynamic(host) && !strings.ContainsAny(host, lineBreaks) {
		return nil
	}
	var head httphead.Reader
	head.Reset(httphead.Options{Lenient: true})
	request := []byte("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
	if head.Read(request) != httphead.HTTP || len(head.Fields) != 1 || host == "" {
		return fmt.Errorf("%q is no host, as in echo.example.org or 10.0.0.5:8080", host)
	}
	return nil
}

// checkPrefix returns an error for a prefix that is not one of segments.
func checkPrefix(prefix string) error {
	switch {
	case prefix == "" || prefix[0] != '/':
		return fmt.Errorf("%q does not begin with a slash, as in /echo", prefix)
	case strings.Trim(prefix, "/") == "":
		return fmt.Errorf("%q names no segment, as in /echo", prefix)
	case strings.ContainsAny(prefix, lineBreaks):
		return fmt.Errorf("%q holds what no path can", prefix)
	default:
		return nil
	}
}

// checkWrittenName is checkFieldName for a field that is set or added: an alias counts
// as what it stands for.
func checkWrittenName(name string) error { return checkFieldName(name, httphead.Unaliased(name)) }

// checkDeletedName is checkFieldName for a field that is removed. Caddy's header
// directive takes wildcards there; taken as a name it would remove nothing.
func checkDeletedName(name string) error {
	if strings.Contains(name, "*") {
		return fmt.Errorf("%q: there are no wildcards; name each field", name)
	}
	return checkFieldName(name, strings.ToLower(name))
}

// Interface guards
var (
	_ caddy.Provisioner     = (*RewriteHead)(nil)
	_ caddyfile.Unmarshaler = (*RewriteHead)(nil)
	_ headEditor            = (*RewriteHead)(nil)
	_ layer4.NextHandler    = (*RewriteHead)(nil)
)
