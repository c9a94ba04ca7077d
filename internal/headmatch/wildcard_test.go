package headmatch

import "testing"

func TestWildcard(t *testing.T) {
	tests := []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true},
		{"", "a", false},
		{"one", "one", true},
		{"one", "One", false},
		{"one", "ones", false},
		{"one", "", false},
		{"*", "", true},
		{"*", "one", true},
		{"**", "", true},
		{"**", "one", true},
		{"on*", "one", true},
		{"on*", "on", true},
		{"on*", "o", false},
		{"on*", "one on one", true},
		{"on*", "a one", false},
		{"*ne", "one", true},
		{"*ne", "ne", true},
		{"*ne", "e", false},
		{"*ne", "ones", false},
		{"*n*", "one", true},
		{"*n*", "n", true},
		{"*n*", "two", false},
		{"o*e", "one", false},
		{"o*e", "o*e", true},
		{"***", "a*b", true}, // the asterisk in the middle is text
		{"***", "ab", false},
		{"*a*b", "xa*b", true},
		{"*a*b", "xab", false},
	}
	for _, test := range tests {
		w := newWildcard(test.pattern)
		if got := w.match(test.text); got != test.want {
			t.Errorf("%q on %q: got %v, want %v", test.pattern, test.text, got, test.want)
		}
	}
}
