package streamprox

import (
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// TestInspectKey checks that an inspect is known by the same key in the configuration
// and when Caddy has loaded it, and by another one if anything differs.
func TestInspectKey(t *testing.T) {
	const config = `{"timeout":"3s", "handler":"inspect","max_bytes":512.0,"routes":[
		{"handle":[{"handler":"relay","upstreams":[{"dial":["a<b>&c:1"]}]}, {"handler":"inspect","max_packets":3}],
		 "match":[{"ssh":{},"http_request":[{"path":["/é\u0041"]}]}]}]}`
	var fields map[string]any
	if err := json.Unmarshal([]byte(config), &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "handler") // as Caddy does
	raw, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	var h Inspect
	if err := json.Unmarshal(raw, &h); err != nil {
		t.Fatal(err)
	}
	loaded, err := json.Marshal(&h)
	if err != nil {
		t.Fatal(err)
	}
	key := inspectKey([]byte(config))
	if key == "" || key != inspectKey(loaded) {
		t.Errorf("got %q in the configuration and %q when it is loaded", key, inspectKey(loaded))
	}
	if other := inspectKey([]byte(strings.Replace(config, "dial", "dail", 1))); other == key {
		t.Error("two configurations have one key")
	}
	if got := inspectKey([]byte(`{"routes":1}`)); got != "" {
		t.Errorf("got key %q of what is no inspect", got)
	}
}

// TestHiddenInspectIsNotLast checks that where a handler of another module holds an
// inspect, nothing is said of any.
func TestHiddenInspectIsNotLast(t *testing.T) {
	const inspect = `{"handler":"inspect","routes":[]}`
	for config, want := range map[string]bool{
		`[{"handle":[` + inspect + `]}]`:                                                                       true,
		`[{"handle":[` + inspect + `]},{"handle":[{"handler":"unknown"}]}]`:                                    false,
		`[{"handle":[{"handler":"unknown","inner":[` + inspect + `]}]},{"handle":[` + inspect + `]}]`:          false,
		`[{"handle":[{"handler":"unknown","name":"inspect"}]},{"handle":[` + inspect + `]}]`:                   true,
		`[{"handle":[` + inspect + `,{"handler":"tee","branch":[{"handler":"echo"}]}]}]`:                       false,
		`[{"handle":[{"handler":"tee","branch":[` + inspect + `]}]}]`:                                          false,
		`[{"handle":[{"handler":"subroute","routes":[{"handle":[` + inspect + `]}]},{"handler":"echo"}]}]`:     false,
		`[{"handle":[{"handler":"subroute","routes":[{"handle":[` + inspect + `]}]},{"handler":"throttle"}]}]`: true,
	} {
		found := &findings{last: make(map[string]bool)}
		c := &checker{logger: zap.NewNop(), found: found}
		var routes []configRoute
		if err := json.Unmarshal([]byte(config), &routes); err != nil {
			t.Fatal(err)
		}
		c.routes = newRouteList(routes, "")
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		if got := found.isLast(&Inspect{Routes: []*Route{}}); got != want {
			t.Errorf("%s: got %t, want %t", config, got, want)
		}
	}
}
