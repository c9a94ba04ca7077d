package streamprox

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// The endpoints of requests and streams under way, and of upstreams.

// adminLogModule gives the log of what is done through the admin API its name.
type adminLogModule struct{}

// CaddyModule returns the name of the log as that of a module, which it is not.
func (adminLogModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "streamprox.admin"}
}

// logDone logs what a client of the admin API does to streams or to an upstream.
func logDone(r *http.Request, message string, fields ...zap.Field) {
	caddy.ActiveContext().Logger(adminLogModule{}).Info(message, append([]zap.Field{zap.String("remote", r.RemoteAddr)}, fields...)...)
}

// streamView is a request or a stream as the admin API shows it.
type streamView struct {
	ID          string    `json:"id"`
	Started     time.Time `json:"started"`
	Age         float64   `json:"age"` // seconds
	Client      string    `json:"client"`
	Local       string    `json:"local"`
	Outcome     string    `json:"outcome,omitempty"`
	Route       string    `json:"route,omitempty"`
	Destination string    `json:"destination,omitempty"`
	Upstream    string    `json:"upstream,omitempty"`
	Method      string    `json:"method,omitempty"`
	Host        string    `json:"host,omitempty"`
	Path        string    `json:"path,omitempty"`
	Proto       string    `json:"proto,omitempty"`
	Status      int       `json:"status,omitempty"`
	State       string    `json:"state"`
	BytesUp     int64     `json:"bytes_up"`
	BytesDown   int64     `json:"bytes_down"`
	Rate        float64   `json:"rate"` // bytes a second, both ways, lately
	Idle        float64   `json:"idle"` // seconds since a byte was last delivered

	stream listedStream
}

// viewOf returns what the admin API shows of a record.
func viewOf(record *account.Record) streamView {
	r := record.Read()
	return streamView{
		ID:          r.ID.String(),
		Started:     r.Started,
		Age:         r.Age.Seconds(),
		Client:      addressOf(r.Client),
		Local:       addressOf(r.Local),
		Outcome:     r.Outcome,
		Route:       r.Route,
		Destination: r.Destination,
		Upstream:    r.Upstream,
		Method:      r.Method,
		Host:        r.Host,
		Path:        r.Path,
		Proto:       r.Proto,
		Status:      r.Status,
		State:       r.State.String(),
		BytesUp:     r.Up,
		BytesDown:   r.Down,
		Rate:        rates.of(r),
		Idle:        r.Idle.Seconds(),
		stream:      listedStream{record, r.ID},
	}
}

// rates remembers what was asked about lately, to tell how fast it is.
var rates rateMemory

type rateMemory struct {
	mu      sync.Mutex
	samples map[account.ID]rateSample
	swept   time.Time
}

type rateSample struct {
	at    time.Time
	bytes int64
	rate  float64
}

const (
	// leastSample is the least time for which a rate is measured.
	leastSample = 500 * time.Millisecond

	// oldSample is how long a sample is kept that nobody asks for.
	oldSample = time.Minute
)

// of returns the bytes a second, both ways, since the last time that somebody asked, or else
// since the beginning.
func (m *rateMemory) of(r account.Reading) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if now.Sub(m.swept) > oldSample {
		for id, sample := range m.samples {
			if now.Sub(sample.at) > oldSample {
				delete(m.samples, id)
			}
		}
		m.swept = now
	}
	last, known := m.samples[r.ID]
	if !known {
		last = rateSample{at: r.Started}
	}
	passed := now.Sub(last.at)
	if passed < leastSample {
		return last.rate
	}
	sample := rateSample{at: now, bytes: r.Up + r.Down}
	sample.rate = float64(sample.bytes-last.bytes) / passed.Seconds()
	if m.samples == nil {
		m.samples = make(map[account.ID]rateSample)
	}
	m.samples[r.ID] = sample
	return sample.rate
}

// streamFilter says which requests and streams are meant.
type streamFilter struct {
	equal  map[string]string // by parameter
	client netip.Prefix      // zero: any
	older  time.Duration
	any    bool // there is no filter
}

