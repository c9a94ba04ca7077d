package integration

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// samples are the metrics of this plugin, by name and labels without the prefix, as in
// refusals_total{reason="malformed"}.
type samples map[string]float64

const metricPrefix = "caddy_streamprox_"

// samples returns what a scrape of the admin API finds.
func (s *server) samples() samples {
	s.t.Helper()
	status, text := s.api("GET", "/metrics", "")
	if status != http.StatusOK {
		s.t.Fatalf("scraping: %d %s", status, text)
	}
	found := make(samples)
	for line := range strings.Lines(text) {
		name, ours := strings.CutPrefix(strings.TrimSpace(line), metricPrefix)
		if !ours {
			continue
		}
		at := strings.LastIndexByte(name, ' ')
		value, err := strconv.ParseFloat(name[at+1:], 64)
		if err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		found[name[:at]] = value
	}
	return found
}

// become waits until the samples have changed since before as want says; a sample that was
// not there before was 0.
func (s *server) become(what string, before, want samples) {
	s.t.Helper()
	var got samples
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		now := s.samples()
		got = make(samples)
		for name := range want {
			if _, ok := now[name]; ok {
				got[name] = now[name] - before[name]
			}
		}
		if maps.Equal(got, want) {
			return
		}
	}
	s.t.Errorf("%s: the metrics have changed by %v, want %v", what, got, want)
}

// hangUp closes the connection of a script.
func hangUp(s *script) { _ = s.conn.(io.Closer).Close() }

// staleBackend answers the first request of a connection, and closes it with the second one.
func staleBackend(t *testing.T) (address string) {
	return backend(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		if _, err := http.ReadRequest(r); err == nil {
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
			_, _ = http.ReadRequest(r)
		}
	})
}

// checkedBackend answers health checks with what status holds.
func checkedBackend(t *testing.T) (address string, status *atomic.Int32) {
	status = new(atomic.Int32)
	status.Store(http.StatusOK)
	return backend(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			fmt.Fprintf(conn, "HTTP/1.1 %d x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status.Load())
		}
	}), status
}

// metered is a Caddy with a route for each thing that is counted.
type metered struct {
	*server
	address, hasty, limited            string // of the ports: the second has short timeouts, the third max_pending
	apiServer, chat, stale, gone, mute string // upstreams
	checked                            string // one more, with health checks
	health                             *atomic.Int32
	caddyfile                          string
}

// startMetered starts it. The names of its routes end in a word that no other test uses.
func startMetered(t *testing.T, word string) *metered {
	t.Helper()
	m := &metered{
		address: freeport.Address(t), hasty: freeport.Address(t), limited: freeport.Address(t),
		apiServer: numberedBackend(t), chat: startGo(t).address, stale: staleBackend(t), gone: freeport.Address(t),
		mute: backend(t, func(conn net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(conn)) }),
	}
	m.checked, m.health = checkedBackend(t)
	m.caddyfile = `{
		layer4 {
			` + m.address + ` {
				route {
					inspect {
						max_bytes 1KiB
						timeout 1m
						@api-` + word + ` http_request path /api*
						route @api-` + word + ` {
							relay ` + m.apiServer + ` {
								upstream_keepalive 1m
							}
						}
						@chat-` + word + ` http_request path /chat*
						route @chat-` + word + ` {
							relay ` + m.chat + `
						}
						@stale-` + word + ` http_request path /stale*
						route @stale-` + word + ` {
							relay ` + m.stale + ` {
								upstream_keepalive 1m
							}
						}
						@gone-` + word + ` http_request path /gone*
						route @gone-` + word + ` {
							relay ` + m.gone + ` {
								fail_duration 1h
								max_fails 1
							}
						}
						@mute-` + word + ` http_request path /mute*
						route @mute-` + word + ` {
							relay ` + m.mute + ` ` + m.chat + ` {
								lb_policy first
								fail_duration 1h
							}
						}
						@checked-` + word + ` http_request path /checked*
						route @checked-` + word + ` {
							relay ` + m.checked + ` {
								health_uri /health
								health_interval 100ms
							}
						}
						@self-` + word + ` http_request path /self*
						route @self-` + word + ` {
							relay ` + m.address + `
						}
						@no-` + word + ` http_request path /refused*
						route @no-` + word + ` {
							http_respond 403
						}
						@edit-` + word + ` http_request path /edit*
						route @edit-` + word + ` {
							rewrite_head {
								header X-Query {l4.http.query}
							}
							relay ` + m.apiServer + `
						}
						@broken-` + word + ` http_request {
							path /broken*
							expression ` + "`{http.request.uri.query.n}.matches({http.request.uri.query.re})`" + `
						}
						route @broken-` + word + ` {
							echo
						}
						@nobody-` + word + ` http_request path /nobody*
						route @nobody-` + word + ` {
							http_app nobody
						}
						@site-` + word + ` http_request path /site*
						route @site-` + word + ` {
							http_app web-` + word + ` {
								park 10ms
							}
						}
					}
				}
			}
			` + m.hasty + ` {
				route {
					inspect {
						silent_timeout 3s
						timeout 1s
						@raw-` + word + ` inspected other
						route @raw-` + word + ` {
							http_app web-` + word + `
						}
					}
				}
			}
			` + m.limited + ` {
				route {
					inspect {
						silent_timeout 1m
						max_pending 2
						max_pending_per_ip 1
						route {
							echo
						}
					}
				}
			}
		}
	}
	http://:80 {
		bind streamprox/web-` + word + `
		respond "site"
	}`
	m.server = start(t, m.caddyfile)
	return m
}

