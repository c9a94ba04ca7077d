package streamprox

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// rowsOf returns the cells of the tables of a page under a heading, "" for what comes before
// the first one.
func rowsOf(t *testing.T, page, heading string) (rows [][]string) {
	t.Helper()
	under := ""
	for line := range strings.Lines(packaged(t, page)) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "## "); ok {
			under = title
		}
		if under != heading || !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

// quoted finds the words in backquotes.
var quoted = regexp.MustCompile("`([^`]+)`")

func quotedIn(s string) (words []string) {
	for _, match := range quoted.FindAllStringSubmatch(s, -1) {
		words = append(words, match[1])
	}
	return words
}

// TestMetricsAreDescribed compares the tables of docs/metrics.md with what there is.
func TestMetricsAreDescribed(t *testing.T) {
	const page = "docs/metrics.md"
	var described []string
	for _, row := range rowsOf(t, page, "") {
		if len(row) != 4 || row[3] == "" {
			t.Errorf("%v: want name, type, labels and meaning", row)
			continue
		}
		described = append(described, quotedIn(row[0])[0]+" "+row[1]+" "+strings.Join(quotedIn(row[2]), " "))
	}
	var registered []string
	for _, m := range allMetrics {
		registered = append(registered, strings.TrimPrefix(m.name, "caddy_streamprox_")+" "+m.kind+" "+strings.Join(m.labels, " "))
		if strings.HasSuffix(m.name, "_total") != (m.kind == counter) {
			t.Errorf("%s is a %s", m.name, m.kind)
		}
	}
	slices.Sort(described) // the page has an order of its own
	slices.Sort(registered)
	if !slices.Equal(described, registered) {
		t.Errorf("%s has\n%s\nwant\n%s", page, strings.Join(described, "\n"), strings.Join(registered, "\n"))
	}

	var reasons []string
	for _, row := range rowsOf(t, page, "Reasons of refusals") {
		reasons = append(reasons, quotedIn(row[0])...)
	}
	if want := refusalNames[:]; !slices.Equal(reasons, want) {
		t.Errorf("%s has the reasons %q, want %q", page, reasons, want)
	}
	var kinds []string
	for _, row := range rowsOf(t, page, "Streams") {
		kinds = append(kinds, quotedIn(row[0])[0]+" "+quotedIn(row[1])[0])
	}
	for kind, names := range underWayNames {
		if underWay(kind) != nothing && !slices.Contains(kinds, names.destination+" "+names.kind) {
			t.Errorf("%s does not have %v", page, names)
		}
	}
	text := packaged(t, page)
	for _, cause := range endNames {
		if !strings.Contains(text, "`"+cause+"`") {
			t.Errorf("%s does not have the cause %s", page, cause)
		}
	}
}

func TestRefusalOfOutcome(t *testing.T) {
	for i, name := range opening.Names() {
		if o := opening.Outcome(i); o >= opening.HTTP2 && refusalNames[refusalOf(o)] != name {
			t.Errorf("%s: got %s", name, refusalNames[refusalOf(o)])
		}
	}
	for i, name := range refusalNames {
		if name == "" {
			t.Errorf("refusal %d has no name", i)
		}
	}
}

// TestEndNames: the causes of package relay come first.
func TestEndNames(t *testing.T) {
	for cause := range relay.Cause(len(relay.CauseNames())) {
		if endNames[cause] != cause.String() {
			t.Errorf("%s: got %s", cause, endNames[cause])
		}
	}
	if endNames[endClosed] != "closed" || endNames[endMoved] != "moved" || endNames[endParked] != "parked" {
		t.Errorf("got %q", endNames)
	}
}

// testContext returns the context of a configuration, which ends with the test or before.
func testContext(t *testing.T) (caddy.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	return ctx, cancel
}

// TestRegisterMetrics: each configuration has the metrics, however many handlers it has. Its
// registry is a strict one.
func TestRegisterMetrics(t *testing.T) {
	for range 2 {
		ctx, _ := testContext(t)
		counts := countsOfRoute(contextOfRoute(ctx, "registered"))
		counts.uses(relayRequest, relayStream, appConnection)
		for range 3 {
			registerMetrics(ctx)
		}
		families, err := ctx.GetMetricsRegistry().Gather()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, family := range families {
			if strings.HasPrefix(family.GetName(), "caddy_streamprox_") {
				found++
			}
		}
		if found < 10 {
			t.Errorf("found %d metrics", found)
		}
	}
	registerMetrics(caddy.Context{}) // has none
}

