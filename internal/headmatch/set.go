package headmatch

import "slices"

// Set is a list of matchers that must all match.
type Set []Matcher

// Match is Yes if all the matchers answer Yes, and otherwise the first other answer.
func (s Set) Match(h *Head) Answer {
	for _, matcher := range s {
		if answer := matcher(h); answer != Yes {
			return answer
		}
	}
	return Yes
}

// Not matches if none of the sets does. It returns nil if one of their matchers is nil.
func Not(sets []Set) Matcher {
	for _, set := range sets {
		if slices.ContainsFunc(set, func(m Matcher) bool { return m == nil }) {
			return nil
		}
	}
	return func(h *Head) Answer {
		for _, set := range sets {
			switch set.Match(h) {
			case Yes:
				return No
			case Unsure:
				return Unsure
			}
		}
		return Yes
	}
}
