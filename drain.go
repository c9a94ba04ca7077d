package streamprox

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// streams holds all the streams of the process: they outlive the configuration that began
// them. A request that has left an HTTP server counts too, also while its upstream is
// dialled or it is answered here.
var streams relay.Registry

// defaultGracePeriod is how long streams may go on when the process exits, if the HTTP
// app does not say.
const defaultGracePeriod = 10 * time.Second

// whenStopping calls stop when the configuration of ctx is about to be stopped, which is
// before any of its apps is. Cleanup comes after that: at the end of the process the HTTP app
// has waited for its requests by then, and when configurations change for its shutdown_delay.
// The event is experimental, so Cleanup must do the same.
func whenStopping(ctx caddy.Context, stop func()) {
	modules := ctx.Modules()
	if len(modules) == 0 {
		return
	}
	if _, ok := modules[0].(caddy.App); !ok {
		return // there is no configuration
	}
	if events, err := ctx.App("events"); err == nil { // else Caddy reports it
		_ = events.(*caddyevents.App).On("stopping", stopping{stop})
	}
}

// stopping is told of the event.
type stopping struct{ stop func() }

// Handle implements caddyevents.Handler.
func (s stopping) Handle(context.Context, caddy.Event) error {
	s.stop()
	return nil
}

// drainedInVain says that a drain has left streams which it could not end. Another handler
// need not try again.
var drainedInVain atomic.Bool

// drainAtExit waits for the streams to end when the process exits, for as long as the
// HTTP app waits for its requests, and resets those left.
func drainAtExit(ctx caddy.Context, logger *zap.Logger) {
	if !caddy.Exiting() || streams.Len() == 0 || drainedInVain.Load() {
		return
	}
	grace := gracePeriod(ctx)
	logger.Info("waiting for streams to end", zap.Int("streams", streams.Len()), zap.Duration("grace_period", grace))
	patience, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if reset := streams.Drain(patience); reset > 0 {
		logger.Warn("streams were reset at shutdown", zap.Int("streams", reset))
	}
	if left := streams.Len(); left > 0 {
		drainedInVain.Store(true)
		logger.Warn("streams did not end at shutdown: what they read from goes on waiting after it was closed", zap.Int("streams", left))
	}
}

// gracePeriod returns the grace period of the HTTP app, or defaultGracePeriod.
func gracePeriod(ctx caddy.Context) time.Duration {
	module, err := ctx.AppIfConfigured("http")
	if err != nil {
		return defaultGracePeriod
	}
	if app, ok := module.(*caddyhttp.App); ok && app.GracePeriod > 0 {
		return time.Duration(app.GracePeriod)
	}
	return defaultGracePeriod
}

// Interface guards
var _ caddyevents.Handler = stopping{}
