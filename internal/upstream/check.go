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
	Port         int           // 0: that of the server
	Interval     time.Duration // from the beginning of a check to that of the next
	Timeout      time.Duration // of one check
	Rise, Fall   int           // as many checks in a row that pass or fail make a server up or down; at least 1
	CloseStreams bool          // of a server that goes down
}

// HealthCheck is what became of an active check.
type HealthCheck struct {
	Server  *Server
	Err     error // nil: it has passed
	Changed bool  // the server has gone up, or down, by it
	Closed  int   // the streams that end because it has gone down
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
		s.peer.watch()
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
	defer s.peer.unwatch()
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
	result := HealthCheck{Server: s, Err: err}
	result.Changed = s.peer.record(err == nil, p.options.HealthChecks.Rise, p.options.HealthChecks.Fall)
	if result.Changed && err != nil {
		result.Closed = s.peer.streams.Kill()
	}
	if p.options.Checked != nil {
		p.options.Checked(result)
	}
}

// probe connects to the server, without TLS, and closes the connection.
func (p *Pool) probe(ctx context.Context, s *Server) error {
	to := s.fixed
	if p.options.HealthChecks.Port != 0 && to.port != "" {
		to.port = strconv.Itoa(p.options.HealthChecks.Port)
	}
	ctx, cancel := context.WithTimeout(ctx, p.options.HealthChecks.Timeout)
	defer cancel()
	conn, err := s.connect(ctx, to)
	if err != nil {
		return err
	}
	_ = conn.Close()
	return nil
}
