package httphead

import "testing"

func TestEqualFold(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"Host", "hOST", true},
		{"Host", "Hosts", false},
		{"Host", "Hos", false},
		{"Host", "Hose", false},
		{"a-1", "A-1", true},
		{"@", "`", false}, // the bytes before the letters
		{"[", "{", false}, // and after them
		{"\xc9", "\xe9", false},
		{"k", "\u212a", false},
	}
	for _, test := range tests {
		for _, got := range []bool{
			EqualFold(test.a, test.b), EqualFold(test.b, test.a),
			EqualFold([]byte(test.a), test.b), EqualFold([]byte(test.a), []byte(test.b)),
		} {
			if got != test.want {
				t.Errorf("%q and %q: got %v, want %v", test.a, test.b, got, test.want)
			}
		}
	}
}

func TestUnescape(t *testing.T) {
	tests := []struct {
		in   string
		want byte
		ok   bool
	}{
		{"%2f", '/', true},
		{"%2F", '/', true},
		{"%aF%00", 0xaf, true},
		{"%00", 0, true},
		{"%ff", 0xff, true},
		{"%2", 0, false},
		{"%", 0, false},
		{"", 0, false},
		{"%g0", 0, false},
		{"%0g", 0, false},
		{"%%41", 0, false},
		{"a%2f", 0, false},
	}
	for _, test := range tests {
		c, ok := Unescape(test.in)
		if ok != test.ok || ok && c != test.want {
			t.Errorf("%q: got %#x, %v, want %#x, %v", test.in, c, ok, test.want, test.ok)
		}
	}
}
