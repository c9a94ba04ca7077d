package streamprox

import (
	"strings"
	"testing"
)

// caddyfileOption is an option of one argument.
type caddyfileOption struct {
	directive string // with what it needs besides
	name      string
	good      string
	bad       map[string]string // values, each with what its error says
}

var (
	badDurations = map[string]string{
		"soon": "'soon' is not a duration, as in 10s",
		"10":   "'10' is not a duration, as in 10s",
		`""`:   "'' is not a duration, as in 10s",
	}
	badCounts = map[string]string{
		"many":       "'many' is not a whole number of 0 or more",
		"-1":         "'-1' is not a whole number of 0 or more",
		"1.5":        "'1.5' is not a whole number of 0 or more",
		"1KiB":       "'1KiB' is not a whole number of 0 or more",
		"4294967296": "'4294967296' is not a whole number of 0 or more",
	}
)

func TestCaddyfileOptionErrors(t *testing.T) {
	options := []caddyfileOption{
		{"inspect", "until", "line", map[string]string{"body": "option 'until': unknown value 'body': use headers, line"}},
		{"inspect", "max_bytes", "8KiB", map[string]string{
			"large":                   "'large' is not a size between 1B and 16 MiB, as in 16KiB",
			"0":                       "'0' is not a size",
			"-1":                      "'-1' is not a size",
			"17MiB":                   "'17MiB' is not a size",
			"99999999999999999999999": "is not a size",
		}},
		{"inspect", "max_packets", "8", badCounts},
		{"inspect", "timeout", "10s", badDurations},
		{"inspect", "silent_timeout", "15s", badDurations},
		{"inspect", "max_pending", "10", badCounts},
		{"inspect", "max_pending_per_ip", "10", badCounts},
		{"inspect", "replay", "1000", badCounts},
		{"inspect", "replay", "0", map[string]string{"1001": "option 'replay': 1001 is more than 1000"}},
		{"http_app web", "wait", "5s", badDurations},
		{"http_app web", "park", "10s", badDurations},
		{"http_app web", "reuse", "reinspect", map[string]string{"always": "option 'reuse': unknown value 'always': use reinspect, close, pin"}},
		{"relay 10.0.0.5:9000", "dial_timeout", "3s", badDurations},
		{"relay 10.0.0.5:9000", "response_header_timeout", "30s", badDurations},
		{"relay 10.0.0.5:9000", "idle_timeout", "1h", badDurations},
		{"relay 10.0.0.5:9000", "half_close_timeout", "5m", badDurations},
		{"relay 10.0.0.5:9000", "keepalive", "5m", badDurations},
		{"relay 10.0.0.5:9000", "slow_start", "30s", badDurations},
		{"relay 10.0.0.5:9000", "upstream_keepalive", "5s", badDurations},
		{"relay 10.0.0.5:9000", "reuse", "pin", map[string]string{"always": "option 'reuse': unknown value 'always': use reinspect, close, pin"}},
		{"rewrite_head", "host", "echo.example.org:8080", map[string]string{
			`""`:       `option 'host': "" is no host, as in echo.example.org or 10.0.0.5:8080`,
			`"a b"`:    `"a b" is no host`,
			"http://a": `"http://a" is no host`,
			"a/b":      `"a/b" is no host`,
		}},
		{"rewrite_head", "strip_prefix", "/echo", map[string]string{
			`""`:   `option 'strip_prefix': "" does not begin with a slash, as in /echo`,
			"echo": `option 'strip_prefix': "echo" does not begin with a slash, as in /echo`,
			"/":    `option 'strip_prefix': "/" names no segment, as in /echo`,
			"//":   `option 'strip_prefix': "//" names no segment, as in /echo`,
		}},
	}
	for _, option := range options {
		in := func(body string) string { return inRoute(option.directive + " {\n" + body + "\n}") }
		directive, _, _ := strings.Cut(option.directive, " ")
		tests := []struct{ name, config, want string }{
			{"good", in(option.name + " " + option.good), ""},
			{"duplicate", in(option.name + " " + option.good + "\n" + option.name + " " + option.good), "duplicate option '" + option.name + "'"},
			{"missing argument", in(option.name), "option '" + option.name + "' takes one argument, got 0"},
			{"extra argument", in(option.name + " " + option.good + " " + option.good), "option '" + option.name + "' takes one argument, got 2"},
			{"block", in(option.name + " " + option.good + " {\n inner\n}"), "option '" + option.name + "' takes no block"},
			{"block without argument", in(option.name + " {\n inner\n}"), "option '" + option.name + "' takes one argument, got 0"},
		}
		for value, want := range option.bad {
			tests = append(tests, struct{ name, config, want string }{"value " + value, in(option.name + " " + value), want})
		}
		for _, test := range tests {
			t.Run(directive+"/"+option.name+"/"+test.name, func(t *testing.T) {
				_, err := adaptConfig(test.config)
				checkError(t, err, test.want)
			})
		}
	}
}

