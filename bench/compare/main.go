// Command compare measures streamprox beside its peers and prints tables with ratios.
//
//	go run -C bench ./compare                      # everything, about 20 minutes
//	go run -C bench ./compare -short -only memory  # one kind of measure, smaller
//
// Each contender is a process of its own, and so are the servers behind them and the
// clients. Those that are Caddy run in the same binary, which is this one. Linux only.
//
// What the tables mean is in docs/performance.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// kinds are what -only can name.
var kinds = []string{"memory", "cpu", "rates", "echo", "websockets", "routed", "crowd", "quiet", "kept", "accounts"}

func main() {
	if runRole() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// command parses the arguments, measures, and prints to out. A goal that is missed is no
// error.
func command(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	only := flags.String("only", "", "measure only these, a comma list of "+strings.Join(kinds, ", "))
	short := flags.Bool("short", false, "less of everything, about 5 minutes: the noise is larger")
	rounds := flags.Int("rounds", 0, "rounds, of which the median is shown (default 5, of what is idle 2)")
	jsonFile := flags.String("json", "", "write every sample to this `file`")
	profiles := flags.String("profile", "",
		"write profiles of each Caddy to this `directory`: of its heap with the streams that are idle, and of its\n"+
			"processor time while it is loaded once more, after the other measures")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	s := full
	if *short {
		s = smaller
	}
	if *rounds > 0 {
		s.rounds, s.memoryRounds = *rounds, *rounds
	}
	wanted := kinds
	if *only != "" {
		wanted = strings.Split(*only, ",")
	}
	for _, kind := range wanted {
		if !slices.Contains(kinds, kind) {
			return fmt.Errorf("-only: unknown %q, there is %s", kind, strings.Join(kinds, ", "))
		}
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *profiles != "" {
		if err := os.MkdirAll(*profiles, 0o755); err != nil {
			return err
		}
	}

	began := time.Now()
	b, err := newBench(ctx, s, os.Stderr)
	if err != nil {
		return err
	}
	defer b.close()
	b.profiles = *profiles

	printMachine(out, b)
	r, err := b.measureAll(wanted, func(m measured) { printMeasured(out, m) })
	if err != nil {
		return err
	}
	r.Goals = judge(b.scale, r.Measured)
	printGoals(out, r.Goals)
	fmt.Fprintf(out, "\n%s; load average at the end %s.\n", time.Since(began).Round(time.Second), loadAverage())
	if *jsonFile == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(*jsonFile, append(text, '\n'), 0o644)
}
