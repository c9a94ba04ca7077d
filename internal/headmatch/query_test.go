package headmatch

import (
	"strings"
	"testing"
)

func TestQuery(t *testing.T) {
	type parameters = map[string][]string
	a1, any := parameters{"a": {"1"}}, parameters{"a": {"*"}}
	tests := []struct {
		name   string
		wanted parameters
		query  string
		want   Answer
	}{
		{"equal", a1, "?a=1", Yes},
		{"not equal", a1, "?a=2", No},
		{"the beginning", a1, "?a=12", No},
		{"longer", parameters{"a": {"12"}}, "?a=1", No},
		{"letter case", a1, "?A=1", No},
		{"the second value", parameters{"a": {"2", "1"}}, "?a=1", Yes},
		{"the second parameter", a1, "?b=x&a=1", Yes},
		{"repeated", a1, "?a=2&a=1", Yes},
		{"any value", any, "?a=x", Yes},
		{"any value, none", any, "?a", Yes},
		{"any value, no parameter", any, "?b", No},
		{"no value", parameters{"a": {""}}, "?a", Yes},
		{"empty value", parameters{"a": {""}}, "?a=", Yes},
		{"empty name", parameters{"": {"1"}}, "?=1", Yes},
		{"nothing between ampersands is no parameter", parameters{"": {"*"}}, "?&&", No},
		{"no query", any, "", No},
		{"empty query", any, "?", No},
		{"both", parameters{"a": {"1"}, "b": {"2"}}, "?b=2&a=1", Yes},
		{"one of both", parameters{"a": {"1"}, "b": {"2"}}, "?a=1", No},
		{"asterisk at the end is text", parameters{"a": {"1*"}}, "?a=12", No},
		{"asterisk sent", a1, "?a=*", No},
		{"no values to choose from", parameters{"a": {}}, "?a=1", No},

		{"encoded", a1, "?%61=%31", Yes},
		{"plus", parameters{"a b": {"x y"}}, "?a+b=x+y", Yes},
		{"encoded space", parameters{"a": {"x y"}}, "?a=x%20y", Yes},
		{"encoded plus", parameters{"a": {"+"}}, "?a=%2B", Yes},
		{"encoded ampersand", parameters{"a": {"1&b=2"}}, "?a=1%26b=2", Yes},
		{"equals signs", parameters{"a": {"a=b"}}, "?a=a=b", Yes},
		{"question mark", parameters{"a": {"1?b"}}, "?a=1?b", Yes},
		{"beyond ASCII", parameters{"a": {"é"}}, "?a=%C3%A9", Yes},

		{"semicolon", any, "?a=1;b", No},
		{"semicolon elsewhere", a1, "?a=1&b;c", No},
		{"encoded semicolon", any, "?a=1%3bb", Yes},
		{"bad encoding elsewhere", a1, "?a=1&b=%zz", No},
		{"cut encoding elsewhere", a1, "?a=1&b=%2", No},
		{"10000 parameters", a1, "?a=1" + strings.Repeat("&", 9_999), Yes},
		{"10001 parameters", a1, "?a=1" + strings.Repeat("&", 10_000), Unsure},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, Query(test.wanted), "GET /"+test.query+" HTTP/1.1\r\nHost: a\r\n\r\n", test.want)
		})
	}
	if Query(nil) != nil || Query(parameters{}) != nil {
		t.Error("no parameters: got a matcher, want nil")
	}
}
