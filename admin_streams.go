package streamprox

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
	"github.com/streamprox/caddy-streamprox/internal/opening"
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

}

// viewOf returns what the admin API shows of a request, of a stream or of a connection that
// waits.
func viewOf(r account.Reading) streamView {
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
		Rate:        rateOf(&r),
		Idle:        r.Idle.Seconds(),
	}
}

// rateOf returns the bytes a second, both ways, of what is under way; else 0.
func rateOf(r *account.Reading) float64 {
	if r.State == account.Open || r.State == account.Dialing {
		return rates.of(*r)
	}
	return 0
}

// listed is what may be in a list: what is under way, or a connection that waits.
type listed struct {
	record *account.Record
	owner  relay.Owner // of a connection that waits; then there is no record
}

// read returns what is known of it. It reports false if it is over.
func (l listed) read() (r account.Reading, there bool) {
	switch owner := l.owner.(type) {
	case nil:
		r = l.record.Read()
		return r, r.State != account.Ended
	case *relayed:
		return owner.reading()
	case *parked:
		return owner.reading(), true
	}
	return r, false
}

// end ends those that are still what they were: what is under way with a reset, a connection
// that waits in order.
func end(all []found) {
	var running []found
	waiting := make(map[relay.Owner]bool)
	for _, f := range all {
		if f.owner == nil {
			running = append(running, f)
		} else if r, there := f.read(); there && r.ID == f.id {
			waiting[f.owner] = true
		}
	}
	if len(running) > 0 {
		kill(running)
	}
	if len(waiting) > 0 {
		streams.Retire(func(owner relay.Owner) bool { return waiting[owner] })
	}
}

// waitingIn returns the connections that wait in that state.
func waitingIn(state account.State) (waiting []listed) {
	for _, owner := range streams.Owners() {
		of := account.Waiting
		switch owner.(type) {
		case *parked:
			of = account.Parked
		case *relayed:
		default:
			continue
		}
		if of == state {
			waiting = append(waiting, listed{owner: owner})
		}
	}
	return waiting
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
var equalFilters = map[string]func(*account.Reading) string{
	"route":       func(r *account.Reading) string { return r.Route },
	"host":        func(r *account.Reading) string { return r.Host },
	"upstream":    func(r *account.Reading) string { return r.Upstream },
	"destination": func(r *account.Reading) string { return r.Destination },
	"outcome":     func(r *account.Reading) string { return r.Outcome },
	"state":       func(r *account.Reading) string { return r.State.String() },
}

// filterValues are the values of parameters that have few.
var filterValues = map[string][]string{
	"outcome": opening.Names(),
	"state":   {account.Open.String(), account.Dialing.String(), account.Waiting.String(), account.Parked.String()},
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
			if known := filterValues[name]; known != nil && value != "" && !slices.Contains(known, value) {
				return f, fmt.Errorf("%s: unknown %q: use %s", name, value, strings.Join(known, ", "))
			}
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

// matches reports whether the filter means what is known in r.
func (f *streamFilter) matches(r *account.Reading) bool {
	for name, value := range f.equal {
		got := equalFilters[name](r)
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
		client, err := netip.ParseAddrPort(addressOf(r.Client))
		if err != nil || !f.client.Contains(client.Addr().Unmap().WithZone("")) {
			return false
		}
	}
	return r.Age >= f.older
}

// found is one that a filter means, with its place in an order.
type found struct {
	listed
	place
}

// place is where something is in an order. Smaller ones come first.
type place struct {
	key int64
	id  account.ID
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.key, q.key), cmp.Compare(p.id, q.id))
}

// String returns a place as parsePlace reads it.
func (p place) String() string { return fmt.Sprintf("%d_%s", p.key, p.id) }

func parsePlace(s string) (p place, err error) {
	key, id, _ := strings.Cut(s, "_")
	if p.key, err = strconv.ParseInt(key, 10, 64); err == nil {
		p.id, err = account.ParseID(id)
	}
	return p, err
}

// find returns what is meant, in no order. Only what is there is locked, a part of it at a time
// and none for long: what begins and ends meanwhile goes on.
func (f *streamFilter) find(order streamOrder) (all []found) {
	consider := func(l listed) {
		if r, there := l.read(); there && f.matches(&r) {
			all = append(all, found{l, place{order(&r), r.ID}})
		}
	}
	switch f.equal["state"] {
	case account.Waiting.String():
		for _, l := range waitingIn(account.Waiting) {
			consider(l)
		}
	case account.Parked.String():
		for _, l := range waitingIn(account.Parked) {
			consider(l)
		}
	default:
		for _, record := range accounts.All() {
			consider(listed{record: record})
		}
	}
	return all
}

// streamOrder returns the key of what is known of a stream in an order: smaller ones come
// first, and the ID decides between equals.
type streamOrder func(*account.Reading) int64

// streamOrders are what streams are sorted by.
var streamOrders = map[string]streamOrder{
	"age":   func(r *account.Reading) int64 { return -int64(r.Started.Sub(account.Epoch)) },
	"bytes": func(r *account.Reading) int64 { return r.Up + r.Down },
	"rate":  func(r *account.Reading) int64 { return int64(rateOf(r)) },
	"idle":  func(r *account.Reading) int64 { return -int64(r.Started.Sub(account.Epoch) + r.Age - r.Idle) },
	"id":    func(*account.Reading) int64 { return 0 },
}

