package streamprox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// The commands that show and steer the streams of a running Caddy. Each asks its admin API.

// streamList is an answer of GET /streamprox/streams. Each stream stays as it was sent, so
// that JSON is printed with all that it holds.
type streamList struct {
	Total   int               `json:"total"`
	Streams []json.RawMessage `json:"streams"`
	Next    string            `json:"next,omitempty"`
}

// filterFlags are the flags that choose streams; the parameters of the admin API have the
// same names.
var filterFlags = []struct{ name, usage string }{
	{"route", "Only streams of that route"},
	{"host", "Only streams with that host"},
	{"upstream", "Only streams to that upstream"},
	{"client", "Only streams from that address, or that range as in 192.0.2.0/24"},
	{"destination", "Only streams to that destination: relay, http_app, http_respond, inspect"},
	{"state", "Only streams in that state: dialing, open; or connections between two requests: waiting, of relay; parked, of http_app"},
	{"older", "Only streams that are older, as in 10m"},
}

// maxPages bounds how often a list is gone on with.
const maxPages = 10000

// streamsCommands returns the commands of this file, and that of the page.
func streamsCommands() []*cobra.Command {
	return []*cobra.Command{streamsCommand(), killCommand(), upstreamsCommand(), drainCommand(true), drainCommand(false), statsCommand(), uiCommand()}
}

// withClient returns what runs a command that asks the admin API until it is interrupted.
func withClient(run func(ctx context.Context, command *cobra.Command, client *adminClient, args []string) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		command.SilenceUsage = true // which does not help with what follows
		client, err := adminClientOf(command)
		if err != nil {
			return err
		}
		defer client.close()
		ctx, stop := signal.NotifyContext(command.Context(), os.Interrupt)
		defer stop()
		return run(ctx, command, client, args)
	}
}

// filters returns the parameters for the flags that are given.
func filters(command *cobra.Command) url.Values {
	values := make(url.Values)
	for _, f := range filterFlags {
		if value := command.Flag(f.name).Value.String(); value != "" {
			values.Set(f.name, value)
		}
	}
	return values
}

func addFilterFlags(command *cobra.Command) {
	for _, f := range filterFlags {
		command.Flags().String(f.name, "", f.usage)
	}
}

// streamsCommand returns the command `caddy streamprox streams`.
func streamsCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "streams",
		Short: "Lists the streams of a running Caddy",
		Long: `
Lists the streams of a running Caddy, the youngest first: each request until its response is
delivered, and each stream until it ends. A connection that waits for its next request is not
listed; stats counts those, and --state waiting or --state parked lists them. What a client has sent is shown with its control characters escaped.

--watch draws the list again every second, as many streams as the terminal has lines.`,
		Example: `  caddy streamprox streams --route chat --older 10m --sort -rate
  caddy streamprox streams --upstream 10.0.0.5:9000 --watch`,
		Args: cobra.NoArgs,
		RunE: withClient(runStreams),
	}
	addFilterFlags(command)
	command.Flags().String("sort", "age", "age, bytes or rate; with a - before it the largest first")
	command.Flags().Int("limit", 100, "How many streams to show; 0 shows all")
	command.Flags().Bool("json", false, "Print JSON")
	command.Flags().Bool("watch", false, "Draw again every second until Ctrl-C")
	addAdminFlags(command)
	return command
}

func runStreams(ctx context.Context, command *cobra.Command, client *adminClient, _ []string) error {
	limit, err := command.Flags().GetInt("limit")
	if err != nil {
		return err
	}
	if limit < 0 {
		return errors.New("--limit: not below 0")
	}
	query := filters(command)
	query.Set("sort", command.Flag("sort").Value.String())
	asJSON, _ := command.Flags().GetBool("json")
	out := command.OutOrStdout()
	if watch, _ := command.Flags().GetBool("watch"); watch {
		if asJSON {
			return errors.New("--watch draws a table: leave --json out")
		}
		file, ok := out.(*os.File)
		if !ok || !term.IsTerminal(int(file.Fd())) {
			return errors.New("--watch: the standard output is not a terminal")
		}
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		size := func() (int, int, error) { return term.GetSize(int(file.Fd())) }
		return watchStreams(ctx, client, query, limit, out, size, ticker.C)
	}
	list, err := client.streams(ctx, query, limit)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, list)
	}
	text, err := list.text()
	if err != nil {
		return err
	}
	if list.Total > len(list.Streams) {
		text = strings.TrimSuffix(text, "\n") + "; --limit shows more\n"
	}
	_, err = io.WriteString(out, text)
	return err
}

