package headmatch

import (
	"net/textproto"
	"strings"
)

// Header matches requests that meet the condition on each of the fields. One of the values
// of the field must be one of those given, which may have an asterisk at the beginning or
// the end for any text. With an empty list the field must be there, with nil it must not.
//
// It returns nil if one of the fields is among those that net/http changes.
func Header(fields map[string][]string) Matcher {
	var conditions []condition
	for name, values := range fields {
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Content-Length", "Transfer-Encoding", "Trailer", "Cache-Control":
			return nil
		}
		c := condition{name: name, absent: values == nil, present: values != nil && len(values) == 0}
		for _, value := range values {
			c.values = append(c.values, newWildcard(value))
		}
		conditions = append(conditions, c)
	}
	return func(h *Head) Answer {
		for i := range conditions {
			if answer := conditions[i].match(h); answer != Yes {
				return answer
			}
		}
		return Yes
	}
}

// condition is what Header asks of one field.
type condition struct {
	name    string // in canonical form
	absent  bool   // the field must not be there
	present bool   // it must be there, with any value
	values  []wildcard
}

func (c *condition) match(h *Head) Answer {
	found := false
	switch {
	case c.name == "Host":
		host := h.text(h.Reader.Host)
		if found = host != ""; found && matchAny(c.values, host) {
			return Yes
		}
	case Dropped(c.name):
	default:
		for field := range h.Reader.Named(h.Data, c.name) {
			if field.Folded {
				return Unsure
			}
			if found = true; matchAny(c.values, h.text(field.Value)) {
				return Yes
			}
		}
	}
	if found {
		return answer(c.present)
	}
	return answer(c.absent)
}

// Dropped reports whether the HTTP app drops the fields of that name before it routes.
func Dropped(name string) bool { return strings.ContainsAny(name, "_.") }
