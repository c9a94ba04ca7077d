package streamprox

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"go.uber.org/zap"
)

// Mistakes in a Caddyfile that caddy-l4's parser would not explain, with what to write
// instead. They are looked for before it reads the same tokens.

func init() {
	for _, name := range []string{"inspect", "http_app", "http_respond", "relay", "rewrite_head"} {
		refuseInSites(name)
	}
}

// refuseInSites makes an error that says where a handler belongs of its name as a
// directive of sites.
func refuseInSites(name string) {
	// A directive of that name may be another plugin's: github.com/abiosoft/caddy-inspect
	// has one, and comes before this package.
	defer func() { _ = recover() }()
	httpcaddyfile.RegisterDirective(name, func(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
		h.Next() // consume directive name
		return nil, h.Errf("%s is a handler of layer4, not a directive of sites: it belongs in a route of the global option layer4, as in '{ layer4 { :8080 { route { %[1]s … } } } }', or of a listener wrapper, as in '{ servers { listener_wrappers { layer4 { route { %[1]s … } } } } }'", name)
	})
}

// siteDirectives are the directives of sites that are not named as their handlers.
var siteDirectives = []string{
	"abort", "basicauth", "bind", "forward_auth", "fs", "handle", "handle_errors", "handle_path", "header", "invoke",
	"log", "log_append", "log_name", "log_skip", "method", "php_fastcgi", "redir", "request_header", "respond", "root",
	"try_files", "uri",
}

// isModule reports whether there is a module of that ID.
func isModule(id string) bool {
	_, err := caddy.GetModule(id)
	return err == nil
}

// isSiteDirective reports whether sites have a directive of that name.
func isSiteDirective(name string) bool {
	return slices.Contains(siteDirectives, name) || isModule("http.handlers."+name)
}

// checkRoutes looks for mistakes in the matchers and routes of inspect, or of a subroute
// in it. Each segment is one of them. Matchers that no route uses are logged.
func checkRoutes(segments []caddyfile.Segment) error {
	used := make(map[string]bool) // by name, all that are defined
	for _, segment := range segments {
		if name := segment.Directive(); name != "route" {
			used[name] = false
		}
	}
	for _, segment := range segments {
		d := caddyfile.NewDispenser(segment)
		d.Next()
		var err error
		if d.Val() == "route" {
			err = checkRoute(d, used)
		} else {
			err = checkMatcherSet(d, d.Val()+" ")
		}
		if err != nil {
			return err
		}
	}
	for _, segment := range segments {
		if inUse, defined := used[segment.Directive()]; defined && !inUse {
			caddy.Log().Named("caddyfile").Warn("no route uses a matcher",
				zap.String("matcher", segment.Directive()),
				zap.String("file", segment[0].File),
				zap.Int("line", segment[0].Line),
				zap.String("fix", fmt.Sprintf("write 'route %s { … }', or leave the matcher out", segment.Directive())))
		}
	}
	return nil
}

// checkBrace looks for a brace without a space before it, as in 'route @a{': it does not
// open a block, so that the next lines seem to belong to inspect.
func checkBrace(segment caddyfile.Segment) error {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	for word := d.Val(); ; {
		if name, ok := strings.CutSuffix(d.Val(), "{"); ok && name != "" && !hasPlaceholder(name+"{") {
			if name == word || d.Val() == word {
				return d.Errf("a space is missing before the brace in '%s': write '%s {'", d.Val(), name)
			}
			return d.Errf("a space is missing before the brace in '%s': write '%s … %s {'", d.Val(), word, name)
		}
		if !d.NextArg() {
			return nil
		}
	}
}

// checkMatcherSet looks at the matchers that follow the word that d is at, which is the
// name of a set or not: one on its line, or several in a block. What is to be written
// in their place begins, on that line, as written.
func checkMatcherSet(d *caddyfile.Dispenser, written string) error {
	for nesting := d.Nesting(); ; {
		if !d.NextArg() {
			if written = ""; !d.NextBlock(nesting) {
				return nil
			}
		}
		if err := checkMatcher(d.NextSegment(), written); err != nil {
			return err
		}
	}
}

