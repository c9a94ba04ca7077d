package streamprox

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
)

// MatchInspected matches a connection by the outcome of its inspection. Its JSON is
// an array of outcomes: `http`, `tls`, `other`, `http2`, `malformed`, `too_large`,
// `timeout`, `silent`, `eof`. A connection that was not inspected never matches.
type MatchInspected struct {
	// Outcomes holds the names, of which one must be the outcome.
	Outcomes []string `json:"-"`

	mask uint16
}

// CaddyModule returns the Caddy module information.
func (*MatchInspected) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.matchers.inspected",
		New: func() caddy.Module { return new(MatchInspected) },
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *MatchInspected) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &m.Outcomes)
}

// MarshalJSON implements json.Marshaler.
func (m *MatchInspected) MarshalJSON() ([]byte, error) {
	return json.Marshal(m.Outcomes)
}

// Provision parses the outcomes.
func (m *MatchInspected) Provision(caddy.Context) error {
	if len(m.Outcomes) == 0 {
		return fmt.Errorf("inspected needs at least one outcome: use %s", strings.Join(outcomeNames[:], ", "))
	}
	for _, name := range m.Outcomes {
		o, err := parseOutcome(name)
		if err != nil {
			return err
		}
		m.mask |= 1 << o
	}
	return nil
}

// Match implements layer4.ConnMatcher.
func (m *MatchInspected) Match(cx *layer4.Connection) (bool, error) {
	in := inspectionOf(cx)
	return in != nil && m.has(in.outcome), nil
}

func (m *MatchInspected) has(o Outcome) bool { return m.mask&(1<<o) != 0 }

// Interface guards
var (
	_ caddy.Provisioner     = (*MatchInspected)(nil)
	_ caddyfile.Unmarshaler = (*MatchInspected)(nil)
	_ json.Marshaler        = (*MatchInspected)(nil)
	_ json.Unmarshaler      = (*MatchInspected)(nil)
	_ layer4.ConnMatcher    = (*MatchInspected)(nil)
)
