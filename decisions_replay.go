package streamprox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/account"
)

// replayRequest asks which of the decisions that are kept a configuration would make
// otherwise.
type replayRequest struct {
	// The configuration, which is not loaded.
	Config json.RawMessage `json:"config"`

	// Only decisions of connections that have come in at this address. Default: all.
	Listen string `json:"listen,omitempty"`
}

// replayQuestion is what the process is asked that provisions the configuration.
type replayQuestion struct {
	Config json.RawMessage `json:"config"`
	keptDecisions
}

// maxReplayQuestion bounds, in bytes, a replayQuestion.
const maxReplayQuestion = 64 << 20

// maxReplayed bounds the decisions of one replay: those of all rings.
const maxReplayed = 4 * maxReplay

// What a decision is in the other configuration.
const (
	replaySame      = "same"
	replayRoute     = "other route" // to the same destination
	replayElsewhere = "elsewhere"
	replayUnknown   = "unknown"
)

// replayAnswer is the answer.
type replayAnswer struct {
	Decisions  int          `json:"decisions"`
	Same       int          `json:"same"`
	OtherRoute int          `json:"other_route"`
	Elsewhere  int          `json:"elsewhere"`
	Unknown    int          `json:"unknown"`
	Moves      []replayMove `json:"moves"` // what is not the same, the most frequent first
	Rows       []replayed   `json:"rows"`  // each of them, the oldest first
}

// replayMove is how many go from one place to another.
type replayMove struct {
	Answer string      `json:"answer"`
	From   replayPlace `json:"from"`
	To     replayPlace `json:"to"`
	Why    string      `json:"why,omitempty"` // it is unknown
	Count  int         `json:"count"`
}

// replayed is a decision that another configuration makes otherwise.
type replayed struct {
	ID      string      `json:"id"`
	Time    time.Time   `json:"time"`
	Listen  string      `json:"listen"`
	Client  string      `json:"client,omitempty"`
	Outcome string      `json:"outcome"`
	Method  string      `json:"method,omitempty"`
	Host    string      `json:"host,omitempty"`
	Path    string      `json:"path,omitempty"`
	Answer  string      `json:"answer"`
	From    replayPlace `json:"from"`
	To      replayPlace `json:"to"`
	Why     string      `json:"why,omitempty"`
}

// serveReplay answers POST /streamprox/replay.
func serveReplay(w http.ResponseWriter, r *http.Request) error {
	body, err := readQuestion(w, r)
	if err != nil {
		return err
	}
	question := new(replayRequest)
	if err := parseQuestion(body, question); err != nil {
		return questionError(err)
	}
	if len(question.Config) == 0 {
		return apiError(http.StatusBadRequest, errors.New("config: give the configuration to take the decisions to"))
	}
	answer, err := replayInProcess(r.Context(), question)
	if err != nil {
		return questionError(err)
	}
	return writeJSON(w, answer)
}

// replayInProcess answers a question in a process of its own.
func replayInProcess(ctx context.Context, question *replayRequest) (json.RawMessage, error) {
	kept := allKept(0)
	if question.Listen != "" {
		at, err := caddy.ParseNetworkAddress(question.Listen)
		if err != nil || at.PortRangeSize() != 1 {
			return nil, explainErrorf(http.StatusBadRequest, "listen: %q is not an address, as in :443", question.Listen)
		}
		kept.Decisions = slices.DeleteFunc(kept.Decisions, func(d *keptDecision) bool { return !d.cameInAt(at) })
	}
	if extra := len(kept.Decisions) - maxReplayed; extra > 0 {
		kept.Decisions = kept.Decisions[extra:]
	}
	raw, err := json.Marshal(replayQuestion{question.Config, *kept})
	if err != nil {
		return nil, err
	}
	return limited(explainConfigTime+time.Second, func() (json.RawMessage, error) {
		ctx, cancel := context.WithTimeout(ctx, explainConfigTime)
		defer cancel()
		return runQuestion(ctx, "replay", raw)
	})
}

