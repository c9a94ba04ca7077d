package streamprox

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"golang.org/x/net/http/httpguts"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// The health checks of relay: how they are configured.

// The bounds of what is read of the content of an answer to a health check.
const (
	defaultCheckSize = 1 << 20
	maxCheckSize     = 16 << 20
)

// HealthChecks are how relay notices that an upstream does not work. Its JSON is that of
// caddy-l4's proxy handler, with what checks by HTTP need added.
type HealthChecks struct {
	// Checks at an interval, whether there are streams or not. Default: none.
	Active *ActiveHealthChecks `json:"active,omitempty"`

	// What is learnt from streams. Default: nothing.
	Passive *l4proxy.PassiveHealthChecks `json:"passive,omitempty"`
}

// ActiveHealthChecks connect to an upstream, and with `uri` ask it. The names and the meaning
// of what concerns requests are those of Caddy's reverse_proxy.
type ActiveHealthChecks struct {
	l4proxy.ActiveHealthChecks

	// The path and query to request by HTTP/1.1, over TLS if streams to the upstream are.
	// Default: no request, a connection is enough.
	URI string `json:"uri,omitempty"`

	// The method of the request. Default: `GET`.
	Method string `json:"method,omitempty"`

	// Fields of the request; `Host` among them. Values may hold global placeholders and
	// `{http.reverse_proxy.active.target_upstream}`, the address of the upstream.
	Headers http.Header `json:"headers,omitempty"`

	// The content of the request. Default: none.
	Body string `json:"body,omitempty"`

	// The status that the answer must have; below 10 its class, as in `2`. Default: `2`.
	// Redirects are not followed.
	ExpectStatus int `json:"expect_status,omitempty"`

	// A regular expression that the content of the answer must match. Default: the content
	// is not read.
	ExpectBody string `json:"expect_body,omitempty"`

	// How many bytes of the content are read at most. Default: 1 MiB; at most 16 MiB.
	MaxSize int64 `json:"max_size,omitempty"`
}

// provisionHealthChecks checks the options of health_checks, and replaces those that are
// unset by defaults.
func (h *Relay) provisionHealthChecks(options *upstream.Options) error {
	if h.HealthChecks == nil {
		return nil
	}
	if active := h.HealthChecks.Active; active != nil {
		switch {
		case active.Interval < 0, active.Timeout < 0:
			return errors.New("health_checks: interval and timeout cannot be less than 0")
		case active.Fall < 0, active.Rise < 0:
			return errors.New("health_checks: fall and rise cannot be less than 0")
		case active.Port < 0 || active.Port > 65535:
			return fmt.Errorf("health_checks: %d is not a port", active.Port)
		}
		byHTTP, err := active.http()
		if err != nil {
			return fmt.Errorf("health_checks: %w", err)
		}
		options.HealthChecks = &upstream.HealthChecks{
			HTTP:         byHTTP,
			Port:         active.Port,
			Interval:     cmp.Or(time.Duration(active.Interval), defaultCheckInterval),
			Timeout:      cmp.Or(time.Duration(active.Timeout), defaultCheckTimeout),
			Rise:         max(active.Rise, 1),
			Fall:         max(active.Fall, 1),
			CloseStreams: active.CloseIfUnhealthy,
		}
	}
	if passive := h.HealthChecks.Passive; passive != nil {
		if passive.FailDuration < 0 || passive.MaxFails < 0 || passive.UnhealthyConnectionCount < 0 {
			return errors.New("health_checks: fail_duration, max_fails and unhealthy_connection_count cannot be less than 0")
		}
		options.FailDuration = time.Duration(passive.FailDuration)
		options.MaxFails = passive.MaxFails
		if options.FailDuration > 0 {
			options.MaxFails = max(options.MaxFails, 1)
		}
		options.MaxConnections = passive.UnhealthyConnectionCount
	}
	return nil
}

