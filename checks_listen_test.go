package streamprox

import (
	"strings"
	"testing"
)

func TestTwoServersOnOneAddress(t *testing.T) {
	const (
		relay = `{"handler":"relay","upstreams":[{"dial":["10.0.0.5:80"]}]}`
		bind  = "the system would split clients between them at random; add the missing 'bind streamprox/<name>' to its sites"
	)
	quoted := func(addresses string) string { return `["` + strings.Join(strings.Fields(addresses), `","`) + `"]` }
	l4 := func(name, addresses string) string {
		return `"` + name + `":{"listen":` + quoted(addresses) + `,"routes":[{"handle":[` + relay + `]}]}`
	}
	site := func(name, addresses, more string) string {
		return `"` + name + `":{"listen":` + quoted(addresses) + `,"automatic_https":{"disable":true}` + more + `}`
	}
	const secure = `,"tls_connection_policies":[{}]`
	tests := []struct{ name, layer4, http, want string }{
		{"layer4 and HTTP", l4("front", ":8080"), site("web", ":8080", ""), "layer4 server front and HTTP server web both listen on :8080: " + bind},
		{"other ports", l4("front", ":8080"), site("web", ":8081", ""), ""},
		{"the virtual network", l4("front", ":80"), site("web", "streamprox/web:80", ""), ""},
		{"bound to both", l4("front", ":80"), site("web", "streamprox/web:80 :80", ""), bind},
		{"one of several addresses", l4("front", ":1 :2"), site("web", ":3 :2", ""), "both listen on :2"},
		{"ranges", l4("front", ":8000-8010"), site("web", ":8010-8020", ""), "both listen on :8010"},
		{"a range and a port", l4("front", ":8000-8010"), site("web", "tcp/:8005", ""), "both listen on :8005"},
		{"IPv6 wildcard", l4("front", ":8080"), site("web", "[::]:8080", ""), "both listen on [::]:8080 (also written :8080)"},
		{"IPv6 wildcard of one family", l4("front", ":8080"), site("web", "tcp6/:8080", ""), "both listen on tcp6/:8080"},
		{"IPv4 wildcard", l4("front", "tcp4/0.0.0.0:8080"), site("web", "tcp4/:8080", ""), "both listen on tcp4/:8080 (also written tcp4/0.0.0.0:8080)"},
		{"IPv4 wildcard, on which Go listens for IPv6 too", l4("front", ":8080"), site("web", "0.0.0.0:8080", ""), "both listen on 0.0.0.0:8080 (also written :8080)"},
		{"both wildcards", l4("front", "[::]:8080"), site("web", "0.0.0.0:8080", ""), "both listen on 0.0.0.0:8080 (also written [::]:8080)"},
		{"wildcards of IPv4 and IPv6", l4("front", "tcp4/0.0.0.0:8080"), site("web", "tcp6/[::]:8080", ""), ""},
		{"IPv4 wildcard beside dual stack", l4("front", ":8080"), site("web", "tcp4/0.0.0.0:8080", ""), ""},
		{"an address beside the wildcard", l4("front", ":8080"), site("web", "127.0.0.1:8080", ""), ""},
		{"localhost", l4("front", "localhost:8080"), site("web", "127.0.0.1:8080", ""), "both listen on 127.0.0.1:8080 (also written localhost:8080)"},
		{"localhost of IPv6", l4("front", "tcp6/localhost:8080"), site("web", "[::1]:8080", ""), "both listen on [::1]:8080"},
		{"mapped IPv4", l4("front", "[::ffff:127.0.0.1]:8080"), site("web", "127.0.0.1:8080", ""), "both listen on"},
		{"other addresses", l4("front", "127.0.0.1:8080"), site("web", "127.0.0.2:8080", ""), ""},
		{"chosen by the system", l4("front", "127.0.0.1:0"), site("web", "127.0.0.1:0", ""), ""},
		{"Unix sockets", l4("front", "unix//run/a.sock"), site("web", "unix//run/a.sock|0222", ""), "both listen on unix//run/a.sock"},
		{"other Unix sockets", l4("front", "unix//run/a.sock"), site("web", "unix//run/b.sock", ""), ""},
		{"a placeholder", l4("front", "{env.STREAMPROX_CHECKS_TEST}:8080"), site("web", ":8080", ""), "both listen on :8080"},

		{"HTTP/3 alone", l4("front", ":443"), site("web", ":443", secure+`,"protocols":["h3"]`), ""},
		{"HTTP/3 alone on that address", l4("front", ":443"), site("web", ":443 streamprox/web:443", secure+`,"listen_protocols":[["h3"],["h1","h2"]]`), ""},
		{"HTTP/3 in addition on that address", l4("front", ":443"), site("web", ":443", secure+`,"protocols":["h1"],"listen_protocols":[["","h3"]]`), bind},
		{"HTTP/2 without TLS", l4("front", ":8080"), site("web", ":8080", `,"protocols":["h2"]`), ""},
		{"HTTP/2 with TLS", l4("front", ":8443"), site("web", ":8443", secure+`,"protocols":["h2"]`), bind},
		{"HTTP/3 beside UDP", l4("front", ":443") + `,"dns":{"listen":["udp/:8443"]}`, site("web", ":8443", secure), "layer4 server dns and HTTP server web both listen on udp/:8443: the system would split clients between them at random; set 'protocols h1 h2' for the HTTP server"},
		{"UDP without HTTP/3", l4("front", ":443") + `,"dns":{"listen":["udp/:8443"]}`, site("web", ":8443", secure+`,"protocols":["h1","h2"]`), ""},
		{"UDP without TLS", l4("front", ":443") + `,"dns":{"listen":["udp/:8080"]}`, site("web", ":8080", ""), ""},

		{"two of layer4", l4("a", ":8080") + "," + l4("b", ":8080"), "", "layer4 server a and layer4 server b both listen on :8080: the system would split clients between them at random; put their routes into one server"},
		{"two of layer4, one without handlers of this package", l4("a", ":8080") + `,"b":{"listen":[":8080"]}`, "", "layer4 server a and layer4 server b both"},
		{"two of layer4, TCP and UDP", l4("a", ":8080") + `,"b":{"listen":["udp/:8080"]}`, "", ""},
		{"twice", l4("a", ":8080 :8081 :8080"), "", "layer4 server a listens twice on :8080; write the address once"},
		{"twice, in a range", l4("a", ":8080-8090 :8085"), "", "layer4 server a listens twice on :8085"},
	}
	t.Setenv("STREAMPROX_CHECKS_TEST", "")
	const wrapped = `"wrapped":{"listen":[":9999"],"automatic_https":{"disable":true},"listener_wrappers":[{"wrapper":"layer4","routes":[{"handle":[` + relay + `]}]}]}`
	for _, test := range tests {
		load := func(name, layer4, http string) {
			t.Run(test.name+name, func(t *testing.T) {
				// Apps load in the order of a map.
				for range 6 {
					_, err := loadApps(t, `{"layer4":{"servers":{`+layer4+`}},"http":{"servers":{`+http+`}}}`)
					checkError(t, err, test.want)
				}
			})
		}
		load("", test.layer4, test.http)
		// The same with no handler of this package but one in a listener wrapper.
		load(", seen from a wrapper", strings.ReplaceAll(test.layer4, relay, `{"handler":"close"}`), strings.TrimPrefix(test.http+","+wrapped, ","))
		// And with some in both.
		load(", seen from both", test.layer4, strings.TrimPrefix(test.http+","+wrapped, ","))
	}
}

