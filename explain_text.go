package streamprox

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// text returns the explanation for people.
func (e *explanation) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, server %s of %s, %d bytes from %s", e.Listener.Address, e.Listener.Server, e.Listener.App, e.Given, e.Client)
	if e.Listener.TLS {
		b.WriteString(", inside TLS")
	}
	b.WriteByte('\n')
	for _, routes := range e.Routes {
		routes.write(&b, "")
	}
	b.WriteByte('\n')
	e.Destination.write(&b)
	if e.NeedsMore {
		b.WriteString("more bytes would decide: this is what happens if none come\n")
	}
	fmt.Fprintf(&b, "next request: %s%s\n", e.Next.Fate, because(e.Next.Why))
	// What a client has sent is quoted. The rest is from the configuration, and from modules.
	return strings.Map(func(r rune) rune {
		if r != '\n' && !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, b.String())
}

// because returns a reason as it follows what it is for.
func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func (r *explainedRoutes) write(b *strings.Builder, indent string) {
	if r.Inspection != nil {
		r.Inspection.write(b, indent)
	}
	for _, route := range r.Routes {
		route.write(b, indent)
	}
}

func (e *explainedInspection) write(b *strings.Builder, indent string) {
	fmt.Fprintf(b, "%soutcome %s", indent, e.Outcome)
	if h := e.Head; h != nil {
		fmt.Fprintf(b, ": %q %q %s, host %q", h.Method, h.Path, h.Version, h.Host)
	}
	b.WriteString(because(e.Reason))
	if e.Clause != "" {
		fmt.Fprintf(b, " (%s)", e.Clause)
	}
	b.WriteByte('\n')
}

func (r *explainedRoute) write(b *strings.Builder, indent string) {
	answer := r.Answer
	if answer == answerYes {
		answer = "taken"
	}
	fmt.Fprintf(b, "%sroute %s: %s%s\n", indent, r.Name, answer, because(r.Why))
	if answer == answerNotAsked {
		return
	}
	for i, set := range r.Sets {
		if i > 0 {
			fmt.Fprintf(b, "%s  or\n", indent)
		}
		if set.Why != "" {
			fmt.Fprintf(b, "%s  %s\n", indent, set.Why)
		}
		for _, m := range set.Matchers {
			fmt.Fprintf(b, "%s  %s: %s%s\n", indent, strings.TrimSpace(m.Name+" "+string(m.Config)), m.Answer, because(m.Error))
		}
	}
	for _, h := range r.Handlers {
		fmt.Fprintf(b, "%s  > %s%s\n", indent, h.Name, because(h.Does))
		if h.Inside != nil {
			h.Inside.write(b, indent+"    ")
		}
	}
}

func (d *explainedDestination) write(b *strings.Builder) {
	switch d.Kind {
	case toHTTPApp:
		fmt.Fprintf(b, "to the HTTP server %s, %s%s\n", d.Server, d.Listener, because(d.Why))
	case toRelay:
		to := d.Address
		if to == "" {
			to = "an upstream"
		}
		if d.TLS {
			to += " over TLS"
		}
		fmt.Fprintf(b, "to %s%s\n", to, because(d.Why))
	case toUnknown:
		fmt.Fprintf(b, "not known%s\n", because(d.Why))
	case toHandler:
		fmt.Fprintf(b, "to the handler %s%s\n", d.Handler, because(d.Why))
	case toAnswer:
		answer := "an answer"
		if d.Status != 0 {
			answer = fmt.Sprintf("%d", d.Status)
		}
		fmt.Fprintf(b, "answered with %s%s\n", answer, because(d.Why))
	default:
		fmt.Fprintf(b, "closed%s\n", because(d.Why))
	}
	if d.Policy != "" {
		fmt.Fprintf(b, "policy %s\n", d.Policy)
	}
	for _, u := range d.Upstreams {
		fmt.Fprintf(b, "  upstream %s: %s", u.Address, plural(int(u.Streams), "stream"))
		if u.Backup {
			b.WriteString(", a backup")
		}
		if u.Ejected && u.Out == "" {
			b.WriteString(", ejected")
		}
		if u.Share > 0 {
			fmt.Fprintf(b, ", at %.0f %% of its share", 100*u.Share)
		}
		switch {
		case u.Out != "":
			b.WriteString(", out: " + u.Out)
		case u.First && d.Address != "":
			b.WriteString(", tried first")
		case u.First:
			b.WriteString(", may be tried first")
		}
		b.WriteByte('\n')
	}
	if len(d.Sent) > 0 {
		fmt.Fprintf(b, "it gets %d bytes:\n", len(d.Sent))
		for line := range bytes.Lines(d.Sent) {
			fmt.Fprintf(b, "  %q\n", line)
		}
	}
}
