package main

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the processes that the tests start be what the command would start.
func TestMain(m *testing.M) {
	if runRole() {
		return
	}
	os.Exit(m.Run())
}

// tiny is enough to see that everything is measured, and says nothing of speed.
var tiny = scale{
	rounds: 2, memoryRounds: 1,
	streams: []int{20}, crowds: []int{20}, parallel: 2, bytes: 1 << 20, file: 512 << 10,
	connections: 4, duration: patience, count: 40, settle: 100 * time.Millisecond, rest: 100 * time.Millisecond,
}

// mayBeZero are columns of what may be nothing, or less: a process may hold less memory than
// before, and no goroutines. That connections are kept shows as a zero, too.
var mayBeZero = []string{colMemory, colFDs, colGoroutines, colKept, colOpened}

// Each measure gets from each contender all bytes and a number for each cell, and nothing
// that was started is left.
func TestMeasures(t *testing.T) {
	b, err := newBench(t.Context(), tiny, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.close()
		if _, err := os.Stat(b.dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", b.dir, err)
		}
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("a child is left: %d, %v", pid, err)
		}
	})
	var all []measured
	missing := false
	for _, m := range measures(tiny) {
		t.Run(m.title(), func(t *testing.T) {
			done, err := b.take(m)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, done)
			if len(done.Missing) > 0 {
				missing = true
				if os.Getenv("STREAMPROX_E2E") != "" {
					t.Errorf("not installed: %v", done.Missing)
				}
			}
			if got, want := len(done.Rows)+len(done.Missing), len(m.contenders); got != want {
				t.Errorf("%d contenders, want %d", got, want)
			}
			rounds := tiny.rounds
			if m.fresh {
				rounds = tiny.memoryRounds
			}
			for _, r := range done.Rows {
				for i, c := range m.columns {
					if got := len(r.Samples[i]); got != rounds {
						t.Errorf("%s, %s: %d samples, want %d", r.Contender, c.name, got, rounds)
					}
					v := r.Median[i]
					if math.IsNaN(v) || math.IsInf(v, 0) || v <= 0 && !slices.Contains(mayBeZero, c.name) {
						t.Errorf("%s, %s: %v", r.Contender, c.name, v)
					}
				}
			}
			checkKept(t, m, done.Rows)
		})
	}
	if t.Failed() {
		return
	}
	list := judge(tiny, all)
	if got, want := len(list), len(goals(tiny)); got != want && !missing {
		t.Errorf("%d goals were judged, want %d: one names what is not measured", got, want)
	}
	if _, err := json.Marshal(report{machine(b), all, list}); err != nil {
		t.Errorf("the report as JSON: %v", err)
	}
}

// checkKept checks what shows whether connections are kept: the column that says how many
// are, or else descriptors, and connections that were opened.
func checkKept(t *testing.T, m measure, rows []row) {
	t.Helper()
	for i, r := range rows {
		c := m.contenders[slices.IndexFunc(m.contenders, func(c contender) bool { return c.name == r.Contender })]
		column := func(name string) (float64, bool) {
			return value([]measured{{measure: m, Table: m.table, Measure: m.name, Rows: rows[i : i+1]}},
				goal{table: m.table, measure: m.name, column: name}, c.name)
		}
		if kept, ok := column(colKept); ok {
			want := 1.
			if c.once {
				want = 0
			}
			if kept != want {
				t.Errorf("%s: %v of the connections are still open, want %v", c.name, kept, want)
			}
		} else if descriptors, ok := column(colFDs); ok && descriptors < .9 {
			t.Errorf("%s: %v descriptors for each connection", c.name, descriptors)
		}
		if opened, ok := column(colOpened); ok && (c.once && opened < .9 || !c.once && opened > 0) {
			t.Errorf("%s: %v connections for each request", c.name, opened)
		}
	}
}

// What is interrupted ends, and leaves nothing.
func TestInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	b, err := newBench(ctx, tiny, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.start(relays[0])
	if err != nil {
		b.close()
		t.Fatal(err)
	}
	clients, _, err := startLoad(ctx, job{Kind: jobHold, Address: r.streams, Request: stream("echo"), Connections: 5})
	if err != nil {
		t.Error(err)
	} else {
		defer clients.close()
	}
	interrupt()
	<-r.done
	if _, err := b.measureAll(kinds, func(measured) {}); err == nil || err.Error() != "interrupted" {
		t.Errorf("measuring ended with %v", err)
	}
	b.close()
	if _, err := os.Stat(b.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", b.dir, err)
	}
}

// With a program end its workers.
func TestWorkers(t *testing.T) {
	b, err := newBench(t.Context(), tiny, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	there, missing := split(proxies)
	if len(missing) > 0 {
		t.Skipf("not installed: %v", missing)
	}
	for _, c := range there {
		r, err := b.start(c)
		if err != nil {
			t.Fatal(err)
		}
		r.stop()
		if len(r.pids) != 1+c.workers {
			t.Errorf("%s: %d processes, want %d", c.name, len(r.pids), 1+c.workers)
		}
		for _, pid := range r.pids {
			if err := unix.Kill(pid, 0); err != unix.ESRCH {
				t.Errorf("%s: process %d is left: %v", c.name, pid, err)
			}
		}
	}
}

func TestArguments(t *testing.T) {
	for _, test := range []struct {
		name, args, want string
	}{
		{"unknown kind", "-only memory,speed", `-only: unknown "speed"`},
		{"extra argument", "memory", `unexpected argument "memory"`},
		{"unknown flag", "-all", "flag provided but not defined: -all"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := command(t.Context(), strings.Fields(test.args), io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// example is a measure of two contenders, with a third that is not installed.
func example() measured {
	m := measure{
		table: tableRelay, name: kept, note: "What it is.",
		columns: []column{{colRate, "%.0f", relayPin}, {colP99, "%.0f", ""}},
	}
	return measured{
		measure: m, Table: m.table, Measure: m.name, Missing: []string{haproxySplice},
		Rows: []row{
			newRow(relayPin, 2, [][]float64{{100, 9}, {300, 11}, {200, 10}}),
			newRow(haproxyCopy, 2, [][]float64{{500, 5}, {300, 15}}),
		},
	}
}

func TestPrint(t *testing.T) {
	const want = `
### relay: requests on kept connections

What it is.
Ratios are of "streamprox inspect, relay reuse pin" to the row.

| contender                           | per second | ratio | p99 µs |
| ---                                 | ---:       | ---:  | ---:   |
| streamprox inspect, relay reuse pin | 200        | 1.00  | 10     |
| HAProxy                             | 400        | 0.50  | 10     |
| HAProxy splice-auto (not installed) |            |       |        |

### Goals

| measure     | column     | contender | goal           | got  | met |
| ---         | ---        | ---       | ---            | ---: | --- |
| relay: a    | KiB        | b         | at most 1.5    | 1.25 | yes |
| hand-off: a | per second | b         | at least 1 × c | 0.5  | NO  |
`
	var out strings.Builder
	printMeasured(&out, example())
	printGoals(&out, []judged{
		{"relay: a", "KiB", "b", "at most 1.5", 1.25, true},
		{"hand-off: a", "per second", "b", "at least 1 × c", .5, false},
	})
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestJudge(t *testing.T) {
	got := judge(full, []measured{example()})
	want := []judged{
		{"relay: " + kept, colRate, relayPin, "at least 1 × HAProxy", .5, false},
		{"relay: " + kept, colP99, relayPin, "at most 1 × HAProxy", 1, true},
	}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got[i], want[i])
		}
	}
}
