package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func init() { caddy.RegisterModule(new(eventRecorder)) }

// eventRecorder is a subscriber of Caddy's events app.
type eventRecorder struct{}

// recorded holds what subscribers were told since they were last reset.
var recorded struct {
	sync.Mutex
	events []string // origin, name and data
}

func (*eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.streamprox_test", New: func() caddy.Module { return new(eventRecorder) }}
}

func (*eventRecorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*eventRecorder) Handle(_ context.Context, e caddy.Event) error {
	recorded.Lock()
	defer recorded.Unlock()
	recorded.events = append(recorded.events, fmt.Sprint(e.Origin().CaddyModule().ID, " ", e.Name(), " ", e.Data))
	return nil
}

// eventsOf returns the events of a module so far, without its name.
func eventsOf(module string) (events []string) {
	recorded.Lock()
	defer recorded.Unlock()
	for _, e := range recorded.events {
		if rest, ok := strings.CutPrefix(e, module+" "); ok {
			events = append(events, rest)
		}
	}
	return events
}

// TestHealthEvents checks that relay and Caddy's reverse_proxy judge the same answers alike,
// and tell the events app the same.
func TestHealthEvents(t *testing.T) {
	for _, test := range []struct {
		name, options string
		good, bad     func(http.ResponseWriter, *http.Request)
	}{
		{"status", "health_uri /health?full=1", statused(204), statused(500)},
		{"redirect", "health_uri /health", statused(200), func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }},
		{"class", "health_uri /health\nhealth_status 4xx", statused(404), statused(200)},
		{"one status", "health_uri /health\nhealth_status 503", statused(503), statused(500)},
		{"content", "health_uri /health\nhealth_body ^rea.y$", saying("ready"), saying("ready or not")},
		{"request", "health_uri /health\nhealth_method POST\nhealth_request_body `{\"a\":1}`\nhealth_headers {\n Host db.example\n X-Two 1 2\n X-To {http.reverse_proxy.active.target_upstream}\n}",
			func(w http.ResponseWriter, r *http.Request) {
				content, _ := io.ReadAll(r.Body)
				if got := fmt.Sprintf("%s %s %s %t %s", r.Method, r.Host, r.Header["X-Two"], strings.HasPrefix(r.Header.Get("X-To"), "127.0.0.1:"), content); got != `POST db.example [1 2] true {"a":1}` {
					w.WriteHeader(http.StatusBadRequest)
				}
			}, statused(405)},
	} {
		t.Run(test.name, func(t *testing.T) {
			var bad atomic.Bool
			var checks atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				checks.Add(1)
				if bad.Load() {
					test.bad(w, r)
				} else {
					test.good(w, r)
				}
			}))
			t.Cleanup(server.Close)
			upstream := server.Listener.Addr().String()
			recorded.Lock()
			recorded.events = nil
			recorded.Unlock()
			options := "{\n " + test.options + "\nhealth_interval 20ms\nhealth_timeout 10s\n}"
			start(t, "{\n events {\n on healthy streamprox_test\n on unhealthy streamprox_test\n }\n layer4 {\n "+freeport.Address(t)+
				" {\n route {\n relay "+upstream+" "+options+"\n }\n }\n }\n}\nhttp://"+freeport.Address(t)+" {\n reverse_proxy "+upstream+" "+options+"\n}\n")
			both := func(when string, want ...string) {
				t.Helper()
				eventually(t, when, func() bool {
					return len(eventsOf("layer4.handlers.relay")) >= len(want) && len(eventsOf("http.handlers.reverse_proxy")) >= len(want)
				})
				before := checks.Load()
				eventually(t, "more checks", func() bool { return checks.Load() > before+6 })
				ours, theirs := eventsOf("layer4.handlers.relay"), eventsOf("http.handlers.reverse_proxy")
				if !slices.Equal(ours, theirs) || !slices.Equal(ours, want) {
					t.Errorf("%s: relay tells %q, reverse_proxy %q, want %q", when, ours, theirs, want)
				}
			}
			host := " map[host:" + upstream + "]"
			both("good")
			bad.Store(true)
			both("bad", "unhealthy"+host)
			bad.Store(false)
			both("good again", "unhealthy"+host, "healthy"+host)
		})
	}
}