// TestRedirectsOfAutomaticHTTPS looks at the server on the HTTP port that automatic
// HTTPS adds.
func TestRedirectsOfAutomaticHTTPS(t *testing.T) {
	const (
		layer4  = "layer4 {\n :80 {\n route {\n echo\n }\n }\n }\n"
		wrapper = "servers {\n protocols h1\n listener_wrappers {\n layer4 {\n route {\n inspect {\n route {\n http_app\n }\n }\n }\n }\n }\n }\n"
		both    = "layer4 {\n :80 :443 {\n route {\n http_app web\n }\n }\n }\n"
		http3   = "example.com {\n bind 0.0.0.0 {\n protocols h3\n }\n bind streamprox/web {\n protocols h1 h2\n }\n respond hello\n}\n"
		want    = "layer4 server srv0 and HTTP server remaining_auto_https_redirects both listen on :80: the system would split clients between them at random; it holds the redirects of automatic HTTPS: turn them off with 'auto_https disable_redirects', or add 'bind streamprox/<name>' to the sites"
	)
	tests := []struct{ name, config, want string }{
		{"layer4 on the HTTP port", "{\n" + layer4 + wrapper + "}\nexample.com {\n respond hello\n}\n", want},
		{"redirects off", "{\n auto_https disable_redirects\n" + layer4 + wrapper + "}\nexample.com {\n respond hello\n}\n", ""},
		{"another HTTP port", "{\n http_port 8080\n" + layer4 + wrapper + "}\nexample.com {\n respond hello\n}\n", ""},
		{"site bound to one address", "{\n" + layer4 + wrapper + "}\nexample.com {\n bind 127.0.0.1\n respond hello\n}\n", ""},
		{"both ports behind layer4", "{\n" + both + "}\nexample.com {\n bind streamprox/web\n respond hello\n}\n", ""},
		{"both ports behind layer4, and HTTP/3", "{\n" + both + "}\n" + http3, "layer4 server srv0 and HTTP server remaining_auto_https_redirects both listen on 0.0.0.0:80 (also written :80)"},
		{"both ports behind layer4, and HTTP/3, redirects off", "{\n auto_https disable_redirects\n" + both + "}\n" + http3 + "http://example.com {\n bind streamprox/web\n redir https://{host}{uri}\n}\n", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for range 6 { // apps load in the order of a map
				_, err := loadCaddyfile(t, test.config)
				checkError(t, err, test.want)
			}
		})
	}
}

