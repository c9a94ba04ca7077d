package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestWhoAndWhy: each client that is killed, kept away by a drain, refused, or disconnected at
// the end of the process leaves a line that says who it was, and why.
func TestWhoAndWhy(t *testing.T) {
	stopsHere(t)
	address, crowded, upstream := freeport.Address(t), freeport.Address(t), upgradingServer(t)
	s := &server{t: t, admin: freeport.Address(t), logs: theLogs}
	log := accessLog{filepath.Join(t.TempDir(), "access.log")}
	p := startProcess(t, fmt.Sprintf(`{
	admin %s
	persist_config off
	grace_period 100ms
	log access {
		include streamprox.access
		output file %s {
			roll_disabled
		}
	}
	layer4 {
		%s {
			route {
				inspect {
					log
					route {
						relay %s
					}
				}
			}
		}
		%s {
			route {
				inspect {
					log
					max_pending 1
					route {
						relay %s
					}
				}
			}
		}
	}
}
http://:80 {
	bind streamprox/web
}
`, s.admin, log.path, address, upstream, crowded, upstream))

	open := func(path string) net.Conn {
		t.Helper()
		conn := dial(t, address)
		_, _ = io.WriteString(conn, strings.Replace(upgradeRequest, "/ws/%d", path, 1))
		if _, err := io.ReadFull(conn, make([]byte, len(switched))); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	ends := func(what, message string, conn net.Conn, want accessLine) {
		t.Helper()
		port := conn.LocalAddr().(*net.TCPAddr).Port
		got := log.await(t, what, func(l accessLine) bool { return l.RemotePort == port })
		if got.Message != message || got.RemoteIP != "127.0.0.1" || got.Path != want.Path || got.Cause != want.Cause || got.Status != want.Status || !strings.Contains(got.Error, want.Error) {
			t.Errorf("%s: got %+v, want %s and %+v", what, got, message, want)
		}
		if want.ID != "" && got.ID != want.ID {
			t.Errorf("%s: got id %s, want %s", what, got.ID, want.ID)
		}
	}
	do := func(method, path string) {
		t.Helper()
		if status, body := s.api(method, "/streamprox/"+path, ""); status != http.StatusOK {
			t.Fatalf("%s %s: got %d %s", method, path, status, body)
		}
	}

	killed := open("/killed")
	var id string
	eventually(t, "stream", func() bool {
		list := s.list("").Streams
		if len(list) == 1 {
			id = list[0].ID
		}
		return id != ""
	})
	do("DELETE", "streams/"+id)
	isKilled(t, "a stream", killed)
	ends("killed", "ended", killed, accessLine{ID: id, Path: "/killed", Status: 101, Cause: "killed"})
	eventually(t, "line of the kill", func() bool {
		return strings.Contains(p.output.String(), `"msg":"ending streams","remote":"127.0.0.1:`) && strings.Contains(p.output.String(), `"id":"`+id+`"`)
	})

	stays := open("/stays")
	do("POST", "upstreams/"+upstream+"/drain")
	drained := dial(t, address)
	_, _ = io.WriteString(drained, "GET /drained HTTP/1.1\r\nHost: a\r\n\r\n")
	_, _ = io.ReadAll(drained)
	ends("drained", "ended", drained, accessLine{Path: "/drained", Status: 503, Cause: "no_upstream_available", Error: upstream + ": it is drained: it gets no new streams"})
	do("POST", "upstreams/"+upstream+"/undrain")

	refused := dial(t, address)
	_, _ = io.WriteString(refused, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
	_, _ = io.ReadAll(refused)
	ends("refused by inspect", "ended", refused, accessLine{Status: 400, Cause: "malformed", Error: "RFC"})

	_, _ = io.WriteString(dial(t, crowded), "GET")
	eventually(t, "refusal", func() bool { // as soon as the one before is being inspected
		conn := dial(t, crowded)
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(make([]byte, 1)); !isReset(err) {
			return false
		}
		ends("refused by a limit", "refused", conn, accessLine{Cause: "max_pending"})
		return true
	})

	p.stop()
	isKilled(t, "the end of the process", stays)
	p.exits()
	ends("at the end of the process", "ended", stays, accessLine{Path: "/stays", Status: 101, Cause: "shutdown"})
}
