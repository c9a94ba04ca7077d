package headmatch

import "testing"

// always returns a matcher that gives one answer.
func always(a Answer) Matcher { return func(*Head) Answer { return a } }

func TestSet(t *testing.T) {
	yes, no, unsure := always(Yes), always(No), always(Unsure)
	tests := []struct {
		name string
		set  Set
		want Answer
	}{
		{"empty", Set{}, Yes},
		{"all", Set{yes, yes}, Yes},
		{"one is not", Set{yes, no}, No},
		{"one is unsure", Set{yes, unsure}, Unsure},
		{"the first answer that is not yes: no", Set{yes, no, unsure}, No},
		{"the first answer that is not yes: unsure", Set{unsure, no}, Unsure},
	}
	for _, test := range tests {
		if got := test.set.Match(nil); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

func TestNot(t *testing.T) {
	yes, no, unsure := always(Yes), always(No), always(Unsure)
	tests := []struct {
		name string
		sets []Set
		want Answer
	}{
		{"no set", nil, Yes},
		{"an empty set", []Set{{}}, No},
		{"a set that matches", []Set{{yes}}, No},
		{"a set that does not", []Set{{no}}, Yes},
		{"a set that is unsure", []Set{{unsure}}, Unsure},
		{"one of two matches", []Set{{yes, no}, {yes}}, No},
		{"none of two matches", []Set{{yes, no}, {no, unsure}}, Yes},
		{"unsure before one that matches", []Set{{unsure}, {yes}}, Unsure},
		{"unsure after one that matches", []Set{{yes}, {unsure}}, No},
		{"twice", []Set{{Not([]Set{{yes}})}}, Yes},
	}
	for _, test := range tests {
		if got := Not(test.sets)(nil); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
	if Not([]Set{{yes}, {yes, nil}}) != nil {
		t.Error("a matcher of a set is nil: got a matcher, want nil")
	}
}