// cameInAt reports whether the connection has come in at that address.
func (d *keptDecision) cameInAt(at caddy.NetworkAddress) bool {
	was, err := caddy.ParseNetworkAddress(d.Listen)
	if err != nil {
		return false
	}
	return was.String() == at.String() || was.Network == at.Network && was.StartPort == at.StartPort && (isAny(at.Host) || isAny(was.Host))
}

// answerReplay is the process that replayInProcess begins.
func answerReplay(r io.Reader, w io.Writer) error {
	return answerWith(r, w, maxReplayQuestion, func(body []byte) (any, error) {
		question := new(replayQuestion)
		if err := parseQuestion(body, question); err != nil {
			return nil, err
		}
		var answer *replayAnswer
		err := whileUnloaded(question.Config, func(ctx caddy.Context) (err error) {
			answer, err = limited(explainTime, func() (*replayAnswer, error) { return replayKept(ctx, &question.keptDecisions) })
			return err
		})
		return answer, err
	})
}

// replayKept takes the decisions to the configuration of ctx, whose apps are provisioned.
func replayKept(ctx caddy.Context, kept *keptDecisions) (*replayAnswer, error) {
	answer := &replayAnswer{Decisions: len(kept.Decisions), Moves: []replayMove{}, Rows: []replayed{}}
	memory, forget := newKeptMemory(ctx)
	defer forget()
	moves := make(map[replayMove]int)
	known := make(map[string]replayMove) // by what decides
	for _, d := range kept.Decisions {
		key := d.key()
		move, ok := known[key]
		if !ok {
			var err error
			if move, err = d.replay(memory, kept.Facts); err != nil {
				return nil, err
			}
			known[key] = move
		}
		switch move.Answer {
		case replaySame:
			answer.Same++
			continue
		case replayRoute:
			answer.OtherRoute++
		case replayElsewhere:
			answer.Elsewhere++
		default:
			answer.Unknown++
		}
		moves[move]++
		answer.Rows = append(answer.Rows, replayed{
			ID: d.ID, Time: d.At, Listen: d.Listen, Client: d.Client, Outcome: d.Outcome,
			Method: d.Method, Host: d.Host, Path: d.Target[:min(len(d.Target), maxAccountPath)],
			Answer: move.Answer, From: move.From, To: move.To, Why: move.Why,
		})
	}
	for move, count := range moves {
		move.Count = count
		answer.Moves = append(answer.Moves, move)
	}
	slices.SortFunc(answer.Moves, func(a, b replayMove) int {
		return cmp.Or(-cmp.Compare(a.Count, b.Count), strings.Compare(a.text(), b.text()))
	})
	return answer, nil
}

// key returns what tells a decision from those that go the same way.
func (d *keptDecision) key() string {
	same := *d
	same.ID, same.At = "", time.Time{}
	// Ports are looked at by no matcher that is asked.
	if host, _, ok := strings.Cut(d.Client, "]:"); ok {
		same.Client = host
	} else if host, _, ok := strings.Cut(d.Client, ":"); ok {
		same.Client = host
	}
	key, _ := json.Marshal(same)
	return string(key)
}

// replay says where the decision goes in the configuration that memory is of.
func (d *keptDecision) replay(memory *keptMemory, facts []*inspectFacts) (replayMove, error) {
	move := replayMove{From: d.To}
	explained, to, err := explainKept(memory, d.Listen, d, facts)
	var refused *explainError
	switch {
	case err != nil && to.Destination == toNoListener:
	case errors.As(err, &refused):
		move.Answer, move.To, move.Why = replayUnknown, replayPlace{Destination: toUnknown}, refused.Text
		return move, nil
	case err != nil:
		return move, err
	}
	move.To = to
	switch {
	case to.Destination == toUnknown:
		move.Answer, move.Why = replayUnknown, explained.Destination.Why
	case to == d.To:
		move.Answer = replaySame
	case to.Destination == d.To.Destination:
		move.Answer = replayRoute
	default:
		move.Answer = replayElsewhere
	}
	return move, nil
}