// equalFilters are the parameters that are compared with what is shown.
var equalFilters = map[string]func(*streamView) string{
	"route":       func(v *streamView) string { return v.Route },
	"host":        func(v *streamView) string { return v.Host },
	"upstream":    func(v *streamView) string { return v.Upstream },
	"destination": func(v *streamView) string { return v.Destination },
	"outcome":     func(v *streamView) string { return v.Outcome },
	"state":       func(v *streamView) string { return v.State },
}

// parseFilter reads the filters of query, which may have others of those parameters too. An
// error names the parameter.
func parseFilter(query url.Values, others ...string) (f streamFilter, err error) {
	f.equal = make(map[string]string)
	f.any = true
	for name, values := range query {
		value := values[len(values)-1]
		_, equal := equalFilters[name]
		switch {
		case slices.Contains(others, name):
			continue
		case equal:
			f.equal[name] = value
		case name == "client":
			if f.client, err = parseClient(value); err != nil {
				return f, err
			}
		case name == "older":
			if f.older, err = caddy.ParseDuration(value); err != nil || f.older < 0 {
				return f, fmt.Errorf("older: %q is not a duration, as in 10s", value)
			}
		default:
			return f, fmt.Errorf("%s: unknown parameter", name)
		}
		f.any = false
	}
	return f, nil
}

// parseClient reads an address or a network.
func parseClient(value string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(value); err == nil {
		return netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()), nil
	}
	network, err := netip.ParsePrefix(value)
	if err != nil {
		return network, fmt.Errorf("client: %q is neither an address nor a network, as in 192.0.2.0/24", value)
	}
	return network.Masked(), nil
}

// matches reports whether the filter means v.
func (f *streamFilter) matches(v *streamView) bool {
	for name, value := range f.equal {
		got := equalFilters[name](v)
		same := got == value
		switch name {
		case "host":
			same = strings.EqualFold(got, value)
		case "upstream":
			// The list of upstreams has the network of those that are not TCP.
			_, address, hasNetwork := strings.Cut(value, "/")
			same = same || hasNetwork && address == got
		}
		if !same {
			return false
		}
	}
	if f.client.IsValid() {
		client, err := netip.ParseAddrPort(v.Client)
		if err != nil || !f.client.Contains(client.Addr().Unmap().WithZone("")) {
			return false
		}
	}
	return v.Age >= f.older.Seconds()
}

// find returns what is under way and meant.
func (f *streamFilter) find() (found []streamView) {
	for _, record := range accounts.All() {
		if v := viewOf(record); v.State != account.Ended.String() && f.matches(&v) {
			found = append(found, v)
		}
	}
	return found
}

// streamOrders are what streams are sorted by, ascending; the ID decides between equals.
var streamOrders = map[string]func(a, b *streamView) int{
	"age":   func(a, b *streamView) int { return cmp.Compare(a.Age, b.Age) },
	"bytes": func(a, b *streamView) int { return cmp.Compare(a.BytesUp+a.BytesDown, b.BytesUp+b.BytesDown) },
	"rate":  func(a, b *streamView) int { return cmp.Compare(a.Rate, b.Rate) },
	"idle":  func(a, b *streamView) int { return cmp.Compare(a.Idle, b.Idle) },
	"id":    func(a, b *streamView) int { return 0 },
}

// sortStreams sorts by that order, descending with a minus before it. Default: the youngest
// first.
func sortStreams(views []streamView, order string) error {
	name, descending := strings.CutPrefix(cmp.Or(order, "age"), "-")
	compare := streamOrders[name]
	if compare == nil {
		return fmt.Errorf("sort: unknown order %q: use age, bytes, rate, idle or id, with a minus for the reverse", order)
	}
	slices.SortFunc(views, func(a, b streamView) int {
		by := compare(&a, &b)
		if descending {
			by = -by
		}
		return cmp.Or(by, strings.Compare(a.ID, b.ID))
	})
	return nil
}

// The number of streams in an answer.
const (
	defaultStreams = 100
	maxStreams     = 1000
)

