package streamprox

import "testing"

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