// checkMatcher looks for matchers of other namespaces where one of layer4 belongs.
func checkMatcher(segment caddyfile.Segment, written string) error {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	switch name := d.Val(); {
	case name == "not":
		return checkMatcherSet(d, written+"not ")
	case isModule("layer4.matchers." + name):
	case isModule("http.matchers." + name):
		return d.Errf("'%s' is a matcher of the HTTP app: write '%shttp_request %s'", name, written, firstLine(segment))
	case strings.HasPrefix(name, "/"), strings.HasPrefix(name, "*"):
		return d.Errf("'%s' is no matcher: write '%shttp_request path %s'", name, written, firstLine(segment))
	case isModule("tls.handshake_match." + name):
		return d.Errf("'%s' is a matcher of TLS: write '%stls %s'", name, written, firstLine(segment))
	}
	return nil
}

// firstLine returns the first line of a segment as it may be written.
func firstLine(segment caddyfile.Segment) string {
	var line []string
	for i, token := range segment {
		text := token.Text
		if i > 0 && token.Line != segment[0].Line {
			if line[len(line)-1] == "{" {
				line = append(line, "… }")
			}
			break
		}
		if strings.ContainsAny(text, " \t\n\"") || text == "" {
			text = strconv.Quote(text)
		}
		line = append(line, text)
	}
	return strings.Join(line, " ")
}

// checkRoute looks at the names and the handlers of the route that d is at. It marks in
// used, which holds the names that are defined, those that it names.
func checkRoute(d *caddyfile.Dispenser, used map[string]bool) error {
	for d.NextArg() {
		name := d.Val()
		_, defined := used[name]
		_, definedWithAt := used["@"+name]
		switch {
		case defined:
			used[name] = true
		case strings.HasPrefix(name, "/"), strings.HasPrefix(name, "*"):
			return d.Errf("a route takes names of matchers, not '%s': write '@name http_request path %[1]s' and 'route @name'", name)
		case strings.Contains(name, ","):
			names := strings.FieldsFunc(name, func(r rune) bool { return r == ',' })
			return d.Errf("unexpected comma in '%s': names of matchers are separated by spaces, as in 'route %s'; one of them must match",
				name, strings.Join(append(names, d.RemainingArgs()...), " "))
		case definedWithAt:
			return d.Errf("undefined matcher set '%s': write 'route @%[1]s'", name)
		case isModule("http.matchers." + name), isModule("layer4.matchers." + name):
			return d.Errf("undefined matcher set '%s': a route takes names, so write '@name' and the matcher on a line of its own, and 'route @name'", name)
		}
	}
	return checkHandlers(d)
}

// checkHandlers looks at the handlers in the block that follows in d.
func checkHandlers(d *caddyfile.Dispenser) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := checkHandler(d.NextSegment()); err != nil {
			return err
		}
	}
	return nil
}

// checkHandler looks for what is no handler of layer4.
func checkHandler(segment caddyfile.Segment) error {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	const site = "or 'http_app <name>' here and '%s' in a site with 'bind " + networkName + "/<name>'"
	switch name, line := d.Val(), firstLine(segment); {
	case name == "subroute":
		var segments []caddyfile.Segment
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			option, segment := d.Val(), d.NextSegment()
			if option == "route" || strings.HasPrefix(option, "@") {
				segments = append(segments, segment)
			}
		}
		return checkRoutes(segments)
	case name == "tee":
		return checkHandlers(d)
	case isModule("layer4.handlers." + name):
	case name == "route", strings.HasPrefix(name, "@"):
		return d.Errf("'%s' is no handler: within a route, matchers and routes belong in 'subroute { … }'", name)
	case name == "reverse_proxy", name == "proxy_pass":
		return d.Errf("'%s' is a directive of sites: write 'relay%s' here, "+site, name, strings.TrimPrefix(line, name), line)
	case name == "header", name == "request_header":
		return d.Errf("'%s' is a directive of sites: write 'rewrite_head { header <field> <value> }' here to change requests, "+site, name, line)
	case name == "respond" && isModule("layer4.handlers.http_respond"):
		return d.Errf("'respond' is a directive of sites: write 'http_respond <status> [<body>]' here, "+site, line)
	case isSiteDirective(name):
		return d.Errf("'%s' is a directive of sites: write 'http_app <name>' here, and '%s' in a site with 'bind %s/<name>'", name, line, networkName)
	}
	return nil
}

