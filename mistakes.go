package streamprox

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// Mistakes in a Caddyfile that caddy-l4's parser would not explain, with what to write
// instead. They are looked for before it reads the same tokens.

func init() {
	for _, name := range []string{"inspect", "http_app", "http_respond", "relay", "rewrite_head"} {
		refuseInSites(name)
	}
}

// refuseInSites makes it an error to write the name of a handler as a directive of a site.
// The message says where the handler belongs.
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
		if name, ok := strings.CutSuffix(d.Val(), "{"); ok && name != "" && !upstream.HasPlaceholder(name+"{") {
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

// checkMatcherSet looks at the matchers that follow the name of a set, or the word 'not',
// at which d is: one on the same line, or several in a block. written is how that line
// begins, for messages.
func checkMatcherSet(d *caddyfile.Dispenser, written string) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); ; {
		if !d.NextArg() {
			if written = ""; !d.NextBlock(nesting) {
				return nil
			}
		}
		name := d.Val()
		if seen[name] && (name == "http_request" || name == "tls") {
			return d.Errf("duplicate matcher module '%s': write what both match into the block of one, '%[1]s { … }'", name)
		}
		seen[name] = true
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