func TestUDPIsRefused(t *testing.T) {
	const inspect = `{"handler":"inspect","routes":[{"handle":[{"handler":"echo"}]}]}`
	server := func(listen, handlers string) string {
		return `{"listen":[` + listen + `],"routes":[` + handlers + `]}`
	}
	route := func(handlers string) string { return `{"handle":[` + handlers + `]}` }
	subroute := func(handlers string) string {
		return `{"handler":"subroute","routes":[` + route(handlers) + `]}`
	}
	const echo = `{"handler":"echo"}`
	const udp, tcp, unix = `"udp/127.0.0.1:0"`, `"127.0.0.1:0"`, `"unix//tmp/streamprox-config-test"`
	const want = "server datagrams listens on udp/127.0.0.1:0: inspect reads streams, not datagrams; move it to a server that listens on TCP or a Unix socket"
	tests := []struct{ name, servers, want string }{
		{"tcp", `"streams":` + server(tcp, route(inspect)), ""},
		{"unix", `"streams":` + server(unix, route(inspect)), ""},
		{"udp", `"datagrams":` + server(udp, route(inspect)), want},
		{"udp beside tcp", `"datagrams":` + server(tcp+","+udp, route(inspect)), want},
		{"unixgram", `"datagrams":` + server(`"unixgram//tmp/streamprox-config-test"`, route(inspect)), "listens on unixgram//tmp/streamprox-config-test: inspect reads streams"},
		{"udp by a placeholder", `"datagrams":` + server(`"{env.STREAMPROX_TEST_LISTEN}"`, route(inspect)), "inspect reads streams, not datagrams"},
		{"not the first handler", `"datagrams":` + server(udp, route(`{"handler":"throttle"},`+inspect)), want},
		{"not the first route", `"datagrams":` + server(udp, route(echo)+","+route(inspect)), want},
		{"in a subroute", `"datagrams":` + server(udp, route(subroute(inspect))), want},
		{"in a subroute of a subroute", `"datagrams":` + server(udp, route(subroute(subroute(inspect)))), want},
		{"in a branch of tee", `"datagrams":` + server(udp, route(`{"handler":"tee","branch":[`+inspect+`]},`+echo)), want},
		{"in inspect", `"datagrams":` + server(udp, route(`{"handler":"inspect","routes":[`+route(inspect)+`]}`)), want},
		{"udp without inspect", `"datagrams":` + server(udp, route(echo)), ""},
		{"udp without inspect beside a server with it", `"datagrams":` + server(udp, route(echo)) + `,"streams":` + server(tcp, route(inspect)), ""},
		{"udp with inspect beside a server with it", `"datagrams":` + server(udp, route(inspect)) + `,"streams":` + server(tcp, route(inspect)), want},
	}
	t.Setenv("STREAMPROX_TEST_LISTEN", "udp/127.0.0.1:0")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadApps(t, `{"layer4":{"servers":{`+test.servers+`}}}`)
			checkError(t, err, test.want)
		})
	}
}