// upstreamOptions are the options of an upstream, besides those whose names begin with
// tls_.
var upstreamOptions = []string{"dial", "local_addr", "max_connections", "resolver_preference", "tls", "weight"}

// relayHints say what to write for options that relay does not have.
var relayHints = map[string]string{
	"send-proxy":     "write 'proxy_protocol v1'",
	"send-proxy-v2":  "write 'proxy_protocol v2'",
	"send_proxy":     "write 'proxy_protocol v1'",
	"proxy-protocol": "write 'proxy_protocol v1' or 'proxy_protocol v2'",

	"header_up":       "write 'rewrite_head { header <field> <value> }' before relay",
	"request_header":  "write 'rewrite_head { header <field> <value> }' before relay",
	"header":          "write 'rewrite_head { header <field> <value> }' before relay",
	"header_down":     "relay passes the fields of responses as they are; reverse_proxy in a site can change them",
	"trusted_proxies": "write 'rewrite_head { forwarded trusted <cidr...> }' before relay",
	"rewrite":         "write 'rewrite_head { strip_prefix <path> }' before relay",

	"to":             "write 'upstream <address>'",
	"max_conns":      "write 'upstream <address> { max_connections <int> }'",
	"transport":      "relay speaks HTTP/1; for TLS to the server write 'upstream <address> { tls }'",
	"flush_interval": "leave it out: relay passes bytes as they come",
	"lb_retries":     "use 'lb_try_duration <duration>'; each available upstream is tried once in any case",
	"health_passes":  "write 'health_rise <int>'",
	"health_fails":   "write 'health_fall <int>'",
}

// relayHint says what to write for an option that relay does not have, or "".
func relayHint(option string, addresses []string) string {
	const byConnection = "relay checks health by a connection, without a request: use health_interval, health_port, health_timeout, health_fall, health_rise"
	if hint := relayHints[option]; hint != "" {
		return hint
	}
	switch {
	case slices.Contains(upstreamOptions, option), strings.HasPrefix(option, "tls_"):
		address := "<address>"
		if len(addresses) > 0 {
			address = addresses[0]
		}
		return fmt.Sprintf("it belongs to one upstream: write 'upstream %s { %s … }' in relay's block", address, option)
	case strings.HasPrefix(option, "health_"):
		return byConnection
	}
	return ""
}

// checkUpstream looks at an option upstream of relay.
func checkUpstream(segment caddyfile.Segment) error {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	if err := checkDials(d); err != nil {
		return err
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch option := d.Val(); {
		case option == "dial":
			if err := checkDials(d); err != nil {
				return err
			}
		case option == "weight":
			if !d.NextArg() {
				continue
			}
			if n, err := strconv.Atoi(d.Val()); err == nil && n <= 0 {
				return d.WrapErr(fmt.Errorf("option 'weight': %w", errWeight(n)))
			}
		case slices.Contains(proxyOptions, option):
			return d.Errf("'%s' is an option of relay, not of one upstream: write it in relay's block", option)
		}
		d.RemainingArgs()
	}
	return nil
}

// errWeight says what is wrong with a weight below 1.
func errWeight(weight int) error {
	return fmt.Errorf("%d is not 1 or more; to send nothing to an upstream, leave it out", weight)
}

// checkDials looks at the addresses that follow in d on its line.
func checkDials(d *caddyfile.Dispenser) error {
	for d.NextArg() {
		if hint := relayHints[d.Val()]; hint != "" {
			return d.Errf("'%s' is no address of an upstream: %s in relay's block", d.Val(), hint)
		}
		err := checkDial(d.Val())
		if err == nil && !hasPlaceholder(d.Val()) {
			err = new(upstream).setAddress(d.Val())
		}
		if err != nil {
			return d.WrapErr(fmt.Errorf("upstream '%s': %w", d.Val(), err))
		}
	}
	return nil
}