// TestTable: what is counted stays as long as a configuration has the value, or something of
// it goes on.
func TestTable(t *testing.T) {
	var goesOn atomic.Bool
	numbers := table[atomic.Uint64]{
		make: func() *atomic.Uint64 { return new(atomic.Uint64) },
		idle: func(*atomic.Uint64) bool { return !goesOn.Load() },
	}
	values := func() (found []string) {
		numbers.each(func(value string, _ *atomic.Uint64) { found = append(found, value) })
		slices.Sort(found)
		return found
	}
	// gone waits for the end of a configuration to be known.
	gone := func(users int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			numbers.mu.Lock()
			now := 0
			for _, row := range numbers.rows {
				now += row.users
			}
			numbers.mu.Unlock()
			if now == users {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("got %d users, want %d", now, users)
			}
		}
	}

	first, end := testContext(t)
	a := numbers.use(first, "a")
	a.Add(1)
	if numbers.use(first, "a") != a {
		t.Error("two rows for one value")
	}
	numbers.use(first, "b")
	second, endSecond := testContext(t)
	if numbers.use(second, "a") != a {
		t.Error("another row in the next configuration")
	}
	end()
	gone(1)
	if got := values(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the last time: got %q", got)
	}
	if got := values(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("after the first configuration: got %q", got)
	}
	goesOn.Store(true)
	endSecond()
	gone(0)
	values()
	third, _ := testContext(t)
	numbers.use(third, "c") // sweeps too
	if got := values(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("while something goes on: got %q", got)
	}
	goesOn.Store(false)
	values()
	if got := values(); !slices.Equal(got, []string{"c"}) {
		t.Errorf("at the end: got %q", got)
	}
}

// readerFrom records how it is read to.
type readerFrom struct {
	bytes.Buffer
	calls int
}

func (w *readerFrom) ReadFrom(r io.Reader) (int64, error) {
	w.calls++
	return w.Buffer.ReadFrom(r)
}

// TestReadFromInPieces: a file is counted while it is sent, and all of it is sent.
func TestReadFromInPieces(t *testing.T) {
	const size = 2*pieceSize + 100
	content := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return file
	}
	limited := func(n int64) *io.LimitedReader { return &io.LimitedReader{R: open(), N: n} }
	for _, test := range []struct {
		name  string
		from  io.Reader
		want  int
		calls int
		fails bool
	}{
		{"a file", open(), size, 3, false},
		{"a part of a file", limited(pieceSize + 1), pieceSize + 1, 2, false},
		{"as much as a piece", limited(pieceSize), pieceSize, 1, false},
		{"more than there is", limited(size + 1), size, 3, false},
		{"nothing", limited(0), 0, 0, false},
		{"memory", bytes.NewReader(content), size, 1, false},
		{"a stream", struct{ io.Reader }{bytes.NewReader(content)}, size, 3, false},
		{"one that fails", struct{ io.Reader }{io.MultiReader(io.LimitReader(bytes.NewReader(content), pieceSize+5), iotest.ErrReader(io.ErrClosedPipe))}, pieceSize + 5, 2, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var to readerFrom
			before := appBytes.toClient.Load()
			n, err := new(handedConn).sendFrom(&to, test.from)
			if n != int64(test.want) || (err != nil) != test.fails || !bytes.Equal(to.Bytes(), content[:test.want]) {
				t.Errorf("got %d bytes of %d (%v), want %d", n, to.Len(), err, test.want)
			}
			if to.calls != test.calls {
				t.Errorf("got %d pieces, want %d", to.calls, test.calls)
			}
			if counted := appBytes.toClient.Load() - before; counted != int64(test.want) {
				t.Errorf("counted %d, want %d", counted, test.want)
			}
			if l, ok := test.from.(*io.LimitedReader); ok && test.name == "a part of a file" && l.N != 0 {
				t.Errorf("the reader has %d bytes left", l.N)
			}
		})
	}
}