func TestRelayToItselfWarns(t *testing.T) {
	tests := []struct {
		name, listen, dial string
		warned             bool
	}{
		{"wildcard, loopback", ":8080", "127.0.0.1:8080", true},
		{"wildcard, localhost", ":8080", "localhost:8080", true},
		{"wildcard, IPv6 loopback", ":8080", "[::1]:8080", true},
		{"all of IPv4, loopback", "0.0.0.0:8080", "127.0.0.1:8080", true},
		{"0.0.0.0, on which Go listens for IPv6 too", "0.0.0.0:8080", "[::1]:8080", true},
		{"all of IPv4, IPv6 loopback", "tcp4/:8080", "[::1]:8080", false},
		{"all of IPv4, no host", "tcp4/:8080", "0.0.0.0:8080", true},
		{"the same address", "10.0.0.5:8080", "10.0.0.5:8080", true},
		{"the same name", "example.org:8080", "Example.org:8080", true},
		{"no host", "127.0.0.1:8080", ":8080", true},
		{"a range", ":8000-8100", "127.0.0.1:8080", true},
		{"outside the range", ":8000-8079", "127.0.0.1:8080", false},
		{"the second address", "127.0.0.1:9000 127.0.0.1:8080", "localhost:8080", true},
		{"the network of the family", "tcp4/:8080", "tcp4/127.0.0.1:8080", true},
		{"another port", ":8080", "127.0.0.1:8081", false},
		{"another host", ":8080", "10.0.0.5:8080", false},
		{"another loopback address", "127.0.0.1:8080", "127.0.0.2:8080", false},
		{"a Unix socket", "unix//run/a.sock|0222", "unix//run/a.sock", true},
		{"another Unix socket", "unix//run/a.sock", "unix//run/b.sock", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			warnings, err := loadCaddyfile(t, "{\n layer4 {\n "+test.listen+" {\n route {\n inspect {\n route {\n relay 10.0.0.6:80 "+test.dial+"\n }\n }\n }\n }\n }\n}\n")
			checkError(t, err, "")
			var want []warned
			if test.warned {
				want = []warned{{"srv0", "0/inspect/0", "relay sends the stream back to the server it comes from; name the address of another server; for a site of this process, bind it to streamprox/<name> and use 'http_app <name>'"}}
			}
			checkWarned(t, warnings, want)
		})
	}
	t.Run("in a wrapper", func(t *testing.T) {
		warnings, err := loadCaddyfile(t, wrapperOf("", "route {\ninspect {\nroute {\nrelay 127.0.0.1:8080\n}\n}\n}")+"http://:8080 {\n respond outer\n}\n")
		checkError(t, err, "")
		checkWarned(t, warnings, []warned{{"srv0", "0/inspect/0", "relay sends the stream back"}})
	})
}
