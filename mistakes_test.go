package streamprox

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestMistakesInCaddyfiles checks that mistakes of new users are found while parsing, at
// their line, with what to write instead.
func TestMistakesInCaddyfiles(t *testing.T) {
	const site = "in a site with 'bind streamprox/<name>'"
	tests := []struct{ name, config, want string }{
		// Addresses of upstreams.
		{"URL", "relay http://10.0.0.5", "upstream 'http://10.0.0.5': an upstream is no URL: write '10.0.0.5:80', at Caddyfile:5"},
		{"URL with a port", "relay http://10.0.0.5:8080/", "write '10.0.0.5:8080', at"},
		{"URL with a path", "relay ws://h/chat", "upstream 'ws://h/chat': an upstream is no URL: write 'h:80'; the path is that of the request"},
		{"URL of HTTPS", "relay https://h", "write 'upstream h:443 { tls }' in relay's block"},
		{"URL of IPv6", "relay HTTP://[::1]", "write '[::1]:80'"},
		{"URL with a placeholder", "relay http://{l4.http.host}", "an upstream is no URL: write '{l4.http.host}:80'"},
		{"URL of a Unix socket", "relay unix:///run/a.sock", "write 'unix//run/a.sock'"},
		{"comma", "relay a:1, b:2", "upstream 'a:1,': addresses are separated by spaces, not commas: write 'a:1', at"},
		{"comma without a space", "relay a:1,b:2", "write 'a:1 b:2'"},
		{"name of a port", "relay h:http", "upstream 'h:http': a port is a number: write 'h:80'"},
		{"unknown name of a port", "relay h:web", "'web' is no port: write its number, as in 10.0.0.5:9000"},
		{"port too large", "relay h:70000", "upstream 'h:70000': port 70000 is above 65535"},
		{"port far too large", "relay h:700000000000000000000", "upstream 'h:700000000000000000000'"},
		{"port 0", "relay h:0", "upstream 'h:0': want one port, as in 10.0.0.5:9000"},
		{"range of ports", "relay h:80-81", "want one port"},
		{"no port", "relay h", "upstream 'h': want one port: write 'h:80', or that on which the server listens"},
		{"no port after the colon", "relay h:", "want one port: write 'h:80'"},
		{"no port, IPv6", "relay ::1", "want one port: write '[::1]:80'"},
		{"IPv6 with a port, without brackets", "relay ::1:9000", "write an IPv6 address in brackets: '[::1]:9000', or '[::1:9000]:80' if that is no port"},
		{"no port, IPv6 in brackets", "relay [::1]", "want one port: write '[::1]:80'"},
		{"IPv6 without brackets", "relay fe80::zz:9000", "write an IPv6 address in brackets, as in [::1]:9000"},
		{"no port, with a network", "relay tcp4/h", "want one port: write 'tcp4/h:80'"},
		{"name of a port, with a network", "relay tcp6/h:https", "write 'tcp6/h:443'"},
		{"path without a port", "relay localhost/chat", `unknown network "localhost": use tcp, tcp4, tcp6 or unix`},
		{"unix with a colon", "relay unix:/run/a.sock", "upstream 'unix:/run/a.sock': write 'unix//run/a.sock'"},
		{"path of a socket", "relay /run/a.sock", "for a Unix socket write 'unix//run/a.sock'"},
		{"path of a request", "relay h:80/chat", "an address has no path: write 'h:80'; the path is that of the request"},
		{"datagrams", "relay udp/h:53", "relay carries streams, not datagrams"},
		{"unknown network", "relay sctp/h:53", `unknown network "sctp": use tcp, tcp4, tcp6 or unix`},
		{"option of HAProxy", "relay h:80 send-proxy", "'send-proxy' is no address of an upstream: write 'proxy_protocol v1' in relay's block"},
		{"the second", "relay a:1 {\n upstream h\n}", "upstream 'h': want one port: write 'h:80', or that on which the server listens, at Caddyfile:6"},
		{"by dial", "relay {\n upstream {\n dial http://h\n }\n}", "upstream 'http://h': an upstream is no URL: write 'h:80', at Caddyfile:7"},
		{"a Unix socket with odd letters", "relay unix//run/a,b:c.sock", ""},
		{"a network", "relay tcp4/h:80", ""},
		{"placeholders", "relay {l4.http.host}:80 {env.HOST} {\n dial_allow 10.0.0.0/8\n}", ""},

		// Names of listeners.
		{"URL of a listener", "http_app http://web", `listener "http://web": use <name> or <name>:<port>`},
		{"name of a listener's port", "http_app web:https", `listener "web:https": use <name> or <name>:<port>, at Caddyfile:5`},
		{"port of a listener alone", "http_app :80", `listener ":80": use <name> or <name>:<port>`},

		// Options of relay.
		{"unknown policy", "relay a:1 {\n lb_policy roundrobin\n}", "option 'lb_policy': unknown policy 'roundrobin' (there is no module layer4.proxy.selection_policies.roundrobin): use cookie, first, header, ip_hash, least_conn, random, random_choose, round_robin, uri_hash, weighted_round_robin, at Caddyfile:6"},
		{"max_connections of relay", "relay a:1 {\n max_connections 5\n}", "unrecognized relay option 'max_connections': it belongs to one upstream: write 'upstream a:1 { max_connections … }' in relay's block, at Caddyfile:6"},
		{"weight of relay", "relay a:1 {\n weight 5\n}", "write 'upstream a:1 { weight … }'"},
		{"tls of relay", "relay a:1 {\n tls\n}", "write 'upstream a:1 { tls … }'"},
		{"tls_server_name of relay", "relay {\n tls_server_name a\n}", "write 'upstream <address> { tls_server_name … }'"},
		{"local_addr of relay", "relay a:1 {\n local_addr 10.0.0.1\n}", "write 'upstream a:1 { local_addr … }'"},
		{"resolver_preference of relay", "relay a:1 {\n resolver_preference ipv4_only\n}", "write 'upstream a:1 { resolver_preference … }'"},
		{"lb_policy of an upstream", "relay {\n upstream a:1 {\n lb_policy first\n }\n}", "'lb_policy' is an option of relay, not of one upstream: write it in relay's block, at Caddyfile:7"},
		{"weight 0", "relay {\n upstream a:1 {\n weight 0\n }\n}", "option 'weight': 0 is not 1 or more; to send nothing to an upstream, leave it out, at Caddyfile:7"},
		{"weight below 0", "relay {\n upstream a:1 {\n weight -1\n }\n}", "option 'weight': -1 is not 1 or more"},
		{"weight 1", "relay {\n upstream a:1 {\n weight 1\n }\n}", ""},
		{"backup of relay", "relay a:1 b:1 {\n backup\n}", "write 'upstream a:1 { backup … }'"},
		{"backup with an address", "relay a:1 {\n upstream b:1 {\n backup yes\n }\n}", "option 'backup' takes no arguments, at Caddyfile:7"},
		{"backup twice", "relay a:1 {\n upstream b:1 {\n backup\n backup\n }\n}", "duplicate option 'backup', at Caddyfile:8"},
		{"backup", "relay a:1 {\n upstream b:1 {\n backup\n weight 2\n }\n}", ""},
		{"send-proxy", "relay a:1 {\n send-proxy\n}", "unrecognized relay option 'send-proxy': write 'proxy_protocol v1'"},
		{"send-proxy-v2", "relay a:1 {\n send-proxy-v2\n}", "write 'proxy_protocol v2'"},
		{"health_status without health_uri", "relay a:1 {\n health_status 200\n}", "health_status without health_uri has no effect: checks are by HTTP with 'health_uri <path>'"},
		{"health_uri with a host", "relay a:1 {\n health_uri http://a/health\n}", `option 'health_uri': uri: "http://a/health" is no path with or without a query, as in /health?full=1, at Caddyfile:6`},
		{"health_uri without a slash", "relay a:1 {\n health_uri health\n}", `"health" is no path`},
		{"health_uri twice", "relay a:1 {\n health_uri /a\n health_uri /b\n}", "duplicate option 'health_uri'"},
		{"health_uri with a block", "relay a:1 {\n health_uri /a {\n x\n }\n}", "option 'health_uri' takes no block"},
		{"health_method", "relay a:1 {\n health_uri /a\n health_method \"GET /\"\n}", `method: "GET /" is no method, as in GET, at Caddyfile:7`},
		{"health_status", "relay a:1 {\n health_uri /a\n health_status ok\n}", "option 'health_status': 'ok' is neither a status, as in 200, nor a class, as in 2xx, at Caddyfile:7"},
		{"health_status of a class that is none", "relay a:1 {\n health_uri /a\n health_status 9xx\n}", "'9xx' is neither a status"},
		{"health_status of two", "relay a:1 {\n health_uri /a\n health_status 200 204\n}", "option 'health_status' takes one argument, got 2"},
		{"health_body", "relay a:1 {\n health_uri /a\n health_body (\n}", "option 'health_body': expect_body: error parsing regexp"},
		{"health_headers on a line", "relay a:1 {\n health_uri /a\n health_headers Host a\n}", "option 'health_headers' takes a block: write 'health_headers { Host <value> }', at Caddyfile:7"},
		{"health_headers without any", "relay a:1 {\n health_uri /a\n health_headers\n}", "option 'health_headers' takes a block of fields"},
		{"health_headers with a colon", "relay a:1 {\n health_uri /a\n health_headers {\n Host: a\n }\n}", `headers: "Host:" is not the name of a field, at Caddyfile:8`},
		{"health_path", "relay a:1 {\n health_path /a\n}", "unrecognized relay option 'health_path': write 'health_uri <path>'"},
		{"health_follow_redirects", "relay a:1 {\n health_follow_redirects\n}", "redirects are not followed: write 'health_uri' with the path that they lead to"},
		{"health_upstream", "relay a:1 {\n health_upstream b:2\n}", "for another port write 'health_port <int>'"},
		{"unhealthy_status", "relay a:1 {\n unhealthy_status 500\n}", "what an upstream answers does not count as a failure; use 'health_uri <path>'"},
		{"health_check", "relay a:1 {\n health_check 5s\n}", "unrecognized relay option 'health_check': use health_uri, health_method, health_headers, health_request_body, health_status, health_body, health_interval, health_port"},
		{"health_passes", "relay a:1 {\n health_passes 2\n}", "write 'health_rise <int>'"},
		{"header_up", "relay a:1 {\n header_up Host a\n}", "unrecognized relay option 'header_up': write 'rewrite_head { header <field> <value> }' before relay"},
		{"header_down", "relay a:1 {\n header_down Server a\n}", "relay passes the fields of responses as they are"},
		{"to", "relay {\n to a:1\n}", "write 'upstream <address>'"},
		{"transport", "relay a:1 {\n transport http {\n tls\n }\n}", "for TLS to the server write 'upstream <address> { tls }'"},

		{"log with start twice", "inspect {\n log start start\n route {\n close\n }\n}", "log: duplicate argument 'start', at Caddyfile:6"},
		{"log with every before start", "relay a:1 {\n log every 1m start\n}", ""},
		{"log with every and no duration", "relay a:1 {\n log start every\n}", "log: every takes a duration, as in 'log every 10m', at Caddyfile:6"},
		{"log with every 0", "relay a:1 {\n log every 0\n}", "log: every: '0' is not a duration of more than 0, as in 10m"},
		{"log with every and another word", "relay a:1 {\n log every start\n}", "log: every: 'start' is not a duration"},
		{"log with every twice", "relay a:1 {\n log every 1m start every 2m\n}", "log: duplicate argument 'every', at Caddyfile:6"},
		// Matchers and routes of inspect.
		{"HTTP matcher", "inspect {\n @c path /x\n}", "'path' is a matcher of the HTTP app: write '@c http_request path /x', at Caddyfile:6"},
		{"HTTP matcher with quotes", "inspect {\n @c header User-Agent \"a b\"\n}", "write '@c http_request header User-Agent \"a b\"'"},
		{"HTTP matcher of several lines", "inspect {\n @c header {\n A b\n }\n}", "write '@c http_request header { … }'"},
		{"HTTP matcher in a block", "inspect {\n @c {\n remote_ip 10.0.0.0/8\n host a\n }\n}", "'host' is a matcher of the HTTP app: write 'http_request host a', at Caddyfile:8"},
		{"HTTP matcher after not", "inspect {\n @c not path /x\n}", "write '@c not http_request path /x'"},
		{"HTTP matcher in the block of not", "inspect {\n @c not {\n path /x\n }\n}", "write 'http_request path /x', at Caddyfile:7"},
		{"HTTP matcher in a subroute", "inspect {\n route {\n subroute {\n @c path /x\n route @c {\n close\n }\n }\n }\n}", "write '@c http_request path /x', at Caddyfile:8"},
		{"path", "inspect {\n @c /x\n}", "'/x' is no matcher: write '@c http_request path /x'"},
		{"matcher of TLS", "inspect {\n @c sni a\n}", "'sni' is a matcher of TLS: write '@c tls sni a'"},
		{"matchers of HTTP on two lines", "inspect {\n @c {\n http_request host a\n http_request path /x\n }\n}", "duplicate matcher module 'http_request': write what both match into the block of one, 'http_request { … }', at Caddyfile:8"},
		{"matchers of TLS on two lines", "inspect {\n @c not {\n tls sni a\n tls alpn b\n }\n}", "duplicate matcher module 'tls': write what both match into the block of one, 'tls { … }', at Caddyfile:8"},
		{"matcher that both have", "inspect {\n @c not remote_ip 10.0.0.0/8\n route @c {\n close\n }\n}", ""},
		{"matcher without a name", "inspect {\n http_request path /x\n}", "unrecognized inspect option 'http_request': give the matcher a name, as in '@name http_request …', and write 'route @name'"},
		{"HTTP matcher without a name", "inspect {\n path /x\n}", "give the matcher a name, as in '@name path …'"},
		{"handler without a route", "inspect {\n relay a:1\n}", "unrecognized inspect option 'relay': handlers belong in a route, as in 'route { relay … }'"},
		{"route with a path", "inspect {\n route /chat/* {\n close\n }\n}", "a route takes names of matchers, not '/chat/*': write '@name http_request path /chat/*' and 'route @name', at Caddyfile:6"},
		{"route with an asterisk", "inspect {\n route * {\n close\n }\n}", "a route takes names of matchers, not '*'"},
		{"route with a comma", "inspect {\n @a ssh\n @b tls\n route @a, @b {\n close\n }\n}", "unexpected comma in '@a,': names of matchers are separated by spaces, as in 'route @a @b'; one of them must match, at Caddyfile:8"},
		{"route with a comma alone", "inspect {\n @a ssh\n @b tls\n route @a,@b {\n close\n }\n}", "as in 'route @a @b'"},
		{"route without a space", "inspect {\n @a ssh\n route @a{\n close\n }\n}", "a space is missing before the brace in '@a{': write 'route … @a {', at Caddyfile:7"},
		{"route without a name and a space", "inspect {\n route{\n close\n }\n}", "unrecognized inspect option 'route{': a space is missing before the brace: write 'route {'"},
		{"matcher without a space", "inspect {\n @a{\n ssh\n }\n}", "a space is missing before the brace in '@a{': write '@a {', at Caddyfile:6"},
		{"placeholder in a matcher", "inspect {\n @a http_request expression {path}.startsWith('/a')\n route @a {\n close\n }\n}", ""},
		{"route without the at sign", "inspect {\n @chat ssh\n route chat {\n close\n }\n}", "undefined matcher set 'chat': write 'route @chat'"},
		{"route with a matcher", "inspect {\n route path /x {\n close\n }\n}", "undefined matcher set 'path': a route takes names"},

		// Handlers of routes.
		{"reverse_proxy", "inspect {\n route {\n reverse_proxy localhost:9000\n }\n}", "'reverse_proxy' is a directive of sites: write 'relay localhost:9000' here, or 'http_app <name>' here and 'reverse_proxy localhost:9000' " + site + ", at Caddyfile:7"},
		{"file_server", "inspect {\n route {\n file_server browse\n }\n}", "'file_server' is a directive of sites: write 'http_app <name>' here, and 'file_server browse' " + site},
		{"root", "inspect {\n route {\n root * /srv\n }\n}", "'root' is a directive of sites"},
		{"handle", "inspect {\n route {\n handle /a {\n respond a\n }\n }\n}", "'handle' is a directive of sites: write 'http_app <name>' here, and 'handle /a { … }' " + site},
		{"respond", "inspect {\n route {\n respond hello\n }\n}", "'respond' is a directive of sites"},
		{"header", "inspect {\n route {\n header X-A b\n }\n}", "write 'rewrite_head { header <field> <value> }' here to change requests"},
		{"in tee", "inspect {\n route {\n tee {\n reverse_proxy a:1\n }\n close\n }\n}", "'reverse_proxy' is a directive of sites"},
		{"in a subroute", "inspect {\n route {\n subroute {\n route {\n file_server\n }\n }\n }\n}", "'file_server' is a directive of sites: write 'http_app <name>' here, and 'file_server' " + site + ", at Caddyfile:9"},
		{"route in a route", "inspect {\n route {\n route {\n close\n }\n }\n}", "'route' is no handler: within a route, matchers and routes belong in 'subroute { … }'"},
		{"matcher in a route", "inspect {\n route {\n @a ssh\n }\n}", "'@a' is no handler"},

		{"private_ranges and one of them", "inspect {\n route {\n rewrite_head {\n forwarded trusted 10.0.0.0/8 private_ranges\n }\n close\n }\n}", ""},
		{"private_ranges twice", "rewrite_head {\n forwarded trusted private_ranges private_ranges\n}", "option 'forwarded': duplicate network 'private_ranges'"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := adaptConfig(inRoute(test.config))
			checkError(t, err, test.want)
		})
	}
}

