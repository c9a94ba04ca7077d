package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestBackup checks that a backup gets requests while the other upstream is down or drained,
// across a reload, and that a client which keeps its connection comes back from it.
func TestBackup(t *testing.T) {
	first, backup := newDownable(t, answering("first")), newDownable(t, answering("backup"))
	address := freeport.Address(t)
	relay := "relay " + first.address + " {\n " + activeChecks + "upstream " + backup.address + " {\n backup\n }\n }"
	s := start(t, relayCaddyfile(address, relay))
	want := func(when, want string) {
		t.Helper()
		for range 5 {
			if got := answerTo(t, address, getRoot); got != want {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
	}
	drain := func(verb string) {
		t.Helper()
		resp, err := http.Post("http://"+s.admin+"/streamprox/upstreams/"+first.address+"/"+verb, "application/json", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
	want("at first", "first")
	first.down()
	want("before a check has found it down", "backup")
	s.logs.expect(t, map[string]any{"msg": "upstream is down", "upstream": first.address})
	want("down", "backup")
	if err := s.load(relayCaddyfile(address, relay+"\n# again")); err != nil {
		t.Fatal(err)
	}
	want("after a reload", "backup")
	s.logs.reset()
	first.up()
	s.logs.expect(t, map[string]any{"msg": "upstream is up", "upstream": first.address})
	want("up again", "first")

	drain("drain")
	want("drained", "backup")
	if err := s.load(relayCaddyfile(address, strings.Replace(relay, "health_fall 2", "health_fall 3", 1))); err != nil {
		t.Fatal(err)
	}
	want("drained, after a reload", "backup")
	drain("undrain")
	want("not drained", "first")
}
