package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// streamsOf is what the admin API says of streams.
type streamsOf struct {
	Total   int
	Next    string
	Streams []struct {
		ID, Client, Outcome, Route, Destination, Upstream, Method, Host, Path, State string
		Status                                                                       int
		BytesUp                                                                      int64 `json:"bytes_up"`
		BytesDown                                                                    int64 `json:"bytes_down"`
		Age, Idle, Rate                                                              float64
	}
}

// get asks the admin API, and decodes the answer.
func (s *server) get(path string, into any) {
	s.t.Helper()
	status, body := s.api("GET", path, "")
	if status != http.StatusOK {
		s.t.Fatalf("GET %s: %d %s", path, status, body)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		s.t.Fatalf("GET %s: %v: %s", path, err, body)
	}
}

// list returns the streams of a query.
func (s *server) list(query string) (got streamsOf) {
	s.t.Helper()
	s.get("/streamprox/streams?"+query, &got)
	return got
}

const (
	upgradeRequest = "GET /ws/%d HTTP/1.1\r\nHost: Example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

// upgradingServer is a server that echoes after an upgrade.
func upgradingServer(t *testing.T) string {
	return backend(t, func(conn net.Conn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(conn, switched)
		_, _ = io.Copy(conn, r)
	})
}

// TestAdminStreams lists, finds and ends streams.
func TestAdminStreams(t *testing.T) {
	tunnels, echo := upgradingServer(t), backend(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn); conn.Close() })
	address := freeport.Address(t)
	held := make(chan struct{})
	slow := backend(t, func(conn net.Conn) { <-held; conn.Close() })
	t.Cleanup(func() { close(held) })
	s := start(t, fmt.Sprintf(`{
	layer4 {
		%s {
			route {
				inspect {
					@ws http_request path /ws/*
					route @ws {
						relay %s
					}
					@slow http_request path /slow
					route @slow {
						relay %s
					}
					@app http_request path /app
					route @app {
						http_app web
					}
					@raw inspected other
					route @raw {
						relay %s
					}
				}
			}
		}
	}
}
http://:80 {
	bind streamprox/web
	reverse_proxy %s
}
`, address, tunnels, slow, echo, slow))

	const n = 5
	var conns []net.Conn
	for i := range n {
		conn := dial(t, address)
		fmt.Fprintf(conn, upgradeRequest, i)
		head := make([]byte, len(switched))
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "frame")
		if _, err := io.ReadFull(conn, head[:5]); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	raw := dial(t, address)
	_, _ = io.WriteString(raw, "\x00\x01")
	if _, err := io.ReadFull(raw, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/slow", "/app"} {
		fmt.Fprintf(dial(t, address), "GET %s HTTP/1.1\r\nHost: other.example\r\n\r\n", path)
	}
	eventually(t, "all streams in the list, with their destinations", func() bool {
		return s.list("destination=relay&state=open").Total == n+2 && s.list("destination=http_app").Total == 1
	})

	for query, want := range map[string]int{
		"route=ws":             n,
		"route=none":           0,
		"host=example.COM":     n,
		"upstream=" + tunnels:  n,
		"destination=http_app": 1,
		"outcome=other":        1,
		"state=open":           n + 3,
		"state=dialing":        0,
		"client=127.0.0.1":     n + 3,
		"client=127.0.0.0/8":   n + 3,
		"client=192.0.2.1":     0,
		"older=1h":             0,
		"older=0s":             n + 3,
		"route=ws&older=1h":    0,
	} {
		if got := s.list(query); got.Total != want || len(got.Streams) != want {
			t.Errorf("%s: got %d streams (%d shown), want %d", query, got.Total, len(got.Streams), want)
		}
	}
	for _, got := range s.list("route=ws").Streams {
		if got.Method != "GET" || got.Host != "Example.com" || !strings.HasPrefix(got.Path, "/ws/") || got.Outcome != "http" || got.Status != 101 ||
			got.State != "open" || got.BytesDown < int64(len("frame")) || got.BytesUp < int64(len("frame")) || got.Age <= 0 || got.Client == "" {
			t.Errorf("got %+v", got)
		}
		var one map[string]any
		if s.get("/streamprox/streams/"+got.ID, &one); one["id"] != got.ID || one["path"] != got.Path {
			t.Errorf("by its id: got %v", one)
		}
	}

	// Pages, in an order.
	var seen []string
	for after := ""; ; {
		page := s.list("route=ws&sort=-age&limit=2&after=" + after)
		for _, stream := range page.Streams {
			seen = append(seen, stream.Path)
		}
		if after = page.Next; after == "" {
			break
		}
		if len(seen) > n {
			t.Fatal("the pages have no end")
		}
	}
	if want := []string{"/ws/0", "/ws/1", "/ws/2", "/ws/3", "/ws/4"}; !slices.Equal(seen, want) {
		t.Errorf("oldest first: got %v, want %v", seen, want)
	}

	for path, want := range map[string]struct {
		status int
		names  string
	}{
		"GET /streamprox/streams?limit=0":                   {400, "limit"},
		"GET /streamprox/streams?limit=1001":                {400, "limit"},
		"GET /streamprox/streams?sort=size":                 {400, "sort"},
		"GET /streamprox/streams?client=nobody":             {400, "client"},
		"GET /streamprox/streams?older=long":                {400, "older"},
		"GET /streamprox/streams?state=opn":                 {400, "state"},
		"GET /streamprox/streams?outcome=htp":               {400, "outcome"},
		"DELETE /streamprox/streams?state=ended":            {400, "state"},
		"GET /streamprox/streams?after=x":                   {400, "after"},
		"GET /streamprox/streams?rute=ws":                   {400, "rute"},
		"DELETE /streamprox/streams":                        {400, "all"},
		"DELETE /streamprox/streams?over=1s":                {400, "all"},
		"DELETE /streamprox/streams?route=ws&over=-1s":      {400, "over"},
		"DELETE /streamprox/streams?route=ws&over=25h":      {400, "over"},
		"GET /streamprox/streams/0123":                      {404, "0123"},
		"GET /streamprox/streams/0123456789abcdef":          {404, "0123456789abcdef"},
		"DELETE /streamprox/streams/0123456789abcdef":       {404, "0123456789abcdef"},
		"POST /streamprox/streams":                          {405, "DELETE"},
		"GET /streamprox/upstreams/127.0.0.1:1/drain":       {405, "POST"},
		"POST /streamprox/upstreams/127.0.0.1:1/drain":      {404, "127.0.0.1:1"},
		"POST /streamprox/upstreams/" + tunnels + "/remove": {404, "drain"},
	} {
		method, target, _ := strings.Cut(path, " ")
		status, body := s.api(method, target, "")
		if status != want.status || !strings.Contains(body, want.names) {
			t.Errorf("%s: got %d %s, want %d that names %s", path, status, body, want.status, want.names)
		}
	}
	if got := s.list("").Total; got != n+3 {
		t.Fatalf("%d streams are left, want all %d", got, n+3)
	}

	// One by its id, the app's and the raw one by a filter, the rest spread.
	gone := func(conn net.Conn) {
		t.Helper()
		if _, err := io.ReadAll(conn); err == nil {
			t.Error("a killed stream ended in order, want a reset")
		}
	}
	status, body := s.api("DELETE", "/streamprox/streams/"+s.list("route=ws&sort=-age").Streams[0].ID, "")
	if status != 200 || strings.TrimSpace(body) != `{"ended":1}` {
		t.Errorf("got %d %s", status, body)
	}
	gone(conns[0])
	eventually(t, "list without it", func() bool { return s.list("route=ws").Total == n-1 })
	for _, filter := range []string{"destination=http_app", "outcome=other", "route=slow"} {
		if status, body := s.api("DELETE", "/streamprox/streams?"+filter, ""); status != 200 || strings.TrimSpace(body) != `{"ended":1}` {
			t.Errorf("%s: got %d %s", filter, status, body)
		}
	}
	gone(raw)
	if status, body := s.api("DELETE", "/streamprox/streams?route=ws&over=100ms", ""); status != 202 || strings.TrimSpace(body) != `{"ending":4}` {
		t.Errorf("spread: got %d %s", status, body)
	}
	for _, conn := range conns[1:] {
		gone(conn)
	}
	eventually(t, "end of all streams", func() bool { return s.list("").Total == 0 })
	var stats struct {
		Ended    map[string]int64
		Requests int64
		BytesUp  int64 `json:"bytes_up"`
	}
	eventually(t, "totals", func() bool {
		s.get("/streamprox/stats", &stats)
		return stats.Ended["killed"] >= n+3 && stats.Requests >= n+2 && stats.BytesUp > 0
	})
}