// checkDial says what is wrong with the address of an upstream, and what to write. It
// leaves to setAddress what that says as well.
func checkDial(dial string) error {
	if scheme, rest, ok := strings.Cut(dial, "://"); ok {
		return mistakenURL(strings.ToLower(scheme), rest)
	}
	network, address, hasNetwork := strings.Cut(dial, "/")
	switch {
	case strings.HasPrefix(network, "unix:"):
		return fmt.Errorf("write 'unix/%s'", strings.TrimPrefix(dial, "unix:"))
	case hasNetwork && (caddy.IsUnixNetwork(strings.ToLower(network)) || caddy.IsFdNetwork(strings.ToLower(network))):
		return nil
	case strings.HasPrefix(dial, "/"):
		return fmt.Errorf("for a Unix socket write 'unix/%s'", dial)
	case strings.Contains(dial, ","):
		return fmt.Errorf("addresses are separated by spaces, not commas: write '%s'",
			strings.Join(strings.FieldsFunc(dial, func(r rune) bool { return r == ',' }), " "))
	case hasPlaceholder(dial):
		return nil
	case hasNetwork && strings.ContainsAny(network, ":."):
		return fmt.Errorf("an address has no path: write '%s'; the path is that of the request", network)
	case hasNetwork && !isTCP(strings.ToLower(network)):
		return nil
	case !hasNetwork:
		address = dial
	}
	prefix := strings.TrimSuffix(dial, address) // with the slash
	host, port, err := net.SplitHostPort(address)
	switch {
	case net.ParseIP(address).To16() != nil && strings.Contains(address, ":"):
		if host, port, ok := portOfIPv6(address); ok {
			return fmt.Errorf("write an IPv6 address in brackets: '%s[%s]:%s', or '%[1]s[%[4]s]:80' if that is no port", prefix, host, port, address)
		}
		return fmt.Errorf("want one port: write '%s[%s]:80', or that on which the server listens", prefix, address)
	case err != nil && strings.Count(address, ":") > 1 && !strings.HasPrefix(address, "["):
		return errors.New("write an IPv6 address in brackets, as in [::1]:9000")
	case err != nil || port == "":
		return fmt.Errorf("want one port: write '%s:80', or that on which the server listens", strings.TrimSuffix(dial, ":"))
	case strings.Trim(port, "0123456789-") != "":
		if number, err := net.LookupPort("tcp", port); err == nil {
			return fmt.Errorf("a port is a number: write '%s%s'", prefix, net.JoinHostPort(host, strconv.Itoa(number)))
		}
		return fmt.Errorf("'%s' is no port: write its number, as in 10.0.0.5:9000", port)
	}
	if number, err := strconv.Atoi(port); err == nil && number > 65535 {
		return fmt.Errorf("port %s is above 65535", port)
	}
	return nil
}

// portOfIPv6 splits an IPv6 address without brackets if what follows its last colon is
// more likely a port.
func portOfIPv6(address string) (host, port string, ok bool) {
	i := strings.LastIndexByte(address, ':')
	host, port = address[:i], address[i+1:]
	number, err := strconv.Atoi(port)
	return host, port, err == nil && number >= 80 && net.ParseIP(host) != nil
}

// mistakenURL says what to write for a URL where the address of an upstream belongs.
func mistakenURL(scheme, rest string) error {
	if scheme == "unix" {
		return fmt.Errorf("an upstream is no URL: write 'unix/%s'", rest)
	}
	address, path, _ := strings.Cut(rest, "/")
	port, write := "80", "write '%s'"
	switch scheme {
	case "https", "wss":
		port, write = "443", "write 'upstream %s { tls }' in relay's block"
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), port)
	}
	err := fmt.Errorf("an upstream is no URL: "+write, address)
	if path != "" {
		err = fmt.Errorf("%w; the path is that of the request", err)
	}
	return err
}

// checkPolicy looks at the option lb_policy that d is at.
func checkPolicy(segment caddyfile.Segment) error {
	const namespace = "layer4.proxy.selection_policies"
	d := caddyfile.NewDispenser(segment)
	d.Next()
	if !d.NextArg() || isModule(namespace+"."+d.Val()) {
		return nil
	}
	var names []string
	for _, module := range caddy.GetModules(namespace) {
		names = append(names, module.ID.Name())
	}
	return d.Errf("option 'lb_policy': unknown policy '%s' (there is no module %s.%[1]s): use %[3]s", d.Val(), namespace, strings.Join(names, ", "))
}