// serveStreams answers GET /streamprox/streams.
func serveStreams(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	filter, err := parseFilter(query, "sort", "limit", "after")
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	limit, after := defaultStreams, 0
	if value := query.Get("limit"); value != "" {
		if limit, err = strconv.Atoi(value); err != nil || limit < 1 || limit > maxStreams {
			return apiError(http.StatusBadRequest, fmt.Errorf("limit: %q is not a number from 1 to %d", value, maxStreams))
		}
	}
	if value := query.Get("after"); value != "" {
		if after, err = strconv.Atoi(value); err != nil || after < 0 {
			return apiError(http.StatusBadRequest, fmt.Errorf("after: %q is not what an answer had as next", value))
		}
	}
	found := filter.find()
	if err := sortStreams(found, query.Get("sort")); err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	answer := struct {
		Total   int          `json:"total"`
		Streams []streamView `json:"streams"`
		Next    string       `json:"next,omitempty"`
	}{Total: len(found), Streams: []streamView{}}
	if after < len(found) {
		end := min(after+limit, len(found))
		answer.Streams = found[after:end]
		if end < len(found) {
			answer.Next = strconv.Itoa(end)
		}
	}
	return writeJSON(w, answer)
}

// recordOf returns the record that the path of a request names, and its error else.
func recordOf(r *http.Request) (*account.Record, error) {
	name := strings.TrimPrefix(r.URL.Path, "/streamprox/streams/")
	id, err := account.ParseID(name)
	if err == nil {
		if record := accounts.Find(id); record != nil {
			return record, nil
		}
	}
	return nil, apiError(http.StatusNotFound, fmt.Errorf("no stream %.40q is under way", name))
}

// serveStream answers GET /streamprox/streams/{id}; with explain in its query, why it goes where
// it does.
func serveStream(w http.ResponseWriter, r *http.Request) error {
	record, err := recordOf(r)
	if err != nil {
		return err
	}
	view := viewOf(record)
	query := r.URL.Query()
	for name := range query {
		if name != "explain" {
			return apiError(http.StatusBadRequest, fmt.Errorf("%s: unknown parameter", name))
		}
	}
	if !query.Has("explain") {
		return writeJSON(w, view)
	}
	answer, err := explainStream(caddy.ActiveContext(), record)
	if err != nil {
		return questionError(err)
	}
	return writeJSON(w, answer)
}

// serveEndStream answers DELETE /streamprox/streams/{id}.
func serveEndStream(w http.ResponseWriter, r *http.Request) error {
	record, err := recordOf(r)
	if err != nil {
		return err
	}
	id := record.Read().ID
	logDone(r, "ending streams", zap.Stringer("id", id), zap.Int("streams", 1))
	endStreams([]listedStream{{record, id}})
	return writeJSON(w, map[string]int{"ended": 1})
}

// listedStream is a request or a stream that was under way when it was looked for. Its record
// may have become that of a later request on the connection.
type listedStream struct {
	record *account.Record
	id     account.ID
}

// endStreams resets streams that are still under way.
func endStreams(listed []listedStream) {
	var meters []*account.Meter
	for _, l := range listed {
		if l.record.Kill(l.id, relay.Killed.String()) {
			meters = append(meters, l.record.Meter()) // an engine may have it, or be about to get it
		}
	}
	if len(meters) > 0 {
		streams.KillMetered(meters)
	}
}

// maxSpread bounds over.
const maxSpread = time.Hour