// streams lists streams, at most limit, unless that is 0.
func (c *adminClient) streams(ctx context.Context, query url.Values, limit int) (*streamList, error) {
	query = maps.Clone(query)
	list := &streamList{Streams: []json.RawMessage{}}
	for range maxPages {
		size := maxStreams
		if limit > 0 {
			size = min(limit-len(list.Streams), maxStreams)
		}
		query.Set("limit", strconv.Itoa(size))
		page := new(streamList)
		if err := c.ask(ctx, http.MethodGet, "/streamprox/streams?"+query.Encode(), nil, page); err != nil {
			return nil, err
		}
		list.Total, list.Next = page.Total, page.Next
		list.Streams = append(list.Streams, page.Streams...)
		if page.Next == "" || limit > 0 && len(list.Streams) >= limit {
			break
		}
		query.Set("after", page.Next)
	}
	return list, nil
}

// text returns the list as a table and a line about what it leaves out. The request comes
// last: only there is what a client has chosen, of any length.
func (l *streamList) text() (string, error) {
	if len(l.Streams) == 0 {
		return "no streams\n", nil
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tAGE\tCLIENT\tROUTE\tTO\tUPSTREAM\tSTATE\t     BYTES\t        RATE\tREQUEST")
	for _, raw := range l.Streams {
		var s streamView
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", fmt.Errorf("a stream of the answer: %w", err)
		}
		state := s.State
		if s.Status != 0 {
			state += " " + strconv.Itoa(s.Status)
		}
		cells := []string{
			s.ID, shortAge(s.Age), s.Client, s.Route, s.Destination, s.Upstream, state,
			fmt.Sprintf("%10s", humanize.IBytes(uint64(max(s.BytesUp+s.BytesDown, 0)))), fmt.Sprintf("%12s", humanize.IBytes(uint64(max(s.Rate, 0)))+"/s"),
			s.request(),
		}
		for i, cell := range cells {
			cells[i] = cmp.Or(printable(cell), "-")
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	table.Flush()
	if left := l.Total - len(l.Streams); left > 0 {
		fmt.Fprintf(&b, "%d of %d streams\n", len(l.Streams), l.Total)
	} else {
		fmt.Fprintln(&b, plural(len(l.Streams), "stream"))
	}
	return b.String(), nil
}

// request returns what a stream was asked for, or what it was taken for.
func (s *streamView) request() string {
	if s.Method == "" {
		return s.Outcome
	}
	return s.Method + " " + s.Host + s.Path
}

const (
	otherScreen = "\x1b[?1049h\x1b[?25l" // a screen of its own, without a cursor
	firstScreen = "\x1b[?25h\x1b[?1049l"
	toTheTop    = "\x1b[H"
	restOfLine  = "\x1b[K"
	restOfAll   = "\x1b[J"
)

// watchStreams draws the list at each tick until ctx ends. A Caddy that has answered once may
// be away for a while: a restart must not end what somebody looks at.
func watchStreams(ctx context.Context, client *adminClient, query url.Values, limit int, out io.Writer, size func() (width, height int, err error), tick <-chan time.Time) error {
	begun := false
	defer func() {
		if begun {
			_, _ = io.WriteString(out, firstScreen)
		}
	}()
	for {
		width, height, err := size()
		if err != nil {
			return fmt.Errorf("the size of the terminal: %w", err)
		}
		fits := max(height-2, 1) // below the names, above the last line
		if limit > 0 {
			fits = min(fits, limit)
		}
		list, err := client.streams(ctx, query, fits)
		text := ""
		if err == nil {
			text, err = list.text()
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !begun:
			return err
		case err != nil:
			text = err.Error()
		case !begun:
			begun = true
			if _, err := io.WriteString(out, otherScreen); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(out, screen(text, width, height)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
		}
	}
}

// screen returns what draws the text on a terminal of that size.
func screen(text string, width, height int) string {
	var b strings.Builder
	b.WriteString(toTheTop)
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if i == height {
			break
		}
		if i > 0 {
			b.WriteString("\r\n")
		}
		if runes := []rune(line); len(runes) > width {
			line = string(runes[:width])
		}
		b.WriteString(line + restOfLine)
	}
	return b.String() + restOfAll
}

// killCommand returns the command `caddy streamprox kill`.
func killCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "kill {<id>... | --route <name> ... [--over <duration>]}",
		Short: "Ends streams of a running Caddy",
		Long: `
Ends streams: those with the ids, or all that the filters choose. Several filters choose the
streams that pass each of them. With --over the ends are spread over that time, so that the
clients do not come back all at once; the command does not wait for that.`,
		Example: `  caddy streamprox kill 7f3a9c0000000012
  caddy streamprox kill --route chat --older 1h --over 30s`,
		RunE: withClient(runKill),
	}
	addFilterFlags(command)
	command.Flags().Bool("all", false, "All streams")
	command.Flags().String("over", "", "Spread the ends over that time, as in 30s")
	addAdminFlags(command)
	return command
}

