package streamprox

import "testing"

// TestMatchersWithoutEffectWarn looks at matchers that match nothing.
func TestMatchersWithoutEffectWarn(t *testing.T) {
	const (
		outside  = "'inspected' asks for the outcome of an inspection where there was none; put the route into 'inspect { … }'"
		excludes = "matchers of one set exclude each other: the others match no HTTP request; "
		apart    = excludes + "give each a name of its own, and write both names after 'route' if one is to match"
		sni      = excludes + "TLS that is passed through shows no request: take it in a route with 'tls' as matcher and handler, and ask for the request in a route after that"
	)
	runCheckCases(t, []checkCase{
		{"inspected outside inspect", inLayer4("@a inspected silent\nroute @a {\nrelay a:1\n}"), oneWarning("0", outside)},
		{"not inspected outside inspect", inLayer4("@a not inspected silent\nroute @a {\nrelay a:1\n}"), oneWarning("0", outside)},
		{"inspected in a subroute", inRoute("subroute {\n@a inspected silent\nroute @a {\nrelay a:1\n}\n}"), oneWarning("0/subroute/0", outside)},
		{"inspected after inspect", inRoute("inspect {\n@a http_request path /a\nroute @a {\nclose\n}\n}\nsubroute {\n@a inspected tls\nroute @a {\nproxy a:1\n}\n}"), nil},
		{"inspected in a subroute of inspect", inInspectRoute("subroute {\n@a inspected tls\nroute @a {\nrelay a:1\n}\n}"), nil},
		{"sni and http_request", inInspect("@a {\n tls sni a\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), oneWarning("0/inspect/0", sni)},
		{"sni and http_request outside inspect", inLayer4("@a {\n tls sni a\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), oneWarning("0", sni)},
		{"ssh and http_request", inInspect("@a {\n ssh\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), oneWarning("0/inspect/0", apart)},
		{"inspected tls and http_request", inInspect("@a {\n inspected tls\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), oneWarning("0/inspect/0", apart)},
		{"inspected http and http_request", inInspect("@a {\n inspected http\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), nil},
		{"sni or http_request", inInspect("@a tls sni a\n@b http_request path /a\nroute @a @b {\nrelay a:1\n}"), nil},
		{"not sni and http_request", inInspect("@a {\n not tls sni a\n http_request path /a\n}\nroute @a {\nrelay a:1\n}"), nil},
	})
}

func TestUnboundedNotWarns(t *testing.T) {
	const text = "add 'inspected http' to its matchers"
	tests := []struct {
		name   string
		set    string
		warned bool
	}{
		{"not http_request", "not http_request path /chat/*", true},
		{"not http_request beside another matcher", "{\n not http_request path /chat/*\n remote_ip 10.0.0.0/8\n}", true},
		{"not http_request beside inspected http", "{\n inspected http\n not http_request path /chat/*\n}", false},
		{"not http_request beside inspected tls", "{\n inspected tls\n not http_request path /chat/*\n}", true},
		{"not http_request beside inspected http tls", "{\n inspected http tls\n not http_request path /chat/*\n}", true},
		{"not with another matcher", "not remote_ip 10.0.0.0/8", false},
		{"not inspected http", "not inspected http", false},
		{"not within http_request", "http_request not path /chat/*", false},
		{"http_request", "http_request path /chat/*", false},
		{"not http_request in a later set", "inspected tls\n @second not http_request path /chat/*\n route @a @second {\n close\n }", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			warnings, err := loadCaddyfile(t, inRoute("inspect {\n @a "+test.set+"\n route @a {\n close\n }\n}"))
			checkError(t, err, "")
			checkWarnings(t, about(warnings, text), test.warned, text)
		})
	}
}
