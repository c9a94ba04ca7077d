package streamprox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// stubAdmin is an admin API with streams that a test makes up. Like Caddy's it wants its own
// host and origin.
type stubAdmin struct {
	*httptest.Server

	mu        sync.Mutex
	streams   []map[string]any
	upstreams []map[string]any
	explained string           // the answer to explain
	asked     []string         // method and path of each request, in order
	questions []map[string]any // to explain
}

func newStubAdmin(t *testing.T) *stubAdmin {
	t.Helper()
	s := new(stubAdmin)
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request){
		"GET /streamprox/streams":                       s.list,
		"DELETE /streamprox/streams":                    s.deleteAll,
		"GET /streamprox/streams/{id}":                  s.one,
		"DELETE /streamprox/streams/{id}":               s.deleteOne,
		"GET /streamprox/stats":                         s.stats,
		"GET /streamprox/upstreams":                     s.listUpstreams,
		"POST /streamprox/upstreams/{address}/{action}": s.drain,
		"POST /streamprox/explain":                      s.explain,
	} {
		mux.HandleFunc(pattern, serve)
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, r.Method+" "+r.URL.RequestURI())
		own := strings.TrimPrefix(s.URL, "http://")
		switch {
		case r.Host != own:
			stubError(w, http.StatusForbidden, "host not allowed: "+r.Host)
		case r.Header.Get("Origin") != s.URL:
			stubError(w, http.StatusForbidden, "client is not allowed to access from origin '"+r.Header.Get("Origin")+"'")
		case r.Method == http.MethodPost && r.Header.Get("Content-Type") != "application/json":
			stubError(w, http.StatusUnsupportedMediaType, "not JSON")
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// address returns what --address takes.
func (s *stubAdmin) address() string { return strings.TrimPrefix(s.URL, "http://") }

// add begins a stream, with these fields besides those that every stream has.
func (s *stubAdmin) add(id string, fields map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stream := map[string]any{
		"id": id, "started": "2026-11-27T10:00:00Z", "age": 12.5, "client": "192.0.2.1:50000", "local": "203.0.113.1:443",
		"outcome": "http", "route": "chat", "destination": "relay", "upstream": "10.0.0.5:9000",
		"method": "GET", "host": "example.com", "path": "/chat/1", "proto": "HTTP/1.1", "status": 101, "state": "open",
		"bytes_up": 1024, "bytes_down": 20480, "rate": 1638.4, "idle": 0.2,
	}
	for name, value := range fields {
		if value == nil {
			delete(stream, name)
		} else {
			stream[name] = value
		}
	}
	s.streams = append(s.streams, stream)
}

// remove ends a stream.
func (s *stubAdmin) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = slices.DeleteFunc(s.streams, func(stream map[string]any) bool { return stream["id"] == id })
}

// ids returns the streams that are there.
func (s *stubAdmin) ids() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stream := range s.streams {
		ids = append(ids, stream["id"].(string))
	}
	return ids
}

// requests returns what was asked, without what only looks.
func (s *stubAdmin) requests() (changes []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, asked := range s.asked {
		if !strings.HasPrefix(asked, "GET ") {
			changes = append(changes, asked)
		}
	}
	return changes
}