// http returns the request of the checks; nil: they only connect.
func (a *ActiveHealthChecks) http() (*upstream.HTTPCheck, error) {
	if a.URI == "" {
		for _, option := range []struct {
			name string
			set  bool
		}{
			{"method", a.Method != ""}, {"headers", len(a.Headers) > 0}, {"body", a.Body != ""},
			{"expect_status", a.ExpectStatus != 0}, {"expect_body", a.ExpectBody != ""}, {"max_size", a.MaxSize != 0},
		} {
			if option.set {
				return nil, fmt.Errorf("%s has no effect without uri, which makes checks by HTTP", option.name)
			}
		}
		return nil, nil
	}
	check := &upstream.HTTPCheck{
		Method:  cmp.Or(a.Method, http.MethodGet),
		Header:  a.Headers,
		Body:    a.Body,
		Status:  a.ExpectStatus,
		MaxSize: cmp.Or(a.MaxSize, defaultCheckSize),
	}
	uri, err := url.ParseRequestURI(a.URI)
	switch {
	case !strings.HasPrefix(a.URI, "/") || err != nil || strings.Contains(a.URI, "#"):
		return nil, fmt.Errorf("uri: %q is no path with or without a query, as in /health?full=1", a.URI)
	case !httpguts.ValidHeaderFieldName(check.Method): // a token, too
		return nil, fmt.Errorf("method: %q is no method, as in GET", a.Method)
	case a.ExpectStatus < 0, a.ExpectStatus > 5 && a.ExpectStatus < 100, a.ExpectStatus > 999:
		return nil, fmt.Errorf("expect_status: %d is neither a status, as in 200, nor a class, as in 2", a.ExpectStatus)
	case a.MaxSize < 0 || a.MaxSize > maxCheckSize:
		return nil, fmt.Errorf("max_size: %d is not a size between 1 and %s", a.MaxSize, humanize.IBytes(maxCheckSize))
	}
	check.URI = uri
	for _, name := range slices.Sorted(maps.Keys(a.Headers)) {
		if !upstream.HasPlaceholder(name) && !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("headers: %q is not the name of a field", name)
		}
		for _, value := range a.Headers[name] {
			if !httpguts.ValidHeaderFieldValue(value) {
				return nil, fmt.Errorf("headers: the value of %s has characters that no value has", name)
			}
		}
	}
	if a.ExpectBody != "" {
		if check.Content, err = regexp.Compile(a.ExpectBody); err != nil {
			return nil, fmt.Errorf("expect_body: %w", err)
		}
	}
	return check, nil
}

// httpCheckOptions are the options of checks by HTTP in a Caddyfile.
var httpCheckOptions = []string{"health_uri", "health_method", "health_headers", "health_request_body", "health_status", "health_body"}

// unmarshalOption consumes an option of checks by HTTP.
func (a *ActiveHealthChecks) unmarshalOption(d *caddyfile.Dispenser) (err error) {
	option := d.Val()
	switch option {
	case "health_uri":
		a.URI, err = one(d)
	case "health_method":
		a.Method, err = one(d)
	case "health_request_body":
		a.Body, err = one(d)
	case "health_body":
		a.ExpectBody, err = one(d)
	case "health_status":
		a.ExpectStatus, err = statusOrClass(d)
	case "health_headers":
		a.Headers, err = fieldsBlock(d)
	}
	if err != nil || option == "health_headers" {
		return err
	}
	probe := *a
	if probe.URI == "" { // may follow
		probe.URI = "/"
	}
	if _, err := probe.http(); err != nil {
		return d.WrapErr(fmt.Errorf("option '%s': %w", option, err))
	}
	return nil
}

// statusOrClass consumes a status, or a class as in 2xx.
func statusOrClass(d *caddyfile.Dispenser) (int, error) {
	value, err := one(d)
	if err != nil {
		return 0, err
	}
	digits, class := strings.CutSuffix(value, "xx")
	status, err := strconv.Atoi(digits)
	if err != nil || class && (status < 1 || status > 5) || !class && (status < 100 || status > 999) {
		return 0, d.Errf("option 'health_status': '%s' is neither a status, as in 200, nor a class, as in 2xx", value)
	}
	return status, nil
}

// fieldsBlock consumes a block of fields, each with its values.
func fieldsBlock(d *caddyfile.Dispenser) (http.Header, error) {
	option := d.Val()
	if d.NextArg() {
		return nil, d.Errf("option '%s' takes a block: write '%s { %s <value> }'", option, option, d.Val())
	}
	fields := make(http.Header)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		values := d.RemainingArgs()
		if len(values) == 0 {
			values = []string{""}
		}
		fields[name] = append(fields[name], values...)
		if _, err := (&ActiveHealthChecks{URI: "/", Headers: fields}).http(); err != nil {
			return nil, d.WrapErr(fmt.Errorf("option '%s': %w", option, err))
		}
	}
	if len(fields) == 0 {
		return nil, d.Errf("option '%s' takes a block of fields, as in '%s { Host db.example }'", option, option)
	}
	return fields, nil
}

// healthChecksOf returns the checks that caddy-l4 has read, with those by HTTP.
func healthChecksOf(proxy *l4proxy.HealthChecks, byHTTP *ActiveHealthChecks) *HealthChecks {
	if proxy == nil && byHTTP == nil {
		return nil
	}
	checks := new(HealthChecks)
	if proxy != nil {
		checks.Passive = proxy.Passive
		if proxy.Active != nil {
			checks.Active = &ActiveHealthChecks{ActiveHealthChecks: *proxy.Active}
		}
	}
	if byHTTP != nil {
		if checks.Active != nil {
			byHTTP.ActiveHealthChecks = checks.Active.ActiveHealthChecks
		}
		checks.Active = byHTTP
	}
	return checks
}

// provisionEvents gets ready to tell Caddy's events app of upstreams that go up or down.
func (h *Relay) provisionEvents(ctx caddy.Context) (err error) {
	if h.HealthChecks != nil && h.HealthChecks.Active != nil {
		h.events, err = newHealthEvents(ctx, h.logger)
	}
	return err
}