// exchange sends a request on a connection of its own, and reads until the other side closes.
func (m *metered) exchange(address, request string) string {
	m.t.Helper()
	conn := dial(m.t, address)
	send(m.t, conn, request, 1<<20)
	_ = conn.CloseWrite()
	got, _ := io.ReadAll(conn)
	return string(got)
}

// TestMetrics: each metric counts what docs/metrics.md says.
func TestMetrics(t *testing.T) {
	m := startMetered(t, "counted")
	tested := make(map[string]bool)
	become := func(what string, before, want samples) {
		t.Helper()
		for name := range want {
			family, _, _ := strings.Cut(name, "{")
			tested[strings.TrimSuffix(strings.TrimSuffix(family, "_count"), "_sum")] = true
		}
		m.become(what, before, want)
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }

	t.Run("requests", func(t *testing.T) {
		become("an upstream", nil, samples{`upstream_healthy{upstream="` + m.apiServer + `"}`: 1})
		before := m.samples()
		s := newScript(t, m.address)
		s.get("/api", "1")
		become("a request", before, samples{
			`inspections_total{outcome="http",route="api-counted"}`:                                        1,
			`inspection_duration_seconds_count`:                                                            1,
			`dials_total{result="connected",upstream="` + m.apiServer + `"}`:                               1,
			`dials_total{result="no connection",upstream="` + m.apiServer + `"}`:                           0,
			`dial_duration_seconds_count{upstream="` + m.apiServer + `"}`:                                  1,
			`upstream_connections_reused_total{upstream="` + m.apiServer + `"}`:                            0,
			`streams_active{destination="relay",kind="request",route="api-counted"}`:                       0,
			`streams_ended_total{cause="finished",destination="relay",kind="request",route="api-counted"}`: 1,
			`kept_connections{state="waiting"}`:                                                            1,
			`requests_repeated_total{route="api-counted"}`:                                                 0,
			`unreached_total{reason="none available",route="api-counted"}`:                                 0,
		})
		s.get("/api /api", "1", "1")
		become("two more on the connection", before, samples{
			`inspections_total{outcome="http",route="api-counted"}`:                                        3,
			`inspection_duration_seconds_count`:                                                            3,
			`dials_total{result="connected",upstream="` + m.apiServer + `"}`:                               1,
			`upstream_connections_reused_total{upstream="` + m.apiServer + `"}`:                            2,
			`streams_ended_total{cause="finished",destination="relay",kind="request",route="api-counted"}`: 3,
			`kept_connections{state="waiting"}`:                                                            1,
		})
		hangUp(s)
		become("its end", before, samples{`kept_connections{state="waiting"}`: 0})
	})

	t.Run("WebSocket", func(t *testing.T) {
		before := m.samples()
		conn := dial(t, m.address)
		send(t, conn, handshake("/chat"), 1<<20)
		r := bufio.NewReader(conn)
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
			t.Fatalf("got %v (%v)", resp, err)
		}
		become("a WebSocket", before, samples{
			`streams_active{destination="relay",kind="request",route="chat-counted"}`: 0,
			`streams_active{destination="relay",kind="stream",route="chat-counted"}`:  1,
		})
		before = m.samples()
		send(t, conn, strings.Repeat("x", 1000), 1<<20)
		if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
			t.Fatal(err)
		}
		become("bytes of a stream that goes on", before, samples{
			`bytes_total{destination="relay",direction="to_destination"}`: 1000,
			`bytes_total{destination="relay",direction="to_client"}`:      1000,
		})
		conn.Close()
		become("its end", before, samples{
			`streams_active{destination="relay",kind="stream",route="chat-counted"}`:                        -1,
			`streams_ended_total{cause="finished",destination="relay",kind="stream",route="chat-counted"}`:  1,
			`streams_ended_total{cause="finished",destination="relay",kind="request",route="chat-counted"}`: 0,
		})
	})

	t.Run("stale", func(t *testing.T) {
		before := m.samples()
		s := newScript(t, m.address)
		s.get("/stale", "a")
		s.get("/stale", "a")
		become("a request on a connection that is closed", before, samples{
			`requests_repeated_total{route="stale-counted"}`:                                                 1,
			`dials_total{result="connected",upstream="` + m.stale + `"}`:                                     2,
			`streams_active{destination="relay",kind="request",route="stale-counted"}`:                       0,
			`streams_ended_total{cause="finished",destination="relay",kind="request",route="stale-counted"}`: 2,
		})
		hangUp(s)
	})

	t.Run("failures", func(t *testing.T) {
		before := m.samples()
		m.exchange(m.address, get("/gone"))
		become("an upstream that is down", before, samples{
			`unreached_total{reason="no connection",route="gone-counted"}`:  1,
			`dials_total{result="no connection",upstream="` + m.gone + `"}`: 1,
			`dial_duration_seconds_count{upstream="` + m.gone + `"}`:        0,
			`upstream_healthy{upstream="` + m.gone + `"}`:                   -1,
			`answers_total{status="502"}`:                                   1,
		})
		m.exchange(m.address, get("/gone"))
		become("an upstream that is known to be down", before, samples{
			`unreached_total{reason="none available",route="gone-counted"}`: 1,
			`dials_total{result="no connection",upstream="` + m.gone + `"}`: 1,
			`answers_total{status="503"}`:                                   1,
		})
		before = m.samples()
		m.exchange(m.address, get("/mute"))
		become("an upstream that does not answer", before, samples{
			`answers_total{status="502"}`: 1,
			`streams_ended_total{cause="upstream_error",destination="relay",kind="request",route="mute-counted"}`: 1,
		})
	})

	t.Run("ejection", func(t *testing.T) {
		ejections := func(upstream string) string { return `upstream_ejections_total{upstream="` + upstream + `"}` }
		before := m.samples()
		// A request that takes a second on a busy machine does not count.
		for n := 2; m.samples()[ejections(m.mute)] == 0 && n < 30; n++ {
			askFrom(t, fmt.Sprint("127.0.0.", n), m.address, "GET /mute HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		}
		become("an upstream that has not answered several clients", before, samples{ejections(m.mute): 1, ejections(m.chat): 0})
	})

	t.Run("health checks", func(t *testing.T) {
		healthy := `upstream_check_healthy{check="GET /health",upstream="` + m.checked + `"}`
		changes := func(to string) string {
			return `upstream_health_changes_total{check="GET /health",to="` + to + `",upstream="` + m.checked + `"}`
		}
		become("an upstream that is up", nil, samples{healthy: 1, changes("down"): 0})
		before := m.samples()
		m.health.Store(http.StatusServiceUnavailable)
		become("it goes down", before, samples{healthy: -1, changes("down"): 1, changes("up"): 0, `upstream_healthy{upstream="` + m.checked + `"}`: -1})
		m.health.Store(http.StatusOK)
		become("it comes back", before, samples{healthy: 0, changes("down"): 1, changes("up"): 1})
	})

	t.Run("http_app", func(t *testing.T) {
		before := m.samples()
		s := newScript(t, m.address)
		s.get("/site", "site")
		want := samples{
			`hand_offs_total{listener="web-counted:80"}`:                     1,
			`inspections_total{outcome="http",route="site-counted"}`:         1,
			`bytes_total{destination="http_app",direction="to_destination"}`: float64(len("GET /site HTTP/1.1\r\nHost: example.com\r\n\r\n")),
		}
		become("a request", before, want)
		if got := m.samples()[`bytes_total{destination="http_app",direction="to_client"}`] - before[`bytes_total{destination="http_app",direction="to_client"}`]; got < 100 {
			t.Errorf("got %v bytes of a response", got)
		}
		tested["bytes_total"] = true
		active := `streams_active{destination="http_app",kind="connection",route="site-counted"}`
		ended := func(cause string) string {
			return `streams_ended_total{cause="` + cause + `",destination="http_app",kind="connection",route="site-counted"}`
		}
		if parksConnections() {
			become("idle", before, samples{`kept_connections{state="parked"}`: 1, active: 0, ended("parked"): 1, ended("closed"): 0})
			hangUp(s)
			become("its end", before, samples{`kept_connections{state="parked"}`: 0})
		} else {
			become("idle", before, samples{active: 1})
			hangUp(s)
			become("its end", before, samples{active: 0, ended("closed"): 1})
		}
		before = m.samples()
		s = newScript(t, m.address)
		s.get("/site /api", "site", "2")
		become("a request for somebody else", before, samples{active: 0, ended("moved"): 1})
		hangUp(s)
		before = m.samples()
		m.exchange(m.address, "GET /site HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		become("the last request", before, samples{active: 0, ended("closed"): 1})
	})

	t.Run("inspecting", func(t *testing.T) {
		before := m.samples()
		conn := dial(t, m.address)
		become("a silent connection", before, samples{`inspecting_connections`: 1, `inspecting_bytes`: 0})
		send(t, conn, "GET /x", 1<<20)
		become("a part of a head", before, samples{`inspecting_connections`: 1, `inspecting_bytes`: 6})
		conn.Close()
		become("its end", before, samples{`inspecting_connections`: 0, `inspecting_bytes`: 0})
	})

	for _, test := range []struct {
		reason, address, request, status string
	}{
		{"malformed", m.address, "GET / HTTP/1.1\r\n\r\n", "400"},
		{"too_large", m.address, "GET /" + strings.Repeat("x", 2000), "431"},
		{"eof", m.address, "GET /x", ""},
		{"http2", m.address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""},
		{"connect", m.address, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "501"},
		{"matcher", m.address, get("/broken?n=1&re=%5B"), "400"},
		{"no_route", m.address, get("/elsewhere"), "404"},
		{"rewrite", m.address, "GET /edit HTTP/1.1\r\nHost: a\r\nConnection: X-Query\r\n\r\n", "400"},
		{"forward", m.address, "GET /api HTTP/1.1\r\nHost: a\r\nConnection: Cookie\r\n\r\n", "400"},
		{"no_listener", m.address, get("/nobody"), "503"},
		{"circle", m.address, get("/self"), "508"},
		{"other", m.hasty, "SSH-2.0-x\r\n", "400"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			before := m.samples()
			got := m.exchange(test.address, test.request)
			want := samples{`refusals_total{reason="` + test.reason + `"}`: 1}
			if test.status != "" {
				want[`answers_total{status="`+test.status+`"}`] = 1
				if !strings.HasPrefix(got, "HTTP/1.1 "+test.status) {
					t.Errorf("got %q", got)
				}
			}
			become(test.reason, before, want)
		})
	}
	t.Run("http_respond", func(t *testing.T) {
		before := m.samples()
		m.exchange(m.address, get("/refused"))
		become("an answer", before, samples{`answers_total{status="403"}`: 1})
	})
	for reason, request := range map[string]string{"timeout": "GET /x", "silent": ""} {
		t.Run(reason, func(t *testing.T) {
			before := m.samples()
			conn := dial(t, m.hasty)
			send(t, conn, request, 1<<20)
			become(reason, before, samples{
				`refusals_total{reason="` + reason + `"}`:                  1,
				`inspections_total{outcome="` + reason + `",route="none"}`: 1,
			})
		})
	}
	t.Run("max_pending_per_ip", func(t *testing.T) {
		before := m.samples()
		conn := dial(t, m.limited)
		become("the first", before, samples{`inspecting_connections`: 1})
		m.refused(m.limited)
		become("the second", before, samples{`refusals_total{reason="max_pending_per_ip"}`: 1, `refusals_total{reason="max_pending"}`: 0})
		conn.Close()
		become("its end", before, samples{`inspecting_connections`: 0})
	})
	t.Run("max_pending", func(t *testing.T) {
		if err := m.load(strings.ReplaceAll(strings.ReplaceAll(m.caddyfile, "max_pending 2", "max_pending 1"), "max_pending_per_ip 1", "")); err != nil {
			t.Fatal(err)
		}
		before := m.samples()
		dial(t, m.limited)
		become("the first", before, samples{`inspecting_connections`: 1})
		m.refused(m.limited)
		become("the second", before, samples{`refusals_total{reason="max_pending"}`: 1, `refusals_total{reason="max_pending_per_ip"}`: 0})
	})
	t.Run("process", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("only on Linux")
		}
		become("its ports", nil, samples{`listener_accepting{address="` + m.address + `"}`: 1})
		now := m.samples()
		tested["descriptors_open"], tested["descriptors_limit"], tested["engine_pipes"] = true, true, true
		if open, limit := now["descriptors_open"], now["descriptors_limit"]; open < 5 || open > limit {
			t.Errorf("got %v descriptors of %v", open, limit)
		}
		if _, ok := now["engine_pipes"]; !ok {
			t.Error("no engine_pipes")
		}
	})

	// TestLineQueue of the module loses lines.
	become("no line lost", nil, samples{`access_log_lost_total`: 0})

	if runtime.GOOS == "linux" && !t.Failed() {
		_, text := m.api("GET", "/metrics", "")
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, "# TYPE "+metricPrefix); ok {
				if name, _, _ := strings.Cut(rest, " "); !tested[name] {
					t.Errorf("%s is not tested", name)
				}
			}
		}
	}
}