func runKill(ctx context.Context, command *cobra.Command, client *adminClient, ids []string) error {
	query, out := filters(command), command.OutOrStdout()
	over := command.Flag("over").Value.String()
	if all, _ := command.Flags().GetBool("all"); all {
		query.Set("all", "true")
	}
	switch {
	case len(ids) > 0 && len(query) > 0:
		return errors.New("give ids or filters, not both")
	case len(ids) > 0 && over != "":
		return errors.New("--over spreads what filters choose; ids end at once")
	case len(ids) > 0:
		return killEach(ctx, client, ids, out)
	case len(query) == 0:
		return errors.New("which streams? Give ids, or a filter such as --route; --all ends all of them")
	}
	if over != "" {
		query.Set("over", over)
	}
	var done struct {
		Ended, Ending int
	}
	if err := client.ask(ctx, http.MethodDelete, "/streamprox/streams?"+query.Encode(), nil, &done); err != nil {
		return err
	}
	var err error
	if over != "" {
		_, err = fmt.Fprintf(out, "ending %s over %s\n", plural(done.Ending, "stream"), over)
	} else {
		_, err = fmt.Fprintf(out, "ended %s\n", plural(done.Ended, "stream"))
	}
	return err
}

// killEach ends the streams with these ids. One that is not there does not keep the others.
func killEach(ctx context.Context, client *adminClient, ids []string, out io.Writer) error {
	var failed []error
	for _, id := range ids {
		_, err := client.call(ctx, http.MethodDelete, "/streamprox/streams/"+url.PathEscape(id), nil)
		var said *adminError
		switch {
		case errors.As(err, &said):
			failed = append(failed, fmt.Errorf("%s: %w", printable(id), err))
		case err != nil:
			return errors.Join(append(failed, err)...)
		default:
			if _, err := fmt.Fprintf(out, "ended %s\n", printable(id)); err != nil {
				return err
			}
		}
	}
	return errors.Join(failed...)
}

// upstreamsCommand returns the command `caddy streamprox upstreams`.
func upstreamsCommand() *cobra.Command {
	command := &cobra.Command{
		Use:     "upstreams",
		Short:   "Lists the upstreams of a running Caddy",
		Long:    "\nLists the upstreams of relay: whether they are healthy, ejected, drained, and how many streams they have.",
		Example: "  caddy streamprox upstreams",
		Args:    cobra.NoArgs,
		RunE:    withClient(runUpstreams),
	}
	command.Flags().Bool("json", false, "Print JSON")
	addAdminFlags(command)
	return command
}

