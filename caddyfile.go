package streamprox

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/mholt/caddy-l4/modules/l4proxy"

	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	inspect {
//		until               headers|line
//		max_bytes           <size>
//		max_packets         <int>
//		timeout             <duration>
//		silent_timeout      <duration>
//		max_pending         <int>
//		max_pending_per_ip  <int>
//		lenient
//		log                 [start] [every <duration>]
//		replay              <int>
//
//		@a <matcher> [<matcher_args>]
//		@b {
//			<matcher> [<matcher_args>]
//			<matcher> [<matcher_args>]
//		}
//		route [@a @b] {
//			<handler> [<handler_args>]
//		}
//	}
func (h *Inspect) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	tokens := directive(d)
	if d.NextArg() {
		return d.Errf("inspect takes no arguments, only a block; unexpected '%s'", d.Val())
	}

	var routes []caddyfile.Segment
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if option == "route" || strings.HasPrefix(option, "@") {
			routes = append(routes, d.NextSegment())
			if err := checkBrace(routes[len(routes)-1]); err != nil {
				return err
			}
			continue
		}
		if err := once(d, seen); err != nil {
			return err
		}
		var err error
		switch option {
		case "until":
			h.Until, err = oneOf(d, "headers", "line")
		case "max_bytes":
			h.MaxBytes, err = size(d)
		case "max_packets":
			h.MaxPackets, err = count(d)
		case "timeout":
			h.Timeout, err = duration(d)
		case "silent_timeout":
			h.SilentTimeout, err = duration(d)
		case "max_pending":
			h.MaxPending, err = count(d)
		case "max_pending_per_ip":
			h.MaxPendingPerIP, err = count(d)
		case "lenient":
			h.Lenient = true
			if d.NextArg() {
				err = d.Errf("lenient takes no arguments; unexpected '%s'", d.Val())
			}
		case "log":
			h.Log, err = accessLog(d)
		case "replay":
			h.Replay, err = count(d)
			if err == nil && h.Replay > maxReplay {
				err = d.Errf("option 'replay': %d is more than %d", h.Replay, maxReplay)
			}
		default:
			hint := "use until, max_bytes, max_packets, timeout, silent_timeout, max_pending, max_pending_per_ip, lenient, log, replay, @<name> or route"
			switch {
			case strings.HasSuffix(option, "{"):
				hint = "a space is missing before the brace: write '" + strings.TrimSuffix(option, "{") + " {'"
			case isModule("layer4.handlers." + option), isSiteDirective(option):
				hint = "handlers belong in a route, as in 'route { " + option + " … }'"
			case isModule("layer4.matchers." + option), isModule("http.matchers." + option):
				hint = "give the matcher a name, as in '@name " + option + " …', and write 'route @name'"
			}
			err = d.Errf("unrecognized inspect option '%s': %s", option, hint)
		}
		if err == nil {
			err = endOfOption(d, option)
		}
		if err != nil {
			return err
		}
	}

	if err := checkRoutes(routes); err != nil {
		return err
	}

	// caddy-l4 reads the routes; they have the form of its own.
	var parsed layer4.RouteList
	rest := only(tokens, 0, slices.Concat(routes...))
	rest.Next() // consume handler name
	if err := layer4.ParseCaddyfileNestedRoutes(rest, &parsed, nil, nil); err != nil {
		return err
	}
	names := routeNames(routes)
	for i, route := range parsed {
		h.Routes = append(h.Routes, &Route{Name: names[i], MatcherSetsRaw: route.MatcherSetsRaw, HandlersRaw: route.HandlersRaw})
	}
	return nil
}

