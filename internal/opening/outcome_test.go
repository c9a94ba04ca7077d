package opening_test

import (
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/opening"
)

func TestOutcomeNames(t *testing.T) {
	for i, name := range opening.Names() {
		got, err := opening.ParseOutcome(name)
		if err != nil || got != opening.Outcome(i) || got.String() != name {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	_, err := opening.ParseOutcome("HTTP")
	if want := `unknown outcome "HTTP": use one of http, tls, other, http2, malformed, too_large, timeout, silent, eof`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestOutcomeKinds checks which outcomes routes get, what goes on to the next handler, and
// where reading ends.
func TestOutcomeKinds(t *testing.T) {
	for _, test := range []struct {
		name string
		is   func(opening.Outcome) bool
		want string
	}{
		{"by default", opening.Outcome.ByDefault, "http tls"},
		{"passes", opening.Outcome.Passes, "http tls other"},
		{"final", opening.Outcome.Final, "malformed too_large timeout silent eof"},
	} {
		var got []string
		for i, name := range opening.Names() {
			if test.is(opening.Outcome(i)) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
