package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// replayPlace is where a request goes, to replay.
type replayPlace struct{ Route, Destination string }

// replayAnswer is what these tests look at of an answer of replay.
type replayAnswer struct {
	Decisions, Same, Elsewhere, Unknown int
	OtherRoute                          int `json:"other_route"`
	Moves                               []struct {
		Answer, Why string
		From, To    replayPlace
		Count       int
	}
	Requests []struct {
		Outcome, Method, Host, Path, Client, Answer string
		From, To                                    replayPlace
	} `json:"rows"`
}

// replay takes the decisions to a configuration.
func (s *server) replay(config map[string]any) (answer replayAnswer) {
	s.t.Helper()
	question, err := json.Marshal(map[string]any{"config": config})
	if err != nil {
		s.t.Fatal(err)
	}
	status, body := s.api("POST", "/streamprox/replay", string(question))
	if status != http.StatusOK {
		s.t.Fatalf("replay: got %d %s", status, body)
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		s.t.Fatalf("%v in %s", err, body)
	}
	return answer
}

// String returns the sums of an answer, and a line for each move.
func (a replayAnswer) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d: %d %d %d %d\n", a.Decisions, a.Same, a.OtherRoute, a.Elsewhere, a.Unknown)
	for _, m := range a.Moves {
		fmt.Fprintf(&b, "%d %s: %s to %s -> %s to %s", m.Count, m.Answer, m.From.Route, m.From.Destination, m.To.Route, m.To.Destination)
		if m.Why != "" {
			b.WriteString(": " + m.Why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// exchangeOnce sends bytes, and reads until the end.
func exchangeOnce(t *testing.T, address, data string) string {
	t.Helper()
	conn := dial(t, address)
	defer conn.Close()
	if _, err := io.WriteString(conn, data); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil && len(got) == 0 && !isReset(err) {
		t.Fatalf("%.60q: %v", data, err)
	}
	return string(got)
}

// get returns a request that is the last of its connection.
func get(path, fields string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n" + fields + "\r\n"
}

// replaySite is a configuration with routes and what follows inspect, and a site.
func replaySite(address, options, routes string) string {
	return "{\nlayer4 {\n" + address + " {\nroute {\ninspect {\n" + options + "\n" + routes + "\n}\n}\n}\n}\n}\n" +
		"http:// {\nbind streamprox/web\nrespond site\n}\n"
}

// TestReplay sends requests, and takes them to configurations that are not loaded.
func TestReplay(t *testing.T) {
	one, two, address := httpBackend(t, "one"), httpBackend(t, "two"), freeport.Address(t)
	routes := func(chat, tenant, more string) string {
		return `
		@chat http_request path /chat/*
		route @chat {
			relay ` + chat + `
		}
		@tenant http_request header X-Tenant ` + tenant + `
		route @tenant {
			relay ` + two + `
		}
		@no http_request path /no
		route @no {
			http_respond 403
		}
		` + more + `
		route {
			http_app web
		}`
	}
	now := routes(one, "gold", "")
	s := start(t, replaySite(address, "replay 100", now))
	for _, test := range []struct{ request, want string }{
		{get("/chat/1?secret=1", "Authorization: Basic c2VjcmV0\r\n"), "one GET /chat/1?secret=1"},
		{get("/chat/2", ""), "one GET /chat/2"},
		{get("/x", "X-Tenant: gold\r\n"), "two GET /x"},
		{get("/x", "X-Tenant: tin\r\n"), "site"},
		{get("/x", ""), "site"},
		{get("/no", ""), " 403 "},
		{"GET /\x1b[2J<script> HTTP/1.1\r\nHost: a\r\n\r\n", " 400 "},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", " 400 "},
		{"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n" + strings.Repeat("X-"+strings.Repeat("y", 500)+": z\r\n", 10) + "\r\n", "site"},
		{"GET /" + strings.Repeat("z", 3000) + " HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n", "site"},
	} {
		if got := exchangeOnce(t, address, test.request); !strings.Contains(got, test.want) {
			t.Fatalf("%.60q: got %q, want %q", test.request, got, test.want)
		}
	}
	status, streams := s.api("GET", "/streamprox/stats", "")
	for _, test := range []struct {
		name, config, want string
	}{
		{"the same", replaySite(address, "replay 100", now), "10: 10 0 0 0\n"},
		{"another upstream", replaySite(address, "", routes(two, "gold", "")), "10: 8 0 2 0\n" +
			"2 elsewhere: chat to relay " + one + " -> chat to relay " + two + "\n"},
		{"another value of a field", replaySite(address, "", routes(one, "tin", "")), "10: 6 0 0 4\n" +
			"3 unknown: 3 to http_app web ->  to unknown: route tenant depends on what is not kept\n" +
			"1 unknown: tenant to relay " + two + " ->  to unknown: route tenant depends on what is not kept\n"},
		{"a route before the last", replaySite(address, "", routes(one, "gold", "@x http_request path /x\nroute @x {\nhttp_app web\n}")), "10: 7 2 0 1\n" +
			"2 other route: 3 to http_app web -> x to http_app web\n" +
			"1 unknown: 3 to http_app web ->  to unknown: route x depends on what is not kept\n"},
		{"an answer", replaySite(address, "", strings.ReplaceAll(now, "http_app web", "http_respond 404")), "10: 6 0 4 0\n" +
			"4 elsewhere: 3 to http_app web -> 3 to http_respond 404\n"},
		{"no listener", replaySite(freeport.Address(t), "", now), "10: 0 0 10 0\n" +
			"4 elsewhere: 3 to http_app web ->  to nothing: no server listens there\n"},
		{"a smaller head", replaySite(address, "max_bytes 1KiB", now), "10: 6 0 2 2\n" +
			"2 elsewhere: 3 to http_app web ->  to answer 431\n" +
			"2 unknown:  to answer 400 ->  to unknown: the limits of inspect are others, and the bytes are not kept\n"},
		{"lenient", replaySite(address, "lenient", now), "10: 8 0 0 2\n" +
			"2 unknown:  to answer 400 ->  to unknown: the limits of inspect are others, and the bytes are not kept\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := s.replay(adapt(t, test.config)).String()
			if got != test.want && test.name != "no listener" || !strings.HasPrefix(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			if strings.Contains(got, "c2VjcmV0") || strings.Contains(got, "gold") {
				t.Errorf("it has values of fields: %s", got)
			}
		})
	}
	if now, after := s.api("GET", "/streamprox/stats", ""); status != now || streams != after {
		t.Errorf("replay has been counted: %s, then %s", streams, after)
	}
}