// parksConnections reports whether idle connections of http_app are parked here.
func parksConnections() bool {
	return runtime.GOOS == "linux" && os.Getenv("STREAMPROX_ENGINE") != "portable"
}

// TestMetricsSurviveReload: counters do not go back, streams that go on are counted, and what
// no configuration has any more goes when nothing of it goes on.
func TestMetricsSurviveReload(t *testing.T) {
	m := startMetered(t, "reloaded")
	newScript(t, m.address).get("/api", "1")
	m.exchange(m.address, "GET / HTTP/1.1\r\n\r\n")
	conn := dial(t, m.address)
	send(t, conn, handshake("/chat"), 1<<20)
	r := bufio.NewReader(conn)
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	active := `streams_active{destination="relay",kind="stream",route="chat-reloaded"}`
	m.become("a stream", samples{}, samples{active: 1})
	before := m.samples()

	if err := m.load(m.caddyfile); err != nil {
		t.Fatal(err)
	}
	after := m.samples()
	for name, value := range before {
		gauge := strings.HasPrefix(name, "inspecting") || strings.HasPrefix(name, "kept") || strings.HasPrefix(name, "descriptors") ||
			strings.HasPrefix(name, "engine") || strings.HasPrefix(name, "listener")
		if now, ok := after[name]; !gauge && (!ok || now < value) {
			t.Errorf("%s: got %v (%t) after the reload, %v before", name, now, ok, value)
		}
	}
	if after[active] != 1 {
		t.Errorf("got %v streams after the reload, want 1", after[active])
	}
	newScript(t, m.address).get("/api", "2")
	m.become("a request after the reload", before, samples{`inspections_total{outcome="http",route="api-reloaded"}`: 1})

	// A configuration without the routes.
	if err := m.load(layer4Caddyfile(m.address, "route {\n close\n}")); err != nil {
		t.Fatal(err)
	}
	var now samples
	eventually(t, "end of a route that no configuration has", func() bool {
		now = m.samples()
		_, there := now[`inspections_total{outcome="http",route="api-reloaded"}`]
		return !there
	})
	if now[active] != 1 {
		t.Errorf("got %v streams of a route that is gone, want 1", now[active])
	}
	conn.Close()
	eventually(t, "end of what goes on", func() bool { _, ok := m.samples()[active]; return !ok })
	if _, ok := m.samples()[`dials_total{result="connected",upstream="`+m.apiServer+`"}`]; ok {
		t.Error("an upstream that no configuration has is still there")
	}
}

