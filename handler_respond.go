package streamprox

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// maxRespondBody bounds the content of http_respond, in bytes: it is written within
// answerTimeout.
const maxRespondBody = 64 << 10

// HTTPRespond answers the HTTP/1 request that inspect has read, and closes the
// connection after it. The values of fields and the body take placeholders. If one
// brings into a field what no field can hold, the answer is 400. A stream that is not
// HTTP is closed.
type HTTPRespond struct {
	// The status of the response, from 200 to 599.
	Status int `json:"status,omitempty"`

	// The content of the response, up to 64 KiB. Default: none.
	Body string `json:"body,omitempty"`

	// Fields of the response. Default: Date and, with content, Content-Length and the
	// Content-Type `text/plain; charset=utf-8`.
	Headers http.Header `json:"headers,omitempty"`

	fields  []fieldEdit
	closing limitedLog // of streams without a head
	logger  *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*HTTPRespond) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.handlers.http_respond",
		New: func() caddy.Module { return new(HTTPRespond) },
	}
}

// Provision checks the response.
func (h *HTTPRespond) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := checkConfiguration(ctx); err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return err
	}
	for name, values := range h.Headers {
		if len(values) == 0 {
			return fmt.Errorf("headers: %s has no value", name)
		}
	}
	var err error
	if h.fields, err = fieldEdits(h.Headers, checkAnsweredName, strings.ToLower); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	for _, field := range h.fields {
		if len(field.values) > 1 && isSingle(field.name) {
			return fmt.Errorf("headers: %s has one value, got %d", field.name, len(field.values))
		}
	}
	return nil
}

// check returns an error for a status or a body that cannot be.
func (h *HTTPRespond) check() error {
	switch {
	case h.Status < 200 || h.Status > 599:
		return fmt.Errorf("status: %d is not between 200 and 599", h.Status)
	case h.Body != "" && !hasContent(h.Status):
		return fmt.Errorf("a response with status %d has no body", h.Status)
	case len(h.Body) > maxRespondBody:
		return fmt.Errorf("the body has %d bytes, more than %d; use http_app for a site", len(h.Body), maxRespondBody)
	}
	return nil
}

// Handle implements layer4.NextHandler. It returns when the request has been answered,
// and after a stream that is none, which caddy-l4 then closes.
func (h *HTTPRespond) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	in := inspectionOf(cx)
	if in == nil {
		h.closing.refusal(h.logger, "closing a stream on which inspect has read no request for http_respond to answer")
		return nil
	}
	if in.Outcome() != opening.HTTP {
		h.logger.Debug("closing a stream that is no request", zap.Stringer("remote", cx.RemoteAddr()), zap.Stringer("outcome", in.Outcome()))
		return nil
	}
	r, err := h.responseTo(in, cx.Replacer())
	if err != nil {
		h.logger.Debug("request would break its response", zap.Stringer("remote", cx.RemoteAddr()), zap.Error(err))
	}
	_, conn := drain(cx)
	in.turn.decidedFor(h.whereTo())
	in.turn.record.Change(func(s *account.Summary) { s.Destination = toRespond })
	in.respond(conn, r)
	return nil
}

// responseTo returns the response to the request. An error says why that is not the one
// which is configured.
func (h *HTTPRespond) responseTo(in *inspection, repl *caddy.Replacer) (response, error) {
	r, err := h.response(repl)
	switch {
	case err != nil:
		r = statusOnly(http.StatusBadRequest)
	case in.isConnect() && r.status < 300:
		r = statusOnly(http.StatusNotImplemented) // the client would take what follows for a tunnel
	}
	return r, err
}

// response returns the response for the connection with these placeholders. An error
// names the field that would break it.
func (h *HTTPRespond) response(repl *caddy.Replacer) (response, error) {
	// What is no placeholder stays in the body: that may be JSON, or a style sheet.
	r := response{status: h.Status, content: repl.ReplaceKnown(h.Body, "")}
	values := valueReplacer{repl: repl}
	for _, field := range h.fields {
		expanded := fieldEdit{field.name, values.all(field)}
		for _, value := range expanded.values {
			if err := checkFieldValue(value); err != nil {
				return r, fmt.Errorf("%s: %w", field.name, err)
			}
		}
		r.fields = append(r.fields, expanded)
	}
	return r, values.err
}

// checkAnsweredName returns an error for what is no field name or a field that is not
// for a configuration to set in a response.
func checkAnsweredName(name string) error {
	if strings.HasPrefix(name, "+") || strings.HasPrefix(name, "-") {
		return fmt.Errorf("%q: a field is added as it is, without a sign; for a second value write it twice", name)
	}
	switch why := untouchable[httphead.Unaliased(name)]; why {
	case framesBody:
		return fmt.Errorf("%s cannot be set: the length of the body says it", name)
	case ofConnection:
		return fmt.Errorf("%s cannot be set: it is about the connection, which is closed after the response", name)
	}
	return checkFieldNameSyntax(name)
}

// isSingle reports whether a response has at most one field of that name.
func isSingle(name string) bool {
	switch strings.ToLower(name) {
	case "content-type", "date", "location":
		return true
	default:
		return false
	}
}

var errNoStatus = errors.New("http_respond needs a status, as in 'http_respond 404' or 'http_respond 403 \"not here\"'")

// Interface guards
var (
	_ caddy.Provisioner     = (*HTTPRespond)(nil)
	_ caddyfile.Unmarshaler = (*HTTPRespond)(nil)
	_ layer4.NextHandler    = (*HTTPRespond)(nil)
)