func stubError(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

// chosen returns the streams that the parameters choose.
func (s *stubAdmin) chosen(w http.ResponseWriter, r *http.Request) (chosen []map[string]any, ok bool) {
	chosen = slices.Clone(s.streams)
	for name, values := range r.URL.Query() {
		switch name {
		case "route", "host", "upstream", "state", "destination":
			chosen = slices.DeleteFunc(chosen, func(stream map[string]any) bool { return stream[name] != values[0] })
		case "client":
			if strings.Trim(values[0], "0123456789.:/") != "" {
				stubError(w, http.StatusBadRequest, "client: "+strconv.Quote(values[0])+" is not an IP address or a range")
				return nil, false
			}
			chosen = slices.DeleteFunc(chosen, func(stream map[string]any) bool {
				return !strings.HasPrefix(stream["client"].(string), values[0])
			})
		case "sort", "limit", "after", "older", "over", "all":
		default:
			stubError(w, http.StatusBadRequest, name+": no such parameter")
			return nil, false
		}
	}
	return chosen, true
}

func (s *stubAdmin) list(w http.ResponseWriter, r *http.Request) {
	chosen, ok := s.chosen(w, r)
	if !ok {
		return
	}
	q := r.URL.Query()
	limit, _ := strconv.Atoi(q.Get("limit"))
	if limit < 1 || limit > 1000 {
		stubError(w, http.StatusBadRequest, "limit: not from 1 to 1000")
		return
	}
	if name, down := strings.CutPrefix(q.Get("sort"), "-"); name == "rate" || name == "age" {
		slices.SortStableFunc(chosen, func(a, b map[string]any) int {
			order := 0
			switch x, y := number(a[name]), number(b[name]); {
			case x < y:
				order = -1
			case x > y:
				order = 1
			}
			if down {
				return -order
			}
			return order
		})
	}
	answer := map[string]any{"total": len(chosen)}
	after, _ := strconv.Atoi(q.Get("after"))
	page := chosen[min(after, len(chosen)):]
	if len(page) > limit {
		page = page[:limit]
		answer["next"] = strconv.Itoa(after + limit)
	}
	answer["streams"] = append([]map[string]any{}, page...)
	_ = writeJSON(w, answer)
}

func number(value any) float64 {
	switch n := value.(type) {
	case int:
		return float64(n)
	case float64:
		return n
	}
	return 0
}

func (s *stubAdmin) find(w http.ResponseWriter, r *http.Request) int {
	id := r.PathValue("id")
	i := slices.IndexFunc(s.streams, func(stream map[string]any) bool { return stream["id"] == id })
	if i < 0 {
		stubError(w, http.StatusNotFound, "no such stream")
	}
	return i
}

func (s *stubAdmin) one(w http.ResponseWriter, r *http.Request) {
	i := s.find(w, r)
	switch {
	case i < 0:
	case r.URL.Query().Has("explain"):
		answer := make(map[string]any)
		if err := json.Unmarshal([]byte(s.explained), &answer); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer["stream"], answer["from"], answer["unknown"] = s.streams[i], "replay", []string{"the values of the fields"}
		answer["decided"] = replayPlace{"chat", "relay 10.0.0.5:9000"}
		_ = writeJSON(w, answer)
	default:
		_ = writeJSON(w, s.streams[i])
	}
}

func (s *stubAdmin) deleteOne(w http.ResponseWriter, r *http.Request) {
	if i := s.find(w, r); i >= 0 {
		s.streams = slices.Delete(s.streams, i, i+1)
		_ = writeJSON(w, map[string]int{"ended": 1})
	}
}

func (s *stubAdmin) deleteAll(w http.ResponseWriter, r *http.Request) {
	chosen, ok := s.chosen(w, r)
	switch {
	case !ok:
	case r.URL.Query().Has("over"):
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(map[string]int{"ending": len(chosen)})
	default:
		s.streams = slices.DeleteFunc(s.streams, func(stream map[string]any) bool {
			return slices.ContainsFunc(chosen, func(c map[string]any) bool { return c["id"] == stream["id"] })
		})
		_ = writeJSON(w, map[string]int{"ended": len(chosen)})
	}
}

func (s *stubAdmin) stats(w http.ResponseWriter, _ *http.Request) {
	by := make(map[string]int)
	for _, stream := range s.streams {
		by[stream["destination"].(string)]++
	}
	n := len(s.asked) // something that grows
	_ = writeJSON(w, map[string]any{
		"since": "2026-11-27T10:00:00Z", "streams": by, "waiting": 5, "parked": 9,
		"ended": map[string]int{"finished": 120, "killed": 1}, "bytes_up": 1000 * n, "bytes_down": 3000 * n * (n%7 + 1), "requests": 1000 + n,
	})
}

func (s *stubAdmin) listUpstreams(w http.ResponseWriter, _ *http.Request) {
	_ = writeJSON(w, append([]map[string]any{}, s.upstreams...))
}

func (s *stubAdmin) drain(w http.ResponseWriter, r *http.Request) {
	address, action := r.PathValue("address"), r.PathValue("action")
	for _, u := range s.upstreams {
		if u["address"] == address && (action == "drain" || action == "undrain") {
			u["draining"] = action == "drain"
			_ = writeJSON(w, u)
			return
		}
	}
	stubError(w, http.StatusNotFound, fmt.Sprintf("no upstream %q", address))
}

func (s *stubAdmin) explain(w http.ResponseWriter, r *http.Request) {
	var question map[string]any
	if err := json.NewDecoder(r.Body).Decode(&question); err != nil {
		stubError(w, http.StatusBadRequest, err.Error())
		return
	}
	s.questions = append(s.questions, question)
	if question["listen"] == ":9" {
		stubError(w, http.StatusNotFound, "listen: nothing with routes of streamprox listens on :9; there are :8080 (server srv0 of layer4)")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(s.explained))
}
