package upstream

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// checked returns a server with those health checks, none of which runs by itself.
func checked(t *testing.T, checks HealthChecks, address string) (*Pool, *Server) {
	t.Helper()
	p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{address}}}, DialTimeout: 20 * time.Second})
	checks.Timeout = 20 * time.Second
	checks.Rise, checks.Fall = max(checks.Rise, 1), max(checks.Fall, 1)
	p.options.HealthChecks = &checks
	p.servers[0].setVerdict(&p.options)
	return p, p.servers[0]
}

// TestCheckPort checks that the port of checks is that of checks alone.
func TestCheckPort(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	checkedPort, checks := listening(t, "127.0.0.1")
	number, _ := strconv.Atoi(checkedPort)
	p, s := checked(t, HealthChecks{Port: number}, "127.0.0.1:"+port)
	p.checkOnce(t.Context(), s)
	(<-checks).Close()
	conn, err := p.Dial(t.Context(), s, &Client{Stream: clientOf("10.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	(<-accepted).Close()
	if len(checks) > 0 || s.peer.down.Load() {
		t.Error("the stream went to the port of the checks, or the server is down")
	}
}

// TestCheckThatIsCancelled checks that the end of a configuration does not make a server
// fail.
func TestCheckThatIsCancelled(t *testing.T) {
	p, s := checked(t, HealthChecks{}, "127.0.0.1:9")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the configuration has ended"))
	p.checkOnce(ctx, s)
	if s.peer.down.Load() {
		t.Error("got down, want no verdict")
	}
}

// TestChecked: the owner of a pool is told of each check, and of those that change
// something.
func TestChecked(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	p, s := checked(t, HealthChecks{Fall: 2, CloseStreams: true}, "127.0.0.1:"+port)
	var got []HealthCheck
	p.options.Checked = func(check HealthCheck) { got = append(got, check) }
	streams := 0
	release := s.peer.streams.Hold(func() { streams++ })
	defer release()

	p.checkOnce(t.Context(), s)
	(<-accepted).Close()
	up := s.fixed
	_, s.fixed.port, _ = net.SplitHostPort(closedPort(t))
	for range 3 {
		p.checkOnce(t.Context(), s)
	}
	s.fixed = up
	p.checkOnce(t.Context(), s)
	(<-accepted).Close()

	want := []struct {
		passed, changed bool
		closed          int
	}{{true, false, 0}, {false, false, 0}, {false, true, 1}, {false, false, 0}, {true, true, 0}}
	for i, check := range got {
		if i >= len(want) || check.Server != s || (check.Err == nil) != want[i].passed || check.Changed != want[i].changed || check.Closed != want[i].closed {
			t.Errorf("check %d: got %+v", i, check)
		}
	}
	if len(got) != len(want) || streams != 1 {
		t.Errorf("got %d checks and %d streams closed, want %d and 1", len(got), streams, len(want))
	}
}

// TestChecksEnd checks that no goroutine of the checks outlives Close; the test binary's
// leak check sees to that. Servers whose address depends on the client are not checked.
func TestChecksEnd(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	allow, err := ParseAllow([]string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	p := newTestPool(t, Options{
		Servers:      l4proxy.UpstreamPool{{Dial: []string{"127.0.0.1:" + port}}, {Dial: []string{"{x}:80"}}},
		Allow:        allow,
		HealthChecks: &HealthChecks{Interval: time.Hour, Timeout: 20 * time.Second, Rise: 1, Fall: 1},
	})
	(<-accepted).Close()
	if got := p.servers[1].peer.checkers; got != 0 {
		t.Errorf("got %d checks of a server whose address depends on the client, want none", got)
	}
	p.Close()
	if got := p.servers[0].peer.checkers; got != 0 {
		t.Errorf("got %d checks after the end, want none", got)
	}
}
