package httphead

import (
	"bytes"
	"testing"
)

// TestSkip puts every byte in every place of two words, among bytes that are
// next to the limits of the classes.
func TestSkip(t *testing.T) {
	letter := func(c byte) bool { return 'a' <= Lower(c) && Lower(c) <= 'z' || c == '-' }
	text := func(c byte) bool { return class[c]&lineByte != 0 }
	for _, test := range []struct {
		name   string
		skip   func([]byte, int) int
		in     func(byte) bool
		around string
	}{
		{"name", skipName, letter, "aAzZ-"},
		{"text", skipText, text, " !~\x80\xff"},
	} {
		for _, c := range []byte(test.around) {
			for place := range 16 {
				for b := range 256 {
					data := bytes.Repeat([]byte{c}, 16)
					data[place] = byte(b)
					want := 16
					if !test.in(byte(b)) {
						want = place
					}
					if got := test.skip(data, 0); got != want {
						t.Fatalf("%s, %q: got %d, want %d", test.name, data, got, want)
					}
				}
			}
		}
		if got := test.skip([]byte("aaaaaaa"), 0); got != 0 {
			t.Errorf("%s: got %d in less than a word, want 0", test.name, got)
		}
	}
}
