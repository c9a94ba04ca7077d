package streamprox

import "testing"

// TestNeverAskedWarns looks at routes that come after those which take all.
func TestNeverAskedWarns(t *testing.T) {
	asked := func(routes ...string) (want []warned) {
		for _, route := range routes {
			want = append(want, warned{"srv0", route, "a route is never asked: an earlier one takes all that it matches; put it before the other, or leave it out"})
		}
		return want
	}
	runCheckCases(t, []checkCase{
		{"after all", inInspect("route {\nrelay a:1\n}\n@a http_request path /a\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"twice all", inInspect("route {\nrelay a:1\n}\nroute {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"two after all", inInspect("route {\nrelay a:1\n}\n@a tls\nroute @a {\nrelay a:2\n}\n@b remote_ip 10.0.0.0/8\nroute @b {\nrelay a:2\n}"), asked("0/inspect/1", "0/inspect/2")},
		{"after all, open outcomes", inInspect("route {\nrelay a:1\n}\n@a inspected http tls\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"after all, another outcome", inInspect("route {\nrelay a:1\n}\n@a inspected http other\nroute @a {\nrelay a:2\n}"), nil},
		{"after all, another protocol", inInspect("route {\nrelay a:1\n}\n@a ssh\nroute @a {\nrelay a:2\n}"), nil},
		{"after all, CONNECT", inInspect("route {\nrelay a:1\n}\n@a http_request method CONNECT\nroute @a {\nrelay a:2\n}"), nil},
		{"after all, one of two", inInspect("route {\nrelay a:1\n}\n@a ssh\n@b tls\nroute @a @b {\nrelay a:2\n}"), nil},
		{"after all HTTP", inInspect("@h inspected http\nroute @h {\nrelay a:1\n}\n@a http_request path /a\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"after all HTTP, TLS", inInspect("@h inspected http\nroute @h {\nrelay a:1\n}\nroute {\nrelay a:2\n}"), nil},
		{"after all HTTP and all TLS", inInspect("@h inspected http\nroute @h {\nrelay a:1\n}\n@t inspected tls\nroute @t {\nrelay a:3\n}\nroute {\nrelay a:2\n}"), asked("0/inspect/2")},
		{"after all but TLS", inInspect("@h not inspected tls\nroute @h {\nrelay a:1\n}\n@a http_request path /a\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same matchers", inInspect("@a http_request path /a\nroute @a {\nrelay a:1\n}\n@b http_request path /a\nroute @b {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same protocol", inInspect("@a ssh\nroute @a {\nrelay a:1\n}\n@b ssh\nroute @b {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same matchers and one more", inInspect("@a http_request path /a\nroute @a {\nrelay a:1\n}\n@b {\n http_request path /a\n remote_ip 10.0.0.0/8\n}\nroute @b {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same matchers and one less", inInspect("@a {\n http_request path /a\n remote_ip 10.0.0.0/8\n}\nroute @a {\nrelay a:1\n}\n@b http_request path /a\nroute @b {\nrelay a:2\n}"), nil},
		{"the same address, and other", inInspect("@a remote_ip 10.0.0.0/8\nroute @a {\nrelay a:1\n}\n@b {\n remote_ip 10.0.0.0/8\n inspected other\n}\nroute @b {\nrelay a:2\n}"), nil},
		{"the same address, and SSH", inInspect("@a remote_ip 10.0.0.0/8\nroute @a {\nrelay a:1\n}\n@b {\n remote_ip 10.0.0.0/8\n ssh\n}\nroute @b {\nrelay a:2\n}"), nil},
		{"after all, not SSH", inInspect("route {\nrelay a:1\n}\n@a not ssh\nroute @a {\nrelay a:2\n}"), asked("0/inspect/1")},
		{"the same protocol of another outcome", inInspect("@a {\n inspected timeout\n ssh\n}\nroute @a {\nrelay a:1\n}\n@b ssh\nroute @b {\nrelay a:2\n}"), nil},
		{"other matchers", inInspect("@a http_request path /a\nroute @a {\nrelay a:1\n}\n@b http_request path /b\nroute @b {\nrelay a:2\n}"), nil},
		{"layer4, after all", inLayer4("route {\nrelay a:1\n}\n@a ssh\nroute @a {\nrelay a:2\n}"), asked("1")},
		{"layer4, after all that is not kept", inLayer4("route {\nthrottle {\n read_bytes_per_second 1000\n}\n}\nroute {\nrelay a:2\n}"), nil},
		{"layer4, after all that waits for another", inLayer4("@a ssh\nroute @a {\nrelay a:2\n}\nroute {\nrelay a:1\n}\n@b tls\nroute @b {\nrelay a:2\n}"), nil},
		{"layer4, the same matchers", inLayer4("@a ssh\nroute @a {\nrelay a:2\n}\nroute @a {\nrelay a:1\n}"), asked("1")},
		{"in a subroute, after all", inInspectRoute("subroute {\nroute {\nrelay a:1\n}\nroute {\nclose\n}\n}"), asked("0/inspect/0/subroute/1")},
	})
}