// TestAdminDrain: an upstream that is drained keeps its streams and gets no new ones.
func TestAdminDrain(t *testing.T) {
	var answers [2]string
	for i := range answers {
		answers[i] = backend(t, func(conn net.Conn) {
			defer conn.Close()
			r := bufio.NewReader(conn)
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", i)
			}
		})
	}
	address := freeport.Address(t)
	s := start(t, layer4Caddyfile(address, fmt.Sprintf(`
		route {
			relay %s %s {
				lb_policy first
			}
		}`, answers[0], answers[1])))
	conn := dial(t, address)
	r := bufio.NewReader(conn)
	ask := func() string {
		t.Helper()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	drain := func(what string) {
		t.Helper()
		status, body := s.api("POST", "/streamprox/upstreams/"+url.PathEscape(answers[0])+"/"+what, "{}")
		if status != 200 || !strings.Contains(body, answers[0]) || strings.Contains(body, `"draining":true`) != (what == "drain") {
			t.Errorf("%s: got %d %s", what, status, body)
		}
	}
	draining := func() (is bool) {
		var upstreams []struct {
			Address           string
			Healthy, Draining bool
		}
		s.get("/streamprox/upstreams", &upstreams)
		for _, u := range upstreams {
			if !u.Healthy {
				t.Errorf("%s is not healthy", u.Address)
			}
			is = is || u.Address == answers[0] && u.Draining
		}
		return is
	}
	if got := ask(); got != "0" || draining() {
		t.Fatalf("got %s, want the first upstream, which is not drained", got)
	}
	drain("drain")
	if got := ask(); got != "1" || !draining() { // on the same connection of the client
		t.Errorf("drained: got %s, want the other one", got)
	}
	if err := s.load(layer4Caddyfile(address, fmt.Sprintf(`
		route {
			relay %s %s {
				lb_policy first
			}
		}
		# again`, answers[0], answers[1]))); err != nil {
		t.Fatal(err)
	}
	if !draining() {
		t.Error("a reload has ended the drain")
	}
	drain("undrain")
	conn = dial(t, address)
	r.Reset(conn)
	if got := ask(); got != "0" || draining() {
		t.Errorf("not drained any more: got %s, want the first upstream", got)
	}
}