// explainedStream is the explanation of a request or a stream that is there.
type explainedStream struct {
	Stream *streamView `json:"stream"`

	// What is known of its head: `replay`, if the decision is kept for that, or `account`.
	From string `json:"from"`

	// What was decided, if the decision is kept.
	Decided *replayPlace `json:"decided,omitempty"`

	// What is not known of it.
	Unknown []string `json:"unknown"`

	*explanation
}

// explainStream explains a request or a stream that is there, by what is known of its head.
func explainStream(ctx caddy.Context, of account.Reading) (answer *explainedStream, err error) {
	view, id := viewOf(of), of.ID
	answer = &explainedStream{Stream: &view, From: "replay", Unknown: []string{}}
	kept := allKept(id)
	if len(kept.Decisions) > 0 {
		answer.Decided = &kept.Decisions[0].To
	} else {
		answer.From = "account"
		kept.Decisions = []*keptDecision{view.kept()}
	}
	d := kept.Decisions[0]
	if d.Outcome == "" {
		return nil, explainErrorf(http.StatusConflict, "no inspect has decided about this stream")
	}
	switch {
	case d.Method == "":
		answer.Unknown = append(answer.Unknown, "the bytes")
	case d.Cut:
		answer.Unknown = append(answer.Unknown, "the query", "the fields")
	default:
		answer.Unknown = append(answer.Unknown, "the values of the fields")
		if d.Query {
			answer.Unknown = append(answer.Unknown, "the query")
		}
	}
	answer.explanation, err = limited(explainTime, func() (*explanation, error) {
		memory, forget := newKeptMemory(ctx)
		defer forget()
		explained, _, err := explainKept(memory, d.Listen, d, kept.Facts)
		return explained, err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// kept returns what is known of the head of a request or a stream from its account.
func (v *streamView) kept() *keptDecision {
	d := &keptDecision{
		ID: v.ID, At: v.Started, Listen: v.Local, Local: v.Local, Outcome: v.Outcome,
		Method: v.Method, Target: v.Path, Host: v.Host, Minor: 1, Cut: true, Query: true, AnyTLS: true, Facts: -1,
	}
	if _, _, err := splitAddress(v.Client); err == nil {
		d.Client = v.Client
	}
	if v.Proto == "HTTP/1.0" {
		d.Minor = 0
	}
	d.Head = v.Method != "" && len(v.Method) < maxAccountMethod && len(v.Host) < maxAccountHost && len(v.Path) < maxAccountPath
	return d
}

// splitAddress returns host and port of an address.
func splitAddress(address string) (host string, port uint64, err error) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return "", 0, errors.New("no port")
	}
	port, err = strconv.ParseUint(address[i+1:], 10, 16)
	return address[:i], port, err
}

// text returns the answer for people.
func (a *replayAnswer) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d as before, %d by another route to the same destination, %d elsewhere, %d unknown\n",
		plural(a.Decisions, "decision"), a.Same, a.OtherRoute, a.Elsewhere, a.Unknown)
	if len(a.Moves) == 0 {
		return b.String()
	}
	b.WriteByte('\n')
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COUNT\tFROM\tTO")
	for _, m := range a.Moves {
		fmt.Fprintf(w, "%d\t%s\n", m.Count, m.text())
	}
	_ = w.Flush()
	b.WriteByte('\n')
	w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "REQUEST\tFROM\tTO")
	const shown = 20
	for i, r := range a.Rows {
		if i == shown {
			break
		}
		request := r.Outcome
		if r.Method != "" {
			request = printable(r.Method + " " + r.Host + r.Path)
		}
		fmt.Fprintf(w, "%s\t%s\n", request, replayMove{From: r.From, To: r.To, Why: r.Why}.text())
	}
	_ = w.Flush()
	if more := len(a.Rows) - shown; more > 0 {
		fmt.Fprintf(&b, "and %d more: --json has all\n", more)
	}
	return b.String()
}

// text returns the two places, with a tab between.
func (m replayMove) text() string {
	return m.From.text() + "\t" + m.To.text() + printable(because(m.Why))
}

func (p replayPlace) text() string {
	if p.Route == "" {
		return printable(p.Destination)
	}
	return printable(fmt.Sprintf("%s: %s", p.Route, p.Destination))
}
