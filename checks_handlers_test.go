package streamprox

import "testing"

// TestHandlersWithoutEffectWarn looks at the order of handlers, and at values that no
// connection meets.
func TestHandlersWithoutEffectWarn(t *testing.T) {
	const (
		closes  = "rewrite_head closes every connection that inspect has not read; put it into a route of 'inspect { … }', before 'relay' or 'http_app'"
		between = "a handler stands between http_app and the wrapped server; "
	)
	keeps := func(route, fix, handler string) []warned {
		return oneWarning(route, "a handler gets no connection: the one before it keeps them; "+fix+"; "+handler)
	}
	runCheckCases(t, []checkCase{
		{"rewrite_head after relay", inInspectRoute("relay a:1\n" + rewriteHost), keeps("0/inspect/0", "put 'rewrite_head' before 'relay'", "rewrite_head")},
		{"rewrite_head after http_app", inInspectRoute("http_app web\n" + rewriteHost), keeps("0/inspect/0", "put 'rewrite_head' before 'http_app'", "rewrite_head")},
		{"rewrite_head before relay", inInspectRoute(rewriteHost + "relay a:1"), nil},
		{"relay after http_app", inInspectRoute("http_app web\nrelay a:1"), keeps("0/inspect/0", "leave one of 'http_app' and 'relay' out, or give each a route of its own", "relay")},
		{"relay after close", inInspectRoute("close\nrelay a:1"), keeps("0/inspect/0", "leave one of 'close' and 'relay' out, or give each a route of its own", "relay")},
		{"in a subroute", inInspectRoute("subroute {\nroute {\nrelay a:1\n" + rewriteHost + "}\n}"), keeps("0/inspect/0/subroute/0", "put 'rewrite_head' before 'relay'", "rewrite_head")},
		{"in a branch", inRoute("tee {\nproxy a:1\necho\n}\necho"), nil}, // nothing of this package is loaded
		{"in a branch beside relay", inRoute("tee {\nproxy a:1\necho\n}\nrelay a:1"), keeps("0/tee", "leave one of 'proxy' and 'echo' out, or give each a route of its own", "echo")},
		{"outside inspect", inRoute("relay a:1\nthrottle {\n read_bytes_per_second 1000\n}"), keeps("0", "put 'throttle' before 'relay'", "throttle")},
		{"rewrite_head after http_app in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\n"+rewriteHost+"}\n}\n}") + siteOuter,
			oneWarning("0/inspect/0", between+"put 'rewrite_head' before 'http_app'; rewrite_head")},
		{"relay after http_app in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\nrelay a:1\n}\n}\n}") + siteOuter,
			oneWarning("0/inspect/0", between+"leave 'relay' out, or put it into a route before that of 'http_app'; relay")},
		{"relay after inspect in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\n}\n}\nrelay a:1\n}") + siteOuter, oneWarning("0/inspect/0", between+"leave 'relay' out")},
		{"relay in a later route of a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\n}\n}\n}\nroute {\nrelay a:1\n}") + siteOuter, oneWarning("0/inspect/0", between+"leave 'relay' out")},
		{"a later route of a wrapper for SSH", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\n}\n}\n}\n@ssh ssh\nroute @ssh {\nrelay a:1\n}") + siteOuter, nil},
		{"throttle after http_app in a wrapper", wrapperOf("", "route {\ninspect {\nroute {\nhttp_app\nthrottle {\n read_bytes_per_second 1000\n}\n}\n}\n}") + siteOuter, nil},
		{"rewrite_head outside inspect", inRoute(rewriteHost + "relay a:1"), oneWarning("0", closes)},
		{"rewrite_head before inspect", inRoute(rewriteHost + "inspect {\nroute {\nrelay a:1\n}\n}"), oneWarning("0", closes)},
		{"rewrite_head in a branch after inspect", inLayer4("route {\ntee {\ninspect {\nroute {\nclose\n}\n}\n}\n" + rewriteHost + "relay a:1\n}"), oneWarning("0", closes)},
		{"rewrite_head after inspect", inRoute("inspect {\nroute {\nvars {\n a b\n}\n}\n}\n" + rewriteHost + "relay a:1"), nil},

		{"strip_prefix with an asterisk", inInspectRoute("rewrite_head {\n strip_prefix /x/*\n}\nrelay a:1"), oneWarning("0/inspect/0", "strip_prefix takes an asterisk as it is; write 'strip_prefix /x'")},
		{"strip_prefix of an asterisk alone", inInspectRoute("rewrite_head {\n strip_prefix /*\n}\nrelay a:1"), oneWarning("0/inspect/0", "write 'strip_prefix <path>'")},
		{"strip_prefix", inInspectRoute("rewrite_head {\n strip_prefix /x\n}\nrelay a:1"), nil},
		{"upgrade ws", inInspectRoute("relay a:1 {\n upgrade ws\n}"), oneWarning("0/inspect/0", "clients ask for no upgrade of that name; write 'upgrade websocket'")},
		{"upgrade WSS among others", inInspectRoute("relay a:1 {\n upgrade websocket WSS\n}"), oneWarning("0/inspect/0", "clients ask for no upgrade of that name")},
		{"upgrade", inInspectRoute("relay a:1 {\n upgrade websocket tls/1.0\n}"), nil},
	})
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
