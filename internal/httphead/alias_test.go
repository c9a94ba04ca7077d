package httphead

import "testing"

func TestSameVariable(t *testing.T) {
	tests := []struct {
		a, b string
		same bool
	}{
		{"X-User", "X-User", true},
		{"x-uSER", "X-User", true},
		{"X_User", "X-User", true},
		{"X.User", "x_user", true},
		{"X-User", "XUser", false},
		{"X-User", "X-Users", false},
		{"X-User", "X0User", false},
		{"X-User", "XaUser", false},
		{"", "", true},
		{"", "-", false},
		{"!", "~", true},
	}
	// Every byte of a name that is no letter or digit.
	for c := range 256 {
		if b := byte(c); class[b]&tokenByte != 0 {
			name := "X" + string(rune(b)) + "User"
			alphanumeric := isDigit(b) || 'a' <= Lower(b) && Lower(b) <= 'z'
			tests = append(tests, struct {
				a, b string
				same bool
			}{name, "X-User", !alphanumeric})
			if got, want := isAlias([]byte(name)), !alphanumeric && b != '-'; got != want {
				t.Errorf("%s: alias: got %v, want %v", name, got, want)
			}
		}
	}
	for _, test := range tests {
		if got := SameVariable([]byte(test.a), test.b); got != test.same {
			t.Errorf("%s and %s: got %v, want %v", test.a, test.b, got, test.same)
		}
		if got := SameVariable([]byte(test.b), test.a); got != test.same {
			t.Errorf("%s and %s: got %v, want %v", test.b, test.a, got, test.same)
		}
		if got := Unaliased(test.a) == Unaliased(test.b); got != test.same {
			t.Errorf("%s and %s: unaliased %s and %s, same: want %v", test.a, test.b, Unaliased(test.a), Unaliased(test.b), test.same)
		}
	}
	if got, want := Unaliased("X!For_waRDed.\u212a9"), "x-for-warded--9"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