func TestCaddyfileErrors(t *testing.T) {
	tests := []struct {
		name   string
		config string // in a route
		want   string
	}{
		{name: "inspect: argument", config: "inspect headers", want: "inspect takes no arguments, only a block; unexpected 'headers'"},
		{name: "inspect: argument and block", config: "inspect x {\n}", want: "unexpected 'x'"},
		{name: "inspect: unknown option", config: "inspect {\n max_byte 1\n}", want: "unrecognized inspect option 'max_byte': use until, max_bytes, max_packets, timeout, silent_timeout, max_pending, max_pending_per_ip, lenient, log, replay, @<name> or route"},
		{name: "inspect: option of layer4 routes", config: "inspect {\n matching_timeout 3s\n}", want: "unrecognized inspect option 'matching_timeout'"},
		{name: "inspect: idle_timeout", config: "inspect {\n idle_timeout 3s\n}", want: "unrecognized inspect option 'idle_timeout'"},
		{name: "inspect: a handler outside routes", config: "inspect {\n echo\n}", want: "unrecognized inspect option 'echo'"},
		{name: "inspect: lenient with argument", config: "inspect {\n lenient yes\n}", want: "lenient takes no arguments; unexpected 'yes'"},
		{name: "inspect: lenient with block", config: "inspect {\n lenient {\n x\n }\n}", want: "option 'lenient' takes no block"},
		{name: "inspect: lenient twice", config: "inspect {\n lenient\n lenient\n}", want: "duplicate option 'lenient'"},
		{name: "inspect: duplicate matcher set", config: "inspect {\n @a ssh\n @a tls\n}", want: "duplicate matcher set '@a'"},
		{name: "inspect: undefined matcher set", config: "inspect {\n @a ssh\n route @b {\n echo\n }\n}", want: "undefined matcher set '@b'"},
		{name: "inspect: matcher set without name", config: "inspect {\n @ ssh\n}", want: "after '@'"},
		{name: "inspect: empty matcher set", config: "inspect {\n @a\n}", want: "after '@a'"},
		{name: "inspect: unknown matcher", config: "inspect {\n @a nonsense\n}", want: "layer4.matchers.nonsense"},
		{name: "inspect: matcher twice in a set", config: "inspect {\n @a {\n http_request path /a\n http_request path /b\n }\n}", want: "duplicate matcher module 'http_request'"},
		{name: "inspect: unknown handler", config: "inspect {\n route {\n nonsense\n }\n}", want: "layer4.handlers.nonsense"},
		{name: "inspect: route names no set", config: "inspect {\n route path {\n echo\n }\n}", want: "undefined matcher set 'path'"},

		{name: "inspected: no outcome", config: "inspect {\n @a inspected\n}", want: "inspected needs at least one outcome: use http, tls, other, http2, malformed, too_large, timeout, silent, eof"},
		{name: "inspected: unknown outcome", config: "inspect {\n @a inspected http quic\n}", want: `unknown outcome "quic": use one of http, tls, other, http2, malformed, too_large, timeout, silent, eof`},
		{name: "inspected: outcome in capitals", config: "inspect {\n @a inspected HTTP\n}", want: `unknown outcome "HTTP"`},
		{name: "inspected: duplicate outcome", config: "inspect {\n @a inspected tls other tls\n}", want: "inspected: duplicate outcome 'tls'"},
		{name: "inspected: block", config: "inspect {\n @a inspected tls {\n other\n }\n}", want: "option 'inspected' takes no block"},

		{name: "http_request: no matcher", config: "inspect {\n @a http_request\n}", want: "http_request needs a matcher of the HTTP app, as in 'http_request path /chat/*'; for any request use 'inspected http'"},
		{name: "http_request: empty block", config: "inspect {\n @a http_request {\n }\n}", want: "http_request needs a matcher of the HTTP app"},
		{name: "http_request: unknown matcher", config: "inspect {\n @a http_request route /a\n}", want: "http.matchers.route"},
		{name: "http_request: path alone", config: "inspect {\n @a http_request /a\n}", want: "http.matchers./a"},
		{name: "http_request: matcher without argument", config: "inspect {\n @a http_request protocol\n}", want: "expected exactly one protocol"},

		{name: "http_app: two names", config: "http_app web other", want: "http_app takes one name; unexpected 'other'"},
		{name: "http_app: unknown option", config: "http_app web {\n timeout 5s\n}", want: "unrecognized http_app option 'timeout': use wait, reuse or park"},

		{name: "relay: no upstream", config: "relay", want: "relay needs at least one upstream, as in 'relay 10.0.0.5:9000'"},
		{name: "relay: no upstream but options", config: "relay {\n idle_timeout 1h\n lb_policy first\n}", want: "relay needs at least one upstream"},
		{name: "relay: unknown option", config: "relay 10.0.0.5:9000 {\n timeout 5s\n}", want: "unrecognized relay option 'timeout': use dial_timeout, response_header_timeout, idle_timeout, half_close_timeout, reuse, keepalive, upstream_keepalive, upgrade, keep_alias_headers, dial_allow, slow_start, proxy_protocol, log, health_uri, health_method, health_headers, health_request_body, health_status, health_body, or an option of caddy-l4's proxy (upstream, lb_policy, lb_try_duration, lb_try_interval, health_interval, health_port, health_timeout, health_fall, health_rise, close_if_unhealthy, fail_duration, max_fails, unhealthy_connection_count)"},
		{name: "relay: health_interval without value", config: "relay 10.0.0.5:9000 {\n health_interval\n}", want: "after 'health_interval'"},
		{name: "relay: health_interval extra", config: "relay 10.0.0.5:9000 {\n health_interval 5s 5s\n}", want: "after 'health_interval'"},
		{name: "relay: health_interval bad", config: "relay 10.0.0.5:9000 {\n health_interval soon\n}", want: "parsing relay option 'health_interval'"},
		{name: "relay: health_interval twice", config: "relay 10.0.0.5:9000 {\n health_interval 5s\n health_interval 5s\n}", want: "duplicate relay option 'health_interval'"},
		{name: "relay: health_interval with block", config: "relay 10.0.0.5:9000 {\n health_interval 5s {\n x\n }\n}", want: "'health_interval': blocks are not supported"},
		{name: "relay: health_timeout without value", config: "relay 10.0.0.5:9000 {\n health_timeout\n}", want: "after 'health_timeout'"},
		{name: "relay: health_timeout extra", config: "relay 10.0.0.5:9000 {\n health_timeout 5s 5s\n}", want: "after 'health_timeout'"},
		{name: "relay: health_timeout bad", config: "relay 10.0.0.5:9000 {\n health_timeout soon\n}", want: "parsing relay option 'health_timeout'"},
		{name: "relay: health_timeout twice", config: "relay 10.0.0.5:9000 {\n health_timeout 5s\n health_timeout 5s\n}", want: "duplicate relay option 'health_timeout'"},
		{name: "relay: health_timeout with block", config: "relay 10.0.0.5:9000 {\n health_timeout 5s {\n x\n }\n}", want: "'health_timeout': blocks are not supported"},
		{name: "relay: health_port without value", config: "relay 10.0.0.5:9000 {\n health_port\n}", want: "after 'health_port'"},
		{name: "relay: health_port extra", config: "relay 10.0.0.5:9000 {\n health_port 80 80\n}", want: "after 'health_port'"},
		{name: "relay: health_port bad", config: "relay 10.0.0.5:9000 {\n health_port http\n}", want: "parsing relay option 'health_port'"},
		{name: "relay: health_port twice", config: "relay 10.0.0.5:9000 {\n health_port 80\n health_port 80\n}", want: "duplicate relay option 'health_port'"},
		{name: "relay: health_port with block", config: "relay 10.0.0.5:9000 {\n health_port 80 {\n x\n }\n}", want: "'health_port': blocks are not supported"},
		{name: "relay: health_fall without value", config: "relay 10.0.0.5:9000 {\n health_fall\n}", want: "after 'health_fall'"},
		{name: "relay: health_fall extra", config: "relay 10.0.0.5:9000 {\n health_fall 2 2\n}", want: "after 'health_fall'"},
		{name: "relay: health_fall bad", config: "relay 10.0.0.5:9000 {\n health_fall twice\n}", want: "parsing relay option 'health_fall'"},
		{name: "relay: health_fall twice", config: "relay 10.0.0.5:9000 {\n health_fall 2\n health_fall 2\n}", want: "duplicate relay option 'health_fall'"},
		{name: "relay: health_fall with block", config: "relay 10.0.0.5:9000 {\n health_fall 2 {\n x\n }\n}", want: "'health_fall': blocks are not supported"},
		{name: "relay: health_rise without value", config: "relay 10.0.0.5:9000 {\n health_rise\n}", want: "after 'health_rise'"},
		{name: "relay: health_rise extra", config: "relay 10.0.0.5:9000 {\n health_rise 2 2\n}", want: "after 'health_rise'"},
		{name: "relay: health_rise bad", config: "relay 10.0.0.5:9000 {\n health_rise twice\n}", want: "parsing relay option 'health_rise'"},
		{name: "relay: health_rise twice", config: "relay 10.0.0.5:9000 {\n health_rise 2\n health_rise 2\n}", want: "duplicate relay option 'health_rise'"},
		{name: "relay: health_rise with block", config: "relay 10.0.0.5:9000 {\n health_rise 2 {\n x\n }\n}", want: "'health_rise': blocks are not supported"},
		{name: "relay: fail_duration without value", config: "relay 10.0.0.5:9000 {\n fail_duration\n}", want: "after 'fail_duration'"},
		{name: "relay: fail_duration extra", config: "relay 10.0.0.5:9000 {\n fail_duration 5s 5s\n}", want: "after 'fail_duration'"},
		{name: "relay: fail_duration bad", config: "relay 10.0.0.5:9000 {\n fail_duration soon\n}", want: "parsing relay option 'fail_duration'"},
		{name: "relay: fail_duration twice", config: "relay 10.0.0.5:9000 {\n fail_duration 5s\n fail_duration 5s\n}", want: "duplicate relay option 'fail_duration'"},
		{name: "relay: fail_duration with block", config: "relay 10.0.0.5:9000 {\n fail_duration 5s {\n x\n }\n}", want: "'fail_duration': blocks are not supported"},
		{name: "relay: max_fails without value", config: "relay 10.0.0.5:9000 {\n max_fails\n}", want: "after 'max_fails'"},
		{name: "relay: max_fails extra", config: "relay 10.0.0.5:9000 {\n max_fails 2 2\n}", want: "after 'max_fails'"},
		{name: "relay: max_fails bad", config: "relay 10.0.0.5:9000 {\n max_fails many\n}", want: "parsing relay option 'max_fails'"},
		{name: "relay: max_fails twice", config: "relay 10.0.0.5:9000 {\n max_fails 2\n max_fails 2\n}", want: "duplicate relay option 'max_fails'"},
		{name: "relay: max_fails with block", config: "relay 10.0.0.5:9000 {\n max_fails 2 {\n x\n }\n}", want: "'max_fails': blocks are not supported"},
		{name: "relay: unhealthy_connection_count without value", config: "relay 10.0.0.5:9000 {\n unhealthy_connection_count\n}", want: "after 'unhealthy_connection_count'"},
		{name: "relay: unhealthy_connection_count extra", config: "relay 10.0.0.5:9000 {\n unhealthy_connection_count 2 2\n}", want: "after 'unhealthy_connection_count'"},
		{name: "relay: unhealthy_connection_count bad", config: "relay 10.0.0.5:9000 {\n unhealthy_connection_count many\n}", want: "parsing relay option 'unhealthy_connection_count'"},
		{name: "relay: unhealthy_connection_count twice", config: "relay 10.0.0.5:9000 {\n unhealthy_connection_count 2\n unhealthy_connection_count 2\n}", want: "duplicate relay option 'unhealthy_connection_count'"},
		{name: "relay: unhealthy_connection_count with block", config: "relay 10.0.0.5:9000 {\n unhealthy_connection_count 2 {\n x\n }\n}", want: "'unhealthy_connection_count': blocks are not supported"},
		{name: "relay: close_if_unhealthy with argument", config: "relay 10.0.0.5:9000 {\n close_if_unhealthy yes\n}", want: "after 'close_if_unhealthy'"},
		{name: "relay: close_if_unhealthy twice", config: "relay 10.0.0.5:9000 {\n close_if_unhealthy\n close_if_unhealthy\n}", want: "duplicate relay option 'close_if_unhealthy'"},
		{name: "relay: close_if_unhealthy with block", config: "relay 10.0.0.5:9000 {\n close_if_unhealthy {\n x\n }\n}", want: "'close_if_unhealthy': blocks are not supported"},
		{name: "relay: dial_allow without value", config: "relay 10.0.0.5:9000 {\n dial_allow\n}", want: "option 'dial_allow' takes hosts and networks, as in 'dial_allow *.example.org 10.0.0.0/8'"},
		{name: "relay: dial_allow twice", config: "relay 10.0.0.5:9000 {\n dial_allow a.example\n dial_allow b.example\n}", want: "duplicate option 'dial_allow'"},
		{name: "relay: dial_allow with block", config: "relay 10.0.0.5:9000 {\n dial_allow a.example {\n x\n }\n}", want: "option 'dial_allow' takes no block"},
		{name: "relay: dial_allow bad", config: "relay 10.0.0.5:9000 {\n dial_allow a.example:80\n}", want: "dial_allow: \"a.example:80\" is neither a host"},
		{name: "relay: several addresses", config: "relay {\n upstream 10.0.0.5:9000 10.0.0.6:9000\n}", want: "dial: want one address, got 2 (10.0.0.5:9000 10.0.0.6:9000); relay sends a stream to one server, so make each address an upstream of its own"},
		{name: "relay: another address by dial", config: "relay {\n upstream 10.0.0.5:9000 {\n dial 10.0.0.6:9000\n }\n}", want: "dial: want one address, got 2"},
		{name: "relay: local_addr without value", config: "relay {\n upstream 10.0.0.5:9000 {\n local_addr\n }\n}", want: "after 'local_addr'"},
		{name: "relay: resolver_preference without value", config: "relay {\n upstream 10.0.0.5:9000 {\n resolver_preference\n }\n}", want: "after 'resolver_preference'"},
		{name: "relay: resolver_preference unknown", config: "relay {\n upstream 10.0.0.5:9000 {\n resolver_preference ipv5_only\n }\n}", want: "'ipv5_only'"},
		{name: "relay: resolver_preference twice", config: "relay {\n upstream 10.0.0.5:9000 {\n resolver_preference ipv4_only\n resolver_preference ipv4_only\n }\n}", want: "option 'resolver_preference'"},
		{name: "relay: header without field", config: "relay 10.0.0.5:9000 {\n lb_policy header\n}", want: "option 'header' takes one argument, got 0"},
		{name: "relay: header extra", config: "relay 10.0.0.5:9000 {\n lb_policy header X-A X-B\n}", want: "option 'header' takes one argument, got 2"},
		{name: "relay: header with block", config: "relay 10.0.0.5:9000 {\n lb_policy header X-A {\n x\n }\n}", want: "option 'header' takes no block"},
		{name: "relay: header bad", config: "relay 10.0.0.5:9000 {\n lb_policy header X:A\n}", want: "header: \"X:A\" is not the name of a field"},
		{name: "relay: cookie without name", config: "relay 10.0.0.5:9000 {\n lb_policy cookie\n}", want: "option 'cookie' takes the name of a cookie, and a secret if there is one; got 0 arguments"},
		{name: "relay: cookie extra", config: "relay 10.0.0.5:9000 {\n lb_policy cookie a b c\n}", want: "option 'cookie' takes the name of a cookie, and a secret if there is one; got 3 arguments"},
		{name: "relay: cookie bad", config: "relay 10.0.0.5:9000 {\n lb_policy cookie a=b\n}", want: "cookie: \"a=b\" is not the name of a cookie"},
		{name: "relay: uri_hash extra", config: "relay 10.0.0.5:9000 {\n lb_policy uri_hash path\n}", want: "uri_hash takes no arguments; unexpected 'path'"},
		{name: "relay: uri_hash with block", config: "relay 10.0.0.5:9000 {\n lb_policy uri_hash {\n x\n }\n}", want: "option 'uri_hash' takes no block"},

		{name: "rewrite_head: argument", config: "rewrite_head echo.example.org", want: "rewrite_head takes no arguments, only a block; unexpected 'echo.example.org'"},
		{name: "rewrite_head: nothing", config: "rewrite_head", want: "rewrite_head edits nothing: give it host, header, strip_prefix or forwarded"},
		{name: "rewrite_head: empty block", config: "rewrite_head {\n}", want: "rewrite_head edits nothing"},
		{name: "rewrite_head: unknown option", config: "rewrite_head {\n uri /a\n}", want: "unrecognized rewrite_head option 'uri': use host, header, strip_prefix or forwarded"},
		{name: "rewrite_head: header without field", config: "rewrite_head {\n header\n}", want: "option 'header' needs a field, as in 'header Origin http://example.org', or 'header -Cookie' to remove one"},
		{name: "rewrite_head: header without value", config: "rewrite_head {\n header Origin\n}", want: "option 'header Origin' needs a value; to remove the field use '-Origin'"},
		{name: "rewrite_head: added header without value", config: "rewrite_head {\n header +Origin\n}", want: "option 'header +Origin' needs a value; to remove the field use '-Origin'"},
		{name: "rewrite_head: header with two values", config: "rewrite_head {\n header Origin a b\n}", want: "option 'header Origin' takes one value; unexpected 'b'; put a value with spaces in quotes"},
		{name: "rewrite_head: removed header with value", config: "rewrite_head {\n header -Cookie a\n}", want: "option 'header -Cookie' removes the field and takes no value; unexpected 'a'"},
		{name: "rewrite_head: header with block", config: "rewrite_head {\n header Origin a {\n b\n }\n}", want: "option 'header' takes no block"},
		{name: "rewrite_head: header twice", config: "rewrite_head {\n header Origin a\n header origin b\n}", want: "duplicate option 'header origin'; to add a field use '+origin'"},
		{name: "rewrite_head: removed header twice", config: "rewrite_head {\n header -Cookie\n header -COOKIE\n}", want: "duplicate option 'header -COOKIE'"},
		{name: "rewrite_head: no field name", config: "rewrite_head {\n header \"X Y\" a\n}", want: `option 'header': "X Y" is not a field name`},
		{name: "rewrite_head: operator of Caddy's header", config: "rewrite_head {\n header ?X a\n}", want: `"?X" is not a field name`},
		{name: "rewrite_head: plus alone", config: "rewrite_head {\n header + a\n}", want: `"" is not a field name`},
		{name: "rewrite_head: minus alone", config: "rewrite_head {\n header -\n}", want: `"" is not a field name`},
		{name: "rewrite_head: wildcard", config: "rewrite_head {\n header -X-*\n}", want: `option 'header': "X-*": there are no wildcards; name each field`},
		{name: "rewrite_head: Host as header", config: "rewrite_head {\n header Host a\n}", want: "option 'header': Host cannot be edited: use 'host', which edits the request target too"},
		{name: "rewrite_head: removed framing", config: "rewrite_head {\n header -content-length\n}", want: "content-length cannot be edited: it says where the body ends"},
		{name: "rewrite_head: added framing", config: "rewrite_head {\n header +Transfer-Encoding chunked\n}", want: "Transfer-Encoding cannot be edited: it says where the body ends"},
		{name: "rewrite_head: forwarded with something else", config: "rewrite_head {\n forwarded 10.0.0.0/8\n}", want: "option 'forwarded': unexpected '10.0.0.0/8': use 'forwarded' alone or 'forwarded trusted <cidr...>'"},
		{name: "rewrite_head: trusted without network", config: "rewrite_head {\n forwarded trusted\n}", want: "option 'forwarded': trusted needs at least one network, as in 'forwarded trusted 10.0.0.0/8'"},
		{name: "rewrite_head: trusted name", config: "rewrite_head {\n forwarded trusted proxy.example\n}", want: "option 'forwarded': invalid IP address: 'proxy.example'"},
		{name: "rewrite_head: trusted bad network", config: "rewrite_head {\n forwarded trusted 10.0.0.0/8 10.0.0.0/33\n}", want: "option 'forwarded': parsing CIDR expression: '10.0.0.0/33'"},
		{name: "rewrite_head: trusted twice", config: "rewrite_head {\n forwarded trusted 10.0.0.0/8 10.0.0.0/8\n}", want: "option 'forwarded': duplicate network '10.0.0.0/8'"},
		{name: "rewrite_head: forwarded twice", config: "rewrite_head {\n forwarded\n forwarded trusted 10.0.0.0/8\n}", want: "duplicate option 'forwarded'"},
		{name: "rewrite_head: forwarded with block", config: "rewrite_head {\n forwarded {\n trusted 10.0.0.0/8\n }\n}", want: "option 'forwarded' takes no block"},
		{name: "relay: upgrade off", config: "relay 10.0.0.5:9000 {\n upgrade off\n}"},
		{name: "relay: upgrade to several protocols", config: "relay 10.0.0.5:9000 {\n upgrade websocket tls/1.0\n}"},
		{name: "relay: upgrade without protocol", config: "relay 10.0.0.5:9000 {\n upgrade\n}", want: "option 'upgrade' takes the names of protocols, or off"},
		{name: "relay: upgrade off and a protocol", config: "relay 10.0.0.5:9000 {\n upgrade websocket off\n}", want: "option 'upgrade': off stands alone"},
		{name: "relay: upgrade off twice", config: "relay 10.0.0.5:9000 {\n upgrade off off\n}", want: "option 'upgrade': off stands alone"},
		{name: "relay: upgrade twice", config: "relay 10.0.0.5:9000 {\n upgrade websocket\n upgrade off\n}", want: "duplicate option 'upgrade'"},
		{name: "relay: upgrade with block", config: "relay 10.0.0.5:9000 {\n upgrade websocket {\n x\n }\n}", want: "option 'upgrade' takes no block"},
		{name: "relay: upgrade with block alone", config: "relay 10.0.0.5:9000 {\n upgrade {\n x\n }\n}", want: "option 'upgrade' takes the names of protocols, or off"},
		{name: "relay: keep_alias_headers with argument", config: "relay 10.0.0.5:9000 {\n keep_alias_headers on\n}", want: "keep_alias_headers takes no arguments; unexpected 'on'"},
		{name: "relay: keep_alias_headers with block", config: "relay 10.0.0.5:9000 {\n keep_alias_headers {\n x\n }\n}", want: "option 'keep_alias_headers' takes no block"},
		{name: "relay: keep_alias_headers twice", config: "relay 10.0.0.5:9000 {\n keep_alias_headers\n keep_alias_headers\n}", want: "duplicate option 'keep_alias_headers'"},

		{name: "relay: lb_policy without name", config: "relay 10.0.0.5:9000 {\n lb_policy\n}", want: "after 'lb_policy'"},
		{name: "relay: unknown lb_policy", config: "relay 10.0.0.5:9000 {\n lb_policy fastest\n}", want: "layer4.proxy.selection_policies.fastest"},
		{name: "relay: lb_policy twice", config: "relay 10.0.0.5:9000 {\n lb_policy first\n lb_policy random\n}", want: "option 'lb_policy'"},
		{name: "relay: lb_policy with argument", config: "relay 10.0.0.5:9000 {\n lb_policy first second\n}", want: "argument"},
		{name: "relay: lb_policy with block", config: "relay 10.0.0.5:9000 {\n lb_policy first {\n x\n }\n}", want: "blocks are not supported"},
		{name: "relay: random_choose no number", config: "relay 10.0.0.5:9000 {\n lb_policy random_choose two\n}", want: `"two"`},
		{name: "relay: lb_try_duration without value", config: "relay 10.0.0.5:9000 {\n lb_try_duration\n}", want: "after 'lb_try_duration'"},
		{name: "relay: lb_try_duration bad", config: "relay 10.0.0.5:9000 {\n lb_try_duration soon\n}", want: "parsing relay option 'lb_try_duration'"},
		{name: "relay: lb_try_duration twice", config: "relay 10.0.0.5:9000 {\n lb_try_duration 1s\n lb_try_duration 1s\n}", want: "duplicate relay option 'lb_try_duration'"},
		{name: "relay: lb_try_interval extra", config: "relay 10.0.0.5:9000 {\n lb_try_interval 1s 2s\n}", want: "after 'lb_try_interval'"},
		{name: "relay: lb_try_interval bad", config: "relay 10.0.0.5:9000 {\n lb_try_interval soon\n}", want: "parsing relay option 'lb_try_interval'"},
		{name: "relay: lb_try_interval with block", config: "relay 10.0.0.5:9000 {\n lb_try_interval 1s {\n x\n }\n}", want: "'lb_try_interval': blocks are not supported"},
		{name: "relay: proxy_protocol twice", config: "relay 10.0.0.5:9000 {\n proxy_protocol v1\n proxy_protocol v2\n}", want: "duplicate option 'proxy_protocol'"},
		{name: "relay: proxy_protocol without version", config: "relay 10.0.0.5:9000 {\n proxy_protocol\n}", want: "proxy_protocol"},
		{name: "relay: proxy_protocol unknown", config: "relay 10.0.0.5:9000 {\n proxy_protocol v3\n}", want: "v3"},
		{name: "relay: proxy_protocol extra", config: "relay 10.0.0.5:9000 {\n proxy_protocol v1 v2\n}", want: "option 'proxy_protocol' takes one argument, got 2"},
		{name: "relay: upstream without address", config: "relay {\n upstream\n}", want: "at least one dial address must be provided"},
		{name: "relay: upstream unknown option", config: "relay {\n upstream 10.0.0.5:9000 {\n max_conns 5\n }\n}", want: "after 'max_conns'"},
		{name: "relay: max_connections bad", config: "relay {\n upstream 10.0.0.5:9000 {\n max_connections many\n }\n}", want: "'max_connections'"},
		{name: "relay: max_connections twice", config: "relay {\n upstream 10.0.0.5:9000 {\n max_connections 1\n max_connections 1\n }\n}", want: "option 'max_connections'"},
		{name: "relay: max_connections missing", config: "relay {\n upstream 10.0.0.5:9000 {\n max_connections\n }\n}", want: "after 'max_connections'"},
		{name: "relay: weight bad", config: "relay {\n upstream 10.0.0.5:9000 {\n weight heavy\n }\n}", want: "'weight'"},
		{name: "relay: weight extra", config: "relay {\n upstream 10.0.0.5:9000 {\n weight 1 2\n }\n}", want: "after 'weight'"},
		{name: "relay: tls twice", config: "relay {\n upstream 10.0.0.5:9000 {\n tls\n tls\n }\n}", want: "option 'tls'"},
		{name: "relay: tls with argument", config: "relay {\n upstream 10.0.0.5:9000 {\n tls on\n }\n}", want: "'on'"},
		{name: "relay: tls_timeout bad", config: "relay {\n upstream 10.0.0.5:9000 {\n tls_timeout soon\n }\n}", want: "'tls_timeout'"},
		{name: "relay: tls_renegotiation unknown", config: "relay {\n upstream 10.0.0.5:9000 {\n tls_renegotiation always\n }\n}", want: "'always'"},
		{name: "relay: tls_client_auth extra", config: "relay {\n upstream 10.0.0.5:9000 {\n tls_client_auth a b c\n }\n}", want: "after 'tls_client_auth'"},
		{name: "relay: tls_trust_pool unknown", config: "relay {\n upstream 10.0.0.5:9000 {\n tls_trust_pool nobody\n }\n}", want: "tls.ca_pool.source.nobody"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := adaptConfig(inRoute(test.config))
			checkError(t, err, test.want)
		})
	}
}

