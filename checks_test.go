package streamprox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// warned is a warning as the tests compare it: where, and a part of what it says.
type warned struct{ server, route, message string }

// checkWarned compares the warnings that name a fix with those wanted.
func checkWarned(t *testing.T, lines []string, want []warned) {
	t.Helper()
	var got []warned
	for _, line := range lines {
		var entry struct{ Server, Route, Msg, Fix, Handler string }
		_ = json.Unmarshal([]byte(line), &entry)
		if entry.Fix == "" || entry.Server == "" {
			t.Errorf("got warning %s, which names no server or no fix", line)
		}
		got = append(got, warned{entry.Server, entry.Route, entry.Msg + "; " + entry.Fix + "; " + entry.Handler})
	}
	same := slices.EqualFunc(got, want, func(g, w warned) bool {
		return g.server == w.server && g.route == w.route && strings.Contains(g.message, w.message)
	})
	if !same {
		t.Errorf("got warnings %q, want %q", got, want)
	}
}

// wrapperOf puts layer4 routes, and options before them, into the listener wrapper of
// the servers.
func wrapperOf(options, routes string) string {
	return "{\n servers {\n " + options + "\n listener_wrappers {\n layer4 {\n " + routes + "\n }\n }\n }\n}\n"
}

func TestUnroutedRequestsWarn(t *testing.T) {
	const (
		web   = "http://:80 {\n bind streamprox/web\n respond hello\n}\n"
		outer = "http://:8080 {\n respond outer\n}\n"
		tls   = "https://example.com {\n respond hello\n}\n"
		chat  = "@chat http_request path /chat/*\n route @chat {\n relay 10.0.0.5:9000\n }\n"
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
	in := func(inspect string) string {
		config := inRoute("inspect {\n" + inspect + "\n}")
		if strings.Contains(inspect, "http_app web") {
			config += web
		}
		return config
	}
	route := func(handlers string) string { return in("route {\n" + handlers + "\n}") }
	tests := []struct {
		name, config string
		want         []warned
	}{
		// Falling through.
		{"nothing follows", in(chat), nil},
		{"http_app follows", inRoute("inspect {\n"+chat+"}\nhttp_app web") + web, falls("0", "http_app")},
		{"relay follows", inRoute("inspect {\n" + chat + "}\nrelay 10.0.0.5:80"), falls("0", "relay")},
		{"proxy follows", inRoute("inspect {\n" + chat + "}\nproxy 10.0.0.5:80"), falls("0", "proxy")},
		{"close follows", inRoute("inspect {\n" + chat + "}\nclose"), nil},
		{"what follows pins, as asked for", inRoute("inspect {\n"+chat+"}\nhttp_app web {\n reuse pin\n}") + web, nil},
		{"inspect without routes", inRoute("inspect\nhttp_app web") + web, falls("0", "http_app")},
		{"a later handler, behind one that passes on", inRoute("inspect {\n"+chat+"}\nthrottle {\n read_bytes_per_second 1000\n}\nhttp_app web") + web, falls("0", "http_app")},
		{"a later route", inRoute("inspect {\n"+chat+"}\n}\nroute {\nhttp_app web") + web, falls("0", "http_app")},
		{"a later route for SSH", inRoute("inspect {\n" + chat + "}\n}\n@ssh ssh\nroute @ssh {\nrelay 10.0.0.5:22"), nil},
		{"later routes for SSH and all", inRoute("inspect {\n"+chat+"}\n}\n@ssh ssh\nroute @ssh {\nrelay 10.0.0.5:22\n}\nroute {\nhttp_app web") + web, falls("0", "http_app")},
		{"within a subroute, after it", inRoute("subroute {\nroute {\ninspect {\n"+chat+"}\n}\n}\nhttp_app web") + web, falls("0/subroute/0", "http_app")},
		{"a subroute follows", inRoute("inspect {\n"+chat+"}\nsubroute {\nroute {\nhttp_app web\n}\n}") + web, falls("0", "http_app")},
		{"an inspect follows", inRoute("inspect {\n"+chat+"}\ninspect {\nroute {\nhttp_app web\n}\n}") + web, nil},
		{"a route for all is the last", inRoute("inspect {\n"+chat+"route {\nhttp_app web\n}\n}\nrelay 10.0.0.5:22") + web, nil},
		{"a route for all HTTP", inRoute("inspect {\n"+chat+"@http inspected http malformed\nroute @http {\nhttp_app web\n}\n}\nrelay 10.0.0.5:22") + web, nil},
		{"a route for all but TLS", inRoute("inspect {\n"+chat+"@rest not inspected tls\nroute @rest {\nhttp_app web\n}\n}\nrelay 10.0.0.5:22") + web, nil},
		{"a route for TLS", inRoute("inspect {\n" + chat + "@tls inspected tls\nroute @tls {\nrelay 10.0.0.5:443\n}\n}\nrelay 10.0.0.5:80"), falls("0", "relay")},
		{"in a route of another inspect", route("inspect {\n" + chat + "}\nhttp_app web"), falls("0/inspect/0", "http_app")},

		// A handler that does not give the connection back.
		{"relay and http_app", in(chat + "route {\nhttp_app web\n}"), nil},
		{"proxy", route("proxy 10.0.0.5:80"), keeps("0/inspect/0", "proxy")},
		{"echo", route("echo"), keeps("0/inspect/0", "echo")},
		{"socks5", route("socks5"), keeps("0/inspect/0", "socks5")},
		{"close", route("close"), nil},
		{"proxy in the second route", in(chat + "@a http_request path /a\nroute @a {\nproxy 10.0.0.5:80\n}"), keeps("0/inspect/1", "proxy")},
		{"proxy by address", in("@a remote_ip 10.0.0.0/8\nroute @a {\nproxy 10.0.0.5:80\n}"), keeps("0/inspect/0", "proxy")},
		{"proxy for SSH", in("@a ssh\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for TLS", in("@a tls\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for PostgreSQL", in("@a postgres\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for silence", in("@a inspected silent other\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for HTTP and other", in("@a inspected http other\nroute @a {\nproxy 10.0.0.5:22\n}"), keeps("0/inspect/0", "proxy")},
		{"proxy for what is not HTTP", in("@a not inspected http\nroute @a {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy for SSH or a path", in("@a ssh\n@b http_request path /a\nroute @a @b {\nproxy 10.0.0.5:22\n}"), keeps("0/inspect/0", "proxy")},
		{"proxy after a route for all HTTP", in("@http inspected http\nroute @http {\nhttp_app web\n}\nroute {\nproxy 10.0.0.5:22\n}"), nil},
		{"proxy behind handlers that pass on", route("throttle {\n read_bytes_per_second 1000\n}\nproxy_protocol\nproxy 10.0.0.5:80"), keeps("0/inspect/0", "proxy")},
		{"proxy in a subroute", route("subroute {\n@a http_request path /a\nroute @a {\nproxy 10.0.0.5:80\n}\nroute {\nhttp_app web\n}\n}"), keeps("0/inspect/0", "proxy")},
		{"proxy in a subroute, for SSH", route("subroute {\n@a ssh\nroute @a {\nproxy 10.0.0.5:80\n}\nroute {\nhttp_app web\n}\n}"), nil},
		{"proxy after a subroute that passes on", route("subroute {\n@a http_request path /a\nroute @a {\nhttp_app web\n}\n}\nproxy 10.0.0.5:80"), keeps("0/inspect/0", "proxy")},
		{"proxy after inspect, in a route that passes on", inRoute("inspect {\nroute {\nvars {\n a b\n }\n}\n}\nproxy 10.0.0.5:80"), keeps("0/inspect/0", "proxy")},
		{"http_app after inspect, in a route that passes on", inRoute("inspect {\nroute {\nvars {\n a b\n }\n}\n}\nhttp_app web") + web, nil},
		{"in the branch of tee", inRoute("tee {\ninspect {\nroute {\nproxy 10.0.0.5:80\n}\n}\n}\necho"), keeps("0/tee/inspect/0", "proxy")},
		{"in a wrapper", wrapperOf("", "route {\ninspect {\n"+chat+"@a http_request path /a\nroute @a {\nproxy 10.0.0.5:80\n}\nroute {\nhttp_app\n}\n}\n}") + outer, keeps("0/inspect/1", "proxy")},
		{"in a wrapper, a route that ends nowhere", wrapperOf("", "route {\ninspect {\nroute {\nrewrite_head {\n host a\n}\n}\n}\n}") + outer,
			[]warned{{"srv0", "0/inspect/0", "the rest stays with the wrapped server; end the route with 'http_app'"}}},
		{"in a wrapper, no route for the rest", wrapperOf("", "route {\ninspect {\n"+chat+"}\n}") + outer,
			[]warned{{"srv0", "0", "a request that no route takes reaches the wrapped server with all that follow on its connection; end the routes with 'route { http_app }'"}}},
		{"in a wrapper, in the branch of tee", wrapperOf("", "route {\ntee {\ninspect {\n"+chat+"}\n}\n}") + outer, nil},
		{"in a wrapper, in its second route", wrapperOf("", "@ssh ssh\nroute @ssh {\nproxy 10.0.0.5:22\n}\nroute {\ninspect {\n"+chat+"}\n}") + outer,
			[]warned{{"srv0", "1", "a request that no route takes reaches the wrapped server"}}},

		// until line.
		{"until line, relay", in("until line\nroute {\nrelay 10.0.0.5:80\n}"), line("0/inspect/0", "relay")},
		{"until line, http_app", in("until line\nroute {\nhttp_app web\n}"), line("0/inspect/0", "http_app")},
		{"until line, pinned as asked for", in("until line\nroute {\nhttp_app web {\nreuse pin\n}\n}"), nil},
		{"until line, for TLS", in("until line\n@tls inspected tls\nroute @tls {\nrelay 10.0.0.5:443\n}"), nil},
		{"until line, a whole head later", in("until line\nroute {\ninspect {\nroute {\nhttp_app web\n}\n}\n}"), nil},
		{"until line, in a subroute", in("until line\nroute {\nsubroute {\nroute {\nhttp_app web\n}\n}\n}"), line("0/inspect/0", "http_app")},

		// HTTP/2 in a wrapper.
		{"h2 for the wrapped server", wrapperOf("", "route {\ninspect {\n@h2 inspected http2\nroute @h2 {\nhttp_app\n}\nroute {\nhttp_app\n}\n}\n}") + tls,
			[]warned{{"srv0", "0/inspect/0", "a connection of HTTP/2 carries many requests, of which none is routed; set 'protocols h1' for the server"}}},
		{"h2 without TLS", wrapperOf("", "route {\ninspect {\n@h2 inspected http2\nroute @h2 {\nrelay 10.0.0.5:80\n}\nroute {\nhttp_app\n}\n}\n}") + outer,
			[]warned{{"srv0", "0/inspect/0", "a connection of HTTP/2"}}},
		{"h2 closed", wrapperOf("", "route {\ninspect {\n@h2 inspected http2\nroute @h2 {\nclose\n}\nroute {\nhttp_app\n}\n}\n}") + tls, nil},
		{"h1 alone", wrapperOf("protocols h1", "route {\ninspect {\n@h2 inspected http2\nroute @h2 {\nhttp_app\n}\nroute {\nhttp_app\n}\n}\n}") + tls, nil},
		{"h2 in a server of layer4", in("@h2 inspected http2\nroute @h2 {\nhttp_app web\n}\nroute {\nhttp_app web\n}"), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			warnings, err := loadCaddyfile(t, test.config)
			checkError(t, err, "")
			checkWarned(t, warnings, test.want)
		})
	}
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

// TestExamplesLoadWithoutWarnings checks that what the examples do is what is advised.
func TestExamplesLoadWithoutWarnings(t *testing.T) {
	var files []string
	for _, pattern := range []string{"examples/*/*.caddyfile", "examples/*/Caddyfile"} {
		found, _ := filepath.Glob(pattern)
		files = append(files, found...)
	}
	if len(files) < 15 {
		t.Fatalf("found only %q", files)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config := string(raw)
			var want []warned
			switch filepath.Base(filepath.Dir(file)) {
			case "protocol":
				t.Skip("it has a handler of its own")
			case "existing-sites":
				sites, err := os.ReadFile(filepath.Join(filepath.Dir(file), "sites.conf"))
				if err != nil {
					t.Fatal(err)
				}
				config = strings.Replace(config, "import sites.conf", string(sites), 1)
			case "everything": // its site is to have HTTP/2
				want = []warned{{"srv0", "0/inspect/1", "a connection of HTTP/2 carries many requests"}}
			}
			warnings, err := loadCaddyfile(t, config)
			checkError(t, err, "")
			checkWarned(t, warnings, want)
		})
	}
}

func TestTeeIsRefused(t *testing.T) {
	const (
		tee    = "tee {\nproxy 10.0.0.5:80\n}\n"
		within = "tee in a route of inspect would deliver twice the bytes that inspect has read; put tee before inspect, in a route without matchers"
		reads  = "tee would deliver twice the bytes that the matcher ssh has read; put tee before it, in a route without matchers"
		app    = "inspect {\nroute {\nhttp_app\n}\n}"
	)
	tests := []struct{ name, config, want string }{
		{"in a route", inRoute("inspect {\nroute {\nclose\n}\nroute {\n" + tee + "http_app\n}\n}"), "server srv0, route 0/inspect/1: " + within},
		{"in a route for something else", inRoute("inspect {\n@ssh ssh\nroute @ssh {\n" + tee + "proxy 10.0.0.5:22\n}\n}"), "route 0/inspect/0: " + within},
		{"in a subroute", inRoute("inspect {\nroute {\nsubroute {\nroute {\nclose\n}\nroute {\n" + tee + "http_app\n}\n}\n}\n}"), "route 0/inspect/0/subroute/1: " + within},
		{"in a route of an inspect within", inRoute("inspect {\nroute {\ninspect {\nroute {\n" + tee + "http_app\n}\n}\n}\n}"), "route 0/inspect/0/inspect/0: " + within},
		{"in a branch", inRoute(tee + "inspect {\nroute {\n" + tee + "http_app\n}\n}"), "route 0/inspect/0: " + within},
		{"in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\n"+tee+"http_app\n}\n}\n}") + "http://:8080 {\n respond outer\n}\n", "listener wrapper of server srv0, route 0/inspect/0: " + within},
		{"after inspect", inRoute("inspect\n" + tee + "http_app"), "route 0: tee would deliver twice the bytes that inspect has read; put tee before it"},

		{"before inspect", inRoute(tee + app), ""},
		{"before http_app", inRoute(tee + "http_app"), ""},
		{"before relay", inRoute(tee + "relay 10.0.0.5:80"), ""},
		{"in an earlier route", inRoute(tee + "}\nroute {\n" + app), ""},
		{"after a matcher", inRoute("close\n}\n@ssh ssh\nroute @ssh {\n" + tee + "relay 10.0.0.5:80"), "route 1: " + reads},
		{"after a matcher of the first route", "{\n layer4 {\n :8080 {\n@ssh ssh\nroute @ssh {\n" + tee + app + "\n}\n}\n}\n}\n", "route 0: " + reads},
		{"after a matcher of an earlier route", "{\n layer4 {\n :8080 {\n@ssh ssh\nroute @ssh {\nproxy 10.0.0.5:22\n}\nroute {\n" + tee + app + "\n}\n}\n}\n}\n", "route 1: " + reads},
		{"in an earlier route, after a matcher", "{\n layer4 {\n :8080 {\n@ssh ssh\nroute @ssh {\n" + tee + "\n}\nroute {\n" + app + "\n}\n}\n}\n}\n", "route 0: " + reads},
		{"after a matcher around it", inRoute("close\n}\n@ssh ssh\nroute @ssh {\nsubroute {\nroute {\n" + tee + "relay 10.0.0.5:80\n}\n}"), "route 1/subroute/0: " + reads},
		{"after an inspect in a subroute", inRoute("subroute {\nroute {\ninspect\n}\n}\n" + tee + "http_app"), "route 0: tee would deliver twice the bytes that inspect has read"},
		{"after a matcher of a subroute", inRoute("subroute {\n@ssh ssh\nroute @ssh {\nproxy 10.0.0.5:22\n}\n}\n" + tee + app), "route 0: " + reads},
		{"after a matcher that is negated", inRoute("close\n}\n@ssh not ssh\nroute @ssh {\n" + tee + "relay 10.0.0.5:80"), "route 1: " + reads},
		{"after a matcher of addresses", inRoute("close\n}\n@a remote_ip 10.0.0.0/8\nroute @a {\n" + tee + "relay 10.0.0.5:80"), ""},
		{"after a matcher, without handlers of this package behind", inRoute(app + "\n}\n}\n:8081 {\n@ssh ssh\nroute @ssh {\n" + tee + "proxy 10.0.0.5:80"), ""},
		{"after a matcher, with a handler of this package in the branch", inRoute("close\n}\n@ssh ssh\nroute @ssh {\ntee {\nrelay 10.0.0.5:80\n}\nproxy 10.0.0.5:80"), "route 1: " + reads},
		{"behind tls", inRoute("close\n}\n@tls tls\nroute @tls {\ntls\n" + tee + "relay 10.0.0.5:80"), ""},
		{"behind tls and a matcher", inRoute("close\n}\n@tls tls\nroute @tls {\ntls\nsubroute {\n@ssh ssh\nroute @ssh {\n" + tee + "relay 10.0.0.5:80\n}\n}"), "route 1/subroute/0: " + reads},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadCaddyfile(t, test.config)
			checkError(t, err, test.want)
		})
	}
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

func TestHandOversInCircles(t *testing.T) {
	const (
		outer = "http://:8080 {\n respond outer\n}\n"
		web   = "http://:80 {\n bind streamprox/web\n respond hello\n}\n"
		api   = "http://:80 {\n bind streamprox/api\n respond hello\n}\n"
		fix   = "its wrapper would deliver again, without end: give the wrapper to the outer server alone, as in 'servers :8080 { listener_wrappers … }'"
	)
	deliver := func(name string) string { return "route {\ninspect {\nroute {\nhttp_app " + name + "\n}\n}\n}" }
	server := func(address, routes string) string {
		return "servers " + address + " {\n listener_wrappers {\n layer4 {\n" + routes + "\n}\n}\n}\n"
	}
	tests := []struct{ name, config, want string }{
		{"all servers have the wrapper", wrapperOf("", deliver("web")) + outer + web,
			"a hand-over leads back to itself: 'http_app web' in the listener wrapper of server srv1 (streamprox/web:80) delivers to server srv1 (streamprox/web:80); " + fix},
		{"with the port", wrapperOf("", deliver("web:80")) + outer + web, "'http_app web:80' in the listener wrapper of server srv1"},
		{"with the network", wrapperOf("", deliver("streamprox/web")) + outer + web, "'http_app web' in the listener wrapper of server srv1"},
		{"without inspect", wrapperOf("", "route {\nhttp_app web\n}") + outer + web, fix},
		{"in a subroute", wrapperOf("", "route {\nsubroute {\n"+deliver("web")+"\n}\n}") + outer + web, fix},
		{"for some requests", wrapperOf("", "route {\ninspect {\n@a http_request path /a\nroute @a {\nhttp_app web\n}\nroute {\nhttp_app\n}\n}\n}") + outer + web, fix},
		{"another port of that name", wrapperOf("", deliver("web:81")) + outer + web, ""},
		{"the wrapper of the outer server alone", "{\n" + server(":8080", deliver("web")) + "}\n" + outer + web, ""},
		{"no name", wrapperOf("", deliver("")) + outer + web, ""},
		{"a name that is not bound", wrapperOf("", deliver("nobody")) + outer + web, ""},
		{"from layer4", "{\n layer4 {\n :8080 {\n" + deliver("web") + "\n}\n}\n}\n" + web, ""},
		{"from one to the next", "{\n" + server(":8080", deliver("web")) + server("streamprox/web:80", deliver("api")) + "}\n" + outer + web + api, ""},
		{"from one to the other and back", "{\n" + server(":8080", deliver("web")) + server("streamprox/web:80", deliver("api")) + server("streamprox/api:80", deliver("web")) + "}\n" + outer + web + api,
			"'http_app web' in the listener wrapper of server srv1 (streamprox/api:80) delivers to server srv2 (streamprox/web:80), and 'http_app api' in the listener wrapper of server srv2 (streamprox/web:80) delivers to server srv1 (streamprox/api:80); " + fix},
		{"HTTPS of that name", wrapperOf("protocols h1", deliver("web")) + "https://example.com {\n bind streamprox/web\n respond hello\n}\n", "server srv0 (streamprox/web:443)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadCaddyfile(t, test.config)
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

// TestChecksRunOnce checks that each configuration is looked at once, again when it is
// loaded again, and that nothing is kept of it.
func TestChecksRunOnce(t *testing.T) {
	config := inRoute("inspect {\nroute {\nproxy 10.0.0.5:80\n}\n}\ninspect {\n@a ssh\nroute @a {\nrelay 10.0.0.5:80\n}\n}")
	for range 2 {
		warnings, err := loadCaddyfile(t, config)
		checkError(t, err, "")
		checkWarned(t, warnings, []warned{{"srv0", "0/inspect/0", "the handler keeps the connection"}})
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		kept := 0
		checked.Range(func(any, any) bool { kept++; return true })
		if kept == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d configurations are kept", kept)
		}
	}
}

// TestInspectKey checks that an inspect is known by the same key in the configuration
// and when Caddy has loaded it, and by another one if anything differs.
func TestInspectKey(t *testing.T) {
	const config = `{"timeout":"3s", "handler":"inspect","max_bytes":512.0,"routes":[
		{"handle":[{"handler":"relay","upstreams":[{"dial":["a<b>&c:1"]}]}, {"handler":"inspect","max_packets":3}],
		 "match":[{"ssh":{},"http_request":[{"path":["/é\u0041"]}]}]}]}`
	var fields map[string]any
	if err := json.Unmarshal([]byte(config), &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "handler") // as Caddy does
	raw, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	var h Inspect
	if err := json.Unmarshal(raw, &h); err != nil {
		t.Fatal(err)
	}
	loaded, err := json.Marshal(&h)
	if err != nil {
		t.Fatal(err)
	}
	key := inspectKey([]byte(config))
	if key == "" || key != inspectKey(loaded) {
		t.Errorf("got %q in the configuration and %q when it is loaded", key, inspectKey(loaded))
	}
	if other := inspectKey([]byte(strings.Replace(config, "dial", "dail", 1))); other == key {
		t.Error("two configurations have one key")
	}
	if got := inspectKey([]byte(`{"routes":1}`)); got != "" {
		t.Errorf("got key %q of what is no inspect", got)
	}
}

// TestHiddenInspectIsNotLast checks that where a handler of another module holds an
// inspect, nothing is said of any.
func TestHiddenInspectIsNotLast(t *testing.T) {
	const inspect = `{"handler":"inspect","routes":[]}`
	for config, want := range map[string]bool{
		`[{"handle":[` + inspect + `]}]`:                                                                       true,
		`[{"handle":[` + inspect + `]},{"handle":[{"handler":"unknown"}]}]`:                                    false,
		`[{"handle":[{"handler":"unknown","inner":[` + inspect + `]}]},{"handle":[` + inspect + `]}]`:          false,
		`[{"handle":[{"handler":"unknown","name":"inspect"}]},{"handle":[` + inspect + `]}]`:                   true,
		`[{"handle":[` + inspect + `,{"handler":"tee","branch":[{"handler":"echo"}]}]}]`:                       false,
		`[{"handle":[{"handler":"tee","branch":[` + inspect + `]}]}]`:                                          false,
		`[{"handle":[{"handler":"subroute","routes":[{"handle":[` + inspect + `]}]},{"handler":"echo"}]}]`:     false,
		`[{"handle":[{"handler":"subroute","routes":[{"handle":[` + inspect + `]}]},{"handler":"throttle"}]}]`: true,
	} {
		found := &findings{last: make(map[string]bool)}
		c := &checker{logger: zap.NewNop(), found: found}
		var routes []configRoute
		if err := json.Unmarshal([]byte(config), &routes); err != nil {
			t.Fatal(err)
		}
		c.routes = newRouteList(routes, "")
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		if got := found.isLast(&Inspect{Routes: []*Route{}}); got != want {
			t.Errorf("%s: got %t, want %t", config, got, want)
		}
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

// TestNoEffectWarns looks at handlers, matchers and routes that can do nothing.
func TestNoEffectWarns(t *testing.T) {
	const (
		web   = "http://:80 {\n bind streamprox/web\n respond hello\n}\n"
		outer = "http://:8080 {\n respond outer\n}\n"
		edit  = "rewrite_head {\n host a\n}\n"
	)
	in := func(inspect string) string {
		config := inRoute("inspect {\n" + inspect + "\n}")
		if strings.Contains(inspect, "http_app web") {
			config += web
		}
		return config
	}
	route := func(handlers string) string { return in("route {\n" + handlers + "\n}") }
	layer4 := func(routes string) string { return "{\n layer4 {\n :8080 {\n" + routes + "\n}\n}\n}\n" }
	one := func(route, message string) []warned { return []warned{{"srv0", route, message}} }
	keeps := func(route, fix, handler string) []warned {
		return one(route, "a handler gets no connection: the one before it keeps them; "+fix+"; "+handler)
	}
	asked := func(routes ...string) (want []warned) {
		for _, route := range routes {
			want = append(want, warned{"srv0", route, "a route is never asked: an earlier one takes all that it matches; put it before the other, or leave it out"})
		}
		return want
	}
	const (
		outside  = "'inspected' asks for the outcome of an inspection where there was none; put the route into 'inspect { … }'"
		excludes = "matchers of one set exclude each other: the others match no HTTP request; "
		apart    = excludes + "give each a name of its own, and write both names after 'route' if one is to match"
		sni      = excludes + "TLS that is passed through shows no request: take it in a route with 'tls' as matcher and handler, and ask for the request in a route after that"
		other    = "http_app answers other protocols with 400; leave 'other' out of 'inspected', or use another handler, such as 'relay', for these protocols"
		closes   = "rewrite_head closes every connection that inspect has not read; put it into a route of 'inspect { … }', before 'relay' or 'http_app'"
		between  = "a handler stands between http_app and the wrapped server; "
		empty    = "inspect has no routes, and nothing follows that takes a connection; give it routes, as in 'route { … }'"
	)
	tests := []struct {
		name, config string
		want         []warned
	}{
		// The order of handlers.
		{"rewrite_head after relay", route("relay a:1\n" + edit), keeps("0/inspect/0", "put 'rewrite_head' before 'relay'", "rewrite_head")},
		{"rewrite_head after http_app", route("http_app web\n" + edit), keeps("0/inspect/0", "put 'rewrite_head' before 'http_app'", "rewrite_head")},
		{"rewrite_head before relay", route(edit + "relay a:1"), nil},
		{"relay after http_app", route("http_app web\nrelay a:1"), keeps("0/inspect/0", "leave one of 'http_app' and 'relay' out, or give each a route of its own", "relay")},
		{"relay after close", route("close\nrelay a:1"), keeps("0/inspect/0", "leave one of 'close' and 'relay' out, or give each a route of its own", "relay")},
		{"in a subroute", route("subroute {\nroute {\nrelay a:1\n" + edit + "}\n}"), keeps("0/inspect/0/subroute/0", "put 'rewrite_head' before 'relay'", "rewrite_head")},
		{"in a branch", inRoute("tee {\nproxy a:1\necho\n}\necho"), nil}, // nothing of this package is loaded
		{"in a branch beside relay", inRoute("tee {\nproxy a:1\necho\n}\nrelay a:1"), keeps("0/tee", "leave one of 'proxy' and 'echo' out, or give each a route of its own", "echo")},
		{"outside inspect", inRoute("relay a:1\nthrottle {\n read_bytes_per_second 1000\n}"), keeps("0", "put 'throttle' before 'relay'", "throttle")},
		{"rewrite_head after http_app in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\n"+edit+"}\n}\n}") + outer,
			one("0/inspect/0", between+"put 'rewrite_head' before 'http_app'; rewrite_head")},
		{"relay after http_app in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\nrelay a:1\n}\n}\n}") + outer,
			one("0/inspect/0", between+"leave 'relay' out, or put it into a route before that of 'http_app'; relay")},
		{"relay after inspect in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\n}\n}\nrelay a:1\n}") + outer, one("0/inspect/0", between+"leave 'relay' out")},
		{"relay in a later route of a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\n}\n}\n}\nroute {\nrelay a:1\n}") + outer, one("0/inspect/0", between+"leave 'relay' out")},
		{"a later route of a wrapper for SSH", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\n}\n}\n}\n@ssh ssh\nroute @ssh {\nrelay a:1\n}") + outer, nil},
		{"throttle after http_app in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\nthrottle {\n read_bytes_per_second 1000\n}\n}\n}\n}") + outer, nil},
		{"rewrite_head outside inspect", inRoute(edit + "relay a:1"), one("0", closes)},
		{"rewrite_head before inspect", inRoute(edit + "inspect {\nroute {\nrelay a:1\n}\n}"), one("0", closes)},
		{"rewrite_head in a branch after inspect", layer4("route {\ntee {\ninspect {\nroute {\nclose\n}\n}\n}\n" + edit + "relay a:1\n}"), one("0", closes)},
		{"rewrite_head after inspect", inRoute("inspect {\nroute {\nvars {\n a b\n}\n}\n}\n" + edit + "relay a:1"), nil},

		// Values.
		{"strip_prefix with an asterisk", route("rewrite_head {\n strip_prefix /x/*\n}\nrelay a:1"), one("0/inspect/0", "strip_prefix takes an asterisk as it is; write 'strip_prefix /x'")},
		{"strip_prefix of an asterisk alone", route("rewrite_head {\n strip_prefix /*\n}\nrelay a:1"), one("0/inspect/0", "write 'strip_prefix <path>'")},
		{"strip_prefix", route("rewrite_head {\n strip_prefix /x\n}\nrelay a:1"), nil},
		{"upgrade ws", route("relay a:1 {\n upgrade ws\n}"), one("0/inspect/0", "clients ask for no upgrade of that name; write 'upgrade websocket'")},
		{"upgrade WSS among others", route("relay a:1 {\n upgrade websocket WSS\n}"), one("0/inspect/0", "clients ask for no upgrade of that name")},
		{"upgrade", route("relay a:1 {\n upgrade websocket tls/1.0\n}"), nil},

		// Matchers.
		{"inspected outside inspect", layer4("@a inspected silent\nroute @a {\nrelay a:1\n}"), one("0", outside)},
		{"not inspected outside inspect", layer4("@a not inspected silent\nroute @a {\nrelay a:1\n}"), one("0", outside)},
		{"inspected in a subroute", inRoute("subroute {\n@a inspected silent\nroute @a {\nrelay a:1\n}\n}"), one("0/subroute/0", outside)},
		{"inspected after inspect", inRoute("inspect {\n@a http_request path /a\nroute @a {\nclose\n}\n}\nsubroute {\n@a inspected tls\nroute @a {\nproxy a:1\n}\n}"), nil},
		{"inspected in a subroute of inspect", route("subroute {\n@a inspected tls\nroute @a {\nrelay a:1\n}\n}"), nil},
		{"sni and http_request", in("@a {\n tls sni a\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), one("0/inspect/0", sni)},
		{"sni and http_request outside inspect", layer4("@a {\n tls sni a\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), one("0", sni)},
		{"ssh and http_request", in("@a {\n ssh\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), one("0/inspect/0", apart)},
		{"inspected tls and http_request", in("@a {\n inspected tls\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), one("0/inspect/0", apart)},
		{"inspected http and http_request", in("@a {\n inspected http\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), nil},
		{"sni or http_request", in("@a tls sni a\n@b http_request path /a\nroute @a @b {\nrelay a:1\n}"), nil},
		{"not sni and http_request", in("@a {\n not tls sni a\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), nil},

		// inspect.
		{"empty", inRoute("inspect"), one("0", empty)},
		{"empty, close follows", inRoute("inspect\nclose"), one("0", empty)},
		{"empty, another follows", inRoute("inspect\ninspect {\nroute {\nrelay a:1\n}\n}"), one("0", empty)},
		{"empty, and pinned as asked for", inRoute("inspect\nhttp_app web {\n reuse pin\n}") + web, nil},
		{"other to http_app", in("@a inspected http other\nroute @a {\nhttp_app web\n}"), one("0/inspect/0", other)},
		{"other to http_app behind others", in("@a inspected other\nroute @a {\n" + edit + "subroute {\nroute {\nhttp_app web\n}\n}\n}"), one("0/inspect/0", other)},
		{"other to http_app or relay", in("@a inspected other\nroute @a {\nsubroute {\n@a ssh\nroute @a {\nrelay a:1\n}\nroute {\nhttp_app web\n}\n}\n}"), nil},
		{"other to relay", in("@a inspected other\nroute @a {\nrelay a:1\n}"), nil},

		// Routes that are never asked.
		{"after all", in("route {\nrelay a:1\n}\n@a http_request path /a\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"twice all", in("route {\nrelay a:1\n}\nroute {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"two after all", in("route {\nrelay a:1\n}\n@a tls\nroute @a {\nrelay a:2\n}\n@b remote_ip 10.0.0.0/8\nroute @b {\nrelay a:2\n}"), asked("0/inspect/1", "0/inspect/2")},
		{"after all, open outcomes", in("route {\nrelay a:1\n}\n@a inspected http tls\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"after all, another outcome", in("route {\nrelay a:1\n}\n@a inspected http other\nroute @a {\nrelay a:2\n}"), nil},
		{"after all, another protocol", in("route {\nrelay a:1\n}\n@a ssh\nroute @a {\nrelay a:2\n}"), nil},
		{"after all, CONNECT", in("route {\nrelay a:1\n}\n@a http_request method CONNECT\nroute @a {\nrelay a:2\n}"), nil},
		{"after all, one of two", in("route {\nrelay a:1\n}\n@a ssh\n@b tls\nroute @a @b {\nrelay a:2\n}"), nil},
		{"after all HTTP", in("@h inspected http\nroute @h {\nrelay a:1\n}\n@a http_request path /a\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"after all HTTP, TLS", in("@h inspected http\nroute @h {\nrelay a:1\n}\nroute {\nrelay a:2\n}"), nil},
		{"after all HTTP and all TLS", in("@h inspected http\nroute @h {\nrelay a:1\n}\n@t inspected tls\nroute @t {\nrelay a:3\n}\nroute {\nrelay a:2\n}"), asked("0/inspect/2")},
		{"after all but TLS", in("@h not inspected tls\nroute @h {\nrelay a:1\n}\n@a http_request path /a\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same matchers", in("@a http_request path /a\nroute @a {\nrelay a:1\n}\n@b http_request path /a\nroute @b {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same protocol", in("@a ssh\nroute @a {\nrelay a:1\n}\n@b ssh\nroute @b {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same matchers and one more", in("@a http_request path /a\nroute @a {\nrelay a:1\n}\n@b {\n http_request path /a\n remote_ip 10.0.0.0/8\n}\nroute @b {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same matchers and one less", in("@a {\n http_request path /a\n remote_ip 10.0.0.0/8\n}\nroute @a {\nrelay a:1\n}\n@b http_request path /a\nroute @b {\nrelay a:2\n}"), nil},
		{"the same address, and other", in("@a remote_ip 10.0.0.0/8\nroute @a {\nrelay a:1\n}\n@b {\n remote_ip 10.0.0.0/8\n inspected other\n}\nroute @b {\nrelay a:2\n}"), nil},
		{"the same address, and SSH", in("@a remote_ip 10.0.0.0/8\nroute @a {\nrelay a:1\n}\n@b {\n remote_ip 10.0.0.0/8\n ssh\n}\nroute @b {\nrelay a:2\n}"), nil},
		{"after all, not SSH", in("route {\nrelay a:1\n}\n@a not ssh\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same protocol of another outcome", in("@a {\n inspected timeout\n ssh\n}\nroute @a {\nrelay a:1\n}\n@b ssh\nroute @b {\nrelay a:2\n}"), nil},
		{"other matchers", in("@a http_request path /a\nroute @a {\nrelay a:1\n}\n@b http_request path /b\nroute @b {\nrelay a:2\n}"), nil},
		{"layer4, after all", layer4("route {\nrelay a:1\n}\n@a ssh\nroute @a {\nrelay a:2\n}"), asked("1")},
		{"layer4, after all that is not kept", layer4("route {\nthrottle {\n read_bytes_per_second 1000\n}\n}\nroute {\nrelay a:2\n}"), nil},
		{"layer4, after all that waits for another", layer4("@a ssh\nroute @a {\nrelay a:2\n}\nroute {\nrelay a:1\n}\n@b tls\nroute @b {\nrelay a:2\n}"), nil},
		{"layer4, the same matchers", layer4("@a ssh\nroute @a {\nrelay a:2\n}\nroute @a {\nrelay a:1\n}"), asked("1")},
		{"in a subroute, after all", route("subroute {\nroute {\nrelay a:1\n}\nroute {\nclose\n}\n}"), asked("0/inspect/0/subroute/1")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			warnings, err := loadCaddyfile(t, test.config)
			checkError(t, err, "")
			checkWarned(t, warnings, test.want)
		})
	}
}

// TestNamesAndSites looks at http_app handlers and sites that do not meet.
func TestNamesAndSites(t *testing.T) {
	const (
		outer   = "http://:8080 {\n respond outer\n}\n"
		web     = "http://:80 {\n bind streamprox/web\n respond hello\n}\n"
		secure  = "https://example.com {\n bind streamprox/web\n respond hello\n}\n"
		alt     = "http://:8081 {\n bind streamprox/web\n respond hello\n}\n"
		api     = "http://:80 {\n bind streamprox/api\n respond hello\n}\n"
		unbound = "no site is bound to that name; "
		lonely  = "no http_app leads to a site; write 'http_app %s' in a route of layer4 or of a listener wrapper, or leave out 'bind streamprox/%s'"
	)
	l4 := func(name string) string { return inRoute("inspect {\nroute {\nhttp_app " + name + "\n}\n}") }
	wrapper := func(name string) string {
		return "{\n servers :8080 {\n listener_wrappers {\n layer4 {\n route {\n inspect {\n route {\n http_app " + name + "\n}\n}\n}\n}\n}\n}\n}\n" + outer
	}
	both := func(in4, inWrapper string) string {
		return "{\n layer4 {\n :9090 {\n route {\n http_app " + in4 + "\n}\n}\n}\n" + strings.TrimPrefix(wrapper(inWrapper), "{\n")
	}
	named := func(message string) []warned { return []warned{{"srv0", "0/inspect/0", message}} }
	site := func(server, listener, bind string) []warned {
		return []warned{{server, "", strings.Replace(strings.Replace(lonely, "%s", listener, 1), "%s", bind, 1)}}
	}
	tests := []struct {
		name, config string
		want         []warned
	}{
		{"they meet", l4("web") + web, nil},
		{"the only name", l4("") + web, nil},
		{"by port", l4("web:80") + web, nil},
		{"a wrapper", wrapper("web") + web, nil},
		{"layer4 and a wrapper", both("web", "api") + web + api, nil},

		{"a name that is not bound", l4("web"), named(unbound + "write 'bind streamprox/web' in a site")},
		{"no name, none bound", l4(""), named(unbound + "write 'bind streamprox/web' in a site")},
		{"a misspelt name", l4("wbe") + web + api, named(unbound + "write 'bind streamprox/wbe' in a site, or name what is bound: api, web")},
		{"another port", l4("web:443") + web, named(unbound + "web is bound with the port 80 alone: write 'http_app web:80'")},
		{"another port of several", l4("web:443") + web + alt, named(unbound + "web is bound with the ports 80, 8081: name one of them")},
		{"a wrapper, a name that is not bound", wrapper("nobody"), named(unbound + "write 'bind streamprox/nobody' in a site")},
		{"a wrapper, a misspelt name", wrapper("wbe") + web, named(unbound + "write 'bind streamprox/wbe' in a site, or name what is bound: web")},
		{"a wrapper, another port", wrapper("web:443") + web, named(unbound + "web is bound with the port 80 alone")},

		{"a site that is not reached", l4("web") + web + api, site("srv0", "api", "api")},
		{"a site that relay does not reach", inRoute("relay a:1") + web, site("srv0", "web", "web")},
		{"a site behind a wrapper without a name", wrapper("") + web, site("srv1", "web", "web")},
		{"one of two ports", l4("web:80") + web + alt, site("srv1", "web:8081", "web")},
		{"redirects of automatic HTTPS", l4("web:443") + secure, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for range 6 { // apps load in the order of a map
				warnings, err := loadCaddyfile(t, test.config)
				checkError(t, err, "")
				checkWarned(t, warnings, test.want)
			}
		})
	}
}

func TestWeightIsRefused(t *testing.T) {
	tests := []struct{ name, upstream, want string }{
		{"none", `"dial":["a:1"]`, ""},
		{"1", `"dial":["a:1"],"weight":1`, ""},
		{"0", `"dial":["a:1"],"weight":0`, "server srv0, route 0: upstream a:1: weight: 0 is not 1 or more; to send nothing to an upstream, leave it out"},
		{"below 0", `"dial":["a:1"],"weight":-1`, "weight: -1 is not 1 or more"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadApps(t, "{"+inServer(`{"handler":"relay","upstreams":[{`+test.upstream+`}]}`)+"}")
			checkError(t, err, test.want)
		})
	}
}
