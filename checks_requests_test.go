package streamprox

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
)

func TestUnroutedRequestsWarn(t *testing.T) {
	const (
		tls  = "https://example.com {\n respond hello\n}\n"
		chat = "@chat http_request path /chat/*\n route @chat {\n relay 10.0.0.5:9000\n }\n"
	)
	falls := func(route, handler string) []warned {
		return []warned{{"srv0", route, "a request that no route of inspect takes goes to a later handler with all that follow on its connection; end the routes of inspect with one without matchers that holds the handler; " + handler}}
	}
	keeps := func(route, handler string) []warned {
		return []warned{{"srv0", route, "only the first request of a connection is routed: the handler keeps the connection; use 'relay' or 'http_app'; or add 'inspected' with outcomes other than http to the matchers if this is no route for HTTP; " + handler}}
	}
	line := func(route, handler string) []warned {
		return []warned{{"srv0", route, "only the first request of a connection is routed: 'until line' does not wait for heads; use 'until headers'; or write 'reuse pin' if nothing depends on the route of later requests; " + handler}}
	}
	tests := []checkCase{
		// Falling through.
		{"nothing follows", inInspect(chat), nil},
		{"http_app follows", inRoute("inspect {\n"+chat+"}\nhttp_app web") + siteWeb, falls("0", "http_app")},
		{"relay follows", inRoute("inspect {\n" + chat + "}\nrelay 10.0.0.5:80"), falls("0", "relay")},
		{"proxy follows", inRoute("inspect {\n" + chat + "}\nproxy 10.0.0.5:80"), falls("0", "proxy")},
		{"close follows", inRoute("inspect {\n" + chat + "}\nclose"), nil},
		{"what follows pins, as asked for", inRoute("inspect {\n"+chat+"}\nhttp_app web {\n reuse pin\n}") + siteWeb, nil},
		{"inspect without routes", inRoute("inspect\nhttp_app web") + siteWeb, falls("0", "http_app")},
		{"a later handler, behind one that passes on", inRoute("inspect {\n"+chat+"}\nthrottle {\n read_bytes_per_second 1000\n}\nhttp_app web") + siteWeb, falls("0", "http_app")},
		{"a later route", inRoute("inspect {\n"+chat+"}\n}\nroute {\nhttp_app web") + siteWeb, falls("0", "http_app")},
		{"a later route for SSH", inRoute("inspect {\n" + chat + "}\n}\n@ssh ssh\nroute @ssh {\nrelay 10.0.0.5:22"), nil},
		{"later routes for SSH and all", inRoute("inspect {\n"+chat+"}\n}\n@ssh ssh\nroute @ssh {\nrelay 10.0.0.5:22\n}\nroute {\nhttp_app web") + siteWeb, falls("0", "http_app")},
		{"within a subroute, after it", inRoute("subroute {\nroute {\ninspect {\n"+chat+"}\n}\n}\nhttp_app web") + siteWeb, falls("0/subroute/0", "http_app")},
		{"a subroute follows", inRoute("inspect {\n"+chat+"}\nsubroute {\nroute {\nhttp_app web\n}\n}") + siteWeb, falls("0", "http_app")},
		{"an inspect follows", inRoute("inspect {\n"+chat+"}\ninspect {\nroute {\nhttp_app web\n}\n}") + siteWeb, nil},
		{"a route for all is the last", inRoute("inspect {\n"+chat+"route {\nhttp_app web\n}\n}\nrelay 10.0.0.5:22") + siteWeb, nil},
		{"a route for all HTTP", inRoute("inspect {\n"+chat+"@http inspected http malformed\nroute @http {\nhttp_app web\n}\n}\nrelay 10.0.0.5:22") + siteWeb, nil},
		{"a route for all but TLS", inRoute("inspect {\n"+chat+"@rest not inspected tls\nroute @rest {\nhttp_app web\n}\n}\nrelay 10.0.0.5:22") + siteWeb, nil},
		{"a route for TLS", inRoute("inspect {\n" + chat + "@tls inspected tls\nroute @tls {\nrelay 10.0.0.5:443\n}\n}\nrelay 10.0.0.5:80"), falls("0", "relay")},
		{"in a route of another inspect", inInspectRoute("inspect {\n" + chat + "}\nhttp_app web"), falls("0/inspect/0", "http_app")},

		// A handler that does not give the connection back.
		{"relay and http_app", inInspect(chat + "route {\nhttp_app web\n}"), nil},
		{"proxy", inInspectRoute("proxy 10.0.0.5:80"), keeps("0/inspect/0", "proxy")},
		{"echo", inInspectRoute("echo"), keeps("0/inspect/0", "echo")},
		{"socks5", inInspectRoute("socks5"), keeps("0/inspect/0", "socks5")},
		{"close", inInspectRoute("close"), nil},
		{"proxy in the second route", inInspect(chat + "@a http_request path /a\nroute @a {\nproxy 10.0.0.5:80\n}"), keeps("0/inspect/1", "proxy")},
		{"proxy by address", inInspect("@a remote_ip 10.0.0.0/8\nroute @a {\nproxy 10.0.0.5:80\n}"), keeps("0/inspect/0", "proxy")},
		{"proxy for SSH", inInspect("@a ssh\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for TLS", inInspect("@a tls\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for PostgreSQL", inInspect("@a postgres\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for silence", inInspect("@a inspected silent other\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for HTTP and other", inInspect("@a inspected http other\nroute @a {\nproxy 10.0.0.5:22\n}"), keeps("0/inspect/0", "proxy")},
		{"proxy for what is not HTTP", inInspect("@a not inspected http\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for SSH or a path", inInspect("@a ssh\n@b http_request path /a\nroute @a @b {\nproxy 10.0.0.5:22\n}"), keeps("0/inspect/0", "proxy")},
		{"proxy after a route for all HTTP", inInspect("@http inspected http\nroute @http {\nhttp_app web\n}\nroute {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy behind handlers that pass on", inInspectRoute("throttle {\n read_bytes_per_second 1000\n}\nproxy_protocol\nproxy 10.0.0.5:80"), keeps("0/inspect/0", "proxy")},
		{"proxy in a subroute", inInspectRoute("subroute {\n@a http_request path /a\nroute @a {\nproxy 10.0.0.5:80\n}\nroute {\nhttp_app web\n}\n}"), keeps("0/inspect/0", "proxy")},
		{"proxy in a subroute, for SSH", inInspectRoute("subroute {\n@a ssh\nroute @a {\nproxy 10.0.0.5:80\n}\nroute {\nhttp_app web\n}\n}"), nil},
		{"proxy after a subroute that passes on", inInspectRoute("subroute {\n@a http_request path /a\nroute @a {\nhttp_app web\n}\n}\nproxy 10.0.0.5:80"), keeps("0/inspect/0", "proxy")},
		{"proxy after inspect, in a route that passes on", inRoute("inspect {\nroute {\nvars {\n a b\n }\n}\n}\nproxy 10.0.0.5:80"), keeps("0/inspect/0", "proxy")},
		{"http_app after inspect, in a route that passes on", inRoute("inspect {\nroute {\nvars {\n a b\n }\n}\n}\nhttp_app web") + siteWeb, nil},
		{"in the branch of tee", inRoute("tee {\ninspect {\nroute {\nproxy 10.0.0.5:80\n}\n}\n}\necho"), keeps("0/tee/inspect/0", "proxy")},
		{"in a wrapper", wrapperOf("", "route {\ninspect {\n"+chat+"@a http_request path /a\nroute @a {\nproxy 10.0.0.5:80\n}\nroute {\nhttp_app\n}\n}\n}") + siteOuter, keeps("0/inspect/1", "proxy")},
		{"in a wrapper, a route that ends nowhere", wrapperOf("", "route {\ninspect {\nroute {\nrewrite_head {\n host a\n}\n}\n}\n}") + siteOuter,
			[]warned{{"srv0", "0/inspect/0", "the rest stays with the wrapped server; end the route with 'http_app'"}}},
		{"in a wrapper, no route for the rest", wrapperOf("", "route {\ninspect {\n"+chat+"}\n}") + siteOuter,
			[]warned{{"srv0", "0", "a request that no route takes reaches the wrapped server with all that follow on its connection; end the routes with 'route { http_app }'"}}},
		{"in a wrapper, in the branch of tee", wrapperOf("", "route {\ntee {\ninspect {\n"+chat+"}\n}\n}") + siteOuter, nil},
		{"in a wrapper, in its second route", wrapperOf("", "@ssh ssh\nroute @ssh {\nproxy 10.0.0.5:22\n}\nroute {\ninspect {\n"+chat+"}\n}") + siteOuter,
			[]warned{{"srv0", "1", "a request that no route takes reaches the wrapped server"}}},

		// until line.
		{"until line, relay", inInspect("until line\nroute {\nrelay 10.0.0.5:80\n}"), line("0/inspect/0", "relay")},
		{"until line, http_app", inInspect("until line\nroute {\nhttp_app web\n}"), line("0/inspect/0", "http_app")},
		{"until line, pinned as asked for", inInspect("until line\nroute {\nhttp_app web {\nreuse pin\n}\n}"), nil},
		{"until line, for TLS", inInspect("until line\n@tls inspected tls\nroute @tls {\nrelay 10.0.0.5:443\n}"), nil},
		{"until line, a whole head later", inInspect("until line\nroute {\ninspect {\nroute {\nhttp_app web\n}\n}\n}"), nil},
		{"until line, in a subroute", inInspect("until line\nroute {\nsubroute {\nroute {\nhttp_app web\n}\n}\n}"), line("0/inspect/0", "http_app")},

		// HTTP/2 in a wrapper.
		{"h2 for the wrapped server", wrapperOf("", "route {\ninspect {\n@h2 inspected http2\nroute @h2 {\nhttp_app\n}\nroute {\nhttp_app\n}\n}\n}") + tls,
			[]warned{{"srv0", "0/inspect/0", "a connection of HTTP/2 carries many requests, of which none is routed; set 'protocols h1' for the server"}}},
		{"h2 without TLS", wrapperOf("", "route {\ninspect {\n@h2 inspected http2\nroute @h2 {\nrelay 10.0.0.5:80\n}\nroute {\nhttp_app\n}\n}\n}") + siteOuter,
			[]warned{{"srv0", "0/inspect/0", "a connection of HTTP/2"}}},
		{"h2 closed", wrapperOf("", "route {\ninspect {\n@h2 inspected http2\nroute @h2 {\nclose\n}\nroute {\nhttp_app\n}\n}\n}") + tls, nil},
		{"h1 alone", wrapperOf("protocols h1", "route {\ninspect {\n@h2 inspected http2\nroute @h2 {\nhttp_app\n}\nroute {\nhttp_app\n}\n}\n}") + tls, nil},
		{"h2 in a server of layer4", inInspect("@h2 inspected http2\nroute @h2 {\nhttp_app web\n}\nroute {\nhttp_app web\n}"), nil},
	}
	runCheckCases(t, tests)
	t.Run("a handler of another plugin", func(t *testing.T) {
		warnings, err := loadApps(t, "{"+inServer(`{"handler":"inspect","routes":[{"handle":[{"handler":"streamprox_checks_test","routes":7}]}]}`)+"}")
		checkError(t, err, "")
		checkWarned(t, warnings, keeps("0/inspect/0", "streamprox_checks_test"))
	})
}

func init() { caddy.RegisterModule(new(foreignHandler)) }

// foreignHandler is a handler of another plugin.
type foreignHandler struct {
	Routes int `json:"routes"`
}

func (*foreignHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.streamprox_checks_test", New: func() caddy.Module { return new(foreignHandler) }}
}

func (*foreignHandler) Handle(*layer4.Connection, layer4.Handler) error { return nil }

// TestRequestsLeftToAWrappedServerWarn checks that a configuration which routes only the
// first request of some connections says so.
func TestRequestsLeftToAWrappedServerWarn(t *testing.T) {
	const text = "end the routes with 'route { http_app }'"
	const chat = "@chat http_request path /chat/*\n route @chat {\n close\n }\n"
	wrapper := func(inspect string) string {
		return "{\n servers :8080 {\n listener_wrappers {\n layer4 {\n route {\n " + inspect + "\n }\n }\n }\n }\n}\nhttp://:8080 {\n respond outer\n}\n"
	}
	for name, test := range map[string]struct {
		config string
		warned bool
	}{
		"no route":              {wrapper("inspect"), true},
		"no route for the rest": {wrapper("inspect {\n " + chat + "}"), true},
		"a route for the rest":  {wrapper("inspect {\n " + chat + "route {\n http_app\n }\n}"), false},
		"in a server of layer4": {inRoute("inspect {\n " + chat + "}"), false},
		"a route for all of it": {wrapper("inspect {\n route {\n close\n }\n}"), false},
	} {
		t.Run(name, func(t *testing.T) {
			warnings, err := loadCaddyfile(t, test.config)
			checkError(t, err, "")
			checkWarnings(t, warnings, test.warned, text)
		})
	}
}

// TestInspectThatLeadsNowhereWarns looks at an inspect without routes, and at protocols that
// the HTTP app does not speak.
func TestInspectThatLeadsNowhereWarns(t *testing.T) {
	const (
		other = "http_app answers other protocols with 400; leave 'other' out of 'inspected', or use another handler, such as 'relay', for these protocols"
		empty = "inspect has no routes, and nothing follows that takes a connection; give it routes, as in 'route { … }'"
	)
	runCheckCases(t, []checkCase{
		{"empty", inRoute("inspect"), oneWarning("0", empty)},
		{"empty, close follows", inRoute("inspect\nclose"), oneWarning("0", empty)},
		{"empty, another follows", inRoute("inspect\ninspect {\nroute {\nrelay a:1\n}\n}"), oneWarning("0", empty)},
		{"empty, and pinned as asked for", inRoute("inspect\nhttp_app web {\n reuse pin\n}") + siteWeb, nil},
		{"other to http_app", inInspect("@a inspected http other\nroute @a {\nhttp_app web\n}"), oneWarning("0/inspect/0", other)},
		{"other to http_app behind others", inInspect("@a inspected other\nroute @a {\n" + rewriteHost + "subroute {\nroute {\nhttp_app web\n}\n}\n}"), oneWarning("0/inspect/0", other)},
		{"other to http_app or relay", inInspect("@a inspected other\nroute @a {\nsubroute {\n@a ssh\nroute @a {\nrelay a:1\n}\nroute {\nhttp_app web\n}\n}\n}"), nil},
		{"other to relay", inInspect("@a inspected other\nroute @a {\nrelay a:1\n}"), nil},
	})
}

// TestLastRouteSaysWhatItTakes checks that a route without matchers says, once, that
// bytes which are neither HTTP nor TLS are not for it.
func TestLastRouteSaysWhatItTakes(t *testing.T) {
	const text = "the last route of inspect takes http and tls only; bytes of other protocols reach it with 'inspected other'"
	tests := []struct {
		name, routes string
		want         string // the route
	}{
		{"no matchers", "@a ssh\nroute @a {\nclose\n}\nroute {\nclose\n}", "0/inspect/1"},
		{"matchers", "@a ssh\nroute @a {\nclose\n}", ""},
		{"not the last", "route {\nclose\n}\n@a ssh\nroute @a {\nclose\n}", ""},
		{"no route", "", ""},
		{"http_app", "@a ssh\nroute @a {\nclose\n}\nroute {\nhttp_app web\n}", ""},
		{"http_app behind others", "route {\nrewrite_head {\n host a\n}\nhttp_app web\n}", ""},
		{"relay or http_app", "route {\nsubroute {\n@a ssh\nroute @a {\nclose\n}\nroute {\nhttp_app web\n}\n}\n}", "0/inspect/0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadCaddyfile(t, inRoute("inspect {\n"+test.routes+"\n}"))
			checkError(t, err, "")
			var got []string
			for line := range strings.Lines(configLogs.last) {
				var entry struct{ Level, Msg, Server, Route string }
				if _ = json.Unmarshal([]byte(line), &entry); entry.Msg == text {
					got = append(got, entry.Level+" "+entry.Server+" "+entry.Route)
				}
			}
			var want []string
			if test.want != "" {
				want = []string{"info srv0 " + test.want}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got lines %q, want %q", got, want)
			}
		})
	}
}

func TestListenerWrapperOnTLS(t *testing.T) {
	const (
		catchAll  = "inspect {\n route {\n http_app\n }\n}"
		takesH2   = "inspect {\n @h2 inspected http2\n route @h2 {\n http_app\n }\n}"
		secondary = "inspect {\n @a {\n ssh\n inspected http2 other\n }\n @b inspected tls\n route @b @a {\n http_app\n }\n}"
		https     = "https://example.com {\n respond hello\n}\n"
		plain     = "http://example.com {\n respond hello\n}\n"
		want      = "this server offers HTTP/2 on TLS, which no route of inspect takes: set 'protocols h1' for the server, or name the outcome with 'inspected http2' in a route"
	)
	server := func(options, wrappers, site string) string {
		return "{\n servers {\n" + options + "\n listener_wrappers {\n" + wrappers + "\n }\n }\n}\n" + site
	}
	layer4 := func(handlers string) string { return "layer4 {\n route {\n" + handlers + "\n }\n}" }
	tests := []struct{ name, config, want string }{
		{"h2 offered by default", server("", layer4(catchAll), https), want},
		{"h2 offered", server("protocols h1 h2", layer4(catchAll), https), want},
		{"h1 alone", server("protocols h1", layer4(catchAll), https), ""},
		{"h1 and h3", server("protocols h1 h2 h3", layer4(catchAll), https), want},
		{"a route takes http2", server("", layer4(takesH2), https), ""},
		{"a route takes http2, among others", server("", layer4(secondary), https), ""},
		{"no route", server("", layer4("inspect"), https), want},
		{"in a subroute", server("", layer4("subroute {\n route {\n"+catchAll+"\n }\n}"), https), want},
		{"another handler", server("", layer4("proxy 10.0.0.5:9000"), https), ""},
		{"before TLS", server("", layer4(catchAll)+"\n tls", https), ""},
		{"before TLS, after another", server("", "proxy_protocol\n"+layer4(catchAll)+"\n tls", https), ""},
		{"after TLS, after another", server("", "proxy_protocol\n tls\n"+layer4(catchAll), https), want},
		{"after another wrapper", server("", "http_redirect\n"+layer4(catchAll), https), want},
		{"no TLS", server("", layer4(catchAll), plain), ""},
		{"TLS that offers http/1.1 alone for one name", server("", layer4(catchAll), "https://example.com {\n tls {\n alpn http/1.1\n }\n respond hello\n}\n"), want},
		{"TLS that names h2", server("", layer4(catchAll), "https://example.com {\n tls {\n alpn h2 http/1.1\n }\n respond hello\n}\n"), want},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadCaddyfile(t, test.config)
			checkError(t, err, test.want)
		})
	}
	t.Run("before and after TLS", func(t *testing.T) {
		_, err := loadCaddyfile(t, server("", layer4("subroute")+"\n tls\n"+layer4(catchAll), https))
		checkError(t, err, want)
	})
}

// TestListenerWrapperAndALPN looks at TLS connection policies as JSON: the Caddyfile
// adapter adds one for all other names, which offers h2.
func TestListenerWrapperAndALPN(t *testing.T) {
	const want = "this server offers HTTP/2 on TLS"
	tests := []struct{ name, policies, want string }{
		{"no policy: no TLS", `[]`, ""},
		{"default", `[{}]`, want},
		{"http/1.1 alone", `[{"alpn":["http/1.1"]}]`, ""},
		{"http/1.1 alone in all", `[{"match":{"sni":["a"]},"alpn":["http/1.1"]},{"alpn":["http/1.1"]}]`, ""},
		{"h2 in one", `[{"match":{"sni":["a"]},"alpn":["http/1.1"]},{"alpn":["h2"]}]`, want},
		{"default in one", `[{"match":{"sni":["a"]},"alpn":["http/1.1"]},{}]`, want},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadApps(t, `{"http":{"servers":{"srv0":{"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},"tls_connection_policies":`+test.policies+`,
				"listener_wrappers":[{"wrapper":"layer4","routes":[{"handle":[{"handler":"inspect"}]}]}]}}}}`)
			checkError(t, err, test.want)
		})
	}
}

// TestEachWrapperIsJudgedByItsPlace checks that what an inspect needs for HTTP/2 depends
// on where its own wrapper stands.
func TestEachWrapperIsJudgedByItsPlace(t *testing.T) {
	const (
		app   = "inspect {\nroute {\nhttp_app\n}\n}"
		h2    = "inspect {\n@h2 inspected http2\nroute @h2 {\nclose\n}\nroute {\nhttp_app\n}\n}"
		inner = "inspect {\n@h2 inspected http2\nroute @h2 {\nclose\n}\nroute {\n" + app + "\n}\n}"
		deep  = "inspect {\n@h2 inspected http2\nroute @h2 {\n" + app + "\n}\nroute {\nhttp_app\n}\n}"
		want  = "this server offers HTTP/2 on TLS, which no route of inspect takes: set 'protocols h1' for the server, or name the outcome with 'inspected http2' in a route"
	)
	tests := []struct{ name, before, after, want string }{
		{"before, and after with a route for it", app, h2, ""},
		{"before, and after without one", app, app, "listener wrapper of server srv0, route wrapper 1/0: " + want},
		{"before with a route for it, and after without", h2, app, "route wrapper 1/0: " + want},
		{"before, and none after", app, "subroute", ""},
		{"none before, and after", "subroute", app, "route wrapper 1/0: " + want},
		{"within another inspect that takes it", "subroute", inner, ""},
		{"within the route for it", "subroute", deep, "route wrapper 1/0/inspect/0: " + want},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadCaddyfile(t, "{\n servers {\n listener_wrappers {\n layer4 {\n route {\n"+test.before+"\n}\n}\n tls\n layer4 {\n route {\n"+test.after+"\n}\n}\n}\n}\n}\nhttps://example.com {\n respond hello\n}\n")
			checkError(t, err, test.want)
		})
	}
}
