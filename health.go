package streamprox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// The defaults of active health checks, which are those of caddy-l4's proxy.
const (
	defaultCheckInterval = 30 * time.Second
	defaultCheckTimeout  = 5 * time.Second
)

// peer is what is known of an upstream address, across configurations.
type peer struct {
	streams atomic.Int64
	fails   atomic.Int64 // failed dials that are not forgotten yet
	down    atomic.Bool  // as active checks say

	// closable holds the streams that end when the address goes down.
	closable relay.Registry

	mu       sync.Mutex
	checkers int // upstreams whose active checks run
	passed   int // checks passed in a row …
	failed   int // … and failed
}

// peers holds the peer of each address that a configuration names.
var peers = caddy.NewUsagePool()

// watch counts one more upstream whose active checks run.
func (p *peer) watch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checkers++
}

// unwatch ends what watch began. When nobody checks the address any more, it is as good
// as any: nobody would find out that it is up again.
func (p *peer) unwatch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checkers--; p.checkers == 0 {
		p.passed, p.failed = 0, 0
		p.down.Store(false)
	}
}

// record counts the result of an active check, and reports whether the address has
// gone up or down by it.
func (p *peer) record(passed bool, rise, fall int) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if passed {
		p.passed, p.failed = p.passed+1, 0
		return p.passed >= rise && p.down.CompareAndSwap(true, false)
	}
	p.passed, p.failed = 0, p.failed+1
	return p.failed >= fall && p.down.CompareAndSwap(false, true)
}

// fail counts a failed dial for that long.
func (p *peer) fail(duration time.Duration) {
	p.fails.Add(1)
	time.AfterFunc(duration, func() { p.fails.Add(-1) })
}

// healthChecks is how a relay notices that an upstream does not work.
type healthChecks struct {
	active         bool
	port           int // 0: that of the upstream
	interval       time.Duration
	timeout        time.Duration
	fall, rise     int
	closeStreams   bool // of an upstream that goes down
	failDuration   time.Duration
	maxFails       int // 0: failed dials do not matter
	maxConnections int // of upstreams without a limit of their own

	stop    context.CancelFunc // nil: nothing runs
	running sync.WaitGroup
}

// provisionHealthChecks checks the options of health_checks.
func (h *Relay) provisionHealthChecks() error {
	if h.HealthChecks == nil {
		return nil
	}
	if active := h.HealthChecks.Active; active != nil {
		switch {
		case active.Interval < 0, active.Timeout < 0:
			return errors.New("health_checks: interval and timeout cannot be less than 0")
		case active.Fall < 0, active.Rise < 0:
			return errors.New("health_checks: fall and rise cannot be less than 0")
		case active.Port < 0 || active.Port > 65535:
			return fmt.Errorf("health_checks: %d is not a port", active.Port)
		}
		h.checks.active = true
		h.checks.port = active.Port
		h.checks.interval = cmp.Or(time.Duration(active.Interval), defaultCheckInterval)
		h.checks.timeout = cmp.Or(time.Duration(active.Timeout), defaultCheckTimeout)
		h.checks.fall, h.checks.rise = max(active.Fall, 1), max(active.Rise, 1)
		h.checks.closeStreams = active.CloseIfUnhealthy
	}
	if passive := h.HealthChecks.Passive; passive != nil {
		if passive.FailDuration < 0 || passive.MaxFails < 0 || passive.UnhealthyConnectionCount < 0 {
			return errors.New("health_checks: fail_duration, max_fails and unhealthy_connection_count cannot be less than 0")
		}
		h.checks.failDuration = time.Duration(passive.FailDuration)
		h.checks.maxFails = passive.MaxFails
		if h.checks.failDuration > 0 {
			h.checks.maxFails = max(h.checks.maxFails, 1)
		}
		h.checks.maxConnections = passive.UnhealthyConnectionCount
	}
	return nil
}

// startChecks begins the active checks of the upstreams. Where an upstream is may
// depend on the connection; then there is nothing to check.
func (h *Relay) startChecks() {
	if !h.checks.active {
		return
	}
	var ctx context.Context
	ctx, h.checks.stop = context.WithCancel(h.ctx)
	for _, u := range h.upstreams {
		if u.dynamic {
			continue
		}
		u.peer.watch()
		h.checks.running.Go(func() { h.check(ctx, u) })
	}
}

// stopChecks ends what startChecks began, and waits for it.
func (h *Relay) stopChecks() {
	if h.checks.stop == nil {
		return
	}
	h.checks.stop()
	h.checks.running.Wait()
}

// check is the goroutine of the active checks of an upstream. It ends with ctx.
func (h *Relay) check(ctx context.Context, u *upstream) {
	defer u.peer.unwatch()
	ticker := time.NewTicker(h.checks.interval)
	defer ticker.Stop()
	for {
		h.checkOnce(ctx, u)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// checkOnce connects to the upstream, without TLS, and closes the connection.
func (h *Relay) checkOnce(ctx context.Context, u *upstream) {
	to := u.fixed
	if h.checks.port != 0 && to.port != "" {
		to.port = strconv.Itoa(h.checks.port)
	}
	dialCtx, cancel := context.WithTimeout(ctx, h.checks.timeout)
	conn, err := u.connect(dialCtx, to)
	cancel()
	if conn != nil {
		_ = conn.Close()
	}
	if ctx.Err() != nil || errors.Is(err, descriptors.ErrScarce) {
		return // it says nothing of the upstream
	}
	if err != nil {
		h.logger.Debug("health check failed", zap.String("upstream", u.address), zap.Error(err))
	}
	switch changed := u.peer.record(err == nil, h.checks.rise, h.checks.fall); {
	case !changed:
	case err == nil:
		h.logger.Info("upstream is up", zap.String("upstream", u.address))
	default:
		killed := u.peer.closable.Kill()
		h.logger.Warn("upstream is down", zap.String("upstream", u.address), zap.Int("closed", killed), zap.Error(err))
	}
}
