package streamprox

import (
	"fmt"
	"testing"
)

// TestUntilLineLooksEverywhere checks that matchers of header fields are found where
// layer4 nests them.
func TestUntilLineLooksEverywhere(t *testing.T) {
	tests := []struct{ name, config string }{
		{name: "not of layer4", config: "inspect {\n until line\n @a not http_request host example.org\n route @a {\n echo\n }\n}"},
		{name: "subroute", config: "inspect {\n until line\n route {\n subroute {\n @a http_request host example.org\n route @a {\n echo\n }\n }\n }\n}"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadCaddyfile(t, inRoute(test.config))
			checkError(t, err, "http_request host needs the header fields")
		})
	}
}

// TestUntilLineRefusesReuse checks that each request can only be routed where inspect
// waits for heads, and that a reuse that is left out is no error.
func TestUntilLineRefusesReuse(t *testing.T) {
	const (
		fix = " (which is pin if it is left out) needs the whole head, which 'until line' does not wait for"

		subroute = "subroute {\n route {\n %s\n }\n}"
		nested   = "inspect {\n route {\n %s\n }\n}"
	)
	relay := func(reuse string) string { return "relay 10.0.0.5:9000 {\n" + reuse + "\n}" }
	app := func(reuse string) string { return "http_app web {\n" + reuse + "\n}" }
	tests := []struct{ name, until, handlers, want string }{
		{"relay close", "line", relay("reuse close"), "route 0: relay with reuse close" + fix},
		{"relay pin", "line", relay("reuse pin"), ""},
		{"relay unset", "line", relay(""), ""},
		{"relay close, until headers", "headers", relay("reuse close"), ""},
		{"http_app close", "line", app("reuse close"), "route 0: http_app with reuse close" + fix},
		{"http_app reinspect", "line", app("reuse reinspect"), "route 0: http_app with reuse reinspect" + fix},
		{"http_app pin", "line", app("reuse pin"), ""},
		{"http_app unset", "line", app(""), ""},
		{"http_app reinspect, until headers", "headers", app("reuse reinspect"), ""},
		{"after another handler", "line", "throttle {\n read_bytes_per_second 1000\n}\n" + relay("reuse close"), "relay with reuse close" + fix},
		{"in the second route", "line", "echo\n}\nroute {\n" + relay("reuse close"), "route 1: relay with reuse close" + fix},
		{"in a subroute", "line", fmt.Sprintf(subroute, relay("reuse close")), "relay with reuse close" + fix},
		{"in a subroute of a subroute", "line", fmt.Sprintf(subroute, fmt.Sprintf(subroute, app("reuse reinspect"))), "http_app with reuse reinspect" + fix},
		{"after a subroute", "line", fmt.Sprintf(subroute, relay("")) + "\n" + app("reuse close"), "http_app with reuse close" + fix},
		{"in another inspect", "line", fmt.Sprintf(nested, relay("reuse close")), ""},
		{"after another inspect", "line", fmt.Sprintf(nested, relay("")) + "\n" + relay("reuse close"), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadCaddyfile(t, inRoute("inspect {\n until "+test.until+"\n route {\n"+test.handlers+"\n}\n}"))
			checkError(t, err, test.want)
		})
	}
}

// TestUntilLineJSONErrors looks at what needs more than the request line.
func TestUntilLineJSONErrors(t *testing.T) {
	inspect := func(fields string) string { return `{"handler":"inspect",` + fields + `}` }
	request := func(fields, sets string) string {
		return inspect(fields + `"routes":[{"match":[{"http_request":` + sets + `}],"handle":[{"handler":"echo"}]}]`)
	}
	rewrite := func(fields string) string { return `{"handler":"rewrite_head",` + fields + `}` }
	checkJSON(t, []jsonCase{
		{"method", request(`"until":"line",`, `[{"method":["GET"]}]`), ""},
		{"path", request(`"until":"line",`, `[{"path":["/a"]}]`), ""},
		{"path_regexp", request(`"until":"line",`, `[{"path_regexp":{"pattern":"a"}}]`), ""},
		{"query", request(`"until":"line",`, `[{"query":{"a":["b"]}}]`), ""},
		{"protocol", request(`"until":"line",`, `[{"protocol":"http/1.1"}]`), ""},
		{"protocol https", request(`"until":"line",`, `[{"protocol":"https"}]`), ""},
		{"protocol grpc", request(`"until":"line",`, `[{"protocol":"grpc"}]`), "http_request protocol needs the header fields"},
		{"remote_ip", request(`"until":"line",`, `[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]`), ""},
		{"not method", request(`"until":"line",`, `[{"not":[{"method":["GET"]}]}]`), ""},
		{"host", request(`"until":"line",`, `[{"host":["a"]}]`), "route 0: http_request host needs the header fields, which 'until line' does not wait for; use 'until headers'"},
		{"header", request(`"until":"line",`, `[{"header":{"A":["b"]}}]`), "http_request header needs"},
		{"header_regexp", request(`"until":"line",`, `[{"header_regexp":{"A":{"pattern":"b"}}}]`), "http_request header_regexp needs"},
		{"expression", request(`"until":"line",`, `[{"expression":"true"}]`), "http_request expression needs"},
		{"not header", request(`"until":"line",`, `[{"not":[{"header":{"A":["b"]}}]}]`), "http_request header needs"},
		{"not not host", request(`"until":"line",`, `[{"not":[{"not":[{"host":["a"]}]}]}]`), "http_request host needs"},
		{"beside an allowed one", request(`"until":"line",`, `[{"method":["GET"],"host":["a"]}]`), "http_request host needs"},
		{"in the second set", request(`"until":"line",`, `[{"method":["GET"]},{"host":["a"]}]`), "http_request host needs"},
		{"path with a placeholder of a header", request(`"until":"line",`, `[{"path":["/{http.request.header.A}"]}]`), "http_request path needs"},
		{"rewrite_head", inspect(`"until":"line","routes":[{},{"handle":[` + rewrite(`"host":"a"`) + `]}]`), "route 1: rewrite_head edits the whole head, which 'until line' does not wait for; use 'until headers'"},
		{"rewrite_head after another handler", inspect(`"until":"line","routes":[{"handle":[{"handler":"throttle"},` + rewrite(`"host":"a"`) + `]}]`), "route 0: rewrite_head edits the whole head"},
		{"rewrite_head in a subroute", inspect(`"until":"line","routes":[{"handle":[{"handler":"throttle"},{"handler":"subroute","routes":[{},{"handle":[` + rewrite(`"host":"a"`) + `]}]}]}]`), "route 0: rewrite_head edits the whole head"},
		{"rewrite_head after another inspect", inspect(`"until":"line","routes":[{"handle":[{"handler":"inspect"},` + rewrite(`"host":"a"`) + `]}]`), ""},
		{"host", request(`"until":"headers",`, `[{"host":["a"]}]`), ""},
		{"rewrite_head", inspect(`"routes":[{"handle":[` + rewrite(`"host":"a"`) + `]}]`), ""},
	})
}