// TestGrafanaDashboard: each query is about metrics that there are, and each metric is shown.
func TestGrafanaDashboard(t *testing.T) {
	var dashboard struct {
		Title  string
		UID    string `json:"uid"`
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(packaged(t, "contrib/grafana/streamprox.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.Title == "" || dashboard.UID == "" {
		t.Error("no title, or no uid")
	}
	shown := make(map[string]bool)
	ids := make(map[int]bool)
	taken := make(map[[2]int]string)
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] {
			t.Errorf("%s: the id %d is taken", panel.Title, panel.ID)
		}
		ids[panel.ID] = true
		for x := range panel.GridPos.W {
			for y := range panel.GridPos.H {
				at := [2]int{panel.GridPos.X + x, panel.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] >= 24 {
					t.Fatalf("%s lies on %q", panel.Title, other)
				}
				taken[at] = panel.Title
			}
		}
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("%s shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			for _, name := range namesOfMetrics(target.Expr) {
				shown[name] = true
			}
		}
	}
	known := make(map[string]bool)
	for _, m := range allMetrics {
		known[m.name] = true
		if !shown[m.name] {
			t.Errorf("%s is not shown", m.name)
		}
	}
	for name := range shown {
		if !known[name] {
			t.Errorf("%s is no metric", name)
		}
	}
	for _, name := range namesOfMetrics(packaged(t, "contrib/prometheus/alerts.yml")) {
		if !known[name] {
			t.Errorf("alerts.yml: %s is no metric", name)
		}
	}
}

// namesOfMetrics returns the names of this plugin's metrics in an expression.
func namesOfMetrics(expr string) (names []string) {
	for _, name := range regexp.MustCompile(`caddy_streamprox_\w+`).FindAllString(expr, -1) {
		names = append(names, strings.TrimSuffix(name, "_bucket"))
	}
	return names
}

// countOneRequest counts what a request is that goes the way of the one before it.
func countOneRequest(in *inspection, r *relayed) {
	in.count()
	r.is(relayRequest)
	r.isOver(relay.Finished)
}

// countedRequest returns what countOneRequest takes.
func countedRequest() (*inspection, *relayed) {
	counts := newRouteCounts()
	inspect := &Inspect{counts: []*routeCounts{newRouteCounts(), counts}}
	return &inspection{inspect: inspect}, &relayed{relay: &Relay{counts: counts}}
}

func TestCountingAllocatesNothing(t *testing.T) {
	in, r := countedRequest()
	handed := new(handedConn)
	n := testing.AllocsPerRun(100, func() {
		countOneRequest(in, r)
		refusedMalformed.count()
		ownAnswers.count(http.StatusBadRequest)
		r.relay.counts.fails(upstream.Timeout)
		handed.sent(1)
		handed.received(1)
	})
	if n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
	if c := r.relay.counts; c.inspections[opening.HTTP].Load() != 101 || c.streams[relayRequest].ended[relay.Finished].Load() != 101 || !c.idle() {
		t.Errorf("got %+v", c)
	}
}

// TestUncounted: what was made without a configuration counts nothing, and is not in the way.
func TestUncounted(t *testing.T) {
	r := &relayed{relay: new(Relay)}
	countOneRequest(&inspection{inspect: new(Inspect)}, r)
	r.isUnsent()
	var c *routeCounts
	c.fails(upstream.Timeout)
	c.begins(appConnection)
	c.leaves(appConnection)
	c.ends(appConnection, endParked)
}

// BenchmarkCountRequest is what metrics add to a request on a connection that is kept, without
// its bytes.
func BenchmarkCountRequest(b *testing.B) {
	in, r := countedRequest()
	b.ReportAllocs()
	for b.Loop() {
		countOneRequest(in, r)
	}
}

// BenchmarkCountRequestParallel is the same on all processors, which share the numbers.
func BenchmarkCountRequestParallel(b *testing.B) {
	in, r := countedRequest()
	b.RunParallel(func(pb *testing.PB) {
		mine := &relayed{relay: r.relay}
		for pb.Next() {
			countOneRequest(in, mine)
		}
	})
}

// BenchmarkScrape is one collection with 100 routes.
func BenchmarkScrape(b *testing.B) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	registerMetrics(ctx)
	for i := range 100 {
		countsOfRoute(contextOfRoute(ctx, "route "+string(rune('A'+i)))).uses(relayRequest, relayStream)
	}
	for b.Loop() {
		if _, err := ctx.GetMetricsRegistry().Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
