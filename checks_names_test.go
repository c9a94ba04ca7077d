package streamprox

import (
	"strings"
	"testing"
)

// TestNamesAndSites looks at http_app handlers and sites that do not meet.
func TestNamesAndSites(t *testing.T) {
	const (
		secure  = "https://example.com {\n bind streamprox/web\n respond hello\n}\n"
		alt     = "http://:8081 {\n bind streamprox/web\n respond hello\n}\n"
		unbound = "no site is bound to that name; "
		lonely  = "no http_app leads to a site; write 'http_app %s' in a route of layer4 or of a listener wrapper, or leave out 'bind streamprox/%s'"
	)
	l4 := func(name string) string { return inRoute("inspect {\nroute {\nhttp_app " + name + "\n}\n}") }
	wrapper := func(name string) string {
		return "{\n servers :8080 {\n listener_wrappers {\n layer4 {\n route {\n inspect {\n route {\n http_app " + name + "\n}\n}\n}\n}\n}\n}\n}\n" + siteOuter
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
		{"they meet", l4("web") + siteWeb, nil},
		{"the only name", l4("") + siteWeb, nil},
		{"by port", l4("web:80") + siteWeb, nil},
		{"a wrapper", wrapper("web") + siteWeb, nil},
		{"layer4 and a wrapper", both("web", "api") + siteWeb + siteAPI, nil},

		{"a name that is not bound", l4("web"), named(unbound + "write 'bind streamprox/web' in a site")},
		{"no name, none bound", l4(""), named(unbound + "write 'bind streamprox/web' in a site")},
		{"a misspelt name", l4("wbe") + siteWeb + siteAPI, named(unbound + "write 'bind streamprox/wbe' in a site, or name what is bound: api, web")},
		{"another port", l4("web:443") + siteWeb, named(unbound + "web is bound with the port 80 alone: write 'http_app web:80'")},
		{"another port of several", l4("web:443") + siteWeb + alt, named(unbound + "web is bound with the ports 80, 8081: name one of them")},
		{"a wrapper, a name that is not bound", wrapper("nobody"), named(unbound + "write 'bind streamprox/nobody' in a site")},
		{"a wrapper, a misspelt name", wrapper("wbe") + siteWeb, named(unbound + "write 'bind streamprox/wbe' in a site, or name what is bound: web")},
		{"a wrapper, another port", wrapper("web:443") + siteWeb, named(unbound + "web is bound with the port 80 alone")},

		{"a site that is not reached", l4("web") + siteWeb + siteAPI, site("srv0", "api", "api")},
		{"a site that relay does not reach", inRoute("relay a:1") + siteWeb, site("srv0", "web", "web")},
		{"a site behind a wrapper without a name", wrapper("") + siteWeb, site("srv1", "web", "web")},
		{"one of two ports", l4("web:80") + siteWeb + alt, site("srv1", "web:8081", "web")},
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
