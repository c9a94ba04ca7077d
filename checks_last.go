package streamprox

import (
	"encoding/json"
	"slices"
)

// Whether an inspect is the last handler that an HTTP request could go to. Then it answers
// requests that no route takes with 404. A handler that is being provisioned does not know its
// place, so the checks find that out for all, and each asks by its configuration.

// findings is what the handlers of an app are told about their place in its
// configuration.
type findings struct {
	// last says of each inspect, by inspectKey, whether no handler follows it that an HTTP
	// request could go to. If several have the same configuration, it must hold for all of
	// them.
	last map[string]bool

	// hidden is true if there is an inspect among the handlers of a module that is not
	// known here.
	hidden bool

	places places
}

func newFindings() *findings {
	return &findings{last: make(map[string]bool), places: make(places)}
}

// note notes what a handler is told about its place. Nothing is noted of those in a listener
// wrapper, whose server follows: there f is nil.
func (f *findings) note(h *configHandler) {
	if f == nil {
		return
	}
	if h.Name != "inspect" {
		f.hidden = f.hidden || h.hidesInspect()
		return
	}
	key := inspectKey(h.raw)
	if key == "" {
		f.hidden = true
		return
	}
	ends, passes := h.httpEndsAfter()
	last := passes && len(ends) == 0 && !h.followedBy(named("tee"))
	if before, known := f.last[key]; known {
		last = last && before
	}
	f.last[key] = last
}

// isLast reports whether no handler follows the inspect that an HTTP request could go
// to. Where that is not known, it is false.
func (f *findings) isLast(h *Inspect) bool {
	raw, err := json.Marshal(h)
	return err == nil && !f.hidden && f.last[inspectKey(raw)]
}

// inspectKey returns the key of the inspect with that configuration, or "" if it is not
// valid. Caddy formats the JSON of a handler anew, so the key is made of the values.
func inspectKey(raw json.RawMessage) string {
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return ""
	}
	raw, err := json.Marshal(value)
	var h Inspect
	if err != nil || json.Unmarshal(raw, &h) != nil {
		return ""
	}
	key, _ := json.Marshal(&h)
	return string(key)
}

// hidesInspect reports whether there is an inspect in the configuration of a handler of which
// the checks know nothing.
func (h *configHandler) hidesInspect() bool { return h.inner == nil && containsInspect(h.raw) }

// containsInspect reports whether a JSON value holds an inspect handler.
func containsInspect(raw json.RawMessage) bool {
	var value any
	return json.Unmarshal(raw, &value) == nil && findInspect(value)
}

func findInspect(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		if v["handler"] == "inspect" {
			return true
		}
		for _, inner := range v {
			if findInspect(inner) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, findInspect)
	}
	return false
}
