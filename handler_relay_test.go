package streamprox

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/modules/l4proxy"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

func TestRelayPolicyErrors(t *testing.T) {
	tests := []struct{ name, policy, want string }{
		{"unknown policy", `{"policy":"fastest"}`, "fastest"},
		{"no policy", `{}`, "loading selection policy"},
		{"unknown field", `{"policy":"first","weight":1}`, "weight"},
		{"too few to choose from", `{"policy":"random_choose","choose":1}`, "choose must be at least 2"},
		{"negative choice", `{"policy":"random_choose","choose":-2}`, "choose must be at least 2"},
		{"no object", `"first"`, "selection policy"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
			defer cancel()
			h := &Relay{LoadBalancing: &l4proxy.LoadBalancing{SelectionPolicyRaw: json.RawMessage(test.policy)}}
			err := h.provisionPolicy(ctx, new(upstream.Options))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestHealthCheckDefaults(t *testing.T) {
	provisioned := func(config *HealthChecks) (options upstream.Options) {
		t.Helper()
		if err := (&Relay{HealthChecks: config}).provisionHealthChecks(&options); err != nil {
			t.Fatal(err)
		}
		return options
	}
	got := provisioned(&HealthChecks{Active: new(ActiveHealthChecks)}).HealthChecks
	want := upstream.HealthChecks{Interval: 30 * time.Second, Timeout: 5 * time.Second, Rise: 1, Fall: 1}
	if got == nil || *got != want {
		t.Errorf("active checks: got %+v, want those of caddy-l4's proxy, %+v", got, want)
	}
	for _, test := range []struct {
		passive l4proxy.PassiveHealthChecks
		fails   int
		max     int
	}{
		{l4proxy.PassiveHealthChecks{}, 0, 0},
		{l4proxy.PassiveHealthChecks{FailDuration: caddy.Duration(time.Second)}, 1, 0},
		{l4proxy.PassiveHealthChecks{FailDuration: caddy.Duration(time.Second), MaxFails: 3}, 3, 0},
		{l4proxy.PassiveHealthChecks{UnhealthyConnectionCount: 4}, 0, 4},
	} {
		got := provisioned(&HealthChecks{Passive: &test.passive})
		if got.HealthChecks != nil || got.MaxFails != test.fails || got.MaxConnections != test.max {
			t.Errorf("%+v: got max_fails %d and %d connections, want %d and %d", test.passive, got.MaxFails, got.MaxConnections, test.fails, test.max)
		}
	}
}

// TestFailureStatus checks what a request is answered that reaches no upstream.
func TestFailureStatus(t *testing.T) {
	for reason, want := range map[upstream.Reason]int{
		upstream.NoConnection:       502,
		upstream.HandshakeFailed:    502,
		upstream.InvalidCertificate: 502,
		upstream.NoAddress:          502,
		upstream.NotAllowed:         502,
		upstream.NoneAvailable:      503,
		upstream.Scarce:             503,
		upstream.Timeout:            504,
	} {
		if got := failureStatus(reason); got != want {
			t.Errorf("%s: got %d, want %d", reason, got, want)
		}
	}
}

// TestFailedConfigurationsKeepNoUpstreams checks that upstreams of configurations that were
// refused are forgotten.
func TestFailedConfigurationsKeepNoUpstreams(t *testing.T) {
	const address = "192.0.2.1:9000"
	tests := []struct{ name, handler string }{
		{"loads", `{"handler":"relay","upstreams":[{"dial":["` + address + `"]},{"dial":["` + address + `"]}]}`},
		{"second upstream refused", `{"handler":"relay","upstreams":[{"dial":["` + address + `"]},{"dial":["udp/` + address + `"]}]}`},
		{"policy refused", `{"handler":"relay","upstreams":[{"dial":["` + address + `"]}],"load_balancing":{"selection":{"policy":"nonsense"}}}`},
		{"next handler refused", `{"handler":"relay","upstreams":[{"dial":["` + address + `"]}]},{"handler":"nonsense"}`},
		{"route after it refused", `{"handler":"inspect","routes":[{"handle":[{"handler":"relay","upstreams":[{"dial":["` + address + `"]}]}]},{"handle":[{"handler":"nonsense"}]}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadApps(t, "{"+inServer(test.handler)+"}")
			if (err == nil) != (test.name == "loads") {
				t.Errorf("loading: got error %v", err)
			}
			if upstream.Known("tcp/" + address) {
				t.Error("the address is still known, want it forgotten")
			}
		})
	}
}

func TestRelayJSONErrors(t *testing.T) {
	relay := func(fields string) string {
		return `{"handler":"relay","upstreams":[{"dial":["10.0.0.5:9000"]}]` + fields + `}`
	}
	upstream := func(fields string) string { return `{"handler":"relay","upstreams":[{` + fields + `}]}` }
	dial := func(address string) string { return upstream(fmt.Sprintf(`"dial":[%q]`, address)) }
	local := func(addresses string) string {
		return upstream(`"dial":["10.0.0.5:9000"],"local_address":` + addresses)
	}
	allowed := func(address, allow string) string {
		return fmt.Sprintf(`{"handler":"relay","upstreams":[{"dial":[%q]}],"dial_allow":[%s]}`, address, allow)
	}
	checkJSON(t, []jsonCase{
		{"nothing", `{"handler":"relay"}`, "relay needs at least one upstream"},
		{"one upstream", relay(``), ""},
		{"unknown field", relay(`,"timeout":"1s"`), "timeout"},
		{"unknown field of an upstream", upstream(`"dial":["10.0.0.5:9000"],"max_conns":1`), "max_conns"},
		{"slow_start", relay(`,"slow_start":"30s"`), ""},
		{"slow_start negative", relay(`,"slow_start":"-1s"`), "slow_start: -1s is less than 0"},
		{"backup alone", upstream(`"dial":["10.0.0.5:9000"],"backup":true`), "every upstream is a backup: one that is used first is needed"},
		{"health_checks", relay(`,"health_checks":{}`), ""},
		{"health_checks active", relay(`,"health_checks":{"active":{"interval":"1h"}}`), ""},
		{"health_checks active with all fields", relay(`,"health_checks":{"active":{"port":80,"interval":"1h","timeout":"1s","close_if_unhealthy":true,"fall":2,"rise":2}}`), ""},
		{"health_checks by HTTP with all fields", relay(`,"health_checks":{"active":{"uri":"/a?b","method":"POST","headers":{"Host":["a"]},"body":"{}","expect_status":2,"expect_body":"ok","max_size":100,"port":80}}`), ""},
		{"uri with a fragment", relay(`,"health_checks":{"active":{"uri":"/a#b"}}`), `health_checks: uri: "/a#b" is no path`},
		{"uri with a space", relay(`,"health_checks":{"active":{"uri":"/a b"}}`), ``},
		{"uri with a line end", relay(`,"health_checks":{"active":{"uri":"/a\nb"}}`), `is no path`},
		{"method without uri", relay(`,"health_checks":{"active":{"method":"POST"}}`), "health_checks: method has no effect without uri, which makes checks by HTTP"},
		{"max_size without uri", relay(`,"health_checks":{"active":{"max_size":1}}`), "max_size has no effect without uri"},
		{"method with a line end", relay(`,"health_checks":{"active":{"uri":"/","method":"A\nB"}}`), "is no method"},
		{"expect_status between", relay(`,"health_checks":{"active":{"uri":"/","expect_status":42}}`), "expect_status: 42 is neither a status, as in 200, nor a class, as in 2"},
		{"expect_status negative", relay(`,"health_checks":{"active":{"uri":"/","expect_status":-2}}`), "expect_status: -2 is neither"},
		{"expect_body no expression", relay(`,"health_checks":{"active":{"uri":"/","expect_body":"("}}`), "expect_body: error parsing regexp"},
		{"max_size negative", relay(`,"health_checks":{"active":{"uri":"/","max_size":-1}}`), "max_size: -1 is not a size between 1 and 16 MiB"},
		{"max_size too large", relay(`,"health_checks":{"active":{"uri":"/","max_size":16777217}}`), "max_size: 16777217 is not a size"},
		{"headers with no name", relay(`,"health_checks":{"active":{"uri":"/","headers":{"":["a"]}}}`), `headers: "" is not the name of a field`},
		{"headers with a line end", relay(`,"health_checks":{"active":{"uri":"/","headers":{"A":["b\r\nC: d"]}}}`), "headers: the value of A has characters that no value has"},
		{"health_checks unknown field", relay(`,"health_checks":{"active":{"path":"/"}}`), "path"},
		{"interval negative", relay(`,"health_checks":{"active":{"interval":"-1s"}}`), "health_checks: interval and timeout cannot be less than 0"},
		{"timeout negative", relay(`,"health_checks":{"active":{"timeout":"-1s"}}`), "health_checks: interval and timeout cannot be less than 0"},
		{"fall negative", relay(`,"health_checks":{"active":{"fall":-1}}`), "health_checks: fall and rise cannot be less than 0"},
		{"rise negative", relay(`,"health_checks":{"active":{"rise":-1}}`), "health_checks: fall and rise cannot be less than 0"},
		{"port negative", relay(`,"health_checks":{"active":{"port":-1}}`), "health_checks: -1 is not a port"},
		{"port of checks too large", relay(`,"health_checks":{"active":{"port":65536}}`), "health_checks: 65536 is not a port"},
		{"health_checks passive", relay(`,"health_checks":{"passive":{"fail_duration":"1s","max_fails":1,"unhealthy_connection_count":1}}`), ""},
		{"fail_duration negative", relay(`,"health_checks":{"passive":{"fail_duration":"-1s"}}`), "fail_duration, max_fails and unhealthy_connection_count cannot be less than 0"},
		{"max_fails negative", relay(`,"health_checks":{"passive":{"max_fails":-1}}`), "fail_duration, max_fails and unhealthy_connection_count cannot be less than 0"},
		{"unhealthy_connection_count negative", relay(`,"health_checks":{"passive":{"unhealthy_connection_count":-1}}`), "fail_duration, max_fails and unhealthy_connection_count cannot be less than 0"},
		{"header policy", relay(`,"load_balancing":{"selection":{"policy":"header","field":"X-Tenant"}}`), ""},
		{"header policy without field", relay(`,"load_balancing":{"selection":{"policy":"header"}}`), `header: "" is not the name of a field`},
		{"cookie policy", relay(`,"load_balancing":{"selection":{"policy":"cookie","name":"sid"}}`), ""},
		{"cookie policy without name", relay(`,"load_balancing":{"selection":{"policy":"cookie"}}`), `cookie: "" is not the name of a cookie`},
		{"uri_hash policy", relay(`,"load_balancing":{"selection":{"policy":"uri_hash"}}`), ""},
		{"uri_hash policy with a field", relay(`,"load_balancing":{"selection":{"policy":"uri_hash","field":"X"}}`), "field"},
		{"dial_timeout 0", relay(`,"dial_timeout":0`), "dial_timeout: 0 would refuse every connection; leave it out for the default of 3s"},
		{"dial_timeout negative", relay(`,"dial_timeout":"-1s"`), "dial_timeout: -1s is less than 0"},
		{"idle_timeout 0", relay(`,"idle_timeout":0`), ""},
		{"idle_timeout negative", relay(`,"idle_timeout":"-1s"`), "idle_timeout: -1s is less than 0"},
		{"half_close_timeout 0", relay(`,"half_close_timeout":0`), ""},
		{"half_close_timeout negative", relay(`,"half_close_timeout":"-1s"`), "half_close_timeout: -1s is less than 0"},
		{"reuse pin", relay(`,"reuse":"pin"`), ""},
		{"reuse close", relay(`,"reuse":"close"`), ""},
		{"reuse reinspect", relay(`,"reuse":"reinspect"`), ""},
		{"keepalive", relay(`,"keepalive":"1m"`), ""},
		{"keepalive 0", relay(`,"keepalive":0`), "keepalive: 0s is not more than 0; for one request a connection use 'reuse close'"},
		{"keepalive negative", relay(`,"keepalive":"-1s"`), "keepalive: -1s is not more than 0"},
		{"upstream_keepalive 0", relay(`,"upstream_keepalive":0`), ""},
		{"upstream_keepalive negative", relay(`,"upstream_keepalive":"-1s"`), "upstream_keepalive: -1s is less than 0"},
		{"reuse empty", relay(`,"reuse":""`), ""},
		{"reuse unknown", relay(`,"reuse":"always"`), `reuse: unknown value "always": use reinspect, close or pin`},
		{"response_header_timeout", relay(`,"response_header_timeout":"30s"`), ""},
		{"response_header_timeout 0", relay(`,"response_header_timeout":0`), ""},
		{"response_header_timeout negative", relay(`,"response_header_timeout":"-1s"`), "response_header_timeout: -1s is less than 0"},
		{"upgrade websocket", relay(`,"upgrade":["websocket"]`), ""},
		{"upgrade in other letters", relay(`,"upgrade":["WebSocket"]`), ""},
		{"upgrade with a version", relay(`,"upgrade":["IRC/6.9"]`), ""},
		{"upgrade none", relay(`,"upgrade":[]`), ""},
		{"upgrade null", relay(`,"upgrade":null`), ""},
		{"upgrade no array", relay(`,"upgrade":"websocket"`), "upgrade"},
		{"upgrade h2c", relay(`,"upgrade":["websocket","h2c"]`), "upgrade: h2c multiplexes requests that would not be routed; use 'reuse pin' if that is wanted"},
		{"upgrade h2c in other letters", relay(`,"upgrade":["H2C"]`), "upgrade: H2C multiplexes requests"},
		{"upgrade h2", relay(`,"upgrade":["h2"]`), "upgrade: h2 multiplexes requests"},
		{"upgrade empty name", relay(`,"upgrade":[""]`), `upgrade: "" is no name of a protocol`},
		{"upgrade list in one name", relay(`,"upgrade":["websocket, irc"]`), `upgrade: "websocket, irc" is no name of a protocol`},
		{"upgrade two versions", relay(`,"upgrade":["irc/6/9"]`), `upgrade: "irc/6/9" is no name of a protocol`},
		{"upgrade line end", relay(`,"upgrade":["irc\r\nX: y"]`), "is no name of a protocol"},
		{"keep_alias_headers", relay(`,"keep_alias_headers":true`), ""},
		{"keep_alias_headers no boolean", relay(`,"keep_alias_headers":"yes"`), "keep_alias_headers"},
		{"proxy_protocol v1", relay(`,"proxy_protocol":"v1"`), ""},
		{"proxy_protocol v2", relay(`,"proxy_protocol":"v2"`), ""},
		{"proxy_protocol unknown", relay(`,"proxy_protocol":"v3"`), `proxy_protocol: unknown version "v3": use v1 or v2`},
		{"try_duration negative", relay(`,"load_balancing":{"try_duration":"-1s"}`), "try_duration"},
		{"try_interval negative", relay(`,"load_balancing":{"try_interval":"-1s"}`), "try_interval"},
		{"unknown policy", relay(`,"load_balancing":{"selection":{"policy":"fastest"}}`), "fastest"},
		{"no dial address", upstream(`"weight":1`), "dial: want one address, got 0"},
		{"several dial addresses", upstream(`"dial":["10.0.0.5:9000","10.0.0.6:9000"]`), "dial: want one address, got 2 (10.0.0.5:9000 10.0.0.6:9000); relay sends a stream to one server, so make each address an upstream of its own"},
		{"local_address", local(`["10.0.0.1","10.0.0.2:4000","10.0.0.3:","2001:db8::1","[2001:db8::1]:4000"," fe80::1%eth0 "]`), ""},
		{"local_address is a name", local(`["localhost"]`), `upstream "10.0.0.5:9000": local_address (local_addr): "localhost" is not an IP address, with or without a port`},
		{"local_address with a network", local(`["tcp/10.0.0.1:80"]`), `local_address (local_addr): "tcp/10.0.0.1" is not an IP address`},
		{"local_address with a bad port", local(`["10.0.0.1:70000"]`), `local_address (local_addr): "70000" is not a port`},
		{"local_address empty", local(`[""]`), `local_address (local_addr): "" is not an IP address`},
		{"local_address with a placeholder", local(`["{l4.conn.remote_addr.host}"]`), "placeholders that depend on the connection need dial_allow"},
		{"local_address of a Unix socket", upstream(`"dial":["unix//run/a"],"local_address":["10.0.0.1"]`), `upstream "unix//run/a": a Unix socket has no local_address (local_addr)`},
		{"resolver_preference ipv4_only", upstream(`"dial":["10.0.0.5:9000"],"resolver_preference":"ipv4_only"`), ""},
		{"resolver_preference ipv6_first", upstream(`"dial":["10.0.0.5:9000"],"resolver_preference":"ipv6_first"`), ""},
		{"resolver_preference unknown", upstream(`"dial":["10.0.0.5:9000"],"resolver_preference":"ipv5_only"`), `resolver_preference: unknown value "ipv5_only": use ipv4_only, ipv6_only, ipv4_first or ipv6_first`},
		{"resolver_preference of the other family", upstream(`"dial":["10.0.0.5:9000"],"resolver_preference":"ipv6_only"`), `upstream "10.0.0.5:9000": 10.0.0.5 has no IPv6 address`},
		{"resolver_preference against the network", upstream(`"dial":["tcp4/a.example:9000"],"resolver_preference":"ipv6_only"`), "resolver_preference ipv6_only leaves no address for the network tcp4"},
		{"resolver_preference against local_address", upstream(`"dial":["a.example:9000"],"resolver_preference":"ipv6_only","local_address":["10.0.0.1"]`), "resolver_preference ipv6_only leaves no local_address (local_addr) to dial from"},
		{"network against the address", dial("tcp6/10.0.0.5:80"), "10.0.0.5 has no IPv6 address"},
		{"max_connections negative", upstream(`"dial":["10.0.0.5:9000"],"max_connections":-1`), `upstream "10.0.0.5:9000": max_connections: -1 is less than 0`},
		{"max_connections 0", upstream(`"dial":["10.0.0.5:9000"],"max_connections":0`), ""},
		{"port range", dial("10.0.0.5:9000-9001"), `upstream "10.0.0.5:9000-9001": want one port, as in 10.0.0.5:9000`},
		{"no port", dial("10.0.0.5"), `upstream "10.0.0.5": want one port`},
		{"port 0", dial("10.0.0.5:0"), `upstream "10.0.0.5:0": want one port`},
		{"port too large", dial("10.0.0.5:70000"), `upstream "10.0.0.5:70000": `},
		{"port no number", dial("10.0.0.5:ssh"), `upstream "10.0.0.5:ssh": `},
		{"empty address", dial(""), `upstream "": `},
		{"placeholder of the connection", dial("{l4.http.host}:80"), `upstream "{l4.http.host}:80": placeholders that depend on the connection need dial_allow, with the hosts and networks that they may lead to`},
		{"placeholder of the connection with an empty dial_allow", allowed("{l4.http.host}:80", ``), "need dial_allow"},
		{"placeholder of the connection with dial_allow", allowed("{l4.http.host}:80", `"*.example.org","example.org","10.0.0.0/8","192.0.2.1","2001:db8::/32","::1"`), ""},
		{"port from a placeholder", dial("10.0.0.5:{l4.http.header.Port}"), "need dial_allow"},
		{"placeholder after a network", allowed("tcp4/{l4.http.host}:80", `"10.0.0.0/8"`), ""},
		{"placeholder with a slash in it", allowed("{l4.vars.a/b}:80", `"10.0.0.0/8"`), ""},
		{"placeholder in the network", allowed("{l4.vars.network}/10.0.0.5:80", `"10.0.0.0/8"`), `upstream "{l4.vars.network}/10.0.0.5:80": the network cannot be from a placeholder`},
		{"placeholder in a part of the network", allowed("tcp{l4.vars.version}/10.0.0.5:80", `"10.0.0.0/8"`), "the network cannot be from a placeholder"},
		{"placeholder in the path of a Unix socket", allowed("unix//run/{l4.http.host}", `"10.0.0.0/8"`), "the path of a Unix socket cannot depend on the connection"},
		{"placeholder with udp", allowed("udp/{l4.http.host}:53", `"10.0.0.0/8"`), "relay carries streams, not datagrams"},
		{"placeholder with an unknown network", allowed("sctp/{l4.http.host}:53", `"10.0.0.0/8"`), `unknown network "sctp"`},
		{"dial_allow everything", allowed("{l4.http.host}:80", `"*"`), "dial_allow: * would permit every address"},
		{"dial_allow every address", allowed("{l4.http.host}:80", `"0.0.0.0/0","::/0"`), ""},
		{"dial_allow asterisk in a label", allowed("{l4.http.host}:80", `"a*.example.org"`), `dial_allow: "a*.example.org" is neither a host`},
		{"dial_allow two asterisks", allowed("{l4.http.host}:80", `"*.*.example.org"`), `dial_allow: "*.*.example.org" is neither a host`},
		{"dial_allow with a port", allowed("{l4.http.host}:80", `"example.org:80"`), `dial_allow: "example.org:80" is neither a host`},
		{"dial_allow empty entry", allowed("{l4.http.host}:80", `""`), `dial_allow: "" is neither a host`},
		{"dial_allow bad network", allowed("{l4.http.host}:80", `"10.0.0.0/33"`), "dial_allow: parsing CIDR expression: '10.0.0.0/33'"},
		{"dial_allow IPv4 as IPv6", allowed("{l4.http.host}:80", `"::ffff:10.0.0.0/104"`), `dial_allow: "::ffff:10.0.0.0/104": write it as IPv4`},
		{"dial_allow with a zone", allowed("{l4.http.host}:80", `"fe80::1%eth0"`), `dial_allow: "fe80::1%eth0": an address here has no zone`},
		{"dial_allow duplicate", allowed("{l4.http.host}:80", `"a.example","A.example"`), `dial_allow: duplicate entry "a.example"`},
		{"udp", dial("udp/10.0.0.5:53"), `upstream "udp/10.0.0.5:53": relay carries streams, not datagrams`},
		{"udp6", dial("udp6/[::1]:53"), "relay carries streams, not datagrams"},
		{"unixgram", dial("unixgram//run/a"), "relay carries streams, not datagrams"},
		{"ip", dial("ip/10.0.0.5:1"), "relay carries streams, not datagrams"},
		{"unknown network", dial("sctp/10.0.0.5:80"), `unknown network "sctp": use tcp, tcp4, tcp6 or unix`},
		{"unixpacket", dial("unixpacket//run/a"), `unknown network "unixpacket": use tcp, tcp4, tcp6 or unix`},
		{"fd", dial("fd/3"), `unknown network "fd": use tcp, tcp4, tcp6 or unix`},
		{"the virtual network", dial("streamprox/web:80"), `unknown network "streamprox"`},
		{"tcp6", dial("tcp6/[::1]:80"), ""},
		{"unix", dial("unix//run/a"), ""},
		{"tls server_name with a placeholder", upstream(`"dial":["10.0.0.5:9000"],"tls":{"server_name":"{l4.tls.server_name}"}`), "placeholders that depend on the connection need dial_allow"},
		{"tls with an unreadable certificate", upstream(`"dial":["10.0.0.5:9000"],"tls":{"client_certificate_file":"nowhere.pem","client_certificate_key_file":"nowhere.key"}`), "nowhere.pem"},
		{"header policy", `{"handler":"proxy","upstreams":[{"dial":["10.0.0.5:9000"]}],"load_balancing":{"selection":{"policy":"header","field":"X-Tenant"}}}`, ""},
	})
}