func runUpstreams(ctx context.Context, command *cobra.Command, client *adminClient, _ []string) error {
	var list []json.RawMessage
	if err := client.ask(ctx, http.MethodGet, "/streamprox/upstreams", nil, &list); err != nil {
		return err
	}
	out := command.OutOrStdout()
	if asJSON, _ := command.Flags().GetBool("json"); asJSON {
		return printJSON(out, list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "no upstreams")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "UPSTREAM\tHEALTH\tDRAIN\tSTREAMS\tMAX\tFAILS")
	for _, raw := range list {
		var u upstream.Peer
		if err := json.Unmarshal(raw, &u); err != nil {
			return fmt.Errorf("an upstream of the answer: %w", err)
		}
		health, drain, most := "healthy", "-", "-"
		switch {
		case !u.Healthy:
			health = "down"
		case u.Ejected:
			health = "ejected"
		}
		if u.Draining {
			drain = "draining"
		}
		if u.MaxConnections > 0 {
			most = strconv.Itoa(u.MaxConnections)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%7d\t%s\t%5d\n", printable(u.Address), health, drain, u.Streams, most, u.Fails)
	}
	return table.Flush()
}

// drainCommand returns the command `caddy streamprox drain`, or undrain.
func drainCommand(drain bool) *cobra.Command {
	command := &cobra.Command{
		Use:     "undrain <upstream>",
		Short:   "Sends new streams to an upstream again",
		Long:    "\nTakes back what drain did: new streams go to the upstream again.",
		Example: "  caddy streamprox undrain 10.0.0.5:9000",
		Args:    cobra.ExactArgs(1),
		RunE: withClient(func(ctx context.Context, command *cobra.Command, client *adminClient, args []string) error {
			return runDrain(ctx, command, client, args[0], drain)
		}),
	}
	if drain {
		command.Use = "drain <upstream>"
		command.Short = "Sends no new streams to an upstream"
		command.Long = `
Sends no new streams to an upstream. Those that it has go on; "kill --upstream" ends them. The address is written as in "upstreams".`
		command.Example = "  caddy streamprox drain 10.0.0.5:9000"
	}
	addAdminFlags(command)
	return command
}

func runDrain(ctx context.Context, command *cobra.Command, client *adminClient, address string, drain bool) error {
	action := "/undrain"
	if drain {
		action = "/drain"
	}
	path := "/streamprox/upstreams/" + url.PathEscape(address) + action
	var u upstream.Peer
	if err := client.ask(ctx, http.MethodPost, path, []byte("{}"), &u); err != nil {
		return err
	}
	state := "takes new streams"
	if u.Draining {
		state = "draining"
	}
	_, err := fmt.Fprintf(command.OutOrStdout(), "%s: %s; it has %s\n", printable(u.Address), state, plural(int(u.Streams), "stream"))
	return err
}

// statsCommand returns the command `caddy streamprox stats`.
func statsCommand() *cobra.Command {
	command := &cobra.Command{
		Use:     "stats",
		Short:   "Prints the totals of a running Caddy",
		Long:    "\nPrints how many streams there are by destination, and what ended them, with the bytes and requests so far.",
		Example: "  caddy streamprox stats",
		Args:    cobra.NoArgs,
		RunE:    withClient(runStats),
	}
	command.Flags().Bool("json", false, "Print JSON")
	addAdminFlags(command)
	return command
}

func runStats(ctx context.Context, command *cobra.Command, client *adminClient, _ []string) error {
	answer, err := client.call(ctx, http.MethodGet, "/streamprox/stats", nil)
	if err != nil {
		return err
	}
	out := command.OutOrStdout()
	if asJSON, _ := command.Flags().GetBool("json"); asJSON {
		return printJSON(out, json.RawMessage(answer))
	}
	var s streamStats
	if err := json.Unmarshal(answer, &s); err != nil {
		return fmt.Errorf("the answer of the admin API at %s: %w", client.address, err)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "since\t%s\n", s.Since.Format(time.RFC3339))
	fmt.Fprintf(table, "streams\t%s\n", counts(s.Streams))
	fmt.Fprintf(table, "waiting\t%d\n", s.Waiting)
	fmt.Fprintf(table, "parked\t%d\n", s.Parked)
	fmt.Fprintf(table, "requests\t%d\n", s.Requests)
	fmt.Fprintf(table, "bytes up\t%s\n", humanize.IBytes(uint64(max(s.BytesUp, 0))))
	fmt.Fprintf(table, "bytes down\t%s\n", humanize.IBytes(uint64(max(s.BytesDown, 0))))
	fmt.Fprintf(table, "ended\t%s\n", counts(s.Ended))
	return table.Flush()
}

// counts returns numbers by name, the largest first.
func counts(of map[string]int64) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", printable(name), of[name])
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}

// plural returns a number of things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// shortAge returns seconds in two units at most.
func shortAge(seconds float64) string {
	s := int64(max(seconds, 0))
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 60*60:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*60*60:
		return fmt.Sprintf("%dh%02dm", s/60/60, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/24/60/60, s/60/60%24)
}

// printable returns a text with everything escaped that could change what a terminal shows,
// as in a literal of Go. Clients choose hosts and paths, and ESC begins a command.
func printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\\':
			b.WriteString(`\\`)
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		s = s[size:]
	}
	return b.String()
}

// printJSON prints a value as JSON in which a terminal finds no control characters either:
// encoding/json lets those above ASCII through, and U+009B is ESC [ to some.
func printJSON(out io.Writer, value any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "\t")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	var safe strings.Builder
	for _, r := range b.String() {
		switch {
		case r == '\n' || r == '\t' || strconv.IsPrint(r):
			safe.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&safe, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&safe, `\u%04x`, r)
		}
	}
	_, err := io.WriteString(out, safe.String())
	return err
}
