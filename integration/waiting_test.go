package integration

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestAdminWaiting: connections between two requests are listed if they are asked for, and can
// be ended.
func TestAdminWaiting(t *testing.T) {
	parksHere(t)
	address, up := freeport.Address(t), showsID(t)
	s := start(t, parkSite(address, "", `
						@up http_request path /up/*
						route @up {
							relay `+up+`
						}`, "park 20ms", "respond ok"))
	kept, parked := newIDClient(t, dial(t, address)), newIDClient(t, dial(t, address))
	kept.ask("/up/1")
	parked.ask("/app")
	const relayed, app = "state=waiting", "state=parked"
	lists := func(query string, want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s that lists %d", query, want), func() bool { return s.list(query).Total == want })
	}
	lists(relayed, 1)
	lists(app, 1)
	lists("", 0) // nothing is under way

	for query, want := range map[string]struct{ state, client, route, destination, upstream string }{
		relayed: {"waiting", kept.conn.LocalAddr().String(), "up", "relay", up},
		app:     {"parked", parked.conn.LocalAddr().String(), "1", "http_app", "web:80"},
	} {
		got := s.list(query).Streams[0]
		if got.State != want.state || got.Client != want.client || got.Route != want.route || got.Destination != want.destination || got.Upstream != want.upstream ||
			got.Outcome != "http" || got.Method != "" || got.Path != "" || got.Age < 0 || got.Age != got.Idle || got.Rate != 0 {
			t.Errorf("%s: got %+v, want %+v", query, got, want)
		}
		var one map[string]any
		if s.get("/streamprox/streams/"+got.ID, &one); one["id"] != got.ID || one["state"] != want.state {
			t.Errorf("%s, by its id: got %v", query, one)
		}
		for filter, n := range map[string]int{
			"route=" + want.route: 1, "route=none": 0, "client=127.0.0.1": 1, "client=192.0.2.1": 0, "older=1h": 0, "older=0s": 1, "upstream=" + want.upstream: 1, "host=example.com": 0,
		} {
			if total := s.list(query + "&" + filter).Total; total != n {
				t.Errorf("%s and %s: got %d, want %d", query, filter, total, n)
			}
		}
	}

	// A request takes it out of the list, and the next wait has the id of that.
	before := s.list(relayed).Streams[0].ID
	kept.ask("/up/2")
	eventually(t, "the next wait", func() bool {
		list := s.list(relayed).Streams
		return len(list) == 1 && list[0].ID != before
	})

	// One by its id, the other by a filter: the client sees the end of its connection.
	ends := func(path string, c *idClient) {
		t.Helper()
		status, body := s.api("DELETE", path, "")
		if status != 200 || strings.TrimSpace(body) != `{"ended":1}` {
			t.Errorf("%s: got %d %s", path, status, body)
		}
		if left, err := io.ReadAll(c.r); len(left) > 0 || err != nil {
			t.Errorf("%s: the client got %q (%v), want the end", path, left, err)
		}
	}
	ends("/streamprox/streams/"+s.list(relayed).Streams[0].ID, kept)
	lists(relayed, 0)
	lists(app, 1)
	ends("/streamprox/streams?state=parked&client=127.0.0.0/8", parked)
	lists(app, 0)
}
