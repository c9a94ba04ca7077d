package upstream

import (
	"net/url"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// TestStatuses: what is counted of an address survives the pool that has counted it as long as
// another one names the address, and is forgotten after that.
func TestStatuses(t *testing.T) {
	port, accepted := listening(t, "127.0.0.1")
	up, down := "127.0.0.1:"+port, closedPort(t)
	open := func() *Pool {
		return newTestPool(t, Options{
			Servers:      l4proxy.UpstreamPool{{Dial: []string{down}}, {Dial: []string{up}}},
			Selector:     new(l4proxy.FirstSelection),
			FailDuration: time.Hour,
			MaxFails:     1,
		})
	}
	first := open()
	client, _ := silentClient(t)
	conn, to, err := first.Connect(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	(<-accepted).Close()
	to.Reuse()
	to.Release()

	check := func(when string) {
		t.Helper()
		all := Statuses()
		if s := all[up]; s == nil || !s.Healthy || s.Dials["connected"] != 1 || s.Reused != 1 {
			t.Errorf("%s: got %+v, want a healthy server, dialled once, its connection used again once", when, s)
		} else if n, sum, _ := s.Took[0].Read(); n != 1 || sum <= 0 {
			t.Errorf("%s: got %d dials that took %v s, want one", when, n, sum)
		}
		if s := all[down]; s == nil || s.Healthy || s.Dials["connected"] != 0 || s.Dials["no connection"] != 1 || s.Dials["timeout"] != 0 {
			t.Errorf("%s: got %+v, want an unhealthy server, dialled in vain once", when, s)
		} else if n, _, _ := s.Took[0].Read(); n != 0 {
			t.Errorf("%s: got %d durations of a server that was not reached", when, n)
		}
	}
	check("one configuration")
	second := open()
	first.Close()
	check("the next one")
	second.Close()
	if all := Statuses(); all[up] != nil || all[down] != nil {
		t.Error("got a status of an address that no pool names")
	}
}

// TestStatusOfNetworks: servers that differ in their network alone have one status.
func TestStatusOfNetworks(t *testing.T) {
	p := newTestPool(t, Options{Servers: l4proxy.UpstreamPool{{Dial: []string{"tcp/127.0.0.1:9"}}, {Dial: []string{"tcp4/127.0.0.1:9"}}}})
	for _, s := range p.servers {
		s.Reuse()
	}
	p.servers[1].peer.down.Store(true)
	s := Statuses()["127.0.0.1:9"]
	if s == nil || s.Healthy || s.Reused != 2 || len(s.Took) != 2 {
		t.Errorf("got %+v, want the sum of both, one of which is down", s)
	}
}

// TestResultNames: the names are values of a label.
func TestResultNames(t *testing.T) {
	if len(resultNames) != connected+1 || resultNames[connected] != "connected" || resultNames[GivenUp] != GivenUp.String() {
		t.Errorf("got %q", resultNames)
	}
}

// TestStatusesWhilePoolsOpen asks for the status of an address while pools with health checks
// begin and cease to name it.
func TestStatusesWhilePoolsOpen(t *testing.T) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				Statuses()
				Peers()
			}
		}
	}()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	for range 200 {
		p, err := New(ctx, Options{
			Servers:      l4proxy.UpstreamPool{{Dial: []string{"127.0.0.1:1"}}},
			HealthChecks: &HealthChecks{HTTP: &HTTPCheck{Method: "GET", URI: &url.URL{Path: "/"}}, Interval: time.Hour, Timeout: time.Second, Rise: 1, Fall: 1},
		})
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
	}
	close(stop)
	<-done
}