// TestHandlersInSites checks that a handler of layer4 among the directives of a site says
// where it belongs.
func TestHandlersInSites(t *testing.T) {
	for _, name := range []string{"inspect", "http_app", "http_respond", "relay", "rewrite_head"} {
		want := fmt.Sprintf("%s is a handler of layer4, not a directive of sites: it belongs in a route of the global option layer4, as in '{ layer4 { :8080 { route { %[1]s … } } } }', or of a listener wrapper, as in '{ servers { listener_wrappers { layer4 { route { %[1]s … } } } } }', at Caddyfile:", name)
		for place, config := range map[string]string{
			"site":      "http://a {\n" + name + " {\n route {\n http_app\n }\n}\n}\n",
			"handle":    "http://a {\n handle /b {\n" + name + "\n}\n}\n",
			"no braces": "http://a\n" + name + "\n",
		} {
			t.Run(name+"/"+place, func(t *testing.T) {
				_, err := adaptConfig(config)
				checkError(t, err, want)
			})
		}
	}
	refuseInSites("respond") // another's directive: left to it
	_, err := adaptConfig("http://a {\n respond hello\n}\n")
	checkError(t, err, "")
}

// TestSiteDirectiveErrors checks what the directive streamprox refuses.
func TestSiteDirectiveErrors(t *testing.T) {
	for _, test := range []struct{ name, config, want string }{
		{"alone", "streamprox", ""},
		{"argument", "streamprox id", "streamprox takes no arguments; unexpected 'id', at Caddyfile:2"},
		{"block", "streamprox {\n id\n}", "streamprox takes no block; unexpected 'id', at Caddyfile:3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := adaptConfig("http://a {\n" + test.config + "\n}\n")
			checkError(t, err, test.want)
		})
	}
}