// routeNames returns the name of each route among segments, that of its matchers.
func routeNames(segments []caddyfile.Segment) []string {
	var names []string
	for _, segment := range segments {
		if d := caddyfile.NewDispenser(segment); d.Next() && d.Val() == "route" {
			matchers := d.RemainingArgs()
			for i := range matchers {
				matchers[i] = strings.TrimPrefix(matchers[i], "@")
			}
			names = append(names, strings.Join(matchers, " "))
		}
	}
	return names
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	http_app [<name>[:<port>]] {
//		wait   <duration>
//		reuse  reinspect|close|pin
//		park   <duration>
//	}
func (h *HTTPApp) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume handler name
	if d.NextArg() {
		h.Listener = strings.TrimPrefix(d.Val(), networkName+"/")
		if _, _, err := splitListener(h.Listener); err != nil {
			return d.WrapErr(err)
		}
	}
	if d.NextArg() {
		return d.Errf("http_app takes one name; unexpected '%s'", d.Val())
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := once(d, seen); err != nil {
			return err
		}
		option := d.Val()
		var err error
		switch option {
		case "wait":
			h.Wait, err = duration(d)
		case "park":
			h.Park, err = duration(d)
		case "reuse":
			h.Reuse, err = oneOf(d, "reinspect", "close", "pin")
		default:
			err = d.Errf("unrecognized http_app option '%s': use wait, reuse or park", option)
		}
		if err == nil {
			err = endOfOption(d, option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// proxyOptions are the options that relay shares with caddy-l4's proxy.
// caddy-l4's parser reads them.
var proxyOptions = []string{
	"upstream", "lb_policy", "lb_try_duration", "lb_try_interval",
	"health_interval", "health_port", "health_timeout", "health_fall", "health_rise", "close_if_unhealthy",
	"fail_duration", "max_fails", "unhealthy_connection_count",
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	relay [<upstreams...>] {
//		dial_timeout             <duration>
//		response_header_timeout  <duration>
//		idle_timeout             <duration>
//		half_close_timeout       <duration>
//		reuse                    reinspect|close|pin
//		keepalive                <duration>
//		upstream_keepalive       <duration>
//		upgrade                  <protocols...>|off
//		keep_alias_headers
//		log                      [start] [every <duration>]
//		dial_allow               <hosts and networks...>
//		slow_start               <duration>
//
//		# as in Caddy's reverse_proxy
//		health_uri           <path and query>
//		health_method        <method>
//		health_headers {
//			<field> [<values...>]
//		}
//		health_request_body  <content>
//		health_status        <status>|1xx|…|5xx
//		health_body          <regexp>
//
//		# as in caddy-l4's proxy
//		health_interval     <duration>
//		health_port         <int>
//		health_timeout      <duration>
//		health_fall         <int>
//		health_rise         <int>
//		close_if_unhealthy
//		fail_duration               <duration>
//		max_fails                   <int>
//		unhealthy_connection_count  <int>
//		lb_policy        <name> [<args...>]
//		lb_try_duration  <duration>
//		lb_try_interval  <duration>
//		proxy_protocol   v1|v2
//		upstream <address> {
//			local_addr <address[:port]...>
//			resolver_preference ipv4_only|ipv6_only|ipv4_first|ipv6_first
//			max_connections <int>
//			weight <int>
//			backup
//			tls
//			tls_...
//		}
//	}
func (h *Relay) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	tokens := directive(d)
	if err := checkDials(d); err != nil {
		return err
	}
	d.Reset()
	d.Next()
	addresses := d.RemainingArgs()

	var shared []caddyfile.Token
	var byHTTP *ActiveHealthChecks
	backups, named := make(map[int]bool), 0 // by their place among all upstreams; those that an option names
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if slices.Contains(proxyOptions, option) {
			segment := d.NextSegment()
			var err error
			switch option {
			case "upstream":
				var backup bool
				if err = checkUpstream(segment); err == nil {
					segment, backup, err = withoutBackup(segment)
				}
				backups[len(addresses)+named] = backup
				named++
			case "lb_policy":
				err = checkPolicy(segment)
			}
			if err != nil {
				return err
			}
			shared = append(shared, segment...)
			continue
		}
		if err := once(d, seen); err != nil {
			return err
		}
		var err error
		switch option {
		case "dial_timeout":
			h.DialTimeout, err = duration(d)
		case "response_header_timeout":
			h.ResponseHeaderTimeout, err = duration(d)
		case "idle_timeout":
			h.IdleTimeout, err = duration(d)
		case "half_close_timeout":
			h.HalfCloseTimeout, err = duration(d)
		case "reuse":
			h.Reuse, err = oneOf(d, "reinspect", "close", "pin")
		case "keepalive":
			h.Keepalive, err = duration(d)
		case "upstream_keepalive":
			h.UpstreamKeepalive, err = duration(d)
		case "slow_start":
			h.SlowStart, err = duration(d)
		case "upgrade":
			h.Upgrade, err = protocols(d)
		case "dial_allow":
			if h.DialAllow = d.RemainingArgs(); len(h.DialAllow) == 0 {
				err = d.Errf("option 'dial_allow' takes hosts and networks, as in 'dial_allow *.example.org 10.0.0.0/8'")
			} else if _, allowErr := upstream.ParseAllow(h.DialAllow); allowErr != nil {
				err = d.WrapErr(allowErr)
			}
		case "keep_alias_headers":
			h.KeepAliasHeaders = true
			if d.NextArg() {
				err = d.Errf("keep_alias_headers takes no arguments; unexpected '%s'", d.Val())
			}
		case "log":
			h.Log, err = accessLog(d)
		case "health_uri", "health_method", "health_headers", "health_request_body", "health_status", "health_body":
			if byHTTP == nil {
				byHTTP = new(ActiveHealthChecks)
			}
			err = byHTTP.unmarshalOption(d)
		case "proxy_protocol":
			h.ProxyProtocol, err = one(d)
			if err == nil && h.ProxyProtocol != "v1" && h.ProxyProtocol != "v2" && !strings.Contains(h.ProxyProtocol, "{") {
				err = d.Errf("option 'proxy_protocol': unknown version '%s': use v1 or v2", h.ProxyProtocol)
			}
		default:
			if hint := relayHint(option, addresses); hint != "" {
				err = d.Errf("unrecognized relay option '%s': %s", option, hint)
				break
			}
			err = d.Errf("unrecognized relay option '%s': use dial_timeout, response_header_timeout, idle_timeout, half_close_timeout, reuse, keepalive, upstream_keepalive, upgrade, keep_alias_headers, dial_allow, slow_start, proxy_protocol, log, %s, or an option of caddy-l4's proxy (%s)",
				option, strings.Join(httpCheckOptions, ", "), strings.Join(proxyOptions, ", "))
		}
		if err == nil {
			err = endOfOption(d, option)
		}
		if err != nil {
			return err
		}
	}

	// caddy-l4 reads what its proxy has too.
	var proxy l4proxy.Handler
	if err := proxy.UnmarshalCaddyfile(only(tokens, len(addresses), shared)); err != nil {
		return err
	}
	if len(proxy.Upstreams) == 0 {
		return d.Errf("relay needs at least one upstream, as in 'relay 10.0.0.5:9000'")
	}
	for _, config := range proxy.Upstreams {
		if err := upstream.CheckOneAddress(config); err != nil {
			return d.WrapErr(err)
		}
	}
	if byHTTP != nil && byHTTP.URI == "" {
		return d.Errf("%s without health_uri has no effect: checks are by HTTP with 'health_uri <path>'", firstOf(seen, httpCheckOptions))
	}
	h.Upstreams, h.LoadBalancing, h.HealthChecks = upstreamsOf(proxy.Upstreams, backups), proxy.LoadBalancing, healthChecksOf(proxy.HealthChecks, byHTTP)
	return nil
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	header <field>
func (s *HeaderSelection) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	if s.Field, err = policyArgument(d); err != nil {
		return err
	}
	if err := s.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	cookie <name> [<secret>]
func (s *CookieSelection) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume policy name
	if n := d.CountRemainingArgs(); n < 1 || n > 2 {
		return d.Errf("option 'cookie' takes the name of a cookie, and a secret if there is one; got %d arguments", n)
	}
	d.Args(&s.Name, &s.Secret)
	if err := endOfOption(d, "cookie"); err != nil {
		return err
	}
	if err := s.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	uri_hash
func (*URIHashSelection) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume policy name
	if d.NextArg() {
		return d.Errf("uri_hash takes no arguments; unexpected '%s'", d.Val())
	}
	return endOfOption(d, "uri_hash")
}

// policyArgument consumes a selection policy and returns its only argument.
func policyArgument(d *caddyfile.Dispenser) (string, error) {
	d.Next() // consume policy name
	policy := d.Val()
	argument, err := one(d)
	if err == nil {
		err = endOfOption(d, policy)
	}
	return argument, err
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	rewrite_head {
//		host          <host>
//		header        [+]<name> <value>
//		header        -<name>
//		strip_prefix  <path>
//		forwarded     [trusted [private_ranges] <cidr...>]
//	}
//
// The option header may be repeated: a name alone is replaced, one after a plus sign
// added, one after a minus sign removed.
func (h *RewriteHead) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume handler name
	if d.NextArg() {
		return d.Errf("rewrite_head takes no arguments, only a block; unexpected '%s'", d.Val())
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if option != "header" {
			if err := once(d, seen); err != nil {
				return err
			}
		}
		var err error
		switch option {
		case "host":
			h.Host, err = one(d)
			if err == nil {
				err = inOption(d, option, checkHost(h.Host))
			}
		case "header":
			err = h.unmarshalHeader(d, seen)
		case "strip_prefix":
			h.StripPrefix, err = one(d)
			if err == nil {
				err = inOption(d, option, checkPrefix(h.StripPrefix))
			}
		case "forwarded":
			err = h.unmarshalForwarded(d)
		default:
			err = d.Errf("unrecognized rewrite_head option '%s': use host, header, strip_prefix or forwarded", option)
		}
		if err == nil {
			err = endOfOption(d, option)
		}
		if err != nil {
			return err
		}
	}
	if h.empty() {
		return d.WrapErr(errEditsNothing)
	}
	return nil
}

// unmarshalHeader reads one header option. seen holds the names that were given
// before, with what is done to them.
func (h *RewriteHead) unmarshalHeader(d *caddyfile.Dispenser, seen map[string]bool) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("option 'header' needs a field, as in 'header Origin http://example.org', or 'header -Cookie' to remove one")
	}
	field, values := args[0], args[1:]
	name, removed := strings.CutPrefix(field, "-")
	name, added := strings.CutPrefix(name, "+")
	added = added && !removed
	switch {
	case removed && len(values) > 0:
		return d.Errf("option 'header %s' removes the field and takes no value; unexpected '%s'", field, values[0])
	case !removed && len(values) == 0:
		return d.Errf("option 'header %s' needs a value; to remove the field use '-%s'", field, name)
	case !removed && len(values) > 1:
		return d.Errf("option 'header %s' takes one value; unexpected '%s'; put a value with spaces in quotes", field, values[1])
	}
	if key := "header " + strings.ToLower(field); !added {
		if seen[key] {
			return d.Errf("duplicate option 'header %s'; to add a field use '+%s'", field, name)
		}
		seen[key] = true
	}
	if h.Header == nil {
		h.Header = new(HeaderEdits)
	}
	edits := h.Header
	if removed {
		edits.Delete = append(edits.Delete, name)
		return inOption(d, "header", checkDeletedName(name))
	}
	if err := inOption(d, "header", checkWrittenName(name)); err != nil {
		return err
	}
	if err := inOption(d, "header", checkFieldValue(values[0])); err != nil {
		return err
	}
	if !added {
		edits.Set = withField(edits.Set, name, values[0])
		return nil
	}
	for known := range edits.Add {
		if strings.EqualFold(known, name) {
			name = known // one list for a name
		}
	}
	edits.Add = withField(edits.Add, name, values[0])
	return nil
}

// withField appends a value, under the name as it is spelled.
func withField(fields http.Header, name, value string) http.Header {
	if fields == nil {
		fields = make(http.Header)
	}
	fields[name] = append(fields[name], value)
	return fields
}

// unmarshalForwarded reads the option forwarded.
func (h *RewriteHead) unmarshalForwarded(d *caddyfile.Dispenser) error {
	h.Forwarded = new(ForwardedFields)
	if !d.NextArg() {
		return nil
	}
	if d.Val() != "trusted" {
		return d.Errf("option 'forwarded': unexpected '%s': use 'forwarded' alone or 'forwarded trusted <cidr...>'", d.Val())
	}
	networks := []caddyfile.Token{d.Token()}
	seen := make(map[string]bool)
	for d.NextArg() {
		if seen[d.Val()] {
			return d.Errf("option 'forwarded': duplicate network '%s'", d.Val())
		}
		seen[d.Val()] = true
		networks = append(networks, d.Token())
	}
	if len(networks) == 1 {
		return d.Errf("option 'forwarded': trusted needs at least one network, as in 'forwarded trusted 10.0.0.0/8'")
	}
	// Caddy reads them: it knows what private_ranges are.
	var ranges caddyhttp.StaticIPRange
	if err := ranges.UnmarshalCaddyfile(caddyfile.NewDispenser(networks)); err != nil {
		return err
	}
	for _, network := range ranges.Ranges {
		if _, err := caddyhttp.CIDRExpressionToPrefix(network); err != nil {
			return inOption(d, "forwarded", err)
		}
		if !slices.Contains(h.Forwarded.Trusted, network) {
			h.Forwarded.Trusted = append(h.Forwarded.Trusted, network)
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	http_respond <status> [<body>] {
//		header <Field> <value>
//	}
//
// The option header may be repeated, also for one field.
func (h *HTTPRespond) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume handler name
	if !d.NextArg() {
		return d.WrapErr(errNoStatus)
	}
	status, err := strconv.Atoi(d.Val())
	if err != nil {
		return d.Errf("'%s' is no status: %w", d.Val(), errNoStatus)
	}
	h.Status = status
	if d.NextArg() {
		h.Body = d.Val()
	}
	if d.NextArg() {
		return d.Errf("http_respond takes a status and a body; unexpected '%s'; put a body with spaces in quotes", d.Val())
	}
	if err := h.check(); err != nil {
		return d.WrapErr(err)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if option != "header" {
			return d.Errf("unrecognized http_respond option '%s': use header", option)
		}
		if err := h.unmarshalHeader(d); err != nil {
			return err
		}
		if err := endOfOption(d, option); err != nil {
			return err
		}
	}
	return nil
}

// unmarshalHeader reads one header option.
func (h *HTTPRespond) unmarshalHeader(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Errf("option 'header' takes a field and a value, got %d arguments; put a value with spaces in quotes, as in 'header Location https://example.org/'", len(args))
	}
	name, value := args[0], args[1]
	if err := inOption(d, "header", checkAnsweredName(name)); err != nil {
		return err
	}
	if err := inOption(d, "header", checkFieldValue(value)); err != nil {
		return err
	}
	for known := range h.Headers {
		if !strings.EqualFold(known, name) {
			continue
		}
		if isSingle(name) {
			return d.Errf("duplicate option 'header %s'", name)
		}
		name = known // one list for a name
	}
	h.Headers = withField(h.Headers, name, value)
	return nil
}

// inOption adds the option and the place to an error.
func inOption(d *caddyfile.Dispenser, option string, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(fmt.Errorf("option '%s': %w", option, err))
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax, in a site:
//
//	streamprox
func (*SitePlaceholders) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.Errf("streamprox takes no arguments; unexpected '%s'", d.Val())
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("streamprox takes no block; unexpected '%s'", d.Val())
	}
	return nil
}

// The directive comes before all others, which may use its placeholders.
func init() {
	httpcaddyfile.RegisterHandlerDirective("streamprox", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		site := new(SitePlaceholders)
		return site, site.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("streamprox", httpcaddyfile.Before, "tracing")
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	http_request <matcher> [<args...>]
//	http_request not <matcher> [<args...>]
//	http_request {
//		<matcher> [<args...>]
//		not <matcher> [<args...>]
//	}
//
// The matchers are those of Caddy's HTTP app, all of which must match, with the short
// placeholders that they have there.
func (m *MatchHTTPRequest) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	tokens := caddyfile.Segment(directive(d))
	httpcaddyfile.NewShorthandReplacer().ApplyToSegment(&tokens)
	name := d.GetContext(caddyfile.MatcherNameCtxKey)
	d = caddyfile.NewDispenser(tokens)
	d.SetContext(caddyfile.MatcherNameCtxKey, name)

	d.Next() // consume matcher name
	set, err := caddyhttp.ParseCaddyfileNestedMatcherSet(d)
	if err != nil {
		return err
	}
	if len(set) == 0 {
		return d.Errf("http_request needs a matcher of the HTTP app, as in 'http_request path /chat/*'; for any request use 'inspected http'")
	}
	m.MatcherSetsRaw = append(m.MatcherSetsRaw, set)
	return nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	inspected <outcome...>
func (m *MatchInspected) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume matcher name
	for d.NextArg() {
		if _, err := opening.ParseOutcome(d.Val()); err != nil {
			return d.WrapErr(err)
		}
		if slices.Contains(m.Outcomes, d.Val()) {
			return d.Errf("inspected: duplicate outcome '%s'", d.Val())
		}
		m.Outcomes = append(m.Outcomes, d.Val())
	}
	if len(m.Outcomes) == 0 {
		return d.Errf("inspected needs at least one outcome: use %s", strings.Join(opening.Names(), ", "))
	}
	return endOfOption(d, "inspected")
}

// firstOf returns the first of the options that was given.
func firstOf(seen map[string]bool, options []string) string {
	for _, option := range options {
		if seen[option] {
			return option
		}
	}
	return ""
}

// once refuses an option that was given before.
func once(d *caddyfile.Dispenser, seen map[string]bool) error {
	if seen[d.Val()] {
		return d.Errf("duplicate option '%s'", d.Val())
	}
	seen[d.Val()] = true
	return nil
}

// one consumes the only argument of an option.
func one(d *caddyfile.Dispenser) (string, error) {
	option := d.Val()
	if d.CountRemainingArgs() != 1 {
		return "", d.Errf("option '%s' takes one argument, got %d", option, d.CountRemainingArgs())
	}
	d.NextArg()
	return d.Val(), nil
}

func oneOf(d *caddyfile.Dispenser, values ...string) (string, error) {
	option := d.Val()
	value, err := one(d)
	if err == nil && !slices.Contains(values, value) {
		err = d.Errf("option '%s': unknown value '%s': use %s", option, value, strings.Join(values, ", "))
	}
	return value, err
}

// protocols consumes the names of protocols, at least one, or off for none.
func protocols(d *caddyfile.Dispenser) ([]string, error) {
	option := d.Val()
	names := d.RemainingArgs()
	switch {
	case len(names) == 0:
		return nil, d.Errf("option '%s' takes the names of protocols, or off", option)
	case !slices.Contains(names, "off"):
		return names, nil
	case len(names) > 1:
		return nil, d.Errf("option '%s': off stands alone", option)
	}
	return []string{}, nil
}

func count(d *caddyfile.Dispenser) (int, error) {
	option := d.Val()
	value, err := one(d)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0, d.Errf("option '%s': '%s' is not a whole number of 0 or more", option, value)
	}
	return int(n), nil
}

func size(d *caddyfile.Dispenser) (*int, error) {
	option := d.Val()
	value, err := one(d)
	if err != nil {
		return nil, err
	}
	n, err := humanize.ParseBytes(value)
	if err != nil || n == 0 || n > maxMaxBytes {
		return nil, d.Errf("option '%s': '%s' is not a size between 1B and %s, as in 16KiB", option, value, humanize.IBytes(maxMaxBytes))
	}
	bytes := int(n)
	return &bytes, nil
}

func duration(d *caddyfile.Dispenser) (*caddy.Duration, error) {
	option := d.Val()
	value, err := one(d)
	if err != nil {
		return nil, err
	}
	parsed, err := caddy.ParseDuration(value)
	if err != nil {
		return nil, d.Errf("option '%s': '%s' is not a duration, as in 10s", option, value)
	}
	result := caddy.Duration(parsed)
	return &result, nil
}

// accessLog consumes which lines an access log has besides those at the end.
func accessLog(d *caddyfile.Dispenser) (*AccessLog, error) {
	log := new(AccessLog)
	for d.NextArg() {
		switch {
		case d.Val() == "start" && log.Start, d.Val() == "every" && log.Every != 0:
			return nil, d.Errf("log: duplicate argument '%s'", d.Val())
		case d.Val() == "start":
			log.Start = true
		case d.Val() == "every":
			if !d.NextArg() {
				return nil, d.Errf("log: every takes a duration, as in 'log every 10m'")
			}
			every, err := caddy.ParseDuration(d.Val())
			if err != nil || every <= 0 {
				return nil, d.Errf("log: every: '%s' is not a duration of more than 0, as in 10m", d.Val())
			}
			log.Every = caddy.Duration(every)
		default:
			return nil, d.Errf("log: unknown argument '%s': use start, and every with a duration, as in 'log start every 10m'", d.Val())
		}
	}
	return log, nil
}

// endOfOption refuses a block after an option that has none.
func endOfOption(d *caddyfile.Dispenser, option string) error {
	if d.NextBlock(d.Nesting()) {
		return d.Errf("option '%s' takes no block", option)
	}
	return nil
}

// directive returns the tokens of the directive that d begins with, and puts d back
// on its name.
func directive(d *caddyfile.Dispenser) []caddyfile.Token {
	d.Next()
	tokens := d.NextSegment()
	d.Reset()
	d.Next()
	return tokens
}

// only returns a dispenser for a directive that has just the given parts of its
// block. tokens are those of the whole directive, args the number of its arguments.
func only(tokens []caddyfile.Token, args int, parts []caddyfile.Token) *caddyfile.Dispenser {
	kept := slices.Clone(tokens[:1+args])
	if len(parts) > 0 {
		opening, closing := tokens[1+args], tokens[len(tokens)-1]
		kept = append(kept, opening)
		kept = append(kept, parts...)
		kept = append(kept, closing)
	}
	return caddyfile.NewDispenser(kept)
}