// statused returns a handler that answers with that status.
func statused(status int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// saying returns a handler that answers with that content.
func saying(content string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, content) }
}

// TestEventsOfTheStart: an upstream that is down before the configuration has started is told
// of all the same.
func TestEventsOfTheStart(t *testing.T) {
	recorded.Lock()
	recorded.events = nil
	recorded.Unlock()
	upstream := freeport.Address(t)
	start(t, "{\n events {\n on unhealthy streamprox_test\n }\n layer4 {\n "+freeport.Address(t)+" {\n route {\n relay "+upstream+" {\n health_interval 1h\n }\n }\n }\n }\n}\n")
	eventually(t, "the event", func() bool {
		return slices.Equal(eventsOf("layer4.handlers.relay"), []string{"unhealthy map[host:" + upstream + "]"})
	})
}

// patroni is a server of a database with its HTTP interface, in one: it answers as the primary
// or as a replica, and says who it is.
type patroni struct {
	*httptest.Server
	name    string
	primary atomic.Bool
	checks  sync.Map // path → *atomic.Int64: those answered since the last change
}

func newPatroni(t *testing.T, name string) *patroni {
	p := &patroni{name: name}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *patroni) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up := true
	switch r.URL.Path {
	case "/primary":
		up = p.primary.Load()
	case "/replica":
		up = !p.primary.Load()
	default:
		_, _ = io.WriteString(w, p.name)
		return
	}
	n, _ := p.checks.LoadOrStore(r.URL.Path, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	if !up {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// checked returns how many checks of the path have come.
func (p *patroni) checked(path string) int64 {
	n, _ := p.checks.LoadOrStore(path, new(atomic.Int64))
	return n.(*atomic.Int64).Load()
}

// TestPatroni checks that writers follow the primary, and readers the replica, of a pair that
// change places: at the second check of each after that, what the first has found is done.
func TestPatroni(t *testing.T) {
	a, b := newPatroni(t, "a"), newPatroni(t, "b")
	a.primary.Store(true)
	addresses := a.Listener.Addr().String() + " " + b.Listener.Addr().String()
	writers, readers := freeport.Address(t), freeport.Address(t)
	relay := func(address, uri string) string {
		return address + " {\n route {\n inspect {\n @any inspected http other\n route @any {\n relay " + addresses + " {\n health_uri " + uri + "\n health_interval 50ms\n health_timeout 10s\n close_if_unhealthy\n }\n }\n }\n }\n }\n"
	}
	s := start(t, "{\n layer4 {\n "+relay(writers, "/primary")+relay(readers, "/replica")+"}\n}")
	settled := func() {
		t.Helper()
		for _, p := range []*patroni{a, b} {
			for _, path := range []string{"/primary", "/replica"} {
				before := p.checked(path) // one of these may be under way
				eventually(t, "three checks", func() bool { return p.checked(path) >= before+3 })
			}
		}
	}
	follow := func(when, write, read string) {
		t.Helper()
		for range 5 {
			if got := answerTo(t, writers, getRoot); got != write {
				t.Errorf("%s: a writer reached %s, want %s", when, got, write)
			}
			if got := answerTo(t, readers, getRoot); got != read {
				t.Errorf("%s: a reader reached %s, want %s", when, got, read)
			}
		}
	}
	settled()
	follow("at first", "a", "b")
	for range 2 {
		a.primary.Store(false)
		b.primary.Store(true)
		settled()
		follow("the other one", "b", "a")
		b.primary.Store(false)
		a.primary.Store(true)
		settled()
		follow("the first again", "a", "b")
	}
	changes := len(s.logs.lines(map[string]any{"msg": "upstream is up", "check": "GET /primary"}))
	if changes != 4 {
		t.Errorf("got %d lines of upstreams that are up, want one for each change", changes)
	}
	// Nobody is the primary: there is nobody to write to, and two to read from.
	a.primary.Store(false)
	settled()
	if got := answerTo(t, writers, getRoot); got != "503" {
		t.Errorf("no primary: a writer got %s, want 503", got)
	}
}
