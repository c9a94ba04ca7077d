package headmatch

import "testing"

func TestHost(t *testing.T) {
	tests := []struct {
		name, host, sent string
		want             Answer
	}{
		{"equal", "example.com", "example.com", Yes},
		{"not equal", "example.com", "example.org", No},
		{"letter case", "example.com", "EXAMPLE.Com", Yes},
		{"port", "example.com", "example.com:8080", Yes},
		{"empty port", "example.com", "example.com:", Yes},
		{"port in the name", "example.com:8080", "example.com:8080", No},
		{"dot at the end", "example.com", "example.com.", No},
		{"dot at the end of both", "example.com.", "example.com.", Yes},
		{"underscore", "_sip.example.com", "_sip.example.com", Yes},

		{"any label", "*.example.com", "A.example.com:80", Yes},
		{"any label, none", "*.example.com", "example.com", No},
		{"any label, two", "*.example.com", "a.b.example.com", No},
		{"any two labels", "*.*.example.com", "a.b.example.com", Yes},
		{"any label in the middle", "a.*.com", "a.example.com", Yes},
		{"any label alone", "*", "localhost", Yes},
		{"any label alone, two", "*", "a.b", No},
		{"any label, empty", "*.example.com", ".example.com", Yes},
		{"asterisk within a label", "a*.example.com", "ab.example.com", No},
		{"letter case beside any label", "*.EXAMPLE.com", "a.example.COM", Yes},

		{"IPv4", "127.0.0.1", "127.0.0.1:80", Yes},
		{"IPv6", "::1", "[::1]", Yes},
		{"IPv6 with port", "::1", "[::1]:8080", Yes},
		{"IPv6, letter case", "2001:db8::1", "[2001:DB8::1]", Yes},
		{"IPv6 in brackets in the name", "[::1]", "[::1]", No},
		{"IPv6 without brackets", "::1", "::1", Unsure},
		{"text after the bracket", "::1", "[::1]x", Unsure},
		{"no closing bracket", "::1", "[::1", Unsure},
		{"two brackets", "::1", "[[::1]", Unsure},
		{"bracket in the port", "::1", "[::1]:8]", Unsure},
		{"bracket in the name", "a", "a[b", Unsure},
		{"two ports", "a", "a:80:90", Unsure},
		{"percent", "a", "%61", Unsure},

		{"empty", "", "", Yes},
		{"empty, a port", "", ":80", Yes},
		{"empty, any label", "*", "", Yes},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, Host([]string{test.host}), "GET / HTTP/1.1\r\nHost: "+test.sent+"\r\n\r\n", test.want)
		})
	}
}

func TestHostNames(t *testing.T) {
	head := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	m := Host([]string{"*.example.org", "example.com", "localhost", "*.example.com"})
	for _, host := range []string{"a.example.org", "example.com", "localhost", "a.example.com"} {
		check(t, m, head(host), Yes)
	}
	check(t, m, head("example.net"), No)
	check(t, m, "GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", Yes)
	check(t, m, "GET / HTTP/1.0\r\n\r\n", No)
	check(t, Host(nil), head("a"), No)
	if Host([]string{"a", "bücher.example"}) != nil {
		t.Error("a name beyond ASCII: got a matcher, want nil")
	}
}
