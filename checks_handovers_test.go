package streamprox

import "testing"

func TestHandOversInCircles(t *testing.T) {
	const fix = "its wrapper would deliver again, without end: give the wrapper to the outer server alone, as in 'servers :8080 { listener_wrappers … }'"
	deliver := func(name string) string { return "route {\ninspect {\nroute {\nhttp_app " + name + "\n}\n}\n}" }
	server := func(address, routes string) string {
		return "servers " + address + " {\n listener_wrappers {\n layer4 {\n" + routes + "\n}\n}\n}\n"
	}
	tests := []struct{ name, config, want string }{
		{"all servers have the wrapper", wrapperOf("", deliver("web")) + siteOuter + siteWeb,
			"a hand-over leads back to itself: 'http_app web' in the listener wrapper of server srv1 (streamprox/web:80) delivers to server srv1 (streamprox/web:80); " + fix},
		{"with the port", wrapperOf("", deliver("web:80")) + siteOuter + siteWeb, "'http_app web:80' in the listener wrapper of server srv1"},
		{"with the network", wrapperOf("", deliver("streamprox/web")) + siteOuter + siteWeb, "'http_app web' in the listener wrapper of server srv1"},
		{"without inspect", wrapperOf("", "route {\nhttp_app web\n}") + siteOuter + siteWeb, fix},
		{"in a subroute", wrapperOf("", "route {\nsubroute {\n"+deliver("web")+"\n}\n}") + siteOuter + siteWeb, fix},
		{"for some requests", wrapperOf("", "route {\ninspect {\n@a http_request path /a\nroute @a {\nhttp_app web\n}\nroute {\nhttp_app\n}\n}\n}") + siteOuter + siteWeb, fix},
		{"another port of that name", wrapperOf("", deliver("web:81")) + siteOuter + siteWeb, ""},
		{"the wrapper of the outer server alone", "{\n" + server(":8080", deliver("web")) + "}\n" + siteOuter + siteWeb, ""},
		{"no name", wrapperOf("", deliver("")) + siteOuter + siteWeb, ""},
		{"a name that is not bound", wrapperOf("", deliver("nobody")) + siteOuter + siteWeb, ""},
		{"from layer4", "{\n layer4 {\n :8080 {\n" + deliver("web") + "\n}\n}\n}\n" + siteWeb, ""},
		{"from one to the next", "{\n" + server(":8080", deliver("web")) + server("streamprox/web:80", deliver("api")) + "}\n" + siteOuter + siteWeb + siteAPI, ""},
		{"from one to the other and back", "{\n" + server(":8080", deliver("web")) + server("streamprox/web:80", deliver("api")) + server("streamprox/api:80", deliver("web")) + "}\n" + siteOuter + siteWeb + siteAPI,
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
