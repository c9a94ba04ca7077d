package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// report is a run, as -json writes it.
type report struct {
	Machine  []string
	Measured []measured
	Goals    []judged
}

// measured is a measure that has been taken.
type measured struct {
	measure
	Table   string
	Measure string
	Columns []string
	Rows    []row
	Missing []string // contenders that are not installed
}

// row is what was measured of one contender.
type row struct {
	Contender string
	Median    []float64   // for each column
	Samples   [][]float64 // for each column, one of each round
}

// newRow returns the row of rounds of samples, each with a value for each column.
func newRow(contender string, columns int, rounds [][]float64) row {
	r := row{Contender: contender}
	for i := range columns {
		var samples []float64
		for _, values := range rounds {
			samples = append(samples, values[i])
		}
		r.Samples = append(r.Samples, samples)
		r.Median = append(r.Median, median(samples))
	}
	return r
}

// median returns the middle of the samples, or the mean of the two in the middle.
func median(samples []float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// printMeasured prints a measure. Beside each number with a contender to compare it with
// is that contender's number divided by this one.
func printMeasured(out io.Writer, m measured) {
	fmt.Fprintf(out, "\n### %s\n\n%s\n", m.title(), m.note)
	for _, c := range m.columns {
		if c.against != "" {
			fmt.Fprintf(out, "Ratios are of %q to the row.\n", c.against)
			break
		}
	}
	fmt.Fprintln(out)
	heads, rule := []string{"contender"}, []string{"---"}
	for _, c := range m.columns {
		heads, rule = append(heads, c.name), append(rule, "---:")
		if c.against != "" {
			heads, rule = append(heads, "ratio"), append(rule, "---:")
		}
	}
	lines := [][]string{heads, rule}
	for _, r := range m.Rows {
		cells := []string{r.Contender}
		for i, c := range m.columns {
			cells = append(cells, fmt.Sprintf(c.format, r.Median[i]))
			if c.against != "" {
				cells = append(cells, ratio(m.Rows, i, c.against, r.Median[i]))
			}
		}
		lines = append(lines, cells)
	}
	for _, name := range m.Missing {
		lines = append(lines, []string{name + " (not installed)"})
	}
	printTable(out, lines)
}

// ratio returns the number of the contender that is compared, divided by another.
func ratio(rows []row, i int, against string, other float64) string {
	for _, r := range rows {
		if r.Contender == against && other != 0 {
			return fmt.Sprintf("%.2f", r.Median[i]/other)
		}
	}
	return ""
}

// printGoals prints which goals were met.
func printGoals(out io.Writer, list []judged) {
	if len(list) == 0 {
		return
	}
	fmt.Fprint(out, "\n### Goals\n\n")
	lines := [][]string{
		{"measure", "column", "contender", "goal", "got", "met"},
		{"---", "---", "---", "---", "---:", "---"},
	}
	for _, j := range list {
		met := "yes"
		if !j.Met {
			met = "NO"
		}
		lines = append(lines, []string{j.Measure, j.Column, j.Contender, j.Goal, fmt.Sprintf("%.3g", j.Got), met})
	}
	printTable(out, lines)
}

// printTable prints lines of cells as an aligned Markdown table. Short lines are filled up.
func printTable(out io.Writer, lines [][]string) {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	for _, cells := range lines {
		for len(cells) < len(lines[0]) {
			cells = append(cells, "")
		}
		fmt.Fprintf(w, "| %s\t|\n", strings.Join(cells, "\t| "))
	}
	w.Flush()
}

// printMachine prints what the numbers depend on.
func printMachine(out io.Writer, b *bench) {
	fmt.Fprintln(out, strings.Join(machine(b), "\n"))
}

// machine describes what the numbers depend on, in lines.
func machine(b *bench) []string {
	var name unix.Utsname
	kernel := "unknown"
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return []string{
		fmt.Sprintf("%s, %d cores, Linux %s, load average at the start %s",
			time.Now().Format("2006-01-02 15:04"), runtime.NumCPU(), kernel, loadAverage()),
		fmt.Sprintf("%s, caddy %s, caddy-l4 %s, %s, %s", runtime.Version(),
			version("github.com/caddyserver/caddy/v2"), version("github.com/mholt/caddy-l4"),
			firstLine("haproxy", "-v"), firstLine("nginx", "-v")),
		"nginx stream is left out: it is a module that nginx-light does not have.",
		"Requests behind the relays are answered by " + b.requestServer + ".",
	}
}

// loadAverage returns how many threads were runnable in the last 1, 5 and 15 minutes.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 3 {
		return "unknown"
	}
	return strings.Join(fields[:3], " ")
}

// version returns the version of a module in this binary.
func version(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "of unknown version"
}

// firstLine returns the first line that a command prints.
func firstLine(name string, args ...string) string {
	text, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "no " + name
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line, _, _ = strings.Cut(line, " - ")
	return line
}

// fileName makes a file's name of a title.
func fileName(title string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == ':' || r == ',' || r == '\'' {
			return '-'
		}
		return r
	}, title)
}
