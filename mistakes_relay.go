package streamprox

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// Mistakes in the options of relay, and in the addresses of its upstreams.

// upstreamOptions are the options of an upstream, besides those whose names begin with
// tls_.
var upstreamOptions = []string{"backup", "dial", "local_addr", "max_connections", "resolver_preference", "tls", "weight"}

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

	"slowstart":      "write 'slow_start <duration>'",
	"to":             "write 'upstream <address>'",
	"max_conns":      "write 'upstream <address> { max_connections <int> }'",
	"transport":      "relay speaks HTTP/1; for TLS to the server write 'upstream <address> { tls }'",
	"flush_interval": "leave it out: relay passes bytes as they come",
	"lb_retries":     "use 'lb_try_duration <duration>'; each available upstream is tried once in any case",
	"health_passes":  "write 'health_rise <int>'",
	"health_fails":   "write 'health_fall <int>'",
	"health_path":    "write 'health_uri <path>'",

	"health_upstream":         "relay checks each upstream itself; for another port write 'health_port <int>'",
	"health_follow_redirects": "redirects are not followed: write 'health_uri' with the path that they lead to, or 'health_status 3xx'",

	"unhealthy_status":        "what an upstream answers does not count as a failure; use 'health_uri <path>'",
	"unhealthy_latency":       "use 'response_header_timeout <duration>'",
	"unhealthy_request_count": "write 'unhealthy_connection_count <int>'",
}

// relayHint says what to write for an option that relay does not have, or "".
func relayHint(option string, addresses []string) string {
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
		return "use " + strings.Join(append(slices.Clone(httpCheckOptions), "health_interval", "health_port", "health_timeout", "health_fall", "health_rise"), ", ")
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
		case option == "weight" && d.NextArg():
			n, err := strconv.Atoi(d.Val())
			if err != nil {
				break // caddy-l4's parser says so
			}
			if err := upstream.CheckWeight(n); err != nil {
				return d.WrapErr(fmt.Errorf("option 'weight': %w", err))
			}
		case slices.Contains(proxyOptions, option):
			return d.Errf("'%s' is an option of relay, not of one upstream: write it in relay's block", option)
		}
		d.RemainingArgs()
	}
	return nil
}

// checkDials looks at the addresses that follow in d on its line.
func checkDials(d *caddyfile.Dispenser) error {
	for d.NextArg() {
		if hint := relayHints[d.Val()]; hint != "" {
			return d.Errf("'%s' is no address of an upstream: %s in relay's block", d.Val(), hint)
		}
		if err := upstream.CheckAddress(d.Val()); err != nil {
			return d.WrapErr(fmt.Errorf("upstream '%s': %w", d.Val(), err))
		}
	}
	return nil
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