// serveEndStreams answers DELETE /streamprox/streams.
func serveEndStreams(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	filter, err := parseFilter(query, "over", "all")
	switch {
	case err != nil:
	case filter.any && query.Get("all") != "true":
		err = errors.New("all: to end every stream, say all=true; else say which")
	}
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	var over time.Duration
	if value := query.Get("over"); value != "" {
		if over, err = caddy.ParseDuration(value); err != nil || over < 0 || over > maxSpread {
			return apiError(http.StatusBadRequest, fmt.Errorf("over: %q is not a duration up to %s, as in 30s", value, maxSpread))
		}
	}
	found := filter.find()
	_ = sortStreams(found, "-idle")
	listed := make([]listedStream, len(found))
	for i, v := range found {
		listed[i] = v.stream
	}
	query.Del("over")
	fields := []zap.Field{zap.String("filter", query.Encode()), zap.Int("streams", len(found))}
	if over == 0 {
		logDone(r, "ending streams", fields...)
		endStreams(listed)
		return writeJSON(w, map[string]int{"ended": len(listed)})
	}
	logDone(r, "ending streams", append(fields, zap.Duration("over", over))...)
	for i := range listed {
		// Those that rest come first, and clients that come back at once do not come together.
		at := time.Duration((float64(i) + rand.Float64()) / float64(len(listed)) * float64(over))
		time.AfterFunc(at, func() { endStreams(listed[i : i+1]) })
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	return json.NewEncoder(w).Encode(map[string]int{"ending": len(found)})
}

// began is when the process began to count.
var began = time.Now()

// streamStats is the answer of GET /streamprox/stats.
type streamStats struct {
	Since     time.Time        `json:"since"`
	Streams   map[string]int64 `json:"streams"` // under way, by destination
	Waiting   int64            `json:"waiting"` // clients' connections after a response of relay
	Parked    int64            `json:"parked"`  // those that have left an HTTP server
	Ended     map[string]int64 `json:"ended"`   // by cause
	BytesUp   int64            `json:"bytes_up"`
	BytesDown int64            `json:"bytes_down"`
	Requests  int64            `json:"requests"`
}

// serveStats answers GET /streamprox/stats.
func serveStats(w http.ResponseWriter, _ *http.Request) error {
	stats := streamStats{
		Since:     began,
		Streams:   make(map[string]int64),
		Waiting:   relay.Count().Waiting,
		Parked:    parkedConnections.Load(),
		Ended:     totals.causes(),
		BytesUp:   totals.up.Load(),
		BytesDown: totals.down.Load(),
		Requests:  totals.requests.Load(),
	}
	for _, record := range accounts.All() {
		r := record.Read()
		stats.Streams[cmp.Or(r.Destination, "other")]++
		stats.BytesUp += r.Up
		stats.BytesDown += r.Down
		if r.Method != "" {
			stats.Requests++
		}
	}
	return writeJSON(w, stats)
}

// totals counts the accounts that are closed.
var totals accountTotals

type accountTotals struct {
	up, down, requests atomic.Int64
	ended              sync.Map // of *atomic.Int64, by cause
}

func (t *accountTotals) add(r account.Reading) {
	t.up.Add(r.Up)
	t.down.Add(r.Down)
	if r.Method != "" {
		t.requests.Add(1)
	}
	n, ok := t.ended.Load(r.Cause)
	if !ok {
		n, _ = t.ended.LoadOrStore(r.Cause, new(atomic.Int64))
	}
	n.(*atomic.Int64).Add(1)
}

// causes returns how many have ended for each cause.
func (t *accountTotals) causes() map[string]int64 {
	causes := make(map[string]int64)
	t.ended.Range(func(cause, n any) bool {
		causes[cause.(string)] = n.(*atomic.Int64).Load()
		return true
	})
	return causes
}

// serveUpstreams answers GET /streamprox/upstreams.
func serveUpstreams(w http.ResponseWriter, _ *http.Request) error {
	all := upstream.Peers()
	if all == nil {
		all = []upstream.Peer{}
	}
	return writeJSON(w, all)
}

// serveDrain answers POST /streamprox/upstreams/{address}/drain and /undrain.
func serveDrain(w http.ResponseWriter, r *http.Request) error {
	rest := strings.TrimPrefix(r.URL.Path, "/streamprox/upstreams/")
	address, drains := strings.CutSuffix(rest, "/drain")
	if !drains {
		var undrains bool
		if address, undrains = strings.CutSuffix(rest, "/undrain"); !undrains {
			return apiError(http.StatusNotFound, fmt.Errorf("%s: want an address of an upstream, and /drain or /undrain", r.URL.Path))
		}
	}
	if media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(media) != "application/json" {
		// A page of another origin can send other types without being asked.
		return apiError(http.StatusUnsupportedMediaType, errors.New("the Content-Type is not application/json"))
	}
	peer, ok := upstream.SetDraining(address, drains)
	if !ok {
		return apiError(http.StatusNotFound, fmt.Errorf("no relay has the upstream %.200q", address))
	}
	message := "upstream takes new streams"
	if drains {
		message = "draining upstream"
	}
	logDone(r, message, zap.String("upstream", peer.Address), zap.Int64("streams", peer.Streams))
	return writeJSON(w, peer)
}