// parseOrder returns an order by its name, descending with a minus before it. Default: the
// youngest first.
func parseOrder(name string) (streamOrder, error) {
	name, descending := strings.CutPrefix(cmp.Or(name, "age"), "-")
	order := streamOrders[name]
	switch {
	case order == nil:
		return nil, fmt.Errorf("sort: unknown order %q: use age, bytes, rate, idle or id, with a minus for the reverse", name)
	case descending:
		return func(r *account.Reading) int64 { return -order(r) }, nil
	}
	return order, nil
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
	limit := defaultStreams
	if value := query.Get("limit"); value != "" {
		if limit, err = strconv.Atoi(value); err != nil || limit < 1 || limit > maxStreams {
			return apiError(http.StatusBadRequest, fmt.Errorf("limit: %q is not a number from 1 to %d", value, maxStreams))
		}
	}
	after := place{key: math.MinInt64}
	if value := query.Get("after"); value != "" {
		if after, err = parsePlace(value); err != nil {
			return apiError(http.StatusBadRequest, fmt.Errorf("after: %q is not what an answer had as next", value))
		}
	}
	order, err := parseOrder(query.Get("sort"))
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	answer := streamPage{Streams: []streamView{}}
	answer.fill(filter.find(order), after, limit)
	return writeJSON(w, answer)
}

// streamPage is an answer of GET /streamprox/streams.
type streamPage struct {
	Total   int          `json:"total"`
	Streams []streamView `json:"streams"`
	Next    string       `json:"next,omitempty"`
}

// fill fills the page with what comes after that place, at most limit. As the next page begins
// at a place and not at a number, what begins and ends between two pages moves none of the
// others from one page to another.
func (p *streamPage) fill(all []found, after place, limit int) {
	p.Total = len(all)
	all = slices.DeleteFunc(all, func(f found) bool { return f.compare(after) <= 0 })
	slices.SortFunc(all, func(a, b found) int { return a.compare(b.place) })
	if len(all) > limit {
		all = all[:limit]
		p.Next = all[limit-1].String()
	}
	for _, f := range all {
		if r, there := f.read(); there && r.ID == f.id { // else it has ended meanwhile
			p.Streams = append(p.Streams, viewOf(r))
		}
	}
}

// streamNamed returns what the path of a request names, and its error else.
func streamNamed(r *http.Request) (found, error) {
	name := strings.TrimPrefix(r.URL.Path, "/streamprox/streams/")
	if id, err := account.ParseID(name); err == nil {
		if record := accounts.Find(id); record != nil {
			return found{listed{record: record}, place{id: id}}, nil
		}
		for _, state := range []account.State{account.Waiting, account.Parked} {
			for _, l := range waitingIn(state) {
				if r, there := l.read(); there && r.ID == id {
					return found{l, place{id: id}}, nil
				}
			}
		}
	}
	return found{}, apiError(http.StatusNotFound, fmt.Errorf("no stream %.40q is under way", name))
}

// serveStream answers GET /streamprox/streams/{id}; with explain in its query, why it goes where
// it does.
func serveStream(w http.ResponseWriter, r *http.Request) error {
	f, err := streamNamed(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	for name := range query {
		if name != "explain" {
			return apiError(http.StatusBadRequest, fmt.Errorf("%s: unknown parameter", name))
		}
	}
	reading, _ := f.read()
	if !query.Has("explain") {
		return writeJSON(w, viewOf(reading))
	}
	answer, err := explainStream(caddy.ActiveContext(), reading)
	if err != nil {
		return questionError(err)
	}
	return writeJSON(w, answer)
}

// serveEndStream answers DELETE /streamprox/streams/{id}.
func serveEndStream(w http.ResponseWriter, r *http.Request) error {
	f, err := streamNamed(r)
	if err != nil {
		return err
	}
	logDone(r, "ending streams", zap.Stringer("id", f.id), zap.Int("streams", 1))
	end([]found{f})
	return writeJSON(w, map[string]int{"ended": 1})
}

// kill resets requests and streams that are under way.
func kill(all []found) {
	var meters []*account.Meter
	for _, f := range all {
		if f.record.Kill(f.id, relay.Killed.String()) {
			meters = append(meters, f.record.Meter()) // an engine may have it, or be about to get it
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
	// Those that rest come first.
	idlest, _ := parseOrder("-idle")
	all := filter.find(idlest)
	slices.SortFunc(all, func(a, b found) int { return a.compare(b.place) })
	query.Del("over")
	fields := []zap.Field{zap.String("filter", query.Encode()), zap.Int("streams", len(all))}
	if over == 0 {
		logDone(r, "ending streams", fields...)
		end(all)
		return writeJSON(w, map[string]int{"ended": len(all)})
	}
	logDone(r, "ending streams", append(fields, zap.Duration("over", over))...)
	go endSpread(all, over)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	return json.NewEncoder(w).Encode(map[string]int{"ending": len(all)})
}

// endSpread is a goroutine that ends all in their order, spread over a time so that clients
// which come back at once do not come together. Those that are due within a small part of it end
// at once, since to end one takes a look at all streams of the process.
func endSpread(all []found, over time.Duration) {
	part, began := min(over/200, time.Second), time.Now()
	due := make([]time.Duration, len(all))
	for i := range due {
		due[i] = time.Duration((float64(i) + rand.Float64()) / float64(len(all)) * float64(over))
	}
	for len(all) > 0 {
		time.Sleep(max(due[0]-time.Since(began), part))
		n, _ := slices.BinarySearch(due, time.Since(began))
		end(all[:n])
		all, due = all[n:], due[n:]
	}
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