// TestMetricsFailedReload: a configuration that does not load leaves nothing behind.
func TestMetricsFailedReload(t *testing.T) {
	m := startMetered(t, "kept")
	broken := strings.Replace(strings.ReplaceAll(m.caddyfile, "-kept", "-failed"), "relay "+m.gone, "relay {l4.http.hostname}:1", 1)
	if err := m.load(broken); err == nil {
		t.Fatal("it has loaded")
	}
	eventually(t, "end of what it has named", func() bool {
		for name := range m.samples() {
			if strings.Contains(name, "-failed") {
				return false
			}
		}
		return true
	})
	newScript(t, m.address).get("/api", "1")
	m.become("a request", nil, samples{`inspections_total{outcome="http",route="api-kept"}`: 1})
}

// TestMetricsNameNoClients: nothing that a client sends, nor its address, becomes a label.
func TestMetricsNameNoClients(t *testing.T) {
	address := freeport.Address(t)
	upstream := numberedBackend(t)
	_, port, _ := net.SplitHostPort(upstream)
	s := start(t, layer4Caddyfile(address, `
		@any-labels http_request path /*
		route @any-labels {
			relay {l4.http.hostname}:`+port+` {
				dial_allow 127.0.0.0/8
			}
		}
		@raw-labels inspected other tls
		route @raw-labels {
			relay `+upstream+`
		}
	`))
	var names []string
	for i := range 20 {
		host := fmt.Sprintf("127.77.77.%d", i+1)
		names = append(names, host)
		conn := dial(t, address)
		fmt.Fprintf(conn, "GET /evil%d?evil%d HTTP/1.1\r\nHost: %s\r\nX-Evil: evil\r\nCookie: evil=%d\r\nUser-Agent: evil\r\nConnection: close\r\n\r\n", i, i, host, i)
		_, _ = io.ReadAll(conn)
		conn = dial(t, address)
		fmt.Fprintf(conn, "EVIL%d /evil HTTP/1.1\r\nHost: evil%d.example\r\n\r\n", i, i)
		_, _ = io.ReadAll(conn)
		conn = dial(t, address)
		fmt.Fprintf(conn, "evil%d", i)
		conn.Close()
	}
	_, text := s.api("GET", "/metrics", "")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, metricPrefix) && (strings.Contains(strings.ToLower(line), "evil") || slices.ContainsFunc(names, func(name string) bool { return strings.Contains(line, name) })) {
			t.Errorf("a client's word: %s", line)
		}
	}
	if !strings.Contains(text, `upstream="{l4.http.hostname}:`+port+`"`) {
		t.Errorf("the upstream is not named as it is configured")
	}
	s.become("dials", nil, samples{`dials_total{result="connected",upstream="{l4.http.hostname}:` + port + `"}`: 0})
}

// refused connects once to an address that refuses: dial would try again if the reset comes
// before it is connected.
func (m *metered) refused(address string) {
	m.t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		m.t.Error("not refused")
	}
}
