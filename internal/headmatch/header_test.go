package headmatch

import "testing"

func TestHeader(t *testing.T) {
	type fields = map[string][]string
	tests := []struct {
		name   string
		header fields
		sent   string
		want   Answer
	}{
		{"equal", fields{"X-Tag": {"one"}}, "X-Tag: one\r\n", Yes},
		{"letter case of the name", fields{"x-tag": {"one"}}, "X-TAG: one\r\n", Yes},
		{"letter case of the value", fields{"X-Tag": {"one"}}, "X-Tag: One\r\n", No},
		{"another name of that length", fields{"X-Tag": {"one"}}, "X-Tab: one\r\n", No},
		{"the second value", fields{"X-Tag": {"one", "two"}}, "X-Tag: two\r\n", Yes},
		{"the second field", fields{"X-Tag": {"two"}}, "X-Tag: one\r\nx-tag: two\r\n", Yes},
		{"a list is one value", fields{"X-Tag": {"one"}}, "X-Tag: one, two\r\n", No},
		{"space around", fields{"X-Tag": {"one"}}, "X-Tag:\t one \t\r\n", Yes},
		{"empty value", fields{"X-Tag": {""}}, "X-Tag:\r\n", Yes},
		{"no field", fields{"X-Tag": {""}}, "", No},
		{"prefix", fields{"X-Tag": {"on*"}}, "X-Tag: one\r\n", Yes},
		{"suffix", fields{"X-Tag": {"*ne"}}, "X-Tag: one\r\n", Yes},
		{"within", fields{"X-Tag": {"*n*"}}, "X-Tag: one\r\n", Yes},
		{"asterisk in the middle is text", fields{"X-Tag": {"o*e"}}, "X-Tag: one\r\n", No},
		{"any value", fields{"X-Tag": {"*"}}, "X-Tag:\r\n", Yes},
		{"any value, no field", fields{"X-Tag": {"*"}}, "", No},
		{"beyond ASCII", fields{"X-Tag": {"*é"}}, "X-Tag: café\r\n", Yes},

		{"must be there", fields{"X-Tag": {}}, "X-Tag:\r\n", Yes},
		{"must be there, is not", fields{"X-Tag": {}}, "", No},
		{"must not be there", fields{"X-Tag": nil}, "", Yes},
		{"must not be there, is", fields{"X-Tag": nil}, "X-Tag: one\r\n", No},
		{"two fields", fields{"X-Tag": {"one"}, "X-Other": {"x"}}, "X-Tag: one\r\nX-Other: x\r\n", Yes},
		{"one of two fields", fields{"X-Tag": {"one"}, "X-Other": nil}, "X-Tag: one\r\nX-Other: x\r\n", No},
		{"no condition", fields{}, "", Yes},

		{"on two lines", fields{"X-Tag": {"*"}}, "X-Tag: one\r\n two\r\n", Unsure},
		{"on two lines, must be there", fields{"X-Tag": {}}, "X-Tag: one\r\n two\r\n", Unsure},
		{"on two lines after one that matches", fields{"X-Tag": {"one"}}, "X-Tag: one\r\nX-Tag: two\r\n three\r\n", Yes},
		{"another field on two lines", fields{"X-Tag": {"one"}}, "X: a\r\n b\r\nX-Tag: one\r\n", Yes},

		{"Host", fields{"host": {"example.com:8080"}}, "", Yes},
		{"Host, letter case", fields{"Host": {"EXAMPLE.com:8080"}}, "", No},
		{"Host, suffix", fields{"Host": {"*:8080"}}, "", Yes},
		{"Host must be there", fields{"Host": {}}, "", Yes},
		{"Host must not be there", fields{"Host": nil}, "", No},

		{"underscore", fields{"X_Tag": {"*"}}, "X_Tag: one\r\n", No},
		{"underscore, must not be there", fields{"X_Tag": nil}, "X_Tag: one\r\n", Yes},
		{"dot, must be there", fields{"X.Tag": {}}, "X.Tag: one\r\n", No},
		{"hyphen, an underscore is sent", fields{"X-Tag": {"*"}}, "X_Tag: one\r\n", No},
		{"what is no name", fields{"x tag": {"*"}}, "X-Tag: one\r\n", No},
		{"what is no name, must not be there", fields{"x tag": nil}, "X-Tag: one\r\n", Yes},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, Header(test.header), "GET / HTTP/1.1\r\nHost: example.com:8080\r\n"+test.sent+"\r\n", test.want)
		})
	}
}

// TestHeaderHost checks what counts as the Host of a request that has no Host field, or
// one besides that of its target.
func TestHeaderHost(t *testing.T) {
	type fields = map[string][]string
	tests := []struct {
		head                    string
		absent, present, any, a Answer
	}{
		{"GET / HTTP/1.0\r\n\r\n", Yes, No, No, No},
		{"GET / HTTP/1.0\r\nHost:\r\n\r\n", Yes, No, No, No},
		{"GET http://a/ HTTP/1.0\r\n\r\n", No, Yes, Yes, Yes},
		{"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", No, Yes, Yes, Yes},
	}
	for _, test := range tests {
		check(t, Header(fields{"Host": nil}), test.head, test.absent)
		check(t, Header(fields{"Host": {}}), test.head, test.present)
		check(t, Header(fields{"Host": {"*"}}), test.head, test.any)
		check(t, Header(fields{"Host": {"a"}}), test.head, test.a)
	}
}

func TestHeaderChanged(t *testing.T) {
	for _, name := range []string{"Content-Length", "transfer-encoding", "Trailer", "CACHE-CONTROL"} {
		if Header(map[string][]string{"X-Tag": {"one"}, name: {"x"}}) != nil {
			t.Errorf("%s: got a matcher, want nil", name)
		}
	}
}

func TestDropped(t *testing.T) {
	for name, want := range map[string]bool{"X-Tag": false, "X_Tag": true, "X.Tag": true, "Host": false, "_": true, "X!Tag": false, "": false} {
		if got := Dropped(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}
