package streamprox

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/modules/l4proxy"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

func TestRelayPolicyErrors(t *testing.T) {
	tests := []struct{ name, policy, want string }{
		{"unknown policy", `{"policy":"fastest"}`, "fastest"},
		{"no policy", `{}`, "loading selection policy"},
		{"unknown field", `{"policy":"first","weight":1}`, "weight"},
		{"too few to choose from", `{"policy":"random_choose","choose":1}`, "choose must be at least 2"},
		{"negative choice", `{"policy":"random_choose","choose":-2}`, "choose must be at least 2"},
		{"no object", `"first"`, "selection policy"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
			defer cancel()
			h := &Relay{LoadBalancing: &l4proxy.LoadBalancing{SelectionPolicyRaw: json.RawMessage(test.policy)}}
			err := h.provisionPolicy(ctx, new(upstream.Options))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestHealthCheckDefaults(t *testing.T) {
	provisioned := func(config *l4proxy.HealthChecks) (options upstream.Options) {
		t.Helper()
		if err := (&Relay{HealthChecks: config}).provisionHealthChecks(&options); err != nil {
			t.Fatal(err)
		}
		return options
	}
	got := provisioned(&l4proxy.HealthChecks{Active: new(l4proxy.ActiveHealthChecks)}).HealthChecks
	want := upstream.HealthChecks{Interval: 30 * time.Second, Timeout: 5 * time.Second, Rise: 1, Fall: 1}
	if got == nil || *got != want {
		t.Errorf("active checks: got %+v, want those of caddy-l4's proxy, %+v", got, want)
	}
	for _, test := range []struct {
		passive l4proxy.PassiveHealthChecks
		fails   int
		max     int
	}{
		{l4proxy.PassiveHealthChecks{}, 0, 0},
		{l4proxy.PassiveHealthChecks{FailDuration: caddy.Duration(time.Second)}, 1, 0},
		{l4proxy.PassiveHealthChecks{FailDuration: caddy.Duration(time.Second), MaxFails: 3}, 3, 0},
		{l4proxy.PassiveHealthChecks{UnhealthyConnectionCount: 4}, 0, 4},
	} {
		got := provisioned(&l4proxy.HealthChecks{Passive: &test.passive})
		if got.HealthChecks != nil || got.MaxFails != test.fails || got.MaxConnections != test.max {
			t.Errorf("%+v: got max_fails %d and %d connections, want %d and %d", test.passive, got.MaxFails, got.MaxConnections, test.fails, test.max)
		}
	}
}

// TestFailureStatus checks what a request is answered that reaches no upstream.
func TestFailureStatus(t *testing.T) {
	for reason, want := range map[upstream.Reason]int{
		upstream.NoConnection:       502,
		upstream.HandshakeFailed:    502,
		upstream.InvalidCertificate: 502,
		upstream.NoAddress:          502,
		upstream.NotAllowed:         502,
		upstream.NoneAvailable:      503,
		upstream.Scarce:             503,
		upstream.Timeout:            504,
	} {
		if got := failureStatus(reason); got != want {
			t.Errorf("%s: got %d, want %d", reason, got, want)
		}
	}
}

// TestFailedConfigurationsKeepNoUpstreams checks that upstreams of configurations that were
// refused are forgotten.
func TestFailedConfigurationsKeepNoUpstreams(t *testing.T) {
	const address = "192.0.2.1:9000"
	tests := []struct{ name, handler string }{
		{"loads", `{"handler":"relay","upstreams":[{"dial":["` + address + `"]},{"dial":["` + address + `"]}]}`},
		{"second upstream refused", `{"handler":"relay","upstreams":[{"dial":["` + address + `"]},{"dial":["udp/` + address + `"]}]}`},
		{"policy refused", `{"handler":"relay","upstreams":[{"dial":["` + address + `"]}],"load_balancing":{"selection":{"policy":"nonsense"}}}`},
		{"next handler refused", `{"handler":"relay","upstreams":[{"dial":["` + address + `"]}]},{"handler":"nonsense"}`},
		{"route after it refused", `{"handler":"inspect","routes":[{"handle":[{"handler":"relay","upstreams":[{"dial":["` + address + `"]}]}]},{"handle":[{"handler":"nonsense"}]}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadApps(t, "{"+inServer(test.handler)+"}")
			if (err == nil) != (test.name == "loads") {
				t.Errorf("loading: got error %v", err)
			}
			if upstream.Known("tcp/" + address) {
				t.Error("the address is still known, want it forgotten")
			}
		})
	}
}
