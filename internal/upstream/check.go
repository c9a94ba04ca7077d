package upstream

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// HealthChecks are active: each server is dialled at an interval, whether it has streams or
// not.
type HealthChecks struct {
	HTTP         *HTTPCheck    // nil: to connect, without TLS, is all there is to a check
	Port         int           // 0: that of the server
	Interval     time.Duration // from the beginning of a check to that of the next
	Timeout      time.Duration // of one check
	Rise, Fall   int           // as many checks in a row that pass or fail make a server up or down; at least 1
	CloseStreams bool          // of a server that goes down
}

// HealthCheck is what became of an active check.
type HealthCheck struct {
	Server  *Server
	Check   string // its kind: connect, or the request, as in GET /primary
	Host    string // whom it asked: host:port, localhost for a Unix socket
	Err     error  // nil: it has passed
	Changed bool   // the server has gone up, or down, by it
	Closed  int    // the streams that end because it has gone down
}

// startChecks begins the active checks. A server whose address depends on the client is not
// checked: there is no address to check.
func (p *Pool) startChecks(ctx context.Context) {
	if p.options.HealthChecks == nil {
		return
	}
	ctx, p.endChecks = context.WithCancel(ctx)
	for _, s := range p.servers {
		if s.perClient {
			continue
		}
		s.verdict.watch()
		p.checks.Go(func() { p.check(ctx, s) })
	}
}

// stopChecks ends what startChecks began, and waits for it.
func (p *Pool) stopChecks() {
	if p.endChecks == nil {
		return
	}
	p.endChecks()
	p.checks.Wait()
}

// check is the goroutine of the active checks of a server. It ends with ctx.
func (p *Pool) check(ctx context.Context, s *Server) {
	defer s.verdict.unwatch()
	ticker := time.NewTicker(p.options.HealthChecks.Interval)
	defer ticker.Stop()
	for {
		p.checkOnce(ctx, s)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// checkOnce checks a server, and takes note of the result.
func (p *Pool) checkOnce(ctx context.Context, s *Server) {
	err := p.probe(ctx, s)
	if ctx.Err() != nil || errors.Is(err, descriptors.ErrScarce) {
		return // it says nothing of the server
	}
	result := HealthCheck{Server: s, Check: s.checkName(), Host: s.checkTarget(p.options.HealthChecks.Port).checkedHost(), Err: err}
	result.Changed = s.verdict.record(err == nil, p.options.HealthChecks.Rise, p.options.HealthChecks.Fall)
	if result.Changed && err != nil {
		result.Closed = s.verdict.streams.Kill()
	}
	if p.options.Checked != nil {
		p.options.Checked(result)
	}
}

// probe checks the server.
func (p *Pool) probe(ctx context.Context, s *Server) error {
	ctx, cancel := context.WithTimeout(ctx, p.options.HealthChecks.Timeout)
	defer cancel()
	if s.check != nil {
		return s.check.probe(ctx)
	}
	conn, err := s.connect(ctx, s.checkTarget(p.options.HealthChecks.Port))
	if err != nil {
		return err
	}
	_ = conn.Close()
	return nil
}

// setVerdict opens the verdict of the active checks of the server, if there are any.
func (s *Server) setVerdict(options *Options) {
	if options.HealthChecks == nil {
		return
	}
	s.verdict = &s.peer.verdict
	if s.check != nil {
		s.verdict = s.peer.openVerdict(s.check.asked, s.check.name)
	}
	if options.HealthChecks.CloseStreams {
		s.group = &s.verdict.streams
	}
}

// down reports whether active checks find the server down: its own, or those of anybody that
// only connect.
func (s *Server) down() bool {
	return s.peer.down.Load() || s.verdict != nil && s.verdict.down.Load()
}

// checkTarget returns where the server is checked, if not on its own port: 0.
func (s *Server) checkTarget(port int) target {
	to := s.fixed
	if port != 0 && to.port != "" {
		to.port = strconv.Itoa(port)
	}
	return to
}

// checkedHost returns the target as reverse_proxy calls a host that it has checked.
func (to target) checkedHost() string {
	if to.port == "" {
		return "localhost"
	}
	return to.address()
}

// checkName returns the kind of the active checks of the server.
func (s *Server) checkName() string {
	if s.check != nil {
		return s.check.name
	}
	return connects
}