// TestCaddyfileErrorsHaveTheLine checks that the line is that of the culprit, also in
// those parts of a block that caddy-l4 reads.
func TestCaddyfileErrorsHaveTheLine(t *testing.T) {
	tests := []struct{ name, config, want string }{
		{"option of inspect", "inspect {\n timeout 1s\n timeout 1s\n}", "Caddyfile:7"},
		{"matcher of inspect", "inspect {\n timeout 1s\n @a inspected nonsense\n}", "Caddyfile:7"},
		{"route of inspect", "inspect {\n timeout 1s\n route @a {\n }\n}", "Caddyfile:7"},
		{"handler in a route of inspect", "inspect {\n timeout 1s\n route {\n relay {\n nonsense\n }\n }\n}", "Caddyfile:9"},
		{"option of relay", "relay a:1 {\n reuse pin\n reuse pin\n}", "Caddyfile:7"},
		{"shared option of relay", "relay a:1 {\n reuse pin\n lb_try_duration soon\n}", "Caddyfile:7"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := adaptConfig(inRoute(test.config))
			checkError(t, err, test.want)
		})
	}
}

// TestCaddyfileTokens checks that quotes, lines and imports keep their meaning in the
// parts of a block that are handed to caddy-l4.
func TestCaddyfileTokens(t *testing.T) {
	const twoPaths = "<<CEL\npath('/a') ||\npath('/b')\nCEL"
	tests := []struct{ name, config, want string }{
		{name: "quoted option of inspect", config: inRoute("inspect {\n \"timeout\" \"5s\"\n}"), want: `"timeout":5000000000`},
		{name: "quoted matcher at the end", config: inRoute("inspect {\n route @a {\n echo\n }\n @a http_request path \"/a b\"\n}"), want: `"path":["/a b"]`},
		{name: "backticks at the end", config: inRoute("inspect {\n route @a {\n echo\n }\n @a http_request expression `\n path('/a')\n `\n}"), want: `"expression":"\n path('/a')\n "`},
		{name: "heredoc at the end", config: inRoute("inspect {\n route @a {\n echo\n }\n @a http_request expression " + twoPaths + "\n}"), want: `"expression":"path('/a') ||\npath('/b')"`},
		{name: "heredoc before a route", config: inRoute("inspect {\n @a http_request expression " + twoPaths + "\n route @a {\n echo\n }\n}"), want: `"expression":"path('/a') ||\npath('/b')"`},
		{name: "quoted inspect", config: inRoute("\"inspect\" {\n route {\n echo\n }\n}"), want: `"routes":[{"handle":[{"handler":"echo"}]}]`},
		{name: "quoted upstream", config: inRoute("relay \"10.0.0.5:9000\" {\n lb_policy first\n}"), want: `"dial":["10.0.0.5:9000"]}]}]`},
		{name: "quoted policy at the end", config: inRoute("relay 10.0.0.5:9000 {\n lb_policy \"first\"\n}"), want: `"policy":"first"`},
		{name: "quoted upstream without a block", config: inRoute("relay \"10.0.0.5:9000\""), want: `"dial":["10.0.0.5:9000"]`},
		{name: "imported inspect", config: "(front) {\n inspect {\n route {\n relay {args[0]} {\n lb_policy first\n }\n }\n }\n}\n" + inRoute("import front 10.0.0.5:9000"), want: `"dial":["10.0.0.5:9000"]`},
		{name: "imported inspect with imported routes", config: "(routes) {\n route {\n relay 10.0.0.5:9000\n }\n}\n(front) {\n inspect {\n import routes\n }\n}\n" + inRoute("import front"), want: `"dial":["10.0.0.5:9000"]`},
		{name: "placeholder of the environment", config: inRoute("relay {$STREAMPROX_TEST_UPSTREAM} {\n lb_policy first\n}"), want: `"dial":["10.0.0.7:9000"]`},
	}
	t.Setenv("STREAMPROX_TEST_UPSTREAM", "10.0.0.7:9000")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			apps, err := adaptConfig(test.config)
			if err != nil {
				t.Fatalf("got error %v, want none", err)
			}
			if !strings.Contains(apps, test.want) {
				t.Errorf("got %s, want %s in it", apps, test.want)
			}
		})
	}
}