// TestUnusedMatchersWarn checks that the adapter names matchers of inspect that no route
// uses, and their lines.
func TestUnusedMatchersWarn(t *testing.T) {
	tests := []struct {
		name, config string
		want         []string // each with its line
	}{
		{"used", "inspect {\n @a ssh\n route @a {\n close\n }\n}", nil},
		{"used before its definition", "inspect {\n route @a {\n close\n }\n @a ssh\n}", nil},
		{"unused", "inspect {\n @a ssh\n @b tls\n route @b {\n close\n }\n}", []string{"@a Caddyfile:6"}},
		{"two unused", "inspect {\n @a ssh\n @b tls\n route {\n close\n }\n}", []string{"@a Caddyfile:6", "@b Caddyfile:7"}},
		{"used by another inspect", "inspect {\n @a ssh\n route {\n inspect {\n @a ssh\n route @a {\n close\n }\n }\n }\n}", []string{"@a Caddyfile:6"}},
		{"unused in a subroute", "inspect {\n route {\n subroute {\n @a ssh\n route {\n close\n }\n }\n }\n}", []string{"@a Caddyfile:8"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := loadApps(t, "{}"); err != nil { // whose log is that of the adapter
				t.Fatal(err)
			}
			_, err := adaptConfig(inRoute(test.config))
			checkError(t, err, "")
			configLogs.take(t)
			var got []string
			for line := range strings.Lines(configLogs.last) {
				var entry struct {
					Level, Msg, Matcher, File, Fix string
					Line                           int
				}
				_ = json.Unmarshal([]byte(line), &entry)
				if entry.Msg != "no route uses a matcher" {
					continue
				}
				if want := "write 'route " + entry.Matcher + " { … }', or leave the matcher out"; entry.Level != "warn" || entry.Fix != want {
					t.Errorf("got line %s, want a warning with %q", line, want)
				}
				got = append(got, fmt.Sprintf("%s %s:%d", entry.Matcher, entry.File, entry.Line))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
