package streamprox

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/modules/l4proxy"
	"go.uber.org/zap"
)

// TestRecord checks when an address goes down and up. In results and states a letter
// stands for each check: + passed or up, - failed or down.
func TestRecord(t *testing.T) {
	tests := []struct {
		name       string
		rise, fall int
		results    string
		states     string
	}{
		{"at once", 1, 1, "+-+--+", "+-+--+"},
		{"falls after two", 1, 2, "-+--+-+", "+++-+++"},
		{"falls after three", 1, 3, "--+---", "+++++-"},
		{"rises after two", 2, 1, "-+-++-", "----+-"},
		{"rises after three, falls after two", 3, 2, "--++-+++--", "+------++-"},
		{"up for long", 3, 2, "++++++-+--", "+++++++++-"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := new(peer)
			before := byte('+')
			for i, result := range test.results {
				changed := p.record(result == '+', test.rise, test.fall)
				got := byte('+')
				if p.down.Load() {
					got = '-'
				}
				if got != test.states[i] {
					t.Fatalf("after %s: got %c, want %c", test.results[:i+1], got, test.states[i])
				}
				if changed != (got != before) {
					t.Errorf("after %s: got changed %t, want %t", test.results[:i+1], changed, got != before)
				}
				before = got
			}
		})
	}
}

// TestUnwatch checks that an address which nobody checks any more is not down for ever,
// and that one which somebody else still checks stays as it is.
func TestUnwatch(t *testing.T) {
	p := new(peer)
	p.watch()
	p.record(false, 1, 1)
	p.watch() // that of the next configuration comes before the last one ends
	p.unwatch()
	if !p.down.Load() {
		t.Error("after a reload: got up, want down as before")
	}
	p.unwatch()
	if p.down.Load() {
		t.Error("after the last check ended: got down, want up")
	}
	p.watch()
	if p.record(false, 1, 2); p.down.Load() {
		t.Error("after one failed check of a new series: got down, want the second one awaited")
	}
}

// TestFails checks that failed dials make an upstream unavailable, and are forgotten.
func TestFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := testUpstream("a", 0, 0)
		u.maxFails = 2
		want := func(when string, available bool) {
			t.Helper()
			synctest.Wait()
			if got := u.available(); got != available {
				t.Errorf("%s: got available %t, want %t", when, got, available)
			}
		}
		u.peer.fail(10 * time.Second)
		want("after one failure", true)
		time.Sleep(4 * time.Second)
		u.peer.fail(10 * time.Second)
		want("after two failures", false)
		time.Sleep(5 * time.Second)
		want("9 s after the first", false)
		time.Sleep(time.Second)
		want("10 s after the first", true)
		u.peer.fail(10 * time.Second)
		want("after a third", false)
		time.Sleep(10 * time.Second)
		want("when all are forgotten", true)
		if got := u.peer.fails.Load(); got != 0 {
			t.Errorf("got %d failures, want 0", got)
		}
	})
}

func TestAvailable(t *testing.T) {
	for _, test := range []struct {
		name     string
		down     bool
		fails    int64
		maxFails int
		streams  int64
		max      int
		want     bool
	}{
		{"up", false, 0, 0, 0, 0, true},
		{"down", true, 0, 0, 0, 0, false},
		{"fails do not matter", false, 9, 0, 0, 0, true},
		{"fewer fails", false, 1, 2, 0, 0, true},
		{"as many fails", false, 2, 2, 0, 0, false},
		{"fewer streams", false, 0, 0, 1, 2, true},
		{"as many streams", false, 0, 0, 2, 2, false},
		{"all but the streams", true, 2, 2, 1, 2, false},
	} {
		u := testUpstream("a", 0, int(test.streams))
		u.config.MaxConnections, u.maxFails = test.max, test.maxFails
		u.peer.down.Store(test.down)
		u.peer.fails.Store(test.fails)
		if got := u.available(); got != test.want {
			t.Errorf("%s: got %t, want %t", test.name, got, test.want)
		}
	}
}

// checkedRelay returns a relay to a loopback address with active checks, not started.
func checkedRelay(t *testing.T, address string) *Relay {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	h := &Relay{ctx: ctx, logger: zap.NewNop(), HealthChecks: &l4proxy.HealthChecks{Active: new(l4proxy.ActiveHealthChecks)}}
	if err := h.provisionHealthChecks(); err != nil {
		t.Fatal(err)
	}
	h.upstreams = []*upstream{newTestUpstream(t, &l4proxy.Upstream{Dial: []string{address}})}
	return h
}

func TestHealthCheckDefaults(t *testing.T) {
	h := checkedRelay(t, "127.0.0.1:9")
	c := &h.checks
	if !c.active || c.interval != 30*time.Second || c.timeout != 5*time.Second || c.rise != 1 || c.fall != 1 || c.port != 0 || c.closeStreams {
		t.Errorf("active checks: got %+v, want those of caddy-l4's proxy", c)
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
		h := &Relay{HealthChecks: &l4proxy.HealthChecks{Passive: &test.passive}}
		if err := h.provisionHealthChecks(); err != nil {
			t.Fatal(err)
		}
		if h.checks.active || h.checks.maxFails != test.fails || h.checks.maxConnections != test.max {
			t.Errorf("%+v: got max_fails %d and %d connections, want %d and %d", test.passive, h.checks.maxFails, h.checks.maxConnections, test.fails, test.max)
		}
	}
}

// TestCheckPort checks that health_port is the port of checks, and only of those.
func TestCheckPort(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	checked, checks := listening(t, "127.0.0.1")
	h := checkedRelay(t, "127.0.0.1:"+port)
	h.checks.port, _ = strconv.Atoi(checked)
	h.checkOnce(t.Context(), h.upstreams[0])
	(<-checks).Close()
	conn, err := h.upstreams[0].dial(t.Context(), caddy.NewReplacer(), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	(<-accepted).Close()
	if len(checks) > 0 || h.upstreams[0].peer.down.Load() {
		t.Error("the stream went to the port of the checks, or the upstream is down")
	}
}

// TestCheckThatIsCancelled checks that the end of a configuration does not make an
// upstream fail.
func TestCheckThatIsCancelled(t *testing.T) {
	h := checkedRelay(t, "127.0.0.1:9")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the configuration has ended"))
	h.checkOnce(ctx, h.upstreams[0])
	if h.upstreams[0].peer.down.Load() {
		t.Error("got down, want no verdict")
	}
}

// TestChecksEnd checks that no goroutine of the checks outlives stopChecks; the test
// binary's leak check sees to that. Upstreams that depend on the connection are not
// checked.
func TestChecksEnd(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	h := checkedRelay(t, "127.0.0.1:"+port)
	h.upstreams = append(h.upstreams, newTestUpstream(t, &l4proxy.Upstream{Dial: []string{"{x}:80"}}, "a.example"))
	h.startChecks()
	(<-accepted).Close()
	if got := h.upstreams[1].peer.checkers; got != 0 {
		t.Errorf("got %d checks of an upstream that depends on the connection, want none", got)
	}
	h.stopChecks()
	if got := h.upstreams[0].peer.checkers; got != 0 {
		t.Errorf("got %d checks after the end, want none", got)
	}
}
